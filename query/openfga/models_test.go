package openfga_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const testModel = `model
  schema 1.1

type user

type group
  relations
    define member: [user, group#member]

type doc
  relations
    define parent: [doc]
    define blocked: [user]
    define owner: [user]
    define editor: [user with office]
    define viewer: [user, user:*, group#member] or owner or viewer from parent
    define reader: viewer but not blocked
    define sharer: owner and viewer

condition office(country: string, allowed: list<string>, floor: double) {
  country in allowed && floor < 5.0
}
`

// modelJSON returns a model in the language as the API has it.
func modelJSON(t testing.TB, source string) string {
	t.Helper()
	m, err := dsl.Parse(ledger.SourceDSL, []byte(source), dsl.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return string(dsl.ToJSON(m))
}

func TestModels(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, "")
	path := "/stores/" + store + "/authorization-models"
	if got := n.must(t, 200, http.MethodGet, path, ""); got != `{"authorization_models":[],"continuation_token":""}` {
		t.Errorf("models = %s, want none, with its fields", got)
	}
	first := n.model(t, store, modelJSON(t, testModel))
	got := n.must(t, 200, http.MethodGet, path+"/"+first, "")
	for _, part := range []string{
		`"id":"` + first + `"`, `"schema_version":"1.1"`, `{"type":"user","relations":{},"metadata":null}`,
		`"reader":{"difference":{"base":{"computedUserset":{"object":"","relation":"viewer"}},"subtract":{"computedUserset":{"object":"","relation":"blocked"}}}}`,
		`"tupleToUserset":{"tupleset":{"object":"","relation":"parent"},"computedUserset":{"object":"","relation":"viewer"}}`,
		`{"type":"user","wildcard":{},"condition":""}`, `{"type":"user","condition":"office"}`, `"type_name":"TYPE_NAME_LIST"`,
	} {
		if !strings.Contains(got, part) {
			t.Errorf("model = %s, want %s in it", got, part)
		}
	}

	read, err := n.ReadAuthorizationModel(ctx, &openfgav1.ReadAuthorizationModelRequest{StoreId: store, Id: first})
	if err != nil {
		t.Fatal(err)
	}
	m := read.AuthorizationModel
	again, err := n.WriteAuthorizationModel(ctx, &openfgav1.WriteAuthorizationModelRequest{StoreId: store, SchemaVersion: m.SchemaVersion, TypeDefinitions: m.TypeDefinitions, Conditions: m.Conditions})
	if err != nil {
		t.Fatal(err)
	}
	all, err := n.ReadAuthorizationModels(ctx, &openfgav1.ReadAuthorizationModelsRequest{StoreId: store, PageSize: wrapperspb.Int32(1)})
	if err != nil || len(all.AuthorizationModels) != 1 || all.AuthorizationModels[0].Id != again.AuthorizationModelId || all.ContinuationToken == "" {
		t.Fatalf("models = %v, %v, want a page with the newest", all, err)
	}
	m.Id = again.AuthorizationModelId
	if !proto.Equal(all.AuthorizationModels[0], m) {
		t.Errorf("written again the model is %v, was %v", all.AuthorizationModels[0], m)
	}
	rest := n.must(t, 200, http.MethodGet, path+"?continuation_token="+all.ContinuationToken, "")
	if !strings.Contains(rest, first) || strings.Contains(rest, again.AuthorizationModelId) || !strings.Contains(rest, `"continuation_token":""`) {
		t.Errorf("the second page = %s, want the first model", rest)
	}

	// One that was written in the modeling language, by the native API, reads alike.
	native, err := grantlogv1connect.NewLedgerServiceClient(http.DefaultClient, "http://"+n.address).Submit(ctx, &pb.SubmitRequest{Command: &pb.Command{
		Store: store, Changes: []*pb.Change{{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: testModel}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	read, err = n.ReadAuthorizationModel(ctx, &openfgav1.ReadAuthorizationModelRequest{StoreId: store, Id: native.Model})
	if err != nil {
		t.Fatal(err)
	}
	if m.Id = native.Model; !proto.Equal(read.AuthorizationModel, m) {
		t.Errorf("written in the language the model is %v, in JSON %v", read.AuthorizationModel, m)
	}

	n.wantError(t, http.MethodGet, path+"/"+noStore, "", 400, "authorization_model_not_found", noStore)
	n.wantError(t, http.MethodGet, path+"/first", "", 400, "validation_error", "id: value does not match")
	n.wantError(t, http.MethodGet, path+"?continuation_token=abcd", "", 400, "invalid_continuation_token")
	n.wantError(t, http.MethodGet, "/stores/"+noStore+"/authorization-models", "", 404, "store_id_not_found")
	n.wantError(t, http.MethodPost, "/stores/"+noStore+"/authorization-models", modelJSON(t, testModel), 404, "store_id_not_found")
}

func TestInvalidModels(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, "")
	path := "/stores/" + store + "/authorization-models"
	typ := func(relations, metadata string) string {
		return `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "doc", "relations": {` + relations + `}, "metadata": {"relations": {` + metadata + `}}}]}`
	}
	const direct = `"viewer": {"directly_related_user_types": [{"type": "user"}]}`
	many := make([]string, 101)
	for i := range many {
		many[i] = `{"type": "user"}`
	}
	for _, tt := range []struct {
		name, body, code string
		parts            []string
	}{
		{"no types", `{"schema_version": "1.1"}`, "type_definitions_too_few_items", []string{"type_definitions"}},
		{"too many types", `{"schema_version": "1.1", "type_definitions": [` + strings.Join(many, ",") + `]}`, "exceeded_entity_limit", []string{"at most 100", "101"}},
		{"schema version", `{"schema_version": "2.0", "type_definitions": [{"type": "user"}]}`, "validation_error", []string{"schema_version"}},
		{"no schema version", `{"type_definitions": [{"type": "user"}]}`, "validation_error", []string{"schema_version"}},
		{"old schema version", `{"schema_version": "1.0", "type_definitions": [{"type": "user"}]}`, "invalid_authorization_model", []string{"1.0"}},
		{"type twice", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "user"}]}`, "invalid_authorization_model", []string{`"user"`}},
		{"name of a type", `{"schema_version": "1.1", "type_definitions": [{"type": "us:er"}]}`, "type_invalid_pattern", []string{"type_definitions[0].type"}},
		{"no such relation", typ(`"viewer": {"computedUserset": {"relation": "owner"}}`, ``), "invalid_authorization_model", []string{`"owner"`}},
		{"no such type", typ(`"viewer": {"this": {}}`, `"viewer": {"directly_related_user_types": [{"type": "robot"}]}`), "invalid_authorization_model", []string{`"robot"`}},
		{"nobody may hold it", typ(`"viewer": {"this": {}}`, ``), "invalid_authorization_model", []string{`viewer`}},
		{"leads to itself", typ(`"viewer": {"computedUserset": {"relation": "viewer"}}`, ``), "invalid_authorization_model", []string{`viewer`}},
		{"no such condition", typ(`"viewer": {"this": {}}`, `"viewer": {"directly_related_user_types": [{"type": "user", "condition": "office"}]}`), "invalid_authorization_model", []string{`"office"`}},
		{"no rule", typ(`"viewer": {}`, direct), "invalid_authorization_model", []string{"exactly one of"}},
		{"condition of no truth", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "doc", "relations": {"viewer": {"this": {}}}, "metadata": {"relations": {"viewer": {"directly_related_user_types": [{"type": "user", "condition": "office"}]}}}}],
			"conditions": {"office": {"name": "office", "expression": "1 + 1", "parameters": {"x": {"type_name": "TYPE_NAME_INT"}}}}}`, "invalid_authorization_model", []string{"office"}},
		{"two mistakes", typ(`"viewer": {"computedUserset": {"relation": "owner"}}, "editor": {"computedUserset": {"relation": "chair"}}`, ``), "invalid_authorization_model", []string{`"owner"`, `"chair"`}},
	} {
		t.Run(tt.name, func(t *testing.T) { n.wantError(t, http.MethodPost, path, tt.body, 400, tt.code, tt.parts...) })
	}
	_, err := n.WriteAuthorizationModel(ctx, &openfgav1.WriteAuthorizationModelRequest{StoreId: store, SchemaVersion: "1.1",
		TypeDefinitions: []*openfgav1.TypeDefinition{{Type: "user"}, {Type: "user"}}})
	wantCode(t, err, 2056, `"user"`)
	if got := n.must(t, 200, http.MethodGet, path, ""); !strings.Contains(got, `"authorization_models":[]`) {
		t.Errorf("models = %s, want none of the invalid ones", got)
	}
}
