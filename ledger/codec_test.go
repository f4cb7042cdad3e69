package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/ledger/wire"
)

func mustParse(t testing.TB, text string) tuple.Tuple {
	t.Helper()
	tup, err := tuple.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return tup
}

// full is a command that uses every field a grant or revoke can have.
func full(t testing.TB) *ledger.Command {
	return &ledger.Command{
		ID: ledger.UUID{1}, Store: ledger.ID{2}, Model: ledger.ID{3},
		Reason: "on call\nthis week", Ticket: "OPS-17", Channel: "chat",
		Preconditions: []ledger.Precondition{
			{Tuple: mustParse(t, "group:ops#member@user:ann"), MustExist: true},
			{Tuple: mustParse(t, "doc:plan#blocked@user:ann")},
		},
		Changes: []ledger.Change{
			{Kind: ledger.Grant, Tuple: mustParse(t, "doc:plan#viewer@group:ops#member"), Grant: model.Grant{
				Condition: "office_hours", NotBefore: 5, ExpiresAt: 6, Owner: "terraform",
				Context: model.AppendValue(nil, model.Value{Kind: model.MapValue, Map: []model.Field{{Name: "zone", Value: model.Value{Kind: model.StringValue, String: "EU"}}}}),
			}},
			{Kind: ledger.Grant, Tuple: mustParse(t, "doc:plan#viewer@user:*"), ExpiresAfter: 7},
			{Kind: ledger.Revoke, Tuple: mustParse(t, "doc:plan#owner@user:ann")},
		},
	}
}

func commands(t testing.TB) map[string]*ledger.Command {
	id, store := ledger.UUID{1}, ledger.ID{2}
	alone := func(store ledger.ID, ch ledger.Change) *ledger.Command {
		return &ledger.Command{ID: id, Store: store, Changes: []ledger.Change{ch}}
	}
	signed := full(t)
	signed.KeyID, signed.Signature = "k1", bytes.Repeat([]byte{9}, 64)
	return map[string]*ledger.Command{
		"grants and revokes": full(t),
		"signed":             signed,
		"model": alone(store, ledger.Change{Kind: ledger.WriteModel, Model: ledger.ModelSource{
			ID: ledger.ID{4}, Kind: ledger.SourceDSL, Source: []byte("model"), Compiled: []byte{1}}}),
		"create store":  alone(ledger.System, ledger.Change{Kind: ledger.CreateStore, Store: store, Name: "acme", Admin: "user:ann"}),
		"delete store":  alone(ledger.System, ledger.Change{Kind: ledger.DeleteStore, Store: store}),
		"activate":      alone(ledger.System, ledger.Change{Kind: ledger.Activate, Version: 1}),
		"begin restore": alone(ledger.System, ledger.Change{Kind: ledger.BeginRestore, Store: store}),
		"end restore":   alone(ledger.System, ledger.Change{Kind: ledger.EndRestore, Store: store, Deleted: true}),
		"assertions":    alone(store, ledger.Change{Kind: ledger.WriteAssertions, Model: ledger.ModelSource{ID: ledger.ID{4}}, Assertions: []byte("are")}),
		"no assertions": alone(store, ledger.Change{Kind: ledger.WriteAssertions, Model: ledger.ModelSource{ID: ledger.ID{4}}}),
		"epoch": alone(ledger.System, ledger.Change{Kind: ledger.AdvanceEpoch, Epoch: ledger.Epoch{Number: 2,
			Cuts: []ledger.Cut{{From: 5, To: 9}, {From: 20, To: 20, Missing: true}}}}),
	}
}

func TestCommandRoundTrip(t *testing.T) {
	for name, c := range commands(t) {
		t.Run(name, func(t *testing.T) {
			raw := ledger.AppendCommand(nil, c)
			got, rejection := ledger.ReadCommand(raw, ledger.NewestFoldVersion)
			if rejection != nil {
				t.Fatalf("ReadCommand rejects what AppendCommand wrote: %v", rejection)
			}
			if !reflect.DeepEqual(got, c) {
				t.Errorf("ReadCommand = %+v, want %+v", got, c)
			}
			for n := range raw {
				if _, rejection := ledger.ReadCommand(raw[:n], ledger.NewestFoldVersion); rejection == nil {
					t.Fatalf("ReadCommand accepts the first %d of %d bytes", n, len(raw))
				}
			}
			if _, rejection := ledger.ReadCommand(append(raw, 0), ledger.NewestFoldVersion); rejection == nil {
				t.Error("ReadCommand accepts a byte after the command")
			}
		})
	}
}

