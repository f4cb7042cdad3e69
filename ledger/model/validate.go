package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// Limits of models.
const (
	MaxTypes      = 1000 // types of one model; package dsl refuses fewer by default
	MaxRelations  = 4096 // relations of all its types
	MaxConditions = 1000
	MaxKinds      = 1000    // kinds of subject that one relation may be granted to
	MaxParams     = 1000    // parameters of one condition
	MaxRuleDepth  = 32      // rules within rules
	MaxChain      = 100     // relations computed one from the next on the same object
	MaxRuleParts  = 1 << 16 // operators and operands of all rules
)

// A Fault is one mistake in a model, and where it is.
type Fault struct {
	Type      string // the type it is in, or ""
	Relation  string // the relation it is in, or ""
	Condition string // the condition it is in, or ""
	Thing     string // the name that is wrong, as it stands in the source
	Message   string // the rule, and what would be right
}

func (f Fault) Error() string {
	switch {
	case f.Relation != "":
		return fmt.Sprintf("relation %+q of type %+q: %s", f.Relation, f.Type, f.Message)
	case f.Type != "":
		return fmt.Sprintf("type %+q: %s", f.Type, f.Message)
	case f.Condition != "":
		return fmt.Sprintf("condition %+q: %s", f.Condition, f.Message)
	}
	return f.Message
}

// Faults are all mistakes of a model: those of names, then those of conditions, then
// those of rules, each in source order.
type Faults []Fault

// Error returns the first faults; a model may have more than is readable.
func (fs Faults) Error() string {
	const most = 10
	var lines []string
	for _, f := range fs[:min(len(fs), most)] {
		lines = append(lines, f.Error())
	}
	if len(fs) > most {
		lines = append(lines, fmt.Sprintf("and %d more", len(fs)-most))
	}
	return strings.Join(lines, "; ")
}

// index holds the lookup tables of a validated model.
type index struct {
	types      map[string]*Type
	relations  map[relationKey]*Relation
	conditions map[string]*Condition
	plans      map[relationKey]*plan
}

type relationKey struct{ typ, relation string }

// Type returns the type of that name, or false.
func (m *Model) Type(name string) (*Type, bool) {
	t, ok := m.types[name]
	return t, ok
}

// Relation returns the relation of that name of a type, or false.
func (m *Model) Relation(typ, relation string) (*Relation, bool) {
	r, ok := m.relations[relationKey{typ, relation}]
	return r, ok
}

// Condition returns the condition of that name, or false.
func (m *Model) Condition(name string) (*Condition, bool) {
	c, ok := m.conditions[name]
	return c, ok
}

// A validator gathers the faults of a model.
type validator struct {
	*Model
	faults Faults
	at     Fault // where the faults found now are
	parts  int   // of rules
}

func (v *validator) fault(thing, format string, args ...any) {
	f := v.at
	f.Thing, f.Message = thing, fmt.Sprintf(format, args...)
	v.faults = append(v.faults, f)
}

// Validate checks every invariant of [Model] and makes it ready for use. The error is
// a [Faults] with all mistakes. It is frozen: the fold rejects models with it.
func (m *Model) Validate() error {
	v := &validator{Model: m}
	m.index = index{types: make(map[string]*Type), relations: make(map[relationKey]*Relation), conditions: make(map[string]*Condition)}
	if m.Schema != "1.1" && m.Schema != "1.2" {
		v.fault(m.Schema, "the schema version must be 1.1 or 1.2, not %+q", m.Schema)
	}
	if len(m.Types) == 0 {
		v.fault("", "a model must define at least one type")
	}
	if len(m.Types) > MaxTypes {
		v.fault("", "a model must define at most %d types, this defines %d", MaxTypes, len(m.Types))
	}
	if len(m.Conditions) > MaxConditions {
		v.fault("", "a model must define at most %d conditions, this defines %d", MaxConditions, len(m.Conditions))
	}
	relations := 0
	for i := range m.Types {
		v.declareType(&m.Types[i])
		relations += len(m.Types[i].Relations)
	}
	v.at = Fault{}
	if relations > MaxRelations {
		v.fault("", "a model must define at most %d relations, this defines %d", MaxRelations, relations)
	}
	for i := range m.Conditions {
		v.condition(&m.Conditions[i])
	}
	for i := range m.Types {
		t := &m.Types[i]
		for j := range t.Relations {
			v.at = Fault{Type: t.Name, Relation: t.Relations[j].Name}
			v.relation(t, &t.Relations[j])
		}
	}
	if len(v.faults) == 0 { // these need every name to exist
		m.compile()
		v.entries()
		for i := range m.Types {
			v.computedChains(&m.Types[i])
		}
	}
	if len(v.faults) > 0 {
		m.index = index{}
		return v.faults
	}
	return nil
}

