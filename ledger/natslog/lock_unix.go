//go:build unix

package natslog

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockDir keeps other processes, and other brokers of this one, from a directory; the
// broker itself does not, and two on one store ruin it. The lock ends with the process.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		d.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("another process uses it")
		}
		return nil, fmt.Errorf("lock it: %w", err)
	}
	return func() {
		syscall.Flock(int(d.Fd()), syscall.LOCK_UN) // closing is not enough while a child that is being started has it too
		d.Close()
	}, nil
}
