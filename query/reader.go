package query

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// An overlay is a Reader with contextual tuples over it.
type overlay struct {
	model.Reader
	tuples []tuple.Tuple // sorted by Compare
	grants map[tuple.Tuple]model.Grant
}

// overlay validates contextual tuples as grants are validated.
func (a *Asking) overlay(contextual []Contextual) (*overlay, error) {
	if len(contextual) > MaxContextual {
		return nil, invalid("contextual", "must be at most %d, are %d", MaxContextual, len(contextual))
	}
	o := &overlay{Reader: a.view, grants: make(map[tuple.Tuple]model.Grant, len(contextual))}
	for i, c := range contextual {
		field := fmt.Sprintf("contextual[%d]", i)
		if _, twice := o.grants[c.Tuple]; twice {
			return nil, invalid(field+".tuple", "stands twice")
		}
		if err := a.model.Allows(c.Tuple, c.Condition); err != nil {
			return nil, refused(field, err)
		}
		g := model.Grant{Condition: c.Condition}
		if c.Context.Kind != model.NullValue {
			if c.Context.Kind != model.MapValue {
				return nil, invalid(field+".context", "must be an object")
			}
			condition, ok := a.model.Condition(c.Condition)
			if !ok {
				return nil, invalid(field+".context", "must be absent without a condition")
			}
			typed, err := condition.TypeContext(c.Context)
			if err != nil {
				return nil, invalid(field+".context", "%s", err)
			}
			g.Context = model.AppendContext(nil, typed)
		}
		o.grants[c.Tuple] = g
		o.tuples = append(o.tuples, c.Tuple)
	}
	slices.SortFunc(o.tuples, tuple.Tuple.Compare)
	return o, nil
}

// refused turns what a model does not allow into an error about the field.
func refused(field string, err error) error {
	var refusal *model.Refusal
	if errors.As(err, &refusal) {
		part := "tuple." + refusal.Part
		if refusal.Part == "condition" {
			part = refusal.Part
		}
		return invalid(field+"."+part, "%s", refusal.Text)
	}
	return invalid(field, "%s", err)
}

func (o *overlay) Grant(t tuple.Tuple) (model.Grant, bool, error) {
	if g, ok := o.grants[t]; ok {
		return g, true, nil
	}
	return o.Reader.Grant(t)
}

func (o *overlay) Subjects(object tuple.Object, relation, stype, srel, after string, yield func(tuple.Subject, model.Grant) bool) error {
	var own []tuple.Tuple // in order of subject id
	for _, t := range o.tuples {
		if t.Object == object && t.Relation == relation && t.Subject.Type == stype && t.Subject.Relation == srel && t.Subject.ID > after {
			own = append(own, t)
		}
	}
	m := merge{o, own, func(t tuple.Tuple) string { return t.Subject.ID }, func(t tuple.Tuple, g model.Grant) bool { return yield(t.Subject, g) }}
	return m.end(o.Reader.Subjects(object, relation, stype, srel, after, func(s tuple.Subject, g model.Grant) bool {
		return m.next(tuple.Tuple{Object: object, Relation: relation, Subject: s}, g)
	}))
}

func (o *overlay) Objects(subject tuple.Subject, otype, relation, after string, yield func(tuple.Object, model.Grant) bool) error {
	var own []tuple.Tuple
	for _, t := range o.tuples {
		if t.Subject == subject && t.Object.Type == otype && t.Relation == relation && t.Object.ID > after {
			own = append(own, t)
		}
	}
	slices.SortFunc(own, func(a, b tuple.Tuple) int { return strings.Compare(a.Object.ID, b.Object.ID) })
	m := merge{o, own, func(t tuple.Tuple) string { return t.Object.ID }, func(t tuple.Tuple, g model.Grant) bool { return yield(t.Object, g) }}
	return m.end(o.Reader.Objects(subject, otype, relation, after, func(object tuple.Object, g model.Grant) bool {
		return m.next(tuple.Tuple{Object: object, Relation: relation, Subject: subject}, g)
	}))
}

// A merge puts the contextual tuples of a run among the granted ones, in order. A
// contextual one hides the granted one.
type merge struct {
	over  *overlay
	own   []tuple.Tuple
	id    func(tuple.Tuple) string
	yield func(tuple.Tuple, model.Grant) bool // nil once it has returned false
}

// next takes the next granted one, and reports whether to go on.
func (m *merge) next(t tuple.Tuple, g model.Grant) bool {
	for len(m.own) > 0 && m.id(m.own[0]) < m.id(t) {
		if !m.first() {
			return false
		}
	}
	if len(m.own) > 0 && m.own[0] == t {
		return m.first()
	}
	if !m.yield(t, g) {
		m.yield = nil
	}
	return m.yield != nil
}

// first yields the first of the contextual ones.
func (m *merge) first() bool {
	t := m.own[0]
	m.own = m.own[1:]
	if !m.yield(t, m.over.grants[t]) {
		m.yield = nil
	}
	return m.yield != nil
}

// end yields the contextual ones that are left, unless the run ended early.
func (m *merge) end(err error) error {
	for err == nil && m.yield != nil && len(m.own) > 0 {
		m.first()
	}
	return err
}

// A recall is a Reader that remembers, for one request, the runs of subjects it has
// read, for questions that have a part of their way in common.
type recall struct {
	model.Reader
	runs map[run][]granted
	left int // bytes that may still be remembered
}

type run struct {
	object                tuple.Object
	relation, stype, srel string
}

type granted struct {
	subject tuple.Subject
	grant   model.Grant
}

// Limits of what a recall remembers, in bytes: of all runs, of one, and beside the texts
// of a row.
const (
	recallBytes = 16 << 20
	recallRun   = 256 << 10
	recallRow   = 160
)

func newRecall(r model.Reader) *recall {
	return &recall{Reader: r, runs: make(map[run][]granted), left: recallBytes}
}

func (r *recall) Subjects(o tuple.Object, relation, stype, srel, after string, yield func(tuple.Subject, model.Grant) bool) error {
	if after != "" {
		return r.Reader.Subjects(o, relation, stype, srel, after, yield)
	}
	key := run{o, relation, stype, srel}
	if rows, ok := r.runs[key]; ok {
		for _, row := range rows {
			if !yield(row.subject, row.grant) {
				break
			}
		}
		return nil
	}
	var rows []granted
	size, whole := recallRow, true
	err := r.Reader.Subjects(o, relation, stype, srel, after, func(s tuple.Subject, g model.Grant) bool {
		if size += recallRow + len(s.ID) + len(g.Context) + len(g.Owner); size <= recallRun {
			rows = append(rows, granted{s, g})
		}
		whole = yield(s, g)
		return whole
	})
	if err == nil && whole && size <= recallRun && size <= r.left {
		r.left -= size
		r.runs[key] = rows
	}
	return err
}
