package openfga

import (
	"context"
	"errors"
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
)

// assertionsFold is the fold version that assertions need.
const assertionsFold = 2

// WriteAssertions replaces the assertions of a model: what those who wrote it expect it to
// answer. They are kept for tools, and no answer depends on them.
func (s *Service) WriteAssertions(ctx context.Context, req *openfgav1.WriteAssertionsRequest) (*openfgav1.WriteAssertionsResponse, error) {
	store, id, err := s.checkAssertions(ctx, req)
	if err != nil {
		return nil, err
	}
	var kept []byte
	if len(req.GetAssertions()) > 0 {
		// Deterministic, so that to write the same again changes nothing.
		kept, err = proto.MarshalOptions{Deterministic: true}.Marshal(&openfgav1.Assertions{Assertions: req.GetAssertions()})
		if err != nil {
			return nil, fmt.Errorf("encode assertions: %w", err)
		}
	}
	if len(kept) > ledger.MaxAssertions {
		return nil, errorf(openfgav1.ErrorCode_exceeded_entity_limit, "assertions: must be at most %d bytes together, are %d", ledger.MaxAssertions, len(kept))
	}
	change := ledger.Change{Kind: ledger.WriteAssertions, Model: ledger.ModelSource{ID: id}, Assertions: kept}
	if err := s.submit(ctx, &ledger.Command{Store: store, Changes: []ledger.Change{change}}); err != nil {
		return nil, err
	}
	return &openfgav1.WriteAssertionsResponse{}, nil
}

// checkAssertions returns the store and the model that the assertions are of, or an error
// if the model could not be asked one of them.
func (s *Service) checkAssertions(ctx context.Context, req *openfgav1.WriteAssertionsRequest) (store, id ledger.ID, err error) {
	fresh := projector.Freshness{Kind: projector.Any}
	if s.cfg.Projector.Fold() < assertionsFold {
		fresh.Kind = projector.Latest // a newer version may be in the log already
	}
	a, err := s.askAssertions(ctx, req, fresh)
	if err != nil {
		return store, id, err
	}
	defer a.close()
	if now := s.cfg.Projector.Fold(); now < assertionsFold {
		return store, id, &Error{Code: int32(openfgav1.InternalErrorCode_failed_precondition), Message: fmt.Sprintf(
			"assertions need fold version %d, and %d is in force; whoever runs the log activates it with \"grantlog activate\"", assertionsFold, now)}
	}
	for i, assertion := range req.GetAssertions() {
		if err := a.validAssertion(ctx, assertion); err != nil {
			return store, id, within(fmt.Sprintf("assertions[%d].", i), err)
		}
	}
	return a.view.Store(), a.Model(), nil
}

// within puts a prefix before the field that an error names.
func within(prefix string, err error) error {
	var own *Error
	if errors.As(err, &own) {
		return &Error{Code: own.Code, Message: prefix + own.Message}
	}
	return err
}

// validAssertion returns an error unless the assertion's question may be asked of the model.
func (a *asked) validAssertion(ctx context.Context, assertion *openfgav1.Assertion) error {
	q, err := asAssertion.readQuestion(assertion.GetTupleKey(), assertion.GetContextualTuples(), assertion.GetContext())
	if err != nil {
		return err
	}
	return asAssertion.questionError(a.Valid(ctx, q))
}

// ReadAssertions returns the assertions that were last written for a model.
func (s *Service) ReadAssertions(ctx context.Context, req *openfgav1.ReadAssertionsRequest) (*openfgav1.ReadAssertionsResponse, error) {
	a, err := s.askAssertions(ctx, req, projector.Freshness{Kind: projector.Any})
	if err != nil {
		return nil, err
	}
	defer a.close()
	kept, _, err := a.view.Assertions(a.Model())
	if err != nil {
		return nil, err
	}
	var all openfgav1.Assertions
	err = proto.Unmarshal(kept, &all)
	for i := 0; err == nil && i < len(all.Assertions); i++ {
		_, err = asAssertion.readQuestion(all.Assertions[i].GetTupleKey(), all.Assertions[i].GetContextualTuples(), all.Assertions[i].GetContext())
	}
	if err != nil {
		// The native API takes any bytes, among them such as no JSON can say.
		return nil, errorf(openfgav1.ErrorCode_authorization_model_assertions_not_found, "authorization_model_id: what is kept as assertions of model %s was not written through this API", a.Model())
	}
	return &openfgav1.ReadAssertionsResponse{AuthorizationModelId: a.Model().String(), Assertions: all.GetAssertions()}, nil
}

// An assertionsRequest names a model of a store.
type assertionsRequest interface {
	GetStoreId() string
	GetAuthorizationModelId() string
}

func (s *Service) askAssertions(ctx context.Context, req assertionsRequest, f projector.Freshness) (*asked, error) {
	v, err := s.view(ctx, req.GetStoreId(), f)
	if err != nil {
		return nil, err
	}
	a, err := s.askUnder(v, req.GetAuthorizationModelId())
	if err != nil {
		v.Close()
		return nil, err
	}
	return a, nil
}
