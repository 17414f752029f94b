package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// MaxParkedNames bounds the names that a parked event can be found by.
const MaxParkedNames = 16

// ParkedName is one name that a parked event can be found by.
type ParkedName struct {
	Ref     uuid.UUID // RefHash
	KeyOnly bool      // only a caller's key answers to it, not a provider's id
}

// EventKey names one stored event.
type EventKey struct {
	ProjectID int64
	ID        uuid.UUID
}

// queueParked queues the names of the events that a batch parks: no statement
// where it parks none.
func queueParked(b *pgx.Batch, callbacks []relay.Callback, decisions []Decision) {
	var events, refs []uuid.UUID
	var projects, sources, numbers []int64
	var keyOnly []bool
	for i := range decisions {
		c := &callbacks[i]
		for number, name := range decisions[i].Parks {
			events, refs, keyOnly = append(events, c.ID), append(refs, name.Ref), append(keyOnly, name.KeyOnly)
			projects, sources, numbers = append(projects, c.ProjectID), append(sources, c.SourceID), append(numbers, int64(number))
		}
	}
	if len(refs) == 0 {
		return
	}
	b.Queue(`
		INSERT INTO parked_refs (event_id, ref, project_id, source_id, number, key_only)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])`,
		events, refs, projects, sources, numbers, keyOnly)
}

// Awaited finds parked events by names that a wait has just got, or that have
// just been parked: those that some wait now goes by, oldest first. It is a
// statement of its own after the commit of either side, and so sees the other
// (promise 4).
func (s *Store) Awaited(ctx context.Context, refs []uuid.UUID, limit int) ([]EventKey, error) {
	rows, _ := s.hot.Query(ctx, `
		SELECT DISTINCT p.project_id, p.event_id
		FROM unnest($1::uuid[]) AS x (ref)
		CROSS JOIN LATERAL (
		    SELECT p.project_id, p.event_id
		    -- OFFSET 0: else the order by event tempts to walk all of them.
		    FROM (SELECT * FROM parked_refs WHERE ref = x.ref OFFSET 0) p
		    WHERE EXISTS (SELECT FROM correlation_refs r WHERE r.ref = p.ref AND (NOT p.key_only OR r.key_active IS NOT NULL))
		    ORDER BY p.event_id
		    LIMIT $2
		) p
		ORDER BY p.event_id
		LIMIT $2`, refs, limit)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[EventKey])
	return events, translate("looking for parked events", err)
}

// ParkedCursor is how far AwaitedFrom has come; zero: at the oldest event.
type ParkedCursor struct {
	event  uuid.UUID
	number int
}

// AwaitedFrom does the same for all that is parked, piece by piece: it looks
// at no more than limit names behind the cursor, and returns the cursor of the
// next piece, which is zero after the last one.
func (s *Store) AwaitedFrom(ctx context.Context, from ParkedCursor, limit int) (events []EventKey, next ParkedCursor, err error) {
	rows, _ := s.hot.Query(ctx, `
		WITH piece AS MATERIALIZED (
		    SELECT event_id, number, ref, project_id, key_only
		    FROM parked_refs
		    WHERE (event_id, number) > ($1, $2::integer)
		    ORDER BY event_id, number
		    LIMIT $3
		)
		SELECT project_id, event_id, number, awaited, total
		FROM (SELECT s.project_id, s.event_id, s.number, r.awaited IS NOT NULL AS awaited,
		             count(*) OVER () AS total, lead(s.number) OVER (ORDER BY s.event_id, s.number) AS following
		      FROM piece s
		      LEFT JOIN LATERAL (
		          SELECT true AS awaited FROM correlation_refs r
		          WHERE r.ref = s.ref AND (NOT s.key_only OR r.key_active IS NOT NULL)
		          LIMIT 1
		      ) r ON true) named
		WHERE awaited OR following IS NULL
		ORDER BY event_id, number`, from.event, from.number, limit)
	var key EventKey
	var number int
	var awaited bool
	var total int
	_, err = pgx.ForEachRow(rows, []any{&key.ProjectID, &key.ID, &number, &awaited, &total}, func() error {
		if awaited && (len(events) == 0 || events[len(events)-1] != key) {
			events = append(events, key)
		}
		if total == limit {
			next = ParkedCursor{key.ID, number}
		}
		return nil
	})
	return events, next, translate("looking through parked events", err)
}

// Unpark turns parked events into unmatched ones: those that were parked for
// longer than keep, and of each source the oldest beyond perSource, at most
// limit of each in one call. They give their dedupe keys back: sent again,
// they may find their wait. It returns the most that it took of one kind.
func (s *Store) Unpark(ctx context.Context, keep time.Duration, perSource, limit int) (most int, err error) {
	err = s.inTx(ctx, "ending parked events", func(tx pgx.Tx) error {
		for _, over := range []struct {
			rule  string
			which string
			bound any
		}{
			{rule: "nobody_came", bound: keep.Seconds(), which: `
				SELECT project_id, event_id
				FROM parked_refs
				WHERE number = 0 AND parked_at < now() - $1 * interval '1 second'
				ORDER BY parked_at
				LIMIT $2`},
			{rule: "parked_full", bound: perSource, which: `
				SELECT p.project_id, p.event_id
				FROM (SELECT source_id FROM parked_refs WHERE number = 0 GROUP BY source_id HAVING count(*) > $1) crowded
				CROSS JOIN LATERAL (
				    SELECT project_id, event_id
				    FROM parked_refs
				    WHERE source_id = crowded.source_id AND number = 0
				    ORDER BY parked_at DESC, event_id DESC
				    OFFSET $1
				) p
				LIMIT $2`},
		} {
			rows, _ := tx.Query(ctx, over.which, over.bound, limit)
			events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[EventKey])
			if err != nil {
				return err
			}
			if err := unmatch(ctx, tx, events, over.rule); err != nil {
				return err
			}
			most = max(most, len(events))
		}
		return nil
	})
	return most, err
}

// unmatch ends parked events. One that is being matched at this moment is
// waited for, and left as it then is; its names are gone by then.
func unmatch(ctx context.Context, tx pgx.Tx, events []EventKey, rule string) error {
	if len(events) == 0 {
		return nil
	}
	projects, ids := eventArrays(events)
	if _, err := tx.Exec(ctx, `
		WITH ended AS (
		    SELECT e.project_id, e.id
		    FROM events e JOIN unnest($1::bigint[], $2::uuid[]) AS x (project_id, id) ON e.project_id = x.project_id AND e.id = x.id
		    WHERE e.match = 'parked'
		    ORDER BY e.id
		    FOR UPDATE OF e
		)
		UPDATE events e SET match = 'unmatched', rule = $3, dedupe_key = NULL, `+keepFirst+`
		FROM ended
		WHERE e.project_id = ended.project_id AND e.id = ended.id AND e.match = 'parked'`, projects, ids, rule); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM parked_refs WHERE event_id = ANY($1::uuid[])`, ids); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, closeMoot, ids)
	return err
}

func eventArrays(events []EventKey) (projects []int64, ids []uuid.UUID) {
	for _, e := range events {
		projects, ids = append(projects, e.ProjectID), append(ids, e.ID)
	}
	return projects, ids
}
