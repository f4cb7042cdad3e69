package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

var quiet = slog.New(slog.DiscardHandler)

const (
	start  = int64(1_700_000_000_000_000_000)
	second = int64(1_000_000_000)
)

// A world is a replica that a made-up log was folded into.
type world struct {
	tb    testing.TB
	x     *index.Index
	batch *index.Batch
	rnd   *rand.Rand
	time  int64
	seq   uint64
	sent  []ledger.Command

	objects int // that the tuples are of, beside one of a type that the model lacks
}

var (
	acme  = ledger.ID{0: 1, 15: 1} // the store that is exported
	other = ledger.ID{0: 1, 15: 2}
)

// testKey returns the key of that name, always the same.
func testKey(tb testing.TB, name string) seal.PrivateKey {
	tb.Helper()
	key, err := seal.GenerateKey(bytes.NewReader(bytes.Repeat([]byte(name[:1]), 32)), name)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// scratch returns the options of an empty index.
func scratch(tb testing.TB) *index.Options {
	return &index.Options{Dir: tb.TempDir(), CacheBytes: 4 << 20, Logger: quiet}
}

func newEmptyWorld(tb testing.TB) *world {
	tb.Helper()
	x, err := index.Open(*scratch(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := x.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &world{tb: tb, x: x, rnd: rand.New(rand.NewPCG(1, 2)), time: start, objects: 4}
}

// newWorld makes a store with n entries of every kind, or a few more, and a few in others.
func newWorld(tb testing.TB, n ledger.Revision) *world {
	tb.Helper()
	w := newEmptyWorld(tb)
	w.grow(n)
	return w
}

// grow gives an empty world its stores and entries.
func (w *world) grow(n ledger.Revision) {
	w.activate()
	for _, store := range []ledger.ID{acme, other} {
		w.system(ledger.Change{Kind: ledger.CreateStore, Store: store, Name: "a store", Admin: "root"})
	}
	w.send(&ledger.Command{ID: w.id(), Store: acme, Changes: []ledger.Change{w.grant()}}) // no model yet
	w.writeModel(1)
	for i := byte(2); w.revision(acme) < n; i++ {
		if i%40 == 0 {
			w.writeModel(i)
		}
		w.send(w.command())
	}
	w.commit()
}

func (w *world) id() (id ledger.UUID) {
	binary.BigEndian.PutUint64(id[:], w.rnd.Uint64())
	binary.BigEndian.PutUint64(id[8:], w.rnd.Uint64())
	return id
}

func pick[T any](w *world, from ...T) T { return from[w.rnd.IntN(len(from))] }

func (w *world) system(ch ledger.Change) {
	w.send(&ledger.Command{ID: w.id(), Changes: []ledger.Change{ch}})
}

// activate puts the newest fold version in force.
func (w *world) activate() {
	c := &ledger.Command{ID: w.id(), Changes: []ledger.Change{{Kind: ledger.Activate, Version: ledger.NewestFoldVersion}}}
	w.fold(ledger.AppendCommand(nil, c), ledger.Origin{Actor: "ops", Attester: "grantlog.main.activate", Method: ledger.MethodNone})
}

func (w *world) writeModel(n byte) {
	this := model.Rule{Op: model.This}
	m := &model.Model{Schema: "1.1",
		Types: []model.Type{{Name: "doc", Relations: []model.Relation{{Name: "viewer", Rule: this, Direct: []model.Direct{
			{Type: "user"}, {Type: "user", Wildcard: true}, {Type: "user", Condition: "office"}}}}}, {Name: "user"}},
		Conditions: []model.Condition{{Name: "office", Expression: "hour < 17", Params: []model.Param{{Name: "hour", Type: model.ParamType{Kind: model.ParamInt}}}}},
	}
	w.send(&ledger.Command{ID: w.id(), Store: acme, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: ledger.ModelSource{
		ID: ledger.ID{0: 9, 15: n}, Kind: ledger.SourceDSL, Source: []byte("m"), Compiled: model.AppendModel(nil, m)}}}})
}

func (w *world) tuple() tuple.Tuple {
	return tuple.Tuple{
		Object:   tuple.Object{Type: pick(w, "doc", "doc", "doc", "doc", "doc", "doc", "file"), ID: fmt.Sprintf("d%d", w.rnd.IntN(w.objects))},
		Relation: "viewer", Subject: tuple.Subject{Type: "user", ID: pick(w, "ann", "bob", "*", "dee")},
	}
}

func (w *world) grant() ledger.Change {
	ch := ledger.Change{Kind: ledger.Grant, Tuple: w.tuple()}
	switch w.rnd.IntN(6) {
	case 0:
		ch.Grant.Condition = pick(w, "office", "other")
		if w.rnd.IntN(2) == 0 {
			v, err := model.ParseJSON([]byte(`{"hour":9}`))
			if err != nil {
				w.tb.Fatal(err)
			}
			ch.Grant.Context = model.AppendContext(nil, v)
		}
	case 1:
		ch.ExpiresAfter = 1 + w.rnd.Int64N(20)*second
	case 2:
		ch.Grant.ExpiresAt = w.time + w.rnd.Int64N(40)*second
		ch.Grant.NotBefore = w.time
	case 3:
		ch.Grant.Owner = "it"
	}
	return ch
}

// command returns a command of any kind.
func (w *world) command() *ledger.Command {
	if len(w.sent) > 8 && w.rnd.IntN(5) == 0 { // again, perhaps with other content
		c := pick(w, w.sent[len(w.sent)-8:]...)
		c.Ticket = pick(w, c.Ticket, c.Ticket, "T-2")
		return &c
	}
	c := &ledger.Command{ID: w.id(), Store: pick(w, acme, acme, acme, acme, other), Ticket: pick(w, "", "T-1"), Reason: pick(w, "", "why not")}
	if w.rnd.IntN(16) == 0 {
		c.Changes = []ledger.Change{{Kind: ledger.WriteAssertions, Model: ledger.ModelSource{ID: ledger.ID{0: 9, 15: 1}}, Assertions: []byte(pick(w, "", "a", "b"))}}
		w.sent = append(w.sent, *c)
		return c
	}
	for range 1 + w.rnd.IntN(2) {
		ch := w.grant()
		if w.rnd.IntN(3) == 0 {
			ch = ledger.Change{Kind: ledger.Revoke, Tuple: w.tuple()}
		}
		if len(c.Changes) == 0 || c.Changes[0].Tuple != ch.Tuple {
			c.Changes = append(c.Changes, ch)
		}
	}
	if w.rnd.IntN(8) == 0 {
		c.Preconditions = []ledger.Precondition{{Tuple: w.tuple(), MustExist: w.rnd.IntN(2) == 0}}
	}
	w.sent = append(w.sent, *c)
	return c
}

// send folds one command.
func (w *world) send(c *ledger.Command) {
	w.fold(ledger.AppendCommand(nil, c), ledger.Origin{Actor: pick(w, "ann", "bob"), Attester: "grantlog.main.edge.a", Method: ledger.MethodNone})
}

func (w *world) fold(raw []byte, o ledger.Origin) {
	w.tb.Helper()
	if w.batch == nil {
		w.batch = w.x.NewBatch()
		w.tb.Cleanup(func() { w.commit() })
	}
	kind, _ := ledger.ParseSubject(o.Attester)
	w.time += w.rnd.Int64N(3) * second
	in := decide.Input{Kind: kind, Origin: o, Raw: raw, Time: w.time, Version: w.batch.Fold()}
	records, err := decide.Decide(w.batch, in)
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, r := range records {
		if _, _, err := w.batch.Append(r, o, raw, in.Version); err != nil {
			w.tb.Fatal(err)
		}
	}
}

func (w *world) commit() {
	w.tb.Helper()
	if w.batch == nil {
		return
	}
	w.seq++
	if err := w.batch.Commit(ledger.Position{Seq: w.seq}); err != nil {
		w.tb.Fatal(err)
	}
	w.batch = nil
}

// revision returns the newest revision of the store.
func (w *world) revision(store ledger.ID) ledger.Revision {
	if w.batch != nil {
		h, _ := w.batch.Head(store)
		return h.Revision
	}
	h, _ := w.x.Head(store)
	return h.Revision
}

// view returns a view of the store at the revision, that ends with the test.
func (w *world) view(store ledger.ID, rev ledger.Revision) *index.View {
	w.tb.Helper()
	v, err := w.x.View(store, rev)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(v.Close)
	return v
}

// checkpoint returns the checkpoint of the store at a size, signed by the key.
func (w *world) checkpoint(key seal.PrivateKey, store ledger.ID, size ledger.Revision) []byte {
	w.tb.Helper()
	root, err := w.view(store, size).Root()
	if err != nil {
		w.tb.Fatal(err)
	}
	note, err := key.Sign(store, size, root)
	if err != nil {
		w.tb.Fatal(err)
	}
	return note
}

// export returns the bundle of the entries from first to last, under the checkpoint of a
// tree of that size.
func (w *world) export(key seal.PrivateKey, store ledger.ID, first, last, size ledger.Revision) []byte {
	w.tb.Helper()
	t, err := NewTrailer(w.view(store, size), last, w.checkpoint(key, store, size), key.Key)
	if err != nil {
		w.tb.Fatal(err)
	}
	var out bytes.Buffer
	done := uint64(0)
	err = Export(context.Background(), Header{store, first, last}, t, func(context.Context) (*index.View, error) { return w.x.View(store, 0) },
		func(chunk []byte, n uint64) error {
			if len(chunk) == 0 || len(chunk) > MaxChunk || n < done {
				return fmt.Errorf("a chunk of %d bytes, %d entries done after %d", len(chunk), n, done)
			}
			done = n
			out.Write(chunk)
			return nil
		})
	if err != nil {
		w.tb.Fatal(err)
	}
	if done != uint64(last-first+1) {
		w.tb.Fatalf("done is %d in the end, of %d entries", done, last-first+1)
	}
	return out.Bytes()
}

// entries returns the entries of a bundle, whose form must be right, and its trailer.
func entries(tb testing.TB, bundle []byte) ([]*ledger.Entry, Trailer) {
	tb.Helper()
	r, err := NewReader(bytes.NewReader(bundle))
	if err != nil {
		tb.Fatal(err)
	}
	var all []*ledger.Entry
	for leaf, err := range r.Entries() {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, leaf.Entry)
	}
	t, err := r.Trailer()
	if err != nil {
		tb.Fatal(err)
	}
	return all, t
}

// verify runs Verify on a bundle.
func verify(bundle []byte, o Options) (Result, error) {
	o.Part = true // bundles of every kind are looked at; what is not whole has a test of its own
	return Verify(context.Background(), io.Reader(bytes.NewReader(bundle)), o)
}
