package openfga_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/openfga"
	"github.com/grantlog/grantlog/query/serve"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// key returns a tuple from "user relation object".
func key(text string) *openfgav1.TupleKey {
	parts := strings.Fields(text)
	return &openfgav1.TupleKey{User: parts[0], Relation: parts[1], Object: parts[2]}
}

func keys(texts ...string) (keys []*openfgav1.TupleKey) {
	for _, text := range texts {
		keys = append(keys, key(text))
	}
	return keys
}

func bare(texts ...string) (keys []*openfgav1.TupleKeyWithoutCondition) {
	for _, text := range texts {
		k := key(text)
		keys = append(keys, &openfgav1.TupleKeyWithoutCondition{User: k.User, Relation: k.Relation, Object: k.Object})
	}
	return keys
}

// inOffice is an editor under the condition office with a stored context, of whose values
// one has another type in the condition than in JSON.
func inOffice(text string, countries ...any) *openfgav1.TupleKey {
	k := key(text)
	list, err := structpb.NewStruct(map[string]any{"allowed": countries, "floor": 3})
	if err != nil {
		panic(err)
	}
	k.Condition = &openfgav1.RelationshipCondition{Name: "office", Context: list}
	return k
}

func (n *node) write(t testing.TB, store string, tuples ...*openfgav1.TupleKey) {
	t.Helper()
	if _, err := n.Write(context10(t), &openfgav1.WriteRequest{StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: tuples}}); err != nil {
		t.Fatalf("write %v: %v", tuples, err)
	}
}

func (n *node) delete(t testing.TB, store string, tuples ...string) {
	t.Helper()
	if _, err := n.Write(context10(t), &openfgav1.WriteRequest{StoreId: store, Deletes: &openfgav1.WriteRequestDeletes{TupleKeys: bare(tuples...)}}); err != nil {
		t.Fatalf("delete %v: %v", tuples, err)
	}
}

