package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/grantlog/grantlog/query/serve"
	"github.com/spf13/cobra"
)

func (a *app) auditShowCommand() *cobra.Command {
	var key string
	var from, to uint64
	c := &cobra.Command{
		Use:   "show BUNDLE",
		Short: "Print the entries of an exported bundle, without a server",
		Long: `Prints the entries of a bundle as "grantlog replay" prints those of a server: who asked
for what and why, and what was decided. With -o json, one entry a line, complete.

Before it prints anything, everything about the bundle is verified but the outcomes,
which "grantlog audit verify" decides again. Of a bundle that is not whole, the entries
of its checkpoint that it lacks are named on the standard error.

Exit status: 0 printed; 1 not verified; 2 it could not be read.`,
		Example: `  grantlog audit show acme.bundle
  grantlog audit show acme.bundle --key auditor.pub --from 4000 --to 4100 -o json`,
		Args: takes("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := audit.Options{Part: true}
			var err error
			if o.Key, err = readKeyFlag(key); err != nil {
				return err
			}
			if to > 0 && from > to {
				return fmt.Errorf("--from %d is after --to %d", from, to)
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			err = a.show(cmd.Context(), f, o, ledger.Revision(from), ledger.Revision(to))
			var fault *audit.BundleError
			if errors.As(err, &fault) {
				return a.notVerified(fault)
			}
			return err
		},
	}
	f := c.Flags()
	keyFlag(f, &key)
	f.Uint64Var(&from, "from", 0, "the first `revision` to print; that of the bundle if not given")
	f.Uint64Var(&to, "to", 0, "the last `revision` to print; that of the bundle if not given")
	return c
}

// show prints the entries of a bundle from one revision to another, 0 for its own ends.
func (a *app) show(ctx context.Context, f io.ReadSeeker, o audit.Options, from, to ledger.Revision) error {
	verified, err := audit.Verify(ctx, f, o)
	if err != nil {
		return err
	}
	h := verified.Header
	if from > h.Last || to > h.Last || to > 0 && to < h.First || from > 0 && from < h.First {
		return fmt.Errorf("the bundle has revisions %d to %d", h.First, h.Last)
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
	printer := a.entryPrinter()
	for leaf, err := range r.Entries() {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		switch rev := leaf.Entry.Revision; {
		case rev < from:
			continue
		case to > 0 && rev > to:
			return nil
		}
		if err := printer(serve.EntryMessage(leaf.Entry)); err != nil {
			return err
		}
	}
	return nil
}
