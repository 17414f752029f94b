package store

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// What a project keeps only so long is cleared in pieces: one transaction
// each, of the rows that a cursor comes to next. Ids are UUIDv7, so that a
// range of them is a range of time, and the primary keys find what is old; no
// index is there for it. The cursor of bytes never goes back: what it had to
// leave is noted in retention_left. That of whole rows begins again with each
// round, since what it finds is gone by then, or there for a reason.
//
// Nobody waits for a piece for longer than its transaction, and it waits for
// nobody who holds a wait: rows that somebody has locked are left to the next
// round. As always a wait's row is held before anything of it is deleted, so a
// callback finds the wait whole, or not at all.

// Clearing is a kind of what is cleared.
type Clearing string

// The kinds of clearing.
const (
	ClearEventBodies   Clearing = "event_body"
	ClearAttemptBodies Clearing = "attempt_body"
	ClearCorrelations  Clearing = "correlation" // with all that belongs to them
	ClearEvents        Clearing = "event"       // that belong to no wait
)

// Clearings are all kinds.
var Clearings = []Clearing{ClearEventBodies, ClearAttemptBodies, ClearCorrelations, ClearEvents}

// clearingRest is how long a project rests when nothing old is left in it.
const clearingRest = 10 * time.Minute

// Cleared is what one piece has done.
type Cleared struct {
	Kind Clearing
	Rows int // blanked or deleted
}

// clearing is one piece: of one project, up to a time.
type clearing struct {
	projectID int64
	kind      Clearing
	after     uuid.UUID
	now       time.Time // by the database's clock
	keep      relay.Retention
	limit     int
}

// before is the first id that is kept of those which are kept for so long.
func (c *clearing) before(keep relay.Duration) uuid.UUID {
	return firstIDOf(c.now.Add(-time.Duration(keep)))
}

// firstIDOf is the smallest UUIDv7 of a time.
func firstIDOf(t time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(max(0, t.UnixMilli()))<<16|0x7000)
	id[8] = 0x80
	return id
}

// Clear works off the next piece of what is kept no longer, of at most limit
// rows. False: nothing is due just now.
func (s *Store) Clear(ctx context.Context, limit int) (done Cleared, ok bool, err error) {
	err = s.inTx(ctx, "clearing what is kept no longer", func(tx pgx.Tx) error {
		c, err := nextClearing(ctx, tx)
		if errors.Is(err, pgx.ErrNoRows) {
			return startClearings(ctx, tx)
		}
		if err != nil {
			return err
		}
		ok, c.limit, done.Kind = true, limit, c.kind
		var last uuid.UUID // zero: the round is at its end
		switch c.kind {
		case ClearEventBodies:
			done.Rows, last, err = c.bodies(ctx, tx, eventBodies, c.keep.EventBody)
		case ClearAttemptBodies:
			done.Rows, last, err = c.bodies(ctx, tx, attemptBodies, c.keep.AttemptBody)
		case ClearCorrelations:
			done.Rows, last, err = c.correlations(ctx, tx)
		case ClearEvents:
			done.Rows, last, err = c.events(ctx, tx)
		}
		if err != nil {
			return err
		}
		return c.move(ctx, tx, last)
	})
	return done, ok, err
}

// nextClearing locks the cursor that is due for longest and reads what it
// needs.
func nextClearing(ctx context.Context, tx pgx.Tx) (c *clearing, err error) {
	var retention []byte
	c = &clearing{}
	err = tx.QueryRow(ctx, `
		SELECT r.project_id, r.kind, r.after, p.retention, now()
		FROM retention_cursors r JOIN projects p ON p.id = r.project_id
		WHERE r.due_at <= now()
		ORDER BY r.due_at
		LIMIT 1
		FOR UPDATE OF r SKIP LOCKED`).Scan(&c.projectID, &c.kind, &c.after, &retention, &c.now)
	if err != nil {
		return nil, err
	}
	keep, err := readRetention(retention)
	if err != nil {
		return nil, err
	}
	c.keep = keep.InForce()
	return c, byIndex(ctx, tx)
}

// byIndex keeps the rest of a transaction to index plans, as the hot pool is
// kept to them: for a table that is small, or unknown to the planner yet,
// others look cheaper.
func byIndex(ctx context.Context, tx pgx.Tx) error {
	params := map[string]string{}
	pinIndexPlans(params)
	delete(params, "plan_cache_mode") // these statements are planned each time
	for name, value := range params {
		if _, err := tx.Exec(ctx, `SELECT set_config($1, $2, true)`, name, value); err != nil {
			return err
		}
	}
	return nil
}

