package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"relay.example/relay/internal/relay"
)

// A person is erased wait by wait: each is locked as a callback locks it, ended
// if it is pending, and blanked with its events and deliveries in the same
// transaction. A callback that comes at the same moment is therefore blanked
// with the others, or finds the wait of nobody; a delivery that is owed fires
// no more. A wait that was registered before the erasure began is erased, a
// later one is a wait like any other.

// erasureLease is how long a node may work at an erasure before another one
// goes on with it.
const erasureLease = 30 * time.Second

// erasedReason stands in a delivery that is not made because of an erasure.
const erasedReason = "its user was erased"

// Erased is what an erasure has done.
type Erased struct {
	Correlations int // blanked
	Cancelled    int // of them: were pending
	Events       int // blanked
	Deliveries   int // blanked
	Skipped      int // of them: were owed, or could have been retried
}

// Add adds what another piece has done.
func (e *Erased) Add(o Erased) {
	e.Correlations, e.Cancelled, e.Events = e.Correlations+o.Correlations, e.Cancelled+o.Cancelled, e.Events+o.Events
	e.Deliveries, e.Skipped = e.Deliveries+o.Deliveries, e.Skipped+o.Skipped
}

// StartErasure notes that a person is to be erased. From its commit on that
// will happen, by the caller's calls of EraseNext or by a sweep.
func (s *Store) StartErasure(ctx context.Context, projectID int64, userID string) error {
	_, err := s.pool.Exec(ctx, `
		INSERT INTO erasures (project_id, user_id, due_at) VALUES ($1, $2, now() + $3 * interval '1 second')
		ON CONFLICT (project_id, user_id) DO UPDATE SET due_at = excluded.due_at`, projectID, userID, erasureLease.Seconds())
	return translate("starting an erasure", err)
}

// DueErasure leases an erasure that nobody works at.
func (s *Store) DueErasure(ctx context.Context) (projectID int64, userID string, ok bool, err error) {
	err = s.pool.QueryRow(ctx, `
		UPDATE erasures e SET due_at = now() + $1 * interval '1 second'
		FROM (SELECT project_id, user_id FROM erasures WHERE due_at <= now() LIMIT 1 FOR UPDATE SKIP LOCKED) due
		WHERE e.project_id = due.project_id AND e.user_id = due.user_id
		RETURNING e.project_id, e.user_id`, erasureLease.Seconds()).Scan(&projectID, &userID)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", false, nil
	}
	return projectID, userID, err == nil, translate("taking an erasure", err)
}

// EraseNext erases the next waits of a person, at most limit of them. done:
// none was left, and the erasure is at its end. It may lose to a delivery that
// is being recorded: see Conflicted.
func (s *Store) EraseNext(ctx context.Context, projectID int64, userID string, limit int) (e Erased, done bool, err error) {
	to := s.tell()
	err = s.inTx(ctx, "erasing a user", func(tx pgx.Tx) error {
		if err := byIndex(ctx, tx); err != nil {
			return err
		}
		waits, err := lockWaitsOf(ctx, tx, projectID, userID, limit)
		if err != nil {
			return err
		}
		if done = len(waits) < limit; done {
			if _, err := tx.Exec(ctx, `DELETE FROM erasures WHERE project_id = $1 AND user_id = $2`, projectID, userID); err != nil {
				return err
			}
		}
		if len(waits) == 0 {
			return nil
		}
		e, err = erase(ctx, tx, to, projectID, waits)
		return err
	})
	s.isOut(to)
	return e, done, err
}

// erasing are waits that are locked to be erased.
type erasing []*relay.Wait

func lockWaitsOf(ctx context.Context, tx pgx.Tx, projectID int64, userID string, limit int) (erasing, error) {
	rows, _ := tx.Query(ctx, `
		SELECT `+waitColumns+`
		FROM correlations c
		WHERE c.project_id = $1 AND c.user_id = $2
		ORDER BY c.id
		LIMIT $3
		FOR UPDATE`, projectID, userID, limit)
	return pgx.CollectRows(rows, scanWait)
}

