package files

import (
	"math"
	"reflect"
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
	f.Add("null")
	f.Add("? [a]\n: b\n<<: {}\n!!binary a: b")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file") {
			t.Skip("reads what the text names")
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
