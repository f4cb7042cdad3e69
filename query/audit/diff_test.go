package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/query"
)

const reportModel = `model
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
    define blocked: [user]
    define viewer: ([user, user:*, group#member, user with office, user with soon] or owner or viewer from parent) but not blocked
condition office(country: string) {
  country == "CH"
}
condition soon(limit: timestamp) {
  now < limit
}
`

func TestTupleDifference(t *testing.T) {
	w := newReported(t)
	w.write(reportModel)
	w.apply(granting(t, "T-1", "doc:plan#viewer@user:ann", "doc:plan#viewer@user:bob", "doc:plan#viewer@user:kept"))
	w.apply(granted(t, "T-2", "doc:plan#viewer@user:tmp", model.Grant{ExpiresAt: began + 100}))
	w.apply(granted(t, "T-3", "doc:plan#viewer@user:new", model.Grant{NotBefore: began + 50}))
	w.apply(granted(t, "T-4", "doc:plan#viewer@user:eve", model.Grant{Condition: "office"}))
	w.apply(granted(t, "T-5", "doc:plan#viewer@user:far", model.Grant{NotBefore: began + 1000}))
	from := w.apply(granting(t, "T-6", "group:eng#member@group:ops#member"))
	w.apply(revoking(t, "T-7", "doc:plan#viewer@user:bob", "doc:plan#viewer@user:kept"))
	w.apply(granting(t, "T-8", "doc:plan#viewer@user:kept", "doc:plan#owner@user:dan"))
	c := granted(t, "T-9", "doc:plan#viewer@user:eve", model.Grant{Condition: "office", Context: model.AppendContext(nil, model.Value{
		Kind: model.MapValue, Map: []model.Field{{Name: "country", Value: model.Value{Kind: model.StringValue, String: "<CH>"}}}}), Owner: "okta"})
	c.Reason = "moved\nto Bern"
	w.apply(c)
	w.apply(granting(t, "T-10", "doc:plan#viewer@user:brief"))
	w.apply(revoking(t, "T-11", "doc:plan#viewer@user:brief")) // both between the moments
	narrow := strings.Replace(reportModel, "[user, group#member]\ntype folder", "[user]\ntype folder", 1)
	w.write(narrow)
	to := w.apply(granted(t, "T-12", "doc:plan#viewer@user:far", model.Grant{NotBefore: began + 2000}))

	columns := []string{"change", "object", "relation", "subject", "before", "after", "cause", "revision", "ticket", "reason"}
	got := picked(t, TupleDifference(background, w.at(from, 0), w.at(to, began+200)), columns...)
	want := []string{
		"added doc:plan owner user:dan  granted command 10 T-8 ",
		"removed doc:plan viewer user:bob granted  command 9 T-7 ",
		`changed doc:plan viewer user:eve granted if office granted if office {"country":"<CH>"} managed by okta command 11 T-9 moved␊to Bern`,
		"added doc:plan viewer user:new  granted from 2023-11-14T22:13:20.00000005Z start 5 T-3 ",
		"removed doc:plan viewer user:tmp granted until 2023-11-14T22:13:20.0000001Z  expiry 4 T-2 ",
		"removed group:eng member group:ops#member granted  model 14 MODEL-1 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the difference is\n%swant\n%s", sprint(got), sprint(want))
	}
	for _, rev := range []ledger.Revision{1, from, to} {
		if rows := all(t, TupleDifference(background, w.at(rev, 0), w.at(rev, 0))); len(rows) != 0 {
			t.Errorf("revision %d differs from itself: %q", rev, rows)
		}
	}
	if got := picked(t, TupleDifference(background, w.at(1, 0), w.at(3, 0)), "change", "subject", "ticket"); len(got) != 3 || got[0] != "added user:ann T-1" {
		t.Errorf("the difference from before the model: %q", got)
	}
}

// TestLongDifference makes a report of more tuples than are read at once, and stops in
// the middle of it.
func TestLongDifference(t *testing.T) {
	w := newReported(t)
	w.write(reportModel)
	const n = 3*window + 7
	for i := 0; i < n; {
		c := ledger.Command{Ticket: fmt.Sprint("T-", i)}
		for ; i < n && len(c.Changes) < ledger.MaxChanges; i++ {
			c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Grant, Tuple: parsed(t, fmt.Sprintf("doc:d%05d#viewer@user:ann", i))})
		}
		w.apply(c)
	}
	to := w.head()
	for name, from := range map[string]ledger.Revision{"all": 1, "the last": to - 1} {
		got := picked(t, TupleDifference(background, w.at(from, 0), w.at(to, 0)), "object")
		if want := map[string]int{"all": n, "the last": n % ledger.MaxChanges}[name]; len(got) != want {
			t.Errorf("%s: %d rows, want %d", name, len(got), want)
		}
		if !slices.IsSorted(got) {
			t.Errorf("%s: rows are not in order", name)
		}
	}
	a, b := w.at(1, 0), w.at(to, 0)
	taken := 0
	for _, err := range TupleDifference(background, a, b).Rows {
		if err != nil {
			t.Fatal(err)
		}
		if taken++; taken == window+1 {
			break
		}
	}
	if taken != window+1 {
		t.Errorf("%d rows were taken, want %d", taken, window+1)
	}
}

