package index

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/ledger/tuple"
	"golang.org/x/mod/sumdb/tlog"
)

// A View is a store as it was just after one of its revisions. It implements
// [model.Reader] and [tlog.HashReader]. What it answers never changes, and never
// shares memory with the index.
//
// A View is cheap to make and must be closed; while it is open, files and memory that
// it may still read are kept. It is used by one goroutine at a time.
type View struct {
	x     *Index
	r     *readers
	head  *head // of the store when the view was made
	rev   ledger.Revision
	log   ledger.UUID
	epoch uint64
	at    *moment // of rev, once it was needed

	// Stop, if it is set, is called every few hundred rows that a scan passes, dead ones
	// too. Its error ends the scan.
	Stop func() error
}

// stopEvery is how many rows a scan passes between two calls of View.Stop.
const stopEvery = 512

var (
	_ model.Reader    = (*View)(nil)
	_ tlog.HashReader = (*View)(nil)
)

// View returns the store as of rev, or as of its newest committed revision for 0. A
// store that never was is a [ledger.ErrNotFound], a revision that is not folded yet a
// [ledger.ErrUnavailable]. A deleted store has views; what may be asked is the caller's
// business, see [View.Status].
func (x *Index) View(store ledger.ID, rev ledger.Revision) (*View, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	h := x.heads[store]
	switch {
	case x.closed:
		return nil, fmt.Errorf("%w: the index is closed", ledger.ErrUnavailable)
	case h == nil:
		return nil, fmt.Errorf("store %s: %w", store, ledger.ErrNotFound)
	case rev > h.Revision:
		return nil, fmt.Errorf("%w: revision %d of store %s is not applied here yet, %d is", ledger.ErrUnavailable, rev, store, h.Revision)
	case rev == 0:
		rev = h.Revision
	}
	r, err := x.acquireLocked()
	if err != nil {
		return nil, err
	}
	return &View{x: x, r: r, head: h, rev: rev, log: x.position.Log, epoch: x.position.Epoch}, nil
}

// ViewAt returns the store as of a time in nanoseconds since the Unix epoch: at the
// revision that [View.RevisionAt] has for it, which is 0 before the first entry. If the
// time is not before that of the view's Head, entries to come may still have been due by
// then.
func (x *Index) ViewAt(store ledger.ID, at int64) (*View, error) {
	v, err := x.View(store, 0)
	if err != nil || at >= v.head.Time || v.head.Revision == 0 {
		return v, err
	}
	m, err := v.momentAt(at)
	if err != nil {
		v.Close()
		return nil, err
	}
	v.rev, v.at = 0, m
	if m != nil {
		v.rev = m.rev
	}
	return v, nil
}

// At returns another view of the store, as of a revision from 1 to that of the head
// that v has; any other is a [ledger.ErrNotFound]. The caller closes it. It has the same
// head, whatever was committed meanwhile, and its Stop is v's.
func (v *View) At(rev ledger.Revision) (*View, error) {
	if rev == 0 || rev > v.head.Revision {
		return nil, fmt.Errorf("revision %d of store %s at %d: %w", rev, v.head.Store, v.head.Revision, ledger.ErrNotFound)
	}
	r, err := v.x.acquire()
	if err != nil {
		return nil, err
	}
	return &View{x: v.x, r: r, head: v.head, rev: rev, log: v.log, epoch: v.epoch, Stop: v.Stop}, nil
}

// Close ends the view. Closing twice does nothing.
func (v *View) Close() {
	if v.r != nil {
		v.x.release(v.r)
		v.r = nil
	}
}

// Store returns the id of the store.
func (v *View) Store() ledger.ID { return v.head.Store }

// Revision returns the revision the view is of.
func (v *View) Revision() ledger.Revision { return v.rev }

// Head returns the store as it was when the view was made, which may be later than
// the revision the view is of.
func (v *View) Head() Head { return v.head.Head }

// Status returns what the store was when the view was made, whatever the revision:
// a deleted store is closed for questions about its past too.
func (v *View) Status() decide.Status { return v.head.Status }

// Epoch returns the number of losses of the log that had been accepted when the view
// was made.
func (v *View) Epoch() uint64 { return v.epoch }

// Time returns the log time of the view's revision, in nanoseconds since the Unix
// epoch; 0 at revision 0.
func (v *View) Time() (int64, error) {
	at, err := v.moment(v.rev)
	return at.time, err
}

// TimeOf returns the log time of a revision up to the view's, as Time does.
func (v *View) TimeOf(rev ledger.Revision) (int64, error) {
	at, err := v.moment(rev)
	return at.time, err
}

