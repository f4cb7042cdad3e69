package files

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
)

// TestContext reads values as conditions get them.
func TestContext(t *testing.T) {
	text := func(s string) model.Value { return model.Value{Kind: model.StringValue, String: s} }
	whole := func(text string) model.Value {
		v, err := model.ParseJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	field := func(name string, v model.Value) model.Field { return model.Field{Name: name, Value: v} }
	fields := func(all ...model.Field) model.Value { return model.Value{Kind: model.MapValue, Map: all} }
	double := func(f float64) model.Value { return model.Value{Kind: model.DoubleValue, Double: f} }
	for _, tt := range []struct {
		in    string
		want  model.Value
		wrong string // part of the mistake, or ""
	}{
		{"ten", text("ten"), ""},
		{`"10"`, text("10"), ""},
		{"2026-03-01", text("2026-03-01"), ""},
		{"2026-03-01T00:00:00Z", text("2026-03-01T00:00:00Z"), ""},
		{"10", whole("10"), ""},
		{"-0x10", whole("-16"), ""},
		{"18446744073709551615", whole("18446744073709551615"), ""},
		{"18446744073709551616", double(math.Ldexp(1, 64)), ""},
		{"1.0", double(1), ""},
		{"1e3", double(1000), ""},
		{".inf", model.Value{}, "must be a number that JSON can write, is .inf"},
		{".nan", model.Value{}, "must be a number that JSON can write, is .nan"},
		{"true", model.Value{Kind: model.BoolValue, Bool: true}, ""},
		{"null", model.Value{}, ""},
		{"[1, a]", model.Value{Kind: model.ListValue, List: []model.Value{whole("1"), text("a")}}, ""},
		{"{b: 1, a: x}", model.Value{Kind: model.MapValue, Map: []model.Field{{Name: "a", Value: text("x")}, {Name: "b", Value: whole("1")}}}, ""},
		{"{b: 1, b: 2}", model.Value{Kind: model.MapValue, Map: []model.Field{{Name: "b", Value: whole("1")}}}, `"b" stands here twice`},
		{"{[a]: 1}", model.Value{Kind: model.MapValue}, "must be a name"},
		{"[yes, on]", model.Value{Kind: model.ListValue, List: []model.Value{text("yes"), text("on")}}, ""},

		// Own names win wherever they stand, even with null, and then those merged first.
		{"{<<: {a: 1, b: 1}, b: x}", fields(field("a", whole("1")), field("b", text("x"))), ""},
		{"{b: x, <<: {a: 1, b: 1}}", fields(field("a", whole("1")), field("b", text("x"))), ""},
		{"{a: , <<: {a: 1}}", fields(field("a", model.Value{})), ""},
		{"{<<: [{a: 1}, {a: 2, b: 2}, {b: 3, c: 3}]}", fields(field("a", whole("1")), field("b", whole("2")), field("c", whole("3"))), ""},
		{"{<<: [{<<: {a: 1, b: 1}, b: 2}, {a: 3, b: 3}], c: 4}", fields(field("a", whole("1")), field("b", whole("2")), field("c", whole("4"))), ""},
		{"{<<: {a: {b: 1, c: 1}}, a: {b: 2}}", fields(field("a", fields(field("b", whole("2"))))), ""},
		{"{x: &x {a: 1}, y: &y [*x, {b: 2}], z: {<<: *y}}", fields(field("x", fields(field("a", whole("1")))),
			field("y", model.Value{Kind: model.ListValue, List: []model.Value{fields(field("a", whole("1"))), fields(field("b", whole("2")))}}),
			field("z", fields(field("a", whole("1")), field("b", whole("2"))))), ""},
		{`{"<<": {a: 1}}`, fields(field("<<", fields(field("a", whole("1"))))), ""},
		{"{<<: {}}", model.Value{Kind: model.MapValue}, ""},
		{"{<<: {a: 1}, <<: {b: 1}}", fields(field("a", whole("1"))), `"<<" stands here twice`},
		{"{<<: {a: 1, a: 2}}", fields(field("a", whole("1"))), `"a" stands here twice`},
		{"{<<: {a: 1, a: 2}, a: 3}", fields(field("a", whole("3"))), `"a" stands here twice`},
		{"{<<: 1}", model.Value{Kind: model.MapValue}, "<< must be a mapping, or a list of mappings"},
		{"{<<: }", model.Value{Kind: model.MapValue}, "<< must be a mapping, or a list of mappings"},
		{"{<<: [[{a: 1}]]}", model.Value{Kind: model.MapValue}, "<< must be a mapping, or a list of mappings"},
		{"!!merge a: 1", model.Value{Kind: model.MapValue}, "must be a name"},
		{"&x {<<: *x, a: 1}", fields(field("a", whole("1"))), "a mapping must not be merged into itself"},
		{"{<<: &x {<<: [{b: 2}, *x], a: 1}}", fields(field("a", whole("1")), field("b", whole("2"))), "a mapping must not be merged into itself"},
		{strings.Repeat("{<<: ", 33) + "{a: 1}" + strings.Repeat("}", 33), model.Value{Kind: model.MapValue}, "<< must be at most 32 mappings deep"},
	} {
		r := &reader{}
		n := r.document([]byte(tt.in))
		if n == nil {
			t.Errorf("%s: %v", tt.in, &r.mistakes)
			continue
		}
		got := r.value(n, 0)
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("value of %s = %+v, want %+v", tt.in, got, tt.want)
		}
		if tt.wrong == "" && len(r.mistakes) > 0 || tt.wrong != "" && (len(r.mistakes) != 1 || r.mistakes[0].Message != tt.wrong) {
			t.Errorf("mistakes of %s = %v, want %q", tt.in, r.mistakes, tt.wrong)
		}
	}
}

