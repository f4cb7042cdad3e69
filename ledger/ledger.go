// Package ledger defines what is written to the log and how it gets there: commands,
// the envelopes they travel in, the entries and outcomes they become, and [Ledger],
// which appends them in groups and answers once they are decided.
//
// The log is the only truth. This package never decides a command; package decide
// does, in the fold, at the command's place in the order. Formats are described in
// FORMAT.md, and frozen.
package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/grantlog/grantlog/ledger/wire"
)

// Fold versions: the numbers of the deciding rules.
const (
	FoldVersion       = 1 // of a log until another is activated in it; a new log has that right after its genesis
	NewestFoldVersion = 2 // the newest that this program knows; from 2 on, stores can be restored and models have assertions
)

// A Revision is the position of an entry in its store: 1, 2, 3 … with no gaps.
type Revision uint64

// A UUID identifies a command or a log.
type UUID [16]byte

// NewUUID returns a new UUIDv7: the time in milliseconds, then random bits.
func NewUUID() UUID { return UUID(uuid.Must(uuid.NewV7())) }

// ParseUUID reads the usual text form, 8-4-4-4-12 lower-case hexadecimal digits.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("%+q is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057", s)
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	for i := range digits {
		if c := digits[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return u, fmt.Errorf("%+q is not a UUID in lower-case hexadecimal digits", s)
		}
	}
	_, err := hex.Decode(u[:], []byte(digits))
	return u, err
}

func (u UUID) String() string { return uuid.UUID(u).String() }

// MarshalText is String, for logs and JSON.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// IsZero reports whether u is no id.
func (u UUID) IsZero() bool { return u == UUID{} }

// An ID identifies a store or a model: a UUIDv7, written as 26 characters of ULID
// text so that OpenFGA clients can use it. The zero ID is [System].
type ID [16]byte

// System is the reserved store that decides stores and fold versions. Its text is "system".
var System ID

const ulidAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewID returns a new ID.
func NewID() ID { return ID(NewUUID()) }

// IsZero reports whether id is the zero ID: none, or [System].
func (id ID) IsZero() bool { return id == ID{} }

// String returns the ULID text: the 128 bits as 26 characters of 5, most significant
// first, in Crockford's base 32; "system" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return "system"
	}
	var out [26]byte
	var acc uint32
	bits := 2 // 130 bits of text for 128 of id: the first character has 3
	n := 0
	for _, b := range id {
		acc = acc<<8 | uint32(b)
		for bits += 8; bits >= 5; n++ {
			bits -= 5
			out[n] = ulidAlphabet[acc>>bits&31]
		}
	}
	return string(out[:])
}

// MarshalText is String, for logs and JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// ParseID reads ULID text in upper case, or "system".
func ParseID(s string) (ID, error) {
	var id ID
	if s == "system" {
		return id, nil
	}
	if len(s) != 26 || s[0] > '7' {
		return id, fmt.Errorf("%+q is not a ULID: 26 characters of 0-9 and A-Z without I, L, O, U, the first at most 7", s)
	}
	var acc uint32
	bits, n := -2, 0
	for i := range len(s) {
		v := ulidValue(s[i])
		if v < 0 {
			return ID{}, fmt.Errorf("%+q is not a ULID: it holds %+q", s, s[i])
		}
		acc = acc<<5 | uint32(v)
		if bits += 5; bits >= 8 {
			bits -= 8
			id[n] = byte(acc >> bits)
			n++
		}
	}
	if id.IsZero() {
		return ID{}, errors.New("the ULID of zeros is reserved")
	}
	return id, nil
}

func ulidValue(c byte) int {
	for i := range len(ulidAlphabet) {
		if ulidAlphabet[i] == c {
			return i
		}
	}
	return -1
}

// A Method is how an actor was authenticated.
type Method byte

// The methods. Their numbers are part of the encoding.
const (
	MethodNone Method = 1 + iota // not at all: the actor is what the caller said
	MethodNATS                   // by the broker: the actor is the principal of the subject
	MethodMTLS
	MethodOIDC
	MethodKey
)

var methodNames = [...]string{MethodNone: "none", MethodNATS: "nats", MethodMTLS: "mtls", MethodOIDC: "oidc", MethodKey: "key"}

