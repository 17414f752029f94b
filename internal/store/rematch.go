package store

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Kept is a stored event that is to be decided anew: the callback as it came,
// with nothing read out of it, and what became of it so far.
type Kept struct {
	relay.Callback
	Match relay.Match
	Rule  string
}

// Rematched is a stored event that was decided anew.
type Rematched struct {
	Callback relay.Callback
	Decision Decision
	Changed  bool // false: it finds nobody, as before, and was left as it is
}

// Rematch decides stored events anew, in one transaction: lock the events,
// have read read their bytes again, lock their waits as CommitCallbacks does,
// and write what decide makes of them. An event that did something is never
// touched, nor one that another node rematches at this moment; so each fires
// at most once. read returns false for an event that is to stay as it is. The
// deliveries are leased to the caller under the given lease. By hand an event
// that finds nobody, as before, and whose provider can be asked about it is
// parked anew, with its question.
//
// An event's row is locked before its waits. Nothing else waits for a row of
// events while it holds a wait, but for a dedupe key that is being taken:
// Postgres ends such a circle with a deadlock, which the caller repeats.
func (s *Store) Rematch(
	ctx context.Context, lease uuid.UUID, events []EventKey, byHand bool,
	read func(*Kept) (relay.Callback, Names, bool),
	decide func(context.Context, []relay.Callback, *Facts) ([]Decision, error),
) ([]Rematched, []relay.Delivery, error) {
	conn, err := s.hot.Acquire(ctx)
	if err != nil {
		return nil, nil, translate("rematching events", err)
	}
	defer release(conn)
	kept, err := lockEvents(ctx, conn.Conn(), events)
	if err != nil {
		return nil, nil, translate("locking events", err)
	}
	var callbacks []relay.Callback
	var names []Names
	var before []*Kept
	for _, k := range kept {
		if c, n, ok := read(k); ok {
			callbacks, names, before = append(callbacks, c), append(names, n), append(before, k)
		}
	}
	if len(callbacks) == 0 {
		return nil, nil, nil
	}
	facts, err := lockFacts(ctx, conn.Conn(), callbacks, names)
	if err != nil {
		return nil, nil, translate("locking waits", err)
	}
	decisions, err := decide(ctx, callbacks, facts)
	if err != nil {
		return nil, nil, translate("deciding events anew", err)
	}
	leaseEnds := time.Now().Add(relay.Lease)
	to := s.tell()
	var b pgx.Batch
	done := queueRematched(&b, before, callbacks, decisions, byHand)
	deliveries := queueEffects(&b, to, callbacks, decisions, lease, leaseEnds)
	b.Queue("COMMIT")
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return nil, nil, translate("rematching events", err)
	}
	s.isOut(to)
	return done, leased(deliveries), nil
}

// lockEvents opens the transaction and locks those of the events that did
// nothing yet and still have their bytes.
func lockEvents(ctx context.Context, conn *pgx.Conn, events []EventKey) (kept []*Kept, err error) {
	projects, ids := eventArrays(events)
	var b pgx.Batch
	b.Queue("BEGIN")
	b.Queue(`
		SELECT e.project_id, e.id, e.source_id, e.received_at, e.verdict, e.match, e.rule, coalesce(e.reason, ''),
		       e.headers, e.request, e.dedupe_key, e.answer, e.body, e.packing
		FROM unnest($1::bigint[], $2::uuid[]) AS x (project_id, id)
		JOIN events e ON e.project_id = x.project_id AND e.id = x.id
		WHERE e.match = ANY($3::text[]) AND e.body IS NOT NULL
		ORDER BY e.id
		FOR UPDATE OF e SKIP LOCKED`, projects, ids, undoneMatches()).Query(func(rows pgx.Rows) error {
		kept, err = pgx.CollectRows(rows, scanKept)
		return err
	})
	err = conn.SendBatch(ctx, &b).Close()
	return slices.DeleteFunc(kept, func(k *Kept) bool { return k.Body == nil }), err
}

// scanKept reads an event. A body that cannot be unpacked, perhaps because a
// newer program packed it, comes as nil: the fault of this event alone.
func scanKept(row pgx.CollectableRow) (*Kept, error) {
	k := &Kept{}
	var request []byte
	var dedupeKey *uuid.UUID
	var packing int64
	err := row.Scan(&k.ProjectID, &k.ID, &k.SourceID, &k.ReceivedAt, &k.Verdict, &k.Match, &k.Rule, &k.Reason,
		&k.Headers, &request, &dedupeKey, &k.Answer, &k.Body, &packing)
	if err != nil {
		return nil, err
	}
	if k.Body, err = unpack(k.Body, packing); err != nil {
		k.Body = nil
	}
	k.DedupeKey = (*[16]byte)(dedupeKey)
	if request != nil {
		var r requestParts
		if err := json.Unmarshal(request, &r); err != nil {
			return nil, err
		}
		k.PathToken, k.Query, k.Item, k.For = r.Path, r.Query, r.Item, r.For
	}
	return k, nil
}

