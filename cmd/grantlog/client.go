package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
)

// A client asks one server.
type client struct {
	base        string
	interrupted func() bool   // whether the command was, by Ctrl-C
	patience    time.Duration // for a report to begin; 0 for ever
	ledger      grantlogv1connect.LedgerServiceClient
	permissions grantlogv1connect.PermissionServiceClient
	stores      grantlogv1connect.StoreServiceClient
	audit       grantlogv1connect.AuditServiceClient
}

func newClient(base string) *client { return newClientOver(http.DefaultClient, base) }

func newClientOver(h *http.Client, base string) *client {
	base = strings.TrimRight(base, "/")
	return &client{
		base:        base,
		interrupted: func() bool { return false },
		ledger:      grantlogv1connect.NewLedgerServiceClient(h, base),
		permissions: grantlogv1connect.NewPermissionServiceClient(h, base),
		stores:      grantlogv1connect.NewStoreServiceClient(h, base),
		audit:       grantlogv1connect.NewAuditServiceClient(h, base),
	}
}

// client returns a client of the server that the flags name.
func (a *app) client() (*client, error) {
	u, err := url.Parse(a.server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("--server must be a URL such as http://127.0.0.1:8080, not %q", a.server)
	}
	c := newClient(a.server)
	c.interrupted = a.interrupted
	c.patience = a.timeout
	return c, nil
}

// patience returns a context for one request that ends.
func (a *app) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}

// A refusedError is that the server refuses a request, and the field that is why.
type refusedError struct{ field, text string }

func (e *refusedError) Error() string { return e.text }

// plain returns an error of a request as a person reads it, an [*refusedError] if it is one.
func (c *client) plain(err error) error {
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return err
	}
	if connect.IsWireError(err) {
		for _, d := range failed.Details() {
			if v, err := d.Value(); err == nil {
				if lost, ok := v.(*pb.UnknownOutcome); ok {
					return fmt.Errorf("the answer was lost and the command may be in the log: run it again with --id %s (%s)", lost.GetId(), failed.Message())
				}
			}
		}
		if r := rejection(err); r != nil {
			return &refusedError{r.GetField(), fmt.Sprintf("%s: %s", failed.Code(), failed.Message())}
		}
		return fmt.Errorf("%s: %s", failed.Code(), failed.Message())
	}
	var read *net.OpError
	switch {
	case c.interrupted():
		return errors.New("interrupted")
	case failed.Code() == connect.CodeCanceled, // also what a request is that its server leaves by dying
		errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &read) && read.Op == "read":
		return fmt.Errorf("unavailable: the answer from %s was cut off", c.base)
	}
	switch failed.Code() {
	case connect.CodeUnavailable:
		return fmt.Errorf("no server answers at %s: start one with \"grantlog serve\", or name another with --server (%s)", c.base, failed.Message())
	case connect.CodeDeadlineExceeded:
		return fmt.Errorf("no answer from %s in time; allow more with --timeout", c.base)
	}
	return fmt.Errorf("%s: %s: is a grantlog server at %s?", failed.Code(), failed.Message(), c.base)
}

// rejection returns what a server said of a request that it does not take, or nil.
func rejection(err error) *pb.Rejection {
	var failed *connect.Error
	if !errors.As(err, &failed) || !connect.IsWireError(err) {
		return nil
	}
	for _, d := range failed.Details() {
		if v, err := d.Value(); err == nil {
			if r, ok := v.(*pb.Rejection); ok {
				return r
			}
		}
	}
	return nil
}

// lost is plain for a command of this id. Unless no server was reached, or one gave an
// answer, it says that the command may be in the log all the same.
func (c *client) lost(err error, id string) error {
	var dial *net.OpError
	if connect.IsWireError(err) || errors.As(err, &dial) && dial.Op == "dial" {
		return c.plain(err)
	}
	return fmt.Errorf("%w; the command may be in the log: run it again with --id %s", c.plain(err), id)
}

// askStore calls ask with a client of the server and the id of the store that the flags
// name, and a context for one request.
func (a *app) askStore(ctx context.Context, ask func(ctx context.Context, c *client, store string) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := a.patience(ctx)
	defer cancel()
	store, err := a.storeID(ctx, c)
	if err != nil {
		return err
	}
	return ask(ctx, c, store)
}

// storeID returns the id of the store that --store names, by id or by name.
func (a *app) storeID(ctx context.Context, c *client) (string, error) {
	return a.findStore(ctx, c, a.store)
}

func (a *app) findStore(ctx context.Context, c *client, named string) (string, error) {
	if named != "" {
		if _, err := ledger.ParseID(named); err == nil {
			return named, nil
		}
	}
	var ids, deleted, all []string
	for page := ""; ; {
		r, err := c.stores.ListStores(ctx, &pb.ListStoresRequest{PageSize: 1000, PageToken: page, Deleted: true})
		if err != nil {
			return "", c.plain(err)
		}
		for _, s := range r.GetStores() {
			if s.GetStatus() == pb.Store_DELETED {
				if s.GetName() == named && len(deleted) < 10 {
					deleted = append(deleted, s.GetId())
				}
				continue
			}
			if s.GetName() == named {
				ids = append(ids, s.GetId())
			}
			if len(all) < 10 {
				all = append(all, fmt.Sprintf("%s %q", s.GetId(), s.GetName()))
			}
		}
		if page = r.GetNextPageToken(); page == "" {
			break
		}
	}
	here := "there is none yet: make one with \"grantlog store create NAME\""
	if len(all) > 0 {
		here = "there are " + strings.Join(all, ", ")
	}
	switch {
	case named == "":
		return "", fmt.Errorf("no store named: give --store or set GRANTLOG_STORE to an ID or a name; %s", here)
	case len(ids) == 0 && len(deleted) > 0:
		return "", fmt.Errorf("no store is called %q any more: name a deleted one by its ID, %s; \"grantlog store list --deleted\" has all", named, strings.Join(deleted, ", "))
	case len(ids) == 0:
		return "", fmt.Errorf("no store is called %q; %s", named, here)
	case len(ids) > 1:
		return "", fmt.Errorf("%d stores are called %q: give --store one of the IDs %s", len(ids), named, strings.Join(ids, ", "))
	}
	return ids[0], nil
}

// readTuple reads SUBJECT RELATION OBJECT.
func readTuple(args []string) (*pb.Tuple, error) {
	subject, err := tuple.ParseSubject(args[0])
	if err != nil {
		return nil, err
	}
	object, err := tuple.ParseObject(args[2])
	if err != nil {
		return nil, err
	}
	t, err := tuple.New(object, args[1], subject)
	if err != nil {
		return nil, err
	}
	return message(t), nil
}

// readTupleText reads a tuple in one text: "subject relation object", or
// object#relation@subject.
func readTupleText(text string) (*pb.Tuple, error) {
	if parts := strings.Fields(text); len(parts) == 3 {
		return readTuple(parts)
	}
	t, err := tuple.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q is neither \"subject relation object\" nor object#relation@subject: %w", text, err)
	}
	return message(t), nil
}

func message(t tuple.Tuple) *pb.Tuple {
	return &pb.Tuple{Object: t.Object.String(), Relation: t.Relation, Subject: t.Subject.String()}
}