func TestCommandHead(t *testing.T) {
	for name, c := range commands(t) {
		raw := ledger.AppendCommand(nil, c)
		want := &ledger.Command{ID: c.ID, Store: c.Store, Model: c.Model, Reason: c.Reason, Ticket: c.Ticket, Channel: c.Channel}
		for _, kind := range []ledger.OutcomeKind{ledger.Applied, ledger.Rejected} {
			e := &ledger.Entry{Raw: raw, Origin: ledger.Origin{Actor: "ann"}, FoldVersion: ledger.NewestFoldVersion, Outcome: ledger.Outcome{Kind: kind}}
			got, rejection := e.CommandHead()
			if rejection != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %v: CommandHead = %+v, %v, want %+v", name, kind, got, rejection, want)
			}
		}
	}
	for name, e := range map[string]*ledger.Entry{
		"no command":           {Raw: []byte("no"), Origin: ledger.Origin{Actor: "ann"}, Outcome: ledger.Outcome{Kind: ledger.Rejected}},
		"applied, but damaged": {Raw: ledger.AppendCommand(nil, full(t))[:40], Origin: ledger.Origin{Actor: "ann"}, Outcome: ledger.Outcome{Kind: ledger.Applied}},
		"no envelope":          {Raw: ledger.AppendCommand(nil, full(t)), Outcome: ledger.Outcome{Kind: ledger.Rejected}},
	} {
		if c, rejection := e.CommandHead(); rejection == nil {
			t.Errorf("%s: CommandHead = %+v, want a rejection", name, c)
		}
	}
	json := &ledger.Entry{Raw: []byte(`{"id":"01890a5d-ac96-774b-bcce-b302099a8057","store":"00000000000000000000000002","ticket":"T-1","changes":[{"revoke":{"tuple":"doc:d#viewer@user:a"}}]}`),
		Origin: ledger.Origin{Actor: "ann"}, FoldVersion: 1, Outcome: ledger.Outcome{Kind: ledger.Applied}}
	if c, rejection := json.CommandHead(); rejection != nil || c.Ticket != "T-1" || c.Changes != nil {
		t.Errorf("of JSON: CommandHead = %+v, %v", c, rejection)
	}
}

func TestContentHash(t *testing.T) {
	plain, signed := full(t), commands(t)["signed"]
	if plain.ContentHash() != signed.ContentHash() {
		t.Error("the signature changes the content hash")
	}
	other := full(t)
	other.Ticket = "OPS-18"
	if plain.ContentHash() == other.ContentHash() {
		t.Error("the ticket does not change the content hash")
	}
}

// jsonCommand is full, as a tool would publish it.
const jsonCommand = `{
	"id": "01000000-0000-0000-0000-000000000000",
	"store": "02000000000000000000000000", "model": "03000000000000000000000000",
	"reason": "on call\nthis week", "ticket": "OPS-17", "channel": "chat",
	"preconditions": [
		{"tuple": "group:ops#member@user:ann", "must_exist": true},
		{"tuple": "doc:plan#blocked@user:ann", "must_exist": false}],
	"changes": [
		{"grant": {"tuple": "doc:plan#viewer@group:ops#member", "condition": "office_hours", "context": {"zone": "EU"},
			"not_before": "1970-01-01T00:00:00.000000005Z", "expires_at": "1970-01-01T00:00:00.000000006Z", "owner": "terraform"}},
		{"grant": {"tuple": "doc:plan#viewer@user:*", "expires_after": "7ns"}},
		{"revoke": {"tuple": "doc:plan#owner@user:ann"}}]
}`

