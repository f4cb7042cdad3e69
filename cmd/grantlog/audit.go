package main

import "github.com/spf13/cobra"

func (a *app) auditCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "audit",
		Short: "Reports, exports and proofs for auditors",
		Long: `What auditors take away: reports of access and of changes, at any moment of the past,
and whole stores as files that verify without a server. Everything says what it is about
and stands on, and can be checked to be complete and untouched.`,
	},
		a.auditAccessCommand(),
		a.auditDiffCommand(),
		a.auditChangesCommand(),
		a.auditExportCommand(),
		a.auditVerifyCommand(),
	)
}
