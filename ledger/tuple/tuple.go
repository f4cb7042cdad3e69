// Package tuple defines the sentence all of grantlog is about:
//
//	object # relation @ subject        doc:plan#viewer@group:eng#member
//
// It is a leaf: it imports the standard library alone and does no I/O. No valid
// part holds a byte below 0x21; the key encoding of package index depends on it,
// so changing the grammar changes the index format and the fold version.
//
// The grammar is frozen: what counts as a control or a space is listed here, byte
// by byte, and never asked of a Unicode table, which changes between Go releases.
package tuple

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of the parts of a tuple, in bytes.
const (
	MaxType     = 254
	MaxRelation = 64
	MaxID       = 512
)

// Wildcard is the id of the subject that stands for every subject of its type.
const Wildcard = "*"

// ReservedPrefix begins the type names that no model may define: a store keeps
// the tuples that say who may change it under such types.
const ReservedPrefix = "grantlog."

// ErrSyntax is what every error of this package is, for [errors.Is].
var ErrSyntax = errors.New("malformed tuple")

// A SyntaxError names the part that is malformed and the rule it breaks.
type SyntaxError struct {
	Part string // "object.type", "object.id", "relation", "subject.type", "subject.id", "subject.relation", or "object", "subject", "tuple" where it cannot be split
	Text string // the offending text, shortened
	Rule string // what would be right
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s %+q: %s", e.Part, e.Text, e.Rule)
}

// Unwrap makes every SyntaxError an [ErrSyntax].
func (e *SyntaxError) Unwrap() error { return ErrSyntax }

func bad(part, text, rule string) error {
	const most = 80
	if len(text) > most {
		text = text[:most] + "…"
	}
	return &SyntaxError{Part: part, Text: text, Rule: rule}
}

// An Object is the thing that access is granted to: a type and an id. The zero
// Object is not valid.
type Object struct {
	Type string
	ID   string
}

// String returns type:id, which [ParseObject] reads back.
func (o Object) String() string { return o.Type + ":" + o.ID }

// A Subject is who access is granted to: an object (user:ann), the holders of a
// relation on an object (group:eng#member, a userset), or every object of a type
// (user:*, a typed wildcard, which has no Relation). The zero Subject is not valid.
type Subject struct {
	Type     string
	ID       string
	Relation string // "" unless the subject is a userset
}

// IsUserset reports whether the subject is the holders of a relation on an object.
func (s Subject) IsUserset() bool { return s.Relation != "" }

// IsWildcard reports whether the subject stands for every object of its type.
func (s Subject) IsWildcard() bool { return s.ID == Wildcard }

// Object returns the object part of the subject.
func (s Subject) Object() Object { return Object{s.Type, s.ID} }

// String returns type:id or type:id#relation, which [ParseSubject] reads back.
func (s Subject) String() string {
	if s.Relation == "" {
		return s.Type + ":" + s.ID
	}
	return s.Type + ":" + s.ID + "#" + s.Relation
}

// A Tuple states that Subject holds Relation on Object.
//
// Invariants, made true by [Parse] and [New] and relied on everywhere else:
//   - every part follows the package grammar, so String and Parse are inverses;
//   - a Tuple is a value: compared with ==, used as a map key, never changed.
//
// The zero Tuple is not valid; it means "none".
type Tuple struct {
	Object   Object
	Relation string
	Subject  Subject
}

// String returns object#relation@subject, which [Parse] reads back.
func (t Tuple) String() string {
	return t.Object.String() + "#" + t.Relation + "@" + t.Subject.String()
}

// Compare orders tuples by object type, object id, relation, subject type,
// subject relation and subject id, each by its bytes: the order of the index.
func (t Tuple) Compare(u Tuple) int {
	for _, p := range [...][2]string{
		{t.Object.Type, u.Object.Type}, {t.Object.ID, u.Object.ID}, {t.Relation, u.Relation},
		{t.Subject.Type, u.Subject.Type}, {t.Subject.Relation, u.Subject.Relation}, {t.Subject.ID, u.Subject.ID},
	} {
		if c := strings.Compare(p[0], p[1]); c != 0 {
			return c
		}
	}
	return 0
}

// New returns the tuple of these parts, or a [*SyntaxError].
func New(o Object, relation string, s Subject) (Tuple, error) {
	if err := o.Validate(); err != nil {
		return Tuple{}, err
	}
	if err := ValidateRelation("relation", relation); err != nil {
		return Tuple{}, err
	}
	if err := s.Validate(); err != nil {
		return Tuple{}, err
	}
	return Tuple{o, relation, s}, nil
}

