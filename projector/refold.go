package projector

import (
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/projector/index"
)

// A Refolder decides the recorded entries of one store again, from these entries alone,
// and compares what it decides with what they say: what was recorded is never taken over.
//
// It folds into a scratch index, in batches of its own, so that a view of the index tells
// afterwards what the entries lead to: tuples, models, root. The positions of the index
// are made up. Used by one goroutine; it must end with Commit or Close.
type Refolder struct {
	index *index.Index
	store ledger.ID
	batch *index.Batch // nil between batches
}

// Entries and bytes of rows of one batch of a Refolder.
const (
	refoldEntries = 2000
	refoldBytes   = 8 << 20
)

// A RefoldError is an entry that its store does not lead to.
type RefoldError = decide.RefoldError

// NewRefolder returns a Refolder of the store, whose entries up to the revision that x
// has of it were folded before.
func NewRefolder(x *index.Index, store ledger.ID) *Refolder {
	return &Refolder{index: x, store: store}
}

// Entry folds the next entry of the store and returns its leaf hash, which is that of
// the entry as [ledger.AppendEntry] writes it. A [*RefoldError] says that the entry does
// not follow from those before it; then, and after any other error, which is of the index,
// the Refolder can only be closed.
func (f *Refolder) Entry(e *ledger.Entry) (ledger.Hash, error) {
	if f.batch == nil {
		f.batch = f.index.NewBatch()
	}
	if version := f.batch.Fold(); f.store == ledger.System && e.FoldVersion != version {
		return ledger.Hash{}, &RefoldError{Store: e.Store, Revision: e.Revision,
			Reason: fmt.Sprintf("it was decided under fold version %d where %d is in force", e.FoldVersion, version)}
	}
	_, leaf, err := refold(f.batch, f.store, e)
	if err == nil && (f.batch.Len() >= refoldEntries || f.batch.Size() >= refoldBytes) {
		err = f.Commit()
	}
	return leaf, err
}

// Commit makes what was folded so far visible in the index. More entries may follow.
func (f *Refolder) Commit() error {
	if f.batch == nil {
		return nil
	}
	pos := f.index.Position()
	pos.Seq++
	pos.Epoch = f.batch.Epoch()
	err := f.batch.Commit(pos)
	f.batch = nil
	return err
}

// Close gives up what is not committed.
func (f *Refolder) Close() error {
	if f.batch == nil {
		return nil
	}
	err := f.batch.Close()
	f.batch = nil
	return err
}

// refold decides the entry again, as the next of the store, and appends it to the batch
// as it was recorded. After a [*RefoldError] the batch is as it was.
func refold(b *index.Batch, store ledger.ID, e *ledger.Entry) (decide.Record, ledger.Hash, error) {
	h, _ := b.Head(store)
	r, err := decide.Again(b, store, decide.Place{Revision: h.Revision, Leaf: h.Leaf, Time: h.Time, Deleted: h.Deleted != 0}, e)
	if err != nil {
		return r, ledger.Hash{}, err
	}
	_, leaf, err := b.Append(r, e.Origin, e.Raw, e.FoldVersion)
	if err != nil {
		err = fmt.Errorf("record revision %d of store %s: %w", e.Revision, e.Store, err)
	}
	return r, leaf, err
}
