package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
)

// A forger stands between the program and a real server, and alters what that answers.
type forger struct {
	grantlogv1connect.UnimplementedAuditServiceHandler
	real  grantlogv1connect.AuditServiceClient
	alter func(answer proto.Message) // nil to alter nothing
}

func forged[Q any, A proto.Message](ctx context.Context, f *forger, ask func(context.Context, Q) (A, error), q Q) (A, error) {
	answer, err := ask(ctx, q)
	if err == nil && f.alter != nil {
		f.alter(answer)
	}
	return answer, err
}

func (f *forger) Checkpoint(ctx context.Context, q *pb.CheckpointRequest) (*pb.CheckpointResponse, error) {
	return forged(ctx, f, f.real.Checkpoint, q)
}

func (f *forger) ProveInclusion(ctx context.Context, q *pb.ProveInclusionRequest) (*pb.ProveInclusionResponse, error) {
	return forged(ctx, f, f.real.ProveInclusion, q)
}

func (f *forger) ProveConsistency(ctx context.Context, q *pb.ProveConsistencyRequest) (*pb.ProveConsistencyResponse, error) {
	return forged(ctx, f, f.real.ProveConsistency, q)
}

// TestForgedAnswers alters each part of what a server answers to the verbs that verify.
func TestForgedAnswers(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	grantlog := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("grantlog", args...).CombinedOutput(); err != nil {
			t.Fatalf("grantlog %q: %v\n%s", args, err, out)
		}
	}
	grantlog("keygen", "grantlog.example/main", "--out", file("key"))
	server, err := startServer(file("data"), "--signing-key", file("key"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.stop()
	// Nine entries of system: its commands are the stores'.
	for i := range 9 {
		grantlog("store", "create", fmt.Sprint("s", i), "--server", server.url)
	}

	base, err := url.Parse(server.url)
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{real: newClient(server.url).audit}
	mux := http.NewServeMux()
	mux.Handle(grantlogv1connect.NewAuditServiceHandler(f))
	mux.Handle("/", httputil.NewSingleHostReverseProxy(base))
	between := httptest.NewServer(mux)
	defer between.Close()
	verb := func(args ...string) (status int, out, failed string) {
		var stdout, stderr bytes.Buffer
		status = run(t.Context(), append(append([]string{"audit"}, args...), "--server", between.URL, "--store", "system"), strings.NewReader(""), &stdout, &stderr)
		return status, stdout.String(), stderr.String()
	}
	_, older, _ := verb("checkpoint")
	if err := os.WriteFile(file("older"), []byte(older), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		grantlog("store", "create", fmt.Sprint("t", i), "--server", server.url)
	}

	verbs := map[string][]string{
		"checkpoint":       {"checkpoint"},
		"inclusion":        {"inclusion", "3"},
		"inclusion within": {"inclusion", "3", "--size", "7"},
		"from a file":      {"consistency", file("older")},
		"from a revision":  {"consistency", "3"},
		"within":           {"consistency", "3", "7"},
	}
	for name, args := range verbs {
		if status, out, failed := verb(append(args, "--key", file("key.pub"))...); status != statusYes {
			t.Fatalf("%s, with nothing altered: status %d\n%s%s", name, status, out, failed)
		}
	}

	// The first answer of each kind that has the part is altered.
	inclusion := func(f func(*pb.ProveInclusionResponse)) func(proto.Message) {
		return func(m proto.Message) {
			if r, ok := m.(*pb.ProveInclusionResponse); ok {
				f(r)
			}
		}
	}
	consistency := func(f func(*pb.ProveConsistencyResponse)) func(proto.Message) {
		return func(m proto.Message) {
			if r, ok := m.(*pb.ProveConsistencyResponse); ok {
				f(r)
			}
		}
	}
	checkpoint := func(f func(*pb.CheckpointResponse)) func(proto.Message) {
		return func(m proto.Message) {
			if r, ok := m.(*pb.CheckpointResponse); ok {
				f(r)
			}
		}
	}
	impostor, err := seal.GenerateKey(bytes.NewReader(make([]byte, 32)), "grantlog.example/main")
	if err != nil {
		t.Fatal(err)
	}
	resigned := func(r *pb.CheckpointResponse) {
		note, err := impostor.Sign(ledger.System, ledger.Revision(r.Size), ledger.Hash(r.Root))
		if err != nil {
			t.Error(err)
		}
		r.Note, r.Key = string(note), impostor.String()
	}
	inclusions, consistencies := []string{"inclusion", "inclusion within"}, []string{"from a file", "from a revision", "within"}
	everything := []string{"checkpoint", "inclusion", "inclusion within", "from a file", "from a revision", "within"}
	for _, tt := range []struct {
		name  string
		verbs []string
		alter func(proto.Message)
	}{
		{"the actor of the entry", inclusions, inclusion(func(r *pb.ProveInclusionResponse) {
			e, err := ledger.DecodeEntry(r.Entry)
			if err != nil {
				t.Error(err)
			}
			e.Origin.Actor += "x"
			r.Entry = ledger.AppendEntry(nil, e)
		})},
		{"the actor of the entry, and the leaf", inclusions, inclusion(func(r *pb.ProveInclusionResponse) {
			e, err := ledger.DecodeEntry(r.Entry)
			if err != nil {
				t.Error(err)
			}
			e.Origin.Actor += "x"
			r.Entry = ledger.AppendEntry(nil, e)
			leaf := seal.LeafHash(r.Entry)
			r.Leaf = leaf[:]
		})},
		{"the entry's bytes", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Entry = r.Entry[1:] })},
		{"the entry is another", inclusions, inclusion(func(r *pb.ProveInclusionResponse) {
			other, err := f.real.ProveInclusion(t.Context(), &pb.ProveInclusionRequest{Store: "system", Revision: 4, Size: r.Size})
			if err != nil {
				t.Error(err)
			}
			proto.Reset(r)
			proto.Merge(r, other)
		})},
		{"the tree is another", inclusions, inclusion(func(r *pb.ProveInclusionResponse) {
			other, err := f.real.ProveInclusion(t.Context(), &pb.ProveInclusionRequest{Store: "system", Revision: 3, Size: 6})
			if err != nil {
				t.Error(err)
			}
			proto.Reset(r)
			proto.Merge(r, other)
		})},
		{"a hash of the proof", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Proof[1][5] ^= 1 })},
		{"a hash is dropped", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Proof = r.Proof[1:] })},
		{"a hash is short", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Proof[0] = r.Proof[0][1:] })},
		{"two hashes are swapped", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Proof[0], r.Proof[1] = r.Proof[1], r.Proof[0] })},
		{"the root", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Root[0] ^= 1 })},
		{"no root", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Root = nil })},
		{"the size", inclusions, inclusion(func(r *pb.ProveInclusionResponse) { r.Size++ })},
		// A tree made up whole, with the right root of its own.
		{"an invented tree", inclusions, inclusion(func(r *pb.ProveInclusionResponse) {
			e, err := ledger.DecodeEntry(r.Entry)
			if err != nil {
				t.Error(err)
			}
			e.Origin.Actor += "x"
			r.Entry = ledger.AppendEntry(nil, e)
			root := rebuilt(t, 3, r)
			r.Root = root[:]
		})},
		{"a hash of the proof", consistencies, consistency(func(r *pb.ProveConsistencyResponse) { r.Proof[0][5] ^= 1 })},
		{"a hash is dropped", consistencies, consistency(func(r *pb.ProveConsistencyResponse) { r.Proof = r.Proof[1:] })},
		{"no proof", consistencies, consistency(func(r *pb.ProveConsistencyResponse) { r.Proof = nil })},
		{"the root before", []string{"from a revision", "within"}, consistency(func(r *pb.ProveConsistencyResponse) { r.FromRoot[0] ^= 1 })},
		{"the root after", []string{"within"}, consistency(func(r *pb.ProveConsistencyResponse) { r.ToRoot[0] ^= 1 })},
		{"two invented trees", []string{"within"}, consistency(func(r *pb.ProveConsistencyResponse) {
			if r.To == 7 {
				proto.Reset(r)
				proto.Merge(r, invented(t, 3, 7))
			}
		})},
		{"the signed root", everything, checkpoint(func(r *pb.CheckpointResponse) { r.Note = strings.Replace(r.Note, "\n14\n", "\n13\n", 1) })},
		{"no note", everything, checkpoint(func(r *pb.CheckpointResponse) { r.Note = "" })},
		{"another key", everything, checkpoint(resigned)},
		{"the key", everything, checkpoint(func(r *pb.CheckpointResponse) { r.Key = impostor.String() })},
		{"no key", everything, checkpoint(func(r *pb.CheckpointResponse) { r.Key = "" })},
		{"another store's note", everything, checkpoint(func(r *pb.CheckpointResponse) {
			r.Note = strings.ReplaceAll(r.Note, "/system", "/01JD2Z8M3QK7X5T4V9W0B6C1RA")
		})},
	} {
		for _, name := range tt.verbs {
			f.alter = tt.alter
			status, out, failed := verb(append(verbs[name], "--key", file("key.pub"))...)
			if status != statusNo || out != "" || !strings.HasPrefix(failed, "grantlog: not verified: ") {
				t.Errorf("%s, %s: status %d\n%s%s", name, tt.name, status, out, failed)
			}
		}
	}

	// Only the key that came from elsewhere tells a note of another's: without it the
	// verb verifies, and says whose word that is.
	f.alter = checkpoint(resigned)
	if status, out, _ := verb("inclusion", "3"); status != statusYes || !strings.Contains(out, "which the server named itself") {
		t.Errorf("without --key, status %d\n%s", status, out)
	}
	if status, _, failed := verb("consistency", file("older")); status != statusNo {
		t.Errorf("with an older checkpoint of the real key, status %d\n%s", status, failed)
	}
}

