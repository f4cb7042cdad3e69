// Package projector folds the log into a local index, and gives views of it as fresh
// as a question asks for.
//
// One goroutine reads the log in order, decides each command against the state just
// before it (package decide), and commits what follows in batches (package index).
// Start, recovery after a crash and normal running are the same loop: read on from
// the position that the index is at.
//
// The log is not trusted to keep the past. Before the loop reads on, at start and
// after every lost connection, it compares the log with what it folded; while it
// reads, it requires every sequence in turn. What does not fit quarantines the
// replica: it answers nothing, and never folds on top of the wrong past.
package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector/index"
)

// Config is what a [Projector] needs.
type Config struct {
	Log   ledger.Log
	Shard string // of the subjects; "main" if empty
	Node  string // this replica's name in the subjects; "edge" if empty
	Index index.Options

	// FreeSpace returns the bytes free where the index and, if embedded, the log are
	// kept. While it is below MinFree, commands are refused and nothing is folded.
	// Nil: there is no guard.
	FreeSpace func() (uint64, error)
	MinFree   uint64 // bytes; 256 MiB if zero

	BatchMessages int           // most messages of one batch; 64 if zero
	BatchBytes    int           // a batch is committed once its messages exceed this; 1 MiB if zero
	CheckEvery    time.Duration // how often the log's configuration, its head and the free space are looked at; 2 s if zero
	RetryAfter    time.Duration // pause before the log is read again after a failure; 200 ms if zero

	// Decided is called after each batch with what it decided, for metrics; or nil.
	Decided func(kind ledger.OutcomeKind, n int)
	Logger  *slog.Logger     // slog.Default if nil
	Now     func() time.Time // time.Now if nil
}

// MaxClockLead is how far the log's time may be ahead of this node's clock before
// commands are refused: every expiry is counted in log time, and it never runs back.
const MaxClockLead = 5 * time.Minute

// A Projector is one replica's projection of the log. Its methods may be called
// concurrently.
type Projector struct {
	cfg     Config
	index   *index.Index
	barrier *ledger.Barrier
	damage  chan error // what Pebble reports in the background

	noSpace   atomic.Bool   // set by the watch, read by Ready and the fold
	head      atomic.Uint64 // newest sequence known to be in the log
	applied   atomic.Uint64 // newest sequence folded and visible
	newest    atomic.Int64  // highest log time folded, nanoseconds
	connected atomic.Bool   // the fold is reading

	mu       sync.Mutex // guards the fields below
	lost     error      // why the replica is quarantined, or nil
	failure  error      // why the fold is not reading just now, or nil
	stopFold func()
	changed  chan struct{}
	watchers map[ledger.Key][]chan ledger.Decided
	restores map[ledger.ID]string // of each store that Restore runs for, why entries were not taken last
	closed   bool
}

