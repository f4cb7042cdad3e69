package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"google.golang.org/protobuf/encoding/protojson"
)

// listStore has documents 00 to 39: viewed by everyone but the blocked reader bob of 03,
// owned by ann where even, and under a condition for dan at 05.
func listStore(t *testing.T, n *node) string {
	t.Helper()
	store := n.store(t, testModel)
	var changes []*pb.Change
	for i := range 40 {
		doc := fmt.Sprintf("doc:%02d", i)
		changes = append(changes, grant(doc, "viewer", "group:eng#member"))
		if i%2 == 0 {
			changes = append(changes, grant(doc, "owner", "user:ann"))
		}
	}
	changes = append(changes, grant("group:eng", "member", "user:eve"), grant("doc:03", "viewer", "user:*"), grant("doc:03", "blocked", "user:bob"))
	dan := grant("doc:05", "viewer", "user:dan")
	dan.GetGrant().Condition = "office"
	n.apply(t, store, append(changes, dan)...)
	return store
}

func TestListObjects(t *testing.T) {
	n := newNode(t)
	store := listStore(t, n)
	ctx := context10(t)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("doc:%02d", 2*i))
	}
	for _, size := range []uint32{1, 3, 7, 20, 21, 1000, 0} {
		var got []string
		q := &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc", PageSize: size}
		revision := uint64(0)
		for pages := 0; ; pages++ {
			r, err := n.PermissionServiceClient.ListObjects(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			if size > 0 && len(r.Objects) > int(size) || revision != 0 && r.Revision != revision || r.Token == "" || r.Model == "" || r.EvaluatedAt == nil {
				t.Fatalf("page %d of %d: %v, first at revision %d", pages, size, r, revision)
			}
			revision = r.Revision
			got = append(got, r.Objects...)
			if q.PageToken = r.NextPageToken; q.PageToken == "" {
				break
			}
			// What is granted meanwhile is not on any page.
			n.apply(t, store, grant(fmt.Sprintf("doc:%02d-new-%d", 2*pages, size), "owner", "user:ann"))
		}
		n.undo(t, store, "-new-")
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v, want %v", size, got, want)
		}
	}
	// The stream is the same list, and goes on from any page.
	stream := func(q *pb.ListObjectsRequest) (got []string, pages []*pb.ListObjectsResponse) {
		t.Helper()
		s, err := n.StreamObjects(ctx, &pb.StreamObjectsRequest{List: q})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for s.Receive() {
			pages = append(pages, s.Msg().Page)
			got = append(got, s.Msg().Page.Objects...)
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		return got, pages
	}
	q := &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc", PageSize: 6}
	got, pages := stream(q)
	if !slices.Equal(got, want) || len(pages) < 4 || pages[len(pages)-1].NextPageToken != "" {
		t.Errorf("the stream has %d pages with %v", len(pages), got)
	}
	q.PageToken = pages[0].NextPageToken
	if rest, _ := stream(q); !slices.Equal(rest, want[6:]) {
		t.Errorf("after its first page the stream has %v", rest)
	}
	none, pages := stream(&pb.ListObjectsRequest{Store: store, Subject: "user:nobody", Relation: "owner", Type: "doc"})
	if len(none) != 0 || len(pages) != 1 {
		t.Errorf("an empty list is %d pages with %v, want one without items", len(pages), none)
	}
	// With HTTP GET and JSON, as from a browser or curl.
	request, err := protojson.Marshal(&pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc", PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + n.address + "/grantlog.v1.PermissionService/ListObjects?" + url.Values{"encoding": {"json"}, "message": {string(request)}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Objects []string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || !slices.Equal(answer.Objects, want[:2]) {
		t.Errorf("over GET: %v, %v", answer, err)
	}
}

