package model

import (
	"slices"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// A grounding is a question with all its parts laid open: every part that it may lead
// to, with the rows read and the conditions run. It answers the few questions that
// meet themselves through a subtraction and that a [search], which sees one path at a
// time, could not decide.
//
// It computes the well-founded model by an alternating fixed point: what is possible,
// given what is certain, and what is certain, given what is possible, until neither
// changes. An error is possible and not certain.
type grounding struct {
	*search
	atoms []groundAtom
	find  map[partKey]int32
	// When an atom was found to be certain first, from 1; 0 if it was not. It stands on
	// atoms of lower rank alone, those that it is denied for included.
	ranks             []int32
	last              int32
	certain, possible []bool
}

// A groundAtom is a part of a question.
type groundAtom struct {
	partKey
	depth int
	rule  groundRule
}

// A groundRule is a [node] on an object. Any of its edges, or else its children as its
// kind says.
type groundRule struct {
	kind     nodeKind
	edges    []groundEdge
	children []groundRule
	this     bool         // as of the node
	told     *Explanation // without a verdict, if it is to be explained
}

// A groundEdge allows if an atom does, or if it is a fact. With err it is at best an error.
type groundEdge struct {
	atom int32 // -1 for a fact
	err  error
	told int // its place among the recorded grants, or untold
}

// ground answers whether the subject holds p on o.
func (s *search) ground(p *plan, o tuple.Object) (bool, error) {
	g := s.lay(p, o, 0)
	if s.record != nil {
		s.record.grounds = append(s.record.grounds, g)
	}
	switch {
	case s.fatal != nil:
		return false, s.fatal
	case g.certain[0]:
		return true, nil
	case !g.possible[0]:
		return false, nil
	}
	return false, g.cause(0)
}

// lay lays p on o open, at a depth.
func (s *search) lay(p *plan, o tuple.Object, depth int) *grounding {
	s.hops = s.hops[:0]
	g := &grounding{search: s, find: make(map[partKey]int32)}
	g.atom(p, o, depth)
	for i := 0; i < len(g.atoms) && s.fatal == nil; i++ {
		a := g.atoms[i]
		if s.subject.Relation == a.plan.name && s.subject.Object() == a.object {
			g.edge(&g.atoms[i].rule, -1, nil, untold)
			g.atoms[i].rule.told = &Explanation{Object: a.object, Relation: a.plan.name, Op: a.plan.relation.Rule.Op, Itself: true}
			continue
		}
		g.atoms[i].rule = g.rule(&a, &a.plan.rule)
	}
	g.settle()
	return g
}

// atom returns the index of a part.
func (g *grounding) atom(p *plan, o tuple.Object, depth int) int32 {
	key := partKey{p, o}
	i, ok := g.find[key]
	if !ok {
		i = int32(len(g.atoms))
		g.find[key] = i
		g.atoms = append(g.atoms, groundAtom{partKey: key, depth: depth})
		g.note(partBytes + len(o.ID)) // if it is too much, the next row ends the question
	}
	return i
}

// edge adds an edge to a rule.
func (g *grounding) edge(r *groundRule, atom int32, err error, told int) {
	g.note(hopBytes)
	r.edges = append(r.edges, groundEdge{atom, err, told})
}

// rule lays a node open.
func (g *grounding) rule(a *groundAtom, n *node) groundRule {
	r := groundRule{kind: n.kind, this: n.this}
	if g.record != nil {
		above := g.record.open
		r.told = &Explanation{Object: a.object, Relation: a.plan.name, Op: n.op(), Rule: n.text, at: n.at}
		g.record.open, g.record.all = r.told, true
		defer func() { g.record.open, g.record.all = above, false }()
		if g.record.telling {
			g.note(explanationBytes)
		}
	}
	switch n.kind {
	case nodeGrants:
		allowed, err := g.grants(a.plan, a.object)
		if allowed || err != nil {
			g.edge(&r, -1, err, untold)
		}
	case nodeLeaf, nodeComputed:
		g.edge(&r, g.atom(n.plan, a.object, a.depth), nil, untold)
		if r.told != nil {
			r.told.Branches = []*Explanation{reference(n.plan, a.object)}
		}
	case nodeUsersets, nodeFrom:
		set := a.plan
		if n.kind == nodeFrom {
			set = n.plan
		}
		for i := range n.targets {
			t := &n.targets[i]
			if !g.hopsOf(a.object, set, t) {
				break
			}
			for _, h := range g.hops {
				atom, err := int32(-1), h.err
				if a.depth == g.budget.Depth {
					err = g.tooDeep()
				} else {
					atom = g.atom(t.plan, h.subject.Object(), a.depth+1)
				}
				g.edge(&r, atom, err, h.told)
				if r.told != nil {
					r.told.Grants[h.told].Leads = leading(t.plan, h.subject.Object(), atom < 0, err)
				}
			}
			g.drop(0)
		}
	default:
		for i := range n.children {
			r.children = append(r.children, g.rule(a, &n.children[i]))
		}
	}
	return r
}

// settle computes which atoms hold for certain, and which possibly.
func (g *grounding) settle() {
	g.ranks = make([]int32, len(g.atoms))
	certain, possible := make([]bool, len(g.atoms)), slices.Repeat([]bool{true}, len(g.atoms))
	for g.fatal == nil {
		p := g.least(true, certain, possible)
		c := g.least(false, p, certain)
		if slices.Equal(p, possible) && slices.Equal(c, certain) {
			break
		}
		certain, possible = c, p
	}
	g.certain, g.possible = certain, possible
}

// least computes the atoms that are possible or else certain: the fewest that fit the
// rules. What is subtracted is held against other, and what is subtracted from that
// against before, which are of the round before.
func (g *grounding) least(possible bool, other, before []bool) []bool {
	held := make([]bool, len(g.atoms))
	for changed := true; changed; {
		changed = false
		for i := len(held) - 1; i >= 0; i-- { // what is asked last is needed first
			if held[i] {
				continue
			}
			if !g.spend(1) {
				return held
			}
			if g.holds(&g.atoms[i].rule, possible, held, other, before) {
				held[i], changed = true, true
				if !possible && g.ranks[i] == 0 {
					g.last++
					g.ranks[i] = g.last
				}
			}
		}
	}
	return held
}

func (g *grounding) holds(r *groundRule, possible bool, held, other, before []bool) bool {
	holds := func(r groundRule) bool { return g.holds(&r, possible, held, other, before) }
	switch r.kind {
	case nodeUnion:
		return slices.ContainsFunc(r.children, holds)
	case nodeIntersect:
		return !slices.ContainsFunc(r.children, func(r groundRule) bool { return !holds(r) })
	case nodeExclude:
		return holds(r.children[0]) && !g.holds(&r.children[1], !possible, other, before, other)
	}
	for _, e := range r.edges {
		if (e.err == nil || possible) && (e.atom < 0 || held[e.atom]) {
			return true
		}
	}
	return false
}

// A groundNeed is an undecided atom that another one needs.
type groundNeed struct {
	atom       int32
	subtracted bool
}

// certainly and possibly report whether a rule holds for certain, and possibly, under
// what is settled.
func (g *grounding) certainly(r *groundRule) bool {
	return g.holds(r, false, g.certain, g.possible, g.certain)
}

func (g *grounding) possibly(r *groundRule) bool {
	return g.holds(r, true, g.possible, g.certain, g.possible)
}

// cause returns why an atom is undecided: an error that what it needs has, or else a
// cycle.
func (g *grounding) cause(of int32) error {
	certain, possible := g.certain, g.possible
	needs := make(map[int32][]groundNeed)
	var visit func(atom int32, r *groundRule, subtracted bool) error
	visit = func(atom int32, r *groundRule, subtracted bool) error {
		if g.certainly(r) || !g.possibly(r) {
			return nil
		}
		for i := range r.children {
			if err := visit(atom, &r.children[i], subtracted || r.kind == nodeExclude && i == 1); err != nil {
				return err
			}
		}
		for _, e := range r.edges {
			if e.err != nil && (e.atom < 0 || possible[e.atom]) {
				return e.err
			}
			if e.atom >= 0 && possible[e.atom] && !certain[e.atom] {
				needs[atom] = append(needs[atom], groundNeed{e.atom, subtracted})
			}
		}
		return nil
	}
	todo, seen := []int32{of}, map[int32]bool{of: true}
	for i := 0; i < len(todo); i++ {
		if !g.spend(1) {
			return g.fatal
		}
		if err := visit(todo[i], &g.atoms[todo[i]].rule, false); err != nil {
			return err
		}
		for _, n := range needs[todo[i]] {
			if !seen[n.atom] {
				seen[n.atom] = true
				todo = append(todo, n.atom)
			}
		}
	}
	together := g.together(of, needs, len(todo))
	if g.fatal != nil {
		return g.fatal
	}
	for _, from := range todo { // the nearest first
		for _, n := range needs[from] {
			if n.subtracted && together[from] == together[n.atom] {
				return &CycleError{g.cycle(needs, from, n)}
			}
		}
	}
	panic("model: undecided without a cause")
}

// together numbers the atoms, so that those have one number that need each other, at any
// distance: Tarjan's algorithm, with a stack of its own.
func (g *grounding) together(from int32, needs map[int32][]groundNeed, n int) map[int32]int {
	type frame struct {
		atom int32
		next int // of its needs
	}
	number, low, of := make(map[int32]int, n), make(map[int32]int, n), make(map[int32]int, n)
	var stack []int32
	frames := []frame{{atom: from}}
	for len(frames) > 0 && g.spend(1) {
		f := &frames[len(frames)-1]
		if f.next == 0 && number[f.atom] == 0 {
			number[f.atom] = len(number) + 1
			low[f.atom] = number[f.atom]
			stack = append(stack, f.atom)
		}
		if f.next < len(needs[f.atom]) {
			to := needs[f.atom][f.next].atom
			f.next++
			if number[to] == 0 {
				frames = append(frames, frame{atom: to})
			} else if _, done := of[to]; !done {
				low[f.atom] = min(low[f.atom], number[to])
			}
			continue
		}
		at := f.atom
		frames = frames[:len(frames)-1]
		if len(frames) > 0 {
			above := frames[len(frames)-1].atom
			low[above] = min(low[above], low[at])
		}
		if low[at] == number[at] {
			for of[at] == 0 {
				of[stack[len(stack)-1]] = number[at]
				stack = stack[:len(stack)-1]
			}
		}
	}
	return of
}

// cycle returns the shortest way from an atom by one that it needs back to itself.
func (g *grounding) cycle(needs map[int32][]groundNeed, from int32, by groundNeed) []CyclePart {
	type stop struct {
		before int32
		need   groundNeed
	}
	came := map[int32]stop{by.atom: {from, by}} // how each atom was reached first
	for todo := []int32{by.atom}; len(todo) > 0; {
		at := todo[0]
		todo = todo[1:]
		g.spend(1)
		if at == from {
			var parts []CyclePart
			for s := came[at]; ; s = came[s.before] {
				a := &g.atoms[s.before]
				parts = append(parts, CyclePart{a.object, a.plan.name, s.need.subtracted})
				if s.before == from {
					slices.Reverse(parts)
					return parts
				}
			}
		}
		for _, n := range needs[at] {
			if _, ok := came[n.atom]; !ok {
				came[n.atom] = stop{at, n}
				todo = append(todo, n.atom)
			}
		}
	}
	panic("model: no way back on a cycle")
}
