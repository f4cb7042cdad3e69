package authzen_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// The fixture of the certification scenario that the working group publishes: who its
// subjects are, what its records are, and how they may be deleted is true by default as
// stored, and an enforcement point may know better.
const fixture = `model
  schema 1.1
type user
type record
  relations
    define read: [user]
    define write: [user with writable]
    define delete: [user with softly]
condition writable(subject_role: string, resource_status: string) {
  resource_status != "archived" || subject_role == "admin"
}
condition softly(action_soft: bool) {
  action_soft
}
`

func fixtureGrants() []*pb.Grant {
	return []*pb.Grant{
		grant("record:record-1", "read", "user:alice", "", ""),
		grant("record:record-1", "read", "user:bob", "", ""),
		grant("record:record-1", "write", "user:alice", "writable", `{"subject_role": "", "resource_status": "active"}`),
		grant("record:record-2", "write", "user:alice", "writable", `{"subject_role": "", "resource_status": "archived"}`),
		grant("record:record-2", "write", "user:bob", "writable", `{"subject_role": "admin", "resource_status": "archived"}`),
		grant("record:record-1", "delete", "user:alice", "softly", `{"action_soft": false}`),
	}
}

const (
	alice   = `"subject": {"type": "user", "id": "alice"}`
	bob     = `"subject": {"type": "user", "id": "bob"}`
	admin   = `"subject": {"type": "user", "id": "bob", "properties": {"role": "admin"}}`
	users   = `"subject": {"type": "user"}`
	reads   = `"action": {"name": "read"}`
	writes  = `"action": {"name": "write"}`
	one     = `"resource": {"type": "record", "id": "record-1"}`
	two     = `"resource": {"type": "record", "id": "record-2"}`
	stored  = `"resource": {"type": "record", "id": "record-2", "properties": {"status": "archived"}}`
	records = `"resource": {"type": "record"}`
)

func object(parts ...string) string { return "{" + strings.Join(parts, ", ") + "}" }

func softly(soft bool) string {
	return fmt.Sprintf(`"action": {"name": "delete", "properties": {"soft": %t}}`, soft)
}

