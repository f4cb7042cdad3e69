package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
)

func (a *app) demoCommand() *cobra.Command {
	var d demo
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show grantlog with a sample company, then serve it",
		Long: `Starts a server with an embedded log, loads a sample company into it (300 people in
40 groups, 20 services with their repositories, environments, databases and secrets,
and their documents), and takes a tour: every line with a $ is run as shown, and what
follows it is its output. Then it serves until Ctrl-C.

It works in a temporary directory, which it removes, unless --data names one to keep.`,
		Example: `  grantlog demo
  grantlog demo --exit
  grantlog demo --data ./demo --listen 127.0.0.1:9090`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.anyPort = !cmd.Flags().Changed("listen")
			return a.demo(cmd.Context(), &d)
		},
	}
	f := c.Flags()
	f.StringVar(&d.listen, "listen", "127.0.0.1:8080", "`host:port` to answer on; if it is not given and taken, any free port")
	f.StringVar(&d.data, "data", "", "`directory` to work in and keep; a temporary one if not given")
	f.BoolVar(&d.exit, "exit", false, "end after the tour")
	return c
}

// A demo is what the flags of the verb say.
type demo struct {
	listen  string
	anyPort bool
	data    string
	exit    bool
}

func (a *app) demo(ctx context.Context, d *demo) (err error) {
	if err := checkListen(d.listen, false); err != nil {
		return err
	}
	if d.data == "" {
		dir, err := os.MkdirTemp("", "grantlog-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		d.data = dir
	}
	p := &place{data: d.data, shard: "main", node: "demo"}
	lock, err := p.lock(true)
	if err != nil {
		return err
	}
	defer lock.Close()
	listener, err := net.Listen("tcp", d.listen)
	if d.anyPort && errors.Is(err, syscall.EADDRINUSE) {
		a.say("%s is taken, so the demo answers on another port.\n", d.listen)
		listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return fmt.Errorf("%w; name another address with --listen", err)
	}
	logger, err := newLogger(a.stderr, "text", "warn")
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	n, err := startNode(ctx, nodeConfig{place: p, logger: logger, mayBegin: true,
		signingKey: filepath.Join(d.data, "signing.key"), makeKey: "grantlog-demo"})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	// The server ends when the tour fails, at Ctrl-C, or after the tour.
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- n.serve(serving, listener) }() // ends with stop, below
	t := &tour{app: a, node: n, key: filepath.Join(d.data, "signing.key.pub"), client: newClient("http://" + listener.Addr().String())}
	err = t.take(ctx)
	if err == nil {
		t.farewell(d)
		if !d.exit {
			select {
			case <-ctx.Done():
			case err = <-served:
				served <- nil
			}
			a.say("\nEnding.\n")
		}
	}
	stop()
	return errors.Join(err, <-served, n.close())
}

// say prints a line of the demo. That it cannot be printed ends no demo.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }

// A tour shows what grantlog does, on the sample company.
type tour struct {
	*app
	node    *node
	client  *client
	store   string // ID of the sample's store
	key     string // file of the public key that signs
	granted uint64 // revision of the grant that the tour revokes
	steps   int
}

