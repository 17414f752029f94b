package bench

import (
	"os"
	"syscall"
)

// syncData brings what was written to the disk, as Postgres does it for its
// log: without what the file system notes of the file besides.
func syncData(file *os.File) error { return syscall.Fdatasync(int(file.Fd())) }
