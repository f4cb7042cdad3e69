package index

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// open opens the index on fs and closes it when the test ends, unless it was closed.
func open(tb testing.TB, fs vfs.FS) *Index {
	tb.Helper()
	x, err := Open(Options{Dir: "index", FS: fs, Logger: quiet, CacheBytes: 8 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if !x.closed {
			closeIndex(tb, x)
		}
	})
	return x
}

// closeIndex closes x; Pebble complains if an iterator was leaked.
func closeIndex(tb testing.TB, x *Index) {
	tb.Helper()
	if err := x.Close(); err != nil {
		tb.Fatal(err)
	}
}

func mustParse(tb testing.TB, text string) tuple.Tuple {
	tb.Helper()
	t, err := tuple.Parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// companyModel is a model with folders, documents and groups.
func companyModel(tb testing.TB) []byte {
	tb.Helper()
	members := []model.Direct{{Type: "user"}, {Type: "group", Relation: "member"}}
	m := &model.Model{Schema: "1.1", Types: []model.Type{
		{Name: "user"},
		{Name: "group", Relations: []model.Relation{{Name: "member", Rule: model.Rule{Op: model.This}, Direct: members}}},
		{Name: "doc", Relations: []model.Relation{
			{Name: "owner", Rule: model.Rule{Op: model.This}, Direct: members},
			{Name: "viewer", Rule: model.Rule{Op: model.This}, Direct: append(members[:2:2], model.Direct{Type: "user", Wildcard: true})},
		}},
	}}
	compiled := model.AppendModel(nil, m)
	if _, err := model.DecodeModel(compiled); err != nil {
		tb.Fatal(err)
	}
	return compiled
}

// A world is a made-up log: each input is the command of one message.
type world struct {
	inputs []decide.Input
	stores []ledger.ID
	pool   []tuple.Tuple           // what is granted and revoked
	models []ledger.ID             // of all stores
	first  map[ledger.ID]ledger.ID // model of each store
}

func bytes16(r *rand.Rand) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], r.Uint64())
	binary.BigEndian.PutUint64(id[8:], r.Uint64())
	return id
}

// newWorld makes a log of n commands and some more: stores that come and go, models,
// grants, revokes, retries, conflicts, and bytes that are no command.
func newWorld(tb testing.TB, seed uint64, n int) *world {
	tb.Helper()
	return newSteadyWorld(tb, seed, n, false)
}

