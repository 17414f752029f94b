package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"relay.example/relay/internal/relay"
)

// ClaimDue leases deliveries that are due: retries whose time has come, and
// those whose node died with them. Rows that another node claims at this
// moment are left to it.
func (s *Store) ClaimDue(ctx context.Context, lease uuid.UUID, limit int) ([]relay.Delivery, error) {
	leaseEnds := time.Now().Add(relay.Lease)
	rows, _ := s.hot.Query(ctx, `
		WITH due AS (
		    SELECT project_id, id
		    FROM deliveries
		    WHERE due_at <= now()
		    ORDER BY due_at
		    LIMIT $3
		    FOR UPDATE SKIP LOCKED
		), claimed AS (
		    UPDATE deliveries d
		    SET due_at = clock_timestamp() + $2 * interval '1 second', lease = $1
		    FROM due
		    WHERE d.project_id = due.project_id AND d.id = due.id
		    RETURNING `+claimedColumns+`
		)`+selectClaimed, lease, relay.Lease.Seconds(), limit)
	list, err := collectClaimed(rows, lease, leaseEnds)
	return list, translate("claiming deliveries", err)
}

// claimedColumns are what selectClaimed reads of the deliveries that a
// statement has claimed.
const claimedColumns = `d.project_id, d.id, d.correlation_id, d.event_id, d.destination_id, d.outcome, d.action, d.attempts,
		              d.conversation, d.by_hand, d.status, d.give_up_at`

// selectClaimed reads claimed deliveries with all that renders them.
const selectClaimed = `
		SELECT d.id, d.event_id, d.destination_id, d.outcome, d.action, d.attempts, d.conversation, d.by_hand, d.status = 'sending',
		       d.give_up_at <= now(), e.payment, e.form, coalesce(e.format, ''), e.body, coalesce(e.packing, 0), c.resolution, ` + waitColumns + `
		FROM claimed d
		JOIN correlations c ON c.id = d.correlation_id
		LEFT JOIN events e ON e.project_id = d.project_id AND e.id = d.event_id
		ORDER BY d.id`

func collectClaimed(rows pgx.Rows, lease uuid.UUID, leaseEnds time.Time) ([]relay.Delivery, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (relay.Delivery, error) {
		d, err := scanDelivery(row)
		d.Lease, d.LeaseEnds = lease, leaseEnds
		return d, err
	})
}

