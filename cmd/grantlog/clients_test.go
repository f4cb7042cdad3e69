package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	openfga "github.com/openfga/go-sdk"
	sdk "github.com/openfga/go-sdk/client"
)

// clientServer runs the real binary until the test ends.
func clientServer(t *testing.T) *process {
	t.Helper()
	p, err := startServer(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// unreachable is what npm says where there is no way to its registry.
var unreachable = regexp.MustCompile(`npm (?:error|ERR!) code (?:ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED)\b`)

// TestClientJavaScript takes the official JavaScript SDK through all operations of the
// OpenFGA API; what is asserted is in ops/openfga/sdk.mjs. It is skipped where there is no
// Node.js or no way to the npm registry, but not with CI in the environment: there that
// is a failure.
func TestClientJavaScript(t *testing.T) {
	absent, patience := t.Skipf, []string{"--fetch-retries=1", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000", "--fetch-timeout=20000"}
	if os.Getenv("CI") != "" {
		absent, patience = t.Fatalf, nil // as npm has it
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			absent("the JavaScript SDK is not run: %v", err)
		}
	}
	dir := t.TempDir() // so that nothing is left in the checkout
	for _, name := range []string{"package.json", "package-lock.json", "sdk.mjs"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "ops", "openfga", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", append([]string{"ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--logs-max=0"}, patience...)...)
	npm.Dir = dir
	switch out, err := npm.CombinedOutput(); {
	case err != nil && (unreachable.Match(out) || ctx.Err() != nil):
		absent("the JavaScript SDK is not run, npm ci cannot install it: %v\n%s", err, out)
	case err != nil:
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	p := clientServer(t)
	node := exec.CommandContext(ctx, "node", "sdk.mjs")
	node.Dir, node.Env = dir, append(os.Environ(), "GRANTLOG_SERVER="+p.url)
	out, err := node.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "18 operations\n") {
		t.Errorf("node sdk.mjs: %v\n%s", err, out)
	}
}

// operations are all of the OpenFGA API, as requests.
var operations = []string{
	"POST /stores", "GET /stores", "GET /stores/S", "DELETE /stores/S",
	"POST /stores/S/authorization-models", "GET /stores/S/authorization-models", "GET /stores/S/authorization-models/M",
	"POST /stores/S/write", "POST /stores/S/read", "GET /stores/S/changes",
	"POST /stores/S/check", "POST /stores/S/batch-check",
	"POST /stores/S/list-objects", "POST /stores/S/streamed-list-objects", "POST /stores/S/list-users", "POST /stores/S/expand",
	"PUT /stores/S/assertions/M", "GET /stores/S/assertions/M",
}

// A sentRequests is a transport that notes which operations were sent.
type sentRequests struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (s *sentRequests) RoundTrip(r *http.Request) (*http.Response, error) {
	parts := strings.Split(r.URL.Path, "/")
	for i, name := range map[int]string{2: "S", 4: "M"} {
		if i < len(parts) {
			parts[i] = name
		}
	}
	s.mu.Lock()
	s.seen[r.Method+" "+strings.Join(parts, "/")] = true
	s.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

const clientModel = `{
  "schema_version": "1.1",
  "type_definitions": [
    {"type": "user"},
    {"type": "group", "relations": {"member": {"this": {}}},
     "metadata": {"relations": {"member": {"directly_related_user_types": [{"type": "user"}]}}}},
    {"type": "document",
     "relations": {"owner": {"this": {}}, "viewer": {"union": {"child": [{"this": {}}, {"computedUserset": {"relation": "owner"}}]}}},
     "metadata": {"relations": {
       "owner": {"directly_related_user_types": [{"type": "user"}]},
       "viewer": {"directly_related_user_types": [{"type": "user"}, {"type": "user", "condition": "office"}, {"type": "group", "relation": "member"}]}}}}],
  "conditions": {"office": {"name": "office", "expression": "hour >= opens",
    "parameters": {"hour": {"type_name": "TYPE_NAME_INT"}, "opens": {"type_name": "TYPE_NAME_INT"}}}}
}`

// TestClientGo takes the official Go SDK through all operations of the OpenFGA API.
func TestClientGo(t *testing.T) {
	p := clientServer(t)
	sent := &sentRequests{seen: make(map[string]bool)}
	connect := func(store, model string) *sdk.OpenFgaClient {
		t.Helper()
		c, err := sdk.NewSdkClient(&sdk.ClientConfiguration{ApiUrl: p.url, StoreId: store, AuthorizationModelId: model,
			HTTPClient: &http.Client{Transport: sent}, RetryParams: &openfga.RetryParams{MaxRetry: 1, MinWaitInMs: 100}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx := t.Context()
	// must ends the test with an error, and equal says what is not as it should be.
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	equal := func(what string, got, want any) {
		t.Helper()
		g, err := json.Marshal(got)
		must(what, err)
		w, err := json.Marshal(want)
		must(what, err)
		if string(g) != string(w) {
			t.Errorf("%s = %s, want %s", what, g, w)
		}
	}
	invalid := func(what string, err error, code openfga.ErrorCode) {
		t.Helper()
		var e openfga.FgaApiValidationError
		if !errors.As(err, &e) || e.ResponseCode() != code {
			t.Errorf("%s: %T %v, want a validation error with code %s", what, err, err, code)
		}
	}
	notFound := func(what string, err error) {
		t.Helper()
		var e openfga.FgaApiNotFoundError
		if !errors.As(err, &e) || e.ResponseCode() != openfga.NOTFOUNDERRORCODE_STORE_ID_NOT_FOUND {
			t.Errorf("%s: %T %v, want not found, store_id_not_found", what, err, err)
		}
	}

	// Stores.
	created, err := connect("", "").CreateStore(ctx).Body(sdk.ClientCreateStoreRequest{Name: "acme"}).Execute()
	must("CreateStore", err)
	store := created.Id
	c := connect(store, "")
	got, err := c.GetStore(ctx).Execute()
	must("GetStore", err)
	equal("GetStore", []string{got.Id, got.Name}, []string{store, "acme"})
	stores, err := c.ListStores(ctx).Options(sdk.ClientListStoresOptions{PageSize: openfga.PtrInt32(10)}).Execute()
	must("ListStores", err)
	equal("ListStores", len(stores.Stores), 1)
	_, err = connect("01HZZZZZZZZZZZZZZZZZZZZZZZ", "").GetStore(ctx).Execute()
	notFound("GetStore of none", err)

	// Models.
	_, err = c.Check(ctx).Body(sdk.ClientCheckRequest{User: "user:anne", Relation: "viewer", Object: "document:plan"}).Execute()
	invalid("Check without a model", err, openfga.ERRORCODE_LATEST_AUTHORIZATION_MODEL_NOT_FOUND)
	var source sdk.ClientWriteAuthorizationModelRequest
	must("the model", json.Unmarshal([]byte(clientModel), &source))
	written, err := c.WriteAuthorizationModel(ctx).Body(source).Execute()
	must("WriteAuthorizationModel", err)
	model := written.AuthorizationModelId
	c = connect(store, model)
	read, err := c.ReadAuthorizationModel(ctx).Execute()
	must("ReadAuthorizationModel", err)
	equal("ReadAuthorizationModel", []any{read.AuthorizationModel.Id, len(read.AuthorizationModel.TypeDefinitions)}, []any{model, 3})
	equal("the model's condition", (*read.AuthorizationModel.Conditions)["office"].Expression, "hour >= opens")
	models, err := c.ReadAuthorizationModels(ctx).Execute()
	must("ReadAuthorizationModels", err)
	equal("ReadAuthorizationModels", len(models.AuthorizationModels), 1)
	latest, err := c.ReadLatestAuthorizationModel(ctx).Execute()
	must("ReadLatestAuthorizationModel", err)
	equal("ReadLatestAuthorizationModel", latest.AuthorizationModel.Id, model)

	// Tuples.
	opens := map[string]any{"opens": 9}
	writes := sdk.ClientWriteRequest{Writes: []sdk.ClientTupleKey{
		{User: "user:anne", Relation: "owner", Object: "document:plan"},
		{User: "user:bob", Relation: "member", Object: "group:eng"},
		{User: "group:eng#member", Relation: "viewer", Object: "document:plan"},
		{User: "user:cat", Relation: "viewer", Object: "document:plan", Condition: &openfga.RelationshipCondition{Name: "office", Context: &opens}},
	}}
	_, err = c.Write(ctx).Body(writes).Execute()
	must("Write", err)
	_, err = c.Write(ctx).Body(writes).Execute()
	invalid("Write of what is there", err, openfga.ERRORCODE_WRITE_FAILED_DUE_TO_INVALID_INPUT)
	_, err = c.Write(ctx).Body(writes).Options(sdk.ClientWriteOptions{Conflict: sdk.ClientWriteConflictOptions{
		OnDuplicateWrites: sdk.CLIENT_WRITE_REQUEST_ON_DUPLICATE_WRITES_IGNORE}}).Execute()
	must("Write, ignoring what is there", err)
	none := sdk.ClientWriteRequest{Deletes: []sdk.ClientTupleKeyWithoutCondition{{User: "user:zoe", Relation: "owner", Object: "document:plan"}}}
	_, err = c.Write(ctx).Body(none).Execute()
	invalid("Write that deletes what is not there", err, openfga.ERRORCODE_WRITE_FAILED_DUE_TO_INVALID_INPUT)
	_, err = c.Write(ctx).Body(none).Options(sdk.ClientWriteOptions{Conflict: sdk.ClientWriteConflictOptions{
		OnMissingDeletes: sdk.CLIENT_WRITE_REQUEST_ON_MISSING_DELETES_IGNORE}}).Execute()
	must("Write, ignoring what is not there", err)
	_, err = c.Write(ctx).Body(sdk.ClientWriteRequest{Writes: []sdk.ClientTupleKey{{User: "user:x", Relation: "owner", Object: "folder:x"}}}).Execute()
	invalid("Write of an unknown type", err, openfga.ERRORCODE_VALIDATION_ERROR)

	var users []string
	for token := ""; ; {
		page, err := c.Read(ctx).Body(sdk.ClientReadRequest{Object: openfga.PtrString("document:plan")}).
			Options(sdk.ClientReadOptions{PageSize: openfga.PtrInt32(1), ContinuationToken: &token}).Execute()
		must("Read", err)
		for _, tuple := range page.Tuples {
			users = append(users, tuple.Key.User)
		}
		if token = page.ContinuationToken; token == "" {
			break
		}
	}
	slices.Sort(users)
	equal("Read", users, []string{"group:eng#member", "user:anne", "user:cat"})
	changes, err := c.ReadChanges(ctx).Body(sdk.ClientReadChangesRequest{Type: "document"}).Execute()
	must("ReadChanges", err)
	equal("ReadChanges", len(changes.Changes), 3)
	_, err = c.ReadChanges(ctx).Body(sdk.ClientReadChangesRequest{}).Options(sdk.ClientReadChangesOptions{ContinuationToken: openfga.PtrString("bm90IGEgdG9rZW4=")}).Execute()
	invalid("ReadChanges after a foreign token", err, openfga.ERRORCODE_INVALID_CONTINUATION_TOKEN)

	// Questions.
	hour := map[string]any{"hour": 10}
	zoe := []sdk.ClientContextualTupleKey{{User: "user:zoe", Relation: "member", Object: "group:eng"}}
	for _, tt := range []struct {
		user string
		more sdk.ClientCheckRequest
		want bool
	}{
		{"user:anne", sdk.ClientCheckRequest{}, true},
		{"user:bob", sdk.ClientCheckRequest{}, true},
		{"user:zoe", sdk.ClientCheckRequest{}, false},
		{"user:zoe", sdk.ClientCheckRequest{ContextualTuples: zoe}, true},
		{"user:cat", sdk.ClientCheckRequest{Context: &hour}, true},
	} {
		tt.more.User, tt.more.Relation, tt.more.Object = tt.user, "viewer", "document:plan"
		r, err := c.Check(ctx).Body(tt.more).Options(sdk.ClientCheckOptions{Consistency: openfga.CONSISTENCYPREFERENCE_HIGHER_CONSISTENCY.Ptr()}).Execute()
		must("Check of "+tt.user, err)
		equal("Check of "+tt.user, r.GetAllowed(), tt.want)
	}
	_, err = c.Check(ctx).Body(sdk.ClientCheckRequest{User: "user:anne", Relation: "editor", Object: "document:plan"}).Execute()
	invalid("Check of an unknown relation", err, openfga.ERRORCODE_VALIDATION_ERROR)
	_, err = c.Check(ctx).Body(sdk.ClientCheckRequest{User: "user:anne", Relation: "viewer", Object: "document:plan"}).
		Options(sdk.ClientCheckOptions{AuthorizationModelId: openfga.PtrString("01HZZZZZZZZZZZZZZZZZZZZZZZ")}).Execute()
	invalid("Check under an unknown model", err, openfga.ERRORCODE_AUTHORIZATION_MODEL_NOT_FOUND)
	batch, err := c.BatchCheck(ctx).Body(sdk.ClientBatchCheckRequest{Checks: []sdk.ClientBatchCheckItem{
		{User: "user:anne", Relation: "viewer", Object: "document:plan", CorrelationId: "yes"},
		{User: "user:zoe", Relation: "viewer", Object: "document:plan", CorrelationId: "no"},
		{User: "user:zoe", Relation: "editor", Object: "document:plan", CorrelationId: "wrong"},
	}}).Execute()
	must("BatchCheck", err)
	items := batch.GetResult()
	yes, no, wrong := items["yes"], items["no"], items["wrong"]
	if !yes.GetAllowed() || no.GetAllowed() || no.Allowed == nil || wrong.Error == nil {
		t.Errorf("BatchCheck = %+v, want one allowed, one denied, one error", items)
	}
	objects, err := c.ListObjects(ctx).Body(sdk.ClientListObjectsRequest{User: "user:anne", Relation: "viewer", Type: "document"}).Execute()
	must("ListObjects", err)
	equal("ListObjects", objects.Objects, []string{"document:plan"})
	stream, err := c.StreamedListObjects(ctx).Body(sdk.ClientStreamedListObjectsRequest{User: "user:anne", Relation: "viewer", Type: "document"}).Execute()
	must("StreamedListObjects", err)
	var streamed []string
	for o := range stream.Objects {
		streamed = append(streamed, o.Object)
	}
	must("StreamedListObjects", <-stream.Errors)
	equal("StreamedListObjects", streamed, []string{"document:plan"})
	list, err := c.ListUsers(ctx).Body(sdk.ClientListUsersRequest{Object: openfga.FgaObject{Type: "document", Id: "plan"}, Relation: "viewer",
		UserFilters: []openfga.UserTypeFilter{{Type: "user"}}, Context: &hour, ContextualTuples: zoe}).Execute()
	must("ListUsers", err)
	var ids []string
	for _, u := range list.Users {
		ids = append(ids, u.GetObject().Id)
	}
	slices.Sort(ids)
	equal("ListUsers", ids, []string{"anne", "bob", "cat", "zoe"})
	tree, err := c.Expand(ctx).Body(sdk.ClientExpandRequest{Relation: "viewer", Object: "document:plan"}).Execute()
	must("Expand", err)
	equal("Expand", len(tree.Tree.Root.Union.Nodes), 2)

	// Assertions.
	_, err = c.WriteAssertions(ctx).Body([]sdk.ClientAssertion{{User: "user:anne", Relation: "viewer", Object: "document:plan", Expectation: true}}).Execute()
	must("WriteAssertions", err)
	assertions, err := c.ReadAssertions(ctx).Execute()
	must("ReadAssertions", err)
	equal("ReadAssertions", len(assertions.GetAssertions()), 1)

	_, err = c.DeleteStore(ctx).Execute()
	must("DeleteStore", err)
	_, err = c.GetStore(ctx).Execute()
	notFound("GetStore of a deleted one", err)

	for _, o := range operations {
		if !sent.seen[o] {
			t.Errorf("%s was never sent", o)
		}
	}
}
