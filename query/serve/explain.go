package serve

import (
	"context"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
)

// Explain says whether a subject holds a relation on an object, and why.
func (s *Server) Explain(ctx context.Context, req *pb.ExplainRequest) (*pb.ExplainResponse, error) {
	answer, err := s.explain(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) explain(ctx context.Context, req *pb.ExplainRequest) (*pb.ExplainResponse, error) {
	q, err := readQuestion(req.Tuple, req.Contextual, req.Context)
	if err != nil {
		return nil, err
	}
	v, asking, now, err := s.ask(ctx, req.Store, req.Model, req.Freshness)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	x, err := asking.Explain(ctx, q)
	if err != nil {
		return nil, err
	}
	token, err := v.Token()
	if err != nil {
		return nil, err
	}
	answer := &pb.ExplainResponse{
		Allowed: x.Verdict == model.Holds,
		Token:   token.String(), Revision: uint64(v.Revision()), EvaluatedAt: timeMessage(now), Model: asking.Model().String(),
	}
	if answer.Error, err = ownError(x.Err); err != nil {
		return nil, err
	}
	if answer.Tree, err = explanationMessage(x.Explanation, x.Behind); err != nil {
		return nil, err
	}
	if x.Err != nil {
		return answer, nil
	}
	turn, err := asking.Turn(ctx, q)
	if err != nil {
		return nil, err
	}
	answer.Turn = turnMessage(&turn)
	return answer, nil
}

func explanationMessage(x *model.Explanation, behind map[tuple.Tuple]query.Behind) (*pb.Explanation, error) {
	m := &pb.Explanation{
		Object: x.Object.String(), Relation: x.Relation, Operation: treeOperations[x.Op], Rule: x.Rule,
		Verdict: pb.Explanation_Verdict(x.Verdict), Elsewhere: x.Elsewhere, Itself: x.Itself, Untold: uint32(x.Untold),
	}
	var err error
	if m.Error, err = ownError(x.Err); err != nil {
		return nil, err
	}
	for i := range x.Grants {
		l := &x.Grants[i]
		g := explainedGrantMessage(l, behind[l.Tuple])
		if g.Error, err = ownError(l.Err); err != nil {
			return nil, err
		}
		if l.Leads != nil {
			if g.Leads, err = explanationMessage(l.Leads, behind); err != nil {
				return nil, err
			}
		}
		m.Grants = append(m.Grants, g)
	}
	for _, b := range x.Branches {
		branch, err := explanationMessage(b, behind)
		if err != nil {
			return nil, err
		}
		m.Branches = append(m.Branches, branch)
	}
	return m, nil
}

func explainedGrantMessage(l *model.Look, b query.Behind) *pb.ExplainedGrant {
	m := &pb.ExplainedGrant{
		Grant: grantedMessage(l.Tuple, &b.Grant), Contextual: b.Contextual,
		Made: provenanceMessage(b.Made), Ended: provenanceMessage(b.Ended),
	}
	m.Grant.Revision = m.Made.GetRevision()
	switch l.State {
	case model.Absent:
		m.State = pb.ExplainedGrant_NEVER
		if b.Made != nil {
			m.State = pb.ExplainedGrant_REVOKED
		}
	case model.Expired:
		m.State, m.Grant.State = pb.ExplainedGrant_EXPIRED, pb.GrantedTuple_EXPIRED
	case model.NotYet:
		m.State, m.Grant.State = pb.ExplainedGrant_NOT_YET, pb.GrantedTuple_NOT_YET
	case model.NotAllowed:
		m.State, m.Grant.State = pb.ExplainedGrant_NOT_ALLOWED, pb.GrantedTuple_NOT_ALLOWED
	case model.ConditionFalse:
		m.State, m.Grant.State = pb.ExplainedGrant_CONDITION_FALSE, pb.GrantedTuple_ACTIVE
	case model.ConditionFailed:
		m.State, m.Grant.State = pb.ExplainedGrant_CONDITION_ERROR, pb.GrantedTuple_ACTIVE
	default:
		m.State, m.Grant.State = pb.ExplainedGrant_COUNTS, pb.GrantedTuple_ACTIVE
	}
	return m
}

func turnMessage(t *query.Turn) *pb.Turn {
	m := &pb.Turn{
		Cause: pb.Turn_Cause(t.Cause), Time: timeMessage(t.Time),
		UndecidedBefore: t.Before == model.Undecided, DependsOnTime: t.Timed, Revoked: t.Revoked,
	}
	if t.Command.Revision > 0 {
		m.Command = provenanceMessage(&t.Command)
	}
	if t.Tuple != (tuple.Tuple{}) {
		m.Tuple = tupleMessage(t.Tuple)
	}
	if t.Held != nil {
		m.LastHeld = turnMessage(t.Held)
	}
	return m
}

// provenanceMessage returns the provenance; absent for nil.
func provenanceMessage(p *query.Provenance) *pb.Provenance {
	if p == nil {
		return nil
	}
	return &pb.Provenance{
		Revision: uint64(p.Revision), Time: timeMessage(p.Time), Actor: p.Actor, Method: pb.Entry_Method(p.Method),
		Reason: p.Reason, Ticket: p.Ticket, Channel: p.Channel, Command: p.Command.String(),
	}
}
