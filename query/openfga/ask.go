package openfga

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// A question is a request that is answered at a view under a model.
type question interface {
	GetStoreId() string
	GetAuthorizationModelId() string
	GetConsistency() openfgav1.ConsistencyPreference
}

// An asked is the view and the model that the questions of one request are asked of. Its
// owner closes it.
type asked struct {
	*query.Asking
	view  *index.View
	model *model.Model
}

func (a *asked) close() { a.view.Close() }

// ask opens what a request asks: the tuples as applied here, which what was written here
// is among, or with higher consistency the newest of the log, under the model that it
// names or the newest one.
func (s *Service) ask(ctx context.Context, q question) (*asked, error) {
	fresh := projector.Freshness{Kind: projector.Any}
	if q.GetConsistency() == openfgav1.ConsistencyPreference_HIGHER_CONSISTENCY {
		fresh.Kind = projector.Latest
	}
	v, err := s.view(ctx, q.GetStoreId(), fresh)
	if err != nil {
		return nil, err
	}
	a, err := s.askUnder(v, q.GetAuthorizationModelId())
	if err != nil {
		v.Close()
		return nil, err
	}
	return a, nil
}

func (s *Service) askUnder(v *index.View, modelID string) (*asked, error) {
	var id ledger.ID
	if modelID != "" {
		var err error
		if id, err = ledger.ParseID(modelID); err != nil {
			return nil, noModel(modelID)
		}
	}
	asking, err := s.cfg.Engine.Ask(v, id, s.cfg.Now().UnixNano())
	switch {
	case errors.Is(err, query.ErrNoModel):
		return nil, errorf(openfgav1.ErrorCode_latest_authorization_model_not_found, "store %s has no authorization model yet; write one first", v.Store())
	case errors.Is(err, ledger.ErrNotFound):
		return nil, noModel(modelID)
	case err != nil:
		return nil, err
	}
	m, err := v.Model(asking.Model())
	if err != nil {
		return nil, err
	}
	return &asked{asking, v, m}, nil
}

func noModel(id string) error {
	return errorf(openfgav1.ErrorCode_authorization_model_not_found, "authorization_model_id: the store has no authorization model %s", id)
}

// knownType returns an error unless the model has the type that stands in a field.
func (a *asked) knownType(field, typ string) error {
	if _, ok := a.model.Type(typ); !ok {
		return errorf(openfgav1.ErrorCode_type_not_found, "%s: the model has no type %q", field, typ)
	}
	return nil
}

// knownRelation returns an error unless the model has the type and the relation that stand
// in these fields.
func (a *asked) knownRelation(typeField, field, typ, relation string) error {
	if err := a.knownType(typeField, typ); err != nil {
		return err
	}
	if _, ok := a.model.Relation(typ, relation); !ok {
		return errorf(openfgav1.ErrorCode_relation_not_found, "%s: type %q has no relation %q", field, typ, relation)
	}
	return nil
}

// A tupleKey is the three parts of a tuple, as several messages have them.
type tupleKey interface {
	GetUser() string
	GetRelation() string
	GetObject() string
}

// readTuple reads the tuple that stands in a field. Its error has the code, and names the
// part.
func readTuple(code openfgav1.ErrorCode, field string, k tupleKey) (t tuple.Tuple, err error) {
	if t.Object, err = tuple.ParseObject(k.GetObject()); err != nil {
		return t, errorf(code, "%s.object: %s", field, syntaxText(err))
	}
	t.Relation = k.GetRelation()
	if err = tuple.ValidateRelation("relation", t.Relation); err != nil {
		return t, errorf(code, "%s.relation: %s", field, syntaxText(err))
	}
	if t.Subject, err = tuple.ParseSubject(k.GetUser()); err != nil {
		return t, errorf(code, "%s.user: %s", field, syntaxText(err))
	}
	return t, nil
}

func readObject(field, text string) (tuple.Object, error) {
	o, err := tuple.ParseObject(text)
	if err != nil {
		return o, invalidf("%s: %s", field, syntaxText(err))
	}
	return o, nil
}

func readSubject(field, text string) (tuple.Subject, error) {
	s, err := tuple.ParseSubject(text)
	if err != nil {
		return s, invalidf("%s: %s", field, syntaxText(err))
	}
	return s, nil
}

// syntaxText says which rule a field breaks that is a part of a tuple, for an error of package
// tuple.
func syntaxText(err error) string {
	var syntax *tuple.SyntaxError
	if !errors.As(err, &syntax) {
		return err.Error()
	}
	text := fmt.Sprintf("%+q %s", syntax.Text, syntax.Rule)
	if _, part, ok := strings.Cut(syntax.Part, "."); ok {
		return "its " + part + " " + text
	}
	return text
}

