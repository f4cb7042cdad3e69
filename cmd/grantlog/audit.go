package main

import "github.com/spf13/cobra"

func (a *app) auditCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "audit",
		Short: "Make reports for auditors",
		Long: `What auditors take away: reports of access and of changes, at any moment of the past.
Every report says what it is about and stands on, and can be checked to be complete.`,
	}, a.auditAccessCommand(), a.auditDiffCommand(), a.auditChangesCommand())
}
