package seal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var store = ledger.ID{1, 2, 3, 4, 5, 6, 0x70, 8, 0x80, 10, 11, 12, 13, 14, 15, 16}

// generate returns a key whose randomness is the name's.
func generate(t *testing.T, name string) seal.PrivateKey {
	t.Helper()
	k, err := seal.GenerateKey(bytes.NewReader(bytes.Repeat([]byte(name), 32)), name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, k seal.PrivateKey, size ledger.Revision, root ledger.Hash) []byte {
	t.Helper()
	n, err := k.Sign(store, size, root)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNote opens a note with our reader, with x/mod's and with transparency-dev's, and
// pins its bytes.
func TestNote(t *testing.T) {
	k := generate(t, "grantlog.example.com/main")
	root := ledger.Hash{0: 1, 31: 2}
	n := sign(t, k, 1234, root)
	const want = `grantlog.example.com/main/01081G81GFY120062V3GQ7Y3RG
1234
AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=

— grantlog.example.com/main/01081G81GFY120062V3GQ7Y3RG `
	if !strings.HasPrefix(string(n), strings.ReplaceAll(want, "01081G81GFY120062V3GQ7Y3RG", store.String())) {
		t.Errorf("the note is\n%s", n)
	}
	got, err := k.Open(store, n)
	if want := (seal.Checkpoint{Origin: k.Origin(store), Size: 1234, Root: root}); err != nil || got != want {
		t.Errorf("Open = %+v, %v, want %+v", got, err, want)
	}
	if s, err := got.Store(); err != nil || s != store {
		t.Errorf("Store = %s, %v", s, err)
	}
	if again := sign(t, k, 1234, root); !bytes.Equal(n, again) {
		t.Errorf("signed again, the note is\n%s\nnot\n%s", again, n)
	}
	v, err := note.NewVerifier(k.ForStore(store))
	if err != nil {
		t.Fatal(err)
	}
	theirs, rest, _, err := log.ParseCheckpoint(n, k.Origin(store), v)
	if err != nil || theirs.Size != 1234 || !bytes.Equal(theirs.Hash, root[:]) || len(rest) > 0 {
		t.Errorf("transparency-dev reads %+v, %q, %v", theirs, rest, err)
	}
	system, err := k.Sign(ledger.System, 1, root)
	if err != nil || !strings.HasPrefix(string(system), "grantlog.example.com/main/system\n1\n") {
		t.Errorf("the note of system is\n%s, %v", system, err)
	}
	if _, err := k.Open(store, system); !errors.Is(err, seal.ErrUnverified) {
		t.Errorf("the note of another store opens: %v", err)
	}
	if _, err := generate(t, "grantlog.example.com/other").Open(store, n); !errors.Is(err, seal.ErrUnverified) {
		t.Errorf("another name's key opens the note: %v", err)
	}
	impostor, err := seal.GenerateKey(bytes.NewReader(make([]byte, 32)), k.Name())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := impostor.Open(store, n); !errors.Is(err, seal.ErrUnverified) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key of that name opens the note: %v", err)
	}
	for _, size := range []ledger.Revision{0, seal.MaxSize + 1} {
		if _, err := k.Sign(store, size, root); err == nil {
			t.Errorf("a tree of %d is signed", size)
		}
	}
}

// TestNoteFlipped flips every bit of a note, and of the keys' texts.
func TestNoteFlipped(t *testing.T) {
	k := generate(t, "log.example/a")
	n := sign(t, k, 70, ledger.Hash{9})
	for i := range 8 * len(n) {
		b := bytes.Clone(n)
		b[i/8] ^= 1 << (i % 8)
		if _, err := k.Open(store, b); !errors.Is(err, seal.ErrUnverified) {
			t.Errorf("with bit %d flipped, Open = %v:\n%s", i, err, b)
		}
	}
	for i := range 8 * len(k.String()) {
		b := []byte(k.String())
		b[i/8] ^= 1 << (i % 8)
		if got, err := seal.ParseKey(string(b)); err == nil {
			t.Errorf("with bit %d flipped, ParseKey(%q) = %s", i, b, got)
		}
	}
	for i := range 8 * len(k.Secret()) {
		b := []byte(k.Secret())
		b[i/8] ^= 1 << (i % 8)
		if _, err := seal.ParsePrivateKey(string(b)); err == nil {
			t.Errorf("with bit %d flipped, ParsePrivateKey(%q) takes it", i, b)
		}
	}
}

func TestNoteForms(t *testing.T) {
	k := generate(t, "log.example/a")
	n := string(sign(t, k, 70, ledger.Hash{9}))
	body, line, _ := strings.Cut(n, "\n\n")
	resigned := func(body string) string {
		line := strings.TrimPrefix(string(must(note.Sign(&note.Note{Text: body + "\n"}, must(note.NewSigner(secretFor(t, k)))))), body+"\n\n")
		return body + "\n\n" + line
	}
	if _, err := k.Open(store, []byte(resigned(body))); err != nil {
		t.Fatalf("the same note, signed by x/mod: %v", err)
	}
	for name, bad := range map[string]string{
		"empty":                      "",
		"no signature":               body + "\n\n",
		"only the signature":         line,
		"two signatures":             n + line,
		"a witness's signature":      n + "— witness.example AAAAAAAA\n",
		"without the last newline":   strings.TrimSuffix(n, "\n"),
		"one newline more":           n + "\n",
		"carriage returns":           strings.ReplaceAll(n, "\n", "\r\n"),
		"an extension line":          resigned(body + "\nextension"),
		"leading zero":               resigned(strings.Replace(body, "\n70\n", "\n070\n", 1)),
		"a plus":                     resigned(strings.Replace(body, "\n70\n", "\n+70\n", 1)),
		"a size of none":             resigned(strings.Replace(body, "\n70\n", "\n0\n", 1)),
		"a size beyond all":          resigned(strings.Replace(body, "\n70\n", "\n18446744073709551616\n", 1)),
		"a size beyond trees":        resigned(strings.Replace(body, "\n70\n", "\n18446744073709551615\n", 1)),
		"unused bits of the root":    resigned(strings.TrimSuffix(body, "A=") + "B="),
		"a root of 31 bytes":         resigned(strings.TrimSuffix(body, "AAA=") + "AA=="),
		"a root in URL's base 64":    resigned(strings.Replace(body, "CQAA", "CQ-_", 1)),
		"two lines":                  resigned(strings.Replace(body, "\n70", "", 1)),
		"unused bits of a signature": unusedBits(n),
	} {
		if bad == n {
			t.Errorf("%s: nothing is changed", name)
		}
		if c, err := k.Open(store, []byte(bad)); !errors.Is(err, seal.ErrUnverified) {
			t.Errorf("%s: Open = %+v, %v", name, c, err)
		}
		if _, err := seal.ReadNote([]byte(bad)); err == nil {
			t.Errorf("%s: ReadNote takes it", name)
		}
	}
	// What editors and transfers do to a file is told by its name.
	for bad, why := range map[string]string{n + "\n": "an empty line after its signature", strings.ReplaceAll(n, "\n", "\r\n"): "carriage returns"} {
		if _, err := seal.ReadNote([]byte(bad)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("ReadNote(%q) = %v, want %s", bad, err, why)
		}
	}
}

// unusedBits sets one of the bits of the signature's base 64 that hold nothing.
func unusedBits(n string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	at := len(n) - len("?=\n")
	return n[:at] + string(digits[strings.IndexByte(digits, n[at])+1]) + n[at+1:]
}

// secretFor returns the private key under the origin of the store, for x/mod's signer.
func secretFor(t *testing.T, k seal.PrivateKey) string {
	t.Helper()
	derived, err := seal.GenerateKey(bytes.NewReader(bytes.Repeat([]byte(k.Name()), 32)), k.Origin(store))
	if err != nil {
		t.Fatal(err)
	}
	if derived.String() != k.ForStore(store) {
		t.Fatalf("the key under the origin is %s, want %s", k.ForStore(store), derived)
	}
	return derived.Secret()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestKey(t *testing.T) {
	k := generate(t, "schlüssel.example/a")
	if got, err := seal.ParseKey(k.String()); err != nil || got != k.Key {
		t.Errorf("ParseKey(%s) = %s, %v", k, got, err)
	}
	if got, err := seal.ParsePrivateKey(k.Secret()); err != nil || got.Key != k.Key || got.Secret() != k.Secret() {
		t.Errorf("ParsePrivateKey = %s, %v", got, err)
	}
	if _, err := note.NewVerifier(k.String()); err != nil {
		t.Errorf("x/mod does not read %s: %v", k, err)
	}
	if _, err := note.NewSigner(k.Secret()); err != nil {
		t.Errorf("x/mod does not read the private key: %v", err)
	}
	if s := fmt.Sprintf("%v %s", k, k); strings.Contains(s, "PRIVATE") || s != k.String()+" "+k.String() {
		t.Errorf("a private key prints %s", s)
	}
	if _, err := seal.ParseKey(k.Secret()); err == nil || strings.Contains(err.Error(), k.Secret()[len("PRIVATE+KEY+"):]) {
		t.Errorf("ParseKey of a private key = %v", err)
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb", "a\tb", "a\u00a0b", "a\u2028b", "a\x7fb", "a\xffb", "/a", "a/", strings.Repeat("a", seal.MaxName+1)} {
		if k, err := seal.GenerateKey(bytes.NewReader(make([]byte, 32)), name); err == nil {
			t.Errorf("GenerateKey(%q) = %s", name, k)
		}
	}
	generate(t, strings.Repeat("a", seal.MaxName))
	if _, err := seal.GenerateKey(strings.NewReader("too few"), "a"); err == nil {
		t.Error("a key is made of 7 random bytes")
	}
}

func FuzzReadNote(f *testing.F) {
	k := must(seal.GenerateKey(bytes.NewReader(make([]byte, 32)), "log.example"))
	f.Add(must(k.Sign(store, 70, ledger.Hash{1})))
	f.Add([]byte("a/system\n1\nAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=\n\n— a/system AAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := seal.ReadNote(data)
		if err == nil && !strings.HasPrefix(string(data), c.String()+"\n— "+c.Origin+" ") {
			t.Errorf("ReadNote(%q) = %+v", data, c)
		}
		if _, err := k.Open(store, data); err == nil && !bytes.Equal(data, must(k.Sign(store, c.Size, c.Root))) {
			t.Errorf("Open takes %q", data)
		}
	})
}

// A memory is the hashes of a tree.
type memory []tlog.Hash

// ReadHashes implements [tlog.HashReader].
func (m memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = m[x]
	}
	return out, nil
}

// grow returns the hashes of a tree of size leaves, the leaves and its roots.
func grow(t *testing.T, size ledger.Revision) (m memory, leaves, roots []ledger.Hash) {
	t.Helper()
	roots = append(roots, ledger.Hash(rfc6962.DefaultHasher.EmptyRoot()))
	for rev := ledger.Revision(1); rev <= size; rev++ {
		leaf := seal.LeafHash(binary.BigEndian.AppendUint64(nil, uint64(rev)))
		for _, h := range must(seal.Hashes(rev, leaf, m)) {
			m = append(m, tlog.Hash(h))
		}
		leaves, roots = append(leaves, leaf), append(roots, must(seal.Root(rev, m)))
	}
	return m, leaves, roots
}

// TestProofs checks every proof of every tree up to a size with an implementation that
// is not ours, and that ours and theirs agree about forged ones.
func TestProofs(t *testing.T) {
	const size = 70
	m, leaves, roots := grow(t, size)
	random := rand.New(rand.NewPCG(1, 2))
	for to := ledger.Revision(1); to <= size; to++ {
		for rev := ledger.Revision(1); rev <= to; rev++ {
			p := must(seal.ProveInclusion(rev, to, m))
			i := &inclusion{rev, to, leaves[rev-1], p, roots[to]}
			if err := i.agreed(t); err != nil {
				t.Errorf("inclusion of %d in %d: %v", rev, to, err)
			}
			for _, forged := range i.forged(random) {
				if forged.agreed(t) == nil {
					t.Errorf("a forged proof of %d in %d is taken: %+v", rev, to, forged)
				}
			}
			c := &consistency{rev, to, roots[rev], roots[to], must(seal.ProveConsistency(rev, to, m))}
			if err := c.agreed(t); err != nil {
				t.Errorf("%d to %d: %v", rev, to, err)
			}
			for _, forged := range c.forged(random) {
				if forged.agreed(t) == nil {
					t.Errorf("a forged proof of %d to %d is taken: %+v", rev, to, forged)
				}
			}
		}
	}
}

// TestProofSizes holds that sizes for which trees are not made are refused, and end.
func TestProofSizes(t *testing.T) {
	m, leaves, roots := grow(t, 4)
	for _, tt := range []struct{ from, to ledger.Revision }{
		{0, 0}, {0, 4}, {4, 3}, {1, seal.MaxSize + 1}, {1, 1 << 62}, {1, 1<<63 - 1}, {1, 1 << 63}, {1<<64 - 1, 1<<64 - 1},
	} {
		if p, err := seal.ProveInclusion(tt.from, tt.to, m); err == nil {
			t.Errorf("ProveInclusion(%d, %d) = %x", tt.from, tt.to, p)
		}
		if p, err := seal.ProveConsistency(tt.from, tt.to, m); err == nil {
			t.Errorf("ProveConsistency(%d, %d) = %x", tt.from, tt.to, p)
		}
		if err := seal.CheckInclusion(tt.from, tt.to, leaves[0], leaves, roots[1]); !errors.Is(err, seal.ErrUnverified) {
			t.Errorf("CheckInclusion(%d, %d) = %v", tt.from, tt.to, err)
		}
		if err := seal.CheckConsistency(tt.from, roots[1], tt.to, roots[1], nil); !errors.Is(err, seal.ErrUnverified) {
			t.Errorf("CheckConsistency(%d, %d) = %v", tt.from, tt.to, err)
		}
	}
	if err := seal.CheckInclusion(1, seal.MaxSize, leaves[0], make([]ledger.Hash, 56), roots[1]); !errors.Is(err, seal.ErrUnverified) {
		t.Errorf("in the greatest tree: %v", err)
	}
}

// An inclusion is what a proof of inclusion is checked with.
type inclusion struct {
	rev, size ledger.Revision
	leaf      ledger.Hash
	proof     []ledger.Hash
	root      ledger.Hash
}

// agreed returns our error, and fails the test if theirs says otherwise.
func (i *inclusion) agreed(t *testing.T) error {
	t.Helper()
	err := seal.CheckInclusion(i.rev, i.size, i.leaf, i.proof, i.root)
	theirs := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i.rev)-1, uint64(i.size), i.leaf[:], slicesOf(i.proof), i.root[:])
	if (err == nil) != (theirs == nil) {
		t.Errorf("%+v: ours says %v, theirs %v", i, err, theirs)
	}
	return err
}

