package ledger

import (
	"crypto/sha256"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// Limits of commands and messages.
const (
	MaxChanges     = 1000      // changes of one command
	MaxCommand     = 512 << 10 // bytes of one encoded command
	MaxMessage     = 1 << 20   // bytes of one log message
	MaxText        = 4096      // bytes of a reason
	MaxLabel       = 256       // bytes of a ticket, a channel, a store name, an actor
	MaxModelSource = 256 << 10 // bytes of a model's source and of its compiled form, each
	MaxAssertions  = 64 << 10  // bytes of a model's assertions
)

// A Command is a request to change a store: who asks for what, why, and under which
// id. A command read by [DecodeCommand] or [ParseCommandJSON] is well formed: it
// keeps every rule that holds under any state. What depends on state is decided in
// the fold.
type Command struct {
	ID            UUID   // unique for ever per store and actor; a retry uses it again
	Store         ID     // the store it changes; [System] for stores themselves
	Model         ID     // the model that the tuples are held against; zero: the newest
	Reason        string // at most MaxText bytes
	Ticket        string // at most MaxLabel bytes
	Channel       string // the tool or process it came through, at most MaxLabel bytes
	Preconditions []Precondition
	Changes       []Change // 1 to MaxChanges, all or nothing, no tuple twice
	KeyID         string   // of Signature; fold version 1 rejects a command that has one
	Signature     []byte   // Ed25519, 64 bytes, or nil
}

// A Precondition must hold just before the command, or all of it is rejected.
type Precondition struct {
	Tuple     tuple.Tuple
	MustExist bool // the tuple must be live; otherwise it must not be
}

// A ChangeKind is the kind of a [Change].
type ChangeKind byte

// The kinds of change. Their numbers are part of the encoding.
const (
	Grant ChangeKind = 1 + iota
	Revoke
	WriteModel
	CreateStore     // in [System] only, alone in its command
	DeleteStore     // in [System] only, alone in its command
	AdvanceEpoch    // in [System] only, alone, under [EpochSubject] only
	Activate        // in [System] only, alone, under [ActivateSubject] only
	BeginRestore    // from fold version 2 on, in [System] only, alone, under an [EdgeSubject] only
	EndRestore      // likewise
	WriteAssertions // from fold version 2 on, not in [System], alone in its command
)

// A Change is one step of a command. Which fields it uses depends on its kind.
type Change struct {
	Kind ChangeKind

	Tuple        tuple.Tuple // of Grant and Revoke
	Grant        model.Grant // of Grant; ExpiresAt 0 if ExpiresAfter is set
	ExpiresAfter int64       // of Grant: nanoseconds from the entry's log time, or 0

	Model ModelSource // of WriteModel; of WriteAssertions its ID alone: the model they belong to
	// Assertions, of WriteAssertions, are the answers that the model is expected to give, in
	// a form of those who write and read them: at most MaxAssertions bytes, empty for none.
	Assertions []byte

	Store ID     // of CreateStore, DeleteStore, BeginRestore and EndRestore
	Name  string // of CreateStore: 1 to MaxLabel bytes of text
	Admin string // of CreateStore: the actor that is the store's first administrator, 1 to MaxLabel bytes

	Epoch Epoch // of AdvanceEpoch

	Version uint64 // of Activate: the fold version in force from the next command on

	Deleted bool // of EndRestore: the store's last entry deletes it, and it stays so
}

// A SourceKind says how a model's source is written.
type SourceKind byte

// The kinds of model source. Their numbers are part of the encoding.
const (
	SourceDSL     SourceKind = 1 + iota // one file of the modeling language
	SourceModules                       // several module files, joined as package dsl documents
	SourceJSON                          // the JSON form
)

// A ModelSource is a model as it is written to a store: parsed at the edge, so that
// the fold needs no parser, with the source kept for people.
type ModelSource struct {
	ID       ID
	Kind     SourceKind
	Source   []byte // at most MaxModelSource bytes
	Compiled []byte // package model's encoding, at most MaxModelSource bytes
}

// An Epoch names the part of the log's past that an operator has accepted as lost.
type Epoch struct {
	Number uint64 // 1 for the first; the log starts in epoch 0
	// Cuts lists every loss accepted so far, oldest first; the last is this epoch's.
	Cuts []Cut
}

// A Cut is one loss: messages From to To, which some replica has folded or which the
// log counts, are not in the log any more (or others stand in their place).
type Cut struct {
	From, To uint64
	Missing  bool // the sequences are absent from the log, so the fold steps over them
}

// ContentHash returns the SHA-256 of the command's canonical encoding without its
// signature: what makes two commands of one id the same.
func (c *Command) ContentHash() [32]byte {
	bare := *c
	bare.KeyID, bare.Signature = "", nil
	return sha256.Sum256(AppendCommand(nil, &bare))
}
