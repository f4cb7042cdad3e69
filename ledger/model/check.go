package model

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Question asks whether Subject holds Relation on Object. Its parts follow the
// grammar of package tuple.
//
// A subject that is an object holds what was granted to it, to a userset that it is in,
// and, where the model allows it, to every object of its type. A userset holds what was
// granted to it or to a userset that it is in, and its own relation on its own object.
// A wildcard holds what was granted to the wildcard. Neither of the two holds what was
// granted to every object of a type.
type Question struct {
	Object   tuple.Object
	Relation string
	Subject  tuple.Subject
}

// A CycleError says that whether the subject holds a relation depends on whether it
// does not: the question meets itself through the subtracted side of an exclusion.
type CycleError struct {
	Parts []CyclePart // each depends on the next, and the last on the first
}

// A CyclePart is a relation on an object that a cycle leads through.
type CyclePart struct {
	Object     tuple.Object
	Relation   string
	Subtracted bool // the next part is subtracted here
}

func (e *CycleError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s#%s depends on itself through the subtracted side of an exclusion: ", e.Parts[0].Object, e.Parts[0].Relation)
	const most = 10 // parts told
	for i, p := range e.Parts {
		if i == most {
			fmt.Fprintf(&b, "%d more parts, ", len(e.Parts)-most)
			break
		}
		with := "needs"
		if p.Subtracted {
			with = "is without"
		}
		fmt.Fprintf(&b, "%s#%s %s ", p.Object, p.Relation, with)
	}
	fmt.Fprintf(&b, "%s#%s", e.Parts[0].Object, e.Parts[0].Relation)
	return b.String()
}

// errCycle stands for an answer that a search cannot know, because its part is met again
// through a subtraction. The question is then laid open as a whole, see ground.
var errCycle = errors.New("model: met again through a subtraction")

// errNoConditions is the error of a condition where there is nothing to run it.
var errNoConditions = errors.New("conditions are not evaluated here")

// Check answers q in the scope, and says what it cost. Its error is the third answer:
// neither allowed nor denied.
//
// The rules: a union is allowed if a branch allows, else errs if one errs; an
// intersection is denied if a branch denies, else errs if one errs; "A but not B" is
// denied if A denies or B allows, else errs if either errs. A grant whose condition
// errs, errs. A grant that leads on (to a userset, or by a tupleset) allows if its
// condition holds and what it leads to allows, as an intersection of the two. Grants
// that are not active, and grants that m does not allow, do not count.
//
// A question that leads back to itself adds nothing to itself: the answer is the least
// one that fits all rules. Where it leads back through the subtracted side of an
// exclusion, and nothing else decides it, it is a [*CycleError]: the answers are those
// of the well-founded semantics of logic programs, whatever the order of asking. A
// branch deeper than the budget is a [*BudgetError].
//
// These end the whole question at once: too many rows or too much memory, a
// [*BudgetError]; an error of the reader or of Stop, as it is; and a relation that the
// model does not have, a [*Refusal].
//
// The same question over the same rows costs and ends the same every time.
func (m *Model) Check(sc Scope, q Question) (bool, Spent, error) {
	p, err := m.plan(q.Object.Type, q.Relation)
	if err != nil {
		return false, Spent{}, err
	}
	s := newSearch(&sc, q.Subject, nil)
	allowed, err := s.answerTo(p, q.Object)
	spent := s.spent
	s.release()
	return allowed, spent, err
}

// plan returns the plan of a relation, or a [*Refusal].
func (m *Model) plan(typ, relation string) (*plan, error) {
	if p := m.plans[relationKey{typ, relation}]; p != nil {
		return p, nil
	}
	if _, ok := m.Type(typ); !ok {
		return nil, refuse("object", true, "the model has no type %+q", typ)
	}
	return nil, refuse("relation", true, "type %+q has no relation %+q", typ, relation)
}

// An Asker answers questions about one subject, one after another. What it found for
// one it knows for the next; only what is not known yet costs anything. So it may answer
// what alone would be too deep or cost too much; any other answer is that of the question
// alone. Used by one goroutine; Close ends it.
type Asker struct {
	model  *Model
	search *search
}

// NewAsker returns an Asker whose questions may each spend the scope's budget.
func (m *Model) NewAsker(sc Scope, subject tuple.Subject) *Asker {
	return &Asker{m, newSearch(&sc, subject, nil)}
}

