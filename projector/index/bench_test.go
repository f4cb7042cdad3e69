package index

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

var benchTuples = flag.Int("tuples", 100_000, "tuples that the benchmarks of reading ask about")

var benchStore = ledger.ID{7, 7}

// benchTuple returns tuple number i of 20 subjects an object.
func benchTuple(i int) tuple.Tuple {
	return tuple.Tuple{
		Object: tuple.Object{Type: "document", ID: fmt.Sprintf("folder-%03d/plan-%06d", i/20%997, i/20)}, Relation: "viewer",
		Subject: tuple.Subject{Type: "user", ID: fmt.Sprintf("employee-%06d@example.com", i*7919%1_000_000)},
	}
}

// benchInput returns the command that grants tuple number i, as the log has it.
func benchInput(i int) decide.Input {
	c := ledger.Command{
		Store: benchStore, Reason: "joins the team", Ticket: fmt.Sprintf("OPS-%d", i/10), Channel: "portal",
		Changes: []ledger.Change{{Kind: ledger.Grant, Tuple: benchTuple(i)}},
	}
	binary.BigEndian.PutUint64(c.ID[:], uint64(i)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(c.ID[8:], uint64(i)+1)
	return decide.Input{
		Kind:   ledger.EdgeSubject,
		Origin: ledger.Origin{Actor: fmt.Sprintf("lead-%d@example.com", i%100), Attester: "edge-1", Method: ledger.MethodNone},
		Raw:    ledger.AppendCommand(nil, &c), Time: int64(i+1) * 1e6, Version: 1,
	}
}

// benchPrepare makes the benchmarks' store with a model.
func benchPrepare(tb testing.TB, x *Index) {
	tb.Helper()
	direct := []model.Direct{{Type: "user"}}
	m := &model.Model{Schema: "1.1", Types: []model.Type{{Name: "user"}, {Name: "document", Relations: []model.Relation{
		{Name: "viewer", Rule: model.Rule{Op: model.This}, Direct: direct}}}}}
	b := x.NewBatch()
	for i, c := range []ledger.Command{
		{ID: ledger.UUID{1}, Changes: []ledger.Change{{Kind: ledger.CreateStore, Store: benchStore, Name: "bench", Admin: "ann"}}},
		{ID: ledger.UUID{2}, Store: benchStore, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: ledger.ModelSource{
			ID: ledger.ID{3}, Kind: ledger.SourceDSL, Source: []byte("model"), Compiled: model.AppendModel(nil, m)}}}},
	} {
		in := benchInput(i)
		in.Raw = ledger.AppendCommand(nil, &c)
		benchAppend(tb, b, in)
	}
	if err := b.Commit(ledger.Position{Seq: 1}); err != nil {
		tb.Fatal(err)
	}
}

func benchAppend(tb testing.TB, b *Batch, in decide.Input) {
	records, err := decide.Decide(b, in)
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range records {
		if _, _, err := b.Append(r, in.Origin, in.Raw, in.Version); err != nil {
			tb.Fatal(err)
		}
		if r.Outcome.Kind != ledger.Applied {
			tb.Fatal(r.Outcome.Rejection)
		}
	}
}

// benchFold folds the inputs in batches of 100.
func benchFold(tb testing.TB, x *Index, inputs func(yield func(decide.Input) bool)) {
	b := x.NewBatch()
	seq := x.Position().Seq
	for in := range inputs {
		seq++
		if benchAppend(tb, b, in); b.Len() == 100 {
			if err := b.Commit(ledger.Position{Seq: seq}); err != nil {
				tb.Fatal(err)
			}
			b = x.NewBatch()
		}
	}
	if err := b.Commit(ledger.Position{Seq: seq + 1}); err != nil {
		tb.Fatal(err)
	}
}

// bench is the index that the benchmarks of reading share.
var bench struct {
	once sync.Once
	x    *Index
}

// benchIndex returns an index with the tuples of the flag, each granted once,
// compacted and warm.
func benchIndex(b *testing.B) *Index {
	b.Helper()
	bench.once.Do(func() {
		x, err := Open(Options{Dir: "index", FS: vfs.NewMem(), Logger: quiet, CacheBytes: 1 << 30})
		if err != nil {
			b.Fatal(err)
		}
		benchPrepare(b, x)
		order := rand.New(rand.NewPCG(1, 1)).Perm(*benchTuples)
		benchFold(b, x, func(yield func(decide.Input) bool) {
			for _, i := range order {
				if !yield(benchInput(i)) {
					return
				}
			}
		})
		if err := x.Flush(); err != nil {
			b.Fatal(err)
		}
		if err := x.db.Compact(b.Context(), []byte{0}, []byte{0xff, 0}, true); err != nil {
			b.Fatal(err)
		}
		if err := x.Scrub(b.Context()); err != nil {
			b.Fatal(err)
		}
		bench.x = x
	})
	return bench.x
}

