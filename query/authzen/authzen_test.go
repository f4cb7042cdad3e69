package authzen_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/serve"
)

// TestBadInput: what is wrong is an error with a status and a string that names the field.
func TestBadInput(t *testing.T) {
	n := newNode(t)
	n.store(t, fixture, fixtureGrants()...)
	const evaluation, evaluations = "/access/v1/evaluation", "/access/v1/evaluations"
	const subjects, resources, actions = "/access/v1/search/subject", "/access/v1/search/resource", "/access/v1/search/action"
	long := strings.Repeat("x", 513)
	for _, tt := range []struct {
		name, path, body string
		status           int
		message          string // part of it
	}{
		{"empty", evaluation, "", 400, "JSON at byte 0"},
		{"malformed", evaluation, `{"subject": `, 400, "JSON at byte 12"},
		{"more than one", evaluation, object(alice, reads, one) + `{}`, 400, "something follows"},
		{"a list", evaluation, "[]", 400, "must be an object"},
		{"a name twice", evaluation, object(alice, alice, reads, one), 400, `"subject" stands twice`},
		{"not UTF-8", evaluation, object("\"subject\": {\"type\": \"user\", \"id\": \"\xff\"}", reads, one), 400, "UTF-8"},
		{"half a character", evaluation, object(`"subject": {"type": "user", "id": "\ud800"}`, reads, one), 400, "JSON at byte"},
		{"large", evaluation, object(alice, reads, one, `"foo": "`+strings.Repeat("x", 1<<20)+`"`), 413, "at most 1048576 bytes"},
		{"nested", evaluation, object(alice, reads, one, `"foo": `+strings.Repeat("[", 100)+strings.Repeat("]", 100)), 400, "nested deeper"},

		{"no subject", evaluation, object(reads, one), 400, "subject: is missing"},
		{"a subject that is null", evaluation, object(`"subject": null`, reads, one), 400, "subject: is missing"},
		{"no action", evaluation, object(alice, one), 400, "action: is missing"},
		{"no resource", evaluation, object(alice, reads), 400, "resource: is missing"},
		{"no type of subject", evaluation, object(`"subject": {"id": "alice"}`, reads, one), 400, "subject.type: is missing"},
		{"no id of subject", evaluation, object(users, reads, one), 400, "subject.id: is missing"},
		{"no name of action", evaluation, object(alice, `"action": {}`, one), 400, "action.name: is missing"},
		{"no type of resource", evaluation, object(alice, reads, `"resource": {"id": "record-1"}`), 400, "resource.type: is missing"},
		{"no id of resource", evaluation, object(alice, reads, records), 400, "resource.id: is missing"},
		{"an empty id", evaluation, object(alice, reads, `"resource": {"type": "record", "id": ""}`), 400, "resource.id: must not be empty"},
		{"a long id", evaluation, object(alice, reads, `"resource": {"type": "record", "id": "`+long+`"}`), 400, "resource.id: must be at most 512 bytes, with what is escaped, is 513"},
		{"an id that is long once it is escaped", evaluation, object(alice, reads, `"resource": {"type": "record", "id": "`+strings.Repeat(":", 171)+`"}`), 400, "is 513"},
		{"a subject that is a string", evaluation, object(`"subject": "alice"`, reads, one), 400, "subject: must be an object"},
		{"a name that is a number", evaluation, object(alice, `"action": {"name": 123}`, one), 400, "action.name: must be a string"},
		{"properties that are a list", evaluation, object(alice, reads, `"resource": {"type": "record", "id": "1", "properties": []}`), 400, "resource.properties: must be an object"},
		{"context that is a string", evaluation, object(alice, reads, one, `"context": "x"`), 400, "context: must be an object"},
		{"large context", evaluation, object(alice, reads, one, `"context": {"x": "`+strings.Repeat("x", 64<<10)+`"}`), 400, "context: must be at most 65536 bytes"},
		{"large properties", evaluation, object(alice, reads, `"resource": {"type": "record", "id": "1", "properties": {"x": "`+strings.Repeat("x", 64<<10)+`"}}`), 400, "properties: must be at most 65536 bytes"},

		{"an unknown type of subject", evaluation, object(`"subject": {"type": "spaceship", "id": "x"}`, reads, one), 400, `subject.type: the model has no type "spaceship"`},
		{"a type that no model could have", evaluation, object(`"subject": {"type": "a b#c", "id": "x"}`, reads, one), 400, `subject.type: the model has no type "a b#c"`},
		{"an unknown type of resource", evaluation, object(alice, reads, `"resource": {"type": "spaceship", "id": "x"}`), 400, `resource.type: the model has no type "spaceship"`},
		{"an unknown action", evaluation, object(alice, `"action": {"name": "fly"}`, one), 400, `action.name: type "record" has no relation "fly"`},
		{"an action that no model could have", evaluation, object(alice, `"action": {"name": "can fly"}`, one), 400, `action.name: the model has no relation "can fly"`},
		{"a property of the wrong type", evaluation, object(alice, `"action": {"name": "delete", "properties": {"soft": "yes"}}`, one), 400, `action.properties.soft: parameter "action_soft" of condition "softly": must be a value of type bool`},
		{"context of the wrong type", evaluation, object(`"subject": {"type": "user", "id": "eve"}`, writes, `"resource": {"type": "record", "id": "record-1"}`, `"context": {"resource_status": 1}`), 200, ""},

		{"evaluations that are an object", evaluations, object(alice, reads, one, `"evaluations": {}`), 400, "evaluations: must be a list"},
		{"too many evaluations", evaluations, object(alice, reads, `"evaluations": [{}`+strings.Repeat(",{}", 1000)+`]`), 400, "evaluations: must be at most 1000, are 1001"},
		{"a default of the wrong type", evaluations, object(`"subject": "alice"`, reads, `"evaluations": [`+object(alice, reads, one)+`]`), 400, "subject: must be an object"},
		{"unknown semantics", evaluations, object(alice, reads, `"options": {"evaluations_semantic": "some"}`, `"evaluations": [{}]`), 400, "options.evaluations_semantic: must be execute_all, deny_on_first_deny or permit_on_first_permit"},
		{"semantics that are a number", evaluations, object(alice, reads, `"options": {"evaluations_semantic": 1}`, `"evaluations": [{}]`), 400, "options.evaluations_semantic: must be"},
		{"options that are a list", evaluations, object(alice, reads, `"options": []`, `"evaluations": [{}]`), 400, "options: must be an object"},
		{"neither evaluations nor an action", evaluations, object(alice, one), 400, "action: is missing"},

		{"no action in a search of subjects", subjects, object(users, one), 400, "action: is missing"},
		{"no type in a search of subjects", subjects, object(`"subject": {}`, reads, one), 400, "subject.type: is missing"},
		{"no id of the resource", subjects, object(users, reads, records), 400, "resource.id: is missing"},
		{"no subject in a search of resources", resources, object(reads, records), 400, "subject: is missing"},
		{"no id of the subject", resources, object(users, reads, records), 400, "subject.id: is missing"},
		{"no resource in a search of actions", actions, object(alice), 400, "resource: is missing"},
		{"no id beside an unknown type", actions, object(`"subject": {"type": "spaceship"}`, one), 400, "subject.id: is missing"},
		{"a page that is a number", subjects, object(users, reads, one, `"page": 1`), 400, "page: must be an object"},
		{"a limit that is text", subjects, object(users, reads, one, `"page": {"limit": "1"}`), 400, "page.limit: must be a whole number"},
		{"a negative limit", subjects, object(users, reads, one, `"page": {"limit": -1}`), 400, "page.limit: must be a whole number"},
		{"half a limit", subjects, object(users, reads, one, `"page": {"limit": 0.5}`), 400, "page.limit: must be a whole number"},
		{"a token that is a number", subjects, object(users, reads, one, `"page": {"token": 1}`), 400, "page.token: must be a string"},
		{"a token that is none", subjects, object(users, reads, one, `"page": {"token": "x"}`), 400, "page.token: must be a page token"},

		{"a store that is no ULID", "/stores/acme" + evaluation, object(alice, reads, one), 400, `store: "acme" is not the ULID of a store`},
		{"an unknown store", "/stores/01J00000000000000000000000" + evaluation, object(alice, reads, one), 404, "01J00000000000000000000000"},
		{"an unknown store in a search", "/stores/01J00000000000000000000000" + subjects, object(users, reads, one), 404, "01J00000000000000000000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, answer := n.do(t, http.MethodPost, tt.path, tt.body)
			if tt.status == 200 {
				if resp.StatusCode != 200 {
					t.Errorf("status %d %s, want 200", resp.StatusCode, answer)
				}
				return
			}
			var message string
			if err := json.Unmarshal([]byte(answer), &message); err != nil || resp.StatusCode != tt.status || !strings.Contains(message, tt.message) {
				t.Errorf("status %d %s, want %d with a string that has %q", resp.StatusCode, answer, tt.status, tt.message)
			}
		})
	}
	for _, kind := range []string{"text/plain", "", "application/jsonl", "application/x-www-form-urlencoded"} {
		if resp, answer := n.do(t, http.MethodPost, evaluation, object(alice, reads, one), "Content-Type", kind); resp.StatusCode != 400 || !strings.Contains(answer, "application/json") {
			t.Errorf("Content-Type %q: %d %s, want 400", kind, resp.StatusCode, answer)
		}
	}
	if resp, answer := n.do(t, http.MethodPost, evaluation, object(alice, reads, one), "Content-Type", "Application/JSON; charset=utf-8"); resp.StatusCode != 200 {
		t.Errorf("with a charset: %d %s", resp.StatusCode, answer)
	}
	for coding, want := range map[string]int{"gzip": 400, "br": 400, "identity, gzip": 400, "identity": 200, "Identity": 200} {
		resp, answer := n.do(t, http.MethodPost, evaluation, object(alice, reads, one), "Content-Encoding", coding)
		if resp.StatusCode != want || want == 400 && !strings.Contains(answer, "Content-Encoding must be identity") {
			t.Errorf("Content-Encoding %q: %d %s, want %d", coding, resp.StatusCode, answer, want)
		}
	}
	if resp, answer := n.do(t, http.MethodGet, evaluation, ""); resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d %s", resp.StatusCode, answer)
	}
	if resp, answer := n.do(t, http.MethodPost, "/.well-known/authzen-configuration", ""); resp.StatusCode != 405 {
		t.Errorf("POST of the configuration: %d %s", resp.StatusCode, answer)
	}
}

