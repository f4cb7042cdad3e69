package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector"
	"golang.org/x/mod/sumdb/tlog"
)

// The errors of a signer on which a caller acts.
var (
	// ErrOtherPast: what the key signed for the store is no beginning of the store's tree
	// as it is here. Nothing is signed. It is so for good after an accepted loss of
	// entries that were signed: then a new key, with a new name, signs what is left.
	ErrOtherPast = errors.New("what the key signed before is not the past of this tree")
	// ErrSigned: what the key signed last is missing, damaged, or altered by another.
	// Nothing is signed for the store until an operator has put that right.
	ErrSigned = errors.New("the record of what the key signed is not as it was left")
)

// ownerFile is the file of the directory of a signer that holds the public key.
const ownerFile = "key"

// A Signer signs checkpoints with one key, on demand. It never signs two trees of one
// size: what it gives out is in its directory, FILE.signed beside the key's file, before
// anybody has it, and a new tree is signed only if it contains the last one.
//
//	key     the public key
//	STORE   the last note of the store
//	STORE~  a note that is being written; it counts for nothing
//
// One process at a time has the directory. Whoever copies the key, or brings back an
// older directory, takes that away. Methods may be called concurrently.
type Signer struct {
	key  seal.PrivateKey
	path string   // of the directory
	root *os.Root // the directory that is locked, whatever has its name now
	dir  *os.File // the same, holding the lock

	mu     sync.Mutex
	stores map[ledger.ID]*lastSigned

	// step, if it is set, is called before each step by that name; its error is that of
	// the step. It is for tests.
	step func(name string) error
}

// lastSigned is what was signed for a store. Whoever took its turn owns it.
type lastSigned struct {
	turn       chan struct{}   // holds one element while nobody has the turn
	known      bool            // note is what the directory has, or pending is
	note       []byte          // nil if there is none
	pending    []byte          // what was to take its place and failed; nil if nothing did
	checkpoint seal.Checkpoint // what note says
	durable    bool            // this process has seen to it that note is on the disk, and not in a cache alone
}

// OpenSigner reads the key of the file, as [ReadKey] does, and locks its directory,
// which [CreateKey] made: a key without its directory signs nothing, because it cannot
// be known what it signed. The caller closes the signer.
func OpenSigner(file string) (_ *Signer, err error) {
	// Links to one key lead to one directory.
	file, err = filepath.EvalSymlinks(file)
	if err != nil {
		return nil, err
	}
	k, err := ReadKey(file)
	if err != nil {
		return nil, err
	}
	path := file + SignedSuffix
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s, which says what the key signed, is missing: bring it back, or make a new key with a new name", ErrSigned, path)
	}
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := lockDir(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), dir.Close(), root.Close())
	}
	s := &Signer{key: k, path: path, root: root, dir: dir, stores: make(map[ledger.ID]*lastSigned)}
	owner, err := s.read(ownerFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: %s lacks the file %s; bring the directory back as it was", ErrSigned, path, ownerFile)
	case err == nil && strings.TrimSuffix(string(owner), "\n") != k.String():
		err = fmt.Errorf("%w: %s is of another key; each key has a directory of its own", ErrSigned, path)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close gives the key free for other processes. Nothing is signed any more.
func (s *Signer) Close() error { return errors.Join(unlockDir(s.dir), s.root.Close()) }

// Key returns the public key.
func (s *Signer) Key() seal.Key { return s.key.Key }

// Checkpoint returns the signed note of the store's tree as it is folded here, and what
// it says. The note of a tree that was signed before is that very note.
//
// Errors: those of [projector.Projector.View]; [ledger.ErrUnavailable] if the key has
// signed a later tree than is folded here; [ErrOtherPast]; [ErrSigned]; and those of the
// disk. A store without entries has no checkpoint, a [ledger.ErrNotFound].
func (s *Signer) Checkpoint(ctx context.Context, p *projector.Projector, store ledger.ID) ([]byte, seal.Checkpoint, error) {
	open := func() (tree, error) {
		v, err := p.View(ctx, store, projector.Freshness{Kind: projector.Any})
		if err != nil {
			return tree{}, err
		}
		return tree{size: v.Revision(), hashes: v, close: v.Close}, nil
	}
	// What no store has is not remembered.
	t, err := open()
	if err != nil {
		return nil, seal.Checkpoint{}, err
	}
	t.close()
	return s.sign(ctx, store, open)
}

// A tree is a store's tree as it is folded here.
type tree struct {
	size   ledger.Revision
	hashes tlog.HashReader
	close  func()
}

// sign signs the tree that open returns. It is opened once it is the caller's turn, so
// that no other caller can have signed a later one meanwhile.
func (s *Signer) sign(ctx context.Context, store ledger.ID, open func() (tree, error)) ([]byte, seal.Checkpoint, error) {
	last := s.last(store)
	select {
	case <-last.turn:
	case <-ctx.Done():
		return nil, seal.Checkpoint{}, ctx.Err()
	}
	defer func() { last.turn <- struct{}{} }()
	t, err := open()
	if err != nil {
		return nil, seal.Checkpoint{}, err
	}
	defer t.close()
	if err := s.load(store, last); err != nil {
		return nil, seal.Checkpoint{}, err
	}
	if err := s.follows(store, t, last); err != nil {
		return nil, seal.Checkpoint{}, err
	}
	if t.size > last.checkpoint.Size {
		root, err := seal.Root(t.size, t.hashes)
		if err != nil {
			return nil, seal.Checkpoint{}, fmt.Errorf("root of store %s at %d: %w", store, t.size, err)
		}
		note, err := s.key.Sign(store, t.size, root)
		if err != nil {
			return nil, seal.Checkpoint{}, err
		}
		if err := s.replace(store, last, note); err != nil {
			return nil, seal.Checkpoint{}, err
		}
		last.checkpoint = seal.Checkpoint{Origin: s.key.Origin(store), Size: t.size, Root: root}
	} else if !last.durable {
		// A process that ended may have left it in a cache.
		if err := s.replace(store, last, last.note); err != nil {
			return nil, seal.Checkpoint{}, err
		}
	}
	if err := s.at("give out"); err != nil {
		return nil, seal.Checkpoint{}, err
	}
	return bytes.Clone(last.note), last.checkpoint, nil
}

func (s *Signer) last(store ledger.ID) *lastSigned {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.stores[store]
	if last == nil {
		last = &lastSigned{turn: make(chan struct{}, 1)}
		last.turn <- struct{}{}
		s.stores[store] = last
	}
	return last
}

// load reads what was signed last, unless it is known for certain.
func (s *Signer) load(store ledger.ID, last *lastSigned) error {
	if last.known && last.pending == nil {
		return nil
	}
	name := store.String()
	note, err := s.read(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if last.known && !same(note, last.note) && !same(note, last.pending) {
		return s.altered(name)
	}
	var c seal.Checkpoint
	if note != nil {
		if c, err = s.key.Open(store, note); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrSigned, filepath.Join(s.path, name), err)
		}
	}
	last.known, last.note, last.pending, last.checkpoint, last.durable = true, note, nil, c, note == nil
	return nil
}

