package openfga_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/openfga"
	"github.com/grantlog/grantlog/query/serve"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
)

// TestListLimit holds that lists end at 1,000 items, and streams do not, over both
// transports.
func TestListLimit(t *testing.T) {
	w := newWorld(t)
	const n = 1100
	var all []string // in order
	for i := 0; i < n; i += 100 {
		var tuples []string
		for j := i; j < i+100; j++ {
			object := fmt.Sprintf("doc:%04d", j)
			all = append(all, object)
			tuples = append(tuples, "user:hal owner "+object, fmt.Sprintf("user:%04d owner doc:popular", j))
		}
		w.grant(t, tuples...)
	}
	body := `{"type":"doc","relation":"owner","user":"user:hal"}`
	answer, message := w.ask(t, "ListObjects", body)
	var list struct{ Objects []string }
	if err := json.Unmarshal([]byte(answer), &list); err != nil || !slices.Equal(list.Objects, all[:1000]) {
		t.Errorf("ListObjects = %d objects, %v %s, want the first 1000", len(list.Objects), err, message)
	}
	answer, _ = w.ask(t, "ListUsers", `{"object":{"type":"doc","id":"popular"},"relation":"owner","user_filters":[{"type":"user"}]}`)
	if got := strings.Count(answer, `"object"`); got != 1000 {
		t.Errorf("ListUsers = %d users, want 1000", got)
	}

	// That there may be more is told beside the answer, and only then.
	for relation, want := range map[string]string{"owner": "limit", "blocked": ""} {
		var trailer metadata.MD
		_, err := w.ListObjects(context10(t), &openfgav1.ListObjectsRequest{StoreId: w.store, Type: "doc", Relation: relation, User: "user:hal"}, grpc.Trailer(&trailer))
		if got := strings.Join(trailer.Get(openfga.EndedHeader), ","); err != nil || got != want {
			t.Errorf("trailer of %s = %v, %v, want %q", relation, trailer, err, want)
		}
		resp, err := http.Post("http://"+w.address+"/stores/"+w.store+"/list-objects", "", strings.NewReader(strings.Replace(body, "owner", relation, 1)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get(openfga.EndedHeader); got != want {
			t.Errorf("header of %s = %q, want %q", relation, got, want)
		}
	}

	stream, err := w.StreamedListObjects(context10(t), &openfgav1.StreamedListObjectsRequest{StoreId: w.store, Type: "doc", Relation: "owner", User: "user:hal"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.GetObject())
	}
	if !slices.Equal(got, all) {
		t.Errorf("StreamedListObjects = %d objects over gRPC, want all %d", len(got), n)
	}
	code, lines := w.do(t, http.MethodPost, "/stores/"+w.store+"/streamed-list-objects", body)
	var want strings.Builder
	for _, object := range all {
		fmt.Fprintf(&want, "{\"result\":{\"object\":%q}}\n", object)
	}
	if got := strings.ReplaceAll(lines, `": "`, `":"`); code != http.StatusOK || got != want.String() {
		t.Errorf("StreamedListObjects = %d with %d lines over HTTP, want all %d; it begins %.100s", code, strings.Count(lines, "\n"), n, lines)
	}
	code, lines = w.do(t, http.MethodPost, "/stores/"+w.store+"/streamed-list-objects", `{"type":"doc","relation":"owner","user":"user:zoe"}`)
	if code != http.StatusOK || lines != "" {
		t.Errorf("an empty stream = %d %q", code, lines)
	}
	_, metrics := w.do(t, http.MethodGet, "/metrics", "")
	for _, want := range []string{`{of="objects",result="cut"} 4`, `{of="objects",result="whole"} 5`, `{of="subjects",result="cut"} 2`} {
		if !strings.Contains(metrics, "grantlog_list_seconds_count"+want+"\n") {
			t.Errorf("the metrics lack the lists %s", want)
		}
	}
}

// TestStreamErrors holds that a stream that cannot begin says why as other operations do,
// and one that fails on its way has the error as its last line.
func TestStreamErrors(t *testing.T) {
	w := newWorld(t)
	w.grant(t, "user:gus viewer doc:a", "user:gus viewer doc:d office")
	path := "/stores/" + w.store + "/streamed-list-objects"
	w.wantError(t, http.MethodPost, path, `{"type":"page","relation":"viewer","user":"user:ann"}`, 400, "type_not_found", "type: ")
	stream, err := w.StreamedListObjects(context10(t), &openfgav1.StreamedListObjectsRequest{StoreId: w.store, Type: "page", Relation: "viewer", User: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, 2021, "type: ")

	code, lines := w.do(t, http.MethodPost, path, `{"type":"doc","relation":"viewer","user":"user:gus"}`)
	line := strings.Split(strings.TrimSuffix(strings.ReplaceAll(lines, `": "`, `":"`), "\n"), "\n")
	last := line[len(line)-1]
	var failed struct {
		Error struct {
			Code    int
			Message string
		}
	}
	if want := []string{`{"result":{"object":"doc:a"}}`, `{"result":{"object":"doc:c"}}`}; code != http.StatusOK || !slices.Equal(line[:len(line)-1], want) {
		t.Errorf("stream = %d %s, want %q first", code, lines, want)
	}
	if err := json.Unmarshal([]byte(last), &failed); err != nil || failed.Error.Code != 2000 || !strings.Contains(failed.Error.Message, "allowed") {
		t.Errorf("the last line is %s, %v, want the error", last, err)
	}
}

// TestCallerLeaves holds that a caller who takes no more of an answer is no failure of the
// server, which would be in the log, whatever its transport says.
func TestCallerLeaves(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(c *serve.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	const question = `{"type":"doc","relation":"viewer","user":"user:ann"}`
	stream := "/stores/" + w.store + "/streamed-list-objects"
	rpc := "/openfga.v1.OpenFGAService/StreamedListObjects"
	message := `{"store_id":"` + w.store + `",` + question[1:]
	message = string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
	for _, tt := range []struct{ name, path, contentType, body string }{
		{"HTTP", stream, "application/json", question},
		{"HTTP, not streamed", "/stores/" + w.store + "/list-objects", "application/json", question},
		{"gRPC", rpc, "application/grpc+json", message},
		{"gRPC-Web", rpc, "application/grpc-web+json", message},
		{"Connect", rpc, "application/connect+json", message},
	} {
		for _, failure := range []error{
			&net.OpError{Op: "write", Err: syscall.EPIPE}, os.ErrDeadlineExceeded, context.Canceled,
			errors.New("client disconnected"), errors.New("http2: stream closed"), errors.New("any other"),
		} {
			req := httptest.NewRequest(http.MethodPost, tt.path, strings.NewReader(tt.body))
			req.Header.Set("Content-Type", tt.contentType)
			req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/2.0", 2, 0
			gone := &goneWriter{header: make(http.Header), err: failure}
			w.handler.ServeHTTP(gone, req)
			if gone.writes == 0 {
				t.Errorf("%s: nothing was sent", tt.name)
			}
			if log.Len() > 0 {
				t.Errorf("%s: a caller that leaves (%v) is in the log: %s", tt.name, failure, &log)
				log.Reset()
			}
		}
	}
}

// A goneWriter writes to a caller that is gone.
type goneWriter struct {
	header http.Header
	err    error
	writes int
}

func (w *goneWriter) Header() http.Header { return w.header }
func (w *goneWriter) WriteHeader(int)     {}
func (w *goneWriter) Flush()              {}

func (w *goneWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, w.err
}

// TestListCut holds that a list that ends at its deadline has what comes before the many
// grants whose conditions took the time.
func TestListCut(t *testing.T) {
	w := newWorld(t)
	w.apply(t, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: `model
  schema 1.1
type user
type doc
  relations
    define slow: [user, user:*, user with slow]
condition slow(l: list<int>, salt: int) {
  l.exists(x, l.exists(y, x == salt - 1000000 - y))
}
`}}})
	w.grant(t, "user:* slow doc:a", "user:aa slow doc:x")
	for i := 0; i < 10_000; i += 500 {
		var changes []*pb.Change
		for j := i; j < i+500; j++ {
			salt, err := structpb.NewStruct(map[string]any{"salt": j})
			if err != nil {
				t.Fatal(err)
			}
			for _, tuple := range []*pb.Tuple{
				{Subject: "user:many", Relation: "slow", Object: fmt.Sprintf("doc:d%06d", j)},
				{Subject: fmt.Sprintf("user:d%06d", j), Relation: "slow", Object: "doc:x"},
			} {
				changes = append(changes, &pb.Change{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: tuple, Condition: "slow", Context: salt}}})
			}
		}
		w.apply(t, changes...)
	}
	values := `"context":{"l":[0` + strings.Repeat(",0", 29) + `]}`
	for _, tt := range []struct{ operation, body, want string }{
		{"list-objects", `{"type":"doc","relation":"slow","user":"user:many",` + values + `}`, `{"objects":["doc:a"]}`},
		{"streamed-list-objects", `{"type":"doc","relation":"slow","user":"user:many",` + values + `}`, `{"result":{"object":"doc:a"}}`},
		{"list-users", `{"object":{"type":"doc","id":"x"},"relation":"slow","user_filters":[{"type":"user"}],` + values + `}`, `{"users":[{"object":{"type":"user","id":"aa"}}]}`},
	} {
		t.Run(tt.operation, func(t *testing.T) {
			t.Parallel()
			resp, err := http.Post("http://"+w.address+"/stores/"+w.store+"/"+tt.operation, "", strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if got := compact(t, string(answer)); got != tt.want {
				t.Errorf("answer = %s, want %s", got, tt.want)
			}
			if ended := resp.Header.Get(openfga.EndedHeader) + resp.Trailer.Get(openfga.EndedHeader); ended != "deadline" {
				t.Logf("ended by %q: this machine is too fast for the test", ended)
			}
		})
	}
}

