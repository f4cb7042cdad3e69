package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// iterOptions are those of every iterator of readers. Filters are used at the last
// level too: nearly everything is there, and most tuples asked for do not exist.
var iterOptions = pebble.IterOptions{UseL6Filters: true}

// readers are the iterators of one View, and its buffers: making an iterator costs
// more than a seek, so they are used again. An iterator shows the rows of the moment
// it was made. Since no versioned row is ever overwritten, one that is newer than a
// head serves the head's revision and every older one just as well.
//
// Used by one goroutine at a time.
type readers struct {
	db      *pebble.DB
	options *pebble.IterOptions
	commits uint64 // the iterators show at least so many commits
	point   *pebble.Iterator
	trees   *pebble.Iterator // of tree hashes: one iterator would leave the tables of tuples for those, and come back
	scans   []*scan          // one for each scan within a scan
	depth   int              // how many of them are running
	key     []byte
}

// A scan is an iterator over a run of keys.
type scan struct {
	*pebble.Iterator
	prefix, seek []byte
}

// acquire returns readers that show at least the newest published commit.
func (x *Index) acquire() (*readers, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.acquireLocked()
}

func (x *Index) acquireLocked() (*readers, error) {
	if x.closed {
		return nil, fmt.Errorf("%w: the index is closed", ledger.ErrUnavailable)
	}
	if n := len(x.idle); n > 0 {
		r := x.idle[n-1]
		x.idle = x.idle[:n-1]
		return r, nil
	}
	return &readers{db: x.db, options: &iterOptions, commits: x.commits}, nil
}

// release keeps r for the next view, unless a commit has made it stale: an iterator
// keeps from deletion the files and from reuse the memory that it shows.
func (x *Index) release(r *readers) {
	x.mu.Lock()
	if r.commits == x.commits && len(x.idle) < maxIdle && !x.closed && r.sound() {
		x.idle = append(x.idle, r)
		x.mu.Unlock()
		return
	}
	x.mu.Unlock()
	if err := r.close(); err != nil {
		x.logger.Error("index: closing an iterator", "error", err)
	}
}

// sound reports whether r may be used again: nothing failed and nothing is running.
func (r *readers) sound() bool {
	for _, s := range r.scans {
		if s.Error() != nil {
			return false
		}
	}
	return r.depth == 0 && (r.point == nil || r.point.Error() == nil) && (r.trees == nil || r.trees.Error() == nil)
}

func (r *readers) close() error {
	var errs []error
	for _, it := range []*pebble.Iterator{r.point, r.trees} {
		if it != nil {
			errs = append(errs, it.Close())
		}
	}
	for _, s := range r.scans {
		errs = append(errs, s.Close())
	}
	r.point, r.trees, r.scans = nil, nil, nil
	return errors.Join(errs...)
}

// find returns the value of the first row at or after key that has key's prefix, or
// nil. It is valid until the next find.
func (r *readers) find(key []byte) ([]byte, error) {
	return r.seek(&r.point, key)
}

// seek is find with one of the iterators, which it makes if it is not there.
func (r *readers) seek(it **pebble.Iterator, key []byte) ([]byte, error) {
	if err := r.open(it); err != nil {
		return nil, err
	}
	if !(*it).SeekPrefixGE(key) {
		return nil, readError((*it).Error())
	}
	value, err := (*it).ValueAndErr()
	return value, readError(err)
}

// open makes an iterator, unless it is there.
func (r *readers) open(it **pebble.Iterator) error {
	if *it != nil {
		return nil
	}
	var err error
	*it, err = r.db.NewIter(r.options)
	return readError(err)
}

// version reads the newest version of t up to rev, of revision 0 if there is none. It is
// valid until the next find.
func (r *readers) version(store ledger.ID, t tuple.Tuple, rev ledger.Revision) (storedVersion, error) {
	r.key = appendForward(r.key[:0], store, t, rev)
	value, err := r.find(r.key)
	if err != nil || value == nil {
		return storedVersion{}, err
	}
	return parseVersion(version(r.point.Key()), value)
}

// assertions reads the newest assertions of a model up to rev, and the revision that wrote
// them; nil and 0 if none were. They are valid until the next find.
func (r *readers) assertions(store, model ledger.ID, rev ledger.Revision) ([]byte, ledger.Revision, error) {
	r.key = appendAssertions(r.key[:0], store, model, rev)
	value, err := r.find(r.key)
	if err != nil || value == nil {
		return nil, 0, err
	}
	assertions, err := decodeAssertions(value)
	return assertions, version(r.point.Key()), err
}

