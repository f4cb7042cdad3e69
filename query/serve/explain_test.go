package serve

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestExplainCall(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	ctx := context10(t)
	apply := func(ticket string, change *pb.Change) *pb.SubmitResponse {
		t.Helper()
		r, err := n.Submit(ctx, &pb.SubmitRequest{Actor: "bo", Command: &pb.Command{Store: store, Reason: "a look", Ticket: ticket, Channel: "portal", Changes: []*pb.Change{change}}})
		if err != nil || r.Outcome.Kind != pb.Outcome_APPLIED {
			t.Fatalf("Submit = %v, %v", r, err)
		}
		return r
	}
	apply("T-1", grant("doc:a", "viewer", "group:eng#member"))
	joined := apply("T-2", grant("group:eng", "member", "user:ann"))
	left := apply("T-3", revoke("group:eng", "member", "user:ann"))
	dan := grant("doc:a", "viewer", "user:dan")
	dan.GetGrant().Condition = "office"
	later := grant("doc:a", "viewer", "user:eve")
	later.GetGrant().NotBefore = timestamppb.New(time.Now().Add(time.Hour))
	apply("T-4", dan)
	apply("T-5", later)
	ask := func(q *pb.ExplainRequest) *pb.ExplainResponse {
		t.Helper()
		q.Store = store
		r, err := n.Explain(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if r.Token == "" || r.Model == "" || r.EvaluatedAt == nil || r.Revision == 0 || r.Tree.GetObject() != q.Tuple.Object || r.Tree.Relation != q.Tuple.Relation {
			t.Fatalf("Explain = %v", r)
		}
		return r
	}
	by := func(p *pb.Provenance, r *pb.SubmitResponse, ticket string) bool {
		return p.GetRevision() == r.Revision && p.Actor == "bo" && p.Ticket == ticket && p.Reason == "a look" && p.Channel == "portal" &&
			p.Method == pb.Entry_NONE && p.Command == r.Id && p.Time != nil
	}

	// Denied: who left, and by which command.
	r := ask(&pb.ExplainRequest{Tuple: tupleOf("doc:a", "viewer", "user:ann")})
	eng := r.Tree.Branches[0].Grants[2]
	member := eng.GetLeads().GetGrants()[0]
	if r.Allowed || r.Error != nil || r.Tree.Operation != pb.Tree_UNION || r.Tree.Verdict != pb.Explanation_HOLDS_NOT ||
		eng.State != pb.ExplainedGrant_COUNTS || eng.Grant.Tuple.Subject != "group:eng#member" || eng.Grant.State != pb.GrantedTuple_ACTIVE ||
		member.State != pb.ExplainedGrant_REVOKED || !by(member.Ended, left, "T-3") || !by(member.Made, joined, "T-2") {
		t.Errorf("of ann, who left: %v", r)
	}
	if turn := r.Turn; turn.Cause != pb.Turn_COMMAND || !by(turn.Command, left, "T-3") || !turn.Revoked || turn.Tuple.Subject != "user:ann" || turn.UndecidedBefore || turn.DependsOnTime {
		t.Errorf("since when: %v", turn)
	}
	if never := r.Tree.Branches[0].Grants[0]; never.State != pb.ExplainedGrant_NEVER || never.Made != nil || never.Grant.Revision != 0 {
		t.Errorf("what was never granted: %v", never)
	}

	// As of the past, and as a contextual tuple would have it.
	r = ask(&pb.ExplainRequest{Tuple: tupleOf("doc:a", "viewer", "user:ann"), Freshness: &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: joined.Revision}}})
	if !r.Allowed || r.Revision != joined.Revision || len(r.Tree.Branches) != 1 || len(r.Tree.Branches[0].Grants) != 1 || !by(r.Turn.Command, joined, "T-2") || r.Turn.Revoked {
		t.Errorf("of ann, who was there: %v", r)
	}
	r = ask(&pb.ExplainRequest{Tuple: tupleOf("doc:a", "viewer", "user:zoe"), Contextual: []*pb.ContextualTuple{{Tuple: tupleOf("doc:a", "viewer", "user:zoe")}}})
	if g := r.Tree.Branches[0].Grants[0]; !r.Allowed || !g.Contextual || g.Made != nil {
		t.Errorf("by a contextual tuple: %v", r)
	}
	r = ask(&pb.ExplainRequest{Tuple: tupleOf("doc:a", "viewer", "user:eve")})
	if g := r.Tree.Branches[0].Grants[0]; r.Allowed || g.State != pb.ExplainedGrant_NOT_YET || g.Grant.State != pb.GrantedTuple_NOT_YET || r.Turn.Cause != pb.Turn_NEVER || r.Turn.Time != nil || r.Turn.Command != nil {
		t.Errorf("of who may later: %v", r)
	}
	r = ask(&pb.ExplainRequest{Tuple: tupleOf("group:eng", "member", "group:eng#member")})
	if !r.Allowed || !r.Tree.Itself {
		t.Errorf("of the userset itself: %v", r)
	}

	// Without an answer, which is told, as Check has it.
	q := &pb.ExplainRequest{Tuple: tupleOf("doc:a", "reader", "user:dan")}
	r = ask(q)
	_, err := n.Check(ctx, &pb.CheckRequest{Store: store, Tuple: q.Tuple})
	if r.Allowed || r.Error == nil || r.Turn != nil || r.Error.Message != err.(*connect.Error).Message() || r.Error.Code != connect.CodeOf(err).String() || r.Error.Field != "context" || r.Tree.Verdict != pb.Explanation_UNDECIDED {
		t.Errorf("without context: %v; Check says %v", r, err)
	}

	// What is wrong with a question is said as of Check.
	for _, q := range []*pb.ExplainRequest{
		{Store: store, Tuple: tupleOf("file:a", "viewer", "user:ann")},
		{Store: store, Tuple: tupleOf("doc:a", "nothing", "user:ann")},
		{Store: store, Tuple: tupleOf("doc:a", "viewer", "robot:1")},
		{Store: store, Tuple: tupleOf("doc:a", "viewer", "ann")},
		{Store: store},
		{Store: "x", Tuple: tupleOf("doc:a", "viewer", "user:ann")},
		{Store: store, Tuple: tupleOf("doc:a", "viewer", "user:ann"), Contextual: []*pb.ContextualTuple{{Tuple: tupleOf("doc:a", "reader", "user:ann")}}},
		{Store: store, Tuple: tupleOf("doc:a", "viewer", "user:ann"), Freshness: &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: 99}}},
		{Store: store, Tuple: tupleOf("doc:a", "viewer", "user:ann"), Model: "x"},
	} {
		_, want := n.Check(ctx, &pb.CheckRequest{Store: q.Store, Tuple: q.Tuple, Contextual: q.Contextual, Freshness: q.Freshness, Model: q.Model})
		r, err := n.Explain(ctx, q)
		if err == nil || want == nil || err.Error() != want.Error() {
			t.Errorf("Explain(%v) = %v, %v; Check says %v", q, r, err, want)
		}
	}
}
