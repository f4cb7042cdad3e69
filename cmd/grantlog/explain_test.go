package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// hostile has every printable byte that an id may have, and what reasons may have beside.
var hostile = func() string {
	var b strings.Builder
	for c := byte(0x20); c < 0x7f; c++ {
		b.WriteByte(c)
	}
	return b.String() + "\n\r\t\u2028\u2029\u202e\u0007é漢🙂 --> end %%{init}%% \"]:::x;"
}()

// hostileExplanation has the text wherever a text can be.
func hostileExplanation() (*pb.Tuple, *pb.ExplainResponse) {
	t := &pb.Tuple{Object: "doc:" + hostile, Relation: "viewer", Subject: "user:" + hostile}
	by := &pb.Provenance{Revision: 7, Time: &timestamppb.Timestamp{Seconds: 1_800_000_000}, Actor: hostile, Ticket: hostile, Reason: hostile}
	grant := func(state pb.ExplainedGrant_State, leads *pb.Explanation) *pb.ExplainedGrant {
		return &pb.ExplainedGrant{Grant: &pb.GrantedTuple{Tuple: t, Condition: "c", Owner: hostile}, State: state, Made: by, Ended: by, Leads: leads, Error: &pb.QuestionError{Message: hostile}}
	}
	part := func(op pb.Tree_Operation, v pb.Explanation_Verdict, id string) *pb.Explanation {
		return &pb.Explanation{Object: "doc:" + id, Relation: "viewer", Operation: op, Verdict: v, Rule: "viewer from parent"}
	}
	itself := part(pb.Tree_GRANTED, pb.Explanation_HOLDS, hostile)
	itself.Itself = true
	again := part(pb.Tree_UNION, pb.Explanation_UNDECIDED, hostile+"a")
	again.Elsewhere = true
	from := part(pb.Tree_FROM, pb.Explanation_UNDECIDED, hostile+"a")
	from.Error = &pb.QuestionError{Message: hostile}
	from.Grants = []*pb.ExplainedGrant{grant(pb.ExplainedGrant_COUNTS, itself), grant(pb.ExplainedGrant_CONDITION_ERROR, again)}
	from.Untold = 3
	granted := part(pb.Tree_GRANTED, pb.Explanation_HOLDS_NOT, hostile+"a")
	for state := pb.ExplainedGrant_NEVER; state <= pb.ExplainedGrant_CONDITION_FALSE; state++ {
		granted.Grants = append(granted.Grants, grant(state, nil))
	}
	empty := part(pb.Tree_GRANTED, pb.Explanation_HOLDS_NOT, hostile+"a")
	short := part(pb.Tree_UNION, pb.Explanation_HOLDS_NOT, hostile+"b")
	short.Untold = 1
	computed := part(pb.Tree_COMPUTED, pb.Explanation_HOLDS_NOT, hostile+"a")
	computed.Branches = []*pb.Explanation{short}
	but := part(pb.Tree_EXCLUSION, pb.Explanation_UNDECIDED, hostile+"a")
	but.Branches = []*pb.Explanation{from, granted}
	root := part(pb.Tree_UNION, pb.Explanation_UNDECIDED, hostile+"a")
	root.Branches = []*pb.Explanation{but, empty, computed}
	return t, &pb.ExplainResponse{Revision: 9, Tree: root, Error: &pb.QuestionError{Message: hostile},
		Turn: &pb.Turn{Cause: pb.Turn_COMMAND, Time: by.Time, Command: by, Tuple: t}}
}

// TestMermaidHostile holds that no text, wherever it stands, is more than text in a
// flowchart: each line is one of a few forms, and a label has no character that means
// anything within quotes.
func TestMermaidHostile(t *testing.T) {
	label := `"(?:[^"\x60<>&#{}|\[\]\\;*~^$%\x00-\x1f\x7f\x{2028}\x{2029}]|#[0-9]+;)*"`
	line := regexp.MustCompile(`^(?:` +
		`%% [^{}\x00-\x1f\x{2028}\x{2029}]*|flowchart TD|` +
		`  n[0-9]+\[` + label + `\]:::(?:holds|not|undecided|note)|` +
		`  n[0-9]+ -->(?:\|` + label + `\|)? n[0-9]+|` +
		`  classDef [a-z]+ [a-z0-9:#,. -]+)$`)
	text := explainedMermaid(hostileExplanation())
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for _, l := range lines {
		if !line.MatchString(l) {
			t.Errorf("a line of the flowchart is %q", l)
		}
	}
	if len(lines) < 25 || !strings.Contains(text, "#34;#93;:::x#59;") {
		t.Errorf("the flowchart has not all of it:\n%s", text)
	}
	if line.MatchString(`  n1["a"b"]:::holds`) || line.MatchString("  n1[\"a`\"]:::holds") {
		t.Error("the form of a line lets everything pass")
	}
}

