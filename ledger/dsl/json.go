package dsl

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
)

// maxJSONDepth is how deep the values of the JSON form are kept: four levels for a rule
// within a rule, and what stands around. Nothing that a model may have lies deeper, so
// that above it there is a mistake, which can say what it is in.
const maxJSONDepth = 16 + 4*model.MaxRuleDepth

// readJSON reads the JSON form: the AuthorizationModel of OpenFGA's API. Names of
// fields may be written as in the API or in the other style of protobuf's JSON
// (computedUserset, computed_userset). Relations keep the order of the text. What the
// compiled form has no place for, the id and the source files, is left out.
//
// A mistake says by names what it is in, beside its place: a caller of the OpenFGA API
// never saw the text.
func (d *draft) readJSON(text string) {
	d.named = true
	p := jsonReader{draft: d, text: text, dec: json.NewDecoder(strings.NewReader(text))}
	p.dec.UseNumber()
	root, ok := p.value(0)
	if ok {
		if _, err := p.dec.Token(); err != io.EOF {
			p.fail(p.next(p.dec.InputOffset()), "", "something follows the model")
		}
	}
	if !d.broken {
		p.model(root)
	}
}

// A node is a JSON value and where it begins in the text.
type node struct {
	at     int
	value  any // string, json.Number, bool or nil; of objects and lists nil too
	kind   byte
	fields []field // of an object, in the order of the text
	items  []*node // of a list
}

// The kinds of node.
const (
	scalarNode byte = iota
	textNode
	objectNode
	listNode
	deepNode // an object or a list below maxJSONDepth, of which nothing is kept
)

type field struct {
	name string
	at   int
	*node
}

// A jsonReader reads the JSON form into a draft.
type jsonReader struct {
	draft *draft
	text  string
	dec   *json.Decoder

	within string // what is read now, as it begins the mistakes found there; "" for the model
	lastAt int    // where the place asked for last begins, from which the next is counted
	last   place
}

// in names what is read from now on.
func (p *jsonReader) in(format string, args ...any) { p.within = fmt.Sprintf(format+": ", args...) }

func (p *jsonReader) place(at int) place {
	if at < p.lastAt || p.last.line == 0 {
		p.lastAt, p.last = 0, place{line: 1, col: 1}
	}
	for _, r := range p.text[p.lastAt:at] {
		if p.last.col++; r == '\n' {
			p.last.line, p.last.col = p.last.line+1, 1
		}
	}
	p.lastAt = at
	return p.last
}

func (p *jsonReader) fail(at int, thing, format string, args ...any) {
	p.draft.giveUp(p.place(at), thing, "%s", p.within+fmt.Sprintf(format, args...))
}

// next returns where the next token begins, after the byte at.
func (p *jsonReader) next(at int64) int {
	for int(at) < len(p.text) && strings.IndexByte(" \t\r\n,:", p.text[at]) >= 0 {
		at++
	}
	return int(at)
}

// token reads one token, and returns where it begins.
func (p *jsonReader) token() (json.Token, int, bool) {
	at := p.next(p.dec.InputOffset())
	t, err := p.dec.Token()
	if err != nil {
		message := strings.TrimPrefix(err.Error(), "json: ")
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			message = "the JSON text ends too early"
		}
		p.fail(min(at, len(p.text)), "", "%s", message)
		return nil, at, false
	}
	return t, at, true
}

// value reads one value. At the first mistake of the JSON itself it gives up.
func (p *jsonReader) value(depth int) (*node, bool) {
	t, at, ok := p.token()
	if !ok {
		return nil, false
	}
	return p.valueFrom(t, at, depth)
}

