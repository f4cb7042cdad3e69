package openfga_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// TestCopyTuples holds that a tuple that is written as it was read is granted alike, over
// either transport and by the native API, and that it is the same tuple where duplicates
// are ignored.
func TestCopyTuples(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, modelJSON(t, `model
  schema 1.1
type user
type doc
  relations
    define a: [user with any_of]
condition any_of(n: int, u: uint, d: double, s: string, many: list<int>, named: map<uint>, span: duration, at: timestamp, from: ipaddress, any: any) {
  n > 9007199254740992
}
`))
	path := "/stores/" + store
	contexts := []string{
		`{"n":"9007199254740993","u":"18446744073709551615","d":"9007199254740993","s":"9007199254740993"}`,
		`{"n":"-9223372036854775808","many":["9007199254740993",-9007199254740992,"9223372036854775807"],"named":{"":"9223372036854775808"}}`,
		`{"n":9007199254740992,"d":1e300,"span":"1h30m","at":"2026-03-01T10:00:00.000+01:00","from":"2001:DB8::1","any":[null,1.5,9007199254740994,1e300,"9007199254740993",{}]}`,
		`{}`,
	}
	for i, context := range contexts {
		n.must(t, 200, http.MethodPost, path+"/write", fmt.Sprintf(`{"writes":{"tuple_keys":[{"user":"user:x","relation":"a","object":"doc:%d","condition":{"name":"any_of","context":%s}}]}}`, i, context))
	}
	allowed := func(object string) string {
		_, answer := n.do(t, http.MethodPost, path+"/check", `{"tuple_key":{"user":"user:x","relation":"a","object":"`+object+`"},
			"context":{"n":1,"u":1,"d":1,"s":"","many":[],"named":{},"span":"1s","at":"2026-03-01T09:00:00Z","from":"::1","any":1}}`)
		return compact(t, answer)
	}
	for i, want := range []string{`{"allowed":true,"resolution":""}`, `{"allowed":false,"resolution":""}`} {
		if got := allowed(fmt.Sprint("doc:", i)); got != want {
			t.Errorf("doc:%d is answered with %s, want %s", i, got, want)
		}
	}

	read, err := n.Read(ctx, &openfgav1.ReadRequest{StoreId: store})
	if err != nil || len(read.Tuples) != len(contexts) {
		t.Fatalf("Read = %v, %v", read, err)
	}
	changes, err := n.ReadChanges(ctx, &openfgav1.ReadChangesRequest{StoreId: store})
	if err != nil || len(changes.Changes) != len(contexts) {
		t.Fatalf("ReadChanges = %v, %v", changes, err)
	}
	native, err := grantlogv1connect.NewPermissionServiceClient(http.DefaultClient, "http://"+n.address).ReadTuples(ctx, &pb.ReadTuplesRequest{Store: store})
	if err != nil || len(native.Tuples) != len(contexts) {
		t.Fatalf("ReadTuples = %v, %v", native, err)
	}

	// The same tuples once more change nothing.
	before := n.head(t, store)
	var keys []*openfgav1.TupleKey
	for _, tuple := range read.Tuples {
		keys = append(keys, tuple.Key)
	}
	if _, err := n.Write(ctx, &openfgav1.WriteRequest{StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys, OnDuplicate: "ignore"}}); err != nil {
		t.Errorf("write what was read, ignoring duplicates: %v", err)
	}
	for i, tuple := range read.Tuples {
		from := fmt.Sprint("doc:", i)
		want := n.stored(t, store, from, before)
		copied := func(by, object string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s, copied by %s: %v", from, by, err)
			} else if got := n.stored(t, store, object, n.head(t, store)); got != want {
				t.Errorf("%s, copied by %s, has the context %q, want %q", from, by, got, want)
			} else if allowed(object) != allowed(from) {
				t.Errorf("%s, copied by %s, is answered with %s, want %s", from, by, allowed(object), allowed(from))
			}
		}
		if got := n.stored(t, store, from, n.head(t, store)); got != want {
			t.Errorf("%s, written again, has the context %q, want %q", from, got, want)
		}
		k := proto.CloneOf(tuple.Key)
		k.Object = from + "-read"
		_, err := n.Write(ctx, &openfgav1.WriteRequest{StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: []*openfgav1.TupleKey{k}}})
		copied("Read", k.Object, err)

		k = proto.CloneOf(changes.Changes[i].TupleKey)
		k.Object = from + "-changes"
		_, err = n.Write(ctx, &openfgav1.WriteRequest{StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: []*openfgav1.TupleKey{k}}})
		copied("ReadChanges", k.Object, err)

		_, text := n.do(t, http.MethodPost, path+"/read", `{"tuple_key":{"object":"`+from+`"}}`)
		text, _, _ = strings.Cut(strings.TrimPrefix(compact(t, text), `{"tuples":[{"key":`), `,"timestamp"`)
		n.must(t, 200, http.MethodPost, path+"/write", `{"writes":{"tuple_keys":[`+strings.Replace(text, from, from+"-json", 1)+`]}}`)
		copied("Read over HTTP", from+"-json", nil)

		g := native.Tuples[i]
		g.Tuple.Object = from + "-native"
		_, err = grantlogv1connect.NewLedgerServiceClient(http.DefaultClient, "http://"+n.address).Submit(ctx, &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{
			{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: g.Tuple, Condition: g.Condition, Context: g.Context}}}}}})
		copied("ReadTuples", g.Tuple.Object, err)
	}
}

