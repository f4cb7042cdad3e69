package querytest

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// Rules, to write models with.
var this = model.Rule{Op: model.This}

func held(relation string) model.Rule { return model.Rule{Op: model.Computed, Relation: relation} }

func from(relation, tupleset string) model.Rule {
	return model.Rule{Op: model.From, Relation: relation, Tupleset: tupleset}
}

func or(rules ...model.Rule) model.Rule  { return model.Rule{Op: model.Union, Children: rules} }
func and(rules ...model.Rule) model.Rule { return model.Rule{Op: model.Intersect, Children: rules} }

func butNot(a, b model.Rule) model.Rule {
	return model.Rule{Op: model.Exclude, Children: []model.Rule{a, b}}
}

// define returns a relation that may be granted to these kinds of subject, separated
// by commas: "user, doc#a with flag".
func define(name string, rule model.Rule, kinds string) model.Relation {
	r := model.Relation{Name: name, Rule: rule}
	for _, kind := range strings.Split(kinds, ", ") {
		if kind == "" {
			continue
		}
		kind, condition, _ := strings.Cut(kind, " with ")
		kind, wildcard := strings.CutSuffix(kind, ":*")
		typ, relation, _ := strings.Cut(kind, "#")
		r.Direct = append(r.Direct, model.Direct{Type: typ, Relation: relation, Wildcard: wildcard, Condition: condition})
	}
	return r
}

// newExample returns a world of users and documents. A grant is a tuple, perhaps
// followed by words: a condition, from or until with now or later.
func newExample(t *testing.T, relations []model.Relation, grants []string) *World {
	t.Helper()
	w := &World{Grants: make(map[tuple.Tuple]model.Grant), Model: &model.Model{Schema: "1.1", Conditions: conditions,
		Types: []model.Type{{Name: "user"}, {Name: "doc", Relations: relations}}}}
	if err := w.Model.Validate(); err != nil {
		t.Fatal(err)
	}
	times := map[string]int64{"now": Now, "later": Now + 1}
	for _, text := range grants {
		words := strings.Fields(text)
		var g model.Grant
		for i := 1; i < len(words); i += 2 {
			switch words[i] {
			case "with":
				g.Condition = words[i+1]
			case "from":
				g.NotBefore = times[words[i+1]]
			case "until":
				g.ExpiresAt = times[words[i+1]]
			}
		}
		w.Grants[parse(t, words[0])] = g
	}
	return w
}

