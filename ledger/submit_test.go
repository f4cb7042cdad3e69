package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A folder stands in for the projector: it reads the log and answers those who watch.
// The first command under a key is applied, each later one its duplicate.
type folder struct {
	mu       sync.Mutex
	watchers map[ledger.Key][]chan ledger.Decided
	applied  map[ledger.Key]int // how often a key was in the log
}

func newFolder() *folder {
	return &folder{watchers: make(map[ledger.Key][]chan ledger.Decided), applied: make(map[ledger.Key]int)}
}

func (f *folder) watch(k ledger.Key) (<-chan ledger.Decided, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan ledger.Decided, 1)
	f.watchers[k] = append(f.watchers[k], ch)
	return ch, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.watchers[k] = slices.DeleteFunc(f.watchers[k], func(c chan ledger.Decided) bool { return c == ch })
	}
}

// fold follows the log until ctx ends.
func (f *folder) fold(ctx context.Context, log ledger.Log) {
	for m, err := range log.Read(ctx, 2) {
		if err != nil {
			return
		}
		commands, _, err := ledger.DecodeEnvelope(&m, ledger.FoldVersion)
		if err != nil {
			panic(err)
		}
		for _, e := range commands {
			c, rejection := ledger.ReadCommand(e.Raw, ledger.NewestFoldVersion)
			if rejection != nil {
				panic(rejection)
			}
			k := ledger.Key{Store: c.Store, Actor: e.Origin.Actor, ID: c.ID, Content: c.ContentHash()}
			d := ledger.Decided{ID: c.ID, Outcome: ledger.Outcome{Kind: ledger.Applied}}
			f.mu.Lock()
			if f.applied[k]++; f.applied[k] > 1 {
				d.Outcome = ledger.Outcome{Kind: ledger.Duplicate}
			}
			for _, ch := range f.watchers[k] {
				select {
				case ch <- d:
				default:
				}
			}
			f.mu.Unlock()
		}
	}
}

func grant(t testing.TB, id ledger.UUID, text string) *ledger.Command {
	tup, err := tuple.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return &ledger.Command{ID: id, Store: ledger.ID{1}, Changes: []ledger.Change{{Kind: ledger.Grant, Tuple: tup}}}
}

var ann = ledger.Origin{Actor: "user:ann", Method: ledger.MethodNone}

