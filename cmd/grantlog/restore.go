package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/spf13/cobra"
)

func (a *app) storeRestoreCommand() *cobra.Command {
	var activate, part bool
	var key string
	var why why
	c := &cobra.Command{
		Use:   "restore BUNDLE",
		Short: "Bring a store from a bundle into this log",
		Long: `Brings the store of a bundle, which "grantlog audit export" wrote, into the log of the
server: entry by entry as it was recorded, with the same revisions, times, actors and
outcomes, and the same root. So whatever could be asked of it before can be asked here,
at any moment of its past, and a command that is sent again is known as a duplicate.

The server verifies the whole bundle before it writes anything, and folds it again. Name
the key that you know it must be signed by with --key; else the bundle's own is taken,
which shows that nothing in it was changed since it was signed, and not who signed it.

The log must not have, nor have had, a store of this ID. While it is restored the store
answers nothing. If that is interrupted, run it again: it goes on. "grantlog store
delete" gives it up, for ever. Stop writing to the store where it came from before its
bundle is made: two logs that both go on with one store are two histories of one name.

A bundle that ends before its checkpoint, as with "audit export --to", is taken with
--part alone: the store then is what it was at that revision. One that does not begin at
revision 1 cannot be restored.

Restoring needs fold version 2, which new logs begin at. If a log of an older release is
at version 1, --activate allows to change that, which is recorded in the store "system".
Servers of releases that do not know version 2 stop answering from then on, until they
are replaced. It cannot be taken back.

Exit status: 0 restored; 1 the bundle does not verify, or cannot be restored; 2 an error.`,
		Example: `  grantlog store restore acme.bundle --key audit.pub --reason "moved to the new cluster" --ticket OPS-31`,
		Args:    takes("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &pb.RestoreStoreRequest{Actor: why.actor, Reason: why.reason, Ticket: why.ticket, Channel: channel, Activate: activate, Part: part}
			if key != "" {
				k, err := readPublicKey(key)
				if err != nil {
					return fmt.Errorf("--key: %w", err)
				}
				req.Key = k.String()
			}
			return a.restore(cmd.Context(), args[0], req)
		},
	}
	f := c.Flags()
	f.BoolVar(&activate, "activate", false, "activate fold version 2 if it is not in force")
	f.BoolVar(&part, "part", false, "the bundle may end before its checkpoint; the entries after it are left out")
	f.StringVar(&key, "key", "", "the public key that must have signed, its `text or file`")
	why.who(f)
	return c
}

// restoreChunk is how many bytes of a bundle are sent at once.
const restoreChunk = 256 << 10

func (a *app) restore(ctx context.Context, path string, req *pb.RestoreStoreRequest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// A file that is no bundle is told before a server is asked.
	bundle, err := audit.NewReader(f)
	var fault *audit.BundleError
	if errors.As(err, &fault) {
		return &no{fmt.Sprintf("not restored: %s: %s", path, fault)}
	} else if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	began, sent, whole := time.Now(), int64(0), false
	p := newProgress(a.stderr)
	defer p.end()
	stream, err := c.stores.RestoreStore(ctx)
	if err != nil {
		return c.plain(err)
	}
	for buf := make([]byte, restoreChunk); ; {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			req.Chunk = buf[:n]
			if err := stream.Send(req); errors.Is(err, io.EOF) {
				break // the server has answered
			} else if err != nil {
				return c.plain(err)
			}
			req = &pb.RestoreStoreRequest{}
			sent += int64(n)
			p.say("sent %d of %d KiB …", sent>>10, info.Size()>>10)
		}
		if whole = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); whole {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	p.now("sent; the server verifies the bundle, and restores it …")
	r, err := stream.CloseAndReceive()
	p.end()
	switch why := rejection(err); {
	case err == nil:
	case why.GetField() == "chunk", why.GetField() == "part": // it is about the bundle
		return &no{"not restored: " + why.GetMessage()}
	case whole && !connect.IsWireError(err):
		// It restores only what it has whole; a part of that may be in the log.
		return fmt.Errorf("%w; what it restored until then, if anything, stays: run it again, and it goes on", c.plain(err))
	default:
		return c.plain(err)
	}
	if a.json() {
		return a.message(r)
	}
	s := r.GetStore()
	return a.facts(fmt.Sprintf("store %s restored", s.GetId()),
		"name", s.GetName(), "status", storeStatus(s), "entries", fmt.Sprint(bundle.Header().Last), "root", base64.StdEncoding.EncodeToString(r.GetRoot()),
		"newest entry", clock(s.GetTime()), "took", time.Since(began).Round(time.Millisecond).String(), "token", r.GetToken())
}

// storeStatus says what a store is.
func storeStatus(s *pb.Store) string {
	switch s.GetStatus() {
	case pb.Store_DELETED:
		return "deleted"
	case pb.Store_RESTORING:
		return "restoring"
	}
	return "live"
}

func (a *app) activateCommand() *cobra.Command {
	p := &place{}
	var why why
	c := &cobra.Command{
		Use:   "activate",
		Short: "Put the newest fold version in force",
		Long: fmt.Sprintf(`Puts fold version %d in force, the newest that this program knows: the rules that decide
commands from then on. New logs begin at it. Version 2 is needed for "grantlog store
restore" and for assertions.

Servers of releases that do not know the version stop answering when they come to it, until
they are replaced: replace them first. It cannot be taken back, and is recorded in the
store "system".

It is for logs whose servers may not do that themselves, which is so on a broker set up
as ops/nats has it: give the administrator's credentials. With an embedded log, stop the
server first, or use "grantlog store restore --activate".`, ledger.NewestFoldVersion),
		Example: `  grantlog activate --nats nats://n1:4222 --creds admin.creds --nats-monitor http://n1:8222 --actor ops-ann --reason "all servers are new"`,
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if why.actor == "" || why.reason == "" {
				return errors.New("activating is recorded in the log: say who does it with --actor, and why with --reason")
			}
			return a.activate(cmd.Context(), p, why)
		},
	}
	why.who(c.Flags())
	p.flags(c.Flags())
	return c
}

func (a *app) activate(ctx context.Context, p *place, why why) error {
	if p.external.URL == "" {
		lock, err := p.lock(false)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	config, err := p.log(false, a.quiet())
	if err != nil {
		return err
	}
	log, err := natslog.Open(ctx, config)
	if err != nil {
		return openingLog(err, p)
	}
	defer log.Close()
	const version = ledger.NewestFoldVersion
	err = projector.Activate(ctx, projector.Config{Log: log, Shard: p.shard, Logger: a.quiet()}, version, why.actor, why.reason, why.ticket)
	if err != nil {
		return err
	}
	if a.json() {
		return a.value(map[string]any{"log": log.Genesis().Log.String(), "fold_version": version})
	}
	return a.facts(fmt.Sprintf("fold version %d is in force", version), "log", log.Genesis().Log.String())
}
