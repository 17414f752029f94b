package store

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ClearOld blanks the bytes of rejected callbacks after 72 h, and deletes
// idempotency keys after 24 h and dedupe keys after 35 days, at most limit
// rows of each in one transaction. It returns the most that it touched of
// one kind: less than limit means that nothing is left.
func (s *Store) ClearOld(ctx context.Context, limit int) (most int, err error) {
	err = s.inTx(ctx, "clearing old rows", func(tx pgx.Tx) error {
		for _, statement := range []string{
			`
			UPDATE events SET body = NULL, headers = NULL
			WHERE ctid = ANY (ARRAY(
			    SELECT ctid FROM events
			    WHERE verdict = 'rejected' AND body IS NOT NULL AND received_at < now() - interval '72 hours'
			    LIMIT $1 FOR UPDATE SKIP LOCKED))`, `
			DELETE FROM idempotency_keys
			WHERE ctid = ANY (ARRAY(
			    SELECT ctid FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
			    LIMIT $1 FOR UPDATE SKIP LOCKED))`,
		} {
			tag, err := tx.Exec(ctx, statement, limit)
			if err != nil {
				return err
			}
			most = max(most, int(tag.RowsAffected()))
		}
		n, err := clearEventKeys(ctx, tx, limit)
		most = max(most, n)
		return err
	})
	return most, err
}

// clearEventKeys deletes dedupe keys by the time inside their event's UUIDv7.
func clearEventKeys(ctx context.Context, tx pgx.Tx, limit int) (int, error) {
	var millis int64
	if err := tx.QueryRow(ctx, `SELECT extract(epoch FROM now() - interval '35 days')::bigint * 1000`).Scan(&millis); err != nil {
		return 0, err
	}
	tag, err := tx.Exec(ctx, `
		DELETE FROM event_keys
		WHERE ctid = ANY (ARRAY(
		    SELECT ctid FROM event_keys WHERE event_id < $2
		    LIMIT $1 FOR UPDATE SKIP LOCKED))`, limit, firstIDAt(millis))
	return int(tag.RowsAffected()), err
}

// firstIDAt returns the smallest UUIDv7 of a millisecond.
func firstIDAt(millis int64) (id uuid.UUID) {
	for i := range 6 {
		id[i] = byte(millis >> (40 - 8*i))
	}
	return id
}