func (i *inclusion) forged(random *rand.Rand) []*inclusion {
	out := []*inclusion{
		{i.rev, i.size, flip(i.leaf, random), i.proof, i.root},
		{i.rev, i.size, i.leaf, i.proof, flip(i.root, random)},
		{i.rev + 1, i.size, i.leaf, i.proof, i.root},
		{i.rev, i.size + i.size, i.leaf, i.proof, i.root},
	}
	if i.rev > 1 {
		out = append(out, &inclusion{i.rev - 1, i.size, i.leaf, i.proof, i.root}, &inclusion{i.rev, i.size / 2, i.leaf, i.proof, i.root})
	}
	for _, p := range forgedProofs(i.proof, random) {
		out = append(out, &inclusion{i.rev, i.size, i.leaf, p, i.root})
	}
	return out
}

// A consistency is what a proof of consistency is checked with.
type consistency struct {
	from, to         ledger.Revision
	fromRoot, toRoot ledger.Hash
	proof            []ledger.Hash
}

func (c *consistency) agreed(t *testing.T) error {
	t.Helper()
	err := seal.CheckConsistency(c.from, c.fromRoot, c.to, c.toRoot, c.proof)
	theirs := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(c.from), uint64(c.to), slicesOf(c.proof), c.fromRoot[:], c.toRoot[:])
	if (err == nil) != (theirs == nil) {
		t.Errorf("%+v: ours says %v, theirs %v", c, err, theirs)
	}
	return err
}

