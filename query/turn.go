package query

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// A Cause is what made an answer what it is.
type Cause byte

// The causes. Their numbers are those of the API.
const (
	ByCommand Cause = 1 + iota // a grant, a revoke, a new model
	ByExpiry                   // the ExpiresAt of a grant came
	ByStart                    // the NotBefore of a grant came
	Never                      // the answer was never another
	Unknown                    // not found out within the budget; it was not after Time
	ByClock                    // a condition that looks at the time, at some moment after Time
)

// A Turn is the newest moment at which an answer became what it is.
//
// The moments of a store are, in order, each revision at its log time, and after it each
// moment at which a grant expires or begins to count, up to just before the log time of
// the next. So what expires at the log time of a command has ended before the command is
// applied: the command is the cause only if the answer would be another without it.
// Before its first model, and under a model that lacks what the question names, nobody
// holds anything in a store.
type Turn struct {
	Verdict model.Verdict // the answer; 0 if the budget was too small for it
	Before  model.Verdict // the answer just before, of ByClock at Time; 0 of Never and Unknown
	Cause   Cause
	Time    int64 // nanoseconds since the Unix epoch; 0 of Never
	// Command is the command; of ByExpiry and ByStart the one that granted the tuple.
	Command Provenance
	// Tuple is the one that it changed. If that is several, one without whose change the
	// answer would be another; if there is none that makes the difference alone, one that
	// does if some of the others had not changed either. Zero if it was a model.
	Tuple   tuple.Tuple
	Revoked bool // of ByCommand: it revoked the tuple
	// Timed: the answer hangs on a condition that looks at the time, and may have been
	// another meanwhile, at moments when nothing else changed: it is what it is since Time
	// at the earliest, and of Never it may have been another.
	Timed bool
	// Held is, of a denial before which there was no answer, the newest moment at which the
	// relation ceased to be held; nil otherwise.
	Held *Turn
}

// Turn returns since when the answer to q has been what it is, and what made it so. An
// answer that is an error of the question itself is [model.Undecided], whatever the error.
// What q gives, and a model that was asked for, is in force at all moments.
//
// It asks the past. At a moment it notes what is read, and goes on at the moment just
// before the newest of it, because in between the evaluator would have read the same and
// come to the same answer. From there it asks about many moments at once: a grant that
// does not count alike at all of them is doubtful, and counts as an error. By the rules of
// three answers an allow or a denial in spite of that is the answer at each of them; a
// moment at which there was no answer only because it lay too deep may be among them. If
// nothing comes out, it asks about fewer moments: those since what was doubtful.
//
// All moments together may spend what a list may, and those asked at once what a question
// may; beyond that the cause is Unknown. What was found out until then is told.
//
// Errors: an [*InvalidError], ctx's error, errors of the index. An Asking may be asked again
// and again.
func (a *Asking) Turn(ctx context.Context, q Question) (Turn, error) {
	if err := a.known(q.Tuple); err != nil {
		return Turn{}, err
	}
	sc, err := a.scope(ctx, &q.Given, a.engine.budgets.List)
	if err != nil {
		return Turn{}, err
	}
	t := turning{Asking: a, question: q, left: sc.Budget.Rows, models: a.view.Models()}
	t.given, _ = sc.Reader.(*overlay)
	now := moment{a.view.Revision(), a.now}
	turn, before, err := t.find(now, func(v, now model.Verdict) bool { return v == now })
	if err != nil || turn.Verdict != model.HoldsNot || turn.Before != model.Undecided {
		return turn, err
	}
	// What was before had no answer; further back for when it was held.
	held, _, err := t.find(before, func(v, _ model.Verdict) bool { return v != model.Holds })
	turn.Held = &held
	return turn, err
}

// A turning is the state of one Turn.
type turning struct {
	*Asking
	question Question
	given    *overlay // nil without contextual tuples
	left     int      // rows
	models   []index.ModelAt
}

// A moment is one of the store.
type moment struct {
	rev   ledger.Revision // 0: before the first
	clock int64
}

