// Package model holds authorization models in compiled form: what the log records,
// the fold validates, and the evaluator runs over a small [Reader].
//
// The modeling language itself is read by package dsl, at the edge only. Everything
// here is pure and imports the standard library alone (and packages tuple and wire),
// because the fold stands on it: the same bytes mean the same on every replica and
// in every release.
package model

import "github.com/grantlog/grantlog/ledger/tuple"

// A Model states, for every relation of every type, who holds it.
//
// Invariants of a Model that [Model.Validate] has accepted, relied on everywhere else:
//   - names follow package tuple's grammar and are unique where they must be;
//   - every type, relation and condition that is named exists;
//   - no relation is computed from itself alone.
//
// A Model is never changed after it was validated and is safe for concurrent use.
type Model struct {
	Schema     string      // "1.1" or "1.2"
	Types      []Type      // in source order
	Conditions []Condition // in source order

	index // lookup tables, built by Validate
}

// A Type is a kind of object and the relations its objects have.
type Type struct {
	Name      string
	Relations []Relation // in source order
	Module    string     // the module that defines it, or ""
}

// A Relation says how one relation of a type is computed.
type Relation struct {
	Name string
	Rule Rule
	// Direct lists the kinds of subject that may be granted the relation itself.
	// It is empty exactly if Rule holds no [This].
	Direct []Direct
	Module string // the module that adds it, where that is not the type's, or ""
}

// A Direct is one kind of subject that a relation may be granted to: the objects of
// a type (user), a userset (group#member), or a typed wildcard (user:*), perhaps only
// under a condition.
type Direct struct {
	Type      string
	Relation  string // of a userset, or ""
	Wildcard  bool
	Condition string // the condition that the grant must name, or "" for none
}

// An Op is the operation of a [Rule].
type Op byte

// The operations. Their numbers are part of the encoding.
const (
	This      Op = 1 + iota // the subjects the relation was granted to
	Computed                // the holders of Relation on the same object
	From                    // the holders of Relation on each object that Tupleset names: "Relation from Tupleset"
	Union                   // any of Children
	Intersect               // all of Children
	Exclude                 // Children[0] but not Children[1]
)

// A Rule is a tree that says who holds a relation.
type Rule struct {
	Op       Op
	Relation string // of Computed and From
	Tupleset string // of From
	Children []Rule // of Union and Intersect: two or more; of Exclude: two
}

// A Condition is a named expression over typed parameters that decides, when a
// question is asked, whether a grant counts. The fold types its context and never
// runs its expression.
type Condition struct {
	Name       string
	Expression string  // CEL, as in the source
	Params     []Param // in name order
	Module     string
}

// A Param is a parameter of a condition.
type Param struct {
	Name string
	Type ParamType
}

// A ParamKind is the kind of a [ParamType].
type ParamKind byte

// The parameter kinds of the modeling language. Their numbers are part of the encoding.
const (
	ParamAny ParamKind = 1 + iota
	ParamBool
	ParamString
	ParamInt
	ParamUint
	ParamDouble
	ParamDuration
	ParamTimestamp
	ParamIPAddress
	ParamList // of Elem
	ParamMap  // from string to Elem
)

// A ParamType is the type of a parameter.
type ParamType struct {
	Kind ParamKind
	Elem *ParamType // of a list or a map, else nil
}

// A Grant is what a tuple was granted with: all of a tuple's version but the tuple.
// The zero Grant is unconditional and unlimited.
type Grant struct {
	Condition string // name of a condition of the model, or ""
	Context   []byte // what the grant gives the condition's parameters: a canonical [Context], nil if empty
	NotBefore int64  // nanoseconds since the Unix epoch from which the grant counts; 0: from the start
	ExpiresAt int64  // nanoseconds since the Unix epoch from which it no longer counts; 0: never
	Owner     string // label of who manages the grant, at most MaxOwner bytes, or ""
}

// MaxOwner is the limit of an owner label, in bytes.
const MaxOwner = 256

// Active reports whether the grant counts at the time at, in nanoseconds since the
// Unix epoch: from NotBefore on, and until just before ExpiresAt.
func (g *Grant) Active(at int64) bool {
	return at >= g.NotBefore && (g.ExpiresAt == 0 || at < g.ExpiresAt)
}

// Doubtful is the condition of a grant of which a [Reader] does not know whether it counts.
// Whatever the model allows, [Conditions] are asked, which say why. No condition has this
// name, so that nothing is granted under it.
const Doubtful = "*"

// A Reader is the state a [Model] is evaluated over: the tuples live at one moment.
// What it yields may be expired or not yet active; the evaluator decides that.
// Its methods are called by one goroutine.
type Reader interface {
	// Grant returns what t was granted with, or false if t is not live.
	Grant(t tuple.Tuple) (Grant, bool, error)
	// Subjects calls yield for each live grant of relation on o to subjects of type
	// stype with the subject relation srel ("" for plain subjects and the wildcard),
	// whose id comes after the given one, in order of id, until yield returns false.
	Subjects(o tuple.Object, relation, stype, srel, after string, yield func(s tuple.Subject, g Grant) bool) error
	// Objects calls yield for each live grant of relation to s on objects of type
	// otype whose id comes after the given one, in order of id, until yield returns false.
	Objects(s tuple.Subject, otype, relation, after string, yield func(o tuple.Object, g Grant) bool) error
}

// Conditions runs conditions for a question: it holds the request's context and the
// time. Its methods are called by one goroutine.
type Conditions interface {
	// Holds reports whether the condition holds under the grant's stored context
	// (canonical bytes) over the request's. A missing parameter is an error, never false.
	Holds(condition string, stored []byte) (bool, error)
}
