package model

import (
	"bytes"
	"strings"
	"testing"
)

// TestConvert holds every type of parameter to what it takes and what it refuses.
func TestConvert(t *testing.T) {
	of := func(kind ParamKind, elems ...ParamKind) ParamType {
		p := ParamType{Kind: kind}
		for at := &p; len(elems) > 0; at, elems = at.Elem, elems[1:] {
			at.Elem = &ParamType{Kind: elems[0]}
		}
		return p
	}
	same := "same" // the value itself
	for _, tt := range []struct {
		as       ParamType
		in, want string // JSON; want "" if it is refused
		message  string // part of the refusal
	}{
		{of(ParamAny), `null`, same, ""},
		{of(ParamAny), `[1, {"a": -0.5}, "x"]`, same, ""},

		{of(ParamBool), `true`, same, ""},
		{of(ParamBool), `"true"`, "", "must be a value of type bool"},
		{of(ParamBool), `1`, "", "bool"},
		{of(ParamBool), `null`, "", "bool"},

		{of(ParamString), `""`, same, ""},
		{of(ParamString), `"\u0000é😀"`, same, ""},
		{of(ParamString), `1`, "", "must be a value of type string"},
		{of(ParamString), `["a"]`, "", "string"},
		{of(ParamString), `null`, "", "string"},

		{of(ParamInt), `0`, same, ""},
		{of(ParamInt), `-9223372036854775808`, same, ""},
		{of(ParamInt), `9223372036854775807`, same, ""},
		{of(ParamInt), `"-9223372036854775808"`, `-9223372036854775808`, ""},
		{of(ParamInt), `1.0`, `1`, ""},
		{of(ParamInt), `1e3`, `1000`, ""},
		{of(ParamInt), `-0.0`, `0`, ""},
		{of(ParamInt), `9223372036854775808`, "", "must be a value of type int"},
		{of(ParamInt), `-9223372036854777857`, "", "int"},
		{of(ParamInt), `1e19`, "", "int"},
		{of(ParamInt), `1.5`, "", "int"},
		{of(ParamInt), `"1.5"`, "", "int"},
		{of(ParamInt), `"1.0"`, "", "int"},
		{of(ParamInt), `"1e3"`, "", "int"},
		{of(ParamInt), `"9223372036854775808"`, "", "int"},
		{of(ParamInt), `"+1"`, "", "int"},
		{of(ParamInt), `" 1"`, "", "int"},
		{of(ParamInt), `"0x10"`, "", "int"},
		{of(ParamInt), `"1_000"`, "", "int"},
		{of(ParamInt), `""`, "", "int"},
		{of(ParamInt), `true`, "", "int"},
		{of(ParamInt), `null`, "", "int"},

		{of(ParamUint), `0`, same, ""},
		{of(ParamUint), `18446744073709551615`, same, ""},
		{of(ParamUint), `"18446744073709551615"`, `18446744073709551615`, ""},
		{of(ParamUint), `2.0`, `2`, ""},
		{of(ParamUint), `-0.0`, `0`, ""},
		{of(ParamUint), `-1`, "", "must be a value of type uint"},
		{of(ParamUint), `"-1"`, "", "uint"},
		{of(ParamUint), `-1.0`, "", "uint"},
		{of(ParamUint), `0.5`, "", "uint"},
		{of(ParamUint), `18446744073709551616`, "", "uint"},
		{of(ParamUint), `"18446744073709551616"`, "", "uint"},

		{of(ParamDouble), `1.5`, same, ""},
		{of(ParamDouble), `-7`, `-7.0`, ""},
		{of(ParamDouble), `18446744073709551615`, `18446744073709551616.0`, ""},
		{of(ParamDouble), `"1.5e-3"`, `0.0015`, ""},
		{of(ParamDouble), `"-7"`, `-7.0`, ""},
		{of(ParamDouble), `1.7976931348623157e308`, same, ""},
		{of(ParamDouble), `"1e999"`, "", "must be a value of type double"},
		{of(ParamDouble), `"NaN"`, "", "double"},
		{of(ParamDouble), `"Infinity"`, "", "double"},
		{of(ParamDouble), `"-Inf"`, "", "double"},
		{of(ParamDouble), `"0x1p4"`, "", "double"},
		{of(ParamDouble), `"1.5 apples"`, "", "double"},
		{of(ParamDouble), `"true"`, "", "double"},
		{of(ParamDouble), `true`, "", "double"},
		{of(ParamDouble), `null`, "", "double"},

		{of(ParamDuration), `"1h30m0.5s"`, same, ""},
		{of(ParamDuration), `"-3ms"`, same, ""},
		{of(ParamDuration), `"0"`, same, ""},
		{of(ParamDuration), `60`, "", "must be a value of type duration"},
		{of(ParamDuration), `"60"`, "", `"60" is not a duration such as`},
		{of(ParamDuration), `"P1D"`, "", "is not a duration"},
		{of(ParamDuration), `"2562048h"`, "", "is not a duration"},

		{of(ParamTimestamp), `"2026-03-01T09:00:00.25+05:30"`, same, ""},
		{of(ParamTimestamp), `"2026-03-01"`, "", `"2026-03-01" is not an RFC 3339 time such as`},
		{of(ParamTimestamp), `"2026-03-01T09:00:00"`, "", "is not an RFC 3339 time"},
		{of(ParamTimestamp), `"9999-01-01T00:00:00Z"`, "", "of the years 1678 to 2261"},
		{of(ParamTimestamp), `1772355600`, "", "must be a value of type timestamp"},

		{of(ParamIPAddress), `"192.168.0.1"`, same, ""},
		{of(ParamIPAddress), `"::ffff:192.168.0.1"`, same, ""},
		{of(ParamIPAddress), `"2001:db8::"`, same, ""},
		{of(ParamIPAddress), `"192.168.0.1/24"`, "", "must be a value of type ipaddress"},
		{of(ParamIPAddress), `"192.168.0"`, "", "ipaddress"},
		{of(ParamIPAddress), `"fe80::1%eth0"`, "", "ipaddress"},
		{of(ParamIPAddress), `"localhost"`, "", "ipaddress"},
		{of(ParamIPAddress), `3232235521`, "", "ipaddress"},

		{of(ParamList, ParamAny), `[null, 1, "a", [], {}]`, same, ""},
		{of(ParamList, ParamInt), `[]`, same, ""},
		{of(ParamList, ParamInt), `[1, "2", 3.0]`, `[1, 2, 3]`, ""},
		{of(ParamList, ParamInt), `[1, 2.5]`, "", "item 1 must be a value of type int"},
		{of(ParamList, ParamInt), `1`, "", "must be a value of type list<int>"},
		{of(ParamList, ParamInt), `{"0": 1}`, "", "list<int>"},
		{of(ParamList, ParamTimestamp), `["2026-03-01T09:00:00Z", "now"]`, "", `item 1 "now" is not an RFC 3339 time`},
		{of(ParamList, ParamList, ParamUint), `[[], [1, "2"]]`, `[[], [1, 2]]`, ""},
		{of(ParamList, ParamList, ParamUint), `[[], [1, -2]]`, "", "item 1 item 1 must be a value of type uint"},

		{of(ParamMap, ParamAny), `{"a": null, "": [1]}`, same, ""},
		{of(ParamMap, ParamDouble), `{"a": 1, "b": "0.5"}`, `{"a": 1.0, "b": 0.5}`, ""},
		{of(ParamMap, ParamDouble), `{"a": "NaN"}`, "", `item "a" must be a value of type double`},
		{of(ParamMap, ParamDouble), `[]`, "", "must be a value of type map<double>"},
		{of(ParamMap, ParamList, ParamIPAddress), `{"a": ["::1"]}`, same, ""},
		{of(ParamMap, ParamList, ParamIPAddress), `{"a": ["::1", "::1::"]}`, "", `item "a" item 1 must be a value of type ipaddress`},
		{of(ParamMap, ParamMap, ParamBool), `{"a": {"b": 1}}`, "", `item "a" item "b" must be a value of type bool`},
	} {
		in := mustJSON(t, tt.in)
		got, err := tt.as.Convert(in)
		switch {
		case tt.want == "":
			if err == nil || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("%s as %s = %+v, %v, want an error with %q", tt.in, tt.as, got, err, tt.message)
			}
			continue
		case tt.want != same:
			in = mustJSON(t, tt.want)
		}
		if err != nil || !bytes.Equal(AppendValue(nil, got), AppendValue(nil, in)) {
			t.Errorf("%s as %s = %+v, %v, want %+v", tt.in, tt.as, got, err, in)
		}
	}
}

func mustJSON(t *testing.T, text string) Value {
	t.Helper()
	v, err := ParseJSON([]byte(text))
	if err != nil {
		t.Fatalf("%s: %s", text, err)
	}
	return v
}

// TestDeepValues holds what nests to its limit, however it comes.
func TestDeepValues(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":[`, n/2) + strings.Repeat(`]}`, n/2) }
	if _, err := ParseJSON([]byte(deep(MaxValueDepth))); err != nil {
		t.Error(err)
	}
	if v, err := ParseJSON([]byte(deep(MaxValueDepth + 2))); err == nil {
		t.Errorf("nested deeper than %d: %+v", MaxValueDepth, v)
	}
	v := Value{Kind: MapValue, Map: []Field{{"a", Value{}}}}
	for range MaxValueDepth {
		v = Value{Kind: MapValue, Map: []Field{{"a", v}}}
	}
	if _, err := DecodeContext(AppendContext(nil, v)); err == nil {
		t.Error("bytes nested too deep are a context")
	}
}
