package natslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
	"github.com/nats-io/nats.go"
)

// The tests here lose the past of a real server's store, in each of the ways that were
// seen, under a replica that has read all of it. JetStream itself reports none of them.

// TestRewind puts the store back by 10 of 20 messages, and then stores fewer messages
// than were lost, as many, and more.
func TestRewind(t *testing.T) {
	for _, stored := range []int{0, 4, 10, 15} {
		t.Run(fmt.Sprint(stored), func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t, natstest.Config{})
			l := newLog(t, external(s))
			fill(t, l, 10)
			s.Kill()
			old := s.Copy(t)
			s.Start(t)
			if err := reconnect(t, l); err != nil {
				t.Fatal(err)
			}
			fill(t, l, 10)
			ended := follow(t, l, 1)
			before, err := l.At(within(t), 21) // the position of the replica
			if err != nil {
				t.Fatal(err)
			}

			s.Kill()
			if err := wantEnd(t, ended, 5*time.Second); ledger.IsQuarantine(err) || !errors.Is(err, ledger.ErrUnavailable) {
				t.Errorf("the reader of a killed server ended with %v, want a lost connection", err)
			}
			s.Restore(t, old)
			s.Start(t)
			if err := reconnect(t, l); err != nil {
				t.Fatalf("Verify: %v; only the newest messages are lost", err)
			}
			for i := range stored {
				if _, err := l.Append(within(t), edge, fmt.Append(nil, "rewritten ", i)); err != nil {
					t.Fatal(err)
				}
			}
			after, err := l.At(within(t), before.Seq)
			if stored < 10 {
				if !errors.Is(err, ledger.ErrNotFound) {
					t.Errorf("At the position = %+v, %v; want ErrNotFound", after, err)
				}
				if got, err := take(t, l, before.Seq+1, 1); !errors.Is(err, ledger.ErrRewound) {
					t.Errorf("Read from the position on = %+v, %v; want ErrRewound", got, err)
				}
				return
			}
			// The server now goes on after the position as if nothing had happened.
			if err != nil || after.Chain(ledger.Hash{}) == before.Chain(ledger.Hash{}) {
				t.Errorf("At the position = %+v, %v; want another message than before", after, err)
			}
			if stored > 10 {
				if got, err := take(t, l, before.Seq+1, 1); err != nil || got[0].Seq != before.Seq+1 {
					t.Errorf("Read from the position on = %+v, %v; the server was expected to skip what it rewrote", got, err)
				}
			}
		})
	}
}

// TestGapInTheMiddle flips one bit of a message on disk. The server skips it, and
// counts it.
func TestGapInTheMiddle(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	fill(t, l, 9)
	stopForGood(t, s)
	flip(t, s.Dir, "*.blk", "message 5")
	s.Start(t)
	if err := reconnect(t, l); err != nil {
		t.Fatal(err)
	}
	got, err := take(t, l, 1, 5)
	if err != nil || got[3].Seq != 4 || got[4].Seq != 6 {
		t.Errorf("Read = %+v, %v; want a message that is missing in turn", got, err)
	}
	if m, err := l.At(within(t), 5); err == nil {
		t.Errorf("At(5) = %+v, want an error", m)
	}
}

// TestGapAtTheEnd does that to the newest message: a reader would wait for it for ever.
func TestGapAtTheEnd(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	fill(t, l, 9)
	stopForGood(t, s)
	flip(t, s.Dir, "*.blk", "message 10")
	s.Start(t)
	if err := reconnect(t, l); err != nil {
		t.Fatal(err)
	}
	_, last, err := l.Head(within(t))
	if err != nil || last != 10 {
		t.Fatalf("Head: last = %d, %v; the server was expected to count the message", last, err)
	}
	begun := time.Now()
	got, err := take(t, l, 8, 3)
	if len(got) != 2 || !errors.Is(err, ledger.ErrGap) {
		t.Errorf("Read = %d messages, %v; want 2 and ErrGap", len(got), err)
	}
	if d := time.Since(begun); d > 4*silence {
		t.Errorf("that took %v", d)
	}
}

// stopForGood stops a server so that it writes its index of the blocks, and does not
// rebuild it when it starts again.
func stopForGood(t *testing.T, s *natstest.Server) {
	t.Helper()
	s.Stop()
	if found, _ := filepath.Glob(filepath.Join(s.Dir, "jetstream", "*", "streams", "*", "msgs", "index.db")); len(found) != 1 {
		t.Fatalf("the server left no index of its blocks")
	}
}

