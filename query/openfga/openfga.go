// Package openfga is a face of grantlog for clients that people already have: the 18
// operations of the OpenFGA API that its SDKs and its command line use, over HTTP with
// JSON and over gRPC, as github.com/openfga/api defines them.
//
// Nothing is decided here. A request is read into grantlog's own types, the ledger, the
// projector or the engine of questions is asked, and the answer is written as the API has
// it. What is written through this face is a command like all others: with an actor
// ([ActorHeader]), a channel ([Channel]), an outcome and a place in the history.
//
// Both ways in share one method for each operation, one check of the fields by the rules
// that the API's definition states, and one form of error ([Error]).
package openfga

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/query"
	"google.golang.org/protobuf/proto"
)

const (
	// ServiceName is the name of the gRPC service, for health and reflection.
	ServiceName = "openfga.v1.OpenFGAService"
	// ActorHeader is the HTTP header, and over gRPC the key of the metadata, with the actor
	// of a command. Without it the actor is [Actor].
	ActorHeader = "X-Grantlog-Actor"
	// Actor is the actor of a command whose request names none.
	Actor = "openfga"
	// Channel is the channel of every command that comes through this face.
	Channel = "openfga-api"
)

// Config is what a [Service] needs. Ledger, Projector and Engine are required.
type Config struct {
	Ledger    *ledger.Ledger
	Projector *projector.Projector
	Engine    *query.Engine

	Models  dsl.Limits    // of the models that are written through this face
	MaxWait time.Duration // for a decision or for freshness; 30 seconds if zero

	// Checked counts a check, one of a batch too; Listed a list, its sending included, by
	// what it is of (objects, subjects, tuples or tree), and whether the limit or the
	// deadline of lists cut it. Nil: nothing is counted.
	Checked func(allowed bool, err error, took time.Duration)
	Listed  func(of string, cut bool, err error, took time.Duration)

	Logger *slog.Logger     // slog.Default if nil
	Now    func() time.Time // the clock that questions are held against; time.Now if nil
}

// A Service answers the OpenFGA API. Its methods may be called concurrently. One method
// answers one operation, for a request that keeps the rules of its fields.
type Service struct{ cfg Config }

// New returns a Service that does nothing until it is asked.
func New(cfg Config) *Service {
	cfg.MaxWait = cmp.Or(cfg.MaxWait, 30*time.Second)
	if cfg.Checked == nil {
		cfg.Checked = func(bool, error, time.Duration) {}
	}
	if cfg.Listed == nil {
		cfg.Listed = func(string, bool, error, time.Duration) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg}
}

// Owns reports whether a path of a request over HTTP is one that Handler answers: what is
// below /stores or the gRPC service. The paths of AuthZEN for a store, /stores/ID/access/…,
// are not.
func Owns(path string) bool {
	if strings.HasPrefix(path, "/"+ServiceName+"/") {
		return true
	}
	parts := strings.SplitN(path, "/", 5)
	return len(parts) > 1 && parts[1] == "stores" && (len(parts) < 4 || parts[3] != "access")
}

// Handler returns what answers the API over HTTP and gRPC, at the paths that [Owns]
// names. The options are those of the gRPC handlers.
func (s *Service) Handler(options ...connect.HandlerOption) http.Handler {
	options = append(options, connect.WithRecover(func(ctx context.Context, _ connect.Spec, _ http.Header, r any) error {
		return rpcError(s.panicked(ctx, r))
	}))
	operations := []operation{
		unary(s, "CreateStore", s.CreateStore).at(http.MethodPost, "/stores", http.StatusCreated),
		unary(s, "ListStores", s.ListStores).at(http.MethodGet, "/stores", http.StatusOK),
		unary(s, "GetStore", s.GetStore).at(http.MethodGet, "/stores/{store_id}", http.StatusOK),
		unary(s, "DeleteStore", s.DeleteStore).at(http.MethodDelete, "/stores/{store_id}", http.StatusNoContent),
		unary(s, "WriteAuthorizationModel", s.WriteAuthorizationModel).at(http.MethodPost, "/stores/{store_id}/authorization-models", http.StatusCreated),
		unary(s, "ReadAuthorizationModels", s.ReadAuthorizationModels).at(http.MethodGet, "/stores/{store_id}/authorization-models", http.StatusOK),
		unary(s, "ReadAuthorizationModel", s.ReadAuthorizationModel).at(http.MethodGet, "/stores/{store_id}/authorization-models/{id}", http.StatusOK),
		unary(s, "Write", s.Write).at(http.MethodPost, "/stores/{store_id}/write", http.StatusOK),
		unary(s, "Read", s.Read).at(http.MethodPost, "/stores/{store_id}/read", http.StatusOK),
		unary(s, "ReadChanges", s.ReadChanges).at(http.MethodGet, "/stores/{store_id}/changes", http.StatusOK),
		unary(s, "Check", s.Check).at(http.MethodPost, "/stores/{store_id}/check", http.StatusOK),
		unary(s, "BatchCheck", s.BatchCheck).at(http.MethodPost, "/stores/{store_id}/batch-check", http.StatusOK),
		unary(s, "ListObjects", s.ListObjects).at(http.MethodPost, "/stores/{store_id}/list-objects", http.StatusOK),
		streamed(s, "StreamedListObjects", s.StreamedListObjects).at(http.MethodPost, "/stores/{store_id}/streamed-list-objects", http.StatusOK),
		unary(s, "ListUsers", s.ListUsers).at(http.MethodPost, "/stores/{store_id}/list-users", http.StatusOK),
		unary(s, "Expand", s.Expand).at(http.MethodPost, "/stores/{store_id}/expand", http.StatusOK),
		unary(s, "WriteAssertions", s.WriteAssertions).at(http.MethodPut, "/stores/{store_id}/assertions/{authorization_model_id}", http.StatusNoContent),
		unary(s, "ReadAssertions", s.ReadAssertions).at(http.MethodGet, "/stores/{store_id}/assertions/{authorization_model_id}", http.StatusOK),
	}
	mux := http.NewServeMux()
	var routes []route
	for _, o := range operations {
		procedure := "/" + ServiceName + "/" + o.name
		mux.Handle(procedure, o.grpc(procedure, options))
		routes = append(routes, o.route)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if actor := r.Header.Get(ActorHeader); actor != "" {
			r = r.WithContext(context.WithValue(r.Context(), actorKey{}, actor))
		}
		if strings.HasPrefix(r.URL.Path, "/"+ServiceName+"/") {
			mux.ServeHTTP(w, r)
			return
		}
		s.serveJSON(w, r, routes)
	})
}