// tuples reads all pages of what a filter matches, as text.
func (n *node) tuples(t testing.TB, store string, filter *openfgav1.ReadRequestTupleKey, page int32) string {
	t.Helper()
	var all []string
	req := &openfgav1.ReadRequest{StoreId: store, TupleKey: filter, PageSize: wrapperspb.Int32(page)}
	for {
		answer, err := n.Read(context10(t), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, tuple := range answer.Tuples {
			text := tuple.Key.User + " " + tuple.Key.Relation + " " + tuple.Key.Object
			if c := tuple.Key.Condition; c != nil {
				text += fmt.Sprintf(" %s%v", c.Name, c.Context.AsMap())
			}
			if tuple.Timestamp.AsTime().Before(time.Now().Add(-time.Minute)) {
				t.Errorf("%s has the time %s", text, tuple.Timestamp.AsTime())
			}
			all = append(all, text)
		}
		if req.ContinuationToken = answer.ContinuationToken; req.ContinuationToken == "" {
			return strings.Join(all, ", ")
		}
		if int32(len(answer.Tuples)) != page {
			t.Errorf("a page of %d has %d tuples, and another follows", page, len(answer.Tuples))
		}
	}
}

func TestWrite(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, modelJSON(t, testModel))
	path := "/stores/" + store + "/write"
	// Written and deleted in one request, with a condition, an actor and an unknown field.
	if got := n.must(t, 200, http.MethodPost, path, `{"writes": {"tuple_keys": [
		{"user": "user:ann", "relation": "owner", "object": "doc:a", "new": 1},
		{"user": "group:eng#member", "relation": "viewer", "object": "doc:a", "condition": null},
		{"user": "user:bob", "relation": "editor", "object": "doc:a", "condition": {"name": "office", "context": {"allowed": ["de"]}}}]}}`); got != "{}" {
		t.Errorf("write = %s, want {}", got)
	}
	named := metadata.AppendToOutgoingContext(ctx, openfga.ActorHeader, "payroll")
	_, err := n.Write(named, &openfgav1.WriteRequest{StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys("user:cid owner doc:a")},
		Deletes: &openfgav1.WriteRequestDeletes{TupleKeys: bare("user:ann owner doc:a")}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "user:bob editor doc:a office map[allowed:[de]], user:cid owner doc:a, group:eng#member viewer doc:a"
	if got := n.tuples(t, store, nil, 2); got != strings.ReplaceAll(want, "office map", "officemap") {
		t.Errorf("tuples = %s", got)
	}

	// Both are commands with an actor and a channel.
	stream, err := grantlogv1connect.NewAuditServiceClient(http.DefaultClient, "http://"+n.address).Replay(ctx, &pb.ReplayRequest{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var actors []string
	for stream.Receive() {
		for _, e := range stream.Msg().Entries {
			actors = append(actors, e.Actor+" by "+e.Command.GetChannel())
		}
	}
	if got := strings.Join(actors, ", "); got != "openfga by openfga-api, openfga by openfga-api, openfga by openfga-api, payroll by openfga-api" {
		t.Errorf("actors = %s", got)
	}
}

func TestWriteRejected(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, modelJSON(t, testModel))
	n.write(t, store, key("user:ann owner doc:a"), inOffice("user:bob editor doc:a", "de"))
	before := n.tuples(t, store, nil, 100)
	bare60 := make([]string, 60)
	for i := range bare60 {
		bare60[i] = fmt.Sprintf(`{"user": "user:u%d", "relation": "owner", "object": "doc:a"}`, i)
	}
	many := strings.Join(bare60, ",")
	tuple := func(user, relation, object string) string {
		return fmt.Sprintf(`{"user": %q, "relation": %q, "object": %q}`, user, relation, object)
	}
	ann := tuple("user:ann", "owner", "doc:a")
	for _, tt := range []struct {
		name, body, code string
		parts            []string
	}{
		{"nothing", `{}`, "invalid_write_input", []string{"writes", "deletes"}},
		{"an empty list", `{"writes": {"tuple_keys": []}}`, "validation_error", []string{"writes.tuple_keys"}},
		{"too many", `{"writes": {"tuple_keys": [` + many + `]}, "deletes": {"tuple_keys": [` + strings.ReplaceAll(many, "user:u", "user:v") + `]}}`, "exceeded_entity_limit", []string{"at most 100", "120"}},
		{"twice", `{"writes": {"tuple_keys": [` + ann + `,` + ann + `]}}`, "cannot_allow_duplicate_tuples_in_one_request", []string{"writes.tuple_keys[1]", "user:ann"}},
		{"written and deleted", `{"writes": {"tuple_keys": [` + ann + `]}, "deletes": {"tuple_keys": [` + ann + `]}}`, "cannot_allow_duplicate_tuples_in_one_request", []string{"deletes.tuple_keys[0]"}},
		{"there already", `{"writes": {"tuple_keys": [` + tuple("user:new", "owner", "doc:a") + `,` + ann + `]}}`, "write_failed_due_to_invalid_input", []string{"writes.tuple_keys[1]", "already exists", "user:ann"}},
		{"missing", `{"deletes": {"tuple_keys": [` + tuple("user:zoe", "owner", "doc:a") + `]}, "writes": {"tuple_keys": [` + tuple("user:new", "owner", "doc:a") + `]}}`, "write_failed_due_to_invalid_input", []string{"deletes.tuple_keys[0]", "does not exist", "user:zoe"}},
		{"on_duplicate", `{"writes": {"tuple_keys": [` + ann + `], "on_duplicate": "skip"}}`, "validation_error", []string{"writes.on_duplicate"}},
		{"on_missing", `{"deletes": {"tuple_keys": [` + ann + `], "on_missing": "skip"}}`, "validation_error", []string{"deletes.on_missing"}},
		{"no user", `{"writes": {"tuple_keys": [` + tuple("", "owner", "doc:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0]", "user"}},
		{"user without a type", `{"writes": {"tuple_keys": [` + tuple("ann", "owner", "doc:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0]", "user"}},
		{"object without an id", `{"writes": {"tuple_keys": [` + tuple("user:new", "owner", "doc:") + `]}}`, "validation_error", []string{"writes.tuple_keys[0]", "object"}},
		{"no such type", `{"writes": {"tuple_keys": [` + tuple("user:new", "owner", "tree:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0].object", "tree"}},
		{"no such relation", `{"writes": {"tuple_keys": [` + tuple("user:new", "chair", "doc:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0].relation", "chair"}},
		{"no such type of user", `{"writes": {"tuple_keys": [` + tuple("robot:r", "owner", "doc:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0].user", "robot"}},
		{"a user that may not", `{"writes": {"tuple_keys": [` + tuple("user:*", "owner", "doc:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0].user"}},
		{"a computed relation", `{"writes": {"tuple_keys": [` + tuple("user:new", "reader", "doc:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0].relation"}},
		{"by itself", `{"writes": {"tuple_keys": [` + tuple("group:a#member", "member", "group:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0]", "by itself"}},
		{"no condition", `{"writes": {"tuple_keys": [` + tuple("user:new", "editor", "doc:a") + `]}}`, "validation_error", []string{"writes.tuple_keys[0].condition"}},
		{"no such condition", `{"writes": {"tuple_keys": [{"user": "user:new", "relation": "editor", "object": "doc:a", "condition": {"name": "home"}}]}}`, "validation_error", []string{"writes.tuple_keys[0].condition", "home"}},
		{"context of the wrong type", `{"writes": {"tuple_keys": [{"user": "user:new", "relation": "editor", "object": "doc:a", "condition": {"name": "office", "context": {"allowed": 5}}}]}}`, "validation_error", []string{"writes.tuple_keys[0].condition.context", "allowed"}},
		{"no such model", `{"writes": {"tuple_keys": [` + tuple("user:new", "owner", "doc:a") + `]}, "authorization_model_id": "` + noStore + `"}`, "authorization_model_not_found", []string{noStore}},
		{"id of a model of the wrong form", `{"writes": {"tuple_keys": [` + tuple("user:new", "owner", "doc:a") + `]}, "authorization_model_id": "newest"}`, "validation_error", []string{"authorization_model_id"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.wantError(t, http.MethodPost, "/stores/"+store+"/write", tt.body, 400, tt.code, tt.parts...)
		})
	}
	n.wantError(t, http.MethodPost, "/stores/"+noStore+"/write", `{"writes": {"tuple_keys": [`+ann+`]}}`, 404, "store_id_not_found", noStore)
	empty := n.store(t, "")
	n.wantError(t, http.MethodPost, "/stores/"+empty+"/write", `{"writes": {"tuple_keys": [`+ann+`]}}`, 400, "latest_authorization_model_not_found", "model")

	for code, req := range map[int32]*openfgav1.WriteRequest{
		2003: {StoreId: store},
		2004: {StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys("user:new owner doc:a", "user:new owner doc:a")}},
		2017: {StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys("user:ann owner doc:a")}},
		2000: {StoreId: store, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys("user:ann owner tree:a")}},
		2001: {StoreId: store, AuthorizationModelId: noStore, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys("user:new owner doc:a")}},
		2020: {StoreId: empty, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys("user:new owner doc:a")}},
		5002: {StoreId: noStore, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys("user:new owner doc:a")}},
	} {
		_, err := n.Write(ctx, req)
		wantCode(t, err, code)
	}
	if got := n.tuples(t, store, nil, 100); got != before {
		t.Errorf("tuples = %s, want as before: %s", got, before)
	}
}

