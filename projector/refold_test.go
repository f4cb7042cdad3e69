package projector

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/projector/index"
)

// scratch opens an empty index in memory.
func scratch(t testing.TB) *index.Index {
	t.Helper()
	x, err := index.Open(index.Options{Dir: t.TempDir(), Logger: quiet, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

// entriesOf reads every entry of the store.
func entriesOf(t testing.TB, x *index.Index, store ledger.ID) []*ledger.Entry {
	t.Helper()
	v, err := x.View(store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var entries []*ledger.Entry
	if v.Revision() == 0 {
		return nil
	}
	for e, err := range v.Entries(1) {
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// refoldAll folds the entries into an empty index.
func refoldAll(t testing.TB, store ledger.ID, entries []*ledger.Entry) (*index.Index, error) {
	t.Helper()
	x := scratch(t)
	f := NewRefolder(x, store)
	defer f.Close()
	for i, e := range entries {
		if _, err := f.Entry(e); err != nil {
			return x, err
		}
		if i%37 == 0 {
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return x, f.Commit()
}

// newestModel returns the id of the store's newest model.
func newestModel(t testing.TB, x *index.Index, store ledger.ID) ledger.ID {
	t.Helper()
	v, err := x.View(store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	return v.NewestModel()
}

// busy makes a log that has a bit of everything in two stores, of which it deletes one.
func busy(t testing.TB, r *replica, rounds int) (kept, deleted ledger.ID) {
	t.Helper()
	kept, deleted = r.newStore(), r.newStore()
	rnd := rand.New(rand.NewPCG(7, 7))
	var sent []*ledger.Command
	for i := range rounds {
		if i == rounds/2 { // what comes later knows assertions
			if err := r.Activate(patience(t), 2, "ops", "to assert", ""); err != nil {
				t.Fatal(err)
			}
		}
		if i >= rounds/2 && i%4 == 0 {
			r.submit(&ledger.Command{Store: kept, Changes: []ledger.Change{{Kind: ledger.WriteAssertions,
				Model: ledger.ModelSource{ID: newestModel(t, r.Index(), kept)}, Assertions: []byte([]string{"", "a", "a", "b"}[rnd.IntN(4)])}}})
		}
		store := []ledger.ID{kept, kept, deleted, ledger.NewID()}[rnd.IntN(4)]
		c := &ledger.Command{ID: ledger.NewUUID(), Store: store, Ticket: "T-1"}
		for i := range 1 + rnd.IntN(3) {
			ch := ledger.Change{Kind: ledger.Grant, Tuple: viewer(t, fmt.Sprintf("d%d", i), fmt.Sprintf("u%d", rnd.IntN(5)))}
			switch rnd.IntN(4) {
			case 0:
				ch.Kind = ledger.Revoke
			case 1:
				ch.ExpiresAfter = int64(1 + rnd.IntN(1e6))
			}
			c.Changes = append(c.Changes, ch)
		}
		switch rnd.IntN(6) {
		case 0:
			c.Preconditions = []ledger.Precondition{{Tuple: viewer(t, "d0", "u0"), MustExist: true}}
		case 1:
			c.Changes[0].Tuple.Object.Type = "no-such-type"
		}
		if len(sent) > 0 && rnd.IntN(5) == 0 {
			again := *sent[rnd.IntN(len(sent))]
			if c = &again; rnd.IntN(2) == 0 {
				c.Ticket = "T-2"
			}
		}
		sent = append(sent, c)
		r.submit(c)
	}
	for _, m := range []struct{ subject, data string }{
		{"grantlog.main.edge.edge", ""}, {"grantlog.main.edge.edge", "\x07"}, {"grantlog.main.edge.edge", "\x01\x05"},
		{"grantlog.main.cmd.ci", "{}"}, {"grantlog.main.elsewhere", "x"}, {"grantlog.ma\xffin.edge.edge", "x"}, {"grantlog.ma\xffin.edge.edge", "\x01\x00"},
		{"grantlog.main." + strings.Repeat("x", 300), "x"},
	} {
		r.broker.Put(m.subject, []byte(m.data))
	}
	r.submit(&ledger.Command{Changes: []ledger.Change{{Kind: ledger.DeleteStore, Store: deleted}}})
	r.submit(&ledger.Command{Store: deleted, Changes: []ledger.Change{{Kind: ledger.Revoke, Tuple: viewer(t, "a", "ann")}}})
	return kept, deleted
}

// Each store's entries decide the same again by themselves: the same leaves, and the same
// state.
func TestRefolder(t *testing.T) {
	r := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, deleted := busy(t, r, 300)
	for _, store := range []ledger.ID{kept, deleted, ledger.System} {
		entries := entriesOf(t, r.Index(), store)
		x, err := refoldAll(t, store, entries)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := x.Head(store)
		want, _ := r.Index().Head(store)
		if got.Leaf != want.Leaf || got.Revision != want.Revision || got.Status != want.Status || got.Time != want.Time || got.Name != want.Name {
			t.Errorf("store %s refolds to %+v, want %+v", store, got, want)
		}
	}
}

// The fold version of an entry of system is the one that its entries have put in force.
func TestRefolderHoldsVersions(t *testing.T) {
	r := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	r.newStore()
	if err := r.Activate(patience(t), 2, "ops", "", ""); err != nil {
		t.Fatal(err)
	}
	r.newStore()
	entries := entriesOf(t, r.Index(), ledger.System)
	if x, err := refoldAll(t, ledger.System, entries); err != nil || x.Position().Fold != 2 {
		t.Fatalf("refolded: %v, fold version %d", err, x.Position().Fold)
	}
	for at, version := range []uint64{2, 2, 1} { // of a store, of the activation, of a store
		c := *entries[at]
		c.FoldVersion = version
		f := NewRefolder(scratch(t), ledger.System)
		var err error
		for _, e := range entries[:at] {
			if _, err = f.Entry(e); err != nil {
				t.Fatal(err)
			}
		}
		var differs *RefoldError
		if _, err = f.Entry(&c); !errors.As(err, &differs) || !strings.Contains(differs.Reason, "is in force") {
			t.Errorf("entry %d under fold version %d: %v", at+1, version, err)
		}
		f.Close()
	}
}

// What was tampered with is found at its entry, even where every hash after it was made
// anew.
func TestRefolderFindsTampering(t *testing.T) {
	r := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, _ := busy(t, r, 60)
	other := r.newStore()
	entries := entriesOf(t, r.Index(), kept)
	applied := ledger.Revision(0)
	for _, e := range entries[2:] {
		if e.Outcome.Kind == ledger.Applied && e.Outcome.Effective > 0 {
			applied = e.Revision
			break
		}
	}
	for _, tt := range []struct {
		name   string
		at     ledger.Revision // where it is found
		change func(e *ledger.Entry)
		reason string
	}{
		{"an outcome turned round", applied, func(e *ledger.Entry) {
			e.Outcome = ledger.Outcome{Kind: ledger.Rejected, Rejection: ledger.Reject(ledger.CodeInvalid, "f", "m")}
		}, "its outcome was recorded as rejected (invalid: f: m); decided again it is applied"},
		{"one effect less", applied, func(e *ledger.Entry) { e.Outcome.Effective-- }, "decided again it is applied"},
		{"another store", 4, func(e *ledger.Entry) { e.Store = other }, "of another store"},
		{"a revision left out", 4, func(e *ledger.Entry) { e.Revision++ }, "comes after revision 3"},
		{"a time that runs back", 4, func(e *ledger.Entry) { e.Time = 1 }, "its time is before"},
		{"an actor that is none", 4, func(e *ledger.Entry) { e.Origin.Actor = "a\x00b" }, "its origin"},
		{"a principal's word for another", 4, func(e *ledger.Entry) { e.Origin.Attester = "grantlog.main.cmd.ci" }, "its origin"},
		{"a message that was no envelope", 4, func(e *ledger.Entry) { e.Origin.Actor = "" }, "not one of this store"},
		{"a newer fold version", 4, func(e *ledger.Entry) { e.FoldVersion = 99 }, "a newer one may"},
		{"no fold version", 4, func(e *ledger.Entry) { e.FoldVersion = 0 }, "fold version 0"},
		{"bytes that are no command", 4, func(e *ledger.Entry) { e.Raw = []byte("x") }, "not one of this store"},
		{"another link", 4, func(e *ledger.Entry) { e.Prev[0] ^= 1 }, "follows another entry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := NewRefolder(scratch(t), kept)
			defer f.Close()
			var prev ledger.Hash
			for _, e := range entries {
				c := *e
				c.Prev = prev
				if c.Revision == tt.at {
					tt.change(&c)
				}
				leaf, err := f.Entry(&c)
				if e.Revision < tt.at {
					if err != nil {
						t.Fatal(err)
					}
					prev = leaf
					continue
				}
				var differs *RefoldError
				if !errors.As(err, &differs) || !strings.Contains(differs.Reason, tt.reason) {
					t.Fatalf("revision %d: %v, want %q", e.Revision, err, tt.reason)
				}
				return
			}
		})
	}
}
