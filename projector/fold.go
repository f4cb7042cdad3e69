package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector/index"
	"golang.org/x/sync/errgroup"
)

// Run folds the log until ctx is done, then returns nil. A lost connection is tried
// again; a lost past quarantines the replica until it is opened anew. Any other error
// is of the index, and answers end. An [index.ErrDamaged] means that the projector is
// to be closed and opened anew, which drops the index and folds it again.
func (p *Projector) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.fold(ctx) })  // ends with ctx, or fails with the index
	g.Go(func() error { return p.watch(ctx) }) // ends with ctx
	g.Go(func() error { return p.scrub(ctx) }) // ends with ctx, or when damage is found
	err := g.Wait()
	if err != nil {
		if errors.Is(err, index.ErrDamaged) {
			err = errors.Join(err, condemn(p.cfg.Index))
		}
		p.quarantine(fmt.Errorf("%w: %w", ledger.ErrQuarantined, err))
	}
	return err
}

// scrub compares all rows with their accumulator once, and then waits for damage that
// Pebble reports.
func (p *Projector) scrub(ctx context.Context) error {
	began := time.Now()
	err := p.index.Scrub(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, index.ErrDamaged):
		return err
	case err != nil:
		p.cfg.Logger.Warn("the index could not be scrubbed", "error", err)
	default:
		p.cfg.Logger.Info("the index is sound", "took", time.Since(began).Round(time.Millisecond))
	}
	select {
	case err := <-p.damage:
		return err
	case <-ctx.Done():
		return nil
	}
}

// fold follows the log, again after each failure of the log.
func (p *Projector) fold(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p.mu.Lock()
	p.stopFold = stop // a quarantine that the watch finds ends the fold too
	p.mu.Unlock()
	for {
		err := p.follow(ctx)
		p.connected.Store(false)
		var broken *indexError
		switch {
		case ctx.Err() != nil:
			return nil
		case ledger.IsQuarantine(err):
			p.quarantine(err)
			<-ctx.Done() // nothing leads out but opening anew
			return nil
		case errors.As(err, &broken):
			return err
		}
		p.mu.Lock()
		p.failure = err
		p.mu.Unlock()
		p.cfg.Logger.Warn("the log cannot be read; trying again", "error", err)
		select {
		case <-time.After(p.cfg.RetryAfter):
		case <-ctx.Done():
			return nil
		}
	}
}

// An indexError is a failure in the middle of a batch, which must not be committed:
// of the index, or of deciding under an unknown fold version. Reading the log again
// cannot mend it.
type indexError struct{ err error }

func (e *indexError) Error() string { return e.err.Error() }
func (e *indexError) Unwrap() error { return e.err }

// quarantine stops all answers, for ever in this process.
func (p *Projector) quarantine(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil {
		p.lost = err
		if p.stopFold != nil {
			p.stopFold()
		}
		for key, chans := range p.watchers { // nothing will be decided here any more
			for _, ch := range chans {
				close(ch)
			}
			delete(p.watchers, key)
		}
		p.cfg.Logger.Error("quarantined: this replica answers nothing until an operator decides", "error", err)
		p.wake()
	}
}

// Compare checks that the log is the one that led to pos, and still holds its past:
// the log is there and configured as at its genesis, its id is that of pos, and the
// message at pos is the one that was folded. It returns one of the ways of losing
// the past, or another error if the log could not be asked.
func Compare(ctx context.Context, log ledger.Log, pos ledger.Position) error {
	if err := log.Verify(ctx); err != nil {
		return err
	}
	if pos.Seq == 0 {
		return nil
	}
	if id := log.Genesis().Log; id != pos.Log {
		return fmt.Errorf("%w: this replica folded log %s, the stream is log %s", ledger.ErrForeign, pos.Log, id)
	}
	m, err := log.At(ctx, pos.Seq)
	if errors.Is(err, ledger.ErrNotFound) {
		first, last, err := log.Head(ctx)
		switch {
		case err != nil:
			return err
		case last < pos.Seq:
			return fmt.Errorf("%w: it ends at sequence %d, this replica has folded up to %d", ledger.ErrRewound, last, pos.Seq)
		}
		return fmt.Errorf("%w: sequence %d, which this replica folded, is not in it any more (it holds %d to %d)", ledger.ErrGap, pos.Seq, first, last)
	}
	if err != nil {
		return err
	}
	return samePast(&m, pos)
}

