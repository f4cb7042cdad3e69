package index

import (
	"flag"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
)

// A timeline gives a store revisions with made-up log times, and no more of them than
// the rows that hold their times.
type timeline struct {
	x     *Index
	store ledger.ID
	times []int64
}

func newTimeline(tb testing.TB, x *Index, times []int64) *timeline {
	tb.Helper()
	l := &timeline{x: x, store: ledger.ID{byte(len(x.heads)), 8: 1}} // alike in what says where things are kept
	l.append(tb, times...)
	return l
}

func (l *timeline) append(tb testing.TB, times ...int64) {
	tb.Helper()
	var key, value []byte
	for len(times) > 0 {
		b := l.x.db.NewBatch()
		n := min(len(times), 10_000)
		for _, at := range times[:n] {
			l.times = append(l.times, at)
			key = appendByRevision(key[:0], familyHashes, l.store, ledger.Revision(len(l.times)))
			value = append(value[:0], make([]byte, 32)...)
			value[0] = byte(len(l.times))
			value = appendRevision(value, ledger.Revision(at))
			if err := b.Set(key, value, nil); err != nil {
				tb.Fatal(err)
			}
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			tb.Fatal(err)
		}
		times = times[n:]
	}
	l.x.mu.Lock()
	defer l.x.mu.Unlock()
	l.x.heads[l.store] = &head{Head: Head{Store: l.store, Status: decide.Live, Revision: ledger.Revision(len(l.times)), Time: l.times[len(l.times)-1]}}
	l.x.commits++ // the iterators that are kept do not show the new rows
	for _, r := range l.x.idle {
		if err := r.close(); err != nil {
			tb.Fatal(err)
		}
	}
	l.x.idle = nil
}

func (l *timeline) view(tb testing.TB, rev ledger.Revision) *View {
	tb.Helper()
	v, err := l.x.View(l.store, rev)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// forget makes the index forget what searches met.
func (l *timeline) forget() { l.x.times = times{} }

// newestAt returns what RevisionAt must: it looks at every time.
func newestAt(times []int64, at int64) (rev ledger.Revision) {
	for i, t := range times {
		if t <= at {
			rev = ledger.Revision(i + 1)
		}
	}
	return rev
}

// timelines returns log times of each kind, which never run back.
func timelines(r *rand.Rand, n int) map[string][]int64 {
	kinds := map[string]func(i int) int64{
		"even":     func(i int) int64 { return 1e18 + int64(i)*1e6 },
		"random":   func(int) int64 { return 1e18 + r.Int64N(1e15) },
		"equal":    func(int) int64 { return 1e18 },
		"adjacent": func(i int) int64 { return int64(i / 3) },
		"clusters": func(i int) int64 { return 1e18 + int64(i/97)*1e12 + r.Int64N(20) },
		"one late": func(i int) int64 { return 1e18 + int64(i) + int64(i/(n-1))*1e17 },
		"doubling": func(i int) int64 { return int64(math.Exp2(62 * float64(i) / float64(n))) },
		"halving":  func(i int) int64 { return math.MaxInt64 - int64(math.Exp2(62*float64(n-i)/float64(n))) },
		"extremes": func(i int) int64 {
			return [...]int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64}[i*7/n]
		},
	}
	all := make(map[string][]int64)
	for name, time := range kinds {
		times := make([]int64, n)
		for i := range times {
			times[i] = time(i)
		}
		slices.Sort(times)
		all[name] = times
	}
	return all
}

