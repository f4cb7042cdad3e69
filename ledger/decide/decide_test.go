package decide

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// taken is the number of the command id under which ann views the document "plan" in
// TestRejected.
const taken = 1007

// A rejection is one way of being rejected.
type rejection struct {
	name    string
	make    func(w *world) Input
	store   ledger.ID // that records it
	claims  bool
	code    ledger.Code
	field   string
	message string // part of it
}

// rejections has a row for every way of being rejected, which all fold versions share.
var rejections = []rejection{
	{"message that is no envelope", func(w *world) Input {
		in := w.raw(edge, []byte("junk"))
		in.Malformed = ledger.Reject(ledger.CodeMalformed, "", "envelope format 106")
		return in
	}, ledger.System, false, ledger.CodeMalformed, "", "envelope format 106"},
	{"subject that carries no commands", func(w *world) Input {
		in := w.input(edge, w.command(acme, w.revoke("doc:plan#viewer@user:ann")))
		in.Kind = ledger.OtherSubject
		return in
	}, ledger.System, false, ledger.CodeMalformed, "", "subject"},
	{"genesis subject", func(w *world) Input {
		in := w.input(edge, w.command(acme, w.revoke("doc:plan#viewer@user:ann")))
		in.Kind = ledger.GenesisSubject
		return in
	}, ledger.System, false, ledger.CodeMalformed, "", "subject"},
	{"no bytes", func(w *world) Input { return w.raw(edge, nil) },
		ledger.System, false, ledger.CodeMalformed, "", "not a command"},
	{"bytes that are no command", func(w *world) Input { return w.raw(edge, []byte{0xff, 0, 1}) },
		ledger.System, false, ledger.CodeMalformed, "", "not a command"},
	{"JSON that is no command", func(w *world) Input { return w.raw(edge, []byte(`{"id":7}`)) },
		ledger.System, false, ledger.CodeMalformed, "id", "must be a string"},
	{"command over the limit", func(w *world) Input { return w.raw(edge, make([]byte, ledger.MaxCommand+1)) },
		ledger.System, false, ledger.CodeMalformed, "", "at most 524288 bytes"},
	{"empty command", func(w *world) Input { return w.input(edge, w.command(acme)) },
		ledger.System, false, ledger.CodeMalformed, "changes", "must not be empty"},
	{"tuple twice", func(w *world) Input {
		return w.input(edge, w.command(acme, w.grant("doc:plan#viewer@user:bob"), w.revoke("doc:plan#viewer@user:bob")))
	}, ledger.System, false, ledger.CodeMalformed, "changes[1].tuple", "stands in changes[0]"},
	{"malformed tuple", func(w *world) Input {
		ch := w.grant("doc:plan#viewer@user:bob")
		ch.Tuple.Subject.ID = "a b"
		return w.input(edge, w.command(acme, w.grant("doc:x#viewer@user:bob"), ch))
	}, ledger.System, false, ledger.CodeMalformed, "changes[1].tuple.subject.id", "space"},

	{"unknown store", func(w *world) Input {
		return w.input(edge, w.command(storeID(99), w.revoke("doc:plan#viewer@user:ann")))
	},
		ledger.System, false, ledger.CodeNotFound, "store", "there is no store"},
	{"deleted store", func(w *world) Input { return w.input(edge, w.command(gone, w.revoke("doc:plan#viewer@user:ann"))) },
		ledger.System, false, ledger.CodeNotFound, "store", "was deleted"},

	{"signed command", func(w *world) Input {
		c := w.command(acme, w.grant("doc:plan#viewer@user:bob"))
		c.KeyID, c.Signature = "k", make([]byte, 64)
		return w.input(edge, c)
	}, acme, true, ledger.CodeMalformed, "signature", "signed"},
	{"signed command under a taken id", func(w *world) Input {
		c := w.command(acme, w.grant("doc:plan#viewer@user:ann"))
		c.ID, c.KeyID, c.Signature = commandID(taken), "k", make([]byte, 64)
		return w.input(edge, c)
	}, acme, false, ledger.CodeMalformed, "signature", "signed"},
	{"id with other content", func(w *world) Input {
		c := w.command(acme, w.grant("doc:plan#viewer@user:ann"))
		c.ID, c.Reason = commandID(taken), "another reason"
		return w.input(edge, c)
	}, acme, false, ledger.CodeConflict, "id", "was used at revision 3"},

	{"epoch from an edge", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, advance(1)))
	}, ledger.System, true, ledger.CodeDenied, "changes[0].epoch", "epoch subject"},
	{"epoch from a principal", func(w *world) Input {
		return w.input(ledger.Origin{Actor: "ci", Attester: "grantlog.main.cmd.ci", Method: ledger.MethodNATS}, w.command(ledger.System, advance(1)))
	}, ledger.System, true, ledger.CodeDenied, "changes[0].epoch", "epoch subject"},
	{"grant under the epoch subject", func(w *world) Input {
		return w.input(epoch, w.command(acme, w.grant("doc:plan#viewer@user:bob")))
	}, acme, true, ledger.CodeDenied, "changes[0]", "only an epoch"},
	{"fold version from an edge", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.Activate, Version: 1}))
	}, ledger.System, true, ledger.CodeDenied, "changes[0].version", "activate subject"},
	{"grant under the activate subject", func(w *world) Input {
		return w.input(activate, w.command(acme, w.grant("doc:plan#viewer@user:bob")))
	}, acme, true, ledger.CodeDenied, "changes[0]", "only a fold version"},
	{"store under the epoch subject", func(w *world) Input {
		return w.input(epoch, w.command(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: acme}))
	}, ledger.System, true, ledger.CodeDenied, "changes[0]", "only an epoch"},

	{"precondition: must exist", func(w *world) Input {
		return w.input(edge, w.must(w.command(acme, w.grant("doc:plan#viewer@user:bob")), "doc:plan#viewer@user:ann", true, "doc:plan#viewer@user:eve", true))
	}, acme, true, ledger.CodePrecondition, "preconditions[1].tuple", "must exist"},
	{"precondition: must not exist", func(w *world) Input {
		return w.input(edge, w.must(w.command(acme, w.grant("doc:plan#viewer@user:bob")), "doc:plan#viewer@user:ann", false))
	}, acme, true, ledger.CodePrecondition, "preconditions[0].tuple", "must not exist"},
	{"preconditions come before the changes", func(w *world) Input {
		return w.input(edge, w.must(w.command(acme, w.grant("nothing:plan#viewer@user:bob")), "doc:plan#viewer@user:ann", false))
	}, acme, true, ledger.CodePrecondition, "preconditions[0].tuple", "must not exist"},

	{"no model", func(w *world) Input { return w.input(edge, w.command(other, w.grant("doc:plan#viewer@user:bob"))) },
		other, true, ledger.CodePrecondition, "model", "no model yet"},
	{"no model in system", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, w.grant("doc:plan#viewer@user:bob")))
	}, ledger.System, true, ledger.CodePrecondition, "model", "no model yet"},
	{"unknown model", func(w *world) Input {
		c := w.command(acme, w.grant("doc:plan#viewer@user:bob"))
		c.Model = model2
		return w.input(edge, c)
	}, acme, true, ledger.CodeNotFound, "model", "has no model"},
	{"unknown model of a revoke", func(w *world) Input {
		c := w.command(acme, w.revoke("doc:plan#viewer@user:ann"))
		c.Model = model2
		return w.input(edge, c)
	}, acme, true, ledger.CodeNotFound, "model", "has no model"},
	{"model of another store", func(w *world) Input {
		c := w.command(other, w.grant("doc:plan#viewer@user:bob"))
		c.Model = model1
		return w.input(edge, c)
	}, other, true, ledger.CodeNotFound, "model", "has no model"},

	{"unknown object type", grants("tree:plan#viewer@user:bob"), acme, true, ledger.CodeNotFound, "changes[1].tuple.object.type", "tree"},
	{"unknown relation", grants("doc:plan#owner@user:bob"), acme, true, ledger.CodeNotFound, "changes[1].tuple.relation", "owner"},
	{"unknown subject type", grants("doc:plan#viewer@robot:bob"), acme, true, ledger.CodeNotFound, "changes[1].tuple.subject.type", "robot"},
	{"unknown subject relation", grants("doc:plan#viewer@group:eng#chair"), acme, true, ledger.CodeNotFound, "changes[1].tuple.subject.relation", "chair"},
	{"computed relation", grants("doc:plan#reader@user:bob"), acme, true, ledger.CodeInvalid, "changes[1].tuple.relation", "reader"},
	{"subject kind not allowed", grants("doc:plan#viewer@doc:other"), acme, true, ledger.CodeInvalid, "changes[1].tuple.subject", ""},
	{"wildcard not allowed", grants("group:eng#member@user:*"), acme, true, ledger.CodeInvalid, "changes[1].tuple.subject", ""},
	{"unknown condition", grants("doc:plan#viewer@user:bob", func(ch *ledger.Change) { ch.Grant.Condition = "nowhere" }),
		acme, true, ledger.CodeNotFound, "changes[1].condition", "nowhere"},
	{"condition not allowed", grants("doc:plan#viewer@user:bob", func(ch *ledger.Change) { ch.Grant.Condition = "other" }),
		acme, true, ledger.CodeInvalid, "changes[1].condition", "other"},
	{"condition required", grants("doc:plan#editor@user:bob"), acme, true, ledger.CodeInvalid, "changes[1].condition", ""},
	{"unknown parameter", grants("doc:plan#viewer@user:bob", under(`{"minute":7}`)),
		acme, true, ledger.CodeInvalid, "changes[1].context", "minute"},
	{"ill-typed parameter", grants("doc:plan#viewer@user:bob", under(`{"hour":"noon"}`)),
		acme, true, ledger.CodeInvalid, "changes[1].context", "hour"},

	{"context too long once typed", grants("doc:plan#viewer@user:bob", under(`{"rates":[`+strings.Repeat("1,", 20_000)+`1]}`)),
		acme, true, ledger.CodeInvalid, "changes[1].context", "at most 65536 bytes once typed"},

	{"expiry in the past", grants("doc:plan#viewer@user:bob", func(ch *ledger.Change) { ch.Grant.ExpiresAt = start }),
		acme, true, ledger.CodePrecondition, "changes[1].expires_at", "must be after the entry's log time"},
	{"expiry at the log time", func(w *world) Input {
		ch := w.grant("doc:plan#viewer@user:bob")
		ch.Grant.ExpiresAt = w.time
		return w.input(edge, w.command(acme, ch))
	}, acme, true, ledger.CodePrecondition, "changes[0].expires_at", "must be after the entry's log time"},
	{"expires_after beyond all time", grants("doc:plan#viewer@user:bob", func(ch *ledger.Change) { ch.ExpiresAfter = math.MaxInt64 }),
		acme, true, ledger.CodePrecondition, "changes[1].expires_after", "2262"},
	{"expires_after ends before not_before", func(w *world) Input {
		ch := w.grant("doc:plan#viewer@user:bob")
		ch.ExpiresAfter, ch.Grant.NotBefore = second, w.time+second
		return w.input(edge, w.command(acme, ch))
	}, acme, true, ledger.CodePrecondition, "changes[0].expires_after", "not_before"},

	{"model id used", func(w *world) Input { return w.input(edge, w.command(acme, writeModel(model1, narrowModel()))) },
		acme, true, ledger.CodePrecondition, "changes[0].model.id", "already"},
	{"model that does not decode", func(w *world) Input {
		ch := writeModel(model2, narrowModel())
		ch.Model.Compiled = append(ch.Model.Compiled, 0)
		return w.input(edge, w.command(acme, ch))
	}, acme, true, ledger.CodeInvalid, "changes[0].model.compiled", ""},
	{"model that is not valid", func(w *world) Input {
		m := narrowModel()
		m.Types[1].Relations[0].Direct[0].Type = "robot"
		return w.input(edge, w.command(acme, writeModel(model2, m)))
	}, acme, true, ledger.CodeInvalid, "changes[0].model.compiled", "robot"},

	{"store id in use", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: acme, Name: "again", Admin: "eve"}))
	}, ledger.System, true, ledger.CodePrecondition, "changes[0].store", "already"},
	{"store id of a deleted store", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: gone, Name: "again", Admin: "eve"}))
	}, ledger.System, true, ledger.CodePrecondition, "changes[0].store", "already"},
	{"delete of no store", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: storeID(99)}))
	}, ledger.System, true, ledger.CodeNotFound, "changes[0].store", "there is no store"},
	{"delete of a deleted store", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: gone}))
	}, ledger.System, true, ledger.CodeNotFound, "changes[0].store", "was deleted"},

	{"epoch that was advanced", func(w *world) Input {
		w.fold(w.input(epoch, w.command(ledger.System, advance(2))))
		return w.input(epoch, w.command(ledger.System, advance(2)))
	}, ledger.System, true, ledger.CodePrecondition, "changes[0].epoch", "must be after epoch 2, is 2"},
}

