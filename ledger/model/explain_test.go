package model

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// explained writes an explanation, a rule or grant a line.
func explained(x *Explanation) string {
	var b strings.Builder
	var write func(x *Explanation, indent string)
	write = func(x *Explanation, indent string) {
		rule := [...]string{This: "granted", Computed: x.Rule, From: x.Rule, Union: "any", Intersect: "all", Exclude: "but not"}[x.Op]
		fmt.Fprintf(&b, "%s%s#%s %s: %s", indent, x.Object, x.Relation, rule, [...]string{"?", "yes", "no", "undecided"}[x.Verdict])
		if x.Err != nil {
			fmt.Fprintf(&b, " (%s)", x.Err)
		}
		if x.Elsewhere {
			b.WriteString(", elsewhere")
		}
		if x.Itself {
			b.WriteString(", itself")
		}
		if x.Untold > 0 {
			fmt.Fprintf(&b, ", %d untold", x.Untold)
		}
		b.WriteByte('\n')
		for _, l := range x.Grants {
			state := [...]string{Counts: "counts", Absent: "absent", Expired: "expired", NotYet: "not yet", NotAllowed: "not allowed", ConditionFalse: "false", ConditionFailed: "fails"}[l.State]
			fmt.Fprintf(&b, "%s  %s %s\n", indent, l.Tuple, state)
			if l.Leads != nil {
				write(l.Leads, indent+"    ")
			}
		}
		for _, branch := range x.Branches {
			write(branch, indent+"  ")
		}
	}
	write(x, "")
	return b.String()
}

func TestExplain(t *testing.T) {
	m := company(t)
	w := newMem().read(t, "doc:a#parent@folder:f", "folder:f#parent@folder:g", "folder:g#viewer@group:eng#member", "group:eng#member@group:ops#member", "group:ops#member@user:ann",
		"doc:a#signer@user:ann", "doc:a#editor@group:ops#member", "doc:a#blocked@user:bob", "group:x#present@user:ann", "group:x#absent@user:bob")
	for _, tt := range []struct{ ask, want string }{
		{"folder:f#viewer@user:ann", `
folder:f#viewer any: yes
  folder:f#viewer viewer from parent: yes
    folder:f#parent@folder:g counts
      folder:g#viewer any: yes
        folder:g#viewer granted: yes
          folder:g#viewer@group:eng#member counts
            group:eng#member granted: yes
              group:eng#member@group:ops#member counts
                group:ops#member granted: yes
                  group:ops#member@user:ann counts
`},
		{"doc:a#signer@user:ann", `
doc:a#signer all: yes
  doc:a#signer editor: yes
    doc:a#editor any: yes
      doc:a#editor granted: yes
        doc:a#editor@group:ops#member counts
          group:ops#member granted: yes
            group:ops#member@user:ann counts
  doc:a#signer viewer: yes
    doc:a#viewer any: yes
      doc:a#viewer editor: yes
        doc:a#editor any: yes, elsewhere
  doc:a#signer granted: yes
    doc:a#signer@user:ann counts
`}, // what is told is not told again
		{"doc:a#reader@user:bob", `
doc:a#reader but not: no
  doc:a#reader viewer: no
    doc:a#viewer any: no
      doc:a#viewer granted: no
        doc:a#viewer@user:bob absent
        doc:a#viewer@user:* absent
      doc:a#viewer editor: no
        doc:a#editor any: no
          doc:a#editor granted: no
            doc:a#editor@user:bob absent
            doc:a#editor@group:ops#member counts
              group:ops#member granted: no
                group:ops#member@user:bob absent
          doc:a#editor owner: no
            doc:a#owner granted: no
              doc:a#owner@user:bob absent
      doc:a#viewer viewer from parent: no
        doc:a#parent@folder:f counts
          folder:f#viewer any: no
            folder:f#viewer granted: no
              folder:f#viewer@user:bob absent
              folder:f#viewer@user:* absent
            folder:f#viewer owner: no
              folder:f#owner granted: no
                folder:f#owner@user:bob absent
            folder:f#viewer viewer from parent: no
              folder:f#parent@folder:g counts
                folder:g#viewer any: no
                  folder:g#viewer granted: no
                    folder:g#viewer@user:bob absent
                    folder:g#viewer@user:* absent
                    folder:g#viewer@group:eng#member counts
                      group:eng#member granted: no
                        group:eng#member@user:bob absent
                        group:eng#member@group:ops#member counts
                          group:ops#member granted: no, elsewhere
                  folder:g#viewer owner: no
                    folder:g#owner granted: no
                      folder:g#owner@user:bob absent
                  folder:g#viewer viewer from parent: no
`},
		{"group:ops#member@group:ops#member", "\ngroup:ops#member granted: yes, itself\n"},
	} {
		ask := parse(t, tt.ask)
		x, _, err := m.Explain(Scope{Reader: w}, Budget{}, Question{Object: ask.Object, Relation: ask.Relation, Subject: ask.Subject})
		if err != nil {
			t.Errorf("Explain(%s): %v", tt.ask, err)
		} else if got := "\n" + explained(x); got != tt.want {
			t.Errorf("Explain(%s) is%s\nwant%s", tt.ask, got, tt.want)
		}
	}
}

