package index

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"github.com/grantlog/grantlog/ledger"
)

// A Row is one key and its value.
type Row struct{ Key, Value []byte }

// Rows yields every row of the newest commit, in order of their keys, the position's
// among them. A row is valid until the loop goes on. A failure, also of ctx, is yielded
// once, as the last element. While the loop runs, the files it may read are kept.
func (x *Index) Rows(ctx context.Context) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		it, err := x.db.NewIter(nil)
		if err != nil {
			yield(Row{}, readError(err))
			return
		}
		defer it.Close() // returns what Error did
		for n, ok := 0, it.First(); ok; n, ok = n+1, it.Next() {
			value, err := it.ValueAndErr()
			if n%1024 == 0 && err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(Row{}, readError(err))
				return
			}
			if !yield(Row{it.Key(), value}, nil) {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(Row{}, readError(err))
		}
	}
}

// Scrub reads every row and compares their accumulator with the one that the newest
// commit wrote. It returns [ErrDamaged] if they differ or if Pebble finds damage; then
// the index must be dropped. A row of many is some hundred nanoseconds, and one core is
// busy meanwhile; folding and reading go on.
//
// It finds rows that were lost, changed, added or brought back, by a fault of disk,
// file system or program: also those that Pebble does not see, such as all rows of a
// file that a damaged MANIFEST no longer lists. It does not find an index that is as
// a whole an older state, which is a legal one, nor rows changed by someone who
// computes the accumulator anew: compare the tree's root with a checkpoint for that.
func (x *Index) Scrub(ctx context.Context) error {
	var sum, want accumulator
	var buf []byte
	rows, found := 0, false
	began := x.Position() // before the rows are looked at: they are of this commit or a later one
	for row, err := range x.Rows(ctx) {
		if err != nil {
			return err
		}
		if bytes.Equal(row.Key, positionKey) {
			if _, want, err = decodePosition(row.Value); err != nil {
				return damaged("%s", err)
			}
			found = true
			continue
		}
		var one accumulator
		one, buf = sumRow(row.Key, row.Value, buf)
		sum.add(one)
		rows++
	}
	switch {
	case !found && (rows > 0 || began != ledger.Position{}):
		return damaged("the position row is lost")
	case sum != want:
		return damaged("the accumulator of its %d rows is %x, the position row has %x", rows, sum.hash(), want.hash())
	}
	return nil
}

// Digest returns the SHA-256 over all rows in order, the position's among them, and
// their number: of two replicas at one position, and however they got there, the same.
//
//	for each row: len(key) 4 | key | len(value) 4 | value
func (x *Index) Digest(ctx context.Context) (ledger.Hash, int, error) {
	h := sha256.New()
	var buf []byte
	rows := 0
	for row, err := range x.Rows(ctx) {
		if err != nil {
			return ledger.Hash{}, rows, err
		}
		buf = binary.BigEndian.AppendUint32(buf[:0], uint32(len(row.Key)))
		buf = append(buf, row.Key...)
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(row.Value)))
		h.Write(append(buf, row.Value...))
		rows++
	}
	return ledger.Hash(h.Sum(nil)), rows, nil
}
