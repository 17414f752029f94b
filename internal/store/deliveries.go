package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// DeliveryRecord is one delivery as it is shown.
type DeliveryRecord struct {
	ID            uuid.UUID
	CorrelationID uuid.UUID
	EventID       *uuid.UUID
	Destination   string
	Outcome       relay.Outcome
	Action        string
	Status        relay.DeliveryStatus
	Attempts      int
	DueAt         *time.Time
	Leased        bool
	Class         string
	Reason        string
	CreatedAt     time.Time
	FinishedAt    *time.Time
	Retries       []Retry // by hand, oldest first: of more than maxRetries the newest
}

// Retry is one retry by hand.
type Retry struct {
	At      time.Time            `json:"at"`
	Was     relay.DeliveryStatus `json:"was"`
	EndedAt *time.Time           `json:"ended_at"` // when it had become that; nil: it had not ended
}

// maxRetries bounds the retries by hand that a delivery is known with.
const maxRetries = 20

// noteRetry notes a retry by hand in the row of a delivery d.
var noteRetry = fmt.Sprintf(`retries = CASE WHEN jsonb_array_length(d.retries) >= %d THEN d.retries - 0 ELSE coalesce(d.retries, '[]') END
		                   || jsonb_build_object('at', clock_timestamp(), 'was', d.status, 'ended_at', d.finished_at)`, maxRetries)

// AttemptRecord is one attempt as it is shown.
type AttemptRecord struct {
	DeliveryID uuid.UUID
	Number     int
	StartedAt  time.Time
	DurationMS int
	Class      relay.Class
	HTTPStatus *int
	Reason     string
	Response   string
	Notes      []byte
}

const deliveryColumns = `d.id, d.correlation_id, d.event_id, coalesce(t.name, ''), d.outcome, d.action, d.status, d.attempts,
	d.due_at, d.lease IS NOT NULL, coalesce(d.class, ''), coalesce(d.reason, ''), d.created_at, d.finished_at,
	d.retries`

func scanDeliveryRecord(row pgx.CollectableRow) (*DeliveryRecord, error) {
	r := &DeliveryRecord{}
	err := row.Scan(&r.ID, &r.CorrelationID, &r.EventID, &r.Destination, &r.Outcome, &r.Action, &r.Status, &r.Attempts,
		&r.DueAt, &r.Leased, &r.Class, &r.Reason, &r.CreatedAt, &r.FinishedAt, &r.Retries)
	return r, err
}

// Delivery returns one delivery of a project with its attempts, oldest first.
func (s *Store) Delivery(ctx context.Context, projectID int64, id uuid.UUID) (*DeliveryRecord, []AttemptRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+deliveryColumns+`
		FROM deliveries d LEFT JOIN destinations t ON t.id = d.destination_id
		WHERE d.project_id = $1 AND d.id = $2`, projectID, id)
	d, err := pgx.CollectExactlyOneRow(rows, scanDeliveryRecord)
	if d, err = oneOrNotFound(d, err, "delivery"); err != nil {
		return nil, nil, translate("reading a delivery", err)
	}
	attempts, err := s.Attempts(ctx, projectID, id)
	return d, attempts, err
}

// maxAttempts bounds the attempts that are shown together.
const maxAttempts = 1000

// Attempts returns the attempts of some deliveries, oldest first: of more than
// 1000 the newest.
func (s *Store) Attempts(ctx context.Context, projectID int64, deliveries ...uuid.UUID) ([]AttemptRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT delivery_id, number, started_at, duration_ms, class, http_status, coalesce(reason, ''), coalesce(response, ''), notes
		FROM attempts
		WHERE project_id = $1 AND delivery_id = ANY($2)
		UNION ALL
		SELECT id, attempts, started_at, duration_ms, class, http_status, coalesce(reason, ''), coalesce(response, ''), notes
		FROM deliveries
		WHERE project_id = $1 AND id = ANY($2) AND attempts > 0
		ORDER BY started_at DESC, number DESC
		LIMIT $3`, projectID, deliveries, maxAttempts)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a AttemptRecord, err error) {
		err = row.Scan(&a.DeliveryID, &a.Number, &a.StartedAt, &a.DurationMS, &a.Class, &a.HTTPStatus, &a.Reason, &a.Response, &a.Notes)
		return a, err
	})
	slices.Reverse(list)
	return list, translate("reading attempts", err)
}

// AttemptsFor counts the attempts of a delivery that ended for one of some
// reasons.
func (s *Store) AttemptsFor(ctx context.Context, projectID int64, delivery uuid.UUID, reasons []string) (n int, err error) {
	err = s.hot.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM attempts WHERE project_id = $1 AND delivery_id = $2 AND reason = ANY($3::text[]))
		     + (SELECT count(*) FROM deliveries WHERE project_id = $1 AND id = $2 AND reason = ANY($3::text[]))`,
		projectID, delivery, reasons).Scan(&n)
	return n, translate("counting attempts", err)
}

