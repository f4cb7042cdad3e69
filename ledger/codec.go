package ledger

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/ledger/wire"
)

const (
	commandFormat = 1
	entryFormat   = 1
)

// AppendCommand appends the canonical encoding of c, described in FORMAT.md. It is
// what the content hash and a signature are over.
func AppendCommand(dst []byte, c *Command) []byte {
	dst = append(dst, commandFormat)
	dst = append(dst, c.ID[:]...)
	dst = append(dst, c.Store[:]...)
	dst = append(dst, c.Model[:]...)
	dst = wire.AppendBytes(dst, c.Reason)
	dst = wire.AppendBytes(dst, c.Ticket)
	dst = wire.AppendBytes(dst, c.Channel)
	dst = wire.AppendUvarint(dst, uint64(len(c.Preconditions)))
	for _, p := range c.Preconditions {
		dst = appendTuple(wire.AppendBool(dst, p.MustExist), p.Tuple)
	}
	dst = wire.AppendUvarint(dst, uint64(len(c.Changes)))
	for i := range c.Changes {
		dst = appendChange(dst, &c.Changes[i])
	}
	dst = wire.AppendBytes(dst, c.KeyID)
	return wire.AppendBytes(dst, c.Signature)
}

func appendChange(dst []byte, ch *Change) []byte {
	dst = append(dst, byte(ch.Kind))
	switch ch.Kind {
	case Grant:
		dst = appendTuple(dst, ch.Tuple)
		dst = model.AppendGrant(dst, ch.Grant)
		return wire.AppendVarint(dst, ch.ExpiresAfter)
	case Revoke:
		return appendTuple(dst, ch.Tuple)
	case WriteModel:
		dst = append(dst, ch.Model.ID[:]...)
		dst = append(dst, byte(ch.Model.Kind))
		dst = wire.AppendBytes(dst, ch.Model.Source)
		return wire.AppendBytes(dst, ch.Model.Compiled)
	case CreateStore:
		dst = append(dst, ch.Store[:]...)
		dst = wire.AppendBytes(dst, ch.Name)
		return wire.AppendBytes(dst, ch.Admin)
	case DeleteStore:
		return append(dst, ch.Store[:]...)
	case AdvanceEpoch:
		dst = wire.AppendUvarint(dst, ch.Epoch.Number)
		dst = wire.AppendUvarint(dst, uint64(len(ch.Epoch.Cuts)))
		for _, cut := range ch.Epoch.Cuts {
			dst = wire.AppendUvarint(dst, cut.From)
			dst = wire.AppendUvarint(dst, cut.To)
			dst = wire.AppendBool(dst, cut.Missing)
		}
		return dst
	case Activate:
		return wire.AppendUvarint(dst, ch.Version)
	case BeginRestore:
		return append(dst, ch.Store[:]...)
	case EndRestore:
		return wire.AppendBool(append(dst, ch.Store[:]...), ch.Deleted)
	case WriteAssertions:
		return wire.AppendBytes(append(dst, ch.Model.ID[:]...), ch.Assertions)
	}
	panic(fmt.Sprintf("ledger: no change of kind %d", ch.Kind))
}

func appendTuple(dst []byte, t tuple.Tuple) []byte {
	for _, part := range [...]string{t.Object.Type, t.Object.ID, t.Relation, t.Subject.Type, t.Subject.ID, t.Subject.Relation} {
		dst = wire.AppendBytes(dst, part)
	}
	return dst
}

func decodeTuple(d *wire.Decoder) tuple.Tuple {
	return tuple.Tuple{
		Object:   tuple.Object{Type: d.Text(MaxCommand), ID: d.Text(MaxCommand)},
		Relation: d.Text(MaxCommand),
		Subject:  tuple.Subject{Type: d.Text(MaxCommand), ID: d.Text(MaxCommand), Relation: d.Text(MaxCommand)},
	}
}

