//go:build unix

package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCreateKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	made, err := CreateKey(file, "grantlog.example/main")
	if err != nil {
		t.Fatal(err)
	}
	private, err := ReadKey(file)
	if err != nil || private.Key != made {
		t.Errorf("ReadKey = %s, %v, want %s", private, err, made)
	}
	if public, err := ReadPublicKey(file + PublicSuffix); err != nil || public != made {
		t.Errorf("ReadPublicKey = %s, %v, want %s", public, err, made)
	}
	for path, mode := range map[string]fs.FileMode{file: 0o600, file + SignedSuffix: fs.ModeDir | 0o700, file + PublicSuffix: 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	if _, err := ReadKey(file + PublicSuffix); err == nil {
		t.Error("the public key is read as a private one")
	}
	if _, err := ReadPublicKey(file); err == nil || strings.Contains(err.Error(), private.Secret()[20:]) {
		t.Errorf("the private key read as a public one: %v", err)
	}
	if again, err := CreateKey(filepath.Join(t.TempDir(), "key"), "grantlog.example/main"); err != nil || again == made {
		t.Errorf("another key is %s, %v", again, err)
	}
}

// TestCreateKeyExclusive holds that nothing is overwritten, and nothing left behind.
func TestCreateKeyExclusive(t *testing.T) {
	for _, there := range []string{"key", "key.pub", "key.signed"} {
		dir := t.TempDir()
		path := filepath.Join(dir, there)
		must(t, os.WriteFile(path, []byte("mine"), 0o600))
		if k, err := CreateKey(filepath.Join(dir, "key"), "grantlog.example"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("with %s there, CreateKey = %s, %v", there, k, err)
		}
		entries, err := os.ReadDir(dir)
		if data, _ := os.ReadFile(path); err != nil || len(entries) != 1 || string(data) != "mine" {
			t.Errorf("with %s there, there are %v afterwards, %v, and it has %q", there, entries, err, data)
		}
	}
	dir := t.TempDir()
	if _, err := CreateKey(filepath.Join(dir, "key"), "not a name"); err == nil {
		t.Error("a name with spaces is taken")
	}
	if _, err := CreateKey(filepath.Join(dir, "none", "key"), "grantlog.example"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestReadKey(t *testing.T) {
	file := newKey(t)
	for _, mode := range []fs.FileMode{0o640, 0o620, 0o604, 0o602, 0o644, 0o666} {
		must(t, os.Chmod(file, mode))
		if _, err := ReadKey(file); err == nil || !strings.Contains(err.Error(), "chmod 600 "+file) {
			t.Errorf("with mode %v: %v", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o400, 0o600} {
		must(t, os.Chmod(file, mode))
		if _, err := ReadKey(file); err != nil {
			t.Errorf("with mode %v: %v", mode, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(file, link))
	if _, err := ReadKey(link); err != nil {
		t.Errorf("by a link: %v", err)
	}
	if os.Geteuid() == 0 { // who else could give a file away
		must(t, os.Chown(file, 12345, -1))
		if _, err := ReadKey(file); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("of another user: %v", err)
		}
		must(t, os.Chown(file, 0, -1))
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	for _, path := range []string{pipe, t.TempDir(), "/dev/zero"} {
		if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
	good, err := os.ReadFile(file)
	must(t, err)
	for name, data := range map[string]string{
		"empty":         "",
		"two newlines":  string(good) + "\n",
		"cut":           string(good[:len(good)-9]),
		"much too long": strings.Repeat("A", maxKeyFile+1),
		"two keys":      string(good) + string(good),
	} {
		must(t, os.WriteFile(file, []byte(data), 0o600))
		if _, err := ReadKey(file); err == nil || strings.Contains(err.Error(), string(good[40:60])) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