// RevisionAt says what a scan of all times says, whatever was asked before.
func TestRevisionAt(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 1))
	x := open(t, vfs.NewMem())
	for _, n := range []int{1, 2, 33, 34, 35, 64, 1200} {
		for name, times := range timelines(r, max(n, 2)) {
			times = times[:n]
			l := newTimeline(t, x, times)
			var asked []int64
			for i, at := range times {
				if i > 0 && at == times[i-1] {
					continue
				}
				asked = append(asked, at)
				if at > math.MinInt64 {
					asked = append(asked, at-1)
				}
				if at < math.MaxInt64 {
					asked = append(asked, at+1)
				}
				if i > 0 { // half-way, without an overflow
					asked = append(asked, times[i-1]+int64((uint64(at)-uint64(times[i-1]))/2))
				}
			}
			asked = append(asked, math.MinInt64, math.MaxInt64)
			slices.Sort(asked)
			asked = slices.Compact(asked)
			want := make(map[int64]ledger.Revision, len(asked))
			for _, at := range asked {
				want[at] = newestAt(times, at)
			}
			for order, arrange := range map[string]func(){
				"forwards":      func() {},
				"backwards":     func() { slices.Reverse(asked) },
				"in any order":  func() { r.Shuffle(len(asked), func(i, j int) { asked[i], asked[j] = asked[j], asked[i] }) },
				"again as that": func() {},
			} {
				if arrange(); order != "again as that" {
					l.forget()
				}
				for _, rev := range []ledger.Revision{ledger.Revision(n), ledger.Revision(n+1) / 2} {
					v := l.view(t, rev)
					for _, at := range asked {
						if got, err := v.RevisionAt(at); err != nil || got != min(want[at], rev) {
							t.Fatalf("%s, %d revisions, %s: RevisionAt(%d) of revision %d = %d, %v, want %d", name, n, order, at, rev, got, err, min(want[at], rev))
						}
					}
					v.Close()
				}
				for _, at := range asked[:min(len(asked), 100)] {
					v, err := x.ViewAt(l.store, at)
					if err != nil || v.Revision() != want[at] {
						t.Fatalf("%s, %d revisions, %s: ViewAt(%d) = %v, %v, want revision %d", name, n, order, at, v, err, want[at])
					}
					made, err := v.Time()
					leaf, leafErr := v.Leaf(v.Revision())
					if rev := want[at]; err != nil || leafErr != nil || rev > 0 && made != times[rev-1] || rev > 0 && int(rev) < n && leaf[0] != byte(rev) {
						t.Fatalf("%s, %d revisions: ViewAt(%d) has time %d and leaf %x, %v, %v", name, n, at, made, leaf, err, leafErr)
					}
					v.Close()
				}
			}
		}
	}
}

// What is kept stays right while entries come, several of the same time among them.
func TestRevisionAtWhileWriting(t *testing.T) {
	x := open(t, vfs.NewMem())
	var mu sync.Mutex
	var times []int64 // of the entries that are or are being committed
	r := rand.New(rand.NewPCG(12, 1))
	write := func() {
		b := x.NewBatch()
		mu.Lock()
		for range 1 + r.IntN(5) {
			at := int64(1e18)
			if n := len(times); n > 0 {
				at = times[n-1] + [...]int64{0, 0, 0, 1, 2, 1e6, 1e9}[r.IntN(7)]
			}
			times = append(times, at)
			record := decide.Record{Store: ledger.System, Time: at, Outcome: ledger.Outcome{Kind: ledger.Applied}}
			if _, _, err := b.Append(record, ledger.Origin{Actor: "root", Method: ledger.MethodNone}, nil, ledger.FoldVersion); err != nil {
				t.Error(err)
			}
		}
		mu.Unlock()
		if err := b.Commit(ledger.Position{Seq: x.Position().Seq + 1}); err != nil {
			t.Error(err)
		}
	}
	write()
	var running sync.WaitGroup
	written := make(chan struct{})
	for reader := range uint64(3) {
		running.Go(func() { // ends when all is written
			r := rand.New(rand.NewPCG(13, reader))
			for {
				select {
				case <-written:
					return
				default:
				}
				v, err := x.View(ledger.System, 0)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				here := slices.Clone(times[:v.Revision()])
				mu.Unlock()
				for range 20 {
					i := len(here) - 1 - r.IntN(min(len(here), 1+r.IntN(len(here)))) // mostly near the head
					at := here[i] + r.Int64N(3) - 1
					if got, err := v.RevisionAt(at); err != nil || got != newestAt(here, at) {
						t.Errorf("RevisionAt(%d) of revision %d = %d, %v, want %d", at, v.Revision(), got, err, newestAt(here, at))
					}
				}
				v.Close()
			}
		})
	}
	for range 1500 {
		write()
	}
	close(written)
	running.Wait()
}

// The answer for the head's own time is not kept, because the next entry may have the same
// time. That it would be wrong to is shown by keeping it.
func TestAnswerAtTheHead(t *testing.T) {
	for _, wrongly := range []bool{false, true} {
		l := newTimeline(t, open(t, vfs.NewMem()), []int64{10, 20, 30})
		ask := func() ledger.Revision {
			v := l.view(t, 0)
			defer v.Close()
			rev, err := v.RevisionAt(30)
			if err != nil {
				t.Fatal(err)
			}
			return rev
		}
		if got := ask(); got != 3 {
			t.Fatalf("RevisionAt of the head's time = %d, want 3", got)
		}
		if wrongly {
			v := l.view(t, 0)
			if _, err := v.momentAt(29); err != nil {
				t.Fatal(err)
			}
			m, err := v.readMoment(3)
			if err != nil {
				t.Fatal(err)
			}
			kept(l.x.times.answers[:], l.store, 30).Store(&answer{l.store, 30, m})
			v.Close()
		}
		l.append(t, 30)
		l.append(t, 31)
		if got := ask(); (got == 4) == wrongly {
			t.Errorf("RevisionAt after another entry of that time = %d; kept too early: %v", got, wrongly)
		}
	}
}

