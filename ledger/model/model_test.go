package model

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/ledger/wire"
)

// sample is a valid model that uses every kind of rule and parameter.
func sample() *Model {
	text := &ParamType{Kind: ParamString}
	return &Model{
		Schema: "1.2",
		Types: []Type{
			{Name: "user"},
			{Name: "group", Module: "people", Relations: []Relation{
				{Name: "member", Rule: Rule{Op: This}, Direct: []Direct{{Type: "user"}, {Type: "group", Relation: "member"}}},
			}},
			{Name: "folder", Relations: []Relation{
				{Name: "viewer", Rule: Rule{Op: This}, Direct: []Direct{{Type: "user"}, {Type: "user", Wildcard: true}}},
			}},
			{Name: "doc", Relations: []Relation{
				{Name: "parent", Rule: Rule{Op: This}, Direct: []Direct{{Type: "folder"}}},
				{Name: "blocked", Rule: Rule{Op: This}, Direct: []Direct{{Type: "user"}}},
				{Name: "editor", Module: "edit", Rule: Rule{Op: This}, Direct: []Direct{{Type: "user", Condition: "office"}, {Type: "group", Relation: "member"}}},
				{Name: "viewer", Rule: Rule{Op: Exclude, Children: []Rule{
					{Op: Union, Children: []Rule{{Op: Computed, Relation: "editor"}, {Op: From, Relation: "viewer", Tupleset: "parent"}}},
					{Op: Computed, Relation: "blocked"},
				}}},
				{Name: "reviewer", Rule: Rule{Op: Intersect, Children: []Rule{{Op: Computed, Relation: "editor"}, {Op: Computed, Relation: "viewer"}}}},
			}},
		},
		Conditions: []Condition{{Name: "office", Expression: "ip.in_cidr(net)", Module: "edit", Params: []Param{
			{"any", ParamType{Kind: ParamAny}}, {"bool", ParamType{Kind: ParamBool}}, {"double", ParamType{Kind: ParamDouble}},
			{"duration", ParamType{Kind: ParamDuration}}, {"int", ParamType{Kind: ParamInt}}, {"ip", ParamType{Kind: ParamIPAddress}},
			{"list", ParamType{Kind: ParamList, Elem: text}}, {"map", ParamType{Kind: ParamMap, Elem: &ParamType{Kind: ParamList, Elem: &ParamType{Kind: ParamInt}}}},
			{"string", *text}, {"timestamp", ParamType{Kind: ParamTimestamp}}, {"uint", ParamType{Kind: ParamUint}},
		}}},
	}
}

func TestModelRoundTrip(t *testing.T) {
	m := sample()
	b := AppendModel(nil, m)
	got, err := DecodeModel(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("DecodeModel = %+v, want %+v", got, m)
	}
	for n := range b {
		if _, err := DecodeModel(b[:n]); err == nil {
			t.Fatalf("DecodeModel accepts the first %d of %d bytes", n, len(b))
		}
	}
	if _, err := DecodeModel(append(b, 0)); err == nil {
		t.Error("DecodeModel accepts a byte after the model")
	}
}

