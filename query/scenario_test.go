package query_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/querytest"
)

var scenarioFile = flag.String("scenario", "", "absolute path of a scenario file to run in place of those in testdata")

// TestScenarios runs the scenario files of testdata, whose README.md is their grammar,
// each on a store of its own. What a file expects must be the answer, and the oracle
// must say so too.
func TestScenarios(t *testing.T) {
	files := []string{*scenarioFile}
	if *scenarioFile == "" {
		var err error
		if files, err = filepath.Glob("testdata/*.txt"); err != nil || len(files) < 12 {
			t.Fatalf("only %d scenario files in testdata: %v", len(files), err)
		}
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s := newScenario(t)
			datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
		})
	}
}

// A scenario is a store in a real index, and the same log in plain maps, from which the
// oracle gets its state.
type scenario struct {
	dir    string
	index  *index.Index
	engine *query.Engine
	memory *decide.Memory
	log    []decide.Input // the first is message 1
	opened int            // messages there were when the index was opened
	now    int64
	names  map[tuple.Object]bool // every object and subject that was ever named
	asked  []asked
	unseen tuple.Tuple // kept from the oracle, to show that it is noticed
}

// An asked is a question that had an answer, to be asked again after a crash.
type asked struct {
	question datadriven.TestData
	revision ledger.Revision
	now      int64
	text     string
}