// rejections2 has a row for every way of being rejected that came with fold version 2.
var rejections2 = []rejection{
	{"command for a store that is being restored", func(w *world) Input {
		return w.input(edge, w.command(coming, w.revoke("doc:plan#viewer@user:ann")))
	}, ledger.System, false, ledger.CodeNotFound, "store", "is being restored"},
	{"creation of a store that is being restored", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: coming, Name: "n", Admin: "root"}))
	}, ledger.System, true, ledger.CodePrecondition, "changes[0].store", "was used"},
	{"restoring a live store", func(w *world) Input { return w.input(edge, w.command(ledger.System, begin(acme))) },
		ledger.System, true, ledger.CodePrecondition, "changes[0].store", "of this log already"},
	{"restoring a deleted store", func(w *world) Input { return w.input(edge, w.command(ledger.System, begin(gone))) },
		ledger.System, true, ledger.CodePrecondition, "changes[0].store", "of this log already"},
	{"restoring a store twice", func(w *world) Input { return w.input(edge, w.command(ledger.System, begin(coming))) },
		ledger.System, true, ledger.CodePrecondition, "changes[0].store", "of this log already"},
	{"restoring system", func(w *world) Input { return w.input(edge, w.command(ledger.System, begin(ledger.System))) },
		ledger.System, false, ledger.CodeMalformed, "changes[0].store", "cannot be restored"},
	{"restoring system's end", func(w *world) Input { return w.input(edge, w.command(ledger.System, end(ledger.System, false))) },
		ledger.System, false, ledger.CodeMalformed, "changes[0].store", "cannot be restored"},
	{"restoring in another store than system", func(w *world) Input { return w.input(edge, w.command(acme, begin(storeID(98)))) },
		ledger.System, false, ledger.CodeMalformed, "store", "are changed in the store"},
	{"restoring two stores at once", func(w *world) Input {
		return w.input(edge, w.command(ledger.System, begin(storeID(97)), begin(storeID(98))))
	}, ledger.System, false, ledger.CodeMalformed, "changes[0]", "alone in its command"},
	{"restoring as a principal", func(w *world) Input {
		return w.input(ledger.Origin{Actor: "ci", Attester: "grantlog.main.cmd.ci", Method: ledger.MethodNATS}, w.command(ledger.System, begin(storeID(98))))
	}, ledger.System, true, ledger.CodeDenied, "changes[0]", "of an edge only"},
	{"ending as a principal", func(w *world) Input {
		return w.input(ledger.Origin{Actor: "ci", Attester: "grantlog.main.cmd.ci", Method: ledger.MethodNATS}, w.command(ledger.System, end(coming, false)))
	}, ledger.System, true, ledger.CodeDenied, "changes[0]", "of an edge only"},
	{"restoring under the epoch subject", func(w *world) Input { return w.input(epoch, w.command(ledger.System, begin(storeID(98)))) },
		ledger.System, true, ledger.CodeDenied, "changes[0]", "only an epoch"},
	{"restoring under the activate subject", func(w *world) Input { return w.input(activate, w.command(ledger.System, begin(storeID(98)))) },
		ledger.System, true, ledger.CodeDenied, "changes[0]", "only a fold version"},
	{"end without a beginning", func(w *world) Input { return w.input(edge, w.command(ledger.System, end(storeID(98), false))) },
		ledger.System, true, ledger.CodePrecondition, "changes[0].store", "is not being restored"},
	{"end of a live store", func(w *world) Input { return w.input(edge, w.command(ledger.System, end(acme, true))) },
		ledger.System, true, ledger.CodePrecondition, "changes[0].store", "is not being restored"},
	{"end of a store that was given up", func(w *world) Input {
		w.apply(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: coming})
		return w.input(edge, w.command(ledger.System, end(coming, true)))
	}, ledger.System, true, ledger.CodePrecondition, "changes[0].store", "is not being restored"},
	{"assertions of an unknown model", func(w *world) Input { return w.input(edge, w.command(acme, assert(storeID(99), "a"))) },
		acme, true, ledger.CodeNotFound, "changes[0].model.id", "the store has no model"},
	{"assertions of a model of another store", func(w *world) Input { return w.input(edge, w.command(other, assert(model1, "a"))) },
		other, true, ledger.CodeNotFound, "changes[0].model.id", "the store has no model"},
	{"assertions of no model", func(w *world) Input { return w.input(edge, w.command(acme, assert(ledger.ID{}, "a"))) },
		ledger.System, false, ledger.CodeMalformed, "changes[0].model.id", "not zero"},
	{"assertions that are too long", func(w *world) Input {
		return w.input(edge, w.command(acme, assert(model1, strings.Repeat("a", ledger.MaxAssertions+1))))
	}, ledger.System, false, ledger.CodeMalformed, "changes[0].assertions", "must be at most 65536 bytes, are 65537"},
	{"assertions in system", func(w *world) Input { return w.input(edge, w.command(ledger.System, assert(model1, "a"))) },
		ledger.System, false, ledger.CodeMalformed, "store", "no model of its own"},
	{"assertions with a grant", func(w *world) Input {
		return w.input(edge, w.command(acme, w.grant("doc:plan#viewer@user:bob"), assert(model1, "a")))
	}, ledger.System, false, ledger.CodeMalformed, "changes[1]", "alone in its command"},
	{"assertions with a precondition", func(w *world) Input {
		c := w.command(acme, assert(model1, "a"))
		c.Preconditions = []ledger.Precondition{{Tuple: parse(w.t, "doc:plan#viewer@user:ann"), MustExist: true}}
		return w.input(edge, c)
	}, ledger.System, false, ledger.CodeMalformed, "changes[0]", "without preconditions"},
	{"assertions under the epoch subject", func(w *world) Input { return w.input(epoch, w.command(acme, assert(model1, "a"))) },
		acme, true, ledger.CodeDenied, "changes[0]", "only an epoch"},
	{"assertions under the activate subject", func(w *world) Input { return w.input(activate, w.command(acme, assert(model1, "a"))) },
		acme, true, ledger.CodeDenied, "changes[0]", "only a fold version"},
	{"a lower fold version", func(w *world) Input {
		return w.input(activate, w.command(ledger.System, ledger.Change{Kind: ledger.Activate, Version: 1}))
	}, ledger.System, true, ledger.CodePrecondition, "changes[0].version", "must be at least 2"},
}

