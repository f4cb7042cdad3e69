package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger/natslog"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary also the program: under the name grantlog it is
// main. Scripts and tests run it as processes of their own.
func TestMain(m *testing.M) {
	natstest.Main() // or a NATS server, for the tests with an external log
	testscript.Main(m, map[string]func(){"grantlog": main})
}

// TestScripts runs the scripts in testdata. Beside testscript's commands they have:
//
//	server NAME ARGS…    starts "grantlog serve" on $WORK/NAME and a free port, waits
//	                     until it is ready, and sets GRANTLOG_SERVER
//	end NAME             ends it with SIGTERM; it must end with status 0
//	crash NAME           ends it with SIGKILL
//	field VAR A.B        sets VAR to a field of the JSON object on the last stdout
//	copydir FROM TO      copies a directory; TO is replaced
//	freeport VAR         sets VAR to host:port where nothing listens just now
//	listening VAR        sets VAR to host:port where something listens that is no server
//	lines FILE N         requires so many lines in a file or stdout
//	status N PROGRAM …   is exec, and requires the exit status N
//	eventually TEXT      waits until the server's /readyz holds the text
//	appears FILE TEXT    waits until a file holds the text
//	get PATH FILE        writes what the server answers to a file
//	post PATH JSON FILE  writes what it answers to a request with that body
//	oldlog NAME          makes the data directory $WORK/NAME with a log of fold version 1
//	flip PATTERN         changes a byte in the middle of the largest file that matches
//
// The environment has NATS_URL and NATS_MONITOR, of an external NATS server.
func TestScripts(t *testing.T) {
	broker := natstest.Start(t, natstest.Config{})
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			tmp := filepath.Join(env.WorkDir, "tmp")
			env.Setenv("TMPDIR", tmp)
			env.Setenv("NATS_URL", broker.URL)
			env.Setenv("NATS_MONITOR", broker.Monitor)
			servers := map[string]*process{}
			env.Values[serversKey{}] = servers
			env.Defer(func() {
				for _, p := range servers {
					p.kill()
				}
			})
			return os.MkdirAll(tmp, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server":     scriptServer,
			"end":        scriptEnd,
			"crash":      scriptCrash,
			"field":      scriptField,
			"copydir":    scriptCopyDir,
			"listening":  scriptListening,
			"freeport":   scriptFreePort,
			"lines":      scriptLines,
			"status":     scriptStatus,
			"eventually": scriptEventually,
			"appears":    scriptAppears,
			"get":        scriptGet,
			"post":       scriptPost,
			"flip":       scriptFlip,
			"oldlog":     scriptOldLog,
		},
	})
}

type serversKey struct{} // of testscript's values: the script's servers by name

func scriptServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: server NAME ARGS…")
	}
	p, err := startServer(ts.MkAbs(args[0]), args[1:]...)
	ts.Check(err)
	ts.Value(serversKey{}).(map[string]*process)[args[0]] = p
	ts.Setenv("GRANTLOG_SERVER", p.url)
}

func scriptEnd(ts *testscript.TestScript, neg bool, args []string) {
	servers := ts.Value(serversKey{}).(map[string]*process)
	if neg || len(args) != 1 || servers[args[0]] == nil {
		ts.Fatalf("usage: end NAME, of a server that runs")
	}
	p := servers[args[0]]
	delete(servers, args[0])
	ts.Check(p.stop())
}

func scriptCrash(ts *testscript.TestScript, neg bool, args []string) {
	servers := ts.Value(serversKey{}).(map[string]*process)
	if neg || len(args) != 1 || servers[args[0]] == nil {
		ts.Fatalf("usage: crash NAME, of a server that runs")
	}
	servers[args[0]].kill()
	delete(servers, args[0])
}

func scriptField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field VAR A.B")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for name := range strings.SplitSeq(args[1], ".") {
		m, _ := v.(map[string]any)
		if v = m[name]; v == nil {
			ts.Fatalf("stdout has no field %s", args[1])
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

func scriptCopyDir(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: copydir FROM TO")
	}
	to := ts.MkAbs(args[1])
	ts.Check(os.RemoveAll(to))
	ts.Check(os.CopyFS(to, os.DirFS(ts.MkAbs(args[0]))))
}

