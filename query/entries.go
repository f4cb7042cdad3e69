package query

import (
	"slices"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// An EntryFilter says which entries of a store are wanted: those that fit every field
// that is not zero. Subject, Object, Type, Relation and Kinds must fit one and the same
// change of the entry's command, whatever was decided about it. Bytes that are no command
// have no ticket, channel or change.
type EntryFilter struct {
	Actor           string
	Ticket          string
	Subject         tuple.Subject        // of a grant or revoke
	Object          tuple.Object         // of a grant or revoke
	Type            string               // of the object of a grant or revoke
	Relation        string               // of a grant or revoke
	Kinds           []ledger.ChangeKind  // one of these
	Outcomes        []ledger.OutcomeKind // one of these
	WithoutTicket   bool
	Channels        []string // one of these
	OutsideChannels []string // none of these
}

// Fits reports whether the entry is wanted.
func (f *EntryFilter) Fits(e *ledger.Entry) bool {
	switch {
	case f.Actor != "" && f.Actor != e.Origin.Actor,
		len(f.Outcomes) > 0 && !slices.Contains(f.Outcomes, e.Outcome.Kind):
		return false
	case f.Ticket == "" && !f.WithoutTicket && len(f.Channels) == 0 && len(f.OutsideChannels) == 0 && !f.ofChanges():
		return true
	}
	c, rejection := e.Command()
	if rejection != nil {
		c = &ledger.Command{}
	}
	switch {
	case f.Ticket != "" && f.Ticket != c.Ticket,
		f.WithoutTicket && c.Ticket != "",
		len(f.Channels) > 0 && !slices.Contains(f.Channels, c.Channel),
		slices.Contains(f.OutsideChannels, c.Channel):
		return false
	}
	return !f.ofChanges() || slices.ContainsFunc(c.Changes, f.FitsChange)
}

// ofChanges reports whether a field is about changes.
func (f *EntryFilter) ofChanges() bool {
	return f.ofTuples() || len(f.Kinds) > 0
}

// ofTuples reports whether a field is about the tuples of changes.
func (f *EntryFilter) ofTuples() bool {
	return f.Subject != (tuple.Subject{}) || f.Object != (tuple.Object{}) || f.Type != "" || f.Relation != ""
}

// FitsChange reports whether the fields about changes fit this one.
func (f *EntryFilter) FitsChange(ch ledger.Change) bool {
	if len(f.Kinds) > 0 && !slices.Contains(f.Kinds, ch.Kind) {
		return false
	}
	if !f.ofTuples() {
		return true
	}
	return (ch.Kind == ledger.Grant || ch.Kind == ledger.Revoke) &&
		(f.Subject == (tuple.Subject{}) || f.Subject == ch.Tuple.Subject) &&
		(f.Object == (tuple.Object{}) || f.Object == ch.Tuple.Object) &&
		(f.Type == "" || f.Type == ch.Tuple.Object.Type) &&
		(f.Relation == "" || f.Relation == ch.Tuple.Relation)
}

// lists returns the lists of the index on which an entry that fits stands, all of them.
func (f *EntryFilter) lists() (lists []index.EntryList) {
	if f.Ticket != "" {
		lists = append(lists, index.EntriesOfTicket(f.Ticket))
	}
	if f.Object != (tuple.Object{}) {
		lists = append(lists, index.EntriesOfObject(f.Object))
	}
	if f.Subject != (tuple.Subject{}) {
		lists = append(lists, index.EntriesOfSubject(f.Subject))
	}
	if len(f.Outcomes) > 0 && !slices.ContainsFunc(f.Outcomes, func(k ledger.OutcomeKind) bool { return k != ledger.Rejected }) {
		lists = append(lists, index.RejectedEntries())
	}
	if f.Actor != "" {
		lists = append(lists, index.EntriesOfActor(f.Actor))
	}
	return lists
}

// An EntrySearch finds the entries of one store that fit a filter, in order, a step at a
// time, each step at a view of its own. It holds at most a few megabytes. It is used by
// one goroutine.
type EntrySearch struct {
	filter EntryFilter
	lists  []index.EntryList
	found  []ledger.Revision // that stand on a list, ascending
	to     ledger.Revision   // up to here these are all
}

// NewEntrySearch returns a search for the entries that fit f.
func NewEntrySearch(f EntryFilter) *EntrySearch { return &EntrySearch{filter: f, lists: f.lists()} }

const (
	// shortRange is how many entries are read one by one rather than looked up: those that
	// come while a stream follows.
	shortRange = 256
	// mostGathered is how many revisions of a list are held at most.
	mostGathered = 1 << 16
	// mostPassed is how many versions of tuples are passed to find which entries made them,
	// if there is another way.
	mostPassed = 1 << 20
	noLimit    = 1<<63 - 1
)

// Step looks at the entries from from on, up to the revision to or the view's, and calls
// yield for each that fits until it returns false. It reads at most n entries, and
// returns the revision from which to go on: that after the last entry of which it is
// known whether it fits. The view's Stop can end it early.
func (s *EntrySearch) Step(v *index.View, from, to ledger.Revision, n int, yield func(*ledger.Entry) bool) (ledger.Revision, error) {
	to = min(to, v.Revision())
	if from > to {
		return from, nil
	}
	if len(s.lists) == 0 || s.to < from && to-from < shortRange {
		return s.read(v, from, to, n, yield)
	}
	if s.to < from {
		if err := s.gather(v, from, to); err != nil {
			return from, err
		}
	}
	for len(s.found) > 0 && s.found[0] <= to {
		rev := s.found[0]
		if rev >= from {
			if n == 0 {
				return rev, nil
			}
			n--
			e, err := v.Entry(rev)
			if err != nil {
				return rev, err
			}
			s.found = s.found[1:]
			if s.filter.Fits(e) && !yield(e) {
				return rev + 1, nil
			}
			continue
		}
		s.found = s.found[1:]
	}
	return min(s.to, to) + 1, nil
}

// read is Step without the index.
func (s *EntrySearch) read(v *index.View, from, to ledger.Revision, n int, yield func(*ledger.Entry) bool) (ledger.Revision, error) {
	for e, err := range v.Entries(from) {
		if err != nil {
			return from, err
		}
		if n == 0 || e.Revision > to {
			break
		}
		n--
		from = e.Revision + 1
		if s.filter.Fits(e) && !yield(e) {
			break
		}
	}
	return from, nil
}

// gather sets s.found to revisions that stand on one or more of the lists. Which list is
// short is not known: so all are tried, with ever more patience, until one is known to
// its end. If none is, the one that reaches furthest leads.
func (s *EntrySearch) gather(v *index.View, from, to ledger.Revision) error {
	s.found, s.to = nil, 0
	for patience := shortRange; s.to == 0 && patience <= mostGathered; patience *= 16 {
		for _, l := range s.lists {
			g, ok, err := v.Gather(l, from, to, patience, patience)
			switch {
			case err != nil:
				return err
			case !ok || g.To < to:
			case s.to == 0:
				s.found, s.to = g.Revisions, to
			default:
				s.found = intersection(s.found, g.Revisions)
			}
		}
	}
	for i := 0; s.to == 0 && i < 2; i++ {
		most := [...]int{mostPassed, noLimit}[i]
		for _, l := range s.lists {
			g, ok, err := v.Gather(l, from, to, mostGathered, most)
			if err != nil {
				return err
			}
			if ok && g.To > s.to {
				s.found, s.to = g.Revisions, g.To
			}
		}
	}
	return nil
}

// intersection returns the revisions that are in both, which are ascending.
func intersection(a, b []ledger.Revision) (both []ledger.Revision) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			both = append(both, a[0])
			a, b = a[1:], b[1:]
		}
	}
	return both
}
