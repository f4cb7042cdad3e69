package natslog

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
)

// wantBeginning fails unless the log holds its genesis and, from version 2 on, the
// activation alone.
func wantBeginning(t *testing.T, l *Log, version uint64) {
	t.Helper()
	want := min(version, 2)
	if first, last, err := l.Head(within(t)); err != nil || first != 1 || last != want {
		t.Fatalf("Head = %d, %d, %v, want 1, %d", first, last, err, want)
	}
	if version < 2 {
		return
	}
	subject, data := ledger.Beginning("main", l.Genesis().Log, version)
	if m, err := l.At(within(t), 2); err != nil || m.Subject != subject || !bytes.Equal(m.Data, data) {
		t.Errorf("message 2 = %+v, %v, want %x under %s", m, err, data, subject)
	}
}

// A log that is created begins under the fold version that was asked for, by Create or by
// an embedded broker that starts for the first time; one that is opened stays as it is.
func TestBeginning(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	for _, version := range []uint64{0, 1, 2} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			embedded := Config{Embedded: &Embedded{Dir: t.TempDir(), MayCreate: true}, Logger: quiet}
			c := embedded
			c.FoldVersion = version
			l, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			wantBeginning(t, l, max(version, 1))
			l.Close()
			for _, again := range []uint64{version, 2} {
				c.FoldVersion = again
				if l, err = Open(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				wantBeginning(t, l, max(version, 1))
				l.Close()
			}
			c = external(s)
			c.FoldVersion = version
			wantBeginning(t, newLog(t, c), max(version, 1))
			deleteStream(t, s)
		})
	}
}

// Where creating ends between genesis and activation, the log is one under version 1:
// there to be opened, and not written to by that.
func TestBeginningInterrupted(t *testing.T) {
	t.Parallel()
	var seed string
	public := newKey(t, &seed)
	s := natstest.Start(t, natstest.Config{Extra: fmt.Sprintf(
		"authorization { users: [ { nkey: %s, permissions: { publish: { allow: [\">\"], deny: [%s] } } } ] }",
		public, strconv.Quote(ledger.Subject("main", ledger.ActivateSubject, "")))})
	c := Config{FoldVersion: 2, External: &External{URL: s.URL, Seed: seed, SyncConfirmed: true}, Logger: quiet}
	l, err := Create(t.Context(), c)
	if err == nil {
		l.Close()
		t.Fatal("the log began under version 2, which the broker forbids")
	}
	for _, part := range []string{"the log is there and can be used", "is under fold version 1", "forbids"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("Create: %v, want %q in it", err, part)
		}
	}
	if l, err = Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantBeginning(t, l, 1)
	if seq, err := l.Append(within(t), edge, []byte("x")); err != nil || seq != 2 {
		t.Errorf("Append = %d, %v", seq, err)
	}
	if _, err := Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("Create again: %v, want an error that says that it is there", err)
	}
}
