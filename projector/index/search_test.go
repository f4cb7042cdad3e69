package index_test

import (
	"context"
	"flag"
	"fmt"
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

// randomFilter returns a filter of a few fields.
func randomFilter(r *rand.Rand, pool []tuple.Tuple) (f query.EntryFilter) {
	t := pool[r.IntN(len(pool))]
	for n := r.IntN(4); n > 0; n-- {
		switch r.IntN(11) {
		case 0:
			f.Actor = []string{"ann", "bob", "nobody"}[r.IntN(3)]
		case 1:
			f.Ticket, f.WithoutTicket = []string{"OPS-1", "OPS-2"}[r.IntN(2)], false
		case 2, 3:
			f.Subject = t.Subject
		case 4, 5:
			f.Object = t.Object
		case 6:
			f.Type = t.Object.Type
		case 7:
			f.Relation = t.Relation
		case 8:
			f.Kinds = append(f.Kinds, ledger.ChangeKind(1+r.IntN(5)))
		case 9:
			f.Outcomes = append(f.Outcomes, ledger.OutcomeKind(1+r.IntN(3)))
		case 10:
			switch r.IntN(3) {
			case 0:
				f.WithoutTicket, f.Ticket = true, ""
			case 1:
				f.Channels = []string{"console", "other"}
			case 2:
				f.OutsideChannels = []string{"console"}
			}
		}
	}
	return f
}

// fits says in other words than the filter does whether an entry is wanted.
func fits(f query.EntryFilter, e ledger.Entry) bool {
	var c ledger.Command
	if e.Origin.Actor != "" {
		if read, rejection := ledger.ReadCommand(e.Raw, e.FoldVersion); rejection == nil {
			c = *read
		}
	}
	if f.Actor != "" && e.Origin.Actor != f.Actor || f.Ticket != "" && c.Ticket != f.Ticket || f.WithoutTicket && c.Ticket != "" {
		return false
	}
	if f.Channels != nil && !slices.Contains(f.Channels, c.Channel) || slices.Contains(f.OutsideChannels, c.Channel) {
		return false
	}
	if f.Outcomes != nil && !slices.Contains(f.Outcomes, e.Outcome.Kind) {
		return false
	}
	tuples := f.Subject != tuple.Subject{} || f.Object != tuple.Object{} || f.Type != "" || f.Relation != ""
	for _, ch := range c.Changes {
		ok := f.Kinds == nil || slices.Contains(f.Kinds, ch.Kind)
		if tuples && ch.Tuple == (tuple.Tuple{}) {
			ok = false
		}
		if f.Subject != (tuple.Subject{}) && ch.Tuple.Subject != f.Subject || f.Object != (tuple.Object{}) && ch.Tuple.Object != f.Object {
			ok = false
		}
		if f.Type != "" && ch.Tuple.Object.Type != f.Type || f.Relation != "" && ch.Tuple.Relation != f.Relation {
			ok = false
		}
		if ok {
			return true
		}
	}
	return !tuples && f.Kinds == nil
}

// A reading is one reader of a store's entries, and what it has read.
type reading struct {
	store    ledger.ID
	filter   query.EntryFilter
	search   *query.EntrySearch
	from, to ledger.Revision
	next     ledger.Revision
	got      []ledger.Revision
}

// step goes on for a step at the newest view, and reports whether there is more here.
func (g *reading) step(t *testing.T, x *index.Index, r *rand.Rand) bool {
	t.Helper()
	v, err := x.View(g.store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	most := 1 + r.IntN(20)
	next, err := g.search.Step(v, g.next, g.to, 1+r.IntN(400), func(e *ledger.Entry) bool {
		if e.Revision < g.next {
			t.Fatalf("entry %d in a step from %d", e.Revision, g.next)
		}
		g.got = append(g.got, e.Revision)
		most--
		return most > 0
	})
	if err != nil {
		t.Fatal(err)
	}
	if to := min(g.to, v.Revision()); next < g.next || next > max(to+1, g.next) || next == g.next && g.next <= to {
		t.Fatalf("a step from %d goes on from %d, at %d", g.next, next, to)
	}
	g.next = next
	return next <= min(g.to, v.Revision())
}

func (g *reading) want(m *decide.Memory) (want []ledger.Revision) {
	for _, e := range m.Entries(g.store) {
		if e.Revision >= g.from && e.Revision <= g.to && fits(g.filter, e) {
			want = append(want, e.Revision)
		}
	}
	return want
}

// TestSearch: readers of entries, each with a filter, read on while the log is folded, the
// index crashes, and they themselves begin anew from where they were. In the end each has
// read what it should, in order, each once.
func TestSearch(t *testing.T) {
	const readers = 25
	total, crashes, kinds := 0, 0, map[ledger.OutcomeKind]int{}
	for seed := range uint64(2) {
		w := index.NewWorld(t, 40+seed, 4000)
		m := w.Memory(t)
		r := rand.New(rand.NewPCG(seed, 40))
		stores := m.Stores()
		fs := vfs.NewCrashableMem()
		x := index.OpenForTest(t, fs)
		w.Fold(t, x, 50, func() int { return 5 })
		var all []*reading
		for len(all) < readers {
			g := &reading{store: w.Store(), filter: randomFilter(r, w.Pool()), to: 1<<64 - 1}
			if r.IntN(4) == 0 {
				g.store = stores[r.IntN(len(stores))]
			}
			n := ledger.Revision(len(m.Entries(g.store)))
			if g.from = 1; r.IntN(3) == 0 {
				g.from = 1 + ledger.Revision(r.IntN(int(n)+2))
			}
			if r.IntN(3) == 0 {
				g.to = g.from + ledger.Revision(r.IntN(int(n)))
			}
			g.next, g.search = g.from, query.NewEntrySearch(g.filter)
			all = append(all, g)
		}
		for end := false; !end; {
			if r.IntN(4) == 0 { // perhaps far enough to be looked up
				w.Fold(t, x, min(int(x.Position().Seq)+600+r.IntN(600), w.Len()), func() int { return 1 + r.IntN(100) })
			} else {
				w.Fold(t, x, min(int(x.Position().Seq)+r.IntN(100), w.Len()), func() int { return 1 + r.IntN(30) })
			}
			end = int(x.Position().Seq) == w.Len()
			for _, g := range all {
				if _, ok := x.Head(g.store); !ok {
					continue
				}
				for n := 1 + r.IntN(3); n > 0 || end; n-- {
					if !g.step(t, x, r) {
						break
					}
				}
				if r.IntN(12) == 0 {
					g.search = query.NewEntrySearch(g.filter)
				}
			}
			if !end && r.IntN(4) == 0 {
				crashes++
				clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
				if err := x.Close(); err != nil {
					t.Fatal(err)
				}
				fs = clone
				x = index.OpenForTest(t, fs)
				for _, g := range all { // what they hold was found in the index that crashed
					g.search = query.NewEntrySearch(g.filter)
				}
			}
		}
		for _, g := range all {
			want := g.want(m)
			if !slices.Equal(g.got, want) {
				t.Fatalf("seed %d: %+v from %d to %d gives %v, want %v", seed, g.filter, g.from, g.to, g.got, want)
			}
			total += len(want)
			for _, rev := range want {
				kinds[m.Entries(g.store)[rev-1].Outcome.Kind]++
			}
		}
	}
	if total < 3_000 || crashes < 3 || len(kinds) < 3 {
		t.Errorf("only %d entries (%v) and %d crashes", total, kinds, crashes)
	}
}

// TestSearchControl: without the rows of changes that made no version, TestSearch would
// fail.
func TestSearchControl(t *testing.T) {
	w := index.NewWorld(t, 40, 2000)
	m := w.Memory(t)
	x := index.OpenForTest(t, vfs.NewMem())
	w.Fold(t, x, w.Len(), func() int { return 100 })
	if err := x.DropMentions(); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 40))
	missed := 0
	for range 50 {
		g := &reading{store: w.Store(), filter: randomFilter(r, w.Pool()), from: 1, next: 1, to: 1<<64 - 1}
		for g.search = query.NewEntrySearch(g.filter); g.step(t, x, r); {
		}
		want := g.want(m)
		if !slices.Equal(g.got, want) {
			missed++
		}
		if bad := slices.ContainsFunc(g.got, func(rev ledger.Revision) bool { return !slices.Contains(want, rev) }); bad {
			t.Errorf("%+v gives %v, want some of %v", g.filter, g.got, want)
		}
	}
	if missed == 0 {
		t.Error("nothing is missed")
	}
}

