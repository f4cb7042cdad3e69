package index

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/ledger/tuple"
	"golang.org/x/mod/sumdb/tlog"
)

// The index and the reference in memory agree on every store at every revision.
func TestFoldEqualsReference(t *testing.T) {
	w := newWorld(t, 1, 400)
	m := w.memory(t, len(w.inputs))
	x := open(t, vfs.NewMem())
	r := rand.New(rand.NewPCG(1, 2))
	w.fold(t, x, len(w.inputs), func() int { return 1 + r.IntN(40) })
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	kinds := map[ledger.OutcomeKind]int{}
	asserted := 0
	for _, store := range m.Stores() {
		entries := m.Entries(store)
		head, ok := x.Head(store)
		if !ok || head.Revision != ledger.Revision(len(entries)) || head.Time != entries[len(entries)-1].Time {
			t.Fatalf("Head(%s) = %+v, %v, want %d entries", store, head, ok, len(entries))
		}
		if status, _ := m.Status(store); store != ledger.System && status != head.Status {
			t.Errorf("store %s is %s, want %s", store, head.Status, status)
		}
		var leaves [][]byte
		for i := range entries {
			leaves = append(leaves, ledger.AppendEntry(nil, &entries[i]))
			kinds[entries[i].Outcome.Kind]++
		}
		for rev := ledger.Revision(1); rev <= head.Revision; rev++ {
			v, err := x.View(store, rev)
			if err != nil {
				t.Fatal(err)
			}
			compareView(t, v, m, w.pool, leaves)
			asserted += compareAssertions(t, v, m, w.models)
			v.Close()
		}
	}
	for _, kind := range []ledger.OutcomeKind{ledger.Applied, ledger.Rejected, ledger.Duplicate} {
		if kinds[kind] == 0 {
			t.Errorf("the world has no %s command", kind)
		}
	}
	if asserted == 0 {
		t.Error("the world has no assertions that take the place of others")
	}
	if got := x.Position().Epoch; got != m.Epoch() || got == 0 {
		t.Errorf("epoch %d, want %d, not 0", got, m.Epoch())
	}
	scrub(t, x)
}

// compareRuns compares the runs of objects, and of tuples with every prefix, each from the
// start and after one of them, with what is live.
func compareRuns(t *testing.T, v *View, want map[tuple.Tuple]model.Grant, pool []tuple.Tuple) {
	t.Helper()
	matching := func(match func(tuple.Tuple) bool) (all []tuple.Tuple) {
		for tup := range want {
			if match(tup) {
				all = append(all, tup)
			}
		}
		return all
	}
	bySubject := func(a, b tuple.Tuple) int {
		return bytes.Compare(appendReverse(nil, v.Store(), a, 0), appendReverse(nil, v.Store(), b, 0))
	}
	check := func(what string, order func(a, b tuple.Tuple) int, all []tuple.Tuple, read func(after tuple.Tuple, yield func(tuple.Tuple, model.Grant) bool) error) {
		t.Helper()
		slices.SortFunc(all, order)
		for n := -1; n < len(all); n = 2*n + 3 { // from the start, and after some
			var after tuple.Tuple
			if n >= 0 {
				after = all[n]
			}
			var got []tuple.Tuple
			err := read(after, func(tup tuple.Tuple, g model.Grant) bool {
				if !g.Equal(want[tup]) {
					t.Fatalf("%s yields %s %+v, want %+v", what, tup, g, want[tup])
				}
				got = append(got, tup)
				return true
			})
			if err != nil || !slices.Equal(got, all[n+1:]) {
				t.Fatalf("%s@%d: %s after %q: %v, %v, want %v", v.Store(), v.Revision(), what, after, got, err, all[n+1:])
			}
		}
	}
	for _, p := range pool[:min(len(pool), 12)] {
		check("Objects", tuple.Tuple.Compare, matching(func(u tuple.Tuple) bool {
			return u.Subject == p.Subject && u.Object.Type == p.Object.Type && u.Relation == p.Relation
		}), func(after tuple.Tuple, yield func(tuple.Tuple, model.Grant) bool) error {
			return v.Objects(p.Subject, p.Object.Type, p.Relation, after.Object.ID, func(o tuple.Object, g model.Grant) bool {
				return yield(tuple.Tuple{Object: o, Relation: p.Relation, Subject: p.Subject}, g)
			})
		})
		kind := &model.Kind{Type: p.Subject.Type, Relation: p.Subject.Relation}
		ofKind := func(u tuple.Tuple) bool {
			return u.Subject.Type == kind.Type && u.Subject.Relation == kind.Relation
		}
		for _, r := range []struct {
			what   string
			prefix Prefix
			order  func(a, b tuple.Tuple) int
			match  func(tuple.Tuple) bool
		}{
			{"all tuples", ByObject(tuple.Object{}, "", nil, ""), tuple.Tuple.Compare, func(tuple.Tuple) bool { return true }},
			{"tuples of a type", ByObject(tuple.Object{Type: p.Object.Type}, "", nil, ""), tuple.Tuple.Compare, func(u tuple.Tuple) bool { return u.Object.Type == p.Object.Type }},
			{"tuples of an object", ByObject(p.Object, "", nil, ""), tuple.Tuple.Compare, func(u tuple.Tuple) bool { return u.Object == p.Object }},
			{"tuples of a relation", ByObject(p.Object, p.Relation, nil, ""), tuple.Tuple.Compare, func(u tuple.Tuple) bool { return u.Object == p.Object && u.Relation == p.Relation }},
			{"tuples of a kind", ByObject(p.Object, p.Relation, kind, ""), tuple.Tuple.Compare, func(u tuple.Tuple) bool { return u.Object == p.Object && u.Relation == p.Relation && ofKind(u) }},
			{"one tuple", ByObject(p.Object, p.Relation, kind, p.Subject.ID), tuple.Tuple.Compare, func(u tuple.Tuple) bool { return u == p }},
			{"tuples to a kind", BySubject(tuple.Subject{Type: kind.Type, Relation: kind.Relation}, "", ""), bySubject, ofKind},
			{"tuples to a subject", BySubject(p.Subject, "", ""), bySubject, func(u tuple.Tuple) bool { return u.Subject == p.Subject }},
			{"tuples to a subject of a type", BySubject(p.Subject, p.Object.Type, ""), bySubject, func(u tuple.Tuple) bool { return u.Subject == p.Subject && u.Object.Type == p.Object.Type }},
		} {
			check(r.what, r.order, matching(r.match), func(after tuple.Tuple, yield func(tuple.Tuple, model.Grant) bool) error {
				return v.Tuples(r.prefix, after, func(g Granted) bool { return yield(g.Tuple, g.Grant) })
			})
		}
	}
}

