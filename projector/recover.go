package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector/index"
)

// A Loss is what [Recover] found lost and, if told to, gave up.
type Loss struct {
	Cause   error           // why the replica was or would be quarantined; nil if nothing is lost
	Cuts    []ledger.Cut    // the losses that no epoch had accepted before
	Entries []*ledger.Entry // what this replica had folded and the log has not any more, by store
	Folded  ledger.Position // of the fresh index
}

// Recover leads out of a lost past. It folds the log as it is now into the index
// fresh, which must be absent, and names each part of the old index's past that the
// log has lost. With accept, it appends an epoch entry for each loss that the log has
// not accepted yet, on behalf of actor, for reason; without, it changes no log.
//
// Afterwards the caller puts fresh in the place of the old index. A replica that
// finds its loss accepted already, by a Recover elsewhere, appends nothing.
//
// A log that is missing, foreign or configured otherwise is no lost past, and
// returned as the error it is: that is to be put right where the log is kept.
func Recover(ctx context.Context, cfg Config, fresh index.Options, accept bool, actor, reason string) (*Loss, error) {
	if cfg.Shard == "" {
		cfg.Shard = "main"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	old, err := index.Open(cfg.Index)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	defer old.Close()
	loss := new(Loss)
	loss.Cause = Compare(ctx, cfg.Log, old.Position())
	if loss.Cause != nil && !errors.Is(loss.Cause, ledger.ErrRewound) && !errors.Is(loss.Cause, ledger.ErrGap) {
		return nil, loss.Cause
	}
	accepted, err := newestEpoch(ctx, cfg.Log, cfg.Shard)
	if err != nil {
		return nil, err
	}
	x, err := index.Open(fresh)
	if err != nil {
		return nil, fmt.Errorf("open the fresh index: %w", err)
	}
	defer x.Close()

	r := &recovery{cfg: cfg, old: old, fresh: x, accepted: accepted}
	if err := r.foldAll(ctx); err != nil {
		return nil, err
	}
	if loss.Cause == nil && len(r.cuts) > 0 {
		// Found only by reading on: what this replica has folded is all there.
		loss.Cause = fmt.Errorf("%w: messages %d to %d are missing", ledger.ErrGap, r.cuts[0].From, r.cuts[0].To)
	}
	if errors.Is(loss.Cause, ledger.ErrRewound) {
		from := r.divergence
		if from == 0 {
			from = r.last + 1
		}
		cut := ledger.Cut{From: from, To: max(from, old.Position().Seq)}
		known := slices.ContainsFunc(accepted.Cuts[min(len(accepted.Cuts), int(old.Position().Epoch)):], func(c ledger.Cut) bool {
			return !c.Missing && c.From <= cut.From
		})
		if !known {
			r.cuts = append(r.cuts, cut)
		}
	}
	loss.Cuts = r.cuts
	if loss.Entries, err = r.lostEntries(); err != nil {
		return nil, err
	}
	if accept {
		for _, cut := range r.cuts {
			accepted.Number++
			accepted.Cuts = append(slices.Clone(accepted.Cuts), cut)
			if err := appendEpoch(ctx, cfg, accepted, actor, reason); err != nil {
				return nil, fmt.Errorf("append epoch %d: %w", accepted.Number, err)
			}
		}
		if err := r.foldAll(ctx); err != nil {
			return nil, err
		}
	}
	loss.Folded = x.Position()
	return loss, nil
}

// appendEpoch appends the epoch, and settles a lost answer by looking: nothing else
// appends under the subject while an operator recovers.
func appendEpoch(ctx context.Context, cfg Config, e ledger.Epoch, actor, reason string) error {
	c := &ledger.Command{ID: ledger.NewUUID(), Store: ledger.System, Reason: reason,
		Changes: []ledger.Change{{Kind: ledger.AdvanceEpoch, Epoch: e}}}
	if r := c.Validate(); r != nil {
		return r
	}
	origin := ledger.Origin{Actor: actor, Method: ledger.MethodNone}
	data := ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: origin, Raw: ledger.AppendCommand(nil, c)}})
	_, err := cfg.Log.Append(ctx, ledger.Subject(cfg.Shard, ledger.EpochSubject, ""), data)
	if err != nil {
		if newest, look := newestEpoch(ctx, cfg.Log, cfg.Shard); look == nil && newest.Number == e.Number {
			return nil
		}
	}
	return err
}

// A recovery folds the log into a fresh index beside the old one, and compares.
type recovery struct {
	cfg        Config
	old, fresh *index.Index
	accepted   ledger.Epoch
	cuts       []ledger.Cut // gaps that no epoch accepts
	divergence uint64       // sequence of the first message that the old index folded otherwise; 0: none
	last       uint64       // newest sequence of the log
}

// foldAll folds everything that the log holds now.
func (r *recovery) foldAll(ctx context.Context) error {
	_, last, err := r.cfg.Log.Head(ctx)
	if err != nil {
		return err
	}
	r.last = last
	f := newFolder(r.cfg, r.fresh)
	defer f.close()
	f.skip = func(_ context.Context, next, found uint64) error {
		cut := ledger.Cut{From: next, To: found - 1, Missing: true}
		if !slices.Contains(r.accepted.Cuts, cut) && !slices.Contains(r.cuts, cut) {
			r.cuts = append(r.cuts, cut)
		}
		return nil
	}
	f.recorded = func(seq uint64, store ledger.ID, rev ledger.Revision, leaf ledger.Hash) {
		if r.divergence != 0 || seq > r.old.Position().Seq {
			return
		}
		if was, err := leafAt(r.old, store, rev); err != nil || was != leaf {
			r.divergence = seq
		}
	}
	if f.pos.Seq >= last {
		return nil
	}
	for m, err := range r.cfg.Log.Read(ctx, f.pos.Seq+1) {
		if errors.Is(err, ledger.ErrGap) && f.pos.Seq < last {
			// The newest messages are counted, and are not there.
			if err := f.commit(); err != nil {
				return err
			}
			return f.skip(ctx, f.pos.Seq+1, last+1)
		}
		if err != nil {
			return err
		}
		if err := f.message(ctx, &m); err != nil {
			return err
		}
		if f.messages >= 64 || m.Seq >= last {
			if err := f.commit(); err != nil {
				return err
			}
		}
		if m.Seq >= last {
			break
		}
	}
	return ctx.Err()
}

// lostEntries returns the entries of the old index that the fresh one has not, or has
// otherwise.
func (r *recovery) lostEntries() ([]*ledger.Entry, error) {
	var lost []*ledger.Entry
	err := eachHead(r.old, func(h index.Head) error {
		for rev := ledger.Revision(1); rev <= h.Revision; rev++ {
			was, err := leafAt(r.old, h.Store, rev)
			if err != nil {
				return err
			}
			is, err := leafAt(r.fresh, h.Store, rev)
			if err == nil && is == was {
				continue
			}
			if err != nil && !errors.Is(err, ledger.ErrNotFound) {
				return err
			}
			e, err := entryAt(r.old, h.Store, rev)
			if err != nil {
				return err
			}
			lost = append(lost, e)
		}
		return nil
	})
	return lost, err
}
