package main

import (
	"strconv"
	"syscall"
)

// mountMemory mounts a disk in memory, of so many bytes.
func mountMemory(path string, size int64) error {
	return syscall.Mount("relay-fault", path, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size="+strconv.FormatInt(size, 10))
}

func unmountOnce(path string) error { return syscall.Unmount(path, 0) }
