package projector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/projector/index"
)

// A Freshness says how new an answer must be. The zero Freshness is Any.
type Freshness struct {
	Kind     FreshnessKind
	Token    ledger.Token    // of AtLeast and AtToken
	Revision ledger.Revision // of AtRevision: at least 1
	Time     int64           // of AtTime, nanoseconds since the Unix epoch
}

// A FreshnessKind is the kind of a [Freshness].
type FreshnessKind byte

// The kinds of freshness.
const (
	Any        FreshnessKind = iota // what is folded here now
	AtLeast                         // not older than the token; waits here
	Latest                          // everything acknowledged before the question; asks the log
	AtRevision                      // as the store was at a revision
	AtTime                          // as the store was at a time, which must not be in the future
	AtToken                         // as the store was at the token's revision
)

// The errors of a moment at which the store has no state.
var (
	// ErrFuture: a revision or time after everything in the log.
	ErrFuture = errors.New("in the future")
	// ErrBefore: a revision or time before the store's first entry. It is a [ledger.ErrNotFound].
	ErrBefore error = beforeError{}
)

type beforeError struct{}

func (beforeError) Error() string { return "before the store's first entry" }
func (beforeError) Unwrap() error { return ledger.ErrNotFound }

// A closedError is a [ledger.ErrNotFound] of a store that is there and answers nothing.
type closedError string

func (e closedError) Error() string { return string(e) }
func (closedError) Unwrap() error   { return ledger.ErrNotFound }

// tokenPatience is how long a token's revision is waited for before the log is asked
// whether it can come at all.
const tokenPatience = 250 * time.Millisecond

// View returns a view of the store as fresh as f asks; the caller closes it.
//
// Errors: [ledger.ErrNotFound] if there is no such store, or it is being restored;
// [ledger.ErrQuarantined];
// [ledger.ErrUnavailable] if ctx ended before the view was fresh enough, with the
// revision applied here; [ledger.ErrForeignToken], [ledger.ErrLostPast] and
// [ledger.ErrToken] for a token that names no revision of this store's history;
// [ErrFuture] for a revision or time after the head; [ErrBefore] for one before the
// first entry.
//
// Of a time after the store's newest entry, the answer stands for what the log held when
// it was asked. An entry that comes later may still get a log time that is not after it,
// if the broker's clock is behind this one's.
func (p *Projector) View(ctx context.Context, store ledger.ID, f Freshness) (*index.View, error) {
	if err := p.Quarantine(); err != nil {
		return nil, err
	}
	rev := ledger.Revision(0) // the head
	switch f.Kind {
	case AtLeast:
		if err := p.reach(ctx, store, f.Token); err != nil {
			return nil, err
		}
	case Latest:
		if _, err := p.latest(ctx); err != nil {
			return nil, err
		}
	case AtRevision:
		if rev = f.Revision; rev == 0 {
			return nil, fmt.Errorf("revision 0 of store %s is %w", store, ErrBefore)
		}
		if h, ok := p.index.Head(store); ok && rev > h.Revision {
			if _, err := p.latest(ctx); err != nil {
				return nil, err
			}
			if h, _ = p.index.Head(store); rev > h.Revision {
				return nil, fmt.Errorf("revision %d is %w: store %s is at revision %d", rev, ErrFuture, store, h.Revision)
			}
		}
	case AtTime:
		if f.Time > p.cfg.Now().UnixNano() {
			return nil, fmt.Errorf("%s is %w", time.Unix(0, f.Time).UTC().Format(time.RFC3339Nano), ErrFuture)
		}
		return p.viewAt(ctx, store, f.Time)
	case AtToken:
		if rev = f.Token.Revision; rev == 0 {
			return nil, fmt.Errorf("the token names revision 0 of store %s, %w", store, ErrBefore)
		}
		if err := p.reach(ctx, store, f.Token); err != nil {
			return nil, err
		}
	}
	v, err := p.index.View(store, rev)
	if err != nil {
		return nil, err
	}
	return answering(v)
}

// Newest returns a view of everything acknowledged before the call, and a time at which its
// revision was the newest: just before that of a message stored after the call, which no
// later revision precedes as long as the broker's clock does not run back; but not before
// the revision's own, which a later one may share. The caller closes the view; errors are
// those of View for [Latest].
func (p *Projector) Newest(ctx context.Context, store ledger.ID) (*index.View, int64, error) {
	if err := p.Quarantine(); err != nil {
		return nil, 0, err
	}
	seq, err := p.latest(ctx)
	if err != nil {
		return nil, 0, err
	}
	m, err := p.cfg.Log.At(ctx, seq)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: the log's time: %w", ledger.ErrUnavailable, err)
	}
	v, err := p.index.View(store, 0)
	if err != nil {
		return nil, 0, err
	}
	if v, err = answering(v); err != nil {
		return nil, 0, err
	}
	return v, max(m.Time-1, v.Head().Time), nil
}

