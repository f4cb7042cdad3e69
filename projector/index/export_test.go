package index

import (
	"context"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// PointRead is Pebble's own read of the row of a tuple's version: the unit of the
// benchmarks of questions, which stand outside of the package because package query
// imports it.
func (x *Index) PointRead(buf []byte, store ledger.ID, t tuple.Tuple, rev ledger.Revision) ([]byte, error) {
	buf = appendForward(buf[:0], store, t, rev)
	_, closer, err := x.db.Get(buf)
	if err != nil {
		return buf, err
	}
	return buf, closer.Close()
}

// Settle writes everything to disk and compacts it.
func (x *Index) Settle(ctx context.Context) error {
	if err := x.db.Flush(); err != nil {
		return err
	}
	return x.db.Compact(ctx, []byte{0}, []byte{0xff, 0}, true)
}
