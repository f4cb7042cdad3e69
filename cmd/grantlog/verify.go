package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/spf13/cobra"
)

// scratchCache is the bytes of memory for blocks of the scratch index.
const scratchCache = 64 << 20

func (a *app) auditVerifyCommand() *cobra.Command {
	var v verifying
	c := &cobra.Command{
		Use:   "verify BUNDLE",
		Short: "Verify an exported bundle, without a server",
		Long: `Verifies a bundle that "grantlog audit export" wrote; - is the standard input. It needs
no server, no network and no data directory, and derives everything again:

  - every byte of the bundle is in the one form that it can have;
  - every entry is in its place, and holds the hash of the one before it;
  - the root of the tree is that of the checkpoint, and the checkpoint is signed;
  - with --since, the entries go on from those of an older checkpoint that you kept;
  - every outcome is what the rules decide: the entries are folded again, from nothing,
    in a scratch index, which also gives the final tuples. Only a bundle that begins at
    revision 1 has what that needs.

A bundle that lacks entries of its checkpoint, at its beginning or its end, is not
verified, because anyone can cut it there without the key. If a part of the store is
what you want, such as a range that was exported with --from or --to, say so with --part:
then the entries that are there are verified, and those that are not are named.

Give the key that you know with --key. A bundle names its key itself, and whoever makes
one can sign it with a key of their own.

If something is wrong, it says what, and at which entry.

Exit status: 0 verified; 1 not verified; 2 it could not be read.`,
		Example: `  grantlog audit verify acme.bundle --key auditor.pub
  grantlog audit verify acme.bundle --key auditor.pub --since last-year.checkpoint
  grantlog audit verify acme-q3.bundle --part --key auditor.pub
  grantlog audit verify acme.bundle --tuples final.jsonl && sha256sum final.jsonl
  zstd -dc acme.bundle.zst | grantlog audit verify -`,
		Args: takes("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v.bundle = args[0]
			return a.verify(cmd.Context(), &v)
		},
	}
	f := c.Flags()
	keyFlag(f, &v.key)
	f.StringVar(&v.since, "since", "", "`file` of an older checkpoint of the store, signed by the same key")
	f.BoolVar(&v.part, "part", false, "the bundle may lack entries of its checkpoint")
	f.StringVar(&v.tuples, "tuples", "", "write the final tuples to this `file`, one JSON object a line")
	f.BoolVar(&v.force, "force", false, "with --tuples: replace a file of that name")
	f.StringVar(&v.scratch, "scratch", "", "the `directory` in which the scratch index is made, and removed again; it takes some six times the size of the bundle [TMPDIR]")
	return c
}

// verifying is what verify was asked.
type verifying struct {
	bundle, key, since, tuples, scratch string
	part, force                         bool
}

func (a *app) verify(ctx context.Context, v *verifying) error {
	o := audit.Options{Part: v.part}
	var err error
	if o.Key, err = readKeyFlag(v.key); err != nil {
		return err
	}
	if v.since != "" {
		if o.Since, err = os.ReadFile(v.since); err != nil {
			return fmt.Errorf("--since: %w", err)
		}
	}
	var src io.Reader
	if v.bundle == "-" {
		src = interruptible(ctx, a.stdin)
	} else {
		f, err := os.Open(v.bundle)
		if err != nil {
			return err
		}
		defer f.Close()
		src = f
	}
	began := time.Now()
	var r audit.Result
	if v.tuples == "" {
		r, err = a.verifyIn(ctx, v.scratch, src, o)
	} else {
		err = writeFile(v.tuples, v.force, func(f *os.File) error {
			w := bufio.NewWriter(f)
			o.Tuple = func(t audit.FinalTuple) error {
				line, err := t.Line()
				if err == nil {
					_, err = w.Write(line)
				}
				return err
			}
			if r, err = a.verifyIn(ctx, v.scratch, src, o); err != nil {
				return err
			}
			if !r.Folded {
				return errNoTuples
			}
			return w.Flush()
		})
	}
	var fault *audit.BundleError
	switch {
	case errors.As(err, &fault):
		return a.notVerified(fault)
	case err != nil:
		return err
	}
	report := verifyReport(&r)
	report.Seconds = time.Since(began).Seconds()
	report.EntriesPerSecond = uint64(float64(report.Entries) / report.Seconds)
	if a.json() {
		return a.value(&report)
	}
	return a.verified(&report)
}

