//go:build unix

package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"golang.org/x/mod/sumdb/tlog"
)

var store = ledger.ID{1, 2, 3, 4, 5, 6, 0x70, 8, 0x80, 10, 11, 12, 13, 14, 15, 16}

// A past is the hashes of a tree.
type past []tlog.Hash

// ReadHashes implements [tlog.HashReader].
func (p past) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = p[x]
	}
	return out, nil
}

// grown opens a tree of size leaves. Those after common are others in each branch.
func grown(size, common ledger.Revision, branch string) func() (tree, error) {
	return func() (tree, error) {
		var p past
		for rev := ledger.Revision(1); rev <= size; rev++ {
			data := fmt.Sprint(rev)
			if rev > common {
				data += branch
			}
			hashes, err := seal.Hashes(rev, seal.LeafHash([]byte(data)), p)
			if err != nil {
				return tree{}, err
			}
			for _, h := range hashes {
				p = append(p, tlog.Hash(h))
			}
		}
		return tree{size: size, hashes: p, close: func() {}}, nil
	}
}

func newKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if _, err := CreateKey(file, "grantlog.example/main"); err != nil {
		t.Fatal(err)
	}
	return file
}

func openSigner(t *testing.T, file string) *Signer {
	t.Helper()
	s, err := OpenSigner(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func closeSigner(t *testing.T, s *Signer) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// signs signs a tree and returns the note.
func signs(t *testing.T, s *Signer, size, common ledger.Revision, branch string) []byte {
	t.Helper()
	note, c, err := s.sign(t.Context(), store, grown(size, common, branch))
	if err != nil {
		t.Fatalf("sign %d: %v", size, err)
	}
	if got, err := s.Key().Open(store, note); err != nil || got != c || c.Size != size {
		t.Fatalf("the note of %d says %+v, %v, and the signer %+v", size, got, err, c)
	}
	return note
}

// refuses requires that a tree is not signed.
func refuses(t *testing.T, s *Signer, size, common ledger.Revision, branch string, want error) {
	t.Helper()
	note, _, err := s.sign(t.Context(), store, grown(size, common, branch))
	if !errors.Is(err, want) || note != nil {
		t.Fatalf("sign %d of branch %q = %q, %v, want %v", size, branch, note, err, want)
	}
}

func TestSigner(t *testing.T) {
	file := newKey(t)
	s := openSigner(t, file)
	first := signs(t, s, 3, 99, "")
	if again := signs(t, s, 3, 99, ""); !bytes.Equal(first, again) {
		t.Errorf("signed again, the note is %q, not %q", again, first)
	}
	refuses(t, s, 3, 2, "b", ErrOtherPast)
	refuses(t, s, 5, 2, "b", ErrOtherPast)
	refuses(t, s, 2, 99, "", ledger.ErrUnavailable)
	refuses(t, s, 0, 99, "", ledger.ErrNotFound)
	fifth := signs(t, s, 5, 3, "b") // what was signed is in it
	refuses(t, s, 5, 3, "c", ErrOtherPast)
	other, _, err := s.sign(t.Context(), ledger.System, grown(5, 3, "c"))
	if err != nil {
		t.Errorf("another store's tree: %v", err)
	}
	closeSigner(t, s)

	s = openSigner(t, file)
	if again := signs(t, s, 5, 3, "b"); !bytes.Equal(fifth, again) {
		t.Errorf("after a restart the note is %q, not %q", again, fifth)
	}
	if again, _, err := s.sign(t.Context(), ledger.System, grown(5, 3, "c")); err != nil || !bytes.Equal(other, again) {
		t.Errorf("after a restart the other note is %q, %v, not %q", again, err, other)
	}
	refuses(t, s, 5, 3, "c", ErrOtherPast)
	refuses(t, s, 8, 3, "c", ErrOtherPast)
	refuses(t, s, 4, 3, "b", ledger.ErrUnavailable)
	signs(t, s, 8, 3, "b")

	ended, cancel := context.WithCancel(t.Context())
	last := s.last(store)
	<-last.turn
	cancel()
	if _, _, err := s.sign(ended, store, grown(9, 3, "b")); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is gone gets %v", err)
	}
	last.turn <- struct{}{}
}

// steps are those of signing, in order.
var steps = []string{"create", "write", "sync", "compare", "rename", "sync the directory", "give out"}

// TestSignerSteps fails every step in turn. What was given out stands, and nothing else
// is given out for its size.
func TestSignerSteps(t *testing.T) {
	for _, fail := range steps {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", fail, restart), func(t *testing.T) {
				file := newKey(t)
				s := openSigner(t, file)
				third := signs(t, s, 3, 3, "")
				failure := errors.New("the disk says no")
				var done []string
				s.step = func(step string) error {
					done = append(done, step)
					if step == fail {
						return failure
					}
					return nil
				}
				if note, _, err := s.sign(t.Context(), store, grown(5, 3, "a")); !errors.Is(err, failure) || note != nil {
					t.Fatalf("sign = %q, %v, want the failure", note, err)
				}
				if at := slices.Index(steps, fail); !slices.Equal(done, steps[:at+1]) {
					t.Fatalf("the steps were %q", done)
				}
				onDisk := readState(t, file)
				if c, err := s.Key().Open(store, onDisk); err != nil || c.Size != 3 && c.Size != 5 || c.Size == 3 && !bytes.Equal(onDisk, third) {
					t.Fatalf("the directory has %q, %v", onDisk, err)
				}
				s.step = nil
				if restart {
					closeSigner(t, s)
					s = openSigner(t, file)
				}
				renamed := slices.Index(steps, fail) > slices.Index(steps, "rename")
				if renamed {
					refuses(t, s, 5, 3, "b", ErrOtherPast)
					if note := signs(t, s, 5, 3, "a"); !bytes.Equal(note, onDisk) {
						t.Errorf("the note is %q, and was written as %q", note, onDisk)
					}
					return
				}
				signs(t, s, 5, 3, "b") // the note of the other branch was never given out
				refuses(t, s, 5, 3, "a", ErrOtherPast)
			})
		}
	}
}

