package audit

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query/querytest"
)

var (
	diffSeed      = flag.Uint64("seed", 0, "seed of the first random history; 0: another one every time")
	diffHistories = flag.Uint64("histories", 4, "how many random histories to compare")
)

// A pastState is what a store should be at a revision.
type pastState struct {
	revision ledger.Revision
	time     int64 // of the log
	model    *model.Model
	grants   map[tuple.Tuple]model.Grant
}

// facts returns what the oracle says of a pastState at a time.
func (p *pastState) facts(at int64) map[tuple.Tuple]querytest.Value {
	w := &querytest.World{Model: p.model, Grants: p.grants}
	state := w.State()
	state.Time = at
	values := make(map[tuple.Tuple]querytest.Value)
	for t, f := range querytest.Facts(state, w.Everything(), w.Everyone()) {
		values[t] = f.Value
	}
	return values
}

// history folds a random history, and returns what the store should be after each step.
// The second half of it is at the time when grants expire and begin to count.
func (w *reported) history(seed uint64, n int) (pasts []pastState) {
	w.t.Helper()
	r := rand.New(rand.NewPCG(seed, 4))
	now := pastState{grants: make(map[tuple.Tuple]model.Grant)}
	for i, step := range querytest.NewHistory(seed, n) {
		switch {
		case i == n/2:
			w.now = querytest.Now - 3
		case i > n/2:
			w.now = now.time - int64(r.IntN(4)+2)/4 // often at the same time as the one before
		}
		maps.DeleteFunc(step.Grant, func(_ tuple.Tuple, g model.Grant) bool { return g.ExpiresAt != 0 && g.ExpiresAt <= w.now+1 })
		if step.Model == nil && len(step.Grant)+len(step.Revoke) == 0 {
			continue
		}
		now.grants = maps.Clone(now.grants)
		var c ledger.Command
		if step.Model != nil {
			now.model = step.Model
			c.Changes = append(c.Changes, ledger.Change{Kind: ledger.WriteModel, Model: ledger.ModelSource{
				ID: ledger.NewID(), Kind: ledger.SourceJSON, Source: []byte("{}"), Compiled: model.AppendModel(nil, step.Model)}})
		}
		for _, t := range slices.SortedFunc(maps.Keys(step.Grant), tuple.Tuple.Compare) {
			now.grants[t] = step.Grant[t]
			c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Grant, Tuple: t, Grant: step.Grant[t]})
		}
		for _, t := range step.Revoke {
			delete(now.grants, t)
			c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Revoke, Tuple: t})
		}
		now.revision = w.apply(c)
		now.time = w.now
		pasts = append(pasts, now)
	}
	return pasts
}

func (c *compared) models() [2]*model.Model { return [...]*model.Model{c.a.model, c.b.model} }

// own reports whether a model computes the relation of t from that of its subject, which is
// a userset of the same object.
func own(t tuple.Tuple, models [2]*model.Model) bool {
	var from func(m *model.Model, r *model.Rule, depth int) bool
	named := func(m *model.Model, relation string, depth int) bool {
		if relation == t.Subject.Relation {
			return true
		}
		r, ok := m.Relation(t.Object.Type, relation)
		return ok && depth < 32 && from(m, &r.Rule, depth+1)
	}
	from = func(m *model.Model, r *model.Rule, depth int) bool {
		if r.Op == model.Computed && named(m, r.Relation, depth) {
			return true
		}
		return slices.ContainsFunc(r.Children, func(c model.Rule) bool { return from(m, &c, depth) })
	}
	return t.Subject.Relation != "" && t.Subject.Type == t.Object.Type && t.Subject.ID == t.Object.ID &&
		slices.ContainsFunc(models[:], func(m *model.Model) bool { return m != nil && named(m, t.Relation, 0) })
}

// wrongDifference says how rows are not the difference of the facts, "" if they are.
func wrongDifference(rows [][]string, before, after map[tuple.Tuple]querytest.Value, models [2]*model.Model, told map[string]int) string {
	changes := make(map[string]string)
	for _, cells := range rows {
		key := cells[3] + "#" + cells[2] + "@" + cells[1]
		if changes[key] != "" {
			return fmt.Sprintf("%s stands twice", key)
		}
		changes[key] = cells[0]
		told[cells[0]]++
	}
	said := make(map[string]bool)
	all := maps.Clone(before)
	maps.Copy(all, after)
	for t := range all {
		was, is := before[t], after[t] // of a relation that a model does not have: denied
		got, named := changes[t.String()]
		if own(t, models) {
			if named {
				return fmt.Sprintf("%s is told, which the rules alone say", t)
			}
			continue
		}
		if !named && t.Subject.Relation == "" {
			everyone := t
			everyone.Subject.ID = tuple.Wildcard
			got = changes[everyone.String()]
		}
		want := unchanged
		switch {
		case was == querytest.Failed || is == querytest.Failed:
			want = undecided
		case was == querytest.Denied && is == querytest.Allowed:
			want = gained
		case was == querytest.Allowed && is == querytest.Denied:
			want = lost
		}
		if got == "" {
			got = unchanged
		}
		if got != want && !(got == unchanged && was == is) {
			return fmt.Sprintf("%s is told as %s, the oracle says %v and then %v", t, got, was, is)
		}
		said[t.String()] = true
	}
	for key := range changes {
		if said[key] {
			continue
		}
		return fmt.Sprintf("%s is told, of which the oracle says nothing", key)
	}
	return ""
}

// A compared is a pair of moments of a random history, and what the oracle says of them.
type compared struct {
	a, b          *Moment
	before, after map[tuple.Tuple]querytest.Value
	where         string
	worlds        string
}

