package serve

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/querytest"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var pastSeed = flag.Uint64("past-seed", 0, "seed of the first random past; 0: another one every time")

// A chronicle is a random history in the log of a node, and beside it the reference that
// says what the store was at each revision.
type chronicle struct {
	*node
	t      *testing.T
	rand   *rand.Rand
	ref    *decide.Memory
	store  ledger.ID
	clock  int64 // of the broker
	broker *ledgertest.Broker
	asked  map[string]int
}

// The first log time of a chronicle, and the server's clock, later than everything in its
// log.
const (
	pastBegin = int64(1_600_000_000_000_000_000)
	pastNow   = pastBegin + int64(24*time.Hour)
)

func newChronicle(t *testing.T, seed uint64, asked map[string]int) *chronicle {
	c := &chronicle{t: t, rand: rand.New(rand.NewPCG(seed, 3)), ref: decide.NewMemory(), store: ledger.NewID(), clock: pastBegin, asked: asked}
	c.node = newNode(t, func(cfg *Config) { cfg.Now = func() time.Time { return time.Unix(0, pastNow) } })
	c.broker = c.log.Broker
	c.broker.SetClock(func() int64 { return c.clock })
	c.append(&ledger.Command{Changes: []ledger.Change{{Kind: ledger.CreateStore, Store: c.store, Name: "acme", Admin: "ann"}}})
	for _, step := range querytest.NewHistory(seed, 30) {
		// Some entries have the same log time.
		c.clock += []int64{0, 1, 2, int64(time.Second)}[c.rand.IntN(4)]
		cmd := &ledger.Command{Store: c.store}
		if step.Model != nil {
			cmd.Changes = append(cmd.Changes, ledger.Change{Kind: ledger.WriteModel, Model: ledger.ModelSource{
				ID: ledger.NewID(), Kind: ledger.SourceJSON, Source: []byte("{}"), Compiled: model.AppendModel(nil, step.Model)}})
		}
		for _, tup := range slices.SortedFunc(maps.Keys(step.Grant), tuple.Tuple.Compare) {
			cmd.Changes = append(cmd.Changes, ledger.Change{Kind: ledger.Grant, Tuple: tup, Grant: c.timed(step.Grant[tup])})
		}
		for _, tup := range step.Revoke {
			cmd.Changes = append(cmd.Changes, ledger.Change{Kind: ledger.Revoke, Tuple: tup})
		}
		c.append(cmd)
	}
	return c
}

// timed gives a grant, perhaps, a beginning and an end near the next entries.
func (c *chronicle) timed(g model.Grant) model.Grant {
	g.NotBefore, g.ExpiresAt = 0, 0
	near := func() int64 {
		return c.clock + []int64{0, 1, 2, 3, int64(time.Second), int64(time.Second) + 1, int64(3 * time.Second)}[c.rand.IntN(7)]
	}
	if c.rand.IntN(6) == 0 {
		g.NotBefore = near()
	}
	if c.rand.IntN(3) == 0 {
		g.ExpiresAt = max(near(), c.clock+1, g.NotBefore+1)
	}
	return g
}

// append puts a command into the log, and folds it in the reference.
func (c *chronicle) append(cmd *ledger.Command) {
	c.t.Helper()
	cmd.ID = ledger.NewUUID()
	raw := ledger.AppendCommand(nil, cmd)
	origin := ledger.Origin{Actor: "ann", Method: ledger.MethodNone, Attester: ledger.Subject("main", ledger.EdgeSubject, "test")}
	c.broker.Put(origin.Attester, ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: origin, Raw: raw}}))
	if _, err := c.ref.Fold(decide.Input{Kind: ledger.EdgeSubject, Origin: origin, Raw: raw, Time: c.clock, Version: ledger.FoldVersion}); err != nil {
		c.t.Fatal(err)
	}
}

// at is a moment, as it is asked for, and what the store was then.
type at struct {
	fresh    *pb.Freshness
	revision ledger.Revision
	time     int64
}