// samePast checks that m is the message at the position.
func samePast(m *ledger.Message, pos ledger.Position) error {
	switch {
	case m.Seq > pos.Seq:
		return fmt.Errorf("%w: sequence %d, which this replica folded, is not in it any more", ledger.ErrGap, pos.Seq)
	case m.Seq < pos.Seq || m.Chain(pos.Before) != pos.Chain:
		return fmt.Errorf("%w: the message at sequence %d is not the one that this replica folded", ledger.ErrRewound, pos.Seq)
	}
	return nil
}

// follow folds from the index's position on, until ctx is done or something fails.
func (p *Projector) follow(ctx context.Context) error {
	if err := Compare(ctx, p.cfg.Log, p.index.Position()); err != nil {
		return err
	}
	if _, last, err := p.cfg.Log.Head(ctx); err == nil {
		p.noteHead(last)
	}
	f := newFolder(p.cfg, p.index)
	defer f.close()
	f.refused = p.refused
	p.connected.Store(true)
	p.mu.Lock()
	p.failure = nil
	p.mu.Unlock()
	bytes := 0
	// The message at the position is read again: nothing that happens to the log between
	// comparing and reading can then put other messages behind what was folded.
	check := f.pos.Seq > 0
	for m, err := range p.cfg.Log.Read(ctx, max(f.pos.Seq, 1)) {
		if err == nil && check {
			if err := samePast(&m, f.pos); err != nil {
				return err
			}
			check = false
			p.noteHead(m.Seq + m.Pending)
			continue
		}
		if err != nil {
			if commitErr := p.commit(f); commitErr != nil {
				return commitErr
			}
			return err
		}
		p.noteHead(m.Seq + m.Pending)
		if err := f.message(ctx, &m); err != nil {
			// What was folded before a fault of the log is good, and it is found again there.
			var broken *indexError
			if errors.As(err, &broken) {
				return err
			}
			if commitErr := p.commit(f); commitErr != nil {
				return commitErr
			}
			return err
		}
		bytes += len(m.Data)
		if m.Pending == 0 || f.messages >= p.cfg.BatchMessages || bytes >= p.cfg.BatchBytes {
			if err := p.commit(f); err != nil {
				return err
			}
			bytes = 0
			for p.noSpace.Load() {
				select {
				case <-time.After(p.cfg.RetryAfter):
				case <-ctx.Done():
					return nil
				}
			}
		}
	}
	return p.commit(f)
}

// commit makes the batch visible and answers those who wait for its commands.
func (p *Projector) commit(f *folder) error {
	if f.messages == 0 {
		return nil
	}
	if lost := p.Quarantine(); lost != nil {
		return lost // found meanwhile; what was read since then may be of the wrong past
	}
	decided := f.decided
	if err := f.commit(); err != nil {
		return err
	}
	var counts [ledger.Duplicate + 1]int
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range decided {
		counts[d.decided.Outcome.Kind]++
		if d.decided.Time > p.newest.Load() {
			p.newest.Store(d.decided.Time)
		}
		if len(p.watchers) == 0 {
			continue
		}
		chans := p.watchers[d.key]
		if len(chans) == 0 {
			continue
		}
		if d.decided.Outcome.Kind == ledger.Duplicate {
			first, err := entryAt(p.index, d.key.Store, d.decided.Outcome.First)
			if err != nil {
				return &indexError{fmt.Errorf("read the first entry of a duplicate: %w", err)}
			}
			d.decided.Original = &first.Outcome
		}
		for _, ch := range chans {
			select {
			case ch <- d.decided:
			default: // it has its answer already
			}
		}
	}
	if f.newest > p.newest.Load() {
		p.newest.Store(f.newest)
	}
	p.applied.Store(f.pos.Seq)
	p.wake()
	for kind, n := range counts {
		if n > 0 {
			p.cfg.Decided(ledger.OutcomeKind(kind), n)
		}
	}
	return nil
}

