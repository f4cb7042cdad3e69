package openfga

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc/codes"
)

// maxWrites is the most tuples of one Write, deleted and written together.
const maxWrites = 100

// Write deletes and writes tuples, all or none: one command, decided at its place in the
// order. Unless the request says to ignore that, a tuple to be written must not exist and
// one to be deleted must.
func (s *Service) Write(ctx context.Context, req *openfgav1.WriteRequest) (*openfgav1.WriteResponse, error) {
	w, err := readWrite(req)
	if err != nil {
		return nil, err
	}
	// What is ignored follows the view, and is held against the fold by preconditions. If
	// others wrote meanwhile, it is looked at again.
	fresh := projector.Freshness{}
	for range 4 {
		c, err := s.writeCommand(ctx, req, w, fresh)
		if err != nil {
			return nil, err
		}
		err = s.submit(ctx, c)
		if err == nil {
			return &openfgav1.WriteResponse{}, nil
		}
		var again bool
		if again, err = w.rejected(req, err); !again {
			return nil, err
		}
		fresh.Kind = projector.Latest
	}
	return nil, &Error{Code: int32(codes.Aborted), Message: "others write the same tuples; try again"}
}

// A write is what a request asks for.
type write struct {
	changes      []ledger.Change // the deletes first
	deletes      int             // how many these are
	contexts     []model.Value   // of the others, as given
	ignore, skip bool            // tuples that exist already; that are missing
	ofChange     []int           // the change that each precondition is of
}

// path returns the field of the request in which the tuple of a change stands.
func (w *write) path(change int) string {
	if change < w.deletes {
		return fmt.Sprintf("deletes.tuple_keys[%d]", change)
	}
	return fmt.Sprintf("writes.tuple_keys[%d]", change-w.deletes)
}

// readWrite reads a request, all but what depends on the store.
func readWrite(req *openfgav1.WriteRequest) (*write, error) {
	deletes, writes := req.GetDeletes().GetTupleKeys(), req.GetWrites().GetTupleKeys()
	switch n := len(deletes) + len(writes); {
	case n == 0:
		return nil, errorf(openfgav1.ErrorCode_invalid_write_input, "writes: must hold at least one tuple, or deletes must")
	case n > maxWrites:
		return nil, errorf(openfgav1.ErrorCode_exceeded_entity_limit, "writes and deletes: the number of write operations must be at most %d, is %d", maxWrites, n)
	}
	w := &write{deletes: len(deletes)}
	var err error
	if w.ignore, err = ignores("writes.on_duplicate", req.GetWrites().GetOnDuplicate()); err != nil {
		return nil, err
	}
	if w.skip, err = ignores("deletes.on_missing", req.GetDeletes().GetOnMissing()); err != nil {
		return nil, err
	}
	at := make(map[tuple.Tuple]int)
	add := func(k tupleKey, ch *ledger.Change) error {
		i := len(w.changes)
		if ch.Tuple, err = readTuple(openfgav1.ErrorCode_validation_error, w.path(i), k); err != nil {
			return err
		}
		if first, twice := at[ch.Tuple]; twice {
			return errorf(openfgav1.ErrorCode_cannot_allow_duplicate_tuples_in_one_request, "%s: stands in %s too: %s", w.path(i), w.path(first), keyText(ch.Tuple))
		}
		at[ch.Tuple] = i
		w.changes = append(w.changes, *ch)
		return nil
	}
	for _, k := range deletes {
		if err := add(k, &ledger.Change{Kind: ledger.Revoke}); err != nil {
			return nil, err
		}
	}
	for i, k := range writes {
		given, err := readContext(w.path(w.deletes+i)+".condition.context", k.GetCondition().GetContext())
		if err != nil {
			return nil, err
		}
		ch := ledger.Change{Kind: ledger.Grant}
		ch.Grant.Condition = k.GetCondition().GetName()
		if given.Kind != model.NullValue {
			ch.Grant.Context = model.AppendContext(nil, given)
		}
		if err := add(k, &ch); err != nil {
			return nil, err
		}
		if t := ch.Tuple; t.Subject == (tuple.Subject{Type: t.Object.Type, ID: t.Object.ID, Relation: t.Relation}) {
			return nil, invalidf("%s: cannot write a tuple that holds by itself: %s", w.path(w.deletes+i), keyText(t))
		}
		w.contexts = append(w.contexts, given)
	}
	return w, nil
}

// ignores reads what is to be done about tuples that are there already, or missing.
func ignores(field, text string) (bool, error) {
	switch text {
	case "", "error":
		return false, nil
	case "ignore":
		return true, nil
	}
	return false, invalidf("%s: must be error or ignore, is %q", field, text)
}