// TestCertification goes through the scenario: its decisions, batches and searches.
func TestCertification(t *testing.T) {
	n := newNode(t)
	store := n.store(t, fixture, fixtureGrants()...)
	for _, tt := range []struct {
		name, body string
		want       bool
	}{
		{"rule 1", object(alice, reads, one), true},
		{"rule 2", object(alice, writes, one), true},
		{"rule 3", object(bob, reads, one), true},
		{"rule 4", object(bob, writes, one), false},
		{"rule 5", object(alice, writes, stored), false},
		{"rule 5, of a record that is stored as active", object(alice, writes, `"resource": {"type": "record", "id": "record-1", "properties": {"status": "archived"}}`), false},
		{"rule 5, as stored", object(alice, writes, two), false},
		{"rule 6", object(admin, writes, stored), true},
		{"rule 6, of a subject that is not stored as admin", object(`"subject": {"type": "user", "id": "alice", "properties": {"role": "admin"}}`, writes, stored), true},
		{"rule 6, of one that no longer is", object(`"subject": {"type": "user", "id": "bob", "properties": {"role": "guest"}}`, writes, two), false},
		{"a record that was restored", object(alice, writes, `"resource": {"type": "record", "id": "record-2", "properties": {"status": "active"}}`), true},
		{"rule 7", object(alice, softly(true), one), true},
		{"rule 8", object(alice, softly(false), one), false},
		{"rule 8, as stored", object(alice, `"action": {"name": "delete"}`, one), false},
		{"context", object(alice, reads, one, `"context": {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}`), true},
		{"further properties", object(`"subject": {"type": "user", "id": "alice", "properties": {"department": "Sales", "role": "manager"}}`,
			`"action": {"name": "read", "properties": {"method": "GET"}}`, `"resource": {"type": "record", "id": "record-1", "properties": {"status": "active", "owner": "bob"}}`), true},
		{"unknown fields", object(alice, reads, one, `"foo": "bar"`, `"futureField": {"nested": true}`), true},
		{"a property that is null is not given", object(alice, writes, `"resource": {"type": "record", "id": "record-2", "properties": {"status": null}}`), false},
		{"context does not win over what is stored", object(alice, writes, two, `"context": {"resource_status": "active", "subject_role": "admin"}`), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := fmt.Sprintf(`{"decision":%t}`, tt.want)
			for _, path := range []string{"/access/v1/evaluation", "/access/v1/evaluations", "/stores/" + store + "/access/v1/evaluation", "/access/v1/evaluation"} {
				if got := n.post(t, path, tt.body); got != want {
					t.Errorf("%s %s = %s, want %s", path, tt.body, got, want)
				}
			}
		})
	}

	const active = `{"resource": {"type": "record", "id": "record-1", "properties": {"status": "active"}}}`
	for _, tt := range []struct{ name, body, want string }{
		{"two", object(alice, reads, `"evaluations": [{`+one+`}, {`+two+`}]`), "[true false]"},
		{"in order", object(bob, one, `"evaluations": [{`+reads+`}, {`+writes+`}]`), "[true false]"},
		{"properties", object(alice, writes, `"evaluations": [`+active+`, {`+stored+`}]`), "[true false]"},
		{"properties of subjects", object(writes, stored, `"evaluations": [{`+alice+`}, {`+admin+`}]`), "[false true]"},
		{"no defaults", object(`"evaluations": [` + object(alice, reads, one) + `, ` + object(bob, writes, one) + `]`), "[true false]"},
		{"context of all and of one", object(alice, reads, `"context": {"time": "2025-06-27T18:03-07:00"}`, `"evaluations": [{`+one+`}, {`+one+`, "context": {"source": "batch-override"}}]`), "[true true]"},
		{"defaults that no item takes", object(alice, writes, records, `"evaluations": [{"resource": {"type": "record", "id": "record-1", "properties": {"status": "active"}}}, {`+stored+`}]`), "[true false]"},
		{"properties are not merged", object(`"subject": {"type": "user", "id": "bob", "properties": {"role": "guest"}}`, writes, two, `"evaluations": [{}, {`+bob+`}]`), "[false true]"},
		{"a type of all, ids of each", object(alice, writes, records, `"evaluations": [{"resource": {"id": "record-1", "properties": {"status": "active"}}}, {`+stored+`}]`), "[true false]"},
		{"an id of another subject", object(`"subject": {"type": "user", "id": "bob", "properties": {"role": "guest"}}`, writes, two, `"evaluations": [{}, {"subject": {"id": "bob"}}]`), "[false true]"},
		{"deny on first deny", object(alice, `"options": {"evaluations_semantic": "deny_on_first_deny", "other": 1}`, reads, `"evaluations": [{`+one+`}, {`+two+`}, {`+one+`}]`), "[true false]"},
		{"no denial", object(alice, `"options": {"evaluations_semantic": "deny_on_first_deny"}`, reads, `"evaluations": [{`+one+`}, {`+one+`}]`), "[true true]"},
		{"permit on first permit", object(alice, `"options": {"evaluations_semantic": "permit_on_first_permit"}`, reads, `"evaluations": [{`+two+`}, {`+one+`}, {`+one+`}]`), "[false true]"},
		{"all", object(alice, `"options": {"evaluations_semantic": "execute_all"}`, reads, `"evaluations": [{`+two+`}, {`+one+`}, {`+two+`}]`), "[false true false]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var answer struct {
				Decision    *bool
				Evaluations []struct{ Decision *bool }
			}
			text := n.post(t, "/access/v1/evaluations", tt.body)
			if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Decision != nil {
				t.Fatalf("%v in %s", err, text)
			}
			var got []bool
			for _, e := range answer.Evaluations {
				if e.Decision == nil {
					t.Fatalf("no decision in %s", text)
				}
				got = append(got, *e.Decision)
			}
			if fmt.Sprint(got) != tt.want {
				t.Errorf("%s = %s, want %s", tt.body, text, tt.want)
			}
		})
	}
	if got, want := n.post(t, "/access/v1/evaluations", object(alice, reads, one, `"evaluations": []`)), `{"decision":true}`; got != want {
		t.Errorf("empty evaluations = %s, want %s", got, want)
	}

	for _, tt := range []struct{ name, of, body, want string }{
		{"subjects", "subject", object(users, reads, one), "alice bob"},
		{"with context", "subject", object(users, reads, one, `"context": {"time": "2025-06-27T18:03-07:00"}`), "alice bob"},
		{"the id of a subject does not matter", "subject", object(bob, reads, one), "alice bob"},
		{"subjects, of an archived record", "subject", object(users, writes, stored), "bob"},
		{"resources", "resource", object(alice, reads, records), "record-1"},
		{"the id of a resource does not matter", "resource", object(alice, reads, two), "record-1"},
		{"resources, as admin", "resource", object(admin, writes, records), "record-2"},
		{"actions", "action", object(alice, one), "read write"},
		{"actions with context", "action", object(alice, one, `"context": {"time": "2025-06-27T18:03-07:00"}`), "read write"},
		{"actions, as admin", "action", object(admin, stored), "write"},
		{"an action's properties are none of it", "action", object(alice, one, softly(true)), "read write"},
		{"nobody of that name", "action", object(`"subject": {"type": "user", "id": "nonexistent-user"}`, one), ""},
		{"no such type", "subject", object(`"subject": {"type": "spaceship"}`, reads, one), ""},
	} {
		t.Run(tt.of+"/"+tt.name, func(t *testing.T) {
			if got := n.search(t, "/access/v1/search/"+tt.of, tt.body); got.names() != tt.want || got.Page.Next != "" {
				t.Errorf("%s = %+v, want %s", tt.body, got, tt.want)
			}
		})
	}
	t.Run("types of what is found", func(t *testing.T) {
		got := n.search(t, "/access/v1/search/subject", object(users, reads, one)).Results
		if want := []result{{"user", "alice", ""}, {"user", "bob", ""}}; !slices.Equal(got, want) {
			t.Errorf("found %v, want %v", got, want)
		}
	})

	// In the native API the same values are context, over which what is stored wins.
	values, err := structpb.NewStruct(map[string]any{"resource_status": "archived"})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := n.Check(t.Context(), &pb.CheckRequest{Store: store, Tuple: &pb.Tuple{Object: "record:record-1", Relation: "write", Subject: "user:alice"}, Context: values})
	if err != nil || !answer.Allowed {
		t.Errorf("the native check = %v, %v, want it allowed, as stored", answer, err)
	}
}

