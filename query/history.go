package query

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// A HistoryQuestion asks what became of tuples. Exactly one field is not zero.
type HistoryQuestion struct {
	Tuple   tuple.Tuple
	Object  tuple.Object  // all tuples that grant something on it
	Subject tuple.Subject // all tuples that grant it something
}

// Key names the question.
func (q *HistoryQuestion) Key() [16]byte {
	return key(appendTexts([]byte{'h'}, q.Tuple.String(), q.Object.String(), q.Subject.String()))
}

// Known returns an [*InvalidError] about a field for a type or relation that no model of
// the store has had up to the view's revision.
func (q *HistoryQuestion) Known(v *index.View) error {
	switch {
	case q.Object != (tuple.Object{}):
		return hadType(v, "object", q.Object.Type)
	case q.Subject != (tuple.Subject{}):
		return hadSubject(v, "subject", q.Subject)
	}
	if err := hadType(v, "tuple.object", q.Tuple.Object.Type); err != nil {
		return err
	}
	if err := hadRelation(v, "tuple.relation", q.Tuple.Object.Type, q.Tuple.Relation); err != nil {
		return err
	}
	return hadSubject(v, "tuple.subject", q.Tuple.Subject)
}

func (q *HistoryQuestion) prefix() index.Prefix {
	switch {
	case q.Object != (tuple.Object{}):
		return index.ByObject(q.Object, "", nil, "")
	case q.Subject != (tuple.Subject{}):
		return index.BySubject(q.Subject, "", "")
	}
	s := q.Tuple.Subject
	return index.ByObject(q.Tuple.Object, q.Tuple.Relation, &model.Kind{Type: s.Type, Relation: s.Relation}, s.ID)
}

// A HistoryKind is what became of a tuple.
type HistoryKind byte

// The kinds of history.
const (
	HistoryGranted HistoryKind = 1 + iota // it was granted, and was not live before
	HistoryChanged                        // it was granted with other terms than before
	HistoryRevoked                        // it was revoked
	HistoryExpired                        // its expiry came while it was live
)

// A HistoryItem is one thing that became of a tuple.
type HistoryItem struct {
	Kind     HistoryKind
	Time     int64           // the command's log time, or the expiry: nanoseconds since the Unix epoch
	Revision ledger.Revision // of the command; of an expiry, of the one that had granted it
	// Granted is the tuple as it is granted from then on; revoked or expired, as it was.
	Granted index.Granted
	Place   string // for [NewHistory] to go on after the item
}

// A happening is an item by its place in the history, without what the index tells again.
//
// Items are in the order of their times, then of their revisions, then of their tuples. In
// terms of revisions alone, which need not be looked up: a command stands at its revision,
// and an expiry after the newest revision whose log time is before it. So of a command and
// an expiry of the same moment the expiry comes first, as a grant no longer counts from
// that moment on.
type happening struct {
	anchor   ledger.Revision
	expires  int64 // of an expiry, else 0
	revision ledger.Revision
	tuple    tuple.Tuple
	kind     HistoryKind
}

func (h *happening) compare(k *happening) int {
	return cmp.Or(cmp.Compare(h.anchor, k.anchor), cmp.Compare(h.expires, k.expires),
		cmp.Compare(h.revision, k.revision), h.tuple.Compare(k.tuple))
}

// place returns the happening as text, which readPlace reads.
func (h *happening) place() string {
	return fmt.Sprintf("%d,%d,%d,%s", h.anchor, h.expires, h.revision, h.tuple)
}

// readPlace reads what place returned, or returns an [ErrPageToken].
func readPlace(text string) (h happening, err error) {
	parts := strings.SplitN(text, ",", 4)
	if len(parts) != 4 {
		return h, ErrPageToken
	}
	var failed [3]error
	var anchor, revision uint64
	anchor, failed[0] = strconv.ParseUint(parts[0], 10, 64)
	h.expires, failed[1] = strconv.ParseInt(parts[1], 10, 64)
	revision, failed[2] = strconv.ParseUint(parts[2], 10, 64)
	h.anchor, h.revision = ledger.Revision(anchor), ledger.Revision(revision)
	h.tuple, err = tuple.Parse(parts[3])
	if err != nil || failed != [3]error{} {
		return happening{}, ErrPageToken
	}
	return h, nil
}

// historyWindow is the window of a new history.
const historyWindow = 1 << 15

// A History tells what became of tuples, in order, up to a moment, a step at a time, each
// step at a view of its own but of the same revision. Versions come in the order of tuples
// and not of time, so that all are passed to find the first items; it holds some ten
// thousand of them, and passes all again when these are told. It is used by one goroutine.
type History struct {
	// Window is how many items are held, until twice as many are found. It may be changed
	// before the first step.
	Window int

	prefix index.Prefix
	moment int64
	after  happening // the last that was told
	found  []happening
	all    bool // nothing comes after found
}

