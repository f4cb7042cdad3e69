//go:build unix

package natstest

import "syscall"

// Pause stops the server's process where it is, without closing its connections, and
// Resume lets it go on.
func (s *Server) Pause() { s.process.Process.Signal(syscall.SIGSTOP) }

// Resume undoes [Server.Pause].
func (s *Server) Resume() { s.process.Process.Signal(syscall.SIGCONT) }