// TestItemErrors: an item that is wrong is denied, with its own error, and harms no other.
func TestItemErrors(t *testing.T) {
	n := newNode(t)
	const door = "type door\n  relations\n    define open: [user with softly]\n"
	n.store(t, strings.Replace(fixture, "condition", door+"condition", 1), append(fixtureGrants(), grant("door:1", "open", "user:alice", "softly", ""))...)
	items := []struct{ body, message string }{
		{object(one), ""},
		{`{}`, "resource: is missing"},
		{`5`, "an evaluation must be an object"},
		{object(`"subject": "alice"`, one), "subject: must be an object"},
		{object(`"action": {"name": "fly"}`, one), `action.name: type "record" has no relation "fly"`},
		{object(`"action": {"name": "delete", "properties": {"soft": 1}}`, one), "action.properties.soft: "},
		{object(`"action": {"name": "open"}`, `"resource": {"type": "door", "id": "1"}`), `condition "softly": the context lacks action_soft`},
		// A key that an item has is as it would be alone: no id of a default fills it in.
		{object(records), "resource.id: is missing"},
		{object(`"resource": {"id": "record-1"}`), "resource.type: is missing"},
		{object(`"resource": {}`, `"x": 1`), "resource.type: is missing"},
		{object(users, one), "subject.id: is missing"},
		{object(`"subject": {"id": null, "type": "user"}`, one), "subject.id: is missing"},
		{object(`"subject": {}`, one), "subject.type: is missing"},
		{object(`"action": {}`, one), "action.name: is missing"},
		{object(`"subject": null`, one), "subject: is missing"},
		{object(`"action": null`, one), "action: is missing"},
		{object(`"context": null`, one), ""},
		{object(one), ""},
	}
	var bodies []string
	for _, i := range items {
		bodies = append(bodies, i.body)
	}
	body := object(alice, reads, `"evaluations": [`+strings.Join(bodies, ", ")+"]")
	var answer struct {
		Evaluations []struct {
			Decision bool
			Context  struct {
				Error  *struct{ Status, Message any }
				Reason string
			}
		}
	}
	ask := func(body string) {
		t.Helper()
		answer.Evaluations = nil
		if err := json.Unmarshal([]byte(n.post(t, "/access/v1/evaluations", body)), &answer); err != nil {
			t.Fatal(err)
		}
	}
	ask(body)
	if len(answer.Evaluations) != len(items) {
		t.Fatalf("%d answers, want %d", len(answer.Evaluations), len(items))
	}
	for i, got := range answer.Evaluations {
		want := items[i]
		if got.Decision != (want.message == "") || (got.Context.Error == nil) != got.Decision {
			t.Errorf("%s = %+v", want.body, got)
		} else if e := got.Context.Error; e != nil && (fmt.Sprint(e.Status) != "400" || !strings.Contains(fmt.Sprint(e.Message), want.message)) {
			t.Errorf("%s = %v %v, want 400 with %q", want.body, e.Status, e.Message, want.message)
		}
	}
	// Nor does a default that is whole.
	ask(object(alice, reads, one, `"evaluations": [`+object(records)+`, `+object(`"resource": null`)+`, {}]`))
	if got := answer.Evaluations; len(got) != 3 || got[0].Decision || got[0].Context.Error == nil || got[1].Decision || got[1].Context.Error == nil || !got[2].Decision {
		t.Errorf("items that lack a part of the default = %+v", got)
	}
	// Context is taken whole too: what an item does not say is not known.
	opens := []string{`"action": {"name": "open"}`, `"resource": {"type": "door", "id": "1"}`, `"context": {"action_soft": true}`}
	ask(object(alice, strings.Join(opens, ", "), `"evaluations": [{}, {"context": {"other": true}}, {"context": {}}, {"context": null}, {"context": {"action_soft": false}}]`))
	for i, got := range answer.Evaluations {
		if unknown := i > 0 && i < 4; got.Decision != (i == 0) || (got.Context.Error != nil) != unknown {
			t.Errorf("item %d with context = %+v", i, got)
		}
	}
	// An error ends what ends at a denial, and is no permit.
	ask(strings.Replace(body, "{", `{"options": {"evaluations_semantic": "deny_on_first_deny"}, `, 1))
	if got := answer.Evaluations; len(got) != 2 || got[1].Context.Error == nil || got[1].Context.Reason != "deny_on_first_deny" {
		t.Errorf("deny_on_first_deny = %+v", got)
	}
	ask(object(alice, reads, `"options": {"evaluations_semantic": "permit_on_first_permit"}`, `"evaluations": [{}, `+object(one)+`, {}]`))
	if got := answer.Evaluations; len(got) != 2 || got[0].Decision || !got[1].Decision || got[1].Context.Reason != "permit_on_first_permit" {
		t.Errorf("permit_on_first_permit = %+v", got)
	}

	// Alone, what has no answer is an error; in a search it is said beside the results.
	if resp, text := n.do(t, http.MethodPost, "/access/v1/evaluation", object(alice, items[6].body[1:len(items[6].body)-1])); resp.StatusCode != 400 || !strings.Contains(text, "the context lacks action_soft") {
		t.Errorf("an evaluation without its parameter: %d %s", resp.StatusCode, text)
	}
	l := n.search(t, "/access/v1/search/action", object(alice, `"resource": {"type": "door", "id": "1"}`))
	if u := l.Context.Undecided; len(l.Results) != 0 || len(u) != 1 || u[0].Name != "open" || u[0].Error.Status != 400 || !strings.Contains(u[0].Error.Message, "action_soft") {
		t.Errorf("a search of actions without a parameter = %+v", l)
	}
	l = n.search(t, "/access/v1/search/resource", object(alice, `"action": {"name": "open"}`, `"resource": {"type": "door"}`))
	if u := l.Context.Undecided; len(l.Results) != 0 || len(u) != 1 || u[0].Type != "door" || u[0].ID != "1" {
		t.Errorf("a search of resources without a parameter = %+v", l)
	}
	if l := n.search(t, "/access/v1/search/resource", object(alice, `"action": {"name": "open", "properties": {"soft": true}}`, `"resource": {"type": "door"}`)); l.names() != "1" || l.Context.Undecided != nil {
		t.Errorf("with it = %+v", l)
	}
	// A property of the wrong type leaves no item with an answer.
	l = n.search(t, "/access/v1/search/resource", object(alice, `"action": {"name": "open", "properties": {"soft": 1}}`, `"resource": {"type": "door"}`))
	if u := l.Context.Undecided; len(l.Results) != 0 || len(u) != 1 || !strings.Contains(u[0].Error.Message, "action.properties.soft") {
		t.Errorf("with a parameter of the wrong type = %+v", l)
	}
}

