// Package serve is the native API over the network: handlers that read requests into
// grantlog's own types, ask the ledger, the projector or a question's engine, and
// write the answer; and the one port on which Connect, gRPC, gRPC-Web and plain JSON
// over HTTP are spoken, by the other faces too, beside health, readiness, reflection and
// metrics.
//
// No rule about permissions lives here. What a caller may have done wrong becomes an
// error with a code, a field and the rule in one place, [Server.rpcError].
package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/proto/grantlog/v1/grantlogv1connect"
	"github.com/grantlog/grantlog/query"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/grantlog/grantlog/query/authzen"
	"github.com/grantlog/grantlog/query/openfga"
)

// Limits of requests and of the server's patience.
const (
	maxRequest      = 1 << 20          // bytes of one request message
	maxQuestions    = 8 << 20          // of one with questions: a batch has up to 10,000
	maxHeader       = 32 << 10         // bytes of a request's headers
	compressFrom    = 1 << 10          // bytes of an answer from which it is compressed, if the caller offers to read it so
	maxStreams      = 1000             // requests under way on one HTTP/2 connection
	headerTimeout   = 5 * time.Second  // for the headers of a request
	bodyTimeout     = 30 * time.Second // for the headers and the body of a request, or for a piece of a bundle
	idleTimeout     = 2 * time.Minute  // between two requests of a connection
	sendTimeout     = 30 * time.Second // for a caller to take one piece of a stream
	shutdownTimeout = 10 * time.Second // for requests under way when the server ends
)

// Config is what a [Server] needs. Ledger, Projector and Engine are required.
type Config struct {
	Ledger    *ledger.Ledger
	Projector *projector.Projector
	Engine    *query.Engine

	// Metrics is shown at /metrics and counts checks; the caller also gives its
	// methods to the ledger and the projector. Nil: a new one, which counts checks alone.
	Metrics *Metrics

	// Models bounds the models that are written through this server.
	Models dsl.Limits

	// Signer signs checkpoints; nil on a replica that has no key. The caller closes it
	// after the server.
	Signer *audit.Signer

	// MaxWait is how long a request waits for a decision or for its freshness if its
	// caller sets no earlier deadline; 30 seconds if zero.
	MaxWait time.Duration

	// Scratch is the directory for bundles while they are verified; the system's own for
	// temporary files if empty. What is made there is removed again.
	Scratch string

	// AuthZENStore is the store of AuthZEN's requests that name none; zero: the only one
	// there is. AuthZENURL is under which enforcement points reach the server, see
	// [authzen.Config].
	AuthZENStore ledger.ID
	AuthZENURL   string

	Logger *slog.Logger     // slog.Default if nil
	Now    func() time.Time // the clock that questions are held against; time.Now if nil

	bodyTimeout time.Duration // tests have less patience; the constant if zero
}

// A Server answers the native API. Its methods may be called concurrently.
type Server struct {
	cfg      Config
	handler  http.Handler
	caughtUp atomic.Bool     // the replica has once folded all that the log held
	restores chan struct{}   // holds one value while a bundle is being restored
	serving  context.Context // done when Serve begins to end; streams that follow end then
	end      context.CancelFunc

	searchFor ledger.Revision // entries a stream looks at before it says how far it got
}

var (
	_ grantlogv1connect.LedgerServiceHandler     = (*Server)(nil)
	_ grantlogv1connect.PermissionServiceHandler = (*Server)(nil)
	_ grantlogv1connect.StoreServiceHandler      = (*Server)(nil)
	_ grantlogv1connect.AuditServiceHandler      = (*Server)(nil)
)

// services is the names of what is served, for health and reflection.
var services = []string{
	grantlogv1connect.LedgerServiceName,
	grantlogv1connect.PermissionServiceName,
	grantlogv1connect.StoreServiceName,
	grantlogv1connect.AuditServiceName,
	openfga.ServiceName,
}

// New returns a Server that does nothing until it is asked.
func New(cfg Config) *Server {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.bodyTimeout == 0 {
		cfg.bodyTimeout = bodyTimeout
	}
	s := &Server{cfg: cfg, searchFor: progressEntries, restores: make(chan struct{}, 1)}
	s.serving, s.end = context.WithCancel(context.Background())
	cfg.Metrics.watch(cfg.Projector)

	options := append(HandlerOptions(), connect.WithRecover(s.recovered))
	mux := http.NewServeMux()
	mux.Handle(grantlogv1connect.NewLedgerServiceHandler(s, options...))
	questions, permissions := grantlogv1connect.NewPermissionServiceHandler(s, append(options, connect.WithReadMaxBytes(maxQuestions))...)
	mux.Handle(questions, permissions)
	for _, stream := range []string{grantlogv1connect.PermissionServiceStreamObjectsProcedure,
		grantlogv1connect.PermissionServiceStreamSubjectsProcedure, grantlogv1connect.PermissionServiceStreamTuplesProcedure} {
		mux.Handle(stream, sendWithin(sendTimeout, permissions))
	}
	path, stores := grantlogv1connect.NewStoreServiceHandler(s, options...)
	mux.Handle(path, stores)
	mux.Handle(grantlogv1connect.StoreServiceRestoreStoreProcedure, piecesWithin(cfg.bodyTimeout, stores)) // a bundle is long
	path, audit := grantlogv1connect.NewAuditServiceHandler(s, options...)
	mux.Handle(path, sendWithin(sendTimeout, audit))

	authzen.New(authzen.Config{
		Projector: cfg.Projector, Engine: cfg.Engine, Store: cfg.AuthZENStore, URL: cfg.AuthZENURL, MaxWait: cfg.MaxWait,
		Fault: s.httpFault, Checked: cfg.Metrics.check, Listed: cfg.Metrics.list, Now: cfg.Now,
	}).Mount(mux)

	limit := connect.WithReadMaxBytes(maxRequest)
	reflector := grpcreflect.NewStaticReflector(services...)
	mux.Handle(grpchealth.NewHandler(health{cfg.Projector}, limit))
	mux.Handle(grpcreflect.NewHandlerV1(reflector, limit))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, limit))
	mux.Handle("GET /metrics", cfg.Metrics.handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	fga := sendWithin(sendTimeout, openfga.New(openfga.Config{
		Ledger: cfg.Ledger, Projector: cfg.Projector, Engine: cfg.Engine, Models: cfg.Models, MaxWait: cfg.MaxWait,
		Checked: cfg.Metrics.check, Listed: cfg.Metrics.listOrCut, Logger: cfg.Logger, Now: cfg.Now,
	}).Handler(connect.WithReadMaxBytes(maxRequest), connect.WithCompressMinBytes(compressFrom)))
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux would answer a path with an empty part, as of a missing id, by a redirect.
		if openfga.Owns(r.URL.Path) {
			fga.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	return s
}

// HandlerOptions returns the options of every handler of the native API: the size
// limit, compression, and codecs that refuse a request with fields unknown here. A
// benchmark that compares handlers gives them to both.
func HandlerOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCompressMinBytes(compressFrom),
		connect.WithCodec(binaryCodec{}),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
	}
}