func (p *jsonReader) valueFrom(t json.Token, at, depth int) (*node, bool) {
	n := &node{at: at}
	switch t := t.(type) {
	case json.Delim:
		if depth > maxJSONDepth {
			n.kind = deepNode
			return n, p.skip()
		}
		if t == '[' {
			n.kind = listNode
		} else {
			n.kind = objectNode
		}
		for {
			t, at, ok := p.token()
			if !ok {
				return nil, false
			}
			if t == json.Delim(']') || t == json.Delim('}') {
				return n, true
			}
			if n.kind == listNode {
				item, ok := p.valueFrom(t, at, depth+1)
				if !ok {
					return nil, false
				}
				n.items = append(n.items, item)
				continue
			}
			name := t.(string) // the decoder takes nothing else for a name
			value, ok := p.value(depth + 1)
			if !ok {
				return nil, false
			}
			n.fields = append(n.fields, field{name, at, value})
		}
	case string:
		n.kind, n.value = textNode, t
	default:
		n.value = t
	}
	return n, true
}

// skip reads to the end of the object or list that has just begun.
func (p *jsonReader) skip() bool {
	for open := 1; open > 0; {
		t, _, ok := p.token()
		if !ok {
			return false
		}
		switch t {
		case json.Delim('['), json.Delim('{'):
			open++
		case json.Delim(']'), json.Delim('}'):
			open--
		}
	}
	return true
}

// text returns the text of a field of n, "" if there is none.
func (n *node) text(name string) string {
	for _, f := range n.fields {
		if text, ok := f.value.(string); ok && f.name == name {
			return text
		}
	}
	return ""
}

// null reports whether n says nothing, as protobuf's JSON has it.
func (n *node) null() bool { return n == nil || n.kind == scalarNode && n.value == nil }

// object returns the fields of n by name, of which none may be outside known, a list
// separated by spaces; a name that ends in '!' must be there. With known "*" the
// caller takes the fields as they are.
func (p *jsonReader) object(n *node, what, known string) map[string]*node {
	if n.kind != objectNode {
		p.fail(n.at, what, "%s must be an object", what)
		return nil
	}
	fields := make(map[string]*node, len(n.fields))
	for _, f := range n.fields {
		name := f.name
		if known != "*" {
			name = snake(name)
		}
		switch {
		case known != "*" && !strings.Contains(" "+strings.ReplaceAll(known, "!", "")+" ", " "+name+" "):
			p.fail(f.at, f.name, "%s has no field %+q; known are %s", what, f.name, strings.ReplaceAll(known, "!", ""))
		case fields[name] != nil:
			p.fail(f.at, f.name, "%s: %+q stands twice", what, f.name)
		default:
			fields[name] = f.node
		}
	}
	for name, f := range fields {
		if f.null() {
			delete(fields, name)
		}
	}
	for name := range strings.FieldsSeq(known) {
		if name, must := strings.CutSuffix(name, "!"); must && fields[name] == nil {
			p.fail(n.at, name, "%s must have the field %s, not empty", what, name)
		}
	}
	return fields
}

// snake returns a name in lower case with underscores.
func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// string returns the text of n, "" if n is nil.
func (p *jsonReader) string(n *node, what string) string {
	if n == nil {
		return ""
	}
	s, ok := n.value.(string)
	if !ok {
		p.fail(n.at, what, "%s must be text", what)
	}
	return s
}

// list returns the items of n, none if n is nil.
func (p *jsonReader) list(n *node, what string) []*node {
	if n == nil {
		return nil
	}
	if n.kind != listNode {
		p.fail(n.at, what, "%s must be a list", what)
	}
	return n.items
}

// named returns the fields of n, an object from names to values; none if n is nil.
func (p *jsonReader) named(n *node, what string) []field {
	if n == nil {
		return nil
	}
	p.object(n, what, "*")
	var fields []field
	for _, f := range n.fields {
		if !f.null() {
			fields = append(fields, f)
		}
	}
	return fields
}

func (p *jsonReader) model(root *node) {
	m := p.object(root, "the model", "id schema_version! type_definitions conditions")
	if version := m["schema_version"]; version != nil {
		p.draft.model.Schema, p.draft.schema = p.string(version, "schema_version"), p.place(version.at)
	} else {
		p.draft.schema = p.place(root.at)
	}
	p.string(m["id"], "id")
	for i, t := range p.list(m["type_definitions"], "type_definitions") {
		if name := t.text("type"); name != "" {
			p.in("type %+q", name)
		} else {
			p.in("type_definitions[%d]", i)
		}
		p.typeDefinition(t)
		p.within = ""
	}
	for _, f := range p.named(m["conditions"], "conditions") {
		p.in("condition %+q", f.name)
		p.condition(f)
		p.within = ""
	}
}

