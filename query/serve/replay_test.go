package serve

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// submit sends a command of an actor, whatever becomes of it.
func (c *clients) submit(t testing.TB, actor string, cmd *pb.Command) *pb.SubmitResponse {
	t.Helper()
	answer, err := c.Submit(context10(t), &pb.SubmitRequest{Actor: actor, Command: cmd})
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	return answer
}

func revisionsOf(entries []*pb.Entry) (revs []uint64) {
	for _, e := range entries {
		revs = append(revs, e.Revision)
	}
	return revs
}

func TestReplayFilters(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel) // revisions 1 and 2
	command := func(ticket, channel string, changes ...*pb.Change) *pb.Command {
		return &pb.Command{Store: store, Ticket: ticket, Channel: channel, Changes: changes}
	}
	n.submit(t, "bob", command("T-1", "console", grant("doc:plan", "viewer", "user:ann"), grant("doc:note", "owner", "user:bob"))) // 3
	n.submit(t, "bob", command("T-2", "ci", grant("doc:plan", "viewer", "user:ann")))                                              // 4, without effect
	n.submit(t, "eve", command("", "", grant("doc:plan", "admin", "user:eve")))                                                    // 5, rejected
	again := command("T-3", "ci", revoke("doc:plan", "viewer", "user:ann"))
	again.Id = ledger.NewUUID().String()
	n.submit(t, "ann", again)                                                             // 6
	n.submit(t, "ann", again)                                                             // 7, a duplicate
	n.submit(t, "ann", command("", "", grant("group:eng", "member", "group:ops#member"))) // 8
	n.submit(t, "ann", command("", "", &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: "model\n  schema 1.1\ntype user\n"}}}))
	times := make(map[uint64]*timestamppb.Timestamp)
	_, all := replayed(t, n, &pb.ReplayRequest{Store: store})
	for _, e := range all {
		times[e.Revision] = e.Time
	}
	before := func(rev uint64) *timestamppb.Timestamp { return timestamppb.New(times[rev].AsTime().Add(-1)) }
	if len(all) != 9 {
		t.Fatalf("the store has %d entries", len(all))
	}
	type kinds = []pb.EntryFilter_Kind
	type outcomes = []pb.Outcome_Kind
	for _, tt := range []struct {
		name string
		req  *pb.ReplayRequest
		want []uint64
	}{
		{"an empty filter", &pb.ReplayRequest{Filter: &pb.EntryFilter{}}, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{"actor", &pb.ReplayRequest{Filter: &pb.EntryFilter{Actor: "bob"}}, []uint64{3, 4}},
		{"ticket", &pb.ReplayRequest{Filter: &pb.EntryFilter{Ticket: "T-3"}}, []uint64{6, 7}},
		{"subject", &pb.ReplayRequest{Filter: &pb.EntryFilter{Subject: "user:ann"}}, []uint64{3, 4, 6, 7}},
		{"a subject that was refused", &pb.ReplayRequest{Filter: &pb.EntryFilter{Subject: "user:eve"}}, []uint64{5}},
		{"userset", &pb.ReplayRequest{Filter: &pb.EntryFilter{Subject: "group:ops#member"}}, []uint64{8}},
		{"object", &pb.ReplayRequest{Filter: &pb.EntryFilter{Object: "doc:plan"}}, []uint64{3, 4, 5, 6, 7}},
		{"an object that is nowhere", &pb.ReplayRequest{Filter: &pb.EntryFilter{Object: "doc:none"}}, nil},
		{"type, of an older model", &pb.ReplayRequest{Filter: &pb.EntryFilter{Type: "group"}}, []uint64{8}},
		{"relation", &pb.ReplayRequest{Filter: &pb.EntryFilter{Relation: "owner"}}, []uint64{3}},
		{"fields of one change", &pb.ReplayRequest{Filter: &pb.EntryFilter{Subject: "user:ann", Relation: "owner"}}, nil},
		{"kinds", &pb.ReplayRequest{Filter: &pb.EntryFilter{Kinds: kinds{pb.EntryFilter_REVOKE, pb.EntryFilter_WRITE_MODEL}}}, []uint64{2, 6, 7, 9}},
		{"kind and object", &pb.ReplayRequest{Filter: &pb.EntryFilter{Kinds: kinds{pb.EntryFilter_REVOKE}, Object: "doc:plan"}}, []uint64{6, 7}},
		{"rejected", &pb.ReplayRequest{Filter: &pb.EntryFilter{Outcomes: outcomes{pb.Outcome_REJECTED}}}, []uint64{5}},
		{"rejected or a duplicate", &pb.ReplayRequest{Filter: &pb.EntryFilter{Outcomes: outcomes{pb.Outcome_REJECTED, pb.Outcome_DUPLICATE}}}, []uint64{5, 7}},
		{"without a ticket", &pb.ReplayRequest{Filter: &pb.EntryFilter{WithoutTicket: true}}, []uint64{1, 2, 5, 8, 9}},
		{"channel", &pb.ReplayRequest{Filter: &pb.EntryFilter{Channels: []string{"ci", "web"}}}, []uint64{4, 6, 7}},
		{"outside of channels", &pb.ReplayRequest{Filter: &pb.EntryFilter{OutsideChannels: []string{"ci"}, Kinds: kinds{pb.EntryFilter_GRANT}}}, []uint64{3, 5, 8}},
		{"two indexed fields", &pb.ReplayRequest{Filter: &pb.EntryFilter{Actor: "ann", Object: "doc:plan"}}, []uint64{6, 7}},
		{"to", &pb.ReplayRequest{To: 4, Filter: &pb.EntryFilter{Object: "doc:plan"}}, []uint64{3, 4}},
		{"from and to", &pb.ReplayRequest{Start: &pb.ReplayRequest_From{From: 4}, To: 5}, []uint64{4, 5}},
		{"from a time", &pb.ReplayRequest{Start: &pb.ReplayRequest_FromTime{FromTime: times[8]}}, []uint64{8, 9}},
		{"from just after a time", &pb.ReplayRequest{Start: &pb.ReplayRequest_FromTime{FromTime: timestamppb.New(times[8].AsTime().Add(1))}}, []uint64{9}},
		{"to a time", &pb.ReplayRequest{ToTime: times[2]}, []uint64{1, 2}},
		{"to just before a time", &pb.ReplayRequest{ToTime: before(2)}, []uint64{1}},
		{"from a time before the store", &pb.ReplayRequest{Start: &pb.ReplayRequest_FromTime{FromTime: &timestamppb.Timestamp{Seconds: 1}}, To: 2}, []uint64{1, 2}},
		{"from the newest", &pb.ReplayRequest{Start: &pb.ReplayRequest_From{From: 9}}, []uint64{9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Store = store
			answers, got := replayed(t, n, tt.req)
			if !slices.Equal(revisionsOf(got), tt.want) {
				t.Errorf("replay = %v, want %v", revisionsOf(got), tt.want)
			}
			if len(answers) == 0 || answers[len(answers)-1].ResumeToken == "" {
				t.Errorf("%d answers, the last without a token: %v", len(answers), answers)
			}
		})
	}

	future := timestamppb.New(time.Now().Add(time.Hour))
	many := make([]string, maxFilter+1)
	for i := range many {
		many[i] = fmt.Sprint("c", i)
	}
	for _, tt := range []struct {
		name  string
		req   *pb.ReplayRequest
		why   pb.Rejection_Code
		field string
		part  string
	}{
		{"unknown type", &pb.ReplayRequest{Filter: &pb.EntryFilter{Type: "lion"}}, pb.Rejection_INVALID, "filter.type", "no model of the store"},
		{"unknown relation", &pb.ReplayRequest{Filter: &pb.EntryFilter{Relation: "eats"}}, pb.Rejection_INVALID, "filter.relation", "no model of the store"},
		{"a relation of another type", &pb.ReplayRequest{Filter: &pb.EntryFilter{Type: "doc", Relation: "member"}}, pb.Rejection_INVALID, "filter.relation", `of type "doc"`},
		{"object of an unknown type", &pb.ReplayRequest{Filter: &pb.EntryFilter{Object: "lion:leo"}}, pb.Rejection_INVALID, "filter.object", "lion"},
		{"subject of an unknown type", &pb.ReplayRequest{Filter: &pb.EntryFilter{Subject: "lion:leo"}}, pb.Rejection_INVALID, "filter.subject", "lion"},
		{"subject of an unknown relation", &pb.ReplayRequest{Filter: &pb.EntryFilter{Subject: "group:eng#admin"}}, pb.Rejection_INVALID, "filter.subject", "admin"},
		{"any type, in system", &pb.ReplayRequest{Store: "system", Filter: &pb.EntryFilter{Type: "doc"}}, pb.Rejection_INVALID, "filter.type", "no model of the store"},
		{"malformed subject", &pb.ReplayRequest{Filter: &pb.EntryFilter{Subject: "ann"}}, pb.Rejection_MALFORMED, "filter.subject", "must be"},
		{"malformed object", &pb.ReplayRequest{Filter: &pb.EntryFilter{Object: "doc:*"}}, pb.Rejection_MALFORMED, "filter.object.id", "must name one"},
		{"malformed type", &pb.ReplayRequest{Filter: &pb.EntryFilter{Type: "a:b"}}, pb.Rejection_MALFORMED, "filter.type", "must not hold"},
		{"malformed relation", &pb.ReplayRequest{Filter: &pb.EntryFilter{Relation: "a#b"}}, pb.Rejection_MALFORMED, "filter.relation", "must not hold"},
		{"malformed actor", &pb.ReplayRequest{Filter: &pb.EntryFilter{Actor: "a\x01"}}, pb.Rejection_MALFORMED, "filter.actor", "control character"},
		{"malformed ticket", &pb.ReplayRequest{Filter: &pb.EntryFilter{Ticket: "a\x00"}}, pb.Rejection_MALFORMED, "filter.ticket", "control character"},
		{"empty channel", &pb.ReplayRequest{Filter: &pb.EntryFilter{Channels: []string{"a", ""}}}, pb.Rejection_MALFORMED, "filter.channels[1]", "must not be empty"},
		{"too many channels", &pb.ReplayRequest{Filter: &pb.EntryFilter{OutsideChannels: many}}, pb.Rejection_MALFORMED, "filter.outside_channels", "at most 100"},
		{"unknown kind", &pb.ReplayRequest{Filter: &pb.EntryFilter{Kinds: kinds{pb.EntryFilter_GRANT, 99}}}, pb.Rejection_MALFORMED, "filter.kinds[1]", "99"},
		{"no kind", &pb.ReplayRequest{Filter: &pb.EntryFilter{Kinds: kinds{0}}}, pb.Rejection_MALFORMED, "filter.kinds[0]", "KIND_UNSPECIFIED"},
		{"unknown outcome", &pb.ReplayRequest{Filter: &pb.EntryFilter{Outcomes: outcomes{0}}}, pb.Rejection_MALFORMED, "filter.outcomes[0]", "KIND_UNSPECIFIED"},
		{"with a ticket and without", &pb.ReplayRequest{Filter: &pb.EntryFilter{Ticket: "T-1", WithoutTicket: true}}, pb.Rejection_MALFORMED, "filter.without_ticket", "ticket"},
		{"an object of another type", &pb.ReplayRequest{Filter: &pb.EntryFilter{Object: "doc:plan", Type: "group"}}, pb.Rejection_MALFORMED, "filter.type", "doc"},
		{"a kind that has no object", &pb.ReplayRequest{Filter: &pb.EntryFilter{Object: "doc:plan", Kinds: kinds{pb.EntryFilter_WRITE_MODEL}}}, pb.Rejection_MALFORMED, "filter.kinds", "GRANT or REVOKE"},
		{"in a channel and outside of it", &pb.ReplayRequest{Filter: &pb.EntryFilter{Channels: []string{"a"}, OutsideChannels: []string{"a", "b"}}}, pb.Rejection_MALFORMED, "filter.outside_channels", "one of the channels"},
		{"from after to", &pb.ReplayRequest{Start: &pb.ReplayRequest_From{From: 3}, To: 2}, pb.Rejection_MALFORMED, "to", "must not be before from"},
		{"from a time after to", &pb.ReplayRequest{Start: &pb.ReplayRequest_FromTime{FromTime: times[3]}, ToTime: before(3)}, pb.Rejection_MALFORMED, "to_time", "must not be before from_time"},
		{"to twice", &pb.ReplayRequest{To: 2, ToTime: times[2]}, pb.Rejection_MALFORMED, "to_time", "beside to"},
		{"to and follow", &pb.ReplayRequest{To: 2, Follow: true}, pb.Rejection_MALFORMED, "to", "follows"},
		{"to a time and follow", &pb.ReplayRequest{ToTime: times[2], Follow: true}, pb.Rejection_MALFORMED, "to_time", "follows"},
		{"from a revision of the future", &pb.ReplayRequest{Start: &pb.ReplayRequest_From{From: 10}}, pb.Rejection_INVALID, "from", "is at revision 9"},
		{"to a time before the store", &pb.ReplayRequest{ToTime: &timestamppb.Timestamp{Seconds: 1}}, pb.Rejection_NOT_FOUND, "to_time", "before the store's first entry"},
		{"to a revision of the future", &pb.ReplayRequest{To: 10}, pb.Rejection_INVALID, "to", "in the future"},
		{"to a time of the future", &pb.ReplayRequest{ToTime: future}, pb.Rejection_INVALID, "to_time", "in the future"},
		{"from a time of the future", &pb.ReplayRequest{Start: &pb.ReplayRequest_FromTime{FromTime: future}, Follow: true}, pb.Rejection_INVALID, "from_time", "in the future"},
		{"no time", &pb.ReplayRequest{Start: &pb.ReplayRequest_FromTime{FromTime: &timestamppb.Timestamp{Nanos: -1}}}, pb.Rejection_MALFORMED, "from_time", "not a moment"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.req.Store == "" {
				tt.req.Store = store
			}
			stream, err := n.Replay(context10(t), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if stream.Receive() {
				t.Errorf("replay answered %v", stream.Msg())
			}
			code := connect.CodeInvalidArgument
			if tt.why == pb.Rejection_NOT_FOUND {
				code = connect.CodeNotFound
			}
			wantRejection(t, stream.Err(), code, tt.why, tt.field, tt.part)
		})
	}
	empty := n.store(t, "")
	stream, err := n.Replay(context10(t), &pb.ReplayRequest{Store: empty, Filter: &pb.EntryFilter{Subject: "user:ann"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if stream.Receive() {
		t.Error("a store without a model knows a type")
	}
	wantRejection(t, stream.Err(), connect.CodeInvalidArgument, pb.Rejection_INVALID, "filter.subject", "no model of the store")
}

// TestReplayOfUnknownNames: what no model has had is found where somebody tried it, and
// is a mistake of who asks only where nobody did.
func TestReplayOfUnknownNames(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel) // revisions 1 and 2
	submit := func(want pb.Outcome_Kind, c *pb.Change) {
		t.Helper()
		if got := n.submit(t, "eve", &pb.Command{Store: store, Changes: []*pb.Change{c}}); got.Outcome.Kind != want {
			t.Fatalf("%v: %v, want %v", c, got.Outcome, want)
		}
	}
	submit(pb.Outcome_REJECTED, grant("dokument:plan", "owner", "user:eve"))   // 3
	submit(pb.Outcome_REJECTED, grant("doc:plan", "reads", "user:eve"))        // 4
	submit(pb.Outcome_REJECTED, grant("doc:plan", "viewer", "robot:r2#parts")) // 5
	for _, tt := range []struct {
		filter *pb.EntryFilter
		want   []uint64 // nil if it is a mistake
		field  string
	}{
		{&pb.EntryFilter{Object: "dokument:plan"}, []uint64{3}, ""},
		{&pb.EntryFilter{Type: "dokument"}, []uint64{3}, ""},
		{&pb.EntryFilter{Type: "dokument", Subject: "user:eve"}, []uint64{3}, ""},
		{&pb.EntryFilter{Relation: "reads"}, []uint64{4}, ""},
		{&pb.EntryFilter{Object: "doc:plan", Relation: "reads"}, []uint64{4}, ""},
		{&pb.EntryFilter{Subject: "robot:r2#parts"}, []uint64{5}, ""},
		{&pb.EntryFilter{Object: "dokument:plans"}, nil, "filter.object"},
		{&pb.EntryFilter{Type: "dokuments"}, nil, "filter.type"},
		{&pb.EntryFilter{Type: "dokument", Subject: "user:ann"}, nil, "filter.type"},
		{&pb.EntryFilter{Relation: "read"}, nil, "filter.relation"},
		{&pb.EntryFilter{Object: "doc:note", Relation: "reads"}, nil, "filter.relation"},
		{&pb.EntryFilter{Subject: "robot:r2"}, nil, "filter.subject"},
		{&pb.EntryFilter{Type: "dokument", Actor: "eve"}, []uint64{3}, ""},
		{&pb.EntryFilter{Type: "dokument", Actor: "ann"}, nil, "filter.type"},
	} {
		stream, err := n.Replay(context10(t), &pb.ReplayRequest{Store: store, Filter: tt.filter})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var got []uint64
		for stream.Receive() {
			got = append(got, revisionsOf(stream.Msg().Entries)...)
		}
		if tt.want == nil {
			wantRejection(t, stream.Err(), connect.CodeInvalidArgument, pb.Rejection_INVALID, tt.field, "and none of the entries asked for fits the filter")
		} else if stream.Err() != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, %v, want %v", tt.filter, got, stream.Err(), tt.want)
		}

		report, err := n.Report(context10(t), &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{Filter: tt.filter}}})
		if err != nil {
			t.Fatal(err)
		}
		defer report.Close()
		parts := 0
		for report.Receive() {
			parts++
		}
		if tt.want == nil {
			wantRejection(t, report.Err(), connect.CodeInvalidArgument, pb.Rejection_INVALID, "recorded_changes."+tt.field, "and none of the entries asked for fits the filter")
		}
		if (report.Err() == nil) != (tt.want != nil) || (parts == 0) != (tt.want == nil) {
			t.Errorf("report of %v: %d parts, %v", tt.filter, parts, report.Err())
		}
	}
}

