package model

import (
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Kind is the kind of subject that a list is of: the objects of a type, or with
// Relation the usersets of a type and a relation.
type Kind struct{ Type, Relation string }

// ListSubjects calls yield for each subject of a kind that holds the relation on the
// object, and for each of which that cannot be said, whose id comes after the given one,
// in order of id, until yield returns false. The wildcard of the type, the id "*", has
// its place in the order.
//
// If the wildcard is on the list, or its item has an Err, what is said of it goes for
// every subject of the type that is neither listed nor Excluded, whether anything was
// ever granted to it or not. Excluded are those that the subtracted side of an exclusion
// or an operand of an intersection keeps out. So a subject holds the relation exactly if
// it is on the list, or if the wildcard is and the subject is not excluded.
//
// It returns what was spent, and an error as [Model.Check] does, after which the list is
// not complete.
//
// # How subjects are found
//
// A walk goes from the object through its grants to every relation on every object that
// those lead to. The subjects are merged, in order, from the runs of rows there, a
// window at a time. What the walk follows and what is judged is as for objects, unless it
// meets a grant to the wildcard: then it begins anew and follows all sides, because any
// row that names a subject may then make it differ from all others.
func (m *Model) ListSubjects(sc Scope, o tuple.Object, relation string, kind Kind, after string, yield func(Item) bool) (Spent, error) {
	p, err := m.plan(o.Type, relation)
	if err != nil {
		return Spent{}, err
	}
	if _, ok := m.Type(kind.Type); !ok {
		return Spent{}, refuse("subject", true, "the model has no type %+q", kind.Type)
	}
	if _, ok := m.Relation(kind.Type, kind.Relation); !ok && kind.Relation != "" {
		return Spent{}, refuse("subject", true, "type %+q has no relation %+q", kind.Type, kind.Relation)
	}
	meter := newMeter(&sc, ListBudget)
	w := newSubjectWalk(&sc, newSearch(&sc, tuple.Subject{}, &meter), kind)
	defer w.release()
	w.list(p, o, after, yield)
	return meter.end()
}

// A subjectWalk is the state of a list of subjects. Its search judges one subject after
// another.
type subjectWalk struct {
	*search
	scope *Scope
	kind  Kind

	all     bool // every side is followed
	trying  bool // only the rows count
	wild    bool // what is followed may be held by everyone: some sides are not enough
	visited map[partKey]*bool
	queue   []visit
	sources []subjectSource
}

func newSubjectWalk(sc *Scope, s *search, kind Kind) *subjectWalk {
	return &subjectWalk{search: s, scope: sc, kind: kind, visited: make(map[partKey]*bool)}
}

// A visit is a relation on an object whose holders hold what is wanted, if what is asked
// of them beside holds.
type visit struct {
	partKey
	depth  int
	duties *objectDuty
	unsure bool
}

func (v *visit) sure() bool { return v.duties == nil && !v.unsure }

// An objectDuty is a [duty] on an object of its own.
type objectDuty struct {
	object tuple.Object
	depth  int
	duty   duty // without the next
	and    *objectDuty
}

// A subjectSource is a run of subjects in order of id: rows, or one userset.
type subjectSource struct {
	object tuple.Object
	plan   *plan  // whose rows are read
	one    string // instead, if plan is nil
	duties *objectDuty
	unsure bool
}

// walk follows everything that is queued.
func (w *subjectWalk) walk() {
	for i := 0; i < len(w.queue) && w.fatal == nil && (w.all || !w.wild); i++ {
		v := w.queue[i]
		if v.object.Type == w.kind.Type && v.plan.name == w.kind.Relation {
			w.source(subjectSource{one: v.object.ID, duties: v.duties, unsure: v.unsure})
		}
		w.node(&v, &v.plan.rule, v.duties, v.unsure)
	}
	w.queue = w.queue[:0]
}

// open reports whether a relation on an object was granted to everyone, perhaps.
func (w *subjectWalk) open(p *plan, o tuple.Object) bool {
	everyone := tuple.Subject{Type: w.kind.Type, ID: tuple.Wildcard}
	if one, _ := p.grantsTo(everyone); !one || w.kind.Relation != "" {
		return false
	}
	w.subject = everyone
	held, err := w.grant(p, o, everyone)
	return held || err != nil
}

func (w *subjectWalk) source(s subjectSource) {
	w.sources = append(w.sources, s)
	w.hold(sourceBytes)
}

// visit queues a relation on an object, unless it was there. What was reached under
// duties is followed once more when it is reached without.
func (w *subjectWalk) visit(v visit) bool {
	sure := w.visited[v.partKey]
	if sure == nil {
		sure = new(bool)
		w.visited[v.partKey] = sure
		if !w.hold(partBytes + len(v.object.ID)) {
			return false
		}
	} else if *sure || !v.sure() {
		return true
	}
	*sure = v.sure()
	w.queue = append(w.queue, v)
	w.spent.Depth = max(w.spent.Depth, v.depth)
	return true
}

// node follows a part of the rule of v.
func (w *subjectWalk) node(v *visit, n *node, duties *objectDuty, unsure bool) {
	if w.fatal != nil {
		return
	}
	must := func(n *node, not bool, and *objectDuty) *objectDuty {
		w.hold(sourceBytes)
		return &objectDuty{v.object, v.depth, duty{plan: v.plan, node: n, not: not}, and}
	}
	switch n.kind {
	case nodeGrants:
		for i := range v.plan.relation.Direct {
			if d := &v.plan.relation.Direct[i]; d.Type == w.kind.Type && d.Relation == w.kind.Relation {
				w.source(subjectSource{object: v.object, plan: v.plan, duties: duties, unsure: unsure})
				w.wild = w.wild || !w.all && w.open(v.plan, v.object)
				break
			}
		}
	case nodeLeaf, nodeComputed:
		w.visit(visit{partKey{n.plan, v.object}, v.depth, duties, unsure})
	case nodeUsersets, nodeFrom:
		set := v.plan
		if n.kind == nodeFrom {
			set = n.plan
		}
		for i := range n.targets {
			w.follow(v, set, &n.targets[i], duties, unsure)
		}
	case nodeUnion:
		for i := range n.children {
			w.node(v, &n.children[i], duties, unsure)
		}
	case nodeExclude:
		w.node(v, &n.children[0], must(&n.children[1], true, duties), unsure)
		if w.all {
			w.node(v, &n.children[1], duties, true)
		}
	case nodeIntersect:
		if w.all {
			all := must(n, false, duties)
			for i := range n.children {
				w.node(v, &n.children[i], all, unsure)
			}
			return
		}
		followed := w.operand(v, n)
		for i := range n.children {
			if i != followed {
				duties = must(&n.children[i], false, duties)
			}
		}
		w.node(v, &n.children[followed], duties, unsure)
	}
}

// follow visits what the grants of a relation lead to.
func (w *subjectWalk) follow(v *visit, set *plan, t *target, duties *objectDuty, unsure bool) {
	base := len(w.hops)
	if !w.hopsOf(v.object, set, t) {
		return
	}
	for _, h := range w.hops[base:] {
		if v.depth == w.budget.Depth {
			w.fatal = w.tooDeep()
			return
		}
		if !w.visit(visit{partKey{t.plan, h.subject.Object()}, v.depth + 1, duties, unsure || h.err != nil}) {
			return
		}
	}
	w.drop(base)
}

// operand returns the operand of an intersection that is read with the fewest rows, of
// those that do not hold for everyone. A trial does not look for it: it follows the first.
func (w *subjectWalk) operand(v *visit, n *node) int {
	if w.trying {
		return 0
	}
	held := w.held
	followed := w.fewest(len(n.children), func(i int) bool {
		try := newSubjectWalk(w.scope, w.search, w.kind)
		try.trying = true
		try.node(v, &n.children[i], nil, false)
		try.walk()
		for i := range try.sources {
			if !try.read(&try.sources[i], "", func(subjectFound) bool { return true }) {
				break
			}
		}
		return try.wild
	})
	if w.fatal == nil {
		w.held = held
	}
	if followed < 0 {
		w.wild = true
		return 0
	}
	return followed
}

// A subjectFound is a subject that may hold what is wanted.
type subjectFound struct {
	id     string
	duties *objectDuty
	unsure bool
	passed bool // it does not hold it by this row, which only tells how far its run was read
}

func (f subjectFound) name() string { return f.id }

func (f subjectFound) rank() int {
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

// read calls yield for the subjects of a source after an id, also those of grants that do
// not count, until yield returns false, and reports whether all was read that was wanted.
// It passes over the wildcard.
func (w *subjectWalk) read(s *subjectSource, after string, yield func(subjectFound) bool) bool {
	if !w.spend(1) {
		return false
	}
	if s.plan == nil {
		if s.one > after {
			yield(subjectFound{id: s.one, duties: s.duties, unsure: s.unsure})
		}
		return true
	}
	err := w.reader.Subjects(s.object, s.plan.name, w.kind.Type, w.kind.Relation, after, func(subject tuple.Subject, g Grant) bool {
		if !w.spend(1) {
			return false
		}
		if subject.IsWildcard() {
			return true
		}
		allowed, err := w.counts(s.plan.relation, subject, &g)
		return yield(subjectFound{subject.ID, s.duties, s.unsure || err != nil, !allowed && err == nil})
	})
	if err != nil && w.fatal == nil {
		w.fatal = err
	}
	return w.fatal == nil
}

// judge answers whether a subject holds p on o.
func (w *subjectWalk) judge(p *plan, o tuple.Object, f *subjectFound) (bool, error) {
	if f.rank() == 0 {
		return true, nil
	}
	w.forget()
	w.subject = tuple.Subject{Type: w.kind.Type, ID: f.id, Relation: w.kind.Relation}
	if !f.unsure {
		fulfilled := true
		for d := f.duties; d != nil && fulfilled; d = d.and {
			w.depth = d.depth
			fulfilled = w.fulfils(&d.duty, d.object)
		}
		w.depth = 0
		if fulfilled {
			return true, nil
		}
	}
	if w.fatal != nil {
		return false, w.fatal
	}
	return w.answerTo(p, o) // there may be another way
}

// list yields the subjects after an id that hold p on o.
func (w *subjectWalk) list(p *plan, o tuple.Object, after string, yield func(Item) bool) {
	w.visit(visit{partKey: partKey{p, o}})
	w.walk()
	var everyone *Item // what is said of everyone, and whether it is told yet
	told := true
	if w.wild && w.fatal == nil {
		held, err := w.judge(p, o, &subjectFound{id: tuple.Wildcard, unsure: true})
		if held || err != nil {
			everyone, told = &Item{ID: tuple.Wildcard, Err: err}, after >= tuple.Wildcard
		}
		w.all, w.visited, w.sources = true, make(map[partKey]*bool), nil
		w.visit(visit{partKey: partKey{p, o}})
		w.walk()
	}
	m := newMerger[subjectFound](len(w.sources))
	for more := w.fatal == nil; more; {
		var all []subjectFound
		all, more = m.next(func(run int, yield func(subjectFound) bool) bool { return w.read(&w.sources[run], after, yield) })
		if w.fatal != nil {
			return
		}
		for i := range all {
			f := &all[i]
			if !told && f.id > tuple.Wildcard {
				told = true
				if !yield(*everyone) {
					return
				}
			}
			if after = f.id; f.passed {
				continue
			}
			held, err := w.judge(p, o, f)
			switch {
			case w.fatal != nil:
				return
			case held || err != nil:
				if !yield(Item{ID: f.id, Err: err}) {
					return
				}
			case everyone != nil:
				if !yield(Item{ID: f.id, Excluded: true}) {
					return
				}
			}
		}
	}
	if !told && w.fatal == nil {
		yield(*everyone)
	}
}