func (p *jsonReader) typeDefinition(n *node) {
	def := p.object(n, "a type definition", "type! relations metadata")
	if def["type"] == nil {
		return
	}
	t := model.Type{Name: p.string(def["type"], "type")}
	about, within := make(map[string]relationAbout), p.within
	if metadata := def["metadata"]; metadata != nil {
		fields := p.object(metadata, "metadata", "relations module source_info")
		t.Module = p.module(fields)
		for _, f := range p.named(fields["relations"], "relations") {
			p.in("relation %+q of type %+q", f.name, t.Name)
			about[f.name] = p.relationAbout(f)
			p.within = within
		}
	}
	typ := p.draft.addType(t, p.place(def["type"].at))
	if typ == nil {
		return
	}
	for _, f := range p.named(def["relations"], "relations") {
		r := model.Relation{Name: f.name}
		mentions := []mention{{text: f.name, at: p.place(f.at)}}
		p.in("relation %+q of type %+q", f.name, t.Name)
		r.Rule = p.rule(f.node, &mentions, 0)
		p.within = within
		if a, ok := about[f.name]; ok {
			if a.module != typ.Module {
				r.Module = a.module
			}
			for _, k := range a.direct {
				mentions = append(mentions, k.mentions...)
				p.draft.addDirect(typ.Name, &r, k.Direct, k.mentions[0].at)
			}
			delete(about, f.name)
		}
		p.draft.addRelation(typ, r, mentions)
	}
	for name, a := range about {
		p.fail(a.at, name, "there is metadata of a relation %+q, which the type does not have", name)
	}
}

// module returns the module of some metadata. Its file is of no use here.
func (p *jsonReader) module(metadata map[string]*node) string {
	if info := metadata["source_info"]; info != nil {
		p.string(p.object(info, "source_info", "file")["file"], "file")
	}
	return p.string(metadata["module"], "module")
}

// A relationAbout is what the metadata of a type says of one of its relations.
type relationAbout struct {
	at     int
	module string
	direct []directAt
}

type directAt struct {
	model.Direct
	mentions []mention // the first is of the whole
}

func (p *jsonReader) relationAbout(f field) relationAbout {
	a := relationAbout{at: f.at}
	fields := p.object(f.node, "metadata of a relation", "directly_related_user_types module source_info")
	a.module = p.module(fields)
	for _, n := range p.list(fields["directly_related_user_types"], "directly_related_user_types") {
		parts := p.object(n, "a directly related user type", "type! relation wildcard condition")
		if parts["type"] == nil {
			continue
		}
		k := directAt{Direct: model.Direct{Type: p.string(parts["type"], "type"), Relation: p.string(parts["relation"], "relation"),
			Wildcard: parts["wildcard"] != nil, Condition: p.string(parts["condition"], "condition")}}
		if k.Wildcard {
			p.object(parts["wildcard"], "wildcard", "")
		}
		k.mentions = []mention{{text: k.String(), at: p.place(n.at)}, {k.Type, p.place(parts["type"].at), typeRole}}
		if k.Condition != "" {
			k.mentions = append(k.mentions, mention{k.Condition, p.place(parts["condition"].at), conditionRole})
		}
		a.direct = append(a.direct, k)
	}
	return a
}

