package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/proto"
)

const (
	kills   = 20
	writers = 16
)

// A sent is one command of the crash test, as its caller knows it.
type sent struct {
	id       string
	tuple    *pb.Tuple
	answers  []*pb.SubmitResponse // of every try that was answered
	tries    int
	conflict error // an error that no crash explains
}

// TestKill kills the program with SIGKILL under load, again and again on one data
// directory. A caller whose answer is lost tries half of its commands again under the
// same id, and gives up the others. In the end the log has every command that was
// acknowledged, where it was acknowledged, and has applied none twice.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	p := mustStart(t, dir)
	c := newClient(p.url)
	created, err := c.stores.CreateStore(t.Context(), &pb.CreateStoreRequest{Name: "crash"})
	if err != nil {
		t.Fatal(err)
	}
	store := created.GetStore().GetId()
	_, err = c.ledger.Submit(t.Context(), &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{
		modelChange(ledger.SourceDSL, []byte("model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define viewer: [user]\n"))}}})
	if err != nil {
		t.Fatal(err)
	}

	var all, open []*sent // open: tried without an answer, to be tried again
	inFlight, round := 0, 0
	for kill := 0; kill < kills; round++ {
		// A random moment, so that kills fall into every step of an append and a fold.
		after := 30*time.Millisecond + rand.N(220*time.Millisecond)
		made, lost := load(t.Context(), p, store, round, open, after, p.kill)
		// All that were in flight may be answered together just before the kill, which then
		// does not count.
		if lost > 0 {
			kill++
		} else if round > 2*kills {
			t.Fatalf("of %d kills only %d hit commands in flight", round+1, kill)
		}
		inFlight += lost
		all = append(all, made...)
		open = nil
		for i, s := range all {
			if s.conflict != nil {
				t.Fatalf("command %s: %v", s.id, s.conflict)
			}
			if len(s.answers) == 0 && i%2 == 0 {
				open = append(open, s)
			}
		}
		p = mustStart(t, dir)
	}
	// An orderly end under load loses nothing either.
	made, _ := load(t.Context(), p, store, round, nil, 50*time.Millisecond, func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	all = append(all, made...)
	p = mustStart(t, dir)
	// What is still open is settled by trying once more, and what was answered may be
	// tried again as well: it is a duplicate then.
	c = newClient(p.url)
	for i, s := range all {
		if len(s.answers) == 0 && i%2 == 0 || i%50 == 0 {
			try(t.Context(), c, store, s)
			if s.conflict != nil || len(s.answers) == 0 {
				t.Fatalf("command %s without a kill: %v", s.id, s.conflict)
			}
		}
	}
	entries, err := replayed(t.Context(), c, store)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range crashFaults(all, entries) {
		t.Error(fault)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	acknowledged, silent := 0, 0
	for _, s := range all {
		if len(s.answers) > 0 {
			acknowledged++
		} else if slices.ContainsFunc(entries, func(e *pb.Entry) bool { return e.GetCommand().GetId() == s.id }) {
			silent++
		}
	}
	t.Logf("%d commands, %d acknowledged, %d recorded and never acknowledged, %d in flight at the kills, %d entries",
		len(all), acknowledged, silent, inFlight, len(entries))
}

func mustStart(t *testing.T, dir string) *process {
	t.Helper()
	p, err := startServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// load has writers submit commands, those of again first, and ends the process after a
// while. It returns the new commands, and how many were sent to the process and not
// answered, because the end came.
func load(ctx context.Context, p *process, store string, round int, again []*sent, after time.Duration, end func()) (made []*sent, lost int) {
	ctx, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	var (
		mu       sync.Mutex   // guards made and again
		inFlight atomic.Int64 // sent and not answered, because the end came
		underway atomic.Int64 // sent and not answered yet
		wg       sync.WaitGroup
		once     sync.Once
		begun    = make(chan struct{}) // closed when the first command is answered
	)
	transport := &http.Transport{MaxIdleConnsPerHost: writers}
	defer transport.CloseIdleConnections()
	c := newClientOver(&http.Client{Transport: transport}, p.url)
	for w := range writers {
		wg.Go(func() { // ends with the first command that is not answered: the process is dead
			for n := 0; ; n++ {
				mu.Lock()
				var s *sent
				if len(again) > 0 {
					s, again = again[0], again[1:]
				} else {
					s = &sent{id: ledger.NewUUID().String(), tuple: &pb.Tuple{
						Object: fmt.Sprintf("doc:r%d-w%d-%d", round, w, n), Relation: "viewer", Subject: "user:ann"}}
					made = append(made, s)
				}
				mu.Unlock()
				var wrote atomic.Bool
				traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
					WroteRequest: func(w httptrace.WroteRequestInfo) {
						if w.Err == nil && !wrote.Swap(true) {
							underway.Add(1)
						}
					},
				})
				answered := try(traced, c, store, s)
				if wrote.Load() {
					underway.Add(-1)
				}
				if !answered {
					if wrote.Load() { // to a server that was there, and did not answer any more
						inFlight.Add(1)
					}
					return
				}
				once.Do(func() { close(begun) })
			}
		})
	}
	select {
	case <-begun: // on a busy machine it takes a while until the first is answered
		time.Sleep(after)
		// Callers are now and then all between two commands; the end is to hit commands.
		for ctx.Err() == nil && underway.Load() < writers/2 {
			runtime.Gosched()
		}
	case <-ctx.Done():
	}
	end()
	wg.Wait()
	return made, int(inFlight.Load())
}