// gets returns how long a warm point read of the rows of the same tuples takes, in
// nanoseconds: the unit of the benchmarks of reading.
func gets(b *testing.B, x *Index, n int, key func(dst []byte, i int) []byte) float64 {
	b.Helper()
	var buf []byte
	r := rand.New(rand.NewPCG(2, 2))
	best := 0.0
	for range 3 {
		start := time.Now()
		for range n {
			buf = key(buf[:0], r.IntN(*benchTuples))
			_, closer, err := x.db.Get(buf)
			if err != nil {
				b.Fatal(err)
			}
			if err := closer.Close(); err != nil {
				b.Fatal(err)
			}
		}
		if took := float64(time.Since(start).Nanoseconds()) / float64(n); best == 0 || took < best {
			best = took
		}
	}
	return best
}

// benchTuplesAndRevisions returns the tuples and where each was granted.
func benchTuplesAndRevisions(b *testing.B, x *Index) ([]tuple.Tuple, []ledger.Revision) {
	b.Helper()
	tuples := make([]tuple.Tuple, *benchTuples)
	revisions := make([]ledger.Revision, *benchTuples)
	order := rand.New(rand.NewPCG(1, 1)).Perm(*benchTuples)
	for at, i := range order {
		tuples[i] = benchTuple(i)
		revisions[i] = ledger.Revision(at + 3)
	}
	return tuples, revisions
}

// BenchmarkGet is Pebble's own point read of the rows that the others ask for.
func BenchmarkGet(b *testing.B) {
	x := benchIndex(b)
	tuples, revisions := benchTuplesAndRevisions(b, x)
	r := rand.New(rand.NewPCG(3, 3))
	var key []byte
	b.ReportAllocs()
	for b.Loop() {
		i := r.IntN(len(tuples))
		key = appendForward(key[:0], benchStore, tuples[i], revisions[i])
		_, closer, err := x.db.Get(key)
		if err != nil {
			b.Fatal(err)
		}
		if err := closer.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGrantDirect asks for tuples uniformly over all, and reports how many Gets
// one question costs.
func BenchmarkGrantDirect(b *testing.B) {
	x := benchIndex(b)
	tuples, revisions := benchTuplesAndRevisions(b, x)
	head, _ := x.Head(benchStore)
	get := gets(b, x, 50_000, func(dst []byte, i int) []byte { return appendForward(dst, benchStore, tuples[i], revisions[i]) })
	for _, bb := range []struct {
		name  string
		rev   ledger.Revision
		deny  bool
		fresh bool // a View for each question
	}{
		{name: "live"}, {name: "past", rev: head.Revision / 2}, {name: "absent", deny: true}, {name: "a view each", fresh: true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(4, 4))
			v, err := x.View(benchStore, bb.rev)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if bb.fresh {
					v.Close()
					if v, err = x.View(benchStore, bb.rev); err != nil {
						b.Fatal(err)
					}
				}
				i := r.IntN(len(tuples))
				t := tuples[i]
				if bb.deny {
					t.Relation = "viewe"
				}
				_, ok, err := v.Grant(t)
				if want := !bb.deny && revisions[i] <= v.rev; err != nil || ok != want {
					b.Fatalf("Grant(%s) = %v, %v, want %v", t, ok, err, want)
				}
			}
			v.Close()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/get, "Gets/op")
		})
	}
}