func TestForeign(t *testing.T) {
	for _, tt := range []struct {
		name string
		swap func(t *testing.T, s *natstest.Server, l *Log)
	}{
		{"deleted and created again", func(t *testing.T, s *natstest.Server, l *Log) {
			deleteStream(t, s)
			other := newLog(t, external(s))
			fill(t, other, 10)
		}},
		{"store of another server", func(t *testing.T, s *natstest.Server, l *Log) {
			otherServer := natstest.Start(t, natstest.Config{})
			other := newLog(t, external(otherServer))
			fill(t, other, 10)
			otherServer.Kill()
			s.Kill()
			s.Restore(t, otherServer.Copy(t))
			s.Start(t)
		}},
		{"log id kept, genesis not", func(t *testing.T, s *natstest.Server, l *Log) {
			js := admin(t, s)
			stream, err := js.Stream(t.Context(), l.stream)
			if err != nil {
				t.Fatal(err)
			}
			c := stream.CachedInfo().Config
			deleteStream(t, s)
			if _, err := js.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			fill(t, l, 10)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t, natstest.Config{})
			l := newLog(t, external(s))
			fill(t, l, 5)
			ended := follow(t, l, 1)
			tt.swap(t, s, l)
			if err := wantEnd(t, ended, 2*silence); err == nil {
				t.Error("the reader ended without an error")
			}
			if err := reconnect(t, l); !errors.Is(err, ledger.ErrForeign) || !ledger.IsQuarantine(err) {
				t.Errorf("Verify: %v, want ErrForeign", err)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(t *testing.T, s *natstest.Server)
	}{
		{"stream deleted", func(t *testing.T, s *natstest.Server) { deleteStream(t, s) }},
		{"store lost", func(t *testing.T, s *natstest.Server) {
			s.Kill()
			s.Restore(t, t.TempDir())
			s.Start(t)
		}},
		{"bit flipped in the stream's metadata", func(t *testing.T, s *natstest.Server) {
			s.Kill()
			flip(t, s.Dir, "meta.inf", "deny_delete")
			s.Start(t)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t, natstest.Config{})
			l := newLog(t, external(s))
			fill(t, l, 5)
			ended := follow(t, l, 1)
			tt.lose(t, s)
			if err := wantEnd(t, ended, 2*silence); err == nil {
				t.Error("the reader ended without an error")
			}
			if err := reconnect(t, l); !errors.Is(err, ledger.ErrMissing) {
				t.Errorf("Verify: %v, want ErrMissing", err)
			}
			_, at := l.At(within(t), 1)
			_, _, head := l.Head(within(t))
			_, read := take(t, l, 7, 1)
			for name, err := range map[string]error{"At": at, "Head": head, "Read": read} {
				if !errors.Is(err, ledger.ErrMissing) {
					t.Errorf("%s: %v, want ErrMissing", name, err)
				}
			}
			if _, err := l.Append(within(t), edge, nil); !errors.Is(err, ledger.ErrRefused) {
				t.Errorf("Append: %v, want ErrRefused", err)
			}
			if _, err := Open(t.Context(), external(s)); !errors.Is(err, ledger.ErrMissing) {
				t.Errorf("Open: %v, want ErrMissing: it must not create a log", err)
			}
		})
	}
}

// TestDrift makes each change of the stream's configuration that a server accepts from
// an administrator.
func TestDrift(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	js := admin(t, s)
	for _, tt := range []struct{ field, value string }{
		{"max_msgs", `1`},
		{"max_bytes", `1000`},
		{"max_age", `1000000000`},
		{"max_msgs_per_subject", `1`},
		{"max_msg_size", `100`},
		{"discard", `"old"`},
		{"subjects", `["grantlog.main.>", "other.>"]`},
		{"subjects", `["grantlog.main.cmd.>"]`},
		{"sources", `[{"name": "other"}]`},
		{"subject_transform", `{"src": "grantlog.main.cmd.>", "dest": "grantlog.main.edge.>"}`},
		{"republish", `{"src": "grantlog.main.>", "dest": "copy.>"}`},
		{"allow_msg_ttl", `true`},
		{"allow_direct", `true`},
		{"mirror_direct", `true`},
		{"allow_atomic", `true`},
		{"allow_batched", `true`},
		{"sealed", `true`},
		{"no_ack", `true`},
		{"compression", `"s2"`},
		{"duplicate_window", `60000000000`},
		{"consumer_limits", `{"inactive_threshold": 1000000000}`},
		{"description", `"mine"`},
		{"metadata", `{"grantlog.log": "LOG", "more": "x"}`},
	} {
		t.Run(tt.field, func(t *testing.T) {
			l := newLog(t, external(s))
			defer deleteStream(t, s)
			fill(t, l, 3)
			if err := l.Verify(within(t)); err != nil {
				t.Fatalf("Verify before the change: %v", err)
			}
			info, err := l.info(within(t))
			if err != nil {
				t.Fatal(err)
			}
			info.Config[tt.field] = json.RawMessage(strings.ReplaceAll(tt.value, "LOG", l.genesis.Log.String()))
			body, err := json.Marshal(info.Config)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := js.Conn().Request("$JS.API.STREAM.UPDATE."+l.stream, body, 5*time.Second)
			if err != nil || bytes.Contains(reply.Data, []byte(`"error"`)) {
				t.Fatalf("the server refuses the change: %v %s", err, reply.Data)
			}
			err = l.Verify(within(t))
			if !errors.Is(err, ledger.ErrDrift) || !strings.Contains(err.Error(), ": "+tt.field+" is ") {
				t.Errorf("Verify: %v, want ErrDrift that names %s", err, tt.field)
			}
			if again, err := Open(t.Context(), external(s)); err == nil {
				again.Close()
				t.Error("Open of the changed log succeeded")
			}
		})
	}
}

// TestUnpinnable checks that a server refuses what it can do to a pinned stream at no
// time: what no drift needs to be found of.
func TestUnpinnable(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	fill(t, l, 3)
	js := admin(t, s)
	stream, err := js.Stream(t.Context(), l.stream)
	if err != nil {
		t.Fatal(err)
	}
	ttl, rollup := nats.NewMsg(edge), nats.NewMsg(edge)
	ttl.Header.Set("Nats-TTL", "1s")
	rollup.Header.Set("Nats-Rollup", "all")
	_, ttlErr := js.PublishMsg(t.Context(), ttl)
	_, rollupErr := js.PublishMsg(t.Context(), rollup)
	for name, err := range map[string]error{
		"purge":   stream.Purge(t.Context()),
		"delete":  stream.DeleteMsg(t.Context(), 2),
		"erase":   stream.SecureDeleteMsg(t.Context(), 2),
		"ttl":     ttlErr,
		"roll-up": rollupErr,
	} {
		if err == nil {
			t.Errorf("the server accepted: %s", name)
		}
	}
	if got, err := take(t, l, 1, 4); err != nil || got[3].Seq != 4 {
		t.Errorf("Read = %+v, %v", got, err)
	}
}

// TestPinnedHash fails when the pinned configuration changes: every log that exists
// would then be refused.
func TestPinnedHash(t *testing.T) {
	const want = "0d586c68c6245c938b59c65e7364789b7897527fbe83b39435233b49a2015a64"
	if got := fmt.Sprintf("%x", configHash(pinned("main"))); got != want {
		t.Errorf("hash of the pinned configuration = %s, want %s", got, want)
	}
}

func TestCompareConfig(t *testing.T) {
	want := map[string]any{"name": "a", "max": -1, "metadata": map[string]string{"id": "x"}}
	for _, tt := range []struct{ live, drift string }{
		{`{"name": "a", "max": -1, "metadata": {"id": "x"}}`, ""},
		{`{"name": "a", "max": -1, "metadata": {"id": "x", "_nats.ver": "9"}, "later": false, "no": null, "list": [], "n": 0, "s": "", "o": {}}`, ""},
		{`{"name": "a", "max": -1, "metadata": {"id": "x"}, "invented_later": true}`, "invented_later is true"},
		{`{"name": "a", "max": -1, "metadata": {"id": "y"}}`, "metadata is "},
		{`{"name": "a", "max": -1, "metadata": {"id": "x", "more": ""}}`, "metadata is "},
		{`{"name": "a", "max": -1, "metadata": 7}`, "metadata is 7"},
		{`{"name": "a", "max": -1}`, "metadata is off"},
		{`{"name": "a", "metadata": {"id": "x"}}`, "max is off, pinned is -1"},
		{`{"name": "b", "max": 1, "metadata": {"id": "x"}}`, `max is 1, pinned is -1; name is "b", pinned is "a"`},
	} {
		var live map[string]json.RawMessage
		if err := json.Unmarshal([]byte(tt.live), &live); err != nil {
			t.Fatal(err)
		}
		err := compareConfig(live, want)
		if (err == nil) != (tt.drift == "") || err != nil && (!errors.Is(err, ledger.ErrDrift) || !strings.Contains(err.Error(), tt.drift)) {
			t.Errorf("compareConfig(%s) = %v, want a drift: %q", tt.live, err, tt.drift)
		}
	}
}

// TestEmptyStream is what an interrupted creation leaves, and what a damaged store may
// be put back to.
func TestEmptyStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	l := newLog(t, external(s))
	body, err := json.Marshal(l.config)
	if err != nil {
		t.Fatal(err)
	}
	deleteStream(t, s)
	if _, err := admin(t, s).Conn().Request("$JS.API.STREAM.CREATE."+l.stream, body, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := l.Verify(within(t)); !errors.Is(err, ledger.ErrGap) {
		t.Errorf("Verify: %v, want ErrGap", err)
	}
	if _, err := Open(t.Context(), external(s)); !errors.Is(err, ledger.ErrGap) {
		t.Errorf("Open: %v, want ErrGap", err)
	}
	if _, err := Create(t.Context(), external(s)); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("Create: %v, want an error that says what to do", err)
	}
}