// compareView compares all that a view answers with the reference.
func compareView(t *testing.T, v *View, m *decide.Memory, pool []tuple.Tuple, leaves [][]byte) {
	t.Helper()
	store, rev := v.Store(), v.Revision()
	live := m.Live(store, rev)
	want := map[tuple.Tuple]model.Grant{}
	for _, l := range live {
		want[l.Tuple] = l.Grant
	}
	for _, tup := range pool {
		g, ok, err := v.Grant(tup)
		if err != nil {
			t.Fatal(err)
		}
		if w, wanted := want[tup]; ok != wanted || !g.Equal(w) {
			t.Fatalf("%s@%d: Grant(%s) = %+v, %v, want %+v, %v", store, rev, tup, g, ok, w, wanted)
		}
	}
	type run struct {
		o                     tuple.Object
		relation, stype, srel string
	}
	got := map[run][]tuple.Tuple{}
	for _, tup := range pool {
		r := run{tup.Object, tup.Relation, tup.Subject.Type, tup.Subject.Relation}
		if _, done := got[r]; done {
			continue
		}
		got[r] = nil
		err := v.Subjects(r.o, r.relation, r.stype, r.srel, "", func(s tuple.Subject, g model.Grant) bool {
			found := tuple.Tuple{Object: r.o, Relation: r.relation, Subject: s}
			if w, ok := want[found]; !ok || !w.Equal(g) {
				t.Fatalf("%s@%d: Subjects yields %s %+v, want %+v, %v", store, rev, found, g, w, ok)
			}
			got[r] = append(got[r], found)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var all []tuple.Tuple
	for _, tuples := range got {
		if !slices.IsSortedFunc(tuples, tuple.Tuple.Compare) {
			t.Fatalf("%s@%d: subjects out of order: %v", store, rev, tuples)
		}
		all = append(all, tuples...)
	}
	if len(all) != len(live) {
		t.Fatalf("%s@%d: Subjects yields %d tuples, want %d", store, rev, len(all), len(live))
	}
	compareRuns(t, v, want, pool)
	entry, err := v.Entry(rev)
	if err != nil {
		t.Fatal(err)
	}
	if w := m.Entries(store)[rev-1]; !reflect.DeepEqual(*entry, w) {
		t.Fatalf("%s: Entry(%d) = %+v, want %+v", store, rev, *entry, w)
	}
	if at, err := v.Time(); err != nil || at != entry.Time {
		t.Fatalf("%s: Time() at %d = %d, %v, want %d", store, rev, at, err, entry.Time)
	}
	leaf, err := v.Leaf(rev)
	if err != nil || leaf != seal.LeafHash(leaves[rev-1]) {
		t.Fatalf("%s: Leaf(%d) = %x, %v", store, rev, leaf, err)
	}
	token, err := v.Token()
	if want := (ledger.Token{Log: ledger.UUID{1}, Store: store, Epoch: v.Epoch(), Revision: rev, Leaf: [8]byte(leaf[:])}); err != nil || token != want {
		t.Fatalf("%s: Token() at %d = %+v, %v, want %+v", store, rev, token, err, want)
	}
	root, err := v.Root()
	if err != nil {
		t.Fatal(err)
	}
	if want := naiveRoot(leaves[:rev]); root != want {
		t.Fatalf("%s: Root() at %d = %x, want %x", store, rev, root, want)
	}
	proof, err := tlog.ProveRecord(int64(rev), int64(rev)/2, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckRecord(proof, int64(rev), tlog.Hash(root), int64(rev)/2, tlog.RecordHash(leaves[rev/2])); rev > 1 && err != nil {
		t.Fatalf("%s@%d: %v", store, rev, err)
	}
	if parsed, err := v.Model(ledger.ID{}); err != nil || !reflect.DeepEqual(parsed, m.ModelAt(store, rev)) {
		t.Fatalf("%s@%d: Model = %+v, %v, want %+v", store, rev, parsed, err, m.ModelAt(store, rev))
	}
}

// compareAssertions compares the assertions of the models with the reference, and returns
// how many models have others than they had at first.
func compareAssertions(t *testing.T, v *View, m *decide.Memory, models []ledger.ID) (others int) {
	t.Helper()
	first := map[ledger.ID]ledger.Revision{}
	for rev := ledger.Revision(1); rev <= v.Revision(); rev++ {
		for _, id := range models {
			if _, at := m.AssertionsAt(v.Store(), id, rev); at == rev && first[id] == 0 {
				first[id] = at
			}
		}
	}
	for _, id := range models {
		got, at, err := v.Assertions(id)
		want, wantAt := m.AssertionsAt(v.Store(), id, v.Revision())
		if err != nil || !bytes.Equal(got, want) || at != wantAt || len(got) == 0 && got != nil {
			t.Fatalf("%s@%d: Assertions(%s) = %q of %d, %v, want %q of %d", v.Store(), v.Revision(), id, got, at, err, want, wantAt)
		}
		if at > first[id] {
			others++
		}
	}
	return others
}

// naiveRoot is the tree's root as RFC 6962 defines it.
func naiveRoot(leaves [][]byte) ledger.Hash {
	if len(leaves) == 1 {
		return seal.LeafHash(leaves[0])
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	return ledger.Hash(tlog.NodeHash(tlog.Hash(naiveRoot(leaves[:k])), tlog.Hash(naiveRoot(leaves[k:]))))
}

// The same entries give the same rows, however they were cut into batches and however
// often the index was opened anew.
func TestBatchesAndRestarts(t *testing.T) {
	w := newWorld(t, 2, 300)
	reference := open(t, vfs.NewMem())
	w.fold(t, reference, len(w.inputs), every(len(w.inputs)))
	want := digest(t, reference)
	for _, size := range []int{1, 7, 64} {
		t.Run(fmt.Sprintf("batches of %d", size), func(t *testing.T) {
			fs := vfs.NewMem()
			for at := 0; at < len(w.inputs); {
				at = min(at+90, len(w.inputs))
				x := open(t, fs)
				w.fold(t, x, at, every(size))
				scrub(t, x)
				closeIndex(t, x)
			}
			x := open(t, fs)
			if got := digest(t, x); got != want {
				t.Errorf("rows differ: %x, want %x", got, want)
			}
			if x.Accumulator() != reference.Accumulator() || x.Position() != reference.Position() {
				t.Errorf("accumulator %x at %+v, want %x at %+v", x.Accumulator(), x.Position(), reference.Accumulator(), reference.Position())
			}
			stores, err := reference.Stores(ledger.ID{}, 1000)
			if err != nil || len(stores) != len(w.stores) {
				t.Fatalf("Stores = %d, %v, want %d", len(stores), err, len(w.stores))
			}
			for _, s := range append(stores, Head{Store: ledger.System}) {
				a, _ := reference.Head(s.Store)
				if b, _ := x.Head(s.Store); a != b {
					t.Errorf("Head(%s) = %+v, want %+v", s.Store, b, a)
				}
			}
		})
	}
	// The control: other entries do not give the same rows.
	other := open(t, vfs.NewMem())
	w.inputs[len(w.inputs)/2].Origin.Attester = "edge-2"
	w.fold(t, other, len(w.inputs), every(50))
	if digest(t, other) == want {
		t.Error("another entry, the same rows")
	}
}

// After a crash at any moment the index is an earlier state, whole, and folds on to
// the same rows as a fold from the start.
func TestCrash(t *testing.T) {
	w := newWorld(t, 3, 250)
	whole := open(t, vfs.NewMem())
	w.fold(t, whole, len(w.inputs), every(20))
	want := digest(t, whole)
	r := rand.New(rand.NewPCG(3, 3))
	back, lost := 0, 0
	for round := range 25 {
		fs := vfs.NewCrashableMem()
		at := 0
		for crash := range 4 {
			x := open(t, fs)
			if got := int(x.Position().Seq); got > at {
				t.Fatalf("round %d: position %d after a crash at %d", round, got, at)
			} else if got < at {
				back++
				lost += at - got
			}
			scrub(t, x)
			checkPrefix(t, w, x)
			if at = int(x.Position().Seq) + r.IntN(len(w.inputs)); crash == 3 || at > len(w.inputs) {
				at = len(w.inputs)
			}
			w.fold(t, x, at, func() int { return 1 + r.IntN(30) })
			if r.IntN(3) == 0 {
				if err := x.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
			closeIndex(t, x)
			fs = clone
		}
		x := open(t, fs)
		w.fold(t, x, len(w.inputs), every(13))
		if got := digest(t, x); got != want {
			t.Fatalf("round %d: rows differ after crashes", round)
		}
		scrub(t, x)
		closeIndex(t, x)
	}
	if back == 0 {
		t.Error("no crash lost anything, so the test shows nothing")
	}
	t.Logf("%d of 100 crashes went back, by %d messages in all", back, lost)
}

// checkPrefix compares the heads with a fold of as many messages as the position says.
func checkPrefix(t *testing.T, w *world, x *Index) {
	t.Helper()
	m := w.memory(t, int(x.Position().Seq))
	if x.Position() != (ledger.Position{}) && x.Position() != w.position(int(x.Position().Seq), m.Epoch()) {
		t.Fatalf("position %+v is none of the world's", x.Position())
	}
	for _, store := range w.stores {
		entries := m.Entries(store)
		head, ok := x.Head(store)
		if ok != (len(entries) > 0) || int(head.Revision) != len(entries) {
			t.Fatalf("store %s is at %d, want %d", store, head.Revision, len(entries))
		}
		if ok && head.Leaf != seal.LeafHash(ledger.AppendEntry(nil, &entries[len(entries)-1])) {
			t.Fatalf("store %s has another entry %d", store, head.Revision)
		}
	}
}

// A command with a single change, a ticket and a reason writes at most 8 rows, the
// position's among them; 9 if it is rejected.
func TestRowsOfSingleChange(t *testing.T) {
	w := newWorld(t, 4, 0)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(10))
	compiled := companyModel(t)
	for _, tt := range []struct {
		name   string
		change ledger.Change
		want   uint32
	}{
		{"grant", ledger.Change{Kind: ledger.Grant, Tuple: w.pool[0], ExpiresAfter: 1e9}, 8},
		{"grant again", ledger.Change{Kind: ledger.Grant, Tuple: w.pool[0]}, 8},
		{"revoke", ledger.Change{Kind: ledger.Revoke, Tuple: w.pool[0]}, 8},
		{"no effect", ledger.Change{Kind: ledger.Revoke, Tuple: w.pool[0]}, 8},
		{"rejected", ledger.Change{Kind: ledger.Grant, Tuple: mustParse(t, "lion:leo#eats@user:ann")}, 9},
		{"model", ledger.Change{Kind: ledger.WriteModel, Model: ledger.ModelSource{ID: ledger.NewID(), Kind: ledger.SourceDSL, Source: []byte("m"), Compiled: compiled}}, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ledger.Command{ID: ledger.NewUUID(), Store: w.stores[0], Reason: "why", Ticket: "OPS-7", Changes: []ledger.Change{tt.change}}
			in := w.inputs[0]
			in.Raw, in.Time = ledger.AppendCommand(nil, &c), 1_800_000_000_000_000_000
			w.inputs = append(w.inputs, in)
			b := x.NewBatch()
			w.append(t, b, len(w.inputs)-1)
			if got := b.rows.Count() + 1; got != tt.want { // and the position's row
				t.Errorf("%d rows, want %d", got, tt.want)
			}
			if err := b.Commit(w.position(len(w.inputs), b.Epoch())); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A batch that is given up leaves nothing, and the next begins where it began.
func TestBatchClose(t *testing.T) {
	w := newWorld(t, 5, 60)
	x := open(t, vfs.NewMem())
	w.fold(t, x, 30, every(9))
	before, sum := digest(t, x), x.Accumulator()
	b := x.NewBatch()
	for i := 30; i < 60; i++ {
		w.append(t, b, i)
	}
	if b.Len() < 30 || b.Size() == 0 {
		t.Errorf("Len %d, Size %d", b.Len(), b.Size())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if digest(t, x) != before || x.Accumulator() != sum {
		t.Error("a batch that was closed left something")
	}
	w.fold(t, x, 60, every(9))
	scrub(t, x)
}

func TestCommitRefuses(t *testing.T) {
	x := open(t, vfs.NewMem())
	b := x.NewBatch()
	if err := b.Commit(ledger.Position{Seq: 1, Epoch: 1}); err == nil {
		t.Error("a position of another epoch was committed")
	}
	if err := x.NewBatch().Commit(ledger.Position{}); err == nil {
		t.Error("a position that is not after the one before was committed")
	}
	if x.Position() != (ledger.Position{}) {
		t.Error("the position moved")
	}
}

func TestOneBatchAtATime(t *testing.T) {
	x := open(t, vfs.NewMem())
	b := x.NewBatch()
	defer b.Close()
	defer func() {
		if recover() == nil {
			t.Error("a second batch began")
		}
	}()
	x.NewBatch()
}

// The writer finds what was written lately and what is in tables, also after the index
// was opened anew; and it forgets what it need not remember.
func TestRecent(t *testing.T) {
	w := newWorld(t, 16, 300)
	fs := vfs.NewMem()
	x := open(t, fs)
	check := func(when string, at int) {
		t.Helper()
		m := w.memory(t, at)
		b := x.NewBatch()
		defer b.Close()
		for _, store := range w.stores {
			for _, tup := range w.pool {
				want, wanted, _ := m.Grant(store, tup)
				if got, ok, err := b.Grant(store, tup); err != nil || ok != wanted || !got.Equal(want) {
					t.Fatalf("%s: Grant(%s) = %+v, %v, %v, want %+v, %v", when, tup, got, ok, err, want, wanted)
				}
			}
		}
	}
	w.fold(t, x, 100, every(10))
	check("in memory", 100)
	if len(x.recent.chunks) == 0 {
		t.Error("nothing is remembered")
	}
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	check("in tables", 100)
	if len(x.recent.chunks) != 0 {
		t.Errorf("%d chunks are remembered after a flush", len(x.recent.chunks))
	}
	w.fold(t, x, 200, every(10))
	check("in both", 200)
	closeIndex(t, x)
	x = open(t, fs)
	check("opened anew", 200)
	w.fold(t, x, 250, every(10))
	check("opened anew and written", 250)
	// The control: a writer that forgets too early decides on an older state.
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	w.fold(t, x, 300, every(10))
	x.recent.chunks = nil
	m := w.memory(t, 300)
	b := x.NewBatch()
	defer b.Close()
	wrong := 0
	for _, store := range w.stores {
		for _, tup := range w.pool {
			want, wanted, _ := m.Grant(store, tup)
			if got, ok, _ := b.Grant(store, tup); ok != wanted || !got.Equal(want) {
				wrong++
			}
		}
	}
	if wrong == 0 {
		t.Error("the test does not notice what is forgotten")
	}
}

func TestRecentChunks(t *testing.T) {
	r := recent{seed: maphash.MakeSeed(), since: 5}
	key := func(i int) []byte { return fmt.Append(nil, "key ", i) }
	const n = 3 * recentChunkSize
	for i := range n {
		r.add(string(key(i)), uint64(10+i/100)) // a commit has 100
	}
	if len(r.chunks) != 3 {
		t.Errorf("%d chunks", len(r.chunks))
	}
	for i := range n {
		if !r.has(key(i)) {
			t.Fatalf("%s is forgotten", key(i))
		}
	}
	if r.flushed(4) {
		t.Error("what was written between 4 and 5 is nowhere, yet all is said to be there")
	}
	if first := r.chunks[0].last; !r.flushed(first-1) || len(r.chunks) != 3 || !r.flushed(first) || len(r.chunks) != 2 {
		t.Errorf("%d chunks after what the first holds was flushed", len(r.chunks))
	}
	if !r.has(key(n - 1)) {
		t.Error("a chunk that was not flushed is forgotten")
	}
}

// What a View answers stays, whatever is committed meanwhile; and commits close the
// iterators that are idle.
func TestViewStays(t *testing.T) {
	w := newWorld(t, 6, 200)
	x := open(t, vfs.NewMem())
	half := len(w.inputs) / 2
	w.fold(t, x, half, every(20))
	m := w.memory(t, half)
	store := w.stores[0]
	v, err := x.View(store, 0)
	if err != nil {
		t.Fatal(err)
	}
	idle, err := x.View(store, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := idle.Grant(w.pool[0]); err != nil {
		t.Fatal(err)
	}
	idle.Close()
	idle.Close()
	if len(x.idle) != 1 {
		t.Fatalf("%d readers idle, want 1", len(x.idle))
	}
	w.fold(t, x, len(w.inputs), every(20))
	if len(x.idle) != 0 {
		t.Errorf("%d stale readers idle after a commit", len(x.idle))
	}
	var leaves [][]byte
	for _, e := range m.Entries(store) {
		leaves = append(leaves, ledger.AppendEntry(nil, &e))
	}
	compareView(t, v, m, w.pool, leaves) // its iterators are made only now
	v.Close()
	if len(x.idle) != 0 {
		t.Errorf("a stale reader was kept")
	}
}

// Yield of Subjects may ask the view, also for Subjects.
func TestSubjectsNested(t *testing.T) {
	w := newWorld(t, 7, 300)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(50))
	var deepest int
	for _, store := range w.stores {
		v, err := x.View(store, 0)
		if err != nil {
			t.Fatal(err)
		}
		outer := 0
		err = v.Subjects(tuple.Object{Type: "doc", ID: "d1"}, "owner", "group", "member", "", func(s tuple.Subject, _ model.Grant) bool {
			outer++
			err := v.Subjects(s.Object(), "member", "user", "", "", func(u tuple.Subject, _ model.Grant) bool {
				deepest++
				_, ok, err := v.Grant(tuple.Tuple{Object: s.Object(), Relation: "member", Subject: u})
				if err != nil || !ok {
					t.Errorf("Grant of what Subjects yielded = %v, %v", ok, err)
				}
				return true
			})
			if err != nil {
				t.Error(err)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		plain := 0
		if err := v.Subjects(tuple.Object{Type: "doc", ID: "d1"}, "owner", "group", "member", "", func(tuple.Subject, model.Grant) bool { plain++; return true }); err != nil {
			t.Fatal(err)
		}
		if outer != plain {
			t.Errorf("%d subjects with questions within, %d without", outer, plain)
		}
		stopped := 0
		if err := v.Subjects(tuple.Object{Type: "doc", ID: "d1"}, "owner", "group", "member", "", func(tuple.Subject, model.Grant) bool { stopped++; return false }); err != nil || stopped != min(1, plain) {
			t.Errorf("%d subjects after the first was enough, %v", stopped, err)
		}
		v.Close()
	}
	if deepest == 0 {
		t.Error("nothing was nested")
	}
}

func TestViewErrors(t *testing.T) {
	w := newWorld(t, 8, 20)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(20))
	store := w.stores[0]
	head, _ := x.Head(store)
	if _, err := x.View(ledger.ID{9}, 0); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("view of no store: %v", err)
	}
	if _, err := x.View(store, head.Revision+1); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("view of the future: %v", err)
	}
	v, err := x.View(store, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, rev := range []ledger.Revision{0, 2} {
		if _, err := v.Entry(rev); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("entry %d of a view at 1: %v", rev, err)
		}
	}
	if _, err := v.Leaf(2); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("leaf 2 of a view at 1: %v", err)
	}
	if _, err := v.ReadHashes([]int64{tlog.StoredHashIndex(0, 1)}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("hash of leaf 2 of a view at 1: %v", err)
	}
	if _, _, err := v.ModelSource(ledger.ID{}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("model before the first: %v", err)
	}
	if m, err := v.Model(ledger.ID{}); m != nil || err != nil || !v.NewestModel().IsZero() || len(v.Models()) != 0 {
		t.Errorf("model before the first: %v, %v, %s, %v", m, err, v.NewestModel(), v.Models())
	}
	empty := open(t, vfs.NewMem())
	none, err := empty.View(ledger.System, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	if root, err := none.Root(); err != nil || root != ledger.Hash(sha(nil)) {
		t.Errorf("root of nothing = %x, %v", root, err)
	}
	if at, err := none.RevisionAt(1); at != 0 || err != nil {
		t.Errorf("RevisionAt in an empty store = %d, %v", at, err)
	}
}

func TestModels(t *testing.T) {
	w := newWorld(t, 9, 300)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(30))
	for _, store := range w.stores {
		v, err := x.View(store, 0)
		if err != nil {
			t.Fatal(err)
		}
		models := v.Models()
		if !slices.IsSortedFunc(models, func(a, b ModelAt) int { return cmp.Compare(a.Revision, b.Revision) }) || len(models) == 0 {
			t.Fatalf("Models = %v", models)
		}
		if newest := models[len(models)-1].ID; v.NewestModel() != newest {
			t.Errorf("NewestModel = %s, want %s", v.NewestModel(), newest)
		}
		for _, m := range models {
			source, rev, err := v.ModelSource(m.ID)
			if err != nil || rev != m.Revision || source.ID != m.ID || string(source.Source) != "model" || source.Kind != ledger.SourceDSL {
				t.Fatalf("ModelSource(%s) = %+v, %d, %v", m.ID, source, rev, err)
			}
			parsed, err := v.Model(m.ID)
			again, _ := v.Model(m.ID)
			if err != nil || parsed == nil || parsed != again {
				t.Fatalf("Model(%s) = %p, then %p, %v", m.ID, parsed, again, err)
			}
			past, err := x.View(store, m.Revision-1)
			if err != nil {
				t.Fatal(err)
			}
			if early, err := past.Model(m.ID); early != nil || err != nil {
				t.Errorf("model %s before it was written: %v, %v", m.ID, early, err)
			}
			past.Close()
		}
		v.Close()
	}
}

// A model that was evicted from the parsed ones is parsed again.
func TestParsedModelsAreBounded(t *testing.T) {
	w := newWorld(t, 9, 0)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(30))
	v, err := x.View(w.stores[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	first, err := v.Model(ledger.ID{})
	if err != nil || first == nil {
		t.Fatal(first, err)
	}
	for range x.parsed.kept {
		m := &modelAt{}
		m.parsed.Store(first)
		x.parsed.adopt(m)
	}
	second, err := v.Model(ledger.ID{})
	if err != nil || second == first || !reflect.DeepEqual(first, second) {
		t.Errorf("after eviction %p, %v; before %p", second, err, first)
	}
}

func TestEntries(t *testing.T) {
	w := newWorld(t, 10, 200)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(30))
	m := w.memory(t, len(w.inputs))
	store := w.stores[0]
	want := m.Entries(store)
	at := ledger.Revision(len(want) - 3)
	v, err := x.View(store, at)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, from := range []ledger.Revision{0, 1, 5, at, at + 1} {
		next := max(from, 1)
		for e, err := range v.Entries(from) {
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := v.Grant(w.pool[0]); err != nil { // the loop may ask
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*e, want[next-1]) {
				t.Fatalf("entry %d = %+v, want %+v", next, *e, want[next-1])
			}
			next++
		}
		if next != at+1 {
			t.Errorf("entries from %d end before %d, want %d", from, next, at+1)
		}
	}
	for range v.Entries(1) {
		break
	}
	// An entry that is missing is damage, not the end.
	if err := x.db.Delete(appendByRevision(nil, familyEntry, store, at), pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	fresh, err := x.View(store, at)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	fresh.r = &readers{db: x.db, options: &iterOptions}
	defer fresh.r.close()
	var last error
	for _, err := range fresh.Entries(at - 2) {
		last = err
	}
	if !errors.Is(last, ErrDamaged) {
		t.Errorf("a missing entry: %v", last)
	}
}

// Command ids are found in the index, in the batch, and only under their store and actor.
func TestCommand(t *testing.T) {
	w := newWorld(t, 12, 100)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(30))
	m := w.memory(t, len(w.inputs))
	found := 0
	for _, in := range w.inputs {
		c, rejection := ledger.ReadCommand(in.Raw, in.Version)
		if rejection != nil {
			continue
		}
		for _, actor := range []string{in.Origin.Actor, "nobody"} {
			want, wanted, _ := m.Command(c.Store, actor, c.ID)
			got, ok, err := x.Command(c.Store, actor, c.ID)
			if err != nil || ok != wanted || got != want {
				t.Fatalf("Command(%s, %s, %s) = %+v, %v, %v, want %+v, %v", c.Store, actor, c.ID, got, ok, err, want, wanted)
			}
			if ok {
				found++
			}
		}
	}
	if found == 0 {
		t.Error("no command was found")
	}
}

func TestStores(t *testing.T) {
	w := newWorld(t, 13, 300)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(30))
	want := slices.Clone(w.stores)
	slices.SortFunc(want, func(a, b ledger.ID) int { return slices.Compare(a[:], b[:]) })
	var got []ledger.ID
	var deleted int
	for after := (ledger.ID{}); ; {
		page, err := x.Stores(after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, h := range page {
			got = append(got, h.Store)
			if h.Status == decide.Deleted {
				deleted++
				if h.Deleted < h.Created || h.DeletedBy == 0 {
					t.Errorf("%+v", h)
				}
			}
			if h.Admin != "ann" || h.CreatedBy == 0 || h.Name == "" {
				t.Errorf("%+v", h)
			}
		}
		after = got[len(got)-1]
	}
	if !slices.Equal(got, want) || deleted == 0 {
		t.Errorf("stores %v (%d deleted), want %v", got, deleted, want)
	}
}

// Readers and the fold at once; for the race detector.
func TestConcurrentReaders(t *testing.T) {
	w := newWorld(t, 14, 300)
	x := open(t, vfs.NewMem())
	w.fold(t, x, 20, every(20))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Add(1)
		go func() { // ends when the fold below is done
			defer wg.Done()
			r := rand.New(rand.NewPCG(seed, 9))
			for {
				select {
				case <-done:
					return
				default:
				}
				store := w.stores[r.IntN(2)]
				v, err := x.View(store, 0)
				if err != nil {
					t.Error(err)
					return
				}
				tup := w.pool[r.IntN(len(w.pool))]
				if _, _, err := v.Grant(tup); err != nil {
					t.Error(err)
				}
				if _, err := v.Model(ledger.ID{}); err != nil {
					t.Error(err)
				}
				if _, err := v.Leaf(1 + ledger.Revision(r.IntN(int(v.Revision())))); err != nil {
					t.Error(err)
				}
				if err := v.Subjects(tup.Object, tup.Relation, tup.Subject.Type, tup.Subject.Relation, "", func(tuple.Subject, model.Grant) bool { return true }); err != nil {
					t.Error(err)
				}
				v.Close()
			}
		}()
	}
	wg.Add(1)
	go func() { // ends when the fold below is done
		defer wg.Done()
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := x.Scrub(context.Background()); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	w.fold(t, x, len(w.inputs), every(3))
	close(done)
	wg.Wait()
}

// On a real disk: the directory is locked while open, opens again, and Drop removes
// the index and nothing else.
func TestDiskAndDrop(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	if err := Drop(dir); err != nil {
		t.Errorf("dropping what is not there: %v", err)
	}
	w := newWorld(t, 15, 50)
	x, err := Open(Options{Dir: dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	w.fold(t, x, len(w.inputs), every(10))
	if _, err := Open(Options{Dir: dir, Logger: quiet}); err == nil || errors.Is(err, ErrRebuild) || errors.Is(err, ErrNewerFormat) {
		t.Errorf("opening twice: %v", err)
	}
	if err := Drop(dir); err == nil {
		t.Error("an open index was dropped")
	}
	if x.Size() == 0 {
		t.Error("Size = 0")
	}
	want := digest(t, x)
	closeIndex(t, x)
	if x, err = Open(Options{Dir: dir, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	if digest(t, x) != want {
		t.Error("other rows after opening again")
	}
	closeIndex(t, x)
	foreign := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(foreign, []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Drop(dir); err == nil {
		t.Error("a directory with another file was dropped")
	}
	if x, err = Open(Options{Dir: dir, Logger: quiet}); err != nil {
		t.Fatalf("after a drop that was refused: %v", err)
	}
	closeIndex(t, x)
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if err := Drop(dir); err != nil {
		t.Fatal(err)
	}
	if x, err = Open(Options{Dir: dir, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	if x.Position() != (ledger.Position{}) {
		t.Errorf("position %+v after a drop", x.Position())
	}
	closeIndex(t, x)
	if _, err := x.View(ledger.System, 0); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("view of a closed index: %v", err)
	}
}

// The versions of tuples at every revision are those that the live tuples of all
// revisions up to it tell of: each grant, each change of one, each end.
func TestVersions(t *testing.T) {
	w := newWorld(t, 11, 300)
	x := open(t, vfs.NewMem())
	w.fold(t, x, len(w.inputs), every(17))
	m := w.memory(t, len(w.inputs))
	dead, changed := 0, 0
	for _, store := range w.stores {
		head, err := x.View(store, 0)
		if err != nil {
			t.Fatal(err)
		}
		want := map[tuple.Tuple][]Version{} // newest first
		before := map[tuple.Tuple]bool{}
		for rev := ledger.Revision(1); rev <= head.Revision(); rev++ {
			now := map[tuple.Tuple]bool{}
			for _, l := range m.Live(store, rev) {
				now[l.Tuple] = true
				if l.Revision == rev {
					want[l.Tuple] = append([]Version{{l.Tuple, rev, true, l.Grant}}, want[l.Tuple]...)
					if before[l.Tuple] {
						changed++
					}
				}
			}
			for u := range before {
				if !now[u] {
					want[u] = append([]Version{{Tuple: u, Revision: rev}}, want[u]...)
					dead++
				}
			}
			before = now
			v, err := head.At(rev)
			if err != nil {
				t.Fatal(err)
			}
			compareVersions(t, v, want, w.pool)
			v.Close()
		}
		head.Close()
	}
	if dead == 0 || changed == 0 {
		t.Errorf("%d revokes and %d changed grants; want some of each", dead, changed)
	}
}

// compareVersions compares the versions that a view has with those wanted.
func compareVersions(t *testing.T, v *View, want map[tuple.Tuple][]Version, pool []tuple.Tuple) {
	t.Helper()
	same := func(a, b Version) bool {
		return a.Tuple == b.Tuple && a.Revision == b.Revision && a.Live == b.Live && a.Grant.Equal(b.Grant)
	}
	for _, u := range pool {
		newest, ok, err := v.Newest(u)
		if versions := want[u]; err != nil || ok != (len(versions) > 0) || ok && !same(newest, versions[0]) {
			t.Fatalf("%s@%d: Newest(%s) = %+v, %v, %v, want the first of %+v", v.Store(), v.Revision(), u, newest, ok, err, versions)
		}
		g, live, err := v.Granted(u)
		if err != nil || live != newest.Live || live && !same(Version{g.Tuple, g.Revision, true, g.Grant}, newest) {
			t.Fatalf("%s@%d: Granted(%s) = %+v, %v, %v, want %+v", v.Store(), v.Revision(), u, g, live, err, newest)
		}
	}
	for _, p := range []Prefix{
		ByObject(tuple.Object{}, "", nil, ""), ByObject(pool[0].Object, "", nil, ""),
		ByObject(pool[0].Object, pool[0].Relation, &model.Kind{Type: pool[0].Subject.Type}, pool[0].Subject.ID),
		BySubject(pool[2].Subject, "", ""),
	} {
		var all, newest []Version
		for u, versions := range want {
			if p.Has(u) && len(versions) > 0 {
				all, newest = append(all, versions...), append(newest, versions[0])
			}
		}
		order := func(a, b Version) int {
			return bytes.Compare(appendVersion(p.key(nil, v.Store(), a.Tuple), a.Revision), appendVersion(p.key(nil, v.Store(), b.Tuple), b.Revision))
		}
		slices.SortFunc(all, order)
		slices.SortFunc(newest, order)
		for what, read := range map[string]func(Prefix, func(Version) bool) error{"Versions": v.Versions, "NewestVersions": v.NewestVersions} {
			wanted := all
			if what == "NewestVersions" {
				wanted = newest
			}
			var got []Version
			if err := read(p, func(n Version) bool {
				if _, _, err := v.Newest(n.Tuple); err != nil { // yield may ask the view
					t.Fatal(err)
				}
				got = append(got, n)
				return true
			}); err != nil || !slices.EqualFunc(got, wanted, same) {
				t.Fatalf("%s@%d: %s of %v = %+v, %v, want %+v", v.Store(), v.Revision(), what, p, got, err, wanted)
			}
			first := 0
			if err := read(p, func(Version) bool { first++; return false }); err != nil || first != min(1, len(wanted)) {
				t.Fatalf("%s: %d versions after the first was enough, %v", what, first, err)
			}
		}
	}
}

// A view at another revision is of the same head, within the head's revisions.
func TestAt(t *testing.T) {
	w := newWorld(t, 12, 0)
	x := open(t, vfs.NewMem())
	store := w.stores[0]
	for i := range 2 * stopEvery { // so that a scan of all versions asks Stop
		c := ledger.Command{ID: ledger.UUID{1, byte(i), byte(i >> 8)}, Store: store, Changes: []ledger.Change{{Kind: ledger.Grant + ledger.ChangeKind(i%2), Tuple: w.pool[0]}}}
		in := w.inputs[0]
		in.Raw = ledger.AppendCommand(nil, &c)
		w.inputs = append(w.inputs, in)
	}
	w.fold(t, x, len(w.inputs)-stopEvery/2, every(100))
	v, err := x.View(store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	gone := errors.New("gone")
	v.Stop = func() error { return gone }
	w.fold(t, x, len(w.inputs), every(100))
	for _, rev := range []ledger.Revision{0, v.Revision() + 1} {
		if _, err := v.At(rev); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("At(%d) of a view at %d: %v", rev, v.Revision(), err)
		}
	}
	first, err := v.At(1)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	again, err := first.At(v.Revision())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	versions := 0
	if err := again.Versions(ByObject(tuple.Object{}, "", nil, ""), func(Version) bool { versions++; return true }); err != gone || versions != stopEvery-2 { // after one newer than the view
		t.Errorf("Versions ends after %d with %v, want the error of Stop", versions, err)
	}
	if first.Revision() != 1 || again.Revision() != v.Revision() || first.Head() != v.Head() || first.Epoch() != v.Epoch() || first.Stop() != gone {
		t.Errorf("views at %d and %d, of %+v, want 1 and %d, of %+v", first.Revision(), again.Revision(), first.Head(), v.Revision(), v.Head())
	}
}
