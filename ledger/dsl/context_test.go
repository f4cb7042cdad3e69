package dsl

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestReadContext(t *testing.T) {
	number, text := structpb.NewNumberValue, structpb.NewStringValue
	list := func(values ...*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: values})
	}
	object := func(v *structpb.Value) *structpb.Value {
		return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"in": v}})
	}
	within := func(n int, v *structpb.Value, wrap ...func(*structpb.Value) *structpb.Value) *structpb.Value {
		for i := range n {
			v = wrap[i%len(wrap)](v)
		}
		return v
	}
	one := func(v *structpb.Value) *structpb.Value { return list(v) }
	many := func(n int, v *structpb.Value) *structpb.Value {
		all := make([]*structpb.Value, n)
		for i := range all {
			all[i] = v
		}
		return list(all...)
	}
	for _, tt := range []struct {
		name string
		v    *structpb.Value
		err  string // "" for none
	}{
		{"null", structpb.NewNullValue(), ""},
		{"no kind", &structpb.Value{}, "a: holds no value"},
		{"no message", nil, "a: holds no value"},
		{"no kind in a list", list(number(1), &structpb.Value{}), "a: [1]: holds no value"},
		{"no message in a list", list(nil), "a: [0]: holds no value"},
		{"no kind in an object", object(&structpb.Value{}), "a: in: holds no value"},
		{"no number", number(math.NaN()), "a: NaN is not a number of JSON"},
		{"infinite", list(number(math.Inf(1))), "a: [0]: +Inf is not a number of JSON"},
		{"infinitely negative", object(number(math.Inf(-1))), "a: in: -Inf is not a number of JSON"},
		{"as deep as may be", within(15, number(1), one, object), ""},
		{"empty, as deep as may be", within(14, list(), object, one), ""},
		{"too deep", within(16, number(1), one, object), "16 deep"},
		{"empty, too deep", within(15, list(), object), "16 deep"},
		{"empty object, too deep", within(15, structpb.NewStructValue(&structpb.Struct{}), one), "16 deep"},
		{"as long as may be", text(strings.Repeat("a", model.MaxContext-8)), ""},
		{"too long", text(strings.Repeat("a", model.MaxContext-7)), "must be at most 65536 bytes, is 65537"},
		{"many, as long as may be", many((model.MaxContext-8)/2, number(1)), ""},
		{"too many", many(model.MaxContext/2, number(1)), "must be at most 65536 bytes, is 65544"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := ReadContext(&structpb.Struct{Fields: map[string]*structpb.Value{"a": tt.v}})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error = %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := model.DecodeContext(model.AppendContext(nil, v)); err != nil {
				t.Errorf("it cannot be stored: %v", err)
			}
		})
	}
}

// A generator makes types of parameters, and values for them as clients give them.
type generator struct{ *rand.Rand }

func (g generator) paramType(depth int) model.ParamType {
	kind := model.ParamAny + model.ParamKind(g.IntN(int(model.ParamMap-model.ParamAny)+1))
	if kind != model.ParamList && kind != model.ParamMap {
		return model.ParamType{Kind: kind}
	}
	if depth == 0 {
		return g.paramType(0)
	}
	elem := g.paramType(depth - 1)
	return model.ParamType{Kind: kind, Elem: &elem}
}

// pick returns one of the texts.
func (g generator) pick(texts ...string) string { return texts[g.IntN(len(texts))] }

// whole returns an integer, half of them near where doubles skip some or the ranges end.
func (g generator) whole() int64 {
	switch g.IntN(6) {
	case 0:
		return int64(1)<<53 + g.Int64N(7) - 3
	case 1:
		return -int64(1)<<53 + g.Int64N(7) - 3
	case 2:
		return math.MinInt64 + g.Int64N(3)
	case 3:
		return int64(g.Uint64() >> g.IntN(64))
	case 4:
		return -int64(g.Uint64() >> (1 + g.IntN(63)))
	}
	return g.Int64N(200) - 100
}

