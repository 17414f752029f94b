package localpg_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"relay.example/relay/internal/localpg"
)

// roleVar makes the test binary play a process of its own: a relay that is
// killed, or one that runs as somebody else.
const roleVar = "RELAY_LOCALPG_TEST_ROLE"

// someone is the account that root's tests use as the ordinary user, and as
// the stranger.
const someone = 65534

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "relay":
		os.Exit(playRelay(os.Args[1]))
	}
}

// playRelay starts a server, tells of it, and stops it when its input ends.
func playRelay(dir string) int {
	server, err := localpg.Start(context.Background(), localpg.Config{DataDir: dir})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(server.PID(), server.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := server.Stop(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// relayProcess is a playRelay that has its server up.
type relayProcess struct {
	cmd       *exec.Cmd
	stdin     io.Closer
	serverPID int
	url       string
}

func startRelayProcess(t *testing.T, program, dir string, as *syscall.Credential) *relayProcess {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, dir)
	cmd.Env = append(os.Environ(), roleVar+"=relay")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	stdin, inErr := cmd.StdinPipe()
	stdout, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatalf("starting a relay process: %v", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("reading what the relay process says: %v", err)
	}
	p := &relayProcess{cmd: cmd, stdin: stdin}
	if _, err := fmt.Sscanf(line, "%d %s", &p.serverPID, &p.url); err != nil {
		t.Fatalf("relay process: got %q, want a process id and a URL", line)
	}
	return p
}

// newDir returns a path for a data directory that the server's account can
// reach: the testing package closes its directories to others.
func newDir(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	letIn(t, dir)
	return filepath.Join(dir, name)
}

func letIn(t *testing.T, dir string) {
	t.Helper()
	for top := filepath.Clean(os.TempDir()); dir != top && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatalf("opening %s to the server's account: %v", dir, err)
		}
	}
}

func start(t *testing.T, cfg localpg.Config) *localpg.Server {
	t.Helper()
	server, err := localpg.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() { stop(t, server) })
	return server
}

func stop(t *testing.T, server *localpg.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// ask runs a statement that returns one text on a connection of its own.
func ask(t *testing.T, url, sql string) string {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	var answer string
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func tell(t *testing.T, url, sql string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func socketDir(t *testing.T, server *localpg.Server) string {
	t.Helper()
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatalf("parsing the URL: %v", err)
	}
	return u.Query().Get("host")
}

func wantGone(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("server process %d: got %v, want it gone", pid, err)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("killing process %d: %v", pid, err)
	}
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("error: got %v, want one with %q", err, word)
		}
	}
}

func TestStartKeepsItsData(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{
		"plain path":              "data",
		"spaces and quotes":       `my "data" dir, it's 100% & +1`,
		"comma":                   "a,b",
		"directories to be made":  "var/lib/relay",
		"longer than a socket's":  strings.Repeat("long/", 30) + "data",
		"not in the ASCII subset": "Jürgens Daten",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t, dir)
			first := start(t, localpg.Config{DataDir: dir})
			tell(t, first.URL(), "CREATE TABLE kept AS SELECT 'kept'::text AS word")
			stop(t, first)
			wantGone(t, first.PID())

			second := start(t, localpg.Config{DataDir: dir})
			if got := ask(t, second.URL(), "SELECT word FROM kept"); got != "kept" {
				t.Errorf("after a restart: got %q, want %q", got, "kept")
			}
			socket := socketDir(t, second)
			stop(t, second)
			if _, err := os.Stat(socket); socket != dir && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("directory of the socket: got %v, want it removed", err)
			}
		})
	}
}

