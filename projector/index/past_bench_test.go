package index_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

var (
	pastTuples = flag.Int("past-tuples", 100_000, "tuples of the store that BenchmarkPast asks, ten versions of each")
	pastSettle = flag.Bool("past-settle", true, "whether BenchmarkPast compacts its store before it asks")
)

const pastModel = `
model
  schema 1.1
type user
type group
  relations
    define member: [user]
type doc
  relations
    define owner: [user]
    define viewer: [user, group#member]
`

// A pastStore has lists of 10, 1,000 and 10,000 objects and subjects, and documents with
// an owner, a group that views them and three members of that group. Every tuple has ten
// versions, far from each other in the log. The even ones are granted again, otherwise
// than before, nine times; the odd ones are revoked and granted four times and granted
// otherwise once. All are live at 10, 50, 90 and 100 % of the revisions. At the first
// moment, near 1 % in a store of a million tuples, the lists are and a tenth of the
// documents, which are those that the checks ask about.
type pastStore struct {
	*benchLog
	id     ledger.ID
	tuples []tuple.Tuple // in the order of their first grants
	owners []tuple.Tuple // of the documents, those of the first moment in front
	hops   []tuple.Tuple // with a member of the group that views the document
	early  int           // documents of the first moment
	times  *rand.Rand
	time   int64
	at     map[string]ledger.Revision // the moments
}

func newPastStore(b *testing.B) *pastStore {
	s := &pastStore{benchLog: newBenchLog(b), at: make(map[string]ledger.Revision), times: rand.New(rand.NewPCG(5, 5))}
	s.id = s.createStore(pastModel)
	add := func(otype, object, relation, subject, stype, srel string) tuple.Tuple {
		t := tuple.Tuple{Object: tuple.Object{Type: otype, ID: object}, Relation: relation,
			Subject: tuple.Subject{Type: stype, ID: subject, Relation: srel}}
		s.tuples = append(s.tuples, t)
		return t
	}
	for _, n := range []int{10, 1000, 10_000} {
		for i := range n {
			add("doc", fmt.Sprintf("o%d-%06d", n, i), "viewer", fmt.Sprintf("direct%d", n), "user", "")
			add("doc", fmt.Sprintf("subjects%d", n), "viewer", fmt.Sprintf("s%d-%06d", n, i), "user", "")
		}
	}
	r := rand.New(rand.NewPCG(3, 3))
	lists, documents := len(s.tuples), max(10, (*pastTuples-len(s.tuples))/5)
	s.early = documents / 10
	for _, doc := range r.Perm(documents) {
		name, group := fmt.Sprintf("plan-%07d", doc), fmt.Sprintf("team-%06d", doc)
		s.owners = append(s.owners, add("doc", name, "owner", fmt.Sprintf("employee-%06d@example.com", doc*7919%1_000_003), "user", ""))
		hop := add("doc", name, "viewer", group, "group", "member")
		for n := range 3 {
			hop.Subject = add("group", group, "member", fmt.Sprintf("employee-%06d@example.com", (doc*31+n*7)%1_000_003), "user", "").Subject
		}
		s.hops = append(s.hops, hop)
	}
	began := time.Now()
	for g := range 10 {
		s.generation(g, r)
		s.at[map[int]string{0: "10%", 4: "50%", 8: "90%"}[g]] = s.revision()
	}
	s.at["first"] = s.at["10%"]*ledger.Revision(lists+5*s.early)/ledger.Revision(len(s.tuples)) + 3
	delete(s.at, "")
	if *pastSettle {
		if err := s.x.Settle(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("store", func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(10*len(s.tuples)), "versions")
		b.ReportMetric(float64(s.revision()), "revisions")
		b.ReportMetric(float64(s.x.Size()>>20), "MB")
		b.ReportMetric(time.Since(began).Seconds(), "s-to-build")
	})
	return s
}

func (s *pastStore) revision() ledger.Revision {
	h, _ := s.x.Head(s.id)
	return h.Revision
}

// generation writes the next versions: the first in the order of the tuples.
func (s *pastStore) generation(g int, r *rand.Rand) {
	if g == 0 {
		s.write(len(s.tuples), func(i int) (int, *model.Grant) { return i, &model.Grant{} })
		return
	}
	changed := &model.Grant{Owner: fmt.Sprint("lead-", g)}
	if g%3 == 0 {
		changed.ExpiresAt = 1<<62 + int64(g)
	}
	var first, second []int
	for _, i := range r.Perm(len(s.tuples)) {
		if i%2 == 0 || g == 9 {
			first = append(first, i)
		} else if g%2 == 0 {
			first, second = append(first, i), append(second, i)
		}
	}
	s.write(len(first), func(n int) (int, *model.Grant) {
		if i := first[n]; i%2 == 0 || g == 9 {
			return i, changed
		}
		return first[n], nil
	})
	r.Shuffle(len(second), func(i, j int) { second[i], second[j] = second[j], second[i] })
	s.write(len(second), func(n int) (int, *model.Grant) { return second[n], &model.Grant{} })
}

