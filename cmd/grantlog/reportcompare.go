package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
)

// A comparer is a [reportWriter] that holds what a server reports against a saved report. It
// fails with [errAltered] where they differ, but for what only one of the two was made with
// the budget for: that is noted. See [comparer.undecided].
type comparer struct {
	file  *bufio.Reader
	saved *saved
	vouch *vouch // of the checkpoint in the file, verified

	write   reportWriter // to made
	made    bytes.Buffer
	columns []string

	ahead  []*fileLine // read from the file and not compared yet
	line   int         // lines that were compared
	count  uint64      // rows of the file that tell that something has no answer
	signed bool        // the server sent a checkpoint

	open    string // the first difference that is one of budgets, "" for none
	opened  int    // how many there are
	lacking bool   // in one of them the budget is that of the server
	alone   []aloneRow
	unsaid  map[everyone]bool // of whom one of the two does not know what is said
}

// A fileLine is a line of the file, with its end; none is after the last.
type fileLine struct {
	raw   []byte
	read  bool
	cells []string // once it is read; nil if it is no row
}

// An everyone is all plain subjects of a type, about a relation on an object.
type everyone struct{ typ, relation, object string }

// An aloneRow is a row that one of the two has, because it is not as is said of everyone: a
// difference of budgets only if one of the two does not know what is said of everyone.
type aloneRow struct {
	everyone
	text string
}

func newComparer(file io.Reader, s *saved, v *vouch) *comparer {
	c := &comparer{file: bufio.NewReader(file), saved: s, vouch: v, unsaid: make(map[everyone]bool)}
	c.write = newReportWriter(s.format, &c.made)
	return c
}

// undecided returns the error of what only one of the two was made with the budget for, nil
// if there is nothing: then they are the same.
func (c *comparer) undecided() error {
	if c.opened == 0 {
		return nil
	}
	whose, more := "the server that made the report", ""
	if c.lacking {
		whose = "this server"
	}
	if c.opened > 1 {
		more = fmt.Sprintf("\nand %s like it", count(c.opened-1, "more row"))
	}
	return fmt.Errorf("not found out within the budget of %s (serve --list-budget and --check-budget): %s%s", whose, c.open, more)
}

// header compares the header, with the file's checkpoint in place of the server's, which may
// be newer.
func (c *comparer) header(h *pb.ReportHeader, _ string) error {
	c.signed = h.Checkpoint != ""
	h.Checkpoint, h.Key, h.ConsistencyProof = "", "", nil
	if c.vouch.note != "" {
		h.Checkpoint, h.Key, h.ConsistencyProof = c.vouch.note, c.vouch.key.String(), c.saved.header.ConsistencyProof
	}
	c.columns = h.Columns
	if err := c.write.header(h, c.saved.vouched); err != nil {
		return err
	}
	return c.lines()
}

func (c *comparer) row(cells []string, _ []byte) error {
	want, err := c.encoded(cells)
	if err != nil {
		return err
	}
	f, err := c.peek(0)
	if err != nil {
		return err
	}
	if bytes.Equal(f.raw, want) {
		c.drop(cells)
		return nil
	}
	first := c.difference(f.raw, want)
	// The row may come after some that only the file has.
	for i := 0; ; i++ {
		has, err := c.rowAhead(i)
		if err != nil {
			return err
		}
		if has != nil && c.about(has, cells) {
			return c.meet(i, cells, want)
		}
		if has == nil || !c.mayBeAlone(has) {
			break
		}
	}
	if !c.mayBeAlone(cells) {
		return altered("%s", first)
	}
	c.leave(cells, first, true)
	return nil
}

// meet compares a row with the one of the same about, before which the file has some alone.
func (c *comparer) meet(before int, cells []string, want []byte) error {
	for range before {
		if err := c.pass(); err != nil {
			return err
		}
	}
	f, err := c.peek(0)
	if err != nil {
		return err
	}
	has, err := c.rowAhead(0)
	if err != nil {
		return err
	}
	if !bytes.Equal(f.raw, want) {
		text := c.difference(f.raw, want)
		if !c.differByBudget(has, cells) {
			return altered("%s", text)
		}
		c.note(text, c.overBudget(cells))
		if c.answerOpen(has) || c.answerOpen(cells) {
			c.notSaid(cells)
		}
	}
	c.drop(has)
	return nil
}