// same reports whether two contents of a file are one; nil is no file.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func (s *Signer) altered(name string) error {
	return fmt.Errorf("%w: %s was altered while this process had it", ErrSigned, filepath.Join(s.path, name))
}

// follows returns an error unless the tree is the one that was signed last, or begins
// with it.
func (s *Signer) follows(store ledger.ID, t tree, last *lastSigned) error {
	signed := last.checkpoint
	switch {
	case t.size == 0:
		return fmt.Errorf("store %s has no entries, and nothing to sign: %w", store, ledger.ErrNotFound)
	case signed.Size == 0:
		return nil
	case t.size < signed.Size:
		// Whether this tree is the beginning of the signed one cannot be told from it.
		return fmt.Errorf("%w: the key has signed store %s at revision %d, and this replica has applied %d; it signs again when it has caught up, unless entries were given up after a loss: then make a new key with a new name", ledger.ErrUnavailable, store, signed.Size, t.size)
	}
	root, err := seal.Root(signed.Size, t.hashes)
	if err != nil {
		return fmt.Errorf("root of store %s at %d: %w", store, signed.Size, err)
	}
	if root != signed.Root {
		return fmt.Errorf("%w: of store %s at revision %d it signed the root %x, and here it is %x; if entries were given up after a loss, make a new key with a new name", ErrOtherPast, store, signed.Size, signed.Root, root)
	}
	return nil
}

// replace puts note in the place of the last one, on the disk for certain. After a
// failure the directory holds the one or the other whole, and is read again.
func (s *Signer) replace(store ledger.ID, last *lastSigned, note []byte) error {
	last.pending = note
	name := store.String()
	if err := s.write(name+"~", note); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(s.path, name+"~"), err)
	}
	if err := s.unchanged(name, last.note); err != nil {
		return err
	}
	for _, do := range []struct {
		step string
		f    func() error
	}{
		{"rename", func() error { return s.root.Rename(name+"~", name) }},
		{"sync the directory", s.dir.Sync},
	} {
		if err := s.doStep(do.step, do.f); err != nil {
			return fmt.Errorf("%s in %s: %w", do.step, s.path, err)
		}
	}
	last.note, last.pending, last.durable = note, nil, true
	return nil
}

func (s *Signer) write(name string, data []byte) error {
	var f *os.File
	err := s.doStep("create", func() (err error) {
		f, err = s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = s.doStep("write", func() error {
		_, err := f.Write(data)
		return err
	})
	if err == nil {
		err = s.doStep("sync", f.Sync)
	}
	return errors.Join(err, f.Close())
}

// unchanged compares what is in the directory with what this process last saw there.
// Nobody else has a right to be there; it is looked at all the same.
func (s *Signer) unchanged(name string, want []byte) error {
	return s.doStep("compare", func() error {
		here, err := s.dir.Stat()
		if err != nil {
			return err
		}
		named, err := os.Stat(s.path)
		if err != nil || !os.SameFile(here, named) {
			return fmt.Errorf("%w: %s is not the directory any more that this process has locked", ErrSigned, s.path)
		}
		is, err := s.read(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !same(is, want) {
			return s.altered(name)
		}
		return nil
	})
}

// read reads a file of the directory, which is small. It returns nil only with an error.
func (s *Signer) read(name string) ([]byte, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(s.path, name), err)
	}
	return data, nil
}

func (s *Signer) at(step string) error {
	if s.step == nil {
		return nil
	}
	return s.step(step)
}

// doStep does one step.
func (s *Signer) doStep(step string, do func() error) error {
	if err := s.at(step); err != nil {
		return err
	}
	return do()
}
