package querytest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// Explained holds explanations against what the oracle says of a world.
type Explained struct {
	world  *World
	oracle *oracle
	facts  map[tuple.Subject]values
	// What was compared so far: rules by verdict.
	Held, HeldNot, Undecided int
}

// NewExplained returns the explanations of a world.
func NewExplained(w *World) *Explained {
	return &Explained{world: w, oracle: newOracle(w.State(), w.Everything()), facts: make(map[tuple.Subject]values)}
}

// An explained is one explanation that is held against the oracle.
type explained struct {
	*Explained
	subject tuple.Subject
	final   values
	told    map[node]bool   // relations on objects that are told
	named   map[node]bool   // those that are said to be told elsewhere
	rests   map[node][]node // what the proof of one that holds rests on
}

// Wrong says how an explanation of a question is not right; "" if it is:
//
//   - every rule in it has the verdict that the oracle gives it;
//   - its shape is that of the model's rule;
//   - what holds follows from what is told of it: grants that count, and relations that
//     hold, which never rest on themselves; what is subtracted does not hold;
//   - of what does not hold, and of what is undecided, everything is told that could make
//     it hold, each grant with the reason why it does not.
func (e *Explained) Wrong(q tuple.Tuple, x *model.Explanation) string {
	final := e.facts[q.Subject]
	if final == nil {
		e.oracle.subject = q.Subject
		final = e.oracle.solve()
		e.facts[q.Subject] = final
	}
	e.oracle.subject = q.Subject
	one := &explained{e, q.Subject, final, make(map[node]bool), make(map[node]bool), make(map[node][]node)}
	text := one.relation(x, node{q.Object, q.Relation})
	for n := range one.named {
		if text == "" && !one.told[n] {
			text = fmt.Sprintf("%s#%s is said to be told elsewhere, and is not", n.object, n.relation)
		}
	}
	for n := range one.rests {
		if text == "" && one.leadsBack(n) {
			text = fmt.Sprintf("the proof of %s#%s rests on itself", n.object, n.relation)
		}
	}
	if text != "" {
		text = fmt.Sprintf("explaining %s: %s\n%s", q, text, explanationText(x, ""))
	}
	return text
}

// verdict is how the oracle's value is said.
func verdict(v Value) model.Verdict {
	return map[Value]model.Verdict{Allowed: model.Holds, Denied: model.HoldsNot, Failed: model.Undecided}[v]
}

// relation says what is wrong with the explanation of a relation on an object.
func (e *explained) relation(x *model.Explanation, n node) string {
	at := fmt.Sprintf("%s#%s", n.object, n.relation)
	rule := e.oracle.rules[n]
	switch {
	case x == nil:
		return at + " is not explained"
	case x.Object != n.object || x.Relation != n.relation:
		return fmt.Sprintf("in the place of %s stands %s#%s", at, x.Object, x.Relation)
	case x.Verdict != verdict(e.final[n]):
		return fmt.Sprintf("%s: the verdict is %d, the oracle says %v", at, x.Verdict, e.final[n])
	case x.Elsewhere:
		e.named[n] = true
		return ""
	case e.told[n] && !x.Itself:
		return at + " is told twice"
	}
	e.told[n] = true
	if itself := e.subject == (tuple.Subject{Type: n.object.Type, ID: n.object.ID, Relation: n.relation}); itself || x.Itself {
		if itself && x.Itself && x.Verdict == model.Holds {
			return ""
		}
		return at + ": whether it is the subject itself is told wrong"
	}
	var rests *[]node
	if x.Verdict == model.Holds {
		rests = new([]node)
	}
	text := e.rule(x, n, rule, rests)
	if rests != nil {
		e.rests[n] = *rests
	}
	return text
}

// rule says what is wrong with the explanation of a rule of n. What it rests on is added
// to rests, unless that is nil.
func (e *explained) rule(x *model.Explanation, n node, rule *model.Rule, rests *[]node) string {
	at := fmt.Sprintf("%s#%s, operation %d %s", n.object, n.relation, x.Op, x.Rule)
	want := verdict(e.oracle.rule(n, rule, e.final, e.final))
	switch {
	case x.Object != n.object || x.Relation != n.relation || x.Elsewhere || x.Itself || x.Untold != 0:
		return at + " is not whole"
	case x.Op != rule.Op:
		return fmt.Sprintf("%s: the model has operation %d", at, rule.Op)
	case x.Verdict != want:
		return fmt.Sprintf("%s: the verdict is %d, the oracle says %d", at, x.Verdict, want)
	}
	switch want {
	case model.Holds:
		e.Held++
	case model.HoldsNot:
		e.HeldNot++
	default:
		e.Undecided++
	}
	switch rule.Op {
	case model.This:
		return e.grants(x, n, n, rests, func(s tuple.Subject) (node, bool) { return node{s.Object(), s.Relation}, s.Relation != "" })
	case model.From:
		if x.Rule != rule.Relation+" from "+rule.Tupleset {
			return at + ": the rule is another"
		}
		return e.grants(x, n, node{n.object, rule.Tupleset}, rests, func(s tuple.Subject) (node, bool) {
			to := node{s.Object(), rule.Relation}
			return to, e.oracle.rules[to] != nil
		})
	case model.Computed:
		to := node{n.object, rule.Relation}
		if x.Rule != rule.Relation || len(x.Branches) != 1 {
			return at + ": it is another relation, or none"
		}
		if rests != nil {
			*rests = append(*rests, to)
		}
		return e.relation(x.Branches[0], to)
	}
	return e.branches(x, n, rule, rests, at)
}

