package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/grantlog/grantlog/cmd/grantlog/files"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/openfga"
	"github.com/spf13/cobra"
)

func (a *app) modelCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "model",
		Short: "Write, read, validate and test authorization models",
		Long: `A model says which types of object there are, and for each of their relations who
holds it. It is written in OpenFGA's modeling language, schema 1.1 or 1.2. What FILE
holds is told by its name:

  *.fga     one file of the modeling language
  fga.mod   the list of several module files beside it
  *.json    OpenFGA's JSON form
  -         the modeling language, from the standard input

The verb test takes store files instead: see "grantlog model test --help".`,
	}, a.modelWriteCommand(), a.modelReadCommand(), a.modelValidateCommand(), a.modelTestCommand())
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
			// The server parses it too, with limits of its own; here an error can name the file.
			kind, source, _, err := a.readModel(args[0], dsl.Limits{Types: model.MaxTypes})
			if err != nil {
				return errors.New(strings.ReplaceAll(err.Error(), "\n", "\ngrantlog: "))
			}
			return a.submit(cmd.Context(), &why, modelChange(kind, source))
		},
	}
	why.flags(c)
	return c
}

// sourceKinds are the kinds of source as messages name them.
var sourceKinds = map[ledger.SourceKind]pb.ModelSource_Kind{
	ledger.SourceDSL: pb.ModelSource_DSL, ledger.SourceModules: pb.ModelSource_MODULES, ledger.SourceJSON: pb.ModelSource_JSON,
}

func modelChange(kind ledger.SourceKind, source []byte) *pb.Change {
	return &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Kind: sourceKinds[kind], Source: string(source)}}}
}

func (a *app) modelReadCommand() *cobra.Command {
	var id, form string
	c := &cobra.Command{
		Use:   "read",
		Short: "Print a model of the store",
		Long: `Prints the source of the store's newest model, or of the one with --id: as it was
written, which of modules is one text of all files; with --form dsl as one file of the
modeling language, without its comments, and with --form json in OpenFGA's JSON form;
what was written in JSON keeps all it holds, such as source_info. With -o json, its id
and revision too.`,
		Example: `  grantlog model read > model.fga
  grantlog model read --form json > model.json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if form != "source" && form != "dsl" && form != "json" {
				return fmt.Errorf("--form must be source, dsl or json, not %q", form)
			}
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
			if err := inForm(r.GetModel().GetSource(), form); err != nil {
				return err
			}
			if a.json() {
				return a.message(r)
			}
			_, err = io.WriteString(a.stdout, r.GetModel().GetSource().GetSource())
			return err
		},
	}
	c.Flags().StringVar(&id, "id", "", "the `ID` of the model; the newest if not given")
	c.Flags().StringVar(&form, "form", "source", "the `form` to print it in: source, dsl or json")
	return c
}

// inForm writes a source anew in a form that --form names.
func inForm(s *pb.ModelSource, form string) error {
	if form == "source" {
		return nil
	}
	kind := ledger.SourceKind(0) // which no source has
	for k, name := range sourceKinds {
		if name == s.GetKind() {
			kind = k
		}
	}
	m, err := dsl.Parse(kind, []byte(s.GetSource()), dsl.Limits{Types: model.MaxTypes})
	if err != nil {
		return fmt.Errorf("this program does not understand the model: %w", err)
	}
	if form == "json" {
		text, err := openfga.ModelJSON(kind, []byte(s.GetSource()), m)
		s.Kind, s.Source = pb.ModelSource_JSON, string(text)
		return err
	}
	text, err := dsl.ToDSL(m)
	s.Kind, s.Source = pb.ModelSource_DSL, text
	return err
}

func (a *app) modelValidateCommand() *cobra.Command {
	var limits dsl.Limits
	c := &cobra.Command{
		Use:   "validate FILE",
		Short: "Say whether a model is right, without a server",
		Long: `Parses and validates the model in the file. Each mistake is one line on the standard
error, FILE:LINE:COLUMN: MESSAGE; with -o json, all are in the one object on the standard
output. See "grantlog model --help" for kinds of FILE.

Exit status: 0 valid, 1 not valid, 2 error.`,
		Example: `  grantlog model validate model.fga`,
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			if n := limits.Types; n < 0 || n > model.MaxTypes {
				return fmt.Errorf("--max-types must be at most %d, is %d", model.MaxTypes, n)
			}
			if n := limits.Source; n < 0 || n > ledger.MaxModelSource {
				return fmt.Errorf("--max-bytes must be at most %d, which is what the log holds; is %d", ledger.MaxModelSource, n)
			}
			_, _, m, err := a.readModel(args[0], limits)
			var mistakes *dsl.Errors
			switch {
			case errors.As(err, &mistakes):
				return a.invalid(mistakes)
			case err != nil:
				return err
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
	c.Flags().IntVar(&limits.Types, "max-types", 100, "the most `types` the model may have, at most 1000")
	c.Flags().IntVar(&limits.Source, "max-bytes", ledger.MaxModelSource, "the most `bytes` of its source, at most 262144")
	return c
}

// invalid prints what is wrong with a model: the answer no.
func (a *app) invalid(mistakes *dsl.Errors) error {
	if !a.json() {
		fmt.Fprintln(a.stderr, mistakes) // without the program's name, so that editors find the places
		return &no{}
	}
	type mistake struct {
		File    string `json:"file"`
		Line    int    `json:"line"` // 0 for the file as a whole
		Col     int    `json:"col"`
		Message string `json:"message"`
	}
	list := make([]mistake, len(*mistakes))
	for i, e := range *mistakes {
		list[i] = mistake{e.File, e.Line, e.Col, e.Message}
	}
	if err := a.value(map[string]any{"valid": false, "errors": list}); err != nil {
		return err
	}
	return &no{}
}

// readModel reads, parses and validates a model. What is wrong with it is a
// [*dsl.Errors], in which files have the names to open them by.
func (a *app) readModel(name string, limits dsl.Limits) (kind ledger.SourceKind, source []byte, m *model.Model, err error) {
	if name == "-" {
		name, kind = "<stdin>", ledger.SourceDSL
		source, err = io.ReadAll(io.LimitReader(a.stdin, ledger.MaxModelSource+1)) // one more is too many, and said to be
	} else {
		kind, source, err = files.ReadModel(name)
	}
	if err == nil {
		m, err = dsl.Parse(kind, source, limits)
	}
	files.Rename(err, name)
	return kind, source, m, err
}
