package seal

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger"
	"golang.org/x/mod/sumdb/note"
)

// MaxName is the most bytes of a key's name.
const MaxName = 200

// algorithm is that of C2SP signed-note for Ed25519; it stands before the key's bytes.
const algorithm = 1

// A Key verifies checkpoints: an Ed25519 public key under a name. Keys are values, and
// compared with ==. The zero Key is none.
//
// One key signs for all stores of a log. As C2SP tlog-checkpoint asks, a signature is
// named after the origin of what it signs, so each store has a verifier of its own,
// of the same public key under the store's origin.
type Key struct {
	name   string
	public [ed25519.PublicKeySize]byte
}

// checkName returns why name is none of a key: it is like a URL without a scheme, of 1
// to [MaxName] bytes of UTF-8 without spaces, control characters and plus signs.
func checkName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '+' })
	// The verifier refuses Unicode's spaces, which the notes could not hold.
	encoded, err := note.NewEd25519VerifierKey(name, make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err == nil {
		_, err = note.NewVerifier(encoded)
	}
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) || bad || err != nil || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") {
		return fmt.Errorf("the name of a key must be 1 to %d bytes of UTF-8 without spaces, control characters and +, and neither begin nor end with a slash, such as grantlog.example.com/main; %+q is not", MaxName, name)
	}
	return nil
}

// ParseKey reads the text of a key as [Key.String] writes it; nothing else is taken.
func ParseKey(text string) (Key, error) {
	parts := strings.Split(text, "+")
	if len(parts) < 3 {
		return Key{}, fmt.Errorf("%+q is not a public key: NAME+HASH+KEY, as keygen prints it", abridged(text))
	}
	if parts[0] == "PRIVATE" {
		return Key{}, errors.New("that is a private key, and a public key is wanted; a private key belongs in no other hands")
	}
	if err := checkName(parts[0]); err != nil {
		return Key{}, err
	}
	encoded := strings.Join(parts[2:], "+") // base 64 has plus signs of its own
	public, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(public) != 1+ed25519.PublicKeySize || public[0] != algorithm {
		return Key{}, fmt.Errorf("the public key %s is not one of Ed25519", abridged(text))
	}
	k := Key{parts[0], [ed25519.PublicKeySize]byte(public[1:])}
	if k.String() != text {
		return Key{}, fmt.Errorf("the public key %s is damaged: its hash or its form is another", abridged(text))
	}
	return k, nil
}

// abridged returns so much of a text as an error should hold.
func abridged(text string) string {
	if len(text) > 2*MaxName {
		return text[:2*MaxName] + "..."
	}
	return text
}

// String returns the key as C2SP signed-note writes it: NAME+HASH+KEY.
func (k Key) String() string { return k.under(k.name) }

// Name returns the name that the key was given.
func (k Key) Name() string { return k.name }

// IsZero reports whether k is none.
func (k Key) IsZero() bool { return k == Key{} }

// Origin returns the name of a store's tree under this key: NAME/STORE.
func (k Key) Origin(store ledger.ID) string { return k.name + "/" + store.String() }

// ForStore returns the key as tools want it that verify one store's checkpoints alone:
// the same public key under the store's origin, as C2SP signed-note writes it.
func (k Key) ForStore(store ledger.ID) string { return k.under(k.Origin(store)) }

// Verifier returns what verifies a store's notes.
func (k Key) Verifier(store ledger.ID) note.Verifier {
	v, err := note.NewVerifier(k.ForStore(store))
	if err != nil {
		panic(err) // the name was checked, and a store's id adds no space
	}
	return v
}

func (k Key) under(name string) string {
	text, err := note.NewEd25519VerifierKey(name, k.public[:])
	if err != nil {
		panic(err) // of a key of another size
	}
	return text
}

// A PrivateKey signs checkpoints. Printing one prints its public key.
type PrivateKey struct {
	Key
	private ed25519.PrivateKey
}

// GenerateKey returns a new key under a name, from the randomness of rand.
func GenerateKey(rand io.Reader, name string) (PrivateKey, error) {
	if err := checkName(name); err != nil {
		return PrivateKey{}, err
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return PrivateKey{}, fmt.Errorf("random bytes for the key: %w", err)
	}
	return newPrivateKey(name, seed), nil
}

func newPrivateKey(name string, seed []byte) PrivateKey {
	private := ed25519.NewKeyFromSeed(seed)
	return PrivateKey{Key{name, [ed25519.PublicKeySize]byte(private[ed25519.SeedSize:])}, private}
}

// secret begins the text of every private key.
const secret = "PRIVATE+KEY+"

// ParsePrivateKey reads what [PrivateKey.Secret] writes; nothing else is taken. Its
// errors hold nothing of the text.
func ParsePrivateKey(text string) (PrivateKey, error) {
	parts := strings.Split(strings.TrimPrefix(text, secret), "+")
	if len(parts) < 3 || !strings.HasPrefix(text, secret) {
		return PrivateKey{}, errors.New("there is no private key, " + secret + "NAME+HASH+KEY, as keygen writes it")
	}
	seed, err := base64.StdEncoding.DecodeString(strings.Join(parts[2:], "+"))
	if err != nil || len(seed) != 1+ed25519.SeedSize || seed[0] != algorithm || checkName(parts[0]) != nil {
		return PrivateKey{}, errors.New("the private key is damaged, or not one of Ed25519")
	}
	k := newPrivateKey(parts[0], seed[1:])
	if k.Secret() != text {
		return PrivateKey{}, errors.New("the private key is damaged: its hash or its form is another")
	}
	return k, nil
}

// Secret returns the private key as text, in the encoding of golang.org/x/mod's notes:
// PRIVATE+KEY+NAME+HASH+KEY. It is for the key's file alone.
func (k PrivateKey) Secret() string {
	encoded := base64.StdEncoding.EncodeToString(append([]byte{algorithm}, k.private.Seed()...))
	return fmt.Sprintf("%s%s+%08x+%s", secret, k.name, keyHash(k.name, k.public), encoded)
}

// Sign returns the signed note of a store's tree of size leaves with that root. It
// always returns the same note for the same tree. Whoever calls it must have seen to
// it that the store never gets a note of another root for that size.
func (k PrivateKey) Sign(store ledger.ID, size ledger.Revision, root ledger.Hash) ([]byte, error) {
	if size == 0 || size > MaxSize {
		return nil, fmt.Errorf("a tree of %d leaves cannot be signed; 1 to %d can", size, MaxSize)
	}
	origin := k.Origin(store)
	c := Checkpoint{Origin: origin, Size: size, Root: root}
	return note.Sign(&note.Note{Text: c.String()}, signer{origin, k})
}

// A signer signs under the name of an origin.
type signer struct {
	origin string
	key    PrivateKey
}

var _ note.Signer = signer{}

// Name returns the origin.
func (s signer) Name() string { return s.origin }

// KeyHash returns the hash of the key under the origin's name.
func (s signer) KeyHash() uint32 { return keyHash(s.origin, s.key.public) }

// Sign returns the signature of msg.
func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key.private, msg), nil }

// keyHash returns the first 4 bytes of SHA-256(name | newline | algorithm | public), as
// C2SP signed-note has it.
func keyHash(name string, public [ed25519.PublicKeySize]byte) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), append([]byte{algorithm}, public[:]...)...))
	return binary.BigEndian.Uint32(sum[:])
}
