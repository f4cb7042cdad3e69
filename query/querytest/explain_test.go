package querytest

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// wrongExplanation says how the explanation of a question is not right, or "".
func wrongExplanation(w *World, e *Explained, q tuple.Tuple) string {
	question := model.Question{Object: q.Object, Relation: q.Relation, Subject: q.Subject}
	if e.oracle.rules[node{q.Object, q.Relation}] == nil {
		return "" // a smaller world, which does not have it
	}
	x, spent, err := w.Model.Explain(w.Scope(), model.Budget{}, question)
	if err != nil {
		return fmt.Sprintf("explaining %s: %v; the oracle says otherwise", q, err)
	}
	allowed, checked, checkErr := w.Model.Check(w.Scope(), question)
	if allowed != (x.Verdict == model.Holds) || (checkErr == nil) != (x.Err == nil) || x.Err != nil && x.Err.Error() != checkErr.Error() || spent != checked {
		return fmt.Sprintf("explaining %s: verdict %d, %v, for %+v; Check says %v, %v, for %+v; the oracle says neither", q, x.Verdict, x.Err, spent, allowed, checkErr, checked)
	}
	if text := e.Wrong(q, x); text != "" {
		return text + "which is not what the oracle says"
	}
	return ""
}

// Seeds of worlds that show what is rare: a proof by what holds for certain that rests on
// itself unless its order is seen to, and a rule that met itself through a subtraction
// within a part that has an answer.
var rare = []uint64{700629473, 51}

// TestOracleExplain explains everything that can be asked of random worlds. The tree of
// every allow must prove it, and every verdict in any tree must be the oracle's.
func TestOracleExplain(t *testing.T) {
	seeds := slices.Clone(rare)
	for first := firstSeed(t); len(seeds) < *worldsFlag/4; {
		seeds = append(seeds, first+uint64(len(seeds)))
	}
	var held, heldNot, undecided int
	for _, seed := range seeds {
		w := NewWorld(seed)
		e := NewExplained(w)
		for _, q := range slices.SortedFunc(maps.Keys(w.Facts()), tuple.Tuple.Compare) {
			if text := wrongExplanation(w, e, q); text != "" {
				small := w.Shrink(func(w *World) bool { return wrongExplanation(w, NewExplained(w), q) != "" })
				t.Fatalf("seed %d: %s\n%sin this world, the smallest that shows it: %s", seed, text, small, wrongExplanation(small, NewExplained(small), q))
			}
		}
		held, heldNot, undecided = held+e.Held, heldNot+e.HeldNot, undecided+e.Undecided
	}
	t.Logf("rules held against the oracle: %d hold, %d do not, %d are undecided", held, heldNot, undecided)
	for what, n := range map[string]int{"hold": held / 40, "do not hold": heldNot / 400, "are undecided": undecided / 10} {
		if n < len(seeds) {
			t.Errorf("of %d worlds, too few rules %s: %d", len(seeds), what, n)
		}
	}
}
