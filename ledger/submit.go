package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A Key is what makes a command the same command: its store, actor, id and content.
type Key struct {
	Store   ID
	Actor   string
	ID      UUID
	Content Hash
}

// A Decided is what became of a command, as the local projector folded it.
type Decided struct {
	ID       UUID
	Outcome  Outcome
	Revision Revision // of the command's entry; of a duplicate, of its own entry and not the first's
	Time     int64    // log time of that entry
	Token    Token    // reads at least as fresh as this see the command
	Original *Outcome // of a duplicate, the outcome of the command it repeats
}

// Config is what a [Ledger] needs.
type Config struct {
	Log   Log
	Shard string // of the subjects; "main" if empty
	Node  string // this edge's name in the subjects; "edge" if empty

	// Watch registers interest in a command before it is appended; the channel gets
	// what became of it when the local projector folds it, and is closed if that never
	// will. cancel ends the interest.
	Watch func(Key) (decided <-chan Decided, cancel func())

	// Ready returns nil if commands may be appended now, else an [ErrUnavailable] or
	// [ErrQuarantined] that says why not. It is asked for every command.
	Ready func() error

	// RetryFor is how long a message whose answer was lost is sent again, so that
	// its commands end in a known outcome; 20 seconds if zero, which outlasts the
	// election of a new leader.
	RetryFor time.Duration

	// MaxWaiting is the most commands that may wait to be appended; 10,000 if zero.
	// Above it Submit returns [ErrUnavailable] at once.
	MaxWaiting int

	Logger   *slog.Logger              // slog.Default if nil
	Appended func(bytes, commands int) // called after each stored envelope, or nil
}

// A Ledger appends commands to the log. It packs those that arrive while a message is
// being stored into the next one, because storing a message costs an fsync however
// many commands it holds; a lone command does not wait.
//
// Its methods may be called concurrently.
type Ledger struct {
	cfg     Config
	subject string

	waiting chan struct{} // has one token while queue is not empty
	stop    context.CancelFunc
	done    chan struct{} // closed when the committing goroutine has ended

	mu     sync.Mutex // guards the fields below
	queue  []*pending
	closed bool
}

// pending is one command on its way into the log.
type pending struct {
	enclosed Enclosed
	appended chan error  // gets one answer: nil once stored, else why not
	answered atomic.Bool // its caller needs no answer any more
}