const shelves = `model
  schema 1.1
type user
type shelf
  relations
    define open: [user, user:*]
    define barred: [user]
    define read: open but not barred
    define keep: [user]
type group
  relations
    define member: [user]
`

// TestNames: ids of any text are granted and found under their escaped form.
func TestNames(t *testing.T) {
	n := newNode(t)
	n.store(t, shelves,
		grant("shelf:urn%3Ashelf%3A1", "keep", "user:alice@example.com", "", ""),
		grant("shelf:%2A", "keep", "user:alice@example.com", "", ""),
		grant("shelf:a/b", "keep", "user:alice@example.com", "", ""),
		grant("shelf:50%", "keep", "user:Bo%20B", "", ""),
		grant("shelf:50%", "keep", "user:%2A", "", ""),
		grant("shelf:%41", "keep", "user:Bo%20B", "", ""),
	)
	ann, bo := `"subject": {"type": "user", "id": "alice@example.com"}`, `"subject": {"type": "user", "id": "Bo B"}`
	const keeps, shelf = `"action": {"name": "keep"}`, `"resource": {"type": "shelf"}`
	if got, want := n.search(t, "/access/v1/search/resource", object(ann, keeps, shelf)).Results, []result{{"shelf", "*", ""}, {"shelf", "a/b", ""}, {"shelf", "urn:shelf:1", ""}}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	} else {
		for _, r := range got { // what is found is permitted
			body := object(ann, keeps, fmt.Sprintf(`"resource": {"type": "shelf", "id": %q}`, r.ID))
			if got := n.post(t, "/access/v1/evaluation", body); got != `{"decision":true}` {
				t.Errorf("%s = %s", body, got)
			}
		}
	}
	// What no text names is said to be there.
	l := n.search(t, "/access/v1/search/resource", object(bo, keeps, shelf))
	if u := l.Context.Undecided; l.names() != "50%" || len(u) != 1 || u[0].ID != "%41" || !strings.Contains(u[0].Error.Message, "no text") {
		t.Errorf("found %+v", l)
	}
	l = n.search(t, "/access/v1/search/subject", object(users, keeps, `"resource": {"type": "shelf", "id": "50%"}`))
	if u := l.Context.Undecided; l.names() != "Bo B" || l.Context.Wildcard || len(u) != 1 || u[0].ID != "%2A" {
		t.Errorf("found %+v, want no subject that passes for everyone", l)
	}
	// An id is never a userset or a wildcard, so neither can be asked about by accident.
	for _, id := range []string{"*", "eng#member", "A"} {
		body := object(fmt.Sprintf(`"subject": {"type": "user", "id": %q}`, id), keeps, `"resource": {"type": "shelf", "id": "a/b"}`)
		if got := n.post(t, "/access/v1/evaluation", body); got != `{"decision":false}` {
			t.Errorf("%s = %s", body, got)
		}
	}
}