func (m moment) before(n moment) bool { return m.rev < n.rev || m.rev == n.rev && m.clock < n.clock }

// A stretch is all moments of the store from one to another, which may be the same, with
// the answer at all of them and what was read for it.
type stretch struct {
	from, to moment
	verdict  model.Verdict
	read     reading
	model    ledger.Revision // that wrote the model in force; 0 if there is none, or the request names it
	rows     int             // spent
	still    bool            // conditions that look at the time are held against the last moment
	timed    bool            // one was asked
	doubt    doubt           // why there is no answer, zero if it is for something else
	costly   bool            // nor is there one within the budget
}

// sure reports whether the verdict is that at all moments; of one that is still, but for
// what the time makes of conditions.
func (s *stretch) sure() bool {
	return s.verdict != model.Undecided || !s.costly && s.read.doubt == (doubt{}) && (!s.timed || s.still || s.from.clock >= s.to.clock)
}

// A doubt is the error of a grant that does not count alike at all moments of a stretch:
// its newest change among them. The zero doubt is of a condition that looks at the time.
type doubt struct {
	rev  ledger.Revision // that granted or revoked it, 0 for none
	edge int64           // at which it began or ended to count, 0 for none
}

func (d *doubt) Error() string { return "not the same at all moments" }

// grant returns the grant of which the evaluator learns the doubt.
func (d *doubt) grant() model.Grant {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(d.rev))
	return model.Grant{Condition: model.Doubtful, Context: binary.BigEndian.AppendUint64(b, uint64(d.edge))}
}

// find finds the newest moment, up to one, before which the answer is not like that at the
// one, and returns a moment before it when it was not.
func (t *turning) find(from moment, like func(v, now model.Verdict) bool) (turn Turn, last moment, err error) {
	turn.Time = from.clock
	defer func() {
		var budget *model.BudgetError
		if errors.As(err, &budget) {
			turn, err = Turn{Verdict: turn.Verdict, Cause: Unknown, Time: turn.Time, Timed: turn.Timed}, nil
		}
	}()
	now, err := t.at(from)
	if err != nil {
		return turn, last, err
	}
	first := now.verdict
	alike := func(v model.Verdict) bool { return like(v, first) }
	for alike(now.verdict) {
		turn.Verdict = now.verdict
		newest := max(now.read.version.Revision, now.model)
		made, err := t.view.TimeOf(newest) // 0 for 0
		if err != nil {
			return turn, last, err
		}
		turn.Time = max(made, now.read.edge)
		if turn.Time == 0 {
			turn.Cause, turn.Timed = Never, turn.Timed || now.timed
			return turn, last, nil
		}
		if now.timed {
			// Nothing that was read changed since, but the time went on.
			since, err := t.changed(doubt{newest, now.read.edge}, now.to)
			if err != nil {
				return turn, last, err
			}
			s, err := t.over(since, now.to, false, t.engine.budgets.Check.Rows)
			if err == nil && !s.sure() {
				turn.Timed = true
				if now, err = t.at(since); err == nil {
					continue
				}
			}
			if err != nil {
				return turn, last, err
			}
		}
		last = moment{newest - 1, now.read.edge - 1}
		if now.read.edge > made {
			last.rev, err = t.view.RevisionAt(last.clock)
			last.rev = min(last.rev, now.to.rev)
		} else {
			last.clock, err = t.view.TimeOf(last.rev)
			last.clock = min(max(last.clock, made-1), now.to.clock)
		}
		if err != nil {
			return turn, last, err
		}
		before, err := t.back(last, now.rows+now.read.noted)
		if err != nil {
			return turn, last, err
		}
		if !alike(before.verdict) && before.from.before(last) {
			// At that moment itself it may have lain too deep.
			if before, err = t.at(last); err != nil {
				return turn, last, err
			}
		}
		if !alike(before.verdict) {
			if now.read.edge > made {
				return turn, last, t.tellEdge(&turn, &before, &now, alike)
			}
			return turn, last, t.tellCommand(&turn, &before, &now, newest, alike)
		}
		turn.Timed = turn.Timed || before.still && before.timed
		if now, err = t.at(before.from); err != nil {
			return turn, last, err
		}
	}
	turn.Cause, turn.Before, turn.Time, turn.Timed = ByClock, now.verdict, now.to.clock, true
	return turn, now.to, nil
}

