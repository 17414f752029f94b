package store

import (
	"context"
	"fmt"
	"time"

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
// known is false where the server cannot tell.
func (p *Probe) FullPages(ctx context.Context, from, to int64) (n int64, known bool, err error) {
	if !p.inspect || from == to {
		return 0, p.inspect, nil
	}
	// Only what has reached the disk can be looked at: a commit that waits
	// takes along what others have not waited for.
	if _, err := p.conn.Exec(ctx, `
		BEGIN;
		SET LOCAL synchronous_commit = on;
		SELECT pg_logical_emit_message(true, 'relay bench', '');
		COMMIT`); err != nil {
		return 0, false, translate("bringing the WAL to the disk", err)
	}
	err = p.conn.QueryRow(ctx, `
		SELECT coalesce(sum(fpi_size), 0)::bigint
		FROM pg_get_wal_stats('0/0'::pg_lsn + $1::bigint, '0/0'::pg_lsn + $2::bigint)`,
		from, to).Scan(&n)
	return n, true, translate("reading what the WAL is made of", err)
}

// Checkpoint writes all changed pages to disk, and returns when it has.
func (p *Probe) Checkpoint(ctx context.Context) error {
	_, err := p.conn.Exec(ctx, `CHECKPOINT`)
	return translate("making a checkpoint", err)
}

// The server tells its sessions of new settings by a signal.
const (
	reloadWait = 5 * time.Second
	reloadLook = 5 * time.Millisecond
)

// CommitToDisk has commits wait for the disk, or not: on the whole server, so
// it is for a private one. It returns when the setting is there; sessions that
// are open have it with their next statement.
func (p *Probe) CommitToDisk(ctx context.Context, wait bool) error {
	want, sql := "off", `ALTER SYSTEM SET synchronous_commit = off`
	if wait {
		want, sql = "on", `ALTER SYSTEM SET synchronous_commit = on`
	}
	for _, step := range []string{sql, `SELECT pg_reload_conf()`} {
		if _, err := p.conn.Exec(ctx, step); err != nil {
			return translate("setting how commits wait", err)
		}
	}
	for deadline := time.Now().Add(reloadWait); time.Now().Before(deadline); {
		var is string
		if err := p.conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit')`).Scan(&is); err != nil {
			return translate("setting how commits wait", err)
		}
		if is == want {
			return nil
		}
		if _, err := p.conn.Exec(ctx, `SELECT pg_sleep($1)`, reloadLook.Seconds()); err != nil {
			return translate("setting how commits wait", err)
		}
	}
	return fmt.Errorf("setting how commits wait: the server has not made synchronous_commit %s within %s", want, reloadWait)
}

// giveUpTries is how often what is owed is given up, against nodes that change
// the same rows.
const giveUpTries = 5

// GiveUp ends all that is owed to a destination, so that it troubles nobody any
// more, and returns how many calls of it were recorded. It is for a private
// server too: nobody is told. The rows are cleaned up at once, so that what is
// measured next finds the tables as it would without them.
func (p *Probe) GiveUp(ctx context.Context, destination string) (calls int64, err error) {
	for range giveUpTries {
		err = p.conn.QueryRow(ctx, `
			WITH gone AS (
			    SELECT id FROM destinations WHERE name = $1
			), ended AS (
			    UPDATE deliveries SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = now()
			    WHERE destination_id IN (SELECT id FROM gone) AND status NOT IN ('delivered', 'dead', 'skipped')
			)
			SELECT coalesce(sum(attempts), 0) FROM deliveries WHERE destination_id IN (SELECT id FROM gone)`, destination).Scan(&calls)
		if !Conflicted(err) {
			break
		}
	}
	if err == nil {
		_, err = p.conn.Exec(ctx, `VACUUM deliveries, attempts`)
	}
	return calls, translate("giving up what is owed to a destination", err)
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