func TestEffectiveDifferenceCauses(t *testing.T) {
	w := newReported(t)
	w.write(reportModel)
	w.apply(granting(t, "T-1", "doc:plan#parent@folder:sub", "folder:sub#parent@folder:top", "group:eng#member@group:ops#member", "group:ops#member@user:ann"))
	w.apply(granted(t, "T-2", "group:ops#member@user:tmp", model.Grant{ExpiresAt: began + 100}))
	w.apply(granting(t, "T-3", "doc:open#viewer@user:bob", "doc:open#blocked@user:eve", "doc:open#owner@user:eve"))
	w.apply(granted(t, "T-4", "doc:timed#viewer@user:ann", model.Grant{Condition: "office"}))
	from := w.head()
	w.apply(granting(t, "HOP-1", "folder:top#viewer@group:eng#member"))
	w.apply(granting(t, "OPEN-1", "doc:open#viewer@user:*"))
	w.apply(revoking(t, "OUT-1", "group:ops#member@user:ann"))
	to := w.head()

	columns := []string{"change", "subject", "relation", "object", "before", "after", "cause", "revision", "ticket", "tuple"}
	got := picked(t, EffectiveDifference(background, w.at(from, 0), w.at(from+1, 0)), columns...)
	hop := " denied allowed command 7 HOP-1 folder:top#viewer@group:eng#member"
	want := []string{
		"gained user:ann viewer doc:plan" + hop,
		"gained user:tmp viewer doc:plan" + hop,
		"gained group:eng#member viewer doc:plan" + hop,
		"gained group:ops#member viewer doc:plan" + hop,
		"gained user:ann viewer folder:sub" + hop,
		"gained user:tmp viewer folder:sub" + hop,
		"gained group:eng#member viewer folder:sub" + hop,
		"gained group:ops#member viewer folder:sub" + hop,
		"gained user:ann viewer folder:top" + hop,
		"gained user:tmp viewer folder:top" + hop,
		"gained group:eng#member viewer folder:top" + hop,
		"gained group:ops#member viewer folder:top" + hop,
	}
	if !slices.Equal(got, want) {
		t.Errorf("a group was granted the parent's parent: the difference is\n%swant\n%s", sprint(got), sprint(want))
	}
	got = picked(t, EffectiveDifference(background, w.at(from, 0), w.at(to, began+200)), columns...)
	no := `undecided: condition "office": the context lacks country`
	out, expiry := " command 9 OUT-1 group:ops#member@user:ann", " expiry 4 T-2 group:ops#member@user:tmp"
	open := " command 8 OPEN-1 doc:open#viewer@user:*"
	want = []string{
		"lost user:ann member group:eng allowed denied" + out,
		"lost user:ann member group:ops allowed denied" + out,
		"gained user:ann viewer doc:open denied allowed" + open,
		"undecided user:ann viewer doc:timed " + no + " " + no + " command 6 T-4 doc:timed#viewer@user:ann",
		"lost user:tmp member group:eng allowed denied" + expiry,
		"lost user:tmp member group:ops allowed denied" + expiry,
		"gained user:tmp viewer doc:open denied allowed" + open,
		"gained user:* viewer doc:open denied allowed" + open,
		"unchanged user:bob viewer doc:open allowed allowed command 5 T-3 doc:open#viewer@user:bob",
		"unchanged user:eve viewer doc:open denied denied never   ",
		"gained group:eng#member viewer doc:plan" + hop,
		"gained group:ops#member viewer doc:plan" + hop,
		"gained group:eng#member viewer folder:sub" + hop,
		"gained group:ops#member viewer folder:sub" + hop,
		"gained group:eng#member viewer folder:top" + hop,
		"gained group:ops#member viewer folder:top" + hop,
	}
	if !slices.Equal(got, want) {
		t.Errorf("the whole difference is\n%swant\n%s", sprint(got), sprint(want))
	}

	// What begins to count in between.
	start := w.apply(granted(t, "LATER-1", "group:ops#member@user:new", model.Grant{NotBefore: began + 500}))
	got = picked(t, EffectiveDifference(background, w.at(start, 0), w.at(start, began+600)), columns...)
	later := " denied allowed start 10 LATER-1 group:ops#member@user:new"
	want = []string{
		"gained user:new member group:eng" + later,
		"gained user:new member group:ops" + later,
		"gained user:new viewer folder:sub" + later,
		"gained user:new viewer folder:top" + later,
		"gained user:new viewer doc:plan" + later,
		"lost user:tmp member group:eng allowed denied" + expiry,
		"lost user:tmp member group:ops allowed denied" + expiry,
		"lost user:tmp viewer folder:sub allowed denied" + expiry,
		"lost user:tmp viewer folder:top allowed denied" + expiry,
		"lost user:tmp viewer doc:plan allowed denied" + expiry,
	}
	if !slices.Equal(got, want) {
		t.Errorf("the difference of a start and an expiry is\n%swant\n%s", sprint(got), sprint(want))
	}

	// From before there was a model.
	got = picked(t, EffectiveDifference(background, w.at(1, 0), w.at(3, 0)), "change", "subject", "relation", "object", "cause", "revision")
	want = []string{
		"gained folder:sub parent doc:plan command 3",
		"gained folder:sub#viewer viewer doc:plan command 3",
		"gained folder:top#viewer viewer doc:plan command 3",
		"gained folder:top parent folder:sub command 3",
		"gained folder:top#viewer viewer folder:sub command 3",
		"gained user:ann member group:eng command 3",
		"gained group:ops#member member group:eng command 3",
		"gained user:ann member group:ops command 3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the difference from before the model is\n%swant\n%s", sprint(got), sprint(want))
	}

	// A model without what was held.
	w.write(strings.NewReplacer("    define owner: [user]\n", "", " or owner", "").Replace(reportModel))
	got = picked(t, EffectiveDifference(background, w.at(start, 0), w.at(0, 0)), columns...)
	want = []string{
		"lost user:eve owner doc:open allowed denied model 11 MODEL-1 ",
		"undecided user:ann viewer doc:timed " + no + " " + no + " command 6 T-4 doc:timed#viewer@user:ann",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the difference of models is\n%swant\n%s", sprint(got), sprint(want))
	}
}

