package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"relay.example/relay/internal/relay"
)

// The bounds of what Backlog reads. Counting takes an index's entries one by
// one, and the rows behind them where the count depends on them.
const (
	backlogCount   = 100_001 // rows counted of one kind: the last one stands for "more"
	backlogRecent  = 1_000   // newest dead, held or unknown deliveries looked at, of each kind in each project
	backlogStuck   = 10_000  // and in all
	backlogSources = 10_000  // sources whose last event is told
	backlogHeld    = 200     // destinations that are told to be held
)

// Backlog is what is owed at one moment, and what should not be.
type Backlog struct {
	// WaitsOverdue is how many waits are pending more than 5 s after the
	// sweeper should have ended them.
	WaitsOverdue int
	// Deliveries counts those that are not over by their status.
	Deliveries map[relay.DeliveryStatus]int
	// OldestDue is how long ago the oldest delivery that no node has taken
	// became due, 0 where none is.
	OldestDue time.Duration
	// PaidNotResumed is how many waits were paid or filled in (completed,
	// mismatch, paid_again) and have a delivery that tells so which is dead,
	// held or unknown, or is still owed 60 s after it was made. Of dead, held
	// and unknown ones only the newest are looked at.
	PaidNotResumed int
	// Held are the destinations that are held, at most 200, by project.
	Held []HeldDestination
	// LastEvents is when each source last had a genuine callback, the oldest
	// source first.
	LastEvents []LastEvent
	// ClearingBehind is for how long the clearing of each kind has not come to
	// its end, in the project where that is longest.
	ClearingBehind map[Clearing]time.Duration
	// HooksOwed and HooksDead count the first 100,001 hooks, and OldestHook is
	// how long ago the oldest happened that is owed.
	HooksOwed, HooksDead int
	OldestHook           time.Duration
	// RemotesFailing is how many remote subscriptions are not as they should
	// be, or nobody can tell whether they are: of the last try, and at most
	// 100,001.
	RemotesFailing int
}

// HeldDestination is a destination that nobody calls.
type HeldDestination struct{ Project, Name string }

// LastEvent is when a source last had a genuine callback, on any node.
type LastEvent struct {
	SourceID int64
	At       time.Time
}

// Backlog reads what is owed. It runs on the everyday pool; what it costs is
// bounded by the counts above, however large the tables are.
func (s *Store) Backlog(ctx context.Context) (b Backlog, err error) {
	b = Backlog{Deliveries: map[relay.DeliveryStatus]int{}}
	err = s.inTx(ctx, "reading the backlog", func(tx pgx.Tx) error {
		var batch pgx.Batch
		// A table that is nearly all backlog would be read from end to end,
		// which is cheap for a small one and a trap for a large one.
		batch.Queue(`SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)`)
		queueOverdue(&batch, &b)
		queueOwed(&batch, &b)
		queueStuck(&batch, &b)
		queueHeld(&batch, &b)
		queueLastEvents(&batch, &b)
		queueClearing(&batch, &b)
		queueHooks(&batch, &b)
		queueRemotes(&batch, &b)
		return tx.SendBatch(ctx, &batch).Close()
	})
	return b, err
}

func queueOverdue(batch *pgx.Batch, b *Backlog) {
	batch.Queue(`
		SELECT count(*)
		FROM (SELECT FROM deadlines WHERE expires_at < now() - interval '5 seconds' ORDER BY expires_at LIMIT $1) o`,
		backlogCount).QueryRow(func(row pgx.Row) error { return row.Scan(&b.WaitsOverdue) })
}

// queueOwed reads the rows that are owed, in the order in which they are due,
// those that wait for their turn, and the newest that nobody will send without being told to.
func queueOwed(batch *pgx.Batch, b *Backlog) {
	var scheduled, sending int
	var oldest float64
	batch.Queue(`
		WITH owed AS MATERIALIZED (
		    SELECT status, outcome, correlation_id, due_at, created_at
		    FROM deliveries
		    WHERE due_at IS NOT NULL
		    ORDER BY due_at
		    LIMIT $1
		), waiting AS MATERIALIZED (
		    SELECT outcome, correlation_id, created_at
		    FROM deliveries
		    WHERE status = 'scheduled' AND due_at IS NULL
		    ORDER BY conversation
		    LIMIT $1
		), stuck AS MATERIALIZED (
		    SELECT d.*
		    FROM projects p
		    CROSS JOIN unnest(ARRAY['held', 'unknown', 'dead']) AS s (status)
		    CROSS JOIN LATERAL (
		        SELECT d.status, d.outcome, d.correlation_id
		        FROM deliveries d
		        WHERE d.project_id = p.id AND d.status = s.status AND d.status IN ('dead', 'held', 'unknown')
		        ORDER BY d.id DESC
		        LIMIT $2
		    ) d
		    LIMIT $3
		), unresumed AS (
		    SELECT correlation_id FROM owed
		    WHERE outcome IN ('completed', 'mismatch', 'paid_again') AND created_at < now() - interval '60 seconds'
		    UNION
		    SELECT correlation_id FROM waiting
		    WHERE outcome IN ('completed', 'mismatch', 'paid_again') AND created_at < now() - interval '60 seconds'
		    UNION
		    SELECT correlation_id FROM stuck WHERE outcome IN ('completed', 'mismatch', 'paid_again')
		)
		SELECT count(*) FILTER (WHERE status = 'scheduled') + (SELECT count(*) FROM waiting), count(*) FILTER (WHERE status = 'sending'),
		       coalesce(greatest(0, extract(epoch FROM now() - min(due_at))), 0)::float8,
		       (SELECT count(*) FROM unresumed)
		FROM owed`, backlogCount, backlogRecent, backlogStuck).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&scheduled, &sending, &oldest, &b.PaidNotResumed)
		b.Deliveries[relay.Scheduled], b.Deliveries[relay.Sending] = scheduled, sending
		b.OldestDue = time.Duration(oldest * float64(time.Second))
		return err
	})
}