// write writes n versions, a hundred to a revision: of which tuple, and its grant, or nil
// if it is revoked. What is decided is put straight into the index, and the entries hold
// no commands, so that it takes minutes and not the better part of an hour.
func (s *pastStore) write(n int, version func(int) (int, *model.Grant)) {
	const each, entries = 100, 50
	for from := 0; from < n; {
		batch := s.x.NewBatch()
		for e := 0; e < entries && from < n; e++ {
			s.time += s.times.Int64N(1e9)
			rec := decide.Record{Store: s.id, Time: s.time, Outcome: ledger.Outcome{Kind: ledger.Applied}}
			for to := min(n, from+each); from < to; from++ {
				i, g := version(from)
				effect := decide.Effect{Kind: decide.SetTuple, Tuple: s.tuples[i]}
				if g != nil {
					effect.Live, effect.Grant = true, *g
				}
				rec.Effects = append(rec.Effects, effect)
			}
			_, _, err := batch.Append(rec, ledger.Origin{Actor: "root", Attester: "bench", Method: ledger.MethodNone}, nil, ledger.FoldVersion)
			if err != nil {
				s.b.Fatal(err)
			}
		}
		// The writer forgets what it remembers of keys that are in tables when it looks for one.
		if _, _, err := batch.Grant(s.id, s.tuples[0]); err != nil {
			s.b.Fatal(err)
		}
		s.seq++
		if err := batch.Commit(ledger.Position{Seq: s.seq}); err != nil {
			s.b.Fatal(err)
		}
	}
}

// BenchmarkPast asks the same kinds of question live and as of the past. Every round asks
// of each moment in turn, so that all meet the same machine, and another first each time;
// what is reported are medians over rounds, and their ratios to the live one. A million
// tuples, ten million versions, take a few minutes and 2 GB of memory:
//
//	go test ./projector/index -run '^$' -bench Past -past-tuples 1000000 -benchtime 100x
//
// By-time asks for moments by their revisions and times.
func BenchmarkPast(b *testing.B) {
	s := newPastStore(b)
	engine := query.NewEngine(query.Budgets{})
	ctx := context.Background()
	r := rand.New(rand.NewPCG(4, 4))
	fatal := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	items := func(n int, ask func(*query.Asking) func(func(model.Item, error) bool)) func() func(*query.Asking) {
		return func() func(*query.Asking) {
			return func(a *query.Asking) {
				got := 0
				for _, err := range ask(a) {
					fatal(err)
					got++
				}
				if got != n {
					b.Fatalf("%d items, want %d", got, n)
				}
			}
		}
	}
	granted := func(n int, f query.Filter) func() func(*query.Asking) {
		return func() func(*query.Asking) {
			return func(a *query.Asking) {
				got := 0
				for _, err := range a.Tuples(ctx, f, tuple.Tuple{}) {
					fatal(err)
					got++
				}
				if got != n {
					b.Fatalf("%d tuples, want %d", got, n)
				}
			}
		}
	}
	check := func(t tuple.Tuple, want bool) func(*query.Asking) {
		return func(a *query.Asking) {
			got, err := a.Check(ctx, query.Question{Tuple: t})
			if err != nil || got.Allowed != want {
				b.Fatalf("Check(%s) = %v, %v, want %v", t, got.Allowed, err, want)
			}
		}
	}
	early := func(all []tuple.Tuple) tuple.Tuple { return all[r.IntN(s.early)] } // live at every moment
	kinds := []struct {
		name string
		each int // questions of one sample
		next func() func(*query.Asking)
	}{
		{"check/direct", 100, func() func(*query.Asking) { return check(early(s.owners), true) }},
		{"check/one-hop", 100, func() func(*query.Asking) { return check(early(s.hops), true) }},
		{"check/deny", 100, func() func(*query.Asking) {
			t := early(s.owners)
			t.Subject.ID = fmt.Sprintf("stranger-%d", r.IntN(1_000_000))
			return check(t, false)
		}},
		{"check/one-hop-deny", 100, func() func(*query.Asking) {
			t := early(s.hops)
			t.Subject.ID = fmt.Sprintf("stranger-%d", r.IntN(1_000_000))
			return check(t, false)
		}},
		{"batch/50", 1, func() func(*query.Asking) {
			var questions []query.Question
			for range 50 {
				questions = append(questions, query.Question{Tuple: early(s.hops)})
			}
			return func(a *query.Asking) {
				results, err := a.CheckAll(ctx, questions)
				fatal(err)
				for _, r := range results {
					if r.Err != nil || !r.Allowed {
						b.Fatal("denied", r.Err)
					}
				}
			}
		}},
	}
	for _, n := range []int{10, 1000, 10_000} {
		each := 100 / min(n, 100)
		user := tuple.Subject{Type: "user", ID: fmt.Sprint("direct", n)}
		doc := tuple.Object{Type: "doc", ID: fmt.Sprint("subjects", n)}
		kinds = append(kinds, []struct {
			name string
			each int
			next func() func(*query.Asking)
		}{
			{fmt.Sprint("objects/", n), each, items(n, func(a *query.Asking) func(func(model.Item, error) bool) {
				return a.ListObjects(ctx, query.ObjectsQuestion{Subject: user, Relation: "viewer", Type: "doc"}, "")
			})},
			{fmt.Sprint("subjects/", n), each, items(n, func(a *query.Asking) func(func(model.Item, error) bool) {
				return a.ListSubjects(ctx, query.SubjectsQuestion{Kind: model.Kind{Type: "user"}, Relation: "viewer", Object: doc}, "")
			})},
			{fmt.Sprint("tuples-of-object/", n), each, granted(n, query.Filter{Object: doc})},
			{fmt.Sprint("tuples-of-subject/", n), each, granted(n, query.Filter{Kind: &model.Kind{Type: "user"}, Subject: user.ID})},
		}...)
	}
	b.Run("by-time", func(b *testing.B) { s.byTime(b, engine) })
	moments := []string{"live", "90%", "50%", "10%", "first"}
	for _, kind := range kinds {
		b.Run(kind.name, func(b *testing.B) {
			samples := make([][]time.Duration, len(moments))
			round := 0
			sample := func(m int) {
				asks := make([]func(*query.Asking), kind.each)
				for i := range asks {
					asks[i] = kind.next()
				}
				began := time.Now()
				for _, ask := range asks {
					func() {
						v, err := s.x.View(s.id, s.at[moments[m]]) // none: live
						fatal(err)
						defer v.Close()
						now, err := v.Time()
						fatal(err)
						a, err := engine.Ask(v, ledger.ID{}, now)
						fatal(err)
						ask(a)
					}()
				}
				samples[m] = append(samples[m], time.Since(began))
			}
			for b.Loop() {
				for m := range moments {
					sample((m + round) % len(moments))
				}
				round++
			}
			median := func(m int) float64 {
				slices.Sort(samples[m])
				return float64(samples[m][len(samples[m])/2]) / float64(kind.each)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(0), "live-ns")
			for m, at := range moments[1:] {
				b.ReportMetric(median(m+1)/median(0), at+"/live")
			}
		})
	}
}

