//go:build unix

package serve

import (
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A received is a report as its caller got it.
type received struct {
	header *pb.ReportHeader
	rows   [][]string
	end    *pb.ReportEnd
}

func (n *node) report(t *testing.T, req *pb.ReportRequest) (r received, err error) {
	t.Helper()
	stream, err := n.Report(context10(t), req)
	if err != nil {
		return r, err
	}
	defer stream.Close()
	for stream.Receive() {
		switch p := stream.Msg().Part.(type) {
		case *pb.ReportResponse_Header:
			if r.header != nil || r.rows != nil || r.end != nil {
				t.Fatal("a header that is not the first part")
			}
			r.header = p.Header
		case *pb.ReportResponse_Rows:
			if r.header == nil || r.end != nil {
				t.Fatal("rows that do not stand between header and end")
			}
			for _, row := range p.Rows.Rows {
				r.rows = append(r.rows, row.Cells)
			}
		case *pb.ReportResponse_End:
			r.end = p.End
		}
	}
	return r, stream.Err()
}

// wantWhole holds that a report's end is of its rows, in a canonical form that another
// writer of CSV makes too, where no cell begins with '#'.
func (r *received) wantWhole(t *testing.T) {
	t.Helper()
	if r.end == nil {
		t.Fatal("the report has no end")
	}
	var text strings.Builder
	w := csv.NewWriter(&text)
	if err := w.WriteAll(r.rows); err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256([]byte(text.String())); r.end.Rows != uint64(len(r.rows)) || string(r.end.Sha256) != string(sum[:]) {
		t.Errorf("the end is of %d rows with SHA-256 %x; there are %d with %x", r.end.Rows, r.end.Sha256, len(r.rows), sum)
	}
}

func atRevision(rev uint64) *pb.Freshness {
	return &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: rev}}
}