// pairs calls f for n pairs of moments of the random history of a seed, until it returns
// false. Half of them are near each other, so that few rows differ.
func pairs(t *testing.T, seed uint64, n int, f func(w *reported, c *compared) bool) {
	w := newReported(t)
	pasts := w.history(seed, 40)
	r := rand.New(rand.NewPCG(seed, 3))
	for range n {
		i := r.IntN(len(pasts))
		j := i + r.IntN(len(pasts)-i)
		if r.IntN(2) == 0 {
			j = min(j, i+r.IntN(4))
		}
		// A time at which the revision was the newest: its own, or the last such.
		when := func(i int) int64 {
			last := querytest.Now + 10
			if i+1 < len(pasts) {
				last = max(pasts[i].time, pasts[i+1].time-1)
			}
			return [...]int64{pasts[i].time, last}[r.IntN(2)]
		}
		x, y := when(i), when(j)
		y = max(x, y)
		c := &compared{
			a: w.at(pasts[i].revision, x), b: w.at(pasts[j].revision, y),
			before: pasts[i].facts(x), after: pasts[j].facts(y),
			where:  fmt.Sprintf("seed %d, revisions %d and %d, times %+d and %+d", seed, pasts[i].revision, pasts[j].revision, x-querytest.Now, y-querytest.Now),
			worlds: worldText(&pasts[i]) + "\n" + worldText(&pasts[j]),
		}
		if !f(w, c) {
			return
		}
	}
}

// wrongCauses says which row blames what did not happen between the moments, "" for none.
func (c *compared) wrongCauses(rows [][]string, told map[string]int) string {
	for _, cells := range rows {
		if cells[0] != gained && cells[0] != lost {
			continue
		}
		kind := cells[6]
		told[kind]++
		at, err := time.Parse(time.RFC3339Nano, cells[7])
		if err != nil {
			return fmt.Sprintf("%q: %v", cells, err)
		}
		rev, err := strconv.ParseUint(cells[8], 10, 64)
		if err != nil {
			return fmt.Sprintf("%q: %v", cells, err)
		}
		within := ledger.Revision(rev) > c.a.view.Revision() && ledger.Revision(rev) <= c.b.view.Revision()
		if kind == causeExpiry || kind == causeStart {
			within = within || at.UnixNano() > c.a.time && at.UnixNano() <= c.b.time
		}
		if !within || (kind == causeModel) != (cells[12] == "") {
			return fmt.Sprintf("%q: the cause is not between the moments", cells)
		}
	}
	return ""
}

// TestEffectiveDifference compares, in random histories, the difference of many pairs of
// moments with what the oracle says of all subjects at both: with groups and parents
// several hops away, exclusions, intersections, wildcards, expiries and models between.
func TestEffectiveDifference(t *testing.T) {
	seed := *diffSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("histories from seed %d; -args -seed %d runs them again", seed, seed)
	told := make(map[string]int)
	for n := range *diffHistories {
		pairs(t, seed+n, 40, func(w *reported, c *compared) bool {
			rows := all(t, EffectiveDifference(background, c.a, c.b))
			text := wrongDifference(rows, c.before, c.after, c.models(), told)
			if text == "" {
				text = c.wrongCauses(rows, told)
			}
			if text != "" {
				t.Fatalf("%s: %s\n%s", c.where, text, c.worlds)
			}
			return true
		})
	}
	t.Logf("rows %v", told)
	for _, change := range []string{gained, lost, causeCommand, causeModel} {
		if told[change] == 0 {
			t.Errorf("no row is %s", change)
		}
	}
}

// TestEffectiveDifferenceFaults leaves out, one at a time, the steps that find what is
// affected, and requires that the comparison with the oracle notices each.
func TestEffectiveDifferenceFaults(t *testing.T) {
	faults := map[string]func(*difference){ // what is left out
		"computed relations":                  func(d *difference) { d.uses.computed = nil },
		"what is granted on to usersets":      func(d *difference) { d.uses.usersets = nil },
		"what changed tuplesets lead to":      func(d *difference) { d.uses.tuplesets = nil },
		"what is followed through tuplesets":  func(d *difference) { d.uses.followed = nil },
		"subjects with grants of their own":   func(d *difference) { clear(d.subjects) },
		"relations that are affected for all": func(d *difference) { clear(d.parts) },
	}
	for seed := uint64(1); len(faults) > 0 && seed < 40; seed++ {
		pairs(t, seed, 30, func(w *reported, c *compared) bool {
			if c.a.Model() != c.b.Model() {
				return true
			}
			for name, fault := range faults {
				if wrongDifference(w.faulty(c.a, c.b, fault), c.before, c.after, c.models(), make(map[string]int)) != "" {
					delete(faults, name)
				}
			}
			return len(faults) > 0
		})
	}
	for name := range faults {
		t.Errorf("nobody notices that this is left out: %s", name)
	}
}

// faulty returns the rows of a difference that a fault was put into.
func (w *reported) faulty(a, b *Moment, fault func(*difference)) (cells [][]string) {
	w.t.Helper()
	err := b.beside(func(teller *Moment) error {
		d := newDifference(background, a, b, teller, func(r Row) bool {
			cells = append(cells, r.Cells)
			return true
		})
		fault(d)
		if err := d.find(); err != nil {
			return err
		}
		fault(d)
		return d.compare()
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return cells
}

func worldText(p *pastState) string {
	return (&querytest.World{Model: p.model, Grants: p.grants}).String()
}