// moments returns every revision, in one of the ways to ask for it, and times between,
// before and after the entries.
func (c *chronicle) moments() (all []at) {
	entries := c.ref.Entries(c.store)
	for i, e := range entries {
		rev := ledger.Revision(i + 1)
		m := at{revision: rev, time: e.Time, fresh: &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: uint64(rev)}}}
		if i%2 == 0 {
			v, err := c.projector.Index().View(c.store, rev)
			if err != nil {
				c.t.Fatal(err)
			}
			token, err := v.Token()
			v.Close()
			if err != nil {
				c.t.Fatal(err)
			}
			m.fresh = &pb.Freshness{Freshness: &pb.Freshness_AtToken{AtToken: token.String()}}
		}
		all = append(all, m)
		for _, after := range []int64{0, 1, 2} {
			if i+1 < len(entries) && e.Time+after >= entries[i+1].Time {
				continue // the entry before it counts, and that is another
			}
			all = append(all, at{revision: rev, time: e.Time + after,
				fresh: &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: timestamppb.New(time.Unix(0, e.Time+after))}}})
		}
	}
	return append(all, at{revision: ledger.Revision(len(entries)), time: pastNow,
		fresh: &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: timestamppb.New(time.Unix(0, pastNow))}}})
}

// world returns what the reference says the store was, nil without a model.
func (c *chronicle) world(m at) *querytest.World {
	w := &querytest.World{Model: c.ref.ModelAt(c.store, m.revision), Grants: make(map[tuple.Tuple]model.Grant)}
	for _, v := range c.ref.Live(c.store, m.revision) {
		w.Grants[v.Tuple] = v.Grant
	}
	if w.Model == nil {
		return nil
	}
	return w
}

// differs asks everything at a moment, and says which answer is not as the oracle's at
// want, or "".
func (c *chronicle) differs(m, want at) string {
	w := c.world(want)
	if w == nil {
		return "there is no model"
	}
	state := w.State()
	state.Time = want.time
	facts := querytest.Facts(state, w.Everything(), w.Everyone())
	ctx := c.t.Context()
	req := &pb.BatchCheckRequest{Store: c.store.String(), Freshness: m.fresh}
	var order []tuple.Tuple
	for t := range facts {
		order = append(order, t)
		req.Items = append(req.Items, &pb.BatchCheckRequest_Item{Tuple: tupleMessage(t)})
	}
	batch, err := c.BatchCheck(ctx, req)
	if err != nil {
		return err.Error()
	}
	if batch.Revision != uint64(m.revision) || batch.EvaluatedAt.AsTime().UnixNano() != m.time {
		return fmt.Sprintf("answered at revision %d and %s", batch.Revision, batch.EvaluatedAt.AsTime())
	}
	for i, r := range batch.Results {
		if text := c.wrong(facts[order[i]], order[i], r.Allowed, r.Error); text != "" {
			return "in a batch: " + text
		}
	}
	for range 5 {
		t := order[c.rand.IntN(len(order))]
		r, err := c.Check(ctx, &pb.CheckRequest{Store: c.store.String(), Tuple: tupleMessage(t), Freshness: m.fresh})
		var own *pb.QuestionError
		if err != nil {
			own = &pb.QuestionError{Code: connect.CodeOf(err).String(), Message: err.Error()}
		}
		if text := c.wrong(facts[t], t, r.GetAllowed(), own); text != "" {
			return text
		}
		x, err := c.Explain(ctx, &pb.ExplainRequest{Store: c.store.String(), Tuple: tupleMessage(t), Freshness: m.fresh})
		if err != nil {
			return err.Error()
		}
		if text := c.wrong(facts[t], t, x.Allowed, x.Error); text != "" {
			return "explained: " + text
		}
		if x.Revision != uint64(m.revision) || x.EvaluatedAt.AsTime().UnixNano() != m.time || (x.Turn == nil) != (x.Error != nil) {
			return fmt.Sprintf("explained at revision %d and %s, with the turn %v", x.Revision, x.EvaluatedAt.AsTime(), x.Turn)
		}
		if turned := x.Turn; turned.GetTime() != nil && turned.Time.AsTime().UnixNano() > m.time || turned.GetCommand().GetRevision() > x.Revision {
			return fmt.Sprintf("explained at revision %d by what came later: %v", x.Revision, turned)
		}
	}
	return c.listsDiffer(m, w, facts)
}

