package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// folded are the files whose answers are recorded in the log's trees: the same bytes
// must give the same answer on every replica and in every release.
var folded = []string{
	"ledger/tuple/*.go", "ledger/wire/*.go", "ledger/model/*.go", "ledger/decide/*.go", "ledger/seal/*.go",
	"ledger/check.go", "ledger/codec.go", "ledger/command.go", "ledger/envelope.go", "ledger/json.go",
}

// quoting finds verbs that quote by the Unicode tables of the Go release; %+q does not.
var quoting = regexp.MustCompile(`%[-# 0-9.*]*q`)

// foldFaults returns what a folded file may not do.
func foldFaults(name string, src any) ([]string, error) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, name, src, 0)
	if err != nil {
		return nil, err
	}
	var faults []string
	fault := func(at token.Pos, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s: %s", files.Position(at), fmt.Sprintf(format, args...)))
	}
	for _, i := range f.Imports {
		switch path, _ := strconv.Unquote(i.Path.Value); path {
		case "unicode", "encoding/json", "math/rand", "math/rand/v2", "crypto/rand", "net/netip", "net", "os", "maps":
			fault(i.Pos(), "imports %s, whose answers differ between runs, machines or releases", path)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if n.Kind == token.STRING && quoting.MatchString(n.Value) {
				fault(n.Pos(), "%s quotes by the Unicode tables of the release; use %%+q", n.Value)
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				switch call := x.Name + "." + n.Sel.Name; call {
				case "time.Now", "time.Parse", "time.ParseDuration", "strconv.Quote", "strings.ToLower", "strings.ToUpper", "strings.EqualFold":
					fault(n.Pos(), "calls %s", call)
				}
			}
		case *ast.GoStmt:
			fault(n.Pos(), "starts a goroutine")
		}
		return true
	})
	return faults, nil
}

func TestFold(t *testing.T) {
	read := 0
	for _, pattern := range folded {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			read++
			faults, err := foldFaults(name, src)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range faults {
				t.Error(f)
			}
		}
	}
	if read < 15 {
		t.Errorf("only %d files are read; the list of folded files is wrong", read)
	}
}

func TestFoldFaults(t *testing.T) {
	for _, tt := range []struct {
		src  string
		want string // "" for none
	}{
		{`package p; var x = "%+q %d"`, ""},
		{`package p; import "time"; var x = time.Unix(0, 0)`, ""},
		{`package p; var x = "%q"`, "quotes"},
		{`package p; var x = "%-10q"`, "quotes"},
		{`package p; import "unicode"; var x = unicode.IsPrint('a')`, "imports unicode"},
		{`package p; import "encoding/json"; var x = json.Valid(nil)`, "imports encoding/json"},
		{`package p; import "time"; var x = time.Now()`, "time.Now"},
		{`package p; func f() { go f() }`, "goroutine"},
	} {
		faults, err := foldFaults("p.go", tt.src)
		if err != nil {
			t.Fatal(err)
		}
		if tt.want == "" && len(faults) > 0 || tt.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], tt.want)) {
			t.Errorf("foldFaults(%s) = %q, want %q", tt.src, faults, tt.want)
		}
	}
}
