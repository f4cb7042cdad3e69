package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
)

func (a *app) explainCommand() *cobra.Command {
	var given given
	var format string
	c := &cobra.Command{
		Use:   "explain SUBJECT RELATION OBJECT",
		Short: "Say why a subject holds a relation on an object, or why not",
		Long: `Answers as "grantlog check" does, with the same three exit statuses, and says why.

Of an allow it shows what proves it and nothing else: the rules, and each grant with the
command behind it: revision, time, actor, ticket, reason. Of a denial it shows all that
was tried and what was missing at each place: never granted, revoked (by which command),
expired, not yet in force, a condition that does not hold. Each relation on each object
is shown once. ✓ holds, ✗ does not hold, ? has no answer.

Below stands since when the answer is what it is, and the command that made it so, or
the grant that ended; so of a denial, when the access was last held and what ended it. Of
several tuples that changed at once, one is named without whose change the answer would be
another, if need be with some of the others unchanged too. That time is exact, but for
moments that had no answer only because the question led too deep (serve --check-budget):
they may be passed over. If the answer hangs on a condition that looks at the time, it may
have been another since then, and that is said: the time is the earliest. Where the search
for it is given up, that is said too; the server's --list-budget bounds it. All other times
are cut to the second, and so may be just before the entry that they are of: to ask about
one with --at, give its revision, the number after the @, or the time that -o json has.

--format is one of
  tree      for reading (the default)
  mermaid   a flowchart as Mermaid text, for pages that draw it
and -o json has everything, as one object.

` + momentForms,
		Example: `  grantlog explain user:ann viewer doc:plan
  grantlog explain user:ann viewer doc:plan --at 2026-11-01
  grantlog explain user:ann viewer doc:plan --format mermaid > why.mmd`,
		Args: takes("SUBJECT", "RELATION", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			draw := explainedTree
			switch {
			case format == "mermaid" && a.json():
				return errors.New("--format mermaid and -o json exclude each other")
			case format == "mermaid":
				draw = explainedMermaid
			case format != "tree":
				return fmt.Errorf("--format must be tree or mermaid, not %q", format)
			}
			t, err := readTuple(args)
			if err != nil {
				return err
			}
			q := &pb.ExplainRequest{Tuple: t, Model: given.model}
			if q.Contextual, q.Context, q.Freshness, err = given.read(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				q.Store = store
				r, err := c.permissions.Explain(ctx, q)
				if err != nil {
					return c.plain(err)
				}
				if a.json() {
					err = a.message(r)
				} else {
					_, err = io.WriteString(a.stdout, draw(t, r))
				}
				switch {
				case err != nil:
					return err
				case r.GetError() != nil:
					return fmt.Errorf("no answer: %s", oneLine(r.GetError().GetMessage()))
				case !r.GetAllowed():
					return &no{}
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&format, "format", "tree", "show it as a `tree`, or as mermaid text")
	given.flags(c.Flags())
	return c
}

// explainedTree draws an explanation for people.
func explainedTree(t *pb.Tuple, r *pb.ExplainResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at revision %d: %s\n", verdictText(r), r.GetRevision(), oneLine(said(t)))
	x := &explainDrawing{Builder: &b}
	x.rule("", true, "", r.GetTree())
	for _, text := range turnTexts(r) {
		b.WriteString(oneLine(text) + "\n")
	}
	return b.String()
}

func verdictText(r *pb.ExplainResponse) string {
	switch {
	case r.GetError() != nil:
		return "no answer"
	case r.GetAllowed():
		return "allowed"
	}
	return "denied"
}

// turnTexts says since when the answer is what it is, and of a denial when the relation was
// last held, a sentence each. None if there is no answer.
func turnTexts(r *pb.ExplainResponse) []string {
	t := r.GetTurn()
	if t == nil {
		return nil
	}
	verdict, other := verdictText(r), "denied"
	switch {
	case t.GetUndecidedBefore():
		other = "without an answer"
	case !r.GetAllowed():
		other = "allowed"
	}
	at, what := exactly(t.GetTime()), turnedBy(t)
	var texts []string
	switch cause := t.GetCause(); {
	case cause == pb.Turn_UNKNOWN:
		texts = []string{verdict + " since " + at + " or before; what made it so was not found within the budget (serve --list-budget)"}
		if t.GetDependsOnTime() {
			texts = []string{verdict + " since " + at + " or before, the clock apart; what made it so was not found within the budget (serve --list-budget)"}
		}
	case cause == pb.Turn_NEVER && r.GetAllowed() && t.GetDependsOnTime():
		texts = []string{"allowed from the beginning, the clock apart"}
	case cause == pb.Turn_NEVER && r.GetAllowed():
		texts = []string{"allowed from the beginning"}
	case cause == pb.Turn_NEVER:
		texts = []string{lastHeldText(t)}
	case cause == pb.Turn_CLOCK:
		texts = []string{verdict + " by the clock, since some time after " + at + ", when it was " + other}
	case t.GetDependsOnTime() && t.GetUndecidedBefore():
		texts = []string{verdict + " since " + at + " at the earliest, before that without an answer; by " + what}
	case t.GetDependsOnTime():
		texts = []string{verdict + " since " + at + " at the earliest, by " + what}
	case t.GetUndecidedBefore():
		texts = []string{verdict + " since " + at + ", before that without an answer; by " + what}
	case r.GetAllowed():
		texts = []string{"allowed since " + at + ", by " + what}
	default:
		texts = []string{lastHeldText(t)}
	}
	if h := t.GetLastHeld(); h != nil {
		texts = append(texts, lastHeldText(h))
	}
	if t.GetDependsOnTime() || t.GetLastHeld().GetDependsOnTime() {
		texts = append(texts, "A condition that was asked looks at the time: in between, the answer may have been another.")
	}
	return texts
}

// lastHeldText says when a relation was last held, and what ended that.
func lastHeldText(t *pb.Turn) string {
	at := exactly(t.GetTime())
	switch {
	case t.GetCause() == pb.Turn_UNKNOWN && t.GetDependsOnTime():
		return "not held since " + at + ", the clock apart; when it last was, was not found within the budget (serve --list-budget)"
	case t.GetCause() == pb.Turn_UNKNOWN:
		return "not held since " + at + "; when it last was, was not found within the budget (serve --list-budget)"
	case t.GetCause() == pb.Turn_CLOCK:
		return "last held at " + at + " or later, ended by the clock"
	case t.GetCause() == pb.Turn_NEVER && t.GetDependsOnTime():
		return "not held by any command or expiry; by the clock it may have been"
	case t.GetCause() == pb.Turn_NEVER:
		return "never held"
	case t.GetDependsOnTime():
		return "last held until " + at + " at the earliest, ended by " + turnedBy(t)
	}
	return "last held until " + at + ", ended by " + turnedBy(t)
}

// turnedBy says which command, expiry or start a turn is by.
func turnedBy(t *pb.Turn) string {
	what := "grant " + said(t.GetTuple())
	switch {
	case t.GetCause() == pb.Turn_EXPIRY:
		what = "the expiry of " + said(t.GetTuple()) + ", granted"
	case t.GetCause() == pb.Turn_START:
		what = "the start of " + said(t.GetTuple()) + ", granted"
	case t.GetTuple() == nil:
		what = "write model"
	case t.GetRevoked():
		what = "revoke " + said(t.GetTuple())
	}
	return what + "  " + provenanceText(t.GetCommand())
}

// provenanceText says where something comes from, on one line.
func provenanceText(p *pb.Provenance) string {
	if p == nil {
		return ""
	}
	text := fmt.Sprintf("@%d %s %s", p.GetRevision(), clock(p.GetTime()), p.GetActor())
	if p.GetTicket() != "" {
		text += " " + p.GetTicket()
	}
	if p.GetReason() != "" {
		text += fmt.Sprintf(" %q", oneLine(p.GetReason()))
	}
	return text
}

// explainedGrantText says what a grant was looked at for, on one line: the command behind
// it, its terms, and why it does not count.
func explainedGrantText(g *pb.ExplainedGrant) string {
	made := ""
	if g.GetMade() != nil {
		made = "  " + provenanceText(g.GetMade())
	}
	terms := grantTerms(g.GetGrant())
	if g.GetContextual() {
		made = "  contextual"
	}
	switch g.GetState() {
	case pb.ExplainedGrant_NEVER:
		return "  never granted"
	case pb.ExplainedGrant_REVOKED:
		return "  revoked  " + provenanceText(g.GetEnded()) + "; was granted" + made + terms
	case pb.ExplainedGrant_EXPIRED:
		return "  expired" + made + terms
	case pb.ExplainedGrant_NOT_YET:
		return "  not yet in force" + made + terms
	case pb.ExplainedGrant_NOT_ALLOWED:
		return "  no longer allowed by the model" + made + terms
	case pb.ExplainedGrant_CONDITION_FALSE:
		return made + terms + "  the condition does not hold"
	case pb.ExplainedGrant_CONDITION_ERROR:
		return made + terms + "  the condition has no answer: " + oneLine(g.GetError().GetMessage())
	}
	return made + terms
}

// explainMark is the mark of a verdict.
func explainMark(v pb.Explanation_Verdict) string {
	switch v {
	case pb.Explanation_HOLDS:
		return "✓ "
	case pb.Explanation_HOLDS_NOT:
		return "✗ "
	}
	return "? "
}

// grantMark is the mark of a grant: what it comes to.
func grantMark(x *pb.Explanation, g *pb.ExplainedGrant) string {
	switch {
	case g.GetState() == pb.ExplainedGrant_CONDITION_ERROR:
		return explainMark(pb.Explanation_UNDECIDED)
	case g.GetState() != pb.ExplainedGrant_COUNTS:
		return explainMark(pb.Explanation_HOLDS_NOT)
	case g.GetLeads() != nil:
		return explainMark(g.GetLeads().GetVerdict())
	}
	return explainMark(x.GetVerdict())
}

// ruleText is what a rule says, without its branches.
func ruleText(x *pb.Explanation) string {
	switch x.GetOperation() {
	case pb.Tree_GRANTED:
		return "granted to"
	case pb.Tree_FROM:
		return x.GetRule() + ", which is"
	case pb.Tree_UNION:
		return "any of"
	case pb.Tree_INTERSECTION:
		return "all of"
	case pb.Tree_EXCLUSION:
		return "the first but not the second of"
	}
	return x.GetRule()
}

// An explainDrawing draws a tree.
type explainDrawing struct{ *strings.Builder }

// line draws a line of its own, as the last of its parent or not, and returns the indent of
// what is below it.
func (d *explainDrawing) line(indent string, last bool, text string) string {
	branch, below := "├─ ", "│  "
	if last {
		branch, below = "└─ ", "   "
	}
	d.WriteString(indent + branch + oneLine(text) + "\n")
	return indent + below
}

// rule draws a rule and what is below it.
func (d *explainDrawing) rule(indent string, last bool, lead string, x *pb.Explanation) {
	if x.GetOperation() == pb.Tree_UNION && len(x.GetBranches()) == 1 && x.GetVerdict() == pb.Explanation_HOLDS {
		d.rule(indent, last, lead, x.GetBranches()[0]) // the one that holds is enough
		return
	}
	text := lead + explainMark(x.GetVerdict())
	named := x.GetObject() + "#" + x.GetRelation()
	switch {
	case x.GetElsewhere():
		d.line(indent, last, text+named+" is shown elsewhere")
		return
	case x.GetItself():
		d.line(indent, last, text+named+" is the subject itself")
		return
	case len(x.GetGrants())+len(x.GetBranches()) == 0 && x.GetUntold() > 0:
		d.line(indent, last, text+named+" is not shown further"+becauseText(x))
		return
	case x.GetOperation() == pb.Tree_FROM && len(x.GetGrants()) == 0:
		d.line(indent, last, text+x.GetRule()+", which is nothing")
		return
	case x.GetOperation() == pb.Tree_GRANTED && len(x.GetGrants()) == 0:
		d.line(indent, last, text+"no grant to such a subject")
		return
	case len(x.GetGrants()) == 1 && x.GetUntold() == 0:
		g, what := x.GetGrants()[0], ruleText(x)+" "
		if x.GetOperation() == pb.Tree_GRANTED && g.GetState() != pb.ExplainedGrant_COUNTS {
			what = "" // it says why not
		}
		below := d.line(indent, last, lead+grantMark(x, g)+what+g.GetGrant().GetTuple().GetSubject()+explainedGrantText(g))
		if g.GetLeads() != nil {
			d.rule(below, true, "", g.GetLeads())
		}
		return
	}
	below := d.line(indent, last, text+ruleText(x)+becauseText(x))
	for i, g := range x.GetGrants() {
		under := d.line(below, i == len(x.GetGrants())-1 && x.GetUntold() == 0, grantMark(x, g)+g.GetGrant().GetTuple().GetSubject()+explainedGrantText(g))
		if g.GetLeads() != nil {
			d.rule(under, true, "", g.GetLeads())
		}
	}
	for i, branch := range x.GetBranches() {
		lead := ""
		if x.GetOperation() == pb.Tree_EXCLUSION && i == 1 {
			lead = "but not: "
		}
		d.rule(below, i == len(x.GetBranches())-1 && x.GetUntold() == 0, lead, branch)
	}
	if n := x.GetUntold(); n > 0 {
		d.line(below, true, fmt.Sprintf("… and %d more that are not shown", n))
	}
}

// becauseText says why a rule has no answer, if that is known there.
func becauseText(x *pb.Explanation) string {
	if x.GetError() == nil || x.GetOperation() == pb.Tree_COMPUTED {
		return ""
	}
	return ": " + oneLine(x.GetError().GetMessage())
}