// wrong says how an answer is not the fact, or "".
func (c *chronicle) wrong(f querytest.Fact, t tuple.Tuple, allowed bool, err *pb.QuestionError) string {
	got := querytest.Denied
	switch {
	case err != nil:
		got = querytest.Failed
	case allowed:
		got = querytest.Allowed
	}
	c.asked[got.String()]++
	if got != f.Value {
		return fmt.Sprintf("%s: the answer is %v (%s); the oracle says %v", t, got, err.GetMessage(), f.Value)
	}
	return ""
}

// listsDiffer makes some of the lists in pages of two, and reads all tuples.
func (c *chronicle) listsDiffer(m at, w *querytest.World, facts map[tuple.Tuple]querytest.Fact) string {
	ctx := c.t.Context()
	a := querytest.NewAnswers(facts)
	n := 0
	for l := range a.Lists {
		if n++; c.rand.IntN(12) > 0 {
			continue
		}
		var list []querytest.Listed
		failed := func(items []*pb.Undecided) {
			for _, u := range items {
				_, id, _ := cutText(u.Item)
				list = append(list, querytest.Listed{ID: id, Cause: cause(facts, l, id)})
			}
		}
		var err error
		for page := ""; ; {
			if l.Type != "" {
				var r *pb.ListObjectsResponse
				r, err = c.ListObjects(ctx, &pb.ListObjectsRequest{Store: c.store.String(), Subject: l.Subject.String(), Relation: l.Relation, Type: l.Type,
					PageSize: 2, PageToken: page, Undecided: true, Freshness: m.fresh})
				for _, o := range r.GetObjects() {
					_, id, _ := cutText(o)
					list = append(list, querytest.Listed{ID: id})
				}
				failed(r.GetUndecided())
				page = r.GetNextPageToken()
			} else {
				var r *pb.ListSubjectsResponse
				kind := l.Kind.Type
				if l.Kind.Relation != "" {
					kind += "#" + l.Kind.Relation
				}
				r, err = c.ListSubjects(ctx, &pb.ListSubjectsRequest{Store: c.store.String(), Kind: kind, Relation: l.Relation, Object: l.Object.String(),
					PageSize: 2, PageToken: page, Undecided: true, Freshness: m.fresh})
				for _, s := range r.GetSubjects() {
					_, id, _ := cutText(s)
					list = append(list, querytest.Listed{ID: id})
				}
				for _, s := range r.GetExcluded() {
					_, id, _ := cutText(s)
					list = append(list, querytest.Listed{ID: id, Excluded: true})
				}
				failed(r.GetUndecided())
				page = r.GetNextPageToken()
			}
			if err != nil || page == "" {
				break
			}
		}
		if connect.CodeOf(err) == connect.CodeInvalidArgument { // nobody of the kind could hold it
			continue
		}
		if err != nil {
			return fmt.Sprintf("%+v: %v", l, err)
		}
		slices.SortFunc(list, func(a, b querytest.Listed) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
		if text := a.Wrong(l, list); text != "" {
			return text
		}
	}
	c.asked["in lists"] += a.Compared
	read := make(map[string]bool)
	for page := ""; ; {
		r, err := c.ReadTuples(ctx, &pb.ReadTuplesRequest{Store: c.store.String(), Inactive: true, PageToken: page, PageSize: 7, Freshness: m.fresh})
		if err != nil {
			return err.Error()
		}
		for _, t := range r.Tuples {
			read[t.Tuple.Object+"#"+t.Tuple.Relation+"@"+t.Tuple.Subject] = true
		}
		if page = r.NextPageToken; page == "" {
			break
		}
	}
	for t := range w.Grants {
		if !read[t.String()] {
			return fmt.Sprintf("%s was granted, and is not read", t)
		}
	}
	if len(read) != len(w.Grants) {
		return fmt.Sprintf("%d tuples are read, %d were granted", len(read), len(w.Grants))
	}
	return ""
}

// cause returns a cause that the oracle gives for an item without an answer, or one that
// it never gives.
func cause(facts map[tuple.Tuple]querytest.Fact, l querytest.List, id string) string {
	t := tuple.Tuple{Object: l.Object, Relation: l.Relation, Subject: l.Subject}
	if l.Type != "" {
		t.Object = tuple.Object{Type: l.Type, ID: id}
	} else {
		t.Subject = tuple.Subject{Type: l.Kind.Type, ID: id, Relation: l.Kind.Relation}
	}
	if f := facts[t]; len(f.Causes) > 0 {
		return f.Causes[0]
	}
	return "none"
}

// cutText takes "type:id" or "type:id#relation" apart.
func cutText(text string) (typ, id, relation string) {
	s, err := tuple.ParseSubject(text)
	if err != nil {
		panic(err)
	}
	return s.Type, s.ID, s.Relation
}

// TestPastOracle asks every question at every revision and between, under every model that
// was in force, and at every moment at which something begins or ends.
func TestPastOracle(t *testing.T) {
	seed := *pastSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("pasts from seed %d; -args -past-seed %d runs them again", seed, seed)
	asked := make(map[string]int)
	const pasts = 3
	for n := range uint64(pasts) {
		t.Run(fmt.Sprint(seed+n), func(t *testing.T) {
			c := newChronicle(t, seed+n, asked)
			wait, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := c.projector.Await(wait, c.store, ledger.Revision(len(c.ref.Entries(c.store)))); err != nil {
				t.Fatal(err)
			}
			moments := c.moments()
			noticed := false
			for i, m := range moments {
				if c.world(m) == nil {
					continue // no model yet
				}
				if text := c.differs(m, m); text != "" {
					t.Fatalf("at %v: %s", m.fresh, text)
				}
				// Were another moment answered, it would be noticed.
				noticed = noticed || i > 0 && c.world(moments[i-1]) != nil && c.differs(m, moments[i-1]) != ""
			}
			if !noticed {
				t.Error("every moment is as the one after it")
			}
		})
	}
	t.Logf("answers: %v", asked)
	for what, least := range map[string]int{"denied": 5000, "allowed": 500, "in lists": 500} {
		if asked[what] < least*pasts {
			t.Errorf("only %d answers are %s, want %d or more", asked[what], what, least*pasts)
		}
	}
}

// TestPast asks about moments at which nothing can be answered, and about a store that
// is deleted.
func TestPast(t *testing.T) {
	n := newNode(t)
	ctx := context10(t)
	other := n.apply(t, n.store(t, testModel), grant("doc:plan", "viewer", "user:ann"))
	before := timestamppb.Now()
	store := n.store(t, testModel) // revisions 1 and 2
	granted := n.apply(t, store, grant("doc:plan", "viewer", "user:ann"))
	n.apply(t, store, revoke("doc:plan", "viewer", "user:ann"))
	check := func(f *pb.Freshness) (*pb.CheckResponse, error) {
		return n.Check(ctx, &pb.CheckRequest{Store: store, Tuple: tupleOf("doc:plan", "viewer", "user:ann"), Freshness: f})
	}
	revision := func(r uint64) *pb.Freshness { return &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: r}} }
	token := func(text string) *pb.Freshness { return &pb.Freshness{Freshness: &pb.Freshness_AtToken{AtToken: text}} }
	moment := func(at *timestamppb.Timestamp) *pb.Freshness {
		return &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: at}}
	}
	for _, tt := range []struct {
		name  string
		fresh *pb.Freshness
		code  connect.Code
		why   pb.Rejection_Code
		field string
		part  string
	}{
		{"revision 0", revision(0), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "freshness.at_revision", "at least 1"},
		{"after the newest", revision(5), connect.CodeInvalidArgument, pb.Rejection_INVALID, "freshness.at_revision", "is at revision 4"},
		{"the future", moment(timestamppb.New(time.Now().Add(time.Hour))), connect.CodeInvalidArgument, pb.Rejection_INVALID, "freshness.at_time", "in the future"},
		{"before the store", moment(before), connect.CodeNotFound, pb.Rejection_NOT_FOUND, "freshness.at_time", "before the store's first entry"},
		{"before 1970", moment(&timestamppb.Timestamp{Seconds: -5}), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "freshness.at_time", "after 1970"},
		{"no time", moment(&timestamppb.Timestamp{Seconds: 5, Nanos: -1}), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "freshness.at_time", "is not a moment"},
		{"no token", token("soon"), connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "freshness.at_token", "grantlog answer"},
		{"a token of another store", token(other.Token), connect.CodeInvalidArgument, pb.Rejection_INVALID, "freshness.at_token", "it is of store"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := check(tt.fresh)
			wantRejection(t, err, tt.code, tt.why, tt.field, tt.part)
		})
	}
	_, err := n.GetCommand(ctx, &pb.GetCommandRequest{Store: store, Id: granted.Id, Actor: "ann", Freshness: revision(3)})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "freshness.at_revision", "must be absent")

	deleted := timestamppb.Now()
	if _, err := n.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: store, Actor: "ann"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		fresh    *pb.Freshness
		allowed  bool
		revision uint64
	}{
		{"granted", revision(3), true, 3},
		{"granted, by its token", token(granted.Token), true, 3},
		{"revoked", revision(4), false, 4},
		{"between two entries, the one before counts", moment(deleted), false, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := check(tt.fresh)
			if err != nil || a.Allowed != tt.allowed || a.Revision != tt.revision {
				t.Errorf("of a deleted store: %v, %v; want allowed %v at revision %d", a, err, tt.allowed, tt.revision)
			}
		})
	}
	for _, f := range []*pb.Freshness{nil, revision(5), moment(timestamppb.Now())} {
		_, err := check(f)
		wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "is deleted")
	}
}

