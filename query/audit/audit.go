// Package audit is what an auditor takes away: reports, checkpoints that one key signs,
// and bundles of entries that verify without a server.
//
// A [Report] is of access or of changes, at any moment of the past, and is made while it is
// read. A [Signer] signs the trees of stores, and never two of one size. A bundle is the
// entries of a store, or of a range of them, with what vouches for them: a checkpoint, the
// public key and a proof. [Export] writes one. [Verify] needs nothing but the bundle: it
// derives hashes, root and signature again, and folds the entries again to compare every
// outcome. The formats are in FORMAT.md here and in ledger/FORMAT.md.
package audit
