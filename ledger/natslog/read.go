package natslog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/nats-io/nats.go"
)

// How a Read asks for messages.
const (
	pullMessages = 500              // most messages of one request
	pullBytes    = 8 << 20          // most bytes of one request, which bounds what waits in memory
	pullExpires  = 30 * time.Second // a request is then made again
	heartbeat    = 500 * time.Millisecond
	silence      = 2 * time.Second // without a heartbeat, or without a message that the log has, is a failure
	forgetAfter  = time.Minute     // the broker drops a reader that asks for nothing
)

// Read yields messages as [ledger.Log] says. It asks for them in turn from a consumer
// that the broker keeps in memory and that dies with the connection, the loop or the
// broker; a watchdog ends it when the broker falls silent, or keeps back messages that
// it counts.
func (l *Log) Read(ctx context.Context, from uint64) iter.Seq2[ledger.Message, error] {
	return func(yield func(ledger.Message, error) bool) {
		if err := l.read(ctx, from, yield); err != nil && ctx.Err() == nil {
			yield(ledger.Message{}, fmt.Errorf("read the log: %w", err))
		}
	}
}

// read returns nil when the loop breaks.
func (l *Log) read(caller context.Context, from uint64, yield func(ledger.Message, error) bool) error {
	if from == 0 {
		return errors.New("read from 0: the first message is 1")
	}
	ctx, done, err := l.begin(caller, "")
	if err != nil {
		return err
	}
	defer done()
	cause := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if err := l.reaches(ctx, from); err != nil {
		return cause(err)
	}
	// The messages come to subject inbox.<number of request> and keep their own; what
	// comes with that as its subject is the broker speaking of the request. A stored
	// message can carry any header, so a status header alone says nothing; a
	// subscription to a channel is the one kind of which the client library does not
	// look at it.
	inbox := l.nc.NewInbox() + "."
	came := make(chan *nats.Msg, pullMessages+128) // a request's messages and heartbeats: it never fills
	sub, err := l.nc.ChanSubscribe(inbox+"*", came)
	if err != nil {
		return cause(err)
	}
	defer sub.Unsubscribe()
	consumer, err := l.createConsumer(ctx, from)
	if err != nil {
		return cause(err)
	}
	defer l.nc.Publish("$JS.API.CONSUMER.DELETE."+l.stream+"."+consumer, nil) // else it is forgotten by itself

	w := watchdog{log: l}
	w.next.Store(from)
	var wg sync.WaitGroup
	defer wg.Wait()
	watching, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	wg.Go(func() { // ends with the read
		if err := w.watch(watching); err != nil {
			stop(err)
		}
	})
	ctx = watching

	request := fmt.Appendf(nil, `{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}`, pullMessages, pullBytes, pullExpires, heartbeat)
	var delivered uint64
	for requests := 0; ; requests++ {
		reply := inbox + strconv.Itoa(requests)
		if err := l.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+l.stream+"."+consumer, reply, request); err != nil {
			return cause(err)
		}
		for open, left := true, pullMessages; open && left > 0; {
			var msg *nats.Msg
			w.wait()
			select {
			case msg = <-came:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			w.heard()
			if strings.HasPrefix(msg.Subject, inbox) {
				still, err := status(msg)
				if errors.Is(err, errNobody) && delivered == 0 && requests < 40 {
					// In a cluster, word of a new consumer takes a while to get around.
					time.Sleep(silence / 40)
				} else if err != nil {
					return err
				}
				if msg.Subject == reply { // it may be the last word on the request before
					open = still
				}
				continue
			}
			m, consumed, err := l.received(msg)
			if err != nil {
				return err
			}
			if delivered++; consumed != delivered {
				return fmt.Errorf("message %d was sent as number %d and came as number %d: others were lost on the way", m.Seq, consumed, delivered)
			}
			left--
			w.next.Store(m.Seq + 1)
			if !yield(m, nil) {
				return nil
			}
		}
	}
}

// reaches returns a [ledger.ErrRewound] if the log ends before from-1: a consumer that
// starts there would wait, and then skip what is stored meanwhile.
func (l *Log) reaches(ctx context.Context, from uint64) error {
	return l.settle(ctx, func() error {
		_, last, err := l.Head(ctx)
		if err == nil && from > last+1 {
			return fmt.Errorf("%w: it ends at %d, before %d", ledger.ErrRewound, last, from-1)
		}
		return err
	}, ledger.ErrRewound)
}

