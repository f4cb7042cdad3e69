//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
)

// TestFullDisk runs export and verify where a file can take only so many blocks, for
// numbers across the whole of it, so that writing fails there as on a full disk. Nothing
// then stands under the file's name or beside it, and a file that stood there is as it
// was. Where the limit is high enough, the file is whole.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("grantlog", "keygen", "full.example.com", "--out", key).CombinedOutput(); err != nil {
		t.Fatalf("keygen: %v\n%s", err, out)
	}
	p, err := startServer(filepath.Join(dir, "data"), "--signing-key", key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	c := newClient(p.url)
	created, err := c.stores.CreateStore(t.Context(), &pb.CreateStoreRequest{Name: "full"})
	if err != nil {
		t.Fatal(err)
	}
	store := created.GetStore().GetId()
	changes := []*pb.Change{modelChange(ledger.SourceDSL, []byte("model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define viewer: [user]\n"))}
	for i := range 4 { // three commands of some 200 KB, so more than one chunk and one buffer
		if _, err := c.ledger.Submit(t.Context(), &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: changes}}); err != nil {
			t.Fatal(err)
		}
		changes = nil
		for j := range ledger.MaxChanges {
			changes = append(changes, &pb.Change{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: &pb.Tuple{
				Object: fmt.Sprintf("doc:%d-%d-%s", i, j, strings.Repeat("x", 150)), Relation: "viewer", Subject: "user:ann"}}}})
		}
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(out, "full.bundle")
	// run runs the program with a limit of so many blocks of 512 bytes a file, 0 for none.
	run := func(blocks int64, args ...string) error {
		script := fmt.Sprintf("ulimit -f %d; exec grantlog \"$@\"", blocks)
		if blocks == 0 {
			script = `exec grantlog "$@"`
		}
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, "sh", "--server", p.url, "--store", store}, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+out)
		text, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	}
	holds := func(names ...string) {
		t.Helper()
		entries, err := os.ReadDir(out)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if fmt.Sprint(got) != fmt.Sprint(names) {
			t.Fatalf("the directory holds %q, want %q", got, names)
		}
	}
	if err := run(0, "audit", "export", file); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	needed := int64(len(whole)+511) / 512
	for _, blocks := range []int64{1, 2, 100, needed / 3, needed / 2, 513, needed - 1} {
		old := []byte("an older export\n")
		for _, replace := range []bool{false, true} {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			args := []string{"audit", "export", file}
			if replace {
				if err := os.WriteFile(file, old, 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--force")
			}
			err := run(blocks, args...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != statusError || !strings.Contains(err.Error(), "file too large") {
				t.Fatalf("export with %d blocks of %d: %v", blocks, needed, err)
			}
			if !replace {
				holds()
				continue
			}
			holds("full.bundle")
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, old) {
				t.Fatalf("the older file has %d bytes, %v", len(got), err)
			}
		}
	}
	if err := run(needed, "audit", "export", file, "--force"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, whole) {
		t.Fatalf("with room enough the file has %d bytes, want %d, %v", len(got), len(whole), err)
	}
	holds("full.bundle")

	// A scratch index that cannot be written is no answer about the bundle, wherever the
	// disk is full: it is told in one line.
	var exit *exec.ExitError
	for _, blocks := range []int64{1, 8, 100, needed / 2, needed} {
		err := run(blocks, "audit", "verify", file)
		if !errors.As(err, &exit) || exit.ExitCode() != statusError || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "--scratch") {
			t.Errorf("verify with %d blocks a file: %v", blocks, err)
		}
		holds("full.bundle")
	}
	// Nor are final tuples that cannot.
	err = run(needed/2, "audit", "verify", file, "--tuples", filepath.Join(out, "final.jsonl"))
	if !errors.As(err, &exit) || exit.ExitCode() != statusError || strings.Contains(err.Error(), "not verified") {
		t.Errorf("verify with tuples and %d blocks a file: %v", needed/2, err)
	}
	holds("full.bundle")
	if err := run(0, "audit", "verify", file, "--tuples", filepath.Join(out, "final.jsonl")); err != nil {
		t.Error(err)
	}
	holds("final.jsonl", "full.bundle")
}
