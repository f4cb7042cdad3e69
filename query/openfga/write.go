package openfga

import (
	"context"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// Write is not served yet.
func (s *Service) Write(ctx context.Context, req *openfgav1.WriteRequest) (*openfgav1.WriteResponse, error) {
	return nil, errNotServed
}
