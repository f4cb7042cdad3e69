package query

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

func testPageToken() PageToken {
	return PageToken{
		View:  ledger.Token{Log: ledger.UUID{1}, Store: ledger.ID{2}, Epoch: 3, Revision: 4, Leaf: [8]byte{5}},
		Model: ledger.ID{6}, Time: 7, Question: [16]byte{8}, After: "doc:9#viewer@user:ann",
	}
}

func TestPageToken(t *testing.T) {
	want := testPageToken()
	got, err := ParsePageToken(want.String())
	if err != nil || got != want {
		t.Fatalf("ParsePageToken = %+v, %v, want %+v", got, err, want)
	}
	raw, err := base64.RawURLEncoding.DecodeString(want.String())
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw { // every bit of it
		for bit := range 8 {
			raw[i] ^= 1 << bit
			if _, err := ParsePageToken(base64.RawURLEncoding.EncodeToString(raw)); !errors.Is(err, ErrPageToken) {
				t.Fatalf("with bit %d of byte %d flipped: %v", bit, i, err)
			}
			raw[i] ^= 1 << bit
		}
	}
	none := want
	none.Model = ledger.ID{}
	for _, text := range []string{"", none.String(), "x", "!", want.String()[:20], want.String() + "A", want.View.String(), strings.Repeat("A", 1<<20)} {
		if _, err := ParsePageToken(text); !errors.Is(err, ErrPageToken) {
			t.Errorf("ParsePageToken(%.30q) = %v, want ErrPageToken", text, err)
		}
	}
}

// TestKeys: questions that differ in anything have different names.
func TestKeys(t *testing.T) {
	s := func(text string) model.Value { return model.Value{Kind: model.StringValue, String: text} }
	list := func(vs ...model.Value) model.Value { return model.Value{Kind: model.ListValue, List: vs} }
	object := func(v model.Value) model.Value {
		return model.Value{Kind: model.MapValue, Map: []model.Field{{Name: "a", Value: v}}}
	}
	tup := tuple.Tuple{Object: tuple.Object{Type: "doc", ID: "1"}, Relation: "viewer", Subject: tuple.Subject{Type: "user", ID: "ann"}}
	var givens []Given
	for _, v := range []model.Value{{}, object(s("x")), object(list(s("x"))), object(list(s("x"), s("y"))), object(list(s("x,y"))), object(list(list(s("x")), s("y"))),
		object(list(list(s("x"), s("y")))), object(model.Value{}), {Kind: model.MapValue}} {
		givens = append(givens, Given{Context: v}, Given{Over: v}, Given{Context: v, Over: v}, Given{Context: v, Contextual: []Contextual{{Tuple: tup}}},
			Given{Contextual: []Contextual{{Tuple: tup, Condition: "c", Context: v}}})
	}
	seen := make(map[[16]byte]any)
	add := func(key [16]byte, q any) {
		t.Helper()
		if other, ok := seen[key]; ok && !reflect.DeepEqual(other, q) {
			t.Errorf("%+v and %+v have one key", other, q)
		}
		seen[key] = q
	}
	for _, g := range givens {
		for _, parts := range [][5]string{{"a", "b", "c", "d", "e"}, {"ab", "", "c", "d", "e"}, {"a", "bc", "", "d", "e"}, {"a", "b", "c", "", "de"}} {
			o := ObjectsQuestion{Subject: tuple.Subject{Type: parts[0], ID: parts[1], Relation: parts[2]}, Relation: parts[3], Type: parts[4], Given: g}
			add(o.Key(), o)
			q := SubjectsQuestion{Kind: model.Kind{Type: parts[0], Relation: parts[1]}, Relation: parts[2], Object: tuple.Object{Type: parts[3], ID: parts[4]}, Given: g}
			add(q.Key(), q)
			add(RelationsKey(o.Subject, tuple.Object{Type: parts[3], ID: parts[4]}, &g), []any{"relations", o})
			f := Filter{Object: tuple.Object{Type: parts[0], ID: parts[1]}, Relation: parts[2], Kind: &model.Kind{Type: parts[3], Relation: parts[4]}}
			add(f.Key(), f)
			f.Inactive = true
			add(f.Key(), f)
			f.Kind = nil
			add(f.Key(), f)
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d questions", len(seen))
	}
}

// FuzzPageToken reads the bytes as a token, and as one whose check is right.
func FuzzPageToken(f *testing.F) {
	raw, err := base64.RawURLEncoding.DecodeString(testPageToken().String())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)-pageTokenCheck])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		sum := sha256.Sum256(raw)
		for _, raw := range [][]byte{raw, append(raw[:len(raw):len(raw)], sum[:pageTokenCheck]...)} {
			text := base64.RawURLEncoding.EncodeToString(raw)
			token, err := ParsePageToken(text)
			switch {
			case err != nil && (!errors.Is(err, ErrPageToken) || token != PageToken{}):
				t.Fatalf("ParsePageToken(%q) = %+v, %v", text, token, err)
			case err == nil && token.String() != text:
				t.Fatalf("%q reads as %+v, which is written %q", text, token, token.String())
			}
		}
	})
}
