package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/ledger/model"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/grantlog/grantlog/query"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func contextOf(t testing.TB, values map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBadCommand: what is malformed under any state is refused, with field and rule,
// and nothing of it reaches the log.
func TestBadCommand(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	grantOf := func(change func(*pb.Grant)) []*pb.Change {
		ch := grant("doc:plan", "viewer", "user:ann")
		change(ch.GetGrant())
		return []*pb.Change{ch}
	}
	changes := func(c ...*pb.Change) func(*pb.SubmitRequest) {
		return func(r *pb.SubmitRequest) { r.Command.Changes = c }
	}
	inGrant := func(change func(*pb.Grant)) func(*pb.SubmitRequest) { return changes(grantOf(change)...) }
	inTuple := func(object, relation, subject string) func(*pb.SubmitRequest) {
		return inGrant(func(g *pb.Grant) { g.Tuple = tupleOf(object, relation, subject) })
	}
	many := func(n int) (c []*pb.Change) {
		for i := range n {
			c = append(c, grant(fmt.Sprintf("doc:%d", i), "viewer", "user:ann"))
		}
		return c
	}
	deep := structpb.NewStringValue("bottom")
	for range 20 {
		deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
	}
	writeModel := func(m *pb.ModelSource) func(*pb.SubmitRequest) {
		return changes(&pb.Change{Change: &pb.Change_WriteModel{WriteModel: m}})
	}
	long := many(ledger.MaxChanges) // each within its own limits
	for _, ch := range long {
		ch.GetGrant().Tuple.Object += strings.Repeat("x", 480)
		ch.GetGrant().Owner = strings.Repeat("o", 100)
	}
	before := len(n.log.Messages())
	for _, tt := range []struct {
		name   string
		change func(*pb.SubmitRequest)
		field  string
		rule   string
	}{
		{"no command", func(r *pb.SubmitRequest) { r.Command = nil }, "command", "missing"},
		{"command id", func(r *pb.SubmitRequest) { r.Command.Id = "1" }, "id", "UUID"},
		{"command id in upper case", func(r *pb.SubmitRequest) { r.Command.Id = strings.ToUpper(ledger.NewUUID().String()) }, "id", "lower-case"},
		{"zero command id", func(r *pb.SubmitRequest) { r.Command.Id = ledger.UUID{}.String() }, "id", "not zero"},
		{"no store", func(r *pb.SubmitRequest) { r.Command.Store = "" }, "store", "empty"},
		{"store id", func(r *pb.SubmitRequest) { r.Command.Store = "acme" }, "store", "ULID"},
		{"model id", func(r *pb.SubmitRequest) { r.Command.Model = "newest" }, "model", "ULID"},
		{"system as model", func(r *pb.SubmitRequest) { r.Command.Model = "system" }, "model", "not a model"},
		{"actor too long", func(r *pb.SubmitRequest) { r.Actor = strings.Repeat("a", ledger.MaxLabel+1) }, "actor", "at most 256 bytes"},
		{"actor with a control", func(r *pb.SubmitRequest) { r.Actor = "a\x00b" }, "actor", "U+0000"},
		{"wait", func(r *pb.SubmitRequest) { r.Wait = 7 }, "wait", "unknown"},
		{"reason too long", func(r *pb.SubmitRequest) { r.Command.Reason = strings.Repeat("a", ledger.MaxText+1) }, "reason", "at most 4096 bytes"},
		{"ticket with a line break", func(r *pb.SubmitRequest) { r.Command.Ticket = "a\nb" }, "ticket", "U+000A"},
		{"channel too long", func(r *pb.SubmitRequest) { r.Command.Channel = strings.Repeat("a", ledger.MaxLabel+1) }, "channel", "at most 256 bytes"},
		{"signature without key", func(r *pb.SubmitRequest) { r.Command.Signature = make([]byte, 64) }, "signature", "key_id"},
		{"short signature", func(r *pb.SubmitRequest) { r.Command.KeyId, r.Command.Signature = "k", []byte{1} }, "signature", "64 bytes"},
		{"no changes", changes(), "changes", "empty"},
		{"too many changes", changes(many(ledger.MaxChanges + 1)...), "changes", "at most 1000"},
		{"a tuple twice", changes(grant("doc:plan", "viewer", "user:ann"), revoke("doc:plan", "viewer", "user:ann")), "changes[1].tuple", "changes[0] already"},
		{"an empty change", changes(&pb.Change{}), "changes[0]", "one of grant"},
		{"an epoch", changes(&pb.Change{Change: &pb.Change_AdvanceEpoch{AdvanceEpoch: &pb.Epoch{Number: 1}}}), "changes[0]", "operators alone"},
		{"a fold version", changes(&pb.Change{Change: &pb.Change_Activate{Activate: &pb.Activate{Version: 2}}}), "changes[0]", "operators alone"},
		{"no tuple", inGrant(func(g *pb.Grant) { g.Tuple = nil }), "changes[0].tuple", "missing"},
		{"no tuple to revoke", changes(&pb.Change{Change: &pb.Change_Revoke{Revoke: &pb.Revoke{}}}), "changes[0].tuple", "missing"},
		{"object without type", inTuple("plan", "viewer", "user:ann"), "changes[0].tuple.object", "type:id"},
		{"empty object id", inTuple("doc:", "viewer", "user:ann"), "changes[0].tuple.object.id", "empty"},
		{"object id with a delimiter", inTuple("doc:a#b", "viewer", "user:ann"), "changes[0].tuple.object.id", "'#'"},
		{"object id too long", inTuple("doc:"+strings.Repeat("a", 513), "viewer", "user:ann"), "changes[0].tuple.object.id", "at most 512 bytes"},
		{"object wildcard", inTuple("doc:*", "viewer", "user:ann"), "changes[0].tuple.object.id", "one object"},
		{"type too long", inTuple(strings.Repeat("a", 255)+":plan", "viewer", "user:ann"), "changes[0].tuple.object.type", "at most 254 bytes"},
		{"relation too long", inTuple("doc:plan", strings.Repeat("a", 65), "user:ann"), "changes[0].tuple.relation", "at most 64 bytes"},
		{"no relation", inTuple("doc:plan", "", "user:ann"), "changes[0].tuple.relation", "empty"},
		{"subject with a control", inTuple("doc:plan", "viewer", "user:a\x01"), "changes[0].tuple.subject.id", "U+0001"},
		{"userset without relation", inTuple("doc:plan", "viewer", "group:eng#"), "changes[0].tuple.subject.relation", "empty"},
		{"userset of a wildcard", inTuple("doc:plan", "viewer", "group:*#member"), "changes[0].tuple.subject", "no relation"},
		{"expiry and span", inGrant(func(g *pb.Grant) {
			g.ExpiresAt, g.ExpiresAfter = timestamppb.New(time.Now().Add(time.Hour)), durationpb.New(time.Hour)
		}), "changes[0].expires_after", "absent"},
		{"expiry before 1970", inGrant(func(g *pb.Grant) { g.ExpiresAt = timestamppb.New(time.Unix(-1, 0)) }), "changes[0].expires_at", "after 1970"},
		{"expiry at 1970", inGrant(func(g *pb.Grant) { g.ExpiresAt = &timestamppb.Timestamp{} }), "changes[0].expires_at", "after 1970"},
		{"expiry beyond nanoseconds", inGrant(func(g *pb.Grant) { g.ExpiresAt = timestamppb.New(time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)) }), "changes[0].expires_at", "before 2262"},
		{"expiry that is no moment", inGrant(func(g *pb.Grant) { g.ExpiresAt = &timestamppb.Timestamp{Seconds: 1, Nanos: -1} }), "changes[0].expires_at", "not a moment"},
		{"expiry before not-before", inGrant(func(g *pb.Grant) {
			g.NotBefore, g.ExpiresAt = timestamppb.New(time.Now().Add(2*time.Hour)), timestamppb.New(time.Now().Add(time.Hour))
		}), "changes[0].expires_at", "after not_before"},
		{"span of nothing", inGrant(func(g *pb.Grant) { g.ExpiresAfter = &durationpb.Duration{} }), "changes[0].expires_after", "positive"},
		{"negative span", inGrant(func(g *pb.Grant) { g.ExpiresAfter = durationpb.New(-time.Hour) }), "changes[0].expires_after", "positive"},
		{"endless span", inGrant(func(g *pb.Grant) { g.ExpiresAfter = &durationpb.Duration{Seconds: 315_000_000_000} }), "changes[0].expires_after", "292 years"},
		{"context without condition", inGrant(func(g *pb.Grant) { g.Context = contextOf(t, map[string]any{"country": "fr"}) }), "changes[0].context", "absent"},
		{"context too deep", inGrant(func(g *pb.Grant) {
			g.Condition, g.Context = "office", &structpb.Struct{Fields: map[string]*structpb.Value{"country": deep}}
		}), "changes[0].context", "deep"},
		{"context with a number that JSON lacks", inGrant(func(g *pb.Grant) {
			g.Condition, g.Context = "office", contextOf(t, map[string]any{"country": math.Inf(1)})
		}), "changes[0].context", "JSON"},
		{"context too large", inGrant(func(g *pb.Grant) {
			g.Condition, g.Context = "office", contextOf(t, map[string]any{"country": strings.Repeat("a", 65<<10)})
		}), "changes[0].context", "at most 65536 bytes"},
		{"condition name", inGrant(func(g *pb.Grant) { g.Condition = "in office" }), "changes[0].condition", "U+0020"},
		{"owner too long", inGrant(func(g *pb.Grant) { g.Owner = strings.Repeat("a", 257) }), "changes[0].owner", "at most 256 bytes"},
		{"precondition without tuple", func(r *pb.SubmitRequest) { r.Command.Preconditions = []*pb.Precondition{{}} }, "preconditions[0].tuple", "missing"},
		{"precondition twice", func(r *pb.SubmitRequest) {
			p := &pb.Precondition{Tuple: tupleOf("doc:plan", "viewer", "user:ann")}
			r.Command.Preconditions = []*pb.Precondition{p, p}
		}, "preconditions[1].tuple", "preconditions[0] already"},
		{"model beside another change", changes(&pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: testModel}}}, grant("doc:plan", "viewer", "user:ann")), "changes[0]", "alone"},
		{"no model source", writeModel(&pb.ModelSource{}), "changes[0].model.source", "1 to 262144 bytes"},
		{"model source too large", writeModel(&pb.ModelSource{Source: strings.Repeat("#\n", ledger.MaxModelSource/2+1)}), "changes[0].model.source", "1 to 262144 bytes"},
		{"model that does not parse", writeModel(&pb.ModelSource{Source: "model\n  schema 1.1\ntype doc\n  relations\n    define viewer: [user] and or\n"}), "changes[0].model.source", "5:"},
		{"model with an unknown type", writeModel(&pb.ModelSource{Source: "model\n  schema 1.1\ntype doc\n  relations\n    define viewer: [person]\n"}), "changes[0].model.source", "person"},
		{"model kind", writeModel(&pb.ModelSource{Source: testModel, Kind: 9}), "changes[0].model.kind", "unknown kind"},
		{"model's own id", writeModel(&pb.ModelSource{Source: testModel, Id: "mine"}), "changes[0].model.id", "ULID"},
		{"store in a store", changes(&pb.Change{Change: &pb.Change_CreateStore{CreateStore: &pb.CreateStore{Name: "a", Admin: "b"}}}), "store", "system"},
		{"command too large", changes(long...), "", "at most 524288 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann")}}}
			tt.change(r)
			_, err := n.Submit(context10(t), r)
			wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, tt.field, tt.rule)
		})
	}
	if after := len(n.log.Messages()); after != before {
		t.Errorf("the log grew by %d messages", after-before)
	}
}