func TestCommandJSON(t *testing.T) {
	got, rejection := ledger.ReadCommand([]byte(jsonCommand), ledger.NewestFoldVersion)
	if rejection != nil {
		t.Fatal(rejection)
	}
	if want := full(t); !reflect.DeepEqual(got, want) {
		t.Errorf("ReadCommand = %+v, want %+v", got, want)
	}
	for name, text := range map[string]string{
		"create store": `{"id": "01000000-0000-0000-0000-000000000000", "store": "system", "changes": [{"create_store": {"store": "02000000000000000000000000", "name": "acme", "admin": "user:ann"}}]}`,
		"delete store": `{"id": "01000000-0000-0000-0000-000000000000", "store": "system", "changes": [{"delete_store": {"store": "02000000000000000000000000"}}]}`,
	} {
		got, rejection := ledger.ReadCommand([]byte(text), ledger.NewestFoldVersion)
		if want := commands(t)[name]; rejection != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: ReadCommand = %+v, %v, want %+v", name, got, rejection, want)
		}
	}
}

func TestCommandJSONRejects(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(jsonCommand, old) {
			t.Fatalf("the command does not hold %q", old)
		}
		return strings.Replace(jsonCommand, old, new, 1)
	}
	for _, tt := range []struct{ name, text, field string }{
		{"no JSON", "{", ""},
		{"a list", "[]", ""},
		{"something after it", jsonCommand + "1", ""},
		{"no id", replace(`"id": "01000000-0000-0000-0000-000000000000",`, ""), "id"},
		{"no store", replace(`"store": "02000000000000000000000000",`, ""), "store"},
		{"no changes", `{"id": "01000000-0000-0000-0000-000000000000", "store": "system"}`, "changes"},
		{"unknown field", replace(`"ticket"`, `"tikcet"`), ""},
		{"unknown field of a grant", replace(`"owner"`, `"onwer"`), "changes[0]"},
		{"a name twice", replace(`"channel": "chat"`, `"reason": "chat"`), ""},
		{"upper-case id", replace("01000000-", "0A000000-"), "id"},
		{"id of zeros", replace("01000000-", "00000000-"), "id"},
		{"lower-case store", replace("020000", "02000a"), "store"},
		{"number for text", replace(`"OPS-17"`, `17`), "ticket"},
		{"text for a flag", replace(`"must_exist": true`, `"must_exist": "yes"`), "preconditions[0].must_exist"},
		{"flag missing", replace(`, "must_exist": true`, ``), "preconditions[0].must_exist"},
		{"malformed tuple", replace("doc:plan#viewer@user:*", "doc:plan@user:*"), "changes[1].tuple"},
		{"malformed part of a tuple", replace("doc:plan#owner@user:ann", "doc:plan#ow ner@user:ann"), "changes[2].tuple.relation"},
		{"two kinds of change", replace(`{"revoke": {"tuple": "doc:plan#owner@user:ann"}}`, `{"revoke": {"tuple": "a:b#c@d:e"}, "grant": {"tuple": "a:b#c@d:e"}}`), "changes[2]"},
		{"unknown kind of change", replace(`"revoke"`, `"remove"`), "changes[2]"},
		{"model in JSON", replace(`"revoke"`, `"write_model"`), "changes[2]"},
		{"time without zone", replace("000000006Z", "000000006"), "changes[0].expires_at"},
		{"duration without unit", replace("7ns", "7"), "changes[1].expires_after"},
		{"negative duration", replace("7ns", "-7ns"), "changes[1].expires_after"},
		{"context that is a list", replace(`{"zone": "EU"}`, `["EU"]`), "changes[0].context"},
		{"context nested too deep", replace(`{"zone": "EU"}`, strings.Repeat(`{"a":`, 20)+"1"+strings.Repeat("}", 20)), ""},
		{"number out of range", replace(`{"zone": "EU"}`, `{"zone": 1e999}`), ""},
		{"NaN", replace(`{"zone": "EU"}`, `{"zone": NaN}`), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, rejection := ledger.ReadCommand([]byte(tt.text), ledger.NewestFoldVersion)
			if rejection == nil || rejection.Code != ledger.CodeMalformed || rejection.Field != tt.field {
				t.Errorf("ReadCommand = %+v, %v, want a malformed %q", c, rejection, tt.field)
			}
		})
	}
}