func (m Method) String() string {
	if int(m) < len(methodNames) && methodNames[m] != "" {
		return methodNames[m]
	}
	return fmt.Sprintf("method %d", byte(m))
}

// Valid reports whether m is one of the methods.
func (m Method) Valid() bool { return m >= MethodNone && m <= MethodKey }

// An Origin is who asked for a command, and who says so.
type Origin struct {
	Actor    string // who asked, 1 to MaxLabel bytes of text
	Attester string // the node or broker subject that says so
	Method   Method // how the attester knows
}

// An OutcomeKind is the kind of an [Outcome].
type OutcomeKind byte

// The kinds of outcome. Their numbers are part of the encoding.
const (
	Applied OutcomeKind = 1 + iota
	Rejected
	Duplicate
)

func (k OutcomeKind) String() string {
	switch k {
	case Applied:
		return "applied"
	case Rejected:
		return "rejected"
	case Duplicate:
		return "duplicate"
	}
	return fmt.Sprintf("outcome %d", byte(k))
}

// A Code says why a command was rejected.
type Code byte

// The codes. Their numbers are part of the encoding.
const (
	CodeMalformed    Code = 1 + iota // it breaks a rule that holds under any state
	CodeNotFound                     // it names a store, model, type, relation or condition that is not there
	CodePrecondition                 // a precondition does not hold, or the state does not allow it
	CodeConflict                     // its id was used before with other content
	CodeDenied                       // its actor has no right to it
	CodeInvalid                      // well formed, but the model does not allow it
)

var codeNames = [...]string{CodeMalformed: "malformed", CodeNotFound: "not_found", CodePrecondition: "precondition",
	CodeConflict: "conflict", CodeDenied: "denied", CodeInvalid: "invalid"}

