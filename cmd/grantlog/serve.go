package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) serveCommand() *cobra.Command {
	s := &server{place: &place{}}
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run a server",
		Long: `Runs a server: it takes commands, appends them to the log, folds the log into its
index, and answers checks. One port speaks Connect, gRPC, gRPC-Web and JSON over
HTTP/1.1 and HTTP/2, and has /healthz, /readyz and /metrics (Prometheus). It also
answers the OpenFGA API, under /stores and as the gRPC service
openfga.v1.OpenFGAService, and the AuthZEN Authorization API 1.0, under /access/v1/ for
one store and under /stores/ULID/access/v1/ for any.

Without --nats the log is in this process, under DIR/log; it is created if DIR is new.
With --nats it is on a NATS server or cluster, made once by "grantlog init"; any number
of servers may then follow it, each with a DIR of its own for its index.

Callers are not authenticated yet: whoever reaches the port may change everything. An
address that is not loopback is therefore refused without --insecure-listen.

With --signing-key it signs checkpoints, see "grantlog keygen"; of all servers of a log,
one does. Proofs are given by every server.

SIGINT or SIGTERM ends it in order: requests under way are answered, everything is
written, then it ends with status 0.`,
		Example: `  grantlog serve --data ./data
  grantlog serve --data ./index --nats nats://n1:4222,nats://n2:4222 --creds node.creds --nats-monitor http://n1:8222 --nats-monitor http://n2:8222`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), s) },
	}
	f := c.Flags()
	f.StringVar(&s.listen, "listen", "127.0.0.1:8080", "`host:port` to answer on; port 0 is any free one")
	f.BoolVar(&s.insecure, "insecure-listen", false, "answer on an address that is not loopback, though callers are not authenticated")
	f.StringVar(&s.readyFile, "ready-file", "", "`file` to write the server's URL to, once it answers")
	f.StringVar(&s.signingKey, "signing-key", os.Getenv("GRANTLOG_SIGNING_KEY"), "`file` of the key that signs checkpoints, as keygen made it [GRANTLOG_SIGNING_KEY]; without one nothing is signed")
	f.StringVar(&s.logFormat, "log-format", "text", "`format` of the log on the standard error: text or json")
	f.StringVar(&s.logLevel, "log-level", "info", "the least `level` of the log: debug, info, warn or error")
	f.Int64Var(&s.cacheMiB, "cache", 256, "`MiB` of memory for the index's blocks; a quarter of the machine's is good")
	f.Uint64Var(&s.minFreeMiB, "min-free", 256, "`MiB` of free disk below which commands are refused and nothing is folded")
	budgetFlag(f, &s.budgets.Check, "check-budget", model.DefaultBudget, "what one question may spend")
	budgetFlag(f, &s.budgets.List, "list-budget", model.ListBudget, "what one list, tree or batch may spend")
	f.IntVar(&s.models.Types, "max-model-types", 100, "the most `types` of a model that is written here, at most 1000")
	f.IntVar(&s.models.Source, "max-model-bytes", ledger.MaxModelSource, "the most `bytes` of its source, at most 262144")
	f.StringVar(&s.authzen, "authzen-store", "", "`ULID` of the store that AuthZEN's /access/v1/ is about; the only one there is if not given")
	f.StringVar(&s.authzenURL, "authzen-url", "", "`URL` under which AuthZEN's enforcement points reach this server, such as https://pdp.example.com, for /.well-known/authzen-configuration; http:// and the host that they ask if not given")
	s.place.flags(f)
	s.place.listenFlags(f)
	return c
}

// budgetFlag is a flag that takes a budget, as parts of it that are not the default's.
func budgetFlag(f *pflag.FlagSet, b *model.Budget, name string, otherwise model.Budget, usage string) {
	*b = otherwise
	f.Var(budgetValue{b}, name, usage+", `parts` such as rows=1000,time=2s: depth (of grants that lead on), rows (read), memory (MiB) and time")
}

type budgetValue struct{ budget *model.Budget }

// Type is what pflag calls the value.
func (v budgetValue) Type() string { return "parts" }

// String returns the budget as Set reads it.
func (v budgetValue) String() string {
	if v.budget == nil {
		return ""
	}
	b := v.budget
	return fmt.Sprintf("depth=%d,rows=%d,memory=%d,time=%s", b.Depth, b.Rows, b.Memory>>20, b.Time)
}

// Set sets the parts that the text names.
func (v budgetValue) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(value)
		switch name {
		case "depth":
			v.budget.Depth = n
		case "rows":
			v.budget.Rows = n
		case "memory":
			if n > 1<<40 {
				err = errors.New("that is more MiB than any machine has")
			}
			v.budget.Memory = n << 20
		case "time":
			v.budget.Time, err = time.ParseDuration(value)
			n = int(v.budget.Time)
		default:
			return fmt.Errorf("%q is no part of a budget: depth, rows, memory and time are", part)
		}
		if err != nil || n <= 0 {
			return fmt.Errorf("%q must be a number above 0, or for time a span such as 2s", part)
		}
	}
	return nil
}