// TestEffectiveDifferenceByTime has a condition that looks at the time, of which nothing
// else tells.
func TestEffectiveDifferenceByTime(t *testing.T) {
	w := newReported(t)
	w.write(reportModel)
	rev := w.apply(granted(t, "T-1", "doc:plan#viewer@user:ann", model.Grant{Condition: "soon", Context: model.AppendContext(nil, model.Value{
		Kind: model.MapValue, Map: []model.Field{{Name: "limit", Value: model.Value{Kind: model.StringValue, String: "2023-11-14T22:14:00Z"}}}})}))
	got := picked(t, EffectiveDifference(background, w.at(rev, 0), w.at(rev, began+60e9)), "change", "subject", "object", "cause", "revision")
	if want := []string{"lost user:ann doc:plan clock "}; !slices.Equal(got, want) {
		t.Errorf("the difference is %q, want %q", got, want)
	}
}

// TestEffectiveDifferenceBudget has more affected than may be held in memory.
func TestEffectiveDifferenceBudget(t *testing.T) {
	w := newReported(t)
	w.engine = query.NewEngine(query.Budgets{List: model.Budget{Memory: 50 * partBytes}})
	w.write(reportModel)
	from := w.head()
	c := ledger.Command{}
	for i := range 100 {
		c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Grant, Tuple: parsed(t, fmt.Sprintf("doc:d%d#viewer@user:u%d", i, i))})
	}
	to := w.apply(c)
	var failed error
	for _, err := range EffectiveDifference(background, w.at(from, 0), w.at(to, 0)).Rows {
		if failed = err; err == nil {
			t.Fatal("a row came before all that is affected was found")
		}
	}
	var budget *model.BudgetError
	if !errors.As(failed, &budget) || budget.What != "memory" || !strings.HasPrefix(failed.Error(), "compare moments nearer to each other") {
		t.Errorf("the difference fails with %v, want the budget of memory", failed)
	}
}