// Leaf returns the leaf hash of a revision up to the view's; zero for 0.
func (v *View) Leaf(rev ledger.Revision) (ledger.Hash, error) {
	at, err := v.moment(rev)
	return at.leaf, err
}

// Token returns the token of the view's revision.
func (v *View) Token() (ledger.Token, error) {
	at, err := v.moment(v.rev)
	if err != nil {
		return ledger.Token{}, err
	}
	return ledger.Token{Log: v.log, Store: v.head.Store, Epoch: v.epoch, Revision: v.rev, Leaf: [8]byte(at.leaf[:])}, nil
}

// Grant returns what t was granted with, or false if it was not live at the view's
// revision. Whether the grant has expired is not looked at.
func (v *View) Grant(t tuple.Tuple) (model.Grant, bool, error) {
	row, err := v.newestOf(t, v.rev)
	if err != nil || !row.live {
		return model.Grant{}, false, err
	}
	grant, err := row.decode()
	return grant, err == nil, err
}

// newestOf returns the newest version of t up to rev, of revision 0 if there is none. It
// is valid until the next find.
//
// It looks for the newest version at the head, and in that for the one that counts, as a
// scan does: Pebble keeps the values of older versions apart from their keys, and they
// cost more to read.
func (v *View) newestOf(t tuple.Tuple, rev ledger.Revision) (storedVersion, error) {
	row, err := v.r.version(v.head.Store, t, v.head.Revision)
	if err != nil {
		return storedVersion{}, err
	}
	held, err := row.backTo(rev)
	switch {
	case held:
		return row, nil
	case err == nil && row.more:
		return v.r.version(v.head.Store, t, rev)
	}
	return storedVersion{}, err
}

// Granted returns the version of t that was live at the view's revision, or false.
// Whether the grant has expired is not looked at.
func (v *View) Granted(t tuple.Tuple) (Granted, bool, error) {
	n, ok, err := v.Newest(t)
	return Granted{t, n.Grant, n.Revision}, ok && n.Live, err
}

// Newest returns the newest version of t up to the view's revision, live or not; false
// if t was never granted by then.
func (v *View) Newest(t tuple.Tuple) (Version, bool, error) { return v.NewestUpTo(t, v.rev) }

// NewestUpTo is Newest as of an earlier revision; a later one than the view's is that.
func (v *View) NewestUpTo(t tuple.Tuple, rev ledger.Revision) (Version, bool, error) {
	row, err := v.newestOf(t, min(rev, v.rev))
	if err != nil || row.rev == 0 {
		return Version{}, false, err
	}
	n := Version{Tuple: t, Revision: row.rev, Live: row.live}
	n.Grant, err = row.decode()
	return n, err == nil, err
}

// Subjects calls yield for each live grant of relation on o to subjects of type stype
// with the relation srel, whose id comes after the given one, in order of subject id,
// until yield returns false. Yield may ask the view. The cost follows the tuples that the
// run of subjects has had, dead ones too: of each one version is read, or at a past
// revision two if it had very many since.
func (v *View) Subjects(o tuple.Object, relation, stype, srel, after string, yield func(tuple.Subject, model.Grant) bool) error {
	return v.live(func(dst []byte) []byte { return appendSubjects(dst, v.head.Store, o, relation, stype, srel) }, after,
		func(id []byte, _ ledger.Revision, grant model.Grant) bool {
			return yield(tuple.Subject{Type: stype, ID: string(id[:len(id)-1]), Relation: srel}, grant)
		})
}

// Objects calls yield for each live grant of relation to s on objects of type otype
// whose id comes after the given one, in order of object id, as Subjects does.
func (v *View) Objects(s tuple.Subject, otype, relation, after string, yield func(tuple.Object, model.Grant) bool) error {
	return v.live(func(dst []byte) []byte { return appendObjects(dst, v.head.Store, s, otype, relation) }, after,
		func(id []byte, _ ledger.Revision, grant model.Grant) bool {
			return yield(tuple.Object{Type: otype, ID: string(id[:len(id)-1])}, grant)
		})
}

// A Granted is a live version of a tuple.
type Granted struct {
	Tuple    tuple.Tuple
	Grant    model.Grant
	Revision ledger.Revision // that granted it
}

