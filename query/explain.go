package query

import (
	"context"
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// A Provenance is where something comes from: the command of an entry, and who asked for it.
type Provenance struct {
	Revision ledger.Revision
	Time     int64 // log time, nanoseconds since the Unix epoch
	Actor    string
	Method   ledger.Method // how it was known who asked
	Reason   string
	Ticket   string
	Channel  string
	Command  ledger.UUID
}

// ProvenanceOf returns the provenance of what a revision up to the view's made. Errors are
// those of [index.View.Entry], and [index.ErrDamaged] for an entry that made nothing
// because it holds no command.
func ProvenanceOf(v *index.View, rev ledger.Revision) (Provenance, error) {
	e, err := v.Entry(rev)
	if err != nil {
		return Provenance{}, err
	}
	c, rejection := e.CommandHead()
	if rejection != nil {
		return Provenance{}, fmt.Errorf("%w: revision %d holds no command", index.ErrDamaged, rev)
	}
	return Provenance{rev, e.Time, e.Origin.Actor, e.Origin.Method, c.Reason, c.Ticket, c.Channel, c.ID}, nil
}

// A Behind is what stands behind a tuple that was looked at.
type Behind struct {
	Grant model.Grant // what it is granted with; if it is revoked, what it was
	// Made is the command that granted it as it is or last was; nil for a tuple that never
	// was granted, and for a contextual one.
	Made *Provenance
	// Ended is the command that revoked it, nil unless it is revoked.
	Ended      *Provenance
	Contextual bool // the question gives it
}

// An Explanation is an answer with its reasons.
type Explanation struct {
	*model.Explanation
	Behind map[tuple.Tuple]Behind // of every tuple told
}

// Explain answers q as [Asking.Check] does, and says why; see [model.Model.Explain]. An
// answer of Check that is an error of the question itself is the Err of the whole. The
// commands behind all grants told are read too.
//
// Errors are those that leave the question unexplained: an [*InvalidError], a
// [*model.BudgetError] of rows, memory or time, ctx's error, errors of the index.
func (a *Asking) Explain(ctx context.Context, q Question) (Explanation, error) {
	if err := a.known(q.Tuple); err != nil {
		return Explanation{}, err
	}
	budget := a.engine.budgets.Check
	budget.Time = a.engine.budgets.List.Time
	sc, err := a.scope(ctx, &q.Given, budget)
	if err != nil {
		return Explanation{}, err
	}
	tree, _, err := a.model.Explain(sc, a.engine.budgets.List, questionOf(q.Tuple))
	if err != nil {
		return Explanation{}, err
	}
	p := prover{view: a.view, behind: make(map[tuple.Tuple]Behind), made: make(map[ledger.Revision]*Provenance)}
	for _, c := range q.Contextual {
		p.behind[c.Tuple] = Behind{Contextual: true}
	}
	if err := p.all(tree); err != nil {
		return Explanation{}, err
	}
	return Explanation{tree, p.behind}, nil
}

// A prover finds what stands behind the tuples of an explanation.
type prover struct {
	view   *index.View
	behind map[tuple.Tuple]Behind
	made   map[ledger.Revision]*Provenance
}

func (p *prover) all(x *model.Explanation) error {
	for i := range x.Grants {
		if err := p.tuple(&x.Grants[i]); err != nil {
			return err
		}
	}
	for b := range x.Below() {
		if err := p.all(b); err != nil {
			return err
		}
	}
	return nil
}

func (p *prover) tuple(l *model.Look) error {
	if b, ok := p.behind[l.Tuple]; ok {
		if b.Contextual {
			b.Grant = l.Grant
			p.behind[l.Tuple] = b
		}
		return nil
	}
	var b Behind
	newest, ever, err := p.view.Newest(l.Tuple)
	live := newest
	if err == nil && ever && !newest.Live {
		if b.Ended, err = p.provenance(newest.Revision); err == nil {
			live, err = lastLive(p.view, l.Tuple)
		}
	}
	if err == nil && live.Live {
		b.Grant = live.Grant
		b.Made, err = p.provenance(live.Revision)
	}
	p.behind[l.Tuple] = b
	return err
}

// lastLive returns the newest version of a tuple that was live, the zero one if none was.
func lastLive(v *index.View, t tuple.Tuple) (last index.Version, err error) {
	kind := model.Kind{Type: t.Subject.Type, Relation: t.Subject.Relation}
	err = v.Versions(index.ByObject(t.Object, t.Relation, &kind, t.Subject.ID), func(n index.Version) bool {
		if n.Live {
			last = n
		}
		return !n.Live
	})
	return last, err
}

func (p *prover) provenance(rev ledger.Revision) (*Provenance, error) {
	if made := p.made[rev]; made != nil {
		return made, nil
	}
	made, err := ProvenanceOf(p.view, rev)
	p.made[rev] = &made
	return &made, err
}