// try submits the command once, and reports whether an answer came.
func try(ctx context.Context, c *client, store string, s *sent) bool {
	s.tries++
	r, err := c.ledger.Submit(ctx, &pb.SubmitRequest{Command: &pb.Command{Id: s.id, Store: store, Changes: []*pb.Change{
		{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: s.tuple}}}}}})
	if err == nil {
		s.answers = append(s.answers, r)
		return true
	}
	var failed *connect.Error
	if connect.IsWireError(err) && errors.As(err, &failed) && failed.Code() != connect.CodeUnavailable && failed.Code() != connect.CodeUnknown {
		s.conflict = err
	}
	return connect.IsWireError(err)
}

func replayed(ctx context.Context, c *client, store string) (entries []*pb.Entry, err error) {
	err = c.replay(ctx, &pb.ReplayRequest{Store: store}, func(m *pb.ReplayResponse) error {
		entries = append(entries, m.GetEntries()...)
		return nil
	})
	return entries, err
}

// crashFaults returns every way in which the entries differ from what the callers of
// the commands were told.
func crashFaults(all []*sent, entries []*pb.Entry) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	applied := map[string]*pb.Entry{} // by command
	effects := map[string]int{}       // by tuple
	for i, e := range entries {
		if e.GetRevision() != uint64(i+1) {
			fault("entry %d has revision %d", i+1, e.GetRevision())
		}
		id := e.GetCommand().GetId()
		switch e.GetOutcome().GetKind() {
		case pb.Outcome_APPLIED:
			if applied[id] != nil {
				fault("command %s is applied at revisions %d and %d", id, applied[id].GetRevision(), e.GetRevision())
			}
			applied[id] = e
			if g := e.GetCommand().GetChanges()[0].GetGrant(); g != nil {
				effects[said(g.GetTuple())] += int(e.GetOutcome().GetEffective())
			}
		case pb.Outcome_DUPLICATE:
			if first := applied[id]; first == nil || first.GetRevision() != e.GetOutcome().GetFirst() {
				fault("revision %d is a duplicate of revision %d, which did not apply command %s", e.GetRevision(), e.GetOutcome().GetFirst(), id)
			}
		default:
			fault("revision %d: command %s is %s", e.GetRevision(), id, rejectionText(e.GetOutcome().GetRejection()))
		}
	}
	for _, s := range all {
		if n := effects[said(s.tuple)]; n > 1 {
			fault("the grant of command %s had an effect %d times", s.id, n)
		}
		for _, r := range s.answers {
			if r.GetRevision() == 0 || r.GetRevision() > uint64(len(entries)) {
				fault("command %s was acknowledged at revision %d of %d: it is lost", s.id, r.GetRevision(), len(entries))
				continue
			}
			e := entries[r.GetRevision()-1]
			if e.GetCommand().GetId() != s.id || !proto.Equal(e.GetOutcome(), r.GetOutcome()) {
				fault("command %s was acknowledged at revision %d as %v: there stands %s, %v", s.id, r.GetRevision(), r.GetOutcome(), e.GetCommand().GetId(), e.GetOutcome())
			}
			if applied[s.id] == nil || !proto.Equal(applied[s.id].GetCommand().GetChanges()[0].GetGrant().GetTuple(), s.tuple) {
				fault("command %s was acknowledged and is not applied", s.id)
			}
		}
	}
	return faults
}

// TestCrashFaults is the negative control of TestKill: each loss and each repetition
// that it looks for is found.
func TestCrashFaults(t *testing.T) {
	entry := func(rev uint64, id, object string, outcome *pb.Outcome) *pb.Entry {
		return &pb.Entry{Revision: rev, Outcome: outcome, Command: &pb.Command{Id: id, Changes: []*pb.Change{
			{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: &pb.Tuple{Object: object, Relation: "viewer", Subject: "user:ann"}}}}}}}
	}
	applied := &pb.Outcome{Kind: pb.Outcome_APPLIED, Effective: 1}
	answered := func(id, object string, rev uint64) *sent {
		return &sent{id: id, tuple: &pb.Tuple{Object: object, Relation: "viewer", Subject: "user:ann"},
			answers: []*pb.SubmitResponse{{Id: id, Revision: rev, Outcome: applied}}}
	}
	a, b := entry(1, "a", "doc:a", applied), entry(2, "b", "doc:b", applied)
	both := []*sent{answered("a", "doc:a", 1), answered("b", "doc:b", 2)}
	for _, tt := range []struct {
		name    string
		entries []*pb.Entry
		faults  bool
	}{
		{"as told", []*pb.Entry{a, b}, false},
		{"a duplicate as well", []*pb.Entry{a, b, entry(3, "a", "doc:a", &pb.Outcome{Kind: pb.Outcome_DUPLICATE, First: 1})}, false},
		{"the last is lost", []*pb.Entry{a}, true},
		{"all are lost", nil, true},
		{"one in the middle is lost", []*pb.Entry{a, entry(2, "c", "doc:c", applied)}, true},
		{"applied twice under its id", []*pb.Entry{a, b, entry(3, "a", "doc:a", applied)}, true},
		{"applied twice under another id", []*pb.Entry{a, b, entry(3, "c", "doc:a", applied)}, true},
		{"a duplicate of nothing", []*pb.Entry{a, b, entry(3, "c", "doc:c", &pb.Outcome{Kind: pb.Outcome_DUPLICATE, First: 1})}, true},
		{"rejected after all", []*pb.Entry{a, entry(2, "b", "doc:b", &pb.Outcome{Kind: pb.Outcome_REJECTED, Rejection: &pb.Rejection{}})}, true},
		{"another tuple", []*pb.Entry{a, entry(2, "b", "doc:c", applied)}, true},
		{"a revision is missing", []*pb.Entry{a, entry(3, "b", "doc:b", applied)}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if faults := crashFaults(both, tt.entries); (len(faults) > 0) != tt.faults {
				t.Errorf("crashFaults = %q, want any: %t", faults, tt.faults)
			}
		})
	}
}
