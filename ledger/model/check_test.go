package model

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// company is a model with every kind of rule, for the tables below.
func company(t testing.TB) *Model {
	t.Helper()
	m := &Model{Schema: "1.1", Conditions: testConditions, Types: []Type{
		{Name: "user"},
		{Name: "robot"},
		{Name: "group", Relations: []Relation{
			relation("member", this, "user", "user with yes", "user with no", "user with errs", "group#member", "group#member with errs", "group#member with no"),
			relation("blocked", this, "user"),
			relation("present", exclude(this, computed("absent")), "user", "group#present"), // may be subtracted from itself
			relation("absent", this, "user", "group#present", "group#absent"),
		}},
		{Name: "folder", Relations: []Relation{
			relation("parent", this, "folder", "folder with errs"),
			relation("owner", this, "user"),
			relation("viewer", union(this, computed("owner"), from("viewer", "parent")), "user", "user:*", "group#member"),
		}},
		{Name: "doc", Relations: []Relation{
			relation("parent", this, "folder", "doc", "folder with errs"),
			relation("owner", this, "user", "user with errs", "robot"),
			relation("editor", union(this, computed("owner")), "user", "group#member"),
			relation("blocked", this, "user", "user with errs", "user:*"),
			relation("viewer", union(this, computed("editor"), from("viewer", "parent")), "user", "user:*", "user with errs", "user with yes", "user:* with no"),
			relation("reader", exclude(computed("viewer"), computed("blocked"))),
			relation("signer", intersect(computed("editor"), computed("viewer"), this), "user", "user with errs"),
			relation("left", this, "group#member"),
			relation("right", this, "group#member"),
			relation("both", intersect(computed("left"), computed("right"))),
			relation("approver", exclude(intersect(this, computed("viewer")), union(computed("blocked"), computed("owner"))), "user"),
		}},
	}}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCheck(t *testing.T) {
	m := company(t)
	for _, tt := range []struct {
		name   string
		grants string // separated by line breaks; each perhaps with a condition
		ask    string
		want   string // "allowed", "denied", or part of the error
	}{
		{"nothing granted", "", "doc:a#viewer@user:ann", "denied"},
		{"direct", "doc:a#viewer@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"somebody else", "doc:a#viewer@user:bob", "doc:a#viewer@user:ann", "denied"},
		{"another object", "doc:b#viewer@user:ann", "doc:a#viewer@user:ann", "denied"},
		{"another relation", "doc:a#owner@user:ann", "doc:a#blocked@user:ann", "denied"},
		{"another type of the same id", "doc:a#owner@robot:ann", "doc:a#owner@user:ann", "denied"},

		{"to everyone", "doc:a#viewer@user:*", "doc:a#viewer@user:ann", "allowed"},
		{"to everyone of another type", "doc:a#viewer@user:*", "doc:a#viewer@robot:r2", "denied"},
		{"everyone where the model does not allow it", "doc:a#editor@user:*", "doc:a#editor@user:ann", "denied"},
		{"the wildcard itself", "doc:a#viewer@user:*", "doc:a#viewer@user:*", "allowed"},
		{"the wildcard is not held by one", "doc:a#viewer@user:ann", "doc:a#viewer@user:*", "denied"},
		{"a userset is not everyone", "doc:a#viewer@user:*", "doc:a#viewer@group:eng#member", "denied"},

		{"computed", "doc:a#owner@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"userset", "doc:a#editor@group:eng#member\ngroup:eng#member@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"nested usersets", "doc:a#editor@group:x#member\ngroup:x#member@group:y#member\ngroup:y#member@group:z#member\ngroup:z#member@user:ann", "doc:a#editor@user:ann", "allowed"},
		{"userset without members", "doc:a#editor@group:eng#member", "doc:a#editor@user:ann", "denied"},
		{"another relation of the group", "doc:a#editor@group:eng#member\ngroup:eng#blocked@user:ann", "doc:a#editor@user:ann", "denied"},
		{"userset that the model does not allow", "doc:a#viewer@group:eng#member\ngroup:eng#member@user:ann", "doc:a#viewer@user:ann", "denied"},
		{"userset of a relation that the model does not allow", "doc:a#editor@group:eng#blocked\ngroup:eng#blocked@user:ann", "doc:a#editor@user:ann", "denied"},
		{"the userset itself", "doc:a#editor@group:eng#member", "doc:a#editor@group:eng#member", "allowed"},
		{"a userset within", "doc:a#editor@group:x#member\ngroup:x#member@group:y#member", "doc:a#editor@group:y#member", "allowed"},
		{"a userset holds itself", "", "group:eng#member@group:eng#member", "allowed"},
		{"a userset does not hold another relation of itself", "", "group:eng#blocked@group:eng#member", "denied"},
		{"an object is not its userset", "doc:a#editor@group:eng#member", "doc:a#editor@group:eng", "denied"},

		{"from", "doc:a#parent@folder:f\nfolder:f#viewer@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"from, twice", "doc:a#parent@folder:f\nfolder:f#parent@folder:g\nfolder:g#owner@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"from, to everyone", "doc:a#parent@folder:f\nfolder:f#viewer@user:*", "doc:a#viewer@user:ann", "allowed"},
		{"from where the model does not allow it", "doc:a#parent@user:f\nfolder:f#viewer@user:ann", "doc:a#viewer@user:ann", "denied"},
		{"from the second parent", "doc:a#parent@folder:f\ndoc:a#parent@folder:g\nfolder:g#owner@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"the tupleset gives nothing itself", "doc:a#parent@folder:f", "doc:a#viewer@folder:f", "denied"},

		{"exclusion", "doc:a#viewer@user:ann", "doc:a#reader@user:ann", "allowed"},
		{"excluded", "doc:a#viewer@user:ann\ndoc:a#blocked@user:ann", "doc:a#reader@user:ann", "denied"},
		{"everyone excluded", "doc:a#viewer@user:ann\ndoc:a#blocked@user:*", "doc:a#reader@user:ann", "denied"},
		{"somebody else excluded", "doc:a#viewer@user:ann\ndoc:a#blocked@user:bob", "doc:a#reader@user:ann", "allowed"},
		{"nothing to exclude from", "doc:a#blocked@user:bob", "doc:a#reader@user:ann", "denied"},
		{"intersection", "doc:a#owner@user:ann\ndoc:a#signer@user:ann", "doc:a#signer@user:ann", "allowed"},
		{"half an intersection", "doc:a#signer@user:ann", "doc:a#signer@user:ann", "denied"},
		{"the other half", "doc:a#owner@user:ann", "doc:a#signer@user:ann", "denied"},
		{"nested operators", "doc:a#viewer@user:ann\ndoc:a#approver@user:ann", "doc:a#approver@user:ann", "allowed"},
		{"nested operators, excluded", "doc:a#viewer@user:ann\ndoc:a#approver@user:ann\ndoc:a#owner@user:ann", "doc:a#approver@user:ann", "denied"},

		{"condition holds", "doc:a#viewer@user:ann yes", "doc:a#viewer@user:ann", "allowed"},
		{"condition does not hold", "group:eng#member@user:ann no", "group:eng#member@user:ann", "denied"},
		{"condition that the model does not allow", "doc:a#editor@user:ann yes", "doc:a#editor@user:ann", "denied"},
		{"no condition where the model wants one", "doc:a#viewer@group:eng#member", "doc:a#viewer@group:eng#member", "denied"},
		{"condition errs", "doc:a#viewer@user:ann errs", "doc:a#viewer@user:ann", "errs"},
		{"union: error or allow", "doc:a#viewer@user:ann errs\ndoc:a#owner@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"union: error, or allow to everyone", "doc:a#viewer@user:ann errs\ndoc:a#viewer@user:*", "doc:a#viewer@user:ann", "allowed"},
		{"union: error or deny", "doc:a#viewer@user:ann errs\ndoc:a#owner@user:bob", "doc:a#viewer@user:ann", "errs"},
		{"intersection: error and allow", "doc:a#owner@user:ann\ndoc:a#signer@user:ann errs", "doc:a#signer@user:ann", "errs"},
		{"intersection: error and deny", "doc:a#signer@user:ann errs", "doc:a#signer@user:ann", "denied"},
		{"exclusion: deny but not error", "doc:a#blocked@user:ann errs", "doc:a#reader@user:ann", "denied"},
		{"exclusion: allow but not error", "doc:a#viewer@user:ann\ndoc:a#blocked@user:ann errs", "doc:a#reader@user:ann", "errs"},
		{"exclusion: error but not allow", "doc:a#viewer@user:ann errs\ndoc:a#blocked@user:ann", "doc:a#reader@user:ann", "denied"},
		{"exclusion: error but not deny", "doc:a#viewer@user:ann errs", "doc:a#reader@user:ann", "errs"},
		{"error on the way to an allow", "doc:a#parent@folder:f errs\nfolder:f#viewer@user:ann", "doc:a#viewer@user:ann", "errs"},
		{"error on the way to a denial", "doc:a#parent@folder:f errs\nfolder:f#viewer@user:bob", "doc:a#viewer@user:ann", "denied"},
		{"error on one way, allow on another", "doc:a#parent@folder:f errs\ndoc:a#parent@folder:g\nfolder:f#viewer@user:ann\nfolder:g#viewer@user:ann", "doc:a#viewer@user:ann", "allowed"},
		{"no on the way to an allow", "group:x#member@group:y#member no\ngroup:y#member@user:ann", "group:x#member@user:ann", "denied"},
		{"no on the way to an error", "group:x#member@group:y#member no\ngroup:y#member@user:ann errs", "group:x#member@user:ann", "denied"},

		{"a group of itself", "group:x#member@group:x#member", "group:x#member@user:ann", "denied"},
		{"groups of each other", "group:x#member@group:y#member\ngroup:y#member@group:x#member", "group:x#member@user:ann", "denied"},
		{"groups of each other, with a member", "group:x#member@group:y#member\ngroup:y#member@group:x#member\ngroup:x#member@group:z#member\ngroup:z#member@user:ann", "group:y#member@user:ann", "allowed"},
		{"groups of each other, with an error", "group:x#member@group:y#member\ngroup:y#member@group:x#member\ngroup:x#member@user:ann errs", "group:y#member@user:ann", "errs"},
		{"folders in each other", "folder:f#parent@folder:g\nfolder:g#parent@folder:f\nfolder:f#owner@user:ann", "folder:g#viewer@user:ann", "allowed"},
		// While x is being answered, y, which leads back to x, is denied. Then x is allowed.
		{"an early denial is not kept", "doc:a#left@group:x#member\ndoc:a#right@group:y#member\ngroup:x#member@group:a#member\ngroup:a#member@group:y#member\n" +
			"group:y#member@group:x#member\ngroup:x#member@group:b#member\ngroup:b#member@user:ann", "doc:a#both@user:ann", "allowed"},
		{"an early denial is not kept where there is an error", "doc:a#left@group:x#member\ndoc:a#right@group:y#member\ngroup:x#member@group:a#member\ngroup:a#member@group:y#member\n" +
			"group:y#member@group:x#member\ngroup:x#member@group:b#member\ngroup:b#member@user:ann errs", "doc:a#both@user:ann", "errs"},
		{"subtracted from itself", "group:x#present@user:ann\ngroup:x#absent@group:x#present", "group:x#present@user:ann", "subtracted side"},
		{"subtracted from itself, but denied", "group:x#present@user:bob\ngroup:x#absent@group:x#present", "group:x#present@user:ann", "denied"},
		{"subtracted from itself, but absent anyway", "group:x#present@user:ann\ngroup:x#absent@group:x#present\ngroup:x#absent@user:ann", "group:x#present@user:ann", "denied"},
		{"subtracted from each other", "group:x#present@user:ann\ngroup:y#present@user:ann\ngroup:x#absent@group:y#present\ngroup:y#absent@group:x#present", "group:y#present@user:ann", "subtracted side"},
		{"subtracted one from the next", "group:x#present@user:ann\ngroup:y#present@user:ann\ngroup:z#present@user:ann\ngroup:x#absent@group:y#present\ngroup:y#absent@group:z#present", "group:x#present@user:ann", "allowed"},

		{"unknown type", "", "plan:a#viewer@user:ann", "no type"},
		{"unknown relation", "", "doc:a#boss@user:ann", "no relation"},
		{"unknown subject type", "", "doc:a#viewer@alien:ann", "denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newMem()
			if tt.grants != "" {
				w.read(t, strings.Split(tt.grants, "\n")...)
			}
			ask := parse(t, tt.ask)
			q := Question{Object: ask.Object, Relation: ask.Relation, Subject: ask.Subject}
			got, spent, err := m.Check(Scope{Reader: w, Conditions: byName{}}, q)
			if tt.want == "allowed" || tt.want == "denied" {
				if answerOf(got, err) != tt.want {
					t.Fatalf("Check = %v, %v, want %s", got, err, tt.want)
				}
			} else if got || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Check = %v, %v, want an error with %q", got, err, tt.want)
			}
			if spent.Rows < w.reads {
				t.Errorf("it read %d times and says it spent %d rows", w.reads, spent.Rows)
			}
		})
	}
}

// TestCheckTime holds when a grant counts, wherever it is on the way.
func TestCheckTime(t *testing.T) {
	m := company(t)
	w := newMem()
	w.set(parse(t, "doc:a#editor@group:eng#member"), Grant{NotBefore: 100, ExpiresAt: 200})
	w.set(parse(t, "group:eng#member@user:ann"), Grant{ExpiresAt: 190})
	w.set(parse(t, "doc:b#parent@folder:f"), Grant{NotBefore: 100})
	w.set(parse(t, "folder:f#viewer@user:*"), Grant{ExpiresAt: 150})
	for _, tt := range []struct {
		object string
		time   int64
		want   bool
	}{
		{"a", 99, false}, {"a", 100, true}, {"a", 189, true}, {"a", 190, false}, {"a", 200, false},
		{"b", 99, false}, {"b", 100, true}, {"b", 149, true}, {"b", 150, false},
	} {
		q := Question{tuple.Object{Type: "doc", ID: tt.object}, "viewer", tuple.Subject{Type: "user", ID: "ann"}}
		if got, _, err := m.Check(Scope{Reader: w, Conditions: byName{}, Time: tt.time}, q); got != tt.want || err != nil {
			t.Errorf("doc:%s at %d: Check = %v, %v, want %v", tt.object, tt.time, got, err, tt.want)
		}
	}
}

// TestCheckWithoutConditions: where none can be run, a condition is an error.
func TestCheckWithoutConditions(t *testing.T) {
	m := company(t)
	w := newMem().read(t, "doc:a#viewer@user:ann yes", "doc:b#viewer@user:ann")
	for object, want := range map[string]string{"a": "error", "b": "allowed", "c": "denied"} {
		q := Question{Object: tuple.Object{Type: "doc", ID: object}, Relation: "viewer", Subject: tuple.Subject{Type: "user", ID: "ann"}}
		if got, _, err := m.Check(Scope{Reader: w}, q); answerOf(got, err) != want {
			t.Errorf("doc:%s: Check = %v, %v, want %s", object, got, err, want)
		}
	}
}

// TestCheckDepth: a chain of groups as long as the budget has an answer, a longer one
// is an error unless another branch allows, and one that is met again less deep is
// asked again.
func TestCheckDepth(t *testing.T) {
	m := company(t)
	w := newMem()
	for i := range 10 {
		w.read(t, fmt.Sprintf("group:g%d#member@group:g%d#member", i, i+1))
	}
	w.read(t, "group:g10#member@user:ann", "group:a#member@group:g0#member", "group:a#member@group:z#member", "group:z#member@group:g5#member", "folder:f#viewer@group:g0#member", "folder:f#owner@user:bob")
	for _, tt := range []struct {
		ask   string
		depth int
		want  string
	}{
		{"group:g0#member@user:ann", 10, "allowed"},
		{"group:g0#member@user:ann", 9, "error"},
		{"group:g0#member@user:bob", 10, "denied"},
		{"group:g0#member@user:bob", 9, "error"},
		{"folder:f#viewer@user:bob", 3, "allowed"},
		{"group:a#member@user:ann", 8, "allowed"}, // through z, 7 deep; through g0, 11
		{"group:a#member@user:ann", 6, "error"},
	} {
		ask := parse(t, tt.ask)
		got, spent, err := m.Check(Scope{Reader: w, Conditions: byName{}, Budget: Budget{Depth: tt.depth}}, Question{Object: ask.Object, Relation: ask.Relation, Subject: ask.Subject})
		if answerOf(got, err) != tt.want || spent.Depth > tt.depth {
			t.Errorf("%s to a depth of %d: Check = %v, %+v, %v, want %s", tt.ask, tt.depth, got, spent, err, tt.want)
		}
		var budget *BudgetError
		if err != nil && (!errors.As(err, &budget) || budget.What != "depth" || budget.Limit != tt.depth) {
			t.Errorf("%s to a depth of %d: error %v", tt.ask, tt.depth, err)
		}
	}
}

// TestCheckRows asks random questions under every budget up to what they cost: less is
// always the same error, never another answer.
func TestCheckRows(t *testing.T) {
	ended := make(map[string]int)
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := randomModel(r, seed%2 == 0)
		objects := randomObjects(3)
		w := randomWorld(r, m, objects, 60)
		for _, object := range objects {
			for _, relation := range []string{"r0", "r3"} {
				q := Question{object, relation, randomSubjects[0]}
				sc := Scope{Reader: w, Conditions: byName{}, Time: 1000}
				want, spent, wantErr := m.Check(sc, q)
				for rows := 1; rows <= min(spent.Rows, 300); rows++ {
					got, again, err := m.Check(Scope{Reader: w, Conditions: byName{}, Time: 1000, Budget: Budget{Rows: rows}}, q)
					var budget *BudgetError
					switch {
					case rows == spent.Rows && (got != want || again != spent || answerOf(got, err) != answerOf(want, wantErr)):
						t.Fatalf("seed %d, %v: within its %d rows Check = %v, %v, %v, want %v, %v, %v", seed, q, rows, got, again, err, want, spent, wantErr)
					case rows < spent.Rows && (got || !errors.As(err, &budget) || budget.What != "rows" || budget.Limit != rows || again.Rows != rows):
						t.Fatalf("seed %d, %v: within %d of %d rows Check = %v, %+v, %v", seed, q, rows, spent.Rows, got, again, err)
					}
					ended[answerOf(got, err)]++
				}
			}
		}
	}
	if ended["error"] < 1000 || ended["allowed"] < 20 || ended["denied"] < 20 {
		t.Errorf("questions end %v; too few of a kind", ended)
	}
}

// TestCheckReaderError: an error of the Reader ends the question, as it is, also where
// another branch would allow; and the next question knows nothing of it.
func TestCheckReaderError(t *testing.T) {
	m := company(t)
	w := newMem().read(t, "doc:a#editor@group:x#member", "group:x#member@group:y#member", "group:y#member@user:ann", "doc:a#parent@folder:f", "folder:f#viewer@user:bob")
	q := Question{Object: tuple.Object{Type: "doc", ID: "a"}, Relation: "reader", Subject: tuple.Subject{Type: "user", ID: "ann"}}
	if got, _, err := m.Check(Scope{Reader: w}, q); !got || err != nil {
		t.Fatalf("Check = %v, %v, want an allow", got, err)
	}
	total := w.reads
	for at := 1; at <= total; at++ {
		w.reads, w.fail, w.failAt = 0, errors.New("disk"), at
		if got, _, err := m.Check(Scope{Reader: w}, q); got || err != w.fail {
			t.Errorf("failing at read %d: Check = %v, %v, want the Reader's error", at, got, err)
		}
		w.fail = nil
		if got, _, err := m.Check(Scope{Reader: w}, q); !got || err != nil {
			t.Errorf("after failing at read %d: Check = %v, %v, want an allow", at, got, err)
		}
	}
}

// TestCheckDense: where every group is in every other, answers cost what the grants are.
func TestCheckDense(t *testing.T) {
	const n = 60
	for name, last := range map[string]string{"denied": "user:bob", "allowed": "user:ann", "error": "user:ann errs"} {
		m := company(t)
		w := newMem()
		for i := range n {
			for j := range n {
				w.read(t, fmt.Sprintf("group:g%d#member@group:g%d#member", i, j))
			}
		}
		w.read(t, fmt.Sprintf("group:g%d#member@%s", n-1, last))
		q := Question{Object: tuple.Object{Type: "group", ID: "g0"}, Relation: "member", Subject: tuple.Subject{Type: "user", ID: "ann"}}
		got, spent, err := m.Check(Scope{Reader: w, Conditions: byName{}}, q)
		if answerOf(got, err) != name || spent.Rows > 2*n*n {
			t.Errorf("Check = %v, %+v, %v, want %s within twice the %d grants", got, spent, err, name, n*n)
		}
	}
}

// TestCheckReads holds what the common questions read: what they cost in an index.
func TestCheckReads(t *testing.T) {
	m := company(t)
	w := newMem().read(t, "doc:a#viewer@user:ann", "doc:a#owner@user:bob", "folder:f#owner@user:ann", "doc:b#editor@group:eng#member", "group:eng#member@user:ann")
	for _, tt := range []struct {
		ask   string
		reads int
	}{
		{"folder:f#owner@user:ann", 1},
		{"doc:a#viewer@user:ann", 1},
		{"doc:a#viewer@user:bob", 4},         // bob, everyone, editor, owner
		{"doc:b#editor@user:ann", 5},         // ann, owner, the scan and its row, member
		{"doc:b#owner@group:eng#member", 0},  // no owner is a group
		{"doc:b#editor@group:eng#member", 1}, // granted as such
		{"folder:f#parent@folder:g", 1},      // no userset may be granted
		{"group:eng#blocked@group:eng#member", 0},
	} {
		w.reads = 0
		ask := parse(t, tt.ask)
		_, _, err := m.Check(Scope{Reader: w}, Question{Object: ask.Object, Relation: ask.Relation, Subject: ask.Subject})
		if err != nil || w.reads != tt.reads {
			t.Errorf("%s reads %d times (%v), want %d", tt.ask, w.reads, err, tt.reads)
		}
	}
}

// TestRandomModels holds that a valid model can be written and read back.
func TestRandomModels(t *testing.T) {
	for seed := range uint64(300) {
		m := randomModel(rand.New(rand.NewPCG(seed, 3)), true)
		b := AppendModel(nil, m)
		got, err := DecodeModel(b)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !reflect.DeepEqual(got.Types, m.Types) || !bytes.Equal(AppendModel(nil, got), b) {
			t.Fatalf("seed %d: the model read is not the one written", seed)
		}
	}
}

// TestValidateLimits holds that models at their limits are judged in time that grows
// with their size: a slow one would stop every replica.
func TestValidateLimits(t *testing.T) {
	chain := func(length int, rule func(i int) Rule) *Model {
		m := &Model{Schema: "1.1", Types: []Type{{Name: "user"}, {Name: "doc"}}}
		for i := range length {
			m.Types[1].Relations = append(m.Types[1].Relations, Relation{Name: fmt.Sprintf("r%d", i), Rule: rule(i)})
		}
		m.Types[1].Relations = append(m.Types[1].Relations, relation(fmt.Sprintf("r%d", length), this, "user"), relation(fmt.Sprintf("r%d", length+1), this, "user"))
		return m
	}
	name := func(i int) Rule { return computed(fmt.Sprintf("r%d", i)) }
	diamond := func(i int) Rule { return intersect(name(i+1), name(i+2), name(i+1)) }
	exclusion := func(i int) Rule { return exclude(name(i+1), name(i+2)) }
	const longest = MaxRelations - 2
	for _, tt := range []struct {
		name   string
		model  *Model
		faults int
		rule   string // part of the faults
	}{
		{"a chain", chain(MaxChain, func(i int) Rule { return name(i + 1) }), 0, ""},
		{"a chain of diamonds", chain(MaxChain, diamond), 0, ""},
		{"a chain of exclusions", chain(MaxChain, exclusion), 0, ""},
		{"a longer chain", chain(MaxChain+1, func(i int) Rule { return name(i + 1) }), 1, "one from the next"},
		{"the longest chain", chain(longest, func(i int) Rule { return name(i + 1) }), 1, "one from the next"},
		{"the longest chain of diamonds", chain(longest, diamond), 1, "one from the next"},
		{"a ring", chain(longest, func(i int) Rule { return union(name(i+1), name((i+2)%longest), name(longest)) }), 3, "computed"},
		{"too many relations", chain(longest+1, func(i int) Rule { return name(longest + 1) }), 1, "at most 4096 relations"},
		{"too many operands", chain(longest, func(i int) Rule { return Rule{Op: Union, Children: slices.Repeat([]Rule{name(longest)}, 17)} }), 1, "operands"},
	} {
		err := tt.model.Validate()
		var faults Faults
		if errors.As(err, &faults); len(faults) != tt.faults || tt.faults > 0 && !strings.Contains(err.Error(), tt.rule) {
			t.Errorf("%s: Validate = %v, %d faults, want %d with %q", tt.name, err, len(faults), tt.faults, tt.rule)
		}
		if tt.faults > 0 {
			continue
		}
		w := newMem().read(t, fmt.Sprintf("doc:a#r%d@user:ann", MaxChain))
		q := Question{Object: tuple.Object{Type: "doc", ID: "a"}, Relation: "r0", Subject: tuple.Subject{Type: "user", ID: "ann"}}
		if _, spent, err := tt.model.Check(Scope{Reader: w}, q); err != nil || spent.Rows > 4*MaxChain {
			t.Errorf("%s: Check spends %d rows, error %v", tt.name, spent.Rows, err)
		}
	}
}

// TestCheckConcurrent: questions asked at once, of one model, do not touch each other.
func TestCheckConcurrent(t *testing.T) {
	m := company(t)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			w := newMem()
			for j := range 20 {
				w.read(t, fmt.Sprintf("group:g%d#member@group:g%d#member", j, j+1))
			}
			w.read(t, fmt.Sprintf("group:g20#member@user:u%d", i))
			for n := range 200 {
				q := Question{Object: tuple.Object{Type: "group", ID: "g0"}, Relation: "member", Subject: tuple.Subject{Type: "user", ID: fmt.Sprintf("u%d", n%8)}}
				if got, _, err := m.Check(Scope{Reader: w}, q); got != (n%8 == i) || err != nil {
					t.Errorf("goroutine %d asks for %v: Check = %v, %v", i, q.Subject, got, err)
				}
			}
		})
	}
	group.Wait()
}

