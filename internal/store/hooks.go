package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Hooks are taken by subscription: what is owed to one that does not answer
// is in an index of its own part, and costs the others nothing. Each is taken
// for the first time in the order in which it was born, under the lock of its
// subscription, and gets its number by that. A birth holds the lock of its
// wait, so whoever sees one sees what came before it: numbers are in the order
// of what happened, whichever node tells it.

// hookColumns are scanned by scanHook.
const hookColumns = `h.id, h.project_id, h.subscription_id, h.event, h.number, h.happened_at, h.attempts, h.correlation_id, h.payload, h.personal`

// theHook joins a hook h to the row x that names it. By = the whole key could be
// hashed or merged, so that the plan for a table that was empty when it was last
// looked at, as this one mostly is, would read it from end to end; and of two
// ANY the planner may use the first alone for the index, which reads all hooks
// of a project.
const theHook = `h.project_id = ANY (ARRAY[x.project_id]) AND h.id BETWEEN x.id AND x.id`

// nobodyInPerson is told in the place of whom an erasure has taken.
const nobodyInPerson = `{"user_id" : null, "conversation" : null, "key" : null}`

func scanHook(row pgx.CollectableRow) (h relay.Hook, err error) {
	var wait *uuid.UUID
	var payload, person []byte
	if err := row.Scan(&h.ID, &h.ProjectID, &h.SubscriptionID, &h.Event, &h.Number, &h.HappenedAt, &h.Attempts, &wait, &payload, &person); err != nil {
		return h, err
	}
	if person == nil && wait != nil {
		person = []byte(nobodyInPerson)
	}
	h.Payload = payload
	if person != nil { // both are objects, and neither is empty
		h.Payload = append(append(payload[:len(payload)-1:len(payload)-1], ", "...), person[1:]...)
	}
	return h, nil
}

// ClaimHooks leases hooks of some subscriptions to this node, at most piece of
// each and limit in all: those whose time has come, then those that are new.
func (s *Store) ClaimHooks(ctx context.Context, lease uuid.UUID, subscriptions []uuid.UUID, piece, limit int) ([]relay.Hook, error) {
	leaseEnds := time.Now().Add(relay.Lease)
	claimed, err := s.claimDueHooks(ctx, lease, subscriptions, piece, limit)
	if err == nil && len(claimed) < limit {
		var fresh []relay.Hook
		fresh, err = s.claimNewHooks(ctx, lease, subscriptions, piece, limit-len(claimed))
		claimed = append(claimed, fresh...)
	}
	slices.SortFunc(claimed, func(a, b relay.Hook) int { return cmp.Compare(a.Number, b.Number) })
	for i := range claimed {
		claimed[i].Lease, claimed[i].LeaseEnds = lease, leaseEnds
	}
	return claimed, translate("claiming hooks", err) // those before an error are sent all the same
}

func (s *Store) claimDueHooks(ctx context.Context, lease uuid.UUID, subscriptions []uuid.UUID, piece, limit int) ([]relay.Hook, error) {
	rows, _ := s.hot.Query(ctx, `
		WITH due AS MATERIALIZED (
		    SELECT d.project_id, d.id
		    FROM unnest($1::uuid[]) AS s (id)
		    CROSS JOIN LATERAL (
		        SELECT h.project_id, h.id FROM hooks h
		        WHERE h.subscription_id = s.id AND h.due_at <= now()
		        ORDER BY h.due_at
		        LIMIT $2
		        FOR UPDATE SKIP LOCKED
		    ) d
		    LIMIT $3
		)
		UPDATE hooks h
		SET due_at = clock_timestamp() + $5 * interval '1 second', lease = $4
		FROM due x
		WHERE `+theHook+`
		RETURNING `+hookColumns, subscriptions, piece, limit, lease, relay.Lease.Seconds())
	return pgx.CollectRows(rows, scanHook)
}

