package openfga_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/query/openfga"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

const noStore = "01HZX3V5N8K2Q7R4T6W9Y1B3D5"

func TestOwns(t *testing.T) {
	for path, want := range map[string]bool{
		"/stores": true, "/stores/": true, "/stores/X": true, "/stores/X/check": true, "/stores//check": true,
		"/openfga.v1.OpenFGAService/Check": true, "/stores/X/authorization-models/access": true,
		"/stores/X/access/v1/evaluation": false, "/storesX": false, "/": false, "": false,
		"/grantlog.v1.StoreService/ListStores": false,
	} {
		if got := openfga.Owns(path); got != want {
			t.Errorf("Owns(%q) = %t, want %t", path, got, want)
		}
	}
}

// TestFields holds the rules of fields over both transports, where one method shares them.
func TestFields(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	const long = "0123456789012345678901234567890123456789012345678901234567890"
	for _, tt := range []struct {
		name, method, path, body, code string
		status                         int
		parts                          []string
	}{
		{"no such path", http.MethodGet, "/stores/x/y/z", "", "undefined_endpoint", 404, []string{"/stores/x/y/z"}},
		{"no such method", http.MethodPatch, "/stores", "", "undefined_endpoint", 404, []string{"PATCH"}},
		{"no JSON", http.MethodPost, "/stores", `{"name": "acme"`, "validation_error", 400, []string{"malformed JSON"}},
		{"wrong type", http.MethodPost, "/stores", `{"name": 5}`, "validation_error", 400, []string{"malformed JSON", "name"}},
		{"name too short", http.MethodPost, "/stores", `{"name": "a"}`, "validation_error", 400, []string{"name: value does not match"}},
		{"no id", http.MethodPost, "/stores//check", `{}`, "validation_error", 400, []string{"store_id: value does not match"}},
		{"id of the wrong form", http.MethodGet, "/stores/acme", "", "validation_error", 400, []string{"store_id: value does not match"}},
		{"page size", http.MethodGet, "/stores?page_size=101", "", "page_size_invalid", 400, []string{"page_size: value must be inside range [1, 100]"}},
		{"no page size", http.MethodGet, "/stores?page_size=many", "", "validation_error", 400, []string{`page_size: "many" is not a whole number`}},
		{"no tuple", http.MethodPost, "/stores/" + noStore + "/check", `{}`, "tuple_key_value_not_specified", 400, []string{"tuple_key: value is required"}},
		{"relation too long", http.MethodPost, "/stores/" + noStore + "/check", `{"tuple_key": {"user": "user:ann", "relation": "` + long + `", "object": "doc:a"}}`,
			"validation_error", 400, []string{"tuple_key.relation: value does not match"}},
		{"no moment", http.MethodGet, "/stores/" + noStore + "/changes?start_time=yesterday", "", "validation_error", 400, []string{"start_time", "yesterday"}},
		{"no subtract", http.MethodPost, "/stores/" + noStore + "/authorization-models",
			`{"schema_version": "1.1", "type_definitions": [{"type": "doc", "relations": {"viewer": {"difference": {"base": {"this": {}}}}}}]}`,
			"subtract_base_missing_value", 400, []string{"type_definitions[0].relations[viewer].difference.subtract: value is required"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.wantError(t, tt.method, tt.path, tt.body, tt.status, tt.code, tt.parts...)
		})
	}
	_, err := n.Check(ctx, &openfgav1.CheckRequest{StoreId: noStore})
	wantCode(t, err, 2037, "tuple_key: value is required")
	_, err = n.GetStore(ctx, &openfgav1.GetStoreRequest{StoreId: "acme"})
	wantCode(t, err, 2000, "store_id: value does not match")
	stream, err := n.StreamedListObjects(ctx, &openfgav1.StreamedListObjectsRequest{StoreId: noStore, Type: "doc", Relation: "viewer", User: "user:ann", AuthorizationModelId: "x"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, 2000, "authorization_model_id: value does not match")
}

// TestContentEncoding holds that a body that is encoded is refused, by the name of what is
// wrong with it, and not read as if it were not.
func TestContentEncoding(t *testing.T) {
	n := newNode(t)
	for coding, want := range map[string]int{"gzip": 400, "br": 400, "identity, gzip": 400, "identity": 201, "Identity": 201, "": 201} {
		req, err := http.NewRequestWithContext(context10(t), http.MethodPost, "http://"+n.address+"/stores", strings.NewReader(`{"name": "acme"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Encoding", coding)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || want == 400 && !strings.Contains(string(answer), "Content-Encoding: must be identity") {
			t.Errorf("Content-Encoding %q: %d %s, %v, want %d", coding, resp.StatusCode, answer, err, want)
		}
	}
}

// TestUnavailable holds that a replica that cannot answer says so, and never a denial, an
// empty list or a write that may not be.
func TestUnavailable(t *testing.T) {
	n := newNode(t)
	store := n.store(t, modelJSON(t, testModel))
	n.write(t, store, key("user:ann owner doc:a"))
	write := `{"writes": {"tuple_keys": [{"user": "user:bob", "relation": "owner", "object": "doc:a"}]}}`
	n.log.NextAppends(ledgertest.Fault{Kind: ledgertest.Refuse}, ledgertest.Fault{Kind: ledgertest.Refuse})
	n.wantError(t, http.MethodPost, "/stores/"+store+"/write", write, 500, "unavailable", "refused")

	n.log.OnAppend(func(string, []byte) ledgertest.Fault { return ledgertest.Fault{Kind: ledgertest.LoseMessage} })
	status, answer := n.do(t, http.MethodPost, "/stores/"+store+"/write", write)
	if status != 500 || !strings.Contains(answer, `"code":"aborted"`) || !strings.Contains(answer, "the command's id is") {
		t.Errorf("write without an answer of the log = %d %s, want aborted with the command's id", status, answer)
	}
	n.log.OnAppend(nil)

	n.log.Rewind(2)
	for i := 0; n.projector.Quarantine() == nil; i++ {
		if i > 1000 {
			t.Fatal("no quarantine")
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, tt := range []struct{ method, path, body string }{
		{http.MethodGet, "/stores", ""},
		{http.MethodGet, "/stores/" + store, ""},
		{http.MethodDelete, "/stores/" + store, ""},
		{http.MethodPost, "/stores", `{"name": "acme"}`},
		{http.MethodGet, "/stores/" + store + "/authorization-models", ""},
		{http.MethodPost, "/stores/" + store + "/write", write},
		{http.MethodPost, "/stores/" + store + "/read", `{}`},
		{http.MethodGet, "/stores/" + store + "/changes", ""},
		{http.MethodPost, "/stores/" + store + "/check", `{"tuple_key": {"user": "user:zoe", "relation": "viewer", "object": "doc:a"}}`},
		{http.MethodPost, "/stores/" + store + "/list-objects", `{"user": "user:zoe", "relation": "viewer", "type": "doc"}`},
	} {
		n.wantError(t, tt.method, tt.path, tt.body, 500, "unavailable", "rewound")
	}
}
