package store

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// queueQuestions queues what the providers are to be asked about the events of
// a batch: no statement where nothing is. An event has one question, which is
// asked anew where the event is replayed by hand, unless it is under way: sooner
// than it would be, never later.
func queueQuestions(b *pgx.Batch, decisions []Decision) {
	var asked, repeated []*relay.Question
	for i := range decisions {
		switch q := decisions[i].Asks; {
		case q == nil:
		case q.Repeats:
			repeated = append(repeated, q)
		default:
			asked = append(asked, q)
		}
	}
	queueRepeats(b, repeated)
	if len(asked) == 0 {
		return
	}
	r := newQuestionRows(asked)
	b.Queue(`
		INSERT INTO questions (id, project_id, source_id, event_id, about, due_at, give_up_at, fetches, strange)
		SELECT x.id, x.project_id, x.source_id, x.event_id, x.about,
		       clock_timestamp() + x.after * interval '1 second', clock_timestamp() + $7 * interval '1 second', x.fetches, x.strange
		FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::text[], $6::bigint[], $8::boolean[], $9::boolean[])
		  AS x (id, project_id, source_id, event_id, about, after, fetches, strange)
		ON CONFLICT (event_id) DO UPDATE
		SET source_id = excluded.source_id, about = excluded.about, due_at = least(questions.due_at, excluded.due_at),
		    strange = excluded.strange, give_up_at = excluded.give_up_at, tries = 0, asked_at = NULL, result = NULL, reason = NULL
		WHERE questions.lease IS NULL`,
		r.ids, r.projects, r.sources, r.events, r.about, r.after, relay.InquireFor.Seconds(), r.fetches, r.strange)
}

// queueRepeats queues what follows where a callback came once more that says
// only what it is about: no statement where none did. A question that is still
// to be asked tells of this one too. One that is under way may have been
// answered before, and is asked once more; one that was answered is asked anew.
// A question of the same batch is put after this, and is still to be asked.
func queueRepeats(b *pgx.Batch, repeated []*relay.Question) {
	if len(repeated) == 0 {
		return
	}
	// Each once and sorted, so that two batches lock the rows in one order.
	slices.SortFunc(repeated, func(x, y *relay.Question) int { return bytes.Compare(x.EventID[:], y.EventID[:]) })
	repeated = slices.CompactFunc(repeated, func(x, y *relay.Question) bool { return x.EventID == y.EventID })
	r := newQuestionRows(repeated)
	b.Queue(`
		WITH raised AS MATERIALIZED (
		    SELECT q.id, x.after
		    FROM unnest($1::uuid[], $5::bigint[]) AS x (event_id, after)
		    JOIN questions q ON q.event_id = x.event_id AND q.fetches
		    ORDER BY q.event_id
		    FOR UPDATE OF q
		)
		UPDATE questions q
		SET again = q.again OR q.lease IS NOT NULL,
		    tries = CASE WHEN q.due_at IS NULL THEN least(q.tries, 1) ELSE q.tries END,
		    due_at = coalesce(q.due_at, greatest(clock_timestamp() + raised.after * interval '1 second',
		        q.asked_at + CASE WHEN q.result = 'none' THEN $3::float8 ELSE $2::float8 END * interval '1 second')),
		    give_up_at = greatest(q.give_up_at, clock_timestamp() + $4 * interval '1 second')
		FROM raised
		WHERE q.id = raised.id`, r.events,
		relay.AskAgainAfter.Seconds(), relay.AskUnknownAfter.Seconds(), relay.InquireFor.Seconds(), r.after)
}

// questionRows are new questions, column by column.
type questionRows struct {
	ids, events, waits       []uuid.UUID
	projects, sources, after []int64 // after: in seconds
	about                    []string
	fetches, strange         []bool
}

func newQuestionRows(questions []*relay.Question) (r questionRows) {
	for _, q := range questions {
		r.ids, r.events, r.waits = append(r.ids, q.ID), append(r.events, q.EventID), append(r.waits, q.CorrelationID)
		r.projects, r.sources = append(r.projects, q.ProjectID), append(r.sources, q.SourceID)
		r.after, r.about = append(r.after, int64(q.After/time.Second)), append(r.about, clean(q.About))
		r.fetches, r.strange = append(r.fetches, q.Fetches), append(r.strange, q.Strange)
	}
	return r
}

// closeMoot ends the questions about events that nobody needs to ask about any
// more. One that a node has claimed at this moment is that node's to end: no
// row is waited for. coalesce hides that due_at is not NULL: else the index of
// all that is due may be walked.
const closeMoot = `
	UPDATE questions SET result = 'moot', reason = NULL, due_at = NULL
	WHERE id = ANY (ARRAY(
	    SELECT id FROM questions
	    WHERE event_id = ANY($1::uuid[]) AND coalesce(due_at > '-infinity', false) AND lease IS NULL
	    FOR UPDATE SKIP LOCKED))`

