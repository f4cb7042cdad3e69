package model

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// listModel has every way in which a list is made: groups in groups, a hierarchy, an
// intersection and an exclusion of relations that may be large or small.
func listModel(t testing.TB) *Model {
	t.Helper()
	user, member := Direct{Type: "user"}, Direct{Type: "group", Relation: "member"}
	m := &Model{Schema: "1.1", Conditions: testConditions, Types: []Type{
		{Name: "user"},
		{Name: "group", Relations: []Relation{{Name: "member", Rule: Rule{Op: This}, Direct: []Direct{user, member}}}},
		{Name: "folder", Relations: []Relation{
			{Name: "parent", Rule: Rule{Op: This}, Direct: []Direct{{Type: "folder"}}},
			{Name: "viewer", Rule: Rule{Op: Union, Children: []Rule{{Op: This}, {Op: From, Relation: "viewer", Tupleset: "parent"}}}, Direct: []Direct{user, member}},
		}},
		{Name: "doc", Relations: []Relation{
			{Name: "parent", Rule: Rule{Op: This}, Direct: []Direct{{Type: "folder"}}},
			{Name: "viewer", Rule: Rule{Op: Union, Children: []Rule{{Op: This}, {Op: From, Relation: "viewer", Tupleset: "parent"}}}, Direct: []Direct{user, member}},
			{Name: "a", Rule: Rule{Op: This}, Direct: []Direct{user, {Type: "user", Wildcard: true}, member}},
			{Name: "b", Rule: Rule{Op: This}, Direct: []Direct{user, member}},
			{Name: "c", Rule: Rule{Op: This}, Direct: []Direct{user}},
			{Name: "few", Rule: Rule{Op: Intersect, Children: []Rule{computed("b"), computed("c")}}},
			{Name: "both", Rule: Rule{Op: Intersect, Children: []Rule{computed("a"), computed("b")}}},
			{Name: "only", Rule: Rule{Op: Exclude, Children: []Rule{computed("a"), computed("b")}}},
		}},
	}}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	return m
}

// fill grants a relation on n objects of a type, or to n subjects: %d in the text is the number.
func (m *mem) fill(t testing.TB, text string, n int) *mem {
	t.Helper()
	for i := range n {
		m.set(parse(t, strings.ReplaceAll(text, "%d", fmt.Sprintf("%06d", i))), Grant{})
	}
	return m
}

type lister func(m *Model, sc Scope, after string, yield func(Item) bool) (Spent, error)

func objectsOf(subject, typ, relation string) lister {
	return func(m *Model, sc Scope, after string, yield func(Item) bool) (Spent, error) {
		s, err := tuple.ParseSubject(subject)
		if err != nil {
			return Spent{}, err
		}
		return m.ListObjects(sc, s, typ, relation, after, yield)
	}
}

func subjectsOf(object, relation string, kind Kind) lister {
	return func(m *Model, sc Scope, after string, yield func(Item) bool) (Spent, error) {
		o, err := tuple.ParseObject(object)
		if err != nil {
			return Spent{}, err
		}
		return m.ListSubjects(sc, o, relation, kind, after, yield)
	}
}

