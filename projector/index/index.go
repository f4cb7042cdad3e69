// Package index keeps the folded state of a replica in Pebble: every version of every
// tuple, models, entries, command ids and tree hashes, and beside them the
// [ledger.Position] they were folded up to.
//
// One writer folds through a [Batch], which is all or nothing: rows, hashes, the
// accumulator over all rows and the position become visible, and survive a crash,
// together. Any number of readers ask through a [View], which is one store at one
// revision and never changes. Rows of tuples are versions and never overwritten, so
// the newest state is read as the past is read, by the same path at the same cost.
//
// The index is a cache of the log: it is never repaired, but dropped and folded again.
// Commits are not synced to disk, because a crash loses only what the log still has.
// Keys and values are described in FORMAT.md. No other package imports Pebble.
package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
)

// The errors a caller acts on; test with [errors.Is].
var (
	// ErrNewerFormat: a newer program wrote the index. It is left as it is; run that
	// program, or name another directory.
	ErrNewerFormat = errors.New("the index was written by a newer program")
	// ErrRebuild: the index has an older format or is damaged. [Drop] it, open anew
	// and fold the log from the start.
	ErrRebuild = errors.New("the index must be dropped and folded again")
	// ErrDamaged: rows are lost or changed. The replica must stop answering, drop the
	// index and fold again.
	ErrDamaged = errors.New("the index is damaged")
)

func newerFormat(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNewerFormat, fmt.Sprintf(format, args...))
}

func rebuild(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRebuild, fmt.Sprintf(format, args...))
}

// Options of [Open]. Only Dir is required.
type Options struct {
	Dir string // directory of the index alone; created if it is missing

	FS         vfs.FS       // nil: the disk
	CacheBytes int64        // for blocks of tables; 0: 256 MiB. Best a quarter of the machine's memory or more
	Logger     *slog.Logger // nil: slog.Default. Pebble's own notices are at the level debug

	// OnFault, if set, is told of what Pebble notices in the background. It is called
	// on Pebble's goroutines and must return at once. Every fault is logged too.
	OnFault func(Fault)

	// OnFatal, if set, is called when Pebble cannot go on: when it cannot write to
	// its disk. It is the last chance to flush metrics or logs; when it returns, the
	// process exits with status 1, because Pebble's memory may be ahead of its files.
	OnFatal func(message string)
}

// A FaultKind is the kind of a [Fault].
type FaultKind byte

// The kinds of fault.
const (
	FaultDamage    FaultKind = 1 + iota // a file is not what was written: stop answering, drop, fold again
	FaultWrite                          // a flush or compaction failed and is tried again
	FaultSlowDisk                       // a write to disk takes long
	FaultLowSpace                       // the disk is nearly full
	FaultStall                          // commits wait until compactions catch up
	FaultStallOver                      // and no longer do
)

var faultNames = [...]string{FaultDamage: "damage", FaultWrite: "failed background write",
	FaultSlowDisk: "slow disk", FaultLowSpace: "low disk space", FaultStall: "write stall", FaultStallOver: "write stall over"}

func (k FaultKind) String() string {
	if int(k) < len(faultNames) && faultNames[k] != "" {
		return faultNames[k]
	}
	return fmt.Sprintf("fault %d", byte(k))
}

// A Fault is trouble that Pebble met in the background.
type Fault struct {
	Kind FaultKind
	Text string
}

// A Head is a store and its newest entry.
type Head struct {
	Store    ledger.ID
	Revision ledger.Revision // of the newest entry; 0 if there is none
	Time     int64           // its log time, nanoseconds since the Unix epoch; 0 if there is none
	Leaf     ledger.Hash     // its leaf hash; zero if there is none

	Status decide.Status // of [ledger.System] always live
	Name   string        // empty until a store that is restored has its first entry
	Admin  string        // the actor that is the store's first administrator

	// Log times; 0: not. Of a restored store they are as it brought them; one that was
	// deleted where it came from has been so even while it is restoring.
	Created, Deleted int64
	// Revisions of the entries of the system store that created or began to restore it,
	// and that deleted it or ended restoring a deleted one; 0: not.
	CreatedBy, DeletedBy ledger.Revision
}

