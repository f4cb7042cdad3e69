// Package lint holds the rules of the project that neither the compiler nor
// staticcheck knows: which package may import which, what go.mod may name, and which
// words name things. Each rule is a function over plain values, so that each is also
// run on values that break it.
package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/grantlog/grantlog"

// layers says which packages of the module each package may import: those it names,
// and all that they may import. A package that is not named here is a fault, so that
// a new one has to take its place in the order.
//
//	tuple, wire ← model ← ledger ← decide, seal ← index ← projector ← query ← faces ← cmd, ops
//	dsl stands beside query, natslog and ledgertest beside ledger
var layers = map[string][]string{
	"ledger/tuple":            {},
	"ledger/wire":             {},
	"ledger/model":            {"ledger/tuple", "ledger/wire"},
	"ledger":                  {"ledger/model"},
	"ledger/natslog":          {"ledger"},
	"ledger/natslog/natstest": {"ledger/natslog"},
	"ledger/ledgertest":       {"ledger"},
	"ledger/decide":           {"ledger"},
	"ledger/seal":             {"ledger"},
	"ledger/dsl":              {"ledger"},
	"projector/index":         {"ledger/decide", "ledger/seal"},
	"projector":               {"projector/index"},
	"query":                   {"projector", "ledger/dsl"},
	"query/audit":             {"query"},
	"query/querytest":         {"ledger/model"}, // the oracle shares no engine with what it checks
	"query/openfga":           {"query"},
	"query/authzen":           {"query"},
	"query/serve": {"query", "query/audit", "query/openfga", "query/authzen",
		"proto/grantlog/v1", "proto/grantlog/v1/grantlogv1connect"},

	"proto/grantlog/v1":                   {},
	"proto/grantlog/v1/grantlogv1connect": {"proto/grantlog/v1"},
}

// above is what may import anything: the program, and what operates it.
var above = []string{"cmd/", "ops/"}

// owners says which packages alone may import a dependency, tests included. A
// dependency is everything below its path.
var owners = []struct {
	why     string
	paths   []string
	allowed []string
}{
	{"natslog alone imports NATS", []string{"github.com/nats-io"}, []string{"ledger/natslog"}},
	{"index alone imports Pebble", []string{"github.com/cockroachdb/pebble"}, []string{"projector/index"}},
	{"dsl alone imports the OpenFGA parser and CEL",
		[]string{"github.com/openfga/language", "cel.dev", "github.com/google/cel-go", "github.com/antlr4-go"}, []string{"ledger/dsl"}},
	{"only the faces and cmd speak Connect and use generated types",
		[]string{"connectrpc.com", module + "/proto", "google.golang.org/protobuf", "google.golang.org/grpc"},
		[]string{"query/serve", "query/openfga", "query/authzen", "ledger/dsl", "cmd/", "ops/", "proto/"}},
	{"only dsl and the OpenFGA face use OpenFGA's types", []string{"github.com/openfga/api"}, []string{"ledger/dsl", "query/openfga"}},
	{"only the tests of clients use OpenFGA's client", []string{"github.com/openfga/go-sdk"}, []string{"cmd/"}},
}

// stdOnly is the packages that import the standard library and each other alone.
var stdOnly = []string{"ledger/tuple", "ledger/wire", "ledger/model"}

// fold is the packages from which no library may be reached whose answers can change
// between releases, or which does I/O other than the index's. What Pebble itself uses
// is its own affair: it is not looked into.
var (
	fold       = []string{"ledger/decide", "ledger/seal", "projector/index", "projector"}
	unfoldable = []string{"connectrpc.com", "github.com/nats-io", "cel.dev", "github.com/google/cel-go", "github.com/antlr4-go",
		"github.com/openfga", "google.golang.org/protobuf", "google.golang.org/grpc"}
	opaque = []string{"github.com/cockroachdb/pebble"}
)

// A pkg is what go list says of a package.
type pkg struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string // of its tests inside the package
	XTestImports []string // of its tests beside the package
}

// within reports whether path is one of the roots or below one. A root that ends with
// a slash is only what is below it.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
	})
}

// importFaults returns every import among the packages that breaks a rule.
func importFaults(packages []pkg) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	byPath := make(map[string]pkg)
	for _, p := range packages {
		byPath[p.ImportPath] = p
	}
	for _, p := range packages {
		name, ours := strings.CutPrefix(p.ImportPath, module+"/")
		if !ours {
			continue
		}
		if _, placed := layers[name]; !placed && !within(name, above) {
			fault("%s has no place in the order of layers; see ops/lint", name)
		}
		allowed := reach(name)
		for _, path := range p.Imports {
			if dep, ours := strings.CutPrefix(path, module+"/"); ours && !within(name, above) && !slices.Contains(allowed, dep) {
				fault("%s imports %s, which does not stand left of it", name, dep)
			}
			if slices.Contains(stdOnly, name) && !byPath[path].Standard && !strings.HasPrefix(path, module+"/") {
				fault("%s imports %s; it may import the standard library alone", name, path)
			}
		}
		all := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		slices.Sort(all)
		for _, path := range slices.Compact(all) {
			for _, o := range owners {
				if within(path, o.paths) && !within(name, o.allowed) {
					fault("%s imports %s; %s", name, path, o.why)
				}
			}
		}
		if slices.Contains(fold, name) {
			for _, path := range forbiddenFrom(byPath, p.ImportPath) {
				fault("%s reaches %s; the fold may not", name, path)
			}
		}
	}
	return faults
}

