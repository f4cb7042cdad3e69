package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	"github.com/grantlog/grantlog/ledger/wire"
)

// magic begins every bundle, of any format.
const magic = "grantlog bundle\n"

// bundleFormat is the number after the magic. See FORMAT.md.
const bundleFormat = 1

// Limits of what a reader takes in before it knows what it is. They are above anything
// that a writer makes.
const (
	maxEntry = 5*ledger.MaxMessage + 1024 // five texts at most, and numbers
	maxNote  = 4096
	maxProof = 64 // hashes: a tree of more than 2^64 leaves has no revisions
)

// A BundleError is what is wrong with a bundle, and where. A bundle that gives one must
// not be believed; any other error means that it could not be looked at.
type BundleError struct {
	Revision ledger.Revision // of the entry that is wrong; 0: it is not an entry
	Err      error           // never nil
}

// Error says where, and what.
func (e *BundleError) Error() string {
	if e.Revision == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("entry %d: %s", e.Revision, e.Err)
}

func (e *BundleError) Unwrap() error { return e.Err }

func faulty(rev ledger.Revision, format string, args ...any) error {
	return &BundleError{rev, fmt.Errorf(format, args...)}
}

// A Header says what a bundle holds.
type Header struct {
	Store ledger.ID       // whose entries they are
	First ledger.Revision // at least 1
	Last  ledger.Revision // at least First, at most [seal.MaxSize]
}

// AppendHeader appends the header of a bundle:
//
//	"grantlog bundle\n" | format 1 | store 16 | first, uvarint | last, uvarint
func AppendHeader(dst []byte, h Header) []byte {
	dst = append(dst, magic...)
	dst = append(dst, bundleFormat)
	dst = append(dst, h.Store[:]...)
	dst = wire.AppendUvarint(dst, uint64(h.First))
	return wire.AppendUvarint(dst, uint64(h.Last))
}

// AppendEntry appends the next entry of a bundle:
//
//	entry, bytes
//
// where entry is as [ledger.AppendEntry] writes it: the data of a leaf.
func AppendEntry(dst []byte, e *ledger.Entry) []byte {
	return wire.AppendBytes(dst, ledger.AppendEntry(nil, e))
}

// A Trailer is what vouches for the entries before it.
type Trailer struct {
	Note  []byte        // the signed checkpoint of a tree that has the last entry
	Key   string        // the public key that signed it, as [seal.Key.String] writes it
	Proof []ledger.Hash // that the last entry is in that tree: RFC 6962, section 2.1.1
}

// AppendTrailer appends the end of a bundle:
//
//	note, bytes | key, bytes | count, uvarint | count × hash 32
func AppendTrailer(dst []byte, t Trailer) []byte {
	dst = wire.AppendBytes(dst, t.Note)
	dst = wire.AppendBytes(dst, t.Key)
	dst = wire.AppendUvarint(dst, uint64(len(t.Proof)))
	for _, h := range t.Proof {
		dst = append(dst, h[:]...)
	}
	return dst
}

// A Leaf is an entry as a bundle holds it, with its leaf hash.
type Leaf struct {
	Entry *ledger.Entry
	Hash  ledger.Hash
}

// A Reader reads a bundle in one pass and holds it to its form: every value in its one
// encoding, the entries of one store, in turn, each with the leaf hash of the one before
// it, and nothing at the end. What vouches for the last entry is for its caller, see
// [Verify]. It holds one entry at a time. Used by one goroutine.
type Reader struct {
	src    *bufio.Reader
	header Header
	next   ledger.Revision // of the entry that is read next
	prev   Leaf            // the one before it; Entry nil before the first
}

// NewReader reads the header of a bundle. Its error is a [BundleError] or that of src.
func NewReader(src io.Reader) (*Reader, error) {
	r := &Reader{src: bufio.NewReaderSize(src, 64<<10)}
	start, err := r.raw(len(magic) + 1)
	if err != nil {
		return nil, err
	}
	if string(start[:len(magic)]) != magic {
		return nil, faulty(0, "this is no bundle: it does not begin with %q", strings.TrimSpace(magic))
	}
	switch f := start[len(magic)]; {
	case f > bundleFormat:
		return nil, faulty(0, "the bundle is of format %d and this program knows format %d; a newer program reads it", f, bundleFormat)
	case f < bundleFormat:
		return nil, faulty(0, "the bundle is of format %d, which no program wrote", f)
	}
	store, err := r.raw(len(ledger.ID{}))
	if err != nil {
		return nil, err
	}
	r.header.Store = ledger.ID(store)
	first, err := r.uvarint()
	if err != nil {
		return nil, err
	}
	last, err := r.uvarint()
	if err != nil {
		return nil, err
	}
	if first == 0 || last < first || last > uint64(seal.MaxSize) {
		return nil, faulty(0, "the header says that the bundle runs from revision %d to %d", first, last)
	}
	r.header.First, r.header.Last = ledger.Revision(first), ledger.Revision(last)
	r.next = r.header.First
	return r, nil
}

// Header returns what the bundle says it holds.
func (r *Reader) Header() Header { return r.header }

