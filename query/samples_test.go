package query_test

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
	"gopkg.in/yaml.v3"
)

// A sampleStore is what a store file of the public project holds, in its words.
type sampleStore struct {
	Model     string
	ModelFile string `yaml:"model_file"`
	Tuples    []sampleTuple
	TupleFile string `yaml:"tuple_file"`
	Tests     []struct {
		Name   string
		Tuples []sampleTuple
		Check  []struct {
			User, Object string
			Context      map[string]any
			Assertions   map[string]bool
		}
		ListObjects []struct {
			User, Type string
			Context    map[string]any
			Assertions map[string][]string
		} `yaml:"list_objects"`
		ListUsers []struct {
			Object     string
			UserFilter []struct{ Type, Relation string } `yaml:"user_filter"`
			Context    map[string]any
			Assertions map[string]struct{ Users []string }
		} `yaml:"list_users"`
	}
}

type sampleTuple struct {
	User, Relation, Object string
	Condition              struct {
		Name    string
		Context map[string]any
	}
}

// value returns a value of YAML as a context has it.
func value(t *testing.T, v any) model.Value {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	switch v := v.(type) {
	case map[string]any:
		m := model.Value{Kind: model.MapValue}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			m.Map = append(m.Map, model.Field{Name: name, Value: value(t, v[name])})
		}
		return m
	case []any:
		l := model.Value{Kind: model.ListValue}
		for _, e := range v {
			l.List = append(l.List, value(t, e))
		}
		return l
	case string:
		return model.Value{Kind: model.StringValue, String: v}
	case bool:
		return model.Value{Kind: model.BoolValue, Bool: v}
	case nil:
		return model.Value{}
	}
	number, err := model.ParseJSON([]byte(strings.TrimSpace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func contextOf(t *testing.T, values map[string]any) model.Value {
	if values == nil {
		return model.Value{}
	}
	return value(t, values)
}

// grants returns the tuples as changes, and as contextual tuples.
func grants(t *testing.T, tuples []sampleTuple) (changes []ledger.Change, contextual []query.Contextual) {
	t.Helper()
	for _, s := range tuples {
		tup := parse(t, s.Object+"#"+s.Relation+"@"+s.User)
		c := query.Contextual{Tuple: tup, Condition: s.Condition.Name, Context: contextOf(t, s.Condition.Context)}
		g := model.Grant{Condition: c.Condition}
		if s.Condition.Context != nil {
			g.Context = model.AppendContext(nil, c.Context)
		}
		changes, contextual = append(changes, ledger.Change{Kind: ledger.Grant, Tuple: tup, Grant: g}), append(contextual, c)
	}
	return changes, contextual
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// sampleModel compiles the model of a store file.
func sampleModel(t *testing.T, dir string, s *sampleStore) ledger.ModelSource {
	t.Helper()
	kind, source := ledger.SourceDSL, []byte(s.Model)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if s.ModelFile != "" {
		if source = read(s.ModelFile); filepath.Base(s.ModelFile) == dsl.ModFile {
			names, err := dsl.ModuleNames(source)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string][]byte{dsl.ModFile: source}
			for _, n := range names {
				files[n] = read(filepath.Join(filepath.Dir(s.ModelFile), n))
			}
			kind = ledger.SourceModules
			if source, err = dsl.JoinModules(files); err != nil {
				t.Fatal(err)
			}
		}
	}
	m, err := dsl.Compile(kind, source, dsl.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSampleStores asks what the public project's sample stores assert: checks, lists of
// objects and lists of users. Their store files and answers are others' work, so that
// here we are not merely right by our own understanding of the language.
func TestSampleStores(t *testing.T) {
	root := os.Getenv("GRANTLOG_CASES")
	if root == "" {
		root = filepath.Join("..", "..", "shared", "cases")
	}
	dir := filepath.Join(root, "sample-stores")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no public test cases: %s; GRANTLOG_CASES names their folder", err)
	}
	asserted := make(map[string]int)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".fga.yaml") {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		t.Run(name, func(t *testing.T) {
			var s sampleStore
			readYAML(t, path, &s)
			if s.TupleFile != "" {
				var more []sampleTuple
				readYAML(t, filepath.Join(filepath.Dir(path), s.TupleFile), &more)
				s.Tuples = append(s.Tuples, more...)
			}
			w := newWorld(t, source)
			w.fold(&ledger.Command{Store: w.store, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: sampleModel(t, filepath.Dir(path), &s)}}})
			if changes, _ := grants(t, s.Tuples); len(changes) > 0 {
				w.fold(&ledger.Command{Store: w.store, Changes: changes})
			}
			a := w.ask(query.NewEngine(query.Budgets{}), start+1<<40)
			for _, test := range s.Tests {
				_, contextual := grants(t, test.Tuples)
				for _, c := range test.Check {
					given := query.Given{Contextual: contextual, Context: contextOf(t, c.Context)}
					for relation, want := range c.Assertions {
						asserted["checks"]++
						got, err := a.Check(context.Background(), query.Question{Tuple: parse(t, c.Object+"#"+relation+"@"+c.User), Given: given})
						if err != nil || got.Allowed != want {
							t.Errorf("%s: %s %s %s = %v, %v, want %v", test.Name, c.User, relation, c.Object, got.Allowed, err, want)
						}
					}
				}
				for _, l := range test.ListObjects {
					given := query.Given{Contextual: contextual, Context: contextOf(t, l.Context)}
					for relation, want := range l.Assertions {
						asserted["lists of objects"]++
						ids, err := collect(a.ListObjects(context.Background(), query.ObjectsQuestion{Subject: subject(t, l.User), Relation: relation, Type: l.Type, Given: given}, ""))
						wantList(t, test.Name+": "+l.User+" "+relation, ids, err, want, func(id string) string { return l.Type + ":" + id })
					}
				}
				for _, l := range test.ListUsers {
					given := query.Given{Contextual: contextual, Context: contextOf(t, l.Context)}
					object, err := tuple.ParseObject(l.Object)
					if err != nil {
						t.Fatal(err)
					}
					for relation, want := range l.Assertions {
						asserted["lists of users"]++
						kind := model.Kind{Type: l.UserFilter[0].Type, Relation: l.UserFilter[0].Relation}
						ids, err := collect(a.ListSubjects(context.Background(), query.SubjectsQuestion{Kind: kind, Relation: relation, Object: object, Given: given}, ""))
						wantList(t, test.Name+": "+relation+" "+l.Object, ids, err, want.Users, func(id string) string {
							return tuple.Subject{Type: kind.Type, ID: id, Relation: kind.Relation}.String()
						})
					}
				}
			}
		})
		return nil
	})
	t.Logf("asserted: %v", asserted)
	for what, least := range map[string]int{"checks": 200, "lists of objects": 14, "lists of users": 14} {
		if err != nil || asserted[what] < least {
			t.Errorf("%d %s, %v; want %d or more", asserted[what], what, err, least)
		}
	}
}

func wantList(t *testing.T, about string, ids []string, err error, want []string, full func(string) string) {
	t.Helper()
	var got []string
	for _, id := range ids {
		if !strings.HasSuffix(id, "-") { // excluded
			got = append(got, full(id))
		}
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s = %v, %v, want %v", about, got, err, want)
	}
}
