package openfga_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
)

// BenchmarkCheck compares the same checks through this face and through the native API,
// both over gRPC, with one client. The questions are direct grants, uniform over all
// tuples, from as many callers as there are processors.
func BenchmarkCheck(b *testing.B) {
	w := newWorld(b)
	const documents = 20_000
	for i := 0; i < documents; i += 1000 {
		var tuples []string
		for j := i; j < i+1000; j++ {
			tuples = append(tuples, fmt.Sprintf("user:%d viewer doc:%d", j%300, j))
		}
		w.grant(b, tuples...)
	}
	// Each caller asks both in random order, so that both meet the same machine.
	ctx := context.Background()
	var spent [2]atomic.Int64 // nanoseconds by the native API and by this one
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			n := rand.IntN(documents)
			user, object := fmt.Sprintf("user:%d", n%300), fmt.Sprintf("doc:%d", n)
			for _, i := range rand.Perm(2) {
				method := grantlogv1connect.PermissionServiceCheckProcedure
				var req, resp proto.Message = &pb.CheckRequest{Store: w.store, Tuple: &pb.Tuple{Subject: user, Relation: "viewer", Object: object}}, &pb.CheckResponse{}
				if i == 1 {
					method = openfgav1.OpenFGAService_Check_FullMethodName
					req, resp = &openfgav1.CheckRequest{StoreId: w.store, TupleKey: &openfgav1.CheckRequestTupleKey{User: user, Relation: "viewer", Object: object}}, &openfgav1.CheckResponse{}
				}
				began := time.Now()
				err := w.conn.Invoke(ctx, method, req, resp)
				spent[i].Add(int64(time.Since(began)))
				if err != nil || !resp.(interface{ GetAllowed() bool }).GetAllowed() {
					b.Errorf("%s %v = %v, %v, want allowed", method, req, resp, err)
					return
				}
			}
		}
	})
	native, face := float64(spent[0].Load())/float64(b.N), float64(spent[1].Load())/float64(b.N)
	b.ReportMetric(0, "ns/op") // of both together; says nothing
	b.ReportMetric(native, "ns/native")
	b.ReportMetric(face, "ns/openfga")
	b.ReportMetric(face/native, "openfga/native")
}
