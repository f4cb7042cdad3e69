package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
)

// patience is how long the suite waits for what must happen at once.
const patience = 10 * time.Second

// Conformance checks that a log does what [ledger.Log] says, as far as it can be seen
// without breaking the log. create makes a new log of shard "main" that holds its
// genesis alone, and returns what opens it; one handle is open at a time.
func Conformance(t *testing.T, create func(t *testing.T) (open func() (ledger.Log, error))) {
	for _, tt := range []struct {
		name string
		run  func(t *testing.T, l ledger.Log)
	}{
		{"genesis", testGenesis},
		{"append", testAppend},
		{"concurrent appends", testConcurrentAppends},
		{"read from any place", testReadFrom},
		{"read follows", testReadFollows},
		{"read ends", testReadEnds},
		{"read past the end", testReadPastEnd},
		{"at", testAt},
		{"last on", testLastOn},
		{"size limit", testSizeLimit},
		{"refused", testRefused},
		{"expired context", testExpired},
		{"close", testClose},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := mustOpen(t, create(t))
			defer l.Close()
			tt.run(t, l)
			if err := l.Verify(within(t)); err != nil && tt.name != "close" {
				t.Errorf("Verify at the end: %v", err)
			}
		})
	}
	t.Run("reopen", func(t *testing.T) { testReopen(t, create(t)) })
	t.Run("goroutines", func(t *testing.T) { testGoroutines(t, create(t)) })
}

func mustOpen(t *testing.T, open func() (ledger.Log, error)) ledger.Log {
	t.Helper()
	l, err := open()
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return l
}

// within returns a context of patience.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

var edge = ledger.Subject("main", ledger.EdgeSubject, "a")

// fill appends n messages under edge, with data "1", "2" …
func fill(t *testing.T, l ledger.Log, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Append(within(t), edge, fmt.Append(nil, i+1)); err != nil {
			t.Fatalf("Append %d of %d: %v", i+1, n, err)
		}
	}
}

// take reads n messages from a sequence on.
func take(t *testing.T, l ledger.Log, from uint64, n int) []ledger.Message {
	t.Helper()
	var got []ledger.Message
	if n == 0 {
		return nil
	}
	for m, err := range l.Read(within(t), from) {
		if err != nil {
			t.Fatalf("Read(%d) after %d messages: %v", from, len(got), err)
		}
		if got = append(got, m); len(got) == n {
			return got
		}
	}
	t.Fatalf("Read(%d) ended after %d messages, want %d", from, len(got), n)
	return nil
}

func wantHead(t *testing.T, l ledger.Log, first, last uint64) {
	t.Helper()
	if f, la, err := l.Head(within(t)); err != nil || f != first || la != last {
		t.Errorf("Head = %d, %d, %v; want %d, %d", f, la, err, first, last)
	}
}

func same(a, b ledger.Message) bool {
	return a.Seq == b.Seq && a.Time == b.Time && a.Subject == b.Subject && bytes.Equal(a.Data, b.Data)
}

func testGenesis(t *testing.T, l ledger.Log) {
	g := l.Genesis()
	if g.Log.IsZero() || g.Config == (ledger.Hash{}) {
		t.Errorf("Genesis = %+v, want a log id and a configuration hash", g)
	}
	wantHead(t, l, 1, 1)
	m := take(t, l, 1, 1)[0]
	if m.Seq != 1 || m.Subject != ledger.Subject("main", ledger.GenesisSubject, "") || m.Pending != 0 {
		t.Errorf("first message = %+v, want the genesis and nothing after it", m)
	}
	if got, err := ledger.DecodeGenesis(m.Data); err != nil || got != g {
		t.Errorf("first message holds %+v, %v; want %+v", got, err, g)
	}
}

func testAppend(t *testing.T, l ledger.Log) {
	before := time.Now().Add(-time.Minute).UnixNano()
	data := []byte("x0")
	for i := range 5 {
		data[1] = byte('0' + i)
		subject := ledger.Subject("main", ledger.EdgeSubject, fmt.Sprint("node", i))
		seq, err := l.Append(within(t), subject, data)
		if err != nil || seq != uint64(i+2) {
			t.Fatalf("Append = %d, %v; want %d", seq, err, i+2)
		}
	}
	data[0] = 'y' // the log must have kept what it was given
	for i, m := range take(t, l, 2, 5) {
		if m.Seq != uint64(i+2) || string(m.Data) != fmt.Sprint("x", i) || m.Subject != "grantlog.main.edge."+fmt.Sprint("node", i) {
			t.Errorf("message %d = %+v", i+2, m)
		}
		if m.Time < before {
			t.Errorf("message %d has time %d, long before now", i+2, m.Time)
		}
	}
	if seq, err := l.Append(within(t), edge, nil); err != nil || seq != 7 {
		t.Errorf("Append of no data = %d, %v; want 7", seq, err)
	}
	wantHead(t, l, 1, 7)
}

