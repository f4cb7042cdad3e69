package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// An Embedded is a broker that runs in this process.
type Embedded struct {
	// Dir holds everything the broker stores. It is made if it is not there, and one
	// process at a time uses it.
	Dir string

	// MayCreate says that Open may create a log if Dir is absent or empty. Only a
	// caller whose index is empty too may say so: an empty broker directory beside an
	// index that has folded something is a lost log, not a new one.
	MayCreate bool

	// MaxStore is how many bytes the broker may store; 1 TiB if zero. It keeps the
	// broker from taking its limit from the disk space that happens to be free when
	// it starts. It is no guard against a full disk.
	MaxStore int64

	// Listen is the host:port on which the broker also serves other processes; it
	// serves none if empty. Only Users can connect. A host that is not a loopback
	// address needs Cert and Key.
	Listen    string
	Users     []User
	Cert, Key string // PEM files of the server's certificate and its key
}

// A User may connect to an embedded broker that listens. It proves who it is with an
// nkey, and must take its answers under the inbox prefix "_INBOX_" + Name.
type User struct {
	Name string // 1 to 64 of A-Z, a-z, 0-9, '_' and '-'
	NKey string // public user key, "U…"

	// Node says that the user is another grantlog process, which may read the log and
	// append as edge Name. Otherwise it may only publish commands as principal Name.
	Node bool
}

const defaultMaxStore = 1 << 40

// embedded is a running broker.
type embedded struct {
	server *server.Server
	key    nkeys.KeyPair // of this process's own connection
	unlock func()
}

// startEmbedded starts a broker. empty reports that its directory was empty and that it
// may be filled; unless create says that too, an empty directory is a missing log.
func startEmbedded(c *Embedded, shard string, create bool, logger *slog.Logger) (e *embedded, empty bool, err error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, false, err
	}
	e = &embedded{}
	if e.unlock, err = lockDir(c.Dir); err != nil {
		return nil, false, err
	}
	defer func() {
		if err != nil {
			e.stop()
			e = nil
		}
	}()
	if empty, err = isEmpty(c.Dir); err != nil {
		return e, false, err
	}
	if empty && !create && !c.MayCreate {
		return e, false, fmt.Errorf("%w: the directory is empty", ledger.ErrMissing)
	}
	if e.key, err = nkeys.CreateUser(); err != nil {
		return e, false, err
	}
	own, err := e.key.PublicKey()
	if err != nil {
		return e, false, err
	}
	text, err := c.config(shard, own)
	if err != nil {
		return e, false, err
	}
	var options server.Options
	if err := options.ProcessConfigString(text); err != nil {
		return e, false, err
	}
	if options.StoreDir != c.Dir || !options.SyncAlways { // for the sake of strange names of directories
		return e, false, fmt.Errorf("configuration read as directory %q, sync always: %t", options.StoreDir, options.SyncAlways)
	}
	options.DontListen = c.Listen == ""
	options.NoSigs = true
	options.DisableJetStreamBanner = true
	s, err := server.NewServer(&options)
	if err != nil {
		return e, false, err
	}
	e.server = s
	log := &brokerLog{logger: logger.With("from", "broker")}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if err := log.failure(); err != nil {
		return e, false, err
	}
	if !s.ReadyForConnections(30 * time.Second) {
		return e, false, errors.Join(errors.New("it was not ready after 30 s"), log.failure())
	}
	if !s.JetStreamEnabled() {
		return e, false, errors.Join(errors.New("JetStream did not start"), log.failure())
	}
	return e, empty, nil
}

// stop returns when the broker has written and released everything.
func (e *embedded) stop() error {
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	if e.key != nil {
		e.key.Wipe()
	}
	e.unlock()
	return nil
}

func (e *embedded) connectOptions() []nats.Option {
	public, _ := e.key.PublicKey() // it gave it before
	return []nats.Option{
		nats.InProcessServer(e.server),
		nats.Nkey(public, e.key.Sign),
	}
}

