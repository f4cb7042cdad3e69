// Package files reads the files that people keep beside their code: models, and store
// files (store.fga.yaml), which hold a model, tuples and what is asserted of them, as the
// command line of OpenFGA has them.
//
// Format: https://github.com/openfga/cli/blob/main/docs/STORE_FILE.md. Beyond it, fields
// that it does not have are mistakes, a file of tuples may be .jsonl, and identical
// tuples count once.
package files

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"gopkg.in/yaml.v3"
)

// A Place is a line of a file.
type Place struct {
	File string
	Line int // from 1
}

// String returns file:line.
func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// A Store is what a store file holds.
type Store struct {
	Name   string // may be ""
	Model  ledger.ModelSource
	Tuples []Tuple // none twice
	Tests  []Test
}

// A Test is a list of assertions.
type Test struct {
	Place       Place
	Name        string  // may be ""
	Tuples      []Tuple // beside those of the store, none twice; one that is there too stands in its place
	Assertions  []Assertion
	Description string
}

// A Kind is what an assertion asks.
type Kind string

// The kinds of assertion, by their names in the file.
const (
	Check       Kind = "check"        // of Subject, Relation, Object: Allowed
	ListObjects Kind = "list_objects" // of Subject, Relation, Type: List
	ListUsers   Kind = "list_users"   // of Object, Relation, Kinds: List
)

// An Assertion is one question with the answer that is wanted.
type Assertion struct {
	Place    Place
	Kind     Kind
	Subject  tuple.Subject
	Relation string
	Object   tuple.Object
	Type     string
	Kinds    []model.Kind // one or more, whose lists together are wanted
	Context  model.Value  // a map, or null
	Allowed  bool
	List     []string // objects or subjects in full, sorted, none twice
}

// Question says what is asked, for people.
func (a *Assertion) Question() string {
	switch a.Kind {
	case Check:
		return fmt.Sprintf("check %s %s %s", a.Subject, a.Relation, a.Object)
	case ListObjects:
		return fmt.Sprintf("list_objects %s %s %s", a.Subject, a.Relation, a.Type)
	}
	kinds := make([]string, len(a.Kinds))
	for i, k := range a.Kinds {
		if kinds[i] = k.Type; k.Relation != "" {
			kinds[i] += "#" + k.Relation
		}
	}
	return fmt.Sprintf("list_users %s %s %s", strings.Join(kinds, ","), a.Relation, a.Object)
}

// ReadStore reads a store file and the files that it names, whose names count from where
// it stands. What is wrong is a [*dsl.Errors], in which files have the names to open
// them by, sorted, at most [MaxMistakes]; a file that cannot be read is one too.
func ReadStore(name string) (*Store, error) {
	r := &reader{}
	data, ok, done := r.read(name)
	defer done()
	s := &Store{}
	if ok {
		if n := r.document(data); n != nil {
			r.store(n, s, strings.Split(string(data), "\n"))
		}
	}
	if len(r.mistakes) > 0 {
		Sort(r.mistakes)
		return nil, &r.mistakes
	}
	return s, nil
}

