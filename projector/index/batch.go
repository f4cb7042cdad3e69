package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/ledger/tuple"
	"golang.org/x/mod/sumdb/tlog"
)

// A Batch is one step of the fold: the entries of some messages, what they do, and the
// position after them. It implements [decide.State] as of its own last entry. Nothing
// of it is visible to others before Commit, and all of it after.
//
// After an error of any method the batch can only be closed. Used by one goroutine.
type Batch struct {
	x        *Index
	rows     *pebble.Batch
	r        *readers // what is committed
	tables   *readers // of that, what is in tables; nil until needed, see finder
	sum      accumulator
	epoch    uint64
	fold     uint64
	entries  int
	heads    map[ledger.ID]*head         // of the stores that have new entries: own copies
	versions map[string]*batchVersion    // newest of tuples, by the prefix of their forward key
	commands map[string]decide.Seen      // ids claimed, by key
	models   []*modelAt                  // written, parsed
	asserted map[[32]byte][]byte         // newest assertions written, by store and model
	restored map[ledger.ID][]ledger.Hash // leaves of the newest entries of stores that are restoring

	tablesServe bool // tables and x.recent together are what is committed

	key, value, hashing []byte // buffers
	objects             []tuple.Object
	subjects            []tuple.Subject
}

// batchVersion is the newest version of a tuple that the batch has found or written.
type batchVersion struct {
	rev     ledger.Revision // 0: there is none
	value   []byte
	written bool
}

var _ decide.State = (*Batch)(nil)

// NewBatch begins a batch on the newest commit. It must end with Commit or Close
// before the next begins; a second one at a time is a fault of the caller and panics.
func (x *Index) NewBatch() *Batch {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.writing {
		panic("index: a batch is open already")
	}
	x.writing = true
	return &Batch{
		x: x, rows: x.db.NewBatch(), r: &readers{db: x.db, options: &iterOptions}, sum: x.sum, epoch: x.position.Epoch,
		fold:     max(x.position.Fold, ledger.FoldVersion),
		heads:    make(map[ledger.ID]*head),
		versions: make(map[string]*batchVersion),
		commands: make(map[string]decide.Seen),
		asserted: make(map[[32]byte][]byte),
		restored: make(map[ledger.ID][]ledger.Hash),
	}
}

// Close gives up the batch unless it was committed.
func (b *Batch) Close() error {
	if b.rows == nil {
		return nil
	}
	err := errors.Join(b.rows.Close(), b.r.close())
	if b.tables != nil {
		err = errors.Join(err, b.tables.close())
	}
	b.rows = nil
	b.x.mu.Lock()
	b.x.writing = false
	b.x.mu.Unlock()
	return err
}

// Len returns how many entries the batch holds.
func (b *Batch) Len() int { return b.entries }

// Size returns how many bytes of rows the batch holds.
func (b *Batch) Size() int { return b.rows.Len() }

// Head returns the store's newest state, entries of this batch among it, or false if it
// never was.
func (b *Batch) Head(store ledger.ID) (Head, bool) {
	if h := b.head(store); h != nil {
		return h.Head, true
	}
	return Head{}, false
}

// head returns the store's newest state, nil if it never was.
func (b *Batch) head(store ledger.ID) *head {
	if h := b.heads[store]; h != nil {
		return h
	}
	b.x.mu.Lock()
	defer b.x.mu.Unlock()
	return b.x.heads[store]
}

// writable returns the batch's own copy of the store's head, with its peaks.
func (b *Batch) writable(store ledger.ID) (*head, error) {
	if h := b.heads[store]; h != nil {
		return h, nil
	}
	h := &head{Head: Head{Store: store}}
	if old := b.head(store); old != nil {
		h.Head = old.Head
		h.models = slices.Clip(old.models)
		h.peaks = slices.Clone(old.peaks)
	}
	if h.peaks == nil {
		var err error
		if h.peaks, err = b.r.peaks(store, h.Revision); err != nil {
			return nil, err
		}
	}
	b.heads[store] = h
	return h, nil
}