func TestValidate(t *testing.T) {
	rel := func(m *Model, typ, name string) *Relation {
		for i := range m.Types {
			for j := range m.Types[i].Relations {
				if r := &m.Types[i].Relations[j]; m.Types[i].Name == typ && r.Name == name {
					return r
				}
			}
		}
		panic(name)
	}
	for _, tt := range []struct {
		name   string
		change func(*Model)
		at     string // type#relation, type or condition of the fault
		rule   string // part of its message
	}{
		{"schema version", func(m *Model) { m.Schema = "1.0" }, "", "1.1 or 1.2"},
		{"no types", func(m *Model) { m.Types = nil }, "", "at least one type"},
		{"too many types", func(m *Model) {
			for len(m.Types) <= MaxTypes {
				m.Types = append(m.Types, Type{Name: "t" + strings.Repeat("x", len(m.Types)%200) + time.Duration(len(m.Types)).String()})
			}
		}, "", "at most 1000 types"},
		{"malformed type", func(m *Model) { m.Types[0].Name = "us er" }, "us er", "space"},
		{"reserved type", func(m *Model) { m.Types[0].Name = "grantlog.admin" }, "grantlog.admin", "reserved"},
		{"reserved word for a type", func(m *Model) { m.Types[2].Name = "self" }, "self", "reserved word"},
		{"reserved word for a relation", func(m *Model) { rel(m, "doc", "blocked").Name = "this" }, "doc#this", "reserved word"},
		{"type twice", func(m *Model) { m.Types = append(m.Types, Type{Name: "user"}) }, "user", "twice"},
		{"relation twice", func(m *Model) { rel(m, "doc", "reviewer").Name = "viewer" }, "doc#viewer", "twice"},
		{"relation too long", func(m *Model) { rel(m, "doc", "reviewer").Name = strings.Repeat("x", tuple.MaxRelation+1) }, "doc#" + strings.Repeat("x", tuple.MaxRelation+1), "at most 64"},
		{"unknown type", func(m *Model) { rel(m, "doc", "blocked").Direct[0].Type = "robot" }, "doc#blocked", `no type "robot"`},
		{"unknown relation of a userset", func(m *Model) { rel(m, "doc", "editor").Direct[1].Relation = "boss" }, "doc#editor", `no relation "boss"`},
		{"wildcard with a relation", func(m *Model) { rel(m, "doc", "editor").Direct[1].Wildcard = true }, "doc#editor", "wildcard"},
		{"unknown condition", func(m *Model) { rel(m, "doc", "editor").Direct[0].Condition = "nothing" }, "doc#editor", `no condition "nothing"`},
		{"a condition of the reserved name", func(m *Model) { m.Conditions = append(m.Conditions, Condition{Name: Doubtful, Expression: "true"}) }, Doubtful, "must not hold"},
		{"kind of subject twice", func(m *Model) { r := rel(m, "doc", "blocked"); r.Direct = append(r.Direct, r.Direct[0]) }, "doc#blocked", "twice"},
		{"nobody to grant to", func(m *Model) { rel(m, "doc", "blocked").Direct = nil }, "doc#blocked", "in brackets"},
		{"brackets without direct", func(m *Model) { rel(m, "doc", "reviewer").Direct = []Direct{{Type: "user"}} }, "doc#reviewer", "without a direct relation"},
		{"unknown computed relation", func(m *Model) { rel(m, "doc", "reviewer").Rule.Children[0].Relation = "boss" }, "doc#reviewer", `no relation "boss"`},
		{"unknown tupleset", func(m *Model) { rel(m, "doc", "viewer").Rule.Children[0].Children[1].Tupleset = "boss" }, "doc#viewer", `no relation "boss"`},
		{"computed tupleset", func(m *Model) { rel(m, "doc", "viewer").Rule.Children[0].Children[1].Tupleset = "reviewer" }, "doc#viewer", "granted directly"},
		{"tupleset of usersets", func(m *Model) { rel(m, "doc", "parent").Direct = []Direct{{Type: "group", Relation: "member"}} }, "doc#viewer", "plain types only"},
		{"tupleset of wildcards", func(m *Model) { rel(m, "doc", "parent").Direct[0].Wildcard = true }, "doc#viewer", "plain types only"},
		{"no type behind the tupleset has it", func(m *Model) { rel(m, "doc", "viewer").Rule.Children[0].Children[1].Relation = "owner" }, "doc#viewer", `has a relation "owner"`},
		{"union of one", func(m *Model) { r := rel(m, "doc", "reviewer"); r.Rule.Children = r.Rule.Children[:1] }, "doc#reviewer", "1 operands"},
		{"exclusion of three", func(m *Model) {
			r := rel(m, "doc", "viewer")
			r.Rule.Children = append(r.Rule.Children, Rule{Op: Computed, Relation: "editor"})
		}, "doc#viewer", "3 operands"},
		{"unknown operation", func(m *Model) { rel(m, "doc", "reviewer").Rule.Op = 9 }, "doc#reviewer", "unknown operation"},
		{"rules too deep", func(m *Model) {
			rule := Rule{Op: Computed, Relation: "editor"}
			for range MaxRuleDepth + 1 {
				rule = Rule{Op: Union, Children: []Rule{rule, {Op: Computed, Relation: "blocked"}}}
			}
			rel(m, "doc", "reviewer").Rule = rule
		}, "doc#reviewer", "nested deeper"},
		{"computed from itself", func(m *Model) {
			r := rel(m, "doc", "reviewer")
			r.Rule = Rule{Op: Union, Children: []Rule{{Op: Computed, Relation: "editor"}, {Op: Computed, Relation: "reviewer"}}}
		}, "doc#reviewer", "computed from"},
		{"computed from each other", func(m *Model) {
			a, b := rel(m, "doc", "reviewer"), rel(m, "doc", "editor")
			a.Rule = Rule{Op: Union, Children: []Rule{{Op: Computed, Relation: "editor"}, {Op: Computed, Relation: "blocked"}}}
			b.Rule = Rule{Op: Union, Children: []Rule{{Op: This}, {Op: Computed, Relation: "reviewer"}}}
		}, "doc#reviewer", "computed from"},
		{"nobody could hold it", func(m *Model) {
			rel(m, "group", "member").Direct = []Direct{{Type: "group", Relation: "member"}}
		}, "group#member", "nobody could ever hold it"},
		{"malformed condition", func(m *Model) { m.Conditions[0].Name = "of fice"; rel(m, "doc", "editor").Direct[0].Condition = "" }, "of fice", "space"},
		{"condition twice", func(m *Model) { m.Conditions = append(m.Conditions, m.Conditions[0]) }, "office", "twice"},
		{"empty expression", func(m *Model) { m.Conditions[0].Expression = " " }, "office", "empty"},
		{"parameters out of order", func(m *Model) { p := m.Conditions[0].Params; p[0], p[1] = p[1], p[0] }, "office", "order"},
		{"list of nothing", func(m *Model) { m.Conditions[0].Params[6].Type.Elem = nil }, "office", "no valid type"},
		{"unknown type of parameter", func(m *Model) { m.Conditions[0].Params[0].Type.Kind = 99 }, "office", "no valid type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := sample()
			tt.change(m)
			err := m.Validate()
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("Validate = %v, want Faults", err)
			}
			for _, f := range faults {
				at := f.Type + f.Condition
				if f.Relation != "" {
					at += "#" + f.Relation
				}
				if at == tt.at && strings.Contains(f.Message, tt.rule) {
					return
				}
			}
			t.Errorf("Validate = %v, want a fault at %q with %q", err, tt.at, tt.rule)
		})
	}
}

