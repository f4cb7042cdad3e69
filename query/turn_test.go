package query_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
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

	alone, together int // turns by a tuple of several that makes the difference alone, and not
}

// newAnnals folds n random steps; if busy, with many grants and revokes between them that
// change nothing for anybody who is asked about: to subjects that nobody is or is in.
func newAnnals(t *testing.T, seed uint64, n int, busy bool) *annals {
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
		for _, u := range slices.SortedFunc(maps.Keys(step.Grant), tuple.Tuple.Compare) {
			g := step.Grant[u]
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
		for m := a.past[len(a.past)-1].model; busy && r.IntN(3) > 0; {
			u, g := querytest.NewGrant(r, m)
			if u.Subject.ID == tuple.Wildcard {
				continue
			}
			u.Subject.ID = "stranger"
			step = querytest.Step{Grant: map[tuple.Tuple]model.Grant{u: {Condition: g.Condition, Context: g.Context}}}
			if _, ok := a.past[len(a.past)-1].grants[u]; ok {
				step = querytest.Step{Revoke: []tuple.Tuple{u}}
			}
			a.fold(a.command(step))
			a.times[a.past[len(a.past)-1].revision] = a.now
		}
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
	i, text := a.wrongMoment(points, q, contextual, pinned, got, func(v querytest.Value) bool { return v == now })
	switch {
	case text != "":
		return text
	case now != querytest.Denied || got.Before != model.Undecided:
		if got.Held != nil {
			return "it is told when the relation was last held, though it follows"
		}
		return ""
	case got.Held == nil:
		return "it is not told when the relation was last held"
	}
	if _, text = a.wrongMoment(points[:i+1], q, contextual, pinned, *got.Held, func(v querytest.Value) bool { return v != querytest.Allowed }); text != "" {
		return "last held: " + text
	}
	return ""
}

// wrongMoment says how a turn is not what the moments up to the last of points say, or "",
// where alike says which answers are. It returns the last of the points before the turn, or -1.
func (a *annals) wrongMoment(points []point, q tuple.Tuple, contextual []query.Contextual, pinned *model.Model, got query.Turn, alike func(querytest.Value) bool) (int, string) {
	i := len(points) - 1
	for i >= 0 && alike(points[i].values[q]) {
		i--
	}
	last, now := i, points[i+1].values[q]
	verdicts := map[querytest.Value]model.Verdict{querytest.Allowed: model.Holds, querytest.Denied: model.HoldsNot, querytest.Failed: model.Undecided}
	want := query.Turn{Verdict: verdicts[now], Cause: query.Never}
	var by past // the state with the tuple that turned it
	switch {
	case i < 0 && (now == querytest.Denied || pinned != nil || alike(querytest.Denied)):
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
			if alike(a.values(before, turned.clock, contextual)[q]) {
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
				return last, fmt.Sprintf("the tuple %s has no edge at %d", got.Tuple, turned.clock-start)
			}
			if text := a.wrongTuple(by, edgeless(by.grants, turned.clock), turned.clock, q, contextual, pinned, got.Tuple, alike); text != "" {
				return last, text
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
			return last, fmt.Sprintf("%s was not changed by revision %d", got.Tuple, turned.revision)
		}
		if got.Tuple != (tuple.Tuple{}) {
			if text := a.wrongTuple(by, a.past[at-1].grants, turned.clock, q, contextual, pinned, got.Tuple, alike); text != "" {
				return last, text
			}
		}
	}
	if want.Cause == query.Never {
		want.Verdict = got.Verdict // of what was never held, any but held
	}
	if got.Verdict != want.Verdict || got.Before != want.Before || got.Cause != want.Cause || got.Time != want.Time || got.Command.Revision != want.Command.Revision || got.Timed {
		return last, fmt.Sprintf("the turn is %+v at %d, want verdict %d, before %d, cause %d, at %d, by revision %d",
			got, got.Time-start, want.Verdict, want.Before, want.Cause, want.Time-start, want.Command.Revision)
	}
	return last, ""
}

// edgeless returns grants as they were just before a moment: without what begins then, and
// with what expires then.
func edgeless(grants map[tuple.Tuple]model.Grant, at int64) map[tuple.Tuple]model.Grant {
	before := make(map[tuple.Tuple]model.Grant)
	for t, g := range grants {
		if g.ExpiresAt == at {
			g.ExpiresAt = 0
		}
		if g.NotBefore != at {
			before[t] = g
		}
	}
	return before
}

// wrongTuple says how a tuple is not the one to name for the answer in a state at a time, of
// those that are not as they were before, or "". With its grant alone put back the answer
// must be another, if there is such a tuple; or else it must at least not count alike.
func (a *annals) wrongTuple(now past, before map[tuple.Tuple]model.Grant, clock int64, q tuple.Tuple, contextual []query.Contextual, pinned *model.Model, got tuple.Tuple, alike func(querytest.Value) bool) string {
	if pinned != nil {
		now.model = pinned
	}
	active := func(grants map[tuple.Tuple]model.Grant, t tuple.Tuple) (model.Grant, bool) {
		g, ok := grants[t]
		return model.Grant{Condition: g.Condition, Context: g.Context}, ok && g.NotBefore <= clock && (g.ExpiresAt == 0 || clock < g.ExpiresAt)
	}
	var changed []tuple.Tuple
	both := maps.Clone(now.grants)
	maps.Copy(both, before)
	for _, t := range slices.SortedFunc(maps.Keys(both), tuple.Tuple.Compare) {
		is, counts := active(now.grants, t)
		was, counted := active(before, t)
		if counts != counted || counts && !is.Equal(was) {
			changed = append(changed, t)
		}
	}
	if !slices.Contains(changed, got) {
		return fmt.Sprintf("%s counts as it did before", got)
	}
	if len(changed) == 1 {
		return ""
	}
	alone := func(t tuple.Tuple) bool {
		back := now
		back.grants = maps.Clone(now.grants)
		delete(back.grants, t)
		if g, ok := before[t]; ok {
			back.grants[t] = g
		}
		return !alike(a.values(back, clock, contextual)[q])
	}
	if alone(got) {
		a.alone++
		return ""
	}
	for _, t := range changed {
		if alone(t) {
			return fmt.Sprintf("%s makes no difference alone, but %s does", got, t)
		}
	}
	a.together++
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
	causes, held, alone, together := make(map[query.Cause]int), 0, 0, 0
	for n := range *histories {
		a := newAnnals(t, seed+n, 30, n%3 == 2)
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
				if got.Held != nil && got.Held.Cause != query.Never {
					held++
				}
			}
			v.Close()
		}
		alone, together = alone+a.alone, together+a.together
	}
	t.Logf("causes: %v; last held before there was no answer: %d; of several tuples one alone: %d, none alone: %d", causes, held, alone, together)
	for cause, least := range map[query.Cause]int{query.ByCommand: 30, query.ByExpiry: 2, query.ByStart: 1, query.Never: 100} {
		if n := causes[cause]; *histories >= 8 && n < least*int(*histories) { // of a few, chance decides
			t.Errorf("only %d turns of %d histories have the cause %d; want %d or more", n, *histories, cause, least*int(*histories))
		}
	}
}