// TestBadBytes: text that is not UTF-8, a message over the limit, and fields that are
// not known here.
func TestBadBytes(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	question := &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "user:ann")}

	raw, err := proto.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte("user:ann"), []byte("user:a\xff\xfe"), 1)
	if resp := n.send(t, grantlogv1connect.PermissionServiceCheckProcedure, "application/proto", raw); !strings.Contains(resp, "invalid_argument") || !strings.Contains(resp, "UTF-8") {
		t.Errorf("text that is not UTF-8: %s", resp)
	}

	future := proto.Clone(question).(*pb.CheckRequest)
	future.Freshness = &pb.Freshness{}
	future.Freshness.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 17))
	if _, err := n.Check(context10(t), future); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "freshness.99") {
		t.Errorf("a freshness of the future: %v, want it refused by its path", err)
	}
	inList := &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann"), grant("doc:plan", "viewer", "user:bob")}}}
	inList.Command.Changes[1].GetGrant().ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	if _, err := n.Submit(context10(t), inList); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "command.changes[1].grant.99") {
		t.Errorf("a grant of the future: %v, want it refused by its path", err)
	}
	if _, body := n.post(t, grantlogv1connect.PermissionServiceCheckProcedure, `{"store": "x", "fresh": 1}`); !strings.Contains(body, "invalid_argument") || !strings.Contains(body, `\"fresh\"`) {
		t.Errorf("an unknown field in JSON: %s", body)
	}
	if _, body := n.post(t, grantlogv1connect.PermissionServiceCheckProcedure, `{"store": `); !strings.Contains(body, "invalid_argument") {
		t.Errorf("half a JSON object: %s", body)
	}

	large := &pb.SubmitRequest{Command: &pb.Command{Store: store, Reason: strings.Repeat("a", maxRequest)}}
	if _, err := n.Submit(context10(t), large); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a message over 1 MiB: %v, want resource exhausted", err)
	}
}

