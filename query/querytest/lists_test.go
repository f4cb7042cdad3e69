package querytest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/grantlog/grantlog/ledger/model"
)

// cause returns the cause of an error as facts name it, or the error if none can cause it.
func cause(err error) (string, error) {
	var missing *MissingError
	var cycle *model.CycleError
	switch {
	case err == nil:
		return "", nil
	case errors.As(err, &missing):
		return missing.Condition, nil
	case errors.As(err, &cycle):
		return Cycle, nil
	}
	return "", err
}

// paged makes a whole list of pages of a size; 0 for one page.
func paged(size int, list func(after string, yield func(model.Item) bool) error) (all []Listed, err error) {
	const most = 1000 // items, so that a list that never ends is noticed
	for after, more := "", true; more && len(all) < most; {
		n := 0
		more = false
		var failed error
		err := list(after, func(i model.Item) bool {
			if n++; size > 0 && n > size {
				more = true
				return false
			}
			l := Listed{ID: i.ID, Excluded: i.Excluded}
			l.Cause, failed = cause(i.Err)
			all = append(all, l)
			after = i.ID
			return failed == nil
		})
		if err = errors.Join(err, failed); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// pageSizes are the sizes at which each list is made, one after the other.
var pageSizes = []int{0, 1, 2, 3, 100}

// wrongList asks for every list of a world, in pages, and says which is not as the facts
// are, or "".
func wrongList(w *World, a *Answers, turn int) string {
	next := func() int {
		turn++
		return pageSizes[turn%len(pageSizes)]
	}
	trees := make(map[node]bool)
	for l := range a.Lists {
		size := next()
		list, err := paged(size, func(after string, yield func(model.Item) bool) (err error) {
			if l.Type != "" {
				_, err = w.Model.ListObjects(w.Scope(), l.Subject, l.Type, l.Relation, after, yield)
			} else {
				trees[node{l.Object, l.Relation}] = true
				_, err = w.Model.ListSubjects(w.Scope(), l.Object, l.Relation, l.Kind, after, yield)
			}
			return err
		})
		if err != nil {
			return fmt.Sprintf("%+v in pages of %d: the list errs: %v; the oracle says otherwise", l, size, err)
		}
		if text := a.Wrong(l, list); text != "" {
			return fmt.Sprintf("in pages of %d: %s", size, text)
		}
	}
	everyone := w.Everyone()
	for n := range trees {
		tree, _, err := w.Model.Expand(w.Scope(), n.object, n.relation, 1+turn%4)
		if err != nil {
			return fmt.Sprintf("%v: the tree errs: %v; the oracle says otherwise", n, err)
		}
		if text := a.WrongTree(tree, everyone); text != "" {
			return text
		}
	}
	return ""
}

// TestOracleLists asks for every list of random worlds, at several page sizes.
func TestOracleLists(t *testing.T) {
	seed, compared := firstSeed(t), 0
	for n := range *worldsFlag {
		w := NewWorld(seed + uint64(n))
		a := NewAnswers(w.Facts())
		if text := wrongList(w, a, n); text != "" {
			small := w.Shrink(func(w *World) bool { return wrongList(w, NewAnswers(w.Facts()), n) != "" })
			t.Fatalf("seed %d: %s\n%sin this world, the smallest that shows it: %s", seed+uint64(n), text, small, wrongList(small, NewAnswers(small.Facts()), n))
		}
		compared += a.Compared
	}
	t.Logf("%d facts held against lists", compared)
	if least := 200 * *worldsFlag; compared < least {
		t.Errorf("only %d facts were held against lists; want %d or more", compared, least)
	}
}
