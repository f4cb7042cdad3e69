package decide

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// A random is a source of random inputs over few names, so that they meet.
type random struct {
	*rand.Rand
	w    *world
	sent []*ledger.Command
}

func pick[T any](r *random, from ...T) T { return from[r.IntN(len(from))] }

func (r *random) tuple() tuple.Tuple {
	return parse(r.w.t, pick(r,
		"doc:a#viewer@user:ann", "doc:a#viewer@user:bob", "doc:a#viewer@user:*", "doc:a#viewer@group:eng#member",
		"doc:b#viewer@user:ann", "doc:b#editor@user:ann", "doc:b#reader@user:ann", "tree:b#viewer@user:ann",
		"group:eng#member@user:ann", "group:eng#member@group:all#member", "group:all#member@user:*"))
}

func (r *random) store() ledger.ID {
	return pick(r, acme, acme, acme, other, other, gone, storeID(20), storeID(21), ledger.System)
}

// after returns a time shortly before or after now.
func (r *random) after(now int64) int64 { return now + int64(r.IntN(20)-4)*second }

func (r *random) grant() ledger.Change {
	ch := ledger.Change{Kind: ledger.Grant, Tuple: r.tuple()}
	if r.IntN(3) == 0 || ch.Tuple.Relation == "editor" && r.IntN(4) > 0 {
		ch.Grant.Condition = pick(r, "office", "office", "office", "other", "nowhere")
		if r.IntN(2) == 0 {
			ch.Grant.Context = context(r.w.t, pick(r, `{"hour":9}`, `{"rate":1}`, `{"rate":1.0}`, `{"rate":"fast"}`, `{"hour":9,"limit":17}`))
		}
	}
	switch r.IntN(6) {
	case 0:
		ch.Grant.ExpiresAt = r.after(r.w.time)
	case 1:
		ch.ExpiresAfter = int64(1+r.IntN(15)) * second
	}
	if r.IntN(6) == 0 {
		if at := r.after(r.w.time); ch.Grant.ExpiresAt == 0 || at < ch.Grant.ExpiresAt {
			ch.Grant.NotBefore = at
		}
	}
	ch.Grant.Owner = pick(r, "", "", "", "hr", "it")
	return ch
}

func (r *random) command() *ledger.Command {
	if len(r.sent) > 0 && r.IntN(6) == 0 { // again, perhaps with other content
		c := *pick(r, r.sent...)
		c.Ticket = pick(r, c.Ticket, c.Ticket, c.Ticket, "T-1")
		return &c
	}
	c := r.w.command(r.store())
	switch k := r.IntN(20); {
	case k == 0:
		id := pick(r, storeID(20), storeID(21), acme, gone)
		c.Store, c.Changes = ledger.System, []ledger.Change{{Kind: ledger.CreateStore, Store: id, Name: "n", Admin: "root"}}
	case k == 1:
		c.Store, c.Changes = ledger.System, []ledger.Change{{Kind: ledger.DeleteStore, Store: pick(r, other, storeID(20), storeID(21))}}
	case k == 2:
		if c.Store == ledger.System {
			c.Store = acme
		}
		c.Changes = []ledger.Change{writeModel(storeID(byte(11+r.IntN(6))), pick(r, testModel(), narrowModel()))}
	case k == 3:
		c.Store, c.Changes = ledger.System, []ledger.Change{advance(uint64(1 + r.IntN(5)))}
	case k == 4:
		c.Changes = []ledger.Change{assert(pick(r, model1, model1, storeID(12), storeID(99)), pick(r, "", "a", "b"))}
	default:
		for range 1 + r.IntN(4) {
			ch := r.grant()
			if r.IntN(3) == 0 {
				ch = ledger.Change{Kind: ledger.Revoke, Tuple: r.tuple()}
			}
			if !slices.ContainsFunc(c.Changes, func(o ledger.Change) bool { return o.Tuple == ch.Tuple }) {
				c.Changes = append(c.Changes, ch)
			}
		}
		if r.IntN(5) == 0 {
			c.Preconditions = []ledger.Precondition{{Tuple: r.tuple(), MustExist: r.IntN(2) == 0}}
		}
		if r.IntN(8) == 0 {
			c.Model = pick(r, model1, storeID(12), storeID(99))
		}
		if r.IntN(30) == 0 {
			c.KeyID, c.Signature = "k", make([]byte, 64)
		}
	}
	r.sent = append(r.sent, c)
	return c
}