// assert gives a model these assertions.
func assert(model ledger.ID, assertions string) ledger.Change {
	return ledger.Change{Kind: ledger.WriteAssertions, Model: ledger.ModelSource{ID: model}, Assertions: []byte(assertions)}
}

func begin(store ledger.ID) ledger.Change {
	return ledger.Change{Kind: ledger.BeginRestore, Store: store}
}

func end(store ledger.ID, deleted bool) ledger.Change {
	return ledger.Change{Kind: ledger.EndRestore, Store: store, Deleted: deleted}
}

// activate2 activates fold version 2, and begins to restore the store coming.
func (w *world) activate2() {
	w.t.Helper()
	w.fold(w.input(activate, w.command(ledger.System, ledger.Change{Kind: ledger.Activate, Version: 2})))
	if w.version = w.state.Version(); w.version != 2 {
		w.t.Fatalf("fold version %d", w.version)
	}
	w.apply(ledger.System, begin(coming))
}

func TestRejected(t *testing.T) {
	for _, tt := range rejections {
		t.Run(tt.name, func(t *testing.T) { testRejected(t, tt, newWorld(t)) })
	}
	for _, tt := range append(rejections, rejections2...) {
		t.Run(tt.name+", under fold version 2", func(t *testing.T) {
			w := newWorld(t)
			w.activate2()
			testRejected(t, tt, w)
		})
	}
	// Under version 1 they have other reasons, or are not known at all.
	for _, tt := range rejections2 {
		t.Run(tt.name+", under fold version 1", func(t *testing.T) {
			w := newWorld(t)
			if strings.Contains(tt.name, "given up") {
				return
			}
			if r := w.fold(tt.make(w))[0]; r.Outcome.Kind == ledger.Rejected && strings.Contains(r.Outcome.Rejection.Message, tt.message) {
				t.Errorf("%v", r.Outcome.Rejection)
			}
		})
	}
}