func (g generator) double() float64 {
	for {
		f := math.Float64frombits(g.Uint64())
		switch g.IntN(3) {
		case 0:
			f = float64(g.whole())
		case 1:
			f = float64(g.IntN(2000)-1000) / 8
		}
		if !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	}
}

// value returns a value for a parameter of type t.
func (g generator) value(t model.ParamType, depth int) *structpb.Value {
	text := func(texts ...string) *structpb.Value { return structpb.NewStringValue(g.pick(texts...)) }
	switch t.Kind {
	case model.ParamBool:
		return structpb.NewBoolValue(g.IntN(2) == 0)
	case model.ParamString:
		return text("", "ann", "9007199254740993", "über \u0000\n\"", "🙂")
	case model.ParamInt:
		if n := g.whole(); n >= -exact && n <= exact && g.IntN(2) == 0 {
			return structpb.NewNumberValue(float64(n))
		} else {
			return text(strconv.FormatInt(n, 10))
		}
	case model.ParamUint:
		if n := uint64(g.whole()); n <= exact && g.IntN(2) == 0 {
			return structpb.NewNumberValue(float64(n))
		} else {
			return text(strconv.FormatUint(n, 10))
		}
	case model.ParamDouble:
		if f := g.double(); g.IntN(2) == 0 {
			return structpb.NewNumberValue(f)
		} else {
			return text(fmt.Sprint(g.whole()), fmt.Sprint(g.Uint64()), strconv.FormatFloat(f, 'e', -1, 64))
		}
	case model.ParamDuration:
		return text("1h30m", "90m", "-1.5s", "0", "100ns")
	case model.ParamTimestamp:
		return text("2026-03-01T09:00:00Z", "2026-03-01T10:00:00.000+01:00", "1678-01-01T00:00:00.123456789Z")
	case model.ParamIPAddress:
		return text("10.0.0.1", "::1", "2001:DB8:0::1", "::ffff:10.0.0.1")
	case model.ParamList:
		list := &structpb.ListValue{}
		for range g.IntN(4) {
			list.Values = append(list.Values, g.value(*t.Elem, depth+1))
		}
		return structpb.NewListValue(list)
	case model.ParamMap:
		m := &structpb.Struct{Fields: make(map[string]*structpb.Value)}
		for range g.IntN(4) {
			m.Fields[g.pick("", "a", "b", "ü", "a.b")] = g.value(*t.Elem, depth+1)
		}
		return structpb.NewStructValue(m)
	}
	anything := model.ParamType{Kind: model.ParamAny}
	switch n := g.IntN(9); {
	case n == 0:
		return structpb.NewNullValue()
	case n < 3 && depth < 4:
		return g.value(model.ParamType{Kind: model.ParamList, Elem: &anything}, depth)
	case n < 5 && depth < 4:
		return g.value(model.ParamType{Kind: model.ParamMap, Elem: &anything}, depth)
	case n < 7:
		return structpb.NewNumberValue(g.double())
	}
	return g.value(model.ParamType{Kind: []model.ParamKind{model.ParamBool, model.ParamString, model.ParamTimestamp, model.ParamInt}[g.IntN(4)]}, depth)
}

// TestContextRoundTrip holds that a grant written as it was read is the same grant: its
// context goes through a message and through JSON, and is typed again to the same bytes.
func TestContextRoundTrip(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(1, 2))}
	seen := make(map[model.ParamKind]int)
	for i := range 20_000 {
		c := &model.Condition{Name: "c"}
		given := &structpb.Struct{Fields: make(map[string]*structpb.Value)}
		for n := range 1 + g.IntN(3) {
			p := model.Param{Name: fmt.Sprintf("p%d", n), Type: g.paramType(2)}
			c.Params = append(c.Params, p)
			given.Fields[p.Name] = g.value(p.Type, 1)
			seen[p.Type.Kind]++
		}
		stored := store(t, c, given)
		read := ContextMessage(stored)
		if again := store(t, c, read); !bytes.Equal(again, stored) {
			t.Fatalf("%d: given %v: %x is stored; read as %v: %x", i, given, stored, read, again)
		}
		text, err := protojson.Marshal(read)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		overJSON := new(structpb.Struct)
		if err := protojson.Unmarshal(text, overJSON); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if again := store(t, c, overJSON); !bytes.Equal(again, stored) {
			t.Fatalf("%d: given %v: %x is stored; read as %s: %x", i, given, stored, text, again)
		}
	}
	if len(seen) != int(model.ParamMap-model.ParamAny)+1 {
		t.Errorf("parameters were of the kinds %v, want all", seen)
	}
}

