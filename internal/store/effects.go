package store

import (
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// waitChange is one step that a locked wait takes.
type waitChange struct {
	wait       *relay.Wait
	step       relay.Step
	by         string    // the domain resolver lists the values
	eventID    uuid.UUID // zero: no event did it
	paymentID  string
	resolution *string // JSON of a payment and form given by hand
	extendBy   time.Duration
	payable    bool // it may have a session at its provider that can still be paid
}

// queueChanges queues what the steps do to their waits, and what they fire, as
// queueDeliveries does. The caller holds the row locks; the conditions are
// there so that a mistake in the rules shows as a missing update in a test and
// not as a wait that closed twice.
//
// The order is that of locks: deadlines, the slots of what is fired, and last
// what was on its way, mostly in the same conversations. What is told of the
// changes is left to the caller, but for the waits that a late success closes.
func queueChanges(b *pgx.Batch, to *telling, changes []waitChange, fired []relay.Delivery, lease uuid.UUID, leaseEnds time.Time) {
	var closing, late, extending []waitChange
	for _, c := range changes {
		switch {
		case c.step.Closes != "":
			closing = append(closing, c)
		case c.step.Late:
			late = append(late, c)
		case c.step.Extends:
			extending = append(extending, c)
		}
	}
	queueClosing(b, closing)
	queueLate(b, to, late)
	queueExtending(b, extending)
	queueDeliveries(b, fired, lease, leaseEnds)
	queuePointless(b, closing)
}

func queueClosing(b *pgx.Batch, changes []waitChange) {
	if len(changes) == 0 {
		return
	}
	n := len(changes)
	ids, statuses, bys := make([]uuid.UUID, n), make([]string, n), make([]string, n)
	events, payments, resolutions := make([]*uuid.UUID, n), make([]*string, n), make([]*string, n)
	var keyed, payable []uuid.UUID
	for i, c := range changes {
		ids[i], statuses[i], bys[i] = c.wait.ID, string(c.step.Closes), c.by
		events[i], payments[i], resolutions[i] = optionalID(c.eventID), optional(clean(c.paymentID)), c.resolution
		if c.wait.Key != "" {
			keyed = append(keyed, c.wait.ID)
		}
		// By an event, of one source, what was to be paid by has ended itself.
		if c.payable || c.eventID != uuid.Nil && len(c.wait.SourceIDs) > 1 {
			payable = append(payable, c.wait.ID)
		}
	}
	b.Queue(`
		UPDATE correlations c
		SET status = x.status, resolved_at = clock_timestamp(), resolved_by = x.resolved_by,
		    event_id = x.event_id, payment_id = x.payment_id, resolution = x.resolution::json
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[])
		  AS x (id, status, resolved_by, event_id, payment_id, resolution)
		WHERE c.id = x.id AND c.status = 'pending'`, ids, statuses, bys, events, payments, resolutions)
	b.Queue(`DELETE FROM deadlines WHERE correlation_id = ANY($1::uuid[])`, ids)
	if len(keyed) > 0 {
		// NOT NULL, as the index of the waits has it: without it the index of
		// the keys in use would do as well, walked from end to end.
		b.Queue(`
			UPDATE correlation_refs SET key_active = false
			WHERE correlation_id = ANY($1::uuid[]) AND key_active IS NOT NULL`, keyed)
	}
	queueSessionEnds(b, payable)
}

// bringForward makes due what waits have fired on their way to an end that is
// there now: whoever claims it skips it, and the conversation goes on to the
// end at once. It begins a statement that names the waits. What waits for its
// turn is skipped when that comes.
//
// What is being sent is left, but waited for: its attempt may be on its way
// into the table, to be made again in a quarter of an hour. Either this
// statement sees that then, or RecordAttempts sees the end. Rows are locked in
// the order of their conversations, as there.
//
// coalesce hides that due_at is not NULL: an empty table's plan would walk the
// index of all that is due, from end to end.
const bringForward = `
	UPDATE deliveries d
	SET due_at = CASE WHEN d.lease IS NULL THEN clock_timestamp() ELSE d.due_at END
	FROM (SELECT project_id, id FROM deliveries
	      WHERE outcome IN ('attempt_failed', 'processing', 'nudge') AND status = 'scheduled'
	        AND coalesce(due_at > clock_timestamp(), false) AND NOT by_hand AND correlation_id = ANY (`

const broughtForward = `)
	      ORDER BY conversation
	      FOR UPDATE) pointless
	WHERE d.project_id = pointless.project_id AND d.id = pointless.id`

// queuePointless brings forward what waits that close had on their way.
func queuePointless(b *pgx.Batch, closing []waitChange) {
	if len(closing) == 0 {
		return
	}
	ids := make([]uuid.UUID, len(closing))
	for i, c := range closing {
		ids[i] = c.wait.ID
	}
	queueForward(b, ids)
}

func queueForward(b *pgx.Batch, closed []uuid.UUID) {
	b.Queue(bringForward+`$1::uuid[]`+broughtForward, closed)
}

// queueLate notes late successes. Each also ends a pending successor of the
// same scope, so that nothing expires into a conversation that has been paid.
func queueLate(b *pgx.Batch, to *telling, changes []waitChange) {
	if len(changes) == 0 {
		return
	}
	n := len(changes)
	ids, scopes := make([]uuid.UUID, n), make([]uuid.UUID, n)
	events, payments := make([]*uuid.UUID, n), make([]*string, n)
	for i, c := range changes {
		ids[i], scopes[i], events[i], payments[i] = c.wait.ID, c.wait.Scope, optionalID(c.eventID), optional(clean(c.paymentID))
	}
	b.Queue(`
		UPDATE correlations c
		SET late_outcome = 'completed', late_at = clock_timestamp(), event_id = x.event_id, payment_id = x.payment_id
		FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS x (id, event_id, payment_id)
		WHERE c.id = x.id AND c.late_at IS NULL AND c.status NOT IN ('pending', 'completed')`, ids, events, payments)
	heard := slices.ContainsFunc(changes, func(c waitChange) bool { return to.hears(c.wait.ProjectID, relay.WaitSuperseded) })
	if heard {
		b.Queue(closeSuccessors+`c.*`+closedSuccessors+tellSuperseded+deleteSuccessors, scopes, relay.HookRetryFor.Seconds())
		return
	}
	b.Queue(closeSuccessors+`c.id`+closedSuccessors+deleteSuccessors, scopes)
}

// The statement that ends the pending successors of late successes, cut where
// it can tell of them: which they are nobody knows before it.
const (
	closeSuccessors = `
		WITH successors AS (
		    SELECT c.id
		    FROM deadlines d JOIN correlations c ON c.id = d.correlation_id
		    WHERE d.scope = ANY($1::uuid[])
		    ORDER BY c.id
		    FOR UPDATE OF c
		), closed AS (
		    UPDATE correlations c
		    SET status = 'superseded', resolved_at = clock_timestamp(), resolved_by = 'late_success'
		    FROM successors s
		    WHERE c.id = s.id AND c.status = 'pending'
		    RETURNING `
	closedSuccessors = `
		), unnamed AS (
		    UPDATE correlation_refs r SET key_active = false
		    FROM closed
		    WHERE r.correlation_id = closed.id AND r.key_active IS NOT NULL
		), unpaid AS (` + endSessions + `
		    FROM closed
		    WHERE k.correlation_id = closed.id AND` + endable + `
		), forward AS (` + bringForward + `ARRAY(SELECT id FROM closed)` + broughtForward + `
		)`
	deleteSuccessors = `
		DELETE FROM deadlines d USING closed WHERE d.correlation_id = closed.id`
)

func queueExtending(b *pgx.Batch, changes []waitChange) {
	if len(changes) == 0 {
		return
	}
	ids, seconds := make([]uuid.UUID, len(changes)), make([]float64, len(changes))
	for i, c := range changes {
		ids[i], seconds[i] = c.wait.ID, c.extendBy.Seconds()
	}
	b.Queue(`
		WITH x AS (
		    UPDATE correlations c
		    SET extended = true, reconciled = NULL, -- it is asked anew at its new deadline
		        expires_at = greatest(c.expires_at, clock_timestamp() + x.seconds * interval '1 second')
		    FROM unnest($1::uuid[], $2::float8[]) AS x (id, seconds)
		    WHERE c.id = x.id AND c.status = 'pending' AND NOT c.extended
		    RETURNING c.id, c.expires_at
		)
		UPDATE deadlines d SET expires_at = x.expires_at FROM x WHERE d.correlation_id = x.id`, ids, seconds)
}

// queueDeliveries queues the rows of new deliveries. Those that get the slot
// of their conversation are born leased to this node, so that they can be
// handed over in memory, or due at once where there is no lease; the others
// wait for their turn. When the batch has
// been read, the deliveries are there with what they got: see leased.
func queueDeliveries(b *pgx.Batch, deliveries []relay.Delivery, lease uuid.UUID, leaseEnds time.Time) {
	if len(deliveries) == 0 {
		return
	}
	for i := range deliveries {
		deliveries[i].Conversation = conversationOf(&deliveries[i])
	}
	slices.SortFunc(deliveries, func(a, b relay.Delivery) int { return bySlot(a.Conversation, a.ID, b.Conversation, b.ID) })
	lasts := relay.Lease
	if lease == uuid.Nil {
		lasts = 0
	}
	n := len(deliveries)
	projects, destinations := make([]int64, n), make([]int64, n)
	ids, waits, events := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]*uuid.UUID, n)
	outcomes, actions, retryFor := make([]string, n), make([]string, n), make([]int32, n)
	conversations, firsts := make([]uuid.UUID, n), make([]bool, n)
	at := make(map[uuid.UUID]int, n)
	for i := range deliveries {
		d := &deliveries[i]
		projects[i], destinations[i], conversations[i] = d.ProjectID, d.DestinationID, d.Conversation
		ids[i], waits[i], events[i] = d.ID, d.Wait.ID, optionalID(d.EventID)
		outcomes[i], actions[i], retryFor[i] = string(d.Outcome), d.Action, int32(d.RetryFor/time.Second)
		firsts[i], at[d.ID] = i == 0 || d.Conversation != conversations[i-1], i
	}
	// A slot that another delivery has is locked by DO UPDATE, and nothing is
	// updated: that one cannot end before those that found it are there to be
	// seen.
	b.Queue(`
		WITH given AS MATERIALIZED (
		    SELECT *, clock_timestamp() + retry_for * interval '1 second' AS give_up_at
		    FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::text[], $7::text[], $8::integer[], $9::uuid[], $10::boolean[])
		      AS g (project_id, id, correlation_id, event_id, destination_id, outcome, action, retry_for, conversation, first)
		), taken AS (
		    INSERT INTO deliveries AS d (project_id, id, correlation_id, event_id, destination_id, outcome, action, conversation,
		                                 retry_for, give_up_at, due_at, lease)
		    SELECT project_id, id, correlation_id, event_id, destination_id, outcome, action, conversation,
		           retry_for, give_up_at, clock_timestamp() + $11 * interval '1 second', $12::uuid
		    FROM given
		    WHERE first
		    ON CONFLICT (conversation) WHERE `+hasSlot+` DO UPDATE SET lease = d.lease WHERE false
		    RETURNING d.id
		), waiting AS (
		    INSERT INTO deliveries (project_id, id, correlation_id, event_id, destination_id, outcome, action, conversation,
		                            retry_for, give_up_at)
		    SELECT project_id, id, correlation_id, event_id, destination_id, outcome, action, conversation, retry_for, give_up_at
		    FROM given
		    -- Mostly nobody has to wait: the count, taken once, spares the rest.
		    WHERE (SELECT count(*) FROM taken) < $13 AND id NOT IN (SELECT id FROM taken)
		)
		SELECT id FROM taken`,
		projects, ids, waits, events, destinations, outcomes, actions, retryFor, conversations, firsts,
		lasts.Seconds(), optionalID(lease), n).Query(func(rows pgx.Rows) error {
		var id uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			d := &deliveries[at[id]]
			d.Lease, d.LeaseEnds = lease, leaseEnds
			return nil
		})
		return err
	})
}

// leased leaves out the deliveries that wait for their turn.
func leased(deliveries []relay.Delivery) []relay.Delivery {
	return slices.DeleteFunc(deliveries, func(d relay.Delivery) bool { return d.Lease == uuid.Nil })
}

// optionalID makes a zero id NULL.
func optionalID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
