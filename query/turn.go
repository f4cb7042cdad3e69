package query

import (
	"context"
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
	Verdict model.Verdict // the answer
	Before  model.Verdict // the answer just before; 0 of Never and Unknown
	Cause   Cause
	Time    int64 // nanoseconds since the Unix epoch; 0 of Never
	// Command is the command; of ByExpiry and ByStart the one that granted the tuple.
	Command Provenance
	// Tuple is the one that it changed. If that is several, one that an allow, before or
	// after, is proved by, if there is one. Zero if it was a model.
	Tuple   tuple.Tuple
	Revoked bool // of ByCommand: it revoked the tuple
	// Timed: a condition that looks at the time was asked. The answer may have been another
	// meanwhile, at moments when nothing else changed.
	Timed bool
}

// turnSteps bounds how often the past is asked for one Turn.
const turnSteps = 1000

// Turn returns since when the answer to q has been what it is, and what made it so. An
// answer that is an error of the question itself is [model.Undecided], whatever the error.
// What q gives, and a model that was asked for, is in force at all moments.
//
// It asks the past: at each moment it notes what is read, and goes on at the moment just
// before the newest of it, because in between the evaluator would have read the same and
// come to the same answer. All moments together may spend what a list may, and each what
// a question may; beyond that the cause is Unknown.
//
// Errors are those of [Asking.Explain]. An Asking may be asked again and again.
func (a *Asking) Turn(ctx context.Context, q Question) (Turn, error) {
	if err := a.known(q.Tuple); err != nil {
		return Turn{}, err
	}
	sc, err := a.scope(ctx, &q.Given, a.engine.budgets.List)
	if err != nil {
		return Turn{}, err
	}
	t := turning{Asking: a, question: q, left: sc.Budget.Rows}
	t.given, _ = sc.Reader.(*overlay)
	turn, err := t.find()
	var budget *model.BudgetError
	if errors.As(err, &budget) && turn.Verdict != 0 {
		turn = Turn{Verdict: turn.Verdict, Cause: Unknown, Time: turn.Time}
		err = nil
	}
	turn.Timed = t.timed
	return turn, err
}

// A turning is the state of one Turn.
type turning struct {
	*Asking
	question Question
	given    *overlay // nil without contextual tuples
	left     int      // rows
	timed    bool
}

// A moment is a state of the store, with the answer and what was read for it.
type moment struct {
	rev     ledger.Revision // 0: before the first
	clock   int64
	verdict model.Verdict
	read    reading
	model   ledger.Revision // that wrote the model in force; 0 if there is none, or the request names it
}

func (t *turning) find() (turn Turn, err error) {
	now, err := t.at(t.view.Revision(), t.now)
	if err != nil {
		return turn, err
	}
	turn.Verdict = now.verdict
	for range turnSteps {
		newest := max(now.read.version.Revision, now.model)
		made, err := t.view.TimeOf(newest) // 0 for 0
		if err != nil {
			return turn, err
		}
		turn.Time = max(made, now.read.edge)
		if turn.Time == 0 {
			turn.Cause = Never
			return turn, nil
		}
		before := moment{rev: newest - 1, clock: now.read.edge - 1}
		if now.read.edge > made {
			before.rev, err = t.view.RevisionAt(before.clock)
			before.rev = min(before.rev, now.rev)
		} else {
			before.clock, err = t.view.TimeOf(before.rev)
			before.clock = min(max(before.clock, made-1), now.clock)
		}
		if err != nil {
			return turn, err
		}
		if before, err = t.at(before.rev, before.clock); err != nil {
			return turn, err
		}
		if before.verdict != turn.Verdict {
			if now.read.edge > made {
				return turn, t.tellEdge(&turn, &before, &now)
			}
			return turn, t.tellCommand(&turn, &before, &now, newest)
		}
		now = before
	}
	return turn, &model.BudgetError{What: "rows", Limit: turnSteps}
}

