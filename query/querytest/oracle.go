// Package querytest says what the right answers are: a naive oracle that computes all
// facts of a finite world bottom-up, random worlds and histories to ask it about, and
// mutations of the evaluator that must not survive the comparison.
//
// # What the rules mean
//
// A fact is object#relation@subject. Its value is Denied, Failed or Allowed, in this
// order: a union is the greatest of its parts, an intersection the least, and "a but
// not b" the least of a and the opposite of b, where Failed is its own opposite. A
// grant counts if the model allows it in this shape and it is within its time; its
// condition makes it Allowed, Denied or, if it errs, Failed; a grant to a userset, or
// one that a "from" follows, is the least of that and of what the subject holds there.
//
// Facts depend on each other, perhaps in circles. Where nothing is subtracted, a
// circle adds nothing: the facts are the least ones that satisfy the rules. What is
// subtracted must be settled before, which the oracle does in rounds. At first nothing
// is settled: everything that is subtracted counts as Failed, neither held nor not.
// A round computes the least facts under what is settled, and its result is what is
// settled in the next round; each settles more, until nothing changes. What is Failed
// then and rests on no condition that errs would, if it held, not hold: it meets
// itself through a subtracted side and has no answer by rules. A fact that can be
// decided without it, as a union that another part allows, has one. (This is the
// well-founded model of logic programming, with conditions that err as unknowns.)
//
// The oracle imports tuples and the types of compiled models, and no code that
// evaluates; a test holds it to that.
package querytest

