package localpg

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// port only names the socket: the server listens on no network.
const port = "5432"

const socketName = ".s.PGSQL." + port

// maxSocketPath is the kernel's bound on the path of a socket, less the final
// NUL: 107 bytes on Linux.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// fits reports whether a socket in dir can be bound and be named in a
// connection string, where a comma separates hosts.
func fits(dir string) bool {
	return len(filepath.Join(dir, socketName)) <= maxSocketPath && !strings.Contains(dir, ",")
}

// socketDir returns a directory for the socket that only the account can
// enter: the data directory itself, or one with a short path that is derived
// from it and so found again.
func socketDir(home string, acct account) (string, error) {
	if fits(home) {
		return home, nil
	}
	sum := sha256.Sum256([]byte(home))
	name := "relay-pg-" + hex.EncodeToString(sum[:8])
	for _, temp := range []string{os.TempDir(), "/tmp"} {
		dir := filepath.Join(temp, name)
		if filepath.IsAbs(dir) && fits(dir) && acct.reaches(dir) == nil {
			return dir, makeSocketDir(dir, acct)
		}
	}
	return "", fmt.Errorf("the path of %s is too long for a socket, and no directory for temporary files is usable: "+
		"choose a shorter one with RELAY_DATA_DIR", home)
}

// makeSocketDir makes dir, or takes the one that an earlier server left.
// Where all may write, somebody else may have made it first: then it is
// theirs, or a link, and is refused.
func makeSocketDir(dir string, acct account) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making a directory for the socket: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("checking the directory for the socket: %w", err)
	}
	// Ours by now, or root's between Mkdir and give: nobody else can have made those.
	uid, _ := owner(info)
	if !info.IsDir() || (uid != acct.uid && uid != os.Geteuid()) {
		return fmt.Errorf("%s was made by another account (uid %d): remove it, or choose a shorter RELAY_DATA_DIR", dir, uid)
	}
	if err := errors.Join(acct.give(dir), os.Chmod(dir, 0o700)); err != nil {
		return fmt.Errorf("closing the directory of the socket to others: %w", err)
	}
	return nil
}

// removeSocketDir removes the directory of a stopped server's socket, unless
// that is the data directory. One that holds more than it should stays.
func removeSocketDir(dir, home string) error {
	if dir == home {
		return nil
	}
	err := os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

// removeStaleSocket removes what a killed server has left of its socket. The
// caller holds the directory and knows that no server of it runs; PostgreSQL
// itself takes a lock file seriously while the process it names exists, if
// only as a zombie that nobody has waited for.
func removeStaleSocket(dir string) error {
	for _, name := range []string{".s.PGSQL." + port, ".s.PGSQL." + port + ".lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the socket of a server that was killed: %w", err)
		}
	}
	return nil
}
