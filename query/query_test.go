package query_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

const source = `
model
  schema 1.1
type user
type group
  relations
    define member: [user, group#member]
type folder
  relations
    define parent: [folder]
    define viewer: [user, user:*, group#member] or viewer from parent
type doc
  relations
    define parent: [folder]
    define owner: [user]
    define blocked: [user, group#member]
    define editor: [user with office_hours, group#member] or owner
    define viewer: (editor or viewer from parent) but not blocked
    define reviewer: editor and viewer
condition office_hours(hour: int, opens: int) {
  hour >= opens
}
`

// A world is a store in a real index, to which commands are decided straight away.
type world struct {
	t     testing.TB
	x     *index.Index
	store ledger.ID
	seq   uint64
	now   int64
	actor string       // of the commands; "" for root
	wait  func() int64 // nanoseconds to the next command; nil for 1
}

const start = 1_700_000_000_000_000_000 // log time of the first command, nanoseconds

func newWorld(t testing.TB, source string) *world {
	t.Helper()
	x, err := index.Open(index.Options{Dir: t.TempDir(), CacheBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	w := &world{t: t, x: x, store: ledger.NewID(), now: start}
	w.fold(&ledger.Command{Store: ledger.System, Changes: []ledger.Change{{Kind: ledger.CreateStore, Store: w.store, Name: "test", Admin: "root"}}})
	w.write(source)
	return w
}

func (w *world) write(source string) {
	w.t.Helper()
	m, err := dsl.Compile(ledger.SourceDSL, []byte(source), dsl.Limits{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: m}}})
}

// fold decides the commands in one batch, each of which must be applied.
func (w *world) fold(commands ...*ledger.Command) {
	w.t.Helper()
	if err := w.try(commands...); err != nil {
		w.t.Fatal(err)
	}
}

// try is fold for any goroutine.
func (w *world) try(commands ...*ledger.Command) error {
	b := w.x.NewBatch()
	defer b.Close()
	for _, c := range commands {
		if w.now++; w.wait != nil {
			w.now += w.wait() - 1
		}
		if c.ID.IsZero() {
			c.ID = ledger.NewUUID()
		}
		in := decide.Input{Kind: ledger.EdgeSubject, Origin: ledger.Origin{Actor: cmp.Or(w.actor, "root"), Attester: "test", Method: ledger.MethodNone},
			Raw: ledger.AppendCommand(nil, c), Time: w.now, Version: ledger.FoldVersion}
		records, err := decide.Decide(b, in)
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.Outcome.Kind != ledger.Applied {
				return fmt.Errorf("%+v", r.Outcome.Rejection)
			}
			if _, _, err := b.Append(r, in.Origin, in.Raw, in.Version); err != nil {
				return err
			}
		}
	}
	w.seq++
	return b.Commit(ledger.Position{Log: ledger.UUID{1}, Seq: w.seq})
}

// model returns the id of the newest model.
func (w *world) model() ledger.ID {
	w.t.Helper()
	v, err := w.x.View(w.store, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer v.Close()
	return v.NewestModel()
}

func (w *world) grant(tuples ...string) {
	w.t.Helper()
	c := &ledger.Command{Store: w.store}
	for _, text := range tuples {
		c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Grant, Tuple: parse(w.t, text)})
	}
	w.fold(c)
}

func parse(t testing.TB, text string) tuple.Tuple {
	t.Helper()
	tup, err := tuple.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return tup
}

func contextual(t testing.TB, texts ...string) (cs []query.Contextual) {
	for _, text := range texts {
		cs = append(cs, query.Contextual{Tuple: parse(t, text)})
	}
	return cs
}

func object(fields ...any) model.Value {
	text := &strings.Builder{}
	for i := 0; i < len(fields); i += 2 {
		fmt.Fprintf(text, ",%q:%v", fields[i], fields[i+1])
	}
	v, err := model.ParseJSON([]byte("{" + strings.TrimPrefix(text.String(), ",") + "}"))
	if err != nil {
		panic(err)
	}
	return v
}

