package query

import (
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// The had functions return an [*InvalidError] about the field unless a model that the
// store had up to the view's revision has what is named: what is asked about the past may
// be gone from the newest model, but what no model had is a mistake, and no empty answer.

func hadType(v *index.View, field, typ string) error {
	ok, err := had(v, func(m *model.Model) bool { _, ok := m.Type(typ); return ok })
	if err == nil && !ok {
		err = invalid(field, "no model of the store has had a type %+q", typ)
	}
	return err
}

// hadRelation is for a relation of a type, "" for any.
func hadRelation(v *index.View, field, typ, relation string) error {
	ok, err := had(v, func(m *model.Model) bool {
		if typ != "" {
			_, ok := m.Relation(typ, relation)
			return ok
		}
		for i := range m.Types {
			if _, ok := m.Relation(m.Types[i].Name, relation); ok {
				return true
			}
		}
		return false
	})
	switch {
	case err == nil && !ok && typ == "":
		err = invalid(field, "no model of the store has had a relation %+q", relation)
	case err == nil && !ok:
		err = invalid(field, "no model of the store has had a relation %+q of type %+q", relation, typ)
	}
	return err
}

func hadSubject(v *index.View, field string, s tuple.Subject) error {
	err := hadType(v, field, s.Type)
	if err == nil && s.Relation != "" {
		err = hadRelation(v, field, s.Type, s.Relation)
	}
	return err
}

// had reports whether a model that the store had up to the view's revision fits.
func had(v *index.View, fits func(*model.Model) bool) (bool, error) {
	models := v.Models()
	for i := len(models) - 1; i >= 0; i-- { // the newest are likely to fit, and parsed already
		m, err := v.Model(models[i].ID)
		if err != nil || fits(m) {
			return err == nil, err
		}
	}
	return false, nil
}

// Known returns an [*InvalidError] about a field, in the message filter, for a type or
// relation that no model of the store has had up to the view's revision. In a store
// without a model every type is unknown.
func (f *EntryFilter) Known(v *index.View) error {
	typ := f.Type
	if f.Object != (tuple.Object{}) {
		typ = f.Object.Type
		if err := hadType(v, "filter.object", typ); err != nil {
			return err
		}
	}
	if f.Type != "" {
		if err := hadType(v, "filter.type", f.Type); err != nil {
			return err
		}
	}
	if f.Relation != "" {
		if err := hadRelation(v, "filter.relation", typ, f.Relation); err != nil {
			return err
		}
	}
	if f.Subject != (tuple.Subject{}) {
		return hadSubject(v, "filter.subject", f.Subject)
	}
	return nil
}