// TestSignerDurable holds that a note which another process left, perhaps in a cache
// alone, is on the disk before it is given out again; and then not written once more.
func TestSignerDurable(t *testing.T) {
	file := newKey(t)
	s := openSigner(t, file)
	signs(t, s, 3, 99, "")
	closeSigner(t, s)
	s = openSigner(t, file)
	for _, want := range [][]string{steps, {"give out"}} {
		var done []string
		s.step = func(step string) error {
			done = append(done, step)
			return nil
		}
		if signs(t, s, 3, 99, ""); !slices.Equal(done, want) {
			t.Errorf("the steps were %q, want %q", done, want)
		}
	}
}

func readState(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(file+SignedSuffix, store.String()))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A child is what a process of TestSignerKilled is told to do.
type child struct {
	File   string
	Branch string
	Sizes  []ledger.Revision // to sign, in turn
	Kill   int               // the step before which the process kills itself; of all it does, from 0
}

const childVariable = "GRANTLOG_TEST_SIGNER"

// TestSignerChild is the process that TestSignerKilled starts. It prints each note that
// it is given.
func TestSignerChild(t *testing.T) {
	text := os.Getenv(childVariable)
	if text == "" {
		t.Skip("it is run by TestSignerKilled")
	}
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSigner(c.File)
	if err != nil {
		fmt.Printf("refused %q\nended\n", err)
		return
	}
	done := 0
	s.step = func(string) error {
		if done == c.Kill {
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			t.Fatal("still alive: ", err)
		}
		done++
		return nil
	}
	for _, size := range c.Sizes {
		note, _, err := s.sign(t.Context(), store, grown(size, 3, c.Branch))
		if err != nil {
			fmt.Printf("refused %q\n", err)
			continue
		}
		fmt.Printf("note %q\n", note)
	}
	fmt.Println("ended")
}

// runs runs a child to its end and returns what it was given and refused, and whether it
// ended by itself.
func (c child) runs(t *testing.T) (notes, refused []string, ended bool) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSignerChild$")
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out, failed := cmd.Output()
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		var text string
		switch fmt.Sscanf(rest, "%q", &text); kind {
		case "note":
			notes = append(notes, text)
		case "refused":
			refused = append(refused, text)
		case "ended":
			ended = true
		}
	}
	if ended != (failed == nil) {
		t.Fatalf("the child %+v: %v\n%s", c, failed, out)
	}
	return notes, refused, ended
}