// back returns a stretch up to a moment that has one answer, as long a one as it finds: at
// the least the moment alone. To read what there is to read costs about so many rows.
func (t *turning) back(to moment, rows int) (stretch, error) {
	const (
		cheap    = 1000 // rows that any stretch may cost
		dear     = 16   // times what reading costs
		directly = 3    // tries that follow what was doubtful alone, and are not made at most half as long
	)
	from, err := t.changed(doubt{rev: t.modelled(to.rev)}, to)
	for try := 0; err == nil && from.before(to); try++ {
		s, err := t.over(from, to, false, cheap+dear*rows)
		if err == nil && s.timed && !s.sure() {
			s, err = t.over(from, to, true, cheap+dear*rows)
		}
		if err != nil || s.sure() {
			return s, err
		}
		if s.doubt == (doubt{}) {
			s.doubt = s.read.doubt
		}
		next, err := t.changed(s.doubt, to)
		if err != nil {
			return s, err
		}
		if s.costly || try >= directly || !from.before(next) {
			half := moment{to.rev, from.clock + (to.clock-from.clock+1)/2}
			if from.rev < to.rev {
				if half, err = t.changed(doubt{rev: from.rev + (to.rev-from.rev+1)/2}, to); err != nil {
					return s, err
				}
			}
			if next.before(half) {
				next = half
			}
		}
		from = next
	}
	if err != nil {
		return stretch{}, err
	}
	return t.at(to)
}

// modelled returns the revision since which the model in force at one is in force.
func (t *turning) modelled(rev ledger.Revision) (since ledger.Revision) {
	if t.pinned {
		return min(1, rev)
	}
	for _, m := range t.models {
		if m.Revision <= rev {
			since = m.Revision
		}
	}
	return since
}

// changed returns the moment of a change, not after another moment by the time.
func (t *turning) changed(d doubt, to moment) (moment, error) {
	made, err := t.view.TimeOf(d.rev) // 0 for 0
	if err != nil || d.edge <= made {
		return moment{d.rev, min(made, to.clock)}, err
	}
	rev, err := t.view.RevisionAt(d.edge)
	return moment{min(rev, to.rev), d.edge}, err
}

// tellCommand says that a revision made the answer what it is at now, from what it was
// before; unless that is so without it, because something ended or began to count just
// when it was applied, or by the time alone.
func (t *turning) tellCommand(turn *Turn, before, now *stretch, made ledger.Revision, alike func(model.Verdict) bool) error {
	last, err := t.view.TimeOf(made - 1)
	if err != nil {
		return err
	}
	if last < turn.Time {
		without, err := t.at(moment{made - 1, min(turn.Time, now.to.clock)})
		if err != nil {
			return err
		}
		switch {
		case alike(without.verdict) && without.read.edge == turn.Time:
			return t.tellEdge(turn, before, &without, alike)
		case alike(without.verdict) && without.timed:
			turn.Cause, turn.Before, turn.Time, turn.Timed = ByClock, before.verdict, before.to.clock, true
			return nil
		}
	}
	turn.Cause, turn.Before = ByCommand, before.verdict
	if turn.Command, err = ProvenanceOf(t.view, made); err != nil || now.read.version.Revision < made {
		return err
	}
	changed := now.read.version
	if now.read.tuples > 1 || now.model == made {
		v, err := t.view.At(made - 1)
		if err != nil {
			return err
		}
		defer v.Close()
		fits := func(n index.Version) bool { return n.Revision == made }
		blamed, err := t.blame(moment{made, turn.Time}, alike, fits, func(n index.Version) (index.Version, error) {
			was, _, err := v.Newest(n.Tuple)
			was.Tuple = n.Tuple
			return was, err
		})
		if err != nil {
			return err
		}
		if blamed.Revision > 0 || now.model == made {
			changed = blamed
		}
	}
	turn.Tuple, turn.Revoked = changed.Tuple, changed.Revision > 0 && !changed.Live
	return nil
}

