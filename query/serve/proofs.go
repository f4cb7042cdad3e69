package serve

import (
	"context"
	"errors"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
)

// Checkpoint returns the signed head of a store's tree, as it is folded here.
func (s *Server) Checkpoint(ctx context.Context, req *pb.CheckpointRequest) (*pb.CheckpointResponse, error) {
	answer, err := s.readCheckpoint(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) readCheckpoint(ctx context.Context, req *pb.CheckpointRequest) (*pb.CheckpointResponse, error) {
	store, err := readAnyStore("store", req.Store)
	if err != nil {
		return nil, err
	}
	note, c, err := s.checkpoint(ctx, store)
	if err != nil {
		return nil, err
	}
	key := s.cfg.Signer.Key()
	return &pb.CheckpointResponse{Note: string(note), Key: key.String(), StoreKey: key.ForStore(store), Size: uint64(c.Size), Root: c.Root[:]}, nil
}

// errUnsigned is the error of a server that was given no key.
var errUnsigned = ledger.Reject(ledger.CodePrecondition, "", "this server signs no checkpoints: it was started without a signing key")

// checkpoint signs the store's tree as it is folded here, and returns the note and what
// it says. A server without a key returns [errUnsigned].
func (s *Server) checkpoint(ctx context.Context, store ledger.ID) ([]byte, seal.Checkpoint, error) {
	if s.cfg.Signer == nil {
		return nil, seal.Checkpoint{}, errUnsigned
	}
	note, c, err := s.cfg.Signer.Checkpoint(ctx, s.cfg.Projector, store)
	s.cfg.Metrics.checkpoint(err)
	if errors.Is(err, audit.ErrOtherPast) || errors.Is(err, audit.ErrSigned) {
		s.cfg.Logger.ErrorContext(ctx, "no checkpoint is signed", "store", store.String(), "error", err)
	}
	if err != nil {
		return nil, seal.Checkpoint{}, s.viewError(store, "", false, err)
	}
	return note, c, nil
}

// treeView returns a view of the store whose revision is the size that a field of a
// request names, or the newest applied here for 0; of a deleted store too.
func (s *Server) treeView(ctx context.Context, storeText, field string, size uint64) (*index.View, error) {
	store, err := readAnyStore("store", storeText)
	if err != nil {
		return nil, err
	}
	fresh := projector.Freshness{Kind: projector.Any}
	if size > 0 {
		fresh = projector.Freshness{Kind: projector.AtRevision, Revision: ledger.Revision(size)}
	}
	wait, cancel := s.patience(ctx)
	defer cancel()
	v, err := s.cfg.Projector.View(wait, store, fresh)
	if err != nil {
		return nil, s.viewError(store, field, size > 0, err)
	}
	return v, nil
}

// ProveInclusion proves that an entry is in the tree of a size.
func (s *Server) ProveInclusion(ctx context.Context, req *pb.ProveInclusionRequest) (*pb.ProveInclusionResponse, error) {
	answer, err := s.proveInclusion(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) proveInclusion(ctx context.Context, req *pb.ProveInclusionRequest) (*pb.ProveInclusionResponse, error) {
	v, err := s.treeView(ctx, req.Store, "size", req.Size)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	size, rev := v.Revision(), ledger.Revision(req.Revision)
	if rev == 0 || rev > size {
		return nil, malformed("revision", "must be 1 to the size of the tree, %d", size)
	}
	entry, err := v.Entry(rev)
	if err != nil {
		return nil, err
	}
	leaf, err := v.Leaf(rev)
	if err != nil {
		return nil, err
	}
	proof, err := seal.ProveInclusion(rev, size, v)
	if err != nil {
		return nil, err
	}
	root, err := v.Root()
	if err != nil {
		return nil, err
	}
	return &pb.ProveInclusionResponse{Entry: ledger.AppendEntry(nil, entry), Leaf: leaf[:], Proof: proofMessage(proof), Size: uint64(size), Root: root[:]}, nil
}

// ProveConsistency proves that the tree of a size is the beginning of a greater one.
func (s *Server) ProveConsistency(ctx context.Context, req *pb.ProveConsistencyRequest) (*pb.ProveConsistencyResponse, error) {
	answer, err := s.proveConsistency(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) proveConsistency(ctx context.Context, req *pb.ProveConsistencyRequest) (*pb.ProveConsistencyResponse, error) {
	v, err := s.treeView(ctx, req.Store, "to", req.To)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	from, to := ledger.Revision(req.From), v.Revision()
	if from == 0 || from > to {
		return nil, malformed("from", "must be 1 to the size of the greater tree, %d", to)
	}
	proof, err := seal.ProveConsistency(from, to, v)
	if err != nil {
		return nil, err
	}
	fromRoot, err := seal.Root(from, v)
	if err != nil {
		return nil, err
	}
	toRoot, err := v.Root()
	if err != nil {
		return nil, err
	}
	return &pb.ProveConsistencyResponse{Proof: proofMessage(proof), FromRoot: fromRoot[:], To: uint64(to), ToRoot: toRoot[:]}, nil
}

func proofMessage(hashes []ledger.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

// EntryMessage returns an entry as Replay sends it, without the command's bytes.
func EntryMessage(e *ledger.Entry) *pb.Entry { return entryMessage(e, false) }
