package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/seal"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/grantlog/grantlog/query/serve"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A vouch is the checkpoint that a root is held against, and whose key signed it. The
// zero vouch is none.
type vouch struct {
	note       string
	checkpoint seal.Checkpoint
	key        seal.Key
	pinned     bool // the key came from the command line, not from the server
}

// keyFlag is the flag that names a public key.
func keyFlag(f *pflag.FlagSet, key *string) {
	f.StringVar(key, "key", "", "the signer's public `KEY` as keygen printed it, or the file that has it; otherwise the key is the one that comes with the answer")
}

// readKeyFlag reads the value of --key: a file, or the key itself. Empty is the zero key.
func readKeyFlag(text string) (seal.Key, error) {
	if text == "" {
		return seal.Key{}, nil
	}
	k, err := readPublicKey(text)
	if err != nil {
		return seal.Key{}, fmt.Errorf("--key: %w", err)
	}
	return k, nil
}

// by says whose word a vouch is.
func (v *vouch) by() string {
	switch {
	case v.note == "":
		return "nobody: this server signs no checkpoints, so the root is its own word"
	case !v.pinned:
		return fmt.Sprintf("key %s, which the server named itself: compare it with the one you know, or give that as --key", v.key)
	}
	return fmt.Sprintf("key %s, given as --key", v.key)
}

// vouch asks the server for a checkpoint and verifies its signature, with the key pinned
// or else the server's. A server that signs nothing gives none.
func (c *client) vouch(ctx context.Context, store string, pinned seal.Key) (*vouch, error) {
	r, err := c.audit.Checkpoint(ctx, &pb.CheckpointRequest{Store: store})
	if connect.CodeOf(err) == connect.CodeFailedPrecondition {
		return &vouch{}, nil
	}
	if err != nil {
		return nil, c.plain(err)
	}
	return openVouch(store, r.GetNote(), r.GetKey(), pinned)
}

// openVouch verifies the signature of a store's note, with the key pinned or else the one
// that the server names.
func openVouch(store, note, named string, pinned seal.Key) (*vouch, error) {
	key, err := seal.ParseKey(named)
	if err != nil {
		return nil, fmt.Errorf("%w: the key that the server names: %w", seal.ErrUnverified, err)
	}
	if !pinned.IsZero() && key != pinned {
		return nil, fmt.Errorf("%w: the server signs with the key %s, and --key is %s", seal.ErrUnverified, key, pinned)
	}
	id, err := ledger.ParseID(store)
	if err != nil {
		return nil, err
	}
	v := &vouch{note: note, key: key, pinned: !pinned.IsZero()}
	v.checkpoint, err = key.Open(id, []byte(v.note))
	return v, err
}

// errSignsNothing is the error of a verb that needs a server's checkpoint.
var errSignsNothing = errors.New("this server signs no checkpoints: ask the one that was started with --signing-key")

// verdict makes what does not verify the answer no, in JSON too.
func (a *app) verdict(err error) error {
	if !errors.Is(err, seal.ErrUnverified) {
		return err
	}
	if a.json() {
		if err := a.value(map[string]any{"verified": false, "problem": err.Error()}); err != nil {
			return err
		}
	}
	return &no{err.Error()}
}

// readHash reads a hash of an answer.
func readHash(what string, b []byte) (ledger.Hash, error) {
	if len(b) != len(ledger.Hash{}) {
		return ledger.Hash{}, fmt.Errorf("%w: the %s of the server's answer has %d bytes, not 32", seal.ErrUnverified, what, len(b))
	}
	return ledger.Hash(b), nil
}

