package serve

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Anonymous is the actor of a request that names none.
const Anonymous = "anonymous"

func malformed(field, format string, args ...any) error {
	return ledger.Reject(ledger.CodeMalformed, field, format, args...)
}

// The read functions turn a message, or a part of one at field, into grantlog's own
// type, or return a [*ledger.Rejection].

func readOrigin(actor string) ledger.Origin {
	return ledger.Origin{Actor: cmp.Or(actor, Anonymous), Method: ledger.MethodNone}
}

// readStore reads the id of a store other than the system store.
func readStore(field, text string) (ledger.ID, error) {
	id, err := readAnyStore(field, text)
	if err == nil && id.IsZero() {
		err = malformed(field, "must be the ULID of a store; %q is not one of permissions", text)
	}
	return id, err
}

// readAnyStore reads the id of a store, the system store too.
func readAnyStore(field, text string) (ledger.ID, error) {
	if text == "" {
		return ledger.ID{}, malformed(field, "must not be empty")
	}
	id, err := ledger.ParseID(text)
	if err != nil {
		return ledger.ID{}, malformed(field, "%s", err)
	}
	return id, nil
}

// readModelID reads the id of a model, zero for the newest.
func readModelID(field, text string) (ledger.ID, error) {
	if text == "" {
		return ledger.ID{}, nil
	}
	id, err := ledger.ParseID(text)
	if err == nil && id.IsZero() {
		err = fmt.Errorf("%q is not a model", text)
	}
	if err != nil {
		return ledger.ID{}, malformed(field, "%s", err)
	}
	return id, nil
}

// readCommandID reads the id of a command, or makes one.
func readCommandID(field, text string) (ledger.UUID, error) {
	if text == "" {
		return ledger.NewUUID(), nil
	}
	id, err := ledger.ParseUUID(text)
	if err != nil {
		return ledger.UUID{}, malformed(field, "%s", err)
	}
	return id, nil
}

// idFor returns the id of what the command creates: the bits of the command's id, as
// a UUIDv7, so that a retry of the command names the same.
func idFor(command ledger.UUID) ledger.ID {
	id := ledger.ID(command)
	id[6] = id[6]&0x0f | 0x70
	return id
}

func readTuple(field string, t *pb.Tuple) (tuple.Tuple, error) {
	if t == nil {
		return tuple.Tuple{}, malformed(field, "is missing")
	}
	object, err := tuple.ParseObject(t.Object)
	if err != nil {
		return tuple.Tuple{}, ledger.TupleRejection(field, err)
	}
	if err := tuple.ValidateRelation("relation", t.Relation); err != nil {
		return tuple.Tuple{}, ledger.TupleRejection(field, err)
	}
	subject, err := tuple.ParseSubject(t.Subject)
	if err != nil {
		return tuple.Tuple{}, ledger.TupleRejection(field, err)
	}
	return tuple.Tuple{Object: object, Relation: t.Relation, Subject: subject}, nil
}

// readTime reads a moment after 1970 that fits nanoseconds in 64 bits; absent is 0.
func readTime(field string, t *timestamppb.Timestamp) (int64, error) {
	switch {
	case t == nil:
		return 0, nil
	case t.CheckValid() != nil:
		return 0, malformed(field, "is not a moment: it has %d seconds and %d nanoseconds", t.Seconds, t.Nanos)
	case t.Seconds < 0 || t.Seconds == 0 && t.Nanos == 0:
		return 0, malformed(field, "must be after 1970")
	case t.Seconds >= math.MaxInt64/int64(time.Second):
		return 0, malformed(field, "must be before 2262")
	}
	return t.AsTime().UnixNano(), nil
}

// readSpan reads a span above 0; absent is 0.
func readSpan(field string, d *durationpb.Duration) (int64, error) {
	switch {
	case d == nil:
		return 0, nil
	case d.CheckValid() != nil:
		return 0, malformed(field, "is not a span: it has %d seconds and %d nanoseconds", d.Seconds, d.Nanos)
	case d.Seconds >= math.MaxInt64/int64(time.Second):
		return 0, malformed(field, "must be under 292 years")
	case d.AsDuration() <= 0:
		return 0, malformed(field, "must be positive")
	}
	return int64(d.AsDuration()), nil
}

// readContext reads the values for a condition's parameters; absent and empty are null.
func readContext(field string, s *structpb.Struct) (model.Value, error) {
	v, err := dsl.ReadContext(s)
	if err != nil {
		return v, malformed(field, "%s", err)
	}
	return v, nil
}