func scanDelivery(row pgx.CollectableRow) (relay.Delivery, error) {
	var d relay.Delivery
	var eventID, conversation *uuid.UUID
	var payment, form, resolution []byte
	var packing int64
	w := &d.Wait
	err := row.Scan(&d.ID, &eventID, &d.DestinationID, &d.Outcome, &d.Action, &d.Attempts, &conversation, &d.ByHand, &d.Sent,
		&d.TimeUp, &payment, &form, &d.Format, &d.Body, &packing, &resolution,
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
	if conversation != nil {
		d.Conversation = *conversation
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
	// PassedOn: the delivery has ended, and another one of its conversation is
	// due now.
	PassedOn bool
}

// RecordAttempts writes a batch of attempts and what follows for their
// deliveries, in one round trip. A delivery holds its last attempt; the one
// before it moves to the table of attempts. An attempt whose lease is stale writes
// nothing: another node has taken the delivery over. A retry that would come
// after the delivery's time is up makes it dead instead. A delivery that is
// owed no more passes its slot on.
func (s *Store) RecordAttempts(ctx context.Context, attempts []relay.Attempt) ([]Recorded, error) {
	order := inOrderOfSlots(attempts)
	for i := range attempts {
		if attempts[i].Fallback != nil {
			return s.recordWithFallbacks(ctx, attempts, order)
		}
	}
	to := s.tell()
	var b pgx.Batch
	out := queueAttempts(&b, attempts, order)
	queueEnds(&b, to, attempts, order, out)
	err := s.hot.SendBatch(ctx, &b).Close()
	s.isOut(to)
	return out, translate("recording attempts", err)
}

// queueAttempts queues the record of attempts. What became of them is there
// when the batch has been read.
func queueAttempts(b *pgx.Batch, attempts []relay.Attempt, order []int) []Recorded {
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
	for i, from := range order {
		a := &attempts[from]
		projects[i], ids[i], leases[i], started[i] = a.ProjectID, a.DeliveryID, a.Lease, a.StartedAt
		durations[i] = min(a.Duration.Milliseconds(), 1<<30)
		if a.HTTPStatus != 0 {
			status := int32(a.HTTPStatus)
			httpStatuses[i] = &status
		}
		classes[i], nexts[i], delays[i] = string(a.Class), string(a.Next), a.Delay.Microseconds()
		reasons[i], responses[i], note[i] = optional(clean(a.Reason)), optional(cleanText(a.Response)), optional(string(a.Notes))
		at[[2]uuid.UUID{a.DeliveryID, a.Lease}] = from
	}
	out := make([]Recorded, n)
	for i := range out {
		out[i].Stale = true
	}
	b.Queue(`
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
		projects, ids, leases, started, durations, httpStatuses, classes, nexts, reasons, responses, note, delays).Query(func(rows pgx.Rows) error {
		var id, lease uuid.UUID
		var status relay.DeliveryStatus
		_, err := pgx.ForEachRow(rows, []any{&id, &lease, &status}, func() error {
			out[at[[2]uuid.UUID{id, lease}]] = Recorded{Status: status}
			return nil
		})
		return err
	})
	return out
}

// queueEnds queues what follows from recorded attempts: what was overtaken by
// the end of its wait is due, slots that are free are passed on, and who hears
// of it is told.
func queueEnds(b *pgx.Batch, to *telling, attempts []relay.Attempt, order []int, out []Recorded) {
	queueOvertaken(b, attempts, order)
	conversations := make([]uuid.UUID, 0, len(attempts))
	for _, i := range order {
		if n := len(conversations); n == 0 || conversations[n-1] != attempts[i].Conversation {
			conversations = append(conversations, attempts[i].Conversation)
		}
	}
	queuePassOn(b, conversations, func(passedOn uuid.UUID) {
		for _, i := range order {
			out[i].PassedOn = out[i].PassedOn || attempts[i].Conversation == passedOn
		}
	})
	queueAttemptNews(b, to, attempts, order)
}

// queueOvertaken makes due what is to be tried again though its wait has ended
// while it was being sent: bringForward left it then.
func queueOvertaken(b *pgx.Batch, attempts []relay.Attempt, order []int) {
	var projects []int64
	var ids []uuid.UUID
	for _, i := range order {
		if a := &attempts[i]; a.OnTheWay && a.Next == relay.Scheduled {
			projects, ids = append(projects, a.ProjectID), append(ids, a.DeliveryID)
		}
	}
	if len(ids) == 0 {
		return
	}
	b.Queue(`
		UPDATE deliveries d SET due_at = clock_timestamp()
		FROM unnest($1::bigint[], $2::uuid[]) AS x (project_id, id)
		WHERE d.project_id = x.project_id AND d.id = x.id AND d.status = 'scheduled' AND d.lease IS NULL
		  AND d.due_at IS NOT NULL AND NOT d.by_hand
		  AND (SELECT c.status <> 'pending' FROM correlations c WHERE c.id = d.correlation_id)`, projects, ids)
}

// inOrderOfSlots lists the places of attempts in the order in which slots are
// taken, and freed.
func inOrderOfSlots(attempts []relay.Attempt) []int {
	order := make([]int, len(attempts))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return bySlot(attempts[a].Conversation, attempts[a].DeliveryID, attempts[b].Conversation, attempts[b].DeliveryID)
	})
	return order
}

// SkipClosed skips a delivery that this node has claimed and need not send:
// its wait has closed meanwhile. It reports false where the lease was lost.
func (s *Store) SkipClosed(ctx context.Context, d *relay.Delivery) (r Recorded, err error) {
	r.Stale = true
	var b pgx.Batch
	b.Queue(`
		UPDATE deliveries
		SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = now(),
		    reason = CASE WHEN attempts = 0 THEN 'its wait has closed' ELSE reason END -- else it is that of the last attempt
		WHERE project_id = $1 AND id = $2 AND lease = $3 AND status = 'scheduled'`, d.ProjectID, d.ID, d.Lease).Exec(func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() == 1 {
			r.Stale, r.Status = false, relay.Skipped
		}
		return nil
	})
	queuePassOn(&b, []uuid.UUID{d.Conversation}, func(uuid.UUID) { r.PassedOn = true })
	return r, translate("skipping a delivery", s.hot.SendBatch(ctx, &b).Close())
}

// MarkSending notes that a delivery is about to be sent, and reports whether
// its lease still allows that. After a crash 'never sent' and 'perhaps sent'
// differ by it.
func (s *Store) MarkSending(ctx context.Context, d *relay.Delivery) (bool, error) {
	tag, err := s.hot.Exec(ctx, `
		UPDATE deliveries SET status = 'sending'
		WHERE project_id = $1 AND id = $2 AND lease = $3 AND status = 'scheduled'`, d.ProjectID, d.ID, d.Lease)
	return tag.RowsAffected() == 1, translate("marking a delivery as being sent", err)
}

// ReturnLeases gives deliveries back that this node holds and will not send,
// so that another node need not wait for their leases to end.
func (s *Store) ReturnLeases(ctx context.Context, held []relay.Delivery) error {
	if len(held) == 0 {
		return nil
	}
	projects, ids, leases := leasesOf(held)
	_, err := s.hot.Exec(ctx, `
		UPDATE deliveries d
		SET due_at = clock_timestamp(), lease = NULL
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS x (project_id, id, lease)
		WHERE d.project_id = x.project_id AND d.id = x.id AND d.lease = x.lease AND d.status = 'scheduled'`,
		projects, ids, leases)
	return translate("returning leases", err)
}

// Later is a delivery that this node holds and that is to be sent later.
type Later struct {
	Delivery relay.Delivery // with its lease and conversation
	Wait     time.Duration
}

// Postpone gives deliveries back until later, which counts as no attempt. Their
// time to try does not run out in between, since nobody has refused them.
func (s *Store) Postpone(ctx context.Context, list []Later) error {
	list = slices.SortedFunc(slices.Values(list), func(a, b Later) int {
		return bySlot(a.Delivery.Conversation, a.Delivery.ID, b.Delivery.Conversation, b.Delivery.ID)
	})
	n := len(list)
	projects, ids, leases, waits := make([]int64, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]int64, n)
	for i := range list {
		d := &list[i].Delivery
		projects[i], ids[i], leases[i], waits[i] = d.ProjectID, d.ID, d.Lease, list[i].Wait.Microseconds()
	}
	_, err := s.hot.Exec(ctx, `
		UPDATE deliveries d
		SET lease = NULL, due_at = now() + x.wait * interval '1 microsecond'
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bigint[]) AS x (project_id, id, lease, wait)
		WHERE d.project_id = x.project_id AND d.id = x.id AND d.lease = x.lease AND d.status = 'scheduled'`,
		projects, ids, leases, waits)
	return translate("postponing deliveries", err)
}

// GiveUp ends deliveries whose time to try is over, as another attempt would,
// and passes their slots on. It returns those that are dead now.
func (s *Store) GiveUp(ctx context.Context, list []relay.Delivery) (dead []relay.Delivery, err error) {
	list = slices.SortedFunc(slices.Values(list), func(a, b relay.Delivery) int {
		return bySlot(a.Conversation, a.ID, b.Conversation, b.ID)
	})
	projects, ids, leases := leasesOf(list)
	conversations := make([]uuid.UUID, len(list))
	for i := range list {
		conversations[i] = list[i].Conversation
	}
	var b pgx.Batch
	b.Queue(`
		UPDATE deliveries d
		SET lease = NULL, status = 'dead', due_at = NULL, finished_at = now(),
		    reason = coalesce(d.reason, 'not sent: its destination does not answer')
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS x (project_id, id, lease)
		WHERE d.project_id = x.project_id AND d.id = x.id AND d.lease = x.lease AND d.status = 'scheduled' AND d.give_up_at <= now()
		RETURNING d.project_id, d.id`, projects, ids, leases).Query(func(rows pgx.Rows) error {
		var d relay.Delivery
		_, err := pgx.ForEachRow(rows, []any{&d.ProjectID, &d.ID}, func() error {
			dead = append(dead, d)
			return nil
		})
		return err
	})
	queuePassOn(&b, slices.Compact(conversations), func(uuid.UUID) {})
	to := s.tell()
	queueDeliveryNews(&b, to, projects, ids)
	err = s.hot.SendBatch(ctx, &b).Close()
	s.isOut(to)
	return dead, translate("giving deliveries up", err)
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
				UPDATE deliveries
				SET due_at = CASE WHEN due_at IS NOT NULL THEN clock_timestamp() END, by_hand = true,
				    give_up_at = clock_timestamp() + retry_for * interval '1 second'
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
		    conversation = g.conversation, by_hand = true, give_up_at = clock_timestamp() + d.retry_for * interval '1 second'
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
