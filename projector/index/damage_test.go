package index

import (
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
)

// What a Scrub must find, each done behind the back of the accumulator.
func TestScrubFinds(t *testing.T) {
	w := newWorld(t, 20, 120)
	key := appendForward(nil, w.stores[0], mustParse(t, "doc:none#viewer@user:eve"), 1)
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, x *Index) error
	}{
		{"a lost row", func(t *testing.T, x *Index) error { return x.db.Delete(someForward(t, x), pebble.NoSync) }},
		{"a changed row", func(t *testing.T, x *Index) error { return x.db.Set(someForward(t, x), []byte{9}, pebble.NoSync) }},
		{"an added row", func(t *testing.T, x *Index) error { return x.db.Set(key, []byte(unlimited), pebble.NoSync) }},
		{"a lost position", func(t *testing.T, x *Index) error { return x.db.Delete(positionKey, pebble.NoSync) }},
		{"an older position", func(t *testing.T, x *Index) error {
			value, closer, err := x.db.Get(positionKey)
			if err != nil {
				return err
			}
			old := append([]byte(nil), value...)
			if err := closer.Close(); err != nil {
				return err
			}
			w.fold(t, x, len(w.inputs), every(10))
			return x.db.Set(positionKey, old, pebble.NoSync)
		}},
		{"a lost table", func(t *testing.T, x *Index) error {
			return x.db.DeleteRange([]byte{familyEntry, plain}, []byte{familyEntry + 1, plain}, pebble.NoSync)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := open(t, vfs.NewMem())
			w.fold(t, x, len(w.inputs)-20, every(10))
			scrub(t, x) // the control
			if err := tt.damage(t, x); err != nil {
				t.Fatal(err)
			}
			if err := x.Scrub(context.Background()); !errors.Is(err, ErrDamaged) {
				t.Errorf("Scrub = %v, want ErrDamaged", err)
			}
		})
	}
}

// someForward returns the key of some tuple's version.
func someForward(t *testing.T, x *Index) []byte {
	t.Helper()
	for row, err := range x.Rows(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if row.Key[0] == familyForward {
			return append([]byte(nil), row.Key...)
		}
	}
	t.Fatal("no tuple has a version")
	return nil
}

func TestScrubStops(t *testing.T) {
	w := newWorld(t, 21, 50)
	x := open(t, vfs.NewMem())
	scrub(t, x) // of nothing
	w.fold(t, x, len(w.inputs), every(10))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := x.Scrub(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Scrub = %v", err)
	}
	for range x.Rows(context.Background()) {
		break // closing the index finds an iterator that leaked
	}
}