// tellCommand says that a revision made the answer what it is at now, from what it was
// before; unless that is so without it, because something ended or began to count just
// when it was applied.
func (t *turning) tellCommand(turn *Turn, before, now *moment, made ledger.Revision) error {
	last, err := t.view.TimeOf(made - 1)
	if err != nil {
		return err
	}
	if last < turn.Time {
		without, err := t.at(made-1, min(turn.Time, now.clock))
		if err != nil {
			return err
		}
		if without.verdict == turn.Verdict && without.read.edge == turn.Time {
			return t.tellEdge(turn, before, &without)
		}
	}
	turn.Cause, turn.Before = ByCommand, before.verdict
	if turn.Command, err = ProvenanceOf(t.view, made); err != nil || now.read.version.Revision < made {
		return err
	}
	changed := now.read.version
	if now.read.tuples > 1 || now.model == made {
		proven, err := t.proven(before, now, func(n index.Version) bool { return n.Revision == made })
		if err != nil {
			return err
		}
		if proven.Revision > 0 || now.model == made {
			changed = proven
		}
	}
	turn.Tuple, turn.Revoked = changed.Tuple, changed.Revision > 0 && !changed.Live
	return nil
}

// tellEdge says that a grant that ended or began to count made the answer what it is.
func (t *turning) tellEdge(turn *Turn, before, now *moment) error {
	at := now.read.edge
	edged := now.read.edged
	if now.read.edges > 1 {
		proven, err := t.proven(before, now, func(n index.Version) bool {
			return n.Live && (n.Grant.ExpiresAt == at || n.Grant.NotBefore == at)
		})
		if err != nil {
			return err
		}
		if proven.Revision > 0 {
			edged = proven
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

// proven returns the version, as of now, of a tuple that fits and that an allow, now or
// before, is proved by: one that counts, or else one that has to do with it. The zero
// version if there is no allow, or no such tuple.
func (t *turning) proven(before, now *moment, fits func(index.Version) bool) (found index.Version, err error) {
	allow := now
	if now.verdict != model.Holds {
		allow = before
	}
	if allow.verdict != model.Holds {
		return found, nil
	}
	var proof *model.Explanation
	err = t.ask(allow, func(sc model.Scope, in *model.Model) (err error) {
		proof, _, err = in.Explain(sc, t.engine.budgets.List, questionOf(t.question.Tuple))
		return err
	})
	if err != nil || proof == nil {
		return found, err
	}
	v, err := t.view.At(now.rev)
	if err != nil {
		return found, err
	}
	defer v.Close()
	for _, whole := range []bool{false, true} {
		var look func(x *model.Explanation) error
		look = func(x *model.Explanation) error {
			for i := range x.Grants {
				n, _, err := v.Newest(x.Grants[i].Tuple)
				if err != nil {
					return err
				}
				if found.Revision == 0 && n.Revision > 0 && fits(n) {
					found = n
				}
			}
			for b := range x.Below() {
				if b.Verdict == model.Holds || whole {
					if err := look(b); err != nil {
						return err
					}
				}
			}
			return nil
		}
		if err := look(proof); err != nil || found.Revision > 0 {
			return found, err
		}
	}
	return found, nil
}

// at asks the question at a moment.
func (t *turning) at(rev ledger.Revision, clock int64) (moment, error) {
	m := moment{rev: rev, clock: clock, verdict: model.HoldsNot, read: reading{clock: clock}}
	err := t.ask(&m, func(sc model.Scope, in *model.Model) error {
		allowed, spent, err := in.Check(sc, questionOf(t.question.Tuple))
		t.left -= spent.Rows
		switch {
		case err != nil && !own(err):
			return err
		case err != nil:
			m.verdict = model.Undecided
		case allowed:
			m.verdict = model.Holds
		}
		return nil
	})
	return m, err
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

// ask runs something at a moment, noting what it reads; nothing where the question names
// what the model in force lacks.
func (t *turning) ask(m *moment, run func(model.Scope, *model.Model) error) error {
	if m.rev == 0 {
		return nil
	}
	v := t.view
	if m.rev != v.Revision() {
		var err error
		if v, err = t.view.At(m.rev); err != nil {
			return err
		}
		defer v.Close()
	}
	m.read.view = v
	defer func() { m.read.view = nil }()
	in, programs := t.model, t.programs
	if !t.pinned {
		m.model = v.ModelRevision()
		if m.rev != t.view.Revision() {
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
	if budget.Rows = min(budget.Rows, t.left); budget.Rows <= 0 {
		return &model.BudgetError{What: "rows", Limit: t.engine.budgets.List.Rows}
	}
	sc := model.Scope{Reader: &m.read, Time: m.clock, Budget: budget, Stop: t.clock.stop}
	if t.given != nil {
		sc.Reader = &overlay{&m.read, t.given.tuples, t.given.grants}
	}
	if programs != nil {
		sc.Conditions = &watched{programs.ConditionsOver(t.question.Context, t.question.Over, m.clock), programs, &t.timed}
	}
	return run(sc, in)
}

// watched are conditions that note whether one that looks at the time was asked.
type watched struct {
	model.Conditions
	programs *dsl.Programs
	timed    *bool
}

func (w *watched) Holds(condition string, stored []byte) (bool, error) {
	*w.timed = *w.timed || w.programs.Timed(condition)
	return w.Conditions.Holds(condition, stored)
}

// A reading is a [model.Reader] over a view that notes the newest of what is read.
type reading struct {
	view    *index.View
	clock   int64
	version index.Version // the newest, a dead one too, of several the first read; zero if nothing was read
	tuples  int           // how often its revision was met, not less than it has tuples
	edge    int64         // the newest time up to clock at which something read began or ended to count; 0 for none
	edged   index.Version // that did; of several the first read
	edges   int           // as tuples
}

func (r *reading) note(n index.Version) {
	switch {
	case n.Revision > r.version.Revision:
		r.version, r.tuples = n, 1
	case n.Revision == r.version.Revision && n.Tuple != r.version.Tuple:
		r.tuples++
	}
	if !n.Live {
		return
	}
	for _, edge := range [...]int64{n.Grant.ExpiresAt, n.Grant.NotBefore} {
		switch {
		case edge > r.clock || edge < r.edge || edge <= 0:
		case edge > r.edge:
			r.edge, r.edged, r.edges = edge, n, 1
		case n.Tuple != r.edged.Tuple:
			r.edges++
		}
	}
}

// Grant implements [model.Reader].
func (r *reading) Grant(t tuple.Tuple) (model.Grant, bool, error) {
	n, ok, err := r.view.Newest(t)
	if err != nil || !ok {
		return model.Grant{}, false, err
	}
	r.note(n)
	return n.Grant, n.Live, nil
}

// Subjects implements [model.Reader].
func (r *reading) Subjects(o tuple.Object, relation, stype, srel, after string, yield func(tuple.Subject, model.Grant) bool) error {
	more := true
	return r.view.NewestVersions(index.ByObject(o, relation, &model.Kind{Type: stype, Relation: srel}, ""), func(n index.Version) bool {
		r.note(n)
		if n.Live && more && n.Tuple.Subject.ID > after {
			more = yield(n.Tuple.Subject, n.Grant)
		}
		return true
	})
}

// Objects implements [model.Reader].
func (r *reading) Objects(s tuple.Subject, otype, relation, after string, yield func(tuple.Object, model.Grant) bool) error {
	more := true
	return r.view.NewestVersions(index.BySubject(s, otype, relation), func(n index.Version) bool {
		r.note(n)
		if n.Live && more && n.Tuple.Object.ID > after {
			more = yield(n.Tuple.Object, n.Grant)
		}
		return true
	})
}
