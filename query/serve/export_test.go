//go:build unix

package serve

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// receiveBundle exports, and holds what is sent to its shape.
func (n *node) receiveBundle(t *testing.T, q *pb.ExportRequest) ([]byte, error) {
	t.Helper()
	stream, err := n.Export(context10(t), q)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var bundle []byte
	var done, total uint64
	for stream.Receive() {
		m := stream.Msg()
		if len(m.Chunk) == 0 || len(m.Chunk) > audit.MaxChunk || m.Done < done || m.Done > m.Total || total != 0 && m.Total != total {
			t.Fatalf("a chunk of %d bytes, %d of %d entries after %d of %d", len(m.Chunk), m.Done, m.Total, done, total)
		}
		done, total = m.Done, m.Total
		bundle = append(bundle, m.Chunk...)
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if done != total {
		t.Fatalf("the stream ended at %d of %d entries", done, total)
	}
	return bundle, nil
}

// fillChunks brings two entries into the store that each take more than a chunk.
func (n *node) fillChunks(t *testing.T, store string) {
	t.Helper()
	for i := range 2 {
		var changes []*pb.Change
		for j := range ledger.MaxChanges {
			changes = append(changes, grant(fmt.Sprintf("doc:%d-%d%s", i, j, strings.Repeat("x", 200)), "owner", "user:"+strings.Repeat("y", 100)))
		}
		n.apply(t, store, changes...)
	}
}

// TestExport exports stores of a server, and verifies the bundles without it.
func TestExport(t *testing.T) {
	file := signingKey(t)
	sign, _ := signing(t, file)
	n := newNode(t, sign)
	key, err := audit.ReadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	store, deleted := n.store(t, testModel), n.store(t, "")
	n.fill(t, store, 118)
	n.fillChunks(t, store)
	answer, err := n.Submit(context10(t), &pb.SubmitRequest{Actor: "bob", Command: &pb.Command{Store: store, Changes: []*pb.Change{grant("nothing:a", "owner", "user:ann")}}})
	if err != nil || answer.Outcome.Kind != pb.Outcome_REJECTED {
		t.Fatalf("Submit = %v, %v", answer, err)
	}
	if _, err := n.DeleteStore(context10(t), &pb.DeleteStoreRequest{Store: deleted, Actor: "ann"}); err != nil {
		t.Fatal(err)
	}
	id, err := ledger.ParseID(store)
	if err != nil {
		t.Fatal(err)
	}
	v, err := n.projector.Index().View(id, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	time := func(rev ledger.Revision) int64 {
		at, err := v.TimeOf(rev)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	// The log time of an entry, and so many nanoseconds; and the first and the last of the
	// entries whose time that is, as those of one message have the same.
	at := func(rev ledger.Revision, more int64) *timestamppb.Timestamp {
		return &timestamppb.Timestamp{Seconds: (time(rev) + more) / 1e9, Nanos: int32((time(rev) + more) % 1e9)}
	}
	first := func(rev ledger.Revision) ledger.Revision {
		for rev > 1 && time(rev-1) == time(rev) {
			rev--
		}
		return rev
	}
	last := func(rev ledger.Revision) ledger.Revision {
		for rev < v.Revision() && time(rev+1) == time(rev) {
			rev++
		}
		return rev
	}
	for _, tt := range []struct {
		name        string
		q           *pb.ExportRequest
		first, last ledger.Revision
	}{
		{"a whole store", &pb.ExportRequest{Store: store}, 1, 121},
		{"a beginning", &pb.ExportRequest{Store: store, To: 100}, 1, 100},
		{"an end", &pb.ExportRequest{Store: store, From: 5}, 5, 121},
		{"a range", &pb.ExportRequest{Store: store, From: 2, To: 4}, 2, 4},
		{"one entry", &pb.ExportRequest{Store: store, From: 121, To: 121}, 121, 121},
		{"since a time", &pb.ExportRequest{Store: store, FromTime: at(50, 0)}, first(50), 121},
		{"until a time", &pb.ExportRequest{Store: store, ToTime: at(100, 0)}, 1, last(100)},
		{"between the times of entries", &pb.ExportRequest{Store: store, FromTime: at(50, 1), ToTime: at(100, -1)}, last(50) + 1, first(100) - 1},
		{"since before the store", &pb.ExportRequest{Store: store, FromTime: &timestamppb.Timestamp{Seconds: 1}, To: 3}, 1, 3},
		{"a deleted store", &pb.ExportRequest{Store: deleted}, 1, 2},
		{"system", &pb.ExportRequest{Store: "system"}, 1, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bundle, err := n.receiveBundle(t, tt.q)
			if err != nil {
				t.Fatal(err)
			}
			r, err := audit.Verify(t.Context(), bytes.NewReader(bundle), audit.Options{Key: key.Key, Part: tt.first > 1 || tt.q.To > 0 || tt.q.ToTime != nil, Scratch: &index.Options{Dir: t.TempDir(), CacheBytes: 1 << 20}})
			if err != nil {
				t.Fatal(err)
			}
			if r.Store.String() != tt.q.Store || r.First != tt.first || r.Last != tt.last || r.Folded != (tt.first == 1) {
				t.Errorf("it holds %+v, folded %v", r.Header, r.Folded)
			}
			head, _ := n.projector.Index().Head(r.Store)
			v, err := n.projector.Index().View(r.Store, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if root, err := v.Root(); err != nil || r.Checkpoint.Root != root || r.Checkpoint.Size != head.Revision {
				t.Errorf("its checkpoint is %+v, the replica is at %d with root %x, %v", r.Checkpoint, head.Revision, root, err)
			}
			if again, err := n.receiveBundle(t, tt.q); err != nil || !bytes.Equal(again, bundle) {
				t.Errorf("exported again it is another: %d bytes, not %d, %v", len(again), len(bundle), err)
			}
		})
	}
}

// TestExportInput: what cannot be exported is told, with the field and the rule.
func TestExportInput(t *testing.T) {
	sign, _ := signing(t, signingKey(t))
	n, unsigned := newNode(t, sign), newNode(t)
	store := n.store(t, testModel)
	none := ledger.NewID().String()
	early, now, future := &timestamppb.Timestamp{Seconds: 1}, timestamppb.Now(), timestamppb.New(time.Now().Add(time.Hour))
	for _, tt := range []struct {
		name        string
		n           *node
		q           *pb.ExportRequest
		code        connect.Code
		why         pb.Rejection_Code
		field, rule string
	}{
		{"no store", n, &pb.ExportRequest{}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "must not be empty"},
		{"no ULID", n, &pb.ExportRequest{Store: "acme"}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "ULID"},
		{"unknown store", n, &pb.ExportRequest{Store: none}, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "not found"},
		{"from after to", n, &pb.ExportRequest{Store: store, From: 2, To: 1}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "from", "must be at most to, 1"},
		{"from beyond what there is", n, &pb.ExportRequest{Store: store, From: 3}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "from", "must be at most the last revision, 2"},
		{"to beyond what there is", n, &pb.ExportRequest{Store: store, To: 3}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "to", "in the future"},
		{"from twice", n, &pb.ExportRequest{Store: store, From: 1, FromTime: now}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "from_time", "beside from"},
		{"to twice", n, &pb.ExportRequest{Store: store, To: 1, ToTime: now}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "to_time", "beside to"},
		{"from a time after to", n, &pb.ExportRequest{Store: store, FromTime: now, ToTime: early}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "from_time", "after to_time"},
		{"to a time before the store", n, &pb.ExportRequest{Store: store, ToTime: early}, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "to_time", "before the store's first entry"},
		{"to a time of the future", n, &pb.ExportRequest{Store: store, ToTime: future}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "to_time", "in the future"},
		{"from a time of the future", n, &pb.ExportRequest{Store: store, FromTime: future}, connect.CodeInvalidArgument, pb.Rejection_INVALID, "from_time", "in the future"},
		{"from a time after the last entry", n, &pb.ExportRequest{Store: store, FromTime: now}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "from_time", "no entry is between it and the last one, revision 2"},
		{"no moment", n, &pb.ExportRequest{Store: store, ToTime: &timestamppb.Timestamp{Nanos: -1}}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "to_time", "is not a moment"},
		{"no key", unsigned, &pb.ExportRequest{Store: unsigned.store(t, "")}, connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "", "without a signing key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bundle, err := tt.n.receiveBundle(t, tt.q)
			if len(bundle) > 0 {
				t.Errorf("%d bytes came", len(bundle))
			}
			wantRejection(t, err, tt.code, tt.why, tt.field, tt.rule)
		})
	}
}

// TestExportInterrupted: an export that cannot go on is an error, and never a bundle that
// just ends.
func TestExportInterrupted(t *testing.T) {
	sign, _ := signing(t, signingKey(t))
	n := newNode(t, sign)
	store := n.store(t, testModel)
	n.fillChunks(t, store)
	sent := 0
	gone := fmt.Errorf("the caller is gone")
	err := n.server.export(t.Context(), &pb.ExportRequest{Store: store}, func(*pb.ExportResponse) error {
		if sent++; sent == 2 {
			return gone
		}
		return nil
	})
	if err != gone || sent != 2 {
		t.Errorf("export = %v after %d chunks", err, sent)
	}
	ctx, cancel := context.WithCancel(t.Context())
	sent = 0
	err = n.server.export(ctx, &pb.ExportRequest{Store: store}, func(m *pb.ExportResponse) error {
		sent++
		cancel()
		return nil
	})
	if code := faultOf(err).code; code != connect.CodeCanceled {
		t.Errorf("export = %v (%s) after its caller left, %d chunks", err, code, sent)
	}
}