// TestValidate holds the rules that hold under any state. Each is also held for the
// same command's bytes, since the log has no other edge.
func TestValidate(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		name   string
		from   string // of commands
		change func(*ledger.Command)
		field  string
	}{
		{"id of zeros", "grants and revokes", func(c *ledger.Command) { c.ID = ledger.UUID{} }, "id"},
		{"no changes", "grants and revokes", func(c *ledger.Command) { c.Changes = nil }, "changes"},
		{"too many changes", "grants and revokes", func(c *ledger.Command) {
			c.Changes = nil
			for i := range ledger.MaxChanges + 1 {
				c.Changes = append(c.Changes, ledger.Change{Kind: ledger.Revoke, Tuple: mustParse(t, fmt.Sprintf("doc:%d#viewer@user:ann", i))})
			}
		}, "changes"},
		{"too many preconditions", "grants and revokes", func(c *ledger.Command) {
			for i := range ledger.MaxChanges {
				c.Preconditions = append(c.Preconditions, ledger.Precondition{Tuple: mustParse(t, fmt.Sprintf("doc:%d#viewer@user:ann", i))})
			}
		}, "preconditions"},
		{"the same tuple twice", "grants and revokes", func(c *ledger.Command) { c.Changes[2].Tuple = c.Changes[0].Tuple }, "changes[2].tuple"},
		{"the same precondition twice", "grants and revokes", func(c *ledger.Command) { c.Preconditions[1].Tuple = c.Preconditions[0].Tuple }, "preconditions[1].tuple"},
		{"reason too long", "grants and revokes", func(c *ledger.Command) { c.Reason = long(ledger.MaxText + 1) }, "reason"},
		{"reason with a control", "grants and revokes", func(c *ledger.Command) { c.Reason = "a\x00b" }, "reason"},
		{"ticket too long", "grants and revokes", func(c *ledger.Command) { c.Ticket = long(ledger.MaxLabel + 1) }, "ticket"},
		{"ticket with a line break", "grants and revokes", func(c *ledger.Command) { c.Ticket = "a\nb" }, "ticket"},
		{"channel too long", "grants and revokes", func(c *ledger.Command) { c.Channel = long(ledger.MaxLabel + 1) }, "channel"},
		{"empty object id", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Tuple.Object.ID = "" }, "changes[0].tuple.object.id"},
		{"delimiter in a type", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Tuple.Object.Type = "a:b" }, "changes[0].tuple.object.type"},
		{"control in a relation", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Tuple.Relation = "a\nb" }, "changes[0].tuple.relation"},
		{"subject id too long", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Tuple.Subject.ID = long(tuple.MaxID + 1) }, "changes[0].tuple.subject.id"},
		{"malformed precondition", "grants and revokes", func(c *ledger.Command) { c.Preconditions[0].Tuple.Subject.Type = "" }, "preconditions[0].tuple.subject.type"},
		{"expiry before not-before", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.NotBefore = 6 }, "changes[0].expires_at"},
		{"two expiries", "grants and revokes", func(c *ledger.Command) { c.Changes[0].ExpiresAfter = 1 }, "changes[0].expires_after"},
		{"negative expiry", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.ExpiresAt = -1 }, "changes[0].expires_at"},
		{"negative not-before", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.NotBefore = -1 }, "changes[0].not_before"},
		{"negative span", "grants and revokes", func(c *ledger.Command) { c.Changes[1].ExpiresAfter = -1 }, "changes[1].expires_after"},
		{"context without condition", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.Condition = "" }, "changes[0].context"},
		{"context that is none", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.Context = []byte{99} }, "changes[0].context"},
		{"context too big", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.Context = make([]byte, model.MaxContext+1) }, "changes[0].context"},
		{"malformed condition", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.Condition = "a b" }, "changes[0].condition"},
		{"owner too long", "grants and revokes", func(c *ledger.Command) { c.Changes[0].Grant.Owner = long(model.MaxOwner + 1) }, "changes[0].owner"},
		{"signature of 63 bytes", "signed", func(c *ledger.Command) { c.Signature = c.Signature[1:] }, "signature"},
		{"signature without key", "signed", func(c *ledger.Command) { c.KeyID = "" }, "signature"},
		{"model beside a grant", "model", func(c *ledger.Command) { c.Changes = append(c.Changes, full(t).Changes[1]) }, "changes[0]"},
		{"model with a precondition", "model", func(c *ledger.Command) { c.Preconditions = full(t).Preconditions }, "changes[0]"},
		{"model of the system store", "model", func(c *ledger.Command) { c.Store = ledger.System }, "store"},
		{"model id of zeros", "model", func(c *ledger.Command) { c.Changes[0].Model.ID = ledger.ID{} }, "changes[0].model.id"},
		{"unknown kind of source", "model", func(c *ledger.Command) { c.Changes[0].Model.Kind = 9 }, "changes[0].model.kind"},
		{"empty source", "model", func(c *ledger.Command) { c.Changes[0].Model.Source = nil }, "changes[0].model.source"},
		{"source too big", "model", func(c *ledger.Command) { c.Changes[0].Model.Source = make([]byte, ledger.MaxModelSource+1) }, "changes[0].model.source"},
		{"empty compiled form", "model", func(c *ledger.Command) { c.Changes[0].Model.Compiled = nil }, "changes[0].model.compiled"},
		{"store created in a store", "create store", func(c *ledger.Command) { c.Store = ledger.ID{2} }, "store"},
		{"store id of zeros", "create store", func(c *ledger.Command) { c.Changes[0].Store = ledger.ID{} }, "changes[0].store"},
		{"store without name", "create store", func(c *ledger.Command) { c.Changes[0].Name = "" }, "changes[0].name"},
		{"store without administrator", "create store", func(c *ledger.Command) { c.Changes[0].Admin = "" }, "changes[0].admin"},
		{"system store deleted", "delete store", func(c *ledger.Command) { c.Changes[0].Store = ledger.System }, "changes[0].store"},
		{"epoch in a store", "epoch", func(c *ledger.Command) { c.Store = ledger.ID{2} }, "store"},
		{"epoch without its cuts", "epoch", func(c *ledger.Command) { c.Changes[0].Epoch.Number = 3 }, "changes[0].epoch"},
		{"cut that ends before it begins", "epoch", func(c *ledger.Command) { c.Changes[0].Epoch.Cuts[1].To = 19 }, "changes[0].epoch.cuts[1]"},
		{"fold version 0", "activate", func(c *ledger.Command) { c.Changes[0].Version = 0 }, "changes[0].version"},
		{"fold version of a store", "activate", func(c *ledger.Command) { c.Store = ledger.ID{2} }, "store"},
		{"cut of the genesis", "epoch", func(c *ledger.Command) { c.Changes[0].Epoch.Cuts[0].From = 1 }, "changes[0].epoch.cuts[0]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := commands(t)[tt.from]
			tt.change(c)
			r := c.Validate()
			if r == nil || r.Code != ledger.CodeMalformed || r.Field != tt.field {
				t.Fatalf("Validate = %v, want a malformed %q", r, tt.field)
			}
			raw := ledger.AppendCommand(nil, c)
			if len(raw) > ledger.MaxCommand {
				return
			}
			got, fromBytes := ledger.ReadCommand(raw, ledger.NewestFoldVersion)
			if fromBytes == nil {
				t.Fatalf("ReadCommand = %+v, want a rejection", got)
			}
			if *fromBytes != *r {
				t.Errorf("ReadCommand rejects with %v, Validate with %v", fromBytes, r)
			}
		})
	}
}

