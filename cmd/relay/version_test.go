package main

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"relay.example/relay/internal/store/storetest"
)

// TestVersion builds the program as a release is built and reads what it says
// of itself.
func TestVersion(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "relay")
	const linked = "-X main.linkedVersion=v1.2.3 -X main.linkedCommit=0123456789abcdef0123"
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags", linked, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program, "--version").Output()
	if err != nil {
		t.Fatalf("relay --version: %v", err)
	}
	want := "relay v1.2.3, commit 0123456789ab, " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + "\n"
	if got := string(out); got != want {
		t.Errorf("relay --version: got %q, want %q", got, want)
	}
}

// TestVersionUnlinked holds that a program of which nothing is known says so.
func TestVersionUnlinked(t *testing.T) {
	t.Parallel()
	b := thisEdition()
	if b.version == "" || b.commit == "" {
		t.Errorf("got %+v, want every word filled in", b)
	}
	if got := mustRun(t, nil, "--version"); got != b.String()+"\n" {
		t.Errorf("relay --version: got %q, want %q", got, b)
	}
}

// TestPing asks a relay that is well, one that drains and one that is not
// there.
func TestPing(t *testing.T) {
	t.Parallel()
	n := startNode(t, settingsOf(storetest.URL(t, true)))
	ops := strings.TrimPrefix(n.ops, "http://")
	if _, err := command(t, map[string]string{"RELAY_OPS_LISTEN": ops}, "ping"); err != nil {
		t.Errorf("relay ping: got %v, want nil from a relay that is up", err)
	}
	everywhere := ":" + ops[strings.LastIndex(ops, ":")+1:]
	if _, err := command(t, map[string]string{"RELAY_OPS_LISTEN": everywhere}, "ping"); err != nil {
		t.Errorf("relay ping with %s: got %v, want nil", everywhere, err)
	}
	draining := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	_, err := command(t, nil, "ping", draining.URL)
	wantRefusal(t, err, draining.URL, "503")
	draining.Close()
	_, err = command(t, nil, "ping", draining.URL)
	wantRefusal(t, err, draining.URL, "refused")
	_, err = command(t, map[string]string{"RELAY_OPS_LISTEN": "9090"}, "ping")
	wantRefusal(t, err, "RELAY_OPS_LISTEN", "missing port")
}
