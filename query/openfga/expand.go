package openfga

import (
	"context"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// Expand is not served yet.
func (s *Service) Expand(ctx context.Context, req *openfgav1.ExpandRequest) (*openfgav1.ExpandResponse, error) {
	return nil, errNotServed
}
