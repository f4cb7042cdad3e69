package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

var quiet = slog.New(slog.DiscardHandler)

// A replica is a projector that folds the broker's log, with an edge beside it.
type replica struct {
	t      testing.TB
	broker *ledgertest.Broker
	log    *ledgertest.Log
	*Projector
	edge *ledger.Ledger
	stop func()
}

func config(log ledger.Log, dir string) Config {
	return Config{Log: log, Index: index.Options{Dir: dir, Logger: quiet, CacheBytes: 1 << 20}, CheckEvery: 10 * time.Millisecond, RetryAfter: time.Millisecond, Logger: quiet}
}

func start(t testing.TB, b *ledgertest.Broker, dir string, change func(*Config)) *replica {
	t.Helper()
	log, err := b.Open()
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(log, dir)
	if change != nil {
		change(&cfg)
	}
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }() // ended and waited for by stop
	r := &replica{t: t, broker: b, log: log, Projector: p}
	r.edge = ledger.New(ledger.Config{Log: log, Watch: p.Watch, Ready: p.Ready, RetryFor: time.Second, Logger: quiet})
	r.stop = func() {
		r.edge.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		log.Close()
		r.stop = func() {}
	}
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *replica) submit(c *ledger.Command) ledger.Decided {
	r.t.Helper()
	if c.ID.IsZero() {
		c.ID = ledger.NewUUID()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d, err := r.edge.Submit(ctx, ledger.Origin{Actor: "user:ann", Method: ledger.MethodNone}, c)
	if err != nil {
		r.t.Fatalf("Submit: %v", err)
	}
	return d
}

// newStore creates a store with a model in which users view docs.
func (r *replica) newStore() ledger.ID {
	r.t.Helper()
	store := ledger.NewID()
	r.submit(&ledger.Command{Store: ledger.System, Changes: []ledger.Change{{Kind: ledger.CreateStore, Store: store, Name: "acme", Admin: "user:ann"}}})
	m := &model.Model{Schema: "1.1", Types: []model.Type{
		{Name: "user"},
		{Name: "doc", Relations: []model.Relation{{Name: "viewer", Rule: model.Rule{Op: model.This}, Direct: []model.Direct{{Type: "user"}}}}},
	}}
	if err := m.Validate(); err != nil {
		r.t.Fatal(err)
	}
	d := r.submit(&ledger.Command{Store: store, Changes: []ledger.Change{{Kind: ledger.WriteModel,
		Model: ledger.ModelSource{ID: ledger.NewID(), Kind: ledger.SourceDSL, Source: []byte("model"), Compiled: model.AppendModel(nil, m)}}}})
	if d.Outcome.Kind != ledger.Applied {
		r.t.Fatalf("write model: %+v", d.Outcome.Rejection)
	}
	return store
}

func viewer(t testing.TB, doc, user string) tuple.Tuple {
	t.Helper()
	tup, err := tuple.Parse("doc:" + doc + "#viewer@user:" + user)
	if err != nil {
		t.Fatal(err)
	}
	return tup
}

func grant(t testing.TB, store ledger.ID, doc, user string) *ledger.Command {
	return &ledger.Command{Store: store, Changes: []ledger.Change{{Kind: ledger.Grant, Tuple: viewer(t, doc, user)}}}
}

// holds reports whether the tuple is live in a view as fresh as f.
func (r *replica) holds(store ledger.ID, f Freshness, doc, user string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	v, err := r.View(ctx, store, f)
	if err != nil {
		return false, err
	}
	defer v.Close()
	_, live, err := v.Grant(viewer(r.t, doc, user))
	return live, err
}

// caughtUp waits until the replica has folded everything, or is quarantined.
func (r *replica) caughtUp() error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, last, err := r.log.Head(ctx)
	if err != nil {
		return err
	}
	return r.waitFor(ctx, "catching up", func() bool { return r.applied.Load() >= last })
}

