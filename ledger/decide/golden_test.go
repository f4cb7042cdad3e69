package decide

import (
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"golang.org/x/mod/sumdb/tlog"
)

// TestGolden folds the golden log of each fold version: whole messages in, and out
// what is recorded of each, with its leaf hash. A difference means that logs which
// exist would be decided otherwise than they were. That is never right: a new rule is
// a new fold version with a golden log of its own.
//
//	message subject=S time=T        one message
//	    its lines, joined           as the data of the message
//	message subject=S time=T hex    the same, written in hexadecimal digits
//	envelope subject=S time=T       an edge's message of commands, each from a line of
//	    actor method command        its own, in JSON or in hexadecimal digits; lines
//	      continued                 that start with a space continue the one before
//	roots                           the size and root of each store's tree
func TestGolden(t *testing.T) {
	for version, path := range map[uint64]string{1: "testdata/golden-v1.txt"} {
		g := &golden{version: version, state: NewMemory(), hashes: map[ledger.ID]hashes{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out, err := g.run(t, d)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return out
		})
	}
}

type golden struct {
	version uint64
	state   *Memory
	hashes  map[ledger.ID]hashes
}

// hashes are the stored hashes of a tree, in tlog's order.
type hashes []ledger.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = tlog.Hash(h[x])
	}
	return out, nil
}

func (g *golden) run(t *testing.T, d *datadriven.TestData) (string, error) {
	var out strings.Builder
	if d.Cmd == "roots" {
		for _, id := range g.state.Stores() {
			root, err := seal.Root(ledger.Revision(len(g.state.Entries(id))), g.hashes[id])
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&out, "%s@%d %x\n", id, len(g.state.Entries(id)), root)
		}
		return out.String(), nil
	}
	var m ledger.Message
	var at string
	d.ScanArgs(t, "subject", &m.Subject)
	d.ScanArgs(t, "time", &at)
	when, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		return "", err
	}
	m.Time = when.UnixNano()
	switch d.Cmd {
	case "message":
		m.Data = []byte(d.Input)
		if d.HasArg("hex") {
			m.Data, err = digits(d.Input)
		}
	case "envelope":
		m.Data, err = envelope(d.Input)
	default:
		err = fmt.Errorf("unknown command %s", d.Cmd)
	}
	if err != nil {
		return "", err
	}
	enclosed, err := ledger.DecodeEnvelope(&m)
	var malformed *ledger.Rejection
	if err != nil {
		var kept ledger.Enclosed
		kept, malformed = ledger.NotEnvelope(&m, err)
		enclosed = []ledger.Enclosed{kept}
	}
	kind, _ := ledger.ParseSubject(m.Subject)
	for _, e := range enclosed {
		in := Input{Kind: kind, Origin: e.Origin, Raw: e.Raw, Time: m.Time, Version: g.version, Malformed: malformed}
		records, err := Decide(g.state, in)
		if err != nil {
			return "", err
		}
		for _, r := range records {
			if err := g.record(&out, in, r); err != nil {
				return "", err
			}
		}
	}
	return out.String(), nil
}

