// Package authzen is the AuthZEN Authorization API 1.0 of the OpenID Foundation over
// grantlog's own stores: enforcement points that speak the standard ask the same
// evaluator at the same views as the native API. Nothing is decided here.
//
//	POST /access/v1/evaluation         may a subject do this to a resource?
//	POST /access/v1/evaluations        many such questions at one revision
//	POST /access/v1/search/subject     who may?
//	POST /access/v1/search/resource    to which resources?
//	POST /access/v1/search/action      what may it do?
//	GET  /.well-known/authzen-configuration
//
// These are about one store, which the server has by default. Those of any other are
// under /stores/{store}, with the configuration where the standard has that of a decision
// point whose URL has a path: at /.well-known/authzen-configuration/stores/{store}.
//
// # What stands for what
//
//	subject.type, subject.id         a subject, never a userset or a wildcard
//	resource.type, resource.id       an object
//	action.name                      a relation of the resource's type
//	subject.properties.NAME          the condition parameter subject_NAME
//	resource.properties.NAME         resource_NAME
//	action.properties.NAME           action_NAME
//	context.NAME                     NAME
//
// A property wins over what is stored with a grant for its parameter, and what no
// property gives is as stored: so a grant may hold what is true of its resource by
// default, and the enforcement point may know better. Context is below what is stored,
// as in the native API. A property or a part of the context that is null is not given.
//
// Among many evaluations, a subject, action, resource or context that an item does not
// have is the request's. One that it has, if only as null, is as it would be alone: of the
// request's, nothing fills it in but the type, where it has an id without one.
//
// Ids are escaped, see [escape]: the standard allows any text.
//
// # Where there is no answer
//
// An evaluation that has none, because it names what the model does not have or lacks a
// parameter of a condition, is an HTTP error, and within many evaluations a decision
// false with the error in its context. A search lists what is known, and names in its
// context what has no answer.
package authzen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/decide"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	"github.com/grantlog/grantlog/query"
)

// Limits of one request.
const (
	maxBody        = 1 << 20 // bytes of a request
	maxEvaluations = 1000    // of one request
	maxPage        = 1000    // items of a page; a request may ask for fewer
)

// Config is what a [Service] needs. All but Store, URL and Now is required.
type Config struct {
	Projector *projector.Projector
	Engine    *query.Engine

	// Store is the store of requests that name none; zero: the only one there is.
	Store ledger.ID

	// URL is under which enforcement points reach the server, without a slash at its end,
	// such as https://pdp.example.com; if empty, http:// and the host that a request names.
	URL string

	// MaxWait is how long a page of another node is waited for.
	MaxWait time.Duration

	// Fault returns what an error is to a caller, as an HTTP status and a message. What is
	// the server's own fault has status 500 or above.
	Fault func(context.Context, error) (status int, message string)

	// Checked and Listed count what was asked: each question, and each search by what it
	// is of (objects, subjects or relations).
	Checked func(allowed bool, err error, took time.Duration)
	Listed  func(of string, err error, took time.Duration)

	Now func() time.Time // the clock that questions are held against; time.Now if nil
}

// A Service answers the API. It is safe for concurrent use.
type Service struct {
	cfg Config

	mu     sync.Mutex // guards the fields below
	onlyAt ledger.Revision
	only   ledger.ID // the only live store at that revision of the system store
	onlyIs error     // or why there is none
}

// New returns a Service that does nothing until it is asked.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg}
}

// Mount gives mux the paths of the API.
func (s *Service) Mount(mux *http.ServeMux) {
	for path, answer := range map[string]func(context.Context, ledger.ID, model.Value) (any, error){
		"evaluation":      s.evaluation,
		"evaluations":     s.evaluations,
		"search/subject":  s.searchSubjects,
		"search/resource": s.searchResources,
		"search/action":   s.searchActions,
	} {
		h := s.asked(answer)
		mux.Handle("/access/v1/"+path, h)
		mux.Handle("/stores/{store}/access/v1/"+path, h)
	}
	const known = "/.well-known/authzen-configuration"
	mux.HandleFunc(known, s.configuration)
	mux.HandleFunc(known+"/stores/{store}", s.configuration)
	for _, path := range []string{"/access", "/access/", "/stores/{store}/access", "/stores/{store}/access/", known + "/"} {
		mux.HandleFunc(path, s.nothing)
	}
}

// nothing answers for the paths below those of the API that are none of them, so that
// what they answer has the form of all its answers.
func (s *Service) nothing(w http.ResponseWriter, r *http.Request) {
	identify(w, r)
	s.fail(w, r, &httpError{http.StatusNotFound, "this path is none of the API: /.well-known/authzen-configuration tells them"})
}

// An httpError is a fault of the request as HTTP has it.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

// asked returns a handler that reads a request and writes what answer says to it.
func (s *Service) asked(answer func(context.Context, ledger.ID, model.Value) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identify(w, r)
		defer func() {
			if p := recover(); p != nil { // a bug, told to the log alone
				s.fail(w, r, fmt.Errorf("panic in a handler: %v\n%s", p, debug.Stack()))
			}
		}()
		var message any
		body, err := readBody(w, r)
		if err == nil {
			var store ledger.ID
			if store, err = s.store(r.PathValue("store")); err == nil {
				message, err = answer(r.Context(), store, body)
			}
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		write(w, http.StatusOK, message)
	})
}

// identify gives the answer the id that its request has.
func identify(w http.ResponseWriter, r *http.Request) {
	const id = "X-Request-Id"
	if ids, ok := r.Header[id]; ok {
		w.Header()[id] = ids
	}
}

