package localpg

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	role = "relay" // the name of both the user and the database

	lockName    = "relay-postgres.lock"
	clusterName = "cluster"
	tryPrefix   = "initdb-"
	logName     = "postgres.log"

	// A log of logLimit is cut to its last logKept bytes when Run next looks
	// at it, and at each start.
	logLimit = 8 << 20
	logKept  = 1 << 20

	tailLimit = 4 << 10 // how much of the log an error quotes
)

// home is the data directory, locked. All access goes through root, which
// follows no link out of it: under root the directory is another account's.
type home struct {
	path    string // absolute, without symbolic links
	root    *os.Root
	lock    *os.File
	account account
}

// openHome makes the directory where it is missing, claims and locks it.
func openHome(path string, acct account) (*home, error) {
	path, err := makeDir(path)
	if err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	if err := claim(path, acct); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	h := &home{path: path, root: root, account: acct}
	if err := h.takeLock(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return h, nil
}

// makeDir makes path and the directories above it, and returns it absolute.
func makeDir(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	// The ones above hold nothing, and the server's account must pass them.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// claim checks that the directory is empty or ours, and that the account
// owns and reaches it.
func claim(path string, acct account) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("checking the data directory: %w", err)
	}
	if uid, _ := owner(info); uid != acct.uid && !acct.switched {
		return ownedByOther(path, uid, acct)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("reading the data directory: %w", err)
	}
	marked := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == lockName })
	if len(entries) > 0 && !marked {
		return fmt.Errorf("%s holds something else (%s) and stays untouched: "+
			"choose an empty directory with RELAY_DATA_DIR", path, entries[0].Name())
	}
	if err := acct.reaches(path); err != nil {
		return err
	}
	if uid, _ := owner(info); uid != acct.uid {
		if len(entries) > 0 {
			return ownedByOther(path, uid, acct)
		}
		if err := acct.give(path); err != nil {
			return fmt.Errorf("giving the data directory to %s: %w", acct.name, err)
		}
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("closing the data directory to others: %w", err)
	}
	return nil
}

func ownedByOther(path string, uid int, acct account) error {
	return fmt.Errorf("%s belongs to uid %d, but PostgreSQL would run as %s: "+
		"start the relay as the user who made it, or choose another data directory with RELAY_DATA_DIR",
		path, uid, acct.name)
}

// takeLock makes us the only relay of the directory for as long as we live.
func (h *home) takeLock() error {
	lock, err := h.openOwned(lockName, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("opening the lock of the data directory: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := io.ReadAll(io.LimitReader(lock, 20)) // for the message only
		err = fmt.Errorf("another relay (process %s) uses it: stop that one first, "+
			"or, for a database that has nothing to do with it, choose another data directory with RELAY_DATA_DIR", bytes.TrimSpace(holder))
	}
	if err == nil {
		err = errors.Join(lock.Truncate(0), writeAt(lock, strconv.Itoa(os.Getpid())+"\n"))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("locking %s: %w", h.path, err), lock.Close())
	}
	h.lock = lock
	return nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// close gives the lock back.
func (h *home) close() error { return errors.Join(h.lock.Close(), h.root.Close()) }

// openOwned opens or makes a file that belongs to the account, so that the
// next relay may also run as that account itself.
func (h *home) openOwned(name string, flag int) (*os.File, error) {
	f, err := h.root.OpenFile(name, flag|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if h.account.switched {
		if err := f.Chown(h.account.uid, h.account.gid); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// replace puts a file in the place of another in one step.
func (h *home) replace(name, text string) error {
	f, err := h.openOwned(name+".new", os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return err
	}
	if err := errors.Join(writeAt(f, text), f.Close()); err != nil {
		return err
	}
	return h.root.Rename(name+".new", name)
}

func (h *home) cluster() string { return filepath.Join(h.path, clusterName) }

// clusterVersion returns the major version that made the database, or
// noCluster.
func (h *home) clusterVersion() (int, error) {
	text, err := h.root.ReadFile(filepath.Join(clusterName, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := h.root.Lstat(clusterName); errors.Is(statErr, fs.ErrNotExist) {
			return noCluster, nil
		}
	}
	if err != nil {
		return 0, fmt.Errorf("reading the version of the database: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("reading the version of the database in %s: %w", h.cluster(), err)
	}
	return major, nil
}

// createCluster makes the database under a name of its own and renames it
// when it is complete. The name is random, because an initdb that outlived
// its relay may still be writing under the one it was given.
func (h *home) createCluster(ctx context.Context, b binaries) error {
	if err := h.removeTries(); err != nil {
		return fmt.Errorf("removing an interrupted initdb: %w", err)
	}
	try := tryPrefix + rand.Text()
	if err := h.fill(ctx, b, filepath.Join(h.path, try)); err != nil {
		return errors.Join(err, h.root.RemoveAll(try))
	}
	if err := h.root.Rename(try, clusterName); err != nil {
		return fmt.Errorf("putting the new database in its place: %w", err)
	}
	return h.sync()
}

func (h *home) removeTries() error {
	entries, err := fs.ReadDir(h.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tryPrefix) {
			if err := h.root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill makes a database cluster in dir, with the role and the database relay.
func (h *home) fill(ctx context.Context, b binaries, dir string) error {
	if err := h.tool(ctx, "", b.path("initdb"), "--pgdata="+dir, "--username="+role, "--encoding=UTF8",
		"--locale=C", "--auth-local=trust", "--auth-host=reject", "--no-instructions"); err != nil {
		return err
	}
	return h.tool(ctx, "CREATE DATABASE "+role+";\n", b.path("postgres"), "--single", "-D", dir, "postgres")
}

// tool runs one of PostgreSQL's programs to its end. Its output is small and
// only told when it fails.
func (h *home) tool(ctx context.Context, input, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	h.account.prepare(cmd, h.path)
	cmd.WaitDelay = 5 * time.Second // the children of a killed initdb hold its output open
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("running %s: %w%s", program, err, quote(out))
	}
	return nil
}

// sync makes the names in the directory durable.
func (h *home) sync() error {
	dir, err := h.root.Open(".")
	if err != nil {
		return fmt.Errorf("opening the data directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	return nil
}

// openLog opens the server's log for appending: whoever truncates it later
// leaves no hole.
func (h *home) openLog() (*os.File, error) { return h.openOwned(logName, os.O_APPEND|os.O_WRONLY) }

// trimLog cuts a log that has grown beyond logLimit to its last logKept
// bytes. The server keeps the file open, so the bytes move and the file
// stays; lines that are written in between are lost.
func (h *home) trimLog() error {
	f, err := h.openOwned(logName, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= logLimit {
		return err
	}
	kept := make([]byte, logKept)
	n, err := f.ReadAt(kept, info.Size()-logKept)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return errors.Join(f.Truncate(0), writeAt(f, string(kept[:n])))
}

// logTail returns the last lines of the log, nothing from before offset.
func (h *home) logTail(offset int64) []byte {
	f, err := h.root.Open(logName)
	if err != nil {
		return nil // the tail decorates an error that says enough without it
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	offset = max(offset, info.Size()-tailLimit)
	tail, _ := io.ReadAll(io.NewSectionReader(f, offset, tailLimit)) // as much as can be read
	return tail
}

// quote sets what a program said below the error that it explains.
func quote(output []byte) string {
	output = bytes.TrimSpace(output)
	if len(output) == 0 {
		return ""
	}
	if cut := len(output) - tailLimit; cut > 0 {
		output = output[cut:]
	}
	return "\n\t" + strings.ReplaceAll(string(output), "\n", "\n\t")
}
