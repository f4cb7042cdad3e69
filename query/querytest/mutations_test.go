package querytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A mutation is a fault put into the evaluator. Its file is
//
//	one line that says what is wrong then
//	--- file
//	path of a source file from the module's root
//	--- old
//	text that stands once in that file
//	--- new
//	text to stand there instead
type mutation struct{ what, file, old, new string }

func readMutation(text string) (m mutation, err error) {
	var ok [3]bool
	m.what, text, ok[0] = strings.Cut(text, "\n--- file\n")
	m.file, text, ok[1] = strings.Cut(text, "\n--- old\n")
	m.old, m.new, ok[2] = strings.Cut(text, "\n--- new\n")
	m.new = strings.TrimSuffix(m.new, "\n")
	if ok != [3]bool{true, true, true} || strings.Contains(m.what, "\n") || m.what == "" || m.old == m.new {
		return m, errors.New("a mutation is a line, --- file, --- old and --- new")
	}
	return m, nil
}

// apply returns the source with the fault in it.
func (m mutation) apply(source string) (string, error) {
	if n := strings.Count(source, m.old); n != 1 {
		return "", fmt.Errorf("the old text stands %d times in %s, want once: %q", n, m.file, m.old)
	}
	return strings.Replace(source, m.old, m.new, 1), nil
}

// oracleTests are tests that compare with the oracle.
type oracleTests struct{ run, dir, size string }

// mutated are the tests that must notice a mutation, by the first word of its name.
var mutated = map[string]oracleTests{
	"":        {"^TestOracle(Lists)?$", ".", "-worlds=300"},
	"explain": {"^TestOracleExplain$", ".", "-worlds=160"},
	"turn":    {"^TestOracle(Turns|Windows)$", "..", "-histories=8"},
}

// runOracle runs the tests of that name in a process of its own, with other contents of one
// file of the module, and returns what it printed and whether they passed.
func runOracle(t *testing.T, tests oracleTests, file, contents string) (printed string, passed bool) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replaced, overlay := filepath.Join(dir, "mutated.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, filepath.FromSlash(file)): replaced}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{replaced: []byte(contents), overlay: replace} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // to compile, on a busy machine
	defer cancel()
	run := exec.CommandContext(ctx, "go", "test", "-overlay", overlay, "-vet=off", "-count=1", "-timeout=30s", "-run="+tests.run, tests.dir, "-args", "-seed=1", tests.size)
	var out bytes.Buffer
	run.Stdout, run.Stderr = &out, &out
	run.WaitDelay = time.Second
	err = run.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("go test: %v\n%s", err, &out)
	}
	return out.String(), err == nil
}

// TestMutations puts faults into the evaluator and its recorder, one at a time, and requires that the
// comparison with the oracle notices each. It shows that the comparison can fail: with
// the evaluator as it is, it passes.
func TestMutations(t *testing.T) {
	const least = 25
	names, err := filepath.Glob("testdata/mutations/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < least {
		t.Fatalf("found %d mutations, want %d or more", len(names), least)
	}
	source := func(t *testing.T, file string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("../..", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		const file = "ledger/model/check.go"
		for _, tests := range mutated {
			if out, passed := runOracle(t, tests, file, source(t, file)); !passed {
				t.Errorf("without a mutation the comparison fails:\n%s", out)
			}
		}
	})
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			m, err := readMutation(string(text))
			if err != nil {
				t.Fatal(err)
			}
			contents, err := m.apply(source(t, m.file))
			if err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(filepath.Base(name), "-")
			tests, ok := mutated[kind]
			if !ok {
				tests = mutated[""]
			}
			switch out, passed := runOracle(t, tests, m.file, contents); {
			case passed:
				t.Errorf("nobody notices that: %s", m.what)
			case !strings.Contains(out, "--- FAIL: TestOracle") || !strings.Contains(out, "the oracle says"):
				t.Errorf("%s\nThis was to be noticed by the comparison; instead:\n%s", m.what, out)
			}
		})
	}
}
