package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/nats-io/nats.go"
)

// An External is a nats-server, or a cluster of them, that runs elsewhere. Nothing is
// ever created on it but by Create.
type External struct {
	URL string // nats://host:port or tls://host:port; several with commas between

	Credentials string // file with a user's JWT and seed
	Seed        string // file with a user's nkey seed
	CA          string // PEM file of the authorities to trust instead of the system's; makes TLS required
	Cert, Key   string // PEM files of this client's certificate and its key

	// InboxPrefix is the prefix of the subjects under which answers come, as the
	// user's permissions have it; "_INBOX" if empty.
	InboxPrefix string

	// A server acknowledges what an operating system crash then loses, unless its
	// sync_interval is "always", and a client cannot see that. Monitors are the
	// addresses (http://host:8222) of the monitoring of every server that keeps the
	// stream, where it is read, at every Verify. Or SyncConfirmed says that somebody
	// has seen to it.
	Monitors      []string
	SyncConfirmed bool
}

func (c *External) connectOptions() ([]nats.Option, error) {
	var options []nats.Option
	if c.Credentials != "" {
		options = append(options, nats.UserCredentials(c.Credentials))
	}
	if c.Seed != "" {
		option, err := nats.NkeyOptionFromSeed(c.Seed)
		if err != nil {
			return nil, fmt.Errorf("the nkey seed in %s: %w", c.Seed, err)
		}
		options = append(options, option)
	}
	if c.CA != "" {
		options = append(options, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		options = append(options, nats.ClientCert(c.Cert, c.Key))
	}
	if c.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(c.InboxPrefix))
	}
	return options, nil
}

// checkVersion refuses servers with holes that touch a log: below 2.12.12, and in 2.14
// below 2.14.3, a user who may restore one stream can overwrite another.
func checkVersion(version string) error {
	var v [3]int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		return fmt.Errorf("the version of the server is %q", version)
	}
	if slices.Compare(v[:], []int{2, 12, 12}) < 0 || v[0] == 2 && v[1] == 14 && v[2] < 3 {
		return fmt.Errorf("nats-server %s has known holes; 2.12.12, 2.14.3 or newer is needed", version)
	}
	return nil
}

// syncs returns what checks that every server that keeps the stream syncs always.
func (c *External) syncs() (func(context.Context, *streamInfo) error, error) {
	if len(c.Monitors) == 0 {
		if !c.SyncConfirmed {
			return nil, errors.New("it is not known whether the broker syncs every message to disk before it acknowledges it; " +
				"a broker that does not loses acknowledged grants and revocations when its operating system crashes. " +
				"Either give the monitoring address of every server, or confirm that their sync_interval is \"always\"")
		}
		return func(context.Context, *streamInfo) error { return nil }, nil
	}
	for _, m := range c.Monitors {
		if u, err := url.Parse(m); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%q is no monitoring address such as http://localhost:8222", m)
		}
	}
	return func(ctx context.Context, info *streamInfo) error {
		checked := map[string]bool{}
		for _, m := range c.Monitors {
			name, err := syncsAlways(ctx, m)
			if err != nil {
				return err
			}
			checked[name] = true
		}
		for _, name := range info.servers() {
			if !checked[name] {
				return fmt.Errorf("server %q keeps the log and none of the monitoring addresses is its", name)
			}
		}
		return nil
	}, nil
}

// servers returns the names of the servers that keep the stream.
func (i *streamInfo) servers() []string {
	if i.Cluster == nil {
		return []string{""} // no server has this name
	}
	names := []string{i.Cluster.Leader}
	for _, r := range i.Cluster.Replicas {
		names = append(names, r.Name)
	}
	return names
}

// syncsAlways asks the monitoring of a server for its name, and returns a
// [ledger.ErrDrift] if it does not sync always.
func syncsAlways(ctx context.Context, monitor string) (name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(monitor, "/")+"/varz", nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("ask how the broker syncs: %w", err)
	}
	defer response.Body.Close()
	var varz struct {
		Name      string `json:"server_name"`
		JetStream struct {
			Config *struct {
				SyncAlways bool `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	if response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	} else {
		err = json.NewDecoder(io.LimitReader(response.Body, 4<<20)).Decode(&varz)
	}
	if err != nil {
		return "", fmt.Errorf("ask how the broker syncs: %s: %w", monitor, err)
	}
	if config := varz.JetStream.Config; config == nil || !config.SyncAlways {
		return "", fmt.Errorf("%w: the sync_interval of server %q is not \"always\"", ledger.ErrDrift, varz.Name)
	}
	return varz.Name, nil
}