func testRejected(t *testing.T, tt rejection, w *world) {
	c := w.command(acme, w.grant("doc:plan#viewer@user:ann"))
	c.ID = commandID(taken)
	if r := w.send(c); r.Outcome.Kind != ledger.Applied {
		t.Fatalf("grant: %v", r.Outcome.Rejection)
	}
	in := tt.make(w)
	revisions := map[ledger.ID]ledger.Revision{}
	for _, id := range []ledger.ID{ledger.System, acme, other, gone} {
		revisions[id] = w.revision(id)
	}
	before := w.state.Live(acme, math.MaxUint64)
	records := w.fold(in)
	r := records[0]
	if r.Outcome.Kind != ledger.Rejected {
		t.Fatalf("outcome = %v, want rejected", r.Outcome.Kind)
	}
	got := r.Outcome.Rejection
	if got.Code != tt.code || got.Field != tt.field || !strings.Contains(got.Message, tt.message) {
		t.Errorf("rejection = %v %q %q, want %v %q …%s…", got.Code, got.Field, got.Message, tt.code, tt.field, tt.message)
	}
	if r.Store != tt.store || len(records) != 1 {
		t.Errorf("%d records, the first in store %s, want one in %s", len(records), r.Store, tt.store)
	}
	if r.Claims != tt.claims {
		t.Errorf("claims = %v, want %v", r.Claims, tt.claims)
	}
	if len(r.Effects) != 0 || !reflect.DeepEqual(w.state.Live(acme, math.MaxUint64), before) {
		t.Errorf("a rejected command changed something: %v", r.Effects)
	}
	for _, id := range []ledger.ID{ledger.System, acme, other, gone} {
		want := revisions[id]
		if id == tt.store {
			want++
		}
		if w.revision(id) != want {
			t.Errorf("store %s is at revision %d, want %d", id, w.revision(id), want)
		}
	}
	if e := w.state.Entries(tt.store); !bytes.Equal(e[len(e)-1].Raw, in.Raw) {
		t.Error("the entry does not hold the bytes that came")
	}
}

// grants returns a command whose second change is the grant, changed by with; the
// first is one that would be applied alone.
func grants(text string, with ...func(*ledger.Change)) func(*world) Input {
	return func(w *world) Input {
		ch := w.grant(text)
		for _, f := range with {
			f(&ch)
		}
		return w.input(edge, w.command(acme, w.grant("doc:first#viewer@user:bob"), ch))
	}
}

// under makes a grant conditional on office with a JSON context.
func under(json string) func(*ledger.Change) {
	return func(ch *ledger.Change) {
		v, err := model.ParseJSON([]byte(json))
		if err != nil {
			panic(err)
		}
		ch.Grant.Condition, ch.Grant.Context = "office", model.AppendContext(nil, v)
	}
}

