package audit

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

// The kinds of cause as cells tell them. Of an expiry and a start the command is the one
// that had granted the tuple.
const (
	causeCommand = "command"
	causeModel   = "model"   // a command that wrote one
	causeExpiry  = "expiry"  // an expires_at came
	causeStart   = "start"   // a not_before came
	causeClock   = "clock"   // a condition that looks at the time; it was otherwise at the time told
	causeNever   = "never"   // it was never otherwise
	causeUnknown = "unknown" // it was not found out within the budget
)

// orClock follows a kind of cause if a condition that looks at the time may have made it
// otherwise meanwhile: it is so since the time told at the earliest.
const orClock = " or clock"

// causeColumns are the columns that tell a cause.
var causeColumns = []string{"cause", "time", "revision", "actor", "ticket", "reason"}

// A cause is what made an answer or a tuple what it is.
type cause struct {
	kind     string
	at       int64           // when; 0: at the revision's log time, or never
	revision ledger.Revision // of the command; 0 for none
}

// causeCells returns the cells that tell a cause.
func (m *Moment) causeCells(c cause) ([]string, error) {
	if c.revision == 0 {
		return []string{c.kind, clockText(c.at), "", "", "", ""}, nil
	}
	p, err := m.provenance(c.revision)
	if err != nil {
		return nil, err
	}
	return []string{c.kind, clockText(cmp.Or(c.at, p.Time)), fmt.Sprint(c.revision), Cell(p.Actor), Cell(p.Ticket), Cell(p.Reason)}, nil
}

// maxProvenances bounds what a moment remembers of revisions: one command makes many rows.
const maxProvenances = 1024

func (m *Moment) provenance(rev ledger.Revision) (query.Provenance, error) {
	if p, ok := m.revisions[rev]; ok {
		return p, nil
	}
	p, err := query.ProvenanceOf(m.view, rev)
	if err != nil {
		return p, err
	}
	if len(m.revisions) >= maxProvenances {
		clear(m.revisions)
	}
	m.revisions[rev] = p
	return p, nil
}

// turn returns since when and because of what a question has the answer that it has, and
// the tuple that it was about, "" for none. After is the moment that the answer was
// another at, nil if that is not known.
func (m *Moment) turn(ctx context.Context, t tuple.Tuple, after *Moment) (cause, string, error) {
	if err := m.fresh(); err != nil {
		return cause{}, "", err
	}
	if m.known("", t.Object.Type, t.Relation) != nil || m.known("", t.Subject.Type, t.Subject.Relation) != nil {
		c, err := m.withoutCause(t)
		return c, "", err
	}
	turn, err := m.asking.Turn(ctx, query.Question{Tuple: t, Given: m.given})
	switch {
	case err != nil:
		return cause{}, "", err
	case after != nil && turn.Timed && turn.Cause != query.Unknown && turn.Time <= after.time && turn.Command.Revision <= after.view.Revision():
		return cause{kind: causeClock, at: after.time}, "", nil // nothing else happened since
	}
	c := cause{at: turn.Time, revision: turn.Command.Revision}
	switch turn.Cause {
	case query.ByCommand:
		c.kind = causeCommand
		if turn.Tuple == (tuple.Tuple{}) {
			c.kind = causeModel
		}
	case query.ByExpiry:
		c.kind = causeExpiry
	case query.ByStart:
		c.kind = causeStart
	case query.ByClock:
		c.kind = causeClock
	case query.Never:
		c.kind = causeNever
	default:
		c.kind = causeUnknown
	}
	if turn.Timed && c.kind != causeClock {
		c.kind += orClock
	}
	if turn.Tuple == (tuple.Tuple{}) {
		return c, "", nil
	}
	return c, turn.Tuple.String(), nil
}

// withoutCause returns the model since which the store has had none with what t names.
func (m *Moment) withoutCause(t tuple.Tuple) (cause, error) {
	has := func(r *model.Model, typ, relation string) bool {
		_, ok := r.Type(typ)
		if ok && relation != "" {
			_, ok = r.Relation(typ, relation)
		}
		return ok
	}
	models := m.view.Models()
	c := cause{kind: causeNever}
	for i := len(models) - 1; i >= 0; i-- {
		r, err := m.view.Model(models[i].ID)
		if err != nil {
			return cause{}, err
		}
		if has(r, t.Object.Type, t.Relation) && has(r, t.Subject.Type, t.Subject.Relation) {
			return c, nil
		}
		c = cause{kind: causeModel, revision: models[i].Revision}
	}
	return cause{kind: causeNever}, nil
}

// path returns the way by which a subject holds a relation: the tuples that prove it, each
// with the command that granted it. What leads on is followed by what it leads to:
//
//	doc:plan#viewer@group:eng#member (revision 12, u007, OPS-17) < group:eng#member@user:ann (revision 9, hr, HR-2)
func (m *Moment) path(ctx context.Context, t tuple.Tuple) (string, error) {
	if err := m.fresh(); err != nil {
		return "", err
	}
	x, err := m.asking.Explain(ctx, query.Question{Tuple: t, Given: m.given})
	if err != nil && unanswered(err) {
		return Cell(notTold + err.Error()), nil
	}
	if err != nil {
		return "", err
	}
	return Cell(pathText(x.Explanation, x.Behind)), nil
}

// pathText returns what proves x, or "" if that is nothing that was granted.
func pathText(x *model.Explanation, behind map[tuple.Tuple]query.Behind) string {
	switch {
	case x.Itself:
		return "the subject itself"
	case x.Elsewhere:
		return fmt.Sprintf("%s#%s as told", x.Object, x.Relation)
	}
	for i := range x.Grants {
		g := &x.Grants[i]
		if g.State != model.Counts {
			continue
		}
		text := g.Tuple.String() + behindText(behind[g.Tuple])
		if g.Leads != nil {
			text += " < " + pathText(g.Leads, behind)
		}
		return text
	}
	var texts []string
	for _, b := range x.Branches {
		if b.Verdict == model.Holds {
			texts = append(texts, pathText(b, behind))
		}
	}
	if x.Op == model.Intersect {
		return "(" + strings.Join(texts, " and ") + ")"
	}
	return strings.Join(texts, " ")
}

// behindText says who granted something, and until when.
func behindText(b query.Behind) string {
	if b.Made == nil {
		return ""
	}
	text := fmt.Sprintf(" (revision %d, %s", b.Made.Revision, b.Made.Actor)
	if b.Made.Ticket != "" {
		text += ", " + b.Made.Ticket
	}
	if b.Grant.ExpiresAt != 0 {
		text += ", until " + clockText(b.Grant.ExpiresAt)
	}
	return text + ")"
}