func TestReports(t *testing.T) {
	file := signingKey(t)
	with, _ := signing(t, file)
	n := newNode(t, with)
	store := n.store(t, testModel) // revision 2
	n.apply(t, store, grant("group:eng", "member", "user:ann"), grant("doc:plan", "blocked", "user:eve"))
	n.apply(t, store, grant("doc:plan", "viewer", "group:eng#member"), grant("doc:plan", "viewer", "user:*"))
	last := n.apply(t, store, revoke("group:eng", "member", "user:ann")).Revision
	office := grant("doc:plan", "viewer", "user:bob")
	office.GetGrant().Condition = "office"

	for _, tt := range []struct {
		name string
		req  *pb.ReportRequest
		rev  uint64
		want []string // the first columns of the rows
	}{
		{"access of a subject", &pb.ReportRequest{Report: &pb.ReportRequest_AccessOfSubject{
			AccessOfSubject: &pb.AccessOfSubject{Subject: "user:ann", Freshness: atRevision(4)}}}, 4,
			[]string{"group member group:eng held", "doc viewer doc:plan held", "doc reader doc:plan held"}},
		{"access to an object", &pb.ReportRequest{Report: &pb.ReportRequest_AccessToObject{
			AccessToObject: &pb.AccessToObject{Object: "doc:plan"}}}, last,
			[]string{"blocked user:eve held", "viewer user:* held", "viewer group:eng#member held",
				"reader user:* held", "reader user:eve excluded", "reader group:eng#member held"}},
		{"difference of tuples", &pb.ReportRequest{Report: &pb.ReportRequest_Difference{
			Difference: &pb.Difference{From: atRevision(4)}}}, last,
			[]string{"removed group:eng member user:ann"}},
		{"difference of effective access", &pb.ReportRequest{Report: &pb.ReportRequest_Difference{
			Difference: &pb.Difference{From: atRevision(3), To: atRevision(4), Effective: true}}}, 4,
			[]string{"gained user:* reader doc:plan", "gained user:ann reader doc:plan", "unchanged user:eve reader doc:plan",
				"gained group:eng#member reader doc:plan", "gained user:* viewer doc:plan", "gained user:ann viewer doc:plan", "gained group:eng#member viewer doc:plan"}},
		{"recorded changes", &pb.ReportRequest{Report: &pb.ReportRequest_RecordedChanges{
			RecordedChanges: &pb.RecordedChanges{To: atRevision(2), Filter: &pb.EntryFilter{WithoutTicket: true}}}}, 2, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Store = store
			r, err := n.report(t, tt.req)
			if err != nil {
				t.Fatal(err)
			}
			r.wantWhole(t)
			h := r.header
			if h.Title != tt.name || h.Store != store || h.StoreName != "acme" || h.Revision != tt.rev || h.Model == "" || !strings.HasPrefix(h.Query, `{"store":"`+store+`","`) {
				t.Errorf("the header is %v", h)
			}
			if tt.name == "recorded changes" {
				if len(r.rows) != 2 {
					t.Errorf("the rows are %q", r.rows)
				}
			} else if got := firstCells(r.rows, tt.want); !slices.Equal(got, tt.want) {
				t.Errorf("the rows begin with\n%q, want\n%q", got, tt.want)
			}
			id, err := ledger.ParseID(store)
			if err != nil {
				t.Fatal(err)
			}
			key, err := seal.ParseKey(h.Key)
			if err != nil {
				t.Fatal(err)
			}
			c, err := key.Open(id, []byte(h.Checkpoint))
			if err != nil {
				t.Fatal(err)
			}
			proof := make([]ledger.Hash, len(h.ConsistencyProof))
			for i, hash := range h.ConsistencyProof {
				proof[i] = ledger.Hash(hash)
			}
			if err := seal.CheckConsistency(ledger.Revision(h.Revision), ledger.Hash(h.Root), c.Size, c.Root, proof); err != nil || uint64(c.Size) != last {
				t.Errorf("the checkpoint is of %d: %v", c.Size, err)
			}
		})
	}

	// What has no answer is counted.
	n.apply(t, store, office)
	r, err := n.report(t, &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_AccessToObject{AccessToObject: &pb.AccessToObject{Object: "doc:plan"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.wantWhole(t)
	if r.end.Undecided != 0 {
		t.Errorf("user:bob holds it as everyone does, and %d rows are undecided", r.end.Undecided)
	}
	n.apply(t, store, revoke("doc:plan", "viewer", "user:*"))
	if r, err = n.report(t, &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_AccessToObject{AccessToObject: &pb.AccessToObject{Object: "doc:plan"}}}); err != nil {
		t.Fatal(err)
	}
	r.wantWhole(t)
	if want := `undecided: condition "office": the context lacks allowed, country`; r.end.Undecided != 2 || !slices.ContainsFunc(r.rows, func(cells []string) bool { return cells[2] == want }) {
		t.Errorf("%d rows are undecided, want 2 with %q: %q", r.end.Undecided, want, r.rows)
	}
}

// TestChangesFrom: recorded changes begin with the revision that is named, with the first
// entry that is not before a time, and with the first of all if that is before the store.
func TestChangesFrom(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel) // revisions 1 and 2
	third := n.apply(t, store, grant("doc:plan", "viewer", "user:ann"))
	fourth := n.apply(t, store, grant("doc:plan", "viewer", "user:bob"))
	atTime := func(at time.Time) *pb.Freshness {
		return &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: timestamppb.New(at)}}
	}
	for _, tt := range []struct {
		name string
		from *pb.Freshness
		want string // the first cells
		head uint64 // from_revision of the header
	}{
		{"no from", nil, "1 2 3 4", 0},
		{"a revision", atRevision(3), "3 4", 3},
		{"the newest revision", atRevision(4), "4", 4},
		{"a token", &pb.Freshness{Freshness: &pb.Freshness_AtToken{AtToken: third.Token}}, "3 4", 3},
		{"the time of an entry", atTime(third.Time.AsTime()), "3 4", 3},
		{"just after an entry", atTime(third.Time.AsTime().Add(1)), "4", 4},
		{"after the newest entry", atTime(fourth.Time.AsTime().Add(1)), "", 0},
		{"before the store", atTime(time.Unix(1, 0)), "1 2 3 4", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := n.report(t, &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{From: tt.from}}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, cells := range r.rows {
				got = append(got, cells[0])
			}
			if text := strings.Join(got, " "); text != tt.want || r.header.FromRevision != tt.head {
				t.Errorf("revisions %q from %d, want %q from %d", text, r.header.FromRevision, tt.want, tt.head)
			}
		})
	}
	between, err := n.report(t, &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{
		From: atTime(third.Time.AsTime().Add(1)), To: atTime(fourth.Time.AsTime().Add(-1))}}})
	if h := between.header; err != nil || len(between.rows) != 0 || h.FromRevision != 0 || h.FromEvaluatedAt == nil || h.Revision != 3 {
		t.Errorf("between two entries: %q under %v, %v", between.rows, h, err)
	}
	_, err = n.report(t, &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{From: atRevision(5)}}})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_INVALID, "recorded_changes.from.at_revision", "is at revision 4")
	_, err = n.report(t, &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{To: atTime(time.Unix(1, 0))}}})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "recorded_changes.to.at_time", "before the store")
}

