package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile writes a file that has its name only once it is whole and on disk, readable
// by this user alone. If anything fails, a full disk too, nothing is left, and what had
// the name before is as it was.
//
// What has the name must be a regular file, and is replaced only with overwrite. write
// may read again what it wrote.
func writeFile(name string, overwrite bool, write func(f *os.File) error) error {
	if err := mayWrite(name, overwrite); err != nil {
		return err
	}
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*.partial")
	if err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = mayWrite(name, overwrite) // it may have come meanwhile
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := syncDirectory(dir); err != nil {
		return fmt.Errorf("%s is written, but may not survive a crash of the machine: %w", name, err)
	}
	return nil
}

// writeBytes is writeFile of something short, in the place of what has the name.
func writeBytes(name string, data []byte) error {
	return writeFile(name, true, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// mayWrite returns an error if something has the name that must not be replaced.
func mayWrite(name string, overwrite bool) error {
	if name == "" {
		return errors.New("the name of the file is empty")
	}
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is there and is no regular file; name another", name)
	case !overwrite:
		return fmt.Errorf("%s is there already; name another file, or replace it with --force", name)
	}
	return nil
}