func (v *validator) declareType(t *Type) {
	v.at = Fault{Type: t.Name}
	if err := tuple.ValidateType("type", t.Name); err != nil {
		v.fault(t.Name, "%s", err)
	}
	if t.Name == "self" || t.Name == "this" {
		v.fault(t.Name, "%+q is a reserved word", t.Name)
	}
	if strings.HasPrefix(t.Name, tuple.ReservedPrefix) {
		v.fault(t.Name, "names that begin with %+q are reserved", tuple.ReservedPrefix)
	}
	if v.types[t.Name] != nil {
		v.fault(t.Name, "the type is defined twice")
	}
	v.types[t.Name] = t
	v.module(t.Module)
	for i := range t.Relations {
		r := &t.Relations[i]
		v.at = Fault{Type: t.Name, Relation: r.Name}
		if err := tuple.ValidateRelation("relation", r.Name); err != nil {
			v.fault(r.Name, "%s", err)
		}
		if r.Name == "self" || r.Name == "this" {
			v.fault(r.Name, "%+q is a reserved word", r.Name)
		}
		key := relationKey{t.Name, r.Name}
		if v.relations[key] != nil {
			v.fault(r.Name, "the relation is defined twice")
		}
		v.relations[key] = r
		v.module(r.Module)
	}
}

func (v *validator) module(name string) {
	if name == "" {
		return
	}
	if err := tuple.ValidateType("module", name); err != nil {
		v.fault(name, "%s", err)
	}
}

func (v *validator) condition(c *Condition) {
	v.at = Fault{Condition: c.Name}
	if err := tuple.ValidateRelation("condition", c.Name); err != nil {
		v.fault(c.Name, "%s", err)
	}
	if v.conditions[c.Name] != nil {
		v.fault(c.Name, "the condition is defined twice")
	}
	v.conditions[c.Name] = c
	v.module(c.Module)
	if strings.Trim(c.Expression, " \t\r\n") == "" {
		v.fault(c.Name, "the expression is empty")
	}
	if len(c.Expression) > maxText {
		v.fault(c.Name, "the expression must be at most %d bytes, is %d", maxText, len(c.Expression))
	}
	if len(c.Params) > MaxParams {
		v.fault(c.Name, "a condition must have at most %d parameters, this has %d", MaxParams, len(c.Params))
	}
	for i, p := range c.Params {
		if err := tuple.ValidateRelation("parameter", p.Name); err != nil {
			v.fault(p.Name, "%s", err)
		}
		if i > 0 && c.Params[i-1].Name >= p.Name {
			v.fault(p.Name, "parameters must be in order of name, none twice")
		}
		depth := 0
		for t := &p.Type; t != nil; t = t.Elem {
			container := t.Kind == ParamList || t.Kind == ParamMap
			if t.Kind < ParamAny || t.Kind > ParamMap || container != (t.Elem != nil) {
				v.fault(p.Name, "parameter %+q has no valid type", p.Name)
			}
			if depth++; depth > MaxValueDepth {
				v.fault(p.Name, "the type of parameter %+q is nested deeper than %d", p.Name, MaxValueDepth)
				break
			}
		}
	}
}

func (v *validator) relation(t *Type, r *Relation) {
	direct := v.rule(t, r, &r.Rule, 0)
	if v.parts > MaxRuleParts {
		return // what the rules hold was not all seen
	}
	if direct && len(r.Direct) == 0 {
		v.fault(r.Name, "a direct relation must name the types it may be granted to, in brackets")
	}
	if !direct && len(r.Direct) > 0 {
		v.fault(r.Name, "types in brackets without a direct relation")
	}
	if len(r.Direct) > MaxKinds {
		v.fault(r.Name, "a relation must name at most %d types in brackets, this names %d", MaxKinds, len(r.Direct))
		return
	}
	seen := make(map[Direct]bool, len(r.Direct))
	for _, d := range r.Direct {
		v.direct(d)
		if seen[d] {
			v.fault(d.String(), "%s stands twice", d)
		}
		seen[d] = true
	}
}

// String returns the kind of subject as the modeling language writes it.
func (d Direct) String() string {
	s := d.Type
	if d.Wildcard {
		s += ":*"
	}
	if d.Relation != "" {
		s += "#" + d.Relation
	}
	if d.Condition != "" {
		s += " with " + d.Condition
	}
	return s
}

func (v *validator) direct(d Direct) {
	if v.types[d.Type] == nil {
		v.fault(d.Type, "there is no type %+q", d.Type)
		return
	}
	if d.Wildcard && d.Relation != "" {
		v.fault(d.String(), "%s: a wildcard takes no relation", d)
	} else if d.Relation != "" && v.relations[relationKey{d.Type, d.Relation}] == nil {
		v.fault(d.String(), "type %+q has no relation %+q", d.Type, d.Relation)
	}
	if d.Condition != "" && v.conditions[d.Condition] == nil {
		v.fault(d.Condition, "there is no condition %+q", d.Condition)
	}
}