func TestRecordedChanges(t *testing.T) {
	w := newReported(t)
	w.write(reportModel)
	from := w.head()
	w.apply(granting(t, "T-1", "doc:plan#viewer@user:ann", "doc:plan#viewer@user:bob"))
	again := granting(t, "", "doc:plan#viewer@user:ann", "doc:plan#viewer@user:cat")
	again.Channel, again.Reason, again.ID = "okta", "onboarding, \"all\"", ledger.NewUUID()
	w.apply(again)
	w.decide("root", again)
	w.decide("mallory", granting(t, "", "file:plan#viewer@user:ann"))
	timed := granting(t, "T-2", "doc:plan#viewer@user:dan")
	timed.Changes[0].ExpiresAfter = 3600e9
	timed.Channel = "terraform"
	w.apply(timed)
	w.apply(revoking(t, "T-3", "doc:plan#viewer@user:nobody"))

	columns := []string{"revision", "actor", "ticket", "channel", "outcome", "because", "change", "of", "granted", "effective"}
	got := picked(t, RecordedChanges(background, from+1, w.at(0, 0), query.EntryFilter{}), columns...)
	want := []string{
		"3 root T-1  applied  grant doc:plan#viewer@user:ann granted yes",
		"3 root T-1  applied  grant doc:plan#viewer@user:bob granted yes",
		"4 root  okta applied  grant doc:plan#viewer@user:ann granted no",
		"4 root  okta applied  grant doc:plan#viewer@user:cat granted yes",
		"5 root  okta duplicate repeats revision 4 grant doc:plan#viewer@user:ann granted no",
		"5 root  okta duplicate repeats revision 4 grant doc:plan#viewer@user:cat granted no",
		`6 mallory   rejected changes[0].tuple.object.type: the model has no type "file" (not_found) grant file:plan#viewer@user:ann granted no`,
		"7 root T-2 terraform applied  grant doc:plan#viewer@user:dan granted until 2023-11-14T23:13:20.000000007Z yes",
		"8 root T-3  applied  revoke doc:plan#viewer@user:nobody  no",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the changes are\n%swant\n%s", sprint(got), sprint(want))
	}
	for _, tt := range []struct {
		name string
		f    query.EntryFilter
		want string
	}{
		{"without ticket", query.EntryFilter{WithoutTicket: true}, "1 4 4 5 5 6"},
		{"outside okta", query.EntryFilter{OutsideChannels: []string{"okta"}}, "1 2 3 3 6 7 8"},
		{"outside both", query.EntryFilter{OutsideChannels: []string{"okta", "terraform"}}, "1 2 3 3 6 8"},
		{"of one tuple", query.EntryFilter{Subject: parsed(t, "doc:plan#viewer@user:ann").Subject, Kinds: []ledger.ChangeKind{ledger.Grant}}, "3 4 5 6"},
		{"by one actor", query.EntryFilter{Actor: "mallory"}, "6"},
		{"both", query.EntryFilter{WithoutTicket: true, OutsideChannels: []string{"okta"}}, "1 6"},
	} {
		if got := strings.Join(picked(t, RecordedChanges(background, 1, w.at(0, 0), tt.f), "revision"), " "); got != tt.want {
			t.Errorf("%s: revisions %s, want %s", tt.name, got, tt.want)
		}
	}
	if got := picked(t, RecordedChanges(background, 1, w.at(2, 0), query.EntryFilter{}), "revision", "change"); !slices.Equal(got, []string{"1 create_store", "2 write_model"}) {
		t.Errorf("the first changes are %q", got)
	}
}

// TestChangesOfSystem has bytes that are no command.
func TestChangesOfSystem(t *testing.T) {
	w := newReported(t)
	w.raw("someone", []byte("no command"))
	w.store = ledger.System
	got := picked(t, RecordedChanges(background, 1, w.at(0, 0), query.EntryFilter{}), "revision", "actor", "outcome", "change", "of")
	if want := "2 someone rejected  bytes that are no command"; len(got) != 2 || got[1] != want {
		t.Errorf("the changes of system are %q, want %q last", got, want)
	}
}

// TestOldViews holds that a report that goes on for long takes another view of the same
// revision between its lists, while the store goes on, and that a list that is read for
// too long fails.
func TestOldViews(t *testing.T) {
	w := newReported(t)
	w.write(reportModel)
	for i := range 5 {
		w.apply(granting(t, "", fmt.Sprintf("doc:d%d#viewer@user:ann", i), fmt.Sprintf("folder:f%d#viewer@user:ann", i)))
	}
	m := w.at(0, 0)
	want := all(t, access(t, m))
	first := m.view
	m.opened = m.opened.Add(-2 * viewAge)
	var got [][]string
	for row, err := range access(t, m).Rows {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, row.Cells)
		w.apply(granting(t, "", fmt.Sprintf("doc:new%d#viewer@user:ann", len(got))))
		if m.view == first {
			t.Fatal("an old view is kept")
		}
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("with another view the rows are %q, want %q", got, want)
	}
	rows := 0
	var failed error
	for _, err := range access(t, m).Rows {
		if rows++; err != nil {
			failed = err
			break
		}
		m.opened = m.opened.Add(-2 * viewLife) // a caller that takes its time
	}
	if !errors.Is(failed, ledger.ErrUnavailable) || rows != 2 {
		t.Errorf("a slow caller got %d rows and %v", rows, failed)
	}
}

func access(t *testing.T, m *Moment) Report {
	t.Helper()
	r, err := AccessOfSubject(background, m, parsed(t, "doc:d#viewer@user:ann").Subject)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
