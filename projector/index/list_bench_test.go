package index_test

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

var listTuples = flag.Int("list-tuples", 1_000_000, "tuples of the store that BenchmarkLists asks, those of the lists apart")

const listModel = `
model
  schema 1.1
type user
type group
  relations
    define member: [user, group#member]
type folder
  relations
    define parent: [folder]
    define viewer: [user, group#member] or viewer from parent
type doc
  relations
    define parent: [folder]
    define owner: [user]
    define viewer: [user, group#member] or viewer from parent
    define trained: [user]
    define blocked: [user]
    define editor: owner and trained
    define reader: owner but not blocked
`

// A listStore grants in commands of a thousand changes.
type listStore struct {
	*benchLog
	store   ledger.ID
	dead    int // tuples that are granted and revoked beside each that stays
	changes []ledger.Change
}

func (s *listStore) flush() {
	const most = 1000
	for len(s.changes) > 0 {
		n := min(len(s.changes), most)
		s.fold(s.store, s.changes[:n:n]...)
		s.changes = s.changes[n:]
	}
	s.changes = nil
}

// tuples grants n tuples; the format's number is that of the tuple. Before each of them
// stand those that are dead.
func (s *listStore) tuples(format string, n int) {
	one := func(number string) tuple.Tuple {
		return s.parse(fmt.Sprintf(format, number))
	}
	for i := range n {
		for d := range s.dead {
			s.changes = append(s.changes, ledger.Change{Kind: ledger.Grant, Tuple: one(fmt.Sprintf("%06d-%02d", i, d))})
		}
		s.changes = append(s.changes, ledger.Change{Kind: ledger.Grant, Tuple: one(fmt.Sprintf("%06d", i))})
		if len(s.changes) >= 1000 || i == n-1 {
			granted := s.changes
			s.flush()
			for _, ch := range granted {
				if len(ch.Tuple.Object.ID) > 0 && (hasDead(ch.Tuple.Object.ID) || hasDead(ch.Tuple.Subject.ID)) {
					s.changes = append(s.changes, ledger.Change{Kind: ledger.Revoke, Tuple: ch.Tuple})
				}
			}
			s.flush()
		}
	}
}

func hasDead(id string) bool { return len(id) > 9 && id[len(id)-3] == '-' }

// lists grants what the lists are of.
func (s *listStore) lists() {
	for _, n := range []int{10, 1000, 10_000} {
		s.tuples(fmt.Sprintf("doc:o%d-%%s#viewer@user:direct%d", n, n), n)
		s.tuples(fmt.Sprintf("doc:subjects%d#viewer@user:s%d-%%s", n, n), n)
	}
	if s.dead > 0 {
		return
	}
	for g := range 100 {
		s.tuples(fmt.Sprintf("doc:g%d-%%s#viewer@group:g%d#member", g, g), 100)
		s.tuples(fmt.Sprintf("doc:f%d-%%s#parent@folder:f%d", g, g), 100)
		s.changes = append(s.changes, ledger.Change{Kind: ledger.Grant, Tuple: s.parse(fmt.Sprintf("group:g%d#member@user:groups", g))},
			ledger.Change{Kind: ledger.Grant, Tuple: s.parse(fmt.Sprintf("folder:f%d#parent@folder:top", g))})
	}
	s.changes = append(s.changes, ledger.Change{Kind: ledger.Grant, Tuple: s.parse("folder:top#viewer@user:folders")})
	s.tuples("folder:deep%s#parent@folder:root", 10_000)
	s.changes = append(s.changes, ledger.Change{Kind: ledger.Grant, Tuple: s.parse("folder:root#viewer@user:root")})
	for side, n := range map[string]int{"small": 10, "large": 10_000} {
		for other, m := range map[string]int{"small": 10, "large": 10_000} {
			user := "user:" + side + "-" + other
			s.tuples("doc:x%s#owner@"+user, n)
			s.tuples("doc:x%s#trained@"+user, m)
			s.tuples("doc:x%s#blocked@"+user+"-b", m)
			s.tuples("doc:x%s#owner@"+user+"-b", n)
			s.tuples("doc:"+side+"-"+other+"#owner@user:y%s", n)
			s.tuples("doc:"+side+"-"+other+"#trained@user:y%s", m)
		}
	}
	s.flush()
}