// Open opens the index of cfg, which may be of any age or absent, and folds nothing
// yet. An index that is damaged or of an older format is dropped; Run folds the log
// again from its start. An index of a newer format is an [index.ErrNewerFormat].
func Open(cfg Config) (*Projector, error) {
	if cfg.Shard == "" {
		cfg.Shard = "main"
	}
	if cfg.Node == "" {
		cfg.Node = "edge"
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 256 << 20
	}
	if cfg.BatchMessages == 0 {
		cfg.BatchMessages = 64
	}
	if cfg.BatchBytes == 0 {
		cfg.BatchBytes = 1 << 20
	}
	if cfg.CheckEvery == 0 {
		cfg.CheckEvery = 2 * time.Second
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = 200 * time.Millisecond
	}
	if cfg.Decided == nil {
		cfg.Decided = func(ledger.OutcomeKind, int) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	damage := make(chan error, 1)
	report := cfg.Index.OnFault
	cfg.Index.OnFault = func(f index.Fault) {
		if f.Kind == index.FaultDamage {
			select {
			case damage <- fmt.Errorf("%w: %s", index.ErrDamaged, f.Text):
			default: // one is enough
			}
		}
		if report != nil {
			report(f)
		}
	}
	x, err := openIndex(cfg)
	if err != nil {
		return nil, err
	}
	p := &Projector{
		damage:   damage,
		cfg:      cfg,
		index:    x,
		barrier:  ledger.NewBarrier(cfg.Log, cfg.Shard, cfg.Node),
		changed:  make(chan struct{}),
		watchers: make(map[ledger.Key][]chan ledger.Decided),
		restores: make(map[ledger.ID]string),
	}
	p.applied.Store(x.Position().Seq)
	p.head.Store(x.Position().Seq)
	if err := p.noteTimes(); err != nil {
		return nil, errors.Join(fmt.Errorf("read index: %w", err), x.Close())
	}
	return p, nil
}

// condemned is the file beside the index that says it is damaged, from the moment
// that was found until the index is dropped.
func condemned(o index.Options) string { return o.Dir + ".damaged" }

// condemn makes the next [Open] drop the index.
func condemn(o index.Options) error {
	return os.WriteFile(condemned(o), []byte("The index beside this file is damaged. It is dropped and folded again at the next start.\n"), 0o600)
}

// openIndex opens the index, dropping it first if it cannot be used.
func openIndex(cfg Config) (*index.Index, error) {
	_, err := os.Stat(condemned(cfg.Index))
	var x *index.Index
	if err == nil {
		err = fmt.Errorf("%w: damage was found", index.ErrRebuild)
	} else {
		x, err = index.Open(cfg.Index)
	}
	if errors.Is(err, index.ErrRebuild) {
		cfg.Logger.Warn("dropping the index; it is folded again from the log", "error", err)
		if err := index.Drop(cfg.Index.Dir); err != nil {
			return nil, fmt.Errorf("drop index: %w", err)
		}
		if err := os.Remove(condemned(cfg.Index)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		x, err = index.Open(cfg.Index)
	}
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return x, nil
}

// Close closes the index. Run must have returned, and every View be closed.
func (p *Projector) Close() error {
	p.mu.Lock()
	p.closed = true
	close(p.changed) // wakes those who wait; they see closed
	p.mu.Unlock()
	p.barrier.Close()
	return p.index.Close()
}

// Index returns the index, for questions about stores as a whole. Its views are taken
// with [Projector.View], which refuses while quarantined.
func (p *Projector) Index() *index.Index { return p.index }

// Ready returns nil if commands may be appended: the replica is neither quarantined
// nor out of space, and the log's time does not lead this node's clock.
func (p *Projector) Ready() error {
	if err := p.Quarantine(); err != nil {
		return err
	}
	if p.noSpace.Load() {
		return fmt.Errorf("%w: less than %d MiB of disk are free", ledger.ErrUnavailable, p.cfg.MinFree>>20)
	}
	if lead := time.Duration(p.newest.Load() - p.cfg.Now().UnixNano()); lead > MaxClockLead {
		return fmt.Errorf("%w: the log's time is %s ahead of this node's clock; one of the two is wrong", ledger.ErrUnavailable, lead.Round(time.Second))
	}
	return nil
}

// Quarantine returns why this replica answers nothing, an [ledger.ErrQuarantined], or nil.
func (p *Projector) Quarantine() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Status says where the replica stands.
type Status struct {
	Log         ledger.UUID
	Applied     uint64        // sequence of the newest message folded
	Head        uint64        // sequence of the newest message known to be in the log
	Epoch       uint64        // losses accepted so far
	LogTime     int64         // highest log time folded, nanoseconds since the Unix epoch
	Lag         time.Duration // how long ago the newest folded message was stored, if there are newer ones
	Connected   bool          // the log is being read
	Quarantined error         // why nothing is answered, or nil
	Failure     error         // why the log is not being read just now, or nil
	NoSpace     bool          // the free-space guard holds commands and the fold
}

// CaughtUp reports whether everything known to be in the log is folded.
func (s Status) CaughtUp() bool { return s.Connected && s.Applied >= s.Head }

// Status returns where the replica stands now.
func (p *Projector) Status() Status {
	pos := p.index.Position()
	s := Status{
		Log:       p.cfg.Log.Genesis().Log,
		Applied:   p.applied.Load(),
		Head:      p.head.Load(),
		Epoch:     pos.Epoch,
		LogTime:   p.newest.Load(),
		Connected: p.connected.Load(),
		NoSpace:   p.noSpace.Load(),
	}
	if s.Head > s.Applied && s.LogTime > 0 {
		s.Lag = max(0, time.Duration(p.cfg.Now().UnixNano()-s.LogTime))
	}
	p.mu.Lock()
	s.Quarantined, s.Failure = p.lost, p.failure
	p.mu.Unlock()
	return s
}

// Watch registers interest in a command, as [ledger.Config] asks: the channel gets
// what became of the next entry with this key, and is closed by a quarantine.
func (p *Projector) Watch(k ledger.Key) (<-chan ledger.Decided, func()) {
	ch := make(chan ledger.Decided, 1)
	p.mu.Lock()
	if p.lost != nil {
		close(ch)
	} else {
		p.watchers[k] = append(p.watchers[k], ch)
	}
	p.mu.Unlock()
	return ch, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		rest := p.watchers[k][:0]
		for _, c := range p.watchers[k] {
			if c != ch {
				rest = append(rest, c)
			}
		}
		if len(rest) == 0 {
			delete(p.watchers, k)
		} else {
			p.watchers[k] = rest
		}
	}
}

// waitFor returns once ok reports true, which it is asked after each batch; it fails
// with an [ledger.ErrUnavailable] when ctx ends, or with the quarantine.
func (p *Projector) waitFor(ctx context.Context, what string, ok func() bool) error {
	for {
		p.mu.Lock()
		changed, lost, closed := p.changed, p.lost, p.closed
		p.mu.Unlock()
		switch {
		case lost != nil:
			return lost
		case ok():
			return nil
		case closed:
			return fmt.Errorf("%w: closing", ledger.ErrUnavailable)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w", ledger.ErrUnavailable, what, ctx.Err())
		}
	}
}

// wake makes those who wait look again. p.mu must be held.
func (p *Projector) wake() {
	if !p.closed {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// noteTimes takes over the highest log time of the index.
func (p *Projector) noteTimes() error {
	return eachHead(p.index, func(h index.Head) error {
		if h.Time > p.newest.Load() {
			p.newest.Store(h.Time)
		}
		return nil
	})
}

// eachHead calls f for the system store and then every other, in order of id.
func eachHead(x *index.Index, f func(index.Head) error) error {
	h, _ := x.Head(ledger.System)
	for page, after := []index.Head{h}, ledger.System; len(page) > 0; {
		for _, h := range page {
			if err := f(h); err != nil {
				return err
			}
			after = h.Store
		}
		var err error
		if page, err = x.Stores(after, 1000); err != nil {
			return err
		}
	}
	return nil
}
