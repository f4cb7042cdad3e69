package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"gopkg.in/yaml.v3"
)

// Limits of one file. Aliases make a small file a large tree: what counts is the tree.
const (
	maxFile   = 32 << 20 // bytes
	maxNodes  = 1 << 20  // of its tree of YAML
	maxMerges = 32       // mappings that are merged one into the other
	maxChecks = 1 << 20  // that it asserts, of each user and object
)

// MaxMistakes is the most that are told of one store file.
const MaxMistakes = 100

// A reader reads YAML and notes what is wrong with it and where, so that all mistakes are
// told at once. What is wrong reads as empty.
type reader struct {
	mistakes dsl.Errors
	failed   int    // how often something was wrong
	file     string // of what is read now
	nodes    int    // that were read
	checks   int    // that were asserted
}

// fail notes a mistake of the file being read, once however often aliases lead to it.
func (r *reader) fail(line, col int, format string, args ...any) {
	r.failed++
	if len(r.mistakes) >= MaxMistakes {
		return
	}
	e := dsl.Error{File: r.file, Line: line, Col: col, Message: fmt.Sprintf(format, args...)}
	if !slices.Contains(r.mistakes, e) {
		r.mistakes = append(r.mistakes, e)
	}
}

// at notes a mistake at a node.
func (r *reader) at(n *yaml.Node, format string, args ...any) {
	r.fail(n.Line, n.Column, format, args...)
}

// read returns the file's bytes, and makes it the one that mistakes are of until done is
// called.
func (r *reader) read(name string) (data []byte, ok bool, done func()) {
	before := r.file
	r.file = name
	done = func() { r.file = before }
	f, err := os.Open(name)
	if err != nil {
		r.fail(0, 0, "%v", plain(err))
		return nil, false, done
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("must be at most %d bytes", maxFile)
	}
	if err != nil {
		r.fail(0, 0, "%v", plain(err))
	}
	return data, err == nil, done
}

// plain is the error without the name of the file, which the mistake has.
func plain(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// syntaxError is what the YAML library says of bytes that are no YAML.
var syntaxError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// document parses one YAML document, of which JSON is a kind; nil if there is none.
func (r *reader) document(data []byte) *yaml.Node {
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	err := d.Decode(&doc)
	if err == nil {
		if err = d.Decode(&more); err == nil {
			r.at(&more, "must be one document of YAML; here another begins")
			return nil
		}
	} else if errors.Is(err, io.EOF) {
		r.fail(0, 0, "there is nothing in it")
		return nil
	}
	if !errors.Is(err, io.EOF) {
		m := syntaxError.FindStringSubmatch(err.Error())
		if m == nil {
			m = []string{"", "", err.Error()}
		}
		line, _ := strconv.Atoi(m[1]) // 0 if it is not known
		r.fail(line, 0, "is no YAML: %s", m[2])
		return nil
	}
	if len(doc.Content) == 0 {
		r.fail(0, 0, "there is nothing in it")
		return nil
	}
	return doc.Content[0]
}

// enter follows an alias, and reports whether there is anything to read: a value that is
// left empty is as absent.
func (r *reader) enter(n *yaml.Node) (*yaml.Node, bool) {
	n = target(n)
	return n, r.room(n) && n.ShortTag() != "!!null"
}

// target returns the node that an alias stands for, or one that is none.
func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// room reports whether a file may hold one value more, which is then counted.
func (r *reader) room(n *yaml.Node) bool {
	if r.nodes++; r.nodes == maxNodes {
		r.at(n, "there is too much in it: with aliases followed, a file may hold %d values", maxNodes)
	}
	return r.nodes < maxNodes
}

// mapping reads what must be a mapping with these fields, of which each may be absent.
// Others are mistakes: a test whose field is misspelt would hold whatever the model says.
func (r *reader) mapping(n *yaml.Node, what string, fields map[string]func(*yaml.Node)) (*yaml.Node, bool) {
	n, some := r.enter(n)
	if !some || n.Kind != yaml.MappingNode {
		r.at(n, "%s must be a mapping with the fields %s", what, names(fields))
		return n, false
	}
	r.each(n, func(key string, at, value *yaml.Node) {
		if read := fields[key]; read != nil {
			read(value)
		} else {
			r.at(at, "%s has no field %q; it may have %s", what, key, names(fields))
		}
	})
	return n, true
}

// optional is mapping of what may be left empty.
func (r *reader) optional(n *yaml.Node, what string, fields map[string]func(*yaml.Node)) (*yaml.Node, bool) {
	if at, some := r.enter(n); !some {
		return at, false
	}
	return r.mapping(n, what, fields)
}

// each reads the names and values of a mapping node, and then those that it has of others
// by a merge (<<).
func (r *reader) each(n *yaml.Node, read func(name string, at, value *yaml.Node)) {
	r.merge(n, nil, make(map[string]bool), read)
}

// merge is each of a mapping that is merged into the last of others, which is merged into
// the one before it, and so on. A name in before was read in one that comes first, so that
// it is not read here; those that are read here are added.
func (r *reader) merge(n *yaml.Node, into []*yaml.Node, before map[string]bool, read func(name string, at, value *yaml.Node)) {
	own := make(map[string]bool)
	var from *yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		at, value := n.Content[i], n.Content[i+1]
		if len(into) > 0 && !r.room(at) {
			return
		}
		name := target(at)
		switch {
		case at.ShortTag() == "!!merge" && at.Value == "<<":
			if from == nil {
				from = value
			} else {
				r.at(at, "%q stands here twice", at.Value)
			}
		case name.Kind != yaml.ScalarNode || name.ShortTag() == "!!merge":
			r.at(at, "must be a name")
		case own[name.Value]:
			r.at(at, "%q stands here twice", name.Value)
		default:
			own[name.Value] = true
			if !before[name.Value] {
				read(name.Value, at, value)
			}
		}
	}
	maps.Copy(before, own)
	if from == nil {
		return
	}
	all := []*yaml.Node{from}
	if list := target(from); list.Kind == yaml.SequenceNode {
		all = list.Content
	}
	into = append(into, n)
	for _, at := range all {
		if !r.room(at) {
			return
		}
		switch m := target(at); {
		case m.Kind != yaml.MappingNode:
			r.at(at, "<< must be a mapping, or a list of mappings")
		case slices.Contains(into, m):
			r.at(at, "a mapping must not be merged into itself")
		case len(into) > maxMerges:
			r.at(at, "<< must be at most %d mappings deep", maxMerges)
		default:
			r.merge(m, into, before, read)
		}
	}
}

