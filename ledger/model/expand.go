package model

import "github.com/grantlog/grantlog/ledger/tuple"

// A Tree says who holds a relation on an object: by which operation, over which grants
// and which branches. Its shape is that of the relation's rule, in source order.
type Tree struct {
	Object   tuple.Object
	Relation string
	Op       Op
	// Rule is what a Computed or From says, such as "editor" or "viewer from parent".
	Rule string
	// Grants are, of This, those of the relation itself; of From, those of its tupleset.
	Grants []Granted
	// Branches are, of Union, Intersect and Exclude, the operands, all about the same
	// object and relation; of Computed, the tree of that relation, unless it stands
	// elsewhere or is too far down.
	Branches []*Tree
}

// A Granted is a grant that counts. With Err it cannot be said whether it does.
type Granted struct {
	Tuple tuple.Tuple
	Grant Grant
	Err   error
	// Leads is who holds what the grant leads to: the subject's own relation, or that
	// before "from". Nil for a subject that leads nowhere, and where that tree stands
	// elsewhere or is too far down.
	Leads *Tree
}

const treeBytes = 256 // held of a tree or a grant in it

// Expand returns who holds a relation on an object, as a tree of grants that count now.
// What the grants and rules lead to is expanded too, so many levels down, each relation
// on each object once: where it is met first, reading from the top. One level is the
// rule of the relation alone.
//
// Errors are those of [Model.Check]; the budget's depth is not needed.
func (m *Model) Expand(sc Scope, o tuple.Object, relation string, levels int) (*Tree, Spent, error) {
	p, err := m.plan(o.Type, relation)
	if err != nil {
		return nil, Spent{}, err
	}
	meter := newMeter(&sc, ListBudget)
	e := &expansion{search: newSearch(&sc, tuple.Subject{}, &meter), model: m, levels: levels, seen: make(map[partKey]bool)}
	defer e.release()
	root := e.part(p, o, 1)
	for i := 0; i < len(e.later) && e.fatal == nil; i++ {
		l := e.later[i]
		if t := e.part(l.plan, l.object, l.level); t != nil {
			l.put(t)
		}
	}
	spent, err := meter.end()
	if err != nil {
		return nil, spent, err
	}
	return root, spent, nil
}

// An expansion is the state of one Expand.
type expansion struct {
	*search
	model  *Model
	levels int
	seen   map[partKey]bool
	later  []expandLater // in order of level, so that what is near is expanded first
}

type expandLater struct {
	partKey
	level int
	put   func(*Tree)
}

// part returns the tree of p on o; nil if it stands elsewhere or is too far down.
func (e *expansion) part(p *plan, o tuple.Object, level int) *Tree {
	key := partKey{p, o}
	if level > e.levels || e.seen[key] {
		return nil
	}
	e.seen[key] = true
	e.spent.Depth = max(e.spent.Depth, level)
	return e.rule(p, o, &p.relation.Rule, level)
}

func (e *expansion) rule(p *plan, o tuple.Object, r *Rule, level int) *Tree {
	t := &Tree{Object: o, Relation: p.name, Op: r.Op}
	if !e.spend(1) || !e.hold(treeBytes+len(o.ID)) {
		return t
	}
	switch r.Op {
	case This:
		t.Grants = e.grants(p, o, func(s tuple.Subject) *plan {
			if !s.IsUserset() {
				return nil
			}
			return e.model.plans[relationKey{s.Type, s.Relation}]
		}, level)
	case Computed:
		t.Rule = r.Relation
		e.later = append(e.later, expandLater{partKey{e.model.plans[relationKey{p.typ, r.Relation}], o}, level + 1,
			func(branch *Tree) { t.Branches = []*Tree{branch} }})
	case From:
		t.Rule = r.Relation + " from " + r.Tupleset
		t.Grants = e.grants(e.model.plans[relationKey{p.typ, r.Tupleset}], o, func(s tuple.Subject) *plan {
			return e.model.plans[relationKey{s.Type, r.Relation}] // nil if that type has no such relation
		}, level)
	default:
		for i := range r.Children {
			t.Branches = append(t.Branches, e.rule(p, o, &r.Children[i], level))
		}
	}
	return t
}

// grants returns the grants of a relation that count, in the order of the kinds of
// subject that the model names.
func (e *expansion) grants(p *plan, o tuple.Object, leads func(tuple.Subject) *plan, level int) (all []Granted) {
	type kind struct{ typ, relation string }
	read := make(map[kind]bool)
	for i := range p.relation.Direct {
		k := kind{p.relation.Direct[i].Type, p.relation.Direct[i].Relation}
		if read[k] || !e.spend(1) {
			continue
		}
		read[k] = true
		err := e.reader.Subjects(o, p.name, k.typ, k.relation, "", func(s tuple.Subject, g Grant) bool {
			if !e.spend(1) {
				return false
			}
			counts, err := e.counts(p.relation, s, &g)
			if !counts && err == nil {
				return true
			}
			all = append(all, Granted{Tuple: tuple.Tuple{Object: o, Relation: p.name, Subject: s}, Grant: g, Err: err})
			return e.hold(treeBytes + len(s.ID) + len(g.Context))
		})
		if err != nil && e.fatal == nil {
			e.fatal = err
		}
	}
	for i := range all {
		if q := leads(all[i].Tuple.Subject); q != nil && level < e.levels {
			e.later = append(e.later, expandLater{partKey{q, all[i].Tuple.Subject.Object()}, level + 1, func(t *Tree) { all[i].Leads = t }})
		}
	}
	return all
}