// TestRequestID: what a request is called, its answer is called, whatever it is.
func TestRequestID(t *testing.T) {
	n := newNode(t)
	store := n.store(t, fixture, fixtureGrants()...)
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{http.MethodPost, "/access/v1/evaluation", object(alice, reads, one), 200},
		{http.MethodPost, "/access/v1/evaluations", object(alice, reads, one), 200},
		{http.MethodPost, "/access/v1/search/action", object(alice, one), 200},
		{http.MethodPost, "/access/v1/evaluation", "{", 400},
		{http.MethodGet, "/access/v1/evaluation", "", 405},
		{http.MethodPost, "/access/v1/nope", object(alice, reads, one), 404},
		{http.MethodPost, "/access/v1/evaluation/", object(alice, reads, one), 404},
		{http.MethodPost, "/access/v1/search", object(alice, one), 404},
		{http.MethodPost, "/access/v1", "", 404},
		{http.MethodGet, "/access/v2/evaluation", "", 404},
		{http.MethodGet, "/access", "", 404},
		{http.MethodPost, "/stores/" + store + "/access/v1/evaluation", object(alice, reads, one), 200},
		{http.MethodPost, "/stores/acme/access/v1/evaluation", object(alice, reads, one), 400},
		{http.MethodPut, "/stores/" + store + "/access/v1/evaluations", "", 405},
		{http.MethodPost, "/stores/" + store + "/access/v1/evaluations/", object(alice, reads, one), 404},
		{http.MethodGet, "/stores/" + store + "/access/nope", "", 404},
		{http.MethodGet, "/stores/" + store + "/access", "", 404},
		{http.MethodGet, "/.well-known/authzen-configuration", "", 200},
		{http.MethodGet, "/.well-known/authzen-configuration/stores/" + store, "", 200},
		{http.MethodGet, "/.well-known/authzen-configuration/stores/" + store + "/nope", "", 404},
		{http.MethodPost, "/.well-known/authzen-configuration/stores/" + store, "", 405},
	} {
		const id = `bfe9eb29 <"É">, x`
		resp, answer := n.do(t, tt.method, tt.path, tt.body, "x-request-id", id)
		if got := resp.Header.Get("X-Request-ID"); got != id || resp.StatusCode != tt.status {
			t.Errorf("%s %s %s: X-Request-ID %q with status %d %s, want %q with %d", tt.method, tt.path, tt.body, got, resp.StatusCode, answer, id, tt.status)
		}
		if text := ""; resp.StatusCode >= 400 && json.Unmarshal([]byte(answer), &text) != nil {
			t.Errorf("%s %s = %s, want a string of JSON", tt.method, tt.path, answer)
		}
		if allow := resp.Header.Get("Allow"); (allow != "") != (resp.StatusCode == 405) {
			t.Errorf("%s %s: status %d allows %q", tt.method, tt.path, resp.StatusCode, allow)
		}
		if resp, _ := n.do(t, tt.method, tt.path, tt.body); resp.StatusCode != tt.status || resp.Header.Values("X-Request-ID") != nil {
			t.Errorf("%s %s without an id: status %d, X-Request-ID %q", tt.method, tt.path, resp.StatusCode, resp.Header.Values("X-Request-ID"))
		}
	}
	// The other paths of a store are the OpenFGA API's.
	if resp, answer := n.do(t, http.MethodGet, "/stores/"+store, ""); resp.StatusCode != 200 || !strings.Contains(answer, store) {
		t.Errorf("GET of the store: %d %s", resp.StatusCode, answer)
	}
	if resp, answer := n.do(t, http.MethodPost, "/stores/"+store+"/nope", ""); !strings.Contains(answer, "undefined_endpoint") {
		t.Errorf("an unknown path of the store: %d %s", resp.StatusCode, answer)
	}
}
