package natslog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestAppendKilled kills the server under many appends: each ends with an answer that
// is true, and soon.
func TestAppendKilled(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	const writers = 16
	var mu sync.Mutex
	acked, refused, unknown := map[uint64]string{}, map[string]bool{}, 0
	var wg sync.WaitGroup
	var once sync.Once
	killed := make(chan struct{})
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				data := fmt.Sprint(w, "/", i)
				seq, err := l.Append(t.Context(), edge, []byte(data))
				mu.Lock()
				switch {
				case err == nil:
					acked[seq] = data
				case errors.Is(err, ledger.ErrRefused):
					refused[data] = true
				default:
					unknown++
				}
				n := len(acked)
				mu.Unlock()
				if n > 200 {
					once.Do(func() { s.Kill(); close(killed) })
				}
				if err != nil {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }() // ends when the appends end, which the test waits for
	<-killed
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("appends still wait, 10 s after the server was killed")
	}
	begun := time.Now()
	if _, err := l.Append(t.Context(), edge, nil); !errors.Is(err, ledger.ErrRefused) || time.Since(begun) > 5*time.Second {
		t.Errorf("Append without a server: %v after %v, want ErrRefused at once", err, time.Since(begun))
	}
	s.Start(t)
	if err := reconnect(t, l); err != nil {
		t.Fatal(err)
	}
	_, last, err := l.Head(within(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := take(t, l, 1, int(last))
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range got {
		if m.Seq != uint64(i+1) {
			t.Fatalf("message %d in turn is %d", i+1, m.Seq)
		}
		if data, ok := acked[m.Seq]; ok && string(m.Data) != data {
			t.Errorf("message %d is %q, acknowledged was %q", m.Seq, m.Data, data)
		}
		if refused[string(m.Data)] {
			t.Errorf("message %d, %q, was said to be refused", m.Seq, m.Data)
		}
		delete(acked, m.Seq)
	}
	if len(acked) > 0 {
		t.Errorf("acknowledged and not there: %v", acked)
	}
	t.Logf("%d messages, %d refused, %d of unknown outcome", len(got), len(refused), unknown)
}

func TestAppendRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, js jetstream.JetStream, l *Log)
		text string
	}{
		{"sealed", func(t *testing.T, js jetstream.JetStream, l *Log) {
			stream, err := js.Stream(t.Context(), l.stream)
			if err != nil {
				t.Fatal(err)
			}
			c := stream.CachedInfo().Config
			c.Sealed = true
			if _, err := js.UpdateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}, "sealed"},
		{"another stream took the subjects", func(t *testing.T, js jetstream.JetStream, l *Log) {
			if err := js.DeleteStream(t.Context(), l.stream); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"grantlog.>"}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if s, err := js.Stream(context.Background(), "OTHER"); err != nil || s.CachedInfo().State.Msgs != 0 {
					t.Errorf("the other stream stored something, or is gone: %v", err)
				}
			})
		}, "expected stream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := natstest.Start(t, natstest.Config{})
			l := newLog(t, external(s))
			tt.do(t, admin(t, s), l)
			if _, err := l.Append(within(t), edge, []byte("x")); !errors.Is(err, ledger.ErrRefused) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Append: %v, want ErrRefused that says %q", err, tt.text)
			}
		})
	}
}

// TestNoAck has the stream store messages without a word: the drift makes every append
// one of unknown outcome, and none a success.
func TestNoAck(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	js := admin(t, s)
	stream, err := js.Stream(t.Context(), l.stream)
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	c.NoAck = true
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := l.Append(ctx, edge, nil); err == nil || errors.Is(err, ledger.ErrRefused) {
		t.Errorf("Append: %v, want an error that is no refusal", err)
	}
}

