package serve

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/grantlog/grantlog/query"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const testModel = `model
  schema 1.1

type user

type group
  relations
    define member: [user, group#member]

type doc
  relations
    define owner: [user]
    define blocked: [user]
    define viewer: [user, user:*, group#member, user with office] or owner
    define reader: viewer but not blocked

condition office(country: string, allowed: list<string>) {
  country in allowed
}
`

// A node is a whole replica on an in-memory log, serving on loopback.
type node struct {
	*clients
	log       *ledgertest.Log
	projector *projector.Projector
	server    *Server
	address   string
	end       func() // ends Serve, and returns once it has ended
}

// clients speak to a server in one protocol.
type clients struct {
	grantlogv1connect.LedgerServiceClient
	grantlogv1connect.PermissionServiceClient
	grantlogv1connect.StoreServiceClient
	grantlogv1connect.AuditServiceClient
}

func newNode(t testing.TB, change ...func(*Config)) *node {
	t.Helper()
	return newReplica(t, ledgertest.NewLog(t), change...)
}

// newReplica returns a node on a log that others may be on.
func newReplica(t testing.TB, log *ledgertest.Log, change ...func(*Config)) *node {
	t.Helper()
	metrics := NewMetrics()
	quiet := slog.New(slog.DiscardHandler)
	cfg := Config{Engine: query.NewEngine(query.Budgets{}), Metrics: metrics, MaxWait: 5 * time.Second, Logger: quiet}
	for _, f := range change {
		f(&cfg)
	}
	p, err := projector.Open(projector.Config{
		Log: log, Index: index.Options{Dir: t.TempDir(), Logger: quiet}, Now: cfg.Now,
		CheckEvery: 20 * time.Millisecond, RetryAfter: 10 * time.Millisecond, Decided: metrics.Decided, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	l := ledger.New(ledger.Config{Log: log, Watch: p.Watch, Ready: p.Ready, RetryFor: time.Second, Logger: quiet, Appended: metrics.Appended})
	cfg.Ledger, cfg.Projector = l, p
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{log: log, projector: p, server: New(cfg), address: listener.Addr().String()}
	n.clients = newClients("http://"+n.address, http.DefaultClient)

	var running sync.WaitGroup
	folding, stopFolding := context.WithCancel(context.Background())
	running.Go(func() { // ends with folding
		if err := p.Run(folding); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	serving, stopServing := context.WithCancel(context.Background())
	served := make(chan error, 1)
	running.Go(func() { served <- n.server.Serve(serving, listener) }) // ends with serving
	n.end = sync.OnceFunc(func() {
		stopServing()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		n.end()
		l.Close()
		stopFolding()
		running.Wait()
		if err := p.Close(); err != nil {
			t.Errorf("close the projector: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return n
}

func newClients(base string, c *http.Client, options ...connect.ClientOption) *clients {
	return &clients{
		grantlogv1connect.NewLedgerServiceClient(c, base, options...),
		grantlogv1connect.NewPermissionServiceClient(c, base, options...),
		grantlogv1connect.NewStoreServiceClient(c, base, options...),
		grantlogv1connect.NewAuditServiceClient(c, base, options...),
	}
}

// h2c is a client of HTTP/2 without TLS, as gRPC needs.
func h2c(t testing.TB) *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func context10(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// store creates a store, with the test's model unless the source is "".
func (c *clients) store(t testing.TB, source string) string {
	t.Helper()
	created, err := c.CreateStore(context10(t), &pb.CreateStoreRequest{Name: "acme", Actor: "ann"})
	if err != nil {
		t.Fatalf("create a store: %v", err)
	}
	if source != "" {
		c.apply(t, created.Store.Id, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: source}}})
	}
	return created.Store.Id
}

func (c *clients) apply(t testing.TB, store string, changes ...*pb.Change) *pb.SubmitResponse {
	t.Helper()
	answer, err := c.Submit(context10(t), &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Store: store, Changes: changes}})
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	if answer.Outcome.GetKind() != pb.Outcome_APPLIED {
		t.Fatalf("submit: %v, want it applied", answer)
	}
	return answer
}

func tupleOf(object, relation, subject string) *pb.Tuple {
	return &pb.Tuple{Object: object, Relation: relation, Subject: subject}
}

func grant(object, relation, subject string) *pb.Change {
	return &pb.Change{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: tupleOf(object, relation, subject)}}}
}

func revoke(object, relation, subject string) *pb.Change {
	return &pb.Change{Change: &pb.Change_Revoke{Revoke: &pb.Revoke{Tuple: tupleOf(object, relation, subject)}}}
}

func TestProtocols(t *testing.T) {
	n := newNode(t)
	base := "http://" + n.address
	for _, tt := range []struct {
		name    string
		clients *clients
	}{
		{"Connect", newClients(base, http.DefaultClient)},
		{"Connect with GET", newClients(base, http.DefaultClient, connect.WithHTTPGet())},
		{"Connect in JSON", newClients(base, http.DefaultClient, connect.WithProtoJSON())},
		{"Connect in JSON with GET", newClients(base, http.DefaultClient, connect.WithProtoJSON(), connect.WithHTTPGet())},
		{"Connect over h2c", newClients(base, h2c(t))},
		{"gRPC", newClients(base, h2c(t), connect.WithGRPC())},
		{"gRPC in JSON", newClients(base, h2c(t), connect.WithGRPC(), connect.WithProtoJSON())},
		{"gRPC-Web over HTTP/1.1", newClients(base, http.DefaultClient, connect.WithGRPCWeb())},
		{"gRPC-Web over h2c", newClients(base, h2c(t), connect.WithGRPCWeb())},
	} {
		t.Run(tt.name, func(t *testing.T) { tour(t, tt.clients) })
	}
}

// tour uses every service once, and gets an error with its detail.
func tour(t *testing.T, c *clients) {
	ctx := context10(t)
	store := c.store(t, testModel)
	granted := c.apply(t, store, grant("doc:plan", "viewer", "group:eng#member"), grant("group:eng", "member", "user:ann"))
	if granted.Revision != 3 || granted.Outcome.Effective != 2 || granted.Store != store || granted.Time == nil {
		t.Errorf("submit = %v, want revision 3 with 2 effective changes", granted)
	}
	fresh := &pb.Freshness{Freshness: &pb.Freshness_AtLeast{AtLeast: granted.Token}}
	for subject, want := range map[string]bool{"user:ann": true, "user:bob": false} {
		answer, err := c.Check(ctx, &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "reader", subject), Freshness: fresh})
		if err != nil || answer.Allowed != want || answer.Revision != 3 || answer.Token != granted.Token || answer.Model == "" || answer.EvaluatedAt == nil {
			t.Errorf("check %s = %v, %v, want allowed %t at revision 3", subject, answer, err, want)
		}
	}
	batch, err := c.BatchCheck(ctx, &pb.BatchCheckRequest{Store: store, Items: []*pb.BatchCheckRequest_Item{
		{Tuple: tupleOf("doc:plan", "reader", "user:ann")},
		{Tuple: tupleOf("doc:plan", "reader", "user:bob")},
		{Tuple: tupleOf("doc:plan", "nothing", "user:bob")},
		{Tuple: tupleOf("doc", "reader", "user:bob")},
	}})
	if err != nil {
		t.Fatalf("batch check: %v", err)
	}
	r := batch.Results
	if len(r) != 4 || !r[0].Allowed || r[0].Error != nil || r[1].Allowed || r[1].Error != nil ||
		r[2].Allowed || r[2].Error.GetCode() != "invalid_argument" || r[2].Error.GetField() != "tuple.relation" ||
		r[3].Allowed || r[3].Error.GetCode() != "invalid_argument" || r[3].Error.GetField() != "tuple.object" {
		t.Errorf("batch check = %v", batch)
	}
	found, err := c.GetCommand(ctx, &pb.GetCommandRequest{Store: store, Actor: "ann", Id: granted.Id, Freshness: &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}})
	if err != nil || found.Entry.GetRevision() != 3 || found.Token != granted.Token || len(found.Entry.GetCommand().GetChanges()) != 2 {
		t.Errorf("get command = %v, %v, want the entry at revision 3", found, err)
	}
	model, err := c.ReadModel(ctx, &pb.ReadModelRequest{Store: store})
	if err != nil || model.Model.GetSource().GetSource() != testModel || model.Model.Revision != 2 {
		t.Errorf("read model = %v, %v, want the source as written at revision 2", model, err)
	}
	var revisions []uint64
	stream, err := c.Replay(ctx, &pb.ReplayRequest{Store: store})
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	defer stream.Close()
	for stream.Receive() {
		for _, e := range stream.Msg().Entries {
			revisions = append(revisions, e.Revision)
		}
	}
	if stream.Err() != nil || !slices.Equal(revisions, []uint64{1, 2, 3}) {
		t.Errorf("replay = revisions %v, %v, want 1 to 3", revisions, stream.Err())
	}
	_, err = c.Check(ctx, &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "bad relation", "user:ann")})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "tuple.relation", "U+0020")
	if _, err := c.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: store, Actor: "ann"}); err != nil {
		t.Errorf("delete store: %v", err)
	}
	_, err = c.Check(ctx, &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "reader", "user:ann")})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "deleted")
}

// wantRejection reports an error unless err has this code and a Rejection as detail.
func wantRejection(t *testing.T, err error, code connect.Code, why pb.Rejection_Code, field, part string) {
	t.Helper()
	if connect.CodeOf(err) != code || err == nil {
		t.Errorf("error = %v, want code %s", err, code)
		return
	}
	r, ok := detailOf[*pb.Rejection](t, err)
	if !ok || r.Code != why || r.Field != field || !strings.Contains(r.Message, part) {
		t.Errorf("error = %v with %v, want %s at %q with %q", err, r, why, field, part)
	}
	if !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), part) {
		t.Errorf("error = %v, want its text to name %q and %q", err, field, part)
	}
}

func detailOf[T any](t *testing.T, err error) (detail T, ok bool) {
	t.Helper()
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return detail, false
	}
	for _, d := range ce.Details() {
		m, err := d.Value()
		if err != nil {
			t.Errorf("read an error's detail: %v", err)
			continue
		}
		if detail, ok = m.(T); ok {
			return detail, true
		}
	}
	return detail, false
}

// TestGRPCClient speaks with grpc-go itself, which Connect's own client may resemble
// only so far.
func TestGRPCClient(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	n.apply(t, store, grant("doc:plan", "owner", "user:ann"))
	conn, err := grpc.NewClient(n.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := new(pb.CheckResponse)
	err = conn.Invoke(context10(t), grantlogv1connect.PermissionServiceCheckProcedure,
		&pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "user:ann")}, answer)
	if err != nil || !answer.Allowed {
		t.Errorf("check = %v, %v, want allowed", answer, err)
	}
	err = conn.Invoke(context10(t), grantlogv1connect.PermissionServiceCheckProcedure,
		&pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "user")}, answer)
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
		t.Fatalf("check = %v with %v, want INVALID_ARGUMENT with a detail", err, st.Details())
	}
	if r, ok := st.Details()[0].(*pb.Rejection); !ok || r.Field != "tuple.subject" {
		t.Errorf("detail = %v, want a Rejection of tuple.subject", st.Details()[0])
	}
}

// post sends JSON as a person with curl does.
func (n *node) post(t *testing.T, procedure, body string) (status int, answer string) {
	t.Helper()
	resp, err := http.Post("http://"+n.address+procedure, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestPlainHTTP(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	status, body := n.post(t, grantlogv1connect.LedgerServiceSubmitProcedure, fmt.Sprintf(`{"command": {"store": %q, "changes": [
		{"grant": {"tuple": {"object": "doc:plan", "relation": "viewer", "subject": "user:ann"}, "expires_after": "3600s"}}]}}`, store))
	if status != http.StatusOK || !strings.Contains(body, `"APPLIED"`) {
		t.Errorf("submit = %d %s, want 200 with APPLIED", status, body)
	}
	question := fmt.Sprintf(`{"store": %q, "tuple": {"object": "doc:plan", "relation": "viewer", "subject": "user:bob"}}`, store)
	resp, err := http.Get("http://" + n.address + grantlogv1connect.PermissionServiceCheckProcedure + "?connect=v1&encoding=json&message=" + url.QueryEscape(question))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(got, &answer); err != nil || answer["allowed"] != false || answer["revision"] != "3" {
		t.Errorf("check = %s, want it denied in so many words, at revision 3", got)
	}
	resp, err = http.Get("http://" + n.address + grantlogv1connect.LedgerServiceSubmitProcedure + "?connect=v1&encoding=json&message=%7B%7D")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("submit with GET = %d, want 405", resp.StatusCode)
	}
}

// TestCompression: an answer is compressed only from 1 KiB on.
func TestCompression(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel+strings.Repeat("# a comment\n", 200))
	for procedure, want := range map[string]bool{
		grantlogv1connect.StoreServiceListModelsProcedure: false,
		grantlogv1connect.StoreServiceReadModelProcedure:  true,
	} {
		req, err := http.NewRequest("POST", "http://"+n.address+procedure, strings.NewReader(fmt.Sprintf(`{"store": %q}`, store)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body := io.Reader(resp.Body)
		if got := resp.Header.Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("%s: compressed = %t, want %t", procedure, got, want)
		} else if got {
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := io.ReadAll(body); err != nil || resp.StatusCode != http.StatusOK || !json.Valid(b) {
			t.Errorf("%s = %d %s, %v, want JSON", procedure, resp.StatusCode, b, err)
		}
	}
}

func TestHealth(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	health := grpchealth.NewClient(h2c(t), "http://"+n.address, connect.WithGRPC())
	for _, service := range append(services, "") {
		if got, err := health.Check(context10(t), &grpchealth.CheckRequest{Service: service}); err != nil || got.Status != grpchealth.StatusServing {
			t.Errorf("health of %q = %v, %v, want serving", service, got, err)
		}
	}
	if _, err := health.Check(context10(t), &grpchealth.CheckRequest{Service: "other"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("health of another service: %v, want not found", err)
	}
	n.wantReady(t, true)

	n.log.Rewind(2)
	waitUntil(t, func() bool { return n.projector.Quarantine() != nil })
	if got, err := health.Check(context10(t), &grpchealth.CheckRequest{}); err != nil || got.Status != grpchealth.StatusNotServing {
		t.Errorf("health in quarantine = %v, %v, want not serving", got, err)
	}
	if r := n.wantReady(t, false); !r.Quarantined || !strings.Contains(r.Reason, "rewound") {
		t.Errorf("readiness = %+v, want it to tell of the rewind", r)
	}
	ctx := context10(t)
	_, checked := n.Check(ctx, &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "user:ann")})
	_, submitted := n.Submit(ctx, &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann")}}})
	_, listed := n.ListStores(ctx, &pb.ListStoresRequest{})
	_, created := n.CreateStore(ctx, &pb.CreateStoreRequest{Name: "late"})
	_, read := n.ReadModel(ctx, &pb.ReadModelRequest{Store: store})
	_, found := n.GetCommand(ctx, &pb.GetCommandRequest{Store: store, Id: ledger.NewUUID().String()})
	for name, err := range map[string]error{"check": checked, "submit": submitted, "list": listed, "create": created, "read": read, "get": found, "replay": replayError(t, n, store)} {
		if connect.CodeOf(err) != connect.CodeUnavailable || err == nil || !strings.Contains(err.Error(), "rewound") {
			t.Errorf("%s in quarantine: %v, want unavailable because the log was rewound", name, err)
		}
	}
}

func replayError(t *testing.T, n *node, store string) error {
	stream, err := n.Replay(context10(t), &pb.ReplayRequest{Store: store})
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
	}
	return stream.Err()
}

func (n *node) wantReady(t *testing.T, want bool) (r Readiness) {
	t.Helper()
	resp, err := http.Get("http://" + n.address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Ready != want || (resp.StatusCode == http.StatusOK) != want || (resp.StatusCode == http.StatusServiceUnavailable) == want {
		t.Errorf("readyz = %d %+v, want ready %t", resp.StatusCode, r, want)
	}
	return r
}

func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited 10 s in vain")
		}
	}
}

// TestNotReady: a replica that has yet to catch up is alive, and is not sent requests.
func TestNotReady(t *testing.T) {
	n := newNode(t)
	n.store(t, "")
	n.server.caughtUp.Store(false) // as at the start
	n.log.PauseReads()
	defer n.log.ResumeReads()
	n.log.Put(ledger.Subject("main", ledger.EdgeSubject, "other"), ledger.AppendEnvelope(nil, nil))
	waitUntil(t, func() bool { return !n.projector.Status().CaughtUp() })
	if r := n.wantReady(t, false); !strings.Contains(r.Reason, "first time") {
		t.Errorf("readiness = %+v, want it to be folding", r)
	}
	resp, err := http.Get("http://" + n.address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("healthz = %d, want 200", resp.StatusCode)
	}
	n.log.ResumeReads()
	waitUntil(t, func() bool { return n.server.Readiness().Ready })
}

func TestReflection(t *testing.T) {
	n := newNode(t)
	stream := grpcreflect.NewClient(h2c(t), "http://"+n.address, connect.WithGRPC()).NewStream(context10(t))
	defer stream.Close()
	names, err := stream.ListServices()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range services {
		if !slices.ContainsFunc(names, func(n protoreflect.FullName) bool { return string(n) == want }) {
			t.Errorf("services = %v, want %s among them", names, want)
		}
	}
	if files, err := stream.FileContainingSymbol("grantlog.v1.CheckRequest"); err != nil || len(files) == 0 {
		t.Errorf("file of CheckRequest = %v, %v", files, err)
	}
}

func TestMetrics(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	n.apply(t, store, grant("doc:plan", "viewer", "user:ann"))
	ctx := context10(t)
	for _, subject := range []string{"user:ann", "user:ann", "user:bob", "nobody"} {
		n.Check(ctx, &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", subject)}) // one of them fails
	}
	resp, err := http.Get("http://" + n.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`grantlog_check_seconds_count{result="allowed"} 2`,
		`grantlog_check_seconds_count{result="denied"} 1`,
		`grantlog_check_seconds_count{result="error"} 1`,
		`grantlog_commands_total{outcome="applied"} 3`,
		`grantlog_commands_total{outcome="rejected"} 0`,
		"grantlog_envelope_commands_count 3",
		"grantlog_envelope_bytes_count 3",
		"grantlog_log_head 4", // the genesis and three commands
		"grantlog_log_applied 4",
		"grantlog_lag_messages 0",
		"grantlog_quarantined 0",
	} {
		if !strings.Contains(string(body), want+"\n") {
			t.Errorf("the metrics lack %q", want)
		}
	}
}

// TestEnd: Serve lets what is under way end, and ends streams that follow.
func TestEnd(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	stream, err := n.Replay(context10(t), &pb.ReplayRequest{Store: store, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if !stream.Receive() || !stream.Msg().CaughtUp {
		t.Fatalf("first answer = %v, %v, want to be caught up", stream.Msg(), stream.Err())
	}
	release, appending := make(chan struct{}), make(chan struct{})
	begun := sync.OnceFunc(func() { close(appending) })
	n.log.OnAppend(func(string, []byte) ledgertest.Fault {
		begun()
		return ledgertest.Fault{Hold: release}
	})
	submitted := make(chan error, 1)
	go func() { // ends when the append is released
		_, err := n.Submit(context.Background(), &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann")}}})
		submitted <- err
	}()
	<-appending
	ended := make(chan struct{})
	go func() { // ends with the server
		n.end()
		close(ended)
	}()
	for stream.Receive() {
	}
	if err := stream.Err(); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "resume token") {
		t.Errorf("the stream ended with %v, want unavailable", err)
	}
	close(release)
	if err := <-submitted; err != nil {
		t.Errorf("the command under way: %v, want its answer", err)
	}
	<-ended
	if _, err := net.DialTimeout("tcp", n.address, time.Second); err == nil {
		t.Error("the port is still open")
	}
}

// TestSlowReader: a caller that takes nothing loses its stream; one that waits long
// between two pieces does not.
func TestSlowReader(t *testing.T) {
	const limit = 100 * time.Millisecond
	wrote := make(chan error, 1)
	base := serveHandler(t, sendWithin(limit, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		piece := []byte("piece")
		if r.URL.Path == "/much" {
			piece = bytes.Repeat([]byte("x"), 1<<20)
		}
		var err error
		for i := 0; i < 100 && err == nil; i++ {
			if r.URL.Path == "/rare" {
				if i == 3 {
					break
				}
				time.Sleep(2 * limit)
			}
			_, err = w.Write(piece)
			w.(http.Flusher).Flush()
		}
		wrote <- err
	})))
	for name, client := range map[string]*http.Client{"HTTP/1.1": http.DefaultClient, "h2c": h2c(t)} {
		resp, err := client.Get(base + "/rare")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if sent := <-wrote; err != nil || sent != nil || string(got) != "piecepiecepiece" {
			t.Errorf("%s: rare pieces: got %q, %v, sent with %v", name, got, err, sent)
		}
		resp, err = client.Get(base + "/much")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if sent := <-wrote; sent == nil {
			t.Errorf("%s: 100 MiB were written to a caller that reads none", name)
		}
		resp.Body.Close()
	}
}

// serveHandler serves h on loopback over HTTP/1.1 and h2c.
func serveHandler(t testing.TB, h http.Handler) (base string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h, Protocols: &protocols}
	done := make(chan struct{})
	go func() { // ends when the server is closed
		defer close(done)
		server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return "http://" + listener.Addr().String()
}

// TestPanic: a bug in a handler is one failed request, and its text stays inside.
func TestPanic(t *testing.T) {
	var broken atomic.Bool
	n := newNode(t, func(c *Config) {
		c.Now = func() time.Time {
			if broken.Load() {
				panic("secret")
			}
			return time.Now()
		}
	})
	store := n.store(t, testModel)
	broken.Store(true)
	_, err := n.Check(context10(t), &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "user:ann")})
	if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
		t.Errorf("check = %v, want an internal error that hides the panic", err)
	}
	if _, err := n.ListStores(context10(t), &pb.ListStoresRequest{}); err != nil {
		t.Errorf("the next request: %v", err)
	}
}
