package querytest

import (
	"fmt"
	"slices"

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
	byID     map[answerKey]map[string]Fact
	Compared int // facts held against lists so far
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
	a := &Answers{byID: make(map[answerKey]map[string]Fact)}
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
		return fmt.Sprintf("%s: the list %v is not in order, each once", of, list)
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
			return fmt.Sprintf("%s: %q is excluded from a list without a wildcard", of, id)
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
