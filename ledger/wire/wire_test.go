package wire

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	b := AppendUvarint(nil, math.MaxUint64)
	b = AppendVarint(b, math.MinInt64)
	b = AppendVarint(b, -1)
	b = AppendBytes(b, "text")
	b = AppendBool(b, true)
	b = AppendBytes(b, []byte{})
	d := NewDecoder(b)
	if v := d.Uvarint(); v != math.MaxUint64 {
		t.Errorf("Uvarint = %d", v)
	}
	if v := d.Varint(); v != math.MinInt64 {
		t.Errorf("Varint = %d", v)
	}
	if v := d.Varint(); v != -1 {
		t.Errorf("Varint = %d", v)
	}
	if v := d.Text(4); v != "text" {
		t.Errorf("Text = %q", v)
	}
	if !d.Bool() {
		t.Error("Bool = false")
	}
	if v := d.Bytes(0); len(v) != 0 {
		t.Errorf("Bytes = %v", v)
	}
	if err := d.Done(); err != nil {
		t.Errorf("Done = %v", err)
	}
}

func TestMalformed(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		read func(*Decoder)
	}{
		{"nothing to read", nil, func(d *Decoder) { d.Byte() }},
		{"truncated integer", []byte{0x80}, func(d *Decoder) { d.Uvarint() }},
		{"integer with a needless byte", []byte{0x80, 0x00}, func(d *Decoder) { d.Uvarint() }},
		{"integer of 65 bits", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}, func(d *Decoder) { d.Uvarint() }},
		{"integer of 11 bytes", bytes.Repeat([]byte{0xff}, 11), func(d *Decoder) { d.Uvarint() }},
		{"flag of 2", []byte{2}, func(d *Decoder) { d.Bool() }},
		{"truncated bytes", []byte{3, 'a', 'b'}, func(d *Decoder) { d.Bytes(10) }},
		{"bytes over the limit", []byte{3, 'a', 'b', 'c'}, func(d *Decoder) { d.Bytes(2) }},
		{"a length near 2^64", AppendUvarint(nil, math.MaxUint64), func(d *Decoder) { d.Bytes(10) }},
		{"text that is not UTF-8", []byte{1, 0xff}, func(d *Decoder) { d.Text(10) }},
		{"more items than bytes", []byte{5, 0}, func(d *Decoder) { d.Count(10, 1) }},
		{"more items than the limit", []byte{5, 0, 0, 0, 0, 0}, func(d *Decoder) { d.Count(4, 1) }},
		{"bytes left over", []byte{1, 2}, func(d *Decoder) { d.Byte() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDecoder(tt.in)
			tt.read(d)
			if err := d.Done(); !errors.Is(err, ErrMalformed) {
				t.Errorf("Done = %v, want an ErrMalformed", err)
			}
		})
	}
}

// FuzzUvarint holds that an integer has one encoding.
func FuzzUvarint(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{0x80, 1})
	f.Add([]byte{0x80, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		d := NewDecoder(in)
		v := d.Uvarint()
		if d.Err() != nil {
			return
		}
		used := in[:len(in)-len(d.Rest())]
		if got := AppendUvarint(nil, v); !bytes.Equal(got, used) {
			t.Fatalf("%d was read from %x, and is written as %x", v, used, got)
		}
	})
}
