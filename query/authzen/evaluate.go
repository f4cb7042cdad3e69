package authzen

import (
	"context"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/query"
)

// A decision answers one evaluation.
type decision struct {
	Decision bool             `json:"decision"`
	Context  *decisionContext `json:"context,omitempty"`
}

// A decisionContext says more about a decision.
type decisionContext struct {
	Error  *itemError `json:"error,omitempty"`  // why there is no answer; the decision is then false
	Reason string     `json:"reason,omitempty"` // why it is the last of fewer decisions than evaluations
}

// evaluation answers one evaluation. One without an answer is an error.
func (s *Service) evaluation(ctx context.Context, store ledger.ID, body model.Value) (any, error) {
	a, err := readAsked(body, asked{})
	if err != nil {
		return nil, err
	}
	return s.evaluate(ctx, store, a)
}

func (s *Service) evaluate(ctx context.Context, store ledger.ID, a asked) (any, error) {
	began := time.Now()
	allowed, err := s.check(ctx, store, a)
	s.cfg.Checked(allowed, err, time.Since(began))
	if err != nil {
		return nil, inRequest(err)
	}
	return decision{Decision: allowed}, nil
}

func (s *Service) check(ctx context.Context, store ledger.ID, a asked) (bool, error) {
	q, err := a.question()
	if err != nil {
		return false, err
	}
	v, asking, err := s.ask(ctx, store)
	if err != nil {
		return false, err
	}
	defer v.Close()
	answer, err := asking.Check(ctx, q)
	return answer.Allowed, err
}

// lastOf is, by the semantics that evaluations may ask for, the decision that is the last
// of an answer, nil for none.
var lastOf = map[string]*bool{
	"execute_all":            nil,
	"deny_on_first_deny":     new(false),
	"permit_on_first_permit": new(true),
}

// evaluations answers many evaluations at one revision, in their order, or as evaluation
// does if there are none. All together may spend what a list may. With semantics that
// end at a decision, what comes after it is left out of the answer.
func (s *Service) evaluations(ctx context.Context, store ledger.ID, body model.Value) (any, error) {
	defaults, err := readAsked(body, asked{})
	if err != nil {
		return nil, err
	}
	items, _ := body.Field("evaluations")
	switch {
	case items.Kind != model.NullValue && items.Kind != model.ListValue:
		return nil, malformed("evaluations", "must be a list")
	case len(items.List) > maxEvaluations:
		return nil, malformed("evaluations", "must be at most %d, are %d", maxEvaluations, len(items.List))
	}
	semantic, err := readSemantic(body)
	if err != nil {
		return nil, err
	}
	if len(items.List) == 0 {
		return s.evaluate(ctx, store, defaults)
	}
	v, asking, err := s.ask(ctx, store)
	if err != nil {
		return nil, err
	}
	defer v.Close()

	// Items that cannot be read are answered for here; the others are asked together.
	all := make([]decision, len(items.List))
	questions, places := make([]query.Question, 0, len(all)), make([]int, 0, len(all))
	refuse := func(i int, err error) error {
		own, err := s.ownError(ctx, err)
		all[i].Context = &decisionContext{Error: own}
		return err
	}
	for i, item := range items.List {
		var q query.Question
		a, err := readAsked(item, defaults)
		if err == nil {
			q, err = a.question()
		}
		if err != nil {
			s.cfg.Checked(false, err, 0)
			if err := refuse(i, err); err != nil {
				return nil, err
			}
			continue
		}
		questions, places = append(questions, q), append(places, i)
	}
	began := time.Now()
	results, err := asking.CheckAll(ctx, questions)
	if err != nil {
		return nil, err
	}
	each := time.Since(began) / time.Duration(max(len(results), 1))
	for n, r := range results {
		s.cfg.Checked(r.Allowed, r.Err, each)
		if r.Err != nil {
			if err := refuse(places[n], r.Err); err != nil {
				return nil, err
			}
			continue
		}
		all[places[n]].Decision = r.Allowed
	}
	if last := lastOf[semantic]; last != nil {
		all = upTo(all, *last, semantic)
	}
	return struct {
		Evaluations []decision `json:"evaluations"`
	}{all}, nil
}

// upTo returns the decisions up to the first that is last, and says there why it is.
func upTo(all []decision, last bool, reason string) []decision {
	for i := range all {
		if all[i].Decision != last {
			continue
		}
		if all[i].Context == nil {
			all[i].Context = &decisionContext{}
		}
		all[i].Context.Reason = reason
		return all[:i+1]
	}
	return all
}

func readSemantic(body model.Value) (string, error) {
	const field = "options.evaluations_semantic"
	options, err := readObject(body, "options", "options")
	if err != nil {
		return "", err
	}
	v, _ := options.Field("evaluations_semantic")
	if v.Kind == model.NullValue {
		return "execute_all", nil
	}
	if _, ok := lastOf[v.String]; !ok {
		return "", malformed(field, "must be execute_all, deny_on_first_deny or permit_on_first_permit")
	}
	return v.String, nil
}