// TestWriteUnderModel holds that the model that a request names says what may be written,
// and what is not allowed by the newest is still read and deleted.
func TestWriteUnderModel(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, "")
	older := n.model(t, store, modelJSON(t, testModel))
	newer := n.model(t, store, modelJSON(t, strings.Replace(testModel, "define parent: [doc]", "define parent: [doc]\n    define chair: [user]", 1)))
	write := func(model, user, relation string) error {
		_, err := n.Write(ctx, &openfgav1.WriteRequest{StoreId: store, AuthorizationModelId: model, Writes: &openfgav1.WriteRequestWrites{TupleKeys: keys(user + " " + relation + " doc:a")}})
		return err
	}
	wantCode(t, write(older, "user:ann", "chair"), 2000, "writes.tuple_keys[0].relation", "chair")
	for user, model := range map[string]string{"user:bob": newer, "user:cid": ""} {
		if err := write(model, user, "chair"); err != nil {
			t.Errorf("write under model %q: %v", model, err)
		}
	}
	if err := write(older, "user:ann", "owner"); err != nil {
		t.Error(err)
	}
	n.model(t, store, modelJSON(t, testModel)) // without the relation again
	if got := n.tuples(t, store, nil, 100); got != "user:bob chair doc:a, user:cid chair doc:a, user:ann owner doc:a" {
		t.Errorf("tuples = %s", got)
	}
	n.delete(t, store, "user:bob chair doc:a", "user:cid chair doc:a")
	if got := n.tuples(t, store, nil, 100); got != "user:ann owner doc:a" {
		t.Errorf("tuples = %s, want the others deleted", got)
	}
}

