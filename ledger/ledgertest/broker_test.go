package ledgertest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantlog/grantlog/ledger"
)

func TestConformance(t *testing.T) {
	Conformance(t, func(t *testing.T) func() (ledger.Log, error) {
		b := NewBroker()
		return func() (ledger.Log, error) { return b.Open() }
	})
}

func TestFaults(t *testing.T) {
	forever := make(chan struct{})
	for _, tt := range []struct {
		name    string
		fault   Fault
		stored  bool
		refused bool
		err     error
	}{
		{"none", Fault{}, true, false, nil},
		{"refuse", Fault{Kind: Refuse}, false, true, ledger.ErrRefused},
		{"lose message", Fault{Kind: LoseMessage}, false, false, ErrLost},
		{"lose answer", Fault{Kind: LoseAnswer}, true, false, ErrLost},
		{"delay", Fault{Delay: 10 * time.Second}, true, false, nil},
		{"delay too long", Fault{Delay: 2 * time.Minute}, true, false, context.DeadlineExceeded},
		{"hold for ever", Fault{Hold: forever}, true, false, context.DeadlineExceeded},
		{"lose late message", Fault{Kind: LoseMessage, Delay: 2 * time.Minute}, false, false, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := NewLog(t)
				if tt.fault.Hold != nil {
					tt.fault.Hold = make(chan struct{}) // one of this bubble
				}
				l.NextAppends(tt.fault)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := l.Append(ctx, edge, []byte("x"))
				if !errors.Is(err, tt.err) || errors.Is(err, ledger.ErrRefused) != tt.refused {
					t.Errorf("Append: %v, want %v", err, tt.err)
				}
				if stored := len(l.Messages()) == 2; stored != tt.stored {
					t.Errorf("stored = %t, want %t", stored, tt.stored)
				}
				if _, err := l.Append(t.Context(), edge, nil); err != nil {
					t.Errorf("the append after the fault: %v", err)
				}
			})
		})
	}
}

func TestOnAppend(t *testing.T) {
	l := NewLog(t)
	l.OnAppend(func(_ string, data []byte) Fault {
		if string(data) == "bad" {
			return Fault{Kind: Refuse}
		}
		return Fault{}
	})
	if _, err := l.Append(t.Context(), edge, []byte("bad")); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("Append of bad: %v, want ErrRefused", err)
	}
	if _, err := l.Append(t.Context(), edge, []byte("good")); err != nil {
		t.Errorf("Append of good: %v", err)
	}
}

// TestLosses breaks the log under a waiting reader, and checks what the reader and the
// next one are told.
func TestLosses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		lose   func(*Broker)
		read   error  // of the waiting Read; nil: it goes on waiting
		verify error  // of Verify and Open
		next   error  // of Read from 7, where the reader stands
		last   uint64 // Head afterwards
	}{
		{"disconnect", (*Broker).Disconnect, ErrConnection, nil, nil, 6},
		{"down", func(b *Broker) { b.SetDown(true) }, ErrConnection, ErrConnection, ErrConnection, 0},
		{"rewind", func(b *Broker) { b.Rewind(2) }, ErrConnection, nil, ledger.ErrRewound, 4},
		{"rewind of all", func(b *Broker) { b.Rewind(100) }, ErrConnection, ledger.ErrGap, ledger.ErrRewound, 0},
		{"drop in the middle", func(b *Broker) { b.Drop(3) }, nil, nil, nil, 6},
		{"drop of the genesis", func(b *Broker) { b.Drop(1) }, nil, ledger.ErrGap, nil, 6},
		{"replace", (*Broker).Replace, ErrConnection, ledger.ErrForeign, ledger.ErrRewound, 1},
		{"remove", (*Broker).Remove, ErrConnection, ledger.ErrMissing, ledger.ErrMissing, 0},
		{"remove and restore", func(b *Broker) { b.Remove(); b.Restore() }, ErrConnection, nil, nil, 6},
		{"drift", func(b *Broker) { b.Drift("max_msgs") }, nil, ledger.ErrDrift, nil, 6},
		{"pause", (*Broker).PauseReads, nil, nil, nil, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := NewLog(t)
				fill(t, l, 5)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := read(ctx, l, 1)
				synctest.Wait()
				tt.lose(l.Broker)
				synctest.Wait()
				select {
				case err := <-ended:
					if tt.read == nil || !errors.Is(err, tt.read) {
						t.Errorf("the waiting Read ended with %v, want %v", err, tt.read)
					}
				default:
					if tt.read != nil {
						t.Errorf("the waiting Read goes on, want %v", tt.read)
					}
				}
				if err := l.Verify(t.Context()); !errors.Is(err, tt.verify) || err != nil && tt.verify == nil {
					t.Errorf("Verify: %v, want %v", err, tt.verify)
				}
				ended = read(ctx, l, 7)
				synctest.Wait()
				select {
				case err := <-ended:
					if tt.next == nil || !errors.Is(err, tt.next) {
						t.Errorf("Read(7): %v, want %v", err, tt.next)
					}
				default:
					if tt.next != nil {
						t.Errorf("Read(7) waits, want %v", tt.next)
					}
				}
				if _, last, _ := l.Head(t.Context()); last != tt.last {
					t.Errorf("Head: last = %d, want %d", last, tt.last)
				}
			})
		})
	}
}

