// Package fill makes a database as full as years of use would, for
// measurements. It stands apart from the store so that no node can reach it.
//
// The rows are copies of what a relay has made itself: one wait that is
// pending and has a key, and one that a callback has closed, with its events,
// references and delivery. What tells one wait from another (ids, tokens,
// users, keys, hashes, times) differs from row to row; all else is as it was.
// They go in through all indexes in bounded transactions, in the order in which
// time would have brought them, so that tables and indexes have the shape that
// use gives them.
package fill

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// chunk is how many waits are made in one transaction.
const chunk = 50_000

// Filling says what is made, and of what.
type Filling struct {
	URL     string
	Pending int // waits like PendingLike, created in the last 30 days, ending in the next 30
	Closed  int // waits like ClosedLike, closed in the last 90 days

	PendingLike, ClosedLike uuid.UUID

	// Progress is told how many waits of all there are to make are made.
	Progress func(made, of int)
}

// Unused returns an error unless a database is one that nobody has used yet:
// rows that were never real must not stand beside real ones.
func Unused(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("looking at the database to be filled: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var migrated, used bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('correlations') IS NOT NULL`).Scan(&migrated); err != nil {
		return fmt.Errorf("looking at the database to be filled: %w", err)
	}
	if !migrated {
		return nil
	}
	err = conn.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM correlations) OR EXISTS (SELECT FROM destinations)`).Scan(&used)
	if err != nil {
		return fmt.Errorf("looking at the database to be filled: %w", err)
	}
	if used {
		return errors.New("the database to be filled is in use: it has destinations or waits; give a new one")
	}
	return nil
}

// Run makes the rows, and leaves the tables vacuumed and analysed.
func Run(ctx context.Context, f Filling) error {
	conn, err := pgx.Connect(ctx, f.URL)
	if err != nil {
		return fmt.Errorf("filling the database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		`SET synchronous_commit = off`, // of a chunk: a crash ends the filling anyway
		`SET maintenance_work_mem = '512MB'`,
		`CREATE TEMP TABLE new_waits (
		     n bigint, at timestamptz, prefix text, wait uuid, event uuid, second uuid, delivery uuid)`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("filling the database: %w", err)
		}
	}
	all := f.Closed + f.Pending
	for _, kind := range []struct {
		count, before int
		days          int
		like          uuid.UUID
		statements    []string
	}{
		{f.Closed, 0, 90, f.ClosedLike, closed},
		{f.Pending, f.Closed, 30, f.PendingLike, pending},
	} {
		for from := 0; from < kind.count; from += chunk {
			to := min(from+chunk, kind.count)
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, drawWaits, from, to-1, kind.days, kind.count); err != nil {
					return err
				}
				for _, sql := range kind.statements {
					if _, err := tx.Exec(ctx, sql, kind.like); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("filling the database: waits from %d: %w", kind.before+from, err)
			}
			f.Progress(kind.before+to, all)
		}
	}
	for _, name := range []string{"correlations", "deadlines", "correlation_refs", "events", "deliveries", "plans"} {
		if _, err := conn.Exec(ctx, `VACUUM (ANALYZE) `+name); err != nil {
			return fmt.Errorf("filling the database: vacuuming %s: %w", name, err)
		}
	}
	return nil
}

// drawWaits draws the ids of one chunk, as UUIDv7 of the times at which the
// waits came: $3 days, evenly spread over $4 waits, until an hour ago.
const drawWaits = `
	WITH emptied AS (
	    DELETE FROM new_waits
	), x AS (
	    SELECT n, now() - interval '1 hour' - ($4 - n) * ($3 * interval '1 day' / $4::float8) AS at
	    FROM generate_series($1::bigint, $2::bigint) AS n
	), y AS (
	    SELECT n, at, lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms FROM x
	), z AS (
	    SELECT n, at, left(ms, 8) || '-' || right(ms, 4) || '-7' AS prefix FROM y
	)
	INSERT INTO new_waits (n, at, prefix, wait, event, second, delivery)
	SELECT n, at, prefix, (prefix || substr(gen_random_uuid()::text, 16))::uuid, (prefix || substr(gen_random_uuid()::text, 16))::uuid,
	       (prefix || substr(gen_random_uuid()::text, 16))::uuid, (prefix || substr(gen_random_uuid()::text, 16))::uuid
	FROM z`

// pending are the rows of waits that nobody has called back. Their keys are
// hashed as RefHash does it, so that a callback would find them.
var pending = []string{
	`
	INSERT INTO correlations (id, project_id, token, plan_id, source_ids, flow, user_id, conversation, key, scope, custom_vars, data,
	                          locale, status, created_at, expires_at)
	SELECT n.wait, t.project_id, left(replace(gen_random_uuid()::text, '-', ''), 22), t.plan_id, t.source_ids, t.flow, 'p-' || n.n,
	       t.conversation, 'order-' || n.n, gen_random_uuid(), t.custom_vars, t.data, t.locale, t.status, n.at,
	       n.at + interval '30 days 2 hours'
	FROM new_waits n, correlations t
	WHERE t.id = $1
	ORDER BY n.n`, `
	INSERT INTO deadlines (correlation_id, project_id, expires_at, scope)
	SELECT c.id, c.project_id, c.expires_at, c.scope
	FROM new_waits n JOIN correlations c ON c.id = n.wait
	WHERE $1::uuid IS NOT NULL
	ORDER BY n.n`, `
	INSERT INTO correlation_refs (ref, correlation_id, project_id, key_active)
	SELECT encode(substr(sha256('ref'::bytea || int8send(s.id) || convert_to('order-' || n.n, 'UTF8')), 1, 16), 'hex')::uuid,
	       n.wait, t.project_id, true
	FROM new_waits n, correlations t, unnest(t.source_ids) AS s (id)
	WHERE t.id = $1
	ORDER BY n.n`,
}

// closed are the rows of waits that a callback has closed: its event, a second
// one that found the wait closed, the references that they taught, and the
// delivery. Events of the last 30 days keep their bodies.
var closed = []string{
	`
	INSERT INTO correlations (id, project_id, token, plan_id, source_ids, flow, user_id, conversation, key, scope, custom_vars, data,
	                          locale, status, created_at, expires_at, extended, resolved_at, resolved_by, event_id, payment_id)
	SELECT n.wait, t.project_id, left(replace(gen_random_uuid()::text, '-', ''), 22), t.plan_id, t.source_ids, t.flow, 'c-' || n.n,
	       t.conversation, t.key, gen_random_uuid(), t.custom_vars, t.data, t.locale, t.status, n.at,
	       n.at + (t.expires_at - t.created_at), t.extended, n.at + interval '5 minutes', t.resolved_by, n.event,
	       left(t.payment_id, 4) || left(replace(gen_random_uuid()::text, '-', ''), 23)
	FROM new_waits n, correlations t
	WHERE t.id = $1
	ORDER BY n.n`, `
	INSERT INTO correlation_refs (ref, correlation_id, project_id, key_active)
	SELECT gen_random_uuid(), n.wait, t.project_id, t.key_active
	FROM new_waits n, (SELECT * FROM correlation_refs WHERE correlation_id = $1) t
	ORDER BY n.n`, `
	INSERT INTO events (project_id, id, source_id, received_at, verdict, match, rule, reason, outcome, type, provider_event_id,
	                    correlation_id, duplicate_of, token, payment, form, format, headers, dedupe_key, body, packing)
	SELECT t.project_id, CASE t.place WHEN 1 THEN n.event ELSE n.second END, t.source_id, n.at + interval '5 minutes',
	       t.verdict, t.match, t.rule, t.reason, t.outcome, t.type,
	       left(t.provider_event_id, 5) || left(replace(gen_random_uuid()::text, '-', ''), 23),
	       n.wait, CASE WHEN t.duplicate_of IS NOT NULL THEN n.event END, t.token, t.payment, t.form, t.format, t.headers,
	       CASE WHEN t.dedupe_key IS NOT NULL THEN gen_random_uuid() END,
	       CASE WHEN n.at > now() - interval '30 days' THEN t.body END, t.packing
	FROM new_waits n, (SELECT *, row_number() OVER (ORDER BY id) AS place FROM events WHERE correlation_id = $1) t
	ORDER BY n.n, t.place`, `
	INSERT INTO deliveries (project_id, id, correlation_id, event_id, destination_id, outcome, action, status, attempts,
	                        retry_for, give_up_at, created_at, finished_at, started_at, duration_ms, class, http_status,
	                        reason, response, notes)
	SELECT t.project_id, n.delivery, n.wait, n.event, t.destination_id, t.outcome, t.action, t.status, t.attempts,
	       t.retry_for, n.at + t.retry_for * interval '1 second', n.at + interval '5 minutes', n.at + interval '5 minutes',
	       n.at + interval '5 minutes', t.duration_ms, t.class, t.http_status, t.reason, t.response, t.notes
	FROM new_waits n, (SELECT * FROM deliveries WHERE correlation_id = $1) t
	ORDER BY n.n`,
}
