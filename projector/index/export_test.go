package index

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// PointRead is Pebble's own read of the row of a tuple's version: the unit of the
// benchmarks of questions, which stand outside of the package because package query
// imports it.
func (x *Index) PointRead(buf []byte, store ledger.ID, t tuple.Tuple, rev ledger.Revision) ([]byte, error) {
	buf = appendForward(buf[:0], store, t, rev)
	_, closer, err := x.db.Get(buf)
	if err != nil {
		return buf, err
	}
	return buf, closer.Close()
}

// Settle writes everything to disk and compacts it.
func (x *Index) Settle(ctx context.Context) error {
	if err := x.db.Flush(); err != nil {
		return err
	}
	return x.db.Compact(ctx, []byte{0}, []byte{0xff, 0}, true)
}

// A World is a made-up log, for tests that stand outside of the package because package
// query imports it.
type World struct{ *world }

// NewWorld returns a log of n commands and some more.
func NewWorld(tb testing.TB, seed uint64, n int) World {
	return World{newSteadyWorld(tb, seed, n, true)}
}

// Len returns how many messages the log has.
func (w World) Len() int { return len(w.inputs) }

// Store returns the store that has half of the entries.
func (w World) Store() ledger.ID { return w.stores[1] }

// Pool returns the tuples that are granted and revoked.
func (w World) Pool() []tuple.Tuple { return w.pool }

// Fold folds the messages from where x stands up to number to, size by size.
func (w World) Fold(tb testing.TB, x *Index, to int, size func() int) { w.fold(tb, x, to, size) }

// Memory returns the reference after all messages.
func (w World) Memory(tb testing.TB) *decide.Memory { return w.memory(tb, len(w.inputs)) }

// OpenForTest opens an index on fs, and closes it with the test if it is still open.
func OpenForTest(tb testing.TB, fs vfs.FS) *Index { return open(tb, fs) }

// DropMentions removes the rows by objects and subjects that made no version.
func (x *Index) DropMentions() error {
	for _, family := range []byte{familyObject, familySubject} {
		if err := x.db.DeleteRange([]byte{family, plain}, []byte{family + 1, plain}, pebble.NoSync); err != nil {
			return err
		}
	}
	return nil
}

// Steps returns how many rows the view's iterators have been moved over, or sought.
func (v *View) Steps() int {
	n := 0
	count := func(it *pebble.Iterator) {
		if it != nil {
			s := it.Stats()
			n += s.ForwardSeekCount[pebble.InterfaceCall] + s.ForwardStepCount[pebble.InterfaceCall] +
				s.ReverseSeekCount[pebble.InterfaceCall] + s.ReverseStepCount[pebble.InterfaceCall]
		}
	}
	count(v.r.point)
	count(v.r.trees)
	for _, s := range v.r.scans {
		count(s.Iterator)
	}
	return n
}

// Seeks returns how often tree hashes, and with them log times, have been sought.
func (v *View) Seeks() int {
	if v.r.trees == nil {
		return 0
	}
	s := v.r.trees.Stats()
	return s.ForwardSeekCount[pebble.InterfaceCall]
}