// TestWriteIgnoring holds that what is to be ignored is, and changes nothing, not even the
// expiry of a grant that came another way.
func TestWriteIgnoring(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, modelJSON(t, testModel))
	n.write(t, store, key("user:ann owner doc:a"), inOffice("user:bob editor doc:a", "de"))
	native := grantlogv1connect.NewLedgerServiceClient(http.DefaultClient, "http://"+n.address)
	tuple := &pb.Tuple{Object: "doc:a", Relation: "owner", Subject: "user:tmp"}
	_, err := native.Submit(ctx, &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{
		{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: tuple, ExpiresAfter: durationpb.New(time.Hour), Owner: "payroll"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := n.Write(ctx, &openfgav1.WriteRequest{StoreId: store,
		Writes:  &openfgav1.WriteRequestWrites{OnDuplicate: "ignore", TupleKeys: append(keys("user:ann owner doc:a", "user:tmp owner doc:a", "user:new owner doc:a"), inOffice("user:bob editor doc:a", "de"))},
		Deletes: &openfgav1.WriteRequestDeletes{OnMissing: "ignore", TupleKeys: bare("user:zoe owner doc:a")}})
	if err != nil {
		t.Fatalf("write = %v, %v", answer, err)
	}
	all, err := n.ReadChanges(ctx, &openfgav1.ReadChangesRequest{StoreId: store})
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Changes) != 4 || all.Changes[3].TupleKey.User != "user:new" {
		t.Errorf("changes = %v, want the last to be of user:new, and none of what was ignored", all.Changes)
	}
	_, err = n.Write(ctx, &openfgav1.WriteRequest{StoreId: store,
		Writes: &openfgav1.WriteRequestWrites{OnDuplicate: "ignore", TupleKeys: []*openfgav1.TupleKey{inOffice("user:bob editor doc:a", "fr")}}})
	wantCode(t, err, 10, "writes.tuple_keys[0]", "another condition")
	n.wantError(t, http.MethodPost, "/stores/"+store+"/write", `{"writes": {"on_duplicate": "ignore", "tuple_keys": [
		{"user": "user:bob", "relation": "editor", "object": "doc:a", "condition": {"name": "office", "context": {"allowed": ["fr"]}}}]}}`, 409, "Aborted", "another condition")
}

// TestWriteAtomic has many write the same tuple at once: it is decided at its place in the
// order, so one succeeds; and if duplicates are ignored, all do.
func TestWriteAtomic(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, modelJSON(t, testModel))
	for _, on := range []string{"error", "ignore"} {
		var writers sync.WaitGroup
		failed := make([]error, 16)
		for i := range failed {
			writers.Go(func() {
				_, failed[i] = n.Write(ctx, &openfgav1.WriteRequest{StoreId: store, Writes: &openfgav1.WriteRequestWrites{OnDuplicate: on, TupleKeys: keys("user:" + on + " owner doc:a")}})
			})
		}
		writers.Wait()
		written := 0
		for _, err := range failed {
			if err == nil {
				written++
			} else if on == "error" {
				wantCode(t, err, 2017)
			} else {
				t.Errorf("write, ignoring: %v", err)
			}
		}
		if on == "error" && written != 1 {
			t.Errorf("%d of %d writes of one tuple succeeded, want 1", written, len(failed))
		}
	}
	all, err := n.ReadChanges(ctx, &openfgav1.ReadChangesRequest{StoreId: store})
	if err != nil || len(all.Changes) != 2 {
		t.Errorf("changes = %v, %v, want 2", all, err)
	}
}

