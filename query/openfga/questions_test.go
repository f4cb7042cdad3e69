package openfga_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/serve"
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
    define viewer: [user, user:*, group#member, user with office, group#member with office] or owner or viewer from parent
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

func newWorld(t testing.TB, change ...func(*serve.Config)) *world {
	t.Helper()
	w := &world{node: newNode(t, change...)}
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

// TestBadQuestions holds the code and the field of what cannot be answered.
func TestBadQuestions(t *testing.T) {
	w := newWorld(t)
	w.grant(t, "user:gus viewer doc:d office", "group:eng#member viewer doc:d office")
	contextual := func(tuples ...string) string {
		return `"contextual_tuples":{"tuple_keys":[` + strings.Join(tuples, ",") + `]}`
	}
	ann := check("user:ann", "viewer", "doc:a")
	many := strings.TrimSuffix(strings.Repeat(`{"user":"user:hal","relation":"owner","object":"doc:z"},`, 101), ",")
	item := func(n int, id string) string { return fmt.Sprintf(`{"correlation_id":"%s%d",%s}`, id, n, ann) }
	batch := func(n int) string {
		var items []string
		for i := range n {
			items = append(items, item(i, "a"))
		}
		return `{"checks":[` + strings.Join(items, ",") + `]}`
	}
	if answer, message := w.ask(t, "BatchCheck", batch(50)); !strings.Contains(answer, `"a49":{"allowed":true}`) {
		t.Errorf("a batch of 50 = %s %s", answer, message)
	}
	for _, tt := range []struct{ name, operation, body, code, message string }{
		{"user without a type", "Check", `{` + check("ann", "viewer", "doc:a") + `}`, "validation_error", `tuple_key.user: "ann" must be type:id`},
		{"object without an id", "Check", `{` + check("user:ann", "viewer", "doc:") + `}`, "validation_error", `tuple_key.object: its id "" must not be empty`},
		{"unknown type", "Check", `{` + check("user:ann", "viewer", "page:a") + `}`, "validation_error", `tuple_key.object: the model has no type "page"`},
		{"unknown type of user", "Check", `{` + check("robot:r", "viewer", "doc:a") + `}`, "validation_error", `tuple_key.user: the model has no type "robot"`},
		{"unknown relation", "Check", `{` + check("user:ann", "colour", "doc:a") + `}`, "validation_error", `tuple_key.relation: type "doc" has no relation "colour"`},
		{"unknown model", "Check", `{` + ann + `,"authorization_model_id":"` + noStore + `"}`, "authorization_model_not_found", "authorization_model_id: the store has no authorization model " + noStore},
		{"no id of a model", "Check", `{` + ann + `,"authorization_model_id":"ZZZZZZZZZZZZZZZZZZZZZZZZZZ"}`, "authorization_model_not_found", "ZZZ"},
		{"the id of none", "Check", `{` + ann + `,"authorization_model_id":"00000000000000000000000000"}`, "authorization_model_not_found", "000"},
		{"model id too short", "Check", `{` + ann + `,"authorization_model_id":"01"}`, "validation_error", "authorization_model_id"},
		{"contextual tuple that the model forbids", "Check", `{` + ann + `,` + contextual(`{"user":"group:eng","relation":"owner","object":"doc:z"}`) + `}`, "invalid_tuple", "contextual_tuples.tuple_keys[0].user: relation"},
		{"contextual tuple of no form", "Check", `{` + ann + `,` + contextual(`{"user":"user:hal","relation":"owner","object":"doc:z"}`, `{"user":"hal","relation":"owner","object":"doc:z"}`) + `}`, "invalid_tuple", "contextual_tuples.tuple_keys[1].user: "},
		{"contextual tuple in two forms", "Check", `{` + ann + `,` + contextual(`{"user":"user:hal","relation":"viewer","object":"doc:z"}`,
			`{"user":"user:hal","relation":"viewer","object":"doc:z","condition":{"name":"office"}}`) + `}`, "duplicate_contextual_tuple", "contextual_tuples.tuple_keys[1]: "},
		{"unknown condition", "Check", `{` + ann + `,` + contextual(`{"user":"user:hal","relation":"viewer","object":"doc:z","condition":{"name":"moon"}}`) + `}`, "validation_error", "contextual_tuples.tuple_keys[0].condition: "},
		{"context of a contextual tuple", "Check", `{` + ann + `,` + contextual(`{"user":"user:hal","relation":"viewer","object":"doc:z","condition":{"name":"office","context":{"country":5}}}`) + `}`, "validation_error", "contextual_tuples.tuple_keys[0].condition.context: "},
		{"too many contextual tuples", "Check", `{` + ann + `,` + contextual(many) + `}`, "validation_error", "contextual_tuples.tuple_keys: value must contain no more than 100"},
		{"context is missing", "Check", `{` + check("user:gus", "viewer", "doc:d") + `}`, "validation_error", "allowed"},
		{"context of a wrong type", "Check", `{` + check("user:gus", "viewer", "doc:d") + `,"context":{"country":"CH","allowed":5}}`, "validation_error", "allowed"},

		{"too many checks", "BatchCheck", batch(51), "validation_error", "checks: must be at most 50, are 51"},
		{"no checks", "BatchCheck", `{"checks":[]}`, "validation_error", "checks: value must contain at least 1"},
		{"the same id twice", "BatchCheck", `{"checks":[` + item(1, "a") + `,` + item(1, "a") + `]}`, "validation_error", `checks[1].correlation_id: "a1" stands twice`},
		{"no correlation id", "BatchCheck", `{"checks":[{` + ann + `}]}`, "validation_error", "checks[0].correlation_id: value does not match"},
		{"unknown model of a batch", "BatchCheck", `{"authorization_model_id":"` + noStore + `",` + batch(1)[1:], "authorization_model_not_found", noStore},

		{"objects of an unknown type", "ListObjects", `{"type":"page","relation":"viewer","user":"user:ann"}`, "type_not_found", `type: the model has no type "page"`},
		{"objects of an unknown relation", "ListObjects", `{"type":"doc","relation":"colour","user":"user:ann"}`, "relation_not_found", `relation: type "doc" has no relation "colour"`},
		{"objects of no user", "ListObjects", `{"type":"doc","relation":"viewer","user":"ann"}`, "validation_error", `user: "ann" must be`},
		{"objects of an unknown type of user", "ListObjects", `{"type":"doc","relation":"viewer","user":"robot:r"}`, "validation_error", `user: the model has no type "robot"`},
		{"objects with a contextual tuple that the model forbids", "ListObjects", `{"type":"doc","relation":"viewer","user":"user:ann",` + contextual(`{"user":"user:ann","relation":"reader","object":"doc:z"}`) + `}`, "invalid_tuple", "contextual_tuples.tuple_keys[0].relation: "},
		{"objects without context", "ListObjects", `{"type":"doc","relation":"viewer","user":"user:gus"}`, "validation_error", `doc:d: condition "office": the context lacks allowed`},

		{"users of an unknown type", "ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"robot"}]}`, "type_not_found", "user_filters[0].type: "},
		{"users of an unknown relation of theirs", "ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"group","relation":"boss"}]}`, "relation_not_found", "user_filters[0].relation: "},
		{"users of an unknown type of object", "ListUsers", `{"object":{"type":"page","id":"a"},"relation":"viewer","user_filters":[{"type":"user"}]}`, "type_not_found", "object.type: "},
		{"users of an unknown relation", "ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"colour","user_filters":[{"type":"user"}]}`, "relation_not_found", "relation: "},
		{"users of two kinds", "ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"user"},{"type":"folder"}]}`, "validation_error", "user_filters: value must contain exactly 1"},
		{"users of no object", "ListUsers", `{"relation":"viewer","user_filters":[{"type":"user"}]}`, "validation_error", "object: value is required"},
		{"users without context", "ListUsers", `{"object":{"type":"doc","id":"d"},"relation":"viewer","user_filters":[{"type":"user"}]}`, "validation_error", `user:cid: condition "office": the context lacks allowed`},
		{"usersets without context", "ListUsers", `{"object":{"type":"doc","id":"d"},"relation":"viewer","user_filters":[{"type":"group","relation":"member"}]}`, "validation_error", `group:eng#member: condition "office": the context lacks allowed`},
		{"users with a contextual tuple of no form", "ListUsers", `{"object":{"type":"doc","id":"d"},"relation":"viewer","user_filters":[{"type":"user"}],"contextual_tuples":[{"user":"ann","relation":"viewer","object":"doc:d"}]}`, "invalid_tuple", `contextual_tuples[0].user: "ann" must be`},
		{"users with a contextual tuple that the model forbids", "ListUsers", `{"object":{"type":"doc","id":"d"},"relation":"viewer","user_filters":[{"type":"user"}],"contextual_tuples":[{"user":"user:ann","relation":"reader","object":"doc:d"}]}`, "invalid_tuple", "contextual_tuples[0].relation: "},
		{"users with context of a contextual tuple", "ListUsers", `{"object":{"type":"doc","id":"d"},"relation":"viewer","user_filters":[{"type":"user"}],"contextual_tuples":[{"user":"user:hal","relation":"viewer","object":"doc:d","condition":{"name":"office","context":{"country":5}}}]}`, "validation_error", "contextual_tuples[0].condition.context: "},

		{"tree of an unknown type", "Expand", `{"tuple_key":{"relation":"viewer","object":"page:a"}}`, "validation_error", "tuple_key.object: the model has no type"},
		{"tree of an unknown relation", "Expand", `{"tuple_key":{"relation":"colour","object":"doc:a"}}`, "validation_error", `tuple_key.relation: type "doc" has no relation`},
		{"tree of no object", "Expand", `{"tuple_key":{"relation":"viewer","object":"doc"}}`, "validation_error", "tuple_key.object: "},
		{"tree without a key", "Expand", `{}`, "tuple_key_value_not_specified", "tuple_key: value is required"},
		{"tree of nothing", "Expand", `{"tuple_key":{}}`, "invalid_expand_input", "tuple_key.object: must not be empty"},
		{"tree without a relation", "Expand", `{"tuple_key":{"object":"doc:a","relation":""}}`, "invalid_expand_input", "tuple_key.relation: must not be empty"},
		{"tree with a contextual tuple that the model forbids", "Expand", `{"tuple_key":{"relation":"viewer","object":"doc:a"},` + contextual(`{"user":"user:ann","relation":"reader","object":"doc:z"}`) + `}`, "invalid_tuple", "contextual_tuples.tuple_keys[0].relation: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if code, message := w.ask(t, tt.operation, tt.body); code != tt.code || !strings.Contains(message, tt.message) {
				t.Errorf("%s %s = %s %q, want %s with %q", tt.operation, tt.body, code, message, tt.code, tt.message)
			}
		})
	}
}

// everyQuestion is a body for each operation that asks.
var everyQuestion = map[string]string{
	"Check":       `{` + check("user:ann", "viewer", "doc:a") + `}`,
	"BatchCheck":  `{"checks":[{"correlation_id":"a",` + check("user:ann", "viewer", "doc:a") + `}]}`,
	"ListObjects": `{"type":"doc","relation":"viewer","user":"user:ann"}`,
	"ListUsers":   `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"user"}]}`,
	"Expand":      `{"tuple_key":{"relation":"viewer","object":"doc:a"}}`,
}

// TestNoStore holds what is said of stores that cannot be asked, whatever is asked.
func TestNoStore(t *testing.T) {
	w := newWorld(t)
	stores := grantlogv1connect.NewStoreServiceClient(http.DefaultClient, "http://"+w.address)
	create := func() string {
		answer, err := stores.CreateStore(context10(t), &pb.CreateStoreRequest{Name: "empty"})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Store.Id
	}
	empty, deleted := create(), create()
	if _, err := stores.DeleteStore(context10(t), &pb.DeleteStoreRequest{Store: deleted}); err != nil {
		t.Fatal(err)
	}
	for operation, body := range everyQuestion {
		for _, tt := range []struct{ store, code string }{
			{noStore, "store_id_not_found"},
			{deleted, "store_id_not_found"},
			{"ZZZZZZZZZZZZZZZZZZZZZZZZZZ", "store_id_not_found"},
			{"00000000000000000000000000", "store_id_not_found"}, // the system store
			{empty, "latest_authorization_model_not_found"},
		} {
			other := *w
			other.store = tt.store
			if code, message := other.ask(t, operation, body); code != tt.code || !strings.Contains(message, tt.store) {
				t.Errorf("%s of store %s = %s %q, want %s", operation, tt.store, code, message, tt.code)
			}
		}
	}
}

// TestTooComplex holds that a question that has no answer within its budget is not denied.
func TestTooComplex(t *testing.T) {
	w := newWorld(t, func(c *serve.Config) {
		c.Engine = query.NewEngine(query.Budgets{Check: model.Budget{Rows: 2}, List: model.Budget{Rows: 2}})
	})
	w.grant(t, "group:b#member member group:a", "group:c#member member group:b", "group:d#member member group:c", "group:a#member viewer doc:q")
	body := `{` + check("user:zoe", "viewer", "doc:q") + `}`
	if code, message := w.ask(t, "Check", body); code != "authorization_model_resolution_too_complex" {
		t.Errorf("Check = %s %q", code, message)
	}
	answer, _ := w.ask(t, "BatchCheck", `{"checks":[{"correlation_id":"a",`+body[1:]+`]}`)
	if want := `"input_error":"authorization_model_resolution_too_complex"`; !strings.Contains(answer, want) {
		t.Errorf("BatchCheck = %s, want %s", answer, want)
	}
	if code, message := w.ask(t, "ListObjects", `{"type":"doc","relation":"viewer","user":"user:cid"}`); code != "authorization_model_resolution_too_complex" {
		t.Errorf("ListObjects = %s %q", code, message)
	}
}

// TestConsistency holds that higher consistency asks the log for its newest entry, which a
// barrier in it shows, and that nothing else does.
func TestConsistency(t *testing.T) {
	w := newWorld(t)
	for operation, body := range everyQuestion {
		for consistency, barriers := range map[string]uint64{"UNSPECIFIED": 0, "MINIMIZE_LATENCY": 0, "HIGHER_CONSISTENCY": 1} {
			before := w.projector.Status().Applied
			answer, message := w.post(t, operation, `{"consistency":"`+consistency+`",`+body[1:])
			if got := w.projector.Status().Applied - before; !strings.HasPrefix(answer, "{") || got != barriers {
				t.Errorf("%s with %s = %s %s, and %d messages were folded for it, want %d", operation, consistency, answer, message, got, barriers)
			}
		}
	}
}

// TestOwnWrites holds that what was written here is seen by the next question, over either
// transport, without asking the log.
func TestOwnWrites(t *testing.T) {
	w, ctx := newWorld(t), context10(t)
	for i := range 20 {
		user := fmt.Sprintf("user:%d", i)
		keys := `{"tuple_keys":[{"user":"` + user + `","relation":"owner","object":"doc:own"}]}`
		ask := func(want bool) {
			t.Helper()
			body := `{` + check(user, "owner", "doc:own") + `}`
			if answer, message := w.ask(t, "Check", body); answer != fmt.Sprintf(`{"allowed":%t,"resolution":""}`, want) {
				t.Errorf("Check %s = %s %s, want %t", body, answer, message, want)
			}
		}
		w.must(t, http.StatusOK, http.MethodPost, "/stores/"+w.store+"/write", `{"writes":`+keys+`}`)
		ask(true)
		_, err := w.Write(ctx, &openfgav1.WriteRequest{StoreId: w.store, Deletes: &openfgav1.WriteRequestDeletes{
			TupleKeys: []*openfgav1.TupleKeyWithoutCondition{{User: user, Relation: "owner", Object: "doc:own"}}}})
		if err != nil {
			t.Fatal(err)
		}
		ask(false)
	}
}