// branches is rule for an operation over others.
func (e *explained) branches(x *model.Explanation, n node, rule *model.Rule, rests *[]node, at string) string {
	children := operands(rule)
	next := 0 // of the children
	told := make(map[model.Verdict]int)
	for i, b := range x.Branches {
		if rule.Op == model.Exclude {
			next = i
		}
		for next < len(children) && !e.fits(b, n, children[next]) {
			if next++; rule.Op == model.Exclude {
				next = len(children)
			}
		}
		if next == len(children) {
			return fmt.Sprintf("%s: branch %d is none of the model's in its order; the oracle says %s", at, i, ruleText(&model.Relation{}, rule))
		}
		under := rests
		if rule.Op == model.Exclude && i == 1 {
			under = nil
		}
		if text := e.rule(b, n, children[next], under); text != "" {
			return text
		}
		told[b.Verdict]++
		next++
	}
	all := len(x.Branches) == len(children)
	right := false
	switch {
	case rule.Op == model.Exclude && x.Verdict == model.Holds:
		right = all && x.Branches[0].Verdict == model.Holds && x.Branches[1].Verdict == model.HoldsNot
	case rule.Op == model.Exclude && x.Verdict == model.HoldsNot:
		right = x.Branches[0].Verdict == model.HoldsNot || all && x.Branches[1].Verdict == model.Holds
	case rule.Op == model.Exclude:
		right = all && x.Branches[0].Verdict != model.HoldsNot && x.Branches[1].Verdict != model.Holds
	case rule.Op == model.Union && x.Verdict == model.Holds:
		right = len(x.Branches) == 1 && told[model.Holds] == 1
	case rule.Op == model.Union && x.Verdict == model.HoldsNot:
		right = all && told[model.HoldsNot] == len(children)
	case rule.Op == model.Union:
		right = all && told[model.Holds] == 0 && told[model.Undecided] > 0
	case x.Verdict == model.Holds:
		right = all && told[model.Holds] == len(children)
	case x.Verdict == model.HoldsNot:
		right = told[model.HoldsNot] > 0
	default:
		right = all && told[model.HoldsNot] == 0 && told[model.Undecided] > 0
	}
	if !right {
		return fmt.Sprintf("%s: the verdict %d does not follow from the branches", at, x.Verdict)
	}
	return ""
}

// fits reports whether an explanation may be about a rule of n, by its shape and verdicts.
func (e *explained) fits(x *model.Explanation, n node, rule *model.Rule) bool {
	text := rule.Relation
	if rule.Op == model.From {
		text += " from " + rule.Tupleset
	}
	if x.Op != rule.Op || x.Rule != text || x.Verdict != verdict(e.oracle.rule(n, rule, e.final, e.final)) {
		return false
	}
	if rule.Op == model.Computed {
		return true
	}
	children := operands(rule)
	for i, b := range x.Branches {
		for len(children) > 0 && !e.fits(b, n, children[0]) && rule.Op != model.Exclude {
			children = children[1:]
		}
		if len(children) == 0 || rule.Op == model.Exclude && !e.fits(b, n, operands(rule)[i]) {
			return false
		}
		children = children[1:]
	}
	return true
}

// operands returns the operands of a rule; those of a union within a union are its own.
func operands(rule *model.Rule) (all []*model.Rule) {
	for i := range rule.Children {
		child := &rule.Children[i]
		if rule.Op == model.Union && child.Op == model.Union {
			all = append(all, operands(child)...)
		} else {
			all = append(all, child)
		}
	}
	return all
}