// tellEdge says that a grant that ended or began to count made the answer what it is.
func (t *turning) tellEdge(turn *Turn, before, now *stretch, alike func(model.Verdict) bool) error {
	at := now.read.edge
	edged := now.read.edged
	if now.read.edges > 1 {
		fits := func(n index.Version) bool {
			return n.Live && (n.Grant.ExpiresAt == at || n.Grant.NotBefore == at)
		}
		// What a command changed at that time, it changed after that.
		blamed, err := t.blame(moment{before.to.rev, at}, alike, fits, func(n index.Version) (index.Version, error) {
			if n.Live = n.Grant.NotBefore != at; n.Live {
				n.Grant.ExpiresAt = 0
			}
			return n, nil
		})
		if err != nil {
			return err
		}
		if blamed.Revision > 0 {
			edged = blamed
		}
	}
	turn.Cause, turn.Before, turn.Time, turn.Tuple = ByExpiry, before.verdict, at, edged.Tuple
	if edged.Grant.NotBefore == at {
		turn.Cause = ByStart
	}
	var err error
	turn.Command, err = ProvenanceOf(t.view, edged.Revision)
	return err
}

// sameAt reports whether two versions of a tuple are the same to the evaluator at a time.
func sameAt(a, b index.Version, at int64) bool {
	counts := func(n index.Version) bool {
		return n.Live && n.Grant.NotBefore <= at && (n.Grant.ExpiresAt == 0 || at < n.Grant.ExpiresAt)
	}
	if !counts(a) || !counts(b) {
		return counts(a) == counts(b)
	}
	return a.Grant.Condition == b.Grant.Condition && string(a.Grant.Context) == string(b.Grant.Context)
}

// blame returns which of the tuples that changed at a moment made the answer what it is: one
// without whose change alone it would not be alike, or else one without whose change it would
// not be if some others had not changed either. The zero version if there is none, as when
// a model made it so. Fits says which versions are of a change, and was what they were before.
func (t *turning) blame(at moment, alike func(model.Verdict) bool, fits func(index.Version) bool, was func(index.Version) (index.Version, error)) (index.Version, error) {
	const tries = 32 // of changes alone
	type change struct{ was, is index.Version }
	var (
		changes []change                    // of what was read yet
		place   = make(map[tuple.Tuple]int) // among them; -1 if to the evaluator it is what it was
		failed  error
	)
	// with reports whether the answer is alike if only some of the changes are made.
	with := func(made func(change int) bool) (bool, error) {
		s := stretch{from: at, to: at}
		s.read.instead = func(n index.Version) index.Version {
			if !fits(n) {
				return n
			}
			i, met := place[n.Tuple]
			if !met {
				before, err := was(n)
				failed = cmp.Or(failed, err)
				if i = -1; !sameAt(before, n, at.clock) {
					i = len(changes)
					changes = append(changes, change{before, n})
				}
				place[n.Tuple] = i
			}
			if i >= 0 && !made(i) {
				return changes[i].was
			}
			return n
		}
		err := t.check(&s, t.engine.budgets.Check.Rows)
		return alike(s.verdict), cmp.Or(failed, err)
	}
	if _, err := with(func(int) bool { return true }); err != nil {
		return index.Version{}, err
	}
	read := len(changes) // those alone can make a difference alone
	without, err := with(func(int) bool { return false })
	if err != nil {
		return index.Version{}, err
	}
	var found index.Version
	first := 0 // that is tried alone
	if !without && len(changes) > 0 {
		// Without the changes before low it is alike, without those before high it is not.
		low, high := 0, len(changes)
		for high-low > 1 {
			mid := low + (high-low)/2
			is, err := with(func(i int) bool { return i >= mid })
			if err != nil {
				return index.Version{}, err
			}
			if is {
				low = mid
			} else {
				high = mid
			}
		}
		found, first = changes[low].is, low
	}
	for try := range min(tries, read) {
		alone := (first + try) % read
		is, err := with(func(i int) bool { return i != alone })
		var budget *model.BudgetError
		if errors.As(err, &budget) {
			break
		}
		if err != nil {
			return index.Version{}, err
		}
		if !is {
			return changes[alone].is, nil
		}
	}
	return found, nil
}

