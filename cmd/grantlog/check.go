package main

import (
	"context"
	"fmt"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
)

func (a *app) checkCommand() *cobra.Command {
	var given given
	c := &cobra.Command{
		Use:   "check SUBJECT RELATION OBJECT",
		Short: "Ask whether a subject holds a relation on an object",
		Long: `Asks whether SUBJECT holds RELATION on OBJECT. SUBJECT may be one object (user:ann),
all holders of a relation (group:eng#member), or every subject of a type (user:*).

There are three answers, told by the exit status: 0 allowed, 1 denied, 2 error. A
question that cannot be answered, for want of context for instance, is an error and
never a denial.

The answer comes from what the server has applied. With --at-least it waits for the
revision of a token, which every write and every check prints; with --latest it has
all that was acknowledged before, on any server.

With --at it is the answer of a moment of the past: by the tuples, the model and the
clock of then. ` + momentForms + `
Between two entries the one before counts; the answer says which revision it was.`,
		Example: `  grantlog check user:ann viewer doc:plan && echo "go on"
  grantlog check user:ann viewer doc:plan --at 2026-11-01T17:30:00Z
  grantlog check user:ann reader db:main --context '{"ip":"10.1.2.3"}'
  grantlog check user:ann viewer doc:plan --contextual "user:ann member group:eng"
  grantlog check user:ann viewer doc:plan --contextual 'user:ann viewer doc:plan with office {"country": "fr"}'`,
		Args: takes("SUBJECT", "RELATION", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := readTuple(args)
			if err != nil {
				return err
			}
			q := &pb.CheckRequest{Tuple: t, Model: given.model}
			if q.Contextual, q.Context, q.Freshness, err = given.read(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				q.Store = store
				r, err := c.permissions.Check(ctx, q)
				if err != nil {
					return c.plain(err)
				}
				if a.json() {
					err = a.message(r)
				} else {
					answer := "denied"
					if r.GetAllowed() {
						answer = "allowed"
					}
					err = a.facts(fmt.Sprintf("%s at revision %d", answer, r.GetRevision()), "token", r.GetToken())
				}
				if err == nil && !r.GetAllowed() {
					return &no{}
				}
				return err
			})
		},
	}
	given.flags(c.Flags())
	return c
}
