package localpg

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// Programs are those of an installed PostgreSQL, for tests that need a server
// which Start does not make: one that listens on the network, a standby.
type Programs struct {
	binaries binaries
	account  account
}

// FindPrograms finds the installation that Start would use for a new database.
func FindPrograms(ctx context.Context) (*Programs, error) {
	acct, err := serverAccount()
	if err != nil {
		return nil, err
	}
	b, err := installed(ctx).choose(ctx, acct, noCluster)
	if err != nil {
		return nil, err
	}
	// A directory of links may hold the few programs that Start needs, and not
	// those beside them.
	if program, err := filepath.EvalSymlinks(b.path("postgres")); err == nil {
		b.dir = filepath.Dir(program)
	}
	return &Programs{binaries: b, account: acct}, nil
}

// Command prepares one of the programs to run in dir, as the account that a
// server must run as, with an environment that holds nothing of ours.
func (p *Programs) Command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.binaries.path(program), args...)
	p.account.prepare(cmd, dir)
	return cmd
}

// Give makes the account of the programs the owner of a directory that the
// caller has made.
func (p *Programs) Give(path string) error {
	if err := p.account.give(path); err != nil {
		return fmt.Errorf("giving a directory to %s: %w", p.account.name, err)
	}
	return nil
}