// TestPastPages: the pages of a list of now expire, those of a list of the past do not,
// and a token with a moment that was none of its revision's is refused.
func TestPastPages(t *testing.T) {
	var ahead time.Duration
	n := newNode(t, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(ahead) } })
	ctx := context10(t)
	store := n.store(t, testModel)
	for _, doc := range []string{"doc:a", "doc:b", "doc:c"} {
		n.apply(t, store, grant(doc, "viewer", "user:ann")) // revisions 3 to 5
	}
	list := func(page string, f *pb.Freshness) (*pb.ListObjectsResponse, error) {
		return n.ListObjects(ctx, &pb.ListObjectsRequest{Store: store, Subject: "user:ann", Relation: "viewer", Type: "doc", PageSize: 1, PageToken: page, Freshness: f})
	}
	first := make(map[string]*pb.ListObjectsResponse)
	for name, f := range map[string]*pb.Freshness{
		"now": nil, "revision": {Freshness: &pb.Freshness_AtRevision{AtRevision: 4}},
		"time": {Freshness: &pb.Freshness_AtTime{AtTime: timestamppb.Now()}},
	} {
		a, err := list("", f)
		if err != nil {
			t.Fatal(err)
		}
		first[name] = a
	}
	n.apply(t, store, revoke("doc:b", "viewer", "user:ann"))
	ahead = 3 * time.Hour
	for _, name := range []string{"revision", "time"} {
		if a, err := list(first[name].NextPageToken, nil); err != nil || !slices.Equal(a.Objects, []string{"doc:b"}) || !a.EvaluatedAt.AsTime().Equal(first[name].EvaluatedAt.AsTime()) {
			t.Errorf("the second page of %s, hours later: %v, %v; want doc:b", name, a, err)
		}
	}
	// Nothing happened between the first page of now and the next entry: that is a moment of the past, too.
	if a, err := list(first["now"].NextPageToken, nil); err != nil || !slices.Equal(a.Objects, []string{"doc:b"}) {
		t.Errorf("the second page of now: %v, %v", a, err)
	}
	forged, err := query.ParsePageToken(first["revision"].NextPageToken)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		moved time.Duration
		good  bool
	}{{-time.Hour, false}, {2*time.Hour + 30*time.Minute, true}, {4 * time.Hour, false}} { // the server's clock is three hours later
		token := forged
		token.Time += int64(tt.moved)
		_, err = list(token.String(), nil)
		if tt.good && err != nil {
			t.Errorf("a moment within the hour: %v", err)
		}
		if !tt.good {
			wantRejection(t, err, connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "page_token", "has expired")
		}
	}
}
