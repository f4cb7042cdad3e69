package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/audit"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Sizes of one answer of a report: it holds rows until it has so many, or their cells
// have so many bytes, or it was begun so long ago.
const (
	reportRows  = 100
	reportBytes = 64 << 10
	reportEvery = 250 * time.Millisecond
)

// Report streams a report.
func (s *Server) Report(ctx context.Context, req *pb.ReportRequest, stream *connect.ServerStream[pb.ReportResponse]) error {
	began := time.Now()
	err := s.report(ctx, req, stream.Send)
	s.cfg.Metrics.list("report", err, time.Since(began))
	if err != nil {
		return s.rpcError(ctx, err)
	}
	return nil
}

func (s *Server) report(ctx context.Context, req *pb.ReportRequest, send func(*pb.ReportResponse) error) error {
	var r audit.Report
	of := moments{again: req.Again}
	defer of.close()
	switch k := req.Report.(type) {
	case *pb.ReportRequest_AccessOfSubject:
		subject, err := readSubject("access_of_subject.subject", k.AccessOfSubject.Subject)
		if err != nil {
			return err
		}
		if of.context, err = readContext("access_of_subject.context", k.AccessOfSubject.Context); err != nil {
			return err
		}
		if err := of.open(ctx, s, req.Store, "access_of_subject", nil, k.AccessOfSubject.Freshness); err != nil {
			return err
		}
		if r, err = audit.AccessOfSubject(ctx, of.to.Moment, subject); err != nil {
			return renamed(err, "subject", "access_of_subject.subject")
		}
	case *pb.ReportRequest_AccessToObject:
		object, err := readObject("access_to_object.object", k.AccessToObject.Object)
		if err != nil {
			return err
		}
		if of.context, err = readContext("access_to_object.context", k.AccessToObject.Context); err != nil {
			return err
		}
		if err := of.open(ctx, s, req.Store, "access_to_object", nil, k.AccessToObject.Freshness); err != nil {
			return err
		}
		if r, err = audit.AccessToObject(ctx, of.to.Moment, object); err != nil {
			return renamed(err, "object", "access_to_object.object")
		}
	case *pb.ReportRequest_Difference:
		if k.Difference.From == nil {
			return malformed("difference.from", "is missing")
		}
		if k.Difference.Context != nil && !k.Difference.Effective {
			return malformed("difference.context", "goes with effective: tuples are compared as they are granted, without conditions")
		}
		var err error
		if of.context, err = readContext("difference.context", k.Difference.Context); err != nil {
			return err
		}
		if err := of.open(ctx, s, req.Store, "difference", k.Difference.From, k.Difference.To); err != nil {
			return err
		}
		if r = audit.TupleDifference(ctx, of.from.Moment, of.to.Moment); k.Difference.Effective {
			r = audit.EffectiveDifference(ctx, of.from.Moment, of.to.Moment)
		}
	case *pb.ReportRequest_RecordedChanges:
		f, err := readEntryFilter(k.RecordedChanges.Filter)
		if err != nil {
			return renamed(err, "filter", "recorded_changes.filter")
		}
		of.anyStore, of.entries = true, true
		if err := of.open(ctx, s, req.Store, "recorded_changes", k.RecordedChanges.From, k.RecordedChanges.To); err != nil {
			return err
		}
		of.to.view.Stop = ctx.Err
		if err := f.KnownFrom(of.to.view, of.first); err != nil {
			return renamed(err, "filter", "recorded_changes.filter")
		}
		r = audit.RecordedChanges(ctx, of.first, of.to.Moment, f)
	default:
		return malformed("report", "is missing: name one of the reports")
	}
	header, err := s.reportHeader(ctx, req, &r, &of)
	if err != nil {
		return err
	}
	if err := send(&pb.ReportResponse{Part: &pb.ReportResponse_Header{Header: header}}); err != nil {
		return err
	}
	return sendRows(&r, send)
}

