package query_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/cmd/grantlog/files"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

// grants returns the tuples as changes, and as contextual tuples.
func grants(tuples []files.Tuple) (changes []ledger.Change, contextual []query.Contextual) {
	for _, t := range tuples {
		g := model.Grant{Condition: t.Condition}
		if t.Context.Kind == model.MapValue {
			g.Context = model.AppendContext(nil, t.Context)
		}
		changes, contextual = append(changes, ledger.Change{Kind: ledger.Grant, Tuple: t.Tuple, Grant: g}), append(contextual, t.Contextual)
	}
	return changes, contextual
}

// TestSampleStores asks what the public project's sample stores assert, with the tuples
// of each test as contextual ones. Their store files and answers are others' work, so
// that here we are not merely right by our own understanding of the language.
func TestSampleStores(t *testing.T) {
	root := os.Getenv("GRANTLOG_CASES")
	if root == "" {
		root = filepath.Join("..", "..", "shared", "cases")
	}
	dir := filepath.Join(root, "sample-stores")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no public test cases: %s; GRANTLOG_CASES names their folder", err)
	}
	asserted := make(map[files.Kind]int)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".fga.yaml") {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		t.Run(name, func(t *testing.T) {
			s, err := files.ReadStore(path)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, source)
			w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: s.Model}}})
			if changes, _ := grants(s.Tuples); len(changes) > 0 {
				w.fold(&ledger.Command{Store: w.store, Changes: changes})
			}
			asking := w.ask(query.NewEngine(query.Budgets{}), start+1<<40)
			for _, test := range s.Tests {
				_, contextual := grants(test.Tuples)
				for _, a := range test.Assertions {
					asserted[a.Kind]++
					ask(t, asking, a, query.Given{Contextual: contextual, Context: a.Context})
				}
			}
		})
		return nil
	})
	t.Logf("asserted: %v", asserted)
	for kind, least := range map[files.Kind]int{files.Check: 200, files.ListObjects: 14, files.ListUsers: 14} {
		if err != nil || asserted[kind] < least {
			t.Errorf("%d of %s, %v; want %d or more", asserted[kind], kind, err, least)
		}
	}
}

// ask asks what a sample asserts.
func ask(t *testing.T, asking *query.Asking, a files.Assertion, given query.Given) {
	t.Helper()
	ctx := context.Background()
	var got []string
	full := func(ids []string, err error, full func(id string) string) {
		if err != nil {
			t.Errorf("%s: %s: %v", a.Place, a.Question(), err)
		}
		for _, id := range ids {
			if !strings.HasSuffix(id, "-") { // excluded
				got = append(got, full(id))
			}
		}
	}
	switch a.Kind {
	case files.Check:
		answer, err := asking.Check(ctx, query.Question{Tuple: tuple.Tuple{Object: a.Object, Relation: a.Relation, Subject: a.Subject}, Given: given})
		if err != nil || answer.Allowed != a.Allowed {
			t.Errorf("%s: %s = %v, %v, want %v", a.Place, a.Question(), answer.Allowed, err, a.Allowed)
		}
		return
	case files.ListObjects:
		ids, err := collect(asking.ListObjects(ctx, query.ObjectsQuestion{Subject: a.Subject, Relation: a.Relation, Type: a.Type, Given: given}, ""))
		full(ids, err, func(id string) string { return tuple.Object{Type: a.Type, ID: id}.String() })
	case files.ListUsers:
		for _, k := range a.Kinds {
			ids, err := collect(asking.ListSubjects(ctx, query.SubjectsQuestion{Kind: k, Relation: a.Relation, Object: a.Object, Given: given}, ""))
			full(ids, err, func(id string) string { return tuple.Subject{Type: k.Type, ID: id, Relation: k.Relation}.String() })
		}
	}
	if slices.Sort(got); !slices.Equal(got, a.List) {
		t.Errorf("%s: %s = %v, want %v", a.Place, a.Question(), got, a.List)
	}
}
