package model

import "slices"

// A plan is a relation made ready for the evaluator: names resolved, and the parts of
// its rule in the order in which they are cheapest to ask. The answer does not depend
// on that order; what a question costs, and which of several errors is told, does.
type plan struct {
	typ, name string
	relation  *Relation
	rule      node
	usersets  []target // what grants to usersets lead to
	leaf      bool     // the rule reads grants to the subject alone: nothing else is asked
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
	switch rule.Op {
	case This:
		if len(p.usersets) == 0 {
			return node{kind: nodeGrants}
		}
		return node{kind: nodeUnion, children: []node{{kind: nodeGrants}, {kind: nodeUsersets, targets: p.usersets}}}
	case Computed:
		n := node{kind: nodeComputed, plan: m.plans[relationKey{p.typ, rule.Relation}], text: rule.Relation}
		if n.plan.leaf {
			n.kind = nodeLeaf
		}
		return n
	case From:
		set := m.plans[relationKey{p.typ, rule.Tupleset}]
		return node{kind: nodeFrom, plan: set, text: rule.Relation + " from " + rule.Tupleset,
			targets: m.targets(set.relation.Direct, func(d Direct) (string, string) { return d.Type, rule.Relation })}
	}
	n := node{kind: nodeUnion}
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