func TestRead(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, modelJSON(t, testModel))
	n.write(t, store, keys("user:ann owner doc:a", "user:bob owner doc:a", "user:ann viewer doc:a", "group:eng#member viewer doc:a",
		"user:* viewer doc:a", "user:ann owner doc:b", "user:ann viewer doc:b", "user:ann member group:eng", "doc:b parent doc:a")...)
	for _, tt := range []struct {
		user, relation, object, want string
	}{
		{"", "", "", "user:ann owner doc:a, user:bob owner doc:a, doc:b parent doc:a, group:eng#member viewer doc:a, user:* viewer doc:a, user:ann viewer doc:a, user:ann owner doc:b, user:ann viewer doc:b, user:ann member group:eng"},
		{"", "", "doc:b", "user:ann owner doc:b, user:ann viewer doc:b"},
		{"", "viewer", "doc:a", "group:eng#member viewer doc:a, user:* viewer doc:a, user:ann viewer doc:a"},
		{"user:ann", "", "doc:a", "user:ann owner doc:a, user:ann viewer doc:a"},
		{"user:ann", "owner", "doc:a", "user:ann owner doc:a"},
		{"user:ann", "", "doc:", "user:ann owner doc:a, user:ann viewer doc:a, user:ann owner doc:b, user:ann viewer doc:b"},
		{"user:ann", "owner", "doc:", "user:ann owner doc:a, user:ann owner doc:b"},
		{"group:eng#member", "viewer", "doc:", "group:eng#member viewer doc:a"},
		{"user:*", "viewer", "doc:a", "user:* viewer doc:a"},
		{"user:zoe", "viewer", "doc:", ""},
		{"user:zoe", "chair", "tree:", ""},
	} {
		filter := &openfgav1.ReadRequestTupleKey{User: tt.user, Relation: tt.relation, Object: tt.object}
		for _, page := range []int32{1, 2, 100} {
			if got := n.tuples(t, store, filter, page); !sameTexts(got, tt.want) {
				t.Errorf("read %v in pages of %d = %s, want %s", filter, page, got, tt.want)
			}
		}
	}
	path := "/stores/" + store + "/read"
	got := n.must(t, 200, http.MethodPost, path, `{"tuple_key": {"user": "user:bob", "relation": "owner", "object": "doc:a"}}`)
	if !strings.HasPrefix(got, `{"tuples":[{"key":{"user":"user:bob","relation":"owner","object":"doc:a","condition":null},"timestamp":"20`) || !strings.HasSuffix(got, `Z"}],"continuation_token":""}`) {
		t.Errorf("read = %s", got)
	}

	first := n.must(t, 200, http.MethodPost, path, `{"page_size": 2}`)
	token := field(t, first, "continuation_token")
	n.delete(t, store, "user:ann member group:eng") // pages are of one revision
	second := n.must(t, 200, http.MethodPost, path, `{"page_size": 100, "continuation_token": "`+token+`"}`)
	if strings.Count(second, `"key"`) != 7 || !strings.Contains(second, `"group:eng"`) {
		t.Errorf("second page = %s, want the 7 other tuples of the first page's revision", second)
	}
	other := n.store(t, modelJSON(t, testModel))
	for _, tt := range []struct{ name, store, body, code, part string }{
		{"of another question", store, `{"tuple_key": {"object": "doc:a"}, "continuation_token": "` + token + `"}`, "invalid_continuation_token", "continuation_token"},
		{"of another store", other, `{"continuation_token": "` + token + `"}`, "invalid_continuation_token", "continuation_token"},
		{"changed", store, `{"continuation_token": "` + token[:len(token)-4] + `AAAA"}`, "invalid_continuation_token", "continuation_token"},
		{"made up", store, `{"continuation_token": "abcd"}`, "invalid_continuation_token", "continuation_token"},
		{"no token", store, `{"continuation_token": "a b"}`, "validation_error", "continuation_token"},
		{"page size", store, `{"page_size": 0}`, "page_size_invalid", "page_size"},
		{"relation alone", store, `{"tuple_key": {"relation": "owner"}}`, "validation_error", "tuple_key"},
		{"type alone", store, `{"tuple_key": {"object": "doc:"}}`, "validation_error", "tuple_key"},
		{"user alone", store, `{"tuple_key": {"user": "user:ann"}}`, "validation_error", "tuple_key"},
		{"object without a type", store, `{"tuple_key": {"object": "plan"}}`, "validation_error", "tuple_key"},
		{"user without a type", store, `{"tuple_key": {"object": "doc:", "user": "ann"}}`, "validation_error", "tuple_key.user"},
	} {
		n.wantError(t, http.MethodPost, "/stores/"+tt.store+"/read", tt.body, 400, tt.code, tt.part)
	}
	n.wantError(t, http.MethodPost, "/stores/"+noStore+"/read", `{}`, 404, "store_id_not_found", noStore)
	_, err := n.Read(ctx, &openfgav1.ReadRequest{StoreId: store, ContinuationToken: "abcd"})
	wantCode(t, err, 2007, "continuation_token")

	// Whoever makes up a token does not leave the question with it.
	ofDoc, err := n.Read(ctx, &openfgav1.ReadRequest{StoreId: store, TupleKey: &openfgav1.ReadRequestTupleKey{Object: "doc:a"}, PageSize: wrapperspb.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	made, err := query.ParsePageToken(ofDoc.ContinuationToken)
	if err != nil {
		t.Fatal(err)
	}
	made.After = "doc:b#owner@user:ann"
	_, err = n.Read(ctx, &openfgav1.ReadRequest{StoreId: store, TupleKey: &openfgav1.ReadRequestTupleKey{Object: "doc:a"}, ContinuationToken: made.String()})
	wantCode(t, err, 2007, "continuation_token")
}

// sameTexts compares lists of tuples, whose order the API leaves open.
func sameTexts(a, b string) bool {
	in := make(map[string]int)
	for _, text := range strings.Split(a, ", ") {
		in[text]++
	}
	for _, text := range strings.Split(b, ", ") {
		in[text]--
	}
	for _, n := range in {
		if n != 0 {
			return false
		}
	}
	return true
}

// changes reads all changes from a token on in pages, as text, and returns the last token.
func (n *node) changes(t testing.TB, store, typ, token string, page int32) (string, string) {
	t.Helper()
	var all []string
	for {
		answer, err := n.ReadChanges(context10(t), &openfgav1.ReadChangesRequest{StoreId: store, Type: typ, ContinuationToken: token, PageSize: wrapperspb.Int32(page)})
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Changes) == 0 {
			again, err := n.ReadChanges(context10(t), &openfgav1.ReadChangesRequest{StoreId: store, Type: typ, ContinuationToken: answer.ContinuationToken})
			if err != nil || len(again.Changes) != 0 || again.ContinuationToken != answer.ContinuationToken {
				t.Errorf("after the last change: %v, %v, want none and the same token for ever", again, err)
			}
			return strings.Join(all, ", "), answer.ContinuationToken
		}
		token = answer.ContinuationToken
		for _, c := range answer.Changes {
			sign := map[openfgav1.TupleOperation]string{openfgav1.TupleOperation_TUPLE_OPERATION_WRITE: "+", openfgav1.TupleOperation_TUPLE_OPERATION_DELETE: "-"}[c.Operation]
			all = append(all, sign+c.TupleKey.User+" "+c.TupleKey.Relation+" "+c.TupleKey.Object+c.TupleKey.GetCondition().GetName())
		}
	}
}