func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func TestReadYourWrites(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	store := r.newStore()
	for i := range 50 {
		doc := fmt.Sprint(i)
		d := r.submit(grant(t, store, doc, "ann"))
		if d.Outcome.Kind != ledger.Applied || d.Outcome.Effective != 1 || d.Revision != ledger.Revision(i+3) {
			t.Fatalf("grant %d: %+v", i, d)
		}
		for _, f := range []Freshness{{}, {Kind: AtLeast, Token: d.Token}, {Kind: Latest}, {Kind: AtRevision, Revision: d.Revision}} {
			if live, err := r.holds(store, f, doc, "ann"); !live || err != nil {
				t.Fatalf("freshness %d sees the grant: %v, %v", f.Kind, live, err)
			}
		}
		if live, err := r.holds(store, Freshness{Kind: AtRevision, Revision: d.Revision - 1}, doc, "ann"); live || err != nil {
			t.Fatalf("the revision before sees the grant: %v, %v", live, err)
		}
	}
}

func TestDuplicateHasTheFirstOutcome(t *testing.T) {
	r := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	store := r.newStore()
	c := grant(t, store, "plan", "ann")
	first := r.submit(c)
	second := r.submit(c)
	if second.Outcome.Kind != ledger.Duplicate || second.Outcome.First != first.Revision || second.Original == nil || second.Original.Effective != 1 {
		t.Errorf("submitted again: %+v of %+v", second, first)
	}
	other := grant(t, store, "other", "ann")
	other.ID = c.ID
	if d := r.submit(other); d.Outcome.Kind != ledger.Rejected || d.Outcome.Rejection.Code != ledger.CodeConflict {
		t.Errorf("other content under the same id: %+v", d.Outcome)
	}
}

func TestTokens(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	store, second := r.newStore(), r.newStore()
	d := r.submit(grant(t, store, "plan", "ann"))
	change := func(f func(*ledger.Token)) ledger.Token {
		token := d.Token
		f(&token)
		return token
	}
	for _, tt := range []struct {
		name  string
		token ledger.Token
		err   error
	}{
		{"right", d.Token, nil},
		{"of another log", change(func(x *ledger.Token) { x.Log[0]++ }), ledger.ErrForeignToken},
		{"of another store", change(func(x *ledger.Token) { x.Store = second }), ledger.ErrForeignToken},
		{"other leaf", change(func(x *ledger.Token) { x.Leaf[0]++ }), ledger.ErrToken},
		{"a revision that never was", change(func(x *ledger.Token) { x.Revision += 1000 }), ledger.ErrToken},
		{"an epoch that never was", change(func(x *ledger.Token) { x.Epoch++ }), ledger.ErrToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			live, err := r.holds(store, Freshness{Kind: AtLeast, Token: tt.token}, "plan", "ann")
			if !errors.Is(err, tt.err) || live != (tt.err == nil) {
				t.Errorf("holds = %v, %v, want error %v", live, err, tt.err)
			}
		})
	}
}

func TestBehind(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	store := r.newStore()
	writer := start(t, b, t.TempDir(), nil)
	if err := writer.caughtUp(); err != nil {
		t.Fatal(err)
	}
	d := writer.submit(grant(t, store, "plan", "ann"))
	if err := r.caughtUp(); err != nil {
		t.Fatal(err)
	}
	writer.stop()

	// From here on the log delivers nothing, though it takes writes.
	b.PauseReads()
	late := d.Token
	late.Revision++ // as another replica would give it
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := r.View(ctx, store, Freshness{Kind: AtLeast, Token: late})
	if !errors.Is(err, ledger.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("at %d", d.Revision)) {
		t.Errorf("View at least a later token = %v, want ErrUnavailable with the applied revision %d", err, d.Revision)
	}
	if _, err := r.View(ctx, store, Freshness{Kind: Latest}); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("View of the latest = %v, want ErrUnavailable", err)
	}
	if live, err := r.holds(store, Freshness{}, "plan", "ann"); !live || err != nil {
		t.Errorf("View of any = %v, %v, want the applied state", live, err)
	}
	b.ResumeReads()
	if live, err := r.holds(store, Freshness{Kind: Latest}, "plan", "ann"); !live || err != nil {
		t.Errorf("View of the latest once the log delivers = %v, %v", live, err)
	}
}

