package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger/model"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *app) grantCommand() *cobra.Command {
	var why why
	var expires, notBefore, condition, contextText, owner string
	c := &cobra.Command{
		Use:   "grant SUBJECT RELATION OBJECT",
		Short: "Grant a relation on an object to a subject",
		Long: `Grants RELATION on OBJECT to SUBJECT: one object (user:ann), all holders of a
relation (group:eng#member), or every subject of a type (user:*), as the model allows.

Granting what is granted already in the same way has no effect; with another expiry,
start, condition or owner it becomes a new version of the tuple. The command is
recorded in any case, and with it the reason, the ticket and what was decided.

Exit status: 0 applied, 1 rejected, 2 error.`,
		Example: `  grantlog grant user:ann viewer doc:plan
  grantlog grant user:ann viewer doc:plan --expires 8h --reason "on call" --ticket INC-7
  grantlog grant user:ann viewer doc:plan --not-before 2030-01-01T00:00:00Z --expires 2030-02-01T00:00:00Z
  grantlog grant group:eng#member reader db:main --condition office_network --context '{"network":"10.0.0.0/8"}'`,
		Args: takes("SUBJECT", "RELATION", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := readTuple(args)
			if err != nil {
				return err
			}
			g := &pb.Grant{Tuple: t, Condition: condition, Owner: owner}
			if err := readExpiry(expires, g); err != nil {
				return err
			}
			if notBefore != "" {
				if g.NotBefore, err = readMoment("--not-before", notBefore); err != nil {
					return err
				}
			}
			if g.Context, err = readContext(contextText); err != nil {
				return err
			}
			if g.Context != nil && condition == "" {
				return fmt.Errorf("--context is for the parameters of a condition: name it with --condition")
			}
			return a.submit(cmd.Context(), &why, &pb.Change{Change: &pb.Change_Grant{Grant: g}})
		},
	}
	f := c.Flags()
	f.StringVar(&expires, "expires", "", "how long it counts, such as 8h or 90m, or a `moment` such as 2030-01-31T08:00:00Z; for ever if not given")
	f.StringVar(&notBefore, "not-before", "", "the `moment` from which it counts; at once if not given")
	f.StringVar(&condition, "condition", "", "the `name` of the model's condition under which it counts")
	f.StringVar(&contextText, "context", "", "values for the condition's parameters, a `JSON` object")
	f.StringVar(&owner, "owner", "", "label of `who` manages the grant")
	why.flags(c)
	return c
}

func (a *app) revokeCommand() *cobra.Command {
	var why why
	c := &cobra.Command{
		Use:   "revoke SUBJECT RELATION OBJECT",
		Short: "End a grant",
		Long: `Ends what was granted to SUBJECT itself. What SUBJECT holds in another way, through
a group or another relation, it keeps: "grantlog check" tells.

Revoking what is not granted has no effect, and is recorded. Exit status: 0 applied,
1 rejected, 2 error.`,
		Example: `  grantlog revoke user:ann viewer doc:plan --reason "left the team" --ticket HR-31`,
		Args:    takes("SUBJECT", "RELATION", "OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := readTuple(args)
			if err != nil {
				return err
			}
			return a.submit(cmd.Context(), &why, &pb.Change{Change: &pb.Change_Revoke{Revoke: &pb.Revoke{Tuple: t}}})
		},
	}
	why.flags(c)
	return c
}

// submit sends one change as a command to the store of the flags and prints what
// became of it.
func (a *app) submit(ctx context.Context, why *why, change *pb.Change) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	id, err := why.command()
	if err != nil {
		return err
	}
	ctx, cancel := a.patience(ctx)
	defer cancel()
	store, err := a.storeID(ctx, c)
	if err != nil {
		return err
	}
	r, err := c.ledger.Submit(ctx, &pb.SubmitRequest{
		Actor: why.actor,
		Command: &pb.Command{
			Id: id, Store: store, Reason: why.reason, Ticket: why.ticket, Channel: channel, Changes: []*pb.Change{change},
		},
	})
	if err != nil {
		return c.lost(err, id)
	}
	return a.submitted(r)
}

