package openfga

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/query"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc/codes"
)

// An Error is what a caller gets who gets no answer.
//
// Its code is a number of the API's enums of errors, or [codes.Aborted]; over gRPC it is
// the status as it is, over HTTP the body {"code": NAME, "message": …} has its name and
// the status follows from its range.
type Error struct {
	Code    int32
	Message string
}

func (e *Error) Error() string { return e.Message }

// name returns the code's name in the enum that it is of.
func (e *Error) name() string {
	switch {
	case e.Code == int32(codes.Aborted):
		return codes.Aborted.String()
	case e.Code < 2000:
		return openfgav1.AuthErrorCode(e.Code).String()
	case e.Code < 3500:
		return openfgav1.ErrorCode(e.Code).String()
	case e.Code < 4000:
		return openfgav1.UnprocessableContentErrorCode(e.Code).String()
	case e.Code < 5000:
		return openfgav1.InternalErrorCode(e.Code).String()
	}
	return openfgav1.NotFoundErrorCode(e.Code).String()
}

// status returns the status over HTTP.
func (e *Error) status() int {
	switch {
	case e.Code == int32(codes.Aborted):
		return http.StatusConflict
	case e.Code < 2000:
		return http.StatusUnauthorized
	case e.Code < 3500:
		return http.StatusBadRequest
	case e.Code < 4000:
		return http.StatusUnprocessableEntity
	case e.Code < 5000:
		return http.StatusInternalServerError
	}
	return http.StatusNotFound
}

var internalError = &Error{Code: int32(openfgav1.InternalErrorCode_internal_error), Message: "Internal Server Error"}

// errLeft: the answer could not be sent, because its caller left or does not take it.
var errLeft = errors.New("the caller left")

// errorf returns an error of a code of what is wrong with a request.
func errorf(code openfgav1.ErrorCode, format string, args ...any) *Error {
	return &Error{Code: int32(code), Message: fmt.Sprintf(format, args...)}
}

// invalidf is errorf for what has no code of its own.
func invalidf(format string, args ...any) *Error {
	return errorf(openfgav1.ErrorCode_validation_error, format, args...)
}

// errorOf is the one mapping of errors to those of the API. What it does not know is the
// server's own fault: it is logged, and hidden.
func (s *Service) errorOf(ctx context.Context, err error) *Error {
	var (
		own       *Error
		rejection *ledger.Rejection
		invalid   *query.InvalidError
		budget    *model.BudgetError
		cycle     *model.CycleError
		missing   *dsl.MissingError
		ill       *dsl.ContextError
		cost      *dsl.CostError
		condition *dsl.ConditionError
	)
	internal := func(code openfgav1.InternalErrorCode) *Error { return &Error{Code: int32(code), Message: err.Error()} }
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &rejection):
		return invalidf("%s", rejection)
	case errors.As(err, &invalid):
		return invalidf("%s", invalid)
	case errors.Is(err, query.ErrNoModel):
		return errorf(openfgav1.ErrorCode_latest_authorization_model_not_found, "%s", err)
	case errors.As(err, &budget) && budget.What == "time":
		return internal(openfgav1.InternalErrorCode_deadline_exceeded)
	case errors.As(err, &budget), errors.As(err, &cycle):
		return errorf(openfgav1.ErrorCode_authorization_model_resolution_too_complex, "%s", err)
	case errors.As(err, &missing), errors.As(err, &ill), errors.As(err, &cost), errors.As(err, &condition):
		return invalidf("%s", err)
	case errors.Is(err, ledger.ErrUnknownOutcome):
		return internal(openfgav1.InternalErrorCode_aborted)
	case errors.Is(err, ledger.ErrUnavailable), errors.Is(err, ledger.ErrRefused), ledger.IsQuarantine(err):
		return internal(openfgav1.InternalErrorCode_unavailable)
	case errors.Is(err, projector.ErrFuture), errors.Is(err, query.ErrPageToken):
		return invalidf("%s", err)
	case errors.Is(err, context.Canceled), errors.Is(err, errLeft):
		return errorf(openfgav1.ErrorCode_cancelled, "%s", errLeft)
	case errors.Is(err, context.DeadlineExceeded):
		return internal(openfgav1.InternalErrorCode_deadline_exceeded)
	}
	s.cfg.Logger.ErrorContext(ctx, "request failed", "error", err)
	return internalError
}