// ask begins a request at the head.
func (w *world) ask(e *query.Engine, now int64) *query.Asking {
	w.t.Helper()
	v, err := w.x.View(w.store, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(v.Close)
	a, err := e.Ask(v, ledger.ID{}, now)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func TestCheck(t *testing.T) {
	w := newWorld(t, source)
	w.grant(
		"doc:plan#owner@user:ann",
		"doc:plan#parent@folder:top",
		"folder:top#viewer@group:staff#member",
		"folder:open#viewer@user:*",
		"doc:open#parent@folder:open",
		"group:staff#member@group:eng#member",
		"group:eng#member@user:bob",
		"group:eng#member@group:staff#member", // a cycle
		"doc:plan#blocked@user:eve",
		"group:eng#member@user:eve",
		"doc:open#blocked@group:eng#member",
	)
	w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{
		{Kind: ledger.Grant, Tuple: parse(t, "doc:plan#editor@user:dan"), Grant: model.Grant{Condition: "office_hours", Context: model.AppendContext(nil, object("opens", 9))}},
		{Kind: ledger.Grant, Tuple: parse(t, "group:eng#member@user:tmp"), Grant: model.Grant{ExpiresAt: start + 1000, NotBefore: start + 500}},
	}})
	for _, tt := range []struct {
		name       string
		tuple      string
		context    model.Value
		over       model.Value
		contextual []query.Contextual
		now        int64
		want       bool
		err        string // part of the error, "" for none
	}{
		{name: "granted", tuple: "doc:plan#owner@user:ann", want: true},
		{name: "not granted", tuple: "doc:plan#owner@user:bob"},
		{name: "computed", tuple: "doc:plan#editor@user:ann", want: true},
		{name: "union within exclusion", tuple: "doc:plan#viewer@user:ann", want: true},
		{name: "from, userset, nested group", tuple: "doc:plan#viewer@user:bob", want: true},
		{name: "excluded", tuple: "doc:plan#viewer@user:eve"},
		{name: "intersection", tuple: "doc:plan#reviewer@user:ann", want: true},
		{name: "intersection, one side only", tuple: "doc:plan#reviewer@user:bob"},
		{name: "wildcard", tuple: "doc:open#viewer@user:anybody", want: true},
		{name: "wildcard, excluded by group", tuple: "doc:open#viewer@user:bob"},
		{name: "wildcard of users is not for groups", tuple: "folder:open#viewer@group:eng#member"},
		{name: "is it for everyone?", tuple: "folder:open#viewer@user:*", want: true},
		{name: "is it for everyone, where it is for some?", tuple: "folder:top#viewer@user:*"},
		{name: "userset", tuple: "folder:top#viewer@group:staff#member", want: true},
		{name: "userset within a userset", tuple: "folder:top#viewer@group:eng#member", want: true},
		{name: "members are members", tuple: "group:new#member@group:new#member", want: true},
		{name: "cycle, held", tuple: "group:staff#member@user:bob", want: true},
		{name: "cycle, not held", tuple: "group:staff#member@user:zoe"},
		{name: "condition holds", tuple: "doc:plan#editor@user:dan", context: object("hour", 10), want: true},
		{name: "condition does not hold", tuple: "doc:plan#editor@user:dan", context: object("hour", 8)},
		{name: "stored context wins", tuple: "doc:plan#editor@user:dan", context: object("hour", 8, "opens", 1)},
		{name: "what is given over it wins over stored context", tuple: "doc:plan#editor@user:dan", context: object("hour", 8), over: object("opens", 1), want: true},
		{name: "and over the question's", tuple: "doc:plan#editor@user:dan", context: object("hour", 10), over: object("hour", 8)},
		{name: "what it does not give is as stored", tuple: "doc:plan#editor@user:dan", over: object("hour", 8)},
		{name: "it is of the wrong type", tuple: "doc:plan#editor@user:dan", context: object("hour", 10), over: object("opens", `"late"`), err: "opens"},
		{name: "it wins over a contextual condition's", tuple: "doc:plan#editor@user:new", contextual: []query.Contextual{{Tuple: parse(t, "doc:plan#editor@user:new"), Condition: "office_hours", Context: object("opens", 5)}}, context: object("hour", 6), over: object("opens", 7)},
		{name: "context is missing", tuple: "doc:plan#editor@user:dan", err: "hour"},
		{name: "context is missing, behind an exclusion", tuple: "doc:plan#viewer@user:dan", err: "hour"},
		{name: "context of the wrong type", tuple: "doc:plan#editor@user:dan", context: object("hour", `"late"`), err: "hour"},
		{name: "before it counts", tuple: "group:eng#member@user:tmp", now: start + 499},
		{name: "while it counts", tuple: "group:eng#member@user:tmp", now: start + 500, want: true},
		{name: "until just before it expires", tuple: "group:eng#member@user:tmp", now: start + 999, want: true},
		{name: "once it has expired", tuple: "group:eng#member@user:tmp", now: start + 1000},
		{name: "contextual grant", tuple: "doc:plan#owner@user:bob", contextual: contextual(t, "doc:plan#owner@user:bob"), want: true},
		{name: "contextual hop", tuple: "doc:new#viewer@user:bob", contextual: contextual(t, "doc:new#parent@folder:top"), want: true},
		{name: "contextual group before and after stored ones", tuple: "group:eng#member@user:new", contextual: contextual(t, "group:eng#member@group:a#member", "group:a#member@group:z#member", "group:z#member@user:new"), want: true},
		{name: "contextual block", tuple: "doc:plan#viewer@user:ann", contextual: contextual(t, "doc:plan#blocked@user:ann")},
		{name: "contextual grant hides the expired one", tuple: "group:eng#member@user:tmp", contextual: contextual(t, "group:eng#member@user:tmp"), now: start + 2000, want: true},
		{name: "contextual condition", tuple: "doc:plan#editor@user:new", contextual: []query.Contextual{{Tuple: parse(t, "doc:plan#editor@user:new"), Condition: "office_hours", Context: object("opens", 5)}}, context: object("hour", 6), want: true},
		{name: "contextual tuple that the model refuses", tuple: "doc:plan#owner@user:bob", contextual: contextual(t, "doc:plan#owner@group:eng#member"), err: "contextual[0].tuple.subject"},
		{name: "contextual tuple without its condition", tuple: "doc:plan#editor@user:bob", contextual: contextual(t, "doc:plan#editor@user:bob"), err: "contextual[0].condition"},
		{name: "contextual tuple twice", tuple: "doc:plan#owner@user:bob", contextual: contextual(t, "doc:plan#owner@user:bob", "doc:plan#owner@user:bob"), err: "contextual[1].tuple"},
		{name: "contextual tuple of an unknown relation", tuple: "doc:plan#owner@user:bob", contextual: contextual(t, "doc:plan#nothing@user:bob"), err: "contextual[0].tuple.relation"},
		{name: "unknown type", tuple: "nothing:plan#viewer@user:ann", err: "tuple.object"},
		{name: "unknown relation", tuple: "doc:plan#nothing@user:ann", err: "tuple.relation"},
		{name: "unknown subject type", tuple: "doc:plan#viewer@nobody:ann", err: "tuple.subject"},
		{name: "unknown subject relation", tuple: "doc:plan#viewer@group:eng#nothing", err: "tuple.subject"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.now == 0 {
				tt.now = start + 100
			}
			a := w.ask(query.NewEngine(query.Budgets{}), tt.now)
			q := query.Question{Tuple: parse(t, tt.tuple), Given: query.Given{Context: tt.context, Over: tt.over, Contextual: tt.contextual}}
			got, err := a.Check(context.Background(), q)
			if got.Allowed != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Check(%s) = %v, %v, want %v and an error with %q", tt.tuple, got.Allowed, err, tt.want, tt.err)
			}
			// The recorder is on the same path, and says why.
			again, err2 := explained(a, q)
			if again != got.Allowed || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
				t.Errorf("Explain(%s) = %+v, %v, want as Check: %v, %v", tt.tuple, again, err2, got.Allowed, err)
			}
		})
	}
}

