package localpg_test

import (
	"strings"
	"testing"

	"relay.example/relay/internal/localpg"
)

// TestPrograms runs one that Start does not need, and that a directory of
// links to those it needs may lack.
func TestPrograms(t *testing.T) {
	t.Parallel()
	programs, err := localpg.FindPrograms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := programs.Command(t.Context(), "/", "pg_basebackup", "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PostgreSQL") {
		t.Errorf("pg_basebackup --version: got %q, %v, want its version", out, err)
	}
}