// TestNewest holds that the time beside a view is just before the log's, when nothing was in
// the log that the view lacks, and not before that of the view.
func TestNewest(t *testing.T) {
	b := ledgertest.NewBroker()
	const begin = int64(1_600_000_000_000_000_000)
	var clock atomic.Int64
	clock.Store(begin)
	b.SetClock(clock.Load)
	r := start(t, b, t.TempDir(), func(c *Config) { c.Now = func() time.Time { return time.Unix(0, begin-int64(time.Minute)) } })
	store := r.newStore()
	newest := func() (ledger.Revision, int64, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		v, at, err := r.Newest(ctx, store)
		if err != nil {
			return 0, 0, err
		}
		defer v.Close()
		return v.Revision(), at, nil
	}
	d := r.submit(grant(t, store, "plan", "ann"))
	for _, tt := range []struct{ clock, want int64 }{
		{begin, begin},
		{begin + 1, begin},
		{begin + 5, begin + 4},
		{begin - 5, begin}, // it has run back, and no log time of the store does
	} {
		clock.Store(tt.clock)
		if rev, at, err := newest(); rev != d.Revision || at != tt.want || err != nil {
			t.Errorf("Newest with the clock at %d = %d at %d, %v, want %d at %d", tt.clock, rev, at, err, d.Revision, tt.want)
		}
	}
	b.PauseReads()
	if _, _, err := newest(); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Newest of a replica that lags = %v, want ErrUnavailable", err)
	}
	b.ResumeReads()
}

func TestFuture(t *testing.T) {
	r := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	store := r.newStore()
	for _, f := range []Freshness{{Kind: AtRevision, Revision: 99}, {Kind: AtTime, Time: time.Now().Add(time.Hour).UnixNano()}} {
		if _, err := r.holds(store, f, "plan", "ann"); !errors.Is(err, ErrFuture) {
			t.Errorf("freshness %+v: %v, want ErrFuture", f, err)
		}
	}
	if _, err := r.View(context.Background(), ledger.NewID(), Freshness{}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("unknown store: %v, want ErrNotFound", err)
	}
}

// losses are the ways of losing the past, applied to a log whose last message was
// folded.
var losses = []struct {
	name string
	lose func(*ledgertest.Broker)
	err  error
}{
	{"rewound by one", func(b *ledgertest.Broker) { b.Rewind(1) }, ledger.ErrRewound},
	{"rewound and as long again", func(b *ledgertest.Broker) {
		b.Rewind(5)
		for range 5 {
			b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
		}
	}, ledger.ErrRewound},
	{"rewound and longer", func(b *ledgertest.Broker) {
		b.Rewind(5)
		for range 50 {
			b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
		}
	}, ledger.ErrRewound},
	{"changed where it was folded", func(b *ledgertest.Broker) {
		last := b.Messages()[len(b.Messages())-1].Seq
		b.Alter(last, func(m *ledger.Message) { m.Data = append(m.Data, 0) })
	}, ledger.ErrRewound},
	{"other time where it was folded", func(b *ledgertest.Broker) {
		last := b.Messages()[len(b.Messages())-1].Seq
		b.Alter(last, func(m *ledger.Message) { m.Time++ })
	}, ledger.ErrRewound},
	{"gap ahead", func(b *ledgertest.Broker) {
		seq := b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
		b.Drop(seq)
		b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
	}, ledger.ErrGap},
	{"gap where it was folded", func(b *ledgertest.Broker) {
		seq := b.Messages()[len(b.Messages())-1].Seq
		b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
		b.Drop(seq)
	}, ledger.ErrGap},
	{"foreign", func(b *ledgertest.Broker) { b.Replace() }, ledger.ErrForeign},
	{"missing", func(b *ledgertest.Broker) { b.Remove() }, ledger.ErrMissing},
	{"configured otherwise", func(b *ledgertest.Broker) { b.Drift("max_msgs") }, ledger.ErrDrift},
}