func (g *golden) record(out *strings.Builder, in Input, r Record) error {
	e := g.state.Apply(r, in)
	leaf := seal.LeafHash(ledger.AppendEntry(nil, &e))
	more, err := seal.Hashes(e.Revision, leaf, g.hashes[r.Store])
	if err != nil {
		return err
	}
	g.hashes[r.Store] = append(g.hashes[r.Store], more...)
	fmt.Fprintf(out, "%s@%d %s %s by %s (%s) %s", r.Store, e.Revision, moment(r.Time), r.Outcome.Kind, e.Origin.Actor, e.Origin.Method, e.Origin.Attester)
	switch r.Outcome.Kind {
	case ledger.Applied:
		fmt.Fprintf(out, ": %d effective\n", r.Outcome.Effective)
	case ledger.Rejected:
		fmt.Fprintf(out, ": %s\n  %s\n", r.Outcome.Rejection.Code, r.Outcome.Rejection)
	case ledger.Duplicate:
		fmt.Fprintf(out, " of %d\n", r.Outcome.First)
	}
	for _, f := range r.Effects {
		switch f.Kind {
		case SetTuple:
			if !f.Live {
				fmt.Fprintf(out, "  - %s\n", f.Tuple)
				break
			}
			fmt.Fprintf(out, "  + %s", f.Tuple)
			if f.Grant.Condition != "" {
				fmt.Fprintf(out, " condition=%s", f.Grant.Condition)
			}
			if f.Grant.Context != nil {
				fmt.Fprintf(out, " context=%x", f.Grant.Context)
			}
			if f.Grant.NotBefore != 0 {
				fmt.Fprintf(out, " not_before=%s", moment(f.Grant.NotBefore))
			}
			if f.Grant.ExpiresAt != 0 {
				fmt.Fprintf(out, " expires_at=%s", moment(f.Grant.ExpiresAt))
			}
			if f.Grant.Owner != "" {
				fmt.Fprintf(out, " owner=%q", f.Grant.Owner)
			}
			fmt.Fprintln(out)
		case SetModel:
			fmt.Fprintf(out, "  model %s: %d types, %d conditions\n", f.Source.ID, len(f.Model.Types), len(f.Model.Conditions))
		case SetStore:
			fmt.Fprintf(out, "  store %s %s %q %q\n", f.Store, f.Status, f.Name, f.Admin)
		case SetEpoch:
			fmt.Fprintf(out, "  epoch %d %v\n", f.Epoch.Number, f.Epoch.Cuts)
		}
	}
	fmt.Fprintf(out, "  leaf %x\n", leaf)
	return nil
}

// digits reads hexadecimal digits among spaces and line breaks.
func digits(text string) ([]byte, error) {
	return hex.DecodeString(strings.Join(strings.Fields(text), ""))
}

func envelope(input string) ([]byte, error) {
	var commands []ledger.Enclosed
	for _, line := range strings.Split(strings.ReplaceAll(input, "\n ", " "), "\n") {
		if line == "" {
			continue
		}
		actor, rest, _ := strings.Cut(line, " ")
		method, text, _ := strings.Cut(rest, " ")
		raw := []byte(strings.TrimSpace(text))
		if !strings.HasPrefix(string(raw), "{") {
			var err error
			if raw, err = digits(string(raw)); err != nil {
				return nil, err
			}
		}
		o := ledger.Origin{Actor: actor}
		for o.Method = ledger.MethodNone; o.Method.String() != method; o.Method++ {
			if !o.Method.Valid() {
				return nil, fmt.Errorf("unknown method %s", method)
			}
		}
		commands = append(commands, ledger.Enclosed{Origin: o, Raw: raw})
	}
	return ledger.AppendEnvelope(nil, commands), nil
}

// TestGoldenIsComplete: the golden log meets every rejection that TestRejected has, so
// that none can change unseen.
func TestGoldenIsComplete(t *testing.T) {
	text, err := os.ReadFile("testdata/golden-v1.txt")
	if err != nil {
		t.Fatal(err)
	}
	met := map[string]bool{}
	// A rejection is "…: code", and on the next line "field: message" or "message".
	for _, m := range regexp.MustCompile(`rejected by .*: (\w+)\n  (?:([\w.\[\]]+): )?(.*)`).FindAllStringSubmatch(string(text), -1) {
		met[m[1]+" "+indexes.ReplaceAllString(m[2], "[i]")] = true
	}
	for _, tt := range rejections {
		if key := tt.code.String() + " " + indexes.ReplaceAllString(tt.field, "[i]"); !met[key] {
			t.Errorf("%s: the golden log has no rejection %q", tt.name, key)
		}
	}
}

var indexes = regexp.MustCompile(`\[\d+\]`)