// invented returns a proof between two trees that no log has.
func invented(t *testing.T, from, to ledger.Revision) *pb.ProveConsistencyResponse {
	t.Helper()
	var stored []tlog.Hash
	hashes := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	for rev := ledger.Revision(1); rev <= to; rev++ {
		row, err := seal.Hashes(rev, seal.LeafHash([]byte{byte(rev)}), hashes)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range row {
			stored = append(stored, tlog.Hash(h))
		}
	}
	fromRoot, err1 := seal.Root(from, hashes)
	toRoot, err2 := seal.Root(to, hashes)
	hs, err3 := seal.ProveConsistency(from, to, hashes)
	if err := errors.Join(err1, err2, err3, seal.CheckConsistency(from, fromRoot, to, toRoot, hs)); err != nil {
		t.Fatal(err)
	}
	r := &pb.ProveConsistencyResponse{FromRoot: fromRoot[:], To: uint64(to), ToRoot: toRoot[:]}
	for i := range hs {
		r.Proof = append(r.Proof, hs[i][:])
	}
	return r
}

// rebuilt returns the root to which the answer's entry leads at a revision.
func rebuilt(t *testing.T, rev uint64, r *pb.ProveInclusionResponse) ledger.Hash {
	t.Helper()
	leaf := seal.LeafHash(r.Entry)
	root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, rev-1, r.Size, leaf[:], r.Proof)
	if err != nil {
		t.Error(err)
	}
	return ledger.Hash(root)
}
