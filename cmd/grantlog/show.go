package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/grantlog/grantlog/query/serve"
	"github.com/spf13/cobra"
)

func (a *app) auditShowCommand() *cobra.Command {
	var from, to, key string
	c := &cobra.Command{
		Use:   "show BUNDLE",
		Short: "Print the entries of an exported bundle, without a server",
		Long: `Prints the entries of a bundle as "grantlog replay" prints those of a server: who asked
for what and why, and what was decided. With -o json, one entry a line, complete.

Before it prints anything, everything about the bundle is verified but the outcomes,
which "grantlog audit verify" decides again. Of a bundle that is not whole, the entries
of its checkpoint that it lacks are named on the standard error.

--from and --to take a revision, a time, or a date (its beginning in UTC).

Exit status: 0 printed; 1 not verified; 2 it could not be read.`,
		Example: `  grantlog audit show acme.bundle
  grantlog audit show acme.bundle --key auditor.pub --from 4000 --to 4100 -o json
  grantlog audit show acme.bundle --from 2026-07-01 --to 2026-10-01`,
		Args: takes("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := audit.Options{Part: true}
			var err error
			if o.Key, err = readKeyFlag(key); err != nil {
				return err
			}
			var span entrySpan
			if err := span.read(from, to); err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			err = a.show(cmd.Context(), f, o, span)
			var fault *audit.BundleError
			if errors.As(err, &fault) {
				return a.notVerified(fault)
			}
			return err
		},
	}
	f := c.Flags()
	keyFlag(f, &key)
	f.StringVar(&from, "from", "", "begin at this `moment`: a revision, a time or a date; with the bundle if not given")
	f.StringVar(&to, "to", "", "end after this `moment`: a revision, a time or a date; with the bundle if not given")
	return c
}

// An entrySpan says which entries of a bundle to print: between two revisions, or two
// times, both included. 0 is no bound.
type entrySpan struct {
	from, to         ledger.Revision
	fromTime, toTime int64 // nanoseconds since the Unix epoch
	texts            [2]string
}

// read reads the bounds as the flags --from and --to give them.
func (s *entrySpan) read(from, to string) error {
	s.texts = [2]string{from, to}
	for _, b := range []struct {
		flag, text string
		rev        *ledger.Revision
		at         *int64
	}{{"--from", from, &s.from, &s.fromTime}, {"--to", to, &s.to, &s.toTime}} {
		if b.text == "" {
			continue
		}
		rev, at, err := readBound(b.flag, b.text)
		if err != nil {
			return err
		}
		if *b.rev = ledger.Revision(rev); at == nil {
			continue
		}
		if *b.at = at.AsTime().UnixNano(); *b.at <= 0 || !time.Unix(0, *b.at).Equal(at.AsTime()) {
			return fmt.Errorf("%s: a time must be after 1970 and before 2262", b.flag)
		}
	}
	if s.to > 0 && s.from > s.to || s.toTime > 0 && s.fromTime > s.toTime {
		return fmt.Errorf("--from %s is after --to %s", from, to)
	}
	return nil
}

// within returns nil if the bundle has what is asked for.
func (s *entrySpan) within(r *audit.Result) error {
	switch {
	case s.from > r.Last, s.to > r.Last, s.to > 0 && s.to < r.First, s.from > 0 && s.from < r.First:
		return fmt.Errorf("the bundle has revisions %d to %d", r.First, r.Last)
	case s.fromTime > r.To, s.toTime > 0 && s.toTime < r.From:
		return fmt.Errorf("the entries of the bundle are of %s to %s", moment(r.From), moment(r.To))
	}
	return nil
}

// show prints the entries of a bundle within a span.
func (a *app) show(ctx context.Context, f io.ReadSeeker, o audit.Options, span entrySpan) error {
	verified, err := audit.Verify(ctx, f, o)
	if err != nil {
		return err
	}
	if err := span.within(&verified); err != nil {
		return err
	}
	for _, entries := range verified.Missing() {
		fmt.Fprintf(a.stderr, "grantlog: %s of the checkpoint: not in the bundle\n", entries)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r, err := audit.NewReader(f)
	if err != nil {
		return err
	}
	printer, printed := a.entryPrinter(), false
	for leaf, err := range r.Entries() {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		switch e := leaf.Entry; {
		case e.Revision < span.from, e.Time < span.fromTime:
			continue
		case span.to > 0 && e.Revision > span.to, span.toTime > 0 && e.Time > span.toTime:
			return span.empty(printed)
		}
		printed = true
		if err := printer(serve.EntryMessage(leaf.Entry)); err != nil {
			return err
		}
	}
	return span.empty(printed)
}

// empty is the error of a span in which no entry was.
func (s *entrySpan) empty(printed bool) error {
	if printed {
		return nil
	}
	return fmt.Errorf("no entry of the bundle is between --from %s and --to %s", s.texts[0], s.texts[1])
}
