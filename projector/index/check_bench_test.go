package index_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

var checkTuples = flag.Int("check-tuples", 1_000_000, "tuples of the store that BenchmarkCheck asks")

const checkModel = `
model
  schema 1.1
type user
type group
  relations
    define member: [user]
type document
  relations
    define owner: [user]
    define viewer: [group#member]
`

// A checkStore has as many documents as a fifth of its tuples: each has an owner, a
// group that views it, and three more tuples that are memberships of groups of 15.
type checkStore struct {
	x         *index.Index
	id        ledger.ID
	documents int
	groups    int
	revision  []ledger.Revision // at which a document's owner was granted
}

func (s *checkStore) owner(i int) tuple.Tuple {
	return tuple.Tuple{Object: tuple.Object{Type: "document", ID: fmt.Sprintf("plan-%07d", i)}, Relation: "owner",
		Subject: tuple.Subject{Type: "user", ID: fmt.Sprintf("employee-%06d@example.com", i*7919%1_000_003)}}
}

func (s *checkStore) viewers(i int) tuple.Tuple {
	return tuple.Tuple{Object: s.owner(i).Object, Relation: "viewer",
		Subject: tuple.Subject{Type: "group", ID: fmt.Sprintf("team-%06d", i%s.groups), Relation: "member"}}
}

func (s *checkStore) member(group, n int) tuple.Tuple {
	return tuple.Tuple{Object: tuple.Object{Type: "group", ID: fmt.Sprintf("team-%06d", group)}, Relation: "member",
		Subject: tuple.Subject{Type: "user", ID: fmt.Sprintf("employee-%06d@example.com", (group*31+n*7)%1_000_003)}}
}

const membersPerGroup = 15

// A benchLog folds commands straight into an index on disk.
type benchLog struct {
	b   *testing.B
	x   *index.Index
	seq uint64
}

func newBenchLog(b *testing.B) *benchLog {
	x, err := index.Open(index.Options{Dir: b.TempDir(), CacheBytes: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { x.Close() })
	return &benchLog{b: b, x: x}
}

// createStore makes a store with a model.
func (l *benchLog) createStore(source string) ledger.ID {
	id := ledger.NewID()
	m, err := dsl.Compile(ledger.SourceDSL, []byte(source), dsl.Limits{})
	if err != nil {
		l.b.Fatal(err)
	}
	l.fold(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: id, Name: "bench", Admin: "root"})
	l.fold(id, ledger.Change{Kind: ledger.WriteModel, Model: m})
	return id
}

// fold decides one command, which must be applied, and returns its revision.
func (l *benchLog) fold(store ledger.ID, changes ...ledger.Change) ledger.Revision {
	c := &ledger.Command{ID: ledger.NewUUID(), Store: store, Changes: changes}
	batch := l.x.NewBatch()
	in := decide.Input{Kind: ledger.EdgeSubject, Origin: ledger.Origin{Actor: "root", Attester: "bench", Method: ledger.MethodNone},
		Raw: ledger.AppendCommand(nil, c), Time: int64(l.seq) + 1, Version: ledger.FoldVersion}
	records, err := decide.Decide(batch, in)
	if err != nil {
		l.b.Fatal(err)
	}
	var last ledger.Revision
	for _, r := range records {
		if r.Outcome.Kind != ledger.Applied {
			l.b.Fatal(r.Outcome.Rejection)
		}
		if last, _, err = batch.Append(r, in.Origin, in.Raw, in.Version); err != nil {
			l.b.Fatal(err)
		}
	}
	l.seq++
	if err := batch.Commit(ledger.Position{Seq: l.seq}); err != nil {
		l.b.Fatal(err)
	}
	return last
}

func (l *benchLog) parse(text string) tuple.Tuple {
	t, err := tuple.Parse(text)
	if err != nil {
		l.b.Fatal(err)
	}
	return t
}

