package index

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/grantlog/grantlog/ledger"
)

// A moment is what a past revision is asked for most: its log time and leaf hash.
type moment struct {
	store ledger.ID
	rev   ledger.Revision
	time  int64
	leaf  ledger.Hash
}

// An answer is the newest moment that is not after a time.
type answer struct {
	store  ledger.ID
	time   int64
	moment *moment // nil if the store had no entry then
}

// times remembers what questions about past revisions and times have read. What is in it
// never changes again, so nothing is ever taken back: each place holds one item with all
// that names it, and the next item that belongs there takes it. It is bounded, some 3 MiB.
type times struct {
	moments [1 << 12]atomic.Pointer[moment] // of revisions asked for lately
	marks   [1 << 15]atomic.Pointer[moment] // of revisions that searches began with
	answers [1 << 12]atomic.Pointer[answer] // of times asked for lately
}

// marksOfStore is about how many marks one store has at most, a few times fewer than
// there are places, so that they seldom meet.
const marksOfStore = 1 << 13

// kept is where an item is kept that n names in a store.
func kept[T any](places []atomic.Pointer[T], store ledger.ID, n uint64) *atomic.Pointer[T] {
	h := n
	for _, b := range store[8:] { // the random half of an id
		h = h*31 + uint64(b)
	}
	return &places[h*0x9e3779b97f4a7c15>>32*uint64(len(places))>>32]
}

// recall returns the moment of a revision if it is among those kept, or nil.
func recall(places []atomic.Pointer[moment], store ledger.ID, rev ledger.Revision) *moment {
	m := kept(places, store, uint64(rev)).Load()
	if m == nil || m.rev != rev || m.store != store {
		return nil
	}
	return m
}

// moment returns the moment of a revision up to the view's.
func (v *View) moment(rev ledger.Revision) (moment, error) {
	switch {
	case rev > v.rev:
		return moment{}, fmt.Errorf("revision %d of a view at %d: %w", rev, v.rev, ledger.ErrNotFound)
	case rev == 0:
		return moment{}, nil
	case rev == v.head.Revision:
		return moment{time: v.head.Time, leaf: v.head.Leaf}, nil
	case v.at != nil && v.at.rev == rev:
		return *v.at, nil
	}
	m := recall(v.x.times.moments[:], v.head.Store, rev)
	if m == nil {
		var err error
		if m, err = v.readMoment(rev); err != nil {
			return moment{}, err
		}
		kept(v.x.times.moments[:], v.head.Store, uint64(rev)).Store(m)
	}
	if rev == v.rev {
		v.at = m
	}
	return *m, nil
}

// readMoment reads the moment of a revision up to the head's.
func (v *View) readMoment(rev ledger.Revision) (*moment, error) {
	row, err := v.r.hashes(v.head.Store, rev)
	if err != nil {
		return nil, err
	}
	return &moment{v.head.Store, rev, row.time(), row.hash(0)}, nil
}

// RevisionAt returns the newest revision up to the view's whose log time is not after
// at, in nanoseconds since the Unix epoch; 0 if the store had no entry then. A time that
// was asked for lately costs nothing, another most often one or two short runs of rows,
// and never more than about twice the binary logarithm of the revisions. Later entries
// may still get a log time that is not after at, if at is not before that of [View.Head].
func (v *View) RevisionAt(at int64) (ledger.Revision, error) {
	if at >= v.head.Time || v.head.Revision == 0 {
		return v.rev, nil
	}
	m, err := v.momentAt(at)
	if m == nil {
		return 0, err
	}
	return min(m.rev, v.rev), nil
}

// momentAt returns the newest moment of the store that is not after a time before that of
// the head; nil if there is none.
//
// Such an answer holds for ever, and is kept: log times never run back, so every entry to
// come has the head's time or a later one, which is after the time asked for. Of the
// head's time itself that cannot be said: the next entry may have the same, and is then
// the answer.
func (v *View) momentAt(at int64) (*moment, error) {
	place := kept(v.x.times.answers[:], v.head.Store, uint64(at))
	if a := place.Load(); a != nil && a.time == at && a.store == v.head.Store {
		return a.moment, nil
	}
	m, err := v.search(at)
	if err != nil {
		return nil, err
	}
	place.Store(&answer{v.head.Store, at, m})
	if m != nil { // its time and leaf will be asked for
		kept(v.x.times.moments[:], v.head.Store, uint64(m.rev)).Store(m)
	}
	return m, nil
}

