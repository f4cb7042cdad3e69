// Package query answers questions about a store at a view of the index: who may do
// what. It brings together the compiled model with its evaluator (package model), the
// conditions (package dsl), the view, and what a request adds for itself: contextual
// tuples and context.
//
// A question has three answers: allowed, denied, or an error. An exhausted budget or
// a missing parameter is an error and never a denial, because under an exclusion a
// denial would become an allow.
package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// Limits of one request.
const (
	MaxContextual = 100  // contextual tuples of one question
	MaxBatch      = 1000 // questions of one batch
)

// A Contextual is a tuple that counts as granted for one question.
type Contextual struct {
	Tuple     tuple.Tuple
	Condition string      // of the model, or "" for none
	Context   model.Value // a map for the condition's parameters, or null; wins over the question's
}

// A Question asks whether a subject holds a relation on an object. Its tuple follows
// the grammar of package tuple.
type Question struct {
	Tuple      tuple.Tuple
	Contextual []Contextual // at most MaxContextual, none twice; each hides a granted tuple
	Context    model.Value  // a map for the parameters of conditions, or null
}

// An Answer is what a question without an error has.
type Answer struct {
	Allowed bool
	Spent   model.Spent
	Path    []model.Step // of an allow, if it was asked for
}

// An InvalidError says which part of a question is wrong, and what would be right.
type InvalidError struct {
	Field   string // path in the question, such as tuple.relation or contextual[2].condition
	Message string
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Message }

func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Message: fmt.Sprintf(format, args...)}
}

// ErrNoModel is returned for a store without a model, where no question has an answer.
var ErrNoModel = errors.New("the store has no model yet; write one first")

// Budget is what a question may spend; the zero Budget is [model.DefaultBudget].
type Budget = model.Budget

// An Engine answers questions. It keeps the compiled conditions of models, and is safe
// for concurrent use.
type Engine struct {
	budget model.Budget

	mu       sync.Mutex // guards the field below
	programs map[*model.Model]*dsl.Programs
}

// maxPrograms bounds the models whose conditions are kept compiled.
const maxPrograms = 256

// NewEngine returns an Engine whose questions may each spend b.
func NewEngine(b Budget) *Engine {
	if b == (Budget{}) {
		b = model.DefaultBudget
	}
	return &Engine{budget: b, programs: make(map[*model.Model]*dsl.Programs)}
}

