package decide

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// Memory is the reference of [State]: the whole folded state in plain maps and lists,
// every version kept. Tests compare the index and the evaluator with it, so it is
// written to be obviously right and not to be fast. Methods must not be called
// concurrently.
type Memory struct {
	stores  map[ledger.ID]*memoryStore
	epoch   ledger.Epoch
	version uint64
}

type memoryStore struct {
	status      Status
	deleted     bool // by its own newest entry
	name, admin string
	entries     []ledger.Entry // entry of revision r at r-1
	tuples      map[tuple.Tuple][]Version
	models      []memoryModel // oldest first
	assertions  map[ledger.ID][]memoryAssertions
	claims      map[memoryClaim]Seen
}

type memoryModel struct {
	revision ledger.Revision
	source   ledger.ModelSource
	model    *model.Model
}

type memoryAssertions struct {
	revision ledger.Revision
	bytes    []byte
}

type memoryClaim struct {
	actor string
	id    ledger.UUID
}

// A Version is what a tuple became at a revision.
type Version struct {
	Revision ledger.Revision
	Tuple    tuple.Tuple
	Live     bool
	Grant    model.Grant
}

// NewMemory returns the state before the first command.
func NewMemory() *Memory {
	return &Memory{stores: map[ledger.ID]*memoryStore{}, version: ledger.FoldVersion}
}

// Fold decides a command and applies what was decided.
func (m *Memory) Fold(in Input) ([]Record, error) {
	records, err := Decide(m, in)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		m.Apply(r, in)
	}
	return records, nil
}

// Apply makes the record the next entry of its store and returns that entry.
func (m *Memory) Apply(r Record, in Input) ledger.Entry {
	s := m.open(r.Store)
	e := ledger.Entry{
		Store: r.Store, Revision: ledger.Revision(len(s.entries) + 1), Time: r.Time, Origin: in.Origin,
		FoldVersion: in.Version, Raw: in.Raw, Outcome: r.Outcome,
	}
	if n := len(s.entries); n > 0 {
		e.Prev = leaf(&s.entries[n-1])
	}
	s.entries = append(s.entries, e)
	if r.Claims {
		s.claims[memoryClaim{in.Origin.Actor, r.Command.ID}] = Seen{r.Content, e.Revision}
	}
	for _, f := range r.Effects {
		switch f.Kind {
		case SetTuple:
			s.tuples[f.Tuple] = append(s.tuples[f.Tuple], Version{e.Revision, f.Tuple, f.Live, f.Grant})
		case SetModel:
			s.models = append(s.models, memoryModel{e.Revision, f.Source, f.Model})
		case SetStore:
			of := m.open(f.Store)
			own := r.Store == f.Store
			if own {
				of.deleted = f.Status == Deleted
			}
			if !own || of.status != Restoring {
				of.status = f.Status
			}
			if f.Name != "" {
				of.name, of.admin = f.Name, f.Admin
			}
		case SetEpoch:
			m.epoch = f.Epoch
		case SetAssertions:
			s.assertions[f.Source.ID] = append(s.assertions[f.Source.ID], memoryAssertions{e.Revision, f.Assertions})
		case SetVersion:
			m.version = f.Version
		default:
			panic(fmt.Sprintf("decide: no effect of kind %d", f.Kind))
		}
	}
	return e
}

// Restore applies the entries of a restore envelope and returns those it took: all, or
// those before the first that is not the next of its store, which must be restoring.
func (m *Memory) Restore(in *ledger.Restored) ([]ledger.Entry, error) {
	s := m.open(in.Store)
	var taken []ledger.Entry
	for _, data := range in.Entries {
		e, err := ledger.DecodeEntry(data)
		if err != nil || s.status != Restoring {
			return taken, nil
		}
		if n := uint64(e.Revision); e.Store == in.Store && n > 0 && n <= uint64(len(s.entries)) {
			if leaf(&s.entries[n-1]) != leaf(e) {
				return taken, nil
			}
			continue
		}
		if e.FoldVersion > m.version {
			return taken, nil
		}
		at := Place{Revision: ledger.Revision(len(s.entries)), Deleted: s.deleted}
		if at.Revision > 0 {
			newest := &s.entries[at.Revision-1]
			at.Leaf, at.Time = leaf(newest), newest.Time
		}
		r, err := Again(m, in.Store, at, e)
		var differs *RefoldError
		if errors.As(err, &differs) {
			return taken, nil
		}
		if err != nil {
			return taken, err
		}
		taken = append(taken, m.Apply(r, Input{Origin: e.Origin, Raw: e.Raw, Version: e.FoldVersion}))
	}
	return taken, nil
}

