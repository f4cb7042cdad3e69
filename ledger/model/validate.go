package model

import (
	"fmt"
	"strings"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// Limits of models.
const (
	MaxTypes      = 1000 // types of one model; package dsl refuses fewer by default
	MaxRelations  = 4096 // relations of all its types
	MaxConditions = 1000
	MaxRuleDepth  = 32 // rules within rules
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

// Faults are all mistakes of a model, in source order.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "; ")
}

// index holds the lookup tables of a validated model.
type index struct {
	types      map[string]*Type
	relations  map[relationKey]*Relation
	conditions map[string]*Condition
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
	m.index = index{make(map[string]*Type), make(map[relationKey]*Relation), make(map[string]*Condition)}
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
		v.grounded()
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
	if strings.TrimSpace(c.Expression) == "" {
		v.fault(c.Name, "the expression is empty")
	}
	for i, p := range c.Params {
		if err := tuple.ValidateRelation("parameter", p.Name); err != nil {
			v.fault(p.Name, "%s", err)
		}
		if i > 0 && c.Params[i-1].Name >= p.Name {
			v.fault(p.Name, "parameters must be in order of name, none twice")
		}
		for t := &p.Type; ; t = t.Elem {
			container := t.Kind == ParamList || t.Kind == ParamMap
			if t.Kind < ParamAny || t.Kind > ParamMap || container != (t.Elem != nil) {
				v.fault(p.Name, "parameter %+q has no valid type", p.Name)
			}
			if t.Elem == nil {
				break
			}
		}
	}
}

func (v *validator) relation(t *Type, r *Relation) {
	direct := v.rule(t, r, &r.Rule, 0)
	if direct && len(r.Direct) == 0 {
		v.fault(r.Name, "a direct relation must name the types it may be granted to, in brackets")
	}
	if !direct && len(r.Direct) > 0 {
		v.fault(r.Name, "types in brackets without a direct relation")
	}
	for i, d := range r.Direct {
		v.direct(d)
		for _, other := range r.Direct[:i] {
			if other == d {
				v.fault(d.String(), "%s stands twice", d)
			}
		}
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

// grounded finds relations that nobody could ever hold: those whose rules lead back to
// themselves before they lead to a direct grant. It is a least fixed point: a relation
// has an entry if its rule has one, given those found so far.
func (v *validator) grounded() {
	entry := make(map[relationKey]bool)
	var has func(t *Type, r *Relation, rule *Rule) bool
	has = func(t *Type, r *Relation, rule *Rule) bool {
		switch rule.Op {
		case This:
			for _, d := range r.Direct {
				if d.Relation == "" || entry[relationKey{d.Type, d.Relation}] {
					return true
				}
			}
			return false
		case Computed:
			return entry[relationKey{t.Name, rule.Relation}]
		case From:
			for _, d := range v.relations[relationKey{t.Name, rule.Tupleset}].Direct {
				if entry[relationKey{d.Type, rule.Relation}] {
					return true
				}
			}
			return false
		case Union:
			for i := range rule.Children {
				if has(t, r, &rule.Children[i]) {
					return true
				}
			}
			return false
		case Intersect:
			for i := range rule.Children {
				if !has(t, r, &rule.Children[i]) {
					return false
				}
			}
			return true
		default: // Exclude: what is subtracted may be empty
			return has(t, r, &rule.Children[0])
		}
	}
	for changed := true; changed; {
		changed = false
		for i := range v.Types {
			t := &v.Types[i]
			for j := range t.Relations {
				r := &t.Relations[j]
				key := relationKey{t.Name, r.Name}
				if !entry[key] && has(t, r, &r.Rule) {
					entry[key], changed = true, true
				}
			}
		}
	}
	for i := range v.Types {
		t := &v.Types[i]
		for j := range t.Relations {
			r := &t.Relations[j]
			v.at = Fault{Type: t.Name, Relation: r.Name}
			if !entry[relationKey{t.Name, r.Name}] {
				v.fault(r.Name, "nobody could ever hold it: its rules lead back to itself before they lead to a direct grant")
			}
		}
		v.computedCycles(t)
	}
}

// computedCycles finds relations of a type that computed relations on the same object
// lead back to, in a depth-first walk that visits each once.
func (v *validator) computedCycles(t *Type) {
	const walking, walked = 1, 2
	state := make(map[string]int, len(t.Relations))
	var visit func(rule *Rule, of string)
	visit = func(rule *Rule, of string) {
		if rule.Op == Computed {
			switch r := v.relations[relationKey{t.Name, rule.Relation}]; state[r.Name] {
			case walking:
				v.at = Fault{Type: t.Name, Relation: of}
				v.fault(r.Name, "it is computed from %+q, which is computed from it, on the same object", r.Name)
			case 0:
				state[r.Name] = walking
				visit(&r.Rule, r.Name)
				state[r.Name] = walked
			}
		}
		for i := range rule.Children {
			visit(&rule.Children[i], of)
		}
	}
	for i := range t.Relations {
		if r := &t.Relations[i]; state[r.Name] == 0 {
			state[r.Name] = walking
			visit(&r.Rule, r.Name)
			state[r.Name] = walked
		}
	}
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