// reach returns all that the package may import, at any distance.
func reach(name string) (all []string) {
	for _, dep := range layers[name] {
		all = append(append(all, dep), reach(dep)...)
	}
	return all
}

// forbiddenFrom returns a path of imports to each package forbidden to the fold.
func forbiddenFrom(byPath map[string]pkg, from string) (found []string) {
	seen := map[string]bool{}
	var visit func(path, trail string)
	visit = func(path, trail string) {
		if seen[path] || within(path, opaque) {
			return
		}
		seen[path] = true
		if within(path, unfoldable) {
			found = append(found, trail)
			return
		}
		for _, next := range byPath[path].Imports {
			visit(next, trail+" → "+next)
		}
	}
	visit(from, "")
	return found
}

func TestImports(t *testing.T) {
	packages := list(t)
	if n := len(packages); n < 100 {
		t.Fatalf("go list names %d packages; that cannot be all", n)
	}
	for _, f := range importFaults(packages) {
		t.Error(f)
	}
}

// list returns every package of the module and all that they depend on.
func list(t *testing.T) (packages []pkg) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,TestImports,XTestImports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("read the answer of go list: %v", err)
		}
		packages = append(packages, p)
	}
}

// TestImportFaults runs the rules on imports that break them, one at a time.
func TestImportFaults(t *testing.T) {
	ours := func(name string, imports ...string) pkg {
		return pkg{ImportPath: module + "/" + name, Imports: imports}
	}
	std := pkg{ImportPath: "strings", Standard: true}
	for _, tt := range []struct {
		name     string
		packages []pkg
		want     string // part of the one fault, or "" for none
	}{
		{"in order", []pkg{std, ours("ledger/model", "strings", module+"/ledger/tuple"), ours("projector", module+"/ledger")}, ""},
		{"backwards", []pkg{ours("ledger", module+"/projector")}, "ledger imports projector, which does not stand left"},
		{"sideways", []pkg{ours("ledger/decide", module+"/ledger/seal")}, "ledger/decide imports ledger/seal"},
		{"a new package", []pkg{ours("ledger/util")}, "ledger/util has no place"},
		{"the program imports anything of ours", []pkg{ours("cmd/grantlog", module+"/query/serve", module+"/ledger/natslog")}, ""},
		{"the query knows the language", []pkg{ours("query", module+"/ledger/dsl")}, ""},
		{"the fold knows the language", []pkg{ours("projector/index", module+"/ledger/dsl")}, "projector/index imports ledger/dsl"},
		{"a library in a pure package", []pkg{ours("ledger/model", "golang.org/x/exp/slices")}, "standard library alone"},
		{"NATS in the program", []pkg{ours("cmd/grantlog", "github.com/nats-io/nats.go")}, "natslog alone"},
		{"NATS in a test", []pkg{{ImportPath: module + "/ledger", TestImports: []string{"github.com/nats-io/nats.go"}}}, "natslog alone"},
		{"NATS in a test beside", []pkg{{ImportPath: module + "/ledger", XTestImports: []string{"github.com/nats-io/nats-server/v2/server"}}}, "natslog alone"},
		{"NATS where it belongs", []pkg{ours("ledger/natslog", "github.com/nats-io/nats.go")}, ""},
		{"Pebble's file system in the query", []pkg{ours("query", "github.com/cockroachdb/pebble/v2/vfs")}, "index alone"},
		{"CEL in the query", []pkg{ours("query", "cel.dev/cel-go/cel")}, "dsl alone"},
		{"generated types in the query", []pkg{ours("query", "google.golang.org/protobuf/proto")}, "only the faces"},
		{"the fold reaches protobuf", []pkg{
			ours("projector", "example.com/metrics"),
			{ImportPath: "example.com/metrics", Imports: []string{"google.golang.org/protobuf/proto"}},
		}, "projector reaches  → example.com/metrics → google.golang.org/protobuf/proto"},
		{"Pebble may use protobuf", []pkg{
			ours("projector/index", "github.com/cockroachdb/pebble/v2"),
			{ImportPath: "github.com/cockroachdb/pebble/v2", Imports: []string{"google.golang.org/protobuf/proto"}},
		}, ""},
		{"the fold reaches NATS through its own side", []pkg{
			ours("projector", module+"/ledger"),
			ours("ledger", "example.com/bus"),
			{ImportPath: "example.com/bus", Imports: []string{"github.com/nats-io/nats.go"}},
		}, "projector reaches"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			faults := importFaults(tt.packages)
			switch {
			case tt.want == "" && len(faults) != 0:
				t.Errorf("importFaults = %q, want none", faults)
			case tt.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], tt.want)):
				t.Errorf("importFaults = %q, want one with %q", faults, tt.want)
			}
		})
	}
}