// A time that was not asked for before costs few reads, whatever the times are, and one
// that was costs none.
func TestReadsOfRevisionAt(t *testing.T) {
	const n = 100_000
	r := rand.New(rand.NewPCG(14, 1))
	for name, times := range timelines(r, n) {
		x := open(t, vfs.NewMem())
		l := newTimeline(t, x, times)
		random := func() int64 {
			i := r.IntN(n - 1)
			return times[i] + int64(r.Uint64N(max(uint64(times[i+1])-uint64(times[i]), 1)))
		}
		v := l.view(t, 0)
		defer v.Close()
		ask := func(at int64) (seeks int) {
			before := v.Seeks()
			want := ledger.Revision(sort.Search(n, func(i int) bool { return times[i] > at }))
			if got, err := v.RevisionAt(at); err != nil || got != want {
				t.Fatalf("%s: RevisionAt(%d) = %d, %v, want %d", name, at, got, err, want)
			}
			return v.Seeks() - before
		}
		worst, first, total := 0, 0, 0
		for i := range 20_000 {
			at := random()
			seeks := ask(at)
			worst = max(worst, seeks)
			if i < 20 {
				first += seeks
			}
			if i >= 10_000 {
				total += seeks
			}
			if again := ask(at); again != 0 {
				t.Fatalf("%s: a time asked for again costs %d seeks", name, again)
			}
		}
		if (name == "even" || name == "random") && first > 20*5 {
			t.Errorf("%s: the first 20 times cost %d seeks, want at most 5 each", name, first)
		}
		if most := 2*bits.Len(n) + 2; worst > most || total > 30_000 {
			t.Errorf("%s: a time costs %d seeks at worst and %.2f later, want at most %d and 3", name, worst, float64(total)/10_000, most)
		}
	}
}

// What is kept in a place is taken only for what it is.
func TestKept(t *testing.T) {
	var all times
	moments := all.moments[:]
	store, like := ledger.ID{1, 8: 7}, ledger.ID{2, 8: 7}
	other := uint64(2)
	for kept(moments, store, other) != kept(moments, store, 1) {
		other++
	}
	m := &moment{store: store, rev: ledger.Revision(other)}
	kept(moments, store, other).Store(m)
	for _, tt := range []struct {
		store ledger.ID
		rev   uint64
		want  *moment
	}{{store, other, m}, {store, 1, nil}, {like, other, nil}} {
		if got := recall(moments, tt.store, ledger.Revision(tt.rev)); got != tt.want {
			t.Errorf("recall of revision %d of store %s = %v, want %v", tt.rev, tt.store, got, tt.want)
		}
	}
}

var timedRevisions = flag.Int("timed-revisions", 1_000_000, "revisions of the store that BenchmarkRevisionAt asks")

// BenchmarkRevisionAt asks for times that were not asked for before, of entries that came
// at random times, and of entries that came in clusters.
func BenchmarkRevisionAt(b *testing.B) {
	n := *timedRevisions
	for name, step := range map[string]func(r *rand.Rand, i int) int64{
		"random":   func(r *rand.Rand, _ int) int64 { return int64(r.ExpFloat64() * 1e9) },
		"clusters": func(r *rand.Rand, i int) int64 { return int64(r.ExpFloat64()*1e12) * int64((i%100)/99) },
	} {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(15, 1))
			times := make([]int64, n)
			at := int64(1e18)
			for i := range times {
				at += step(r, i)
				times[i] = at
			}
			x, err := Open(Options{Dir: "index", FS: vfs.NewMem(), Logger: quiet})
			if err != nil {
				b.Fatal(err)
			}
			defer x.Close()
			l := newTimeline(b, x, times)
			if err := x.Settle(b.Context()); err != nil {
				b.Fatal(err)
			}
			v := l.view(b, 0)
			defer v.Close()
			ask := func() {
				if _, err := v.RevisionAt(times[0] + r.Int64N(at-times[0])); err != nil {
					b.Fatal(err)
				}
			}
			for range 20_000 { // as after some time of asking
				ask()
			}
			before := v.Seeks()
			for b.Loop() {
				ask()
			}
			b.ReportMetric(float64(v.Seeks()-before)/float64(b.N), "seeks/op")
		})
	}
}
