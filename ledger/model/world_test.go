package model

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// mem is a Reader over a map. It counts what it is asked, and may fail.
type mem struct {
	grants   map[tuple.Tuple]Grant
	subjects map[run][]tuple.Subject // by id, once they are read
	objects  map[run][]tuple.Object
	unsorted map[run]bool
	reads    int
	fail     error // of every read from the failAt-th on
	failAt   int
}

// A run is what one call of Subjects or Objects yields: the ends of tuples that are alike
// but for the id of one end.
type run struct{ tuple.Tuple }

func subjectRun(t tuple.Tuple) run { t.Subject.ID = ""; return run{t} }
func objectRun(t tuple.Tuple) run  { t.Object.ID = ""; return run{t} }

func newMem() *mem {
	return &mem{grants: make(map[tuple.Tuple]Grant), subjects: make(map[run][]tuple.Subject), objects: make(map[run][]tuple.Object), unsorted: make(map[run]bool)}
}

func (m *mem) set(t tuple.Tuple, g Grant) {
	if _, ok := m.grants[t]; !ok {
		s, o := subjectRun(t), objectRun(t)
		m.subjects[s], m.objects[o] = append(m.subjects[s], t.Subject), append(m.objects[o], t.Object)
		m.unsorted[s], m.unsorted[o] = true, true
	}
	m.grants[t] = g
}

// read sets the tuples, each perhaps followed by the name of a condition.
func (m *mem) read(t testing.TB, lines ...string) *mem {
	t.Helper()
	for _, line := range lines {
		text, condition, _ := strings.Cut(line, " ")
		m.set(parse(t, text), Grant{Condition: condition})
	}
	return m
}

func (m *mem) failing() error {
	if m.reads++; m.fail != nil && m.reads >= m.failAt {
		return m.fail
	}
	return nil
}

func (m *mem) Grant(t tuple.Tuple) (Grant, bool, error) {
	if err := m.failing(); err != nil {
		return Grant{}, false, err
	}
	g, ok := m.grants[t]
	return g, ok, nil
}

func (m *mem) Subjects(o tuple.Object, relation, stype, srel, after string, yield func(tuple.Subject, Grant) bool) error {
	r := run{tuple.Tuple{Object: o, Relation: relation, Subject: tuple.Subject{Type: stype, Relation: srel}}}
	return ends(m, r, m.subjects[r], func(s tuple.Subject) string { return s.ID }, after, func(s tuple.Subject) bool {
		return yield(s, m.grants[tuple.Tuple{Object: o, Relation: relation, Subject: s}])
	})
}

func (m *mem) Objects(s tuple.Subject, otype, relation, after string, yield func(tuple.Object, Grant) bool) error {
	r := run{tuple.Tuple{Object: tuple.Object{Type: otype}, Relation: relation, Subject: s}}
	return ends(m, r, m.objects[r], func(o tuple.Object) string { return o.ID }, after, func(o tuple.Object) bool {
		return yield(o, m.grants[tuple.Tuple{Object: o, Relation: relation, Subject: s}])
	})
}

// ends yields the ends of a run after an id.
func ends[T any](m *mem, r run, all []T, id func(T) string, after string, yield func(T) bool) error {
	if err := m.failing(); err != nil {
		return err
	}
	if m.unsorted[r] {
		slices.SortFunc(all, func(a, b T) int { return strings.Compare(id(a), id(b)) })
		delete(m.unsorted, r)
	}
	from, found := slices.BinarySearchFunc(all, after, func(t T, after string) int { return strings.Compare(id(t), after) })
	if found {
		from++
	}
	for _, t := range all[from:] {
		if err := m.failing(); err != nil {
			return err
		}
		if !yield(t) {
			break
		}
	}
	return nil
}

func parse(t testing.TB, text string) tuple.Tuple {
	t.Helper()
	tup, err := tuple.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return tup
}

// byName are Conditions that hold, do not, or err by their name alone.
type byName struct{}

var errCondition = errors.New("the condition errs")

