package projector

import (
	"context"
	"errors"
	"iter"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/projector/index"
)

// The tests of this file are about what happens to the log between two steps of the
// projector, and at the edges of recovery. Those of races failed, or hung, before their fixes.

// other is the subject of another edge on the same log.
var other = ledger.Subject("main", ledger.EdgeSubject, "other")

func envelope(c *ledger.Command) []byte {
	if c.ID.IsZero() {
		c.ID = ledger.NewUUID()
	}
	return ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: ledger.Origin{Actor: "bob", Method: ledger.MethodNone}, Raw: ledger.AppendCommand(nil, c)}})
}

// A hookedLog does something just before its next Read, and tells a head that is one
// short when told to.
type hookedLog struct {
	*ledgertest.Log
	mu    sync.Mutex // guards next
	next  func()
	short atomic.Bool
}

func (l *hookedLog) Read(ctx context.Context, from uint64) iter.Seq2[ledger.Message, error] {
	l.mu.Lock()
	next := l.next
	l.next = nil
	l.mu.Unlock()
	if next != nil {
		next()
	}
	return l.Log.Read(ctx, from)
}

func (l *hookedLog) Head(ctx context.Context) (first, last uint64, err error) {
	first, last, err = l.Log.Head(ctx)
	if l.short.Swap(false) {
		last--
	}
	return first, last, err
}

func TestRewoundBetweenComparingAndReading(t *testing.T) {
	b := ledgertest.NewBroker()
	var log *hookedLog
	r := start(t, b, t.TempDir(), func(c *Config) {
		log = &hookedLog{Log: c.Log.(*ledgertest.Log)}
		c.Log = log
	})
	store := r.newStore()
	lost := r.submit(grant(t, store, "lost", "ann"))
	log.mu.Lock()
	log.next = func() {
		b.Rewind(1)
		b.Put(other, envelope(grant(t, store, "x", "ann")))
		b.Put(other, envelope(grant(t, store, "y", "ann")))
	}
	log.mu.Unlock()
	b.Disconnect()
	within(t, "quarantine", func() bool { return r.Quarantine() != nil })
	if err := r.Quarantine(); !errors.Is(err, ledger.ErrRewound) {
		t.Errorf("Quarantine = %v, want ErrRewound", err)
	}
	if h, _ := r.Index().Head(store); h.Revision != lost.Revision {
		t.Errorf("the store is at revision %d, want what was folded before: %d", h.Revision, lost.Revision)
	}
}

func TestQuarantineEndsTheFold(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	store := r.newStore()
	c := grant(t, store, "late", "ann")
	c.ID = ledger.NewUUID()
	decided, cancel := r.Watch(ledger.Key{Store: store, Actor: "bob", ID: c.ID, Content: c.ContentHash()})
	defer cancel()
	b.Drift("max_msgs")
	within(t, "quarantine", func() bool { return r.Quarantine() != nil })
	applied := r.Status().Applied
	b.Put(other, envelope(c))
	if d, ok := <-decided; ok {
		t.Errorf("a quarantined replica says %+v, want the channel closed", d)
	}
	time.Sleep(50 * time.Millisecond)
	if now := r.Status().Applied; now != applied || r.Index().Position().Seq != applied {
		t.Errorf("a quarantined replica folds on from %d to %d", applied, now)
	}
	if late, cancel := r.Watch(ledger.Key{}); true {
		defer cancel()
		if _, ok := <-late; ok {
			t.Error("a quarantined replica lets a command be waited for")
		}
	}
}

func TestLatestOfARewoundLog(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), func(c *Config) { c.RetryAfter, c.CheckEvery = time.Minute, time.Minute })
	store := r.newStore()
	r.submit(grant(t, store, "plan", "ann"))
	for range 5 {
		r.submit(grant(t, store, "plan", ledger.NewUUID().String()))
	}
	// The fold is disconnected and waits; the log is put back, and takes a revoke from
	// another edge under a sequence that was folded here.
	b.Rewind(5)
	b.Disconnect()
	b.Put(other, envelope(&ledger.Command{Store: store, Changes: []ledger.Change{{Kind: ledger.Revoke, Tuple: viewer(t, "plan", "ann")}}}))
	if live, err := r.holds(store, Freshness{Kind: Latest}, "plan", "ann"); live || !errors.Is(err, ledger.ErrQuarantined) {
		t.Errorf("latest after a revoke that was acknowledged: %v, %v, want ErrQuarantined", live, err)
	}
}

func TestOneShortHeadIsNoRewind(t *testing.T) {
	b := ledgertest.NewBroker()
	var log *hookedLog
	r := start(t, b, t.TempDir(), func(c *Config) {
		log = &hookedLog{Log: c.Log.(*ledgertest.Log)}
		c.Log = log
	})
	store := r.newStore()
	log.short.Store(true)
	within(t, "looking at the head", func() bool { return !log.short.Load() })
	time.Sleep(20 * time.Millisecond)
	if err := r.Quarantine(); err != nil {
		t.Errorf("Quarantine = %v", err)
	}
	r.submit(grant(t, store, "plan", "ann"))
}

