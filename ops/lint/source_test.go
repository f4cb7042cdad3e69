package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/mod/modfile"
)

const root = "../.." // of the module, from this package

// rivals are the servers that grantlog stands beside and never on.
var rivals = []string{"github.com/openfga/openfga", "github.com/authzed/spicedb"}

// modFaults returns what go.mod may not say: a build must need nothing but what the
// module proxy has under the names that the code imports.
func modFaults(data []byte) (faults []string) {
	f, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		return []string{err.Error()}
	}
	if f.Module == nil || f.Module.Mod.Path != module {
		faults = append(faults, "the module is not "+module)
	}
	for _, r := range f.Replace {
		faults = append(faults, fmt.Sprintf("replaces %s", r.Old.Path))
	}
	for _, x := range f.Exclude {
		faults = append(faults, fmt.Sprintf("excludes %s", x.Mod.Path))
	}
	for _, x := range f.Tool {
		faults = append(faults, fmt.Sprintf("has the tool %s; tools are pinned in ops/tools/go.mod", x.Path))
	}
	for _, r := range f.Require {
		if within(r.Mod.Path, rivals) {
			faults = append(faults, fmt.Sprintf("requires %s", r.Mod.Path))
		}
	}
	return faults
}

func TestModule(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range modFaults(data) {
		t.Errorf("go.mod: %s", f)
	}
}

func TestModFaults(t *testing.T) {
	const head = "module " + module + "\n\ngo 1.26.0\n\n"
	for _, tt := range []struct{ name, in, want string }{
		{"fine", head + "require github.com/google/uuid v1.6.0\n", ""},
		{"replace", head + "replace github.com/google/uuid => ../uuid\n", "replaces"},
		{"exclude", head + "exclude github.com/google/uuid v1.6.0\n", "excludes"},
		{"tool", head + "tool honnef.co/go/tools/cmd/staticcheck\n", "has the tool"},
		{"a rival, indirectly", head + "require github.com/openfga/openfga v1.8.0 // indirect\n", "requires github.com/openfga/openfga"},
		{"other name", "module example.com/fork\n", "the module is not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := modFaults([]byte(tt.in))
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("modFaults = %q, want %q", got, tt.want)
			}
		})
	}
}

// otherWords are words for ideas that have a name here (DESIGN.md), with that name.
// They are looked for in what the code and the API declare, not in prose.
var otherWords = map[string]string{
	"relationship": "Tuple",
	"acl":          "Tuple or Model",
	"namespace":    "Type or store",
	"policy":       "Model",
	"event":        "Entry",
	"transaction":  "Entry",
	"offset":       "Revision or Position",
	"cursor":       "Revision, Position or page token",
	"consistency":  "Freshness, unless of a proof",
	"zookie":       "Token",
}

