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
type RefoldError struct {
	Store    ledger.ID
	Revision ledger.Revision
	Reason   string // what differs
}

func (e *RefoldError) Error() string {
	return fmt.Sprintf("store %s, revision %d: %s", e.Store, e.Revision, e.Reason)
}

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
	r, err := refold(f.batch, f.store, e)
	if err != nil {
		return ledger.Hash{}, err
	}
	_, leaf, err := f.batch.Append(r, e.Origin, e.Raw, e.FoldVersion)
	if err != nil {
		return leaf, fmt.Errorf("record revision %d of store %s: %w", e.Revision, e.Store, err)
	}
	if f.batch.Len() >= refoldEntries || f.batch.Size() >= refoldBytes {
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

// refold decides the entry again, as the next of the store, from the entries that b has
// of that store alone, and returns the record, which is equal to the entry. A
// [*RefoldError] says what differs.
func refold(b *index.Batch, store ledger.ID, e *ledger.Entry) (decide.Record, error) {
	differs := func(format string, args ...any) (decide.Record, error) {
		return decide.Record{}, &RefoldError{e.Store, e.Revision, fmt.Sprintf(format, args...)}
	}
	h, _ := b.Head(store)
	switch {
	case e.Store != store:
		return differs("it is an entry of another store, not of %s", store)
	case e.Revision != h.Revision+1:
		return differs("it comes after revision %d", h.Revision)
	case e.Prev != h.Leaf:
		return differs("it follows another entry than revision %d", h.Revision)
	case e.Time < h.Time:
		return differs("its time is before that of revision %d", h.Revision)
	case e.FoldVersion < 1 || e.FoldVersion > ledger.FoldVersion:
		return differs("it was decided under fold version %d, which this program does not know; a newer one may", e.FoldVersion)
	}
	kind, _ := ledger.ParseSubject(e.Origin.Attester)
	in := decide.Input{Kind: kind, Origin: e.Origin, Raw: e.Raw, Time: e.Time, Version: e.FoldVersion}
	// No command has an empty actor: such an entry keeps a message that was no envelope.
	faults := []*ledger.Rejection{nil}
	if e.Origin.Actor == "" && e.Origin.Method == ledger.MethodNone {
		faults = ledger.Unread(e)
	} else if err := e.Origin.Check(); err != nil {
		return differs("no message can have said its origin: %s", err)
	}
	var first *ledger.Outcome
	for _, in.Malformed = range faults {
		r, ok, err := recordOf(b, store, in)
		if err != nil {
			return differs("%s", err)
		}
		if !ok {
			return differs("its command is not one of this store")
		}
		if r.Time != e.Time {
			return differs("its time is not the log time that its command gets")
		}
		if r.Outcome.Equal(&e.Outcome) {
			return r, nil
		}
		if first == nil {
			first = &r.Outcome
		}
	}
	return differs("its outcome was recorded as %s; decided again it is %s", &e.Outcome, first)
}

// recordOf decides a command again and returns what becomes of it in one store, false if
// it has no record there.
func recordOf(b *index.Batch, store ledger.ID, in decide.Input) (decide.Record, bool, error) {
	var state decide.State = b
	if store != ledger.System {
		state = &alone{b, store}
	}
	records, err := decide.Decide(state, in)
	for _, r := range records {
		if r.Store == store {
			return r, true, err
		}
	}
	return decide.Record{}, false, err
}

// alone is a state in which there is nothing but one store, as its own entries made it:
// what else a batch knows does not decide them.
type alone struct {
	*index.Batch
	store ledger.ID
}

var _ decide.State = (*alone)(nil)

// Status implements [decide.State].
func (a *alone) Status(store ledger.ID) (decide.Status, error) {
	if store != a.store {
		return decide.None, nil
	}
	return a.Batch.Status(store)
}

// Command implements [decide.State].
func (a *alone) Command(store ledger.ID, actor string, id ledger.UUID) (decide.Seen, bool, error) {
	if store != a.store {
		return decide.Seen{}, false, nil
	}
	return a.Batch.Command(store, actor, id)
}

// LogTime implements [decide.State].
func (a *alone) LogTime(store ledger.ID) (int64, error) {
	if store != a.store {
		return 0, nil
	}
	return a.Batch.LogTime(store)
}
