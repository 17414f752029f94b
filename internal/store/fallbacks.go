package store

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// recordWithFallbacks is RecordAttempts where some attempts may be the end of
// their deliveries and owe another one in the place of those. It is a
// transaction of several round trips, and rare: what was recorded, under its
// lease, decides what is born, and both are there or neither. A fallback takes
// the slot that the delivery before it has just left, before those that wait
// for it; in another conversation it waits for its turn.
func (s *Store) recordWithFallbacks(ctx context.Context, attempts []relay.Attempt, order []int) (out []Recorded, err error) {
	to := s.tell()
	err = pgx.BeginFunc(ctx, s.hot, func(tx pgx.Tx) error {
		var b pgx.Batch
		out = queueAttempts(&b, attempts, order)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		born, err := newFallbacks(ctx, tx, attempts, out)
		if err != nil {
			return err
		}
		var ends pgx.Batch
		queueDeliveries(&ends, born, uuid.Nil, time.Time{})
		queueKept(&ends, born)
		queueEnds(&ends, to, attempts, order, out)
		return tx.SendBatch(ctx, &ends).Close()
	})
	s.isOut(to)
	return out, translate("recording attempts with fallbacks", err)
}

// newFallbacks lists the fallbacks of deliveries that have just died. One whose
// fallback is there already was retried by hand since: it has had its chance.
func newFallbacks(ctx context.Context, tx pgx.Tx, attempts []relay.Attempt, out []Recorded) (born []relay.Delivery, err error) {
	for i := range attempts {
		if a := &attempts[i]; a.Fallback != nil && !out[i].Stale && out[i].Status == relay.Dead && a.Class == relay.Permanent {
			born = append(born, *a.Fallback)
			out[i].PassedOn = true // it may be due at once
		}
	}
	if len(born) == 0 {
		return nil, nil
	}
	projects, ids := idsOf(born)
	rows, _ := tx.Query(ctx, `
		SELECT d.id
		FROM unnest($1::bigint[], $2::uuid[]) AS fallback (project_id, id)
		JOIN deliveries d ON d.project_id = fallback.project_id AND d.id = fallback.id`, projects, ids)
	before, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	return slices.DeleteFunc(born, func(d relay.Delivery) bool { return slices.Contains(before, d.ID) }), err
}

// queueKept has retention come back to deliveries that are born in the place of
// older ones, which it may have passed already.
func queueKept(b *pgx.Batch, born []relay.Delivery) {
	if len(born) == 0 {
		return
	}
	projects, ids := idsOf(born)
	b.Queue(`
		INSERT INTO retention_left (project_id, kind, id)
		SELECT born.project_id, r.kind, born.id
		FROM unnest($1::bigint[], $2::uuid[]) AS born (project_id, id)
		JOIN retention_cursors r ON r.project_id = born.project_id AND r.kind = 'attempt_body' AND r.after >= born.id
		ON CONFLICT DO NOTHING`, projects, ids)
}

func idsOf(list []relay.Delivery) (projects []int64, ids []uuid.UUID) {
	projects, ids = make([]int64, len(list)), make([]uuid.UUID, len(list))
	for i := range list {
		projects[i], ids[i] = list[i].ProjectID, list[i].ID
	}
	return projects, ids
}
