package audit

import (
	"flag"
	"testing"

	"github.com/grantlog/grantlog/ledger"
)

var benchEntries = flag.Int("entries", 100_000, "entries of the bundle that BenchmarkVerify verifies")

// BenchmarkVerify verifies a whole store, with every outcome decided again in a scratch
// index on disk. It prints entries a second, and their ratio to the 20,000 asked for.
func BenchmarkVerify(b *testing.B) {
	w := newEmptyWorld(b)
	w.objects = *benchEntries
	w.grow(ledger.Revision(*benchEntries))
	key := testKey(b, "auditors.example.com/main")
	newest := w.revision(acme)
	bundle := w.export(key, acme, 1, newest, newest)
	for _, bb := range []struct {
		name   string
		folded bool
	}{{"folded", true}, {"hashes", false}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o := Options{Key: key.Key}
				if bb.folded {
					o.Scratch = scratch(b)
					o.Scratch.CacheBytes = 64 << 20
				}
				if r, err := verify(bundle, o); err != nil || r.Folded != bb.folded {
					b.Fatal(r, err)
				}
			}
			rate := float64(newest) * float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "entries/s")
			b.ReportMetric(rate/20_000, "ratio")
		})
	}
}