// explained is the answer of an explanation.
func explained(a *query.Asking, q query.Question) (bool, error) {
	x, err := a.Explain(context.Background(), q)
	if err != nil {
		return false, err
	}
	return x.Verdict == model.Holds, x.Err
}

func TestContextualLimit(t *testing.T) {
	w := newWorld(t, source)
	q := query.Question{Tuple: parse(t, "doc:plan#owner@user:u0")}
	for i := range query.MaxContextual + 1 {
		q.Contextual = append(q.Contextual, query.Contextual{Tuple: parse(t, fmt.Sprintf("doc:plan#owner@user:u%d", i))})
	}
	a := w.ask(query.NewEngine(query.Budgets{}), start)
	var invalid *query.InvalidError
	if _, err := a.Check(context.Background(), q); !errors.As(err, &invalid) || invalid.Field != "contextual" {
		t.Errorf("Check with %d contextual tuples = %v, want an InvalidError", len(q.Contextual), err)
	}
	q.Contextual = q.Contextual[:query.MaxContextual]
	if got, err := a.Check(context.Background(), q); !got.Allowed || err != nil {
		t.Errorf("Check with %d contextual tuples = %v, %v", len(q.Contextual), got, err)
	}
}

// TestBudgets holds that a question that costs too much ends in an error, the same
// every time, however the graph is made.
func TestBudgets(t *testing.T) {
	w := newWorld(t, source)
	var wide, chain, dense []string
	for i := range 900 {
		wide = append(wide, fmt.Sprintf("group:wide#member@group:w%d#member", i))
		chain = append(chain, fmt.Sprintf("group:c%d#member@group:c%d#member", i, i+1))
	}
	for i := range 25 {
		for j := range 25 {
			if i != j {
				dense = append(dense, fmt.Sprintf("group:d%d#member@group:d%d#member", i, j))
			}
		}
	}
	w.grant(wide...)
	w.grant(chain...)
	w.grant(dense...)
	for _, tt := range []struct {
		name, tuple string
		budget      model.Budget
		what        string // of the BudgetError, "" for an answer
	}{
		{"wide within the budget", "group:wide#member@user:ann", model.Budget{Depth: 10, Rows: 5000}, ""},
		{"too wide", "group:wide#member@user:ann", model.Budget{Depth: 10, Rows: 500}, "rows"},
		{"too deep", "group:c0#member@user:ann", model.Budget{Depth: 50, Rows: 5000}, "depth"},
		{"every group in every group", "group:d0#member@user:ann", model.Budget{Depth: 50, Rows: 5000}, ""},
		{"every group in every group, too many rows", "group:d0#member@user:ann", model.Budget{Depth: 50, Rows: 100}, "rows"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.ask(query.NewEngine(query.Budgets{Check: tt.budget}), start+100)
			var spent model.Spent
			for i := range 10 {
				got, err := a.Check(context.Background(), query.Question{Tuple: parse(t, tt.tuple)})
				var budget *model.BudgetError
				if got.Allowed || (tt.what == "") != (err == nil) || tt.what != "" && (!errors.As(err, &budget) || budget.What != tt.what) {
					t.Fatalf("Check = %+v, %v, want an error of %q", got, err, tt.what)
				}
				if i > 0 && got.Spent != spent {
					t.Fatalf("spent %+v, before %+v", got.Spent, spent)
				}
				spent = got.Spent
			}
		})
	}
}

