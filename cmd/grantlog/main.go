// Command grantlog is the permission ledger as one program: the server with its
// embedded log, the verbs that talk to a server, and what an operator does offline.
//
// Its exit status says what a script needs: 0, done or yes; 1, the answer is no (a
// check denied, a command rejected, a server not ready); 2, an error, told on the
// standard error as one line that begins with "grantlog: ".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit statuses.
const (
	statusYes   = 0
	statusNo    = 1
	statusError = 2
)

// A no is the error of a verb whose answer is no. Its text, if any, says why.
type no struct{ why string }

func (e *no) Error() string { return e.why }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command line and returns its exit status. The end of ctx is Ctrl-C.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, interrupted: func() bool { return ctx.Err() != nil }}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var answer *no
	switch {
	case err == nil:
		return statusYes
	case errors.As(err, &answer):
		if answer.why != "" {
			fmt.Fprintln(stderr, "grantlog: "+answer.why)
		}
		return statusNo
	}
	fmt.Fprintln(stderr, "grantlog: "+err.Error())
	return statusError
}

// An app is one run of the program: its streams, and the flags that all verbs share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	interrupted    func() bool // whether Ctrl-C was pressed

	server  string        // base URL of the server that client verbs ask
	store   string        // ID or name of the store they ask about
	output  string        // "table" or "json"
	timeout time.Duration // for one request that ends
}

// command returns the root of all verbs.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "grantlog",
		Short: "An event-sourced permission ledger",
		Long: `grantlog keeps who may do what as a log of commands, and answers checks from an
index folded from that log. The log that grants access is the log the auditor reads.

Begin with "grantlog demo": a sample company, a tour, and a server to try things on.

A tuple is said as SUBJECT RELATION OBJECT: user:ann viewer doc:plan, or for all
members of a group: group:eng#member viewer doc:plan.

Exit status: 0 done, or yes; 1 the answer is no (denied, rejected, not ready); 2 an error.`,
		Example: `  grantlog demo
  grantlog serve --data ./data
  grantlog store create acme
  export GRANTLOG_STORE=acme
  grantlog model write model.fga
  grantlog grant user:ann viewer doc:plan --expires 8h --reason "review" --ticket REV-7
  grantlog check user:ann viewer doc:plan`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := givenEmpty(cmd.Flags()); err != nil {
				return err
			}
			if a.output != "table" && a.output != "json" {
				return fmt.Errorf("--output must be table or json, not %q", a.output)
			}
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", envOr("GRANTLOG_SERVER", "http://127.0.0.1:8080"), "`URL` of the server to ask [GRANTLOG_SERVER]")
	flags.StringVar(&a.store, "store", os.Getenv("GRANTLOG_STORE"), "the store to ask about, its `ID` or name [GRANTLOG_STORE]")
	flags.StringVarP(&a.output, "output", "o", "table", "`format` of answers: table, or json (one object a line)")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer, a `span`; replay, history, reports, recheck, export, restore and streamed lists take as long as they do")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Begin and serve:"},
		&cobra.Group{ID: "ask", Title: "Ask a server:"},
		&cobra.Group{ID: "offline", Title: "On a data directory that no server has open:"},
	)
	group := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("start", a.demoCommand(), a.initCommand(), a.keygenCommand(), a.serveCommand())
	group("ask", a.storeCommand(), a.modelCommand(), a.grantCommand(), a.revokeCommand(), a.checkCommand(), a.explainCommand(), a.listCommand(), a.expandCommand(), a.readCommand(), a.replayCommand(), a.historyCommand(), a.auditCommand(), a.statusCommand())
	group("offline", a.recoverCommand(), a.rebuildCommand(), a.activateCommand())
	root.AddCommand(a.versionCommand())
	return root
}

// takes returns a check that a verb got as many arguments as its usage names.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 {
			return fmt.Errorf("%s takes no arguments, got %q; see %s --help", cmd.CommandPath(), args, cmd.CommandPath())
		}
		wanted := ""
		for _, n := range names {
			wanted += " " + n
		}
		return fmt.Errorf("%s takes%s, got %d arguments; see %s --help", cmd.CommandPath(), wanted, len(args), cmd.CommandPath())
	}
}

// parent makes c refuse what is none of its verbs.
func parent(c *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	c.AddCommand(verbs...)
	c.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("%s has no verb %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return c
}

// givenEmpty returns an error about a flag that was given without a text. Of a script that
// is an unset variable, and to take the flag for one that was not given would answer
// another question. A reason alone may be empty: it is for people, and asks nothing.
func givenEmpty(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		empty := f.Value.Type() == "string" && f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			texts := list.GetSlice()
			empty = len(texts) == 0 || slices.Contains(texts, "")
		}
		if empty && f.Name != "reason" && err == nil {
			err = fmt.Errorf("--%s is given but empty; leave it out if it is not meant", f.Name)
		}
	})
	return err
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
