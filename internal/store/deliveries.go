package store

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// ClaimDue leases deliveries that are due: retries whose time has come, and
// those whose node died with them. Rows that another node claims at this
// moment are left to it. Deliveries to a destination in busy are left as
// well, so that a slow destination cannot fill every claim.
func (s *Store) ClaimDue(ctx context.Context, lease uuid.UUID, limit int, busy []int64) ([]relay.Delivery, error) {
	leaseEnds := time.Now().Add(relay.Lease)
	rows, _ := s.hot.Query(ctx, `
		WITH due AS (
		    SELECT project_id, id
		    FROM deliveries
		    WHERE due_at <= now() AND status = 'scheduled' AND destination_id <> ALL ($4::bigint[])
		    ORDER BY due_at
		    LIMIT $3
		    FOR UPDATE SKIP LOCKED
		), claimed AS (
		    UPDATE deliveries d
		    SET due_at = clock_timestamp() + $2 * interval '1 second', lease = $1
		    FROM due
		    WHERE d.project_id = due.project_id AND d.id = due.id
		    RETURNING d.project_id, d.id, d.correlation_id, d.event_id, d.destination_id, d.outcome, d.action, d.attempts
		)
		SELECT d.id, d.event_id, d.destination_id, d.outcome, d.action, d.attempts,
		       e.payment, e.form, coalesce(e.format, ''), e.body, coalesce(e.packing, 0), c.resolution, `+waitColumns+`
		FROM claimed d
		JOIN correlations c ON c.id = d.correlation_id
		LEFT JOIN events e ON e.project_id = d.project_id AND e.id = d.event_id
		ORDER BY d.id`, lease, relay.Lease.Seconds(), limit, busy)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (relay.Delivery, error) {
		d, err := scanDelivery(row)
		d.Lease, d.LeaseEnds = lease, leaseEnds
		return d, err
	})
	return list, translate("claiming deliveries", err)
}

func scanDelivery(row pgx.CollectableRow) (relay.Delivery, error) {
	var d relay.Delivery
	var eventID *uuid.UUID
	var payment, form, resolution []byte
	var packing int64
	w := &d.Wait
	err := row.Scan(&d.ID, &eventID, &d.DestinationID, &d.Outcome, &d.Action, &d.Attempts,
		&payment, &form, &d.Format, &d.Body, &packing, &resolution,
		&w.ID, &w.ProjectID, &w.SourceIDs, &w.Token, &w.Flow, &w.PlanID, &w.UserID,
		&w.Conversation, &w.Key, &w.CustomVars, &w.Data, &w.Locale, &w.Scope,
		&w.Status, &w.CreatedAt, &w.ExpiresAt, &w.PaymentID, &w.LateOutcome, &w.Extended)
	if err != nil {
		return d, err
	}
	// A body that cannot be read is the fault of this delivery alone.
	d.Body, d.BodyErr = unpack(d.Body, packing)
	d.ProjectID = w.ProjectID
	if eventID != nil {
		d.EventID = *eventID
	}
	by := Resolution{}
	for _, part := range []struct {
		raw []byte
		to  any
	}{{payment, &d.Payment}, {form, &d.Form}, {resolution, &by}} {
		if part.raw == nil {
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(part.raw))
		dec.UseNumber()
		if err := dec.Decode(part.to); err != nil {
			return d, err
		}
	}
	if d.EventID == uuid.Nil {
		d.Payment, d.Form = by.Payment, by.Form
	}
	exactNumbers(d.Form)
	return d, nil
}

// exactNumbers makes the numbers of a form that was read back what they were
// when it arrived: int64, or float64 where they do not fit. A retry renders
// the same bytes as the first attempt.
func exactNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, m := range v {
			v[name] = exactNumbers(m)
		}
	case []any:
		for i, el := range v {
			v[i] = exactNumbers(el)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	}
	return v
}

// Recorded is what became of an attempt's delivery.
type Recorded struct {
	Status relay.DeliveryStatus
	Stale  bool // the lease was lost meanwhile: nothing was written
}