// Handler returns everything the server answers, for a listener of the caller's own. How
// long a request may take to arrive is that listener's to limit.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on l, HTTP/1.1 and HTTP/2 without TLS, until ctx is done. It then
// accepts nothing more, lets requests under way end, for a while, and closes l. It is
// called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           s.handler,
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		// The end of a body ends its limit, so streams that follow go on. It is not for the
		// handlers to set: where they leave a body unread, net/http reads it before it answers.
		ReadTimeout: s.cfg.bodyTimeout,
		// No WriteTimeout: it would end streams that follow.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // ends when the server is shut down, or fails at once
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.end()
	wait, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(wait)
	if errors.Is(err, context.DeadlineExceeded) {
		s.cfg.Logger.Warn("ending with requests still under way")
		err = server.Close()
	}
	<-served
	return err
}

// recovered answers for a handler that panicked: a bug, told to the log alone.
func (s *Server) recovered(ctx context.Context, spec connect.Spec, _ http.Header, r any) error {
	s.cfg.Logger.ErrorContext(ctx, "panic in a handler", "procedure", spec.Procedure, "panic", r, "stack", string(debug.Stack()))
	return connect.NewError(connect.CodeInternal, errors.New("internal error"))
}

// health says over gRPC's health protocol whether this replica may be asked: not
// while it is quarantined. One that lags still answers.
type health struct{ projector *projector.Projector }

// Check answers for the server as a whole and for each of its services.
func (h health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	known := req.Service == ""
	for _, name := range services {
		known = known || req.Service == name
	}
	if !known {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no service %q", req.Service))
	}
	if h.projector.Quarantine() != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// A Readiness is what /readyz answers, as JSON, with status 200 or 503.
type Readiness struct {
	Ready  bool   `json:"ready"`            // the replica should be sent requests
	Reason string `json:"reason,omitempty"` // why not

	Log         string  `json:"log"`                   // id of the log
	Applied     uint64  `json:"applied"`               // sequence of the newest message folded here
	Head        uint64  `json:"head"`                  // sequence of the newest message known to be in the log
	LagSeconds  float64 `json:"lag_seconds"`           // how long ago the newest folded message was stored, if there are newer ones
	Epoch       uint64  `json:"epoch"`                 // losses accepted so far
	FoldVersion uint64  `json:"fold_version"`          // number of the deciding rules in force
	Connected   bool    `json:"connected"`             // the log is being read
	Quarantined bool    `json:"quarantined"`           // nothing is answered until an operator decides
	LowSpace    bool    `json:"low_space"`             // commands and the fold wait for disk space
	LogFailure  string  `json:"log_failure,omitempty"` // why the log is not being read
}

// Readiness returns whether requests should be sent here: the replica is not
// quarantined, takes commands, and has once caught up with the log since it started.
func (s *Server) Readiness() Readiness {
	st := s.cfg.Projector.Status()
	r := Readiness{
		Log: st.Log.String(), Applied: st.Applied, Head: st.Head, LagSeconds: st.Lag.Seconds(), Epoch: st.Epoch, FoldVersion: s.cfg.Projector.Fold(),
		Connected: st.Connected, Quarantined: st.Quarantined != nil, LowSpace: st.NoSpace,
	}
	if st.Failure != nil {
		r.LogFailure = st.Failure.Error()
	}
	if st.CaughtUp() {
		s.caughtUp.Store(true)
	}
	if err := s.cfg.Projector.Ready(); err != nil { // a quarantine is among these
		r.Reason = err.Error()
	} else if !s.caughtUp.Load() {
		r.Reason = "still folding the log for the first time since the start"
	}
	r.Ready = r.Reason == ""
	return r
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	r := s.Readiness()
	w.Header().Set("Content-Type", "application/json")
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(r) // a caller that is gone needs no answer
}

// patience returns a context that ends when the server should stop waiting for the
// request: a little before the caller does, so that the answer still reaches it.
func (s *Server) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	wait := s.cfg.MaxWait
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		wait = min(wait, left-min(left/10, 50*time.Millisecond))
	}
	return context.WithTimeout(ctx, wait)
}