// claimNewHooks numbers hooks and leases them. A subscription that another
// node takes from at this moment is left to it. The hooks are looked for in a
// statement after the lock: it sees all that was numbered before.
func (s *Store) claimNewHooks(ctx context.Context, lease uuid.UUID, subscriptions []uuid.UUID, piece, limit int) (claimed []relay.Hook, err error) {
	conn, err := s.hot.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release(conn)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT s.id
			FROM subscriptions s
			WHERE s.id = ANY($1::uuid[])
			  AND EXISTS (SELECT FROM hooks h WHERE h.subscription_id = s.id AND h.number IS NULL AND h.died_at IS NULL
			              OFFSET 0) -- else a join may walk what is new of all
			ORDER BY s.id
			FOR NO KEY UPDATE OF s SKIP LOCKED`, subscriptions)
		locked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil || len(locked) == 0 {
			return err
		}
		rows, _ = tx.Query(ctx, `
			WITH fresh AS MATERIALIZED (
			    SELECT f.project_id, f.id, f.subscription_id, row_number() OVER (PARTITION BY f.subscription_id ORDER BY f.born) AS nth
			    FROM (SELECT n.*
			          FROM unnest($1::uuid[]) AS s (id)
			          CROSS JOIN LATERAL (
			              SELECT h.project_id, h.id, h.subscription_id, h.born FROM hooks h
			              WHERE h.subscription_id = s.id AND h.number IS NULL AND h.died_at IS NULL
			              ORDER BY h.born
			              LIMIT $2
			          ) n
			          LIMIT $3) f
			), counted AS (
			    UPDATE subscriptions s SET last_number = s.last_number + n.fresh
			    FROM (SELECT subscription_id, count(*) AS fresh FROM fresh GROUP BY subscription_id) n
			    WHERE s.id = n.subscription_id
			    RETURNING s.id, s.last_number - n.fresh AS before
			)
			UPDATE hooks h
			SET number = c.before + x.nth, due_at = clock_timestamp() + $5 * interval '1 second', lease = $4
			FROM counted c JOIN fresh x ON x.subscription_id = c.id
			WHERE `+theHook+`
			  AND CASE WHEN h.number IS NULL THEN h.died_at IS NULL ELSE false END -- no index is walked for that
			RETURNING `+hookColumns, locked, piece, limit, lease, relay.Lease.Seconds())
		claimed, err = pgx.CollectRows(rows, scanHook)
		return err
	})
	if err != nil {
		return nil, err
	}
	return claimed, nil
}

// RecordedHook is what became of an attempt's hook.
type RecordedHook struct {
	Status relay.DeliveryStatus // Delivered, Dead or Scheduled
	Stale  bool                 // the lease was lost meanwhile: nothing was written
}

// RecordHooks writes what came of attempts. A hook that was delivered is over
// and its row goes; a retry that would come after its time is up makes it dead
// instead.
func (s *Store) RecordHooks(ctx context.Context, attempts []relay.HookAttempt) ([]RecordedHook, error) {
	n := len(attempts)
	projects, ids, leases := make([]int64, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	classes, nexts, reasons := make([]string, n), make([]string, n), make([]*string, n)
	httpStatuses, delays := make([]*int32, n), make([]int64, n)
	at := make(map[[2]uuid.UUID]int, n) // by hook and lease
	for i := range attempts {
		a := &attempts[i]
		projects[i], ids[i], leases[i] = a.ProjectID, a.HookID, a.Lease
		classes[i], nexts[i], reasons[i], delays[i] = string(a.Class), string(a.Next), optional(clean(a.Reason)), a.Delay.Microseconds()
		if a.HTTPStatus != 0 {
			status := int32(a.HTTPStatus)
			httpStatuses[i] = &status
		}
		at[[2]uuid.UUID{a.HookID, a.Lease}] = i
	}
	out := make([]RecordedHook, n)
	for i := range out {
		out[i].Stale = true
	}
	rows, _ := s.hot.Query(ctx, `
		WITH given AS MATERIALIZED (
		    SELECT *, CASE WHEN next = 'scheduled' THEN now() + delay * interval '1 microsecond' END AS next_at
		    FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::integer[], $6::text[], $7::text[], $8::bigint[])
		      AS x (project_id, id, lease, class, http_status, reason, next, delay)
		), delivered AS (
		    DELETE FROM hooks h USING given x
		    WHERE `+theHook+` AND h.lease = x.lease AND x.next = 'delivered'
		    RETURNING h.id, x.lease, 'delivered'
		), kept AS (
		    UPDATE hooks h
		    SET attempts = h.attempts + 1, lease = NULL, class = x.class, http_status = x.http_status, reason = x.reason,
		        due_at = CASE WHEN x.next_at <= h.give_up_at THEN x.next_at END,
		        died_at = CASE WHEN x.next_at IS NULL OR x.next_at > h.give_up_at THEN now() END
		    FROM given x
		    WHERE `+theHook+` AND h.lease = x.lease AND x.next <> 'delivered'
		    RETURNING h.id, x.lease, CASE WHEN h.died_at IS NULL THEN 'scheduled' ELSE 'dead' END
		)
		SELECT * FROM delivered UNION ALL SELECT * FROM kept`,
		projects, ids, leases, classes, httpStatuses, reasons, nexts, delays)
	var id, lease uuid.UUID
	var status relay.DeliveryStatus
	_, err := pgx.ForEachRow(rows, []any{&id, &lease, &status}, func() error {
		out[at[[2]uuid.UUID{id, lease}]] = RecordedHook{Status: status}
		return nil
	})
	return out, translate("recording hooks", err)
}

// ReturnHooks gives hooks back that this node holds and will not send.
func (s *Store) ReturnHooks(ctx context.Context, held []relay.Hook) error {
	if len(held) == 0 {
		return nil
	}
	projects, ids, leases := make([]int64, len(held)), make([]uuid.UUID, len(held)), make([]uuid.UUID, len(held))
	for i := range held {
		projects[i], ids[i], leases[i] = held[i].ProjectID, held[i].ID, held[i].Lease
	}
	_, err := s.hot.Exec(ctx, `
		UPDATE hooks h
		SET due_at = clock_timestamp(), lease = NULL
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS x (project_id, id, lease)
		WHERE `+theHook+` AND h.lease = x.lease`, projects, ids, leases)
	return translate("returning hooks", err)
}

// HookRecord is one hook as it is shown.
type HookRecord struct {
	ID             uuid.UUID
	SubscriptionID uuid.UUID
	Event          relay.News
	CorrelationID  *uuid.UUID
	Number         *int64
	Dead           bool
	Attempts       int
	DueAt          *time.Time // nil: no node has taken it yet, or it is dead
	Leased         bool
	Class          string
	HTTPStatus     *int
	Reason         string
	HappenedAt     time.Time
	DiedAt         *time.Time
}

// HookFilter narrows a list or a bulk retry of hooks; zero fields do not.
type HookFilter struct {
	SubscriptionID uuid.UUID
	Dead           *bool
}

// Hooks lists the hooks of a project that were not delivered, newest first.
func (s *Store) Hooks(ctx context.Context, projectID int64, f HookFilter, p Page) ([]*HookRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT h.id, h.subscription_id, h.event, h.correlation_id, h.number, h.died_at IS NOT NULL, h.attempts, h.due_at,
		       h.lease IS NOT NULL, coalesce(h.class, ''), h.http_status, coalesce(h.reason, ''), h.happened_at, h.died_at
		FROM hooks h JOIN subscriptions s ON s.id = h.subscription_id
		WHERE h.project_id = $1 AND h.id < $2
		  AND ($3::uuid IS NULL OR h.subscription_id = $3)
		  AND ($4::boolean IS NULL OR (h.died_at IS NOT NULL) = $4)
		ORDER BY h.id DESC
		LIMIT $5`, projectID, p.before(), optionalID(f.SubscriptionID), f.Dead, p.Limit)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*HookRecord, error) {
		r := &HookRecord{}
		return r, row.Scan(&r.ID, &r.SubscriptionID, &r.Event, &r.CorrelationID, &r.Number, &r.Dead, &r.Attempts, &r.DueAt,
			&r.Leased, &r.Class, &r.HTTPStatus, &r.Reason, &r.HappenedAt, &r.DiedAt)
	})
	return list, translate("listing hooks", err)
}