// begin returns the iterator of a new scan, which must end with r.end.
func (r *readers) begin() (*scan, error) {
	if r.depth == len(r.scans) {
		it, err := r.db.NewIter(r.options)
		if err != nil {
			return nil, readError(err)
		}
		r.scans = append(r.scans, &scan{Iterator: it})
	}
	r.depth++
	return r.scans[r.depth-1], nil
}

func (r *readers) end() { r.depth-- }

// scan calls yield for each row from the key from to just before the key to, until it
// returns false or an error. Key and value are valid until it returns.
func (r *readers) scan(from, to []byte, yield func(key, value []byte) (bool, error)) error {
	s, err := r.begin()
	if err != nil {
		return err
	}
	defer r.end()
	for ok := s.SeekGE(from); ok && compare(s.Key(), to) < 0; ok = s.Next() {
		value, err := s.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		if more, err := yield(s.Key(), value); err != nil || !more {
			return err
		}
	}
	return readError(s.Error())
}

// command reads the row of a command id.
func (r *readers) command(store ledger.ID, actor string, id ledger.UUID) (decide.Seen, bool, error) {
	r.key = appendCommand(r.key[:0], store, actor, id)
	value, err := r.find(r.key)
	if err != nil || value == nil {
		return decide.Seen{}, false, err
	}
	seen, err := decodeSeen(value)
	return seen, err == nil, err
}

// hashes reads the tree hashes that were stored with a revision. The row is valid
// until the next of hashes or hashRun.
func (r *readers) hashes(store ledger.ID, rev ledger.Revision) (hashRow, error) {
	r.key = appendByRevision(r.key[:0], familyHashes, store, rev)
	value, err := r.seek(&r.trees, r.key)
	if err != nil {
		return nil, err
	}
	if row := hashRow(value); row.valid() {
		return row, nil
	}
	return nil, damaged("store %s lacks the hashes of revision %d", store, rev)
}

// hashRun yields the tree hashes of n revisions from rev on, all of which the store must
// have, each as hashes does. A failure is yielded once, as the last element. The loop must
// not call hashes.
func (r *readers) hashRun(store ledger.ID, rev, n ledger.Revision) iter.Seq2[hashRow, error] {
	return func(yield func(hashRow, error) bool) {
		if err := r.open(&r.trees); err != nil {
			yield(nil, err)
			return
		}
		r.key = appendByRevision(r.key[:0], familyHashes, store, rev)
		ok := r.trees.SeekGE(r.key)
		for end := rev + n; ; ok = r.trees.Next() {
			row, err := r.hashesHere(ok, store, rev)
			if !yield(row, err) || err != nil {
				return
			}
			if rev++; rev == end {
				return
			}
			r.key = appendByRevision(r.key[:0], familyHashes, store, rev)
		}
	}
}

// hashesHere returns the row on which the iterator stands, which must be that of r.key.
func (r *readers) hashesHere(ok bool, store ledger.ID, rev ledger.Revision) (hashRow, error) {
	var value []byte
	if ok && bytes.Equal(r.trees.Key(), r.key) {
		var err error
		if value, err = r.trees.ValueAndErr(); err != nil {
			return nil, readError(err)
		}
	}
	if row := hashRow(value); row.valid() {
		return row, nil
	}
	if err := r.trees.Error(); err != nil {
		return nil, readError(err)
	}
	return nil, damaged("store %s lacks the hashes of revision %d", store, rev)
}

// loadNewest sets the revision, time and leaf of a store from its newest entry.
func (r *readers) loadNewest(store ledger.ID, h *Head) error {
	s, err := r.begin()
	if err != nil {
		return err
	}
	defer r.end()
	r.key = appendByRevision(r.key[:0], familyEntry, store, 1<<64-1)
	if !s.SeekLT(r.key) || !bytes.HasPrefix(s.Key(), r.key[:17]) {
		return readError(s.Error())
	}
	h.Revision = revisionOf(s.Key())
	row, err := r.hashes(store, h.Revision)
	if err != nil {
		return err
	}
	h.Time, h.Leaf = row.time(), row.hash(0)
	return nil
}

// readError says that damage which Pebble found is an [ErrDamaged].
func readError(err error) error {
	if err != nil && pebble.IsCorruptionError(err) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

func appendRevision(dst []byte, rev ledger.Revision) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(rev))
}

func decodeRevision(value []byte) ledger.Revision {
	return ledger.Revision(binary.BigEndian.Uint64(value))
}
