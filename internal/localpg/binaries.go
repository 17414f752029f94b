package localpg

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	oldestMajor  = 14 // the oldest PostgreSQL that the relay's statements are held to
	noCluster    = 0  // instead of a major version, where there is no database yet
	versionLimit = 10 * time.Second
)

// binaries is one installed PostgreSQL.
type binaries struct {
	dir     string
	major   int
	version string // as it names itself: 15.13
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// places lists directories that may hold PostgreSQL's programs, the preferred
// ones first.
type places []string

// installed lists the places of this machine.
func installed(ctx context.Context) places {
	var dirs places
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
	} {
		dirs = append(dirs, newestFirst(pattern)...)
	}
	if dir, ok := configured(ctx); ok {
		dirs = append(dirs, dir)
	}
	return dirs
}

// configured asks pg_config, where there is one, for the place it was built for.
func configured(ctx context.Context) (dir string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	return strings.TrimSpace(string(out)), err == nil
}

var digits = regexp.MustCompile(`\d+`)

// newestFirst returns the matches of a pattern whose * holds a version.
func newestFirst(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // fails only for a malformed pattern
	version := func(dir string) int {
		n, _ := strconv.Atoi(digits.FindString(dir)) // no version sorts last
		return n
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
	return dirs
}

// choose returns the first usable installation, or the first of the wanted
// major version: a database can be opened by its own version only.
func (p places) choose(ctx context.Context, acct account, wanted int) (binaries, error) {
	var seen []string
	for _, dir := range p {
		if !holdsServer(dir) {
			continue
		}
		b, err := identify(ctx, acct, dir)
		switch {
		case err != nil:
			seen = append(seen, fmt.Sprintf("%s (%v)", dir, err))
		case b.major == wanted, wanted == noCluster && b.major >= oldestMajor:
			return b, nil
		default:
			seen = append(seen, fmt.Sprintf("%s (version %s)", dir, b.version))
		}
	}
	if err := context.Cause(ctx); err != nil {
		return binaries{}, err
	}
	slices.Sort(seen)
	return binaries{}, notInstalled(wanted, slices.Compact(seen))
}

// holdsServer tells a server's programs from a client's, which distributions
// install alone.
func holdsServer(dir string) bool {
	_, initdb := os.Stat(filepath.Join(dir, "initdb"))
	_, postgres := os.Stat(filepath.Join(dir, "postgres"))
	return initdb == nil && postgres == nil
}

// identify asks the server program in dir for its version.
func identify(ctx context.Context, acct account, dir string) (binaries, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, versionLimit, fmt.Errorf("no version within %s", versionLimit))
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version")
	acct.prepare(cmd, "/")
	out, err := cmd.Output()
	if err != nil {
		return binaries{}, fmt.Errorf("asking for its version as %s: %w", acct.name, err)
	}
	return parseVersion(dir, string(out))
}

// versionLine is what `postgres --version` says: 15.13, 17rc1, 18devel.
var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)\S*)`)

func parseVersion(dir, line string) (binaries, error) {
	found := versionLine.FindStringSubmatch(line)
	if found == nil {
		return binaries{}, fmt.Errorf("%.80q is no version of PostgreSQL", line)
	}
	major, err := strconv.Atoi(found[2])
	if err != nil {
		return binaries{}, fmt.Errorf("%q is no version of PostgreSQL: %w", found[1], err)
	}
	return binaries{dir: dir, major: major, version: found[1]}, nil
}

// notInstalled says which package is missing.
func notInstalled(wanted int, seen []string) error {
	found := "none was found in PATH, /usr/lib/postgresql, Homebrew or by pg_config"
	if len(seen) > 0 {
		found = "found only " + strings.Join(seen, ", ")
	}
	if wanted != noCluster {
		return fmt.Errorf("the data directory was made by PostgreSQL %d, whose programs are missing; %s: "+
			"install that version (apt-get install postgresql-%[1]d, or brew install postgresql@%[1]d) "+
			"or choose another data directory with RELAY_DATA_DIR", wanted, found)
	}
	return fmt.Errorf("no PostgreSQL %d or newer; %s: "+
		"install it (apt-get install postgresql, or brew install postgresql@17)", oldestMajor, found)
}
