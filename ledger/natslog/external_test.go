package natslog

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/ledgertest"
	"github.com/grantlog/grantlog/ledger/natslog/natstest"
)

func TestSync(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{Sync: "2m"})
	if _, err := Create(t.Context(), external(s)); !errors.Is(err, ledger.ErrDrift) || !strings.Contains(err.Error(), "sync_interval") {
		t.Errorf("Create on a server that does not sync: %v, want ErrDrift", err)
	}
	s.Kill()
	s.Configure(t, "always")
	s.Start(t)
	l := newLog(t, external(s)) // so the stream that could not be used was not left behind
	fill(t, l, 1)
	s.Kill()
	s.Configure(t, "1s")
	s.Start(t)
	if err := reconnect(t, l); !errors.Is(err, ledger.ErrDrift) || !strings.Contains(err.Error(), "sync_interval") {
		t.Errorf("Verify after the server was started without syncing: %v, want ErrDrift", err)
	}
	confirmed := external(s)
	confirmed.External.Monitors, confirmed.External.SyncConfirmed = nil, true
	if l, err := Open(t.Context(), confirmed); err != nil {
		t.Errorf("Open when told that somebody has seen to it: %v", err)
	} else {
		l.Close()
	}
}

func TestMonitors(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{})
	newLog(t, external(s))
	other := natstest.Start(t, natstest.Config{Name: "other"})
	for _, tt := range []struct {
		monitor, text string
	}{
		{s.Monitor, ""},
		{s.Monitor + "/", ""},
		{other.Monitor, `server "natstest" keeps the log`},
		{"http://127.0.0.1:1", "ask how the broker syncs"},
		{s.Monitor + "/jsz", "404"},
	} {
		c := external(s)
		c.External.Monitors = []string{tt.monitor}
		l, err := Open(t.Context(), c)
		if err == nil {
			l.Close()
		}
		if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("Open with the monitoring of %s: %v, want an error that says %q", tt.monitor, err, tt.text)
		}
	}
}

func TestMaxPayload(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{Extra: "max_payload: 500000"})
	if _, err := Create(t.Context(), external(s)); err == nil || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("Create on a server that takes small messages only: %v, want an error that says so", err)
	}
}

func TestNoJetStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config{Extra: "accounts { A { users: [{user: a, password: a}] } }\nno_auth_user: a"})
	if _, err := Create(t.Context(), external(s)); err == nil || ledger.IsQuarantine(err) {
		t.Errorf("Create without JetStream: %v, want an error that is no lost past", err)
	}
}

// TestTLS connects with a certificate of the server to check and an nkey to sign with.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, cert, key := certificates(t)
	var seed string
	public := newKey(t, &seed)
	s := natstest.Start(t, natstest.Config{Extra: fmt.Sprintf(
		"tls { cert_file: %s, key_file: %s }\nauthorization { users: [ { nkey: %s } ] }", strconv.Quote(cert), strconv.Quote(key), public)})
	full := External{URL: s.URL, CA: ca, Seed: seed, SyncConfirmed: true}
	l := newLog(t, Config{External: &full, Logger: quiet})
	fill(t, l, 1)
	noCA, noSeed, otherSeed := full, full, full
	noCA.CA, noSeed.Seed = "", ""
	newKey(t, &otherSeed.Seed)
	for name, c := range map[string]External{"without the authority": noCA, "without a seed": noSeed, "with another seed": otherSeed} {
		if l, err := Open(t.Context(), Config{External: &c, Logger: quiet}); err == nil {
			l.Close()
			t.Errorf("Open %s succeeded", name)
		}
	}
}

// certificates writes an authority, and a certificate of it for loopback with its key.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "test"},
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = write("cert.pem", "CERTIFICATE", der)
	return cert, cert, write("key.pem", "PRIVATE KEY", pkcs8)
}

// TestCluster runs three servers, with the stream on each.
func TestCluster(t *testing.T) {
	t.Parallel()
	var urls, monitors []string
	servers := natstest.StartCluster(t, 3)
	for _, s := range servers {
		urls = append(urls, s.URL)
		monitors = append(monitors, s.Monitor)
	}
	c := Config{Replicas: 3, External: &External{URL: strings.Join(urls, ","), Monitors: monitors}, Logger: quiet, settling: 100 * time.Millisecond}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err := adminAt(t, c.External.URL).AccountInfo(ctx)
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the cluster has no leader after 20 s: %v", err)
		}
	}
	ledgertest.Conformance(t, func(t *testing.T) func() (ledger.Log, error) {
		createAgain(t, c).Close()
		t.Cleanup(func() { deleteStreamAt(t, c.External.URL) })
		return func() (ledger.Log, error) { return Open(t.Context(), c) }
	})

	few := *c.External
	few.Monitors = monitors[:2]
	fewer := c
	fewer.External = &few
	if _, err := Create(t.Context(), fewer); err == nil || !strings.Contains(err.Error(), "none of the monitoring addresses") {
		t.Errorf("Create without the monitoring of a server: %v, want an error", err)
	}
	l := createAgain(t, c) // so that one left no stream behind
	defer l.Close()
	fill(t, l, 5)
	one := c
	one.Replicas = 1
	if _, err := Open(t.Context(), one); !errors.Is(err, ledger.ErrDrift) || !strings.Contains(err.Error(), "num_replicas is 3") {
		t.Errorf("Open of 3 replicas as 1: %v, want ErrDrift", err)
	}

	// A server dies, be it the leader or not: nothing is lost, and nothing looks lost.
	ended := follow(t, l, 1)
	info, err := l.info(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range servers {
		if info.Cluster.Leader == fmt.Sprint("natstest", i) {
			s.Kill()
		}
	}
	for end := time.Now().Add(30 * time.Second); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := l.Append(ctx, edge, []byte("after"))
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("Append, 30 s after a server died: %v", err)
		}
	}
	got, err := take(t, l, 1, 7)
	for i, m := range got {
		if m.Seq != uint64(i+1) {
			t.Errorf("message %d in turn is %d", i+1, m.Seq)
		}
	}
	if err != nil {
		t.Errorf("Read after a server died: %v", err)
	}
	select {
	case err := <-ended:
		if ledger.IsQuarantine(err) {
			t.Errorf("the reader ended with %v, which says that the past is lost", err)
		}
	default: // its connection was to another server
	}
}

// createAgain creates a log whose stream was just deleted: for a moment the servers of
// a cluster may not agree that it is.
func createAgain(t *testing.T, c Config) *Log {
	t.Helper()
	for tries := 0; ; tries++ {
		l, err := Create(t.Context(), c)
		if err == nil {
			return l
		}
		if tries == 20 {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
