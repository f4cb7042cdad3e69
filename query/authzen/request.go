package authzen

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

// An entity is the subject, resource or action of a request.
type entity struct {
	text       map[string]string // its type and id, or its name; what is not given is absent
	properties model.Value       // a map, or null
}

// entityParts is what an entity is named by; all of it is required in an evaluation.
var entityParts = map[string][]string{
	"subject":  {"type", "id"},
	"resource": {"type", "id"},
	"action":   {"name"},
}

// An asked is what an evaluation or a search is about.
type asked struct {
	entities map[string]*entity // by name; what is not given is absent or nil
	context  model.Value        // a map, or null
}

// readAsked reads the parts of v that are there, and takes the others from defaults. A
// part is taken whole: what v gives, if only as null, is as if there were no defaults, so
// that nothing is asked about an entity that the caller did not name. But an id without a
// type is of the type of the default: the conformance suite asks so, though the scenario
// does not have it any more (openid/authzen issue 640). All else in v does not matter.
func readAsked(v model.Value, defaults asked) (a asked, err error) {
	if v.Kind != model.MapValue {
		return a, malformed("", "an evaluation must be an object")
	}
	a.entities = make(map[string]*entity)
	for name, parts := range entityParts {
		if _, given := v.Field(name); !given {
			a.entities[name] = defaults.entities[name]
			continue
		}
		object, err := readObject(v, name, name)
		if err != nil {
			return a, err
		}
		if object.Kind == model.NullValue {
			continue
		}
		e := &entity{text: make(map[string]string)}
		for _, part := range parts {
			switch f, _ := object.Field(part); f.Kind {
			case model.NullValue:
			case model.StringValue:
				e.text[part] = f.String
			default:
				return a, malformed(name+"."+part, "must be a string")
			}
		}
		_, typed := object.Field("type")
		if inherited := defaults.entities[name]; !typed && e.text["id"] != "" && inherited != nil && inherited.text["type"] != "" {
			e.text["type"] = inherited.text["type"]
		}
		if e.properties, err = readObject(object, "properties", name+".properties"); err != nil {
			return a, err
		}
		a.entities[name] = e
	}
	if _, given := v.Field("context"); !given {
		a.context = defaults.context
		return a, nil
	}
	a.context, err = readObject(v, "context", "context")
	return a, err
}

// readObject returns the named field of v, which is a map, or null if it is not there.
func readObject(v model.Value, name, field string) (model.Value, error) {
	object, _ := v.Field(name)
	if object.Kind != model.NullValue && object.Kind != model.MapValue {
		return model.Value{}, malformed(field, "must be an object")
	}
	return object, nil
}

// text returns what a required part of an entity says.
func (a asked) text(name, part string) (string, error) {
	e := a.entities[name]
	if e == nil {
		return "", malformed(name, "is missing")
	}
	text, ok := e.text[part]
	switch {
	case !ok:
		return "", malformed(name+"."+part, "is missing")
	case text == "":
		return "", malformed(name+"."+part, "must not be empty")
	}
	return text, nil
}

// typ returns the type of a subject or resource. One that no model could have is an
// [*query.InvalidError], as one that the model does not have.
func (a asked) typ(name string) (string, error) {
	text, err := a.text(name, "type")
	if err == nil && tuple.ValidateType("type", text) != nil {
		err = &query.InvalidError{Field: name + ".type", Message: fmt.Sprintf("the model has no type %+q", text)}
	}
	return text, err
}

// object returns the object that a subject or resource names.
func (a asked) object(name string) (tuple.Object, error) {
	id, err := a.text(name, "id")
	if err != nil {
		return tuple.Object{}, err
	}
	if id = escape(id); len(id) > tuple.MaxID {
		return tuple.Object{}, malformed(name+".id", "must be at most %d bytes, with what is escaped, is %d", tuple.MaxID, len(id))
	}
	typ, err := a.typ(name)
	return tuple.Object{Type: typ, ID: id}, err
}

// subject returns the subject.
func (a asked) subject() (tuple.Subject, error) {
	o, err := a.object("subject")
	return tuple.Subject{Type: o.Type, ID: o.ID}, err
}

// relation returns the relation that the action names, as typ does.
func (a asked) relation() (string, error) {
	text, err := a.text("action", "name")
	if err == nil && tuple.ValidateRelation("relation", text) != nil {
		err = &query.InvalidError{Field: "action.name", Message: fmt.Sprintf("the model has no relation %+q", text)}
	}
	return text, err
}

