package ledger

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/grantlog/grantlog/ledger/wire"
)

// Envelope formats. The first byte of a message that is not JSON is its format.
const (
	envelopeFormat = 1
	restoreFormat  = 2
	genesisFormat  = 1
	// MaxEnclosed is the most commands or entries of one envelope.
	MaxEnclosed = 1000
)

// Genesis is the first message of a log.
type Genesis struct {
	Log    UUID
	Config Hash // SHA-256 over the pinned configuration of the stream
}

// AppendGenesis appends the message data of g.
func AppendGenesis(dst []byte, g Genesis) []byte {
	dst = append(dst, genesisFormat)
	dst = append(dst, g.Log[:]...)
	return append(dst, g.Config[:]...)
}

// DecodeGenesis reads the data of a log's first message.
func DecodeGenesis(data []byte) (Genesis, error) {
	var g Genesis
	d := wire.NewDecoder(data)
	if f := d.Byte(); f != genesisFormat {
		d.Fail("genesis format %d, this program knows %d", f, genesisFormat)
	}
	copy(g.Log[:], d.Raw(len(g.Log)))
	copy(g.Config[:], d.Raw(len(g.Config)))
	if err := d.Done(); err != nil {
		return Genesis{}, fmt.Errorf("genesis: %w", err)
	}
	return g, nil
}

// Beginning returns the message that a log has right after its genesis if it begins under
// a later fold version than [FoldVersion]: its activation, by the actor "grantlog". The
// command's id is that of the log, so a copy of it is a duplicate.
func Beginning(shard string, log UUID, version uint64) (subject string, data []byte) {
	c := &Command{ID: log, Store: System, Reason: fmt.Sprintf("a new log begins at fold version %d", version),
		Changes: []Change{{Kind: Activate, Version: version}}}
	origin := Origin{Actor: "grantlog", Method: MethodNone}
	return Subject(shard, ActivateSubject, ""), AppendEnvelope(nil, []Enclosed{{Origin: origin, Raw: AppendCommand(nil, c)}})
}

// A SubjectKind is the kind of subject a message stands under, which says whose word
// its actors are.
type SubjectKind byte

// The kinds of subject. Every subject begins with "grantlog" and the shard.
const (
	OtherSubject     SubjectKind = iota // none of these: whatever it carries is rejected
	GenesisSubject                      // grantlog.<shard>.genesis
	EdgeSubject                         // grantlog.<shard>.edge.<node>: the edge states each actor and how it knows
	PrincipalSubject                    // grantlog.<shard>.cmd.<principal>: the broker pins the actor
	EpochSubject                        // grantlog.<shard>.epoch: an operator accepts a loss
	ActivateSubject                     // grantlog.<shard>.activate: an operator sets the fold version
)

// Subject returns the subject of this kind; name is the node or principal.
func Subject(shard string, kind SubjectKind, name string) string {
	switch kind {
	case GenesisSubject:
		return "grantlog." + shard + ".genesis"
	case EdgeSubject:
		return "grantlog." + shard + ".edge." + name
	case PrincipalSubject:
		return "grantlog." + shard + ".cmd." + name
	case EpochSubject:
		return "grantlog." + shard + ".epoch"
	case ActivateSubject:
		return "grantlog." + shard + ".activate"
	}
	panic(fmt.Sprintf("ledger: no subject of kind %d", kind))
}

// ParseSubject returns what a subject is, and the node or principal it names.
func ParseSubject(subject string) (SubjectKind, string) {
	parts := strings.Split(subject, ".")
	if len(parts) < 3 || len(parts) > 4 || parts[0] != "grantlog" || !ValidPrincipal(parts[1]) {
		return OtherSubject, ""
	}
	if len(parts) == 3 {
		switch parts[2] {
		case "genesis":
			return GenesisSubject, ""
		case "epoch":
			return EpochSubject, ""
		case "activate":
			return ActivateSubject, ""
		}
		return OtherSubject, ""
	}
	if !ValidPrincipal(parts[3]) {
		return OtherSubject, ""
	}
	switch parts[2] {
	case "edge":
		return EdgeSubject, parts[3]
	case "cmd":
		return PrincipalSubject, parts[3]
	}
	return OtherSubject, ""
}