// queueAskable queues what waits have become known by that a provider can be
// asked for: no statement where that is nothing. The last one counts.
func queueAskable(b *pgx.Batch, callbacks []relay.Callback, decisions []Decision) {
	last := map[uuid.UUID]int{}
	for i := range decisions {
		if decisions[i].Askable != "" {
			last[decisions[i].Wait.ID] = i
		}
	}
	if len(last) == 0 {
		return
	}
	var ids []uuid.UUID
	var asks []string
	var sources []int64
	for id, i := range last {
		ids, asks, sources = append(ids, id), append(asks, clean(decisions[i].Askable)), append(sources, callbacks[i].SourceID)
	}
	b.Queue(`
		UPDATE correlations c SET asks = x.asks, asks_source = x.source_id
		FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS x (id, asks, source_id)
		WHERE c.id = x.id AND c.status = 'pending'`, ids, asks, sources)
}

// reconcile puts the questions that stand before the end of waits. The caller
// has locked the waits, and looks at them again when relay.ReconcileFor is
// over.
func reconcile(ctx context.Context, tx pgx.Tx, endings []Ending) error {
	var asked []*relay.Question
	for _, e := range endings {
		if e.Asks != nil {
			asked = append(asked, e.Asks)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	r := newQuestionRows(asked)
	var b pgx.Batch
	// A wait that was asked for before, and whose deadline was moved then, is
	// asked for anew.
	b.Queue(`
		INSERT INTO questions (id, project_id, source_id, correlation_id, about, due_at, give_up_at)
		SELECT x.id, x.project_id, x.source_id, x.correlation_id, x.about, now(), now() + $6 * interval '1 second'
		FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::text[])
		  AS x (id, project_id, source_id, correlation_id, about)
		ON CONFLICT (correlation_id) DO UPDATE
		SET source_id = excluded.source_id, about = excluded.about, due_at = excluded.due_at, give_up_at = excluded.give_up_at,
		    tries = 0, asked_at = NULL, result = NULL, reason = NULL, lease = NULL`,
		r.ids, r.projects, r.sources, r.waits, r.about, relay.ReconcileFor.Seconds())
	b.Queue(`UPDATE correlations SET reconciled = false WHERE id = ANY($1::uuid[]) AND status = 'pending'`, r.waits)
	return tx.SendBatch(ctx, &b).Close()
}

// ClaimQuestions leases due questions to the caller, at most limit, and none of
// the busy sources: those of waits first, those that strangers could have
// caused last. Whoever answers in time keeps the lease; a node that dies loses
// it to the others.
func (s *Store) ClaimQuestions(ctx context.Context, lease uuid.UUID, limit int, busy []int64) ([]relay.Question, error) {
	// No EXISTS in what is returned: a plan that expects many questions would
	// make a hash table of all that it could find.
	rows, _ := s.hot.Query(ctx, `
		WITH asked AS MATERIALIZED (
		    SELECT id FROM questions
		    WHERE due_at <= now() AND correlation_id IS NOT NULL AND source_id <> ALL($3::bigint[])
		    ORDER BY due_at
		    LIMIT $4
		    FOR UPDATE SKIP LOCKED
		)
		UPDATE questions q SET lease = $1, due_at = now() + $2 * interval '1 second'
		FROM asked
		WHERE q.id = asked.id
		RETURNING q.id, q.project_id, q.source_id, NULL::uuid, q.correlation_id, q.about, q.tries,
		          extract(epoch FROM q.give_up_at - now())::float8,
		          coalesce((SELECT false FROM correlations c WHERE c.id = q.correlation_id AND c.status = 'pending' AND NOT c.reconciled), true), false,
		          (SELECT c.plan_id FROM correlations c WHERE c.id = q.correlation_id), false`,
		lease, relay.Lease.Seconds(), busy, limit)
	claimed, err := pgx.CollectRows(rows, scanQuestion(lease))
	for _, strange := range []bool{false, true} {
		if err != nil || len(claimed) >= limit {
			break
		}
		var more []relay.Question
		more, err = s.claimAboutEvents(ctx, lease, strange, limit-len(claimed), busy)
		claimed = append(claimed, more...)
	}
	return claimed, translate("claiming questions", err)
}

// claimAboutEvents claims questions about events: those of strangers, or the
// others.
func (s *Store) claimAboutEvents(ctx context.Context, lease uuid.UUID, strange bool, limit int, busy []int64) ([]relay.Question, error) {
	rows, _ := s.hot.Query(ctx, `
		WITH asked AS MATERIALIZED (
		    SELECT id FROM questions
		    WHERE strange = $5 AND due_at <= now() AND event_id IS NOT NULL AND source_id <> ALL($3::bigint[])
		    ORDER BY due_at
		    LIMIT $4
		    FOR UPDATE SKIP LOCKED
		)
		UPDATE questions q SET lease = $1, due_at = now() + $2 * interval '1 second', again = false
		FROM asked
		WHERE q.id = asked.id
		RETURNING q.id, q.project_id, q.source_id, q.event_id, NULL::uuid, q.about, q.tries,
		          extract(epoch FROM q.give_up_at - now())::float8,
		          coalesce((SELECT CASE WHEN q.fetches THEN e.body IS NULL ELSE e.match <> 'parked' END
		                    FROM events e WHERE e.project_id = q.project_id AND e.id = q.event_id), true),
		          coalesce((SELECT e.answer IS NOT NULL FROM events e WHERE e.project_id = q.project_id AND e.id = q.event_id), false),
		          NULL::uuid, q.fetches`,
		lease, relay.Lease.Seconds(), busy, limit, strange)
	return pgx.CollectRows(rows, scanQuestion(lease))
}

// StrangersWaiting counts the questions of a source that strangers could have
// caused and that are still to be asked: at most, to atMost.
func (s *Store) StrangersWaiting(ctx context.Context, sourceID int64, atMost int) (waiting int, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT count(*)
		FROM (SELECT FROM questions WHERE source_id = $1 AND due_at IS NOT NULL AND strange LIMIT $2) q`,
		sourceID, atMost).Scan(&waiting)
	return waiting, translate("counting questions", err)
}

func scanQuestion(lease uuid.UUID) pgx.RowToFunc[relay.Question] {
	return func(row pgx.CollectableRow) (relay.Question, error) {
		q := relay.Question{Lease: lease}
		var event, wait, plan *uuid.UUID
		var left float64
		err := row.Scan(&q.ID, &q.ProjectID, &q.SourceID, &event, &wait, &q.About, &q.Tries, &left, &q.Moot, &q.Answered, &plan, &q.Fetches)
		for _, of := range []struct{ from, to *uuid.UUID }{{event, &q.EventID}, {wait, &q.CorrelationID}, {plan, &q.PlanID}} {
			if of.from != nil {
				*of.to = *of.from
			}
		}
		q.Left = time.Duration(left * float64(time.Second))
		return q, err
	}
}

// Try is one try to ask, and what follows from it.
type Try struct {
	Result relay.Answered
	Reason string // where there is no usable answer
	Again  bool   // after Delay; else the question is done
	Delay  time.Duration
	Told   uuid.UUID // the event that the answer of a fetch became, or zero
}

// RecordTry notes a try under its lease. It reports false where the lease was
// lost: another node asks then, and nothing is written.
func (s *Store) RecordTry(ctx context.Context, q *relay.Question, try Try) (held bool, err error) {
	err = s.inTx(ctx, "recording a question", func(tx pgx.Tx) error {
		held, err = recordTry(ctx, tx, q, try)
		return err
	})
	return held, err
}

// recordTry notes it, and has what was raised again meanwhile asked anew.
func recordTry(ctx context.Context, tx pgx.Tx, q *relay.Question, try Try) (held bool, err error) {
	tag, err := tx.Exec(ctx, `
		UPDATE questions
		SET tries = CASE WHEN again AND NOT $5 THEN 1 ELSE tries + 1 END,
		    asked_at = clock_timestamp(), result = $3, reason = $4, lease = NULL, again = false, told = coalesce($7, told),
		    due_at = CASE WHEN $5 THEN clock_timestamp() + $6 * interval '1 second'
		                  WHEN again THEN clock_timestamp() + $8 * interval '1 second' END
		WHERE id = $1 AND lease = $2`,
		q.ID, q.Lease, string(try.Result), optional(try.Reason), try.Again, try.Delay.Seconds(), optionalID(try.Told), relay.AskAgainAfter.Seconds())
	return tag.RowsAffected() == 1, err
}

// EndMoot ends claimed questions that nobody needs to ask any more, all of one
// lease.
func (s *Store) EndMoot(ctx context.Context, lease uuid.UUID, questions []relay.Question) error {
	if len(questions) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(questions))
	for i := range questions {
		ids[i] = questions[i].ID
	}
	_, err := s.pool.Exec(ctx, `
		UPDATE questions SET result = 'moot', reason = NULL, due_at = NULL, lease = NULL
		WHERE id = ANY($1::uuid[]) AND lease = $2`, ids, lease)
	return translate("ending questions", err)
}

// ReturnQuestion gives a lease back under which nobody was asked.
func (s *Store) ReturnQuestion(ctx context.Context, q *relay.Question) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE questions SET due_at = now(), lease = NULL
		WHERE id = $1 AND lease = $2`, q.ID, q.Lease)
	return translate("returning a question", err)
}

// KeepAnswer keeps the answer with its event, which is to be decided by it.
// Until EndInquiry the question stays leased: if the node dies before, another
// one decides the event by the same answer. It reports false where the lease
// was lost.
func (s *Store) KeepAnswer(ctx context.Context, q *relay.Question, result relay.Answered, answer []byte) (held bool, err error) {
	err = s.inTx(ctx, "keeping an answer", func(tx pgx.Tx) error {
		// The event before its question, as Rematch locks them.
		if _, err := tx.Exec(ctx, `SELECT FROM events WHERE project_id = $1 AND id = $2 FOR UPDATE`, q.ProjectID, q.EventID); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE questions SET tries = tries + 1, asked_at = clock_timestamp(), result = $3, reason = NULL
			WHERE id = $1 AND lease = $2`, q.ID, q.Lease, string(result))
		if held = tag.RowsAffected() == 1; err != nil || !held {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE events SET answer = $3
			WHERE project_id = $1 AND id = $2 AND match = 'parked'`, q.ProjectID, q.EventID, answer)
		return err
	})
	return held, err
}

