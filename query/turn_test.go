package query_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/querytest"
)

// An annals is a random history whose revisions often share a time, and whose grants
// expire and begin to count between them and just at them.
type annals struct {
	*chronicle
	times   map[ledger.Revision]int64
	request model.Value
}

// newAnnals folds n random steps.
func newAnnals(t *testing.T, seed uint64, n int) *annals {
	r := rand.New(rand.NewPCG(seed, 3))
	a := &annals{
		chronicle: &chronicle{world: newWorld(t, source), rand: r, engine: query.NewEngine(query.Budgets{})},
		times:     make(map[ledger.Revision]int64), request: querytest.NewRequest(r),
	}
	v, err := a.x.View(a.store, 0)
	if err != nil {
		t.Fatal(err)
	}
	first := past{revision: v.Revision(), grants: make(map[tuple.Tuple]model.Grant)}
	if first.model, err = v.Model(ledger.ID{}); err != nil {
		t.Fatal(err)
	}
	v.Close()
	a.past, a.times[first.revision] = []past{first}, a.now
	a.wait = func() int64 { return r.Int64N(3) }
	for _, step := range querytest.NewHistory(seed, n) {
		for u, g := range step.Grant {
			g.NotBefore, g.ExpiresAt = 0, 0
			switch r.IntN(6) { // the command itself is at most two later
			case 0, 1:
				g.ExpiresAt = a.now + 3 + r.Int64N(6)
			case 2:
				g.NotBefore = a.now + r.Int64N(6)
			case 3:
				g.NotBefore = a.now + r.Int64N(4)
				g.ExpiresAt = max(g.NotBefore, a.now+2) + 1 + r.Int64N(4)
			}
			step.Grant[u] = g
		}
		a.fold(a.command(step))
		a.times[a.past[len(a.past)-1].revision] = a.now
	}
	return a
}

// A point is a moment of the store, with all answers.
type point struct {
	revision ledger.Revision
	clock    int64
	values   map[tuple.Tuple]querytest.Value // denied if it is not there
}

// values asks the oracle everything, under a past's model and grants at a time.
func (a *annals) values(p past, clock int64, contextual []query.Contextual) map[tuple.Tuple]querytest.Value {
	w := &querytest.World{Model: p.model, Grants: maps.Clone(p.grants), Request: a.request}
	for _, c := range contextual {
		g := model.Grant{Condition: c.Condition}
		if c.Context.Kind != model.NullValue {
			g.Context = model.AppendContext(nil, c.Context)
		}
		w.Grants[c.Tuple] = g
	}
	state := w.State()
	state.Time = clock
	all := make(map[tuple.Tuple]querytest.Value)
	for t, fact := range querytest.Facts(state, w.Everything(), w.Everyone()) {
		all[t] = fact.Value
	}
	return all
}

// points returns every moment up to a revision and a time, oldest first: each revision,
// and each moment at which a grant that ever was begins or ceases to count.
func (a *annals) points(head past, until int64, pinned *model.Model, contextual []query.Contextual) (all []point) {
	edges := make(map[int64]bool)
	for _, p := range a.past {
		for _, g := range p.grants {
			edges[g.NotBefore], edges[g.ExpiresAt] = true, true
		}
	}
	for i, p := range a.past {
		if p.revision > head.revision {
			break
		}
		if pinned != nil {
			p.model = pinned
		}
		all = append(all, point{p.revision, a.times[p.revision], a.values(p, a.times[p.revision], contextual)})
		for _, e := range slices.Sorted(maps.Keys(edges)) {
			ends := p.revision == head.revision && e <= until || p.revision < head.revision && e < a.times[a.past[i+1].revision]
			if e > a.times[p.revision] && ends {
				all = append(all, point{p.revision, e, a.values(p, e, contextual)})
			}
		}
	}
	return all
}

