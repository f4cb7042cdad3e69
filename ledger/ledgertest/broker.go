// Package ledgertest has what tests of the log's readers and writers need: a [Broker]
// that keeps a log in memory and loses, delays and rewrites it when told to, and
// [Conformance], the suite that this log and JetStream both pass.
//
// A Broker outlives the [Log] handles that are opened on it, as a server outlives the
// replicas that use it, so a test can close a replica, do something to the log, and
// open the next one. It starts no goroutine and works inside a testing/synctest bubble.
package ledgertest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
)

// A Fault is what becomes of one Append.
type Fault struct {
	Kind FaultKind
	// Delay passes before anything else happens. If the caller's context ends first,
	// the message is stored (unless Kind says otherwise) and the caller told nothing.
	Delay time.Duration
	// Hold, if not nil, does the same until it is closed.
	Hold <-chan struct{}
}

// A FaultKind is the kind of a [Fault].
type FaultKind byte

// The kinds of fault.
const (
	None        FaultKind = iota // the append succeeds
	Refuse                       // nothing is stored, and the error is a ledger.ErrRefused
	LoseMessage                  // nothing is stored, and the caller is not told so
	LoseAnswer                   // it is stored, and the caller is not told so
)

// ErrLost is what an Append returns whose message or answer was lost: the caller
// cannot know which.
var ErrLost = errors.New("no answer from the log")

// ErrConnection is what ends a Read when its connection is lost, and what every
// method returns while the broker is down.
var ErrConnection = errors.New("connection to the log lost")

// A Broker keeps a log in memory. Its methods may be called at any time, and take
// effect at once on every [Log] opened on it.
type Broker struct {
	shard string

	mu       sync.Mutex
	genesis  ledger.Genesis
	messages []ledger.Message // by sequence; Pending is not set
	last     uint64           // sequence of the newest message ever stored in this log
	missing  bool
	drift    string
	down     bool
	paused   bool
	cut      uint64        // counts disconnections: a Read begun before a newer one fails
	changed  chan struct{} // closed and renewed at every change that a Read may wait for
	clock    func() int64
	faults   []Fault
	onAppend func(subject string, data []byte) Fault
}

// NewBroker returns a broker whose log, of shard "main", holds its genesis alone.
func NewBroker() *Broker {
	b := &Broker{
		shard:   "main",
		changed: make(chan struct{}),
		clock:   func() int64 { return time.Now().UnixNano() },
	}
	b.start()
	return b
}

// start makes the log a new one.
func (b *Broker) start() {
	b.genesis = ledger.Genesis{Log: ledger.NewUUID(), Config: sha256.Sum256([]byte("in memory"))}
	b.messages, b.last = nil, 0
	b.store(ledger.Subject(b.shard, ledger.GenesisSubject, ""), ledger.AppendGenesis(nil, b.genesis))
}

func (b *Broker) store(subject string, data []byte) uint64 {
	b.last++
	b.messages = append(b.messages, ledger.Message{
		Seq: b.last, Time: b.clock(), Subject: subject, Data: slices.Clone(data),
	})
	b.wake()
	return b.last
}

func (b *Broker) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// find returns the place of the message at seq, or of the first one after it.
func (b *Broker) find(seq uint64) (place int, there bool) {
	place = sort.Search(len(b.messages), func(i int) bool { return b.messages[i].Seq >= seq })
	return place, place < len(b.messages) && b.messages[place].Seq == seq
}

// Open opens the log as a replica does: it reads the genesis and verifies the log.
func (b *Broker) Open() (*Log, error) {
	l := &Log{Broker: b, closed: make(chan struct{})}
	b.mu.Lock()
	l.opened = b.genesis
	b.mu.Unlock()
	if err := l.Verify(context.Background()); err != nil {
		return nil, err
	}
	return l, nil
}

// NextAppends gives the next appends, in turn, these faults.
func (b *Broker) NextAppends(faults ...Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, faults...)
}

// OnAppend has f decide the fault of every append that [Broker.NextAppends] says
// nothing of; nil stops that. f must not call the broker.
func (b *Broker) OnAppend(f func(subject string, data []byte) Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.onAppend = f
}

// SetClock has f give the time of messages, in nanoseconds since the Unix epoch: a
// broker's clock may stand still or run backwards.
func (b *Broker) SetClock(f func() int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = f
}