// TestTruth reads what is true and false as the command line of OpenFGA does.
func TestTruth(t *testing.T) {
	for in, want := range map[string]string{
		"true": "true", "True": "true", "yes": "true", "Yes": "true", "on": "true", "y": "true", `"yes"`: "true", "!!bool true": "true",
		"false": "false", "FALSE": "false", "no": "false", "NO": "false", "off": "false", "n": "false",
		"": "", "null": "", "1": "", "0": "", "ja": "", "yEs": "", `"true"`: "", "!!str true": "", "[true]": "", "{a: true}": "", "2026-03-01": "",
	} {
		r := &reader{}
		got := r.truth(r.document([]byte("it: " + in)).Content[1], "it")
		switch {
		case want == "" && (len(r.mistakes) != 1 || r.mistakes[0].Message != "it must be true or false" || got):
			t.Errorf("truth of %s = %t with %v, want a mistake", in, got, r.mistakes)
		case want != "" && (len(r.mistakes) > 0 || strconv.FormatBool(got) != want):
			t.Errorf("truth of %s = %t with %v, want %s", in, got, r.mistakes, want)
		}
	}
}

// TestManyMerges merges a short file into a large one, which is refused in good time.
func TestManyMerges(t *testing.T) {
	var b strings.Builder
	b.WriteString("a: &m0 {k: 1")
	for i := range 1000 {
		fmt.Fprintf(&b, ", k%d: 1", i)
	}
	b.WriteString("}\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &m%d {<<: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*m%d, ", i-1), 10), ", "))
	}
	r := &reader{}
	r.value(r.document([]byte(b.String())), 0)
	if !strings.Contains(r.mistakes.Error(), "there is too much in it") {
		t.Errorf("%d values were read, and %v", r.nodes, r.mistakes)
	}
}

// TestManyChecks asserts more than a file may: what a short file asks for is bounded.
func TestManyChecks(t *testing.T) {
	for n, want := range map[int]int{1024: 1024 * 1024, 1025: 0} {
		text := "tests: [{check: [{users: [" + strings.Repeat("user:a,", 1024) + "], objects: [" + strings.Repeat("doc:a,", n) + "], assertions: {viewer: true}}]}]"
		r, s := &reader{file: "store.fga.yaml"}, &Store{}
		r.store(r.document([]byte(text)), s, nil)
		got := len(s.Tests[0].Assertions)
		refused := strings.Contains(r.mistakes.Error(), "a file may assert 1048576 checks")
		if got != want || refused != (want == 0) {
			t.Errorf("1024 users and %d objects: %d assertions, refused: %v; want %d", n, got, refused, want)
		}
	}
}

// FuzzStore reads any bytes: what is not noted as a mistake is whole.
func FuzzStore(f *testing.F) {
	f.Add("name: a\nmodel: |\n  model\n    schema 1.1\n  type user\n  type doc\n    relations\n      define viewer: [user]\n" +
		"tuples:\n  - {user: user:a, relation: viewer, object: doc:a}\ntests:\n  - name: t\n    check:\n" +
		"      - users: [user:a]\n        object: doc:a\n        context: {a: [1, .5, *x]}\n        assertions: {viewer: true}\n")
	f.Add("a: &a [*a]\nmodel: *a")
	f.Add("tests: [{list_users: [{object: doc:a, user_filter: [{type: user}], assertions: {viewer: {users: [user:a]}}}]}]")
	f.Add("tests: [{list_objects: [{user: user:a, type: doc, assertions: {viewer: [doc:a]}}]}]")
	f.Add("tests: [{check: [{user: user:a, object: doc:a, context: &c {a: 1}, assertions: &a {viewer: yes}}, {user: user:b, object: doc:a, context: {<<: [*c, {b: 2}], b: 3}, assertions: {<<: *a}}]}]")
	f.Add("null")
	f.Add("? [a]\n: b\n<<: {}\n!!binary a: b")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file") {
			t.Skip("the text may name a file, which would be read")
		}
		r, s := &reader{file: "store.fga.yaml"}, &Store{}
		n := r.document([]byte(text))
		if n != nil {
			r.store(n, s, strings.Split(text, "\n"))
		}
		for _, m := range r.mistakes {
			if m.File == "" || m.Message == "" {
				t.Errorf("mistake without its place or text: %+v", m)
			}
		}
		if len(r.mistakes) > 0 {
			return
		}
		for _, tuple := range s.Tuples {
			if tuple.Place.Line == 0 || tuple.Tuple.Object.Validate() != nil || tuple.Tuple.Subject.Validate() != nil {
				t.Errorf("%+v", tuple)
			}
		}
		for _, test := range s.Tests {
			for _, a := range test.Assertions {
				if a.Place.Line == 0 || a.Relation == "" || a.Kind != ListUsers && a.Subject.Validate() != nil || a.Kind != ListObjects && a.Object.Validate() != nil {
					t.Errorf("%+v", a)
				}
			}
		}
		if len(s.Model.Compiled) == 0 {
			t.Error("a store without a model and without a mistake")
		}
	})
}
