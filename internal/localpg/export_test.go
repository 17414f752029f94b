package localpg

import "context"

// Choose looks for PostgreSQL in dirs and returns the version it would use.
func Choose(ctx context.Context, dirs []string, wanted int) (string, error) {
	acct, err := serverAccount()
	if err != nil {
		return "", err
	}
	b, err := places(dirs).choose(ctx, acct, wanted)
	return b.version, err
}
