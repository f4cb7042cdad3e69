package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/spf13/cobra"
)

func (a *app) initCommand() *cobra.Command {
	p := &place{}
	var replicas int
	c := &cobra.Command{
		Use:   "init",
		Short: "Create a log on a NATS server or cluster",
		Long: fmt.Sprintf(`Creates the stream that is the log, with the configuration that grantlog pins, and
its first two messages: which log it is, and that it begins at fold version %d, the
rules of this release. Servers of older releases cannot follow such a log. It is done
once for a log; no server ever creates a log that it does not find, because a log that
is not there may be one that was lost.

A server with an embedded log needs no init.`, ledger.NewestFoldVersion),
		Example: `  grantlog init --nats nats://n1:4222,nats://n2:4222,nats://n3:4222 --replicas 3 --creds admin.creds \
      --nats-monitor http://n1:8222 --nats-monitor http://n2:8222 --nats-monitor http://n3:8222`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.external.URL == "" {
				return errors.New("name the broker with --nats nats://host:4222; \"grantlog serve\" without --nats creates its embedded log itself")
			}
			config, err := p.log(false, a.quiet())
			if err != nil {
				return err
			}
			config.Replicas = replicas
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			log, err := natslog.Create(ctx, config)
			if err != nil {
				return err
			}
			id := log.Genesis().Log.String()
			if err := log.Close(); err != nil {
				return err
			}
			if a.json() {
				return a.value(map[string]any{"log": id, "shard": p.shard, "fold_version": config.FoldVersion})
			}
			return a.facts("log created", "log", id, "shard", p.shard, "fold version", fmt.Sprint(config.FoldVersion), "next", p.serveCommand())
		},
	}
	c.Flags().IntVar(&replicas, "replicas", 1, "how many servers of the cluster keep the log: `1, 3 or 5`")
	p.logFlags(c.Flags())
	return c
}

// serveCommand returns the command line of a server on the log that the flags name. Its
// user is another than the administrator who made the log.
func (p *place) serveCommand() string {
	line := []string{"grantlog", "serve", "--nats", p.external.URL}
	if p.shard != "main" {
		line = append(line, "--shard", p.shard)
	}
	for _, m := range p.external.Monitors {
		line = append(line, "--nats-monitor", m)
	}
	if p.external.SyncConfirmed {
		line = append(line, "--nats-sync-confirmed")
	}
	e := p.external
	for _, f := range [...][2]string{{"--creds", e.Credentials}, {"--nkey", e.Seed}, {"--nats-ca", e.CA}, {"--nats-cert", e.Cert}, {"--nats-key", e.Key}} {
		if f[1] != "" {
			line = append(line, f[0], "FILE")
		}
	}
	return strings.Join(line, " ")
}

func (a *app) recoverCommand() *cobra.Command {
	p := &place{}
	var accept bool
	var why why
	c := &cobra.Command{
		Use:   "recover",
		Short: "Find out what the log has lost, and accept it",
		Long: `A server that finds that the log has lost part of its past is quarantined: it answers
nothing, until the log is put right, or the loss is accepted here. Stop the server
first.

Without --accept-loss this only tells what is lost. With it, what is lost is written
to DIR/lost-TIME.jsonl, from this replica's own copy; the log gets an entry that names
the loss, with the actor and the reason; and the index is replaced by one folded from
the log as it is. Grants and revocations in the file are undone by that: read it, and
submit again what must hold. If a checkpoint was signed of what is lost, its key signs
no more for that store: make a new key, with a new name, and tell the auditors.

Exit status: 0 nothing is lost, or the loss is accepted; 1 there is a loss; 2 error.`,
		Example: `  grantlog recover --data ./data
  grantlog recover --data ./data --accept-loss --actor ops-ann --reason "disk of n1 replaced, restored from Tuesday"`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if accept && (why.actor == "" || why.reason == "") {
				return errors.New("--accept-loss is recorded in the log: say who accepts it with --actor, and why with --reason")
			}
			return a.recover(cmd.Context(), p, accept, why.actor, why.reason)
		},
	}
	f := c.Flags()
	f.BoolVar(&accept, "accept-loss", false, "accept what is lost, and make the replica usable again")
	f.StringVar(&why.actor, "actor", envOr("GRANTLOG_ACTOR", ""), "`who` accepts it [GRANTLOG_ACTOR]")
	f.StringVar(&why.reason, "reason", "", "`why`, for people")
	p.flags(f)
	return c
}