// sendRows sends the rows of a report and its end.
func sendRows(r *audit.Report, send func(*pb.ReportResponse) error) error {
	var digest audit.Digest
	end := &pb.ReportEnd{}
	gathered, size := &pb.ReportRows{}, 0
	flush := func() error {
		if len(gathered.Rows) == 0 {
			return nil
		}
		err := send(&pb.ReportResponse{Part: &pb.ReportResponse_Rows{Rows: gathered}})
		gathered, size = &pb.ReportRows{}, 0
		return err
	}
	sent := time.Now()
	for row, err := range r.Rows {
		if err != nil {
			return err
		}
		size += len(digest.Add(row.Cells))
		if row.Undecided {
			end.Undecided++
		}
		gathered.Rows = append(gathered.Rows, &pb.ReportRow{Cells: row.Cells})
		if len(gathered.Rows) == reportRows || size >= reportBytes || time.Since(sent) > reportEvery {
			if err := flush(); err != nil {
				return err
			}
			sent = time.Now()
		}
	}
	if err := flush(); err != nil {
		return err
	}
	sum := digest.Sum()
	end.Rows, end.Sha256 = digest.Rows, sum[:]
	return send(&pb.ReportResponse{Part: &pb.ReportResponse_End{End: end}})
}

// reportHeader says what a report is about and stands on.
func (s *Server) reportHeader(ctx context.Context, req *pb.ReportRequest, r *audit.Report, of *moments) (*pb.ReportHeader, error) {
	query := proto.CloneOf(req)
	query.Again = nil // its moment has fields of its own
	asked, err := protojson.Marshal(query)
	if err != nil {
		return nil, err
	}
	line, err := exactJSON(asked)
	if err != nil {
		return nil, err
	}
	root, err := of.to.view.Root()
	if err != nil {
		return nil, err
	}
	h := &pb.ReportHeader{
		Title: r.Title, Columns: r.Columns, Query: line,
		Store: of.to.view.Store().String(), StoreName: of.to.view.Head().Name,
		Revision: uint64(of.to.view.Revision()), EvaluatedAt: timeMessage(of.to.time), Root: root[:],
	}
	if m := of.to.Model(); !m.IsZero() {
		h.Model = m.String()
	}
	if of.from.Moment != nil {
		h.FromRevision, h.FromEvaluatedAt = uint64(of.from.view.Revision()), timeMessage(of.from.time)
		if m := of.from.Model(); !m.IsZero() {
			h.FromModel = m.String()
		}
		if of.entries {
			h.FromRevision = uint64(of.first)
			if of.first > of.to.view.Revision() {
				h.FromRevision = 0 // no entry is between the moments
			}
		}
	}
	return h, s.vouch(ctx, h, of.to.view)
}

// exactJSON returns JSON as one line that is the same wherever it is read: without spaces,
// which protojson varies on purpose, and with escapes for the characters of its texts that a
// cell would not hold.
func exactJSON(text []byte) (string, error) {
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, r := range line.String() {
		if one := string(r); audit.Cell(one) != one {
			fmt.Fprintf(&b, `\u%04x`, r) // all of them have four digits
		} else {
			b.WriteRune(r)
		}
	}
	return b.String(), nil
}

// vouch adds the checkpoint that a report stands on, if this replica signs: of its
// revision or a later one, which then is proved to begin with it.
func (s *Server) vouch(ctx context.Context, h *pb.ReportHeader, v *index.View) error {
	if s.cfg.Signer == nil {
		return nil
	}
	note, c, err := s.checkpoint(ctx, v.Store())
	if err != nil {
		return err
	}
	signed, err := s.cfg.Projector.View(ctx, v.Store(), projector.Freshness{Kind: projector.AtRevision, Revision: c.Size})
	if err != nil {
		return err
	}
	defer signed.Close()
	proof, err := seal.ProveConsistency(v.Revision(), c.Size, signed)
	if err != nil {
		return err
	}
	h.Checkpoint, h.Key, h.ConsistencyProof = string(note), s.cfg.Signer.Key().String(), proofMessage(proof)
	return nil
}

// A moment is one of a report's, and what it began with.
type moment struct {
	*audit.Moment
	view *index.View
	time int64
}