// TestListRows bounds the rows that a list reads by its answer, whatever else is granted.
func TestListRows(t *testing.T) {
	const many = 20_000
	m := listModel(t)
	for _, tt := range []struct {
		name  string
		world func(*mem)
		list  lister
		items int
		rows  int // at most
	}{
		{"objects of others", func(w *mem) { w.fill(t, "doc:%d#viewer@user:bob", many).fill(t, "doc:mine%d#viewer@user:ann", 3) },
			objectsOf("user:ann", "doc", "viewer"), 3, 20},
		{"objects through a group and a folder", func(w *mem) {
			w.fill(t, "doc:%d#viewer@user:bob", many).read(t, "group:eng#member@user:ann", "folder:top#viewer@group:eng#member", "folder:sub#parent@folder:top").
				fill(t, "doc:mine%d#parent@folder:sub", 50)
		}, objectsOf("user:ann", "doc", "viewer"), 50, 200},
		{"objects, small and large operand", func(w *mem) { w.fill(t, "doc:%d#a@user:ann", 10).fill(t, "doc:%d#b@user:ann", many) },
			objectsOf("user:ann", "doc", "both"), 10, 200},
		{"objects, large and small operand", func(w *mem) { w.fill(t, "doc:%d#a@user:ann", many).fill(t, "doc:%d#b@user:ann", 10) },
			objectsOf("user:ann", "doc", "both"), 10, 200},
		{"objects, everyone's operand and a small one", func(w *mem) { w.fill(t, "doc:%d#a@user:*", many).fill(t, "doc:%d#b@user:ann", 10) },
			objectsOf("user:ann", "doc", "both"), 10, 200},
		{"objects, a large operand through many groups", func(w *mem) {
			w.fill(t, "group:%d#member@user:ann", many).fill(t, "doc:%d#b@group:%d#member", many).fill(t, "doc:%d#c@user:ann", 10)
		}, objectsOf("user:ann", "doc", "few"), 10, 300},
		{"objects, small side and large subtracted side", func(w *mem) { w.fill(t, "doc:%d#a@user:ann", 10).fill(t, "doc:%d#b@user:ann", many) },
			objectsOf("user:ann", "doc", "only"), 0, 100},
		{"the first objects of many", func(w *mem) { w.fill(t, "doc:%d#viewer@user:ann", many) },
			func(m *Model, sc Scope, after string, yield func(Item) bool) (Spent, error) {
				n := 0
				return objectsOf("user:ann", "doc", "viewer")(m, sc, after, func(i Item) bool { n++; return yield(i) && n < 10 })
			}, 10, 300},
		{"subjects of other objects", func(w *mem) { w.fill(t, "doc:%d#viewer@user:%d", many).fill(t, "doc:mine#viewer@user:%d", 3) },
			subjectsOf("doc:mine", "viewer", Kind{Type: "user"}), 3, 20},
		{"subjects, small and large operand", func(w *mem) { w.fill(t, "doc:x#a@user:%d", 10).fill(t, "doc:x#b@user:%d", many) },
			subjectsOf("doc:x", "both", Kind{Type: "user"}), 10, 300},
		{"subjects, large and small operand", func(w *mem) { w.fill(t, "doc:x#a@user:%d", many).fill(t, "doc:x#b@user:%d", 10) },
			subjectsOf("doc:x", "both", Kind{Type: "user"}), 10, 300},
		{"subjects, small side and large subtracted side", func(w *mem) { w.fill(t, "doc:x#a@user:%d", 10).fill(t, "doc:x#b@user:%d", many) },
			subjectsOf("doc:x", "only", Kind{Type: "user"}), 0, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newMem()
			tt.world(w)
			n := 0
			spent, err := tt.list(m, Scope{Reader: w}, "", func(i Item) bool { n++; return i.Err == nil })
			if err != nil || n != tt.items || spent.Rows > tt.rows {
				t.Errorf("%d items, %+v, %v; want %d within %d rows", n, spent, err, tt.items, tt.rows)
			}
		})
	}
}

// hostileWorlds are made to cost much: chains of 1,000 groups and of 1,000 folders; a group
// of 100,000, in 100,000 groups; and 300 groups, each in each.
func hostileWorlds(t testing.TB) (deep, wide, dense *mem) {
	deep, dense = newMem(), newMem()
	for i := range 1000 {
		deep.read(t, fmt.Sprintf("group:%d#member@group:%d#member", i, i+1), fmt.Sprintf("folder:%d#parent@folder:%d", i, i+1))
	}
	deep.read(t, "group:1000#member@user:ann", "folder:1000#viewer@user:ann")
	wide = newMem().fill(t, "group:wide#member@user:%d", 100_000).fill(t, "group:%d#member@group:wide#member", 100_000).
		fill(t, "group:huge#member@group:%d#member", 100_000).read(t, "group:wide#member@user:ann")
	for i := range 300 {
		for j := range 300 {
			dense.read(t, fmt.Sprintf("group:%d#member@group:%d#member", i, j))
		}
	}
	dense.read(t, "group:0#member@user:ann", "doc:x#viewer@group:7#member")
	return deep, wide, dense
}

