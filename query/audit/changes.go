package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/query"
)

// RecordedChanges reports the changes of the entries that f fits, from the revision first on
// (at least 1) up to the moment b, one a row, in order, whatever became of them: those of
// rejected commands and of duplicates are among them, and so are bytes that are no command.
// Where f is about changes, only those that it fits are rows. The moment is closed by
// the caller.
func RecordedChanges(ctx context.Context, first ledger.Revision, b *Moment, f query.EntryFilter) Report {
	return Report{
		Title: "recorded changes",
		Columns: []string{"revision", "time", "actor", "method", "ticket", "reason", "channel", "outcome", "because",
			"change", "of", "granted", "effective", "command"},
		Rows: rows(func(yield func(Row) bool) error {
			next := first
			search := query.NewEntrySearch(f)
			var entries []*ledger.Entry
			for next <= b.view.Revision() {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := b.fresh(); err != nil {
					return err
				}
				// They are gathered before they are told: a caller may take its time.
				var err error
				entries = entries[:0]
				next, err = search.Step(b.view, next, b.view.Revision(), entriesAtOnce, func(e *ledger.Entry) bool {
					entries = append(entries, e)
					return true
				})
				if err != nil {
					return err
				}
				for _, e := range entries {
					more, err := b.changes(e, &f, yield)
					if err != nil || !more {
						return err
					}
				}
			}
			return nil
		}),
	}
}

// entriesAtOnce is how many entries are read before they are told; each has at most
// [ledger.MaxCommand] bytes.
const entriesAtOnce = 64

// changes yields a row for each change of an entry that f fits.
func (m *Moment) changes(e *ledger.Entry, f *query.EntryFilter, yield func(Row) bool) (more bool, err error) {
	c, rejection := e.Command()
	because := ""
	switch e.Outcome.Kind {
	case ledger.Rejected:
		because = fmt.Sprintf("%s (%s)", e.Outcome.Rejection.Error(), e.Outcome.Rejection.Code)
	case ledger.Duplicate:
		because = fmt.Sprintf("repeats revision %d", e.Outcome.First)
	}
	row := func(c *ledger.Command, change, of, granted, effective string) bool {
		cells := []string{fmt.Sprint(e.Revision), clockText(e.Time), Cell(e.Origin.Actor), e.Origin.Method.String(),
			Cell(c.Ticket), Cell(c.Reason), Cell(c.Channel), e.Outcome.Kind.String(), Cell(because), change, Cell(of), granted, effective, ""}
		if !c.ID.IsZero() {
			cells[len(cells)-1] = c.ID.String()
		}
		return yield(Row{Cells: cells})
	}
	if rejection != nil {
		return row(&ledger.Command{}, "", "bytes that are no command", "", "no"), nil
	}
	for i := range c.Changes {
		ch := &c.Changes[i]
		if !f.FitsChange(*ch) {
			continue
		}
		effective, err := m.effective(e, len(c.Changes), ch)
		if err != nil {
			return false, err
		}
		change, of, granted, err := changeTexts(e, ch)
		if err != nil {
			return false, err
		}
		if !row(c, change, of, granted, effective) {
			return false, nil
		}
	}
	return true, nil
}

// effective says whether one of n changes of an entry changed something.
func (m *Moment) effective(e *ledger.Entry, n int, ch *ledger.Change) (string, error) {
	done := false
	switch {
	case e.Outcome.Kind != ledger.Applied || e.Outcome.Effective == 0:
	case e.Outcome.Effective == n:
		done = true
	case ch.Kind != ledger.Grant && ch.Kind != ledger.Revoke:
		done = true // the others always do, where any does
	default: // it made a version of its tuple, or not
		v, err := m.view.At(e.Revision)
		if err != nil {
			return "", err
		}
		defer v.Close()
		newest, ok, err := v.Newest(ch.Tuple)
		if err != nil {
			return "", err
		}
		done = ok && newest.Revision == e.Revision
	}
	if done {
		return "yes", nil
	}
	return "no", nil
}

// changeTexts says what a change is, of what, and with what a grant was asked for.
func changeTexts(e *ledger.Entry, ch *ledger.Change) (change, of, granted string, err error) {
	switch ch.Kind {
	case ledger.Grant:
		g := ch.Grant
		if ch.ExpiresAfter != 0 {
			g.ExpiresAt = e.Time + ch.ExpiresAfter
			if g.ExpiresAt < e.Time { // beyond what a moment can be, and rejected for that
				g.ExpiresAt = 0
				granted = " for " + time.Duration(ch.ExpiresAfter).String()
			}
		}
		text, err := grantText(&g)
		return "grant", ch.Tuple.String(), text + granted, err
	case ledger.Revoke:
		return "revoke", ch.Tuple.String(), "", nil
	case ledger.WriteModel:
		return "write_model", ch.Model.ID.String(), "", nil
	case ledger.WriteAssertions:
		return "write_assertions", ch.Model.ID.String(), "", nil
	case ledger.CreateStore:
		return "create_store", ch.Store.String() + " " + ch.Name, "", nil
	case ledger.DeleteStore:
		return "delete_store", ch.Store.String(), "", nil
	case ledger.BeginRestore:
		return "begin_restore", ch.Store.String(), "", nil
	case ledger.EndRestore:
		return "end_restore", ch.Store.String(), "", nil
	case ledger.AdvanceEpoch:
		return "advance_epoch", fmt.Sprintf("epoch %d", ch.Epoch.Number), "", nil
	case ledger.Activate:
		return "activate", fmt.Sprintf("fold version %d", ch.Version), "", nil
	}
	return fmt.Sprintf("change of kind %d", ch.Kind), "", "", nil
}
