package serve

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var pastRevisions = flag.Int("past-revisions", 20_000, "revisions of the store that BenchmarkCheckPast asks, one grant each")

// BenchmarkCheckPast compares checks over Connect of one store live, at revisions, at 64
// times again and again, and at times that were not asked for before. The questions are
// direct grants, uniform over those of the first half of the revisions, asked as of the other. Each round asks
// all four in random order; what is reported are medians, and their ratios to the live one.
func BenchmarkCheckPast(b *testing.B) {
	n := newNode(b)
	r := rand.New(rand.NewPCG(1, 2))
	clock := time.Now().Add(-24 * time.Hour).UnixNano()
	n.log.Broker.SetClock(func() int64 { return clock })
	store := n.store(b, testModel)
	id, err := ledger.ParseID(store)
	if err != nil {
		b.Fatal(err)
	}
	head, err := n.projector.Index().View(id, 0)
	if err != nil {
		b.Fatal(err)
	}
	made := head.Revision()
	head.Close()
	origin := ledger.Origin{Actor: "ann", Method: ledger.MethodNone, Attester: ledger.Subject("main", ledger.EdgeSubject, "bench")}
	documents, since := *pastRevisions/2, int64(0)
	for from := 0; from < *pastRevisions; { // as many to a message as come, now and then
		clock += 1 + r.Int64N(1e7)
		var commands []ledger.Enclosed
		for to := min(from+1+r.IntN(40), *pastRevisions); from < to; from++ {
			t, err := tuple.Parse(fmt.Sprintf("doc:%d#viewer@user:%d", from, from%300))
			if err != nil {
				b.Fatal(err)
			}
			c := &ledger.Command{ID: ledger.NewUUID(), Store: id, Changes: []ledger.Change{{Kind: ledger.Grant, Tuple: t}}}
			commands = append(commands, ledger.Enclosed{Origin: origin, Raw: ledger.AppendCommand(nil, c)})
		}
		if from >= documents && since == 0 {
			since = clock
		}
		n.log.Broker.Put(origin.Attester, ledger.AppendEnvelope(nil, commands))
	}
	if err := n.projector.Await(b.Context(), id, made+ledger.Revision(*pastRevisions)); err != nil {
		b.Fatal(err)
	}
	timed := func(at int64) *pb.Freshness {
		return &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: timestamppb.New(time.Unix(0, at))}}
	}
	random := func() *pb.Freshness { return timed(since + r.Int64N(clock-since)) }
	var repeated []*pb.Freshness
	for range 64 {
		repeated = append(repeated, random())
	}
	first := uint64(made) + uint64(documents)
	ways := []struct {
		name string
		when func() *pb.Freshness
	}{
		{"live", func() *pb.Freshness { return nil }},
		{"revision", func() *pb.Freshness {
			return &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: first + r.Uint64N(uint64(*pastRevisions-documents))}}
		}},
		{"repeated", func() *pb.Freshness { return repeated[r.IntN(len(repeated))] }},
		{"random", random},
	}
	samples := make([][]time.Duration, len(ways))
	for b.Loop() {
		for _, w := range r.Perm(len(ways)) {
			i := r.IntN(documents)
			req := &pb.CheckRequest{Store: store, Freshness: ways[w].when(), Tuple: tupleOf(fmt.Sprintf("doc:%d", i), "viewer", fmt.Sprintf("user:%d", i%300))}
			began := time.Now()
			got, err := n.Check(b.Context(), req)
			samples[w] = append(samples[w], time.Since(began))
			if err != nil || !got.Allowed {
				b.Fatalf("check %s = %v, %v, want allowed", ways[w].name, got, err)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	live := 0.0
	for w := range ways {
		slices.Sort(samples[w])
		median := float64(samples[w][len(samples[w])/2])
		if w == 0 {
			live = median
			b.ReportMetric(live, "live-ns")
		} else {
			b.ReportMetric(median/live, ways[w].name+"/live")
		}
	}
}
