package authzen

import (
	"errors"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

// FuzzQuestion: whatever a request says, it is an error about a field, or a question
// within the grammar of tuples, about the subject and the object of those names.
func FuzzQuestion(f *testing.F) {
	const whole = `{"subject": {"type": "user", "id": "a b", "properties": {"role": "admin", "x": null}}, "action": {"name": "read"}, "resource": {"type": "record", "id": "*"}, "context": {"subject_role": 1}}`
	for _, seed := range [][2]string{{whole, `{}`}, {whole, `{"resource": {"type": "record", "id": "2"}, "context": {}}`}, {whole, `{"resource": {"id": "2"}, "subject": null, "context": null}`}, {`{}`, whole}, {`{"subject": 1}`, `[]`}, {whole, `{"action": {"name": "a#b"}, "subject": {"type": "*", "id": ""}}`}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, all, one string) {
		read := func(text string, defaults asked) (asked, error) {
			v, err := model.ParseJSON([]byte(text))
			if err != nil {
				return asked{}, malformed("", "%s", err)
			}
			return readAsked(v, defaults)
		}
		a, err := read(all, asked{})
		if err == nil {
			a, err = read(one, a)
		}
		var q query.Question
		if err == nil {
			q, err = a.question()
		}
		var rejection *ledger.Rejection
		var unknown *query.InvalidError
		switch {
		case err != nil && !errors.As(err, &rejection) && !errors.As(err, &unknown):
			t.Fatalf("%q over %q: %T %v", one, all, err, err)
		case err != nil:
			return
		}
		if _, err := tuple.New(q.Tuple.Object, q.Tuple.Relation, q.Tuple.Subject); err != nil || q.Tuple.Subject.IsUserset() || q.Tuple.Subject.IsWildcard() {
			t.Fatalf("%q over %q is about %s, %v", one, all, q.Tuple, err)
		}
		for name, id := range map[string]string{"subject": q.Tuple.Subject.ID, "resource": q.Tuple.Object.ID} {
			if text, ok := unescape(id); !ok || text != a.entities[name].text["id"] {
				t.Fatalf("%q over %q: the %s is %q, %t", one, all, name, text, ok)
			}
		}
	})
}
