package model

import (
	"errors"
	"fmt"
	"strings"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Question asks whether a subject holds a relation on an object at a time.
type Question struct {
	Object   tuple.Object
	Relation string
	// Subject may be plain, a userset (do all who hold it hold the relation?) or a
	// wildcard (does everyone of the type, by a grant to everyone?).
	Subject tuple.Subject
	Time    int64 // that expiry is held against, nanoseconds since the Unix epoch
}

// A Budget bounds what one question may cost.
type Budget struct {
	Depth int // relations within relations
	Rows  int // tuples looked up or read
}

// DefaultBudget is the budget of a question that nobody says otherwise for.
var DefaultBudget = Budget{Depth: 64, Rows: 100_000}

// Spent is what a question cost.
type Spent struct {
	Rows int // tuples looked up or read
}

// A BudgetError is why a question that cost too much has no answer.
type BudgetError struct {
	What  string // "depth" or "rows"
	Limit int
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("the question takes more than its budget of %d %s", e.Limit, e.What)
}

// A CycleError is why a question that meets itself through the subtracted side of an
// exclusion has no answer: if it held, it would not.
type CycleError struct {
	Nodes []string // object#relation, from the one that is met again to the one that asks for it
}

func (e *CycleError) Error() string {
	return "the rules contradict themselves: " + strings.Join(e.Nodes, " needs ") + " needs the first not to hold"
}

// ErrNoConditions: a condition has to be run where none can be.
var ErrNoConditions = errors.New("conditions cannot be run here")

// A Step is one step on the path of an allow, from the question down.
type Step struct {
	Object   tuple.Object
	Relation string
	// Tuple is the grant that the step takes; zero where the relation follows from
	// others on the same object.
	Tuple tuple.Tuple
	Grant Grant
	// Via is the relation that it follows from, or that the subjects of the grant must
	// hold; "" if the grant is to the subject of the question itself.
	Via string
}

// Check answers q under the model, over the tuples of r and the conditions of c (which
// may be nil if no condition can be needed). The model must be valid, and have the
// relation asked for.
//
// The answer is the least fixed point of the rules: a relation that is needed for
// itself adds nothing. Parts that err are combined so that an error never becomes a
// denial or an allow: a union is allowed if a part allows, else errs if one errs; an
// intersection is denied if a part denies, else errs if one errs; "a but not b" is
// denied if a denies or b allows, else errs if either errs.
//
// Errors: [*BudgetError], [*CycleError], those of c for a condition, and those of r,
// which end the question at once, as an exhausted budget does.
func (m *Model) Check(r Reader, c Conditions, q Question, b Budget) (bool, Spent, error) {
	e := evaluation{model: m, reader: r, conditions: c, question: q, budget: b, low: none, tainted: none}
	v := e.node(q.Object, q.Relation)
	return e.answer(v)
}

// CheckPath is Check that also returns the path of an allow.
func (m *Model) CheckPath(r Reader, c Conditions, q Question, b Budget) (bool, []Step, Spent, error) {
	e := evaluation{model: m, reader: r, conditions: c, question: q, budget: b, low: none, tainted: none, recording: true}
	v := e.node(q.Object, q.Relation)
	allowed, spent, err := e.answer(v)
	return allowed, e.path, spent, err
}

// A value is what is known of a part of the question. Their order makes a union the
// greatest of its parts and an intersection the least.
type value byte

const (
	denied value = iota
	failed       // it errs; the error is kept in evaluation.err
	allowed
)

// not is the value of "not v".
func (v value) not() value { return allowed - v }

// An evaluation is one question being answered: a depth-first walk over nodes, which
// are relations on objects, for one subject.
//
// A node that is met again while it is being walked is a cycle. It then counts with
// what is known of it so far, which begins as denied, and what depends on it is only
// provisional. The outermost node of the cycle, its leader, is walked again until
// nothing changes: that is the least fixed point, and the values are final. A walk
// within a walk of the same round takes the provisional values of nodes it has been at,
// so that even a graph in which everything leads to everything takes a number of steps
// that is bounded by its edges times the rounds.
//
// What is subtracted must be final before it is used. So it is brought to its own
// fixed point first, and a node being walked outside of it counts as failed in it: that
// is the cycle without an answer.
type evaluation struct {
	model      *Model
	reader     Reader
	conditions Conditions
	question   Question
	budget     Budget

	rows  int
	fatal error // ends the walk at once
	err   error // of the part evaluated last, if its value is failed

	stack   []frame
	base    int  // frames below it are outside of what is being subtracted
	low     int  // lowest frame that the node walked last depends on
	tainted int  // lowest frame that it counted as failed because of base
	changed bool // a provisional value grew in this round
	round   int
	final   memo
	maybe   map[provisionalKey]provisional
	region  int // number of the subtraction being evaluated, 0 for none
	regions int

	recording bool
	path      []Step
	paths     map[node][]Step // of final allows
}

// A node is a relation on an object.
type node struct {
	object   tuple.Object
	relation string
}

func (n node) String() string { return n.object.String() + "#" + n.relation }

// A frame is a node being walked, with what is known of it so far.
type frame struct {
	known
	met bool // met again in this round
}

// A provisional is what is known of a node in a cycle whose leader is being walked.
type provisional struct {
	known
	round        int // it was walked in
	low, tainted int
}

// A provisionalKey names a node in what is being subtracted, or outside of that: the
// frames that it may depend on are others.
type provisionalKey struct {
	node   node
	region int
}

// none is above every frame.
const none = 1 << 30

// memo keeps final values: a few in a slice, more in a map.
type memo struct {
	few  []known
	many map[node]known
}

type known struct {
	node  node
	value value
	err   error // if failed
}

func (m *memo) get(n node) (known, bool) {
	if m.many != nil {
		k, ok := m.many[n]
		return k, ok
	}
	for i := range m.few {
		if m.few[i].node == n {
			return m.few[i], true
		}
	}
	return known{}, false
}

func (m *memo) put(k known) {
	const few = 16
	if m.many == nil && len(m.few) < few {
		m.few = append(m.few, k)
		return
	}
	if m.many == nil {
		m.many = make(map[node]known, 4*few)
		for _, k := range m.few {
			m.many[k.node] = k
		}
	}
	m.many[k.node] = k
}

func (e *evaluation) answer(v value) (bool, Spent, error) {
	spent := Spent{Rows: e.rows}
	switch {
	case e.fatal != nil:
		return false, spent, e.fatal
	case v == failed:
		return false, spent, e.err
	}
	return v == allowed, spent, nil
}

// stop ends the walk with an error that no other part can outweigh.
func (e *evaluation) stop(err error) value {
	if e.fatal == nil {
		e.fatal = err
	}
	return failed
}

// fail is the value of a part that errs.
func (e *evaluation) fail(err error) value {
	e.err = err
	return failed
}

// row counts one tuple looked up or read, and reports whether the budget allows it.
func (e *evaluation) row() bool {
	if e.rows++; e.rows > e.budget.Rows {
		e.stop(&BudgetError{"rows", e.budget.Rows})
	}
	return e.fatal == nil
}

// node returns the value of a relation on an object, for the subject of the question.
func (e *evaluation) node(o tuple.Object, relation string) value {
	if e.fatal != nil {
		return failed
	}
	n := node{o, relation}
	if s := &e.question.Subject; s.Relation == relation && s.Type == o.Type && s.ID == o.ID && relation != "" {
		return allowed // those who hold it hold it
	}
	r, ok := e.model.Relation(o.Type, relation)
	if !ok {
		return denied // a type that a "from" leads to need not have the relation
	}
	for i := range e.stack {
		if e.stack[i].node == n {
			return e.again(i)
		}
	}
	if k, ok := e.final.get(n); ok {
		if e.recording && k.value == allowed {
			e.path = append(e.path, e.paths[n]...)
		}
		e.err = k.err
		return k.value
	}
	key := provisionalKey{n, e.region}
	start := known{node: n}
	if p, ok := e.maybe[key]; ok {
		if p.round == e.round && !(e.recording && p.value == allowed) {
			e.low, e.tainted = min(e.low, p.low), min(e.tainted, p.tainted)
			e.err = p.err
			return p.value
		}
		start = known{n, p.value, p.err}
	}
	if len(e.stack) >= e.budget.Depth {
		return e.stop(&BudgetError{"depth", e.budget.Depth})
	}
	return e.walk(r, key, start)
}

// again returns the value of a node that is being walked, in frame i.
func (e *evaluation) again(i int) value {
	e.low = min(e.low, i)
	if i >= e.base {
		e.stack[i].met = true
		e.err = e.stack[i].err
		return e.stack[i].value
	}
	e.tainted = min(e.tainted, i)
	cycle := &CycleError{}
	for _, f := range e.stack[i:] {
		cycle.Nodes = append(cycle.Nodes, f.node.String())
	}
	return e.fail(cycle)
}

// walk evaluates a node by its rule, again and again if it leads a cycle. start is what
// is known of it from earlier rounds.
func (e *evaluation) walk(r *Relation, key provisionalKey, start known) value {
	self, mark := len(e.stack), len(e.path)
	outerLow, outerTainted, outerChanged := e.low, e.tainted, e.changed
	e.stack = append(e.stack, frame{known: start})
	now, led := start, false
	for {
		e.low, e.tainted, e.changed = none, none, false
		e.stack[self].met = false
		e.path = e.path[:mark]
		if v := e.rule(start.node.object, r, &r.Rule); v > now.value {
			now = known{start.node, v, e.err}
			e.stack[self].known = now
			e.changed = true
		}
		led = led || e.stack[self].met
		if e.fatal != nil || now.value == allowed || e.low < self || !e.stack[self].met || !e.changed {
			break
		}
		e.round++
	}
	e.stack = e.stack[:self]
	if e.fatal != nil {
		return failed
	}
	e.err = now.err
	if e.low >= self { // it depends on nothing that is still being walked
		if led {
			e.settle(self, now.value)
		}
		e.final.put(now)
		if e.recording && now.value == allowed {
			if e.paths == nil {
				e.paths = make(map[node][]Step)
			}
			e.paths[now.node] = append([]Step(nil), e.path[mark:]...)
		}
		e.low, e.tainted, e.changed = outerLow, outerTainted, outerChanged
		return now.value
	}
	if e.maybe == nil {
		e.maybe = make(map[provisionalKey]provisional)
	}
	e.maybe[key] = provisional{now, e.round, e.low, e.tainted}
	e.changed = e.changed || outerChanged
	e.low, e.tainted = min(e.low, outerLow), min(e.tainted, outerTainted)
	return now.value
}

// settle ends the provisional values that depend on the leader in frame self, whose
// cycle is done. Those of the last round are final, except where the leader's allow
// ended that round early, and where a node was counted as failed.
func (e *evaluation) settle(self int, leader value) {
	for key, p := range e.maybe {
		if p.low < self {
			continue
		}
		delete(e.maybe, key)
		if e.recording || p.tainted != none || p.round != e.round || leader == allowed && p.value != allowed {
			continue
		}
		if _, ok := e.final.get(p.node); !ok {
			e.final.put(p.known)
		}
	}
}

// Costs of rules, for the order in which the parts of a union are tried.
const (
	costLookup   = iota // grants to the subject itself, and to everyone
	costComputed        // other relations of the same object
	costUsersets        // grants to usersets
	costFrom            // relations of other objects, and operators
	costs
)

// rule returns the value of a rule of relation r on o.
func (e *evaluation) rule(o tuple.Object, r *Relation, rule *Rule) value {
	switch rule.Op {
	case Union:
		return e.union(o, r, rule.Children)
	case Intersect:
		return e.intersection(o, r, rule.Children)
	case Exclude:
		return e.exclusion(o, r, rule)
	case This:
		any := sum{}
		if !e.add(&any, e.granted(o, r)) {
			e.add(&any, e.usersets(o, r))
		}
		return e.total(any)
	case Computed:
		mark := len(e.path)
		if e.recording {
			e.path = append(e.path, Step{Object: o, Relation: r.Name, Via: rule.Relation})
		}
		v := e.node(o, rule.Relation)
		if v != allowed {
			e.path = e.path[:mark]
		}
		return v
	default: // From
		return e.from(o, r, rule)
	}
}

// A sum is the union of parts evaluated so far.
type sum struct {
	value value
	err   error // of the first part that failed
}

// add adds a part, and reports whether no further part can matter.
func (e *evaluation) add(s *sum, v value) (done bool) {
	if v == failed && s.value == denied {
		s.err = e.err
	}
	s.value = max(s.value, v)
	return s.value == allowed || e.fatal != nil
}

// total is the value of the union.
func (e *evaluation) total(s sum) value {
	e.err = s.err
	return s.value
}

// union tries the parts in order of what they cost, those of one cost in source order.
func (e *evaluation) union(o tuple.Object, r *Relation, children []Rule) value {
	var any sum
	for cost := range costs {
		for i := range children {
			v := denied
			switch child := &children[i]; {
			case child.Op == This && cost == costLookup:
				v = e.granted(o, r)
			case child.Op == This && cost == costUsersets:
				v = e.usersets(o, r)
			case child.Op == Computed && cost == costComputed,
				child.Op != This && child.Op != Computed && cost == costFrom:
				v = e.rule(o, r, child)
			}
			if e.add(&any, v) {
				return e.total(any)
			}
		}
	}
	return e.total(any)
}

func (e *evaluation) intersection(o tuple.Object, r *Relation, children []Rule) value {
	all := allowed
	var err error
	mark := len(e.path)
	for i := range children {
		v := e.rule(o, r, &children[i])
		if v == failed && all == allowed {
			err = e.err
		}
		if all = min(all, v); all == denied || e.fatal != nil {
			break
		}
	}
	if all != allowed {
		e.path = e.path[:mark]
	}
	e.err = err
	return all
}

// exclusion is its first child but not its second.
func (e *evaluation) exclusion(o tuple.Object, r *Relation, rule *Rule) value {
	mark := len(e.path)
	a := e.rule(o, r, &rule.Children[0])
	err := e.err
	if a == denied || e.fatal != nil {
		return a
	}
	kept := len(e.path)
	b := e.subtracted(o, r, &rule.Children[1])
	e.path = e.path[:kept]
	v := min(a, b.not())
	if v != allowed {
		e.path = e.path[:mark]
	}
	if a == failed {
		e.err = err
	}
	return v
}

// subtracted returns the final value of a rule that is about to be subtracted.
func (e *evaluation) subtracted(o tuple.Object, r *Relation, rule *Rule) value {
	base, region := e.base, e.region
	low, tainted, changed := e.low, e.tainted, e.changed
	e.regions++
	e.base, e.region = len(e.stack), e.regions
	var v value
	for {
		e.low, e.tainted, e.changed = none, none, false
		v = e.rule(o, r, rule)
		if e.fatal != nil || v == allowed || !e.changed {
			break
		}
		e.round++
	}
	e.base, e.region = base, region
	e.low, e.tainted, e.changed = min(e.low, low), min(e.tainted, tainted), changed
	return v
}

// granted returns whether the relation was granted to the subject itself, or to
// everyone of its type.
func (e *evaluation) granted(o tuple.Object, r *Relation) value {
	var any sum
	s := e.question.Subject
	own, everyone := false, false
	for i := range r.Direct {
		d := &r.Direct[i]
		own = own || d.matches(s)
		everyone = everyone || d.Wildcard && d.Type == s.Type && s.Relation == "" && s.ID != tuple.Wildcard
	}
	if own && e.add(&any, e.lookup(o, r, s)) {
		return e.total(any)
	}
	if everyone {
		e.add(&any, e.lookup(o, r, tuple.Subject{Type: s.Type, ID: tuple.Wildcard}))
	}
	return e.total(any)
}

// lookup returns whether the relation was granted to exactly this subject.
func (e *evaluation) lookup(o tuple.Object, r *Relation, s tuple.Subject) value {
	if !e.row() {
		return failed
	}
	t := tuple.Tuple{Object: o, Relation: r.Name, Subject: s}
	g, ok, err := e.reader.Grant(t)
	if err != nil {
		return e.stop(err)
	}
	if !ok {
		return denied
	}
	v := e.counts(r, s, &g)
	if e.recording && v == allowed {
		e.path = append(e.path, Step{Object: o, Relation: r.Name, Tuple: t, Grant: g})
	}
	return v
}

// counts returns whether a grant of the relation to s counts now: the model allows it
// to be granted so, it is within its time, and its condition holds.
func (e *evaluation) counts(r *Relation, s tuple.Subject, g *Grant) value {
	switch {
	case !g.Active(e.question.Time) || !r.allows(s, g.Condition):
		return denied
	case g.Condition == "":
		return allowed
	case e.conditions == nil:
		return e.fail(ErrNoConditions)
	}
	holds, err := e.conditions.Holds(g.Condition, g.Context)
	if err != nil {
		return e.fail(fmt.Errorf("condition %+q of %s#%s: %w", g.Condition, s, r.Name, err))
	}
	if holds {
		return allowed
	}
	return denied
}

// usersets returns whether the subject is in a userset that the relation was granted to.
func (e *evaluation) usersets(o tuple.Object, r *Relation) value {
	var any sum
	for i := range r.Direct {
		d := &r.Direct[i]
		if d.Relation == "" || e.seenKind(r.Direct[:i], d) {
			continue
		}
		if e.add(&any, e.members(o, r, d.Type, d.Relation, d.Relation)) {
			break
		}
	}
	return e.total(any)
}

// seenKind reports whether d is the same kind of subject as one before, under another
// condition.
func (e *evaluation) seenKind(before []Direct, d *Direct) bool {
	for i := range before {
		if b := &before[i]; b.Type == d.Type && b.Relation == d.Relation && b.Wildcard == d.Wildcard {
			return true
		}
	}
	return false
}

// from returns whether the subject holds a relation on an object that the tupleset names.
func (e *evaluation) from(o tuple.Object, r *Relation, rule *Rule) value {
	var any sum
	set, _ := e.model.Relation(o.Type, rule.Tupleset)
	for i := range set.Direct {
		d := &set.Direct[i]
		if e.seenKind(set.Direct[:i], d) {
			continue
		}
		if _, ok := e.model.Relation(d.Type, rule.Relation); !ok {
			continue
		}
		if e.add(&any, e.members(o, set, d.Type, "", rule.Relation)) {
			break
		}
	}
	return e.total(any)
}

// members returns whether the subject holds relation on an object of type stype that r
// was granted to on o, as a userset (srel not empty) or plainly.
func (e *evaluation) members(o tuple.Object, r *Relation, stype, srel, relation string) value {
	if !e.row() { // the seek
		return failed
	}
	var any sum
	err := e.reader.Subjects(o, r.Name, stype, srel, func(s tuple.Subject, g Grant) bool {
		if !e.row() {
			return false
		}
		if s.ID == tuple.Wildcard {
			return true // everyone of a type is no object
		}
		v := e.counts(r, s, &g)
		if v == denied {
			return true
		}
		err, mark := e.err, len(e.path)
		if e.recording {
			t := tuple.Tuple{Object: o, Relation: r.Name, Subject: s}
			e.path = append(e.path, Step{Object: o, Relation: r.Name, Tuple: t, Grant: g, Via: relation})
		}
		held := e.node(s.Object(), relation)
		if v == failed && held != denied {
			e.err = err
		}
		if v = min(v, held); v != allowed {
			e.path = e.path[:mark]
		}
		return !e.add(&any, v)
	})
	if err != nil {
		return e.stop(err)
	}
	return e.total(any)
}
