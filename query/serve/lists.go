package serve

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
)

const (
	// pageEvery is how long a stream gathers items for a page; it sends what it has when
	// the next item comes after that.
	pageEvery = 50 * time.Millisecond
	// streamTimeout is how long a stream may keep its view, and so files of the index. A
	// caller that is slower goes on with the token of the last page.
	streamTimeout = 15 * time.Minute
	// clockSkew is how far the clocks of replicas may lie apart.
	clockSkew = 5 * time.Minute
)

// errSlow ends a stream that has kept its view too long.
var errSlow = fmt.Errorf("%w: the stream has gone on for %s; go on with the next_page_token of its last page", ledger.ErrUnavailable, streamTimeout)

// A pages is the pages of one list: what all have in common.
type pages struct {
	view   *index.View
	asking *query.Asking
	token  query.PageToken // of the next page
	text   string          // token of the view
	size   int
}

// A paged is the part of a request that is about pages.
type paged struct {
	store, model string
	freshness    *pb.Freshness
	size         uint32
	token        string
	key          [16]byte // of the question
}

// open begins the pages that a request asks for; the caller closes them.
func (s *Server) open(ctx context.Context, r paged) (*pages, error) {
	size, err := readPageSize(r.size)
	if err != nil {
		return nil, err
	}
	p := &pages{size: size}
	if r.token == "" {
		var now int64
		if p.view, p.asking, now, err = s.ask(ctx, r.store, r.model, r.freshness); err != nil {
			return nil, err
		}
		p.token = query.PageToken{Model: p.asking.Model(), Time: now, Question: r.key}
	} else if err := s.reopen(ctx, r, p); err != nil {
		return nil, err
	}
	if p.token.View, err = p.view.Token(); err != nil {
		p.view.Close()
		return nil, err
	}
	p.text = p.token.View.String()
	return p, nil
}

// reopen goes on where a page token says.
func (s *Server) reopen(ctx context.Context, r paged, p *pages) error {
	const field = "page_token"
	store, err := readStore("store", r.store)
	if err != nil {
		return err
	}
	if p.token, err = query.ParsePageToken(r.token); err != nil {
		return malformed(field, "%s", err)
	}
	switch {
	case p.token.Question != r.key:
		return ledger.Reject(ledger.CodeInvalid, field, "is of another question; all but page_size, freshness, model and undecided must be as it was for the first page")
	case r.model != "" && r.model != p.token.Model.String():
		return ledger.Reject(ledger.CodeInvalid, field, "is of a list under model %s, not %s", p.token.Model, r.model)
	}
	wait, cancel := s.patience(ctx)
	defer cancel()
	if p.view, err = s.cfg.Projector.View(wait, store, projector.Freshness{Kind: projector.AtToken, Token: p.token.View}); err != nil {
		return s.viewError(store, field, true, err)
	}
	if err = s.goodFor(ctx, p); err == nil {
		err = live(p.view)
	}
	if err == nil {
		if p.asking, err = s.cfg.Engine.Ask(p.view, p.token.Model, p.token.Time); err != nil {
			err = &fieldError{field, err}
		}
	}
	if err != nil {
		p.view.Close()
	}
	return err
}

// goodFor returns an error unless the moment of the pages may be asked about at their
// revision: it is of the past, one of those at which the store was at that revision, or
// that of a first page not long ago, of a clock like this one.
func (s *Server) goodFor(ctx context.Context, p *pages) error {
	now := s.cfg.Now().UnixNano()
	if age := time.Duration(now - p.token.Time); age <= query.PageTokenAge && age >= -clockSkew {
		return nil
	}
	if p.token.Time <= now {
		made, err := p.view.Time()
		if err != nil || made == p.token.Time {
			return err
		}
		newest, err := s.cfg.Projector.View(ctx, p.view.Store(), projector.Freshness{Kind: projector.Any})
		if err != nil {
			return err
		}
		defer newest.Close()
		if rev, err := newest.RevisionAt(p.token.Time); err != nil || rev == p.view.Revision() {
			return err
		}
	}
	return ledger.Reject(ledger.CodePrecondition, "page_token", "has expired: it is good for %s after the first page; begin again with that", query.PageTokenAge)
}

// next returns the token of the page after an item.
func (p *pages) next(after string) string {
	p.token.After = after
	return p.token.String()
}

// A page gathers the items of one page of a list, and becomes a message. Take fails if
// it is a fault that an item has no answer.
type page[T, M any] interface {
	take(T) error
	message(p *pages, next string) M
}