// TestValidateAll holds that one run tells every mistake.
func TestValidateAll(t *testing.T) {
	m := sample()
	m.Types[3].Relations[1].Direct[0].Type = "robot"
	m.Types[3].Relations[2].Direct[1].Relation = "boss"
	m.Conditions[0].Expression = ""
	var faults Faults
	if err := m.Validate(); !errors.As(err, &faults) || len(faults) != 3 {
		t.Errorf("Validate = %v, want three faults", err)
	}
}

func TestAllows(t *testing.T) {
	m := sample()
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		tuple, condition string
		part             string // of the Refusal, "" if allowed
		notFound         bool
	}{
		{"doc:a#blocked@user:ann", "", "", false},
		{"doc:a#editor@group:eng#member", "", "", false},
		{"doc:a#editor@user:ann", "office", "", false},
		{"folder:a#viewer@user:*", "", "", false},
		{"doc:a#editor@user:ann", "", "condition", false},
		{"doc:a#blocked@user:ann", "office", "condition", false},
		{"doc:a#blocked@user:ann", "nothing", "condition", true},
		{"doc:a#editor@user:ann", Doubtful, "condition", true},
		{"doc:a#blocked@user:*", "", "subject", false},
		{"doc:a#blocked@group:eng", "", "subject", false},
		{"doc:a#blocked@group:eng#member", "", "subject", false},
		{"doc:a#blocked@group:eng#boss", "", "subject", true},
		{"doc:a#blocked@robot:r2", "", "subject", true},
		{"doc:a#viewer@user:ann", "", "relation", false},
		{"doc:a#boss@user:ann", "", "relation", true},
		{"plan:a#viewer@user:ann", "", "object", true},
	} {
		tup, err := tuple.Parse(tt.tuple)
		if err != nil {
			t.Fatal(err)
		}
		err = m.Allows(tup, tt.condition)
		var refusal *Refusal
		switch {
		case tt.part == "" && err != nil:
			t.Errorf("Allows(%s, %q) = %v, want it allowed", tt.tuple, tt.condition, err)
		case tt.part != "" && (!errors.As(err, &refusal) || refusal.Part != tt.part || refusal.NotFound != tt.notFound):
			t.Errorf("Allows(%s, %q) = %+v, want a refusal of the %s (not found: %v)", tt.tuple, tt.condition, err, tt.part, tt.notFound)
		}
	}
}

