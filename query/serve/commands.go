package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
)

// assertionsFold is the fold version that knows assertions.
const assertionsFold = 2

// Submit appends a command and answers once it is decided.
func (s *Server) Submit(ctx context.Context, req *pb.SubmitRequest) (*pb.SubmitResponse, error) {
	c, err := readCommand(req.Command, s.cfg.Models)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	submit := s.cfg.Ledger.Submit
	switch req.Wait {
	case pb.SubmitRequest_WAIT_UNSPECIFIED, pb.SubmitRequest_DECIDED:
	case pb.SubmitRequest_APPENDED:
		submit = s.cfg.Ledger.Append
	default:
		return nil, s.rpcError(ctx, malformed("wait", "unknown wait %d", req.Wait))
	}
	wait, cancel := s.patience(ctx)
	defer cancel()
	if err := s.knows(wait, c); err != nil {
		return nil, s.rpcError(ctx, err)
	}
	d, err := submit(wait, readOrigin(req.Actor), c)
	if err != nil {
		return nil, s.rpcError(ctx, lost(c.ID, err))
	}
	if req.Wait == pb.SubmitRequest_APPENDED {
		return &pb.SubmitResponse{Id: c.ID.String(), Store: c.Store.String()}, nil
	}
	answer := &pb.SubmitResponse{
		Id: c.ID.String(), Outcome: outcomeMessage(&d.Outcome), Revision: uint64(d.Revision),
		Token: d.Token.String(), Time: timeMessage(d.Time), Store: d.Token.Store.String(),
	}
	if d.Original != nil {
		answer.Original = outcomeMessage(d.Original)
	}
	if c.Changes[0].Kind == ledger.WriteModel && appliedOnce(&d) {
		answer.Model = c.Changes[0].Model.ID.String()
	}
	return answer, nil
}

// knows returns an error if the rules in force know no such command. They would take its
// bytes for none, and nobody could be told what became of it.
func (s *Server) knows(ctx context.Context, c *ledger.Command) error {
	if len(c.Changes) == 0 || c.Changes[0].Kind != ledger.WriteAssertions || s.cfg.Projector.Fold() >= assertionsFold {
		return nil
	}
	v, err := s.cfg.Projector.View(ctx, ledger.System, projector.Freshness{Kind: projector.Latest})
	if err != nil {
		return err
	}
	v.Close() // what it made sure of stays so
	if now := s.cfg.Projector.Fold(); now < assertionsFold {
		return &fieldError{"changes[0]", &stateError{fmt.Sprintf("assertions need fold version %d, and %d is in force; whoever runs the log activates it with \"grantlog activate\"", assertionsFold, now)}}
	}
	return nil
}

// appliedOnce reports whether the command was applied, now or as the one it repeats.
func appliedOnce(d *ledger.Decided) bool {
	return d.Outcome.Kind == ledger.Applied || d.Original != nil && d.Original.Kind == ledger.Applied
}

// lost gives an unknown outcome the id that it can be asked for under.
func lost(id ledger.UUID, err error) error {
	if errors.Is(err, ledger.ErrUnknownOutcome) {
		return &lostError{id, err}
	}
	return err
}

