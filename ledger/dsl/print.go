package dsl

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
)

// ToDSL writes a valid model in the modeling language, as one file. Modules become
// comments. An error says what of it the language cannot write, though its JSON form
// can: names with characters of their own, a '}' in an expression, direct grants that
// are subtracted or stand twice in one relation, lists of lists, and text of several
// lines in an expression that looks like a comment.
func ToDSL(m *model.Model) (string, error) {
	text := modelText(m, moduleComment)
	again, err := Parse(ledger.SourceDSL, []byte(text), Limits{Source: len(text), Types: len(m.Types), Errors: 1})
	noModules := func(string) string { return "" }
	if err == nil && modelText(again, noModules) != modelText(m, noModules) {
		err = errors.New("it reads as another model")
	}
	if err != nil {
		return "", fmt.Errorf("the modeling language cannot write this model; read its JSON form: %w", err)
	}
	return text, nil
}

// modelText writes a model as far as the language can, with what comment says of modules.
func modelText(m *model.Model, comment func(module string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "model\n  schema %s\n", m.Schema)
	for i := range m.Types {
		t := &m.Types[i]
		fmt.Fprintf(&b, "\ntype %s%s\n", t.Name, comment(t.Module))
		if len(t.Relations) > 0 {
			b.WriteString("  relations\n")
		}
		for j := range t.Relations {
			r := &t.Relations[j]
			fmt.Fprintf(&b, "    define %s: %s%s\n", r.Name, ruleText(r, &r.Rule, true), comment(r.Module))
		}
	}
	for i := range m.Conditions {
		c := &m.Conditions[i]
		params := make([]string, len(c.Params))
		for j, p := range c.Params {
			params[j] = p.Name + ": " + p.Type.String()
		}
		fmt.Fprintf(&b, "\ncondition %s(%s) {%s\n  %s\n}\n", c.Name, strings.Join(params, ", "), comment(c.Module), strings.Trim(c.Expression, " \t\r\n\f"))
	}
	return b.String()
}

func moduleComment(module string) string {
	if module == "" {
		return ""
	}
	return " # module: " + module
}

// ruleText writes a rule. The language wants direct grants first, which changes
// nothing for "or" and "and".
func ruleText(r *model.Relation, rule *model.Rule, outermost bool) string {
	operator := " or "
	switch rule.Op {
	case model.This:
		kinds := make([]string, len(r.Direct))
		for i, k := range r.Direct {
			kinds[i] = k.String()
		}
		return "[" + strings.Join(kinds, ", ") + "]"
	case model.Computed:
		return rule.Relation
	case model.From:
		return rule.Relation + " from " + rule.Tupleset
	case model.Intersect:
		operator = " and "
	case model.Exclude:
		operator = " but not "
	}
	var operands []string
	for i := range rule.Children {
		child := &rule.Children[i]
		text := ruleText(r, child, false)
		if rule.Op != model.Exclude && holdsDirect(child) {
			operands = append([]string{text}, operands...)
		} else {
			operands = append(operands, text)
		}
	}
	text := strings.Join(operands, operator)
	if !outermost {
		text = "(" + text + ")"
	}
	return text
}

func holdsDirect(rule *model.Rule) bool {
	for i := range rule.Children {
		if holdsDirect(&rule.Children[i]) {
			return true
		}
	}
	return rule.Op == model.This
}

// ToJSON writes a valid model in the JSON form of OpenFGA's API, indented. Reading it
// again gives the same model.
func ToJSON(m *model.Model) []byte {
	root := object{{"schema_version", m.Schema}}
	definitions := []any{}
	for i := range m.Types {
		definitions = append(definitions, typeJSON(&m.Types[i]))
	}
	root = append(root, member{"type_definitions", definitions})
	conditions := object{}
	for i := range m.Conditions {
		c := &m.Conditions[i]
		params := object{}
		for _, p := range c.Params {
			params = append(params, member{p.Name, paramJSON(p.Type)})
		}
		condition := object{{"name", c.Name}, {"expression", c.Expression}, {"parameters", params}}
		if c.Module != "" {
			condition = append(condition, member{"metadata", object{{"module", c.Module}}})
		}
		conditions = append(conditions, member{c.Name, condition})
	}
	if len(conditions) > 0 {
		root = append(root, member{"conditions", conditions})
	}
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("dsl: " + err.Error()) // objects, lists and text have a JSON form
	}
	return append(text, '\n')
}

// An object is a JSON object that keeps its order.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON implements [json.Marshaler].
func (o object) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), value...)
	}
	return append(out, '}'), nil
}

func typeJSON(t *model.Type) object {
	relations, metadata := object{}, object{}
	for i := range t.Relations {
		r := &t.Relations[i]
		relations = append(relations, member{r.Name, ruleJSON(&r.Rule)})
		about := object{}
		if len(r.Direct) > 0 {
			var kinds []any
			for _, k := range r.Direct {
				kind := object{{"type", k.Type}}
				if k.Relation != "" {
					kind = append(kind, member{"relation", k.Relation})
				}
				if k.Wildcard {
					kind = append(kind, member{"wildcard", object{}})
				}
				if k.Condition != "" {
					kind = append(kind, member{"condition", k.Condition})
				}
				kinds = append(kinds, kind)
			}
			about = append(about, member{"directly_related_user_types", kinds})
		}
		if r.Module != "" {
			about = append(about, member{"module", r.Module})
		}
		metadata = append(metadata, member{r.Name, about})
	}
	def := object{{"type", t.Name}, {"relations", relations}}
	about := object{}
	if len(metadata) > 0 {
		about = append(about, member{"relations", metadata})
	}
	if t.Module != "" {
		about = append(about, member{"module", t.Module})
	}
	if len(about) > 0 {
		def = append(def, member{"metadata", about})
	}
	return def
}

func ruleJSON(r *model.Rule) object {
	relation := func(name string) object { return object{{"relation", name}} }
	switch r.Op {
	case model.This:
		return object{{"this", object{}}}
	case model.Computed:
		return object{{"computedUserset", relation(r.Relation)}}
	case model.From:
		return object{{"tupleToUserset", object{{"tupleset", relation(r.Tupleset)}, {"computedUserset", relation(r.Relation)}}}}
	case model.Exclude:
		return object{{"difference", object{{"base", ruleJSON(&r.Children[0])}, {"subtract", ruleJSON(&r.Children[1])}}}}
	}
	var children []any
	for i := range r.Children {
		children = append(children, ruleJSON(&r.Children[i]))
	}
	name := "union"
	if r.Op == model.Intersect {
		name = "intersection"
	}
	return object{{name, object{{"child", children}}}}
}

func paramJSON(t model.ParamType) object {
	bare := t
	bare.Elem = nil
	o := object{{"type_name", "TYPE_NAME_" + strings.ToUpper(bare.String())}}
	if t.Elem != nil {
		o = append(o, member{"generic_types", []any{paramJSON(*t.Elem)}})
	}
	return o
}