func TestTypeContext(t *testing.T) {
	c := &sample().Conditions[0]
	for _, tt := range []struct {
		in   string
		want string // canonical JSON of what it becomes, "" for an error
	}{
		{`{}`, `{}`},
		{`{"int": 7}`, `{"int": 7}`},
		{`{"int": "7"}`, `{"int": 7}`},
		{`{"int": 7.0}`, `{"int": 7}`},
		{`{"int": -9223372036854775808}`, `{"int": -9223372036854775808}`},
		{`{"int": 7.5}`, ``},
		{`{"int": 9223372036854775808}`, ``},
		{`{"int": 1e300}`, ``},
		{`{"int": "seven"}`, ``},
		{`{"int": "+7"}`, ``},
		{`{"int": true}`, ``},
		{`{"int": null}`, ``},
		{`{"uint": 18446744073709551615}`, `{"uint": 18446744073709551615}`},
		{`{"uint": -1}`, ``},
		{`{"double": 1}`, `{"double": 1.0}`},
		{`{"double": "1e3"}`, `{"double": 1000.0}`},
		{`{"double": "NaN"}`, ``},
		{`{"double": "1 "}`, `{"double": 1.0}`},
		{`{"bool": true}`, `{"bool": true}`},
		{`{"bool": "true"}`, ``},
		{`{"string": "a"}`, `{"string": "a"}`},
		{`{"string": 1}`, ``},
		{`{"any": {"a": [1, null, "x"]}}`, `{"any": {"a": [1, null, "x"]}}`},
		{`{"duration": "1h30m"}`, `{"duration": "1h30m"}`},
		{`{"duration": "soon"}`, ``},
		{`{"duration": 5}`, ``},
		{`{"timestamp": "2026-03-01T09:00:00Z"}`, `{"timestamp": "2026-03-01T09:00:00Z"}`},
		{`{"timestamp": "2026-02-30T09:00:00Z"}`, ``},
		{`{"timestamp": "2026-03-01 09:00:00Z"}`, ``},
		{`{"ip": "10.0.0.1"}`, `{"ip": "10.0.0.1"}`},
		{`{"ip": "2001:db8::1"}`, `{"ip": "2001:db8::1"}`},
		{`{"ip": "10.0.0.256"}`, ``},
		{`{"ip": "10.0.0.01"}`, ``},
		{`{"ip": "fe80::1%eth0"}`, ``},
		{`{"list": ["a", "b"]}`, `{"list": ["a", "b"]}`},
		{`{"list": ["a", 1]}`, ``},
		{`{"list": "a"}`, ``},
		{`{"map": {"x": [1, "2"]}}`, `{"map": {"x": [1, 2]}}`},
		{`{"map": {"x": 1}}`, ``},
		{`{"nothing": 1}`, ``},
	} {
		in, err := ParseJSON([]byte(tt.in))
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.TypeContext(in)
		if tt.want == "" {
			if err == nil {
				t.Errorf("TypeContext(%s) = %+v, want an error", tt.in, got)
			}
			continue
		}
		want, wantErr := ParseJSON([]byte(tt.want))
		if wantErr != nil {
			t.Fatal(wantErr)
		}
		if err != nil || !bytes.Equal(AppendContext(nil, got), AppendContext(nil, want)) {
			t.Errorf("TypeContext(%s) = %+v, %v, want %s", tt.in, got, err, tt.want)
		}
		if again, err := c.TypeContext(got); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("typed again, %s is %+v, %v, want %+v", tt.in, again, err, got)
		}
	}
}