// TestLosses holds that each way of losing the past quarantines a replica, by its own
// name, whether it happens while the replica is away, disconnected or reading.
func TestLosses(t *testing.T) {
	for _, tt := range losses {
		prepare := func(t *testing.T, dir string) (*replica, ledger.ID) {
			r := start(t, ledgertest.NewBroker(), dir, nil)
			store := r.newStore()
			for i := range 10 {
				r.submit(grant(t, store, fmt.Sprint(i), "ann"))
			}
			return r, store
		}
		check := func(t *testing.T, r *replica, store ledger.ID) {
			t.Helper()
			within(t, "quarantine", func() bool { return r.Quarantine() != nil })
			if err := r.Quarantine(); !errors.Is(err, tt.err) || !errors.Is(err, ledger.ErrQuarantined) {
				t.Errorf("Quarantine = %v, want %v", err, tt.err)
			}
			if _, err := r.View(context.Background(), store, Freshness{}); !errors.Is(err, ledger.ErrQuarantined) {
				t.Errorf("View = %v, want ErrQuarantined", err)
			}
			if err := r.Ready(); !errors.Is(err, ledger.ErrQuarantined) {
				t.Errorf("Ready = %v, want ErrQuarantined", err)
			}
			h, _ := r.Index().Head(store)
			if h.Revision != 12 {
				t.Errorf("the store is at revision %d, want what was folded before: 12", h.Revision)
			}
		}
		// Between two steps of losing, the replica must not fold what is lost by the next.
		lose := func(b *ledgertest.Broker) {
			b.PauseReads()
			defer b.ResumeReads()
			tt.lose(b)
		}
		t.Run(tt.name+"/away", func(t *testing.T) {
			dir := t.TempDir()
			r, store := prepare(t, dir)
			r.stop()
			tt.lose(r.broker)
			log, err := r.broker.Open()
			if tt.err == ledger.ErrMissing || tt.err == ledger.ErrDrift {
				if !errors.Is(err, tt.err) {
					t.Errorf("Open = %v, want %v", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			log.Close()
			check(t, start(t, r.broker, dir, nil), store)
		})
		t.Run(tt.name+"/disconnected", func(t *testing.T) {
			r, store := prepare(t, t.TempDir())
			r.broker.SetDown(true)
			within(t, "disconnection", func() bool { return !r.Status().Connected })
			tt.lose(r.broker)
			r.broker.SetDown(false)
			check(t, r, store)
		})
		t.Run(tt.name+"/reading", func(t *testing.T) {
			if strings.Contains(tt.name, "where it was folded") || strings.HasPrefix(tt.name, "rewound and") {
				// What was folded is not read again while connected; the comparison at the
				// next start or reconnection finds it.
				r, store := prepare(t, t.TempDir())
				lose(r.broker)
				r.broker.Disconnect()
				check(t, r, store)
				return
			}
			r, store := prepare(t, t.TempDir())
			lose(r.broker)
			check(t, r, store)
		})
	}
}

// TestNoFalseAlarm is the other side of TestLosses: a connection that is lost while
// commands come in leads to no quarantine, and to no loss.
func TestNoFalseAlarm(t *testing.T) {
	r := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	store := r.newStore()
	for i := range 200 {
		if i%10 == 5 {
			r.broker.Disconnect()
		}
		r.submit(grant(t, store, fmt.Sprint(i), "ann"))
	}
	if err := r.Quarantine(); err != nil {
		t.Fatalf("Quarantine = %v", err)
	}
	for i := range 200 {
		if live, err := r.holds(store, Freshness{}, fmt.Sprint(i), "ann"); !live || err != nil {
			t.Fatalf("grant %d is live: %v, %v", i, live, err)
		}
	}
}

// recovered runs Recover as the command line does, and starts a replica on what it made.
func recovered(t *testing.T, b *ledgertest.Broker, dir string) (*Loss, *replica) {
	t.Helper()
	log, err := b.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	fresh := filepath.Join(t.TempDir(), "fresh")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	loss, err := Recover(ctx, config(log, dir), index.Options{Dir: fresh, Logger: quiet}, true, "operator", "the disk was replaced")
	if err != nil {
		t.Fatalf("Recover: %v", err)
	}
	r := start(t, b, fresh, nil)
	if err := r.caughtUp(); err != nil {
		t.Fatalf("after Recover: %v", err)
	}
	return loss, r
}

func TestRecoverRewind(t *testing.T) {
	b := ledgertest.NewBroker()
	dir, dir2 := t.TempDir(), t.TempDir()
	r, r2 := start(t, b, dir, nil), start(t, b, dir2, nil)
	store := r.newStore()
	kept := r.submit(grant(t, store, "kept", "ann"))
	lost := r.submit(grant(t, store, "lost", "ann"))
	if err := r2.caughtUp(); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r2.stop()
	b.Rewind(1)
	b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))

	loss, r := recovered(t, b, dir)
	if !errors.Is(loss.Cause, ledger.ErrRewound) || len(loss.Cuts) != 1 || loss.Cuts[0].Missing || loss.Folded.Epoch != 1 {
		t.Errorf("Recover = %+v, want one rewind and epoch 1", loss)
	}
	if len(loss.Entries) != 1 || loss.Entries[0].Store != store || loss.Entries[0].Revision != lost.Revision {
		t.Errorf("lost entries %+v, want revision %d of store %s", loss.Entries, lost.Revision, store)
	}
	if live, err := r.holds(store, Freshness{Kind: AtLeast, Token: kept.Token}, "kept", "ann"); !live || err != nil {
		t.Errorf("a token of what was kept: %v, %v", live, err)
	}
	if _, err := r.holds(store, Freshness{Kind: AtLeast, Token: lost.Token}, "lost", "ann"); !errors.Is(err, ledger.ErrLostPast) {
		t.Errorf("a token of what was lost: %v, want ErrLostPast", err)
	}
	// Another command takes the lost one's revision: its token still is of a lost past.
	again := r.submit(grant(t, store, "again", "ann"))
	if again.Revision != lost.Revision || again.Token.Epoch != 1 {
		t.Errorf("the next command: %+v, want revision %d of epoch 1", again, lost.Revision)
	}
	if _, err := r.holds(store, Freshness{Kind: AtLeast, Token: lost.Token}, "lost", "ann"); !errors.Is(err, ledger.ErrLostPast) {
		t.Errorf("a token of what was lost, its revision taken: %v, want ErrLostPast", err)
	}
	messages := len(b.Messages())
	loss2, _ := recovered(t, b, dir2)
	if len(loss2.Cuts) != 0 || loss2.Folded.Epoch != 1 || len(loss2.Entries) == 0 {
		t.Errorf("Recover of the second replica = %+v, want what the first accepted", loss2)
	}
	if grown := len(b.Messages()) - messages; grown != 0 {
		t.Errorf("the second Recover appended %d messages", grown)
	}
}

func TestRecoverGap(t *testing.T) {
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	r := start(t, b, dir, nil)
	store := r.newStore()
	r.stop()
	first := b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
	b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
	b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
	b.Drop(first)
	b.Drop(first + 1)

	loss, r := recovered(t, b, dir)
	want := ledger.Cut{From: first, To: first + 1, Missing: true}
	if !errors.Is(loss.Cause, ledger.ErrGap) || len(loss.Cuts) != 1 || loss.Cuts[0] != want || len(loss.Entries) != 0 {
		t.Errorf("Recover = %+v, want the gap %+v", loss, want)
	}
	d := r.submit(grant(t, store, "plan", "ann"))
	if d.Token.Epoch != 1 {
		t.Errorf("a command afterwards is of epoch %d, want 1", d.Token.Epoch)
	}
	r.stop()
	// A replica that never saw the gap steps over it, because the epoch lists it.
	fresh := start(t, b, t.TempDir(), nil)
	if err := fresh.caughtUp(); err != nil {
		t.Errorf("a new replica: %v", err)
	}
	// Another gap is another loss. Without the pause the replica may fold the message
	// before it is dropped, and see no gap.
	b.PauseReads()
	seq := b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
	b.Drop(seq)
	b.Put(ledger.Subject("main", ledger.EdgeSubject, "x"), ledger.AppendEnvelope(nil, nil))
	b.ResumeReads()
	within(t, "quarantine", func() bool { return errors.Is(fresh.Quarantine(), ledger.ErrGap) })
}

func TestRecoverNothing(t *testing.T) {
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	r := start(t, b, dir, nil)
	r.newStore()
	r.stop()
	messages := len(b.Messages())
	loss, _ := recovered(t, b, dir)
	if loss.Cause != nil || len(loss.Cuts) != 0 || len(loss.Entries) != 0 || len(b.Messages()) != messages {
		t.Errorf("Recover of a sound replica = %+v, with %d messages more", loss, len(b.Messages())-messages)
	}
}

// TestPoison publishes straight to the log what no edge would, and holds that it
// becomes rejected entries, stops nothing, and touches no neighbour.
func TestPoison(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	store := r.newStore()
	bot := ledger.Subject("main", ledger.PrincipalSubject, "bot")
	before, _ := r.Index().Head(ledger.System)
	poison := []struct {
		subject string
		data    []byte
	}{
		{bot, nil}, {bot, []byte{0}}, {bot, []byte("{")}, {bot, []byte("{}")}, {bot, []byte{1, 1}},
		{bot, []byte(`{"id": "x"}`)}, {"grantlog.main.other", []byte("x")}, {"grantlog.main.cmd.a.b", []byte("{}")},
		{ledger.Subject("main", ledger.GenesisSubject, ""), ledger.AppendGenesis(nil, ledger.Genesis{})},
		{ledger.Subject("main", ledger.EpochSubject, ""), []byte("x")},
		{bot, make([]byte, ledger.MaxMessage)},
	}
	for _, m := range poison {
		b.Put(m.subject, m.data)
		if d := r.submit(grant(t, store, "neighbour", ledger.NewUUID().String())); d.Outcome.Kind != ledger.Applied {
			t.Fatalf("the neighbour of %q: %+v", m.data[:min(20, len(m.data))], d.Outcome)
		}
	}
	after, _ := r.Index().Head(ledger.System)
	if got := int(after.Revision - before.Revision); got != len(poison) {
		t.Errorf("%d entries of the system store, want %d", got, len(poison))
	}
	v, err := r.View(context.Background(), ledger.System, Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	i := 0
	for e, err := range v.Entries(before.Revision + 1) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Outcome.Kind != ledger.Rejected || e.Outcome.Rejection.Code != ledger.CodeMalformed || string(e.Raw) != string(poison[i].data) {
			t.Errorf("entry %d of %q: %+v", e.Revision, poison[i].data[:min(20, len(poison[i].data))], e.Outcome)
		}
		i++
	}
}

func TestFreeSpace(t *testing.T) {
	var free = make(chan uint64, 1)
	free <- 1 << 30
	r := start(t, ledgertest.NewBroker(), t.TempDir(), func(c *Config) {
		c.FreeSpace = func() (uint64, error) {
			n := <-free
			free <- n
			return n, nil
		}
	})
	set := func(n uint64) { <-free; free <- n }
	store := r.newStore()
	set(1 << 20)
	within(t, "refusal", func() bool { return r.Ready() != nil })
	c := grant(t, store, "plan", "ann")
	c.ID = ledger.NewUUID()
	if _, err := r.edge.Submit(context.Background(), ledger.Origin{Actor: "user:ann", Method: ledger.MethodNone}, c); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Submit without space = %v, want ErrUnavailable", err)
	}
	if live, err := r.holds(store, Freshness{}, "plan", "ann"); live || err != nil {
		t.Errorf("reading without space = %v, %v, want an answer", live, err)
	}
	set(1 << 30)
	within(t, "recovery", func() bool { return r.Ready() == nil })
	if d := r.submit(c); d.Outcome.Kind != ledger.Applied {
		t.Errorf("Submit with space again = %+v", d.Outcome)
	}
}

