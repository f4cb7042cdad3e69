package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/grantlog/grantlog/cmd/grantlog/files"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func (a *app) modelTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test FILE…",
		Short: "Run the tests of store files, without a server",
		Long: `Runs the tests of store files (store.fga.yaml), as OpenFGA's command line has them,
against the evaluator that the server has, in this process. A store file holds:

  name                        of the store
  model, or model_file        the model: a text, or the name of a *.fga, *.json or fga.mod
  tuples                      a list of user, relation, object, and perhaps a condition
                              with its name and context
  tuple_file, tuple_files     names of .yaml, .json, .jsonl or .csv files of more tuples
  tests                       a list, each with a name, tuples and tuple_file of its own,
                              and what is asserted:

    check          user (or a list, users), object (or a list, objects), context, and
                   assertions: for each relation, true or false
    list_objects   user, type, context, and assertions: for each relation, the objects
    list_users     object, user_filter, context, and assertions: for each relation, the
                   users

Aliases and merges (<<) of YAML are followed. Names of files count from where the store
file stands. Conditions see the context that a test gives, so that what depends on time is
tested with the time as a parameter. A question that has no answer, because a parameter is
missing or a relation is not in the model, is a failure whatever was expected. Names of
fields that the format does not have are mistakes.

What fails is told with its place, and then what all files came to. Mistakes in a file
are one line each on the standard error, FILE:LINE:COLUMN: MESSAGE, at most 100; what the
model refuses of the tuples is told if there are no others. The other files are still run.

Exit status: 0 all assertions hold, 1 some fail, 2 a file could not be run, or another
error.`,
		Example: `  grantlog model test store.fga.yaml
  grantlog model test models/*.fga.yaml
  grantlog -o json model test store.fga.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%s takes one FILE or more, got none; see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			reports, err := testFiles(cmd.Context(), args)
			if err != nil {
				return err
			}
			return a.tested(reports)
		},
	}
}

// A fileReport is what became of one store file.
type fileReport struct {
	File       string        `json:"file"`
	Name       string        `json:"name"`
	Passed     bool          `json:"passed"`
	Mistakes   []testMistake `json:"mistakes"` // if there are any, nothing was run
	Tests      []testReport  `json:"tests"`
	assertions int
	failures   int
}

// A testMistake is why a file could not be run.
type testMistake struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // 0 for the file as a whole
	Col     int    `json:"col"`  // 0 if it is not known
	Message string `json:"message"`
}

// String returns file:line:col: message, without what is not known.
func (m testMistake) String() string {
	place := m.File
	for _, n := range []int{m.Line, m.Col} {
		if n > 0 {
			place += fmt.Sprintf(":%d", n)
		}
	}
	return place + ": " + m.Message
}

// A testReport is what became of one test.
type testReport struct {
	Name       string        `json:"name"`
	Line       int           `json:"line"`
	Assertions int           `json:"assertions"`
	Failures   []testFailure `json:"failures"`
}

// A testFailure is an assertion that does not hold.
type testFailure struct {
	Line     int    `json:"line"`
	Question string `json:"question"`
	Expected any    `json:"expected"` // a bool, or a list of texts
	Got      any    `json:"got"`      // the same, or null with an error
	Error    string `json:"error"`    // why there is no answer, or ""
}

// testFiles reads the files and runs their tests, as many at a time as there are
// processors. An error is one that no file is to blame for.
func testFiles(ctx context.Context, names []string) (_ []*fileReport, err error) {
	stores, reports := make([]*files.Store, len(names)), make([]*fileReport, len(names))
	var reading errgroup.Group
	reading.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		reports[i] = &fileReport{File: name, Mistakes: []testMistake{}, Tests: []testReport{}}
		reading.Go(func() error {
			var err error
			stores[i], err = files.ReadStore(name)
			return reports[i].blame(err)
		})
	}
	if err := reading.Wait(); err != nil {
		return nil, err
	}
	b, err := newTestBench()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range stores {
		if s == nil {
			continue
		}
		places, err := b.load(s)
		if err != nil {
			if err = reports[i].blame(err); err != nil {
				return nil, errors.Join(err, asking.Wait())
			}
			continue
		}
		r := reports[i]
		r.Name, r.Tests = s.Name, make([]testReport, len(s.Tests))
		for j := range s.Tests {
			asking.Go(func() error { return b.run(ctx, places[j], &s.Tests[j], &r.Tests[j]) })
		}
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	for _, r := range reports {
		for _, t := range r.Tests {
			r.assertions, r.failures = r.assertions+t.Assertions, r.failures+len(t.Failures)
		}
		r.Passed = r.failures == 0 && len(r.Mistakes) == 0
	}
	return reports, nil
}

// blame notes mistakes of the file, and returns any other error.
func (r *fileReport) blame(err error) error {
	var mistakes *dsl.Errors
	var rejection *ledger.Rejection
	switch {
	case errors.As(err, &mistakes):
		for _, e := range *mistakes {
			r.Mistakes = append(r.Mistakes, testMistake{e.File, e.Line, e.Col, e.Message})
		}
		return nil
	case errors.As(err, &rejection): // of the model as a whole
		r.Mistakes = append(r.Mistakes, testMistake{File: r.File, Message: rejection.Message})
		return nil
	}
	return err
}

// A testBench is an index of its own, in a directory that goes away with it, to which
// commands are decided straight away: there is no log.
type testBench struct {
	dir    string
	index  *index.Index
	engine *query.Engine
	now    int64  // log time, nanoseconds since the Unix epoch
	seq    uint64 // of the last batch
}

func newTestBench() (*testBench, error) {
	dir, err := os.MkdirTemp("", "grantlog-test-")
	if err != nil {
		return nil, err
	}
	x, err := index.Open(index.Options{Dir: dir, CacheBytes: 64 << 20})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &testBench{dir: dir, index: x, engine: query.NewEngine(query.Budgets{}), now: time.Now().UnixNano()}, nil
}

func (b *testBench) close() error { return errors.Join(b.index.Close(), os.RemoveAll(b.dir)) }

// A loaded is where a test is asked, and with what.
type loaded struct {
	store      ledger.ID
	contextual []query.Contextual
}

// load makes the stores that the file's tests are asked of: one with the tuples of the
// file, where those of a test count for its questions alone, and one for each test that
// has more tuples than a question takes. The tuples that the model refuses, of the file
// and of all tests, are a [*dsl.Errors].
func (b *testBench) load(s *files.Store) ([]loaded, error) {
	var mistakes dsl.Errors
	shared, err := b.store(s.Model, s.Tuples, &mistakes)
	if err != nil {
		return nil, err
	}
	places := make([]loaded, len(s.Tests))
	for i, t := range s.Tests {
		l := &places[i]
		if len(t.Tuples) > query.MaxContextual {
			if l.store, err = b.store(s.Model, together(s.Tuples, t.Tuples), &mistakes); err != nil {
				return nil, err
			}
			continue
		}
		l.store = shared
		if err := b.grant(shared, false, t.Tuples, &mistakes); err != nil {
			return nil, err
		}
		for _, t := range t.Tuples {
			l.contextual = append(l.contextual, t.Contextual)
		}
	}
	if len(mistakes) > 0 {
		files.Sort(mistakes)
		return nil, &mistakes
	}
	return places, nil
}

// together returns the tuples of both lists; of one that is in both, the second.
func together(first, second []files.Tuple) []files.Tuple {
	own := make(map[tuple.Tuple]bool)
	for _, t := range second {
		own[t.Tuple] = true
	}
	all := slices.Clone(second)
	for _, t := range first {
		if !own[t.Tuple] {
			all = append(all, t)
		}
	}
	return all
}

// commandBytes is about the most bytes of a command of tuples, well below what the log
// takes.
const commandBytes = ledger.MaxCommand / 4

// grants returns as many of the tuples, from the first on, as one command takes.
func grants(tuples []files.Tuple) (changes []ledger.Change) {
	size := 0
	for _, t := range tuples {
		g := model.Grant{Condition: t.Condition}
		if t.Context.Kind == model.MapValue {
			g.Context = model.AppendContext(nil, t.Context)
		}
		if size += len(t.Tuple.String()) + len(g.Context) + len(g.Condition) + 64; len(changes) > 0 && (size > commandBytes || len(changes) == ledger.MaxChanges) {
			break
		}
		changes = append(changes, ledger.Change{Kind: ledger.Grant, Tuple: t.Tuple, Grant: g})
	}
	return changes
}

// store makes one store with the tuples that the model does not refuse, see grant.
func (b *testBench) store(m ledger.ModelSource, tuples []files.Tuple, mistakes *dsl.Errors) (ledger.ID, error) {
	id := ledger.NewID()
	if err := b.decide(ledger.System, true, ledger.Change{Kind: ledger.CreateStore, Store: id, Name: "test", Admin: "test"}); err != nil {
		return id, err
	}
	if err := b.decide(id, true, ledger.Change{Kind: ledger.WriteModel, Model: m}); err != nil {
		return id, err
	}
	return id, b.grant(id, true, tuples, mistakes)
}

// grant grants tuples, a command at a time, and perhaps keeps them. Each that the model
// refuses is a mistake, and the others are granted without it, until there are as many
// mistakes as are told.
func (b *testBench) grant(store ledger.ID, keep bool, tuples []files.Tuple, mistakes *dsl.Errors) error {
	for len(tuples) > 0 && len(*mistakes) < files.MaxMistakes {
		changes := grants(tuples)
		asked := slices.Clone(tuples[:len(changes)])
		tuples = tuples[len(changes):]
		for len(changes) > 0 && len(*mistakes) < files.MaxMistakes {
			err := b.decide(store, keep, changes...)
			if err == nil {
				break
			}
			i, r := refused(err)
			if r == nil || i >= len(changes) {
				return err
			}
			note(mistakes, asked[i], r)
			changes, asked = slices.Delete(changes, i, i+1), slices.Delete(asked, i, i+1)
		}
	}
	return nil
}

// decide decides a command as the fold does, and perhaps keeps what it does. If it is
// rejected, that is a [*ledger.Rejection].
func (b *testBench) decide(store ledger.ID, keep bool, changes ...ledger.Change) error {
	b.now++
	c := &ledger.Command{ID: ledger.NewUUID(), Store: store, Changes: changes}
	if r := c.Validate(); r != nil {
		return r
	}
	batch := b.index.NewBatch()
	defer batch.Close()
	in := decide.Input{Kind: ledger.EdgeSubject, Origin: ledger.Origin{Actor: "test", Attester: "test", Method: ledger.MethodNone},
		Raw: ledger.AppendCommand(nil, c), Time: b.now, Version: ledger.FoldVersion}
	records, err := decide.Decide(batch, in)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Outcome.Kind != ledger.Applied {
			return r.Outcome.Rejection
		}
		if !keep {
			continue
		}
		if _, _, err := batch.Append(r, in.Origin, in.Raw, in.Version); err != nil {
			return err
		}
	}
	if !keep {
		return nil
	}
	b.seq++
	return batch.Commit(ledger.Position{Log: ledger.UUID{1}, Seq: b.seq})
}

// refused returns the rejection that an error is, and the number of the change that it is
// about, with which its field begins; nil if it is about none.
func refused(err error) (i int, r *ledger.Rejection) {
	if !errors.As(err, &r) {
		return 0, nil
	}
	if _, err := fmt.Sscanf(r.Field, "changes[%d]", &i); err != nil || i < 0 {
		return 0, nil
	}
	return i, r
}

// note notes the mistake that a refused tuple is: once, if several tests have it of one
// file.
func note(mistakes *dsl.Errors, t files.Tuple, r *ledger.Rejection) {
	e := dsl.Error{File: t.Place.File, Line: t.Place.Line,
		Message: fmt.Sprintf("%s %s %s: %s", t.Tuple.Subject, t.Tuple.Relation, t.Tuple.Object, r.Message)}
	if !slices.Contains(*mistakes, e) {
		*mistakes = append(*mistakes, e)
	}
}

// run asks what a test asserts.
func (b *testBench) run(ctx context.Context, at loaded, t *files.Test, r *testReport) error {
	*r = testReport{Name: t.Name, Line: t.Place.Line, Assertions: len(t.Assertions), Failures: []testFailure{}}
	v, err := b.index.View(at.store, 0)
	if err != nil {
		return err
	}
	defer v.Close()
	asking, err := b.engine.Ask(v, ledger.ID{}, time.Now().UnixNano())
	if err != nil {
		return err
	}
	for i := range t.Assertions {
		a := &t.Assertions[i]
		f := testFailure{Line: a.Place.Line, Question: a.Question()}
		given := query.Given{Contextual: at.contextual, Context: a.Context}
		if a.Kind == files.Check {
			answer, err := asking.Check(ctx, query.Question{Tuple: tuple.Tuple{Object: a.Object, Relation: a.Relation, Subject: a.Subject}, Given: given})
			if err == nil && answer.Allowed == a.Allowed {
				continue
			}
			if f.Expected = a.Allowed; err != nil {
				f.Error = err.Error()
			} else {
				f.Got = answer.Allowed
			}
		} else {
			got, err := asserted(ctx, asking, a, given)
			if err == nil && slices.Equal(got, a.List) {
				continue
			}
			if f.Expected = append([]string{}, a.List...); err != nil {
				f.Error = err.Error()
			} else {
				f.Got = append([]string{}, got...)
			}
		}
		if err := ctx.Err(); err != nil {
			return err // which no question is to blame for
		}
		r.Failures = append(r.Failures, f)
	}
	return nil
}

// asserted returns the list that an assertion is about, sorted. An item of which there
// is no answer is the error of the list.
func asserted(ctx context.Context, asking *query.Asking, a *files.Assertion, given query.Given) (list []string, err error) {
	if a.Kind == files.ListObjects {
		for item, err := range asking.ListObjects(ctx, query.ObjectsQuestion{Subject: a.Subject, Relation: a.Relation, Type: a.Type, Given: given}, "") {
			o := tuple.Object{Type: a.Type, ID: item.ID}
			if err == nil && item.Err != nil {
				err = fmt.Errorf("%s: %w", o, item.Err)
			}
			if err != nil {
				return nil, err
			}
			list = append(list, o.String())
		}
	}
	for _, k := range a.Kinds {
		for item, err := range asking.ListSubjects(ctx, query.SubjectsQuestion{Kind: k, Relation: a.Relation, Object: a.Object, Given: given}, "") {
			s := tuple.Subject{Type: k.Type, ID: item.ID, Relation: k.Relation}
			if err == nil && item.Err != nil {
				err = fmt.Errorf("%s: %w", s, item.Err)
			}
			if err != nil {
				return nil, err
			}
			if !item.Excluded {
				list = append(list, s.String())
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// tested prints what became of the files, and returns it as an exit status.
func (a *app) tested(reports []*fileReport) error {
	assertions, failures, broken := 0, 0, 0
	for _, r := range reports {
		assertions, failures = assertions+r.assertions, failures+r.failures
		if len(r.Mistakes) > 0 {
			broken++
		}
	}
	var err error
	if a.json() {
		err = a.value(map[string]any{"passed": failures == 0 && broken == 0, "files": reports})
	} else {
		err = a.testTable(reports, assertions, failures)
	}
	switch {
	case err != nil:
		return err
	case broken > 0:
		return fmt.Errorf("%s could not be run", of(broken, len(reports), "file"))
	case failures > 0:
		return &no{}
	}
	return nil
}

// testTable prints the mistakes, the failures, and a line for each file.
func (a *app) testTable(reports []*fileReport, assertions, failures int) error {
	var told strings.Builder
	var rows [][]string
	for _, r := range reports {
		for _, m := range r.Mistakes {
			fmt.Fprintln(a.stderr, m)
		}
		for _, t := range r.Tests {
			for _, f := range t.Failures {
				fmt.Fprintf(&told, "%s:%d: %q: %s\n", r.File, f.Line, t.Name, f.Question)
				for _, line := range f.lines() {
					fmt.Fprintf(&told, "  %-12s%s\n", line[0], oneLine(line[1]))
				}
			}
		}
		result := "passed"
		switch {
		case len(r.Mistakes) > 0:
			result = "not run"
		case r.failures > 0:
			result = fmt.Sprintf("%d failed", r.failures)
		}
		rows = append(rows, []string{r.File, fmt.Sprint(len(r.Tests)), fmt.Sprint(r.assertions), result})
	}
	if told.Len() > 0 {
		fmt.Fprintln(a.stdout, told.String())
	}
	if err := a.rows([]string{"FILE", "TESTS", "ASSERTIONS", "RESULT"}, rows); err != nil {
		return err
	}
	summary := count(assertions, "assertion") + ": all hold"
	if failures > 0 {
		summary = of(failures, assertions, "assertion") + " failed"
	} else if assertions == 0 {
		summary = "nothing was asserted"
	}
	_, err := fmt.Fprintf(a.stdout, "\n%s\n", summary)
	return err
}

// lines are what was expected and what came, each with its name.
func (f *testFailure) lines() (lines [][2]string) {
	add := func(name, text string) { lines = append(lines, [2]string{name, text}) }
	want, isList := f.Expected.([]string)
	if !isList {
		add("expected", fmt.Sprint(f.Expected))
	} else {
		add("expected", listed(want))
	}
	if f.Error != "" {
		add("error", f.Error)
		return lines
	}
	if !isList {
		add("got", fmt.Sprint(f.Got))
		return lines
	}
	got := f.Got.([]string)
	add("got", listed(got))
	if missing := without(want, got); len(missing) > 0 {
		add("missing", listed(missing))
	}
	if more := without(got, want); len(more) > 0 {
		add("unexpected", listed(more))
	}
	return lines
}

// listed is a list for people.
func listed(texts []string) string {
	if len(texts) == 0 {
		return "(none)"
	}
	return strings.Join(texts, ", ")
}

// without returns the texts that the others do not have.
func without(texts, others []string) []string {
	return slices.DeleteFunc(slices.Clone(texts), func(t string) bool { return slices.Contains(others, t) })
}

// of returns "1 of 3 things".
func of(n, all int, thing string) string { return fmt.Sprintf("%d of %s", n, count(all, thing)) }