// Put stores a message as some other publisher does, whatever the faults say, and
// returns its sequence.
func (b *Broker) Put(subject string, data []byte) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.store(subject, data)
}

// Messages returns what the log holds now.
func (b *Broker) Messages() []ledger.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.messages)
}

// Rewind loses the newest n messages (all there are, the genesis too, if n is as
// large), as a store put back to an older state does; their sequences are given again.
// Every Read loses its connection.
func (b *Broker) Rewind(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = min(n, len(b.messages))
	b.messages = slices.Clone(b.messages[:len(b.messages)-n])
	b.last = 0
	if len(b.messages) > 0 {
		b.last = b.messages[len(b.messages)-1].Seq
	}
	b.disconnect()
}

// Drop loses the message at seq alone, which is then missing in the middle, or counted
// though not there if it was the newest. Reads go on over it.
func (b *Broker) Drop(seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i, there := b.find(seq); there {
		b.messages = slices.Delete(slices.Clone(b.messages), i, i+1)
	}
	b.wake()
}

// Alter lets change rewrite the message at seq, except for its sequence.
func (b *Broker) Alter(seq uint64, change func(*ledger.Message)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i, there := b.find(seq); there {
		b.messages = slices.Clone(b.messages)
		m := b.messages[i]
		m.Data = slices.Clone(m.Data)
		change(&m)
		m.Seq = seq
		b.messages[i] = m
	}
}

// Replace puts another log in the place of this one, with its own genesis and nothing
// else. Every Read loses its connection.
func (b *Broker) Replace() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.start()
	b.disconnect()
}

// Remove loses the log as a whole, and Restore brings it back. Every Read loses its
// connection.
func (b *Broker) Remove() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missing = true
	b.disconnect()
}

// Restore undoes [Broker.Remove].
func (b *Broker) Restore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missing = false
}

// Drift makes the configuration of the log differ from the pinned one in field, or in
// nothing if field is "".
func (b *Broker) Drift(field string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drift = field
}

// Disconnect makes every Read lose its connection; reading again works at once.
func (b *Broker) Disconnect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disconnect()
}

func (b *Broker) disconnect() {
	b.cut++
	b.wake()
}

// SetDown makes the broker unreachable, or reachable again. Every Read loses its
// connection when it goes down, and an Append then is refused.
func (b *Broker) SetDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
	if down {
		b.disconnect()
	}
}

// PauseReads keeps messages from every Read until [Broker.ResumeReads], so that
// replicas lag.
func (b *Broker) PauseReads() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = true
}

// ResumeReads undoes [Broker.PauseReads].
func (b *Broker) ResumeReads() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = false
	b.wake()
}

// A Log is a [ledger.Log] opened on a [Broker], whose methods it has too.
type Log struct {
	*Broker
	opened ledger.Genesis // as it was when the log was opened
	once   sync.Once
	closed chan struct{} // closed by Close
}

var _ ledger.Log = (*Log)(nil)