// TestWildcard: a grant to everyone is found as "*", with those whom it is not for.
func TestWildcard(t *testing.T) {
	n := newNode(t)
	n.store(t, shelves, grant("shelf:1", "open", "user:*", "", ""), grant("shelf:1", "open", "user:ann", "", ""), grant("shelf:1", "barred", "user:eve", "", ""),
		grant("shelf:2", "open", "user:ann", "", ""), grant("shelf:3", "open", "user:*", "", ""), grant("shelf:3", "barred", "user:%2A", "", ""))
	l := n.search(t, "/access/v1/search/subject", object(users, reads, `"resource": {"type": "shelf", "id": "1"}`))
	if x := l.Context.Excluded; l.names() != "* ann" || !l.Context.Wildcard || len(x) != 1 || x[0] != (result{"user", "eve", ""}) {
		t.Errorf("found %+v", l)
	}
	l = n.search(t, "/access/v1/search/subject", object(users, reads, `"resource": {"type": "shelf", "id": "2"}`))
	if l.names() != "ann" || l.Context.Wildcard || l.Context.Excluded != nil {
		t.Errorf("found %+v", l)
	}
	// The subject of that name is one among all, and not everyone.
	if got := n.post(t, "/access/v1/evaluation", object(`"subject": {"type": "user", "id": "*"}`, reads, `"resource": {"type": "shelf", "id": "3"}`)); got != `{"decision":false}` {
		t.Errorf("the subject * = %s, though it is barred", got)
	}
	// What could never be is found empty, and said.
	for _, tt := range []struct{ of, body, reason string }{
		{"subject", object(`"subject": {"type": "shelf"}`, reads, `"resource": {"type": "shelf", "id": "1"}`), "subject.type: no subject of kind shelf"},
		{"subject", object(users, reads, `"resource": {"type": "spaceship", "id": "1"}`), `resource.type: the model has no type "spaceship"`},
		{"subject", object(users, `"action": {"name": "fly"}`, `"resource": {"type": "shelf", "id": "1"}`), `action.name: type "shelf" has no relation "fly"`},
		{"resource", object(alice, reads, `"resource": {"type": "a b"}`), `resource.type: the model has no type "a b"`},
		{"resource", object(`"subject": {"type": "spaceship", "id": "1"}`, reads, `"resource": {"type": "shelf"}`), `subject.type: the model has no type "spaceship"`},
		{"action", object(`"subject": {"type": "spaceship", "id": "1"}`, one), `the model has no type`},
	} {
		if l := n.search(t, "/access/v1/search/"+tt.of, tt.body); len(l.Results) != 0 || l.Page.Next != "" || !strings.Contains(l.Context.Reason, tt.reason) {
			t.Errorf("%s = %+v, want nothing, because %s", tt.body, l, tt.reason)
		}
	}
}

