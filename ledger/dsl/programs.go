package dsl

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
	"github.com/grantlog/grantlog/ledger/model"
)

// DefaultCost is what one run of a condition may cost, in CEL's units: about one for
// each operation and for each ten bytes of text looked at. OpenFGA's default is 100,
// which a list of fifty entries exceeds; 10,000 are about a millisecond.
const DefaultCost = 10_000

// A MissingError is a condition that neither the grant nor the request gives all
// parameters of. The question has no answer: what is missing is never false.
type MissingError struct {
	Condition string
	Params    []string // in name order
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("condition %+q: the context lacks %s", e.Condition, strings.Join(e.Params, ", "))
}

// A ContextError is a value of the wrong type in a context.
type ContextError struct {
	Condition string
	Param     string
	Stored    bool  // it was stored with the grant, under an older model; otherwise it is the request's
	Err       error // names condition and parameter
}

func (e *ContextError) Error() string { return e.Err.Error() }
func (e *ContextError) Unwrap() error { return e.Err }

// A ConditionError is a condition that has no result: its expression failed on these
// values, or it does not compile in this release.
type ConditionError struct {
	Condition string
	Err       error
}

func (e *ConditionError) Error() string { return fmt.Sprintf("condition %+q: %s", e.Condition, e.Err) }
func (e *ConditionError) Unwrap() error { return e.Err }

// A CostError is a condition that was stopped because it cost too much.
type CostError struct {
	Condition string
	Limit     uint64 // in CEL's units
}

func (e *CostError) Error() string {
	return fmt.Sprintf("condition %+q: exceeds the cost limit of %d", e.Condition, e.Limit)
}

// Programs are the compiled conditions of one model. They are safe for concurrent use.
type Programs struct {
	programs map[string]*program
	limit    uint64
}

// A program is one compiled condition.
type program struct {
	condition *model.Condition
	run       cel.Program
	err       error // why it does not compile
	timed     bool  // the expression names now, and no parameter hides it
}

// NewPrograms compiles the conditions of a valid model, each run of which may cost
// [DefaultCost].
//
// A condition that does not compile is an error of the questions that need it and of
// no others: models are parsed before they are written, so that it takes another
// release, or a writer who went around the edge, to bring one about.
func NewPrograms(m *model.Model) (*Programs, error) { return NewProgramsWithCost(m, DefaultCost) }

// NewProgramsWithCost is NewPrograms with another limit of the cost, at least 1.
func NewProgramsWithCost(m *model.Model, limit uint64) (*Programs, error) {
	if _, err := environment(); err != nil {
		return nil, fmt.Errorf("prepare CEL: %w", err)
	}
	ps := &Programs{make(map[string]*program, len(m.Conditions)), limit}
	for i := range m.Conditions {
		c := &m.Conditions[i]
		p := &program{condition: c}
		ps.programs[c.Name] = p
		checked, issues := compile(c)
		if len(issues) > 0 {
			p.err = &ConditionError{c.Name, fmt.Errorf("does not compile: line %d, column %d: %s", issues[0].line, issues[0].col, issues[0].message)}
			continue
		}
		named := false
		for _, r := range checked.ast.NativeRep().ReferenceMap() {
			named = named || r.Name == nowName && len(r.OverloadIDs) == 0
		}
		p.timed = named && !slices.ContainsFunc(c.Params, func(p model.Param) bool { return p.Name == nowName })
		run, err := checked.env.Program(checked.ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(limit))
		if err != nil {
			p.err = &ConditionError{c.Name, err}
			continue
		}
		p.run = run
	}
	return ps, nil
}

// Timed reports whether a condition of the model looks at the moment of the question: its
// result may then be another at another moment, though nothing was written meanwhile. It
// says so too of one that calls a variable of its own now.
func (ps *Programs) Timed(condition string) bool {
	p := ps.programs[condition]
	return p != nil && p.timed
}

// Conditions returns the conditions as one question at the moment now, in nanoseconds
// since the Unix epoch, has them. The request is a map, or null for none; what it
// holds beyond the parameters of a condition does not concern it. A value stored with
// a grant wins over the request's. Beyond its parameters, an expression may name now,
// the moment of the question as a timestamp, which OpenFGA does not know; a parameter
// of that name hides it.
//
// Errors of Holds: [*MissingError], [*ContextError], [*CostError], [*ConditionError].
func (ps *Programs) Conditions(request model.Value, now int64) model.Conditions {
	return ps.ConditionsOver(request, model.Value{}, now)
}

// ConditionsOver is Conditions with further values of the request, a map or null, that
// win over what is stored with a grant, and over those in request.
func (ps *Programs) ConditionsOver(request, over model.Value, now int64) model.Conditions {
	return &conditions{programs: ps, request: request, over: over, now: types.Timestamp{Time: time.Unix(0, now).UTC()}, asked: make(map[string]*asked)}
}