// TestGapThatWasFolded: a replica has folded what another one accepted as missing.
func TestGapThatWasFolded(t *testing.T) {
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	a := start(t, b, dir, nil)
	store := a.newStore()
	a.submit(grant(t, store, "gone", "ann"))
	_, seq, err := a.log.Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	a.submit(grant(t, store, "kept", "ann"))
	b.Drop(seq)
	loss, c := recovered(t, b, t.TempDir())
	if want := (ledger.Cut{From: seq, To: seq, Missing: true}); len(loss.Cuts) != 1 || loss.Cuts[0] != want {
		t.Fatalf("Recover = %+v, want %+v", loss, want)
	}
	within(t, "quarantine", func() bool { return a.Quarantine() != nil })
	if err := a.Quarantine(); !errors.Is(err, ledger.ErrGap) {
		t.Errorf("Quarantine = %v, want ErrGap", err)
	}
	a.stop()
	_, a = recovered(t, b, dir)
	c.caughtUp()
	if a.Index().Accumulator() != c.Index().Accumulator() {
		t.Error("after Recover the two replicas differ")
	}
	if live, err := a.holds(store, Freshness{}, "gone", "ann"); live || err != nil {
		t.Errorf("what was given up is live: %v, %v", live, err)
	}
}

// TestRecoverNewestMissing: the log counts a message at its end that it does not have.
func TestRecoverNewestMissing(t *testing.T) {
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	r := start(t, b, dir, nil)
	store := r.newStore()
	r.submit(grant(t, store, "gone", "ann"))
	_, seq, err := r.log.Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	b.Drop(seq)
	loss, r := recovered(t, b, dir)
	if want := (ledger.Cut{From: seq, To: seq, Missing: true}); !errors.Is(loss.Cause, ledger.ErrGap) || len(loss.Cuts) != 1 || loss.Cuts[0] != want || len(loss.Entries) != 1 {
		t.Errorf("Recover = %+v, want %+v", loss, want)
	}
	if d := r.submit(grant(t, store, "next", "ann")); d.Outcome.Kind != ledger.Applied || d.Token.Epoch != 1 {
		t.Errorf("a command afterwards: %+v", d)
	}
}

func TestRecoverWithoutAccepting(t *testing.T) {
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	r := start(t, b, dir, nil)
	store := r.newStore()
	r.submit(grant(t, store, "lost", "ann"))
	r.stop()
	b.Rewind(1)
	messages := len(b.Messages())
	log, err := b.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	loss, err := Recover(t.Context(), config(log, dir), index.Options{Dir: filepath.Join(t.TempDir(), "fresh"), Logger: quiet}, false, "", "")
	if err != nil || !errors.Is(loss.Cause, ledger.ErrRewound) || len(loss.Entries) != 1 || len(b.Messages()) != messages {
		t.Errorf("Recover = %+v, %v with %d messages more, want the loss and nothing written", loss, err, len(b.Messages())-messages)
	}
}

func TestBeforeTheFirstEntry(t *testing.T) {
	r := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	before := time.Now().Add(-time.Hour).UnixNano()
	store := r.newStore()
	r.submit(grant(t, store, "plan", "ann"))
	for _, f := range []Freshness{{Kind: AtTime, Time: before}, {Kind: AtRevision}} {
		if live, err := r.holds(store, f, "plan", "ann"); live || !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("freshness %+v: %v, %v, want ErrNotFound", f, live, err)
		}
	}
}

func TestBarrierWithoutSpace(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), func(c *Config) { c.FreeSpace = func() (uint64, error) { return 1, nil } })
	within(t, "no space", func() bool { return r.Status().NoSpace })
	messages := len(b.Messages())
	if _, err := r.View(t.Context(), ledger.System, Freshness{Kind: Latest}); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("latest without space = %v, want ErrUnavailable", err)
	}
	if grown := len(b.Messages()) - messages; grown != 0 {
		t.Errorf("the log grew by %d messages", grown)
	}
}

// TestNobodyWaitsForEver: a command is stored, and then the replica is quarantined or
// the edge closed, so that nothing decides it here any more.
func TestNobodyWaitsForEver(t *testing.T) {
	for name, end := range map[string]func(*replica){
		"quarantine": func(r *replica) { r.broker.Drift("max_msgs") },
		"close":      func(r *replica) { r.edge.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := ledgertest.NewBroker()
			r := start(t, b, t.TempDir(), nil)
			store := r.newStore()
			b.PauseReads()
			defer b.ResumeReads()
			messages := len(b.Messages())
			answer := make(chan error, 1)
			c := grant(t, store, "plan", "ann")
			c.ID = ledger.NewUUID()
			go func() {
				_, err := r.edge.Submit(context.Background(), ledger.Origin{Actor: "ann", Method: ledger.MethodNone}, c)
				answer <- err
			}()
			within(t, "append", func() bool { return len(b.Messages()) > messages })
			end(r)
			select {
			case err := <-answer:
				if !errors.Is(err, ledger.ErrUnknownOutcome) {
					t.Errorf("Submit = %v, want ErrUnknownOutcome", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("Submit has no answer within 5 s")
			}
		})
	}
}
