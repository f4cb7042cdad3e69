package serve

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// told reads a history to its end, each item as one line.
func told(t *testing.T, n *node, req *pb.HistoryRequest) (answers []*pb.HistoryResponse, lines []string) {
	t.Helper()
	stream, err := n.History(context10(t), req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		m := stream.Msg()
		answers = append(answers, m)
		for _, item := range m.Items {
			lines = append(lines, fmt.Sprintf("%s @%d %s by %s %s", item.Kind, item.Command.GetRevision(), item.Grant.GetTuple().GetSubject(), item.Command.GetActor(), item.Command.GetTicket()))
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatalf("history: %v", err)
	}
	return answers, lines
}

func TestHistory(t *testing.T) {
	log := ledgertest.NewLog(t)
	later := func(c *Config) { c.Now = func() time.Time { return time.Now().Add(2 * time.Hour) } }
	n, other := newReplica(t, log, later), newReplica(t, log, later)
	now := newReplica(t, log)
	store := n.store(t, testModel)
	command := func(actor, ticket string, changes ...*pb.Change) *pb.SubmitResponse {
		t.Helper()
		a := n.submit(t, actor, &pb.Command{Store: store, Ticket: ticket, Reason: "because", Channel: "console", Changes: changes})
		if a.Outcome.Kind != pb.Outcome_APPLIED {
			t.Fatalf("submit: %v", a)
		}
		return a
	}
	hour := grant("doc:plan", "viewer", "user:ann")
	hour.GetGrant().ExpiresAfter = durationpb.New(time.Hour)
	owned := grant("doc:plan", "viewer", "user:bob")
	owned.GetGrant().Owner = "hr"
	command("root", "T-1", hour, grant("doc:plan", "viewer", "user:bob")) // 3
	command("root", "T-2", owned)                                         // 4
	command("root", "T-3", owned)                                         // 5, without effect
	command("eve", "", revoke("doc:plan", "viewer", "user:bob"))          // 6
	last := command("root", "T-4", grant("doc:note", "owner", "user:ann"), grant("doc:plan", "viewer", "user:bob"))
	plan := []string{
		"GRANTED @3 user:ann by root T-1",
		"GRANTED @3 user:bob by root T-1",
		"CHANGED @4 user:bob by root T-2",
		"REVOKED @6 user:bob by eve ",
		"GRANTED @7 user:bob by root T-4",
		"EXPIRED @3 user:ann by root T-1",
	}
	at := func(rev uint64) *pb.Freshness {
		return &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: rev}}
	}
	latest := &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}
	for _, tt := range []struct {
		name string
		node *node
		req  *pb.HistoryRequest
		want []string
	}{
		{"object", n, &pb.HistoryRequest{Object: "doc:plan"}, plan},
		{"object, before the expiry", now, &pb.HistoryRequest{Object: "doc:plan", Freshness: latest}, plan[:5]},
		{"object, in the past", n, &pb.HistoryRequest{Object: "doc:plan", Freshness: at(5)}, plan[:3]},
		{"tuple", n, &pb.HistoryRequest{Tuple: tupleOf("doc:plan", "viewer", "user:ann")}, []string{plan[0], plan[5]}},
		{"subject", n, &pb.HistoryRequest{Subject: "user:ann"}, []string{plan[0], "GRANTED @7 user:ann by root T-4", plan[5]}},
		{"what has none", n, &pb.HistoryRequest{Object: "doc:none"}, nil},
		{"a userset that has none", n, &pb.HistoryRequest{Subject: "group:eng#member"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Store = store
			answers, got := told(t, tt.node, tt.req)
			if !slices.Equal(got, tt.want) {
				t.Errorf("history =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if len(answers) != 1 || answers[0].Revision == 0 || answers[0].EvaluatedAt == nil || answers[0].ResumeToken == "" {
				t.Errorf("answers = %v", answers)
			}
		})
	}
	answers, _ := told(t, n, &pb.HistoryRequest{Store: store, Object: "doc:plan"})
	changed, revoked, expired := answers[0].Items[2], answers[0].Items[3], answers[0].Items[5]
	if changed.Grant.Owner != "hr" || changed.Grant.Revision != 4 || changed.Command.Reason != "because" || changed.Command.Channel != "console" || changed.Command.Command == "" {
		t.Errorf("the change = %v", changed)
	}
	if revoked.Grant.Owner != "hr" || revoked.Grant.Revision != 4 || !revoked.Time.AsTime().Equal(revoked.Command.Time.AsTime()) {
		t.Errorf("the revoke = %v, want the grant as it was", revoked)
	}
	if e := expired.Grant.ExpiresAt; e == nil || !expired.Time.AsTime().Equal(e.AsTime()) || !expired.Command.Time.AsTime().Add(time.Hour).Equal(e.AsTime()) {
		t.Errorf("the expiry = %v", expired)
	}

	// A moment between two entries, and just at and before an expiry.
	for _, tt := range []struct {
		at   time.Time
		want int
	}{{changed.Time.AsTime(), 3}, {changed.Time.AsTime().Add(-1), 2}} {
		_, got := told(t, n, &pb.HistoryRequest{Store: store, Object: "doc:plan", Freshness: &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: timestamppb.New(tt.at)}}})
		if len(got) != tt.want {
			t.Errorf("at %s: %q, want %d items", tt.at, got, tt.want)
		}
	}

	// Resumed elsewhere, after the store is deleted and more was granted, it is the same.
	for range streamEntries + 20 {
		command("root", "", grant("doc:plan", "owner", "user:ann"))
		command("root", "", revoke("doc:plan", "owner", "user:ann"))
	}
	req := &pb.HistoryRequest{Store: store, Object: "doc:plan"}
	whole, all := told(t, n, req)
	if len(whole) < 3 || len(all) != len(plan)+2*(streamEntries+20) {
		t.Fatalf("%d items in %d answers", len(all), len(whole))
	}
	command("root", "", grant("doc:plan", "owner", "user:ann"))
	if _, err := n.DeleteStore(context10(t), &pb.DeleteStoreRequest{Store: store}); err != nil {
		t.Fatal(err)
	}
	req.ResumeToken = whole[0].ResumeToken
	rest, others := told(t, other, req)
	if !slices.Equal(others, all[streamEntries:]) || rest[0].Revision != whole[0].Revision || !rest[0].EvaluatedAt.AsTime().Equal(whole[0].EvaluatedAt.AsTime()) {
		t.Errorf("resumed: %d items at %d, want %d at %d", len(others), rest[0].Revision, len(all)-streamEntries, whole[0].Revision)
	}
	req.ResumeToken = whole[len(whole)-1].ResumeToken
	if _, none := told(t, other, req); len(none) != 0 {
		t.Errorf("resumed after the end: %q", none)
	}
	if _, again := told(t, n, &pb.HistoryRequest{Store: store, Object: "doc:plan"}); len(again) != len(all)+1 {
		t.Errorf("the deleted store tells %d items, want %d", len(again), len(all)+1)
	}

	for _, tt := range []struct {
		name  string
		req   *pb.HistoryRequest
		code  connect.Code
		why   pb.Rejection_Code
		field string
		part  string
	}{
		{"nothing", &pb.HistoryRequest{}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "", "exactly one of"},
		{"two", &pb.HistoryRequest{Object: "doc:plan", Subject: "user:ann"}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "", "exactly one of"},
		{"malformed object", &pb.HistoryRequest{Object: "doc"}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "object", "type:id"},
		{"malformed subject", &pb.HistoryRequest{Subject: "user:"}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "subject.id", "must not be empty"},
		{"malformed tuple", &pb.HistoryRequest{Tuple: tupleOf("doc:plan", "", "user:ann")}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "tuple.relation", ""},
		{"unknown type", &pb.HistoryRequest{Object: "lion:leo"}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "object", "no model of the store"},
		{"unknown subject", &pb.HistoryRequest{Subject: "lion:leo"}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "subject", "no model of the store"},
		{"unknown relation", &pb.HistoryRequest{Tuple: tupleOf("doc:plan", "eats", "user:ann")}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "tuple.relation", "no model of the store"},
		{"before there was a model", &pb.HistoryRequest{Object: "doc:plan", Freshness: at(1)}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "object", "no model of the store"},
		{"the future", &pb.HistoryRequest{Object: "doc:plan", Freshness: at(100_000)}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "freshness.at_revision", "in the future"},
		{"system", &pb.HistoryRequest{Store: "system", Object: "doc:plan"}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "must be the ULID"},
		{"unknown store", &pb.HistoryRequest{Store: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Object: "doc:plan"}, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "not found"},
		{"no token", &pb.HistoryRequest{Object: "doc:plan", ResumeToken: last.Token}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "resume_token", "resume_token of an answer"},
		{"token of another history", &pb.HistoryRequest{Object: "doc:note", ResumeToken: whole[0].ResumeToken}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "resume_token", "another history"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.req.Store == "" {
				tt.req.Store = store
			}
			stream, err := n.History(context10(t), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if stream.Receive() {
				t.Errorf("history answered %v", stream.Msg())
			}
			wantRejection(t, stream.Err(), tt.code, tt.why, tt.field, tt.part)
		})
	}
}
