package store

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// EventRecord is one received callback as it is shown.
type EventRecord struct {
	ID              uuid.UUID
	SourceID        int64
	Source          string
	ReceivedAt      time.Time
	Verdict         relay.Verdict
	Match           relay.Match
	Rule            string
	Reason          string
	Outcome         relay.Outcome
	Type            string
	ProviderEventID string
	CorrelationID   *uuid.UUID
	DuplicateOf     *uuid.UUID
	Token           string // that it named
	Payment         *relay.Payment
	Form            map[string]any
	Headers         map[string]string
	Format          relay.Format
	Body            []byte // nil once retention has blanked it, and in lists
	Answer          []byte // of its provider, where that was asked about it; nil in lists

	// What it came to when it was received, and since when it is what it is,
	// where those differ: zero otherwise.
	FirstMatch relay.Match
	FirstRule  string
	DecidedAt  *time.Time
	ReplayedAt *time.Time // by hand, the last time that this changed it

	projectID int64
	headers   []byte
	request   requestParts // nothing in lists
}

// Callback is the event as it came, to be read again.
func (e *EventRecord) Callback() relay.Callback {
	return relay.Callback{
		ID: e.ID, ProjectID: e.projectID, SourceID: e.SourceID, Verdict: e.Verdict, Body: e.Body, Headers: e.headers, ReceivedAt: e.ReceivedAt,
		PathToken: e.request.Path, Query: e.request.Query, Item: e.request.Item, Answer: e.Answer, For: e.request.For,
	}
}

// FetchedFor is the callback that the event was fetched for, or zero.
func (e *EventRecord) FetchedFor() uuid.UUID { return e.request.For }

const eventColumns = `e.project_id, e.id, e.source_id, coalesce(s.name, ''), e.received_at, e.verdict, e.match, e.rule, coalesce(e.reason, ''),
	coalesce(e.outcome, ''), coalesce(e.type, ''), coalesce(e.provider_event_id, ''), e.correlation_id, e.duplicate_of,
	coalesce(c.token, e.token, ''), e.payment, e.form, e.headers, e.format,
	coalesce(e.first_match, ''), coalesce(e.first_rule, ''), e.decided_at, e.replayed_at`

const eventJoins = `
	LEFT JOIN sources s ON s.id = e.source_id
	LEFT JOIN correlations c ON c.id = e.correlation_id`

func scanEvent(row pgx.CollectableRow) (*EventRecord, error) {
	e := &EventRecord{}
	var payment, form, request []byte
	var packing int64
	err := row.Scan(&e.projectID, &e.ID, &e.SourceID, &e.Source, &e.ReceivedAt, &e.Verdict, &e.Match, &e.Rule, &e.Reason,
		&e.Outcome, &e.Type, &e.ProviderEventID, &e.CorrelationID, &e.DuplicateOf,
		&e.Token, &payment, &form, &e.headers, &e.Format,
		&e.FirstMatch, &e.FirstRule, &e.DecidedAt, &e.ReplayedAt, &e.Body, &packing, &e.Answer, &request)
	if err != nil {
		return nil, err
	}
	if e.Body, err = unpack(e.Body, packing); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		raw []byte
		to  any
	}{{payment, &e.Payment}, {form, &e.Form}, {e.headers, &e.Headers}, {request, &e.request}} {
		if part.raw == nil {
			continue
		}
		if err := json.Unmarshal(part.raw, part.to); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Event returns one event of a project with its bytes.
func (s *Store) Event(ctx context.Context, projectID int64, id uuid.UUID) (*EventRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+eventColumns+`, e.body, e.packing, e.answer, e.request
		FROM events e `+eventJoins+`
		WHERE e.project_id = $1 AND e.id = $2`, projectID, id)
	e, err := pgx.CollectExactlyOneRow(rows, scanEvent)
	e, err = oneOrNotFound(e, err, "event")
	return e, translate("reading an event", err)
}

// EventFilter narrows a list; zero fields do not.
type EventFilter struct {
	Source        string
	Verdict       relay.Verdict
	Match         relay.Match
	Token         string
	CorrelationID uuid.UUID
	From, To      time.Time // of receipt
	ID            uuid.UUID
}

