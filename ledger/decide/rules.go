package decide

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// The rules, in the order in which they are asked. The first that a command breaks is its
// rejection, and then it changes nothing. Fold version 2 has those of 1, and besides
// restores stores and keeps assertions; where it decides otherwise, the version is asked for.
//
//  1. The bytes are a command, under a subject that may carry one. What is not is an
//     entry of system.
//  2. Its store is live. What is sent to no live store is an entry of system too.
//     It claims no id there, since the id belongs to the store it was sent to.
//  3. It is not signed: these versions verify no signature, so they take none.
//  4. Its id is new for the store and the actor. The same content again is a
//     duplicate of the first, even of a rejected one; other content is a conflict.
//     Neither claims the id, nor does a signed command whose id is taken.
//  5. Its actor has the right to it.
//  6. Its preconditions hold.
//  7. The model it names exists, or there is one if it grants.
//  8. Each of its changes is allowed, in order.
//
// Every message recorded here stands in a leaf of the store's tree, so its wording is
// as frozen as the rule. Text of others is quoted with %+q, which is the same in every
// release of Go, where %q follows the Unicode tables of the release.

// maxMessage limits a rejection's message, in bytes: it repeats what the model says
// about itself, which can be long.
const maxMessage = 1024

func decideAll(s State, in Input) ([]Record, error) {
	if in.Malformed != nil {
		return one(recordUnread(s, in, in.Malformed))
	}
	switch in.Kind {
	case ledger.EdgeSubject, ledger.PrincipalSubject, ledger.EpochSubject, ledger.ActivateSubject:
	default:
		return one(recordUnread(s, in, ledger.Reject(ledger.CodeMalformed, "", "no command may stand under this subject")))
	}
	c, rejection := ledger.ReadCommand(in.Raw, in.Version)
	if rejection != nil {
		return one(recordUnread(s, in, rejection))
	}
	r := Record{Store: c.Store, Command: c, Content: c.ContentHash()}
	status, err := statusOf(s, c.Store)
	if err != nil {
		return nil, err
	}
	if status != Live {
		r.Store = ledger.System
	}
	if r.Time, err = logTime(s, r.Store, in.Time); err != nil {
		return nil, err
	}
	if status != Live {
		r.Outcome = rejected(notLive("store", c.Store, status))
		return []Record{r}, nil
	}
	first, again, err := s.Command(c.Store, in.Origin.Actor, c.ID)
	if err != nil {
		return nil, fmt.Errorf("command id: %w", err)
	}
	r.Claims = !again
	switch {
	case c.KeyID != "" || c.Signature != nil:
		r.Outcome = rejected(ledger.Reject(ledger.CodeMalformed, "signature", "must be absent: fold version %d takes no signed command", in.Version))
		return []Record{r}, nil
	case again && first.Content == r.Content:
		r.Outcome = ledger.Outcome{Kind: ledger.Duplicate, First: first.Revision}
		return []Record{r}, nil
	case again:
		r.Outcome = rejected(ledger.Reject(ledger.CodeConflict, "id", "was used at revision %d by this actor for another command; a new command needs a new id", first.Revision))
		return []Record{r}, nil
	}
	d := decider{state: s, command: c, time: r.Time, version: in.Version}
	if rejection, err = d.decide(in); err != nil {
		return nil, err
	}
	if rejection != nil {
		r.Outcome = rejected(rejection)
		return []Record{r}, nil
	}
	r.Outcome = ledger.Outcome{Kind: ledger.Applied, Effective: len(d.effects)}
	r.Effects = d.effects
	records := []Record{r}
	if kind := c.Changes[0].Kind; kind == ledger.CreateStore || kind == ledger.DeleteStore && d.effects[0].Status == Deleted {
		own := r
		own.Store = c.Changes[0].Store
		own.Claims = false
		if own.Time, err = logTime(s, own.Store, r.Time); err != nil {
			return nil, err
		}
		records = append(records, own)
	}
	return records, nil
}

func one(r Record, err error) ([]Record, error) {
	if err != nil {
		return nil, err
	}
	return []Record{r}, nil
}

// recordUnread returns the record of bytes that are no command.
func recordUnread(s State, in Input, why *ledger.Rejection) (Record, error) {
	at, err := logTime(s, ledger.System, in.Time)
	return Record{Store: ledger.System, Time: at, Outcome: rejected(why)}, err
}

func rejected(why *ledger.Rejection) ledger.Outcome {
	return ledger.Outcome{Kind: ledger.Rejected, Rejection: &ledger.Rejection{
		Code: why.Code, Field: clean(why.Field), Message: clean(why.Message),
	}}
}

// clean returns text as valid UTF-8 of at most maxMessage bytes, because an outcome
// must be readable wherever it was written.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= maxMessage {
		return text
	}
	const cut = " …"
	end := maxMessage - len(cut)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + cut
}

