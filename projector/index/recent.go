package index

import (
	"hash/maphash"

	"github.com/cockroachdb/pebble/v2"
)

// flushedOptions are those of iterators that pass over what is still in memory.
var flushedOptions = pebble.IterOptions{UseL6Filters: true, OnlyReadGuaranteedDurable: true}

// recent remembers which keys were written lately, so that the writer can look where
// looking is cheap. Nearly all that deciding asks for is not there: a new command id, a
// tuple never granted. In tables on disk a filter says so at once; a memtable has none,
// and a search in a big one costs more than all else of the fold. So a key that is not
// among the recent ones is looked for in the tables alone.
//
// What is kept are hashes; two keys with one hash cost a search and nothing else.
type recent struct {
	seed   maphash.Seed
	since  uint64        // every key written after this sequence of the log is here
	chunks []recentChunk // oldest first
}

// recentChunk holds the keys of some commits, the last at the sequence last.
type recentChunk struct {
	last uint64
	keys map[uint64]struct{}
}

// recentChunkSize is how many keys a chunk has before the next begins.
const recentChunkSize = 1 << 14

func (r *recent) has(prefix []byte) bool {
	h := maphash.Bytes(r.seed, prefix)
	for i := len(r.chunks) - 1; i >= 0; i-- {
		if _, ok := r.chunks[i].keys[h]; ok {
			return true
		}
	}
	return false
}

// add remembers a key, or its prefix, of the commit at sequence seq.
func (r *recent) add(prefix string, seq uint64) {
	if n := len(r.chunks); n == 0 || len(r.chunks[n-1].keys) >= recentChunkSize && r.chunks[n-1].last < seq {
		r.chunks = append(r.chunks, recentChunk{keys: make(map[uint64]struct{})})
	}
	chunk := &r.chunks[len(r.chunks)-1]
	chunk.last = seq
	chunk.keys[maphash.String(r.seed, prefix)] = struct{}{}
}

// flushed forgets what was written up to sequence seq, since all of it is in tables. It
// reports whether the tables and the recent keys together are everything.
func (r *recent) flushed(seq uint64) bool {
	n := 0
	for n < len(r.chunks) && r.chunks[n].last <= seq {
		n++
	}
	r.chunks = r.chunks[n:]
	return seq >= r.since
}

// finder returns the readers that find a key of the newest commit by the cheaper way.
func (b *Batch) finder(key []byte) (*readers, error) {
	if b.tables == nil {
		b.tables = &readers{db: b.x.db, options: &flushedOptions}
		value, err := b.tables.find(positionKey)
		if err != nil {
			return nil, err
		}
		var seq uint64
		if value != nil {
			position, _, err := decodePosition(value)
			if err != nil {
				return nil, damaged("%s", err)
			}
			seq = position.Seq
		}
		b.tablesServe = b.x.recent.flushed(seq)
	}
	if b.tablesServe && !b.x.recent.has(key[:split(key)]) {
		return b.tables, nil
	}
	return b.r, nil
}