// NewLog opens a new broker's log, which is closed when the test ends.
func NewLog(t testing.TB) *Log {
	t.Helper()
	l, err := NewBroker().Open()
	if err != nil {
		t.Fatalf("open a log in memory: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// usable returns the error of a log that cannot be asked, with b.mu held.
func (l *Log) usable(ctx context.Context) error {
	select {
	case <-l.closed:
		return errClosed
	default:
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case l.down:
		return ErrConnection
	case l.missing:
		return ledger.ErrMissing
	}
	return nil
}

var errClosed = fmt.Errorf("the log is closed: %w", ledger.ErrUnavailable)

// Genesis returns the genesis that was read when the log was opened.
func (l *Log) Genesis() ledger.Genesis { return l.opened }

// Append stores a message, or does what the next [Fault] says.
func (l *Log) Append(ctx context.Context, subject string, data []byte) (uint64, error) {
	if len(data) > ledger.MaxAppend {
		return 0, fmt.Errorf("%w: its data has %d bytes, the limit is %d", ledger.ErrRefused, len(data), ledger.MaxAppend)
	}
	if kind, _ := ledger.ParseSubject(subject); kind == ledger.OtherSubject || !strings.HasPrefix(subject, "grantlog."+l.shard+".") {
		return 0, fmt.Errorf("%w: %q is no subject of shard %q", ledger.ErrRefused, subject, l.shard)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(ctx); err != nil {
		return 0, fmt.Errorf("%w: %w", ledger.ErrRefused, err)
	}
	var f Fault
	if len(l.faults) > 0 {
		f, l.faults = l.faults[0], l.faults[1:]
	} else if l.onAppend != nil {
		f = l.onAppend(subject, data)
	}
	err := l.wait(ctx, f)
	switch f.Kind {
	case Refuse:
		return 0, fmt.Errorf("%w: told to by the test", ledger.ErrRefused)
	case LoseMessage:
		return 0, orElse(err, ErrLost)
	}
	seq := l.store(subject, data)
	if f.Kind == LoseAnswer {
		err = orElse(err, ErrLost)
	}
	if err != nil {
		return 0, err
	}
	return seq, nil
}

func orElse(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// wait waits as f says, with b.mu released meanwhile, and returns ctx's error if that
// ended first.
func (l *Log) wait(ctx context.Context, f Fault) error {
	if f.Delay == 0 && f.Hold == nil {
		return nil
	}
	l.mu.Unlock()
	defer l.mu.Lock()
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Read yields messages as [ledger.Log] says.
func (l *Log) Read(ctx context.Context, from uint64) iter.Seq2[ledger.Message, error] {
	return func(yield func(ledger.Message, error) bool) {
		l.mu.Lock()
		cut, next := l.cut, from
		err := l.usable(ctx)
		switch {
		case err != nil:
		case from == 0:
			err = errors.New("read from 0: the first message is 1")
		case from > l.last+1:
			err = fmt.Errorf("%w: it ends at %d, before %d", ledger.ErrRewound, l.last, from)
		}
		l.mu.Unlock()
		for err == nil {
			l.mu.Lock()
			var m ledger.Message
			i, changed := len(l.messages), l.changed
			if cut != l.cut {
				err = ErrConnection
			} else if err = l.usable(ctx); err == nil && !l.paused {
				if i, _ = l.find(next); i == len(l.messages) && next <= l.last {
					err = fmt.Errorf("%w: it counts %d messages, but %d is not there", ledger.ErrGap, l.last, next)
				}
			}
			have := err == nil && i < len(l.messages)
			if have {
				m = l.messages[i]
				m.Pending = uint64(len(l.messages) - 1 - i)
				next = m.Seq + 1
			}
			l.mu.Unlock()
			switch {
			case err != nil:
			case have:
				if !yield(m, nil) {
					return
				}
			default:
				select {
				case <-changed:
				case <-l.closed:
				case <-ctx.Done():
				}
			}
		}
		if ctx.Err() == nil {
			yield(ledger.Message{}, fmt.Errorf("read the log: %w", err))
		}
	}
}

// At returns the message at seq, or [ledger.ErrNotFound].
func (l *Log) At(ctx context.Context, seq uint64) (ledger.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(ctx); err != nil {
		return ledger.Message{}, err
	}
	if i, there := l.find(seq); there {
		return l.messages[i], nil
	}
	return ledger.Message{}, fmt.Errorf("message %d: %w", seq, ledger.ErrNotFound)
}

// Head returns the sequences of the oldest and the newest message.
func (l *Log) Head(ctx context.Context) (first, last uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(ctx); err != nil {
		return 0, 0, err
	}
	first = l.last + 1
	if len(l.messages) > 0 {
		first = l.messages[0].Seq
	}
	return first, l.last, nil
}

// LastOn returns the newest message under subject, or [ledger.ErrNotFound].
func (l *Log) LastOn(ctx context.Context, subject string) (ledger.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(ctx); err != nil {
		return ledger.Message{}, err
	}
	for _, m := range slices.Backward(l.messages) {
		if m.Subject == subject {
			return m, nil
		}
	}
	return ledger.Message{}, fmt.Errorf("message under %s: %w", subject, ledger.ErrNotFound)
}

// Verify checks that the log is the one that was opened, and not drifted.
func (l *Log) Verify(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(ctx); err != nil {
		return err
	}
	if l.genesis != l.opened {
		return fmt.Errorf("%w: it is %s, not %s", ledger.ErrForeign, l.genesis.Log, l.opened.Log)
	}
	if l.drift != "" {
		return fmt.Errorf("%w: %s", ledger.ErrDrift, l.drift)
	}
	if _, there := l.find(1); !there {
		return fmt.Errorf("%w: the genesis is not there", ledger.ErrGap)
	}
	return nil
}

// Close ends every Read of this handle; the broker keeps the log.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
