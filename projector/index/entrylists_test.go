package index

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// named returns the revisions of those entries that fit, up to one.
func named(m *decide.Memory, store ledger.ID, to ledger.Revision, fits func(e *ledger.Entry, c *ledger.Command) bool) (revs []ledger.Revision) {
	for _, e := range m.Entries(store)[:to] {
		c, rejection := e.Command()
		if rejection != nil {
			c = &ledger.Command{}
		}
		if fits(&e, c) {
			revs = append(revs, e.Revision)
		}
	}
	return revs
}

// listsOfWorld are some lists, and which entries each names.
func listsOfWorld(t *testing.T, w *world) map[string]struct {
	list EntryList
	fits func(*ledger.Entry, *ledger.Command) bool
} {
	t.Helper()
	type list = struct {
		list EntryList
		fits func(*ledger.Entry, *ledger.Command) bool
	}
	lists := map[string]list{
		"actor":    {EntriesOfActor("ann"), func(e *ledger.Entry, _ *ledger.Command) bool { return e.Origin.Actor == "ann" }},
		"nobody":   {EntriesOfActor("an"), func(*ledger.Entry, *ledger.Command) bool { return false }},
		"ticket":   {EntriesOfTicket("OPS-1"), func(_ *ledger.Entry, c *ledger.Command) bool { return c.Ticket == "OPS-1" }},
		"rejected": {RejectedEntries(), func(e *ledger.Entry, _ *ledger.Command) bool { return e.Outcome.Kind == ledger.Rejected }},
	}
	changes := func(fits func(tuple.Tuple) bool) func(*ledger.Entry, *ledger.Command) bool {
		return func(_ *ledger.Entry, c *ledger.Command) bool {
			return slices.ContainsFunc(c.Changes, func(ch ledger.Change) bool { return fits(ch.Tuple) })
		}
	}
	for _, p := range append(w.pool[:8:8], mustParse(t, "doc:d0#viewer@user:*")) {
		lists["object "+p.Object.String()] = list{EntriesOfObject(p.Object), changes(func(u tuple.Tuple) bool { return u.Object == p.Object })}
		lists["subject "+p.Subject.String()] = list{EntriesOfSubject(p.Subject), changes(func(u tuple.Tuple) bool { return u.Subject == p.Subject })}
	}
	return lists
}

// TestGather: every list has exactly the entries it names, at every revision, in ranges
// and a few at a time.
func TestGather(t *testing.T) {
	w := newWorld(t, 31, 600)
	m := w.memory(t, len(w.inputs))
	x := open(t, vfs.NewMem())
	r := rand.New(rand.NewPCG(31, 2))
	w.fold(t, x, len(w.inputs), func() int { return 1 + r.IntN(40) })
	found := map[string]int{}
	for _, store := range m.Stores() {
		head, _ := x.Head(store)
		for range 6 {
			at := 1 + ledger.Revision(r.IntN(int(head.Revision)))
			v, err := x.View(store, at)
			if err != nil {
				t.Fatal(err)
			}
			for name, l := range listsOfWorld(t, w) {
				all := named(m, store, at, l.fits)
				found[name] += len(all)
				from := ledger.Revision(r.IntN(int(at) + 2))
				to := from + ledger.Revision(r.IntN(int(at)))
				want := slices.DeleteFunc(slices.Clone(all), func(rev ledger.Revision) bool { return rev < from || rev > to })
				var got []ledger.Revision
				n := 1 + r.IntN(5)
				for next := from; next <= min(to, at); {
					g, ok, err := v.Gather(l.list, next, to, n, 1<<30)
					if err != nil || !ok {
						t.Fatal(ok, err)
					}
					if len(g.Revisions) > n || g.To < next || len(g.Revisions) < n && g.To != min(to, at) {
						t.Fatalf("%s from %d to %d: %d at a time gives %+v", name, next, to, n, g)
					}
					got = append(got, g.Revisions...)
					next = g.To + 1
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%s@%d: %s from %d to %d is %v, want %v", store, at, name, from, to, got, want)
				}
			}
			v.Close()
		}
	}
	for name, n := range found {
		if (n == 0) != (name == "nobody") {
			t.Errorf("the world has %d entries of the list %q", n, name)
		}
	}
	scrub(t, x)
}

// TestGatherControl: without the rows of changes that made no version, TestGather would
// fail.
func TestGatherControl(t *testing.T) {
	w := newWorld(t, 31, 600)
	m := w.memory(t, len(w.inputs))
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(50))
	v, err := x.View(w.stores[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	missed := 0
	for name, l := range listsOfWorld(t, w) {
		if l.list.made == nil {
			continue
		}
		l.list.family = 'z' // no rows
		g, ok, err := v.Gather(l.list, 1, v.Revision(), 1<<20, 1<<30)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		all := named(m, w.stores[0], v.Revision(), l.fits)
		if len(g.Revisions) > len(all) {
			t.Errorf("%s is %v, want some of %v", name, g.Revisions, all)
		}
		missed += len(all) - len(g.Revisions)
	}
	if missed == 0 {
		t.Error("the world has no change without effect")
	}
}

// TestGatherBounds: a list is given up when it takes more rows than allowed, and when it
// is told to stop.
func TestGatherBounds(t *testing.T) {
	x := open(t, vfs.NewMem())
	benchPrepare(t, x)
	b := x.NewBatch()
	o := tuple.Object{Type: "document", ID: "hot"}
	const tuples = 2 * stopEvery
	for i := range tuples {
		tup := tuple.Tuple{Object: o, Relation: "viewer", Subject: tuple.Subject{Type: "user", ID: string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))}}
		record := decide.Record{Store: benchStore, Outcome: ledger.Outcome{Kind: ledger.Applied}, Effects: []decide.Effect{{Kind: decide.SetTuple, Tuple: tup, Live: true}}}
		if _, _, err := b.Append(record, ledger.Origin{Actor: "ann"}, nil, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(ledger.Position{Seq: 2}); err != nil {
		t.Fatal(err)
	}
	v, err := x.View(benchStore, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if _, ok, err := v.Gather(EntriesOfObject(o), 1, v.Revision(), 10, tuples-1); ok || err != nil {
		t.Errorf("Gather with a row too few = %v, %v", ok, err)
	}
	g, ok, err := v.Gather(EntriesOfObject(o), 1, v.Revision(), 10, tuples)
	if !ok || err != nil || len(g.Revisions) != 10 || g.To != g.Revisions[9] {
		t.Errorf("Gather with just enough rows = %+v, %v, %v", g, ok, err)
	}
	stop := errors.New("enough")
	v.Stop = func() error { return stop }
	for name, l := range map[string]EntryList{"versions": EntriesOfObject(o), "rows": EntriesOfActor("ann")} {
		if _, _, err := v.Gather(l, 1, v.Revision(), 1<<20, 1<<20); !errors.Is(err, stop) {
			t.Errorf("%s: Gather that is stopped = %v", name, err)
		}
	}
}