// peaks reads the roots of the complete subtrees that a tree of so many leaves is made
// of; see head.peaks.
func (r *readers) peaks(store ledger.ID, leaves ledger.Revision) ([]ledger.Hash, error) {
	var peaks []ledger.Hash
	for level := 0; leaves>>level > 0; level++ {
		peaks = append(peaks, ledger.Hash{})
		if leaves>>level&1 == 0 {
			continue
		}
		// The subtree ends with the leaf whose number has the lower bits cleared.
		row, err := r.hashes(store, leaves>>level<<level)
		if err != nil {
			return nil, err
		}
		if len(row) < 32*(level+1)+8 {
			return nil, damaged("store %s lacks hash %d of revision %d", store, level, leaves>>level<<level)
		}
		peaks[level] = row.hash(level)
	}
	return peaks, nil
}

// Status implements [decide.State].
func (b *Batch) Status(store ledger.ID) (decide.Status, error) {
	if h := b.head(store); h != nil {
		return h.Status, nil
	}
	return decide.None, nil
}

// Model implements [decide.State].
func (b *Batch) Model(store, id ledger.ID) (*model.Model, error) {
	h := b.head(store)
	if h == nil {
		return nil, nil
	}
	m := newestModel(h.models, id)
	if m == nil {
		return nil, nil
	}
	// A model of this batch keeps its parsed form until the commit at least.
	return b.x.parsed.model(m, b.r, store)
}

// Grant implements [decide.State].
func (b *Batch) Grant(store ledger.ID, t tuple.Tuple) (model.Grant, bool, error) {
	b.key = appendForward(b.key[:0], store, t, 1<<64-1)
	v, err := b.newest(b.key)
	if err != nil || v.rev == 0 {
		return model.Grant{}, false, err
	}
	return decodeVersion(v.value)
}

// newest returns the newest version of the tuple whose forward key this is.
func (b *Batch) newest(key []byte) (*batchVersion, error) {
	prefix := key[:len(key)-versioned]
	if v := b.versions[string(prefix)]; v != nil {
		return v, nil
	}
	r, err := b.finder(key)
	if err != nil {
		return nil, err
	}
	value, err := r.find(key)
	if err != nil {
		return nil, err
	}
	v := &batchVersion{}
	if value != nil {
		v.rev, v.value = version(r.point.Key()), bytes.Clone(value)
	}
	b.versions[string(prefix)] = v
	return v, nil
}

// Command implements [decide.State].
func (b *Batch) Command(store ledger.ID, actor string, id ledger.UUID) (decide.Seen, bool, error) {
	b.key = appendCommand(b.key[:0], store, actor, id)
	if seen, ok := b.commands[string(b.key)]; ok {
		return seen, true, nil
	}
	r, err := b.finder(b.key)
	if err != nil {
		return decide.Seen{}, false, err
	}
	value, err := r.find(b.key)
	if err != nil || value == nil {
		return decide.Seen{}, false, err
	}
	seen, err := decodeSeen(value)
	return seen, err == nil, err
}

// Assertions implements [decide.State].
func (b *Batch) Assertions(store, model ledger.ID) ([]byte, error) {
	if written, ok := b.asserted[assertedOf(store, model)]; ok {
		return written, nil
	}
	assertions, _, err := b.r.assertions(store, model, 1<<64-1)
	return assertions, err
}

func assertedOf(store, model ledger.ID) (key [32]byte) {
	copy(key[:16], store[:])
	copy(key[16:], model[:])
	return key
}

// LogTime implements [decide.State].
func (b *Batch) LogTime(store ledger.ID) (int64, error) {
	if h := b.head(store); h != nil {
		return h.Time, nil
	}
	return 0, nil
}

// Epoch implements [decide.State].
func (b *Batch) Epoch() uint64 { return b.epoch }

// Fold returns the fold version in force.
func (b *Batch) Fold() uint64 { return b.fold }