// viewAt is View of AtTime, for a time that is not in the future.
func (p *Projector) viewAt(ctx context.Context, store ledger.ID, at int64) (*index.View, error) {
	v, err := p.index.ViewAt(store, at)
	// What is folded here decides a time only once something later is folded.
	if errors.Is(err, ledger.ErrNotFound) || err == nil && at >= v.Head().Time {
		if err == nil {
			v.Close()
		}
		if _, err := p.latest(ctx); err != nil {
			return nil, err
		}
		v, err = p.index.ViewAt(store, at)
	}
	if err != nil {
		return nil, err
	}
	if v.Revision() == 0 {
		v.Close()
		return nil, fmt.Errorf("%s is %w", time.Unix(0, at).UTC().Format(time.RFC3339Nano), ErrBefore)
	}
	return answering(v)
}

// answering returns v, or closes it and says why its store answers nothing.
func answering(v *index.View) (*index.View, error) {
	var err error
	switch v.Status() {
	case decide.Restoring:
		err = closedError(fmt.Sprintf("store %s is being restored, and answers nothing yet", v.Store()))
	case decide.GivenUp:
		err = closedError(fmt.Sprintf("store %s was deleted before it was restored", v.Store()))
	default:
		return v, nil
	}
	v.Close()
	return nil, err
}

// Await returns once the store's revision is folded here. It fails with an
// [ledger.ErrUnavailable] when ctx ends first, or with the quarantine.
func (p *Projector) Await(ctx context.Context, store ledger.ID, rev ledger.Revision) error {
	return p.waitFor(ctx, fmt.Sprintf("revision %d of store %s is not folded here yet", rev, store), func() bool {
		return p.revision(store) >= rev
	})
}

// latest waits until everything that was in the log when it was called is folded, and
// returns the sequence of a message that was stored then.
func (p *Projector) latest(ctx context.Context) (uint64, error) {
	seq, err := p.askLog(ctx)
	if err != nil {
		return 0, err
	}
	return seq, p.waitFor(ctx, fmt.Sprintf("sequence %d is not folded here yet (at %d)", seq, p.applied.Load()),
		func() bool { return p.applied.Load() >= seq })
}

// askLog returns a sequence that is newer than every message stored before it was
// called.
func (p *Projector) askLog(ctx context.Context) (uint64, error) {
	if p.noSpace.Load() { // a barrier is a write like any other
		return 0, p.Ready()
	}
	before := p.applied.Load()
	seq, err := p.barrier.Wait(ctx)
	if err == nil && seq <= before {
		err = fmt.Errorf("%w: it gives sequence %d to a new message, this replica has folded up to %d", ledger.ErrRewound, seq, before)
		p.quarantine(err)
	}
	return seq, err
}

// reach waits until the token's revision is folded, and checks that the token is of
// this history.
func (p *Projector) reach(ctx context.Context, store ledger.ID, t ledger.Token) error {
	if id := p.cfg.Log.Genesis().Log; t.Log != id {
		return fmt.Errorf("%w: it is of log %s, this is log %s", ledger.ErrForeignToken, t.Log, id)
	}
	if t.Store != store {
		return fmt.Errorf("%w: it is of store %s, the question is about store %s", ledger.ErrForeignToken, t.Store, store)
	}
	reached := func() bool {
		h, ok := p.index.Head(store)
		return ok && h.Revision >= t.Revision && p.index.Position().Epoch >= t.Epoch
	}
	if !reached() {
		if err := p.awaitToken(ctx, t, reached); err != nil {
			return err
		}
	}
	if t.Revision == 0 {
		return nil
	}
	leaf, err := leafAt(p.index, store, t.Revision)
	if err != nil {
		return err
	}
	if [8]byte(leaf[:8]) != t.Leaf {
		return p.wrongPast(t)
	}
	return nil
}

// awaitToken waits for the token's revision: briefly for the fold alone, then for all
// that the log holds now. A revision that does not come with that is in no log.
func (p *Projector) awaitToken(ctx context.Context, t ledger.Token, reached func() bool) error {
	what := fmt.Sprintf("revision %d of store %s is not folded here yet (at %d)", t.Revision, t.Store, p.revision(t.Store))
	short, cancel := context.WithTimeout(ctx, tokenPatience)
	err := p.waitFor(short, what, reached)
	cancel()
	if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	seq, err := p.askLog(ctx)
	if ledger.IsQuarantine(err) {
		return err
	}
	if err != nil { // the log takes no writes now: the fold may still get there
		return p.waitFor(ctx, what, reached)
	}
	if err := p.waitFor(ctx, what, func() bool { return reached() || p.applied.Load() >= seq }); err != nil {
		return err
	}
	if !reached() {
		return p.wrongPast(t)
	}
	return nil
}

// wrongPast is the error for a token whose revision is not what it says.
func (p *Projector) wrongPast(t ledger.Token) error {
	if now := p.index.Position().Epoch; t.Epoch < now {
		return fmt.Errorf("%w: it was given in epoch %d, this is epoch %d", ledger.ErrLostPast, t.Epoch, now)
	}
	return fmt.Errorf("%w: revision %d of store %s is not the one it names", ledger.ErrToken, t.Revision, t.Store)
}

func (p *Projector) revision(store ledger.ID) ledger.Revision {
	h, _ := p.index.Head(store)
	return h.Revision
}
