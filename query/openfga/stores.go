package openfga

import (
	"context"
	"errors"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// defaultPage is how many items a page has whose request does not say.
const defaultPage = 50

func pageSize(n *wrapperspb.Int32Value) int {
	if n == nil {
		return defaultPage
	}
	return int(n.Value) // 1 to 100, as the request's rules say
}

// submit submits a command and waits for its outcome. A rejection is an error.
func (s *Service) submit(ctx context.Context, c *ledger.Command) error {
	c.ID, c.Channel = ledger.NewUUID(), Channel
	wait, cancel := s.patience(ctx)
	defer cancel()
	d, err := s.cfg.Ledger.Submit(wait, origin(ctx), c)
	if err != nil {
		return lost(c, err)
	}
	if d.Outcome.Kind == ledger.Rejected {
		return d.Outcome.Rejection
	}
	return nil
}

// lost says under which id the outcome of a command can be asked for that is not known.
func lost(c *ledger.Command, err error) error {
	if errors.Is(err, ledger.ErrUnknownOutcome) {
		return &Error{Code: int32(openfgav1.InternalErrorCode_aborted), Message: err.Error() + "; the command's id is " + c.ID.String()}
	}
	return err
}

// CreateStore creates a store of a name that others may have too.
func (s *Service) CreateStore(ctx context.Context, req *openfgav1.CreateStoreRequest) (*openfgav1.CreateStoreResponse, error) {
	id := ledger.NewID()
	err := s.submit(ctx, &ledger.Command{Store: ledger.System, Changes: []ledger.Change{
		{Kind: ledger.CreateStore, Store: id, Name: req.GetName(), Admin: origin(ctx).Actor},
	}})
	if err != nil {
		return nil, fieldsOf(err, "changes[0].name", "name")
	}
	h, _ := s.cfg.Projector.Index().Head(id) // there, since the command is folded here
	return &openfgav1.CreateStoreResponse{Id: id.String(), Name: h.Name, CreatedAt: moment(h.Created), UpdatedAt: moment(h.Created)}, nil
}

// moment returns nanoseconds since the Unix epoch as a message.
func moment(at int64) *timestamppb.Timestamp { return timestamppb.New(time.Unix(0, at)) }

// GetStore returns a store.
func (s *Service) GetStore(ctx context.Context, req *openfgav1.GetStoreRequest) (*openfgav1.GetStoreResponse, error) {
	v, err := s.view(ctx, req.GetStoreId(), projector.Freshness{})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	h := v.Head()
	return &openfgav1.GetStoreResponse{Id: h.Store.String(), Name: h.Name, CreatedAt: moment(h.Created), UpdatedAt: moment(h.Created)}, nil
}

// DeleteStore deletes a store. One that is not there is deleted already, as the API has it.
func (s *Service) DeleteStore(ctx context.Context, req *openfgav1.DeleteStoreRequest) (*openfgav1.DeleteStoreResponse, error) {
	id, err := ledger.ParseID(req.GetStoreId())
	if err != nil || id.IsZero() { // no store can have this id
		return &openfgav1.DeleteStoreResponse{}, nil
	}
	err = s.submit(ctx, &ledger.Command{Store: ledger.System, Changes: []ledger.Change{{Kind: ledger.DeleteStore, Store: id}}})
	var why *ledger.Rejection
	if err != nil && !(errors.As(err, &why) && why.Code == ledger.CodeNotFound) {
		return nil, err
	}
	return &openfgav1.DeleteStoreResponse{}, nil
}

// ListStores lists the live stores by id, or those of a name.
func (s *Service) ListStores(_ context.Context, req *openfgav1.ListStoresRequest) (*openfgav1.ListStoresResponse, error) {
	if err := s.cfg.Projector.Quarantine(); err != nil {
		return nil, err
	}
	where := s.place("stores", req.GetName())
	after, err := where.read(req.GetContinuationToken())
	if err != nil {
		return nil, err
	}
	var last ledger.ID
	if after != "" {
		if last, err = ledger.ParseID(after); err != nil {
			return nil, errToken
		}
	}
	size := pageSize(req.GetPageSize())
	answer := &openfgav1.ListStoresResponse{}
	for {
		heads, err := s.cfg.Projector.Index().Stores(last, size+1)
		if err != nil {
			return nil, err
		}
		for _, h := range heads {
			if h.Status != decide.Live || req.GetName() != "" && h.Name != req.GetName() {
				continue
			}
			if len(answer.Stores) == size {
				answer.ContinuationToken = where.token(answer.Stores[size-1].Id)
				return answer, nil
			}
			answer.Stores = append(answer.Stores, storeMessage(h))
		}
		if len(heads) <= size {
			return answer, nil
		}
		last = heads[len(heads)-1].Store
	}
}

func storeMessage(h index.Head) *openfgav1.Store {
	return &openfgav1.Store{Id: h.Store.String(), Name: h.Name, CreatedAt: moment(h.Created), UpdatedAt: moment(h.Created)}
}

// liveStore returns the id of a live store.
func (s *Service) liveStore(ctx context.Context, store string) (ledger.ID, error) {
	v, err := s.view(ctx, store, projector.Freshness{})
	if err != nil {
		return ledger.ID{}, err
	}
	defer v.Close()
	return v.Store(), nil
}

// storeGone returns the error of a command whose store was deleted meanwhile.
func storeGone(err error) error {
	var why *ledger.Rejection
	if errors.As(err, &why) && why.Code == ledger.CodeNotFound && why.Field == "store" {
		return &Error{Code: int32(openfgav1.NotFoundErrorCode_store_id_not_found), Message: "store_id: " + why.Message}
	}
	return err
}

// fieldsOf gives the rejected field of a command the name that it has in the request.
func fieldsOf(err error, field, own string) error {
	var why *ledger.Rejection
	if errors.As(err, &why) && why.Field == field {
		return invalidf("%s: %s", own, why.Message)
	}
	return err
}
