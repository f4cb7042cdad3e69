package openfga_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const questionsModel = `model
  schema 1.1

type user

type group
  relations
    define member: [user, group#member]

type folder
  relations
    define viewer: [user]

type doc
  relations
    define parent: [folder]
    define owner: [user]
    define blocked: [user]
    define viewer: [user, user:*, group#member, user with office] or owner or viewer from parent
    define reader: viewer but not blocked
    define signer: owner and reader

condition office(country: string, allowed: list<string>) {
  country in allowed
}
`

// A world is a node with a store that has questionsModel and some tuples, asked over both
// transports.
type world struct {
	*node
	store, model string
	conn         *grpc.ClientConn
	ledger       grantlogv1connect.LedgerServiceClient
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{node: newNode(t)}
	base := "http://" + w.address
	w.ledger = grantlogv1connect.NewLedgerServiceClient(http.DefaultClient, base)
	store, err := grantlogv1connect.NewStoreServiceClient(http.DefaultClient, base).CreateStore(context10(t), &pb.CreateStoreRequest{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	w.store = store.Store.Id
	w.model = w.apply(t, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: questionsModel}}})
	if w.conn, err = grpc.NewClient(w.address, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close() })
	w.grant(t, "user:ann owner doc:a", "user:bob viewer doc:a", "group:eng#member viewer doc:a", "user:cid member group:eng",
		"folder:f parent doc:b", "user:dan viewer folder:f", "user:* viewer doc:c", "user:eve blocked doc:c", "user:fay owner doc:c")
	return w
}

// apply submits one command to the store, by the native API, and returns the model that it
// wrote.
func (w *world) apply(t testing.TB, changes ...*pb.Change) string {
	t.Helper()
	answer, err := w.ledger.Submit(context10(t), &pb.SubmitRequest{Command: &pb.Command{Store: w.store, Changes: changes}})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Outcome.Kind != pb.Outcome_APPLIED {
		t.Fatalf("outcome = %v, want applied", answer.Outcome)
	}
	return answer.Model
}

// grant grants tuples, each written as user, relation, object.
func (w *world) grant(t testing.TB, tuples ...string) {
	t.Helper()
	var changes []*pb.Change
	for _, text := range tuples {
		part := strings.Fields(text)
		g := &pb.Grant{Tuple: &pb.Tuple{Subject: part[0], Relation: part[1], Object: part[2]}}
		if len(part) > 3 {
			g.Condition = part[3]
		}
		changes = append(changes, &pb.Change{Change: &pb.Change_Grant{Grant: g}})
	}
	w.apply(t, changes...)
}

// paths is where the questions are asked over HTTP, by their names over gRPC.
var paths = map[string]string{
	"Check": "check", "BatchCheck": "batch-check", "ListObjects": "list-objects", "ListUsers": "list-users", "Expand": "expand",
}

// post asks over HTTP. The answer has no spaces; of an error it is its code.
func (w *world) post(t testing.TB, operation, body string) (answer, message string) {
	t.Helper()
	code, text := w.do(t, http.MethodPost, "/stores/"+w.store+"/"+paths[operation], body)
	if code == http.StatusOK {
		return compact(t, text), ""
	}
	var e struct{ Code, Message string }
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return e.Code, e.Message
}

// call asks over gRPC what post asks over HTTP, and answers alike.
func (w *world) call(t testing.TB, operation, body string) (answer, message string) {
	t.Helper()
	method := openfgav1.File_openfga_v1_openfga_service_proto.Services().ByName("OpenFGAService").Methods().ByName(protoreflect.Name(operation))
	req, resp := newMessage(t, method.Input()), newMessage(t, method.Output())
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(body), req); err != nil {
		t.Fatal(err)
	}
	m := req.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("store_id"), protoreflect.ValueOfString(w.store))
	err := w.conn.Invoke(context10(t), "/openfga.v1.OpenFGAService/"+operation, req, resp)
	if err != nil {
		st := status.Convert(err)
		return codeName(int32(st.Code())), st.Message()
	}
	text, err := (protojson.MarshalOptions{EmitUnpopulated: true}).Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	return compact(t, string(text)), ""
}

