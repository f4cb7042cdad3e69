package model

import (
	"fmt"
	"time"
)

// A Budget bounds what one question may cost. A field that is zero is that of
// [DefaultBudget], or of [ListBudget] for a list.
type Budget struct {
	Depth  int           // grants that lead from one object to the next, one after another
	Rows   int           // rows read; a lookup or scan counts as one itself, and so does answering a part of the question again
	Memory int           // bytes of what has to be remembered to answer, estimated from above; the reader's own memory apart
	Time   time.Duration // kept by the caller's Stop: there is no clock here
}

// DefaultBudget is the budget of a question that names none.
var DefaultBudget = Budget{Depth: 256, Rows: 100_000, Memory: 64 << 20, Time: 5 * time.Second}

// ListBudget is the budget of a list that names none.
var ListBudget = Budget{Depth: 256, Rows: 10_000_000, Memory: 256 << 20, Time: time.Minute}

// Or returns b with the fields of other where its own are zero.
func (b Budget) Or(other Budget) Budget {
	if b.Depth == 0 {
		b.Depth = other.Depth
	}
	if b.Rows == 0 {
		b.Rows = other.Rows
	}
	if b.Memory == 0 {
		b.Memory = other.Memory
	}
	if b.Time == 0 {
		b.Time = other.Time
	}
	return b
}

// Spent is what a question cost; the most it held of Depth and Memory, and all Rows.
type Spent struct {
	Depth  int
	Rows   int
	Memory int
}

// A BudgetError says that a question cost more than its budget: it has no answer, which
// is not a denial.
type BudgetError struct {
	What  string // "depth", "rows", "memory" or "time"
	Limit int    // in the budget's unit; of time, nanoseconds
	Spent Spent
}

func (e *BudgetError) Error() string {
	switch e.What {
	case "depth":
		return fmt.Sprintf("no answer within a depth of %d grants", e.Limit)
	case "memory":
		return fmt.Sprintf("no answer within %d bytes of memory, at %d rows", e.Limit, e.Spent.Rows)
	case "time":
		return fmt.Sprintf("no answer within %s, at %d rows", time.Duration(e.Limit), e.Spent.Rows)
	}
	return fmt.Sprintf("no answer within %d rows", e.Limit)
}

// A Scope is what the questions of one request have in common.
type Scope struct {
	Reader     Reader
	Conditions Conditions // nil: a grant with a condition errs
	Time       int64      // nanoseconds since the Unix epoch; grants count if active then
	Budget     Budget
	// Stop, if it is set, is called every few rows with what is spent by then. Its error
	// ends the question as it is: the caller's context is done, or the time is up.
	Stop func(Spent) error
}

// stopEvery is how many rows are read between two calls of Stop.
const stopEvery = 64

// A meter counts what a question costs.
type meter struct {
	budget Budget
	stop   func(Spent) error
	spent  Spent
	held   int   // bytes of memory now
	trial  int   // rows at which the trial under way ends, 0 for none
	due    int   // rows at which something has to be looked at
	fatal  error // ends the whole question
}

func newMeter(s *Scope, otherwise Budget) meter {
	m := meter{budget: s.Budget.Or(otherwise), stop: s.Stop}
	m.schedule()
	return m
}

// schedule sets when there is something to look at next.
func (m *meter) schedule() {
	m.due = min(m.spent.Rows+stopEvery, m.budget.Rows+1)
	if m.trial > 0 {
		m.due = min(m.due, m.trial+1)
	}
}

// spend counts n rows, and reports whether the question may go on.
func (m *meter) spend(n int) bool {
	if m.fatal != nil {
		return false
	}
	m.spent.Rows += n
	return m.spent.Rows < m.due || m.look()
}

// look holds the rows against all that bounds them.
func (m *meter) look() bool {
	switch {
	case m.spent.Rows > m.budget.Rows:
		m.spent.Rows = m.budget.Rows
		m.fail("rows", m.budget.Rows)
		return false
	case m.trial > 0 && m.spent.Rows > m.trial:
		m.fatal = errTrial
		return false
	}
	if m.stop != nil {
		if m.fatal = m.stop(m.spent); m.fatal != nil {
			return false
		}
	}
	m.schedule()
	return true
}

// pollEvery is how many steps that read nothing are taken between two calls of Stop.
const pollEvery = 1 << 14

// poll calls Stop, for work that reads nothing.
func (m *meter) poll() {
	if m.stop != nil && m.fatal == nil {
		m.fatal = m.stop(m.spent)
	}
}

// hold counts n more bytes of memory, and reports whether the question may go on.
func (m *meter) hold(n int) bool {
	m.held += n
	if m.fatal != nil {
		return false
	}
	m.spent.Memory = max(m.spent.Memory, m.held)
	if m.held > m.budget.Memory {
		m.spent.Memory = m.budget.Memory
		m.fail("memory", m.budget.Memory)
	}
	return m.fatal == nil
}

// end returns what was spent and how a list ended.
func (m *meter) end() (Spent, error) {
	if b, ok := m.fatal.(*BudgetError); ok && b.What != "time" { // which the caller made
		b.Spent = m.spent
	}
	return m.spent, m.fatal
}

func (m *meter) fail(what string, limit int) {
	m.fatal = &BudgetError{What: what, Limit: limit, Spent: m.spent}
}

// tooDeep is the error of what lies deeper than the budget allows.
func (m *meter) tooDeep() error {
	return &BudgetError{What: "depth", Limit: m.budget.Depth, Spent: m.spent}
}