// store returns what the fold stores of a context that a client gives.
func store(t *testing.T, c *model.Condition, given *structpb.Struct) []byte {
	t.Helper()
	v, err := ReadContext(given)
	if err != nil {
		t.Fatalf("%v: %v", given, err)
	}
	typed, err := c.TypeContext(v)
	if err != nil {
		t.Fatalf("%v for %v: %v", given, c.Params, err)
	}
	return model.AppendContext(nil, typed)
}

// TestContextMessage holds that an integer is answered with all of its digits.
func TestContextMessage(t *testing.T) {
	for _, tt := range []struct{ stored, want string }{
		{`{"n":9007199254740992}`, `{"n":9007199254740992}`},
		{`{"n":-9007199254740992}`, `{"n":-9007199254740992}`},
		{`{"n":9007199254740993}`, `{"n":"9007199254740993"}`},
		{`{"n":9007199254740994}`, `{"n":"9007199254740994"}`},
		{`{"n":-9007199254740993}`, `{"n":"-9007199254740993"}`},
		{`{"n":[9223372036854775807,-9223372036854775808]}`, `{"n":["9223372036854775807","-9223372036854775808"]}`},
		{`{"n":{"m":18446744073709551615}}`, `{"n":{"m":"18446744073709551615"}}`},
		{`{"n":1e300}`, `{"n":1e+300}`},
		{`{"n":null}`, `{"n":null}`},
		{`{}`, `{}`},
	} {
		v, err := model.ParseJSON([]byte(tt.stored))
		if err != nil {
			t.Fatal(err)
		}
		text, err := protojson.Marshal(ContextMessage(model.AppendContext(nil, v)))
		if got := strings.ReplaceAll(string(text), ", ", ","); err != nil || strings.ReplaceAll(got, ": ", ":") != tt.want {
			t.Errorf("%s is answered as %s, %v, want %s", tt.stored, text, err, tt.want)
		}
	}
	if m := ContextMessage(nil); m != nil {
		t.Errorf("no context is answered as %v", m)
	}
}

// FuzzReadContext reads any message that arrives: what is read can be stored, and be
// written as JSON, from which the same is read.
func FuzzReadContext(f *testing.F) {
	for _, text := range []string{`{}`, `{"a":null,"b":[1,2.5,{"c":"x"}],"d":true}`} {
		m := new(structpb.Struct)
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\x0a\x05\x0a\x01n\x12\x00"))                                     // without a kind
	f.Add([]byte("\x0a\x0e\x0a\x01n\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf8\x7f")) // NaN
	f.Add([]byte("\x0a\x07\x0a\x01n\x12\x02\x08\x05"))                             // a null that is no null
	f.Add([]byte("\x0a\x08\x0a\x01n\x12\x03\x1a\x01\xff"))                         // no UTF-8
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(structpb.Struct)
		if proto.Unmarshal(b, m) != nil {
			return // not so over a wire
		}
		v, err := ReadContext(m)
		if err != nil || v.Kind == model.NullValue {
			return
		}
		stored := model.AppendContext(nil, v)
		if _, err := model.DecodeContext(stored); err != nil {
			t.Fatalf("%v cannot be stored: %v", m, err)
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatalf("%v has no JSON: %v", m, err)
		}
		overJSON := new(structpb.Struct)
		if err := protojson.Unmarshal(text, overJSON); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadContext(overJSON); err != nil || !bytes.Equal(model.AppendContext(nil, again), stored) {
			t.Fatalf("%s is read as %v, %v, and %v as %v", text, again, err, m, v)
		}
	})
}