// sendPages makes pages of a sequence and sends them: one, or with all of them as many as
// there are. After returns what an item is called in a page token.
func sendPages[T, M any, P page[T, M]](p *pages, all bool, items iter.Seq2[T, error], after func(T) string, fresh func() P, send func(M) error) error {
	current, n, last := fresh(), 0, ""
	began := time.Now()
	sent := began
	for item, err := range items {
		// A page that is full, or took long, is sent once it is known that more follows,
		// be it that the list fails.
		if n == p.size || all && n > 0 && time.Since(sent) > pageEvery {
			if err := send(current.message(p, p.next(last))); err != nil {
				return err
			}
			if !all {
				return nil
			}
			if time.Since(began) > streamTimeout {
				return errSlow
			}
			current, n, sent = fresh(), 0, time.Now()
		}
		var spent *model.BudgetError
		if at := after(item); errors.As(err, &spent) && at != "" {
			// A reading that has used up its rows says where to go on.
			if sendErr := send(current.message(p, p.next(at))); sendErr != nil || !all {
				return sendErr
			}
			return err
		}
		if err == nil {
			err = current.take(item)
		}
		if err != nil {
			return err
		}
		n++
		last = after(item)
	}
	return send(current.message(p, ""))
}

// An itemError is why a list fails for one of its items.
type itemError struct {
	item string
	err  error
}

func (e *itemError) Error() string { return e.item + ": " + e.err.Error() }
func (e *itemError) Unwrap() error { return e.err }

// undecided takes an item without an answer: into the list of them, if it is asked for.
func undecided(asked bool, list *[]*pb.Undecided, item string, err error) error {
	own, fatal := ownError(err)
	if fatal != nil || !asked {
		return &itemError{item, err}
	}
	*list = append(*list, &pb.Undecided{Item: item, Error: own})
	return nil
}