// RecordAttempts writes a batch of attempts and what follows for their
// deliveries, in one statement. A delivery holds its last attempt; the one
// before it moves to the table of attempts. An attempt whose lease is stale writes
// nothing: another node has taken the delivery over. A retry that would come
// after the delivery's time is up makes it dead instead.
func (s *Store) RecordAttempts(ctx context.Context, attempts []relay.Attempt) ([]Recorded, error) {
	n := len(attempts)
	var (
		projects                 = make([]int64, n)
		ids, leases              = make([]uuid.UUID, n), make([]uuid.UUID, n)
		started                  = make([]time.Time, n)
		durations, delays        = make([]int64, n), make([]int64, n)
		httpStatuses             = make([]*int32, n)
		classes, nexts           = make([]string, n), make([]string, n)
		reasons, responses, note = make([]*string, n), make([]*string, n), make([]*string, n)
		at                       = make(map[[2]uuid.UUID]int, n) // by delivery and lease
	)
	for i := range attempts {
		a := &attempts[i]
		projects[i], ids[i], leases[i], started[i] = a.ProjectID, a.DeliveryID, a.Lease, a.StartedAt
		durations[i] = min(a.Duration.Milliseconds(), 1<<30)
		if a.HTTPStatus != 0 {
			status := int32(a.HTTPStatus)
			httpStatuses[i] = &status
		}
		classes[i], nexts[i], delays[i] = string(a.Class), string(a.Next), a.Delay.Microseconds()
		reasons[i], responses[i], note[i] = optional(clean(a.Reason)), optional(cleanText(a.Response)), optional(string(a.Notes))
		at[[2]uuid.UUID{a.DeliveryID, a.Lease}] = i
	}
	out := make([]Recorded, n)
	for i := range out {
		out[i].Stale = true
	}
	rows, _ := s.hot.Query(ctx, `
		WITH given AS (
		    SELECT *, CASE WHEN next = 'scheduled' THEN now() + delay * interval '1 microsecond' END AS next_at
		    FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[], $6::integer[], $7::text[],
		                $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[])
		      AS x (project_id, id, lease, started_at, duration_ms, http_status, class, next, reason, response, notes, delay)
		), recorded AS (
		    UPDATE deliveries d
		    SET attempts = d.attempts + 1, lease = NULL,
		        status = CASE WHEN g.next_at > d.give_up_at THEN 'dead' ELSE g.next END,
		        due_at = CASE WHEN g.next_at <= d.give_up_at THEN g.next_at END,
		        finished_at = CASE WHEN g.next_at > d.give_up_at OR g.next IN ('delivered', 'dead', 'skipped') THEN now() END,
		        started_at = g.started_at, duration_ms = g.duration_ms, class = g.class, http_status = g.http_status,
		        reason = g.reason, response = g.response, notes = g.notes::json
		    FROM given g
		    WHERE d.project_id = g.project_id AND d.id = g.id AND d.lease = g.lease
		    RETURNING d.project_id, d.id, d.status, d.attempts, g.lease
		), earlier AS (
		    -- What the statement has updated it still sees as it was.
		    INSERT INTO attempts (delivery_id, number, project_id, started_at, duration_ms, class, http_status, reason, response, notes)
		    SELECT d.id, d.attempts, d.project_id, d.started_at, d.duration_ms, d.class, d.http_status, d.reason, d.response, d.notes
		    FROM recorded r JOIN deliveries d ON d.project_id = r.project_id AND d.id = r.id
		    WHERE r.attempts > 1
		)
		SELECT id, lease, status FROM recorded`,
		projects, ids, leases, started, durations, httpStatuses, classes, nexts, reasons, responses, note, delays)
	var id, lease uuid.UUID
	var status relay.DeliveryStatus
	_, err := pgx.ForEachRow(rows, []any{&id, &lease, &status}, func() error {
		out[at[[2]uuid.UUID{id, lease}]] = Recorded{Status: status}
		return nil
	})
	return out, translate("recording attempts", err)
}