// TestCheckHostile asks for what costs too much: each ends the same way every time.
func TestCheckHostile(t *testing.T) {
	m := listModel(t)
	deep, wide, dense := hostileWorlds(t)
	for _, tt := range []struct {
		name   string
		world  *mem
		ask    string
		budget Budget
		want   string // allowed, denied, or what of a BudgetError
	}{
		{"deep groups", deep, "group:0#member@user:ann", Budget{}, "depth"},
		{"deep folders", deep, "folder:0#viewer@user:ann", Budget{}, "depth"},
		{"deep enough", deep, "group:0#member@user:ann", Budget{Depth: 1000}, "allowed"},
		{"a group of 100,000", wide, "group:wide#member@user:ann", Budget{}, "allowed"},
		{"a group of 100,000 that one is not in", wide, "group:wide#member@user:bob", Budget{}, "denied"},
		{"a group of 100,000 groups", wide, "group:huge#member@user:bob", Budget{}, "rows"},
		{"a group of 100,000 groups, little memory", wide, "group:huge#member@user:bob", Budget{Memory: 1 << 20}, "memory"},
		{"every group in every group", dense, "doc:x#viewer@user:ann", Budget{}, "allowed"},
		{"every group in every group, of somebody else", dense, "doc:x#viewer@user:bob", Budget{}, "rows"},
		{"every group in every group, with room to go round", dense, "doc:x#viewer@user:bob", Budget{Depth: 1000, Rows: 300_000}, "denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, ask := tt.world, parse(t, tt.ask)
			var first Spent
			for i := range 3 {
				allowed, spent, err := m.Check(Scope{Reader: w, Budget: tt.budget}, Question{ask.Object, ask.Relation, ask.Subject})
				got := map[bool]string{true: "allowed", false: "denied"}[allowed]
				var budget *BudgetError
				if errors.As(err, &budget) {
					got = budget.What
				} else if err != nil {
					t.Fatal(err)
				}
				if got != tt.want || i > 0 && spent != first {
					t.Fatalf("%s, %+v, %v; want %s, before %+v", got, spent, err, tt.want, first)
				}
				first = spent
			}
		})
	}
}

// TestListHostile is TestCheckHostile for lists.
func TestListHostile(t *testing.T) {
	m := listModel(t)
	deep, wide, dense := hostileWorlds(t)
	for _, tt := range []struct {
		name   string
		world  *mem
		list   lister
		budget Budget
		what   string // of the BudgetError, "" for an answer
		items  int
	}{
		{"deep groups", deep, objectsOf("user:ann", "group", "member"), Budget{}, "depth", 0},
		{"deep folders", deep, objectsOf("user:ann", "folder", "viewer"), Budget{}, "depth", 0},
		{"deep enough", deep, objectsOf("user:ann", "folder", "viewer"), Budget{Depth: 1000}, "", 1001},
		{"deep, of subjects", deep, subjectsOf("group:0", "member", Kind{Type: "user"}), Budget{}, "depth", 0},
		{"a group of 100,000", wide, subjectsOf("group:wide", "member", Kind{Type: "user"}), Budget{}, "", 100_001},
		{"a group of 100,000, few rows", wide, subjectsOf("group:wide", "member", Kind{Type: "user"}), Budget{Rows: 5000}, "rows", -1},
		{"in 100,000 groups", wide, objectsOf("user:ann", "group", "member"), Budget{}, "", 100_002},
		{"in 100,000 groups, little memory", wide, objectsOf("user:ann", "group", "member"), Budget{Memory: 1 << 20}, "memory", 0},
		{"every group in every group", dense, objectsOf("user:ann", "group", "member"), Budget{}, "", 300},
		{"every group in every group, of subjects", dense, subjectsOf("doc:x", "viewer", Kind{Type: "user"}), Budget{}, "", 1},
		{"every group in every group, few rows", dense, subjectsOf("doc:x", "viewer", Kind{Type: "user"}), Budget{Rows: 1000}, "rows", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.world
			var first Spent
			var ended string
			for i := range 3 {
				n := 0
				spent, err := tt.list(m, Scope{Reader: w, Budget: tt.budget}, "", func(Item) bool { n++; return true })
				var budget *BudgetError
				switch {
				case tt.what == "" && (err != nil || n != tt.items):
					t.Fatalf("%d items, %v; want %d", n, err, tt.items)
				case tt.what != "" && (!errors.As(err, &budget) || budget.What != tt.what || budget.Spent != spent || tt.items >= 0 && n != tt.items):
					t.Fatalf("%d items, %+v, %v; want an error of %s that says what was spent", n, spent, err, tt.what)
				case i > 0 && (spent != first || fmt.Sprint(n, err) != ended):
					t.Fatalf("%d items, %+v, %v; before %+v, %s", n, spent, err, first, ended)
				}
				first, ended = spent, fmt.Sprint(n, err)
			}
			if _, err := tt.list(m, Scope{Reader: w, Budget: tt.budget, Stop: func(Spent) error { return errCondition }}, "", func(Item) bool { return true }); err != errCondition {
				t.Errorf("stopped: %v, want the error of Stop", err)
			}
		})
	}
}

