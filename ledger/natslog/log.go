// Package natslog is the log on NATS JetStream, embedded in the process or on servers
// of its own. It is the only package that imports NATS.
//
// A log is one stream, GRANTLOG_<shard>, of the subjects grantlog.<shard>.>; its first
// message is the genesis. The stream's whole configuration is pinned (see [pinned]),
// because the configuration is what lets a broker forget: a lowered limit erases
// history that no permission to delete was needed for.
//
// JetStream is trusted to store and order bytes while it is healthy, and with nothing
// else. So there is no durable consumer, no resuming by name and no message id: a
// reader says from which sequence it reads, and gets an error when anything happens to
// its connection; a publisher trusts only an acknowledgement of its own bytes. What
// was measured about the ways JetStream loses and rewrites a past without an error is
// in the tests of this package, each as a test.
package natslog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/nats-io/nats.go"
)

// A Config says where a log is. Exactly one of Embedded and External is set.
type Config struct {
	// Shard names the log among those of a broker; "main" if empty.
	Shard string

	// Replicas is how many servers keep the stream: 1, 3 or 5. Zero is 1 when the log
	// is created, and otherwise whatever it has when it is opened. It alone of the
	// configuration is not pinned at genesis, so that an operator can add replicas;
	// while a log is open, a change of it is a drift all the same.
	Replicas int

	// FoldVersion is what a log that is created begins under: its activation comes right
	// after the genesis. At most 1: there is none, and the log is under version 1. If a
	// crash comes between the two, the log is under version 1 too. It is not made up for
	// when the log is opened, because that never writes, and because such a log may also
	// be one that replicas use which know version 1 alone.
	FoldVersion uint64

	Embedded *Embedded
	External *External

	Logger *slog.Logger // slog.Default if nil

	settling time.Duration // defaultSettling if zero
}

// defaultTimeout ends a request whose context has no deadline. An election of a new
// stream leader takes up to about 10 s.
const defaultTimeout = 15 * time.Second

// defaultSettling is how long a replicated stream may look shorter than it is before
// that counts as a loss. A leader notices within 10 s that it has lost the others.
const defaultSettling = 11 * time.Second

// A Log is a log on JetStream. It is a [ledger.Log].
type Log struct {
	shard    string
	stream   string
	config   map[string]any // as pinned, with the replicas and the metadata
	genesis  ledger.Genesis
	first    []byte // data of the first message
	logger   *slog.Logger
	nc       *nats.Conn
	server   *embedded // or nil
	settling time.Duration
	syncs    func(context.Context, *streamInfo) error

	mu      sync.Mutex
	closed  bool
	pending map[*call]struct{} // what waits for the broker, to be ended when the connection is lost
}

var _ ledger.Log = (*Log)(nil)

// A call is one wait for the broker.
type call struct {
	subject string // published to
	end     context.CancelCauseFunc
}

var (
	errClosed     = fmt.Errorf("the log is closed: %w", ledger.ErrUnavailable)
	errConnection = fmt.Errorf("connection to the log lost: %w", ledger.ErrUnavailable)
)

// Open opens a log that exists, and verifies it. It creates one only if
// [Embedded.MayCreate] says so and the broker's directory is empty.
//
// The error is a quarantine error (see [ledger.IsQuarantine]) if there is a broker but
// not a log as it was created: [ledger.ErrMissing], [ledger.ErrForeign],
// [ledger.ErrDrift], [ledger.ErrGap].
func Open(ctx context.Context, c Config) (*Log, error) {
	return open(ctx, c, false)
}

// Create creates a log, which must not exist, and opens it. The broker's directory may
// be in use for other shards.
func Create(ctx context.Context, c Config) (*Log, error) {
	return open(ctx, c, true)
}