func TestReadChanges(t *testing.T) {
	n := newNode(t)
	store := n.store(t, modelJSON(t, testModel))
	path := "/stores/" + store + "/changes"
	if got := n.must(t, 200, http.MethodGet, path, ""); !strings.HasPrefix(got, `{"changes":[],"continuation_token":"`) {
		t.Errorf("changes = %s, want none, with its fields", got)
	}
	n.write(t, store, key("user:ann owner doc:a"), key("user:ann member group:eng"), inOffice("user:bob editor doc:a", "de"))
	n.delete(t, store, "user:ann owner doc:a")
	n.wantError(t, http.MethodPost, "/stores/"+store+"/write", `{"deletes": {"tuple_keys": [{"user": "user:ann", "relation": "owner", "object": "doc:a"}]}}`, 400, "write_failed_due_to_invalid_input")
	time.Sleep(2 * time.Millisecond) // the clock must move on between two moments
	middle := time.Now()
	n.write(t, store, key("user:ann owner doc:a"))
	const want = "+user:ann owner doc:a, +user:ann member group:eng, +user:bob editor doc:aoffice, -user:ann owner doc:a, +user:ann owner doc:a"
	var last string
	for _, page := range []int32{1, 2, 3, 100} {
		var got string
		if got, last = n.changes(t, store, "", "", page); got != want {
			t.Errorf("changes in pages of %d = %s, want %s", page, got, want)
		}
		if got, _ := n.changes(t, store, "group", "", page); got != "+user:ann member group:eng" {
			t.Errorf("changes of groups in pages of %d = %s", page, got)
		}
	}
	n.write(t, store, key("user:new owner doc:a"))
	if got, _ := n.changes(t, store, "", last, 2); got != "+user:new owner doc:a" {
		t.Errorf("changes after the last token = %s, want the new one", got)
	}
	got := n.must(t, 200, http.MethodGet, path+"?page_size=1", "")
	if !strings.HasPrefix(got, `{"changes":[{"tuple_key":{"user":"user:ann","relation":"owner","object":"doc:a","condition":null},"operation":"TUPLE_OPERATION_WRITE","timestamp":"20`) {
		t.Errorf("changes = %s", got)
	}
	token := field(t, got, "continuation_token")
	since, err := n.ReadChanges(context10(t), &openfgav1.ReadChangesRequest{StoreId: store, StartTime: timestamppb.New(middle)})
	if err != nil || len(since.Changes) != 2 {
		t.Errorf("changes since a time = %v, %v, want 2", since, err)
	}
	wins, err := n.ReadChanges(context10(t), &openfgav1.ReadChangesRequest{StoreId: store, StartTime: timestamppb.New(middle), ContinuationToken: token})
	if err != nil || len(wins.Changes) != 5 {
		t.Errorf("changes after a token, whatever the start time = %v, %v, want 5", wins, err)
	}

	other := n.store(t, "")
	n.wantError(t, http.MethodGet, path+"?type=doc&continuation_token="+token, "", 400, "query_string_type_continuation_token_mismatch", "type")
	n.wantError(t, http.MethodGet, "/stores/"+other+"/changes?continuation_token="+token, "", 400, "invalid_continuation_token", "continuation_token")
	n.wantError(t, http.MethodGet, path+"?continuation_token=abcd", "", 400, "invalid_continuation_token", "continuation_token")
	n.wantError(t, http.MethodGet, path+"?page_size=0", "", 400, "validation_error", "page_size")
	n.wantError(t, http.MethodGet, path+"?start_time=2999-01-01T00:00:00Z", "", 400, "validation_error", "start_time")
	n.wantError(t, http.MethodGet, "/stores/"+noStore+"/changes", "", 404, "store_id_not_found", noStore)
	_, err = n.ReadChanges(context10(t), &openfgav1.ReadChangesRequest{StoreId: store, ContinuationToken: "abcd"})
	wantCode(t, err, 2007, "continuation_token")
}