// BenchmarkLists lists objects and subjects, 10 to 10,000 of them, in a store of a million
// tuples of others, and again where for each live tuple 99 stand dead in the same run. It
// reports the time to the first item and the items in a second.
func BenchmarkLists(b *testing.B) {
	for _, store := range []string{"live", "dead"} {
		s := &listStore{benchLog: newBenchLog(b)}
		s.store = s.createStore(listModel)
		if store == "dead" {
			s.dead = 99
		} else {
			for i := 0; i < *listTuples; i += 10_000 {
				s.tuples(fmt.Sprintf("doc:n%d-%%s#viewer@user:n%d", i%970, i), 10_000)
			}
		}
		s.lists()
		s.flush()
		if err := s.x.Settle(b.Context()); err != nil {
			b.Fatal(err)
		}
		engine := query.NewEngine(query.Budgets{})
		objects := func(name, subjectText, relation, typ string, n int) {
			s.list(b, store+"/objects/"+name, n, func(a *query.Asking) func(func(model.Item, error) bool) {
				return a.ListObjects(context.Background(), query.ObjectsQuestion{Subject: s.parse("doc:x#viewer@" + subjectText).Subject, Relation: relation, Type: typ}, "")
			}, engine)
		}
		subjects := func(name, object, relation string, n int) {
			s.list(b, store+"/subjects/"+name, n, func(a *query.Asking) func(func(model.Item, error) bool) {
				return a.ListSubjects(context.Background(), query.SubjectsQuestion{Kind: model.Kind{Type: "user"}, Relation: relation, Object: tuple.Object{Type: "doc", ID: object}}, "")
			}, engine)
		}
		for _, n := range []int{10, 1000, 10_000} {
			objects(fmt.Sprint("direct-", n), fmt.Sprint("user:direct", n), "viewer", "doc", n)
			subjects(fmt.Sprint("direct-", n), fmt.Sprint("subjects", n), "viewer", n)
		}
		if store == "dead" {
			continue
		}
		objects("groups-10000", "user:groups", "viewer", "doc", 10_000)
		objects("folders-10000", "user:folders", "viewer", "doc", 10_000)
		objects("recursive-10000", "user:root", "viewer", "folder", 10_001)
		for _, sides := range [][2]string{{"small", "large"}, {"large", "small"}, {"large", "large"}} {
			name := sides[0] + "-" + sides[1]
			both := map[bool]int{true: 10_000, false: 10}[name == "large-large"]
			objects("and-"+name, "user:"+name, "editor", "doc", both)
			objects("but-not-"+name, "user:"+name, "reader", "doc", map[string]int{"small": 10, "large": 10_000}[sides[0]])
			subjects("and-"+name, name, "editor", both)
		}
	}
}

// list runs one list of a known length.
func (s *listStore) list(b *testing.B, name string, n int, ask func(*query.Asking) func(func(model.Item, error) bool), e *query.Engine) {
	b.Run(name, func(b *testing.B) {
		var first time.Duration
		for b.Loop() {
			began, items := time.Now(), 0
			v, err := s.x.View(s.store, 0)
			if err != nil {
				b.Fatal(err)
			}
			a, err := e.Ask(v, ledger.ID{}, time.Now().UnixNano())
			if err != nil {
				b.Fatal(err)
			}
			for _, err := range ask(a) {
				if err != nil {
					b.Fatal(err)
				}
				if items++; items == 1 {
					first += time.Since(began)
				}
			}
			v.Close()
			if items != n {
				b.Fatalf("%d items, want %d", items, n)
			}
		}
		b.ReportMetric(float64(first.Microseconds())/float64(b.N), "first-µs")
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "items/s")
	})
}
