package query_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/querytest"
)

var (
	oracleSeed = flag.Uint64("seed", 0, "seed of the first random history; 0: another one every time")
	histories  = flag.Uint64("histories", 8, "how many random histories to compare")
)

// A past is what a store should be at a revision.
type past struct {
	revision ledger.Revision
	model    *model.Model
	grants   map[tuple.Tuple]model.Grant
}

// A chronicle is a random history in a real index, with what the store should be at
// each of its revisions.
type chronicle struct {
	*world
	rand   *rand.Rand
	engine *query.Engine
	past   []past
	asked  map[string]int // answers by kind
	turn   int            // of the page sizes
}

// command returns a step as a command, and what the store should be after it.
func (c *chronicle) command(step querytest.Step) *ledger.Command {
	now := past{grants: make(map[tuple.Tuple]model.Grant), revision: 2} // created, and its first model
	if len(c.past) > 0 {
		now = c.past[len(c.past)-1]
	}
	now.revision++
	now.grants = maps.Clone(now.grants)
	cmd := &ledger.Command{Store: c.store}
	if step.Model != nil {
		now.model = step.Model
		cmd.Changes = append(cmd.Changes, ledger.Change{Kind: ledger.WriteModel, Model: ledger.ModelSource{
			ID: ledger.NewID(), Kind: ledger.SourceJSON, Source: []byte("{}"), Compiled: model.AppendModel(nil, step.Model)}})
	}
	for _, t := range slices.SortedFunc(maps.Keys(step.Grant), tuple.Tuple.Compare) {
		now.grants[t] = step.Grant[t]
		cmd.Changes = append(cmd.Changes, ledger.Change{Kind: ledger.Grant, Tuple: t, Grant: step.Grant[t]})
	}
	for _, t := range step.Revoke {
		delete(now.grants, t)
		cmd.Changes = append(cmd.Changes, ledger.Change{Kind: ledger.Revoke, Tuple: t})
	}
	c.past = append(c.past, now)
	return cmd
}

// differs asks everything at a revision (0: the newest), sometimes with contextual tuples
// and context, and says which answer is not as of want, or "".
func (c *chronicle) differs(revision ledger.Revision, want past) string {
	c.t.Helper()
	w := &querytest.World{Model: want.model, Grants: want.grants, Request: querytest.NewRequest(c.rand)}
	contextual := c.contextual(w)
	v, err := c.x.View(c.store, revision)
	if err != nil {
		c.t.Fatal(err)
	}
	defer v.Close()
	asking, err := c.engine.Ask(v, ledger.ID{}, querytest.Now)
	if err != nil {
		c.t.Fatal(err)
	}
	facts := w.Facts()
	explained := querytest.NewExplained(w)
	given := query.Given{Contextual: contextual, Context: w.Request}
	about := fmt.Sprintf("revision %d, with %d contextual tuples", want.revision, len(contextual))
	for t, fact := range facts {
		got, err := asking.Check(context.Background(), query.Question{Tuple: t, Given: given})
		text, err := answerText(got.Allowed, err)
		if err != nil {
			return fmt.Sprintf("%s: %s: %v", about, t, err)
		}
		if text != fact.Value.String() && !slices.Contains(fact.Causes, text) {
			return fmt.Sprintf("%s: %s: the answer is %s; the oracle says %v %q\n%s", about, t, text, fact.Value, fact.Causes, w)
		}
		c.asked[text]++
		if c.rand.IntN(16) > 0 {
			continue
		}
		x, explainErr := asking.Explain(context.Background(), query.Question{Tuple: t, Given: given})
		if explainErr != nil {
			return fmt.Sprintf("%s: %s explained: %v", about, t, explainErr)
		}
		if text := explained.Wrong(t, x.Explanation); text != "" {
			return fmt.Sprintf("%s: %s\n%s", about, text, w)
		}
		if told, err := answerText(x.Verdict == model.Holds, x.Err); told != text || err != nil {
			return fmt.Sprintf("%s: %s explained is %s, %v; Check says %s", about, t, told, err, text)
		}
		c.asked["explained"]++
	}
	for _, differs := range []func(*query.Asking, *querytest.World, map[tuple.Tuple]querytest.Fact, query.Given) string{
		c.batchDiffers, c.listsDiffer, c.relationsDiffer,
	} {
		if text := differs(asking, w, facts, given); text != "" {
			return about + ": " + text + "\n" + w.String()
		}
	}
	return ""
}