func testConcurrentAppends(t *testing.T, l ledger.Log) {
	const writers, each = 8, 20
	var mu sync.Mutex
	stored := map[uint64]string{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				data := fmt.Sprint(w, "/", i)
				seq, err := l.Append(within(t), edge, []byte(data))
				if err != nil {
					t.Errorf("Append %s: %v", data, err)
					return
				}
				mu.Lock()
				if other, there := stored[seq]; there {
					t.Errorf("%s and %s were both stored at %d", other, data, seq)
				}
				stored[seq] = data
				mu.Unlock()
			}
		})
	}
	got := take(t, l, 2, writers*each) // while they are being appended
	wg.Wait()
	for i, m := range got {
		if m.Seq != uint64(i+2) || string(m.Data) != stored[m.Seq] {
			t.Fatalf("message %d in turn is %d %q, want %q", i+2, m.Seq, m.Data, stored[uint64(i+2)])
		}
	}
	wantHead(t, l, 1, writers*each+1)
}

func testReadFrom(t *testing.T, l ledger.Log) {
	fill(t, l, 9)
	all := take(t, l, 1, 10)
	for from := uint64(1); from <= 10; from++ {
		for i, m := range take(t, l, from, int(11-from)) {
			if want := all[int(from)-1+i]; !same(m, want) {
				t.Errorf("Read(%d): message %d in turn = %+v, want %+v", from, i, m, want)
			}
			if want := 10 - m.Seq; m.Pending != want {
				t.Errorf("Read(%d): message %d has %d pending, want %d", from, m.Seq, m.Pending, want)
			}
		}
	}
	// A position is compared with what At returns, so that must be the same message.
	for _, want := range all {
		if m, err := l.At(within(t), want.Seq); err != nil || !same(m, want) {
			t.Errorf("At(%d) = %+v, %v; want %+v", want.Seq, m, err, want)
		}
	}
}

func testReadFollows(t *testing.T, l ledger.Log) {
	fill(t, l, 3)
	for _, from := range []uint64{1, 5} { // from the beginning, and from the end
		_, last, err := l.Head(within(t))
		if err != nil {
			t.Fatal(err)
		}
		next := from
		want := last + 3
		if next > last {
			fill(t, l, 1)
		}
		for m, err := range l.Read(within(t), from) {
			if err != nil {
				t.Fatalf("Read(%d) at %d: %v", from, next, err)
			}
			if m.Seq != next {
				t.Fatalf("Read(%d) yields %d, want %d", from, m.Seq, next)
			}
			if next == want {
				break
			}
			if next++; m.Pending == 0 { // caught up: only a message that comes later can end this
				fill(t, l, 1)
			}
		}
	}
}

func testReadEnds(t *testing.T, l ledger.Log) {
	fill(t, l, 2)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	n := 0
	for m, err := range l.Read(ctx, 1) {
		if err != nil {
			t.Fatalf("the end of the context was yielded as %v", err)
		}
		if n++; m.Pending == 0 {
			time.AfterFunc(10*time.Millisecond, cancel) // while Read waits
		}
	}
	if n != 3 || ctx.Err() == nil {
		t.Errorf("Read yielded %d messages and then ended, context: %v; want 3 and a context that ended", n, ctx.Err())
	}
	for range l.Read(ctx, 1) {
		t.Error("Read with a context that had ended yielded something")
	}
	if failure(l.Read(within(t), 0)) == nil {
		t.Error("Read(0) did not fail")
	}
}

// failure returns the error that a Read yields.
func failure(read func(func(ledger.Message, error) bool)) error {
	for _, err := range read {
		if err != nil {
			return err
		}
	}
	return nil
}