// GetCommand returns the entry of a command, by its id.
func (s *Server) GetCommand(ctx context.Context, req *pb.GetCommandRequest) (*pb.GetCommandResponse, error) {
	entry, token, err := s.command(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return &pb.GetCommandResponse{Entry: entryMessage(entry, false), Token: token}, nil
}

func (s *Server) command(ctx context.Context, req *pb.GetCommandRequest) (*ledger.Entry, string, error) {
	store, err := readAnyStore("store", req.Store)
	if err != nil {
		return nil, "", err
	}
	id, err := ledger.ParseUUID(req.Id)
	if err != nil {
		return nil, "", malformed("id", "%s", err)
	}
	if isPast(req.Freshness) {
		return nil, "", malformed(momentField(req.Freshness), "must be absent: a command is looked for among all that is applied")
	}
	v, err := s.view(ctx, store, req.Freshness)
	if err != nil {
		return nil, "", err
	}
	v.Close() // what it made sure of stays so
	actor := readOrigin(req.Actor).Actor
	seen, ok, err := s.cfg.Projector.Index().Command(store, actor, id)
	if err != nil {
		return nil, "", err
	}
	if !ok {
		return nil, "", &fieldError{"id", fmt.Errorf("command %s of %q in store %s: %w", id, actor, store, ledger.ErrNotFound)}
	}
	if v, err = s.cfg.Projector.View(ctx, store, projector.Freshness{Kind: projector.AtRevision, Revision: seen.Revision}); err != nil {
		return nil, "", err
	}
	defer v.Close()
	entry, err := v.Entry(seen.Revision)
	if err != nil {
		return nil, "", err
	}
	token, err := v.Token()
	return entry, token.String(), err
}

// view returns a view of the store as fresh as f asks, of a deleted store too.
func (s *Server) view(ctx context.Context, store ledger.ID, f *pb.Freshness) (*index.View, error) {
	fresh, err := readFreshness(f)
	if err != nil {
		return nil, err
	}
	if fresh.Kind != projector.Any {
		wait, cancel := s.patience(ctx)
		defer cancel()
		ctx = wait
	}
	v, err := s.cfg.Projector.View(ctx, store, fresh)
	if err != nil {
		return nil, s.viewError(store, momentField(f), fresh.Kind != projector.Any, err)
	}
	return v, nil
}

// viewError says which field of a request an error of opening a view is about; moment is
// the field that holds a token or a moment. Waited says that the view had to be as new as
// asked for.
func (s *Server) viewError(store ledger.ID, moment string, waited bool, err error) error {
	switch {
	case errors.Is(err, projector.ErrBefore), errors.Is(err, projector.ErrFuture),
		errors.Is(err, ledger.ErrToken), errors.Is(err, ledger.ErrForeignToken), errors.Is(err, ledger.ErrLostPast):
		return &fieldError{moment, err}
	case errors.Is(err, ledger.ErrNotFound):
		return &fieldError{"store", err}
	case errors.Is(err, ledger.ErrUnavailable) && waited:
		h, _ := s.cfg.Projector.Index().Head(store)
		return &behindError{h.Revision, err}
	}
	return err
}

// liveView is view for what is only asked of stores as long as they are not deleted.
func (s *Server) liveView(ctx context.Context, store ledger.ID, f *pb.Freshness) (*index.View, error) {
	v, err := s.view(ctx, store, f)
	if err != nil {
		return nil, err
	}
	if err := live(v); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// live returns an error if the view's store is deleted at the view's revision: a deletion
// is the last entry of a store, and what came before it can still be asked about.
func live(v *index.View) error {
	if v.Status() != decide.Live && v.Revision() == v.Head().Revision {
		return &fieldError{"store", &deletedError{v.Store(), v.Revision()}}
	}
	return nil
}

// CreateStore creates a store and answers once that is decided.
func (s *Server) CreateStore(ctx context.Context, req *pb.CreateStoreRequest) (*pb.CreateStoreResponse, error) {
	origin := readOrigin(req.Actor)
	id, err := readCommandID("id", req.Id)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	store := idFor(id)
	_, err = s.system(ctx, origin, &ledger.Command{ID: id, Reason: req.Reason, Ticket: req.Ticket, Channel: req.Channel, Changes: []ledger.Change{
		{Kind: ledger.CreateStore, Store: store, Name: req.Name, Admin: cmp.Or(req.Admin, origin.Actor)},
	}})
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	v, err := s.view(ctx, store, nil)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	defer v.Close()
	token, err := v.Token()
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return &pb.CreateStoreResponse{Store: storeMessage(v.Head()), Token: token.String(), Id: id.String()}, nil
}

// DeleteStore closes a store for ever.
func (s *Server) DeleteStore(ctx context.Context, req *pb.DeleteStoreRequest) (*pb.DeleteStoreResponse, error) {
	id, err := readCommandID("id", req.Id)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	store, err := readStore("store", req.Store)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	d, err := s.system(ctx, readOrigin(req.Actor), &ledger.Command{ID: id, Reason: req.Reason, Ticket: req.Ticket, Channel: req.Channel,
		Changes: []ledger.Change{{Kind: ledger.DeleteStore, Store: store}}})
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return &pb.DeleteStoreResponse{Id: id.String(), Revision: uint64(d.Revision), Token: d.Token.String()}, nil
}

// system submits a command of the system store. Its rejection is returned as an error,
// with fields as StoreService has them: those of its one change stand in the request.
func (s *Server) system(ctx context.Context, origin ledger.Origin, c *ledger.Command) (ledger.Decided, error) {
	wait, cancel := s.patience(ctx)
	defer cancel()
	d, err := s.cfg.Ledger.Submit(wait, origin, c)
	outcome := &d.Outcome
	if d.Original != nil {
		outcome = d.Original
	}
	if err == nil && outcome.Kind == ledger.Rejected {
		err = outcome.Rejection
	}
	var r *ledger.Rejection
	if errors.As(err, &r) {
		const change = "changes[0]."
		own := *r
		if len(own.Field) > len(change) && own.Field[:len(change)] == change {
			own.Field = own.Field[len(change):]
		}
		err = &own
	}
	return d, lost(c.ID, err)
}

func storeMessage(h index.Head) *pb.Store {
	m := &pb.Store{
		Id: h.Store.String(), Name: h.Name, Admin: h.Admin, Status: pb.Store_LIVE,
		Revision: uint64(h.Revision), Time: timeMessage(h.Time), Created: timeMessage(h.Created),
	}
	switch h.Status {
	case decide.Deleted, decide.GivenUp:
		m.Status = pb.Store_DELETED
	case decide.Restoring:
		m.Status = pb.Store_RESTORING
	}
	return m
}

// Page sizes of lists.
const (
	defaultPage = 100
	maxPage     = 1000
)

func readPageSize(n uint32) (int, error) {
	if n > maxPage {
		return 0, malformed("page_size", "must be at most %d, is %d", maxPage, n)
	}
	return cmp.Or(int(n), defaultPage), nil
}

// ListStores lists the stores by id.
func (s *Server) ListStores(ctx context.Context, req *pb.ListStoresRequest) (*pb.ListStoresResponse, error) {
	answer, err := s.listStores(req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) listStores(req *pb.ListStoresRequest) (*pb.ListStoresResponse, error) {
	size, err := readPageSize(req.PageSize)
	if err != nil {
		return nil, err
	}
	var after ledger.ID // the page token is the last id of the page before
	if req.PageToken != "" {
		if after, err = readStore("page_token", req.PageToken); err != nil {
			return nil, malformed("page_token", "must be one that ListStores gave")
		}
	}
	if err := s.cfg.Projector.Quarantine(); err != nil {
		return nil, err
	}
	answer := &pb.ListStoresResponse{}
	for {
		heads, err := s.cfg.Projector.Index().Stores(after, size+1)
		if err != nil {
			return nil, err
		}
		for _, h := range heads {
			if !req.Deleted && (h.Status == decide.Deleted || h.Status == decide.GivenUp) {
				continue
			}
			if len(answer.Stores) == size {
				answer.NextPageToken = answer.Stores[size-1].Id
				return answer, nil
			}
			answer.Stores = append(answer.Stores, storeMessage(h))
		}
		if len(heads) <= size {
			return answer, nil
		}
		after = heads[len(heads)-1].Store
	}
}

// ReadModel returns a model of a store.
func (s *Server) ReadModel(ctx context.Context, req *pb.ReadModelRequest) (*pb.ReadModelResponse, error) {
	answer, err := s.readModel(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) readModel(ctx context.Context, req *pb.ReadModelRequest) (*pb.ReadModelResponse, error) {
	store, err := readStore("store", req.Store)
	if err != nil {
		return nil, err
	}
	id, err := readModelID("model", req.Model)
	if err != nil {
		return nil, err
	}
	v, err := s.liveView(ctx, store, req.Freshness)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if id.IsZero() && v.NewestModel().IsZero() {
		return nil, &fieldError{"model", fmt.Errorf("%w: %s", ledger.ErrNotFound, query.NoModel(v))}
	}
	source, rev, err := v.ModelSource(id)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, &fieldError{"model", err}
	}
	if err != nil {
		return nil, err
	}
	entry, err := v.Entry(rev)
	if err != nil {
		return nil, err
	}
	token, err := v.Token()
	if err != nil {
		return nil, err
	}
	return &pb.ReadModelResponse{
		Model: &pb.Model{Id: source.ID.String(), Revision: uint64(rev), Time: timeMessage(entry.Time), Source: modelSourceMessage(&source)},
		Token: token.String(),
	}, nil
}

// ListModels lists the models of a store, the newest first.
func (s *Server) ListModels(ctx context.Context, req *pb.ListModelsRequest) (*pb.ListModelsResponse, error) {
	answer, err := s.listModels(ctx, req)
	if err != nil {
		return nil, s.rpcError(ctx, err)
	}
	return answer, nil
}

func (s *Server) listModels(ctx context.Context, req *pb.ListModelsRequest) (*pb.ListModelsResponse, error) {
	store, err := readStore("store", req.Store)
	if err != nil {
		return nil, err
	}
	size, err := readPageSize(req.PageSize)
	if err != nil {
		return nil, err
	}
	var before uint64 // the page token is the last revision of the page before
	if req.PageToken != "" {
		if before, err = strconv.ParseUint(req.PageToken, 10, 64); err != nil || before == 0 {
			return nil, malformed("page_token", "must be one that ListModels gave")
		}
	}
	v, err := s.liveView(ctx, store, req.Freshness)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	answer := &pb.ListModelsResponse{}
	models := v.Models()
	for i := len(models) - 1; i >= 0; i-- {
		m := models[i]
		if before != 0 && uint64(m.Revision) >= before {
			continue
		}
		if len(answer.Models) == size {
			answer.NextPageToken = strconv.FormatUint(answer.Models[size-1].Revision, 10)
			break
		}
		answer.Models = append(answer.Models, &pb.Model{Id: m.ID.String(), Revision: uint64(m.Revision)})
	}
	return answer, nil
}