// BenchmarkSubjects scans the 20 subjects of an object, uniformly over all objects.
func BenchmarkSubjects(b *testing.B) {
	x := benchIndex(b)
	v, err := x.View(benchStore, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	r := rand.New(rand.NewPCG(5, 5))
	objects := *benchTuples / 20
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		o := benchTuple(20 * r.IntN(objects)).Object
		if err := v.Subjects(o, "viewer", "user", "", "", func(tuple.Subject, model.Grant) bool { n++; return true }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/subject")
}

// BenchmarkSubjectsDead lists the few live among many dead subjects of one object: what
// the rows of the dead cost.
func BenchmarkSubjectsDead(b *testing.B) {
	const live = 100
	for _, dead := range []int{0, 9 * live, 99 * live} {
		b.Run(fmt.Sprintf("%d dead", dead), func(b *testing.B) {
			x := open(b, vfs.NewMem())
			benchPrepare(b, x)
			o := tuple.Object{Type: "document", ID: "hot"}
			batch := x.NewBatch()
			for i := range live + dead {
				t := tuple.Tuple{Object: o, Relation: "viewer", Subject: tuple.Subject{Type: "user", ID: fmt.Sprint(i)}}
				record := decide.Record{Store: benchStore, Outcome: ledger.Outcome{Kind: ledger.Applied}, Effects: []decide.Effect{{Kind: decide.SetTuple, Tuple: t, Live: true}}}
				if _, _, err := batch.Append(record, ledger.Origin{Actor: "ann"}, nil, 1); err != nil {
					b.Fatal(err)
				}
				if i >= live {
					record.Effects[0].Live = false
					if _, _, err := batch.Append(record, ledger.Origin{Actor: "ann"}, nil, 1); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := batch.Commit(ledger.Position{Seq: 2}); err != nil {
				b.Fatal(err)
			}
			if err := x.Flush(); err != nil {
				b.Fatal(err)
			}
			v, err := x.View(benchStore, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer v.Close()
			n := 0
			for b.Loop() {
				if err := v.Subjects(o, "viewer", "user", "", "", func(tuple.Subject, model.Grant) bool { n++; return true }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/live")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(live+dead), "ns/tuple")
		})
	}
}

// foldRate folds inputs into an empty index on disk and returns entries a second.
func foldRate(b *testing.B, inputs []decide.Input) float64 {
	b.Helper()
	x, err := Open(Options{Dir: b.TempDir(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	benchPrepare(b, x)
	runtime.GC()
	start := time.Now()
	benchFold(b, x, slices.Values(inputs))
	rate := float64(len(inputs)) / time.Since(start).Seconds()
	closeIndex(b, x)
	return rate
}

// rowsRate commits the rows of the same entries, in the same batches, with Pebble alone.
func rowsRate(b *testing.B, batches [][]Row, entries int) float64 {
	b.Helper()
	x, err := Open(Options{Dir: b.TempDir(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	start := time.Now()
	for _, rows := range batches {
		batch := x.db.NewBatch()
		for _, r := range rows {
			if err := batch.Set(r.Key, r.Value, nil); err != nil {
				b.Fatal(err)
			}
		}
		if err := batch.Commit(pebble.NoSync); err != nil {
			b.Fatal(err)
		}
	}
	rate := float64(entries) / time.Since(start).Seconds()
	closeIndex(b, x)
	return rate
}

const benchEntries = 50_000

func benchInputs() []decide.Input {
	inputs := make([]decide.Input, benchEntries)
	for i := range inputs {
		inputs[i] = benchInput(i * 31 % benchEntries)
	}
	return inputs
}

// benchRows returns the rows of folding inputs, by batch.
func benchRows(b *testing.B, inputs []decide.Input) [][]Row {
	b.Helper()
	x, err := Open(Options{Dir: "index", FS: vfs.NewMem(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer closeIndex(b, x)
	benchPrepare(b, x)
	var batches [][]Row
	seq := x.Position().Seq
	for chunk := range slices.Chunk(inputs, 100) {
		batch := x.NewBatch()
		for _, in := range chunk {
			benchAppend(b, batch, in)
		}
		rows := []Row{{positionKey, make([]byte, 128)}}
		for r := batch.rows.Reader(); ; {
			_, key, value, ok, err := r.Next()
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
			rows = append(rows, Row{slices.Clone(key), slices.Clone(value)})
		}
		batches = append(batches, rows)
		seq++
		if err := batch.Commit(ledger.Position{Seq: seq}); err != nil {
			b.Fatal(err)
		}
	}
	return batches
}

// BenchmarkFold decides and folds 50,000 single-change commands into an empty index, in
// batches of 100, hashes included. Beside it, in the same run, Pebble commits the same
// rows alone.
func BenchmarkFold(b *testing.B) {
	inputs := benchInputs()
	batches := benchRows(b, inputs)
	var fold, alone float64
	runs := 0
	for b.Loop() {
		fold += foldRate(b, inputs)
		alone += rowsRate(b, batches, len(inputs))
		runs++
	}
	b.ReportMetric(fold/float64(runs), "entries/s")
	b.ReportMetric(alone/float64(runs), "alone/s")
	b.ReportMetric(fold/alone, "of-alone")
}

// BenchmarkCommitRowsAlone is what BenchmarkFold is compared with.
func BenchmarkCommitRowsAlone(b *testing.B) {
	inputs := benchInputs()
	batches := benchRows(b, inputs)
	sum, runs := 0.0, 0
	for b.Loop() {
		sum += rowsRate(b, batches, len(inputs))
		runs++
	}
	b.ReportMetric(sum/float64(runs), "entries/s")
}

// BenchmarkScrub reads all rows and hashes them.
func BenchmarkScrub(b *testing.B) {
	x := benchIndex(b)
	_, rows, err := x.Digest(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := x.Scrub(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