// conflict returns two different notes for one size, or "".
func conflict(t *testing.T, key seal.Key, notes []string) string {
	t.Helper()
	bySize := make(map[ledger.Revision]string)
	for _, n := range notes {
		c, err := key.Open(store, []byte(n))
		if err != nil {
			t.Fatalf("%v: %q", err, n)
		}
		if was, ok := bySize[c.Size]; ok && was != n {
			return was + n
		}
		bySize[c.Size] = n
	}
	return ""
}

// TestSignerKilled ends the process with kill -9 at every step of signing a tree of 3
// and then one of 5, and each time goes on with a tree that parts from it after 3, and
// then with the first again.
func TestSignerKilled(t *testing.T) {
	const never = 1 << 20
	for kill := 0; ; kill++ {
		file := newKey(t)
		key, err := ReadPublicKey(file + PublicSuffix)
		if err != nil {
			t.Fatal(err)
		}
		notes, _, ended := child{file, "a", []ledger.Revision{3, 5}, kill}.runs(t)
		size := ledger.Revision(0)
		if data, err := os.ReadFile(filepath.Join(file+SignedSuffix, store.String())); err == nil {
			c, err := key.Open(store, data)
			if err != nil {
				t.Fatalf("killed at step %d, the directory has %q: %v", kill, data, err)
			}
			size = c.Size
		}
		if given := len(notes); given > 0 && size < 3 || given > 1 && size < 5 {
			t.Fatalf("killed at step %d, the directory has the note of %d, and %d were given out", kill, size, given)
		}
		other, refused, ok := child{file, "b", []ledger.Revision{5, 6}, never}.runs(t)
		if !ok || (len(refused) > 0) != (size == 5) {
			t.Fatalf("killed at step %d with %d signed, another branch is signed %q and refused %q", kill, size, other, refused)
		}
		again, _, ok := child{file, "a", []ledger.Revision{5, 6}, never}.runs(t)
		if !ok || (len(again) > 0) != (size == 5) {
			t.Fatalf("killed at step %d with %d signed, the first branch is signed %q", kill, size, again)
		}
		if c := conflict(t, key, slices.Concat(notes, other, again)); c != "" {
			t.Fatalf("killed at step %d, two notes for one size:\n%s", kill, c)
		}
		if ended {
			if kill != 2*len(steps) {
				t.Errorf("there were %d steps; the test knows of %d", kill, 2*len(steps))
			}
			return
		}
	}
}

// TestSignerForgets shows that what the directory remembers is what keeps two branches
// apart: without it the test above finds two notes for one size.
func TestSignerForgets(t *testing.T) {
	file := newKey(t)
	var notes []string
	for _, branch := range []string{"a", "b"} {
		s := openSigner(t, file)
		notes = append(notes, string(signs(t, s, 5, 3, branch)))
		key := s.Key()
		closeSigner(t, s)
		if err := os.Remove(filepath.Join(file+SignedSuffix, store.String())); err != nil {
			t.Fatal(err)
		}
		if c := conflict(t, key, notes); (c != "") != (branch == "b") {
			t.Errorf("after branch %s there is the conflict %q", branch, c)
		}
	}
}

