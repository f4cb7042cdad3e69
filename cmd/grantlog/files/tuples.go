package files

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
	"gopkg.in/yaml.v3"
)

// A Tuple is a tuple of a file, perhaps with a condition and context for it.
type Tuple struct {
	Place Place
	query.Contextual
}

// tuples reads a list of tuples.
func (r *reader) tuples(n *yaml.Node) (list []Tuple) {
	r.sequence(n, "tuples", func(n *yaml.Node) {
		if t, ok := r.tuple(n); ok {
			list = append(list, t)
		}
	})
	return list
}

// tuple reads one. What is wrong with it is noted.
func (r *reader) tuple(n *yaml.Node) (t Tuple, ok bool) {
	var user, relation, object string
	before := r.failed
	at, some := r.mapping(n, "a tuple", map[string]func(*yaml.Node){
		"user":     func(n *yaml.Node) { user = r.text(n, "user") },
		"relation": func(n *yaml.Node) { relation = r.text(n, "relation") },
		"object":   func(n *yaml.Node) { object = r.text(n, "object") },
		"condition": func(n *yaml.Node) {
			at, some := r.optional(n, "a condition", map[string]func(*yaml.Node){
				"name":    func(n *yaml.Node) { t.Condition = r.text(n, "name") },
				"context": func(n *yaml.Node) { t.Context = r.context(n) },
			})
			if some && t.Condition == "" {
				r.at(at, "a condition must have a name")
			}
		},
	})
	if !some {
		return t, false
	}
	t.Place = Place{r.file, at.Line}
	t.Tuple = r.parts(at.Line, at.Column, user, relation, object)
	return t, r.failed == before
}

// parts makes a tuple of its three texts.
func (r *reader) parts(line, col int, user, relation, object string) (t tuple.Tuple) {
	t.Subject = r.subject(line, col, user)
	if err := tuple.ValidateRelation("relation", relation); err != nil {
		r.fail(line, col, "%v", err)
	}
	t.Relation = relation
	t.Object = r.object(line, col, object)
	return t
}

func (r *reader) subject(line, col int, text string) tuple.Subject {
	if text == "" {
		r.fail(line, col, "there must be a user")
		return tuple.Subject{}
	}
	s, err := tuple.ParseSubject(text)
	if err != nil {
		r.fail(line, col, "user: %v", err)
	}
	return s
}

func (r *reader) object(line, col int, text string) tuple.Object {
	if text == "" {
		r.fail(line, col, "there must be an object")
		return tuple.Object{}
	}
	o, err := tuple.ParseObject(text)
	if err != nil {
		r.fail(line, col, "object: %v", err)
	}
	return o
}

// tupleFile reads the file that a store file names.
func (r *reader) tupleFile(at *yaml.Node, name string) (list []Tuple) {
	if name == "" {
		r.at(at, "there must be the name of a file")
		return nil
	}
	data, ok, done := r.read(filepath.Join(filepath.Dir(r.file), filepath.FromSlash(name)))
	defer done()
	if !ok {
		return nil
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		if n := r.document(data); n != nil {
			return r.tuples(n)
		}
	case ".jsonl":
		return r.lines(data)
	case ".csv":
		return r.csv(data)
	default:
		r.fail(0, 0, "the name of a file of tuples ends with .yaml, .yml, .json, .jsonl or .csv")
	}
	return nil
}

// lines reads one JSON object a line.
func (r *reader) lines(data []byte) (list []Tuple) {
	line := 0
	for text := range bytes.Lines(data) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		var doc yaml.Node
		if err := yaml.Unmarshal(text, &doc); err != nil || len(doc.Content) == 0 {
			r.fail(line, 0, "is no JSON object")
			continue
		}
		shift(&doc, line-1)
		if t, ok := r.tuple(doc.Content[0]); ok {
			list = append(list, t)
		}
	}
	return list
}

// shift moves nodes down by so many lines.
func shift(n *yaml.Node, lines int) {
	n.Line += lines
	for _, c := range n.Content {
		shift(c, lines)
	}
}

// columns are those that a CSV file may have, each with whether it must.
var columns = []struct {
	name string
	must bool
}{
	{"user_type", true}, {"user_id", true}, {"user_relation", false}, {"relation", true},
	{"object_type", true}, {"object_id", true}, {"condition_name", false}, {"condition_context", false},
}

// csv reads tuples by the columns that the first line names, in any order.
func (r *reader) csv(data []byte) (list []Tuple) {
	c := csv.NewReader(bytes.NewReader(data))
	header, err := c.Read()
	if err != nil {
		r.csvFault(err)
		return nil
	}
	column := make(map[string]int)
	for i, name := range header {
		name = strings.TrimSpace(name)
		if _, twice := column[name]; twice {
			r.fail(1, 0, "the column %q stands here twice", name)
		}
		column[name] = i
	}
	known := make(map[string]bool)
	for _, k := range columns {
		known[k.name] = true
		if _, ok := column[k.name]; !ok && k.must {
			r.fail(1, 0, "there must be a column %s", k.name)
			return nil
		}
	}
	for _, name := range header {
		if !known[strings.TrimSpace(name)] {
			r.fail(1, 0, "there is no column %q; there may be user_type, user_id, user_relation, relation, object_type, object_id, condition_name and condition_context", name)
			return nil
		}
	}
	for {
		row, err := c.Read()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			r.csvFault(err)
			return list
		}
		field := func(name string) string {
			if i, ok := column[name]; ok {
				return row[i]
			}
			return ""
		}
		line, _ := c.FieldPos(0)
		before := r.failed
		user := field("user_type") + ":" + field("user_id")
		if relation := field("user_relation"); relation != "" {
			user += "#" + relation
		}
		t := Tuple{Place: Place{r.file, line}}
		t.Tuple = r.parts(line, 0, user, field("relation"), field("object_type")+":"+field("object_id"))
		t.Condition = field("condition_name")
		if text := field("condition_context"); text != "" {
			v, err := model.ParseJSON([]byte(text))
			switch {
			case err != nil:
				r.fail(line, 0, "condition_context: %v", err)
			case v.Kind != model.MapValue:
				r.fail(line, 0, "condition_context must be a JSON object")
			case t.Condition == "":
				r.fail(line, 0, "condition_context needs a condition_name")
			}
			t.Context = v
		}
		if r.failed == before {
			list = append(list, t)
		}
	}
}

func (r *reader) csvFault(err error) {
	var at *csv.ParseError
	switch {
	case errors.As(err, &at):
		r.fail(at.Line, at.Column, "is no CSV: %v", at.Err)
	case errors.Is(err, io.EOF):
		r.fail(0, 0, "there is nothing in it; its first line must name the columns")
	default:
		r.fail(0, 0, "%v", err)
	}
}

// distinct drops tuples that stand there before; with another condition or context it is
// a mistake.
func (r *reader) distinct(list []Tuple) []Tuple {
	first := make(map[tuple.Tuple]Tuple)
	return slices.DeleteFunc(list, func(t Tuple) bool {
		f, twice := first[t.Tuple]
		if !twice {
			first[t.Tuple] = t
			return false
		}
		if f.Condition != t.Condition || !reflect.DeepEqual(f.Context, t.Context) {
			before := r.file
			r.file = t.Place.File
			r.fail(t.Place.Line, 0, "the tuple %s %s %s is also at %s, with another condition", t.Tuple.Subject, t.Tuple.Relation, t.Tuple.Object, f.Place)
			r.file = before
		}
		return true
	})
}