// TestListFails: an error of the reader ends a list, wherever it comes.
func TestListFails(t *testing.T) {
	m := listModel(t)
	w := newMem().fill(t, "doc:%d#a@user:ann", 5).fill(t, "doc:%d#b@group:eng#member", 3).
		read(t, "group:eng#member@group:all#member", "group:all#member@user:ann", "doc:x#a@user:*", "doc:x#b@user:bob")
	for _, list := range []lister{objectsOf("user:ann", "doc", "both"), objectsOf("user:ann", "doc", "only"), subjectsOf("doc:x", "both", Kind{Type: "user"}), subjectsOf("doc:000001", "only", Kind{Type: "user"})} {
		w.reads, w.fail, w.failAt = 0, nil, 0
		if _, err := list(m, Scope{Reader: w}, "", func(Item) bool { return true }); err != nil {
			t.Fatal(err)
		}
		for w.failAt = w.reads; w.failAt > 0; w.failAt-- {
			w.reads, w.fail = 0, errors.New("the disk is gone")
			if _, err := list(m, Scope{Reader: w}, "", func(Item) bool { return true }); err != w.fail {
				t.Fatalf("failing at read %d: %v, want that error", w.failAt, err)
			}
		}
	}
}

// conditionalModel has lists most of whose rows may be grants whose conditions do not hold.
func conditionalModel(t *testing.T) *Model {
	t.Helper()
	m := &Model{Schema: "1.1", Conditions: testConditions, Types: []Type{{Name: "user"},
		{Name: "group", Relations: []Relation{relation("member", this, "user")}},
		{Name: "doc", Relations: []Relation{relation("viewer", this, "user", "user:*", "user with no", "group#member", "group#member with no")}},
	}}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestListStopped: a list that is stopped among many rows that do not hold has told what
// lies before them, and no more.
func TestListStopped(t *testing.T) {
	const many = 30_000
	m := conditionalModel(t)
	w := newMem().read(t, "doc:a#viewer@user:*", "doc:z#viewer@user:*", "doc:x#viewer@user:aa", "doc:x#viewer@group:g#member", "group:g#member@user:ab", "group:g#member@user:z")
	for i := range many {
		w.read(t, fmt.Sprintf("doc:d%06d#viewer@user:ann no", i), fmt.Sprintf("doc:x#viewer@user:d%06d no", i))
	}
	for i := range 20 {
		w.read(t, fmt.Sprintf("group:g%02d#member@user:ben", i))
		for j := range many / 20 {
			w.read(t, fmt.Sprintf("doc:d%02d-%04d#viewer@group:g%02d#member no", 19-i, j, i))
		}
	}
	stopped := errors.New("stopped")
	for _, tt := range []struct {
		name string
		list lister
		want string
	}{
		{"objects", objectsOf("user:ann", "doc", "viewer"), "a z"},
		{"objects through groups", objectsOf("user:ben", "doc", "viewer"), "a z"},
		{"subjects", subjectsOf("doc:x", "viewer", Kind{Type: "user"}), "aa ab z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := func(stop int) (got string, spent Spent, err error) {
				var ids []string
				spent, err = tt.list(m, Scope{Reader: w, Conditions: byName{}, Stop: func(s Spent) error {
					if s.Rows > stop {
						return stopped
					}
					return nil
				}}, "", func(i Item) bool {
					ids = append(ids, i.ID)
					return i.Err == nil
				})
				return strings.Join(ids, " "), spent, err
			}
			before, _ := strings.CutSuffix(tt.want, " z")
			for _, rows := range []int{5000, many - 1000} {
				if got, spent, err := list(rows); err != stopped || got != before {
					t.Errorf("stopped at %d rows: %q, %+v, %v, want %q and the error of Stop", rows, got, spent, err, before)
				}
			}
			if got, spent, err := list(1 << 30); err != nil || got != tt.want || spent.Rows > 2*many {
				t.Errorf("whole: %q, %+v, %v, want %q in at most %d rows", got, spent, err, tt.want, 2*many)
			}
		})
	}
}