// The moments of a report: from is empty unless it is between two.
type moments struct {
	from, to moment
	anyStore bool            // also "system" and deleted ones
	entries  bool            // a report of entries: one that begins before the first begins with it
	first    ledger.Revision // of entries: the first that is not before from
	context  model.Value
	again    *pb.ReportMoment // the later one, in place of what the report asks for; nil for none
}

func (m *moments) close() {
	for _, at := range [...]moment{m.from, m.to} {
		if at.Moment != nil {
			at.Close()
		}
	}
}

// open opens the moments that a report asks for, from only if it is given. The field is
// that of the report in the request.
func (m *moments) open(ctx context.Context, s *Server, store, field string, from, to *pb.Freshness) error {
	read := readStore
	if m.anyStore {
		read = readAnyStore
	}
	id, err := read("store", store)
	if err != nil {
		return err
	}
	one := func(part string, f *pb.Freshness) (at moment, err error) {
		defer func() { err = renamed(err, "freshness", field+"."+part) }()
		switch {
		case part == "from" && !isPast(f):
			return at, malformed("freshness", "must name a moment of the past: at_revision, at_time or at_token")
		case part != "from" && m.again != nil:
			at.view, at.time, err = m.madeBefore(ctx, s, id, f)
		default:
			at.view, at.time, err = m.asked(ctx, s, id, f)
		}
		if err != nil {
			return moment{}, err
		}
		if at.Moment, err = audit.NewMoment(s.cfg.Engine, at.view, at.time, m.context); err != nil {
			at.view.Close()
			return moment{}, err
		}
		return at, nil
	}
	last := "freshness"
	if from != nil || m.entries {
		last = "to"
	}
	if from != nil {
		m.from, err = one("from", from)
		if m.entries && errors.Is(err, projector.ErrBefore) {
			m.from, err = moment{}, nil
		}
		if err != nil {
			return err
		}
	}
	if m.entries {
		if m.first, err = m.firstEntry(from); err != nil {
			return err
		}
	}
	if m.to, err = one(last, to); err != nil {
		return err
	}
	if m.from.Moment != nil && (m.from.view.Revision() > m.to.view.Revision() || m.from.time > m.to.time) {
		return ledger.Reject(ledger.CodeInvalid, field+".from", "must not be after to: it is revision %d at %s, and to is revision %d at %s",
			m.from.view.Revision(), momentText(m.from.time), m.to.view.Revision(), momentText(m.to.time))
	}
	return nil
}

// asked returns the view and the time that a report asks for: of the past, or else of now.
func (m *moments) asked(ctx context.Context, s *Server, store ledger.ID, f *pb.Freshness) (*index.View, int64, error) {
	if !isPast(f) {
		v, now, err := m.newest(ctx, s, store, f)
		if err == nil && !m.anyStore {
			if err = live(v); err != nil {
				v.Close()
			}
		}
		return v, now, err
	}
	view := s.liveView
	if m.anyStore {
		view = s.view
	}
	v, err := view(ctx, store, f)
	if err != nil {
		return nil, 0, err
	}
	at, err := s.clockOf(v, f)
	if err != nil {
		v.Close()
	}
	return v, at, err
}

// newest returns what a report of now is of: everything in the log, just before the log's time. A
// replica that lags, or a clock of its own, would give a moment at which the store may have
// been at a later revision, and nobody could tell such a report from one that was altered.
func (m *moments) newest(ctx context.Context, s *Server, store ledger.ID, f *pb.Freshness) (*index.View, int64, error) {
	v, err := s.view(ctx, store, f) // a token may be one that is waited for, or of another past
	if err != nil {
		return nil, 0, err
	}
	v.Close()
	wait, cancel := s.patience(ctx)
	defer cancel()
	v, now, err := s.cfg.Projector.Newest(wait, store)
	if err != nil {
		return nil, 0, s.viewError(store, momentField(f), true, err)
	}
	return v, now, nil
}

