package querytest

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the first random world; 0: another one every time")
	worldsFlag = flag.Int("worlds", 400, "how many random worlds to compare")
)

// ask returns what the evaluator says, with the cause of an error. The error is one
// that no fact can cause.
func ask(w *World, t tuple.Tuple) (Fact, error) {
	q := model.Question{Object: t.Object, Relation: t.Relation, Subject: t.Subject}
	allowed, _, err := w.Model.Check(w.Scope(), q)
	var missing *MissingError
	var cycle *model.CycleError
	switch {
	case errors.As(err, &missing):
		return Fact{Failed, []string{missing.Condition}}, nil
	case errors.As(err, &cycle):
		return Fact{Failed, []string{Cycle}}, nil
	case err != nil:
		return Fact{}, err
	case allowed:
		return Fact{Value: Allowed}, nil
	}
	return Fact{Value: Denied}, nil
}

// disagreement says how the evaluator's answer differs from the fact, or "".
func disagreement(w *World, t tuple.Tuple, want Fact) string {
	got, err := ask(w, t)
	switch {
	case err != nil:
		return fmt.Sprintf("%s: the evaluator errs: %v; the oracle says %v %q", t, err, want.Value, want.Causes)
	case got.Value != want.Value:
		return fmt.Sprintf("%s: the evaluator says %v %q, the oracle says %v %q", t, got.Value, got.Causes, want.Value, want.Causes)
	case got.Value == Failed && !slices.Contains(want.Causes, got.Causes[0]):
		return fmt.Sprintf("%s: the evaluator blames %q, the oracle says %q", t, got.Causes[0], want.Causes)
	}
	return ""
}

// firstSeed returns the seed of the first world, and says which it is.
func firstSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("worlds from seed %d; -args -seed %d runs them again", seed, seed)
	return seed
}

// TestOracle asks the evaluator everything that can be asked of random worlds. An
// answer must be the oracle's, and the cause of an error one that the oracle names.
func TestOracle(t *testing.T) {
	seed := firstSeed(t)
	asked, circular := make(map[string]int), 0
	for n := range *worldsFlag {
		w := NewWorld(seed + uint64(n))
		facts := w.Facts()
		for _, q := range slices.SortedFunc(maps.Keys(facts), tuple.Tuple.Compare) {
			if text := disagreement(w, q, facts[q]); text != "" {
				t.Fatalf("seed %d: %s\n%s", seed+uint64(n), text, shrunk(w, q))
			}
			asked[facts[q].Value.String()]++
			for _, cause := range facts[q].Causes {
				asked[cause]++
			}
		}
		if isCircular(w) {
			circular++
		}
	}
	t.Logf("%d of %d worlds are circular; facts: %v", circular, *worldsFlag, asked)
	// What the worlds are for: each kind of answer, in many worlds that lead back to
	// themselves. The figures are a third of what is usual.
	for what, least := range map[string]int{"denied": 150, "allowed": 15, "failed": 2, Cycle: 1} {
		if asked[what] < least**worldsFlag {
			t.Errorf("only %d facts of %d worlds are: %s; want %d or more", asked[what], *worldsFlag, what, least**worldsFlag)
		}
	}
	for what, least := range map[string]int{"flag": asked["failed"] / 40, "mark": asked["failed"] / 40} {
		if asked[what] < least {
			t.Errorf("only %d facts of %d worlds fail by condition %s; want %d or more", asked[what], *worldsFlag, what, least)
		}
	}
	if circular < *worldsFlag/5 {
		t.Errorf("only %d of %d worlds are circular; want a fifth or more", circular, *worldsFlag)
	}
}

// shrunk describes the smallest world found in which the answer to q is wrong.
func shrunk(w *World, q tuple.Tuple) string {
	wrong := func(w *World) string {
		fact, ok := Facts(w.State(), w.Everything(), []tuple.Subject{q.Subject})[q]
		if !ok {
			return ""
		}
		return disagreement(w, q, fact)
	}
	w = w.Shrink(func(w *World) bool { return wrong(w) != "" })
	return fmt.Sprintf("%sin this world, the smallest that shows it: %s", w, wrong(w))
}

// isCircular reports whether some relation on an object leads back to itself without
// subtraction, for a subject that nothing is granted to by name.
func isCircular(w *World) bool {
	o := newOracle(w.State(), w.Everything())
	o.subject = tuple.Subject{Type: "user", ID: ids[2]}
	unknown := make(values)
	for _, n := range o.nodes {
		unknown[n] = Failed
	}
	for _, n := range o.nodes {
		for _, need := range o.needs(n, o.rules[n], unknown, false) {
			if need.condition == "" && !need.subtracted && o.below(need.node, unknown)[n] {
				return true
			}
		}
	}
	return false
}

// TestOracleImports holds the oracle to what it may know: tuples, and the types and
// fields of compiled models. None of their methods and functions.
func TestOracleImports(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "oracle.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"maps", "slices", "github.com/grantlog/grantlog/ledger/model", "github.com/grantlog/grantlog/ledger/tuple"}
	for _, spec := range f.Imports {
		if path := strings.Trim(spec.Path.Value, `"`); !slices.Contains(allowed, path) {
			t.Errorf("oracle.go imports %s", path)
		}
	}
	ofModel := []string{"Model", "Grant", "Rule", "Direct", "This", "Computed", "From", "Union", "Intersect", "Exclude"}
	used, called := 0, 0
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "model" {
				if used++; !slices.Contains(ofModel, n.Sel.Name) {
					t.Errorf("oracle.go uses model.%s", n.Sel.Name)
				}
			}
		case *ast.CallExpr: // of a method: one of the oracle's own, or of a tuple
			if m, ok := n.Fun.(*ast.SelectorExpr); ok && m.Sel.Name != "Object" {
				called++
				if x, ok := m.X.(*ast.Ident); !ok || !slices.Contains([]string{"o", "s", "maps", "slices"}, x.Name) {
					t.Errorf("oracle.go calls the method %s", m.Sel.Name)
				}
			}
		}
		return true
	})
	if used < 10 || called < 10 {
		t.Errorf("found %d uses of package model and %d calls in oracle.go; that cannot be all", used, called)
	}
}
