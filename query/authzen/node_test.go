package authzen_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/serve"
	"google.golang.org/protobuf/types/known/structpb"
)

// A node is a whole replica on an in-memory log, serving on loopback, with clients of the
// native API beside.
type node struct {
	grantlogv1connect.LedgerServiceClient
	grantlogv1connect.PermissionServiceClient
	grantlogv1connect.StoreServiceClient
	url string
}

func newNode(t testing.TB, change ...func(*serve.Config)) *node {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	log := ledgertest.NewLog(t)
	cfg := serve.Config{Engine: query.NewEngine(query.Budgets{}), MaxWait: 5 * time.Second, Logger: quiet}
	for _, f := range change {
		f(&cfg)
	}
	p, err := projector.Open(projector.Config{
		Log: log, Index: index.Options{Dir: t.TempDir(), Logger: quiet},
		CheckEvery: 20 * time.Millisecond, RetryAfter: 10 * time.Millisecond, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	l := ledger.New(ledger.Config{Log: log, Watch: p.Watch, Ready: p.Ready, RetryFor: time.Second, Logger: quiet})
	cfg.Ledger, cfg.Projector = l, p
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { // ends with ctx
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	server := httptest.NewServer(serve.New(cfg).Handler())
	t.Cleanup(func() {
		server.Close()
		l.Close()
		stop()
		running.Wait()
		if err := p.Close(); err != nil {
			t.Errorf("close the projector: %v", err)
		}
	})
	c := http.DefaultClient
	return &node{grantlogv1connect.NewLedgerServiceClient(c, server.URL), grantlogv1connect.NewPermissionServiceClient(c, server.URL),
		grantlogv1connect.NewStoreServiceClient(c, server.URL), server.URL}
}

// store creates a store with a model, "" for none, and these grants.
func (n *node) store(t testing.TB, source string, grants ...*pb.Grant) string {
	t.Helper()
	created, err := n.CreateStore(t.Context(), &pb.CreateStoreRequest{Name: "acme", Actor: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	store := created.Store.Id
	if source != "" {
		n.apply(t, store, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: source}}})
	}
	for len(grants) > 0 {
		some := grants[:min(len(grants), 50)]
		grants = grants[len(some):]
		changes := make([]*pb.Change, len(some))
		for i, g := range some {
			changes[i] = &pb.Change{Change: &pb.Change_Grant{Grant: g}}
		}
		n.apply(t, store, changes...)
	}
	return store
}

func (n *node) apply(t testing.TB, store string, changes ...*pb.Change) {
	t.Helper()
	answer, err := n.Submit(t.Context(), &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Store: store, Changes: changes}})
	if err != nil || answer.Outcome.GetKind() != pb.Outcome_APPLIED {
		t.Fatalf("submit: %v, %v", answer, err)
	}
}

// grant is of a tuple, with a condition and its context unless they are "".
func grant(object, relation, subject, condition, context string) *pb.Grant {
	g := &pb.Grant{Tuple: &pb.Tuple{Object: object, Relation: relation, Subject: subject}, Condition: condition}
	if context != "" {
		g.Context = new(structpb.Struct)
		if err := g.Context.UnmarshalJSON([]byte(context)); err != nil {
			panic(err)
		}
	}
	return g
}

// do sends a request with the body in JSON and returns the status and the answer.
func (n *node) do(t testing.TB, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if kind := resp.Header.Get("Content-Type"); kind != "application/json" && resp.StatusCode == http.StatusOK {
		t.Errorf("%s %s answers with %s", method, path, kind)
	}
	return resp, strings.TrimSpace(string(answer))
}

// post returns the answer to a request, which must be status 200 with JSON.
func (n *node) post(t testing.TB, path, body string) string {
	t.Helper()
	resp, answer := n.do(t, http.MethodPost, path, body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s %s = %d %s", path, body, resp.StatusCode, answer)
	}
	return answer
}

// A result is an item of a search.
type result struct{ Type, ID, Name string }

// A listing is the answer to a search.
type listing struct {
	Page struct {
		Next  string `json:"next_token"`
		Count int
	}
	Context struct {
		Reason    string
		Wildcard  bool
		Excluded  []result
		Undecided []struct {
			result
			Error struct {
				Status  int
				Message string
			}
		}
	}
	Results []result
}

// search returns the answer to a search.
func (n *node) search(t testing.TB, path, body string) (l listing) {
	t.Helper()
	answer := n.post(t, path, body)
	if err := json.Unmarshal([]byte(answer), &l); err != nil {
		t.Fatalf("%v in %s", err, answer)
	}
	if l.Results == nil || l.Page.Count != len(l.Results) {
		t.Errorf("POST %s %s = %s, want results and their count", path, body, answer)
	}
	return l
}

// names returns what the results are called, in their order.
func (l listing) names() string {
	var names []string
	for _, r := range l.Results {
		names = append(names, r.ID+r.Name)
	}
	return strings.Join(names, " ")
}