// New returns a Ledger that runs until Close.
func New(cfg Config) *Ledger {
	if cfg.Shard == "" {
		cfg.Shard = "main"
	}
	if cfg.Node == "" {
		cfg.Node = "edge"
	}
	if cfg.RetryFor == 0 {
		cfg.RetryFor = 20 * time.Second
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = 10_000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Appended == nil {
		cfg.Appended = func(int, int) {}
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Ledger{
		cfg:     cfg,
		subject: Subject(cfg.Shard, EdgeSubject, cfg.Node),
		waiting: make(chan struct{}, 1),
		stop:    stop,
		done:    make(chan struct{}),
	}
	go l.commit(ctx) // ended and waited for by Close
	return l
}

// Close refuses further commands, gives those that wait an [ErrUnavailable] or, where
// their message may be stored, an [ErrUnknownOutcome], and returns when all is quiet.
func (l *Ledger) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.stop()
	<-l.done
}

// Submit appends the command on behalf of origin and returns what the fold decided,
// once the local projector has folded it.
//
// Errors: a [*Rejection] if the command is malformed, and nothing was appended;
// [ErrRefused], [ErrUnavailable] or [ErrQuarantined] if nothing was appended for other
// reasons; [ErrUnknownOutcome] if the command may be in the log, because ctx ended or
// the log's answers were lost for too long. It is safe to submit the same command
// again after any of them.
func (l *Ledger) Submit(ctx context.Context, origin Origin, c *Command) (Decided, error) {
	return l.submit(ctx, origin, c, true)
}

// Append is Submit, but returns once the command is stored, before it is decided: the
// Decided has its ID alone.
func (l *Ledger) Append(ctx context.Context, origin Origin, c *Command) (Decided, error) {
	return l.submit(ctx, origin, c, false)
}

func (l *Ledger) submit(ctx context.Context, origin Origin, c *Command, wait bool) (Decided, error) {
	if r := CheckText("actor", origin.Actor, 1, MaxLabel); r != nil {
		return Decided{}, r
	}
	if !origin.Method.Valid() {
		return Decided{}, Reject(CodeMalformed, "method", "unknown %s", origin.Method)
	}
	if r := c.Validate(); r != nil {
		return Decided{}, r
	}
	raw := AppendCommand(nil, c)
	if len(raw) > MaxCommand {
		return Decided{}, Reject(CodeMalformed, "", "a command must be at most %d bytes, this is %d", MaxCommand, len(raw))
	}
	if err := l.cfg.Ready(); err != nil {
		return Decided{}, err
	}
	// Watching begins before the append, so that no decision is missed.
	decided, cancel := l.cfg.Watch(Key{c.Store, origin.Actor, c.ID, c.ContentHash()})
	defer cancel()
	p := &pending{enclosed: Enclosed{origin, raw}, appended: make(chan error, 1)}
	if err := l.enqueue(p); err != nil {
		return Decided{}, err
	}
	defer p.answered.Store(true)
	appended := p.appended
	// fail returns err, unless the fold has answered at the same moment.
	fail := func(err error) (Decided, error) {
		select {
		case d, ok := <-decided:
			if ok {
				return d, nil
			}
		default:
		}
		return Decided{}, err
	}
	for {
		select {
		case d, ok := <-decided:
			if !ok {
				return Decided{}, fmt.Errorf("%w: command %s: this replica decides nothing any more: %w", ErrUnknownOutcome, c.ID, ErrQuarantined)
			}
			return d, nil
		case err := <-appended:
			if err != nil {
				return fail(err)
			}
			if !wait {
				return Decided{ID: c.ID}, nil
			}
			appended = nil // stored: from here on only the fold answers
		case <-ctx.Done():
			return fail(fmt.Errorf("%w: command %s: %w", ErrUnknownOutcome, c.ID, ctx.Err()))
		case <-l.done:
			select {
			case err := <-appended: // its answer was given before the end
				if err != nil {
					return fail(err)
				}
			default:
			}
			return fail(fmt.Errorf("%w: command %s: closing", ErrUnknownOutcome, c.ID))
		}
	}
}

func (l *Ledger) enqueue(p *pending) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return fmt.Errorf("%w: closing", ErrUnavailable)
	case len(l.queue) >= l.cfg.MaxWaiting:
		return fmt.Errorf("%w: %d commands wait to be appended already", ErrUnavailable, len(l.queue))
	}
	l.queue = append(l.queue, p)
	select {
	case l.waiting <- struct{}{}:
	default:
	}
	return nil
}

// take returns the commands of the next envelope: as many as wait and fit.
func (l *Ledger) take() []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	const overhead = MaxLabel + 16 // of a command in an envelope, at most
	n, size := 0, 16
	for n < len(l.queue) && n < MaxEnclosed {
		if size += len(l.queue[n].enclosed.Raw) + overhead; size > MaxAppend && n > 0 {
			break
		}
		n++
	}
	group := l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return group
}

// commit appends one envelope after the other until ctx is done.
func (l *Ledger) commit(ctx context.Context) {
	defer close(l.done)
	for {
		group := l.take()
		if len(group) == 0 {
			select {
			case <-l.waiting:
				continue
			case <-ctx.Done():
				// Close has set closed, so nothing more is enqueued; what was is still refused.
				for group := l.take(); len(group) > 0; group = l.take() {
					answer(group, fmt.Errorf("%w: closing", ErrUnavailable))
				}
				return
			}
		}
		if ctx.Err() != nil {
			answer(group, fmt.Errorf("%w: closing", ErrUnavailable))
			continue
		}
		l.store(ctx, group)
	}
}

