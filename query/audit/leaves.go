package audit

import (
	"github.com/grantlog/grantlog/ledger"
	"golang.org/x/mod/sumdb/tlog"
)

// leaves is an RFC 6962 tree that leaves are added to, as far as its root needs it: the
// roots of the complete subtrees that it is made of, one for each bit of its size.
type leaves struct {
	size  ledger.Revision
	peaks []tlog.Hash // of 2^level leaves at level, where that bit of size is set
}

func (l *leaves) add(leaf ledger.Hash) {
	level, h := 0, tlog.Hash(leaf)
	for ; l.size>>level&1 == 1; level++ { // as a carry in an addition
		h = tlog.NodeHash(l.peaks[level], h)
	}
	if level == len(l.peaks) {
		l.peaks = append(l.peaks, tlog.Hash{})
	}
	l.peaks[level] = h
	l.size++
}

// root returns the root of the tree, which must have a leaf.
func (l *leaves) root() ledger.Hash {
	var h tlog.Hash
	begun := false
	for level, peak := range l.peaks {
		switch {
		case l.size>>level&1 == 0:
		case begun:
			h = tlog.NodeHash(peak, h)
		default:
			h, begun = peak, true
		}
	}
	return ledger.Hash(h)
}
