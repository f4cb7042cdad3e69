package audit

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

// EffectiveDifference reports who holds what at the moment b and did not at a, which is
// not later, and the other way round, for plain subjects, usersets and wildcards. What
// usersets of an object hold on it because a relation is computed from theirs is not told.
// Each row comes with what made the answer at b what it is: see [query.Turn]; the tuple is
// the one that was granted or revoked, that expired, or that began to count.
//
//   - gained: denied at a, allowed at b; lost: the other way round.
//   - undecided: without an answer at one of them, or at both and something that the
//     answer depends on is not the same.
//   - A row about a wildcard (user:*) speaks for every plain subject of the type but those whom
//     another row about the same relation and object names; for these it says what
//     became of them, be it that they are unchanged.
//
// # Why it is exact
//
// Whether a plain subject u holds a relation on an object depends on grants to u, to the
// wildcard of its type and to usersets, and on tuplesets, but on no grant to another
// plain subject except where that is the object that a tupleset names. So under one
// model an answer can differ only through a row that counts differently at a and b and
//
//  1. is granted to u itself: then all that u reaches is compared; or
//  2. is granted to a userset or a wildcard, or belongs to a tupleset: then its relation
//     on its object is compared for all subjects, and so is every relation on an object
//     that depends on it, found upward through the rows of both moments: computed from
//     it, granted on to its holders, or followed through a tupleset.
//
// What a userset holds depends on grants to usersets, itself among them, and on tuplesets
// alone, so every answer about it that can differ is among those of 2.
//
// A grant counts differently if it is granted at one of the moments alone, is not within
// its time at one of them, has another condition or context, or has a condition that
// looks at the time. Under two models everything is compared.
//
// Rows come in this order: first the differences of the subjects of 1, by subject, then by
// type of object and relation in the order of the model, then by object; then those of 2
// that were not told, by object, relation and subject.
//
// What is affected is held in memory, at most as much as a list may hold; beyond that it
// is a [*model.BudgetError]. Both moments are closed by the caller.
func EffectiveDifference(ctx context.Context, a, b *Moment) Report {
	return Report{
		Title:   "difference of effective access",
		Columns: append(slices.Concat([]string{"change", "subject", "relation", "object", "before", "after"}, causeColumns), "tuple"),
		Rows: tellingRows(b, func(teller *Moment, yield func(Row) bool) error {
			if b.model == nil {
				return nil // nor was there one before
			}
			d := newDifference(ctx, a, b, teller, yield)
			if a.Model() != b.Model() {
				return d.everything()
			}
			if err := d.find(); err != nil {
				return err
			}
			return d.compare()
		}),
	}
}

func newDifference(ctx context.Context, a, b, teller *Moment, yield func(Row) bool) *difference {
	d := &difference{ctx: ctx, a: a, b: b, teller: teller, yield: yield, more: true, uses: usesOf(b.model),
		subjects: make(map[tuple.Subject]bool), parts: make(map[part]bool)}
	if a.model != nil && a.Model() != b.Model() {
		d.before = usesOf(a.model)
	}
	return d
}

// A part is a relation on an object.
type part struct {
	object   tuple.Object
	relation string
}

// A difference is the state of one report of effective access.
type difference struct {
	ctx    context.Context
	a, b   *Moment
	teller *Moment // b, for questions beside a list
	yield  func(Row) bool
	more   bool // rows are wanted
	uses   *uses
	before *uses // of a's model, nil if it has none or the same

	subjects map[tuple.Subject]bool // plain, with a changed grant of their own
	parts    map[part]bool          // affected for whomever
	held     int                    // bytes of the two
	todo     []part                 // whose dependents are not found yet
}

// partBytes is what one of the affected holds beside its texts, estimated from above.
const partBytes = 192

func (d *difference) hold(n int) error {
	d.held += n + partBytes
	if limit := d.b.engine.Budgets().List.Memory; d.held > limit {
		return fmt.Errorf("compare moments nearer to each other: what may differ between these does not fit: %w",
			&model.BudgetError{What: "memory", Limit: limit, Spent: model.Spent{Memory: d.held}})
	}
	return nil
}

func (d *difference) addSubject(s tuple.Subject) error {
	if d.subjects[s] {
		return nil
	}
	d.subjects[s] = true
	return d.hold(len(s.ID))
}