func newMessage(t testing.TB, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// codeName returns the name of a number of the API's errors.
func codeName(code int32) string {
	for _, names := range []map[int32]string{openfgav1.ErrorCode_name, openfgav1.InternalErrorCode_name, openfgav1.NotFoundErrorCode_name} {
		if name, ok := names[code]; ok {
			return name
		}
	}
	return fmt.Sprint(code)
}

func compact(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return b.String()
}

// ask asks over both transports, which must answer alike.
func (w *world) ask(t testing.TB, operation, body string) (answer, message string) {
	t.Helper()
	answer, message = w.post(t, operation, body)
	overRPC, messageRPC := w.call(t, operation, body)
	if answer != overRPC || message != messageRPC {
		t.Errorf("%s %s = %s %q over HTTP, and over gRPC %s %q", operation, body, answer, message, overRPC, messageRPC)
	}
	return answer, message
}

func check(user, relation, object string) string {
	return fmt.Sprintf(`"tuple_key":{"user":%q,"relation":%q,"object":%q}`, user, relation, object)
}

func TestQuestions(t *testing.T) {
	w := newWorld(t)
	w.grant(t, "user:gus viewer doc:d office")
	older := w.model
	newer := w.apply(t, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{
		Source: strings.Replace(questionsModel, "define viewer: [user, user:*,", "define viewer: [user,", 1)}}})
	const given = `{"tuple_keys":[{"user":"user:hal","relation":"viewer","object":"doc:z"},{"user":"user:hal","relation":"viewer","object":"doc:z"}]}`
	for _, tt := range []struct{ name, operation, body, want string }{
		{"allowed", "Check", `{` + check("user:ann", "viewer", "doc:a") + `}`, `{"allowed":true,"resolution":""}`},
		{"denied", "Check", `{` + check("user:zoe", "viewer", "doc:a") + `,"trace":true}`, `{"allowed":false,"resolution":""}`},
		{"userset", "Check", `{` + check("group:eng#member", "viewer", "doc:a") + `}`, `{"allowed":true,"resolution":""}`},
		{"unknown field", "Check", `{` + check("user:ann", "viewer", "doc:a") + `,"colour":"red"}`, `{"allowed":true,"resolution":""}`},
		{"latest", "Check", `{` + check("user:cid", "viewer", "doc:a") + `,"consistency":"HIGHER_CONSISTENCY"}`, `{"allowed":true,"resolution":""}`},
		{"newest model", "Check", `{` + check("user:zoe", "viewer", "doc:c") + `}`, `{"allowed":false,"resolution":""}`},
		{"named model", "Check", `{` + check("user:zoe", "viewer", "doc:c") + `,"authorization_model_id":"` + older + `"}`, `{"allowed":true,"resolution":""}`},
		{"context", "Check", `{` + check("user:gus", "viewer", "doc:d") + `,"context":{"country":"CH","allowed":["CH"]}}`, `{"allowed":true,"resolution":""}`},
		{"contextual tuples", "Check", `{` + check("user:hal", "reader", "doc:z") + `,"contextual_tuples":` + given + `}`, `{"allowed":true,"resolution":""}`},
		{"condition of a contextual tuple", "Check", `{` + check("user:hal", "reader", "doc:z") + `,"context":{"country":"CH"},"contextual_tuples":{"tuple_keys":[
			{"user":"user:hal","relation":"viewer","object":"doc:z","condition":{"name":"office","context":{"allowed":["DE"]}}}]}}`, `{"allowed":false,"resolution":""}`},

		{"objects", "ListObjects", `{"type":"doc","relation":"viewer","user":"user:ann","authorization_model_id":"` + older + `"}`, `{"objects":["doc:a","doc:c"]}`},
		{"no objects", "ListObjects", `{"type":"doc","relation":"owner","user":"user:zoe"}`, `{"objects":[]}`},
		{"objects with contextual tuples", "ListObjects", `{"type":"doc","relation":"reader","user":"user:hal","contextual_tuples":` + given + `}`, `{"objects":["doc:z"]}`},

		{"users", "ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"user"}]}`,
			`{"users":[{"object":{"type":"user","id":"ann"}},{"object":{"type":"user","id":"bob"}},{"object":{"type":"user","id":"cid"}}]}`},
		{"usersets", "ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"group","relation":"member"}]}`,
			`{"users":[{"userset":{"type":"group","id":"eng","relation":"member"}}]}`},
		{"wildcard without the excluded", "ListUsers", `{"object":{"type":"doc","id":"c"},"relation":"reader","user_filters":[{"type":"user"}],"authorization_model_id":"` + older + `"}`,
			`{"users":[{"wildcard":{"type":"user"}},{"object":{"type":"user","id":"fay"}}]}`},
		{"a kind that cannot hold", "ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"folder"}]}`, `{"users":[]}`},
		{"users with contextual tuples", "ListUsers", `{"object":{"type":"doc","id":"z"},"relation":"viewer","user_filters":[{"type":"user"}],
			"contextual_tuples":[{"user":"user:hal","relation":"viewer","object":"doc:z"}]}`, `{"users":[{"object":{"type":"user","id":"hal"}}]}`},

		{"tree of a union", "Expand", `{"tuple_key":{"relation":"viewer","object":"doc:a"}}`, `{"tree":{"root":{"name":"doc:a#viewer","union":{"nodes":[` +
			`{"name":"doc:a#viewer","leaf":{"users":{"users":["group:eng#member","user:bob"]}}},` +
			`{"name":"doc:a#viewer","leaf":{"computed":{"userset":"doc:a#owner"}}},` +
			`{"name":"doc:a#viewer","leaf":{"tupleToUserset":{"tupleset":"doc:a#parent","computed":[]}}}]}}}}`},
		{"tree of a difference", "Expand", `{"tuple_key":{"relation":"reader","object":"doc:a"}}`, `{"tree":{"root":{"name":"doc:a#reader","difference":{` +
			`"base":{"name":"doc:a#reader","leaf":{"computed":{"userset":"doc:a#viewer"}}},"subtract":{"name":"doc:a#reader","leaf":{"computed":{"userset":"doc:a#blocked"}}}}}}}`},
		{"tree of an intersection", "Expand", `{"tuple_key":{"relation":"signer","object":"doc:a"}}`, `{"tree":{"root":{"name":"doc:a#signer","intersection":{"nodes":[` +
			`{"name":"doc:a#signer","leaf":{"computed":{"userset":"doc:a#owner"}}},{"name":"doc:a#signer","leaf":{"computed":{"userset":"doc:a#reader"}}}]}}}}`},
		{"leaf with a contextual tuple", "Expand", `{"tuple_key":{"relation":"owner","object":"doc:b"},"contextual_tuples":{"tuple_keys":[{"user":"user:hal","relation":"owner","object":"doc:b"}]}}`,
			`{"tree":{"root":{"name":"doc:b#owner","leaf":{"users":{"users":["user:hal"]}}}}}`},
		{"leaf of a condition", "Expand", `{"tuple_key":{"relation":"viewer","object":"doc:d"}}`, `{"tree":{"root":{"name":"doc:d#viewer","union":{"nodes":[` +
			`{"name":"doc:d#viewer","leaf":{"users":{"users":["user:gus"]}}},` +
			`{"name":"doc:d#viewer","leaf":{"computed":{"userset":"doc:d#owner"}}},` +
			`{"name":"doc:d#viewer","leaf":{"tupleToUserset":{"tupleset":"doc:d#parent","computed":[]}}}]}}}}`},
		{"leaf of a parent", "Expand", `{"tuple_key":{"relation":"viewer","object":"doc:b"},"authorization_model_id":"` + newer + `"}`, `{"tree":{"root":{"name":"doc:b#viewer","union":{"nodes":[` +
			`{"name":"doc:b#viewer","leaf":{"users":{"users":[]}}},` +
			`{"name":"doc:b#viewer","leaf":{"computed":{"userset":"doc:b#owner"}}},` +
			`{"name":"doc:b#viewer","leaf":{"tupleToUserset":{"tupleset":"doc:b#parent","computed":[{"userset":"folder:f#viewer"}]}}}]}}}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, message := w.ask(t, tt.operation, tt.body); got != tt.want {
				t.Errorf("%s %s = %s %s, want %s", tt.operation, tt.body, got, message, tt.want)
			}
		})
	}
}

// TestBatchCheck holds that each check of a batch has its own answer or error.
func TestBatchCheck(t *testing.T) {
	w := newWorld(t)
	w.grant(t, "user:gus viewer doc:d office")
	body := `{"checks":[
		{"correlation_id":"a",` + check("user:ann", "viewer", "doc:a") + `},
		{"correlation_id":"b",` + check("user:zoe", "viewer", "doc:a") + `},
		{"correlation_id":"c",` + check("zoe", "viewer", "doc:a") + `},
		{"correlation_id":"d",` + check("user:zoe", "colour", "doc:a") + `},
		{"correlation_id":"e",` + check("user:gus", "viewer", "doc:d") + `},
		{"correlation_id":"f",` + check("user:gus", "viewer", "doc:d") + `,"context":{"country":"CH","allowed":["CH"]}},
		{"correlation_id":"g",` + check("user:hal", "owner", "doc:z") + `,"contextual_tuples":{"tuple_keys":[{"user":"user:hal","relation":"owner","object":"doc:z"}]}},
		{"correlation_id":"h",` + check("user:hal", "owner", "doc:z") + `,"contextual_tuples":{"tuple_keys":[{"user":"group:eng","relation":"owner","object":"doc:z"}]}}]}`
	answer, message := w.ask(t, "BatchCheck", body)
	var batch openfgav1.BatchCheckResponse
	if err := protojson.Unmarshal([]byte(answer), &batch); err != nil {
		t.Fatalf("%s %s: %v", answer, message, err)
	}
	if !strings.Contains(answer, `"b":{"allowed":false}`) {
		t.Errorf("answer = %s, want the denial to be told", answer)
	}
	allowed := map[string]bool{"a": true, "b": false, "f": true, "g": true}
	errors := map[string]openfgav1.ErrorCode{"c": 2000, "d": 2000, "e": 2000, "h": 2027}
	if len(batch.Result) != len(allowed)+len(errors) {
		t.Errorf("answer = %s, want %d results", answer, len(allowed)+len(errors))
	}
	for id, r := range batch.Result {
		want, ok := allowed[id]
		if got := r.GetError().GetInputError(); r.GetAllowed() != want || ok != (r.GetError() == nil) || got != errors[id] {
			t.Errorf("%s: %v, want %t %v", id, r, want, errors[id])
		}
	}
}