func (c Code) String() string {
	if int(c) < len(codeNames) && codeNames[c] != "" {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", byte(c))
}

// An Outcome is what the fold decided about a command.
type Outcome struct {
	Kind OutcomeKind

	// Effective counts, of an applied command, the changes that changed something.
	Effective int

	// Rejection says why, of a rejected command, else nil.
	Rejection *Rejection

	// First is, of a duplicate, the revision of the command it repeats.
	First Revision
}

// Equal reports whether the outcomes are the same.
func (o *Outcome) Equal(p *Outcome) bool {
	return o.Kind == p.Kind && o.Effective == p.Effective && o.First == p.First &&
		(o.Rejection == nil) == (p.Rejection == nil) && (o.Rejection == nil || *o.Rejection == *p.Rejection)
}

// String says the outcome to people, such as "applied (2 effective changes)".
func (o *Outcome) String() string {
	switch {
	case o.Kind == Applied && o.Effective == 1:
		return "applied (1 effective change)"
	case o.Kind == Applied:
		return fmt.Sprintf("applied (%d effective changes)", o.Effective)
	case o.Kind == Rejected && o.Rejection != nil:
		return fmt.Sprintf("rejected (%s: %s)", o.Rejection.Code, o.Rejection)
	case o.Kind == Duplicate:
		return fmt.Sprintf("a duplicate of revision %d", o.First)
	}
	return o.Kind.String()
}

// A Rejection is why a command was refused, at the edge or in the fold: the same
// value for the same fault. As an error it reads "field: message".
type Rejection struct {
	Code    Code
	Field   string // path of the offending field as in the API, such as changes[3].tuple.object.id; "" for the whole command
	Message string // the rule, and what would be right
}

func (r *Rejection) Error() string {
	if r.Field == "" {
		return r.Message
	}
	return r.Field + ": " + r.Message
}

// Reject returns a Rejection with a formatted message.
func Reject(code Code, field, format string, args ...any) *Rejection {
	return &Rejection{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}
}

// A Hash is a SHA-256 hash.
type Hash = [32]byte

// An Entry is a command as recorded at a revision of its store, whatever became of it.
type Entry struct {
	Store       ID
	Revision    Revision
	Time        int64 // log time, nanoseconds since the Unix epoch; never before the entry before
	Origin      Origin
	FoldVersion uint64
	Raw         []byte // the command's bytes as they came; what is no command is kept too
	Outcome     Outcome
	Prev        Hash // leaf hash of the entry before; zero at revision 1
}

// Command returns the command that the entry records, as the fold read it; or, where its
// bytes are no command, or came in a message that was no envelope, why.
func (e *Entry) Command() (*Command, *Rejection) {
	if e.Origin.Actor == "" { // what no command has; see [NotEnvelope]
		return nil, Reject(CodeMalformed, "", "the message is no envelope")
	}
	return ReadCommand(e.Raw, e.FoldVersion)
}

// CommandHead is Command without preconditions, changes and signature, which of a command
// with many changes are nearly all of the work. Of an applied entry it reads no more,
// because the fold has found the rest to be well formed.
func (e *Entry) CommandHead() (*Command, *Rejection) {
	if e.Outcome.Kind == Applied && !bytes.HasPrefix(e.Raw, []byte("{")) {
		d := wire.NewDecoder(e.Raw)
		if c := decodeHead(d); d.Err() == nil {
			return c, nil
		}
	}
	c, rejection := e.Command()
	if rejection != nil {
		return nil, rejection
	}
	return &Command{ID: c.ID, Store: c.Store, Model: c.Model, Reason: c.Reason, Ticket: c.Ticket, Channel: c.Channel}, nil
}

// A Position is where a projector stands in the log.
type Position struct {
	Log    UUID
	Seq    uint64 // of the last folded message; 1 is the genesis
	Before Hash   // chain hash over every message before Seq
	Chain  Hash   // chain hash over every message up to Seq
	Epoch  uint64 // number of losses accepted up to Seq
	Fold   uint64 // fold version in force after Seq; 0 before the first message, where it is FoldVersion
	// Skipped counts the messages up to Seq that were stepped over, because they were
	// missing and an operator had accepted that.
	Skipped uint64
}

// A Token names a revision of a store of a log, and proves which history it belongs
// to. It is opaque to callers; every write and every read returns one.
type Token struct {
	Log      UUID
	Store    ID
	Epoch    uint64
	Revision Revision
	Leaf     [8]byte // first bytes of the revision's leaf hash; zero at revision 0
}

const tokenFormat = 1

// String returns the token as URL-safe text.
func (t Token) String() string {
	b := append([]byte{tokenFormat}, t.Log[:]...)
	b = append(b, t.Store[:]...)
	b = wire.AppendUvarint(b, t.Epoch)
	b = wire.AppendUvarint(b, uint64(t.Revision))
	return base64.RawURLEncoding.EncodeToString(append(b, t.Leaf[:]...))
}

// ParseToken reads what [Token.String] returned; any other text is an [ErrToken].
func ParseToken(s string) (Token, error) {
	var t Token
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return t, fmt.Errorf("%w: it is not one that a grantlog answer gave", ErrToken)
	}
	d := wire.NewDecoder(b)
	if f := d.Byte(); f != tokenFormat {
		d.Fail("format %d", f)
	}
	copy(t.Log[:], d.Raw(16))
	copy(t.Store[:], d.Raw(16))
	t.Epoch = d.Uvarint()
	t.Revision = Revision(d.Uvarint())
	copy(t.Leaf[:], d.Raw(8))
	if d.Done() != nil {
		return Token{}, fmt.Errorf("%w: it is not one that a grantlog answer gave", ErrToken)
	}
	return t, nil
}

// The errors a caller acts on; test with [errors.Is]. Any other error needs an operator.
var (
	// ErrUnknownOutcome: the answer was lost, so the command may be in the log.
	// Ask for the command's ID, or submit it again under the same ID.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrRefused: the log has certainly not stored the message; try again later.
	ErrRefused = errors.New("the log refused the message")
	// ErrUnavailable: this replica cannot answer now (closing, not caught up, no
	// space, no connection); try again, here or elsewhere.
	ErrUnavailable = errors.New("unavailable")
	// ErrQuarantined: this replica folded a past that the log no longer has, or may
	// not be trusted. It answers nothing until an operator decides.
	ErrQuarantined = errors.New("replica quarantined")
	// ErrToken: the token is malformed or forged.
	ErrToken = errors.New("invalid token")
	// ErrForeignToken: the token is of another log or store.
	ErrForeignToken = errors.New("token of another log or store")
	// ErrLostPast: the token is of a past that was lost and given up by an operator.
	ErrLostPast = errors.New("token of a lost past")
	// ErrNotFound: what was asked for does not exist.
	ErrNotFound = errors.New("not found")
)