// searchStore folds n entries. Ten of them, spread over all, are the rare ones: asked for
// by an actor, under a ticket, on an object and for a subject that no other has; one is
// granted, four find things as they want them, five are rejected. All others are grants on
// one object to a subject each.
func searchStore(tb testing.TB, x *index.Index, n int) ledger.ID {
	tb.Helper()
	store := ledger.ID{7}
	batch := x.NewBatch()
	for i := range n {
		c := ledger.Command{ID: ledger.UUID{1, byte(i), byte(i >> 8), byte(i >> 16)}, Store: store, Ticket: "USUAL",
			Changes: []ledger.Change{{Kind: ledger.Grant, Tuple: tuple.Tuple{Object: tuple.Object{Type: "document", ID: "usual"}, Relation: "viewer",
				Subject: tuple.Subject{Type: "user", ID: fmt.Sprint(i)}}}}}
		actor := "usual"
		record := decide.Record{Store: store, Time: int64(i), Command: &c, Outcome: ledger.Outcome{Kind: ledger.Applied, Effective: 1}}
		if rare := i % (n / 10); rare == 5 {
			actor, c.Ticket = "rare", "RARE"
			c.Changes[0].Tuple.Subject.ID = "rare"
			c.Changes[0].Tuple.Object.ID = "rare"
			switch k := i / (n / 10); {
			case k >= 5:
				record.Outcome = ledger.Outcome{Kind: ledger.Rejected, Rejection: ledger.Reject(ledger.CodeInvalid, "x", "y")}
			case k > 0:
				record.Outcome = ledger.Outcome{Kind: ledger.Applied}
			}
		}
		if record.Outcome.Effective == 1 {
			record.Effects = []decide.Effect{{Kind: decide.SetTuple, Tuple: c.Changes[0].Tuple, Live: true}}
		}
		if _, _, err := batch.Append(record, ledger.Origin{Actor: actor, Attester: "e", Method: ledger.MethodNone}, ledger.AppendCommand(nil, &c), 1); err != nil {
			tb.Fatal(err)
		}
		if batch.Len() == 10_000 || i == n-1 {
			if err := batch.Commit(ledger.Position{Seq: uint64(i) + 1}); err != nil {
				tb.Fatal(err)
			}
			if i < n-1 {
				batch = x.NewBatch()
			}
		}
	}
	return store
}

