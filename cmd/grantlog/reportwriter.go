package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
)

// A reportWriter writes a report in one of its formats, as it comes.
type reportWriter interface {
	header(h *pb.ReportHeader, vouched string) error
	row(cells []string, csv []byte) error
	pause() error // no row may come for a while
	end(e *pb.ReportEnd) error
}

func newReportWriter(format string, to io.Writer) reportWriter {
	switch b := bufio.NewWriter(to); format {
	case "csv":
		return &csvReport{b}
	case "jsonl":
		return &jsonReport{Writer: b}
	default:
		return &tableReport{Writer: b}
	}
}

// reportFacts are what a header says, in pairs, but for the checkpoint.
func reportFacts(h *pb.ReportHeader) (pairs [][2]string) {
	add := func(name, value string) {
		if value != "" {
			pairs = append(pairs, [2]string{name, value})
		}
	}
	add("store", h.GetStore())
	add("name", h.GetStoreName())
	if h.GetFromEvaluatedAt() != nil {
		from := "none: no entry is between the moments"
		if h.GetFromRevision() > 0 {
			from = fmt.Sprint(h.GetFromRevision())
		}
		add("from revision", from)
		add("from moment", h.GetFromEvaluatedAt().AsTime().Format(time.RFC3339Nano))
		add("from model", h.GetFromModel())
	}
	add("revision", fmt.Sprint(h.GetRevision()))
	add("moment", h.GetEvaluatedAt().AsTime().Format(time.RFC3339Nano))
	add("model", h.GetModel())
	add("query", h.GetQuery())
	add("root", base64.StdEncoding.EncodeToString(h.GetRoot()))
	return pairs
}

func hashTexts(hashes [][]byte) []string {
	texts := make([]string, len(hashes))
	for i, h := range hashes {
		texts[i] = base64.StdEncoding.EncodeToString(h)
	}
	return texts
}

// A csvReport is CSV between lines that begin with "# ".
type csvReport struct{ *bufio.Writer }

// about writes a line about the rows. Any write's error is the last one's too.
func (w *csvReport) about(name, value string) {
	fmt.Fprintf(w, "# %s: %s\n", name, audit.Cell(value))
}

func (w *csvReport) header(h *pb.ReportHeader, vouched string) error {
	w.about("report", h.GetTitle())
	for _, p := range reportFacts(h) {
		w.about(p[0], p[1])
	}
	w.about("checkpoint", vouched)
	if h.GetCheckpoint() != "" {
		for line := range strings.Lines(h.GetCheckpoint()) {
			fmt.Fprintf(w, "# | %s\n", strings.TrimSuffix(line, "\n"))
		}
		w.about("key", h.GetKey())
		w.about("consistency", strings.Join(hashTexts(h.GetConsistencyProof()), " "))
	}
	_, err := w.Write(audit.AppendCSV(nil, h.GetColumns()))
	return err
}

func (w *csvReport) row(_ []string, csv []byte) error {
	_, err := w.Write(csv)
	return err
}

func (w *csvReport) pause() error { return w.Flush() }

func (w *csvReport) end(e *pb.ReportEnd) error {
	w.about("rows", fmt.Sprint(e.GetRows()))
	w.about("undecided", fmt.Sprint(e.GetUndecided()))
	w.about("sha256", hex.EncodeToString(e.GetSha256()))
	return w.Flush()
}

// A jsonReport is one JSON object a line.
type jsonReport struct {
	*bufio.Writer
	columns [][]byte // the names, as JSON
	line    bytes.Buffer
}

func (w *jsonReport) object(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return err
}