// pass passes a row that only the file has.
func (c *comparer) pass() error {
	f, err := c.peek(0)
	if err != nil {
		return err
	}
	has, err := c.rowAhead(0)
	if err != nil {
		return err
	}
	c.leave(has, fmt.Sprintf("line %d is\n  %s\nand the server reports no such row", c.line+1, shown(f.raw)), false)
	c.drop(has)
	return nil
}

func (c *comparer) pause() error { return nil }

func (c *comparer) end(e *pb.ReportEnd) error {
	for {
		has, err := c.rowAhead(0)
		if err != nil {
			return err
		}
		if has == nil || !c.mayBeAlone(has) {
			break
		}
		if err := c.pass(); err != nil {
			return err
		}
	}
	if c.opened > 0 { // the end is of the file's rows then
		sum, err := hex.DecodeString(c.saved.sum)
		if err != nil {
			return err
		}
		e = &pb.ReportEnd{Rows: c.saved.rows, Undecided: c.count, Sha256: sum}
	}
	if err := c.write.end(e); err != nil {
		return err
	}
	if err := c.lines(); err != nil {
		return err
	}
	f, err := c.peek(0)
	if err != nil {
		return err
	}
	if len(f.raw) > 0 {
		return altered("line %d is\n  %s\nand the server's report has ended", c.line+1, shown(f.raw))
	}
	for _, r := range c.alone {
		if !c.unsaid[r.everyone] {
			return altered("%s", r.text)
		}
	}
	return nil
}

// lines compares what was written.
func (c *comparer) lines() error {
	if err := c.write.pause(); err != nil {
		return err
	}
	defer c.made.Reset()
	for want := range bytes.Lines(c.made.Bytes()) {
		f, err := c.peek(0)
		if err != nil {
			return err
		}
		if !bytes.Equal(f.raw, want) {
			return altered("%s", c.difference(f.raw, want))
		}
		c.drop(nil)
	}
	return nil
}

// difference tells how the next line of the file is not what is wanted.
func (c *comparer) difference(got, want []byte) string {
	return fmt.Sprintf("line %d is\n  %s\nand the server reports\n  %s", c.line+1, shown(got), shown(want))
}

// encoded returns the line that is written for a row.
func (c *comparer) encoded(cells []string) ([]byte, error) {
	defer c.made.Reset()
	if err := c.write.row(cells, audit.AppendCSV(nil, cells)); err != nil {
		return nil, err
	}
	err := c.write.pause()
	return bytes.Clone(c.made.Bytes()), err
}

// peek returns the line that is i lines ahead.
func (c *comparer) peek(i int) (*fileLine, error) {
	for len(c.ahead) <= i {
		raw, err := readLine(c.file)
		if err != nil && err != io.EOF {
			return nil, err
		}
		c.ahead = append(c.ahead, &fileLine{raw: raw})
	}
	return c.ahead[i], nil
}

// drop goes past the next line, which has these cells if it is a row.
func (c *comparer) drop(row []string) {
	for i, cell := range row {
		if audit.IsUndecided(c.columns[i], cell) {
			c.count++
			break
		}
	}
	c.ahead = c.ahead[1:]
	c.line++
}