// TestListWindows: lists are the same whatever the sizes of windows, hold what Check says,
// and one that ends for want of rows is the beginning of the whole one.
func TestListWindows(t *testing.T) {
	first, last := firstWindow, lastWindow
	defer func() { firstWindow, lastWindow = first, last }()
	cut, items := 0, 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 17))
		m := randomModel(r, seed%3 > 0)
		objects := randomObjects(8)
		w := randomWorld(r, m, objects, 60+r.IntN(200))
		sc := Scope{Reader: w, Conditions: byName{}, Time: 1000}
		for _, subject := range randomSubjects {
			typ := []string{"a", "b"}[r.IntN(2)]
			name := fmt.Sprint("r", r.IntN(4))
			lists := map[string]lister{
				"objects":  objectsOf(subject.String(), typ, name),
				"subjects": subjectsOf(typ+":0", name, Kind{subject.Type, subject.Relation}),
			}
			for of, list := range lists {
				all := func(sc Scope) (ids []string, spent Spent, err error) {
					spent, err = list(m, sc, "", func(i Item) bool {
						ids = append(ids, fmt.Sprint(i.ID, i.Excluded, i.Err != nil))
						return true
					})
					return ids, spent, err
				}
				firstWindow, lastWindow = first, last
				want, _, err := all(sc)
				if err != nil {
					t.Fatalf("seed %d: %s of %s#%s and %s: %v", seed, of, typ, name, subject, err)
				}
				if of == "objects" {
					var checked []string
					for _, o := range objects {
						if allowed, _, err := m.Check(sc, Question{o, name, subject}); o.Type == typ && (allowed || err != nil) {
							checked = append(checked, fmt.Sprint(o.ID, false, err != nil))
						}
					}
					if !slices.Equal(want, checked) {
						t.Fatalf("seed %d: %s of %s#%s and %s = %q, checks say %q\n%s", seed, of, typ, name, subject, want, checked, describeWorld(m, w))
					}
				}
				firstWindow, lastWindow = 1, 1+r.IntN(4)
				got, spent, err := all(sc)
				if err != nil || !slices.Equal(got, want) {
					t.Fatalf("seed %d: %s of %s#%s and %s = %q, %v in small windows, want %q\n%s", seed, of, typ, name, subject, got, err, want, describeWorld(m, w))
				}
				for rows := 1; rows < spent.Rows; rows += 1 + r.IntN(1+spent.Rows/5) {
					few := sc
					few.Budget.Rows = rows
					var budget *BudgetError
					got, _, err := all(few)
					if !errors.As(err, &budget) || len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
						t.Fatalf("seed %d: %s of %s#%s and %s = %q, %v within %d rows, want a beginning of %q\n%s", seed, of, typ, name, subject, got, err, rows, want, describeWorld(m, w))
					}
					if cut++; len(got) > 0 {
						items++
					}
				}
			}
		}
	}
	if t.Logf("%d lists cut, %d of them with items", cut, items); items < 500 {
		t.Errorf("only %d lists that were cut have items", items)
	}
}

type windowed struct {
	id   string
	rate int
}

func (w windowed) name() string { return w.id }
func (w windowed) rank() int    { return w.rate }

// TestMergeReads: runs that have nothing in a window are not read for it.
func TestMergeReads(t *testing.T) {
	const many = 20_000
	m := listModel(t)
	w := newMem().fill(t, "group:%d#member@user:ann", many).fill(t, "doc:%d#b@group:%d#member", many)
	n := 0
	spent, err := objectsOf("user:ann", "doc", "b")(m, Scope{Reader: w}, "", func(Item) bool { n++; return true })
	if err != nil || n != many || spent.Rows > 9*many { // two for a group, for its set and its run, and again for some
		t.Errorf("%d items, %+v, %v; want %d of as many runs", n, spent, err, many)
	}
}