// TestReplayOfUnknownNamesEnds: that a name is a mistake is told where a stream that has
// found nothing comes to its end, or begins to wait; until then it says how far it got. One
// that is resumed does not tell, as something may have been found before.
func TestReplayOfUnknownNamesEnds(t *testing.T) {
	n := newNode(t)
	n.server.searchFor = 2
	store := n.store(t, testModel) // revisions 1 and 2
	for range 4 {
		n.apply(t, store, grant("doc:plan", "viewer", "user:ann")) // 3 to 6
	}
	n.submit(t, "eve", &pb.Command{Store: store, Changes: []*pb.Change{grant("dokument:plan", "owner", "user:eve")}}) // 7, rejected
	n.apply(t, store, grant("doc:note", "viewer", "user:ann"))                                                        // 8
	resume := func(token string) *pb.ReplayRequest {
		return &pb.ReplayRequest{Start: &pb.ReplayRequest_ResumeToken{ResumeToken: token}}
	}
	var first string // token of the first answer to the first request
	for _, tt := range []struct {
		name  string
		req   *pb.ReplayRequest
		typ   string
		told  int      // answers without entries before the end or the first entry
		found []uint64 // nil if it is a mistake
	}{
		{"to the newest", &pb.ReplayRequest{}, "lion", 3, nil},
		{"to before what is found", &pb.ReplayRequest{To: 5}, "dokument", 2, nil},
		{"from what is found", &pb.ReplayRequest{Start: &pb.ReplayRequest_From{From: 7}}, "dokument", 0, []uint64{7}},
		{"from after what is found", &pb.ReplayRequest{Start: &pb.ReplayRequest_From{From: 8}}, "dokument", 0, nil},
		{"following", &pb.ReplayRequest{Follow: true}, "lion", 3, nil},
		{"following from what is to come", &pb.ReplayRequest{Follow: true, Start: &pb.ReplayRequest_From{From: 20}}, "lion", 0, nil},
		{"resumed", resume(""), "lion", 3, []uint64{}},
		{"resumed before what is found", resume(""), "dokument", 2, []uint64{7}},
	} {
		req := tt.req
		req.Store, req.Filter = store, &pb.EntryFilter{Type: tt.typ}
		if r, ok := req.Start.(*pb.ReplayRequest_ResumeToken); ok {
			r.ResumeToken = first
		}
		stream, err := n.Replay(context10(t), req)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		told, found := 0, []uint64{}
		for stream.Receive() {
			if m := stream.Msg(); len(m.Entries) > 0 {
				found = append(found, revisionsOf(m.Entries)...)
			} else if len(found) == 0 {
				told++
				if first == "" {
					first = m.ResumeToken
				}
			}
		}
		if tt.found == nil {
			wantRejection(t, stream.Err(), connect.CodeInvalidArgument, pb.Rejection_INVALID, "filter.type", fmt.Sprintf("no model of the store has had a type %q", tt.typ))
		}
		if (stream.Err() == nil) != (tt.found != nil) || !slices.Equal(found, tt.found) || told != tt.told {
			t.Errorf("%s: %d answers, then entries %v, %v; want %d, %v", tt.name, told, found, stream.Err(), tt.told, tt.found)
		}
	}
}

