// Package query answers questions about a store at a view of the index: who may do
// what. It brings together the compiled model with its evaluator (package model), the
// conditions (package dsl), the view, and what a request adds for itself: contextual
// tuples and context.
//
// A question has three answers: allowed, denied, or an error. An exhausted budget or
// a missing parameter is an error and never a denial, because under an exclusion a
// denial would become an allow. So too in lists: what has no answer is an item with its
// error, and never left out.
package query

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// Limits of one request.
const (
	MaxContextual = 100    // contextual tuples of one question
	MaxBatch      = 10_000 // questions of one batch
)

// A Contextual is a tuple that counts as granted for one question.
type Contextual struct {
	Tuple     tuple.Tuple
	Condition string      // of the model, or "" for none
	Context   model.Value // a map for the condition's parameters, or null; wins over the question's
}

// Given is what a request adds to what is granted. It lives as long as its question:
// nothing of it is kept for another.
type Given struct {
	Contextual []Contextual // at most MaxContextual, none twice; each hides a granted tuple
	Context    model.Value  // a map for the parameters of conditions, or null
	Over       model.Value  // a map as Context, or null; wins over the context of a grant, and over Context
}

// A Question asks whether a subject holds a relation on an object. Its tuple follows
// the grammar of package tuple.
type Question struct {
	Tuple tuple.Tuple
	Given
}

// An Answer is what a question without an error has.
type Answer struct {
	Allowed bool
	Spent   model.Spent
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

// NoModel returns nil if a store has a model at the view. If not it returns an [ErrNoModel],
// which says so if it has got one since.
func NoModel(v *index.View) error {
	switch first := v.FirstModel(); {
	case first == 0:
		return ErrNoModel
	case first > v.Revision():
		return &noModelError{v.Revision(), first}
	}
	return nil
}

// A noModelError is an [ErrNoModel] of a moment of the past.
type noModelError struct{ at, first ledger.Revision }

func (e *noModelError) Error() string {
	return fmt.Sprintf("the store had no model at revision %d; its first came at revision %d", e.at, e.first)
}
func (e *noModelError) Unwrap() error { return ErrNoModel }

// Budgets are what requests may spend. A field that is zero is the default's.
type Budgets struct {
	// Check is of one question; by default [model.DefaultBudget].
	Check model.Budget
	// List is of one list, one tree, or all questions of a batch together; by default
	// [model.ListBudget].
	List model.Budget
}

// An Engine answers questions. It keeps the compiled conditions of models, and is safe
// for concurrent use.
type Engine struct {
	budgets Budgets

	mu       sync.Mutex // guards the field below
	programs map[*model.Model]*dsl.Programs
}

// maxPrograms bounds the models whose conditions are kept compiled.
const maxPrograms = 256

// NewEngine returns an Engine whose requests may spend b.
func NewEngine(b Budgets) *Engine {
	b.Check, b.List = b.Check.Or(model.DefaultBudget), b.List.Or(model.ListBudget)
	return &Engine{budgets: b, programs: make(map[*model.Model]*dsl.Programs)}
}

// Budgets returns what requests may spend, with the defaults filled in.
func (e *Engine) Budgets() Budgets { return e.budgets }

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
// have in common. It is used by one goroutine, and for one question at a time.
type Asking struct {
	engine   *Engine
	view     *index.View
	model    *model.Model
	modelID  ledger.ID
	pinned   bool // the model was asked for, and is not the newest of another moment
	programs *dsl.Programs
	now      int64
	clock    clock
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
		return nil, NoModel(v)
	case m == nil:
		return nil, fmt.Errorf("model %s of store %s: %w", id, v.Store(), ledger.ErrNotFound)
	}
	pinned := !id.IsZero()
	if !pinned {
		id = v.NewestModel()
	}
	programs, err := e.compiled(m)
	if err != nil {
		return nil, err
	}
	a := &Asking{engine: e, view: v, model: m, modelID: id, pinned: pinned, programs: programs, now: now}
	v.Stop = a.clock.look
	return a, nil
}

// Model returns the id of the model in force.
func (a *Asking) Model() ledger.ID { return a.modelID }

// Time returns the moment that expiry and conditions are held against, in nanoseconds
// since the Unix epoch.
func (a *Asking) Time() int64 { return a.now }

// Timed reports whether a condition of the model looks at the moment of the question; see
// [dsl.Programs.Timed].
func (a *Asking) Timed(condition string) bool {
	return a.programs != nil && a.programs.Timed(condition)
}