func (byName) Holds(condition string, _ []byte) (bool, error) {
	switch condition {
	case "yes":
		return true, nil
	case "no":
		return false, nil
	}
	return false, errCondition
}

var testConditions = []Condition{{Name: "yes", Expression: "true"}, {Name: "no", Expression: "false"}, {Name: "errs", Expression: "x"}}

// The rules, short enough to read in a table.

func computed(relation string) Rule { return Rule{Op: Computed, Relation: relation} }
func from(relation, tupleset string) Rule {
	return Rule{Op: From, Relation: relation, Tupleset: tupleset}
}
func union(children ...Rule) Rule     { return Rule{Op: Union, Children: children} }
func intersect(children ...Rule) Rule { return Rule{Op: Intersect, Children: children} }
func exclude(a, b Rule) Rule          { return Rule{Op: Exclude, Children: []Rule{a, b}} }

var this = Rule{Op: This}

// directs reads kinds of subject: "user", "group#member", "user:*", "user with yes".
func directs(kinds ...string) []Direct {
	var all []Direct
	for _, kind := range kinds {
		var d Direct
		kind, d.Condition, _ = strings.Cut(kind, " with ")
		kind, d.Relation, _ = strings.Cut(kind, "#")
		d.Type, d.Wildcard = strings.CutSuffix(kind, ":*")
		all = append(all, d)
	}
	return all
}

func relation(name string, rule Rule, kinds ...string) Relation {
	return Relation{Name: name, Rule: rule, Direct: directs(kinds...)}
}

// An atom is a relation of an object.
type atom struct {
	object   tuple.Object
	relation string
}

// An oracle answers for one subject by computing the answers of all atoms bottom-up:
// the well-founded model, by an alternating fixed point. An error counts as held when
// the possible is computed, and as not held when the certain is.
type oracle struct {
	model    *Model
	world    *mem
	subject  tuple.Subject
	time     int64
	atoms    []atom
	certain  map[atom]bool
	possible map[atom]bool
}

func newOracle(m *Model, w *mem, objects []tuple.Object, subject tuple.Subject, time int64) *oracle {
	o := &oracle{model: m, world: w, subject: subject, time: time}
	for _, object := range objects {
		typ, _ := m.Type(object.Type)
		for i := range typ.Relations {
			o.atoms = append(o.atoms, atom{object, typ.Relations[i].Name})
		}
	}
	o.possible = make(map[atom]bool)
	for _, a := range o.atoms {
		o.possible[a] = true
	}
	for {
		possible := o.least(true, o.certain, o.possible)
		certain := o.least(false, possible, o.certain)
		if len(possible) == len(o.possible) && len(certain) == len(o.certain) {
			return o
		}
		o.possible, o.certain = possible, certain
	}
}

// least computes the atoms that hold, where other holds the atoms for what is
// subtracted, and before for what is subtracted from that: the result of the round
// before, so that nothing depends on itself through two subtractions.
func (o *oracle) least(errors bool, other, before map[atom]bool) map[atom]bool {
	held := make(map[atom]bool)
	for changed := true; changed; {
		changed = false
		for _, a := range o.atoms {
			if held[a] {
				continue
			}
			r, _ := o.model.Relation(a.object.Type, a.relation)
			if o.subject.IsUserset() && o.subject.Object() == a.object && o.subject.Relation == a.relation ||
				o.holds(a, &r.Rule, errors, held, other, before) {
				held[a], changed = true, true
			}
		}
	}
	return held
}