func (d *difference) addPart(o tuple.Object, relation string) error {
	p := part{o, relation}
	if d.parts[p] {
		return nil
	}
	d.parts[p] = true
	d.todo = append(d.todo, p)
	return d.hold(len(o.ID))
}

// find finds the subjects and parts that are affected.
func (d *difference) find() error {
	var failed error
	err := d.tuples(func(t tuple.Tuple) bool {
		for _, r := range d.uses.tuplesets[typed{t.Object.Type, t.Relation}] {
			if failed = d.addPart(t.Object, r); failed != nil {
				return false
			}
		}
		if t.Subject.Relation == "" && t.Subject.ID != tuple.Wildcard {
			failed = d.addSubject(t.Subject)
		} else {
			failed = d.addPart(t.Object, t.Relation)
		}
		return failed == nil
	})
	if err != nil || failed != nil {
		return cmp.Or(err, failed)
	}
	for len(d.todo) > 0 {
		p := d.todo[0]
		d.todo = d.todo[1:]
		if err := d.spread(p); err != nil {
			return err
		}
	}
	return nil
}

// tuples yields the tuples that count differently for who holds what.
func (d *difference) tuples(yield func(tuple.Tuple) bool) error {
	return both(d.ctx, d.a, d.b, func(t tuple.Tuple, before, after *query.Granted) bool {
		was, is := counts(before), counts(after)
		if was == is && (!was || before.Grant.Condition == after.Grant.Condition && string(before.Grant.Context) == string(after.Grant.Context) && !(d.a.time != d.b.time && d.b.asking.Timed(after.Grant.Condition))) {
			return true
		}
		return yield(t)
	})
}

// spread adds what depends on a part at either moment.
func (d *difference) spread(p part) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	for _, r := range d.uses.computed[typed{p.object.Type, p.relation}] {
		if err := d.addPart(p.object, r); err != nil {
			return err
		}
	}
	on := tuple.Subject{Type: p.object.Type, ID: p.object.ID}
	for _, m := range [...]*Moment{d.a, d.b} {
		if err := m.fresh(); err != nil {
			return err
		}
		var failed error
		add := func(prefix index.Prefix, relation string) error {
			err := m.view.Tuples(prefix, tuple.Tuple{}, func(g index.Granted) bool {
				failed = d.addPart(g.Tuple.Object, cmp.Or(relation, g.Tuple.Relation))
				return failed == nil
			})
			return cmp.Or(err, failed)
		}
		if d.uses.usersets[typed{p.object.Type, p.relation}] {
			holders := tuple.Subject{Type: on.Type, ID: on.ID, Relation: p.relation}
			if err := add(index.BySubject(holders, "", ""), ""); err != nil {
				return err
			}
		}
		for _, f := range d.uses.followed[p.relation] {
			if err := add(index.BySubject(on, f.typ, f.tupleset), f.relation); err != nil {
				return err
			}
		}
	}
	return nil
}

// typed is a relation of a type.
type typed struct{ typ, relation string }

// follows is a rule that follows a tupleset: of the relation of a type.
type follows struct{ typ, tupleset, relation string }

// uses says which relations of a model are made of which.
type uses struct {
	computed  map[typed][]string   // from a relation: on the same object
	usersets  map[typed]bool       // the relations whose holders may be granted others
	tuplesets map[typed][]string   // by following the relation as a tupleset
	followed  map[string][]follows // of the relation that is asked at the end of a tupleset
}

func usesOf(m *model.Model) *uses {
	u := &uses{make(map[typed][]string), make(map[typed]bool), make(map[typed][]string), make(map[string][]follows)}
	for i := range m.Types {
		for j := range m.Types[i].Relations {
			r := &m.Types[i].Relations[j]
			u.rule(m.Types[i].Name, r.Name, &r.Rule)
			for _, d := range r.Direct {
				u.usersets[typed{d.Type, d.Relation}] = true
			}
		}
	}
	return u
}

// own reports whether s is a userset of o from which the relation is computed, or that of
// the relation itself.
func (u *uses) own(o tuple.Object, relation string, s tuple.Subject) bool {
	if s.Relation == "" || s.Type != o.Type || s.ID != o.ID {
		return false
	}
	reached := []string{s.Relation}
	for i := 0; i < len(reached); i++ {
		if reached[i] == relation {
			return true
		}
		for _, r := range u.computed[typed{o.Type, reached[i]}] {
			if !slices.Contains(reached, r) {
				reached = append(reached, r)
			}
		}
	}
	return false
}