// ReadCommand reads a command in either form: JSON if it starts with '{', else the
// canonical encoding, with the kinds of change that the fold version knows. What it
// returns is well formed; a fault is a [CodeMalformed] rejection that names the field and
// the rule.
func ReadCommand(raw []byte, version uint64) (*Command, *Rejection) {
	if len(raw) > MaxCommand {
		return nil, Reject(CodeMalformed, "", "a command must be at most %d bytes, this is %d", MaxCommand, len(raw))
	}
	var c *Command
	var rejection *Rejection
	if bytes.HasPrefix(raw, []byte("{")) {
		c, rejection = parseCommandJSON(raw)
	} else {
		c, rejection = decodeCommand(raw, version)
	}
	if rejection != nil {
		return nil, rejection
	}
	if rejection := c.Validate(); rejection != nil {
		return nil, rejection
	}
	return c, nil
}

// decodeHead decodes what stands before the preconditions of a command.
func decodeHead(d *wire.Decoder) *Command {
	if f := d.Byte(); f != commandFormat {
		d.Fail("command format %d, known is %d", f, commandFormat)
	}
	c := new(Command)
	copy(c.ID[:], d.Raw(len(c.ID)))
	copy(c.Store[:], d.Raw(len(c.Store)))
	copy(c.Model[:], d.Raw(len(c.Model)))
	c.Reason = d.Text(MaxCommand)
	c.Ticket = d.Text(MaxCommand)
	c.Channel = d.Text(MaxCommand)
	return c
}

func decodeCommand(raw []byte, version uint64) (*Command, *Rejection) {
	d := wire.NewDecoder(raw)
	c := decodeHead(d)
	n := d.Count(MaxCommand, 7)
	if n > MaxChanges { // said before a small command is decoded into a big one
		return nil, tooMany("preconditions", n)
	}
	for ; n > 0 && d.Err() == nil; n-- {
		c.Preconditions = append(c.Preconditions, Precondition{MustExist: d.Bool(), Tuple: decodeTuple(d)})
	}
	if n = d.Count(MaxCommand, 2); n > MaxChanges {
		return nil, tooMany("changes", n)
	}
	for ; n > 0 && d.Err() == nil; n-- {
		c.Changes = append(c.Changes, decodeChange(d, version))
	}
	c.KeyID = d.Text(MaxCommand)
	if sig := d.Bytes(MaxCommand); len(sig) > 0 {
		c.Signature = sig
	}
	if err := d.Done(); err != nil {
		return nil, Reject(CodeMalformed, "", "not a command: %s", err)
	}
	return c, nil
}

func decodeChange(d *wire.Decoder, version uint64) Change {
	ch := Change{Kind: ChangeKind(d.Byte())}
	if ch.Kind >= BeginRestore && version < 2 {
		d.Fail("unknown kind of change %d", ch.Kind)
		return ch
	}
	switch ch.Kind {
	case Grant:
		ch.Tuple = decodeTuple(d)
		ch.Grant = model.DecodeGrant(d)
		ch.ExpiresAfter = d.Varint()
	case Revoke:
		ch.Tuple = decodeTuple(d)
	case WriteModel:
		copy(ch.Model.ID[:], d.Raw(len(ch.Model.ID)))
		ch.Model.Kind = SourceKind(d.Byte())
		ch.Model.Source = d.Bytes(MaxCommand)
		ch.Model.Compiled = d.Bytes(MaxCommand)
	case CreateStore:
		copy(ch.Store[:], d.Raw(len(ch.Store)))
		ch.Name = d.Text(MaxCommand)
		ch.Admin = d.Text(MaxCommand)
	case DeleteStore:
		copy(ch.Store[:], d.Raw(len(ch.Store)))
	case AdvanceEpoch:
		ch.Epoch.Number = d.Uvarint()
		for n := d.Count(MaxCommand, 3); n > 0 && d.Err() == nil; n-- {
			ch.Epoch.Cuts = append(ch.Epoch.Cuts, Cut{From: d.Uvarint(), To: d.Uvarint(), Missing: d.Bool()})
		}
	case Activate:
		ch.Version = d.Uvarint()
	case BeginRestore:
		copy(ch.Store[:], d.Raw(len(ch.Store)))
	case EndRestore:
		copy(ch.Store[:], d.Raw(len(ch.Store)))
		ch.Deleted = d.Bool()
	case WriteAssertions:
		copy(ch.Model.ID[:], d.Raw(len(ch.Model.ID)))
		if b := d.Bytes(MaxCommand); len(b) > 0 {
			ch.Assertions = b
		}
	default:
		d.Fail("unknown kind of change %d", ch.Kind)
	}
	return ch
}