// Tuples calls yield for each live tuple whose key begins with the prefix, after the
// given one unless it is zero, which must have the prefix, until yield returns false. Yield may ask
// the view. The cost is that of Subjects.
func (v *View) Tuples(p Prefix, after tuple.Tuple, yield func(Granted) bool) error {
	var failed error
	rest := ""
	if after != (tuple.Tuple{}) {
		prefix, key := p.append(nil, v.head.Store), p.key(nil, v.head.Store, after)
		if !p.Has(after) {
			return fmt.Errorf("tuple %s is none of those that are read", after)
		}
		if len(key)-versioned == len(prefix) {
			return nil // the prefix is the whole of it, and nothing comes after
		}
		rest = string(key[len(prefix) : len(key)-versioned-1])
	}
	var key []byte
	err := v.live(func(dst []byte) []byte { return p.append(dst, v.head.Store) }, rest,
		func(suffix []byte, rev ledger.Revision, grant model.Grant) bool {
			key = append(p.append(key[:0], v.head.Store), suffix...)
			_, t, _, err := decodeTuple(appendVersion(key, rev))
			if err != nil {
				failed = err
				return false
			}
			return yield(Granted{t, grant, rev})
		})
	return errors.Join(err, failed)
}

// A Version is a tuple as a revision made it: granted, or no longer so.
type Version struct {
	Tuple    tuple.Tuple
	Revision ledger.Revision
	Live     bool        // false: the revision revoked it
	Grant    model.Grant // what it was granted with, if it is live
}

// Versions calls yield for each version, dead ones too, up to the view's revision of
// each tuple whose key begins with the prefix, until yield returns false: tuples in the
// order of Tuples, and of each the newest version first. Yield may ask the view.
func (v *View) Versions(p Prefix, yield func(Version) bool) error {
	s, err := v.r.begin()
	if err != nil {
		return err
	}
	defer v.r.end()
	s.prefix = p.append(s.prefix[:0], v.head.Store)
	s.seek = append(s.seek[:0], s.prefix...)
	if s.seek[len(s.seek)-1] != plain {
		s.seek = append(s.seek, plain)
	}
	passed := 0
	for ok := s.SeekGE(s.seek); ok; {
		key := s.Key()
		if !bytes.HasPrefix(key, s.prefix) {
			break
		}
		if passed++; passed%stopEvery == 0 && v.Stop != nil {
			if err := v.Stop(); err != nil {
				return err
			}
		}
		if version(key) > v.rev {
			s.seek = appendVersion(append(s.seek[:0], key[:len(key)-versioned]...), v.rev)
			ok = s.SeekGE(s.seek)
			continue
		}
		value, err := s.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		var n Version
		if _, n.Tuple, n.Revision, err = decodeTuple(key); err != nil {
			return err
		}
		if n.Grant, n.Live, err = decodeVersion(value); err != nil {
			return err
		}
		if !yield(n) {
			return nil
		}
		ok = s.Next()
	}
	return readError(s.Error())
}

// NewestVersions is Versions with the newest version of each tuple alone. The cost is
// that of Tuples.
func (v *View) NewestVersions(p Prefix, yield func(Version) bool) error {
	var failed error
	var key []byte
	err := v.newest(func(dst []byte) []byte { return p.append(dst, v.head.Store) }, "",
		func(suffix []byte, rev ledger.Revision, live bool, grant model.Grant) bool {
			key = append(p.append(key[:0], v.head.Store), suffix...)
			n := Version{Revision: rev, Live: live, Grant: grant}
			if _, n.Tuple, _, failed = decodeTuple(appendVersion(key, rev)); failed != nil {
				return false
			}
			return yield(n)
		})
	return errors.Join(err, failed)
}

// live is newest for the versions that are live.
func (v *View) live(prefix func(dst []byte) []byte, after string, yield func(rest []byte, rev ledger.Revision, grant model.Grant) bool) error {
	return v.newest(prefix, after, func(rest []byte, rev ledger.Revision, live bool, grant model.Grant) bool {
		return !live || yield(rest, rev, grant)
	})
}

