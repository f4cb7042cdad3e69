package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
)

// Entries are checked and folded a piece at a time: so many of them, or so many bytes
// of commands. One piece is read while another is folded.
const (
	pieceEntries = 1024
	pieceBytes   = 1 << 20
)

// Options of [Verify]. All are optional, but without Scratch no outcome is verified.
type Options struct {
	// Key is the key that the bundle must be signed by, as its reader knows it from
	// elsewhere. Zero: the bundle's own key is taken; then the bundle is whole, and who
	// made it is not shown.
	Key seal.Key

	// Since is an older checkpoint of the store, a signed note, or nil: the bundle must
	// begin with the entries that it is of. The bundle has to begin at revision 1.
	Since []byte

	// Part allows the bundle to lack entries of its checkpoint's tree, at its beginning or
	// its end. Otherwise that is an [ErrPart]: anyone can cut a bundle there, without the
	// key, and what is left verifies.
	Part bool

	// Scratch is the index that the entries are folded into; its directory must be
	// empty and is the caller's to remove. Nil: nothing is folded. If it cannot be
	// written, the error is an [ErrScratch].
	Scratch *index.Options

	// Progress, if set, is called now and then with the entries that were read so far
	// and those of the bundle. Its error ends the verification.
	Progress func(done, total uint64) error

	// Tuple, if set, is called for each of the final tuples, in order, if the entries
	// were folded. All else is verified by then. Its error ends the verification.
	Tuple func(FinalTuple) error
}

// ErrScratch says that the scratch index cannot be written, most often because its disk is full.
// It says nothing about the bundle. Verify again with more room.
var ErrScratch = errors.New("the scratch index cannot be written")

// ErrPart says that nothing is wrong with the bundle but that it is not whole, and a whole one
// was asked for. If a part is what is wanted, ask with Part of [Options].
var ErrPart = errors.New("the bundle is not whole")

// A Result is what [Verify] found a bundle to be.
type Result struct {
	Header
	From, To   int64                         // log times of the first and last entry, nanoseconds since the Unix epoch
	Outcomes   map[ledger.OutcomeKind]uint64 // entries by outcome
	Checkpoint seal.Checkpoint               // its signature is by Key, and its tree has all entries
	Key        seal.Key                      // that signed it
	Pinned     bool                          // Key is the one that was asked for, and not the bundle's word
	Since      *seal.Checkpoint              // the older checkpoint that the entries go on from; nil if none was given

	// Folded says that every outcome was decided again, from the entries alone, and is
	// the same. Otherwise nothing is known of outcomes but that they were signed.
	Folded     bool
	Tuples     uint64      // of the final tuples, if Folded; see [FinalTuple]
	TuplesHash ledger.Hash // SHA-256 of their lines, if Folded
}

// Missing names the entries of the checkpoint's tree that the bundle does not have, as
// "entries 51 to 76": those before it and those after it; none of a whole bundle.
func (r *Result) Missing() []string {
	var missing []string
	for _, span := range [...][2]ledger.Revision{{1, r.First - 1}, {r.Last + 1, r.Checkpoint.Size}} {
		switch first, last := span[0], span[1]; {
		case first == last:
			missing = append(missing, fmt.Sprintf("entry %d", first))
		case first < last:
			missing = append(missing, fmt.Sprintf("entries %d to %d", first, last))
		}
	}
	return missing
}

