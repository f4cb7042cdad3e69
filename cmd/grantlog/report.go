package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// reportForms says, in help texts, what every report has in common.
const reportForms = `A report says the store, the revision, the moment, the model and the exact query it is
of, the root of the store's tree there, and the checkpoint it stands on if the server
signs. It ends with how many rows it has and their SHA-256, which this command computes
again from what it received: a report that is cut short or altered on the way is an error.
The hash shows that a report is whole as it was sent, not that nobody changed it since:
"grantlog audit recheck FILE" shows that.

--format is one of
  table   for reading (the default), with times to the second
  csv     one row a line; what is said about them stands on lines that begin with #
  jsonl   one object a line: a header, the rows by column, an end (also -o json)

The SHA-256 is that of the rows as CSV, whatever the format. Of a CSV file it is
  grep -v '^#' FILE | tail -n +2 | sha256sum
Cells are exact, also those that a spreadsheet takes for a formula: import them as text.

A report as of now is of everything that was in the log when it was asked for, and its
moment is just before the log's time then.

Exit status: 0 reported, 1 what the server sent does not verify, 2 an error.

` + momentForms

// A reporting is what the flags say about how a report is made.
type reporting struct {
	format, out, key string
	force            bool
}

func (r *reporting) flags(f *pflag.FlagSet) {
	f.StringVar(&r.format, "format", "", "write the report as `table`, csv or jsonl")
	f.StringVar(&r.out, "out", "", "write the report to this `file`, which gets its name once it is whole")
	f.BoolVar(&r.force, "force", false, "replace a file of that name")
	keyFlag(f, &r.key)
}

// reportMoment reads what a flag says about a moment, nil if it says nothing.
func reportMoment(flag, text string) (*pb.Freshness, error) {
	if text == "" {
		return nil, nil
	}
	f, err := readPast(text)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return f, nil
}

func (a *app) auditAccessCommand() *cobra.Command {
	var r reporting
	var subject, object, at, context string
	c := &cobra.Command{
		Use:   "access (--subject SUBJECT | --object OBJECT)",
		Short: "Report everything a subject reaches, or everyone who reaches an object",
		Long: `With --subject, reports every object on which SUBJECT holds a relation, by type and
relation; with --object, everyone who holds a relation on OBJECT, by relation. Each row
says by which tuples, with the commands that granted them, and since when and because
of which command it is so.

Usersets (group:eng#member) that hold a relation on OBJECT are rows too, but not its own
ones that a relation is computed from, which hold it by the rules alone.

Whoever a wildcard (user:*) speaks for is not listed by name, but for those it does not
speak for: they are rows as "excluded". What has no answer, for want of context for
instance, which --context gives, is a row as "undecided" that says why; nothing is left
out.

` + reportForms,
		Example: `  grantlog audit access --subject user:ann
  grantlog audit access --object doc:plan --at 2026-11-01 --format csv --out plan.csv`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := &pb.ReportRequest{}
			fresh, err := reportMoment("at", at)
			if err != nil {
				return err
			}
			given, err := readContext(context)
			if err != nil {
				return err
			}
			switch {
			case (subject == "") == (object == ""):
				return errors.New("give either --subject or --object")
			case subject != "":
				if _, err := tuple.ParseSubject(subject); err != nil {
					return fmt.Errorf("--subject: %w", err)
				}
				q.Report = &pb.ReportRequest_AccessOfSubject{AccessOfSubject: &pb.AccessOfSubject{Subject: subject, Freshness: fresh, Context: given}}
			default:
				if _, err := tuple.ParseObject(object); err != nil {
					return fmt.Errorf("--object: %w", err)
				}
				q.Report = &pb.ReportRequest_AccessToObject{AccessToObject: &pb.AccessToObject{Object: object, Freshness: fresh, Context: given}}
			}
			return a.report(cmd.Context(), &r, q)
		},
	}
	f := c.Flags()
	f.StringVar(&subject, "subject", "", "report what this `subject` reaches: user:ann, group:eng#member, user:*")
	f.StringVar(&object, "object", "", "report who reaches this `object`: doc:plan")
	f.StringVar(&at, "at", "", "as of this `moment` of the past; now if not given")
	contextFlag(f, &context)
	r.flags(f)
	return c
}