// requestParts is the column request.
type requestParts struct {
	Path  string    `json:"path,omitempty"`
	Query string    `json:"query,omitempty"`
	Item  int       `json:"item,omitempty"`
	For   uuid.UUID `json:"for,omitzero"`
}

// maxQuery is the longest query that is kept, in bytes: no provider's is.
const maxQuery = 4 << 10

// requestJSON keeps what it takes to read an event again besides its body and
// headers: nothing of nearly all of them.
func requestJSON(c *relay.Callback) *string {
	r := requestParts{Path: clean(c.PathToken), Query: cleanText(c.Query), Item: c.Item, For: c.For}
	if len(r.Query) > maxQuery {
		r.Query = ""
	}
	if r == (requestParts{}) {
		return nil
	}
	return mustJSON(r)
}

// keepFirst keeps what an event came to at first, when it comes to something
// else: what it was in between, of several times, is nobody's question.
const keepFirst = `first_match = coalesce(e.first_match, e.match), first_rule = coalesce(e.first_rule, e.rule), decided_at = now()`

// queueRematched queues what the decisions change of the events' rows. One
// that finds nobody, as it did before, is left as it is, unless it is to be
// asked about anew.
func queueRematched(b *pgx.Batch, before []*Kept, callbacks []relay.Callback, decisions []Decision, byHand bool) []Rematched {
	done := make([]Rematched, len(callbacks))
	var changed []relay.Callback
	var made []Decision
	var unparked, decided, forgotten, erased []uuid.UUID
	var erasedProjects []int64
	for i := range callbacks {
		c, d := &callbacks[i], &decisions[i]
		asks := byHand && d.Asks != nil
		done[i] = Rematched{Callback: *c, Decision: *d, Changed: changes(before[i], c, d) || asks && d.Match != before[i].Match}
		if !done[i].Changed && !asks {
			continue
		}
		if before[i].Answer != nil && c.Answer == nil {
			forgotten = append(forgotten, c.ID)
		}
		changed, made = append(changed, *c), append(made, *d)
		if ofErased(d) {
			erased, erasedProjects = append(erased, c.ID), append(erasedProjects, c.ProjectID)
		}
		if before[i].Match == relay.Parked {
			unparked = append(unparked, c.ID)
			if d.Match != relay.Parked {
				decided = append(decided, c.ID)
			}
		}
	}
	if len(changed) == 0 {
		return done
	}
	r := newEventRows(changed, made)
	b.Queue(`
		UPDATE events e
		SET verdict = x.verdict, match = x.match, rule = x.rule, format = x.format, reason = x.reason, outcome = x.outcome,
		    type = x.type, provider_event_id = x.provider_event_id, token = x.token, payment = x.payment::json, form = x.form::json,
		    correlation_id = x.correlation_id, duplicate_of = x.duplicate_of, dedupe_key = x.dedupe_key,
		    answer = CASE WHEN e.id = ANY($17::uuid[]) THEN NULL ELSE e.answer END,
		    `+keepFirst+`, replayed_at = CASE WHEN $18 THEN now() ELSE e.replayed_at END
		FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
		            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::uuid[], $15::uuid[], $16::uuid[])
		  AS x (project_id, id, verdict, match, rule, format, reason, outcome,
		        type, provider_event_id, token, payment, form, correlation_id, duplicate_of, dedupe_key)
		WHERE e.project_id = x.project_id AND e.id = x.id`,
		r.projects, r.ids, r.verdicts, r.matches, r.rules, r.formats, r.reasons, r.outcomes,
		r.types, r.providerIDs, r.tokens, r.payments, r.forms, r.correlations, r.duplicatesOf, r.dedupeKeys, forgotten, byHand)
	if len(erased) > 0 {
		b.Queue(`
			UPDATE events e SET body = NULL, answer = NULL, headers = NULL, request = NULL
			FROM unnest($1::bigint[], $2::uuid[]) AS x (project_id, id)
			WHERE e.project_id = x.project_id AND e.id = x.id`, erasedProjects, erased)
	}
	if len(unparked) > 0 {
		b.Queue(`DELETE FROM parked_refs WHERE event_id = ANY($1::uuid[])`, unparked)
	}
	if len(decided) > 0 {
		b.Queue(closeMoot, decided)
	}
	queueParked(b, changed, made)
	queueQuestions(b, made)
	return done
}

// changes reports whether an event came to something else than before. One
// that is parked and was asked about has other names now.
func changes(before *Kept, c *relay.Callback, d *Decision) bool {
	asked := before.Match == relay.Parked && d.Match == relay.Parked && d.Rule != before.Rule
	return asked || c.Verdict != before.Verdict || !nobody(d.Match) || !nobody(before.Match)
}

// nobody reports whether an event of this match found no wait.
func nobody(m relay.Match) bool { return m == relay.Parked || m == relay.Unmatched }