func (c *consistency) forged(random *rand.Rand) []*consistency {
	out := []*consistency{
		{c.from, c.to, flip(c.fromRoot, random), c.toRoot, c.proof},
		{c.from, c.to, c.fromRoot, flip(c.toRoot, random), c.proof},
		{c.from, c.to + c.to, c.fromRoot, c.toRoot, c.proof},
		{c.from, c.to + 1, c.fromRoot, c.fromRoot, c.proof},
	}
	if c.from > 1 {
		out = append(out, &consistency{c.from - 1, c.to, c.fromRoot, c.toRoot, c.proof})
	}
	if c.from < c.to {
		out = append(out, &consistency{c.from + 1, c.to, c.fromRoot, c.toRoot, c.proof}, &consistency{c.from, c.to, c.toRoot, c.fromRoot, c.proof})
	}
	for _, p := range forgedProofs(c.proof, random) {
		out = append(out, &consistency{c.from, c.to, c.fromRoot, c.toRoot, p})
	}
	return out
}

// forgedProofs returns the proof with each hash altered, dropped, doubled and swapped
// with the next, and with one hash more.
func forgedProofs(p []ledger.Hash, random *rand.Rand) (out [][]ledger.Hash) {
	for i := range p {
		altered := slices.Clone(p)
		altered[i] = flip(p[i], random)
		out = append(out, altered, slices.Delete(slices.Clone(p), i, i+1), slices.Insert(slices.Clone(p), i, p[i]))
		if i > 0 {
			swapped := slices.Clone(p)
			swapped[i-1], swapped[i] = p[i], p[i-1]
			out = append(out, swapped)
		}
	}
	return append(out, append(slices.Clone(p), ledger.Hash{}))
}

func flip(h ledger.Hash, random *rand.Rand) ledger.Hash {
	bit := random.IntN(256)
	h[bit/8] ^= 1 << (bit % 8)
	return h
}

func slicesOf(hashes []ledger.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
