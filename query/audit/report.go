package audit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"iter"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

// A Report is a table that is made while it is read.
type Report struct {
	Title   string   // the kind of report, such as "access of a subject"
	Columns []string // names of the columns, in snake_case
	// Rows yields the rows, once. A failure is yielded once, as the last element; then the
	// report is not complete.
	Rows iter.Seq2[Row, error]
}

// A Row is one row of a report.
type Row struct {
	Cells     []string // one for each column; one line of UTF-8 each, see [Cell]
	Undecided bool     // it tells that something has no answer
}

// Cell returns text as a cell holds it: on one line and in UTF-8. Line breaks and other
// control characters, which reasons may have, are shown by their symbols (U+240A for a
// line feed). Otherwise the text is exact: one that a spreadsheet would take for a
// formula stays as it is.
func Cell(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < 0x20:
			return 0x2400 + r
		case r == 0x7f:
			return 0x2421
		case r > 0x7f && r < 0xa0, r == 0x2028, r == 0x2029:
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\ufffd"))
}

// What a cell says before why something has no answer, or is not told.
const (
	undecidedFor = "undecided: "
	notTold      = "not told: "
)

// IsUndecided reports whether a cell of a column tells that something has no answer.
func IsUndecided(column, cell string) bool {
	return (column == "access" || column == "before" || column == "after") && strings.HasPrefix(cell, undecidedFor)
}

// OverBudget reports whether a cell of a column tells that something was not found out within
// the budget of the server: one with another budget may tell it.
func OverBudget(column, cell string) bool {
	switch column {
	case "access", "before", "after":
		return strings.HasPrefix(cell, undecidedFor+noAnswerWithin)
	case "path":
		return strings.HasPrefix(cell, notTold+noAnswerWithin)
	case "cause":
		return strings.TrimSuffix(cell, orClock) == causeUnknown
	}
	return false
}

// noAnswerWithin begins the text of every [*model.BudgetError].
const noAnswerWithin = "no answer within "

// AppendCSV appends the cells as one line of CSV, the canonical form of a row: RFC 4180
// with lines ended by LF. A cell stands in quotes exactly if it holds a comma, a quote or
// a line break, or begins with '#' or a space; so no row begins with '#', and lines that
// do can carry what is said about the rows.
func AppendCSV(dst []byte, cells []string) []byte {
	for i, c := range cells {
		if i > 0 {
			dst = append(dst, ',')
		}
		if strings.ContainsAny(c, ",\"\r\n") || strings.HasPrefix(c, "#") || strings.HasPrefix(c, " ") {
			dst = append(dst, '"')
			dst = append(dst, strings.ReplaceAll(c, `"`, `""`)...)
			dst = append(dst, '"')
		} else {
			dst = append(dst, c...)
		}
	}
	return append(dst, '\n')
}

// A Digest counts and hashes the rows of a report: SHA-256 over their canonical forms.
// The zero Digest has seen none.
type Digest struct {
	Rows uint64
	hash hash.Hash
	line []byte
}

// Add takes the next row, and returns its canonical form, which is good until the next.
func (d *Digest) Add(cells []string) []byte {
	d.line = AppendCSV(d.line[:0], cells)
	d.AddLine(d.line)
	return d.line
}

// AddLine takes the next row in its canonical form, with the LF that ends it.
func (d *Digest) AddLine(line []byte) {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	d.hash.Write(line)
	d.Rows++
}

// Sum returns the hash of the rows so far.
func (d *Digest) Sum() [sha256.Size]byte {
	if d.hash == nil {
		return sha256.Sum256(nil)
	}
	return [sha256.Size]byte(d.hash.Sum(nil))
}

// A Moment is a store as it was at a revision and a time, under the newest model of that
// revision. It is used by one goroutine.
type Moment struct {
	engine *query.Engine
	view   *index.View
	asking *query.Asking // nil without a model
	model  *model.Model
	time   int64
	given  query.Given
	opened time.Time

	revisions map[ledger.Revision]query.Provenance // some that were asked for
}