func FuzzContext(f *testing.F) {
	seed, err := ParseJSON([]byte(`{"int": "7", "double": 1, "list": ["a"], "map": {"x": [1]}, "duration": "1h", "timestamp": "2026-03-01T09:00:00Z", "ip": "::1", "any": null}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(AppendContext(nil, seed))
	f.Add([]byte{byte(MapValue), 0})
	c := &sample().Conditions[0]
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeContext(b)
		if err != nil {
			return
		}
		if again := AppendContext(nil, v); !bytes.Equal(again, b) {
			t.Fatalf("%x is read, and written as %x", b, again)
		}
		typed, err := c.TypeContext(v)
		if err != nil {
			return
		}
		canonical := AppendContext(nil, typed)
		stored, err := DecodeContext(canonical)
		if err != nil {
			t.Fatalf("%x is typed to %x, which cannot be read: %v", b, canonical, err)
		}
		if again, err := c.TypeContext(stored); err != nil || !bytes.Equal(AppendContext(nil, again), canonical) {
			t.Fatalf("typed again, %x is %x, %v", canonical, AppendContext(nil, again), err)
		}
	})
}

// BenchmarkCheck asks over a map, so that what is measured is the evaluator.
func BenchmarkCheck(b *testing.B) {
	m := company(b)
	w := newMem().read(b, "doc:a#viewer@user:ann", "doc:a#editor@group:eng#member", "group:eng#member@user:bob", "doc:a#parent@folder:f", "folder:f#parent@folder:g", "folder:g#owner@user:eve",
		"group:eng#member@group:g0#member")
	for i := range 8 {
		w.read(b, fmt.Sprintf("group:g%d#member@group:g%d#member", i, i+1))
	}
	w.read(b, "group:g8#member@user:dan")
	for _, bb := range []struct{ name, ask string }{
		{"direct", "doc:a#viewer@user:ann"},
		{"hop", "doc:a#editor@user:bob"},
		{"from", "doc:a#viewer@user:eve"},
		{"deep", "doc:a#viewer@user:dan"},
		{"deny", "doc:a#viewer@user:fay"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			ask := parse(b, bb.ask)
			q := Question{Object: ask.Object, Relation: ask.Relation, Subject: ask.Subject}
			var spent Spent
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if _, spent, err = m.Check(Scope{Reader: w}, q); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(spent.Rows), "rows/op")
		})
	}
}
