package store

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// Session returns what a platform has let some node in with, for the account
// that a destination has had since that count of releases. relay.NotFound
// where nobody has signed in.
func (s *Store) Session(ctx context.Context, destinationID, releases int64) (string, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT sealed FROM destination_sessions WHERE destination_id = $1 AND releases = $2`, destinationID, releases)
	sealed, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[[]byte])
	if _, err = oneOrNotFound(&sealed, err, "session"); err != nil {
		return "", translate("reading a session", err)
	}
	bound := sessionContext(strconv.FormatInt(destinationID, 10))
	plain, err := s.keys.Open(sealed, bound)
	if err != nil {
		return "", fmt.Errorf("%s: %w", bound, err)
	}
	return string(plain), nil
}

// PutSession keeps a session in the place of the one before. That of an
// account which the destination has no more is not kept.
func (s *Store) PutSession(ctx context.Context, destinationID, releases int64, session string) error {
	sealed := s.keys.Seal([]byte(session), sessionContext(strconv.FormatInt(destinationID, 10)))
	_, err := s.pool.Exec(ctx, `
		INSERT INTO destination_sessions AS d (destination_id, releases, sealed) VALUES ($1, $2, $3)
		ON CONFLICT (destination_id) DO UPDATE
		SET releases = excluded.releases, sealed = excluded.sealed, opened_at = now()
		WHERE d.releases <= excluded.releases`, destinationID, releases, sealed)
	return translate("keeping a session", err)
}
