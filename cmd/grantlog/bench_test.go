package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/grantlog/grantlog/query/serve"
)

// emptyLedger answers Submit with the message of a real answer, and does nothing.
type emptyLedger struct {
	grantlogv1connect.UnimplementedLedgerServiceHandler
	answer *pb.SubmitResponse
}

func (e *emptyLedger) Submit(context.Context, *pb.SubmitRequest) (*pb.SubmitResponse, error) {
	return e.answer, nil
}

// BenchmarkWrites submits single grants from 64 callers to a node with an embedded
// broker that syncs always, in process and over Connect, and compares their rates with
// that of single messages to the same broker and with an empty handler on the same
// port. Every kind takes its turn in each round, so that all meet the same machine.
func BenchmarkWrites(b *testing.B) {
	const callers, each = 64, 20
	ctx := b.Context()
	p := &place{data: b.TempDir(), shard: "main", node: "edge"}
	n, err := startNode(ctx, nodeConfig{place: p, cache: 64 << 20, logger: slog.New(slog.DiscardHandler), mayBegin: true})
	if err != nil {
		b.Fatal(err)
	}
	defer n.close()
	ann := ledger.Origin{Actor: "ann", Method: ledger.MethodNone}
	submit := func(c *ledger.Command) {
		d, err := n.ledger.Submit(ctx, ann, c)
		if err != nil || d.Outcome.Kind != ledger.Applied {
			b.Errorf("Submit = %+v, %v", d.Outcome.Rejection, err)
		}
	}
	store := ledger.NewID()
	submit(&ledger.Command{ID: ledger.NewUUID(), Store: ledger.System, Changes: []ledger.Change{{Kind: ledger.CreateStore, Store: store, Name: "bench", Admin: "ann"}}})
	m, err := dsl.Compile(ledger.SourceDSL, []byte("model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define viewer: [user]\n"), dsl.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	submit(&ledger.Command{ID: ledger.NewUUID(), Store: store, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: m}}})

	mux := http.NewServeMux()
	path, empty := grantlogv1connect.NewLedgerServiceHandler(&emptyLedger{answer: &pb.SubmitResponse{
		Id: ledger.NewUUID().String(), Outcome: &pb.Outcome{Kind: pb.Outcome_APPLIED, Effective: 1}, Revision: 1000,
		Token: ledger.Token{Revision: 1000}.String(), Store: store.String(),
	}}, serve.HandlerOptions()...)
	mux.Handle("/empty"+path, http.StripPrefix("/empty", empty))
	mux.Handle("/", n.server.Handler())
	server := httptest.NewServer(mux)
	defer server.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: callers}
	defer transport.CloseIdleConnections()
	client := func(base string) grantlogv1connect.LedgerServiceClient {
		return grantlogv1connect.NewLedgerServiceClient(&http.Client{Transport: transport}, base, connect.WithCompressMinBytes(1024))
	}
	emptyClient, realClient := client(server.URL+"/empty"), client(server.URL)

	var number atomic.Int64
	grant := func() (object, subject string) {
		i := number.Add(1)
		return fmt.Sprintf("doc:plan-%d", i), fmt.Sprintf("user:employee-%d", i%1000)
	}
	request := func() *pb.SubmitRequest {
		object, subject := grant()
		return &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Store: store.String(), Ticket: "OPS-1", Changes: []*pb.Change{{
			Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: &pb.Tuple{Object: object, Relation: "viewer", Subject: subject}}}}}}}
	}
	message := ledger.AppendEnvelope(nil, nil)
	subject := ledger.Subject("main", ledger.EdgeSubject, "bench")
	kinds := []struct {
		name string
		do   func() error
	}{
		{"broker", func() error { _, err := n.log.Append(ctx, subject, message); return err }},
		{"submit", func() error {
			object, user := grant()
			t, err := tuple.Parse(object + "#viewer@" + user)
			if err != nil {
				return err
			}
			submit(&ledger.Command{ID: ledger.NewUUID(), Store: store, Ticket: "OPS-1", Changes: []ledger.Change{{Kind: ledger.Grant, Tuple: t}}})
			return nil
		}},
		{"empty", func() error { _, err := emptyClient.Submit(ctx, request()); return err }},
		{"connect", func() error {
			r, err := realClient.Submit(ctx, request())
			if err == nil && r.GetOutcome().GetKind() != pb.Outcome_APPLIED {
				err = fmt.Errorf("outcome %v", r.GetOutcome())
			}
			return err
		}},
	}
	took := make([]time.Duration, len(kinds))
	rounds, messages := 0, uint64(0)
	for b.Loop() {
		for k := range kinds {
			before := n.projector.Status().Applied
			began := time.Now()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range each {
						if err := kinds[k].do(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			took[k] += time.Since(began)
			if kinds[k].name == "submit" {
				messages += n.projector.Status().Applied - before
			}
			for n.projector.Status().Applied < n.projector.Status().Head { // the broker's are folded too
				time.Sleep(time.Millisecond)
			}
		}
		rounds++
	}
	done := float64(rounds * callers * each)
	rate := func(k int) float64 { return done / took[k].Seconds() }
	b.ReportMetric(0, "ns/op") // of one round; says nothing
	for k := range kinds {
		b.ReportMetric(rate(k), kinds[k].name+"/s")
	}
	b.ReportMetric(rate(1)/rate(0), "submit/broker")
	b.ReportMetric(rate(3)/rate(2), "connect/empty")
	b.ReportMetric(done/float64(messages), "commands/message")
}