// head is a Head with what the writer and the views need of it. Once published it is
// never changed.
type head struct {
	Head
	models []*modelAt // by revision
	// peaks holds, for each bit that is set in Revision, the hash of the complete
	// subtree of so many leaves, from the right; at other places, anything. It is the
	// writer's, and nil until the writer needs it.
	peaks []ledger.Hash
}

// modelAt is a model of a store; parsed is set while the parsed form is cached.
type modelAt struct {
	ModelAt
	parsed atomic.Pointer[model.Model]
}

// A ModelAt names a model and the revision that wrote it.
type ModelAt struct {
	ID       ledger.ID
	Revision ledger.Revision
}

// An Index is the folded state of one replica. Its methods may be called
// concurrently, except that one [Batch] at a time may be open.
type Index struct {
	db     *pebble.DB
	logger *slog.Logger

	// mu guards the fields below. It is held for moments, never over I/O.
	mu       sync.Mutex
	heads    map[ledger.ID]*head
	position ledger.Position
	sum      accumulator
	commits  uint64     // made since Open; says which readers are stale
	idle     []*readers // of the newest commit
	writing  bool       // a Batch is open
	closed   bool

	recent recent // the writer's

	parsed parsedModels
	times  times
}

// maxIdle is how many readers are kept for the next views.
const maxIdle = 64

// Open opens the index in o.Dir, or makes an empty one, whose Position is zero. It
// fails with [ErrNewerFormat] or [ErrRebuild] as those say, and with any other error
// if the disk or the directory's lock is the trouble.
//
// An index that opens may still lack rows if Pebble's MANIFEST was damaged; only
// [Index.Scrub] finds that.
func Open(o Options) (*Index, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := peek(cmp.Or(o.FS, vfs.Default), o.Dir); err != nil {
		return nil, fmt.Errorf("open index %s: %w", o.Dir, err)
	}
	db, err := pebble.Open(o.Dir, pebbleOptions(o))
	if err != nil {
		return nil, fmt.Errorf("open index %s: %w", o.Dir, openError(err))
	}
	x := &Index{db: db, logger: o.Logger, heads: make(map[ledger.ID]*head), recent: recent{seed: maphash.MakeSeed()}}
	if err := x.load(); err != nil {
		if !errors.Is(err, ErrNewerFormat) && !errors.Is(err, ErrRebuild) {
			err = openError(err)
		}
		return nil, fmt.Errorf("open index %s: %w", o.Dir, errors.Join(err, db.Close()))
	}
	return x, nil
}

// pebbleOptions returns Pebble's options. What is not set here is Pebble's default.
func pebbleOptions(o Options) *pebble.Options {
	p := &pebble.Options{
		FS:                 o.FS, // for nil, Pebble takes the disk and watches how slow it is
		Comparer:           comparer,
		CacheSize:          o.CacheBytes,
		FormatMajorVersion: pebble.FormatTableFormatV6,
		MemTableSize:       64 << 20,
		// The fold writes as fast as it may, and readers want few levels.
		L0CompactionThreshold: 2,
		L0StopWritesThreshold: 1000,
		LBaseMaxBytes:         64 << 20,
		MaxOpenFiles:          1000,
		EventListener:         listener(o),
		Logger:                pebbleLogger{o.Logger, o.OnFatal},
	}
	if p.CacheSize == 0 {
		p.CacheSize = 256 << 20
	}
	// The other levels take over what L0 has. Small blocks make a point read cheap
	// when the cache does not hold everything.
	p.Levels[0].BlockSize = 4 << 10
	p.Levels[0].IndexBlockSize = 256 << 10
	p.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	return p
}

// peek returns an error if the directory holds files of an index but no index: Pebble
// would make an empty one and take what it finds in old write-ahead logs for all.
func peek(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	desc, err := pebble.Peek(dir, fs)
	if err != nil {
		return openError(err)
	}
	if desc.Exists {
		return nil
	}
	for _, name := range names {
		if stage, ok := dropStage(name); ok && stage < lastStage {
			return rebuild("%s is there but no manifest", name)
		}
	}
	return nil
}