// TestSubmitFailures goes through the steps of Submit, and fails each in both ways:
// nothing was stored, and stored but reported as failed.
func TestSubmitFailures(t *testing.T) {
	refuse := ledgertest.Fault{Kind: ledgertest.Refuse}
	loseMessage := ledgertest.Fault{Kind: ledgertest.LoseMessage}
	loseAnswer := ledgertest.Fault{Kind: ledgertest.LoseAnswer}
	repeat := func(f ledgertest.Fault, n int) []ledgertest.Fault {
		return slices.Repeat([]ledgertest.Fault{f}, n)
	}
	malformed := func(c *ledger.Command) { c.Changes = nil }
	for _, tt := range []struct {
		name    string
		change  func(*ledger.Command)
		ready   error
		faults  []ledgertest.Fault
		noFold  bool // the projector is behind and answers nothing
		retry   time.Duration
		timeout time.Duration
		err     error // that Submit returns; nil: it is decided
		stored  int   // copies of the command in the log
	}{
		{name: "nothing fails", stored: 1},
		{name: "malformed", change: malformed, err: &ledger.Rejection{}, stored: 0},
		{name: "not ready", ready: ledger.ErrUnavailable, err: ledger.ErrUnavailable, stored: 0},
		{name: "quarantined", ready: ledger.ErrRewound, err: ledger.ErrQuarantined, stored: 0},
		{name: "append refused", faults: repeat(refuse, 1), err: ledger.ErrRefused, stored: 0},
		{name: "message lost, then stored", faults: repeat(loseMessage, 1), stored: 1},
		{name: "answer lost, fold sees it", faults: repeat(loseAnswer, 1), stored: 1},
		{name: "answer lost, fold behind: sent again", faults: repeat(loseAnswer, 1), noFold: true, timeout: time.Minute, err: ledger.ErrUnknownOutcome, stored: 2},
		{name: "message lost for too long", faults: repeat(loseMessage, 100), retry: time.Second, err: ledger.ErrUnknownOutcome, stored: 0},
		{name: "answer lost for too long, fold behind", faults: repeat(loseAnswer, 1), noFold: true, retry: time.Millisecond, err: ledger.ErrUnknownOutcome, stored: 1},
		{name: "message lost, then refused: no proof of absence", faults: append(repeat(loseMessage, 1), repeat(refuse, 100)...), retry: time.Second, err: ledger.ErrUnknownOutcome, stored: 0},
		{name: "answer lost, then refused", faults: append(repeat(loseAnswer, 1), repeat(refuse, 100)...), retry: time.Second, stored: 1},
		{name: "caller leaves while the log is slow", faults: []ledgertest.Fault{{Delay: time.Minute}}, timeout: time.Second, err: ledger.ErrUnknownOutcome, stored: 1},
		{name: "caller leaves while the fold is behind", noFold: true, timeout: time.Second, err: ledger.ErrUnknownOutcome, stored: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				broker := ledgertest.NewBroker()
				log, err := broker.Open()
				if err != nil {
					t.Fatal(err)
				}
				defer log.Close()
				f := newFolder()
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				if !tt.noFold {
					go f.fold(ctx, log) // ends with ctx
				}
				l := ledger.New(ledger.Config{Log: log, Watch: f.watch, Ready: func() error { return tt.ready }, RetryFor: tt.retry, Logger: slog.New(slog.DiscardHandler)})
				broker.NextAppends(tt.faults...)
				c := grant(t, ledger.NewUUID(), "doc:plan#viewer@user:ann")
				if tt.change != nil {
					tt.change(c)
				}
				callCtx := ctx
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					callCtx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				d, err := l.Submit(callCtx, ann, c)
				var rejection *ledger.Rejection
				switch {
				case tt.err == nil && err != nil:
					t.Errorf("Submit error = %v, want none", err)
				case tt.err == nil && (d.ID != c.ID || d.Outcome.Kind == 0):
					t.Errorf("Submit = %+v, want an outcome of %s", d, c.ID)
				case errors.As(tt.err, &rejection):
					if !errors.As(err, &rejection) || rejection.Field == "" {
						t.Errorf("Submit error = %v, want a Rejection with a field", err)
					}
				case !errors.Is(err, tt.err):
					t.Errorf("Submit error = %v, want %v", err, tt.err)
				}
				time.Sleep(2 * time.Minute) // whatever was on its way has arrived
				l.Close()
				if got := len(broker.Messages()) - 1; got != tt.stored {
					t.Errorf("the log holds the command %d times, want %d", got, tt.stored)
				}
				// The caller does as the errors tell it: the same command again.
				if tt.noFold {
					go f.fold(ctx, log)
				}
				if tt.change == nil {
					broker2 := ledger.New(ledger.Config{Log: log, Watch: f.watch, Ready: func() error { return nil }, Logger: slog.New(slog.DiscardHandler)})
					defer broker2.Close()
					broker.OnAppend(nil)
					for range 200 { // use up what faults are left
						if _, err = broker2.Submit(ctx, ann, c); err == nil {
							break
						}
					}
					if err != nil {
						t.Errorf("submitted again: %v", err)
					}
				}
			})
		})
	}
}

// TestUnknownMethod holds that a command whose origin no envelope can carry is refused
// before it shares one with others, which would all be lost with it.
func TestUnknownMethod(t *testing.T) {
	broker := ledgertest.NewBroker()
	log, err := broker.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	l := ledger.New(ledger.Config{Log: log, Watch: newFolder().watch, Ready: func() error { return nil }})
	defer l.Close()
	var rejection *ledger.Rejection
	_, err = l.Append(t.Context(), ledger.Origin{Actor: "ann"}, grant(t, ledger.NewUUID(), "doc:a#viewer@user:ann"))
	if !errors.As(err, &rejection) || rejection.Field != "method" || len(broker.Messages()) != 1 {
		t.Errorf("Append = %v, want a rejection of the method", err)
	}
}

// TestGroups holds that commands which arrive while one message is stored share the
// next, and that a lone command does not wait for company.
func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := ledgertest.NewBroker()
		log, err := broker.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		f := newFolder()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go f.fold(ctx, log)
		broker.OnAppend(func(string, []byte) ledgertest.Fault { return ledgertest.Fault{Delay: time.Millisecond} })
		l := ledger.New(ledger.Config{Log: log, Watch: f.watch, Ready: func() error { return nil }, Logger: slog.New(slog.DiscardHandler)})
		defer l.Close()

		start := time.Now()
		if _, err := l.Submit(ctx, ann, grant(t, ledger.NewUUID(), "doc:a#viewer@user:ann")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != time.Millisecond {
			t.Errorf("a lone command took %s, the log 1ms", took)
		}
		const callers, rounds = 64, 10
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for j := range rounds {
					if _, err := l.Submit(ctx, ann, grant(t, ledger.NewUUID(), fmt.Sprintf("doc:%d-%d#viewer@user:ann", i, j))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if messages := len(broker.Messages()) - 2; messages > callers*rounds/16 {
			t.Errorf("%d commands of %d callers took %d messages, want at least 16 commands a message", callers*rounds, callers, messages)
		}
	})
}