func TestClockLead(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	store := r.newStore()
	b.SetClock(func() int64 { return time.Now().Add(MaxClockLead + time.Minute).UnixNano() })
	r.submit(grant(t, store, "plan", "ann"))
	if err := r.Ready(); !errors.Is(err, ledger.ErrUnavailable) || !strings.Contains(err.Error(), "ahead") {
		t.Errorf("Ready = %v, want ErrUnavailable for a log ahead of the clock", err)
	}
}

// TestSameEverywhere folds one log in several ways, and holds that rows, accumulator
// and trees do not depend on batches, restarts or the node.
func TestSameEverywhere(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	store := r.newStore()
	for i := range 300 {
		c := grant(t, store, fmt.Sprint(i%40), "ann")
		if i%3 == 0 {
			c.Changes[0].Kind = ledger.Revoke
		}
		if i%7 == 0 {
			b.Put(ledger.Subject("main", ledger.PrincipalSubject, "bot"), []byte("{}"))
		}
		r.submit(c)
	}
	if err := r.caughtUp(); err != nil {
		t.Fatal(err)
	}
	want, wantAt := r.Index().Accumulator(), r.Index().Position()
	for _, messages := range []int{1, 2, 7, 1000} {
		dir := t.TempDir()
		for restarts := range 3 {
			again := start(t, b, dir, func(c *Config) { c.BatchMessages = messages })
			if restarts < 2 {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				seq := uint64(restarts+1) * 50
				if err := again.waitFor(ctx, "folding", func() bool { return again.applied.Load() >= seq }); err != nil {
					t.Fatal(err)
				}
				cancel()
				again.stop()
				continue
			}
			if err := again.caughtUp(); err != nil {
				t.Fatal(err)
			}
			if got := again.Index().Accumulator(); got != want || again.Index().Position() != wantAt {
				t.Errorf("batches of %d messages: accumulator %x at %+v, want %x at %+v", messages, got, again.Index().Position(), want, wantAt)
			}
			again.stop()
		}
	}
}