func (u *uses) rule(typ, relation string, r *model.Rule) {
	switch r.Op {
	case model.Computed:
		of := typed{typ, r.Relation}
		u.computed[of] = append(u.computed[of], relation)
	case model.From:
		of := typed{typ, r.Tupleset}
		u.tuplesets[of] = append(u.tuplesets[of], relation)
		u.followed[r.Relation] = append(u.followed[r.Relation], follows{typ, r.Tupleset, relation})
	}
	for i := range r.Children {
		u.rule(typ, relation, &r.Children[i])
	}
}

// compare tells the differences of what find has found.
func (d *difference) compare() error {
	subjects := slices.SortedFunc(maps.Keys(d.subjects), func(s, t tuple.Subject) int {
		return (tuple.Tuple{Subject: s}).Compare(tuple.Tuple{Subject: t})
	})
	for _, s := range subjects {
		for i := range d.b.model.Types {
			typ := &d.b.model.Types[i]
			for j := range typ.Relations {
				if err := d.ofSubject(s, typ.Name, typ.Relations[j].Name); err != nil || !d.more {
					return err
				}
			}
		}
	}
	parts := slices.SortedFunc(maps.Keys(d.parts), func(p, q part) int {
		return (tuple.Tuple{Object: p.object, Relation: p.relation}).Compare(tuple.Tuple{Object: q.object, Relation: q.relation})
	})
	for _, p := range parts {
		if err := d.ofPart(p); err != nil || !d.more {
			return err
		}
	}
	return nil
}

// everything compares every relation of every object that either moment grants something
// on. On any other nobody holds anything that is told: what rules add begins with a grant,
// but for usersets of the object itself from which a relation is computed.
func (d *difference) everything() error {
	var failed error
	var last tuple.Object
	err := both(d.ctx, d.a, d.b, func(t tuple.Tuple, _, _ *query.Granted) bool {
		if t.Object != last {
			last = t.Object
			failed = d.ofObject(last)
		}
		return failed == nil && d.more
	})
	return cmp.Or(failed, err)
}

// ofObject compares all relations on an object, those of b's model first.
func (d *difference) ofObject(o tuple.Object) error {
	var relations []string
	for _, m := range [...]*model.Model{d.b.model, d.a.model} {
		if m == nil {
			continue
		}
		if typ, ok := m.Type(o.Type); ok {
			for i := range typ.Relations {
				if name := typ.Relations[i].Name; !slices.Contains(relations, name) {
					relations = append(relations, name)
				}
			}
		}
	}
	for _, r := range relations {
		if err := d.ofPart(part{o, r}); err != nil || !d.more {
			return err
		}
	}
	return nil
}

// A verdict is the answer of one moment.
type verdict struct {
	allowed bool
	err     error // why there is none
}

func (v verdict) String() string {
	switch {
	case v.err != nil:
		return Cell(undecidedFor + v.err.Error())
	case v.allowed:
		return "allowed"
	}
	return "denied"
}

// changeOf names what became of an answer.
func changeOf(before, after verdict) string {
	switch {
	case before.err != nil || after.err != nil:
		return undecided
	case before.allowed == after.allowed:
		return unchanged
	case after.allowed:
		return gained
	}
	return lost
}

func verdictOf(i *model.Item, otherwise verdict) verdict {
	if i == nil {
		return otherwise
	}
	return verdict{allowed: i.Err == nil && !i.Excluded, err: i.Err}
}

// items yields the items of a list as pointers, and fails if the list is read too slowly.
func (m *Moment) items(list iter.Seq2[model.Item, error]) iter.Seq2[*model.Item, error] {
	return func(yield func(*model.Item, error) bool) {
		for i, err := range list {
			if err == nil {
				err = m.slow()
			}
			if !yield(&i, err) || err != nil {
				return
			}
		}
	}
}

func none(func(*model.Item, error) bool) {}

func compareItems(x, y *model.Item) int { return strings.Compare(x.ID, y.ID) }