func TestParseJSON(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Value
	}{
		{` null `, Value{}},
		{`-0`, Value{Kind: IntValue}},
		{`-0.0`, Value{Kind: DoubleValue}},
		{`9223372036854775807`, Value{Kind: IntValue, Int: math.MaxInt64}},
		{`9223372036854775808`, Value{Kind: UintValue, Uint: 1 << 63}},
		{`18446744073709551616`, Value{Kind: DoubleValue, Double: 1 << 64}},
		{`1e2`, Value{Kind: DoubleValue, Double: 100}},
		{`"a\"\\\/\b\f\n\r\té😀"`, Value{Kind: StringValue, String: "a\"\\/\b\f\n\r\té😀"}},
		{`{"b": 1, "a": [true, false]}`, Value{Kind: MapValue, Map: []Field{
			{"a", Value{Kind: ListValue, List: []Value{{Kind: BoolValue, Bool: true}, {Kind: BoolValue}}}}, {"b", Value{Kind: IntValue, Int: 1}}}}},
	} {
		if got, err := ParseJSON([]byte(tt.in)); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("ParseJSON(%s) = %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{
		``, ` `, `nul`, `True`, `01`, `1.`, `.5`, `+1`, `1e`, `0x1`, `NaN`, `Infinity`, `1e999`, `'a'`, `"a`, "\"a\nb\"", `"\x"`, `"\u12"`,
		`"\ud83d"`, `"\ud83d\u0041"`, `[1,]`, `[1 2]`, `[`, `{"a" 1}`, `{"a":1,}`, `{a:1}`, `{"a":1,"a":2}`, `1 2`, "\"\xff\"",
		strings.Repeat("[", MaxValueDepth+1) + strings.Repeat("]", MaxValueDepth+1),
	} {
		var jsonErr *JSONError
		if got, err := ParseJSON([]byte(in)); !errors.As(err, &jsonErr) {
			t.Errorf("ParseJSON(%q) = %+v, %v, want a JSONError", in, got, err)
		}
	}
}

