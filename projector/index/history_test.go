package index_test

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

// naiveHistory walks over all revisions up to one, and looks at every tuple at each.
func naiveHistory(m *decide.Memory, store ledger.ID, to ledger.Revision, moment int64, fits func(tuple.Tuple) bool) (items []query.HistoryItem) {
	tell := func(kind query.HistoryKind, at int64, rev ledger.Revision, v decide.Version) {
		items = append(items, query.HistoryItem{Kind: kind, Time: at, Revision: rev,
			Granted: index.Granted{Tuple: v.Tuple, Grant: v.Grant, Revision: v.Revision}})
	}
	live := map[tuple.Tuple]decide.Version{} // and not expired
	expire := func(until int64) {
		for t, v := range live {
			if e := v.Grant.ExpiresAt; e != 0 && e <= until {
				tell(query.HistoryExpired, e, v.Revision, v)
				delete(live, t)
			}
		}
	}
	for _, e := range m.Entries(store)[:to] {
		expire(e.Time)
		now := map[tuple.Tuple]decide.Version{}
		for _, v := range m.Live(store, e.Revision) {
			if !fits(v.Tuple) {
				continue
			}
			now[v.Tuple] = v
			if v.Revision != e.Revision {
				continue
			}
			kind := query.HistoryGranted
			if _, before := live[v.Tuple]; before {
				kind = query.HistoryChanged
			}
			tell(kind, e.Time, e.Revision, v)
			live[v.Tuple] = v
		}
		for t, v := range live {
			if _, still := now[t]; !still {
				tell(query.HistoryRevoked, e.Time, e.Revision, v)
				delete(live, t)
			}
		}
	}
	expire(moment)
	slices.SortFunc(items, func(a, b query.HistoryItem) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Revision, b.Revision), a.Granted.Tuple.Compare(b.Granted.Tuple))
	})
	return items
}

// history reads all of a history, a few items at a time, and now and then begins anew
// after the last item, as another reader would.
func history(t *testing.T, v *index.View, q query.HistoryQuestion, moment int64, r *rand.Rand) (items []query.HistoryItem) {
	t.Helper()
	after := ""
	for {
		h, err := query.NewHistory(q, moment, after)
		if err != nil {
			t.Fatal(err)
		}
		h.Window = 1 + r.IntN(20)
		for n := 1 + r.IntN(8); n > 0; n-- {
			next, err := h.Next(v, 1+r.IntN(30))
			if err != nil {
				t.Fatal(err)
			}
			if len(next) == 0 {
				return items
			}
			after = next[len(next)-1].Place
			for _, item := range next {
				item.Place = ""
				items = append(items, item)
			}
		}
	}
}

// TestHistory compares histories of tuples, objects and subjects, at moments of the past
// and now, with what a walk over all revisions finds.
func TestHistory(t *testing.T) {
	kinds := map[query.HistoryKind]int{}
	met := 0 // expiries at the very moment of a command
	for seed := range uint64(2) {
		w := index.NewWorld(t, 60+seed, 500)
		m := w.Memory(t)
		r := rand.New(rand.NewPCG(seed, 60))
		x := index.OpenForTest(t, vfs.NewMem())
		w.Fold(t, x, w.Len(), func() int { return 1 + r.IntN(40) })
		store := w.Store()
		entries := m.Entries(store)
		for range 12 {
			rev := 1 + ledger.Revision(r.IntN(len(entries)))
			if r.IntN(4) == 0 {
				rev = ledger.Revision(len(entries))
			}
			moment := entries[rev-1].Time
			switch {
			case int(rev) == len(entries):
				moment += r.Int64N(20) * 1e9
			case r.IntN(2) == 0: // a whole second, as all times are
				moment += r.Int64N((entries[rev].Time-moment)/1e9+1) * 1e9
			default:
				moment += r.Int64N(max(entries[rev].Time-moment, 1))
			}
			v, err := x.View(store, rev)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				p := w.Pool()[r.IntN(6)]
				if r.IntN(3) == 0 {
					p = w.Pool()[r.IntN(len(w.Pool()))]
				}
				for _, tt := range []struct {
					question query.HistoryQuestion
					fits     func(tuple.Tuple) bool
				}{
					{query.HistoryQuestion{Tuple: p}, func(u tuple.Tuple) bool { return u == p }},
					{query.HistoryQuestion{Object: p.Object}, func(u tuple.Tuple) bool { return u.Object == p.Object }},
					{query.HistoryQuestion{Subject: p.Subject}, func(u tuple.Tuple) bool { return u.Subject == p.Subject }},
				} {
					want := naiveHistory(m, store, rev, moment, tt.fits)
					got := history(t, v, tt.question, moment, r)
					if len(got) != len(want) {
						t.Fatalf("%+v at %d: %d items, want %d", tt.question, rev, len(got), len(want))
					}
					for i, g := range got {
						h := want[i]
						if g.Kind != h.Kind || g.Time != h.Time || g.Revision != h.Revision || g.Granted.Tuple != h.Granted.Tuple ||
							g.Granted.Revision != h.Granted.Revision || !g.Granted.Grant.Equal(h.Granted.Grant) {
							t.Fatalf("%+v at %d: item %d is %+v, want %+v", tt.question, rev, i, g, h)
						}
						kinds[g.Kind]++
						if g.Kind == query.HistoryExpired && slices.ContainsFunc(entries, func(e ledger.Entry) bool { return e.Time == g.Time }) {
							met++
						}
					}
				}
			}
			v.Close()
		}
	}
	if len(kinds) != 4 || kinds[query.HistoryExpired] < 20 || met == 0 {
		t.Errorf("the worlds have only %v, %d at the moment of a command", kinds, met)
	}
}

// TestHistoryPlaces: what is no place of an item is refused.
func TestHistoryPlaces(t *testing.T) {
	for _, place := range []string{"x", "1,2,3", "1,2,3,doc:1", "a,0,1,doc:1#viewer@user:ann", "1,0,-1,doc:1#viewer@user:ann", "1,0,1,doc:1#viewer@user:ann#"} {
		if _, err := query.NewHistory(query.HistoryQuestion{}, 0, place); !errors.Is(err, query.ErrPageToken) {
			t.Errorf("NewHistory after %q = %v", place, err)
		}
	}
}

// BenchmarkHistory tells the history of an object that every entry of a store has made a
// version on.
func BenchmarkHistory(b *testing.B) {
	x, err := index.Open(index.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	store := searchStore(b, x, *replayEntries)
	v, err := x.View(store, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	for b.Loop() {
		h, err := query.NewHistory(query.HistoryQuestion{Object: tuple.Object{Type: "document", ID: "usual"}}, 1<<62, "")
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for {
			items, err := h.Next(v, 1000)
			if err != nil {
				b.Fatal(err)
			}
			if len(items) == 0 {
				break
			}
			n += len(items)
		}
		if n != *replayEntries-10 {
			b.Fatalf("%d items, want %d", n, *replayEntries-10)
		}
	}
	b.ReportMetric(float64(*replayEntries)*float64(b.N)/b.Elapsed().Seconds(), "items/s")
}