func (waits erasing) ids() (ids []uuid.UUID) {
	for _, w := range waits {
		ids = append(ids, w.ID)
	}
	return ids
}

// erase blanks waits that the transaction has locked.
func erase(ctx context.Context, tx pgx.Tx, to *telling, projectID int64, waits erasing) (e Erased, err error) {
	e.Correlations = len(waits)
	if e.Cancelled, err = waits.cancel(ctx, tx, to); err != nil {
		return e, err
	}
	for _, sql := range []string{
		`DELETE FROM nudges WHERE correlation_id = ANY($1)`,
		// A session that is to be ended is known until it is: RecordSessionEnd.
		`DELETE FROM checkouts WHERE correlation_id = ANY($1) AND end_due_at IS NULL`,
		`UPDATE checkouts SET url = '' WHERE correlation_id = ANY($1)`,
	} {
		if _, err := tx.Exec(ctx, sql, waits.ids()); err != nil {
			return e, err
		}
	}
	if e.Deliveries, e.Skipped, err = waits.blankDeliveries(ctx, tx); err != nil {
		return e, err
	}
	if e.Events, err = waits.blankEvents(ctx, tx, projectID); err != nil {
		return e, err
	}
	return e, waits.blank(ctx, tx, projectID)
}

// cancel ends those that are pending. Nothing fires: who asked to be forgotten
// is not written to. Those who subscribe are told, and not of whom.
func (waits erasing) cancel(ctx context.Context, tx pgx.Tx, to *telling) (int, error) {
	var changes []waitChange
	for _, w := range waits {
		if w.Status == relay.Pending {
			changes = append(changes, waitChange{wait: w, step: w.Apply(relay.Cancelled, ""), by: "api", payable: true})
		}
	}
	var b pgx.Batch
	queueChanges(&b, to, changes, nil, uuid.Nil, time.Time{})
	queueNews(&b, newsOf(to, changes))
	return len(changes), tx.SendBatch(ctx, &b).Close()
}

// blankDeliveries skips what is owed or could be retried and blanks all. Who
// is making a call at this moment finds its lease gone when it records it. The
// slots are locked first; a delivery that somebody changes just now would want
// one of them, and is not waited for.
func (waits erasing) blankDeliveries(ctx context.Context, tx pgx.Tx) (all, skipped int, err error) {
	rows, _ := tx.Query(ctx, `SELECT id, conversation FROM deliveries WHERE correlation_id = ANY($1)`, waits.ids())
	var ids, conversations []uuid.UUID
	var id uuid.UUID
	var conversation *uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id, &conversation}, func() error {
		if ids = append(ids, id); conversation != nil {
			conversations = append(conversations, *conversation)
		}
		return nil
	}); err != nil || len(ids) == 0 {
		return 0, 0, err
	}
	if _, err := lockSlots(ctx, tx, conversations); err != nil {
		return 0, 0, err
	}
	locked, err := tx.Exec(ctx, `
		SELECT FROM deliveries WHERE correlation_id = ANY($1) FOR UPDATE SKIP LOCKED`, waits.ids())
	if err != nil {
		return 0, 0, err
	}
	if int(locked.RowsAffected()) != len(ids) {
		return 0, 0, errOvertaken
	}
	var b pgx.Batch
	b.Queue(`
		UPDATE deliveries
		SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = clock_timestamp(), reason = $2
		WHERE correlation_id = ANY($1) AND status NOT IN ('delivered', 'skipped')`, waits.ids(), erasedReason).Exec(func(tag pgconn.CommandTag) error {
		skipped = int(tag.RowsAffected())
		return nil
	})
	queuePassOn(&b, conversations, func(uuid.UUID) {})
	b.Queue(`
		UPDATE deliveries
		SET response = NULL, notes = NULL, conversation = NULL, reason = CASE WHEN reason = $2 THEN reason END
		WHERE correlation_id = ANY($1)`, waits.ids(), erasedReason)
	b.Queue(`UPDATE attempts SET response = NULL, notes = NULL, reason = NULL WHERE delivery_id = ANY($1)`, ids)
	return len(ids), skipped, tx.SendBatch(ctx, &b).Close()
}

