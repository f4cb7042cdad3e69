package openfga

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// Lists end at one of these, whichever comes first, with what was found until then, as
// OpenFGA's documentation says of its own. Streams end at the deadline alone. The lists of
// the native API have neither.
const (
	maxListed    = 1000 // items of ListObjects and ListUsers
	listDeadline = 3 * time.Second
)

// EndedHeader is the HTTP header, of a stream the trailer, and over gRPC the key of the
// metadata after the answer, that says why a list ended: "limit" at 1,000 items, so that
// there may be more, or "deadline". It is absent from a whole list.
const EndedHeader = "X-Grantlog-List-Ended"

// An objectsRequest is the request for a list of objects, streamed or not.
type objectsRequest interface {
	question
	GetType() string
	GetRelation() string
	GetUser() string
	GetContextualTuples() *openfgav1.ContextualTupleKeys
	GetContext() *structpb.Struct
}

// ListObjects lists the objects of a type on which a user holds a relation, in the order
// of their ids: the first 1,000, or those found within three seconds.
func (s *Service) ListObjects(ctx context.Context, req *openfgav1.ListObjectsRequest) (*openfgav1.ListObjectsResponse, error) {
	answer := &openfgav1.ListObjectsResponse{}
	err := s.listObjects(ctx, req, func(object string) (bool, error) {
		answer.Objects = append(answer.Objects, object)
		return len(answer.Objects) < maxListed, nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// StreamedListObjects is ListObjects without its limit: each object is sent as it is found.
func (s *Service) StreamedListObjects(ctx context.Context, req *openfgav1.StreamedListObjectsRequest, send func(*openfgav1.StreamedListObjectsResponse) error) error {
	return s.listObjects(ctx, req, func(object string) (bool, error) {
		return true, send(&openfgav1.StreamedListObjectsResponse{Object: object})
	})
}

// listObjects calls found for each object until it returns false.
func (s *Service) listObjects(ctx context.Context, req objectsRequest, found func(object string) (more bool, err error)) (err error) {
	var cut bool
	defer s.listed("objects", time.Now(), &cut, &err)
	q := query.ObjectsQuestion{Type: req.GetType(), Relation: req.GetRelation()}
	if q.Subject, err = readSubject("user", req.GetUser()); err != nil {
		return err
	}
	if q.Given, err = asObjects.readGiven(req.GetContextualTuples().GetTupleKeys(), req.GetContext()); err != nil {
		return err
	}
	a, err := s.ask(ctx, req)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.knownRelation("type", "relation", q.Type, q.Relation); err != nil {
		return err
	}
	name := func(id string) string { return q.Type + ":" + id }
	cut, err = list(ctx, name, func(ctx context.Context) iter.Seq2[model.Item, error] { return a.ListObjects(ctx, q, "") },
		func(i model.Item) (bool, error) { return found(name(i.ID)) })
	return asObjects.questionError(err)
}

// listed counts a list that began then, and ends with cut and err.
func (s *Service) listed(of string, began time.Time, cut *bool, err *error) {
	s.cfg.Listed(of, *cut, *err, time.Since(began))
}

// list takes the items of a list that ends at the deadline, until take returns false. An
// item without an answer fails it, by its name.
//
// If the list is not whole, or may not be, it is cut, and the caller is told so.
func list(ctx context.Context, name func(id string) string, items func(context.Context) iter.Seq2[model.Item, error], take func(model.Item) (bool, error)) (cut bool, err error) {
	within, cancel := context.WithTimeout(ctx, listDeadline)
	defer cancel()
	for i, err := range items(within) {
		if err == nil && i.Err != nil {
			err = fmt.Errorf("%s: %w", name(i.ID), i.Err)
		}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			ended(ctx, "deadline") // the list's own, not the caller's
			return true, nil
		}
		if err != nil {
			return false, err
		}
		more, err := take(i)
		if err != nil {
			return false, err
		}
		if !more {
			ended(ctx, "limit")
			return true, nil
		}
	}
	return false, nil
}

// ended tells the caller why a list ended.
func ended(ctx context.Context, why string) {
	if call, ok := connect.CallInfoForHandlerContext(ctx); ok {
		call.ResponseTrailer().Set(EndedHeader, why)
	} else if tell, ok := ctx.Value(tellKey{}).(func(key, value string)); ok {
		tell(EndedHeader, why)
	}
}

// ListUsers lists the users of one kind that hold a relation on an object, in the order of
// their ids: the first 1,000, or those found within three seconds. A wildcard stands for
// all users of its type but those from whom the model takes the relation away, which the
// answer cannot name.
func (s *Service) ListUsers(ctx context.Context, req *openfgav1.ListUsersRequest) (answer *openfgav1.ListUsersResponse, err error) {
	var cut bool
	defer s.listed("subjects", time.Now(), &cut, &err)
	filter := req.GetUserFilters()[0] // validated: there is exactly one
	q := query.SubjectsQuestion{Kind: model.Kind{Type: filter.GetType(), Relation: filter.GetRelation()}, Relation: req.GetRelation()}
	if q.Object, err = readObject("object", req.GetObject().GetType()+":"+req.GetObject().GetId()); err != nil {
		return nil, err
	}
	if q.Given, err = asUsers.readGiven(req.GetContextualTuples(), req.GetContext()); err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	defer a.close()
	if err := a.knownType("user_filters[0].type", q.Kind.Type); err != nil {
		return nil, err
	}
	if q.Kind.Relation != "" {
		if err := a.knownRelation("user_filters[0].type", "user_filters[0].relation", q.Kind.Type, q.Kind.Relation); err != nil {
			return nil, err
		}
	}
	if err := a.knownRelation("object.type", "relation", q.Object.Type, q.Relation); err != nil {
		return nil, err
	}
	answer = &openfgav1.ListUsersResponse{}
	if !a.model.CanHold(q.Object.Type, q.Relation, q.Kind) {
		return answer, nil // by the model, nobody of the kind
	}
	name := func(id string) string {
		return tuple.Subject{Type: q.Kind.Type, ID: id, Relation: q.Kind.Relation}.String()
	}
	cut, err = list(ctx, name, func(ctx context.Context) iter.Seq2[model.Item, error] { return a.ListSubjects(ctx, q, "") },
		func(i model.Item) (bool, error) {
			if !i.Excluded {
				answer.Users = append(answer.Users, userMessage(q.Kind, i.ID))
			}
			return len(answer.Users) < maxListed, nil
		})
	if err != nil {
		return nil, asUsers.questionError(err)
	}
	return answer, nil
}

func userMessage(k model.Kind, id string) *openfgav1.User {
	switch {
	case k.Relation != "":
		return &openfgav1.User{User: &openfgav1.User_Userset{Userset: &openfgav1.UsersetUser{Type: k.Type, Id: id, Relation: k.Relation}}}
	case id == tuple.Wildcard:
		return &openfgav1.User{User: &openfgav1.User_Wildcard{Wildcard: &openfgav1.TypedWildcard{Type: k.Type}}}
	}
	return &openfgav1.User{User: &openfgav1.User_Object{Object: &openfgav1.Object{Type: k.Type, Id: id}}}
}
