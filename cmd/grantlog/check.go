package main

import (
	"errors"
	"fmt"

	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query"
	"github.com/spf13/cobra"
)

func (a *app) checkCommand() *cobra.Command {
	var contextText, atLeast, modelID string
	var contextual []string
	var latest bool
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
all that was acknowledged before, on any server.`,
		Example: `  grantlog check user:ann viewer doc:plan && echo "go on"
  grantlog check user:ann reader db:main --context '{"ip":"10.1.2.3"}'
  grantlog check user:ann viewer doc:plan --contextual "user:ann member group:eng"`,
		Args: takes("SUBJECT", "RELATION", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := readTuple(args)
			if err != nil {
				return err
			}
			q := &pb.CheckRequest{Tuple: t, Model: modelID}
			if q.Context, err = readContext(contextText); err != nil {
				return err
			}
			for _, text := range contextual {
				t, err := readTupleText(text)
				if err != nil {
					return fmt.Errorf("--contextual: %w", err)
				}
				q.Contextual = append(q.Contextual, &pb.ContextualTuple{Tuple: t})
			}
			switch {
			case latest && atLeast != "":
				return errors.New("--latest and --at-least exclude each other: the latest is at least as new as any token")
			case latest:
				q.Freshness = &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}
			case atLeast != "":
				q.Freshness = &pb.Freshness{Freshness: &pb.Freshness_AtLeast{AtLeast: atLeast}}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			if q.Store, err = a.storeID(ctx, c); err != nil {
				return err
			}
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
		},
	}
	f := c.Flags()
	f.StringVar(&contextText, "context", "", "values for the parameters of conditions, a `JSON` object")
	f.StringArrayVar(&contextual, "contextual", nil, "a `tuple` that counts as granted for this question, \"SUBJECT RELATION OBJECT\"; may be given again")
	f.StringVar(&atLeast, "at-least", "", "answer at the revision of this `token` or a later one")
	f.BoolVar(&latest, "latest", false, "answer with all that was acknowledged before")
	f.StringVar(&modelID, "model", "", "the `ID` of the model to answer under; the newest if not given")
	return c
}

// questionOf is a tuple as a question asked in this process.
func questionOf(t *pb.Tuple) (query.Question, error) {
	object, err := tuple.ParseObject(t.GetObject())
	if err != nil {
		return query.Question{}, err
	}
	subject, err := tuple.ParseSubject(t.GetSubject())
	if err != nil {
		return query.Question{}, err
	}
	asked, err := tuple.New(object, t.GetRelation(), subject)
	return query.Question{Tuple: asked}, err
}