// TestTurnSeveral: of several tuples that change at once, the one is named that makes the
// answer what it is.
func TestTurnSeveral(t *testing.T) {
	type terms = model.Grant
	grant := func(text string, g terms) ledger.Change {
		return ledger.Change{Kind: ledger.Grant, Tuple: parse(t, text), Grant: g}
	}
	revoke := func(text string) ledger.Change { return ledger.Change{Kind: ledger.Revoke, Tuple: parse(t, text)} }
	const editor, banned, trained, member = "doc:a#editor@user:x", "doc:a#banned@user:x", "doc:a#trained@user:x", "group:g#member@user:x"
	type command = []ledger.Change
	for _, tt := range []struct {
		name     string
		commands []command // the first is revision 3, at +3
		ask      string
		want     string
	}{
		{"granted again and banned", []command{{grant(editor, terms{})}, {grant(editor, terms{Owner: "o"}), grant(banned, terms{})}}, "doc:a#viewer@user:x",
			"holds not, before holds, by command +4 @4 +4 root  " + banned},
		{"granted again and banned no more", []command{{grant(editor, terms{}), grant(banned, terms{})}, {grant(editor, terms{Owner: "o"}), revoke(banned)}}, "doc:a#viewer@user:x",
			"holds, before holds not, by command +4 @4 +4 root  " + banned + " revoked"},
		{"granted until the past, and banned", []command{{grant(editor, terms{})}, {grant(editor, terms{ExpiresAt: start + 6}), grant(banned, terms{})}}, "doc:a#viewer@user:x",
			"holds not, before holds, by command +4 @4 +4 root  " + banned},
		{"for later, and revoked what had no answer", []command{{grant(editor, terms{Condition: "office"})}, {grant("doc:a#open@user:*", terms{NotBefore: start + 1000}), revoke(editor)}}, "doc:a#viewer@user:x",
			"holds not, before undecided, by command +4 @4 +4 root  " + editor + " revoked\nheld: holds not, before ?, by never"},
		{"both needed", []command{{grant(trained, terms{}), grant(editor, terms{}), grant("doc:a#editor@user:y", terms{})}}, "doc:a#signer@user:x",
			"holds, before holds not, by command +3 @3 +3 root  " + trained},
		{"two ways, to others too", []command{{grant("group:g#member@user:x", terms{}), grant("group:h#member@user:x", terms{})},
			{grant("doc:a#editor@group:a#member", terms{}), grant("doc:a#editor@group:g#member", terms{}), grant("doc:a#editor@group:h#member", terms{}), grant("doc:a#editor@group:i#member", terms{})}}, "doc:a#editor@user:x",
			"holds, before holds not, by command +4 @4 +4 root  doc:a#editor@group:h#member"},
		{"two ways, and one that is needed", []command{{grant("doc:a#editor@group:g#member", terms{}), grant("doc:a#editor@group:h#member", terms{})},
			{grant(member, terms{}), grant("group:h#member@user:x", terms{}), grant(trained, terms{})}}, "doc:a#signer@user:x",
			"holds, before holds not, by command +4 @4 +4 root  " + trained},
		{"one ends, the other begins, and banned", []command{{grant(editor, terms{ExpiresAt: start + 5}), grant("doc:a#open@user:*", terms{NotBefore: start + 5}), grant(banned, terms{NotBefore: start + 5})}}, "doc:a#viewer@user:x",
			"holds not, before holds, by start +5 @3 +3 root  " + banned},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, explainSource)
			for _, c := range tt.commands {
				w.fold(&ledger.Command{Store: w.store, Changes: c})
			}
			got, err := w.ask(query.NewEngine(query.Budgets{}), start+9).Turn(context.Background(), query.Question{Tuple: parse(t, tt.ask)})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if turned(&b, &got); b.String() != tt.want {
				t.Errorf("Turn(%s) is\n%s\nwant\n%s", tt.ask, &b, tt.want)
			}
		})
	}
}