// openError says what an error of opening or first reading the index asks for. An
// error of the operating system other than a missing file is the operator's business;
// anything else means that the files are not what was written.
func openError(err error) error {
	text := err.Error()
	if _, after, ok := strings.Cut(text, `comparer name from file "grantlog.v`); ok {
		number, _, _ := strings.Cut(after, `"`)
		if n, numErr := strconv.Atoi(number); numErr == nil && n > 1 {
			return newerFormat("%s", text)
		}
	}
	if strings.Contains(text, "unknown format major version") {
		return newerFormat("%s", text)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != syscall.ENOENT || strings.Contains(text, "lock held") || errors.Is(err, os.ErrPermission) {
		return err
	}
	return rebuild("%s", text)
}

// load reads the position row and derives the heads from the newest rows.
func (x *Index) load() error {
	value, closer, err := x.db.Get(positionKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return x.loadEmpty()
	}
	if err != nil {
		return err
	}
	x.position, x.sum, err = decodePosition(value)
	if err := errors.Join(err, closer.Close()); err != nil {
		return err
	}
	x.recent.since = x.position.Seq
	r := &readers{db: x.db, options: &iterOptions}
	defer r.close()
	x.heads[ledger.System] = systemHead()
	err = r.scan([]byte{familyStore, plain}, []byte{familyStore + 1, plain}, func(key, value []byte) (bool, error) {
		h := &head{Head: Head{Store: ledger.ID(key[1:])}}
		x.heads[h.Store] = h
		return true, decodeStoreRow(value, &h.Head)
	})
	if err != nil {
		return err
	}
	err = r.scan([]byte{familyModelID, plain}, []byte{familyModelID + 1, plain}, func(key, value []byte) (bool, error) {
		h := x.heads[ledger.ID(key[1:])]
		if h == nil || len(value) != 8 {
			return false, damaged("a model of no store")
		}
		h.models = append(h.models, &modelAt{ModelAt: ModelAt{ledger.ID(key[17:]), decodeRevision(value)}})
		return true, nil
	})
	if err != nil {
		return err
	}
	for store, h := range x.heads {
		slices.SortFunc(h.models, func(a, b *modelAt) int { return cmp.Compare(a.Revision, b.Revision) })
		if err := r.loadNewest(store, &h.Head); err != nil {
			return err
		}
		// A store has its name from its first entry; one that was to be restored may have none.
		if h.Revision == 0 && store != ledger.System && h.Name != "" {
			return damaged("store %s has no entry", store)
		}
	}
	return nil
}

// loadEmpty begins an empty index, unless there are rows beside the missing position.
func (x *Index) loadEmpty() error {
	it, err := x.db.NewIter(nil)
	if err != nil {
		return err
	}
	rows := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	if rows {
		return rebuild("it has rows but no position")
	}
	x.heads[ledger.System] = systemHead()
	return nil
}

func systemHead() *head {
	return &head{Head: Head{Store: ledger.System, Status: decide.Live, Name: ledger.System.String()}}
}

// Close closes the index. Every View, Batch and Scrub must have ended before. What
// was committed last may be lost by a crash of the machine even so.
func (x *Index) Close() error {
	x.mu.Lock()
	idle := x.idle
	x.idle, x.closed = nil, true
	x.mu.Unlock()
	var errs []error
	for _, r := range idle {
		errs = append(errs, r.close())
	}
	return errors.Join(append(errs, x.db.Close())...)
}

// Position returns where the newest commit stands in the log; zero for an empty index.
func (x *Index) Position() ledger.Position {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.position
}

// Accumulator returns the order-independent hash over all rows of the newest commit.
// Two replicas that folded the same log to the same position have the same.
func (x *Index) Accumulator() ledger.Hash {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sum.hash()
}

// Head returns the newest committed state of a store, or false if it never was.
func (x *Index) Head(store ledger.ID) (Head, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h := x.heads[store]; h != nil {
		return h.Head, true
	}
	return Head{}, false
}

// Stores returns up to limit stores in order of id, from the first after the given id
// on; deleted ones too, the system store not.
func (x *Index) Stores(after ledger.ID, limit int) ([]Head, error) {
	r, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer x.release(r)
	var heads []Head
	from := append(appendStore(nil, after), plain) // just after the store's own key
	err = r.scan(from, []byte{familyStore + 1, plain}, func(key, _ []byte) (bool, error) {
		if len(heads) == limit {
			return false, nil
		}
		// The readers may be older than the head, never newer.
		if h, ok := x.Head(ledger.ID(key[1:])); ok {
			heads = append(heads, h)
		}
		return true, nil
	})
	return heads, err
}

// Command returns what claimed the command id in the store for the actor, as of the
// newest commit, or false.
func (x *Index) Command(store ledger.ID, actor string, id ledger.UUID) (decide.Seen, bool, error) {
	r, err := x.acquire()
	if err != nil {
		return decide.Seen{}, false, err
	}
	defer x.release(r)
	return r.command(store, actor, id)
}

// Size returns how many bytes the index takes on disk.
func (x *Index) Size() uint64 { return x.db.Metrics().DiskSpaceUsage() }

// Flush writes what is in memory to disk, and syncs it: everything committed before
// survives a crash of the machine.
func (x *Index) Flush() error { return x.db.Flush() }

// Drop removes the index in dir, and nothing else: it fails, before it removes
// anything, if the directory holds other files or if a process has the index open.
func Drop(dir string) error { return drop(vfs.Default, dir) }

func drop(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("drop index: %w", err)
	}
	for _, name := range names {
		if _, ok := dropStage(name); !ok {
			return fmt.Errorf("drop index: %s holds %s, which is not of an index", dir, name)
		}
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return fmt.Errorf("drop index: %w", err)
	}
	defer lock.Close()
	parent, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("drop index: %w", err)
	}
	defer parent.Close()
	// Write-ahead logs go first: without them the rest is an earlier state, whole.
	// Were they to outlive the manifest, they would be taken for all there is.
	for stage := range lastStage {
		for _, name := range names {
			if s, _ := dropStage(name); s != stage {
				continue
			}
			if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
				return fmt.Errorf("drop index: %w", err)
			}
		}
		if err := parent.Sync(); err != nil {
			return fmt.Errorf("drop index: %w", err)
		}
	}
	return nil
}