var (
	scenarioStore = ledger.ID{1}
	scenarioStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newScenario(t testing.TB) *scenario {
	t.Helper()
	s := &scenario{dir: t.TempDir(), engine: query.NewEngine(query.Budgets{}), memory: decide.NewMemory(),
		now: scenarioStart.UnixNano(), names: make(map[tuple.Object]bool)}
	var err error
	if s.index, err = openScenario(s.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.index.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	if _, err := s.submit(&ledger.Command{Store: ledger.System, Changes: []ledger.Change{
		{Kind: ledger.CreateStore, Store: scenarioStore, Name: "scenario", Admin: "root"}}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func openScenario(dir string) (*index.Index, error) {
	return index.Open(index.Options{Dir: dir, CacheBytes: 1 << 20, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

// A verb is what a directive does. It returns what it prints; its error is a fault of the
// scenario, or a difference between engine and oracle.
type verb struct {
	args string // those it takes, between spaces
	run  func(*scenario, *datadriven.TestData) (string, error)
	ask  func(*asking) (string, error) // of a question
}

const askArgs = " at context "

// verbs returns the verbs by name.
func verbs() map[string]verb {
	return map[string]verb{
		"model":          {args: " json modules ", run: (*scenario).model},
		"grant":          {run: (*scenario).grant},
		"revoke":         {run: (*scenario).revoke},
		"time":           {run: (*scenario).time},
		"crash":          {run: func(s *scenario, _ *datadriven.TestData) (string, error) { return s.crash() }},
		"check":          {args: askArgs, ask: (*asking).check},
		"list-objects":   {args: askArgs + "subject relation type page ", ask: (*asking).objects},
		"list-subjects":  {args: askArgs + "kind relation object page ", ask: (*asking).subjects},
		"list-relations": {args: askArgs + "subject object relations ", ask: (*asking).relations},
		"expand":         {args: askArgs + "object relation levels ", ask: (*asking).expand},
		"read":           {args: " at object relation subject inactive page ", ask: (*asking).read},
	}
}

// run runs a directive and returns what it prints.
func (s *scenario) run(t testing.TB, d *datadriven.TestData) string {
	v, ok := verbs()[d.Cmd]
	if !ok {
		d.Fatalf(t, "there is no verb %q", d.Cmd)
	}
	for _, a := range d.CmdArgs {
		if d.Cmd != "time" && !strings.Contains(v.args, " "+a.Key+" ") {
			d.Fatalf(t, "%s takes no argument %q", d.Cmd, a.Key)
		}
	}
	var text string
	var err error
	if v.run != nil {
		text, err = v.run(s, d)
	} else {
		var revision ledger.Revision
		var now int64
		if revision, now, err = s.when(d); err == nil {
			text, err = s.ask(d, revision, now)
		}
		s.asked = append(s.asked, asked{*d, revision, now, text})
	}
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return text
}

// submit validates a command as the edge does, folds it and tells its outcome.
func (s *scenario) submit(c *ledger.Command) (string, error) {
	c.ID = ledger.NewUUID()
	if r := c.Validate(); r != nil {
		return fmt.Sprintf("refused: %s: %s", r.Code, r), nil
	}
	in := decide.Input{Kind: ledger.EdgeSubject, Origin: ledger.Origin{Actor: "root", Attester: "test", Method: ledger.MethodNone},
		Raw: ledger.AppendCommand(nil, c), Time: s.now, Version: ledger.FoldVersion}
	s.log = append(s.log, in)
	o, err := foldScenario(s.index, in, len(s.log))
	if err != nil {
		return "", err
	}
	records, err := s.memory.Fold(in)
	if err != nil {
		return "", err
	}
	if want := records[0].Outcome; o.Kind != want.Kind || o.Effective != want.Effective || (o.Rejection == nil) != (want.Rejection == nil) {
		return "", fmt.Errorf("the index decided %+v, the reference %+v", o, want)
	}
	revision := len(s.memory.Entries(scenarioStore))
	switch {
	case o.Kind == ledger.Rejected:
		return fmt.Sprintf("rejected @%d: %s: %s", revision, o.Rejection.Code, o.Rejection), nil
	case o.Effective < len(c.Changes):
		return fmt.Sprintf("@%d, %d of %d changed something", revision, o.Effective, len(c.Changes)), nil
	}
	return fmt.Sprintf("@%d", revision), nil
}

// foldScenario folds a message of one command.
func foldScenario(x *index.Index, in decide.Input, seq int) (ledger.Outcome, error) {
	b := x.NewBatch()
	defer b.Close()
	records, err := decide.Decide(b, in)
	if err != nil {
		return ledger.Outcome{}, err
	}
	for _, r := range records {
		if _, _, err := b.Append(r, in.Origin, in.Raw, in.Version); err != nil {
			return ledger.Outcome{}, err
		}
	}
	return records[0].Outcome, b.Commit(ledger.Position{Log: ledger.UUID{1}, Seq: uint64(seq)})
}

func (s *scenario) model(d *datadriven.TestData) (string, error) {
	kind := ledger.SourceDSL
	switch {
	case d.HasArg("json"):
		kind = ledger.SourceJSON
	case d.HasArg("modules"):
		kind = ledger.SourceModules
	}
	m, err := dsl.Compile(kind, []byte(d.Input+"\n"), dsl.Limits{})
	if err != nil {
		return err.Error(), nil
	}
	return s.submit(&ledger.Command{Store: scenarioStore, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: m}}})
}

func (s *scenario) grant(d *datadriven.TestData) (string, error) {
	c := &ledger.Command{Store: scenarioStore}
	for i, text := range lines(d) {
		l, err := parseTerms(text)
		if err != nil {
			return "", err
		}
		ch := ledger.Change{Kind: ledger.Grant, Grant: model.Grant{Condition: l.condition, Owner: l.owner}}
		if ch.Tuple, err = tuple.Parse(l.tuple); err != nil {
			r := ledger.TupleRejection(fmt.Sprintf("changes[%d].tuple", i), err)
			return fmt.Sprintf("refused: %s: %s", r.Code, r), nil
		}
		if l.context.Kind != model.NullValue {
			ch.Grant.Context = model.AppendContext(nil, l.context)
		}
		if l.from != "" {
			if ch.Grant.NotBefore, err = s.moment(l.from); err != nil {
				return "", err
			}
		}
		if after, ok := strings.CutPrefix(l.until, "+"); ok {
			ch.ExpiresAfter, err = model.ParseDuration(after)
		} else if l.until != "" {
			ch.Grant.ExpiresAt, err = s.moment(l.until)
		}
		if err != nil {
			return "", err
		}
		s.name(ch.Tuple)
		c.Changes = append(c.Changes, ch)
	}
	return s.submit(c)
}

func (s *scenario) revoke(d *datadriven.TestData) (string, error) {
	c := &ledger.Command{Store: scenarioStore}
	for i, text := range lines(d) {
		t, err := tuple.Parse(text)
		if err != nil {
			r := ledger.TupleRejection(fmt.Sprintf("changes[%d].tuple", i), err)
			return fmt.Sprintf("refused: %s: %s", r.Code, r), nil
		}
		s.name(t)
		c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Revoke, Tuple: t})
	}
	return s.submit(c)
}

func (s *scenario) name(t tuple.Tuple) {
	s.names[t.Object] = true
	if t.Subject.ID != tuple.Wildcard {
		s.names[t.Subject.Object()] = true
	}
}

func (s *scenario) time(d *datadriven.TestData) (text string, err error) {
	if len(d.CmdArgs) != 1 {
		return "", errors.New("time takes one moment")
	}
	if s.now, err = s.moment(d.CmdArgs[0].Key); err != nil {
		return "", err
	}
	return momentText(s.now), nil
}

// moment reads an RFC 3339 time, or a duration after now.
func (s *scenario) moment(text string) (int64, error) {
	if after, ok := strings.CutPrefix(text, "+"); ok {
		n, err := model.ParseDuration(after)
		return s.now + n, err
	}
	return model.ParseTimestamp(text)
}

func momentText(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339Nano) }

// crash goes on with what a crash leaves of the index: its files as they are while it is
// open, the newest without its last half. What it then lacks is folded again.
func (s *scenario) crash() (string, error) {
	dir, err := os.MkdirTemp(filepath.Dir(s.dir), "crash")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("the index has no write-ahead log: %v", err)
	}
	newest := slices.Max(files)
	info, err := os.Stat(newest)
	if err != nil {
		return "", err
	}
	if err := os.Truncate(newest, info.Size()/2); err != nil {
		return "", err
	}
	left, err := openScenario(dir)
	if err != nil {
		return "", fmt.Errorf("open after a crash: %w", err)
	}
	at := int(left.Position().Seq)
	if at >= len(s.log) && len(s.log) > s.opened {
		return "", errors.Join(errors.New("the crash lost nothing, so it shows nothing"), left.Close())
	}
	for ; at < len(s.log); at++ {
		if _, err := foldScenario(left, s.log[at], at+1); err != nil {
			return "", errors.Join(err, left.Close())
		}
	}
	before, rows, err1 := s.index.Digest(context.Background())
	after, rowsAfter, err2 := left.Digest(context.Background())
	err = errors.Join(err1, err2, s.index.Close())
	s.index, s.dir, s.opened = left, dir, len(s.log)
	if err != nil {
		return "", err
	}
	if before != after {
		return "", fmt.Errorf("the %d rows after the crash are not the %d before it", rowsAfter, rows)
	}
	for _, q := range s.asked {
		if text, err := s.ask(&q.question, q.revision, q.now); err != nil || text != q.text {
			return "", fmt.Errorf("after the crash, %s answers\n%s\n(%v), and before\n%s", q.question.Pos, text, err, q.text)
		}
	}
	return fmt.Sprintf("@%d", len(s.memory.Entries(scenarioStore))), nil
}

// An asking is a question of a scenario.
type asking struct {
	*query.Asking
	*datadriven.TestData
	scenario *scenario
	given    query.Given
	lines    []string        // of the input, but for what is given
	state    querytest.State // as the oracle takes it
	live     []decide.Version
	programs *dsl.Programs
	// Of what is given, this is not allowed, so that no question may be answered.
	illContextual, illContext bool
}

// when returns the revision that a question is asked at, and the moment that expiry is
// held against: the newest and now, or what it says.
func (s *scenario) when(d *datadriven.TestData) (ledger.Revision, int64, error) {
	entries := s.memory.Entries(scenarioStore)
	arg, ok := d.Arg("at")
	if !ok {
		return ledger.Revision(len(entries)), s.now, nil
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(arg.Vals[0], "@"), 10, 64); err == nil && n > 0 {
		if n > uint64(len(entries)) {
			return ledger.Revision(n), s.now, nil
		}
		return ledger.Revision(n), entries[n-1].Time, nil
	}
	at, err := time.Parse(time.RFC3339Nano, arg.Vals[0])
	if err != nil || at.UnixNano() > s.now {
		return 0, 0, fmt.Errorf("at must be a revision or a time that is not to come: %q", arg.Vals[0])
	}
	n := 0
	for n < len(entries) && entries[n].Time <= at.UnixNano() {
		n++
	}
	if n == 0 {
		return 0, 0, fmt.Errorf("at must not be before the store's first entry: %q", arg.Vals[0])
	}
	return ledger.Revision(n), at.UnixNano(), nil
}

// ask answers a question at a revision and a moment.
func (s *scenario) ask(d *datadriven.TestData, at ledger.Revision, now int64) (string, error) {
	v, err := s.index.View(scenarioStore, at)
	if err != nil {
		if int(at) <= len(s.memory.Entries(scenarioStore)) {
			return "", err
		}
		return fmt.Sprintf("error: revision %d is not folded yet", at), nil
	}
	defer v.Close()
	a := &asking{TestData: d, scenario: s, live: s.memory.Live(scenarioStore, at)}
	a.state = querytest.State{Model: s.memory.ModelAt(scenarioStore, at), Grants: make(map[tuple.Tuple]model.Grant), Time: now}
	a.Asking, err = s.engine.Ask(v, ledger.ID{}, now)
	if a.state.Model == nil && errors.Is(err, query.ErrNoModel) {
		return "error: " + err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	for _, g := range a.live {
		if g.Tuple != s.unseen {
			a.state.Grants[g.Tuple] = g.Grant
		}
	}
	if text, err := a.readGiven(); text != "" || err != nil {
		return text, err
	}
	if a.programs, err = dsl.NewPrograms(a.state.Model); err != nil {
		return "", err
	}
	a.giveContext(a.given.Context)
	return verbs()[d.Cmd].ask(a)
}

// readGiven reads what the question gives, and lays it over the oracle's state. It
// returns what is printed for a tuple that is none.
func (a *asking) readGiven() (string, error) {
	var err error
	if arg, ok := a.Arg("context"); ok {
		// Commas divide the values of an argument only within parentheses.
		if a.given.Context, err = model.ParseJSON([]byte(arg.Vals[0])); err != nil {
			return "", fmt.Errorf("context: %w", err)
		}
	}
	seen := make(map[tuple.Tuple]bool)
	for _, text := range lines(a.TestData) {
		word, rest, _ := strings.Cut(text, " ")
		switch word {
		case "context":
			if a.given.Context, err = model.ParseJSON([]byte(rest)); err != nil {
				return "", fmt.Errorf("context: %w", err)
			}
		case "contextual":
			l, err := parseTerms(rest)
			if err != nil || l.from+l.until+l.owner != "" {
				return "", fmt.Errorf("a contextual tuple may have a condition: %q %v", rest, err)
			}
			c := query.Contextual{Condition: l.condition, Context: l.context}
			if c.Tuple, err = tuple.Parse(l.tuple); err != nil {
				return fmt.Sprintf("error: contextual[%d].tuple: %v", len(a.given.Contextual), err), nil
			}
			a.given.Contextual = append(a.given.Contextual, c)
			a.scenario.name(c.Tuple)
			g := model.Grant{Condition: c.Condition}
			condition, known := a.state.Model.Condition(c.Condition)
			if c.Context.Kind != model.NullValue && known {
				typed, err := condition.TypeContext(c.Context)
				a.illContextual = a.illContextual || err != nil
				g.Context = model.AppendContext(nil, typed)
			}
			a.illContextual = a.illContextual || seen[c.Tuple] || !a.allowed(c.Tuple, c.Condition) || c.Context.Kind != model.NullValue && !known
			seen[c.Tuple] = true
			a.state.Grants[c.Tuple] = g
		default:
			a.lines = append(a.lines, text)
		}
	}
	a.illContextual = a.illContextual || len(a.given.Contextual) > query.MaxContextual
	if len(a.lines) > 0 && a.Cmd != "check" {
		return "", fmt.Errorf("%s takes no line %q", a.Cmd, a.lines[0])
	}
	return "", nil
}

// refused reports whether what is given is not allowed, whatever is asked.
func (a *asking) refused() bool { return a.illContextual || a.illContext }

// giveContext makes a context that of the question.
func (a *asking) giveContext(context model.Value) {
	a.given.Context = context
	a.illContext = context.Kind != model.NullValue && context.Kind != model.MapValue
	a.state.Holds = a.programs.Conditions(context, a.state.Time).Holds
}

// allowed reports whether the model allows a grant in this shape.
func (a *asking) allowed(t tuple.Tuple, condition string) bool {
	r := a.relation(t.Object.Type, t.Relation)
	return r != nil && slices.Contains(r.Direct, model.Direct{Type: t.Subject.Type, Relation: t.Subject.Relation,
		Wildcard: t.Subject.ID == tuple.Wildcard, Condition: condition})
}

// relation returns a relation of the model, or nil. A type has no relation "".
func (a *asking) relation(typ, name string) *model.Relation {
	for i := range a.state.Model.Types {
		for j := range a.state.Model.Types[i].Relations {
			if r := &a.state.Model.Types[i].Relations[j]; a.state.Model.Types[i].Name == typ && r.Name == name {
				return r
			}
		}
	}
	return nil
}

// hasKind reports whether the model has a kind of subject.
func (a *asking) hasKind(k model.Kind) bool {
	if k.Relation != "" {
		return a.relation(k.Type, k.Relation) != nil
	}
	return slices.ContainsFunc(a.state.Model.Types, func(t model.Type) bool { return t.Name == k.Type })
}

// nobody is the id of those that nothing is ever granted to by name.
const nobody = "nobody-of-that-name"

// subjectsOf returns the subjects of a kind that a list may differ about.
func (a *asking) subjectsOf(k model.Kind) (all []tuple.Subject) {
	ids := []string{nobody}
	if k.Relation == "" {
		ids = append(ids, tuple.Wildcard)
	}
	for o := range a.scenario.names {
		if o.Type == k.Type {
			ids = append(ids, o.ID)
		}
	}
	for _, id := range ids {
		all = append(all, tuple.Subject{Type: k.Type, Relation: k.Relation, ID: id})
	}
	return all
}

// facts asks the oracle about every object that was ever named.
func (a *asking) facts(subjects ...tuple.Subject) map[tuple.Tuple]querytest.Fact {
	var objects []tuple.Object
	for o := range a.scenario.names {
		objects = append(objects, o)
	}
	for _, t := range a.state.Model.Types {
		objects = append(objects, tuple.Object{Type: t.Name, ID: nobody})
	}
	return querytest.Facts(a.state, objects, subjects)
}

// unlike says how an answer is not the oracle's fact, or "".
func unlike(t tuple.Tuple, allowed bool, err error, fact querytest.Fact) string {
	said, cause := querytest.Denied, ""
	switch {
	case err != nil:
		if said, cause = querytest.Failed, causeOf(err); cause == "" {
			return fmt.Sprintf("%s: %v", t, err)
		}
	case allowed:
		said = querytest.Allowed
	}
	if said != fact.Value || err != nil && !slices.Contains(fact.Causes, cause) {
		return fmt.Sprintf("%s: the engine says %v (%v), the oracle says %v %q", t, said, err, fact.Value, fact.Causes)
	}
	return ""
}

// causeOf returns the cause of an error as facts name it, "" for one that is no fact's.
func causeOf(err error) string {
	var (
		missing *dsl.MissingError
		ill     *dsl.ContextError
		failed  *dsl.ConditionError
		cost    *dsl.CostError
		cycle   *model.CycleError
	)
	switch {
	case errors.As(err, &missing):
		return missing.Condition
	case errors.As(err, &ill):
		return ill.Condition
	case errors.As(err, &failed):
		return failed.Condition
	case errors.As(err, &cost):
		return cost.Condition
	case errors.As(err, &cycle):
		return querytest.Cycle
	}
	return ""
}

// judged returns the text of an error of a whole question, and an error if the question
// should have had another end: refused is whether it is to be refused.
func judged(err error, refused bool) (string, error) {
	var invalid *query.InvalidError
	if errors.As(err, &invalid) != refused {
		return "", fmt.Errorf("the engine says %v; to be refused: %v", err, refused)
	}
	var budget *model.BudgetError
	if err != nil && !refused && !errors.As(err, &budget) {
		return "", err
	}
	if err != nil {
		return "error: " + err.Error() + "\n", nil
	}
	return "", nil
}

// check answers each line alone, with its path, in a batch, and in the lists that it has
// a place in.
func (a *asking) check() (string, error) {
	var out strings.Builder
	var questions []query.Question
	texts := make(map[int]string) // of lines that are no tuple
	for i, line := range a.lines {
		text, own, has := strings.Cut(line, " context ")
		t, err := tuple.Parse(text)
		if err != nil {
			texts[i] = fmt.Sprintf("error %s: %v\n", text, err)
			continue
		}
		a.scenario.name(t)
		q := query.Question{Tuple: t, Given: a.given}
		if has {
			if q.Context, err = model.ParseJSON([]byte(own)); err != nil {
				return "", fmt.Errorf("%q: %w", line, err)
			}
		}
		questions = append(questions, q)
	}
	results, err := a.CheckAll(context.Background(), questions)
	if err != nil {
		return "", err
	}
	for i, line := range a.lines {
		if texts[i] != "" {
			out.WriteString(texts[i])
			continue
		}
		q, batched := questions[0], results[0]
		questions, results = questions[1:], results[1:]
		t := q.Tuple
		a.giveContext(q.Context)
		got, err := a.Check(context.Background(), q)
		told, toldErr := explained(a.Asking, q)
		if got.Allowed != batched.Allowed || (err == nil) != (batched.Err == nil) {
			return "", fmt.Errorf("%s: alone %v (%v), in a batch %v (%v)", t, got.Allowed, err, batched.Allowed, batched.Err)
		}
		if got.Allowed != told || (err == nil) != (toldErr == nil) {
			return "", fmt.Errorf("%s: alone %v (%v), explained %v (%v)", t, got.Allowed, err, told, toldErr)
		}
		kind := model.Kind{Type: t.Subject.Type, Relation: t.Subject.Relation}
		refused := a.refused() || a.relation(t.Object.Type, t.Relation) == nil || !a.hasKind(kind)
		var budget *model.BudgetError
		if refused || errors.As(err, &budget) {
			if _, err := judged(err, refused); err != nil {
				return "", fmt.Errorf("%s: %w", t, err)
			}
		} else {
			fact := a.facts(t.Subject)[tuple.Tuple{Object: t.Object, Relation: t.Relation, Subject: t.Subject}]
			for _, one := range []error{err, batched.Err, toldErr} {
				if text := unlike(t, got.Allowed, one, fact); text != "" {
					return "", errors.New(text)
				}
			}
			if _, err := a.listObjects(t.Subject, t.Object.Type, t.Relation, 0); err != nil {
				return "", err
			}
			if _, err := a.listSubjects(kind, t.Object, t.Relation, 0); err != nil {
				return "", err
			}
		}
		switch {
		case err != nil:
			fmt.Fprintf(&out, "error %s: %v\n", line, err)
		case got.Allowed:
			fmt.Fprintf(&out, "allowed %s\n", line)
		default:
			fmt.Fprintf(&out, "denied %s\n", line)
		}
	}
	return out.String(), nil
}

func (a *asking) objects() (string, error) {
	subject, text := a.subject("subject")
	if text != "" {
		return text, nil
	}
	page, err := a.page()
	if err != nil {
		return "", err
	}
	return a.listObjects(subject, a.text("type"), a.text("relation"), page)
}

func (a *asking) listObjects(s tuple.Subject, typ, relation string, page int) (string, error) {
	a.scenario.name(tuple.Tuple{Object: tuple.Object{Type: typ, ID: nobody}, Subject: s})
	list, err := a.paged(page, func(after string) iter.Seq2[model.Item, error] {
		return a.ListObjects(context.Background(), query.ObjectsQuestion{Subject: s, Relation: relation, Type: typ, Given: a.given}, after)
	})
	refused := a.refused() || a.relation(typ, relation) == nil || !a.hasKind(model.Kind{Type: s.Type, Relation: s.Relation})
	text, wrong := judged(err, refused)
	if wrong != nil || err != nil {
		return list.text(model.Kind{Type: typ}, text), wrong
	}
	if text := querytest.NewAnswers(a.facts(s)).WrongObjects(s, typ, relation, list.listed()); text != "" {
		return "", errors.New(text)
	}
	return list.text(model.Kind{Type: typ}, ""), nil
}

func (a *asking) subjects() (string, error) {
	object, err := tuple.ParseObject(a.text("object"))
	if err != nil {
		return fmt.Sprintf("error: object: %v", err), nil
	}
	page, err := a.page()
	if err != nil {
		return "", err
	}
	return a.listSubjects(kindOf(a.text("kind")), object, a.text("relation"), page)
}

func (a *asking) listSubjects(k model.Kind, o tuple.Object, relation string, page int) (string, error) {
	a.scenario.names[o] = true
	list, err := a.paged(page, func(after string) iter.Seq2[model.Item, error] {
		return a.ListSubjects(context.Background(), query.SubjectsQuestion{Kind: k, Relation: relation, Object: o, Given: a.given}, after)
	})
	refused := a.relation(o.Type, relation) == nil || !a.hasKind(k)
	answers := func() *querytest.Answers { return querytest.NewAnswers(a.facts(a.subjectsOf(k)...)) }
	var invalid *query.InvalidError
	if errors.As(err, &invalid) && invalid.Field == "kind" && !refused {
		// No subject of the kind could hold the relation, so none may.
		if text := answers().WrongSubjects(o, relation, k, nil); text != "" && !a.refused() {
			return "", fmt.Errorf("%w, but %s", err, text)
		}
		return "error: " + err.Error() + "\n", nil
	}
	text, wrong := judged(err, refused || a.refused())
	if wrong != nil || err != nil {
		return list.text(k, text), wrong
	}
	if text := answers().WrongSubjects(o, relation, k, list.listed()); text != "" {
		return "", errors.New(text)
	}
	return list.text(k, ""), nil
}

// pages are a list as it came.
type pages [][]model.Item

// paged makes a list in pages of a size (0: in one), and requires that pages of 1, 2 and
// all at once hold the same.
func (a *asking) paged(size int, list func(after string) iter.Seq2[model.Item, error]) (pages, error) {
	want, wantErr := pagesOf(size, list)
	for _, n := range []int{0, 1, 2} {
		got, err := pagesOf(n, list)
		same := slices.EqualFunc(slices.Concat(got...), slices.Concat(want...), func(g, w model.Item) bool {
			return g.ID == w.ID && g.Excluded == w.Excluded && (g.Err == nil) == (w.Err == nil)
		})
		if (err == nil) != (wantErr == nil) || err == nil && !same {
			return nil, fmt.Errorf("pages of %d hold %v (%v), pages of %d %v (%v)", n, got, err, size, want, wantErr)
		}
	}
	return want, wantErr
}

func pagesOf(size int, list func(after string) iter.Seq2[model.Item, error]) (all pages, err error) {
	for after, more := "", true; more; {
		more = false
		var page []model.Item
		for item, err := range list(after) {
			if err != nil {
				return append(all, page), err
			}
			if more = size > 0 && len(page) == size; more {
				break
			}
			page, after = append(page, item), item.ID
		}
		all = append(all, page)
	}
	return all, nil
}

func (p pages) listed() (all []querytest.Listed) {
	for _, i := range slices.Concat(p...) {
		l := querytest.Listed{ID: i.ID, Excluded: i.Excluded}
		if i.Err != nil {
			l.Cause = cmp.Or(causeOf(i.Err), i.Err.Error())
		}
		all = append(all, l)
	}
	return all
}

// text returns the list as it is printed, and what comes after it.
func (p pages) text(k model.Kind, after string) string {
	var out strings.Builder
	for i, page := range p {
		if i > 0 {
			out.WriteString("--\n")
		}
		for _, item := range page {
			s := tuple.Subject{Type: k.Type, ID: item.ID, Relation: k.Relation}
			switch {
			case item.Err != nil:
				fmt.Fprintf(&out, "error %s: %v\n", s, item.Err)
			case item.Excluded:
				fmt.Fprintf(&out, "not %s\n", s)
			default:
				fmt.Fprintf(&out, "%s\n", s)
			}
		}
	}
	return cmp.Or(out.String()+after, "none\n")
}

func (a *asking) relations() (string, error) {
	subject, text := a.subject("subject")
	if text != "" {
		return text, nil
	}
	object, err := tuple.ParseObject(a.text("object"))
	if err != nil {
		return fmt.Sprintf("error: object: %v", err), nil
	}
	a.scenario.name(tuple.Tuple{Object: object, Subject: subject})
	var names []string
	if arg, ok := a.Arg("relations"); ok {
		names = arg.Vals
	}
	held, err := a.ListRelations(context.Background(), subject, object, names, a.given)
	kind := model.Kind{Type: subject.Type, Relation: subject.Relation}
	refused := a.refused() || !a.hasKind(model.Kind{Type: object.Type}) || !a.hasKind(kind)
	for i, name := range names {
		refused = refused || a.relation(object.Type, name) == nil || slices.Contains(names[:i], name)
	}
	if text, err := judged(err, refused); text != "" || err != nil {
		return text, err
	}
	facts := a.facts(subject)
	var out strings.Builder
	said := make(map[string]query.Held)
	for _, h := range held {
		said[h.Relation] = h
		if h.Err != nil {
			fmt.Fprintf(&out, "error %s: %v\n", h.Relation, h.Err)
		} else {
			fmt.Fprintf(&out, "%s\n", h.Relation)
		}
	}
	for t, fact := range facts {
		if t.Object != object || names != nil && !slices.Contains(names, t.Relation) {
			continue
		}
		h, ok := said[t.Relation]
		if text := unlike(t, ok, h.Err, fact); text != "" {
			return "", errors.New(text)
		}
		delete(said, t.Relation)
	}
	if len(said) > 0 {
		return "", fmt.Errorf("the oracle knows nothing of %v", said)
	}
	return cmp.Or(out.String(), "none\n"), nil
}

func (a *asking) expand() (string, error) {
	object, err := tuple.ParseObject(a.text("object"))
	if err != nil {
		return fmt.Sprintf("error: object: %v", err), nil
	}
	levels := 1
	if a.HasArg("levels") {
		if levels, err = strconv.Atoi(a.text("levels")); err != nil {
			return "", err
		}
	}
	a.scenario.names[object] = true
	relation := a.text("relation")
	tree, err := a.Expand(context.Background(), object, relation, levels, a.given)
	refused := a.refused() || a.relation(object.Type, relation) == nil || levels < 1 || levels > query.MaxLevels
	if text, err := judged(err, refused); text != "" || err != nil {
		return text, err
	}
	var everyone []tuple.Subject
	for _, t := range a.state.Model.Types {
		everyone = append(everyone, a.subjectsOf(model.Kind{Type: t.Name})...)
		for _, r := range t.Relations {
			everyone = append(everyone, a.subjectsOf(model.Kind{Type: t.Name, Relation: r.Name})...)
		}
	}
	if text := querytest.NewAnswers(a.facts(everyone...)).WrongTree(tree, everyone); text != "" {
		return "", errors.New(text)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s of %s\n", relation, object)
	printTree(&out, "  ", tree)
	return out.String(), nil
}

// printTree prints a tree in the words of the command line.
func printTree(out *strings.Builder, indent string, t *model.Tree) {
	text := map[model.Op]string{model.This: "granted to", model.Computed: t.Rule, model.From: t.Rule + ", which is",
		model.Union: "any of", model.Intersect: "all of", model.Exclude: "the first but not the second of"}[t.Op]
	if len(t.Grants) == 0 {
		switch t.Op {
		case model.This:
			text += " nobody"
		case model.From:
			text += " nothing"
		}
	}
	out.WriteString(indent + text + "\n")
	indent += "  "
	for _, g := range t.Grants {
		out.WriteString(indent + g.Tuple.Subject.String() + termsText(g.Grant))
		if g.Err != nil {
			fmt.Fprintf(out, "  undecided: %v", g.Err)
		}
		out.WriteByte('\n')
		if g.Leads != nil {
			printTree(out, indent+"  ", g.Leads)
		}
	}
	for _, b := range t.Branches {
		if b != nil {
			printTree(out, indent, b)
		}
	}
}

// termsText writes what a tuple was granted with as parseTerms reads it.
func termsText(g model.Grant) string {
	text := ""
	if g.Condition != "" {
		text += " with " + g.Condition
	}
	if g.Context != nil {
		v, err := model.DecodeContext(g.Context)
		if err != nil {
			return " with " + err.Error()
		}
		text += " " + jsonText(v)
	}
	if g.NotBefore != 0 {
		text += " from " + momentText(g.NotBefore)
	}
	if g.ExpiresAt != 0 {
		text += " until " + momentText(g.ExpiresAt)
	}
	if g.Owner != "" {
		text += " owner " + g.Owner
	}
	return text
}

func jsonText(v model.Value) string {
	var parts []string
	switch v.Kind {
	case model.ListValue:
		for _, item := range v.List {
			parts = append(parts, jsonText(item))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case model.MapValue:
		for _, f := range v.Map {
			parts = append(parts, strconv.Quote(f.Name)+":"+jsonText(f.Value))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case model.StringValue:
		return strconv.Quote(v.String)
	case model.BoolValue:
		return strconv.FormatBool(v.Bool)
	case model.IntValue:
		return strconv.FormatInt(v.Int, 10)
	case model.UintValue:
		return strconv.FormatUint(v.Uint, 10)
	case model.DoubleValue:
		return strconv.FormatFloat(v.Double, 'g', -1, 64)
	}
	return "null"
}

// stateTexts say why a tuple does not count.
var stateTexts = map[query.State]string{query.Active: "", query.Expired: " (expired)", query.NotYet: " (not yet)", query.NotAllowed: " (not allowed)"}

func (a *asking) read() (string, error) {
	f := query.Filter{Relation: a.text("relation"), Inactive: a.HasArg("inactive")}
	f.Object.Type, f.Object.ID, _ = strings.Cut(a.text("object"), ":")
	if text := a.text("subject"); strings.Contains(text, ":") {
		s, err := tuple.ParseSubject(text)
		if err != nil {
			return fmt.Sprintf("error: subject: %v", err), nil
		}
		f.Kind, f.Subject = &model.Kind{Type: s.Type, Relation: s.Relation}, s.ID
	} else if text != "" {
		kind := kindOf(text)
		f.Kind = &kind
	}
	size, err := a.page()
	if err != nil {
		return "", err
	}
	var all []query.Granted
	var out strings.Builder
	n := 0
	for more := true; more; {
		more = false
		var after tuple.Tuple
		if len(all) > 0 {
			after = all[len(all)-1].Tuple
		}
		for g, err := range a.Tuples(context.Background(), f, after) {
			if err != nil {
				// A filter is refused if nothing could match it, or if it is half of one.
				half := f.Relation != "" && f.Object.Type == ""
				return judged(err, half || errors.As(err, new(*query.InvalidError)) && len(a.matching(f)) == 0)
			}
			if more = size > 0 && n == size; more {
				out.WriteString("--\n")
				n = 0
				break
			}
			n++
			all = append(all, g)
			fmt.Fprintf(&out, "%s%s @%d%s\n", g.Tuple, termsText(g.Grant), g.Revision, stateTexts[g.State])
		}
	}
	want := a.matching(f)
	if !slices.EqualFunc(all, want, func(g, w query.Granted) bool {
		return g.Tuple == w.Tuple && g.Grant.Equal(w.Grant) && g.Revision == w.Revision && g.State == w.State
	}) {
		return "", fmt.Errorf("read %+v, by the reference they are %+v", all, want)
	}
	return cmp.Or(out.String(), "none\n"), nil
}

// matching returns the live grants that a filter matches, by the reference.
func (a *asking) matching(f query.Filter) (all []query.Granted) {
	for _, v := range a.live {
		t, g := v.Tuple, v.Grant
		state := query.Active
		switch {
		case !a.allowed(t, g.Condition):
			state = query.NotAllowed
		case g.ExpiresAt != 0 && a.state.Time >= g.ExpiresAt:
			state = query.Expired
		case a.state.Time < g.NotBefore:
			state = query.NotYet
		}
		matches := func(want, have string) bool { return want == "" || want == have }
		if t == a.scenario.unseen || state != query.Active && !f.Inactive || !matches(f.Object.Type, t.Object.Type) ||
			!matches(f.Object.ID, t.Object.ID) || !matches(f.Relation, t.Relation) || !matches(f.Subject, t.Subject.ID) ||
			f.Kind != nil && *f.Kind != (model.Kind{Type: t.Subject.Type, Relation: t.Subject.Relation}) {
			continue
		}
		all = append(all, query.Granted{Granted: index.Granted{Tuple: t, Grant: g, Revision: v.Revision}, State: state})
	}
	slices.SortFunc(all, func(x, y query.Granted) int {
		t, u := x.Tuple, y.Tuple
		if f.Kind != nil && f.Object.ID == "" {
			return cmp.Or(cmp.Compare(t.Subject.ID, u.Subject.ID), cmp.Compare(t.Object.Type, u.Object.Type),
				cmp.Compare(t.Relation, u.Relation), cmp.Compare(t.Object.ID, u.Object.ID))
		}
		return t.Compare(u)
	})
	return all
}

// text returns the value of an argument, "" if it is not given.
func (a *asking) text(key string) string {
	if arg, ok := a.Arg(key); ok && len(arg.Vals) == 1 {
		return arg.Vals[0]
	}
	return ""
}

func (a *asking) page() (int, error) {
	if !a.HasArg("page") {
		return 0, nil
	}
	return strconv.Atoi(a.text("page"))
}

// subject reads an argument, or returns what is printed for one that is no subject.
func (a *asking) subject(key string) (tuple.Subject, string) {
	s, err := tuple.ParseSubject(a.text(key))
	if err != nil {
		return s, fmt.Sprintf("error: %s: %v", key, err)
	}
	return s, ""
}

func kindOf(text string) (k model.Kind) {
	k.Type, k.Relation, _ = strings.Cut(text, "#")
	return k
}

// lines returns the lines of the input that are not empty.
func lines(d *datadriven.TestData) (all []string) {
	for line := range strings.Lines(d.Input) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

// terms are a tuple and what may follow it on a line.
type terms struct {
	tuple, condition, from, until, owner string
	context                              model.Value
}

// parseTerms reads
//
//	TUPLE [with CONDITION [{json}]] [from TIME] [until TIME] [owner LABEL]
func parseTerms(line string) (t terms, err error) {
	var rest string
	t.tuple, rest, _ = strings.Cut(line, " ")
	for rest != "" {
		var word, value string
		word, rest, _ = strings.Cut(rest, " ")
		value, rest, _ = strings.Cut(rest, " ")
		field := map[string]*string{"with": &t.condition, "from": &t.from, "until": &t.until, "owner": &t.owner}[word]
		if field == nil || *field != "" || value == "" {
			return t, fmt.Errorf("after a tuple there may be with, from, until and owner, each once, with its value: %q", line)
		}
		*field = value
		if word == "with" && strings.HasPrefix(rest, "{") {
			d := json.NewDecoder(strings.NewReader(rest))
			var text json.RawMessage
			if err := d.Decode(&text); err != nil {
				return t, fmt.Errorf("%q: %w", line, err)
			}
			if t.context, err = model.ParseJSON(text); err != nil {
				return t, fmt.Errorf("%q: %w", line, err)
			}
			rest = strings.TrimSpace(rest[d.InputOffset():])
		}
	}
	return t, nil
}

// A trial is a test whose failure is looked at and does not count.
type trial struct {
	testing.TB
	text strings.Builder
	over bool
}

func (t *trial) Logf(format string, args ...any) { fmt.Fprintf(&t.text, format+"\n", args...) }
func (t *trial) Failed() bool                    { return t.over }
func (t *trial) FailNow()                        { t.over = true; runtime.Goexit() }
func (t *trial) Fatalf(format string, args ...any) {
	t.Logf(format, args...)
	t.FailNow()
}

// TestScenarioFaults is the negative control of TestScenarios: a wrong expectation, a
// fault of a file, and an oracle that thinks otherwise make a scenario fail.
func TestScenarioFaults(t *testing.T) {
	const begin = `model
model
  schema 1.1
type user
type doc
  relations
    define blocked: [user]
    define editor: [user]
    define viewer: editor but not blocked
----
@2

grant
doc:plan#editor@user:ann
doc:plan#editor@user:bob
doc:plan#blocked@user:bob
----
@3

`
	rewrite := flag.Lookup("rewrite").Value
	was := rewrite.String()
	if err := rewrite.Set("false"); err != nil { // nothing is expected of a file that is rewritten
		t.Fatal(err)
	}
	defer rewrite.Set(was)
	for _, tt := range []struct {
		name, text, unseen string
		want               string // part of the failure, "" for none
	}{
		{"right", "check\ndoc:plan#viewer@user:ann\n----\nallowed doc:plan#viewer@user:ann\n", "", ""},
		{"wrong expectation", "check\ndoc:plan#viewer@user:ann\n----\ndenied doc:plan#viewer@user:ann\n", "", "allowed doc:plan"},
		{"nothing expected", "check\ndoc:plan#viewer@user:ann\n", "", "allowed doc:plan"},
		{"unknown verb", "forget\n----\n", "", `<string>:20: there is no verb "forget"`},
		{"unknown argument", "check on=1\n----\n", "", `check takes no argument "on"`},
		{"unknown line", "read\ndoc:plan\n----\n", "", `read takes no line "doc:plan"`},
		{"unknown terms", "grant\ndoc:plan#editor@user:ann for ever\n----\n", "", "after a tuple there may be"},
		{"check", "check\ndoc:plan#viewer@user:ann\n----\n", "doc:plan#editor@user:ann", "the engine says allowed (<nil>), the oracle says denied"},
		{"check, of what is subtracted", "check\ndoc:plan#viewer@user:bob\n----\n", "doc:plan#blocked@user:bob", "the engine says denied (<nil>), the oracle says allowed"},
		{"objects", "list-objects subject=user:ann relation=viewer type=doc\n----\n", "doc:plan#editor@user:ann", "the oracle says denied"},
		{"objects, one missing", "list-objects subject=user:bob relation=viewer type=doc\n----\n", "doc:plan#blocked@user:bob", "the oracle says allowed"},
		{"subjects", "list-subjects kind=user relation=viewer object=doc:plan\n----\n", "doc:plan#editor@user:ann", "the oracle says denied"},
		{"subjects, one missing", "list-subjects kind=user relation=viewer object=doc:plan\n----\n", "doc:plan#blocked@user:bob", "the oracle says allowed"},
		{"relations", "list-relations subject=user:ann object=doc:plan\n----\n", "doc:plan#editor@user:ann", "the oracle says denied"},
		{"tree", "expand object=doc:plan relation=editor\n----\n", "doc:plan#editor@user:ann", "the oracle says denied"},
		{"read", "read object=doc:plan\n----\n", "doc:plan#editor@user:ann", "by the reference they are"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScenario(t)
			if tt.unseen != "" {
				s.unseen = parse(t, tt.unseen)
			}
			r := &trial{TB: t}
			done := make(chan struct{})
			go func() { // ends with the scenario
				defer close(done)
				datadriven.RunTestFromStringAny(r, begin+tt.text, func(t testing.TB, d *datadriven.TestData) string { return s.run(t, d) })
			}()
			<-done
			if text := r.text.String(); r.over != (tt.want != "") || !strings.Contains(text, tt.want) {
				t.Errorf("failed: %v, with\n%s\nwant %q", r.over, text, tt.want)
			}
		})
	}
}

// TestScenarioCrashFault: were another command folded after a crash than before it, it
// would be noticed.
func TestScenarioCrashFault(t *testing.T) {
	s := newScenario(t)
	if text, err := s.crash(); text != "@1" || err != nil {
		t.Fatalf("crash = %q, %v", text, err)
	}
	s.now++
	if _, err := s.submit(&ledger.Command{Store: scenarioStore, Changes: []ledger.Change{{Kind: ledger.Revoke, Tuple: parse(t, "doc:plan#viewer@user:ann")}}}); err != nil {
		t.Fatal(err)
	}
	s.log[len(s.log)-1].Time++
	if text, err := s.crash(); err == nil || !strings.Contains(err.Error(), "after the crash are not") {
		t.Errorf("crash = %q, %v, want an error", text, err)
	}
}