// Parse reads object#relation@subject, or returns a [*SyntaxError].
//
// Neither a type, an id nor a relation holds '#', and a relation holds no '@', so
// the first '#' and the first '@' after it are the only places to split.
func Parse(text string) (Tuple, error) {
	object, rest, ok := strings.Cut(text, "#")
	if !ok {
		return Tuple{}, bad("tuple", text, "must be object#relation@subject; it has no '#'")
	}
	relation, subject, ok := strings.Cut(rest, "@")
	if !ok {
		return Tuple{}, bad("tuple", text, "must be object#relation@subject; it has no '@' after the relation")
	}
	o, err := ParseObject(object)
	if err != nil {
		return Tuple{}, err
	}
	s, err := ParseSubject(subject)
	if err != nil {
		return Tuple{}, err
	}
	return New(o, relation, s)
}

// ParseObject reads type:id, or returns a [*SyntaxError].
func ParseObject(text string) (Object, error) {
	typ, id, ok := strings.Cut(text, ":")
	if !ok {
		return Object{}, bad("object", text, "must be type:id; it has no ':'")
	}
	o := Object{typ, id}
	return o, o.Validate()
}

// ParseSubject reads type:id, type:id#relation or type:*, or returns a [*SyntaxError].
func ParseSubject(text string) (Subject, error) {
	object, relation, userset := strings.Cut(text, "#")
	typ, id, ok := strings.Cut(object, ":")
	if !ok {
		return Subject{}, bad("subject", text, "must be type:id, type:id#relation or type:*; it has no ':'")
	}
	if userset && relation == "" {
		return Subject{}, bad("subject.relation", text, "must not be empty after '#'")
	}
	s := Subject{typ, id, relation}
	return s, s.Validate()
}

// Validate returns a [*SyntaxError] unless the object follows the grammar.
func (o Object) Validate() error {
	if err := ValidateType("object.type", o.Type); err != nil {
		return err
	}
	if o.ID == Wildcard {
		return bad("object.id", o.ID, "must name one object; '*' is for subjects")
	}
	return validateID("object.id", o.ID)
}

// Validate returns a [*SyntaxError] unless the subject follows the grammar.
func (s Subject) Validate() error {
	if err := ValidateType("subject.type", s.Type); err != nil {
		return err
	}
	if s.Relation != "" {
		if s.ID == Wildcard {
			return bad("subject", s.String(), "a wildcard takes no relation")
		}
		if err := ValidateRelation("subject.relation", s.Relation); err != nil {
			return err
		}
	}
	if s.ID == Wildcard {
		return nil
	}
	return validateID("subject.id", s.ID)
}

// ValidateType returns a [*SyntaxError] for part unless text is a type name: 1 to
// [MaxType] bytes without spaces, controls, or any of ':', '#', '@', '*'.
func ValidateType(part, text string) error { return validateName(part, text, MaxType) }

// ValidateRelation returns a [*SyntaxError] for part unless text is a relation name:
// 1 to [MaxRelation] bytes without spaces, controls, or any of ':', '#', '@', '*'.
func ValidateRelation(part, text string) error { return validateName(part, text, MaxRelation) }

func validateName(part, text string, limit int) error {
	if err := validateText(part, text, limit); err != nil {
		return err
	}
	if i := strings.IndexAny(text, ":#@*"); i >= 0 {
		return bad(part, text, fmt.Sprintf("must not hold %+q", text[i]))
	}
	return nil
}

func validateID(part, text string) error {
	if err := validateText(part, text, MaxID); err != nil {
		return err
	}
	if i := strings.IndexAny(text, ":#"); i >= 0 {
		return bad(part, text, fmt.Sprintf("must not hold %+q", text[i]))
	}
	if text[0] == '*' {
		return bad(part, text, "must not start with '*'")
	}
	return nil
}

func validateText(part, text string, limit int) error {
	switch {
	case text == "":
		return bad(part, text, "must not be empty")
	case len(text) > limit:
		return bad(part, text, fmt.Sprintf("must be at most %d bytes, is %d", limit, len(text)))
	case !utf8.ValidString(text):
		return bad(part, text, "must be valid UTF-8")
	}
	for _, r := range text {
		if isSpaceOrControl(r) {
			return bad(part, text, fmt.Sprintf("must not hold the space or control character %U", r))
		}
	}
	return nil
}

// isSpaceOrControl is a frozen list: ASCII up to space, DEL and the C1 controls,
// and the spaces, line separators and byte order mark of Unicode 15.
func isSpaceOrControl(r rune) bool {
	switch {
	case r <= 0x20, r >= 0x7f && r <= 0xa0, r >= 0x2000 && r <= 0x200a:
		return true
	}
	switch r {
	case 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff:
		return true
	}
	return false
}