func readProof(list [][]byte) ([]ledger.Hash, error) {
	out := make([]ledger.Hash, len(list))
	for i, b := range list {
		var err error
		if out[i], err = readHash("proof", b); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func base64Of(h ledger.Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }

// A verified is what the verbs here print: what was shown, and whose word it rests on.
type verified struct {
	Verified   bool            `json:"verified"`
	Store      string          `json:"store"`
	Revision   ledger.Revision `json:"revision,omitempty"` // of the entry
	Leaf       string          `json:"leaf,omitempty"`     // its hash; in base 64, as all hashes
	Entry      json.RawMessage `json:"entry,omitempty"`
	From       ledger.Revision `json:"from,omitempty"` // size of the smaller tree
	FromRoot   string          `json:"from_root,omitempty"`
	Size       ledger.Revision `json:"size"` // of the tree, or of the greater one
	Root       string          `json:"root"`
	Checkpoint string          `json:"checkpoint,omitempty"` // the note that vouches
	Key        string          `json:"key,omitempty"`        // that signed it
	KeyPinned  bool            `json:"key_pinned"`           // the key was given as --key
}

func (v *verified) rests(on *vouch) {
	v.Verified = true
	if on.note != "" {
		v.Checkpoint, v.Key, v.KeyPinned = on.note, on.key.String(), on.pinned
	}
}

func (a *app) auditCheckpointCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the newest checkpoint of a store",
		Long: `Has the server sign a checkpoint of what it has applied, verifies it, and prints it: a
note of three lines (what is signed, the revision, the root of the tree) and its
signature. Keep it: "grantlog audit consistency FILE" shows later that the store still
begins with what it had then.

Exit status: 0 verified, 1 it does not verify, 2 an error.`,
		Example: `  grantlog audit checkpoint --store acme --key grantlog.key.pub > acme-2026-11.checkpoint
  grantlog audit checkpoint --store system -o json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pinned, err := readKeyFlag(key)
			if err != nil {
				return err
			}
			return a.verdict(a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				v, err := c.vouch(ctx, store, pinned)
				if err != nil {
					return err
				}
				if v.note == "" {
					return errSignsNothing
				}
				if a.json() {
					out := &verified{Store: store, Size: v.checkpoint.Size, Root: base64Of(v.checkpoint.Root)}
					out.rests(v)
					return a.value(out)
				}
				if _, err := io.WriteString(a.stdout, v.note); err != nil {
					return err
				}
				// Beside the note, which is to go into a file.
				fmt.Fprintf(a.stderr, "revision %d of store %s, vouched for by %s\n", v.checkpoint.Size, store, v.by())
				return nil
			}))
		},
	}
	keyFlag(c.Flags(), &key)
	return c
}

func (a *app) auditInclusionCommand() *cobra.Command {
	var key string
	var size uint64
	c := &cobra.Command{
		Use:   "inclusion REVISION",
		Short: "Verify that an entry is in the tree",
		Long: `Fetches an entry, the proof that the tree has it at its revision, and a checkpoint,
and verifies them here: the hash of the entry as it is recorded, its path to the root,
and the signature of the root. With --size it is the tree as of that revision, which is
then proved to be the beginning of the tree of the checkpoint.

A server without a signing key gives the proof as well; then nobody vouches for the root.

Exit status: 0 verified, 1 it does not verify, 2 an error.`,
		Example: `  grantlog audit inclusion 17 --store acme --key grantlog.key.pub
  grantlog audit inclusion 17 --size 20 -o json`,
		Args: takes("REVISION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pinned, err := readKeyFlag(key)
			if err != nil {
				return err
			}
			rev, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || rev == 0 {
				return fmt.Errorf("REVISION is a number from 1 on, not %q", args[0])
			}
			if cmd.Flags().Changed("size") && rev > size {
				return fmt.Errorf("revision %d is in no tree of %d", rev, size)
			}
			return a.verdict(a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				return a.inclusion(ctx, c, store, rev, size, pinned)
			}))
		},
	}
	keyFlag(c.Flags(), &key)
	c.Flags().Uint64Var(&size, "size", 0, "the `revision` that the tree is of; otherwise the checkpoint's")
	return c
}

func (a *app) inclusion(ctx context.Context, c *client, store string, rev, size uint64, pinned seal.Key) error {
	v, err := c.vouch(ctx, store, pinned)
	if err != nil {
		return err
	}
	if v.note == "" && !pinned.IsZero() {
		return errSignsNothing
	}
	if size == 0 {
		size = uint64(v.checkpoint.Size) // 0 for the newest, where nobody vouches
	}
	r, err := c.audit.ProveInclusion(ctx, &pb.ProveInclusionRequest{Store: store, Revision: rev, Size: size})
	if err != nil {
		return c.plain(err)
	}
	entry, err := ledger.DecodeEntry(r.GetEntry())
	if err != nil {
		return fmt.Errorf("%w: the entry cannot be read: %w", seal.ErrUnverified, err)
	}
	if entry.Store.String() != store || uint64(entry.Revision) != rev || size != 0 && r.GetSize() != size {
		return fmt.Errorf("%w: asked for revision %d of store %s in the tree of %d, the server answers with revision %d of store %s in the tree of %d",
			seal.ErrUnverified, rev, store, size, entry.Revision, entry.Store, r.GetSize())
	}
	root, err := readHash("root", r.GetRoot())
	if err != nil {
		return err
	}
	proof, err := readProof(r.GetProof())
	if err != nil {
		return err
	}
	leaf := seal.LeafHash(r.GetEntry())
	if err := seal.CheckInclusion(entry.Revision, ledger.Revision(r.GetSize()), leaf, proof, root); err != nil {
		return err
	}
	if err := c.within(ctx, store, ledger.Revision(r.GetSize()), root, v); err != nil {
		return err
	}
	shown := serve.EntryMessage(entry)
	if a.json() {
		text, err := compactJSON(shown)
		if err != nil {
			return err
		}
		out := &verified{Store: store, Revision: entry.Revision, Leaf: base64Of(leaf), Entry: json.RawMessage(text),
			Size: ledger.Revision(r.GetSize()), Root: base64Of(root)}
		out.rests(v)
		return a.value(out)
	}
	return a.facts(fmt.Sprintf("verified: the tree of %d has this entry as revision %d", r.GetSize(), rev),
		"store", store, "time", clock(shown.GetTime()), "actor", oneLine(shown.GetActor()), "outcome", kindOf(shown.GetOutcome()),
		"command", entryText(shown), "leaf", base64Of(leaf), "hashes of the proof", fmt.Sprint(len(proof)),
		"root", base64Of(root), "vouched for by", v.by())
}

// within verifies that the tree of a size and root is the beginning of the one that is
// vouched for. Where nobody vouches there is nothing to verify.
func (c *client) within(ctx context.Context, store string, size ledger.Revision, root ledger.Hash, v *vouch) error {
	if v.note == "" {
		return nil
	}
	return c.consistent(ctx, store, size, root, v.checkpoint.Size, v.checkpoint.Root)
}

// consistent asks for the proof that one tree begins with another, and verifies it
// against the roots given.
func (c *client) consistent(ctx context.Context, store string, from ledger.Revision, fromRoot ledger.Hash, to ledger.Revision, toRoot ledger.Hash) error {
	if from > to {
		return fmt.Errorf("the checkpoint is of revision %d, and says nothing of %d", to, from)
	}
	if from == to { // whose proof is empty: the roots are one
		return seal.CheckConsistency(from, fromRoot, to, toRoot, nil)
	}
	r, err := c.audit.ProveConsistency(ctx, &pb.ProveConsistencyRequest{Store: store, From: uint64(from), To: uint64(to)})
	if err != nil {
		return c.plain(err)
	}
	proof, err := readProof(r.GetProof())
	if err != nil {
		return err
	}
	return seal.CheckConsistency(from, fromRoot, to, toRoot, proof)
}

// A treeHead is a tree as an argument names it: by its size, or by a checkpoint.
type treeHead struct {
	size ledger.Revision
	note []byte // of a checkpoint's file
}

// readHead reads SIZE or the name of a checkpoint's file.
func readHead(text string) (treeHead, error) {
	if size, err := strconv.ParseUint(text, 10, 64); err == nil {
		if size == 0 {
			return treeHead{}, errors.New("a tree of no entries is the beginning of every other: name a revision from 1 on")
		}
		return treeHead{size: ledger.Revision(size)}, nil
	}
	f, err := os.Open(text)
	if err != nil {
		return treeHead{}, fmt.Errorf("%q is neither a revision nor a checkpoint's file: %w", text, err)
	}
	defer f.Close()
	note, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return treeHead{}, fmt.Errorf("%s: %w", text, err)
	}
	return treeHead{note: note}, nil
}

func (a *app) auditConsistencyCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "consistency FROM [TO]",
		Short: "Verify that the store begins with what it had before",
		Long: `Verifies that the tree of FROM is the beginning of the tree of TO: that no entry up to
FROM was altered, removed or added since. FROM and TO are each a revision, or the file
of a checkpoint that "grantlog audit checkpoint" printed; without TO it is a new
checkpoint. Of a file, the signature is verified and its root is used. Of a revision,
the proof shows the root, under the server's newest checkpoint.

Give an old checkpoint as FROM and the key as --key: then nothing is taken on trust but
the checkpoint and the key you kept.

Exit status: 0 verified, 1 it does not verify, 2 an error.`,
		Example: `  grantlog audit consistency acme-2026-10.checkpoint --key grantlog.key.pub
  grantlog audit consistency acme-2026-10.checkpoint acme-2026-11.checkpoint --key grantlog.key.pub
  grantlog audit consistency 120 --store acme`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 {
				return nil
			}
			return fmt.Errorf("%s takes FROM and perhaps TO, got %d arguments; see %s --help", cmd.CommandPath(), len(args), cmd.CommandPath())
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			pinned, err := readKeyFlag(key)
			if err != nil {
				return err
			}
			heads := make([]treeHead, 2)
			for i, arg := range args {
				if heads[i], err = readHead(arg); err != nil {
					return err
				}
				if heads[i].note == nil {
					continue
				}
				c, err := seal.ReadNote(heads[i].note)
				if err != nil {
					return fmt.Errorf("%s is no checkpoint: %w", arg, err)
				}
				if heads[i].size = c.Size; a.store == "" {
					store, err := c.Store()
					if err != nil {
						return err
					}
					a.store = store.String()
				}
			}
			if heads[1].size != 0 && heads[0].size > heads[1].size {
				return fmt.Errorf("FROM is of revision %d and TO of %d: the smaller one comes first", heads[0].size, heads[1].size)
			}
			return a.verdict(a.askStore(cmd.Context(), func(ctx context.Context, c *client, store string) error {
				return a.consistency(ctx, c, store, heads[0], heads[1], pinned)
			}))
		},
	}
	keyFlag(c.Flags(), &key)
	return c
}

func (a *app) consistency(ctx context.Context, c *client, store string, from, to treeHead, pinned seal.Key) error {
	id, err := ledger.ParseID(store)
	if err != nil {
		return err
	}
	v := &vouch{key: pinned, pinned: !pinned.IsZero()}
	if to.note == nil || pinned.IsZero() {
		if v, err = c.vouch(ctx, store, pinned); err != nil {
			return err
		}
	}
	key := v.key
	if v.note == "" {
		key = pinned
	}
	switch files := from.note != nil || to.note != nil; {
	case key.IsZero() && files:
		return errors.New("this server signs nothing and names no key: give the one that signed the checkpoint as --key")
	case v.note == "" && !pinned.IsZero() && !files:
		return errSignsNothing
	}
	// A root is what was signed, where that is known, and else what the server says.
	roots := make(map[ledger.Revision]ledger.Hash)
	if v.note != "" {
		roots[v.checkpoint.Size] = v.checkpoint.Root
	}
	for _, h := range []treeHead{from, to} {
		if h.note == nil {
			continue
		}
		signed, err := key.Open(id, h.note)
		if err != nil {
			return err
		}
		if other, ok := roots[signed.Size]; ok && other != signed.Root {
			return fmt.Errorf("%w: the key has signed two trees of %d: its word is worth nothing", seal.ErrUnverified, signed.Size)
		}
		roots[signed.Size] = signed.Root
	}
	if to.size == 0 {
		to.size = v.checkpoint.Size // 0 for the newest, where nobody vouches
	}
	switch {
	case to.size == 0 || from.size <= to.size:
	case from.note != nil:
		return fmt.Errorf("%w: the checkpoint is of revision %d, and the newest of the server of %d; no tree gets smaller, so it is behind, or has lost what was signed", seal.ErrUnverified, from.size, to.size)
	default:
		return fmt.Errorf("FROM is revision %d, and the newest checkpoint is of %d", from.size, to.size)
	}
	r, err := c.audit.ProveConsistency(ctx, &pb.ProveConsistencyRequest{Store: store, From: uint64(from.size), To: uint64(to.size)})
	if err != nil {
		why, head := rejection(err), from
		if why.GetField() == "to" {
			head = to
		}
		if head.note != nil && (why.GetField() == "from" || why.GetField() == "to") {
			return fmt.Errorf("%w: the checkpoint is of revision %d, which the server does not have (%s: %s); no tree gets smaller, so it is behind, or has lost what was signed", seal.ErrUnverified, head.size, why.GetField(), why.GetMessage())
		}
		return c.plain(err)
	}
	if to.size == 0 {
		to.size = ledger.Revision(r.GetTo())
	}
	rootOf := func(size ledger.Revision, said []byte) (ledger.Hash, error) {
		root, err := readHash("root", said)
		if signed, ok := roots[size]; ok && err == nil && signed != root {
			return root, fmt.Errorf("%w: the server's tree of %d has another root, %s, than what was signed, %s: its past is another", seal.ErrUnverified, size, base64Of(root), base64Of(signed))
		}
		return root, err
	}
	fromRoot, err := rootOf(from.size, r.GetFromRoot())
	if err != nil {
		return err
	}
	toRoot, err := rootOf(to.size, r.GetToRoot())
	if err != nil {
		return err
	}
	proof, err := readProof(r.GetProof())
	if err != nil {
		return err
	}
	if err := seal.CheckConsistency(from.size, fromRoot, to.size, toRoot, proof); err != nil {
		return err
	}
	if to.note != nil {
		v = &vouch{note: string(to.note), checkpoint: seal.Checkpoint{Origin: key.Origin(id), Size: to.size, Root: toRoot}, key: key, pinned: !pinned.IsZero()}
	} else if err := c.within(ctx, store, to.size, toRoot, v); err != nil {
		return err
	}
	if a.json() {
		out := &verified{Store: store, From: from.size, FromRoot: base64Of(fromRoot), Size: to.size, Root: base64Of(toRoot)}
		out.rests(v)
		return a.value(out)
	}
	signed := func(h treeHead) string {
		if h.note != nil {
			return ", which is signed"
		}
		return ""
	}
	return a.facts(fmt.Sprintf("verified: the tree of %d begins with the tree of %d", to.size, from.size),
		"store", store, "root of "+fmt.Sprint(from.size), base64Of(fromRoot)+signed(from),
		"root of "+fmt.Sprint(to.size), base64Of(toRoot)+signed(to), "vouched for by", v.by())
}