// notVerified answers that a bundle does not verify, in JSON too.
func (a *app) notVerified(fault *audit.BundleError) error {
	if errors.Is(fault, audit.ErrPart) {
		fault = &audit.BundleError{Revision: fault.Revision, Err: fmt.Errorf("%w; if a part is what you want, say so with --part", fault.Err)}
	}
	if a.json() {
		if err := a.value(VerifyFault{Entry: uint64(fault.Revision), Fault: fault.Err.Error()}); err != nil {
			return err
		}
	}
	return &no{"not verified: " + fault.Error()}
}

// interruptible reads from src until ctx ends, even if src is waited for just then.
func interruptible(ctx context.Context, src io.Reader) io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { r.CloseWithError(ctx.Err()) })
	go func() { // ends with src or with r; if src gives nothing more, with the process
		_, err := io.Copy(w, src)
		w.CloseWithError(err)
	}()
	return r
}

// verifyIn verifies with a scratch index below a directory, "" for the usual one of
// temporary files, and leaves nothing there.
func (a *app) verifyIn(ctx context.Context, below string, src io.Reader, o audit.Options) (_ audit.Result, err error) {
	dir, err := os.MkdirTemp(below, "grantlog-verify-")
	if err != nil {
		return audit.Result{}, fmt.Errorf("a directory for the scratch index: %w; name one with --scratch", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p := newProgress(a.stderr)
	defer p.end()
	o.Progress = func(done, total uint64) error {
		p.say("%d of %d entries …", done, total)
		return nil
	}
	o.Scratch = &index.Options{Dir: dir, CacheBytes: scratchCache, Logger: a.quiet(), OnFatal: func(message string) {
		// The process ends after this, and not with the status of an answer.
		p.end()
		os.RemoveAll(dir)
		fmt.Fprintf(a.stderr, "grantlog: the scratch index in %s cannot be written: %s; name another directory with --scratch\n", dir, message)
		os.Exit(statusError)
	}}
	r, err := audit.Verify(ctx, src, o)
	if errors.Is(err, audit.ErrScratch) {
		err = fmt.Errorf("%w; make room, or name another directory with --scratch", err)
	}
	return r, err
}

var errNoTuples = errors.New("the bundle does not begin at revision 1, so its entries cannot be folded to final tuples: leave out --tuples, or export from revision 1")

// A BundleReport says what a bundle is, as export and verify print it.
type BundleReport struct {
	Store     string            `json:"store"`
	First     uint64            `json:"first"` // revision
	Last      uint64            `json:"last"`
	Entries   uint64            `json:"entries"`
	Outcomes  map[string]uint64 `json:"outcomes"`
	From      string            `json:"from"` // log time of the first entry
	To        string            `json:"to"`   // of the last
	Origin    string            `json:"origin"`
	Size      uint64            `json:"checkpoint_size"` // entries of the checkpoint's tree
	Root      string            `json:"root"`            // of that tree, in base 64 as in the checkpoint
	Key       string            `json:"key"`
	Whole     bool              `json:"whole"`      // it has all entries of the checkpoint's tree
	KeyPinned bool              `json:"key_pinned"` // otherwise the key is what the bundle says
}

func bundleReport(r *audit.Result) BundleReport {
	b := BundleReport{
		Store: r.Store.String(), First: uint64(r.First), Last: uint64(r.Last), Entries: uint64(r.Last-r.First) + 1, Outcomes: map[string]uint64{},
		From: moment(r.From), To: moment(r.To), Origin: r.Checkpoint.Origin, Size: uint64(r.Checkpoint.Size), Root: base64Of(r.Checkpoint.Root),
		Whole: len(r.Missing()) == 0, Key: r.Key.String(), KeyPinned: r.Pinned,
	}
	for _, kind := range []ledger.OutcomeKind{ledger.Applied, ledger.Rejected, ledger.Duplicate} {
		b.Outcomes[kind.String()] = r.Outcomes[kind]
	}
	return b
}

// entries says how many entries there are, of which revisions, and what became of them.
func (b *BundleReport) entries() string {
	return fmt.Sprintf("%d (%d to %d): %d applied, %d rejected, %d duplicate", b.Entries, b.First, b.Last,
		b.Outcomes[ledger.Applied.String()], b.Outcomes[ledger.Rejected.String()], b.Outcomes[ledger.Duplicate.String()])
}

func (b *BundleReport) checkpoint() string { return fmt.Sprintf("of %d entries, %s", b.Size, b.Origin) }

func (b *BundleReport) key() string {
	if b.KeyPinned {
		return b.Key + ", the one given"
	}
	return b.Key + ", NOT COMPARED: give the one you know with --key"
}

// A VerifyReport is what verify prints with -o json of a bundle that verifies.
type VerifyReport struct {
	Verified bool `json:"verified"` // true
	BundleReport
	Since            uint64   `json:"since_size,omitempty"` // entries of the older checkpoint
	Folded           bool     `json:"folded"`               // the outcomes are verified, and the final tuples known
	Tuples           uint64   `json:"tuples"`               // live at the end, if folded
	TuplesSHA256     string   `json:"tuples_sha256,omitempty"`
	Checks           []string `json:"checks"`    // what was verified
	Unchecked        []string `json:"unchecked"` // what was not, and why
	Seconds          float64  `json:"seconds"`
	EntriesPerSecond uint64   `json:"entries_per_second"`
}

// A VerifyFault is what verify prints with -o json of a bundle that does not.
type VerifyFault struct {
	Verified bool   `json:"verified"`        // false
	Entry    uint64 `json:"entry,omitempty"` // revision of the entry that is wrong; none if it is not an entry
	Fault    string `json:"problem"`
}

func verifyReport(r *audit.Result) VerifyReport {
	v := VerifyReport{Verified: true, BundleReport: bundleReport(r), Folded: r.Folded, Tuples: r.Tuples, Unchecked: []string{}}
	check := func(format string, args ...any) { v.Checks = append(v.Checks, fmt.Sprintf(format, args...)) }
	skip := func(format string, args ...any) { v.Unchecked = append(v.Unchecked, fmt.Sprintf(format, args...)) }
	check("every byte of the bundle, and the hash that ties each entry to the one before it")
	for _, entries := range r.Missing() {
		skip("%s of the checkpoint: not in the bundle", entries)
	}
	if len(r.Missing()) == 0 {
		check("the root of the checkpoint, computed from all %d entries", r.Last)
	} else {
		check("that the tree of the checkpoint has entry %d, and thereby those before it", r.Last)
	}
	if r.Pinned {
		check("the signature of the checkpoint, by the key that was given")
	} else {
		check("the signature of the checkpoint, by the key that the bundle names")
		skip("whose key that is: give the one you know with --key")
	}
	if r.Since != nil {
		v.Since = uint64(r.Since.Size)
		check("that the first %d entries are those of the older checkpoint", r.Since.Size)
	}
	if r.Folded {
		v.TuplesSHA256 = fmt.Sprintf("%x", r.TuplesHash)
		check("every outcome, decided again from nothing")
	} else {
		skip("the outcomes: what they were decided from was before revision %d, and is not in the bundle", r.First)
	}
	return v
}

// verified prints the report of a bundle that verifies.
func (a *app) verified(v *VerifyReport) error {
	tuples, since := "", ""
	took := fmt.Sprintf("%.3g s", v.Seconds)
	if v.Seconds >= 1 { // otherwise the most of it is not for the entries
		took += fmt.Sprintf(", %d entries a second", v.EntriesPerSecond)
	}
	if v.Folded {
		tuples = fmt.Sprintf("%d, SHA-256 %s", v.Tuples, v.TuplesSHA256)
	}
	if v.Since > 0 {
		since = fmt.Sprintf("of %d entries", v.Since)
	}
	err := a.facts("verified",
		"store", v.Store, "entries", v.entries(), "time", v.From+" to "+v.To, "checkpoint", v.checkpoint(), "older checkpoint", since,
		"root", v.Root, "key", v.key(), "final tuples", tuples, "took", took)
	if err != nil {
		return err
	}
	for _, list := range []struct {
		title string
		items []string
	}{{"these were verified", v.Checks}, {"these were NOT verified", v.Unchecked}} {
		if len(list.items) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(a.stdout, "%s\n  %s\n", list.title, strings.Join(list.items, "\n  ")); err != nil {
			return err
		}
	}
	return nil
}

// moment is a time of a bundle, exactly.
func moment(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano) }
