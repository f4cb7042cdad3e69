package serve

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"google.golang.org/protobuf/proto"
)

// History streams what became of tuples.
func (s *Server) History(ctx context.Context, req *pb.HistoryRequest, stream *connect.ServerStream[pb.HistoryResponse]) error {
	if err := s.history(ctx, req, stream.Send); err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

func (s *Server) history(ctx context.Context, req *pb.HistoryRequest, send func(*pb.HistoryResponse) error) error {
	q, err := readHistoryQuestion(req)
	if err != nil {
		return err
	}
	v, token, err := s.openHistory(ctx, req, q)
	if err != nil {
		return err
	}
	told, err := query.NewHistory(q, token.Time, token.After)
	if err != nil {
		v.Close()
		return malformed("resume_token", "%s", err)
	}
	for first := true; ; first = false {
		// The view is closed before the items are sent: a caller may take its time.
		answer, end, err := nextHistory(ctx, v, told, &token)
		v.Close()
		if err != nil {
			return err
		}
		if first || len(answer.Items) > 0 {
			if err := send(answer); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
		if v, err = s.cfg.Projector.View(ctx, token.View.Store, projector.Freshness{Kind: projector.AtToken, Token: token.View}); err != nil {
			return s.viewError(token.View.Store, "resume_token", true, err)
		}
	}
}

func readHistoryQuestion(req *pb.HistoryRequest) (q query.HistoryQuestion, err error) {
	given := 0
	if req.Tuple != nil {
		given++
		if q.Tuple, err = readTuple("tuple", req.Tuple); err != nil {
			return q, err
		}
	}
	if req.Object != "" {
		given++
		if q.Object, err = readObject("object", req.Object); err != nil {
			return q, err
		}
	}
	if req.Subject != "" {
		given++
		if q.Subject, err = readSubject("subject", req.Subject); err != nil {
			return q, err
		}
	}
	if given != 1 {
		return q, malformed("", "exactly one of tuple, object and subject must be given, here are %d", given)
	}
	return q, nil
}

// openHistory returns the first view of a history, and the token of its beginning: those
// that the request asks for, or those of the token to go on with.
func (s *Server) openHistory(ctx context.Context, req *pb.HistoryRequest, q query.HistoryQuestion) (v *index.View, token query.PageToken, err error) {
	store, err := readStore("store", req.Store)
	if err != nil {
		return nil, token, err
	}
	defer func() {
		if err != nil && v != nil {
			v.Close()
			v = nil
		}
	}()
	if req.ResumeToken != "" {
		const field = "resume_token"
		if token, err = query.ParsePageToken(req.ResumeToken); err != nil {
			return nil, token, malformed(field, "must be the resume_token of an answer")
		}
		if token.Question != q.Key() {
			return nil, token, ledger.Reject(ledger.CodeInvalid, field, "is of another history; tuple, object and subject must be as they were")
		}
		if now := s.cfg.Now().Add(clockSkew).UnixNano(); token.Time > now {
			return nil, token, ledger.Reject(ledger.CodeInvalid, field, "is of a moment in the future")
		}
		wait, cancel := s.patience(ctx)
		defer cancel()
		v, err = s.cfg.Projector.View(wait, store, projector.Freshness{Kind: projector.AtToken, Token: token.View})
		if err != nil {
			return nil, token, s.viewError(store, field, true, err)
		}
		return v, token, q.Known(v)
	}
	if v, err = s.view(ctx, store, req.Freshness); err != nil {
		return nil, token, err
	}
	token = query.PageToken{Question: q.Key()}
	if token.Time, err = s.clockOf(v, req.Freshness); err != nil {
		return v, token, err
	}
	if token.View, err = v.Token(); err != nil {
		return v, token, err
	}
	err = q.Known(v)
	token.Model = v.NewestModel() // there is one, or nothing is known
	return v, token, err
}

// nextHistory returns the next items, with the token to go on after them, and whether
// these are the last.
func nextHistory(ctx context.Context, v *index.View, told *query.History, token *query.PageToken) (answer *pb.HistoryResponse, end bool, err error) {
	v.Stop = ctx.Err
	answer = &pb.HistoryResponse{Revision: uint64(token.View.Revision), EvaluatedAt: timeMessage(token.Time)}
	began, size := time.Now(), 0
	for len(answer.Items) < streamEntries && size < streamBytes && time.Since(began) < progressEvery {
		items, err := told.Next(v, 1)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, false, err
		}
		if end = len(items) == 0; end {
			break
		}
		m, err := historyMessage(v, &items[0], answer.Items)
		if err != nil {
			return nil, false, err
		}
		answer.Items = append(answer.Items, m)
		size += proto.Size(m)
		token.After = items[0].Place
	}
	answer.ResumeToken = token.String()
	return answer, end, nil
}

var historyKinds = [...]pb.HistoryItem_Kind{
	query.HistoryGranted: pb.HistoryItem_GRANTED,
	query.HistoryChanged: pb.HistoryItem_CHANGED,
	query.HistoryRevoked: pb.HistoryItem_REVOKED,
	query.HistoryExpired: pb.HistoryItem_EXPIRED,
}

// historyMessage returns an item; those told before it may hold its command already.
func historyMessage(v *index.View, item *query.HistoryItem, before []*pb.HistoryItem) (*pb.HistoryItem, error) {
	m := &pb.HistoryItem{Kind: historyKinds[item.Kind], Time: timeMessage(item.Time), Grant: grantedMessage(item.Granted.Tuple, &item.Granted.Grant)}
	m.Grant.Revision = uint64(item.Granted.Revision)
	if n := len(before); n > 0 && before[n-1].Command.Revision == uint64(item.Revision) {
		m.Command = before[n-1].Command
		return m, nil
	}
	p, err := query.ProvenanceOf(v, item.Revision)
	m.Command = provenanceMessage(&p)
	return m, err
}