// DeliveryFilter narrows a list or a bulk retry; zero fields do not.
type DeliveryFilter struct {
	Status        relay.DeliveryStatus
	Destination   string
	Outcome       relay.Outcome
	CorrelationID uuid.UUID
	From, To      time.Time // of creation
}

// deliveryWhere applies a DeliveryFilter given as $3 to $8.
const deliveryWhere = `
	($3 = '' OR d.status = $3)
	AND ($4 = '' OR t.name = $4)
	AND ($5 = '' OR d.outcome = $5)
	AND ($6::uuid IS NULL OR d.correlation_id = $6)
	AND ($7::timestamptz IS NULL OR d.created_at >= $7)
	AND ($8::timestamptz IS NULL OR d.created_at < $8)`

// Deliveries lists deliveries of a project, newest first.
func (s *Store) Deliveries(ctx context.Context, projectID int64, f DeliveryFilter, p Page) ([]*DeliveryRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+deliveryColumns+`
		FROM deliveries d LEFT JOIN destinations t ON t.id = d.destination_id
		WHERE d.project_id = $1 AND d.id < $2 AND `+deliveryWhere+`
		ORDER BY d.id DESC
		LIMIT $9`, projectID, p.before(), string(f.Status), f.Destination, string(f.Outcome),
		optionalID(f.CorrelationID), optionalTime(f.From), optionalTime(f.To), p.Limit)
	list, err := pgx.CollectRows(rows, scanDeliveryRecord)
	return list, translate("listing deliveries", err)
}

// byHand is one delivery as a person finds it.
type byHand struct {
	projectID    int64
	id           uuid.UUID
	conversation uuid.UUID
	status       relay.DeliveryStatus
	leased       bool
}

// handColumns are scanned by scanByHand. What a delivery of before the slots
// speaks in is told by its wait.
const handColumns = `d.project_id, d.id, d.status, d.lease IS NOT NULL, d.destination_id, coalesce(c.conversation, c.user_id)`

func scanByHand(row pgx.CollectableRow) (*byHand, error) {
	var h byHand
	var destination int64
	var name string
	if err := row.Scan(&h.projectID, &h.id, &h.status, &h.leased, &destination, &name); err != nil {
		return nil, err
	}
	h.conversation = ConversationHash(destination, name)
	return &h, nil
}

// errBeingSent refuses to change what is on its way.
var errBeingSent = relay.Errorf(relay.Conflict, "delivery_not_changed",
	"the delivery is being sent, or changed, at this moment: look at it again when the timeout of its destination is over")

