package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Ctrl-C while a server does not answer is no doubt about the server.
func TestInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the end of the request is not seen
		interrupt()
		<-r.Context().Done()
	}))
	defer silent.Close()
	var stderr bytes.Buffer
	status := run(ctx, []string{"store", "list", "--server", silent.URL}, strings.NewReader(""), io.Discard, &stderr)
	if want := "grantlog: interrupted\n"; status != statusError || stderr.String() != want {
		t.Errorf("status %d with %q, want %d with %q", status, stderr.String(), statusError, want)
	}
}

// What ends a request from outside is no Ctrl-C: the transport cancels a request, too,
// whose server dies before it answers.
func TestCutOff(t *testing.T) {
	c := newClient("http://127.0.0.1:1/")
	canceled := connect.NewError(connect.CodeCanceled, context.Canceled)
	if err := c.plain(canceled); err.Error() != "unavailable: the answer from http://127.0.0.1:1 was cut off" {
		t.Errorf("without Ctrl-C: %v", err)
	}
	c.interrupted = func() bool { return true }
	if err := c.plain(canceled); err.Error() != "interrupted" {
		t.Errorf("with Ctrl-C: %v", err)
	}
}

// A moment is printed in the digits that JSON has, so that one can be compared with the other.
func TestExactly(t *testing.T) {
	for _, nanos := range []int64{0, 1, 10, 120_000_000, 123_000, 123_456_000, 999_999_999, 500_000_000} {
		at := timestamppb.New(time.Unix(1_700_000_000, nanos))
		want, err := protojson.Marshal(at)
		if got := exactly(at); err != nil || `"`+got+`"` != string(want) {
			t.Errorf("exactly = %s, want %s, %v", got, want, err)
		}
	}
}

// A refusing sends a replay that says how far it got, and then ends with the error.
type refusing struct {
	grantlogv1connect.UnimplementedAuditServiceHandler
	err *connect.Error
}

func (r *refusing) Replay(_ context.Context, _ *pb.ReplayRequest, stream *connect.ServerStream[pb.ReplayResponse]) error {
	if err := stream.Send(&pb.ReplayResponse{ResumeToken: "here"}); err != nil {
		return err
	}
	return r.err
}

// A stream that breaks off says how to go on, and one that is refused does not: it has
// found a mistake of who asks.
func TestReplayBroken(t *testing.T) {
	refused := connect.NewError(connect.CodeInvalidArgument, errors.New("filter.type: no such type"))
	detail, err := connect.NewErrorDetail(&pb.Rejection{Field: "filter.type"})
	if err != nil {
		t.Fatal(err)
	}
	refused.AddDetail(detail)
	for _, tt := range []struct {
		err  *connect.Error
		want string
	}{
		{connect.NewError(connect.CodeUnavailable, errors.New("the server ends")), "grantlog: unavailable: the server ends; go on with --resume here\n"},
		{refused, "grantlog: invalid_argument: filter.type: no such type\n"},
	} {
		mux := http.NewServeMux()
		mux.Handle(grantlogv1connect.NewAuditServiceHandler(&refusing{err: tt.err}))
		server := httptest.NewServer(mux)
		defer server.Close()
		var stderr bytes.Buffer
		status := run(t.Context(), []string{"replay", "--type", "lion", "--store", "01HZX3V5N8K2Q7R4T6W9Y1B3D5", "--server", server.URL}, strings.NewReader(""), io.Discard, &stderr)
		if status != statusError || stderr.String() != tt.want {
			t.Errorf("status %d with %q, want %d with %q", status, stderr.String(), statusError, tt.want)
		}
	}
}
