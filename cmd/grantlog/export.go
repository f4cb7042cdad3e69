package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grantlog/grantlog/ledger/seal"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/spf13/cobra"
)

func (a *app) auditExportCommand() *cobra.Command {
	q := &pb.ExportRequest{}
	var from, to, key string
	var force bool
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "Write a store's entries to a file that verifies without a server",
		Long: `Writes a bundle: the entries of a store, complete, with a signed checkpoint, the public
key, and the proof that ties them together. "grantlog audit verify" needs nothing else.
The store "system" and deleted stores can be exported too. The server needs a signing
key.

The bundle of a whole store, or of its beginning up to --to, can be folded again, so
that every outcome is verified too. One with --from cannot: its entries are verified
to be those that were signed. With --from or --to it is the bundle of a part, and "audit
verify" takes it with --part alone, so that nobody can pass off a part as the whole.
Both take a revision, a time, or a date (its beginning in UTC).

The file gets its name when it is whole, checked and on disk; if anything fails, the
disk is full, or on Ctrl-C, there is no file. It says who may do what and who decided
it, so only you can read it. It is not compressed, and compresses well.

Exit status: 0 exported, 1 what the server sent does not verify, 2 an error.`,
		Example: `  grantlog audit export --store acme acme.bundle
  grantlog audit export --store acme --from 2026-07-01 --to 2026-10-01 acme-q3.bundle
  grantlog audit export --store acme --key auditor.pub acme.bundle --force`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				return errors.New("a bundle is written to a file, so that half of one never stands under its name; name a file")
			}
			var err error
			if from != "" {
				if q.From, q.FromTime, err = readBound("--from", from); err != nil {
					return err
				}
			}
			if to != "" {
				if q.To, q.ToTime, err = readBound("--to", to); err != nil {
					return err
				}
			}
			return a.export(cmd.Context(), q, args[0], key, force)
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "begin at this `moment`: a revision, a time or a date; at revision 1 if not given")
	f.StringVar(&to, "to", "", "end after this `moment`: a revision, a time or a date; at the newest entry if not given")
	keyFlag(f, &key)
	f.BoolVar(&force, "force", false, "replace a file of that name")
	return c
}

// An ExportReport is what export prints with -o json.
type ExportReport struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	BundleReport
}

func (a *app) export(ctx context.Context, q *pb.ExportRequest, file, key string, force bool) error {
	// A whole store is what is not asked for in part.
	o := audit.Options{Part: q.From > 1 || q.FromTime != nil || q.To > 0 || q.ToTime != nil}
	var err error
	if o.Key, err = readKeyFlag(key); err != nil {
		return err
	}
	if err := mayWrite(file, force); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	patient, cancel := a.patience(ctx)
	defer cancel()
	if q.Store, err = a.storeID(patient, c); err != nil {
		return err
	}
	report := ExportReport{File: file}
	p := newProgress(a.stderr)
	defer p.end()
	err = writeFile(file, force, func(f *os.File) error {
		if report.Bytes, err = c.export(ctx, q, f, p); err != nil {
			return err
		}
		// What arrived is read again, so that a bundle which has its name also verifies.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		r, err := audit.Verify(ctx, f, o)
		report.BundleReport = bundleReport(&r)
		return err
	})
	var fault *audit.BundleError
	switch {
	case errors.As(err, &fault):
		p.end()
		return a.verdict(fmt.Errorf("%w: %w; what the server sent is not kept", seal.ErrUnverified, fault))
	case err != nil:
		return err
	}
	p.end()
	if a.json() {
		return a.value(&report)
	}
	r := &report.BundleReport
	next := "grantlog audit verify " + file
	if !r.Whole {
		next += " --part"
	}
	return a.facts("exported to "+file,
		"store", r.Store, "entries", r.entries(), "time", r.From+" to "+r.To, "checkpoint", r.checkpoint(), "root", r.Root,
		"key", r.key(), "bytes", fmt.Sprint(report.Bytes), "next", next)
}

// export writes a bundle as it arrives, and returns how many bytes it has.
func (c *client) export(ctx context.Context, q *pb.ExportRequest, f *os.File, p *progress) (int64, error) {
	stream, err := c.audit.Export(ctx, q)
	if err != nil {
		return 0, c.plain(err)
	}
	defer stream.Close()
	w := bufio.NewWriterSize(f, audit.MaxChunk)
	written := int64(0)
	for stream.Receive() {
		m := stream.Msg()
		n, err := w.Write(m.GetChunk())
		if written += int64(n); err != nil {
			return written, err
		}
		p.say("%d of %d entries …", m.GetDone(), m.GetTotal())
	}
	if err := stream.Err(); err != nil {
		return written, c.plain(err)
	}
	return written, w.Flush()
}

// readPublicKey reads a public key: its text, or a file that holds it.
func readPublicKey(text string) (seal.Key, error) {
	key, err := seal.ParseKey(text)
	if err == nil {
		return key, nil
	}
	if _, statErr := os.Stat(text); statErr != nil {
		return seal.Key{}, fmt.Errorf("%w; nor is there such a file", err)
	}
	return audit.ReadPublicKey(text)
}
