package serve

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
)

// Sizes of one answer of a stream: it holds entries until it has so many, or their
// commands have so many bytes.
const (
	streamEntries = 100
	streamBytes   = 256 << 10
)

// errEnding ends the streams that follow when the server does.
var errEnding = fmt.Errorf("%w: the server ends; go on elsewhere with the resume token", ledger.ErrUnavailable)

// Replay streams the entries of a store in order.
func (s *Server) Replay(ctx context.Context, req *pb.ReplayRequest, stream *connect.ServerStream[pb.ReplayResponse]) error {
	if err := s.replay(ctx, req, stream.Send); err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

func (s *Server) replay(ctx context.Context, req *pb.ReplayRequest, send func(*pb.ReplayResponse) error) error {
	store, err := readAnyStore("store", req.Store)
	if err != nil {
		return err
	}
	next, err := s.replayStart(ctx, store, req)
	if err != nil {
		return err
	}
	said := false // that the stream has caught up
	for {
		// The view is closed before the entries are sent: a caller may take its time.
		entries, resume, behind, err := s.readEntries(ctx, store, next)
		if err != nil {
			return err
		}
		answer := &pb.ReplayResponse{ResumeToken: resume, CaughtUp: !behind && !said}
		for _, e := range entries {
			answer.Entries = append(answer.Entries, entryMessage(e, req.Raw))
		}
		next += ledger.Revision(len(entries))
		said = said || answer.CaughtUp
		if len(entries) > 0 || answer.CaughtUp {
			if err := send(answer); err != nil {
				return err
			}
		}
		if behind {
			continue
		}
		if !req.Follow {
			return nil
		}
		if err := s.awaitEntry(ctx, store, next); err != nil {
			return err
		}
	}
}

// replayStart returns the first revision to send.
func (s *Server) replayStart(ctx context.Context, store ledger.ID, req *pb.ReplayRequest) (ledger.Revision, error) {
	switch k := req.Start.(type) {
	case *pb.ReplayRequest_From:
		if k.From == 0 {
			return 0, malformed("from", "must be at least 1")
		}
		return ledger.Revision(k.From), nil
	case *pb.ReplayRequest_ResumeToken:
		t, err := ledger.ParseToken(k.ResumeToken)
		if err == nil {
			err = s.reached(ctx, store, t)
		}
		if err != nil {
			return 0, &fieldError{"resume_token", err}
		}
		return t.Revision + 1, nil
	}
	return 1, nil
}

// reached waits until the token's revision is applied, and checks that it is the one
// that the token names.
func (s *Server) reached(ctx context.Context, store ledger.ID, t ledger.Token) error {
	wait, cancel := s.patience(ctx)
	defer cancel()
	v, err := s.cfg.Projector.View(wait, store, projector.Freshness{Kind: projector.AtLeast, Token: t})
	if err == nil {
		v.Close()
	}
	return err
}

// readEntries reads the entries of one answer from revision next on, the token to go
// on after them, and whether there are more.
func (s *Server) readEntries(ctx context.Context, store ledger.ID, next ledger.Revision) (entries []*ledger.Entry, resume string, more bool, err error) {
	v, err := s.cfg.Projector.View(ctx, store, projector.Freshness{Kind: projector.Any})
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, "", false, &fieldError{"store", err}
	}
	if err != nil {
		return nil, "", false, err
	}
	defer v.Close()
	t, err := v.Token()
	if err != nil {
		return nil, "", false, err
	}
	if next <= v.Revision() {
		size := 0
		for e, err := range v.Entries(next) {
			if err != nil {
				return nil, "", false, err
			}
			entries = append(entries, e)
			if size += len(e.Raw); len(entries) == streamEntries || size >= streamBytes {
				break
			}
		}
		t.Revision = entries[len(entries)-1].Revision
		leaf, err := v.Leaf(t.Revision)
		if err != nil {
			return nil, "", false, err
		}
		t.Leaf = [8]byte(leaf[:8])
	}
	return entries, t.String(), t.Revision < v.Revision(), nil
}

// awaitEntry returns once the store has the revision, or ctx or the server ends, or
// the replica is quarantined.
func (s *Server) awaitEntry(ctx context.Context, store ledger.ID, rev ledger.Revision) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.serving, cancel)()
	err := s.cfg.Projector.Await(wait, store, rev)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil && s.serving.Err() != nil:
		return errEnding
	}
	return err
}
