package openfga_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/query/openfga"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// TestListLimit holds that lists end at 1,000 items, and streams do not, over both
// transports.
func TestListLimit(t *testing.T) {
	w := newWorld(t)
	const n = 1100
	var all []string // in order
	for i := 0; i < n; i += 100 {
		var tuples []string
		for j := i; j < i+100; j++ {
			object := fmt.Sprintf("doc:%04d", j)
			all = append(all, object)
			tuples = append(tuples, "user:hal owner "+object, fmt.Sprintf("user:%04d owner doc:popular", j))
		}
		w.grant(t, tuples...)
	}
	body := `{"type":"doc","relation":"owner","user":"user:hal"}`
	answer, message := w.ask(t, "ListObjects", body)
	var list struct{ Objects []string }
	if err := json.Unmarshal([]byte(answer), &list); err != nil || !slices.Equal(list.Objects, all[:1000]) {
		t.Errorf("ListObjects = %d objects, %v %s, want the first 1000", len(list.Objects), err, message)
	}
	answer, _ = w.ask(t, "ListUsers", `{"object":{"type":"doc","id":"popular"},"relation":"owner","user_filters":[{"type":"user"}]}`)
	if got := strings.Count(answer, `"object"`); got != 1000 {
		t.Errorf("ListUsers = %d users, want 1000", got)
	}

	// That there may be more is told beside the answer, and only then.
	for relation, want := range map[string]string{"owner": "limit", "blocked": ""} {
		var trailer metadata.MD
		_, err := w.ListObjects(context10(t), &openfgav1.ListObjectsRequest{StoreId: w.store, Type: "doc", Relation: relation, User: "user:hal"}, grpc.Trailer(&trailer))
		if got := strings.Join(trailer.Get(openfga.EndedHeader), ","); err != nil || got != want {
			t.Errorf("trailer of %s = %v, %v, want %q", relation, trailer, err, want)
		}
		resp, err := http.Post("http://"+w.address+"/stores/"+w.store+"/list-objects", "", strings.NewReader(strings.Replace(body, "owner", relation, 1)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get(openfga.EndedHeader); got != want {
			t.Errorf("header of %s = %q, want %q", relation, got, want)
		}
	}

	stream, err := w.StreamedListObjects(context10(t), &openfgav1.StreamedListObjectsRequest{StoreId: w.store, Type: "doc", Relation: "owner", User: "user:hal"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.GetObject())
	}
	if !slices.Equal(got, all) {
		t.Errorf("StreamedListObjects = %d objects over gRPC, want all %d", len(got), n)
	}
	code, lines := w.do(t, http.MethodPost, "/stores/"+w.store+"/streamed-list-objects", body)
	var want strings.Builder
	for _, object := range all {
		fmt.Fprintf(&want, "{\"result\":{\"object\":%q}}\n", object)
	}
	if got := strings.ReplaceAll(lines, `": "`, `":"`); code != http.StatusOK || got != want.String() {
		t.Errorf("StreamedListObjects = %d with %d lines over HTTP, want all %d; it begins %.100s", code, strings.Count(lines, "\n"), n, lines)
	}
	code, lines = w.do(t, http.MethodPost, "/stores/"+w.store+"/streamed-list-objects", `{"type":"doc","relation":"owner","user":"user:zoe"}`)
	if code != http.StatusOK || lines != "" {
		t.Errorf("an empty stream = %d %q", code, lines)
	}
}

// TestStreamErrors holds that a stream that cannot begin says why as other operations do,
// and one that fails on its way has the error as its last line.
func TestStreamErrors(t *testing.T) {
	w := newWorld(t)
	w.grant(t, "user:gus viewer doc:a", "user:gus viewer doc:d office")
	path := "/stores/" + w.store + "/streamed-list-objects"
	w.wantError(t, http.MethodPost, path, `{"type":"page","relation":"viewer","user":"user:ann"}`, 400, "type_not_found", "type: ")
	stream, err := w.StreamedListObjects(context10(t), &openfgav1.StreamedListObjectsRequest{StoreId: w.store, Type: "page", Relation: "viewer", User: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, 2021, "type: ")

	code, lines := w.do(t, http.MethodPost, path, `{"type":"doc","relation":"viewer","user":"user:gus"}`)
	line := strings.Split(strings.TrimSuffix(strings.ReplaceAll(lines, `": "`, `":"`), "\n"), "\n")
	last := line[len(line)-1]
	var failed struct {
		Error struct {
			Code    int
			Message string
		}
	}
	if want := []string{`{"result":{"object":"doc:a"}}`, `{"result":{"object":"doc:c"}}`}; code != http.StatusOK || !slices.Equal(line[:len(line)-1], want) {
		t.Errorf("stream = %d %s, want %q first", code, lines, want)
	}
	if err := json.Unmarshal([]byte(last), &failed); err != nil || failed.Error.Code != 2000 || !strings.Contains(failed.Error.Message, "allowed") {
		t.Errorf("the last line is %s, %v, want the error", last, err)
	}
}
