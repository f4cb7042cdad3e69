package index

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A family is the first byte of a key: the kind of row. See FORMAT.md.
const (
	familyForward  = 'f' // versions of tuples, by object
	familyReverse  = 'r' // versions of tuples, by subject
	familyEntry    = 'e' // entries
	familyCommand  = 'c' // command ids
	familyActor    = 'a' // revisions by actor
	familyTicket   = 't' // revisions by ticket
	familyRejected = 'x' // revisions of rejected entries
	familyObject   = 'o' // revisions that name an object without effect
	familySubject  = 'u' // revisions that name a subject without effect
	familyHashes   = 'h' // tree hashes
	familyModel    = 'm' // models by revision
	familyModelID  = 'i' // revisions by model id
	familyStore    = 's' // stores
	familyAsserted = 'w' // versions of assertions, by model
	familyPosition = 'p' // the position row
)

// The last byte of a key says whether a revision that versions the row stands before
// it. Every key ends with one of the two, and so does every key that is sought, so
// that the comparer never takes the end of an id for a version.
const (
	plain     = 0
	versioned = 9 // the length of ^rev and this byte
)

// comparer orders keys by prefix and then by suffix, each by its bytes. The suffix is
// ^rev and the byte 9 that ends a versioned key; filters are over prefixes, and a seek
// for a prefix finds one row's versions only.
//
// For the keys of this format that is the order of their bytes: no prefix of a
// versioned row begins another. The name is of the order, not of the format: it
// changes only if the order does.
var comparer = &pebble.Comparer{
	Name:                 comparerName,
	Split:                split,
	Compare:              compare,
	Equal:                bytes.Equal,
	ComparePointSuffixes: bytes.Compare,
	CompareRangeSuffixes: bytes.Compare,
	AbbreviatedKey:       pebble.DefaultComparer.AbbreviatedKey,
	FormatKey:            pebble.DefaultComparer.FormatKey,
	// Separator and Successor do not shorten: what they return must itself end with
	// plain or versioned.
	Separator:          func(dst, a, _ []byte) []byte { return append(dst, a...) },
	Successor:          func(dst, a []byte) []byte { return append(dst, a...) },
	ImmediateSuccessor: func(dst, prefix []byte) []byte { return append(append(dst, prefix...), plain) },
}

const comparerName = "grantlog.v1"

func split(key []byte) int {
	if n := len(key); n >= versioned && key[n-1] == versioned {
		return n - versioned
	}
	return len(key)
}

func compare(a, b []byte) int {
	// Most keys differ well before their ends, which are in another cache line: a
	// difference in front of where either could be split decides.
	if n := min(len(a), len(b)) - versioned; n > 0 {
		if c := bytes.Compare(a[:n], b[:n]); c != 0 {
			return c
		}
	}
	an, bn := split(a), split(b)
	if c := bytes.Compare(a[:an], b[:bn]); c != 0 {
		return c
	}
	return bytes.Compare(a[an:], b[bn:])
}

// appendForward appends the key of a version of t by its object:
//
//	'f' | store 16 | otype 0 | oid 0 | relation 0 | stype 0 | srel 0 | sid 0 | ^rev 8 | 9
//	                 \-- object --/                 \------ subject ------/
//
// Parts are text ended by a zero byte and no part holds one, so byte order is the
// order of [tuple.Tuple.Compare], and no prefix made of whole parts begins another.
// ^rev is big-endian: of the versions of a tuple the newest comes first, and one seek
// finds its state at any revision.
func appendForward(dst []byte, store ledger.ID, t tuple.Tuple, rev ledger.Revision) []byte {
	dst = appendSubjects(dst, store, t.Object, t.Relation, t.Subject.Type, t.Subject.Relation)
	dst = appendPart(dst, t.Subject.ID)
	return appendVersion(dst, rev)
}

// appendSubjects appends the part of a forward key that the subjects of one type and
// relation share.
func appendSubjects(dst []byte, store ledger.ID, o tuple.Object, relation, stype, srel string) []byte {
	return appendParts(dst, familyForward, store, o.Type, o.ID, relation, stype, srel)
}