// A LossReport is what recover prints with -o json.
type LossReport struct {
	Cause    string    `json:"cause,omitempty"` // why the replica was quarantined; "" if nothing is lost
	Cuts     []LossCut `json:"cuts"`            // losses that no epoch had accepted
	Entries  int       `json:"entries"`         // that this replica had and the log has not
	File     string    `json:"file,omitempty"`  // where they were written
	Accepted bool      `json:"accepted"`
}

// A LossCut is one loss, as sequences of the log.
type LossCut struct {
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	Missing bool   `json:"missing"` // otherwise other messages stand there
}

func (a *app) recover(ctx context.Context, p *place, accept bool, actor, reason string) error {
	lock, err := p.lock(false)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Stat(p.indexDir()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: without an index nothing is known that the log could have lost", p.indexDir())
	}
	// A fresh index left by a run that was interrupted is of no use.
	freshDir := filepath.Join(p.data, "index-fresh")
	if err := dropAll(freshDir); err != nil {
		return err
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
	fresh := index.Options{Dir: freshDir, Logger: a.quiet()}
	loss, err := projector.Recover(ctx, projector.Config{
		Log: log, Shard: p.shard, Node: p.node, Logger: a.quiet(), Index: index.Options{Dir: p.indexDir(), Logger: a.quiet()},
	}, fresh, accept, actor, reason)
	if err != nil {
		return errors.Join(err, dropAll(freshDir))
	}
	report := LossReport{Cuts: []LossCut{}, Entries: len(loss.Entries), Accepted: accept}
	for _, c := range loss.Cuts {
		report.Cuts = append(report.Cuts, LossCut(c))
	}
	if loss.Cause == nil && len(loss.Cuts) == 0 {
		if err := dropAll(freshDir); err != nil {
			return err
		}
		return a.lossReport(&report, "nothing is lost")
	}
	report.Cause = fmt.Sprint(loss.Cause)
	if !accept {
		if err := dropAll(freshDir); err != nil {
			return err
		}
		if err := a.lossReport(&report, "the log has lost part of its past"); err != nil {
			return err
		}
		return &no{"run it again with --accept-loss to go on without what is lost, unless the log can be put right"}
	}
	// The file comes before the swap: afterwards nothing has these entries any more.
	if len(loss.Entries) > 0 {
		report.File = filepath.Join(p.data, "lost-"+time.Now().UTC().Format("20060102T150405Z")+".jsonl")
		if err := writeLost(report.File, loss.Entries); err != nil {
			return fmt.Errorf("write what is lost: %w", err)
		}
	}
	if err := swapIndex(p.indexDir(), freshDir); err != nil {
		return err
	}
	return a.lossReport(&report, "the loss is accepted")
}

// swapIndex puts the fresh index in the place of the old. If it is interrupted there
// is an index in neither place or the fresh one: both fold on to the same state.
func swapIndex(dir, fresh string) error {
	old := dir + "-old"
	if err := dropAll(old); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	return dropAll(old)
}

// dropAll drops the index in dir, and dir with it.
func dropAll(dir string) error {
	if err := index.Drop(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (a *app) lossReport(r *LossReport, headline string) error {
	if a.json() {
		return a.value(r)
	}
	cuts := ""
	for _, c := range r.Cuts {
		if cuts != "" {
			cuts += ", "
		}
		cuts += fmt.Sprintf("%d to %d", c.From, c.To)
	}
	entries := ""
	if r.Cause != "" {
		entries = count(r.Entries, "entry")
		if r.Entries != 1 {
			entries = fmt.Sprintf("%d entries", r.Entries)
		}
	}
	return a.facts(headline, "cause", r.Cause, "messages lost", cuts, "lost here", entries, "written to", r.File)
}

// A LostEntry is one line of the file of lost entries.
type LostEntry struct {
	Store    string    `json:"store"`
	Revision uint64    `json:"revision"`
	Time     time.Time `json:"time"`
	Actor    string    `json:"actor"`
	Attester string    `json:"attester"`
	Method   string    `json:"method"`
	Outcome  string    `json:"outcome"`
	ID       string    `json:"id,omitempty"` // of the command
	Reason   string    `json:"reason,omitempty"`
	Ticket   string    `json:"ticket,omitempty"`
	Changes  []string  `json:"changes,omitempty"` // as the command line says them
	Raw      []byte    `json:"raw"`               // the command's bytes as they came
}

func writeLost(path string, entries []*ledger.Entry) error {
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	for _, e := range entries {
		l := LostEntry{Store: e.Store.String(), Revision: uint64(e.Revision), Time: time.Unix(0, e.Time).UTC(),
			Actor: e.Origin.Actor, Attester: e.Origin.Attester, Method: e.Origin.Method.String(), Outcome: e.Outcome.Kind.String(), Raw: e.Raw}
		if c, rejection := e.Command(); rejection == nil {
			l.ID, l.Reason, l.Ticket = c.ID.String(), c.Reason, c.Ticket
			for i := range c.Changes {
				l.Changes = append(l.Changes, changeText(&c.Changes[i]))
			}
		}
		if err := lines.Encode(l); err != nil {
			return err
		}
	}
	return writeBytes(path, b.Bytes())
}

// changeText says what a change does, as the command line does.
func changeText(c *ledger.Change) string {
	said := c.Tuple.Subject.String() + " " + c.Tuple.Relation + " " + c.Tuple.Object.String()
	switch c.Kind {
	case ledger.Grant:
		return "grant " + said
	case ledger.Revoke:
		return "revoke " + said
	case ledger.WriteModel:
		return "write model " + c.Model.ID.String()
	case ledger.CreateStore:
		return fmt.Sprintf("create store %s %q", c.Store, c.Name)
	case ledger.DeleteStore:
		return "delete store " + c.Store.String()
	case ledger.AdvanceEpoch:
		return fmt.Sprintf("advance to epoch %d", c.Epoch.Number)
	case ledger.Activate:
		return fmt.Sprintf("activate fold version %d", c.Version)
	case ledger.BeginRestore:
		return "begin to restore store " + c.Store.String()
	case ledger.EndRestore:
		return "end restoring store " + c.Store.String()
	case ledger.WriteAssertions:
		return "write assertions of model " + c.Model.ID.String()
	}
	return fmt.Sprintf("change of kind %d", c.Kind)
}

func (a *app) rebuildCommand() *cobra.Command {
	p := &place{}
	c := &cobra.Command{
		Use:   "rebuild",
		Short: "Drop the index and fold it again from the log",
		Long: `Drops the index of a data directory and folds the log again from its start. Nothing is
lost by that: the log is the truth, and the index a projection of it. Stop the server
first.

It is refused where the log has lost something that the index still knows: the index
is then the last copy. "grantlog recover" is for that.`,
		Example: `  grantlog rebuild --data ./data`,
		Args:    takes(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.rebuild(cmd.Context(), p) },
	}
	p.flags(c.Flags())
	return c
}

func (a *app) rebuild(ctx context.Context, p *place) error {
	lock, err := p.lock(false)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := a.compareFirst(ctx, p); err != nil {
		return err
	}
	if err := index.Drop(p.indexDir()); err != nil {
		return err
	}
	began := time.Now()
	n, err := startNode(ctx, nodeConfig{place: p, logger: a.quiet()})
	if err != nil {
		return err
	}
	err = n.caughtUp(ctx, func(s projector.Status) {
		fmt.Fprintf(a.stderr, "folded %d of %d messages\n", s.Applied, s.Head)
	})
	if err == nil {
		err = n.projector.Index().Flush()
	}
	s := n.projector.Status()
	if err := errors.Join(err, n.close()); err != nil {
		return fmt.Errorf("%w; the index is incomplete, and serve or another rebuild goes on with it", err)
	}
	took := time.Since(began).Round(time.Millisecond)
	if a.json() {
		return a.value(map[string]any{"log": s.Log.String(), "messages": s.Applied, "seconds": took.Seconds()})
	}
	return a.facts("the index is folded again", "log", s.Log.String(), "messages", fmt.Sprint(s.Applied), "took", took.String())
}

// compareFirst refuses if the index knows a past that the log does not have. An index
// that cannot be opened knows nothing.
func (a *app) compareFirst(ctx context.Context, p *place) error {
	x, err := index.Open(index.Options{Dir: p.indexDir(), Logger: a.quiet()})
	if errors.Is(err, index.ErrRebuild) {
		return nil
	}
	if err != nil {
		return err
	}
	position := x.Position()
	if err := x.Close(); err != nil {
		return err
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
	if err := projector.Compare(ctx, log, position); err != nil {
		if ledger.IsQuarantine(err) {
			return fmt.Errorf("%w; this index is the last copy of what is lost: see \"grantlog recover\"", err)
		}
		return err
	}
	return nil
}

// quiet is the logger of verbs that tell their progress themselves.
func (a *app) quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}
