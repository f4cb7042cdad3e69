package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *app) listCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "list",
		Short: "List objects, subjects or relations",
		Long: `Lists on which objects a subject holds a relation, which subjects hold a relation on an
object, or which relations a subject holds on an object. Whatever "grantlog check" allows
is on the list, and nothing else.

A list is complete and all of one revision. What has no answer, for want of context for
instance, is an error that names it; with --undecided it is printed among the others, as
such, and the list goes on.

With --at it is the list of a moment of the past; of which revision, is said on the
standard error.`,
	}, a.listObjectsCommand(), a.listSubjectsCommand(), a.listRelationsCommand())
}

// A paging is what the flags say about pages: without any, all of a list is printed.
type paging struct {
	size  uint32
	token string
}

func (p *paging) flags(f *pflag.FlagSet) {
	f.Uint32Var(&p.size, "page-size", 0, "print one page of so many `items`, at most 1000, and how to go on; all if not given")
	f.StringVar(&p.token, "page-token", "", "go on where the page ended that printed this `token`")
}

// onePage reports whether one page is wanted, not all of the list.
func (p *paging) onePage() bool { return p.size > 0 }

// A dated answer says of which revision and moment it is.
type dated interface {
	GetRevision() uint64
	GetEvaluatedAt() *timestamppb.Timestamp
}

// asOf says on the standard error of which revision an answer is, where the answer itself
// is a list: if it is about the past, or a page of a list that may be.
func (a *app) asOf(g *given, goneOn bool, answer dated) {
	if (g.at != "" || goneOn) && !a.json() {
		fmt.Fprintf(a.stderr, "grantlog: as of revision %d, %s\n", answer.GetRevision(), exactly(answer.GetEvaluatedAt())) // a note: it may fail
	}
}

// eachPage calls print with each page: one by one, or all that are streamed.
func eachPage[M interface {
	dated
	GetNextPageToken() string
}, S any](a *app, c *client, g *given, p *paging, page func() (M, error), stream func() (*connect.ServerStreamForClient[S], error), of func(*S) M, print func(M) error) error {
	if p.onePage() {
		m, err := page()
		if err != nil {
			return c.plain(err)
		}
		if err := print(m); err != nil {
			return err
		}
		a.asOf(g, p.token != "", m)
		return nil
	}
	s, err := stream()
	if err != nil {
		return c.plain(err)
	}
	defer s.Close()
	var last M
	next := "" // page, if the stream ended now
	for s.Receive() {
		last = of(s.Msg())
		if err := print(last); err != nil {
			return err
		}
		next = last.GetNextPageToken()
	}
	err = s.Err()
	switch {
	case err != nil && next != "":
		return fmt.Errorf("%w; the list goes on with --page-token %s", c.plain(err), next)
	case err != nil:
		return c.plain(err)
	case next != "":
		return fmt.Errorf("the stream ended before the list did; it goes on with --page-token %s", next)
	}
	a.asOf(g, p.token != "", last)
	return nil
}

// items prints the items of a page, one a line, and on the standard error how to go on
// if it is the only page.
func (a *app) items(p *paging, next string, list, excluded []string, undecided []*pb.Undecided) error {
	for _, item := range list {
		if _, err := fmt.Fprintln(a.stdout, item); err != nil {
			return err
		}
	}
	for _, item := range excluded {
		if _, err := fmt.Fprintf(a.stdout, "%s  excluded\n", item); err != nil {
			return err
		}
	}
	for _, u := range undecided {
		if _, err := fmt.Fprintf(a.stdout, "%s  undecided: %s\n", u.GetItem(), oneLine(u.GetError().GetMessage())); err != nil {
			return err
		}
	}
	if next != "" && p.onePage() {
		fmt.Fprintf(a.stderr, "grantlog: there is more; go on with --page-token %s\n", next) // a note: it may fail
	}
	return nil
}