// eventWhere applies an EventFilter given as $3 to $10.
const eventWhere = `
	($3 = '' OR s.name = $3)
	AND ($4 = '' OR e.verdict = $4)
	AND ($5 = '' OR e.match = $5)
	AND ($6 = '' OR e.token = $6 OR e.correlation_id = (SELECT id FROM correlations WHERE token = $6))
	AND ($7::uuid IS NULL OR e.correlation_id = $7)
	AND ($8::timestamptz IS NULL OR e.received_at >= $8)
	AND ($9::timestamptz IS NULL OR e.received_at < $9)
	AND ($10::uuid IS NULL OR e.id = $10)`

// args are the arguments $1 to $10 of a statement with eventWhere, whose $2
// is the event at which it goes on.
func (f EventFilter) args(projectID int64, from uuid.UUID) []any {
	return []any{
		projectID, from, f.Source, string(f.Verdict), string(f.Match), f.Token,
		optionalID(f.CorrelationID), optionalTime(f.From), optionalTime(f.To), optionalID(f.ID),
	}
}

// Events lists events of a project, newest first, without their bytes.
func (s *Store) Events(ctx context.Context, projectID int64, f EventFilter, p Page) ([]*EventRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+eventColumns+`, NULL::bytea, 0::smallint, NULL::bytea, NULL::json
		FROM events e `+eventJoins+`
		WHERE e.project_id = $1 AND e.id < $2 AND `+eventWhere+`
		ORDER BY e.id DESC
		LIMIT $11`, append(f.args(projectID, p.before()), p.Limit)...)
	list, err := pgx.CollectRows(rows, scanEvent)
	return list, translate("listing events", err)
}

// EventsOf lists the events that belong to a wait, and those that named its
// token and came to nothing: the newest first, without their bytes. Each of
// the two has an index of its own.
func (s *Store) EventsOf(ctx context.Context, w *relay.Wait, limit int) ([]*EventRecord, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+eventColumns+`, NULL::bytea, 0::smallint, NULL::bytea, NULL::json
		FROM ((SELECT project_id, id FROM events WHERE correlation_id = $2 ORDER BY id DESC LIMIT $4)
		      UNION
		      (SELECT project_id, id FROM events WHERE project_id = $1 AND token = $3 ORDER BY id DESC LIMIT $4)) named
		JOIN events e ON e.project_id = named.project_id AND e.id = named.id `+eventJoins+`
		WHERE e.project_id = $1
		ORDER BY e.id DESC
		LIMIT $4`, w.ProjectID, w.ID, w.Token, limit)
	list, err := pgx.CollectRows(rows, scanEvent)
	return list, translate("listing the events of a wait", err)
}

// maxHolders bounds the waits that Named finds by one key or reference: those
// that had it last, the pending one among them.
const maxHolders = 20

// Named returns the waits that some names lead to now, of whatever project,
// without locking them: what was decided on them may be another thing already.
// It is for those who ask why an event came to what it did.
func (s *Store) Named(ctx context.Context, n Names) (*Facts, error) {
	f := newFacts()
	rows, _ := s.pool.Query(ctx, `
		SELECT `+waitColumns+`, n.refs, n.keys, n.key_active
		FROM (SELECT id, array_agg(ref) FILTER (WHERE NOT of_caller) AS refs, array_agg(ref) FILTER (WHERE of_caller) AS keys,
		             coalesce(bool_or(key_active), false) AS key_active
		      FROM (SELECT id, NULL::uuid AS ref, NULL::boolean AS of_caller, NULL::boolean AS key_active
		            FROM correlations WHERE token = ANY($1::text[])
		            UNION ALL
		            SELECT held.correlation_id, held.ref, held.key_active IS NOT NULL, held.key_active
		            FROM (SELECT DISTINCT unnest($2::uuid[])) AS given (ref),
		                 LATERAL (SELECT r.ref, r.correlation_id, r.key_active
		                          FROM correlation_refs r
		                          WHERE r.ref = given.ref
		                          ORDER BY r.correlation_id DESC
		                          LIMIT $3) held) named
		      GROUP BY id) n
		JOIN correlations c ON c.id = n.id
		ORDER BY c.id`, n.Tokens, n.Refs, maxHolders)
	if err := readWaits(rows, f); err != nil {
		return nil, translate("looking up the names of an event", err)
	}
	return f, nil
}