// Check is [Model.Check] of the Asker's subject, within at most so many rows.
func (a *Asker) Check(o tuple.Object, relation string, rows int) (bool, Spent, error) {
	p, err := a.model.plan(o.Type, relation)
	if err != nil {
		return false, Spent{}, err
	}
	s := a.search
	s.budget.Rows = rows
	s.spent, s.fatal = Spent{Memory: s.held}, nil
	s.schedule()
	s.tidy()
	allowed, err := s.answerTo(p, o)
	if s.fatal != nil {
		s.forget() // parts under way are half done
	}
	return allowed, s.spent, err
}

// Close ends the Asker.
func (a *Asker) Close() {
	a.search.release()
	a.search = nil
}

// A search is the state of one question.
//
// # How cycles are answered
//
// Answers are ordered denied < error < allowed. Unions take the greatest of their
// branches and intersections the least, so that all rules without exclusion can only
// grow when what they ask grows, and the answer wanted is the least that fits all of
// them. A part (an object and a relation) that is met again while it is being answered
// is taken as denied; this is Tarjan's search for strongly connected components, with
// answers:
//
//   - allowed is final at once: it was reached from answers that can only grow;
//   - any other answer that used what was taken as denied is pending: it holds for as
//     long as those parts are being answered and nothing above them came out greater.
//     When the last of them, the head, comes out denied, its pending answers are final;
//     when a part comes out greater, the pending answers it might lift are forgotten,
//     and asked again when they are next needed. One pass is enough for the head
//     itself: with min and max on three values, f(f(denied)) = f(denied).
//
// An answer is forgotten only after another has grown, and each grows at most twice, so
// the work is polynomial also where everything leads to everything.
//
// The subtracted side of an exclusion is answered in a context of its own. What is
// being answered or pending outside of it says nothing within: there it is an error,
// which stands for whatever it may turn out to be. So an allow or a denial is right
// even if there was such an error; if the whole question comes out as an error, it is
// asked again in another way (see ground) that sees all of the cycle.
type search struct {
	reader     Reader
	conditions Conditions
	subject    tuple.Subject
	time       int64
	record     *recorder // nil unless the answer is to be explained

	*meter
	own   meter // what meter points to, unless the search is part of a list
	depth int
	used  int // bytes held for what is below

	parts   []part
	find    map[partKey]int32 // parts by key, once there are more than fewParts
	pending []int32           // parts, oldest first; one may stand twice
	top     int32             // the part being answered, -1 if none
	nums    int32             // the last number given
	context int32             // 0, or the subtracted side that is being answered
	sides   int32             // the last context given
	cyclic  bool              // a part was met through a subtraction, for this question

	hops []hop                           // what scans found and is not yet asked, a stack
	set  *Relation                       // the relation whose grants are being scanned
	from tuple.Object                    // and the object
	row  func(tuple.Subject, Grant) bool // addHop, made once
}

type partKey struct {
	plan   *plan
	object tuple.Object
}

// fewParts is how many parts are looked through one by one.
const fewParts = 8

// A part is a question within the question.
type part struct {
	partKey
	state   state
	allowed bool
	err     error
	deep    bool         // err may be for want of depth: it counts at this depth or more alone
	cyclic  bool         // err may be for what was met again through a subtraction
	depth   int          // where it was answered
	context int32        // where it was answered
	num     int32        // order in which parts were begun
	low     int32        // the least num of a part whose taking as denied the answer used, or never
	told    *Explanation // how it was answered, if that is recorded
}

type state byte

const (
	stateNone    state = iota // not answered, or forgotten
	stateActive               // being answered
	statePending              // answered for as long as some part is active
	stateFinal
)

const never = math.MaxInt32

// A hop is a grant that leads on.
type hop struct {
	subject tuple.Subject
	err     error // of its condition
	told    int   // its place among the recorded grants, or untold
}

var searches = sync.Pool{New: func() any {
	s := &search{top: -1}
	s.row = s.addHop
	return s
}}

// newSearch returns a search of its own, with a meter of its own if it gets none.
func newSearch(sc *Scope, subject tuple.Subject, m *meter) *search {
	s := searches.Get().(*search)
	s.reader, s.conditions, s.subject, s.time = sc.Reader, sc.Conditions, subject, sc.Time
	if s.meter = m; m == nil {
		s.own = newMeter(sc, DefaultBudget)
		s.meter = &s.own
	}
	return s
}