type actorKey struct{}

// origin returns who asks for a command.
func origin(ctx context.Context) ledger.Origin {
	actor, _ := ctx.Value(actorKey{}).(string)
	return ledger.Origin{Actor: cmp.Or(actor, Actor), Method: ledger.MethodNone}
}

// patience returns a context that ends when the face should stop waiting: a little
// before its caller does, so that the answer still reaches it.
func (s *Service) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	wait := s.cfg.MaxWait
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		wait = min(wait, left-min(left/10, 50*time.Millisecond))
	}
	return context.WithTimeout(ctx, wait)
}

// panicked answers for a method that panicked: a bug, told to the log alone.
func (s *Service) panicked(ctx context.Context, r any) *Error {
	s.cfg.Logger.ErrorContext(ctx, "panic in a handler", "panic", r, "stack", string(debug.Stack()))
	return internalError
}

// A checked is a request whose definition says what its fields may be.
type checked[T any] interface {
	*T
	proto.Message
	Validate() error
}

// An operation is one method of the Service with its two ways in.
type operation struct {
	name string
	grpc func(procedure string, options []connect.HandlerOption) http.Handler
	route
}

// at gives the operation its method, path and status of success over HTTP.
func (o operation) at(method, path string, status int) operation {
	o.method, o.parts, o.status = method, strings.Split(path, "/")[1:], status
	return o
}

// unary returns the operation that f answers.
func unary[Req, Res any, R checked[Req]](s *Service, name string, f func(context.Context, *Req) (*Res, error)) operation {
	call := func(ctx context.Context, req *Req) (*Res, *Error) {
		if err := R(req).Validate(); err != nil {
			return nil, fieldError(err)
		}
		answer, err := f(ctx, req)
		if err != nil {
			return nil, s.errorOf(ctx, err)
		}
		return answer, nil
	}
	return operation{
		name: name,
		grpc: func(procedure string, options []connect.HandlerOption) http.Handler {
			return connect.NewUnaryHandlerSimple(procedure, func(ctx context.Context, req *Req) (*Res, error) {
				answer, err := call(ctx, req)
				if err != nil {
					return nil, rpcError(err)
				}
				return answer, nil
			}, options...)
		},
		route: route{
			request: func() proto.Message { return R(new(Req)) },
			answer: func(ctx context.Context, req proto.Message, send func(proto.Message) error) *Error {
				answer, failed := call(ctx, (*Req)(req.(R)))
				if failed != nil {
					return failed
				}
				if err := send(any(answer).(proto.Message)); err != nil {
					return s.errorOf(ctx, err)
				}
				return nil
			},
		},
	}
}

// streamed returns the operation that f answers with many messages.
func streamed[Req, Res any, R checked[Req]](s *Service, name string, f func(context.Context, *Req, func(*Res) error) error) operation {
	call := func(ctx context.Context, req *Req, send func(*Res) error) *Error {
		if err := R(req).Validate(); err != nil {
			return fieldError(err)
		}
		if err := f(ctx, req, send); err != nil {
			return s.errorOf(ctx, err)
		}
		return nil
	}
	return operation{
		name: name,
		grpc: func(procedure string, options []connect.HandlerOption) http.Handler {
			return connect.NewServerStreamHandlerSimple(procedure, func(ctx context.Context, req *Req, stream *connect.ServerStream[Res]) error {
				send := func(m *Res) error {
					err := stream.Send(m)
					if err != nil && connect.CodeOf(err) != connect.CodeInternal { // that of a message that cannot be encoded
						return fmt.Errorf("%w: %w", errLeft, err)
					}
					return err
				}
				if err := call(ctx, req, send); err != nil {
					return rpcError(err)
				}
				return nil
			}, options...)
		},
		route: route{
			streams: true,
			request: func() proto.Message { return R(new(Req)) },
			answer: func(ctx context.Context, req proto.Message, send func(proto.Message) error) *Error {
				return call(ctx, (*Req)(req.(R)), func(m *Res) error { return send(any(m).(proto.Message)) })
			},
		},
	}
}

// rpcError returns e as gRPC has it: with its number as the status.
func rpcError(e *Error) error {
	return connect.NewError(connect.Code(e.Code), errors.New(e.Message))
}