// moment returns a log time as text. Of package time the rules use no more than this.
func moment(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339Nano) }

func statusOf(s State, store ledger.ID) (Status, error) {
	if store == ledger.System {
		return Live, nil
	}
	status, err := s.Status(store)
	if err != nil {
		return None, fmt.Errorf("status of store %s: %w", store, err)
	}
	return status, nil
}

// logTime returns the time of the store's next entry, given the broker's.
func logTime(s State, store ledger.ID, broker int64) (int64, error) {
	last, err := s.LogTime(store)
	if err != nil {
		return 0, fmt.Errorf("log time of store %s: %w", store, err)
	}
	return max(last, broker), nil
}

func notLive(field string, store ledger.ID, status Status) *ledger.Rejection {
	if status == Deleted || status == GivenUp {
		return ledger.Reject(ledger.CodeNotFound, field, "the store %s was deleted and takes no commands", store)
	}
	if status == Restoring {
		return ledger.Reject(ledger.CodeNotFound, field, "the store %s is being restored and takes no commands yet", store)
	}
	return ledger.Reject(ledger.CodeNotFound, field, "there is no store %s", store)
}

// authorize is the one place where rights are decided. It returns why the actor may
// not ask for the command, or nil.
//
// Fold versions 1 and 2 give every actor every right to stores, models and tuples. Epochs
// and fold versions belong each to a subject that only operators may publish under,
// and nothing else does. Stores are restored by edges alone, which verify first.
func authorize(_ State, in Input, c *ledger.Command) (*ledger.Rejection, error) {
	// Such a change is alone in its command, so the first change tells.
	kind := c.Changes[0].Kind
	if epoch := kind == ledger.AdvanceEpoch; epoch != (in.Kind == ledger.EpochSubject) {
		if epoch {
			return ledger.Reject(ledger.CodeDenied, "changes[0].epoch", "an epoch may be advanced under the epoch subject only"), nil
		}
		return ledger.Reject(ledger.CodeDenied, "changes[0]", "under the epoch subject only an epoch may be advanced"), nil
	}
	if activate := kind == ledger.Activate; activate != (in.Kind == ledger.ActivateSubject) {
		if activate {
			return ledger.Reject(ledger.CodeDenied, "changes[0].version", "a fold version may be activated under the activate subject only"), nil
		}
		return ledger.Reject(ledger.CodeDenied, "changes[0]", "under the activate subject only a fold version may be activated"), nil
	}
	if (kind == ledger.BeginRestore || kind == ledger.EndRestore) && in.Kind != ledger.EdgeSubject {
		return ledger.Reject(ledger.CodeDenied, "changes[0]", "a store may be restored under the subject of an edge only"), nil
	}
	return nil, nil
}

// A decider collects the effects of one command. The command's changes touch no tuple
// twice, so the state before it is the state before each of them.
type decider struct {
	state   State
	command *ledger.Command
	time    int64        // log time of the entry
	model   *model.Model // that grants are held against, or nil
	effects []Effect     // what changed so far
	version uint64       // the fold version in force
}

// decide returns why the command is rejected, or nil; then d.effects is what it does.
func (d *decider) decide(in Input) (*ledger.Rejection, error) {
	if why, err := authorize(d.state, in, d.command); why != nil || err != nil {
		return why, err
	}
	for i := range d.command.Preconditions {
		if why, err := d.precondition(i); why != nil || err != nil {
			return why, err
		}
	}
	if why, err := d.findModel(); why != nil || err != nil {
		return why, err
	}
	for i := range d.command.Changes {
		if why, err := d.change(i); why != nil || err != nil {
			return why, err
		}
	}
	return nil, nil
}

// live returns what the tuple is granted with. A grant whose expiry is not after the
// log time is none; one that counts only later is one.
func (d *decider) live(t tuple.Tuple) (model.Grant, bool, error) {
	g, ok, err := d.state.Grant(d.command.Store, t)
	if err != nil {
		return model.Grant{}, false, fmt.Errorf("tuple: %w", err)
	}
	if !ok || g.ExpiresAt != 0 && g.ExpiresAt <= d.time {
		return model.Grant{}, false, nil
	}
	return g, true, nil
}

func (d *decider) precondition(i int) (*ledger.Rejection, error) {
	p := &d.command.Preconditions[i]
	_, live, err := d.live(p.Tuple)
	if err != nil || live == p.MustExist {
		return nil, err
	}
	rule := "must not exist, but is granted"
	if p.MustExist {
		rule = "must exist, but is not granted"
	}
	return ledger.Reject(ledger.CodePrecondition, fmt.Sprintf("preconditions[%d].tuple", i), "%s", rule), nil
}