func newCheckStore(b *testing.B) *checkStore {
	l := newBenchLog(b)
	s := &checkStore{x: l.x, id: l.createStore(checkModel), documents: *checkTuples / 5}
	s.groups = s.documents * 3 / membersPerGroup
	s.revision = make([]ledger.Revision, s.documents)
	order := rand.New(rand.NewPCG(1, 1)).Perm(s.documents)
	var changes []ledger.Change
	grant := func(t tuple.Tuple) { changes = append(changes, ledger.Change{Kind: ledger.Grant, Tuple: t}) }
	for len(order) > 0 {
		n := min(len(order), 400)
		changes = changes[:0]
		for _, i := range order[:n] {
			grant(s.owner(i))
			grant(s.viewers(i))
		}
		rev := l.fold(s.id, changes...)
		for _, i := range order[:n] {
			s.revision[i] = rev
		}
		order = order[n:]
	}
	for g := 0; g < s.groups; g += 60 {
		changes = changes[:0]
		for group := g; group < min(s.groups, g+60); group++ {
			for n := range membersPerGroup {
				grant(s.member(group, n))
			}
		}
		l.fold(s.id, changes...)
	}
	if err := s.x.Settle(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkCheck asks in process, uniformly over all tuples, and reports what a
// question costs in Gets: Pebble's own warm point reads of the same rows. Every round
// asks each kind of question once and reads once, so that all meet the same machine.
func BenchmarkCheck(b *testing.B) {
	s := newCheckStore(b)
	engine := query.NewEngine(query.Budgets{})
	ctx := context.Background()
	r := rand.New(rand.NewPCG(2, 2))
	now := time.Now().UnixNano()
	ask := func(rev ledger.Revision, t tuple.Tuple, want bool) {
		v, err := s.x.View(s.id, rev)
		if err != nil {
			b.Fatal(err)
		}
		a, err := engine.Ask(v, ledger.ID{}, now)
		if err != nil {
			b.Fatal(err)
		}
		got, err := a.Check(ctx, query.Question{Tuple: t})
		if err != nil || got.Allowed != want {
			b.Fatalf("Check(%s) at %d = %v, %v, want %v", t, rev, got.Allowed, err, want)
		}
		v.Close()
	}
	head, _ := s.x.Head(s.id)
	past := head.Revision * 7 / 10 // all documents are granted by then, not all groups
	stranger := func(t tuple.Tuple) tuple.Tuple {
		t.Subject = tuple.Subject{Type: "user", ID: fmt.Sprintf("stranger-%d", r.IntN(1_000_000))}
		return t
	}
	var buf []byte
	kinds := []struct {
		name string
		ask  func() func()
	}{
		{"get", func() func() {
			i := r.IntN(s.documents)
			t := s.owner(i)
			return func() {
				var err error
				if buf, err = s.x.PointRead(buf, s.id, t, s.revision[i]); err != nil {
					b.Fatal(err)
				}
			}
		}},
		{"direct", func() func() { t := s.owner(r.IntN(s.documents)); return func() { ask(0, t, true) } }},
		{"direct-deny", func() func() { t := stranger(s.owner(r.IntN(s.documents))); return func() { ask(0, t, false) } }},
		{"direct-past", func() func() { t := s.owner(r.IntN(s.documents)); return func() { ask(past, t, true) } }},
		{"one-hop", func() func() {
			i := r.IntN(s.documents)
			t := s.viewers(i)
			t.Subject = s.member(i%s.groups, r.IntN(membersPerGroup)).Subject
			return func() { ask(0, t, true) }
		}},
		{"one-hop-deny", func() func() { t := stranger(s.viewers(r.IntN(s.documents))); return func() { ask(0, t, false) } }},
	}
	took := make([]time.Duration, len(kinds))
	const each = 20 // questions of a kind in a row, so that the clock costs little
	rounds := 0
	for b.Loop() {
		for k := range kinds {
			var asks [each]func()
			for i := range asks {
				asks[i] = kinds[k].ask()
			}
			began := time.Now()
			for _, ask := range asks {
				ask()
			}
			took[k] += time.Since(began)
		}
		rounds++
	}
	for k := range kinds {
		b.ReportMetric(float64(took[k].Nanoseconds())/float64(rounds*each), kinds[k].name+"-ns")
		if k > 0 {
			b.ReportMetric(float64(took[k])/float64(took[0]), kinds[k].name+"/get")
		}
	}
	b.ReportMetric(float64(took[3])/float64(took[1]), "past/live")
	b.ReportMetric(float64(took[2])/float64(took[1]), "direct-deny/allow")
	b.ReportMetric(float64(took[5])/float64(took[4]), "one-hop-deny/allow")
}

// BenchmarkExplain explains answers of the store of BenchmarkCheck with the commands behind
// them, and asks since when they are what they are.
func BenchmarkExplain(b *testing.B) {
	s := newCheckStore(b)
	ctx := context.Background()
	r := rand.New(rand.NewPCG(2, 2))
	v, err := s.x.View(s.id, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	a, err := query.NewEngine(query.Budgets{}).Ask(v, ledger.ID{}, time.Now().UnixNano())
	if err != nil {
		b.Fatal(err)
	}
	hop := func() tuple.Tuple {
		i := r.IntN(s.documents)
		t := s.viewers(i)
		t.Subject = s.member(i%s.groups, r.IntN(membersPerGroup)).Subject
		return t
	}
	for _, kind := range []struct {
		name string
		ask  func() tuple.Tuple
	}{
		{"direct", func() tuple.Tuple { return s.owner(r.IntN(s.documents)) }},
		{"one-hop", hop},
		{"one-hop-deny", func() tuple.Tuple {
			t := hop()
			t.Subject.ID = fmt.Sprintf("stranger-%d", r.IntN(1_000_000))
			return t
		}},
	} {
		for _, what := range []struct {
			name string
			ask  func(query.Question) error
		}{
			{"check", func(q query.Question) error { _, err := a.Check(ctx, q); return err }},
			{"explain", func(q query.Question) error { _, err := a.Explain(ctx, q); return err }},
			{"turn", func(q query.Question) error { _, err := a.Turn(ctx, q); return err }},
		} {
			b.Run(kind.name+"/"+what.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := what.ask(query.Question{Tuple: kind.ask()}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