// appendReverse appends the key of a version of t by its subject:
//
//	'r' | store 16 | stype 0 | srel 0 | sid 0 | otype 0 | relation 0 | oid 0 | ^rev 8 | 9
func appendReverse(dst []byte, store ledger.ID, t tuple.Tuple, rev ledger.Revision) []byte {
	dst = appendObjects(dst, store, t.Subject, t.Object.Type, t.Relation)
	dst = appendPart(dst, t.Object.ID)
	return appendVersion(dst, rev)
}

// appendObjects appends the part of a reverse key that the objects of one type share
// which a relation was granted on to a subject.
func appendObjects(dst []byte, store ledger.ID, s tuple.Subject, otype, relation string) []byte {
	return appendParts(dst, familyReverse, store, s.Type, s.Relation, s.ID, otype, relation)
}

func appendParts(dst []byte, family byte, store ledger.ID, parts ...string) []byte {
	dst = append(dst, family)
	dst = append(dst, store[:]...)
	for _, part := range parts {
		dst = appendPart(dst, part)
	}
	return dst
}

// A Prefix names the tuples whose keys begin alike: by object, the parts of the object,
// the relation and the subject as far as they are known; by subject, those of the subject,
// the type of object, the relation and the object's id.
type Prefix struct {
	bySubject bool
	parts     []string
}

// ByObject returns the prefix of the tuples of a type of object ("" for all), an object
// of it ("" for all), a relation ("" for all), a kind of subject (nil for all), and a
// subject of it ("" for all). What stands after a part that is left open must be left open.
func ByObject(o tuple.Object, relation string, kind *model.Kind, subject string) Prefix {
	p := Prefix{parts: known(o.Type, o.ID, relation)}
	if kind != nil {
		p.parts = append(append(p.parts, kind.Type, kind.Relation), known(subject)...)
	}
	return p
}

// BySubject returns the prefix of the tuples of a kind of subject, a subject of it ("" for
// all), a type of object ("" for all) and a relation ("" for all). What stands after a
// part that is left open must be left open.
func BySubject(s tuple.Subject, otype, relation string) Prefix {
	return Prefix{true, append([]string{s.Type, s.Relation}, known(s.ID, otype, relation)...)}
}

// known returns the parts before the first that is empty.
func known(parts ...string) []string {
	for i, part := range parts {
		if part == "" {
			return parts[:i]
		}
	}
	return parts
}

// Has reports whether the key of a tuple begins with the prefix.
func (p *Prefix) Has(t tuple.Tuple) bool {
	return bytes.HasPrefix(p.key(nil, ledger.System, t), p.append(nil, ledger.System))
}

func (p *Prefix) append(dst []byte, store ledger.ID) []byte {
	family := byte(familyForward)
	if p.bySubject {
		family = familyReverse
	}
	return appendParts(dst, family, store, p.parts...)
}

// key appends the key of a tuple in the order of p.
func (p *Prefix) key(dst []byte, store ledger.ID, t tuple.Tuple) []byte {
	if p.bySubject {
		return appendReverse(dst, store, t, 0)
	}
	return appendForward(dst, store, t, 0)
}

func appendPart(dst []byte, part string) []byte {
	return append(append(dst, part...), 0)
}

func appendVersion(dst []byte, rev ledger.Revision) []byte {
	return append(binary.BigEndian.AppendUint64(dst, ^uint64(rev)), versioned)
}

// decodeTuple is the inverse of appendForward and appendReverse. The tuple does not
// share memory with the key.
func decodeTuple(key []byte) (store ledger.ID, t tuple.Tuple, rev ledger.Revision, err error) {
	n := split(key)
	if n < 17 || n == len(key) || key[0] != familyForward && key[0] != familyReverse {
		return store, t, 0, damaged("%x is no key of a tuple", key)
	}
	copy(store[:], key[1:])
	var parts [6]string
	rest := key[17:n]
	for i := range parts {
		part, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return store, t, 0, damaged("%x lacks a part", key)
		}
		parts[i], rest = string(part), after
	}
	if len(rest) > 0 {
		return store, t, 0, damaged("%x has a part too many", key)
	}
	if key[0] == familyForward {
		t = tuple.Tuple{
			Object: tuple.Object{Type: parts[0], ID: parts[1]}, Relation: parts[2],
			Subject: tuple.Subject{Type: parts[3], Relation: parts[4], ID: parts[5]},
		}
	} else {
		t = tuple.Tuple{
			Subject: tuple.Subject{Type: parts[0], Relation: parts[1], ID: parts[2]},
			Object:  tuple.Object{Type: parts[3], ID: parts[5]}, Relation: parts[4],
		}
	}
	return store, t, version(key), nil
}