// NewHistory returns the history of what q asks about, after an item by its Place ("" for
// all), up to a moment in nanoseconds since the Unix epoch: an expiry that comes later is
// not told. A place that no item has is an [ErrPageToken].
func NewHistory(q HistoryQuestion, moment int64, after string) (*History, error) {
	h := &History{prefix: q.prefix(), moment: moment, Window: historyWindow}
	if after != "" {
		var err error
		if h.after, err = readPlace(after); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Next returns the next items, at most n of them; none at the end. All views must be of
// one revision. The view's Stop can end it early.
func (h *History) Next(v *index.View, n int) ([]HistoryItem, error) {
	if len(h.found) == 0 && !h.all {
		if err := h.gather(v); err != nil {
			return nil, err
		}
	}
	n = min(n, len(h.found))
	items := make([]HistoryItem, n)
	for i := range items {
		var err error
		if items[i], err = tell(v, &h.found[i]); err != nil {
			return nil, err
		}
	}
	if n > 0 {
		h.after = h.found[n-1]
		h.found = h.found[n:]
	}
	return items, nil
}

// tell returns a happening as an item.
func tell(v *index.View, h *happening) (HistoryItem, error) {
	item := HistoryItem{Kind: h.kind, Time: h.expires, Revision: h.revision, Place: h.place()}
	var err error
	if h.expires == 0 {
		if item.Time, err = v.TimeOf(h.revision); err != nil {
			return item, err
		}
	}
	as := h.revision
	if h.kind == HistoryRevoked {
		as-- // as it was
	}
	n, ok, err := v.NewestUpTo(h.tuple, as)
	if err == nil && (!ok || !n.Live) {
		err = fmt.Errorf("%w: tuple %s has no grant at revision %d", index.ErrDamaged, h.tuple, as)
	}
	item.Granted = index.Granted{Tuple: n.Tuple, Grant: n.Grant, Revision: n.Revision}
	return item, err
}

// gather finds the next items: all, or the first of them.
func (h *History) gather(v *index.View) error {
	g := gathering{History: h, view: v}
	if err := g.lowest(); err != nil {
		return err
	}
	var newer index.Version // the version after the one at hand, if it is of the same tuple
	var failed error
	err := v.Versions(h.prefix, func(n index.Version) bool {
		if newer.Tuple != n.Tuple {
			failed = g.made(newer, index.Version{})
			newer = index.Version{}
		} else {
			failed = g.made(newer, n)
		}
		if failed == nil {
			failed = g.expiry(n, newer)
		}
		newer = n
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err == nil {
		err = g.made(newer, index.Version{})
	}
	if err != nil {
		return err
	}
	g.trim()
	h.all = !g.full
	return nil
}

// A gathering is one passing of all versions.
type gathering struct {
	*History
	view *index.View
	full bool // there are more than those found, from the last of them on

	from int64 // no expiry up to here stands after History.after
	next ledger.Revision
	to   int64 // log time of the revision next, after which no expiry stands before the last found
}

// lowest sets g.from.
func (g *gathering) lowest() (err error) {
	if g.after.anchor > 0 {
		g.from, err = g.view.TimeOf(g.after.anchor)
	}
	return err
}

// made adds what a version made of its tuple; older is the version before it, if any.
func (g *gathering) made(n, older index.Version) error {
	if n.Revision == 0 {
		return nil
	}
	h := happening{anchor: n.Revision, revision: n.Revision, tuple: n.Tuple, kind: HistoryGranted}
	if !g.wanted(&h) {
		return nil
	}
	switch {
	case !n.Live:
		h.kind = HistoryRevoked
	case older.Live:
		at, err := g.view.TimeOf(n.Revision)
		if err != nil {
			return err
		}
		if e := older.Grant.ExpiresAt; e == 0 || at < e {
			h.kind = HistoryChanged
		}
	}
	g.add(h)
	return nil
}

// expiry adds that a version expired, if it did while it was live; newer is the version
// after it, if any.
func (g *gathering) expiry(n, newer index.Version) error {
	e := n.Grant.ExpiresAt
	if !n.Live || e == 0 || e <= g.from || g.full && n.Revision > g.found[g.Window-1].anchor {
		return nil
	}
	if newer.Revision == 0 {
		if e > g.moment {
			return nil
		}
	} else if at, err := g.view.TimeOf(newer.Revision); err != nil || at < e {
		return err
	}
	if g.full {
		if next := g.found[g.Window-1].anchor + 1; next <= g.view.Revision() {
			if next != g.next {
				at, err := g.view.TimeOf(next)
				if err != nil {
					return err
				}
				g.next, g.to = next, at
			}
			if e > g.to {
				return nil
			}
		}
	}
	anchor, err := g.view.RevisionAt(e - 1)
	if err != nil {
		return err
	}
	if h := (happening{anchor, e, n.Revision, n.Tuple, HistoryExpired}); g.wanted(&h) {
		g.add(h)
	}
	return nil
}

// wanted reports whether an item may be one of those looked for.
func (g *gathering) wanted(h *happening) bool {
	return h.compare(&g.after) > 0 && !(g.full && h.compare(&g.found[g.Window-1]) > 0)
}

func (g *gathering) add(h happening) {
	if g.found = append(g.found, h); len(g.found) == 2*g.Window {
		g.trim()
	}
}

// trim keeps the first of those found.
func (g *gathering) trim() {
	slices.SortFunc(g.found, func(a, b happening) int { return a.compare(&b) })
	if len(g.found) > g.Window {
		g.found, g.full = g.found[:g.Window], true
	}
}