// undo revokes what was granted on objects with a part of their names.
func (n *node) undo(t *testing.T, store, part string) {
	t.Helper()
	r, err := n.PermissionServiceClient.ReadTuples(context10(t), &pb.ReadTuplesRequest{Store: store, PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range r.Tuples {
		if strings.Contains(g.Tuple.Object, part) {
			n.apply(t, store, &pb.Change{Change: &pb.Change_Revoke{Revoke: &pb.Revoke{Tuple: g.Tuple}}})
		}
	}
}

func TestListSubjects(t *testing.T) {
	n := newNode(t)
	store := listStore(t, n)
	ctx := context10(t)
	r, err := n.PermissionServiceClient.ListSubjects(ctx, &pb.ListSubjectsRequest{Store: store, Kind: "user", Relation: "reader", Object: "doc:03"})
	if err != nil || !slices.Equal(r.Subjects, []string{"user:*", "user:eve"}) || !slices.Equal(r.Excluded, []string{"user:bob"}) {
		t.Errorf("readers = %v, %v, want everyone, eve by name, without bob", r, err)
	}
	r, err = n.PermissionServiceClient.ListSubjects(ctx, &pb.ListSubjectsRequest{Store: store, Kind: "group#member", Relation: "reader", Object: "doc:04"})
	if err != nil || !slices.Equal(r.Subjects, []string{"group:eng#member"}) {
		t.Errorf("usersets = %v, %v", r, err)
	}
	// What has no answer fails the list by name, or is beside it.
	ask := &pb.ListSubjectsRequest{Store: store, Kind: "user", Relation: "viewer", Object: "doc:05"}
	_, err = n.PermissionServiceClient.ListSubjects(ctx, ask)
	if missing, ok := detailOf[*pb.MissingContext](t, err); connect.CodeOf(err) != connect.CodeInvalidArgument || !ok || missing.Condition != "office" || !strings.Contains(err.Error(), "user:dan") {
		t.Errorf("error = %v with %v, want one that names user:dan and what is missing", err, missing)
	}
	ask.Undecided = true
	r, err = n.PermissionServiceClient.ListSubjects(ctx, ask)
	if err != nil || !slices.Equal(r.Subjects, []string{"user:eve"}) || len(r.Undecided) != 1 || r.Undecided[0].Item != "user:dan" || r.Undecided[0].Error.Code != "invalid_argument" {
		t.Errorf("with what is undecided: %v, %v", r, err)
	}
	ask.Context = contextOf(t, map[string]any{"country": "fr", "allowed": []any{"fr"}})
	r, err = n.PermissionServiceClient.ListSubjects(ctx, ask)
	if err != nil || !slices.Equal(r.Subjects, []string{"user:dan", "user:eve"}) || len(r.Undecided) != 0 {
		t.Errorf("with context: %v, %v", r, err)
	}
	ask.Contextual = []*pb.ContextualTuple{{Tuple: tupleOf("group:eng", "member", "user:zoe")}}
	s, err := n.StreamSubjects(ctx, &pb.StreamSubjectsRequest{List: ask})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var got []string
	for s.Receive() {
		got = append(got, s.Msg().Page.Subjects...)
	}
	if s.Err() != nil || !slices.Equal(got, []string{"user:dan", "user:eve", "user:zoe"}) {
		t.Errorf("streamed with a contextual tuple: %v, %v", got, s.Err())
	}
}

func TestListRelationsAndExpand(t *testing.T) {
	n := newNode(t)
	store := listStore(t, n)
	ctx := context10(t)
	r, err := n.PermissionServiceClient.ListRelations(ctx, &pb.ListRelationsRequest{Store: store, Subject: "user:ann", Object: "doc:04"})
	if err != nil || !slices.Equal(r.Relations, []string{"owner", "viewer", "reader"}) {
		t.Errorf("relations = %v, %v, want them in the model's order", r, err)
	}
	r, err = n.PermissionServiceClient.ListRelations(ctx, &pb.ListRelationsRequest{Store: store, Subject: "user:dan", Object: "doc:05", Relations: []string{"reader", "owner"}, Undecided: true})
	if err != nil || len(r.Relations) != 0 || len(r.Undecided) != 1 || r.Undecided[0].Item != "reader" {
		t.Errorf("relations = %v, %v, want reader undecided", r, err)
	}
	e, err := n.PermissionServiceClient.Expand(ctx, &pb.ExpandRequest{Store: store, Object: "doc:04", Relation: "reader", Levels: 3})
	if err != nil {
		t.Fatal(err)
	}
	tree := e.Tree
	if tree.Operation != pb.Tree_EXCLUSION || len(tree.Branches) != 2 || tree.Branches[0].Operation != pb.Tree_COMPUTED || tree.Branches[0].Rule != "viewer" {
		t.Fatalf("tree = %v", tree)
	}
	viewer := tree.Branches[0].Branches[0]
	if viewer.Operation != pb.Tree_UNION || viewer.Branches[0].Grants[0].Grant.Tuple.Subject != "group:eng#member" ||
		viewer.Branches[0].Grants[0].Leads.GetRelation() != "member" || viewer.Branches[1].Branches[0].Grants[0].Grant.Tuple.Subject != "user:ann" {
		t.Errorf("viewers = %v", viewer)
	}
	e, err = n.PermissionServiceClient.Expand(ctx, &pb.ExpandRequest{Store: store, Object: "doc:05", Relation: "viewer"})
	if err != nil || e.Tree.Branches[0].Grants[0].Error.GetCode() != "invalid_argument" || e.Tree.Branches[0].Grants[0].Grant.Condition != "office" {
		t.Errorf("tree = %v, %v, want dan's grant undecided", e, err)
	}
}

func TestReadTuples(t *testing.T) {
	n := newNode(t)
	store := listStore(t, n)
	ctx := context10(t)
	var got []*pb.GrantedTuple
	q := &pb.ReadTuplesRequest{Store: store, Object: "doc", Subject: "user", PageSize: 5}
	for {
		r, err := n.PermissionServiceClient.ReadTuples(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Tuples...)
		if q.PageToken = r.NextPageToken; q.PageToken == "" {
			break
		}
	}
	if len(got) != 23 || got[0].Revision != 3 || got[0].State != pb.GrantedTuple_ACTIVE {
		t.Errorf("%d tuples, the first %v", len(got), got[0])
	}
	s, err := n.StreamTuples(ctx, &pb.StreamTuplesRequest{Read: &pb.ReadTuplesRequest{Store: store}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all := 0
	for s.Receive() {
		all += len(s.Msg().Page.Tuples)
	}
	if s.Err() != nil || all != 64 {
		t.Errorf("streamed %d tuples, %v; want 64", all, s.Err())
	}
}

// TestBadLists: what is wrong with a list is named, whichever list it is.
func TestBadLists(t *testing.T) {
	n := newNode(t)
	store, other := listStore(t, n), n.store(t, testModel)
	ctx := context10(t)
	objects := func(change func(*pb.ListObjectsRequest)) func() error {
		return func() error {
			q := &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc", PageSize: 2}
			change(q)
			_, err := n.PermissionServiceClient.ListObjects(ctx, q)
			s, streamErr := n.StreamObjects(ctx, &pb.StreamObjectsRequest{List: q})
			if streamErr == nil {
				for s.Receive() {
				}
				streamErr = s.Err()
				s.Close()
			}
			if fmt.Sprint(streamErr) != fmt.Sprint(err) {
				t.Errorf("the stream errs with %v, the page with %v", streamErr, err)
			}
			return err
		}
	}
	first, err := n.PermissionServiceClient.ListObjects(ctx, &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc", PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	next := first.NextPageToken
	token, err := query.ParsePageToken(next)
	if err != nil {
		t.Fatal(err)
	}
	foreign, future, forged, old, early, unknown := token, token, token, token, token, token
	old.Time -= int64(2 * query.PageTokenAge)
	early.Time += int64(time.Hour)
	unknown.Model = ledger.NewID()
	granted, err := n.PermissionServiceClient.ReadTuples(ctx, &pb.ReadTuplesRequest{Store: store, Object: "doc:03", Relation: "viewer", PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := query.ParsePageToken(granted.NextPageToken)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.After = "a:b#c@d:e"
	foreign.View.Log[0]++
	future.View.Revision += 1000
	forged.View.Leaf[0]++
	subjects := func(change func(*pb.ListSubjectsRequest)) func() error {
		return func() error {
			q := &pb.ListSubjectsRequest{Store: store, Kind: "user", Relation: "owner", Object: "doc:04"}
			change(q)
			_, err := n.PermissionServiceClient.ListSubjects(ctx, q)
			return err
		}
	}
	read := func(q *pb.ReadTuplesRequest) func() error {
		return func() error {
			q.Store = store
			_, err := n.PermissionServiceClient.ReadTuples(ctx, q)
			return err
		}
	}
	many := make([]*pb.ContextualTuple, query.MaxContextual+1)
	for i := range many {
		many[i] = &pb.ContextualTuple{Tuple: tupleOf(fmt.Sprintf("doc:%d", i), "owner", "user:ann")}
	}
	const bad, missing = connect.CodeInvalidArgument, connect.CodeNotFound
	for _, tt := range []struct {
		name  string
		ask   func() error
		code  connect.Code
		why   pb.Rejection_Code
		field string
		rule  string
	}{
		{"no store", objects(func(q *pb.ListObjectsRequest) { q.Store = "" }), bad, pb.Rejection_MALFORMED, "store", "empty"},
		{"unknown store", objects(func(q *pb.ListObjectsRequest) { q.Store = ledger.NewID().String() }), missing, pb.Rejection_NOT_FOUND, "store", "not found"},
		{"unknown model", objects(func(q *pb.ListObjectsRequest) { q.Model = ledger.NewID().String() }), missing, pb.Rejection_NOT_FOUND, "model", "not found"},
		{"no subject", objects(func(q *pb.ListObjectsRequest) { q.Subject = "" }), bad, pb.Rejection_MALFORMED, "subject", "type:id"},
		{"malformed subject", objects(func(q *pb.ListObjectsRequest) { q.Subject = "user:a b" }), bad, pb.Rejection_MALFORMED, "subject.id", "U+0020"},
		{"no type", objects(func(q *pb.ListObjectsRequest) { q.Type = "" }), bad, pb.Rejection_MALFORMED, "type", "empty"},
		{"type with an id", objects(func(q *pb.ListObjectsRequest) { q.Type = "doc:1" }), bad, pb.Rejection_MALFORMED, "type", "must not hold"},
		{"unknown type", objects(func(q *pb.ListObjectsRequest) { q.Type = "file" }), bad, pb.Rejection_INVALID, "type", "no type"},
		{"no relation", objects(func(q *pb.ListObjectsRequest) { q.Relation = "" }), bad, pb.Rejection_MALFORMED, "relation", "empty"},
		{"unknown relation", objects(func(q *pb.ListObjectsRequest) { q.Relation = "admin" }), bad, pb.Rejection_INVALID, "relation", "no relation"},
		{"page size over the limit", objects(func(q *pb.ListObjectsRequest) { q.PageSize = 1001 }), bad, pb.Rejection_MALFORMED, "page_size", "at most 1000, is 1001"},
		{"malformed page token", objects(func(q *pb.ListObjectsRequest) { q.PageToken = "2" }), bad, pb.Rejection_MALFORMED, "page_token", "page token"},
		{"a token that is none of a page", objects(func(q *pb.ListObjectsRequest) { q.PageToken = first.Token }), bad, pb.Rejection_MALFORMED, "page_token", "page token"},
		{"page token of another relation", objects(func(q *pb.ListObjectsRequest) { q.PageToken, q.Relation = next, "viewer" }), bad, pb.Rejection_INVALID, "page_token", "another question"},
		{"page token with other context", objects(func(q *pb.ListObjectsRequest) {
			q.PageToken, q.Context = next, contextOf(t, map[string]any{"country": "fr"})
		}), bad, pb.Rejection_INVALID, "page_token", "another question"},
		{"page token of another kind of list", subjects(func(q *pb.ListSubjectsRequest) { q.PageToken = next }), bad, pb.Rejection_INVALID, "page_token", "another question"},
		{"page token of another store", objects(func(q *pb.ListObjectsRequest) { q.PageToken, q.Store = next, other }), bad, pb.Rejection_INVALID, "page_token", "another log or store"},
		{"page token of another log", objects(func(q *pb.ListObjectsRequest) { q.PageToken = foreign.String() }), bad, pb.Rejection_INVALID, "page_token", "another log or store"},
		{"page token of a revision that never was", objects(func(q *pb.ListObjectsRequest) { q.PageToken = future.String() }), bad, pb.Rejection_MALFORMED, "page_token", "invalid token"},
		{"page token of a past that never was", objects(func(q *pb.ListObjectsRequest) { q.PageToken = forged.String() }), bad, pb.Rejection_MALFORMED, "page_token", "invalid token"},
		{"page token of long ago", objects(func(q *pb.ListObjectsRequest) { q.PageToken = old.String() }), connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "page_token", "has expired"},
		{"page token of the future", objects(func(q *pb.ListObjectsRequest) { q.PageToken = early.String() }), connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "page_token", "has expired"},
		{"page token of an unknown model", objects(func(q *pb.ListObjectsRequest) { q.PageToken = unknown.String() }), missing, pb.Rejection_NOT_FOUND, "page_token", "not found"},
		{"page token after a tuple that is not read", read(&pb.ReadTuplesRequest{Object: "doc:03", Relation: "viewer", PageToken: elsewhere.String()}), bad, pb.Rejection_MALFORMED, "page_token", "page token"},
		{"page token under another model", objects(func(q *pb.ListObjectsRequest) { q.PageToken, q.Model = next, ledger.NewID().String() }), bad, pb.Rejection_INVALID, "page_token", "under model"},
		{"contextual tuples over the limit", objects(func(q *pb.ListObjectsRequest) { q.Contextual = many }), bad, pb.Rejection_MALFORMED, "contextual", "at most 100, are 101"},
		{"the same contextual tuple twice", objects(func(q *pb.ListObjectsRequest) { q.Contextual = []*pb.ContextualTuple{many[0], many[0]} }), bad, pb.Rejection_INVALID, "contextual[1].tuple", "twice"},
		{"a contextual tuple that the model refuses", objects(func(q *pb.ListObjectsRequest) {
			q.Contextual = []*pb.ContextualTuple{{Tuple: tupleOf("doc:1", "owner", "group:eng#member")}}
		}), bad, pb.Rejection_INVALID, "contextual[0].tuple.subject", "may be granted"},
		{"no kind", subjects(func(q *pb.ListSubjectsRequest) { q.Kind = "" }), bad, pb.Rejection_MALFORMED, "kind.type", "empty"},
		{"a kind with an id", subjects(func(q *pb.ListSubjectsRequest) { q.Kind = "user:ann" }), bad, pb.Rejection_MALFORMED, "kind", "without an id"},
		{"a kind that could never hold it", subjects(func(q *pb.ListSubjectsRequest) { q.Kind = "group#member" }), bad, pb.Rejection_INVALID, "kind", "could hold"},
		{"malformed object", subjects(func(q *pb.ListSubjectsRequest) { q.Object = "doc:*" }), bad, pb.Rejection_MALFORMED, "object.id", "'*' is for subjects"},
		{"unknown type in a filter", read(&pb.ReadTuplesRequest{Object: "file"}), bad, pb.Rejection_INVALID, "object", "no type"},
		{"a filter that nothing could match", read(&pb.ReadTuplesRequest{Object: "doc", Relation: "owner", Subject: "group#member"}), bad, pb.Rejection_INVALID, "subject", "may not be granted"},
		{"a relation of no type", read(&pb.ReadTuplesRequest{Relation: "owner"}), bad, pb.Rejection_INVALID, "object", "type of object"},
		{"a malformed subject in a filter", read(&pb.ReadTuplesRequest{Subject: "user:"}), bad, pb.Rejection_MALFORMED, "subject.id", "empty"},
		{"levels over the limit", func() error {
			_, err := n.PermissionServiceClient.Expand(ctx, &pb.ExpandRequest{Store: store, Object: "doc:1", Relation: "owner", Levels: 65})
			return err
		}, bad, pb.Rejection_INVALID, "levels", "1 to 64"},
		{"a relation twice", func() error {
			_, err := n.PermissionServiceClient.ListRelations(ctx, &pb.ListRelationsRequest{Store: store, Object: "doc:1", Subject: "user:ann", Relations: []string{"owner", "owner"}})
			return err
		}, bad, pb.Rejection_INVALID, "relations", "twice"},
		{"a malformed relation", func() error {
			_, err := n.PermissionServiceClient.ListRelations(ctx, &pb.ListRelationsRequest{Store: store, Object: "doc:1", Subject: "user:ann", Relations: []string{"owner", "a b"}})
			return err
		}, bad, pb.Rejection_MALFORMED, "relations[1]", "U+0020"},
	} {
		t.Run(tt.name, func(t *testing.T) { wantRejection(t, tt.ask(), tt.code, tt.why, tt.field, tt.rule) })
	}
	for _, body := range []string{`"pageSize": -1`, `"pageSize": "many"`, `"pagesize": 3`, `"context": {"country": NaN}`} {
		if status, answer := n.post(t, "/grantlog.v1.PermissionService/ListObjects", `{"store": "`+store+`", "subject": "user:ann", "relation": "owner", "type": "doc", `+body+`}`); status != http.StatusBadRequest {
			t.Errorf("%s = %d, %s, want status 400", body, status, answer)
		}
	}
	_, err = n.PermissionServiceClient.ListObjects(ctx, &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc",
		Context: contextOf(t, map[string]any{"country": strings.Repeat("x", 10<<20)})})
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("10 MB of context = %v, want it refused for its size", err)
	}
	_, err = n.PermissionServiceClient.ListObjects(ctx, &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc",
		Context: contextOf(t, map[string]any{"country": strings.Repeat("x", 100<<10)})})
	wantRejection(t, err, bad, pb.Rejection_MALFORMED, "context", "at most 65536 bytes")
}

// TestListBudget: a list that costs too much says what was spent.
func TestListBudget(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Engine = query.NewEngine(query.Budgets{List: model.Budget{Rows: 30}, Check: model.Budget{Depth: 1}})
		c.Models = dsl.Limits{Types: 3}
	})
	store := listStore(t, n)
	_, err := n.PermissionServiceClient.ListObjects(context10(t), &pb.ListObjectsRequest{Store: store, Subject: "user:eve", Relation: "viewer", Type: "doc"})
	spent, ok := detailOf[*pb.BudgetExhausted](t, err)
	if connect.CodeOf(err) != connect.CodeResourceExhausted || !ok || spent.What != "rows" || spent.Limit != 30 || spent.Rows != 30 || spent.Memory == 0 {
		t.Errorf("error = %v with %v, want 30 rows exhausted", err, spent)
	}
	// A reading goes on, a budget at a time.
	q := &pb.ReadTuplesRequest{Store: store, Object: "doc", Relation: "blocked"}
	found, pages := 0, 0
	for {
		r, err := n.PermissionServiceClient.ReadTuples(context10(t), q)
		if err != nil {
			t.Fatal(err)
		}
		found, pages = found+len(r.Tuples), pages+1
		if q.PageToken = r.NextPageToken; q.PageToken == "" {
			break
		}
	}
	if found != 1 || pages != 3 {
		t.Errorf("found %d tuples in %d pages, want the one of 63 in three times 30", found, pages)
	}
	s, err := n.StreamTuples(context10(t), &pb.StreamTuplesRequest{Read: &pb.ReadTuplesRequest{Store: store, Object: "doc", Relation: "blocked"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	next := ""
	for s.Receive() {
		next = s.Msg().Page.NextPageToken
	}
	if connect.CodeOf(s.Err()) != connect.CodeResourceExhausted || next == "" {
		t.Errorf("the stream ends with %v, and says to go on at %q", s.Err(), next)
	}
	_, err = n.Submit(context10(t), &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{
		{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: strings.Replace(testModel, "type user", "type more\ntype user", 1)}}}}}})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "changes[0].model.source", "at most 3 types")
}