// rule checks a rule and those within, and reports whether any is a [This].
func (v *validator) rule(t *Type, r *Relation, rule *Rule, depth int) (direct bool) {
	if depth > MaxRuleDepth {
		v.fault(r.Name, "rules are nested deeper than %d", MaxRuleDepth)
		return false
	}
	if v.parts++; v.parts > MaxRuleParts {
		if v.parts == MaxRuleParts+1 {
			v.fault(r.Name, "the rules of a model must have at most %d operators and operands; here they have more", MaxRuleParts)
		}
		return false
	}
	switch rule.Op {
	case This:
		return true
	case Computed:
		if v.relations[relationKey{t.Name, rule.Relation}] == nil {
			v.fault(rule.Relation, "type %+q has no relation %+q", t.Name, rule.Relation)
		}
	case From:
		v.from(t, rule)
	case Union, Intersect, Exclude:
		if n := len(rule.Children); n < 2 || rule.Op == Exclude && n != 2 {
			v.fault(r.Name, "an operator with %d operands", n)
		}
		for i := range rule.Children {
			if v.rule(t, r, &rule.Children[i], depth+1) {
				direct = true
			}
		}
	default:
		v.fault(r.Name, "unknown operation %d", rule.Op)
	}
	return direct
}

// from checks "relation from tupleset": the tupleset is granted to objects of types of
// which at least one has the relation.
func (v *validator) from(t *Type, rule *Rule) {
	set := v.relations[relationKey{t.Name, rule.Tupleset}]
	if set == nil {
		v.fault(rule.Tupleset, "type %+q has no relation %+q", t.Name, rule.Tupleset)
		return
	}
	if set.Rule.Op != This {
		v.fault(rule.Tupleset, "%+q is not a direct relation; what follows \"from\" must be granted directly", rule.Tupleset)
		return
	}
	found := false
	for _, d := range set.Direct {
		if d.Wildcard || d.Relation != "" {
			v.fault(rule.Tupleset, "%+q may be granted to %s; what follows \"from\" must be granted to plain types only", rule.Tupleset, d)
			return
		}
		if v.relations[relationKey{d.Type, rule.Relation}] != nil {
			found = true
		}
	}
	if !found {
		v.fault(rule.Relation, "no type that %+q may be granted to has a relation %+q", rule.Tupleset, rule.Relation)
	}
}

// each calls yield for every relation in source order, with faults found there from now on.
func (v *validator) each(yield func(p *plan)) {
	for i := range v.Types {
		t := &v.Types[i]
		for j := range t.Relations {
			v.at = Fault{Type: t.Name, Relation: t.Relations[j].Name}
			yield(v.plans[relationKey{t.Name, t.Relations[j].Name}])
		}
	}
}

// computedChains finds relations of a type that computed relations on the same object
// lead back to, and chains of them that are too long for the evaluator's stack, in a
// depth-first walk that visits each once.
func (v *validator) computedChains(t *Type) {
	const walking, walked = 1, 2
	state := make(map[string]int, len(t.Relations))
	length := make(map[string]int, len(t.Relations))
	var visit func(rule *Rule, of string)
	enter := func(r *Relation) {
		state[r.Name] = walking
		visit(&r.Rule, r.Name)
		state[r.Name] = walked
		if length[r.Name] == MaxChain+1 {
			v.at = Fault{Type: t.Name, Relation: r.Name}
			v.fault(r.Name, "it is computed through more than %d relations, one from the next, on the same object", MaxChain)
		}
	}
	visit = func(rule *Rule, of string) {
		if rule.Op == Computed {
			r := v.relations[relationKey{t.Name, rule.Relation}]
			switch state[r.Name] {
			case walking:
				v.at = Fault{Type: t.Name, Relation: of}
				v.fault(r.Name, "it is computed from %+q, which is computed from it, on the same object", r.Name)
			case 0:
				enter(r)
			}
			length[of] = max(length[of], length[r.Name]+1)
		}
		for i := range rule.Children {
			visit(&rule.Children[i], of)
		}
	}
	for i := range t.Relations {
		if r := &t.Relations[i]; state[r.Name] == 0 {
			enter(r)
		}
	}
}

// needs calls yield for each relation that n asks; those that it subtracts if wanted.
func (n *node) needs(subtracted bool, yield func(*plan)) {
	switch n.kind {
	case nodeLeaf, nodeComputed:
		yield(n.plan)
	}
	for _, t := range n.targets {
		yield(t.plan)
	}
	for i := range n.children {
		if n.kind != nodeExclude || i == 0 || subtracted {
			n.children[i].needs(subtracted, yield)
		}
	}
}

