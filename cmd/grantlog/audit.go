package main

import "github.com/spf13/cobra"

func (a *app) auditCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "audit",
		Short: "Reports, exports and proofs for auditors",
		Long: `What auditors take away: reports of access and of changes, at any moment of the past,
whole stores as files that verify without a server, and proofs that nothing was altered,
removed or added since. Everything says what it is about and stands on, and can be
checked to be complete and untouched.

Every store is a Merkle tree over its entries, as Certificate Transparency has it
(RFC 6962): revision N is leaf N. A checkpoint is the signed root of the tree at one
revision (C2SP tlog-checkpoint). Who keeps one can have it proved later that an entry is
in that tree, and that the tree of today begins with it. What a server answers to these
verbs is verified in this process. The key that signs should come from elsewhere than
from the server: --key gives it.`,
	},
		a.auditAccessCommand(),
		a.auditDiffCommand(),
		a.auditChangesCommand(),
		a.auditRecheckCommand(),
		a.auditExportCommand(),
		a.auditVerifyCommand(),
		a.auditShowCommand(),
		a.auditCheckpointCommand(),
		a.auditInclusionCommand(),
		a.auditConsistencyCommand(),
	)
}