func scriptListening(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listening VAR")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

func scriptFreePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport VAR")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

func scriptLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lines FILE N")
	}
	if n := strings.Count(ts.ReadFile(args[0]), "\n"); fmt.Sprint(n) != args[1] {
		ts.Fatalf("%s has %d lines, not %s", args[0], n, args[1])
	}
}

func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARGS…")
	}
	status := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(status) != args[0] {
		ts.Fatalf("exit status %d, not %s", status, args[0])
	}
}

func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: eventually TEXT")
	}
	until(ts, args[0], func() (string, error) { return get(ts, "/readyz") })
}

func scriptAppears(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: appears FILE TEXT")
	}
	until(ts, args[1], func() (string, error) {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		return string(text), err
	})
}

// until waits until what read returns holds the text.
func until(ts *testscript.TestScript, text string, read func() (string, error)) {
	var got string
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if got, err = read(); err == nil && strings.Contains(got, text) {
			return
		}
	}
	ts.Fatalf("%q does not appear in %q, %v", text, got, err)
}

func scriptGet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get PATH FILE")
	}
	body, err := get(ts, args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(body), 0o600))
}

func scriptPost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: post PATH JSON FILE")
	}
	resp, err := http.Post(ts.Getenv("GRANTLOG_SERVER")+args[0], "application/json", strings.NewReader(args[1]))
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), body, 0o600))
}

func get(ts *testscript.TestScript, path string) (string, error) {
	resp, err := http.Get(ts.Getenv("GRANTLOG_SERVER") + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func scriptFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip PATTERN")
	}
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	var name string
	var data []byte
	for _, n := range names {
		d, err := os.ReadFile(n)
		ts.Check(err)
		if len(d) > len(data) {
			name, data = n, d
		}
	}
	if len(data) == 0 {
		ts.Fatalf("no file with bytes matches %s", args[0])
	}
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(name, data, 0o600))
}

func scriptOldLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: oldlog NAME")
	}
	dir := filepath.Join(ts.MkAbs(args[0]), "log")
	log, err := natslog.Open(context.Background(), natslog.Config{Embedded: &natslog.Embedded{Dir: dir, MayCreate: true}, Logger: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	ts.Check(log.Close())
}

// A process is a running "grantlog serve".
type process struct {
	cmd   *exec.Cmd
	url   string
	log   string        // file of its standard error
	ended chan struct{} // closed when it has ended and err is set
	err   error
}

// startServer starts the real program on a data directory and a free port of loopback
// and returns when it answers. Its standard error is in DIR.log.
func startServer(dir string, args ...string) (*process, error) {
	ready := dir + ".ready"
	if err := os.Remove(ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	log, err := os.OpenFile(dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{log: log.Name(), ended: make(chan struct{})}
	p.cmd = exec.Command("grantlog", append([]string{"serve", "--listen", "127.0.0.1:0", "--data", dir, "--ready-file", ready}, args...)...)
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if url, err := os.ReadFile(ready); err == nil {
			p.url = strings.TrimSpace(string(url))
			return p, nil
		}
		select {
		case <-p.ended:
			text, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("serve ended before it was ready: %v\n%s", p.err, text)
		case <-time.After(2 * time.Millisecond):
		}
	}
	p.kill()
	return nil, errors.New("serve was not ready after 30 s")
}

// stop ends the process with SIGTERM.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		p.kill()
		return errors.New("serve did not end within 20 s of SIGTERM")
	}
	if p.err != nil {
		text, _ := os.ReadFile(p.log)
		return fmt.Errorf("serve ended with %v\n%s", p.err, text)
	}
	return nil
}

// kill ends the process with SIGKILL and returns when it is gone.
func (p *process) kill() {
	p.cmd.Process.Kill() // it may have ended
	<-p.ended
}
