package openfga

import (
	"context"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// ListObjects is not served yet.
func (s *Service) ListObjects(ctx context.Context, req *openfgav1.ListObjectsRequest) (*openfgav1.ListObjectsResponse, error) {
	return nil, errNotServed
}

// StreamedListObjects is not served yet.
func (s *Service) StreamedListObjects(ctx context.Context, req *openfgav1.StreamedListObjectsRequest, send func(*openfgav1.StreamedListObjectsResponse) error) error {
	return errNotServed
}

// ListUsers is not served yet.
func (s *Service) ListUsers(ctx context.Context, req *openfgav1.ListUsersRequest) (*openfgav1.ListUsersResponse, error) {
	return nil, errNotServed
}
