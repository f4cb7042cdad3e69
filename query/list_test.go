package query_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

// collect returns the ids of a list; what is excluded or has no answer is marked.
func collect(list func(func(model.Item, error) bool)) (ids []string, err error) {
	for i, err := range list {
		switch {
		case err != nil:
			return ids, err
		case i.Err != nil:
			ids = append(ids, i.ID+"?")
		case i.Excluded:
			ids = append(ids, i.ID+"-")
		default:
			ids = append(ids, i.ID)
		}
	}
	return ids, nil
}

func subject(t testing.TB, text string) tuple.Subject {
	t.Helper()
	s, err := tuple.ParseSubject(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestListErrors(t *testing.T) {
	w := newWorld(t, source)
	w.grant("doc:plan#owner@user:ann")
	a := w.ask(query.NewEngine(query.Budgets{}), start+100)
	ctx := context.Background()
	plan := tuple.Object{Type: "doc", ID: "plan"}
	many := make([]query.Contextual, query.MaxContextual+1)
	for i := range many {
		many[i].Tuple = parse(t, fmt.Sprintf("doc:%d#owner@user:ann", i))
	}
	twice := query.Given{Contextual: []query.Contextual{many[0], many[0]}}
	objects := func(q query.ObjectsQuestion) func() error {
		return func() error { _, err := collect(a.ListObjects(ctx, q, "")); return err }
	}
	subjects := func(q query.SubjectsQuestion) func() error {
		return func() error { _, err := collect(a.ListSubjects(ctx, q, "")); return err }
	}
	relations := func(s, o string, of ...string) func() error {
		return func() error {
			_, err := a.ListRelations(ctx, subject(t, s), subject(t, o).Object(), of, query.Given{})
			return err
		}
	}
	tuples := func(f query.Filter) func() error {
		return func() error {
			for _, err := range a.Tuples(ctx, f, tuple.Tuple{}) {
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	ann, user := subject(t, "user:ann"), model.Kind{Type: "user"}
	for _, tt := range []struct {
		name  string
		ask   func() error
		field string
		text  string
	}{
		{"unknown type of objects", objects(query.ObjectsQuestion{Subject: ann, Type: "file", Relation: "viewer"}), "type", `no type "file"`},
		{"unknown relation of objects", objects(query.ObjectsQuestion{Subject: ann, Type: "doc", Relation: "admin"}), "relation", `no relation "admin"`},
		{"unknown type of subject", objects(query.ObjectsQuestion{Subject: subject(t, "robot:1"), Type: "doc", Relation: "viewer"}), "subject", `no type "robot"`},
		{"unknown relation of a userset", objects(query.ObjectsQuestion{Subject: subject(t, "group:1#owner"), Type: "doc", Relation: "viewer"}), "subject", `no relation "owner"`},
		{"contextual tuples over the limit", objects(query.ObjectsQuestion{Subject: ann, Type: "doc", Relation: "viewer", Given: query.Given{Contextual: many}}), "contextual", "at most 100, are 101"},
		{"the same contextual tuple twice", objects(query.ObjectsQuestion{Subject: ann, Type: "doc", Relation: "viewer", Given: twice}), "contextual[1].tuple", "stands twice"},
		{"context that is no object", objects(query.ObjectsQuestion{Subject: ann, Type: "doc", Relation: "viewer", Given: query.Given{Context: model.Value{Kind: model.BoolValue}}}), "context", "must be an object"},
		{"unknown kind", subjects(query.SubjectsQuestion{Object: plan, Relation: "viewer", Kind: model.Kind{Type: "robot"}}), "kind", `no type "robot"`},
		{"unknown relation of a kind", subjects(query.SubjectsQuestion{Object: plan, Relation: "viewer", Kind: model.Kind{Type: "group", Relation: "boss"}}), "kind", `no relation "boss"`},
		{"a kind that could never hold it", subjects(query.SubjectsQuestion{Object: plan, Relation: "owner", Kind: model.Kind{Type: "group", Relation: "member"}}), "kind", "no subject of kind group#member could hold"},
		{"unknown object type of subjects", subjects(query.SubjectsQuestion{Object: tuple.Object{Type: "file", ID: "1"}, Relation: "viewer", Kind: user}), "object", `no type "file"`},
		{"contextual tuples of subjects", subjects(query.SubjectsQuestion{Object: plan, Relation: "viewer", Kind: user, Given: twice}), "contextual[1].tuple", "stands twice"},
		{"unknown relation among relations", relations("user:ann", "doc:plan", "viewer", "admin"), "relations", `no relation "admin"`},
		{"a relation twice", relations("user:ann", "doc:plan", "viewer", "viewer"), "relations", "stands twice"},
		{"more relations than there are", relations("user:ann", "folder:top", "viewer", "parent", "viewer"), "relations", "has only 2"},
		{"unknown object of relations", relations("user:ann", "file:plan"), "object", `no type "file"`},
		{"no levels", func() error { _, err := a.Expand(ctx, plan, "viewer", 0, query.Given{}); return err }, "levels", "must be 1 to 64, is 0"},
		{"unknown relation of a tree", func() error { _, err := a.Expand(ctx, plan, "admin", 1, query.Given{}); return err }, "relation", `no relation "admin"`},
		{"filter with an unknown type", tuples(query.Filter{Object: tuple.Object{Type: "file"}}), "object", `no type "file"`},
		{"filter with a relation alone", tuples(query.Filter{Relation: "viewer"}), "object", "type of object"},
		{"filter of a computed relation", tuples(query.Filter{Object: tuple.Object{Type: "doc"}, Relation: "viewer"}), "relation", "is computed; it is never granted"},
		{"filter that nothing could match", tuples(query.Filter{Object: tuple.Object{Type: "doc"}, Relation: "owner", Kind: &model.Kind{Type: "group", Relation: "member"}}), "subject", "may not be granted to group#member"},
		{"filter of a wildcard that is never granted", tuples(query.Filter{Object: tuple.Object{Type: "doc"}, Relation: "owner", Kind: &user, Subject: "*"}), "subject", "may not be granted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.ask()
			var invalid *query.InvalidError
			if !errors.As(err, &invalid) || invalid.Field != tt.field || !strings.Contains(invalid.Message, tt.text) {
				t.Errorf("error = %v, want one of %s with %q", err, tt.field, tt.text)
			}
		})
	}
	if _, err := collect(a.ListSubjects(ctx, query.SubjectsQuestion{Object: plan, Relation: "owner", Kind: user}, "")); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestTuples reads by every kind of filter, against all tuples and the filter's own words.
func TestTuples(t *testing.T) {
	w := newWorld(t, source)
	var all []string
	for i := range 9 {
		all = append(all, fmt.Sprintf("doc:%d#owner@user:%d", i%3, i), fmt.Sprintf("doc:%d#parent@folder:%d", i, i%2),
			fmt.Sprintf("folder:%d#viewer@group:%d#member", i, i%4), fmt.Sprintf("group:%d#member@user:%d", i%4, i), fmt.Sprintf("doc:%d#blocked@user:%d", i, 8-i))
	}
	all = append(all, "folder:1#viewer@user:*")
	w.grant(all...)
	w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{
		{Kind: ledger.Revoke, Tuple: parse(t, "doc:0#owner@user:0")},
		{Kind: ledger.Grant, Tuple: parse(t, "doc:7#owner@user:late"), Grant: model.Grant{NotBefore: start + 5000}},
		{Kind: ledger.Grant, Tuple: parse(t, "doc:7#owner@user:gone"), Grant: model.Grant{ExpiresAt: start + 50}},
	}})
	w.write(strings.Replace(source, "define blocked: [user, group#member]", "define blocked: [group#member]", 1))
	a := w.ask(query.NewEngine(query.Budgets{}), start+100)
	read := func(f query.Filter, page int) (got []string) {
		var after tuple.Tuple
		for more := true; more; {
			n := 0
			more = false
			for g, err := range a.Tuples(context.Background(), f, after) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n > page {
					more = true
					break
				}
				text := g.Tuple.String()
				if g.State != query.Active {
					text += fmt.Sprint(" ", g.State)
				}
				got, after = append(got, text), g.Tuple
			}
		}
		return got
	}
	everything := read(query.Filter{Inactive: true}, 1000)
	if n := len(everything); n != len(all)+1 {
		t.Fatalf("%d tuples, want %d: %v", n, len(all)+1, everything)
	}
	states := map[string]int{}
	for _, text := range everything {
		_, state, _ := strings.Cut(text, " ")
		states[state]++
	}
	if states[fmt.Sprint(query.NotAllowed)] != 9 || states[fmt.Sprint(query.Expired)] != 1 || states[fmt.Sprint(query.NotYet)] != 1 {
		t.Errorf("states %v", states)
	}
	user, member := &model.Kind{Type: "user"}, &model.Kind{Type: "group", Relation: "member"}
	for _, tt := range []struct {
		name  string
		f     query.Filter
		match func(tuple.Tuple) bool
	}{
		{"all", query.Filter{}, func(tuple.Tuple) bool { return true }},
		{"a type", query.Filter{Object: tuple.Object{Type: "doc"}}, func(t tuple.Tuple) bool { return t.Object.Type == "doc" }},
		{"a type and a relation", query.Filter{Object: tuple.Object{Type: "doc"}, Relation: "owner"}, func(t tuple.Tuple) bool { return t.Object.Type == "doc" && t.Relation == "owner" }},
		{"an object", query.Filter{Object: tuple.Object{Type: "folder", ID: "1"}}, func(t tuple.Tuple) bool { return t.Object == tuple.Object{Type: "folder", ID: "1"} }},
		{"an object and a relation", query.Filter{Object: tuple.Object{Type: "doc", ID: "1"}, Relation: "owner"}, func(t tuple.Tuple) bool {
			return t.Object == tuple.Object{Type: "doc", ID: "1"} && t.Relation == "owner"
		}},
		{"an object and a kind", query.Filter{Object: tuple.Object{Type: "folder", ID: "1"}, Kind: member}, func(t tuple.Tuple) bool {
			return t.Object == tuple.Object{Type: "folder", ID: "1"} && t.Subject.Type == "group"
		}},
		{"an object, a relation and a kind", query.Filter{Object: tuple.Object{Type: "folder", ID: "1"}, Relation: "viewer", Kind: user}, func(t tuple.Tuple) bool {
			return t.Object == tuple.Object{Type: "folder", ID: "1"} && t.Relation == "viewer" && t.Subject.Type == "user"
		}},
		{"one tuple", query.Filter{Object: tuple.Object{Type: "doc", ID: "1"}, Relation: "owner", Kind: user, Subject: "4"}, func(t tuple.Tuple) bool { return t.String() == "doc:1#owner@user:4" }},
		{"a kind", query.Filter{Kind: member}, func(t tuple.Tuple) bool { return t.Subject.Relation == "member" }},
		{"a subject", query.Filter{Kind: user, Subject: "4"}, func(t tuple.Tuple) bool { return t.Subject.String() == "user:4" }},
		{"a wildcard", query.Filter{Kind: user, Subject: "*"}, func(t tuple.Tuple) bool { return t.Subject.IsWildcard() }},
		{"a subject and a type", query.Filter{Kind: user, Subject: "4", Object: tuple.Object{Type: "doc"}}, func(t tuple.Tuple) bool { return t.Subject.String() == "user:4" && t.Object.Type == "doc" }},
		{"a subject, a type and a relation", query.Filter{Kind: user, Subject: "4", Object: tuple.Object{Type: "group"}, Relation: "member"}, func(t tuple.Tuple) bool {
			return t.Subject.String() == "user:4" && t.Object.Type == "group"
		}},
		{"a kind, a type and a relation", query.Filter{Kind: member, Object: tuple.Object{Type: "folder"}, Relation: "viewer"}, func(t tuple.Tuple) bool { return t.Subject.Relation == "member" && t.Object.Type == "folder" }},
	} {
		for _, inactive := range []bool{false, true} {
			var want []string
			for _, text := range everything {
				text, state, _ := strings.Cut(text, " ")
				if !tt.match(parse(t, text)) || state != "" && !inactive {
					continue
				}
				if state != "" {
					text += " " + state
				}
				want = append(want, text)
			}
			slices.Sort(want)
			tt.f.Inactive = inactive
			for _, page := range []int{1, 2, 1000} {
				got := read(tt.f, page)
				slices.Sort(got)
				if !slices.Equal(got, want) || len(want) == 0 {
					t.Errorf("%s, inactive %t, in pages of %d: %v, want %v", tt.name, inactive, page, got, want)
				}
			}
		}
	}
}

// TestTuplesAfter: a reading goes on after a tuple that it is about, and after no other.
func TestTuplesAfter(t *testing.T) {
	w := newWorld(t, source)
	w.grant("doc:1#owner@user:ann", "doc:1#owner@user:bob", "doc:2#owner@user:ann")
	a := w.ask(query.NewEngine(query.Budgets{}), start+100)
	user := &model.Kind{Type: "user"}
	for _, tt := range []struct {
		f     query.Filter
		after string
		want  int // tuples, -1 for an error
	}{
		{query.Filter{Object: tuple.Object{Type: "doc", ID: "1"}, Relation: "owner", Kind: user, Subject: "ann"}, "doc:1#owner@user:ann", 0},
		{query.Filter{Object: tuple.Object{Type: "doc", ID: "1"}, Relation: "owner", Kind: user}, "doc:1#owner@user:ann", 1},
		{query.Filter{Kind: user, Subject: "ann"}, "doc:1#owner@user:ann", 1},
		{query.Filter{}, "doc:1#owner@user:ann", 2},
		{query.Filter{Object: tuple.Object{Type: "doc", ID: "1"}, Relation: "owner"}, "a:b#c@d:e", -1},
		{query.Filter{Object: tuple.Object{Type: "doc", ID: "1"}}, "doc:2#owner@user:ann", -1},
		{query.Filter{Kind: user, Subject: "bob"}, "doc:1#owner@user:ann", -1},
		{query.Filter{Object: tuple.Object{Type: "doc"}, Relation: "blocked"}, "doc:1#owner@user:ann", 0}, // passed, though not matched
	} {
		n := 0
		for _, err := range a.Tuples(context.Background(), tt.f, parse(t, tt.after)) {
			var invalid *query.InvalidError
			if n++; err != nil {
				if n = -1; !errors.As(err, &invalid) || invalid.Field != "after" {
					t.Errorf("error = %v", err)
				}
			}
		}
		if n != tt.want {
			t.Errorf("%+v after %s: %d tuples, want %d", tt.f, tt.after, n, tt.want)
		}
	}
}

// TestCheckAllShares: a batch costs less than its questions one by one, each has its own
// error, and all together are bounded.
func TestCheckAllShares(t *testing.T) {
	w := newWorld(t, source)
	var tuples []string
	for i := range 200 {
		tuples = append(tuples, fmt.Sprintf("group:g%d#member@group:g%d#member", i, i+1), fmt.Sprintf("doc:%d#editor@group:g0#member", i))
	}
	w.grant(append(tuples, "group:g200#member@user:ann")...)
	var questions []query.Question
	for i := range 200 {
		questions = append(questions, query.Question{Tuple: parse(t, fmt.Sprintf("doc:%d#editor@user:ann", i))})
	}
	questions = append(questions, query.Question{Tuple: parse(t, "file:1#editor@user:ann")},
		query.Question{Tuple: parse(t, "doc:1#editor@user:bob"), Given: query.Given{Contextual: []query.Contextual{{Tuple: parse(t, "doc:1#viewer@user:bob")}}}},
		query.Question{Tuple: parse(t, "doc:1#owner@user:bob"), Given: query.Given{Contextual: []query.Contextual{{Tuple: parse(t, "doc:1#owner@user:bob")}}}},
		query.Question{Tuple: parse(t, "doc:1#owner@user:bob")})
	engine := query.NewEngine(query.Budgets{})
	a := w.ask(engine, start+100)
	results, err := a.CheckAll(context.Background(), questions)
	if err != nil {
		t.Fatal(err)
	}
	together, alone := 0, 0
	for i, q := range questions {
		want, err := a.Check(context.Background(), q)
		if results[i].Allowed != want.Allowed || fmt.Sprint(results[i].Err) != fmt.Sprint(err) {
			t.Errorf("%s: %v, %v; alone %v, %v", q.Tuple, results[i].Allowed, results[i].Err, want.Allowed, err)
		}
		together, alone = together+results[i].Spent.Rows, alone+want.Spent.Rows
	}
	if together*10 > alone {
		t.Errorf("%d rows together, %d alone: nothing is shared", together, alone)
	}
	if !results[202].Allowed || results[203].Allowed {
		t.Error("a contextual tuple of one question counts for another, or not for its own")
	}
	few := w.ask(query.NewEngine(query.Budgets{List: model.Budget{Rows: 500}}), start+100)
	for range 2 { // the same way every time
		results, err = few.CheckAll(context.Background(), questions)
		if err != nil {
			t.Fatal(err)
		}
		answered := 0
		for i, r := range results {
			var budget *model.BudgetError
			if r.Err == nil {
				answered++
			} else if i < 200 && !errors.As(r.Err, &budget) {
				t.Errorf("%s: %v", questions[i].Tuple, r.Err)
			}
		}
		if answered != 0 { // the first alone needs more
			t.Errorf("%d questions were answered within 500 rows", answered)
		}
	}
}

// TestCancelledLists: a list, a batch, a tree and a reading stop within moments of their
// caller, also while they pass dead rows only, and leave nothing running.
func TestCancelledLists(t *testing.T) {
	w := newWorld(t, source)
	for i := range 30 {
		var tuples []string
		for j := range 1000 {
			tuples = append(tuples, fmt.Sprintf("group:wide#member@group:w%d-%d#member", i, j))
		}
		w.grant(tuples...)
	}
	for i := range 40 {
		c := &ledger.Command{Store: w.store}
		for j := range 1000 {
			c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Grant, Tuple: parse(t, fmt.Sprintf("folder:dead#viewer@user:%d-%d", i, j)), Grant: model.Grant{ExpiresAt: start + 1<<40}})
		}
		w.fold(c)
		gone := &ledger.Command{Store: w.store}
		for _, ch := range c.Changes {
			gone.Changes = append(gone.Changes, ledger.Change{Kind: ledger.Revoke, Tuple: ch.Tuple})
		}
		w.fold(gone)
	}
	engine := query.NewEngine(query.Budgets{Check: model.Budget{Rows: 1 << 30}, List: model.Budget{Rows: 1 << 30}})
	wide := tuple.Object{Type: "group", ID: "wide"}
	dead := tuple.Object{Type: "folder", ID: "dead"}
	before := runtime.NumGoroutine()
	for _, tt := range []struct {
		name string
		ask  func(context.Context, *query.Asking) error
	}{
		{"subjects", func(ctx context.Context, a *query.Asking) error {
			_, err := collect(a.ListSubjects(ctx, query.SubjectsQuestion{Object: wide, Relation: "member", Kind: model.Kind{Type: "user"}}, ""))
			return err
		}},
		{"dead subjects", func(ctx context.Context, a *query.Asking) error {
			_, err := collect(a.ListSubjects(ctx, query.SubjectsQuestion{Object: dead, Relation: "viewer", Kind: model.Kind{Type: "user"}}, ""))
			return err
		}},
		{"a tree", func(ctx context.Context, a *query.Asking) error {
			_, err := a.Expand(ctx, wide, "member", 10, query.Given{})
			return err
		}},
		{"a reading", func(ctx context.Context, a *query.Asking) error {
			for _, err := range a.Tuples(ctx, query.Filter{Object: dead}, tuple.Tuple{}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"a batch", func(ctx context.Context, a *query.Asking) error {
			questions := make([]query.Question, 50)
			for i := range questions {
				questions[i].Tuple = parse(t, fmt.Sprintf("group:wide#member@user:%d", i))
			}
			_, err := a.CheckAll(ctx, questions)
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.ask(engine, start+100)
			if err := tt.ask(context.Background(), a); err != nil {
				t.Fatal(err)
			}
			// The time to notice is read off the best of some tries, since another process
			// may have the machine.
			best := time.Hour
			for range 10 {
				ctx, cancel := context.WithCancel(context.Background())
				var cancelled time.Time
				timer := time.AfterFunc(300*time.Microsecond, func() { cancelled = time.Now(); cancel() })
				err := tt.ask(ctx, a)
				ended := time.Now()
				if timer.Stop() {
					cancel()
					continue // it was done before
				}
				<-ctx.Done()
				if !errors.Is(err, context.Canceled) {
					if err == nil {
						continue
					}
					t.Fatalf("error = %v, want the context's", err)
				}
				best = min(best, ended.Sub(cancelled))
			}
			if best > 10*time.Millisecond {
				t.Errorf("it went on for %s after its caller was gone", best)
			}
		})
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

// TestTimeBudget: what takes too long is an error that says so, and the time that the
// caller of a list takes for itself does not count.
func TestTimeBudget(t *testing.T) {
	w := newWorld(t, source)
	for i := range 30 {
		var tuples []string
		for j := range 1000 {
			tuples = append(tuples, fmt.Sprintf("group:wide#member@user:w%d-%d", i, j))
		}
		w.grant(tuples...)
	}
	q := query.SubjectsQuestion{Object: tuple.Object{Type: "group", ID: "wide"}, Relation: "member", Kind: model.Kind{Type: "user"}}
	a := w.ask(query.NewEngine(query.Budgets{List: model.Budget{Time: time.Microsecond}}), start+100)
	_, err := collect(a.ListSubjects(context.Background(), q, ""))
	var budget *model.BudgetError
	if !errors.As(err, &budget) || budget.What != "time" || budget.Spent.Rows == 0 || !strings.Contains(err.Error(), "within 1µs") {
		t.Errorf("error = %v, want one of time", err)
	}
	a = w.ask(query.NewEngine(query.Budgets{List: model.Budget{Time: 2 * time.Second}}), start+100)
	n := 0
	for _, err := range a.ListSubjects(context.Background(), q, "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 {
			time.Sleep(2100 * time.Millisecond)
		}
	}
	if n != 30_000 {
		t.Errorf("%d items", n)
	}
}