func open(ctx context.Context, c Config, create bool) (_ *Log, err error) {
	if c.Shard == "" {
		c.Shard = "main"
	}
	if !ledger.ValidPrincipal(c.Shard) {
		return nil, fmt.Errorf("%q is no name of a shard: 1 to 64 of A-Z, a-z, 0-9, '_' and '-'", c.Shard)
	}
	switch c.Replicas {
	case 0, 1, 3, 5:
	default:
		return nil, fmt.Errorf("a log has 1, 3 or 5 replicas, not %d", c.Replicas)
	}
	if (c.Embedded == nil) == (c.External == nil) {
		return nil, errors.New("a log is either embedded or external")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	l := &Log{
		shard:    c.Shard,
		stream:   streamName(c.Shard),
		logger:   c.Logger.With("log", c.Shard),
		pending:  map[*call]struct{}{},
		settling: cmp.Or(c.settling, defaultSettling),
		syncs:    func(context.Context, *streamInfo) error { return nil },
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if c.Embedded != nil {
		var empty bool
		if l.server, empty, err = startEmbedded(c.Embedded, c.Shard, create, l.logger); err != nil {
			return nil, fmt.Errorf("start the embedded broker in %s: %w", c.Embedded.Dir, err)
		}
		create = create || empty
		err = l.connect("", l.server.connectOptions()...)
	} else {
		var options []nats.Option
		if l.syncs, err = c.External.syncs(); err != nil {
			return nil, err
		}
		if options, err = c.External.connectOptions(); err != nil {
			return nil, err
		}
		err = l.connect(c.External.URL, options...)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the log: %w", err)
	}
	if err := checkVersion(l.nc.ConnectedServerVersion()); err != nil {
		return nil, err
	}
	if limit := l.nc.MaxPayload(); limit < ledger.MaxMessage {
		return nil, fmt.Errorf("the broker takes messages of at most %d bytes; set its max_payload to at least %d", limit, ledger.MaxMessage)
	}
	if create {
		if err := l.create(ctx, max(c.Replicas, 1), c.FoldVersion); err != nil {
			return nil, fmt.Errorf("create the log: %w", err)
		}
	}
	if err := l.open(ctx, c.Replicas); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return l, nil
}

func streamName(shard string) string { return "GRANTLOG_" + shard }

// connect makes the connection, which is kept up until Close.
func (l *Log) connect(url string, options ...nats.Option) error {
	nc, err := nats.Connect(url, append(options,
		nats.Name("grantlog"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200*time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1), // nothing is sent later than its caller was told
		nats.IgnoreAuthErrorAbort(),
		nats.Timeout(5*time.Second),
		nats.PingInterval(5*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if l.endCalls("", errConnection) {
				l.logger.Warn("connection to the log lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			l.logger.Info("connected to the log again", "server", nc.ConnectedServerName())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			l.logger.Warn("the broker complains", "error", err)
			if subject, forbidden := forbiddenPublish(err); forbidden {
				l.endCalls(subject, fmt.Errorf("the broker forbids this user to publish to %s", subject))
			}
		}),
	)...)
	if err != nil {
		return err
	}
	l.nc = nc
	return nil
}

// forbiddenPublish returns the subject of a publish that the broker refused. A refused
// publish is not answered; this is the only sign of it.
func forbiddenPublish(err error) (subject string, forbidden bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", false
	}
	_, after, found := strings.Cut(err.Error(), `Publish to "`)
	if !found {
		return "", false
	}
	subject, _, forbidden = strings.Cut(after, `"`)
	return subject, forbidden
}

// begin returns a context for waiting for the broker to answer what is published to a
// subject, which ends when the connection is lost, with that as its cause. done must be
// called.
func (l *Log) begin(ctx context.Context, subject string) (_ context.Context, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	cancel := context.CancelFunc(func() {})
	if _, limited := ctx.Deadline(); !limited && subject != "" {
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
	}
	ctx, end := context.WithCancelCause(ctx)
	c := &call{subject, end}
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.pending[c] = struct{}{}
	}
	l.mu.Unlock()
	done = func() {
		l.mu.Lock()
		delete(l.pending, c)
		l.mu.Unlock()
		end(nil)
		cancel()
	}
	if closed {
		err = errClosed
	} else if !l.nc.IsConnected() {
		err = errConnection
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return ctx, done, nil
}

// endCalls ends the calls to subject, or all if it is "", and reports whether the log
// is open.
func (l *Log) endCalls(subject string, cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.pending {
		if subject == "" || c.subject == subject {
			c.end(cause)
		}
	}
	return !l.closed
}

// create makes the stream and its first message, or two.
func (l *Log) create(ctx context.Context, replicas int, version uint64) error {
	info, err := l.info(ctx)
	switch {
	case err == nil && info.State.Last == 0:
		return fmt.Errorf("stream %s exists and is empty: its creation was interrupted, or its messages were lost; if it never held any, delete it and create the log again", l.stream)
	case err == nil:
		return fmt.Errorf("stream %s exists", l.stream)
	case !errors.Is(err, ledger.ErrMissing):
		return err
	}
	config := pinned(l.shard)
	genesis := ledger.Genesis{Log: ledger.NewUUID(), Config: configHash(config)}
	config["num_replicas"] = replicas
	config["metadata"] = map[string]string{metadataLog: genesis.Log.String()}
	l.config = config
	err = l.request(ctx, "STREAM.CREATE."+l.stream, config, nil)
	if err == nil {
		if info, err = l.info(ctx); err == nil {
			err = l.syncs(ctx, info)
		}
	}
	if err != nil {
		// A cluster may keep a stream that it failed to make.
		if info, gone := l.info(ctx); gone == nil && info.logID() == genesis.Log.String() {
			if undo := l.request(ctx, "STREAM.DELETE."+l.stream, nil, nil); undo != nil {
				l.logger.Error("the stream that cannot be used is left behind", "stream", l.stream, "error", undo)
			}
		}
		return err
	}
	msg := nats.NewMsg(ledger.Subject(l.shard, ledger.GenesisSubject, ""))
	msg.Data = ledger.AppendGenesis(nil, genesis)
	msg.Header.Set("Nats-Expected-Last-Sequence", "0")
	seq, err := l.publish(ctx, msg)
	for tries := 0; errors.Is(err, nats.ErrNoResponders) && tries < 40; tries++ {
		time.Sleep(50 * time.Millisecond) // in a cluster, word of a new stream takes a while to get around
		seq, err = l.publish(ctx, msg)
	}
	if err == nil && seq != 1 {
		err = fmt.Errorf("it was stored as message %d, not 1", seq)
	}
	if err != nil {
		return fmt.Errorf("append the genesis: %w", err)
	}
	if version > ledger.FoldVersion {
		subject, data := ledger.Beginning(l.shard, genesis.Log, version)
		if _, err := l.Append(ctx, subject, data); err != nil {
			return fmt.Errorf("the log is there and can be used, but is under fold version %d until another is activated, because activating version %d failed: %w", ledger.FoldVersion, version, err)
		}
	}
	l.logger.Info("created the log", "id", genesis.Log, "stream", l.stream, "replicas", replicas)
	return nil
}

// open reads the genesis and remembers what Verify compares.
func (l *Log) open(ctx context.Context, replicas int) error {
	info, err := l.info(ctx)
	if err != nil {
		return err
	}
	m, err := l.At(ctx, 1)
	if errors.Is(err, ledger.ErrNotFound) {
		return fmt.Errorf("%w: stream %s has no genesis message; its creation was interrupted, or its messages were lost", ledger.ErrGap, l.stream)
	} else if err != nil {
		return err
	}
	l.first = m.Data
	if l.genesis, err = ledger.DecodeGenesis(m.Data); err != nil {
		return fmt.Errorf("%w: %w", ledger.ErrForeign, err)
	}
	l.config = pinned(l.shard)
	if hash := configHash(l.config); hash != l.genesis.Config {
		return fmt.Errorf("%w: the genesis pins configuration %x, this program knows %x", ledger.ErrDrift, l.genesis.Config[:8], hash[:8])
	}
	if replicas == 0 {
		replicas = info.replicas()
	}
	l.config["num_replicas"] = replicas
	l.config["metadata"] = map[string]string{metadataLog: l.genesis.Log.String()}
	return l.Verify(ctx)
}

// Genesis returns the genesis that was read when the log was opened.
func (l *Log) Genesis() ledger.Genesis { return l.genesis }

// Append stores a message as [ledger.Log] says. There is no message id in it: an id is
// acknowledged as stored whatever other bytes came under it first.
func (l *Log) Append(ctx context.Context, subject string, data []byte) (uint64, error) {
	if kind, _ := ledger.ParseSubject(subject); kind == ledger.OtherSubject || !strings.HasPrefix(subject, "grantlog."+l.shard+".") {
		return 0, fmt.Errorf("%w: %q is no subject of shard %q", ledger.ErrRefused, subject, l.shard)
	}
	if len(data) > ledger.MaxAppend {
		return 0, fmt.Errorf("%w: its data has %d bytes, the limit is %d", ledger.ErrRefused, len(data), ledger.MaxAppend)
	}
	msg := nats.NewMsg(subject)
	msg.Data = data
	msg.Header.Set("Nats-Expected-Stream", l.stream)
	return l.publish(ctx, msg)
}

// notStored are the error codes of acknowledgements that a server gives before it
// stores or proposes a message.
var notStored = map[int]bool{
	10002: true, // account limits
	10023: true, // server limits
	10039: true, // JetStream not enabled for the account
	10047: true, // storage limits
	10054: true, // message too large
	10060: true, // another stream than expected
	10071: true, // another last sequence than expected
	10076: true, // JetStream not enabled
	10097: true, // header too large
	10109: true, // stream sealed
	10167: true, // too many requests
}

func (l *Log) publish(ctx context.Context, msg *nats.Msg) (uint64, error) {
	ctx, done, err := l.begin(ctx, msg.Subject)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ledger.ErrRefused, err)
	}
	defer done()
	reply, err := l.nc.RequestMsgWithContext(ctx, msg)
	switch {
	case err == nil:
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded),
		errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrHeadersNotSupported):
		return 0, fmt.Errorf("%w: %w", ledger.ErrRefused, err)
	case ctx.Err() != nil:
		return 0, fmt.Errorf("append: no answer from the log: %w", context.Cause(ctx))
	default:
		return 0, fmt.Errorf("append: no answer from the log: %w", err)
	}
	var ack struct {
		Error     *apiError `json:"error"`
		Stream    string    `json:"stream"`
		Seq       uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
	}
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil:
		return 0, fmt.Errorf("append: the answer is no acknowledgement: %w", err)
	case ack.Error != nil && notStored[ack.Error.Code]:
		return 0, fmt.Errorf("%w: %w", ledger.ErrRefused, ack.Error)
	case ack.Error != nil:
		return 0, fmt.Errorf("append: %w", ack.Error)
	case ack.Stream != l.stream || ack.Seq == 0 || ack.Duplicate:
		return 0, fmt.Errorf("append: acknowledged by stream %q as message %d, duplicate: %t", ack.Stream, ack.Seq, ack.Duplicate)
	}
	return ack.Seq, nil
}

