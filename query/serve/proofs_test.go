//go:build unix

package serve

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

func signingKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if _, err := audit.CreateKey(file, "grantlog.example/test"); err != nil {
		t.Fatal(err)
	}
	return file
}

// signing gives a node a key; the returned function gives the key free again.
func signing(t *testing.T, file string) (_ func(*Config), free func()) {
	t.Helper()
	s, err := audit.OpenSigner(file)
	if err != nil {
		t.Fatal(err)
	}
	free = sync.OnceFunc(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(free)
	return func(c *Config) { c.Signer = s }, free
}

// fill brings the store to so many entries.
func (n *node) fill(t *testing.T, store string, entries int) {
	t.Helper()
	id, err := ledger.ParseID(store)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := n.projector.Index().Head(id)
	var callers sync.WaitGroup
	wanted := make(chan int)
	for range 16 {
		callers.Go(func() { // ends when all are wanted
			for i := range wanted {
				n.apply(t, store, grant(fmt.Sprintf("doc:d%d", i), "owner", "user:ann"))
			}
		})
	}
	for i := int(h.Revision); i < entries; i++ {
		wanted <- i
	}
	close(wanted)
	callers.Wait()
	if h, _ := n.projector.Index().Head(id); int(h.Revision) != entries {
		t.Fatalf("the store has %d entries, want %d", h.Revision, entries)
	}
}

// TestProofs verifies the proofs of a real index with an implementation that is not
// ours: all of every size up to 70, and some of greater ones.
func TestProofs(t *testing.T) {
	const all, entries = 70, 1000
	n := newNode(t)
	store := n.store(t, testModel)
	n.fill(t, store, entries)
	id, _ := ledger.ParseID(store)
	v, err := n.projector.View(t.Context(), id, projector.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()

	// What goes over the network.
	asked := func(t *testing.T, rev, size uint64) (*pb.ProveInclusionResponse, *pb.ProveConsistencyResponse) {
		t.Helper()
		i, err := n.ProveInclusion(t.Context(), &pb.ProveInclusionRequest{Store: store, Revision: rev, Size: size})
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.ProveConsistency(t.Context(), &pb.ProveConsistencyRequest{Store: store, From: rev, To: size})
		if err != nil {
			t.Fatal(err)
		}
		return i, c
	}
	// The same, without.
	made := func(t *testing.T, rev, size uint64) (*pb.ProveInclusionResponse, *pb.ProveConsistencyResponse) {
		t.Helper()
		r, s := ledger.Revision(rev), ledger.Revision(size)
		included, err1 := seal.ProveInclusion(r, s, v)
		consistent, err2 := seal.ProveConsistency(r, s, v)
		leaf, err3 := v.Leaf(r)
		fromRoot, err4 := seal.Root(r, v)
		root, err5 := seal.Root(s, v)
		entry, err6 := v.Entry(r)
		if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
			t.Fatal(err)
		}
		return &pb.ProveInclusionResponse{Entry: ledger.AppendEntry(nil, entry), Leaf: leaf[:], Proof: proofMessage(included), Size: size, Root: root[:]},
			&pb.ProveConsistencyResponse{Proof: proofMessage(consistent), FromRoot: fromRoot[:], To: size, ToRoot: root[:]}
	}
	hasher := rfc6962.DefaultHasher
	verify := func(rev, size uint64, from func(t *testing.T, rev, size uint64) (*pb.ProveInclusionResponse, *pb.ProveConsistencyResponse)) {
		t.Helper()
		i, c := from(t, rev, size)
		if i.Size != size || c.To != size || string(i.Root) != string(c.ToRoot) {
			t.Fatalf("proofs of %d in %d are of trees of %d and %d, with roots %x and %x", rev, size, i.Size, c.To, i.Root, c.ToRoot)
		}
		entry, err := ledger.DecodeEntry(i.Entry)
		if err != nil || entry.Revision != ledger.Revision(rev) || entry.Store != id || string(hasher.HashLeaf(i.Entry)) != string(i.Leaf) {
			t.Fatalf("the leaf of %d is %x, of the entry %+v, %v", rev, i.Leaf, entry, err)
		}
		if err := proof.VerifyInclusion(hasher, rev-1, size, i.Leaf, i.Proof, i.Root); err != nil {
			t.Errorf("inclusion of %d in %d: %v", rev, size, err)
		}
		if err := proof.VerifyConsistency(hasher, rev, size, c.Proof, c.FromRoot, c.ToRoot); err != nil {
			t.Errorf("%d to %d: %v", rev, size, err)
		}
	}
	for size := uint64(1); size <= all; size++ {
		for rev := uint64(1); rev <= size; rev++ {
			verify(rev, size, made)
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		size := 1 + random.Uint64N(entries)
		verify(1+random.Uint64N(size), size, made)
		size = 1 + random.Uint64N(entries)
		verify(1+random.Uint64N(size), size, asked)
	}
	for _, size := range []uint64{1, 2, 64, 512, 513, entries} {
		verify(1, size, asked)
		verify(size, size, asked)
	}
	if i, err := n.ProveInclusion(t.Context(), &pb.ProveInclusionRequest{Store: store, Revision: 7}); err != nil || i.Size != entries {
		t.Errorf("without a size, %v, %v", i.GetSize(), err)
	}
	if c, err := n.ProveConsistency(t.Context(), &pb.ProveConsistencyRequest{Store: store, From: 7}); err != nil || c.To != entries {
		t.Errorf("without a size, %v, %v", c.GetTo(), err)
	}
}

func TestCheckpoint(t *testing.T) {
	file := signingKey(t)
	with, free := signing(t, file)
	n := newNode(t, with)
	store := n.store(t, testModel)
	key, err := audit.ReadPublicKey(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := func(store string) (seal.Checkpoint, string) {
		t.Helper()
		answer, err := n.Checkpoint(t.Context(), &pb.CheckpointRequest{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		id, _ := ledger.ParseID(store)
		c, err := key.Open(id, []byte(answer.Note))
		if err != nil || uint64(c.Size) != answer.Size || string(c.Root[:]) != string(answer.Root) || answer.Key != key.String() {
			t.Fatalf("the checkpoint is %v, %v", answer, err)
		}
		v, err := note.NewVerifier(answer.StoreKey)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open([]byte(answer.Note), note.VerifierList(v)); err != nil {
			t.Fatalf("another tool opens the note: %v", err)
		}
		return c, answer.Note
	}
	old, oldNote := checkpoint(store)
	if _, again := checkpoint(store); again != oldNote {
		t.Errorf("asked again, the note is\n%s\nnot\n%s", again, oldNote)
	}
	n.fill(t, store, 20)
	c, _ := checkpoint(store)
	if c.Size != 20 || old.Size != 2 {
		t.Errorf("the checkpoints are of %d and %d, want 2 and 20", old.Size, c.Size)
	}
	answer, err := n.ProveConsistency(t.Context(), &pb.ProveConsistencyRequest{Store: store, From: uint64(old.Size), To: uint64(c.Size)})
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(old.Size), uint64(c.Size), answer.Proof, old.Root[:], c.Root[:]); err != nil {
		t.Errorf("from the old checkpoint to the new: %v", err)
	}
	if _, err := n.DeleteStore(t.Context(), &pb.DeleteStoreRequest{Store: store}); err != nil {
		t.Fatal(err)
	}
	if c, _ := checkpoint(store); c.Size != 21 {
		t.Errorf("of the deleted store, the checkpoint is of %d, want 21", c.Size)
	}
	if _, err := n.ProveInclusion(t.Context(), &pb.ProveInclusionRequest{Store: store, Revision: 21}); err != nil {
		t.Errorf("of the deleted store: %v", err)
	}
	if _, err := n.ProveConsistency(t.Context(), &pb.ProveConsistencyRequest{Store: store, From: 21}); err != nil {
		t.Errorf("of the deleted store: %v", err)
	}
	checkpoint("system")

	// Another log, whose system store is another tree.
	free()
	with, _ = signing(t, file)
	other := newNode(t, with)
	other.store(t, "")
	_, err = other.Checkpoint(t.Context(), &pb.CheckpointRequest{Store: "system"})
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "has signed store system at revision 2") {
		t.Errorf("of a tree that is smaller than what was signed: %v", err)
	}
	other.store(t, "")
	for range 2 {
		_, err = other.Checkpoint(t.Context(), &pb.CheckpointRequest{Store: "system"})
		if connect.CodeOf(err) != connect.CodeDataLoss || !strings.Contains(err.Error(), "not the past of this tree") {
			t.Errorf("of another tree than was signed: %v", err)
		}
	}
	if text := other.metrics(t); !strings.Contains(text, `grantlog_checkpoints_total{result="refused"} 2`) || !strings.Contains(text, `grantlog_checkpoints_total{result="error"} 1`) {
		t.Error("the metrics do not count the checkpoints that were refused")
	}
	if text := n.metrics(t); !strings.Contains(text, `grantlog_checkpoints_total{result="signed"} 5`) {
		t.Error("the metrics do not count the checkpoints that were signed")
	}

	other.log.Rewind(1)
	waitUntil(t, func() bool { return other.projector.Quarantine() != nil })
	_, err = other.Checkpoint(t.Context(), &pb.CheckpointRequest{Store: "system"})
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "rewound") {
		t.Errorf("in quarantine: %v", err)
	}
}

func (n *node) metrics(t *testing.T) string {
	t.Helper()
	resp, err := http.Get("http://" + n.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestProofInput gives the handlers of proofs what they refuse.
func TestProofInput(t *testing.T) {
	with, _ := signing(t, signingKey(t))
	n := newNode(t, with)
	store := n.store(t, testModel) // of 2 entries
	none := ledger.NewID().String()
	inclusion := func(store string, rev, size uint64) error {
		_, err := n.ProveInclusion(context10(t), &pb.ProveInclusionRequest{Store: store, Revision: rev, Size: size})
		return err
	}
	consistency := func(store string, from, to uint64) error {
		_, err := n.ProveConsistency(context10(t), &pb.ProveConsistencyRequest{Store: store, From: from, To: to})
		return err
	}
	checkpoint := func(store string) error {
		_, err := n.Checkpoint(context10(t), &pb.CheckpointRequest{Store: store})
		return err
	}
	const (
		malformed = pb.Rejection_MALFORMED
		notFound  = pb.Rejection_NOT_FOUND
		invalid   = pb.Rejection_INVALID
	)
	for _, tt := range []struct {
		name        string
		err         error
		why         pb.Rejection_Code
		field, rule string
	}{
		{"inclusion: no store", inclusion("", 1, 0), malformed, "store", "must not be empty"},
		{"inclusion: no ULID", inclusion("acme", 1, 0), malformed, "store", "ULID"},
		{"inclusion: unknown store", inclusion(none, 1, 0), notFound, "store", "not found"},
		{"inclusion: unknown store, with a size", inclusion(none, 1, 1), notFound, "store", "not found"},
		{"inclusion: revision 0", inclusion(store, 0, 0), malformed, "revision", "1 to the size of the tree, 2"},
		{"inclusion: beyond the size", inclusion(store, 2, 1), malformed, "revision", "1 to the size of the tree, 1"},
		{"inclusion: beyond what there is", inclusion(store, 3, 0), malformed, "revision", "1 to the size of the tree, 2"},
		{"inclusion: a size beyond what there is", inclusion(store, 1, 3), invalid, "size", "in the future"},
		{"inclusion: a size beyond all", inclusion(store, 1, 1<<64-1), invalid, "size", "in the future"},
		{"inclusion: a revision beyond all", inclusion(store, 1<<64-1, 2), malformed, "revision", "1 to the size of the tree, 2"},
		{"consistency: no store", consistency("", 1, 0), malformed, "store", "must not be empty"},
		{"consistency: no ULID", consistency("acme", 1, 0), malformed, "store", "ULID"},
		{"consistency: unknown store", consistency(none, 1, 0), notFound, "store", "not found"},
		{"consistency: from 0", consistency(store, 0, 0), malformed, "from", "1 to the size of the greater tree, 2"},
		{"consistency: from beyond to", consistency(store, 2, 1), malformed, "from", "1 to the size of the greater tree, 1"},
		{"consistency: from beyond what there is", consistency(store, 3, 0), malformed, "from", "1 to the size of the greater tree, 2"},
		{"consistency: to beyond what there is", consistency(store, 1, 3), invalid, "to", "in the future"},
		{"checkpoint: no store", checkpoint(""), malformed, "store", "must not be empty"},
		{"checkpoint: no ULID", checkpoint("acme"), malformed, "store", "ULID"},
		{"checkpoint: unknown store", checkpoint(none), notFound, "store", "not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code := connect.CodeInvalidArgument
			if tt.why == notFound {
				code = connect.CodeNotFound
			}
			wantRejection(t, tt.err, code, tt.why, tt.field, tt.rule)
		})
	}

	unsigned := newNode(t)
	store = unsigned.store(t, "")
	_, err := unsigned.Checkpoint(context10(t), &pb.CheckpointRequest{Store: store})
	wantRejection(t, err, connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "", "without a signing key")
	if _, err := unsigned.ProveInclusion(context10(t), &pb.ProveInclusionRequest{Store: store, Revision: 1}); err != nil {
		t.Errorf("a server without a key proves nothing: %v", err)
	}
}