// TestReadLater moves the server's clock: a grant whose expiry has come is not read, and a
// token is good for an hour. Changes know neither.
func TestReadLater(t *testing.T) {
	var later atomic.Int64
	n := newNode(t, func(c *serve.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	ctx := context10(t)
	store := n.store(t, modelJSON(t, testModel))
	n.write(t, store, keys("user:ann owner doc:a", "user:bob owner doc:a")...)
	_, err := grantlogv1connect.NewLedgerServiceClient(http.DefaultClient, "http://"+n.address).Submit(ctx, &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{
		{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: &pb.Tuple{Object: "doc:a", Relation: "owner", Subject: "user:aaa"}, ExpiresAfter: durationpb.New(30 * time.Minute)}}},
		{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: &pb.Tuple{Object: "doc:a", Relation: "owner", Subject: "user:zzz"}, NotBefore: timestamppb.New(time.Now().Add(24 * time.Hour))}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := n.tuples(t, store, nil, 1); got != "user:aaa owner doc:a, user:ann owner doc:a, user:bob owner doc:a, user:zzz owner doc:a" {
		t.Errorf("tuples = %s, want what exists, begun or not", got)
	}
	_, at := n.changes(t, store, "", "", 100)
	page, err := n.Read(ctx, &openfgav1.ReadRequest{StoreId: store, PageSize: wrapperspb.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	later.Store(int64(59 * time.Minute))
	if got := n.tuples(t, store, nil, 1); got != "user:ann owner doc:a, user:bob owner doc:a, user:zzz owner doc:a" {
		t.Errorf("tuples = %s, want none whose expiry has come", got)
	}
	next := &openfgav1.ReadRequest{StoreId: store, ContinuationToken: page.ContinuationToken}
	if rest, err := n.Read(ctx, next); err != nil || len(rest.Tuples) != 3 {
		t.Errorf("the second page = %v, %v, want the other 3 of the first page's moment", rest, err)
	}
	later.Store(int64(61 * time.Minute))
	n.wantError(t, http.MethodPost, "/stores/"+store+"/read", `{"continuation_token": "`+page.ContinuationToken+`"}`, 400, "invalid_continuation_token", "has expired", "1h")
	if got, _ := n.changes(t, store, "", at, 100); got != "" {
		t.Errorf("changes = %s, want none for an expiry", got)
	}
}

// TestNames holds that names which OpenFGA's users have are written, read and asked as
// they are.
func TestNames(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, modelJSON(t, testModel))
	for _, user := range []string{"user:ann@example.com", "user:auth0|5f7c8ec7c33c6c004bbafe82", "user:a/b/c", "user:ann+test", "user:ünal", "user:" + strings.Repeat("a", 200)} {
		for _, object := range []string{"doc:a@b", "doc:2024/plan.txt", "doc:" + strings.Repeat("b", 200), "doc:a=b&c"} {
			n.write(t, store, &openfgav1.TupleKey{User: user, Relation: "owner", Object: object})
			filter := &openfgav1.ReadRequestTupleKey{User: user, Relation: "owner", Object: object}
			if got, want := n.tuples(t, store, filter, 1), user+" owner "+object; got != want {
				t.Errorf("read = %q, want %q", got, want)
			}
			answer, err := n.Check(ctx, &openfgav1.CheckRequest{StoreId: store, TupleKey: &openfgav1.CheckRequestTupleKey{User: user, Relation: "viewer", Object: object}})
			if err != nil || !answer.Allowed {
				t.Errorf("check %s %s = %v, %v, want allowed", user, object, answer, err)
			}
		}
	}
	for _, tt := range []struct{ user, object, part string }{
		{"user:a:b", "doc:a", "user"}, {"user:a#b#c", "doc:a", "user"}, {"user:ann", "doc:a:b", "object"}, {"user:ann", "doc:a#b", "object"},
		{"user:ann", "doc:*", "object"}, {"user:a b", "doc:a", "user"}, {"user:ann", "doc:a b", "object"},
	} {
		n.wantError(t, http.MethodPost, "/stores/"+store+"/write", fmt.Sprintf(`{"writes": {"tuple_keys": [{"user": %q, "relation": "owner", "object": %q}]}}`, tt.user, tt.object),
			400, map[bool]string{false: "validation_error", true: "object_invalid_pattern"}[tt.object == "doc:a b"], "writes.tuple_keys[0]", tt.part)
	}
}
