package openfga

import (
	"context"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// Check is not served yet.
func (s *Service) Check(ctx context.Context, req *openfgav1.CheckRequest) (*openfgav1.CheckResponse, error) {
	return nil, errNotServed
}

// BatchCheck is not served yet.
func (s *Service) BatchCheck(ctx context.Context, req *openfgav1.BatchCheckRequest) (*openfgav1.BatchCheckResponse, error) {
	return nil, errNotServed
}
