package seal

import (
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	"golang.org/x/mod/sumdb/tlog"
)

// ProveInclusion returns the proof of RFC 6962, section 2.1.1, that the tree of that
// size has the revision's leaf, from the leaf up. 1 ≤ revision ≤ size ≤ [MaxSize].
func ProveInclusion(revision, size ledger.Revision, hashes tlog.HashReader) ([]ledger.Hash, error) {
	if err := checkSizes(revision, size); err != nil {
		return nil, err
	}
	proof, err := tlog.ProveRecord(int64(size), int64(revision)-1, hashes)
	return fromTree(proof), err
}

// CheckInclusion verifies such a proof. One that does not show that the tree of that
// size and root has the leaf at the revision is an [ErrUnverified].
func CheckInclusion(revision, size ledger.Revision, leaf ledger.Hash, proof []ledger.Hash, root ledger.Hash) error {
	err := checkSizes(revision, size)
	if err == nil {
		err = tlog.CheckRecord(toTree(proof), int64(size), tlog.Hash(root), int64(revision)-1, tlog.Hash(leaf))
	}
	if err != nil {
		return fmt.Errorf("%w: the proof does not show that the tree of %d has this entry as revision %d", ErrUnverified, size, revision)
	}
	return nil
}

// ProveConsistency returns the proof of RFC 6962, section 2.1.2, that the tree of size
// to begins with that of size from. 1 ≤ from ≤ to ≤ [MaxSize]; of a tree with itself
// it has no hashes.
func ProveConsistency(from, to ledger.Revision, hashes tlog.HashReader) ([]ledger.Hash, error) {
	if err := checkSizes(from, to); err != nil {
		return nil, err
	}
	proof, err := tlog.ProveTree(int64(to), int64(from), hashes)
	return fromTree(proof), err
}

// CheckConsistency verifies such a proof. One that does not show that the tree of size
// to and root toRoot begins with that of size from and root fromRoot is an [ErrUnverified].
func CheckConsistency(from ledger.Revision, fromRoot ledger.Hash, to ledger.Revision, toRoot ledger.Hash, proof []ledger.Hash) error {
	err := checkSizes(from, to)
	if err == nil {
		err = tlog.CheckTree(toTree(proof), int64(to), tlog.Hash(toRoot), int64(from), tlog.Hash(fromRoot))
	}
	if err != nil {
		return fmt.Errorf("%w: the proof does not show that the tree of %d begins with the tree of %d", ErrUnverified, to, from)
	}
	return nil
}

// checkSizes refuses what tlog's arithmetic is not made for.
func checkSizes(smaller, greater ledger.Revision) error {
	if smaller == 0 || smaller > greater || greater > MaxSize {
		return fmt.Errorf("there is no proof about %d in a tree of %d", smaller, greater)
	}
	return nil
}

func fromTree(hashes []tlog.Hash) []ledger.Hash {
	out := make([]ledger.Hash, len(hashes))
	for i, h := range hashes {
		out[i] = ledger.Hash(h)
	}
	return out
}

func toTree(hashes []ledger.Hash) []tlog.Hash {
	out := make([]tlog.Hash, len(hashes))
	for i, h := range hashes {
		out[i] = tlog.Hash(h)
	}
	return out
}
