package projector

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
)

// restoreRetry is how long a message whose answer was lost is sent again.
const restoreRetry = 20 * time.Second

// Activate brings the fold version into force, unless it or a later one is, and returns
// once that is folded here. Programs that do not know the version stop folding there, and
// answer nothing until they are replaced: it is an operator's decision, and recorded as
// that of actor. It cannot be taken back.
//
// Errors are [ledger.ErrUnavailable], [ledger.ErrRefused] and [ledger.ErrQuarantined];
// after each it is safe to try again.
func (p *Projector) Activate(ctx context.Context, version uint64, actor, reason, ticket string) error {
	if _, err := p.latest(ctx); err != nil {
		return err
	}
	if p.Fold() >= version {
		return nil
	}
	seq, err := appendActivate(ctx, p.cfg, p.Ready, version, actor, reason, ticket)
	if err != nil {
		return err
	}
	if err := p.folded(ctx, seq); err != nil {
		return err
	}
	if now := p.Fold(); now < version {
		return fmt.Errorf("fold version %d was asked for, and %d is in force", version, now)
	}
	return nil
}

// Activate is the method for an operator who may publish what a server may not: it
// appends to the log of cfg, and waits for nothing else. The log must have been folded by
// somebody who saw that the version is not in force.
func Activate(ctx context.Context, cfg Config, version uint64, actor, reason, ticket string) error {
	if cfg.Shard == "" {
		cfg.Shard = "main"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	_, err := appendActivate(ctx, cfg, func() error { return nil }, version, actor, reason, ticket)
	return err
}

func appendActivate(ctx context.Context, cfg Config, ready func() error, version uint64, actor, reason, ticket string) (uint64, error) {
	c := &ledger.Command{ID: ledger.NewUUID(), Store: ledger.System, Reason: reason, Ticket: ticket,
		Changes: []ledger.Change{{Kind: ledger.Activate, Version: version}}}
	if r := c.Validate(); r != nil {
		return 0, r
	}
	if r := ledger.CheckText("actor", actor, 1, ledger.MaxLabel); r != nil {
		return 0, r
	}
	origin := ledger.Origin{Actor: actor, Method: ledger.MethodNone}
	data := ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: origin, Raw: ledger.AppendCommand(nil, c)}})
	seq, err := appendAgain(ctx, cfg, ready, ledger.Subject(cfg.Shard, ledger.ActivateSubject, ""), data)
	if err != nil {
		err = fmt.Errorf("activate fold version %d: %w", version, err)
	}
	return seq, err
}

// Fold returns the fold version in force, as far as the log is folded here.
func (p *Projector) Fold() uint64 { return max(p.index.Position().Fold, ledger.FoldVersion) }

// Restore appends entries of another log to the record of the store, which must be
// restoring, and returns once they are folded here: each as [ledger.AppendEntry] writes it,
// from revision 1 or any that the store does not lack the one before of. What the store
// has already is passed over, so it is safe to restore again what was restored in part.
// done is called after each message with the newest revision folded.
//
// A [*RestoreError] says that the fold did not take an entry. Other errors are those of
// Activate, and of the sequence.
func (p *Projector) Restore(ctx context.Context, store ledger.ID, entries iter.Seq2[[]byte, error], done func(ledger.Revision)) error {
	end, err := p.beginRestore(store)
	if err != nil {
		return err
	}
	defer end()
	const head = 32 // bytes of an envelope's own, at most; 4 more of each entry
	var group [][]byte
	size := head
	send := func() error {
		if len(group) == 0 {
			return nil
		}
		err := p.restore(ctx, store, group)
		if h, ok := p.index.Head(store); err == nil && ok {
			done(h.Revision)
		}
		group, size = nil, head
		return err
	}
	for data, err := range entries {
		if err != nil {
			return err
		}
		if head+len(data)+4 > ledger.MaxAppend {
			return fmt.Errorf("an entry of %d bytes does not fit a message of the log", len(data))
		}
		if len(group) == ledger.MaxEnclosed || size+len(data)+4 > ledger.MaxAppend {
			if err := send(); err != nil {
				return err
			}
		}
		group = append(group, data)
		size += len(data) + 4
	}
	return send()
}

// A RestoreError is why the fold did not take an entry into the record of a store. The
// store keeps those before it, and stays restoring.
type RestoreError struct {
	Store    ledger.ID
	Revision ledger.Revision // the newest that the store has
	Reason   string
}

func (e *RestoreError) Error() string {
	return fmt.Sprintf("store %s was restored up to revision %d and no further: %s", e.Store, e.Revision, e.Reason)
}

// restore appends one envelope, and makes sure that the store's record ends with it.
func (p *Projector) restore(ctx context.Context, store ledger.ID, group [][]byte) error {
	last := group[len(group)-1]
	e, err := ledger.DecodeEntry(last)
	if err != nil {
		return err
	}
	data := ledger.AppendRestore(nil, ledger.Restored{Store: store, Entries: group})
	seq, err := appendAgain(ctx, p.cfg, p.Ready, ledger.Subject(p.cfg.Shard, ledger.EdgeSubject, p.cfg.Node), data)
	if err != nil {
		return fmt.Errorf("restore up to revision %d: %w", e.Revision, err)
	}
	if err := p.folded(ctx, seq); err != nil {
		return err
	}
	h, _ := p.index.Head(store)
	if h.Revision >= e.Revision {
		leaf, err := leafAt(p.index, store, e.Revision)
		if err != nil {
			return err
		}
		if leaf == seal.LeafHash(last) {
			return nil
		}
	}
	p.mu.Lock()
	reason := p.restores[store]
	p.mu.Unlock()
	if reason == "" {
		reason = fmt.Sprintf("revision %d is not the entry that was sent", e.Revision)
	}
	return &RestoreError{store, h.Revision, reason}
}

// beginRestore makes sure that there is one Restore of a store at a time, and keeps for it
// why the fold does not take its entries.
func (p *Projector) beginRestore(store ledger.ID) (end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, runs := p.restores[store]; runs {
		return nil, fmt.Errorf("%w: another request restores store %s just now", ledger.ErrUnavailable, store)
	}
	p.restores[store] = ""
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.restores, store)
	}, nil
}

// refused keeps the reason for which entries were not taken, for the Restore that waits.
func (p *Projector) refused(store ledger.ID, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, runs := p.restores[store]; runs {
		p.restores[store] = reason
	}
}

// folded waits until the message is folded here.
func (p *Projector) folded(ctx context.Context, seq uint64) error {
	return p.waitFor(ctx, fmt.Sprintf("sequence %d is not folded here yet", seq), func() bool { return p.applied.Load() >= seq })
}

// appendAgain stores a message whose copies do no harm. If the answer is lost it is sent
// again, as a [ledger.Ledger] does with commands. The sequence is that of the last copy.
func appendAgain(ctx context.Context, cfg Config, ready func() error, subject string, data []byte) (uint64, error) {
	deadline := time.Now().Add(restoreRetry)
	var lost error
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		if err := ready(); err != nil {
			return 0, err
		}
		seq, err := cfg.Log.Append(ctx, subject, data)
		switch {
		case err == nil:
			return seq, nil
		case errors.Is(err, ledger.ErrRefused) && lost == nil:
			return 0, err
		case !errors.Is(err, ledger.ErrRefused):
			lost = err
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return 0, fmt.Errorf("%w: the log's answer was lost: %w", ledger.ErrUnavailable, lost)
		}
		cfg.Logger.Warn("append: no definite answer; sending again", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
