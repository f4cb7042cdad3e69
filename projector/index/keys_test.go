package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

func sha(b []byte) [32]byte { return sha256.Sum256(b) }

// nine is an id full of the byte that ends a version.
var nine = ledger.ID{9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9}

// The rules that Pebble asks of a comparer hold for the keys of every family.
func TestComparer(t *testing.T) {
	short := mustParse(t, "a:b#c@d:e")
	var prefixes [][]byte
	for _, key := range [][]byte{
		appendForward(nil, nine, short, 9), appendForward(nil, ledger.ID{1}, mustParse(t, "a:b#c@d:e#f"), 9),
		appendReverse(nil, nine, short, 9),
		appendByRevision(nil, familyEntry, nine, 9), appendByRevision(nil, familyHashes, nine, 0x0909090909090909),
		appendByText(nil, familyActor, nine, "ann", 9),
		appendObjectMention(nil, nine, short.Object, 9), appendSubjectMention(nil, nine, short.Subject, 9), appendCommand(nil, nine, "ann", ledger.UUID(nine)),
		appendModelID(nil, nine, nine), appendStore(nil, nine), positionKey,
	} {
		prefixes = append(prefixes, key[:split(key)])
	}
	suffixes := [][]byte{appendVersion(nil, 0), appendVersion(nil, 1), appendVersion(nil, 9), appendVersion(nil, 1<<40), appendVersion(nil, 1<<64-1)}
	if err := pebble.CheckComparer(comparer, prefixes, suffixes); err != nil {
		t.Error(err)
	}
	for _, p := range prefixes {
		next := comparer.ImmediateSuccessor(nil, p)
		if split(next) != len(next) {
			t.Errorf("ImmediateSuccessor(%x) = %x is no prefix", p, next)
		}
		for _, s := range suffixes {
			if compare(append(bytes.Clone(p), s...), next) >= 0 {
				t.Errorf("%x is not before %x", append(bytes.Clone(p), s...), next)
			}
		}
	}
	// The control: taking every key that ends in 9 apart breaks families without versions.
	bad := append([]byte{familyEntry}, nine[:]...)
	if err := pebble.CheckComparer(comparer, [][]byte{bad}, nil); err == nil {
		t.Error("a key that ends in 9 by chance passes")
	}
}

// Only tuples have versions; every other key is its own prefix, whatever its ids hold.
func TestSplit(t *testing.T) {
	tup := mustParse(t, "doc:plan#viewer@user:ann")
	for _, tt := range []struct {
		name      string
		key       []byte
		versioned bool
	}{
		{"forward", appendForward(nil, nine, tup, 9), true},
		{"reverse", appendReverse(nil, nine, tup, 9), true},
		{"subjects", appendSubjects(nil, nine, tup.Object, "viewer", "user", ""), false},
		{"entry", appendByRevision(nil, familyEntry, nine, 9), false},
		{"actor", appendByText(nil, familyActor, nine, "ann", 9), false},
		{"object", appendObjectMention(nil, nine, tup.Object, 0x0909090909090909), false},
		{"subject", appendSubjectMention(nil, nine, tup.Subject, 0x0909090909090909), false},
		{"command", appendCommand(nil, nine, "ann", ledger.UUID(nine)), false},
		{"model id", appendModelID(nil, nine, nine), false},
		{"assertions", appendAssertions(nil, nine, nine, 9), true},
		{"store", appendStore(nil, nine), false},
		{"position", positionKey, false},
	} {
		want := len(tt.key)
		if tt.versioned {
			want -= 9
		}
		if got := split(tt.key); got != want {
			t.Errorf("%s: split(%x) = %d, want %d", tt.name, tt.key, got, want)
		}
	}
}