// Entries yields the entries in order, up to the last that the header names. A failure
// is yielded once, as the last element: a [BundleError], or an error of the source. The
// loop may break, and another go on after it.
func (r *Reader) Entries() iter.Seq2[Leaf, error] {
	return func(yield func(Leaf, error) bool) {
		for r.next <= r.header.Last {
			leaf, err := r.entry()
			if err != nil {
				yield(Leaf{}, err)
				return
			}
			if !yield(leaf, nil) {
				return
			}
		}
	}
}

// entry reads the next entry.
func (r *Reader) entry() (Leaf, error) {
	rev := r.next
	data, err := r.bytes(maxEntry)
	if err != nil {
		return Leaf{}, err
	}
	e, err := ledger.DecodeEntry(data)
	if err != nil {
		return Leaf{}, faulty(rev, "its bytes are no entry: %w", err)
	}
	leaf := Leaf{e, seal.LeafHash(data)}
	switch before := r.prev.Entry; {
	case e.Store != r.header.Store:
		return Leaf{}, faulty(rev, "it is of store %s, the bundle is of store %s", e.Store, r.header.Store)
	case e.Revision != rev:
		return Leaf{}, faulty(rev, "revision %d stands in its place", e.Revision)
	case rev == 1 && e.Prev != ledger.Hash{}:
		return Leaf{}, faulty(rev, "it says that an entry comes before it, and it is the first")
	case before != nil && e.Prev != r.prev.Hash:
		return Leaf{}, faulty(rev, "it was recorded after an entry with leaf hash %x, and entry %d has %x: one of the two is not as it was recorded", e.Prev, rev-1, r.prev.Hash)
	case before != nil && e.Time < before.Time:
		return Leaf{}, faulty(rev, "its time, %s, is before that of entry %d, %s", clock(e.Time), rev-1, clock(before.Time))
	}
	r.prev = leaf
	r.next++
	return leaf, nil
}

// Trailer reads the end of the bundle, after all entries.
func (r *Reader) Trailer() (Trailer, error) {
	if r.next <= r.header.Last {
		panic("audit: the entries come before the trailer")
	}
	var t Trailer
	var err error
	if t.Note, err = r.bytes(maxNote); err != nil {
		return t, err
	}
	key, err := r.bytes(maxNote)
	if err != nil {
		return t, err
	}
	t.Key = string(key)
	n, err := r.uvarint()
	if err != nil {
		return t, err
	}
	if n > maxProof {
		return t, faulty(0, "the proof of the last entry has %d hashes; a tree has at most %d levels", n, maxProof)
	}
	for range n {
		h, err := r.raw(len(ledger.Hash{}))
		if err != nil {
			return t, err
		}
		t.Proof = append(t.Proof, ledger.Hash(h))
	}
	if _, err := r.src.ReadByte(); err == nil {
		return t, faulty(0, "bytes follow the end of the bundle")
	} else if !errors.Is(err, io.EOF) {
		return t, fmt.Errorf("read the bundle: %w", err)
	}
	return t, nil
}

// raw reads n bytes.
func (r *Reader) raw(n int) ([]byte, error) {
	// They grow with what arrives: a length alone is no reason to hold so much.
	const step = 64 << 10
	b := make([]byte, min(n, step))
	for read := 0; ; {
		if _, err := io.ReadFull(r.src, b[read:]); err != nil {
			return nil, r.failed(err)
		}
		if read = len(b); read == n {
			return b, nil
		}
		b = append(b, make([]byte, min(n-read, step))...)
	}
}

// bytes reads a length of at most limit, and so many bytes.
func (r *Reader) bytes(limit int) ([]byte, error) {
	n, err := r.uvarint()
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		rev, place := r.place()
		return nil, faulty(rev, "%s cannot be read: a part of it has the length %d, and can have at most %d", place, n, limit)
	}
	return r.raw(int(n))
}

// uvarint reads an integer in its shortest form.
func (r *Reader) uvarint() (uint64, error) {
	var form [10]byte
	n := 0
	for more := true; more && n < len(form); n++ {
		b, err := r.src.ReadByte()
		if err != nil {
			return 0, r.failed(err)
		}
		form[n], more = b, b >= 0x80
	}
	d := wire.NewDecoder(form[:n])
	v := d.Uvarint()
	if err := d.Done(); err != nil {
		rev, place := r.place()
		return 0, faulty(rev, "%s cannot be read: %w", place, err)
	}
	return v, nil
}

// place returns what is being read: the revision if it is an entry, and its name.
func (r *Reader) place() (ledger.Revision, string) {
	switch {
	case r.next == 0:
		return 0, "the header"
	case r.next <= r.header.Last:
		return r.next, "it"
	}
	return 0, "the checkpoint at the end"
}

// failed is the error of a source that gave too little.
func (r *Reader) failed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		rev, place := r.place()
		return faulty(rev, "the bundle is cut off: %s is not there to its end", place)
	}
	return fmt.Errorf("read the bundle: %w", err)
}

// clock is a moment as errors tell it.
func clock(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano) }
