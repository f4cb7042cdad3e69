package serve

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
)

func newKey(t *testing.T) seal.PrivateKey {
	t.Helper()
	key, err := seal.GenerateKey(rand.Reader, "grantlog.example/restore")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// view opens a view of the node's newest state.
func (n *node) view(t *testing.T, store string) *index.View {
	t.Helper()
	id, err := ledger.ParseID(store)
	if err != nil {
		t.Fatal(err)
	}
	v, err := n.projector.Index().View(id, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// bundle exports the store as a whole; change alters entries, and all that vouches for
// them is then made anew.
func (n *node) bundle(t *testing.T, store string, key seal.PrivateKey, change func(*ledger.Entry)) []byte {
	t.Helper()
	v := n.view(t, store)
	b := audit.AppendHeader(nil, audit.Header{Store: v.Store(), First: 1, Last: v.Revision()})
	var leaves hashesOf
	var prev ledger.Hash
	for e, err := range v.Entries(1) {
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			e.Prev = prev
			change(e)
		}
		b = audit.AppendEntry(b, e)
		prev = seal.LeafHash(ledger.AppendEntry(nil, e))
		leaves = leaves.add(t, e.Revision, prev)
	}
	root, err := seal.Root(v.Revision(), leaves)
	if err != nil {
		t.Fatal(err)
	}
	note, err := key.Sign(v.Store(), v.Revision(), root)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := seal.ProveInclusion(v.Revision(), v.Revision(), leaves)
	if err != nil {
		t.Fatal(err)
	}
	return audit.AppendTrailer(b, audit.Trailer{Note: note, Key: key.Key.String(), Proof: proof})
}

// restore sends the bundle in pieces of so many bytes.
func (c *clients) restore(ctx context.Context, bundle []byte, size int, first *pb.RestoreStoreRequest) (*pb.RestoreStoreResponse, error) {
	stream, err := c.RestoreStore(ctx)
	if err != nil {
		return nil, err
	}
	m := proto.CloneOf(first)
	for {
		m.Chunk = bundle[:min(size, len(bundle))]
		bundle = bundle[len(m.Chunk):]
		if err := stream.Send(m); errors.Is(err, io.EOF) {
			break // answered already
		} else if err != nil {
			return nil, err
		}
		m = &pb.RestoreStoreRequest{}
		if len(bundle) == 0 {
			break
		}
	}
	return stream.CloseAndReceive()
}

// past is a store with a past of every kind.
func (n *node) past(t *testing.T) string {
	t.Helper()
	store := n.store(t, testModel)
	for i := range 30 {
		tuple := &pb.Tuple{Object: fmt.Sprintf("doc:d%d", i%4), Relation: "viewer", Subject: fmt.Sprintf("user:u%d", i%5)}
		ch := &pb.Change{Change: &pb.Change_Grant{Grant: &pb.Grant{Tuple: tuple, Owner: fmt.Sprint(i % 3)}}}
		if i%4 == 3 {
			ch = &pb.Change{Change: &pb.Change_Revoke{Revoke: &pb.Revoke{Tuple: tuple}}}
		}
		c := &pb.Command{Store: store, Ticket: "T-1", Changes: []*pb.Change{ch}}
		if i%7 == 6 {
			c.Preconditions = []*pb.Precondition{{Tuple: tuple, MustExist: i%2 == 0}}
		}
		if _, err := n.Submit(context10(t), &pb.SubmitRequest{Actor: fmt.Sprintf("actor%d", i%3), Command: c}); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

// checks says who may view what in the store at each of its revisions.
func (n *node) checks(t *testing.T, store string, revisions uint64) string {
	t.Helper()
	var b bytes.Buffer
	for rev := uint64(2); rev <= revisions; rev++ {
		at := &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: rev}}
		for u := range 5 {
			r, err := n.Check(context10(t), &pb.CheckRequest{Store: store, Freshness: at,
				Tuple: &pb.Tuple{Object: "doc:d1", Relation: "reader", Subject: fmt.Sprintf("user:u%d", u)}})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(&b, r.Allowed, " ")
		}
	}
	if said := b.String(); strings.Contains(said, "true") && strings.Contains(said, "false") {
		return said
	}
	t.Fatalf("the checks say nothing: %s", &b)
	return ""
}

func (n *node) entries(t *testing.T, store string) []*pb.Entry {
	t.Helper()
	stream, err := n.Replay(context10(t), &pb.ReplayRequest{Store: store, Raw: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var entries []*pb.Entry
	for stream.Receive() {
		entries = append(entries, stream.Msg().Entries...)
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestRestoreStore(t *testing.T) {
	from, key, ctx := newNode(t), newKey(t), context10(t)
	store := from.past(t)
	want := from.entries(t, store)
	bundle := from.bundle(t, store, key, nil)
	scratch := t.TempDir()
	to := newNode(t, func(c *Config) { c.Scratch = scratch })
	ask := &pb.RestoreStoreRequest{Actor: "ops", Reason: "moved", Ticket: "OPS-1", Key: key.Key.String()}

	_, err := to.restore(ctx, bundle, 1000, ask)
	wantRejection(t, err, connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "activate", "needs fold version 2, and 1 is in force")
	ask.Activate = true
	r, err := to.restore(ctx, bundle, 1000, ask)
	if err != nil {
		t.Fatal(err)
	}
	root, err := seal.Root(from.view(t, store).Revision(), from.view(t, store))
	if err != nil || !bytes.Equal(r.Root, root[:]) || r.Store.GetStatus() != pb.Store_LIVE || r.Store.GetRevision() != uint64(len(want)) || r.Token == "" {
		t.Errorf("restored %v with root %x, want %d entries with root %x (%v)", r, r.Root, len(want), root, err)
	}
	got := to.entries(t, store)
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i := range got {
		if !proto.Equal(got[i], want[i]) {
			t.Fatalf("entry %d is %v, want %v", i+1, got[i], want[i])
		}
	}
	if from, to := from.checks(t, store, uint64(len(want))), to.checks(t, store, uint64(len(want))); from != to {
		t.Errorf("the past answers %s, want %s", to, from)
	}
	_, err = to.restore(ctx, bundle, 1<<20-100, ask)
	wantRejection(t, err, connect.CodeAlreadyExists, pb.Rejection_CONFLICT, "", "is here already, with just the entries of the bundle, and is live")
	_, err = from.restore(ctx, bundle, 1000, ask)
	wantRejection(t, err, connect.CodeAlreadyExists, pb.Rejection_CONFLICT, "", "is here already")

	// What system records of it says who, when and why.
	var said []string
	for _, e := range to.entries(t, "system") {
		for _, ch := range e.GetCommand().GetChanges() {
			said = append(said, fmt.Sprintf("%T by %s for %s", ch.Change, e.Actor, e.Command.Ticket))
		}
	}
	if got, want := fmt.Sprint(said), "[*grantlogv1.Change_Activate by ops for OPS-1 *grantlogv1.Change_BeginRestore by ops for OPS-1 *grantlogv1.Change_EndRestore by ops for OPS-1]"; got != want {
		t.Errorf("system says %s, want %s", got, want)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("%v is left behind (%v)", left, err)
	}

	// A store that was deleted comes as one.
	if _, err := from.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: store, Actor: "ann"}); err != nil {
		t.Fatal(err)
	}
	third := newNode(t)
	if r, err = third.restore(ctx, from.bundle(t, store, key, nil), 64, ask); err != nil || r.Store.GetStatus() != pb.Store_DELETED {
		t.Fatalf("restored a deleted store: %v, %v", r, err)
	}
	if n := len(third.entries(t, store)); n != len(want)+1 {
		t.Errorf("%d entries, want %d", n, len(want)+1)
	}
	_, err = third.Check(ctx, &pb.CheckRequest{Store: store, Tuple: &pb.Tuple{Object: "doc:d1", Relation: "viewer", Subject: "user:u1"}})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "is deleted")
	if from, to := from.checks(t, store, uint64(len(want))), third.checks(t, store, uint64(len(want))); from != to {
		t.Errorf("the past of the deleted store answers %s, want %s", to, from)
	}
}

// A bundle that cannot be restored changes nothing.
func TestRestoreStoreRefuses(t *testing.T) {
	from, key := newNode(t), newKey(t)
	store := from.past(t)
	bundle := from.bundle(t, store, key, nil)
	system := from.bundle(t, "system", key, nil)
	flipped := bytes.Clone(bundle)
	flipped[len(flipped)/2] ^= 1
	ranged := audit.AppendHeader(nil, audit.Header{Store: ledger.ID{1}, First: 2, Last: 9})
	forged := from.bundle(t, store, key, func(e *ledger.Entry) {
		if e.Revision == 9 {
			e.Outcome = ledger.Outcome{Kind: ledger.Applied, Effective: 7}
		}
	})
	to := newNode(t)
	ask := func(change func(*pb.RestoreStoreRequest)) *pb.RestoreStoreRequest {
		r := &pb.RestoreStoreRequest{Actor: "ops", Activate: true}
		if change != nil {
			change(r)
		}
		return r
	}
	to.store(t, "") // the log is read by then
	before := to.projector.Status().Head
	for _, tt := range []struct {
		name   string
		bundle []byte
		first  *pb.RestoreStoreRequest
		field  string
		part   string
	}{
		{"nothing", nil, ask(nil), "chunk", "cannot be believed"},
		{"no bundle", []byte("a text that goes on long enough to be looked at, and then some more of it"), ask(nil), "chunk", "no bundle"},
		{"cut", bundle[:len(bundle)-1], ask(nil), "chunk", "cannot be believed"},
		{"a bit flipped", flipped, ask(nil), "chunk", "cannot be believed"},
		{"system", system, ask(nil), "chunk", `the store "system"`},
		{"a range", append(ranged, make([]byte, 100)...), ask(nil), "chunk", "begins at revision 2"},
		{"another key", bundle, ask(func(r *pb.RestoreStoreRequest) { r.Key = newKey(t).Key.String() }), "chunk", "should be signed by"},
		{"a key that is none", bundle, ask(func(r *pb.RestoreStoreRequest) { r.Key = "k" }), "key", ""},
		{"forged by who has the key", forged, ask(nil), "chunk", "entry 9: its outcome was recorded as applied (7 effective changes)"},
		{"a ticket with a control", bundle, ask(func(r *pb.RestoreStoreRequest) { r.Ticket = "a\x01" }), "ticket", "control"},
		{"an actor that is too long", bundle, ask(func(r *pb.RestoreStoreRequest) { r.Actor = string(make([]byte, 257)) }), "actor", "256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := to.restore(context10(t), tt.bundle, 4096, tt.first)
			wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, tt.field, tt.part)
		})
	}
	// A bundle that is refused from its first bytes on is so too if it is long.
	long := append(bytes.Clone(ranged), make([]byte, 8<<20)...)
	for range 5 {
		_, err := to.restore(context10(t), long, 1<<18, ask(nil))
		wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "chunk", "begins at revision 2")
	}
	late := newNode(t, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(-time.Hour) } })
	_, err := late.restore(context10(t), bundle, 4096, ask(nil))
	wantRejection(t, err, connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "", "ahead of this server's clock")
	if after := to.projector.Status().Head; after != before || late.projector.Fold() != 1 {
		t.Errorf("the log grew from %d to %d messages", before, after)
	}
	// The same is restored where nothing is wrong with it.
	if _, err := to.restore(context10(t), bundle, 4096, ask(nil)); err != nil {
		t.Error(err)
	}
}

