package decide

import (
	"errors"
	"fmt"

	"github.com/grantlog/grantlog/ledger"
)

// A Place is where the record of a store stands.
type Place struct {
	Revision ledger.Revision // of its newest entry; 0 if it has none
	Leaf     ledger.Hash     // that entry's leaf hash; zero if it has none
	Time     int64           // that entry's log time; 0 if it has none
	Deleted  bool            // that entry deletes the store
}

// A RefoldError is a recorded entry that the entries before it do not lead to.
type RefoldError struct {
	Store    ledger.ID
	Revision ledger.Revision
	Reason   string // what differs
}

func (e *RefoldError) Error() string {
	return fmt.Sprintf("store %s, revision %d: %s", e.Store, e.Revision, e.Reason)
}

// Again decides a recorded entry again, as the next of the store at that place, from the
// store's own entries before it: of s, nothing else is asked, except where the store is
// [ledger.System], whose entries decide what other stores are. The record is equal to the
// entry, or the error is a [*RefoldError] that says what differs; any other error means
// that the state could not be read.
//
// Whether there is an error is a rule of the fold, as what Decide returns is; what the
// error says is not.
func Again(s State, store ledger.ID, at Place, e *ledger.Entry) (Record, error) {
	differs := func(format string, args ...any) (Record, error) {
		return Record{}, &RefoldError{e.Store, e.Revision, fmt.Sprintf(format, args...)}
	}
	switch {
	case e.Store != store:
		return differs("it is an entry of another store, not of %s", store)
	case e.Revision != at.Revision+1:
		return differs("it comes after revision %d", at.Revision)
	case e.Prev != at.Leaf:
		return differs("it follows another entry than revision %d", at.Revision)
	case at.Revision > 0 && e.Time < at.Time:
		return differs("its time is before that of revision %d", at.Revision)
	case e.FoldVersion < 1 || e.FoldVersion > ledger.NewestFoldVersion:
		return differs("it was decided under fold version %d, which this program does not know; a newer one may", e.FoldVersion)
	}
	if store != ledger.System {
		s = &alone{s, store, at}
	}
	kind, _ := ledger.ParseSubject(e.Origin.Attester)
	in := Input{Kind: kind, Origin: e.Origin, Raw: e.Raw, Time: e.Time, Version: e.FoldVersion}
	// No command has an empty actor: such an entry keeps a message that was no envelope.
	var unread []*ledger.Rejection
	if e.Origin.Actor == "" && e.Origin.Method == ledger.MethodNone {
		unread = ledger.Unread(e)
		in.Malformed = unread[0]
	} else if err := e.Origin.Check(); err != nil {
		return differs("no message can have said its origin: %s", err)
	}
	r, ok, err := recordOf(s, store, in)
	if err == nil && ok && len(unread) > 1 && !r.Outcome.Equal(&e.Outcome) {
		in.Malformed = unread[1]
		r, ok, err = recordOf(s, store, in)
	}
	switch {
	case errors.Is(err, ledger.ErrFoldVersion):
		return differs("%s", err)
	case err != nil:
		return Record{}, err
	case !ok:
		return differs("its command is not one of this store")
	case r.Time != e.Time:
		return differs("its time is not the log time that its command gets")
	case !r.Outcome.Equal(&e.Outcome):
		return differs("its outcome was recorded as %s; decided again it is %s", &e.Outcome, &r.Outcome)
	}
	return r, nil
}

// recordOf decides a command again and returns what becomes of it in one store, false if
// it has no record there.
func recordOf(s State, store ledger.ID, in Input) (Record, bool, error) {
	records, err := Decide(s, in)
	for i := 0; i < len(records); i++ {
		if records[i].Store == store {
			return records[i], true, err
		}
	}
	return Record{}, false, err
}

// alone is a state in which there is nothing but one store, as its own entries made it.
type alone struct {
	State
	store ledger.ID
	at    Place
}

func (a *alone) Status(store ledger.ID) (Status, error) {
	switch {
	case store != a.store || a.at.Revision == 0:
		return None, nil
	case a.at.Deleted:
		return Deleted, nil
	}
	return Live, nil
}

func (a *alone) Command(store ledger.ID, actor string, id ledger.UUID) (Seen, bool, error) {
	if store != a.store {
		return Seen{}, false, nil
	}
	return a.State.Command(store, actor, id)
}

func (a *alone) LogTime(store ledger.ID) (int64, error) {
	if store != a.store || a.at.Revision == 0 {
		return 0, nil
	}
	return a.at.Time, nil
}
