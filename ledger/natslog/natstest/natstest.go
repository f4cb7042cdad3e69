// Package natstest runs nats-server for tests, in a process of its own that a test can
// kill, and on a store directory that a test can put back to an older state. Nothing is
// installed for it: the process is the test binary run again, as a server.
package natstest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// childConfig is the environment variable that makes a test binary a server; its value
// is the path of the server's configuration.
const childConfig = "GRANTLOG_NATSTEST_CONFIG"

// Main runs a server, and never returns, if this process was started by [Start].
// TestMain of a package that uses Start calls it first.
func Main() {
	path := os.Getenv(childConfig)
	if path == "" {
		return
	}
	options, err := server.ProcessConfigFile(path)
	if err == nil {
		var s *server.Server
		if s, err = server.NewServer(options); err == nil {
			s.ConfigureLogger()
			go watchParent()
			if err = server.Run(s); err == nil {
				s.WaitForShutdown()
				os.Exit(0)
			}
		}
	}
	fmt.Fprintln(os.Stderr, "natstest:", err)
	os.Exit(1)
}

// watchParent ends the process when the test that started it is gone.
func watchParent() {
	parent := os.Getppid()
	for os.Getppid() == parent {
		time.Sleep(200 * time.Millisecond)
	}
	os.Exit(1)
}

// A Config is what a test wants of a server. The zero Config is a server that syncs
// always, with its store in a new directory.
type Config struct {
	Name  string // of the server; "natstest" if empty
	Dir   string // of the store
	Sync  string // sync_interval; "always" if empty
	Extra string // more text of nats-server's configuration
}

// A Server is a nats-server in a process of its own. It listens on loopback ports that
// stay the same when it is started again.
type Server struct {
	URL     string // of clients
	Monitor string // of its monitoring
	Dir     string // of its store

	config  string // path
	process *exec.Cmd
	log     string // path
}

// Start runs a server until the test ends.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.Name == "" {
		c.Name = "natstest"
	}
	if c.Sync == "" {
		c.Sync = "always"
	}
	client, monitor := FreePort(t), FreePort(t)
	dir := t.TempDir()
	s := &Server{
		URL:     "nats://127.0.0.1:" + client,
		Monitor: "http://127.0.0.1:" + monitor,
		Dir:     c.Dir,
		config:  filepath.Join(dir, "nats.conf"),
		log:     filepath.Join(dir, "nats.log"),
	}
	text := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:%s\"\nhttp: \"127.0.0.1:%s\"\nlog_file: %s\njetstream {\n  store_dir: %s\n  sync_interval: %s\n  max_memory_store: 64MB\n  max_file_store: 1TB\n}\n%s\n",
		c.Name, client, monitor, strconv.Quote(s.log), strconv.Quote(s.Dir), c.Sync, c.Extra)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Kill() })
	s.Start(t)
	return s
}

// StartCluster runs n servers that are a cluster, until the test ends. It needs some
// seconds more until it has a leader.
func StartCluster(t testing.TB, n int) []*Server {
	t.Helper()
	var addresses, routes []string
	for range n {
		address := "127.0.0.1:" + FreePort(t)
		addresses = append(addresses, address)
		routes = append(routes, strconv.Quote("nats://"+address))
	}
	var servers []*Server
	for i, address := range addresses {
		servers = append(servers, Start(t, Config{
			Name:  fmt.Sprint("natstest", i),
			Extra: fmt.Sprintf("cluster { name: natstest, listen: %q, routes: [%s] }", address, strings.Join(routes, ", ")),
		}))
	}
	return servers
}

// FreePort returns a loopback port on which nobody listens now.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	return port
}

// Start starts a server again that was stopped, and returns when it serves clients.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.process = exec.Command(exe)
	s.process.Env = append(os.Environ(), childConfig+"="+s.config)
	s.process.Stderr = os.Stderr
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	var d net.Dialer
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		conn, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(s.URL, "nats://"))
		cancel()
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(s.log)
			t.Fatalf("nats-server does not listen: %v\n%s", err, text)
		}
	}
}

// Stop lets the server end in order.
func (s *Server) Stop() {
	if s.process == nil {
		return
	}
	s.process.Process.Signal(os.Interrupt)
	s.process.Wait()
	s.process = nil
}

// Kill ends the server at once, as a crash of its process does.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	s.process.Process.Kill()
	s.process.Wait()
	s.process = nil
}

// Configure gives a stopped server another sync_interval, for when it is started again.
func (s *Server) Configure(t testing.TB, sync string) {
	t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`sync_interval: \S+`).ReplaceAll(text, []byte("sync_interval: "+sync))
	if err := os.WriteFile(s.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Copy copies the store of a stopped server, and returns the directory of the copy.
func (s *Server) Copy(t testing.TB) string {
	t.Helper()
	if s.process != nil {
		t.Fatal("Copy of the store of a running server")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(s.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Restore puts a copy of a store in the place of that of a stopped server.
func (s *Server) Restore(t testing.TB, copied string) {
	t.Helper()
	if s.process != nil {
		t.Fatal("Restore of the store of a running server")
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(s.Dir, os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}
}