// firstCells returns as many cells of each row as the wanted texts have words.
func firstCells(rows [][]string, want []string) (texts []string) {
	for i, cells := range rows {
		n := len(cells)
		if i < len(want) {
			n = min(n, len(strings.Fields(want[i])))
		}
		texts = append(texts, strings.Join(cells[:n], " "))
	}
	return texts
}

// TestReportAgain holds that a report that is asked for again is of the revision and the moment
// given, and says the same query; and that it is refused unless the query leads there.
func TestReportAgain(t *testing.T) {
	const second = int64(time.Second)
	var clock atomic.Int64
	clock.Store(pastBegin)
	n := newNode(t, func(cfg *Config) { cfg.Now = func() time.Time { return time.Unix(0, pastNow) } })
	n.log.Broker.SetClock(clock.Load)
	store := n.store(t, testModel) // revision 2
	next := func(changes ...*pb.Change) *pb.SubmitResponse {
		t.Helper()
		clock.Add(10 * second)
		return n.apply(t, store, changes...)
	}
	brief := grant("group:eng", "member", "user:ann")
	brief.GetGrant().ExpiresAt = timestamppb.New(time.Unix(0, pastBegin+15*second))
	third := next(brief)                            // at 10 s, expires at 15 s
	next(grant("group:eng", "member", "user:bob"))  // 4, at 20 s
	next(grant("group:eng", "member", "user:eve"))  // 5, at 30 s
	next(revoke("group:eng", "member", "user:bob")) // 6, at 40 s
	clock.Add(10 * second)

	moment := func(after int64) *timestamppb.Timestamp { return timestamppb.New(time.Unix(0, pastBegin+after)) }
	atTime := func(after int64) *pb.Freshness {
		return &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: moment(after)}}
	}
	atToken := &pb.Freshness{Freshness: &pb.Freshness_AtToken{AtToken: third.Token}}
	atLeast := &pb.Freshness{Freshness: &pb.Freshness_AtLeast{AtLeast: third.Token}}
	latest := &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}
	access := func(f *pb.Freshness) *pb.ReportRequest {
		return &pb.ReportRequest{Report: &pb.ReportRequest_AccessToObject{AccessToObject: &pb.AccessToObject{Object: "group:eng", Freshness: f}}}
	}
	diff := func(from, to *pb.Freshness) *pb.ReportRequest {
		return &pb.ReportRequest{Report: &pb.ReportRequest_Difference{Difference: &pb.Difference{From: from, To: to}}}
	}
	changes := func(from, to *pb.Freshness) *pb.ReportRequest {
		return &pb.ReportRequest{Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{From: from, To: to}}}
	}
	for _, tt := range []struct {
		name  string
		req   *pb.ReportRequest
		rev   uint64
		after int64 // of the moment, since pastBegin
		rows  int
		field string // that is refused, "" for none
		part  string // of the message
	}{
		{"a revision", access(atRevision(4)), 4, 20 * second, 1, "", ""},
		{"another revision than was asked for", access(atRevision(4)), 3, 10 * second, 0, "again", "is revision 3 at 2020-09-13T12:26:50Z, and the report asks for revision 4 at 2020-09-13T12:27:00Z"},
		{"another moment than that of the revision", access(atRevision(4)), 4, 21 * second, 0, "again", "the report asks for revision 4"},
		{"a token", access(atToken), 3, 10 * second, 1, "", ""},
		{"another revision than the token's", access(atToken), 4, 20 * second, 0, "again", "the report asks for revision 3"},
		{"a time", access(atTime(35 * second)), 5, 35 * second, 2, "", ""},
		{"a time after the newest entry", access(atTime(45 * second)), 6, 45 * second, 1, "", ""},
		{"a time at which the store was at a later revision", access(atTime(35 * second)), 4, 35 * second, 0, "again", "the report asks for revision 5"},
		{"another time than was asked for", access(atTime(35 * second)), 5, 36 * second, 0, "again", "at 2020-09-13T12:27:15Z"},
		{"a difference", diff(atRevision(4), atTime(35*second)), 5, 35 * second, 1, "", ""},
		{"a difference up to a later time", diff(atRevision(4), atTime(45*second)), 5, 45 * second, 0, "again", "the report asks for revision 6"},
		{"changes", changes(atRevision(4), atTime(35*second)), 5, 35 * second, 2, "", ""},
		{"changes up to a later time", changes(nil, atTime(45*second)), 5, 45 * second, 0, "again", "the report asks for revision 6"},

		{"now", access(nil), 6, 45 * second, 1, "", ""},
		{"now, then", access(nil), 5, 31 * second, 2, "", ""},
		{"now, the moment of the entry", access(nil), 3, 10 * second, 1, "", ""},
		{"now, once it had expired", access(nil), 3, 16 * second, 0, "", ""},
		{"now, just before the next entry", access(nil), 3, 20*second - 1, 0, "", ""},
		{"now, the moment of the next entry", access(nil), 3, 20 * second, 0, "again.evaluated_at", "is 2020-09-13T12:27:00Z, and revision 3 was the newest until 2020-09-13T12:27:00Z"},
		{"now, after the next entry", access(nil), 3, 20*second + 1, 0, "again.evaluated_at", "is 2020-09-13T12:27:00.000000001Z, and revision 3 was the newest until 2020-09-13T12:27:00Z"},
		{"now, before the entry", access(nil), 3, 10*second - 1, 0, "again.evaluated_at", "revision 3 came at 2020-09-13T12:26:50Z"},
		{"now, before the store", access(nil), 3, -second, 0, "again.evaluated_at", "revision 3 came at"},
		{"now, after now", access(nil), 6, 50 * second, 0, "again.evaluated_at", "in the future"},
		{"now, after everything", access(nil), 7, 45 * second, 0, "again.revision", "revision 7 is in the future"},
		{"the latest", access(latest), 5, 31 * second, 2, "", ""},
		{"the latest, after the next entry", access(latest), 5, 41 * second, 0, "again.evaluated_at", "was the newest until"},
		{"at least a token", access(atLeast), 3, 11 * second, 1, "", ""},
		{"before a token", access(atLeast), 2, second, 0, "again.revision", "at least revision 3"},
		{"a difference up to now", diff(atRevision(4), nil), 5, 31 * second, 1, "", ""},
		{"a difference up to now, and later", diff(atRevision(4), nil), 5, 41 * second, 0, "again.evaluated_at", "was the newest until"},
		{"changes up to now", changes(nil, nil), 6, 45 * second, 6, "", ""},
		{"changes up to now, and later", changes(nil, nil), 5, 45 * second, 0, "again.evaluated_at", "was the newest until"},
		{"no revision", access(nil), 0, 45 * second, 0, "again.revision", "at least 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Store = store
			was, err := n.report(t, tt.req)
			if err != nil {
				t.Fatal(err)
			}
			tt.req.Again = &pb.ReportMoment{Revision: tt.rev, EvaluatedAt: moment(tt.after)}
			r, err := n.report(t, tt.req)
			if tt.field != "" {
				why := pb.Rejection_INVALID
				if tt.rev == 0 {
					why = pb.Rejection_MALFORMED
				}
				wantRejection(t, err, connect.CodeInvalidArgument, why, tt.field, tt.part)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			h := r.header
			if len(r.rows) != tt.rows || h.Revision != tt.rev || !h.EvaluatedAt.AsTime().Equal(moment(tt.after).AsTime()) || h.Query != was.header.Query {
				t.Errorf("%q under %v, want %d rows", r.rows, h, tt.rows)
			}
		})
	}

	// A report of now is the same again whatever becomes of the store, be it in the same moment,
	// and whatever this replica's clock says.
	now := access(nil)
	now.Store = store
	for _, tt := range []struct{ before, later int64 }{
		{1, 0}, // the next entry is of the log's time
		{0, 0}, // as the entry before is: all have one time
		{0, 1},
		{1, 1},
	} {
		was, err := n.report(t, now)
		if err != nil {
			t.Fatal(err)
		}
		h := was.header
		if at, want := h.EvaluatedAt.AsTime().UnixNano(), clock.Load()-tt.before; at != want {
			t.Errorf("a report of now is of %d, want %d", at, want)
		}
		clock.Add(tt.later)
		n.apply(t, store, revoke("group:eng", "member", "user:eve"))
		again := proto.CloneOf(now)
		again.Again = &pb.ReportMoment{Revision: h.Revision, EvaluatedAt: h.EvaluatedAt}
		r, err := n.report(t, again)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(r.rows, was.rows, slices.Equal) {
			t.Errorf("again it has %q, and had %q", r.rows, was.rows)
		}
		clock.Add(tt.later)
	}

	// Of revisions that share a log time each was the newest at it, and at no other.
	shared := clock.Add(10 * second)
	first := n.apply(t, store, grant("group:eng", "member", "user:kim")).Revision
	n.apply(t, store, revoke("group:eng", "member", "user:kim"))
	clock.Add(10 * second)
	for after, refused := range []bool{false, true} {
		again := proto.CloneOf(now)
		again.Again = &pb.ReportMoment{Revision: first, EvaluatedAt: timestamppb.New(time.Unix(0, shared+int64(after)))}
		if _, err := n.report(t, again); (err != nil) != refused {
			t.Errorf("%d ns after a log time that two revisions share: %v, refused: %t", after, err, refused)
		}
	}
}

