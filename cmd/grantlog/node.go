package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/natslog"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/grantlog/grantlog/query/serve"
	"github.com/spf13/pflag"
)

// A place is where a node keeps its data and finds its log: what serve, init, recover
// and rebuild have in common.
//
//	DIR/log     the embedded broker's store; absent with --nats
//	DIR/index   the index, folded from the log
//	DIR/scratch what a server makes of bundles that it verifies; emptied at its start
type place struct {
	data     string // DIR
	shard    string
	node     string
	external natslog.External // with URL "": embedded
	embedded natslog.Embedded
	users    []string // NAME=NKEY of the embedded broker's users
	nodes    []string // NAME=NKEY of other nodes
}

func (p *place) flags(f *pflag.FlagSet) {
	p.dataFlag(f)
	p.logFlags(f)
}

func (p *place) dataFlag(f *pflag.FlagSet) {
	f.StringVar(&p.data, "data", "data", "the `directory` of the index and the embedded log")
}

func (p *place) logFlags(f *pflag.FlagSet) {
	f.StringVar(&p.shard, "shard", "main", "`name` of the log, in the subjects grantlog.NAME.>")
	f.StringVar(&p.external.URL, "nats", "", "`URL` of the NATS server or cluster that keeps the log, nats://host:4222; embedded if not given")
	f.StringVar(&p.external.Credentials, "creds", "", "with --nats: `file` with a user's JWT and seed")
	f.StringVar(&p.external.Seed, "nkey", "", "with --nats: `file` with a user's nkey seed")
	f.StringVar(&p.external.CA, "nats-ca", "", "with --nats: PEM `file` of the authorities to trust; makes TLS required")
	f.StringVar(&p.external.Cert, "nats-cert", "", "with --nats: PEM `file` of this client's certificate")
	f.StringVar(&p.external.Key, "nats-key", "", "with --nats: PEM `file` of its key")
	f.StringVar(&p.external.InboxPrefix, "nats-inbox", "", "with --nats: `prefix` of the subjects for answers, as the user's permissions have it")
	f.StringSliceVar(&p.external.Monitors, "nats-monitor", nil, "with --nats: monitoring `URL` of each server that keeps the log, http://host:8222, where its sync_interval is read")
	f.BoolVar(&p.external.SyncConfirmed, "nats-sync-confirmed", false, "with --nats, instead of --nats-monitor: somebody has seen to it that sync_interval is \"always\"; otherwise a crash loses acknowledged grants and revocations")
}

// listenFlags are for an embedded broker that other processes may publish to.
func (p *place) listenFlags(f *pflag.FlagSet) {
	f.StringVar(&p.node, "node", "edge", "`name` of this node, recorded as the attester of its commands")
	f.StringVar(&p.embedded.Listen, "nats-listen", "", "`host:port` on which the embedded broker takes commands and other nodes; it listens nowhere if not given")
	f.StringVar(&p.embedded.Cert, "nats-listen-cert", "", "PEM `file` of the embedded broker's certificate; needed off loopback")
	f.StringVar(&p.embedded.Key, "nats-listen-key", "", "PEM `file` of its key")
	f.StringSliceVar(&p.users, "nats-user", nil, "`NAME=NKEY` of a principal that may publish commands to the embedded broker; may be given again")
	f.StringSliceVar(&p.nodes, "nats-node", nil, "`NAME=NKEY` of another node that may use the embedded log; may be given again")
}

func (p *place) indexDir() string { return filepath.Join(p.data, "index") }
func (p *place) logDir() string   { return filepath.Join(p.data, "log") }

func (p *place) scratchDir() string { return filepath.Join(p.data, "scratch") }

// clearScratch makes the scratch directory anew, without what a crash left there.
func (p *place) clearScratch() error {
	err := os.RemoveAll(p.scratchDir())
	if err == nil {
		err = os.Mkdir(p.scratchDir(), 0o700)
	}
	if err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	return nil
}

// lock makes the data directory, if it may, and keeps other processes from it until
// the file returned is closed or the process ends.
func (p *place) lock(mayCreate bool) (*os.File, error) {
	if mayCreate {
		if err := os.MkdirAll(p.data, 0o700); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	d, err := os.Open(p.data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no data directory %s; name the one that the server was started with as --data", p.data)
	}
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := lockFile(d); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory %s: %w", p.data, err), d.Close())
	}
	return d, nil
}

// fresh reports whether the data directory holds nothing yet, no trace of an index
// either: only then may a log be created in it.
func (p *place) fresh() (bool, error) {
	entries, err := os.ReadDir(p.data)
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return false, nil
		}
	}
	return err == nil, err
}

// log returns how the log is opened. mayCreate is for an embedded log alone.
func (p *place) log(mayCreate bool, logger *slog.Logger) (natslog.Config, error) {
	c := natslog.Config{Shard: p.shard, FoldVersion: ledger.NewestFoldVersion, Logger: logger}
	if p.external.URL != "" {
		if p.embedded.Listen != "" || len(p.users)+len(p.nodes) > 0 {
			return c, errors.New("--nats-listen, --nats-user and --nats-node are for the embedded broker, and --nats names another")
		}
		external := p.external
		c.External = &external
		return c, nil
	}
	if e := p.external; e.Credentials+e.Seed+e.CA+e.Cert+e.Key+e.InboxPrefix != "" || len(e.Monitors) > 0 || e.SyncConfirmed {
		return c, errors.New("--creds, --nkey and the like are for an external broker: name it with --nats")
	}
	embedded := p.embedded
	embedded.Dir, embedded.MayCreate = p.logDir(), mayCreate
	for i, list := range [][]string{p.users, p.nodes} {
		for _, text := range list {
			name, key, ok := strings.Cut(text, "=")
			if !ok {
				return c, fmt.Errorf("a user of the embedded broker is NAME=NKEY, not %q", text)
			}
			embedded.Users = append(embedded.Users, natslog.User{Name: name, NKey: key, Node: i == 1})
		}
	}
	if len(embedded.Users) > 0 && embedded.Listen == "" {
		return c, errors.New("--nats-user and --nats-node need --nats-listen, where they connect")
	}
	c.Embedded = &embedded
	return c, nil
}

