package model

import (
	"cmp"
	"slices"
	"strings"
)

// Sizes of windows, in names. The first is small, so that a list begins at once. What a
// run has to say of a name may be that it is not held: it takes its place in a window all
// the same, so that what is held comes out however much lies around it that is not.
// Tests make windows smaller.
var (
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

// A merger makes windows of runs. Of each run it knows what comes next, so that a window
// reads only the runs that have something in it.
type merger[T interface {
	name() string
	rank() int
}] struct {
	window[T]
	runs []mergeRun // that have more
}

// A mergeRun is a run of a merger.
type mergeRun struct {
	number int
	next   string // nothing before it is left, "" if that is not known
	first  string // read for the window under way
	last   string // taken into it
	done   bool   // nothing comes after last
}

func newMerger[T interface {
	name() string
	rank() int
}](runs int) *merger[T] {
	m := &merger[T]{window: window[T]{size: firstWindow}, runs: make([]mergeRun, runs)}
	for i := range m.runs {
		m.runs[i].number = i
	}
	return m
}

// next returns the next window, and whether there is more after it. It calls read with the
// number of a run, to yield what the run has after the window before, until yield returns
// false; read returns false to end it all.
func (m *merger[T]) next(read func(run int, yield func(T) bool) bool) ([]T, bool) {
	m.begin()
	slices.SortFunc(m.runs, func(a, b mergeRun) int {
		return cmp.Or(strings.Compare(a.next, b.next), cmp.Compare(a.number, b.number))
	})
	looked := 0
	for ; looked < len(m.runs); looked++ {
		r := &m.runs[looked]
		if m.bound != "" && r.next > m.bound {
			m.cut = true
			break // and so have all after it
		}
		r.next, r.first, r.last, r.done = "", "", "", true
		if !read(r.number, func(t T) bool {
			if r.first == "" {
				r.first = t.name()
			}
			if !m.add(t) {
				r.next, r.done = t.name(), false
				return false
			}
			r.last = t.name()
			return true
		}) {
			return nil, false
		}
	}
	all, more := m.end()
	if !more {
		return all, false
	}
	end := all[len(all)-1].name()
	left := m.runs[:0]
	for i, r := range m.runs {
		switch {
		case i >= looked:
		case r.last > end: // what did not fit is read again
			if r.next = ""; r.first > end {
				r.next = r.first
			}
		case r.done:
			continue
		}
		left = append(left, r)
	}
	m.runs = left
	return all, true
}