// given returns the values for conditions.
func (a asked) given() (g query.Given, err error) {
	context := fields(nil, "", a.context)
	var over []model.Field
	for _, name := range [...]string{"subject", "resource", "action"} {
		if e := a.entities[name]; e != nil {
			over = fields(over, name+"_", e.properties)
		}
	}
	if g.Context, err = contextOf("context", context); err != nil {
		return g, err
	}
	g.Over, err = contextOf("properties", over)
	return g, err
}

// fields appends the fields of a map that are not null, under their prefixed names.
func fields(dst []model.Field, prefix string, v model.Value) []model.Field {
	for _, f := range v.Map {
		if f.Value.Kind != model.NullValue {
			dst = append(dst, model.Field{Name: prefix + f.Name, Value: f.Value})
		}
	}
	return dst
}

// contextOf makes a map of fields, null if there are none.
func contextOf(field string, all []model.Field) (model.Value, error) {
	if len(all) == 0 {
		return model.Value{}, nil
	}
	slices.SortFunc(all, func(a, b model.Field) int { return strings.Compare(a.Name, b.Name) })
	v := model.Value{Kind: model.MapValue, Map: all}
	if n := len(model.AppendContext(nil, v)); n > model.MaxContext {
		return v, malformed(field, "must be at most %d bytes, is %d", model.MaxContext, n)
	}
	return v, nil
}

// question returns the question that an evaluation is.
func (a asked) question() (q query.Question, err error) {
	// What is missing is said before what is unknown.
	if err := a.require([]string{"subject.type", "subject.id", "action.name", "resource.type", "resource.id"}); err != nil {
		return q, err
	}
	if q.Tuple.Subject, err = a.subject(); err != nil {
		return q, err
	}
	if q.Tuple.Relation, err = a.relation(); err != nil {
		return q, err
	}
	if q.Tuple.Object, err = a.object("resource"); err != nil {
		return q, err
	}
	q.Given, err = a.given()
	return q, err
}

// inRequest returns an error of the engine in the words of the request: the fields that
// a caller of this API knows.
func inRequest(err error) error {
	var invalid *query.InvalidError
	var ill *dsl.ContextError
	switch {
	case errors.As(err, &invalid):
		field := invalid.Field
		switch field {
		case "tuple.object", "object", "type":
			field = "resource.type"
		case "tuple.relation", "relation":
			field = "action.name"
		case "tuple.subject", "subject", "kind":
			field = "subject.type"
		}
		return &query.InvalidError{Field: field, Message: invalid.Message}
	case errors.As(err, &ill) && !ill.Stored:
		for name := range entityParts {
			if property, ok := strings.CutPrefix(ill.Param, name+"_"); ok {
				return ledger.Reject(ledger.CodeInvalid, name+".properties."+property, "%s", ill.Err)
			}
		}
	}
	return err
}

// A paging is the part of a search that is about pages.
type paging struct {
	token string
	limit int // of items
}

// readPaging reads the page of a search: its token, and how many items it may have, of
// which there are never more than maxPage.
func readPaging(v model.Value) (p paging, err error) {
	p.limit = maxPage
	page, err := readObject(v, "page", "page")
	if err != nil {
		return p, err
	}
	switch token, _ := page.Field("token"); token.Kind {
	case model.NullValue:
	case model.StringValue:
		p.token = token.String
	default:
		return p, malformed("page.token", "must be a string")
	}
	switch limit, _ := page.Field("limit"); {
	case limit.Kind == model.NullValue:
	case limit.Kind == model.IntValue && limit.Int >= 0:
		p.limit = int(min(limit.Int, maxPage))
	case limit.Kind == model.UintValue:
	case limit.Kind == model.DoubleValue && limit.Double >= 0 && limit.Double == math.Trunc(limit.Double):
		p.limit = int(min(limit.Double, maxPage))
	default:
		return p, malformed("page.limit", "must be a whole number that is not negative")
	}
	return p, nil
}

// ownError returns what an error is to one item among many, or an error that no item is
// to blame for.
func (s *Service) ownError(ctx context.Context, err error) (*itemError, error) {
	err = inRequest(err)
	status, message := s.cfg.Fault(ctx, err)
	if status >= 499 {
		return nil, err
	}
	return &itemError{status, message}, nil
}

// An itemError is why an item has no answer, as HTTP would have it.
type itemError struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// require returns an error unless all parts are given.
func (a asked) require(parts []string) error {
	for _, part := range parts {
		name, part, _ := strings.Cut(part, ".")
		if _, err := a.text(name, part); err != nil {
			return err
		}
	}
	return nil
}
