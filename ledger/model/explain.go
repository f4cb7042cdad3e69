package model

import (
	"iter"
	"math"
	"slices"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Verdict is what came out of a question, or of a part of one.
type Verdict byte

// The verdicts. Their numbers are those of the API.
const (
	Holds     Verdict = 1 + iota // the subject holds the relation by this
	HoldsNot                     // it does not
	Undecided                    // there is no answer
)

// An Explanation says whether the subject of a question holds a relation on an object by
// one rule, and why. Its shape is that of the relation's rule in source order; a union
// within a union is one with it.
//
// What holds is proved, and nothing else is told of it: of a union one branch, of what
// was granted one grant. It rests on what is told below or elsewhere in the tree, never
// on itself; the second branch of an exclusion is told as not held. Of what does not
// hold, and of what is undecided, all is told that was tried. An intersection is tried
// until a branch does not hold, and so is the first branch of an exclusion.
type Explanation struct {
	Object   tuple.Object
	Relation string
	Op       Op
	// Rule is what a Computed or From says, such as "editor" or "viewer from parent".
	Rule    string
	Verdict Verdict
	// Err is, of Undecided, why, where that is known here; of the whole always.
	Err error
	// Grants are those looked at: of This, those of the relation itself; of From, those
	// of its tupleset.
	Grants []Look
	// Branches are, of Union, Intersect and Exclude, those tried, about the same object
	// and relation; of Computed, the relation named.
	Branches []*Explanation
	// Elsewhere: the relation on the object is told at another place of the tree. Each is
	// told once, at the place nearest to the top; that it is Itself, wherever it is met.
	Elsewhere bool
	// Itself: the subject is the userset of those who hold the relation, and so holds it.
	Itself bool
	// Untold is how many grants and branches were looked at and are not told here.
	Untold int

	plan   *plan // of a relation as a whole: whose it is
	ref    bool  // it stands for such a one that is recorded at its part
	cyclic bool  // it is undecided, perhaps only because something was met again through a subtraction
	at     int   // as of its node
}

// Below yields what is told below x, in order: what its grants lead to, and its branches.
func (x *Explanation) Below() iter.Seq[*Explanation] {
	return func(yield func(*Explanation) bool) {
		for i := range x.Grants {
			if leads := x.Grants[i].Leads; leads != nil && !yield(leads) {
				return
			}
		}
		for _, b := range x.Branches {
			if !yield(b) {
				return
			}
		}
	}
}

// A LookState is whether a grant that was looked at counts.
type LookState byte

// The states of a grant that was looked at.
const (
	Counts          LookState = 1 + iota
	Absent                    // it is not granted
	Expired                   // its ExpiresAt has come
	NotYet                    // its NotBefore is still to come
	NotAllowed                // the model does not allow it
	ConditionFalse            // its condition does not hold
	ConditionFailed           // its condition has no answer
)

// A Look is a grant that was looked at.
type Look struct {
	Tuple tuple.Tuple
	Grant Grant
	State LookState
	Err   error // of ConditionFailed: why
	// Leads says whether the subject holds what the grant leads to. Nil for a grant that
	// leads nowhere, or does not count.
	Leads *Explanation
}

// Limits of an explanation. What holds is told whatever they are.
const (
	maxLooks = 1000   // grants told of one rule that does not hold
	maxTold  = 10_000 // rules and grants; relations met after so many are told by their verdict alone
)

// Bytes that are held of a rule and of a grant in an explanation, beside texts.
const (
	explanationBytes = 256
	lookBytes        = 256
)

// untold is the place of a grant that is not recorded.
const untold = -1

// Explain answers q as [Model.Check] does, and says why. The answer is the verdict and
// the error of the whole. It is the same evaluator, which records what it does: what is
// recorded may take a quarter of the budget's memory beside the budget.
//
// The budget of telling is spent on what has no answer: it is laid open as a whole, to
// tell of every part of it what can be said for certain. If that costs too much, it is
// told by its verdict alone. A zero field of it is that of [ListBudget].
//
// Errors, which leave the question unexplained, are those that end a Check at once.
func (m *Model) Explain(sc Scope, telling Budget, q Question) (*Explanation, Spent, error) {
	p, err := m.plan(q.Object.Type, q.Relation)
	if err != nil {
		return nil, Spent{}, err
	}
	s := newSearch(&sc, q.Subject, nil)
	defer s.release()
	s.record = &recorder{most: s.budget.Memory / 4}
	allowed, err := s.answerTo(p, q.Object)
	if s.fatal != nil {
		return nil, s.spent, err
	}
	spent := s.spent
	root := s.asked(p, q.Object, nil)
	s.record.telling = true
	s.budget = telling.Or(ListBudget)
	s.schedule()
	t := &teller{search: s, seen: make(map[partKey]bool), left: maxTold}
	t.tell(root)
	if s.fatal != nil {
		if b, ok := s.fatal.(*BudgetError); !ok || b.What == "time" {
			return nil, spent, s.fatal
		}
	}
	root.Verdict, root.Err = verdictOf(allowed, err), err
	return root, spent, nil
}

func verdictOf(allowed bool, err error) Verdict {
	switch {
	case err != nil:
		return Undecided
	case allowed:
		return Holds
	}
	return HoldsNot
}

// A recorder keeps what a search did. Of a part it keeps its last answer; what holds is
// cut down to its proof as soon as it is known to hold, when all it rests on is known to
// hold too, so that no proof leads back to itself.
type recorder struct {
	open    *Explanation // the rule that is evaluated, nil between parts
	begun   *node        // the rule whose record has just begun, nil once it is evaluated
	made    *Explanation // the record made last: of a part, or of a leaf
	hit     int          // the grant by which the rule that is evaluated holds
	all     bool         // grants without number are recorded
	telling bool         // what is recorded counts against the budget, which is that of telling
	held    int          // bytes
	most    int          // at which parts that do not hold are recorded no more
	grounds []*grounding
}

// reference returns what stands for p on o.
func reference(p *plan, o tuple.Object) *Explanation {
	return &Explanation{Object: o, Relation: p.name, Op: p.relation.Rule.Op, plan: p, ref: true}
}

// leading returns what stands for what a grant leads to: p on o, unless that is too deep.
func leading(p *plan, o tuple.Object, deep bool, err error) *Explanation {
	x := reference(p, o)
	if deep {
		x.plan, x.ref, x.Verdict, x.Err, x.Untold = nil, false, Undecided, err, 1
	}
	return x
}

// op returns the operation of the rule that n is of.
func (n *node) op() Op {
	switch n.kind {
	case nodeGrants, nodeUsersets:
		return This
	case nodeLeaf, nodeComputed:
		return Computed
	case nodeFrom:
		return From
	case nodeIntersect:
		return Intersect
	case nodeExclude:
		return Exclude
	}
	return Union
}

// begin reports whether the record of a rule that is to be evaluated has still to begin.
func (r *recorder) begin(n *node) bool {
	begun := r.begun == n
	r.begun = nil
	return !begun
}

// recordRule evaluates a rule and records what comes out.
func (s *search) recordRule(p *plan, o tuple.Object, n *node) (bool, error) {
	r := s.record
	x, above := &Explanation{Object: o, Relation: p.name, Op: n.op(), Rule: n.text, at: n.at}, r.open
	r.held += explanationBytes
	r.open, r.hit, r.begun = x, untold, n
	allowed, err := s.eval(p, o, n)
	r.end(x, above, n, allowed, err)
	return allowed, err
}

// end records what came out of a rule.
func (r *recorder) end(x, above *Explanation, n *node, allowed bool, err error) {
	x.Verdict, x.Err = verdictOf(allowed, err), err
	switch {
	case !allowed:
	case n.kind == nodeUnion:
		x.Branches = x.Branches[len(x.Branches)-1:]
	case r.hit >= 0:
		x.Grants, x.Untold = []Look{x.Grants[r.hit]}, 0
	}
	for _, b := range x.Branches {
		x.cyclic = x.cyclic || b.cyclic
	}
	for i := range x.Grants {
		x.cyclic = x.cyclic || x.Grants[i].Leads != nil && x.Grants[i].Leads.cyclic
	}
	x.cyclic = x.cyclic && err != nil
	x.join(n.kind, n.this)
	r.open, r.made, r.hit = above, x, untold
	if above != nil {
		above.Branches = append(above.Branches, x)
	}
}

// join puts the branches in source order, and makes one of the two ways in which a This
// is looked for.
func (x *Explanation) join(kind nodeKind, this bool) {
	if kind != nodeUnion && kind != nodeIntersect {
		return
	}
	slices.SortStableFunc(x.Branches, func(a, b *Explanation) int { return a.at - b.at })
	joined := x.Branches[:0]
	for _, b := range x.Branches {
		n := len(joined)
		if n == 0 || joined[n-1].at != b.at {
			joined = append(joined, b)
			continue
		}
		a := joined[n-1]
		a.Grants = slices.DeleteFunc(a.Grants, func(l Look) bool { // the subject's own, if it leads on too
			return slices.ContainsFunc(b.Grants, func(m Look) bool { return m.Tuple == l.Tuple })
		})
		a.Grants, a.Untold, a.cyclic = append(a.Grants, b.Grants...), a.Untold+b.Untold, a.cyclic || b.cyclic
		if a.Verdict == HoldsNot {
			a.Verdict, a.Err = b.Verdict, b.Err
		}
	}
	if x.Branches = joined; this {
		*x = *joined[0]
	}
}

// asked returns what stands for p on o, which was just asked and came out with err.
func (s *search) asked(p *plan, o tuple.Object, err error) *Explanation {
	s.record.held += explanationBytes
	switch {
	case s.subject.Relation == p.name && s.subject.Object() == o && s.subject.Relation != "":
		return &Explanation{Object: o, Relation: p.name, Op: p.relation.Rule.Op, Verdict: Holds, Itself: true}
	case p.leaf:
		return s.record.made
	}
	x := reference(p, o)
	x.cyclic = err != nil && s.cyclic
	return x
}

// leads records that a hop from o leads to p, which came out with err. A hop without a
// place gets one if it matters: if it decides the answer.
func (s *search) leads(h hop, o tuple.Object, set, p *plan, err error, matters bool) {
	r := s.record
	to := leading(p, h.subject.Object(), s.depth == s.budget.Depth, err)
	if to.ref {
		to = s.asked(p, h.subject.Object(), err)
	}
	if h.told < 0 && matters {
		t := tuple.Tuple{Object: o, Relation: set.name, Subject: h.subject}
		g, _, err := s.reader.Grant(t) // as the run had it
		if err != nil {
			s.fatal = err
		}
		l := Look{Tuple: t, Grant: g, State: Counts, Err: h.err}
		if h.err != nil {
			l.State = ConditionFailed
		}
		r.open.Grants = append(r.open.Grants, l)
		r.open.Untold--
		h.told = len(r.open.Grants) - 1
	}
	if h.told >= 0 {
		r.open.Grants[h.told].Leads = to
	}
	r.hit = h.told
}

// leaf is grants that are recorded, of a p that is a leaf.
func (s *search) leaf(p *plan, o tuple.Object) (bool, error) {
	told, allowed, err := s.recorded(p, o)
	if told == nil {
		told = &Explanation{Object: o, Relation: p.name, Op: This, Verdict: verdictOf(allowed, err), Err: err, Untold: 1}
	} else {
		told.plan = p
	}
	s.record.made = told
	return allowed, err
}

// recorded answers whether the subject holds p on o by its rule, with the record of it;
// nil if there is too much of it.
func (s *search) recorded(p *plan, o tuple.Object) (*Explanation, bool, error) {
	r := s.record
	over, above := r.held > r.most, r.open
	r.open = nil
	allowed, err := s.eval(p, o, &p.rule)
	r.open = above
	if over && !allowed {
		return nil, allowed, err
	}
	return r.made, allowed, err
}

// look records a grant, and returns its place.
func (r *recorder) look(l Look) int {
	if len(r.open.Grants) >= maxLooks && !r.all {
		r.open.Untold++
		return untold
	}
	r.held += lookBytes + len(l.Tuple.Subject.ID) + len(l.Grant.Context)
	r.open.Grants = append(r.open.Grants, l)
	r.hit = len(r.open.Grants) - 1
	return r.hit
}

// looked records a grant that is live.
func (s *search) looked(r *Relation, t tuple.Tuple, g Grant, counts bool, err error) int {
	l := Look{Tuple: t, Grant: g, State: Counts, Err: err}
	switch {
	case err != nil:
		l.State = ConditionFailed
	case counts:
	case !r.allows(t.Subject, g.Condition):
		l.State = NotAllowed
	case g.ExpiresAt != 0 && s.time >= g.ExpiresAt:
		l.State = Expired
	case s.time < g.NotBefore:
		l.State = NotYet
	default:
		l.State = ConditionFalse
	}
	if s.record.telling {
		s.note(lookBytes + len(t.Subject.ID) + len(g.Context))
	}
	return s.record.look(l)
}

// A teller makes one tree of what is recorded.
type teller struct {
	*search
	seen   map[partKey]bool
	todo   []*Explanation // references, those nearest to the top first
	left   int            // rules and grants that may still be told
	causes int            // undecided relations of which may still be said why
}

func (t *teller) tell(root *Explanation) {
	t.visit(root, partKey{})
	for i := 0; i < len(t.todo); i++ {
		t.resolve(t.todo[i])
	}
}

// visit queues the references below x, which is of the record of a part.
func (t *teller) visit(x *Explanation, of partKey) {
	if x.ref {
		t.todo = append(t.todo, x)
		return
	}
	if x.plan != nil {
		key := partKey{x.plan, x.Object}
		if t.seen[key] {
			*x = Explanation{Object: x.Object, Relation: x.Relation, Op: x.Op, Verdict: x.Verdict, Err: x.Err, Elsewhere: true}
			return
		}
		t.seen[key] = true
		x.plan = nil
	}
	t.left -= 1 + len(x.Grants)
	for _, b := range x.Branches {
		if b.cyclic && !b.ref {
			t.settle(b, of)
		}
		t.visit(b, of)
	}
	for i := range x.Grants {
		if leads := x.Grants[i].Leads; leads != nil {
			t.visit(leads, of)
		}
	}
}

// settle puts in the place of a rule of a part, which may not be undecided, what is for
// certain. The part has an answer whatever it is, so no proof rests on it.
func (t *teller) settle(x *Explanation, of partKey) {
	g := t.grounding(of, 0)
	if g == nil {
		*x = Explanation{Object: x.Object, Relation: x.Relation, Op: x.Op, Rule: x.Rule, Untold: 1}
		return
	}
	*x = *g.explain(g.atoms[g.find[of]].rule.find(x.at), math.MaxInt32)
}

// find returns the rule at a place within r, or nil.
func (r *groundRule) find(at int) *groundRule {
	if r.told.at == at {
		return r
	}
	for i := range r.children {
		if found := r.children[i].find(at); found != nil {
			return found
		}
	}
	return nil
}

// resolve puts in the place of a reference what it stands for.
func (t *teller) resolve(x *Explanation) {
	key := partKey{x.plan, x.Object}
	verdict, told := t.recordOf(key)
	*x = Explanation{Object: x.Object, Relation: x.Relation, Op: x.Op, Verdict: verdict}
	switch {
	case t.seen[key]:
		x.Elsewhere = true
	case told == nil || t.left <= 0 && verdict != Holds:
		x.Untold = 1
	default:
		t.seen[key] = true
		*x = *told()
		t.visit(x, key)
	}
}

// recordOf returns the verdict of a part, and what makes its record, if there is one: that of
// the search, where that is for certain, or else that of a grounding.
func (t *teller) recordOf(key partKey) (Verdict, func() *Explanation) {
	depth := 0
	if i, ok := t.lookup(key.plan, key.object); ok {
		e := &t.parts[i]
		if e.state == stateFinal && e.err == nil {
			if e.told == nil {
				return verdictOf(e.allowed, nil), nil
			}
			return verdictOf(e.allowed, nil), func() *Explanation { return e.told }
		}
		depth = e.depth
	}
	in := t.grounding(key, depth)
	if in == nil {
		return 0, nil
	}
	atom := in.find[key]
	verdict := in.verdict(&in.atoms[atom].rule)
	return verdict, func() *Explanation {
		x := in.tell(atom)
		if verdict == Undecided && t.causes < maxCauses {
			t.causes++
			if err := in.cause(atom); t.fatal == nil {
				x.Err = err
			}
		}
		return x
	}
}

// grounding returns one in which a part is laid open, made at that depth if there is none
// yet; nil once the budget is spent.
func (t *teller) grounding(key partKey, depth int) *grounding {
	for _, g := range t.record.grounds {
		if _, ok := g.find[key]; ok {
			return g
		}
	}
	if t.fatal != nil {
		return nil
	}
	g := t.lay(key.plan, key.object, depth)
	if t.fatal != nil {
		return nil
	}
	t.record.grounds = append(t.record.grounds, g)
	return g
}

// maxCauses bounds the undecided relations of which is said why: of each it takes a walk
// over all it needs.
const maxCauses = 32

func (g *grounding) verdict(r *groundRule) Verdict {
	switch {
	case g.certainly(r):
		return Holds
	case g.possibly(r):
		return Undecided
	}
	return HoldsNot
}

// tell returns the record of an atom, with the verdicts.
func (g *grounding) tell(atom int32) *Explanation {
	rank := int32(math.MaxInt32)
	if g.certain[atom] {
		rank = g.ranks[atom]
	}
	return g.explain(&g.atoms[atom].rule, rank)
}

// explain puts the verdicts into the record of a rule of an atom of that rank, and cuts
// it down to its proof where it holds: one by atoms of lower rank, if there is one, as
// there is of all that the atom is certain for.
func (g *grounding) explain(r *groundRule, rank int32) *Explanation {
	x := r.told
	x.Verdict = g.verdict(r)
	if x.Itself {
		return x
	}
	holds := x.Verdict == Holds
	if r.kind == nodeUnion && holds {
		i := slices.IndexFunc(r.children, func(c groundRule) bool { return g.proves(&c, rank) })
		if i < 0 {
			i = slices.IndexFunc(r.children, func(c groundRule) bool { return g.certainly(&c) })
		}
		x.Branches = append(x.Branches, g.explain(&r.children[i], rank))
		x.join(r.kind, r.this)
		return x
	}
	for i := range r.children {
		x.Branches = append(x.Branches, g.explain(&r.children[i], rank))
	}
	x.join(r.kind, r.this)
	switch {
	case holds && r.kind == nodeGrants:
		x.Grants = slices.DeleteFunc(x.Grants, func(l Look) bool { return l.State != Counts })
	case holds && len(x.Grants) > 0:
		e := g.proof(r, rank)
		if e < 0 {
			e = g.proof(r, math.MaxInt32)
		}
		x.Grants = []Look{x.Grants[r.edges[e].told]}
	case len(x.Grants) > maxLooks:
		x.Untold += len(x.Grants) - maxLooks
		x.Grants = x.Grants[:maxLooks]
	}
	return x
}

// proof returns the first edge of r by which it holds on atoms of a lower rank, or -1.
func (g *grounding) proof(r *groundRule, rank int32) int {
	return slices.IndexFunc(r.edges, func(e groundEdge) bool {
		return e.err == nil && (e.atom < 0 || g.certain[e.atom] && g.ranks[e.atom] < rank)
	})
}

// proves reports whether a rule holds on atoms of a lower rank.
func (g *grounding) proves(r *groundRule, rank int32) bool {
	proves := func(c groundRule) bool { return g.proves(&c, rank) }
	switch r.kind {
	case nodeUnion:
		return slices.ContainsFunc(r.children, proves)
	case nodeIntersect:
		return !slices.ContainsFunc(r.children, func(c groundRule) bool { return !proves(c) })
	case nodeExclude:
		return proves(r.children[0]) && !g.possibly(&r.children[1])
	}
	return g.proof(r, rank) >= 0
}
