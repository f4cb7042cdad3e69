package authzen

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

// clockSkew is how far the clocks of nodes may lie apart.
const clockSkew = 5 * time.Minute

// A found is the answer to a search: a page of what is known to be permitted.
type found struct {
	Page    page           `json:"page"`
	Context *searchContext `json:"context,omitempty"`
	Results []item         `json:"results"`
}

type page struct {
	Next  string `json:"next_token"` // "" on the last page
	Count int    `json:"count"`      // of results here
}

// A searchContext says what the results do not.
type searchContext struct {
	Reason    string      `json:"reason,omitempty"`    // why there can be no results
	Wildcard  bool        `json:"wildcard,omitempty"`  // the result with id "*" stands for every subject of its type but the excluded
	Excluded  []item      `json:"excluded,omitempty"`  // subjects that the wildcard does not stand for
	Undecided []undecided `json:"undecided,omitempty"` // of which there is no answer
}

// An item is a subject or resource, or an action.
type item struct {
	Type string `json:"type,omitempty"`
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// An undecided is an item without an answer.
type undecided struct {
	item
	Error *itemError `json:"error"`
}

// context returns the context of an answer, made if it is not there.
func (f *found) context() *searchContext {
	if f.Context == nil {
		f.Context = &searchContext{}
	}
	return f.Context
}

// A searched is one thing that a list came by.
type searched struct {
	item
	after    string // what it is called in a page token
	wildcard bool
	excluded bool
	err      error // there is no answer, or no name for it
}

var errUnnamed = errors.New("was granted under an id that this API has no text for")

// searchSubjects finds the subjects of a type that hold a relation on an object.
func (s *Service) searchSubjects(ctx context.Context, store ledger.ID, body model.Value) (any, error) {
	a, err := readAsked(body, asked{})
	if err != nil {
		return nil, err
	}
	return s.search(ctx, store, body, "subjects", []string{"subject.type", "action.name", "resource.type", "resource.id"}, a, func() (key [16]byte, list lister, err error) {
		var q query.SubjectsQuestion
		if q.Kind.Type, err = a.typ("subject"); err != nil {
			return key, nil, err
		}
		if q.Relation, err = a.relation(); err != nil {
			return key, nil, err
		}
		if q.Object, err = a.object("resource"); err != nil {
			return key, nil, err
		}
		if q.Given, err = a.given(); err != nil {
			return key, nil, err
		}
		return q.Key(), func(asking *query.Asking, after string) iter.Seq2[searched, error] {
			return named(q.Kind.Type, true, asking.ListSubjects(ctx, q, after))
		}, nil
	})
}

// searchResources finds the objects of a type on which a subject holds a relation.
func (s *Service) searchResources(ctx context.Context, store ledger.ID, body model.Value) (any, error) {
	a, err := readAsked(body, asked{})
	if err != nil {
		return nil, err
	}
	return s.search(ctx, store, body, "objects", []string{"subject.type", "subject.id", "action.name", "resource.type"}, a, func() (key [16]byte, list lister, err error) {
		var q query.ObjectsQuestion
		if q.Subject, err = a.subject(); err != nil {
			return key, nil, err
		}
		if q.Relation, err = a.relation(); err != nil {
			return key, nil, err
		}
		if q.Type, err = a.typ("resource"); err != nil {
			return key, nil, err
		}
		if q.Given, err = a.given(); err != nil {
			return key, nil, err
		}
		return q.Key(), func(asking *query.Asking, after string) iter.Seq2[searched, error] {
			return named(q.Type, false, asking.ListObjects(ctx, q, after))
		}, nil
	})
}

// searchActions finds the relations that a subject holds on an object.
func (s *Service) searchActions(ctx context.Context, store ledger.ID, body model.Value) (any, error) {
	a, err := readAsked(body, asked{})
	if err != nil {
		return nil, err
	}
	delete(a.entities, "action") // which is what is searched for
	return s.search(ctx, store, body, "relations", []string{"subject.type", "subject.id", "resource.type", "resource.id"}, a, func() (key [16]byte, list lister, err error) {
		subject, err := a.subject()
		if err != nil {
			return key, nil, err
		}
		object, err := a.object("resource")
		if err != nil {
			return key, nil, err
		}
		given, err := a.given()
		if err != nil {
			return key, nil, err
		}
		return query.RelationsKey(subject, object, &given), func(asking *query.Asking, after string) iter.Seq2[searched, error] {
			return func(yield func(searched, error) bool) {
				held, err := asking.ListRelations(ctx, subject, object, nil, given)
				if err != nil {
					yield(searched{}, err)
					return
				}
				// In order of name, so that a page goes on where the one before it ended.
				slices.SortFunc(held, func(a, b query.Held) int { return strings.Compare(a.Relation, b.Relation) })
				for _, h := range held {
					if h.Relation > after && !yield(searched{item: item{Name: h.Relation}, after: h.Relation, err: h.Err}, nil) {
						return
					}
				}
			}
		}, nil
	})
}

// A lister lists what comes after an item.
type lister = func(asking *query.Asking, after string) iter.Seq2[searched, error]

// named gives the items of a list their names in this API.
func named(typ string, subjects bool, list iter.Seq2[model.Item, error]) iter.Seq2[searched, error] {
	return func(yield func(searched, error) bool) {
		for i, err := range list {
			if err != nil {
				yield(searched{}, err)
				return
			}
			f := searched{item: item{Type: typ, ID: i.ID}, after: i.ID, excluded: i.Excluded, err: i.Err}
			if subjects && i.ID == tuple.Wildcard {
				f.wildcard = true
			} else if text, ok := unescape(i.ID); !ok || subjects && text == tuple.Wildcard {
				// The literal "*" would be taken for everyone.
				f.err = errors.Join(errUnnamed, i.Err)
			} else {
				f.item.ID = text
			}
			if !yield(f, nil) {
				return
			}
		}
	}
}

// search answers a page of a search. Required is the parts that must be given; question
// reads what is asked, and returns its key and its list. What names a type or an action
// that the model does not have finds nothing, and the answer says why.
func (s *Service) search(ctx context.Context, store ledger.ID, body model.Value, of string, required []string, a asked, question func() ([16]byte, lister, error)) (any, error) {
	if err := a.require(required); err != nil {
		return nil, err
	}
	p, err := readPaging(body)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	key, list, err := question()
	var answer *found
	if err == nil {
		answer, err = s.find(ctx, store, p, key, list)
	}
	var unknown *query.InvalidError
	if err = inRequest(err); errors.As(err, &unknown) {
		answer, err = &found{Context: &searchContext{Reason: unknown.Error()}, Results: []item{}}, nil
	}
	s.cfg.Listed(of, err, time.Since(began))
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// find gathers a page.
func (s *Service) find(ctx context.Context, store ledger.ID, p paging, key [16]byte, list lister) (*found, error) {
	v, asking, token, err := s.open(ctx, store, p.token, key)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	answer := &found{Results: []item{}}
	n := 0
	for i, err := range list(asking, token.After) {
		if err != nil {
			return nil, err
		}
		if n == p.limit {
			answer.Page.Next = token.String()
			break
		}
		if err := s.take(ctx, answer, i); err != nil {
			return nil, err
		}
		n++
		token.After = i.after
	}
	answer.Page.Count = len(answer.Results)
	return answer, nil
}

// take gives an answer one more item.
func (s *Service) take(ctx context.Context, f *found, i searched) error {
	switch {
	case errors.Is(i.err, errUnnamed):
		c := f.context()
		c.Undecided = append(c.Undecided, undecided{i.item, &itemError{400, errUnnamed.Error()}})
	case i.err != nil:
		own, err := s.ownError(ctx, i.err)
		if err != nil {
			return err
		}
		c := f.context()
		c.Undecided = append(c.Undecided, undecided{i.item, own})
	case i.excluded:
		c := f.context()
		c.Excluded = append(c.Excluded, i.item)
	default:
		if i.wildcard {
			f.context().Wildcard = true
		}
		f.Results = append(f.Results, i.item)
	}
	return nil
}

// open begins the page that a token names, or the first for "". The caller closes the
// view.
func (s *Service) open(ctx context.Context, store ledger.ID, text string, key [16]byte) (*index.View, *query.Asking, query.PageToken, error) {
	none := func(err error) (*index.View, *query.Asking, query.PageToken, error) {
		return nil, nil, query.PageToken{}, err
	}
	if text == "" {
		v, asking, err := s.ask(ctx, store)
		if err != nil {
			return none(err)
		}
		at, err := v.Token()
		if err != nil {
			v.Close()
			return none(err)
		}
		return v, asking, query.PageToken{View: at, Model: asking.Model(), Time: asking.Time(), Question: key}, nil
	}
	const field = "page.token"
	token, err := query.ParsePageToken(text)
	if err != nil {
		return none(malformed(field, "%s", err))
	}
	if token.Question != key {
		return none(ledger.Reject(ledger.CodeInvalid, field, "is of another search: all but the page must be as it was for the first page"))
	}
	age := time.Duration(s.cfg.Now().UnixNano() - token.Time)
	if age > query.PageTokenAge || age < -clockSkew {
		return none(ledger.Reject(ledger.CodePrecondition, field, "has expired: it is good for %s after the first page; begin again with that", query.PageTokenAge))
	}
	v, err := s.view(ctx, store, projector.Freshness{Kind: projector.AtToken, Token: token.View})
	switch {
	case errors.Is(err, ledger.ErrForeignToken), errors.Is(err, ledger.ErrLostPast), errors.Is(err, ledger.ErrToken):
		return none(ledger.Reject(ledger.CodeInvalid, field, "%s", err))
	case err != nil:
		return none(err)
	}
	asking, err := s.cfg.Engine.Ask(v, token.Model, token.Time)
	if err != nil {
		v.Close()
		return none(err)
	}
	return v, asking, token, nil
}