// TestDearConditions holds that the error of a condition that costs too much names the item
// of a list first, and no field: whose values cost is not known.
func TestDearConditions(t *testing.T) {
	w := newWorld(t)
	w.apply(t, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: `model
  schema 1.1
type user
type doc
  relations
    define viewer: [user with dear]
condition dear(l: list<int>) {
  l.exists(x, l.exists(y, x + y > 1))
}
`}}})
	numbers := make([]any, 100)
	for i := range numbers {
		numbers[i] = 0
	}
	stored, err := structpb.NewStruct(map[string]any{"l": numbers})
	if err != nil {
		t.Fatal(err)
	}
	w.apply(t, &pb.Change{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: &pb.Tuple{Subject: "user:ann", Relation: "viewer", Object: "doc:a"}, Condition: "dear", Context: stored}}})
	const dear = `condition "dear": exceeds the cost limit of 10000`
	for _, tt := range []struct{ operation, body, want string }{
		{"Check", `{` + check("user:ann", "viewer", "doc:a") + `}`, dear},
		{"ListObjects", `{"type":"doc","relation":"viewer","user":"user:ann"}`, "doc:a: " + dear},
		{"ListUsers", `{"object":{"type":"doc","id":"a"},"relation":"viewer","user_filters":[{"type":"user"}]}`, "user:ann: " + dear},
	} {
		if code, message := w.ask(t, tt.operation, tt.body); code != "validation_error" || message != tt.want {
			t.Errorf("%s = %s %q, want validation_error %q", tt.operation, code, message, tt.want)
		}
	}
}