// madeBefore returns the view and the time of a report that was made before, once it is
// known that the report's own field leads to them, or did then.
func (m *moments) madeBefore(ctx context.Context, s *Server, store ledger.ID, f *pb.Freshness) (*index.View, int64, error) {
	rev := ledger.Revision(m.again.Revision)
	at, err := readTime("again.evaluated_at", m.again.EvaluatedAt)
	switch {
	case err != nil:
		return nil, 0, err
	case at == 0:
		return nil, 0, malformed("again.evaluated_at", "is missing")
	case rev == 0:
		return nil, 0, malformed("again.revision", "must be at least 1")
	}
	if isPast(f) {
		v, asked, err := m.asked(ctx, s, store, f)
		if err == nil && (v.Revision() != rev || asked != at) {
			err = ledger.Reject(ledger.CodeInvalid, "again", "is revision %d at %s, and the report asks for revision %d at %s",
				rev, momentText(at), v.Revision(), momentText(asked))
			v.Close()
		}
		return v, at, err
	}
	newest, now, err := m.newest(ctx, s, store, f)
	if err != nil {
		return nil, 0, err
	}
	defer newest.Close()
	if err := wasNewest(newest, now, rev, at, f); err != nil {
		return nil, 0, err
	}
	v, err := newest.At(rev)
	if err == nil && !m.anyStore {
		if err = live(v); err != nil {
			v.Close()
		}
	}
	return v, at, err
}

// wasNewest returns an error unless rev was the newest revision of the store at a time, as a
// report of then says of itself. The view is the newest at the time now.
func wasNewest(v *index.View, now int64, rev ledger.Revision, at int64, f *pb.Freshness) error {
	invalid := func(field, format string, args ...any) error {
		return ledger.Reject(ledger.CodeInvalid, field, format, args...)
	}
	fresh, err := readFreshness(f)
	switch {
	case err != nil:
		return err
	case rev > v.Revision():
		return &fieldError{"again.revision", fmt.Errorf("revision %d is %w: store %s is at revision %d", rev, projector.ErrFuture, v.Store(), v.Revision())}
	case fresh.Kind == projector.AtLeast && rev < fresh.Token.Revision:
		return invalid("again.revision", "is %d, and the report asks for at least revision %d", rev, fresh.Token.Revision)
	case at > now:
		return &fieldError{"again.evaluated_at", fmt.Errorf("%s is %w", momentText(at), projector.ErrFuture)}
	}
	began, err := v.TimeOf(rev)
	if err != nil {
		return err
	}
	if at < began {
		return invalid("again.evaluated_at", "is %s, and revision %d came at %s", momentText(at), rev, momentText(began))
	}
	if rev == v.Revision() {
		return nil
	}
	// Equal log times are in order: a revision that has the next one's was the newest then, if
	// only then.
	ended, err := v.TimeOf(rev + 1)
	if err == nil && at >= ended && at > began {
		err = invalid("again.evaluated_at", "is %s, and revision %d was the newest until %s", momentText(at), rev, momentText(ended))
	}
	return err
}

// firstEntry returns the first revision that is not before from.
func (m *moments) firstEntry(from *pb.Freshness) (ledger.Revision, error) {
	if m.from.Moment == nil {
		return 1, nil
	}
	if _, ok := from.GetFreshness().(*pb.Freshness_AtTime); !ok {
		return m.from.view.Revision(), nil
	}
	before, err := m.from.view.RevisionAt(m.from.time - 1)
	return before + 1, err
}

func momentText(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339Nano) }

// renamed returns err with the field that it blames under another name.
func renamed(err error, from, to string) error {
	var field *fieldError
	var rejection *ledger.Rejection
	var invalid *query.InvalidError
	rename := func(name string) string {
		if rest, ok := strings.CutPrefix(name, from); ok {
			return to + rest
		}
		return name
	}
	switch {
	case errors.As(err, &rejection):
		r := *rejection
		r.Field = rename(r.Field)
		return &r
	case errors.As(err, &field):
		return &fieldError{rename(field.field), field.err}
	case errors.As(err, &invalid):
		return &query.InvalidError{Field: rename(invalid.Field), Message: invalid.Message}
	}
	return err
}
