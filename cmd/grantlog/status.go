package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/query/serve"
	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Print where a server stands in the log",
		Long: `Prints the id of the server's log, how far the log reaches (head), how far the server
has folded it (applied), and whether it should be sent requests.

Exit status: 0 ready, 1 not ready, 2 error.`,
		Example: `  grantlog status --server http://127.0.0.1:8080`,
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := a.patience(cmd.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/readyz", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return fmt.Errorf("no server answers at %s: start one with \"grantlog serve\", or name another with --server (%w)", c.base, err)
			}
			defer resp.Body.Close()
			var r serve.Readiness
			if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&r); err != nil || r.Log == "" {
				return fmt.Errorf("what answers at %s is no grantlog server (HTTP status %d)", c.base, resp.StatusCode)
			}
			if err := a.readiness(&r); err != nil {
				return err
			}
			if !r.Ready {
				return &no{"not ready: " + r.Reason}
			}
			return nil
		},
	}
}

func (a *app) readiness(r *serve.Readiness) error {
	if a.json() {
		return a.value(r)
	}
	headline, lag := "ready", ""
	if !r.Ready {
		headline = "not ready"
	}
	if r.Head > r.Applied {
		lag = fmt.Sprintf("%s, %s", count(int(r.Head-r.Applied), "message"), time.Duration(r.LagSeconds*float64(time.Second)).Round(time.Millisecond))
	}
	return a.facts(headline, "log", r.Log, "epoch", fmt.Sprint(r.Epoch), "fold version", fmt.Sprint(r.FoldVersion), "head", fmt.Sprint(r.Head), "applied", fmt.Sprint(r.Applied),
		"lag", lag, "connected", fmt.Sprint(r.Connected), "log failure", r.LogFailure)
}

// A Version is what "grantlog version" prints.
type Version struct {
	Version     string `json:"version"`            // of the module; "(devel)" if built from a checkout
	Revision    string `json:"revision,omitempty"` // of the source; ends with + if it was changed
	FoldVersion int    `json:"fold_version"`       // newest deciding rules that this program knows
	Go          string `json:"go"`
	Platform    string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what this program is",
		Args:  takes(),
		RunE: func(*cobra.Command, []string) error {
			v := Version{Version: "(unknown)", FoldVersion: ledger.NewestFoldVersion, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				v.Version = info.Main.Version
				for _, s := range info.Settings {
					switch {
					case s.Key == "vcs.revision":
						v.Revision = s.Value + v.Revision
					case s.Key == "vcs.modified" && s.Value == "true":
						v.Revision += "+"
					}
				}
			}
			if a.json() {
				return a.value(v)
			}
			return a.facts("grantlog "+v.Version, "source", v.Revision, "fold version", fmt.Sprint(v.FoldVersion), "go", v.Go, "platform", v.Platform)
		},
	}
}