// startClearings makes the cursors of projects that have none yet, deleted
// projects too: their rows go like all others.
func startClearings(ctx context.Context, tx pgx.Tx) error {
	kinds := make([]string, len(Clearings))
	for i, kind := range Clearings {
		kinds[i] = string(kind)
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO retention_cursors (project_id, kind)
		SELECT p.id, k.kind
		FROM projects p CROSS JOIN unnest($1::text[]) AS k (kind)
		WHERE NOT EXISTS (SELECT FROM retention_cursors r WHERE r.project_id = p.id AND r.kind = k.kind)
		ON CONFLICT DO NOTHING`, kinds)
	return err
}

// move notes how far the piece has come.
func (c *clearing) move(ctx context.Context, tx pgx.Tx, last uuid.UUID) error {
	if last != uuid.Nil {
		_, err := tx.Exec(ctx, `
			UPDATE retention_cursors SET after = $3, due_at = clock_timestamp() WHERE project_id = $1 AND kind = $2`,
			c.projectID, string(c.kind), last)
		return err
	}
	again := c.kind == ClearCorrelations || c.kind == ClearEvents
	_, err := tx.Exec(ctx, `
		UPDATE retention_cursors
		SET after = CASE WHEN $3 THEN $4::uuid ELSE after END,
		    due_at = clock_timestamp() + $5 * interval '1 second', done_at = now()
		WHERE project_id = $1 AND kind = $2`, c.projectID, string(c.kind), again, uuid.Nil, clearingRest.Seconds())
	return err
}

// blanking is how one kind of bytes is cleared.
type blanking struct {
	next  string // the ids after $2 and before $3 of the project $1, at most $4
	blank func(context.Context, pgx.Tx, int64, []uuid.UUID) (rows int, left []uuid.UUID, err error)
}

var (
	eventBodies = blanking{`
		SELECT id FROM events WHERE project_id = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT $4`, blankEvents}
	attemptBodies = blanking{`
		SELECT id FROM deliveries WHERE project_id = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT $4`, blankAttempts}
)

// bodies blanks a piece of what is kept for so long. What was left earlier
// comes first.
func (c *clearing) bodies(ctx context.Context, tx pgx.Tx, kind blanking, keep relay.Duration) (rows int, last uuid.UUID, err error) {
	before := c.before(keep)
	rows, n, err := c.leftOnes(ctx, tx, kind, before)
	if err != nil || n == c.limit {
		return rows, c.after, err // there may be more of them
	}
	found, _ := tx.Query(ctx, kind.next, c.projectID, c.after, before, c.limit)
	ids, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil || len(ids) == 0 {
		return rows, uuid.Nil, err
	}
	more, left, err := kind.blank(ctx, tx, c.projectID, ids)
	if err != nil {
		return rows, uuid.Nil, err
	}
	// The cursor has passed them, also when this was the last piece.
	c.after = ids[len(ids)-1]
	_, err = tx.Exec(ctx, `
		INSERT INTO retention_left (project_id, kind, id)
		SELECT $1, $2, * FROM unnest($3::uuid[]) ON CONFLICT DO NOTHING`, c.projectID, string(c.kind), left)
	return rows + more, c.after, err
}

// leftOnes blanks what the cursor had to leave and can be blanked by now, of
// at most limit rows, and says how many it looked at.
func (c *clearing) leftOnes(ctx context.Context, tx pgx.Tx, kind blanking, before uuid.UUID) (rows, n int, err error) {
	found, _ := tx.Query(ctx, `
		UPDATE retention_left SET due_at = now() + interval '1 hour'
		WHERE project_id = $1 AND kind = $2 AND id = ANY (ARRAY(
		    SELECT id FROM retention_left WHERE project_id = $1 AND kind = $2 AND due_at <= now() ORDER BY id LIMIT $3))
		RETURNING id`, c.projectID, string(c.kind), c.limit)
	all, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil || len(all) == 0 {
		return 0, 0, err
	}
	// What is not old enough yet the cursor will come to, or has passed under
	// a retention that was shorter.
	due := slices.DeleteFunc(slices.Clone(all), func(id uuid.UUID) bool { return slices.Compare(id[:], before[:]) >= 0 })
	rows, left, err := kind.blank(ctx, tx, c.projectID, due)
	if err != nil {
		return 0, 0, err
	}
	over := slices.DeleteFunc(all, func(id uuid.UUID) bool {
		return slices.Contains(left, id) || slices.Compare(id[:], before[:]) >= 0 && slices.Compare(id[:], c.after[:]) <= 0
	})
	_, err = tx.Exec(ctx, `
		DELETE FROM retention_left WHERE project_id = $1 AND kind = $2 AND id = ANY($3)`, c.projectID, string(c.kind), over)
	return rows, len(over) + len(left), err
}

// anonymous is a payment without its payer's address, in the form in which
// payments are written: "exponent" comes before it always, so that a comma
// does. It goes by the text, since a cast to jsonb refuses some.
const anonymous = `regexp_replace(payment::text, ',"email":"(?:[^"\\]|\\.)*"', '')::json`

// personal are the columns of an event that may hold what a person wrote or
// is called by, and blank is what becomes of them.
const (
	personal = `(e.body IS NOT NULL OR e.answer IS NOT NULL OR e.headers IS NOT NULL OR e.request IS NOT NULL OR e.form IS NOT NULL
	             OR e.payment::text LIKE '%,"email":"%')`
	blank = `body = NULL, answer = NULL, headers = NULL, request = NULL, form = NULL, payment = ` + anonymous
)

// blankEvents blanks events, but for those that somebody works on at this
// moment, those that are parked, and those that a call is owed for. It returns
// how many it blanked, and those that are to be blanked yet.
func blankEvents(ctx context.Context, tx pgx.Tx, projectID int64, ids []uuid.UUID) (rows int, left []uuid.UUID, err error) {
	found, _ := tx.Query(ctx, `SELECT e.id FROM events e WHERE e.project_id = $1 AND e.id = ANY($2) AND `+personal, projectID, ids)
	wanted, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil || len(wanted) == 0 {
		return 0, nil, err
	}
	found, _ = tx.Query(ctx, `
		SELECT id FROM events WHERE project_id = $1 AND id = ANY($2) ORDER BY id FOR UPDATE SKIP LOCKED`, projectID, wanted)
	locked, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, nil, err
	}
	// Whatever an event fires was fired before its row was free to be locked:
	// this statement sees it.
	found, _ = tx.Query(ctx, `
		UPDATE events e SET `+blank+`
		WHERE e.project_id = $1 AND e.id = ANY($2) AND e.match <> 'parked'
		  AND NOT EXISTS (SELECT FROM deliveries d
		                  WHERE d.correlation_id = e.correlation_id AND d.event_id = e.id AND d.finished_at IS NULL)
		RETURNING e.id`, projectID, locked)
	blanked, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	done := make(map[uuid.UUID]bool, len(blanked))
	for _, id := range blanked {
		done[id] = true
	}
	return len(blanked), slices.DeleteFunc(wanted, func(id uuid.UUID) bool { return done[id] }), err
}

// blankAttempts blanks what platforms have answered, but for deliveries that
// are owed. It returns how many deliveries and attempts it blanked, and those
// that are to be blanked yet.
func blankAttempts(ctx context.Context, tx pgx.Tx, projectID int64, ids []uuid.UUID) (rows int, left []uuid.UUID, err error) {
	last, err := tx.Exec(ctx, `
		UPDATE deliveries SET response = NULL, notes = NULL
		WHERE project_id = $1 AND id = ANY($2) AND finished_at IS NOT NULL AND (response IS NOT NULL OR notes IS NOT NULL)`,
		projectID, ids)
	if err != nil {
		return 0, nil, err
	}
	found, _ := tx.Query(ctx, `
		SELECT id FROM deliveries WHERE project_id = $1 AND id = ANY($2) AND finished_at IS NULL`, projectID, ids)
	left, err = pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, nil, err
	}
	earlier, err := tx.Exec(ctx, `
		UPDATE attempts SET response = NULL, notes = NULL
		WHERE delivery_id = ANY($1) AND delivery_id <> ALL($2) AND (response IS NOT NULL OR notes IS NOT NULL)`, ids, left)
	return int(last.RowsAffected() + earlier.RowsAffected()), left, err
}

// correlations deletes a piece of the waits that ended long ago, with their
// events, deliveries and attempts, and the plans that nobody else has. Their
// names go with ClearReferences.
func (c *clearing) correlations(ctx context.Context, tx pgx.Tx) (rows int, last uuid.UUID, err error) {
	// Compared as rows: the primary key, which is of all projects, is no way to
	// them, whatever the planner believes of the table.
	found, _ := tx.Query(ctx, `
		SELECT id FROM correlations
		WHERE (project_id, id) > ($1, $2) AND (project_id, id) < ($1, $3)
		ORDER BY project_id, id
		LIMIT $4`,
		c.projectID, c.after, c.before(c.keep.Correlation), c.limit)
	ids, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil || len(ids) == 0 {
		return 0, uuid.Nil, err
	}
	found, _ = tx.Query(ctx, `
		SELECT id FROM correlations
		WHERE id = ANY($1) AND status <> 'pending' AND greatest(resolved_at, late_at) < now() - $2 * interval '1 second'
		ORDER BY id
		FOR UPDATE SKIP LOCKED`, ids, time.Duration(c.keep.Correlation).Seconds())
	ended, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, uuid.Nil, err
	}
	// An event keeps its later copies out, so it is not deleted while these
	// may come. OFFSET 0: else all young events may be read to find those of a
	// few waits.
	found, _ = tx.Query(ctx, `
		SELECT x.id FROM unnest($1::uuid[]) AS x (id)
		WHERE NOT EXISTS (SELECT FROM deliveries d WHERE d.correlation_id = x.id AND d.finished_at IS NULL)
		  AND NOT EXISTS (SELECT FROM (SELECT id FROM events WHERE correlation_id = x.id OFFSET 0) e WHERE e.id >= $2)`,
		ended, c.before(relay.Duration(relay.DedupeKept)))
	over, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, uuid.Nil, err
	}
	rows, err = deleteWaits(ctx, tx, over)
	return rows, ids[len(ids)-1], err
}

// deleteWaits deletes waits that the transaction has locked, with all that
// belongs to them. A delivery that a person has just retried stays, and so
// does its wait.
func deleteWaits(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (rows int, err error) {
	found, _ := tx.Query(ctx, `
		DELETE FROM deliveries WHERE correlation_id = ANY($1) AND finished_at IS NOT NULL RETURNING id`, ids)
	deliveries, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, err
	}
	var waits, plans []uuid.UUID
	var id, plan uuid.UUID
	found, _ = tx.Query(ctx, `
		DELETE FROM correlations c
		WHERE c.id = ANY($1) AND NOT EXISTS (SELECT FROM deliveries d WHERE d.correlation_id = c.id)
		RETURNING c.id, c.plan_id`, ids)
	if _, err := pgx.ForEachRow(found, []any{&id, &plan}, func() error {
		waits, plans = append(waits, id), append(plans, plan)
		return nil
	}); err != nil {
		return 0, err
	}
	attempts, err := tx.Exec(ctx, `DELETE FROM attempts WHERE delivery_id = ANY($1)`, deliveries)
	if err != nil {
		return 0, err
	}
	found, _ = tx.Query(ctx, `DELETE FROM events WHERE correlation_id = ANY($1) RETURNING id`, waits)
	events, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, err
	}
	if err := deleteQuestions(ctx, tx, waits, events); err != nil {
		return 0, err
	}
	for _, sql := range []string{
		`DELETE FROM openings WHERE correlation_id = ANY($1)`,
		`DELETE FROM nudges WHERE correlation_id = ANY($1)`,
		`DELETE FROM checkouts WHERE correlation_id = ANY($1)`,
	} {
		if _, err := tx.Exec(ctx, sql, waits); err != nil {
			return 0, err
		}
	}
	rows = len(waits) + len(deliveries) + int(attempts.RowsAffected()) + len(events)
	return rows, deletePlans(ctx, tx, plans)
}

// deleteQuestions deletes what providers were asked about waits and events. A
// node that is asking at this moment finds its lease gone.
func deleteQuestions(ctx context.Context, tx pgx.Tx, waits, events []uuid.UUID) error {
	_, err := tx.Exec(ctx, `DELETE FROM questions WHERE correlation_id = ANY($1)`, waits)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM questions WHERE event_id = ANY($1)`, events)
	return err
}