func TestCommandTooBig(t *testing.T) {
	raw := append([]byte{'{'}, bytes.Repeat([]byte{' '}, ledger.MaxCommand)...)
	if _, r := ledger.ReadCommand(raw, ledger.NewestFoldVersion); r == nil || !strings.Contains(r.Message, "524288") {
		t.Errorf("ReadCommand of %d bytes = %v, want the limit", len(raw), r)
	}
}

// TestCommandAmplification holds that a small command is refused before it is decoded
// into a big one.
func TestCommandAmplification(t *testing.T) {
	raw := append([]byte{1}, bytes.Repeat([]byte{1}, 16+32)...)
	raw = append(raw, 0, 0, 0, 0) // no texts, no preconditions
	n := (ledger.MaxCommand - 100) / 2
	raw = wire.AppendUvarint(raw, uint64(n))
	raw = append(raw, bytes.Repeat([]byte{byte(ledger.Activate), 1}, n)...)
	list := append([]byte(`{"changes":[0`), bytes.Repeat([]byte(",0"), n)...)
	for name, raw := range map[string][]byte{"binary": raw, "JSON": append(list, "]}"...)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, r := ledger.ReadCommand(raw, ledger.NewestFoldVersion)
		runtime.ReadMemStats(&after)
		if r == nil || !strings.Contains(r.Message, "1000") && !strings.Contains(r.Message, "65536") {
			t.Errorf("%s: ReadCommand = %v, want the limit", name, r)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64*uint64(len(raw)) {
			t.Errorf("%s: reading %d bytes took %d bytes of memory", name, len(raw), used)
		}
	}
}

func TestIDs(t *testing.T) {
	for range 1000 {
		id := ledger.NewID()
		if got, err := ledger.ParseID(id.String()); got != id || err != nil || len(id.String()) != 26 {
			t.Fatalf("ParseID(%s) = %v, %v, want the id back", id, got, err)
		}
		u := ledger.NewUUID()
		if got, err := ledger.ParseUUID(u.String()); got != u || err != nil {
			t.Fatalf("ParseUUID(%s) = %v, %v, want the id back", u, got, err)
		}
	}
	if id, err := ledger.ParseID("system"); err != nil || id != ledger.System {
		t.Errorf(`ParseID("system") = %v, %v`, id, err)
	}
	// The text form is known from its definition: 0x01 in the highest byte.
	if got := (ledger.ID{1}).String(); got != "01000000000000000000000000" {
		t.Errorf("ID{1} = %s", got)
	}
	for _, bad := range []string{"", "01", "80000000000000000000000000", "0000000000000000000000000I", "00000000000000000000000000", "0g000000000000000000000000"} {
		if id, err := ledger.ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", bad, id)
		}
	}
}

