// Package seal turns entries into the leaves of their store's tree, an RFC 6962
// Merkle tree as golang.org/x/mod/sumdb/tlog computes it. It is pure.
//
// The data of a leaf is the entry as [ledger.AppendEntry] writes it: everything that
// was decided and everything that decided it, and nothing of where the log stood, so
// that a store can move to another log and keep its root.
package seal

import (
	"github.com/grantlog/grantlog/ledger"
	"golang.org/x/mod/sumdb/tlog"
)

// LeafHash returns the RFC 6962 hash of a leaf, SHA-256(0 | data), for the entry that
// [ledger.AppendEntry] encoded as data.
func LeafHash(data []byte) ledger.Hash { return ledger.Hash(tlog.RecordHash(data)) }

// Hashes returns what a tree that has revision-1 leaves stores for its next one: the
// leaf hash first, then the hash of each subtree that the leaf completes, from the
// smallest up. below reads such rows of earlier revisions.
func Hashes(revision ledger.Revision, leaf ledger.Hash, below tlog.HashReader) ([]ledger.Hash, error) {
	stored, err := tlog.StoredHashesForRecordHash(int64(revision)-1, tlog.Hash(leaf), below)
	if err != nil {
		return nil, err
	}
	hashes := make([]ledger.Hash, len(stored))
	for i, h := range stored {
		hashes[i] = ledger.Hash(h)
	}
	return hashes, nil
}

// Locate says where the hash with tlog's index is kept: in the row of which revision,
// at which place.
func Locate(index int64) (ledger.Revision, int) {
	level, n := tlog.SplitStoredHashIndex(index)
	// The subtree number n of this level is completed by leaf (n+1)<<level - 1.
	return ledger.Revision((n + 1) << level), level
}

// Root returns the tree's root after so many revisions; of none, the hash of nothing.
func Root(revisions ledger.Revision, hashes tlog.HashReader) (ledger.Hash, error) {
	h, err := tlog.TreeHash(int64(revisions), hashes)
	return ledger.Hash(h), err
}