// rowAhead returns the cells of the line that is i lines ahead; nil unless it is a row as it
// is written.
func (c *comparer) rowAhead(i int) ([]string, error) {
	f, err := c.peek(i)
	if err != nil {
		return nil, err
	}
	if f.read {
		return f.cells, nil
	}
	f.read = true
	var cells []string
	if c.saved.format == "csv" {
		r := csv.NewReader(bytes.NewReader(f.raw))
		r.FieldsPerRecord = len(c.columns)
		if cells, err = r.Read(); err != nil {
			return nil, nil
		}
	} else {
		var object map[string]string
		if json.Unmarshal(f.raw, &object) != nil {
			return nil, nil
		}
		for _, name := range c.columns {
			cells = append(cells, object[name])
		}
	}
	written, err := c.encoded(cells)
	if err == nil && bytes.Equal(written, f.raw) {
		f.cells = cells
	}
	return f.cells, err
}

// cell returns the cell of a column, "" if there is none.
func (c *comparer) cell(cells []string, column string) string {
	if i := slices.Index(c.columns, column); i >= 0 {
		return cells[i]
	}
	return ""
}

// about reports whether two rows are about the same: they may tell different things of it.
func (c *comparer) about(x, y []string) bool {
	for i, column := range c.columns {
		switch column {
		case "change", "access", "before", "after", "cause", "time", "revision", "actor", "ticket", "reason", "path", "tuple":
		default:
			if x[i] != y[i] {
				return false
			}
		}
	}
	return true
}

// differByBudget reports whether rows about the same differ only in what one of them does not
// tell for want of a budget: an answer, and then all that follows from it; the cause, with
// what is told of it; or the path.
func (c *comparer) differByBudget(x, y []string) bool {
	over := func(i int) bool {
		return audit.OverBudget(c.columns[i], x[i]) || audit.OverBudget(c.columns[i], y[i])
	}
	answer, cause := false, false
	for i, column := range c.columns {
		switch column {
		case "access", "before", "after":
			if x[i] != y[i] && !over(i) {
				return false
			}
			answer = answer || x[i] != y[i]
		case "cause":
			cause = over(i)
		}
	}
	for i, column := range c.columns {
		switch {
		case x[i] == y[i] || answer:
		case column == "change":
			return false
		case column == "path":
			if !over(i) {
				return false
			}
		case !cause: // the others tell of it
			return false
		}
	}
	return true
}

// overBudget reports whether a row does not tell something for want of a budget.
func (c *comparer) overBudget(cells []string) bool {
	for i, column := range c.columns {
		if audit.OverBudget(column, cells[i]) {
			return true
		}
	}
	return false
}

// answerOpen reports whether that is an answer.
func (c *comparer) answerOpen(cells []string) bool {
	for _, column := range [...]string{"access", "before", "after"} {
		if audit.OverBudget(column, c.cell(cells, column)) {
			return true
		}
	}
	return false
}

// mayBeAlone reports whether the other of the two may lack a row for its budget: it says
// nothing of it if it is denied, or if it is as is said of everyone.
func (c *comparer) mayBeAlone(cells []string) bool { return c.answerOpen(cells) || c.asNotSaid(cells) }

// asNotSaid reports whether a row is told because it is not as is said of everyone.
func (c *comparer) asNotSaid(cells []string) bool {
	return c.cell(cells, "access") == "excluded" || c.cell(cells, "change") == "unchanged"
}

// leave notes a row that one of the two lacks.
func (c *comparer) leave(cells []string, text string, ofServer bool) {
	if c.answerOpen(cells) {
		c.note(text, ofServer)
		c.notSaid(cells)
		return
	}
	c.note(text, false)
	c.alone = append(c.alone, aloneRow{c.everyone(cells), text})
}

func (c *comparer) note(text string, lacking bool) {
	if c.open == "" {
		c.open = text
	}
	c.opened++
	c.lacking = c.lacking || lacking
}

// notSaid notes that one of the two does not know what is said of everyone, if a row is about
// that.
func (c *comparer) notSaid(cells []string) {
	if strings.HasSuffix(c.cell(cells, "subject"), ":*") {
		c.unsaid[c.everyone(cells)] = true
	}
}

func (c *comparer) everyone(cells []string) everyone {
	typ, _, _ := strings.Cut(c.cell(cells, "subject"), ":")
	return everyone{typ, c.cell(cells, "relation"), c.cell(cells, "object")}
}