func testReadPastEnd(t *testing.T, l ledger.Log) {
	fill(t, l, 2)
	for _, from := range []uint64{5, 6, 1000} {
		n := 0
		for m, err := range l.Read(within(t), from) {
			if n++; !errors.Is(err, ledger.ErrRewound) || !ledger.IsQuarantine(err) {
				t.Fatalf("Read(%d) of a log of 3 yielded %+v, %v; want ErrRewound", from, m, err)
			}
		}
		if n != 1 {
			t.Errorf("Read(%d) of a log of 3 yielded %d elements, want 1", from, n)
		}
	}
}

func testAt(t *testing.T, l ledger.Log) {
	fill(t, l, 2)
	if m, err := l.At(within(t), 3); err != nil || m.Seq != 3 || m.Subject != edge || string(m.Data) != "2" {
		t.Errorf("At(3) = %+v, %v", m, err)
	}
	for _, seq := range []uint64{0, 4, 1 << 40} {
		if m, err := l.At(within(t), seq); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("At(%d) = %+v, %v; want ErrNotFound", seq, m, err)
		}
	}
}

func testLastOn(t *testing.T, l ledger.Log) {
	epoch := ledger.Subject("main", ledger.EpochSubject, "")
	if m, err := l.LastOn(within(t), epoch); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("LastOn(%s) = %+v, %v; want ErrNotFound", epoch, m, err)
	}
	for _, subject := range []string{epoch, edge, epoch, edge} {
		if _, err := l.Append(within(t), subject, []byte(subject)); err != nil {
			t.Fatal(err)
		}
	}
	for subject, seq := range map[string]uint64{epoch: 4, edge: 5, ledger.Subject("main", ledger.GenesisSubject, ""): 1} {
		if m, err := l.LastOn(within(t), subject); err != nil || m.Seq != seq || m.Subject != subject {
			t.Errorf("LastOn(%s) = %+v, %v; want message %d", subject, m, err, seq)
		}
	}
}

func testSizeLimit(t *testing.T, l ledger.Log) {
	longest := ledger.Subject("main", ledger.EdgeSubject, strings.Repeat("n", 64))
	data := bytes.Repeat([]byte("data"), ledger.MaxAppend/4+1)
	if _, err := l.Append(within(t), longest, data[:ledger.MaxAppend+1]); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("Append of %d bytes: %v, want ErrRefused", ledger.MaxAppend+1, err)
	}
	wantHead(t, l, 1, 1)
	if seq, err := l.Append(within(t), longest, data[:ledger.MaxAppend]); err != nil || seq != 2 {
		t.Fatalf("Append of %d bytes = %d, %v", ledger.MaxAppend, seq, err)
	}
	if m, err := l.At(within(t), 2); err != nil || !bytes.Equal(m.Data, data[:ledger.MaxAppend]) {
		t.Errorf("At(2) = %d bytes, %v; want the same %d bytes", len(m.Data), err, ledger.MaxAppend)
	}
	if m := take(t, l, 2, 1)[0]; !bytes.Equal(m.Data, data[:ledger.MaxAppend]) {
		t.Errorf("Read(2) = %d bytes; want the same %d bytes", len(m.Data), ledger.MaxAppend)
	}
}

func testRefused(t *testing.T, l ledger.Log) {
	for _, subject := range []string{
		"", "grantlog", "grantlog.main", "grantlog.main.", "grantlog.other.edge.a", "other.main.edge.a",
		"grantlog.main.edge", "grantlog.main.edge.", "grantlog.main.edge.a.b", "grantlog.main.edge.*",
		"grantlog.main.>", "grantlog.main.edge.a b", "grantlog.main.edge.a\r\nPUB x 0\r\n", "grantlog.main.nothing",
	} {
		if seq, err := l.Append(within(t), subject, []byte("x")); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("Append under %q = %d, %v; want ErrRefused", subject, seq, err)
		}
	}
	wantHead(t, l, 1, 1)
}

func testExpired(t *testing.T, l ledger.Log) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, appended := l.Append(ctx, edge, []byte("x"))
	_, at := l.At(ctx, 1)
	_, lastOn := l.LastOn(ctx, edge)
	_, _, head := l.Head(ctx)
	for name, err := range map[string]error{"Append": appended, "At": at, "LastOn": lastOn, "Head": head, "Verify": l.Verify(ctx)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v, want context.Canceled", name, err)
		}
		if ledger.IsQuarantine(err) {
			t.Errorf("%s with an ended context says that the past is lost: %v", name, err)
		}
	}
	if errors.Is(appended, ledger.ErrRefused) {
		wantHead(t, l, 1, 1)
	}
}