// RetryDelivery makes a delivery that has come to rest due again, with a new
// span to try. A delivered one needs force. Where another delivery of the
// conversation holds the slot it is sent after that one.
func (s *Store) RetryDelivery(ctx context.Context, projectID int64, id uuid.UUID, force bool) error {
	return s.inTxAgain(ctx, "retrying a delivery", func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT `+handColumns+`
			FROM deliveries d JOIN correlations c ON c.id = d.correlation_id
			WHERE d.project_id = $1 AND d.id = $2
			FOR UPDATE OF d`, projectID, id)
		h, err := pgx.CollectExactlyOneRow(rows, scanByHand)
		if h, err = oneOrNotFound(h, err, "delivery"); err != nil {
			return err
		}
		if h.leased || h.status == relay.Sending {
			return errBeingSent
		}
		if h.status == relay.Delivered && !force {
			return relay.Errorf(relay.Conflict, "delivery_not_changed",
				"the delivery was delivered already: give {\"force\": true} to send it once more")
		}
		if err := canRender(ctx, tx, projectID, id); err != nil {
			return err
		}
		if h.status == relay.Scheduled {
			// It keeps the slot, or its place among those that wait for it.
			_, err := tx.Exec(ctx, `
				UPDATE deliveries d
				SET due_at = CASE WHEN due_at IS NOT NULL THEN clock_timestamp() END, by_hand = true,
				    give_up_at = clock_timestamp() + retry_for * interval '1 second', `+noteRetry+`
				WHERE project_id = $1 AND id = $2`, projectID, id)
			return err
		}
		return retry(ctx, tx, []*byHand{h})
	})
}

// canRender refuses a retry of what retention has taken the event's details
// from, or an erasure the user: it would speak of nothing. The lock keeps them until the delivery is
// owed, and so until it was made.
func canRender(ctx context.Context, tx pgx.Tx, projectID int64, delivery uuid.UUID) error {
	var erased bool
	err := tx.QueryRow(ctx, `
		SELECT c.user_id = ''
		FROM deliveries d JOIN correlations c ON c.id = d.correlation_id
		WHERE d.project_id = $1 AND d.id = $2`, projectID, delivery).Scan(&erased)
	if err != nil {
		return err
	}
	if erased {
		return relay.Errorf(relay.Conflict, "user_erased", "the user of this delivery was erased: there is nobody to be told")
	}
	var blanked bool
	err = tx.QueryRow(ctx, `
		SELECT e.body IS NULL
		FROM deliveries d JOIN events e ON e.project_id = d.project_id AND e.id = d.event_id
		WHERE d.project_id = $1 AND d.id = $2
		FOR SHARE OF e`, projectID, delivery).Scan(&blanked)
	if errors.Is(err, pgx.ErrNoRows) { // no event fired it
		return nil
	}
	if err == nil && blanked {
		return relay.Errorf(relay.Conflict, "event_blanked",
			"what the event said is not kept any more, so that the call cannot be made again: skip it")
	}
	return err
}

// retry makes deliveries at rest, which the caller has locked, due where the
// slot of their conversation is free; the others wait for their turn. What they
// will be answered is cleared later, also where retention has passed them. A
// slot that was free and is taken in the same moment makes it conflict.
func retry(ctx context.Context, tx pgx.Tx, list []*byHand) error {
	slices.SortFunc(list, func(a, b *byHand) int { return bySlot(a.conversation, a.id, b.conversation, b.id) })
	n := len(list)
	projects, ids, conversations, due := make([]int64, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]bool, n)
	for i, h := range list {
		projects[i], ids[i], conversations[i] = h.projectID, h.id, h.conversation
	}
	holders, err := lockSlots(ctx, tx, conversations)
	if err != nil {
		return err
	}
	for i, h := range list {
		if holders[h.conversation] == uuid.Nil {
			holders[h.conversation] = h.id
		}
		due[i] = holders[h.conversation] == h.id
	}
	_, err = tx.Exec(ctx, `
		UPDATE deliveries d
		SET status = 'scheduled', due_at = CASE WHEN g.due THEN clock_timestamp() END, lease = NULL, finished_at = NULL,
		    conversation = g.conversation, by_hand = true, give_up_at = clock_timestamp() + d.retry_for * interval '1 second',
		    `+noteRetry+`
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::boolean[]) AS g (project_id, id, conversation, due)
		WHERE d.project_id = g.project_id AND d.id = g.id`, projects, ids, conversations, due)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO retention_left (project_id, kind, id)
		SELECT g.project_id, r.kind, g.id
		FROM unnest($1::bigint[], $2::uuid[]) AS g (project_id, id)
		JOIN retention_cursors r ON r.project_id = g.project_id AND r.kind = 'attempt_body' AND r.after >= g.id
		ON CONFLICT DO NOTHING`, projects, ids)
	return err
}

