package openfga_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/openfga"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// TestAssertions holds that what is written over one transport is read over the other,
// that a command keeps it, and what may not be asserted.
func TestAssertions(t *testing.T) {
	w, ctx := newWorld(t), context10(t)
	path := "/stores/" + w.store + "/assertions/" + w.model
	const none = `{"authorization_model_id":"MODEL","assertions":[]}`
	const one = `{"tuple_key":{"object":"doc:a","relation":"viewer","user":"user:ann"},"expectation":false,` +
		`"contextual_tuples":[{"user":"user:ann","relation":"viewer","object":"doc:a","condition":{"name":"office","context":{"allowed":["CH"]}}}],"context":{"country":"CH"}}`
	read := func(want string) {
		t.Helper()
		if got := w.must(t, http.StatusOK, http.MethodGet, path, ""); got != strings.ReplaceAll(want, "MODEL", w.model) {
			t.Errorf("ReadAssertions = %s, want %s", got, want)
		}
	}
	// Before the log has the rules that know assertions, nothing is appended.
	w.wantError(t, http.MethodPut, path, `{"assertions":[]}`, 500, "failed_precondition", "need fold version 2, and 1 is in force")
	read(none)
	if err := w.projector.Activate(ctx, 2, "ops", "", ""); err != nil {
		t.Fatal(err)
	}

	if code, body := w.do(t, http.MethodPut, path, `{"assertions":[`+one+`]}`); code != http.StatusNoContent || body != "" {
		t.Fatalf("WriteAssertions = %d %q, want 204 and nothing", code, body)
	}
	read(`{"authorization_model_id":"MODEL","assertions":[` + one + `]}`)
	answer, err := w.ReadAssertions(ctx, &openfgav1.ReadAssertionsRequest{StoreId: w.store, AuthorizationModelId: w.model})
	if err != nil || len(answer.GetAssertions()) != 1 {
		t.Fatalf("ReadAssertions = %v, %v, want one", answer, err)
	}
	written := answer.GetAssertions()[0]
	country, err := structpb.NewStruct(map[string]any{"country": "DE", "allowed": []any{"DE"}})
	if err != nil {
		t.Fatal(err)
	}
	two := []*openfgav1.Assertion{written, {TupleKey: &openfgav1.AssertionTupleKey{Object: "doc:b", Relation: "owner", User: "group:eng#member"}, Expectation: true, Context: country}}
	write := func(assertions ...*openfgav1.Assertion) error {
		_, err := w.WriteAssertions(ctx, &openfgav1.WriteAssertionsRequest{StoreId: w.store, AuthorizationModelId: w.model, Assertions: assertions})
		return err
	}
	for i := range 10 { // all but the first change nothing
		if err := write(two...); err != nil {
			t.Fatal(err)
		}
		e := w.newest(t)
		c, rejection := e.Command()
		if rejection != nil || e.Origin.Actor != openfga.Actor || c.Channel != openfga.Channel || e.Outcome.Effective != max(0, 1-i) {
			t.Fatalf("entry %d = %+v of %q through %q, want it to change something only at first", i, e.Outcome, e.Origin.Actor, c.Channel)
		}
	}
	answer, err = w.ReadAssertions(ctx, &openfgav1.ReadAssertionsRequest{StoreId: w.store, AuthorizationModelId: w.model})
	if err != nil || len(answer.GetAssertions()) != 2 || !proto.Equal(answer.GetAssertions()[1], two[1]) || answer.GetAuthorizationModelId() != w.model {
		t.Errorf("ReadAssertions = %v, %v, want %v", answer, err, two)
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	read(none)

	for _, tt := range []struct{ name, path, body, code, part string }{
		{"unknown model", "/stores/" + w.store + "/assertions/" + noStore, `{}`, "authorization_model_not_found", "authorization_model_id"},
		{"unknown store", "/stores/" + noStore + "/assertions/" + w.model, `{}`, "store_id_not_found", "store_id"},
		{"no tuple", path, `{"assertions":[{"expectation":true}]}`, "tuple_key_value_not_specified", "assertions[0].tuple_key"},
		{"no user", path, `{"assertions":[{"tuple_key":{"object":"doc:a","relation":"viewer","user":"ann"}}]}`, "validation_error", `assertions[0].tuple_key.user: "ann" must be`},
		{"unknown relation", path, `{"assertions":[` + one + `,{"tuple_key":{"object":"doc:a","relation":"colour","user":"user:ann"}}]}`, "validation_error", "assertions[1].tuple_key.relation: "},
		{"unknown user", path, `{"assertions":[{"tuple_key":{"object":"doc:a","relation":"viewer","user":"group:eng#boss"}}]}`, "validation_error", "assertions[0].tuple_key.user: "},
		{"contextual tuple", path, `{"assertions":[{"tuple_key":{"object":"doc:a","relation":"viewer","user":"user:ann"},"contextual_tuples":[{"user":"user:ann","relation":"reader","object":"doc:a"}]}]}`,
			"invalid_tuple", "assertions[0].contextual_tuples[0].relation: "},
		{"no such condition", path, strings.ReplaceAll(`{"assertions":[`+one+`]}`, "office", "moon"), "validation_error", "assertions[0].contextual_tuples[0].condition: "},
		{"context of a wrong type", path, strings.ReplaceAll(`{"assertions":[`+one+`]}`, `["CH"]`, `"CH"`), "validation_error", `assertions[0].contextual_tuples[0].condition.context: parameter "allowed"`},
		{"context of no condition", path, strings.ReplaceAll(`{"assertions":[`+one+`]}`, `"name":"office",`, ""), "validation_error", "assertions[0].contextual_tuples[0].condition"},
		{"too many", path, `{"assertions":[` + strings.TrimSuffix(strings.Repeat(one+",", 101), ",") + `]}`, "assertions_too_many_items", "assertions: value must contain no more than 100"},
		{"too large", path, `{"assertions":[` + strings.Replace(one, "doc:a", "doc:"+strings.Repeat("a", 200), 1) +
			strings.Repeat(`,`+strings.Replace(one, `"country":"CH"`, `"country":"`+strings.Repeat("C", 1000)+`"`, 1), 70) + `]}`, "exceeded_entity_limit", "assertions: must be at most 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.wantError(t, http.MethodPut, tt.path, tt.body, statusOf(tt.code), tt.code, tt.part)
		})
	}
	_, err = w.ReadAssertions(ctx, &openfgav1.ReadAssertionsRequest{StoreId: w.store, AuthorizationModelId: noStore})
	wantCode(t, err, 2001, "authorization_model_id")

	// The native API takes any bytes.
	w.apply(t, &pb.Change{Change: &pb.Change_WriteAssertions{WriteAssertions: &pb.WriteAssertions{Model: w.model, Assertions: []byte("\xff")}}})
	w.wantError(t, http.MethodGet, path, "", 400, "authorization_model_assertions_not_found", "not written through this API")
}

// newest returns the newest entry of the store.
func (w *world) newest(t testing.TB) *ledger.Entry {
	t.Helper()
	id, err := ledger.ParseID(w.store)
	if err != nil {
		t.Fatal(err)
	}
	v, err := w.projector.View(context10(t), id, projector.Freshness{Kind: projector.Any})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	e, err := v.Entry(v.Revision())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func statusOf(code string) int {
	if code == "store_id_not_found" {
		return http.StatusNotFound
	}
	return http.StatusBadRequest
}
