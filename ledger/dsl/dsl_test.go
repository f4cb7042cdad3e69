package dsl

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
)

func union(rules ...model.Rule) model.Rule { return model.Rule{Op: model.Union, Children: rules} }
func intersect(rules ...model.Rule) model.Rule {
	return model.Rule{Op: model.Intersect, Children: rules}
}
func exclude(rules ...model.Rule) model.Rule { return model.Rule{Op: model.Exclude, Children: rules} }
func computed(name string) model.Rule        { return model.Rule{Op: model.Computed, Relation: name} }
func from(name, set string) model.Rule {
	return model.Rule{Op: model.From, Relation: name, Tupleset: set}
}

var this = model.Rule{Op: model.This}

// base is what the relations of TestRules stand under.
const base = `model
  schema 1.1
type user
type group
  relations
    define member: [user, group#member]
type folder
  relations
    define owner: [user]
    define viewer: [user]
type doc
  relations
    define parent: [folder]
    define a: [user]
    define b: [user]
    define c: [user]
`

const twoConditions = `condition c1(x: int) {
  x > 1
}
condition c2(y: string) {
  y == "#"
}
`

// TestRules reads one relation of each kind.
func TestRules(t *testing.T) {
	for _, tt := range []struct {
		name, definition string
		rule             model.Rule
		direct           []model.Direct
	}{
		{"direct", "[user]", this, []model.Direct{{Type: "user"}}},
		{"several types", "[ user ,group ]", this, []model.Direct{{Type: "user"}, {Type: "group"}}},
		{"userset", "[group#member]", this, []model.Direct{{Type: "group", Relation: "member"}}},
		{"wildcard", "[user, user:*]", this, []model.Direct{{Type: "user"}, {Type: "user", Wildcard: true}}},
		{"conditions", "[user with c1, user:* with c2, group#member with c1, user]", this, []model.Direct{
			{Type: "user", Condition: "c1"}, {Type: "user", Wildcard: true, Condition: "c2"},
			{Type: "group", Relation: "member", Condition: "c1"}, {Type: "user"}}},
		{"computed", "a", computed("a"), nil},
		{"from", "owner from parent", from("owner", "parent"), nil},
		{"union", "a or b or owner from parent", union(computed("a"), computed("b"), from("owner", "parent")), nil},
		{"intersection", "[user] and a", intersect(this, computed("a")), []model.Direct{{Type: "user"}}},
		{"exclusion", "a but not b", exclude(computed("a"), computed("b")), nil},
		{"nested", "([user] and (a or b)) but not (c or viewer from parent)", exclude(
			intersect(this, union(computed("a"), computed("b"))),
			union(computed("c"), from("viewer", "parent"))), []model.Direct{{Type: "user"}}},
		{"idle parentheses", "((a)) or ((b and c))", union(computed("a"), intersect(computed("b"), computed("c"))), nil},
		{"same operator nested", "a or (b or c)", union(computed("a"), union(computed("b"), computed("c"))), nil},
		{"comment", "a or b # or c", union(computed("a"), computed("b")), nil},
		{"lines in brackets", "[\n      user,\n      group#member\n    ]", this, []model.Direct{{Type: "user"}, {Type: "group", Relation: "member"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := base + "    define r: " + tt.definition + "\n" + twoConditions
			for _, lines := range []string{"\n", "\r\n"} {
				m, err := Parse(ledger.SourceDSL, []byte(strings.ReplaceAll(source, "\n", lines)), Limits{})
				if err != nil {
					t.Fatal(err)
				}
				r, ok := m.Relation("doc", "r")
				if !ok || !reflect.DeepEqual(r.Rule, tt.rule) || !reflect.DeepEqual(r.Direct, tt.direct) {
					t.Errorf("%s = %+v, want %+v %+v", tt.definition, r, tt.rule, tt.direct)
				}
				if got := m.Types[3].Relations; len(got) != 5 || got[0].Name != "parent" || got[4].Name != "r" {
					t.Errorf("relations %+v are not in source order", got)
				}
				roundTrip(t, m)
			}
		})
	}
}

func TestConditionParameters(t *testing.T) {
	source := `model
  schema 1.1
type user
type doc
  relations
    define viewer: [user with every]
condition every(i: int, b: bool, s: string, u: uint, d: double, du: duration, t: timestamp, ip: ipaddress, l: list<int>, m: map<string>) {
  // a comment of CEL holds " and } without harm
  b && i > 0 && s != " # " && u > 0u && d > 0.0 && du > duration("1s") && t < now &&
  ip.in_cidr("10.0.0.0/8") && 1 in l && m["a"] == "b"
}
`
	m, err := Parse(ledger.SourceDSL, []byte(source), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := m.Condition("every")
	kinds := ""
	for _, p := range c.Params {
		kinds += p.Name + ":" + p.Type.String() + " "
	}
	if want := "b:bool d:double du:duration i:int ip:ipaddress l:list<int> m:map<string> s:string t:timestamp u:uint "; kinds != want {
		t.Errorf("parameters %s, want %s", kinds, want)
	}
	if !strings.Contains(c.Expression, `s != " # "`) || !strings.HasSuffix(c.Expression, `"b"`) {
		t.Errorf("expression %q", c.Expression)
	}
	roundTrip(t, m)
}

// TestErrors holds each kind of mistake to its place, thing and message.
func TestErrors(t *testing.T) {
	head := "model\n  schema 1.1\ntype user\n"
	for _, tt := range []struct {
		name   string
		kind   ledger.SourceKind
		source string
		want   []string // file:line:col: part of the message | thing
	}{
		{"nothing", ledger.SourceDSL, "", []string{"1:1: there is nothing here but space and comments; a model begins with|"}},
		{"comments alone", ledger.SourceDSL, " \n# model\n\t", []string{"1:1: there is nothing here but space and comments; a model begins with|"}},
		{"not UTF-8", ledger.SourceDSL, "model\n  schema 1.1\ntype ä\xff", []string{"3:7: the source must be valid UTF-8|"}},
		{"a character of no token", ledger.SourceDSL, head + "type ä\n", []string{"4:6: token recognition error|", "4:7: mismatched input|"}},
		{"a misspelt word", ledger.SourceDSL, head + "type doc\n  relations\n    defin a: [user]\n", []string{"6:5: no viable alternative|defin"}},
		{"operators without parentheses", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user]\n    define b: a or a and a\n", []string{"7:21: unexpected \"and\"|"}},
		{"an unfinished relation", ledger.SourceDSL, head + "type doc\n  relations\n    define a:\n", []string{"6:14: |"}},
		{"deep parentheses", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user]\n    define b: " + strings.Repeat("(", 5000) + "a" + strings.Repeat(")", 5000), []string{"7:47: parentheses are nested deeper than 32|("}},
		{"schema", ledger.SourceDSL, "model\n  schema 1.0\ntype user\n", []string{"2:10: the schema version must be 1.1 or 1.2|1.0"}},
		{"a module alone", ledger.SourceDSL, "module a\ntype user\n", []string{"1:1: a model in one file begins with|module"}},
		{"an extension alone", ledger.SourceDSL, head + "extend type user\n  relations\n    define a: [user]\n", []string{"4:13: a type can be extended in a module only|user"}},
		{"a type twice", ledger.SourceDSL, head + "type user\n", []string{`4:6: the type "user" is defined twice; the first is at 3:6|user`}},
		{"a relation twice", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user]\n    define a: [user]\n", []string{`7:12: the relation "a" of type "doc" is defined twice; the first is at 6:12|a`}},
		{"a type twice in brackets", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user, user:*, user]\n", []string{`6:30: user stands twice in the types of relation "a" of type "doc"|user`}},
		{"an unknown type", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user, usr]\n", []string{`6:22: relation "a" of type "doc": there is no type "usr"|usr`}},
		{"an unknown userset", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user, user#x]\n", []string{`6:22: relation "a" of type "doc": type "user" has no relation "x"|user#x`}},
		{"an unknown relation", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user]\n    define b: a or bb\n", []string{`7:20: relation "b" of type "doc": type "doc" has no relation "bb"|bb`}},
		{"an unknown condition", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user with c]\n", []string{`6:26: relation "a" of type "doc": there is no condition "c"|c`}},
		{"from what is computed", ledger.SourceDSL, head + "type doc\n  relations\n    define p: [doc] or p from p\n", []string{`6:31: relation "p" of type "doc"|p`}},
		{"a loop", ledger.SourceDSL, head + "type doc\n  relations\n    define a: b\n    define b: a\n", []string{"6:12: |a", "7:12: |b"}},
		{"a loop of three that somebody could hold", ledger.SourceDSL, head + "type doc\n  relations\n    define a: b\n    define b: [user] or c\n    define c: [user] but not a\n    define d: a\n",
			[]string{`6:12: relation "a" of type "doc": it is computed from itself on the same object, by way of "b"|a`, `7:12: relation "b" of type "doc": it is computed from itself|b`, `8:12: relation "c" of type "doc": it is computed from itself|c`, `8:30: relation "c" of type "doc": it is computed from "a"|a`}},
		{"nothing is left", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user]\n    define b: a but not a\n", []string{`7:15: relation "b" of type "doc": nobody could ever hold it: it subtracts what it begins with|b`}},
		{"nothing is left in JSON", ledger.SourceJSON, "{\"schema_version\": \"1.1\", \"type_definitions\": [{\"type\": \"doc\", \"relations\": {\n\"a\": {\"difference\": {\"base\": {\"this\": {}}, \"subtract\": {\"this\": {}}}}},\n\"metadata\": {\"relations\": {\"a\": {\"directly_related_user_types\": [{\"type\": \"doc\"}]}}}}]}", []string{`3:66: relation "a" of type "doc": nobody could ever hold it|a`}},
		{"from without such a relation, under the relation's own name", ledger.SourceDSL, head + "type doc\n  relations\n    define p: [user]\n    define a: [user] or a from p\n", []string{`7:25: relation "a" of type "doc": no type that "p" may be granted to has a relation "a"|a`}},
		{"from without such a relation, beside one that is there", ledger.SourceDSL, head + "type doc\n  relations\n    define p: [user]\n    define q: [doc]\n    define a: [user] or a from q or a from p\n", []string{`8:37: relation "a" of type "doc": no type that "p" may be granted to has a relation "a"|a`}},
		{"an unknown type of parameters", ledger.SourceDSL, head + "condition c(x: integer) {\n  x > 1\n}\n", []string{`4:16: there is no type of parameters "integer"; there are bool, string, int,|integer`}},
		{"a list of lists", ledger.SourceDSL, head + "condition c(x: list<list<int>>) {\n  true\n}\n", []string{`4:21: the elements of a list or map must be bool, string, int,|list`}},
		{"a list of nothing", ledger.SourceDSL, head + "condition c(x: list) {\n  true\n}\n", []string{`4:20: |)`}},
		{"a condition twice", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user with c]\ncondition c(x: int) {\n  x > 1\n}\ncondition c(x: int) {\n  x > 1\n}\n", []string{`10:11: the condition "c" is defined twice|c`}},
		{"a parameter twice", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user with c]\ncondition c(x: int, x: int) {\n  x > 1\n}\n", []string{`7:21: the parameter "x" of condition "c" is defined twice|x`}},
		{"CEL does not parse", ledger.SourceDSL, head + "condition c(x: int) {\n  x > 1 &&\n  x >\n}\n", []string{`6:6: condition "c": Syntax error|c`}},
		{"CEL does not type", ledger.SourceDSL, head + "condition c(x: int) {\n  x > 1 &&\n  y > 1\n}\n", []string{`6:3: condition "c": undeclared reference to 'y'|c`}},
		{"CEL on one line", ledger.SourceDSL, head + "condition c(x: int) { x > z }\n", []string{`4:27: condition "c": undeclared reference to 'z'|c`}},
		{"CEL is no bool", ledger.SourceDSL, head + "condition c(x: int) {\n  x + 1\n}\n", []string{`5:3: condition "c": the expression must be a bool, is a int|c`}},
		{"a range that is none", ledger.SourceDSL, head + "condition c(ip: ipaddress) {\n  ip.in_cidr(\"10.0.0.0/33\")\n}\n", []string{`5:14: condition "c": "10.0.0.0/33" is not a range|c`}},
		{"a regular expression that is none", ledger.SourceDSL, head + "condition c(s: string) {\n  s.matches(\"(\")\n}\n", []string{`5:13: condition "c": invalid matches argument|c`}},
		{"an inline expression", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [user with $expression]\n", []string{`6:26: after "with" stands the name|$expression`}},
		{"several at once", ledger.SourceDSL, head + "type doc\n  relations\n    define a: [usr]\n    define b: x\n    define b: y\ncondition c(x: int) {\n  y\n}\n",
			[]string{"6:16: |usr", "7:15: |x", "8:12: |b", "10:3: |c"}},

		{"not JSON", ledger.SourceJSON, "{\n  \"schema_version\": \"1.1\",\n  ]\n}", []string{"3:3: |"}},
		{"JSON that ends", ledger.SourceJSON, "{\n  \"schema_version\": ", []string{"2:21: the JSON text ends too early|"}},
		{"JSON that goes on", ledger.SourceJSON, `{"schema_version": "1.1", "type_definitions": [{"type": "user"}]} {}`, []string{"1:68: something follows the model|"}},
		{"deep JSON", ledger.SourceJSON, strings.Repeat("[", 5000) + strings.Repeat("]", 5000), []string{"1:1: the model must be an object|the model"}},
		{"deep JSON that ends", ledger.SourceJSON, strings.Repeat("[", 5000), []string{"1:5001: the JSON text ends too early|"}},
		{"deep JSON beside a model", ledger.SourceJSON, `{"schema_version": "1.1", "type_definitions": [{"type": "user"}], "id": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}", []string{"1:73: id must be text|id"}},
		{"a list for a model", ledger.SourceJSON, "[]", []string{"1:1: the model must be an object|the model"}},
		{"no schema version", ledger.SourceJSON, "{}", []string{"1:1: the model must have the field schema_version, not empty|schema_version"}},
		{"an unknown field", ledger.SourceJSON, "{\"schema_version\": \"1.1\",\n \"types\": []}", []string{"2:2: the model has no field \"types\"|types"}},
		{"a field twice", ledger.SourceJSON, "{\"schema_version\": \"1.1\",\n \"schemaVersion\": \"1.1\"}", []string{"2:2: the model: \"schemaVersion\" stands twice|schemaVersion"}},
		{"an unknown type in JSON", ledger.SourceJSON, "{\"schema_version\": \"1.1\", \"type_definitions\": [{\"type\": \"doc\", \"relations\": {\"a\": {\"this\": {}}},\n\"metadata\": {\"relations\": {\"a\": {\"directly_related_user_types\": [\n{\"type\": \"user\"}]}}}}]}", []string{`3:10: relation "a" of type "doc": there is no type "user"|user`}},
		{"a rule of two kinds", ledger.SourceJSON, "{\"schema_version\": \"1.1\", \"type_definitions\": [{\"type\": \"doc\", \"relations\": {\"a\":\n{\"this\": {}, \"computedUserset\": {\"relation\": \"a\"}}}}]}", []string{`2:1: relation "a" of type "doc": a rule must have exactly one of|`}},
		{"another name inside", ledger.SourceJSON, "{\"schema_version\": \"1.1\", \"type_definitions\": [{\"type\": \"user\"}], \"conditions\": {\"c\": {\n\"name\": \"d\", \"expression\": \"true\"}}}", []string{`2:9: condition "c": its field name must be "c" too|c`}},
		{"a parameter of no type", ledger.SourceJSON, "{\"schema_version\": \"1.1\", \"type_definitions\": [{\"type\": \"user\"}], \"conditions\": {\"c\": {\"expression\": \"true\", \"parameters\": {\"x\": {\n\"type_name\": \"TYPE_NAME_INTEGER\"}}}}}", []string{`2:14: parameter "x" of condition "c": there is no type of parameters|TYPE_NAME_INTEGER`}},
		{"CEL in JSON", ledger.SourceJSON, "{\"schema_version\": \"1.1\", \"type_definitions\": [{\"type\": \"user\"}], \"conditions\": {\"c\": {\n\"expression\": \"1 < 2 &&\\n  x\"}}}", []string{`2:15: condition "c", line 2, column 3 of its expression: undeclared reference|c`}},

		{"not modules", ledger.SourceModules, "model\n", []string{`the source of modules begins with the line "-- fga.mod --"|`}},
		{"no fga.mod", ledger.SourceModules, "-- a.fga --\nmodule a\n", []string{"fga.mod: the file is missing|"}},
		{"a file twice", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [a.fga]\n-- a.fga --\nmodule a\ntype user\n-- a.fga --\nmodule b\n", []string{"a.fga: the file stands twice|a.fga"}},
		{"a missing file", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [a.fga]\n", []string{`fga.mod:2:12: the file "a.fga" is listed and missing|a.fga`}},
		{"an unlisted file", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [a.fga]\n-- a.fga --\nmodule a\ntype user\n-- b.fga --\nmodule b\n", []string{"b.fga: the file is not listed|b.fga"}},
		{"modules with mistakes", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [b.fga, a.fga]\n-- b.fga --\nmodule b\nextend type doc\n  relations\n    define a: [user]\n    define c: [usr]\nextend type nothing\ntype user\n-- a.fga --\nmodule a\ntype doc\n  relations\n    define a: [user]\ntype user\n",
			[]string{`b.fga:4:12: the relation "a" of type "doc" is defined twice; the first is at a.fga:4:12|a`, `b.fga:5:16: relation "c" of type "doc": there is no type "usr"|usr`, `b.fga:6:13: the type "nothing" that is extended here is defined nowhere|nothing`, `a.fga:5:6: the type "user" is defined twice; the first is at b.fga:7:6|user`}},
		{"syntax in two modules", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [b.fga, a.fga]\n-- b.fga --\nmodule b\ntyp x\n-- a.fga --\nmodel\n  schema 1.1\ntype user\n",
			[]string{"b.fga:2:1: |typ", "a.fga:1:1: the file is not a module|model"}},
		{"names beside a module that cannot be read", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [a.fga, b.fga]\n-- a.fga --\nmodule a\ntype self\nextend type there\n  relations\n    define this: [user]\n    define x: [nothing] or nobody\ncondition c(x: int) {\n  y\n}\n-- b.fga --\nmodule b\ntyp there\n",
			[]string{`a.fga:2:6: type "self": "self" is a reserved word|self`, `a.fga:8:3: condition "c": undeclared reference|c`, "b.fga:2:1: |typ"}},
		{"names of what is extended, beside a module that cannot be read", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [a.fga, b.fga, c.fga]\n-- a.fga --\nmodule a\nextend type there\n  relations\n    define this: [user]\n    define x: [nothing] or nobody\n    define y: [user]\n-- b.fga --\nmodule b\ntyp x\n-- c.fga --\nmodule c\ntype there\n  relations\n    define y: [user]\n",
			[]string{`a.fga:4:12: relation "this" of type "there": "this" is a reserved word|this`, `a.fga:6:12: the relation "y" of type "there" is defined twice; the first is at c.fga:4:12|y`, "b.fga:2:1: |typ"}},
		{"an empty module", ledger.SourceModules, "-- fga.mod --\nschema: '1.2'\ncontents: [a.fga]\n-- a.fga --\n", []string{`a.fga:1:1: there is nothing here but space and comments|`}},
		{"no such kind", 9, "x", []string{"unknown kind of source 9|"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse(tt.kind, []byte(tt.source), Limits{})
			if err == nil {
				t.Fatalf("accepted: %s", ToJSON(m))
			}
			found := foundErrors(t, err)
			for _, want := range tt.want {
				text, thing, _ := strings.Cut(want, "|")
				if !slices.ContainsFunc(found, func(e Error) bool { return strings.HasPrefix(e.Error(), text) && (thing == "" || e.Thing == thing) }) {
					t.Errorf("want %q; found\n%s", want, err)
				}
			}
			if !slices.IsSortedFunc(found, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) }) && tt.kind != ledger.SourceModules {
				t.Errorf("not in order of lines:\n%s", err)
			}
		})
	}
}

// TestJSONErrorsName holds every mistake that the JSON form can have, and the language
// cannot, to the names of what it is in, and to no place beside its own.
func TestJSONErrorsName(t *testing.T) {
	typ := func(rest string) string {
		return `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "doc", ` + rest + `}]}`
	}
	rule := func(text string) string { return typ(`"relations": {"viewer": ` + text + `}`) }
	about := func(text string) string {
		return typ(`"relations": {"viewer": {"this": {}}}, "metadata": {"relations": {"viewer": ` + text + `}}`)
	}
	condition := func(text string) string {
		return `{"schema_version": "1.1", "type_definitions": [{"type": "user"}], "conditions": {"office": ` + text + `}}`
	}
	parameter := func(text string) string {
		return condition(`{"expression": "true", "parameters": {"x": ` + text + `}}`)
	}
	deep := func(n int, before, inner, after string) string {
		return strings.Repeat(before, n) + inner + strings.Repeat(after, n)
	}
	const (
		ofType      = `type "doc": `
		ofRelation  = `relation "viewer" of type "doc": `
		ofCondition = `condition "office": `
		ofParameter = `parameter "x" of condition "office": `
		elements    = `{"type_name": "TYPE_NAME_LIST", "generic_types": [`
	)
	for _, tt := range []struct{ source, want string }{
		{`{"schema_version": 1, "type_definitions": [{"type": "user"}]}`, "schema_version must be text"},
		{`{"schema_version": "1.1", "type_definitions": {}}`, "type_definitions must be a list"},
		{`{"schema_version": "1.1", "type_definitions": [{"type": "user"}], "conditions": []}`, "conditions must be an object"},
		{`{"schema_version": "1.1", "type_definitions": [{"type": "user"}], "id": 1}`, "id must be text"},
		{`{"schema_version": "1.1", "type_definitions": [{"type": "user"}, 1]}`, "type_definitions[1]: a type definition must be an object"},
		{`{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": ""}]}`, `type "": `},
		{`{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {}]}`, "type_definitions[1]: a type definition must have the field type, not empty"},
		{`{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": 1}]}`, "type_definitions[1]: type must be text"},
		{`{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "user"}]}`, `the type "user" is defined twice`},
		{typ(`"relation": {}`), ofType + `a type definition has no field "relation"; known are`},
		{typ(`"relations": []`), ofType + "relations must be an object"},
		{typ(`"relations": {"viewer": {"this": {}}, "viewer": {"this": {}}}`), ofType + `relations: "viewer" stands twice`},
		{typ(`"metadata": []`), ofType + "metadata must be an object"},
		{typ(`"metadata": {"modul": "a"}`), ofType + `metadata has no field "modul"`},
		{typ(`"metadata": {"module": 1}`), ofType + "module must be text"},
		{typ(`"metadata": {"source_info": "core.fga"}`), ofType + "source_info must be an object"},
		{typ(`"metadata": {"source_info": {"files": "core.fga"}}`), ofType + `source_info has no field "files"`},
		{typ(`"metadata": {"source_info": {"file": 1}}`), ofType + "file must be text"},
		{typ(`"metadata": {"relations": {"viewer": {}}}`), ofType + `there is metadata of a relation "viewer", which the type does not have`},
		{rule(`1`), ofRelation + "a rule must be an object"},
		{rule(`{}`), ofRelation + "a rule must have exactly one of"},
		{rule(`{"that": {}}`), ofRelation + `a rule has no field "that"`},
		{rule(`{"this": []}`), ofRelation + "this must be an object"},
		{rule(`{"this": {"a": 1}}`), ofRelation + `this has no field "a"`},
		{rule(`{"union": {}}`), ofRelation + "union must have at least one rule in the field child"},
		{rule(`{"union": {"child": []}}`), ofRelation + "union must have at least one rule in the field child"},
		{rule(`{"intersection": {"child": {}}}`), ofRelation + "child must be a list"},
		{rule(`{"union": {"child": [{"this": {}}, {}]}}`), ofRelation + "a rule must have exactly one of"},
		{rule(`{"difference": {"base": {"this": {}}}}`), ofRelation + "difference must have the field subtract, not empty"},
		{rule(`{"computedUserset": {"relation": ""}}`), ofRelation + `type "doc" has no relation ""`},
		{rule(`{"computedUserset": {}}`), ofRelation + "computedUserset must have the field relation, not empty"},
		{rule(`{"computedUserset": {"relation": 1}}`), ofRelation + "relation must be text"},
		{rule(`{"computedUserset": {"object": 1, "relation": "a"}}`), ofRelation + "object must be text"},
		{rule(`{"tupleToUserset": {"tupleset": {"relation": "a"}}}`), ofRelation + "tupleToUserset must have the field computed_userset, not empty"},
		{rule(deep(100, `{"union": {"child": [`, `{"this": {}}`, `]}}`)), ofRelation + "rules are nested deeper than 32"},
		{rule(deep(100, `{"difference": {"base": `, `{"this": {}}`, `, "subtract": {"this": {}}}}`)), ofRelation + "rules are nested deeper than 32"},
		{about(`[]`), ofRelation + "metadata of a relation must be an object"},
		{about(`{"modul": ""}`), ofRelation + `metadata of a relation has no field "modul"`},
		{about(`{"module": 1}`), ofRelation + "module must be text"},
		{about(`{"source_info": {"file": []}}`), ofRelation + "file must be text"},
		{about(`{"directly_related_user_types": {}}`), ofRelation + "directly_related_user_types must be a list"},
		{about(`{"directly_related_user_types": ["user"]}`), ofRelation + "a directly related user type must be an object"},
		{about(`{"directly_related_user_types": [{}]}`), ofRelation + "a directly related user type must have the field type, not empty"},
		{about(`{"directly_related_user_types": [{"type": "user", "relation": 1}]}`), ofRelation + "relation must be text"},
		{about(`{"directly_related_user_types": [{"type": "user", "wildcard": true}]}`), ofRelation + "wildcard must be an object"},
		{about(`{"directly_related_user_types": [{"type": "user"}, {"type": "user"}]}`), `user stands twice in the types of relation "viewer" of type "doc"`},
		{about(`{"directly_related_user_types": [{"type": "robot"}]}`), ofRelation + `there is no type "robot"`},
		{about(`{}`), ofRelation + "a direct relation must name the types"},
		{condition(`1`), ofCondition + "a condition must be an object"},
		{condition(`{}`), ofCondition + "a condition must have the field expression, not empty"},
		{condition(`{"expression": 1}`), ofCondition + "expression must be text"},
		{condition(`{"expression": "true", "name": "other"}`), ofCondition + `its field name must be "office" too`},
		{condition(`{"expression": "true", "parameters": []}`), ofCondition + "parameters must be an object"},
		{condition(`{"expression": "true", "metadata": {"source_info": []}}`), ofCondition + "source_info must be an object"},
		{condition(`{"expression": "y"}`), `condition "office", line 1, column 1 of its expression: undeclared reference`},
		{parameter(`"int"`), ofParameter + "a parameter must be an object"},
		{parameter(`{}`), ofParameter + "a parameter must have the field type_name, not empty"},
		{parameter(`{"type_name": 1}`), ofParameter + "type_name must be text"},
		{parameter(`{"type_name": "TYPE_NAME_FLOAT"}`), ofParameter + `there is no type of parameters "TYPE_NAME_FLOAT"`},
		{parameter(`{"type_name": "TYPE_NAME_LIST"}`), ofParameter + "TYPE_NAME_LIST must have one type of elements in generic_types"},
		{parameter(`{"type_name": "TYPE_NAME_INT", "generic_types": [{"type_name": "TYPE_NAME_INT"}]}`), ofParameter + "TYPE_NAME_INT has no types of elements"},
		{parameter(`{"type_name": "TYPE_NAME_LIST", "generic_types": {}}`), ofParameter + "generic_types must be a list"},
		{parameter(deep(model.MaxValueDepth, elements, `{"type_name": "TYPE_NAME_INT"}`, `]}`)), ofParameter + "types of elements are nested deeper than 16"},
		{parameter(deep(200, elements, `{"type_name": "TYPE_NAME_INT"}`, `]}`)), ofParameter + "types of elements are nested deeper than 16"},
	} {
		_, err := Parse(ledger.SourceJSON, []byte(tt.source), Limits{})
		if err == nil {
			t.Errorf("accepted: %s", tt.source)
			continue
		}
		found := foundErrors(t, err)
		if !slices.ContainsFunc(found, func(e Error) bool { return strings.HasPrefix(e.Message, tt.want) }) {
			t.Errorf("%s: want %q; found\n%s", tt.source, tt.want, err)
		}
		for _, e := range found {
			if e.Line == 0 || strings.Contains(e.Message, "first is at") {
				t.Errorf("%s: %s", tt.source, e)
			}
		}
	}
	if _, err := Parse(ledger.SourceJSON, []byte(parameter(deep(model.MaxValueDepth-1, elements, `{"type_name": "TYPE_NAME_INT"}`, `]}`))), Limits{}); err != nil {
		t.Errorf("the deepest type of a parameter: %s", err)
	}
}

// ofTypes returns a model of n types.
func ofTypes(n int) []byte {
	source := []byte("model\n  schema 1.1\n")
	for i := range n {
		source = fmt.Appendf(source, "type t%d\n", i)
	}
	return source
}

func TestLimits(t *testing.T) {
	padded := func(n int) []byte { return append(ofTypes(1), bytes.Repeat([]byte("\n"), n-len(ofTypes(1)))...) }
	for _, tt := range []struct {
		name   string
		source []byte
		limits Limits
		want   string // part of the message; "" if it is accepted
	}{
		{"types by default", ofTypes(100), Limits{}, ""},
		{"one type more", ofTypes(101), Limits{}, "2:10: a model must define at most 100 types, this defines 101"},
		{"more types on demand", ofTypes(101), Limits{Types: 101}, ""},
		{"fewer types on demand", ofTypes(2), Limits{Types: 1}, "2:10: a model must define at most 1 types, this defines 2"},
		{"types at the end of what there is", ofTypes(model.MaxTypes), Limits{Types: 1 << 20}, ""},
		{"and one more", ofTypes(model.MaxTypes + 1), Limits{Types: 1 << 20}, "at most 1000 types"},
		{"bytes by default", padded(ledger.MaxModelSource), Limits{}, ""},
		{"one byte more", padded(ledger.MaxModelSource + 1), Limits{}, "the source must be at most 262144 bytes, is 262145"},
		{"fewer bytes on demand", ofTypes(1), Limits{Source: 10}, "the source must be at most 10 bytes, is 27"},
		{"more bytes on demand are not for the log", padded(ledger.MaxModelSource + 1), Limits{Source: 1 << 20}, "the source must be at most 262144 bytes, is 262145"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile(ledger.SourceDSL, tt.source, tt.limits)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Compile error = %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Parse(ledger.SourceDSL, padded(ledger.MaxModelSource+1), Limits{Source: 1 << 20}); err != nil {
		t.Errorf("Parse alone reads more on demand: %s", err)
	}
	_, err := Parse(ledger.SourceDSL, []byte("model\n  schema 1.1\ntype doc\n  relations\n    define a: [x, y, z]\n"), Limits{Errors: 2})
	if found := foundErrors(t, err); len(found) != 3 || found[2].Message != "and 1 more" {
		t.Errorf("found %v, want two mistakes and one more", found)
	}
}

func TestCompile(t *testing.T) {
	source := []byte(base)
	s, err := Compile(ledger.SourceDSL, source, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if s.ID.IsZero() || s.Kind != ledger.SourceDSL || !bytes.Equal(s.Source, source) {
		t.Errorf("Compile = %+v", s)
	}
	m, err := model.DecodeModel(s.Compiled)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse(ledger.SourceDSL, source, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	sameModel(t, m, want, true)
	if _, err := Compile(ledger.SourceDSL, []byte("model"), Limits{}); err == nil {
		t.Error("a broken model compiles")
	}
}

func TestJoinModules(t *testing.T) {
	files := map[string][]byte{
		ModFile:       []byte("schema: '1.2'\ncontents:\n  - teams/b.fga\n  - core.fga"),
		"core.fga":    []byte("module core\n\ntype user\n\ntype doc\n  relations\n    define a: [user]\n"),
		"teams/b.fga": []byte("module b\n\nextend type doc\n  relations\n    define b: [user with c]\n\ncondition c(x: int) {\n  x > 1\n}\n"),
	}
	source, err := JoinModules(files)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if again, err := JoinModules(files); err != nil || !bytes.Equal(again, source) {
			t.Fatalf("another text of the same files: %s, %v", again, err)
		}
	}
	m, err := Parse(ledger.SourceModules, source, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := m.Type("doc")
	if m.Schema != "1.2" || doc.Module != "core" || doc.Relations[0].Module != "" || doc.Relations[1].Module != "b" || m.Conditions[0].Module != "b" {
		t.Errorf("modules of %+v %+v", doc, m.Conditions)
	}
	roundTrip(t, m)
	for name, change := range map[string]func(map[string][]byte){
		"no fga.mod":         func(f map[string][]byte) { delete(f, ModFile) },
		"a missing file":     func(f map[string][]byte) { delete(f, "core.fga") },
		"an unlisted file":   func(f map[string][]byte) { f["x.fga"] = nil },
		"a line with a name": func(f map[string][]byte) { f["core.fga"] = []byte("module core\n# \n-- x.fga --\ntype user\n") },
		"a broken fga.mod":   func(f map[string][]byte) { f[ModFile] = []byte("schema: [") },
		"a listed twice": func(f map[string][]byte) {
			f[ModFile] = []byte("schema: '1.2'\ncontents: [core.fga, core.fga, teams/b.fga]")
		},
	} {
		changed := make(map[string][]byte)
		for k, v := range files {
			changed[k] = v
		}
		change(changed)
		if joined, err := JoinModules(changed); err == nil {
			t.Errorf("%s: joined\n%s", name, joined)
		} else {
			foundErrors(t, err)
		}
	}
}

// TestToDSLExpressions holds ToDSL to the expressions that the language can write.
func TestToDSLExpressions(t *testing.T) {
	for expression, ok := range map[string]bool{
		"x == 'a'":                    true,
		"\n  x ==\n    'a' \n":        true,
		"x == 'a # b'":                true,
		"x == 'a' // and # so on":     false, // it takes the rest for a comment of its own
		"x == {'a': 'b'}['a']":        false, // the language ends the expression at '}'
		"x == \"\"\"a\n # b\n\"\"\"":  false, // it takes the line for a comment
		"x == \"\"\"a\n b\n\"\"\"":    true,
		"x == 'a' // }\n || x == 'b'": true,
	} {
		c := model.Condition{Name: "c", Expression: expression, Params: []model.Param{{Name: "x", Type: model.ParamType{Kind: model.ParamString}}}}
		m := &model.Model{Schema: "1.1", Types: []model.Type{{Name: "user", Module: "m"}}, Conditions: []model.Condition{c}}
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		text, err := ToDSL(m)
		if (err == nil) != ok {
			t.Errorf("%q is written as\n%s\n%v", expression, text, err)
		}
		if err == nil {
			roundTrip(t, m)
		}
	}
}

// TestToDSLRefuses holds ToDSL to what the language cannot write.
func TestToDSLRefuses(t *testing.T) {
	for name, relation := range map[string]string{
		"a subtracted direct grant": `{"difference": {"base": {"computedUserset": {"relation": "a"}}, "subtract": {"this": {}}}}`,
		"two direct grants":         `{"union": {"child": [{"this": {}}, {"intersection": {"child": [{"this": {}}, {"computedUserset": {"relation": "a"}}]}}]}}`,
	} {
		m, err := Parse(ledger.SourceJSON, []byte(`{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "doc",
			"relations": {"a": {"this": {}}, "b": `+relation+`},
			"metadata": {"relations": {"a": {"directly_related_user_types": [{"type": "user"}]}, "b": {"directly_related_user_types": [{"type": "user"}]}}}}]}`), Limits{})
		if err != nil {
			t.Fatalf("%s: %s", name, err)
		}
		if text, err := ToDSL(m); err == nil {
			t.Errorf("%s is written as\n%s", name, text)
		}
	}
}

// FuzzParse: no source panics, and what parses is one model in each of its forms.
func FuzzParse(f *testing.F) {
	f.Add(byte(ledger.SourceDSL), base+"    define r: ([user with c1] and (a or owner from parent)) but not b # x\n"+twoConditions)
	f.Add(byte(ledger.SourceDSL), "model\r\n  schema 1.2\r\ntype a/b.c\r\n  relations\r\n    define x: [\r\n a/b.c:*]")
	f.Add(byte(ledger.SourceDSL), "model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define p: [doc]\n    define a: [user with c, user:*] or a from p\ncondition c(x: any, l: list<any>, m: map<ipaddress>) {\n  x in l || // )\n  m['a'].in_cidr('::/0')\n}\n")
	f.Add(byte(ledger.SourceModules), "-- fga.mod --\nschema: \"1.2\"\ncontents:\n  - a.fga\n  - b.fga\n-- a.fga --\nmodule a\ntypo user\n-- b.fga --\nmodule b\ntype self\nextend type self\n  relations\n    define this: [user] or this\n")
	f.Add(byte(ledger.SourceModules), "-- fga.mod --\nschema: \"1.2\"\ncontents:\n  - a.fga\n  - b.fga\n-- a.fga --\nmodule a\ntype user\n-- b.fga --\nmodule b\nextend type user\n  relations\n    define x: [user]\n")
	f.Add(byte(ledger.SourceJSON), `{"schema_version":"1.1","type_definitions":[{"type":"user"},{"type":"doc","relations":{"a":{"this":{}},"b":{"tuple_to_userset":{"tupleset":{"relation":"p"},"computedUserset":{"relation":"a"}}},"p":{"this":{}}},"metadata":{"relations":{"a":{"directly_related_user_types":[{"type":"user","wildcard":{},"condition":"c"}]},"p":{"directly_related_user_types":[{"type":"doc"}]}},"module":"m"}}],"conditions":{"c":{"name":"c","expression":"x[0] == {'a': 1}['a']","parameters":{"x":{"type_name":"TYPE_NAME_LIST","generic_types":[{"type_name":"TYPE_NAME_INT"}]}}}}}`)
	f.Fuzz(func(t *testing.T, kind byte, source string) {
		m, err := Parse(ledger.SourceKind(kind), []byte(source), Limits{})
		if err != nil {
			if found := foundErrors(t, err); (&found).Error() == "" {
				t.Error("a mistake without words")
			}
			return
		}
		encoded := model.AppendModel(nil, m)
		decoded, err := model.DecodeModel(encoded)
		if err != nil {
			t.Fatalf("a parsed model does not decode: %s", err)
		}
		if !bytes.Equal(model.AppendModel(nil, decoded), encoded) {
			t.Error("decoded and encoded again, it is another model")
		}
		if again, err := Parse(ledger.SourceJSON, ToJSON(m), Limits{Source: 1 << 24, Types: model.MaxTypes}); err != nil {
			t.Errorf("its JSON does not parse: %s", err)
		} else if !bytes.Equal(model.AppendModel(nil, again), encoded) {
			t.Errorf("its JSON is another model:\n%s", ToJSON(m))
		}
		text, err := ToDSL(m)
		if err != nil {
			return
		}
		again, err := Parse(ledger.SourceDSL, []byte(text), Limits{Source: len(text), Types: model.MaxTypes})
		if err != nil {
			t.Fatalf("its DSL does not parse: %s\n%s", err, text)
		}
		if kind != byte(ledger.SourceJSON) && !bytes.Equal(sorted(again, false), sorted(m, false)) {
			t.Errorf("its DSL is another model:\n%s", text)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	source := []byte(base + twoConditions)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(ledger.SourceDSL, source, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPrepare holds what is blanked before the parser sees it: nothing moves.
func TestPrepare(t *testing.T) {
	for _, tt := range []struct{ in, want, body string }{
		{"    define a: ((b))", "    define a:  (b) ", ""},
		{"    define a: ( ( ((b or c)) ) ) and d", "    define a:      (b or c)      and d", ""},
		{"    define a: ((b) or (c))", "    define a: ((b) or (c))", ""},
		{"    define a: (((b) or (c)))", "    define a:  ((b) or (c)) ", ""},
		{"    define a: ((b) or c", "    define a: ((b) or c", ""},
		{"    define a: (b))", "    define a: (b))", ""},
		{"condition c(x: int) {\n\n  ((x > 1)) // é }\n  && true\n}", "condition c(x: int) {\n\n                  \n         \n}", "((x > 1)) // é }\n  && true"},
		{"condition c(x: int) { x == '}' }", "condition c(x: int) {          }", "x == '}'"},
		{"condition c(x: int) { x > 1", "condition c(x: int) { x > 1", ""},
	} {
		runes := []rune(tt.in)
		d := newDraft()
		bodies := d.prepare("", runes).bodies
		if string(runes) != tt.want || len(d.errs) > 0 {
			t.Errorf("%q becomes\n%q, want\n%q, %v", tt.in, string(runes), tt.want, d.errs)
		}
		got := ""
		for _, b := range bodies {
			got = b.text
			if at := strings.Index(tt.in, b.text); b.at.line != strings.Count(tt.in[:at], "\n")+1 || b.at.col != at-strings.LastIndexByte(tt.in[:at], '\n') {
				t.Errorf("the body %q stands at %s", b.text, b.at)
			}
		}
		if got != tt.body {
			t.Errorf("%q has the body %q, want %q", tt.in, got, tt.body)
		}
	}
}
