package openfga

import (
	"context"
	"time"

	"github.com/grantlog/grantlog/query"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// maxBatch is the most checks of one BatchCheck.
const maxBatch = 50

// Check says whether a user holds a relation on an object. Its trace is not filled in:
// the native API explains.
func (s *Service) Check(ctx context.Context, req *openfgav1.CheckRequest) (*openfgav1.CheckResponse, error) {
	began := time.Now()
	allowed, err := s.check(ctx, req)
	s.cfg.Checked(allowed, err, time.Since(began))
	if err != nil {
		return nil, err
	}
	return &openfgav1.CheckResponse{Allowed: allowed}, nil
}

func (s *Service) check(ctx context.Context, req *openfgav1.CheckRequest) (bool, error) {
	q, err := asCheck.readQuestion(req.GetTupleKey(), req.GetContextualTuples().GetTupleKeys(), req.GetContext())
	if err != nil {
		return false, err
	}
	a, err := s.ask(ctx, req)
	if err != nil {
		return false, err
	}
	defer a.close()
	answer, err := a.Check(ctx, q)
	return answer.Allowed, asCheck.questionError(err)
}

// BatchCheck answers up to 50 checks at one revision, each by its correlation id. A check
// that has no answer has its error.
func (s *Service) BatchCheck(ctx context.Context, req *openfgav1.BatchCheckRequest) (*openfgav1.BatchCheckResponse, error) {
	checks := req.GetChecks()
	if len(checks) > maxBatch {
		return nil, invalidf("checks: must be at most %d, are %d", maxBatch, len(checks))
	}
	answer := &openfgav1.BatchCheckResponse{Result: make(map[string]*openfgav1.BatchCheckSingleResult, len(checks))}
	// Checks that cannot be read are answered for here; the others are asked together.
	questions, ids := make([]query.Question, 0, len(checks)), make([]string, 0, len(checks))
	for i, check := range checks {
		id := check.GetCorrelationId()
		if _, twice := answer.Result[id]; twice {
			return nil, invalidf("checks[%d].correlation_id: %q stands twice", i, id)
		}
		answer.Result[id] = &openfgav1.BatchCheckSingleResult{}
		q, err := asCheck.readQuestion(check.GetTupleKey(), check.GetContextualTuples().GetTupleKeys(), check.GetContext())
		if err != nil {
			s.cfg.Checked(false, err, 0)
			if err := s.putError(ctx, answer.Result[id], err); err != nil {
				return nil, err
			}
			continue
		}
		questions, ids = append(questions, q), append(ids, id)
	}
	a, err := s.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	defer a.close()
	began := time.Now()
	results, err := a.CheckAll(ctx, questions)
	if err != nil {
		return nil, err
	}
	each := time.Since(began) / time.Duration(max(len(results), 1))
	for i, r := range results {
		s.cfg.Checked(r.Allowed, r.Err, each)
		if r.Err == nil {
			answer.Result[ids[i]].CheckResult = &openfgav1.BatchCheckSingleResult_Allowed{Allowed: r.Allowed}
		} else if err := s.putError(ctx, answer.Result[ids[i]], asCheck.questionError(r.Err)); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// putError makes err the answer to one check of a batch, or returns it if no check is to
// blame for it.
func (s *Service) putError(ctx context.Context, result *openfgav1.BatchCheckSingleResult, err error) error {
	e := s.errorOf(ctx, err)
	own := &openfgav1.CheckError{Message: e.Message}
	switch {
	case e.Code >= int32(openfgav1.ErrorCode_validation_error) && e.Code < int32(openfgav1.UnprocessableContentErrorCode_throttled_timeout_error) && e.Code != int32(openfgav1.ErrorCode_cancelled):
		own.Code = &openfgav1.CheckError_InputError{InputError: openfgav1.ErrorCode(e.Code)}
	case e.Code == int32(openfgav1.InternalErrorCode_deadline_exceeded) && ctx.Err() == nil:
		own.Code = &openfgav1.CheckError_InternalError{InternalError: openfgav1.InternalErrorCode(e.Code)}
	default:
		return e
	}
	result.CheckResult = &openfgav1.BatchCheckSingleResult_Error{Error: own}
	return nil
}