// TestTreeHostile holds that a tree has a line for each thing, whatever texts are in it.
func TestTreeHostile(t *testing.T) {
	text := explainedTree(hostileExplanation())
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.ContainsAny(l, "\r\t\u0007\u2028\u2029\u202e") || !strings.ContainsAny(l, "├└:") {
			t.Errorf("a line of the tree is %q", l)
		}
	}
	for _, want := range []string{"is shown elsewhere", "is the subject itself", "… and 3 more that are not shown", "is not shown further",
		"never granted", "  revoked  @7", "; was granted  @7", "  expired", "not yet in force", "no longer allowed by the model", "the condition does not hold", "the condition has no answer: ", "no grant to such a subject", "but not: ✗ granted to"} {
		if !strings.Contains(text, want) {
			t.Errorf("the tree lacks %q:\n%s", want, text)
		}
	}
}

// TestTurnTexts: what is said of since when is what is known, and no more.
func TestTurnTexts(t *testing.T) {
	const at = "2027-01-15T08:00:00Z"
	by := &pb.Provenance{Revision: 7, Time: &timestamppb.Timestamp{Seconds: 1_800_000_000}, Actor: "ann"}
	turn := func(cause pb.Turn_Cause, undecided, timed bool) *pb.Turn {
		m := &pb.Turn{Cause: cause, UndecidedBefore: undecided, DependsOnTime: timed}
		if cause != pb.Turn_NEVER {
			m.Time = by.Time
		}
		if cause == pb.Turn_COMMAND || cause == pb.Turn_EXPIRY {
			m.Command, m.Tuple = by, &pb.Tuple{Object: "doc:a", Relation: "viewer", Subject: "user:x"}
		}
		return m
	}
	held := func(m, last *pb.Turn) *pb.Turn { m.LastHeld = last; return m }
	const (
		grant  = "grant user:x viewer doc:a  @7 2027-01-15T08:00:00Z ann"
		looks  = "A condition that was asked looks at the time: in between, the answer may have been another."
		budget = "was not found within the budget (serve --list-budget)"
	)
	for _, tt := range []struct {
		allowed bool
		turn    *pb.Turn
		want    []string
	}{
		{true, nil, nil},
		{true, turn(pb.Turn_COMMAND, false, false), []string{"allowed since " + at + ", by " + grant}},
		{true, turn(pb.Turn_COMMAND, true, false), []string{"allowed since " + at + ", before that without an answer; by " + grant}},
		{true, turn(pb.Turn_COMMAND, false, true), []string{"allowed since " + at + " at the earliest, by " + grant, looks}},
		{true, turn(pb.Turn_COMMAND, true, true), []string{"allowed since " + at + " at the earliest, before that without an answer; by " + grant, looks}},
		{true, turn(pb.Turn_CLOCK, false, true), []string{"allowed by the clock, since some time after " + at + ", when it was denied", looks}},
		{true, turn(pb.Turn_CLOCK, true, true), []string{"allowed by the clock, since some time after " + at + ", when it was without an answer", looks}},
		{true, turn(pb.Turn_NEVER, false, false), []string{"allowed from the beginning"}},
		{true, turn(pb.Turn_NEVER, false, true), []string{"allowed from the beginning, the clock apart", looks}},
		{true, turn(pb.Turn_UNKNOWN, false, false), []string{"allowed since " + at + " or before; what made it so " + budget}},
		{false, turn(pb.Turn_COMMAND, false, false), []string{"last held until " + at + ", ended by " + grant}},
		{false, turn(pb.Turn_EXPIRY, false, false), []string{"last held until " + at + ", ended by the expiry of user:x viewer doc:a, granted  @7 2027-01-15T08:00:00Z ann"}},
		{false, turn(pb.Turn_COMMAND, false, true), []string{"denied since " + at + " at the earliest, by " + grant, looks}},
		{false, turn(pb.Turn_CLOCK, false, true), []string{"denied by the clock, since some time after " + at + ", when it was allowed", looks}},
		{false, turn(pb.Turn_NEVER, false, false), []string{"never held"}},
		{false, turn(pb.Turn_NEVER, false, true), []string{"not held by any command or expiry; by the clock it may have been", looks}},
		{false, turn(pb.Turn_UNKNOWN, false, true), []string{"denied since " + at + " or before, the clock apart; what made it so " + budget, looks}},
		{false, held(turn(pb.Turn_COMMAND, true, false), turn(pb.Turn_EXPIRY, false, false)), []string{
			"denied since " + at + ", before that without an answer; by " + grant,
			"last held until " + at + ", ended by the expiry of user:x viewer doc:a, granted  @7 2027-01-15T08:00:00Z ann"}},
		{false, held(turn(pb.Turn_COMMAND, true, false), turn(pb.Turn_NEVER, false, false)), []string{
			"denied since " + at + ", before that without an answer; by " + grant, "never held"}},
		{false, held(turn(pb.Turn_COMMAND, true, false), turn(pb.Turn_UNKNOWN, false, false)), []string{
			"denied since " + at + ", before that without an answer; by " + grant, "not held since " + at + "; when it last was, " + budget}},
		{false, held(turn(pb.Turn_COMMAND, true, false), turn(pb.Turn_CLOCK, false, true)), []string{
			"denied since " + at + ", before that without an answer; by " + grant, "last held at " + at + " or later, ended by the clock", looks}},
	} {
		if got := turnTexts(&pb.ExplainResponse{Allowed: tt.allowed, Turn: tt.turn}); !slices.Equal(got, tt.want) {
			t.Errorf("of %v, %v it is said\n%s\nwant\n%s", tt.allowed, tt.turn, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}