// findModel sets d.model if the command names one or grants something.
func (d *decider) findModel() (*ledger.Rejection, error) {
	c := d.command
	needed := !c.Model.IsZero()
	for i := range c.Changes {
		needed = needed || c.Changes[i].Kind == ledger.Grant
	}
	if !needed {
		return nil, nil
	}
	m, err := d.state.Model(c.Store, c.Model)
	switch {
	case err != nil:
		return nil, fmt.Errorf("model: %w", err)
	case m != nil:
		d.model = m
		return nil, nil
	case c.Model.IsZero():
		return ledger.Reject(ledger.CodePrecondition, "model", "the store has no model yet; write one before granting"), nil
	}
	return ledger.Reject(ledger.CodeNotFound, "model", "the store has no model %s", c.Model), nil
}

func (d *decider) change(i int) (*ledger.Rejection, error) {
	ch := &d.command.Changes[i]
	switch ch.Kind {
	case ledger.Grant:
		return d.grant(i, ch)
	case ledger.Revoke:
		// The model is not asked: what it allowed once can always be taken back.
		_, live, err := d.live(ch.Tuple)
		if err == nil && live {
			d.effects = append(d.effects, Effect{Kind: SetTuple, Tuple: ch.Tuple})
		}
		return nil, err
	case ledger.WriteModel:
		return d.writeModel(ch)
	case ledger.CreateStore:
		status, err := statusOf(d.state, ch.Store)
		if err != nil {
			return nil, err
		}
		if status != None {
			return ledger.Reject(ledger.CodePrecondition, "changes[0].store", "the id %s was used for a store already; a new store needs a new id", ch.Store), nil
		}
		d.effects = append(d.effects, Effect{Kind: SetStore, Store: ch.Store, Status: Live, Name: ch.Name, Admin: ch.Admin})
		return nil, nil
	case ledger.DeleteStore:
		status, err := statusOf(d.state, ch.Store)
		if err != nil {
			return nil, err
		}
		e := Effect{Kind: SetStore, Store: ch.Store, Status: Deleted}
		switch status {
		case Live:
		case Restoring:
			e.Status = GivenUp // its own record ends where it is
		default:
			return notLive("changes[0].store", ch.Store, status), nil
		}
		d.effects = append(d.effects, e)
		return nil, nil
	case ledger.AdvanceEpoch:
		// A later epoch than the next is right where the entries of those between were
		// themselves lost: an epoch's cuts name every loss before it.
		if now := d.state.Epoch(); ch.Epoch.Number <= now {
			return ledger.Reject(ledger.CodePrecondition, "changes[0].epoch", "must be after epoch %d, is %d", now, ch.Epoch.Number), nil
		}
		d.effects = append(d.effects, Effect{Kind: SetEpoch, Epoch: ch.Epoch})
		return nil, nil
	case ledger.Activate:
		// Activating what is in force changes nothing. What no version here knows is of a
		// newer program, and deciding on by these rules would part from it.
		switch {
		case ch.Version > ledger.NewestFoldVersion:
			return nil, fmt.Errorf("%w: version %d, known are 1 to %d", ledger.ErrFoldVersion, ch.Version, ledger.NewestFoldVersion)
		case ch.Version < d.version:
			return ledger.Reject(ledger.CodePrecondition, "changes[0].version", "must be at least %d, which is in force, is %d", d.version, ch.Version), nil
		case ch.Version > d.version:
			d.effects = append(d.effects, Effect{Kind: SetVersion, Version: ch.Version})
		}
		return nil, nil
	case ledger.BeginRestore:
		status, err := statusOf(d.state, ch.Store)
		if err != nil {
			return nil, err
		}
		if status != None {
			return ledger.Reject(ledger.CodePrecondition, "changes[0].store", "the id %s was used for a store of this log already", ch.Store), nil
		}
		d.effects = append(d.effects, Effect{Kind: SetStore, Store: ch.Store, Status: Restoring})
		return nil, nil
	case ledger.EndRestore:
		status, err := statusOf(d.state, ch.Store)
		if err != nil {
			return nil, err
		}
		if status != Restoring {
			return ledger.Reject(ledger.CodePrecondition, "changes[0].store", "the store %s is not being restored", ch.Store), nil
		}
		e := Effect{Kind: SetStore, Store: ch.Store, Status: Live}
		if ch.Deleted {
			e.Status = Deleted
		}
		d.effects = append(d.effects, e)
		return nil, nil
	case ledger.WriteAssertions:
		return d.writeAssertions(ch)
	}
	panic(fmt.Sprintf("decide: a command read by the ledger has a change of kind %d", ch.Kind))
}