// A nodeConfig is what a node needs beside its place.
type nodeConfig struct {
	place    *place
	cache    int64  // bytes for blocks of the index
	minFree  uint64 // bytes of disk below which commands are refused
	logger   *slog.Logger
	mayBegin bool // an embedded log may be created if the data directory is fresh
	budgets  query.Budgets
	models   dsl.Limits

	signingKey string // file; "" to sign nothing
	makeKey    string // name of the key to make if the file is not there; "" to make none

	authzenStore ledger.ID // of requests that name none; zero for the only one
	authzenURL   string
}

// A node is one running replica: the log, the projection that follows it, the ledger
// that appends to it, and the server that answers for them.
type node struct {
	log       *natslog.Log
	projector *projector.Projector
	ledger    *ledger.Ledger
	engine    *query.Engine
	server    *serve.Server
	signer    *audit.Signer // nil if nothing is signed here

	stop    context.CancelFunc // ends the fold
	folding chan struct{}      // closed when it has ended
	failed  chan error         // gets why the node must end, at most once
}

// startNode opens everything and begins to fold. The data directory must be locked.
func startNode(ctx context.Context, c nodeConfig) (_ *node, err error) {
	fresh := false
	if c.mayBegin && c.place.external.URL == "" {
		if fresh, err = c.place.fresh(); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	logConfig, err := c.place.log(fresh, c.logger)
	if err != nil {
		return nil, err
	}
	n := &node{engine: query.NewEngine(c.budgets), folding: make(chan struct{}), failed: make(chan error, 1)}
	// The key first: one that is refused must not leave a log behind.
	if n.signer, err = openSigner(c); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if n.log, err = natslog.Open(ctx, logConfig); err != nil {
		return nil, errors.Join(openingLog(err, c.place), n.closeSigner())
	}
	if err := c.place.clearScratch(); err != nil {
		return nil, errors.Join(err, n.closeSigner(), n.log.Close())
	}
	metrics := serve.NewMetrics()
	n.projector, err = projector.Open(projector.Config{
		Log: n.log, Shard: c.place.shard, Node: c.place.node, Logger: c.logger, Decided: metrics.Decided,
		Index:     index.Options{Dir: c.place.indexDir(), CacheBytes: c.cache, Logger: c.logger},
		FreeSpace: func() (uint64, error) { return freeSpace(c.place.data) },
		MinFree:   c.minFree,
	})
	if err != nil {
		return nil, errors.Join(err, n.closeSigner(), n.log.Close())
	}
	n.ledger = ledger.New(ledger.Config{
		Log: n.log, Shard: c.place.shard, Node: c.place.node, Logger: c.logger,
		Watch: n.projector.Watch, Ready: n.projector.Ready, Appended: metrics.Appended,
	})
	n.server = serve.New(serve.Config{
		Ledger: n.ledger, Projector: n.projector, Engine: n.engine, Metrics: metrics, Models: c.models,
		Signer: n.signer, Scratch: c.place.scratchDir(), Logger: c.logger,
		AuthZENStore: c.authzenStore, AuthZENURL: c.authzenURL,
	})

	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx)) // until close, which comes after the last request
	go func() {                                                  // ends with n.stop, or when the index fails
		defer close(n.folding)
		if err := n.projector.Run(ctx); err != nil {
			n.failed <- err
		}
	}()
	return n, nil
}

// close ends the node, when nobody asks it any more: what waits to be appended is
// answered, then the fold stops, then index and log are closed, the broker with it.
func (n *node) close() error {
	n.ledger.Close()
	n.stop()
	<-n.folding
	return errors.Join(n.projector.Close(), n.closeSigner(), n.log.Close())
}

// openSigner returns what signs with the key of the node; nil if it has none.
func openSigner(c nodeConfig) (*audit.Signer, error) {
	if c.signingKey == "" {
		return nil, nil
	}
	if c.makeKey != "" {
		if _, err := audit.CreateKey(c.signingKey, c.makeKey); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	s, err := audit.OpenSigner(c.signingKey)
	if err == nil {
		c.logger.Info("signing checkpoints", "key", s.Key().String())
	}
	return s, err
}

func (n *node) closeSigner() error {
	if n.signer == nil {
		return nil
	}
	return n.signer.Close()
}

// caughtUp returns once everything that the log held is folded. Each second it tells
// how far the fold is.
func (n *node) caughtUp(ctx context.Context, progress func(projector.Status)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	told := time.Now()
	for {
		s := n.projector.Status()
		switch {
		case s.Quarantined != nil:
			return s.Quarantined
		case s.CaughtUp():
			return nil
		case time.Since(told) >= time.Second:
			told = time.Now()
			progress(s)
		}
		select {
		case <-tick.C:
		case err := <-n.failed:
			return err
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
}

// openingLog says what to do about a log that does not open.
func openingLog(err error, p *place) error {
	switch {
	case errors.Is(err, ledger.ErrMissing) && p.external.URL != "":
		return fmt.Errorf("%w; a log on an external broker is created once, with \"grantlog init --nats %s\"", err, p.external.URL)
	case errors.Is(err, ledger.ErrMissing):
		return fmt.Errorf("%w, but %s holds something already; a log is created only in a new data directory, so restore %s or name another --data", err, p.data, p.logDir())
	}
	return err
}