// TestForeignHeaders has another publisher store messages with headers of its choice.
func TestForeignHeaders(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	js := admin(t, s)
	// An empty message with such headers looks like the broker itself speaking.
	for i, status := range []string{"100", "404", "408", "409", "503"} {
		msg := nats.NewMsg(ledger.Subject("main", ledger.PrincipalSubject, "mallory"))
		msg.Header.Set("Status", status)
		msg.Header.Set("Description", "Consumer Deleted")
		if ack, err := js.PublishMsg(t.Context(), msg); err != nil || ack.Sequence != uint64(i+2) {
			t.Fatalf("publish: %+v, %v", ack, err)
		}
	}
	fill(t, l, 1)
	got, err := take(t, l, 1, 7)
	if err != nil {
		t.Fatalf("Read after %d messages: %v", len(got), err)
	}
	for i, m := range got {
		if at, err := l.At(within(t), m.Seq); m.Seq != uint64(i+1) || err != nil || at.Chain(ledger.Hash{}) != m.Chain(ledger.Hash{}) {
			t.Errorf("message %d in turn is %+v, At: %+v, %v", i+1, m, at, err)
		}
	}
}

// TestSlowReader takes longer over a message than the broker may be silent.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	fill(t, l, 5)
	n := 0
	for m, err := range l.Read(within(t), 1) {
		if err != nil {
			t.Fatalf("after %d messages: %v", n, err)
		}
		if n++; n == 2 {
			time.Sleep(2 * silence)
		}
		if m.Pending == 0 {
			break
		}
	}
	if n != 6 {
		t.Errorf("%d messages, want 6", n)
	}
}

// TestIdleReader waits longer than any of the watchdog's limits.
func TestIdleReader(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	ended := follow(t, l, 1)
	select {
	case err := <-ended:
		t.Errorf("a reader that waits for nothing ended: %v", err)
	case <-time.After(2*silence + time.Second):
	}
}

// TestPullsInTurn reads more than several requests ask for, in messages and in bytes,
// and slowly: the broker must never send more than was asked for.
func TestPullsInTurn(t *testing.T) {
	t.Parallel()
	l := newLog(t, Config{Embedded: &Embedded{Dir: t.TempDir()}, Logger: quiet})
	const small, large = 4 * pullMessages, 12
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range small / 10 {
				if _, err := l.Append(within(t), edge, []byte("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range large {
		if _, err := l.Append(within(t), edge, make([]byte, ledger.MaxAppend)); err != nil {
			t.Fatal(err)
		}
	}
	const all = 1 + small + large
	next := uint64(1)
	for m, err := range l.Read(within(t), 1) {
		if err != nil {
			t.Fatalf("Read at message %d: %v", next, err)
		}
		if m.Seq != next || m.Pending != all-next {
			t.Fatalf("message %d in turn is %d with %d pending", next, m.Seq, m.Pending)
		}
		if next++; m.Pending == 0 {
			break
		}
		if next%100 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if next != all+1 {
		t.Errorf("Read ended before message %d, want %d", next, all+1)
	}
}

// TestDisconnect loses the connection and gets it again at once: a reader must not go
// on as if nothing had been lost on the way.
func TestDisconnect(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	fill(t, l, 2)
	ended := follow(t, l, 1)
	if err := l.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	if err := wantEnd(t, ended, 5*time.Second); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("the reader ended with %v, want a lost connection", err)
	}
	if err := reconnect(t, l); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 1)
	if got, err := take(t, l, 4, 1); err != nil || got[0].Seq != 4 {
		t.Errorf("Read(4) = %v, %v", got, err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers, " writers"), func(b *testing.B) {
			l := newLog(b, Config{Embedded: &Embedded{Dir: b.TempDir()}, Logger: quiet})
			data := make([]byte, 300)
			next := make(chan struct{})
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for range next {
						if _, err := l.Append(context.Background(), edge, data); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				next <- struct{}{}
			}
			close(next)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	l := newLog(b, Config{Embedded: &Embedded{Dir: b.TempDir()}, Logger: quiet})
	const messages = 2000
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range messages / 8 {
				if _, err := l.Append(context.Background(), edge, make([]byte, 300)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for m, err := range l.Read(context.Background(), 1) {
			if err != nil {
				b.Fatal(err)
			}
			if n++; m.Pending == 0 {
				break
			}
		}
		if n != messages+1 {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.N)*messages/b.Elapsed().Seconds(), "messages/s")
}
