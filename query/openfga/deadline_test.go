package openfga

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantlog/grantlog/ledger/model"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
)

// TestListDeadline holds that a list that takes too long is what was found until then,
// and that nothing else ends it early without an error.
func TestListDeadline(t *testing.T) {
	broken := errors.New("broken")
	// slow yields an item at once and the others 0.9 seconds later each, as the engine does
	// until its context ends.
	slow := func(ids ...string) func(context.Context) iter.Seq2[model.Item, error] {
		return func(ctx context.Context) iter.Seq2[model.Item, error] {
			return func(yield func(model.Item, error) bool) {
				for i, id := range ids {
					if i > 0 {
						time.Sleep(900 * time.Millisecond)
					}
					if err := ctx.Err(); err != nil {
						yield(model.Item{}, err)
						return
					}
					item := model.Item{ID: id}
					if id == "broken" {
						item.Err = broken
					}
					if !yield(item, nil) {
						return
					}
				}
			}
		}
	}
	for _, tt := range []struct {
		name    string
		patient time.Duration // of the caller
		items   []string
		want    []string
		ended   string
		err     error
	}{
		{"in time", time.Minute, []string{"a", "b", "c"}, []string{"a", "b", "c"}, "", nil},
		{"too long", time.Minute, []string{"a", "b", "c", "d", "e"}, []string{"a", "b", "c", "d"}, "deadline", nil},
		{"an item has no answer", time.Minute, []string{"a", "broken", "c"}, []string{"a"}, "", broken},
		{"the caller's deadline", 1500 * time.Millisecond, []string{"a", "b", "c"}, []string{"a", "b"}, "", context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.patient)
				defer cancel()
				var got []string
				var told string
				ctx = context.WithValue(ctx, tellKey{}, func(_, why string) { told = why })
				cut, err := list(ctx, func(id string) string { return "doc:" + id }, slow(tt.items...), func(i model.Item) (bool, error) { got = append(got, i.ID); return true, nil })
				if tt.err == broken && !strings.HasPrefix(err.Error(), "doc:broken: ") {
					t.Errorf("error = %v, want the item's name in it", err)
				}
				if !errors.Is(err, tt.err) || !slices.Equal(got, tt.want) || told != tt.ended || cut != (tt.ended != "") {
					t.Errorf("list = %q, %v, ended by %q, cut %t, want %q, %v, %q", got, err, told, cut, tt.want, tt.err, tt.ended)
				}
			})
		})
	}
}

// TestStreamEnded holds that over HTTP, where the headers of a stream are long sent, why it
// ended comes behind it.
func TestStreamEnded(t *testing.T) {
	stream := route{
		status: http.StatusOK, streams: true,
		request: func() proto.Message { return &openfgav1.StreamedListObjectsRequest{} },
		answer: func(ctx context.Context, _ proto.Message, send func(proto.Message) error) *Error {
			if err := send(&openfgav1.StreamedListObjectsResponse{Object: "doc:a"}); err != nil {
				return internalError
			}
			ended(ctx, "deadline")
			return nil
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { stream.serve(w, r, nil) }))
	defer server.Close()
	resp, err := http.Post(server.URL, "", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if got := resp.Trailer.Get(EndedHeader); err != nil || got != "deadline" || !strings.Contains(string(body), "doc:a") {
		t.Errorf("stream = %s with trailer %v, %v", body, resp.Trailer, err)
	}
}
