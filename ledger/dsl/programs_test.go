package dsl

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
)

// conditionModel returns a model with one condition c of these parameters.
func conditionModel(t testing.TB, params, expression string) *model.Model {
	t.Helper()
	m, err := Parse(ledger.SourceDSL, []byte("model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define viewer: [user with c]\ncondition c("+params+") {\n  "+expression+"\n}\n"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func value(t testing.TB, text string) model.Value {
	t.Helper()
	if text == "" {
		return model.Value{}
	}
	v, err := model.ParseJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// stored returns a context as it is stored with a grant under m.
func stored(t testing.TB, m *model.Model, text string) []byte {
	t.Helper()
	if text == "" {
		return nil
	}
	c, _ := m.Condition("c")
	typed, err := c.TypeContext(value(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return model.AppendContext(nil, typed)
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano()

func TestHolds(t *testing.T) {
	for _, tt := range []struct {
		name, params, expression, stored, request string
		want                                      bool
	}{
		{"bool", "b: bool", "b", `{"b": true}`, ``, true},
		{"bool denied", "b: bool", "b", `{"b": false}`, ``, false},
		{"string", "s: string", `s.startsWith("a") && s.matches("^a+$")`, ``, `{"s": "aaa"}`, true},
		{"int", "i: int", "i / 2 == 3", ``, `{"i": 7}`, true},
		{"int as text", "i: int", "i == -7", ``, `{"i": "-7"}`, true},
		{"uint", "u: uint", "u == 18446744073709551615u", ``, `{"u": 18446744073709551615}`, true},
		{"double", "d: double", "d / 2.0 == 3.5", ``, `{"d": 7}`, true},
		{"duration", "d: duration", `d > duration("89m") && d < duration("91m")`, `{"d": "1h30m"}`, ``, true},
		{"timestamp", "t: timestamp", `t == timestamp("2026-03-01T12:00:00Z")`, `{"t": "2026-03-01T13:00:00+01:00"}`, ``, true},
		{"timestamp and duration", "start: timestamp, d: duration, at: timestamp", `at < start + d`, `{"start": "2026-03-01T12:00:00Z", "d": "1h"}`, `{"at": "2026-03-01T12:59:59Z"}`, true},
		{"hours are of UTC", "t: timestamp", `t.getHours() == 12`, `{"t": "2026-03-01T13:00:00+01:00"}`, ``, true},
		{"ipaddress", "ip: ipaddress", `ip.in_cidr("192.168.0.0/24")`, ``, `{"ip": "192.168.0.77"}`, true},
		{"ipaddress outside", "ip: ipaddress", `ip.in_cidr("192.168.0.0/24")`, ``, `{"ip": "192.168.1.77"}`, false},
		{"ipaddress of version 6", "ip: ipaddress", `ip.in_cidr("2001:db8::/32")`, ``, `{"ip": "2001:DB8::1"}`, true},
		{"version 4 within 6", "ip: ipaddress", `ip.in_cidr("192.168.0.0/24")`, ``, `{"ip": "::ffff:192.168.0.1"}`, true},
		{"a range of version 4 within 6", "ip: ipaddress", `ip.in_cidr("::ffff:192.168.0.0/120")`, ``, `{"ip": "192.168.0.1"}`, true},
		{"a range from the context", "ip: ipaddress, cidr: string", `ip.in_cidr(cidr)`, `{"cidr": "10.0.0.0/8"}`, `{"ip": "10.1.2.3"}`, true},
		{"ipaddress equals", "ip: ipaddress", `ip == ipaddress("10.0.0.1") && ip != ipaddress("10.0.0.2") && ip != null`, ``, `{"ip": "10.0.0.1"}`, true},
		{"list", "l: list<string>", `"b" in l && l.exists(x, x == "a") && size(l) == 2`, `{"l": ["a", "b"]}`, ``, true},
		{"list of timestamps", "l: list<timestamp>", `l.all(x, x < now)`, `{"l": ["2026-01-01T00:00:00Z"]}`, ``, true},
		{"list of addresses", "l: list<ipaddress>", `l[0].in_cidr("10.0.0.0/8")`, `{"l": ["10.0.0.1"]}`, ``, true},
		{"map", "m: map<int>", `m["a"] == 1 && !("b" in m) && m.a == 1`, `{"m": {"a": 1}}`, ``, true},
		{"map of durations", "m: map<duration>", `m.a == duration("1s")`, `{"m": {"a": "1s"}}`, ``, true},
		{"list of anything", "l: list<any>", `l[0] == 1 && l[1] == "a" && l[2].b && l[3] == null && size(l) == 4`, ``, `{"l": [1, "a", {"b": true}, null]}`, true},
		{"map of anything", "m: map<any>", `m.a == 1.5 && m.b.c[0] == "d" && !has(m.e)`, `{"m": {"a": 1.5, "b": {"c": ["d"]}}}`, ``, true},
		{"map of addresses", "m: map<ipaddress>", `m.all(k, m[k].in_cidr("10.0.0.0/8"))`, ``, `{"m": {"a": "10.0.0.1", "b": "10.9.9.9"}}`, true},
		{"equal maps", "m: map<int>, n: map<int>", `m == n && n == m && size(m) == 2`, `{"n": {"b": 2, "a": 1}}`, `{"m": {"a": 1, "b": 2}}`, true},
		{"stored wins", "a: int, b: int", "a == 1 && b == 2", `{"a": 1}`, `{"a": 5, "b": 2}`, true},
		{"stored wins over what is wrong", "a: int", "a == 1", `{"a": 1}`, `{"a": "x"}`, true},
		{"what concerns others", "a: int", "a == 1", ``, `{"a": 1, "z": "x", "b": [1]}`, true},
		{"now", "until: timestamp", "now < until", `{"until": "2026-03-01T12:00:01Z"}`, ``, true},
		{"now is past", "until: timestamp", "now < until", `{"until": "2026-03-01T12:00:00Z"}`, ``, false},
		{"a parameter named now", "now: int", "now == 1", `{"now": 1}`, ``, true},
		{"no parameter is needed", "a: int", "now > timestamp('2000-01-01T00:00:00Z')", `{"a": 1}`, ``, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := conditionModel(t, tt.params, tt.expression)
			ps, err := NewPrograms(m)
			if err != nil {
				t.Fatal(err)
			}
			cs := ps.Conditions(value(t, tt.request), noon)
			for range 2 { // the second may come from memory
				if got, err := cs.Holds("c", stored(t, m, tt.stored)); got != tt.want || err != nil {
					t.Fatalf("Holds = %t, %v, want %t", got, err, tt.want)
				}
			}
		})
	}
}

// TestConditionsOver: of values that win over what is stored, those and no others do.
func TestConditionsOver(t *testing.T) {
	m := conditionModel(t, "a: int, b: int, c: int", "a == 1 && b == 2 && c == 3")
	ps, err := NewPrograms(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, stored, request, over string
		want                        bool
		err                         string
	}{
		{"over both", `{"a": 9, "b": 2}`, `{"a": 8, "c": 3}`, `{"a": 1}`, true, ""},
		{"stored stands where nothing is over it", `{"a": 1, "b": 2}`, `{"b": 9, "c": 3}`, `{"a": 1}`, true, ""},
		{"nothing is stored", ``, `{"a": 9, "b": 2, "c": 3}`, `{"a": 1}`, true, ""},
		{"all of it", `{"a": 9, "b": 9, "c": 9}`, ``, `{"a": 1, "b": 2, "c": 3}`, true, ""},
		{"it decides against", `{"a": 1, "b": 2, "c": 3}`, ``, `{"c": 4}`, false, ""},
		{"of the wrong type, it is not passed over", `{"a": 1, "b": 2, "c": 3}`, ``, `{"a": "x"}`, false, "must be a value of type int"},
		{"missing still", `{"b": 2}`, ``, `{"a": 1}`, false, "the context lacks c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cs := ps.ConditionsOver(value(t, tt.request), value(t, tt.over), noon)
			got, err := cs.Holds("c", stored(t, m, tt.stored))
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Holds = %t, %v, want %t and an error with %q", got, err, tt.want, tt.err)
			}
		})
	}
}

// TestAny reads values of the type any.
func TestAny(t *testing.T) {
	for _, tt := range []struct {
		expression, request string
	}{
		{`x == null`, `{"x": null}`},
		{`x == 1 && x / 2.0 == 0.5`, `{"x": 1}`},
		{`x == 9007199254740993 && x != 9007199254740992`, `{"x": 9007199254740993}`},
		{`x == 18446744073709551615u`, `{"x": 18446744073709551615}`},
		{`x.a[1].b == "c" && x.d == true && x.e == 0.5`, `{"x": {"a": [1, {"b": "c"}], "d": true, "e": 0.5}}`},
	} {
		ps, err := NewPrograms(conditionModel(t, "x: any", tt.expression))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ps.Conditions(value(t, tt.request), noon).Holds("c", nil); !got || err != nil {
			t.Errorf("%s with %s = %t, %v, want true", tt.expression, tt.request, got, err)
		}
	}
}

// TestNestedElements: lists of lists, which OpenFGA's API has and the DSL does not.
func TestNestedElements(t *testing.T) {
	nested := func(depth int) string {
		return strings.Repeat(`{"type_name": "TYPE_NAME_LIST", "generic_types": [`, depth) + `{"type_name": "TYPE_NAME_INT"}` + strings.Repeat(`]}`, depth)
	}
	read := func(depth int, expression string) (*model.Model, error) {
		return Parse(ledger.SourceJSON, []byte(`{"schema_version": "1.1", "type_definitions": [{"type": "user"}],
			"conditions": {"c": {"name": "c", "expression": "`+expression+`", "parameters": {"x": `+nested(depth)+`}}}}`), Limits{})
	}
	m, err := read(3, "x[0][1].all(i, i > 1)")
	if err != nil {
		t.Fatal(err)
	}
	ps, err := NewPrograms(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ps.Conditions(value(t, `{"x": [[[], [2, "3"]]]}`), noon).Holds("c", nil); !got || err != nil {
		t.Errorf("Holds = %t, %v, want true", got, err)
	}
	var wrong *ContextError
	if got, err := ps.Conditions(value(t, `{"x": [[[], [2, 3.5]]]}`), noon).Holds("c", nil); got || !errors.As(err, &wrong) || !strings.Contains(err.Error(), "item 0 item 1 item 1 must be a value of type int") {
		t.Errorf("Holds = %t, %v, want a ContextError that says where", got, err)
	}
	for depth, ok := range map[int]bool{model.MaxValueDepth - 1: true, model.MaxValueDepth: false, 60: false, 5000: false} {
		if _, err := read(depth, "true"); (err == nil) != ok {
			t.Errorf("lists %d deep: %v", depth, err)
		}
	}
}

// TestTimed says which conditions look at the time.
func TestTimed(t *testing.T) {
	for _, tt := range []struct {
		params, expression string
		want               bool
	}{
		{"b: bool", "b", false},
		{"t: timestamp", "t < now", true},
		{"t: timestamp", "t < timestamp(\"2026-01-01T00:00:00Z\")", false},
		{"l: list<int>", "l.exists(x, x > 3 && now.getHours() > x)", true},
		{"now: int", "now > 3", false},
		{"s: string", "s == 'now'", false},
		{"m: map<string>", "m.now == 'x'", false},
	} {
		ps, err := NewPrograms(conditionModel(t, tt.params, tt.expression))
		if err != nil {
			t.Fatal(err)
		}
		if got := ps.Timed("c"); got != tt.want || ps.Timed("other") {
			t.Errorf("%s { %s } looks at the time: %v, want %v; another does: %v", tt.params, tt.expression, got, tt.want, ps.Timed("other"))
		}
	}
}

func TestHoldsErrors(t *testing.T) {
	for _, tt := range []struct {
		name, params, expression, stored, request string
		want                                      error  // of its type
		text                                      string // part of its text
	}{
		{"all missing", "a: int, b: bool, c: string", "a == 1 && b && c == ''", ``, ``, &MissingError{}, "lacks a, b, c"},
		{"one missing", "a: int, b: bool", "a == 1 && b", `{"a": 1}`, `{"c": 1}`, &MissingError{}, `condition "c": the context lacks b`},
		{"missing where it decides nothing", "a: bool, b: bool", "a || b", ``, `{"a": true}`, &MissingError{}, "lacks b"},
		{"missing where it would deny", "a: bool, b: bool", "a && b", ``, `{"a": false}`, &MissingError{}, "lacks b"},
		{"some stored, some asked, two missing", "a: int, b: int, c: int, d: int", "a + b + c + d > 0", `{"b": 1}`, `{"d": 1}`, &MissingError{}, `condition "c": the context lacks a, c`},
		{"missing beside now", "a: int", "a == 1 || now > timestamp('2000-01-01T00:00:00Z')", ``, `{}`, &MissingError{}, "lacks a"},
		{"an item of the wrong type", "l: list<int>", "l[0] == 1", ``, `{"l": [1, 1.5]}`, &ContextError{}, `parameter "l" of condition "c": item 1 must be a value of type int`},
		{"a number that is none", "d: double", "d > 0.0", ``, `{"d": "NaN"}`, &ContextError{}, `parameter "d" of condition "c": must be a value of type double`},
		{"of the wrong type", "a: int", "a == 1", ``, `{"a": "one"}`, &ContextError{}, `parameter "a" of condition "c"`},
		{"null is no bool", "a: bool", "a", ``, `{"a": null}`, &ContextError{}, `parameter "a"`},
		{"no address", "ip: ipaddress", `ip.in_cidr("10.0.0.0/8")`, ``, `{"ip": "10.0.0.256"}`, &ContextError{}, `parameter "ip"`},
		{"no range", "ip: ipaddress, cidr: string", `ip.in_cidr(cidr)`, ``, `{"ip": "10.0.0.1", "cidr": "10.0.0.0"}`, &ConditionError{}, "is not a range"},
		{"division by zero", "a: int", "1 / a == 1", ``, `{"a": 0}`, &ConditionError{}, "division by zero"},
		{"no such key", "m: map<string>", `m["a"] == ""`, ``, `{"m": {}}`, &ConditionError{}, "no such key"},
		{"too much", "l: list<int>", "l.all(x, l.all(y, l.all(z, x + y + z >= 0)))", ``, `{"l": [` + strings.Repeat("1,", 99) + `1]}`, &CostError{}, "exceeds the cost limit of 10000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := conditionModel(t, tt.params, tt.expression)
			ps, err := NewPrograms(m)
			if err != nil {
				t.Fatal(err)
			}
			cs := ps.Conditions(value(t, tt.request), noon)
			for range 2 {
				got, err := cs.Holds("c", stored(t, m, tt.stored))
				if got || err == nil || reflect.TypeOf(err) != reflect.TypeOf(tt.want) || !strings.Contains(err.Error(), tt.text) {
					t.Fatalf("Holds = %t, %T %v, want a %T with %q", got, err, err, tt.want, tt.text)
				}
				if strings.Count(err.Error(), `condition "c"`) != 1 {
					t.Fatalf("%s: does not name the condition once", err)
				}
			}
		})
	}
}

func TestHoldsUnknown(t *testing.T) {
	m := conditionModel(t, "a: int", "a == 1")
	ps, err := NewPrograms(m)
	if err != nil {
		t.Fatal(err)
	}
	var condition *ConditionError
	if got, err := ps.Conditions(model.Value{}, noon).Holds("d", nil); got || !errors.As(err, &condition) {
		t.Errorf("Holds of an unknown condition = %t, %v", got, err)
	}
	if got, err := ps.Conditions(value(t, `{"a": 1}`), noon).Holds("c", []byte{1, 2, 3}); got || !errors.As(err, &condition) {
		t.Errorf("Holds with a damaged context = %t, %v", got, err)
	}
}

// TestOlderContext runs a condition over what was stored when its parameters were others.
func TestOlderContext(t *testing.T) {
	older := conditionModel(t, "a: int, b: string, gone: bool", `a == 1 && b == "x" && gone`)
	newer := conditionModel(t, "a: int, b: int", "a == 1 && b == 2")
	ps, err := NewPrograms(newer)
	if err != nil {
		t.Fatal(err)
	}
	cs := ps.Conditions(value(t, `{"b": 2}`), noon)
	if got, err := cs.Holds("c", stored(t, older, `{"a": 1, "gone": true}`)); !got || err != nil {
		t.Errorf("with a parameter that is gone: Holds = %t, %v, want true", got, err)
	}
	var wrong *ContextError
	if got, err := cs.Holds("c", stored(t, older, `{"a": 1, "b": "x"}`)); got || !errors.As(err, &wrong) || !wrong.Stored || wrong.Param != "b" {
		t.Errorf("with a parameter of another type: Holds = %t, %v, want a ContextError of what is stored", got, err)
	}
}

// TestBrokenCondition: a condition that does not compile spoils no other.
func TestBrokenCondition(t *testing.T) {
	m := conditionModel(t, "a: int", "a == 1")
	broken := &model.Model{Schema: m.Schema, Types: m.Types, Conditions: append(slices.Clone(m.Conditions),
		model.Condition{Name: "d", Expression: "a ==", Params: m.Conditions[0].Params})}
	if err := broken.Validate(); err != nil {
		t.Fatal(err)
	}
	ps, err := NewPrograms(broken)
	if err != nil {
		t.Fatal(err)
	}
	cs := ps.Conditions(value(t, `{"a": 1}`), noon)
	if got, err := cs.Holds("c", nil); !got || err != nil {
		t.Errorf("Holds of the good condition = %t, %v", got, err)
	}
	var condition *ConditionError
	for range 2 {
		if got, err := cs.Holds("d", nil); got || !errors.As(err, &condition) || !strings.Contains(err.Error(), "does not compile") {
			t.Errorf("Holds of the broken condition = %t, %v", got, err)
		}
	}
}

func TestCostLimit(t *testing.T) {
	m := conditionModel(t, "l: list<int>", "l.all(x, x > 0)")
	request := value(t, `{"l": [`+strings.Repeat("1,", 99)+`1]}`)
	for limit, want := range map[uint64]bool{100: false, DefaultCost: true} {
		ps, err := NewProgramsWithCost(m, limit)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ps.Conditions(request, noon).Holds("c", nil)
		var cost *CostError
		if got != want || !want && (!errors.As(err, &cost) || cost.Limit != limit) {
			t.Errorf("limit %d: Holds = %t, %v", limit, got, err)
		}
	}
}

// TestCostInOrder: what a condition costs does not depend on Go's order of maps.
func TestCostInOrder(t *testing.T) {
	for _, params := range []string{"m: map<int>", "m: any"} {
		ps, err := NewProgramsWithCost(conditionModel(t, params, "m.exists(k, m[k] == 1)"), 150)
		if err != nil {
			t.Fatal(err)
		}
		text := `{"m": {"a": 2`
		for i := range 40 {
			text += fmt.Sprintf(`, "b%d": 2`, i)
		}
		for at, want := range map[string]bool{"0": true, "z": false} { // a match at the beginning, and behind the limit
			request := value(t, text+`, "`+at+`": 1}}`)
			for range 50 {
				got, err := ps.Conditions(request, noon).Holds("c", nil)
				if got != want || (err == nil) != want {
					t.Fatalf("%s, a match at %q: Holds = %t, %v", params, at, got, err)
				}
			}
		}
	}
}

// TestCompiledOnce: questions share one program of each condition, and compile nothing.
func TestCompiledOnce(t *testing.T) {
	ps, err := NewPrograms(conditionModel(t, "a: int", "a == 1"))
	if err != nil {
		t.Fatal(err)
	}
	p := ps.programs["c"]
	run := p.run
	for range 3 {
		cs := ps.Conditions(value(t, `{"a": 1}`), noon).(*conditions)
		for range 2 {
			if got, err := cs.Holds("c", nil); !got || err != nil {
				t.Fatalf("Holds = %t, %v", got, err)
			}
		}
		if cs.asked["c"].program != p || ps.programs["c"] != p || p.run != run {
			t.Fatal("a question has a program of its own")
		}
	}
	cs := ps.Conditions(value(t, `{"a": 1}`), noon)
	// Compiling takes thousands of allocations.
	if n := testing.AllocsPerRun(100, func() { cs.Holds("c", nil) }); n > 20 {
		t.Errorf("a run makes %.0f allocations", n)
	}
}

// TestHugeContext: a context that is too large is refused soon, or costs too much.
func TestHugeContext(t *testing.T) {
	const huge = 10 << 20
	for _, tt := range []struct {
		name, params, expression, request string
		want                              string
	}{
		{"a text", "s: string", `s.contains("b")`, `{"s": "` + strings.Repeat("a", huge) + `"}`, "exceeds the cost limit"},
		{"a list", "l: list<int>", "l.all(i, i > 0)", `{"l": [` + strings.Repeat("1,", huge/2) + `1]}`, "more than 65536 values"},
		{"a list of all that is read", "l: list<int>", "l.all(i, i > 0)", `{"l": [` + strings.Repeat("1,", model.MaxValues-3) + `1]}`, "exceeds the cost limit"},
		{"deep lists", "x: any", "x == x", `{"x": ` + strings.Repeat("[", huge), "nested deeper than 16"},
		{"deep objects", "x: any", "x == x", strings.Repeat(`{"x":`, huge/5), "nested deeper than 16"},
		{"an unknown name", "a: int", "a == 1", `{"` + strings.Repeat("a", huge) + `": 1}`, "lacks a"},
		{"a time", "t: timestamp", "t < now", `{"t": "` + strings.Repeat("9", huge) + `"}`, "is not an RFC 3339 time"},
		{"an unknown key", "m: map<int>, k: string", "m[k] > 0", `{"m": {}, "k": "` + strings.Repeat("a", huge) + `"}`, "no such key"},
		{"a number as text", "i: int", "i > 0", `{"i": "` + strings.Repeat("9", huge) + `"}`, "must be a value of type int"},
		{"an address", "ip: ipaddress", `ip.in_cidr("::/0")`, `{"ip": "` + strings.Repeat("1:", huge/2) + `"}`, "must be a value of type ipaddress"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ps, err := NewPrograms(conditionModel(t, tt.params, tt.expression))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			hold := false
			request, err := model.ParseJSON([]byte(tt.request))
			if err == nil {
				hold, err = ps.Conditions(request, noon).Holds("c", nil)
			}
			if hold || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Holds = %t, %.200v, want an error with %q", hold, err, tt.want)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the error is %d bytes long", len(err.Error()))
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
}

// everyParam is a condition with a parameter of every type.
const everyParam = "a: any, b: bool, d: double, du: duration, i: int, ip: ipaddress, s: string, t: timestamp, u: uint, " +
	"la: list<any>, lb: list<bool>, ld: list<double>, ldu: list<duration>, li: list<int>, lip: list<ipaddress>, ls: list<string>, lt: list<timestamp>, lu: list<uint>, " +
	"ma: map<any>, mb: map<bool>, md: map<double>, mdu: map<duration>, mi: map<int>, mip: map<ipaddress>, ms: map<string>, mt: map<timestamp>, mu: map<uint>"

const everyExpression = `(b || s.startsWith("a")) && (a == 1 || a == la[0]) && d / 2.0 < 3.5 && du > duration("1s") && i / 2 == 3 && u < 9u && t < now &&
  ip.in_cidr("10.0.0.0/8") && lip.exists(x, x == ip) && mi.all(k, 10 / mi[k] > 1) && (mt.exists(k, mt[k] < t) || ms.k == s)`

// FuzzConditionContext runs a condition on whatever is stored and asked: no context
// panics, none allows with an error, and the same question has the same answer.
func FuzzConditionContext(f *testing.F) {
	ps, err := NewPrograms(conditionModel(f, everyParam, everyExpression))
	if err != nil {
		f.Fatal(err)
	}
	const every = `{"a": 1, "b": true, "d": 2.5, "du": "1h", "i": 7, "ip": "10.0.0.1", "s": "abc", "t": "2026-01-01T00:00:00Z", "u": 5,
		"la": [1, {"x": null}], "lb": [true], "ld": ["1.5"], "ldu": ["1s"], "li": [1], "lip": ["10.0.0.1"], "ls": [""], "lt": [], "lu": [18446744073709551615],
		"ma": {"k": []}, "mb": {}, "md": {"k": 1}, "mdu": {"k": "0"}, "mi": {"k": 2, "l": 3}, "mip": {"k": "::"}, "ms": {"k": "abc"}, "mt": {"k": "2025-01-01T00:00:00+01:00"}, "mu": {}}`
	if hold, err := ps.Conditions(value(f, every), noon).Holds("c", nil); !hold || err != nil {
		f.Fatalf("the first seed: Holds = %t, %v", hold, err)
	}
	f.Add([]byte(`{}`), []byte(every))
	f.Add([]byte(every), []byte(`{"i": "x"}`))
	f.Add([]byte(`{"i": -1, "u": 0, "mi": {"k": 0}}`), []byte(every))
	f.Add([]byte(`{"a": 1, "i": 1.5}`), []byte(`[1]`))
	f.Fuzz(func(t *testing.T, grant, asked []byte) {
		request, err := model.ParseJSON(asked)
		if err != nil || request.Kind != model.MapValue { // refused before there is a question
			request = model.Value{}
		}
		contexts := [][]byte{grant} // as bytes that are damaged, if they are no context
		if v, err := model.ParseJSON(grant); err == nil {
			if typed, err := ps.programs["c"].condition.TypeContext(v); err == nil {
				contexts = append(contexts, model.AppendContext(nil, typed))
			}
		}
		for _, stored := range contexts {
			cs := ps.Conditions(request, noon)
			hold, err := cs.Holds("c", stored)
			var missing *MissingError
			var wrong *ContextError
			var cost *CostError
			var failed *ConditionError
			if err != nil && (hold || !errors.As(err, &missing) && !errors.As(err, &wrong) && !errors.As(err, &cost) && !errors.As(err, &failed)) {
				t.Fatalf("Holds = %t, %T %v", hold, err, err)
			}
			if missing != nil {
				v, _ := model.DecodeContext(stored)
				for _, p := range ps.programs["c"].condition.Params {
					_, isStored := v.Field(p.Name)
					_, isAsked := request.Field(p.Name)
					if slices.Contains(missing.Params, p.Name) == (isStored || isAsked) {
						t.Fatalf("%v, stored: %t, asked: %t", err, isStored, isAsked)
					}
				}
			}
			for _, cs := range []model.Conditions{cs, ps.Conditions(request, noon)} {
				if again, err2 := cs.Holds("c", stored); again != hold || fmt.Sprint(err2) != fmt.Sprint(err) {
					t.Fatalf("Holds = %t, %v, and then %t, %v", hold, err, again, err2)
				}
			}
		}
	})
}

// TestConcurrentQuestions shares programs between goroutines, each with its own request.
func TestConcurrentQuestions(t *testing.T) {
	m := conditionModel(t, "a: int, b: int", "a == b && now < timestamp('2030-01-01T00:00:00Z')")
	ps, err := NewPrograms(m)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range 8 {
		context := model.Value{Kind: model.MapValue, Map: []model.Field{{Name: "a", Value: model.Value{Kind: model.IntValue, Int: int64(i)}}}}
		wait.Go(func() {
			for n := range 200 {
				cs := ps.Conditions(context, noon)
				grant := model.AppendContext(nil, model.Value{Kind: model.MapValue, Map: []model.Field{{Name: "b", Value: model.Value{Kind: model.IntValue, Int: int64(n % 8)}}}})
				if got, err := cs.Holds("c", grant); got != (n%8 == i) || err != nil {
					t.Errorf("a = %d, b = %d: Holds = %t, %v", i, n%8, got, err)
					return
				}
			}
		})
	}
	wait.Wait()
}

func BenchmarkHolds(b *testing.B) {
	m := conditionModel(b, "start: timestamp, d: duration, ip: ipaddress", `now < start + d && ip.in_cidr("10.0.0.0/8")`)
	ps, err := NewPrograms(m)
	if err != nil {
		b.Fatal(err)
	}
	cs := ps.Conditions(value(b, `{"ip": "10.0.0.1"}`), noon)
	grant := stored(b, m, `{"start": "2026-03-01T00:00:00Z", "d": "24h"}`)
	b.ReportAllocs()
	for b.Loop() {
		if hold, err := cs.Holds("c", grant); !hold || err != nil {
			b.Fatal(hold, err)
		}
	}
}