// version returns the revision of a versioned key.
func version(key []byte) ledger.Revision {
	return ledger.Revision(^binary.BigEndian.Uint64(key[len(key)-versioned:]))
}

// appendByRevision appends the key of a row that a store has one of for a revision:
//
//	family | store 16 | rev 8 | 0
func appendByRevision(dst []byte, family byte, store ledger.ID, rev ledger.Revision) []byte {
	dst = append(dst, family)
	dst = append(dst, store[:]...)
	return append(binary.BigEndian.AppendUint64(dst, uint64(rev)), plain)
}

// appendByText appends the key of a row by actor or ticket, which hold no zero byte:
//
//	family | store 16 | text 0 | rev 8 | 0
func appendByText(dst []byte, family byte, store ledger.ID, text string, rev ledger.Revision) []byte {
	dst = append(dst, family)
	dst = append(dst, store[:]...)
	dst = appendPart(dst, text)
	return append(binary.BigEndian.AppendUint64(dst, uint64(rev)), plain)
}

// appendObjectMention appends the key of a row by an object that an entry names:
//
//	'o' | store 16 | otype 0 | oid 0 | rev 8 | 0
func appendObjectMention(dst []byte, store ledger.ID, o tuple.Object, rev ledger.Revision) []byte {
	return append(appendRevision(appendParts(dst, familyObject, store, o.Type, o.ID), rev), plain)
}

// appendSubjectMention appends the key of a row by a subject that an entry names:
//
//	'u' | store 16 | stype 0 | srel 0 | sid 0 | rev 8 | 0
func appendSubjectMention(dst []byte, store ledger.ID, s tuple.Subject, rev ledger.Revision) []byte {
	return append(appendRevision(appendParts(dst, familySubject, store, s.Type, s.Relation, s.ID), rev), plain)
}

// appendCommand appends the key of a command id, which is unique per store and actor:
//
//	'c' | store 16 | actor 0 | id 16 | 0
func appendCommand(dst []byte, store ledger.ID, actor string, id ledger.UUID) []byte {
	dst = append(dst, familyCommand)
	dst = append(dst, store[:]...)
	dst = appendPart(dst, actor)
	return append(append(dst, id[:]...), plain)
}

// appendModelID appends the key that finds a model by its id:
//
//	'i' | store 16 | model 16 | 0
func appendModelID(dst []byte, store, model ledger.ID) []byte {
	dst = append(dst, familyModelID)
	dst = append(dst, store[:]...)
	return append(append(dst, model[:]...), plain)
}

// appendAssertions appends the key of a version of a model's assertions:
//
//	'w' | store 16 | model 16 | ^rev 8 | 9
//
// Parts have one length each, so no prefix begins another, as with tuples.
func appendAssertions(dst []byte, store, model ledger.ID, rev ledger.Revision) []byte {
	dst = append(dst, familyAsserted)
	dst = append(dst, store[:]...)
	return appendVersion(append(dst, model[:]...), rev)
}

// appendStore appends the key of a store:
//
//	's' | store 16 | 0
func appendStore(dst []byte, store ledger.ID) []byte {
	return append(append(append(dst, familyStore), store[:]...), plain)
}

// positionKey is the key of the position row.
var positionKey = []byte{familyPosition, plain}

// revisionOf returns the revision that ends a key without a version.
func revisionOf(key []byte) ledger.Revision {
	return ledger.Revision(binary.BigEndian.Uint64(key[len(key)-9:]))
}

// damaged returns an [ErrDamaged] that says what is wrong.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}
