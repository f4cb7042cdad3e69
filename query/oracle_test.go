package query_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/querytest"
)

var oracleSeed = flag.Uint64("seed", 0, "seed of the first random history; 0: another one every time")

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
	for t, fact := range w.Facts() {
		got, err := asking.Check(context.Background(), query.Question{Tuple: t, Given: query.Given{Contextual: contextual, Context: w.Request}})
		var missing *dsl.MissingError
		var cycle *model.CycleError
		text := "denied"
		switch {
		case errors.As(err, &missing):
			text = missing.Condition
		case errors.As(err, &cycle):
			text = querytest.Cycle
		case err != nil:
			return fmt.Sprintf("revision %d: %s: %v", want.revision, t, err)
		case got.Allowed:
			text = "allowed"
		}
		if text != fact.Value.String() && !slices.Contains(fact.Causes, text) {
			return fmt.Sprintf("revision %d, with %d contextual tuples: %s: the answer is %s; the oracle says %v %q\n%s",
				want.revision, len(contextual), t, text, fact.Value, fact.Causes, w)
		}
		c.asked[text]++
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

// TestOracleOverHistories folds random histories into a real index and holds every
// answer against the oracle: at the head after every batch, and later at every
// revision.
func TestOracleOverHistories(t *testing.T) {
	const histories, steps = 8, 40
	seed := *oracleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("histories from seed %d; -args -seed %d runs them again", seed, seed)
	asked := make(map[string]int)
	for n := range uint64(histories) {
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
	for what, least := range map[string]int{"denied": 20_000, "allowed": 2_000, querytest.Cycle: 20, "flag": 1, "mark": 1} {
		if asked[what] < least {
			t.Errorf("only %d answers of %d histories are: %s; want %d or more", asked[what], histories, what, least)
		}
	}
}