// marks are notes to oneself, which belong in an issue or nowhere. They are spelled in
// two parts, so that this file has none.
var marks = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b|(?i)not (yet )?imple` + `mented`)

// declaredWord says which other word an identifier holds, or "".
func declaredWord(name string) string {
	all := words(name)
	proof := len(all) > 1 && slices.ContainsFunc(all, func(w string) bool { return proofWords[w] })
	for _, w := range all {
		if _, other := otherWords[w]; other && !(proof && w == "consistency") {
			return w
		}
	}
	return ""
}

// proofWords are those beside which "consistency" is that of two trees.
var proofWords = map[string]bool{"proof": true, "proofs": true, "prove": true, "check": true}

// words splits CamelCase and snake_case into lower-case words.
func words(name string) (out []string) {
	var word []rune
	flush := func() {
		if len(word) > 0 {
			out = append(out, strings.ToLower(string(word)))
			word = nil
		}
	}
	runes := []rune(name)
	for i, r := range runes {
		switch {
		case r == '_' || unicode.IsDigit(r):
			flush()
			continue
		case unicode.IsUpper(r) && (i == 0 || !unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])):
			flush()
		}
		word = append(word, r)
	}
	flush()
	return out
}

// sourceFaults returns what a Go file breaks: exported names without a comment or with
// another word for an idea, and marks.
func sourceFaults(name string, src []byte) (faults []string) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return []string{err.Error()}
	}
	fault := func(at token.Pos, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s: %s", files.Position(at), fmt.Sprintf(format, args...)))
	}
	for _, m := range marks.FindAllIndex(src, -1) {
		fault(f.FileStart+token.Pos(m[0]), "the mark %q; do it, or write an issue", src[m[0]:m[1]])
	}
	if strings.HasSuffix(name, "_test.go") {
		return faults
	}
	declared := func(id *ast.Ident, documented bool) {
		if !id.IsExported() {
			return
		}
		if !documented {
			fault(id.Pos(), "%s has no comment", id.Name)
		}
		if w := declaredWord(id.Name); w != "" {
			fault(id.Pos(), "%s says %q; here that is %s", id.Name, w, otherWords[w])
		}
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			// What a known interface asks for explains itself.
			usual := d.Recv != nil && slices.Contains([]string{"String", "Error", "Unwrap", "Is", "Len", "Less", "Swap"}, d.Name.Name)
			if d.Recv == nil || receiverExported(d.Recv) {
				declared(d.Name, d.Doc != nil || usual)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					declared(s.Name, d.Doc != nil || s.Doc != nil)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						declared(id, d.Doc != nil || s.Doc != nil || s.Comment != nil)
					}
				}
			}
		}
	}
	return faults
}

func receiverExported(recv *ast.FieldList) bool {
	t := recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

var protoName = regexp.MustCompile(`(?m)^\s*(?:message|enum|service|rpc)\s+(\w+)|^\s*(?:repeated\s+)?[\w.]+\s+(\w+)\s*=\s*\d+\s*[;\[]`)

// protoFaults returns the names of a .proto file that use another word for an idea.
// That everything has a comment is buf's to check.
func protoFaults(name string, src []byte) (faults []string) {
	for _, m := range protoName.FindAllSubmatch(src, -1) {
		id := string(m[1]) + string(m[2])
		if w := declaredWord(id); w != "" {
			faults = append(faults, fmt.Sprintf("%s: %s says %q; here that is %s", name, id, w, otherWords[w]))
		}
	}
	return faults
}

func TestSource(t *testing.T) {
	seen := map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		check := sourceFaults
		switch ext := filepath.Ext(path); {
		case strings.HasSuffix(path, ".pb.go"), strings.HasSuffix(path, ".connect.go"):
			return nil
		case ext == ".proto":
			check = protoFaults
		case ext != ".go":
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen[filepath.Ext(path)]++
		for _, f := range check(path, src) {
			t.Error(f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen[".go"] < 20 || seen[".proto"] < 4 {
		t.Errorf("looked at %v files; that cannot be all", seen)
	}
}

func TestSourceFaults(t *testing.T) {
	for _, tt := range []struct{ name, file, in, want string }{
		{"fine", "a.go", "package a\n\n// F is fine.\nfunc F() {}\n\nfunc g() {}\n", ""},
		{"group with a comment", "a.go", "package a\n\n// The limits.\nconst (\n\tA = 1\n\tB = 2\n)\n", ""},
		{"line comment", "a.go", "package a\n\nconst A = 1 // the first\n", ""},
		{"no comment", "a.go", "package a\n\nfunc F() {}\n", "a.go:3:6: F has no comment"},
		{"method without comment", "a.go", "package a\n\n// T is fine.\ntype T int\n\nfunc (t *T) Do() {}\n", "Do has no comment"},
		{"usual method", "a.go", "package a\n\n// T is fine.\ntype T int\n\nfunc (t T) String() string { return \"\" }\n", ""},
		{"method of a hidden type", "a.go", "package a\n\ntype t int\n\nfunc (t) Do() {}\n", ""},
		{"other word", "a.go", "package a\n\n// ReadOffset is not our word.\nfunc ReadOffset() {}\n", `ReadOffset says "offset"`},
		{"part of another word is not the word", "a.go", "package a\n\n// Prevention and Offsetting are other words.\nvar Prevention, Offsetting int\n", ""},
		{"in a test anything is named", "a_test.go", "package a\n\nfunc F() {}\n", ""},
		{"mark", "a_test.go", "package a\n\n// TO" + "DO: later\n", "a_test.go:3:4: the mark"},
		{"no Go", "a.go", "pakage a", "expected 'package'"},
		{"field", "a.proto", "message A {\n  string page_cursor = 1;\n}\n", `page_cursor says "cursor"`},
		{"message", "a.proto", "message PolicyList {\n}\n", `PolicyList says "policy"`},
		{"comment", "a.proto", "// An event, in prose.\nmessage A {\n  repeated Tuple tuples = 1 [deprecated = true];\n}\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check := sourceFaults
			if strings.HasSuffix(tt.file, ".proto") {
				check = protoFaults
			}
			got := check(tt.file, []byte(tt.in))
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("faults = %q, want %q", got, tt.want)
			}
		})
	}
}

// TestTopLevel holds the layout: what a newcomer sees first is these folders.
func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"cmd", "ledger", "ops", "projector", "proto", "query"}
	var got []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			got = append(got, e.Name())
		}
	}
	got = slices.DeleteFunc(got, func(name string) bool { return name == "data" || name == "bin" }) // ignored by git
	if !slices.Equal(got, want) {
		t.Errorf("folders at the top are %q, want %q", got, want)
	}
}
