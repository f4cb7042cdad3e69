package decide

import (
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
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
//	restore subject=S time=T of=X   a message that restores entries of the store X, which
//	    its entries                 the golden log of version 1 recorded; see restore
//	roots                           the size and root of each store's tree
//
// Each log starts under fold version 1, as a log without an activation does.
func TestGolden(t *testing.T) {
	for _, version := range []uint64{1, 2} {
		g := &golden{state: NewMemory(), hashes: map[ledger.ID]hashes{}}
		datadriven.RunTest(t, goldenPath(version), func(t *testing.T, d *datadriven.TestData) string {
			out, err := g.run(t, d)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return out
		})
		if g.state.Version() != version {
			t.Errorf("%s ends under fold version %d", goldenPath(version), g.state.Version())
		}
		if version == 2 { // which restores two stores of the other log
			for _, id := range version1(t).Stores() {
				want := version1(t).Entries(id)
				if got := g.state.Entries(id); id != ledger.System && id[15] != 2 && (len(got) < len(want) || !reflect.DeepEqual(got[:len(want)], want)) {
					t.Errorf("store %s was restored otherwise than it was", id)
				}
			}
		}
	}
}

func goldenPath(version uint64) string { return fmt.Sprintf("testdata/golden-v%d.txt", version) }

type golden struct {
	state  *Memory
	hashes map[ledger.ID]hashes
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
	case "restore":
		m.Data, err = restore(t, d)
	default:
		err = fmt.Errorf("unknown command %s", d.Cmd)
	}
	if err != nil {
		return "", err
	}
	enclosed, restored, err := ledger.DecodeEnvelope(&m, g.state.Version())
	if restored != nil {
		taken, err := g.state.Restore(restored)
		if err != nil {
			return "", err
		}
		for i := range taken {
			e := &taken[i]
			leaf, err := g.leaf(e)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&out, "%s@%d %s %s by %s under version %d\n  leaf %x\n", e.Store, e.Revision, moment(e.Time), e.Outcome.Kind, e.Origin.Actor, e.FoldVersion, leaf)
		}
		fmt.Fprintf(&out, "taken: %d of %d\n", len(taken), len(restored.Entries))
		return out.String(), nil
	}
	var malformed *ledger.Rejection
	if err != nil {
		var kept ledger.Enclosed
		kept, malformed = ledger.NotEnvelope(&m, err)
		enclosed = []ledger.Enclosed{kept}
	}
	kind, _ := ledger.ParseSubject(m.Subject)
	for _, e := range enclosed {
		in := Input{Kind: kind, Origin: e.Origin, Raw: e.Raw, Time: m.Time, Version: g.state.Version(), Malformed: malformed}
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

// leaf adds the entry to its store's tree.
func (g *golden) leaf(e *ledger.Entry) (ledger.Hash, error) {
	leaf := seal.LeafHash(ledger.AppendEntry(nil, e))
	more, err := seal.Hashes(e.Revision, leaf, g.hashes[e.Store])
	g.hashes[e.Store] = append(g.hashes[e.Store], more...)
	return leaf, err
}

func (g *golden) record(out *strings.Builder, in Input, r Record) error {
	e := g.state.Apply(r, in)
	leaf, err := g.leaf(&e)
	if err != nil {
		return err
	}
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
		case SetAssertions:
			fmt.Fprintf(out, "  assertions of %s: %.8x (%d bytes)\n", f.Source.ID, f.Assertions, len(f.Assertions))
		case SetVersion:
			fmt.Fprintf(out, "  fold version %d\n", f.Version)
		}
	}
	fmt.Fprintf(out, "  leaf %x\n", leaf)
	return nil
}