// TestPages: pages of any size are together the list, of one revision whatever is written
// meanwhile; a token is good for its own search alone, and for so long.
func TestPages(t *testing.T) {
	var now time.Time
	n := newNode(t, func(c *serve.Config) { c.Now = func() time.Time { return now } })
	now = time.Now()
	var grants []*pb.Grant
	var want []string
	for i := range 25 {
		id := fmt.Sprintf("u %02d", i)
		grants = append(grants, grant("shelf:1", "open", "user:"+strings.ReplaceAll(id, " ", "%20"), "", ""), grant(fmt.Sprintf("shelf:%02d", i), "keep", "user:ann", "", ""))
		want = append(want, id)
	}
	store := n.store(t, shelves, append(grants, grant("shelf:1", "keep", "user:ann", "", ""), grant("shelf:1", "open", "user:ann", "", ""))...)
	searches := []struct {
		of, body string
		whole    string
	}{
		{"subject", `"subject": {"type": "user"}, "action": {"name": "open"}, "resource": {"type": "shelf", "id": "1"}`, "ann " + strings.Join(want, " ")},
		{"resource", `"subject": {"type": "user", "id": "ann"}, "action": {"name": "keep"}, "resource": {"type": "shelf"}`, ""},
		{"action", `"subject": {"type": "user", "id": "ann"}, "resource": {"type": "shelf", "id": "1"}`, "keep open read"},
	}
	searches[1].whole = n.search(t, "/access/v1/search/resource", object(searches[1].body)).names()
	tokens := map[string]string{}
	for _, s := range searches {
		path := "/access/v1/search/" + s.of
		for _, size := range []int{1, 2, 7, 1000, 5000} {
			var pages []string
			page := fmt.Sprintf(`"page": {"limit": %d}`, size)
			for {
				l := n.search(t, path, object(s.body, page))
				if len(l.Results) > size || len(l.Results) == 0 {
					t.Fatalf("%s with %s = %+v", s.of, page, l)
				}
				pages = append(pages, l.names())
				if l.Page.Next == "" {
					break
				}
				tokens[s.of] = l.Page.Next
				page = fmt.Sprintf(`"page": {"limit": %d, "token": %q}`, size, l.Page.Next)
			}
			if got := strings.Join(pages, " "); got != s.whole {
				t.Errorf("%s by %d = %s, want %s", s.of, size, got, s.whole)
			}
		}
		// The rest without a limit, as enforcement points ask for it.
		l := n.search(t, path, object(s.body, `"page": {"limit": 0}`))
		if len(l.Results) != 0 || l.Page.Next == "" {
			t.Fatalf("%s by 0 = %+v", s.of, l)
		}
		if got := n.search(t, path, object(s.body, fmt.Sprintf(`"page": {"token": %q}`, l.Page.Next))); got.names() != s.whole || got.Page.Next != "" {
			t.Errorf("%s, the rest = %+v", s.of, got)
		}
	}
	for _, s := range searches {
		for other, token := range tokens {
			if other == s.of {
				continue
			}
			if resp, answer := n.do(t, http.MethodPost, "/access/v1/search/"+s.of, object(s.body, fmt.Sprintf(`"page": {"token": %q}`, token))); resp.StatusCode != 400 || !strings.Contains(answer, "page.token: is of another search") {
				t.Errorf("%s with a token of %s: %d %s", s.of, other, resp.StatusCode, answer)
			}
		}
	}
	if resp, answer := n.do(t, http.MethodPost, "/access/v1/search/subject", object(searches[0].body, `"context": {"a": 1}`, fmt.Sprintf(`"page": {"token": %q}`, tokens["subject"]))); resp.StatusCode != 400 || !strings.Contains(answer, "page.token") {
		t.Errorf("with other context: %d %s", resp.StatusCode, answer)
	}

	path, first := "/access/v1/search/resource", n.search(t, "/access/v1/search/resource", object(searches[1].body, `"page": {"limit": 10}`))
	n.apply(t, store, &pb.Change{Change: &pb.Change_Grant{Grant: grant("shelf:24x", "keep", "user:ann", "", "")}},
		&pb.Change{Change: &pb.Change_Revoke{Revoke: &pb.Revoke{Tuple: &pb.Tuple{Object: "shelf:24", Relation: "keep", Subject: "user:ann"}}}})
	rest := object(searches[1].body, fmt.Sprintf(`"page": {"token": %q}`, first.Page.Next))
	if got := first.names() + " " + n.search(t, path, rest).names(); got != searches[1].whole {
		t.Errorf("pages around a write = %s, want %s", got, searches[1].whole)
	}
	if got := n.search(t, path, object(searches[1].body)).names(); got == searches[1].whole || !strings.HasSuffix(got, "24x") {
		t.Errorf("a new search = %s, want what was written", got)
	}
	// Of another store, the same question is another, and its token names another past.
	other := n.store(t, shelves, grants...)
	if resp, answer := n.do(t, http.MethodPost, "/stores/"+other+path, rest); resp.StatusCode != 400 || !strings.Contains(answer, "page.token: ") {
		t.Errorf("a token of another store: %d %s", resp.StatusCode, answer)
	}
	now = now.Add(query.PageTokenAge + time.Minute)
	if resp, answer := n.do(t, http.MethodPost, "/stores/"+store+path, rest); resp.StatusCode != 400 || !strings.Contains(answer, "page.token: has expired") {
		t.Errorf("an old token: %d %s", resp.StatusCode, answer)
	}
}