// createConsumer makes a consumer that delivers from a sequence on, and returns its name.
func (l *Log) createConsumer(ctx context.Context, from uint64) (string, error) {
	name := "read_" + ledger.NewUUID().String()
	return name, l.request(ctx, "CONSUMER.CREATE."+l.stream+"."+name, map[string]any{
		"stream_name": l.stream,
		"action":      "create",
		"config": map[string]any{
			"name":               name,
			"deliver_policy":     "by_start_sequence",
			"opt_start_seq":      from,
			"ack_policy":         "none",
			"replay_policy":      "instant",
			"inactive_threshold": forgetAfter,
			"num_replicas":       1,
			"mem_storage":        true,
		},
	}, nil)
}

var errNobody = fmt.Errorf("the broker stops delivering: %w", nats.ErrNoResponders)

// status reads what the broker says of a request: whether it is still open, or an error
// if the consumer is of no use any more.
func status(msg *nats.Msg) (open bool, err error) {
	code, text := msg.Header.Get("Status"), msg.Header.Get("Description")
	switch code {
	case "100": // heartbeat
		return true, nil
	case "404", "408": // expired
		return false, nil
	case "409":
		if text == "Message Size Exceeds MaxBytes" || text == "Batch Completed" {
			return false, nil
		}
	case "503":
		return false, errNobody
	}
	return false, fmt.Errorf("the broker stops delivering: %s %s", code, text)
}

// received returns a message of the stream, and its number among those that the
// consumer sent.
func (l *Log) received(msg *nats.Msg) (ledger.Message, uint64, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return ledger.Message{}, 0, fmt.Errorf("a message under %q that the stream did not send: %w", msg.Subject, err)
	}
	if meta.Stream != l.stream {
		return ledger.Message{}, 0, fmt.Errorf("a message of stream %q", meta.Stream)
	}
	return ledger.Message{
		Seq:     meta.Sequence.Stream,
		Time:    meta.Timestamp.UnixNano(),
		Subject: msg.Subject,
		Data:    msg.Data,
		Pending: meta.NumPending,
	}, meta.Sequence.Consumer, nil
}

// A watchdog looks after a Read while that waits for a message.
type watchdog struct {
	log     *Log
	next    atomic.Uint64 // sequence that is waited for, at least
	waiting atomic.Int64  // when the wait for anything at all began, Unix nanoseconds; 0: the caller has the turn
}

func (w *watchdog) wait()  { w.waiting.Store(time.Now().UnixNano()) }
func (w *watchdog) heard() { w.waiting.Store(0) }

// watch returns why the read must end, or nil when ctx ends.
func (w *watchdog) watch(ctx context.Context) error {
	tick := time.NewTicker(silence / 4)
	defer tick.Stop()
	var stuckAt uint64 // sequence that the log has and does not deliver
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		next, waiting := w.next.Load(), w.waiting.Load()
		if waiting == 0 {
			stuckAt = 0
			continue
		}
		if d := time.Since(time.Unix(0, waiting)); d > silence {
			return fmt.Errorf("no heartbeat from the broker for %v", d.Round(time.Millisecond))
		}
		asking, done := context.WithTimeout(ctx, silence)
		_, last, err := w.log.Head(asking)
		done()
		switch {
		case err != nil || next == last+1 || next != w.next.Load():
			stuckAt = 0 // what cannot be asked now is found out when it can
		case next != stuckAt:
			stuckAt, since = next, time.Now()
		case time.Since(since) < silence:
		case next > last+1:
			return fmt.Errorf("%w: it ends at %d, after %d was read", ledger.ErrRewound, last, next-1)
		default:
			if _, err := w.log.At(ctx, next); errors.Is(err, ledger.ErrNotFound) {
				return fmt.Errorf("%w: it counts %d messages, but %d is not there", ledger.ErrGap, last, next)
			}
			return fmt.Errorf("the broker has %d messages, and for %v did not deliver message %d", last, time.Since(since).Round(time.Millisecond), next)
		}
	}
}