// TestTurnDeep: at the moment just before, the way to a group is too long; over many moments
// a shorter one was among them, so that all are denials together.
func TestTurnDeep(t *testing.T) {
	w := newWorld(t, explainSource)
	w.grant("doc:a#editor@group:g#member", "doc:a#editor@group:h#member", "group:h#member@group:g#member", "group:g#member@group:g#member")
	w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{{Kind: ledger.Revoke, Tuple: parse(t, "doc:a#editor@group:g#member")}}})
	w.grant("doc:a#editor@user:x")
	a := w.ask(query.NewEngine(query.Budgets{Check: model.Budget{Depth: 2}}), start+9)
	got, err := a.Turn(context.Background(), query.Question{Tuple: parse(t, "doc:a#editor@user:x")})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if turned(&b, &got); b.String() != "holds, before undecided, by command +5 @5 +5 root  doc:a#editor@user:x" {
		t.Errorf("Turn is %s", &b)
	}
}

// TestTurnBudget: whatever it may spend, what was found out is told.
func TestTurnBudget(t *testing.T) {
	w := newWorld(t, explainSource)
	editor := parse(t, "doc:a#editor@user:x")
	for _, c := range []ledger.Change{
		{Kind: ledger.Grant, Tuple: editor}, {Kind: ledger.Revoke, Tuple: editor},
		{Kind: ledger.Grant, Tuple: editor, Grant: model.Grant{Condition: "office"}}, {Kind: ledger.Revoke, Tuple: editor},
	} {
		w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{c}})
	}
	var told []string // each once
	for rows := 1; rows <= 200; rows++ {
		a := w.ask(query.NewEngine(query.Budgets{List: model.Budget{Rows: rows}}), start+9)
		turn, err := a.Turn(context.Background(), query.Question{Tuple: parse(t, "doc:a#viewer@user:x")})
		if err != nil {
			t.Fatalf("Turn within %d rows: %v", rows, err)
		}
		var b strings.Builder
		if turned(&b, &turn); !slices.Contains(told, b.String()) {
			told = append(told, b.String())
		}
	}
	const found = "holds not, before undecided, by command +6 @6 +6 root  doc:a#editor@user:x revoked\nheld: "
	if want := []string{
		"?, before ?, by unknown +9",
		"holds not, before ?, by unknown +6",
		found + "?, before ?, by unknown +5",
		found + "undecided, before ?, by unknown +5",
		found + "holds not, before ?, by unknown +4",
		found + "holds not, before holds, by command +4 @4 +4 root  doc:a#editor@user:x revoked",
	}; !slices.Equal(told, want) {
		t.Errorf("the more it may spend, the turn is\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
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

// window returns the context of a condition that holds from one moment until another, in
// nanoseconds after start.
func window(from, until int64) model.Value {
	at := func(n int64) string { return strconv.Quote(time.Unix(0, start+n).UTC().Format(time.RFC3339Nano)) }
	return object("from", at(from), "until", at(until))
}

// busyFolder folds a folder that is shared with 3,000 groups, and grants, one a revision,
// to groups that user:m is not in: n of them, each revoked later. User:m was in one of the
// 3,000 until just before; user:x still is. It returns the revision that ended that.
func busyFolder(t testing.TB, n int) (*world, ledger.Revision) {
	w := newWorld(t, source)
	revoke := func(text string) {
		w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{{Kind: ledger.Revoke, Tuple: parse(t, text)}}})
	}
	group := func(i int) string { return fmt.Sprintf("folder:f#viewer@group:g%04d#member", i) }
	for i := 0; i < 3000; i += 100 {
		var tuples []string
		for k := range 100 {
			tuples = append(tuples, group(i+k))
		}
		w.grant(tuples...)
	}
	w.grant("group:g1234#member@user:m", "group:g1234#member@user:x")
	revoke("group:g1234#member@user:m")
	made := ledger.Revision(2 + 30 + 2)
	for i := range n {
		w.grant(group(3000 + i))
	}
	for i := range n {
		revoke(group(3000 + i))
	}
	return w, made
}

