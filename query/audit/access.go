package audit

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

// What access reports say of a subject.
const (
	held     = "held"
	excluded = "excluded"
)

// AccessOfSubject reports everything that a subject reaches at a moment: for each type and
// relation that its kind can hold, in the order of the model, the objects on which it
// holds it, in order of id. Each comes with the way it is held by, and with since when and
// because of which command; an exclusion that does not apply is not told. What
// has no answer is a row too, and says why. The moment is closed by the caller. Errors: a
// [*query.InvalidError] for a type or relation of the subject that the model does not have;
// [query.ErrNoModel].
func AccessOfSubject(ctx context.Context, m *Moment, s tuple.Subject) (Report, error) {
	if err := m.known("subject", s.Type, s.Relation); err != nil {
		return Report{}, err
	}
	return Report{
		Title:   "access of a subject",
		Columns: append(slices.Concat([]string{"type", "relation", "object", "access"}, causeColumns), "path"),
		Rows: tellingRows(m, func(teller *Moment, yield func(Row) bool) error {
			kind := model.Kind{Type: s.Type, Relation: s.Relation}
			for i := range m.model.Types {
				typ := &m.model.Types[i]
				for j := range typ.Relations {
					relation := typ.Relations[j].Name
					if !m.model.CanHold(typ.Name, relation, kind) {
						continue
					}
					if err := m.fresh(); err != nil {
						return err
					}
					q := query.ObjectsQuestion{Subject: s, Relation: relation, Type: typ.Name, Given: m.given}
					more, err := m.tell(ctx, teller, m.asking.ListObjects(ctx, q, ""), yield, func(id string) (tuple.Tuple, []string) {
						o := tuple.Object{Type: typ.Name, ID: id}
						return tuple.Tuple{Object: o, Relation: relation, Subject: s}, []string{typ.Name, relation, o.String()}
					})
					if err != nil || !more {
						return err
					}
				}
			}
			return nil
		}),
	}, nil
}

// AccessToObject reports everyone who reaches an object at a moment: for each of its
// relations, in the order of the model, the subjects of each kind that hold it, plain ones
// of each type before its usersets, in order of id. A wildcard (user:*) speaks for every
// plain subject of the type but those who are excluded, which are rows of their own. What
// usersets of the object itself hold because a relation is computed from theirs is not
// told: it is so by the rules alone, of every object. Each comes with the way and the
// cause as there. What has no answer is a row too, and says why. The moment is closed by the caller. Errors: a
// [*query.InvalidError] for a type that the model does not have; [query.ErrNoModel].
func AccessToObject(ctx context.Context, m *Moment, o tuple.Object) (Report, error) {
	if err := m.known("object", o.Type, ""); err != nil {
		return Report{}, err
	}
	return Report{
		Title:   "access to an object",
		Columns: append(slices.Concat([]string{"relation", "subject", "access"}, causeColumns), "path"),
		Rows: tellingRows(m, func(teller *Moment, yield func(Row) bool) error {
			typ, _ := m.model.Type(o.Type)
			uses := usesOf(m.model)
			for i := range typ.Relations {
				relation := typ.Relations[i].Name
				for kind := range kinds(m.model) {
					if !m.model.CanHold(o.Type, relation, kind) {
						continue
					}
					if err := m.fresh(); err != nil {
						return err
					}
					q := query.SubjectsQuestion{Kind: kind, Relation: relation, Object: o, Given: m.given}
					more, err := m.tell(ctx, teller, m.asking.ListSubjects(ctx, q, ""), yield, func(id string) (tuple.Tuple, []string) {
						s := tuple.Subject{Type: kind.Type, ID: id, Relation: kind.Relation}
						if uses.own(o, relation, s) {
							return tuple.Tuple{}, nil
						}
						return tuple.Tuple{Object: o, Relation: relation, Subject: s}, []string{relation, s.String()}
					})
					if err != nil || !more {
						return err
					}
				}
			}
			return nil
		}),
	}, nil
}

// kinds yields the kinds of subjects of a model: of each type the plain ones, then the
// usersets of each relation.
func kinds(m *model.Model) iter.Seq[model.Kind] {
	return func(yield func(model.Kind) bool) {
		for i := range m.Types {
			typ := &m.Types[i]
			if !yield(model.Kind{Type: typ.Name}) {
				return
			}
			for j := range typ.Relations {
				if !yield(model.Kind{Type: typ.Name, Relation: typ.Relations[j].Name}) {
					return
				}
			}
		}
	}
}

// tellingRows is rows with m once more, for questions beside a list.
func tellingRows(m *Moment, f func(teller *Moment, yield func(Row) bool) error) iter.Seq2[Row, error] {
	return rows(func(yield func(Row) bool) error {
		return m.beside(func(teller *Moment) error { return f(teller, yield) })
	})
}

// tell yields a row for each item of a list of m's, and reports whether more are wanted.
// Of returns what the item says, and its first cells; none if it is not to be told.
func (m *Moment) tell(ctx context.Context, teller *Moment, list iter.Seq2[model.Item, error], yield func(Row) bool, of func(id string) (tuple.Tuple, []string)) (more bool, err error) {
	for item, err := range m.items(list) {
		if err != nil {
			return false, err
		}
		t, cells := of(item.ID)
		if cells == nil {
			continue
		}
		row, err := teller.accessRow(ctx, t, item, cells...)
		if err != nil || !yield(row) {
			return false, err
		}
	}
	return true, nil
}

// accessRow returns the row of an item of a list: the cells given, what is said of it, the
// way it is held by, and since when and because of what that is so.
func (m *Moment) accessRow(ctx context.Context, t tuple.Tuple, item *model.Item, cells ...string) (Row, error) {
	access, path := held, ""
	var err error
	switch {
	case item.Err != nil:
		access = verdict{err: item.Err}.String()
	case item.Excluded:
		access = excluded
	default:
		if path, err = m.path(ctx, t); err != nil {
			return Row{}, fmt.Errorf("%s: %w", t, err)
		}
	}
	c, _, err := m.turn(ctx, t, nil)
	if err != nil {
		return Row{}, fmt.Errorf("%s: %w", t, err)
	}
	told, err := m.causeCells(c)
	return Row{Cells: append(slices.Concat(cells, []string{access}, told), path), Undecided: item.Err != nil}, err
}
