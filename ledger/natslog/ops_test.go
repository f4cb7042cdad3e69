package natslog

import (
	"slices"
	"testing"

	"github.com/grantlog/grantlog/ledger"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// TestOpsConfig holds that the configuration which is shipped for a cluster is one, that
// it syncs always, and that it allows each user what it needs and no more.
func TestOpsConfig(t *testing.T) {
	t.Setenv("NODE", "n1")
	keys := map[string]string{}
	for _, name := range []string{"ADMIN_NKEY", "EDGE_NKEY", "DEPLOY_BOT_NKEY"} {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		key, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		keys[key] = name
		t.Setenv(name, key)
	}
	opts, err := server.ProcessConfigFile("../../ops/nats/node.conf")
	if err != nil {
		t.Fatal(err)
	}
	if !opts.SyncAlways || opts.MaxPayload < ledger.MaxMessage || opts.JetStreamMaxStore <= 0 || opts.HTTPHost != "127.0.0.1" || len(opts.Users) > 0 {
		t.Errorf("sync always %v, payload %d, store %d, monitoring on %s, users with passwords %d",
			opts.SyncAlways, opts.MaxPayload, opts.JetStreamMaxStore, opts.HTTPHost, len(opts.Users))
	}
	want := map[string][]string{
		"EDGE_NKEY":       User{Name: "edge", Node: true}.mayPublish("main"),
		"DEPLOY_BOT_NKEY": User{Name: "deploy-bot"}.mayPublish("main"),
	}
	for _, u := range opts.Nkeys {
		name := keys[u.Nkey]
		delete(keys, u.Nkey)
		if allowed := u.Permissions.Publish.Allow; name != "ADMIN_NKEY" && !slices.Equal(allowed, want[name]) {
			t.Errorf("%s may publish to %q, want %q", name, allowed, want[name])
		}
		for _, kind := range []ledger.SubjectKind{ledger.GenesisSubject, ledger.ActivateSubject, ledger.EpochSubject} {
			subject := ledger.Subject("main", kind, "")
			may := slices.ContainsFunc(u.Permissions.Publish.Allow, func(s string) bool { return server.SubjectsCollide(s, subject) })
			if may != (name == "ADMIN_NKEY") {
				t.Errorf("%s may publish to %s: %t", name, subject, may)
			}
		}
		if len(u.Permissions.Publish.Deny) > 0 || len(u.Permissions.Subscribe.Deny) > 0 {
			t.Errorf("%s has deny rules, which are no control", name)
		}
	}
	if len(keys) > 0 {
		t.Errorf("no user for %v", keys)
	}
}
