package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger/seal"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *app) auditRecheckCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "recheck FILE",
		Short: "Ask for a saved report again, and compare",
		Long: `Reads a report that was saved as CSV or JSONL, and says whether it is what the server
reports; - is the standard input. The SHA-256 in a report shows that it is
whole as it was sent, not that nobody changed it since: whoever alters a row can compute it
again. So this command

  1  computes the number of rows and their SHA-256 again;
  2  verifies the checkpoint that the report stands on, if it has one, with --key or else
     the key in the file, and that its tree begins with the root of the report;
  3  asks the server the same query, at the revision and the moment of the report. The
     server refuses unless the query leads there: to that very revision and moment, if
     it names one of the past; if it does not, the revision must have been the newest of
     the store at that moment;
  4  compares every line of the file with what the server reports: the name, the model,
     the query and the root too.

The checkpoint is not the server's, which may be newer by now: it and what the file says
about it must be what 2 shows. Who saved the report alone knows whether --key was given.
A report without a checkpoint is compared too, but not verified: with --key that is a no.

The first line that differs is told. Without --key, or without a checkpoint, the report is
as true as the server that is asked. A report of a time so near its making that the
broker's clock, behind the server's or run back, gave a later entry an earlier time is not
the same any more.

Some causes and answers are not found out within the budget of a server ("unknown", "no
answer within"), and servers may have different ones. A row that differs in nothing else
is not told to be the same, nor to be altered: ask a server with the same --list-budget
and --check-budget as the one that made the report.

Exit status: 0 the same; 1 not the same, or not verified with --key, or the server's
report does not verify; 2 not found out within a budget, or an error.`,
		Example: `  grantlog audit access --object doc:plan --format csv --out plan.csv
  grantlog audit recheck plan.csv --key auditors.pub
  zstd -dc plan.csv.zst | grantlog audit recheck -`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pinned, err := readKeyFlag(key)
			if err != nil {
				return err
			}
			return a.recheck(cmd.Context(), args[0], pinned)
		},
	}
	keyFlag(c.Flags(), &key)
	return c
}

// A RecheckReport is what recheck prints with -o json.
type RecheckReport struct {
	File       string `json:"file"`
	Same       bool   `json:"same"`
	Problem    string `json:"problem,omitempty"`
	Rows       uint64 `json:"rows"`
	SHA256     string `json:"sha256,omitempty"`
	Checkpoint string `json:"checkpoint,omitempty"`
	Verified   bool   `json:"verified"` // it is the same, and stands on that checkpoint
}

// errAltered is that a saved report is not what was reported.
var errAltered = errors.New("not the same")

// An unvouchedError is that a saved report is what was reported, and has no checkpoint that
// --key could verify.
type unvouchedError struct{ made string } // what is known of why, "" for nothing

func (e *unvouchedError) Error() string {
	text := "the rows are the same, but nothing vouches for them: the report stands on no checkpoint, so --key has nothing to verify"
	if e.made != "" {
		text += "; " + e.made
	}
	return text
}

func altered(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errAltered, fmt.Sprintf(format, args...))
}

// standardInput is what - is called.
const standardInput = "the standard input"

func (a *app) recheck(ctx context.Context, file string, pinned seal.Key) error {
	f, done, err := a.openSaved(ctx, file)
	if err != nil {
		return err
	}
	defer done()
	report := RecheckReport{File: file}
	if file == "-" {
		file = standardInput
	}
	err = a.recheckFile(ctx, f, pinned, &report)
	var unvouched *unvouchedError
	report.Same = err == nil || errors.As(err, &unvouched)
	if !report.Same && !errors.Is(err, errAltered) {
		return a.verdict(fmt.Errorf("%s: %w", file, err))
	}
	if err != nil {
		report.Problem = err.Error()
	}
	if a.json() {
		if e := a.value(&report); e != nil {
			return e
		}
	}
	switch {
	case err != nil:
		return &no{fmt.Sprintf("%s: %s", file, err)}
	case a.json():
		return nil
	}
	return a.facts(file+" is the same as reported", "rows", fmt.Sprint(report.Rows), "sha256", report.SHA256, "checkpoint", report.Checkpoint)
}

// openSaved opens a saved report, which is read twice: what cannot be is copied. Done closes
// it, and removes the copy.
func (a *app) openSaved(ctx context.Context, file string) (f *os.File, done func(), err error) {
	src := a.stdin
	if file != "-" {
		if f, err = os.Open(file); err != nil {
			return nil, nil, err
		}
		if _, err := f.Seek(0, io.SeekStart); err == nil {
			return f, func() { f.Close() }, nil
		}
		defer f.Close()
		src = f
	}
	to, err := os.CreateTemp("", "grantlog-recheck-")
	if err != nil {
		return nil, nil, err
	}
	done = func() {
		to.Close()
		os.Remove(to.Name())
	}
	_, err = io.Copy(to, interruptible(ctx, src))
	if err == nil {
		_, err = to.Seek(0, io.SeekStart)
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("copy the report: %w", err)
	}
	return to, done, nil
}

