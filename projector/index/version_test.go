package index

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// setVersions writes a revision that sets versions of tuples, in a batch of its own.
func setVersions(tb testing.TB, x *Index, store ledger.ID, effects ...decide.Effect) ledger.Revision {
	tb.Helper()
	b := x.NewBatch()
	rev, _, err := b.Append(decide.Record{Store: store, Outcome: ledger.Outcome{Kind: ledger.Applied}, Effects: effects}, ledger.Origin{}, nil, ledger.FoldVersion)
	if err != nil {
		tb.Fatal(err)
	}
	pos := x.Position()
	pos.Seq++
	if err := b.Commit(pos); err != nil {
		tb.Fatal(err)
	}
	return rev
}

// subjectsOf returns n tuples of one run.
func subjectsOf(tb testing.TB, n int) []tuple.Tuple {
	var all []tuple.Tuple
	for i := range n {
		all = append(all, mustParse(tb, fmt.Sprintf("doc:plan#viewer@user:u%05d", i)))
	}
	return all
}

// What the value of a version repeats of earlier ones is what their own rows say, and a
// read finds at every revision what the rows of the tuples have: with few versions, with
// more than a value has room for, and with grants that alone are too large for it.
func TestEarlierVersions(t *testing.T) {
	x := open(t, vfs.NewMem())
	store := ledger.ID{4}
	r := rand.New(rand.NewPCG(5, 5))
	pool := subjectsOf(t, 6)
	for range 300 {
		var effects []decide.Effect
		for i, u := range pool {
			if r.IntN(1+i*i*4) > 2 {
				continue // the later ones have fewer
			}
			e := decide.Effect{Kind: decide.SetTuple, Tuple: u, Live: r.IntN(3) > 0}
			if e.Live && r.IntN(2) == 0 {
				e.Grant = model.Grant{Owner: strings.Repeat("o", r.IntN(1+40*i)), ExpiresAt: int64(r.IntN(3))}
			}
			effects = append(effects, e)
		}
		setVersions(t, x, store, effects...)
	}
	head, err := x.View(store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer head.Close()
	held, lost := 0, 0
	check := func(u tuple.Tuple, rows []Version) {
		for i, n := range rows {
			value, err := head.r.find(appendReverse(nil, store, u, n.Revision))
			if err != nil {
				t.Fatal(err)
			}
			v, err := parseVersion(n.Revision, value)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range rows[i+1:] {
				ok, err := v.back()
				if err != nil || !ok && !v.more {
					t.Fatalf("%s@%d lacks the version of %d: %v", u, n.Revision, want.Revision, err)
				}
				if !ok {
					lost++
					break
				}
				if g, err := v.decode(); err != nil || v.rev != want.Revision || v.live != want.Live || !g.Equal(want.Grant) {
					t.Fatalf("%s@%d repeats %d, %v, %+v, %v, want %+v", u, n.Revision, v.rev, v.live, g, err, want)
				}
				held++
			}
			if ok, _ := v.back(); ok {
				t.Fatalf("%s@%d repeats more than there is", u, n.Revision)
			}
		}
	}
	rows := make(map[tuple.Tuple][]Version) // newest first
	for _, u := range pool {
		if err := head.Versions(ByObject(u.Object, u.Relation, &model.Kind{Type: "user"}, u.Subject.ID), func(n Version) bool {
			rows[u] = append(rows[u], n)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		check(u, rows[u])
	}
	if held == 0 || lost == 0 {
		t.Errorf("%d versions are held by later ones and %d not, want some of each", held, lost)
	}
	for rev := ledger.Revision(1); rev <= head.Revision(); rev++ {
		v, err := head.At(rev)
		if err != nil {
			t.Fatal(err)
		}
		var want, scanned, got []Version
		for _, u := range pool {
			i := slices.IndexFunc(rows[u], func(n Version) bool { return n.Revision <= rev })
			if i >= 0 {
				want = append(want, rows[u][i])
			}
			n, ok, err := v.Newest(u)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				got = append(got, n)
			}
		}
		if err := v.NewestVersions(ByObject(pool[0].Object, "", nil, ""), func(n Version) bool {
			scanned = append(scanned, n)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		same := func(a, b Version) bool {
			return a.Tuple == b.Tuple && a.Revision == b.Revision && a.Live == b.Live && a.Grant.Equal(b.Grant)
		}
		if !slices.EqualFunc(got, want, same) || !slices.EqualFunc(scanned, want, same) {
			t.Fatalf("at %d: one by one %+v, scanned %+v, want %+v", rev, got, scanned, want)
		}
		v.Close()
	}
}

// A list of the past moves its iterator no oftener than a live one, however far back.
func TestPastStepsAsLive(t *testing.T) {
	x := open(t, vfs.NewMem())
	store := ledger.ID{4}
	r := rand.New(rand.NewPCG(6, 6))
	pool := subjectsOf(t, 500)
	var moments []ledger.Revision // at which all are live
	for g := range 10 {
		var last ledger.Revision
		for _, i := range r.Perm(len(pool)) {
			grant := model.Grant{Owner: fmt.Sprint("lead-", g)}
			if i%2 == 0 {
				grant = model.Grant{}
				if g%2 == 1 {
					setVersions(t, x, store, decide.Effect{Kind: decide.SetTuple, Tuple: pool[i]})
				}
			}
			last = setVersions(t, x, store, decide.Effect{Kind: decide.SetTuple, Tuple: pool[i], Live: true, Grant: grant})
		}
		moments = append(moments, last)
	}
	moves := func(rev ledger.Revision, items int) int {
		v, err := x.View(store, rev)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		got := 0
		count := func() (n int) {
			for _, s := range v.r.scans {
				stats := s.Stats()
				n += stats.ForwardSeekCount[pebble.InterfaceCall] + stats.ForwardStepCount[pebble.InterfaceCall]
			}
			return n
		}
		before := count()
		if err := v.Subjects(pool[0].Object, "viewer", "user", "", "", func(tuple.Subject, model.Grant) bool { got++; return true }); err != nil || got != items {
			t.Fatalf("at %d: %d subjects, %v, want %d", rev, got, err, items)
		}
		return count() - before
	}
	live := moves(0, len(pool))
	for _, rev := range moments {
		if n := moves(rev, len(pool)); n > live {
			t.Errorf("at %d the list moves %d times, live %d times", rev, n, live)
		}
	}
	if n := moves(1, 1); n > live {
		t.Errorf("before all others were granted, the list moves %d times, live %d times", n, live)
	}
}