// Verify reads a bundle in one pass, in bounded memory, and shows that
//
//   - it has the one form that FORMAT.md gives it, down to the last byte;
//   - every entry stands in its place and holds the leaf hash of the one before it;
//   - the tree of the checkpoint has the last entry, and thereby all of them; if the
//     bundle has the whole tree, its root is computed from the leaves as well, and it
//     has, unless a part is allowed;
//   - the checkpoint is signed by the key, for this store;
//   - the entries begin with those of the older checkpoint, if one is given;
//   - every outcome is what the fold decides, if the bundle begins at revision 1: its
//     entries are folded again, into the scratch index. The outcomes of the bundle are
//     compared with what is decided, and read for nothing else.
//
// A fault of the bundle is a [BundleError], also where key or older checkpoint are others.
// Bytes and links of a piece of entries are checked before it is folded, and the
// checkpoint before the last piece, so an entry that was changed is told as such even if
// it is also decided otherwise. Of faults in two pieces the earlier one is told. Any
// other error means that something could not be read.
func Verify(ctx context.Context, src io.Reader, o Options) (Result, error) {
	r, err := NewReader(src)
	if err != nil {
		return Result{}, err
	}
	v := &verification{o: &o, reader: r, result: Result{Header: r.Header(), Outcomes: map[ledger.OutcomeKind]uint64{}, Pinned: !o.Key.IsZero()}}
	if err := v.readSince(); err != nil {
		return Result{}, err
	}
	v.result.Folded = o.Scratch != nil && v.result.First == 1
	if !v.result.Folded {
		if err := v.read(ctx, func([]Leaf) error { return nil }); err != nil {
			return Result{}, err
		}
		return v.result, nil
	}
	folding, stop := context.WithCancel(ctx)
	defer stop()
	pieces := make(chan []Leaf, 1)
	folded := make(chan error, 1)
	go func() { // ends when pieces is closed, folding fails, or its context ends
		folded <- v.fold(folding, pieces)
	}()
	var failed error // of the fold
	err = v.read(ctx, func(piece []Leaf) error {
		select {
		case pieces <- piece:
			return nil
		case failed = <-folded:
			return failed
		}
	})
	if failed != nil {
		return Result{}, failed
	}
	var fault *BundleError
	if v.cut = err != nil; v.cut && !errors.As(err, &fault) {
		stop() // otherwise the pieces before a fault are folded, because theirs comes first
	}
	close(pieces)
	if failed = <-folded; err == nil || errors.As(failed, &fault) {
		err = failed
	}
	if err != nil {
		return Result{}, err
	}
	return v.result, nil
}

// A verification is one run of Verify. Its goroutine of the fold writes Tuples and
// TuplesHash of the result, and the other one everything else.
type verification struct {
	o      *Options
	reader *Reader
	result Result
	leaves leaves      // the tree of the entries, if they begin at revision 1
	begins ledger.Hash // root of the tree when it had the size of Result.Since
	cut    bool        // the pieces are not all of the bundle; set before they are closed
}

// readSince reads the older checkpoint, whose signature is verified once the key is known.
func (v *verification) readSince() error {
	if v.o.Since == nil {
		return nil
	}
	c, err := seal.ReadNote(v.o.Since)
	if err != nil {
		return fmt.Errorf("the older checkpoint: %w", err)
	}
	store, err := c.Store()
	if err != nil {
		return fmt.Errorf("the older checkpoint: %w", err)
	}
	switch h := v.result.Header; {
	case store != h.Store:
		return faulty(0, "the older checkpoint is of store %s, the bundle is of store %s", store, h.Store)
	case h.First != 1:
		return faulty(0, "the bundle begins at revision %d, so it cannot show that its entries go on from the older checkpoint; one that begins at revision 1 can", h.First)
	case c.Size > h.Last:
		return faulty(0, "the older checkpoint is of %d entries, the bundle ends at revision %d", c.Size, h.Last)
	}
	v.result.Since = &c
	return nil
}

// read reads the whole bundle and hands its entries on in pieces: each when its bytes
// and links are in order, and the last when the checkpoint is too.
func (v *verification) read(ctx context.Context, hand func([]Leaf) error) error {
	h := &v.result.Header
	total := uint64(h.Last-h.First) + 1
	var piece []Leaf
	var last Leaf
	size, done := 0, uint64(0)
	for leaf, err := range v.reader.Entries() {
		if err != nil {
			return err
		}
		if len(piece) == pieceEntries || size >= pieceBytes {
			if err := v.pass(ctx, piece, done, total, hand); err != nil {
				return err
			}
			piece, size = nil, 0
		}
		e := leaf.Entry
		if done == 0 {
			v.result.From = e.Time
		}
		v.result.Outcomes[e.Outcome.Kind]++
		if h.First == 1 {
			v.leaves.add(leaf.Hash)
			if c := v.result.Since; c != nil && c.Size == e.Revision {
				v.begins = v.leaves.root()
			}
		}
		piece, last = append(piece, leaf), leaf
		size += len(e.Raw)
		done++
	}
	v.result.To = last.Entry.Time
	t, err := v.reader.Trailer()
	if err != nil {
		return err
	}
	if err := v.vouch(t, last); err != nil {
		return err
	}
	return v.pass(ctx, piece, done, total, hand)
}

