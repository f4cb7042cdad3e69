package model

import "github.com/grantlog/grantlog/ledger/wire"

// AppendGrant appends the canonical encoding of g:
//
//	condition, bytes | context, bytes | not before, varint | expires at, varint | owner, bytes
func AppendGrant(dst []byte, g Grant) []byte {
	dst = wire.AppendBytes(dst, g.Condition)
	dst = wire.AppendBytes(dst, g.Context)
	dst = wire.AppendVarint(dst, g.NotBefore)
	dst = wire.AppendVarint(dst, g.ExpiresAt)
	return wire.AppendBytes(dst, g.Owner)
}

// DecodeGrant reads what [AppendGrant] wrote. Its texts may still break the limits of
// their fields, and its context need not be one; it shares memory with the input.
func DecodeGrant(d *wire.Decoder) Grant {
	g := Grant{Condition: d.Text(maxValueBytes)}
	if b := d.Bytes(maxValueBytes); len(b) > 0 {
		g.Context = b
	}
	g.NotBefore = d.Varint()
	g.ExpiresAt = d.Varint()
	g.Owner = d.Text(maxValueBytes)
	return g
}

// Equal reports whether two grants are the same in every part.
func (g Grant) Equal(h Grant) bool {
	return g.Condition == h.Condition && string(g.Context) == string(h.Context) &&
		g.NotBefore == h.NotBefore && g.ExpiresAt == h.ExpiresAt && g.Owner == h.Owner
}
