// Package wire is the byte encoding that everything recorded in the log is made of.
//
// It has four forms, chosen so that a value has exactly one encoding and a decoder
// can tell any other from it:
//
//	uvarint   LEB128, 7 bits a byte, least significant first, shortest form only
//	varint    zigzag of a signed 64-bit integer, as a uvarint
//	byte      one byte, for kinds and flags
//	bytes     a uvarint length, then so many bytes; text is bytes that are UTF-8
//
// The package is frozen: what it accepts decides what the fold accepts, so a change
// here is a new fold version. It imports the standard library alone.
package wire

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// ErrMalformed is what every error of a [Decoder] is, for [errors.Is].
var ErrMalformed = errors.New("malformed encoding")

// AppendUvarint appends v in its shortest form.
func AppendUvarint(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// AppendVarint appends the zigzag form of v.
func AppendVarint(dst []byte, v int64) []byte {
	return AppendUvarint(dst, uint64(v)<<1^uint64(v>>63))
}

// AppendBytes appends the length of b, then b.
func AppendBytes[T []byte | string](dst []byte, b T) []byte {
	return append(AppendUvarint(dst, uint64(len(b))), b...)
}

// AppendBool appends 1 or 0.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// A Decoder reads what the Append functions wrote. The first failure sticks: later
// reads return zero values, and [Decoder.Done] or Err returns that first error.
// Slices it returns share memory with the input.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder returns a Decoder of b, which it does not change.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

// Err returns the first failure, an [ErrMalformed], or nil.
func (d *Decoder) Err() error { return d.err }

// Rest returns the bytes not yet read.
func (d *Decoder) Rest() []byte { return d.rest }

// Fail makes the decoder fail with this reason unless it failed before.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	d.rest = nil
}

// Done returns the first failure, and fails if bytes are left over.
func (d *Decoder) Done() error {
	if d.err == nil && len(d.rest) > 0 {
		d.Fail("%d bytes left over", len(d.rest))
	}
	return d.err
}

// Byte reads one byte.
func (d *Decoder) Byte() byte {
	if len(d.rest) == 0 {
		d.Fail("truncated")
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

// Bool reads 0 or 1.
func (d *Decoder) Bool() bool {
	b := d.Byte()
	if b > 1 {
		d.Fail("a flag is 0 or 1, not %d", b)
	}
	return b == 1
}

// Uvarint reads a uvarint in its shortest form.
func (d *Decoder) Uvarint() uint64 {
	var v uint64
	for i, b := range d.rest {
		if i == 9 && b > 1 {
			d.Fail("an integer is longer than 64 bits")
			return 0
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				d.Fail("an integer is not in its shortest form")
				return 0
			}
			d.rest = d.rest[i+1:]
			return v
		}
	}
	d.Fail("truncated")
	return 0
}

// Varint reads a zigzag integer.
func (d *Decoder) Varint() int64 {
	v := d.Uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// Count reads the number of items that follow, each at least min bytes (1 or more)
// long, and fails if it is over limit or over what the remaining bytes can hold.
func (d *Decoder) Count(limit, min int) int {
	n := d.Uvarint()
	if n > uint64(limit) {
		d.Fail("%d items, the limit is %d", n, limit)
		return 0
	}
	if n > uint64(len(d.rest)/min) {
		d.Fail("truncated")
		return 0
	}
	return int(n)
}

// Bytes reads a length of at most limit, and so many bytes.
func (d *Decoder) Bytes(limit int) []byte {
	n := d.Uvarint()
	if n > uint64(limit) {
		d.Fail("%d bytes, the limit is %d", n, limit)
		return nil
	}
	return d.Raw(int(n))
}

// Raw reads n bytes, without a length before them.
func (d *Decoder) Raw(n int) []byte {
	if n > len(d.rest) {
		d.Fail("truncated")
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

// Text reads bytes that must be UTF-8.
func (d *Decoder) Text(limit int) string {
	b := d.Bytes(limit)
	if !utf8.Valid(b) {
		d.Fail("text is not valid UTF-8")
		return ""
	}
	return string(b)
}