// release makes s ready for another question.
func (s *search) release() {
	s.held -= s.used
	if s.record != nil {
		clear(s.parts) // of what was told
	}
	const most = 4096 // parts or hops whose memory is kept
	if cap(s.parts) > most || cap(s.hops) > most || cap(s.pending) > most {
		return
	}
	if len(s.find) > 0 {
		clear(s.find)
	}
	*s = search{parts: s.parts[:0], hops: s.hops[:0], find: s.find, pending: s.pending[:0], row: s.row, top: -1}
	searches.Put(s)
}

// forget makes s know nothing of what it was asked before.
func (s *search) forget() {
	s.held -= s.used
	if clear(s.find); len(s.parts) > 4096 {
		s.find = nil // to clear a map costs what it has ever held
	}
	*s = search{
		reader: s.reader, conditions: s.conditions, subject: s.subject, time: s.time, record: s.record, meter: s.meter, own: s.own,
		parts: s.parts[:0], hops: s.hops[:0], find: s.find, pending: s.pending[:0], row: s.row, top: -1,
	}
}

// tidy forgets, between two questions, if there is much to remember.
func (s *search) tidy() {
	const most = 1 << 14 // parts
	if len(s.parts) > most {
		s.forget()
	}
}

// note counts bytes that are held until the search is released, or forgets.
func (s *search) note(n int) bool {
	s.used += n
	return s.hold(n)
}

// Bytes that are held of a part and of a hop, beside the text of an id.
const (
	partBytes = 256
	hopBytes  = 96
)

// answerTo answers whether the subject holds p on o, as a question of its own.
func (s *search) answerTo(p *plan, o tuple.Object) (bool, error) {
	s.cyclic = false
	allowed, err := s.ask(p, o)
	if err != nil && s.cyclic && s.fatal == nil {
		allowed, err = s.ground(p, o)
	}
	if s.fatal != nil {
		return false, s.fatal
	}
	return allowed, err
}

// lookup returns the index of a part, and whether it was there before.
func (s *search) lookup(p *plan, o tuple.Object) (int32, bool) {
	key := partKey{p, o}
	if len(s.parts) <= fewParts {
		for i := range s.parts {
			if s.parts[i].partKey == key {
				return int32(i), true
			}
		}
	} else if i, ok := s.find[key]; ok {
		return i, true
	}
	i := int32(len(s.parts))
	s.parts = append(s.parts, part{partKey: key})
	s.note(partBytes + len(o.ID)) // if it is too much, the next row ends the question
	switch {
	case len(s.parts) > fewParts+1:
		s.find[key] = i
	case len(s.parts) == fewParts+1:
		if s.find == nil {
			s.find = make(map[partKey]int32)
		}
		for i := range s.parts {
			s.find[s.parts[i].partKey] = int32(i)
		}
	}
	return i, false
}

// ask answers whether the subject holds p on o: true, false, or an error.
func (s *search) ask(p *plan, o tuple.Object) (bool, error) {
	if r := s.subject.Relation; r != "" && r == p.name && s.subject.ID == o.ID && s.subject.Type == o.Type {
		return true, nil
	}
	if p.leaf {
		if s.record != nil {
			return s.leaf(p, o)
		}
		return s.grants(p, o)
	}
	id, known := s.lookup(p, o)
	if !known {
		return s.answer(id)
	}
	e := &s.parts[id]
	if (e.state == stateActive || e.state == statePending) && e.context != s.context {
		s.cyclic = true
		return false, errCycle
	}
	if e.state == stateActive {
		s.uses(e.num, false)
		return false, nil
	}
	if e.state != stateNone && (e.err == nil || !e.deep || s.depth >= e.depth) {
		s.uses(e.low, e.deep)
		s.cyclic = s.cyclic || e.cyclic
		return e.allowed, e.err
	}
	if !s.spend(1) {
		return false, s.fatal
	}
	return s.answer(id)
}

// uses notes, for the part being answered, what an answer that it used rests on.
func (s *search) uses(low int32, deep bool) {
	if s.top >= 0 {
		e := &s.parts[s.top]
		e.low, e.deep = min(e.low, low), e.deep || deep
	}
}