// crowd is a group of many groups of two people each, to the last
// of which ann belongs.
func crowd(t *testing.T, groups int) *mem {
	t.Helper()
	var grants []string
	for i := range groups {
		grants = append(grants, fmt.Sprintf("group:all#member@group:g%05d#member", i), fmt.Sprintf("group:g%05d#member@user:u%d", i, i))
	}
	return newMem().read(t, append(grants, fmt.Sprintf("group:g%05d#member@user:ann", groups-1))...)
}

// What holds is told whole, however much was tried in vain; of what does not hold, the
// rest is counted.
func TestExplainLimits(t *testing.T) {
	m := company(t)
	const groups = maxLooks + 200
	w := crowd(t, groups)
	for _, tt := range []struct {
		ask    string
		budget Budget
	}{
		{"group:all#member@user:ann", Budget{}},
		{"group:all#member@user:ann", Budget{Memory: 1 << 20}}, // of which a quarter holds a part of the record
		{"group:all#member@user:bob", Budget{}},
		{"group:all#member@user:bob", Budget{Memory: 1 << 20}},
	} {
		ask := parse(t, tt.ask)
		q := Question{Object: ask.Object, Relation: ask.Relation, Subject: ask.Subject}
		x, spent, err := m.Explain(Scope{Reader: w, Budget: tt.budget}, Budget{}, q)
		if err != nil {
			t.Fatalf("Explain(%s): %v", tt.ask, err)
		}
		allowed, checked, err := m.Check(Scope{Reader: w, Budget: tt.budget}, q)
		if err != nil || allowed != (x.Verdict == Holds) || spent != checked {
			t.Errorf("Explain(%s) says %d and spends %+v, Check %v, %v and %+v", tt.ask, x.Verdict, spent, allowed, err, checked)
		}
		if allowed {
			want := fmt.Sprintf("group:all#member granted: yes\n  group:all#member@group:g%05[1]d#member counts\n    group:g%05[1]d#member granted: yes\n      group:g%05[1]d#member@user:ann counts\n", groups-1)
			if got := explained(x); got != want {
				t.Errorf("Explain(%s) is\n%swant\n%s", tt.ask, got, want)
			}
			continue
		}
		told, short := 0, 0
		for _, l := range x.Grants {
			if l.Leads != nil {
				told++
				if l.Leads.Untold > 0 {
					short++
				}
			}
		}
		if len(x.Grants) != maxLooks+1 || x.Untold != groups-maxLooks || told != maxLooks { // bob's own is the first
			t.Errorf("%d grants are told, %d of them lead on, and %d are not; want %d, and all others counted", len(x.Grants), told, x.Untold, maxLooks+1)
		}
		if small := tt.budget.Memory > 0; small != (short > 0) {
			t.Errorf("with %d bytes of memory, %d relations are told by their verdict alone", tt.budget.Memory, short)
		}
	}
}

// What ends a Check at once leaves the question unexplained; what is too much to be laid
// open is told by its verdict.
func TestExplainEnds(t *testing.T) {
	m := company(t)
	w := crowd(t, 100)
	q := Question{Object: tuple.Object{Type: "group", ID: "all"}, Relation: "member", Subject: tuple.Subject{Type: "user", ID: "bob"}}
	var budget *BudgetError
	if x, _, err := m.Explain(Scope{Reader: w, Budget: Budget{Rows: 50}}, Budget{}, q); !errors.As(err, &budget) || x != nil {
		t.Errorf("Explain within 50 rows = %v, %v, want a BudgetError", x, err)
	}
	gone := errors.New("gone")
	if x, _, err := m.Explain(Scope{Reader: w, Stop: func(Spent) error { return gone }}, Budget{}, q); err != gone || x != nil {
		t.Errorf("Explain that is stopped = %v, %v, want the error of Stop", x, err)
	}
	q.Relation = "nothing"
	var refusal *Refusal
	if _, _, err := m.Explain(Scope{Reader: w}, Budget{}, q); !errors.As(err, &refusal) {
		t.Errorf("Explain of an unknown relation: %v, want a Refusal", err)
	}
	deep := newMem()
	for i := range 10 {
		deep.read(t, fmt.Sprintf("group:g%d#member@group:g%d#member", i, i+1))
	}
	q = Question{Object: tuple.Object{Type: "group", ID: "g0"}, Relation: "member", Subject: tuple.Subject{Type: "user", ID: "bob"}}
	for rows, want := range map[int]string{
		1: "group:g0#member granted: undecided (no answer within a depth of 2 grants), 1 untold\n",
		0: `group:g0#member granted: undecided (no answer within a depth of 2 grants)
  group:g0#member@user:bob absent
  group:g0#member@group:g1#member counts
    group:g1#member granted: undecided (no answer within a depth of 2 grants)
      group:g1#member@user:bob absent
      group:g1#member@group:g2#member counts
        group:g2#member granted: undecided (no answer within a depth of 2 grants)
          group:g2#member@user:bob absent
          group:g2#member@group:g3#member counts
            group:g3#member granted: undecided (no answer within a depth of 2 grants), 1 untold
`,
	} {
		x, _, err := m.Explain(Scope{Reader: deep, Budget: Budget{Depth: 2}}, Budget{Rows: rows, Depth: 2}, q)
		if err != nil || !errors.As(x.Err, &budget) || explained(x) != want {
			t.Errorf("Explain too deep, with %d rows to tell, is %v\n%swant\n%s", rows, err, explained(x), want)
		}
	}
}