// NewMoment returns the moment of the view's revision, with expiry and conditions held
// against the time, in nanoseconds since the Unix epoch, and conditions answered with the
// context, a map or null. It closes the view when it is
// closed, and not if it fails. Of a revision without a model nothing is held; a report of
// access there is a [query.ErrNoModel].
func NewMoment(e *query.Engine, v *index.View, time int64, context model.Value) (*Moment, error) {
	m := &Moment{engine: e, time: time, given: query.Given{Context: context}, revisions: make(map[ledger.Revision]query.Provenance)}
	return m, m.take(v)
}

func (m *Moment) take(v *index.View) error {
	asking, err := m.engine.Ask(v, ledger.ID{}, m.time)
	if errors.Is(err, query.ErrNoModel) {
		m.view, m.opened = v, time.Now()
		return nil
	}
	if err != nil {
		return err
	}
	rules, err := v.Model(asking.Model())
	if err != nil {
		return err
	}
	m.view, m.asking, m.model, m.opened = v, asking, rules, time.Now()
	return nil
}

// Close ends the moment.
func (m *Moment) Close() { m.view.Close() }

// Model returns the id of the model in force, zero if there is none.
func (m *Moment) Model() ledger.ID { return m.view.NewestModel() }

// beside calls f with the same moment once more, for questions beside a list of m's.
func (m *Moment) beside(f func(teller *Moment) error) error {
	v, err := m.view.At(m.view.Revision())
	if err != nil {
		return err
	}
	teller, err := NewMoment(m.engine, v, m.time, m.given.Context)
	if err != nil {
		v.Close()
		return err
	}
	defer teller.Close()
	return f(teller)
}

// Limits of how long a report holds one view, and so files of the index.
const (
	viewAge  = time.Minute      // then it takes another before its next list
	viewLife = 15 * time.Minute // then a list that is still read slowly fails
)

var errSlow = fmt.Errorf("%w: the rows of one list were not taken within %s; begin the report again", ledger.ErrUnavailable, viewLife)

// fresh takes another view of the same revision if the one it has is old. No list of m
// may be under way.
func (m *Moment) fresh() error {
	if time.Since(m.opened) < viewAge {
		return nil
	}
	old := m.view
	v, err := old.At(old.Revision())
	if err != nil {
		return err
	}
	if err := m.take(v); err != nil {
		v.Close()
		return err
	}
	old.Close()
	return nil
}

// slow returns an error if a list has kept the view of m for too long.
func (m *Moment) slow() error {
	if time.Since(m.opened) > viewLife {
		return errSlow
	}
	return nil
}

// known returns a [*query.InvalidError] unless the model has the type, and the relation
// unless it is "".
func (m *Moment) known(field, typ, relation string) error {
	if m.model == nil {
		return query.NoModel(m.view)
	}
	if _, ok := m.model.Type(typ); !ok {
		return &query.InvalidError{Field: field, Message: fmt.Sprintf("the model has no type %+q", typ)}
	}
	if _, ok := m.model.Relation(typ, relation); !ok && relation != "" {
		return &query.InvalidError{Field: field, Message: fmt.Sprintf("type %+q has no relation %+q", typ, relation)}
	}
	return nil
}

// unanswered reports whether err is one of a question that has no answer, and not of
// what answers it.
func unanswered(err error) bool {
	var (
		budget    *model.BudgetError
		cycle     *model.CycleError
		missing   *dsl.MissingError
		ill       *dsl.ContextError
		cost      *dsl.CostError
		condition *dsl.ConditionError
	)
	return errors.As(err, &budget) || errors.As(err, &cycle) || errors.As(err, &missing) ||
		errors.As(err, &ill) || errors.As(err, &cost) || errors.As(err, &condition)
}

// clockText returns a moment as cells tell it: RFC 3339 in UTC, to the nanosecond where
// it has them; "" for none.
func clockText(at int64) string {
	if at == 0 {
		return ""
	}
	return time.Unix(0, at).UTC().Format(time.RFC3339Nano)
}