func (w *jsonReport) header(h *pb.ReportHeader, _ string) error {
	for _, c := range h.GetColumns() {
		name, err := json.Marshal(c)
		if err != nil {
			return err
		}
		w.columns = append(w.columns, name)
	}
	moment := func(t interface{ AsTime() time.Time }) string { return t.AsTime().Format(time.RFC3339Nano) }
	type header struct {
		Report          string          `json:"report"`
		Store           string          `json:"store"`
		StoreName       string          `json:"store_name"`
		FromRevision    uint64          `json:"from_revision,omitempty"`
		FromEvaluatedAt string          `json:"from_evaluated_at,omitempty"`
		FromModel       string          `json:"from_model,omitempty"`
		Revision        uint64          `json:"revision"`
		EvaluatedAt     string          `json:"evaluated_at"`
		Model           string          `json:"model"`
		Query           json.RawMessage `json:"query"`
		Root            string          `json:"root"`
		Checkpoint      string          `json:"checkpoint"`
		Key             string          `json:"key"`
		Consistency     []string        `json:"consistency_proof"`
		Columns         []string        `json:"columns"`
	}
	v := header{
		Report: h.GetTitle(), Store: h.GetStore(), StoreName: h.GetStoreName(),
		FromRevision: h.GetFromRevision(), FromModel: h.GetFromModel(),
		Revision: h.GetRevision(), EvaluatedAt: moment(h.GetEvaluatedAt()), Model: h.GetModel(),
		Query: json.RawMessage(h.GetQuery()), Root: base64.StdEncoding.EncodeToString(h.GetRoot()),
		Checkpoint: h.GetCheckpoint(), Key: h.GetKey(), Consistency: hashTexts(h.GetConsistencyProof()), Columns: h.GetColumns(),
	}
	if h.GetFromEvaluatedAt() != nil {
		v.FromEvaluatedAt = moment(h.GetFromEvaluatedAt())
	}
	return w.object(map[string]any{"header": v})
}

func (w *jsonReport) row(cells []string, _ []byte) error {
	w.line.Reset()
	for i, c := range cells {
		value, err := json.Marshal(c)
		if err != nil {
			return err
		}
		w.line.WriteByte("{,"[min(i, 1)])
		w.line.Write(w.columns[i])
		w.line.WriteByte(':')
		w.line.Write(value)
	}
	w.line.WriteString("}\n")
	_, err := w.Write(w.line.Bytes())
	return err
}

func (w *jsonReport) pause() error { return w.Flush() }

func (w *jsonReport) end(e *pb.ReportEnd) error {
	type end struct {
		Rows      uint64 `json:"rows"`
		Undecided uint64 `json:"undecided"`
		SHA256    string `json:"sha256"`
	}
	if err := w.object(map[string]any{"end": end{e.GetRows(), e.GetUndecided(), hex.EncodeToString(e.GetSha256())}}); err != nil {
		return err
	}
	return w.Flush()
}

// A tableReport is for reading. Its columns are as wide as the rows that came together
// need, and wider from then on where later ones do, so that no row waits for the last. It
// shows times to the second.
type tableReport struct {
	*bufio.Writer
	columns []string
	time    int // the column of that name, -1 if there is none
	widths  []int
	rows    [][]string // that came together
	begun   bool
}

func (w *tableReport) header(h *pb.ReportHeader, vouched string) error {
	fmt.Fprintln(w, h.GetTitle())
	for _, p := range append(reportFacts(h), [2]string{"checkpoint", vouched}) {
		fmt.Fprintf(w, "  %-13s  %s\n", p[0], audit.Cell(p[1]))
	}
	w.time = slices.Index(h.GetColumns(), "time")
	w.columns = make([]string, len(h.GetColumns()))
	w.widths = make([]int, len(w.columns))
	for i, c := range h.GetColumns() {
		w.columns[i] = strings.ToUpper(strings.ReplaceAll(c, "_", " "))
		w.widths[i] = utf8.RuneCountInString(w.columns[i])
	}
	_, err := fmt.Fprintln(w)
	return err
}

func (w *tableReport) row(cells []string, _ []byte) error {
	cells = slices.Clone(cells)
	if w.time >= 0 { // to the second is enough to read
		if at, err := time.Parse(time.RFC3339Nano, cells[w.time]); err == nil {
			cells[w.time] = at.Format(time.RFC3339)
		}
	}
	for i, c := range cells {
		w.widths[i] = max(w.widths[i], utf8.RuneCountInString(c))
	}
	w.rows = append(w.rows, cells)
	return nil
}

func (w *tableReport) pause() error {
	if !w.begun && len(w.rows) > 0 {
		w.begun = true
		w.line(w.columns)
	}
	for _, cells := range w.rows {
		w.line(cells)
	}
	w.rows = w.rows[:0]
	return w.Flush()
}

func (w *tableReport) line(cells []string) {
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(c)
		b.WriteString(strings.Repeat(" ", w.widths[i]-utf8.RuneCountInString(c)+2))
	}
	fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
}

func (w *tableReport) end(e *pb.ReportEnd) error {
	if w.begun {
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, endText(e))
	return w.Flush()
}

// endText says how many rows a report has.
func endText(e *pb.ReportEnd) string {
	text := count(int(e.GetRows()), "row")
	if n := e.GetUndecided(); n > 0 {
		text += fmt.Sprintf(", %d of them UNDECIDED", n)
	}
	return fmt.Sprintf("%s, SHA-256 %x", text, e.GetSha256())
}