// digits reads hexadecimal digits among spaces and line breaks; "61*3" is 616161.
func digits(text string) ([]byte, error) {
	words := strings.Fields(text)
	for i, word := range words {
		if part, times, ok := strings.Cut(word, "*"); ok {
			n, err := strconv.Atoi(times)
			if err != nil {
				return nil, err
			}
			words[i] = strings.Repeat(part, n)
		}
	}
	return hex.DecodeString(strings.Join(words, ""))
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

// TestGoldenIsComplete: the golden logs meet every rejection that TestRejected has, so
// that none can change unseen.
func TestGoldenIsComplete(t *testing.T) {
	for _, version := range []uint64{1, 2} {
		text, err := os.ReadFile(goldenPath(version))
		if err != nil {
			t.Fatal(err)
		}
		met := map[string][]string{}
		// A rejection is "…: code", and on the next line "field: message" or "message".
		for _, m := range regexp.MustCompile(`rejected by .*: (\w+)\n  (?:([\w.\[\]]+): )?(.*)`).FindAllStringSubmatch(string(text), -1) {
			key := m[1] + " " + indexes.ReplaceAllString(m[2], "[i]")
			met[key] = append(met[key], m[3])
		}
		for _, tt := range rejections {
			if key := tt.code.String() + " " + indexes.ReplaceAllString(tt.field, "[i]"); len(met[key]) == 0 {
				t.Errorf("%s: the golden log of version %d has no rejection %q", tt.name, version, key)
			}
		}
		if version < 2 {
			continue
		}
		for _, tt := range rejections2 {
			key := tt.code.String() + " " + indexes.ReplaceAllString(tt.field, "[i]")
			if !slices.ContainsFunc(met[key], func(text string) bool { return strings.Contains(text, tt.message) }) {
				t.Errorf("%s: the golden log of version 2 has no rejection %q with %q", tt.name, key, tt.message)
			}
		}
	}
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// restore returns a message that restores entries which the golden log of version 1
// recorded of a store, one a line or some in a row:
//
//	3          entry 3
//	3-7        entries 3 to 7
//	3 flip 9   entry 3 with the lowest bit of its byte 9 turned round
//	3 under 9  entry 3 as if it had been decided under fold version 9
//	hex 0a     these bytes
func restore(t *testing.T, d *datadriven.TestData) ([]byte, error) {
	var from, to string
	d.ScanArgs(t, "of", &from)
	to = from
	d.MaybeScanArgs(t, "into", &to)
	source, err := ledger.ParseID(from)
	if err != nil {
		return nil, err
	}
	var r ledger.Restored
	if r.Store, err = ledger.ParseID(to); err != nil {
		return nil, err
	}
	entries := version1(t).Entries(source)
	for _, line := range strings.Split(d.Input, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if words[0] == "hex" {
			b, err := digits(strings.Join(words[1:], ""))
			if err != nil {
				return nil, err
			}
			r.Entries = append(r.Entries, b)
			continue
		}
		var first, last, number int
		if n, _ := fmt.Sscanf(words[0], "%d-%d", &first, &last); n == 1 {
			last = first
		}
		for i := first; i <= last; i++ {
			e := entries[i-1]
			var flipped int
			if len(words) == 3 {
				if number, err = strconv.Atoi(words[2]); err != nil {
					return nil, err
				}
				switch words[1] {
				case "flip":
					flipped = number
				case "under":
					e.FoldVersion = uint64(number)
				default:
					return nil, fmt.Errorf("unknown: %s", line)
				}
			}
			b := ledger.AppendEntry(nil, &e)
			if flipped > 0 {
				b[flipped] ^= 1
			}
			r.Entries = append(r.Entries, b)
		}
	}
	return ledger.AppendRestore(nil, r), nil
}

// version1 returns what the golden log of version 1 leads to.
func version1(t *testing.T) *Memory {
	if version1State == nil {
		g := &golden{state: NewMemory(), hashes: map[ledger.ID]hashes{}}
		datadriven.RunTest(t, goldenPath(1), func(t *testing.T, d *datadriven.TestData) string {
			out, err := g.run(t, d)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return out
		})
		version1State = g.state
	}
	return version1State
}

var version1State *Memory // once it was needed