func parse(t testing.TB, text string) tuple.Tuple {
	t.Helper()
	p, err := tuple.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestExamples holds the oracle and the evaluator to answers that were worked out by
// hand, so that they are not merely wrong together.
func TestExamples(t *testing.T) {
	for _, tt := range []struct {
		name      string
		relations []model.Relation
		grants    []string
		want      map[string]string // tuple to denied, allowed, or causes
	}{
		{"who is meant by a grant",
			[]model.Relation{define("a", this, "user, user:*, doc#b"), define("b", this, "user, doc"), define("c", this, "user:*")},
			[]string{"doc:1#a@doc:1#b", "doc:1#b@user:1", "doc:2#a@user:*", "doc:2#c@user:*", "doc:2#b@doc:1"},
			map[string]string{
				"doc:1#a@user:1": "allowed", "doc:1#a@user:2": "denied", "doc:1#a@user:*": "denied",
				"doc:2#a@user:1": "allowed", "doc:2#a@user:3": "allowed", "doc:2#a@user:*": "allowed",
				"doc:2#a@doc:1#b": "denied", "doc:2#a@doc:1": "denied", "doc:2#c@user:1": "allowed",
				"doc:1#a@doc:1#b": "allowed", "doc:1#b@doc:1#b": "allowed", "doc:1#b@doc:2#b": "denied", "doc:1#c@doc:1#c": "allowed",
				"doc:2#b@doc:1": "allowed", "doc:2#b@doc:1#b": "denied", "doc:2#b@user:1": "denied",
			}},
		{"what the model does not allow is ignored",
			[]model.Relation{define("a", this, "user with yes, user with flag, doc#b"), define("b", this, "user"), define("c", held("a"), ""), define("d", this, "user:*")},
			[]string{"doc:1#a@user:1", "doc:1#a@user:2 with no", "doc:1#b@user:1 with yes", "doc:1#c@user:1", "doc:1#z@user:1", "pad:1#a@user:1",
				"doc:1#b@doc:2#b", "doc:2#b@user:2", "doc:2#a@user:1 with yes", "doc:2#d@user:1", "doc:1#b@user:*"},
			map[string]string{
				"doc:1#a@user:1": "denied", "doc:1#a@user:2": "denied", "doc:1#b@user:1": "denied", "doc:1#c@user:1": "denied",
				"doc:1#b@user:2": "denied", "doc:2#a@user:1": "allowed", "doc:2#c@user:1": "allowed", "doc:2#d@user:1": "denied",
			}},
		{"time",
			[]model.Relation{define("a", this, "user")},
			[]string{"doc:1#a@user:1 until now", "doc:1#a@user:2 until later", "doc:2#a@user:1 from now", "doc:2#a@user:2 from later", "doc:1#a@user:3 from now until later"},
			map[string]string{"doc:1#a@user:1": "denied", "doc:1#a@user:2": "allowed", "doc:2#a@user:1": "allowed", "doc:2#a@user:2": "denied", "doc:1#a@user:3": "allowed"}},
		{"errors in unions, intersections and exclusions",
			[]model.Relation{
				define("e", this, "user with flag"), define("t", this, "user"), define("m", this, "user with mark"), define("n", this, "user"),
				define("or1", or(held("e"), held("t")), ""), define("or2", or(held("e"), held("n")), ""), define("or3", or(held("n"), held("e"), held("m")), ""),
				define("and1", and(held("e"), held("t")), ""), define("and2", and(held("e"), held("n")), ""), define("and3", and(held("n"), held("e")), ""),
				define("not1", butNot(held("t"), held("e")), ""), define("not2", butNot(held("e"), held("t")), ""), define("not3", butNot(held("e"), held("n")), ""),
				define("not4", butNot(held("n"), held("e")), ""), define("not5", butNot(held("m"), held("e")), ""), define("not6", butNot(held("t"), held("n")), ""),
			},
			[]string{"doc:1#e@user:1 with flag", "doc:1#t@user:1", "doc:1#m@user:1 with mark"},
			map[string]string{
				"doc:1#or1@user:1": "allowed", "doc:1#or2@user:1": "flag", "doc:1#or3@user:1": "flag mark",
				"doc:1#and1@user:1": "flag", "doc:1#and2@user:1": "denied", "doc:1#and3@user:1": "denied",
				"doc:1#not1@user:1": "flag", "doc:1#not2@user:1": "denied", "doc:1#not3@user:1": "flag",
				"doc:1#not4@user:1": "denied", "doc:1#not5@user:1": "flag mark", "doc:1#not6@user:1": "allowed",
			}},
		{"errors on the way",
			[]model.Relation{define("a", this, "user, doc#a with flag"), define("parent", this, "doc with mark"), define("b", from("a", "parent"), "")},
			[]string{"doc:1#a@doc:2#a with flag", "doc:2#a@user:1", "doc:1#parent@doc:1 with mark", "doc:2#parent@doc:2 with mark"},
			map[string]string{
				"doc:1#a@user:1": "flag", "doc:1#a@user:2": "denied", "doc:1#a@doc:2#a": "flag",
				"doc:1#b@user:1": "flag mark", "doc:2#b@user:1": "mark", "doc:2#b@user:2": "denied",
			}},
		{"a circle adds nothing, and hides nothing",
			[]model.Relation{define("a", this, "user, doc#a"), define("parent", this, "doc"), define("b", or(held("a"), from("b", "parent")), "")},
			[]string{"doc:1#a@doc:2#a", "doc:2#a@doc:3#a", "doc:3#a@doc:1#a", "doc:3#a@user:1", "doc:1#parent@doc:2", "doc:2#parent@doc:1"},
			map[string]string{
				"doc:1#a@user:1": "allowed", "doc:2#a@user:1": "allowed", "doc:3#a@user:1": "allowed", "doc:1#a@user:2": "denied",
				"doc:1#b@user:1": "allowed", "doc:2#b@user:2": "denied", "doc:3#a@doc:1#a": "allowed",
			}},
		// To win is to be able to move to where the other loses, and nobody moves here from
		// 3: known from textbooks as the game whose drawn positions have no answer.
		{"what is subtracted is settled first",
			[]model.Relation{define("p", this, "user"), define("next", this, "doc"), define("lost", butNot(held("p"), from("lost", "next")), "")},
			[]string{"doc:1#p@user:1", "doc:2#p@user:1", "doc:3#p@user:1", "doc:1#next@doc:2", "doc:2#next@doc:3"},
			map[string]string{"doc:3#lost@user:1": "allowed", "doc:2#lost@user:1": "denied", "doc:1#lost@user:1": "allowed", "doc:1#lost@user:2": "denied"}},
		{"a circle through a subtraction has no answer",
			[]model.Relation{define("p", this, "user"), define("next", this, "doc"), define("lost", butNot(held("p"), from("lost", "next")), "")},
			[]string{"doc:1#p@user:1", "doc:2#p@user:1", "doc:3#p@user:1", "doc:1#next@doc:2", "doc:2#next@doc:1", "doc:3#next@doc:1"},
			map[string]string{"doc:1#lost@user:1": Cycle, "doc:2#lost@user:1": Cycle, "doc:3#lost@user:1": Cycle, "doc:1#lost@user:2": "denied"}},
		{"a circle through a subtraction that is decided elsewhere has an answer",
			[]model.Relation{define("p", this, "user"), define("next", this, "doc"), define("lost", butNot(held("p"), from("lost", "next")), "")},
			[]string{"doc:1#p@user:1", "doc:2#p@user:1", "doc:3#p@user:1", "doc:1#next@doc:2", "doc:2#next@doc:1", "doc:2#next@doc:3"},
			map[string]string{"doc:3#lost@user:1": "allowed", "doc:2#lost@user:1": "denied", "doc:1#lost@user:1": "allowed"}},
		{"what was met through a subtraction is known later",
			[]model.Relation{
				define("a", this, "doc#m, doc#y"), define("m", butNot(this, held("s")), "user"), define("s", this, "doc#a"),
				define("y", this, "user"), define("r", and(held("a"), held("m")), ""),
			},
			[]string{"doc:1#a@doc:1#m", "doc:1#a@doc:1#y", "doc:1#m@user:1", "doc:1#s@doc:1#a", "doc:1#y@user:1"},
			map[string]string{"doc:1#a@user:1": "allowed", "doc:1#m@user:1": "denied", "doc:1#r@user:1": "denied"}},
		{"to subtract twice is no way back",
			[]model.Relation{define("p", this, "user"), define("q", butNot(held("p"), butNot(held("p"), this)), "doc#q")},
			[]string{"doc:1#p@user:1", "doc:1#q@doc:1#q"},
			map[string]string{"doc:1#q@user:1": Cycle, "doc:2#q@user:1": "denied", "doc:1#q@doc:1#q": "allowed"}},
		{"an error and a circle",
			[]model.Relation{define("p", this, "user, user with flag"), define("q", butNot(held("p"), this), "doc#q, user"), define("r", or(held("q"), held("p")), "")},
			[]string{"doc:1#p@user:1 with flag", "doc:1#q@doc:1#q", "doc:1#p@user:2", "doc:1#q@user:2"},
			map[string]string{"doc:1#q@user:1": Cycle + " flag", "doc:1#r@user:1": Cycle + " flag", "doc:1#q@user:2": "denied", "doc:1#r@user:2": "allowed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newExample(t, tt.relations, tt.grants)
			facts := w.Facts()
			for _, text := range slices.Sorted(maps.Keys(tt.want)) {
				q := parse(t, text)
				fact, ok := facts[q]
				got := fact.Value.String()
				if fact.Value == Failed {
					got = strings.Join(fact.Causes, " ")
				}
				if got != tt.want[text] || !ok {
					t.Errorf("%s: the oracle says %s, want %s", text, got, tt.want[text])
				}
				if text := disagreement(w, q, fact); text != "" {
					t.Error(text)
				}
			}
		})
	}
}