func (n *node) send(t *testing.T, procedure, kind string, body []byte) string {
	t.Helper()
	resp, err := http.Post("http://"+n.address+procedure, kind, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRejected: what depends on the state is recorded, and answered as an outcome.
func TestRejected(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	id := ledger.NewUUID().String()
	submit := func(t *testing.T, c *pb.Command) *pb.SubmitResponse {
		t.Helper()
		answer, err := n.Submit(context10(t), &pb.SubmitRequest{Actor: "ann", Command: c})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	first := submit(t, &pb.Command{Id: id, Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann")}})
	again := submit(t, &pb.Command{Id: id, Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann")}})
	if again.Outcome.Kind != pb.Outcome_DUPLICATE || again.Outcome.First != first.Revision || again.Original.GetKind() != pb.Outcome_APPLIED || again.Revision <= first.Revision {
		t.Errorf("the same command again = %v, want a duplicate of revision %d", again, first.Revision)
	}
	condition := grant("doc:plan", "viewer", "user:bob")
	condition.GetGrant().Condition = "office"
	condition.GetGrant().Context = contextOf(t, map[string]any{"country": 3})
	other := ledger.NewID().String()
	for _, tt := range []struct {
		name    string
		command *pb.Command
		code    pb.Rejection_Code
		field   string
	}{
		{"id with other content", &pb.Command{Id: id, Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:bob")}}, pb.Rejection_CONFLICT, "id"},
		{"unknown store", &pb.Command{Store: other, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:bob")}}, pb.Rejection_NOT_FOUND, "store"},
		{"unknown model", &pb.Command{Store: store, Model: other, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:bob")}}, pb.Rejection_NOT_FOUND, "model"},
		{"unknown type", &pb.Command{Store: store, Changes: []*pb.Change{grant("file:plan", "viewer", "user:bob")}}, pb.Rejection_NOT_FOUND, "changes[0].tuple.object.type"},
		{"unknown relation", &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "admin", "user:bob")}}, pb.Rejection_NOT_FOUND, "changes[0].tuple.relation"},
		{"subject kind", &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "owner", "group:eng#member")}}, pb.Rejection_INVALID, "changes[0].tuple.subject"},
		{"ill-typed context", &pb.Command{Store: store, Changes: []*pb.Change{condition}}, pb.Rejection_INVALID, "changes[0].context"},
		{"precondition", &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:bob")},
			Preconditions: []*pb.Precondition{{Tuple: tupleOf("doc:plan", "owner", "user:bob"), MustExist: true}}}, pb.Rejection_PRECONDITION, "preconditions[0].tuple"},
		{"signed", &pb.Command{Store: store, KeyId: "k", Signature: make([]byte, 64), Changes: []*pb.Change{grant("doc:plan", "viewer", "user:bob")}}, pb.Rejection_MALFORMED, "signature"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer := submit(t, tt.command)
			r := answer.Outcome.GetRejection()
			if answer.Outcome.Kind != pb.Outcome_REJECTED || r.GetCode() != tt.code || !strings.HasPrefix(r.GetField(), tt.field) || r.GetMessage() == "" || answer.Revision == 0 || answer.Token == "" {
				t.Errorf("submit = %v, want it rejected as %s at %s", answer, tt.code, tt.field)
			}
		})
	}
}

// TestBadQuestion: a question that has no answer is an error with a code and a field,
// alone and in a batch, and never a denial.
func TestBadQuestion(t *testing.T) {
	n := newNode(t)
	store, bare := n.store(t, testModel), n.store(t, "")
	office := grant("doc:plan", "viewer", "user:ann")
	office.GetGrant().Condition = "office"
	office.GetGrant().Context = contextOf(t, map[string]any{"allowed": []any{"fr", "de"}})
	n.apply(t, store, office)
	ann := tupleOf("doc:plan", "viewer", "user:ann")
	for _, tt := range []struct {
		name  string
		ask   *pb.CheckRequest
		code  connect.Code
		why   pb.Rejection_Code
		field string
		rule  string
	}{
		{"no store", &pb.CheckRequest{Tuple: ann}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "empty"},
		{"system store", &pb.CheckRequest{Store: "system", Tuple: ann}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "system"},
		{"store id", &pb.CheckRequest{Store: "acme", Tuple: ann}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "ULID"},
		{"unknown store", &pb.CheckRequest{Store: ledger.NewID().String(), Tuple: ann}, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "not found"},
		{"no model yet", &pb.CheckRequest{Store: bare, Tuple: ann}, connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "model", "no model"},
		{"unknown model", &pb.CheckRequest{Store: store, Model: ledger.NewID().String(), Tuple: ann}, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "model", "not found"},
		{"model id", &pb.CheckRequest{Store: store, Model: "1", Tuple: ann}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "model", "ULID"},
		{"no tuple", &pb.CheckRequest{Store: store}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "tuple", "missing"},
		{"malformed object", &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:\u00a0", "viewer", "user:ann")}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "tuple.object.id", "U+00A0"},
		{"unknown type", &pb.CheckRequest{Store: store, Tuple: tupleOf("file:plan", "viewer", "user:ann")}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "tuple.object", "file"},
		{"unknown relation", &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "admin", "user:ann")}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "tuple.relation", "admin"},
		{"unknown subject type", &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "robot:ann")}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "tuple.subject", "robot"},
		{"unknown subject relation", &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "group:eng#boss")}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "tuple.subject", "boss"},
		{"malformed contextual tuple", &pb.CheckRequest{Store: store, Tuple: ann, Contextual: []*pb.ContextualTuple{{Tuple: tupleOf("doc:plan", "viewer", "ann")}}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "contextual[0].tuple.subject", "type:id"},
		{"contextual tuple that may not be granted", &pb.CheckRequest{Store: store, Tuple: ann, Contextual: []*pb.ContextualTuple{{Tuple: tupleOf("doc:plan", "owner", "user:*")}}},
			connect.CodeInvalidArgument, pb.Rejection_INVALID, "contextual[0].tuple.subject", "user"},
		{"freshness denied", &pb.CheckRequest{Store: store, Tuple: ann, Freshness: &pb.Freshness{Freshness: &pb.Freshness_Latest{}}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "freshness.latest", "true"},
		{"no token", &pb.CheckRequest{Store: store, Tuple: ann, Freshness: &pb.Freshness{Freshness: &pb.Freshness_AtLeast{AtLeast: "now"}}},
			connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "freshness.at_least", "token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := n.Check(context10(t), tt.ask)
			wantRejection(t, err, tt.code, tt.why, tt.field, tt.rule)
			batch, batchErr := n.BatchCheck(context10(t), &pb.BatchCheckRequest{Store: tt.ask.Store, Model: tt.ask.Model, Freshness: tt.ask.Freshness,
				Items: []*pb.BatchCheckRequest_Item{{Tuple: tt.ask.Tuple, Contextual: tt.ask.Contextual, Context: tt.ask.Context}}})
			if batchErr != nil { // the request's fault as a whole
				wantRejection(t, batchErr, tt.code, tt.why, tt.field, tt.rule)
				return
			}
			if e := batch.Results[0].Error; batch.Results[0].Allowed || e.GetCode() != tt.code.String() || e.GetField() != tt.field || !strings.Contains(e.GetMessage(), tt.rule) {
				t.Errorf("in a batch = %v, want %s at %s", batch.Results[0], tt.code, tt.field)
			}
		})
	}

	_, err := n.Check(context10(t), &pb.CheckRequest{Store: store, Tuple: ann})
	missing, ok := detailOf[*pb.MissingContext](t, err)
	if connect.CodeOf(err) != connect.CodeInvalidArgument || !ok || missing.Condition != "office" || len(missing.Parameters) != 1 || missing.Parameters[0] != "country" {
		t.Errorf("a missing parameter: %v with %v, want it named", err, missing)
	}
	_, err = n.Check(context10(t), &pb.CheckRequest{Store: store, Tuple: ann, Context: contextOf(t, map[string]any{"country": 3})})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_INVALID, "context.country", "string")
	for country, want := range map[string]bool{"fr": true, "us": false} {
		answer, err := n.Check(context10(t), &pb.CheckRequest{Store: store, Tuple: ann, Context: contextOf(t, map[string]any{"country": country, "allowed": []any{"us"}})})
		if err != nil || answer.Allowed != want {
			t.Errorf("in %s = %v, %v, want allowed %t, by the stored list", country, answer, err, want)
		}
	}
	items := make([]*pb.BatchCheckRequest_Item, query.MaxBatch+1)
	for i := range items {
		items[i] = &pb.BatchCheckRequest_Item{Tuple: ann}
	}
	_, err = n.BatchCheck(context10(t), &pb.BatchCheckRequest{Store: store, Items: items})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "items", "1 to 10000")
	_, err = n.BatchCheck(context10(t), &pb.BatchCheckRequest{Store: store})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "items", "1 to 10000")
}

