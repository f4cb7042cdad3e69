package main

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestReadContext(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty object", `{}`, `{}`},
		{"all kinds", `{"a":null,"b":true,"c":-1.5,"d":"text","e":[1,[],{}],"f":{"g":2}}`, `{"a":null,"b":true,"c":-1.5,"d":"text","e":[1,[],{}],"f":{"g":2}}`},
		{"the last whole number before doubles skip some", `{"a":9007199254740992}`, `{"a":9007199254740992}`},
		{"one that no double is", `{"a":9007199254740993}`, `{"a":"9007199254740993"}`},
		{"negative", `{"a":-9007199254740993}`, `{"a":"-9007199254740993"}`},
		{"the largest", `{"a":9223372036854775807,"b":18446744073709551615}`, `{"a":"9223372036854775807","b":"18446744073709551615"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := readContext(tt.in)
			if err != nil {
				t.Fatalf("readContext(%s): %v", tt.in, err)
			}
			b, err := json.Marshal(s.AsMap())
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if json.Unmarshal(b, &got) != nil || json.Unmarshal([]byte(tt.want), &want) != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("readContext(%s) = %s, want %s", tt.in, b, tt.want)
			}
		})
	}
	for _, in := range []string{`[]`, `1`, `"a"`, `{`, `{"a":1,"a":2}`, `{} {}`} {
		if s, err := readContext(in); err == nil {
			t.Errorf("readContext(%s) = %v, want an error", in, s)
		}
	}
}