// submitted prints what became of a command; a rejection is a no.
func (a *app) submitted(r *pb.SubmitResponse) error {
	var err error
	if a.json() {
		err = a.message(r)
	} else {
		store := ""
		if r.GetStore() == "system" {
			store = "system"
		}
		err = a.facts(outcomeLine(r), "command", r.GetId(), "model", r.GetModel(), "store", store, "token", r.GetToken())
	}
	if err != nil {
		return err
	}
	for _, o := range []*pb.Outcome{r.GetOutcome(), r.GetOriginal()} {
		if o.GetKind() == pb.Outcome_REJECTED {
			return &no{"rejected: " + rejectionText(o.GetRejection())}
		}
	}
	return nil
}

// outcomeLine says what was decided about a command, and where it is recorded.
func outcomeLine(r *pb.SubmitResponse) string {
	line := fmt.Sprintf("%s at revision %d", kindOf(r.GetOutcome()), r.GetRevision())
	switch r.GetOutcome().GetKind() {
	case pb.Outcome_APPLIED:
		if r.GetOutcome().GetEffective() == 0 {
			line += ", without effect: it was so already"
		}
	case pb.Outcome_DUPLICATE:
		line += fmt.Sprintf(" of the command at revision %d, which was %s", r.GetOutcome().GetFirst(), kindOf(r.GetOriginal()))
	}
	return line
}

// readExpiry reads a span such as 8h, or a moment, into the grant.
func readExpiry(text string, g *pb.Grant) (err error) {
	switch {
	case text == "":
		return nil
	case strings.Contains(text, "T"): // no span has one
		g.ExpiresAt, err = readMoment("--expires", text)
		return err
	}
	span, err := model.ParseDuration(text)
	switch {
	case err != nil:
		return fmt.Errorf("--expires: %w, nor a moment such as 2030-01-31T08:00:00Z", err)
	case span <= 0:
		return fmt.Errorf("--expires must be above 0, is %s", text)
	}
	g.ExpiresAfter = durationpb.New(time.Duration(span))
	return nil
}

func readMoment(flag, text string) (*timestamppb.Timestamp, error) {
	at, err := model.ParseTimestamp(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return timestamppb.New(time.Unix(0, at)), nil
}

// readContext reads a JSON object, or nothing.
func readContext(text string) (*structpb.Struct, error) {
	if text == "" {
		return nil, nil
	}
	v, err := model.ParseJSON([]byte(text))
	if err == nil && v.Kind != model.MapValue {
		err = errors.New("it is another kind of value")
	}
	if err != nil {
		return nil, fmt.Errorf("--context must be a JSON object such as '{\"name\": \"value\"}': %w", err)
	}
	return contextValue(v).GetStructValue(), nil
}

// contextValue is a value as the API has it. Its numbers are doubles, so a whole number
// that none of them is exactly goes as text, which the server reads as the number. Those
// that one is exactly stay numbers, as a parameter of type any tells the two apart.
func contextValue(v model.Value) *structpb.Value {
	switch v.Kind {
	case model.BoolValue:
		return structpb.NewBoolValue(v.Bool)
	case model.IntValue:
		if d := float64(v.Int); d < 1<<63 && int64(d) == v.Int {
			return structpb.NewNumberValue(d)
		}
		return structpb.NewStringValue(strconv.FormatInt(v.Int, 10))
	case model.UintValue:
		return structpb.NewStringValue(strconv.FormatUint(v.Uint, 10))
	case model.DoubleValue:
		return structpb.NewNumberValue(v.Double)
	case model.StringValue:
		return structpb.NewStringValue(v.String)
	case model.ListValue:
		list := &structpb.ListValue{}
		for _, e := range v.List {
			list.Values = append(list.Values, contextValue(e))
		}
		return structpb.NewListValue(list)
	case model.MapValue:
		fields := make(map[string]*structpb.Value, len(v.Map))
		for _, f := range v.Map {
			fields[f.Name] = contextValue(f.Value)
		}
		return structpb.NewStructValue(&structpb.Struct{Fields: fields})
	}
	return structpb.NewNullValue()
}