// Version returns the fold version in force.
func (m *Memory) Version() uint64 { return m.version }

func (m *Memory) open(store ledger.ID) *memoryStore {
	s := m.stores[store]
	if s == nil {
		s = &memoryStore{tuples: map[tuple.Tuple][]Version{}, claims: map[memoryClaim]Seen{}, assertions: map[ledger.ID][]memoryAssertions{}}
		m.stores[store] = s
	}
	return s
}

// leaf is the RFC 6962 leaf hash of the entry, which package seal computes elsewhere.
func leaf(e *ledger.Entry) ledger.Hash { return sha256.Sum256(ledger.AppendEntry([]byte{0}, e)) }

// Status implements [State].
func (m *Memory) Status(store ledger.ID) (Status, error) {
	if s := m.stores[store]; s != nil {
		return s.status, nil
	}
	return None, nil
}

// Model implements [State].
func (m *Memory) Model(store, id ledger.ID) (*model.Model, error) {
	s := m.stores[store]
	if s == nil || len(s.models) == 0 {
		return nil, nil
	}
	if id.IsZero() {
		return s.models[len(s.models)-1].model, nil
	}
	for _, w := range s.models {
		if w.source.ID == id {
			return w.model, nil
		}
	}
	return nil, nil
}

// Assertions implements [State].
func (m *Memory) Assertions(store, id ledger.ID) ([]byte, error) {
	b, _ := m.AssertionsAt(store, id, math.MaxUint64)
	return b, nil
}

// AssertionsAt returns the assertions that the model had at the revision, and the revision
// that wrote them; nil and 0 if none were written by then.
func (m *Memory) AssertionsAt(store, id ledger.ID, at ledger.Revision) ([]byte, ledger.Revision) {
	if s := m.stores[store]; s != nil {
		for _, w := range slices.Backward(s.assertions[id]) {
			if w.revision <= at {
				return w.bytes, w.revision
			}
		}
	}
	return nil, 0
}

// Grant implements [State].
func (m *Memory) Grant(store ledger.ID, t tuple.Tuple) (model.Grant, bool, error) {
	if s := m.stores[store]; s != nil && len(s.tuples[t]) > 0 {
		newest := s.tuples[t][len(s.tuples[t])-1]
		return newest.Grant, newest.Live, nil
	}
	return model.Grant{}, false, nil
}

// Command implements [State].
func (m *Memory) Command(store ledger.ID, actor string, id ledger.UUID) (Seen, bool, error) {
	if s := m.stores[store]; s != nil {
		seen, ok := s.claims[memoryClaim{actor, id}]
		return seen, ok, nil
	}
	return Seen{}, false, nil
}

// LogTime implements [State].
func (m *Memory) LogTime(store ledger.ID) (int64, error) {
	if s := m.stores[store]; s != nil && len(s.entries) > 0 {
		return s.entries[len(s.entries)-1].Time, nil
	}
	return 0, nil
}

// Epoch implements [State].
func (m *Memory) Epoch() uint64 { return m.epoch.Number }

// Stores returns every store that has an entry, ledger.System among them, by id.
func (m *Memory) Stores() []ledger.ID {
	var ids []ledger.ID
	for id, s := range m.stores {
		if len(s.entries) > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b ledger.ID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// Entries returns the store's entries: that of revision r stands at r-1. The caller
// must not change them.
func (m *Memory) Entries(store ledger.ID) []ledger.Entry {
	if s := m.stores[store]; s != nil {
		return s.entries
	}
	return nil
}

// Live returns the tuples live at the revision, each in the version it had, in tuple
// order. Those that have expired by then are among them.
func (m *Memory) Live(store ledger.ID, at ledger.Revision) []Version {
	s := m.stores[store]
	if s == nil {
		return nil
	}
	var live []Version
	for _, versions := range s.tuples {
		for i := len(versions) - 1; i >= 0; i-- {
			if v := versions[i]; v.Revision <= at {
				if v.Live {
					live = append(live, v)
				}
				break
			}
		}
	}
	slices.SortFunc(live, func(a, b Version) int { return a.Tuple.Compare(b.Tuple) })
	return live
}

// ModelAt returns the model that was the store's newest at the revision, nil if it had none.
func (m *Memory) ModelAt(store ledger.ID, at ledger.Revision) *model.Model {
	var newest *model.Model
	if s := m.stores[store]; s != nil {
		for _, w := range s.models {
			if w.revision <= at {
				newest = w.model
			}
		}
	}
	return newest
}