// at asks the question at a moment.
func (t *turning) at(m moment) (stretch, error) {
	return t.over(m, m, false, t.engine.budgets.Check.Rows)
}

// over asks the question at all moments from one to another, within so many rows. All must
// have the model of the last.
func (t *turning) over(from, to moment, still bool, rows int) (stretch, error) {
	s := stretch{from: from, to: to, still: still}
	err := t.check(&s, rows)
	var budget *model.BudgetError
	if from != to && t.left > 0 && errors.As(err, &budget) && budget.What != "time" {
		s.verdict, s.costly, err = model.Undecided, true, nil
	}
	return s, err
}

// check asks the question over a stretch, within so many rows, noting what it reads. Where
// the model in force lacks what the question names, the answer is a denial.
func (t *turning) check(s *stretch, rows int) error {
	s.verdict = model.HoldsNot
	if s.to.rev == 0 {
		return nil
	}
	v := t.view
	if s.to.rev != v.Revision() {
		var err error
		if v, err = t.view.At(s.to.rev); err != nil {
			return err
		}
		defer v.Close()
	}
	s.read = reading{view: v, from: s.from, clock: s.to.clock, instead: s.read.instead}
	defer func() { s.read.view = nil }()
	in, programs := t.model, t.programs
	if !t.pinned {
		s.model = v.ModelRevision()
		if s.to.rev != t.view.Revision() {
			var err error
			if in, err = v.Model(ledger.ID{}); err != nil || in == nil {
				return err
			}
			if programs, err = t.engine.compiled(in); err != nil {
				return err
			}
		}
	}
	then := Asking{model: in}
	if then.known(t.question.Tuple) != nil {
		return nil
	}
	budget := t.engine.budgets.Check
	if budget.Rows = min(budget.Rows, rows, t.left); budget.Rows <= 0 {
		return &model.BudgetError{What: "rows", Limit: t.engine.budgets.List.Rows}
	}
	sc := model.Scope{Reader: &s.read, Time: s.to.clock, Budget: budget, Stop: t.clock.stop}
	if t.given != nil {
		sc.Reader = &overlay{&s.read, t.given.tuples, t.given.grants}
	}
	over := &conditions{stretch: s, programs: programs}
	if programs != nil {
		over.Conditions = programs.ConditionsOver(t.question.Context, t.question.Over, s.to.clock)
	}
	sc.Conditions = over
	allowed, spent, err := in.Check(sc, questionOf(t.question.Tuple))
	s.rows = spent.Rows
	t.left -= spent.Rows
	var why *doubt
	switch {
	case errors.As(err, &why):
		s.verdict, s.doubt = model.Undecided, *why
	case err != nil && !own(err):
		return err
	case err != nil:
		s.verdict = model.Undecided
	case allowed:
		s.verdict = model.Holds
	}
	return nil
}

// own reports whether an error is the answer to a question: asked again, it would be the
// same, however often.
func own(err error) bool {
	var (
		budget    *model.BudgetError
		cycle     *model.CycleError
		missing   *dsl.MissingError
		ill       *dsl.ContextError
		cost      *dsl.CostError
		condition *dsl.ConditionError
	)
	return errors.As(err, &budget) && budget.What == "depth" || errors.As(err, &cycle) || errors.As(err, &missing) ||
		errors.As(err, &ill) || errors.As(err, &cost) || errors.As(err, &condition)
}