// rule reads a userset, as the JSON form calls a rule.
func (p *jsonReader) rule(n *node, mentions *[]mention, depth int) model.Rule {
	none := model.Rule{Op: model.This}
	if depth > model.MaxRuleDepth {
		p.fail(n.at, "", "rules are nested deeper than %d", model.MaxRuleDepth)
		return none
	}
	fields := p.object(n, "a rule", "this computed_userset tuple_to_userset union intersection difference")
	if len(fields) != 1 {
		p.fail(n.at, "", "a rule must have exactly one of this, computedUserset, tupleToUserset, union, intersection, difference")
		return none
	}
	name := func(n *node, what string, as role) string {
		fields := p.object(n, what, "object relation!")
		p.string(fields["object"], "object")
		relation := fields["relation"]
		if relation == nil {
			return ""
		}
		text := p.string(relation, "relation")
		*mentions = append(*mentions, mention{text, p.place(relation.at), as})
		return text
	}
	for op, f := range fields {
		switch op {
		case "this":
			p.object(f, "this", "")
		case "computed_userset":
			return model.Rule{Op: model.Computed, Relation: name(f, "computedUserset", computedRole)}
		case "tuple_to_userset":
			parts := p.object(f, "tupleToUserset", "tupleset! computed_userset!")
			if len(parts) == 2 {
				return model.Rule{Op: model.From, Relation: name(parts["computed_userset"], "computedUserset", fromRole), Tupleset: name(parts["tupleset"], "tupleset", tuplesetRole)}
			}
		case "union", "intersection":
			rule := model.Rule{Op: model.Union}
			if op == "intersection" {
				rule.Op = model.Intersect
			}
			for _, child := range p.list(p.object(f, op, "child")["child"], "child") {
				rule.Children = append(rule.Children, p.rule(child, mentions, depth+1))
			}
			switch len(rule.Children) {
			case 0:
				p.fail(f.at, op, "%s must have at least one rule in the field child", op)
			case 1: // one of one is itself
				return rule.Children[0]
			}
			return rule
		case "difference":
			parts := p.object(f, op, "base! subtract!")
			if len(parts) == 2 {
				return model.Rule{Op: model.Exclude, Children: []model.Rule{p.rule(parts["base"], mentions, depth+1), p.rule(parts["subtract"], mentions, depth+1)}}
			}
		}
	}
	return none
}

func (p *jsonReader) condition(f field) {
	def := p.object(f.node, "a condition", "name expression! parameters metadata")
	c := model.Condition{Name: f.name, Expression: p.string(def["expression"], "expression")}
	if name := def["name"]; name != nil && p.string(name, "name") != f.name {
		p.fail(name.at, f.name, "its field name must be %+q too", f.name)
	}
	if metadata := def["metadata"]; metadata != nil {
		c.Module = p.module(p.object(metadata, "metadata", "module source_info"))
	}
	for _, param := range p.named(def["parameters"], "parameters") {
		within := p.within
		p.in("parameter %+q of condition %+q", param.name, f.name)
		t := p.paramType(param.node, 1)
		p.within = within
		p.draft.addParam(&c, model.Param{Name: param.name, Type: t}, p.place(param.at))
	}
	at := f.at
	if def["expression"] != nil {
		at = def["expression"].at
	}
	p.draft.addCondition(c, p.place(f.at), p.place(at))
}

// paramType reads the type of a parameter. Unlike the modeling language, OpenFGA's API
// has lists and maps whose elements are lists and maps.
func (p *jsonReader) paramType(n *node, depth int) model.ParamType {
	none := model.ParamType{Kind: model.ParamAny}
	if depth > model.MaxValueDepth {
		p.fail(n.at, "", "types of elements are nested deeper than %d", model.MaxValueDepth)
		return none
	}
	fields := p.object(n, "a parameter", "type_name! generic_types")
	if fields["type_name"] == nil {
		return none
	}
	name := p.string(fields["type_name"], "type_name")
	kind, ok := paramKinds[strings.ToLower(strings.TrimPrefix(name, "TYPE_NAME_"))]
	container := kind == model.ParamList || kind == model.ParamMap
	if !ok || !strings.HasPrefix(name, "TYPE_NAME_") {
		p.fail(fields["type_name"].at, name, "there is no type of parameters %+q", name)
		return none
	}
	t := model.ParamType{Kind: kind}
	generics := p.list(fields["generic_types"], "generic_types")
	switch {
	case container && len(generics) == 1:
		elem := p.paramType(generics[0], depth+1)
		t.Elem = &elem
	case container:
		p.fail(n.at, name, "%s must have one type of elements in generic_types", name)
		return none
	case len(generics) > 0:
		p.fail(n.at, name, "%s has no types of elements", name)
	}
	return t
}
