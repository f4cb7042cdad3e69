package serve

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The codecs refuse a request that holds a field they do not know, in JSON and in
// binary: a limit or a precondition that was misspelled, or that a newer client knows
// and this server does not, must not be ignored.

// binaryCodec is Connect's "proto".
type binaryCodec struct{}

// Name is part of the content type.
func (binaryCodec) Name() string { return "proto" }

// Marshal returns the message's encoding.
func (binaryCodec) Marshal(message any) ([]byte, error) {
	return proto.Marshal(message.(proto.Message))
}

// MarshalAppend appends the message's encoding.
func (binaryCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(dst, message.(proto.Message))
}

// Unmarshal reads a message without unknown fields.
func (binaryCodec) Unmarshal(data []byte, message any) error {
	m := message.(proto.Message)
	if err := proto.Unmarshal(data, m); err != nil {
		return plainly(err)
	}
	if path := unknownField(m.ProtoReflect()); path != "" {
		return fmt.Errorf("unknown field %s: this server is older than the client", path)
	}
	return nil
}

// jsonCodec is Connect's "json", under its two names.
type jsonCodec struct{ name string }

// Name is part of the content type.
func (c jsonCodec) Name() string { return c.name }

// Marshal returns the message in JSON. Values that are false, 0 or empty are written,
// so that a denial reads "allowed": false.
func (c jsonCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend appends the message in JSON.
func (jsonCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	return protojson.MarshalOptions{EmitDefaultValues: true}.MarshalAppend(dst, message.(proto.Message))
}

// Unmarshal reads a JSON message without unknown fields.
func (jsonCodec) Unmarshal(data []byte, message any) error {
	if err := protojson.Unmarshal(data, message.(proto.Message)); err != nil {
		return plainly(err)
	}
	return nil
}

// plainly takes the library's mark off an error; it varies on purpose.
func plainly(err error) error {
	text := strings.TrimPrefix(err.Error(), "proto:")
	return fmt.Errorf("%s", strings.TrimLeft(text, " \u00a0"))
}

// unknownField returns the path of a field of m or its parts that is not known, by
// its number, or "".
func unknownField(m protoreflect.Message) (path string) {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		number, _, _ := protowire.ConsumeTag(unknown)
		return strconv.Itoa(int(number))
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap() || f.Message().ParentFile().Package() == "google.protobuf":
		case f.IsList():
			list := v.List()
			for i := 0; i < list.Len() && path == ""; i++ {
				if inner := unknownField(list.Get(i).Message()); inner != "" {
					path = fmt.Sprintf("%s[%d].%s", f.Name(), i, inner)
				}
			}
		default:
			if inner := unknownField(v.Message()); inner != "" {
				path = fmt.Sprintf("%s.%s", f.Name(), inner)
			}
		}
		return path == ""
	})
	return path
}

// piecesWithin gives each piece of a request's body limit, in place of the limit that the
// server has for the whole.
func piecesWithin(limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timed := *r // the server looks at the body of its own
		timed.Body = &timedBody{ReadCloser: r.Body, connection: http.NewResponseController(w), limit: limit}
		next.ServeHTTP(w, &timed)
	})
}

type timedBody struct {
	io.ReadCloser
	connection *http.ResponseController
	limit      time.Duration
}

// Read reads as the body does. The end of the body takes the limit back, because on
// HTTP/1 the server reads on to see its caller leave. An error does not: the server reads
// on as well, for the rest of the body, before it answers.
func (b *timedBody) Read(p []byte) (int, error) {
	b.connection.SetReadDeadline(time.Now().Add(b.limit)) // without it, the server's limit holds
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.connection.SetReadDeadline(time.Time{})
	}
	return n, err
}

// sendWithin gives each piece of an answer limit until the caller has taken it, so
// that one that stops reading does not hold a stream for ever.
func sendWithin(limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timed := &timedWriter{ResponseWriter: w, connection: http.NewResponseController(w), limit: limit}
		defer timed.connection.SetWriteDeadline(time.Time{}) // the connection may serve other requests
		next.ServeHTTP(timed, r)
	})
}

type timedWriter struct {
	http.ResponseWriter
	connection *http.ResponseController
	limit      time.Duration
}

// Unwrap lets a ResponseController reach the connection.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write writes as the answer's writer does.
func (w *timedWriter) Write(p []byte) (int, error) {
	w.connection.SetWriteDeadline(time.Now().Add(w.limit)) // without it, writing just has no limit
	return w.ResponseWriter.Write(p)
}

// Flush sends what was written. The time limit ends with it: on HTTP/2 it would end
// the stream even while nothing is being written.
func (w *timedWriter) Flush() {
	w.connection.Flush()
	w.connection.SetWriteDeadline(time.Time{})
}
