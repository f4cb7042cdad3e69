package openfga

import (
	"context"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// WriteAuthorizationModel is not served yet.
func (s *Service) WriteAuthorizationModel(ctx context.Context, req *openfgav1.WriteAuthorizationModelRequest) (*openfgav1.WriteAuthorizationModelResponse, error) {
	return nil, errNotServed
}

// ReadAuthorizationModel is not served yet.
func (s *Service) ReadAuthorizationModel(ctx context.Context, req *openfgav1.ReadAuthorizationModelRequest) (*openfgav1.ReadAuthorizationModelResponse, error) {
	return nil, errNotServed
}

// ReadAuthorizationModels is not served yet.
func (s *Service) ReadAuthorizationModels(ctx context.Context, req *openfgav1.ReadAuthorizationModelsRequest) (*openfgav1.ReadAuthorizationModelsResponse, error) {
	return nil, errNotServed
}
