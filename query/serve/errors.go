package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/audit"
	"google.golang.org/protobuf/proto"
)

// A fieldError is an error about one field of the request, given a field by the
// handler that knows it.
type fieldError struct {
	field string
	err   error
}

func (e *fieldError) Error() string { return e.field + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

// A behindError is an [ledger.ErrUnavailable] with the revision that is applied.
type behindError struct {
	applied ledger.Revision
	err     error
}

func (e *behindError) Error() string { return e.err.Error() }
func (e *behindError) Unwrap() error { return e.err }

// A deletedError is a [ledger.ErrNotFound] of a store that was deleted at a revision, as
// its last entry.
type deletedError struct {
	store ledger.ID
	at    ledger.Revision
}

func (e *deletedError) Error() string {
	return fmt.Sprintf("%s is deleted, at its revision %d; it still answers as of moments before that (with the command line, --at)", e.store, e.at)
}
func (e *deletedError) Unwrap() error { return ledger.ErrNotFound }

// A lostError is an [ledger.ErrUnknownOutcome] with the command's id.
type lostError struct {
	id  ledger.UUID
	err error
}

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// A fault is what an error is to a caller.
type fault struct {
	code    connect.Code
	field   string // "" if no field is to blame
	message string
	detail  proto.Message // typed, or nil
}

// faultOf is the one mapping of errors to codes. An error that it does not know is
// the server's own fault: CodeInternal without its text.
func faultOf(err error) fault {
	var (
		rejection  *ledger.Rejection
		invalid    *query.InvalidError
		budget     *model.BudgetError
		cycle      *model.CycleError
		missing    *dsl.MissingError
		ill        *dsl.ContextError
		cost       *dsl.CostError
		condition  *dsl.ConditionError
		field      *fieldError
		behind     *behindError
		lost       *lostError
		exists     *existsError
		state      *stateError
		unrestored *projector.RestoreError
		connectErr *connect.Error
	)
	f := fault{code: connect.CodeInternal, message: "internal error"}
	if errors.As(err, &field) {
		f.field = field.field
	}
	known := func(code connect.Code) fault {
		f.code, f.message = code, err.Error()
		return f
	}
	// rejected is for what has no Rejection of its own but is one to callers.
	rejected := func(code ledger.Code) fault {
		r := ledger.Rejection{Code: code, Field: f.field, Message: err.Error()}
		if field != nil {
			r.Message = field.err.Error()
		}
		return fault{rejectionCodes[code], r.Field, r.Error(), rejectionMessage(&r)}
	}
	switch {
	case errors.As(err, &rejection):
		return fault{rejectionCodes[rejection.Code], rejection.Field, rejection.Error(), rejectionMessage(rejection)}
	case errors.As(err, &invalid):
		r := &ledger.Rejection{Code: ledger.CodeInvalid, Field: invalid.Field, Message: invalid.Message}
		return fault{rejectionCodes[r.Code], r.Field, r.Error(), rejectionMessage(r)}
	case errors.As(err, &missing):
		f = known(connect.CodeInvalidArgument)
		f.field = "context"
		f.detail = &pb.MissingContext{Condition: missing.Condition, Parameters: missing.Params}
		return f
	case errors.As(err, &ill) && !ill.Stored:
		f.field = "context." + ill.Param
		return rejected(ledger.CodeInvalid)
	case errors.As(err, &cost):
		f = known(connect.CodeResourceExhausted)
		f.detail = &pb.BudgetExhausted{What: "cost", Limit: cost.Limit}
		return f
	case errors.As(err, &budget):
		f = known(connect.CodeResourceExhausted)
		spent := budget.Spent
		detail := &pb.BudgetExhausted{What: budget.What, Limit: uint64(budget.Limit), Rows: uint64(spent.Rows), Depth: uint64(spent.Depth), Memory: uint64(spent.Memory)}
		if budget.What == "time" {
			detail.Limit /= uint64(time.Millisecond)
		}
		f.detail = detail
		return f
	case errors.As(err, &cycle), errors.As(err, &condition), errors.As(err, &ill):
		return known(connect.CodeFailedPrecondition)
	case errors.Is(err, query.ErrNoModel):
		f.field = "model"
		return rejected(ledger.CodePrecondition)
	case errors.As(err, &exists):
		return rejected(ledger.CodeConflict)
	case errors.As(err, &state), errors.As(err, &unrestored):
		return rejected(ledger.CodePrecondition)
	case errors.Is(err, ledger.ErrToken):
		return rejected(ledger.CodeMalformed)
	case errors.Is(err, ledger.ErrForeignToken), errors.Is(err, projector.ErrFuture):
		return rejected(ledger.CodeInvalid)
	case errors.Is(err, ledger.ErrLostPast):
		return rejected(ledger.CodePrecondition)
	case errors.Is(err, ledger.ErrNotFound):
		return rejected(ledger.CodeNotFound)
	case errors.As(err, &lost):
		f = known(connect.CodeUnknown)
		f.detail = &pb.UnknownOutcome{Id: lost.id.String()}
		return f
	case errors.As(err, &behind):
		f = known(connect.CodeUnavailable)
		f.message = unavailableText(err)
		f.detail = &pb.Behind{Applied: uint64(behind.applied)}
		return f
	case errors.Is(err, audit.ErrOtherPast), errors.Is(err, audit.ErrSigned):
		// Which is for the operator to put right; the server's log has the rest.
		f.code, f.message = connect.CodeDataLoss, audit.ErrSigned.Error()
		if errors.Is(err, audit.ErrOtherPast) {
			f.message = err.Error()
		}
		return f
	case errors.Is(err, ledger.ErrUnavailable), errors.Is(err, ledger.ErrRefused), ledger.IsQuarantine(err):
		f = known(connect.CodeUnavailable)
		f.message = unavailableText(err)
		return f
	case errors.Is(err, context.Canceled):
		return known(connect.CodeCanceled)
	case errors.Is(err, context.DeadlineExceeded):
		return known(connect.CodeDeadlineExceeded)
	case errors.As(err, &connectErr):
		f.code, f.message = connectErr.Code(), connectErr.Message()
		return f
	}
	return f
}

// unavailableText is the text of an error whose code says already that it is one of
// [ledger.ErrUnavailable].
func unavailableText(err error) string {
	return strings.TrimPrefix(err.Error(), ledger.ErrUnavailable.Error()+": ")
}

// rejectionCodes is the RPC code of each code of a rejection at the edge.
var rejectionCodes = map[ledger.Code]connect.Code{
	ledger.CodeMalformed:    connect.CodeInvalidArgument,
	ledger.CodeNotFound:     connect.CodeNotFound,
	ledger.CodePrecondition: connect.CodeFailedPrecondition,
	ledger.CodeConflict:     connect.CodeAlreadyExists,
	ledger.CodeDenied:       connect.CodePermissionDenied,
	ledger.CodeInvalid:      connect.CodeInvalidArgument,
}

// httpStatuses is the HTTP status of each code that a fault may have; any other is 500.
var httpStatuses = map[connect.Code]int{
	connect.CodeInvalidArgument:    http.StatusBadRequest,
	connect.CodeFailedPrecondition: http.StatusBadRequest,
	connect.CodeNotFound:           http.StatusNotFound,
	connect.CodeResourceExhausted:  http.StatusTooManyRequests,
	connect.CodeCanceled:           499, // the caller is gone
	connect.CodeUnavailable:        http.StatusServiceUnavailable,
	connect.CodeDeadlineExceeded:   http.StatusGatewayTimeout,
}

// httpFault returns err as a caller of plain HTTP gets it. What is the server's own fault
// is logged, and hidden.
func (s *Server) httpFault(ctx context.Context, err error) (status int, message string) {
	f := faultOf(err)
	if f.code == connect.CodeInternal {
		s.cfg.Logger.ErrorContext(ctx, "request failed", "error", err)
	}
	return cmp.Or(httpStatuses[f.code], http.StatusInternalServerError), f.message
}

// rpcError returns err as the caller gets it. What is the server's own fault is
// logged, and hidden.
func (s *Server) rpcError(ctx context.Context, err error) error {
	f := faultOf(err)
	if f.code == connect.CodeInternal {
		s.cfg.Logger.ErrorContext(ctx, "request failed", "error", err)
	}
	answer := connect.NewError(f.code, errors.New(f.message))
	if f.detail != nil {
		detail, err := connect.NewErrorDetail(f.detail)
		if err != nil {
			panic(err) // one of our own messages cannot be encoded
		}
		answer.AddDetail(detail)
	}
	return answer
}