// newest calls yield for the newest version of each of the rows with a prefix, in order,
// until it returns false: with what follows the prefix, without the version. The rows wanted
// come after the text after, if it is not empty, which lacks the zero byte at its end.
func (v *View) newest(prefix func(dst []byte) []byte, after string, yield func(rest []byte, rev ledger.Revision, live bool, grant model.Grant) bool) error {
	s, err := v.r.begin()
	if err != nil {
		return err
	}
	defer v.r.end()
	s.prefix = prefix(s.prefix[:0])
	s.seek = append(s.seek[:0], s.prefix...)
	if after != "" {
		s.seek = append(append(s.seek, after...), 1) // past its zero byte; no other row begins so
	}
	if s.seek[len(s.seek)-1] != plain { // as every key that is sought must end
		s.seek = append(s.seek, plain)
	}
	passed := 0
	for ok := s.SeekGE(s.seek); ok; {
		key := s.Key()
		if !bytes.HasPrefix(key, s.prefix) {
			break
		}
		if passed++; passed%stopEvery == 0 && v.Stop != nil {
			if err := v.Stop(); err != nil {
				return err
			}
		}
		value, err := s.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		row, err := parseVersion(version(key), value)
		if err != nil {
			return err
		}
		held, err := row.backTo(v.rev)
		if err != nil {
			return err
		}
		if !held {
			if row.more { // and far
				s.seek = appendVersion(append(s.seek[:0], key[:len(key)-versioned]...), v.rev)
				ok = s.SeekGE(s.seek)
			} else {
				ok = s.NextPrefix()
			}
			continue
		}
		grant, err := row.decode()
		if err != nil {
			return err
		}
		if !yield(key[len(s.prefix):len(key)-versioned], row.rev, row.live, grant) {
			return nil
		}
		ok = s.NextPrefix()
	}
	return readError(s.Error())
}

// Models returns the store's models up to the view's revision, oldest first. The
// caller must not change them.
func (v *View) Models() []ModelAt {
	n := v.modelCount()
	models := make([]ModelAt, n)
	for i, m := range v.head.models[:n] {
		models[i] = m.ModelAt
	}
	return models
}

// modelCount returns how many of the head's models the view has.
func (v *View) modelCount() int {
	n := len(v.head.models)
	for n > 0 && v.head.models[n-1].Revision > v.rev {
		n--
	}
	return n
}

// NewestModel returns the id of the newest model, zero if there is none.
func (v *View) NewestModel() ledger.ID {
	if n := v.modelCount(); n > 0 {
		return v.head.models[n-1].ID
	}
	return ledger.ID{}
}

// ModelRevision returns the revision that wrote the newest model, 0 if there is none.
func (v *View) ModelRevision() ledger.Revision {
	if n := v.modelCount(); n > 0 {
		return v.head.models[n-1].Revision
	}
	return 0
}

// FirstModel returns the revision that wrote the first model of the head, 0 if it has none.
// It may be after the view's.
func (v *View) FirstModel() ledger.Revision {
	if len(v.head.models) == 0 {
		return 0
	}
	return v.head.models[0].Revision
}

// Model returns the model of that id, or the newest for the zero id, as of the view's
// revision; nil if there is none. A model is decoded once and shared.
func (v *View) Model(id ledger.ID) (*model.Model, error) {
	m := newestModel(v.head.models[:v.modelCount()], id)
	if m == nil {
		return nil, nil
	}
	return v.x.parsed.model(m, v.r, v.head.Store)
}

// newestModel returns the model of that id, the last for the zero id, or nil.
func newestModel(models []*modelAt, id ledger.ID) *modelAt {
	for i := len(models) - 1; i >= 0; i-- {
		if id.IsZero() || models[i].ID == id {
			return models[i]
		}
	}
	return nil
}

// ModelSource returns the model of that id as it was written, or the newest for the
// zero id, and its revision. A model the view does not have is a [ledger.ErrNotFound].
func (v *View) ModelSource(id ledger.ID) (ledger.ModelSource, ledger.Revision, error) {
	m := newestModel(v.head.models[:v.modelCount()], id)
	if m == nil {
		return ledger.ModelSource{}, 0, fmt.Errorf("model %s of store %s: %w", id, v.head.Store, ledger.ErrNotFound)
	}
	source, err := v.r.modelSource(v.head.Store, m.Revision)
	source.Source = bytes.Clone(source.Source)
	source.Compiled = bytes.Clone(source.Compiled)
	return source, m.Revision, err
}

// modelSource reads the model written at rev. It is valid until the next find.
func (r *readers) modelSource(store ledger.ID, rev ledger.Revision) (ledger.ModelSource, error) {
	r.key = appendByRevision(r.key[:0], familyModel, store, rev)
	value, err := r.find(r.key)
	if err != nil {
		return ledger.ModelSource{}, err
	}
	if value == nil {
		return ledger.ModelSource{}, damaged("store %s lacks the model of revision %d", store, rev)
	}
	return decodeModel(value)
}

// Assertions returns the assertions that the model of that id had at the view's revision,
// and the revision that wrote them: nil if there are none, and 0 if there never were any,
// for a model that the view does not have too. The bytes are the caller's.
func (v *View) Assertions(model ledger.ID) ([]byte, ledger.Revision, error) {
	assertions, rev, err := v.r.assertions(v.head.Store, model, v.rev)
	return bytes.Clone(assertions), rev, err
}

