package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A flag that is given without a text is refused by every verb that has it, whatever it is
// of: texts, lists, numbers, spans. Only a reason may be empty.
func TestEmptyFlags(t *testing.T) {
	tried := 0
	var walk func(path []string, c *cobra.Command)
	walk = func(path []string, c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(append(path[:len(path):len(path)], sub.Name()), sub)
		}
		try := func(f *pflag.Flag) {
			if f.Value.Type() == "bool" || f.Name == "help" {
				return
			}
			tried++
			reached := errors.New("the verb ran")
			root := (&app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}).command()
			verb, _, err := root.Find(path)
			if err != nil {
				t.Fatal(err)
			}
			verb.Args = cobra.ArbitraryArgs
			verb.RunE = func(*cobra.Command, []string) error { return reached }
			root.SetArgs(append(path[:len(path):len(path)], "--"+f.Name, ""))
			err = root.Execute()
			switch {
			case f.Name == "reason":
				if !errors.Is(err, reached) {
					t.Errorf("%s --%s \"\": error = %v, want that the verb runs", verb.CommandPath(), f.Name, err)
				}
			case err == nil || errors.Is(err, reached) || !strings.Contains(err.Error(), "--"+f.Name):
				t.Errorf("%s --%s \"\": error = %v, want one that names the flag", verb.CommandPath(), f.Name, err)
			}
		}
		c.LocalFlags().VisitAll(try)
		c.InheritedFlags().VisitAll(try)
	}
	walk(nil, (&app{}).command())
	if tried < 200 {
		t.Errorf("%d flags were tried, want those of all verbs", tried)
	}
}
