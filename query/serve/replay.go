package serve

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
)

// Sizes of one answer of a stream: it holds entries until it has so many, or their
// commands have so many bytes.
const (
	streamEntries = 100
	streamBytes   = 256 << 10
)

// progress is how far, and how long, a stream that finds nothing looks before it says how
// far it got: so that a caller that comes again does not begin anew, and one that is gone
// is noticed.
const (
	progressEntries = 1 << 16
	progressEvery   = time.Second
	searchStep      = 64 // entries read between two looks at the clock
)

// errEnding ends the streams that follow when the server does.
var errEnding = fmt.Errorf("%w: the server ends; go on elsewhere with the resume token", ledger.ErrUnavailable)

// Replay streams the entries of a store in order.
func (s *Server) Replay(ctx context.Context, req *pb.ReplayRequest, stream *connect.ServerStream[pb.ReplayResponse]) error {
	if err := s.replay(ctx, req, stream.Send); err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

// A replaying is how far a stream of entries got.
type replaying struct {
	store    ledger.ID
	filter   query.EntryFilter
	search   *query.EntrySearch
	next, to ledger.Revision // those that are to be looked at
	fromTime int64           // entries before it are not wanted
	raw      bool
	known    bool // no name of the filter is a mistake, or it is too late to say so

	told   ledger.Revision // the caller can go on from here
	toldAt time.Time
	caught bool // the caller was told that it is caught up
}

func (s *Server) replay(ctx context.Context, req *pb.ReplayRequest, send func(*pb.ReplayResponse) error) error {
	r, err := s.replayStart(ctx, req)
	if err != nil {
		return err
	}
	for {
		// The view is closed before the entries are sent: a caller may take its time.
		answer, end, err := s.readEntries(ctx, r)
		if err != nil {
			return err
		}
		if len(answer.Entries) > 0 || answer.CaughtUp || r.next > r.to || r.next-r.told >= s.searchFor || time.Since(r.toldAt) >= progressEvery {
			if err := send(answer); err != nil {
				return err
			}
			r.told, r.toldAt = r.next, time.Now()
			r.caught = r.caught || answer.CaughtUp
		}
		switch {
		case r.next > r.to, end && !req.Follow:
			return nil
		case end:
			if err := s.awaitEntry(ctx, r); err != nil {
				return err
			}
		}
	}
}

// replayStart reads the request, up to where its entries begin and end.
func (s *Server) replayStart(ctx context.Context, req *pb.ReplayRequest) (*replaying, error) {
	store, err := readAnyStore("store", req.Store)
	if err != nil {
		return nil, err
	}
	filter, err := readEntryFilter(req.Filter)
	if err != nil {
		return nil, err
	}
	toTime, err := readTime("to_time", req.ToTime)
	if err != nil {
		return nil, err
	}
	switch {
	case req.Follow && req.To != 0:
		return nil, malformed("to", "must be absent from a stream that follows, which has no end")
	case req.Follow && toTime != 0:
		return nil, malformed("to_time", "must be absent from a stream that follows, which has no end")
	case req.To != 0 && toTime != 0:
		return nil, malformed("to_time", "must be absent beside to")
	}
	r := &replaying{store: store, filter: filter, search: query.NewEntrySearch(filter), next: 1, to: math.MaxUint64, raw: req.Raw, toldAt: time.Now()}
	wait, cancel := s.patience(ctx)
	defer cancel()
	view := func(field string, f projector.Freshness) (*index.View, error) {
		v, err := s.cfg.Projector.View(wait, store, f)
		if err != nil {
			return nil, s.viewError(store, field, true, err)
		}
		return v, nil
	}
	switch k := req.Start.(type) {
	case *pb.ReplayRequest_From:
		switch r.next = ledger.Revision(k.From); {
		case k.From == 0:
			return nil, malformed("from", "must be at least 1")
		case req.To != 0 && k.From > req.To:
			return nil, malformed("to", "must not be before from, %d, is %d", k.From, req.To)
		}
		if !req.Follow {
			v, err := view("from", projector.Freshness{Kind: projector.AtRevision, Revision: r.next})
			if err != nil {
				return nil, err
			}
			v.Close()
		}
	case *pb.ReplayRequest_ResumeToken:
		t, err := ledger.ParseToken(k.ResumeToken)
		if err != nil {
			return nil, &fieldError{"resume_token", err}
		}
		v, err := view("resume_token", projector.Freshness{Kind: projector.AtLeast, Token: t})
		if err != nil {
			return nil, err
		}
		v.Close()
		r.next = t.Revision + 1
		r.known = true // or something may have been found before
	case *pb.ReplayRequest_FromTime:
		if r.fromTime, err = readTime("from_time", k.FromTime); err != nil {
			return nil, err
		}
		if toTime != 0 && r.fromTime > toTime {
			return nil, malformed("to_time", "must not be before from_time")
		}
		if r.next, err = s.firstSince(wait, store, "from_time", r.fromTime); err != nil {
			return nil, err
		}
	}
	switch {
	case req.To != 0:
		v, err := view("to", projector.Freshness{Kind: projector.AtRevision, Revision: ledger.Revision(req.To)})
		if err != nil {
			return nil, err
		}
		v.Close()
		r.to = ledger.Revision(req.To)
	case toTime != 0:
		if r.to, err = s.lastUntil(wait, store, "to_time", toTime); err != nil {
			return nil, err
		}
	}
	r.told = r.next
	return r, nil
}

// firstSince returns the first revision of a store whose log time is not before at, which
// may be the one after the newest.
func (s *Server) firstSince(ctx context.Context, store ledger.ID, field string, at int64) (ledger.Revision, error) {
	v, err := s.cfg.Projector.View(ctx, store, projector.Freshness{Kind: projector.AtTime, Time: at})
	if errors.Is(err, projector.ErrBefore) {
		return 1, nil
	}
	if err != nil {
		return 0, s.viewError(store, field, true, err)
	}
	defer v.Close()
	before, err := v.RevisionAt(at - 1)
	return before + 1, err
}

// lastUntil returns the last revision of a store whose log time is not after at.
func (s *Server) lastUntil(ctx context.Context, store ledger.ID, field string, at int64) (ledger.Revision, error) {
	v, err := s.cfg.Projector.View(ctx, store, projector.Freshness{Kind: projector.AtTime, Time: at})
	if err != nil {
		return 0, s.viewError(store, field, true, err)
	}
	defer v.Close()
	return v.Revision(), nil
}

// readEntries goes on until it has an answer, and tells whether it got to the end of what
// is applied here.
func (s *Server) readEntries(ctx context.Context, r *replaying) (answer *pb.ReplayResponse, end bool, err error) {
	v, err := s.cfg.Projector.View(ctx, r.store, projector.Freshness{Kind: projector.Any})
	if err != nil {
		return nil, false, s.viewError(r.store, "store", false, err)
	}
	defer v.Close()
	v.Stop = ctx.Err
	answer = &pb.ReplayResponse{}
	began, first, size := time.Now(), r.next, 0
	for full := false; !full && r.next <= min(r.to, v.Revision()) && r.next-first < s.searchFor && time.Since(began) < progressEvery; {
		r.next, err = r.search.Step(v, r.next, r.to, min(searchStep, int(s.searchFor)), func(e *ledger.Entry) bool {
			if e.Time < r.fromTime {
				return true
			}
			r.known = true
			answer.Entries = append(answer.Entries, entryMessage(e, r.raw))
			size += len(e.Raw)
			full = len(answer.Entries) == streamEntries || size >= streamBytes
			return !full
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, false, err
		}
	}
	end = r.next > v.Revision()
	if !r.known && (end || r.next > r.to) {
		if err := r.filter.Known(v); err != nil {
			return nil, false, err
		}
		r.known = true
	}
	answer.CaughtUp = end && !r.caught
	if r.next-1 > v.Revision() {
		return answer, end, nil // nothing that is wanted is here yet, so there is nothing to go on after
	}
	t, err := v.Token()
	if err != nil {
		return nil, false, err
	}
	t.Revision = r.next - 1
	leaf, err := v.Leaf(t.Revision)
	if err != nil {
		return nil, false, err
	}
	t.Leaf = [8]byte(leaf[:8])
	answer.ResumeToken = t.String()
	return answer, end, nil
}

var changeKinds = map[pb.EntryFilter_Kind]ledger.ChangeKind{
	pb.EntryFilter_GRANT:            ledger.Grant,
	pb.EntryFilter_REVOKE:           ledger.Revoke,
	pb.EntryFilter_WRITE_MODEL:      ledger.WriteModel,
	pb.EntryFilter_CREATE_STORE:     ledger.CreateStore,
	pb.EntryFilter_DELETE_STORE:     ledger.DeleteStore,
	pb.EntryFilter_ADVANCE_EPOCH:    ledger.AdvanceEpoch,
	pb.EntryFilter_ACTIVATE:         ledger.Activate,
	pb.EntryFilter_BEGIN_RESTORE:    ledger.BeginRestore,
	pb.EntryFilter_END_RESTORE:      ledger.EndRestore,
	pb.EntryFilter_WRITE_ASSERTIONS: ledger.WriteAssertions,
}

var outcomeKinds = map[pb.Outcome_Kind]ledger.OutcomeKind{
	pb.Outcome_APPLIED:   ledger.Applied,
	pb.Outcome_REJECTED:  ledger.Rejected,
	pb.Outcome_DUPLICATE: ledger.Duplicate,
}

// maxFilter is how many values one field of a filter may have.
const maxFilter = 100

// readEntryFilter reads a filter. One that no entry can fit is refused.
func readEntryFilter(m *pb.EntryFilter) (f query.EntryFilter, err error) {
	if m == nil {
		return f, nil
	}
	f = query.EntryFilter{
		Actor: m.Actor, Ticket: m.Ticket, Type: m.Type, Relation: m.Relation,
		WithoutTicket: m.WithoutTicket, Channels: m.Channels, OutsideChannels: m.OutsideChannels,
	}
	if m.Subject != "" {
		if f.Subject, err = tuple.ParseSubject(m.Subject); err != nil {
			return f, ledger.TupleRejection("filter", err)
		}
	}
	if m.Object != "" {
		if f.Object, err = tuple.ParseObject(m.Object); err != nil {
			return f, ledger.TupleRejection("filter", err)
		}
	}
	if m.Type != "" {
		if err := tuple.ValidateType("type", m.Type); err != nil {
			return f, ledger.TupleRejection("filter", err)
		}
	}
	if m.Relation != "" {
		if err := tuple.ValidateRelation("relation", m.Relation); err != nil {
			return f, ledger.TupleRejection("filter", err)
		}
	}
	if r := ledger.CheckText("filter.actor", m.Actor, 0, ledger.MaxLabel); r != nil {
		return f, r
	}
	if r := ledger.CheckText("filter.ticket", m.Ticket, 0, ledger.MaxLabel); r != nil {
		return f, r
	}
	for _, list := range []struct {
		field string
		texts []string
	}{{"filter.channels", m.Channels}, {"filter.outside_channels", m.OutsideChannels}} {
		if n := len(list.texts); n > maxFilter {
			return f, malformed(list.field, "must be at most %d, are %d", maxFilter, n)
		}
		for i, text := range list.texts {
			if r := ledger.CheckText(fmt.Sprintf("%s[%d]", list.field, i), text, 1, ledger.MaxLabel); r != nil {
				return f, r
			}
		}
	}
	if f.Kinds, err = readKinds("filter.kinds", m.Kinds, changeKinds); err != nil {
		return f, err
	}
	if f.Outcomes, err = readKinds("filter.outcomes", m.Outcomes, outcomeKinds); err != nil {
		return f, err
	}
	ofTuples := f.Subject != (tuple.Subject{}) || f.Object != (tuple.Object{}) || f.Type != "" || f.Relation != ""
	switch {
	case f.Ticket != "" && f.WithoutTicket:
		return f, malformed("filter.without_ticket", "must be false beside a ticket")
	case f.Object != (tuple.Object{}) && f.Type != "" && f.Type != f.Object.Type:
		return f, malformed("filter.type", "must be absent, or the type of the object, which is %q", f.Object.Type)
	case ofTuples && len(f.Kinds) > 0 && !slices.Contains(f.Kinds, ledger.Grant) && !slices.Contains(f.Kinds, ledger.Revoke):
		return f, malformed("filter.kinds", "must hold GRANT or REVOKE beside a subject, object, type or relation, which no other change has")
	case len(f.Channels) > 0 && !slices.ContainsFunc(f.Channels, func(c string) bool { return !slices.Contains(f.OutsideChannels, c) }):
		return f, malformed("filter.outside_channels", "must leave one of the channels")
	}
	return f, nil
}

// readKinds reads the kinds of an enumeration, of which there are at most maxFilter.
func readKinds[M interface {
	comparable
	fmt.Stringer
}, K any](field string, kinds []M, known map[M]K) (list []K, err error) {
	if n := len(kinds); n > maxFilter {
		return nil, malformed(field, "must be at most %d, are %d", maxFilter, n)
	}
	for i, m := range kinds {
		k, ok := known[m]
		if !ok {
			return nil, malformed(fmt.Sprintf("%s[%d]", field, i), "unknown kind %s", m)
		}
		list = append(list, k)
	}
	return list, nil
}

// awaitEntry returns once the store has the next entry, or it is time to tell the caller
// how far the stream got; or ctx or the server ends, or the replica is quarantined.
func (s *Server) awaitEntry(ctx context.Context, r *replaying) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.next > r.told {
		var stop context.CancelFunc
		wait, stop = context.WithDeadline(wait, r.toldAt.Add(progressEvery))
		defer stop()
	}
	defer context.AfterFunc(s.serving, cancel)()
	err := s.cfg.Projector.Await(wait, r.store, r.next)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case s.serving.Err() != nil:
		return errEnding
	case wait.Err() != nil && !ledger.IsQuarantine(err):
		return nil
	}
	return err
}
