package query

import (
	"errors"

	"github.com/grantlog/grantlog/ledger"
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
// relation that no model of the store has had up to the view's revision. In a store without
// a model every type is unknown. It is for a filter that no entry fits: attempts at what
// never was are among what is looked for.
func (f *EntryFilter) Known(v *index.View) error {
	err := f.had(v)
	if unknown, ok := errors.AsType[*InvalidError](err); ok {
		err = invalid(unknown.Field, "%s, and none of the entries asked for fits the filter", unknown.Message)
	}
	return err
}

// KnownFrom is Known unless one of the entries from a revision on, up to the view's, fits.
// Only of what no model has had are entries read.
func (f *EntryFilter) KnownFrom(v *index.View, from ledger.Revision) error {
	unknown := f.Known(v)
	if _, ok := errors.AsType[*InvalidError](unknown); !ok {
		return unknown
	}
	search, fits := NewEntrySearch(*f), false
	for from <= v.Revision() && !fits {
		var err error
		from, err = search.Step(v, from, v.Revision(), knownStep, func(*ledger.Entry) bool {
			fits = true
			return false
		})
		if err == nil && v.Stop != nil {
			err = v.Stop()
		}
		if err != nil {
			return err
		}
	}
	if fits {
		return nil
	}
	return unknown
}

// knownStep is how many entries KnownFrom reads between two looks at the view's Stop.
const knownStep = 64

// had returns an [*InvalidError] about the first name that no model has had.
func (f *EntryFilter) had(v *index.View) error {
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