func (v *verification) pass(ctx context.Context, piece []Leaf, done, total uint64, hand func([]Leaf) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := hand(piece); err != nil {
		return err
	}
	if v.o.Progress == nil {
		return nil
	}
	return v.o.Progress(done, total)
}

// vouch verifies that the trailer vouches for all entries up to the last.
func (v *verification) vouch(t Trailer, last Leaf) error {
	h := v.result.Header
	key, err := seal.ParseKey(t.Key)
	if err != nil {
		return faulty(0, "its public key: %w", err)
	}
	if v.result.Pinned && key != v.o.Key {
		return faulty(0, "it is signed by the key %s, and should be signed by %s", key, v.o.Key)
	}
	c, err := key.Open(h.Store, t.Note)
	if err != nil {
		return faulty(0, "its checkpoint: %s", reason(err))
	}
	v.result.Key, v.result.Checkpoint = key, c
	if c.Size < h.Last {
		return faulty(0, "its checkpoint is of %d entries, and the bundle ends at revision %d", c.Size, h.Last)
	}
	if h.First == 1 && c.Size == h.Last && v.leaves.root() != c.Root {
		return faulty(h.Last, "the tree of all entries up to it has the root %x, and %x was signed: it, or an entry before it, is not as it was recorded", v.leaves.root(), c.Root)
	}
	if err := seal.CheckInclusion(h.Last, c.Size, last.Hash, t.Proof, c.Root); err != nil {
		return faulty(h.Last, "it is not as it was recorded, or its proof is damaged: %s", reason(err))
	}
	if missing := v.result.Missing(); len(missing) > 0 && !v.o.Part {
		return faulty(0, "%w: it does not have %s of the %d that were signed", ErrPart, strings.Join(missing, ", nor "), c.Size)
	}
	if v.result.Since == nil {
		return nil
	}
	older, err := key.Open(h.Store, v.o.Since)
	if err != nil {
		return faulty(0, "the older checkpoint: %s", reason(err))
	}
	if older.Root != v.begins {
		return faulty(0, "its first %d entries are not those that the older checkpoint was signed for: that root is %x, and theirs is %x", older.Size, older.Root, v.begins)
	}
	return nil
}

// reason returns what err says beside that something does not verify, which is what every
// fault of a bundle says.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), seal.ErrUnverified.Error()+": ")
}

// fold decides all entries again, and then tells the final tuples.
func (v *verification) fold(ctx context.Context, pieces <-chan []Leaf) (err error) {
	var x *index.Index
	var f *projector.Refolder
	options := *v.o.Scratch
	sink := index.NewSink(options.FS)
	options.FS = sink
	defer func() {
		if x != nil {
			err = errors.Join(err, f.Close(), x.Close())
		}
		if full := sink.Err(); full != nil { // what the index told since is worth nothing
			err = fmt.Errorf("%w: %w", ErrScratch, full)
		}
	}()
	for piece := range pieces {
		if err := ctx.Err(); err != nil {
			return err
		}
		if x == nil { // whatever is wrong with a small bundle was found before
			if x, err = index.Open(options); err != nil {
				return fmt.Errorf("the scratch index: %w", err)
			}
			f = projector.NewRefolder(x, v.result.Store)
			if x.Position().Seq != 0 {
				return fmt.Errorf("the scratch index in %s is not empty", v.o.Scratch.Dir)
			}
		}
		for _, leaf := range piece {
			if err := v.refold(f, leaf); err != nil {
				return err
			}
			if err := sink.Err(); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil || v.cut {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	return v.finalTuples(ctx, x)
}

// refold decides one entry again.
func (v *verification) refold(f *projector.Refolder, leaf Leaf) error {
	hash, err := f.Entry(leaf.Entry)
	var differs *projector.RefoldError
	switch {
	case errors.As(err, &differs):
		return faulty(leaf.Entry.Revision, "%s", differs.Reason)
	case err != nil:
		return fmt.Errorf("fold entry %d again: %w", leaf.Entry.Revision, err)
	case hash != leaf.Hash:
		return faulty(leaf.Entry.Revision, "its leaf hash is %x, and folded again it is %x", leaf.Hash, hash)
	}
	return nil
}