import (
	"maps"
	"slices"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Value is what the rules say of a fact.
type Value byte

// The values, in the order that makes a union the greatest and an intersection the least.
const (
	Denied Value = iota
	Failed
	Allowed
)

func (v Value) String() string { return [...]string{"denied", "failed", "allowed"}[v] }

// Cycle is the cause of a fact that meets itself through a subtracted side. Any other
// cause is the name of a condition that errs.
const Cycle = "a cycle through a subtracted side"

// A Fact is a value, and if that is Failed, every cause that an error may name.
type Fact struct {
	Value  Value
	Causes []string // sorted
}

// State is what facts are computed from.
type State struct {
	Model  *model.Model
	Grants map[tuple.Tuple]model.Grant
	Time   int64 // that expiry is held against, nanoseconds since the Unix epoch
	// Holds says whether a condition holds under the context stored with a grant.
	Holds func(condition string, stored []byte) (bool, error)
}

// Facts returns the fact of every relation of every object, for each of the subjects.
// Objects that only the grants name are among them.
func Facts(s State, objects []tuple.Object, subjects []tuple.Subject) map[tuple.Tuple]Fact {
	o := newOracle(s, objects)
	facts := make(map[tuple.Tuple]Fact)
	for _, subject := range subjects {
		o.subject = subject
		values := o.solve()
		for _, n := range o.nodes {
			fact := Fact{Value: values[n]}
			if fact.Value == Failed {
				fact.Causes = o.causes(n, values)
			}
			facts[tuple.Tuple{Object: n.object, Relation: n.relation, Subject: subject}] = fact
		}
	}
	return facts
}

// A node is a relation on an object.
type node struct {
	object   tuple.Object
	relation string
}

// A granted is a grant that the model allows and that is within its time, with the
// value of its condition.
type granted struct {
	subject   tuple.Subject
	value     Value
	condition string
}

type values map[node]Value

type oracle struct {
	nodes   []node
	rules   map[node]*model.Rule
	granted map[node][]granted
	subject tuple.Subject // whose facts are computed
}

func newOracle(s State, objects []tuple.Object) *oracle {
	o := &oracle{rules: make(map[node]*model.Rule), granted: make(map[node][]granted)}
	objects = slices.Clone(objects)
	for t := range s.Grants {
		objects = append(objects, t.Object, t.Subject.Object())
	}
	direct := make(map[node][]model.Direct)
	for _, object := range objects {
		for i := range s.Model.Types {
			typ := &s.Model.Types[i]
			if typ.Name != object.Type || object.ID == tuple.Wildcard {
				continue
			}
			for j := range typ.Relations {
				n := node{object, typ.Relations[j].Name}
				if o.rules[n] == nil {
					o.nodes = append(o.nodes, n)
				}
				o.rules[n] = &typ.Relations[j].Rule
				direct[n] = typ.Relations[j].Direct
			}
		}
	}
	for t, g := range s.Grants {
		n := node{t.Object, t.Relation}
		kind := model.Direct{Type: t.Subject.Type, Relation: t.Subject.Relation, Wildcard: t.Subject.ID == tuple.Wildcard, Condition: g.Condition}
		if !slices.Contains(direct[n], kind) || s.Time < g.NotBefore || g.ExpiresAt != 0 && s.Time >= g.ExpiresAt {
			continue
		}
		value := Allowed
		if g.Condition != "" {
			if holds, err := s.Holds(g.Condition, g.Context); err != nil {
				value = Failed
			} else if !holds {
				value = Denied
			}
		}
		o.granted[n] = append(o.granted[n], granted{t.Subject, value, g.Condition})
	}
	return o
}

// solve returns the values of all nodes for the subject.
func (o *oracle) solve() values {
	settled := make(values)
	for _, n := range o.nodes {
		settled[n] = Failed
	}
	for {
		least := o.least(settled)
		if maps.Equal(least, settled) {
			return settled
		}
		settled = least
	}
}

// least returns the least values that satisfy the rules, if what is subtracted is what
// settled says.
func (o *oracle) least(settled values) values {
	now := make(values)
	for _, n := range o.nodes {
		now[n] = Denied
	}
	for changed := true; changed; {
		changed = false
		for _, n := range o.nodes {
			if v := o.node(n, now, settled); v != now[n] {
				now[n], changed = v, true
			}
		}
	}
	return now
}

// node returns what the rule of a node says. The subject that is the userset of those
// who hold n holds it whatever the rule.
func (o *oracle) node(n node, now, settled values) Value {
	if (o.subject == tuple.Subject{Type: n.object.Type, ID: n.object.ID, Relation: n.relation}) {
		return Allowed
	}
	return o.rule(n, o.rules[n], now, settled)
}

// rule returns what a rule of n says under the values now; where it subtracts, under
// those that are settled.
func (o *oracle) rule(n node, rule *model.Rule, now, settled values) Value {
	v := Denied
	switch rule.Op {
	case model.This:
		for _, g := range o.granted[n] {
			v = max(v, min(g.value, o.grantee(g.subject, now)))
		}
	case model.Computed:
		v = now[node{n.object, rule.Relation}]
	case model.From:
		for _, g := range o.granted[node{n.object, rule.Tupleset}] {
			v = max(v, min(g.value, now[node{g.subject.Object(), rule.Relation}]))
		}
	case model.Union:
		for i := range rule.Children {
			v = max(v, o.rule(n, &rule.Children[i], now, settled))
		}
	case model.Intersect:
		v = Allowed
		for i := range rule.Children {
			v = min(v, o.rule(n, &rule.Children[i], now, settled))
		}
	case model.Exclude:
		a := o.rule(n, &rule.Children[0], now, settled)
		b := o.rule(n, &rule.Children[1], settled, settled)
		v = min(a, Allowed-b)
	}
	return v
}

// grantee returns whether the subject is who a grant is to.
func (o *oracle) grantee(to tuple.Subject, now values) Value {
	switch {
	case to == o.subject:
		return Allowed
	case to.Relation != "":
		return now[node{to.Object(), to.Relation}]
	case to.ID == tuple.Wildcard && to.Type == o.subject.Type && o.subject.Relation == "":
		return Allowed
	}
	return Denied
}

// A need is why a node is Failed: another node that is, perhaps subtracted, or a
// condition that errs.
type need struct {
	node       node
	subtracted bool
	condition  string
}

// causes returns the conditions that err below n, and Cycle if a node below n needs
// itself through a subtracted side, following only what is Failed.
func (o *oracle) causes(n node, final values) []string {
	found := make(map[string]bool)
	for below := range o.below(n, final) {
		for _, need := range o.needs(below, o.rules[below], final, false) {
			switch {
			case need.condition != "":
				found[need.condition] = true
			case need.subtracted && o.below(need.node, final)[below]:
				found[Cycle] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// below returns n and the nodes that it needs, at any distance.
func (o *oracle) below(n node, final values) map[node]bool {
	seen := map[node]bool{n: true}
	for todo := []node{n}; len(todo) > 0; {
		n, todo = todo[0], todo[1:]
		for _, need := range o.needs(n, o.rules[n], final, false) {
			if need.condition == "" && !seen[need.node] {
				seen[need.node] = true
				todo = append(todo, need.node)
			}
		}
	}
	return seen
}

// needs returns what makes a rule of n Failed; nothing if it is not.
func (o *oracle) needs(n node, rule *model.Rule, final values, subtracted bool) (needs []need) {
	if o.rule(n, rule, final, final) != Failed {
		return nil
	}
	grant := func(g granted, held Value, at node) {
		if g.value == Failed && held != Denied {
			needs = append(needs, need{condition: g.condition})
		}
		if held == Failed && g.value != Denied {
			needs = append(needs, need{node: at, subtracted: subtracted})
		}
	}
	switch rule.Op {
	case model.This:
		for _, g := range o.granted[n] {
			grant(g, o.grantee(g.subject, final), node{g.subject.Object(), g.subject.Relation})
		}
	case model.Computed:
		needs = append(needs, need{node: node{n.object, rule.Relation}, subtracted: subtracted})
	case model.From:
		for _, g := range o.granted[node{n.object, rule.Tupleset}] {
			at := node{g.subject.Object(), rule.Relation}
			grant(g, final[at], at)
		}
	case model.Union, model.Intersect:
		for i := range rule.Children {
			needs = append(needs, o.needs(n, &rule.Children[i], final, subtracted)...)
		}
	case model.Exclude:
		needs = append(needs, o.needs(n, &rule.Children[0], final, subtracted)...)
		needs = append(needs, o.needs(n, &rule.Children[1], final, true)...)
	}
	return needs
}