// TestManyOperands: intersections within each other, and of very many operands, cost rows
// and memory that the budget sees, and nothing else.
func TestManyOperands(t *testing.T) {
	user, member := Direct{Type: "user"}, Direct{Type: "group", Relation: "member"}
	doc := Type{Name: "doc", Relations: []Relation{
		{Name: "a", Rule: Rule{Op: This}, Direct: []Direct{user, {Type: "user", Wildcard: true}, member}},
		{Name: "b", Rule: Rule{Op: This}, Direct: []Direct{user, member}},
		{Name: "parent", Rule: Rule{Op: This}, Direct: []Direct{{Type: "doc"}}},
		{Name: "r0", Rule: Rule{Op: Intersect, Children: []Rule{computed("a"), computed("b")}}},
	}}
	for i := 1; i <= 60; i++ {
		doc.Relations = append(doc.Relations, Relation{Name: fmt.Sprint("r", i), Rule: Rule{Op: Intersect, Children: []Rule{computed(fmt.Sprint("r", i-1)), computed("b")}}})
	}
	many := Rule{Op: Intersect}
	for range 3000 {
		many.Children = append(many.Children, computed("a"))
	}
	doc.Relations = append(doc.Relations, Relation{Name: "many", Rule: many},
		Relation{Name: "above", Rule: Rule{Op: From, Relation: "many", Tupleset: "parent"}})
	m := &Model{Schema: "1.1", Types: []Type{{Name: "user"}, {Name: "group", Relations: []Relation{{Name: "member", Rule: Rule{Op: This}, Direct: []Direct{user, member}}}}, doc}}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	w := newMem().fill(t, "doc:%d#a@user:ann", 40).fill(t, "doc:%d#b@user:ann", 40).fill(t, "doc:%d#a@user:*", 40).
		fill(t, "doc:x#parent@doc:%d", 20).fill(t, "doc:000001#a@user:%d", 20)
	for _, tt := range []struct {
		name   string
		list   lister
		budget Budget
		items  int // -1 if the budget ends it
	}{
		{"nested", objectsOf("user:ann", "doc", "r60"), Budget{}, 40},
		{"nested, in few rows", objectsOf("user:ann", "doc", "r60"), Budget{Rows: 20}, -1},
		{"nested, of subjects", subjectsOf("doc:000001", "r60", Kind{Type: "user"}), Budget{}, 1},
		{"many", objectsOf("user:ann", "doc", "many"), Budget{}, 40},
		{"many, of subjects", subjectsOf("doc:000001", "many", Kind{Type: "user"}), Budget{}, 22},
		{"many, of subjects of many", subjectsOf("doc:x", "above", Kind{Type: "user"}), Budget{}, 22},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			spent, err := tt.list(m, Scope{Reader: w, Budget: tt.budget}, "", func(i Item) bool { n++; return i.Err == nil })
			var after runtime.MemStats
			runtime.ReadMemStats(&after)
			var budget *BudgetError
			if tt.items >= 0 && (err != nil || n != tt.items) || tt.items < 0 && !errors.As(err, &budget) {
				t.Errorf("%d items, %+v, %v", n, spent, err)
			}
			if all := after.TotalAlloc - before.TotalAlloc; all > 100<<20 {
				t.Errorf("%d MB were allocated, the budget saw %d", all>>20, spent.Memory>>20)
			}
		})
	}
}