// lastStage is the stage of files that may stay.
const lastStage = 3

// dropStage says when a file of Pebble is removed: write-ahead logs, then what names
// the current manifest, then the rest; the lock stays. It is false for other names.
func dropStage(name string) (int, bool) {
	switch {
	case name == "LOCK":
		return lastStage, true
	case strings.HasSuffix(name, ".log"):
		return 0, true
	case strings.HasPrefix(name, "marker.") || strings.HasPrefix(name, "MANIFEST-") || name == "CURRENT":
		return 1, true
	case strings.HasPrefix(name, "OPTIONS-"), strings.HasPrefix(name, "temporary."),
		strings.HasSuffix(name, ".sst"), strings.HasSuffix(name, ".blob"), strings.HasSuffix(name, ".dbtmp"):
		return 2, true
	}
	return 0, false
}

// pebbleLogger hands Pebble's messages to slog.
type pebbleLogger struct {
	logger *slog.Logger
	fatal  func(string)
}

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.logger.Enabled(context.Background(), slog.LevelDebug) {
		l.logger.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.logger.Error("pebble: " + fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	l.logger.Error("pebble cannot go on: " + message)
	if l.fatal != nil {
		l.fatal(message)
	}
	os.Exit(1)
}

// listener reports what Pebble notices in the background.
func listener(o Options) *pebble.EventListener {
	report := func(kind FaultKind, level slog.Level, text string) {
		o.Logger.Log(context.Background(), level, "index: "+kind.String(), "detail", text)
		if o.OnFault != nil {
			o.OnFault(Fault{kind, text})
		}
	}
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if !errors.Is(err, pebble.ErrClosed) {
				report(FaultWrite, slog.LevelError, err.Error())
			}
		},
		DataCorruption:  func(i pebble.DataCorruptionInfo) { report(FaultDamage, slog.LevelError, i.String()) },
		DiskSlow:        func(i pebble.DiskSlowInfo) { report(FaultSlowDisk, slog.LevelWarn, i.String()) },
		LowDiskSpace:    func(i pebble.LowDiskSpaceInfo) { report(FaultLowSpace, slog.LevelWarn, i.String()) },
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) { report(FaultStall, slog.LevelWarn, i.String()) },
		WriteStallEnd:   func() { report(FaultStallOver, slog.LevelInfo, "") },
	}
}
