package store

import (
	"bytes"
	"context"
	"encoding/json"
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
		)`+leaseDue, lease, relay.Lease.Seconds(), limit)
	list, err := collectClaimed(rows, lease, leaseEnds)
	return list, translate("claiming deliveries", err)
}

// claimedColumns are what selectClaimed reads of the deliveries that a
// statement has claimed.
const claimedColumns = `d.project_id, d.id, d.correlation_id, d.event_id, d.destination_id, d.outcome, d.action, d.attempts,
		              d.conversation, d.by_hand, d.status, d.give_up_at`

// leaseDue goes on after a statement's `due`: it leases that to $1 for $2
// seconds, and reads it.
const leaseDue = `, claimed AS (
		    UPDATE deliveries d
		    SET due_at = clock_timestamp() + $2 * interval '1 second', lease = $1
		    FROM due
		    WHERE d.project_id = due.project_id AND d.id = due.id
		    RETURNING ` + claimedColumns + `
		)` + selectClaimed

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
	err := row.Scan(append([]any{
		&d.ID, &eventID, &d.DestinationID, &d.Outcome, &d.Action, &d.Attempts, &conversation, &d.ByHand, &d.Sent,
		&d.TimeUp, &payment, &form, &d.Format, &d.Body, &packing, &resolution,
	}, waitFields(w)...)...)
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

// A destination that is slow, or away, leaves any number of deliveries due in the table,
// and a claim that passes over them reads each of them first: with a hundred
// thousand of them some 3,000 blocks, several times a second. So while there
// are any to be passed over, what is due is looked through in pieces, in the
// order in which it has become due, and who claims remembers how far. Nothing
// is written for that, and no index holds the destination, which every delivery
// would pay for: what is passed over stays due, in its order, with its slot and
// its time to try, for whichever node has room for it.

// Piece is a part of what is due, by the database's clock: what has become due
// after From, until To.
type Piece struct {
	From, To time.Time
	Last     bool // there is nothing due after To
}

// NextPiece returns the piece of what is due after a moment that holds size
// deliveries, or all that are left. Those that became due in the same
// microsecond are in one piece.
func (s *Store) NextPiece(ctx context.Context, after time.Time, size int) (p Piece, err error) {
	p.From = after
	err = s.hot.QueryRow(ctx, `
		SELECT CASE WHEN count(*) = $2 THEN max(due_at) ELSE now() END, count(*) < $2
		FROM (
		    SELECT due_at FROM deliveries
		    WHERE due_at > $1 AND due_at <= now()
		    ORDER BY due_at
		    LIMIT $2
		) piece`, after, size).Scan(&p.To, &p.Last)
	return p, translate("looking through due deliveries", err)
}

// ClaimPiece is ClaimDue in a piece of what is due, past what is due for some
// destinations. Of those of them that are away it claims what is to end without
// a call: what was being sent by a node that died, and what has used up its
// time to try.
func (s *Store) ClaimPiece(ctx context.Context, lease uuid.UUID, limit int, past, away []int64, p Piece) ([]relay.Delivery, error) {
	leaseEnds := time.Now().Add(relay.Lease)
	rows, _ := s.hot.Query(ctx, `
		WITH due AS (
		    SELECT project_id, id
		    FROM deliveries
		    WHERE due_at > $5 AND due_at <= $6
		      AND (destination_id <> ALL ($4::bigint[])
		           OR destination_id = ANY ($7::bigint[]) AND (status = 'sending' OR give_up_at <= now()))
		    ORDER BY due_at
		    LIMIT $3
		    FOR UPDATE SKIP LOCKED
		)`+leaseDue, lease, relay.Lease.Seconds(), limit, past, p.From, p.To, away)
	list, err := collectClaimed(rows, lease, leaseEnds)
	return list, translate("claiming a piece of the due deliveries", err)
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
