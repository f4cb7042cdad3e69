package model

import (
	"errors"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// An Item is one element of a list, named by its id. With Err the question about it has
// no answer: neither is it on the list nor is it known not to be.
type Item struct {
	ID       string
	Excluded bool // of [Model.ListSubjects]: the wildcard on the list does not speak for it
	Err      error
}

// ListObjects calls yield for each object of a type on which the subject holds the
// relation, and for each of which that cannot be said, whose id comes after the given
// one, in order of id, until yield returns false. Whatever [Model.Check] allows is on
// the list, and nothing else; an item's Err is what Check returns for it.
//
// It returns what was spent, and an error as Check does, after which the list is not
// complete. A way to an object that is longer than the budget's depth is one too. Near
// that depth a list may know what a single Check cannot reach, since what it judges is
// judged from the object on; it never contradicts one that has an answer.
//
// # How objects are found
//
// A walk goes from the subject through the reverse rows to what its grants lead to, and
// never over all objects of a type. It follows what a rule adds, so that what it meets
// is at least what is held: of an exclusion the first side; of an intersection one
// operand, the one that is read with the fewest rows. What it met through either is then
// judged: the other operands and the subtracted side are asked, for this object.
//
// Relations on the way are needed as whole sets, which are remembered for the list. The
// objects wanted need not be: they are merged, in order, from the runs of rows that the
// last step reads, a window at a time.
func (m *Model) ListObjects(sc Scope, s tuple.Subject, typ, relation, after string, yield func(Item) bool) (Spent, error) {
	p, err := m.plan(typ, relation)
	if err != nil {
		return Spent{}, err
	}
	meter := newMeter(&sc, ListBudget)
	w := &objectWalk{
		search: newSearch(&sc, s, &meter),
		sets:   make(map[*plan][]member), chosen: make(map[*node]int),
	}
	defer w.release()
	w.list(p, after, yield)
	return meter.end()
}

// errTrial ends a trial. No caller of this package sees it.
var errTrial = errors.New("model: the trial is over")

// An objectWalk is the state of a list of objects. Its search, of the list's subject,
// judges what was found.
type objectWalk struct {
	*search
	sets   map[*plan][]member // the relations on the way whose holders are known
	chosen map[*node]int      // the operand followed, of intersections
	within *component         // what is being closed, nil outside
	turn   int                // the operand to follow within it
}

// A member is an object on which the subject holds a relation; with err, it cannot be said.
type member struct {
	id    string
	depth int
	err   error
}

const memberBytes = 64 // held of a member, beside the text of its id

// A duty is what must be so, beside what a walk has followed, for something found to be
// held: the subject holds node on the object, or does not.
type duty struct {
	plan *plan
	node *node
	not  bool
	and  *duty // and this, nil for nothing more
}

// subsumes reports whether d asks no more than e: it is what e was made from.
func (d *duty) subsumes(e *duty) bool {
	for ; e != d; e = e.and {
		if e == nil {
			return false
		}
	}
	return true
}

// A term is one way to hold a relation. Exactly one of its kinds is set.
type term struct {
	granted *plan   // it was granted to the subject, or to every subject of its type
	target  *target // it was granted on to the holders of the target, by the relation set
	set     *plan
	known   *plan        // whoever holds this on the same object
	itself  tuple.Object // the subject is the userset of those who hold it on this object
	duties  *duty
}

// maxTerms is how many terms a relation is taken apart into before the relations that
// it is computed from are asked for as a whole.
const maxTerms = 64

// terms takes the rule of a relation apart.
func (w *objectWalk) terms(p *plan) []term {
	t := &termer{walk: w, seen: make(map[*plan][]*duty)}
	t.plan(p, nil)
	return t.terms
}

// A termer takes one relation apart.
type termer struct {
	walk  *objectWalk
	terms []term
	seen  map[*plan][]*duty // the relations taken apart so far, and under which duties
}

func (t *termer) plan(p *plan, duties *duty) {
	for _, seen := range t.seen[p] {
		if seen.subsumes(duties) {
			return
		}
	}
	t.seen[p] = append(t.seen[p], duties)
	if s := t.walk.subject; s.Relation == p.name && s.Type == p.typ {
		t.terms = append(t.terms, term{itself: s.Object(), duties: duties})
	}
	t.node(p, &p.rule, duties)
}

func (t *termer) node(p *plan, n *node, duties *duty) {
	if t.walk.fatal != nil {
		return // operands would be tried in vain, each within each
	}
	add := func(x term) {
		x.duties = duties
		t.terms = append(t.terms, x)
	}
	switch n.kind {
	case nodeGrants:
		add(term{granted: p})
	case nodeUsersets, nodeFrom:
		set := p
		if n.kind == nodeFrom {
			set = n.plan
		}
		for i := range n.targets {
			add(term{target: &n.targets[i], set: set})
		}
	case nodeLeaf, nodeComputed:
		if n.plan.component != nil || len(t.terms) >= maxTerms {
			add(term{known: n.plan})
		} else {
			t.plan(n.plan, duties)
		}
	case nodeUnion:
		for i := range n.children {
			t.node(p, &n.children[i], duties)
		}
	case nodeExclude:
		t.node(p, &n.children[0], &duty{p, &n.children[1], true, duties})
	case nodeIntersect:
		followed := t.walk.operand(p, n)
		for i := range n.children {
			if i != followed {
				duties = &duty{p, &n.children[i], false, duties}
			}
		}
		t.node(p, &n.children[followed], duties)
	}
}

// operand returns the operand of an intersection that is read with the fewest rows.
func (w *objectWalk) operand(p *plan, n *node) int {
	if i, ok := w.chosen[n]; ok || w.fatal != nil {
		return i
	}
	if w.within != nil && p.component == w.within {
		return w.turn % len(n.children)
	}
	i := w.fewest(len(n.children), func(i int) bool {
		t := &termer{walk: w, seen: make(map[*plan][]*duty)}
		t.node(p, &n.children[i], nil)
		for _, s := range w.sources(t.terms, nil) {
			w.read(&s, "", func(found) bool { return true })
		}
		return false
	})
	if w.fatal == nil {
		w.chosen[n] = i
	}
	return i
}

// fewest returns the first of n ways that ends within the fewest rows, roughly: all are
// tried within few rows, then within four times as many, and so on. So whatever the
// others would cost, no more than about five times the rows of the cheapest are read for
// each. A way that says of itself that it must not be taken is not; -1 if none may be.
func (s *search) fewest(n int, try func(i int) (never bool)) int {
	outer, left := s.trial, n
	defer func() { s.trial, s.due = outer, s.spent.Rows }()
	never := make([]bool, n)
	for limit := 32; left > 0; limit *= 4 {
		for i := range n {
			if never[i] {
				continue
			}
			if s.trial = s.spent.Rows + limit; outer > 0 {
				s.trial = min(s.trial, outer)
			}
			s.due = s.spent.Rows
			not := try(i)
			switch {
			case s.fatal != nil && (s.fatal != errTrial || outer > 0 && s.spent.Rows > outer):
				return 0 // the whole list ends, or the trial that this one is part of
			case not:
				never[i] = true
				left--
			case s.fatal == nil:
				return i
			}
			if s.fatal != nil {
				s.fatal = nil
				s.forget() // parts under way are half done
			}
		}
	}
	return -1
}

// A source is a run of objects in order of id, one way to hold a relation: rows, or
// members that are known.
type source struct {
	subject tuple.Subject // whose rows are read
	plan    *plan         // the relation that they grant
	members []member      // instead, if plan is nil
	duties  *duty
	depth   int   // of the rows
	err     error // of what leads to the rows
}

const sourceBytes = 128 // held of a source

// sources returns the runs that the terms read. Within a component, terms that lead back
// into it are left out; they are handed to inner.
func (w *objectWalk) sources(terms []term, inner func(*term)) (all []source) {
	add := func(s source) bool {
		if all = append(all, s); len(all)%pollEvery == 0 {
			w.poll()
		}
		return w.hold(sourceBytes)
	}
	for i := range terms {
		t := &terms[i]
		switch {
		case w.fatal != nil:
			return nil
		case t.granted != nil:
			one, every := t.granted.grantsTo(w.subject)
			if one {
				add(source{subject: w.subject, plan: t.granted, duties: t.duties})
			}
			if every {
				add(source{subject: tuple.Subject{Type: w.subject.Type, ID: tuple.Wildcard}, plan: t.granted, duties: t.duties})
			}
		case t.known != nil:
			if inner != nil && t.known.component == w.within {
				inner(t)
				continue
			}
			add(source{members: w.set(t.known), duties: t.duties})
		case t.target != nil:
			if inner != nil && t.target.plan.component == w.within {
				inner(t)
				continue
			}
			for _, m := range w.set(t.target.plan) {
				if !add(source{subject: t.target.on(m.id), plan: t.set, duties: t.duties, depth: m.depth + 1, err: m.err}) {
					return nil
				}
			}
		default:
			add(source{members: []member{{id: t.itself.ID}}, duties: t.duties})
		}
	}
	return all
}

// on returns the subject of grants that lead to the target on an object.
func (t *target) on(id string) tuple.Subject {
	return tuple.Subject{Type: t.typ, ID: id, Relation: t.relation}
}

// A found is an object that may be held.
type found struct {
	id     string
	duties *duty
	depth  int
	unsure bool // a condition, or what leads here, has no answer
	passed bool // it is not held by this row, which only tells how far its run was read
}

func (f found) sure() bool { return f.rank() == 0 }

// read calls yield for what a source has after an id, also what it does not hold, until
// yield returns false, and reports whether all was read that was wanted.
func (w *objectWalk) read(s *source, after string, yield func(found) bool) bool {
	if !w.spend(1) {
		return false
	}
	if s.plan == nil {
		from, _ := slices.BinarySearchFunc(s.members, after, func(m member, id string) int { return strings.Compare(m.id, id) })
		for _, m := range s.members[from:] {
			if m.id == after {
				continue
			}
			if !w.spend(1) {
				return false
			}
			if !yield(found{id: m.id, duties: s.duties, depth: m.depth, unsure: m.err != nil}) {
				break
			}
		}
		return true
	}
	if s.depth > w.budget.Depth {
		w.deepest(s)
		return w.fatal == nil
	}
	w.spent.Depth = max(w.spent.Depth, s.depth)
	err := w.reader.Objects(s.subject, s.plan.typ, s.plan.name, after, func(o tuple.Object, g Grant) bool {
		if !w.spend(1) {
			return false
		}
		allowed, err := w.counts(s.plan.relation, s.subject, &g)
		return yield(found{o.ID, s.duties, s.depth, err != nil || s.err != nil, !allowed && err == nil})
	})
	if err != nil && w.fatal == nil {
		w.fatal = err
	}
	return w.fatal == nil
}

// deepest ends the list if the source, which is too deep, has a row.
func (w *objectWalk) deepest(s *source) {
	err := w.reader.Objects(s.subject, s.plan.typ, s.plan.name, "", func(_ tuple.Object, g Grant) bool {
		if allowed, err := w.counts(s.plan.relation, s.subject, &g); allowed || err != nil {
			w.fatal = w.tooDeep()
		}
		return w.fatal == nil && w.spend(1)
	})
	if err != nil && w.fatal == nil {
		w.fatal = err
	}
}

// judge answers whether the subject holds p on an object that was found.
func (w *objectWalk) judge(p *plan, f *found) (bool, error) {
	if f.sure() {
		return true, nil
	}
	o := tuple.Object{Type: p.typ, ID: f.id}
	w.tidy()
	if !f.unsure && w.fulfils(f.duties, o) {
		return true, nil
	}
	if w.fatal != nil {
		return false, w.fatal
	}
	return w.answerTo(p, o) // there may be another way
}

// fulfils reports whether all duties are so on an object. Those that have no answer are not.
func (s *search) fulfils(d *duty, o tuple.Object) bool {
	for ; d != nil; d = d.and {
		allowed, err := s.eval(d.plan, o, d.node)
		if s.fatal != nil || err != nil || allowed == d.not {
			return false
		}
	}
	return true
}

// set returns all objects on which the subject holds p, in order of id.
func (w *objectWalk) set(p *plan) []member {
	if set, ok := w.sets[p]; ok || w.fatal != nil {
		return set
	}
	if p.component != nil {
		w.closed(p.component)
		return w.sets[p]
	}
	c := newClosing(w)
	for _, s := range w.sources(w.terms(p), nil) {
		if !w.read(&s, "", func(f found) bool { return c.add(p, f) }) {
			return nil
		}
	}
	if w.fatal == nil {
		w.sets[p] = c.members(p)
	}
	return w.sets[p]
}

// closed finds the members of all relations of a component, following the operands of
// its intersections with which that reads the fewest rows.
func (w *objectWalk) closed(c *component) {
	outer, turn := w.within, w.turn
	try := func(i int) bool {
		w.within, w.turn = c, i
		if sets := w.closeOver(c); w.fatal == nil {
			for _, p := range c.plans {
				w.sets[p] = sets[p]
			}
		}
		return false
	}
	if c.operands == 0 {
		try(0)
	} else {
		w.fewest(c.operands, try)
	}
	w.within, w.turn = outer, turn
}

// A closing is the search for all members of some relations that lead to each other.
// What is found is judged at once.
type closing struct {
	walk  *objectWalk
	found map[*plan]map[string]*closingMember
	queue [][]queued // by depth: what is held, whose consequences are not drawn yet
}

type closingMember struct {
	depth int
	held  bool // or cannot be said
	err   error
}

type queued struct {
	plan *plan
	id   string
}

func newClosing(w *objectWalk) *closing {
	return &closing{walk: w, found: make(map[*plan]map[string]*closingMember)}
}

// add takes what was read for p, and reports whether to go on.
func (c *closing) add(p *plan, f found) bool {
	if f.passed {
		return true
	}
	of := c.found[p]
	if of == nil {
		of = make(map[string]*closingMember)
		c.found[p] = of
	}
	m := of[f.id]
	if m == nil {
		if !c.walk.hold(memberBytes + len(f.id)) {
			return false
		}
		held, err := c.walk.judge(p, &f)
		if c.walk.fatal != nil {
			return false
		}
		m = &closingMember{depth: f.depth + 1, held: held || err != nil, err: err}
		of[f.id] = m
	}
	if m.held && f.depth < m.depth {
		m.depth = f.depth
		for len(c.queue) <= f.depth {
			c.queue = append(c.queue, nil)
		}
		c.queue[f.depth] = append(c.queue[f.depth], queued{p, f.id})
	}
	return true
}

// members returns what is held of p, in order of id.
func (c *closing) members(p *plan) []member {
	set := make([]member, 0, len(c.found[p]))
	for id, m := range c.found[p] {
		if len(set)%pollEvery == 0 {
			c.walk.poll()
		}
		if m.held {
			set = append(set, member{id, m.depth, m.err})
		}
	}
	compared := 0
	slices.SortFunc(set, func(a, b member) int {
		if compared++; compared%pollEvery == 0 {
			c.walk.poll()
		}
		if c.walk.fatal != nil {
			return 0 // the order does not matter any more
		}
		return strings.Compare(a.id, b.id)
	})
	return set
}

// closeOver finds the members of a component's relations, shallow ones first.
func (w *objectWalk) closeOver(component *component) map[*plan][]member {
	c := newClosing(w)
	type edge struct {
		to   *plan
		term term
	}
	edges := make(map[*plan][]edge) // from a relation of the component to what it adds to
	for _, p := range component.plans {
		sources := w.sources(w.terms(p), func(t *term) {
			from := t.known
			if from == nil {
				from = t.target.plan
			}
			edges[from] = append(edges[from], edge{p, *t})
		})
		for _, s := range sources {
			if !w.read(&s, "", func(f found) bool { return c.add(p, f) }) {
				return nil
			}
		}
	}
	for depth := 0; depth < len(c.queue); depth++ {
		for i := 0; i < len(c.queue[depth]); i++ {
			q := c.queue[depth][i]
			m := c.found[q.plan][q.id]
			if m.depth < depth {
				continue // drawn already
			}
			for _, e := range edges[q.plan] {
				s := source{members: []member{{q.id, depth, m.err}}, duties: e.term.duties}
				if e.term.target != nil {
					s = source{subject: e.term.target.on(q.id), plan: e.term.set, duties: e.term.duties, depth: depth + 1, err: m.err}
				}
				if !w.read(&s, "", func(f found) bool { return c.add(e.to, f) }) {
					return nil
				}
			}
		}
	}
	sets := make(map[*plan][]member)
	for _, p := range component.plans {
		sets[p] = c.members(p)
	}
	return sets
}

// list yields the items of p after an id.
func (w *objectWalk) list(p *plan, after string, yield func(Item) bool) {
	terms := []term{{known: p}}
	if p.component == nil {
		terms = w.terms(p)
	}
	sources := w.sources(terms, nil)
	m := newMerger[found](len(sources))
	for more := w.fatal == nil; more; {
		var all []found
		all, more = m.next(func(run int, yield func(found) bool) bool { return w.read(&sources[run], after, yield) })
		for i := range all {
			if w.fatal != nil {
				return
			}
			f := &all[i]
			if after = f.id; f.passed {
				continue
			}
			held, err := w.judge(p, f)
			if w.fatal != nil || (held || err != nil) && !yield(Item{ID: f.id, Err: err}) {
				return
			}
		}
		more = more && w.fatal == nil
	}
}

func (f found) name() string { return f.id }

func (f found) rank() int {
	switch {
	case f.passed:
		return 3
	case f.unsure:
		return 2
	case f.duties != nil:
		return 1
	}
	return 0
}
