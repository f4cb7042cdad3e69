package seal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"golang.org/x/mod/sumdb/note"
)

// ErrUnverified is the error of a signature, a checkpoint or a proof that does not show
// what it was to show. What it is about must not be believed.
var ErrUnverified = errors.New("not verified")

// MaxSize is the most revisions of a tree that is proved or signed: far more than a
// store ever has, and few enough for the arithmetic of trees.
const MaxSize ledger.Revision = 1 << 56

// A Checkpoint is a tree head as it is signed: C2SP tlog-checkpoint, without extension
// lines. See ledger/FORMAT.md.
type Checkpoint struct {
	Origin string          // name of the tree: that of the key, a slash, the store's id; see [Key.Origin]
	Size   ledger.Revision // leaves of the tree, 1 to [MaxSize]
	Root   ledger.Hash     // of the tree
}

// String returns the text that is signed: three lines, each ended by a newline.
//
//	origin
//	size, in decimal
//	root, in base 64
func (c Checkpoint) String() string {
	return c.Origin + "\n" + strconv.FormatUint(uint64(c.Size), 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// Store returns the store that the checkpoint is of, as its origin names it.
func (c Checkpoint) Store() (ledger.ID, error) {
	slash := strings.LastIndexByte(c.Origin, '/')
	if slash < 0 || checkName(c.Origin[:slash]) != nil {
		return ledger.ID{}, fmt.Errorf("the origin %+q is not NAME/STORE", c.Origin)
	}
	store, err := ledger.ParseID(c.Origin[slash+1:])
	if err != nil {
		return ledger.ID{}, fmt.Errorf("the origin %+q is not NAME/STORE: %w", c.Origin, err)
	}
	return store, nil
}

// ParseCheckpoint reads the text of a note exactly as [Checkpoint.String] writes it.
// Any other form, extension lines too, is an error.
func ParseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, errors.New("a checkpoint has three lines: origin, size and root")
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || size == 0 || size > uint64(MaxSize) {
		return Checkpoint{}, fmt.Errorf("the size of a checkpoint is a number from 1 to %d, not %+q", MaxSize, lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != len(ledger.Hash{}) {
		return Checkpoint{}, fmt.Errorf("the root of a checkpoint is 32 bytes in base 64, not %+q", lines[2])
	}
	c := Checkpoint{Origin: lines[0], Size: ledger.Revision(size), Root: ledger.Hash(root)}
	if _, err := c.Store(); err != nil {
		return Checkpoint{}, err
	}
	if c.String() != text {
		return Checkpoint{}, errors.New("the checkpoint is not written in the one form that it has")
	}
	return c, nil
}

// signature begins the one line of a note that holds its signature.
const signature = "\n— "

// ReadNote reads a signed note without verifying its signature, to learn what it is
// about. The note must have one signature line, of the checkpoint's origin, and be
// written in the one form that [PrivateKey.Sign] gives it.
func ReadNote(data []byte) (Checkpoint, error) {
	switch {
	case bytes.ContainsRune(data, '\r'):
		return Checkpoint{}, errors.New("it has carriage returns; the lines of a checkpoint end with a newline alone")
	case bytes.HasSuffix(data, []byte("\n\n")):
		return Checkpoint{}, errors.New("it has an empty line after its signature")
	}
	at := bytes.LastIndex(data, []byte(signature))
	if at < 0 {
		return Checkpoint{}, errors.New("there is no signature line; a checkpoint is a note of three lines, a blank one and its signature")
	}
	c, err := ParseCheckpoint(string(data[:at]))
	if err != nil {
		return Checkpoint{}, err
	}
	line := string(data[at+len(signature):])
	encoded, named := strings.CutPrefix(line, c.Origin+" ")
	encoded, ended := strings.CutSuffix(encoded, "\n")
	signed, err := base64.StdEncoding.DecodeString(encoded)
	switch {
	case !named:
		return Checkpoint{}, fmt.Errorf("the signature is not named after the origin %s", c.Origin)
	case !ended || err != nil || len(signed) != 4+64 || base64.StdEncoding.EncodeToString(signed) != encoded:
		return Checkpoint{}, errors.New("the signature line does not end with 68 bytes in base 64, and a newline")
	}
	return c, nil
}

// Open reads a note, exactly as [PrivateKey.Sign] writes it, and verifies that the key
// signed it for the store. A note that it did not sign is an [ErrUnverified].
func (k Key) Open(store ledger.ID, data []byte) (Checkpoint, error) {
	c, err := ReadNote(data)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	if origin := k.Origin(store); c.Origin != origin {
		return Checkpoint{}, fmt.Errorf("%w: the checkpoint is of %s, and should be of %s", ErrUnverified, c.Origin, origin)
	}
	if _, err := note.Open(data, note.VerifierList(k.Verifier(store))); err != nil {
		var unknown *note.UnverifiedNoteError
		if errors.As(err, &unknown) {
			return Checkpoint{}, fmt.Errorf("%w: the checkpoint is signed by another key than %s", ErrUnverified, k)
		}
		return Checkpoint{}, fmt.Errorf("%w: the signature of the checkpoint is not of what it says", ErrUnverified)
	}
	return c, nil
}