// ReturnLeases gives deliveries back that this node holds and will not send,
// so that another node need not wait for their leases to end.
func (s *Store) ReturnLeases(ctx context.Context, held []relay.Delivery) error {
	if len(held) == 0 {
		return nil
	}
	projects, ids, leases := make([]int64, len(held)), make([]uuid.UUID, len(held)), make([]uuid.UUID, len(held))
	for i := range held {
		projects[i], ids[i], leases[i] = held[i].ProjectID, held[i].ID, held[i].Lease
	}
	_, err := s.hot.Exec(ctx, `
		UPDATE deliveries d
		SET due_at = clock_timestamp(), lease = NULL
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS x (project_id, id, lease)
		WHERE d.project_id = x.project_id AND d.id = x.id AND d.lease = x.lease AND d.status = 'scheduled'`,
		projects, ids, leases)
	return translate("returning leases", err)
}

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
}

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
	d.due_at, d.lease IS NOT NULL, coalesce(d.class, ''), coalesce(d.reason, ''), d.created_at, d.finished_at`

func scanDeliveryRecord(row pgx.CollectableRow) (*DeliveryRecord, error) {
	r := &DeliveryRecord{}
	err := row.Scan(&r.ID, &r.CorrelationID, &r.EventID, &r.Destination, &r.Outcome, &r.Action, &r.Status, &r.Attempts,
		&r.DueAt, &r.Leased, &r.Class, &r.Reason, &r.CreatedAt, &r.FinishedAt)
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

// RetryDelivery makes a delivery that has come to rest due again, with a new
// span to try. A delivered one needs force.
func (s *Store) RetryDelivery(ctx context.Context, projectID int64, id uuid.UUID, force bool) error {
	return s.changeDelivery(ctx, projectID, id, `
		UPDATE deliveries
		SET status = 'scheduled', due_at = clock_timestamp(), lease = NULL, finished_at = NULL,
		    give_up_at = clock_timestamp() + retry_for * interval '1 second'
		WHERE project_id = $1 AND id = $2
		  AND (status IN ('dead', 'held', 'unknown', 'skipped') OR status = 'scheduled' AND lease IS NULL
		       OR status = 'delivered' AND $3)`,
		"it is being sent at this moment, or was delivered already: give {\"force\": true} to send it once more", force)
}

// SkipDelivery gives a delivery up by hand.
func (s *Store) SkipDelivery(ctx context.Context, projectID int64, id uuid.UUID) error {
	return s.changeDelivery(ctx, projectID, id, `
		UPDATE deliveries
		SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = clock_timestamp(), reason = 'skipped by hand'
		WHERE project_id = $1 AND id = $2
		  AND (status IN ('dead', 'held', 'unknown') OR status = 'scheduled' AND lease IS NULL)`,
		"it is being sent at this moment, or has ended already")
}

// changeDelivery runs an update of one delivery; where it changed nothing the
// delivery is either not there or in a state that refuses it.
func (s *Store) changeDelivery(
	ctx context.Context, projectID int64, id uuid.UUID, update, refusal string, args ...any,
) error {
	return s.inTx(ctx, "changing a delivery", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, update, append([]any{projectID, id}, args...)...)
		if err != nil || tag.RowsAffected() == 1 {
			return err
		}
		var status string
		err = tx.QueryRow(ctx, `SELECT status FROM deliveries WHERE project_id = $1 AND id = $2`, projectID, id).Scan(&status)
		if _, err = oneOrNotFound(status, err, "delivery"); err != nil {
			return err
		}
		return relay.Errorf(relay.Conflict, "delivery_not_changed", "the delivery is %s: %s", status, refusal)
	})
}

// BulkLimit is how many deliveries one bulk retry takes at most.
const BulkLimit = 10_000

// RetryDeliveries makes dead, held and unknown deliveries that match f due
// again, at most BulkLimit, and returns how many. With dryRun it only counts.
func (s *Store) RetryDeliveries(ctx context.Context, projectID int64, f DeliveryFilter, dryRun bool) (n int, err error) {
	err = s.inTx(ctx, "retrying deliveries", func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			WITH stuck AS (
			    SELECT d.project_id, d.id
			    FROM deliveries d LEFT JOIN destinations t ON t.id = d.destination_id
			    WHERE d.project_id = $1 AND d.status IN ('dead', 'held', 'unknown') AND `+deliveryWhere+`
			    ORDER BY d.id
			    LIMIT $9
			    FOR UPDATE OF d SKIP LOCKED
			), retried AS (
			    UPDATE deliveries d
			    SET status = 'scheduled', due_at = clock_timestamp(), lease = NULL, finished_at = NULL,
			        give_up_at = clock_timestamp() + retry_for * interval '1 second'
			    FROM stuck
			    WHERE NOT $2 AND d.project_id = stuck.project_id AND d.id = stuck.id
			)
			SELECT count(*) FROM stuck`,
			projectID, dryRun, string(f.Status), f.Destination, string(f.Outcome),
			optionalID(f.CorrelationID), optionalTime(f.From), optionalTime(f.To), BulkLimit).Scan(&n)
	})
	return n, err
}

// optionalTime makes a zero time NULL.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