func (r *random) input() Input {
	c := r.command()
	o := pick(r, edge, edge, edge,
		ledger.Origin{Actor: "bob", Attester: "grantlog.main.edge.b", Method: ledger.MethodMTLS},
		ledger.Origin{Actor: "ci", Attester: "grantlog.main.cmd.ci", Method: ledger.MethodNATS})
	if c.Changes[0].Kind == ledger.AdvanceEpoch != (r.IntN(20) == 0) {
		o = epoch
	}
	in := r.w.input(o, c)
	switch r.IntN(40) {
	case 0:
		in.Raw = in.Raw[:r.IntN(len(in.Raw))]
	case 1:
		in.Raw[r.IntN(len(in.Raw))] ^= 1 << r.IntN(8)
	case 2:
		in.Malformed = ledger.Reject(ledger.CodeMalformed, "", "the message is empty")
	}
	in.Time += int64(r.IntN(5)-2) * second // the broker's clock is not trusted to grow
	return in
}

// newWorldUnder returns a new world under fold version 1 or 2.
func newWorldUnder(t testing.TB, seed uint64) *world {
	w := newWorld(t)
	if seed%2 == 1 {
		w.activate2()
	}
	return w
}

// randomWorld returns a world after n random inputs beyond those of newWorld, and the
// records of each.
func randomWorld(t testing.TB, seed uint64, n int) (*world, [][]Record) {
	w := newWorldUnder(t, seed)
	r := &random{Rand: rand.New(rand.NewPCG(seed, 1)), w: w}
	var all [][]Record
	for range n {
		all = append(all, w.fold(r.input()))
	}
	return w, all
}

// TestRandom folds random commands and holds what must be true of every one.
func TestRandom(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(20) {
		w := newWorldUnder(t, seed)
		r := &random{Rand: rand.New(rand.NewPCG(seed, 1)), w: w}
		for range 300 {
			in := r.input()
			before := map[ledger.ID]int64{}
			for _, id := range w.state.Stores() {
				before[id], _ = w.state.LogTime(id)
			}
			live := liveAt(w, in)
			asserted := assertedIn(w)
			records := w.fold(in)
			for _, rec := range records {
				if rec.Time < before[rec.Store] || rec.Time < in.Time {
					t.Fatalf("log time %d of store %s is before the broker's %d or the entry before, %d", rec.Time, rec.Store, in.Time, before[rec.Store])
				}
				if (rec.Outcome.Kind == ledger.Rejected) != (rec.Outcome.Rejection != nil) ||
					rec.Outcome.Kind != ledger.Applied && len(rec.Effects) > 0 ||
					rec.Outcome.Effective != len(rec.Effects) {
					t.Fatalf("outcome and effects disagree: %+v", rec)
				}
				if rec.Command == nil && (rec.Store != ledger.System || rec.Outcome.Kind != ledger.Rejected || rec.Claims) {
					t.Fatalf("bytes that are no command: %+v", rec)
				}
			}
			checkApplied(t, w, records[0], live)
			checkAsserted(t, w, records[0], asserted)
			key := records[0].Outcome.Kind.String()
			if why := records[0].Outcome.Rejection; why != nil {
				key = why.Code.String()
			}
			outcomes[key]++
		}
	}
	// The test is worth something only if it meets everything.
	for _, key := range []string{"applied", "duplicate", "malformed", "not_found", "precondition", "conflict", "denied", "invalid"} {
		if outcomes[key] < 20 {
			t.Errorf("only %d random commands were %s (all: %v)", outcomes[key], key, outcomes)
		}
	}
}

// liveAt returns the tuples of each store that are live at the log time that the next
// input will have, by walking everything there is.
func liveAt(w *world, in Input) map[ledger.ID]map[tuple.Tuple]model.Grant {
	all := map[ledger.ID]map[tuple.Tuple]model.Grant{}
	for _, id := range w.state.Stores() {
		last, _ := w.state.LogTime(id)
		all[id] = map[tuple.Tuple]model.Grant{}
		for _, v := range w.state.Live(id, math.MaxUint64) {
			if v.Grant.ExpiresAt == 0 || v.Grant.ExpiresAt > max(last, in.Time) {
				all[id][v.Tuple] = v.Grant
			}
		}
	}
	return all
}

