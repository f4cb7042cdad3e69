package querytest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A Listed is an element of a list that is compared with the facts.
type Listed struct {
	ID       string
	Excluded bool
	Cause    string // why it has no answer, as in a Fact; "" if it has one
}

// Answers are facts in the order in which lists are made of them.
type Answers struct {
	facts    map[tuple.Tuple]Fact
	byID     map[answerKey]map[string]Fact
	Compared int // facts held against lists and trees so far
}

// A List is what one list is about: of objects, if it has a Subject, or else of subjects.
type List struct {
	Subject  tuple.Subject // who holds the relation
	Type     string        // of the objects
	Object   tuple.Object  // on which it is held
	Kind     model.Kind    // of the subjects
	Relation string
}

// Lists yields every list that there are facts for.
func (a *Answers) Lists(yield func(List) bool) {
	for k := range a.byID {
		l := List{Relation: k.relation}
		if k.object.ID == "" {
			l.Subject, l.Type = k.subject, k.object.Type
		} else {
			l.Object, l.Kind = k.object, model.Kind{Type: k.subject.Type, Relation: k.subject.Relation}
		}
		if !yield(l) {
			return
		}
	}
}

// Wrong says how a list is not what the facts say; "" if it is.
func (a *Answers) Wrong(l List, list []Listed) string {
	if l.Subject != (tuple.Subject{}) {
		return a.WrongObjects(l.Subject, l.Type, l.Relation, list)
	}
	return a.WrongSubjects(l.Object, l.Relation, l.Kind, list)
}

// An answerKey is what one list is about. Of a list of objects the object, of a list of
// subjects the subject lacks its id.
type answerKey struct {
	object   tuple.Object
	relation string
	subject  tuple.Subject
}

// NewAnswers returns the facts as answers.
func NewAnswers(facts map[tuple.Tuple]Fact) *Answers {
	a := &Answers{facts: facts, byID: make(map[answerKey]map[string]Fact)}
	put := func(k answerKey, id string, f Fact) {
		if a.byID[k] == nil {
			a.byID[k] = make(map[string]Fact)
		}
		a.byID[k][id] = f
	}
	for t, f := range facts {
		put(answerKey{tuple.Object{Type: t.Object.Type}, t.Relation, t.Subject}, t.Object.ID, f)
		put(answerKey{t.Object, t.Relation, tuple.Subject{Type: t.Subject.Type, Relation: t.Subject.Relation}}, t.Subject.ID, f)
	}
	return a
}

// WrongObjects says how a list of the objects of a type, on which the subject holds the
// relation, is not what the facts say; "" if it is.
func (a *Answers) WrongObjects(subject tuple.Subject, typ, relation string, list []Listed) string {
	of := fmt.Sprintf("objects of type %s with %s@%s", typ, relation, subject)
	return a.wrong(of, a.byID[answerKey{tuple.Object{Type: typ}, relation, subject}], list)
}

// WrongSubjects says how a list of the subjects of a kind that hold the relation on the
// object is not what the facts say; "" if it is.
func (a *Answers) WrongSubjects(object tuple.Object, relation string, kind model.Kind, list []Listed) string {
	of := fmt.Sprintf("subjects of kind %s#%s with %s#%s", kind.Type, kind.Relation, object, relation)
	return a.wrong(of, a.byID[answerKey{object, relation, tuple.Subject{Type: kind.Type, Relation: kind.Relation}}], list)
}