func (t *tour) take(ctx context.Context) error {
	if err := t.load(ctx); err != nil {
		return fmt.Errorf("load the sample company: %w", err)
	}
	for _, step := range []func(context.Context) error{t.allowed, t.denied, t.unanswered, t.lists, t.expires, t.revoked, t.outcomes, t.changed, t.entries, t.evidence} {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// load brings the sample company into the log, if it is not there already.
func (t *tour) load(ctx context.Context) error {
	if err := t.node.caughtUp(ctx, func(projector.Status) {}); err != nil {
		return err
	}
	began := time.Now()
	created, err := t.client.stores.CreateStore(ctx, &pb.CreateStoreRequest{
		Name: "sample-company", Admin: "personnel-sync", Actor: "demo", Reason: "the sample company of grantlog demo", Id: sampleID("store"),
	})
	if err != nil {
		return t.client.plain(err)
	}
	t.store = created.GetStore().GetId()
	if err := t.submit(ctx, "model", &order{actor: "demo", reason: "the model of the sample company",
		changes: []*pb.Change{modelChange(ledger.SourceDSL, []byte(companyModel))}}); err != nil {
		return err
	}
	orders := company()
	for i, o := range orders {
		if err := t.submit(ctx, fmt.Sprintf("order %d", i), o); err != nil {
			return err
		}
	}
	t.say(`grantlog demo

A sample company is loaded: %d people in %d groups, %d services with repositories,
environments, databases and secrets, and documents: %d grants, with reasons and
tickets, in %d commands. Each command went into a JetStream log, was folded into a
Pebble index, and was answered over Connect: %s for all.

`, people, len(readGroups()), len(companyServices), sampleTuples(orders), len(orders)+2, time.Since(began).Round(time.Millisecond))
	return nil
}

// submit sends an order under the name's id, so that one that is there is not applied again.
func (t *tour) submit(ctx context.Context, name string, o *order) error {
	r, err := t.client.ledger.Submit(ctx, &pb.SubmitRequest{Actor: o.actor, Command: &pb.Command{
		Id: sampleID(name), Store: t.store, Reason: o.reason, Ticket: o.ticket, Channel: "demo", Changes: o.changes,
	}})
	if err != nil {
		return t.client.plain(err)
	}
	for _, outcome := range []*pb.Outcome{r.GetOutcome(), r.GetOriginal()} {
		if outcome.GetKind() == pb.Outcome_REJECTED {
			return fmt.Errorf("%s: %s; if the directory has the sample of another release, use a new one", name, rejectionText(outcome.GetRejection()))
		}
	}
	return nil
}

// step prints the headline of the next step.
func (t *tour) step(headline, text string) {
	t.steps++
	t.say("%d. %s\n\n", t.steps, headline)
	if text != "" {
		t.say("%s\n", text)
	}
}

// run runs a command line as shown, against the demo's server and store, and requires
// the exit status.
func (t *tour) run(ctx context.Context, want int, args ...string) error {
	shown := make([]string, len(args))
	for i, arg := range args {
		if shown[i] = arg; strings.ContainsAny(arg, " \"{*#") {
			shown[i] = "'" + arg + "'"
		}
	}
	t.say("  $ grantlog %s\n", strings.Join(shown, " "))
	out := &indented{to: t.app}
	status := run(ctx, append(args, "--server", t.client.base, "--store", t.store), t.stdin, out, out)
	if status != statusYes {
		t.say("  (exit status %d)\n", status)
	}
	t.say("\n")
	if status != want {
		return fmt.Errorf("the tour expected exit status %d of grantlog %s, not %d", want, strings.Join(shown, " "), status)
	}
	return nil
}

// indented writes lines moved to the right.
type indented struct {
	to     *app
	inside bool // of a line
}

func (w *indented) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if !w.inside {
			line = "  " + line
		}
		w.inside = !strings.HasSuffix(line, "\n")
		if _, err := fmt.Fprint(w.to.stdout, line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// The people and things of the tour. The user is one of group checkout.
const (
	tourUser        = "user:u006"
	tourEnvironment = "environment:checkout-prod"
	tourOther       = "user:u290"
)

func (t *tour) allowed(ctx context.Context) error {
	t.step("An allowed check, and why", "May "+tourUser+" deploy the checkout service?\n")
	args := []string{tourUser, "can_deploy", tourEnvironment}
	if err := t.run(ctx, statusYes, append([]string{"check"}, args...)...); err != nil {
		return err
	}
	t.say("Why? Every grant on the way is told with the command that made it.\n\n")
	return t.run(ctx, statusYes, append([]string{"explain"}, args...)...)
}

func (t *tour) lists(ctx context.Context) error {
	t.step("What somebody may, and who may something", `A list has exactly what a check of each item would allow, and all of it.
`)
	for _, args := range [][]string{
		{"list", "objects", tourUser, "can_deploy", "environment"},
		{"list", "subjects", "user", "can_deploy", tourEnvironment, "--page-size", "4"},
		{"list", "relations", tourUser, tourEnvironment},
		{"expand", "can_deploy", tourEnvironment, "--levels", "3"},
	} {
		if err := t.run(ctx, statusYes, args...); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) denied(ctx context.Context) error {
	t.step("A denied check", "The same person, another service: trained, but not one of its people.\n")
	args := []string{tourUser, "can_deploy", "environment:payments-prod"}
	if err := t.run(ctx, statusNo, append([]string{"check"}, args...)...); err != nil {
		return err
	}
	t.say("Why not? What was tried, and what is missing.\n\n")
	return t.run(ctx, statusNo, append([]string{"explain"}, args...)...)
}

func (t *tour) unanswered(ctx context.Context) error {
	t.step("A question without an answer", "Group warehouse reads this database from the office network only. A check that\ndoes not say from where it is asked is an error, and not a denial.\n")
	args := []string{"check", "user:u012", "can_query", "database:web-shop-prod-main"}
	if err := t.run(ctx, statusError, args...); err != nil {
		return err
	}
	return t.run(ctx, statusYes, append(args, "--context", `{"ip":"10.20.3.4"}`)...)
}

// expiry is how long the grant of the tour counts: long enough to be asked about.
const expiry = 3 * time.Second

func (t *tour) expires(ctx context.Context) error {
	t.step("A grant that expires", "")
	if err := t.run(ctx, statusYes, "grant", tourOther, "deployer", tourEnvironment, "--expires", expiry.String(),
		"--actor", "u007", "--reason", "roll back the release", "--ticket", "INC-81"); err != nil {
		return err
	}
	granted := time.Now()
	check := []string{"check", tourOther, "deployer", tourEnvironment}
	if err := t.run(ctx, statusYes, check...); err != nil {
		return err
	}
	select {
	case <-time.After(time.Until(granted.Add(expiry + 10*time.Millisecond))):
	case <-ctx.Done():
		return errors.New("interrupted")
	}
	t.say("%s later:\n\n", expiry)
	return t.run(ctx, statusNo, check...)
}

func (t *tour) revoked(ctx context.Context) error {
	t.step("A revoke takes effect", "")
	args := []string{tourOther, "reader", "repository:login"}
	if err := t.run(ctx, statusYes, append(append([]string{"grant"}, args...), "--actor", "u012", "--reason", "review of the login flow", "--ticket", "SEC-4")...); err != nil {
		return err
	}
	check := []string{"check", tourOther, "can_read", "repository:login"}
	if err := t.run(ctx, statusYes, check...); err != nil {
		return err
	}
	var err error
	if t.granted, err = t.revision(ctx); err != nil {
		return err
	}
	if err := t.run(ctx, statusYes, append(append([]string{"revoke"}, args...), "--actor", "u012", "--reason", "the review is done", "--ticket", "SEC-4")...); err != nil {
		return err
	}
	if err := t.run(ctx, statusNo, check...); err != nil {
		return err
	}
	t.say("Since when not, and by whose command? And could they at revision %d, a moment ago?\nA moment of the past is a revision, a time or a date, and every question takes one.\n\n", t.granted)
	if err := t.run(ctx, statusNo, append([]string{"explain"}, check[1:]...)...); err != nil {
		return err
	}
	return t.run(ctx, statusYes, append(check, "--at", fmt.Sprint(t.granted))...)
}

// revision returns the newest revision of the sample's store.
func (t *tour) revision(ctx context.Context) (uint64, error) {
	stores, err := t.client.stores.ListStores(ctx, &pb.ListStoresRequest{})
	if err != nil {
		return 0, t.client.plain(err)
	}
	for _, s := range stores.GetStores() {
		if s.GetId() == t.store {
			return s.GetRevision(), nil
		}
	}
	return 0, fmt.Errorf("the store %s is not listed", t.store)
}

func (t *tour) outcomes(ctx context.Context) error {
	t.step("Outcomes: applied, duplicate, rejected", "A command has an id. Sent again under the same id it is not applied again, so a tool\nthat lost the answer just tries once more.\n")
	why := []string{"--actor", "u031", "--reason", "audit of contracts", "--ticket", "LAW-9", "--id", ledger.NewUUID().String()}
	for range 2 {
		if err := t.run(ctx, statusYes, append([]string{"grant", tourOther, "viewer", "document:legal-01"}, why...)...); err != nil {
			return err
		}
	}
	t.say("The model does not let a folder be granted to one person. The attempt is recorded\nall the same.\n\n")
	return t.run(ctx, statusNo, "grant", tourOther, "viewer", "folder:legal", "--actor", "u031", "--reason", "audit of contracts", "--ticket", "LAW-9")
}

func (t *tour) entries(ctx context.Context) error {
	t.step("The last entries of the log", "Every command above is there, the rejected one too. The log that grants access is\nthe log the auditor reads.\n")
	head, err := t.revision(ctx)
	if err != nil {
		return err
	}
	return t.run(ctx, statusYes, "replay", "--from", fmt.Sprint(head-min(head-1, 6)))
}

func (t *tour) changed(ctx context.Context) error {
	t.step("What changed between two moments", "Not which tuples, but who gained or lost what by them, and the command that caused it.\n")
	return t.run(ctx, statusYes, "audit", "diff", "--from", fmt.Sprint(t.granted-1), "--to", fmt.Sprint(t.granted), "--effective", "--key", t.key)
}

func (t *tour) evidence(ctx context.Context) error {
	t.step("Evidence that needs no server", "The whole store, signed, as a file. To verify it, all of its commands are decided again,\nfrom nothing.\n")
	bundle := filepath.Join(filepath.Dir(t.key), "sample.bundle")
	for _, args := range [][]string{
		{"audit", "export", bundle, "--key", t.key, "--force"},
		{"audit", "verify", bundle, "--key", t.key},
	} {
		if err := t.run(ctx, statusYes, args...); err != nil {
			return err
		}
	}
	return nil
}

// farewell says how to go on.
func (t *tour) farewell(d *demo) {
	if d.exit {
		t.say("That was the tour. \"grantlog demo\" without --exit goes on serving, to try things on.\n")
		return
	}
	t.say(`That was the tour. The server goes on at %[1]s; in another terminal
(where grantlog is not installed: go run ./cmd/grantlog instead):

  curl -s %[1]s/grantlog.v1.PermissionService/Check -H 'Content-Type: application/json' -d \
    '{"store":"%[2]s","tuple":{"subject":"%[3]s","relation":"can_deploy","object":"%[4]s"}}'

  export GRANTLOG_SERVER=%[1]s GRANTLOG_STORE=%[2]s
  grantlog check %[3]s can_deploy %[4]s
  grantlog model read
  grantlog grant user:u001 viewer document:legal-01 --expires 8h --reason "a look" --ticket LAW-1
  grantlog audit access --object document:legal-01
  grantlog replay --follow

  curl -s %[1]s/metrics | grep grantlog_

Ctrl-C ends it.
`, t.client.base, t.store, tourUser, tourEnvironment)
}
