package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/grantlog/grantlog/query/audit"
	"github.com/spf13/cobra"
)

// A keyMade is what keygen prints.
type keyMade struct {
	Name   string `json:"name"`
	Key    string `json:"public_key"`
	File   string `json:"file"`        // the private key
	Public string `json:"public_file"` // the public key
	Signed string `json:"signed_dir"`  // what it signed last
}

func (a *app) keygenCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "keygen NAME --out FILE",
		Short: "Make a key that signs checkpoints",
		Long: `Makes an Ed25519 key for "grantlog serve --signing-key FILE", and prints its public
half, which auditors keep and give as --key. It writes

  FILE         the private key, which only you may read
  FILE.pub     the public key
  FILE.signed  a directory, where the server remembers what the key has signed

and overwrites none of them. NAME stands in every checkpoint and tells keys apart: a
name of yours without spaces, such as grantlog.example.com/main. Of one log, one server
signs. Move and restore the three together, and never run two copies: a key that has
lost its memory could sign two different pasts, and so it signs nothing.

When entries that were signed are given up with "grantlog recover --accept-loss", the
key refuses what is left, for good. Make a new one with a new name then.`,
		Example: `  grantlog keygen grantlog.example.com/main --out grantlog.key
  grantlog serve --data ./data --signing-key grantlog.key`,
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("--out names the file of the key, and is needed")
			}
			key, err := audit.CreateKey(out, args[0])
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%w; a key is never overwritten: name another file", err)
			}
			if err != nil {
				return err
			}
			made := keyMade{key.Name(), key.String(), out, out + audit.PublicSuffix, out + audit.SignedSuffix}
			if a.json() {
				return a.value(made)
			}
			return a.facts("key "+made.Name, "public key", made.Key, "private key", made.File, "public key's file", made.Public, "what it signed", made.Signed)
		},
	}
	c.Flags().StringVar(&out, "out", "", "the `file` of the private key, which must not be there")
	return c
}