// A gap is where a search still has to look: the moment early is not after the time that
// is sought, and a later revision is.
type gap struct {
	early    *moment
	late     ledger.Revision
	lateTime int64
}

// inside returns how many revisions are within the gap.
func (g *gap) inside() ledger.Revision { return g.late - g.early.rev - 1 }

// cut leaves the part of the gap to which a moment within it leads.
func (g *gap) cut(m *moment, at int64) {
	if m.time <= at {
		g.early = m
	} else {
		g.late, g.lateTime = m.rev, m.time
	}
}

// middle returns the revision within the gap that is a multiple of the greatest power of
// two. Whatever the head is, searches cut at the same revisions; and however a gap was
// made, one of n revisions is cut about log2(n) times so, as each cut uses up a bit in
// which the numbers at its ends differ.
func (g *gap) middle() ledger.Revision {
	last := g.late - 1
	k := bits.Len64(uint64(g.early.rev^last)) - 1
	return last >> k << k
}

// guess returns the revision that is as far through the gap as the time is: where the
// answer is if entries came evenly.
func (g *gap) guess(at int64) ledger.Revision {
	// Differences modulo 2^64 are right however far the times are apart.
	part, whole := uint64(at)-uint64(g.early.time), uint64(g.lateTime)-uint64(g.early.time)
	hi, lo := bits.Mul64(uint64(g.inside()), part)
	q, _ := bits.Div64(hi, lo, whole) // part < whole
	return g.early.rev + ledger.Revision(q)
}

// search is momentAt without what is kept of answers.
//
// It cuts the gap between the first entry and the head at middles, as long as those are
// kept. Then it reads rows: a run where the answer should be if entries came evenly, and if
// it is not there the next middle, in turn, so that times of whatever kind cost at most
// twice what cutting at middles alone does. The middles that the store has few enough of
// are kept.
func (v *View) search(at int64) (*moment, error) {
	first, err := v.mark(1)
	if err != nil || first.time > at {
		return nil, err
	}
	g := gap{first, v.head.Revision, v.head.Time}
	guess := true
	for g.early.rev+1 < g.late {
		middle := g.middle()
		m := recall(v.x.times.marks[:], v.head.Store, middle)
		switch {
		case m != nil:
		case guess || g.inside() <= runRows:
			if err := v.run(&g, at); err != nil {
				return nil, err
			}
			guess = false
			continue
		default:
			if m, err = v.mark(middle); err != nil {
				return nil, err
			}
			guess = true
		}
		g.cut(m, at)
	}
	return g.early, nil
}

// mark returns the moment of a revision that searches cut at, and keeps it if it is the
// first or one of about marksOfStore that are spread evenly.
func (v *View) mark(rev ledger.Revision) (*moment, error) {
	if m := recall(v.x.times.marks[:], v.head.Store, rev); m != nil {
		return m, nil
	}
	m, err := v.readMoment(rev)
	if err == nil && (rev == 1 || v.head.Revision>>bits.TrailingZeros64(uint64(rev)) <= marksOfStore) {
		kept(v.x.times.marks[:], v.head.Store, uint64(rev)).Store(m)
	}
	return m, err
}

// runRows is how many rows a run has: to step to the next row costs about a twentieth of
// seeking one.
const runRows = 32

// run reads rows one after the other within the gap, around the guess, and leaves the part
// of it to which they lead: nothing within it if it was no longer than a run.
func (v *View) run(g *gap, at int64) error {
	rev, n := g.early.rev+1, g.inside()
	if n > runRows {
		n = runRows
		if guess := g.guess(at); guess > rev+runRows/2 {
			rev = min(guess-runRows/2, g.late-runRows)
		}
	}
	var m moment // the newest of those read that is not after at
	for row, err := range v.r.hashRun(v.head.Store, rev, n) {
		if err != nil {
			return err
		}
		if t := row.time(); t > at {
			g.late, g.lateTime = rev, t
			break
		}
		m = moment{v.head.Store, rev, row.time(), row.hash(0)}
		rev++
	}
	if m.rev > 0 {
		g.early = &m
	}
	return nil
}
