package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
)

func (a *app) expandCommand() *cobra.Command {
	var given given
	var levels uint32
	c := &cobra.Command{
		Use:   "expand RELATION OBJECT",
		Short: "Show who holds a relation on an object, as a tree",
		Long: `Shows who holds RELATION on OBJECT: the rule of the model as a tree, with the grants
that count now, and what these lead to. Each relation on each object is shown once.`,
		Example: `  grantlog expand viewer doc:plan
  grantlog expand viewer doc:plan --levels 10 -o json`,
		Args: takes("RELATION", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := tuple.ParseObject(args[1]); err != nil {
				return err
			}
			q := &pb.ExpandRequest{Relation: args[0], Object: args[1], Levels: levels, Model: given.model}
			var err error
			if q.Contextual, q.Context, q.Freshness, err = given.read(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				q.Store = store
				r, err := c.permissions.Expand(ctx, q)
				if err != nil {
					return c.plain(err)
				}
				if a.json() {
					return a.message(r)
				}
				if _, err := io.WriteString(a.stdout, treeText(r.GetTree())); err != nil {
					return err
				}
				a.asOf(&given, false, r)
				return nil
			})
		},
	}
	c.Flags().Uint32Var(&levels, "levels", 3, "how far down to show what rules and grants lead to, `1 to 64`")
	given.flags(c.Flags())
	return c
}

// treeText draws a tree.
func treeText(t *pb.Tree) string {
	var b strings.Builder
	b.WriteString(t.GetRelation() + " of " + t.GetObject() + "\n")
	drawRule(&b, "", true, t)
	return b.String()
}

// drawRule draws the rule of a tree below a line of its own, as the last of its parent
// or not.
func drawRule(b *strings.Builder, indent string, last bool, t *pb.Tree) {
	line := func(text string) string {
		branch, below := "├─ ", "│  "
		if last {
			branch, below = "└─ ", "   "
		}
		b.WriteString(indent + branch + text + "\n")
		return indent + below
	}
	grants := func(below string) {
		for i, g := range t.GetGrants() {
			drawGrant(b, below, i == len(t.GetGrants())-1, g)
		}
	}
	switch t.GetOperation() {
	case pb.Tree_GRANTED:
		if len(t.GetGrants()) == 0 {
			line("granted to nobody")
			return
		}
		grants(line("granted to"))
	case pb.Tree_COMPUTED:
		below := line(t.GetRule())
		for _, branch := range t.GetBranches() {
			drawRule(b, below, true, branch)
		}
	case pb.Tree_FROM:
		if len(t.GetGrants()) == 0 {
			line(t.GetRule() + ", which is nothing")
			return
		}
		grants(line(t.GetRule() + ", which is"))
	default:
		name := map[pb.Tree_Operation]string{pb.Tree_UNION: "any of", pb.Tree_INTERSECTION: "all of", pb.Tree_EXCLUSION: "the first but not the second of"}
		below := line(name[t.GetOperation()])
		for i, branch := range t.GetBranches() {
			drawRule(b, below, i == len(t.GetBranches())-1, branch)
		}
	}
}

func drawGrant(b *strings.Builder, indent string, last bool, g *pb.TreeGrant) {
	branch, below := "├─ ", "│  "
	if last {
		branch, below = "└─ ", "   "
	}
	b.WriteString(indent + branch + g.GetGrant().GetTuple().GetSubject() + grantTerms(g.GetGrant()))
	if e := g.GetError(); e != nil {
		b.WriteString("  undecided: " + oneLine(e.GetMessage()))
	}
	b.WriteByte('\n')
	if g.GetLeads() != nil {
		drawRule(b, indent+below, true, g.GetLeads())
	}
}

// grantTerms says under which terms a tuple was granted, "" for none.
func grantTerms(g *pb.GrantedTuple) string {
	text := ""
	if g.GetCondition() != "" {
		text += "  if " + g.GetCondition()
		if values, err := compactJSON(g.GetContext()); err == nil && g.GetContext() != nil {
			text += " " + values
		}
	}
	if t := g.GetNotBefore(); t != nil {
		text += "  from " + clock(t)
	}
	if t := g.GetExpiresAt(); t != nil {
		text += "  until " + clock(t)
	}
	if g.GetOwner() != "" {
		text += "  owner " + oneLine(g.GetOwner())
	}
	return text
}

func (a *app) readCommand() *cobra.Command {
	var given given
	var paging paging
	q := &pb.ReadTuplesRequest{}
	c := &cobra.Command{
		Use:   "read",
		Short: "Print granted tuples as they were granted",
		Long: `Prints what was granted and still counts: each tuple with the revision that granted
it, its condition and times. What somebody holds through groups and rules is another
question: "grantlog list", "grantlog expand". With -o json, one page a line.

With --inactive it also prints what was granted and does not count: what has expired,
what is still to come, and what the model does not allow any more.`,
		Example: `  grantlog read --object doc:plan
  grantlog read --object doc --relation viewer
  grantlog read --subject user:ann
  grantlog read --subject group#member --object folder:top`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q.Model, q.PageSize, q.PageToken = given.model, paging.size, paging.token
			var err error
			if q.Freshness, err = given.freshness(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				q.Store = store
				return eachPage(a, c, &given, &paging,
					func() (*pb.ReadTuplesResponse, error) { return c.permissions.ReadTuples(ctx, q) },
					func() (*connect.ServerStreamForClient[pb.StreamTuplesResponse], error) {
						return c.permissions.StreamTuples(cmd.Context(), &pb.StreamTuplesRequest{Read: q})
					},
					(*pb.StreamTuplesResponse).GetPage,
					func(m *pb.ReadTuplesResponse) error {
						if a.json() {
							return a.message(m)
						}
						for _, t := range m.GetTuples() {
							text := said(t.GetTuple()) + grantTerms(t)
							if s := t.GetState(); s != pb.GrantedTuple_ACTIVE {
								text += "  " + strings.ToLower(strings.ReplaceAll(s.String(), "_", " "))
							}
							if _, err := fmt.Fprintf(a.stdout, "%8d  %s\n", t.GetRevision(), text); err != nil {
								return err
							}
						}
						return a.items(&paging, m.GetNextPageToken(), nil, nil, nil)
					})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&q.Object, "object", "", "of this `object`, or of all objects of this type")
	f.StringVar(&q.Relation, "relation", "", "of this `relation`; --object must name at least the type")
	f.StringVar(&q.Subject, "subject", "", "to this `subject`, or to all of this kind (user, group#member)")
	f.BoolVar(&q.Inactive, "inactive", false, "print also what does not count")
	given.freshFlags(f)
	paging.flags(f)
	return c
}
