package openfga

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// clockSkew is how far the clocks of replicas may lie apart.
const clockSkew = 5 * time.Minute

// Read lists the tuples that exist: those of which a Write would say so. A grant whose
// expiry has come is none. Its pages are of one revision.
func (s *Service) Read(ctx context.Context, req *openfgav1.ReadRequest) (*openfgav1.ReadResponse, error) {
	began := time.Now()
	answer, err := s.read(ctx, req)
	s.cfg.Listed("tuples", false, err, time.Since(began))
	return answer, err
}

func (s *Service) read(ctx context.Context, req *openfgav1.ReadRequest) (*openfgav1.ReadResponse, error) {
	f, err := readFilter(req.GetTupleKey())
	if err != nil {
		return nil, err
	}
	v, at, err := s.readPage(ctx, req, f)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	prefix := prefixOf(f)
	var after tuple.Tuple
	if at.After != "" {
		if after, err = tuple.Parse(at.After); err != nil || !prefix.Has(after) {
			return nil, errToken
		}
	}
	v.Stop = ctx.Err
	answer := &openfgav1.ReadResponse{}
	size, rows, most := pageSize(req.GetPageSize()), 0, s.cfg.Engine.Budgets().List.Rows
	var passed tuple.Tuple // the last that the page is past
	more := false
	var failed error
	err = v.Tuples(prefix, after, func(t index.Granted) bool {
		if rows++; rows > most { // the page ends here, and the next goes on
			more = true
			return false
		}
		if !f.Matches(t.Tuple) || t.Grant.ExpiresAt != 0 && t.Grant.ExpiresAt <= at.Time {
			passed = t.Tuple
			return true
		}
		if len(answer.Tuples) == size {
			more = true
			return false
		}
		passed = t.Tuple
		var made int64
		if made, failed = v.TimeOf(t.Revision); failed != nil {
			return false
		}
		answer.Tuples = append(answer.Tuples, &openfgav1.Tuple{Key: keyMessage(t.Tuple, &t.Grant), Timestamp: moment(made)})
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	if more {
		at.After = passed.String()
		answer.ContinuationToken = at.String()
	}
	return answer, nil
}

// readPage opens the view of a page, and returns the token that it goes on from.
func (s *Service) readPage(ctx context.Context, req *openfgav1.ReadRequest, f *query.Filter) (*index.View, *query.PageToken, error) {
	now := s.cfg.Now().UnixNano()
	if req.GetContinuationToken() == "" {
		fresh := projector.Freshness{}
		if req.GetConsistency() == openfgav1.ConsistencyPreference_HIGHER_CONSISTENCY {
			fresh.Kind = projector.Latest
		}
		v, err := s.view(ctx, req.GetStoreId(), fresh)
		if err != nil {
			return nil, nil, err
		}
		at := &query.PageToken{Model: v.NewestModel(), Time: now, Question: f.Key()}
		if at.View, err = v.Token(); err != nil {
			v.Close()
			return nil, nil, err
		}
		return v, at, nil
	}
	at, err := query.ParsePageToken(strings.TrimRight(req.GetContinuationToken(), "="))
	if err != nil || at.Question != f.Key() {
		return nil, nil, errToken
	}
	if age := time.Duration(now - at.Time); age > query.PageTokenAge || age < -clockSkew {
		return nil, nil, errorf(openfgav1.ErrorCode_invalid_continuation_token, "continuation_token: has expired: it is good for %s after the first page; begin again with that", query.PageTokenAge)
	}
	v, err := s.viewOf(ctx, req.GetStoreId(), projector.AtToken, at.View)
	return v, &at, err
}

// viewOf opens a view for the token of a continuation. One of another log, store or past
// is no token.
func (s *Service) viewOf(ctx context.Context, store string, kind projector.FreshnessKind, t ledger.Token) (*index.View, error) {
	v, err := s.view(ctx, store, projector.Freshness{Kind: kind, Token: t})
	if errors.Is(err, ledger.ErrForeignToken) || errors.Is(err, ledger.ErrToken) || errors.Is(err, ledger.ErrLostPast) {
		return nil, errToken
	}
	return v, err
}

// readFilter reads which tuples are asked for: all, or those of an object or of a user
// with objects of a type.
func readFilter(k *openfgav1.ReadRequestTupleKey) (*query.Filter, error) {
	f := &query.Filter{}
	if k.GetUser() == "" && k.GetRelation() == "" && k.GetObject() == "" {
		return f, nil
	}
	typ, id, split := strings.Cut(k.GetObject(), ":")
	if !split || typ == "" || id == "" && k.GetUser() == "" {
		return nil, invalidf("tuple_key: must name an object (doc:plan), or a type of object (doc:) and a user, or nothing at all")
	}
	f.Object, f.Relation = tuple.Object{Type: typ, ID: id}, k.GetRelation()
	if id == "" {
		if err := tuple.ValidateType("object.type", typ); err != nil {
			return nil, invalidf("tuple_key.object: %s", syntaxText(err))
		}
	} else if err := f.Object.Validate(); err != nil {
		return nil, invalidf("tuple_key.object: %s", syntaxText(err))
	}
	if f.Relation != "" {
		if err := tuple.ValidateRelation("relation", f.Relation); err != nil {
			return nil, invalidf("tuple_key.relation: %s", syntaxText(err))
		}
	}
	if k.GetUser() != "" {
		subject, err := readSubject("tuple_key.user", k.GetUser())
		if err != nil {
			return nil, err
		}
		f.Kind, f.Subject = &model.Kind{Type: subject.Type, Relation: subject.Relation}, subject.ID
	}
	return f, nil
}

// prefixOf returns what the keys of the tuples that f matches have in common.
func prefixOf(f *query.Filter) index.Prefix {
	if f.Object.ID == "" && f.Kind != nil {
		return index.BySubject(tuple.Subject{Type: f.Kind.Type, Relation: f.Kind.Relation, ID: f.Subject}, f.Object.Type, f.Relation)
	}
	if f.Relation == "" {
		return index.ByObject(f.Object, "", nil, "")
	}
	return index.ByObject(f.Object, f.Relation, f.Kind, f.Subject)
}

// keyMessage returns a tuple with its condition.
func keyMessage(t tuple.Tuple, g *model.Grant) *openfgav1.TupleKey {
	k := &openfgav1.TupleKey{User: t.Subject.String(), Relation: t.Relation, Object: t.Object.String()}
	if g.Condition != "" {
		k.Condition = &openfgav1.RelationshipCondition{Name: g.Condition, Context: dsl.ContextMessage(g.Context)}
	}
	return k
}

// Limits of one page of changes, for whose size the API has none.
const (
	maxLooked  = 100_000 // entries looked at
	maxChanges = 1000
)

// ReadChanges lists the changes of tuples in their order: of each command that changed
// something what it did. It has no last page: the token of a page without changes is where
// later ones will be. A grant whose expiry comes is no change, because nothing is written
// then; one that replaces another is a write.
func (s *Service) ReadChanges(ctx context.Context, req *openfgav1.ReadChangesRequest) (*openfgav1.ReadChangesResponse, error) {
	where := s.place("changes", req.GetStoreId())
	text, err := where.read(req.GetContinuationToken())
	if err != nil {
		return nil, err
	}
	var (
		v    *index.View
		at   ledger.Token // every entry up to its revision was looked at,
		skip int          // and so many changes of the next
	)
	if text == "" {
		if v, err = s.view(ctx, req.GetStoreId(), projector.Freshness{}); err != nil {
			return nil, err
		}
		if t := req.GetStartTime(); t != nil && t.AsTime().UnixNano() > 0 {
			at.Revision, err = v.RevisionAt(t.AsTime().UnixNano() - 1)
		}
	} else {
		var view, typ string
		if n, _ := fmt.Sscanf(text, "%s %d", &view, &skip); n != 2 {
			return nil, errToken
		}
		if _, typ, _ = strings.Cut(text, "/"); typ != req.GetType() {
			return nil, errorf(openfgav1.ErrorCode_query_string_type_continuation_token_mismatch, "type: is %q, and the continuation_token is of changes of type %q", req.GetType(), typ)
		}
		if at, err = ledger.ParseToken(view); err != nil {
			return nil, errToken
		}
		v, err = s.viewOf(ctx, req.GetStoreId(), projector.AtLeast, at)
	}
	if v != nil {
		defer v.Close()
	}
	if err != nil {
		return nil, err
	}
	answer := &openfgav1.ReadChangesResponse{}
	rev, skip, err := changes(ctx, v, at.Revision, skip, req.GetType(), min(pageSize(req.GetPageSize()), maxChanges), &answer.Changes)
	if err != nil {
		return nil, err
	}
	leaf, err := v.Leaf(rev)
	if err != nil {
		return nil, err
	}
	at = ledger.Token{Log: s.cfg.Projector.Index().Position().Log, Store: v.Store(), Epoch: v.Epoch(), Revision: rev, Leaf: [8]byte(leaf[:8])}
	answer.ContinuationToken = where.token(fmt.Sprintf("%s %d /%s", at, skip, req.GetType()))
	return answer, nil
}

// changes appends up to n changes to out: of the entries after rev, without the first skip
// changes of the first. It returns the same for what comes after.
func changes(ctx context.Context, v *index.View, rev ledger.Revision, skip int, typ string, n int, out *[]*openfgav1.TupleChange) (ledger.Revision, int, error) {
	looked := 0
	for e, err := range v.Entries(rev + 1) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return rev, skip, err
		}
		if looked++; looked > maxLooked {
			return rev, skip, nil
		}
		if e.Outcome.Kind == ledger.Applied && e.Outcome.Effective > 0 {
			c, why := e.Command()
			if why != nil {
				return rev, skip, fmt.Errorf("the applied command of revision %d: %w", e.Revision, why)
			}
			for ; skip < len(c.Changes); skip++ {
				m, err := changeMessage(v, e, &c.Changes[skip], typ)
				if err != nil {
					return rev, skip, err
				}
				if m == nil {
					continue
				}
				if *out = append(*out, m); len(*out) == n {
					if skip++; skip == len(c.Changes) {
						rev, skip = e.Revision, 0
					}
					return rev, skip, nil
				}
			}
		}
		rev, skip = e.Revision, 0
	}
	return rev, skip, nil
}

// changeMessage returns what a change of an entry did, nil if it did nothing to a tuple
// of an object of the type, or of any for "".
func changeMessage(v *index.View, e *ledger.Entry, ch *ledger.Change, typ string) (*openfgav1.TupleChange, error) {
	if ch.Kind != ledger.Grant && ch.Kind != ledger.Revoke || typ != "" && ch.Tuple.Object.Type != typ {
		return nil, nil
	}
	made, ok, err := v.NewestUpTo(ch.Tuple, e.Revision)
	if err != nil || !ok || made.Revision != e.Revision {
		return nil, err
	}
	m := &openfgav1.TupleChange{Operation: openfgav1.TupleOperation_TUPLE_OPERATION_WRITE, Timestamp: moment(e.Time)}
	if !made.Live {
		m.Operation = openfgav1.TupleOperation_TUPLE_OPERATION_DELETE
		made.Grant = model.Grant{}
	}
	m.TupleKey = keyMessage(ch.Tuple, &made.Grant)
	return m, nil
}