// Leaf returns the leaf hash of a revision of a store that is restoring, entries of this
// batch among them. The revision must be one that the store has.
func (b *Batch) Leaf(store ledger.ID, rev ledger.Revision) (ledger.Hash, error) {
	here := b.restored[store]
	if before := b.head(store).Revision - ledger.Revision(len(here)); rev > before {
		return here[rev-before-1], nil
	}
	row, err := b.r.hashes(store, rev)
	if err != nil {
		return ledger.Hash{}, err
	}
	return row.hash(0), nil
}

// Append records what was decided of a command as the next entry of its store, with
// its effects, and returns the entry's revision and leaf hash. Origin and raw are the
// command's, version is the fold version that decided it.
func (b *Batch) Append(r decide.Record, o ledger.Origin, raw []byte, version uint64) (ledger.Revision, ledger.Hash, error) {
	h, err := b.writable(r.Store)
	if err != nil {
		return 0, ledger.Hash{}, err
	}
	rev := h.Revision + 1
	e := ledger.Entry{Store: r.Store, Revision: rev, Time: r.Time, Origin: o, FoldVersion: version, Raw: raw, Outcome: r.Outcome, Prev: h.Leaf}
	b.value = ledger.AppendEntry(b.value[:0], &e)
	leaf := seal.LeafHash(b.value)
	b.key = appendByRevision(b.key[:0], familyEntry, r.Store, rev)
	if err := b.set(); err != nil {
		return 0, leaf, err
	}
	if err := b.setLists(&r, o.Actor, rev); err != nil {
		return 0, leaf, err
	}
	if err := b.setMentions(&r, rev); err != nil {
		return 0, leaf, err
	}
	b.value = h.appendLeaf(b.value[:0], leaf, r.Time)
	b.key = appendByRevision(b.key[:0], familyHashes, r.Store, rev)
	if err := b.set(); err != nil {
		return 0, leaf, err
	}
	h.Revision, h.Time, h.Leaf = rev, r.Time, leaf
	if h.Status == decide.Restoring {
		b.restored[r.Store] = append(b.restored[r.Store], leaf)
	}
	for i := range r.Effects {
		if err := b.apply(h, &r.Effects[i], rev, r.Time); err != nil {
			return 0, leaf, err
		}
	}
	b.entries++
	return rev, leaf, nil
}

// setLists writes the rows that find an entry: by command id, actor, ticket, and
// among the rejected.
func (b *Batch) setLists(r *decide.Record, actor string, rev ledger.Revision) error {
	if r.Claims {
		seen := decide.Seen{Content: r.Content, Revision: rev}
		b.key = appendCommand(b.key[:0], r.Store, actor, r.Command.ID)
		b.value = appendSeen(b.value[:0], seen)
		b.commands[string(b.key)] = seen
		if err := b.set(); err != nil {
			return err
		}
	}
	b.value = b.value[:0]
	b.key = appendByText(b.key[:0], familyActor, r.Store, actor, rev)
	if err := b.set(); err != nil {
		return err
	}
	if r.Command != nil && r.Command.Ticket != "" {
		b.key = appendByText(b.key[:0], familyTicket, r.Store, r.Command.Ticket, rev)
		if err := b.set(); err != nil {
			return err
		}
	}
	if r.Outcome.Kind == ledger.Rejected {
		b.key = appendByRevision(b.key[:0], familyRejected, r.Store, rev)
		return b.set()
	}
	return nil
}