// answer answers a part.
func (s *search) answer(id int32) (bool, error) {
	s.nums++
	above, begun := s.top, len(s.pending)
	e := &s.parts[id]
	*e = part{partKey: e.partKey, state: stateActive, depth: s.depth, context: s.context, num: s.nums, low: never}
	p, o := e.plan, e.object
	s.top = id
	var told *Explanation
	var allowed bool
	var err error
	if s.record == nil {
		allowed, err = s.eval(p, o, &p.rule)
	} else {
		told, allowed, err = s.recorded(p, o)
	}
	s.top = above
	if s.fatal != nil {
		return false, s.fatal
	}
	e = &s.parts[id] // parts may have moved
	e.told = told
	e.allowed, e.err = allowed, err
	e.deep, e.cyclic = e.deep && err != nil, s.cyclic && err != nil
	switch head := e.low >= e.num; {
	case allowed:
		s.settle(begun, stateNone, stateNone)
		e.state, e.low = stateFinal, never
		return true, nil
	case err != nil && head:
		s.settle(begun, stateNone, stateFinal)
		e.state, e.low = stateFinal, never
	case err != nil:
		s.settle(begun, stateNone, statePending)
		e.state = statePending
	case head:
		s.settle(begun, stateFinal, stateFinal)
		e.state, e.low = stateFinal, never
	default:
		e.state = statePending
	}
	if e.state == statePending {
		s.pending = append(s.pending, id)
	}
	s.uses(e.low, e.deep)
	return false, err
}

// settle gives the parts that became pending since begun another state: one for those
// denied, one for those with an error.
func (s *search) settle(begun int, denied, erred state) {
	kept := begun
	for _, id := range s.pending[begun:] {
		e := &s.parts[id]
		if e.state != statePending {
			continue // it stands twice, or is being answered again
		}
		if e.state = denied; e.err != nil {
			e.state = erred
		}
		switch e.state {
		case statePending:
			s.pending[kept] = id
			kept++
		case stateFinal:
			// What it rests on may have come out as an error only for what was met again.
			e.low, e.cyclic = never, e.err != nil && (e.cyclic || s.cyclic)
		}
	}
	s.pending = s.pending[:kept]
}

// eval answers whether the subject holds p on o by the rule n.
func (s *search) eval(p *plan, o tuple.Object, n *node) (bool, error) {
	if s.record != nil && s.record.begin(n) {
		return s.recordRule(p, o, n)
	}
	switch n.kind {
	case nodeGrants:
		return s.grants(p, o)
	case nodeLeaf, nodeComputed:
		allowed, err := s.ask(n.plan, o)
		if s.record != nil {
			s.record.open.Branches = append(s.record.open.Branches, s.asked(n.plan, o, err))
		}
		return allowed, err
	case nodeUsersets:
		return s.follow(o, p, n)
	case nodeFrom:
		return s.follow(o, n.plan, n)
	case nodeUnion:
		var failed error
		for i := range n.children {
			allowed, err := s.eval(p, o, &n.children[i])
			if allowed || s.fatal != nil {
				return allowed, err
			}
			failed = first(failed, err)
		}
		return false, failed
	case nodeIntersect:
		var failed error
		for i := range n.children {
			allowed, err := s.eval(p, o, &n.children[i])
			if !allowed && err == nil || s.fatal != nil {
				return false, err
			}
			failed = first(failed, err)
		}
		return failed == nil, failed
	}
	allowed, failed := s.eval(p, o, &n.children[0])
	if !allowed && failed == nil || s.fatal != nil {
		return false, failed
	}
	subtracted, err := s.subtract(p, o, &n.children[1])
	failed = first(failed, err)
	allowed = !subtracted && failed == nil
	if subtracted && s.fatal == nil {
		failed = nil
	}
	return allowed, failed
}

// first returns the error that came first.
func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// subtract is eval of the subtracted side of an exclusion.
func (s *search) subtract(p *plan, o tuple.Object, n *node) (bool, error) {
	outside := s.context
	s.sides++
	s.context = s.sides
	allowed, err := s.eval(p, o, n)
	s.context = outside
	return allowed, err
}

// grants answers whether p on o was granted to the subject itself, or to every subject
// of its type.
func (s *search) grants(p *plan, o tuple.Object) (bool, error) {
	one, every := p.grantsTo(s.subject)
	var failed error
	if one {
		allowed, err := s.grant(p, o, s.subject)
		if allowed || s.fatal != nil {
			return allowed, err
		}
		failed = err
	}
	if every {
		allowed, err := s.grant(p, o, tuple.Subject{Type: s.subject.Type, ID: tuple.Wildcard})
		if allowed || s.fatal != nil {
			return allowed, err
		}
		failed = first(failed, err)
	}
	return false, failed
}

