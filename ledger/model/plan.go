package model

import (
	"math"
	"slices"
)

// A plan is a relation made ready for the evaluator: names resolved, and the parts of
// its rule in the order in which they are cheapest to ask. The answer does not depend
// on that order; what a question costs, and which of several errors is told, does.
type plan struct {
	typ, name string
	relation  *Relation
	rule      node
	usersets  []target // what grants to usersets lead to
	leaf      bool     // the rule reads grants to the subject alone: nothing else is asked
	nodes     int      // how many the rule has

	// Relations that lead to each other without subtraction are one component, for
	// walks; nil for a relation that does not lead back to itself.
	component *component
}

// A component is the relations that lead to each other.
type component struct {
	plans []*plan
	// operands is the most operands that an intersection in their rules has, 0 without one.
	operands int
}

// A nodeKind is the kind of a [node], in order of cost.
type nodeKind byte

const (
	nodeGrants    nodeKind = iota // granted to the subject, or to every subject of its type
	nodeLeaf                      // computed from a relation that is a leaf
	nodeComputed                  // computed from any other relation
	nodeUsersets                  // granted to a userset that the subject is in
	nodeFrom                      // held on an object that the tupleset names
	nodeUnion                     // any of the children
	nodeIntersect                 // all of the children
	nodeExclude                   // the first child but not the second
)

// A node is a part of a plan's rule.
type node struct {
	kind     nodeKind
	plan     *plan    // of nodeLeaf and nodeComputed: the other relation; of nodeFrom: the tupleset
	targets  []target // of nodeUsersets and nodeFrom: what the grants may lead to
	text     string   // of nodeComputed and nodeFrom: the rule as the modeling language writes it
	children []node   // of the last three
	at       int      // its place in the rule as the model has it, reading from the top
	this     bool     // it is the union of the two ways in which one This is looked for
}

// A target is a kind of subject that leads on, and the relation asked there.
type target struct {
	typ, relation string // of the subject; relation is "" under nodeFrom
	plan          *plan
}

// compile makes the plans of a model that has no faults.
func (m *Model) compile() {
	m.plans = make(map[relationKey]*plan, len(m.relations))
	for key, r := range m.relations {
		m.plans[key] = &plan{typ: key.typ, name: key.relation, relation: r}
	}
	for _, p := range m.plans { // before the rules, which ask for it
		p.usersets = m.targets(p.relation.Direct, func(d Direct) (string, string) { return d.Type, d.Relation })
		p.leaf = p.relation.Rule.Op == This && len(p.usersets) == 0
	}
	for _, p := range m.plans {
		p.rule = m.node(p, &p.relation.Rule)
	}
	m.components()
}

// components finds the components, by Tarjan's algorithm.
func (m *Model) components() {
	number, low := make(map[*plan]int), make(map[*plan]int)
	var stack []*plan
	var visit func(p *plan)
	visit = func(p *plan) {
		number[p] = len(number) + 1
		low[p] = number[p]
		begun, itself := len(stack), false
		stack = append(stack, p)
		p.rule.needs(false, func(q *plan) {
			itself = itself || q == p
			if number[q] == 0 {
				visit(q)
			}
			low[p] = min(low[p], low[q]) // of a plan that is done it is above all numbers
		})
		if low[p] < number[p] {
			return
		}
		c := &component{plans: slices.Clone(stack[begun:])}
		stack = stack[:begun]
		for _, q := range c.plans {
			low[q] = math.MaxInt
			c.operands = max(c.operands, q.rule.operands())
			if itself || len(c.plans) > 1 {
				q.component = c
			}
		}
	}
	for i := range m.Types {
		for j := range m.Types[i].Relations {
			if p := m.plans[relationKey{m.Types[i].Name, m.Types[i].Relations[j].Name}]; number[p] == 0 {
				visit(p)
			}
		}
	}
}

// operands returns the most operands of an intersection within n that a walk may meet.
func (n *node) operands() int {
	most := 0
	if n.kind == nodeIntersect {
		most = len(n.children)
	}
	for i := range n.children {
		if n.kind != nodeExclude || i == 0 {
			most = max(most, n.children[i].operands())
		}
	}
	return most
}

// targets returns the relations that grants to these kinds of subject lead to, each
// once; asked names the relation that is asked on such a subject.
func (m *Model) targets(kinds []Direct, asked func(Direct) (typ, relation string)) []target {
	var targets []target
	seen := make(map[target]bool, len(kinds))
	for _, d := range kinds {
		typ, relation := asked(d)
		t := target{d.Type, d.Relation, m.plans[relationKey{typ, relation}]}
		if t.plan != nil && !seen[t] {
			seen[t] = true
			targets = append(targets, t)
		}
	}
	return targets
}

func (m *Model) node(p *plan, rule *Rule) node {
	at := p.nodes
	p.nodes++
	switch rule.Op {
	case This:
		if len(p.usersets) == 0 {
			return node{kind: nodeGrants, at: at}
		}
		return node{kind: nodeUnion, at: at, this: true,
			children: []node{{kind: nodeGrants, at: at}, {kind: nodeUsersets, at: at, targets: p.usersets}}}
	case Computed:
		n := node{kind: nodeComputed, at: at, plan: m.plans[relationKey{p.typ, rule.Relation}], text: rule.Relation}
		if n.plan.leaf {
			n.kind = nodeLeaf
		}
		return n
	case From:
		set := m.plans[relationKey{p.typ, rule.Tupleset}]
		return node{kind: nodeFrom, at: at, plan: set, text: rule.Relation + " from " + rule.Tupleset,
			targets: m.targets(set.relation.Direct, func(d Direct) (string, string) { return d.Type, rule.Relation })}
	}
	n := node{kind: nodeUnion, at: at}
	switch rule.Op {
	case Intersect:
		n.kind = nodeIntersect
	case Exclude:
		n.kind = nodeExclude
	}
	for i := range rule.Children {
		child := m.node(p, &rule.Children[i])
		if child.kind == nodeUnion && n.kind == nodeUnion {
			n.children = append(n.children, child.children...)
		} else {
			n.children = append(n.children, child)
		}
	}
	if n.kind != nodeExclude {
		slices.SortStableFunc(n.children, func(a, b node) int { return int(a.kind) - int(b.kind) })
	}
	return n
}

// CanHold reports whether a subject of that kind could hold the relation, whatever was
// granted: whether its rules lead to a grant to the kind, to its wildcard, or to the
// usersets of the kind themselves.
func (m *Model) CanHold(typ, relation string, kind Kind) bool {
	p := m.plans[relationKey{typ, relation}]
	if p == nil {
		return false
	}
	found, seen := false, map[*plan]bool{p: true}
	for todo := []*plan{p}; len(todo) > 0 && !found; {
		p, todo = todo[0], todo[1:]
		found = p.typ == kind.Type && p.name == kind.Relation || p.grantable(kind)
		p.rule.needs(false, func(q *plan) {
			if !seen[q] {
				seen[q] = true
				todo = append(todo, q)
			}
		})
	}
	return found
}

func (p *plan) grantable(kind Kind) bool {
	return slices.ContainsFunc(p.relation.Direct, func(d Direct) bool { return d.Type == kind.Type && d.Relation == kind.Relation })
}