// RetryHooks makes dead hooks due again, the oldest first and at most
// BulkLimit, with a new span to try, and returns how many. With dryRun it only
// counts. f.Dead is not looked at.
func (s *Store) RetryHooks(ctx context.Context, projectID int64, f HookFilter, dryRun bool) (n int, err error) {
	if dryRun {
		err = s.pool.QueryRow(ctx, `SELECT count(*) FROM (`+deadHooks+`) dead`, projectID, optionalID(f.SubscriptionID), BulkLimit).Scan(&n)
		return n, translate("counting dead hooks", err)
	}
	err = s.inTxAgain(ctx, "retrying hooks", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE hooks h
			SET died_at = NULL, due_at = CASE WHEN h.number IS NOT NULL THEN clock_timestamp() END,
			    give_up_at = clock_timestamp() + $4 * interval '1 second'
			FROM (`+deadHooks+` FOR UPDATE OF h SKIP LOCKED) dead
			WHERE h.project_id = $1 AND h.id = dead.id`, projectID, optionalID(f.SubscriptionID), BulkLimit, relay.HookRetryFor.Seconds())
		n = int(tag.RowsAffected())
		return err
	})
	return n, err
}

// deadHooks are those that RetryHooks takes.
const deadHooks = `
	SELECT h.id
	FROM hooks h JOIN subscriptions s ON s.id = h.subscription_id
	WHERE h.project_id = $1 AND h.died_at IS NOT NULL AND ($2::uuid IS NULL OR h.subscription_id = $2)
	ORDER BY h.id
	LIMIT $3`

// HookCursor is a place in the table of hooks.
type HookCursor struct {
	project int64
	id      uuid.UUID
}

// ClearHooks looks at the next hooks after a place, at most limit: those that
// nobody is left to hear of go, and so do dead ones that are kept no longer
// (attempt_body of their project's retention); those whose time to try has
// passed while their target did not answer are dead. It returns how many it
// looked at, how many of them have gone, how many have died, and the place to
// go on with: the zero one after the last.
func (s *Store) ClearHooks(ctx context.Context, after HookCursor, limit int) (seen, gone, died int, next HookCursor, err error) {
	err = s.inTx(ctx, "clearing hooks", func(tx pgx.Tx) error {
		if err := byIndex(ctx, tx); err != nil {
			return err
		}
		projects, kept, err := hooksKept(ctx, tx)
		if err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `
			SELECT project_id, id FROM hooks
			WHERE (project_id, id) > ($1, $2)
			ORDER BY project_id, id
			LIMIT $3`, after.project, after.id, limit)
		var ids []uuid.UUID
		var owners []int64
		if _, err := pgx.ForEachRow(rows, []any{&next.project, &next.id}, func() error {
			owners, ids = append(owners, next.project), append(ids, next.id)
			return nil
		}); err != nil {
			return err
		}
		if seen = len(ids); seen < limit {
			next = HookCursor{}
		}
		if seen == 0 {
			return nil
		}
		tag, err := tx.Exec(ctx, `
			DELETE FROM hooks h
			USING unnest($1::bigint[], $2::uuid[]) AS x (project_id, id), unnest($3::bigint[], $4::float8[]) AS p (project_id, kept)
			WHERE h.project_id = x.project_id AND h.id = x.id AND p.project_id = h.project_id
			  AND (h.died_at < now() - p.kept * interval '1 second'
			       OR NOT EXISTS (SELECT FROM subscriptions s WHERE s.id = h.subscription_id))`, owners, ids, projects, kept)
		if err != nil {
			return err
		}
		gone = int(tag.RowsAffected())
		tag, err = tx.Exec(ctx, `
			UPDATE hooks h
			SET died_at = clock_timestamp(), due_at = NULL, reason = coalesce(h.reason, 'not sent: its target does not answer')
			FROM unnest($1::bigint[], $2::uuid[]) AS x (project_id, id)
			WHERE h.project_id = x.project_id AND h.id = x.id AND h.died_at IS NULL AND h.lease IS NULL
			  AND h.give_up_at < now()`, owners, ids)
		died = int(tag.RowsAffected())
		return err
	})
	return seen, gone, died, next, err
}

// hooksKept lists all projects, and for how many seconds each keeps what is
// dead.
func hooksKept(ctx context.Context, tx pgx.Tx) (projects []int64, kept []float64, err error) {
	rows, _ := tx.Query(ctx, `SELECT id, retention FROM projects`)
	var id int64
	var doc []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &doc}, func() error {
		keep, err := readRetention(doc)
		projects, kept = append(projects, id), append(kept, time.Duration(keep.InForce().AttemptBody).Seconds())
		return err
	})
	return projects, kept, err
}
