package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/audit"
)

// restoreFold is the fold version from which on stores can be restored.
const restoreFold = 2

// scratchCache is the memory for blocks of the index that a bundle is folded into.
const scratchCache = 32 << 20

// An existsError is that a store which is to be restored is there already.
type existsError struct{ text string }

func (e *existsError) Error() string { return e.text }

// A stateError is that the state of the log, or of the world, does not allow a request.
type stateError struct{ text string }

func (e *stateError) Error() string { return e.text }

// RestoreStore brings a store from a bundle into this log.
func (s *Server) RestoreStore(ctx context.Context, stream *connect.ClientStream[pb.RestoreStoreRequest]) (*pb.RestoreStoreResponse, error) {
	answer, err := s.restoreStore(ctx, stream)
	if err != nil {
		// Over HTTP/1 a caller that still sends does not see an answer: the connection is
		// reset under it. So the rest is taken, and thrown away.
		for s.serving.Err() == nil && stream.Receive() {
		}
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) restoreStore(ctx context.Context, stream *connect.ClientStream[pb.RestoreStoreRequest]) (answer *pb.RestoreStoreResponse, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.serving, cancel)()
	defer func() {
		if err != nil && s.serving.Err() != nil {
			err = fmt.Errorf("%w: the server ends; restore again, there or here, and it goes on", ledger.ErrUnavailable)
		}
	}()
	// A bundle takes disk and much of a processor while it is folded: one at a time.
	select {
	case s.restores <- struct{}{}:
		defer func() { <-s.restores }()
	default:
		return nil, fmt.Errorf("%w: another bundle is being restored here; try again when that has ended", ledger.ErrUnavailable)
	}
	if err := s.cfg.Projector.Ready(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.cfg.Scratch, "grantlog-restore-")
	if err != nil {
		return nil, fmt.Errorf("scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &restore{Server: s, dir: dir}
	if err := r.receive(stream); err != nil {
		return nil, err
	}
	defer r.bundle.Close()
	if err := r.verify(ctx); err != nil {
		return nil, err
	}
	return r.run(ctx)
}

// A restore is one bundle on its way into the log.
type restore struct {
	*Server
	dir     string
	request *pb.RestoreStoreRequest // the first
	key     seal.Key                // that must have signed; zero: any
	bundle  *os.File

	found audit.Result
	last  *ledger.Entry
	leaf  ledger.Hash // of last
}

// receive takes the bundle into a file.
func (r *restore) receive(stream *connect.ClientStream[pb.RestoreStoreRequest]) (err error) {
	if r.bundle, err = os.Create(filepath.Join(r.dir, "bundle")); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.bundle.Close()
		}
	}()
	for stream.Receive() {
		m := stream.Msg()
		if r.request == nil {
			if err := r.begin(m); err != nil {
				return err
			}
		}
		if err := r.cfg.Projector.Ready(); err != nil { // the disk may be full by now
			return err
		}
		if _, err := r.bundle.Write(m.Chunk); err != nil {
			return fmt.Errorf("keep the bundle: %w", err)
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if r.request == nil {
		return malformed("chunk", "there is no bundle")
	}
	return nil
}

// begin reads what the first request says beside the bundle.
func (r *restore) begin(m *pb.RestoreStoreRequest) error {
	r.request = &pb.RestoreStoreRequest{Actor: m.Actor, Reason: m.Reason, Ticket: m.Ticket, Channel: m.Channel, Activate: m.Activate, Key: m.Key, Part: m.Part}
	c := r.command(ledger.Change{Kind: ledger.BeginRestore, Store: ledger.ID{1}}) // any store: who and why are held to their rules
	if why := c.Validate(); why != nil {
		return why
	}
	if why := ledger.CheckText("actor", readOrigin(m.Actor).Actor, 1, ledger.MaxLabel); why != nil {
		return why
	}
	if m.Key != "" {
		key, err := seal.ParseKey(m.Key)
		if err != nil {
			return malformed("key", "%s", err)
		}
		r.key = key
	}
	// What can be told from the first bytes is told before the rest is sent.
	if len(m.Chunk) < 64 { // a header may be longer than that
		return nil
	}
	b, err := audit.NewReader(bytes.NewReader(m.Chunk))
	if err != nil {
		return r.faulty(err)
	}
	return r.admit(b.Header())
}

// admit refuses what cannot be restored whatever its entries.
func (r *restore) admit(h audit.Header) error {
	switch {
	case h.Store == ledger.System:
		return malformed("chunk", "the bundle is of the store %q, which every log has its own of; it can be verified, and not restored", h.Store)
	case h.First != 1:
		return malformed("chunk", "the bundle begins at revision %d; a store is restored from revision 1 on", h.First)
	}
	return nil
}

// faulty is the error for a bundle that audit refuses.
func (r *restore) faulty(err error) error {
	var faulty *audit.BundleError
	if errors.Is(err, audit.ErrPart) {
		return malformed("part", "%s; allow it if the entries after the bundle are to be left out (with the command line, --part)", err)
	}
	if errors.As(err, &faulty) {
		return malformed("chunk", "the bundle cannot be believed: %s", faulty)
	}
	return err
}

func (r *restore) command(ch ledger.Change) *ledger.Command {
	return &ledger.Command{ID: ledger.NewUUID(), Store: ledger.System, Reason: r.request.Reason, Ticket: r.request.Ticket, Channel: r.request.Channel, Changes: []ledger.Change{ch}}
}

// verify verifies the whole bundle, and reads how it ends.
func (r *restore) verify(ctx context.Context) error {
	b, err := r.read()
	if err != nil {
		return r.faulty(err)
	}
	if err := r.admit(b.Header()); err != nil {
		return err
	}
	if _, err := r.bundle.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r.found, err = audit.Verify(ctx, r.bundle, audit.Options{
		Key:      r.key,
		Part:     r.request.Part,
		Scratch:  &index.Options{Dir: filepath.Join(r.dir, "index"), CacheBytes: scratchCache, Logger: r.cfg.Logger},
		Progress: func(uint64, uint64) error { return r.cfg.Projector.Ready() },
	})
	if errors.Is(err, audit.ErrScratch) {
		r.cfg.Logger.ErrorContext(ctx, "restore: verify the bundle", "error", err)
		return fmt.Errorf("%w: the server has no room to fold the bundle; nothing was written", ledger.ErrUnavailable)
	}
	if err != nil {
		return r.faulty(err)
	}
	if b, err = r.read(); err != nil {
		return err
	}
	for leaf, err := range b.Entries() {
		if err != nil {
			return err
		}
		r.last, r.leaf = leaf.Entry, leaf.Hash
	}
	if ahead := time.Duration(r.found.To - r.cfg.Now().UnixNano()); ahead > projector.MaxClockLead {
		return &stateError{fmt.Sprintf("the bundle's newest entry has a time that is %s ahead of this server's clock; no log takes commands until its time has come", ahead.Round(time.Second))}
	}
	return nil
}

// read reads the bundle from its start.
func (r *restore) read() (*audit.Reader, error) {
	if _, err := r.bundle.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return audit.NewReader(r.bundle)
}

// deleted reports whether the bundle ends with the deletion of its store.
func (r *restore) deleted() bool {
	c, rejection := r.last.Command()
	return rejection == nil && r.last.Outcome.Kind == ledger.Applied && c.Changes[0].Kind == ledger.DeleteStore
}

// run restores the bundle, which is verified, from where the store stands.
func (r *restore) run(ctx context.Context) (*pb.RestoreStoreResponse, error) {
	store, origin := r.found.Store, readOrigin(r.request.Actor)
	wait, cancel := r.patience(ctx)
	v, err := r.cfg.Projector.View(wait, ledger.System, projector.Freshness{Kind: projector.Latest})
	cancel()
	if err != nil {
		return nil, err
	}
	v.Close()
	has, there := r.cfg.Projector.Index().Head(store)
	if there {
		if err := r.resumable(has); err != nil {
			return nil, err
		}
	}
	if now := r.cfg.Projector.Fold(); now < restoreFold {
		if !r.request.Activate {
			return nil, &fieldError{"activate", &stateError{fmt.Sprintf("restoring needs fold version %d, and %d is in force; allow to activate it (with the command line, --activate). Servers of releases that do not know it stop answering from then on, until they are replaced, and it cannot be taken back", restoreFold, now)}}
		}
		if err := r.cfg.Projector.Activate(ctx, restoreFold, origin.Actor, r.request.Reason, r.request.Ticket); err != nil {
			return nil, fmt.Errorf("%w; where a server may not do that, whoever runs the log does, with \"grantlog activate\"", err)
		}
	}
	if !there {
		if err := r.decide(ctx, ledger.Change{Kind: ledger.BeginRestore, Store: store}); err != nil {
			return nil, err
		}
	}
	if err := r.cfg.Projector.Restore(ctx, store, r.after(has.Revision), func(ledger.Revision) {}); err != nil {
		if errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, ledger.ErrRefused) {
			err = fmt.Errorf("%w; what was restored until then stays: restore again, and it goes on", err)
		}
		return nil, err
	}
	root, err := r.compare()
	if err != nil {
		return nil, err
	}
	if err := r.decide(ctx, ledger.Change{Kind: ledger.EndRestore, Store: store, Deleted: r.deleted()}); err != nil {
		return nil, err
	}
	return r.answer(ctx, root)
}

// decide submits a command of the system store.
func (r *restore) decide(ctx context.Context, ch ledger.Change) error {
	_, err := r.system(ctx, readOrigin(r.request.Actor), r.command(ch))
	if errors.Is(err, ledger.ErrUnknownOutcome) {
		return fmt.Errorf("%w: the log's answer was lost; restore again, and it goes on", ledger.ErrUnavailable)
	}
	return err
}

// resumable returns nil if the store is being restored, and has the beginning of the bundle.
func (r *restore) resumable(has index.Head) error {
	id, same := has.Store, false
	if has.Revision > 0 && has.Revision <= r.last.Revision {
		b, err := r.read()
		if err != nil {
			return err
		}
		for leaf, err := range b.Entries() {
			if err != nil {
				return err
			}
			if leaf.Entry.Revision == has.Revision {
				same = leaf.Hash == has.Leaf
				break
			}
		}
	}
	switch {
	case has.Status == decide.Restoring && (same || has.Revision == 0):
		return nil
	case has.Status == decide.Restoring:
		return &existsError{fmt.Sprintf("store %s is being restored from another bundle, up to revision %d; delete it to give that up, but then its id cannot be used again in this log", id, has.Revision)}
	case has.Status == decide.GivenUp:
		return &existsError{fmt.Sprintf("store %s was deleted before it was restored; its id cannot be used again in this log", id)}
	case same && has.Revision == r.last.Revision:
		return &existsError{fmt.Sprintf("store %s is here already, with just the entries of the bundle, and is %s", id, has.Status)}
	}
	return &existsError{fmt.Sprintf("this log has, or had, a store %s: it is %s, at revision %d", id, has.Status, has.Revision)}
}

// after yields the entries of the bundle that come after the revision.
func (r *restore) after(rev ledger.Revision) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		b, err := r.read()
		if err != nil {
			yield(nil, err)
			return
		}
		for leaf, err := range b.Entries() {
			if err != nil {
				yield(nil, err)
				return
			}
			if leaf.Entry.Revision > rev && !yield(ledger.AppendEntry(nil, leaf.Entry), nil) {
				return
			}
		}
	}
}

