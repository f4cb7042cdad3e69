// Package audit is what an auditor takes away: the key and the signer of checkpoints.
// Formats are in ledger/FORMAT.md.
package audit