// setMentions writes the rows that find an entry by the objects and subjects of those of
// its changes that made no version: of the others, the versions find it.
func (b *Batch) setMentions(r *decide.Record, rev ledger.Revision) error {
	if r.Command == nil {
		return nil
	}
	b.objects, b.subjects = b.objects[:0], b.subjects[:0]
	effects := r.Effects // in the order of the changes
	for i := range r.Command.Changes {
		ch := &r.Command.Changes[i]
		switch {
		case ch.Kind != ledger.Grant && ch.Kind != ledger.Revoke:
		case len(effects) > 0 && effects[0].Kind == decide.SetTuple && effects[0].Tuple == ch.Tuple:
			effects = effects[1:]
		default:
			b.objects = append(b.objects, ch.Tuple.Object)
			b.subjects = append(b.subjects, ch.Tuple.Subject)
		}
	}
	// No row is written twice, because the accumulator would count it twice.
	slices.SortFunc(b.objects, func(o, p tuple.Object) int { return tuple.Tuple{Object: o}.Compare(tuple.Tuple{Object: p}) })
	slices.SortFunc(b.subjects, func(s, t tuple.Subject) int { return tuple.Tuple{Subject: s}.Compare(tuple.Tuple{Subject: t}) })
	b.value = b.value[:0]
	for _, o := range slices.Compact(b.objects) {
		b.key = appendObjectMention(b.key[:0], r.Store, o, rev)
		if err := b.set(); err != nil {
			return err
		}
	}
	for _, s := range slices.Compact(b.subjects) {
		b.key = appendSubjectMention(b.key[:0], r.Store, s, rev)
		if err := b.set(); err != nil {
			return err
		}
	}
	return nil
}

// appendLeaf adds the next leaf to the tree and appends the value of its row.
func (h *head) appendLeaf(dst []byte, leaf ledger.Hash, time int64) []byte {
	dst = append(dst, leaf[:]...)
	level, sum := 0, tlog.Hash(leaf)
	// Each low bit that is set is a subtree which the leaf completes to one twice as
	// big, as a carry does in an addition.
	for ; h.Revision>>level&1 == 1; level++ {
		sum = tlog.NodeHash(tlog.Hash(h.peaks[level]), sum)
		dst = append(dst, sum[:]...)
	}
	if level == len(h.peaks) {
		h.peaks = append(h.peaks, ledger.Hash{})
	}
	h.peaks[level] = ledger.Hash(sum)
	return binary.BigEndian.AppendUint64(dst, uint64(time))
}

// apply writes one effect of the entry at rev of the store of h.
func (b *Batch) apply(h *head, e *decide.Effect, rev ledger.Revision, time int64) error {
	switch e.Kind {
	case decide.SetTuple:
		return b.setTuple(h.Store, e, rev)
	case decide.SetModel:
		m := &modelAt{ModelAt: ModelAt{e.Source.ID, rev}}
		m.parsed.Store(e.Model)
		h.models = append(h.models, m)
		b.models = append(b.models, m)
		b.key = appendByRevision(b.key[:0], familyModel, h.Store, rev)
		b.value = appendModel(b.value[:0], e.Source)
		if err := b.set(); err != nil {
			return err
		}
		b.key = appendModelID(b.key[:0], h.Store, e.Source.ID)
		b.value = appendRevision(b.value[:0], rev)
		return b.set()
	case decide.SetAssertions:
		b.asserted[assertedOf(h.Store, e.Source.ID)] = bytes.Clone(e.Assertions)
		b.key = appendAssertions(b.key[:0], h.Store, e.Source.ID, rev)
		b.value = appendAssertionsValue(b.value[:0], e.Assertions)
		return b.set()
	case decide.SetStore:
		return b.setStore(h, e, rev, time)
	case decide.SetEpoch:
		b.epoch = e.Epoch.Number
		return nil
	case decide.SetVersion:
		b.fold = e.Version
		return nil
	}
	panic(fmt.Sprintf("index: no effect of kind %d", e.Kind))
}

// setTuple writes both rows of a tuple's version.
func (b *Batch) setTuple(store ledger.ID, e *decide.Effect, rev ledger.Revision) error {
	b.key = appendForward(b.key[:0], store, e.Tuple, rev)
	newest, err := b.newest(b.key)
	if err != nil {
		return err
	}
	var before *storedVersion
	if newest.rev > 0 {
		if newest.written && newest.rev == rev {
			panic("index: one entry writes two versions of a tuple")
		}
		v, err := parseVersion(newest.rev, newest.value)
		if err != nil {
			return err
		}
		before = &v
	}
	b.value = appendVersionValue(b.value[:0], before, e.Live, e.Grant, rev)
	newest.rev, newest.value, newest.written = rev, bytes.Clone(b.value), true
	if err := b.set(); err != nil {
		return err
	}
	b.key = appendReverse(b.key[:0], store, e.Tuple, rev)
	return b.set()
}