// SourceActivity is what a node saw of a source since it last told.
type SourceActivity struct {
	ProjectID   int64
	SourceID    int64
	LastEventAt time.Time // zero: none
	LastError   string
	LastErrorAt time.Time
	SecretsUsed map[uuid.UUID]time.Time
}

// NoteActivity writes what was seen of some sources.
func (s *Store) NoteActivity(ctx context.Context, seen []SourceActivity) error {
	var (
		n                = len(seen)
		sources          = make([]int64, n)
		projects         = make([]int64, n)
		events, errorsAt = make([]*time.Time, n), make([]*time.Time, n)
		lastErrors       = make([]*string, n)
		secrets          []uuid.UUID
		usedAt           []time.Time
	)
	for i, a := range seen {
		sources[i], projects[i] = a.SourceID, a.ProjectID
		events[i], lastErrors[i], errorsAt[i] = optionalTime(a.LastEventAt), optional(clean(a.LastError)), optionalTime(a.LastErrorAt)
		// Sorted, so that two nodes lock the same secrets in the same order.
		for _, id := range slices.SortedFunc(maps.Keys(a.SecretsUsed), func(x, y uuid.UUID) int { return bytes.Compare(x[:], y[:]) }) {
			secrets, usedAt = append(secrets, id), append(usedAt, a.SecretsUsed[id])
		}
	}
	return s.inTx(ctx, "noting source activity", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO source_activity AS a (source_id, project_id, last_event_at, last_error, last_error_at)
			SELECT x.* FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::text[], $5::timestamptz[])
			  AS x (source_id, project_id, last_event_at, last_error, last_error_at)
			JOIN sources s ON s.id = x.source_id
			ORDER BY x.source_id
			ON CONFLICT (source_id) DO UPDATE
			SET last_event_at = greatest(a.last_event_at, excluded.last_event_at),
			    last_error = coalesce(excluded.last_error, a.last_error),
			    last_error_at = coalesce(excluded.last_error_at, a.last_error_at)`,
			sources, projects, events, lastErrors, errorsAt)
		if err != nil || len(secrets) == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE source_secrets s SET last_used_at = x.used_at
			FROM unnest($1::uuid[], $2::timestamptz[]) AS x (id, used_at)
			WHERE s.id = x.id`, secrets, usedAt)
		return err
	})
}

// LastSeen is what was noted of a source.
type LastSeen struct {
	LastEventAt *time.Time
	LastError   string
	LastErrorAt *time.Time
	SecretsUsed map[uuid.UUID]*time.Time
}

// Activity returns what was noted of a project's sources, by their ids.
func (s *Store) Activity(ctx context.Context, projectID int64) (map[int64]LastSeen, error) {
	seen := map[int64]LastSeen{}
	rows, _ := s.pool.Query(ctx, `
		SELECT s.id, a.last_event_at, coalesce(a.last_error, ''), a.last_error_at, x.id, x.last_used_at
		FROM sources s
		LEFT JOIN source_activity a ON a.source_id = s.id
		LEFT JOIN source_secrets x ON x.source_id = s.id
		WHERE s.project_id = $1 AND s.deleted_at IS NULL`, projectID)
	var (
		sourceID                 int64
		eventAt, errorAt, usedAt *time.Time
		lastError                string
		secretID                 *uuid.UUID
	)
	_, err := pgx.ForEachRow(rows, []any{&sourceID, &eventAt, &lastError, &errorAt, &secretID, &usedAt}, func() error {
		of, ok := seen[sourceID]
		if !ok {
			of = LastSeen{LastEventAt: eventAt, LastError: lastError, LastErrorAt: errorAt, SecretsUsed: map[uuid.UUID]*time.Time{}}
			seen[sourceID] = of
		}
		if secretID != nil {
			of.SecretsUsed[*secretID] = usedAt
		}
		return nil
	})
	return seen, translate("reading source activity", err)
}
