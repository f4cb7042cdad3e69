package audit

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"golang.org/x/mod/sumdb/tlog"
)

var allBits = flag.Bool("all-bits", false, "flip every bit of an export of 1,000 entries, and not only of one of 100 (takes minutes)")

// forge returns a bundle of the entries after a change of the one at index i, and its
// revision, as the owner of the key could make it: with all links, the root, the proof
// and the signature made anew.
func forge(tb testing.TB, key seal.PrivateKey, all []*ledger.Entry, i int, change func(e *ledger.Entry)) ([]byte, ledger.Revision) {
	tb.Helper()
	h := Header{all[0].Store, all[0].Revision, all[len(all)-1].Revision}
	var hashes past
	var body []byte
	prev := all[0].Prev
	for at, e := range all {
		e := *e
		if at == i {
			change(&e)
		}
		e.Prev = prev
		prev = seal.LeafHash(ledger.AppendEntry(nil, &e))
		more, err := seal.Hashes(ledger.Revision(at+1), prev, hashes)
		if err != nil {
			tb.Fatal(err)
		}
		for _, h := range more {
			hashes = append(hashes, tlog.Hash(h))
		}
		body = AppendEntry(body, &e)
	}
	size := ledger.Revision(len(all))
	root, err := seal.Root(size, hashes)
	if err != nil {
		tb.Fatal(err)
	}
	note, err := key.Sign(h.Store, size, root)
	if err != nil {
		tb.Fatal(err)
	}
	proof, err := seal.ProveInclusion(size, size, hashes)
	if err != nil {
		tb.Fatal(err)
	}
	return AppendTrailer(append(AppendHeader(nil, h), body...), Trailer{note, key.Key.String(), proof}), all[i].Revision
}

// TestEveryBit flips every single bit of an export of 100 entries in turn; each flip is
// found. So in bundles of a range and of a beginning, where other checks find them. With
// -all-bits, of 1,000 entries too.
func TestEveryBit(t *testing.T) {
	type export struct {
		name              string
		first, last, size ledger.Revision
	}
	// What a verification leaves is little and many: collecting it rarely saves a third.
	defer debug.SetGCPercent(debug.SetGCPercent(2000))
	exports := []export{{"100", 1, 100, 100}, {"range", 40, 48, 100}, {"beginning", 1, 9, 100}}
	if *allBits {
		exports = append(exports, export{"1000", 1, 1000, 1000})
	} else {
		t.Log("an export of 1,000 entries is flipped with -args -all-bits, or: task flip")
	}
	for _, tt := range exports {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.size)
			key := testKey(t, "auditors.example.com/main")
			bundle := w.export(key, acme, tt.first, tt.last, tt.size)
			if _, err := verify(bundle, Options{Scratch: scratch(t)}); err != nil {
				t.Fatalf("the bundle as it is: %v", err)
			}
			dir := scratch(t)
			var next, folded atomic.Int64
			var running sync.WaitGroup
			for range runtime.GOMAXPROCS(0) {
				running.Go(func() { // ends when there are no more bits, or one was not found
					flipped := bytes.Clone(bundle)
					for !t.Failed() {
						bit := int(next.Add(1) - 1)
						if bit >= 8*len(bundle) {
							return
						}
						if bit%200_000 == 199_999 {
							t.Logf("%d of %d bits", bit+1, 8*len(bundle))
						}
						flipped[bit/8] ^= 1 << (bit % 8)
						_, err := verify(flipped, Options{Scratch: dir, Progress: func(uint64, uint64) error {
							folded.Add(1) // the one piece was handed on, so nothing was wrong with it
							return nil
						}})
						var fault *BundleError
						if !errors.As(err, &fault) {
							t.Errorf("bit %d of byte %d of %d: Verify says %v", bit%8, bit/8, len(bundle), err)
						}
						flipped[bit/8] ^= 1 << (bit % 8)
					}
				})
			}
			running.Wait()
			t.Logf("%d bits flipped of %d entries in %d bytes", 8*len(bundle), tt.last-tt.first+1, len(bundle))
			if folded.Load() > 0 {
				t.Errorf("%d flips were found by the fold alone", folded.Load())
			}
		})
	}
}

