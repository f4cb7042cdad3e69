package serve

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
)

// emptyHandler answers with the messages of a check, and asks nothing.
type emptyHandler struct {
	grantlogv1connect.UnimplementedPermissionServiceHandler
	check *pb.CheckResponse
	batch *pb.BatchCheckResponse
}

func (h *emptyHandler) Check(context.Context, *pb.CheckRequest) (*pb.CheckResponse, error) {
	return h.check, nil
}

func (h *emptyHandler) BatchCheck(context.Context, *pb.BatchCheckRequest) (*pb.BatchCheckResponse, error) {
	return h.batch, nil
}

// BenchmarkCheck compares the throughput of checks over Connect with that of an empty
// handler that has the same messages on the same port, and of batches of 50 with that
// of single checks. The questions are direct grants, uniform over all tuples, from as
// many callers as there are processors.
func BenchmarkCheck(b *testing.B) {
	n := newNode(b)
	store := n.store(b, testModel)
	const documents = 20_000
	for i := 0; i < documents; i += 1000 {
		var changes []*pb.Change
		for j := range 1000 {
			changes = append(changes, grant(fmt.Sprintf("doc:%d", i+j), "viewer", fmt.Sprintf("user:%d", (i+j)%300)))
		}
		n.apply(b, store, changes...)
	}
	question := func() *pb.Tuple {
		i := rand.IntN(documents)
		return tupleOf(fmt.Sprintf("doc:%d", i), "viewer", fmt.Sprintf("user:%d", i%300))
	}
	items := make([]*pb.BatchCheckRequest_Item, 50)
	for i := range items {
		items[i] = &pb.BatchCheckRequest_Item{Tuple: question()}
	}
	check, err := n.Check(context.Background(), &pb.CheckRequest{Store: store, Tuple: question()})
	if err != nil || !check.Allowed {
		b.Fatalf("check = %v, %v, want allowed", check, err)
	}
	batch, err := n.BatchCheck(context.Background(), &pb.BatchCheckRequest{Store: store, Items: items})
	if err != nil {
		b.Fatal(err)
	}
	_, emptyService := grantlogv1connect.NewPermissionServiceHandler(&emptyHandler{check: check, batch: batch}, HandlerOptions()...)
	mux := http.NewServeMux()
	mux.Handle("/empty/", http.StripPrefix("/empty", emptyService))
	mux.Handle("/", n.server.Handler())
	base := serveHandler(b, mux)
	empty := newClients(base+"/empty", http.DefaultClient, connect.WithCompressMinBytes(compressFrom))
	real := newClients(base, http.DefaultClient, connect.WithCompressMinBytes(compressFrom))

	// Each caller asks the empty handler and the real one in random order, so that
	// both meet the same machine.
	ctx := context.Background()
	var spent [3]atomic.Int64 // nanoseconds with the empty handler, in checks, and in batches
	timed := func(i int, ask func() error) {
		began := time.Now()
		if err := ask(); err != nil {
			b.Error(err)
		}
		spent[i].Add(int64(time.Since(began)))
	}
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			q := question()
			for _, i := range rand.Perm(3) {
				timed(i, func() (err error) {
					switch i {
					case 0:
						_, err = empty.Check(ctx, &pb.CheckRequest{Store: store, Tuple: q})
					case 1:
						_, err = real.Check(ctx, &pb.CheckRequest{Store: store, Tuple: q})
					case 2:
						_, err = real.BatchCheck(ctx, &pb.BatchCheckRequest{Store: store, Items: items})
					}
					return err
				})
			}
		}
	})
	each := func(i, questions int) float64 { return float64(spent[i].Load()) / float64(b.N*questions) }
	b.ReportMetric(0, "ns/op") // of one round; says nothing
	b.ReportMetric(each(0, 1), "ns/empty")
	b.ReportMetric(each(1, 1), "ns/check")
	b.ReportMetric(each(2, len(items)), "ns/batched-check")
	b.ReportMetric(each(0, 1)/each(1, 1), "check/empty")
	b.ReportMetric(each(1, 1)/each(2, len(items)), "batched/check")
}