// TestActivate holds that the version in force may be activated again, that a newer one
// takes its place, and that one which this program does not know stops the fold: it is
// neither an outcome nor passed over.
func TestActivate(t *testing.T) {
	w := newWorld(t)
	if r := w.fold(w.input(activate, w.command(ledger.System, ledger.Change{Kind: ledger.Activate, Version: 1})))[0]; r.Outcome.Kind != ledger.Applied || len(r.Effects) != 0 {
		t.Errorf("activate version 1: %+v, want it applied without effects", r)
	}
	for _, version := range []uint64{1, 2} {
		w.version = version
		records, err := Decide(w.state, w.input(activate, w.command(ledger.System, ledger.Change{Kind: ledger.Activate, Version: 3})))
		if !errors.Is(err, ledger.ErrFoldVersion) || !errors.Is(err, ledger.ErrQuarantined) || records != nil {
			t.Errorf("activate version 3: %v, %v, want ErrFoldVersion", records, err)
		}
		r := w.fold(w.input(activate, w.command(ledger.System, ledger.Change{Kind: ledger.Activate, Version: 2})))[0]
		if want := version == 1; r.Outcome.Kind != ledger.Applied || (len(r.Effects) == 1) != want || want && r.Effects[0].Version != 2 || w.state.Version() != 2 {
			t.Errorf("activate version 2 under %d: %+v", version, r)
		}
	}
	in := w.input(edge, w.command(acme, w.grant("doc:plan#viewer@user:bob")))
	in.Version = 3
	if records, err := Decide(w.state, in); err == nil {
		t.Errorf("decided under version 3: %v, want an error", records)
	}
}

// advance returns the change to epoch n.
func advance(n uint64) ledger.Change {
	ch := ledger.Change{Kind: ledger.AdvanceEpoch, Epoch: ledger.Epoch{Number: n}}
	for i := range n {
		ch.Epoch.Cuts = append(ch.Epoch.Cuts, ledger.Cut{From: 10 + 10*i, To: 12 + 10*i, Missing: i%2 == 0})
	}
	return ch
}

// must adds preconditions: tuple text, then whether it must exist.
func (w *world) must(c *ledger.Command, pairs ...any) *ledger.Command {
	for i := 0; i < len(pairs); i += 2 {
		c.Preconditions = append(c.Preconditions, ledger.Precondition{Tuple: parse(w.t, pairs[i].(string)), MustExist: pairs[i+1].(bool)})
	}
	return c
}

// TestGrantAgain holds what makes a grant of a live tuple a new version.
func TestGrantAgain(t *testing.T) {
	base := model.Grant{Condition: "office", Context: context(t, `{"limit":5,"rate":1}`), NotBefore: start, ExpiresAt: start + 1000*second, Owner: "hr"}
	for _, tt := range []struct {
		name      string
		change    func(g *ledger.Change)
		effective int
	}{
		{"the same", func(*ledger.Change) {}, 0},
		{"the same number, written as a fraction", func(ch *ledger.Change) { ch.Grant.Context = context(t, `{"rate":1.0,"limit":5}`) }, 0},
		{"another owner", func(ch *ledger.Change) { ch.Grant.Owner = "it" }, 1},
		{"no owner", func(ch *ledger.Change) { ch.Grant.Owner = "" }, 1},
		{"another expiry", func(ch *ledger.Change) { ch.Grant.ExpiresAt++ }, 1},
		{"no expiry", func(ch *ledger.Change) { ch.Grant.ExpiresAt = 0 }, 1},
		{"another start", func(ch *ledger.Change) { ch.Grant.NotBefore++ }, 1},
		{"other context", func(ch *ledger.Change) { ch.Grant.Context = context(t, `{"limit":6,"rate":1}`) }, 1},
		{"no context", func(ch *ledger.Change) { ch.Grant.Context = nil }, 1},
		{"no condition", func(ch *ledger.Change) { ch.Grant.Context, ch.Grant.Condition = nil, "" }, 1},
		{"an expiry from now", func(ch *ledger.Change) { ch.Grant.ExpiresAt, ch.ExpiresAfter = 0, 50*second }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			ch := w.grant("doc:plan#viewer@user:bob")
			ch.Grant = base
			w.apply(acme, ch)
			tt.change(&ch)
			r := w.apply(acme, ch)
			if r.Outcome.Effective != tt.effective || len(r.Effects) != tt.effective {
				t.Fatalf("%d effective of %v, want %d", r.Outcome.Effective, r.Effects, tt.effective)
			}
			if tt.effective == 0 {
				return
			}
			want := ch.Grant
			if ch.ExpiresAfter != 0 {
				want.ExpiresAt = r.Time + ch.ExpiresAfter
			}
			got, live, _ := w.state.Grant(acme, ch.Tuple)
			if f := r.Effects[0]; f.Kind != SetTuple || !f.Live || f.Tuple != ch.Tuple || !live || got.Owner != want.Owner ||
				got.Condition != want.Condition || got.ExpiresAt != want.ExpiresAt || got.NotBefore != want.NotBefore {
				t.Errorf("granted %+v, want %+v", got, want)
			}
		})
	}
}