// TestTampered: whoever changes a bundle without the key is found, at the entry.
func TestTampered(t *testing.T) {
	w := newWorld(t, 100)
	key := testKey(t, "auditors.example.com/main")
	bundle := w.export(key, acme, 1, 100, 100)
	all, trailer := entries(t, bundle)
	h := Header{acme, 1, 100}
	build := func(h Header, all []*ledger.Entry, trailer Trailer) []byte {
		b := AppendHeader(nil, h)
		for _, e := range all {
			b = AppendEntry(b, e)
		}
		return AppendTrailer(b, trailer)
	}
	if !bytes.Equal(build(h, all, trailer), bundle) {
		t.Fatal("a bundle that is taken apart and put together again is another")
	}
	found := func(t *testing.T, bundle []byte, at ledger.Revision, text string) {
		t.Helper()
		_, err := verify(bundle, Options{Scratch: scratch(t)})
		var fault *BundleError
		if !errors.As(err, &fault) {
			t.Fatalf("Verify = %v, want a BundleError", err)
		}
		if fault.Revision != at || !strings.Contains(err.Error(), text) {
			t.Fatalf("Verify = %v (at %d), want %q at entry %d", err, fault.Revision, text, at)
		}
	}
	t.Run("dropped", func(t *testing.T) {
		for i := range all {
			rest := slices.Delete(slices.Clone(all), i, i+1)
			at := all[i].Revision
			if i == len(all)-1 { // what comes then is no entry
				found(t, build(h, rest, trailer), at, "")
				continue
			}
			found(t, build(h, rest, trailer), at, fmt.Sprintf("revision %d stands in its place", at+1))
			if i > 0 { // and numbered anew
				h, rest := h, slices.Clone(rest)
				h.Last--
				for j := i; j < len(rest); j++ {
					e := *rest[j]
					e.Revision--
					rest[j] = &e
				}
				found(t, build(h, rest, trailer), at, "one of the two is not as it was recorded")
			}
		}
	})
	t.Run("swapped", func(t *testing.T) {
		for i := range all[1:] {
			swapped := slices.Clone(all)
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			found(t, build(h, swapped, trailer), all[i].Revision, "stands in its place")
			one, two := *swapped[i], *swapped[i+1]
			one.Revision, two.Revision = two.Revision, one.Revision
			swapped[i], swapped[i+1] = &one, &two
			at := all[i].Revision
			text := "one of the two is not as it was recorded"
			if i == 0 {
				text = "it is the first"
			}
			found(t, build(h, swapped, trailer), at, text)
		}
	})
	t.Run("inserted", func(t *testing.T) {
		for i := range all {
			more := slices.Insert(slices.Clone(all), i, all[i])
			h := h
			h.Last++
			found(t, build(h, more, trailer), all[i].Revision+1, "stands in its place")
		}
	})
	t.Run("cut off", func(t *testing.T) {
		for n := range bundle {
			_, err := verify(bundle[:n], Options{})
			var fault *BundleError
			if !errors.As(err, &fault) || !strings.Contains(err.Error(), "cut off") {
				t.Fatalf("the first %d of %d bytes: %v", n, len(bundle), err)
			}
		}
	})
	t.Run("ends earlier", func(t *testing.T) {
		for n := 1; n < len(all); n++ {
			found(t, build(Header{acme, 1, ledger.Revision(n)}, all[:n], trailer), ledger.Revision(n), "")
		}
	})
	// Whoever cuts a bundle at an end, and makes the proof anew from its own leaves, needs
	// no key for it. What is left is just the bundle of a part, and is refused as such.
	t.Run("cut at an end, with its proof", func(t *testing.T) {
		for _, tt := range []struct {
			first, last ledger.Revision
			text        string
		}{
			{1, 99, "it does not have entry 100 of the 100 that were signed"},
			{1, 50, "it does not have entries 51 to 100 of the 100"},
			{2, 100, "it does not have entry 1 of the 100"},
			{40, 60, "it does not have entries 1 to 39, nor entries 61 to 100 of the 100"},
		} {
			part := w.export(key, acme, tt.first, tt.last, 100)
			_, err := Verify(t.Context(), bytes.NewReader(part), Options{Key: key.Key, Scratch: scratch(t)})
			if !errors.As(err, new(*BundleError)) || !errors.Is(err, ErrPart) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("entries %d to %d of 100: %v, want %q", tt.first, tt.last, err, tt.text)
			}
			// The control: as a part it verifies.
			if r, err := Verify(t.Context(), bytes.NewReader(part), Options{Key: key.Key, Scratch: scratch(t), Part: true}); err != nil || len(r.Missing()) == 0 {
				t.Errorf("entries %d to %d of 100, as a part: %q, %v", tt.first, tt.last, r.Missing(), err)
			}
		}
		if r, err := Verify(t.Context(), bytes.NewReader(bundle), Options{Key: key.Key, Scratch: scratch(t)}); err != nil || len(r.Missing()) > 0 {
			t.Errorf("the whole bundle: %q, %v", r.Missing(), err)
		}
	})
	t.Run("begins later", func(t *testing.T) {
		// As a part, that is no fault of its own, and it says so.
		r, err := verify(build(Header{acme, 2, 100}, all[1:], trailer), Options{Key: key.Key, Scratch: scratch(t)})
		if err != nil || r.Folded || r.First != 2 {
			t.Fatalf("Verify = %+v, %v", r, err)
		}
	})
	t.Run("something after", func(t *testing.T) {
		found(t, append(bytes.Clone(bundle), 0), 0, "bytes follow the end")
	})
	t.Run("of another store", func(t *testing.T) {
		found(t, build(Header{other, 1, 100}, all, trailer), 1, "it is of store "+acme.String())
		all, _ := entries(t, w.export(key, other, 1, 2, 2))
		found(t, build(Header{other, 1, 2}, all, trailer), 0, "the checkpoint is of auditors.example.com/main/"+acme.String())
	})
	t.Run("of a newer format", func(t *testing.T) {
		newer := bytes.Clone(bundle)
		newer[len(magic)] = 2
		found(t, newer, 0, "a newer program reads it")
	})
	t.Run("of something else", func(t *testing.T) {
		found(t, []byte("PK\x03\x04 and what follows in an archive"), 0, "this is no bundle")
		found(t, nil, 0, "cut off")
	})
	t.Run("under a checkpoint of less", func(t *testing.T) {
		less := trailer
		less.Note = w.checkpoint(key, acme, 99)
		found(t, build(h, all, less), 0, "its checkpoint is of 99 entries")
	})
	t.Run("under another tree", func(t *testing.T) {
		forged, _ := forge(t, key, all, 50, func(e *ledger.Entry) { e.Origin.Actor = "eve" })
		_, other := entries(t, forged)
		found(t, build(h, all, other), 100, "was signed")
	})
	t.Run("signed by another key", func(t *testing.T) {
		eve := testKey(t, "eve.example.com")
		for _, other := range []seal.PrivateKey{eve, renamed(t, key.Name())} {
			bundle := w.export(other, acme, 1, 100, 100)
			if r, err := verify(bundle, Options{Scratch: scratch(t)}); err != nil || r.Pinned {
				t.Fatalf("without a pinned key: %+v, %v", r, err)
			}
			_, err := verify(bundle, Options{Key: key.Key, Scratch: scratch(t)})
			if !errors.As(err, new(*BundleError)) || !strings.Contains(err.Error(), "should be signed by "+key.Key.String()) {
				t.Fatalf("Verify = %v", err)
			}
		}
		// The key beside a note that it did not sign.
		swapped := trailer
		swapped.Key = eve.Key.String()
		found(t, build(h, all, swapped), 0, "its checkpoint")
	})
}