// head returns the newest revision of a store.
func (n *node) head(t testing.TB, store string) ledger.Revision {
	t.Helper()
	id, err := ledger.ParseID(store)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := n.projector.Index().Head(id)
	return h.Revision
}

// stored returns the context that user:x was granted relation a on an object with.
func (n *node) stored(t testing.TB, store, object string, rev ledger.Revision) string {
	t.Helper()
	id, err := ledger.ParseID(store)
	if err != nil {
		t.Fatal(err)
	}
	v, err := n.projector.View(context10(t), id, projector.Freshness{Kind: projector.AtRevision, Revision: rev})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	key, err := tuple.Parse(object + "#a@user:x")
	if err != nil {
		t.Fatal(err)
	}
	g, ok, err := v.Grant(key)
	if err != nil || !ok {
		t.Fatalf("%s is not granted: %v", key, err)
	}
	return string(g.Context)
}

// TestNoValue holds that a context with a value that is none is refused wherever one can
// stand, so that nothing is kept which could not be read over HTTP.
func TestNoValue(t *testing.T) {
	w, ctx := newWorld(t), context10(t)
	if err := w.projector.Activate(ctx, 2, "ops", "", ""); err != nil {
		t.Fatal(err)
	}
	context := &structpb.Struct{Fields: map[string]*structpb.Value{"country": {}}}
	office := &openfgav1.RelationshipCondition{Name: "office", Context: context}
	key := &openfgav1.TupleKey{User: "user:hal", Relation: "viewer", Object: "doc:z", Condition: office}
	one := []*openfgav1.TupleKey{key}
	contextual := &openfgav1.ContextualTupleKeys{TupleKeys: one}
	check := &openfgav1.CheckRequestTupleKey{User: "user:hal", Relation: "viewer", Object: "doc:z"}
	assertion := &openfgav1.AssertionTupleKey{User: "user:hal", Relation: "viewer", Object: "doc:z"}
	object, users := &openfgav1.Object{Type: "doc", Id: "z"}, []*openfgav1.UserTypeFilter{{Type: "user"}}
	for _, tt := range []struct {
		operation string
		req       proto.Message
		field     string
	}{
		{"Write", &openfgav1.WriteRequest{StoreId: w.store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: one}}, "writes.tuple_keys[0].condition.context"},
		{"Check", &openfgav1.CheckRequest{StoreId: w.store, TupleKey: check, Context: context}, "context"},
		{"Check", &openfgav1.CheckRequest{StoreId: w.store, TupleKey: check, ContextualTuples: contextual}, "contextual_tuples.tuple_keys[0].condition.context"},
		{"ListObjects", &openfgav1.ListObjectsRequest{StoreId: w.store, Type: "doc", Relation: "viewer", User: "user:hal", Context: context}, "context"},
		{"ListUsers", &openfgav1.ListUsersRequest{StoreId: w.store, Object: object, Relation: "viewer", UserFilters: users, Context: context}, "context"},
		{"ListUsers", &openfgav1.ListUsersRequest{StoreId: w.store, Object: object, Relation: "viewer", UserFilters: users, ContextualTuples: one}, "contextual_tuples[0].condition.context"},
		{"Expand", &openfgav1.ExpandRequest{StoreId: w.store, TupleKey: &openfgav1.ExpandRequestTupleKey{Relation: "viewer", Object: "doc:z"}, ContextualTuples: contextual}, "contextual_tuples.tuple_keys[0].condition.context"},
		{"WriteAssertions", &openfgav1.WriteAssertionsRequest{StoreId: w.store, AuthorizationModelId: w.model,
			Assertions: []*openfgav1.Assertion{{TupleKey: assertion, Context: context}}}, "assertions[0].context"},
		{"WriteAssertions", &openfgav1.WriteAssertionsRequest{StoreId: w.store, AuthorizationModelId: w.model,
			Assertions: []*openfgav1.Assertion{{TupleKey: assertion, ContextualTuples: one}}}, "assertions[0].contextual_tuples[0].condition.context"},
	} {
		err := w.conn.Invoke(ctx, "/openfga.v1.OpenFGAService/"+tt.operation, tt.req, new(openfgav1.CheckResponse))
		wantCode(t, err, 2000, tt.field+": country: holds no value")
	}
	batch, err := w.BatchCheck(ctx, &openfgav1.BatchCheckRequest{StoreId: w.store, Checks: []*openfgav1.BatchCheckItem{{TupleKey: check, Context: context, CorrelationId: "a"}}})
	if got := batch.GetResult()["a"].GetError(); err != nil || got.GetInputError() != 2000 || !strings.HasPrefix(got.GetMessage(), "context: country: holds no value") {
		t.Errorf("BatchCheck = %v, %v", batch, err)
	}

	// What the native API kept is not answered as if it could be.
	kept, err := proto.Marshal(&openfgav1.Assertions{Assertions: []*openfgav1.Assertion{{TupleKey: assertion, Context: context}}})
	if err != nil {
		t.Fatal(err)
	}
	w.apply(t, &pb.Change{Change: &pb.Change_WriteAssertions{WriteAssertions: &pb.WriteAssertions{Model: w.model, Assertions: kept}}})
	w.wantError(t, http.MethodGet, "/stores/"+w.store+"/assertions/"+w.model, "", 400, "authorization_model_assertions_not_found", "not written through this API")
}