// TestReplayNotEnvelope: a message that was no envelope is no command, though its bytes
// would be one.
func TestReplayNotEnvelope(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	id, err := ledger.ParseID(store)
	if err != nil {
		t.Fatal(err)
	}
	c := ledger.Command{ID: ledger.NewUUID(), Store: id, Ticket: "T-1", Changes: []ledger.Change{{Kind: ledger.DeleteStore, Store: id}}}
	n.log.Put("grantlog.main.elsewhere", ledger.AppendCommand(nil, &c))
	n.apply(t, store, grant("doc:plan", "viewer", "user:ann")) // which comes after it
	_, system := replayed(t, n, &pb.ReplayRequest{Store: "system"})
	if e := system[len(system)-1]; e.Command != nil || len(e.Raw) == 0 || e.Actor != "" {
		t.Fatalf("the newest entry of system = %v", e)
	}
	if _, got := replayed(t, n, &pb.ReplayRequest{Store: "system", Filter: &pb.EntryFilter{Ticket: "T-1"}}); len(got) != 0 {
		t.Errorf("with its ticket: %v", got)
	}
	if _, got := replayed(t, n, &pb.ReplayRequest{Store: "system", Filter: &pb.EntryFilter{WithoutTicket: true, Outcomes: []pb.Outcome_Kind{pb.Outcome_REJECTED}}}); len(got) != 1 {
		t.Errorf("without a ticket: %v", got)
	}
}

