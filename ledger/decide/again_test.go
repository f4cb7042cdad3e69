package decide

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
)

// TestRestoreRandom restores stores of random worlds piece by piece, between random
// commands: they come to be what they were, and everything folds alone as before.
func TestRestoreRandom(t *testing.T) {
	givenUp, refused := 0, 0
	for seed := range uint64(12) {
		from, _ := randomWorld(t, seed, 150)
		w := &world{t: t, state: NewMemory(), time: start, version: ledger.FoldVersion}
		r := &random{Rand: rand.New(rand.NewPCG(seed, 7)), w: w}
		unread := map[ledger.Revision]*ledger.Rejection{}
		fold := func(in Input) Record {
			records := w.fold(in)
			if records[0].Store == ledger.System {
				unread[w.revision(ledger.System)] = in.Malformed
			}
			w.version = w.state.Version()
			return records[0]
		}
		system := func(o ledger.Origin, ch ledger.Change) {
			if r := fold(w.input(o, w.command(ledger.System, ch))); r.Outcome.Kind != ledger.Applied {
				t.Fatalf("seed %d: %+v: %s", seed, ch, &r.Outcome)
			}
		}
		system(activate, ledger.Change{Kind: ledger.Activate, Version: 2})
		open := []ledger.ID{acme, other, gone}
		for _, id := range open {
			system(edge, begin(id))
		}
		for len(open) > 0 {
			if r.IntN(2) == 0 {
				fold(r.input())
				continue
			}
			at := r.IntN(len(open))
			id := open[at]
			record := from.state.Entries(id)
			has := int(w.revision(id))
			if r.IntN(40) == 0 {
				fold(w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: id})))
			}
			if w.state.stores[id].status == GivenUp { // by that, or by a random command
				givenUp++
				open = append(open[:at], open[at+1:]...)
				continue
			}
			first := max(0, has-r.IntN(3))
			last := min(len(record), has+r.IntN(12))
			in := &ledger.Restored{Store: id}
			for _, e := range record[first:last] {
				in.Entries = append(in.Entries, ledger.AppendEntry(nil, &e))
			}
			want := last - has
			if n := len(in.Entries); n > 0 && r.IntN(4) == 0 { // spoilt somewhere
				k := r.IntN(n)
				e := record[first+k]
				if r.IntN(2) == 0 {
					e.Prev[r.IntN(32)] ^= 1
				} else {
					e.Outcome = ledger.Outcome{Kind: ledger.Applied, Effective: e.Outcome.Effective + 1}
				}
				in.Entries[k] = ledger.AppendEntry(nil, &e)
				want = max(0, first+k-has)
				refused++
			}
			taken, err := w.state.Restore(in)
			if err != nil || len(taken) != want {
				t.Fatalf("seed %d: store %s took %d entries, want %d: %v", seed, id, len(taken), want, err)
			}
			if w.revision(id) == ledger.Revision(len(record)) && reflect.DeepEqual(w.state.Entries(id), record) {
				system(edge, end(id, from.state.stores[id].status == Deleted))
				open = append(open[:at], open[at+1:]...)
			}
		}
		for range 100 {
			fold(r.input())
		}
		for _, id := range w.state.Stores() {
			if record := from.state.Entries(id); id[15] <= 3 && id != ledger.System && w.state.stores[id].status != GivenUp {
				if got := w.state.Entries(id); len(got) < len(record) || !reflect.DeepEqual(got[:len(record)], record) {
					t.Fatalf("seed %d: store %s was restored otherwise than it was", seed, id)
				}
			}
			why := unread
			if id != ledger.System {
				why = nil
			}
			if at, alone := refold(t, id, w.state.Entries(id), why); at != 0 {
				t.Fatalf("seed %d: store %s decides revision %d otherwise alone", seed, id, at)
			} else if s := w.state.stores[id].status; id != ledger.System && s != GivenUp && alone.stores[id].status != s {
				t.Fatalf("seed %d: store %s is %s alone, and %s", seed, id, alone.stores[id].status, s)
			}
		}
	}
	if givenUp == 0 || refused < 20 {
		t.Errorf("%d stores were given up, %d pieces refused: too few to mean something", givenUp, refused)
	}
}

// TestAgain: an entry is decided again from its own store alone, whatever else there is.
func TestAgain(t *testing.T) {
	from := newWorld(t)
	from.apply(acme, from.grant("doc:a#viewer@user:ann"))
	record := from.state.Entries(acme)

	// In the other world the clock of system is ahead, and the id of the creation is taken.
	w := &world{t: t, state: NewMemory(), time: start + 1000*second, version: ledger.FoldVersion}
	w.apply(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: other, Name: "n", Admin: "root"})
	w.activate2()
	if _, err := Again(w.state, acme, Place{}, &record[0]); err != nil {
		t.Error(err)
	}

	for _, tt := range []struct {
		name   string
		at     Place
		change func(*ledger.Entry)
		reason string
	}{
		{"after a deletion", Place{Revision: 1, Leaf: record[1].Prev, Deleted: true}, func(*ledger.Entry) {}, "not one of this store"},
		{"no origin", Place{Revision: 1, Leaf: record[1].Prev}, func(e *ledger.Entry) { e.Origin = ledger.Origin{} }, "origin"},
		{"under a subject that carries none", Place{Revision: 1, Leaf: record[1].Prev}, func(e *ledger.Entry) { e.Origin.Attester = "elsewhere" }, "origin"},
		{"a method that is none", Place{Revision: 1, Leaf: record[1].Prev}, func(e *ledger.Entry) { e.Origin.Method = 77 }, "origin"},
		{"a principal by another name", Place{Revision: 1, Leaf: record[1].Prev}, func(e *ledger.Entry) {
			e.Origin = ledger.Origin{Actor: "ann", Attester: "grantlog.main.cmd.ci", Method: ledger.MethodNATS}
		}, "origin"},
		{"an actor that would break a key", Place{Revision: 1, Leaf: record[1].Prev}, func(e *ledger.Entry) { e.Origin.Actor = "a\x00" }, "origin"},
		{"a later time than its command had", Place{Revision: 1, Leaf: record[1].Prev, Time: record[1].Time + 1}, func(*ledger.Entry) {}, "time is before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := record[1]
			tt.change(&e)
			var differs *RefoldError
			if _, err := Again(w.state, acme, tt.at, &e); !errors.As(err, &differs) || !strings.Contains(differs.Reason, tt.reason) {
				t.Errorf("Again = %v, want %q", err, tt.reason)
			}
		})
	}
}