func (d *decider) grant(i int, ch *ledger.Change) (*ledger.Rejection, error) {
	reject := func(code ledger.Code, part, format string, args ...any) (*ledger.Rejection, error) {
		return ledger.Reject(code, fmt.Sprintf("changes[%d].%s", i, part), format, args...), nil
	}
	g := ch.Grant
	if err := d.model.Allows(ch.Tuple, g.Condition); err != nil {
		return d.refusal(i, ch, err), nil
	}
	if g.Context != nil {
		typed, err := d.typeContext(&g)
		if err != nil {
			return reject(ledger.CodeInvalid, "context", "%s", err)
		}
		g.Context = typed
	}
	switch {
	case g.ExpiresAt != 0 && g.ExpiresAt <= d.time:
		return reject(ledger.CodePrecondition, "expires_at", "must be after the entry's log time %s, is %s", moment(d.time), moment(g.ExpiresAt))
	case ch.ExpiresAfter > math.MaxInt64-d.time:
		return reject(ledger.CodePrecondition, "expires_after", "must end before April 2262")
	case ch.ExpiresAfter != 0:
		if g.ExpiresAt = d.time + ch.ExpiresAfter; g.ExpiresAt <= g.NotBefore {
			return reject(ledger.CodePrecondition, "expires_after", "must end after not_before %s, ends %s", moment(g.NotBefore), moment(g.ExpiresAt))
		}
	}
	now, live, err := d.live(ch.Tuple)
	if err != nil {
		return nil, err
	}
	if !live || !now.Equal(g) {
		d.effects = append(d.effects, Effect{Kind: SetTuple, Tuple: ch.Tuple, Live: true, Grant: g})
	}
	return nil, nil
}

// typeContext returns the grant's context with each parameter in the type that the
// condition gives it, in canonical bytes, so that equal contexts are equal bytes. A
// parameter that is missing is left to the question.
func (d *decider) typeContext(g *model.Grant) ([]byte, error) {
	condition, ok := d.model.Condition(g.Condition)
	if !ok {
		panic(fmt.Sprintf("decide: the model allows the condition %+q, which it does not have", g.Condition))
	}
	given, err := model.DecodeContext(g.Context)
	if err != nil {
		return nil, err
	}
	typed, err := condition.TypeContext(given)
	if err != nil {
		return nil, err
	}
	b := model.AppendContext(nil, typed)
	if len(b) > model.MaxContext {
		return nil, fmt.Errorf("must be at most %d bytes once typed, is %d", model.MaxContext, len(b))
	}
	return b, nil
}

func (d *decider) writeModel(ch *ledger.Change) (*ledger.Rejection, error) {
	used, err := d.state.Model(d.command.Store, ch.Model.ID)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if used != nil {
		return ledger.Reject(ledger.CodePrecondition, "changes[0].model.id", "the store has a model %s already; a new model needs a new id", ch.Model.ID), nil
	}
	m, err := model.DecodeModel(ch.Model.Compiled)
	if err != nil {
		return ledger.Reject(ledger.CodeInvalid, "changes[0].model.compiled", "%s", err), nil
	}
	d.effects = append(d.effects, Effect{Kind: SetModel, Source: ch.Model, Model: m})
	return nil, nil
}

func (d *decider) writeAssertions(ch *ledger.Change) (*ledger.Rejection, error) {
	m, err := d.state.Model(d.command.Store, ch.Model.ID)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if m == nil {
		return ledger.Reject(ledger.CodeNotFound, "changes[0].model.id", "the store has no model %s", ch.Model.ID), nil
	}
	now, err := d.state.Assertions(d.command.Store, ch.Model.ID)
	if err != nil {
		return nil, fmt.Errorf("assertions: %w", err)
	}
	if string(now) != string(ch.Assertions) {
		d.effects = append(d.effects, Effect{Kind: SetAssertions, Source: ledger.ModelSource{ID: ch.Model.ID}, Assertions: ch.Assertions})
	}
	return nil, nil
}

// refusal returns the rejection for what model.Allows said of the grant at change i.
func (d *decider) refusal(i int, ch *ledger.Change, err error) *ledger.Rejection {
	field := fmt.Sprintf("changes[%d]", i)
	var refusal *model.Refusal
	if !errors.As(err, &refusal) {
		return ledger.Reject(ledger.CodeInvalid, field, "%s", err)
	}
	part := refusal.Part
	switch {
	case part == "condition":
		return ledger.Reject(code(refusal), field+".condition", "%s", refusal.Text)
	case refusal.NotFound && part == "object":
		part = "object.type"
	case refusal.NotFound && part == "subject":
		part = "subject.type"
		if _, known := d.model.Type(ch.Tuple.Subject.Type); known {
			part = "subject.relation"
		}
	}
	return ledger.Reject(code(refusal), field+".tuple."+part, "%s", refusal.Text)
}

func code(r *model.Refusal) ledger.Code {
	if r.NotFound {
		return ledger.CodeNotFound
	}
	return ledger.CodeInvalid
}
