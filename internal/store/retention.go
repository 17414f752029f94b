package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// ClearOld blanks the bytes of rejected callbacks after 72 h and deletes
// idempotency keys and done replays after 24 h, at most limit rows of each in
// one transaction. It returns the most that it touched of one kind: less than
// limit means that nothing is left.
func (s *Store) ClearOld(ctx context.Context, limit int) (most int, err error) {
	err = s.inTx(ctx, "clearing old rows", func(tx pgx.Tx) error {
		for _, statement := range []string{
			`
			UPDATE events SET body = NULL, headers = NULL, request = NULL
			WHERE ctid = ANY (ARRAY(
			    SELECT ctid FROM events
			    WHERE verdict = 'rejected' AND body IS NOT NULL AND received_at < now() - interval '72 hours'
			    LIMIT $1 FOR UPDATE SKIP LOCKED))`, `
			DELETE FROM idempotency_keys
			WHERE ctid = ANY (ARRAY(
			    SELECT ctid FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
			    LIMIT $1 FOR UPDATE SKIP LOCKED))`, `
			DELETE FROM replays
			WHERE ctid = ANY (ARRAY(
			    SELECT ctid FROM replays WHERE done_at < now() - interval '24 hours'
			    LIMIT $1 FOR UPDATE SKIP LOCKED))`,
		} {
			tag, err := tx.Exec(ctx, statement, limit)
			if err != nil {
				return err
			}
			most = max(most, int(tag.RowsAffected()))
		}
		return nil
	})
	return most, err
}