// TestTurnUnrelated: many changes of what is read, but which the answer does not hang on,
// cost little.
func TestTurnUnrelated(t *testing.T) {
	w, made := busyFolder(t, 600)
	// The grants are up to 3,600, and each is three rows: all are read some times, not 1,200.
	a := w.ask(query.NewEngine(query.Budgets{List: model.Budget{Rows: 100_000}}), w.now+100)
	for _, tt := range []struct {
		ask     string
		verdict model.Verdict
		cause   query.Cause
		by      ledger.Revision
		tuple   string
	}{
		{"folder:f#viewer@user:m", model.HoldsNot, query.ByCommand, made, "group:g1234#member@user:m"},
		{"folder:f#viewer@user:x", model.Holds, query.ByCommand, made - 1, "group:g1234#member@user:x"},
		{"folder:f#viewer@user:nobody", model.HoldsNot, query.Never, 0, ""},
	} {
		got, err := a.Turn(context.Background(), query.Question{Tuple: parse(t, tt.ask)})
		if about := got.Tuple.String(); err != nil || got.Verdict != tt.verdict || got.Cause != tt.cause || got.Command.Revision != tt.by || tt.by > 0 && about != tt.tuple {
			t.Errorf("Turn(%s) = %+v, %v; want verdict %d, cause %d, by revision %d", tt.ask, got, err, tt.verdict, tt.cause, tt.by)
		}
	}
}

// BenchmarkTurnUnrelated asks since when somebody does not hold a relation, after 1,200
// changes of what is read.
func BenchmarkTurnUnrelated(b *testing.B) {
	w, _ := busyFolder(b, 600)
	a := w.ask(query.NewEngine(query.Budgets{}), w.now+100)
	q := query.Question{Tuple: parse(b, "folder:f#viewer@user:m")}
	b.ReportAllocs()
	for b.Loop() {
		if turn, err := a.Turn(context.Background(), q); err != nil || turn.Cause != query.ByCommand {
			b.Fatal(turn, err)
		}
	}
}

