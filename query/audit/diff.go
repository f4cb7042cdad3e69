package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/query"
)

// The changes that differences tell.
const (
	added     = "added"
	removed   = "removed"
	changed   = "changed"
	gained    = "gained"
	lost      = "lost"
	undecided = "undecided"
	unchanged = "unchanged"
)

// TupleDifference reports how the tuples that count at the moment b differ from those that
// count at a, which is not later: those that are granted then, within their time and
// allowed by the model. One that counts at both but was granted otherwise (another
// condition, context, time or owner) is changed. Each comes with what made it so: the
// newest command about it up to b, an expires_at or a not_before that came (then with
// the command that granted it), or a model. Rows are in the order of
// [tuple.Tuple.Compare]; both moments are closed by the caller.
func TupleDifference(ctx context.Context, a, b *Moment) Report {
	return Report{
		Title:   "difference of tuples",
		Columns: []string{"change", "object", "relation", "subject", "before", "after", "cause", "time", "revision", "actor", "ticket", "reason"},
		Rows: rows(func(yield func(Row) bool) error {
			var failed error
			err := both(ctx, a, b, func(t tuple.Tuple, before, after *query.Granted) bool {
				row, ok, err := tupleRow(a, b, t, before, after)
				if err != nil {
					failed = err
					return false
				}
				return !ok || yield(row)
			})
			if failed != nil {
				return failed
			}
			return err
		}),
	}
}

// rows makes a sequence of a function that yields rows and may fail.
func rows(f func(yield func(Row) bool) error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		more := true
		err := f(func(r Row) bool {
			more = yield(r, nil)
			return more
		})
		if err != nil && more {
			yield(Row{}, err)
		}
	}
}

func counts(g *query.Granted) bool { return g != nil && g.State == query.Active }

// tupleRow returns the row of a tuple, false if it needs none.
func tupleRow(a, b *Moment, t tuple.Tuple, before, after *query.Granted) (Row, bool, error) {
	was, is := counts(before), counts(after)
	change := changed
	var texts [2]string
	switch {
	case was && is && before.Grant.Equal(after.Grant), !was && !is:
		return Row{}, false, nil
	case !was:
		change = added
	case !is:
		change = removed
	}
	for i, g := range [...]*query.Granted{before, after} {
		if counts(g) {
			var err error
			if texts[i], err = grantText(&g.Grant); err != nil {
				return Row{}, false, fmt.Errorf("%s: %w", t, err)
			}
		}
	}
	c, err := b.tupleCause(a, t, after)
	if err != nil {
		return Row{}, false, fmt.Errorf("%s: %w", t, err)
	}
	cells := []string{change, t.Object.String(), t.Relation, t.Subject.String(), texts[0], texts[1]}
	told, err := b.causeCells(c)
	return Row{Cells: append(cells, told...)}, true, err
}

// grantText says what a tuple is granted with.
func grantText(g *model.Grant) (string, error) {
	text := "granted"
	if g.Condition != "" {
		text += " if " + g.Condition
		if g.Context != nil {
			context, err := contextText(g.Context)
			if err != nil {
				return "", err
			}
			text += " " + context
		}
	}
	if g.NotBefore != 0 {
		text += " from " + clockText(g.NotBefore)
	}
	if g.ExpiresAt != 0 {
		text += " until " + clockText(g.ExpiresAt)
	}
	if g.Owner != "" {
		text += " managed by " + g.Owner
	}
	return Cell(text), nil
}

// tupleCause returns what made a tuple count at m, or not count, of one for which that
// was otherwise at a. After is what it is granted with at m, nil if it is not.
func (m *Moment) tupleCause(a *Moment, t tuple.Tuple, after *query.Granted) (cause, error) {
	if after == nil {
		n, ok, err := m.view.Newest(t)
		if err != nil || !ok {
			return cause{}, err
		}
		return cause{kind: causeCommand, revision: n.Revision}, nil
	}
	command := cause{kind: causeCommand, revision: after.Revision}
	expiry := cause{kind: causeExpiry, at: after.Grant.ExpiresAt, revision: after.Revision}
	switch after.State {
	case query.NotYet: // granted anew, for later
		return command, nil
	case query.Expired:
		return expiry, nil
	}
	byModel, since, err := m.modelCause(a, t, after)
	if err != nil {
		return cause{}, err
	}
	if after.State == query.NotAllowed { // the first of what ended it
		switch {
		case after.Grant.ExpiresAt != 0 && m.time >= after.Grant.ExpiresAt && (byModel.revision == 0 || after.Grant.ExpiresAt < since):
			return expiry, nil
		case byModel.revision == 0:
			return command, nil // under a model that was not the newest
		}
		return byModel, nil
	}
	// The last of what made it count.
	granted, err := m.provenance(after.Revision)
	if err != nil {
		return cause{}, err
	}
	if start := after.Grant.NotBefore; start > granted.Time {
		if start > since {
			return cause{kind: causeStart, at: start, revision: after.Revision}, nil
		}
		return byModel, nil
	}
	if byModel.revision > after.Revision {
		return byModel, nil
	}
	return command, nil
}