func readFreshness(f *pb.Freshness) (projector.Freshness, error) {
	flag := func(name string, set bool, kind projector.FreshnessKind) (projector.Freshness, error) {
		if !set {
			return projector.Freshness{}, malformed("freshness."+name, "must be true or absent")
		}
		return projector.Freshness{Kind: kind}, nil
	}
	switch k := f.GetFreshness().(type) {
	case *pb.Freshness_Any:
		return flag("any", k.Any, projector.Any)
	case *pb.Freshness_Latest:
		return flag("latest", k.Latest, projector.Latest)
	case *pb.Freshness_AtLeast:
		t, err := ledger.ParseToken(k.AtLeast)
		if err != nil {
			return projector.Freshness{}, &fieldError{"freshness.at_least", err}
		}
		return projector.Freshness{Kind: projector.AtLeast, Token: t}, nil
	case *pb.Freshness_AtRevision:
		if k.AtRevision == 0 {
			return projector.Freshness{}, malformed(momentField(f), "must be at least 1")
		}
		return projector.Freshness{Kind: projector.AtRevision, Revision: ledger.Revision(k.AtRevision)}, nil
	case *pb.Freshness_AtTime:
		at, err := readTime(momentField(f), k.AtTime)
		return projector.Freshness{Kind: projector.AtTime, Time: at}, err
	case *pb.Freshness_AtToken:
		t, err := ledger.ParseToken(k.AtToken)
		if err != nil {
			return projector.Freshness{}, &fieldError{momentField(f), err}
		}
		return projector.Freshness{Kind: projector.AtToken, Token: t}, nil
	}
	return projector.Freshness{Kind: projector.Any}, nil
}

// isPast reports whether f asks about a moment of the past.
func isPast(f *pb.Freshness) bool {
	switch f.GetFreshness().(type) {
	case *pb.Freshness_AtRevision, *pb.Freshness_AtTime, *pb.Freshness_AtToken:
		return true
	}
	return false
}

// momentField returns the field that says which moment is asked for.
func momentField(f *pb.Freshness) string {
	switch f.GetFreshness().(type) {
	case *pb.Freshness_AtRevision:
		return "freshness.at_revision"
	case *pb.Freshness_AtTime:
		return "freshness.at_time"
	case *pb.Freshness_AtToken:
		return "freshness.at_token"
	}
	return "freshness.at_least"
}