// grantsTo reports which grants of the relation concern a subject: those to itself, and
// those to every subject of its type.
func (p *plan) grantsTo(s tuple.Subject) (one, every bool) {
	wildcard := s.IsWildcard()
	for i := range p.relation.Direct {
		if d := &p.relation.Direct[i]; d.Type == s.Type && d.Relation == s.Relation {
			one = one || d.Wildcard == wildcard
			every = every || d.Wildcard && !wildcard
		}
	}
	return one, every
}

// grant answers whether p on o was granted to that very subject.
func (s *search) grant(p *plan, o tuple.Object, subject tuple.Subject) (bool, error) {
	if !s.spend(1) {
		return false, s.fatal
	}
	t := tuple.Tuple{Object: o, Relation: p.name, Subject: subject}
	g, live, err := s.reader.Grant(t)
	if err != nil {
		s.fatal = err
		return false, err
	}
	if !live {
		if s.record != nil {
			s.record.look(Look{Tuple: t, State: Absent})
		}
		return false, nil
	}
	allowed, err := s.counts(p.relation, subject, &g)
	if s.record != nil {
		s.looked(p.relation, t, g, allowed, err)
	}
	return allowed, err
}

// counts answers whether a grant counts: it is active, the model allows it, and its
// condition holds.
func (s *search) counts(r *Relation, subject tuple.Subject, g *Grant) (bool, error) {
	if g.Condition == Doubtful {
		return s.conditions.Holds(Doubtful, g.Context)
	}
	if !g.Active(s.time) || !r.allows(subject, g.Condition) {
		return false, nil
	}
	if g.Condition == "" {
		return true, nil
	}
	if s.conditions == nil {
		return false, errNoConditions
	}
	return s.conditions.Holds(g.Condition, g.Context)
}

// follow answers whether a grant of the relation set on o leads to a target that the
// subject holds. The rows of a target are read before any is asked, so that one scan
// runs at a time.
func (s *search) follow(o tuple.Object, set *plan, n *node) (bool, error) {
	base := len(s.hops)
	var failed error
	for i := range n.targets {
		t := &n.targets[i]
		if !s.hopsOf(o, set, t) {
			return false, s.fatal
		}
		for at := base; at < len(s.hops); at++ {
			h := s.hops[at] // hops may move
			allowed, err := s.hop(t.plan, h.subject.Object())
			if s.fatal != nil {
				return false, s.fatal
			}
			if s.record != nil {
				s.leads(h, o, set, t.plan, err, failed == nil && (allowed || err != nil) || allowed && h.err == nil)
			}
			if allowed && h.err == nil {
				s.drop(base)
				return true, nil
			}
			if allowed || err != nil {
				failed = first(failed, first(h.err, err))
			}
		}
		s.drop(base)
	}
	return false, failed
}

// hopsOf adds the grants of the relation set on o to a kind of subject that count, or
// err, to the hops, and reports whether all were read.
func (s *search) hopsOf(o tuple.Object, set *plan, t *target) bool {
	if !s.spend(1) {
		return false
	}
	s.set, s.from = set.relation, o
	if err := s.reader.Subjects(o, set.name, t.typ, t.relation, "", s.row); err != nil && s.fatal == nil {
		s.fatal = err
	}
	return s.fatal == nil
}

// addHop takes a row of the running scan.
func (s *search) addHop(subject tuple.Subject, g Grant) bool {
	if !s.spend(1) {
		return false
	}
	allowed, err := s.counts(s.set, subject, &g)
	told := untold
	if s.record != nil {
		told = s.looked(s.set, tuple.Tuple{Object: s.from, Relation: s.set.Name, Subject: subject}, g, allowed, err)
	}
	if allowed || err != nil {
		s.hops = append(s.hops, hop{subject, err, told})
		return s.note(hopBytes + len(subject.ID))
	}
	return true
}

// drop forgets the hops from base on.
func (s *search) drop(base int) {
	for i := range s.hops[base:] {
		s.note(-hopBytes - len(s.hops[base+i].subject.ID))
	}
	s.hops = s.hops[:base]
}

// hop asks p on an object that a grant leads to.
func (s *search) hop(p *plan, o tuple.Object) (bool, error) {
	if s.depth == s.budget.Depth {
		s.uses(never, true)
		return false, s.tooDeep()
	}
	s.depth++
	s.spent.Depth = max(s.spent.Depth, s.depth)
	allowed, err := s.ask(p, o)
	s.depth--
	return allowed, err
}