func (a *app) recheckFile(ctx context.Context, f io.ReadSeeker, pinned seal.Key, report *RecheckReport) error {
	s, err := readSaved(f)
	if err != nil {
		return err
	}
	report.Rows, report.SHA256 = s.rows, s.sum
	key := pinned
	if s.header.Checkpoint == "" {
		key = seal.Key{} // it has nothing to verify, which is told once the rows are compared
	}
	v, err := vouchFor(s.header, key)
	if err != nil {
		return altered("%s", err)
	}
	if err := s.saysOf(v); err != nil {
		return err
	}
	report.Checkpoint = v.saved()
	q := &pb.ReportRequest{}
	if err := protojson.Unmarshal([]byte(s.header.Query), q); err != nil {
		return altered("its query is none: %s", err)
	}
	if q.Store != s.header.Store {
		return altered("its query is about the store %s, and it about %s", q.Store, s.header.Store)
	}
	q.Again = &pb.ReportMoment{Revision: s.header.Revision, EvaluatedAt: s.header.EvaluatedAt}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	p := newProgress(a.stderr)
	defer p.end()
	against := newComparer(f, s, v)
	_, err = c.report(ctx, q, seal.Key{}, against, p)
	var refused *refusedError
	switch {
	case errors.As(err, &refused) && refused.field != "store": // which may be another server's
		return altered("the server does not report it again: %s", err)
	case err != nil:
		return err
	}
	if err := against.undecided(); err != nil {
		return err
	}
	made := ""
	if v.note == "" && against.signed {
		made = "this server signs its reports: this one was made by one that does not, or its checkpoint was taken out"
		report.Checkpoint = "none, though " + made
	}
	if v.note == "" && !pinned.IsZero() {
		return &unvouchedError{made}
	}
	report.Verified = v.note != ""
	return nil
}

// saved is what is said of the checkpoint of a saved report.
func (v *vouch) saved() string {
	switch {
	case v.note == "":
		return "none: the report is as true as this server"
	case !v.pinned:
		return fmt.Sprintf("of revision %d, verified by the key in the file, %s: give the one you know as --key", v.checkpoint.Size, v.key)
	}
	return v.text()
}

// maxLine is how long a line of a saved report may be: far longer than any that is written.
const maxLine = 64 << 20

// readLine reads a line with the LF that ends it; at the end of the file, perhaps one without,
// and [io.EOF].
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxLine {
			return nil, altered("a line has more than %d bytes", maxLine)
		}
	}
}

// shown is a line as a terminal may show it.
func shown(line []byte) string { return audit.Cell(strings.TrimSuffix(string(line), "\n")) }

// A saved is what a saved report says about its rows.
type saved struct {
	format  string // csv or jsonl
	header  *pb.ReportHeader
	vouched string // of CSV: what was said about the checkpoint
	rows    uint64
	sum     string // SHA-256 of the rows, in hex
}

// saysOf returns [errAltered] unless a CSV says of its checkpoint what that shows. Whether
// the key was given when it was saved is known to no one else.
func (s *saved) saysOf(v *vouch) error {
	named, given := *v, *v
	named.pinned, given.pinned = false, true
	if s.format == "csv" && s.vouched != named.text() && s.vouched != given.text() {
		return altered("it says of its checkpoint\n  %s\nand the one in it shows\n  %s", shown([]byte(s.vouched)), named.text())
	}
	return nil
}

// byteOrderMark is what some programs write before a text in UTF-8.
const byteOrderMark = "\ufeff"

