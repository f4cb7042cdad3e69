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
	v, err := s.treeView(ctx, req.Store, "store", 0)
	if err != nil {
		return err
	}
	h := audit.Header{Store: v.Store()}
	v.Close()
	if err := s.exportRange(ctx, req, &h); err != nil {
		return err
	}
	// Signed after the range is known to be applied here, so that it covers it.
	note, c, err := s.checkpoint(ctx, h.Store)
	if err != nil {
		return err
	}
	if h.Last == 0 {
		h.Last = c.Size
	}
	if h.First > h.Last {
		if req.FromTime != nil {
			return malformed("from_time", "no entry is between it and the last one, revision %d", h.Last)
		}
		return malformed("from", "must be at most the last revision, %d", h.Last)
	}
	t, err := s.trailer(ctx, h, c.Size, note)
	if err != nil {
		return err
	}
	view := func(ctx context.Context) (*index.View, error) {
		return s.cfg.Projector.View(ctx, h.Store, projector.Freshness{Kind: projector.Any})
	}
	return audit.Export(ctx, h, t, view, func(chunk []byte, done uint64) error {
		return send(&pb.ExportResponse{Chunk: chunk, Done: done, Total: uint64(h.Last-h.First) + 1})
	})
}

// exportRange reads the first and the last revision asked for; the last is 0 where the
// newest is wanted. It waits if what is asked for is to be applied here yet.
func (s *Server) exportRange(ctx context.Context, req *pb.ExportRequest, h *audit.Header) error {
	h.First, h.Last = ledger.Revision(max(req.From, 1)), ledger.Revision(req.To)
	fromTime, err := readTime("from_time", req.FromTime)
	if err != nil {
		return err
	}
	toTime, err := readTime("to_time", req.ToTime)
	if err != nil {
		return err
	}
	switch {
	case req.From > 0 && fromTime > 0:
		return malformed("from_time", "must be absent beside from")
	case req.To > 0 && toTime > 0:
		return malformed("to_time", "must be absent beside to")
	case req.To > 0 && req.From > req.To:
		return malformed("from", "must be at most to, %d", req.To)
	case toTime > 0 && fromTime > toTime:
		return malformed("from_time", "must not be after to_time")
	}
	wait, cancel := s.patience(ctx)
	defer cancel()
	if fromTime > 0 {
		if h.First, err = s.firstSince(wait, h.Store, "from_time", fromTime); err != nil {
			return err
		}
	}
	if toTime > 0 {
		h.Last, err = s.lastUntil(wait, h.Store, "to_time", toTime)
		return err
	}
	if req.To > 0 {
		v, err := s.treeView(ctx, req.Store, "to", req.To)
		if err != nil {
			return err
		}
		v.Close()
	}
	return nil
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