// TestOracleWindows asks since when answers are what they are that hang on windows of time,
// and holds what is said against the answer at every nanosecond before.
func TestOracleWindows(t *testing.T) {
	seed := *oracleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("histories from seed %d; -args -seed %d runs them again", seed, seed)
	causes, exact := make(map[query.Cause]int), 0
	for n := range 4 * *histories { // they are short
		r := rand.New(rand.NewPCG(seed+n, 5))
		w := newWorld(t, explainSource)
		w.wait = func() int64 { return 1 + r.Int64N(3) }
		subjects := []string{"user:x", "group:g#member"}
		for range 20 {
			about := []string{"doc:a#editor@" + subjects[r.IntN(2)], "doc:a#banned@user:x", "doc:a#parent@doc:b", "doc:b#editor@user:x", "group:g#member@user:x", "doc:a#editor@user:y"}[r.IntN(6)]
			c := ledger.Change{Kind: ledger.Grant, Tuple: parse(t, about)}
			switch k := r.IntN(5); {
			case k == 0:
				c.Kind = ledger.Revoke
			case k < 4 && c.Tuple.Relation == "editor" && c.Tuple.Subject.Type == "user":
				from := w.now - start + r.Int64N(20) - 5
				c.Grant = model.Grant{Condition: "window", Context: model.AppendContext(nil, window(from, from+1+r.Int64N(8)))}
			}
			w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{c}})
		}
		end := w.now + 10
		engine := query.NewEngine(query.Budgets{})
		q := query.Question{Tuple: parse(t, "doc:a#viewer@user:x")}
		allowed := func(rev ledger.Revision, at int64) bool {
			v, err := w.x.View(w.store, rev)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			a, err := engine.Ask(v, ledger.ID{}, at)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := a.Check(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			return answer.Allowed
		}
		held := make(map[int64]bool)
		var turns []query.Turn
		for at := int64(start); at <= end; at++ {
			v, err := w.x.ViewAt(w.store, at)
			if err != nil {
				t.Fatal(err)
			}
			a, err := engine.Ask(v, ledger.ID{}, at)
			var turn query.Turn
			if err == nil {
				turn, err = a.Turn(context.Background(), q)
				if err == nil {
					var answer query.Answer
					answer, err = a.Check(context.Background(), q)
					held[at] = answer.Allowed
				}
			}
			if err != nil && !errors.Is(err, query.ErrNoModel) {
				t.Fatal(err)
			}
			turns = append(turns, turn)
			v.Close()
		}
		for i, turn := range turns {
			at, since := start+int64(i), start+int64(i)
			if turn.Verdict == 0 {
				continue // no model yet
			}
			for since >= start && held[since] == held[at] {
				since--
			}
			since++ // start: never another
			causes[turn.Cause]++
			if !turn.Timed && turn.Cause != query.Never {
				exact++
			}
			wrong := ""
			switch {
			case (turn.Verdict == model.Holds) != held[at]:
				wrong = "the verdict is another"
			case turn.Cause == query.Never:
				if since > start && !turn.Timed {
					wrong = "it was another"
				}
			case !turn.Timed && turn.Time != since:
				wrong = "the time is another"
			case turn.Time > since:
				wrong = "it is not so since then at the earliest"
			case turn.Cause == query.ByClock:
				if held[turn.Time] == held[at] {
					wrong = "the answer then was no other"
				}
			case held[turn.Time] != held[at] || held[turn.Time-1] == held[at]:
				wrong = "it did not become so then"
			case turn.Command.Revision == 2: // without a model nobody is asked
			case turn.Command.Time != turn.Time || allowed(turn.Command.Revision-1, turn.Time) == held[at]:
				wrong = "it became so without the command"
			}
			if wrong != "" {
				t.Fatalf("seed %d: at +%d, held %v since +%d, the turn is %+v (+%d): %s; the oracle says otherwise", seed+n, at-start, held[at], since-start, turn, turn.Time-start, wrong)
			}
		}
	}
	t.Logf("causes: %v, exact: %d", causes, exact)
	for _, c := range []query.Cause{query.ByCommand, query.ByClock, query.Never} {
		if *histories >= 8 && (causes[c] == 0 || exact == 0) {
			t.Errorf("causes: %v, exact: %d", causes, exact)
		}
	}
}