// A naming is how a request names what it asks: what stands before the parts of the tuple,
// and the list of contextual tuples.
type naming struct{ tuple, contextual string }

var (
	asCheck     = naming{"tuple_key.", "contextual_tuples.tuple_keys"} // a check of a batch and a tree too
	asObjects   = naming{"", "contextual_tuples.tuple_keys"}
	asUsers     = naming{"", "contextual_tuples"}
	asAssertion = naming{"tuple_key.", "contextual_tuples"}
)

// readQuestion reads what a check asks.
func (n naming) readQuestion(k tupleKey, contextual []*openfgav1.TupleKey, values *structpb.Struct) (q query.Question, err error) {
	if q.Tuple, err = readTuple(openfgav1.ErrorCode_validation_error, "tuple_key", k); err != nil {
		return q, err
	}
	q.Given, err = n.readGiven(contextual, values)
	return q, err
}

// readGiven reads contextual tuples and context. A contextual tuple that stands twice
// counts once.
func (n naming) readGiven(contextual []*openfgav1.TupleKey, values *structpb.Struct) (g query.Given, err error) {
	for i, k := range contextual {
		field := fmt.Sprintf("%s[%d]", n.contextual, i)
		t, err := readTuple(openfgav1.ErrorCode_invalid_tuple, field, k)
		if err != nil {
			return g, err
		}
		if same := slices.IndexFunc(g.Contextual, func(c query.Contextual) bool { return c.Tuple == t }); same >= 0 {
			if !slices.ContainsFunc(contextual[:i], func(o *openfgav1.TupleKey) bool { return proto.Equal(o, k) }) {
				return g, errorf(openfgav1.ErrorCode_duplicate_contextual_tuple, "%s: stands twice, with different conditions", field)
			}
			continue
		}
		own, err := readContext(field+".condition.context", k.GetCondition().GetContext())
		if err != nil {
			return g, err
		}
		g.Contextual = append(g.Contextual, query.Contextual{Tuple: t, Condition: k.GetCondition().GetName(), Context: own})
	}
	g.Context, err = readContext("context", values)
	return g, err
}

// questionError returns why a question has no answer, as this API says it, where that
// differs from what errorOf says.
func (n naming) questionError(err error) error {
	var wrong *query.InvalidError
	if errors.As(err, &wrong) {
		field, code := n.field(wrong.Field)
		return errorf(code, "%s: %s", field, wrong.Message)
	}
	return err
}

// field returns what the request calls a field of a question, and the code of an error in it.
func (n naming) field(field string) (string, openfgav1.ErrorCode) {
	if rest, ok := strings.CutPrefix(field, "contextual"); ok {
		index, part, _ := strings.Cut(rest, ".")
		code := openfgav1.ErrorCode_validation_error
		switch part {
		case "": // the list
			return n.contextual + index, code
		case "context":
			part = "condition.context"
		case "condition":
		default:
			code = openfgav1.ErrorCode_invalid_tuple
		}
		return n.contextual + index + "." + tupleFields.Replace(part), code
	}
	if field == "context" {
		return field, openfgav1.ErrorCode_validation_error
	}
	return n.tuple + tupleFields.Replace(field), openfgav1.ErrorCode_validation_error
}

// view opens a view of a store, which must be live; the caller closes it.
func (s *Service) view(ctx context.Context, store string, f projector.Freshness) (*index.View, error) {
	notFound := func() error {
		return &Error{Code: int32(openfgav1.NotFoundErrorCode_store_id_not_found), Message: fmt.Sprintf("store_id: there is no store %s", store)}
	}
	id, err := ledger.ParseID(store)
	if err != nil || id == ledger.System {
		return nil, notFound()
	}
	if f.Kind != projector.Any {
		wait, cancel := s.patience(ctx)
		defer cancel()
		ctx = wait
	}
	v, err := s.cfg.Projector.View(ctx, id, f)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, notFound()
	}
	if err != nil {
		return nil, err
	}
	if v.Status() != decide.Live {
		v.Close()
		return nil, notFound()
	}
	return v, nil
}

// readContext reads the values for conditions that stand in a field.
func readContext(field string, values *structpb.Struct) (model.Value, error) {
	v, err := dsl.ReadContext(values)
	if err != nil {
		return v, invalidf("%s: %s", field, err)
	}
	return v, nil
}
