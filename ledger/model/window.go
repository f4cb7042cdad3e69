package model

import (
	"cmp"
	"slices"
	"strings"
)

// Sizes of windows, in items. The first is small, so that a list begins at once.
const (
	firstWindow = 128
	lastWindow  = 8192
)

// A window is the first so many of what several runs, each in order of id, have after an
// id, each once. So the runs are merged in little memory, however many and long they
// are, and without reading them all at once.
type window[T interface {
	name() string
	rank() int // of several with one id that with the least stays
}] struct {
	size  int
	all   []T
	bound string // nothing after it belongs to the window, "" for no bound
	cut   bool   // something was left out
}

func (w *window[T]) begin() { w.all, w.bound, w.cut = w.all[:0], "", false }

// add takes the next of a run, and reports whether the run's next may belong too.
func (w *window[T]) add(t T) bool {
	if w.bound != "" && t.name() > w.bound {
		w.cut = true
		return false
	}
	w.all = append(w.all, t)
	if len(w.all) >= 2*w.size {
		w.trim()
	}
	return true
}

// trim puts what there is in order, each once, and no more than the window's size.
func (w *window[T]) trim() {
	slices.SortFunc(w.all, func(a, b T) int {
		return cmp.Or(strings.Compare(a.name(), b.name()), cmp.Compare(a.rank(), b.rank()))
	})
	w.all = slices.CompactFunc(w.all, func(a, b T) bool { return a.name() == b.name() })
	if len(w.all) > w.size {
		clear(w.all[w.size:])
		w.all, w.cut = w.all[:w.size], true
	}
	if len(w.all) == w.size {
		w.bound = w.all[w.size-1].name()
	}
}

// end returns the window and whether there is more after it. The next will be larger.
func (w *window[T]) end() ([]T, bool) {
	w.trim()
	w.size = min(4*w.size, lastWindow)
	return w.all, w.cut
}