// TestContextIsTyped: what is recorded of a context is canonical for the condition's
// types, whatever form it came in.
func TestContextIsTyped(t *testing.T) {
	w := newWorld(t)
	ch := w.grant("doc:plan#viewer@user:bob")
	under(`{"rate":2}`)(&ch)
	w.apply(acme, ch)
	g, _, _ := w.state.Grant(acme, ch.Tuple)
	v, err := model.DecodeContext(g.Context)
	if err != nil {
		t.Fatal(err)
	}
	rate, _ := v.Field("rate")
	if rate.Kind != model.DoubleValue || rate.Double != 2 {
		t.Errorf("rate = %+v, want the double 2", rate)
	}
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	ch := w.grant("doc:plan#viewer@user:bob")
	ch.ExpiresAfter = 2 * second
	granted := w.apply(acme, ch) // at time 0 of the comments below
	if got := granted.Effects[0].Grant.ExpiresAt; got != granted.Time+2*second {
		t.Fatalf("expires at %d, want %d", got, granted.Time+2*second)
	}
	w.time = granted.Time + 2*second - 1
	if r := w.send(w.must(w.command(acme, w.revoke("doc:plan#viewer@user:nobody")), "doc:plan#viewer@user:bob", true)); r.Outcome.Kind != ledger.Applied {
		t.Fatalf("just before the expiry: %v, want it to exist", r.Outcome.Rejection)
	}
	w.time = granted.Time + 2*second
	if r := w.send(w.must(w.command(acme, w.revoke("doc:plan#viewer@user:nobody")), "doc:plan#viewer@user:bob", false)); r.Outcome.Kind != ledger.Applied {
		t.Fatalf("at the expiry: %v, want it to count as absent", r.Outcome.Rejection)
	}
	if r := w.apply(acme, w.revoke("doc:plan#viewer@user:bob")); r.Outcome.Effective != 0 {
		t.Errorf("revoking what has expired: %d effective, want 0", r.Outcome.Effective)
	}
	if r := w.apply(acme, w.grant("doc:plan#viewer@user:bob")); r.Outcome.Effective != 1 {
		t.Errorf("granting what has expired: %d effective, want 1", r.Outcome.Effective)
	}
}

// TestExpiryUsesLogTime: the log time does not follow a broker's clock that runs back.
func TestExpiryUsesLogTime(t *testing.T) {
	w := newWorld(t)
	w.apply(acme, w.grant("doc:plan#viewer@user:ann"))
	last := w.state.Entries(acme)[w.revision(acme)-1].Time
	for _, broker := range []int64{last - 3600*second, 0, -5, math.MinInt64} {
		ch := w.grant("doc:plan#viewer@user:bob")
		ch.Grant.ExpiresAt = last
		in := w.input(edge, w.command(acme, ch))
		in.Time = broker
		r := w.fold(in)[0]
		if r.Time != last {
			t.Errorf("broker time %d: log time %d, want %d", broker, r.Time, last)
		}
		if r.Outcome.Rejection == nil || r.Outcome.Rejection.Field != "changes[0].expires_at" {
			t.Errorf("broker time %d: %+v, want the expiry rejected", broker, r.Outcome)
		}
	}
}