// TestGroupSize holds that no envelope is over the limit of a message, whatever waits.
func TestGroupSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := ledgertest.NewBroker()
		log, err := broker.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		f := newFolder()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go f.fold(ctx, log)
		broker.OnAppend(func(string, []byte) ledgertest.Fault { return ledgertest.Fault{Delay: time.Millisecond} })
		l := ledger.New(ledger.Config{Log: log, Watch: f.watch, Ready: func() error { return nil }, Logger: slog.New(slog.DiscardHandler)})
		defer l.Close()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				c := grant(t, ledger.NewUUID(), "doc:a#viewer@user:ann")
				c.Changes = c.Changes[:0]
				for j := range 900 {
					big := grant(t, c.ID, fmt.Sprintf("doc:%d-%d-%0200d#viewer@user:ann", i, j, j))
					c.Changes = append(c.Changes, big.Changes...)
				}
				if _, err := l.Submit(ctx, ann, c); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, m := range broker.Messages() {
			if len(m.Data) > ledger.MaxAppend {
				t.Errorf("message %d has %d bytes", m.Seq, len(m.Data))
			}
		}
	})
}

// TestClose holds that nobody who waits is left without an answer.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := ledgertest.NewBroker()
		log, err := broker.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		hold := make(chan struct{})
		defer close(hold)
		broker.OnAppend(func(string, []byte) ledgertest.Fault { return ledgertest.Fault{Hold: hold} })
		l := ledger.New(ledger.Config{Log: log, Watch: newFolder().watch, Ready: func() error { return nil }, Logger: slog.New(slog.DiscardHandler)})
		errs := make(chan error)
		for i := range 10 {
			go func() {
				_, err := l.Submit(t.Context(), ann, grant(t, ledger.NewUUID(), fmt.Sprintf("doc:%d#viewer@user:ann", i)))
				errs <- err
			}()
			synctest.Wait()
		}
		go l.Close()
		unknown := 0
		for range 10 {
			switch err := <-errs; {
			case errors.Is(err, ledger.ErrUnknownOutcome):
				unknown++
			case !errors.Is(err, ledger.ErrUnavailable):
				t.Errorf("Submit error = %v, want ErrUnavailable or ErrUnknownOutcome", err)
			}
		}
		if unknown != 1 {
			t.Errorf("%d commands end unknown, want the one that was on its way", unknown)
		}
		if _, err := l.Submit(t.Context(), ann, grant(t, ledger.NewUUID(), "doc:late#viewer@user:ann")); !errors.Is(err, ledger.ErrUnavailable) {
			t.Errorf("Submit after Close error = %v, want ErrUnavailable", err)
		}
	})
}

// TestBarrier holds that those who wait share a barrier, and that none is answered by
// one that was on its way before it asked.
func TestBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := ledgertest.NewBroker()
		log, err := broker.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		broker.OnAppend(func(string, []byte) ledgertest.Fault { return ledgertest.Fault{Delay: time.Millisecond} })
		b := ledger.NewBarrier(log, "main", "edge")
		defer b.Close()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 20 * time.Microsecond)
				before := broker.Put(ledger.Subject("main", ledger.EdgeSubject, "other"), ledger.AppendEnvelope(nil, nil))
				seq, err := b.Wait(t.Context())
				if err != nil || seq <= before {
					t.Errorf("Wait = %d, %v after sequence %d was stored", seq, err, before)
				}
			})
		}
		wg.Wait()
		if barriers := len(broker.Messages()) - 1 - 100; barriers > 6 {
			t.Errorf("100 questions within 2 ms took %d barriers of 1 ms each", barriers)
		}
		broker.OnAppend(func(string, []byte) ledgertest.Fault { return ledgertest.Fault{Kind: ledgertest.Refuse} })
		if _, err := b.Wait(t.Context()); !errors.Is(err, ledger.ErrUnavailable) {
			t.Errorf("Wait error = %v, want ErrUnavailable", err)
		}
	})
}
