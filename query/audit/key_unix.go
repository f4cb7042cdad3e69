//go:build unix

package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkPrivate refuses the file of a private key that another user may read or write.
func checkPrivate(file string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("the key %s can be read or written by others (its mode is %#o): see to it that nobody has a copy, then chmod 600 %s", file, mode, file)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("the key %s belongs to user %d, and this process is of user %d: chown it, or run as its owner", file, s.Uid, os.Geteuid())
	}
	return nil
}

// lockDir keeps other processes, and other signers of this one, from a directory until
// the file is unlocked or the process ends, however it ends.
func lockDir(d *os.File) error {
	err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another process signs with this key, and only one may: stop that one first, or start this one without the key")
	}
	return err
}

func unlockDir(d *os.File) error {
	// Closing is not enough while a child that is being started has the file too.
	return errors.Join(syscall.Flock(int(d.Fd()), syscall.LOCK_UN), d.Close())
}