// setStore writes the row of a store that an entry of h's store makes another. The second
// entry of the two that create or delete it finds it written.
func (b *Batch) setStore(h *head, e *decide.Effect, rev ledger.Revision, time int64) error {
	s, err := b.writable(e.Store)
	if err != nil {
		return err
	}
	if s.Status == e.Status {
		return nil
	}
	b.key = appendStore(b.key[:0], e.Store)
	restoring := s.Status == decide.Restoring
	if s.Status != decide.None {
		old := appendStoreRow(b.value[:0], &s.Head)
		var row accumulator
		row, b.hashing = sumRow(b.key, old, b.hashing)
		b.sum.subtract(row)
	}
	by := rev
	if h.Store != ledger.System {
		by = 0 // folded from the store's own entries alone
	}
	switch own := h.Store == e.Store; {
	case restoring && own && e.Status == decide.Live:
		s.Name, s.Admin, s.Created = e.Name, e.Admin, time
	case restoring && own:
		s.Deleted = time
	case restoring && e.Status == decide.Live:
		s.Status = e.Status
	case restoring:
		s.Status, s.DeletedBy = e.Status, by
		if e.Status == decide.GivenUp {
			s.Deleted = time
		}
	case e.Status == decide.Restoring:
		s.Status, s.Created, s.CreatedBy = e.Status, time, by
	case e.Status == decide.Live:
		s.Status, s.Name, s.Admin, s.Created, s.CreatedBy = e.Status, e.Name, e.Admin, time, by
	default:
		s.Status, s.Deleted, s.DeletedBy = e.Status, time, by
	}
	b.value = appendStoreRow(b.value[:0], &s.Head)
	return b.set()
}

// set adds the row of b.key and b.value.
func (b *Batch) set() error {
	var row accumulator
	row, b.hashing = sumRow(b.key, b.value, b.hashing)
	b.sum.add(row)
	return b.rows.Set(b.key, b.value, nil)
}

// Commit writes everything and the position after it, and ends the batch whatever it
// returns. Readers see it when Commit has returned; a crash may undo it, whole. The
// position must be after the one before, and its epoch that of the batch; its fold version
// is set to that of the batch.
func (b *Batch) Commit(pos ledger.Position) (err error) {
	x := b.x
	defer func() {
		if err = errors.Join(err, b.Close()); err != nil {
			err = fmt.Errorf("commit to index: %w", err)
		}
	}()
	if before := x.Position(); pos.Seq <= before.Seq {
		return fmt.Errorf("sequence %d comes after %d", pos.Seq, before.Seq)
	}
	if pos.Epoch != b.epoch {
		return fmt.Errorf("the position is of epoch %d, the entries of %d", pos.Epoch, b.epoch)
	}
	pos.Fold = b.fold
	b.value = appendPosition(b.value[:0], pos, b.sum)
	if err := b.rows.Set(positionKey, b.value, nil); err != nil {
		return err
	}
	if err := x.db.Apply(b.rows, pebble.NoSync); err != nil {
		return err
	}
	for key, v := range b.versions {
		if v.written {
			x.recent.add(key, pos.Seq)
		}
	}
	for key := range b.commands {
		x.recent.add(key, pos.Seq)
	}
	for _, m := range b.models {
		x.parsed.adopt(m)
	}
	x.mu.Lock()
	maps.Copy(x.heads, b.heads)
	x.position, x.sum = pos, b.sum
	x.commits++
	stale := x.idle
	x.idle = nil
	x.mu.Unlock()
	for _, r := range stale {
		if err := r.close(); err != nil {
			x.logger.Error("index: closing an iterator", "error", err)
		}
	}
	return nil
}
