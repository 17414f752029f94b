package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// EndResult is what a try to end a session at its provider has come to.
type EndResult string

// The results, as checkout_end_check has them.
const (
	SessionEnded   EndResult = "ended"
	SessionOver    EndResult = "over" // it had been paid or had expired before
	EndingRefused  EndResult = "refused"
	EndingNotKnown EndResult = "not_known" // the account of the key has no such session
	EndingFailed   EndResult = "failed"
)

// OpenCheckout is a session that may still be paid, though its wait has ended.
type OpenCheckout struct {
	WaitID    uuid.UUID
	ProjectID int64
	SourceID  int64
	Object    string
	Tries     int // before this one
	Lease     uuid.UUID
}

// endSessions begins the statement that has sessions ended at their providers.
// It is about checkouts k; who runs it says of which waits.
const endSessions = `
	UPDATE checkouts k SET end_due_at = clock_timestamp()`

// endable are those that are not being ended already. A payment link has no
// end of its own, and stays.
const endable = ` k.object LIKE 'cs\_%' AND k.end_due_at IS NULL AND k.end_tries = 0`

// queueSessionEnds queues that the sessions of those waits that have ended are
// ended at their providers. It runs after what ends the waits, in the same
// transaction.
func queueSessionEnds(b *pgx.Batch, waits []uuid.UUID) {
	if len(waits) == 0 {
		return
	}
	b.Queue(endSessions+`
		FROM correlations c
		WHERE k.correlation_id = ANY($1::uuid[]) AND c.id = k.correlation_id AND c.status <> 'pending' AND`+endable, waits)
}

// ClaimOpenCheckouts leases sessions that are to be ended now to the caller,
// at most limit, and none of the sources that are passed over.
func (s *Store) ClaimOpenCheckouts(ctx context.Context, lease uuid.UUID, limit int, passedOver []int64) ([]OpenCheckout, error) {
	rows, _ := s.pool.Query(ctx, `
		WITH due AS MATERIALIZED (
		    SELECT correlation_id FROM checkouts
		    WHERE end_due_at <= now() AND source_id <> ALL($4::bigint[])
		    ORDER BY end_due_at
		    LIMIT $3
		    FOR UPDATE SKIP LOCKED
		)
		UPDATE checkouts k SET end_lease = $1, end_due_at = now() + $2 * interval '1 second'
		FROM due
		WHERE k.correlation_id = due.correlation_id
		RETURNING k.correlation_id, k.project_id, k.source_id, k.object, k.end_tries, k.end_lease`, lease, relay.Lease.Seconds(), limit, passedOver)
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OpenCheckout])
	return claimed, translate("claiming sessions that are to be ended", err)
}

// RecordSessionEnd notes a try under its lease, and when the next one is due:
// nil, none is. It reports false where the lease was lost: another node tries
// then, and nothing is written. Of a wait that was erased meanwhile nothing is
// left when no try is due any more.
func (s *Store) RecordSessionEnd(ctx context.Context, c *OpenCheckout, result EndResult, again *time.Duration) (held bool, err error) {
	var delay *float64
	if again != nil {
		seconds := again.Seconds()
		delay = &seconds
	}
	tag, err := s.pool.Exec(ctx, `
		UPDATE checkouts
		SET end_tries = end_tries + 1, end_result = $3, end_tried_at = clock_timestamp(), end_lease = NULL,
		    end_due_at = clock_timestamp() + $4::float8 * interval '1 second'
		WHERE correlation_id = $1 AND end_lease = $2`, c.WaitID, c.Lease, string(result), delay)
	if held = tag.RowsAffected() == 1; held && again == nil {
		_, err = s.pool.Exec(ctx, `
			DELETE FROM checkouts WHERE correlation_id = $1 AND url = '' AND end_due_at IS NULL`, c.WaitID)
	}
	return held, translate("recording that a session was ended", err)
}
