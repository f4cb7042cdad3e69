package serve

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"google.golang.org/protobuf/types/known/structpb"
)

// Check says whether a subject holds a relation on an object.
func (s *Server) Check(ctx context.Context, req *pb.CheckRequest) (*pb.CheckResponse, error) {
	began := time.Now()
	answer, err := s.check(ctx, req)
	s.cfg.Metrics.check(answer.GetAllowed(), err, time.Since(began))
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) check(ctx context.Context, req *pb.CheckRequest) (*pb.CheckResponse, error) {
	q, err := readQuestion(req.Tuple, req.Contextual, req.Context)
	if err != nil {
		return nil, err
	}
	v, asking, now, err := s.ask(ctx, req.Store, req.Model, req.Freshness)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	a, err := asking.Check(ctx, q)
	if err != nil {
		return nil, err
	}
	token, err := v.Token()
	if err != nil {
		return nil, err
	}
	return &pb.CheckResponse{
		Allowed: a.Allowed, Token: token.String(), Revision: uint64(v.Revision()),
		EvaluatedAt: timeMessage(now), Model: asking.Model().String(),
	}, nil
}

// ask opens the view that the questions of one request share; the caller closes it.
func (s *Server) ask(ctx context.Context, store, modelID string, f *pb.Freshness) (*index.View, *query.Asking, int64, error) {
	id, err := readStore("store", store)
	if err != nil {
		return nil, nil, 0, err
	}
	m, err := readModelID("model", modelID)
	if err != nil {
		return nil, nil, 0, err
	}
	v, err := s.liveView(ctx, id, f)
	if err != nil {
		return nil, nil, 0, err
	}
	now, err := s.clockOf(v, f)
	if err != nil {
		v.Close()
		return nil, nil, 0, err
	}
	asking, err := s.cfg.Engine.Ask(v, m, now)
	if err != nil {
		v.Close()
		return nil, nil, 0, &fieldError{"model", err}
	}
	return v, asking, now, nil
}

// clockOf returns the moment that expiry and conditions are held against, for a view as
// fresh as f asks: this server's clock, a time that was asked for, or the log time of a
// revision.
func (s *Server) clockOf(v *index.View, f *pb.Freshness) (int64, error) {
	switch k := f.GetFreshness().(type) {
	case *pb.Freshness_AtTime:
		return readTime(momentField(f), k.AtTime)
	case *pb.Freshness_AtRevision, *pb.Freshness_AtToken:
		return v.Time()
	}
	return s.cfg.Now().UnixNano(), nil
}

// readQuestion reads a question.
func readQuestion(t *pb.Tuple, contextual []*pb.ContextualTuple, values *structpb.Struct) (q query.Question, err error) {
	if q.Tuple, err = readTuple("tuple", t); err != nil {
		return q, err
	}
	q.Given, err = readGiven(contextual, values)
	return q, err
}

// readGiven reads what a question adds to what is granted.
func readGiven(contextual []*pb.ContextualTuple, values *structpb.Struct) (g query.Given, err error) {
	if n := len(contextual); n > query.MaxContextual {
		return g, malformed("contextual", "must be at most %d, are %d", query.MaxContextual, n)
	}
	for i, c := range contextual {
		field := fmt.Sprintf("contextual[%d]", i)
		t, err := readTuple(field+".tuple", c.GetTuple())
		if err != nil {
			return g, err
		}
		own, err := readContext(field+".context", c.GetContext())
		if err != nil {
			return g, err
		}
		g.Contextual = append(g.Contextual, query.Contextual{Tuple: t, Condition: c.GetCondition(), Context: own})
	}
	g.Context, err = readContext("context", values)
	return g, err
}

// BatchCheck asks many questions of one store at one revision.
func (s *Server) BatchCheck(ctx context.Context, req *pb.BatchCheckRequest) (*pb.BatchCheckResponse, error) {
	answer, err := s.batchCheck(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) batchCheck(ctx context.Context, req *pb.BatchCheckRequest) (*pb.BatchCheckResponse, error) {
	if n := len(req.Items); n == 0 || n > query.MaxBatch {
		return nil, malformed("items", "must be 1 to %d, are %d", query.MaxBatch, n)
	}
	v, asking, now, err := s.ask(ctx, req.Store, req.Model, req.Freshness)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	token, err := v.Token()
	if err != nil {
		return nil, err
	}
	answer := &pb.BatchCheckResponse{
		Results: make([]*pb.BatchCheckResponse_Result, len(req.Items)),
		Token:   token.String(), Revision: uint64(v.Revision()),
		EvaluatedAt: timeMessage(now), Model: asking.Model().String(),
	}
	// Items that cannot be read are answered for here; the others are asked together.
	results := make([]pb.BatchCheckResponse_Result, len(req.Items))
	questions, places := make([]query.Question, 0, len(req.Items)), make([]int, 0, len(req.Items))
	for i, item := range req.Items {
		answer.Results[i] = &results[i]
		q, err := readQuestion(item.GetTuple(), item.GetContextual(), item.GetContext())
		if err != nil {
			results[i].Error = questionError(faultOf(err))
			s.cfg.Metrics.check(false, err, 0)
			continue
		}
		questions, places = append(questions, q), append(places, i)
	}
	began := time.Now()
	all, err := asking.CheckAll(ctx, questions)
	if err != nil {
		return nil, err
	}
	each := time.Since(began) / time.Duration(max(len(all), 1))
	for n, r := range all {
		result := &results[places[n]]
		s.cfg.Metrics.check(r.Allowed, r.Err, each)
		result.Allowed = r.Allowed
		if result.Error, err = ownError(r.Err); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// ownError returns the error of one question among many, or an error that no question is
// to blame for.
func ownError(err error) (*pb.QuestionError, error) {
	if err == nil {
		return nil, nil
	}
	f := faultOf(err)
	switch f.code {
	case connect.CodeInternal, connect.CodeCanceled, connect.CodeDeadlineExceeded, connect.CodeUnavailable:
		return nil, err
	}
	return questionError(f), nil
}

func questionError(f fault) *pb.QuestionError {
	return &pb.QuestionError{Code: f.code.String(), Field: f.field, Message: f.message}
}
