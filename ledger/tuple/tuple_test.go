package tuple

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		name, in string
		part     string // of the SyntaxError, "" if the text is right
	}{
		{"plain subject", "doc:plan#viewer@user:ann", ""},
		{"userset subject", "doc:plan#viewer@group:eng#member", ""},
		{"wildcard subject", "doc:plan#viewer@user:*", ""},
		{"at sign in ids", "doc:a@b#viewer@user:ann@example.com", ""},
		{"slashes, dots, bars", "repo:org/app.git#reader@user:auth0|42", ""},
		{"text beyond ASCII", "doc:плановый#viewer@user:añ", ""},
		{"star inside an id", "doc:a*b#viewer@user:ann*", ""},
		{"longest parts", long(MaxType) + ":" + long(MaxID) + "#" + long(MaxRelation) + "@" + long(MaxType) + ":" + long(MaxID) + "#" + long(MaxRelation), ""},
		{"no relation", "doc:plan@user:ann", "tuple"},
		{"no subject", "doc:plan#viewer", "tuple"},
		{"empty", "", "tuple"},
		{"no object id", "doc#viewer@user:ann", "object"},
		{"empty object type", ":plan#viewer@user:ann", "object.type"},
		{"empty object id", "doc:#viewer@user:ann", "object.id"},
		{"wildcard object", "doc:*#viewer@user:ann", "object.id"},
		{"colon in an object id", "doc:a:b#viewer@user:ann", "object.id"},
		{"star before an object id", "doc:*a#viewer@user:ann", "object.id"},
		{"empty relation", "doc:plan#@user:ann", "relation"},
		{"colon in a relation", "doc:plan#view:er@user:ann", "relation"},
		{"star in a relation", "doc:plan#*@user:ann", "relation"},
		{"no subject id", "doc:plan#viewer@user", "subject"},
		{"empty subject relation", "doc:plan#viewer@group:eng#", "subject.relation"},
		{"second hash in a subject", "doc:plan#viewer@group:eng#a#b", "subject.relation"},
		{"wildcard with a relation", "doc:plan#viewer@group:*#member", "subject"},
		{"space", "doc:the plan#viewer@user:ann", "object.id"},
		{"line break", "doc:plan#viewer@user:ann\n", "subject.id"},
		{"NUL", "doc:pl\x00an#viewer@user:ann", "object.id"},
		{"delete", "doc:pl\x7fan#viewer@user:ann", "object.id"},
		{"C1 control", "doc:pl\u0085an#viewer@user:ann", "object.id"},
		{"no-break space", "doc:pl\u00a0an#viewer@user:ann", "object.id"},
		{"byte order mark", "doc:plan#viewer@user:\ufeffann", "subject.id"},
		{"not UTF-8", "doc:pl\xffan#viewer@user:ann", "object.id"},
		{"type too long", long(MaxType+1) + ":a#viewer@user:ann", "object.type"},
		{"id too long", "doc:" + long(MaxID+1) + "#viewer@user:ann", "object.id"},
		{"relation too long", "doc:a#" + long(MaxRelation+1) + "@user:ann", "relation"},
		{"subject relation too long", "doc:a#viewer@group:eng#" + long(MaxRelation+1), "subject.relation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in)
			var syntax *SyntaxError
			switch {
			case tt.part == "" && err != nil:
				t.Fatalf("Parse(%q) error = %v, want none", tt.in, err)
			case tt.part == "" && got.String() != tt.in:
				t.Errorf("Parse(%q) = %q, want the input back", tt.in, got)
			case tt.part != "" && !errors.As(err, &syntax):
				t.Fatalf("Parse(%q) = %v, %v, want a SyntaxError", tt.in, got, err)
			case tt.part != "" && (syntax.Part != tt.part || !errors.Is(err, ErrSyntax)):
				t.Errorf("Parse(%q) blames %s (%v), want %s", tt.in, syntax.Part, err, tt.part)
			}
		})
	}
}

// TestLowBytes holds what the key encoding of package index depends on.
func TestLowBytes(t *testing.T) {
	for b := range 0x21 {
		for _, in := range []string{"d%c:a#r@u:b", "d:%ca#r@u:b", "d:a#%cr@u:b", "d:a#r@%cu:b", "d:a#r@u:%cb", "d:a#r@u:b#%cr"} {
			text := strings.Replace(in, "%c", string(rune(b)), 1)
			if got, err := Parse(text); err == nil {
				t.Errorf("Parse(%q) = %v, want an error for byte %#x", text, got, b)
			}
		}
	}
}

func TestCompare(t *testing.T) {
	inOrder := []string{
		"a:a#r@u:a", "a:a#r@u:b", "a:a#r@u:a#m", "a:a#r@v:a", "a:a#s@u:a", "a:b#r@u:a", "b:a#r@u:a",
	}
	for i, x := range inOrder {
		for j, y := range inOrder {
			a, errA := Parse(x)
			b, errB := Parse(y)
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			if got, want := a.Compare(b), min(1, max(-1, i-j)); got != want {
				t.Errorf("%q.Compare(%q) = %d, want %d", x, y, got, want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"doc:plan#viewer@user:ann", "doc:a@b#viewer@group:eng#member", "d:a#r@u:*", "", "a:b#c@d:e#", "\xff:a#b@c:d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Parse(in)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Fatalf("Parse(%q) error = %v, want an ErrSyntax", in, err)
			}
			return
		}
		if got.String() != in {
			t.Fatalf("Parse(%q) = %q, want the input back", in, got)
		}
		if _, err := New(got.Object, got.Relation, got.Subject); err != nil {
			t.Fatalf("New refuses what Parse(%q) returned: %v", in, err)
		}
	})
}
