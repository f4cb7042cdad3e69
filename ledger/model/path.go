package model

import "github.com/grantlog/grantlog/ledger/tuple"

// A Step is one reason of an allow. Steps follow each other as they are used: a step
// that needs others stands before them.
type Step struct {
	Object   tuple.Object // what the subject holds Relation on by this step
	Relation string
	// Op is the rule used. This: Tuple was granted to the subject, or (if Tuple is zero)
	// the subject is the userset itself. From: Tuple leads to the object or the userset
	// of the steps that follow. Computed: the steps that follow are about Rule on the
	// same object. Intersect: all branches follow. Exclude: what is not subtracted follows.
	Op    Op
	Tuple tuple.Tuple
	Rule  string // of Computed, "editor"; of From, "viewer from parent", or "" if Tuple's subject is a userset
}

// String returns the step in one line.
func (s Step) String() string {
	held := s.Object.String() + "#" + s.Relation
	switch s.Op {
	case Computed:
		return held + " by " + s.Rule
	case From:
		if s.Rule == "" {
			return s.Tuple.String()
		}
		return held + " by " + s.Rule + ": " + s.Tuple.String()
	case Intersect:
		return held + " by all of:"
	case Exclude:
		return held + " by what is not excluded:"
	}
	if s.Tuple == (tuple.Tuple{}) {
		return held + " is the subject itself"
	}
	return s.Tuple.String()
}

// An item is a step, or a part whose own items stand for it.
type item struct {
	step Step
	part int32 // -1 for a step
}

// step adds a step to the path that is being tried.
func (s *search) step(step Step) {
	if s.trace {
		s.items = append(s.items, item{step, -1})
	}
}

// refer adds an answered part to the path that is being tried.
func (s *search) refer(id int32, allowed bool) {
	if s.trace && allowed {
		s.items = append(s.items, item{part: id})
	}
}

// keep forgets the items since mark unless they led to an allow.
func (s *search) keep(mark int, allowed bool) {
	if s.trace && !allowed {
		s.items = s.items[:mark]
	}
}

// path returns the steps of the allow, each part's once.
func (s *search) path() []Step {
	var steps []Step
	told := make(map[int32]bool)
	var tell func(items []item)
	tell = func(items []item) {
		for _, i := range items {
			if i.part < 0 {
				steps = append(steps, i.step)
			} else if !told[i.part] {
				told[i.part] = true
				tell(s.parts[i.part].items)
			}
		}
	}
	tell(s.items)
	return steps
}