// conditions are those of one question, used by one goroutine.
type conditions struct {
	programs *Programs
	request  model.Value
	over     model.Value // wins over what is stored
	now      types.Timestamp
	asked    map[string]*asked
}

// An asked is a condition with what the request gives it.
type asked struct {
	*program
	requested []ref.Val // by parameter; nil where the request gives none
	wrong     []error   // by parameter: what the request gives is of the wrong type
	over      []bool    // by parameter: what the request gives wins over what is stored; nil for none
	values    []ref.Val // by parameter, of the run under way
	now       ref.Val

	plain     bool // the result without a stored context is known
	plainHold bool
	plainErr  error
}

func (cs *conditions) Holds(condition string, stored []byte) (bool, error) {
	a, err := cs.ask(condition)
	if err != nil {
		return false, err
	}
	if len(stored) > 0 {
		return a.holds(stored, cs.programs.limit)
	}
	if !a.plain { // thousands of grants may share this one result
		a.plainHold, a.plainErr = a.holds(nil, cs.programs.limit)
		a.plain = true
	}
	return a.plainHold, a.plainErr
}

// ask returns the condition with the request's values, typed once for the question.
func (cs *conditions) ask(condition string) (*asked, error) {
	if a := cs.asked[condition]; a != nil {
		return a, a.err
	}
	p := cs.programs.programs[condition]
	if p == nil {
		return nil, &ConditionError{condition, errors.New("the model has no such condition")}
	}
	n := len(p.condition.Params)
	a := &asked{program: p, requested: make([]ref.Val, n), wrong: make([]error, n), values: make([]ref.Val, n), now: cs.now}
	for i, param := range p.condition.Params {
		v, ok := cs.over.Field(param.Name)
		if ok {
			if a.over == nil {
				a.over = make([]bool, n)
			}
			a.over[i] = true
		} else {
			v, ok = cs.request.Field(param.Name)
		}
		if ok {
			a.requested[i], a.wrong[i] = p.typed(param, v, false)
		}
	}
	cs.asked[condition] = a
	return a, p.err
}

// typed returns a value of a context as the parameter's type has it.
func (p *program) typed(param model.Param, v model.Value, stored bool) (ref.Val, error) {
	one, err := p.condition.TypeContext(model.Value{Kind: model.MapValue, Map: []model.Field{{Name: param.Name, Value: v}}})
	if err == nil {
		var val ref.Val
		if val, err = celValue(param.Type, one.Map[0].Value); err == nil {
			return val, nil
		}
		err = fmt.Errorf("parameter %+q of condition %+q: %w", param.Name, p.condition.Name, err)
	}
	return nil, &ContextError{p.condition.Name, param.Name, stored, errors.New(short(err.Error()))}
}

// holds runs the condition with a stored context over the request's. Stored values of
// parameters that the condition no longer has are left aside.
func (a *asked) holds(stored []byte, limit uint64) (bool, error) {
	var grant model.Value
	if len(stored) > 0 {
		var err error
		if grant, err = model.DecodeContext(stored); err != nil {
			return false, &ConditionError{a.condition.Name, fmt.Errorf("stored context: %w", err)}
		}
	}
	var missing []string
	for i, param := range a.condition.Params {
		v, ok := grant.Field(param.Name)
		var err error
		switch {
		case ok && (a.over == nil || !a.over[i]):
			a.values[i], err = a.typed(param, v, true)
		case a.requested[i] == nil && a.wrong[i] == nil:
			missing = append(missing, param.Name)
		default:
			a.values[i], err = a.requested[i], a.wrong[i]
		}
		if err != nil {
			return false, err
		}
	}
	if missing != nil {
		return false, &MissingError{a.condition.Name, missing}
	}
	out, _, err := a.run.Eval(a)
	var cancelled interpreter.EvalCancelledError
	switch {
	case errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded:
		return false, &CostError{a.condition.Name, limit}
	case err != nil:
		return false, &ConditionError{a.condition.Name, errors.New(short(err.Error()))}
	}
	hold, ok := out.(types.Bool)
	if !ok {
		return false, &ConditionError{a.condition.Name, fmt.Errorf("the result is a %s, not a bool", out.Type().TypeName())}
	}
	return bool(hold), nil
}

// ResolveName gives CEL the values; with Parent it makes asked an activation.
func (a *asked) ResolveName(name string) (any, bool) {
	i := slices.IndexFunc(a.condition.Params, func(p model.Param) bool { return p.Name == name })
	if i >= 0 {
		return a.values[i], true
	}
	if name == nowName {
		return a.now, true
	}
	return nil, false
}

// Parent returns nil: there are no other values.
func (a *asked) Parent() cel.Activation { return nil }
