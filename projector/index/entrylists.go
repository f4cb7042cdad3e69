package index

import (
	"bytes"
	"slices"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// An EntryList names the entries of a store that have one thing in common, and that the
// index finds without reading the others.
type EntryList struct {
	family byte     // of the rows that name the entries
	parts  []string // that their keys begin with
	made   []Prefix // of the tuples whose versions name entries of the list too
}

// EntriesOfActor names the entries of an actor.
func EntriesOfActor(actor string) EntryList {
	return EntryList{family: familyActor, parts: []string{actor}}
}

// EntriesOfTicket names the entries whose commands have a ticket, which is not empty.
func EntriesOfTicket(ticket string) EntryList {
	return EntryList{family: familyTicket, parts: []string{ticket}}
}

// RejectedEntries names the entries that were rejected.
func RejectedEntries() EntryList { return EntryList{family: familyRejected} }

// EntriesOfObject names the entries that ask for a grant or a revoke on an object,
// whatever was decided.
func EntriesOfObject(o tuple.Object) EntryList {
	return EntryList{familyObject, []string{o.Type, o.ID}, []Prefix{ByObject(o, "", nil, "")}}
}

// EntriesOfSubject names the entries that ask for a grant to a subject or a revoke from
// it, whatever was decided.
func EntriesOfSubject(s tuple.Subject) EntryList {
	return EntryList{familySubject, []string{s.Type, s.Relation, s.ID}, []Prefix{BySubject(s, "", "")}}
}

// Gathered are the first revisions of an [EntryList] in a range.
type Gathered struct {
	Revisions []ledger.Revision // ascending, each once
	To        ledger.Revision   // these are all on the list up to here
}

// Gather returns the first revisions on the list from from to to, at most n of them, at
// least 1. Versions of tuples come in the order of tuples, so that all of the list are
// passed to find the first: it returns false once it has read more than most rows of them.
// It holds at most 2n revisions.
func (v *View) Gather(l EntryList, from, to ledger.Revision, n, most int) (Gathered, bool, error) {
	to = min(to, v.rev)
	g := Gathered{To: to}
	if from > to {
		return g, true, nil
	}
	rows := slices.Clip(appendParts(nil, l.family, v.head.Store, l.parts...))
	start := append(appendRevision(rows, from), plain)
	end := append(appendRevision(rows, to), plain, plain) // just after the last
	passed := 0
	err := v.r.scan(start, end, func(key, _ []byte) (bool, error) {
		if len(g.Revisions) == n { // there are more
			g.To = g.Revisions[n-1]
			return false, nil
		}
		g.Revisions = append(g.Revisions, revisionOf(key))
		passed++
		return true, v.look(passed)
	})
	if err != nil {
		return Gathered{}, false, err
	}
	for _, p := range l.made {
		if ok, err := v.gatherVersions(p, from, n, most, &g); err != nil || !ok {
			return Gathered{}, false, err
		}
	}
	return g, true, nil
}

// gatherVersions adds the revisions from from on that made versions of tuples, and keeps
// the first n. It returns false once it has read more than most rows.
func (v *View) gatherVersions(p Prefix, from ledger.Revision, n, most int, g *Gathered) (bool, error) {
	s, err := v.r.begin()
	if err != nil {
		return false, err
	}
	defer v.r.end()
	trim := func() {
		slices.Sort(g.Revisions)
		g.Revisions = slices.Compact(g.Revisions)
		if len(g.Revisions) > n {
			g.Revisions = g.Revisions[:n]
			g.To = g.Revisions[n-1]
		}
	}
	prefix := p.append(nil, v.head.Store) // ends with plain, as every part does
	passed := 0
	for ok := s.SeekGE(prefix); ok; {
		key := s.Key()
		if !bytes.HasPrefix(key, prefix) {
			break
		}
		if passed++; passed > most {
			return false, nil
		}
		if err := v.look(passed); err != nil {
			return false, err
		}
		rev := version(key)
		if rev < from { // and so are all older ones of the tuple
			ok = s.NextPrefix()
			continue
		}
		if rev <= g.To {
			if g.Revisions = append(g.Revisions, rev); len(g.Revisions) == 2*n {
				trim()
			}
		}
		ok = s.Next()
	}
	trim()
	return true, readError(s.Error())
}

// look calls Stop if it is time to, after so many rows.
func (v *View) look(passed int) error {
	if passed%stopEvery == 0 && v.Stop != nil {
		return v.Stop()
	}
	return nil
}