// readCommand reads a command, and compiles the model that it writes, within limits. Rules that hold
// for every form of a command are left to [ledger.Command.Validate].
func readCommand(m *pb.Command, limits dsl.Limits) (*ledger.Command, error) {
	if m == nil {
		return nil, malformed("command", "is missing")
	}
	c := &ledger.Command{Reason: m.Reason, Ticket: m.Ticket, Channel: m.Channel, KeyID: m.KeyId}
	if len(m.Signature) > 0 {
		c.Signature = m.Signature
	}
	var err error
	if c.ID, err = readCommandID("id", m.Id); err != nil {
		return nil, err
	}
	if c.Store, err = readAnyStore("store", m.Store); err != nil {
		return nil, err
	}
	if c.Model, err = readModelID("model", m.Model); err != nil {
		return nil, err
	}
	for i, p := range m.Preconditions {
		t, err := readTuple(fmt.Sprintf("preconditions[%d].tuple", i), p.GetTuple())
		if err != nil {
			return nil, err
		}
		c.Preconditions = append(c.Preconditions, ledger.Precondition{Tuple: t, MustExist: p.GetMustExist()})
	}
	c.Changes = make([]ledger.Change, len(m.Changes))
	for i, ch := range m.Changes {
		if err := readChange(fmt.Sprintf("changes[%d]", i), ch, c, limits, &c.Changes[i]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func readChange(field string, m *pb.Change, c *ledger.Command, limits dsl.Limits, ch *ledger.Change) (err error) {
	switch k := m.GetChange().(type) {
	case *pb.Change_Grant:
		ch.Kind = ledger.Grant
		return readGrant(field, k.Grant, ch)
	case *pb.Change_Revoke:
		ch.Kind = ledger.Revoke
		ch.Tuple, err = readTuple(field+".tuple", k.Revoke.GetTuple())
		return err
	case *pb.Change_WriteModel:
		ch.Kind = ledger.WriteModel
		if len(c.Changes) > 1 {
			return nil // it must be alone, which Validate says; nothing is compiled for it
		}
		ch.Model, err = readModelSource(field+".model", k.WriteModel, c.ID, limits)
		return err
	case *pb.Change_CreateStore:
		ch.Kind, ch.Name, ch.Admin = ledger.CreateStore, k.CreateStore.GetName(), k.CreateStore.GetAdmin()
		if ch.Store = idFor(c.ID); k.CreateStore.GetStore() != "" {
			ch.Store, err = readStore(field+".store", k.CreateStore.GetStore())
		}
		return err
	case *pb.Change_DeleteStore:
		ch.Kind = ledger.DeleteStore
		ch.Store, err = readStore(field+".store", k.DeleteStore.GetStore())
		return err
	case *pb.Change_WriteAssertions:
		ch.Kind, ch.Assertions = ledger.WriteAssertions, k.WriteAssertions.GetAssertions()
		ch.Model.ID, err = readModelID(field+".model.id", k.WriteAssertions.GetModel())
		return err
	case *pb.Change_AdvanceEpoch, *pb.Change_Activate:
		return malformed(field, "epochs and fold versions are for operators alone")
	case *pb.Change_BeginRestore, *pb.Change_EndRestore:
		return malformed(field, "a store is restored with StoreService.RestoreStore, from a bundle")
	}
	return malformed(field, "must hold one of grant, revoke, write_model, create_store, delete_store and write_assertions")
}

func readGrant(field string, m *pb.Grant, ch *ledger.Change) (err error) {
	if ch.Tuple, err = readTuple(field+".tuple", m.GetTuple()); err != nil {
		return err
	}
	g := &ch.Grant
	g.Condition, g.Owner = m.GetCondition(), m.GetOwner()
	if g.ExpiresAt, err = readTime(field+".expires_at", m.GetExpiresAt()); err != nil {
		return err
	}
	if ch.ExpiresAfter, err = readSpan(field+".expires_after", m.GetExpiresAfter()); err != nil {
		return err
	}
	if g.NotBefore, err = readTime(field+".not_before", m.GetNotBefore()); err != nil {
		return err
	}
	context, err := readContext(field+".context", m.GetContext())
	if err != nil {
		return err
	}
	if context.Kind != model.NullValue {
		g.Context = model.AppendContext(nil, context)
	}
	return nil
}

var sourceKinds = map[pb.ModelSource_Kind]ledger.SourceKind{
	pb.ModelSource_KIND_UNSPECIFIED: ledger.SourceDSL,
	pb.ModelSource_DSL:              ledger.SourceDSL,
	pb.ModelSource_MODULES:          ledger.SourceModules,
	pb.ModelSource_JSON:             ledger.SourceJSON,
}

func readModelSource(field string, m *pb.ModelSource, command ledger.UUID, limits dsl.Limits) (ledger.ModelSource, error) {
	kind, ok := sourceKinds[m.GetKind()]
	if !ok {
		return ledger.ModelSource{}, malformed(field+".kind", "unknown kind of source %d", m.GetKind())
	}
	if n := len(m.GetSource()); n == 0 || n > ledger.MaxModelSource {
		return ledger.ModelSource{}, malformed(field+".source", "must be 1 to %d bytes, is %d", ledger.MaxModelSource, n)
	}
	id := idFor(command)
	if m.GetId() != "" {
		var err error
		if id, err = readModelID(field+".id", m.GetId()); err != nil {
			return ledger.ModelSource{}, err
		}
	}
	source, err := dsl.Compile(kind, []byte(m.GetSource()), limits)
	if err != nil {
		return ledger.ModelSource{}, malformed(field+".source", "%s", err)
	}
	source.ID = id
	return source, nil
}

// The message functions turn grantlog's own types into messages.

func tupleMessage(t tuple.Tuple) *pb.Tuple {
	return &pb.Tuple{Object: t.Object.String(), Relation: t.Relation, Subject: t.Subject.String()}
}

// timeMessage returns the moment; absent for 0.
func timeMessage(at int64) *timestamppb.Timestamp {
	if at == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(0, at))
}

func rejectionMessage(r *ledger.Rejection) *pb.Rejection {
	return &pb.Rejection{Code: pb.Rejection_Code(r.Code), Field: validText(r.Field), Message: validText(r.Message)}
}

func outcomeMessage(o *ledger.Outcome) *pb.Outcome {
	m := &pb.Outcome{Kind: pb.Outcome_Kind(o.Kind), Effective: uint32(o.Effective), First: uint64(o.First)}
	if o.Rejection != nil {
		m.Rejection = rejectionMessage(o.Rejection)
	}
	return m
}

// entryMessage returns the entry, with the command's bytes if raw is set or if they
// are no command.
func entryMessage(e *ledger.Entry, raw bool) *pb.Entry {
	m := &pb.Entry{
		Store: e.Store.String(), Revision: uint64(e.Revision), Time: timeMessage(e.Time),
		Actor: e.Origin.Actor, Attester: validText(e.Origin.Attester), Method: pb.Entry_Method(e.Origin.Method),
		FoldVersion: e.FoldVersion, Outcome: outcomeMessage(&e.Outcome), Prev: e.Prev[:],
	}
	if c, rejection := e.Command(); rejection == nil {
		m.Command = commandMessage(c)
	}
	if raw || m.Command == nil {
		m.Raw = e.Raw
	}
	return m
}

func commandMessage(c *ledger.Command) *pb.Command {
	m := &pb.Command{
		Id: c.ID.String(), Store: c.Store.String(), Reason: c.Reason, Ticket: c.Ticket, Channel: c.Channel,
		KeyId: c.KeyID, Signature: c.Signature,
	}
	if !c.Model.IsZero() {
		m.Model = c.Model.String()
	}
	for _, p := range c.Preconditions {
		m.Preconditions = append(m.Preconditions, &pb.Precondition{Tuple: tupleMessage(p.Tuple), MustExist: p.MustExist})
	}
	for i := range c.Changes {
		m.Changes = append(m.Changes, changeMessage(&c.Changes[i]))
	}
	return m
}

func changeMessage(ch *ledger.Change) *pb.Change {
	switch ch.Kind {
	case ledger.Grant:
		return &pb.Change{Change: &pb.Change_Grant{Grant: grantMessage(ch)}}
	case ledger.Revoke:
		return &pb.Change{Change: &pb.Change_Revoke{Revoke: &pb.Revoke{Tuple: tupleMessage(ch.Tuple)}}}
	case ledger.WriteModel:
		return &pb.Change{Change: &pb.Change_WriteModel{WriteModel: modelSourceMessage(&ch.Model)}}
	case ledger.CreateStore:
		return &pb.Change{Change: &pb.Change_CreateStore{CreateStore: &pb.CreateStore{Store: ch.Store.String(), Name: ch.Name, Admin: ch.Admin}}}
	case ledger.DeleteStore:
		return &pb.Change{Change: &pb.Change_DeleteStore{DeleteStore: &pb.DeleteStore{Store: ch.Store.String()}}}
	case ledger.AdvanceEpoch:
		epoch := &pb.Epoch{Number: ch.Epoch.Number}
		for _, cut := range ch.Epoch.Cuts {
			epoch.Cuts = append(epoch.Cuts, &pb.Cut{From: cut.From, To: cut.To, Missing: cut.Missing})
		}
		return &pb.Change{Change: &pb.Change_AdvanceEpoch{AdvanceEpoch: epoch}}
	case ledger.Activate:
		return &pb.Change{Change: &pb.Change_Activate{Activate: &pb.Activate{Version: ch.Version}}}
	case ledger.BeginRestore:
		return &pb.Change{Change: &pb.Change_BeginRestore{BeginRestore: &pb.BeginRestore{Store: ch.Store.String()}}}
	case ledger.EndRestore:
		return &pb.Change{Change: &pb.Change_EndRestore{EndRestore: &pb.EndRestore{Store: ch.Store.String(), Deleted: ch.Deleted}}}
	case ledger.WriteAssertions:
		return &pb.Change{Change: &pb.Change_WriteAssertions{WriteAssertions: &pb.WriteAssertions{Model: ch.Model.ID.String(), Assertions: ch.Assertions}}}
	}
	panic(fmt.Sprintf("serve: no change of kind %d", ch.Kind)) // ledger.ReadCommand returns none
}

func grantMessage(ch *ledger.Change) *pb.Grant {
	g := &pb.Grant{
		Tuple: tupleMessage(ch.Tuple), ExpiresAt: timeMessage(ch.Grant.ExpiresAt), NotBefore: timeMessage(ch.Grant.NotBefore),
		Condition: ch.Grant.Condition, Owner: ch.Grant.Owner,
	}
	if ch.ExpiresAfter != 0 {
		g.ExpiresAfter = durationpb.New(time.Duration(ch.ExpiresAfter))
	}
	g.Context = dsl.ContextMessage(ch.Grant.Context)
	return g
}

func modelSourceMessage(m *ledger.ModelSource) *pb.ModelSource {
	return &pb.ModelSource{Id: m.ID.String(), Kind: pb.ModelSource_Kind(m.Kind), Source: validText(string(m.Source))}
}

// validText makes text that came through the log fit a message, which holds UTF-8 alone.
func validText(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
