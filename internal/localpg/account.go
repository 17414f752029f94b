package localpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is whom the server runs as: ourselves, or under root another.
type account struct {
	name     string
	uid, gid int
	switched bool // not ourselves: root drops to it
}

// serverAccount picks the account. Root must drop its rights, because
// PostgreSQL refuses to run with them.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{name: "uid " + strconv.Itoa(os.Geteuid()), uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		var unknown user.UnknownUserError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return account{}, fmt.Errorf("looking up the account %s: %w", name, err)
		}
		return newAccount(u)
	}
	return account{}, errors.New("there is no account postgres or nobody, and PostgreSQL does not run as root: " +
		"start the relay as an ordinary user")
}

func newAccount(u *user.User) (account, error) {
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 31)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 31)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return account{}, fmt.Errorf("reading the ids of account %s: %w", u.Username, err)
	}
	return account{name: u.Username, uid: int(uid), gid: int(gid), switched: true}, nil
}

// prepare sets up cmd to run as the account, in dir, in a process group of
// its own: Ctrl-C at a terminal must reach the relay first, which still needs
// the server to finish. The environment is reduced to what PostgreSQL needs:
// ours holds secrets, and PG… variables would change its settings.
func (a account) prepare(cmd *exec.Cmd, dir string) {
	cmd.Dir = dir
	cmd.Env = []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
}

// give makes the account the owner of a path that we have just made. Only
// root can, and only root needs to.
func (a account) give(path string) error {
	if !a.switched {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// reaches fails when a directory above path is closed to the account, and
// names it. For ourselves the kernel tells soon enough.
func (a account) reaches(path string) error {
	if !a.switched {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("checking the way to the data directory: %w", err)
		}
		if !a.mayEnter(info) {
			return fmt.Errorf("%s is closed to the account %s, which PostgreSQL runs as under root: "+
				"open it (chmod o+x %[1]s) or choose another data directory with RELAY_DATA_DIR", dir, a.name)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (a account) mayEnter(info fs.FileInfo) bool {
	uid, gid := owner(info)
	switch {
	case uid == a.uid:
		return info.Mode()&0o100 != 0
	case gid == a.gid:
		return info.Mode()&0o010 != 0
	default:
		return info.Mode()&0o001 != 0
	}
}

// owner returns whose a file is, or -1 where the file system cannot say.
func owner(info fs.FileInfo) (uid, gid int) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, -1
	}
	return int(stat.Uid), int(stat.Gid)
}
