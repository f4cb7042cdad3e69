package openfga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxRequest is the most bytes of one request over HTTP.
const maxRequest = 1 << 20

// A route is how an operation is reached over HTTP.
type route struct {
	method  string
	parts   []string // of the path; one in braces is the field that it fills
	status  int      // of success
	streams bool     // the answer is many messages, one a line

	request func() proto.Message
	answer  func(ctx context.Context, req proto.Message, send func(proto.Message) error) *Error
}

// match returns the fields that the parts of a path fill, or false if it is of another
// route.
func (ro *route) match(method string, parts []string) (map[string]string, bool) {
	if method != ro.method || len(parts) != len(ro.parts) {
		return nil, false
	}
	fields := make(map[string]string, 2)
	for i, part := range ro.parts {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			fields[strings.TrimSuffix(name, "}")] = parts[i]
		} else if part != parts[i] {
			return nil, false
		}
	}
	return fields, true
}

// serveJSON answers a request over HTTP by one of the routes.
func (s *Service) serveJSON(w http.ResponseWriter, r *http.Request, routes []route) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			writeError(w, s.panicked(r.Context(), p))
		} else if p != nil {
			panic(p)
		}
	}()
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	for i, part := range parts {
		plain, err := url.PathUnescape(part)
		if err != nil {
			writeError(w, invalidf("path: %s", err))
			return
		}
		parts[i] = plain
	}
	for i := range routes {
		if fields, ok := routes[i].match(r.Method, parts); ok {
			routes[i].serve(w, r, fields)
			return
		}
	}
	writeError(w, &Error{Code: int32(openfgav1.NotFoundErrorCode_undefined_endpoint), Message: fmt.Sprintf("there is nothing at %s %s", r.Method, r.URL.Path)})
}

// serve reads the request, whatever its content type says, and writes the answer.
func (ro *route) serve(w http.ResponseWriter, r *http.Request, fields map[string]string) {
	req := ro.request()
	if err := readRequest(w, r, req, fields); err != nil {
		writeError(w, err)
		return
	}
	begun := false // the status is sent
	tell := func(key, value string) {
		if ro.streams {
			key = http.TrailerPrefix + key // the headers may have been sent
		}
		w.Header().Set(key, value)
	}
	failed := ro.answer(context.WithValue(r.Context(), tellKey{}, tell), req, func(m proto.Message) error {
		if ro.status == http.StatusNoContent {
			w.WriteHeader(ro.status)
			return nil
		}
		body, err := answerOptions.Marshal(m)
		if err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
		if ro.streams {
			body = append(append([]byte(`{"result":`), body...), "}\n"...)
		}
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(ro.status)
		}
		if _, err = w.Write(body); err == nil && ro.streams {
			err = http.NewResponseController(w).Flush()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errLeft, err)
		}
		return nil
	})
	switch {
	case failed == nil && ro.streams && !begun: // a list without items
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(ro.status)
	case failed == nil:
	case !begun:
		writeError(w, failed)
	case ro.streams:
		// The status was sent, so the error is the last line.
		json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": failed.Code, "message": failed.Message, "details": []any{}}})
	}
}

// tellKey is the key of a func(key, value string) that tells the caller something beside
// the answer.
type tellKey struct{}

// answerOptions writes answers as the API has them: the names of its JSON form, which are
// in snake case but for those of rules, and values that are false, "", empty or null.
var answerOptions = protojson.MarshalOptions{EmitUnpopulated: true}

// readRequest reads the body, the query's parameters and the fields of the path, of which
// the later wins.
func readRequest(w http.ResponseWriter, r *http.Request, req proto.Message, fields map[string]string) *Error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return invalidf("a request must be at most %d bytes", tooLong.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return invalidf("the body of the request did not come in time")
	case err != nil:
		return invalidf("read the request: %s", err)
	}
	if len(body) > 0 && (r.Method == http.MethodPost || r.Method == http.MethodPut) {
		if coding := strings.Join(r.Header.Values("Content-Encoding"), ", "); coding != "" && !strings.EqualFold(coding, "identity") {
			return invalidf("Content-Encoding: must be identity, not %+q", coding)
		}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, req); err != nil {
			return invalidf("malformed JSON: %s", plainly(err))
		}
	}
	m := req.ProtoReflect()
	if r.Method == http.MethodGet {
		values, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return invalidf("query: %s", err)
		}
		for name := range values {
			if field := m.Descriptor().Fields().ByName(protoreflect.Name(name)); field != nil {
				if err := setParameter(m, field, values.Get(name)); err != nil {
					return invalidf("%s: %s", name, err)
				}
			}
		}
	}
	for name, value := range fields {
		m.Set(m.Descriptor().Fields().ByName(protoreflect.Name(name)), protoreflect.ValueOfString(value))
	}
	return nil
}

// setParameter sets a field from its text in a query.
func setParameter(m protoreflect.Message, field protoreflect.FieldDescriptor, text string) error {
	var value proto.Message
	switch {
	case field.Kind() == protoreflect.StringKind && !field.IsList():
		m.Set(field, protoreflect.ValueOfString(text))
		return nil
	case field.Kind() == protoreflect.EnumKind:
		v := field.Enum().Values().ByName(protoreflect.Name(text))
		if v == nil {
			return fmt.Errorf("%q is none of its values", text)
		}
		m.Set(field, protoreflect.ValueOfEnum(v.Number()))
		return nil
	case field.Kind() != protoreflect.MessageKind:
		return errors.New("cannot stand in a query")
	case text == "":
		return nil
	case field.Message().FullName() == "google.protobuf.Int32Value":
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		value = wrapperspb.Int32(int32(n))
	case field.Message().FullName() == "google.protobuf.Timestamp":
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return fmt.Errorf("%q is not a time such as 2026-03-01T09:00:00Z", text)
		}
		value = timestamppb.New(t)
	default:
		return errors.New("cannot stand in a query")
	}
	m.Set(field, protoreflect.ValueOfMessage(value.ProtoReflect()))
	return nil
}

// writeError writes an error as the API has it. It is the last thing written.
func writeError(w http.ResponseWriter, e *Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.status())
	json.NewEncoder(w).Encode(map[string]string{"code": e.name(), "message": e.Message}) // a caller that is gone needs no answer
}

// plainly takes the library's mark off an error; it varies on purpose.
func plainly(err error) string {
	return strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
}
