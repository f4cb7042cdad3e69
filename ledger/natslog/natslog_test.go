package natslog

import (
	"flag"
	"log/slog"
	"os"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
)

func TestMain(m *testing.M) {
	natstest.Main()
	flag.Parse()
	flag.Set("test.parallel", "8") // these tests wait more than they work
	os.Exit(m.Run())
}

// quiet keeps what the broker says out of a test's output.
var quiet = slog.New(slog.DiscardHandler)

func TestConformanceEmbedded(t *testing.T) {
	t.Parallel()
	ledgertest.Conformance(t, func(t *testing.T) func() (ledger.Log, error) {
		c := Config{Embedded: &Embedded{Dir: t.TempDir(), MayCreate: true}, Logger: quiet}
		return func() (ledger.Log, error) { return Open(t.Context(), c) }
	})
}

func TestConformanceExternal(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	ledgertest.Conformance(t, func(t *testing.T) func() (ledger.Log, error) {
		c := Config{External: &External{URL: s.URL, Monitors: []string{s.Monitor}}, Logger: quiet}
		l, err := Create(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		t.Cleanup(func() { deleteStream(t, s) })
		return func() (ledger.Log, error) { return Open(t.Context(), c) }
	})
}