// TestFreshness: tokens of other places and times, and a replica that lags.
func TestFreshness(t *testing.T) {
	n := newNode(t)
	store, other := n.store(t, testModel), n.store(t, testModel)
	ann := tupleOf("doc:plan", "viewer", "user:ann")
	token, err := ledger.ParseToken(n.apply(t, store, grant("doc:plan", "viewer", "user:ann")).Token)
	if err != nil {
		t.Fatal(err)
	}
	atLeast := func(t ledger.Token) *pb.Freshness {
		return &pb.Freshness{Freshness: &pb.Freshness_AtLeast{AtLeast: t.String()}}
	}
	foreignLog, foreignStore, forged, ahead := token, token, token, token
	foreignLog.Log = ledger.NewUUID()
	if foreignStore.Store, err = ledger.ParseID(other); err != nil {
		t.Fatal(err)
	}
	forged.Leaf[0] ^= 1
	ahead.Revision = 1000
	for _, tt := range []struct {
		name  string
		token ledger.Token
		why   pb.Rejection_Code
	}{
		{"of another log", foreignLog, pb.Rejection_INVALID},
		{"of another store", foreignStore, pb.Rejection_INVALID},
		{"forged", forged, pb.Rejection_MALFORMED},
		{"of a revision that never was", ahead, pb.Rejection_MALFORMED},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := n.Check(context10(t), &pb.CheckRequest{Store: store, Tuple: ann, Freshness: atLeast(tt.token)})
			wantRejection(t, err, connect.CodeInvalidArgument, tt.why, "freshness.at_least", "token")
			stream, err := n.Replay(context10(t), &pb.ReplayRequest{Store: store, Start: &pb.ReplayRequest_ResumeToken{ResumeToken: tt.token.String()}})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if stream.Receive() {
				t.Errorf("replay answered %v", stream.Msg())
			}
			wantRejection(t, stream.Err(), connect.CodeInvalidArgument, tt.why, "resume_token", "token")
		})
	}

	n.log.PauseReads()
	defer n.log.ResumeReads()
	appended, err := n.Submit(context10(t), &pb.SubmitRequest{Actor: "ann", Wait: pb.SubmitRequest_APPENDED, Command: &pb.Command{Store: store, Changes: []*pb.Change{revoke("doc:plan", "viewer", "user:ann")}}})
	if err != nil || appended.Outcome != nil || appended.Id == "" {
		t.Fatalf("submit = %v, %v, want no outcome yet", appended, err)
	}
	stale, err := n.Check(context10(t), &pb.CheckRequest{Store: store, Tuple: ann})
	if err != nil || !stale.Allowed {
		t.Errorf("any = %v, %v, want the answer of before the revoke", stale, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err = n.Check(short, &pb.CheckRequest{Store: store, Tuple: ann, Freshness: &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}})
	behind, ok := detailOf[*pb.Behind](t, err)
	if connect.CodeOf(err) != connect.CodeUnavailable || !ok || behind.Applied != uint64(token.Revision) {
		t.Errorf("latest on a replica that lags: %v with %v, want unavailable at revision %d", err, behind, token.Revision)
	}
	n.log.ResumeReads()
	now, err := n.Check(context10(t), &pb.CheckRequest{Store: store, Tuple: ann, Freshness: &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}})
	if err != nil || now.Allowed {
		t.Errorf("latest = %v, %v, want the revoke seen", now, err)
	}
	found, err := n.GetCommand(context10(t), &pb.GetCommandRequest{Store: store, Actor: "ann", Id: appended.Id})
	if err != nil || found.Entry.GetOutcome().GetKind() != pb.Outcome_APPLIED {
		t.Errorf("get command = %v, %v, want it applied", found, err)
	}
}

