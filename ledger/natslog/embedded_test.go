package natslog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

func TestEmbeddedCreates(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "broker")
	c := Config{Embedded: &Embedded{Dir: dir}, Logger: quiet}
	if _, err := Open(t.Context(), c); !errors.Is(err, ledger.ErrMissing) {
		t.Errorf("Open of an absent directory: %v, want ErrMissing", err)
	}
	if empty, err := isEmpty(dir); err != nil || !empty {
		t.Errorf("after that the directory is empty: %t, %v", empty, err)
	}
	c.Embedded.MayCreate = true
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil { // a new file system
		t.Fatal(err)
	}
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open of an empty directory that may be filled: %v", err)
	}
	g := l.Genesis()
	l.Close()
	if l, err = Open(t.Context(), c); err != nil || l.Genesis() != g {
		t.Fatalf("Open again: %v, want the same log", err)
	}
	l.Close()
	if _, err := Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("Create over a log: %v, want an error", err)
	}
	// A directory that holds something and no log held a log.
	for _, broken := range []string{"streams", "."} {
		if err := os.RemoveAll(filepath.Join(dir, "jetstream", "$G", broken)); err != nil && broken != "." {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), c); !errors.Is(err, ledger.ErrMissing) {
			t.Errorf("Open of a directory whose log is lost: %v, want ErrMissing", err)
		}
	}
	if l, err = Create(t.Context(), c); err != nil {
		t.Fatalf("Create in a directory that holds no log: %v", err)
	}
	if l.Genesis() == g {
		t.Error("Create gave the log the id of a former one")
	}
	l.Close()
}

func TestEmbeddedInUse(t *testing.T) {
	t.Parallel()
	c := Config{Embedded: &Embedded{Dir: t.TempDir()}, Logger: quiet}
	newLog(t, c)
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "another process") || ledger.IsQuarantine(err) {
		t.Errorf("Open of a directory in use: %v, want an error that says so", err)
	}
}