// EndInquiry notes that an event was decided by its answer. Where it was not,
// since another node had it locked, the question stays leased and is taken up
// again: at most until its time is over.
func (s *Store) EndInquiry(ctx context.Context, q *relay.Question) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE questions SET due_at = NULL, lease = NULL
		WHERE id = $1 AND lease = $2 AND result IS NOT NULL
		  AND (give_up_at <= now() OR NOT EXISTS (
		      SELECT FROM events e
		      WHERE e.project_id = $3 AND e.id = $4 AND e.match = 'parked' AND e.rule NOT IN ('asked_nobody_waits_yet', 'asked_in_vain')))`,
		q.ID, q.Lease, q.ProjectID, q.EventID)
	return translate("ending a question", err)
}

// EndReconciliation ends the question of a wait, and with it the wait where it
// is pending still: decide, which sees it locked, says how. A wait that was
// closed meanwhile, or whose deadline was moved, is left as it is. It reports
// false where the lease was lost.
func (s *Store) EndReconciliation(
	ctx context.Context, lease uuid.UUID, q *relay.Question, try Try, decide func(*relay.Wait) (Ending, error),
) (deliveries []relay.Delivery, held bool, err error) {
	to := s.tell()
	err = s.inTx(ctx, "ending a reconciliation", func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT `+waitColumns+`, coalesce(c.asks, ''), coalesce(c.asks_source, 0), c.reconciled
			FROM correlations c
			WHERE c.id = $1
			FOR UPDATE`, q.CorrelationID)
		w, err := pgx.CollectExactlyOneRow(rows, scanOverdue)
		if w, err = oneOrNotFound(w, err, "correlation"); err != nil {
			return err
		}
		if held, err = recordTry(ctx, tx, q, try); err != nil || !held {
			return err
		}
		if w.Reconciled == nil {
			return nil // its deadline was moved: it will be asked for again
		}
		if w.Status == relay.Pending {
			ending, err := decide(w.Wait)
			if err != nil {
				return err
			}
			ending.Payable = true
			if deliveries, err = endWaits(ctx, tx, to, lease, []Ending{ending}); err != nil {
				return err
			}
		}
		if !try.Result.Usable() {
			return nil
		}
		_, err = tx.Exec(ctx, `UPDATE correlations SET reconciled = true WHERE id = $1`, q.CorrelationID)
		return err
	})
	s.isOut(to)
	return deliveries, held, err
}

// QuestionRecord is a question as it is shown.
type QuestionRecord struct {
	About     string
	Tries     int
	CreatedAt time.Time
	AskedAt   *time.Time
	NextAt    *time.Time // where another try follows and none is under way
	Result    relay.Answered
	Reason    string
	Fetches   bool
	Told      *uuid.UUID // the event that the last answer became
}

// QuestionsAbout returns the question about an event or a wait, where there
// is one.
func (s *Store) QuestionsAbout(ctx context.Context, projectID int64, id uuid.UUID) ([]QuestionRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT about, tries, created_at, asked_at, CASE WHEN lease IS NULL THEN due_at END, coalesce(result, ''), coalesce(reason, ''), fetches, told
		FROM questions
		WHERE project_id = $1 AND (event_id = $2 OR correlation_id = $2)`, projectID, id)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[QuestionRecord])
	return list, translate("reading questions", err)
}
