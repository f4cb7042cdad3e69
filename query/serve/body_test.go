package serve

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
)

// impatient lets a node wait only briefly for a body.
func impatient(limit time.Duration) func(*Config) {
	return func(c *Config) { c.bodyTimeout = limit }
}

// TestSlowBody: a caller whose body does not come gets an answer, whether or not a handler
// looks at the body, and the connection is closed behind it.
func TestSlowBody(t *testing.T) {
	n := newNode(t, impatient(300*time.Millisecond))
	store := n.store(t, testModel)
	const (
		check   = "/" + grantlogv1connect.PermissionServiceName + "/Check"
		restore = grantlogv1connect.StoreServiceRestoreStoreProcedure
	)
	for _, tt := range []struct {
		method, path, contentType, begin string
		status                           int
		text                             string
	}{
		{"POST", "/stores/" + store + "/check", "application/json", `{"a":1}`, 400, "in time"},
		{"POST", "/stores/" + store + "/check", "application/json", "", 400, "in time"},
		{"POST", "/stores/" + store + "/nope", "application/json", "", 404, "nothing at"},
		{"POST", "/openfga.v1.OpenFGAService/Check", "application/json", "{", 504, "deadline_exceeded"},
		{"POST", "/access/v1/evaluation", "application/json", `{"a":1}`, 408, "in time"},
		{"POST", "/access/v1/evaluation", "text/plain", `{"a":1}`, 400, "Content-Type"},
		{"POST", "/access/v1/nope", "application/json", "", 404, "none of the API"},
		{"POST", check, "application/json", `{"a":1}`, 504, "deadline_exceeded"},
		{"POST", check, "application/nonsense", `{"a":1}`, 415, ""},
		{"POST", restore, "application/connect+json", "\x00\x00\x00\x00\x20{", 200, "deadline_exceeded"},
		{"GET", "/healthz", "application/json", "", 200, "ok"},
		{"POST", "/nope", "application/json", "", 404, ""},
		{"POST", "//healthz", "application/json", "", 307, ""},
	} {
		t.Run(tt.path+" "+tt.contentType, func(t *testing.T) {
			t.Parallel()
			want := func(transport string, resp *http.Response) {
				t.Helper()
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.text) {
					t.Errorf("over %s: %s %q, %v, want status %d with %q", transport, resp.Status, body, err, tt.status, tt.text)
				}
			}
			conn, err := net.Dial("tcp", n.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n%s", tt.method, tt.path, tt.contentType, tt.begin)
			from := bufio.NewReader(conn)
			resp, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Fatalf("no answer over HTTP/1.1: %v", err)
			}
			want("HTTP/1.1", resp)
			if !resp.Close {
				t.Errorf("the answer over HTTP/1.1 does not announce the end of the connection")
			}
			if _, err := from.ReadByte(); err != io.EOF {
				t.Errorf("after the answer over HTTP/1.1: %v, want the end of the connection", err)
			}

			slow, feed := io.Pipe()
			defer feed.Close()
			go feed.Write([]byte(tt.begin)) // ends with the pipe
			req, err := http.NewRequestWithContext(context10(t), tt.method, "http://"+n.address+tt.path, slow)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", tt.contentType)
			if resp, err = h2c(t).Transport.RoundTrip(req); err != nil {
				t.Fatalf("no answer over h2c: %v", err)
			}
			want("h2c", resp)
		})
	}
}

// TestTrickle: many small pieces do not add to the time that a body has.
func TestTrickle(t *testing.T) {
	n := newNode(t, impatient(300*time.Millisecond))
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "POST /stores/x/check HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
	stop := make(chan struct{})
	fed := make(chan struct{})
	go func() { // ends when stop is closed, or the connection is
		defer close(fed)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				if _, err := io.WriteString(conn, " "); err != nil {
					return
				}
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	close(stop)
	<-fed
	if err != nil || resp.StatusCode != 400 {
		t.Fatalf("answer = %v, %v, want status 400", resp, err)
	}
}

// TestBodyTimeIsForTheBody: neither an answer that goes on, nor the next request of the
// connection, nor a bundle that keeps coming is held to the time that a body has.
func TestBodyTimeIsForTheBody(t *testing.T) {
	const limit = 500 * time.Millisecond
	http1 := func() *http.Client {
		transport := new(http.Transport)
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	for _, tt := range []struct {
		name    string
		client  *http.Client
		options []connect.ClientOption
	}{
		{"Connect over HTTP/1.1", http1(), nil},
		{"Connect over h2c", h2c(t), nil},
		{"gRPC", h2c(t), []connect.ClientOption{connect.WithGRPC()}},
		{"gRPC-Web over HTTP/1.1", http1(), []connect.ClientOption{connect.WithGRPCWeb()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, impatient(limit)) // takes one bundle at a time
			c := newClients("http://"+n.address, tt.client, tt.options...)
			store := n.store(t, testModel)
			bundle := n.bundle(t, store, newKey(t), nil)

			stream, err := c.Replay(context10(t), &pb.ReplayRequest{Store: store, Follow: true})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			for stream.Receive() && !stream.Msg().CaughtUp {
			}
			check := func() (reused bool) {
				t.Helper()
				ctx := httptrace.WithClientTrace(context10(t), &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { reused = got.Reused }})
				if _, err := c.Check(ctx, &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "user:zoe")}); err != nil {
					t.Errorf("check: %v", err)
				}
				return reused
			}
			check()
			time.Sleep(2 * limit)
			if !check() {
				t.Error("the connection was ended between two requests")
			}
			n.apply(t, store, grant("doc:plan", "viewer", "user:ann"))
			if !stream.Receive() || len(stream.Msg().Entries) != 1 {
				t.Errorf("the stream that follows = %v, %v, want the entry", stream.Msg(), stream.Err())
			}

			// The bundle of a store that is here is refused only when all of it has come.
			up, err := c.RestoreStore(context10(t))
			if err != nil {
				t.Fatal(err)
			}
			size := len(bundle)/8 + 1
			for rest := bundle; len(rest) > 0; time.Sleep(limit / 3) {
				m := &pb.RestoreStoreRequest{Actor: "ann", Activate: true, Chunk: rest[:min(size, len(rest))]}
				rest = rest[len(m.Chunk):]
				if err := up.Send(m); err != nil {
					t.Fatalf("a bundle that keeps coming: %v", err)
				}
			}
			if _, err := up.CloseAndReceive(); connect.CodeOf(err) != connect.CodeAlreadyExists {
				t.Errorf("a bundle that keeps coming: %v, want that the store exists", err)
			}
		})
	}
}
