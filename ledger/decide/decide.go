// Package decide is the fold's decision: what becomes of one command, given the
// state just before it and its place in the order of the log.
//
// [Decide] is a pure function of its input and of the [State] of the entry's store.
// It asks no clock, draws no random number, ranges over no map, starts no goroutine
// and calls no library whose answers change between releases. Therefore every
// replica reaches the same outcome, and a store's entries alone, taken from an
// export, decide the same again.
//
// The rules are those of fold versions 1 and 2. What is in force as a version never
// changes: a new rule asks for a new version, and golden logs in testdata hold each
// version in place for ever.
package decide

import (
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Status is what a store is.
type Status byte

// The statuses. Their numbers are part of the index format.
const (
	None      Status = iota // never created
	Live                    // takes commands; [ledger.System] always is
	Deleted                 // closed for ever; its id is never used again
	Restoring               // takes the entries that another log recorded of it, and nothing else
	GivenUp                 // deleted while it was restoring: closed for ever, and not whole
)

func (s Status) String() string {
	switch s {
	case None:
		return "none"
	case Live:
		return "live"
	case Deleted:
		return "deleted"
	case Restoring:
		return "restoring"
	case GivenUp:
		return "given up"
	}
	return fmt.Sprintf("status %d", byte(s))
}

// State is what deciding reads: everything just before the command, with all
// commands that stand earlier in the log applied, those of the same batch too.
//
// An error means that the state could not be read. It stops the fold and is never an
// outcome.
type State interface {
	// Status returns what the store is. For ledger.System it is not asked.
	Status(store ledger.ID) (Status, error)
	// Model returns the store's model of that id, or its newest for the zero id; nil
	// if there is none.
	Model(store, id ledger.ID) (*model.Model, error)
	// Grant returns the newest version of the tuple, false if it was never granted or
	// is revoked. Whether it has expired is not the state's business.
	Grant(store ledger.ID, t tuple.Tuple) (model.Grant, bool, error)
	// Command returns what claimed the id in the store for the actor; see [Record.Claims].
	Command(store ledger.ID, actor string, id ledger.UUID) (Seen, bool, error)
	// Assertions returns the newest of the store's model of that id; empty if it has none,
	// or if there is no such model.
	Assertions(store, model ledger.ID) ([]byte, error)
	// LogTime returns the time of the store's newest entry, 0 if it has none.
	LogTime(store ledger.ID) (int64, error)
	// Epoch returns the number of the newest epoch that was applied, 0 for none.
	Epoch() uint64
}

// Seen is the command that claimed an id.
type Seen struct {
	Content  ledger.Hash     // [ledger.Command.ContentHash] of it
	Revision ledger.Revision // of its entry, in the store it was sent to
}

// An Input is one command at its place in the log.
type Input struct {
	Kind    ledger.SubjectKind // of the message's subject: edge, principal, epoch, or other
	Origin  ledger.Origin
	Raw     []byte // the command's bytes as they came
	Time    int64  // of the message, as the broker says: nanoseconds since the Unix epoch
	Version uint64 // the fold version in force

	// Malformed is set if the message as a whole was no envelope. Raw is then the
	// whole message, which becomes a rejected entry of [ledger.System].
	Malformed *ledger.Rejection
}

// A Record is what the fold records of a command in one store: the entry's content
// but for what its place in the store gives (revision, previous leaf), and what the
// command does to the state.
type Record struct {
	Store   ledger.ID
	Time    int64           // log time
	Command *ledger.Command // nil if the bytes are no command
	Content ledger.Hash     // of Command; zero if it is nil
	Outcome ledger.Outcome
	Effects []Effect // in the order of the command's changes; none unless applied

	// Claims says that the command's id belongs to this entry from now on, for the
	// store and the actor: State.Command finds it. Every command recorded in the store
	// it was sent to claims its id, a rejected one too, unless an earlier one has.
	Claims bool
}

// An EffectKind is the kind of an [Effect].
type EffectKind byte

// The kinds of effect.
const (
	SetTuple      EffectKind = 1 + iota // a new version of a tuple: Tuple, Grant, Live
	SetModel                            // a new newest model: Source, Model
	SetStore                            // a store becomes what Status says: Store, Status, and Name and Admin if it is created
	SetEpoch                            // a new epoch: Epoch
	SetVersion                          // another fold version from the next command on: Version
	SetAssertions                       // other assertions of a model: Source.ID, Assertions
)

// An Effect is one change of the state. Which fields it uses depends on its kind.
//
// SetStore stands in both records of creating or deleting a store, with the same
// content, because each store's entries decide alone; applying it again changes nothing.
// Of a store that is restoring, its own entries tell name, administrator, creation and
// deletion, and leave the status to those of system.
type Effect struct {
	Kind EffectKind

	Tuple tuple.Tuple
	Live  bool        // granted, otherwise revoked
	Grant model.Grant // zero if revoked; its context is typed and its expiry absolute

	Source     ledger.ModelSource // of SetAssertions its ID alone
	Model      *model.Model       // decoded from Source
	Assertions []byte

	Store  ledger.ID
	Status Status
	Name   string
	Admin  string

	Epoch ledger.Epoch

	Version uint64
}

// Decide returns what becomes of a command: the first record is the answer to who
// sent it. Creating and deleting a store has a second, the same command as the first
// or last entry of that store itself.
//
// An error means that the state could not be read or that the fold version is
// unknown; then nothing is decided and the fold must stop.
func Decide(s State, in Input) ([]Record, error) {
	if in.Version < 1 || in.Version > ledger.NewestFoldVersion {
		return nil, fmt.Errorf("fold version %d is unknown to this program", in.Version)
	}
	return decideAll(s, in)
}