// sequence reads what must be a list.
func (r *reader) sequence(n *yaml.Node, what string, read func(*yaml.Node)) {
	n, some := r.enter(n)
	if !some {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.at(n, "%s must be a list", what)
		return
	}
	for _, e := range n.Content {
		read(e)
	}
}

// text reads what must be a text, which a number is too.
func (r *reader) text(n *yaml.Node, what string) string {
	n, some := r.enter(n)
	if some && n.Kind != yaml.ScalarNode {
		r.at(n, "%s must be a text", what)
		return ""
	}
	if !some {
		return ""
	}
	return n.Value
}

// texts reads a list of texts.
func (r *reader) texts(n *yaml.Node, what string, read func(at *yaml.Node, text string)) {
	r.sequence(n, what, func(e *yaml.Node) { read(e, r.text(e, "each of "+what)) })
}

// truth reads what must be true or false, or what YAML 1.1 had for them, such as yes and
// off: where a bool is wanted, the library takes them still.
func (r *reader) truth(n *yaml.Node, what string) (v bool) {
	n, some := r.enter(n)
	if !some || n.Decode(&v) != nil {
		r.at(n, "%s must be true or false", what)
	}
	return v
}

// context reads the values for the parameters of conditions; null if there are none.
func (r *reader) context(n *yaml.Node) model.Value {
	n, some := r.enter(n)
	if !some {
		return model.Value{}
	}
	if n.Kind != yaml.MappingNode {
		r.at(n, "context must be a mapping of names to values")
		return model.Value{}
	}
	return r.value(n, 0)
}

// value reads any value as a context has it. A moment stays the text it is written as:
// YAML knows it without quotes, JSON and conditions have it as text.
func (r *reader) value(n *yaml.Node, depth int) (v model.Value) {
	n, some := r.enter(n)
	if !some {
		return v
	}
	if depth > model.MaxValueDepth {
		r.at(n, "a context must be at most %d values deep", model.MaxValueDepth)
		return v
	}
	switch n.Kind {
	case yaml.MappingNode:
		v.Kind = model.MapValue
		r.each(n, func(name string, _, value *yaml.Node) {
			v.Map = append(v.Map, model.Field{Name: name, Value: r.value(value, depth+1)})
		})
		slices.SortFunc(v.Map, func(a, b model.Field) int { return strings.Compare(a.Name, b.Name) })
		return v
	case yaml.SequenceNode:
		v.Kind = model.ListValue
		for _, e := range n.Content {
			v.List = append(v.List, r.value(e, depth+1))
		}
		return v
	}
	switch n.ShortTag() {
	case "!!bool":
		v.Kind = model.BoolValue
		v.Bool = r.truth(n, "a bool")
	case "!!int", "!!float":
		return r.number(n)
	default:
		v = model.Value{Kind: model.StringValue, String: n.Value}
	}
	return v
}

// number reads a number: an integer if it is one of 64 bits.
func (r *reader) number(n *yaml.Node) model.Value {
	if n.ShortTag() == "!!int" {
		var i int64
		var u uint64
		text := ""
		if n.Decode(&i) == nil {
			text = strconv.FormatInt(i, 10)
		} else if n.Decode(&u) == nil {
			text = strconv.FormatUint(u, 10)
		}
		if v, err := model.ParseJSON([]byte(text)); err == nil {
			return v
		}
	}
	var f float64
	if n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		r.at(n, "must be a number that JSON can write, is %s", n.Value)
		return model.Value{}
	}
	return model.Value{Kind: model.DoubleValue, Double: f}
}

// names lists the names of fields for people.
func names(fields map[string]func(*yaml.Node)) string {
	list := make([]string, 0, len(fields))
	for name := range fields {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