// entryAt reads one entry of the newest commit.
func entryAt(x *index.Index, store ledger.ID, rev ledger.Revision) (*ledger.Entry, error) {
	v, err := x.View(store, 0)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return v.Entry(rev)
}

// leafAt reads one leaf hash of the newest commit; [ledger.ErrNotFound] if there is none.
func leafAt(x *index.Index, store ledger.ID, rev ledger.Revision) (ledger.Hash, error) {
	v, err := x.View(store, 0)
	if err != nil {
		return ledger.Hash{}, err
	}
	defer v.Close()
	return v.Leaf(rev)
}

func (p *Projector) noteHead(seq uint64) {
	for {
		old := p.head.Load()
		if seq <= old || p.head.CompareAndSwap(old, seq) {
			return
		}
	}
}

// watch looks, every CheckEvery, at what no message tells: the log's configuration,
// its head, and the free space.
func (p *Projector) watch(ctx context.Context) error {
	tick := time.NewTicker(p.cfg.CheckEvery)
	defer tick.Stop()
	for {
		p.checkSpace()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		ask, cancel := context.WithTimeout(ctx, p.cfg.CheckEvery)
		err := p.cfg.Log.Verify(ask)
		if err == nil {
			applied := p.applied.Load()
			var last uint64
			if _, last, err = p.cfg.Log.Head(ask); err == nil {
				p.noteHead(last)
				if last < applied {
					// A head may look short just after an election; comparing settles that.
					err = Compare(ctx, p.cfg.Log, p.index.Position())
				}
			}
		}
		cancel()
		if ledger.IsQuarantine(err) {
			p.quarantine(err)
		}
	}
}

func (p *Projector) checkSpace() {
	if p.cfg.FreeSpace == nil {
		return
	}
	free, err := p.cfg.FreeSpace()
	if err != nil {
		p.cfg.Logger.Warn("the free disk space cannot be read", "error", err)
		return
	}
	if short := free < p.cfg.MinFree; p.noSpace.Swap(short) != short {
		p.cfg.Logger.Warn("free disk space", "free_mib", free>>20, "needed_mib", p.cfg.MinFree>>20, "refusing", short)
	}
}

// A folder folds messages into one index, in batches. It is used by one goroutine.
type folder struct {
	log    ledger.Log
	shard  string
	index  *index.Index
	logger *slog.Logger

	pos      ledger.Position // after the messages folded, committed or not
	batch    *index.Batch    // nil between batches
	messages int             // folded into batch
	decided  []decidedEntry  // of batch, in order
	newest   int64           // highest log time of entries restored

	// skip returns how far past next the log may go on because messages are missing
	// and an operator has accepted that, or an error.
	skip func(ctx context.Context, next, found uint64) error
	// recorded is called for each record, or nil.
	recorded func(seq uint64, store ledger.ID, rev ledger.Revision, leaf ledger.Hash)
	// refused is called where entries are not taken into a store's record, or nil.
	refused func(store ledger.ID, reason string)
}

type decidedEntry struct {
	key     ledger.Key
	decided ledger.Decided
}

func newFolder(cfg Config, x *index.Index) *folder {
	f := &folder{log: cfg.Log, shard: cfg.Shard, index: x, logger: cfg.Logger, pos: x.Position()}
	f.skip = f.acceptedGap
	return f
}