// compiled returns the programs of the model's conditions, nil if it has none.
func (e *Engine) compiled(m *model.Model) (*dsl.Programs, error) {
	if len(m.Conditions) == 0 {
		return nil, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.programs[m]; p != nil {
		return p, nil
	}
	p, err := dsl.NewPrograms(m)
	if err != nil {
		return nil, fmt.Errorf("compile conditions: %w", err)
	}
	if len(e.programs) >= maxPrograms {
		clear(e.programs) // rare: more models in use than a node should serve
	}
	e.programs[m] = p
	return p, nil
}

// An Asking is a view under a model at a moment: what the questions of one request
// have in common. It is used by one goroutine.
type Asking struct {
	engine   *Engine
	view     *index.View
	model    *model.Model
	modelID  ledger.ID
	programs *dsl.Programs
	now      int64
}

// Ask begins a request at a view, under the store's model of that id (zero: its newest
// at the view), with expiry and conditions held against now, in nanoseconds since the
// Unix epoch. Errors: [ErrNoModel], and [ledger.ErrNotFound] for a model that the
// store does not have.
func (e *Engine) Ask(v *index.View, id ledger.ID, now int64) (*Asking, error) {
	m, err := v.Model(id)
	switch {
	case err != nil:
		return nil, err
	case m == nil && id.IsZero():
		return nil, ErrNoModel
	case m == nil:
		return nil, fmt.Errorf("model %s of store %s: %w", id, v.Store(), ledger.ErrNotFound)
	}
	if id.IsZero() {
		id = v.NewestModel()
	}
	programs, err := e.compiled(m)
	if err != nil {
		return nil, err
	}
	return &Asking{engine: e, view: v, model: m, modelID: id, programs: programs, now: now}, nil
}

// Model returns the id of the model in force.
func (a *Asking) Model() ledger.ID { return a.modelID }

// Check answers q.
//
// Errors: an [*InvalidError] for a question that names what the model does not have or
// holds a contextual tuple that it does not allow; a [*model.BudgetError],
// [*model.CycleError] or [*dsl.MissingError] for one that has no answer; ctx's error
// once it is done; and errors of the index.
func (a *Asking) Check(ctx context.Context, q Question) (Answer, error) {
	return a.check(ctx, q, false)
}

// Path is Check that also tells by which tuples an allow came about.
func (a *Asking) Path(ctx context.Context, q Question) (Answer, error) {
	return a.check(ctx, q, true)
}

func (a *Asking) check(ctx context.Context, q Question, path bool) (Answer, error) {
	if err := a.known(q.Tuple); err != nil {
		return Answer{}, err
	}
	var reader model.Reader = &cancellable{ctx: ctx, Reader: a.view}
	if len(q.Contextual) > 0 {
		over, err := a.overlay(q.Contextual)
		if err != nil {
			return Answer{}, err
		}
		over.Reader = reader
		reader = over
	}
	if q.Context.Kind != model.NullValue && q.Context.Kind != model.MapValue {
		return Answer{}, invalid("context", "must be an object")
	}
	var conditions model.Conditions
	if a.programs != nil {
		conditions = a.programs.Conditions(q.Context, a.now)
	}
	question := model.Question{Object: q.Tuple.Object, Relation: q.Tuple.Relation, Subject: q.Tuple.Subject, Time: a.now}
	var answer Answer
	var err error
	if path {
		answer.Allowed, answer.Path, answer.Spent, err = a.model.CheckPath(reader, conditions, question, a.engine.budget)
	} else {
		answer.Allowed, answer.Spent, err = a.model.Check(reader, conditions, question, a.engine.budget)
	}
	return answer, err
}

// known returns an [*InvalidError] unless the model has what the question names.
func (a *Asking) known(t tuple.Tuple) error {
	typ, ok := a.model.Type(t.Object.Type)
	if !ok {
		return invalid("tuple.object", "the model has no type %+q", t.Object.Type)
	}
	if _, ok := a.model.Relation(typ.Name, t.Relation); !ok {
		return invalid("tuple.relation", "type %+q has no relation %+q", typ.Name, t.Relation)
	}
	if _, ok := a.model.Type(t.Subject.Type); !ok {
		return invalid("tuple.subject", "the model has no type %+q", t.Subject.Type)
	}
	if t.Subject.IsUserset() {
		if _, ok := a.model.Relation(t.Subject.Type, t.Subject.Relation); !ok {
			return invalid("tuple.subject", "type %+q has no relation %+q", t.Subject.Type, t.Subject.Relation)
		}
	}
	return nil
}

// cancellable ends the reading once ctx is done.
type cancellable struct {
	ctx context.Context
	model.Reader
	reads int
}

// cancelEvery is how many rows are read between two looks at the context.
const cancelEvery = 64

func (c *cancellable) done() error {
	if c.reads++; c.reads%cancelEvery != 0 {
		return nil
	}
	return c.ctx.Err()
}

func (c *cancellable) Grant(t tuple.Tuple) (model.Grant, bool, error) {
	if err := c.done(); err != nil {
		return model.Grant{}, false, err
	}
	return c.Reader.Grant(t)
}

func (c *cancellable) Subjects(o tuple.Object, relation, stype, srel string, yield func(tuple.Subject, model.Grant) bool) error {
	var cancelled error
	if cancelled = c.done(); cancelled != nil {
		return cancelled
	}
	err := c.Reader.Subjects(o, relation, stype, srel, func(s tuple.Subject, g model.Grant) bool {
		if cancelled = c.done(); cancelled != nil {
			return false
		}
		return yield(s, g)
	})
	return errors.Join(err, cancelled)
}

// An overlay is a Reader with contextual tuples over it.
type overlay struct {
	model.Reader
	tuples []tuple.Tuple // sorted by Compare
	grants map[tuple.Tuple]model.Grant
}

// overlay validates contextual tuples as grants are validated.
func (a *Asking) overlay(contextual []Contextual) (*overlay, error) {
	if len(contextual) > MaxContextual {
		return nil, invalid("contextual", "must be at most %d, are %d", MaxContextual, len(contextual))
	}
	o := &overlay{grants: make(map[tuple.Tuple]model.Grant, len(contextual))}
	for i, c := range contextual {
		field := fmt.Sprintf("contextual[%d]", i)
		if _, twice := o.grants[c.Tuple]; twice {
			return nil, invalid(field+".tuple", "stands twice")
		}
		if err := a.model.Allows(c.Tuple, c.Condition); err != nil {
			return nil, refused(field, err)
		}
		g := model.Grant{Condition: c.Condition}
		if c.Context.Kind != model.NullValue {
			if c.Context.Kind != model.MapValue {
				return nil, invalid(field+".context", "must be an object")
			}
			condition, ok := a.model.Condition(c.Condition)
			if !ok {
				return nil, invalid(field+".context", "must be absent without a condition")
			}
			typed, err := condition.TypeContext(c.Context)
			if err != nil {
				return nil, invalid(field+".context", "%s", err)
			}
			g.Context = model.AppendContext(nil, typed)
		}
		o.grants[c.Tuple] = g
		o.tuples = append(o.tuples, c.Tuple)
	}
	slices.SortFunc(o.tuples, tuple.Tuple.Compare)
	return o, nil
}

// refused turns what a model does not allow into an error about the field.
func refused(field string, err error) error {
	var refusal *model.Refusal
	if errors.As(err, &refusal) {
		part := "tuple." + refusal.Part
		if refusal.Part == "condition" {
			part = refusal.Part
		}
		return invalid(field+"."+part, "%s", refusal.Text)
	}
	return invalid(field, "%s", err)
}

func (o *overlay) Grant(t tuple.Tuple) (model.Grant, bool, error) {
	if g, ok := o.grants[t]; ok {
		return g, true, nil
	}
	return o.Reader.Grant(t)
}

func (o *overlay) Subjects(object tuple.Object, relation, stype, srel string, yield func(tuple.Subject, model.Grant) bool) error {
	own := o.run(object, relation, stype, srel)
	more := true
	ownUpTo := func(id string) {
		for more && len(own) > 0 && own[0].Subject.ID < id {
			more = yield(own[0].Subject, o.grants[own[0]])
			own = own[1:]
		}
	}
	err := o.Reader.Subjects(object, relation, stype, srel, func(s tuple.Subject, g model.Grant) bool {
		ownUpTo(s.ID)
		if more && len(own) > 0 && own[0].Subject.ID == s.ID { // the contextual one hides it
			g = o.grants[own[0]]
			own = own[1:]
		}
		if more {
			more = yield(s, g)
		}
		return more
	})
	for more && err == nil && len(own) > 0 {
		more = yield(own[0].Subject, o.grants[own[0]])
		own = own[1:]
	}
	return err
}

// run returns the contextual tuples of one run of subjects, in order of subject id.
func (o *overlay) run(object tuple.Object, relation, stype, srel string) []tuple.Tuple {
	var run []tuple.Tuple
	for _, t := range o.tuples {
		if t.Object == object && t.Relation == relation && t.Subject.Type == stype && t.Subject.Relation == srel {
			run = append(run, t)
		}
	}
	return run
}