// TestLostAnswer: a command whose answer is lost is UNKNOWN, with the id to ask for.
func TestLostAnswer(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	request := &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann")}}}
	n.log.NextAppends(ledgertest.Fault{Kind: ledgertest.Refuse})
	if _, err := n.Submit(context10(t), request); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("refused by the log: %v, want unavailable", err)
	}
	n.log.PauseReads() // else the fold answers
	defer n.log.ResumeReads()
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := n.Submit(short, request)
	lost, ok := detailOf[*pb.UnknownOutcome](t, err)
	if connect.CodeOf(err) != connect.CodeUnknown || !ok {
		t.Fatalf("an answer that does not come: %v, want unknown with the command's id", err)
	}
	n.log.ResumeReads()
	found, err := n.GetCommand(context10(t), &pb.GetCommandRequest{Store: store, Actor: "ann", Id: lost.Id, Freshness: &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}})
	if err != nil || found.Entry.GetOutcome().GetKind() != pb.Outcome_APPLIED {
		t.Errorf("get command = %v, %v, want it applied", found, err)
	}
	_, err = n.GetCommand(context10(t), &pb.GetCommandRequest{Store: store, Actor: "bob", Id: lost.Id})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "id", lost.Id)
	_, err = n.GetCommand(context10(t), &pb.GetCommandRequest{Store: store, Id: "1"})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "id", "UUID")
}