// TestStores: a request without a store is about the only one, or the one that the server
// is told; there is never a guess.
func TestStores(t *testing.T) {
	n := newNode(t)
	const evaluation = "/access/v1/evaluation"
	body := object(alice, reads, one)
	want := func(path string, status int, part string) {
		t.Helper()
		if resp, answer := n.do(t, http.MethodPost, path, body); resp.StatusCode != status || !strings.Contains(answer, part) {
			t.Errorf("%s = %d %s, want %d with %s", path, resp.StatusCode, answer, status, part)
		}
	}
	want(evaluation, 404, "there is no store yet")
	first := n.store(t, "")
	want(evaluation, 400, "the store has no model yet")
	n.apply(t, first, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: fixture}}})
	want(evaluation, 200, `{"decision":false}`)
	n.apply(t, first, &pb.Change{Change: &pb.Change_Grant{Grant: fixtureGrants()[0]}})
	want(evaluation, 200, `{"decision":true}`) // what this node wrote, it has read
	second := n.store(t, fixture)
	want(evaluation, 404, "there are several stores: ask under /stores/{store}/access/v1/")
	want("/stores/"+first+evaluation, 200, `{"decision":true}`)
	want("/stores/"+second+evaluation, 200, `{"decision":false}`)
	if _, err := n.DeleteStore(t.Context(), &pb.DeleteStoreRequest{Store: first, Actor: "ann"}); err != nil {
		t.Fatal(err)
	}
	want(evaluation, 200, `{"decision":false}`)
	want("/stores/"+first+evaluation, 404, "is deleted")

	id, err := ledger.ParseID(second)
	if err != nil {
		t.Fatal(err)
	}
	n = newNode(t, func(c *serve.Config) { c.AuthZENStore = id })
	n.store(t, fixture, fixtureGrants()...)
	want(evaluation, 404, second)
}