// At returns the message at seq, or [ledger.ErrNotFound]. The leader of the stream
// answers it: a follower may be behind.
func (l *Log) At(ctx context.Context, seq uint64) (ledger.Message, error) {
	if seq == 0 {
		return ledger.Message{}, fmt.Errorf("message 0: %w", ledger.ErrNotFound)
	}
	var m ledger.Message
	err := l.settle(ctx, func() (err error) {
		m, err = l.message(ctx, map[string]any{"seq": seq})
		return err
	}, ledger.ErrNotFound)
	return m, err
}

// LastOn returns the newest message under subject, or [ledger.ErrNotFound].
func (l *Log) LastOn(ctx context.Context, subject string) (ledger.Message, error) {
	return l.message(ctx, map[string]any{"last_by_subj": subject})
}

// Head returns the sequences of the oldest and the newest message. Of a stream that is
// empty, the oldest is one after the newest.
func (l *Log) Head(ctx context.Context) (first, last uint64, err error) {
	info, err := l.info(ctx)
	if err != nil {
		return 0, 0, err
	}
	return info.State.First, info.State.Last, nil
}

// Verify compares the stream's configuration and first message with those of the log
// that was opened, and how the servers sync with what was promised.
func (l *Log) Verify(ctx context.Context) error {
	info, err := l.info(ctx)
	if err != nil {
		return err
	}
	if id := info.logID(); id != l.genesis.Log.String() {
		return fmt.Errorf("%w: its configuration says log %s, its genesis said %s", ledger.ErrForeign, id, l.genesis.Log)
	}
	if err := compareConfig(info.Config, l.config); err != nil {
		return err
	}
	switch m, err := l.At(ctx, 1); {
	case errors.Is(err, ledger.ErrNotFound):
		return fmt.Errorf("%w: the genesis is not there, the first message is %d", ledger.ErrGap, info.State.First)
	case err != nil:
		return err
	case sha256.Sum256(m.Data) != sha256.Sum256(l.first):
		return fmt.Errorf("%w: its genesis is not the one of log %s", ledger.ErrForeign, l.genesis.Log)
	}
	return l.syncs(ctx, info)
}

// Close ends every Read, closes the connection, and stops the broker if it is an
// embedded one; that waits until what it stored is on disk.
func (l *Log) Close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	l.endCalls("", errClosed)
	if l.nc != nil {
		l.nc.Close()
	}
	if l.server != nil {
		return l.server.stop()
	}
	return nil
}