// TestNotYetActive: a grant that counts only later is granted all the same.
func TestNotYetActive(t *testing.T) {
	w := newWorld(t)
	ch := w.grant("doc:plan#viewer@user:bob")
	ch.Grant.NotBefore = start + 1000*second
	w.apply(acme, ch)
	if r := w.send(w.must(w.command(acme, w.revoke("doc:plan#viewer@user:bob")), "doc:plan#viewer@user:bob", true)); r.Outcome.Kind != ledger.Applied || r.Outcome.Effective != 1 {
		t.Errorf("outcome = %+v, want applied with 1 effective", r.Outcome)
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	w.apply(acme, w.grant("doc:plan#viewer@user:ann"))
	r := w.apply(acme, w.revoke("doc:plan#viewer@user:ann"), w.revoke("doc:plan#viewer@user:bob"))
	if r.Outcome.Effective != 1 || len(r.Effects) != 1 || r.Effects[0].Live || !r.Effects[0].Grant.Equal(model.Grant{}) {
		t.Errorf("effects = %+v, want one that ends ann's grant", r.Effects)
	}
	if _, live, _ := w.state.Grant(acme, parse(t, "doc:plan#viewer@user:ann")); live {
		t.Error("the tuple is live after its revoke")
	}
	if r := w.apply(other, w.revoke("anything:x#goes@user:ann")); r.Outcome.Effective != 0 {
		t.Errorf("a revoke without a model has %d effective, want 0", r.Outcome.Effective)
	}
}

// TestModels: the newest counts unless the command names one, and a revoke needs none
// that allows the tuple.
func TestModels(t *testing.T) {
	w := newWorld(t)
	w.apply(acme, w.grant("group:eng#member@user:ann"))
	r := w.apply(acme, writeModel(model2, narrowModel()))
	if f := r.Effects[0]; r.Outcome.Effective != 1 || f.Kind != SetModel || f.Model == nil || f.Source.ID != model2 {
		t.Fatalf("effects = %+v, want the model", r.Effects)
	}
	c := w.command(acme, w.grant("group:eng#member@user:bob"))
	if r := w.send(c); r.Outcome.Kind != ledger.Rejected {
		t.Errorf("granted what the newest model does not allow: %+v", r.Outcome)
	}
	c = w.command(acme, w.grant("group:eng#member@user:bob"))
	c.Model = model1
	if r := w.send(c); r.Outcome.Kind != ledger.Applied {
		t.Errorf("under the older model that it names: %v", r.Outcome.Rejection)
	}
	if r := w.apply(acme, w.revoke("group:eng#member@user:ann")); r.Outcome.Effective != 1 {
		t.Errorf("revoke of what the model no longer allows: %d effective, want 1", r.Outcome.Effective)
	}
	// The same model id in another store is another model.
	w.apply(other, writeModel(model2, narrowModel()))
}

// TestAllOrNothing: effects come in the order of the changes, those without are left out.
func TestAllOrNothing(t *testing.T) {
	w := newWorld(t)
	w.apply(acme, w.grant("doc:b#viewer@user:ann"), w.grant("doc:c#viewer@user:ann"))
	r := w.apply(acme, w.grant("doc:d#viewer@user:ann"), w.grant("doc:c#viewer@user:ann"), w.revoke("doc:b#viewer@user:ann"), w.grant("doc:a#viewer@user:*"))
	var got []string
	for _, f := range r.Effects {
		got = append(got, f.Tuple.String())
	}
	want := []string{"doc:d#viewer@user:ann", "doc:b#viewer@user:ann", "doc:a#viewer@user:*"}
	if !reflect.DeepEqual(got, want) || r.Outcome.Effective != 3 {
		t.Errorf("effects %q (%d effective), want %q", got, r.Outcome.Effective, want)
	}
}

// TestRetry: the same command again gives the first outcome by its revision, for ever,
// per store and actor.
func TestRetry(t *testing.T) {
	bob := ledger.Origin{Actor: "bob", Attester: edge.Attester, Method: ledger.MethodOIDC}
	w := newWorld(t)
	applied := w.command(acme, w.grant("doc:plan#viewer@user:ann"))
	w.send(applied)
	first := w.revision(acme)
	for range 2 {
		r := w.send(applied)
		if r.Outcome != (ledger.Outcome{Kind: ledger.Duplicate, First: first}) || r.Store != acme || r.Claims || r.Effects != nil {
			t.Errorf("retry = %+v, want a duplicate of %d", r, first)
		}
	}
	t.Run("from another edge, with another method", func(t *testing.T) {
		o := ledger.Origin{Actor: "ann", Attester: "grantlog.main.edge.b", Method: ledger.MethodKey}
		if r := w.fold(w.input(o, applied))[0]; r.Outcome.Kind != ledger.Duplicate {
			t.Errorf("outcome = %+v, want a duplicate", r.Outcome)
		}
	})
	t.Run("in the other form", func(t *testing.T) {
		raw := `{"id":"` + applied.ID.String() + `","store":"` + acme.String() + `","changes":[{"grant":{"tuple":"doc:plan#viewer@user:ann"}}]}`
		if r := w.fold(w.raw(edge, []byte(raw)))[0]; r.Outcome.Kind != ledger.Duplicate {
			t.Errorf("outcome = %+v, want a duplicate", r.Outcome)
		}
	})
	t.Run("of a rejected command", func(t *testing.T) {
		c := w.command(acme, w.grant("doc:plan#owner@user:ann"))
		w.send(c)
		first := w.revision(acme)
		if r := w.send(c); r.Outcome != (ledger.Outcome{Kind: ledger.Duplicate, First: first}) {
			t.Errorf("outcome = %+v, want a duplicate of %d", r.Outcome, first)
		}
	})
	t.Run("after a conflict", func(t *testing.T) {
		c := *applied
		c.Ticket = "T-1"
		for range 2 {
			if r := w.send(&c); r.Outcome.Rejection == nil || r.Outcome.Rejection.Code != ledger.CodeConflict {
				t.Errorf("outcome = %+v, want a conflict each time", r.Outcome)
			}
		}
		if r := w.send(applied); r.Outcome.First != first {
			t.Errorf("outcome = %+v, want a duplicate of %d still", r.Outcome, first)
		}
	})
	t.Run("by another actor", func(t *testing.T) {
		if r := w.fold(w.input(bob, applied))[0]; r.Outcome.Kind != ledger.Applied {
			t.Errorf("outcome = %+v, want applied", r.Outcome)
		}
	})
	t.Run("in another store", func(t *testing.T) {
		c := *applied
		c.Store = other
		c.Changes = []ledger.Change{w.revoke("doc:plan#viewer@user:ann")}
		if r := w.send(&c); r.Outcome.Kind != ledger.Applied {
			t.Errorf("outcome = %+v, want applied", r.Outcome)
		}
	})
	t.Run("of a signed command without its signature", func(t *testing.T) {
		c := w.command(acme, w.grant("doc:plan#viewer@user:cid"))
		c.KeyID, c.Signature = "k", make([]byte, 64)
		w.send(c)
		first := w.revision(acme)
		c.KeyID, c.Signature = "", nil
		if r := w.send(c); r.Outcome != (ledger.Outcome{Kind: ledger.Duplicate, First: first}) {
			t.Errorf("outcome = %+v, want a duplicate of %d: content leaves the signature out", r.Outcome, first)
		}
	})
	t.Run("of a command for no store, once the store is there", func(t *testing.T) {
		late := storeID(50)
		c := w.command(late, w.revoke("doc:plan#viewer@user:ann"))
		for range 2 {
			if r := w.send(c); r.Store != ledger.System || r.Outcome.Kind != ledger.Rejected || r.Claims {
				t.Errorf("record = %+v, want a rejection in system that claims nothing", r)
			}
		}
		w.apply(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: late, Name: "late", Admin: "root"})
		if r := w.send(c); r.Store != late || r.Outcome.Kind != ledger.Applied || !r.Claims {
			t.Errorf("record = %+v, want it applied in the store", r)
		}
	})
}

// TestStores: creating and deleting a store are entries of system and of the store.
func TestStores(t *testing.T) {
	w := newWorld(t)
	id := storeID(20)
	create := w.command(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: id, Name: "new", Admin: "root"})
	effect := Effect{Kind: SetStore, Store: id, Status: Live, Name: "new", Admin: "root"}
	check := func(c *ledger.Command, effect Effect, revision ledger.Revision) {
		t.Helper()
		records := w.fold(w.input(edge, c))
		if len(records) != 2 || records[0].Store != ledger.System || records[1].Store != id {
			t.Fatalf("%d records, want one of system and one of the store", len(records))
		}
		for i, r := range records {
			if r.Outcome != (ledger.Outcome{Kind: ledger.Applied, Effective: 1}) || !reflect.DeepEqual(r.Effects, []Effect{effect}) {
				t.Errorf("record %d: %+v, want the effect %+v", i, r, effect)
			}
			if r.Claims != (i == 0) {
				t.Errorf("record %d: claims = %v", i, r.Claims)
			}
		}
		if w.revision(id) != revision {
			t.Errorf("the store is at revision %d, want %d", w.revision(id), revision)
		}
	}
	check(create, effect, 1)
	if r := w.send(create); r.Outcome.Kind != ledger.Duplicate || r.Store != ledger.System {
		t.Errorf("retry = %+v, want a duplicate in system", r)
	}
	// The creating command's id belongs to system, not to the store.
	c := w.command(id, w.revoke("doc:plan#viewer@user:ann"))
	c.ID = create.ID
	if r := w.send(c); r.Outcome.Kind != ledger.Applied {
		t.Errorf("the same id in the store: %+v, want applied", r.Outcome)
	}
	remove := w.command(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: id})
	check(remove, Effect{Kind: SetStore, Store: id, Status: Deleted}, 3)
	if r := w.send(c); r.Store != ledger.System || r.Outcome.Rejection == nil || r.Outcome.Rejection.Code != ledger.CodeNotFound {
		t.Errorf("after its deletion: %+v, want not found in system", r)
	}
	if w.revision(id) != 3 {
		t.Errorf("the deleted store grew to %d", w.revision(id))
	}
}