// A broken is an error of the generated checks: a field, the rule that it breaks, and
// within which messages the field stands.
type broken interface {
	Field() string
	Reason() string
	Cause() error
}

// fieldCodes is the code of a broken rule, by the last field's name in Go and how the
// reason begins. Any other is a validation_error.
var fieldCodes = []struct {
	field, reason string
	code          openfgav1.ErrorCode
}{
	{"Assertions", "value must contain no more than", openfgav1.ErrorCode_assertions_too_many_items},
	{"AuthorizationModelId", "value length must be at most", openfgav1.ErrorCode_authorization_model_id_too_long},
	{"Base", "value is required", openfgav1.ErrorCode_difference_base_missing_value},
	{"Id", "value length must be at most", openfgav1.ErrorCode_id_too_long},
	{"Object", "value length must be at most", openfgav1.ErrorCode_object_too_long},
	{"Object", "value does not match regex pattern", openfgav1.ErrorCode_object_invalid_pattern},
	{"PageSize", "value must be inside range", openfgav1.ErrorCode_page_size_invalid},
	{"Params", "value is required", openfgav1.ErrorCode_param_missing_value},
	{"Relation", "value length must be at most", openfgav1.ErrorCode_relation_too_long},
	{"Relations", "value must contain at least", openfgav1.ErrorCode_relations_too_few_items},
	{"Subtract", "value is required", openfgav1.ErrorCode_subtract_base_missing_value},
	{"StoreId", "value length must be", openfgav1.ErrorCode_store_id_invalid_length},
	{"TupleKey", "value is required", openfgav1.ErrorCode_tuple_key_value_not_specified},
	{"TupleKeys", "value must contain between", openfgav1.ErrorCode_tuple_keys_too_many_or_too_few_items},
	{"Type", "value length must be at", openfgav1.ErrorCode_type_invalid_length},
	{"Type", "value does not match regex pattern", openfgav1.ErrorCode_type_invalid_pattern},
	{"TypeDefinitions", "value must contain at least", openfgav1.ErrorCode_type_definitions_too_few_items},
	{"Relations[", "value length must be at most", openfgav1.ErrorCode_relations_too_long},
	{"Relations[", "value does not match regex pattern", openfgav1.ErrorCode_relations_invalid_pattern},
}

// fieldError returns the error of a request that breaks a rule of its fields, as their
// path and the rule.
func fieldError(err error) *Error {
	var path []string
	code := openfgav1.ErrorCode_validation_error
	for {
		b, ok := err.(broken) //nolint:errorlint // the generated errors are not wrapped
		if !ok {
			return errorf(code, "%s: %s", strings.Join(path, "."), err)
		}
		path = append(path, snake(b.Field()))
		if b.Cause() != nil {
			err = b.Cause()
			continue
		}
		for _, c := range fieldCodes {
			if strings.HasPrefix(b.Reason(), c.reason) && (b.Field() == c.field || strings.HasSuffix(c.field, "[") && strings.HasPrefix(b.Field(), c.field)) {
				code = c.code
			}
		}
		return errorf(code, "%s: %s", strings.Join(path, "."), b.Reason())
	}
}

// snake returns a name in Go, with an index or a key behind it as that is, as the API
// has it.
func snake(name string) string {
	name, key, indexed := strings.Cut(name, "[")
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	if indexed {
		b.WriteString("[" + key)
	}
	return b.String()
}