// deletePlans deletes those of some plans that no wait refers to any more. The
// plans are locked first, as registrations lock them, and looked at in a new
// statement: a registration that uses one has committed by then, or makes it
// anew; and of two who delete the last two waits of a plan one sees both gone.
func deletePlans(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) error {
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	ids = slices.Compact(ids)
	if _, err := tx.Exec(ctx, `SELECT FROM plans WHERE id = ANY($1) ORDER BY id FOR UPDATE`, ids); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		DELETE FROM plans p
		WHERE p.id = ANY($1) AND NOT EXISTS (SELECT FROM correlations c WHERE c.plan_id = p.id)`, ids)
	return err
}

// events deletes a piece of the old events that belong to no wait: those that
// never did, and copies of an event whose wait is gone.
func (c *clearing) events(ctx context.Context, tx pgx.Tx) (rows int, last uuid.UUID, err error) {
	found, _ := tx.Query(ctx, `
		SELECT id FROM events WHERE project_id = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT $4`,
		c.projectID, c.after, c.before(c.keep.Correlation), c.limit)
	ids, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil || len(ids) == 0 {
		return 0, uuid.Nil, err
	}
	found, _ = tx.Query(ctx, `
		SELECT id FROM events
		WHERE project_id = $1 AND id = ANY($2) AND match <> 'parked'
		ORDER BY id
		FOR UPDATE SKIP LOCKED`, c.projectID, ids)
	locked, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, uuid.Nil, err
	}
	found, _ = tx.Query(ctx, `
		DELETE FROM events e
		WHERE e.project_id = $1 AND e.id = ANY($2)
		  AND NOT EXISTS (SELECT FROM correlations c WHERE c.id = e.correlation_id)
		RETURNING e.id`, c.projectID, locked)
	deleted, err := pgx.CollectRows(found, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, uuid.Nil, err
	}
	return len(deleted), ids[len(ids)-1], deleteQuestions(ctx, tx, nil, deleted)
}

// ClearReferences deletes the names of waits that are gone, among those that
// stand in some blocks of their table, and returns the block to go on with: 0
// after the last one. They are harmless, since a name without a wait leads to
// nobody. Names are found by what they are, and an index by their waits would
// cost every callback that teaches one; so they are looked for where they lie.
func (s *Store) ClearReferences(ctx context.Context, from int64, blocks int) (rows int, next int64, err error) {
	err = s.inTx(ctx, "clearing the names of waits", func(tx pgx.Tx) error {
		var size int64
		err := tx.QueryRow(ctx, `
			SELECT pg_relation_size('correlation_refs') / current_setting('block_size')::bigint`).Scan(&size)
		if err != nil {
			return err
		}
		if next = from + int64(blocks); next >= size {
			next = 0
		}
		if _, err := tx.Exec(ctx, `SELECT set_config('enable_seqscan', 'off', true)`); err != nil {
			return err
		}
		projects, before, err := firstKept(ctx, tx)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			WITH old AS MATERIALIZED (
			    SELECT r.ctid AS at, r.correlation_id
			    FROM correlation_refs r
			    JOIN unnest($3::bigint[], $4::uuid[]) AS p (project_id, before) ON p.project_id = r.project_id AND r.correlation_id < p.before
			    WHERE r.ctid >= format('(%s,0)', $1::bigint)::tid AND r.ctid < format('(%s,0)', $2::bigint)::tid
			)
			DELETE FROM correlation_refs WHERE ctid = ANY (ARRAY(
			    -- OFFSET 0: else all waits may be read to be joined with a few.
			    SELECT at FROM old WHERE NOT EXISTS (SELECT FROM correlations c WHERE c.id = old.correlation_id OFFSET 0)))`, from, from+int64(blocks), projects, before)
		rows = int(tag.RowsAffected())
		return err
	})
	return rows, next, err
}

// firstKept lists all projects, and of each the first id of the waits that are
// kept whatever has become of them.
func firstKept(ctx context.Context, tx pgx.Tx) (projects []int64, before []uuid.UUID, err error) {
	rows, _ := tx.Query(ctx, `SELECT id, retention, now() FROM projects`)
	var c clearing
	var doc []byte
	_, err = pgx.ForEachRow(rows, []any{&c.projectID, &doc, &c.now}, func() error {
		keep, err := readRetention(doc)
		projects, before = append(projects, c.projectID), append(before, c.before(keep.InForce().Correlation))
		return err
	})
	return projects, before, err
}
