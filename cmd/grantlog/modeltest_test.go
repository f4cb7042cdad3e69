package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/query"
)

// TestModelTestSamples runs the public project's sample stores, all in one run. Their
// assertions and answers are others' work, so that here we are not merely right by our
// own understanding of the format and the language.
func TestModelTestSamples(t *testing.T) {
	root := os.Getenv("GRANTLOG_CASES")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "cases")
	}
	dir := filepath.Join(root, "sample-stores")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no public test cases: %s; GRANTLOG_CASES names their folder", err)
	}
	args := []string{"-o", "json", "model", "test"}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".fga.yaml") {
			args = append(args, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr)
	if status != statusYes || stderr.Len() > 0 {
		t.Errorf("grantlog model test = %d\n%s%s", status, &stdout, &stderr)
	}
	var report struct {
		Passed bool
		Files  []fileReport
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	assertions := 0
	for _, f := range report.Files {
		for _, t := range f.Tests {
			assertions += t.Assertions
		}
	}
	if !report.Passed || len(report.Files) < 30 || assertions < 350 {
		t.Errorf("%d files with %d assertions, passed: %v; want 30 and 350 or more, all passed", len(report.Files), assertions, report.Passed)
	}
}

// TestModelTestManyTuples runs files of more tuples than a command takes, with tests of as
// many as a question takes and of one more: both are asked the same way, see none of the
// others' tuples, and tell which tuples the model refuses, of all tests.
func TestModelTestManyTuples(t *testing.T) {
	file := func(shared, own int, bad string) string {
		var b strings.Builder
		b.WriteString("model: |\n  model\n    schema 1.1\n  type user\n  type doc\n    relations\n      define viewer: [user, user with never]\n  condition never(x: bool) {\n    x\n  }\n")
		b.WriteString("tuples:\n  - {user: user:0, relation: viewer, object: doc:0, condition: {name: never, context: {x: false}}}\n")
		for i := 1; i < shared; i++ {
			fmt.Fprintf(&b, "  - {user: user:%d, relation: viewer, object: doc:%d}\n", i, i)
		}
		b.WriteString("tests:\n")
		for _, name := range []string{"a", "b"} {
			fmt.Fprintf(&b, "  - name: %s\n    tuples:\n      - {user: user:0, relation: viewer, object: doc:0}\n", name) // without the condition
			for i := 1; i < own; i++ {
				fmt.Fprintf(&b, "      - {user: user:%s, relation: viewer, object: doc:%s%d}\n", name, name, i)
			}
			b.WriteString(bad)
			fmt.Fprintf(&b, "    check:\n      - {user: user:%s, object: doc:%s%d, assertions: {viewer: true}}\n", name, name, own-1)
			fmt.Fprintf(&b, "      - {users: [user:a, user:b], object: doc:none, assertions: {viewer: false}}\n")
			fmt.Fprintf(&b, "      - {user: user:%d, object: doc:%d, assertions: {viewer: true}}\n", shared-1, shared-1)
			b.WriteString("    list_users:\n      - {object: doc:0, user_filter: [{type: user}], assertions: {viewer: {users: [user:0]}}}\n")
			fmt.Fprintf(&b, "    list_objects:\n      - {user: user:%s, type: doc, assertions: {viewer: []}}\n", map[string]string{"a": "b", "b": "a"}[name])
		}
		b.WriteString("  - name: no tuples of its own\n    check:\n      - {user: user:0, object: doc:0, assertions: {viewer: false}}\n")
		return b.String()
	}
	name := filepath.Join(t.TempDir(), "many.fga.yaml")
	for _, own := range []int{query.MaxContextual, query.MaxContextual + 1, ledger.MaxChanges + 1} {
		const refused = "      - {user: doc:0, relation: viewer, object: doc:0}\n"
		for bad, want := range map[string][]int{"": nil, refused: {14 + 2500 + own, 14 + 2500 + own + own + 10}} {
			tuples := own
			if bad != "" {
				tuples--
			}
			if err := os.WriteFile(name, []byte(file(2500, tuples, bad)), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			status := run(t.Context(), []string{"model", "test", name}, strings.NewReader(""), &stdout, &stderr)
			lines := strings.SplitAfter(stderr.String(), "\n")
			if want == nil && (status != statusYes || stderr.Len() > 0) || want != nil && (status != statusError || len(lines) != len(want)+2) {
				t.Errorf("%d tuples of tests: status %d, want mistakes in the lines %d\n%s%s", own, status, want, &stdout, &stderr)
				continue
			}
			for i, line := range want {
				if place := fmt.Sprintf("%s:%d: doc:0 viewer doc:0: ", name, line); !strings.HasPrefix(lines[i], place) {
					t.Errorf("%d tuples of tests: %swant %s", own, lines[i], place)
				}
			}
		}
	}
}

// TestModelTestManyRefusals: of many tuples that the model refuses, the first are told.
func TestModelTestManyRefusals(t *testing.T) {
	var b strings.Builder
	b.WriteString("model: |\n  model\n    schema 1.1\n  type user\ntuples:\n")
	for i := range 3000 {
		fmt.Fprintf(&b, "  - {user: user:%d, relation: viewer, object: doc:%d}\n", i, i)
	}
	b.WriteString("tests:\n")
	for i := range 50 {
		fmt.Fprintf(&b, "  - tuples: [{user: user:%d, relation: editor, object: doc:0}]\n", i)
	}
	name := filepath.Join(t.TempDir(), "many.fga.yaml")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"model", "test", name}, strings.NewReader(""), &stdout, &stderr)
	lines := strings.Split(stderr.String(), "\n")
	if want := fmt.Sprintf("%s:%d: user:99 viewer doc:99: ", name, 6+99); status != statusError || len(lines) != 102 || !strings.HasPrefix(lines[99], want) {
		t.Errorf("status %d with %d lines, want 2 with 100 mistakes, the last %s\n%s", status, len(lines), want, &stderr)
	}
}
