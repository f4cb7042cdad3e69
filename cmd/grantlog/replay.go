package main

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
)

func (a *app) replayCommand() *cobra.Command {
	var from uint64
	var follow bool
	c := &cobra.Command{
		Use:   "replay",
		Short: "Print the entries of a store in order",
		Long: `Prints what was recorded in a store, from revision 1 or --from on: every command with
who asked, why, and what was decided. Rejected commands and duplicates are among them.

The store "system" has the creation and deletion of stores, and what reached the log
without being a command for a live store. Deleted stores are printed too. With
-o json, one entry a line, complete.`,
		Example: `  grantlog replay --store acme
  grantlog replay --store acme --from 4000 --follow
  grantlog replay --store system -o json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == 0 {
				return errors.New("--from is a revision and begins at 1")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			store, err := a.storeID(ctx, c)
			if err != nil {
				return err
			}
			printer := a.entryPrinter()
			err = c.replay(cmd.Context(), &pb.ReplayRequest{Store: store, Start: &pb.ReplayRequest_From{From: from}, Follow: follow}, printer)
			if follow && cmd.Context().Err() != nil {
				return nil // Ctrl-C is how following ends
			}
			return err
		},
	}
	f := c.Flags()
	f.Uint64Var(&from, "from", 1, "the first `revision` to print")
	f.BoolVar(&follow, "follow", false, "wait for new entries, until Ctrl-C")
	return c
}

// replay calls f for each entry.
func (c *client) replay(ctx context.Context, q *pb.ReplayRequest, f func(*pb.Entry) error) error {
	stream, err := c.audit.Replay(ctx, q)
	if err != nil {
		return c.plain(err)
	}
	defer stream.Close()
	for stream.Receive() {
		for _, e := range stream.Msg().GetEntries() {
			if err := f(e); err != nil {
				return err
			}
		}
	}
	if err := stream.Err(); err != nil {
		return c.plain(err)
	}
	return nil
}

// entryPrinter prints entries one by one. Its columns are as wide from the first line
// on as they usually get, since the widest is not known before the end.
func (a *app) entryPrinter() func(*pb.Entry) error {
	if a.json() {
		return func(e *pb.Entry) error { return a.message(e) }
	}
	const columns = "%8s  %-20s  %-14s  %-9s  %s\n"
	begun := false
	return func(e *pb.Entry) error {
		if !begun {
			begun = true
			if _, err := fmt.Fprintf(a.stdout, columns, "REVISION", "TIME", "ACTOR", "OUTCOME", "COMMAND"); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(a.stdout, columns, fmt.Sprint(e.GetRevision()), clock(e.GetTime()), oneLine(e.GetActor()), kindOf(e.GetOutcome()), entryText(e))
		return err
	}
}

// entryText says on one line what an entry asked for, why, and what was wrong.
func entryText(e *pb.Entry) string {
	text := describeCommand(e.GetCommand())
	if r := e.GetCommand().GetReason(); r != "" {
		text += fmt.Sprintf("  %q", r)
	}
	if t := e.GetCommand().GetTicket(); t != "" {
		text += "  " + oneLine(t)
	}
	switch o := e.GetOutcome(); o.GetKind() {
	case pb.Outcome_APPLIED:
		if o.GetEffective() == 0 {
			text += "  without effect"
		}
	case pb.Outcome_REJECTED:
		text += "  because " + oneLine(rejectionText(o.GetRejection()))
	case pb.Outcome_DUPLICATE:
		text += fmt.Sprintf("  of revision %d", o.GetFirst())
	}
	return text
}