// TestTimes compares our frozen parsers with those of package time.
func TestTimes(t *testing.T) {
	for _, tt := range []struct {
		in string
		ok bool
	}{
		{"1970-01-01T00:00:00Z", true}, {"2024-02-29T23:59:59.999999999Z", true}, {"2026-03-01T09:00:00+05:30", true},
		{"1678-01-01T00:00:00Z", true}, {"2261-12-31T23:59:59Z", true}, {"2000-01-01T00:00:00-23:59", true},
		{"2023-02-29T00:00:00Z", false}, {"2026-13-01T00:00:00Z", false}, {"2026-01-01T24:00:00Z", false}, {"2026-01-01T00:00:60Z", false},
		{"2026-01-01t00:00:00Z", false}, {"2026-01-01T00:00:00z", false}, {"2026-01-01T00:00:00", false}, {"2026-01-01T00:00:00.Z", false},
		{"2026-01-01T00:00:00.1234567890Z", false}, {"2026-01-01T00:00:00+24:00", false}, {"1677-01-01T00:00:00Z", false}, {"2262-01-01T00:00:00Z", false}, {"", false},
	} {
		got, err := ParseTimestamp(tt.in)
		if (err == nil) != tt.ok {
			t.Errorf("ParseTimestamp(%q) = %d, %v", tt.in, got, err)
			continue
		}
		if want, err := time.Parse(time.RFC3339Nano, tt.in); tt.ok && (err != nil || want.UnixNano() != got) {
			t.Errorf("ParseTimestamp(%q) = %d, package time says %d, %v", tt.in, got, want.UnixNano(), err)
		}
	}
	for _, tt := range []struct {
		in string
		ok bool
	}{
		{"8h", true}, {"1h30m", true}, {"1.5s", true}, {"-5m", true}, {"0", true}, {"1us", true}, {".5s", true}, {"1.s", true}, {"2562047h", true},
		{"", false}, {"-", false}, {"5", false}, {"5x", false}, {"h", false}, {".s", false}, {"2562048h", false}, {"99999999999999999999h", false}, {"1h 5m", false}, {"+5m", false},
	} {
		got, err := ParseDuration(tt.in)
		if (err == nil) != tt.ok {
			t.Errorf("ParseDuration(%q) = %d, %v", tt.in, got, err)
			continue
		}
		if want, err := time.ParseDuration(tt.in); tt.ok && (err != nil || int64(want) != got) {
			t.Errorf("ParseDuration(%q) = %d, package time says %d, %v", tt.in, got, want, err)
		}
	}
}

func FuzzDecodeModel(f *testing.F) {
	f.Add(AppendModel(nil, sample()))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeModel(b)
		if err == nil && !bytes.Equal(AppendModel(nil, m), b) {
			t.Fatalf("%x is read, and written as %x", b, AppendModel(nil, m))
		}
	})
}

func FuzzDecodeValue(f *testing.F) {
	f.Add(AppendValue(nil, Value{Kind: MapValue, Map: []Field{{"a", Value{Kind: DoubleValue, Double: 1.5}}, {"b", Value{Kind: ListValue, List: []Value{{}}}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := wire.NewDecoder(b)
		v := DecodeValue(d)
		if d.Done() == nil && !bytes.Equal(AppendValue(nil, v), b) {
			t.Fatalf("%x is read, and written as %x", b, AppendValue(nil, v))
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`{"a": [1, -2.5e3, "x\u00e9", null, true]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseJSON(b)
		if err != nil {
			return
		}
		encoded := AppendValue(nil, v)
		d := wire.NewDecoder(encoded)
		again := DecodeValue(d)
		if err := d.Done(); err != nil || !bytes.Equal(AppendValue(nil, again), encoded) {
			t.Fatalf("%s is read as %+v, which cannot be read back: %v", b, v, err)
		}
		c := &sample().Conditions[0]
		if typed, err := c.TypeContext(v); err == nil {
			if again, err := c.TypeContext(typed); err != nil || !bytes.Equal(AppendContext(nil, again), AppendContext(nil, typed)) {
				t.Fatalf("typed again, %+v is %+v, %v", typed, again, err)
			}
		}
	})
}

func FuzzTimes(f *testing.F) {
	f.Add("2026-03-01T09:00:00.5+01:00")
	f.Add("1h30m0.5s")
	f.Fuzz(func(t *testing.T, in string) {
		if got, err := ParseTimestamp(in); err == nil {
			if want, err := time.Parse(time.RFC3339Nano, in); err != nil || want.UnixNano() != got {
				t.Fatalf("ParseTimestamp(%q) = %d, package time says %d, %v", in, got, want.UnixNano(), err)
			}
		}
		if got, err := ParseDuration(in); err == nil {
			if want, err := time.ParseDuration(in); err != nil || int64(want)-got > 1 || got-int64(want) > 1 {
				t.Fatalf("ParseDuration(%q) = %d, package time says %d, %v", in, got, want, err)
			}
		}
	})
}