func TestToken(t *testing.T) {
	want := ledger.Token{Log: ledger.UUID{1}, Store: ledger.ID{2}, Epoch: 3, Revision: 1 << 40, Leaf: [8]byte{4}}
	text := want.String()
	if got, err := ledger.ParseToken(text); err != nil || got != want {
		t.Errorf("ParseToken = %+v, %v, want %+v", got, err, want)
	}
	if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		t.Errorf("token %q is not safe in a URL", text)
	}
	for _, bad := range []string{"", "x", text + "A", text[:len(text)-2], text + "=", "!" + text[1:], "B" + text[1:]} {
		if got, err := ledger.ParseToken(bad); !errors.Is(err, ledger.ErrToken) {
			t.Errorf("ParseToken(%q) = %+v, %v, want an ErrToken", bad, got, err)
		}
	}
}

func TestEntryRoundTrip(t *testing.T) {
	for _, o := range []ledger.Outcome{
		{Kind: ledger.Applied, Effective: 3},
		{Kind: ledger.Duplicate, First: 7},
		{Kind: ledger.Rejected, Rejection: ledger.Reject(ledger.CodeConflict, "id", "used before")},
	} {
		want := &ledger.Entry{Store: ledger.ID{1}, Revision: 2, Time: -3, Origin: ledger.Origin{Actor: "a", Attester: "b", Method: ledger.MethodOIDC},
			FoldVersion: 1, Raw: []byte("raw"), Outcome: o, Prev: ledger.Hash{4}}
		b := ledger.AppendEntry(nil, want)
		if got, err := ledger.DecodeEntry(b); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("DecodeEntry = %+v, %v, want %+v", got, err, want)
		}
		for n := range b {
			if _, err := ledger.DecodeEntry(b[:n]); err == nil {
				t.Fatalf("DecodeEntry accepts the first %d of %d bytes", n, len(b))
			}
		}
	}
}