// TestBatchOf10000 asks as many questions as one call may.
func TestBatchOf10000(t *testing.T) {
	n := newNode(t)
	store := listStore(t, n)
	items := make([]*pb.BatchCheckRequest_Item, query.MaxBatch)
	for i := range items {
		items[i] = &pb.BatchCheckRequest_Item{Tuple: tupleOf(fmt.Sprintf("doc:%02d", i%40), "owner", "user:ann")}
	}
	items[7] = &pb.BatchCheckRequest_Item{Tuple: tupleOf("doc:07", "admin", "user:ann")}
	items[8] = &pb.BatchCheckRequest_Item{Tuple: tupleOf("doc", "owner", "user:ann")}
	answer, err := n.BatchCheck(context10(t), &pb.BatchCheckRequest{Store: store, Items: items})
	if err != nil || len(answer.Results) != len(items) {
		t.Fatalf("%d results, %v", len(answer.GetResults()), err)
	}
	for i, r := range answer.Results {
		switch {
		case i == 7 || i == 8:
			if r.Allowed || r.Error.GetCode() != "invalid_argument" {
				t.Errorf("item %d = %v, want its own error", i, r)
			}
		case r.Error != nil || r.Allowed != (i%2 == 0):
			t.Fatalf("item %d = %v", i, r)
		}
	}
}

// TestStreamLeft: a caller that leaves a stream in its middle leaves nothing running.
func TestStreamLeft(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	for i := range 20 {
		var changes []*pb.Change
		for j := range 1000 {
			changes = append(changes, grant(fmt.Sprintf("doc:%d-%d", i, j), "owner", "user:ann"))
		}
		n.apply(t, store, changes...)
	}
	before := runtime.NumGoroutine()
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		s, err := n.StreamObjects(ctx, &pb.StreamObjectsRequest{List: &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "owner", Type: "doc"}})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Receive() {
			t.Fatal(s.Err())
		}
		cancel()
		for s.Receive() {
		}
		if err := s.Err(); err != nil && connect.CodeOf(err) != connect.CodeCanceled && !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v", err)
		}
		s.Close()
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+2; time.Sleep(5 * time.Millisecond) { // connections that idle are not of the streams
		http.DefaultClient.CloseIdleConnections()
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
