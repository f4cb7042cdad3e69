package audit

import (
	"context"

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
// holds it, in order of id. What
// has no answer is a row too, and says why. The moment is closed by the caller. Errors: a
// [*query.InvalidError] for a type or relation of the subject that the model does not have;
// [query.ErrNoModel].
func AccessOfSubject(ctx context.Context, m *Moment, s tuple.Subject) (Report, error) {
	if err := m.known("subject", s.Type, s.Relation); err != nil {
		return Report{}, err
	}
	return Report{
		Title:   "access of a subject",
		Columns: []string{"type", "relation", "object", "access"},
		Rows: rows(func(yield func(Row) bool) error {
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
					q := query.ObjectsQuestion{Subject: s, Relation: relation, Type: typ.Name}
					for item, err := range m.items(m.asking.ListObjects(ctx, q, "")) {
						if err != nil {
							return err
						}
						if !yield(accessRow(item, typ.Name, relation, tuple.Object{Type: typ.Name, ID: item.ID}.String())) {
							return nil
						}
					}
				}
			}
			return nil
		}),
	}, nil
}

// AccessToObject reports everyone who reaches an object at a moment: for each of its
// relations, in the order of the model, the subjects of each type that hold it, in order
// of id. A wildcard (user:*) speaks for everyone of the type but those who are excluded,
// which are rows of their own. What
// has no answer is a row too, and says why. The moment is closed by the caller. Errors: a
// [*query.InvalidError] for a type that the model does not have; [query.ErrNoModel].
func AccessToObject(ctx context.Context, m *Moment, o tuple.Object) (Report, error) {
	if err := m.known("object", o.Type, ""); err != nil {
		return Report{}, err
	}
	return Report{
		Title:   "access to an object",
		Columns: []string{"relation", "subject", "access"},
		Rows: rows(func(yield func(Row) bool) error {
			typ, _ := m.model.Type(o.Type)
			for i := range typ.Relations {
				relation := typ.Relations[i].Name
				for j := range m.model.Types {
					kind := model.Kind{Type: m.model.Types[j].Name}
					if !m.model.CanHold(o.Type, relation, kind) {
						continue
					}
					if err := m.fresh(); err != nil {
						return err
					}
					q := query.SubjectsQuestion{Kind: kind, Relation: relation, Object: o}
					for item, err := range m.items(m.asking.ListSubjects(ctx, q, "")) {
						if err != nil {
							return err
						}
						if !yield(accessRow(item, relation, tuple.Subject{Type: kind.Type, ID: item.ID}.String())) {
							return nil
						}
					}
				}
			}
			return nil
		}),
	}, nil
}

// accessRow returns the row of an item of a list: the cells given, and what is said of it.
func accessRow(item *model.Item, cells ...string) Row {
	access := held
	switch {
	case item.Err != nil:
		access = verdict{err: item.Err}.String()
	case item.Excluded:
		access = excluded
	}
	return Row{Cells: append(cells, access), Undecided: item.Err != nil}
}
