package openfga

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantlog/grantlog/ledger/model"
)

// TestListDeadline holds that a list that takes too long is what was found until then,
// and that nothing else ends it early without an error.
func TestListDeadline(t *testing.T) {
	broken := errors.New("broken")
	// slow yields an item at once and the others 0.9 seconds later each, as the engine does
	// until its context ends.
	slow := func(ids ...string) func(context.Context) iter.Seq2[model.Item, error] {
		return func(ctx context.Context) iter.Seq2[model.Item, error] {
			return func(yield func(model.Item, error) bool) {
				for i, id := range ids {
					if i > 0 {
						time.Sleep(900 * time.Millisecond)
					}
					if err := ctx.Err(); err != nil {
						yield(model.Item{}, err)
						return
					}
					item := model.Item{ID: id}
					if id == "broken" {
						item.Err = broken
					}
					if !yield(item, nil) {
						return
					}
				}
			}
		}
	}
	for _, tt := range []struct {
		name    string
		patient time.Duration // of the caller
		items   []string
		want    []string
		err     error
	}{
		{"in time", time.Minute, []string{"a", "b", "c"}, []string{"a", "b", "c"}, nil},
		{"too long", time.Minute, []string{"a", "b", "c", "d", "e"}, []string{"a", "b", "c", "d"}, nil},
		{"an item has no answer", time.Minute, []string{"a", "broken", "c"}, []string{"a"}, broken},
		{"the caller's deadline", 1500 * time.Millisecond, []string{"a", "b", "c"}, []string{"a", "b"}, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.patient)
				defer cancel()
				var got []string
				err := list(ctx, slow(tt.items...), func(i model.Item) (bool, error) { got = append(got, i.ID); return true, nil })
				if !errors.Is(err, tt.err) || !slices.Equal(got, tt.want) {
					t.Errorf("list = %q, %v, want %q, %v", got, err, tt.want, tt.err)
				}
			})
		})
	}
}
