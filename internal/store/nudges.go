package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// DueNudge is a nudge whose time has come, with its wait as it is now.
type DueNudge struct {
	*relay.Wait
	Number  int
	Opened  bool    // a person has opened the wait's link
	Overdue bool    // the wait's deadline has passed
	Late    bool    // it is longer due than nodes that work leave one: nudgeLate
	Later   []int32 // the numbers of those of the wait that were due after it, and are due now
}

// nudgeLate is after how long a nudge that nobody has made tells of an outage.
// Nodes look for nudges every second.
const nudgeLate = time.Minute

// passedReason stands in a delivery of a nudge that was passed over.
const passedReason = "passed over: it was late, and a later nudge was due too"

// Needed reports whether the nudge is to be made, if unless says so. Who has
// paid by a slow bank has nothing left to do: reminded, they might pay twice.
func (n *DueNudge) Needed(unless string) bool {
	return n.Status == relay.Pending && !n.Extended && !n.Overdue && (unless != relay.UnlessOpened || !n.Opened)
}

// NudgeDue takes nudges whose time has come, the earliest first, at most limit
// of them, and makes the deliveries that decide returns: those that are owed,
// and those that are passed over, which are born skipped. Each is taken once,
// whatever decide says. Those whose wait somebody is working on are left for
// the next time: so a nudge is made of a wait that is pending at its commit, or
// not at all.
func (s *Store) NudgeDue(
	ctx context.Context, lease uuid.UUID, limit int, decide func(context.Context, []*DueNudge) (owed, passed []relay.Delivery, err error),
) (taken int, deliveries []relay.Delivery, err error) {
	conn, err := s.hot.Acquire(ctx)
	if err != nil {
		return 0, nil, translate("nudging", err)
	}
	defer release(conn)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Not EXISTS: all openings would be read to be hashed. OFFSET 0: else all
		// that is due would be read for each.
		rows, _ := tx.Query(ctx, `
			SELECT `+waitColumns+`, n.number, (SELECT o.opened_at FROM openings o WHERE o.correlation_id = c.id) IS NOT NULL,
			       c.expires_at <= now(), n.due_at < now() - $2 * interval '1 second',
			       ARRAY(SELECT l.number::integer
			             FROM (SELECT number, due_at FROM nudges WHERE correlation_id = n.correlation_id OFFSET 0) l
			             WHERE l.due_at <= now() AND l.due_at > n.due_at)
			FROM nudges n JOIN correlations c ON c.id = n.correlation_id
			WHERE n.due_at <= now()
			ORDER BY n.due_at
			LIMIT $1
			FOR UPDATE OF n, c SKIP LOCKED`, limit, nudgeLate.Seconds())
		due, err := pgx.CollectRows(rows, scanDueNudge)
		if err != nil || len(due) == 0 {
			return err
		}
		taken = len(due)
		var passed []relay.Delivery
		if deliveries, passed, err = decide(ctx, due); err != nil {
			return err
		}
		var b pgx.Batch
		queueNudged(&b, due)
		queuePassedOver(&b, passed)
		queueDeliveries(&b, deliveries, lease, time.Now().Add(relay.Lease))
		return tx.SendBatch(ctx, &b).Close()
	})
	return taken, leased(deliveries), translate("nudging", err)
}

func scanDueNudge(row pgx.CollectableRow) (*DueNudge, error) {
	n := &DueNudge{Wait: &relay.Wait{}}
	return n, row.Scan(append(waitFields(n.Wait), &n.Number, &n.Opened, &n.Overdue, &n.Late, &n.Later)...)
}

// queueNudged takes nudges off the table.
func queueNudged(b *pgx.Batch, due []*DueNudge) {
	waits, numbers := make([]uuid.UUID, len(due)), make([]int32, len(due))
	for i, n := range due {
		waits[i], numbers[i] = n.ID, int32(n.Number)
	}
	b.Queue(`
		DELETE FROM nudges n USING unnest($1::uuid[], $2::integer[]) AS x (correlation_id, number)
		WHERE n.correlation_id = x.correlation_id AND n.number = x.number`, waits, numbers)
}

// queuePassedOver queues the rows of nudges that are not made, for the timelines
// of their waits. They take no slot, and nobody claims them.
func queuePassedOver(b *pgx.Batch, passed []relay.Delivery) {
	for i := range passed { // few: only after an outage
		d := &passed[i]
		b.Queue(`
			INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, retry_for, give_up_at,
			                        status, finished_at, reason)
			VALUES ($1, $2, $3, $4, $5, $6, $7, now(), 'skipped', now(), $8)`,
			d.ProjectID, d.ID, d.Wait.ID, d.DestinationID, string(d.Outcome), d.Action, int32(d.RetryFor/time.Second), passedReason)
	}
}

// queueNudges queues the nudges of fresh waits. Most have none, and then it is
// nothing.
func queueNudges(b *pgx.Batch, regs []Registration, fresh []int) {
	var waits []uuid.UUID
	var numbers []int32
	var projects []int64
	var seconds []float64
	for _, i := range fresh {
		w := &regs[i].Wait
		for number, after := range regs[i].Nudges {
			waits, numbers = append(waits, w.ID), append(numbers, int32(number))
			projects, seconds = append(projects, w.ProjectID), append(seconds, after.Seconds())
		}
	}
	if len(waits) == 0 {
		return
	}
	b.Queue(`
		INSERT INTO nudges (correlation_id, number, project_id, due_at)
		SELECT x.correlation_id, x.number, x.project_id, now() + x.seconds * interval '1 second'
		FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::float8[]) AS x (correlation_id, number, project_id, seconds)`,
		waits, numbers, projects, seconds)
}