// byTime asks one kind of question live, at revisions, at 64 times again and again, and at
// times that were not asked for before, in turn.
func (s *pastStore) byTime(b *testing.B, engine *query.Engine) {
	r := rand.New(rand.NewPCG(6, 6))
	first, err := s.x.View(s.id, s.at["first"])
	if err != nil {
		b.Fatal(err)
	}
	since, err := first.Time()
	first.Close()
	if err != nil {
		b.Fatal(err)
	}
	always := make(map[tuple.Tuple]bool) // granted at every moment since the first
	for i := 0; i < len(s.tuples); i += 2 {
		always[s.tuples[i]] = true
	}
	var owners []tuple.Tuple
	for _, t := range s.owners[:s.early] {
		if always[t] {
			owners = append(owners, t)
		}
	}
	random := func() int64 { return since + r.Int64N(s.time-since) }
	var repeated []int64
	for range 64 {
		repeated = append(repeated, random())
	}
	ways := []struct {
		name string
		view func() (*index.View, error)
	}{
		{"live", func() (*index.View, error) { return s.x.View(s.id, 0) }},
		{"revision", func() (*index.View, error) {
			return s.x.View(s.id, s.at["first"]+ledger.Revision(r.Int64N(int64(s.revision()-s.at["first"]))))
		}},
		{"repeated", func() (*index.View, error) { return s.x.ViewAt(s.id, repeated[r.IntN(len(repeated))]) }},
		{"random", func() (*index.View, error) { return s.x.ViewAt(s.id, random()) }},
	}
	const each = 100
	samples := make([][]time.Duration, len(ways))
	sample := func(w int) {
		var asked [each]tuple.Tuple
		for i := range asked {
			asked[i] = owners[r.IntN(len(owners))]
		}
		began := time.Now()
		for _, t := range asked {
			v, err := ways[w].view()
			if err != nil {
				b.Fatal(err)
			}
			now, err := v.Time()
			if err != nil {
				b.Fatal(err)
			}
			a, err := engine.Ask(v, ledger.ID{}, now)
			if err != nil {
				b.Fatal(err)
			}
			got, err := a.Check(b.Context(), query.Question{Tuple: t})
			if err != nil || !got.Allowed {
				b.Fatalf("Check(%s) at %d = %v, %v, want allowed", t, v.Revision(), got.Allowed, err)
			}
			if _, err := v.Token(); err != nil { // as every answer over the wire has
				b.Fatal(err)
			}
			v.Close()
		}
		samples[w] = append(samples[w], time.Since(began))
	}
	for round := 0; b.Loop(); round++ {
		for w := range ways {
			sample((w + round) % len(ways))
		}
	}
	b.ReportMetric(0, "ns/op")
	live := 0.0
	for w := range ways {
		slices.Sort(samples[w])
		median := float64(samples[w][len(samples[w])/2]) / each
		if w == 0 {
			live = median
			b.ReportMetric(live, "live-ns")
		} else {
			b.ReportMetric(median/live, ways[w].name+"/live")
		}
	}
}
