package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"iter"
)

// MaxAppend is the most bytes of data that [Log.Append] takes: a broker counts what it
// adds to a message against [MaxMessage].
const MaxAppend = MaxMessage - 1024

// A Message is one message of the log. Its Data belongs to the reader, who may keep it
// but must not change it.
type Message struct {
	Seq     uint64 // 1, 2, 3 … ; 1 is the genesis
	Time    int64  // broker's timestamp, nanoseconds since the Unix epoch; not trusted to grow
	Subject string
	Data    []byte
	// Pending is, of a message that Read yields, how many the log held after it when
	// it was sent; a reader that sees 0 has caught up and should not wait for more
	// before it commits.
	Pending uint64
}

// Chain returns the chain hash after m, given the one before it:
//
//	SHA-256( before | seq, 8 bytes | time, 8 bytes | len(subject), 4 bytes | subject | data )
//
// with integers big-endian. Before the first message it is zero.
func (m *Message) Chain(before Hash) Hash {
	h := sha256.New()
	var head [52]byte
	copy(head[:], before[:])
	binary.BigEndian.PutUint64(head[32:], m.Seq)
	binary.BigEndian.PutUint64(head[40:], uint64(m.Time))
	binary.BigEndian.PutUint32(head[48:], uint32(len(m.Subject)))
	h.Write(head[:])
	h.Write([]byte(m.Subject))
	h.Write(m.Data)
	var sum Hash
	h.Sum(sum[:0])
	return sum
}

// A Log is an append-only sequence of messages: JetStream (package natslog) or memory
// (package ledgertest). It stores and orders bytes; it is not trusted to keep them,
// so a reader checks every sequence and the chain. Both pass ledgertest.Conformance.
//
// Methods may be called concurrently.
type Log interface {
	// Genesis returns the log id and configuration hash of the first message, which
	// was read and compared when the log was opened.
	Genesis() Genesis

	// Append stores data of at most [MaxAppend] bytes under a subject of the log's
	// shard, durably, and returns its sequence.
	//
	// An error that is [ErrRefused] means that nothing was stored. Any other error,
	// an expired context too, means that the message may be stored, or may yet be.
	Append(ctx context.Context, subject string, data []byte) (seq uint64, err error)

	// Read yields the stored messages from sequence from (at least 1) on, then waits
	// for new ones, until ctx is done or the loop breaks. It yields what the log
	// delivers: the caller checks that no sequence is missing. A failure is yielded
	// once as the last element: a lost connection, a closed log, a log that ends
	// before from-1 ([ErrRewound]), one that counts messages it does not deliver
	// ([ErrGap]), or any other. The caller checks the log again with Verify before it
	// reads on. The end of ctx is no failure: the sequence just ends.
	Read(ctx context.Context, from uint64) iter.Seq2[Message, error]

	// At returns the message stored at seq, or [ErrNotFound].
	At(ctx context.Context, seq uint64) (Message, error)

	// Head returns the sequences of the oldest and newest message the log has. It is
	// for finding losses and for showing lag; it is not linearizable.
	Head(ctx context.Context) (first, last uint64, err error)

	// LastOn returns the newest message stored under subject, or [ErrNotFound].
	LastOn(ctx context.Context, subject string) (Message, error)

	// Verify checks that the log is there, is the one that was opened, and is
	// configured as the genesis pins it. It returns [ErrMissing], [ErrForeign] or
	// [ErrDrift] if not, and any other error if it could not be asked.
	Verify(ctx context.Context) error

	// Close ends every Read and releases the log.
	Close() error
}

// The ways of losing the past. Each is an [ErrQuarantined].
var (
	// ErrMissing: the stream is not there.
	ErrMissing = quarantine("the log is missing")
	// ErrForeign: the stream is another log than the one this replica folded.
	ErrForeign = quarantine("the log is a foreign one")
	// ErrDrift: the stream's configuration is not the one pinned at genesis.
	ErrDrift = quarantine("the log's configuration has changed")
	// ErrRewound: the log ends before, or differs at, what this replica folded.
	ErrRewound = quarantine("the log was rewound")
	// ErrGap: the log lacks messages in the middle.
	ErrGap = quarantine("the log has a gap")
	// ErrFoldVersion: the log goes on under a fold version that this program does not
	// know; a newer one does.
	ErrFoldVersion = quarantine("the log asks for a fold version that this program does not know")
)

// quarantineError is one of the ways of losing the past.
type quarantineError struct{ text string }

func quarantine(text string) error       { return &quarantineError{text} }
func (e *quarantineError) Error() string { return e.text }
func (e *quarantineError) Unwrap() error { return ErrQuarantined }

// IsQuarantine reports whether err means that the past is lost or not to be trusted.
func IsQuarantine(err error) bool { return errors.Is(err, ErrQuarantined) }