// blankEvents blanks the events of the waits, and those that named one of them
// and came to nothing: by its token, or by its caller's key, which goes too.
func (waits erasing) blankEvents(ctx context.Context, tx pgx.Tx, projectID int64) (int, error) {
	var tokens, keys []string
	for _, w := range waits {
		if tokens = append(tokens, w.Token); w.Key != "" {
			keys = append(keys, w.Key)
		}
	}
	theirs, err := tx.Exec(ctx, `
		UPDATE events SET `+blank+`, token = CASE WHEN token = ANY($2) THEN token END
		WHERE correlation_id = ANY($1)`, waits.ids(), tokens)
	if err != nil {
		return 0, err
	}
	named, err := tx.Exec(ctx, `
		UPDATE events SET `+blank+`, token = CASE WHEN token = ANY($2) THEN token END
		WHERE project_id = $1 AND token = ANY($2::text[] || $3::text[]) AND correlation_id = ANY($4) IS NOT true`,
		projectID, tokens, keys, waits.ids())
	return int(theirs.RowsAffected() + named.RowsAffected()), err
}

// blank takes from the waits all that is the person's. Without actions and
// expectations whatever comes later fires nothing. What they were superseded
// by is a hash of the person: it becomes a random one.
func (waits erasing) blank(ctx context.Context, tx pgx.Tx, projectID int64) error {
	doc, err := (&relay.Plan{}).Canonical()
	if err != nil {
		return err
	}
	plan := PlanID(projectID, doc)
	// It is locked, so that nobody deletes it as the plan of nobody.
	if _, err := tx.Exec(ctx, `
		INSERT INTO plans (id, project_id, doc) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET used_at = now()`, plan, projectID, string(doc)); err != nil {
		return err
	}
	if err := waits.blankResolutions(ctx, tx); err != nil {
		return err
	}
	// What is told of them from here on is told of nobody.
	if _, err := tx.Exec(ctx, `
		UPDATE hooks SET personal = NULL WHERE correlation_id = ANY($1) AND personal IS NOT NULL`, waits.ids()); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		UPDATE correlations
		SET user_id = '', conversation = NULL, key = NULL, custom_vars = NULL, data = NULL, locale = NULL,
		    scope = gen_random_uuid(), plan_id = $2, erased_at = clock_timestamp()
		WHERE id = ANY($1)`, waits.ids(), plan); err != nil {
		return err
	}
	var old []uuid.UUID
	for _, w := range waits {
		if w.PlanID != plan {
			old = append(old, w.PlanID)
		}
	}
	return deletePlans(ctx, tx, old)
}

// blankResolutions leaves of what was given by hand the payment, without its
// payer.
func (waits erasing) blankResolutions(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, `SELECT id, resolution FROM correlations WHERE id = ANY($1) AND resolution IS NOT NULL`, waits.ids())
	left := map[uuid.UUID]*string{}
	var id uuid.UUID
	var doc []byte
	if _, err := pgx.ForEachRow(rows, []any{&id, &doc}, func() error {
		var r Resolution
		if err := json.Unmarshal(doc, &r); err != nil {
			return err
		}
		left[id] = mustJSON(Resolution{Payment: withoutPayer(r.Payment)})
		return nil
	}); err != nil {
		return err
	}
	for id, doc := range left { // few: a person wrote each of them
		if _, err := tx.Exec(ctx, `UPDATE correlations SET resolution = $2 WHERE id = $1`, id, doc); err != nil {
			return err
		}
	}
	return nil
}

// withoutPayer is a payment without the address of who paid.
func withoutPayer(p *relay.Payment) *relay.Payment {
	if p == nil || p.Email == "" {
		return p
	}
	anonymous := *p
	anonymous.Email = ""
	return &anonymous
}
