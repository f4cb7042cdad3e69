package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
)

// ReadModel reads a model's source, of the kind that the file's name tells: *.fga,
// *.json, or fga.mod with the files that it lists, which stand beside it. What is wrong
// with the list is a [*dsl.Errors], see [Rename].
func ReadModel(name string) (ledger.SourceKind, []byte, error) {
	source, err := readSource(name)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case filepath.Base(name) == dsl.ModFile:
		source, err = joinModules(name, source)
		return ledger.SourceModules, source, err
	case filepath.Ext(name) == ".fga":
		return ledger.SourceDSL, source, nil
	case filepath.Ext(name) == ".json":
		return ledger.SourceJSON, source, nil
	}
	return 0, nil, fmt.Errorf("%s: the name of a model's file ends with .fga or .json, or is %s", name, dsl.ModFile)
}

// readSource reads a file up to one byte more than a model's source may have, which is too
// many and said to be by who compiles it.
func readSource(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, ledger.MaxModelSource+1))
}

// joinModules reads the files that fga.mod lists.
func joinModules(name string, mod []byte) ([]byte, error) {
	names, err := dsl.ModuleNames(mod)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{dsl.ModFile: mod}
	for _, n := range names {
		if files[n], err = readSource(filepath.Join(filepath.Dir(name), filepath.FromSlash(n))); err != nil {
			return nil, fmt.Errorf("%s lists %s: %w", name, n, err)
		}
	}
	return dsl.JoinModules(files)
}

// Rename gives the files in the mistakes of a model, if err is a [*dsl.Errors], the
// names to open them by, where name is that of the model's file.
func Rename(err error, name string) {
	var mistakes *dsl.Errors
	if !errors.As(err, &mistakes) {
		return
	}
	for i := range *mistakes {
		if e := &(*mistakes)[i]; e.File != "" {
			e.File = filepath.Join(filepath.Dir(name), filepath.FromSlash(e.File))
		} else {
			e.File = name
		}
	}
}
