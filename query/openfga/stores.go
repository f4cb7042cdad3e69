package openfga

import (
	"context"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// CreateStore is not served yet.
func (s *Service) CreateStore(ctx context.Context, req *openfgav1.CreateStoreRequest) (*openfgav1.CreateStoreResponse, error) {
	return nil, errNotServed
}

// ListStores is not served yet.
func (s *Service) ListStores(ctx context.Context, req *openfgav1.ListStoresRequest) (*openfgav1.ListStoresResponse, error) {
	return nil, errNotServed
}

// GetStore is not served yet.
func (s *Service) GetStore(ctx context.Context, req *openfgav1.GetStoreRequest) (*openfgav1.GetStoreResponse, error) {
	return nil, errNotServed
}

// DeleteStore is not served yet.
func (s *Service) DeleteStore(ctx context.Context, req *openfgav1.DeleteStoreRequest) (*openfgav1.DeleteStoreResponse, error) {
	return nil, errNotServed
}
