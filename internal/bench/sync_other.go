//go:build !linux

package bench

import "os"

// syncData brings what was written to the disk. Not every system has a
// cheaper call than this one.
func syncData(file *os.File) error { return file.Sync() }