// The bytes of every key and value, as FORMAT.md has them. A change here is a new
// format number.
func TestFormat(t *testing.T) {
	store := ledger.ID([]byte("0123456789abcdef"))
	tup := mustParse(t, "doc:plan#viewer@group:eng#member")
	const rev = 0x0102
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"forward", appendForward(nil, store, tup, rev), "f0123456789abcdefdoc\x00plan\x00viewer\x00group\x00member\x00eng\x00\xff\xff\xff\xff\xff\xff\xfe\xfd\x09"},
		{"reverse", appendReverse(nil, store, tup, rev), "r0123456789abcdefgroup\x00member\x00eng\x00doc\x00viewer\x00plan\x00\xff\xff\xff\xff\xff\xff\xfe\xfd\x09"},
		{"entry", appendByRevision(nil, familyEntry, store, rev), "e0123456789abcdef\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"command", appendCommand(nil, store, "ann", ledger.UUID(store)), "c0123456789abcdefann\x000123456789abcdef\x00"},
		{"actor", appendByText(nil, familyActor, store, "ann", rev), "a0123456789abcdefann\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"ticket", appendByText(nil, familyTicket, store, "OPS-1", rev), "t0123456789abcdefOPS-1\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"rejected", appendByRevision(nil, familyRejected, store, rev), "x0123456789abcdef\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"object", appendObjectMention(nil, store, tup.Object, rev), "o0123456789abcdefdoc\x00plan\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"subject", appendSubjectMention(nil, store, tup.Subject, rev), "u0123456789abcdefgroup\x00member\x00eng\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"hashes", appendByRevision(nil, familyHashes, store, rev), "h0123456789abcdef\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"model", appendByRevision(nil, familyModel, store, rev), "m0123456789abcdef\x00\x00\x00\x00\x00\x00\x01\x02\x00"},
		{"model id", appendModelID(nil, store, store), "i0123456789abcdef0123456789abcdef\x00"},
		{"assertions", appendAssertions(nil, store, store, rev), "w0123456789abcdef0123456789abcdef\xff\xff\xff\xff\xff\xff\xfe\xfd\x09"},
		{"store", appendStore(nil, store), "s0123456789abcdef\x00"},
		{"position", positionKey, "p\x00"},
		{"live", appendVersionValue(nil, nil, true, model.Grant{}, 1), "\x01\x00\x00\x00\x00\x00"},
		{"conditional", appendVersionValue(nil, nil, true, model.Grant{Condition: "c", Context: []byte("ctx"), NotBefore: 1, ExpiresAt: 2, Owner: "o"}, 1), "\x01\x01c\x03ctx\x02\x04\x01o"},
		{"revoked", []byte(revoked), "\x00"},
		{"granted again", appendVersionValue(nil, &storedVersion{rev: 9, earlier: []byte("\x02\x01\x05\x05GRANT")}, true, model.Grant{}, 309), "\x03\x0c\xac\x02\x00\x02\x01\x05\x05GRANT\x00\x00\x00\x00\x00"},
		{"revoked of many", appendVersionValue(nil, &storedVersion{rev: 9, live: true, more: true}, false, model.Grant{}, 10), "\x06\x02\x01\x01"},
		{"seen", appendSeen(nil, decide.Seen{Content: [32]byte{7}, Revision: 300}), "\x07" + strings.Repeat("\x00", 31) + "\xac\x02"},
		{"model value", appendModel(nil, ledger.ModelSource{ID: store, Kind: ledger.SourceDSL, Source: []byte("src"), Compiled: []byte("bin")}), "0123456789abcdef\x01\x03src\x03bin"},
		{"assertions value", appendAssertionsValue(nil, []byte("are")), "\x03are"},
		{"no assertions", appendAssertionsValue(nil, nil), "\x00"},
		{"store value", appendStoreRow(nil, &Head{Status: decide.Deleted, Name: "n", Admin: "ann", Created: 1, CreatedBy: 2, Deleted: 3, DeletedBy: 4}), "\x02\x01n\x03ann\x02\x02\x06\x04"},
		{"position value", appendPosition(nil, ledger.Position{Log: ledger.UUID(store), Seq: 5, Before: [32]byte{4}, Chain: [32]byte{6}, Epoch: 7, Skipped: 9, Fold: 10}, accumulator{8}),
			"\x040123456789abcdef\x05\x04" + strings.Repeat("\x00", 31) + "\x06" + strings.Repeat("\x00", 31) + "\x07\x09\x0a" + strings.Repeat("\x00", 31) + "\x08"},
		{"hashes value", (&head{Head: Head{Revision: 0}}).appendLeaf(nil, [32]byte{1}, 258), "\x01" + strings.Repeat("\x00", 37) + "\x01\x02"},
	} {
		if string(tt.got) != tt.want {
			t.Errorf("%s = %q, want %q", tt.name, tt.got, tt.want)
		}
	}
	sum, _ := sumRow([]byte("key"), []byte("value"), nil)
	if got, want := sum.hash(), sha([]byte("\x00\x00\x00\x03keyvalue")); got != want {
		t.Errorf("accumulator of one row = %x, want %x", got, want)
	}
}

func TestDecodeVersionRefuses(t *testing.T) {
	for _, text := range []string{"", "02", "01", "0100000000", "01000000000000", "0001", "018000000000", "01ff", "04", "0500", "0602", "08", "03000100000000"} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if g, live, err := decodeVersion(b); err == nil {
			t.Errorf("decodeVersion(%s) = %+v, %v", text, g, live)
		}
	}
}

func TestAccumulator(t *testing.T) {
	rows := make([]accumulator, 50)
	var forth, back accumulator
	for i := range rows {
		rows[i], _ = sumRow([]byte{byte(i)}, []byte("value"), nil)
		forth.add(rows[i])
	}
	for i := range rows {
		back.add(rows[len(rows)-1-i])
	}
	if forth != back {
		t.Error("the order counts")
	}
	if sumOf(forth.hash()) != forth {
		t.Error("sumOf is not the inverse of hash")
	}
	twice := forth
	twice.add(rows[3])
	if twice == forth {
		t.Error("a row twice counts as once")
	}
	for _, row := range rows {
		forth.subtract(row)
	}
	if forth != (accumulator{}) {
		t.Errorf("all rows taken away leave %x", forth.hash())
	}
}