func (o *oracle) holds(a atom, rule *Rule, errors bool, held, other, before map[atom]bool) bool {
	each := func(relation string, yield func(tuple.Subject) bool) bool {
		for t, g := range o.world.grants {
			if t.Object != a.object || t.Relation != relation || !g.Active(o.time) || o.model.Allows(t, g.Condition) != nil {
				continue
			}
			if (g.Condition == "" || g.Condition == "yes" || g.Condition == "errs" && errors) && yield(t.Subject) {
				return true
			}
		}
		return false
	}
	switch rule.Op {
	case This:
		return each(a.relation, func(s tuple.Subject) bool {
			plain := !o.subject.IsUserset() && !o.subject.IsWildcard()
			return s == o.subject || s.IsWildcard() && plain && s.Type == o.subject.Type || s.IsUserset() && held[atom{s.Object(), s.Relation}]
		})
	case Computed:
		return held[atom{a.object, rule.Relation}]
	case From:
		return each(rule.Tupleset, func(s tuple.Subject) bool { return held[atom{s.Object(), rule.Relation}] })
	case Union:
		return slices.ContainsFunc(rule.Children, func(r Rule) bool { return o.holds(a, &r, errors, held, other, before) })
	case Intersect:
		return !slices.ContainsFunc(rule.Children, func(r Rule) bool { return !o.holds(a, &r, errors, held, other, before) })
	}
	return o.holds(a, &rule.Children[0], errors, held, other, before) && !o.holds(a, &rule.Children[1], !errors, other, before, other)
}

// answer returns allowed, denied or error.
func (o *oracle) answer(a atom) string {
	switch {
	case o.certain[a]:
		return "allowed"
	case o.possible[a]:
		return "error"
	}
	return "denied"
}

func answerOf(allowed bool, err error) string {
	switch {
	case err != nil:
		return "error"
	case allowed:
		return "allowed"
	}
	return "denied"
}

// randomRule returns a rule over relations r0 … and the tuplesets p0 and p1.
func randomRule(r *rand.Rand, names []string, depth int, exclusions bool) Rule {
	name := func() string { return names[r.IntN(len(names))] }
	n := 12
	if depth == 0 {
		n = 7
	}
	switch k := r.IntN(n); {
	case k < 4:
		return this
	case k < 5:
		return computed(name())
	case k < 7:
		return from(name(), fmt.Sprintf("p%d", r.IntN(2)))
	case k < 9:
		return union(randomRule(r, names, depth-1, exclusions), randomRule(r, names, depth-1, exclusions))
	case k < 10 || !exclusions:
		return intersect(randomRule(r, names, depth-1, exclusions), randomRule(r, names, depth-1, exclusions))
	}
	return exclude(randomRule(r, names, depth-1, exclusions), randomRule(r, names, depth-1, exclusions))
}

func holdsThis(rule *Rule) bool {
	return rule.Op == This || slices.ContainsFunc(rule.Children, func(r Rule) bool { return holdsThis(&r) })
}

// randomModel returns a valid model of the types user, a and b.
func randomModel(r *rand.Rand, exclusions bool) *Model {
	names := []string{"r0", "r1", "r2", "r3"}
	kinds := []string{"user", "user", "user:*", "user with errs", "user with no", "user:* with errs", "a#r0", "b#r0", "a#r1", "b#r2", "a#r3", "a#r0 with errs", "b#r1 with yes", "a#r2 with no"}
	for {
		m := &Model{Schema: "1.1", Types: []Type{{Name: "user"}}, Conditions: testConditions}
		for _, typ := range []string{"a", "b"} {
			t := Type{Name: typ, Relations: []Relation{
				relation("p0", this, "a", "b"), relation("p1", this, "a", "b with errs", "b with yes"),
			}}
			for _, name := range names {
				rel := Relation{Name: name, Rule: randomRule(r, names, 2, exclusions)}
				if holdsThis(&rel.Rule) {
					for _, i := range r.Perm(len(kinds))[:1+r.IntN(7)] {
						rel.Direct = append(rel.Direct, directs(kinds[i])...)
					}
				}
				t.Relations = append(t.Relations, rel)
			}
			m.Types = append(m.Types, t)
		}
		if m.Validate() == nil {
			return m
		}
	}
}

