package query_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

const explainSource = `
model
  schema 1.1
type user
type group
  relations
    define member: [user, group#member, user with calm]
type doc
  relations
    define parent: [doc]
    define banned: [user]
    define trained: [user]
    define editor: [user, group#member, user with office, user with night, user with window]
    define open: [user:*]
    define viewer: (editor or open or viewer from parent) but not banned
    define signer: editor and trained
condition calm(level: int) {
  level < 3
}
condition office(hour: int, opens: int) {
  hour >= opens
}
condition window(from: timestamp, until: timestamp) {
  now >= from && now < until
}
condition night(hour: int) {
  hour > 20 && now > timestamp("2001-01-01T00:00:00Z")
}
`

// A decree is a command with who asked for it.
type decree struct {
	actor, ticket string
	grant, revoke string // tuples, or ""
	terms         model.Grant
}

// decreed folds the decrees after the model, which is revision 2, one a revision and a
// nanosecond.
func decreed(t *testing.T, decrees ...decree) *world {
	t.Helper()
	w := newWorld(t, explainSource)
	for _, d := range decrees {
		c := &ledger.Command{Store: w.store, Ticket: d.ticket, Reason: "because", Channel: "portal"}
		if d.grant != "" {
			c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Grant, Tuple: parse(t, d.grant), Grant: d.terms})
		}
		if d.revoke != "" {
			c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Revoke, Tuple: parse(t, d.revoke)})
		}
		w.actor = d.actor
		w.fold(c)
	}
	return w
}

// told writes the grants of an explanation with what is behind them, and the turn, a line
// each.
func told(x query.Explanation, turn query.Turn) string {
	var b strings.Builder
	var write func(x *model.Explanation)
	by := func(p *query.Provenance) string {
		return fmt.Sprintf("@%d +%d %s %s", p.Revision, p.Time-start, p.Actor, p.Ticket)
	}
	behind := x.Behind
	write = func(x *model.Explanation) {
		for _, l := range x.Grants {
			state := [...]string{model.Counts: "counts", model.Absent: "absent", model.Expired: "expired", model.NotYet: "not yet",
				model.NotAllowed: "not allowed", model.ConditionFalse: "false", model.ConditionFailed: "fails"}[l.State]
			fmt.Fprintf(&b, "%s %s", l.Tuple, state)
			o := behind[l.Tuple]
			if o.Made != nil {
				b.WriteString(" made " + by(o.Made))
			}
			if o.Ended != nil {
				b.WriteString(" ended " + by(o.Ended))
			}
			if o.Contextual {
				b.WriteString(" contextual")
			}
			if o.Grant.ExpiresAt != 0 {
				fmt.Fprintf(&b, " until +%d", o.Grant.ExpiresAt-start)
			}
			b.WriteByte('\n')
		}
		for below := range x.Below() {
			write(below)
		}
	}
	write(x.Explanation)
	turned(&b, &turn)
	return b.String()
}

func turned(b *strings.Builder, turn *query.Turn) {
	by := func(p *query.Provenance) string {
		return fmt.Sprintf("@%d +%d %s %s", p.Revision, p.Time-start, p.Actor, p.Ticket)
	}
	fmt.Fprintf(b, "%s, before %s, by %s", verdictNames[turn.Verdict], verdictNames[turn.Before],
		[...]string{query.ByCommand: "command", query.ByExpiry: "expiry", query.ByStart: "start", query.Never: "never", query.Unknown: "unknown", query.ByClock: "clock"}[turn.Cause])
	if turn.Time != 0 {
		fmt.Fprintf(b, " +%d", turn.Time-start)
	}
	if turn.Command.Revision > 0 {
		b.WriteString(" " + by(&turn.Command))
	}
	if turn.Tuple != (tuple.Tuple{}) {
		b.WriteString(" " + turn.Tuple.String())
	}
	if turn.Revoked {
		b.WriteString(" revoked")
	}
	if turn.Timed {
		b.WriteString(", timed")
	}
	if turn.Held != nil {
		b.WriteString("\nheld: ")
		turned(b, turn.Held)
	}
}

var verdictNames = [...]string{"?", "holds", "holds not", "undecided"}