// readSaved reads a report that was saved, and holds its rows against its end. Errors:
// [errAltered] if they do not fit.
func readSaved(src io.Reader) (*saved, error) {
	r := bufio.NewReader(src)
	first, err := r.Peek(len(byteOrderMark)) // fewer of a shorter file
	switch {
	case len(first) == 0 && err == io.EOF:
		return nil, errors.New("is empty")
	case err != nil && err != io.EOF:
		return nil, fmt.Errorf("read the report: %w", err)
	case string(first) == byteOrderMark:
		return nil, errors.New("begins with a byte-order mark, which no report has: take it off, or ask for the report again")
	}
	s := &saved{format: "csv", header: &pb.ReportHeader{}}
	var digest audit.Digest
	read, said := s.csv(), map[string]string{}
	switch first[0] {
	case '#':
	case '{':
		s.format, read = "jsonl", s.jsonl()
	default:
		return nil, errors.New("it is no report that was saved with --format csv or --format jsonl")
	}
	for n := 1; ; n++ {
		line, err := readLine(r)
		if err == io.EOF && len(line) == 0 {
			break
		}
		if err == io.EOF {
			return nil, altered("line %d has no end", n)
		}
		if err != nil {
			return nil, err
		}
		line = line[:len(line)-1]
		if bytes.HasSuffix(line, []byte("\r")) {
			return nil, altered("its line ends were changed: line %d ends with CR LF, and those of a report with LF alone", n)
		}
		if err := read(line, said, &digest); err != nil {
			return nil, altered("line %d: %s", n, err)
		}
	}
	sum := digest.Sum()
	s.rows, s.sum = digest.Rows, hex.EncodeToString(sum[:])
	if said["rows"] != fmt.Sprint(s.rows) || said["sha256"] != s.sum {
		return nil, altered("it has %d rows with SHA-256 %s, and its end says %q with %q", s.rows, s.sum, said["rows"], said["sha256"])
	}
	return s, nil
}

// A lineReader takes a line without its end. What the report's end says goes into said, rows
// into the digest.
type lineReader func(line []byte, said map[string]string, d *audit.Digest) error

func (s *saved) csv() lineReader {
	columns := false
	return func(line []byte, said map[string]string, d *audit.Digest) error {
		text, about := strings.CutPrefix(string(line), "# ")
		note, noted := strings.CutPrefix(text, "| ")
		switch {
		case about && noted:
			s.header.Checkpoint += note + "\n"
			return nil
		case about:
			name, value, _ := strings.Cut(text, ": ")
			if columns {
				said[name] = value
				return nil
			}
			if err := s.fact(name, value); err != nil {
				return fmt.Errorf("the %s %q cannot be read", name, value)
			}
			return nil
		case !columns:
			columns = true
			return nil
		}
		d.AddLine(append(line, '\n'))
		return nil
	}
}

// fact takes what a line about the rows says.
func (s *saved) fact(name, value string) (err error) {
	h := s.header
	switch name {
	case "store":
		h.Store = value
	case "name":
		h.StoreName = value
	case "revision":
		h.Revision, err = strconv.ParseUint(value, 10, 64)
	case "moment":
		var at time.Time
		at, err = time.Parse(time.RFC3339Nano, value)
		h.EvaluatedAt = timestamppb.New(at)
	case "query":
		h.Query = value
	case "root":
		h.Root, err = base64.StdEncoding.DecodeString(value)
	case "checkpoint":
		s.vouched = value
	case "key":
		h.Key = value
	case "consistency":
		h.ConsistencyProof, err = hashesOf(strings.Fields(value))
	}
	return err
}

func hashesOf(texts []string) (hashes [][]byte, err error) {
	for _, t := range texts {
		h, err := base64.StdEncoding.DecodeString(t)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, h)
	}
	return hashes, nil
}

func (s *saved) jsonl() lineReader {
	begun := false
	return func(line []byte, said map[string]string, d *audit.Digest) (err error) {
		if !begun {
			begun = true
			var l struct {
				Header struct {
					Store       string          `json:"store"`
					StoreName   string          `json:"store_name"`
					Revision    uint64          `json:"revision"`
					EvaluatedAt time.Time       `json:"evaluated_at"`
					Query       json.RawMessage `json:"query"`
					Root        []byte          `json:"root"`
					Checkpoint  string          `json:"checkpoint"`
					Key         string          `json:"key"`
					Consistency []string        `json:"consistency_proof"`
					Columns     []string        `json:"columns"`
				} `json:"header"`
			}
			if err := json.Unmarshal(line, &l); err != nil {
				return err
			}
			h := &l.Header
			s.header = &pb.ReportHeader{Store: h.Store, StoreName: h.StoreName, Revision: h.Revision, EvaluatedAt: timestamppb.New(h.EvaluatedAt),
				Query: string(h.Query), Root: h.Root, Checkpoint: h.Checkpoint, Key: h.Key, Columns: h.Columns}
			s.header.ConsistencyProof, err = hashesOf(h.Consistency)
			return err
		}
		if bytes.HasPrefix(line, []byte(`{"end":{`)) {
			var l struct {
				End struct {
					Rows   json.Number `json:"rows"`
					SHA256 string      `json:"sha256"`
				} `json:"end"`
			}
			if err := json.Unmarshal(line, &l); err != nil {
				return err
			}
			said["rows"], said["sha256"] = l.End.Rows.String(), l.End.SHA256
			return nil
		}
		var row map[string]string
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		cells := make([]string, len(s.header.Columns))
		for i, c := range s.header.Columns {
			cells[i] = row[c]
		}
		d.Add(cells)
		return nil
	}
}
