package querytest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// Now is the time of the questions, in nanoseconds since the Unix epoch. Some grants
// of a world begin or end just then.
const Now = int64(1_800_000_000_000_000_000)

// A World is a model, what is granted under it or under an earlier one, and the
// request's context. It is a [model.Reader] and the [model.Conditions].
type World struct {
	Model   *model.Model
	Grants  map[tuple.Tuple]model.Grant
	Request model.Value // a map, or null

	sorted []tuple.Tuple // of Grants, once they were read; they must not change then
}

// ids are of objects: few, so that grants meet. To the last nothing is granted by name.
var ids = []string{"1", "2", "3"}

// NewWorld returns the random world of a seed.
func NewWorld(seed uint64) *World {
	r := rand.New(rand.NewPCG(seed, 0))
	w := &World{Model: NewModel(r), Grants: make(map[tuple.Tuple]model.Grant), Request: NewRequest(r)}
	for n := 5 + r.IntN(40); n > 0; n-- {
		t, g := NewGrant(r, w.Model)
		if r.IntN(10) == 0 { // perhaps one that the model does not allow
			t, g = anyGrant(r, w.Model)
		}
		w.Grants[t] = g
	}
	return w
}

// State returns the world as the oracle takes it.
func (w *World) State() State {
	return State{Model: w.Model, Grants: w.Grants, Time: Now, Holds: w.Holds}
}

// Scope returns the world as the evaluator takes it.
func (w *World) Scope() model.Scope {
	return model.Scope{Reader: w, Conditions: w, Time: Now}
}

// A MissingError is why a condition of a [World] errs.
type MissingError struct{ Condition string }

func (e *MissingError) Error() string {
	return "no value for the parameter of condition " + e.Condition
}

// The conditions of every model here. Those without a parameter need none, so that
// what they say does not depend on context; "flag" and "mark" say what the parameter
// of their name says, and err without it.
var conditions = []model.Condition{
	{Name: "yes", Expression: "true"},
	{Name: "no", Expression: "false"},
	{Name: "flag", Expression: "flag", Params: []model.Param{{Name: "flag", Type: model.ParamType{Kind: model.ParamBool}}}},
	{Name: "mark", Expression: "mark", Params: []model.Param{{Name: "mark", Type: model.ParamType{Kind: model.ParamBool}}}},
}

// Holds implements [model.Conditions]. An error is a [*MissingError].
func (w *World) Holds(condition string, stored []byte) (bool, error) {
	switch condition {
	case "yes", "no":
		return condition == "yes", nil
	}
	if stored != nil {
		context, err := model.DecodeContext(stored)
		if err != nil {
			return false, err
		}
		if v, ok := context.Field(condition); ok {
			return v.Bool, nil
		}
	}
	if v, ok := w.Request.Field(condition); ok {
		return v.Bool, nil
	}
	return false, &MissingError{condition}
}

// flagged returns a map that gives the parameter of a condition a value.
func flagged(name string, v bool) model.Value {
	return model.Value{Kind: model.MapValue, Map: []model.Field{{Name: name, Value: model.Value{Kind: model.BoolValue, Bool: v}}}}
}