// Sort sorts mistakes by their places.
func Sort(mistakes dsl.Errors) {
	slices.SortStableFunc(mistakes, func(a, b dsl.Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}

func (r *reader) store(n *yaml.Node, s *Store, lines []string) {
	var inline, modelFile *yaml.Node
	_, some := r.mapping(n, "a store file", map[string]func(*yaml.Node){
		"name":       func(n *yaml.Node) { s.Name = r.text(n, "name") },
		"model":      func(n *yaml.Node) { inline = n },
		"model_file": func(n *yaml.Node) { modelFile = n },
		"tuples":     func(n *yaml.Node) { s.Tuples = append(s.Tuples, r.tuples(n)...) },
		"tuple_file": func(n *yaml.Node) { s.Tuples = append(s.Tuples, r.tupleFile(n, r.text(n, "tuple_file"))...) },
		"tuple_files": func(n *yaml.Node) {
			r.texts(n, "tuple_files", func(at *yaml.Node, name string) {
				s.Tuples = append(s.Tuples, r.tupleFile(at, name)...)
			})
		},
		"tests": func(n *yaml.Node) {
			r.sequence(n, "tests", func(n *yaml.Node) {
				var t Test
				r.test(n, &t)
				s.Tests = append(s.Tests, t)
			})
		},
	})
	if !some {
		return
	}
	s.Tuples = r.distinct(s.Tuples)
	text := ""
	if inline != nil {
		text = r.text(inline, "model")
	}
	switch {
	case text != "": // which stands before model_file, as OpenFGA has it
		r.inline(inline, text, s, lines)
	case modelFile != nil:
		r.modelFile(modelFile, s)
	default:
		r.at(n, "there must be a model or a model_file")
	}
}

// inline compiles the model that stands in the store file, whose lines are given to find
// the places of its mistakes: the library does not say how far a text is indented.
func (r *reader) inline(n *yaml.Node, text string, s *Store, lines []string) {
	var err error
	s.Model, err = dsl.Compile(ledger.SourceDSL, []byte(text), dsl.Limits{Types: model.MaxTypes})
	var mistakes *dsl.Errors
	switch {
	case errors.As(err, &mistakes):
		own := strings.Split(text, "\n")
		for _, e := range *mistakes {
			line, col := n.Line, n.Column
			if at := n.Line + e.Line; e.Line > 0 && n.Style&yaml.LiteralStyle != 0 && e.Line <= len(own) && at <= len(lines) {
				line, col = at, e.Col
				if before, _, found := strings.Cut(lines[at-1], own[e.Line-1]); found {
					col += len(before)
				}
			}
			r.fail(line, col, "%s", e.Message)
		}
	case err != nil:
		r.at(n, "%v", err)
	}
}

func (r *reader) modelFile(n *yaml.Node, s *Store) {
	name := r.text(n, "model_file")
	if name == "" {
		r.at(n, "there must be the name of a file")
		return
	}
	name = filepath.Join(filepath.Dir(r.file), filepath.FromSlash(name))
	kind, source, err := ReadModel(name)
	if err == nil {
		s.Model, err = dsl.Compile(kind, source, dsl.Limits{Types: model.MaxTypes})
	}
	Rename(err, name)
	var mistakes *dsl.Errors
	switch {
	case errors.As(err, &mistakes):
		r.mistakes = append(r.mistakes, *mistakes...)
	case err != nil:
		r.at(n, "%v", err)
	}
}

func (r *reader) test(n *yaml.Node, t *Test) {
	at, some := r.mapping(n, "a test", map[string]func(*yaml.Node){
		"name":        func(n *yaml.Node) { t.Name = r.text(n, "name") },
		"description": func(n *yaml.Node) { t.Description = r.text(n, "description") },
		"tuples":      func(n *yaml.Node) { t.Tuples = append(t.Tuples, r.tuples(n)...) },
		"tuple_file":  func(n *yaml.Node) { t.Tuples = append(t.Tuples, r.tupleFile(n, r.text(n, "tuple_file"))...) },
		"tuple_files": func(n *yaml.Node) {
			r.texts(n, "tuple_files", func(at *yaml.Node, name string) { t.Tuples = append(t.Tuples, r.tupleFile(at, name)...) })
		},
		"check":        func(n *yaml.Node) { r.sequence(n, "check", func(n *yaml.Node) { r.check(n, t) }) },
		"list_objects": func(n *yaml.Node) { r.sequence(n, "list_objects", func(n *yaml.Node) { r.listObjects(n, t) }) },
		"list_users":   func(n *yaml.Node) { r.sequence(n, "list_users", func(n *yaml.Node) { r.listUsers(n, t) }) },
	})
	t.Place = Place{r.file, at.Line}
	if !some {
		return
	}
	t.Tuples = r.distinct(t.Tuples)
}

// oneOrMore reads a field that holds one text, and its other form that holds several.
// The field counts as wrong unless exactly one form is there.
type oneOrMore struct {
	one, more string
	list      []string
	both      bool
}

func (r *reader) either(o *oneOrMore, fields map[string]func(*yaml.Node)) {
	fields[o.one] = func(n *yaml.Node) {
		o.both = o.both || o.list != nil
		o.list = []string{r.text(n, o.one)}
	}
	fields[o.more] = func(n *yaml.Node) {
		o.both = o.both || o.list != nil
		o.list = []string{}
		r.texts(n, o.more, func(_ *yaml.Node, text string) { o.list = append(o.list, text) })
	}
}

func (r *reader) given(o *oneOrMore, at *yaml.Node) {
	if o.both || len(o.list) == 0 {
		r.at(at, "there must be either %s or %s", o.one, o.more)
	}
}

// assertions reads the mapping of relations to answers, which must not be empty: what
// asserts nothing always holds.
func (r *reader) assertions(n, at *yaml.Node, read func(relation string, at, value *yaml.Node)) {
	if n != nil {
		if m, some := r.enter(n); some && m.Kind == yaml.MappingNode {
			none := true
			r.each(m, func(relation string, at, value *yaml.Node) {
				none = false
				if err := tuple.ValidateRelation("relation", relation); err != nil {
					r.at(at, "%v", err)
				}
				read(relation, at, value)
			})
			if !none {
				return
			}
		}
		at = n
	}
	r.at(at, "there must be assertions, a mapping of relations to answers")
}

func (r *reader) check(n *yaml.Node, t *Test) {
	users, objects := oneOrMore{one: "user", more: "users"}, oneOrMore{one: "object", more: "objects"}
	var context model.Value
	var asserted *yaml.Node
	fields := map[string]func(*yaml.Node){
		"context":    func(n *yaml.Node) { context = r.context(n) },
		"assertions": func(n *yaml.Node) { asserted = n },
	}
	r.either(&users, fields)
	r.either(&objects, fields)
	at, some := r.mapping(n, "a check", fields)
	if !some {
		return
	}
	r.given(&users, at)
	r.given(&objects, at)
	var subjects []tuple.Subject
	for _, u := range users.list {
		subjects = append(subjects, r.subject(at.Line, at.Column, u))
	}
	var asked []tuple.Object
	for _, o := range objects.list {
		asked = append(asked, r.object(at.Line, at.Column, o))
	}
	r.assertions(asserted, at, func(relation string, at, value *yaml.Node) {
		want := r.truth(value, "the answer to a check")
		if r.checks += len(subjects) * len(asked); r.checks > maxChecks {
			r.at(at, "there are too many users and objects: a file may assert %d checks", maxChecks)
			return
		}
		for _, s := range subjects {
			for _, o := range asked {
				t.Assertions = append(t.Assertions, Assertion{Place: Place{r.file, at.Line}, Kind: Check,
					Subject: s, Relation: relation, Object: o, Context: context, Allowed: want})
			}
		}
	})
}

func (r *reader) listObjects(n *yaml.Node, t *Test) {
	var user, typ string
	var context model.Value
	var asserted *yaml.Node
	at, some := r.mapping(n, "a list of objects", map[string]func(*yaml.Node){
		"user":       func(n *yaml.Node) { user = r.text(n, "user") },
		"type":       func(n *yaml.Node) { typ = r.text(n, "type") },
		"context":    func(n *yaml.Node) { context = r.context(n) },
		"assertions": func(n *yaml.Node) { asserted = n },
	})
	if !some {
		return
	}
	subject := r.subject(at.Line, at.Column, user)
	if err := tuple.ValidateType("type", typ); err != nil {
		r.at(at, "%v", err)
	}
	r.assertions(asserted, at, func(relation string, at, value *yaml.Node) {
		var want []string
		r.texts(value, "the objects", func(at *yaml.Node, text string) {
			if r.object(at.Line, at.Column, text).Type != typ {
				r.at(at, "must be an object of type %s, is %s", typ, text)
			}
			want = append(want, text)
		})
		t.Assertions = append(t.Assertions, Assertion{Place: Place{r.file, at.Line}, Kind: ListObjects,
			Subject: subject, Relation: relation, Type: typ, Context: context, List: sorted(want)})
	})
}

func (r *reader) listUsers(n *yaml.Node, t *Test) {
	var object string
	var kinds []model.Kind
	var context model.Value
	var asserted *yaml.Node
	at, some := r.mapping(n, "a list of users", map[string]func(*yaml.Node){
		"object": func(n *yaml.Node) { object = r.text(n, "object") },
		"user_filter": func(n *yaml.Node) {
			r.sequence(n, "user_filter", func(n *yaml.Node) {
				var k model.Kind
				at, _ := r.mapping(n, "a user_filter", map[string]func(*yaml.Node){
					"type":     func(n *yaml.Node) { k.Type = r.text(n, "type") },
					"relation": func(n *yaml.Node) { k.Relation = r.text(n, "relation") },
				})
				if err := tuple.ValidateType("type", k.Type); err != nil {
					r.at(at, "%v", err)
				}
				kinds = append(kinds, k)
			})
		},
		"context":    func(n *yaml.Node) { context = r.context(n) },
		"assertions": func(n *yaml.Node) { asserted = n },
	})
	if !some {
		return
	}
	o := r.object(at.Line, at.Column, object)
	if len(kinds) == 0 {
		r.at(at, "there must be a user_filter, a list of types")
	}
	r.assertions(asserted, at, func(relation string, at, value *yaml.Node) {
		var want []string
		r.optional(value, "the answer to a list of users", map[string]func(*yaml.Node){
			"users": func(n *yaml.Node) {
				r.texts(n, "users", func(at *yaml.Node, text string) {
					r.subject(at.Line, at.Column, text)
					want = append(want, text)
				})
			},
		})
		t.Assertions = append(t.Assertions, Assertion{Place: Place{r.file, at.Line}, Kind: ListUsers,
			Relation: relation, Object: o, Kinds: kinds, Context: context, List: sorted(want)})
	})
}

// sorted returns the texts in order, each once.
func sorted(texts []string) []string {
	slices.Sort(texts)
	return slices.Compact(texts)
}
