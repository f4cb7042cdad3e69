package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A budgeted is what a server with some budget finds out about the subjects of an object.
type budgeted struct {
	answers, causes [reportSubjects]bool // that it finds out
	limit           int
}

const reportSubjects = 12 // the first is everyone

// report returns the rows of who holds a relation, given who does.
func (b *budgeted) report(held [reportSubjects]bool) (rows [][]string) {
	for i, holds := range held {
		subject, access := fmt.Sprintf("user:u%02d", i), "held"
		if i == 0 {
			subject = "user:*"
		}
		switch {
		case !b.answers[i]:
			access = fmt.Sprintf("undecided: no answer within %d rows", b.limit)
		case !holds && (i == 0 || b.answers[0] && !held[0]):
			continue
		case !holds:
			access = "excluded"
		}
		cause := []string{"command", "2026-11-25T10:00:00Z", "7", "hr", "HR-" + subject, "joined, really"}
		if !b.answers[i] || !b.causes[i] {
			cause = []string{"unknown", "", "", "", "", ""}
		}
		path := ""
		if access == "held" {
			path = "doc:plan#viewer@" + subject
		}
		rows = append(rows, slices.Concat([]string{"viewer", subject, access}, cause, []string{path}))
	}
	return rows
}

// saveReport writes a report of rows in a format.
func saveReport(t *testing.T, format string, rows [][]string) ([]byte, *pb.ReportHeader, *pb.ReportEnd) {
	t.Helper()
	h := &pb.ReportHeader{Title: "access to an object", Store: ledger.ID{}.String(), Query: "{}", Revision: 7, EvaluatedAt: timestamppb.New(time.Unix(1_600_000_000, 0)),
		Columns: []string{"relation", "subject", "access", "cause", "time", "revision", "actor", "ticket", "reason", "path"}}
	var to bytes.Buffer
	w := newReportWriter(format, &to)
	var digest audit.Digest
	e := &pb.ReportEnd{}
	err := w.header(h, (&vouch{}).text())
	for _, cells := range rows {
		err = errors.Join(err, w.row(cells, digest.Add(cells)))
		if strings.HasPrefix(cells[2], "undecided") {
			e.Undecided++
		}
	}
	sum := digest.Sum()
	e.Rows, e.Sha256 = digest.Rows, sum[:]
	if err = errors.Join(err, w.end(e)); err != nil {
		t.Fatal(err)
	}
	return to.Bytes(), h, e
}

// compareReports compares what a server reports with a saved report.
func compareReports(t *testing.T, format string, file, server [][]string) error {
	t.Helper()
	text, _, _ := saveReport(t, format, file)
	_, h, e := saveReport(t, format, server)
	s, err := readSaved(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := newComparer(bytes.NewReader(text), s, &vouch{})
	if err := c.header(h, ""); err != nil {
		return err
	}
	for _, cells := range server {
		if err := c.row(cells, audit.AppendCSV(nil, cells)); err != nil {
			return err
		}
	}
	if err := c.end(e); err != nil {
		return err
	}
	return c.undecided()
}

// TestCompareBudgets holds that two servers' reports of the same that differ are neither the
// same nor altered, whatever each has found out; and that what both found out cannot be
// altered.
func TestCompareBudgets(t *testing.T) {
	const seed = 20261125
	r := rand.New(rand.NewPCG(seed, 0))
	some := func(chance float64) (b [reportSubjects]bool) {
		for i := range b {
			b[i] = r.Float64() < chance
		}
		return b
	}
	for i := range 4000 {
		held := some(0.6)
		x := budgeted{answers: some(r.Float64()), causes: some(r.Float64()), limit: 10}
		y := budgeted{answers: some(r.Float64()), causes: some(r.Float64()), limit: 10 + i%2}
		file, server := x.report(held), y.report(held)
		format := []string{"csv", "jsonl"}[i%2]
		about := func() string {
			return fmt.Sprintf("seed %d, try %d: the file has\n%q\nand the server\n%q", seed, i, file, server)
		}
		err := compareReports(t, format, file, server)
		if same := slices.EqualFunc(file, server, slices.Equal); same != (err == nil) || errors.Is(err, errAltered) {
			t.Fatalf("%s\n%v", about(), err)
		}
		// Someone whom both know, and what is said of everyone too.
		who := 1 + r.IntN(reportSubjects-1)
		if !x.answers[who] || !y.answers[who] || !x.answers[0] || !y.answers[0] {
			continue
		}
		forged := held
		forged[who] = !held[who]
		file = x.report(forged)
		if err := compareReports(t, format, file, server); !errors.Is(err, errAltered) {
			t.Fatalf("%s\nwith another answer about %d: %v", about(), who, err)
		}
		at := slices.IndexFunc(server, func(cells []string) bool { return cells[1] == fmt.Sprintf("user:u%02d", who) })
		if at < 0 {
			continue
		}
		file = slices.Clone(server)
		for column := range file[at] {
			file[at] = slices.Clone(server[at])
			file[at][column] += "x"
			if err := compareReports(t, format, file, server); !errors.Is(err, errAltered) && !(server[at][3] == "unknown" && column >= 3 && column < 9) {
				t.Fatalf("%s\nwith another cell %d: %v", about(), column, err)
			} else if err == nil {
				t.Fatalf("%s\nis the same", about())
			}
		}
	}
}