func FuzzKeys(f *testing.F) {
	f.Add("doc:plan#viewer@user:ann", "doc:plan#viewer@user:anna", uint64(1), uint64(2))
	f.Add("doc:plan#viewer@group:eng#member", "doc:plan#viewer@group:eng", uint64(9), uint64(9))
	f.Add("doc:a#b@c:*", "doc:a#b@c:!", uint64(0), uint64(1<<64-1))
	f.Add("d:a#bc@d:e", "d:ab#c@d:e", uint64(0x09), uint64(0x0909))
	f.Fuzz(func(t *testing.T, first, second string, firstRev, secondRev uint64) {
		a, err := tuple.Parse(first)
		if err != nil {
			return
		}
		b, err := tuple.Parse(second)
		if err != nil {
			return
		}
		store := nine
		for _, appendKey := range []func([]byte, ledger.ID, tuple.Tuple, ledger.Revision) []byte{appendForward, appendReverse} {
			ka, kb := appendKey(nil, store, a, ledger.Revision(firstRev)), appendKey(nil, store, b, ledger.Revision(secondRev))
			gotStore, got, rev, err := decodeTuple(ka)
			if err != nil || gotStore != store || got != a || rev != ledger.Revision(firstRev) {
				t.Fatalf("decodeTuple(%x) = %s, %s, %d, %v, want %s, %d", ka, gotStore, got, rev, err, a, firstRev)
			}
			if compare(ka, kb) != bytes.Compare(ka, kb) {
				t.Fatalf("%x and %x are not in byte order", ka, kb)
			}
			if same := bytes.Equal(ka[:split(ka)], kb[:split(kb)]); same != (a == b) {
				t.Fatalf("%s and %s: same prefix is %v", a, b, same)
			}
		}
		want := a.Compare(b)
		if want == 0 { // the newest version first
			switch {
			case firstRev > secondRev:
				want = -1
			case firstRev < secondRev:
				want = 1
			}
		}
		ka, kb := appendForward(nil, store, a, ledger.Revision(firstRev)), appendForward(nil, store, b, ledger.Revision(secondRev))
		if got := compare(ka, kb); got != want {
			t.Fatalf("compare of %s@%d and %s@%d = %d, want %d", a, firstRev, b, secondRev, got, want)
		}
		scan := appendSubjects(nil, store, b.Object, b.Relation, b.Subject.Type, b.Subject.Relation)
		run := a.Object == b.Object && a.Relation == b.Relation && a.Subject.Type == b.Subject.Type && a.Subject.Relation == b.Subject.Relation
		if got := bytes.HasPrefix(ka, scan); got != run {
			t.Fatalf("%s is in the run of %s: %v, want %v", a, b, got, run)
		}
	})
}

// FuzzRows: a value is read back as it was written or refused, never anything else.
func FuzzRows(f *testing.F) {
	f.Add([]byte(unlimited))
	f.Add(appendVersionValue(nil, nil, true, model.Grant{Condition: "c", Context: []byte("x"), ExpiresAt: 5, Owner: "o"}, 1))
	f.Add(appendVersionValue(nil, &storedVersion{rev: 7, live: true, earlier: []byte("\x02\x00"), more: true}, false, model.Grant{}, 300))
	f.Add(appendSeen(nil, decide.Seen{Revision: 5}))
	f.Add(appendModel(nil, ledger.ModelSource{Source: []byte("s"), Compiled: []byte("c")}))
	f.Add(appendStoreRow(nil, &Head{Status: decide.Live, Name: "n"}))
	f.Add(appendPosition(nil, ledger.Position{Seq: 1}, accumulator{}))
	f.Fuzz(func(t *testing.T, value []byte) {
		same := func(kind string, got []byte) {
			if !bytes.Equal(got, value) {
				t.Errorf("%s %x is written as %x", kind, value, got)
			}
		}
		if v, err := parseVersion(1<<62, value); err == nil {
			g, err := v.decode()
			if err == nil && v.earlier == nil {
				same("version", appendVersionValue(nil, nil, v.live, g, 1))
			}
			before := v
			if ok, err := before.back(); err == nil && ok {
				if again, more := before.appendTo(nil, v.rev); !bytes.HasPrefix(v.earlier, again) || more && !v.more && len(again) == len(v.earlier) {
					t.Errorf("earlier versions %x are written as %x, more: %v", v.earlier, again, more)
				}
			}
		}
		if s, err := decodeSeen(value); err == nil {
			same("command id", appendSeen(nil, s))
		}
		if m, err := decodeModel(value); err == nil {
			same("model", appendModel(nil, m))
		}
		var h Head
		if decodeStoreRow(value, &h) == nil {
			same("store", appendStoreRow(nil, &h))
		}
		if p, sum, err := decodePosition(value); err == nil {
			same("position", appendPosition(nil, p, sum))
		}
	})
}