// grants is rule for what is granted at set. What a grant leads to is what leads says.
func (e *explained) grants(x *model.Explanation, n, set node, rests *[]node, leads func(tuple.Subject) (node, bool)) string {
	looked := make(map[tuple.Subject]bool)
	this := x.Op == model.This
	everyone := tuple.Subject{Type: e.subject.Type, ID: tuple.Wildcard}
	direct := func(s tuple.Subject) bool {
		return this && (s == e.subject || s == everyone && e.subject.Relation == "")
	}
	for _, l := range x.Grants {
		s := l.Tuple.Subject
		if l.Tuple.Object != set.object || l.Tuple.Relation != set.relation || looked[s] && l.Leads == nil {
			return fmt.Sprintf("%s: the grant %s does not belong there, or twice", n.object, l.Tuple)
		}
		looked[s] = true
		state, err := e.state(l.Tuple)
		if l.State != state || l.Err != nil != err || !l.Grant.Equal(e.world.Grants[l.Tuple]) {
			return fmt.Sprintf("the grant %s: the state is %d, %v, %+v; the oracle says %d", l.Tuple, l.State, l.Err, l.Grant, state)
		}
		to, on := leads(s)
		if l.Leads != nil {
			if !on {
				return fmt.Sprintf("the grant %s leads nowhere", l.Tuple)
			}
			if text := e.relation(l.Leads, to); text != "" {
				return text
			}
		}
		counts := state == model.Counts
		holds := counts && (direct(s) || l.Leads != nil && l.Leads.Verdict == model.Holds)
		open := (counts || state == model.ConditionFailed) && (direct(s) || on && (l.Leads == nil || l.Leads.Verdict != model.HoldsNot))
		switch {
		case x.Verdict == model.Holds && (!holds || len(x.Grants) != 1):
			return fmt.Sprintf("%s: the grant %s does not prove it", n.object, l.Tuple)
		case x.Verdict == model.HoldsNot && open, x.Verdict == model.Undecided && holds:
			return fmt.Sprintf("%s: the grant %s makes it more than the verdict %d", n.object, l.Tuple, x.Verdict)
		}
		if rests != nil && l.Leads != nil {
			*rests = append(*rests, to)
		}
	}
	if x.Verdict == model.Holds {
		if len(x.Grants) != 1 {
			return fmt.Sprintf("%s: it holds by %d grants", n.object, len(x.Grants))
		}
		return ""
	}
	kinds := e.direct(set)
	for t := range e.world.Grants { // that may lead on
		to, on := leads(t.Subject)
		kind := slices.ContainsFunc(kinds, func(d model.Direct) bool { return d.Type == t.Subject.Type && d.Relation == t.Subject.Relation })
		if t.Object == set.object && t.Relation == set.relation && on && kind && e.oracle.rules[to] != nil && !looked[t.Subject] {
			return fmt.Sprintf("%s: the grant %s was not looked at", n.object, t)
		}
	}
	for _, s := range []tuple.Subject{e.subject, everyone} {
		may := slices.ContainsFunc(kinds, func(d model.Direct) bool {
			return d.Type == s.Type && d.Relation == s.Relation && d.Wildcard == s.IsWildcard()
		})
		if this && direct(s) && may && !looked[s] {
			return fmt.Sprintf("%s: a grant to %s was not looked at", n.object, s)
		}
	}
	return ""
}

// direct returns what a relation may be granted to.
func (e *explained) direct(n node) []model.Direct {
	for _, t := range e.world.Model.Types {
		for _, r := range t.Relations {
			if t.Name == n.object.Type && r.Name == n.relation {
				return r.Direct
			}
		}
	}
	return nil
}

// state returns whether a grant counts, and whether its condition errs.
func (e *explained) state(t tuple.Tuple) (model.LookState, bool) {
	g, granted := e.world.Grants[t]
	kind := model.Direct{Type: t.Subject.Type, Relation: t.Subject.Relation, Wildcard: t.Subject.IsWildcard(), Condition: g.Condition}
	switch {
	case !granted:
		return model.Absent, false
	case !slices.Contains(e.direct(node{t.Object, t.Relation}), kind):
		return model.NotAllowed, false
	case g.ExpiresAt != 0 && g.ExpiresAt <= Now:
		return model.Expired, false
	case g.NotBefore > Now:
		return model.NotYet, false
	case g.Condition == "":
		return model.Counts, false
	}
	switch holds, err := e.world.Holds(g.Condition, g.Context); {
	case err != nil:
		return model.ConditionFailed, true
	case !holds:
		return model.ConditionFalse, false
	}
	return model.Counts, false
}

// leadsBack reports whether the proof of n rests on n.
func (e *explained) leadsBack(n node) bool {
	seen := make(map[node]bool)
	for todo := slices.Clone(e.rests[n]); len(todo) > 0; {
		at := todo[0]
		todo = todo[1:]
		if at == n {
			return true
		}
		if !seen[at] {
			seen[at] = true
			todo = append(todo, e.rests[at]...)
		}
	}
	return false
}

// explanationText writes an explanation for people who look for a fault in it.
func explanationText(x *model.Explanation, indent string) string {
	if x == nil {
		return indent + "nil\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s#%s op %d %s verdict %d %v", indent, x.Object, x.Relation, x.Op, x.Rule, x.Verdict, x.Err)
	if x.Elsewhere {
		b.WriteString(" elsewhere")
	}
	if x.Itself {
		b.WriteString(" itself")
	}
	if x.Untold > 0 {
		fmt.Fprintf(&b, " untold %d", x.Untold)
	}
	b.WriteByte('\n')
	for _, l := range x.Grants {
		fmt.Fprintf(&b, "%s  %s state %d %v\n", indent, l.Tuple, l.State, l.Err)
		if l.Leads != nil {
			b.WriteString(explanationText(l.Leads, indent+"    "))
		}
	}
	for _, c := range x.Branches {
		b.WriteString(explanationText(c, indent+"  "))
	}
	return b.String()
}