// NewRequest returns a random context of a request: mostly none.
func NewRequest(r *rand.Rand) model.Value {
	if r.IntN(4) > 0 {
		return model.Value{}
	}
	return flagged(pick(r, []string{"flag", "mark"}), r.IntN(2) == 0)
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// NewModel returns a random valid model. All have the same few names of types and
// relations, so that grants under one often mean something under another. In some of
// them nearly everything leads to everything.
func NewModel(r *rand.Rand) *model.Model {
	for {
		m := &model.Model{Schema: "1.1", Conditions: conditions}
		tangled := r.IntN(2) == 0
		types := []string{"user", "group", "folder", "doc"}
		if tangled {
			types = []string{"user", "doc"}
		}
		names := []string{"a", "b", "c", "d", "e"}
		for _, typ := range types {
			t := model.Type{Name: typ}
			most := map[string]int{"user": 1, "group": 2, "folder": 3, "doc": 5}[typ]
			for _, i := range r.Perm(len(names))[:max(1, most-r.IntN(3))] {
				t.Relations = append(t.Relations, model.Relation{Name: names[i]})
			}
			if typ != "user" {
				t.Relations = append(t.Relations, model.Relation{Name: "parent"})
			}
			m.Types = append(m.Types, t)
		}
		for i := range m.Types {
			for j := range m.Types[i].Relations {
				g := modeler{r, m, &m.Types[i], j, tangled, false}
				g.relation(&m.Types[i].Relations[j])
			}
		}
		if m.Validate() == nil { // else nobody could ever hold some relation
			return m
		}
	}
}

// A modeler makes one relation of a model whose names stand.
type modeler struct {
	*rand.Rand
	model   *model.Model
	typ     *model.Type
	nth     int // of the relation in the type
	tangled bool
	granted bool // the rule has what is granted directly
}

func (g *modeler) relation(r *model.Relation) {
	if r.Name == "parent" {
		r.Rule = model.Rule{Op: model.This}
		for _, t := range g.model.Types[1:] { // not users
			if g.IntN(2) == 0 || t.Name == g.typ.Name {
				r.Direct = append(r.Direct, model.Direct{Type: t.Name})
			}
		}
		if g.IntN(4) == 0 {
			d := pick(g.Rand, r.Direct)
			d.Condition = pick(g.Rand, conditions).Name
			r.Direct = append(r.Direct, d)
		}
		return
	}
	r.Rule = g.rule(0)
	if !g.granted {
		return
	}
	for n := 1 + g.IntN(5); n > 0; n-- {
		if d := g.direct(); !slices.Contains(r.Direct, d) {
			r.Direct = append(r.Direct, d)
		}
	}
}

// holds reports whether an operation occurs in a rule.
func holds(rule *model.Rule, op model.Op) bool {
	return rule.Op == op || slices.ContainsFunc(rule.Children, func(c model.Rule) bool { return holds(&c, op) })
}

func (g *modeler) direct() model.Direct {
	typ := pick(g.Rand, g.model.Types)
	d := model.Direct{Type: "user"}
	switch k := g.IntN(10); {
	case k < 6 && len(typ.Relations) > 0:
		d = model.Direct{Type: typ.Name, Relation: pick(g.Rand, typ.Relations).Name}
	case k == 6:
		d.Wildcard = true
	case k == 7:
		d.Type = typ.Name
	}
	if g.IntN(8) == 0 {
		d.Condition = pick(g.Rand, conditions).Name
	}
	return d
}

// rule returns a rule: often an operator, whose parts are mostly leaves.
func (g *modeler) rule(depth int) model.Rule {
	if g.typ.Name == "user" || g.IntN(100) < 25+30*depth {
		return g.leaf()
	}
	switch k := g.IntN(10); {
	case k < 4:
		return model.Rule{Op: model.Union, Children: g.rules(2+g.IntN(2), depth+1)}
	case k < 6:
		return model.Rule{Op: model.Intersect, Children: g.rules(2+g.IntN(2), depth+1)}
	}
	return model.Rule{Op: model.Exclude, Children: g.rules(2, depth+1)}
}

func (g *modeler) rules(n, depth int) (rules []model.Rule) {
	for range n {
		rules = append(rules, g.rule(depth))
	}
	return rules
}

// leaf returns a rule without parts: what is granted directly, the first time mostly.
func (g *modeler) leaf() model.Rule {
	k := g.IntN(10)
	if g.typ.Name == "user" || !g.granted && k < 6 {
		g.granted = true
		return model.Rule{Op: model.This}
	}
	if k%2 == 0 && g.nth > 0 { // an earlier relation, so that none is computed from itself
		return model.Rule{Op: model.Computed, Relation: g.typ.Relations[g.IntN(g.nth)].Name}
	}
	others := g.typ.Relations[:max(1, len(g.typ.Relations)-1)] // but for the parent
	return model.Rule{Op: model.From, Tupleset: "parent", Relation: pick(g.Rand, others).Name}
}

// NewGrant returns a random grant that the model allows.
func NewGrant(r *rand.Rand, m *model.Model) (tuple.Tuple, model.Grant) {
	for {
		typ := pick(r, m.Types)
		if len(typ.Relations) == 0 {
			continue
		}
		relation := pick(r, typ.Relations)
		if len(relation.Direct) == 0 {
			continue
		}
		d := pick(r, relation.Direct)
		s := tuple.Subject{Type: d.Type, ID: pick(r, ids[:2]), Relation: d.Relation}
		if d.Wildcard {
			s.ID = tuple.Wildcard
		}
		return tuple.Tuple{Object: tuple.Object{Type: typ.Name, ID: pick(r, ids[:2])}, Relation: relation.Name, Subject: s}, terms(r, d.Condition)
	}
}

// anyGrant returns a random grant of names that occur, which the model rarely allows.
func anyGrant(r *rand.Rand, m *model.Model) (tuple.Tuple, model.Grant) {
	t, g := NewGrant(r, m)
	u, h := NewGrant(r, m)
	t.Subject = u.Subject
	return t, pick(r, []model.Grant{g, h, {}})
}

// terms returns what a tuple is granted with under a condition: times around Now, and
// perhaps a value for the condition's parameter.
func terms(r *rand.Rand, condition string) model.Grant {
	g := model.Grant{Condition: condition}
	if (condition == "flag" || condition == "mark") && r.IntN(2) == 0 {
		g.Context = model.AppendContext(nil, flagged(condition, r.IntN(3) > 0))
	}
	switch r.IntN(16) {
	case 0:
		g.NotBefore = Now
	case 1:
		g.NotBefore = Now + 1
	case 2:
		g.ExpiresAt = Now
	case 3:
		g.ExpiresAt = Now + 1
	case 4:
		g.NotBefore, g.ExpiresAt = Now, Now+1
	}
	return g
}

// Grant implements [model.Reader].
func (w *World) Grant(t tuple.Tuple) (model.Grant, bool, error) {
	g, ok := w.Grants[t]
	return g, ok, nil
}

// tuples returns what is granted, in order.
func (w *World) tuples() []tuple.Tuple {
	return slices.SortedFunc(maps.Keys(w.Grants), tuple.Tuple.Compare)
}

// Subjects implements [model.Reader].
func (w *World) Subjects(o tuple.Object, relation, stype, srel, after string, yield func(tuple.Subject, model.Grant) bool) error {
	if w.sorted == nil {
		w.sorted = w.tuples()
	}
	from := tuple.Tuple{Object: o, Relation: relation, Subject: tuple.Subject{Type: stype, Relation: srel, ID: after + "\x00"}}
	i, _ := slices.BinarySearchFunc(w.sorted, from, tuple.Tuple.Compare)
	for _, t := range w.sorted[i:] {
		if t.Object != o || t.Relation != relation || t.Subject.Type != stype || t.Subject.Relation != srel || !yield(t.Subject, w.Grants[t]) {
			break
		}
	}
	return nil
}

// Objects implements [model.Reader].
func (w *World) Objects(s tuple.Subject, otype, relation, after string, yield func(tuple.Object, model.Grant) bool) error {
	if w.sorted == nil {
		w.sorted = w.tuples()
	}
	for _, t := range w.sorted { // by object within a type and relation too
		if t.Subject == s && t.Object.Type == otype && t.Relation == relation && t.Object.ID > after && !yield(t.Object, w.Grants[t]) {
			break
		}
	}
	return nil
}

// Everything returns the objects that questions are about: two of each type.
func (w *World) Everything() (objects []tuple.Object) {
	for _, t := range w.Model.Types {
		for _, id := range ids[:2] {
			objects = append(objects, tuple.Object{Type: t.Name, ID: id})
		}
	}
	return objects
}

// Everyone returns the subjects that questions are about: every object, every wildcard,
// every userset, and a user that nothing is granted to by name.
func (w *World) Everyone() (subjects []tuple.Subject) {
	for _, t := range w.Model.Types {
		for _, id := range append(ids[:2:2], tuple.Wildcard) {
			subjects = append(subjects, tuple.Subject{Type: t.Name, ID: id})
			for _, r := range t.Relations {
				if id != tuple.Wildcard {
					subjects = append(subjects, tuple.Subject{Type: t.Name, ID: id, Relation: r.Name})
				}
			}
		}
	}
	return append(subjects, tuple.Subject{Type: "user", ID: ids[2]})
}

// Facts returns all facts of the world.
func (w *World) Facts() map[tuple.Tuple]Fact { return Facts(w.State(), w.Everything(), w.Everyone()) }

// A Step is one command of a history: a model, or some grants and revokes.
type Step struct {
	Model  *model.Model // nil if none is written
	Grant  map[tuple.Tuple]model.Grant
	Revoke []tuple.Tuple // none of them granted in the same step
}

// NewHistory returns n random steps, the first of which writes a model. Each grant is
// allowed by the model in force; the revokes are of what is live.
func NewHistory(seed uint64, n int) []Step {
	r := rand.New(rand.NewPCG(seed, 1))
	current := NewModel(r)
	steps := []Step{{Model: current}}
	live := make(map[tuple.Tuple]bool)
	for len(steps) < n {
		if r.IntN(12) == 0 {
			current = NewModel(r)
			steps = append(steps, Step{Model: current})
			continue
		}
		s := Step{Grant: make(map[tuple.Tuple]model.Grant)}
		for k := 1 + r.IntN(4); k > 0; k-- {
			t, g := NewGrant(r, current)
			if r.IntN(4) == 0 && len(live) > 0 {
				t = pick(r, slices.SortedFunc(maps.Keys(live), tuple.Tuple.Compare))
				if _, both := s.Grant[t]; !both {
					s.Revoke = append(s.Revoke, t)
					delete(live, t)
				}
			} else if !slices.Contains(s.Revoke, t) {
				s.Grant[t] = g
				live[t] = true
			}
		}
		if len(s.Grant)+len(s.Revoke) == 0 {
			continue
		}
		steps = append(steps, s)
	}
	return steps
}

// String returns the world as text: the model as the modeling language would, nearly,
// and the grants.
func (w *World) String() string {
	var b strings.Builder
	for _, t := range w.Model.Types {
		fmt.Fprintf(&b, "type %s\n", t.Name)
		for _, r := range t.Relations {
			fmt.Fprintf(&b, "  define %s: %s\n", r.Name, ruleText(&r, &r.Rule))
		}
	}
	for _, t := range w.tuples() {
		g := w.Grants[t]
		fmt.Fprintf(&b, "%s", t)
		if g.Condition != "" {
			holds, err := w.Holds(g.Condition, g.Context)
			fmt.Fprintf(&b, " with %s (%v, %v)", g.Condition, holds, err)
		}
		if g.NotBefore != 0 {
			fmt.Fprintf(&b, " from now%+d", g.NotBefore-Now)
		}
		if g.ExpiresAt != 0 {
			fmt.Fprintf(&b, " until now%+d", g.ExpiresAt-Now)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func ruleText(r *model.Relation, rule *model.Rule) string {
	parts := func(with string) string {
		var texts []string
		for i := range rule.Children {
			texts = append(texts, ruleText(r, &rule.Children[i]))
		}
		return "(" + strings.Join(texts, with) + ")"
	}
	switch rule.Op {
	case model.This:
		var kinds []string
		for _, d := range r.Direct {
			kinds = append(kinds, d.String())
		}
		return "[" + strings.Join(kinds, ", ") + "]"
	case model.Computed:
		return rule.Relation
	case model.From:
		return rule.Relation + " from " + rule.Tupleset
	case model.Union:
		return parts(" or ")
	case model.Intersect:
		return parts(" and ")
	default:
		return parts(" but not ")
	}
}

// Shrink returns a small world that still fails: without grants, rules and kinds of
// subject that are not needed for that.
func (w *World) Shrink(fails func(*World) bool) *World {
	for smaller := true; smaller; {
		smaller = false
		for _, next := range w.smaller() {
			if fails(next) {
				w, smaller = next, true
				break
			}
		}
	}
	return w
}

// smaller returns the worlds that lack one thing of w.
func (w *World) smaller() (worlds []*World) {
	for _, t := range w.tuples() {
		grants := maps.Clone(w.Grants)
		delete(grants, t)
		worlds = append(worlds, &World{Model: w.Model, Grants: grants, Request: w.Request})
		if g := w.Grants[t]; g.NotBefore != 0 || g.ExpiresAt != 0 {
			g.NotBefore, g.ExpiresAt = 0, 0
			grants := maps.Clone(w.Grants)
			grants[t] = g
			worlds = append(worlds, &World{Model: w.Model, Grants: grants, Request: w.Request})
		}
	}
	edit := func(change func(m *model.Model)) {
		m, err := model.DecodeModel(model.AppendModel(nil, w.Model)) // a deep copy
		if err != nil {
			panic(fmt.Sprintf("querytest: a world without a valid model: %v", err))
		}
		change(m)
		if m.Validate() == nil {
			worlds = append(worlds, &World{Model: m, Grants: w.Grants, Request: w.Request})
		}
	}
	for i, t := range w.Model.Types {
		for j, r := range t.Relations {
			edit(func(m *model.Model) { m.Types[i].Relations = slices.Delete(m.Types[i].Relations, j, j+1) })
			for k := range r.Direct {
				edit(func(m *model.Model) {
					d := &m.Types[i].Relations[j].Direct
					*d = slices.Delete(*d, k, k+1)
				})
			}
			for _, simpler := range simplerRules(r.Rule) {
				edit(func(m *model.Model) {
					at := &m.Types[i].Relations[j]
					if at.Rule = simpler; !holds(&simpler, model.This) {
						at.Direct = nil
					}
				})
			}
		}
	}
	return worlds
}

// simplerRules returns the rules that lack one operand of rule.
func simplerRules(rule model.Rule) (rules []model.Rule) {
	rules = append(rules, rule.Children...)
	for i := range rule.Children {
		if len(rule.Children) > 2 {
			less := rule
			less.Children = slices.Delete(slices.Clone(rule.Children), i, i+1)
			rules = append(rules, less)
		}
		for _, child := range simplerRules(rule.Children[i]) {
			other := rule
			other.Children = slices.Clone(rule.Children)
			other.Children[i] = child
			rules = append(rules, other)
		}
	}
	return rules
}
