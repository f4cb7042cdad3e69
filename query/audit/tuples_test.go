package audit

import (
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// TestLine holds the lines of final tuples: their hashes are compared with those that
// other releases made.
func TestLine(t *testing.T) {
	context, err := model.ParseJSON([]byte(`{"z":[1,-2.5,true,null,"<&>\u0001é"],"a":{"n":18446744073709551615,"m":9007199254740993}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, tuple string
		grant       model.Grant
		want        string
	}{
		{"plain", "doc:plan#viewer@user:ann", model.Grant{}, `{"object":"doc:plan","relation":"viewer","subject":"user:ann","revision":7}`},
		{"userset", "doc:a&b#viewer@group:eng#member", model.Grant{}, `{"object":"doc:a&b","relation":"viewer","subject":"group:eng#member","revision":7}`},
		{"everything", "doc:plan#viewer@user:*",
			model.Grant{Condition: "office", Context: model.AppendContext(nil, context), NotBefore: 1, ExpiresAt: 1_793_491_200_000_000_000, Owner: "it"},
			`{"object":"doc:plan","relation":"viewer","subject":"user:*","revision":7,"condition":"office",` +
				`"context":{"a":{"m":9007199254740993,"n":18446744073709551615},"z":[1,-2.5,true,null,"<&>\u0001é"]},` +
				`"not_before":"1970-01-01T00:00:00.000000001Z","expires_at":"2026-11-01T00:00:00Z","owner":"it"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parsed, err := tuple.Parse(tt.tuple)
			if err != nil {
				t.Fatal(err)
			}
			line, err := FinalTuple{parsed, tt.grant, 7}.Line()
			if err != nil || string(line) != tt.want+"\n" {
				t.Errorf("Line = %s, %v, want %s", line, err, tt.want)
			}
		})
	}
}