func tooMany(field string, n int) *Rejection {
	return Reject(CodeMalformed, field, "must be at most %d, are %d", MaxChanges, n)
}

// Validate returns a [CodeMalformed] rejection unless the command keeps every rule
// that holds under any state. It is the one place for those rules: the edge, the log
// and every form of a command go through it.
func (c *Command) Validate() *Rejection {
	if c.ID.IsZero() {
		return Reject(CodeMalformed, "id", "must be a UUID that is not zero")
	}
	for _, text := range [...]struct {
		field, text string
		limit       int
	}{{"reason", c.Reason, MaxText}, {"ticket", c.Ticket, MaxLabel}, {"channel", c.Channel, MaxLabel}, {"key_id", c.KeyID, MaxLabel}} {
		if r := CheckText(text.field, text.text, 0, text.limit); r != nil {
			return r
		}
	}
	if (c.KeyID == "") != (c.Signature == nil) || c.Signature != nil && len(c.Signature) != 64 {
		return Reject(CodeMalformed, "signature", "must be 64 bytes beside a key_id, or both absent")
	}
	if len(c.Preconditions) > MaxChanges {
		return tooMany("preconditions", len(c.Preconditions))
	}
	if len(c.Changes) == 0 {
		return Reject(CodeMalformed, "changes", "must not be empty")
	}
	if len(c.Changes) > MaxChanges {
		return tooMany("changes", len(c.Changes))
	}
	seen := make(map[tuple.Tuple]int, max(len(c.Preconditions), len(c.Changes)))
	for i, p := range c.Preconditions {
		if r := checkTuple(fmt.Sprintf("preconditions[%d].tuple", i), p.Tuple); r != nil {
			return r
		}
		if j, twice := seen[p.Tuple]; twice {
			return Reject(CodeMalformed, fmt.Sprintf("preconditions[%d].tuple", i), "stands in preconditions[%d] already", j)
		}
		seen[p.Tuple] = i
	}
	clear(seen)
	for i := range c.Changes {
		ch := &c.Changes[i]
		if r := c.validateChange(fmt.Sprintf("changes[%d]", i), ch); r != nil {
			return r
		}
		if ch.Kind == Grant || ch.Kind == Revoke {
			if j, twice := seen[ch.Tuple]; twice {
				return Reject(CodeMalformed, fmt.Sprintf("changes[%d].tuple", i), "stands in changes[%d] already; a command changes a tuple once", j)
			}
			seen[ch.Tuple] = i
		}
	}
	return nil
}