// TestStoreTime: the store's own entry is neither before the one of system, nor before
// the store's others where those are ahead of system.
func TestStoreTime(t *testing.T) {
	w := newWorld(t)
	in := w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: storeID(20), Name: "n", Admin: "a"}))
	system, _ := w.state.LogTime(ledger.System)
	in.Time = system - second
	if r := w.fold(in); r[0].Time != system || r[1].Time != system {
		t.Errorf("times %d and %d, want %d in both", r[0].Time, r[1].Time, system)
	}
	w.time += 3600 * second
	ahead := w.apply(acme, w.grant("doc:plan#viewer@user:ann")).Time
	in = w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: acme}))
	in.Time = ahead - 1800*second
	records := w.fold(in)
	if records[0].Time != in.Time || records[1].Time != ahead {
		t.Errorf("times %d and %d, want %d in system and %d in the store", records[0].Time, records[1].Time, in.Time, ahead)
	}
}

func TestEpoch(t *testing.T) {
	w := newWorld(t)
	for _, n := range []uint64{1, 2, 5} {
		r := w.fold(w.input(epoch, w.command(ledger.System, advance(n))))[0]
		if r.Outcome.Kind != ledger.Applied || len(r.Effects) != 1 || r.Effects[0].Kind != SetEpoch || !reflect.DeepEqual(r.Effects[0].Epoch, advance(n).Epoch) {
			t.Fatalf("epoch %d: %+v, want it applied", n, r)
		}
		if w.state.Epoch() != n {
			t.Errorf("epoch = %d, want %d", w.state.Epoch(), n)
		}
	}
}

// TestLongMessage: a message that repeats a long name is cut to valid text.
func TestLongMessage(t *testing.T) {
	for _, text := range []string{strings.Repeat("é", 2000), "x" + strings.Repeat("é", 2000), strings.Repeat("\xff", 5000)} {
		got := clean(text)
		if len(got) > maxMessage || !utf8.ValidString(got) {
			t.Errorf("clean gave %d bytes, valid %v", len(got), utf8.ValidString(got))
		}
	}
	if got := clean("short"); got != "short" {
		t.Errorf("clean(short) = %q", got)
	}
}

func TestUnknownVersion(t *testing.T) {
	for _, version := range []uint64{0, ledger.NewestFoldVersion + 1, math.MaxUint64} {
		w := newWorld(t)
		in := w.raw(edge, nil)
		in.Version = version
		if records, err := Decide(w.state, in); err == nil || records != nil {
			t.Errorf("version %d: %v, %v; want an error, which stops the fold", version, records, err)
		}
	}
}

// failing is a state of which the nth question fails.
type failing struct {
	State
	left *int
}

var errRead = errors.New("cannot read")

func (f failing) fail() error {
	if *f.left--; *f.left < 0 {
		return errRead
	}
	return nil
}

func (f failing) Status(id ledger.ID) (Status, error) {
	s, err := f.State.Status(id)
	return s, errors.Join(err, f.fail())
}

func (f failing) Model(store, id ledger.ID) (*model.Model, error) {
	m, err := f.State.Model(store, id)
	return m, errors.Join(err, f.fail())
}

func (f failing) Grant(store ledger.ID, t tuple.Tuple) (model.Grant, bool, error) {
	g, ok, err := f.State.Grant(store, t)
	return g, ok, errors.Join(err, f.fail())
}

func (f failing) Command(store ledger.ID, actor string, id ledger.UUID) (Seen, bool, error) {
	s, ok, err := f.State.Command(store, actor, id)
	return s, ok, errors.Join(err, f.fail())
}

func (f failing) LogTime(store ledger.ID) (int64, error) {
	at, err := f.State.LogTime(store)
	return at, errors.Join(err, f.fail())
}

// TestStateFails: whichever question fails, Decide gives that error and no record.
func TestStateFails(t *testing.T) {
	w := newWorld(t)
	for name, in := range map[string]Input{
		"grant":  w.input(edge, w.must(w.command(acme, w.grant("doc:a#viewer@user:ann"), w.revoke("doc:b#viewer@user:ann")), "doc:c#viewer@user:ann", false)),
		"model":  w.input(edge, w.command(acme, writeModel(model2, narrowModel()))),
		"create": w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: storeID(20), Name: "n", Admin: "a"})),
		"delete": w.input(edge, w.command(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: acme})),
		"junk":   w.raw(edge, nil),
	} {
		failures := 0
		for n := 0; ; n++ {
			left := n
			records, err := Decide(failing{w.state, &left}, in)
			if err == nil {
				if left < 0 {
					t.Errorf("%s: question %d failed, but Decide gave %v", name, n, records)
					continue
				}
				break
			}
			failures++
			if !errors.Is(err, errRead) || records != nil {
				t.Fatalf("%s: question %d failed: %v, %v", name, n, records, err)
			}
		}
		if failures == 0 {
			t.Errorf("%s: no question was asked", name)
		}
	}
}

// BenchmarkDecide decides single grants that change something, state in memory.
func BenchmarkDecide(b *testing.B) {
	w := newWorld(b)
	in := w.input(edge, w.command(acme, w.grant("doc:plan#viewer@user:ann")))
	b.ReportAllocs()
	for b.Loop() {
		if r, err := Decide(w.state, in); err != nil || r[0].Outcome.Effective != 1 {
			b.Fatal(r, err)
		}
	}
}