func (a *app) auditDiffCommand() *cobra.Command {
	var r reporting
	var from, to, context string
	var effective bool
	c := &cobra.Command{
		Use:   "diff --from MOMENT",
		Short: "Report what changed between two moments",
		Long: `Reports the tuples that were added, removed or changed between two moments; with
--effective, who gained and who lost access, also where the reason is a group, a parent
or a model several steps away. Each row says what made it so: a command with its actor
and ticket, or an expiry or a start that came, with the command that had granted it.

Effective access is that of users and of usersets (group:eng#member). A row about a
wildcard (user:*) speaks for every plain subject of the type but those whom another row about the same relation and object names, be it as "unchanged".
What has no answer at one of the moments is "undecided", never gained or lost. Rows come
by subject for those whose own grants changed, then by object for all others.

` + reportForms,
		Example: `  grantlog audit diff --from 2026-10-01 --to 2026-11-01
  grantlog audit diff --from 4711 --effective --format csv --out october.csv`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return errors.New("--from is missing: the moment to compare with")
			}
			d := &pb.Difference{Effective: effective}
			var err error
			if d.From, err = reportMoment("from", from); err != nil {
				return err
			}
			if d.To, err = reportMoment("to", to); err != nil {
				return err
			}
			if context != "" && !effective {
				return errors.New("--context goes with --effective: tuples are compared as they are granted, without conditions")
			}
			if d.Context, err = readContext(context); err != nil {
				return err
			}
			return a.report(cmd.Context(), &r, &pb.ReportRequest{Report: &pb.ReportRequest_Difference{Difference: d}})
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "the earlier `moment`")
	f.StringVar(&to, "to", "", "the later `moment`; now if not given")
	f.BoolVar(&effective, "effective", false, "compare what subjects hold, and not tuples")
	contextFlag(f, &context)
	r.flags(f)
	return c
}

func (a *app) auditChangesCommand() *cobra.Command {
	var r reporting
	var from, to string
	var filter entryFlags
	c := &cobra.Command{
		Use:   "changes",
		Short: "Report the changes that were asked for",
		Long: `Reports every change that was asked for, in order, with who asked, under which ticket,
and what became of it. Changes of rejected commands and of duplicates are among them, as
such. The flags that name something leave out what does not fit all of them, as those of
"grantlog replay" do. Deleted stores and the store "system" have reports of changes too.

` + reportForms,
		Example: `  grantlog audit changes --from 2026-10-01 --to 2026-11-01
  grantlog audit changes --without-ticket
  grantlog audit changes --outside-channel okta --outside-channel terraform --format csv`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes := &pb.RecordedChanges{}
			var err error
			if changes.Filter, err = filter.filter(); err != nil {
				return err
			}
			if changes.From, err = reportMoment("from", from); err != nil {
				return err
			}
			if changes.To, err = reportMoment("to", to); err != nil {
				return err
			}
			return a.report(cmd.Context(), &r, &pb.ReportRequest{Report: &pb.ReportRequest_RecordedChanges{RecordedChanges: changes}})
		},
	}
	flags := c.Flags()
	flags.StringVar(&from, "from", "", "only changes from this `moment` on, a revision included; from the first on if not given")
	flags.StringVar(&to, "to", "", "only changes up to this `moment`; to the newest if not given")
	filter.flags(flags)
	r.flags(flags)
	return c
}

// report asks for a report and writes it as the flags say.
func (a *app) report(ctx context.Context, r *reporting, q *pb.ReportRequest) error {
	switch {
	case r.format != "" && r.format != "table" && r.format != "csv" && r.format != "jsonl":
		return fmt.Errorf("--format must be table, csv or jsonl, not %q", r.format)
	case a.json() && r.format != "" && r.format != "jsonl":
		return fmt.Errorf("-o json is --format jsonl: it excludes --format %s", r.format)
	case a.json():
		r.format = "jsonl"
	}
	pinned, err := readKeyFlag(r.key)
	if err == nil && r.out != "" {
		err = mayWrite(r.out, r.force)
	}
	if err != nil {
		return err
	}
	var end *pb.ReportEnd
	write := func(to io.Writer, p *progress) error {
		return a.askStore(ctx, func(_ context.Context, c *client, store string) (err error) {
			q.Store = store
			end, err = c.report(ctx, q, pinned, newReportWriter(r.format, to), p)
			return err
		})
	}
	if r.out == "" {
		err = write(a.stdout, nil)
	} else {
		p := newProgress(a.stderr)
		err = writeFile(r.out, r.force, func(f *os.File) error { return write(f, p) })
		p.end()
	}
	switch {
	case err != nil:
		return a.verdict(err)
	case r.out != "" && !a.json():
		_, err = fmt.Fprintf(a.stdout, "wrote %s: %s\n", r.out, endText(end))
	case end.GetUndecided() > 0 && (r.format == "csv" || r.format == "jsonl"): // a table says it itself
		fmt.Fprintf(a.stderr, "grantlog: %s\n", endText(end)) // a note: it may fail
	}
	return err
}