// answerText returns an answer as facts name it, or an error that no fact can cause.
func answerText(allowed bool, err error) (string, error) {
	var missing *dsl.MissingError
	var cycle *model.CycleError
	switch {
	case errors.As(err, &missing):
		return missing.Condition, nil
	case errors.As(err, &cycle):
		return querytest.Cycle, nil
	case err != nil:
		return "", err
	case allowed:
		return "allowed", nil
	}
	return "denied", nil
}

// batchDiffers asks all questions in one batch.
func (c *chronicle) batchDiffers(asking *query.Asking, _ *querytest.World, facts map[tuple.Tuple]querytest.Fact, given query.Given) string {
	var questions []query.Question
	for t := range facts {
		questions = append(questions, query.Question{Tuple: t, Given: given})
	}
	results, err := asking.CheckAll(context.Background(), questions)
	if err != nil {
		return err.Error()
	}
	for i, r := range results {
		fact := facts[questions[i].Tuple]
		text, err := answerText(r.Allowed, r.Err)
		if err != nil {
			return err.Error()
		}
		if text != fact.Value.String() && !slices.Contains(fact.Causes, text) {
			return fmt.Sprintf("in a batch: %s: the answer is %s; the oracle says %v %q", questions[i].Tuple, text, fact.Value, fact.Causes)
		}
		c.asked["in a batch"]++
	}
	return ""
}

// pageSizes are those at which lists are made, one after the other; 0: in one.
var pageSizes = []int{0, 1, 2, 3, 100}

// listsDiffer makes every list and every tree.
func (c *chronicle) listsDiffer(asking *query.Asking, w *querytest.World, facts map[tuple.Tuple]querytest.Fact, given query.Given) string {
	a := querytest.NewAnswers(facts)
	everyone := w.Everyone()
	expanded := make(map[tuple.Tuple]bool) // without a subject
	for l := range a.Lists {
		size := pageSizes[c.turn%len(pageSizes)]
		c.turn++
		list, err := listed(size, func(after string) iter.Seq2[model.Item, error] {
			if l.Type != "" {
				return asking.ListObjects(context.Background(), query.ObjectsQuestion{Subject: l.Subject, Relation: l.Relation, Type: l.Type, Given: given}, after)
			}
			return asking.ListSubjects(context.Background(), query.SubjectsQuestion{Kind: l.Kind, Relation: l.Relation, Object: l.Object, Given: given}, after)
		})
		var invalid *query.InvalidError
		if errors.As(err, &invalid) && invalid.Field == "kind" { // nobody of the kind could hold it
			err = nil
		}
		if err != nil {
			return fmt.Sprintf("%+v in pages of %d: %v", l, size, err)
		}
		if text := a.Wrong(l, list); text != "" {
			return fmt.Sprintf("in pages of %d: %s", size, text)
		}
		if key := (tuple.Tuple{Relation: l.Relation, Object: l.Object}); l.Type == "" && !expanded[key] {
			expanded[key] = true
			tree, err := asking.Expand(context.Background(), l.Object, l.Relation, 1+c.turn%4, given)
			if err != nil {
				return err.Error()
			}
			if text := a.WrongTree(tree, everyone); text != "" {
				return text
			}
		}
	}
	c.asked["in lists"] += a.Compared
	return ""
}

// listed makes a whole list of pages of a size.
func listed(size int, list func(after string) iter.Seq2[model.Item, error]) (all []querytest.Listed, err error) {
	for after, more := "", true; more; {
		n := 0
		more = false
		for item, err := range list(after) {
			if err != nil {
				return nil, err
			}
			if n++; size > 0 && n > size {
				more = true
				break
			}
			l := querytest.Listed{ID: item.ID, Excluded: item.Excluded}
			if item.Err != nil {
				if l.Cause, err = answerText(false, item.Err); err != nil {
					return nil, err
				}
			}
			all, after = append(all, l), item.ID
		}
	}
	return all, nil
}