// renamed returns another key of the same name.
func renamed(tb testing.TB, name string) seal.PrivateKey {
	tb.Helper()
	key, err := seal.GenerateKey(bytes.NewReader(bytes.Repeat([]byte("other"), 32)), name)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// TestForged: what the owner of the key alters, with every hash, the root and the
// signature made anew, folding again finds, and nothing else does.
func TestForged(t *testing.T) {
	w := newWorld(t, 100)
	key := testKey(t, "auditors.example.com/main")
	all, _ := entries(t, w.export(key, acme, 1, 100, 100))
	changes := map[ledger.OutcomeKind][]func(e *ledger.Entry){
		ledger.Applied: {
			func(e *ledger.Entry) { e.Outcome.Effective++ },
			func(e *ledger.Entry) {
				e.Outcome = ledger.Outcome{Kind: ledger.Rejected, Rejection: ledger.Reject(ledger.CodeDenied, "", "no")}
			},
			func(e *ledger.Entry) { e.Outcome = ledger.Outcome{Kind: ledger.Duplicate, First: 1} },
		},
		ledger.Rejected: {
			func(e *ledger.Entry) { e.Outcome = ledger.Outcome{Kind: ledger.Applied, Effective: 1} },
			func(e *ledger.Entry) {
				r := *e.Outcome.Rejection
				r.Message += "."
				e.Outcome.Rejection = &r
			},
		},
		ledger.Duplicate: {
			func(e *ledger.Entry) { e.Outcome.First++ },
			func(e *ledger.Entry) { e.Outcome = ledger.Outcome{Kind: ledger.Applied} },
		},
	}
	tried := 0
	for i, e := range all {
		for _, change := range changes[e.Outcome.Kind] {
			if tried++; i > 10 && tried%7 != 0 { // of the later ones, some
				continue
			}
			forged, at := forge(t, key, all, i, change)
			_, err := verify(forged, Options{Key: key.Key, Scratch: scratch(t)})
			var fault *BundleError
			if !errors.As(err, &fault) || fault.Revision != at {
				t.Fatalf("the outcome of entry %d altered: %v", at, err)
			}
			// The control: nothing but the fold knows.
			if r, err := verify(forged, Options{Key: key.Key}); err != nil || r.Folded {
				t.Fatalf("the outcome of entry %d altered, without the fold: %+v, %v", at, r, err)
			}
		}
	}
	// A time that runs backwards is found without it.
	forged, _ := forge(t, key, all, 50, func(e *ledger.Entry) { e.Time = start - 1 })
	if _, err := verify(forged, Options{}); err == nil || !strings.Contains(err.Error(), "entry 51: its time") {
		t.Errorf("a time before the one before: %v", err)
	}
	forged, _ = forge(t, key, all, 50, func(e *ledger.Entry) { e.FoldVersion = 1000 })
	if _, err := verify(forged, Options{Scratch: scratch(t)}); err == nil || !strings.Contains(err.Error(), "entry 51: it was decided under fold version 1000") {
		t.Errorf("an unknown fold version: %v", err)
	}
}

// TestSince: the older checkpoint is one of the bundle's beginning, or that is told.
func TestSince(t *testing.T) {
	w := newWorld(t, 100)
	key := testKey(t, "auditors.example.com/main")
	bundle := w.export(key, acme, 1, 90, 95)
	for _, size := range []ledger.Revision{1, 2, 63, 64, 65, 90} {
		r, err := verify(bundle, Options{Key: key.Key, Since: w.checkpoint(key, acme, size), Scratch: scratch(t)})
		if err != nil || r.Since == nil || r.Since.Size != size {
			t.Errorf("since %d: %+v, %v", size, r.Since, err)
		}
	}
	all, _ := entries(t, bundle)
	forged, _ := forge(t, key, all, 20, func(e *ledger.Entry) { e.Origin.Actor = "eve" }) // the fold does not mind
	root := ledger.Hash{1}
	root[31] = byte(bits.Reverse8(1))
	wrong, err := key.Sign(acme, 64, root)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		bundle []byte
		since  []byte
		text   string
	}{
		{"another past", forged, w.checkpoint(key, acme, 64), "its first 64 entries are not those"},
		{"a root that never was", bundle, wrong, "its first 64 entries are not those"},
		{"newer than the bundle", bundle, w.checkpoint(key, acme, 91), "the older checkpoint is of 91 entries, the bundle ends at revision 90"},
		{"another key's", bundle, w.checkpoint(renamed(t, key.Name()), acme, 64), "the older checkpoint"},
		{"another store's", bundle, w.checkpoint(key, ledger.System, 2), "the older checkpoint is of store system, the bundle is of store " + acme.String()},
		{"another store's, and larger", w.export(key, other, 1, 1, 2), w.checkpoint(key, acme, 64), "the older checkpoint is of store " + acme.String()},
		{"a bundle of a range", w.export(key, acme, 2, 90, 95), w.checkpoint(key, acme, 64), "begins at revision 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := verify(tt.bundle, Options{Since: tt.since, Scratch: scratch(t)})
			if !errors.As(err, new(*BundleError)) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Verify = %v, want %q", err, tt.text)
			}
		})
	}
	// The control: before the last one is forged for good, it verifies without Since.
	if _, err := verify(forged, Options{Key: key.Key, Scratch: scratch(t)}); err != nil {
		t.Errorf("without the older checkpoint: %v", err)
	}
	if _, err := verify(bundle, Options{Since: []byte("hello")}); err == nil || errors.As(err, new(*BundleError)) {
		t.Errorf("what is no checkpoint: %v", err)
	}
}
