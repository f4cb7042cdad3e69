package audit

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzVerify: no bytes make Verify panic or take more memory than they are worth, and
// what verifies is the one encoding of what it says.
func FuzzVerify(f *testing.F) {
	w := newWorld(f, 12)
	key := testKey(f, "a.example.com")
	for _, bundle := range [][]byte{w.export(key, acme, 1, 12, 12), w.export(key, acme, 3, 9, 12), w.export(key, acme, 1, 1, 12)} {
		f.Add(bundle)
		f.Add(bundle[:len(bundle)/2])
		long := bytes.Clone(bundle[:len(magic)+19]) // an entry that says it is long
		f.Add(append(long, 0xff, 0xff, 0xff, 0x02, 1))
		f.Add(append(long, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := verify(b, Options{})
		if err != nil {
			if !errors.As(err, new(*BundleError)) {
				t.Fatalf("Verify = %v, which is no BundleError", err)
			}
			return
		}
		all, trailer := entries(t, b)
		again := AppendHeader(nil, r.Header)
		for _, e := range all {
			again = AppendEntry(again, e)
		}
		if again = AppendTrailer(again, trailer); !bytes.Equal(again, b) {
			t.Fatalf("a bundle of %d bytes has another encoding of %d", len(b), len(again))
		}
	})
}