// relationsDiffer asks for the relations that each subject holds on each object.
func (c *chronicle) relationsDiffer(asking *query.Asking, w *querytest.World, facts map[tuple.Tuple]querytest.Fact, given query.Given) string {
	for _, o := range w.Everything() {
		for _, s := range w.Everyone() {
			held, err := asking.ListRelations(context.Background(), s, o, nil, given)
			if err != nil {
				return err.Error()
			}
			said := make(map[string]string)
			for _, h := range held {
				if said[h.Relation], err = answerText(true, h.Err); err != nil {
					return err.Error()
				}
			}
			typ, _ := w.Model.Type(o.Type)
			for _, r := range typ.Relations {
				fact := facts[tuple.Tuple{Object: o, Relation: r.Name, Subject: s}]
				text := cmp.Or(said[r.Name], "denied")
				if text != fact.Value.String() && !slices.Contains(fact.Causes, text) {
					return fmt.Sprintf("relations of %s on %s: of %s it says %s; the oracle says %v %q", s, o, r.Name, text, fact.Value, fact.Causes)
				}
				c.asked["in relations"]++
			}
		}
	}
	return ""
}

// contextual adds some tuples to the world, half of the time, and returns them.
func (c *chronicle) contextual(w *querytest.World) (added []query.Contextual) {
	w.Grants = maps.Clone(w.Grants)
	if c.rand.IntN(2) == 0 {
		return nil
	}
	for range 1 + c.rand.IntN(6) {
		t, g := querytest.NewGrant(c.rand, w.Model)
		if slices.ContainsFunc(added, func(c query.Contextual) bool { return c.Tuple == t }) {
			continue
		}
		g.NotBefore, g.ExpiresAt = 0, 0
		one := query.Contextual{Tuple: t, Condition: g.Condition}
		if g.Context != nil {
			var err error
			if one.Context, err = model.DecodeContext(g.Context); err != nil {
				c.t.Fatal(err)
			}
		}
		added = append(added, one)
		w.Grants[t] = g
	}
	return added
}

// keepWriting grants and revokes in the store until the returned function is called.
func (c *chronicle) keepWriting() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	r, m := rand.New(rand.NewPCG(1, 1)), c.past[len(c.past)-1].model
	go func() { // ends with stop
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			t, g := querytest.NewGrant(r, m)
			g.NotBefore, g.ExpiresAt = 0, 0
			change := ledger.Change{Kind: ledger.Grant, Tuple: t, Grant: g}
			if n%3 == 0 {
				change = ledger.Change{Kind: ledger.Revoke, Tuple: t}
			}
			if err := c.try(&ledger.Command{Store: c.store, Changes: []ledger.Change{change}}); err != nil {
				c.t.Errorf("a write beside the questions: %v", err)
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

// TestOracleOverHistories folds random histories into a real index and holds every
// answer against the oracle (of checks, batches, lists at five page sizes, relations and
// trees): at the head after every batch, and later at every revision, while a writer
// goes on.
func TestOracleOverHistories(t *testing.T) {
	const steps = 40
	seed := *oracleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("histories from seed %d; -args -seed %d runs them again", seed, seed)
	asked := make(map[string]int)
	for n := range *histories {
		t.Run(fmt.Sprint(seed+n), func(t *testing.T) {
			c := &chronicle{world: newWorld(t, source), rand: rand.New(rand.NewPCG(seed+n, 2)), engine: query.NewEngine(query.Budgets{}), asked: asked}
			history := querytest.NewHistory(seed+n, steps)
			for len(history) > 0 {
				var batch []*ledger.Command
				for range min(len(history), 1+c.rand.IntN(5)) {
					batch = append(batch, c.command(history[0]))
					history = history[1:]
				}
				c.fold(batch...)
				if text := c.differs(0, c.past[len(c.past)-1]); text != "" {
					t.Fatal("head: " + text)
				}
			}
			stop := c.keepWriting()
			defer stop()
			for _, i := range c.rand.Perm(len(c.past)) {
				if text := c.differs(c.past[i].revision, c.past[i]); text != "" {
					t.Fatal(text)
				}
			}
			// Were the view of a wrong revision, it would be noticed.
			for i := 1; c.differs(c.past[i-1].revision, c.past[i]) == ""; i++ {
				if i == len(c.past)-1 {
					t.Fatal("every revision is as the one after it")
				}
			}
		})
	}
	t.Logf("answers: %v", asked)
	for what, least := range map[string]int{"denied": 2_500, "allowed": 250, querytest.Cycle: 2,
		"in a batch": 2_500, "explained": 150, "in lists": 25_000, "in relations": 2_500} { // of one history
		if least *= int(*histories); asked[what] < least {
			t.Errorf("only %d answers of %d histories are: %s; want %d or more", asked[what], *histories, what, least)
		}
	}
	if *histories >= 8 && (asked["flag"] == 0 || asked["mark"] == 0) {
		t.Error("no answer lacks a condition's parameter")
	}
}
