package audit

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/querytest"
)

// TestAccess compares, in random histories, both reports of access at many moments with
// what the oracle says: what is held, by whom, and what has no answer.
func TestAccess(t *testing.T) {
	told := make(map[string]int)
	for seed := uint64(1); seed <= 10; seed++ {
		pairs(t, seed, 10, func(_ *reported, c *compared) bool {
			said := make(map[string]string)
			take := func(r Report, err error, key func(cells []string) string) {
				if err != nil {
					t.Fatalf("%s: %v", c.where, err)
				}
				for _, cells := range all(t, r) {
					k := key(cells)
					if said[k] != "" {
						t.Fatalf("%s: %s stands twice", c.where, k)
					}
					access, _, _ := strings.Cut(cells[slices.Index(r.Columns, "access")], ":")
					said[k] = access
					told[access]++
				}
			}
			subjects, objects := make(map[tuple.Subject]bool), make(map[tuple.Object]bool)
			for tup := range c.after {
				subjects[tup.Subject], objects[tup.Object] = true, true
			}
			known := func(typ string) bool { _, ok := c.b.model.Type(typ); return ok }
			for s := range subjects {
				if c.b.known("", s.Type, s.Relation) == nil {
					r, err := AccessOfSubject(background, c.b, s)
					take(r, err, func(cells []string) string { return cells[2] + "#" + cells[1] + "@" + s.String() })
				}
			}
			ofSubjects := said
			said = make(map[string]string)
			for o := range objects {
				if known(o.Type) {
					r, err := AccessToObject(background, c.b, o)
					take(r, err, func(cells []string) string { return o.String() + "#" + cells[0] + "@" + cells[1] })
				}
			}
			for tup, v := range c.after {
				want := [...]string{querytest.Denied: "", querytest.Failed: undecided, querytest.Allowed: held}[v]
				if got := ofSubjects[tup.String()]; got != want {
					t.Fatalf("%s: %s: the report of the subject says %q, the oracle %v\n%s", c.where, tup, got, v, c.worlds)
				}
				everyone := tup
				everyone.Subject.ID = tuple.Wildcard
				got, named := said[tup.String()]
				if own(tup, [2]*model.Model{c.b.model}) {
					if named {
						t.Fatalf("%s: %s: the report of the object tells what the rules alone say", c.where, tup)
					}
					continue
				}
				if !named && tup.Subject.Relation == "" {
					got = said[everyone.String()]
				}
				if got == excluded {
					got = ""
				}
				if got != want {
					t.Fatalf("%s: %s: the report of the object says %q, the oracle %v\n%s", c.where, tup, got, v, c.worlds)
				}
			}
			return true
		})
	}
	t.Logf("rows %v", told)
	for _, access := range []string{held, undecided, excluded} {
		if told[access] == 0 {
			t.Errorf("no row is %s", access)
		}
	}
}

func TestAccessPaths(t *testing.T) {
	w := newReported(t)
	w.write(reportModel)
	w.apply(granting(t, "T-1", "doc:plan#parent@folder:sub", "folder:sub#parent@folder:top", "folder:top#viewer@group:eng#member"))
	w.apply(granted(t, "T-2", "group:eng#member@user:ann", model.Grant{ExpiresAt: began + 1e9}))
	w.apply(granting(t, "", "doc:open#viewer@user:*", "doc:open#blocked@user:eve"))
	w.apply(granted(t, "T-4", "doc:open#viewer@user:bob", model.Grant{Condition: "office"}))
	eng := "folder:top#viewer@group:eng#member (revision 3, root, T-1) < group:eng#member@user:ann (revision 4, root, T-2, until 2023-11-14T22:13:21Z)"
	r, err := AccessOfSubject(background, w.at(0, 0), parsed(t, "doc:plan#owner@user:ann").Subject)
	if err != nil {
		t.Fatal(err)
	}
	got := picked(t, r, "type", "relation", "object", "access", "path", "cause", "revision", "ticket")
	want := []string{
		"group member group:eng held group:eng#member@user:ann (revision 4, root, T-2, until 2023-11-14T22:13:21Z) command 4 T-2",
		"folder viewer folder:sub held folder:sub#parent@folder:top (revision 3, root, T-1) < " + eng + " command 4 T-2",
		"folder viewer folder:top held " + eng + " command 4 T-2",
		"doc viewer doc:open held doc:open#viewer@user:* (revision 5, root) command 5 ",
		"doc viewer doc:plan held doc:plan#parent@folder:sub (revision 3, root, T-1) < folder:sub#parent@folder:top (revision 3, root, T-1) < " + eng + " command 4 T-2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("user:ann reaches\n%swant\n%s", sprint(got), sprint(want))
	}
	if r, err = AccessToObject(background, w.at(0, 0), parsed(t, "doc:open#owner@user:ann").Object); err != nil {
		t.Fatal(err)
	}
	got = picked(t, r, "relation", "subject", "access", "path", "cause", "revision")
	want = []string{
		"blocked user:eve held doc:open#blocked@user:eve (revision 5, root) command 5",
		"viewer user:* held doc:open#viewer@user:* (revision 5, root) command 5",
		"viewer user:bob held doc:open#viewer@user:* (revision 5, root) command 5",
		"viewer user:eve excluded  never ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("doc:open is reached by\n%swant\n%s", sprint(got), sprint(want))
	}
}