func TestBadReports(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	other := n.store(t, testModel)
	access := func(subject string, f *pb.Freshness) *pb.ReportRequest {
		return &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_AccessOfSubject{AccessOfSubject: &pb.AccessOfSubject{Subject: subject, Freshness: f}}}
	}
	diff := func(from, to *pb.Freshness) *pb.ReportRequest {
		return &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_Difference{Difference: &pb.Difference{From: from, To: to}}}
	}
	token := n.apply(t, other, grant("doc:plan", "viewer", "user:ann")).Token
	for _, tt := range []struct {
		name  string
		req   *pb.ReportRequest
		code  connect.Code
		why   pb.Rejection_Code
		field string
		part  string // of the message
	}{
		{"no report", &pb.ReportRequest{Store: store}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "report", "missing"},
		{"no store", &pb.ReportRequest{Report: access("user:ann", nil).Report}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "empty"},
		{"unknown store", &pb.ReportRequest{Store: ledger.NewID().String(), Report: access("user:ann", nil).Report}, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", ""},
		{"malformed subject", access("ann", nil), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "access_of_subject.subject", ""},
		{"unknown type", access("robot:r2", nil), connect.CodeInvalidArgument, pb.Rejection_INVALID, "access_of_subject.subject", `"robot"`},
		{"before the model", access("user:ann", atRevision(1)), connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "model", "the store had no model at revision 1; its first came at revision 2"},
		{"future revision", access("user:ann", atRevision(99)), connect.CodeInvalidArgument, pb.Rejection_INVALID, "access_of_subject.freshness.at_revision", "future"},
		{"revision 0", access("user:ann", atRevision(0)), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "access_of_subject.freshness.at_revision", "at least 1"},
		{"malformed object", &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_AccessToObject{AccessToObject: &pb.AccessToObject{Object: "doc:"}}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "access_to_object.object.id", ""},
		{"no from", diff(nil, nil), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "difference.from", "missing"},
		{"from now", diff(&pb.Freshness{}, nil), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "difference.from", "past"},
		{"changes from the latest", &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{From: &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}}}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "recorded_changes.from", "past"},
		{"from after to", diff(atRevision(2), atRevision(1)), connect.CodeInvalidArgument, pb.Rejection_INVALID, "difference.from", "after"},
		{"a token of another store", diff(&pb.Freshness{Freshness: &pb.Freshness_AtToken{AtToken: token}}, nil),
			connect.CodeInvalidArgument, pb.Rejection_INVALID, "difference.from.at_token", "store"},
		{"a malformed token", diff(&pb.Freshness{Freshness: &pb.Freshness_AtToken{AtToken: "x"}}, nil),
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "difference.from.at_token", "token"},
		{"changes up to a future revision", &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{To: atRevision(999)}}},
			connect.CodeInvalidArgument, pb.Rejection_INVALID, "recorded_changes.to.at_revision", "future"},
		{"again, at no moment", &pb.ReportRequest{Store: store, Report: access("user:ann", nil).Report, Again: &pb.ReportMoment{Revision: 2}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "again.evaluated_at", "missing"},
		{"again, at a future revision", &pb.ReportRequest{Store: store, Report: access("user:ann", nil).Report, Again: &pb.ReportMoment{Revision: 999, EvaluatedAt: timestamppb.Now()}},
			connect.CodeInvalidArgument, pb.Rejection_INVALID, "again.revision", "future"},
		{"context for tuples", &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_Difference{Difference: &pb.Difference{From: atRevision(1), Context: &structpb.Struct{}}}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "difference.context", "effective"},
		{"a malformed channel", &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{Filter: &pb.EntryFilter{OutsideChannels: []string{"ok", "a\nb"}}}}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "recorded_changes.filter.outside_channels[1]", "control"},
		{"a filter with an unknown type", &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: &pb.RecordedChanges{Filter: &pb.EntryFilter{Type: "file"}}}},
			connect.CodeInvalidArgument, pb.Rejection_INVALID, "recorded_changes.filter.type", `"file"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := n.report(t, tt.req)
			wantRejection(t, err, tt.code, tt.why, tt.field, tt.part)
			if r.header != nil {
				t.Error("a report began all the same")
			}
		})
	}
}

// TestReportStreams holds that rows are sent before all are made, that none is kept once
// it is sent, and that a report that fails or is not taken has no end.
func TestReportStreams(t *testing.T) {
	broken := errors.New("broken")
	made := 0
	report := func(n int, err error) *audit.Report {
		made = 0
		return &audit.Report{Columns: []string{"n", "text"}, Rows: iter.Seq2[audit.Row, error](func(yield func(audit.Row, error) bool) {
			for range n {
				if made++; !yield(audit.Row{Cells: []string{fmt.Sprint(made), strings.Repeat("x", made%1000)}}, nil) {
					return
				}
			}
			if err != nil {
				yield(audit.Row{}, err)
			}
		})}
	}
	const n = 5000
	rows, sent, ended := 0, 0, false
	send := func(m *pb.ReportResponse) error {
		sent++
		if end := m.GetEnd(); end != nil {
			ended = true
			return nil
		}
		got := len(m.GetRows().GetRows())
		if rows += got; got > reportRows || rows != made {
			t.Errorf("an answer has %d rows, and all have %d of the %d that are made", got, rows, made)
		}
		return nil
	}
	if err := sendRows(report(n, nil), send); err != nil || rows != n || !ended {
		t.Errorf("%d rows were sent, with the end: %t, and %v", rows, ended, err)
	}
	rows, ended = 0, false
	if err := sendRows(report(250, broken), send); !errors.Is(err, broken) || ended {
		t.Errorf("a report that fails: %v, with the end: %t", err, ended)
	}
	sent = 0
	if err := sendRows(report(n, nil), func(*pb.ReportResponse) error { sent++; return broken }); !errors.Is(err, broken) || sent != 1 || made > reportRows {
		t.Errorf("a caller that left: %v, after %d answers and %d rows", err, sent, made)
	}
}

// TestReportQuery holds that the query in a header is exact as a cell too, whatever its texts
// hold.
func TestReportQuery(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	given, err := structpb.NewStruct(map[string]any{"x": "a\u2028b\u2029c\u0085\u0080\u009f\u007f\t\\u2028 <é😀> \"q\""})
	if err != nil {
		t.Fatal(err)
	}
	asked := &pb.ReportRequest{Store: store, Report: &pb.ReportRequest_AccessToObject{AccessToObject: &pb.AccessToObject{Object: "doc:plan", Context: given}}}
	r, err := n.report(t, asked)
	if err != nil {
		t.Fatal(err)
	}
	again := &pb.ReportRequest{}
	if err := protojson.Unmarshal([]byte(audit.Cell(r.header.Query)), again); err != nil || !proto.Equal(again, asked) {
		t.Errorf("the query %s is read as\n%v, %v, want\n%v", r.header.Query, again, err, asked)
	}
}