func testClose(t *testing.T, l ledger.Log) {
	fill(t, l, 2)
	read := make(chan error, 1)
	waiting := make(chan struct{})
	go func() { // ends when the log is closed
		var last error
		for m, err := range l.Read(t.Context(), 1) {
			if last = err; err == nil && m.Pending == 0 {
				close(waiting)
			}
		}
		read <- last
	}()
	select {
	case <-waiting:
	case <-time.After(patience):
		t.Fatal("Read did not catch up")
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	select {
	case err := <-read:
		if err == nil || ledger.IsQuarantine(err) {
			t.Errorf("Read of a closed log ended with %v, want an error that is no lost past", err)
		}
	case <-time.After(patience):
		t.Fatal("Close did not end Read")
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close once more: %v", err)
	}
	if _, err := l.Append(within(t), edge, nil); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("Append to a closed log: %v, want ErrRefused", err)
	}
	_, at := l.At(within(t), 1)
	_, _, head := l.Head(within(t))
	for name, err := range map[string]error{"At": at, "Head": head, "Verify": l.Verify(within(t)), "Read": failure(l.Read(within(t), 1))} {
		if !errors.Is(err, ledger.ErrUnavailable) || ledger.IsQuarantine(err) {
			t.Errorf("%s of a closed log: %v, want ErrUnavailable", name, err)
		}
	}
}

func testReopen(t *testing.T, open func() (ledger.Log, error)) {
	l := mustOpen(t, open)
	g := l.Genesis()
	fill(t, l, 5)
	before := take(t, l, 1, 6)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, open)
	defer l.Close()
	if l.Genesis() != g {
		t.Errorf("Genesis = %+v after reopening, want %+v", l.Genesis(), g)
	}
	for i, m := range take(t, l, 1, 6) {
		if !same(m, before[i]) {
			t.Errorf("message %d = %+v after reopening, want %+v", i+1, m, before[i])
		}
	}
	if seq, err := l.Append(within(t), edge, nil); err != nil || seq != 7 {
		t.Errorf("Append after reopening = %d, %v; want 7", seq, err)
	}
}

func testGoroutines(t *testing.T, open func() (ledger.Log, error)) {
	// What is started under a label carries it on, so that tests beside this one do
	// not count.
	label := ledger.NewUUID().String()
	pprof.Do(t.Context(), pprof.Labels("ledgertest", label), func(context.Context) {
		l := mustOpen(t, open)
		defer l.Close()
		read := func() {
			take(t, l, 1, 1)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			for _, err := range l.Read(ctx, 1) {
				if err != nil {
					t.Error(err)
				}
			}
		}
		read() // what a log needs once is started
		before, _ := settled(t, label, 0)
		for range 10 {
			read()
		}
		if n, stacks := settled(t, label, before); n >= before+10 { // one each; a broker may start a few of its own
			t.Errorf("%d goroutines after reading, %d before:\n%s", n, before, stacks)
		}
	})
	if n, stacks := settled(t, label, 0); n > 0 {
		t.Errorf("%d goroutines after closing:\n%s", n, stacks)
	}
}

// sharedClock is a goroutine that all NATS servers of a process have in common. It carries
// the label of whichever log came first and ends with the last, be it of another test.
const sharedClock = "nats-server/v2/server/ats.Register"

// settled returns the number and the stacks of the goroutines under a label, once they
// are few enough, or have not become fewer for a while.
func settled(t *testing.T, label string, enough int) (n int, stacks string) {
	t.Helper()
	for n, since := -1, time.Now(); ; time.Sleep(5 * time.Millisecond) {
		var b strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
			t.Fatal(err)
		}
		now, found := 0, ""
		for group := range strings.SplitSeq(b.String(), "\n\n") { // "<count> @ <addresses>", labels, one frame a line
			if strings.Contains(group, label) && !strings.Contains(group, sharedClock) {
				var count int
				fmt.Sscan(group[strings.LastIndex(group[:strings.Index(group, " @ ")], "\n")+1:], &count)
				now += count
				found += group + "\n\n"
			}
		}
		if now < n || n < 0 {
			n, since = now, time.Now()
		}
		if now <= enough || time.Since(since) > 300*time.Millisecond {
			return now, found
		}
	}
}
