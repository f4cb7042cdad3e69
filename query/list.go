package query

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// An ObjectsQuestion asks for the objects of a type on which a subject holds a relation.
type ObjectsQuestion struct {
	Subject  tuple.Subject
	Relation string
	Type     string // of the objects
	Given
}

// A SubjectsQuestion asks for the subjects of a kind that hold a relation on an object.
type SubjectsQuestion struct {
	Kind     model.Kind
	Relation string
	Object   tuple.Object
	Given
}

// ListObjects yields the objects that q asks for, and those of which there is no answer,
// with an id after the given one, in order of id; see [model.Model.ListObjects]. A
// failure of the list is yielded once, as the last element: an error as of
// [Asking.Check]. Until the loop ends, nothing else may be asked.
func (a *Asking) ListObjects(ctx context.Context, q ObjectsQuestion, after string) iter.Seq2[model.Item, error] {
	return a.list(ctx, &q.Given, func() error {
		if err := a.knownRelation("type", "relation", q.Type, q.Relation); err != nil {
			return err
		}
		return a.knownKind("subject", model.Kind{Type: q.Subject.Type, Relation: q.Subject.Relation})
	}, func(sc model.Scope, yield func(model.Item) bool) error {
		_, err := a.model.ListObjects(sc, q.Subject, q.Type, q.Relation, after, yield)
		return err
	})
}

// ListSubjects yields the subjects that q asks for, those that a wildcard among them does
// not speak for, and those of which there is no answer, with an id after the given one,
// in order of id; see [model.Model.ListSubjects]. A failure is yielded once, as the last
// element: an error as of [Asking.Check], or an [*InvalidError] for a kind that could
// never hold the relation. Until the loop ends, nothing else may be asked.
func (a *Asking) ListSubjects(ctx context.Context, q SubjectsQuestion, after string) iter.Seq2[model.Item, error] {
	return a.list(ctx, &q.Given, func() error {
		if err := a.knownRelation("object", "relation", q.Object.Type, q.Relation); err != nil {
			return err
		}
		if err := a.knownKind("kind", q.Kind); err != nil {
			return err
		}
		if !a.model.CanHold(q.Object.Type, q.Relation, q.Kind) {
			return invalid("kind", "no subject of kind %s could hold relation %+q of type %+q", kindText(q.Kind), q.Relation, q.Object.Type)
		}
		return nil
	}, func(sc model.Scope, yield func(model.Item) bool) error {
		sc.Reader = newRecall(sc.Reader) // the ways of many subjects have parts in common
		_, err := a.model.ListSubjects(sc, q.Object, q.Relation, q.Kind, after, yield)
		return err
	})
}

func kindText(k model.Kind) string {
	if k.Relation == "" {
		return k.Type
	}
	return k.Type + "#" + k.Relation
}

// list makes a sequence of a list. The time that its loop takes for itself does not
// count.
func (a *Asking) list(ctx context.Context, g *Given, valid func() error, list func(model.Scope, func(model.Item) bool) error) iter.Seq2[model.Item, error] {
	return func(yield func(model.Item, error) bool) {
		err := valid()
		var sc model.Scope
		if err == nil {
			sc, err = a.scope(ctx, g, a.engine.budgets.List)
		}
		more := true
		if err == nil {
			err = list(sc, func(i model.Item) bool {
				left := time.Now()
				more = yield(i, nil)
				a.clock.away += time.Since(left)
				return more
			})
		}
		if err != nil && more {
			yield(model.Item{}, err)
		}
	}
}

// A Held is a relation that a subject holds on an object, or with Err one of which that
// cannot be said.
type Held struct {
	Relation string
	Err      error
}