// randomWorld returns grants over a few objects; some the model does not allow, some
// not active.
func randomWorld(r *rand.Rand, m *Model, objects []tuple.Object, grants int) *mem {
	w := newMem()
	for range grants {
		o := objects[r.IntN(len(objects))]
		typ, _ := m.Type(o.Type)
		rel := &typ.Relations[r.IntN(len(typ.Relations))]
		t := tuple.Tuple{Object: o, Relation: rel.Name, Subject: tuple.Subject{Type: "user", ID: "ann"}}
		var g Grant
		if len(rel.Direct) > 0 && r.IntN(20) > 0 {
			d := rel.Direct[r.IntN(len(rel.Direct))]
			t.Subject = tuple.Subject{Type: d.Type, ID: []string{"ann", "bob"}[r.IntN(2)], Relation: d.Relation}
			g.Condition = d.Condition
			if d.Type != "user" {
				t.Subject.ID = fmt.Sprint(r.IntN(len(objects) / 2))
			}
			if d.Wildcard {
				t.Subject.ID = tuple.Wildcard
			}
		}
		if r.IntN(12) == 0 {
			g.ExpiresAt = 100 // before the question
		}
		w.set(t, g)
	}
	return w
}

func randomObjects(n int) []tuple.Object {
	var objects []tuple.Object
	for i := range n {
		objects = append(objects, tuple.Object{Type: "a", ID: fmt.Sprint(i)}, tuple.Object{Type: "b", ID: fmt.Sprint(i)})
	}
	return objects
}

var randomSubjects = []tuple.Subject{
	{Type: "user", ID: "ann"}, {Type: "user", ID: tuple.Wildcard}, {Type: "a", ID: "0", Relation: "r0"}, {Type: "b", ID: "1", Relation: "r2"},
}

// describeWorld prints what a failing random world is.
func describeWorld(m *Model, w *mem) string {
	var b strings.Builder
	for _, t := range m.Types {
		for _, r := range t.Relations {
			fmt.Fprintf(&b, "%s#%s %v: %s\n", t.Name, r.Name, r.Direct, ruleText(&r.Rule))
		}
	}
	var lines []string
	for t, g := range w.grants {
		lines = append(lines, fmt.Sprintf("%s %s %d\n", t, g.Condition, g.ExpiresAt))
	}
	slices.Sort(lines)
	return b.String() + strings.Join(lines, "")
}

func ruleText(r *Rule) string {
	var parts []string
	for i := range r.Children {
		parts = append(parts, ruleText(&r.Children[i]))
	}
	switch r.Op {
	case This:
		return "this"
	case Computed:
		return r.Relation
	case From:
		return r.Relation + " from " + r.Tupleset
	case Union:
		return "(" + strings.Join(parts, " or ") + ")"
	case Intersect:
		return "(" + strings.Join(parts, " and ") + ")"
	}
	return "(" + strings.Join(parts, " but not ") + ")"
}

// TestCheckRandom compares Check with the oracle on random worlds, and checks that
// every error has a cause, and that a question that leads back to itself stays cheap.
func TestCheckRandom(t *testing.T) {
	counts := make(map[string]int)
	const time, most = 1000, 5000 // rows; the worlds have under 100
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := randomModel(r, seed%3 > 0)
		objects := randomObjects(2 + r.IntN(2))
		w := randomWorld(r, m, objects, 10+r.IntN(90))
		for _, subject := range randomSubjects {
			oracle := newOracle(m, w, objects, subject, time)
			for _, a := range oracle.atoms {
				q := Question{a.object, a.relation, subject}
				allowed, _, err := m.Check(Scope{Reader: w, Conditions: byName{}, Time: time, Budget: Budget{Rows: most}}, q)
				got, want := answerOf(allowed, err), oracle.answer(a)
				if got != want {
					t.Fatalf("seed %d: %s#%s@%s: %s (%v), want %s\n%s", seed, a.object, a.relation, subject, got, err, want, describeWorld(m, w))
				}
				counts[want]++
				var cycle *CycleError
				switch {
				case errors.As(err, &cycle):
					counts["cycle"]++
				case err != nil && err != errCondition:
					t.Fatalf("seed %d: %s#%s@%s: %v", seed, a.object, a.relation, subject, err)
				}
			}
		}
	}
	for kind, least := range map[string]int{"allowed": 10000, "denied": 10000, "error": 5000, "cycle": 100} {
		if counts[kind] < least {
			t.Errorf("%d questions end as %s, want %d or more: the worlds are too dull", counts[kind], kind, least)
		}
	}
}
