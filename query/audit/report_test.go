package audit

import (
	"context"
	"fmt"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

// A reported is a store in a real index that reports are made of.
type reported struct {
	t      testing.TB
	x      *index.Index
	store  ledger.ID
	engine *query.Engine
	seq    uint64
	now    int64 // log time of the newest entry
}

const began = 1_700_000_000_000_000_000 // log time of the first entry is just after it

func newReported(t testing.TB) *reported {
	t.Helper()
	x, err := index.Open(index.Options{Dir: t.TempDir(), CacheBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	w := &reported{t: t, x: x, store: ledger.NewID(), now: began, engine: query.NewEngine(query.Budgets{})}
	w.apply(ledger.Command{Store: ledger.System, Changes: []ledger.Change{{Kind: ledger.CreateStore, Store: w.store, Name: "test", Admin: "root"}}})
	return w
}

// write writes a model.
func (w *reported) write(source string) {
	w.t.Helper()
	m, err := dsl.Compile(ledger.SourceDSL, []byte(source), dsl.Limits{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.apply(ledger.Command{Ticket: "MODEL-1", Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: m}}})
}

// apply decides commands of the actor root, each of which must be applied, and returns
// the last one's revision.
func (w *reported) apply(commands ...ledger.Command) ledger.Revision {
	w.t.Helper()
	for _, c := range commands {
		if o := w.decide("root", c); o.Kind != ledger.Applied {
			w.t.Fatalf("a command is %v: %v", o.Kind, o.Rejection)
		}
	}
	return w.head()
}

func (w *reported) head() ledger.Revision {
	h, _ := w.x.Head(w.store)
	return h.Revision
}

// decide decides a command, a nanosecond after the one before.
func (w *reported) decide(actor string, c ledger.Command) (outcome ledger.Outcome) {
	w.t.Helper()
	if c.Store.IsZero() && c.Changes[0].Kind != ledger.CreateStore {
		c.Store = w.store
	}
	if c.ID.IsZero() {
		c.ID = ledger.NewUUID()
	}
	return w.raw(actor, ledger.AppendCommand(nil, &c))
}

func (w *reported) raw(actor string, raw []byte) (outcome ledger.Outcome) {
	w.t.Helper()
	b := w.x.NewBatch()
	defer b.Close()
	w.now++
	in := decide.Input{Kind: ledger.EdgeSubject, Origin: ledger.Origin{Actor: actor, Attester: "test", Method: ledger.MethodNone},
		Raw: raw, Time: w.now, Version: ledger.FoldVersion}
	records, err := decide.Decide(b, in)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range records {
		outcome = r.Outcome
		if _, _, err := b.Append(r, in.Origin, in.Raw, in.Version); err != nil {
			w.t.Fatal(err)
		}
	}
	w.seq++
	if err := b.Commit(ledger.Position{Log: ledger.UUID{1}, Seq: w.seq}); err != nil {
		w.t.Fatal(err)
	}
	return outcome
}

func granting(t testing.TB, ticket string, texts ...string) ledger.Command {
	t.Helper()
	c := ledger.Command{Ticket: ticket}
	for _, text := range texts {
		c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Grant, Tuple: parsed(t, text)})
	}
	return c
}

func granted(t testing.TB, ticket, text string, g model.Grant) ledger.Command {
	t.Helper()
	return ledger.Command{Ticket: ticket, Changes: []ledger.Change{{Kind: ledger.Grant, Tuple: parsed(t, text), Grant: g}}}
}

func revoking(t testing.TB, ticket string, texts ...string) ledger.Command {
	t.Helper()
	c := granting(t, ticket, texts...)
	for i := range c.Changes {
		c.Changes[i].Kind = ledger.Revoke
	}
	return c
}

func parsed(t testing.TB, text string) tuple.Tuple {
	t.Helper()
	tup, err := tuple.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return tup
}

// at returns the moment of a revision and a time (0: the revision's).
func (w *reported) at(rev ledger.Revision, time int64) *Moment {
	w.t.Helper()
	v, err := w.x.View(w.store, rev)
	if err != nil {
		w.t.Fatal(err)
	}
	if time == 0 {
		if time, err = v.Time(); err != nil {
			w.t.Fatal(err)
		}
	}
	m, err := NewMoment(w.engine, v, time, model.Value{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { m.Close() })
	return m
}

// all returns the cells of all rows of a report.
func all(t testing.TB, r Report) (cells [][]string) {
	t.Helper()
	for row, err := range r.Rows {
		if err != nil {
			t.Fatalf("%s: %v", r.Title, err)
		}
		if len(row.Cells) != len(r.Columns) {
			t.Fatalf("%s: a row of %d cells under %d columns: %q", r.Title, len(row.Cells), len(r.Columns), row.Cells)
		}
		cells = append(cells, row.Cells)
	}
	return cells
}

// picked returns the cells of some columns, joined by spaces, one text a row.
func picked(t testing.TB, r Report, columns ...string) (texts []string) {
	t.Helper()
	for _, cells := range all(t, r) {
		text := ""
		for _, c := range columns {
			found := false
			for i, name := range r.Columns {
				if name == c {
					text += " " + cells[i]
					found = true
				}
			}
			if !found {
				t.Fatalf("%s has no column %s", r.Title, c)
			}
		}
		texts = append(texts, text[1:])
	}
	return texts
}

var background = context.Background()

func TestAppendCSV(t *testing.T) {
	for _, tt := range []struct {
		cells []string
		want  string
	}{
		{[]string{"a", "b"}, "a,b\n"},
		{[]string{"", ""}, ",\n"},
		{[]string{`say "hi"`, "x,y"}, "\"say \"\"hi\"\"\",\"x,y\"\n"},
		{[]string{"# not a comment", " b"}, "\"# not a comment\",\" b\"\n"},
		{[]string{"a\nb", "=1+1"}, "\"a\nb\",=1+1\n"},
	} {
		if got := string(AppendCSV(nil, tt.cells)); got != tt.want {
			t.Errorf("AppendCSV(%q) = %q, want %q", tt.cells, got, tt.want)
		}
	}
}

func TestCell(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "two\nlines\r\tmore": "two␊lines␍␉more", "=1+1": "=1+1", "\xff": "\ufffd",
		"del\x7f": "del␡", "c1\u0085\u2028": "c1  ", "ünï": "ünï",
	} {
		if got := Cell(in); got != want {
			t.Errorf("Cell(%q) = %q, want %q", in, got, want)
		}
	}
}

func sprint(lines []string) string {
	text := ""
	for _, l := range lines {
		text += fmt.Sprintln(l)
	}
	return text
}

// TestOverBudget holds that what a budget ended is told from what has no answer at all.
func TestOverBudget(t *testing.T) {
	for _, what := range []string{"depth", "memory", "time", "rows"} {
		err := &model.BudgetError{What: what, Limit: 7}
		for column, cell := range map[string]string{
			"access": verdict{err: err}.String(),
			"before": verdict{err: err}.String(),
			"after":  verdict{err: err}.String(),
			"path":   notTold + err.Error(),
		} {
			if !OverBudget(column, cell) || IsUndecided(column, cell) != (column != "path") {
				t.Errorf("%s %q: over budget %t, undecided %t", column, cell, OverBudget(column, cell), IsUndecided(column, cell))
			}
			if OverBudget("reason", cell) || IsUndecided("reason", cell) {
				t.Errorf("a reason %q is taken for one without an answer", cell)
			}
		}
	}
	for _, cell := range []string{causeUnknown, causeUnknown + orClock} {
		if !OverBudget("cause", cell) || OverBudget("ticket", cell) {
			t.Errorf("cause %q: over budget %t", cell, OverBudget("cause", cell))
		}
	}
	for column, cell := range map[string]string{
		"access": undecidedFor + "condition \"office\": the context lacks country",
		"after":  "allowed",
		"cause":  causeNever,
		"path":   "the subject itself",
	} {
		if OverBudget(column, cell) {
			t.Errorf("%s %q is taken for one over budget", column, cell)
		}
	}
}
