package index

import (
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/wire"
)

// The bits of the first byte of a version's value.
const (
	stateLive    = 1 << iota // it is granted, otherwise revoked
	stateEarlier             // versions before it follow
	stateMore                // and there are more before those
)

// maxEarlier is how many bytes of the versions before it the value of a version holds.
const maxEarlier = 192

// unlimited is the value of a first version that was granted with the zero grant.
var unlimited = string(appendVersionValue(nil, nil, true, model.Grant{}, 0))

// revoked is the value of a version that is not live, without any before it.
const revoked = "\x00"

// zeroGrant is the zero grant as model.AppendGrant writes it.
var zeroGrant = unlimited[1:]

// storedVersion is a version of a tuple as it is stored, and those before it that are
// stored with it. It shares memory with the row.
type storedVersion struct {
	rev     ledger.Revision
	live    bool
	grant   []byte // as model.AppendGrant writes it; empty if it is not live, or if it is zero
	earlier []byte // newest first, see appendVersionValue
	more    bool   // there are more before those
}

// appendVersionValue appends the value of a version at rev. The version before it is
// before; nil if it is the first.
//
//	state 1 | earlier, bytes, if it has any | grant, as model.AppendGrant writes it, if it is live
//
// Earlier are the versions before it, newest first, for which maxEarlier has room:
//
//	distance, uvarint | size, uvarint | grant, size bytes
//
// Distance is in revisions, from the version after it; size is 0 if it is not live, and
// 1 for the zero grant, which is left out.
//
// So a scan of the past, which as any meets the newest version of a tuple first, has
// there the one that it wants: to step or to seek to its row costs several times as
// much as the whole of a live scan. Rows do not change, so neither do the copies.
func appendVersionValue(dst []byte, before *storedVersion, live bool, g model.Grant, rev ledger.Revision) []byte {
	state := len(dst)
	dst = append(dst, 0)
	if before != nil {
		var buf [maxEarlier]byte
		earlier, more := before.appendTo(buf[:0], rev)
		dst[state] |= stateEarlier
		if more {
			dst[state] |= stateMore
		}
		dst = wire.AppendBytes(dst, earlier)
	}
	if live {
		dst[state] |= stateLive
		dst = model.AppendGrant(dst, g)
	}
	return dst
}

// appendTo appends v, which comes before a version at rev, and those before v, as long as
// there is room in dst. It reports whether there are more.
func (v storedVersion) appendTo(dst []byte, rev ledger.Revision) ([]byte, bool) {
	for {
		size := uint64(0)
		switch {
		case v.live && len(v.grant) == 0:
			size = 1
		case v.live:
			size = uint64(len(v.grant))
		}
		n := len(dst)
		dst = append(wire.AppendUvarint(wire.AppendUvarint(dst, uint64(rev-v.rev)), size), v.grant...)
		if len(dst) > maxEarlier {
			return dst[:n], true
		}
		rev = v.rev
		if ok, err := v.back(); err != nil || !ok {
			return dst, v.more || err != nil // what cannot be read is read from its own row
		}
	}
}

// back makes of v the version before it. It reports whether v has one with it.
func (v *storedVersion) back() (bool, error) {
	if len(v.earlier) == 0 {
		return false, nil
	}
	d := wire.NewDecoder(v.earlier)
	distance, size := d.Uvarint(), d.Uvarint()
	v.live, v.grant = size > 0, nil
	if size > 1 {
		v.grant = d.Raw(int(min(size, maxEarlier)))
	}
	if distance == 0 || distance >= uint64(v.rev) {
		d.Fail("a version %d revisions before revision %d", distance, v.rev)
	}
	if err := d.Err(); err != nil {
		return false, damaged("earlier versions: %s", err)
	}
	v.rev -= ledger.Revision(distance)
	v.earlier = d.Rest()
	return true, nil
}

// backTo makes of v the newest version up to rev. It reports whether v has one with it.
func (v *storedVersion) backTo(rev ledger.Revision) (bool, error) {
	for v.rev > rev {
		if ok, err := v.back(); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// parseVersion reads the value of the version at rev.
func parseVersion(rev ledger.Revision, value []byte) (storedVersion, error) {
	v := storedVersion{rev: rev}
	switch string(value) { // most are
	case unlimited:
		v.live = true
		return v, nil
	case revoked:
		return v, nil
	}
	d := wire.NewDecoder(value)
	state := d.Byte()
	if state > stateLive|stateEarlier|stateMore || state&(stateEarlier|stateMore) == stateMore {
		d.Fail("no version has the state %d", state)
	}
	v.live, v.more = state&stateLive != 0, state&stateMore != 0
	if state&stateEarlier != 0 {
		v.earlier = d.Bytes(maxEarlier)
	}
	if v.live {
		if v.grant = d.Raw(len(d.Rest())); string(v.grant) == zeroGrant {
			v.grant = nil
		} else if len(v.grant) == 0 {
			d.Fail("truncated")
		}
	}
	if err := d.Done(); err != nil {
		return v, damaged("version: %s", err)
	}
	return v, nil
}

// decode returns what v was granted with. It does not share memory with the row.
func (v *storedVersion) decode() (model.Grant, error) {
	if len(v.grant) == 0 {
		return model.Grant{}, nil
	}
	d := wire.NewDecoder(v.grant)
	g := model.DecodeGrant(d)
	if err := d.Done(); err != nil {
		return model.Grant{}, damaged("version: %s", err)
	}
	if g.Context != nil {
		g.Context = append([]byte(nil), g.Context...)
	}
	return g, nil
}

// decodeVersion reads the value of a version, without those before it. The grant does
// not share memory with it.
func decodeVersion(value []byte) (model.Grant, bool, error) {
	v, err := parseVersion(0, value)
	if err != nil {
		return model.Grant{}, false, err
	}
	g, err := v.decode()
	return g, v.live && err == nil, err
}