// TestDamage flips bits in each file of the index, and holds that the replica either
// notices nothing wrong with what it answers, or drops the index and folds it again.
func TestDamage(t *testing.T) {
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	r := start(t, b, dir, nil)
	store := r.newStore()
	for i := range 50 {
		r.submit(grant(t, store, fmt.Sprint(i), "ann"))
	}
	if err := r.Index().Flush(); err != nil {
		t.Fatal(err)
	}
	want := r.Index().Accumulator()
	r.stop()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	dropped := 0
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			continue
		}
		data[len(data)/2] ^= 0x10
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := b.Open()
		if err != nil {
			t.Fatal(err)
		}
		for tries := 0; ; tries++ {
			p, err := Open(config(log, dir))
			if err != nil {
				t.Fatalf("%s damaged: Open = %v", f.Name(), err)
			}
			if p.Index().Position().Seq == 0 {
				dropped++
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			wait, stop := context.WithTimeout(ctx, 5*time.Second)
			err = p.waitFor(wait, "folding", func() bool { return p.applied.Load() >= uint64(len(b.Messages())) })
			stop()
			time.Sleep(20 * time.Millisecond) // for the scrub
			cancel()
			runErr := <-done
			sum := p.Index().Accumulator()
			if closeErr := p.Close(); closeErr != nil && runErr == nil {
				t.Errorf("%s damaged: Close = %v", f.Name(), closeErr)
			}
			if runErr != nil {
				if !errors.Is(runErr, index.ErrDamaged) || !errors.Is(p.Quarantine(), ledger.ErrQuarantined) || tries > 0 {
					t.Fatalf("%s damaged: Run = %v, quarantine %v", f.Name(), runErr, p.Quarantine())
				}
				continue // opened anew, it is dropped
			}
			if err != nil || sum != want {
				t.Errorf("%s damaged: %v, accumulator %x, want %x", f.Name(), err, sum, want)
			}
			break
		}
		log.Close()
	}
	if dropped == 0 {
		t.Error("no damage led to the index being dropped")
	}
}