// TestFaultOf: an error that nobody thought of keeps its text to itself.
func TestFaultOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code connect.Code
	}{
		{errors.New("open /var/secret: permission denied"), connect.CodeInternal},
		{&fieldError{"model", errors.New("open /var/secret: permission denied")}, connect.CodeInternal},
		{fmt.Errorf("reading: %w", context.Canceled), connect.CodeCanceled},
		{fmt.Errorf("reading: %w", context.DeadlineExceeded), connect.CodeDeadlineExceeded},
		{fmt.Errorf("%w: %w", ledger.ErrUnavailable, context.DeadlineExceeded), connect.CodeUnavailable},
		{fmt.Errorf("%w: too late", ledger.ErrLostPast), connect.CodeFailedPrecondition},
		{ledger.Reject(ledger.CodeDenied, "", "no right"), connect.CodePermissionDenied},
		{ledger.Reject(ledger.CodeConflict, "id", "used before"), connect.CodeAlreadyExists},
		{ledger.ErrGap, connect.CodeUnavailable},
		{&dsl.ContextError{Param: "country", Err: errors.New("not text")}, connect.CodeInvalidArgument},
		{&dsl.ContextError{Param: "country", Stored: true, Err: errors.New("not text")}, connect.CodeFailedPrecondition},
		{&dsl.ConditionError{Condition: "office", Err: errors.New("division by zero")}, connect.CodeFailedPrecondition},
		{&dsl.CostError{Condition: "office", Limit: 10}, connect.CodeResourceExhausted},
		{&model.BudgetError{What: "rows", Limit: 10}, connect.CodeResourceExhausted},
		{&model.CycleError{Parts: []model.CyclePart{{}}}, connect.CodeFailedPrecondition},
	} {
		f := faultOf(tt.err)
		if f.code != tt.code {
			t.Errorf("faultOf(%v) = %s, want %s", tt.err, f.code, tt.code)
		}
		text := strings.TrimPrefix(tt.err.Error(), f.code.String()+": ") // which the caller gets as the code
		if hidden := !strings.Contains(f.message, text) || strings.HasPrefix(f.message, f.code.String()); hidden != (tt.code == connect.CodeInternal) {
			t.Errorf("faultOf(%v) says %q", tt.err, f.message)
		}
	}
}

