package openfga_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/encoding/protojson"
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
	native := n.nativeModel(t, store, &pb.ModelSource{Source: testModel})
	read, err = n.ReadAuthorizationModel(ctx, &openfgav1.ReadAuthorizationModelRequest{StoreId: store, Id: native})
	if err != nil {
		t.Fatal(err)
	}
	if m.Id = native; !proto.Equal(read.AuthorizationModel, m) {
		t.Errorf("written in the language the model is %v, in JSON %v", read.AuthorizationModel, m)
	}

	n.wantError(t, http.MethodGet, path+"/"+noStore, "", 400, "authorization_model_not_found", noStore)
	n.wantError(t, http.MethodGet, path+"/first", "", 400, "validation_error", "id: value does not match")
	n.wantError(t, http.MethodGet, path+"?continuation_token=abcd", "", 400, "invalid_continuation_token")
	n.wantError(t, http.MethodGet, "/stores/"+noStore+"/authorization-models", "", 404, "store_id_not_found")
	n.wantError(t, http.MethodPost, "/stores/"+noStore+"/authorization-models", modelJSON(t, testModel), 404, "store_id_not_found")
}

// nativeModel writes a model by the native API and returns its id.
func (n *node) nativeModel(t testing.TB, store string, source *pb.ModelSource) string {
	t.Helper()
	r, err := grantlogv1connect.NewLedgerServiceClient(http.DefaultClient, "http://"+n.address).Submit(context10(t), &pb.SubmitRequest{Command: &pb.Command{
		Store: store, Changes: []*pb.Change{{Change: &pb.Change_WriteModel{WriteModel: source}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Model
}

// wantModel reports an error unless the store's newest model is this one, over gRPC and
// over HTTP, by its id and in the list.
func (n *node) wantModel(ctx context.Context, t *testing.T, store string, want *openfgav1.AuthorizationModel) {
	t.Helper()
	path := "/stores/" + store + "/authorization-models"
	one, err := n.ReadAuthorizationModel(ctx, &openfgav1.ReadAuthorizationModelRequest{StoreId: store, Id: want.Id})
	if err != nil {
		t.Fatal(err)
	}
	all, err := n.ReadAuthorizationModels(ctx, &openfgav1.ReadAuthorizationModelsRequest{StoreId: store, PageSize: wrapperspb.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	var one2 openfgav1.ReadAuthorizationModelResponse
	var all2 openfgav1.ReadAuthorizationModelsResponse
	for text, into := range map[string]proto.Message{n.must(t, 200, http.MethodGet, path+"/"+want.Id, ""): &one2, n.must(t, 200, http.MethodGet, path+"?page_size=1", ""): &all2} {
		if err := protojson.Unmarshal([]byte(text), into); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
	for i, got := range []*openfgav1.AuthorizationModel{one.AuthorizationModel, all.AuthorizationModels[0], one2.AuthorizationModel, all2.AuthorizationModels[0]} {
		if !proto.Equal(got, want) {
			t.Errorf("reading %d of the model:\n%s\nwant\n%s", i, protojson.Format(got), protojson.Format(want))
		}
	}
}

// TestModelsAsWritten holds what is read of a model in JSON to what was written, though
// its compiled form has less: files, and unions of one.
func TestModelsAsWritten(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, "")
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	for i := range 50 {
		m := randomModel(r)
		req := &openfgav1.WriteAuthorizationModelRequest{SchemaVersion: m.SchemaVersion, TypeDefinitions: m.TypeDefinitions, Conditions: m.Conditions}
		if i%2 == 0 {
			body, err := protojson.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			m.Id = n.model(t, store, string(body))
		} else {
			req.StoreId = store
			written, err := n.WriteAuthorizationModel(ctx, req)
			if err != nil {
				t.Fatalf("%v of\n%s", err, protojson.Format(m))
			}
			m.Id = written.AuthorizationModelId
		}
		n.wantModel(ctx, t, store, m)
	}

	// By the native API JSON may be written that is not quite the API's.
	const typ = `{"schema_version": "1.2", "type_definitions": [{"type": "user", "relations": {%s}, "metadata": {"source_info": {"file": "core.fga"}}}],
		"conditions": {"office": {"expression": "x > 1", "parameters": {"x": {"type_name": "TYPE_NAME_%s"}}}}}`
	want := &openfgav1.AuthorizationModel{SchemaVersion: "1.2",
		TypeDefinitions: []*openfgav1.TypeDefinition{{Type: "user", Metadata: &openfgav1.Metadata{SourceInfo: &openfgav1.SourceInfo{File: "core.fga"}}}},
		Conditions: map[string]*openfgav1.Condition{"office": {Name: "office", Expression: "x > 1",
			Parameters: map[string]*openfgav1.ConditionParamTypeRef{"x": {TypeName: openfgav1.ConditionParamTypeRef_TYPE_NAME_INT}}}}}
	want.Id = n.nativeModel(t, store, &pb.ModelSource{Kind: pb.ModelSource_JSON, Source: fmt.Sprintf(typ, "", "INT")})
	n.wantModel(ctx, t, store, want)
	want.TypeDefinitions[0].Metadata = nil
	for _, source := range []string{fmt.Sprintf(typ, `"a": null`, "INT"), fmt.Sprintf(typ, "", "int")} {
		want.Id = n.nativeModel(t, store, &pb.ModelSource{Kind: pb.ModelSource_JSON, Source: source})
		n.wantModel(ctx, t, store, want)
	}
}

// randomModel returns a valid model. Each relation of a type is computed from those
// before it, and "blocked" is what is subtracted alone.
func randomModel(r *rand.Rand) *openfgav1.AuthorizationModel {
	file := func() *openfgav1.SourceInfo {
		if r.IntN(2) == 0 {
			return nil
		}
		return &openfgav1.SourceInfo{File: fmt.Sprintf("f%d.fga", r.IntN(3))}
	}
	module := func() string { return []string{"", "core", "wiki"}[r.IntN(3)] }
	computed := func(relation string) *openfgav1.Userset {
		return &openfgav1.Userset{Userset: &openfgav1.Userset_ComputedUserset{ComputedUserset: &openfgav1.ObjectRelation{Relation: relation}}}
	}
	var direct bool // the rule that was made last holds a "this"
	var rule func(before []string, depth int) *openfgav1.Userset
	rule = func(before []string, depth int) *openfgav1.Userset {
		relation := before[r.IntN(len(before))]
		kind := r.IntN(6)
		if depth == 0 {
			kind = r.IntN(3)
		}
		switch kind {
		case 0:
			direct = true
			return &openfgav1.Userset{Userset: &openfgav1.Userset_This{This: &openfgav1.DirectUserset{}}}
		case 1:
			return computed(relation)
		case 2:
			return &openfgav1.Userset{Userset: &openfgav1.Userset_TupleToUserset{TupleToUserset: &openfgav1.TupleToUserset{
				Tupleset: &openfgav1.ObjectRelation{Relation: "parent"}, ComputedUserset: &openfgav1.ObjectRelation{Relation: relation}}}}
		case 3:
			return &openfgav1.Userset{Userset: &openfgav1.Userset_Difference{Difference: &openfgav1.Difference{Base: rule(before, depth-1), Subtract: computed("blocked")}}}
		}
		children := &openfgav1.Usersets{}
		for range 1 + r.IntN(3) {
			children.Child = append(children.Child, rule(before, depth-1))
		}
		if kind == 4 {
			return &openfgav1.Userset{Userset: &openfgav1.Userset_Union{Union: children}}
		}
		return &openfgav1.Userset{Userset: &openfgav1.Userset_Intersection{Intersection: children}}
	}
	m := &openfgav1.AuthorizationModel{SchemaVersion: []string{"1.1", "1.2"}[r.IntN(2)], TypeDefinitions: []*openfgav1.TypeDefinition{{Type: "user"}}}
	if r.IntN(2) == 0 {
		m.TypeDefinitions[0].Metadata = &openfgav1.Metadata{Module: module(), SourceInfo: file()}
	}
	users := []*openfgav1.RelationReference{
		{Type: "user"}, {Type: "user", RelationOrWildcard: &openfgav1.RelationReference_Wildcard{Wildcard: &openfgav1.Wildcard{}}}, {Type: "user", Condition: "office"}}
	for i := range 1 + r.IntN(3) {
		t := &openfgav1.TypeDefinition{Type: fmt.Sprintf("doc%d", i), Relations: make(map[string]*openfgav1.Userset),
			Metadata: &openfgav1.Metadata{Relations: make(map[string]*openfgav1.RelationMetadata), Module: module(), SourceInfo: file()}}
		this := &openfgav1.Userset{Userset: &openfgav1.Userset_This{This: &openfgav1.DirectUserset{}}}
		t.Relations["parent"], t.Relations["blocked"] = this, this
		t.Metadata.Relations["parent"] = &openfgav1.RelationMetadata{DirectlyRelatedUserTypes: []*openfgav1.RelationReference{{Type: t.Type}}}
		t.Metadata.Relations["blocked"] = &openfgav1.RelationMetadata{DirectlyRelatedUserTypes: users[:1], Module: module(), SourceInfo: file()}
		before := []string{"parent"}
		for j := range r.IntN(5) {
			name := fmt.Sprintf("r%d", j)
			direct = false
			t.Relations[name] = rule(before, 3)
			about := &openfgav1.RelationMetadata{Module: module(), SourceInfo: file()}
			if direct {
				k := 1 + r.IntN(len(users))
				about.DirectlyRelatedUserTypes = append(users[:k:k], &openfgav1.RelationReference{
					Type: t.Type, RelationOrWildcard: &openfgav1.RelationReference_Relation{Relation: name}})
			}
			if direct || r.IntN(2) == 0 {
				t.Metadata.Relations[name] = about
			}
			before = append(before, name)
		}
		m.TypeDefinitions = append(m.TypeDefinitions, t)
	}
	list := &openfgav1.ConditionParamTypeRef{TypeName: openfgav1.ConditionParamTypeRef_TYPE_NAME_LIST,
		GenericTypes: []*openfgav1.ConditionParamTypeRef{{TypeName: openfgav1.ConditionParamTypeRef_TYPE_NAME_STRING}}}
	c := &openfgav1.Condition{Name: "office", Expression: " country in allowed\n",
		Parameters: map[string]*openfgav1.ConditionParamTypeRef{"allowed": list, "country": {TypeName: openfgav1.ConditionParamTypeRef_TYPE_NAME_STRING}}}
	if r.IntN(2) == 0 {
		c.Metadata = &openfgav1.ConditionMetadata{Module: module(), SourceInfo: file()}
	}
	m.Conditions = map[string]*openfgav1.Condition{c.Name: c}
	return m
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
		{"type twice", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "user"}]}`, "invalid_authorization_model", []string{`the type "user" is defined twice`}},
		{"name of a type", `{"schema_version": "1.1", "type_definitions": [{"type": "us:er"}]}`, "type_invalid_pattern", []string{"type_definitions[0].type"}},
		{"no such relation", typ(`"viewer": {"computedUserset": {"relation": "owner"}}`, ``), "invalid_authorization_model", []string{`"owner"`}},
		{"no such type", typ(`"viewer": {"this": {}}`, `"viewer": {"directly_related_user_types": [{"type": "robot"}]}`), "invalid_authorization_model", []string{`"robot"`}},
		{"nobody may hold it", typ(`"viewer": {"this": {}}`, ``), "invalid_authorization_model", []string{`viewer`}},
		{"leads to itself", typ(`"viewer": {"computedUserset": {"relation": "viewer"}}`, ``), "invalid_authorization_model", []string{`viewer`}},
		{"no such condition", typ(`"viewer": {"this": {}}`, `"viewer": {"directly_related_user_types": [{"type": "user", "condition": "office"}]}`), "invalid_authorization_model", []string{`"office"`}},
		{"no rule", typ(`"viewer": {}`, direct), "invalid_authorization_model", []string{`relation "viewer" of type "doc": a rule must have exactly one of`}},
		{"operator on nothing", typ(`"viewer": {"union": {"child": []}}`, ``), "invalid_authorization_model", []string{`relation "viewer" of type "doc": union must have at least one rule in the field child`}},
		{"operand without a name", typ(`"viewer": {"computedUserset": {"relation": ""}}`, ``), "invalid_authorization_model", []string{`relation "viewer" of type "doc": computedUserset must have the field relation, not empty`}},
		{"deep rules", typ(`"viewer": `+strings.Repeat(`{"union": {"child": [`, 100)+`{"this": {}}`+strings.Repeat(`]}}`, 100), direct), "invalid_authorization_model", []string{`relation "viewer" of type "doc": rules are nested deeper than 32`}},
		{"equal types", typ(`"viewer": {"this": {}}`, `"viewer": {"directly_related_user_types": [{"type": "user"}, {"type": "user"}]}`), "invalid_authorization_model", []string{`user stands twice in the types of relation "viewer" of type "doc"`}},
		{"metadata of nothing", typ(``, direct), "invalid_authorization_model", []string{`type "doc": there is metadata of a relation "viewer"`}},
		{"list of nothing", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}], "conditions": {"office": {"name": "office", "expression": "true", "parameters": {"x": {"type_name": "TYPE_NAME_LIST"}}}}}`, "invalid_authorization_model", []string{`parameter "x" of condition "office": TYPE_NAME_LIST must have one type`}},
		{"type without a name", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"relations": {}}]}`, "type_invalid_pattern", []string{"type_definitions[1].type"}},
		{"condition of no truth", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "doc", "relations": {"viewer": {"this": {}}}, "metadata": {"relations": {"viewer": {"directly_related_user_types": [{"type": "user", "condition": "office"}]}}}}],
			"conditions": {"office": {"name": "office", "expression": "1 + 1", "parameters": {"x": {"type_name": "TYPE_NAME_INT"}}}}}`, "invalid_authorization_model", []string{"office"}},
		{"two mistakes", typ(`"viewer": {"computedUserset": {"relation": "owner"}}, "editor": {"computedUserset": {"relation": "chair"}}`, ``), "invalid_authorization_model", []string{`"owner"`, `"chair"`}},
	} {
		t.Run(tt.name, func(t *testing.T) { n.wantError(t, http.MethodPost, path, tt.body, 400, tt.code, tt.parts...) })
	}
	_, err := n.WriteAuthorizationModel(ctx, &openfgav1.WriteAuthorizationModelRequest{StoreId: store, SchemaVersion: "1.1",
		TypeDefinitions: []*openfgav1.TypeDefinition{{Type: "user"}, {Type: "user"}}})
	wantCode(t, err, 2056, `"user"`)

	// The native API says it by names too, beside places.
	_, err = grantlogv1connect.NewLedgerServiceClient(http.DefaultClient, "http://"+n.address).Submit(ctx, &pb.SubmitRequest{Command: &pb.Command{
		Store: store, Changes: []*pb.Change{{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Kind: pb.ModelSource_JSON, Source: typ(`"viewer": {}`, direct)}}}}}})
	if err == nil || !strings.Contains(err.Error(), `: relation "viewer" of type "doc": a rule must have exactly one of`) {
		t.Errorf("error = %v, want the relation and its type", err)
	}
	if got := n.must(t, 200, http.MethodGet, path, ""); !strings.Contains(got, `"authorization_models":[]`) {
		t.Errorf("models = %s, want none of the invalid ones", got)
	}
}
