package main

import (
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) storeCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "store",
		Short: "Create, list, delete and restore stores",
		Long: `A store is one isolated permission space: its own model, tuples and revisions.
Creating and deleting stores are commands too, recorded in the store "system".`,
	}, a.storeCreateCommand(), a.storeListCommand(), a.storeDeleteCommand(), a.storeRestoreCommand())
}

func (a *app) storeCreateCommand() *cobra.Command {
	var why why
	var admin string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a store",
		Long: `Creates a store and prints its ID. Names need not be unique, but a name that one
store alone has can stand for its ID in --store.

Run it again under the same --id if the answer was lost: that creates no second store.`,
		Example: `  grantlog store create acme --reason "first try"`,
		Args:    takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			id, err := why.command()
			if err != nil {
				return err
			}
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			r, err := c.stores.CreateStore(ctx, &pb.CreateStoreRequest{
				Name: args[0], Admin: admin, Actor: why.actor, Reason: why.reason, Ticket: why.ticket, Channel: channel, Id: id,
			})
			if err != nil {
				return c.lost(err, id)
			}
			if a.json() {
				return a.message(r)
			}
			s := r.GetStore()
			return a.facts(fmt.Sprintf("store %s created", s.GetId()),
				"name", s.GetName(), "admin", s.GetAdmin(), "command", r.GetId(), "token", r.GetToken())
		},
	}
	c.Flags().StringVar(&admin, "admin", "", "the `actor` that is its first administrator; the asking actor if not given")
	why.flags(c)
	return c
}

func (a *app) storeListCommand() *cobra.Command {
	var deleted bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the stores",
		Long: `Lists the stores by ID, which is the order of their creation. One whose status is
restoring answers nothing yet. With -o json, one store a line.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			var rows [][]string
			for page := ""; ; {
				r, err := c.stores.ListStores(ctx, &pb.ListStoresRequest{PageSize: 1000, PageToken: page, Deleted: deleted})
				if err != nil {
					return c.plain(err)
				}
				for _, s := range r.GetStores() {
					if a.json() {
						if err := a.message(s); err != nil {
							return err
						}
						continue
					}
					rows = append(rows, []string{s.GetId(), oneLine(s.GetName()), storeStatus(s), fmt.Sprint(s.GetRevision()), clock(s.GetCreated()), oneLine(s.GetAdmin())})
				}
				if page = r.GetNextPageToken(); page == "" {
					break
				}
			}
			if a.json() {
				return nil
			}
			return a.rows([]string{"STORE", "NAME", "STATUS", "REVISION", "CREATED", "ADMIN"}, rows)
		},
	}
	c.Flags().BoolVar(&deleted, "deleted", false, "list deleted stores too")
	return c
}

func (a *app) storeDeleteCommand() *cobra.Command {
	var why why
	c := &cobra.Command{
		Use:   "delete STORE",
		Short: "Close a store for ever",
		Long: `Closes a store, given by ID or name, for commands and checks, for ever: its ID is
never used again. Its entries stay readable with "grantlog replay".

A store that is being restored is given up by that. Nothing of it stays readable.`,
		Example: `  grantlog store delete acme --reason "trial is over" --ticket OPS-12`,
		Args:    takes("STORE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			id, err := why.command()
			if err != nil {
				return err
			}
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			store, err := a.findStore(ctx, c, args[0])
			if err != nil {
				return err
			}
			r, err := c.stores.DeleteStore(ctx, &pb.DeleteStoreRequest{
				Store: store, Actor: why.actor, Reason: why.reason, Ticket: why.ticket, Channel: channel, Id: id,
			})
			if err != nil {
				return c.lost(err, id)
			}
			if a.json() {
				return a.message(r)
			}
			return a.facts(fmt.Sprintf("store %s deleted", store),
				"command", r.GetId(), "revision", fmt.Sprintf("%d of system", r.GetRevision()), "token", r.GetToken())
		},
	}
	why.flags(c)
	return c
}

// channel is the channel of what the verbs ask for.
const channel = "command line"

// A why is who asks for a command, for what reason, and under which id.
type why struct{ actor, reason, ticket, id string }

func (w *why) flags(c *cobra.Command) {
	w.who(c.Flags())
	c.Flags().StringVar(&w.id, "id", "", "the command's `UUID`; the same command under the same UUID is applied once")
}

// who are the flags for what is more than one command.
func (w *why) who(f *pflag.FlagSet) {
	f.StringVar(&w.actor, "actor", envOr("GRANTLOG_ACTOR", ""), "`who` asks; recorded as stated, \"anonymous\" if not given [GRANTLOG_ACTOR]")
	f.StringVar(&w.reason, "reason", "", "`why`, for people")
	f.StringVar(&w.ticket, "ticket", "", "the `ticket` that asked for it")
}

// command returns the id of the command: the given one, or a new one, so that a lost
// answer can be asked for again.
func (w *why) command() (string, error) {
	if w.id == "" {
		return ledger.NewUUID().String(), nil
	}
	if _, err := ledger.ParseUUID(w.id); err != nil {
		return "", fmt.Errorf("--id: %w", err)
	}
	return w.id, nil
}
