package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A replayFlags is what the flags of replay say.
type replayFlags struct {
	from, to, resume string
	follow, tokens   bool
	entries          entryFlags
}

func (r *replayFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&r.from, "from", "", "begin at this `moment`: a revision, a time or a date; at revision 1 if not given")
	f.StringVar(&r.to, "to", "", "end after this `moment`: a revision, a time or a date; at the newest entry if not given")
	f.StringVar(&r.resume, "resume", "", "go on where the replay ended that printed this `token`")
	f.BoolVar(&r.follow, "follow", false, "wait for new entries, until Ctrl-C")
	f.BoolVar(&r.tokens, "tokens", false, tokensHelp)
	r.entries.flags(f)
}

// tokensHelp is the help of --tokens.
const tokensHelp = "print how to go on: with -o json, on lines of their own; else at the end, on the standard error"

// request returns what the flags ask for, but for the store.
func (r *replayFlags) request() (*pb.ReplayRequest, error) {
	q := &pb.ReplayRequest{Follow: r.follow}
	switch {
	case r.from != "" && r.resume != "":
		return nil, errors.New("--from and --resume exclude each other: a token says where to begin")
	case r.to != "" && r.follow:
		return nil, errors.New("--to and --follow exclude each other: what follows has no end")
	case r.resume != "":
		q.Start = &pb.ReplayRequest_ResumeToken{ResumeToken: r.resume}
	}
	var err error
	if q.Filter, err = r.entries.filter(); err != nil {
		return nil, err
	}
	if r.from != "" {
		rev, at, err := readBound("--from", r.from)
		if err != nil {
			return nil, err
		}
		if q.Start = (&pb.ReplayRequest_From{From: rev}); at != nil {
			q.Start = &pb.ReplayRequest_FromTime{FromTime: at}
		}
	}
	if r.to != "" {
		if q.To, q.ToTime, err = readBound("--to", r.to); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// readBound reads a moment that is a revision, or a time.
func readBound(flag, text string) (uint64, *timestamppb.Timestamp, error) {
	f, err := readPast(text)
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", flag, err)
	}
	switch k := f.GetFreshness().(type) {
	case *pb.Freshness_AtRevision:
		return k.AtRevision, nil, nil
	case *pb.Freshness_AtTime:
		return 0, k.AtTime, nil
	}
	return 0, nil, fmt.Errorf("%s takes a revision, a time or a date, not a token; to go on after one, give --resume", flag)
}

func (a *app) replayCommand() *cobra.Command {
	var flags replayFlags
	c := &cobra.Command{
		Use:   "replay",
		Short: "Print the entries of a store in order",
		Long: `Prints what was recorded in a store, from revision 1 or --from on: every command with
who asked, why, and what was decided. Rejected commands and duplicates are among them.

The flags that name something leave out what does not fit all of them. Those about
changes (--subject, --object, --type, --relation, --kind) must fit one and the same
change of a command, which is then the one that is printed, whatever was decided about
it. Searching by actor, ticket, subject, object or for what was rejected takes
milliseconds however much there is; by anything else, all entries are read.

--from and --to take a revision (4711), a time (2026-11-01T17:30:00Z), or a date
(2026-11-01: the beginning of that day in UTC). The times of the table are cut to the
second, and so may be just before their entry: give its revision to --at and the like,
or the time that -o json has.

The store "system" has the creation and deletion of stores, and what reached the log
without being a command for a live store. Deleted stores are printed too. With
-o json, one entry a line, complete. With --tokens a tool learns how to go on after a
broken connection, without a gap and with nothing twice: {"resumeToken":"…"} is on a
line of its own after the entries that it is good for.`,
		Example: `  grantlog replay --store acme
  grantlog replay --store acme --from 4000 --follow
  grantlog replay --object doc:plan --kind revoke
  grantlog replay --from 2026-10-01 --to 2026-11-01 --without-ticket
  grantlog replay --outcome rejected --actor eve
  grantlog replay -o json --follow --tokens --outside-channel terraform
  grantlog replay --store system -o json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := flags.request()
			if err != nil {
				return err
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
			printer, token, printed := a.entryPrinter(), "", 0
			err = c.replay(cmd.Context(), q, func(m *pb.ReplayResponse) error {
				for _, e := range m.GetEntries() {
					printed++
					if !a.json() {
						fittingFirst(q.GetFilter(), e.GetCommand().GetChanges())
					}
					if err := printer(e); err != nil {
						return err
					}
				}
				token = m.GetResumeToken()
				if a.json() && flags.tokens && token != "" {
					return a.value(resumption{token, m.GetCaughtUp()})
				}
				return nil
			})
			if flags.follow && cmd.Context().Err() != nil {
				err = nil // Ctrl-C is how following ends
			}
			if err != nil || a.json() {
				return err
			}
			if printed == 0 && !flags.follow {
				if _, err := fmt.Fprintln(a.stdout, "no entries"); err != nil {
					return err
				}
			}
			if flags.tokens && token != "" {
				a.goOn(token)
			}
			return nil
		},
	}
	flags.flags(c.Flags())
	return c
}

// A resumption is how to go on after what was printed before it, as JSON.
type resumption struct {
	ResumeToken string `json:"resumeToken"`
	CaughtUp    bool   `json:"caughtUp,omitempty"` // what was printed is all that there was
}

// goOn tells how to go on after what was printed.
func (a *app) goOn(token string) {
	fmt.Fprintf(a.stderr, "grantlog: go on with --resume %s\n", token) // a note: it may fail
}

// fittingFirst puts the first change that fits the filter first, to be printed.
func fittingFirst(f *pb.EntryFilter, changes []*pb.Change) {
	for i, ch := range changes {
		var t *pb.Tuple
		switch k := ch.GetChange().(type) {
		case *pb.Change_Grant:
			t = k.Grant.GetTuple()
		case *pb.Change_Revoke:
			t = k.Revoke.GetTuple()
		}
		kind := ch.ProtoReflect().WhichOneof(ch.ProtoReflect().Descriptor().Oneofs().ByName("change"))
		if (f.GetSubject() == "" || f.GetSubject() == t.GetSubject()) && (f.GetObject() == "" || f.GetObject() == t.GetObject()) &&
			(f.GetType() == "" || strings.HasPrefix(t.GetObject(), f.GetType()+":")) && (f.GetRelation() == "" || f.GetRelation() == t.GetRelation()) &&
			(len(f.GetKinds()) == 0 || kind != nil && slices.Contains(f.GetKinds(), pb.EntryFilter_Kind(pb.EntryFilter_Kind_value[strings.ToUpper(string(kind.Name()))]))) {
			changes[0], changes[i] = changes[i], changes[0]
			return
		}
	}
}

// replay calls f for each answer. An error says how to go on after the last.
func (c *client) replay(ctx context.Context, q *pb.ReplayRequest, f func(*pb.ReplayResponse) error) error {
	stream, err := c.audit.Replay(ctx, q)
	if err != nil {
		return c.plain(err)
	}
	defer stream.Close()
	token := ""
	for stream.Receive() {
		if err := f(stream.Msg()); err != nil {
			return err
		}
		token = stream.Msg().GetResumeToken()
	}
	return c.broken(stream.Err(), token)
}

// broken returns the error of a stream, with the token to go on after what came.
func (c *client) broken(err error, token string) error {
	switch {
	case err == nil:
		return nil
	case token == "", rejection(err) != nil: // which going on would not mend
		return c.plain(err)
	}
	return fmt.Errorf("%w; go on with --resume %s", c.plain(err), token)
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
