package serve

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
)

// Export streams a bundle of a store's entries, as query/audit/FORMAT.md describes it.
func (s *Server) Export(ctx context.Context, req *pb.ExportRequest, stream *connect.ServerStream[pb.ExportResponse]) error {
	if err := s.export(ctx, req, stream.Send); err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

func (s *Server) export(ctx context.Context, req *pb.ExportRequest, send func(*pb.ExportResponse) error) error {
	if req.To > 0 && req.From > req.To {
		return malformed("from", "must be at most to, %d", req.To)
	}
	// Waits, if to is to be applied here yet, and names the field if it never will.
	v, err := s.treeView(ctx, req.Store, "to", req.To)
	if err != nil {
		return err
	}
	store := v.Store()
	v.Close()
	note, c, err := s.checkpoint(ctx, store)
	if err != nil {
		return err
	}
	h := audit.Header{Store: store, First: ledger.Revision(max(req.From, 1)), Last: ledger.Revision(req.To)}
	if h.Last == 0 {
		h.Last = c.Size
	}
	if h.First > h.Last {
		return malformed("from", "must be at most the newest revision, %d", h.Last)
	}
	t, err := s.trailer(ctx, h, c.Size, note)
	if err != nil {
		return err
	}
	view := func(ctx context.Context) (*index.View, error) {
		return s.cfg.Projector.View(ctx, store, projector.Freshness{Kind: projector.Any})
	}
	return audit.Export(ctx, h, t, view, func(chunk []byte, done uint64) error {
		return send(&pb.ExportResponse{Chunk: chunk, Done: done, Total: uint64(h.Last-h.First) + 1})
	})
}

// trailer returns what vouches for the entries up to the last, from a view of the tree
// that was signed, which is applied here.
func (s *Server) trailer(ctx context.Context, h audit.Header, size ledger.Revision, note []byte) (audit.Trailer, error) {
	v, err := s.cfg.Projector.View(ctx, h.Store, projector.Freshness{Kind: projector.AtRevision, Revision: size})
	if err != nil {
		return audit.Trailer{}, err
	}
	defer v.Close()
	t, err := audit.NewTrailer(v, h.Last, note, s.cfg.Signer.Key())
	if err != nil {
		return audit.Trailer{}, fmt.Errorf("vouch for revision %d of store %s: %w", h.Last, h.Store, err)
	}
	return t, nil
}