// store appends the group. If the log's answer is lost, the message may be stored or
// not, and nothing that could be asked settles it: a copy may still be on its way. So
// the same commands are sent again, under the same ids, until an answer comes; if
// several copies arrive, the fold applies the first and records the others as its
// duplicates. Those that the fold has answered meanwhile are left out.
func (l *Ledger) store(ctx context.Context, group []*pending) {
	var lost error
	deadline := time.Now().Add(l.cfg.RetryFor)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		enclosed := make([]Enclosed, len(group))
		for i, p := range group {
			enclosed[i] = p.enclosed
		}
		data := AppendEnvelope(nil, enclosed)
		_, err := l.cfg.Log.Append(ctx, l.subject, data)
		switch {
		case err == nil:
			l.cfg.Appended(len(data), len(group))
			answer(group, nil)
			return
		case errors.Is(err, ErrRefused) && lost == nil:
			answer(group, err)
			return
		case !errors.Is(err, ErrRefused):
			lost = err // from now on a refusal settles nothing: an earlier copy may be stored
		}
		l.cfg.Logger.Warn("append: no definite answer; sending again", "commands", len(group), "error", err)
		if ctx.Err() == nil && time.Now().Before(deadline) {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
		var open []*pending
		for _, p := range group {
			if !p.answered.Load() {
				open = append(open, p)
			}
		}
		if group = open; len(group) == 0 {
			return
		}
		if ctx.Err() != nil || !time.Now().Before(deadline) {
			answer(group, fmt.Errorf("%w: %w", ErrUnknownOutcome, lost))
			return
		}
	}
}

func answer(group []*pending, err error) {
	for _, p := range group {
		p.appended <- err
	}
}

// A Barrier finds out how far the log reaches, for reads that must see everything
// that was acknowledged before they were asked: it appends an envelope without
// commands, which only a log that still takes writes can store. All who wait share
// one, and one at a time is in flight.
type Barrier struct {
	log     Log
	subject string

	ctx  context.Context // done once Close is called
	stop context.CancelFunc
	runs sync.WaitGroup // the appending goroutine, while there is one

	mu      sync.Mutex // guards the fields below
	running bool
	next    *barrierCall // whom the next append will answer, or nil
}

type barrierCall struct {
	done chan struct{}
	seq  uint64
	err  error
}

// NewBarrier returns a Barrier that appends under the subject of this node.
func NewBarrier(log Log, shard, node string) *Barrier {
	ctx, stop := context.WithCancel(context.Background())
	return &Barrier{log: log, subject: Subject(shard, EdgeSubject, node), ctx: ctx, stop: stop}
}

// Close fails those who wait, with an [ErrUnavailable]. Nobody may call Wait any more.
func (b *Barrier) Close() {
	b.stop()
	b.runs.Wait()
}

// Wait returns a sequence of the log that is newer than every message stored before
// Wait was called, or an [ErrUnavailable].
func (b *Barrier) Wait(ctx context.Context) (uint64, error) {
	b.mu.Lock()
	if b.next == nil {
		b.next = &barrierCall{done: make(chan struct{})}
	}
	call := b.next
	if !b.running {
		b.running = true
		b.runs.Go(b.run) // ends when nobody waits; each append has its own time limit
	}
	b.mu.Unlock()
	select {
	case <-call.done:
		return call.seq, call.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: the log did not answer: %w", ErrUnavailable, ctx.Err())
	}
}

func (b *Barrier) run() {
	for {
		b.mu.Lock()
		call := b.next
		b.next = nil
		if call == nil {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
		call.seq, call.err = b.log.Append(ctx, b.subject, AppendEnvelope(nil, nil))
		cancel()
		if call.err != nil {
			call.err = fmt.Errorf("%w: barrier: %w", ErrUnavailable, call.err)
		}
		close(call.done)
	}
}
