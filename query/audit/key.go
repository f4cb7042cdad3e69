package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/grantlog/grantlog/ledger/seal"
)

// A key is in files beside each other:
//
//	FILE          the private key, a line; mode 0600
//	FILE.pub      the public key, a line
//	FILE.signed/  what the key signed last, for each store: see [Signer]
const (
	PublicSuffix = ".pub"
	SignedSuffix = ".signed"
)

// maxKeyFile bounds what is read of a file that should hold a key.
const maxKeyFile = 4 << 10

// CreateKey makes a key under a name and writes its files, see above. It overwrites
// nothing: if one of them is there, that is an [fs.ErrExist]. Of a failure nothing is
// left behind.
func CreateKey(file, name string) (_ seal.Key, err error) {
	k, err := seal.GenerateKey(rand.Reader, name)
	if err != nil {
		return seal.Key{}, err
	}
	var made []string
	defer func() {
		for i := len(made) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, os.Remove(made[i]))
		}
	}()
	dir := file + SignedSuffix
	if err := os.Mkdir(dir, 0o700); err != nil {
		return seal.Key{}, err
	}
	made = append(made, dir)
	// The private key comes last: what is half made has none.
	public := k.String() + "\n"
	for _, f := range []struct {
		path, data string
		mode       fs.FileMode
	}{
		{filepath.Join(dir, ownerFile), public, 0o600},
		{file + PublicSuffix, public, 0o644},
		{file, k.Secret() + "\n", 0o600},
	} {
		created, err := writeNew(f.path, f.data, f.mode)
		if created {
			made = append(made, f.path)
		}
		if err != nil {
			return seal.Key{}, err
		}
	}
	for _, d := range []string{dir, filepath.Dir(file)} {
		if err := syncDir(d); err != nil {
			return seal.Key{}, err
		}
	}
	return k.Key, nil
}

// writeNew writes a file that must not be there, and reports whether it made one.
func writeNew(path, data string, mode fs.FileMode) (bool, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return false, err
	}
	_, err = f.WriteString(data)
	if err == nil {
		err = f.Sync()
	}
	return true, errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadKey reads a private key. Its file must be a regular one, or a link to one, that
// belongs to the user of this process and that nobody else may read or write. The
// errors hold nothing of the key.
func ReadKey(file string) (seal.PrivateKey, error) {
	text, err := readKeyFile(file, checkPrivate)
	if err != nil {
		if _, public := ReadPublicKey(file); public == nil {
			err = fmt.Errorf("%s holds a public key, and the private one is needed", file)
		}
		return seal.PrivateKey{}, err
	}
	k, err := seal.ParsePrivateKey(text)
	if _, public := seal.ParseKey(text); err != nil && public == nil {
		err = errors.New("it holds a public key, and the private one is needed")
	}
	if err != nil {
		return seal.PrivateKey{}, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// ReadPublicKey reads the file of a public key.
func ReadPublicKey(file string) (seal.Key, error) {
	text, err := readKeyFile(file, func(string, fs.FileInfo) error { return nil })
	if err != nil {
		return seal.Key{}, err
	}
	k, err := seal.ParseKey(text)
	if err != nil {
		return seal.Key{}, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// readKeyFile returns the one line of a key's file, once the check allows the file.
func readKeyFile(file string, check func(file string, info fs.FileInfo) error) (string, error) {
	regular := func(info fs.FileInfo) error {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", file)
		}
		return nil
	}
	// First without opening it: a pipe would wait for a writer.
	info, err := os.Stat(file)
	if err == nil {
		err = regular(info)
	}
	if err != nil {
		return "", err
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil { // of what is read, whatever has the name now
		err = errors.Join(regular(info), check(file, info))
	}
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxKeyFile {
		return "", fmt.Errorf("%s holds more than a key", file)
	}
	return strings.TrimSuffix(string(data), "\n"), nil
}