// A restore that was interrupted goes on, and can be given up.
func TestRestoreStoreGoesOn(t *testing.T) {
	from, key, ctx := newNode(t), newKey(t), context10(t)
	store, other := from.past(t), from.past(t)
	ask := &pb.RestoreStoreRequest{Actor: "ops", Activate: true}
	to := newNode(t)
	for i, id := range []string{store, other} {
		if err := to.projector.Activate(ctx, 2, "ops", "", ""); err != nil {
			t.Fatal(err)
		}
		v := from.view(t, id)
		if _, err := to.server.cfg.Ledger.Submit(ctx, readOrigin("ops"), &ledger.Command{ID: ledger.NewUUID(),
			Changes: []ledger.Change{{Kind: ledger.BeginRestore, Store: v.Store()}}}); err != nil {
			t.Fatal(err)
		}
		err := to.projector.Restore(ctx, v.Store(), func(yield func([]byte, error) bool) {
			for e, err := range v.Entries(1) {
				if e.Revision == 12 || !yield(ledger.AppendEntry(nil, e), err) {
					return
				}
			}
		}, func(ledger.Revision) {})
		if err != nil {
			t.Fatalf("store %d: %v", i, err)
		}
	}
	for _, id := range []string{store, other} {
		_, err := to.Check(ctx, &pb.CheckRequest{Store: id, Tuple: &pb.Tuple{Object: "doc:d1", Relation: "viewer", Subject: "user:u1"}})
		wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "is being restored")
		_, err = to.ReadModel(ctx, &pb.ReadModelRequest{Store: id})
		wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "is being restored")
	}
	page, err := to.ListStores(ctx, &pb.ListStoresRequest{})
	if err != nil || len(page.Stores) != 2 || page.Stores[0].Status != pb.Store_RESTORING || page.Stores[0].Revision != 11 || page.Stores[0].Name == "" {
		t.Errorf("stores %v, %v", page, err)
	}
	// Another bundle of the same store does not go on with it.
	strange := from.bundle(t, store, key, func(e *ledger.Entry) { e.Time++ })
	_, err = to.restore(ctx, strange, 4096, ask)
	wantRejection(t, err, connect.CodeAlreadyExists, pb.Rejection_CONFLICT, "", "being restored from another bundle, up to revision 11")
	if _, err := to.restore(ctx, from.bundle(t, store, key, nil), 4096, ask); err != nil {
		t.Fatal(err)
	}
	if from, to := from.checks(t, store, 32), to.checks(t, store, 32); from != to {
		t.Errorf("the past answers %s, want %s", to, from)
	}
	if _, err := to.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: other}); err != nil {
		t.Fatal(err)
	}
	_, err = to.restore(ctx, from.bundle(t, other, key, nil), 4096, ask)
	wantRejection(t, err, connect.CodeAlreadyExists, pb.Rejection_CONFLICT, "", "was deleted before it was restored")
	_, err = to.Check(ctx, &pb.CheckRequest{Store: other, Freshness: &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: 5}},
		Tuple: &pb.Tuple{Object: "doc:d1", Relation: "viewer", Subject: "user:u1"}})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "was deleted before it was restored")
	if strings.Contains(err.Error(), "not found") {
		t.Errorf("%q says its code again", err)
	}
}

// hashesOf are the stored hashes of a tree, in tlog's order.
type hashesOf []ledger.Hash

func (h hashesOf) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = tlog.Hash(h[x])
	}
	return out, nil
}

func (h hashesOf) add(t *testing.T, rev ledger.Revision, leaf ledger.Hash) hashesOf {
	t.Helper()
	more, err := seal.Hashes(rev, leaf, h)
	if err != nil {
		t.Fatal(err)
	}
	return append(h, more...)
}
