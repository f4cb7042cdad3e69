package projector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector/index"
)

func patience(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// record is a store's entries as an export has them.
func record(t testing.TB, r *replica, store ledger.ID) [][]byte {
	t.Helper()
	var record [][]byte
	for _, e := range entriesOf(t, r.Index(), store) {
		record = append(record, ledger.AppendEntry(nil, e))
	}
	return record
}

func sequence(record [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, e := range record {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (r *replica) system(ch ledger.Change) ledger.Outcome {
	r.t.Helper()
	return r.submit(&ledger.Command{Store: ledger.System, Changes: []ledger.Change{ch}}).Outcome
}

// begin activates fold version 2 and begins to restore the store.
func (r *replica) begin(store ledger.ID) {
	r.t.Helper()
	if err := r.Activate(patience(r.t), 2, "ops", "to restore", "T-9"); err != nil {
		r.t.Fatal(err)
	}
	if o := r.system(ledger.Change{Kind: ledger.BeginRestore, Store: store}); o.Kind != ledger.Applied {
		r.t.Fatalf("begin: %s", &o)
	}
}

func (r *replica) end(store ledger.ID, deleted bool) {
	r.t.Helper()
	if o := r.system(ledger.Change{Kind: ledger.EndRestore, Store: store, Deleted: deleted}); o.Kind != ledger.Applied {
		r.t.Fatalf("end: %s", &o)
	}
}

// restoreAll restores the record as a whole.
func (r *replica) restoreAll(store ledger.ID, record [][]byte, deleted bool) {
	r.t.Helper()
	r.begin(store)
	var newest ledger.Revision
	if err := r.Restore(patience(r.t), store, sequence(record), func(rev ledger.Revision) { newest = rev }); err != nil {
		r.t.Fatal(err)
	}
	if newest != ledger.Revision(len(record)) {
		r.t.Fatalf("restored %d entries, was told %d", len(record), newest)
	}
	r.end(store, deleted)
}

// sameRecord fails unless the store is in both replicas the same, up to the entries of from.
func sameRecord(t testing.TB, from, to *replica, store ledger.ID) {
	t.Helper()
	want, got := record(t, from, store), record(t, to, store)
	if len(got) < len(want) || !slices.EqualFunc(want, got[:len(want)], bytes.Equal) {
		t.Fatalf("store %s has another record: %d entries, want %d", store, len(got), len(want))
	}
	a, _ := from.Index().Head(store)
	b, _ := to.Index().Head(store)
	if a.Name != b.Name || a.Admin != b.Admin || a.Created != b.Created || a.Deleted != b.Deleted || a.Status != b.Status {
		t.Errorf("store %s is %+v, want %+v", store, b, a)
	}
	// At every revision the same holds, with the same expiry: the versions are the same.
	for rev := ledger.Revision(1); int(rev) <= len(want); rev += 7 {
		if from, to := versionsAt(t, from.Index(), store, rev), versionsAt(t, to.Index(), store, rev); from != to {
			t.Fatalf("store %s, revision %d: %s, want %s", store, rev, to, from)
		}
	}
}

// versionsAt says what is granted and asserted in the store at the revision, its time and its root.
func versionsAt(t testing.TB, x *index.Index, store ledger.ID, rev ledger.Revision) string {
	t.Helper()
	v, err := x.View(store, rev)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var s strings.Builder
	for d := range 3 {
		for u := range 5 {
			g, live, err := v.Grant(viewer(t, fmt.Sprintf("d%d", d), fmt.Sprintf("u%d", u)))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(&s, live, g, " ")
		}
	}
	assertions, by, err := v.Assertions(v.NewestModel())
	if err != nil {
		t.Fatal(err)
	}
	at, err := v.Time()
	if err != nil {
		t.Fatal(err)
	}
	root, err := seal.Root(rev, v)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&s, "assertions %q of %d time %d root %x", assertions, by, at, root)
	return s.String()
}

// refoldEvery refolds every store of the replica alone.
func refoldEvery(t testing.TB, r *replica, givenUp ...ledger.ID) {
	t.Helper()
	err := eachHead(r.Index(), func(h index.Head) error {
		x, err := refoldAll(t, h.Store, entriesOf(t, r.Index(), h.Store))
		if err != nil {
			return err
		}
		got, _ := x.Head(h.Store)
		if got.Leaf != h.Leaf || got.Status != h.Status && !slices.Contains(givenUp, h.Store) {
			return fmt.Errorf("store %s refolds to %+v, want %+v", h.Store, got, h)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// foldAnew folds the broker's log from the start and returns the accumulator.
func foldAnew(t testing.TB, b *ledgertest.Broker, change func(*Config)) ledger.Hash {
	t.Helper()
	r := start(t, b, t.TempDir(), change)
	if err := r.caughtUp(); err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	return r.Index().Accumulator()
}

func TestRestore(t *testing.T) {
	from := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, deleted := busy(t, from, 200)
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	to := start(t, b, dir, nil)
	own := to.newStore()
	to.restoreAll(kept, record(t, from, kept), false)
	to.restoreAll(deleted, record(t, from, deleted), true)
	sameRecord(t, from, to, kept)
	sameRecord(t, from, to, deleted)
	if to.Fold() != 2 {
		t.Errorf("fold version %d", to.Fold())
	}

	// The ids of old commands are taken, and what comes next goes on where the record ends.
	var again *ledger.Command
	for _, e := range entriesOf(t, from.Index(), kept) {
		if c, why := e.Command(); why == nil && e.Outcome.Kind == ledger.Applied && c.Store == kept {
			again = c
		}
	}
	if d := to.submit(again); d.Outcome.Kind != ledger.Duplicate || d.Original == nil || d.Original.Kind != ledger.Applied {
		t.Errorf("an old command again: %s", &d.Outcome)
	}
	before, _ := from.Index().Head(kept)
	d := to.submit(grant(t, kept, "new", "ann"))
	if d.Outcome.Effective != 1 || d.Revision != before.Revision+2 || d.Time < before.Time {
		t.Errorf("a new grant: %+v after %+v", d, before)
	}
	if live, err := to.holds(kept, Freshness{Kind: AtLeast, Token: d.Token}, "new", "ann"); err != nil || !live {
		t.Errorf("the new grant holds: %v, %v", live, err)
	}
	if d := to.submit(grant(t, deleted, "new", "ann")); d.Outcome.Kind != ledger.Rejected || !strings.Contains(d.Outcome.Rejection.Message, "was deleted") {
		t.Errorf("a grant in a deleted store: %s", &d.Outcome)
	}
	to.submit(grant(t, own, "x", "ann"))

	// And a restored store can be moved on.
	third := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	third.restoreAll(kept, record(t, to, kept), false)
	sameRecord(t, to, third, kept)

	refoldEvery(t, to)
	want := to.Index().Accumulator()
	for _, size := range []int{1, 2, 7, 64, 1000} {
		if got := foldAnew(t, b, func(c *Config) { c.BatchMessages = size }); got != want {
			t.Errorf("folded in batches of %d messages, the index is another", size)
		}
	}
	// A replica that starts anew goes on from what it has.
	to.stop()
	to = start(t, b, dir, nil)
	if to.Fold() != 2 || to.Index().Accumulator() != want {
		t.Errorf("opened again: fold version %d", to.Fold())
	}
	sameRecord(t, from, to, kept)
}

// Messages that the log lost, and such as it stored without saying so, do no harm, nor do
// copies that come late.
func TestRestoreThroughLostAnswers(t *testing.T) {
	from := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, _ := busy(t, from, 100)
	want := record(t, from, kept)
	b := ledgertest.NewBroker()
	to := start(t, b, t.TempDir(), nil)
	b.NextAppends(ledgertest.Fault{}, ledgertest.Fault{Kind: ledgertest.LoseAnswer}, ledgertest.Fault{Kind: ledgertest.LoseMessage})
	to.begin(kept)
	for _, n := range []int{1, 30, len(want)} { // each again from the start
		b.NextAppends(ledgertest.Fault{Kind: ledgertest.LoseAnswer}, ledgertest.Fault{Kind: ledgertest.LoseMessage})
		if err := to.Restore(patience(t), kept, sequence(want[:n]), func(ledger.Revision) {}); err != nil {
			t.Fatal(err)
		}
	}
	var copies [][]byte
	for _, m := range b.Messages() {
		if len(m.Data) > 0 && m.Data[0] == 2 {
			copies = append(copies, m.Data)
		}
	}
	if len(copies) < 6 {
		t.Fatalf("only %d messages restore entries", len(copies))
	}
	late := func() {
		for _, data := range copies {
			b.Put("grantlog.main.edge.edge", data)
		}
		if err := to.caughtUp(); err != nil {
			t.Fatal(err)
		}
	}
	late()
	to.end(kept, false)
	sameRecord(t, from, to, kept)
	late()
	to.submit(grant(t, kept, "new", "ann"))
	late()
	sameRecord(t, from, to, kept)
	refoldEvery(t, to)
	for _, size := range []int{1, 1000} {
		if foldAnew(t, b, func(c *Config) { c.BatchMessages = size }) != to.Index().Accumulator() {
			t.Errorf("folded in batches of %d messages, the index is another", size)
		}
	}
}

// A restore that ends half-way is gone on with.
func TestRestoreGoesOn(t *testing.T) {
	from := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, _ := busy(t, from, 60)
	want := record(t, from, kept)
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	to := start(t, b, dir, nil)
	to.begin(kept)
	broken := errors.New("the bundle ends")
	err := to.Restore(patience(t), kept, func(yield func([]byte, error) bool) {
		for i := range ledger.MaxEnclosed + 1 {
			if i == 20 {
				yield(nil, broken)
				return
			}
			if !yield(want[i], nil) {
				return
			}
		}
	}, func(ledger.Revision) {})
	if !errors.Is(err, broken) {
		t.Fatalf("Restore = %v", err)
	}
	if err := to.Restore(patience(t), kept, sequence(want[:20]), func(ledger.Revision) {}); err != nil {
		t.Fatal(err)
	}
	// Meanwhile it answers nothing, and takes no commands.
	if _, err := to.View(patience(t), kept, Freshness{}); !errors.Is(err, ledger.ErrNotFound) || !strings.Contains(err.Error(), "being restored") {
		t.Errorf("View = %v", err)
	}
	if d := to.submit(grant(t, kept, "a", "ann")); d.Outcome.Kind != ledger.Rejected || !strings.Contains(d.Outcome.Rejection.Message, "being restored") || d.Token.Store != ledger.System {
		t.Errorf("a grant meanwhile: %+v", d)
	}
	to.stop()
	to = start(t, b, dir, nil)
	if h, _ := to.Index().Head(kept); h.Status != decide.Restoring || h.Revision != 20 || h.Name != "acme" {
		t.Errorf("opened again: %+v", h)
	}
	var failed *RestoreError
	if err := to.Restore(patience(t), kept, sequence(want[21:]), func(ledger.Revision) {}); !errors.As(err, &failed) || failed.Revision != 20 {
		t.Errorf("with a gap: %v", err)
	}
	// Another entry in the place of one that the store has ends the message, whatever follows.
	strange := *entriesOf(t, from.Index(), kept)[9]
	strange.Origin.Actor = "user:eve"
	b.Put("grantlog.main.edge.edge", ledger.AppendRestore(nil, ledger.Restored{Store: kept,
		Entries: [][]byte{want[8], ledger.AppendEntry(nil, &strange), want[20]}}))
	if err := to.caughtUp(); err != nil {
		t.Fatal(err)
	}
	if h, _ := to.Index().Head(kept); h.Revision != 20 {
		t.Errorf("after another entry 10 the store is at revision %d", h.Revision)
	}
	if err := to.Restore(patience(t), kept, sequence(want[20:]), func(ledger.Revision) {}); err != nil {
		t.Fatal(err)
	}
	to.end(kept, false)
	sameRecord(t, from, to, kept)
}

// An entry that was tampered with is not taken, wherever it stands and however well its
// hashes were made anew; the store stays shut, and can be given up.
func TestRestoreRefusesTampering(t *testing.T) {
	from := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, _ := busy(t, from, 12)
	entries := entriesOf(t, from.Index(), kept)
	for at := range entries {
		forged := make([][]byte, len(entries))
		var prev ledger.Hash
		for i, e := range entries {
			c := *e
			c.Prev = prev
			if i == at {
				if c.Outcome.Effective++; c.Outcome.Kind != ledger.Applied {
					c.Outcome = ledger.Outcome{Kind: ledger.Applied}
				}
			}
			forged[i] = ledger.AppendEntry(nil, &c)
			prev = seal.LeafHash(forged[i])
		}
		b := ledgertest.NewBroker()
		to := start(t, b, t.TempDir(), nil)
		to.begin(kept)
		var failed *RestoreError
		err := to.Restore(patience(t), kept, sequence(forged), func(ledger.Revision) {})
		if !errors.As(err, &failed) || int(failed.Revision) != at || !strings.Contains(failed.Reason, "its outcome was recorded as applied") {
			t.Fatalf("entry %d forged: %v", at+1, err)
		}
		if _, err := to.View(patience(t), kept, Freshness{}); !errors.Is(err, ledger.ErrNotFound) {
			t.Fatalf("entry %d forged: View = %v", at+1, err)
		}
		if at%4 == 0 { // what is right may still follow
			if err := to.Restore(patience(t), kept, sequence(record(t, from, kept)), func(ledger.Revision) {}); err != nil {
				t.Fatal(err)
			}
		}
		if o := to.system(ledger.Change{Kind: ledger.DeleteStore, Store: kept}); o.Kind != ledger.Applied {
			t.Fatalf("entry %d forged: deleting: %s", at+1, &o)
		}
		if h, _ := to.Index().Head(kept); h.Status != decide.GivenUp || h.DeletedBy == 0 || h.Deleted == 0 {
			t.Errorf("given up: %+v", h)
		}
		if o := to.system(ledger.Change{Kind: ledger.BeginRestore, Store: kept}); o.Kind != ledger.Rejected {
			t.Errorf("an id was used twice: %s", &o)
		}
		refoldEvery(t, to, kept)
		to.stop()
		if to = start(t, b, t.TempDir(), nil); to.caughtUp() != nil {
			t.Error("a store that was given up stops the fold")
		}
		to.stop()
	}
}

// A store that was given up before it had an entry is an index that opens again.
func TestGiveUpAtOnce(t *testing.T) {
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	r := start(t, b, dir, nil)
	store, other := ledger.NewID(), ledger.NewID()
	r.begin(store)
	r.begin(other)
	r.system(ledger.Change{Kind: ledger.DeleteStore, Store: store})
	r.stop()
	r = start(t, b, dir, nil)
	a, _ := r.Index().Head(store)
	o, _ := r.Index().Head(other)
	if a.Status != decide.GivenUp || a.Revision != 0 || o.Status != decide.Restoring {
		t.Errorf("%+v, %+v", a, o)
	}
	for _, id := range []ledger.ID{store, other} {
		if v, err := r.View(patience(t), id, Freshness{}); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("View(%s) = %v, %v", id, v, err)
		}
	}
}

// A log that loses the end of a restore is recovered as any other, and the restore goes on.
func TestRecoverAmidRestore(t *testing.T) {
	from := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, _ := busy(t, from, 60)
	want := record(t, from, kept)
	b := ledgertest.NewBroker()
	dir := t.TempDir()
	to := start(t, b, dir, nil)
	to.begin(kept)
	for _, n := range []int{10, 20, 30} {
		if err := to.Restore(patience(t), kept, sequence(want[n-10:n]), func(ledger.Revision) {}); err != nil {
			t.Fatal(err)
		}
	}
	to.stop()
	b.Rewind(2)
	log, err := b.Open()
	if err != nil {
		t.Fatal(err)
	}
	fresh := index.Options{Dir: t.TempDir(), Logger: quiet}
	loss, err := Recover(patience(t), config(log, dir), fresh, true, "ops", "a disk")
	if err != nil || len(loss.Entries) != 20 || loss.Entries[0].Store != kept || loss.Entries[0].Revision != 11 {
		t.Fatalf("Recover = %+v, %v, want 20 entries from revision 11 on", loss, err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	to = start(t, b, fresh.Dir, nil)
	if h, _ := to.Index().Head(kept); h.Revision != 10 || h.Status != decide.Restoring || to.Fold() != 2 {
		t.Fatalf("recovered to %+v under fold version %d", h, to.Fold())
	}
	if err := to.Restore(patience(t), kept, sequence(want[10:]), func(ledger.Revision) {}); err != nil {
		t.Fatal(err)
	}
	to.end(kept, false)
	sameRecord(t, from, to, kept)
	refoldEvery(t, to)
}

// Under fold version 1 nothing of this is known: the control of everything above.
func TestRestoreUnderVersion1(t *testing.T) {
	from := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, _ := busy(t, from, 10)
	b := ledgertest.NewBroker()
	to := start(t, b, t.TempDir(), nil)
	c := &ledger.Command{ID: ledger.NewUUID(), Store: ledger.System, Changes: []ledger.Change{{Kind: ledger.BeginRestore, Store: kept}}}
	b.Put("grantlog.main.edge.edge", ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: ledger.Origin{Actor: "ann", Method: ledger.MethodNone}, Raw: ledger.AppendCommand(nil, c)}}))
	b.Put("grantlog.main.edge.edge", ledger.AppendRestore(nil, ledger.Restored{Store: kept, Entries: record(t, from, kept)}))
	if err := to.caughtUp(); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, e := range entriesOf(t, to.Index(), ledger.System) {
		texts = append(texts, e.Outcome.String())
	}
	want := []string{
		"rejected (malformed: not a command: malformed encoding: unknown kind of change 8)",
		"rejected (malformed: the message is no envelope: envelope format 2, known is 1)",
	}
	if !slices.Equal(texts, want) {
		t.Errorf("system records %q, want %q", texts, want)
	}
	if _, ok := to.Index().Head(kept); ok {
		t.Error("there is a store")
	}
	refoldEvery(t, to)
}

// Wherever the fold is cut off, what it had not committed lost, it comes to the same.
func TestRestoreCrash(t *testing.T) {
	from := start(t, ledgertest.NewBroker(), t.TempDir(), nil)
	kept, deleted := busy(t, from, 60)
	b := ledgertest.NewBroker()
	to := start(t, b, t.TempDir(), nil)
	to.newStore()
	to.begin(kept)
	want := record(t, from, kept)
	for i := 0; i < len(want); i += 3 {
		if err := to.Restore(patience(t), kept, sequence(want[i:min(i+5, len(want))]), func(ledger.Revision) {}); err != nil {
			t.Fatal(err)
		}
	}
	to.end(kept, false)
	to.restoreAll(deleted, record(t, from, deleted), true)
	to.submit(grant(t, kept, "new", "ann"))

	messages := b.Messages()
	rnd := rand.New(rand.NewPCG(3, 3))
	crashes := 0
	for range 4 {
		o := index.Options{Dir: t.TempDir(), Logger: quiet, CacheBytes: 1 << 20}
		for done := uint64(0); done < uint64(len(messages)); crashes++ {
			x, err := index.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			f := newFolder(Config{Log: to.log, Shard: "main", Logger: quiet}, x)
			for rnd.IntN(6) > 0 && f.pos.Seq < uint64(len(messages)) {
				if err := f.message(patience(t), &messages[f.pos.Seq]); err != nil {
					t.Fatal(err)
				}
				if rnd.IntN(3) == 0 || f.pos.Seq == uint64(len(messages)) {
					if err := f.commit(); err != nil {
						t.Fatal(err)
					}
				}
			}
			f.close()
			if done = x.Position().Seq; done == uint64(len(messages)) && x.Accumulator() != to.Index().Accumulator() {
				t.Errorf("after %d crashes the index is another", crashes)
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if crashes < 10 {
		t.Errorf("only %d crashes", crashes)
	}
}

// What a new log begins with puts its fold version in force, by an actor that says what it
// is; a copy of it is a duplicate, and changes nothing.
func TestBeginning(t *testing.T) {
	b := ledgertest.NewBroker()
	r := start(t, b, t.TempDir(), nil)
	if r.Fold() != ledger.FoldVersion {
		t.Fatalf("a log without an activation is under fold version %d", r.Fold())
	}
	subject, data := ledger.Beginning("main", r.log.Genesis().Log, ledger.NewestFoldVersion)
	b.Put(subject, data)
	b.Put(subject, data)
	if err := r.caughtUp(); err != nil {
		t.Fatal(err)
	}
	if r.Fold() != ledger.NewestFoldVersion {
		t.Errorf("fold version %d, want %d", r.Fold(), ledger.NewestFoldVersion)
	}
	var said []string
	for _, e := range entriesOf(t, r.Index(), ledger.System) {
		c, why := e.Command()
		if why != nil {
			t.Fatal(why)
		}
		said = append(said, fmt.Sprintf("%s: %s, %s", e.Origin.Actor, c.Reason, &e.Outcome))
	}
	want := []string{
		"grantlog: a new log begins at fold version 2, applied (1 effective change)",
		"grantlog: a new log begins at fold version 2, a duplicate of revision 1",
	}
	if !slices.Equal(said, want) {
		t.Errorf("system says %q, want %q", said, want)
	}
	refoldEvery(t, r)
}
