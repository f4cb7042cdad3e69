package audit

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
)

// FuzzVerify: no bytes make Verify panic or take more memory than they are worth, and
// what verifies is the one encoding of what it says.
func FuzzVerify(f *testing.F) {
	w := newWorld(f, 12)
	key := testKey(f, "a.example.com")
	for _, bundle := range [][]byte{w.export(key, acme, 1, 12, 12), w.export(key, acme, 3, 9, 12), w.export(key, acme, 1, 1, 12)} {
		f.Add(bundle)
		f.Add(bundle[:len(bundle)/2])
		long := bytes.Clone(bundle[:len(magic)+19]) // an entry that says it is long
		f.Add(append(long, 0xff, 0xff, 0xff, 0x02, 1))
		f.Add(append(long, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := verify(b, Options{})
		if err != nil {
			if !errors.As(err, new(*BundleError)) {
				t.Fatalf("Verify = %v, which is no BundleError", err)
			}
			return
		}
		all, trailer := entries(t, b)
		again := AppendHeader(nil, r.Header)
		for _, e := range all {
			again = AppendEntry(again, e)
		}
		if again = AppendTrailer(again, trailer); !bytes.Equal(again, b) {
			t.Fatalf("a bundle of %d bytes has another encoding of %d", len(b), len(again))
		}
	})
}

// FuzzForged: whoever has a key can sign a bundle with any bytes for a command. It never
// makes the fold panic, and what the fold of a log would have recorded of it verifies.
func FuzzForged(f *testing.F) {
	w := newWorld(f, 40)
	key := testKey(f, "a.example.com")
	all, _ := entries(f, w.export(key, acme, 1, 40, 40))
	for _, e := range all {
		f.Add(e.Raw, e.Origin.Actor, byte(e.Origin.Method), e.Time-start)
	}
	f.Add([]byte(`{"id":"0198f3f0-0000-7000-8000-000000000001","store":"00G40R40M30E209185GR38E1W8","changes":[]}`), "ann", byte(1), int64(0))
	f.Add([]byte{}, "", byte(0), int64(-start))
	f.Fuzz(func(t *testing.T, raw []byte, actor string, method byte, after int64) {
		m := decide.NewMemory()
		fold := func(o ledger.Origin, raw []byte, time int64) {
			kind, _ := ledger.ParseSubject(o.Attester)
			if _, err := m.Fold(decide.Input{Kind: kind, Origin: o, Raw: raw, Time: time, Version: 1}); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range all[:3] { // the store and its model
			fold(e.Origin, e.Raw, e.Time)
		}
		before := len(m.Entries(acme))
		o := ledger.Origin{Actor: actor, Attester: "grantlog.main.edge.a", Method: ledger.Method(method)}
		if after > 0 && o.Check() == nil && utf8.ValidString(actor) {
			fold(o, raw, start+after)
		}
		recorded := slices.Clone(m.Entries(acme))
		legit := len(recorded) > before
		if !legit { // no log would have it there
			recorded = append(recorded, ledger.Entry{Store: acme, Revision: ledger.Revision(before) + 1, Time: start + 1<<40, Origin: o, FoldVersion: 1, Raw: raw,
				Outcome: ledger.Outcome{Kind: ledger.Applied, Effective: 1}})
		}
		var list []*ledger.Entry
		for i := range recorded {
			list = append(list, &recorded[i])
		}
		bundle, _ := forge(t, key, list, 0, func(*ledger.Entry) {})
		r, err := verify(bundle, Options{Key: key.Key, Scratch: scratch(t)})
		if legit && (err != nil || !r.Folded) {
			t.Fatalf("what the fold recorded: %v", err)
		}
		if err != nil && !errors.As(err, new(*BundleError)) {
			t.Fatalf("Verify = %v, which is no BundleError", err)
		}
	})
}