func TestOpenRefuses(t *testing.T) {
	w := newWorld(t, 22, 60)
	setPosition := func(value []byte) func(*testing.T, *vfs.MemFS, *Index) {
		return func(t *testing.T, _ *vfs.MemFS, x *Index) {
			if err := x.db.Set(positionKey, value, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(part string) func(*testing.T, *vfs.MemFS) {
		return func(t *testing.T, fs *vfs.MemFS) {
			names, err := fs.List("index")
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, name := range names {
				if strings.Contains(name, part) {
					found = true
					if err := fs.Remove("index/" + name); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !found {
				t.Fatalf("no file has %q in its name: %v", part, names)
			}
		}
	}
	nothing := func(*testing.T, *vfs.MemFS) {}
	for _, tt := range []struct {
		name   string
		before func(*testing.T, *vfs.MemFS, *Index) // while open
		after  func(*testing.T, *vfs.MemFS)         // while closed
		want   error
	}{
		{"nothing", nil, nothing, nil},
		{"a newer format", setPosition([]byte{formatVersion + 1, 0xff}), nothing, ErrNewerFormat},
		{"an older format", setPosition([]byte{0}), nothing, ErrRebuild},
		{"a malformed position", setPosition([]byte{formatVersion, 1, 2, 3}), nothing, ErrRebuild},
		{"an empty position", setPosition(nil), nothing, ErrRebuild},
		{"a lost position", func(t *testing.T, _ *vfs.MemFS, x *Index) {
			if err := x.db.Delete(positionKey, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}, nothing, ErrRebuild},
		{"a lost newest hash row", func(t *testing.T, _ *vfs.MemFS, x *Index) {
			h, _ := x.Head(w.stores[0])
			if err := x.db.Delete(appendByRevision(nil, familyHashes, h.Store, h.Revision), pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}, nothing, ErrRebuild},
		{"lost entries", func(t *testing.T, _ *vfs.MemFS, x *Index) {
			if err := x.db.DeleteRange([]byte{familyEntry, plain}, []byte{familyEntry + 1, plain}, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}, nothing, ErrRebuild},
		{"a lost manifest", nil, remove("MANIFEST-"), ErrRebuild},
		{"a lost manifest marker", nil, remove("marker.manifest"), ErrRebuild},
		{"lost tables", nil, remove(".sst"), ErrRebuild},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs := vfs.NewMem()
			x := open(t, fs)
			w.fold(t, x, len(w.inputs), every(10))
			if err := x.Flush(); err != nil {
				t.Fatal(err)
			}
			if tt.before != nil {
				tt.before(t, fs, x)
			}
			closeIndex(t, x)
			tt.after(t, fs)
			x, err := Open(Options{Dir: "index", FS: fs, Logger: quiet})
			if err == nil {
				closeIndex(t, x)
			}
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Fatalf("Open = %v, want %v", err, tt.want)
			}
			if tt.want == ErrRebuild {
				if err := drop(fs, "index"); err != nil {
					t.Fatal(err)
				}
				x := open(t, fs)
				if x.Position() != (ledger.Position{}) {
					t.Errorf("position %+v after a drop", x.Position())
				}
				w.fold(t, x, len(w.inputs), every(10))
				scrub(t, x)
			}
		})
	}
}

// A program that knows another order wrote the files.
func TestOpenOtherComparer(t *testing.T) {
	for name, want := range map[string]error{"grantlog.v2": ErrNewerFormat, "leveldb.BytewiseComparator": ErrRebuild} {
		fs := vfs.NewMem()
		other := *comparer
		other.Name = name
		db, err := pebble.Open("index", &pebble.Options{FS: fs, Comparer: &other, Logger: pebbleLogger{logger: quiet}})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Dir: "index", FS: fs, Logger: quiet}); !errors.Is(err, want) {
			t.Errorf("%s: Open = %v, want %v", name, err, want)
		}
	}
}

// A drop that stops half-way leaves an earlier state, whole, or none at all.
func TestDropStopsHalfway(t *testing.T) {
	w := newWorld(t, 23, 80)
	for stop := range 12 {
		mem := vfs.NewMem()
		x := open(t, mem)
		w.fold(t, x, 40, every(10))
		if err := x.Flush(); err != nil {
			t.Fatal(err)
		}
		w.fold(t, x, len(w.inputs), every(10))
		closeIndex(t, x)
		err := drop(&stoppingFS{MemFS: mem, left: stop}, "index")
		if stopped := errors.Is(err, errStopped); err != nil && !stopped {
			t.Fatal(err)
		}
		again, err := Open(Options{Dir: "index", FS: mem, Logger: quiet, CacheBytes: 1 << 20})
		if errors.Is(err, ErrRebuild) {
			if err := drop(mem, "index"); err != nil {
				t.Fatal(err)
			}
			again, err = Open(Options{Dir: "index", FS: mem, Logger: quiet, CacheBytes: 1 << 20})
		}
		if err != nil {
			t.Fatalf("after %d removals: %v", stop, err)
		}
		scrub(t, again)
		w.fold(t, again, len(w.inputs), every(10))
		scrub(t, again)
		closeIndex(t, again)
	}
}

var errStopped = errors.New("stopped")

// stoppingFS fails to remove after so many files.
type stoppingFS struct {
	*vfs.MemFS
	left int
}

func (fs *stoppingFS) Remove(name string) error {
	if fs.left == 0 {
		return errStopped
	}
	fs.left--
	return fs.MemFS.Remove(name)
}

// One flipped bit in any file gives the same rows, an earlier state, or an error: from
// Open, from a read, or from Scrub. Pebble alone would serve an index with holes.
func TestBitFlips(t *testing.T) {
	w := newWorld(t, 24, 150)
	dir := filepath.Join(t.TempDir(), "index")
	x, err := Open(Options{Dir: dir, Logger: quiet, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	digests := map[int]ledger.Hash{} // of the state after each batch
	for to := 10; to <= len(w.inputs); to += 10 {
		w.fold(t, x, to, every(10))
		digests[to] = digest(t, x)
		if to%50 == 0 {
			if err := x.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeIndex(t, x)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string][]byte{}
	for _, f := range files {
		if contents[f.Name()], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(24, 1))
	refused, scrubbed, earlier, same := 0, 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		content := contents[name]
		flips := 12
		if strings.HasPrefix(name, "MANIFEST-") {
			flips = 120 // where Pebble itself is blind
		}
		if len(content) == 0 {
			continue
		}
		for range flips {
			fs := vfs.NewMem()
			if err := fs.MkdirAll("index", 0o755); err != nil {
				t.Fatal(err)
			}
			for other, b := range contents {
				b = append([]byte(nil), b...)
				if other == name {
					b[r.IntN(len(b))] ^= 1 << r.IntN(8)
				}
				writeFile(t, fs, "index/"+other, b)
			}
			x, err := Open(Options{Dir: "index", FS: fs, Logger: quiet, CacheBytes: 1 << 20})
			if err != nil {
				if !errors.Is(err, ErrRebuild) && !errors.Is(err, ErrNewerFormat) {
					t.Errorf("%s: Open = %v, neither ErrRebuild nor ErrNewerFormat", name, err)
				}
				refused++
				continue
			}
			position := int(x.Position().Seq)
			switch err := x.Scrub(context.Background()); {
			case errors.Is(err, ErrDamaged):
				scrubbed++
			case err != nil:
				t.Errorf("%s: Scrub = %v", name, err)
			default:
				if position != 0 && digest(t, x) != digests[position] {
					t.Errorf("%s: a flipped bit changed rows at %d, and nothing found it", name, position)
				}
				if position == len(w.inputs)/10*10 {
					same++
				} else {
					earlier++
				}
			}
			closeIndex(t, x)
		}
	}
	t.Logf("refused by Open %d, found by Scrub %d, an earlier state %d, no effect %d", refused, scrubbed, earlier, same)
	if scrubbed == 0 {
		t.Error("Scrub found nothing, so the test does not show that it is needed")
	}
}

func writeFile(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// What Pebble cannot go on from reaches OnFatal, and what it notices reaches OnFault.
func TestFaults(t *testing.T) {
	var fatal string
	l := pebbleLogger{quiet, func(message string) {
		fatal = message
		panic("the last chance was taken") // or the process would exit
	}}
	func() {
		defer func() { _ = recover() }()
		l.Fatalf("disk %s", "full")
	}()
	if fatal != "disk full" {
		t.Errorf("OnFatal was told %q", fatal)
	}
	l.Errorf("%d", 1)
	l.Infof("%d", 2)
	var faults []Fault
	e := listener(Options{Logger: quiet, OnFault: func(f Fault) { faults = append(faults, f) }})
	e.BackgroundError(io.ErrUnexpectedEOF)
	e.BackgroundError(pebble.ErrClosed) // at every close: no fault
	e.DataCorruption(pebble.DataCorruptionInfo{Path: "000001.sst", Details: io.ErrUnexpectedEOF})
	e.DiskSlow(pebble.DiskSlowInfo{})
	e.LowDiskSpace(pebble.LowDiskSpaceInfo{})
	e.WriteStallBegin(pebble.WriteStallBeginInfo{Reason: "memtables"})
	e.WriteStallEnd()
	want := []FaultKind{FaultWrite, FaultDamage, FaultSlowDisk, FaultLowSpace, FaultStall, FaultStallOver}
	if len(faults) != len(want) {
		t.Fatalf("faults %v, want %v", faults, want)
	}
	for i, f := range faults {
		if f.Kind != want[i] || strings.HasPrefix(f.Kind.String(), "fault ") {
			t.Errorf("fault %d is %s %q, want %s", i, f.Kind, f.Text, want[i])
		}
	}
}