// ofSubject compares the objects of a type on which a subject holds a relation.
func (d *difference) ofSubject(s tuple.Subject, typ, relation string) error {
	if !d.b.model.CanHold(typ, relation, model.Kind{Type: s.Type}) {
		return nil
	}
	q := query.ObjectsQuestion{Subject: s, Relation: relation, Type: typ, Given: d.b.given}
	var lists [2]iter.Seq2[*model.Item, error]
	for i, m := range [...]*Moment{d.a, d.b} {
		if err := m.fresh(); err != nil {
			return err
		}
		lists[i] = m.items(m.asking.ListObjects(d.ctx, q, ""))
	}
	var failed error
	err := merged(lists[0], lists[1], compareItems, func(x, y *model.Item) bool {
		id := cmp.Or(x, y)
		before, after := verdictOf(x, verdict{}), verdictOf(y, verdict{})
		if changeOf(before, after) == unchanged {
			return true
		}
		failed = d.tell(tuple.Tuple{Object: tuple.Object{Type: typ, ID: id.ID}, Relation: relation, Subject: s}, before, after)
		return failed == nil && d.more
	})
	return cmp.Or(failed, err)
}

// ofPart compares the subjects that hold a relation on an object, but for those that were
// compared by themselves.
func (d *difference) ofPart(p part) error {
	seen := make(map[model.Kind]bool)
	for _, m := range [...]*model.Model{d.b.model, d.a.model} {
		if m == nil {
			continue
		}
		for kind := range kinds(m) {
			if seen[kind] || !m.CanHold(p.object.Type, p.relation, kind) {
				continue
			}
			seen[kind] = true
			if err := d.ofKind(p, kind); err != nil || !d.more {
				return err
			}
		}
	}
	return nil
}

func (d *difference) ofKind(p part, kind model.Kind) error {
	about := tuple.Tuple{Object: p.object, Relation: p.relation, Subject: tuple.Subject{Type: kind.Type, ID: tuple.Wildcard, Relation: kind.Relation}}
	q := query.SubjectsQuestion{Kind: kind, Relation: p.relation, Object: p.object, Given: d.b.given}
	var lists [2]iter.Seq2[*model.Item, error]
	var all [2]verdict // what is said of everyone
	for i, m := range [...]*Moment{d.a, d.b} {
		lists[i] = none
		if m.model == nil || !m.model.CanHold(p.object.Type, p.relation, q.Kind) {
			continue
		}
		if err := m.fresh(); err != nil {
			return err
		}
		if kind.Relation == "" { // no wildcard speaks for usersets
			answer, err := m.asking.Check(d.ctx, query.Question{Tuple: about, Given: m.given})
			if err != nil && !unanswered(err) {
				return err
			}
			all[i] = verdict{answer.Allowed, err}
		}
		lists[i] = m.items(m.asking.ListSubjects(d.ctx, q, ""))
	}
	open := changeOf(all[0], all[1]) != unchanged
	told := !open
	var failed error
	tell := func(id string, before, after verdict) bool {
		t := about
		t.Subject.ID = id
		if d.uses.own(t.Object, t.Relation, t.Subject) || d.before != nil && d.before.own(t.Object, t.Relation, t.Subject) {
			return true
		}
		failed = d.tell(t, before, after)
		return failed == nil && d.more
	}
	err := merged(lists[0], lists[1], compareItems, func(x, y *model.Item) bool {
		one := cmp.Or(x, y)
		if !told && one.ID >= tuple.Wildcard {
			told = true
			if !tell(tuple.Wildcard, all[0], all[1]) {
				return false
			}
		}
		if one.ID == tuple.Wildcard && kind.Relation == "" {
			return true
		}
		before, after := verdictOf(x, all[0]), verdictOf(y, all[1])
		change := changeOf(before, after)
		if change == unchanged && !open || change != unchanged && d.subjects[tuple.Subject{Type: kind.Type, ID: one.ID, Relation: kind.Relation}] {
			return true
		}
		return tell(one.ID, before, after)
	})
	if failed == nil && err == nil && d.more && !told {
		tell(tuple.Wildcard, all[0], all[1])
	}
	return cmp.Or(failed, err)
}

// tell yields the row of a difference.
func (d *difference) tell(t tuple.Tuple, before, after verdict) error {
	change := changeOf(before, after)
	since := d.a
	if change == unchanged || before.err != nil && after.err != nil {
		since = nil
	}
	c, about, err := d.teller.turn(d.ctx, t, since)
	if err != nil {
		return fmt.Errorf("%s: %w", t, err)
	}
	told, err := d.teller.causeCells(c)
	if err != nil {
		return fmt.Errorf("%s: %w", t, err)
	}
	cells := []string{change, t.Subject.String(), t.Relation, t.Object.String(), before.String(), after.String()}
	d.more = d.yield(Row{Cells: append(slices.Concat(cells, told), about), Undecided: change == undecided})
	return nil
}
