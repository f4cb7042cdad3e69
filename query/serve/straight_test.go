package serve

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// TestStraightToTheLog sends the same bad commands through the API and straight to the
// log, and holds that both ways lead to the same code, field and message; that the
// log's way leaves a rejected entry; and that the command after each is applied.
func TestStraightToTheLog(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	long := func(n int) string { return strings.Repeat("a", n) }
	future := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	type grantJSON map[string]any
	for _, tt := range []struct {
		name   string
		tuple  [3]string // object, relation, subject
		fields grantJSON // of the grant beside the tuple
		grant  func(*pb.Grant)
		reason string
		store  string // "": the test's
		code   ledger.Code
	}{
		{name: "empty object id", tuple: [3]string{"doc:", "viewer", "user:ann"}, code: ledger.CodeMalformed},
		{name: "delimiter in an object id", tuple: [3]string{"doc:a:b", "viewer", "user:ann"}, code: ledger.CodeMalformed},
		{name: "control in a subject id", tuple: [3]string{"doc:plan", "viewer", "user:a\x01"}, code: ledger.CodeMalformed},
		{name: "type too long", tuple: [3]string{long(255) + ":plan", "viewer", "user:ann"}, code: ledger.CodeMalformed},
		{name: "relation too long", tuple: [3]string{"doc:plan", long(65), "user:ann"}, code: ledger.CodeMalformed},
		{name: "object id too long", tuple: [3]string{"doc:" + long(513), "viewer", "user:ann"}, code: ledger.CodeMalformed},
		{name: "reason too long", tuple: [3]string{"doc:plan", "viewer", "user:ann"}, reason: long(ledger.MaxText + 1), code: ledger.CodeMalformed},
		{name: "unknown store", tuple: [3]string{"doc:plan", "viewer", "user:ann"}, store: ledger.NewID().String(), code: ledger.CodeNotFound},
		{name: "unknown type", tuple: [3]string{"file:plan", "viewer", "user:ann"}, code: ledger.CodeNotFound},
		{name: "unknown relation", tuple: [3]string{"doc:plan", "admin", "user:ann"}, code: ledger.CodeNotFound},
		{name: "unknown condition", tuple: [3]string{"doc:plan", "viewer", "user:ann"}, fields: grantJSON{"condition": "nothing"},
			grant: func(g *pb.Grant) { g.Condition = "nothing" }, code: ledger.CodeNotFound},
		{name: "unknown parameter", tuple: [3]string{"doc:plan", "viewer", "user:ann"}, fields: grantJSON{"condition": "office", "context": grantJSON{"city": "x"}},
			grant: func(g *pb.Grant) { g.Condition, g.Context = "office", contextOf(t, map[string]any{"city": "x"}) }, code: ledger.CodeInvalid},
		{name: "ill-typed context", tuple: [3]string{"doc:plan", "viewer", "user:ann"}, fields: grantJSON{"condition": "office", "context": grantJSON{"country": 3}},
			grant: func(g *pb.Grant) { g.Condition, g.Context = "office", contextOf(t, map[string]any{"country": 3}) }, code: ledger.CodeInvalid},
		{name: "a kind of subject that the relation does not allow", tuple: [3]string{"doc:plan", "owner", "group:eng#member"}, code: ledger.CodeInvalid},
		{name: "expiry before not-before", tuple: [3]string{"doc:plan", "viewer", "user:ann"},
			fields: grantJSON{"not_before": future.Add(time.Hour).Format(time.RFC3339), "expires_at": future.Format(time.RFC3339)},
			grant: func(g *pb.Grant) {
				g.NotBefore, g.ExpiresAt = timestamppb.New(future.Add(time.Hour)), timestamppb.New(future)
			}, code: ledger.CodeMalformed},
		{name: "negative span", tuple: [3]string{"doc:plan", "viewer", "user:ann"}, fields: grantJSON{"expires_after": "-1h"},
			grant: func(g *pb.Grant) { g.ExpiresAfter = durationpb.New(-time.Hour) }, code: ledger.CodeMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.store == "" {
				tt.store = store
			}
			ch := grant(tt.tuple[0], tt.tuple[1], tt.tuple[2])
			if tt.grant != nil {
				tt.grant(ch.GetGrant())
			}
			var fromAPI *pb.Rejection
			answer, err := n.Submit(context10(t), &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Store: tt.store, Reason: tt.reason, Changes: []*pb.Change{ch}}})
			if err == nil {
				fromAPI = answer.GetOutcome().GetRejection()
			} else {
				fromAPI, _ = detailOf[*pb.Rejection](t, err)
			}

			fields := grantJSON{"tuple": tt.tuple[0] + "#" + tt.tuple[1] + "@" + tt.tuple[2]}
			for name, v := range tt.fields {
				fields[name] = v
			}
			raw, err := json.Marshal(map[string]any{"id": ledger.NewUUID().String(), "store": tt.store, "reason": tt.reason,
				"changes": []any{map[string]any{"grant": fields}}})
			if err != nil {
				t.Fatal(err)
			}
			seq := n.log.Put(ledger.Subject("main", ledger.PrincipalSubject, "tool"), raw)
			fromLog := rejectedEntry(t, n, seq, string(raw))
			if fromLog.Code != tt.code {
				t.Errorf("the entry's code is %s (%s), want %s", fromLog.Code, fromLog, tt.code)
			}
			if fromAPI == nil || strings.ToLower(fromAPI.Code.String()) != fromLog.Code.String() || fromAPI.Field != fromLog.Field || fromAPI.Message != fromLog.Message {
				t.Errorf("the API says %v, the log %s at %q: %s", fromAPI, fromLog.Code, fromLog.Field, fromLog.Message)
			}
			n.apply(t, store, grant("doc:plan", "viewer", "user:after-"+ledger.NewUUID().String()))
		})
	}
}

// rejectedEntry waits for the message at seq and returns why the entry with these
// bytes, the newest of its store, was rejected.
func rejectedEntry(t *testing.T, n *node, seq uint64, raw string) *ledger.Rejection {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); n.projector.Status().Applied < seq; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("message %d is not folded within 5 s", seq)
		}
	}
	heads, err := n.projector.Index().Stores(ledger.System, 10)
	if err != nil {
		t.Fatal(err)
	}
	stores := []ledger.ID{ledger.System}
	for _, h := range heads {
		stores = append(stores, h.Store)
	}
	for _, store := range stores {
		v, err := n.projector.View(context10(t), store, projector.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		e, err := v.Entry(v.Revision())
		v.Close()
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Raw) == raw {
			if e.Outcome.Kind != ledger.Rejected {
				t.Fatalf("the entry is %s", e.Outcome.Kind)
			}
			return e.Outcome.Rejection
		}
	}
	t.Fatalf("no store's newest entry is the message %d", seq)
	return nil
}