// fail answers with an error: a status, and a string of JSON that says what is wrong.
func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, message := 0, ""
	if own := (*httpError)(nil); errors.As(err, &own) {
		status, message = own.status, own.message
	} else {
		status, message = s.cfg.Fault(r.Context(), err)
	}
	write(w, status, message)
}

func write(w http.ResponseWriter, status int, message any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(message) // a caller that is gone needs no answer
}

// readBody reads the object of JSON that a request is.
func readBody(w http.ResponseWriter, r *http.Request) (model.Value, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return model.Value{}, &httpError{http.StatusMethodNotAllowed, "the method must be POST"}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return model.Value{}, malformed("", "the Content-Type must be application/json")
	}
	if coding := strings.Join(r.Header.Values("Content-Encoding"), ", "); coding != "" && !strings.EqualFold(coding, "identity") {
		return model.Value{}, malformed("", "the Content-Encoding must be identity, not %+q", coding)
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return model.Value{}, &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the request must be at most %d bytes", large.Limit)}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return model.Value{}, &httpError{http.StatusRequestTimeout, "the body of the request did not come in time"}
	}
	if err != nil {
		return model.Value{}, malformed("", "the request could not be read: %s", err)
	}
	v, err := model.ParseJSON(text)
	if err != nil {
		return model.Value{}, malformed("", "%s", err)
	}
	if v.Kind != model.MapValue {
		return model.Value{}, malformed("", "the request must be an object")
	}
	return v, nil
}

func malformed(field, format string, args ...any) error {
	return ledger.Reject(ledger.CodeMalformed, field, format, args...)
}

// noStore is why a request that names no store has none.
func noStore(why string) error {
	return &httpError{http.StatusNotFound, why + ": ask under /stores/{store}/access/v1/, or start the server with --authzen-store"}
}

// store returns the store that a path names, or for "" the one by default.
func (s *Service) store(name string) (ledger.ID, error) {
	if name != "" {
		id, err := ledger.ParseID(name)
		if err != nil || id.IsZero() {
			return id, malformed("store", "%+q is not the ULID of a store", name)
		}
		return id, nil
	}
	if !s.cfg.Store.IsZero() {
		return s.cfg.Store, nil
	}
	x := s.cfg.Projector.Index()
	h, _ := x.Head(ledger.System) // whose entries alone make stores live or not
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onlyAt != h.Revision || h.Revision == 0 {
		only, is, err := onlyStore(x)
		if err != nil {
			return only, err
		}
		s.onlyAt, s.only, s.onlyIs = h.Revision, only, is
	}
	return s.only, s.onlyIs
}

// onlyStore returns the only live store, or as is why there is none.
func onlyStore(x *index.Index) (only ledger.ID, is, err error) {
	const page = 1000
	var after ledger.ID
	for {
		heads, err := x.Stores(after, page)
		if err != nil {
			return only, nil, err
		}
		for _, h := range heads {
			if h.Status != decide.Live {
				continue
			}
			if !only.IsZero() {
				return ledger.ID{}, noStore("there are several stores"), nil
			}
			only = h.Store
		}
		if len(heads) < page {
			break
		}
		after = heads[page-1].Store
	}
	if only.IsZero() {
		is = noStore("there is no store yet")
	}
	return only, is, nil
}

// view returns a view of a live store as fresh as f asks; the caller closes it.
func (s *Service) view(ctx context.Context, store ledger.ID, f projector.Freshness) (*index.View, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.MaxWait)
	defer cancel()
	v, err := s.cfg.Projector.View(ctx, store, f)
	if err != nil {
		return nil, err
	}
	if v.Status() != decide.Live {
		v.Close()
		return nil, fmt.Errorf("store %s is deleted: %w", store, ledger.ErrNotFound)
	}
	return v, nil
}

// ask opens the view that the questions of one request share; the caller closes it.
func (s *Service) ask(ctx context.Context, store ledger.ID) (*index.View, *query.Asking, error) {
	v, err := s.view(ctx, store, projector.Freshness{Kind: projector.Any})
	if err != nil {
		return nil, nil, err
	}
	asking, err := s.cfg.Engine.Ask(v, ledger.ID{}, s.cfg.Now().UnixNano())
	if err != nil {
		v.Close()
		return nil, nil, err
	}
	return v, asking, nil
}

// A configuration is the metadata of a decision point.
type configuration struct {
	Point       string `json:"policy_decision_point"`
	Evaluation  string `json:"access_evaluation_endpoint"`
	Evaluations string `json:"access_evaluations_endpoint"`
	Subject     string `json:"search_subject_endpoint"`
	Resource    string `json:"search_resource_endpoint"`
	Action      string `json:"search_action_endpoint"`
}

// configuration says where the API of a store is, if there is the store.
func (s *Service) configuration(w http.ResponseWriter, r *http.Request) {
	identify(w, r)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		s.fail(w, r, &httpError{http.StatusMethodNotAllowed, "the method must be GET"})
		return
	}
	base := s.cfg.URL
	if base == "" {
		base = "http://" + r.Host
	}
	name := r.PathValue("store")
	store, err := s.store(name)
	if err == nil {
		var v *index.View
		if v, err = s.view(r.Context(), store, projector.Freshness{Kind: projector.Any}); err == nil {
			v.Close()
		}
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if name != "" {
		base += "/stores/" + name
	}
	at := base + "/access/v1/"
	write(w, http.StatusOK, configuration{base, at + "evaluation", at + "evaluations", at + "search/subject", at + "search/resource", at + "search/action"})
}