// report receives a report, checks it, and hands it on. What it hands on is all of it, and
// as the server sent it, exactly if it returns nil. It takes as long as it does once its
// header is there.
func (c *client) report(ctx context.Context, q *pb.ReportRequest, pinned seal.Key, w reportWriter, p *progress) (*pb.ReportEnd, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	begun := func() {}
	if c.patience > 0 {
		late := time.AfterFunc(c.patience, func() { stop(context.DeadlineExceeded) })
		begun = func() { late.Stop() }
	}
	defer begun()
	failed := func(err error) error {
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			err = connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded)
		}
		return c.plain(err)
	}
	stream, err := c.audit.Report(ctx, q)
	if err != nil {
		return nil, failed(err)
	}
	defer stream.Close()
	var digest audit.Digest
	var header *pb.ReportHeader
	for stream.Receive() {
		switch part := stream.Msg().GetPart().(type) {
		case *pb.ReportResponse_Header:
			if header != nil {
				return nil, errors.New("the report has two headers")
			}
			begun()
			header = part.Header
			v, err := vouchFor(header, pinned)
			if err == nil {
				err = w.header(header, v.text())
			}
			if err != nil {
				return nil, err
			}
			p.say("0 rows …")
		case *pb.ReportResponse_Rows:
			if header == nil {
				return nil, errors.New("the report has rows before its header")
			}
			for _, row := range part.Rows.GetRows() {
				if n := len(row.GetCells()); n != len(header.GetColumns()) {
					return nil, fmt.Errorf("row %d of the report has %d cells under %d columns", digest.Rows+1, n, len(header.GetColumns()))
				}
				if err := w.row(row.GetCells(), digest.Add(row.GetCells())); err != nil {
					return nil, err
				}
			}
			if err := w.pause(); err != nil {
				return nil, err
			}
			p.say("%d rows …", digest.Rows)
		case *pb.ReportResponse_End:
			sum := digest.Sum()
			if header == nil || part.End.GetRows() != digest.Rows || string(part.End.GetSha256()) != string(sum[:]) {
				return nil, fmt.Errorf("%w: the report is not what the server made: %d rows with SHA-256 %x came, of %d with SHA-256 %x", seal.ErrUnverified, digest.Rows, sum, part.End.GetRows(), part.End.GetSha256())
			}
			return part.End, w.end(part.End)
		}
	}
	if err := stream.Err(); err != nil && header == nil {
		return nil, failed(err)
	} else if err != nil {
		return nil, fmt.Errorf("%w; the report is not complete", failed(err))
	}
	return nil, errors.New("the report ended before it was complete")
}

// vouchFor verifies what a report stands on: the signature of the checkpoint, and that its
// tree begins with the one reported of.
func vouchFor(h *pb.ReportHeader, pinned seal.Key) (*vouch, error) {
	if h.GetCheckpoint() == "" {
		if !pinned.IsZero() {
			return nil, fmt.Errorf("--key has nothing to verify: %w", errSignsNothing)
		}
		return &vouch{}, nil
	}
	v, err := openVouch(h.GetStore(), h.GetCheckpoint(), h.GetKey(), pinned)
	if err != nil {
		return nil, fmt.Errorf("the report's checkpoint: %w", err)
	}
	root, err := readHash("root", h.GetRoot())
	if err != nil {
		return nil, err
	}
	proof, err := readProof(h.GetConsistencyProof())
	if err != nil {
		return nil, err
	}
	if err := seal.CheckConsistency(ledger.Revision(h.GetRevision()), root, v.checkpoint.Size, v.checkpoint.Root, proof); err != nil {
		return nil, fmt.Errorf("the report's checkpoint: %w", err)
	}
	return v, nil
}

// text is what a report says about the checkpoint that it stands on.
func (v *vouch) text() string {
	if v.note == "" {
		return "none; vouched for by " + v.by()
	}
	return fmt.Sprintf("of revision %d, verified; vouched for by %s", v.checkpoint.Size, v.by())
}