// TestBudget: what a question may not spend is said, and is no denial.
func TestBudget(t *testing.T) {
	n := newNode(t, func(c *serve.Config) {
		c.Engine = query.NewEngine(query.Budgets{Check: model.Budget{Rows: 1}, List: model.Budget{Rows: 1}})
	})
	n.store(t, shelves, grant("shelf:1", "open", "user:ann", "", ""), grant("shelf:2", "open", "user:ann", "", ""), grant("shelf:3", "open", "user:ann", "", ""))
	ann := `"subject": {"type": "user", "id": "ann"}`
	for path, body := range map[string]string{
		"/access/v1/evaluation":      object(ann, reads, `"resource": {"type": "shelf", "id": "1"}`),
		"/access/v1/search/resource": object(ann, reads, `"resource": {"type": "shelf"}`),
	} {
		if resp, answer := n.do(t, http.MethodPost, path, body); resp.StatusCode != 429 {
			t.Errorf("%s = %d %s, want 429", path, resp.StatusCode, answer)
		}
	}
}

// TestConfiguration: enforcement points find the API where they look for it.
func TestConfiguration(t *testing.T) {
	get := func(n *node, path string) (point string) {
		t.Helper()
		resp, answer := n.do(t, http.MethodGet, path, "")
		var got map[string]string
		if err := json.Unmarshal([]byte(answer), &got); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s = %d %s, %v", path, resp.StatusCode, answer, err)
		}
		point = got["policy_decision_point"]
		want := map[string]string{
			"policy_decision_point":       point,
			"access_evaluation_endpoint":  point + "/access/v1/evaluation",
			"access_evaluations_endpoint": point + "/access/v1/evaluations",
			"search_subject_endpoint":     point + "/access/v1/search/subject",
			"search_resource_endpoint":    point + "/access/v1/search/resource",
			"search_action_endpoint":      point + "/access/v1/search/action",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
		return point
	}
	n := newNode(t)
	store := n.store(t, fixture, fixtureGrants()...)
	if got := get(n, "/.well-known/authzen-configuration"); got != n.url {
		t.Errorf("the decision point is %s, want %s", got, n.url)
	}
	if got, want := get(n, "/.well-known/authzen-configuration/stores/"+store), n.url+"/stores/"+store; got != want {
		t.Errorf("that of a store is %s, want %s", got, want)
	}
	if resp, answer := n.do(t, http.MethodGet, "/.well-known/authzen-configuration/stores/01J00000000000000000000000", ""); resp.StatusCode != 404 {
		t.Errorf("that of no store: %d %s", resp.StatusCode, answer)
	}
	// It says where the API is only if there it is.
	missing := func(n *node, part string) {
		t.Helper()
		resp, answer := n.do(t, http.MethodGet, "/.well-known/authzen-configuration", "")
		if resp.StatusCode != 404 || !strings.Contains(answer, part) {
			t.Errorf("the configuration = %d %s, want 404 with %s", resp.StatusCode, answer, part)
		}
	}
	second := n.store(t, fixture)
	missing(n, "there are several stores")
	get(n, "/.well-known/authzen-configuration/stores/"+second)
	missing(newNode(t), "there is no store yet")
	n = newNode(t, func(c *serve.Config) { c.AuthZENStore = ledger.NewID() })
	n.store(t, fixture)
	missing(n, "not found")
	n = newNode(t, func(c *serve.Config) { c.AuthZENURL = "https://pdp.example.com/a" })
	n.store(t, fixture)
	if got := get(n, "/.well-known/authzen-configuration"); got != "https://pdp.example.com/a" {
		t.Errorf("the decision point is %s", got)
	}
}
