package natslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var edge = ledger.Subject("main", ledger.EdgeSubject, "a")

// external is the configuration of the log on s.
func external(s *natstest.Server) Config {
	return Config{External: &External{URL: s.URL, Monitors: []string{s.Monitor}}, Logger: quiet}
}

// newLog creates a log, closed when the test ends.
func newLog(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// fill appends n messages, with data "message <sequence>".
func fill(t testing.TB, l *Log, n int) {
	t.Helper()
	_, last, err := l.Head(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		data := fmt.Appendf(nil, "message %d", last+uint64(i)+1)
		if _, err := l.Append(within(t), edge, data); err != nil {
			t.Fatal(err)
		}
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// take reads n messages, or up to the error that ends reading before that.
func take(t testing.TB, l *Log, from uint64, n int) ([]ledger.Message, error) {
	t.Helper()
	var got []ledger.Message
	for m, err := range l.Read(within(t), from) {
		if err != nil {
			return got, err
		}
		if got = append(got, m); len(got) == n {
			return got, nil
		}
	}
	return got, errors.New("nothing more for 10 s")
}

// follow reads from a sequence on, and gives the error that ends that.
func follow(t *testing.T, l *Log, from uint64) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	caughtUp := make(chan struct{}, 1)
	go func() { // ends with the test, or when reading fails
		for m, err := range l.Read(ctx, from) {
			if err != nil {
				ended <- err
			} else if m.Pending == 0 {
				select {
				case caughtUp <- struct{}{}:
				default: // it has been said before
				}
			}
		}
	}()
	select {
	case <-caughtUp:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("the reader does not catch up")
	}
	return ended
}

// wantEnd waits for the error of a reader.
func wantEnd(t *testing.T, ended <-chan error, limit time.Duration) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(limit):
		t.Fatalf("the reader goes on after %v", limit)
		return nil
	}
}

// reconnect waits until the log answers again, and returns what Verify says then.
func reconnect(t *testing.T, l *Log) error {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := l.Verify(within(t))
		if !errors.Is(err, ledger.ErrUnavailable) || time.Now().After(end) {
			return err
		}
	}
}

// admin connects to a server with every right.
func admin(t testing.TB, s *natstest.Server) jetstream.JetStream { return adminAt(t, s.URL) }

func adminAt(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func deleteStream(t testing.TB, s *natstest.Server) { deleteStreamAt(t, s.URL) }

func deleteStreamAt(t testing.TB, url string) {
	t.Helper()
	if err := adminAt(t, url).DeleteStream(context.Background(), streamName("main")); err != nil {
		t.Fatal(err)
	}
}

// flip changes one bit of the first file under dir that matches pattern and holds text,
// in the first byte of text.
func flip(t *testing.T, dir, pattern, text string) {
	t.Helper()
	done := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || done {
			return err
		}
		if match, _ := filepath.Match(pattern, d.Name()); !match {
			return nil
		}
		data, err := os.ReadFile(path)
		if i := bytes.Index(data, []byte(text)); err == nil && i >= 0 {
			data[i] ^= 1
			done = true
			err = os.WriteFile(path, data, 0o600)
		}
		return err
	})
	if err != nil || !done {
		t.Fatalf("no %s in any %s: %v", text, pattern, err)
	}
}