// TestReplayFromAhead: of a server whose clock is ahead of the broker's, a stream from a
// moment has no entry from before it, though such an entry comes later than the request.
func TestReplayFromAhead(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Hour) } })
	store := n.store(t, testModel)
	from := time.Now().Add(time.Second)
	stream, err := n.Replay(context10(t), &pb.ReplayRequest{Store: store, Follow: true,
		Start: &pb.ReplayRequest_FromTime{FromTime: timestamppb.New(from)}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	early := 0
	for stream.Receive() && len(stream.Msg().Entries) == 0 {
		if a := n.apply(t, store, grant("doc:plan", "viewer", "user:ann")); a.Time.AsTime().Before(from) {
			early++
		}
	}
	if stream.Err() != nil || early == 0 || stream.Msg().Entries[0].Time.AsTime().Before(from) {
		t.Errorf("after %d entries from before %s: %v, %v", early, from, stream.Msg(), stream.Err())
	}
}

// TestReplayProgress: a stream that finds nothing says how far it got, and one that is
// resumed there does not begin anew.
func TestReplayProgress(t *testing.T) {
	n := newNode(t)
	n.server.searchFor = 10
	store := n.store(t, testModel)
	for range 50 {
		n.apply(t, store, grant("doc:plan", "viewer", "user:ann"))
	}
	req := &pb.ReplayRequest{Store: store, Filter: &pb.EntryFilter{Relation: "owner"}}
	answers, entries := replayed(t, n, req)
	if len(entries) != 0 || len(answers) < 5 {
		t.Fatalf("%d entries in %d answers", len(entries), len(answers))
	}
	for i, a := range answers {
		token, err := ledger.ParseToken(a.ResumeToken)
		if err != nil || i < 5 && token.Revision != ledger.Revision(10*(i+1)) || a.CaughtUp != (i == len(answers)-1) {
			t.Errorf("answer %d = %v, at %d", i, a, token.Revision)
		}
	}
	req.Start = &pb.ReplayRequest_ResumeToken{ResumeToken: answers[3].ResumeToken}
	if rest, _ := replayed(t, n, req); len(rest) != len(answers)-4 {
		t.Errorf("%d answers after the fourth of %d", len(rest), len(answers))
	}
}

// TestReplayResumed: streams with filters follow at two replicas while commands come, are
// cut off at random, and go on at either. Together they have each entry that fits, once.
func TestReplayResumed(t *testing.T) {
	log := ledgertest.NewLog(t)
	nodes := []*node{newReplica(t, log), newReplica(t, log)}
	store := nodes[0].store(t, testModel)
	nodes[0].server.searchFor, nodes[1].server.searchFor = 5, 7
	ctx := context10(t)
	if err := nodes[1].projector.Await(ctx, ledgerID(t, store), 2); err != nil {
		t.Fatal(err)
	}
	filters := []*pb.EntryFilter{nil, {Actor: "a1"}, {Object: "doc:d1"}, {Subject: "user:u2", Ticket: "T-0"},
		{Outcomes: []pb.Outcome_Kind{pb.Outcome_REJECTED}}, {WithoutTicket: true}, {Kinds: []pb.EntryFilter_Kind{pb.EntryFilter_REVOKE}, Actor: "a0"}}
	const commands = 600
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { // ends when all are sent
		r := rand.New(rand.NewPCG(5, 5))
		for i := range commands {
			change := grant(fmt.Sprintf("doc:d%d", r.IntN(3)), []string{"viewer", "owner", "admin"}[r.IntN(3)], fmt.Sprintf("user:u%d", r.IntN(3)))
			if r.IntN(3) == 0 {
				change = revoke(fmt.Sprintf("doc:d%d", r.IntN(3)), "viewer", fmt.Sprintf("user:u%d", r.IntN(3)))
			}
			cmd := &pb.Command{Store: store, Ticket: []string{"", "T-0", "T-1"}[r.IntN(3)], Changes: []*pb.Change{change}}
			if i == commands-1 {
				cmd.Ticket = "LAST"
			}
			if _, err := nodes[i%2].Submit(ctx, &pb.SubmitRequest{Actor: fmt.Sprintf("a%d", r.IntN(2)), Command: cmd, Wait: pb.SubmitRequest_APPENDED}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	got := make([][]uint64, len(filters))
	cuts := make([]int, len(filters))
	for i, f := range filters {
		running.Go(func() { // ends once it has looked at the last command
			r := rand.New(rand.NewPCG(6, uint64(i)))
			req := &pb.ReplayRequest{Store: store, Filter: f, Follow: true}
			for seen := ledger.Revision(0); seen < commands+2; {
				one, cancel := context.WithCancel(ctx)
				stream, err := nodes[r.IntN(2)].Replay(one, req)
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				for n := 1 + r.IntN(6); n > 0 && seen < commands+2; n-- {
					if !stream.Receive() {
						t.Errorf("filter %d: the stream ended: %v", i, stream.Err())
						cancel()
						return
					}
					m := stream.Msg()
					got[i] = append(got[i], revisionsOf(m.Entries)...)
					token, err := ledger.ParseToken(m.ResumeToken)
					if err != nil {
						t.Error(err)
					}
					seen = token.Revision
					req.Start = &pb.ReplayRequest_ResumeToken{ResumeToken: m.ResumeToken}
				}
				cuts[i]++
				cancel()
				stream.Close()
			}
		})
	}
	running.Wait()
	_, all := replayed(t, nodes[0], &pb.ReplayRequest{Store: store})
	for i, f := range filters {
		filter, err := readEntryFilter(f)
		if err != nil {
			t.Fatal(err)
		}
		var want []uint64
		v, err := nodes[0].projector.Index().View(ledgerID(t, store), 0)
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range v.Entries(1) {
			if err != nil {
				t.Fatal(err)
			}
			if filter.Fits(e) {
				want = append(want, uint64(e.Revision))
			}
		}
		v.Close()
		if !slices.Equal(got[i], want) || len(want) < 10 {
			t.Errorf("filter %d, cut %d times: %v, want %v", i, cuts[i], got[i], want)
		}
		if cuts[i] < 3 {
			t.Errorf("filter %d was cut only %d times", i, cuts[i])
		}
	}
	if len(all) != commands+2 {
		t.Errorf("the store has %d entries", len(all))
	}
}

func ledgerID(t testing.TB, text string) ledger.ID {
	t.Helper()
	id, err := ledger.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