// TestManyCycles: to name a cycle costs no more than to find that there is one.
func TestManyCycles(t *testing.T) {
	m := &Model{Schema: "1.1", Types: []Type{{Name: "user"}, {Name: "doc", Relations: []Relation{
		{Name: "next", Rule: Rule{Op: This}, Direct: []Direct{{Type: "doc"}}},
		{Name: "r", Rule: Rule{Op: Exclude, Children: []Rule{{Op: This}, {Op: From, Relation: "r", Tupleset: "next"}}}, Direct: []Direct{{Type: "user"}, {Type: "user", Wildcard: true}}},
	}}}}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	const layers, wide = 200, 10
	w := newMem()
	for l := range layers {
		for i := range wide {
			if l+1 < layers || i+1 == wide {
				w.read(t, fmt.Sprintf("doc:%d-%d#r@user:*", l, i))
			}
			for j := range wide {
				if l+1 < layers {
					w.read(t, fmt.Sprintf("doc:%d-%d#next@doc:%d-%d", l, i, l+1, j))
				}
			}
		}
	}
	w.read(t, "doc:199-9#next@doc:199-9")
	stops, last, longest := 0, time.Now(), time.Duration(0)
	_, _, err := m.Check(Scope{Reader: w, Stop: func(Spent) error {
		stops++
		longest = max(longest, time.Since(last))
		last = time.Now()
		return nil
	}}, Question{tuple.Object{Type: "doc", ID: "0-0"}, "r", tuple.Subject{Type: "user", ID: "ann"}})
	longest = max(longest, time.Since(last))
	var cycle *CycleError
	if !errors.As(err, &cycle) || len(cycle.Parts) != 1 || cycle.Parts[0] != (CyclePart{tuple.Object{Type: "doc", ID: "199-9"}, "r", true}) {
		t.Errorf("error = %v, want the cycle of doc:199-9", err)
	}
	if longest > time.Second || stops < 100 { // it took a second and more when each part was looked at from each
		t.Errorf("%d stops, the longest wait %s", stops, longest)
	}
}

// TestWindow merges random runs in windows of every size, against all in one.
func TestWindow(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 9))
		runs := make([][]windowed, 1+r.IntN(5))
		best := make(map[string]windowed)
		for i := range runs {
			for range r.IntN(60) {
				w := windowed{fmt.Sprintf("%02d", r.IntN(70)), r.IntN(3)}
				if !slices.ContainsFunc(runs[i], func(x windowed) bool { return x.id == w.id }) {
					runs[i] = append(runs[i], w)
				}
			}
			slices.SortFunc(runs[i], func(a, b windowed) int { return cmp.Compare(a.id, b.id) })
			for _, w := range runs[i] {
				if old, ok := best[w.id]; !ok || w.rate < old.rate {
					best[w.id] = w
				}
			}
		}
		m := newMerger[windowed](len(runs))
		m.size = 1 + r.IntN(20)
		var got []windowed
		after, windows := "", 0
		for more := true; more; windows++ {
			var all []windowed
			all, more = m.next(func(run int, yield func(windowed) bool) bool {
				for _, w := range runs[run] {
					if w.id > after && !yield(w) {
						break
					}
				}
				return true
			})
			got = append(got, all...)
			if len(got) > 0 {
				after = got[len(got)-1].id
			}
			if windows > 100 {
				t.Fatalf("seed %d: the windows have no end", seed)
			}
		}
		if len(got) != len(best) || !slices.IsSortedFunc(got, func(a, b windowed) int { return cmp.Or(cmp.Compare(a.id, b.id), 1) }) {
			t.Fatalf("seed %d: %v, want %d in order", seed, got, len(best))
		}
		for _, w := range got {
			if best[w.id] != w {
				t.Fatalf("seed %d: %v, want %v", seed, w, best[w.id])
			}
		}
	}
}

// TestAsker: questions one after another have the answers of questions alone, and cost no
// more; but once one has met a cycle through a subtraction, those without an answer are
// looked at twice.
func TestAsker(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		m := randomModel(r, seed%3 > 0)
		objects := randomObjects(3)
		w := randomWorld(r, m, objects, 60)
		sc := Scope{Reader: w, Conditions: byName{}, Time: 1000}
		a := m.NewAsker(sc, randomSubjects[0])
		var together, alone int
		for range 40 {
			o := objects[r.IntN(len(objects))]
			typ, _ := m.Type(o.Type)
			relation := typ.Relations[r.IntN(len(typ.Relations))].Name
			want, spent, wantErr := m.Check(sc, Question{o, relation, randomSubjects[0]})
			alone += spent.Rows
			got, spent, err := a.Check(o, relation, DefaultBudget.Rows)
			together += spent.Rows
			if got != want || (err == nil) != (wantErr == nil) {
				t.Fatalf("seed %d: %s#%s = %v, %v; alone %v, %v\n%s", seed, o, relation, got, err, want, wantErr, describeWorld(m, w))
			}
			if r.IntN(10) == 0 { // a question that fails halfway spoils none after it
				a.Check(o, relation, 1)
			}
		}
		a.Close()
		if together > 3*alone {
			t.Fatalf("seed %d: %d rows together, %d alone", seed, together, alone)
		}
	}
}