// TestEmbeddedFails starts the broker where it cannot run. By itself it would end the
// process.
func TestEmbeddedFails(t *testing.T) {
	t.Parallel()
	blocked := t.TempDir()
	if err := os.WriteFile(filepath.Join(blocked, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := natstest.Start(t, natstest.Config{})
	for _, tt := range []struct {
		name string
		e    Embedded
	}{
		{"a file in the place of the store", Embedded{Dir: blocked}},
		{"an address in use", Embedded{Dir: t.TempDir(), Listen: strings.TrimPrefix(taken.URL, "nats://")}},
		{"no address", Embedded{Dir: t.TempDir(), Listen: "nowhere"}},
		{"an open address without a certificate", Embedded{Dir: t.TempDir(), Listen: "0.0.0.0:0"}},
		{"a certificate that is not there", Embedded{Dir: t.TempDir(), Listen: "0.0.0.0:0", Cert: "/nowhere", Key: "/nowhere"}},
		{"a user without a key", Embedded{Dir: t.TempDir(), Listen: "127.0.0.1:0", Users: []User{{Name: "a"}}}},
		{"a user with a wide name", Embedded{Dir: t.TempDir(), Listen: "127.0.0.1:0", Users: []User{{Name: ">", NKey: newKey(t, nil)}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Create(t.Context(), Config{Embedded: &tt.e, Logger: quiet})
			if err == nil {
				l.Close()
				t.Fatal("Create succeeded")
			}
			if ledger.IsQuarantine(err) {
				t.Errorf("Create: %v, which says that the past is lost", err)
			}
		})
	}
}

func TestEmbeddedStrangeDir(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), `it's "my" dir; # $x \n {}`)
	l, err := Create(t.Context(), Config{Embedded: &Embedded{Dir: dir}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, 1)
	l.Close()
	if empty, err := isEmpty(dir); err != nil || empty {
		t.Errorf("the directory is empty: %t, %v", empty, err)
	}
}

func TestEmbeddedLogs(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l, err := Create(t.Context(), Config{Embedded: &Embedded{Dir: t.TempDir()}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if text := out.String(); !strings.Contains(text, "from=broker") || strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the broker's log:\n%s\nwant some, and no warning", text)
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Config
		text string
	}{
		{"neither", Config{}, "either embedded or external"},
		{"both", Config{Embedded: &Embedded{}, External: &External{}}, "either embedded or external"},
		{"shard", Config{Shard: "a.b", Embedded: &Embedded{}}, "no name of a shard"},
		{"replicas", Config{Replicas: 2, Embedded: &Embedded{}}, "replicas"},
		{"sync", Config{External: &External{URL: "nats://127.0.0.1:1"}}, "monitoring address of every server, or confirm"},
		{"monitor", Config{External: &External{URL: "nats://127.0.0.1:1", Monitors: []string{"localhost:8222"}}}, "no monitoring address"},
		{"seed", Config{External: &External{URL: "nats://127.0.0.1:1", SyncConfirmed: true, Seed: "/nowhere"}}, "/nowhere"},
		{"nobody there", Config{External: &External{URL: "nats://127.0.0.1:1", SyncConfirmed: true}}, "connect to the log"},
	} {
		tt.c.Logger = quiet
		if _, err := Open(t.Context(), tt.c); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: Open: %v, want an error that says %q", tt.name, err, tt.text)
		}
	}
}

// newKey makes a user's nkey, writes its seed to *file if that is wanted, and returns
// the public key.
func newKey(t *testing.T, file *string) string {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if file != nil {
		*file = filepath.Join(t.TempDir(), "user.nk")
		if err := os.WriteFile(*file, seed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// TestUsers checks what the users of a broker that listens can do, and what not.
func TestUsers(t *testing.T) {
	t.Parallel()
	var nodeSeed, aliceSeed, strangerSeed string
	newKey(t, &strangerSeed)
	address := "127.0.0.1:" + natstest.FreePort(t)
	l := newLog(t, Config{Embedded: &Embedded{
		Dir:    t.TempDir(),
		Listen: address,
		Users: []User{
			{Name: "replica", NKey: newKey(t, &nodeSeed), Node: true},
			{Name: "alice", NKey: newKey(t, &aliceSeed)},
		},
	}, Logger: quiet})
	fill(t, l, 2)

	for name, options := range map[string][]nats.Option{
		"nobody":     nil,
		"a stranger": {seedOption(t, strangerSeed)},
		"a password": {nats.UserInfo("admin", "admin")},
	} {
		if nc, err := nats.Connect("nats://"+address, options...); err == nil {
			nc.Close()
			t.Errorf("%s can connect", name)
		}
	}

	replica, err := Open(t.Context(), Config{External: &External{
		URL: "nats://" + address, Seed: nodeSeed, InboxPrefix: "_INBOX_replica", SyncConfirmed: true,
	}, Logger: quiet})
	if err != nil {
		t.Fatalf("Open by another node: %v", err)
	}
	defer replica.Close()
	if replica.Genesis() != l.Genesis() {
		t.Error("the other node has another log")
	}
	own := ledger.Subject("main", ledger.EdgeSubject, "replica")
	if seq, err := replica.Append(within(t), own, []byte("mine")); err != nil || seq != 4 {
		t.Errorf("Append by another node = %d, %v", seq, err)
	}
	if got, err := take(t, replica, 1, 4); err != nil || string(got[3].Data) != "mine" {
		t.Errorf("Read by another node = %v, %v", got, err)
	}
	begun := time.Now()
	_, err = replica.Append(within(t), edge, nil) // edge "a" is not its name
	if err == nil || errors.Is(err, ledger.ErrRefused) || !strings.Contains(err.Error(), "forbids") || time.Since(begun) > 5*time.Second {
		t.Errorf("Append as another edge: %v after %v, want to be told at once that it is forbidden", err, time.Since(begun))
	}
	if _, err := replica.Append(within(t), own, nil); err != nil {
		t.Errorf("Append after a forbidden one: %v", err)
	}
	for _, subject := range []string{
		"STREAM.UPDATE." + l.stream, "STREAM.DELETE." + l.stream, "STREAM.PURGE." + l.stream, "STREAM.CREATE." + l.stream,
		"STREAM.CREATE.OTHER", "STREAM.MSG.DELETE." + l.stream, "STREAM.SNAPSHOT." + l.stream, "STREAM.RESTORE." + l.stream, "STREAM.NAMES",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := replica.request(ctx, subject, map[string]any{}, nil); err == nil || !strings.Contains(err.Error(), "forbids") {
			t.Errorf("a node may ask for %s: %v", subject, err)
		}
		cancel()
	}

	alice, err := nats.Connect("nats://"+address, seedOption(t, aliceSeed), nats.CustomInboxPrefix("_INBOX_alice"),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	if reply, err := alice.Request(ledger.Subject("main", ledger.PrincipalSubject, "alice"), []byte("{}"), time.Second); err != nil || !strings.Contains(string(reply.Data), `"seq":`) {
		t.Errorf("alice publishes as alice: %v", err)
	}
	for _, subject := range []string{
		ledger.Subject("main", ledger.PrincipalSubject, "bob"), edge, ledger.Subject("main", ledger.EpochSubject, ""),
		"$JS.API.STREAM.INFO." + l.stream, "$JS.API.STREAM.MSG.GET." + l.stream, "$JS.API.CONSUMER.CREATE." + l.stream + ".x",
	} {
		if _, err := alice.Request(subject, []byte("{}"), 200*time.Millisecond); err == nil {
			t.Errorf("alice can publish to %s", subject)
		}
	}
	if _, last, err := l.Head(within(t)); err != nil || last != 6 {
		t.Errorf("Head: last = %d, %v; want 6", last, err)
	}
}

func seedOption(t *testing.T, file string) nats.Option {
	t.Helper()
	option, err := nats.NkeyOptionFromSeed(file)
	if err != nil {
		t.Fatal(err)
	}
	return option
}

func TestShards(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	var logs []*Log
	for _, shard := range []string{"main", "other", "Other"} {
		c := external(s)
		c.Shard = shard
		logs = append(logs, newLog(t, c))
	}
	for i, l := range logs {
		subject := ledger.Subject(l.shard, ledger.EdgeSubject, "a")
		if seq, err := l.Append(within(t), subject, []byte(l.shard)); err != nil || seq != 2 {
			t.Errorf("Append to shard %s = %d, %v", l.shard, seq, err)
		}
		other := logs[(i+1)%len(logs)]
		if _, err := other.Append(within(t), subject, nil); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("Append of %s to shard %s: %v, want ErrRefused", subject, other.shard, err)
		}
	}
	if logs[0].Genesis().Config == logs[1].Genesis().Config {
		t.Error("two shards have one configuration")
	}
}

func TestServerVersion(t *testing.T) {
	for version, ok := range map[string]bool{
		"2.15.2": true, "2.14.3": true, "2.14.2": false, "2.13.9": true, "2.12.12": true, "2.12.11": false,
		"2.12.13-beta.1": true, "2.10.30": false, "1.99.99": false, "3.0.0": true, "": false, "new": false,
	} {
		if err := checkVersion(version); (err == nil) != ok {
			t.Errorf("checkVersion(%q) = %v, want it to pass: %t", version, err, ok)
		}
	}
}
