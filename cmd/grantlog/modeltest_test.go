package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
