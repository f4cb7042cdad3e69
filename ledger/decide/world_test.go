package decide

import (
	"encoding/binary"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// start is the log time at which every world begins: 14 November 2023.
const start = int64(1_700_000_000_000_000_000)

const second = int64(1_000_000_000)

// A world is a state with the inputs that led to it.
type world struct {
	t      testing.TB
	state  *Memory
	inputs []Input
	time   int64 // broker's time of the next input
	ids    uint64

	version uint64 // fold version of the next input
}

var (
	acme           = storeID(1) // live in a newWorld, with model1
	other          = storeID(2) // live in a newWorld, without a model
	gone           = storeID(3) // deleted in a newWorld
	coming         = storeID(4) // restoring after activate2
	model1, model2 = storeID(11), storeID(12)

	edge     = ledger.Origin{Actor: "ann", Attester: "grantlog.main.edge.a", Method: ledger.MethodOIDC}
	activate = ledger.Origin{Actor: "operator", Attester: "grantlog.main.activate", Method: ledger.MethodNone}
	epoch    = ledger.Origin{Actor: "operator", Attester: "grantlog.main.epoch", Method: ledger.MethodNone}
)

func storeID(n byte) ledger.ID { return ledger.ID{0: 1, 15: n} }

func commandID(n uint64) (id ledger.UUID) {
	id[0] = 1
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// newWorld returns a world of three stores, of which the last is deleted, with one
// second between its commands.
func newWorld(t testing.TB) *world {
	w := &world{t: t, state: NewMemory(), time: start, version: ledger.FoldVersion}
	for _, id := range []ledger.ID{acme, other, gone} {
		w.apply(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: id, Name: "a store", Admin: "root"})
	}
	w.apply(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: gone})
	w.apply(acme, writeModel(model1, testModel()))
	return w
}

// testModel: groups that nest, documents that may be granted to people, to everybody,
// to groups, and to people under conditions.
func testModel() *model.Model {
	this := model.Rule{Op: model.This}
	return &model.Model{
		Schema: "1.1",
		Types: []model.Type{
			{Name: "user"},
			{Name: "group", Relations: []model.Relation{
				{Name: "member", Rule: this, Direct: []model.Direct{{Type: "user"}, {Type: "group", Relation: "member"}}},
			}},
			{Name: "doc", Relations: []model.Relation{
				{Name: "editor", Rule: this, Direct: []model.Direct{{Type: "user", Condition: "office"}}},
				{Name: "reader", Rule: model.Rule{Op: model.Computed, Relation: "viewer"}},
				{Name: "viewer", Rule: this, Direct: []model.Direct{
					{Type: "user"}, {Type: "user", Wildcard: true}, {Type: "group", Relation: "member"}, {Type: "user", Condition: "office"},
				}},
			}},
		},
		Conditions: []model.Condition{
			{Name: "office", Expression: "hour < limit", Params: []model.Param{
				{Name: "hour", Type: model.ParamType{Kind: model.ParamInt}},
				{Name: "limit", Type: model.ParamType{Kind: model.ParamInt}},
				{Name: "rate", Type: model.ParamType{Kind: model.ParamDouble}},
				{Name: "rates", Type: model.ParamType{Kind: model.ParamList, Elem: &model.ParamType{Kind: model.ParamDouble}}},
			}},
			{Name: "other", Expression: "on", Params: []model.Param{{Name: "on", Type: model.ParamType{Kind: model.ParamBool}}}},
		},
	}
}

// narrowModel lacks what testModel has but users and viewers of documents.
func narrowModel() *model.Model {
	return &model.Model{Schema: "1.1", Types: []model.Type{
		{Name: "user"},
		{Name: "doc", Relations: []model.Relation{
			{Name: "viewer", Rule: model.Rule{Op: model.This}, Direct: []model.Direct{{Type: "user"}}},
		}},
	}}
}

func writeModel(id ledger.ID, m *model.Model) ledger.Change {
	return ledger.Change{Kind: ledger.WriteModel, Model: ledger.ModelSource{
		ID: id, Kind: ledger.SourceJSON, Source: []byte("{}"), Compiled: model.AppendModel(nil, m),
	}}
}

func parse(t testing.TB, text string) tuple.Tuple {
	t.Helper()
	p, err := tuple.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) grant(text string) ledger.Change {
	w.t.Helper()
	return ledger.Change{Kind: ledger.Grant, Tuple: parse(w.t, text)}
}

func (w *world) revoke(text string) ledger.Change {
	w.t.Helper()
	return ledger.Change{Kind: ledger.Revoke, Tuple: parse(w.t, text)}
}

// command returns a command with a new id.
func (w *world) command(store ledger.ID, changes ...ledger.Change) *ledger.Command {
	w.ids++
	return &ledger.Command{ID: commandID(w.ids), Store: store, Changes: changes}
}

// input returns the command as it comes under the subject that its origin names.
func (w *world) input(o ledger.Origin, c *ledger.Command) Input {
	return w.raw(o, ledger.AppendCommand(nil, c))
}

func (w *world) raw(o ledger.Origin, raw []byte) Input {
	kind, _ := ledger.ParseSubject(o.Attester)
	return Input{Kind: kind, Origin: o, Raw: raw, Time: w.time, Version: w.version}
}

// fold folds the input one second after the one before.
func (w *world) fold(in Input) []Record {
	w.t.Helper()
	records, err := w.state.Fold(in)
	if err != nil {
		w.t.Fatalf("Fold: %v", err)
	}
	if len(records) == 0 {
		w.t.Fatal("Fold gave no record")
	}
	w.inputs = append(w.inputs, in)
	w.time = in.Time + second
	return records
}

// send folds the command, sent by ann, and returns the record that answers it.
func (w *world) send(c *ledger.Command) Record {
	w.t.Helper()
	return w.fold(w.input(edge, c))[0]
}

// apply sends a command of these changes, which must be applied.
func (w *world) apply(store ledger.ID, changes ...ledger.Change) Record {
	w.t.Helper()
	r := w.send(w.command(store, changes...))
	if r.Outcome.Kind != ledger.Applied {
		w.t.Fatalf("command %d: %v: %v, want applied", w.ids, r.Outcome.Kind, r.Outcome.Rejection)
	}
	return r
}

// revision returns the newest revision of the store.
func (w *world) revision(store ledger.ID) ledger.Revision {
	return ledger.Revision(len(w.state.Entries(store)))
}

// context returns the canonical bytes of a JSON context.
func context(t testing.TB, text string) []byte {
	t.Helper()
	v, err := model.ParseJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return model.AppendContext(nil, v)
}