// modelCause returns the model since which a grant is allowed as it is at m, or not
// allowed, and the log time of that model, if it was written after a; zero if it was not.
func (m *Moment) modelCause(a *Moment, t tuple.Tuple, g *query.Granted) (cause, int64, error) {
	models := m.view.Models()
	allowed := g.State != query.NotAllowed
	for i := len(models) - 1; i >= 0 && models[i].Revision > a.view.Revision(); i-- {
		var older *model.Model
		if i > 0 {
			var err error
			if older, err = m.view.Model(models[i-1].ID); err != nil {
				return cause{}, 0, err
			}
		}
		if older == nil || (older.Allows(t, g.Grant.Condition) == nil) != allowed {
			written, err := m.provenance(models[i].Revision)
			return cause{kind: causeModel, revision: models[i].Revision}, written.Time, err
		}
	}
	return cause{}, 0, nil
}

// window is how many tuples are read before they are told.
const window = 2048

// tuples yields all granted tuples, in order, those that do not count too. The loop may
// ask m. A failure is yielded once, as the last element.
func (m *Moment) tuples(ctx context.Context) iter.Seq2[*query.Granted, error] {
	return func(yield func(*query.Granted, error) bool) {
		if m.asking == nil {
			return // nothing is granted without a model
		}
		var after tuple.Tuple
		read := make([]query.Granted, 0, window)
		for {
			if err := m.fresh(); err != nil {
				yield(nil, err)
				return
			}
			read = read[:0]
			for g, err := range m.asking.Tuples(ctx, query.Filter{Inactive: true}, after) {
				if err != nil {
					yield(nil, err)
					return
				}
				if read = append(read, g); len(read) == window {
					break
				}
			}
			for i := range read {
				if !yield(&read[i], nil) {
					return
				}
			}
			if len(read) < window {
				return
			}
			after = read[len(read)-1].Tuple
		}
	}
}

// both calls yield for each tuple that is granted at a or b, with what it is granted with
// at each, nil where it is not. What is yielded is good until yield returns. Yield may ask
// a and b.
func both(ctx context.Context, a, b *Moment, yield func(t tuple.Tuple, before, after *query.Granted) bool) error {
	return merged(a.tuples(ctx), b.tuples(ctx),
		func(x, y *query.Granted) int { return x.Tuple.Compare(y.Tuple) },
		func(before, after *query.Granted) bool { return yield(cmp.Or(before, after).Tuple, before, after) })
}

// merged calls yield for the elements of two ordered sequences, those that compare equal
// together, until it returns false or a sequence fails.
func merged[T any](left, right iter.Seq2[*T, error], compare func(x, y *T) int, yield func(x, y *T) bool) error {
	nextX, stopX := iter.Pull2(left)
	defer stopX()
	nextY, stopY := iter.Pull2(right)
	defer stopY()
	take := func(next func() (*T, error, bool)) (*T, error) {
		v, err, ok := next()
		if !ok {
			return nil, nil
		}
		return v, err
	}
	x, err := take(nextX)
	if err != nil {
		return err
	}
	y, err := take(nextY)
	for err == nil && (x != nil || y != nil) {
		order := 0
		switch {
		case x == nil:
			order = 1
		case y == nil:
			order = -1
		default:
			order = compare(x, y)
		}
		var l, r *T
		if order <= 0 {
			l = x
		}
		if order >= 0 {
			r = y
		}
		if !yield(l, r) {
			return nil
		}
		if order <= 0 {
			x, err = take(nextX)
		}
		if order >= 0 && err == nil {
			y, err = take(nextY)
		}
	}
	return err
}

// contextText returns a stored context as JSON.
func contextText(stored []byte) (string, error) {
	v, err := model.DecodeContext(stored)
	if err != nil {
		return "", fmt.Errorf("stored context: %w", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // it is for people
	err = e.Encode(plain(v))
	return strings.TrimSuffix(b.String(), "\n"), err
}