func (a *app) listObjectsCommand() *cobra.Command {
	var given given
	var paging paging
	var undecided bool
	c := &cobra.Command{
		Use:   "objects SUBJECT RELATION TYPE",
		Short: "List the objects of a type on which a subject holds a relation",
		Long: `Prints the objects of TYPE on which SUBJECT holds RELATION, one a line, in order of
id. With -o json, one page of the list a line.`,
		Example: `  grantlog list objects user:ann viewer doc
  grantlog list objects group:eng#member editor doc --page-size 100`,
		Args: takes("SUBJECT", "RELATION", "TYPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := tuple.ParseSubject(args[0]); err != nil {
				return err
			}
			q := &pb.ListObjectsRequest{Subject: args[0], Relation: args[1], Type: args[2],
				Model: given.model, PageSize: paging.size, PageToken: paging.token, Undecided: undecided}
			var err error
			if q.Contextual, q.Context, q.Freshness, err = given.read(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				q.Store = store
				return eachPage(a, c, &given, &paging,
					func() (*pb.ListObjectsResponse, error) { return c.permissions.ListObjects(ctx, q) },
					func() (*connect.ServerStreamForClient[pb.StreamObjectsResponse], error) {
						return c.permissions.StreamObjects(cmd.Context(), &pb.StreamObjectsRequest{List: q})
					},
					(*pb.StreamObjectsResponse).GetPage,
					func(m *pb.ListObjectsResponse) error {
						if a.json() {
							return a.message(m)
						}
						return a.items(&paging, m.GetNextPageToken(), m.GetObjects(), nil, m.GetUndecided())
					})
			})
		},
	}
	f := c.Flags()
	given.flags(f)
	paging.flags(f)
	undecidedFlag(f, &undecided)
	return c
}

func undecidedFlag(f *pflag.FlagSet, undecided *bool) {
	f.BoolVar(undecided, "undecided", false, "print what has no answer as such, instead of failing")
}

func (a *app) listSubjectsCommand() *cobra.Command {
	var given given
	var paging paging
	var undecided bool
	c := &cobra.Command{
		Use:   "subjects KIND RELATION OBJECT",
		Short: "List the subjects of a kind that hold a relation on an object",
		Long: `Prints the subjects of KIND that hold RELATION on OBJECT, one a line, in order of id.
KIND is a type (user), or a type and a relation for usersets (group#member).

If everyone of the type holds it, the wildcard (user:*) is on the list; it stands for all
subjects of the type but those printed as excluded. With -o json, one page a line.`,
		Example: `  grantlog list subjects user viewer doc:plan
  grantlog list subjects group#member viewer doc:plan`,
		Args: takes("KIND", "RELATION", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := tuple.ParseObject(args[2]); err != nil {
				return err
			}
			q := &pb.ListSubjectsRequest{Kind: args[0], Relation: args[1], Object: args[2],
				Model: given.model, PageSize: paging.size, PageToken: paging.token, Undecided: undecided}
			var err error
			if q.Contextual, q.Context, q.Freshness, err = given.read(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				q.Store = store
				return eachPage(a, c, &given, &paging,
					func() (*pb.ListSubjectsResponse, error) { return c.permissions.ListSubjects(ctx, q) },
					func() (*connect.ServerStreamForClient[pb.StreamSubjectsResponse], error) {
						return c.permissions.StreamSubjects(cmd.Context(), &pb.StreamSubjectsRequest{List: q})
					},
					(*pb.StreamSubjectsResponse).GetPage,
					func(m *pb.ListSubjectsResponse) error {
						if a.json() {
							return a.message(m)
						}
						return a.items(&paging, m.GetNextPageToken(), m.GetSubjects(), m.GetExcluded(), m.GetUndecided())
					})
			})
		},
	}
	f := c.Flags()
	given.flags(f)
	paging.flags(f)
	undecidedFlag(f, &undecided)
	return c
}

func (a *app) listRelationsCommand() *cobra.Command {
	var given given
	var undecided bool
	var relations []string
	c := &cobra.Command{
		Use:   "relations SUBJECT OBJECT",
		Short: "List the relations that a subject holds on an object",
		Long: `Prints the relations that SUBJECT holds on OBJECT, one a line, in the order of the
model. With -o json, one object with all.`,
		Example: `  grantlog list relations user:ann doc:plan
  grantlog list relations user:ann doc:plan --relation editor --relation viewer`,
		Args: takes("SUBJECT", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := tuple.ParseSubject(args[0]); err != nil {
				return err
			}
			if _, err := tuple.ParseObject(args[1]); err != nil {
				return err
			}
			q := &pb.ListRelationsRequest{Subject: args[0], Object: args[1], Relations: relations, Model: given.model, Undecided: undecided}
			var err error
			if q.Contextual, q.Context, q.Freshness, err = given.read(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				q.Store = store
				r, err := c.permissions.ListRelations(ctx, q)
				if err != nil {
					return c.plain(err)
				}
				if a.json() {
					return a.message(r)
				}
				if err := a.items(&paging{}, "", r.GetRelations(), nil, r.GetUndecided()); err != nil {
					return err
				}
				a.asOf(&given, false, r)
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&relations, "relation", nil, "ask about this `relation` alone; may be given again")
	given.flags(f)
	undecidedFlag(f, &undecided)
	return c
}
