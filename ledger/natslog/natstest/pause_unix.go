//go:build unix

package natstest

import (
	"syscall"
	"testing"
)

// Pause stops the server's process where it is, without closing its connections, and
// returns when it stands still.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	s.process.Process.Signal(syscall.SIGSTOP)
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(s.process.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || !status.Stopped() {
			t.Fatalf("the server did not stop: %v, status %d", err, status)
		}
		return
	}
}

// Resume lets the server's process go on.
func (s *Server) Resume() { s.process.Process.Signal(syscall.SIGCONT) }