func TestServerIsPrivateAndTuned(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{DataDir: newDir(t, "data"), Settings: map[string]string{"max_connections": "33"}})
	got := map[string]string{}
	for name := range map[string]bool{
		"listen_addresses": true, "max_connections": true, "shared_buffers": true, "fsync": true,
		"server_encoding": true, "lc_collate": true, "TimeZone": true, "log_error_verbosity": true,
	} {
		got[name] = ask(t, server.URL(), "SHOW "+name)
	}
	got["who"] = ask(t, server.URL(), "SELECT current_user || '@' || current_database()")
	want := map[string]string{
		"listen_addresses": "", "max_connections": "33", "shared_buffers": "128MB", "fsync": "on",
		"server_encoding": "UTF8", "lc_collate": "C", "TimeZone": "UTC", "log_error_verbosity": "terse",
		"who": "relay@relay",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	info, err := os.Stat(socketDir(t, server))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("mode of the socket's directory: got %o, want 700", got)
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	foreign := newDir(t, "documents")
	if err := errors.Join(os.Mkdir(foreign, 0o755), os.WriteFile(filepath.Join(foreign, "letter.txt"), []byte("dear"), 0o644)); err != nil {
		t.Fatal(err)
	}
	before := stat(t, foreign)
	inUse := newDir(t, "data")
	start(t, localpg.Config{DataDir: inUse})

	for name, tc := range map[string]struct {
		cfg  localpg.Config
		want []string
	}{
		"no directory":     {localpg.Config{}, []string{"no data directory"}},
		"foreign contents": {localpg.Config{DataDir: foreign}, []string{"letter.txt", "untouched", "RELAY_DATA_DIR"}},
		"second relay":     {localpg.Config{DataDir: inUse}, []string{"another relay", fmt.Sprintf("process %d", os.Getpid())}},
		"private setting": {
			localpg.Config{DataDir: newDir(t, "a"), Settings: map[string]string{"Listen_Addresses": "*"}},
			[]string{"Listen_Addresses"},
		},
		"bad setting, with the log's last lines": {
			localpg.Config{DataDir: newDir(t, "b"), Settings: map[string]string{"shared_buffers": "plenty"}},
			[]string{"starting PostgreSQL", `invalid value for parameter "shared_buffers": "plenty"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := localpg.Start(t.Context(), tc.cfg)
			wantError(t, err, tc.want...)
		})
	}
	t.Cleanup(func() {
		if diff := cmp.Diff(before, stat(t, foreign)); diff != "" {
			t.Errorf("foreign directory (-before +after):\n%s", diff)
		}
	})
}

// stat tells of a directory what a claim would change.
func stat(t *testing.T, dir string) string {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	owner, _ := info.Sys().(*syscall.Stat_t)
	return fmt.Sprint(info.Mode(), owner.Uid, owner.Gid, entries)
}

func TestStartRedoesAnInterruptedInitdb(t *testing.T) {
	t.Parallel()
	dir := newDir(t, "data")
	stop(t, start(t, localpg.Config{DataDir: dir}))
	rest := filepath.Join(dir, "initdb-INTERRUPTED")
	if err := os.Rename(filepath.Join(dir, "cluster"), rest); err != nil {
		t.Fatal(err)
	}
	server := start(t, localpg.Config{DataDir: dir})
	if got := ask(t, server.URL(), "SELECT 'up'"); got != "up" {
		t.Errorf("query: got %q, want up", got)
	}
	if _, err := os.Stat(rest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("interrupted initdb: got %v, want it removed", err)
	}
}

func TestStartGivenUpLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := newDir(t, "data")
	ctx, cancel := context.WithCancelCause(t.Context())
	changedMind := errors.New("changed my mind")
	log := newWatchedLog()
	go func() {
		<-log.said("making a private PostgreSQL database")
		cancel(changedMind)
	}()
	if _, err := localpg.Start(ctx, localpg.Config{DataDir: dir, Logger: log.logger()}); !errors.Is(err, changedMind) {
		t.Errorf("Start: got %v, want %v", err, changedMind)
	}
	if tries, _ := filepath.Glob(filepath.Join(dir, "initdb-*")); len(tries) > 0 {
		t.Errorf("interrupted initdb: got %v, want none", tries)
	}
	start(t, localpg.Config{DataDir: dir}) // the lock is free
}

func TestStartAdoptsTheServerOfAKilledRelay(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{
		"socket in the data directory": "data",
		"socket elsewhere":             strings.Repeat("long/", 30) + "data",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t, dir)
			relay := startRelayProcess(t, executable(t), dir, nil)
			kill(t, relay.cmd.Process.Pid)
			_ = relay.cmd.Wait() // killed

			server := start(t, localpg.Config{DataDir: dir})
			if got := server.PID(); got != relay.serverPID {
				t.Errorf("server process: got %d, want the running one, %d", got, relay.serverPID)
			}
			if diff := cmp.Diff(relay.url, server.URL()); diff != "" {
				t.Errorf("URL (-want +got):\n%s", diff)
			}
			if got := ask(t, server.URL(), "SELECT 'up'"); got != "up" {
				t.Errorf("query: got %q, want up", got)
			}
			stop(t, server)
			if _, err := os.Stat(filepath.Join(dir, "cluster", "postmaster.pid")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("postmaster.pid: got %v, want it removed by a clean shutdown", err)
			}
		})
	}
}

func TestStartAfterTheServerWasKilled(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(t *testing.T, pidFile, lockFile string){
		"number unused": func(*testing.T, string, string) {},
		"number is another process's by now": func(t *testing.T, pidFile, lockFile string) {
			other := exec.CommandContext(t.Context(), "sleep", "600")
			info, err := os.Stat(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			if owner, _ := info.Sys().(*syscall.Stat_t); int(owner.Uid) != os.Getuid() {
				other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
			}
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = other.Process.Kill()
				_ = other.Wait()
			})
			text, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(text), "\n")
			for _, file := range []string{pidFile, lockFile} {
				if err := os.WriteFile(file, fmt.Appendf(nil, "%d\n%s", other.Process.Pid, rest), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t, "data")
			first := start(t, localpg.Config{DataDir: dir})
			tell(t, first.URL(), "CREATE TABLE kept AS SELECT 'kept'::text AS word")
			kill(t, first.PID())
			stop(t, first) // gives the lock back
			at, err := url.Parse(first.URL())
			if err != nil {
				t.Fatal(err)
			}
			leave(t, filepath.Join(dir, "cluster", "postmaster.pid"), filepath.Join(at.Query().Get("host"), ".s.PGSQL.5432.lock"))

			second := start(t, localpg.Config{DataDir: dir})
			if got := ask(t, second.URL(), "SELECT word FROM kept"); got != "kept" {
				t.Errorf("after recovery: got %q, want %q", got, "kept")
			}
		})
	}
}

func TestStopAtOnceWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{DataDir: newDir(t, "data")})
	connect(t, server.URL())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Stop(ctx); err != nil {
		t.Errorf("Stop: got %v, want nil", err)
	}
	wantGone(t, server.PID())
	if err := server.Stop(ctx); err != nil {
		t.Errorf("second Stop: got %v, want nil", err)
	}
}

func TestRunStartsADeadServerAgain(t *testing.T) {
	t.Parallel()
	log := newWatchedLog()
	server := start(t, localpg.Config{DataDir: newDir(t, "data"), Logger: log.logger()})
	<-log.said("private PostgreSQL is up")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()

	keepBusy(t, server.URL())
	first := server.PID()
	kill(t, first)
	<-log.said("private PostgreSQL is up")
	if got := server.PID(); got == first {
		t.Errorf("server process: got %d again, want a new one", got)
	}
	if got := ask(t, server.URL(), "SELECT 'up'"); got != "up" {
		t.Errorf("query: got %q, want up", got)
	}

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
	wantGone(t, server.PID())
}

// keepBusy leaves a session computing for a second. It does not notice that
// its server is killed, and keeps the shared memory in use.
func keepBusy(t *testing.T, url string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	busy := make(chan struct{})
	cfg.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { close(busy) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = conn.Exec(t.Context(), `
			DO $$
			DECLARE until timestamptz := clock_timestamp() + interval '1 s';
			BEGIN
				RAISE NOTICE 'busy';
				WHILE clock_timestamp() < until LOOP END LOOP;
			END $$`) // fails with its server
	}()
	t.Cleanup(func() {
		<-ended
		_ = conn.Close(context.Background())
	})
	<-busy
}

func TestRunGivesUpOnAServerThatCannotStart(t *testing.T) {
	t.Parallel()
	dir := newDir(t, "data")
	server := start(t, localpg.Config{DataDir: dir})
	if err := os.Rename(filepath.Join(dir, "cluster"), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	kill(t, server.PID())
	wantError(t, server.Run(t.Context()), "more than 5 times", "could not access directory")
}

func TestRunEndsWithStop(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{DataDir: newDir(t, "data")})
	ended := make(chan error, 1)
	go func() { ended <- server.Run(t.Context()) }()
	stop(t, server)
	if err := <-ended; err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
}

func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	dir := newDir(t, "data")
	stop(t, start(t, localpg.Config{DataDir: dir}))
	path := filepath.Join(dir, "postgres.log")
	long := strings.Repeat("a line of the log\n", 1<<20) // 18 MiB
	if err := os.WriteFile(path, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	stop(t, start(t, localpg.Config{DataDir: dir}))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, limit := len(text), 2<<20; got > limit {
		t.Errorf("size of the log: got %d, want at most %d", got, limit)
	}
	if !strings.Contains(string(text), "database system is ready") {
		t.Error("the log misses what the server said after the cut")
	}
}

func TestSocketDirectoryMadeBySomebodyElse(t *testing.T) {
	t.Parallel()
	dir := newDir(t, strings.Repeat("long/", 30)+"data")
	server := start(t, localpg.Config{DataDir: dir})
	socket := socketDir(t, server)
	stop(t, server)
	if err := os.Symlink(t.TempDir(), socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(socket) })
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	wantError(t, err, socket, "another account")
}

func TestDatabaseOfAnotherVersion(t *testing.T) {
	t.Parallel()
	dir := newDir(t, "data")
	stop(t, start(t, localpg.Config{DataDir: dir}))
	version := filepath.Join(dir, "cluster", "PG_VERSION")
	if err := os.WriteFile(version, []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	wantError(t, err, "PostgreSQL 99", "postgresql-99", "RELAY_DATA_DIR")
}

func TestChoose(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	letIn(t, root)
	place := func(name, says string) string {
		dir := filepath.Join(root, name)
		script := "#!/bin/sh\necho '" + says + "'\n"
		err := os.Mkdir(dir, 0o755)
		for _, program := range []string{"initdb", "postgres"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	old := place("old", "postgres (PostgreSQL) 13.22 (Debian 13.22-1)")
	v15 := place("v15", "postgres (PostgreSQL) 15.13")
	v18 := place("v18", "postgres (PostgreSQL) 18beta2")
	odd := place("odd", "hello")
	empty := filepath.Join(root, "empty")

	const none = 0
	for name, tc := range map[string]struct {
		dirs    []string
		wanted  int
		version string
		failure []string
	}{
		"the first will do":               {dirs: []string{v18, v15}, wanted: none, version: "18beta2"},
		"a database binds the version":    {dirs: []string{v18, v15}, wanted: 15, version: "15.13"},
		"what cannot be used is passed":   {dirs: []string{empty, odd, old, v15}, wanted: none, version: "15.13"},
		"nothing installed":               {dirs: []string{empty}, wanted: none, failure: []string{"none was found", "apt-get install postgresql,", "brew install postgresql@17"}},
		"too old":                         {dirs: []string{old}, wanted: none, failure: []string{"no PostgreSQL 14 or newer", "13.22"}},
		"the database's version is gone":  {dirs: []string{v18}, wanted: 15, failure: []string{"made by PostgreSQL 15", "18beta2", "postgresql-15"}},
		"no version of PostgreSQL at all": {dirs: []string{odd}, wanted: none, failure: []string{"hello"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := localpg.Choose(t.Context(), tc.dirs, tc.wanted)
			if got != tc.version {
				t.Errorf("version: got %q, want %q", got, tc.version)
			}
			if tc.failure == nil && err != nil {
				t.Errorf("error: got %v, want none", err)
			}
			wantError(t, err, tc.failure...)
		})
	}
}

// executable returns the path of the test binary.
func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// watchedLog lets a test wait until something was logged.
type watchedLog struct {
	slog.Handler // discards
	messages     chan string
}

func newWatchedLog() watchedLog { return watchedLog{slog.DiscardHandler, make(chan string, 64)} }

func (l watchedLog) logger() *slog.Logger { return slog.New(l) }

func (l watchedLog) Enabled(context.Context, slog.Level) bool { return true }

func (l watchedLog) Handle(_ context.Context, r slog.Record) error {
	l.messages <- r.Message
	return nil
}

// said is closed when message comes; earlier messages are passed over.
func (l watchedLog) said(message string) <-chan struct{} {
	found := make(chan struct{})
	go func() {
		defer close(found)
		for got := range l.messages {
			if got == message {
				return
			}
		}
	}()
	return found
}