// rareFilters are filters that an index answers; the last have a field that all but ten
// entries fit.
var rareFilters = []struct {
	name   string
	filter query.EntryFilter
	found  int
}{
	{"actor", query.EntryFilter{Actor: "rare"}, 10},
	{"ticket", query.EntryFilter{Ticket: "RARE"}, 10},
	{"object", query.EntryFilter{Object: tuple.Object{Type: "document", ID: "rare"}}, 10},
	{"subject", query.EntryFilter{Subject: tuple.Subject{Type: "user", ID: "rare"}}, 10},
	{"rejected", query.EntryFilter{Outcomes: []ledger.OutcomeKind{ledger.Rejected}}, 5},
	{"one subject of the usual object", query.EntryFilter{Subject: tuple.Subject{Type: "user", ID: "77777"}, Object: tuple.Object{Type: "document", ID: "usual"}}, 1},
	{"rare ticket, usual object", query.EntryFilter{Ticket: "RARE", Object: tuple.Object{Type: "document", ID: "usual"}}, 0},
	{"usual actor, one subject", query.EntryFilter{Actor: "usual", Subject: tuple.Subject{Type: "user", ID: "77777"}}, 1},
}

func search(tb testing.TB, v *index.View, f query.EntryFilter) (found int) {
	tb.Helper()
	s := query.NewEntrySearch(f)
	for next := ledger.Revision(1); next <= v.Revision(); {
		var err error
		if next, err = s.Step(v, next, v.Revision(), 1000, func(*ledger.Entry) bool { found++; return true }); err != nil {
			tb.Fatal(err)
		}
	}
	return found
}

// TestSearchReads: to find 10 entries of 100,000, some hundred rows are read at most.
func TestSearchReads(t *testing.T) {
	x := index.OpenForTest(t, vfs.NewMem())
	store := searchStore(t, x, 100_000)
	for _, tt := range rareFilters {
		v, err := x.View(store, 0)
		if err != nil {
			t.Fatal(err)
		}
		before := v.Steps()
		found := search(t, v, tt.filter)
		if n := v.Steps() - before; n > 600 || n < found || found != tt.found {
			t.Errorf("%s: %d rows for %d entries, want %d", tt.name, n, found, tt.found)
		}
		v.Close()
	}
	// Lists that are longer than what is held of them are read a window after the other.
	v, err := x.View(store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if found := search(t, v, query.EntryFilter{Actor: "usual", Object: tuple.Object{Type: "document", ID: "usual"}}); found != 100_000-10 {
		t.Errorf("%d usual entries, want all but 10", found)
	}
	// The control: a field without an index.
	before := v.Steps()
	if found := search(t, v, query.EntryFilter{OutsideChannels: []string{"console"}, Relation: "owner"}); found != 0 || v.Steps()-before < 100_000 {
		t.Errorf("a scan finds %d entries in %d rows", found, v.Steps()-before)
	}
}

var replayEntries = flag.Int("replay-entries", 1_000_000, "entries of the store that BenchmarkReplayFilter searches")

// BenchmarkReplayFilter finds the entries that fit a filter, 10 of all or fewer, and
// measures a scan of all beside it.
func BenchmarkReplayFilter(b *testing.B) {
	x, err := index.Open(index.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	store := searchStore(b, x, *replayEntries)
	if err := x.Settle(context.Background()); err != nil {
		b.Fatal(err)
	}
	v, err := x.View(store, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	for _, bb := range rareFilters {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				if found := search(b, v, bb.filter); found != bb.found {
					b.Fatalf("%d entries, want %d", found, bb.found)
				}
			}
		})
	}
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			if found := search(b, v, query.EntryFilter{Relation: "owner"}); found != 0 {
				b.Fatalf("%d entries, want none", found)
			}
		}
		b.ReportMetric(float64(b.N)*float64(*replayEntries)/b.Elapsed().Seconds(), "entries/s")
	})
}
