//go:build !unix

package main

import (
	"math"
	"os"
)

// lockFile locks nothing where there is no flock: starting two processes on one
// directory is the operator's mistake there.
func lockFile(*os.File) error { return nil }

// freeSpace does not know: there is no guard against a full disk.
func freeSpace(string) (uint64, error) { return math.MaxUint64, nil }

// syncDirectory does nothing where directories cannot be synced.
func syncDirectory(string) error { return nil }
