package openfga_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// store creates a store, with a model unless it is "".
func (n *node) store(t testing.TB, model string) string {
	t.Helper()
	id := field(t, n.must(t, http.StatusCreated, http.MethodPost, "/stores", `{"name": "acme"}`), "id")
	if model != "" {
		n.model(t, id, model)
	}
	return id
}

// model writes a model and returns its id.
func (n *node) model(t testing.TB, store, model string) string {
	t.Helper()
	return field(t, n.must(t, http.StatusCreated, http.MethodPost, "/stores/"+store+"/authorization-models", model), "authorization_model_id")
}

func TestStores(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	if got := n.must(t, 200, http.MethodGet, "/stores", ""); got != `{"stores":[],"continuation_token":""}` {
		t.Errorf("stores = %s, want none, with its fields", got)
	}
	created := n.must(t, 201, http.MethodPost, "/stores", `{"name": "acme", "unknown": {"field": 1}}`)
	id := field(t, created, "id")
	if len(id) != 26 || field(t, created, "name") != "acme" || field(t, created, "created_at") != field(t, created, "updated_at") {
		t.Errorf("created = %s", created)
	}
	got := n.must(t, 200, http.MethodGet, "/stores/"+id, "")
	if field(t, got, "id") != id || field(t, got, "name") != "acme" || !strings.Contains(got, `"deleted_at":null`) {
		t.Errorf("get = %s, want the store", got)
	}
	for i := range 4 {
		if _, err := n.CreateStore(ctx, &openfgav1.CreateStoreRequest{Name: fmt.Sprintf("other-%d", i%2)}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	token := ""
	for {
		page, err := n.ListStores(ctx, &openfgav1.ListStoresRequest{PageSize: wrapperspb.Int32(2), ContinuationToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Stores {
			names = append(names, s.Name)
		}
		if token = page.ContinuationToken; token == "" {
			break
		}
		n.wantError(t, http.MethodGet, "/stores?name=acme&continuation_token="+token, "", 400, "invalid_continuation_token", "continuation_token")
		n.wantError(t, http.MethodGet, "/stores?continuation_token="+token[:len(token)-2]+"AA", "", 400, "invalid_continuation_token")
		n.wantError(t, http.MethodGet, "/stores/"+id+"/authorization-models?continuation_token="+token, "", 400, "invalid_continuation_token")
	}
	if fmt.Sprint(names) != "[acme other-0 other-1 other-0 other-1]" {
		t.Errorf("stores in pages = %v", names)
	}
	named := n.must(t, 200, http.MethodGet, "/stores?name=other-1&page_size=100", "")
	if strings.Count(named, `"name":"other-1"`) != 2 || strings.Contains(named, "other-0") {
		t.Errorf("stores of a name = %s", named)
	}
	n.wantError(t, http.MethodGet, "/stores?continuation_token=!", "", 400, "validation_error", "continuation_token")

	if got := n.must(t, 204, http.MethodDelete, "/stores/"+id, ""); got != "" {
		t.Errorf("delete = %q, want nothing", got)
	}
	n.must(t, 204, http.MethodDelete, "/stores/"+id, "")
	n.must(t, 204, http.MethodDelete, "/stores/"+noStore, "")
	n.wantError(t, http.MethodGet, "/stores/"+id, "", 404, "store_id_not_found", "store_id")
	n.wantError(t, http.MethodGet, "/stores/"+noStore, "", 404, "store_id_not_found", "store_id")
	_, err := n.GetStore(ctx, &openfgav1.GetStoreRequest{StoreId: id})
	wantCode(t, err, 5002, "store_id")
	if got := n.must(t, 200, http.MethodGet, "/stores?page_size=100", ""); strings.Contains(got, id) {
		t.Errorf("stores = %s, want the deleted one left out", got)
	}
}