// checkApplied compares what an applied command of grants and revokes did with what
// its changes say, given the tuples that were live.
func checkApplied(t *testing.T, w *world, r Record, live map[ledger.ID]map[tuple.Tuple]model.Grant) {
	t.Helper()
	if r.Outcome.Kind != ledger.Applied || r.Command.Changes[0].Kind == ledger.WriteAssertions {
		return
	}
	for _, p := range r.Command.Preconditions {
		if _, ok := live[r.Store][p.Tuple]; ok != p.MustExist {
			t.Fatalf("applied although %s is live: %v, must: %v", p.Tuple, ok, p.MustExist)
		}
	}
	changed := 0
	for _, ch := range r.Command.Changes {
		before, was := live[r.Store][ch.Tuple]
		after, is, _ := w.state.Grant(r.Store, ch.Tuple)
		is = is && (after.ExpiresAt == 0 || after.ExpiresAt > r.Time)
		switch ch.Kind {
		case ledger.Grant:
			expires := ch.Grant.ExpiresAt
			if ch.ExpiresAfter != 0 {
				expires = r.Time + ch.ExpiresAfter
			}
			if !is || after.ExpiresAt != expires || after.NotBefore != ch.Grant.NotBefore ||
				after.Condition != ch.Grant.Condition || after.Owner != ch.Grant.Owner || (after.Context == nil) != (ch.Grant.Context == nil) {
				t.Fatalf("granted %s as %+v; it is %v, %+v", ch.Tuple, ch, is, after)
			}
			if !was || !reflect.DeepEqual(before, after) {
				changed++
			}
		case ledger.Revoke:
			if is {
				t.Fatalf("revoked %s; it is live", ch.Tuple)
			}
			if was {
				changed++
			}
		default:
			changed++
		}
	}
	if changed != r.Outcome.Effective {
		t.Fatalf("%d effective, want %d: %+v", r.Outcome.Effective, changed, r)
	}
}

// assertedIn returns the assertions of each model of each store.
func assertedIn(w *world) map[[2]ledger.ID]string {
	all := map[[2]ledger.ID]string{}
	for id, s := range w.state.stores {
		for model, versions := range s.assertions {
			all[[2]ledger.ID{id, model}] = string(versions[len(versions)-1].bytes)
		}
	}
	return all
}

// checkAsserted holds that a command that writes assertions does that if it is applied and
// they are others than before, and that nothing else does.
func checkAsserted(t *testing.T, w *world, r Record, before map[[2]ledger.ID]string) {
	t.Helper()
	if r.Outcome.Kind == ledger.Applied && r.Command.Changes[0].Kind == ledger.WriteAssertions {
		ch := r.Command.Changes[0]
		key := [2]ledger.ID{r.Store, ch.Model.ID}
		want := 1
		if before[key] == string(ch.Assertions) {
			want = 0
		}
		if m, _ := w.state.Model(r.Store, ch.Model.ID); m == nil || r.Outcome.Effective != want {
			t.Fatalf("%d effective, want %d, of model %v: %+v", r.Outcome.Effective, want, m, r)
		}
		if want == 1 {
			before[key] = string(ch.Assertions)
		}
	}
	if got := assertedIn(w); !reflect.DeepEqual(got, before) {
		t.Fatalf("the assertions are %q, want %q, after %+v", got, before, r)
	}
}

// TestSplit: however the inputs are cut into batches, with the state put away and
// taken up again in between, the records are the same.
func TestSplit(t *testing.T) {
	for seed := range uint64(5) {
		w, want := randomWorld(t, seed, 200)
		inputs := w.inputs[len(w.inputs)-200:]
		cut := rand.New(rand.NewPCG(seed, 2))
		state := newWorldUnder(t, seed).state
		for done := 0; done < len(inputs); {
			batch := inputs[done:min(len(inputs), done+1+cut.IntN(40))]
			for i, in := range batch {
				got, err := state.Fold(in)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want[done+i]) {
					t.Fatalf("seed %d, input %d: %+v, want %+v", seed, done+i, got, want[done+i])
				}
			}
			done += len(batch)
			state = reopen(t, state)
		}
		for _, id := range w.state.Stores() {
			if !reflect.DeepEqual(state.Entries(id), w.state.Entries(id)) {
				t.Fatalf("seed %d: entries of %s differ", seed, id)
			}
		}
	}
}