func TestEnvelope(t *testing.T) {
	edge := ledger.Subject("main", ledger.EdgeSubject, "n1")
	principal := ledger.Subject("main", ledger.PrincipalSubject, "deploy-bot")
	enclosed := []ledger.Enclosed{
		{Origin: ledger.Origin{Actor: "user:ann", Method: ledger.MethodOIDC}, Raw: []byte("one")},
		{Origin: ledger.Origin{Actor: "user:bob", Method: ledger.MethodNone}, Raw: []byte("two")},
	}
	got, _, err := ledger.DecodeEnvelope(&ledger.Message{Subject: edge, Data: ledger.AppendEnvelope(nil, enclosed)}, ledger.FoldVersion)
	if err != nil || len(got) != 2 || got[0].Origin != (ledger.Origin{Actor: "user:ann", Attester: edge, Method: ledger.MethodOIDC}) || string(got[1].Raw) != "two" {
		t.Errorf("DecodeEnvelope = %+v, %v", got, err)
	}
	nats := []ledger.Enclosed{{Origin: ledger.Origin{Method: ledger.MethodNATS}, Raw: []byte("one")}}
	got, _, err = ledger.DecodeEnvelope(&ledger.Message{Subject: principal, Data: ledger.AppendEnvelope(nil, nats)}, ledger.FoldVersion)
	bot := ledger.Origin{Actor: "deploy-bot", Attester: principal, Method: ledger.MethodNATS}
	if err != nil || len(got) != 1 || got[0].Origin != bot {
		t.Errorf("DecodeEnvelope = %+v, %v, want origin %+v", got, err, bot)
	}
	got, _, err = ledger.DecodeEnvelope(&ledger.Message{Subject: principal, Data: []byte(`{"id": 1}`)}, ledger.FoldVersion)
	if err != nil || len(got) != 1 || got[0].Origin != bot {
		t.Errorf("DecodeEnvelope of JSON = %+v, %v, want origin %+v", got, err, bot)
	}
	for _, tt := range []struct {
		name, subject string
		data          []byte
	}{
		{"empty", edge, nil},
		{"JSON from an edge", edge, []byte("{}")},
		{"another format", edge, []byte{2, 0}},
		{"truncated", edge, []byte{1, 1, 1}},
		{"bytes left over", edge, append(ledger.AppendEnvelope(nil, enclosed), 0)},
		{"too many commands", edge, ledger.AppendEnvelope(nil, make([]ledger.Enclosed, ledger.MaxEnclosed+1))},
		{"no actor", edge, ledger.AppendEnvelope(nil, nats)},
		{"unknown method", edge, ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: ledger.Origin{Actor: "a", Method: 9}}})},
		{"actor with a control", edge, ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: ledger.Origin{Actor: "a\x00", Method: ledger.MethodNone}}})},
		{"a principal that states an actor", principal, ledger.AppendEnvelope(nil, enclosed[:1])},
		{"another subject", "grantlog.main.other", ledger.AppendEnvelope(nil, enclosed)},
		{"genesis again", ledger.Subject("main", ledger.GenesisSubject, ""), ledger.AppendGenesis(nil, ledger.Genesis{})},
		{"principal with a dot", "grantlog.main.cmd.a.b", ledger.AppendEnvelope(nil, nats)},
	} {
		if got, _, err := ledger.DecodeEnvelope(&ledger.Message{Subject: tt.subject, Data: tt.data}, ledger.FoldVersion); err == nil {
			t.Errorf("%s: DecodeEnvelope = %+v, want an error", tt.name, got)
		}
	}
}

// A restore envelope is one under an edge's subject and from fold version 2 on alone, and
// has one encoding.
func TestRestoreEnvelope(t *testing.T) {
	edge := ledger.Subject("main", ledger.EdgeSubject, "n1")
	want := ledger.Restored{Store: ledger.ID{7}, Entries: [][]byte{[]byte("one"), {}, []byte("three")}}
	data := ledger.AppendRestore(nil, want)
	commands, got, err := ledger.DecodeEnvelope(&ledger.Message{Subject: edge, Data: data}, 2)
	if err != nil || commands != nil || !reflect.DeepEqual(got, &want) {
		t.Errorf("DecodeEnvelope = %v, %+v, %v, want %+v", commands, got, err, want)
	}
	many := ledger.Restored{Store: ledger.ID{7}, Entries: make([][]byte, ledger.MaxEnclosed)}
	if _, got, err := ledger.DecodeEnvelope(&ledger.Message{Subject: edge, Data: ledger.AppendRestore(nil, many)}, 2); err != nil || len(got.Entries) != ledger.MaxEnclosed {
		t.Errorf("%d entries: %v", ledger.MaxEnclosed, err)
	}
	many.Entries = append(many.Entries, nil)
	for _, tt := range []struct {
		name, subject string
		version       uint64
		data          []byte
		text          string
	}{
		{"under version 1", edge, 1, data, "envelope format 2, known is 1"},
		{"from a principal", ledger.Subject("main", ledger.PrincipalSubject, "p"), 2, data, "envelope format 2, known is 1"},
		{"under the epoch subject", ledger.Subject("main", ledger.EpochSubject, ""), 2, data, "envelope format 2, known is 1"},
		{"under no subject", "elsewhere", 2, data, "no command may stand"},
		{"of system", edge, 2, ledger.AppendRestore(nil, ledger.Restored{}), "cannot be restored"},
		{"bytes left over", edge, 2, append(bytes.Clone(data), 0), "left over"},
		{"too many", edge, 2, ledger.AppendRestore(nil, many), "1001 items"},
		{"a newer format", edge, 2, []byte{3}, "envelope format 3, known are 1 and 2"},
	} {
		if _, got, err := ledger.DecodeEnvelope(&ledger.Message{Subject: tt.subject, Data: tt.data}, tt.version); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: DecodeEnvelope = %v, %v, want %q", tt.name, got, err, tt.text)
		}
	}
	for n := range data {
		if _, _, err := ledger.DecodeEnvelope(&ledger.Message{Subject: edge, Data: data[:n]}, 2); err == nil {
			t.Errorf("the first %d of %d bytes are an envelope", n, len(data))
		}
	}
}