// ListRelations returns which of the relations, in this order, a subject holds on an
// object; of all that the object's type has, in the order of the model, if none is given.
// All together may spend what a list may. Errors are those of [Asking.Check].
func (a *Asking) ListRelations(ctx context.Context, s tuple.Subject, o tuple.Object, relations []string, g Given) ([]Held, error) {
	if err := a.knownType("object", o.Type); err != nil {
		return nil, err
	}
	if err := a.knownKind("subject", model.Kind{Type: s.Type, Relation: s.Relation}); err != nil {
		return nil, err
	}
	t, _ := a.model.Type(o.Type)
	if n := len(relations); n > len(t.Relations) {
		return nil, invalid("relations", "are %d, but type %+q has only %d", n, o.Type, len(t.Relations))
	}
	if len(relations) == 0 {
		for i := range t.Relations {
			relations = append(relations, t.Relations[i].Name)
		}
	}
	seen := make(map[string]bool)
	questions := make([]Question, len(relations))
	for i, r := range relations {
		if err := a.knownRelation("object", "relations", o.Type, r); err != nil {
			return nil, err
		}
		if seen[r] {
			return nil, invalid("relations", "%+q stands twice", r)
		}
		seen[r] = true
		questions[i] = Question{Tuple: tuple.Tuple{Object: o, Relation: r, Subject: s}, Given: g}
	}
	results, err := a.CheckAll(ctx, questions)
	if err != nil {
		return nil, err
	}
	var all []Held
	for i, r := range results {
		var wrong *InvalidError
		if errors.As(r.Err, &wrong) { // of what is given, and so of all
			return nil, r.Err
		}
		if r.Allowed || r.Err != nil {
			all = append(all, Held{relations[i], r.Err})
		}
	}
	return all, nil
}

// MaxLevels is the most levels of a tree.
const MaxLevels = 64

// Expand returns who holds a relation on an object, as a tree of so many levels, 1 to
// MaxLevels; see [model.Model.Expand]. Errors are those of [Asking.Check].
func (a *Asking) Expand(ctx context.Context, o tuple.Object, relation string, levels int, g Given) (*model.Tree, error) {
	if err := a.knownRelation("object", "relation", o.Type, relation); err != nil {
		return nil, err
	}
	if levels < 1 || levels > MaxLevels {
		return nil, invalid("levels", "must be 1 to %d, is %d", MaxLevels, levels)
	}
	sc, err := a.scope(ctx, &g, a.engine.budgets.List)
	if err != nil {
		return nil, err
	}
	tree, _, err := a.model.Expand(sc, o, relation, levels)
	return tree, err
}

// A Filter says which granted tuples are read: those that have all of its parts. What is
// empty matches everything.
type Filter struct {
	Object   tuple.Object // its type, or its type and id
	Relation string       // of that type, which must be given
	Kind     *model.Kind  // of the subject, or nil
	Subject  string       // id of a subject of the kind, which must be given; "*" for the wildcard
	// Inactive reads also what does not count: what has expired, does not count yet, or is
	// not allowed by the model any more.
	Inactive bool
}

// A State is whether a granted tuple counts.
type State byte

// The states of a granted tuple. Their numbers are those of the API.
const (
	Active     State = 1 + iota // it counts, if its condition holds
	Expired                     // its expiry has come
	NotYet                      // its not-before is still to come
	NotAllowed                  // the model in force does not allow it
)

// A Granted is a granted tuple, as it was granted at a revision.
type Granted struct {
	index.Granted
	State State
}

// Tuples yields the granted tuples that f matches, after the given one, which f must
// pass (see [Filter.Passes]), unless it is zero, each once, in order: that of [tuple.Tuple.Compare]; but if f has a kind and no id
// of an object, by subject type, relation and id, then by object type, relation and id.
// Conditions are not run, and contextual tuples are not granted, so none can be given.
//
// A failure is yielded once, as the last element: an [*InvalidError] for a filter that
// names what the model does not have, or that no tuple could match; a
// [*model.BudgetError]; ctx's error; an error of the index. Where the rows of the budget
// are used up, the last tuple that was passed stands beside the error, to go on after it.
// Until the loop ends, nothing else may be asked.
func (a *Asking) Tuples(ctx context.Context, f Filter, after tuple.Tuple) iter.Seq2[Granted, error] {
	return func(yield func(Granted, error) bool) {
		err := a.validFilter(&f)
		if err == nil && after != (tuple.Tuple{}) && !f.Passes(after) {
			err = invalid("after", "%s is none of those that are read", after)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(Granted{}, err)
			return
		}
		budget := a.engine.budgets.List
		a.clock = clock{ctx: ctx, limit: budget.Time}
		rows, more := 0, true
		var exhausted error
		var passed tuple.Tuple
		err = a.view.Tuples(f.prefix(), after, func(t index.Granted) bool {
			if rows++; rows > budget.Rows {
				exhausted = &model.BudgetError{What: "rows", Limit: budget.Rows, Spent: model.Spent{Rows: budget.Rows}}
				return false
			}
			passed = t.Tuple
			g := Granted{t, a.state(&t)}
			if !f.Matches(t.Tuple) || g.State != Active && !f.Inactive {
				return true
			}
			left := time.Now()
			more = yield(g, nil)
			a.clock.away += time.Since(left)
			return more
		})
		if err == nil && exhausted != nil {
			yield(Granted{Granted: index.Granted{Tuple: passed}}, exhausted)
		} else if err != nil && more {
			yield(Granted{}, err)
		}
	}
}

