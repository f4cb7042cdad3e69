package query

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/ledger/wire"
)

// A PageToken is where the next page of a list begins. It pins what the pages have in
// common, so that together they are one list: the revision, the model, and the moment
// that expiry and conditions are held against. It names the question that it is of.
//
// It holds no secret and grants nothing: whoever makes one up gets the answer to a
// question that could be asked anyway, but for the moment that expiry is held against.
// That is therefore taken for so long only, unless it is one at which the store was at the
// token's revision, which could be asked about anyway. Its check is against accidents.
type PageToken struct {
	View     ledger.Token // the revision
	Model    ledger.ID
	Time     int64    // nanoseconds since the Unix epoch
	Question [16]byte // of [Given] and all else that was asked, see the Key methods
	After    string   // the last item of the pages before
}

// ErrPageToken is returned for text that is no page token.
var ErrPageToken = errors.New("must be a page token that an answer of this server gave")

// PageTokenAge is how long a page token is good for, after the first page of its list; one
// of a list about the past is good for ever.
const PageTokenAge = time.Hour

const (
	pageTokenFormat = 1
	pageTokenCheck  = 8       // bytes of the checksum
	maxPageToken    = 4 << 10 // bytes of text; three ids of an item are the most of it
)

// String returns the token as URL-safe text:
//
//	base64url( format 1 | view, bytes | model 16 | time, varint | question 16 | after, bytes | check 8 )
//
// View is the text of the token of the revision. Check is the first bytes of the SHA-256
// of all that stands before it.
func (t PageToken) String() string {
	b := []byte{pageTokenFormat}
	b = wire.AppendBytes(b, t.View.String())
	b = append(b, t.Model[:]...)
	b = wire.AppendVarint(b, t.Time)
	b = append(b, t.Question[:]...)
	b = wire.AppendBytes(b, t.After)
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(append(b, sum[:pageTokenCheck]...))
}

// ParsePageToken reads what String returned. Any other text is an [ErrPageToken].
func ParsePageToken(text string) (PageToken, error) {
	var t PageToken
	if len(text) > maxPageToken {
		return t, ErrPageToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < pageTokenCheck {
		return t, ErrPageToken
	}
	b, check := b[:len(b)-pageTokenCheck], b[len(b)-pageTokenCheck:]
	if sum := sha256.Sum256(b); string(sum[:pageTokenCheck]) != string(check) {
		return t, ErrPageToken
	}
	d := wire.NewDecoder(b)
	format := d.Byte()
	view := d.Text(maxPageToken)
	copy(t.Model[:], d.Raw(len(t.Model)))
	t.Time = d.Varint()
	copy(t.Question[:], d.Raw(len(t.Question)))
	t.After = d.Text(maxPageToken)
	if d.Done() != nil || format != pageTokenFormat || t.Model.IsZero() {
		return PageToken{}, ErrPageToken
	}
	if t.View, err = ledger.ParseToken(view); err != nil {
		return PageToken{}, ErrPageToken
	}
	return t, nil
}

// The Key methods return what names a question in its page tokens: two questions with
// one key have the same answer at the same revision, model and moment.

// Key names the question.
func (q *ObjectsQuestion) Key() [16]byte {
	b := appendTexts([]byte{'o'}, q.Subject.Type, q.Subject.ID, q.Subject.Relation, q.Relation, q.Type)
	return key(q.Given.append(b))
}

// Key names the question.
func (q *SubjectsQuestion) Key() [16]byte {
	b := appendTexts([]byte{'s'}, q.Kind.Type, q.Kind.Relation, q.Relation, q.Object.Type, q.Object.ID)
	return key(q.Given.append(b))
}

// RelationsKey names the question which relations a subject holds on an object.
func RelationsKey(s tuple.Subject, o tuple.Object, g *Given) [16]byte {
	b := appendTexts([]byte{'r'}, s.Type, s.ID, s.Relation, o.Type, o.ID)
	return key(g.append(b))
}

// Key names the filter.
func (f *Filter) Key() [16]byte {
	b := appendTexts([]byte{'t'}, f.Object.Type, f.Object.ID, f.Relation, f.Subject)
	b = wire.AppendBool(wire.AppendBool(b, f.Inactive), f.Kind != nil)
	if f.Kind != nil {
		b = appendTexts(b, f.Kind.Type, f.Kind.Relation)
	}
	return key(b)
}

func key(b []byte) [16]byte {
	sum := sha256.Sum256(b)
	return [16]byte(sum[:])
}

func appendTexts(dst []byte, texts ...string) []byte {
	for _, text := range texts {
		dst = wire.AppendBytes(dst, text)
	}
	return dst
}

// append appends an encoding of what is given: different bytes for what is different.
func (g *Given) append(dst []byte) []byte {
	dst = model.AppendValue(dst, g.Context)
	dst = model.AppendValue(dst, g.Over)
	dst = wire.AppendUvarint(dst, uint64(len(g.Contextual)))
	for i := range g.Contextual {
		c := &g.Contextual[i]
		dst = appendTexts(dst, c.Tuple.String(), c.Condition)
		dst = model.AppendValue(dst, c.Context)
	}
	return dst
}