func (c *Command) validateChange(field string, ch *Change) *Rejection {
	switch ch.Kind {
	case Grant:
		if r := checkTuple(field+".tuple", ch.Tuple); r != nil {
			return r
		}
		return validateGrant(field, ch)
	case Revoke:
		return checkTuple(field+".tuple", ch.Tuple)
	}
	if len(c.Changes) > 1 || len(c.Preconditions) > 0 {
		return Reject(CodeMalformed, field, "a change of models, stores, epochs or fold versions must be alone in its command, without preconditions")
	}
	if ch.Kind == WriteModel || ch.Kind == WriteAssertions {
		switch m := &ch.Model; {
		case c.Store == System:
			return Reject(CodeMalformed, "store", "the store %+q has no model of its own", "system")
		case m.ID.IsZero():
			return Reject(CodeMalformed, field+".model.id", "must be a ULID that is not zero")
		case ch.Kind == WriteAssertions && len(ch.Assertions) > MaxAssertions:
			return Reject(CodeMalformed, field+".assertions", "must be at most %d bytes, are %d", MaxAssertions, len(ch.Assertions))
		case ch.Kind == WriteAssertions:
			return nil
		case m.Kind < SourceDSL || m.Kind > SourceJSON:
			return Reject(CodeMalformed, field+".model.kind", "unknown kind of source %d", m.Kind)
		case len(m.Source) == 0 || len(m.Source) > MaxModelSource:
			return Reject(CodeMalformed, field+".model.source", "must be 1 to %d bytes, is %d", MaxModelSource, len(m.Source))
		case len(m.Compiled) == 0 || len(m.Compiled) > MaxModelSource:
			return Reject(CodeMalformed, field+".model.compiled", "must be 1 to %d bytes, is %d", MaxModelSource, len(m.Compiled))
		}
		return nil
	}
	if c.Store != System {
		return Reject(CodeMalformed, "store", "stores, epochs and fold versions are changed in the store %+q", "system")
	}
	switch ch.Kind {
	case CreateStore:
		if ch.Store.IsZero() {
			return Reject(CodeMalformed, field+".store", "must be a ULID that is not zero")
		}
		if r := CheckText(field+".name", ch.Name, 1, MaxLabel); r != nil {
			return r
		}
		return CheckText(field+".admin", ch.Admin, 1, MaxLabel)
	case DeleteStore:
		if ch.Store.IsZero() {
			return Reject(CodeMalformed, field+".store", "the store %+q cannot be deleted", "system")
		}
	case AdvanceEpoch:
		if ch.Epoch.Number == 0 || uint64(len(ch.Epoch.Cuts)) != ch.Epoch.Number {
			return Reject(CodeMalformed, field+".epoch", "epoch n lists n cuts; this is %d with %d", ch.Epoch.Number, len(ch.Epoch.Cuts))
		}
		for i, cut := range ch.Epoch.Cuts {
			if cut.From < 2 || cut.To < cut.From {
				return Reject(CodeMalformed, fmt.Sprintf("%s.epoch.cuts[%d]", field, i), "must run from a sequence of at least 2 to one not before it")
			}
		}
	case Activate:
		if ch.Version == 0 {
			return Reject(CodeMalformed, field+".version", "must be at least 1")
		}
	case BeginRestore, EndRestore:
		if ch.Store.IsZero() {
			return Reject(CodeMalformed, field+".store", "the store %+q cannot be restored", "system")
		}
	default:
		return Reject(CodeMalformed, field+".kind", "unknown kind of change %d", ch.Kind)
	}
	return nil
}

func validateGrant(field string, ch *Change) *Rejection {
	g := &ch.Grant
	switch {
	case g.NotBefore < 0:
		return Reject(CodeMalformed, field+".not_before", "must not be before 1970")
	case g.ExpiresAt < 0:
		return Reject(CodeMalformed, field+".expires_at", "must not be before 1970")
	case ch.ExpiresAfter < 0:
		return Reject(CodeMalformed, field+".expires_after", "must be positive")
	case g.ExpiresAt != 0 && ch.ExpiresAfter != 0:
		return Reject(CodeMalformed, field+".expires_after", "must be absent where expires_at is given")
	case g.ExpiresAt != 0 && g.ExpiresAt <= g.NotBefore:
		return Reject(CodeMalformed, field+".expires_at", "must be after not_before")
	case g.Condition == "" && g.Context != nil:
		return Reject(CodeMalformed, field+".context", "must be absent without a condition")
	case len(g.Context) > model.MaxContext:
		return Reject(CodeMalformed, field+".context", "must be at most %d bytes, is %d", model.MaxContext, len(g.Context))
	}
	if g.Condition != "" {
		if err := tuple.ValidateRelation("condition", g.Condition); err != nil {
			return Reject(CodeMalformed, field+".condition", "%s", err)
		}
	}
	if g.Context != nil {
		if _, err := model.DecodeContext(g.Context); err != nil {
			return Reject(CodeMalformed, field+".context", "%s", err)
		}
	}
	return CheckText(field+".owner", g.Owner, 0, model.MaxOwner)
}

