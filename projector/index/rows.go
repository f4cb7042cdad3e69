package index

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/wire"
)

// formatVersion is the number of the format that FORMAT.md describes.
const formatVersion = 4

// appendSeen appends the value of a command id:
//
//	content hash 32 | revision, uvarint
func appendSeen(dst []byte, s decide.Seen) []byte {
	return wire.AppendUvarint(append(dst, s.Content[:]...), uint64(s.Revision))
}

func decodeSeen(value []byte) (decide.Seen, error) {
	var s decide.Seen
	d := wire.NewDecoder(value)
	copy(s.Content[:], d.Raw(len(s.Content)))
	s.Revision = ledger.Revision(d.Uvarint())
	if err := d.Done(); err != nil {
		return decide.Seen{}, damaged("command id: %s", err)
	}
	return s, nil
}

// appendModel appends the value of a model:
//
//	model 16 | kind 1 | source, bytes | compiled, bytes
func appendModel(dst []byte, m ledger.ModelSource) []byte {
	dst = append(append(dst, m.ID[:]...), byte(m.Kind))
	return wire.AppendBytes(wire.AppendBytes(dst, m.Source), m.Compiled)
}

// decodeModel reads the value of a model, which then shares memory with it.
func decodeModel(value []byte) (ledger.ModelSource, error) {
	var m ledger.ModelSource
	d := wire.NewDecoder(value)
	copy(m.ID[:], d.Raw(len(m.ID)))
	m.Kind = ledger.SourceKind(d.Byte())
	m.Source = d.Bytes(ledger.MaxModelSource)
	m.Compiled = d.Bytes(ledger.MaxModelSource)
	if err := d.Done(); err != nil {
		return ledger.ModelSource{}, damaged("model: %s", err)
	}
	return m, nil
}

// appendAssertionsValue appends the value of a version of assertions:
//
//	assertions, bytes
func appendAssertionsValue(dst, assertions []byte) []byte { return wire.AppendBytes(dst, assertions) }

// decodeAssertions reads the value of a version of assertions, which then shares memory
// with it; nil if there are none.
func decodeAssertions(value []byte) ([]byte, error) {
	d := wire.NewDecoder(value)
	b := d.Bytes(ledger.MaxAssertions)
	if err := d.Done(); err != nil {
		return nil, damaged("assertions: %s", err)
	}
	if len(b) == 0 {
		return nil, nil
	}
	return b, nil
}

// appendStoreRow appends the value of a store's row:
//
//	status 1 | name, bytes | admin, bytes | created at, varint | created by, uvarint |
//	deleted at, varint | deleted by, uvarint
func appendStoreRow(dst []byte, h *Head) []byte {
	dst = append(dst, byte(h.Status))
	dst = wire.AppendBytes(dst, h.Name)
	dst = wire.AppendBytes(dst, h.Admin)
	dst = wire.AppendVarint(dst, h.Created)
	dst = wire.AppendUvarint(dst, uint64(h.CreatedBy))
	dst = wire.AppendVarint(dst, h.Deleted)
	return wire.AppendUvarint(dst, uint64(h.DeletedBy))
}

func decodeStoreRow(value []byte, h *Head) error {
	d := wire.NewDecoder(value)
	h.Status = decide.Status(d.Byte())
	h.Name = d.Text(ledger.MaxLabel)
	h.Admin = d.Text(ledger.MaxLabel)
	h.Created = d.Varint()
	h.CreatedBy = ledger.Revision(d.Uvarint())
	h.Deleted = d.Varint()
	h.DeletedBy = ledger.Revision(d.Uvarint())
	if h.Status < decide.Live || h.Status > decide.GivenUp {
		d.Fail("%s", h.Status)
	}
	if err := d.Done(); err != nil {
		return damaged("store: %s", err)
	}
	return nil
}

// A hashRow is the value of a tree hash row, and its parts:
//
//	leaf hash 32 | hash of each subtree the leaf completes, 32 each | log time 8
//
// The log time stands here because whoever asks about a revision of the past needs
// its time and its leaf, and this row is small.
type hashRow []byte