func TestSelfContradiction(t *testing.T) {
	w := newWorld(t, `
model
  schema 1.1
type user
type doc
  relations
    define granted: [user]
    define blocked: [doc#viewer]
    define viewer: granted but not blocked
`)
	w.grant("doc:a#granted@user:ann", "doc:a#blocked@doc:a#viewer")
	a := w.ask(query.NewEngine(query.Budgets{}), start+100)
	var cycle *model.CycleError
	got, err := a.Check(context.Background(), query.Question{Tuple: parse(t, "doc:a#viewer@user:ann")})
	if got.Allowed || !errors.As(err, &cycle) || !strings.Contains(err.Error(), "doc:a#viewer") {
		t.Errorf("Check = %v, %v, want a CycleError that names it", got, err)
	}
	// Who is not granted it at all is denied: no cycle is needed to know that.
	if got, err := a.Check(context.Background(), query.Question{Tuple: parse(t, "doc:a#viewer@user:bob")}); got.Allowed || err != nil {
		t.Errorf("Check = %v, %v, want denied", got, err)
	}
}

func TestModels(t *testing.T) {
	w := newWorld(t, source)
	w.grant("doc:plan#owner@user:ann", "doc:plan#blocked@user:bob")
	v, err := w.x.View(w.store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	first := v.NewestModel()
	w.write(strings.Replace(source, "define owner: [user]", "define owner: [group#member]", 1))
	engine := query.NewEngine(query.Budgets{})
	head, err := w.x.View(w.store, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer head.Close()
	check := func(id ledger.ID) bool {
		t.Helper()
		a, err := engine.Ask(head, id, start+100)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Check(context.Background(), query.Question{Tuple: parse(t, "doc:plan#owner@user:ann")})
		if err != nil {
			t.Fatal(err)
		}
		return got.Allowed
	}
	if check(ledger.ID{}) {
		t.Error("a tuple that the newest model does not allow counts")
	}
	if !check(first) {
		t.Error("under the model that allows it, the tuple does not count")
	}
	if _, err := engine.Ask(head, ledger.NewID(), start); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Ask for an unknown model = %v, want ErrNotFound", err)
	}
	if _, err := engine.Ask(v, head.NewestModel(), start); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Ask for a later model = %v, want ErrNotFound", err)
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t, source)
	for i := range 20 {
		var tuples []string
		for j := range 1000 {
			tuples = append(tuples, fmt.Sprintf("group:wide#member@group:w%d-%d#member", i, j))
		}
		w.grant(tuples...)
	}
	a := w.ask(query.NewEngine(query.Budgets{Check: model.Budget{Depth: 10, Rows: 1 << 30}}), start+100)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	if got, err := a.Check(ctx, query.Question{Tuple: parse(t, "group:wide#member@user:ann")}); got.Allowed || !errors.Is(err, context.Canceled) {
		t.Errorf("Check = %v, %v, want the context's error", got, err)
	}
	if got, err := a.Check(context.Background(), query.Question{Tuple: parse(t, "group:wide#member@user:ann")}); got.Allowed || err != nil {
		t.Errorf("Check after a cancelled one = %v, %v, want denied (%s)", got, err, time.Since(began))
	}
}
