package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
)

func (a *app) historyCommand() *cobra.Command {
	var given given
	var object, subject, resume string
	var tokens bool
	c := &cobra.Command{
		Use:   "history [SUBJECT RELATION OBJECT]",
		Short: "Print what became of a tuple, of an object or of a subject",
		Long: `Prints every grant, change, revoke and expiry of a tuple, of all tuples that grant
something on an object (--object), or of all that grant something to a subject
(--subject), in the order of time, each with the command behind it. Of an expiry, that is
the command that had granted the tuple.

A tuple is changed if it is granted with other terms while it is granted already. From
the moment of its expiry on it is not granted any more, and is granted anew if it is
granted again.

As of a moment of the past (--at), what came later is not told. ` + momentForms + `

The times of the table are cut to the second, and so may be just before their entry: give
its revision to --at, or the time that -o json has.

Deleted stores are told too. With -o json, one item a line.`,
		Example: `  grantlog history user:ann viewer doc:plan
  grantlog history --object doc:plan
  grantlog history --subject 'group:eng#member' --at 2026-11-01
  grantlog history --object doc:plan -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			given := 0
			for _, set := range []bool{len(args) > 0, object != "", subject != ""} {
				if set {
					given++
				}
			}
			if given != 1 {
				return fmt.Errorf("%s takes a tuple, --object or --subject, and one of them; see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			if len(args) == 0 {
				return nil
			}
			return takes("SUBJECT", "RELATION", "OBJECT")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			q := &pb.HistoryRequest{Object: object, Subject: subject, ResumeToken: resume}
			switch {
			case object != "":
				if _, err = tuple.ParseObject(object); err != nil {
					err = fmt.Errorf("--object: %w", err)
				}
			case subject != "":
				if _, err = tuple.ParseSubject(subject); err != nil {
					err = fmt.Errorf("--subject: %w", err)
				}
			default:
				q.Tuple, err = readTuple(args)
			}
			if err != nil {
				return err
			}
			if q.Freshness, err = given.freshness(); err != nil {
				return err
			}
			return a.askStore(cmd.Context(), func(_ context.Context, c *client, store string) error {
				q.Store = store
				return a.history(cmd.Context(), c, q, &given, tokens)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&object, "object", "", "the history of all tuples on this `object`")
	f.StringVar(&subject, "subject", "", "the history of all tuples of this `subject`")
	f.StringVar(&resume, "resume", "", "go on where the history ended that printed this `token`")
	f.BoolVar(&tokens, "tokens", false, tokensHelp)
	given.momentFlags(f)
	return c
}

// history prints a history as it comes.
func (a *app) history(ctx context.Context, c *client, q *pb.HistoryRequest, g *given, tokens bool) error {
	stream, err := c.audit.History(ctx, q)
	if err != nil {
		return c.plain(err)
	}
	defer stream.Close()
	var last *pb.HistoryResponse
	printed := 0
	for stream.Receive() {
		last = stream.Msg()
		for _, item := range last.GetItems() {
			if err := a.historyItem(item, printed == 0); err != nil {
				return err
			}
			printed++
		}
		if a.json() && tokens {
			if err := a.value(resumption{ResumeToken: last.GetResumeToken()}); err != nil {
				return err
			}
		}
	}
	if err := stream.Err(); err != nil || a.json() {
		return c.broken(err, last.GetResumeToken())
	}
	if printed == 0 {
		more := ""
		if q.GetResumeToken() != "" {
			more = "more "
		}
		if _, err := fmt.Fprintf(a.stdout, "no %shistory up to revision %d, %s\n", more, last.GetRevision(), clock(last.GetEvaluatedAt())); err != nil {
			return err
		}
	} else {
		a.asOf(g, q.GetResumeToken() != "", last)
	}
	if tokens {
		a.goOn(last.GetResumeToken())
	}
	return nil
}

// historyItem prints an item. The columns are as wide as they usually get.
func (a *app) historyItem(item *pb.HistoryItem, first bool) error {
	if a.json() {
		return a.message(item)
	}
	const columns = "%-20s  %8s  %-14s  %-7s  %s\n"
	if first {
		if _, err := fmt.Fprintf(a.stdout, columns, "TIME", "REVISION", "ACTOR", "WHAT", "TUPLE"); err != nil {
			return err
		}
	}
	command := item.GetCommand()
	actor, revision := oneLine(command.GetActor()), fmt.Sprint(command.GetRevision())
	text := said(item.GetGrant().GetTuple())
	switch item.GetKind() {
	case pb.HistoryItem_EXPIRED: // by nobody
		text += fmt.Sprintf("  granted by %s at revision %s", actor, revision)
		actor, revision = "", ""
	case pb.HistoryItem_GRANTED, pb.HistoryItem_CHANGED:
		text += grantTerms(item.GetGrant())
	}
	if command.GetReason() != "" {
		text += fmt.Sprintf("  %q", command.GetReason())
	}
	if command.GetTicket() != "" {
		text += "  " + oneLine(command.GetTicket())
	}
	_, err := fmt.Fprintf(a.stdout, columns, clock(item.GetTime()), revision, actor, strings.ToLower(item.GetKind().String()), text)
	return err
}