// A server is what the flags of serve say.
type server struct {
	place      *place
	listen     string
	insecure   bool
	readyFile  string
	signingKey string // file; "" to sign nothing
	logFormat  string
	logLevel   string
	cacheMiB   int64
	minFreeMiB uint64
	budgets    query.Budgets
	models     dsl.Limits

	authzen    string    // ULID of AuthZEN's store; "" for the only one
	authzenID  ledger.ID // the same
	authzenURL string
}

func (a *app) serve(ctx context.Context, s *server) error {
	if err := checkListen(s.listen, s.insecure); err != nil {
		return err
	}
	if n := s.models.Types; n < 1 || n > model.MaxTypes {
		return fmt.Errorf("--max-model-types must be 1 to %d, is %d", model.MaxTypes, n)
	}
	if n := s.models.Source; n < 1 || n > ledger.MaxModelSource {
		return fmt.Errorf("--max-model-bytes must be 1 to %d, which is what the log holds; is %d", ledger.MaxModelSource, n)
	}
	if err := s.readAuthZEN(); err != nil {
		return err
	}
	logger, err := newLogger(a.stderr, s.logFormat, s.logLevel)
	if err != nil {
		return err
	}
	lock, err := s.place.lock(true)
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		err := s.run(ctx, logger)
		if !errors.Is(err, index.ErrDamaged) || ctx.Err() != nil {
			return err
		}
		// The log has everything that the index had, and the next start drops it.
		logger.Error("the index is damaged; it is folded again from the log", "error", err)
	}
}

// readAuthZEN reads the flags of the AuthZEN API.
func (s *server) readAuthZEN() error {
	if s.authzen != "" {
		id, err := ledger.ParseID(s.authzen)
		if err != nil || id.IsZero() {
			return fmt.Errorf("--authzen-store must be the ULID of a store, not %q; \"grantlog store list\" has them", s.authzen)
		}
		s.authzenID = id
	}
	if s.authzenURL != "" {
		u, err := url.Parse(s.authzenURL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("--authzen-url must be a URL such as https://pdp.example.com, not %q", s.authzenURL)
		}
		s.authzenURL = strings.TrimRight(s.authzenURL, "/")
	}
	return nil
}

// run serves until ctx is done or the node fails, and returns when all is closed.
func (s *server) run(ctx context.Context, logger *slog.Logger) (err error) {
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("%w; name another address with --listen", err)
	}
	n, err := startNode(ctx, nodeConfig{place: s.place, cache: s.cacheMiB << 20, minFree: s.minFreeMiB << 20, logger: logger, mayBegin: true, budgets: s.budgets, models: s.models, signingKey: s.signingKey, authzenStore: s.authzenID, authzenURL: s.authzenURL})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	s.listen = listener.Addr().String() // the same port, should the node be started again
	url := "http://" + s.listen
	logger.Info("serving", "url", url, "data", s.place.data, "log", n.log.Genesis().Log.String())
	if s.readyFile != "" {
		if err := writeBytes(s.readyFile, []byte(url+"\n")); err != nil {
			return errors.Join(fmt.Errorf("ready file: %w", err), listener.Close(), n.close())
		}
	}
	err = n.serve(ctx, listener)
	logger.Info("ending", "reason", reasonOf(ctx, err))
	err = errors.Join(err, n.close())
	if err == nil {
		logger.Info("ended in order")
	}
	return err
}

// serve answers on the listener until ctx is done, then lets requests under way end;
// or until the node fails.
func (n *node) serve(ctx context.Context, listener net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- n.server.Serve(ctx, listener) }() // ends with ctx
	select {
	case err := <-served:
		return err
	case err := <-n.failed:
		stop()
		return errors.Join(err, <-served)
	}
}

func reasonOf(ctx context.Context, err error) string {
	if err == nil && ctx.Err() != nil {
		return "signal"
	}
	return fmt.Sprint(err)
}

// checkListen refuses an address that others can reach, unless told to accept it.
func checkListen(address string, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--listen must be host:port such as 127.0.0.1:8080, not %q", address)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() || insecure {
		return nil
	}
	return fmt.Errorf("--listen %s can be reached from other machines, and callers are not authenticated yet: anyone could grant themselves anything. Listen on 127.0.0.1, or give --insecure-listen if something in front of this port lets only trusted callers through", address)
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level must be debug, info, warn or error, not %q", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format must be text or json, not %q", format)
}