// config returns the broker's configuration, in the language of nats-server: what an
// external server needs beside its cluster is the same. own is the public key of this
// process.
func (c *Embedded) config(shard, own string) (string, error) {
	var b strings.Builder
	maxStore := c.MaxStore
	if maxStore == 0 {
		maxStore = defaultMaxStore
	}
	fmt.Fprintf(&b, "server_name: %s\n", strconv.Quote("grantlog-"+shard))
	fmt.Fprintf(&b, "max_payload: %d\n", ledger.MaxMessage)
	fmt.Fprintf(&b, "jetstream {\n  store_dir: %s\n  sync_interval: always\n  max_memory_store: 64MB\n  max_file_store: %d\n}\n",
		strconv.Quote(c.Dir), maxStore)
	if c.Listen != "" {
		host, _, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return "", fmt.Errorf("the address to listen on: %w", err)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && c.Cert == "" {
			return "", fmt.Errorf("to listen on %s, which is no loopback address, needs a certificate", c.Listen)
		}
		fmt.Fprintf(&b, "listen: %s\n", strconv.Quote(c.Listen))
		if c.Cert != "" {
			fmt.Fprintf(&b, "tls { cert_file: %s, key_file: %s }\n", strconv.Quote(c.Cert), strconv.Quote(c.Key))
		}
	}
	fmt.Fprintf(&b, "authorization { users: [\n  { nkey: %s }\n", own)
	for _, u := range c.Users {
		if !ledger.ValidPrincipal(u.Name) || !nkeys.IsValidPublicUserKey(u.NKey) {
			return "", fmt.Errorf("user %q with key %q: a name has 1 to 64 of A-Z, a-z, 0-9, '_' and '-', and a key is a public user nkey", u.Name, u.NKey)
		}
		fmt.Fprintf(&b, "  { nkey: %s, permissions: { publish: %s, subscribe: [\"_INBOX_%s.>\"] } }\n", u.NKey, quoteList(u.mayPublish(shard)), u.Name)
	}
	b.WriteString("] }\n")
	return b.String(), nil
}

// mayPublish lists the subjects that a user may publish to. Whoever could publish to
// more of JetStream's API than a node needs could change or delete the stream.
func (u User) mayPublish(shard string) []string {
	if !u.Node {
		return []string{ledger.Subject(shard, ledger.PrincipalSubject, u.Name)}
	}
	stream := streamName(shard)
	return []string{
		ledger.Subject(shard, ledger.EdgeSubject, u.Name),
		"$JS.API.STREAM.INFO." + stream,
		"$JS.API.STREAM.MSG.GET." + stream,
		"$JS.API.CONSUMER.CREATE." + stream + ".>",
		"$JS.API.CONSUMER.MSG.NEXT." + stream + ".>",
		"$JS.API.CONSUMER.DELETE." + stream + ".>",
	}
}

func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// isEmpty reports whether a directory holds nothing but what a new file system does.
func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return false, nil
		}
	}
	return err == nil, err
}

// brokerLog takes what the broker says. The broker's own logger would end the process
// when the broker says that something is fatal.
type brokerLog struct {
	logger *slog.Logger
	mu     sync.Mutex
	fatal  error // the first
}

func (b *brokerLog) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fatal
}

func (b *brokerLog) Fatalf(format string, v ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fatal == nil {
		b.fatal = fmt.Errorf(format, v...)
	}
	b.logger.Error(fmt.Sprintf(format, v...))
}

func (b *brokerLog) Noticef(format string, v ...any) { b.log(slog.LevelDebug, format, v) }
func (b *brokerLog) Warnf(format string, v ...any)   { b.log(slog.LevelWarn, format, v) }
func (b *brokerLog) Errorf(format string, v ...any)  { b.log(slog.LevelError, format, v) }
func (b *brokerLog) Debugf(format string, v ...any)  { b.log(slog.LevelDebug, format, v) }
func (b *brokerLog) Tracef(format string, v ...any)  { b.log(slog.LevelDebug, format, v) }

func (b *brokerLog) log(level slog.Level, format string, v []any) {
	if b.logger.Enabled(context.Background(), level) {
		b.logger.Log(context.Background(), level, fmt.Sprintf(format, v...))
	}
}