// message folds m, which must be the next of the log.
func (f *folder) message(ctx context.Context, m *ledger.Message) error {
	if m.Seq != f.pos.Seq+1 {
		if m.Seq <= f.pos.Seq {
			return fmt.Errorf("the log delivered sequence %d again after %d", m.Seq, f.pos.Seq)
		}
		if err := f.skip(ctx, f.pos.Seq+1, m.Seq); err != nil {
			return err
		}
		f.pos.Skipped += m.Seq - f.pos.Seq - 1
	}
	kind, _ := ledger.ParseSubject(m.Subject)
	if m.Seq == 1 {
		g, err := ledger.DecodeGenesis(m.Data)
		if kind != ledger.GenesisSubject || err != nil || g.Log != f.log.Genesis().Log {
			return fmt.Errorf("%w: its first message is not the genesis of log %s", ledger.ErrForeign, f.log.Genesis().Log)
		}
		f.pos.Log = g.Log
	}
	f.pos.Before = f.pos.Chain
	f.pos.Chain = m.Chain(f.pos.Chain)
	f.pos.Seq = m.Seq
	if f.batch == nil {
		f.batch = f.index.NewBatch()
	}
	f.messages++
	if m.Seq == 1 {
		return nil
	}
	in := decide.Input{Kind: kind, Time: m.Time}
	commands, restored, err := ledger.DecodeEnvelope(m, f.batch.Fold())
	if restored != nil {
		return f.restore(restored)
	}
	if err != nil {
		var kept ledger.Enclosed
		kept, in.Malformed = ledger.NotEnvelope(m, err)
		commands = []ledger.Enclosed{kept}
	}
	for _, c := range commands {
		in.Origin, in.Raw, in.Version = c.Origin, c.Raw, f.batch.Fold()
		if err := f.command(in); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) command(in decide.Input) error {
	records, err := decide.Decide(f.batch, in)
	if err != nil {
		return &indexError{fmt.Errorf("decide: %w", err)}
	}
	for i := range records {
		r := &records[i]
		if err := f.skippedAll(r); err != nil {
			return err
		}
		rev, leaf, err := f.batch.Append(*r, in.Origin, in.Raw, in.Version)
		if err != nil {
			return &indexError{fmt.Errorf("record: %w", err)}
		}
		if f.recorded != nil {
			f.recorded(f.pos.Seq, r.Store, rev, leaf)
		}
		f.pos.Epoch = f.batch.Epoch()
		if i == 0 {
			d := decidedEntry{decided: ledger.Decided{Outcome: r.Outcome, Revision: rev, Time: r.Time,
				Token: ledger.Token{Log: f.pos.Log, Store: r.Store, Epoch: f.pos.Epoch, Revision: rev}}}
			copy(d.decided.Token.Leaf[:], leaf[:])
			if c := r.Command; c != nil {
				d.key = ledger.Key{Store: c.Store, Actor: in.Origin.Actor, ID: c.ID, Content: r.Content}
				d.decided.ID = c.ID
			}
			f.decided = append(f.decided, d)
		}
	}
	return nil
}

// restore takes the entries of a restore envelope into the record of their store, up to
// the first that is not the next there. What is not taken leaves no trace but in this
// replica's own log: the entries restored are the record, and system's entries say who
// restored, and when.
func (f *folder) restore(r *ledger.Restored) error {
	for i, data := range r.Entries {
		err := f.restoreEntry(r.Store, data)
		var refused *refusedError
		switch {
		case errors.As(err, &refused):
			f.logger.Warn("a message restores entries that are not taken", "sequence", f.pos.Seq, "store", r.Store,
				"taken", i, "not_taken", len(r.Entries)-i, "reason", refused.reason)
			if f.refused != nil {
				f.refused(r.Store, refused.reason)
			}
			return nil
		case err != nil:
			return &indexError{fmt.Errorf("restore: %w", err)}
		}
	}
	return nil
}

// A refusedError is why an entry is not taken.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// restoreEntry takes one entry into the record of the store, unless it has it.
func (f *folder) restoreEntry(store ledger.ID, data []byte) error {
	h, _ := f.batch.Head(store)
	if h.Status != decide.Restoring {
		return &refusedError{"the store is not being restored"}
	}
	e, err := ledger.DecodeEntry(data)
	if err != nil {
		return &refusedError{err.Error()}
	}
	if e.Store == store && e.Revision > 0 && e.Revision <= h.Revision {
		// A copy of what was sent before, because the answer was lost, or something else.
		leaf, err := f.batch.Leaf(store, e.Revision)
		if err != nil {
			return err
		}
		if leaf != seal.LeafHash(data) {
			return &refusedError{fmt.Sprintf("the store has another entry at revision %d", e.Revision)}
		}
		return nil
	}
	if now := f.batch.Fold(); e.FoldVersion > now {
		return &refusedError{fmt.Sprintf("revision %d was decided under fold version %d, %d is in force", e.Revision, e.FoldVersion, now)}
	}
	_, leaf, err := refold(f.batch, store, e)
	var differs *RefoldError
	switch {
	case errors.As(err, &differs):
		return &refusedError{differs.Error()}
	case err != nil:
		return err
	case leaf != seal.LeafHash(data):
		panic("projector: an entry that decides the same again has another leaf")
	}
	if f.recorded != nil {
		f.recorded(f.pos.Seq, store, e.Revision, leaf)
	}
	f.newest = max(f.newest, e.Time)
	return nil
}

// skippedAll returns an [ledger.ErrGap] if the record accepts that messages are missing
// which were folded here, when the log still had them: other replicas step over them,
// and this one has to fold again without them.
func (f *folder) skippedAll(r *decide.Record) error {
	for i := range r.Effects {
		if r.Effects[i].Kind != decide.SetEpoch {
			continue
		}
		missing := uint64(0)
		for _, cut := range r.Effects[i].Epoch.Cuts {
			if cut.Missing && cut.To < f.pos.Seq {
				missing += cut.To - cut.From + 1
			}
		}
		if f.pos.Skipped < missing {
			return fmt.Errorf("%w: epoch %d accepts that %d messages are missing, of which this replica has folded some", ledger.ErrGap, r.Effects[i].Epoch.Number, missing)
		}
	}
	return nil
}

// commit writes the batch with the position it leads to.
func (f *folder) commit() error {
	if f.batch == nil {
		return nil
	}
	err := f.batch.Commit(f.pos)
	f.batch, f.messages, f.decided = nil, 0, nil
	if err != nil {
		return &indexError{fmt.Errorf("commit: %w", err)}
	}
	return nil
}

func (f *folder) close() {
	if f.batch != nil {
		f.batch.Close()
	}
}

// acceptedGap returns nil if the log's newest epoch lists the messages from next to
// before found as missing; else an [ledger.ErrGap].
func (f *folder) acceptedGap(ctx context.Context, next, found uint64) error {
	epoch, err := newestEpoch(ctx, f.log, f.shard)
	if err != nil {
		return err
	}
	for _, cut := range epoch.Cuts {
		if cut.Missing && cut.From == next && cut.To == found-1 {
			return nil
		}
	}
	return fmt.Errorf("%w: after sequence %d comes %d", ledger.ErrGap, next-1, found)
}

// newestEpoch returns the newest epoch in the log; the zero Epoch if there is none. The
// last message under the epoch subject nearly always is it. If that is something else,
// which only an operator could have published, the whole log is searched.
func newestEpoch(ctx context.Context, log ledger.Log, shard string) (ledger.Epoch, error) {
	m, err := log.LastOn(ctx, ledger.Subject(shard, ledger.EpochSubject, ""))
	if errors.Is(err, ledger.ErrNotFound) {
		return ledger.Epoch{}, nil
	}
	if err != nil {
		return ledger.Epoch{}, err
	}
	if e, ok := epochOf(&m); ok {
		return e, nil
	}
	var newest ledger.Epoch
	for m, err := range log.Read(ctx, 1) {
		if err != nil {
			return ledger.Epoch{}, err
		}
		if e, ok := epochOf(&m); ok && e.Number > newest.Number {
			newest = e
		}
		if m.Pending == 0 {
			break
		}
	}
	return newest, ctx.Err()
}

// epochOf returns the epoch that the message advances to, or false.
func epochOf(m *ledger.Message) (ledger.Epoch, bool) {
	if kind, _ := ledger.ParseSubject(m.Subject); kind != ledger.EpochSubject {
		return ledger.Epoch{}, false
	}
	commands, _, err := ledger.DecodeEnvelope(m, ledger.FoldVersion)
	if err != nil || len(commands) != 1 {
		return ledger.Epoch{}, false
	}
	c, rejection := ledger.ReadCommand(commands[0].Raw, ledger.FoldVersion)
	if rejection != nil || c.Changes[0].Kind != ledger.AdvanceEpoch {
		return ledger.Epoch{}, false
	}
	return c.Changes[0].Epoch, true
}