// TestSignerAlone starts a second process with the key of a running one.
func TestSignerAlone(t *testing.T) {
	file := newKey(t)
	s := openSigner(t, file)
	c := child{File: file, Branch: "a", Sizes: []ledger.Revision{3}, Kill: 1 << 20}
	if notes, refused, _ := c.runs(t); len(notes) > 0 || len(refused) != 1 || !strings.Contains(refused[0], "another process signs with this key") {
		t.Errorf("beside another, a process signs %q, and is refused %q", notes, refused)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if other, err := OpenSigner(link); err == nil {
		other.Close()
		t.Error("by a link, the key is opened twice")
	}
	closeSigner(t, s)
	closeSigner(t, openSigner(t, link)) // the same key and directory, which are free now
	if notes, refused, _ := c.runs(t); len(notes) != 1 {
		t.Errorf("alone, a process signs %q, and is refused %q", notes, refused)
	}
}

// TestSignerAltered alters what a signer remembers, under its hands and between two.
func TestSignerAltered(t *testing.T) {
	state := func(file string) string { return filepath.Join(file+SignedSuffix, store.String()) }
	write := func(t *testing.T, path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alterations := map[string]func(t *testing.T, file string, third, fifth []byte){
		"removed":   func(t *testing.T, file string, _, _ []byte) { must(t, os.Remove(state(file))) },
		"emptied":   func(t *testing.T, file string, _, _ []byte) { write(t, state(file), nil) },
		"truncated": func(t *testing.T, file string, _, fifth []byte) { write(t, state(file), fifth[:len(fifth)-1]) },
		"flipped": func(t *testing.T, file string, _, fifth []byte) {
			b := bytes.Clone(fifth)
			b[len(b)-20] ^= 1
			write(t, state(file), b)
		},
		"an older note": func(t *testing.T, file string, third, _ []byte) { write(t, state(file), third) },
		"not a file": func(t *testing.T, file string, _, _ []byte) {
			must(t, os.Remove(state(file)), os.Mkdir(state(file), 0o700))
		},
		"another holder": func(t *testing.T, file string, _, _ []byte) {
			must(t, os.Rename(file+SignedSuffix, file+".away"), os.Mkdir(file+SignedSuffix, 0o700))
		},
	}
	// What a process that begins can tell: not that a note was removed or is old.
	told := map[string]error{"emptied": ErrSigned, "truncated": ErrSigned, "flipped": ErrSigned, "another holder": ErrSigned}
	for _, name := range slices.Sorted(maps.Keys(alterations)) {
		t.Run(name, func(t *testing.T) {
			file := newKey(t)
			s := openSigner(t, file)
			third := signs(t, s, 3, 99, "")
			fifth := signs(t, s, 5, 99, "")
			alterations[name](t, file, third, fifth)
			for range 2 { // it does not come to terms with it either
				note, _, err := s.sign(t.Context(), store, grown(7, 99, ""))
				if err == nil || note != nil || name != "not a file" && !errors.Is(err, ErrSigned) {
					t.Fatalf("sign = %q, %v, want a refusal", note, err)
				}
			}
			closeSigner(t, s)
			s, err := OpenSigner(file)
			if err == nil {
				defer s.Close()
				_, _, err = s.sign(t.Context(), store, grown(7, 99, ""))
			}
			if want := told[name]; want != nil && !errors.Is(err, want) {
				t.Errorf("after a restart, %v, want %v", err, want)
			}
		})
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestSignerDirectory holds that a key signs nothing without its own directory.
func TestSignerDirectory(t *testing.T) {
	file, other := newKey(t), newKey(t)
	must(t, os.RemoveAll(file+SignedSuffix))
	if s, err := OpenSigner(file); !errors.Is(err, ErrSigned) {
		t.Errorf("without its directory: %v, %v", s, err)
	}
	must(t, os.Rename(other+SignedSuffix, file+SignedSuffix))
	if s, err := OpenSigner(file); !errors.Is(err, ErrSigned) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("with another's directory: %v, %v", s, err)
	}
	must(t, os.Remove(filepath.Join(file+SignedSuffix, ownerFile)))
	if s, err := OpenSigner(file); !errors.Is(err, ErrSigned) {
		t.Errorf("with a directory of nobody: %v, %v", s, err)
	}
}

// TestSignerConcurrently has many callers, each with the tree as it has grown by then.
func TestSignerConcurrently(t *testing.T) {
	s := openSigner(t, newKey(t))
	var mu sync.Mutex // size and notes
	size := ledger.Revision(0)
	grows := func() (tree, error) {
		mu.Lock()
		defer mu.Unlock()
		size++
		return grown(size-size%3+1, 99, "")()
	}
	var callers sync.WaitGroup
	var notes []string
	for range 8 {
		callers.Go(func() { // ends after ten notes
			for range 10 {
				note, _, err := s.sign(t.Context(), store, grows)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				notes = append(notes, string(note))
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	if c := conflict(t, s.Key(), notes); c != "" {
		t.Errorf("two notes for one size:\n%s", c)
	}
}