// newSteadyWorld is newWorld, in which perhaps half of all is of the second store, which
// stays.
func newSteadyWorld(tb testing.TB, seed uint64, n int, steady bool) *world {
	tb.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{first: map[ledger.ID]ledger.ID{}}
	compiled := companyModel(tb)
	for o := range 6 {
		for s := range 8 {
			w.pool = append(w.pool,
				mustParse(tb, fmt.Sprintf("doc:d%d#viewer@user:u%d", o, s)),
				mustParse(tb, fmt.Sprintf("doc:d%d#owner@group:g%d#member", o, s)),
				mustParse(tb, fmt.Sprintf("group:g%d#member@user:u%d", o, s)))
		}
		w.pool = append(w.pool, mustParse(tb, fmt.Sprintf("doc:d%d#viewer@user:*", o)))
	}
	now := int64(1_700_000_000_000_000_000)
	actors := []string{"ann", "bob", "ci"}
	add := func(c ledger.Command) {
		now += r.Int64N(3) * 1e9 // some entries share a time
		raw := ledger.AppendCommand(nil, &c)
		w.inputs = append(w.inputs, decide.Input{
			Kind:   ledger.EdgeSubject,
			Origin: ledger.Origin{Actor: actors[r.IntN(len(actors))], Attester: "edge-1", Method: ledger.MethodNone},
			Raw:    raw, Time: now - r.Int64N(2)*1e9, Version: ledger.NewestFoldVersion,
		})
	}
	system := func(ch ledger.Change) {
		add(ledger.Command{ID: bytes16(r), Store: ledger.System, Reason: "test", Changes: []ledger.Change{ch}})
	}
	writeModel := func(store ledger.ID) {
		w.models = append(w.models, bytes16(r))
		if w.first[store].IsZero() {
			w.first[store] = w.models[len(w.models)-1]
		}
		add(ledger.Command{ID: bytes16(r), Store: store, Changes: []ledger.Change{{Kind: ledger.WriteModel,
			Model: ledger.ModelSource{ID: w.models[len(w.models)-1], Kind: ledger.SourceDSL, Source: []byte("model"), Compiled: compiled}}}})
	}
	create := func() {
		id := ledger.ID(bytes16(r))
		w.stores = append(w.stores, id)
		system(ledger.Change{Kind: ledger.CreateStore, Store: id, Name: fmt.Sprintf("store %d", len(w.stores)), Admin: "ann"})
		writeModel(id)
	}
	create()
	create()
	for range n {
		store := w.stores[r.IntN(len(w.stores))]
		if steady && r.IntN(2) == 0 {
			store = w.stores[1]
		}
		switch k := r.IntN(100); {
		case k < 2:
			create()
		case k < 3 && !(steady && store == w.stores[1]):
			system(ledger.Change{Kind: ledger.DeleteStore, Store: store})
		case k < 5:
			writeModel(store)
		case k < 9: // a retry, often by the same actor
			again := w.inputs[r.IntN(len(w.inputs))]
			again.Time = now
			w.inputs = append(w.inputs, again)
		case k < 11:
			w.inputs = append(w.inputs, decide.Input{Kind: ledger.PrincipalSubject, Raw: []byte{0xff, byte(k)}, Time: now, Version: ledger.NewestFoldVersion,
				Origin: ledger.Origin{Actor: "bob", Attester: "grantlog.main.cmd.bob", Method: ledger.MethodNATS}})
		case k < 12:
			cuts := make([]ledger.Cut, len(w.inputs)) // the epochs grow, by leaps
			for i := range cuts {
				cuts[i] = ledger.Cut{From: 2, To: 2}
			}
			add(ledger.Command{ID: bytes16(r), Store: ledger.System, Changes: []ledger.Change{{Kind: ledger.AdvanceEpoch,
				Epoch: ledger.Epoch{Number: uint64(len(cuts)), Cuts: cuts}}}})
			w.inputs[len(w.inputs)-1].Kind = ledger.EpochSubject
		case k < 18: // of one model mostly, so that they meet
			model := w.first[store]
			if r.IntN(4) == 0 {
				model = w.models[r.IntN(len(w.models))]
			}
			add(ledger.Command{ID: bytes16(r), Store: store, Changes: []ledger.Change{{Kind: ledger.WriteAssertions,
				Model: ledger.ModelSource{ID: model}, Assertions: []byte([]string{"", "a", "b"}[r.IntN(3)])}}})
		default:
			c := ledger.Command{ID: bytes16(r), Store: store, Ticket: []string{"", "OPS-1", "OPS-2"}[r.IntN(3)], Channel: []string{"", "console"}[r.IntN(2)]}
			among, longest := len(w.pool), int64(100)
			if steady && r.IntN(2) == 0 { // a few, so that they expire just when they are asked for
				among, longest = 6, 8
			}
			for _, i := range r.Perm(among)[:1+r.IntN(4)] {
				ch := ledger.Change{Kind: ledger.Grant, Tuple: w.pool[i]}
				switch r.IntN(5) {
				case 0, 1:
					ch = ledger.Change{Kind: ledger.Revoke, Tuple: w.pool[i]}
				case 2:
					ch.Grant.Owner = "team " + string(rune('a'+r.IntN(3)))
					ch.ExpiresAfter = (1 + r.Int64N(longest)) * 1e9 // log times are whole seconds too
				}
				c.Changes = append(c.Changes, ch)
			}
			add(c)
		}
	}
	return w
}

// position is where a replica stands after n messages of the world.
func (w *world) position(n int, epoch uint64) ledger.Position {
	chain := func(n int) ledger.Hash { return sha256.Sum256([]byte{byte(n), byte(n >> 8)}) }
	return ledger.Position{Log: ledger.UUID{1}, Seq: uint64(n), Before: chain(n - 1), Chain: chain(n), Epoch: epoch, Fold: ledger.FoldVersion}
}

// fold folds the messages from where x stands up to number to, in batches whose sizes
// size gives.
func (w *world) fold(tb testing.TB, x *Index, to int, size func() int) {
	tb.Helper()
	for at := int(x.Position().Seq); at < to; {
		b := x.NewBatch()
		for n := max(size(), 1); n > 0 && at < to; n-- {
			w.append(tb, b, at)
			at++
		}
		if err := b.Commit(w.position(at, b.Epoch())); err != nil {
			tb.Fatal(err)
		}
	}
}

// append decides and appends message number i, counted from 0.
func (w *world) append(tb testing.TB, b *Batch, i int) {
	tb.Helper()
	in := w.inputs[i]
	records, err := decide.Decide(b, in)
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range records {
		if _, _, err := b.Append(r, in.Origin, in.Raw, in.Version); err != nil {
			tb.Fatal(err)
		}
	}
}

// memory folds the first n messages into the reference.
func (w *world) memory(tb testing.TB, n int) *decide.Memory {
	tb.Helper()
	m := decide.NewMemory()
	for _, in := range w.inputs[:n] {
		if _, err := m.Fold(in); err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

func every(n int) func() int { return func() int { return n } }

func digest(tb testing.TB, x *Index) ledger.Hash {
	tb.Helper()
	h, _, err := x.Digest(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func scrub(tb testing.TB, x *Index) {
	tb.Helper()
	if err := x.Scrub(context.Background()); err != nil {
		tb.Fatal(err)
	}
}