// TestExplain explains every state that a grant can be in, with the commands behind it and
// since when.
func TestExplain(t *testing.T) {
	ann := decree{actor: "ann", ticket: "T-1"}
	grant := func(who decree, tuple string) decree { who.grant = tuple; return who }
	revoke := func(who decree, tuple string) decree { who.revoke = tuple; return who }
	open := model.Grant{Condition: "window", Context: model.AppendContext(nil, window(5, 8))}
	under := func(d decree, g model.Grant) decree { d.terms = g; return d }
	bob := decree{actor: "bob", ticket: "T-2"}
	for _, tt := range []struct {
		name    string
		decrees []decree // the first is revision 3, at +3
		ask     string
		at      int64 // nanoseconds after start
		given   query.Given
		want    string
	}{
		{name: "granted", decrees: []decree{grant(ann, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @3 +3 ann T-1
holds, before holds not, by command +3 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "never granted", decrees: []decree{grant(ann, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:y", at: 9,
			want: `doc:a#editor@user:y absent
holds not, before ?, by never`},
		{name: "revoked", decrees: []decree{grant(ann, "doc:a#editor@user:x"), revoke(bob, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x absent made @3 +3 ann T-1 ended @4 +4 bob T-2
holds not, before holds, by command +4 @4 +4 bob T-2 doc:a#editor@user:x revoked`},
		{name: "granted again", decrees: []decree{grant(ann, "doc:a#editor@user:x"), revoke(bob, "doc:a#editor@user:x"), grant(bob, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @5 +5 bob T-2
holds, before holds not, by command +5 @5 +5 bob T-2 doc:a#editor@user:x`},
		{name: "granted otherwise", decrees: []decree{grant(ann, "doc:a#editor@user:x"), under(grant(bob, "doc:a#editor@user:x"), model.Grant{Owner: "portal"})}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @4 +4 bob T-2
holds, before holds not, by command +3 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "expired", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{ExpiresAt: start + 8})}, ask: "doc:a#editor@user:x", at: 8,
			want: `doc:a#editor@user:x expired made @3 +3 ann T-1 until +8
holds not, before holds, by expiry +8 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "just before", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{ExpiresAt: start + 8})}, ask: "doc:a#editor@user:x", at: 7,
			want: `doc:a#editor@user:x counts made @3 +3 ann T-1 until +8
holds, before holds not, by command +3 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "revoked just when it expires", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{ExpiresAt: start + 5}), grant(ann, "doc:b#editor@user:x"), revoke(bob, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x expired made @3 +3 ann T-1 until +5
holds not, before holds, by expiry +5 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "revoked after it expired", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{ExpiresAt: start + 4}), grant(ann, "doc:b#editor@user:x"), revoke(bob, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x expired made @3 +3 ann T-1 until +4
holds not, before holds, by expiry +4 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "not yet", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{NotBefore: start + 8})}, ask: "doc:a#editor@user:x", at: 7,
			want: `doc:a#editor@user:x not yet made @3 +3 ann T-1
holds not, before ?, by never`},
		{name: "begun", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{NotBefore: start + 8})}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @3 +3 ann T-1
holds, before holds not, by start +8 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "condition false", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{Condition: "office"})}, ask: "doc:a#editor@user:x", at: 9,
			given: query.Given{Context: object("hour", 3, "opens", 9)},
			want: `doc:a#editor@user:x false made @3 +3 ann T-1
holds not, before ?, by never`},
		{name: "condition fails", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{Condition: "office"})}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x fails made @3 +3 ann T-1
undecided, before holds not, by command +3 @3 +3 ann T-1 doc:a#editor@user:x`},
		{name: "undecided before", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{Condition: "office"}), grant(bob, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @4 +4 bob T-2
holds, before undecided, by command +4 @4 +4 bob T-2 doc:a#editor@user:x`},
		{name: "condition that looks at the time", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), model.Grant{Condition: "night"})}, ask: "doc:a#editor@user:x", at: 9,
			given: query.Given{Context: object("hour", 22)},
			want: `doc:a#editor@user:x counts made @3 +3 ann T-1
holds, before holds not, by command +3 @3 +3 ann T-1 doc:a#editor@user:x, timed`},
		{name: "before its window", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), open)}, ask: "doc:a#editor@user:x", at: 4,
			want: `doc:a#editor@user:x false made @3 +3 ann T-1
holds not, before ?, by never, timed`},
		{name: "in its window", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), open)}, ask: "doc:a#editor@user:x", at: 6,
			want: `doc:a#editor@user:x counts made @3 +3 ann T-1
holds, before holds not, by clock +3, timed`},
		{name: "after its window", decrees: []decree{under(grant(ann, "doc:a#editor@user:x"), open)}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x false made @3 +3 ann T-1
holds not, before ?, by never, timed`},
		{name: "granted within its window", decrees: []decree{grant(ann, "doc:b#editor@user:x"), grant(ann, "doc:c#editor@user:x"), under(grant(ann, "doc:a#editor@user:x"), open)}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x false made @5 +5 ann T-1
holds not, before holds, by clock +5, timed`},
		{name: "a window that makes no difference", decrees: []decree{grant(ann, "doc:a#editor@group:g#member"), grant(bob, "group:g#member@user:x"), under(grant(ann, "doc:a#editor@user:x"), open)}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@group:g#member counts made @3 +3 ann T-1
group:g#member@user:x counts made @4 +4 bob T-2
holds, before holds not, by command +4 @4 +4 bob T-2 group:g#member@user:x`},
		{name: "without an answer between", decrees: []decree{grant(ann, "doc:a#editor@user:x"), under(grant(bob, "doc:a#editor@user:x"), model.Grant{Condition: "office"}), revoke(ann, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x absent made @4 +4 bob T-2 ended @5 +5 ann T-1
holds not, before undecided, by command +5 @5 +5 ann T-1 doc:a#editor@user:x revoked
held: undecided, before holds, by command +4 @4 +4 bob T-2 doc:a#editor@user:x`},
		{name: "without an answer and never held", decrees: []decree{under(grant(bob, "doc:a#editor@user:x"), model.Grant{Condition: "office"}), revoke(ann, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			want: `doc:a#editor@user:x absent made @3 +3 bob T-2 ended @4 +4 ann T-1
holds not, before undecided, by command +4 @4 +4 ann T-1 doc:a#editor@user:x revoked
held: holds not, before ?, by never`},
		{name: "contextual", decrees: []decree{grant(ann, "doc:a#editor@user:y")}, ask: "doc:a#editor@user:x", at: 9,
			given: query.Given{Contextual: contextual(t, "doc:a#editor@group:g#member", "group:g#member@user:x")},
			want: `doc:a#editor@group:g#member counts contextual
group:g#member@user:x counts contextual
holds, before holds not, by command +2 @2 +2 root `},
		{name: "contextual over a revoked one", decrees: []decree{grant(ann, "doc:a#editor@user:x"), revoke(bob, "doc:a#editor@user:x")}, ask: "doc:a#editor@user:x", at: 9,
			given: query.Given{Contextual: contextual(t, "doc:a#editor@user:x")},
			want: `doc:a#editor@user:x counts contextual
holds, before holds not, by command +2 @2 +2 root `},
		{name: "wildcard", decrees: []decree{grant(ann, "doc:a#open@user:*")}, ask: "doc:a#viewer@user:x", at: 9,
			want: `doc:a#open@user:* counts made @3 +3 ann T-1
doc:a#banned@user:x absent
holds, before holds not, by command +3 @3 +3 ann T-1 doc:a#open@user:*`},
		{name: "the userset itself", ask: "group:g#member@group:g#member", at: 9, want: "holds, before holds not, by command +2 @2 +2 root "},
		{name: "through a group, by who joined it", decrees: []decree{grant(ann, "doc:a#editor@group:g#member"), grant(bob, "group:g#member@user:x"), grant(ann, "group:g#member@user:y")}, ask: "doc:a#viewer@user:x", at: 9,
			want: `doc:a#editor@group:g#member counts made @3 +3 ann T-1
group:g#member@user:x counts made @4 +4 bob T-2
doc:a#banned@user:x absent
holds, before holds not, by command +4 @4 +4 bob T-2 group:g#member@user:x`},
		{name: "a parent several hops away is gone", decrees: []decree{
			grant(ann, "doc:a#parent@doc:b"), grant(ann, "doc:b#parent@doc:c"), grant(ann, "doc:c#editor@user:x"), revoke(bob, "doc:b#parent@doc:c"), grant(ann, "doc:a#editor@user:y")},
			ask: "doc:a#viewer@user:x", at: 9,
			want: `doc:a#editor@user:x absent
doc:a#open@user:* absent
doc:a#parent@doc:b counts made @3 +3 ann T-1
doc:b#editor@user:x absent
doc:b#open@user:* absent
holds not, before holds, by command +6 @6 +6 bob T-2 doc:b#parent@doc:c revoked`},
		{name: "excluded", decrees: []decree{grant(ann, "doc:a#editor@user:x"), grant(bob, "doc:a#banned@user:x")}, ask: "doc:a#viewer@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @3 +3 ann T-1
doc:a#banned@user:x counts made @4 +4 bob T-2
holds not, before holds, by command +4 @4 +4 bob T-2 doc:a#banned@user:x`},
		{name: "excluded no more", decrees: []decree{grant(ann, "doc:a#banned@user:x"), grant(ann, "doc:a#editor@user:x"), revoke(bob, "doc:a#banned@user:x")}, ask: "doc:a#viewer@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @4 +4 ann T-1
doc:a#banned@user:x absent made @3 +3 ann T-1 ended @5 +5 bob T-2
holds, before holds not, by command +5 @5 +5 bob T-2 doc:a#banned@user:x revoked`},
		{name: "one of both", decrees: []decree{grant(ann, "doc:a#trained@user:x")}, ask: "doc:a#signer@user:x", at: 9,
			want: `doc:a#editor@user:x absent
doc:a#trained@user:x counts made @3 +3 ann T-1
holds not, before ?, by never`},
		{name: "both", decrees: []decree{grant(ann, "doc:a#trained@user:x"), grant(bob, "doc:a#editor@user:x")}, ask: "doc:a#signer@user:x", at: 9,
			want: `doc:a#editor@user:x counts made @4 +4 bob T-2
doc:a#trained@user:x counts made @3 +3 ann T-1
holds, before holds not, by command +4 @4 +4 bob T-2 doc:a#editor@user:x`},
		{name: "in a circle", decrees: []decree{grant(ann, "group:g#member@group:h#member"), grant(bob, "group:h#member@group:g#member")}, ask: "group:g#member@user:x", at: 9,
			want: `group:g#member@user:x absent
group:g#member@group:h#member counts made @3 +3 ann T-1
group:h#member@user:x absent
group:h#member@group:g#member counts made @4 +4 bob T-2
holds not, before ?, by never`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := decreed(t, tt.decrees...)
			a := w.ask(query.NewEngine(query.Budgets{}), start+tt.at)
			q := query.Question{Tuple: parse(t, tt.ask), Given: tt.given}
			x, err := a.Explain(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			turn, err := a.Turn(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			if got := told(x, turn); got != tt.want {
				t.Errorf("%s is\n%s\nwant\n%s", tt.ask, got, tt.want)
			}
			if answer, err := a.Check(context.Background(), q); answer.Allowed != (turn.Verdict == model.Holds) || (err == nil) != (turn.Verdict != model.Undecided) {
				t.Errorf("Turn says %d, Check %v, %v", turn.Verdict, answer.Allowed, err)
			}
			for _, b := range x.Behind {
				if p := b.Made; p != nil && (p.Reason != "because" || p.Channel != "portal" || p.Method != ledger.MethodNone || p.Command.IsZero()) {
					t.Errorf("provenance %+v", p)
				}
			}
		})
	}
}

// A grant under a model that allows it no more, and an answer that a model changed.
func TestExplainModels(t *testing.T) {
	w := decreed(t, decree{actor: "ann", ticket: "T-1", grant: "doc:a#editor@user:x"})
	old := w.model()
	w.actor = "arch"
	w.write(strings.Replace(explainSource, "editor: [user, group#member,", "editor: [group#member,", 1))
	w.grant("doc:a#editor@group:g#member")
	q := query.Question{Tuple: parse(t, "doc:a#editor@user:x")}
	explain := func(id ledger.ID) string {
		t.Helper()
		v, err := w.x.View(w.store, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		a, err := query.NewEngine(query.Budgets{}).Ask(v, id, start+9)
		if err != nil {
			t.Fatal(err)
		}
		x, err := a.Explain(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		turn, err := a.Turn(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		return told(x, turn)
	}
	want := `doc:a#editor@user:x not allowed made @3 +3 ann T-1
doc:a#editor@group:g#member counts made @5 +5 arch 
group:g#member@user:x absent
holds not, before holds, by command +4 @4 +4 arch `
	if got := explain(ledger.ID{}); got != want {
		t.Errorf("under the new model:\n%s\nwant\n%s", got, want)
	}
	want = "doc:a#editor@user:x counts made @3 +3 ann T-1\nholds, before holds not, by command +3 @3 +3 ann T-1 doc:a#editor@user:x"
	if got := explain(old); got != want {
		t.Errorf("under the old model, asked for:\n%s\nwant\n%s", got, want)
	}
}

// What cannot be asked is refused as Check refuses it, and budgets end in errors or are
// said to have ended.
func TestExplainErrors(t *testing.T) {
	var decrees []decree
	for i := range 40 { // which change nothing for user:y but are read for it
		decrees = append(decrees, decree{actor: "ann", grant: fmt.Sprintf("doc:a#editor@group:g%d#member", i)})
	}
	w := decreed(t, append([]decree{{actor: "ann", grant: "doc:a#editor@user:y"}}, decrees...)...)
	a := w.ask(query.NewEngine(query.Budgets{}), start+100)
	for _, ask := range []string{"file:a#editor@user:x", "doc:a#nothing@user:x", "doc:a#editor@robot:x", "doc:a#editor@group:g#nothing"} {
		q := query.Question{Tuple: parse(t, ask)}
		_, err := a.Check(context.Background(), q)
		_, explainErr := a.Explain(context.Background(), q)
		_, turnErr := a.Turn(context.Background(), q)
		var invalid *query.InvalidError
		if !errors.As(err, &invalid) || explainErr == nil || explainErr.Error() != err.Error() || turnErr == nil || turnErr.Error() != err.Error() {
			t.Errorf("%s: Explain says %v, Turn %v, Check %v", ask, explainErr, turnErr, err)
		}
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	q := query.Question{Tuple: parse(t, "doc:a#editor@user:y")}
	if _, err := a.Explain(gone, q); !errors.Is(err, context.Canceled) {
		t.Errorf("Explain to nobody: %v", err)
	}
	if _, err := a.Turn(gone, q); !errors.Is(err, context.Canceled) {
		t.Errorf("Turn to nobody: %v", err)
	}
	q = query.Question{Tuple: parse(t, "doc:a#editor@user:x")}
	little := w.ask(query.NewEngine(query.Budgets{Check: model.Budget{Rows: 5}}), start+100)
	var budget *model.BudgetError
	if _, err := little.Explain(context.Background(), q); !errors.As(err, &budget) {
		t.Errorf("Explain within 5 rows: %v", err)
	}
	turn, err := little.Turn(context.Background(), q)
	if err != nil || turn != (query.Turn{Cause: query.Unknown, Time: start + 100}) {
		t.Errorf("Turn within 5 rows = %+v, %v; want one that is unknown", turn, err)
	}
	// Each of the 40 grants is read for it, and they are asked about more than once.
	short := w.ask(query.NewEngine(query.Budgets{List: model.Budget{Rows: 150}}), start+100)
	turn, err = short.Turn(context.Background(), q)
	if err != nil || turn.Cause != query.Unknown || turn.Verdict != model.HoldsNot || turn.Time <= start+3 || turn.Time > start+43 || turn.Command.Revision != 0 {
		t.Errorf("Turn within 150 rows = %+v, %v; want one that is unknown, some time between", turn, err)
	}
	if turn, err = a.Turn(context.Background(), q); err != nil || turn.Cause != query.Never {
		t.Errorf("Turn = %+v, %v, want never", turn, err)
	}
}