// keyText says a tuple as the API's errors do.
func keyText(t tuple.Tuple) string {
	return fmt.Sprintf("user: '%s', relation: '%s', object: '%s'", t.Subject, t.Relation, t.Object)
}

// writeCommand returns the command for a request.
func (s *Service) writeCommand(ctx context.Context, req *openfgav1.WriteRequest, w *write, fresh projector.Freshness) (*ledger.Command, error) {
	v, err := s.view(ctx, req.GetStoreId(), fresh)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	c := &ledger.Command{Store: v.Store(), Changes: slices.Clone(w.changes)}
	if text := req.GetAuthorizationModelId(); text != "" {
		if c.Model, err = ledger.ParseID(text); err != nil || c.Model.IsZero() {
			return nil, noModel(text)
		}
	}
	w.ofChange = nil
	for i := range c.Changes {
		exists := i < w.deletes
		switch {
		case exists && w.skip:
			continue
		case !exists && w.ignore:
			if exists, err = s.same(v, c.Model, w, i, &c.Changes[i]); err != nil {
				return nil, err
			}
		}
		c.Preconditions = append(c.Preconditions, ledger.Precondition{Tuple: c.Changes[i].Tuple, MustExist: exists})
		w.ofChange = append(w.ofChange, i)
	}
	return c, nil
}

// same reports whether the tuple that change i writes exists with the same condition, and
// then gives the change all else that it is granted with, so that it changes nothing. One
// with another condition is a conflict.
func (s *Service) same(v *index.View, modelID ledger.ID, w *write, i int, ch *ledger.Change) (bool, error) {
	g, ok, err := v.Grant(ch.Tuple)
	if err != nil || !ok || g.ExpiresAt != 0 && g.ExpiresAt <= s.cfg.Now().UnixNano() {
		return false, err
	}
	own := ch.Grant.Context
	if m, err := v.Model(modelID); err != nil {
		return false, err
	} else if m != nil && own != nil {
		if condition, ok := m.Condition(ch.Grant.Condition); ok {
			typed, err := condition.TypeContext(w.contexts[i-w.deletes])
			if err != nil {
				return false, invalidf("%s.condition.context: %s", w.path(i), err)
			}
			own = model.AppendContext(nil, typed)
		}
	}
	if g.Condition != ch.Grant.Condition || string(g.Context) != string(own) {
		return false, &Error{Code: int32(codes.Aborted), Message: fmt.Sprintf("%s: exists with another condition: %s", w.path(i), keyText(ch.Tuple))}
	}
	ch.Grant = g
	return true, nil
}

// rejected returns the API's error for what became of the command, or that it may be
// tried again.
func (w *write) rejected(req *openfgav1.WriteRequest, err error) (again bool, _ error) {
	var why *ledger.Rejection
	if !errors.As(err, &why) {
		return false, err
	}
	var i int
	switch {
	case why.Field == "store":
		return false, storeGone(err)
	case why.Field == "model" && why.Code == ledger.CodeNotFound:
		return false, noModel(req.GetAuthorizationModelId())
	case why.Field == "model":
		return false, errorf(openfgav1.ErrorCode_latest_authorization_model_not_found, "store %s has no authorization model yet; write one first", req.GetStoreId())
	case scan(why.Field, "preconditions[%d].tuple", &i) && i < len(w.ofChange):
		change := w.ofChange[i]
		if change >= w.deletes && w.ignore {
			return true, nil
		}
		rule := "cannot write a tuple that already exists"
		if change < w.deletes {
			rule = "cannot delete a tuple that does not exist"
		}
		return false, errorf(openfgav1.ErrorCode_write_failed_due_to_invalid_input, "%s: %s: %s", w.path(change), rule, keyText(w.changes[change].Tuple))
	case scan(why.Field, "changes[%d].", &i) && i < len(w.changes):
		_, part, _ := strings.Cut(why.Field, ".")
		if part == "context" {
			part = "condition.context"
		}
		return false, invalidf("%s.%s: %s", w.path(i), tupleFields.Replace(part), why.Message)
	}
	return false, err
}

// scan reads the number in a field's path.
func scan(field, form string, i *int) bool {
	n, _ := fmt.Sscanf(field, form, i)
	return n == 1
}

// tupleFields gives the parts of a tuple the names that they have in this API.
var tupleFields = strings.NewReplacer("tuple.", "", "subject", "user", ".type", "", ".id", "", ".relation", "")
