package localpg_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"relay.example/relay/internal/localpg"
)

// TestAccounts holds what needs two accounts, which only root has. For an
// ordinary user the other tests are the whole story.
func TestAccounts(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return
	}
	for name, test := range map[string]func(*testing.T){
		"an ordinary user's server":             ordinaryUser,
		"a directory of another account":        otherOwner,
		"a closed directory above":              closedParent,
		"an empty directory of root":            emptyDirectory,
		"a socket directory of another account": otherSocketDirectory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// ordinaryUser runs the test binary, where others can reach it, as a relay
// without root's rights.
func ordinaryUser(t *testing.T) {
	program := newDir(t, "relay")
	binary, err := os.ReadFile(executable(t))
	if err != nil {
		t.Fatal(err)
	}
	home := newDir(t, "home")
	if err := errors.Join(os.WriteFile(program, binary, 0o755), os.Mkdir(home, 0o700), os.Chown(home, someone, someone)); err != nil {
		t.Fatal(err)
	}
	for _, time := range []string{"first", "second"} {
		relay := startRelayProcess(t, program, filepath.Join(home, "my data"), &syscall.Credential{Uid: someone, Gid: someone})
		if got := ask(t, relay.url, "SELECT 'up'"); got != "up" {
			t.Errorf("%s time: got %q, want up", time, got)
		}
		if err := errors.Join(relay.stdin.Close(), relay.cmd.Wait()); err != nil {
			t.Errorf("%s time: relay ended with %v, want nil", time, err)
		}
		wantGone(t, relay.serverPID)
	}
}

func otherOwner(t *testing.T) {
	dir := newDir(t, "data")
	stop(t, start(t, localpg.Config{DataDir: dir}))
	if err := os.Chown(dir, someone, someone); err != nil {
		t.Fatal(err)
	}
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	wantError(t, err, dir, "belongs to uid 65534", "RELAY_DATA_DIR")
}

func closedParent(t *testing.T) {
	dir := newDir(t, "secret/relay/data")
	closed := filepath.Dir(filepath.Dir(dir))
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	wantError(t, err, closed+" is closed", "chmod o+x "+closed, "RELAY_DATA_DIR")
}

func emptyDirectory(t *testing.T) {
	dir := newDir(t, "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	server := start(t, localpg.Config{DataDir: dir})
	if got := ask(t, server.URL(), "SELECT 'up'"); got != "up" {
		t.Errorf("query: got %q, want up", got)
	}
}

func otherSocketDirectory(t *testing.T) {
	dir := newDir(t, strings.Repeat("long/", 30)+"data")
	server := start(t, localpg.Config{DataDir: dir})
	socket := socketDir(t, server)
	stop(t, server)
	if err := errors.Join(os.Mkdir(socket, 0o700), os.Chown(socket, someone, someone)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(socket) })
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	wantError(t, err, socket, "another account (uid 65534)")
}