// TestNumbers: the enums of the API have the numbers of grantlog's own types, which
// are cast to them.
func TestNumbers(t *testing.T) {
	same := func(name string, got protoreflect.Enum, want string) {
		t.Helper()
		v := got.Descriptor().Values().ByNumber(got.Number())
		if v == nil || !strings.EqualFold(string(v.Name()), want) {
			t.Errorf("%s %s is %v in the API", name, want, v)
		}
	}
	for c := ledger.CodeMalformed; c <= ledger.CodeInvalid; c++ {
		same("code", pb.Rejection_Code(c), c.String())
		if rejectionCodes[c] == 0 {
			t.Errorf("code %s has no code at the edge", c)
		}
	}
	for k := ledger.Applied; k <= ledger.Duplicate; k++ {
		same("outcome", pb.Outcome_Kind(k), k.String())
	}
	for m := ledger.MethodNone; m <= ledger.MethodKey; m++ {
		same("method", pb.Entry_Method(m), m.String())
	}
	for k, name := range map[ledger.SourceKind]string{ledger.SourceDSL: "dsl", ledger.SourceModules: "modules", ledger.SourceJSON: "json"} {
		same("source", pb.ModelSource_Kind(k), name)
		if sourceKinds[pb.ModelSource_Kind(k)] != k {
			t.Errorf("source kind %s is read as %d", name, sourceKinds[pb.ModelSource_Kind(k)])
		}
	}
}
