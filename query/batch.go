package query

import (
	"cmp"
	"context"
	"slices"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Result is the answer to one question of a batch, or why it has none.
type Result struct {
	Answer
	Err error
}

// CheckAll answers many questions. Questions about one subject with the same given
// share what the evaluator found for them, and all that have the same contextual tuples
// share what was read, so that each costs only what the others have not paid for.
//
// A question's own error, as of Check, is in its result. Each may spend what a single
// one may, and all together what a list may: those that come after that, in the order of
// their asking, fail with a [*model.BudgetError]. The error of CheckAll is one that no
// question is to blame for.
func (a *Asking) CheckAll(ctx context.Context, questions []Question) ([]Result, error) {
	results := make([]Result, len(questions))
	b := &batch{Asking: a, ctx: ctx, left: a.engine.budgets.List}
	givens := make(map[string]int) // by their encoding
	same := make([]int, len(questions))
	order := make([]int, len(questions))
	var key []byte
	for i := range questions {
		order[i] = i
		if g := &questions[i].Given; len(g.Contextual) > 0 || g.Context.Kind != model.NullValue || g.Over.Kind != model.NullValue {
			key = g.append(key[:0])
			n, ok := givens[string(key)]
			if !ok {
				n = len(givens) + 1
				givens[string(key)] = n
			}
			same[i] = n
		}
	}
	// Of one given and subject in a row; their order is otherwise that of the questions.
	slices.SortStableFunc(order, func(i, j int) int {
		s, t := questions[i].Tuple.Subject, questions[j].Tuple.Subject
		return cmp.Or(cmp.Compare(same[i], same[j]), cmp.Compare(s.Type, t.Type), cmp.Compare(s.Relation, t.Relation), cmp.Compare(s.ID, t.ID))
	})
	defer b.close()
	given := -1
	for _, i := range order {
		if same[i] != given {
			given = same[i]
			b.give(&questions[i].Given)
		}
		results[i] = b.check(questions[i].Tuple)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// A batch is the state of CheckAll.
type batch struct {
	*Asking
	ctx   context.Context
	left  model.Budget // for all that are still to be asked
	scope model.Scope
	err   error // of what is given
	asker *model.Asker
	about tuple.Subject
}

func (b *batch) give(g *Given) {
	b.close()
	b.scope, b.err = b.Asking.scope(b.ctx, g, b.engine.budgets.Check)
	if b.err == nil {
		b.scope.Reader = newRecall(b.scope.Reader)
	}
}

func (b *batch) close() {
	if b.asker != nil {
		b.asker.Close()
		b.asker = nil
	}
}

func (b *batch) check(t tuple.Tuple) (r Result) {
	if r.Err = b.known(t); r.Err != nil {
		return r
	}
	if r.Err = b.err; r.Err != nil {
		return r
	}
	if b.left.Rows <= 0 || b.left.Time <= 0 {
		r.Err = b.exhausted()
		return r
	}
	if b.asker == nil || b.about != t.Subject {
		b.close()
		b.asker, b.about = b.model.NewAsker(b.scope, t.Subject), t.Subject
	}
	b.clock = clock{ctx: b.ctx, limit: min(b.engine.budgets.Check.Time, b.left.Time)}
	r.Allowed, r.Spent, r.Err = b.asker.Check(t.Object, t.Relation, min(b.engine.budgets.Check.Rows, b.left.Rows))
	b.left.Rows -= r.Spent.Rows
	b.left.Time -= b.clock.elapsed()
	return r
}

// exhausted is the error of a question for which the others have left nothing.
func (b *batch) exhausted() error {
	all := b.engine.budgets.List
	e := &model.BudgetError{What: "rows", Limit: all.Rows, Spent: model.Spent{Rows: all.Rows - b.left.Rows}}
	if b.left.Time <= 0 {
		e.What, e.Limit = "time", int(all.Time)
	}
	return e
}