func TestUnknownAccess(t *testing.T) {
	w := newReported(t)
	s, o := parsed(t, "robot:r2#viewer@robot:r2").Subject, parsed(t, "robot:r2#viewer@robot:r2").Object
	for _, want := range []string{query.ErrNoModel.Error(), `the model has no type "robot"`} {
		_, ofSubject := AccessOfSubject(background, w.at(0, 0), s)
		_, toObject := AccessToObject(background, w.at(0, 0), o)
		for _, err := range []error{ofSubject, toObject} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want %s", err, want)
			}
		}
		w.write(reportModel)
	}
	_, err := AccessOfSubject(background, w.at(0, 0), parsed(t, "doc:d#viewer@group:eng#owner").Subject)
	if want := `subject: type "group" has no relation "owner"`; fmt.Sprint(err) != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

// TestCausesByTime has a grant that counts in a window of time alone: no report says that it
// is held since it was granted, which it was not.
func TestCausesByTime(t *testing.T) {
	w := newReported(t)
	w.write(`
model
  schema 1.1
type user
type doc
  relations
    define viewer: [user, user with window]
condition window(from: timestamp, until: timestamp) {
  now >= from && now < until
}
`)
	within := func(from, until string) model.Grant {
		return model.Grant{Condition: "window", Context: model.AppendContext(nil, model.Value{Kind: model.MapValue, Map: []model.Field{
			{Name: "from", Value: model.Value{Kind: model.StringValue, String: from}},
			{Name: "until", Value: model.Value{Kind: model.StringValue, String: until}},
		}})}
	}
	w.apply(granting(t, "T-1", "doc:a#viewer@user:ann"))
	w.apply(granted(t, "T-2", "doc:a#viewer@user:bob", within("2023-11-14T22:13:30Z", "2023-11-14T22:13:40Z"))) // from began+10 s
	w.apply(granted(t, "T-3", "doc:a#viewer@user:cy", within("2000-01-01T00:00:00Z", "2023-11-14T22:13:40Z")))
	in, after := began+int64(15e9), began+int64(25e9)
	r, err := AccessToObject(background, w.at(0, in), parsed(t, "doc:a#viewer@user:ann").Object)
	if err != nil {
		t.Fatal(err)
	}
	got := picked(t, r, "subject", "access", "cause", "time", "revision", "ticket")
	want := []string{
		"user:ann held command 2023-11-14T22:13:20.000000003Z 3 T-1",
		"user:bob held clock 2023-11-14T22:13:20.000000004Z  ",
		"user:cy held command or clock 2023-11-14T22:13:20.000000005Z 5 T-3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("doc:a is reached by\n%swant\n%s", sprint(got), sprint(want))
	}
	columns := []string{"change", "subject", "cause", "time", "revision"}
	got = picked(t, EffectiveDifference(background, w.at(2, 0), w.at(0, in)), columns...)
	want = []string{
		"gained user:ann command 2023-11-14T22:13:20.000000003Z 3",
		"gained user:bob clock 2023-11-14T22:13:20.000000004Z ",
		"gained user:cy command or clock 2023-11-14T22:13:20.000000005Z 5",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the difference is\n%swant\n%s", sprint(got), sprint(want))
	}
	got = picked(t, EffectiveDifference(background, w.at(0, in), w.at(0, after)), columns...)
	want = []string{
		"lost user:bob clock 2023-11-14T22:13:35Z ",
		"lost user:cy clock 2023-11-14T22:13:35Z ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the difference is\n%swant\n%s", sprint(got), sprint(want))
	}
}