// reopen returns a copy of the state that shares nothing with it but the decoded
// models and the entries.
func reopen(t *testing.T, m *Memory) *Memory {
	again := NewMemory()
	again.epoch, again.version = m.epoch, m.version
	for id, s := range m.stores {
		c := again.open(id)
		c.status, c.name, c.admin = s.status, s.name, s.admin
		c.entries = slices.Clone(s.entries)
		c.models = slices.Clone(s.models)
		for id, versions := range s.assertions {
			c.assertions[id] = slices.Clone(versions)
		}
		for claim, seen := range s.claims {
			c.claims[claim] = seen
		}
		for tuple, versions := range s.tuples {
			c.tuples[tuple] = slices.Clone(versions)
		}
	}
	return again
}

// refold folds the entries of one store alone, as an export holds them, and returns
// the first revision whose outcome differs, or 0, and the state it came to. unread
// holds why the raw bytes of an entry were no envelope, where they were none.
func refold(t *testing.T, store ledger.ID, entries []ledger.Entry, unread map[ledger.Revision]*ledger.Rejection) (ledger.Revision, *Memory) {
	t.Helper()
	m := NewMemory()
	for _, e := range entries {
		kind, _ := ledger.ParseSubject(e.Origin.Attester)
		in := Input{Kind: kind, Origin: e.Origin, Raw: e.Raw, Time: e.Time, Version: e.FoldVersion, Malformed: unread[e.Revision]}
		records, err := Decide(m, in)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(records, func(r Record) bool { return r.Store == store })
		if i < 0 {
			return e.Revision, m
		}
		if got := m.Apply(records[i], in); !reflect.DeepEqual(got, e) {
			return e.Revision, m
		}
	}
	return 0, m
}

// TestRefold: each store's entries alone decide the same again, down to the leaf
// hashes, and lead to the same tuples and models.
func TestRefold(t *testing.T) {
	for seed := range uint64(10) {
		w, all := randomWorld(t, seed, 300)
		unread := map[ledger.Revision]*ledger.Rejection{} // of system
		system := w.revision(ledger.System)
		for i := len(all) - 1; i >= 0; i-- {
			if all[i][0].Store == ledger.System {
				unread[system] = w.inputs[len(w.inputs)-len(all)+i].Malformed
				system--
			}
		}
		for _, id := range w.state.Stores() {
			entries := w.state.Entries(id)
			why := unread
			if id != ledger.System {
				why = nil
			}
			at, alone := refold(t, id, entries, why)
			if at != 0 {
				t.Fatalf("seed %d: store %s decides revision %d otherwise alone", seed, id, at)
			}
			for _, rev := range []ledger.Revision{1, w.revision(id) / 2, w.revision(id)} {
				if !reflect.DeepEqual(alone.Live(id, rev), w.state.Live(id, rev)) || !reflect.DeepEqual(alone.ModelAt(id, rev), w.state.ModelAt(id, rev)) {
					t.Fatalf("seed %d: store %s at revision %d differs alone", seed, id, rev)
				}
			}
			if id != ledger.System && alone.stores[id].status != w.state.stores[id].status {
				t.Fatalf("seed %d: store %s is %v alone", seed, id, alone.stores[id].status)
			}
		}
	}
}

