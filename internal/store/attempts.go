package store

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

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
