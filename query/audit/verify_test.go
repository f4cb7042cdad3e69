package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// TestVerify: bundles of whole stores and of ranges verify, and say what they are.
func TestVerify(t *testing.T) {
	w := newWorld(t, 100)
	key := testKey(t, "auditors.example.com/main")
	newest := w.revision(acme)
	for _, tt := range []struct {
		name              string
		store             ledger.ID
		first, last, size ledger.Revision
	}{
		{"a whole store", acme, 1, newest, newest},
		{"its first entry", acme, 1, 1, 1},
		{"its first entry of many", acme, 1, 1, newest},
		{"its beginning", acme, 1, 63, newest},
		{"the middle", acme, 40, 64, newest},
		{"the end", acme, 99, newest, newest},
		{"one entry", acme, 64, 64, 77},
		{"system", ledger.System, 1, w.revision(ledger.System), w.revision(ledger.System)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bundle := w.export(key, tt.store, tt.first, tt.last, tt.size)
			lines := sha256.New()
			var got []FinalTuple
			r, err := verify(bundle, Options{Key: key.Key, Scratch: scratch(t), Tuple: func(f FinalTuple) error {
				line, err := f.Line()
				lines.Write(line)
				got = append(got, f)
				return err
			}})
			if err != nil {
				t.Fatal(err)
			}
			n := r.Outcomes[ledger.Applied] + r.Outcomes[ledger.Rejected] + r.Outcomes[ledger.Duplicate]
			root, err := w.view(tt.store, tt.size).Root()
			if err != nil {
				t.Fatal(err)
			}
			if r.Header != (Header{tt.store, tt.first, tt.last}) || n != uint64(tt.last-tt.first+1) || r.Checkpoint.Size != tt.size ||
				r.Checkpoint.Root != root || r.Key != key.Key || !r.Pinned || r.Folded != (tt.first == 1) {
				t.Errorf("Verify = %+v", r)
			}
			if !r.Folded {
				return
			}
			want := w.live(tt.store, tt.last)
			if len(want) != int(r.Tuples) || len(want) != len(got) || string(lines.Sum(nil)) != string(r.TuplesHash[:]) {
				t.Errorf("%d final tuples (%d told), want %d", r.Tuples, len(got), len(want))
			}
			for i := range want {
				if i < len(got) && (got[i].Tuple != want[i].Tuple || got[i].Revision != want[i].Revision || !got[i].Grant.Equal(want[i].Grant)) {
					t.Errorf("final tuple %d is %+v, want %+v", i, got[i], want[i])
				}
			}
			if !slices.IsSortedFunc(got, func(a, b FinalTuple) int { return a.Tuple.Compare(b.Tuple) }) {
				t.Error("the final tuples are not in order")
			}
		})
	}
	// The tests of tampering are worth something only if the store has everything.
	r, err := verify(w.export(key, acme, 1, newest, newest), Options{Scratch: scratch(t)})
	if err != nil || r.Pinned || r.Tuples < 5 {
		t.Fatalf("Verify = %+v, %v", r, err)
	}
	for _, kind := range []ledger.OutcomeKind{ledger.Applied, ledger.Rejected, ledger.Duplicate} {
		if r.Outcomes[kind] < 5 {
			t.Errorf("only %d entries are %s", r.Outcomes[kind], kind)
		}
	}
}

// live returns the tuples that are live and not expired at a revision of the replica that
// recorded it.
func (w *world) live(store ledger.ID, rev ledger.Revision) (all []index.Granted) {
	v := w.view(store, rev)
	now, err := v.Time()
	if err != nil {
		w.tb.Fatal(err)
	}
	err = v.Tuples(index.ByObject(tuple.Object{}, "", nil, ""), tuple.Tuple{}, func(g index.Granted) bool {
		if g.Grant.ExpiresAt == 0 || g.Grant.ExpiresAt > now {
			all = append(all, g)
		}
		return true
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	return all
}

// Many pieces verify as one does, and what is wrong in a late one is found.
func TestVerifyPieces(t *testing.T) {
	w := newWorld(t, 3*pieceEntries)
	key := testKey(t, "auditors.example.com/main")
	newest := w.revision(acme)
	bundle := w.export(key, acme, 1, newest, newest)
	progress := uint64(0)
	r, err := verify(bundle, Options{Scratch: scratch(t), Progress: func(done, total uint64) error {
		if done < progress || total != uint64(newest) {
			t.Errorf("progress %d of %d after %d", done, total, progress)
		}
		progress = done
		return nil
	}})
	if err != nil || r.Outcomes[ledger.Applied] == 0 || progress != uint64(newest) {
		t.Fatalf("Verify = %+v, %v; progress %d", r, err, progress)
	}
	all, _ := entries(t, bundle)
	for _, at := range []int{10, pieceEntries + 10, len(all) - 1} {
		i := slices.IndexFunc(all[at-5:], func(e *ledger.Entry) bool { return e.Outcome.Kind == ledger.Applied }) + at - 5
		altered, want := forge(t, key, all, i, func(e *ledger.Entry) { e.Outcome.Effective++ })
		_, err := verify(altered, Options{Key: key.Key, Scratch: scratch(t)})
		var fault *BundleError
		if !errors.As(err, &fault) || fault.Revision != want {
			t.Errorf("an outcome altered at entry %d: %v", want, err)
		}
	}
	// Of two faults the earlier one is told, however far reading was ahead of the fold.
	i := slices.IndexFunc(all[10:], func(e *ledger.Entry) bool { return e.Outcome.Kind == ledger.Applied }) + 10
	altered, want := forge(t, key, all, i, func(e *ledger.Entry) { e.Outcome.Effective++ })
	for _, cut := range []int{len(altered) - 10, len(altered) / 2} {
		_, err := verify(altered[:cut], Options{Scratch: scratch(t), Tuple: func(FinalTuple) error { t.Error("a tuple of a bundle that is cut off"); return nil }})
		var fault *BundleError
		if !errors.As(err, &fault) || fault.Revision != want {
			t.Errorf("an outcome altered at entry %d, and cut off at byte %d: %v", want, cut, err)
		}
	}
	_, err = verify(bundle[:len(bundle)-10], Options{Scratch: scratch(t), Tuple: func(FinalTuple) error { t.Error("a tuple of a bundle that is cut off"); return nil }})
	if !errors.As(err, new(*BundleError)) {
		t.Errorf("cut off: %v", err)
	}
	used := scratch(t)
	for range 2 {
		_, err = verify(bundle, Options{Scratch: used})
	}
	if err == nil || errors.As(err, new(*BundleError)) || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("in an index that was used: %v", err)
	}
	stop := errors.New("stop")
	if _, err := verify(bundle, Options{Scratch: scratch(t), Progress: func(uint64, uint64) error { return stop }}); !errors.Is(err, stop) {
		t.Errorf("an error of Progress: %v", err)
	}
	if _, err := verify(bundle, Options{Scratch: scratch(t), Tuple: func(FinalTuple) error { return stop }}); !errors.Is(err, stop) {
		t.Errorf("an error of Tuple: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err = Verify(ctx, bytes.NewReader(bundle), Options{Scratch: scratch(t), Progress: func(uint64, uint64) error { cancel(); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("when its context ends: %v", err)
	}
	if _, err := Verify(context.Background(), io.MultiReader(bytes.NewReader(bundle[:len(bundle)/2]), failing{stop}), Options{Scratch: scratch(t)}); !errors.Is(err, stop) || errors.As(err, new(*BundleError)) {
		t.Errorf("an error of the source: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
