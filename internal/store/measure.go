package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// WALPosition returns how many bytes of WAL a server has ever written, for
// measurements.
func WALPosition(ctx context.Context, url string) (n int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, translate("reading the WAL position", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&n)
	return n, translate("reading the WAL position", err)
}