// parsedModels bounds how many models are kept parsed.
type parsedModels struct {
	mu   sync.Mutex
	kept [256]*modelAt // a ring: the one that was parsed longest ago goes first
	next int
}

// model returns m, parsed.
func (p *parsedModels) model(m *modelAt, r *readers, store ledger.ID) (*model.Model, error) {
	if parsed := m.parsed.Load(); parsed != nil {
		return parsed, nil
	}
	source, err := r.modelSource(store, m.Revision)
	if err != nil {
		return nil, err
	}
	parsed, err := model.DecodeModel(source.Compiled)
	if err != nil {
		return nil, damaged("model %s of store %s: %s", m.ID, store, err)
	}
	return p.keep(m, parsed), nil
}

// keep keeps the parsed form of m, or the one that another goroutine kept meanwhile.
func (p *parsedModels) keep(m *modelAt, parsed *model.Model) *model.Model {
	p.mu.Lock()
	defer p.mu.Unlock()
	if first := m.parsed.Load(); first != nil {
		return first
	}
	m.parsed.Store(parsed)
	p.put(m)
	return parsed
}

// adopt counts in a model that came with its parsed form.
func (p *parsedModels) adopt(m *modelAt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(m)
}

func (p *parsedModels) put(m *modelAt) {
	if old := p.kept[p.next]; old != nil {
		old.parsed.Store(nil)
	}
	p.kept[p.next] = m
	p.next = (p.next + 1) % len(p.kept)
}

// Entry returns the entry at a revision up to the view's. Any other revision is a
// [ledger.ErrNotFound].
func (v *View) Entry(rev ledger.Revision) (*ledger.Entry, error) {
	if rev == 0 || rev > v.rev {
		return nil, fmt.Errorf("revision %d of store %s at %d: %w", rev, v.head.Store, v.rev, ledger.ErrNotFound)
	}
	v.r.key = appendByRevision(v.r.key[:0], familyEntry, v.head.Store, rev)
	value, err := v.r.find(v.r.key)
	if err != nil {
		return nil, err
	}
	return decodeEntry(value, v.head.Store, rev)
}

// Entries yields the entries from revision from up to the view's. A failure is yielded
// once, as the last element. The loop may ask the view.
func (v *View) Entries(from ledger.Revision) iter.Seq2[*ledger.Entry, error] {
	return func(yield func(*ledger.Entry, error) bool) {
		next := max(from, 1)
		stopped := false
		start := appendByRevision(nil, familyEntry, v.head.Store, next)
		end := append(appendByRevision(nil, familyEntry, v.head.Store, v.rev), plain) // just after the last
		err := v.r.scan(start, end, func(_, value []byte) (bool, error) {
			e, err := decodeEntry(value, v.head.Store, next)
			if err != nil {
				return false, err
			}
			next++
			stopped = !yield(e, nil)
			return !stopped, nil
		})
		if err == nil && !stopped && next <= v.rev {
			err = damaged("store %s lacks the entry of revision %d", v.head.Store, next)
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// decodeEntry reads the entry that must stand at rev.
func decodeEntry(value []byte, store ledger.ID, rev ledger.Revision) (*ledger.Entry, error) {
	if value == nil {
		return nil, damaged("store %s lacks the entry of revision %d", store, rev)
	}
	e, err := ledger.DecodeEntry(bytes.Clone(value))
	if err != nil {
		return nil, damaged("revision %d of store %s: %s", rev, store, err)
	}
	if e.Store != store || e.Revision != rev {
		return nil, damaged("revision %d of store %s holds revision %d of store %s", rev, store, e.Revision, e.Store)
	}
	return e, nil
}

// Root returns the root of the store's tree at the view's revision.
func (v *View) Root() (ledger.Hash, error) { return seal.Root(v.rev, v) }

// ReadHashes implements [tlog.HashReader] over the store's tree, for proofs.
func (v *View) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		rev, place := seal.Locate(index)
		if rev > v.rev {
			return nil, fmt.Errorf("hash %d of a tree of %d: %w", index, v.rev, ledger.ErrNotFound)
		}
		row, err := v.r.hashes(v.head.Store, rev)
		if err != nil {
			return nil, err
		}
		if len(row) < 32*(place+1)+8 {
			return nil, damaged("store %s lacks hash %d of revision %d", v.head.Store, place, rev)
		}
		hashes[i] = tlog.Hash(row.hash(place))
	}
	return hashes, nil
}
