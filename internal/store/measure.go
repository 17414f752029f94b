package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Probe reads what a server has done, for measurements. It keeps one
// connection of its own open: a new one for each reading would cost the server
// more than some of what is measured. It is not safe for concurrent use.
type Probe struct {
	conn    *pgx.Conn
	inspect bool // the server can tell what its WAL is made of
}

// OpenProbe connects to a server as one who may make extensions. Where
// pg_walinspect (PostgreSQL 15, contrib) is missing, FullPages knows nothing.
func OpenProbe(ctx context.Context, url string) (*Probe, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, translate("connecting for measurements", err)
	}
	_, err = conn.Exec(ctx, `CREATE EXTENSION IF NOT EXISTS pg_walinspect`)
	return &Probe{conn: conn, inspect: err == nil}, nil
}

// Close ends the probe's connection.
func (p *Probe) Close(ctx context.Context) { _ = p.conn.Close(ctx) }

// WAL returns how many bytes of WAL the server has ever written.
func (p *Probe) WAL(ctx context.Context) (n int64, err error) {
	err = p.conn.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&n)
	return n, translate("reading the WAL position", err)
}

// FullPages returns how many bytes between two positions of WAL are images of
// whole pages, which the first change of a page after a checkpoint writes.
// Only what has reached the disk is looked at. known is false where the server
// cannot tell.
func (p *Probe) FullPages(ctx context.Context, from, to int64) (n int64, known bool, err error) {
	if !p.inspect || from == to {
		return 0, p.inspect, nil
	}
	err = p.conn.QueryRow(ctx, `
		SELECT coalesce(sum(fpi_size), 0)::bigint
		FROM pg_get_wal_stats('0/0'::pg_lsn + $1::bigint, least('0/0'::pg_lsn + $2::bigint, pg_current_wal_flush_lsn()))`,
		from, to).Scan(&n)
	return n, true, translate("reading what the WAL is made of", err)
}

// Checkpoint writes all changed pages to disk, and returns when it has.
func (p *Probe) Checkpoint(ctx context.Context) error {
	_, err := p.conn.Exec(ctx, `CHECKPOINT`)
	return translate("making a checkpoint", err)
}

// measured are the parameters that decide what a commit costs and promises.
var measured = []string{
	"server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "wal_compression",
	"shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum", "commit_delay",
}

// Parameters returns the server's version and the settings that its figures
// depend on, by name.
func (p *Probe) Parameters(ctx context.Context) (map[string]string, error) {
	rows, _ := p.conn.Query(ctx, `
		SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1::text[])`, measured)
	out := map[string]string{}
	var name, value string
	_, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		out[name] = value
		return nil
	})
	return out, translate("reading the server's settings", err)
}