func (a *Answers) wrong(of string, want map[string]Fact, list []Listed) string {
	if !slices.IsSortedFunc(list, func(a, b Listed) int {
		if a.ID < b.ID {
			return -1
		}
		return 1 // the same twice is out of order too
	}) {
		return fmt.Sprintf("%s: the list %v is not in order, each once, as the oracle says it is", of, list)
	}
	listed := make(map[string]Listed)
	for _, l := range list {
		if _, ok := want[l.ID]; !ok {
			return fmt.Sprintf("%s: %q is listed, of which the oracle says nothing", of, l.ID)
		}
		listed[l.ID] = l
	}
	everyone, open := listed[tuple.Wildcard]
	for id, fact := range want {
		a.Compared++
		l, named := listed[id]
		if !named && open {
			l = Listed{ID: id, Cause: everyone.Cause}
		}
		said := Denied
		switch {
		case !named && !open:
		case l.Cause != "":
			said = Failed
		case !l.Excluded:
			said = Allowed
		case !open:
			return fmt.Sprintf("%s: %q is excluded from a list without a wildcard, of which the oracle says nothing", of, id)
		}
		switch {
		case said != fact.Value:
			return fmt.Sprintf("%s: of %q the list %v says %v, the oracle says %v %q", of, id, list, said, fact.Value, fact.Causes)
		case named && l.Cause != "" && !slices.Contains(fact.Causes, l.Cause):
			return fmt.Sprintf("%s: of %q the list blames %q, the oracle says %q", of, id, l.Cause, fact.Causes)
		}
	}
	return ""
}

// WrongTree says how a tree differs from the facts, "" if it does not: for each of the
// subjects, what the tree's rules say about its grants and about the facts they lead to
// must be the fact of the tree's relation. So too of the trees within.
func (a *Answers) WrongTree(t *model.Tree, subjects []tuple.Subject) string {
	seen := make(map[node]bool)
	var wrong func(t *model.Tree) string
	var within func(t *model.Tree) string
	wrong = func(t *model.Tree) string {
		n := node{t.Object, t.Relation}
		if seen[n] {
			return fmt.Sprintf("the tree of %s#%s stands twice; the oracle says it once", n.object, n.relation)
		}
		seen[n] = true
		for _, s := range subjects {
			a.Compared++
			said := Allowed
			if s != (tuple.Subject{Type: n.object.Type, ID: n.object.ID, Relation: n.relation}) {
				said = a.tree(t, s)
			}
			if fact := a.facts[tuple.Tuple{Object: n.object, Relation: n.relation, Subject: s}]; said != fact.Value {
				return fmt.Sprintf("the tree of %s#%s says %v of %s, the oracle says %v", n.object, n.relation, said, s, fact.Value)
			}
		}
		return within(t)
	}
	within = func(t *model.Tree) string {
		for _, g := range t.Grants {
			if g.Leads != nil {
				if text := wrong(g.Leads); text != "" {
					return text
				}
			}
		}
		for _, b := range t.Branches {
			text := ""
			switch {
			case b == nil:
			case t.Op == model.Computed:
				text = wrong(b)
			default:
				text = within(b)
			}
			if text != "" {
				return text
			}
		}
		return ""
	}
	return wrong(t)
}

// tree returns what a tree says of a subject.
func (a *Answers) tree(t *model.Tree, s tuple.Subject) Value {
	held := func(o tuple.Object, relation string) Value {
		return a.facts[tuple.Tuple{Object: o, Relation: relation, Subject: s}].Value
	}
	v := Denied
	for _, g := range t.Grants {
		to, counts := g.Tuple.Subject, Allowed
		if g.Err != nil {
			counts = Failed
		}
		leads := Denied
		switch {
		case t.Op == model.From:
			relation, _, _ := strings.Cut(t.Rule, " from ")
			leads = held(to.Object(), relation)
		case to == s:
			leads = Allowed
		case to.Relation != "":
			leads = held(to.Object(), to.Relation)
		case to.ID == tuple.Wildcard && to.Type == s.Type && s.Relation == "":
			leads = Allowed
		}
		v = max(v, min(counts, leads))
	}
	switch t.Op {
	case model.Computed:
		v = held(t.Object, t.Rule)
	case model.Union:
		for _, b := range t.Branches {
			v = max(v, a.tree(b, s))
		}
	case model.Intersect:
		v = Allowed
		for _, b := range t.Branches {
			v = min(v, a.tree(b, s))
		}
	case model.Exclude:
		v = min(a.tree(t.Branches[0], s), Allowed-a.tree(t.Branches[1], s))
	}
	return v
}