func FuzzCommand(f *testing.F) {
	for _, c := range commands(f) {
		f.Add(ledger.AppendCommand(nil, c))
	}
	f.Add([]byte(jsonCommand))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, rejection := ledger.ReadCommand(raw, ledger.NewestFoldVersion)
		if (c == nil) == (rejection == nil) {
			t.Fatalf("ReadCommand = %v, %v, want one of them", c, rejection)
		}
		if c == nil {
			return
		}
		canonical := ledger.AppendCommand(nil, c)
		if raw[0] != '{' && !bytes.Equal(canonical, raw) {
			t.Fatalf("%x is read, and written as %x", raw, canonical)
		}
		again, rejection := ledger.ReadCommand(canonical, ledger.NewestFoldVersion)
		if len(canonical) <= ledger.MaxCommand && (rejection != nil || !reflect.DeepEqual(again, c)) {
			t.Fatalf("read again: %+v, %v, want %+v", again, rejection, c)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	f.Add("grantlog.main.edge.n1", ledger.AppendEnvelope(nil, []ledger.Enclosed{{Origin: ledger.Origin{Actor: "a", Method: ledger.MethodNone}, Raw: []byte("raw")}}))
	f.Add("grantlog.main.cmd.bot", []byte("{}"))
	f.Add("grantlog.main.edge.n1", ledger.AppendRestore(nil, ledger.Restored{Store: ledger.ID{1}, Entries: [][]byte{[]byte("x")}}))
	f.Add("grantlog.main.cmd.bot", []byte{1, 1, 2, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		m := &ledger.Message{Subject: subject, Data: data}
		if _, r, err := ledger.DecodeEnvelope(m, ledger.NewestFoldVersion); r != nil {
			if err != nil || !bytes.Equal(ledger.AppendRestore(nil, *r), data) {
				t.Fatalf("%x is read as %+v, %v, and written otherwise", data, r, err)
			}
		}
		commands, _, err := ledger.DecodeEnvelope(m, ledger.FoldVersion)
		if err != nil {
			kept, why := ledger.NotEnvelope(m, err)
			e := &ledger.Entry{Origin: kept.Origin, Raw: kept.Raw, Outcome: ledger.Outcome{Kind: ledger.Rejected, Rejection: why}}
			if _, err := ledger.DecodeEntry(ledger.AppendEntry(nil, e)); err != nil && len(data) <= ledger.MaxMessage {
				t.Fatalf("the entry of %q under %q cannot be read: %v", data, subject, err)
			}
		}
		for _, c := range commands {
			if r := ledger.CheckText("actor", c.Origin.Actor, 1, ledger.MaxLabel); r != nil || !c.Origin.Method.Valid() {
				t.Fatalf("DecodeEnvelope lets %+v through: %v", c.Origin, r)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(ledger.Token{Log: ledger.UUID{1}, Revision: 5}.String())
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ledger.ParseToken(text)
		if err == nil && token.String() != text {
			t.Fatalf("ParseToken(%q) = %+v, which prints as %q", text, token, token)
		}
		if err != nil && !errors.Is(err, ledger.ErrToken) {
			t.Fatalf("ParseToken(%q) error = %v, want an ErrToken", text, err)
		}
	})
}
