package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/cobra"
)

func (a *app) modelCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "model",
		Short: "Write, read and validate authorization models",
		Long: `A model says which types of object there are, and for each of their relations who
holds it. It is written in OpenFGA's modeling language, schema 1.1 or 1.2. What FILE
holds is told by its name:

  *.fga     one file of the modeling language
  fga.mod   the list of several module files beside it
  *.json    OpenFGA's JSON form
  -         the modeling language, from the standard input`,
	}, a.modelWriteCommand(), a.modelReadCommand(), a.modelValidateCommand())
}

func (a *app) modelWriteCommand() *cobra.Command {
	var why why
	c := &cobra.Command{
		Use:   "write FILE",
		Short: "Give the store a new model",
		Long: `Gives the store a new model, from the file. What was granted stays; what the new model
does not allow is ignored from here on. See "grantlog model --help" for kinds of FILE.`,
		Example: `  grantlog model write model.fga --reason "add documents" --ticket ARCH-4`,
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, source, err := a.readModelFile(args[0])
			if err != nil {
				return err
			}
			// The server parses it too; here an error can name the file.
			if _, err := parseModel(args[0], kind, source); err != nil {
				return err
			}
			return a.submit(cmd.Context(), &why, modelChange(kind, source))
		},
	}
	why.flags(c)
	return c
}

func modelChange(kind ledger.SourceKind, source []byte) *pb.Change {
	kinds := map[ledger.SourceKind]pb.ModelSource_Kind{
		ledger.SourceDSL: pb.ModelSource_DSL, ledger.SourceModules: pb.ModelSource_MODULES, ledger.SourceJSON: pb.ModelSource_JSON,
	}
	return &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Kind: kinds[kind], Source: string(source)}}}
}

func (a *app) modelReadCommand() *cobra.Command {
	var id string
	c := &cobra.Command{
		Use:   "read",
		Short: "Print a model of the store, as it was written",
		Long: `Prints the source of the store's newest model, or of the one with --id, as it was
written. With -o json, its id and revision too.`,
		Example: `  grantlog model read > model.fga`,
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			store, err := a.storeID(ctx, c)
			if err != nil {
				return err
			}
			r, err := c.stores.ReadModel(ctx, &pb.ReadModelRequest{Store: store, Model: id})
			if err != nil {
				return c.plain(err)
			}
			if a.json() {
				return a.message(r)
			}
			_, err = io.WriteString(a.stdout, r.GetModel().GetSource().GetSource())
			return err
		},
	}
	c.Flags().StringVar(&id, "id", "", "the `ID` of the model; the newest if not given")
	return c
}

func (a *app) modelValidateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "Say whether a model is right, without a server",
		Long: `Parses and validates the model in the file, and names line and column of each fault.
See "grantlog model --help" for kinds of FILE.

Exit status: 0 valid, 1 not valid, 2 error.`,
		Example: `  grantlog model validate model.fga`,
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			kind, source, err := a.readModelFile(args[0])
			if err != nil {
				return err
			}
			m, err := parseModel(args[0], kind, source)
			if err != nil {
				return &no{err.Error()}
			}
			relations := 0
			for _, t := range m.Types {
				relations += len(t.Relations)
			}
			if a.json() {
				return a.value(map[string]any{"valid": true, "schema": m.Schema, "types": len(m.Types), "relations": relations, "conditions": len(m.Conditions)})
			}
			return a.facts("valid", "schema", m.Schema, "types", fmt.Sprint(len(m.Types)), "relations", fmt.Sprint(relations), "conditions", fmt.Sprint(len(m.Conditions)))
		},
	}
}

// readModelFile reads a model's source, of the kind that the file's name tells.
func (a *app) readModelFile(name string) (ledger.SourceKind, []byte, error) {
	if name == "-" {
		source, err := io.ReadAll(io.LimitReader(a.stdin, ledger.MaxModelSource+1)) // one more is too many, and said to be
		return ledger.SourceDSL, source, err
	}
	source, err := os.ReadFile(name)
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

// joinModules reads the files that fga.mod lists, which stand beside it.
func joinModules(name string, mod []byte) ([]byte, error) {
	names, err := dsl.ModuleNames(mod)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{dsl.ModFile: mod}
	for _, n := range names {
		if files[n], err = os.ReadFile(filepath.Join(filepath.Dir(name), filepath.FromSlash(n))); err != nil {
			return nil, fmt.Errorf("%s lists %s: %w", name, n, err)
		}
	}
	return dsl.JoinModules(files)
}

// parseModel parses and validates a source. Each fault is one line of the error, with
// the file's name before line and column.
func parseModel(name string, kind ledger.SourceKind, source []byte) (*model.Model, error) {
	m, err := dsl.Parse(kind, source, dsl.Limits{})
	var faults *dsl.Errors
	if !errors.As(err, &faults) {
		return m, err
	}
	lines := make([]string, len(*faults))
	for i, f := range *faults {
		if f.File == "" {
			f.File = name
		}
		lines[i] = f.Error()
	}
	return nil, errors.New(strings.Join(lines, "\ngrantlog: "))
}