func (r hashRow) valid() bool { return len(r) >= 40 && len(r)%32 == 8 }

// hash returns the leaf hash (place 0) or that of a subtree. The place must be there.
func (r hashRow) hash(place int) ledger.Hash { return ledger.Hash(r[32*place:]) }

func (r hashRow) time() int64 { return int64(binary.BigEndian.Uint64(r[len(r)-8:])) }

// appendPosition appends the value of the position row:
//
//	format, uvarint | log 16 | seq, uvarint | before 32 | chain 32 | epoch, uvarint |
//	skipped, uvarint | fold version, uvarint | accumulator 32
func appendPosition(dst []byte, p ledger.Position, sum accumulator) []byte {
	dst = wire.AppendUvarint(dst, formatVersion)
	dst = append(dst, p.Log[:]...)
	dst = wire.AppendUvarint(dst, p.Seq)
	dst = append(dst, p.Before[:]...)
	dst = append(dst, p.Chain[:]...)
	dst = wire.AppendUvarint(dst, p.Epoch)
	dst = wire.AppendUvarint(dst, p.Skipped)
	dst = wire.AppendUvarint(dst, p.Fold)
	hash := sum.hash()
	return append(dst, hash[:]...)
}

// decodePosition reads the position row, or returns [ErrNewerFormat] or [ErrRebuild].
func decodePosition(value []byte) (ledger.Position, accumulator, error) {
	var p ledger.Position
	d := wire.NewDecoder(value)
	switch format := d.Uvarint(); {
	case format > formatVersion:
		return p, accumulator{}, newerFormat("format %d", format)
	case format < formatVersion:
		return p, accumulator{}, rebuild("the index has format %d, this program writes %d", format, formatVersion)
	}
	copy(p.Log[:], d.Raw(len(p.Log)))
	p.Seq = d.Uvarint()
	copy(p.Before[:], d.Raw(len(p.Before)))
	copy(p.Chain[:], d.Raw(len(p.Chain)))
	p.Epoch = d.Uvarint()
	p.Skipped = d.Uvarint()
	p.Fold = d.Uvarint()
	var hash ledger.Hash
	copy(hash[:], d.Raw(len(hash)))
	if err := d.Done(); err != nil {
		return p, accumulator{}, rebuild("the position row: %s", err)
	}
	return p, sumOf(hash), nil
}

// An accumulator is a hash over a set of rows that does not depend on their order: the
// sum modulo 2^256 of
//
//	SHA-256( len(key) 4 | key | value )
//
// over all rows but the position's, as four limbs, least significant first. A row
// added twice, lost or changed gives another sum. Whoever can choose rows, compute
// and write the position row can keep the sum as it was: it finds damage, and is no
// proof against an attacker on this machine.
type accumulator [4]uint64

// sumOf returns the accumulator with this hash, read big-endian.
func sumOf(h ledger.Hash) accumulator {
	return accumulator{
		binary.BigEndian.Uint64(h[24:]), binary.BigEndian.Uint64(h[16:]),
		binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[:]),
	}
}

// hash is the inverse of sumOf.
func (a accumulator) hash() (h ledger.Hash) {
	for i, limb := range a {
		binary.BigEndian.PutUint64(h[24-8*i:], limb)
	}
	return h
}

func (a *accumulator) add(row accumulator) {
	var carry uint64
	for i := range a {
		a[i], carry = bits.Add64(a[i], row[i], carry)
	}
}

func (a *accumulator) subtract(row accumulator) {
	var borrow uint64
	for i := range a {
		a[i], borrow = bits.Sub64(a[i], row[i], borrow)
	}
}

// sumRow returns what one row adds, and the buffer it used, for the next row.
func sumRow(key, value, buf []byte) (accumulator, []byte) {
	buf = binary.BigEndian.AppendUint32(buf[:0], uint32(len(key)))
	buf = append(append(buf, key...), value...)
	return sumOf(sha256.Sum256(buf)), buf
}