// read reads until ctx ends, and gives the error that ended it before that.
func read(ctx context.Context, l *Log, from uint64) <-chan error {
	ended := make(chan error, 1)
	go func() { // ends with ctx
		if err := failure(l.Read(ctx, from)); err != nil {
			ended <- err
		}
	}()
	return ended
}

func TestGap(t *testing.T) {
	l := NewLog(t)
	fill(t, l, 5)
	l.Drop(3)
	var seqs []uint64
	for m, err := range l.Read(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		if seqs = append(seqs, m.Seq); m.Pending == 0 {
			break
		}
	}
	if len(seqs) != 5 || seqs[2] != 4 {
		t.Errorf("Read yields %d, want every message but 3", seqs)
	}
	if _, err := l.At(t.Context(), 3); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("At(3): %v, want ErrNotFound", err)
	}
	l.Drop(6)
	if err := failure(l.Read(t.Context(), 5)); !errors.Is(err, ledger.ErrGap) {
		t.Errorf("Read over a newest message that is not there: %v, want ErrGap", err)
	}
}

func TestRewrittenPast(t *testing.T) {
	l := NewLog(t)
	fill(t, l, 5)
	before := l.Messages()
	l.Rewind(2)
	for range 4 {
		l.Put(edge, []byte("other"))
	}
	// A reader that stood at 6 is let go on at 7: only its own chain can tell.
	if m := take(t, l, 7, 1)[0]; string(m.Data) != "other" {
		t.Errorf("message 7 = %q", m.Data)
	}
	if m, err := l.At(t.Context(), 6); err != nil || same(m, before[5]) {
		t.Errorf("At(6) = %+v, %v; want another message than before", m, err)
	}
	l.Alter(2, func(m *ledger.Message) { m.Data[0]++ })
	if m, err := l.At(t.Context(), 2); err != nil || string(m.Data) != "2" || string(before[1].Data) != "1" {
		t.Errorf("At(2) = %q, %v, and before %q; want 2, and 1 before", m.Data, err, before[1].Data)
	}
}

func TestClock(t *testing.T) {
	l := NewLog(t)
	now := int64(1000)
	l.SetClock(func() int64 { now -= 10; return now })
	fill(t, l, 2)
	if got := l.Messages(); got[1].Time != 990 || got[2].Time != 980 {
		t.Errorf("times %d, %d; want 990, 980", got[1].Time, got[2].Time)
	}
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(t)
		got := make(chan ledger.Message)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l.PauseReads()
		go func() { // ends with ctx
			for m, err := range l.Read(ctx, 1) {
				if err == nil {
					got <- m
				}
			}
		}()
		synctest.Wait()
		select {
		case m := <-got:
			t.Errorf("a paused Read yields %+v", m)
		default:
		}
		l.ResumeReads()
		if m := <-got; m.Seq != 1 {
			t.Errorf("the resumed Read yields %+v, want the genesis", m)
		}
	})
}