// TestRefoldFindsTampering is the control of TestRefold: entries that were changed,
// dropped or swapped do not decide the same.
func TestRefoldFindsTampering(t *testing.T) {
	w := newWorld(t)
	w.apply(acme, w.grant("doc:a#viewer@user:ann"))
	c := w.command(acme, w.grant("doc:a#viewer@user:bob"))
	w.send(c)
	w.apply(acme, w.revoke("doc:a#viewer@user:ann"))
	w.send(c)
	if at, _ := refold(t, acme, w.state.Entries(acme), nil); at != 0 {
		t.Fatalf("untouched entries differ at %d", at)
	}
	for _, tt := range []struct {
		name   string
		change func(e []ledger.Entry) []ledger.Entry
	}{
		{"dropped creation", func(e []ledger.Entry) []ledger.Entry { return e[1:] }},
		{"dropped grant", func(e []ledger.Entry) []ledger.Entry { return slices.Delete(e, 2, 3) }},
		{"swapped", func(e []ledger.Entry) []ledger.Entry { e[3], e[4] = e[4], e[3]; return e }},
		{"outcome", func(e []ledger.Entry) []ledger.Entry { e[4].Outcome.Effective = 0; return e }},
		{"time", func(e []ledger.Entry) []ledger.Entry { e[3].Time -= 10 * second; return e }},
		{"actor of the first of two", func(e []ledger.Entry) []ledger.Entry { e[3].Origin.Actor = "eve"; return e }},
		{"revision that a duplicate repeats", func(e []ledger.Entry) []ledger.Entry { e[5].Outcome.First++; return e }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if at, _ := refold(t, acme, tt.change(slices.Clone(w.state.Entries(acme))), nil); at == 0 {
				t.Error("the entries decide the same")
			}
		})
	}
}

// TestPure holds the rules to what cannot answer differently tomorrow: their imports,
// no clock, no goroutine, no channel and no range over a map.
func TestPure(t *testing.T) {
	for _, name := range []string{"decide.go", "rules.go", "again.go"} {
		if faults := impure(t, name, nil); len(faults) > 0 {
			t.Errorf("%s: %v", name, faults)
		}
	}
	control := `package decide
import "time"
import "os"
func f() { go f(); for range map[int]int{} {}; select {}; _ = time.Now() }`
	if faults := impure(t, "control.go", control); len(faults) != 5 {
		t.Errorf("the control has 5 faults, found %v", faults)
	}
}

func impure(t *testing.T, name string, source any) (faults []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/grantlog/grantlog/ledger"
	allowed := []string{"errors", "fmt", "math", "strings", "time", "unicode/utf8", module, module + "/model", module + "/tuple"}
	for _, i := range file.Imports {
		if path, _ := strconv.Unquote(i.Path.Value); !slices.Contains(allowed, path) {
			faults = append(faults, "imports "+path)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType:
			faults = append(faults, fmt.Sprintf("has a %T", n))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && n.Sel.Name != "Unix" && n.Sel.Name != "RFC3339Nano" {
				faults = append(faults, "uses time."+n.Sel.Name)
			}
		case *ast.RangeStmt:
			// The rules range over Preconditions and Changes, which are slices.
			if s, ok := n.X.(*ast.SelectorExpr); !ok || s.Sel.Name != "Changes" && s.Sel.Name != "Preconditions" {
				faults = append(faults, "ranges over something else than a command's lists")
			}
		}
		return true
	})
	return faults
}

// FuzzDecide: whatever the bytes, there is a record, its entry can be read back, and
// the same bytes again change nothing.
func FuzzDecide(f *testing.F) {
	w, _ := randomWorld(f, 1, 100)
	for _, in := range w.inputs {
		f.Add(in.Raw, byte(in.Kind), in.Time, in.Malformed != nil)
	}
	f.Add([]byte(`{"id":"01890a5d-ac96-774b-bcce-b302099a8057","store":"system","changes":[{"delete_store":{"store":"`+acme.String()+`"}}]}`), byte(ledger.PrincipalSubject), int64(0), false)
	f.Fuzz(func(t *testing.T, raw []byte, kind byte, at int64, unread bool) {
		w := newWorld(t)
		in := Input{Kind: ledger.SubjectKind(kind), Origin: edge, Raw: raw, Time: at, Version: 1}
		if unread {
			in.Malformed = ledger.Reject(ledger.CodeMalformed, "", "%s", raw)
		}
		for i, r := range w.fold(in) {
			e := w.state.Entries(r.Store)[w.revision(r.Store)-1]
			back, err := ledger.DecodeEntry(ledger.AppendEntry(nil, &e))
			if err != nil || len(raw) > 0 && !reflect.DeepEqual(back, &e) {
				t.Fatalf("entry %+v reads back as %+v, %v", e, back, err)
			}
			if i == 0 && r.Claims {
				again := w.fold(in)[0]
				signed := r.Command.Signature != nil
				if !signed && again.Outcome != (ledger.Outcome{Kind: ledger.Duplicate, First: e.Revision}) {
					t.Fatalf("again: %+v, want a duplicate of %d", again.Outcome, e.Revision)
				}
			}
		}
	})
}