// A clock ends a question when its caller is gone or its time is up.
type clock struct {
	ctx   context.Context
	limit time.Duration
	began time.Time     // when it was looked at first, zero before
	away  time.Duration // how long since the caller of a list has had its items
	spent model.Spent   // when it was looked at last
}

func (c *clock) stop(spent model.Spent) error {
	c.spent = spent
	return c.look()
}

// elapsed returns how long the question took, if it took so long that it was looked at.
func (c *clock) elapsed() time.Duration {
	if c.began.IsZero() {
		return 0
	}
	return time.Since(c.began) - c.away
}

func (c *clock) look() error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.began.IsZero() {
		c.began = time.Now()
	} else if c.elapsed() > c.limit {
		return &model.BudgetError{What: "time", Limit: int(c.limit), Spent: c.spent}
	}
	return nil
}

// scope returns what the evaluator needs for a question with what is given, and starts
// the clock.
func (a *Asking) scope(ctx context.Context, g *Given, b model.Budget) (model.Scope, error) {
	if err := ctx.Err(); err != nil {
		return model.Scope{}, err
	}
	a.clock = clock{ctx: ctx, limit: b.Time}
	sc := model.Scope{Reader: a.view, Time: a.now, Budget: b, Stop: a.clock.stop}
	if len(g.Contextual) > 0 {
		over, err := a.overlay(g.Contextual)
		if err != nil {
			return sc, err
		}
		sc.Reader = over
	}
	if g.Context.Kind != model.NullValue && g.Context.Kind != model.MapValue {
		return sc, invalid("context", "must be an object")
	}
	if g.Over.Kind != model.NullValue && g.Over.Kind != model.MapValue {
		return sc, invalid("over", "must be an object")
	}
	if a.programs != nil {
		sc.Conditions = a.programs.ConditionsOver(g.Context, g.Over, a.now)
	}
	return sc, nil
}

// Check answers q.
//
// Errors: an [*InvalidError] for a question that names what the model does not have or
// holds a contextual tuple that it does not allow; a [*model.BudgetError],
// [*model.CycleError] or [*dsl.MissingError] for one that has no answer; ctx's error
// once it is done; and errors of the index.
func (a *Asking) Check(ctx context.Context, q Question) (answer Answer, err error) {
	if err := a.known(q.Tuple); err != nil {
		return Answer{}, err
	}
	sc, err := a.scope(ctx, &q.Given, a.engine.budgets.Check)
	if err != nil {
		return Answer{}, err
	}
	answer.Allowed, answer.Spent, err = a.model.Check(sc, questionOf(q.Tuple))
	return answer, err
}

// Valid returns the [*InvalidError] that [Asking.Check] has for q whatever is granted, or
// nil; or ctx's error.
func (a *Asking) Valid(ctx context.Context, q Question) error {
	if err := a.known(q.Tuple); err != nil {
		return err
	}
	_, err := a.scope(ctx, &q.Given, a.engine.budgets.Check)
	return err
}

func questionOf(t tuple.Tuple) model.Question {
	return model.Question{Object: t.Object, Relation: t.Relation, Subject: t.Subject}
}

// known returns an [*InvalidError] unless the model has what the question names.
func (a *Asking) known(t tuple.Tuple) error {
	if err := a.knownRelation("tuple.object", "tuple.relation", t.Object.Type, t.Relation); err != nil {
		return err
	}
	return a.knownKind("tuple.subject", model.Kind{Type: t.Subject.Type, Relation: t.Subject.Relation})
}

func (a *Asking) knownType(field, typ string) error {
	if _, ok := a.model.Type(typ); !ok {
		return invalid(field, "the model has no type %+q", typ)
	}
	return nil
}

func (a *Asking) knownRelation(typeField, field, typ, relation string) error {
	if _, ok := a.model.Relation(typ, relation); ok {
		return nil
	}
	if err := a.knownType(typeField, typ); err != nil {
		return err
	}
	return invalid(field, "type %+q has no relation %+q", typ, relation)
}

// knownKind returns an [*InvalidError] unless the model has the kind of subject.
func (a *Asking) knownKind(field string, k model.Kind) error {
	if k.Relation == "" {
		return a.knownType(field, k.Type)
	}
	return a.knownRelation(field, field, k.Type, k.Relation)
}