// ValidPrincipal reports whether s may name a node, a principal or a shard in a
// subject: 1 to 64 of A-Z, a-z, 0-9, '_' and '-'.
func ValidPrincipal(s string) bool {
	if len(s) < 1 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// An Enclosed is one command of an envelope, with who asked for it.
type Enclosed struct {
	Origin Origin
	Raw    []byte
}

// AppendEnvelope appends the envelope of these commands as an edge writes it; none
// makes a barrier, which changes nothing and shows that the log took a write. The
// attester is not written: it is the node that the subject names.
//
//	format 1 | count, uvarint | count × ( method 1 | actor, bytes | command, bytes )
func AppendEnvelope(dst []byte, commands []Enclosed) []byte {
	dst = append(dst, envelopeFormat)
	dst = wire.AppendUvarint(dst, uint64(len(commands)))
	for _, c := range commands {
		dst = append(dst, byte(c.Origin.Method))
		dst = wire.AppendBytes(dst, c.Origin.Actor)
		dst = wire.AppendBytes(dst, c.Raw)
	}
	return dst
}

// A Restored is part of a store's record, brought from another log.
type Restored struct {
	Store   ID
	Entries [][]byte // in turn, each as [AppendEntry] writes it
}

// AppendRestore appends the restore envelope of at most [MaxEnclosed] entries, which the
// fold takes from fold version 2 on, from an edge, for a store that is being restored.
//
//	format 2 | store 16 | count, uvarint | count × ( entry, bytes )
func AppendRestore(dst []byte, r Restored) []byte {
	dst = append(dst, restoreFormat)
	dst = append(dst, r.Store[:]...)
	dst = wire.AppendUvarint(dst, uint64(len(r.Entries)))
	for _, e := range r.Entries {
		dst = wire.AppendBytes(dst, e)
	}
	return dst
}

// decodeRestore reads the envelope's frame. Whether its entries are some is asked later:
// what was read of a store before one that is none counts.
func decodeRestore(data []byte) (*Restored, error) {
	d := wire.NewDecoder(data[1:])
	r := new(Restored)
	copy(r.Store[:], d.Raw(len(r.Store)))
	if d.Err() == nil && r.Store == System {
		d.Fail("the store %+q cannot be restored", "system")
	}
	for n := d.Count(MaxEnclosed, 1); n > 0 && d.Err() == nil; n-- {
		r.Entries = append(r.Entries, d.Bytes(MaxMessage))
	}
	if err := d.Done(); err != nil {
		return nil, err
	}
	return r, nil
}

// DecodeEnvelope reads the commands of a message, each with its origin: from an edge,
// what the edge states; under a principal's subject, that principal, whatever the
// envelope says (a payload starting with '{' is one JSON command there). Version is the
// fold version in force before the message: from 2 on, an edge's message may instead
// restore entries, and then there are no commands. A message that is no envelope, or
// stands under no subject that may carry one, is an error; its bytes are then kept as a
// rejected entry of [System], see [NotEnvelope].
func DecodeEnvelope(m *Message, version uint64) ([]Enclosed, *Restored, error) {
	if kind, _ := ParseSubject(m.Subject); version >= 2 && kind == EdgeSubject && len(m.Data) > 0 && m.Data[0] != envelopeFormat {
		if f := m.Data[0]; f != restoreFormat {
			return nil, nil, fmt.Errorf("envelope format %d, known are %d and %d", f, envelopeFormat, restoreFormat)
		}
		r, err := decodeRestore(m.Data)
		return nil, r, err
	}
	commands, err := decodeCommands(m)
	return commands, nil, err
}

func decodeCommands(m *Message) ([]Enclosed, error) {
	kind, name := ParseSubject(m.Subject)
	switch kind {
	case EdgeSubject, EpochSubject, ActivateSubject:
	case PrincipalSubject:
		if bytes.HasPrefix(m.Data, []byte("{")) {
			return []Enclosed{{principalOrigin(m.Subject, name), m.Data}}, nil
		}
	default:
		return nil, errSubject(m.Subject)
	}
	if len(m.Data) == 0 {
		return nil, fmt.Errorf("the message is empty")
	}
	d := wire.NewDecoder(m.Data)
	if f := d.Byte(); f != envelopeFormat {
		return nil, fmt.Errorf("envelope format %d, known is %d", f, envelopeFormat)
	}
	n := d.Count(MaxEnclosed, 3)
	commands := make([]Enclosed, 0, n)
	for range n {
		method := Method(d.Byte())
		actor := d.Text(MaxLabel)
		raw := d.Bytes(MaxMessage)
		if d.Err() != nil {
			break
		}
		origin := Origin{Actor: actor, Attester: m.Subject, Method: method}
		if kind == PrincipalSubject {
			if actor != "" || method != MethodNATS {
				d.Fail("under a principal's subject the actor is empty and the method is %d (nats)", MethodNATS)
			}
			origin = principalOrigin(m.Subject, name)
		} else if fault := CheckText("actor", actor, 1, MaxLabel); fault != nil {
			d.Fail("%s", fault)
		} else if !method.Valid() {
			d.Fail("unknown method %d", method)
		}
		commands = append(commands, Enclosed{origin, raw})
	}
	if err := d.Done(); err != nil {
		return nil, err
	}
	return commands, nil
}

func principalOrigin(subject, principal string) Origin {
	return Origin{Actor: principal, Attester: subject, Method: MethodNATS}
}

// NotEnvelope returns what is recorded of a message that [DecodeEnvelope] refused with
// err: its bytes, by nobody (no command has an empty actor), and why. The attester is
// the subject, which names the principal if there is one.
func NotEnvelope(m *Message, err error) (Enclosed, *Rejection) {
	o := Origin{Attester: shorten(m.Subject), Method: MethodNone}
	return Enclosed{o, m.Data}, Reject(CodeMalformed, "", "the message is no envelope: %s", err)
}

// Unread returns the rejections that the fold can have given to a message which was no
// envelope, from what its entry keeps of it: the bytes, and what [NotEnvelope] left of
// the subject. There is one, but for a subject that was not UTF-8: it has lost bytes,
// and with them perhaps what was wrong with it.
func Unread(e *Entry) []*Rejection {
	m := &Message{Subject: e.Origin.Attester, Data: e.Raw}
	faults := []error{errSubject(m.Subject)}
	if _, _, err := DecodeEnvelope(m, e.FoldVersion); err != nil && err.Error() != faults[0].Error() {
		faults = []error{err, faults[0]}
	}
	rejections := make([]*Rejection, len(faults))
	for i, err := range faults {
		_, rejections[i] = NotEnvelope(m, err)
	}
	return rejections
}

// Check returns an error unless a message can have said this origin of a command: one
// under the subject that is the attester, as [DecodeEnvelope] reads it.
func (o Origin) Check() error {
	switch kind, name := ParseSubject(o.Attester); kind {
	case EdgeSubject, EpochSubject, ActivateSubject:
		if fault := CheckText("actor", o.Actor, 1, MaxLabel); fault != nil {
			return fault
		}
		if !o.Method.Valid() {
			return fmt.Errorf("unknown method %d", o.Method)
		}
	case PrincipalSubject:
		if o != principalOrigin(o.Attester, name) {
			return fmt.Errorf("under the subject %+q the actor is %+q, by the method %s", o.Attester, name, MethodNATS)
		}
	default:
		return errSubject(o.Attester)
	}
	return nil
}

func errSubject(subject string) error {
	return fmt.Errorf("no command may stand under subject %+q", shorten(subject))
}

// shorten returns s as UTF-8 of at most MaxLabel bytes.
func shorten(s string) string {
	if len(s) > MaxLabel {
		s = s[:MaxLabel]
	}
	return strings.ToValidUTF8(s, "")
}
