package openfga_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzRequest sends any method, path, query and body: whatever comes is answered with JSON,
// and with an error of the caller's unless it is right.
func FuzzRequest(f *testing.F) {
	n := newNode(f)
	store := n.store(f, modelJSON(f, testModel))
	n.write(f, store, keys("user:ann owner doc:a", "user:bob owner doc:a")...)
	token := field(f, n.must(f, 200, http.MethodPost, "/stores/"+store+"/read", `{"page_size": 1}`), "continuation_token")
	for _, seed := range []struct{ method, path, query, body string }{
		{"POST", "/stores", "", `{"name": "acme"}`},
		{"GET", "/stores", "page_size=2&continuation_token=abcd&name=acme", ""},
		{"GET", "/stores/STORE", "", ""},
		{"DELETE", "/stores/" + noStore, "", ""},
		{"POST", "/stores/STORE/authorization-models", "", modelJSON(f, testModel)},
		{"GET", "/stores/STORE/authorization-models", "page_size=1", ""},
		{"GET", "/stores/STORE/authorization-models/" + noStore, "", ""},
		{"POST", "/stores/STORE/write", "", `{"writes": {"tuple_keys": [{"user": "user:ann", "relation": "owner", "object": "doc:a"}], "on_duplicate": "ignore"}}`},
		{"POST", "/stores/STORE/read", "", `{"tuple_key": {"object": "doc:a"}, "continuation_token": "` + token + `"}`},
		{"GET", "/stores/STORE/changes", "type=doc&start_time=2026-03-01T09:00:00Z", ""},
		{"POST", "/stores/STORE/check", "", `{"tuple_key": {"user": "user:ann", "relation": "viewer", "object": "doc:a"}, "context": {"country": "de"}}`},
		{"POST", "/stores/STORE/batch-check", "", `{"checks": [{"tuple_key": {"user": "user:ann", "relation": "viewer", "object": "doc:a"}, "correlation_id": "1"}]}`},
		{"POST", "/stores/STORE/list-objects", "", `{"user": "user:ann", "relation": "viewer", "type": "doc"}`},
		{"POST", "/stores/STORE/streamed-list-objects", "", `{"user": "user:ann", "relation": "viewer", "type": "doc"}`},
		{"POST", "/stores/STORE/list-users", "", `{"object": {"type": "doc", "id": "a"}, "relation": "viewer", "user_filters": [{"type": "user"}]}`},
		{"POST", "/stores/STORE/expand", "", `{"tuple_key": {"relation": "viewer", "object": "doc:a"}}`},
		{"PUT", "/stores/STORE/assertions/" + noStore, "", `{"assertions": []}`},
		{"POST", "/stores/%2f%zz//", "%zz", "{"},
	} {
		f.Add(seed.method, seed.path, seed.query, seed.body)
	}
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		path = strings.ReplaceAll(path, "STORE", store)
		if !strings.HasPrefix(path, "/stores") || method == http.MethodConnect {
			return
		}
		asked := &url.URL{Scheme: "http", Host: n.address, Path: path, RawQuery: query}
		if plain, err := url.PathUnescape(path); err == nil {
			asked.Path, asked.RawPath = plain, path
		}
		req, err := http.NewRequest(method, "http://"+n.address, strings.NewReader(body))
		if err != nil {
			return // no method
		}
		req.URL = asked
		w := httptest.NewRecorder()
		n.handler.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%s %q ? %q %q = %d %s", method, path, query, body, w.Code, w.Body)
		}
		if w.Code >= 400 && strings.HasPrefix(path, "/stores/") {
			var e struct{ Code, Message string }
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" || e.Message == "" {
				t.Errorf("%s %q ? %q %q = %d %q, want a code and a message", method, path, query, body, w.Code, w.Body)
			}
		}
	})
}