// queueStuck counts in the index alone: deliveries that died long ago lie
// cold.
func queueStuck(batch *pgx.Batch, b *Backlog) {
	batch.Queue(`
		SELECT s.status, count(*)
		FROM unnest(ARRAY['held', 'unknown', 'dead']) AS s (status)
		CROSS JOIN LATERAL (
		    SELECT
		    FROM projects p
		    CROSS JOIN LATERAL (
		        SELECT FROM deliveries d
		        WHERE d.project_id = p.id AND d.status = s.status AND d.status IN ('dead', 'held', 'unknown')
		        LIMIT $1
		    ) d
		    LIMIT $1
		) d
		GROUP BY s.status`, backlogCount).Query(func(rows pgx.Rows) error {
		var status relay.DeliveryStatus
		var n int
		_, err := pgx.ForEachRow(rows, []any{&status, &n}, func() error {
			b.Deliveries[status] = n
			return nil
		})
		return err
	})
}

// queueHeld reads the destinations that are held, as often as not none.
func queueHeld(batch *pgx.Batch, b *Backlog) {
	batch.Queue(`
		SELECT p.name, d.name
		FROM destinations d JOIN projects p ON p.id = d.project_id
		WHERE d.held_at IS NOT NULL AND p.deleted_at IS NULL
		ORDER BY d.project_id, d.name
		LIMIT $1`, backlogHeld).Query(func(rows pgx.Rows) error {
		var held HeldDestination
		_, err := pgx.ForEachRow(rows, []any{&held.Project, &held.Name}, func() error {
			b.Held = append(b.Held, held)
			return nil
		})
		return err
	})
}

func queueLastEvents(batch *pgx.Batch, b *Backlog) {
	batch.Queue(`
		SELECT s.id, a.last_event_at
		FROM sources s JOIN source_activity a ON a.source_id = s.id
		WHERE s.deleted_at IS NULL AND a.last_event_at IS NOT NULL
		ORDER BY s.id
		LIMIT $1`, backlogSources).Query(func(rows pgx.Rows) error {
		var last LastEvent
		_, err := pgx.ForEachRow(rows, []any{&last.SourceID, &last.At}, func() error {
			b.LastEvents = append(b.LastEvents, last)
			return nil
		})
		return err
	})
}

// queueClearing reads the cursors: four rows of each project.
func queueClearing(batch *pgx.Batch, b *Backlog) {
	batch.Queue(`
		SELECT kind, extract(epoch FROM now() - min(done_at))::float8 FROM retention_cursors GROUP BY kind`).Query(func(rows pgx.Rows) error {
		var kind Clearing
		var seconds float64
		_, err := pgx.ForEachRow(rows, []any{&kind, &seconds}, func() error {
			if b.ClearingBehind == nil {
				b.ClearingBehind = map[Clearing]time.Duration{}
			}
			b.ClearingBehind[kind] = time.Duration(seconds * float64(time.Second))
			return nil
		})
		return err
	})
}

func queueHooks(batch *pgx.Batch, b *Backlog) {
	batch.Queue(`
		SELECT count(*) FILTER (WHERE died_at IS NULL), count(*) FILTER (WHERE died_at IS NOT NULL),
		       coalesce(extract(epoch FROM now() - min(happened_at) FILTER (WHERE died_at IS NULL)), 0)::float8
		FROM (SELECT died_at, happened_at FROM hooks ORDER BY project_id, id LIMIT $1) h`, backlogCount).QueryRow(func(row pgx.Row) error {
		var seconds float64
		err := row.Scan(&b.HooksOwed, &b.HooksDead, &seconds)
		b.OldestHook = time.Duration(seconds * float64(time.Second))
		return err
	})
}

func queueRemotes(batch *pgx.Batch, b *Backlog) {
	batch.Queue(`
		SELECT count(*) FROM (SELECT FROM remote_subscriptions WHERE failures > 0 LIMIT $1) r`,
		backlogCount).QueryRow(func(row pgx.Row) error { return row.Scan(&b.RemotesFailing) })
}

// PoolUse is how busy one pool of connections is.
type PoolUse struct {
	Acquired, Idle, Max int32
	Waits               int64         // times that no connection was free
	Waited              time.Duration // in all
}

// Pools tells how busy the pools are, by name.
func (s *Store) Pools() map[string]PoolUse {
	return map[string]PoolUse{"hot": poolUse(s.hot), "everyday": poolUse(s.pool)}
}

func poolUse(p *pgxpool.Pool) PoolUse {
	stat := p.Stat()
	return PoolUse{
		Acquired: stat.AcquiredConns(), Idle: stat.IdleConns(), Max: stat.MaxConns(),
		Waits: stat.EmptyAcquireCount(), Waited: stat.EmptyAcquireWaitTime(),
	}
}
