package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A dishonest server sends the parts of a report that a test gives it.
type dishonest struct {
	grantlogv1connect.UnimplementedAuditServiceHandler
	parts []*pb.ReportResponse
	err   error
}

func (d *dishonest) Report(_ context.Context, _ *pb.ReportRequest, stream *connect.ServerStream[pb.ReportResponse]) error {
	for _, p := range d.parts {
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	return d.err
}

// signedTree returns a header that stands on a signed tree of five leaves, and the key.
func signedTree(t *testing.T) (*pb.ReportHeader, seal.PrivateKey) {
	t.Helper()
	key, err := seal.GenerateKey(rand.Reader, "auditors.example/test")
	if err != nil {
		t.Fatal(err)
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	for i := range int64(5) {
		hashes, err := tlog.StoredHashes(i, []byte{byte(i)}, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
	}
	root := func(n int64) []byte {
		h, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		return h[:]
	}
	store := ledger.NewID()
	note, err := key.Sign(store, 5, ledger.Hash(root(5)))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := seal.ProveConsistency(3, 5, reader)
	if err != nil {
		t.Fatal(err)
	}
	h := &pb.ReportHeader{Title: "test", Store: store.String(), Revision: 3, Root: root(3), Query: "{}", Columns: []string{"a", "b"},
		Checkpoint: string(note), Key: key.Key.String()}
	for _, p := range proof {
		h.ConsistencyProof = append(h.ConsistencyProof, p[:])
	}
	return h, key
}

// A slow server sends the header of a report once it is told to, and the rest after a while.
type slow struct {
	dishonest
	begin <-chan struct{} // the header is sent when it is closed
	pause time.Duration   // before the rest
}

func (d *slow) Report(ctx context.Context, _ *pb.ReportRequest, stream *connect.ServerStream[pb.ReportResponse]) error {
	select {
	case <-d.begin:
	case <-ctx.Done():
		return ctx.Err()
	}
	for i, p := range d.parts {
		if i == 1 {
			time.Sleep(d.pause)
		}
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	return nil
}

// TestPatience holds that a report has to begin within --timeout, and then takes as long as it
// does: one that is asked for again too.
func TestPatience(t *testing.T) {
	header := &pb.ReportHeader{Title: "test", Store: ledger.NewID().String(), StoreName: "acme", Revision: 3, Root: make([]byte, 32), Columns: []string{"a"}}
	header.EvaluatedAt = timestamppb.New(time.Unix(1_600_000_000, 0))
	header.Query = fmt.Sprintf(`{"store":%q,"accessToObject":{"object":"doc:plan"}}`, header.Store)
	sum := sha256.Sum256(nil)
	begun := make(chan struct{})
	close(begun)
	serve := func(d *slow) *app {
		d.parts = []*pb.ReportResponse{{Part: &pb.ReportResponse_Header{Header: header}}, {Part: &pb.ReportResponse_End{End: &pb.ReportEnd{Sha256: sum[:]}}}}
		mux := http.NewServeMux()
		mux.Handle(grantlogv1connect.NewAuditServiceHandler(d))
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		return &app{stdout: io.Discard, stderr: io.Discard, server: server.URL, store: header.Store, output: "table", timeout: 100 * time.Millisecond, interrupted: func() bool { return false }}
	}
	file := filepath.Join(t.TempDir(), "report.csv")
	patient := serve(&slow{begin: begun, pause: 300 * time.Millisecond})
	if err := patient.report(t.Context(), &reporting{format: "csv", out: file}, &pb.ReportRequest{}); err != nil {
		t.Errorf("a report that takes longer than --timeout: %v", err)
	}
	if err := patient.recheck(t.Context(), file, seal.Key{}); err != nil {
		t.Errorf("one that is asked for again: %v", err)
	}
	silent := serve(&slow{})
	want := fmt.Sprintf("no answer from %s in time; allow more with --timeout", silent.server)
	if err := silent.report(t.Context(), &reporting{format: "csv"}, &pb.ReportRequest{}); err == nil || err.Error() != want {
		t.Errorf("a report that does not begin: %v, want %s", err, want)
	}
	if err := silent.recheck(t.Context(), file, seal.Key{}); err == nil || err.Error() != file+": "+want {
		t.Errorf("one that is asked for again and does not begin: %v, want %s", err, want)
	}
}

// TestReceivedReports holds that a report that is cut short, altered or not vouched for as
// it says is an error, whichever part of it is.
func TestReceivedReports(t *testing.T) {
	header, key := signedTree(t)
	other, err := seal.GenerateKey(rand.Reader, "auditors.example/test")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("1,\"#\"\n2,\"x,y\"\n"))
	whole := func() []*pb.ReportResponse {
		return []*pb.ReportResponse{
			{Part: &pb.ReportResponse_Header{Header: proto.Clone(header).(*pb.ReportHeader)}},
			{Part: &pb.ReportResponse_Rows{Rows: &pb.ReportRows{Rows: []*pb.ReportRow{{Cells: []string{"1", "#"}}}}}},
			{Part: &pb.ReportResponse_Rows{Rows: &pb.ReportRows{Rows: []*pb.ReportRow{{Cells: []string{"2", "x,y"}}}}}},
			{Part: &pb.ReportResponse_End{End: &pb.ReportEnd{Rows: 2, Sha256: sum[:]}}},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(p []*pb.ReportResponse) []*pb.ReportResponse
		pinned seal.Key
		err    error
		want   string // part of the error, "" for none
		whole  bool   // want is all of it
	}{
		{name: "whole"},
		{name: "whole, with its key pinned", pinned: key.Key},
		{name: "whole, without a checkpoint", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[0].GetHeader().Checkpoint = ""
			return p
		}},
		{name: "no end", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return p[:3] }, want: "ended before it was complete"},
		{name: "nothing", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return nil }, want: "ended before it was complete"},
		{name: "an error", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return p[:2] },
			err: connect.NewError(connect.CodeUnavailable, errors.New("ends")), want: "ends; the report is not complete"},
		{name: "an error before the header", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return nil },
			err: connect.NewError(connect.CodeUnavailable, errors.New("ends")), want: "unavailable: ends", whole: true},
		{name: "no header", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return p[1:] }, want: "rows before its header"},
		{name: "only an end", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return p[3:] }, want: "not what the server made"},
		{name: "two headers", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return append(p[:1:1], p...) }, want: "two headers"},
		{name: "a row less", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return slices.Delete(p, 1, 2) }, want: "1 rows with SHA-256"},
		{name: "rows swapped", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { p[1], p[2] = p[2], p[1]; return p }, want: "not what the server made"},
		{name: "a row twice", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { return slices.Insert(p, 1, p[1]) }, want: "not what the server made"},
		{name: "a cell altered", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[1].GetRows().Rows[0].Cells[0] = "3"
			return p
		}, want: "not what the server made"},
		{name: "a cell more", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[1].GetRows().Rows[0].Cells = []string{"1", "#", ""}
			return p
		}, want: "3 cells under 2 columns"},
		{name: "another count", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { p[3].GetEnd().Rows = 3; return p }, want: "not what the server made"},
		{name: "no hash", change: func(p []*pb.ReportResponse) []*pb.ReportResponse { p[3].GetEnd().Sha256 = nil; return p }, want: "not what the server made"},
		{name: "another root", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[0].GetHeader().Root[0] ^= 1
			return p
		}, want: "does not show that the tree of 5 begins with the tree of 3"},
		{name: "another revision", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[0].GetHeader().Revision = 4
			return p
		}, want: "does not show"},
		{name: "no proof", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[0].GetHeader().ConsistencyProof = nil
			return p
		}, want: "does not show"},
		{name: "a short hash", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			h := p[0].GetHeader()
			h.ConsistencyProof[0] = h.ConsistencyProof[0][:31]
			return p
		}, want: "31 bytes, not 32"},
		{name: "a checkpoint of another store", change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[0].GetHeader().Store = ledger.NewID().String()
			return p
		}, want: "should be of auditors.example/test/"},
		{name: "another key pinned", pinned: other.Key, want: "the server signs with the key"},
		{name: "a key pinned, and no checkpoint", pinned: key.Key, change: func(p []*pb.ReportResponse) []*pb.ReportResponse {
			p[0].GetHeader().Checkpoint = ""
			return p
		}, want: "--key has nothing to verify"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts := whole()
			if tt.change != nil {
				parts = tt.change(parts)
			}
			mux := http.NewServeMux()
			mux.Handle(grantlogv1connect.NewAuditServiceHandler(&dishonest{parts: parts, err: tt.err}))
			server := httptest.NewServer(mux)
			defer server.Close()
			for _, format := range []string{"table", "csv", "jsonl"} {
				var out strings.Builder
				_, err := newClient(server.URL).report(context.Background(), &pb.ReportRequest{}, tt.pinned, newReportWriter(format, &out), nil)
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) || tt.whole && err.Error() != tt.want {
					t.Errorf("%s: %v, want %q", format, err, tt.want)
				}
				if whole := strings.Contains(out.String(), "2 rows") || strings.Contains(out.String(), `"rows":2`) || strings.Contains(out.String(), "# rows: 2"); whole != (tt.want == "") {
					t.Errorf("%s: an end was written: %t", format, whole)
				}
			}
		})
	}
}
