//go:build unix

package natslog

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
)

// TestAppendUnknown freezes the server while it owes an answer: the message is stored
// later, so the error must not say that it was refused.
func TestAppendUnknown(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	s.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := l.Append(ctx, edge, []byte("late"))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ledger.ErrRefused) {
		t.Errorf("Append to a frozen server: %v, want an expired context and no refusal", err)
	}
	s.Resume()
	if got, err := take(t, l, 2, 1); err != nil || string(got[0].Data) != "late" {
		t.Errorf("Read(2) = %v, %v; want the late message", got, err)
	}
}

// TestSilence freezes the server under a reader, without ending the connection.
func TestSilence(t *testing.T) {
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	fill(t, l, 2)
	ended := follow(t, l, 1)
	s.Pause(t)
	begun := time.Now()
	err := wantEnd(t, ended, 20*time.Second)
	if d := time.Since(begun); d < silence/2 || d > 4*silence {
		t.Errorf("the reader ended after %v, want about %v", d, silence)
	}
	if !strings.Contains(err.Error(), "heartbeat") || ledger.IsQuarantine(err) {
		t.Errorf("the reader ended with %v, want a missing heartbeat", err)
	}
	s.Resume()
	if err := reconnect(t, l); err != nil {
		t.Errorf("Verify afterwards: %v", err)
	}
}