// SkipDelivery gives a delivery up by hand.
func (s *Store) SkipDelivery(ctx context.Context, projectID int64, id uuid.UUID) error {
	return s.inTxAgain(ctx, "skipping a delivery", func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT `+handColumns+`
			FROM deliveries d JOIN correlations c ON c.id = d.correlation_id
			WHERE d.project_id = $1 AND d.id = $2`, projectID, id)
		seen, err := pgx.CollectExactlyOneRow(rows, scanByHand)
		if seen, err = oneOrNotFound(seen, err, "delivery"); err != nil {
			return err
		}
		h, err := lockToSkip(ctx, tx, seen)
		if err != nil {
			return err
		}
		if h == nil || h.leased || h.status == relay.Sending {
			return errBeingSent
		}
		if !slices.Contains([]relay.DeliveryStatus{relay.Dead, relay.Held, relay.Unknown, relay.Scheduled}, h.status) {
			return relay.Errorf(relay.Conflict, "delivery_not_changed", "the delivery is %s: it has ended already", h.status)
		}
		var b pgx.Batch
		b.Queue(`
			UPDATE deliveries
			SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = clock_timestamp(),
			    reason = CASE WHEN attempts = 0 THEN 'skipped by hand' ELSE reason END -- else it is that of the last attempt
			WHERE project_id = $1 AND id = $2`, projectID, id)
		queuePassOn(&b, []uuid.UUID{h.conversation}, func(uuid.UUID) {})
		return tx.SendBatch(ctx, &b).Close()
	})
}

// lockToSkip locks the slot and then the delivery, and returns it as it is
// now. Who holds the slot must not wait for a delivery: nil says that it is
// being sent or changed at this moment.
func lockToSkip(ctx context.Context, tx pgx.Tx, seen *byHand) (*byHand, error) {
	if _, err := lockSlots(ctx, tx, []uuid.UUID{seen.conversation}); err != nil {
		return nil, err
	}
	rows, _ := tx.Query(ctx, `
		SELECT `+handColumns+`
		FROM deliveries d JOIN correlations c ON c.id = d.correlation_id
		WHERE d.project_id = $1 AND d.id = $2
		FOR UPDATE OF d SKIP LOCKED`, seen.projectID, seen.id)
	list, err := pgx.CollectRows(rows, scanByHand)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// BulkLimit is how many deliveries one bulk retry takes at most.
const BulkLimit = 10_000

// retryPiece is how many deliveries are made due in one transaction: a slot
// that is taken in the same moment repeats no more than them.
const retryPiece = 200

// RetryDeliveries makes dead, held and unknown deliveries that match f due
// again, at most BulkLimit, and returns how many. With dryRun it only counts.
// Those of a conversation that is busy wait for their turn. It works in pieces:
// after an error those before it are due, and the next call takes the others.
func (s *Store) RetryDeliveries(ctx context.Context, projectID int64, f DeliveryFilter, dryRun bool) (n int, err error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+handColumns+`
		FROM deliveries d JOIN correlations c ON c.id = d.correlation_id LEFT JOIN destinations t ON t.id = d.destination_id
		WHERE d.project_id = $1 AND d.status IN ('dead', 'held', 'unknown') AND `+deliveryWhere+`
		  AND c.user_id <> '' AND NOT EXISTS (SELECT FROM events e WHERE e.project_id = d.project_id AND e.id = d.event_id AND e.body IS NULL)
		ORDER BY d.id
		LIMIT $2`,
		projectID, BulkLimit, string(f.Status), f.Destination, string(f.Outcome),
		optionalID(f.CorrelationID), optionalTime(f.From), optionalTime(f.To))
	found, err := pgx.CollectRows(rows, scanByHand)
	if err != nil || dryRun {
		return len(found), translate("reading deliveries", err)
	}
	slices.SortFunc(found, func(a, b *byHand) int { return bySlot(a.conversation, a.id, b.conversation, b.id) })
	for piece := range slices.Chunk(found, retryPiece) {
		var due []*byHand
		err := s.inTxAgain(ctx, "retrying deliveries", func(tx pgx.Tx) (err error) {
			if due, err = lockStuck(ctx, tx, projectID, piece); err != nil || len(due) == 0 {
				return err
			}
			return retry(ctx, tx, due)
		})
		if err != nil {
			return n, err
		}
		n += len(due)
	}
	return n, nil
}

// lockStuck locks the slots of deliveries and then themselves, and leaves out
// those that are not stuck any more or that somebody changes at this moment.
func lockStuck(ctx context.Context, tx pgx.Tx, projectID int64, list []*byHand) ([]*byHand, error) {
	ids, conversations := make([]uuid.UUID, len(list)), make([]uuid.UUID, len(list))
	for i, h := range list {
		ids[i], conversations[i] = h.id, h.conversation
	}
	if _, err := lockSlots(ctx, tx, conversations); err != nil {
		return nil, err
	}
	rows, _ := tx.Query(ctx, `
		SELECT id FROM deliveries
		WHERE project_id = $1 AND id = ANY($2::uuid[]) AND status IN ('dead', 'held', 'unknown')
		FOR UPDATE SKIP LOCKED`, projectID, ids)
	locked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	still := make(map[uuid.UUID]bool, len(locked))
	for _, id := range locked {
		still[id] = true
	}
	return slices.DeleteFunc(slices.Clone(list), func(h *byHand) bool { return !still[h.id] }), err
}

// optionalTime makes a zero time NULL.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
