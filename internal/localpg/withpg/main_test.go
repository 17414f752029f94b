package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestMain lets the test binary play the command itself.
func TestMain(m *testing.M) {
	if os.Getenv("RELAY_WITHPG_TEST_ROLE") == "command" {
		main()
	}
	os.Exit(m.Run())
}

func command(t *testing.T, temp string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "RELAY_WITHPG_TEST_ROLE=command", "TMPDIR="+temp)
	return cmd
}

// tempDir is one that the server's account can reach, too.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("left behind: got %v, want nothing", entries)
	}
}

func exitCodeOf(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("running withpg: %v", err)
	}
	return exit.ExitCode()
}

func TestWithpg(t *testing.T) {
	t.Parallel()
	// The command sees a URL and a socket that is there.
	const alive = `case $RELAY_TEST_DATABASE_URL in postgres://relay@/relay?host=*) ;; *) exit 1;; esac
		test -S "$TMPDIR"/relay-withpg-*/.s.PGSQL.5432 && exit 7`
	for name, tc := range map[string]struct {
		args []string
		want int
		says string
	}{
		"the command's exit code":   {[]string{"sh", "-c", alive}, 7, ""},
		"after two dashes":          {[]string{"--", "sh", "-c", "exit 0"}, 0, ""},
		"a command killed":          {[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		"a command that is missing": {[]string{"/no/such/command"}, 127, "no such file"},
		"no command":                {nil, 2, "no command given"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			temp := tempDir(t)
			cmd := command(t, temp, tc.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if got := exitCodeOf(t, cmd.Run()); got != tc.want {
				t.Errorf("exit code: got %d, want %d\n%s", got, tc.want, &stderr)
			}
			if !bytes.Contains(stderr.Bytes(), []byte(tc.says)) {
				t.Errorf("stderr: got %q, want one with %q", &stderr, tc.says)
			}
			wantEmpty(t, temp)
		})
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	temp := tempDir(t)
	cmd := command(t, temp, "sh", "-c", `trap 'kill $!; exit 5' TERM; sleep 600 & echo ready; wait`)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("command: got %q (%v), want ready", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := exitCodeOf(t, cmd.Wait()); got != 5 {
		t.Errorf("exit code: got %d, want 5", got)
	}
	wantEmpty(t, temp)
}