// entries finds the relations that nobody could ever hold: those whose rules lead back
// to themselves before they lead to a grant to a plain subject. It is a least fixed
// point: a relation has an entry if its rule has one, given those found so far.
func (v *validator) entries() {
	entry := make(map[*plan]bool, len(v.plans))
	users := make(map[*plan][]*plan, len(v.plans)) // the relations that ask one
	var todo []*plan
	v.each(func(p *plan) {
		todo = append(todo, p)
		p.rule.needs(true, func(q *plan) { users[q] = append(users[q], p) })
	})
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !entry[p] && p.rule.entry(p.relation, entry) {
			entry[p] = true
			todo = append(todo, users[p]...)
		}
	}
	v.each(func(p *plan) {
		if !entry[p] {
			v.fault(p.name, "nobody could ever hold it: its rules lead back to itself before they lead to a direct grant")
		}
	})
}

// entry reports whether somebody could hold the relation by n.
func (n *node) entry(r *Relation, known map[*plan]bool) bool {
	switch n.kind {
	case nodeGrants:
		return slices.ContainsFunc(r.Direct, func(d Direct) bool { return d.Relation == "" })
	case nodeLeaf, nodeComputed:
		return known[n.plan]
	case nodeUsersets, nodeFrom:
		return slices.ContainsFunc(n.targets, func(t target) bool { return known[t.plan] })
	case nodeUnion:
		return slices.ContainsFunc(n.children, func(n node) bool { return n.entry(r, known) })
	case nodeIntersect:
		return !slices.ContainsFunc(n.children, func(n node) bool { return !n.entry(r, known) })
	}
	return n.children[0].entry(r, known) // what is subtracted may be empty
}

// A Refusal is why a tuple may not be granted under a model.
type Refusal struct {
	Part     string // what is wrong: "object", "relation", "subject" or "condition"
	NotFound bool   // the model has no such thing; otherwise it does not allow it there
	Text     string
}

func (r *Refusal) Error() string { return r.Part + ": " + r.Text }

func refuse(part string, notFound bool, format string, args ...any) error {
	return &Refusal{part, notFound, fmt.Sprintf(format, args...)}
}

// Allows returns a [*Refusal] unless t may be granted under the condition ("" for none).
func (m *Model) Allows(t tuple.Tuple, condition string) error {
	if _, ok := m.Type(t.Object.Type); !ok {
		return refuse("object", true, "the model has no type %+q", t.Object.Type)
	}
	r, ok := m.Relation(t.Object.Type, t.Relation)
	if !ok {
		return refuse("relation", true, "type %+q has no relation %+q", t.Object.Type, t.Relation)
	}
	if _, ok := m.Type(t.Subject.Type); !ok {
		return refuse("subject", true, "the model has no type %+q", t.Subject.Type)
	}
	if t.Subject.IsUserset() {
		if _, ok := m.Relation(t.Subject.Type, t.Subject.Relation); !ok {
			return refuse("subject", true, "type %+q has no relation %+q", t.Subject.Type, t.Subject.Relation)
		}
	}
	if condition != "" {
		if _, ok := m.Condition(condition); !ok {
			return refuse("condition", true, "the model has no condition %+q", condition)
		}
	}
	if r.allows(t.Subject, condition) {
		return nil
	}
	if len(r.Direct) == 0 {
		return refuse("relation", false, "relation %+q of type %+q is computed; it cannot be granted", t.Relation, t.Object.Type)
	}
	kinds := make([]string, len(r.Direct))
	subject := false
	for i, d := range r.Direct {
		kinds[i] = d.String()
		d.Condition = ""
		subject = subject || d.matches(t.Subject)
	}
	may := strings.Join(kinds, ", ")
	if !subject {
		return refuse("subject", false, "relation %+q of type %+q may be granted to [%s], not to %s", t.Relation, t.Object.Type, may, describe(t.Subject))
	}
	if condition == "" {
		return refuse("condition", false, "relation %+q of type %+q may be granted to [%s]; a condition is needed", t.Relation, t.Object.Type, may)
	}
	return refuse("condition", false, "relation %+q of type %+q may be granted to [%s], not with %s", t.Relation, t.Object.Type, may, condition)
}

// describe returns the kind of subject as the modeling language writes it.
func describe(s tuple.Subject) string {
	return Direct{Type: s.Type, Relation: s.Relation, Wildcard: s.IsWildcard()}.String()
}

func (d Direct) matches(s tuple.Subject) bool {
	return d.Type == s.Type && d.Relation == s.Relation && d.Wildcard == s.IsWildcard()
}

// allows reports whether the relation may be granted to s under the condition.
func (r *Relation) allows(s tuple.Subject, condition string) bool {
	for i := range r.Direct {
		if d := &r.Direct[i]; d.Condition == condition && d.matches(s) {
			return true
		}
	}
	return false
}