func (a *Asking) state(t *index.Granted) State {
	switch {
	case a.model.Allows(t.Tuple, t.Grant.Condition) != nil:
		return NotAllowed
	case t.Grant.ExpiresAt != 0 && a.now >= t.Grant.ExpiresAt:
		return Expired
	case a.now < t.Grant.NotBefore:
		return NotYet
	}
	return Active
}

// validFilter returns an [*InvalidError] unless some tuple could match.
func (a *Asking) validFilter(f *Filter) error {
	if f.Object.Type != "" {
		if err := a.knownType("object", f.Object.Type); err != nil {
			return err
		}
	}
	if f.Kind != nil {
		if err := a.knownKind("subject", *f.Kind); err != nil {
			return err
		}
	}
	if f.Relation == "" {
		return nil
	}
	if f.Object.Type == "" {
		return invalid("object", "must name at least the type of object whose relation is meant")
	}
	if err := a.knownRelation("object", "relation", f.Object.Type, f.Relation); err != nil {
		return err
	}
	if f.Inactive {
		return nil // an older model may have allowed anything
	}
	r, _ := a.model.Relation(f.Object.Type, f.Relation)
	if len(r.Direct) == 0 {
		return invalid("relation", "relation %+q of type %+q is computed; it is never granted", f.Relation, f.Object.Type)
	}
	if f.Kind == nil {
		return nil
	}
	for _, d := range r.Direct {
		if d.Type == f.Kind.Type && d.Relation == f.Kind.Relation && (f.Subject == "" || d.Wildcard == (f.Subject == tuple.Wildcard)) {
			return nil
		}
	}
	kind := kindText(*f.Kind)
	if f.Subject == tuple.Wildcard {
		kind += ":" + tuple.Wildcard
	}
	return invalid("subject", "relation %+q of type %+q may not be granted to %s", f.Relation, f.Object.Type, kind)
}

// prefix returns what the keys of the tuples that f matches have in common.
func (f *Filter) prefix() index.Prefix {
	if f.Object.ID == "" && f.Kind != nil {
		return index.BySubject(tuple.Subject{Type: f.Kind.Type, Relation: f.Kind.Relation, ID: f.Subject}, f.Object.Type, f.Relation)
	}
	if f.Object.ID == "" || f.Relation == "" {
		return index.ByObject(f.Object, f.Relation, nil, "")
	}
	return index.ByObject(f.Object, f.Relation, f.Kind, f.Subject)
}

// Passes reports whether a reading with f comes by the tuple, be it that f matches it or
// not: whether it may go on after it.
func (f *Filter) Passes(t tuple.Tuple) bool {
	p := f.prefix()
	return p.Has(t)
}

// Matches reports whether a tuple has all parts of the filter.
func (f *Filter) Matches(t tuple.Tuple) bool {
	return (f.Object.Type == "" || t.Object.Type == f.Object.Type) && (f.Object.ID == "" || t.Object.ID == f.Object.ID) &&
		(f.Relation == "" || t.Relation == f.Relation) &&
		(f.Kind == nil || t.Subject.Type == f.Kind.Type && t.Subject.Relation == f.Kind.Relation) &&
		(f.Subject == "" || t.Subject.ID == f.Subject)
}
