package model

import (
	"fmt"
	"math"
	"strconv"

	"github.com/grantlog/grantlog/ledger/wire"
)

// AppendContext appends the canonical encoding of a context, a map value.
func AppendContext(dst []byte, context Value) []byte { return AppendValue(dst, context) }

// DecodeContext reads what [AppendContext] wrote.
func DecodeContext(b []byte) (Value, error) {
	d := wire.NewDecoder(b)
	v := DecodeValue(d)
	if v.Kind != MapValue {
		d.Fail("a context is a map")
	}
	return v, d.Done()
}

var paramNames = [...]string{ParamAny: "any", ParamBool: "bool", ParamString: "string", ParamInt: "int", ParamUint: "uint",
	ParamDouble: "double", ParamDuration: "duration", ParamTimestamp: "timestamp", ParamIPAddress: "ipaddress", ParamList: "list", ParamMap: "map"}

// String returns the type as the modeling language writes it.
func (t ParamType) String() string {
	if t.Elem != nil {
		return paramNames[t.Kind] + "<" + t.Elem.String() + ">"
	}
	return paramNames[t.Kind]
}

// Param returns the named parameter, or false.
func (c *Condition) Param(name string) (Param, bool) {
	for _, p := range c.Params {
		if p.Name == name {
			return p, true
		}
	}
	return Param{}, false
}

// TypeContext returns context, a map of JSON values, with each value converted to the
// type of the condition's parameter of its name. Parameters that it does not give are
// no error; a name that is no parameter, and a value of the wrong type, are.
//
// Conversions, as OpenFGA does them: whole numbers and their text are int and uint;
// numbers and their text are double; duration is text such as 1h30m, timestamp RFC
// 3339 text, ipaddress the text of an IPv4 or IPv6 address, and these stay text.
//
// It is frozen: the fold types stored contexts with it.
func (c *Condition) TypeContext(context Value) (Value, error) {
	if context.Kind != MapValue {
		return Value{}, fmt.Errorf("the context of condition %+q must be an object", c.Name)
	}
	typed := Value{Kind: MapValue, Map: make([]Field, 0, len(context.Map))}
	for _, f := range context.Map {
		p, ok := c.Param(f.Name)
		if !ok {
			return Value{}, fmt.Errorf("condition %+q has no parameter %+q", c.Name, f.Name)
		}
		v, err := p.Type.Convert(f.Value)
		if err != nil {
			return Value{}, fmt.Errorf("parameter %+q of condition %+q: %w", f.Name, c.Name, err)
		}
		typed.Map = append(typed.Map, Field{f.Name, v})
	}
	return typed, nil
}

// Convert returns v as a value of type t, or an error that says what it must be.
func (t ParamType) Convert(v Value) (Value, error) {
	fail := func() (Value, error) { return Value{}, fmt.Errorf("must be a value of type %s", t) }
	switch t.Kind {
	case ParamAny:
		return v, nil
	case ParamBool:
		if v.Kind == BoolValue {
			return v, nil
		}
	case ParamString:
		if v.Kind == StringValue {
			return v, nil
		}
	case ParamInt, ParamUint:
		if i, ok := whole(v); ok && (t.Kind == ParamInt && i.Kind == IntValue || t.Kind == ParamUint && (i.Kind == UintValue || i.Int >= 0)) {
			return i, nil
		}
	case ParamDouble:
		switch v.Kind {
		case DoubleValue:
			return v, nil
		case IntValue:
			return Value{Kind: DoubleValue, Double: float64(v.Int)}, nil
		case UintValue:
			return Value{Kind: DoubleValue, Double: float64(v.Uint)}, nil
		case StringValue:
			if n, err := ParseJSON([]byte(v.String)); err == nil && (n.Kind == DoubleValue || n.Kind == IntValue || n.Kind == UintValue) {
				return t.Convert(n)
			}
		}
	case ParamDuration:
		if v.Kind == StringValue {
			if _, err := ParseDuration(v.String); err != nil {
				return Value{}, err
			}
			return v, nil
		}
	case ParamTimestamp:
		if v.Kind == StringValue {
			if _, err := ParseTimestamp(v.String); err != nil {
				return Value{}, err
			}
			return v, nil
		}
	case ParamIPAddress:
		if v.Kind == StringValue && isIPAddress(v.String) {
			return v, nil
		}
	case ParamList:
		if v.Kind == ListValue {
			list := Value{Kind: ListValue}
			for i, e := range v.List {
				typed, err := t.Elem.Convert(e)
				if err != nil {
					return Value{}, fmt.Errorf("item %d %w", i, err)
				}
				list.List = append(list.List, typed)
			}
			return list, nil
		}
	case ParamMap:
		if v.Kind == MapValue {
			m := Value{Kind: MapValue}
			for _, f := range v.Map {
				typed, err := t.Elem.Convert(f.Value)
				if err != nil {
					return Value{}, fmt.Errorf("item %+q %w", f.Name, err)
				}
				m.Map = append(m.Map, Field{f.Name, typed})
			}
			return m, nil
		}
	}
	return fail()
}

// whole returns v as an integer: IntValue, or UintValue above its range.
func whole(v Value) (Value, bool) {
	switch v.Kind {
	case IntValue, UintValue:
		return v, true
	case DoubleValue:
		if v.Double == math.Trunc(v.Double) && v.Double >= -(1<<63) && v.Double < 1<<63 {
			return Value{Kind: IntValue, Int: int64(v.Double)}, true
		}
	case StringValue:
		if i, err := strconv.ParseInt(v.String, 10, 64); err == nil && v.String[0] != '+' {
			return Value{Kind: IntValue, Int: i}, true
		}
		if u, err := strconv.ParseUint(v.String, 10, 64); err == nil {
			return Value{Kind: UintValue, Uint: u}, true
		}
	}
	return Value{}, false
}

// isIPAddress reports whether s is an IPv4 address in dotted decimal without leading
// zeros, or an IPv6 address in the forms of RFC 4291 section 2.2, without a zone.
func isIPAddress(s string) bool {
	groups, compressed := 0, false
	if len(s) >= 2 && s[0] == ':' {
		if s[1] != ':' {
			return false
		}
		compressed, s = true, s[2:]
	}
	for first := true; s != ""; first = false {
		if !first || compressed && groups > 0 {
			switch {
			case len(s) >= 2 && s[0] == ':' && s[1] == ':':
				if compressed {
					return false
				}
				if compressed, s = true, s[2:]; s == "" {
					return groups < 8
				}
			case s[0] == ':':
				s = s[1:]
			default:
				return false
			}
		}
		n := 0
		for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] >= 'a' && s[n] <= 'f' || s[n] >= 'A' && s[n] <= 'F') {
			n++
		}
		if n < len(s) && s[n] == '.' {
			if groups == 0 && !compressed {
				return isIPv4(s)
			}
			return isIPv4(s) && (groups == 6 && !compressed || groups < 6 && compressed)
		}
		if n == 0 || n > 4 {
			return false
		}
		if groups++; groups > 8 {
			return false
		}
		s = s[n:]
	}
	return groups == 8 && !compressed || groups < 8 && compressed
}

func isIPv4(s string) bool {
	for part := range 4 {
		n, value := 0, 0
		for n < len(s) && n < 3 && s[n] >= '0' && s[n] <= '9' {
			value = value*10 + int(s[n]-'0')
			n++
		}
		if n == 0 || value > 255 || n > 1 && s[0] == '0' {
			return false
		}
		s = s[n:]
		if part < 3 {
			if s == "" || s[0] != '.' {
				return false
			}
			s = s[1:]
		}
	}
	return s == ""
}
