package main

import (
	"fmt"
	"strings"
	"unicode"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
)

// explainedMermaid draws an explanation as a Mermaid flowchart: a box for each relation on
// an object, for each rule and for each subject; an arrow for each step, that of a grant
// with the command behind it. What the tree shows elsewhere is an arrow to the same box.
func explainedMermaid(t *pb.Tuple, r *pb.ExplainResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%%%% %s\nflowchart TD\n", mermaidComment(verdictText(r)+" at revision "+fmt.Sprint(r.GetRevision())+": "+said(t)))
	m := &mermaid{Builder: &b, named: make(map[string]string), drawn: make(map[string]bool)}
	root := m.relation(r.GetTree())
	for _, text := range turnTexts(r) {
		m.arrow(root, m.box("note", text), "")
	}
	b.WriteString("  classDef holds stroke:#2a7d2a,stroke-width:2px\n" +
		"  classDef not stroke:#b02020,stroke-dasharray:5 3\n" +
		"  classDef undecided stroke:#b07000,stroke-dasharray:2 2\n" +
		"  classDef note stroke:none,fill:none\n")
	return b.String()
}

// A mermaid is a flowchart that is drawn.
type mermaid struct {
	*strings.Builder
	boxes int
	named map[string]string // boxes by what they show, of relations and subjects
	drawn map[string]bool   // relations below whose box their rule is drawn
}

// box draws a box and returns its id.
func (m *mermaid) box(class, text string) string {
	m.boxes++
	id := fmt.Sprintf("n%d", m.boxes)
	fmt.Fprintf(m, "  %s[%s]:::%s\n", id, mermaidText(text), class)
	return id
}

// once is box for what has one box, however often it is met.
func (m *mermaid) once(class, text string) string {
	key := class + " " + text
	if m.named[key] == "" {
		m.named[key] = m.box(class, text)
	}
	return m.named[key]
}

func (m *mermaid) arrow(from, to, text string) {
	if text != "" {
		text = "|" + mermaidText(text) + "|"
	}
	fmt.Fprintf(m, "  %s -->%s %s\n", from, text, to)
}

// relation draws a relation on an object, and returns its box.
func (m *mermaid) relation(x *pb.Explanation) string {
	text := x.GetRelation() + " of " + x.GetObject()
	if x.GetItself() {
		text += ": the subject itself"
	}
	id := m.once(verdictClass(x.GetVerdict()), explainMark(x.GetVerdict())+text)
	if !x.GetElsewhere() && !x.GetItself() && !m.drawn[id] {
		m.drawn[id] = true
		m.rule(id, "", x)
	}
	return id
}

// rule draws a rule below a box.
func (m *mermaid) rule(from, lead string, x *pb.Explanation) {
	if x.GetOperation() == pb.Tree_UNION && len(x.GetBranches()) == 1 && x.GetVerdict() == pb.Explanation_HOLDS {
		m.rule(from, lead, x.GetBranches()[0])
		return
	}
	switch x.GetOperation() {
	case pb.Tree_COMPUTED:
		for _, branch := range x.GetBranches() {
			m.arrow(from, m.relation(branch), lead+x.GetRule())
		}
	case pb.Tree_GRANTED, pb.Tree_FROM:
		because := becauseText(x)
		if len(x.GetGrants()) == 1 && x.GetUntold() == 0 {
			because = "" // the one says it
		}
		if because != "" {
			id := m.box(verdictClass(x.GetVerdict()), explainMark(x.GetVerdict())+ruleText(x)+because)
			m.arrow(from, id, lead)
			from, lead = id, ""
		}
		for _, g := range x.GetGrants() {
			subject := g.GetGrant().GetTuple().GetSubject()
			text, to := lead+"granted"+explainedGrantText(g), ""
			if g.GetState() != pb.ExplainedGrant_COUNTS {
				text = lead + strings.TrimSpace(explainedGrantText(g)) // which says why not
			}
			if x.GetOperation() == pb.Tree_FROM {
				text = lead + x.GetRule() + ": " + subject + explainedGrantText(g)
			}
			if g.GetLeads() != nil {
				to = m.relation(g.GetLeads())
			} else {
				mark := grantMark(x, g)
				class := map[string]string{"✓ ": "holds", "✗ ": "not", "? ": "undecided"}[mark]
				to = m.once(class, mark+subject)
			}
			m.arrow(from, to, text)
		}
		if len(x.GetGrants()) == 0 && because == "" {
			m.arrow(from, m.box(verdictClass(x.GetVerdict()), explainMark(x.GetVerdict())+"nothing"), lead+ruleText(x))
		}
	default:
		id := m.box(verdictClass(x.GetVerdict()), explainMark(x.GetVerdict())+ruleText(x)+becauseText(x))
		m.arrow(from, id, lead)
		for i, branch := range x.GetBranches() {
			lead := ""
			if x.GetOperation() == pb.Tree_EXCLUSION && i == 1 {
				lead = "but not: "
			}
			m.rule(id, lead, branch)
		}
		from = id
	}
	if n := x.GetUntold(); n > 0 {
		m.arrow(from, m.box("undecided", fmt.Sprintf("%d more that are not shown", n)), "")
	}
}

func verdictClass(v pb.Explanation_Verdict) string {
	switch v {
	case pb.Explanation_HOLDS:
		return "holds"
	case pb.Explanation_HOLDS_NOT:
		return "not"
	}
	return "undecided"
}

// mermaidText returns a text as a quoted label. In it, everything that has a meaning to
// Mermaid, to Markdown or to HTML is written as a character code, #NNN;.
func mermaidText(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range oneLine(text) {
		switch {
		case r < 0x80 && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(" :.,@/-+()'=?!", r):
			fmt.Fprintf(&b, "#%d;", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// mermaidComment makes a text fit a comment, where braces begin a directive.
func mermaidComment(text string) string {
	return strings.NewReplacer("{", " ", "}", " ").Replace(oneLine(text))
}
