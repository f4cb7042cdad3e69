package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestDemoServes runs the demo as a newcomer does, on a machine where the usual port
// is taken: it says so and takes another, serves what it says it serves, and ends in
// order at Ctrl-C, with its temporary directory gone.
func TestDemoServes(t *testing.T) {
	if l, err := net.Listen("tcp", "127.0.0.1:8080"); err == nil {
		defer l.Close() // otherwise something else has it, which is as good
	}
	tmp := t.TempDir()
	cmd := exec.Command("grantlog", "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // it may have ended
	var text strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		text.WriteString(lines.Text() + "\n")
		if lines.Text() == "Ctrl-C ends it." {
			break
		}
	}
	if !strings.HasPrefix(text.String(), "127.0.0.1:8080 is taken, so the demo answers on another port.\n") {
		t.Errorf("the demo begins with %.100q", text.String())
	}
	// What it says one may type is what works.
	curl := regexp.MustCompile(`curl -s (http://\S+/Check) -H '([^:]+): ([^']+)' -d \\\n +'([^']+)'`).FindStringSubmatch(text.String())
	if curl == nil {
		t.Fatalf("no curl command in:\n%s", text.String())
	}
	req, err := http.NewRequest(http.MethodPost, curl[1], strings.NewReader(curl[4]))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(curl[2], curl[3])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(body), `"allowed":true`) {
		t.Errorf("%s answered %s %s, %v", curl[0], resp.Status, body, err)
	}
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 1 {
		t.Errorf("while it runs, the temporary directory holds %v, %v", entries, err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 0 {
		t.Errorf("afterwards, the temporary directory holds %v, %v", entries, err)
	}
}