// wrongTurn says how a turn is not what the moments up to the last of points say, or "".
func (a *annals) wrongTurn(points []point, q tuple.Tuple, contextual []query.Contextual, pinned *model.Model, got query.Turn) string {
	now := points[len(points)-1].values[q]
	i := len(points) - 1
	for i >= 0 && points[i].values[q] == now {
		i--
	}
	verdicts := map[querytest.Value]model.Verdict{querytest.Allowed: model.Holds, querytest.Denied: model.HoldsNot, querytest.Failed: model.Undecided}
	want := query.Turn{Verdict: verdicts[now], Cause: query.Never}
	var by past // the state with the tuple that turned it
	switch {
	case i < 0 && (now == querytest.Denied || pinned != nil):
		// before its first model, or as far back as there is anything, the same
	case i < 0:
		i = -1
		want.Before = model.HoldsNot
		fallthrough
	default:
		if i >= 0 {
			want.Before = verdicts[points[i].values[q]]
		}
		turned := points[i+1]
		want.Time, want.Command.Revision = turned.clock, turned.revision
		at := slices.IndexFunc(a.past, func(p past) bool { return p.revision == turned.revision })
		edge := turned.clock > a.times[turned.revision]
		by = a.past[at]
		if !edge && at > 0 && a.times[a.past[at-1].revision] < turned.clock {
			before := a.past[at-1]
			if pinned != nil {
				before.model = pinned
			}
			if a.values(before, turned.clock, contextual)[q] == now {
				edge, by = true, a.past[at-1]
			}
		}
		want.Cause = query.ByCommand
		if edge {
			g := by.grants[got.Tuple]
			want.Command.Revision = 0
			for _, p := range a.past { // that granted it as it is in by
				if p.revision > by.revision {
					break
				}
				if h, ok := p.grants[got.Tuple]; !ok || !h.Equal(g) {
					want.Command.Revision = 0
				} else if want.Command.Revision == 0 {
					want.Command.Revision = p.revision
				}
			}
			switch turned.clock {
			case g.ExpiresAt:
				want.Cause = query.ByExpiry
			case g.NotBefore:
				want.Cause = query.ByStart
			default:
				return fmt.Sprintf("the tuple %s has no edge at %d", got.Tuple, turned.clock-start)
			}
			break
		}
		changed := got.Tuple == (tuple.Tuple{}) && (at == 0 || a.past[at-1].model != by.model)
		if at > 0 && !changed {
			before, had := a.past[at-1].grants[got.Tuple]
			after, has := by.grants[got.Tuple]
			changed = (had != has || !before.Equal(after)) && got.Revoked == !has
		}
		if !changed {
			return fmt.Sprintf("%s was not changed by revision %d", got.Tuple, turned.revision)
		}
	}
	if got.Verdict != want.Verdict || got.Before != want.Before || got.Cause != want.Cause || got.Time != want.Time || got.Command.Revision != want.Command.Revision || got.Timed {
		return fmt.Sprintf("the turn is %+v at %d, want verdict %d, before %d, cause %d, at %d, by revision %d",
			got, got.Time-start, want.Verdict, want.Before, want.Cause, want.Time-start, want.Command.Revision)
	}
	return ""
}

// TestOracleTurns asks since when every answer at moments of random histories has been
// what it is, and compares with the oracle's answers at every moment before.
func TestOracleTurns(t *testing.T) {
	seed := *oracleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("histories from seed %d; -args -seed %d runs them again", seed, seed)
	causes := make(map[query.Cause]int)
	for n := range *histories {
		a := newAnnals(t, seed+n, 30)
		for _, i := range append(a.rand.Perm(len(a.past))[:2], len(a.past)-1) {
			head := a.past[i]
			until := a.times[head.revision]
			if i == len(a.past)-1 || a.rand.IntN(2) == 0 {
				until += a.rand.Int64N(8)
			}
			var contextual []query.Contextual
			if a.rand.IntN(3) == 0 {
				contextual = a.contextual(&querytest.World{Model: head.model, Grants: map[tuple.Tuple]model.Grant{}})
			}
			var id ledger.ID
			var pinned *model.Model
			v, err := a.x.View(a.store, head.revision)
			if err != nil {
				t.Fatal(err)
			}
			if a.rand.IntN(4) == 0 {
				id, pinned = v.NewestModel(), head.model
			}
			asking, err := a.engine.Ask(v, id, until)
			if err != nil {
				t.Fatal(err)
			}
			points := a.points(head, until, pinned, contextual)
			for _, q := range slices.SortedFunc(maps.Keys(points[len(points)-1].values), tuple.Tuple.Compare) {
				got, err := asking.Turn(context.Background(), query.Question{Tuple: q, Given: query.Given{Contextual: contextual, Context: a.request}})
				if err != nil {
					t.Fatalf("seed %d: Turn(%s) at revision %d: %v", seed+n, q, head.revision, err)
				}
				if text := a.wrongTurn(points, q, contextual, pinned, got); text != "" {
					t.Fatalf("seed %d: Turn(%s) at revision %d, time %d, %d contextual tuples, pinned %v: %s; the oracle says otherwise", seed+n, q, head.revision, until-start, len(contextual), pinned != nil, text)
				}
				causes[got.Cause]++
			}
			v.Close()
		}
	}
	t.Logf("causes: %v", causes)
	for cause, least := range map[query.Cause]int{query.ByCommand: 30, query.ByExpiry: 2, query.ByStart: 1, query.Never: 100} {
		if n := causes[cause]; *histories >= 8 && n < least*int(*histories) { // of a few, chance decides
			t.Errorf("only %d turns of %d histories have the cause %d; want %d or more", n, *histories, cause, least*int(*histories))
		}
	}
}

// TestTurnOver: what a question gives over stored context is in force at all moments.
func TestTurnOver(t *testing.T) {
	w := newWorld(t, source)
	w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{
		{Kind: ledger.Grant, Tuple: parse(t, "doc:plan#editor@user:dan"), Grant: model.Grant{Condition: "office_hours", Context: model.AppendContext(nil, object("opens", 9))}},
	}})
	q := query.Question{Tuple: parse(t, "doc:plan#editor@user:dan"), Given: query.Given{Context: object("hour", 8), Over: object("opens", 1)}}
	got, err := w.ask(query.NewEngine(query.Budgets{}), start+100).Turn(context.Background(), q)
	if err != nil || got.Verdict != model.Holds || got.Before != model.HoldsNot || got.Command.Revision != 3 {
		t.Errorf("Turn = %+v, %v, want allowed since revision 3", got, err)
	}
}
