package dsl

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"google.golang.org/protobuf/types/known/structpb"
)

// ReadContext reads values for the parameters of conditions as a message of an API has
// them; absent and empty are null. They are at most [model.MaxContext] bytes encoded, and
// at most [model.MaxValueDepth] deep; an error says what is wrong with them. A message that
// it reads can be written as JSON too.
func ReadContext(s *structpb.Struct) (model.Value, error) {
	if len(s.GetFields()) == 0 {
		return model.Value{}, nil
	}
	v, err := readFields(s.Fields, 1)
	if err != nil {
		return model.Value{}, err
	}
	// As a message they may be several times as long: a small number has eight bytes there.
	if size := len(model.AppendContext(nil, v)); size > model.MaxContext {
		return model.Value{}, fmt.Errorf("must be at most %d bytes, is %d", model.MaxContext, size)
	}
	return v, nil
}

var errDepth = fmt.Errorf("lists and objects stand more than %d deep in each other", model.MaxValueDepth)

// readFields reads an object that is one of depth lists and objects in each other.
func readFields(fields map[string]*structpb.Value, depth int) (model.Value, error) {
	if depth > model.MaxValueDepth {
		return model.Value{}, errDepth
	}
	m := make([]model.Field, 0, len(fields))
	for name, f := range fields {
		v, err := readValue(f, depth)
		if err != nil {
			return model.Value{}, fmt.Errorf("%s: %w", name, err)
		}
		m = append(m, model.Field{Name: name, Value: v})
	}
	slices.SortFunc(m, func(a, b model.Field) int { return strings.Compare(a.Name, b.Name) })
	return model.Value{Kind: model.MapValue, Map: m}, nil
}

// readValue reads what stands in depth lists and objects.
func readValue(v *structpb.Value, depth int) (model.Value, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_NullValue:
		return model.Value{}, nil
	case *structpb.Value_BoolValue:
		return model.Value{Kind: model.BoolValue, Bool: k.BoolValue}, nil
	case *structpb.Value_NumberValue:
		return readNumber(k.NumberValue)
	case *structpb.Value_StringValue:
		return model.Value{Kind: model.StringValue, String: k.StringValue}, nil
	case *structpb.Value_ListValue:
		if depth == model.MaxValueDepth {
			return model.Value{}, errDepth
		}
		list := make([]model.Value, len(k.ListValue.GetValues()))
		for i, e := range k.ListValue.GetValues() {
			var err error
			if list[i], err = readValue(e, depth+1); err != nil {
				return model.Value{}, fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return model.Value{Kind: model.ListValue, List: list}, nil
	case *structpb.Value_StructValue:
		return readFields(k.StructValue.GetFields(), depth+1)
	}
	// No JSON is like it, so whatever kept it could not be read over HTTP.
	return model.Value{}, errors.New("holds no value; null is one, null_value")
}

// exact is the last whole number up to which a double is every one.
const exact = 1 << 53

// readNumber reads a whole number as an integer, as long as a double holds all of its
// digits.
func readNumber(n float64) (model.Value, error) {
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		return model.Value{}, fmt.Errorf("%v is not a number of JSON", n)
	case n == math.Trunc(n) && math.Abs(n) <= exact:
		return model.Value{Kind: model.IntValue, Int: int64(n)}, nil
	}
	return model.Value{Kind: model.DoubleValue, Double: n}, nil
}

// ContextMessage returns the context that a grant was recorded with, as [ReadContext] reads
// it; nil for none. Bytes that are no context are a broken invariant of the log.
//
// Numbers of a message are doubles, so a whole number beyond 2^53 is the text of its
// digits, which a parameter that is a number takes for the number: whoever writes what was
// read writes the same grant. In a parameter of type any, which keeps text as text, such an
// integer stands only if a command was published to the log as JSON; messages bring doubles.
func ContextMessage(stored []byte) *structpb.Struct {
	if stored == nil {
		return nil
	}
	context, err := model.DecodeContext(stored)
	if err != nil {
		panic(fmt.Sprintf("dsl: a validated command's context: %v", err))
	}
	return valueMessage(context).GetStructValue()
}

func valueMessage(v model.Value) *structpb.Value {
	switch v.Kind {
	case model.BoolValue:
		return structpb.NewBoolValue(v.Bool)
	case model.IntValue:
		if v.Int < -exact || v.Int > exact {
			return structpb.NewStringValue(strconv.FormatInt(v.Int, 10))
		}
		return structpb.NewNumberValue(float64(v.Int))
	case model.UintValue: // far above
		return structpb.NewStringValue(strconv.FormatUint(v.Uint, 10))
	case model.DoubleValue:
		return structpb.NewNumberValue(v.Double)
	case model.StringValue:
		return structpb.NewStringValue(v.String)
	case model.ListValue:
		list := &structpb.ListValue{}
		for _, e := range v.List {
			list.Values = append(list.Values, valueMessage(e))
		}
		return structpb.NewListValue(list)
	case model.MapValue:
		fields := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(v.Map))}
		for _, f := range v.Map {
			fields.Fields[f.Name] = valueMessage(f.Value)
		}
		return structpb.NewStructValue(fields)
	}
	return structpb.NewNullValue()
}