// Conditions are those of a model over a stretch. A grant whose condition the model lacks
// is none that it allows, and never asked about.
type conditions struct {
	model.Conditions // nil without programs
	stretch          *stretch
	programs         *dsl.Programs // nil if the model has none
}

func (c *conditions) Holds(condition string, stored []byte) (bool, error) {
	if condition == model.Doubtful {
		return false, &doubt{ledger.Revision(binary.BigEndian.Uint64(stored)), int64(binary.BigEndian.Uint64(stored[8:]))}
	}
	if c.programs.Timed(condition) {
		s := c.stretch
		s.timed = true
		if !s.still && s.from.clock < s.to.clock {
			return false, &doubt{}
		}
	}
	return c.Conditions.Holds(condition, stored)
}

// A reading is a [model.Reader] over a view that notes the newest of what is read. Over a
// stretch, what does not count alike at all its moments is doubtful.
type reading struct {
	view    *index.View
	from    moment        // the first of the stretch
	clock   int64         // of the last
	version index.Version // the newest, a dead one too, of several the first read; zero if nothing was read
	tuples  int           // how often its revision was met, not less than it has tuples
	edge    int64         // the newest time up to clock at which something read began or ended to count; 0 for none
	edged   index.Version // that did; of several the first read
	edges   int           // as tuples
	doubt   doubt         // the newest changes of what is doubtful, zero if nothing is
	noted   int           // versions, dead ones too

	instead func(index.Version) index.Version // if not nil, what to take for a version
}

// note notes what is read, and returns what the evaluator takes for its grant, false if that
// is not live at any moment.
func (r *reading) note(n index.Version) (model.Grant, bool) {
	r.noted++
	if r.instead != nil {
		n = r.instead(n)
	}
	switch {
	case n.Revision > r.version.Revision:
		r.version, r.tuples = n, 1
	case n.Revision == r.version.Revision && n.Tuple != r.version.Tuple:
		r.tuples++
	}
	var d doubt
	if n.Revision > r.from.rev {
		d.rev = n.Revision
	}
	if n.Live {
		for _, edge := range [...]int64{n.Grant.ExpiresAt, n.Grant.NotBefore} {
			switch {
			case edge > r.clock || edge <= 0:
				continue
			case edge > r.edge:
				r.edge, r.edged, r.edges = edge, n, 1
			case edge == r.edge && n.Tuple != r.edged.Tuple:
				r.edges++
			}
			if edge > r.from.clock {
				d.edge = max(d.edge, edge)
			}
		}
	}
	if d == (doubt{}) {
		return n.Grant, n.Live
	}
	r.doubt = doubt{max(r.doubt.rev, d.rev), max(r.doubt.edge, d.edge)}
	return d.grant(), true
}

// Grant implements [model.Reader].
func (r *reading) Grant(t tuple.Tuple) (model.Grant, bool, error) {
	n, ok, err := r.view.Newest(t)
	if err != nil || !ok {
		return model.Grant{}, false, err
	}
	g, live := r.note(n)
	return g, live, nil
}

// Subjects implements [model.Reader].
func (r *reading) Subjects(o tuple.Object, relation, stype, srel, after string, yield func(tuple.Subject, model.Grant) bool) error {
	more := true
	return r.view.NewestVersions(index.ByObject(o, relation, &model.Kind{Type: stype, Relation: srel}, ""), func(n index.Version) bool {
		if g, live := r.note(n); live && more && n.Tuple.Subject.ID > after {
			more = yield(n.Tuple.Subject, g)
		}
		return true
	})
}

// Objects implements [model.Reader].
func (r *reading) Objects(s tuple.Subject, otype, relation, after string, yield func(tuple.Object, model.Grant) bool) error {
	more := true
	return r.view.NewestVersions(index.BySubject(s, otype, relation), func(n index.Version) bool {
		if g, live := r.note(n); live && more && n.Tuple.Object.ID > after {
			more = yield(n.Tuple.Object, g)
		}
		return true
	})
}