func checkTuple(field string, t tuple.Tuple) *Rejection {
	_, err := tuple.New(t.Object, t.Relation, t.Subject)
	return TupleRejection(field, err)
}

// TupleRejection returns the rejection for an error of package tuple about the tuple
// at field, or nil for nil.
func TupleRejection(field string, err error) *Rejection {
	if err == nil {
		return nil
	}
	var syntax *tuple.SyntaxError
	if errors.As(err, &syntax) {
		if syntax.Part != "tuple" {
			field += "." + syntax.Part
		}
		return Reject(CodeMalformed, field, "%+q %s", syntax.Text, syntax.Rule)
	}
	return Reject(CodeMalformed, field, "%s", err)
}

// AppendEntry appends the encoding of e, which is also the data of its leaf in the
// store's tree:
//
//	format 1 | store 16 | revision, uvarint | prev 32 | time, varint | actor, bytes |
//	attester, bytes | method 1 | fold version, uvarint | raw, bytes | outcome
func AppendEntry(dst []byte, e *Entry) []byte {
	dst = append(dst, entryFormat)
	dst = append(dst, e.Store[:]...)
	dst = wire.AppendUvarint(dst, uint64(e.Revision))
	dst = append(dst, e.Prev[:]...)
	dst = wire.AppendVarint(dst, e.Time)
	dst = wire.AppendBytes(dst, e.Origin.Actor)
	dst = wire.AppendBytes(dst, e.Origin.Attester)
	dst = append(dst, byte(e.Origin.Method))
	dst = wire.AppendUvarint(dst, e.FoldVersion)
	dst = wire.AppendBytes(dst, e.Raw)
	return appendOutcome(dst, e.Outcome)
}

// DecodeEntry reads what [AppendEntry] wrote. The entry shares memory with b.
func DecodeEntry(b []byte) (*Entry, error) {
	d := wire.NewDecoder(b)
	if f := d.Byte(); f != entryFormat {
		d.Fail("entry format %d, known is %d", f, entryFormat)
	}
	e := new(Entry)
	copy(e.Store[:], d.Raw(len(e.Store)))
	e.Revision = Revision(d.Uvarint())
	copy(e.Prev[:], d.Raw(len(e.Prev)))
	e.Time = d.Varint()
	e.Origin.Actor = d.Text(MaxMessage)
	e.Origin.Attester = d.Text(MaxMessage)
	e.Origin.Method = Method(d.Byte())
	e.FoldVersion = d.Uvarint()
	e.Raw = d.Bytes(MaxMessage)
	e.Outcome = decodeOutcome(d)
	if err := d.Done(); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	return e, nil
}

// appendOutcome appends
//
//	kind 1 | applied: effective, uvarint
//	       | rejected: code 1 | field, bytes | message, bytes
//	       | duplicate: first revision, uvarint
func appendOutcome(dst []byte, o Outcome) []byte {
	dst = append(dst, byte(o.Kind))
	switch o.Kind {
	case Applied:
		dst = wire.AppendUvarint(dst, uint64(o.Effective))
	case Rejected:
		dst = append(dst, byte(o.Rejection.Code))
		dst = wire.AppendBytes(dst, o.Rejection.Field)
		dst = wire.AppendBytes(dst, o.Rejection.Message)
	case Duplicate:
		dst = wire.AppendUvarint(dst, uint64(o.First))
	default:
		panic(fmt.Sprintf("ledger: no outcome of kind %d", o.Kind))
	}
	return dst
}

func decodeOutcome(d *wire.Decoder) Outcome {
	o := Outcome{Kind: OutcomeKind(d.Byte())}
	switch o.Kind {
	case Applied:
		o.Effective = int(d.Uvarint())
	case Rejected:
		o.Rejection = &Rejection{Code: Code(d.Byte()), Field: d.Text(MaxMessage), Message: d.Text(MaxMessage)}
	case Duplicate:
		o.First = Revision(d.Uvarint())
	default:
		d.Fail("unknown kind of outcome %d", o.Kind)
	}
	return o
}
