package index

import (
	"cmp"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A Sink is a file system for an index that is thrown away. Pebble ends the process when
// it cannot write; through a Sink it never learns: after the first write that fails,
// everything that is written is dropped, and reads of files fail with the same error. So
// whoever fills the index has to ask Err again and again, close the index soon after the
// first error, and believe nothing of it. Safe for concurrent use.
type Sink struct {
	vfs.FS
	failed atomic.Pointer[error]
}

// NewSink returns a Sink over a file system, nil for the disk.
func NewSink(fs vfs.FS) *Sink { return &Sink{FS: cmp.Or(fs, vfs.Default)} }

// Err returns the first failure to write, nil if there was none.
func (s *Sink) Err() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// write does what changes the file system, unless something failed before. It always
// reports success.
func (s *Sink) write(do func() error) error {
	if s.Err() == nil {
		if err := do(); err != nil {
			s.failed.CompareAndSwap(nil, &err)
		}
	}
	return nil
}

// read does what reads, unless something failed before.
func (s *Sink) read(do func() error) error {
	if err := s.Err(); err != nil {
		return err
	}
	return do()
}

// made returns a file to write that open makes; one that takes everything if it cannot.
func (s *Sink) made(open func() (vfs.File, error)) (vfs.File, error) {
	f := &sinkFile{sink: s}
	return f, s.write(func() (err error) {
		f.File, err = open()
		return err
	})
}

// Create makes a file, or one that drops what is written.
func (s *Sink) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return s.made(func() (vfs.File, error) { return s.FS.Create(name, category) })
}

// OpenReadWrite opens a file, or one that drops what is written.
func (s *Sink) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return s.made(func() (vfs.File, error) { return s.FS.OpenReadWrite(name, category, opts...) })
}

// ReuseForWrite makes a file of an old one, or one that drops what is written.
func (s *Sink) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return s.made(func() (vfs.File, error) { return s.FS.ReuseForWrite(oldname, newname, category) })
}

// Open opens a file to read; after a failure its reads fail too.
func (s *Sink) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.FS.Open(name, opts...)
	if err != nil {
		return nil, cmp.Or(s.Err(), err)
	}
	return &sinkFile{f, s}, nil
}

// OpenDir opens a directory, or what takes its place.
func (s *Sink) OpenDir(name string) (vfs.File, error) {
	return s.made(func() (vfs.File, error) { return s.FS.OpenDir(name) })
}

// Link links, and always reports success.
func (s *Sink) Link(oldname, newname string) error {
	return s.write(func() error { return s.FS.Link(oldname, newname) })
}

// Rename renames, and always reports success.
func (s *Sink) Rename(oldname, newname string) error {
	return s.write(func() error { return s.FS.Rename(oldname, newname) })
}

// MkdirAll makes directories, and always reports success.
func (s *Sink) MkdirAll(dir string, perm os.FileMode) error {
	return s.write(func() error { return s.FS.MkdirAll(dir, perm) })
}

// A sinkFile is a file of a Sink; File is nil if it could not be made.
type sinkFile struct {
	vfs.File
	sink *Sink
}

func (f *sinkFile) Write(p []byte) (int, error) {
	return len(p), f.sink.write(func() error { _, err := f.File.Write(p); return err })
}

func (f *sinkFile) WriteAt(p []byte, at int64) (int, error) {
	return len(p), f.sink.write(func() error { _, err := f.File.WriteAt(p, at); return err })
}

func (f *sinkFile) Preallocate(at, length int64) error {
	return f.sink.write(func() error { return f.File.Preallocate(at, length) })
}

// Nothing is synced: what is thrown away need not survive a crash.
func (f *sinkFile) Sync() error                { return nil }
func (f *sinkFile) SyncData() error            { return nil }
func (f *sinkFile) SyncTo(int64) (bool, error) { return false, nil }

func (f *sinkFile) Read(p []byte) (n int, err error) {
	err = f.sink.read(func() error { n, err = f.File.Read(p); return err })
	return n, err
}

func (f *sinkFile) ReadAt(p []byte, at int64) (n int, err error) {
	err = f.sink.read(func() error { n, err = f.File.ReadAt(p, at); return err })
	return n, err
}

func (f *sinkFile) Stat() (info vfs.FileInfo, err error) {
	err = f.sink.read(func() error { info, err = f.File.Stat(); return err })
	return info, err
}

func (f *sinkFile) Prefetch(at, length int64) error {
	return f.sink.read(func() error { return f.File.Prefetch(at, length) })
}

func (f *sinkFile) Fd() uintptr {
	if f.File == nil {
		return vfs.InvalidFd
	}
	return f.File.Fd()
}

func (f *sinkFile) Close() error {
	if f.File == nil {
		return nil
	}
	if err := f.File.Close(); err != nil {
		return f.sink.write(func() error { return err })
	}
	return nil
}
