package audit

import (
	"context"
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector/index"
)

// MaxChunk is the most bytes of a bundle that [Export] sends at once.
const MaxChunk = 256 << 10

// NewTrailer returns what vouches for the entries of a store up to last: the note, which
// must be a checkpoint that the key signed of a tree that v has and that has the entry.
func NewTrailer(v *index.View, last ledger.Revision, note []byte, key seal.Key) (Trailer, error) {
	c, err := key.Open(v.Store(), note)
	if err != nil {
		return Trailer{}, err
	}
	proof, err := seal.ProveInclusion(last, c.Size, v)
	if err != nil {
		return Trailer{}, fmt.Errorf("prove revision %d in the tree of %d: %w", last, c.Size, err)
	}
	return Trailer{Note: note, Key: key.String(), Proof: proof}, nil
}

// Export sends the bundle of h and t in order, in chunks of 1 to [MaxChunk] bytes, each
// with the entries that are whole by then. A chunk is the receiver's only until it returns.
//
// It reads the entries through views that view opens, each for one chunk: an export may
// take long, and an open view keeps from the index what it could give up. Each view must
// have all revisions of h. That entries never change makes the chunks one bundle.
func Export(ctx context.Context, h Header, t Trailer, view func(context.Context) (*index.View, error), send func(chunk []byte, done uint64) error) error {
	buf := AppendHeader(nil, h)
	for next := h.First; next <= h.Last; {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := view(ctx)
		if err != nil {
			return err
		}
		if v.Store() != h.Store || v.Revision() < h.Last {
			defer v.Close()
			return fmt.Errorf("%w: the view is of revision %d of store %s", ledger.ErrUnavailable, v.Revision(), v.Store())
		}
		for e, err := range v.Entries(next) {
			if err != nil {
				v.Close()
				return fmt.Errorf("read revision %d: %w", next, err)
			}
			buf = AppendEntry(buf, e)
			if next++; next > h.Last || len(buf) >= MaxChunk/2 {
				break
			}
		}
		v.Close()
		if next > h.Last {
			buf = AppendTrailer(buf, t)
		}
		done := uint64(next - h.First)
		for len(buf) > MaxChunk {
			if err := send(buf[:MaxChunk], done-1); err != nil {
				return err
			}
			buf = buf[MaxChunk:]
		}
		if err := send(buf, done); err != nil {
			return err
		}
		buf = nil
	}
	return nil
}