// ListObjects lists the objects on which a subject holds a relation.
func (s *Server) ListObjects(ctx context.Context, req *pb.ListObjectsRequest) (answer *pb.ListObjectsResponse, err error) {
	err = s.listObjects(ctx, req, false, func(m *pb.ListObjectsResponse) error { answer = m; return nil })
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

// StreamObjects is ListObjects, all pages.
func (s *Server) StreamObjects(ctx context.Context, req *pb.StreamObjectsRequest, stream *connect.ServerStream[pb.StreamObjectsResponse]) error {
	if req.List == nil {
		return s.rpcError(ctx, malformed("list", "is missing"))
	}
	err := s.listObjects(ctx, req.List, true, func(m *pb.ListObjectsResponse) error {
		return stream.Send(&pb.StreamObjectsResponse{Page: m})
	})
	if err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

func (s *Server) listObjects(ctx context.Context, req *pb.ListObjectsRequest, all bool, send func(*pb.ListObjectsResponse) error) error {
	began := time.Now()
	var q query.ObjectsQuestion
	var err error
	if q.Subject, err = readSubject("subject", req.Subject); err != nil {
		return err
	}
	if q.Relation, q.Type, err = readNames(req.Relation, req.Type); err != nil {
		return err
	}
	if q.Given, err = readGiven(req.Contextual, req.Context); err != nil {
		return err
	}
	p, err := s.open(ctx, paged{req.Store, req.Model, req.Freshness, req.PageSize, req.PageToken, q.Key()})
	if err != nil {
		return err
	}
	defer p.view.Close()
	err = sendPages(p, all, p.asking.ListObjects(ctx, q, p.token.After), itemID,
		func() *objectsPage { return &objectsPage{typ: q.Type, undecided: req.Undecided} }, send)
	s.cfg.Metrics.list("objects", err, time.Since(began))
	return err
}

func itemID(i model.Item) string { return i.ID }

type objectsPage struct {
	typ       string
	undecided bool
	m         pb.ListObjectsResponse
}

func (g *objectsPage) take(i model.Item) error {
	object := g.typ + ":" + i.ID
	if i.Err != nil {
		return undecided(g.undecided, &g.m.Undecided, object, i.Err)
	}
	g.m.Objects = append(g.m.Objects, object)
	return nil
}

func (g *objectsPage) message(p *pages, next string) *pb.ListObjectsResponse {
	g.m.NextPageToken, g.m.Token, g.m.Revision = next, p.text, uint64(p.view.Revision())
	g.m.EvaluatedAt, g.m.Model = timeMessage(p.token.Time), p.token.Model.String()
	return &g.m
}

// ListSubjects lists the subjects that hold a relation on an object.
func (s *Server) ListSubjects(ctx context.Context, req *pb.ListSubjectsRequest) (answer *pb.ListSubjectsResponse, err error) {
	err = s.listSubjects(ctx, req, false, func(m *pb.ListSubjectsResponse) error { answer = m; return nil })
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

// StreamSubjects is ListSubjects, all pages.
func (s *Server) StreamSubjects(ctx context.Context, req *pb.StreamSubjectsRequest, stream *connect.ServerStream[pb.StreamSubjectsResponse]) error {
	if req.List == nil {
		return s.rpcError(ctx, malformed("list", "is missing"))
	}
	err := s.listSubjects(ctx, req.List, true, func(m *pb.ListSubjectsResponse) error {
		return stream.Send(&pb.StreamSubjectsResponse{Page: m})
	})
	if err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

func (s *Server) listSubjects(ctx context.Context, req *pb.ListSubjectsRequest, all bool, send func(*pb.ListSubjectsResponse) error) error {
	began := time.Now()
	var q query.SubjectsQuestion
	var err error
	if q.Kind, err = readKind("kind", req.Kind); err != nil {
		return err
	}
	if q.Object, err = readObject("object", req.Object); err != nil {
		return err
	}
	if q.Relation, _, err = readNames(req.Relation, q.Object.Type); err != nil {
		return err
	}
	if q.Given, err = readGiven(req.Contextual, req.Context); err != nil {
		return err
	}
	p, err := s.open(ctx, paged{req.Store, req.Model, req.Freshness, req.PageSize, req.PageToken, q.Key()})
	if err != nil {
		return err
	}
	defer p.view.Close()
	err = sendPages(p, all, p.asking.ListSubjects(ctx, q, p.token.After), itemID,
		func() *subjectsPage { return &subjectsPage{kind: q.Kind, undecided: req.Undecided} }, send)
	s.cfg.Metrics.list("subjects", err, time.Since(began))
	return err
}

type subjectsPage struct {
	kind      model.Kind
	undecided bool
	m         pb.ListSubjectsResponse
}

func (g *subjectsPage) take(i model.Item) error {
	subject := tuple.Subject{Type: g.kind.Type, ID: i.ID, Relation: g.kind.Relation}.String()
	switch {
	case i.Err != nil:
		return undecided(g.undecided, &g.m.Undecided, subject, i.Err)
	case i.Excluded:
		g.m.Excluded = append(g.m.Excluded, subject)
	default:
		g.m.Subjects = append(g.m.Subjects, subject)
	}
	return nil
}

func (g *subjectsPage) message(p *pages, next string) *pb.ListSubjectsResponse {
	g.m.NextPageToken, g.m.Token, g.m.Revision = next, p.text, uint64(p.view.Revision())
	g.m.EvaluatedAt, g.m.Model = timeMessage(p.token.Time), p.token.Model.String()
	return &g.m
}

// ReadTuples reads granted tuples.
func (s *Server) ReadTuples(ctx context.Context, req *pb.ReadTuplesRequest) (answer *pb.ReadTuplesResponse, err error) {
	err = s.readTuples(ctx, req, false, func(m *pb.ReadTuplesResponse) error { answer = m; return nil })
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

// StreamTuples is ReadTuples, all pages.
func (s *Server) StreamTuples(ctx context.Context, req *pb.StreamTuplesRequest, stream *connect.ServerStream[pb.StreamTuplesResponse]) error {
	if req.Read == nil {
		return s.rpcError(ctx, malformed("read", "is missing"))
	}
	err := s.readTuples(ctx, req.Read, true, func(m *pb.ReadTuplesResponse) error {
		return stream.Send(&pb.StreamTuplesResponse{Page: m})
	})
	if err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

func (s *Server) readTuples(ctx context.Context, req *pb.ReadTuplesRequest, all bool, send func(*pb.ReadTuplesResponse) error) error {
	began := time.Now()
	f, err := readFilter(req)
	if err != nil {
		return err
	}
	p, err := s.open(ctx, paged{req.Store, req.Model, req.Freshness, req.PageSize, req.PageToken, f.Key()})
	if err != nil {
		return err
	}
	defer p.view.Close()
	var after tuple.Tuple
	if p.token.After != "" {
		if after, err = tuple.Parse(p.token.After); err != nil || !f.Passes(after) {
			return malformed("page_token", "%s", query.ErrPageToken)
		}
	}
	err = sendPages(p, all, p.asking.Tuples(ctx, f, after), tupleText,
		func() *tuplesPage { return &tuplesPage{} }, send)
	s.cfg.Metrics.list("tuples", err, time.Since(began))
	return err
}

// tupleText is what a tuple is called in a page token, "" for none.
func tupleText(g query.Granted) string {
	if g.Tuple == (tuple.Tuple{}) {
		return ""
	}
	return g.Tuple.String()
}

type tuplesPage struct{ m pb.ReadTuplesResponse }

func (g *tuplesPage) take(t query.Granted) error {
	m := grantedMessage(t.Tuple, &t.Grant)
	m.Revision, m.State = uint64(t.Revision), pb.GrantedTuple_State(t.State)
	g.m.Tuples = append(g.m.Tuples, m)
	return nil
}

func (g *tuplesPage) message(p *pages, next string) *pb.ReadTuplesResponse {
	g.m.NextPageToken, g.m.Token, g.m.Revision = next, p.text, uint64(p.view.Revision())
	g.m.EvaluatedAt, g.m.Model = timeMessage(p.token.Time), p.token.Model.String()
	return &g.m
}

// ListRelations lists the relations that a subject holds on an object.
func (s *Server) ListRelations(ctx context.Context, req *pb.ListRelationsRequest) (*pb.ListRelationsResponse, error) {
	began := time.Now()
	answer, err := s.listRelations(ctx, req)
	s.cfg.Metrics.list("relations", err, time.Since(began))
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) listRelations(ctx context.Context, req *pb.ListRelationsRequest) (*pb.ListRelationsResponse, error) {
	subject, err := readSubject("subject", req.Subject)
	if err != nil {
		return nil, err
	}
	object, err := readObject("object", req.Object)
	if err != nil {
		return nil, err
	}
	for i, r := range req.Relations {
		if err := tuple.ValidateRelation("relation", r); err != nil {
			return nil, partRejection(fmt.Sprintf("relations[%d]", i), "relation", err)
		}
	}
	given, err := readGiven(req.Contextual, req.Context)
	if err != nil {
		return nil, err
	}
	v, asking, now, err := s.ask(ctx, req.Store, req.Model, req.Freshness)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	held, err := asking.ListRelations(ctx, subject, object, req.Relations, given)
	if err != nil {
		return nil, err
	}
	token, err := v.Token()
	if err != nil {
		return nil, err
	}
	answer := &pb.ListRelationsResponse{
		Token: token.String(), Revision: uint64(v.Revision()), EvaluatedAt: timeMessage(now), Model: asking.Model().String(),
	}
	for _, h := range held {
		if h.Err != nil {
			if err := undecided(req.Undecided, &answer.Undecided, h.Relation, h.Err); err != nil {
				return nil, err
			}
			continue
		}
		answer.Relations = append(answer.Relations, h.Relation)
	}
	return answer, nil
}

// Expand answers with the tree of a relation on an object.
func (s *Server) Expand(ctx context.Context, req *pb.ExpandRequest) (*pb.ExpandResponse, error) {
	began := time.Now()
	answer, err := s.expand(ctx, req)
	s.cfg.Metrics.list("tree", err, time.Since(began))
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) expand(ctx context.Context, req *pb.ExpandRequest) (*pb.ExpandResponse, error) {
	object, err := readObject("object", req.Object)
	if err != nil {
		return nil, err
	}
	relation, _, err := readNames(req.Relation, object.Type)
	if err != nil {
		return nil, err
	}
	given, err := readGiven(req.Contextual, req.Context)
	if err != nil {
		return nil, err
	}
	v, asking, now, err := s.ask(ctx, req.Store, req.Model, req.Freshness)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	tree, err := asking.Expand(ctx, object, relation, int(max(req.Levels, 1)), given)
	if err != nil {
		return nil, err
	}
	token, err := v.Token()
	if err != nil {
		return nil, err
	}
	answer := &pb.ExpandResponse{Token: token.String(), Revision: uint64(v.Revision()), EvaluatedAt: timeMessage(now), Model: asking.Model().String()}
	if answer.Tree, err = treeMessage(tree); err != nil {
		return nil, err
	}
	return answer, nil
}

var treeOperations = map[model.Op]pb.Tree_Operation{
	model.This: pb.Tree_GRANTED, model.Computed: pb.Tree_COMPUTED, model.From: pb.Tree_FROM,
	model.Union: pb.Tree_UNION, model.Intersect: pb.Tree_INTERSECTION, model.Exclude: pb.Tree_EXCLUSION,
}

func treeMessage(t *model.Tree) (*pb.Tree, error) {
	if t == nil {
		return nil, nil
	}
	m := &pb.Tree{Object: t.Object.String(), Relation: t.Relation, Operation: treeOperations[t.Op], Rule: t.Rule}
	for i := range t.Grants {
		g := &t.Grants[i]
		grant := &pb.TreeGrant{Grant: grantedMessage(g.Tuple, &g.Grant)}
		grant.Grant.State = pb.GrantedTuple_ACTIVE
		var err error
		if grant.Error, err = ownError(g.Err); err != nil {
			return nil, err
		}
		if grant.Leads, err = treeMessage(g.Leads); err != nil {
			return nil, err
		}
		m.Grants = append(m.Grants, grant)
	}
	for _, b := range t.Branches {
		branch, err := treeMessage(b)
		if err != nil {
			return nil, err
		}
		m.Branches = append(m.Branches, branch)
	}
	return m, nil
}

func grantedMessage(t tuple.Tuple, g *model.Grant) *pb.GrantedTuple {
	return &pb.GrantedTuple{
		Tuple: tupleMessage(t), Condition: g.Condition, ExpiresAt: timeMessage(g.ExpiresAt),
		NotBefore: timeMessage(g.NotBefore), Owner: g.Owner, Context: dsl.ContextMessage(g.Context),
	}
}

func readSubject(field, text string) (tuple.Subject, error) {
	s, err := tuple.ParseSubject(text)
	if err != nil {
		return s, partRejection(field, "subject", err)
	}
	return s, nil
}

func readObject(field, text string) (tuple.Object, error) {
	o, err := tuple.ParseObject(text)
	if err != nil {
		return o, partRejection(field, "object", err)
	}
	return o, nil
}

// partRejection is the rejection of a part of a tuple that stands in a field by itself.
func partRejection(field, part string, err error) error {
	var syntax *tuple.SyntaxError
	if errors.As(err, &syntax) {
		return malformed(field+strings.TrimPrefix(syntax.Part, part), "%+q %s", syntax.Text, syntax.Rule)
	}
	return malformed(field, "%s", err)
}

// readNames reads a relation and a type.
func readNames(relation, typ string) (string, string, error) {
	if err := tuple.ValidateRelation("relation", relation); err != nil {
		return "", "", partRejection("relation", "relation", err)
	}
	if err := tuple.ValidateType("object.type", typ); err != nil {
		return "", "", partRejection("type", "object.type", err)
	}
	return relation, typ, nil
}

// readKind reads a kind of subject: type or type#relation.
func readKind(field, text string) (model.Kind, error) {
	typ, relation, userset := strings.Cut(text, "#")
	if strings.Contains(typ, ":") {
		return model.Kind{}, malformed(field, "must be a type, or a type and a relation as in group#member, without an id")
	}
	if err := tuple.ValidateType("subject.type", typ); err != nil {
		return model.Kind{}, partRejection(field, "subject", err)
	}
	if userset {
		if err := tuple.ValidateRelation("subject.relation", relation); err != nil {
			return model.Kind{}, partRejection(field, "subject", err)
		}
	}
	return model.Kind{Type: typ, Relation: relation}, nil
}

// readFilter reads what tuples are to be read.
func readFilter(req *pb.ReadTuplesRequest) (f query.Filter, err error) {
	f.Inactive = req.Inactive
	switch {
	case req.Object == "":
	case strings.Contains(req.Object, ":"):
		f.Object, err = readObject("object", req.Object)
	default:
		f.Object.Type = req.Object
		if err := tuple.ValidateType("object.type", req.Object); err != nil {
			return f, partRejection("object", "object", err)
		}
	}
	if err != nil {
		return f, err
	}
	if f.Relation = req.Relation; f.Relation != "" {
		if err := tuple.ValidateRelation("relation", f.Relation); err != nil {
			return f, partRejection("relation", "relation", err)
		}
	}
	switch {
	case req.Subject == "":
	case strings.Contains(req.Subject, ":"):
		subject, err := readSubject("subject", req.Subject)
		if err != nil {
			return f, err
		}
		f.Kind, f.Subject = &model.Kind{Type: subject.Type, Relation: subject.Relation}, subject.ID
	default:
		kind, err := readKind("subject", req.Subject)
		if err != nil {
			return f, err
		}
		f.Kind = &kind
	}
	return f, nil
}