// compare makes sure that the store's record is the bundle's, and returns its root.
func (r *restore) compare() (ledger.Hash, error) {
	v, err := r.cfg.Projector.Index().View(r.found.Store, 0)
	if err != nil {
		return ledger.Hash{}, err
	}
	defer v.Close()
	if h := v.Head(); h.Revision != r.last.Revision || h.Leaf != r.leaf {
		return ledger.Hash{}, &stateError{fmt.Sprintf("store %s is at revision %d, which is not the last entry of the bundle: somebody else restores it too", r.found.Store, h.Revision)}
	}
	root, err := seal.Root(r.last.Revision, v)
	if c := r.found.Checkpoint; err == nil && c.Size == r.last.Revision && c.Root != root {
		err = fmt.Errorf("store %s was restored with the root %x; its checkpoint has %x", r.found.Store, root, c.Root)
	}
	return root, err
}

func (r *restore) answer(ctx context.Context, root ledger.Hash) (*pb.RestoreStoreResponse, error) {
	v, err := r.cfg.Projector.View(ctx, r.found.Store, projector.Freshness{Kind: projector.AtRevision, Revision: r.last.Revision})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	token, err := v.Token()
	if err != nil {
		return nil, err
	}
	return &pb.RestoreStoreResponse{Store: storeMessage(v.Head()), Root: root[:], Token: token.String()}, nil
}
