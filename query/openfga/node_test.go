package openfga_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/serve"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A node is a whole replica on an in-memory log, serving on loopback, with a client of
// gRPC as grpc-go has it.
type node struct {
	openfgav1.OpenFGAServiceClient
	conn      *grpc.ClientConn
	handler   http.Handler // of the server, without a connection
	log       *ledgertest.Log
	projector *projector.Projector
	address   string
}

func newNode(t testing.TB, change ...func(*serve.Config)) *node {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	log := ledgertest.NewLog(t)
	cfg := serve.Config{Engine: query.NewEngine(query.Budgets{}), MaxWait: 5 * time.Second, Logger: quiet}
	for _, f := range change {
		f(&cfg)
	}
	p, err := projector.Open(projector.Config{
		Log: log, Index: index.Options{Dir: t.TempDir(), Logger: quiet}, Now: cfg.Now,
		CheckEvery: 20 * time.Millisecond, RetryAfter: 10 * time.Millisecond, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	l := ledger.New(ledger.Config{Log: log, Watch: p.Watch, Ready: p.Ready, RetryFor: time.Second, Logger: quiet})
	cfg.Ledger, cfg.Projector = l, p
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	serving, stopServing := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { // ends with ctx
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	served := make(chan error, 1)
	server := serve.New(cfg)
	go func() { served <- server.Serve(serving, listener) }() // ends with serving
	t.Cleanup(func() {
		conn.Close()
		http.DefaultClient.CloseIdleConnections()
		stopServing()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		l.Close()
		stop()
		running.Wait()
		if err := p.Close(); err != nil {
			t.Errorf("close the projector: %v", err)
		}
	})
	return &node{openfgav1.NewOpenFGAServiceClient(conn), conn, server.Handler(), log, p, listener.Addr().String()}
}

func context10(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// do sends a request over HTTP, with a content type that is not JSON's unless body is
// empty, and returns the status and the answer's text.
func (n *node) do(t testing.TB, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context10(t), method, "http://"+n.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "text/plain")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// must is do for a request that must have this status; the answer is JSON, without the
// spaces that its writer varies.
func (n *node) must(t testing.TB, want int, method, path, body string) string {
	t.Helper()
	got, answer := n.do(t, method, path, body)
	if got != want {
		t.Fatalf("%s %s %s = %d %s, want %d", method, path, body, got, answer, want)
	}
	if answer == "" {
		return ""
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(answer)); err != nil {
		t.Fatalf("%s %s: %v in %q", method, path, err, answer)
	}
	return compact.String()
}

// field returns a text of an answer.
func field(t testing.TB, answer, name string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(answer), &fields); err != nil {
		t.Fatalf("%v in %q", err, answer)
	}
	text, ok := fields[name].(string)
	if !ok {
		t.Fatalf("no text %q in %s", name, answer)
	}
	return text
}

// wantError reports an error unless the request over HTTP has this error, by its name,
// with these parts in the message, and over gRPC the same, if it can be put there.
func (n *node) wantError(t testing.TB, method, path, body string, want int, code string, parts ...string) {
	t.Helper()
	got, answer := n.do(t, method, path, body)
	var e struct{ Code, Message string }
	if err := json.Unmarshal([]byte(answer), &e); err != nil || got != want || e.Code != code {
		t.Errorf("%s %s %s = %d %s, want %d with %s", method, path, body, got, answer, want, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(e.Message, part) {
			t.Errorf("%s %s %s: message %q, want %q in it", method, path, body, e.Message, part)
		}
	}
	operation, req := overRPC(t, method, path, body)
	if req == nil {
		return
	}
	err := n.conn.Invoke(context10(t), "/openfga.v1.OpenFGAService/"+operation, req, new(emptypb.Empty))
	st := status.Convert(err)
	if name := codeName(int32(st.Code())); err == nil || name != code && !(name == "10" && want == http.StatusConflict) || st.Message() != e.Message {
		t.Errorf("%s %s %s over gRPC = %v, want %s %q", method, path, body, err, code, e.Message)
	}
}

// routes is where the operations are over HTTP.
var routes = map[string]string{
	"POST /stores": "CreateStore", "GET /stores": "ListStores", "GET /stores/{store_id}": "GetStore", "DELETE /stores/{store_id}": "DeleteStore",
	"POST /stores/{store_id}/authorization-models": "WriteAuthorizationModel", "GET /stores/{store_id}/authorization-models": "ReadAuthorizationModels",
	"GET /stores/{store_id}/authorization-models/{id}": "ReadAuthorizationModel", "POST /stores/{store_id}/write": "Write", "POST /stores/{store_id}/read": "Read",
	"GET /stores/{store_id}/changes": "ReadChanges", "POST /stores/{store_id}/check": "Check", "POST /stores/{store_id}/batch-check": "BatchCheck",
	"POST /stores/{store_id}/list-objects": "ListObjects", "POST /stores/{store_id}/list-users": "ListUsers", "POST /stores/{store_id}/expand": "Expand",
	"PUT /stores/{store_id}/assertions/{authorization_model_id}": "WriteAssertions", "GET /stores/{store_id}/assertions/{authorization_model_id}": "ReadAssertions",
}

// overRPC returns the message that asks over gRPC what a request asks over HTTP; nil if
// there is none, because the request has no operation, or no form in which a message holds it.
func overRPC(t testing.TB, method, path, body string) (string, proto.Message) {
	t.Helper()
	asked, err := url.Parse(path)
	if err != nil {
		return "", nil
	}
	parts := strings.Split(asked.Path, "/")
	for route, operation := range routes {
		verb, template, _ := strings.Cut(route, " ")
		fields := make(map[string]any)
		names, fits := strings.Split(template, "/"), verb == method
		if len(names) != len(parts) || !fits {
			continue
		}
		for i, name := range names {
			if strings.HasPrefix(name, "{") {
				fields[strings.Trim(name, "{}")] = parts[i]
			} else if name != parts[i] {
				fits = false
			}
		}
		if !fits {
			continue
		}
		for name, values := range asked.Query() {
			fields[name] = values[0] // numbers may be text in this form of JSON
		}
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		input := openfgav1.File_openfga_v1_openfga_service_proto.Services().ByName("OpenFGAService").Methods().ByName(protoreflect.Name(operation)).Input()
		req, more := newMessage(t, input), newMessage(t, input)
		read := protojson.UnmarshalOptions{DiscardUnknown: true}
		if read.Unmarshal(text, req) != nil || body != "" && read.Unmarshal([]byte(body), more) != nil {
			return "", nil
		}
		proto.Merge(more, req)
		return operation, more
	}
	return "", nil
}

// wantCode reports an error unless err is of gRPC with this number as its status and
// these parts in its message.
func wantCode(t testing.TB, err error, code int32, parts ...string) {
	t.Helper()
	st, ok := status.FromError(err)
	if !ok || err == nil || int32(st.Code()) != code {
		t.Errorf("error = %v, want status %d", err, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(st.Message(), part) {
			t.Errorf("error = %v, want %q in it", err, part)
		}
	}
}
