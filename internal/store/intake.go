package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"relay.example/relay/internal/relay"
)

// Names says under which names one callback may find its wait.
type Names struct {
	Tokens []string    // values that have the shape of a token
	Refs   []uuid.UUID // RefHash of keys and references
}

// RefHash is the stored form of a key or a provider's id: a 128-bit hash of
// the source and the value.
func RefHash(sourceID int64, value string) uuid.UUID {
	return hash128("ref", sourceID, value)
}

// DedupeHash is the stored form of what identifies an event at its source.
func DedupeHash(sourceID int64, identity string) [16]byte {
	return hash128("event", sourceID, identity)
}

// hash128 is the first half of a SHA-256, domain and number apart.
func hash128(domain string, n int64, value string) uuid.UUID {
	var short [128]byte // most fit, and then nothing is allocated
	buf := append(short[:0], domain...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(n))
	buf = append(buf, value...)
	sum := sha256.Sum256(buf)
	return uuid.UUID(sum[:16])
}

// Facts is what a batch of callbacks finds in the database. The waits are
// locked until the batch commits, so a decision made on them cannot be
// overtaken.
type Facts struct {
	Waits   map[uuid.UUID]*relay.Wait
	ByToken map[string]*relay.Wait
	ByRef   map[uuid.UUID][]RefHit
	// Originals holds, by dedupe key, the event that took the key: for a
	// fresh callback that is itself.
	Originals map[[16]byte]uuid.UUID

	originals map[uuid.UUID]original // of them, those that were there before the batch, by id
}

// original is what a copy of an event goes by: whose it was, whether what it
// said is kept no longer, and whether its provider is still to be asked about
// it.
type original struct {
	wait    *uuid.UUID
	blanked bool
	asked   bool
}

// ToBeAsked reports whether the provider is still to be asked about an event
// that took a dedupe key: one of this batch is, and one whose question is not
// under way.
func (f *Facts) ToBeAsked(id uuid.UUID) bool {
	of, stored := f.originals[id]
	return !stored || of.asked
}

// RefHit is one wait that a key or reference names.
type RefHit struct {
	Wait *relay.Wait
	Key  bool // a caller's key; else a provider's id
}

// Decision is what becomes of one callback.
type Decision struct {
	Match       relay.Match
	Rule        string
	Outcome     relay.Outcome // after expectations: completed may have become mismatch
	Wait        *relay.Wait   // nil where no wait was named
	DuplicateOf uuid.UUID
	Token       string // for an event without a wait: what it named
	Step        relay.Step
	ExtendBy    time.Duration   // where Step.Extends
	Teaches     []uuid.UUID     // references that now name the wait
	Parks       []ParkedName    // where Match is Parked: the names it can be found by
	Asks        *relay.Question // where Match is Parked: what to ask the provider about it
	Refused     bool            // it is not kept, and its sender is told so
	Askable     string          // what the provider of the event's source can be asked for when Wait is about to expire, where that is news
	Fires       *relay.Delivery // the delivery that the step owes, without lease

	original original // of a duplicate
}

// takesKey reports whether the event keeps later ones with its dedupe key out.
// One that came to nothing does not: sent again, it may find its wait.
func (d *Decision) takesKey() bool {
	return d.Match != relay.Unmatched && d.Match != relay.OtherProject && d.Rule != "plan_unusable"
}

// maxStranger is how many bytes are kept of a body that proves nothing: of a
// forgery, or of what nobody signed and nobody waits for. Strangers send them.
const maxStranger = 64 << 10

// oversized reports whether a callback proves nothing and is longer than what
// is kept of such: neither its bytes nor what was read out of them are.
func oversized(c *relay.Callback, d *Decision) bool {
	strange := c.Verdict == relay.Rejected || c.Verdict == relay.Unsigned && d.Wait == nil
	return strange && len(c.Body) > maxStranger
}

// KeepsStranger reports whether all is kept of a callback that proves nothing.
func KeepsStranger(c *relay.Callback) bool {
	return len(c.Body) <= maxStranger && len(cleanText(c.Query)) <= maxQuery
}

// ofErased reports whether a callback is about somebody who was erased: what
// it says of a person is not kept.
func ofErased(d *Decision) bool { return d.Wait != nil && d.Wait.Erased() || d.original.blanked }

// followOriginals lets copies belong to the wait of the event that came first,
// and hold no more than it does: they are found and cleared with it.
func followOriginals(callbacks []relay.Callback, decisions []Decision, f *Facts) {
	for i := range decisions {
		d := &decisions[i]
		if d.DuplicateOf == uuid.Nil || d.Wait != nil {
			continue
		}
		var stored bool
		if d.original, stored = f.originals[d.DuplicateOf]; stored {
			continue
		}
		at := slices.IndexFunc(callbacks, func(c relay.Callback) bool { return c.ID == d.DuplicateOf })
		if at >= 0 && decisions[at].Wait != nil {
			d.original = original{wait: &decisions[at].Wait.ID, blanked: decisions[at].Wait.Erased()}
		}
	}
}

// stillAsked is the column that tells whether the provider is still to be asked
// about an event. It is looked up only where strangers' copies go by it:
// ordinary callbacks touch no question.
func stillAsked(callbacks []relay.Callback) string {
	strange := func(c relay.Callback) bool { return c.Reading.Fetch != "" && c.Verdict == relay.Unsigned }
	if !slices.ContainsFunc(callbacks, strange) {
		return "false"
	}
	return `coalesce((SELECT q.due_at IS NOT NULL AND q.lease IS NULL FROM questions q WHERE q.event_id = e.id), false)`
}

// withoutRefused leaves out what is not to be kept: mostly nothing.
func withoutRefused(callbacks []relay.Callback, decisions []Decision) (kept []relay.Callback, of []Decision) {
	if !slices.ContainsFunc(decisions, func(d Decision) bool { return d.Refused }) {
		return callbacks, decisions
	}
	for i := range decisions {
		if !decisions[i].Refused {
			kept, of = append(kept, callbacks[i]), append(of, decisions[i])
		}
	}
	return kept, of
}

// CommitCallbacks keeps a batch of callbacks and what follows from them, in
// one transaction and two round trips: lock the waits and look for the dedupe
// keys, then write what decide makes of them. A key that another node takes in
// between makes the batch conflict, and be repeated. names and decide answer
// for each callback in order. The deliveries it returns are leased to the
// caller under the given lease; those that wait for their turn are not among
// them.
func (s *Store) CommitCallbacks(
	ctx context.Context, lease uuid.UUID, callbacks []relay.Callback, names []Names,
	decide func(context.Context, *Facts) ([]Decision, error),
) ([]Decision, []relay.Delivery, error) {
	conn, err := s.hot.Acquire(ctx)
	if err != nil {
		return nil, nil, translate("committing callbacks", err)
	}
	defer release(conn)
	facts, err := lockFacts(ctx, conn.Conn(), callbacks, names)
	if err != nil {
		return nil, nil, translate("locking waits", err)
	}
	decisions, err := decide(ctx, facts)
	if err != nil {
		return nil, nil, translate("deciding callbacks", err)
	}
	followOriginals(callbacks, decisions, facts)
	callbacks, kept := withoutRefused(callbacks, decisions)
	leaseEnds := time.Now().Add(relay.Lease)
	to := s.tell()
	var b pgx.Batch
	queueEvents(&b, callbacks, kept)
	deliveries := queueEffects(&b, to, callbacks, kept, lease, leaseEnds)
	queueParked(&b, callbacks, kept)
	queueQuestions(&b, kept)
	b.Queue("COMMIT")
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return nil, nil, translate("committing callbacks", err)
	}
	s.isOut(to)
	return decisions, leased(deliveries), nil
}

// release gives a connection back, ending a transaction that a failed step
// left open. Without it the pool would close the connection, and one poisonous
// callback would cost everybody a reconnect.
func release(conn *pgxpool.Conn) {
	if conn.Conn().PgConn().TxStatus() != 'I' && !conn.Conn().IsClosed() {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		_, _ = conn.Exec(ctx, "ROLLBACK")
	}
	conn.Release()
}

// waitColumns are scanned by scanWait.
const waitColumns = `c.id, c.project_id, c.source_ids, c.token, coalesce(c.flow, ''), c.plan_id, c.user_id,
	coalesce(c.conversation, ''), coalesce(c.key, ''), c.custom_vars, c.data, coalesce(c.locale, ''), c.scope,
	c.status, c.created_at, c.expires_at, coalesce(c.payment_id, ''), coalesce(c.late_outcome, ''), c.extended`

func scanWait(row pgx.CollectableRow) (*relay.Wait, error) {
	w := &relay.Wait{}
	return w, row.Scan(waitFields(w)...)
}

// waitFields are where waitColumns go, with room for a few columns more.
func waitFields(w *relay.Wait) []any {
	return append(make([]any, 0, 24), &w.ID, &w.ProjectID, &w.SourceIDs, &w.Token, &w.Flow, &w.PlanID, &w.UserID,
		&w.Conversation, &w.Key, &w.CustomVars, &w.Data, &w.Locale, &w.Scope,
		&w.Status, &w.CreatedAt, &w.ExpiresAt, &w.PaymentID, &w.LateOutcome, &w.Extended)
}

// lockFacts locks every wait that the callbacks may name, in id order, and
// looks for events with their dedupe keys: in a statement after the lock, so
// that it sees what was committed while the lock was waited for. It opens the
// transaction, unless one is open.
func lockFacts(ctx context.Context, conn *pgx.Conn, callbacks []relay.Callback, names []Names) (*Facts, error) {
	var tokens []string
	var refs []uuid.UUID
	for _, n := range names {
		tokens = append(tokens, n.Tokens...)
		refs = append(refs, n.Refs...)
	}
	keys := dedupeKeys(callbacks)

	var b pgx.Batch
	opens := conn.PgConn().TxStatus() == 'I'
	if opens {
		b.Queue("BEGIN")
	}
	b.Queue(`
		SELECT `+waitColumns+`, n.refs, n.keys, n.key_active
		FROM (SELECT id, array_agg(ref) FILTER (WHERE NOT of_caller) AS refs, array_agg(ref) FILTER (WHERE of_caller) AS keys,
		             coalesce(bool_or(key_active), false) AS key_active
		      FROM (SELECT id, NULL::uuid AS ref, NULL::boolean AS of_caller, NULL::boolean AS key_active
		            FROM correlations WHERE token = ANY($1::text[])
		            UNION ALL
		            SELECT correlation_id, ref, key_active IS NOT NULL, key_active
		            FROM correlation_refs WHERE ref = ANY($2::uuid[])) named
		      GROUP BY id) n
		JOIN correlations c ON c.id = n.id
		ORDER BY c.id
		FOR UPDATE OF c`, tokens, refs)
	b.Queue(`SELECT dedupe_key, id, correlation_id, body IS NULL, `+stillAsked(callbacks)+` FROM events e WHERE dedupe_key = ANY($1::uuid[])`, keys)
	results := conn.SendBatch(ctx, &b)
	facts, err := readFacts(results, opens)
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	for i := range callbacks {
		c := &callbacks[i]
		if c.DedupeKey == nil {
			continue
		}
		if _, taken := facts.Originals[*c.DedupeKey]; !taken {
			facts.Originals[*c.DedupeKey] = c.ID // the first of the batch
		}
	}
	return facts, nil
}

func newFacts() *Facts {
	return &Facts{
		Waits:     map[uuid.UUID]*relay.Wait{},
		ByToken:   map[string]*relay.Wait{},
		ByRef:     map[uuid.UUID][]RefHit{},
		Originals: map[[16]byte]uuid.UUID{},
		originals: map[uuid.UUID]original{},
	}
}

func readFacts(results pgx.BatchResults, opened bool) (*Facts, error) {
	f := newFacts()
	if opened {
		if _, err := results.Exec(); err != nil { // BEGIN
			return nil, err
		}
	}
	rows, _ := results.Query()
	if err := readWaits(rows, f); err != nil {
		return nil, err
	}
	rows, _ = results.Query()
	var key, owner uuid.UUID
	var first original
	_, err := pgx.ForEachRow(rows, []any{&key, &owner, &first.wait, &first.blanked, &first.asked}, func() error {
		f.Originals[key], f.originals[owner] = owner, first
		return nil
	})
	return f, err
}

// readWaits reads the locked waits, each with those of the callbacks' names
// that it goes by besides its token. The waits are as they are now, their
// names as they were when the statement began: before it waited for a lock.
// A name that another batch taught the wait meanwhile is missing, and taught
// once more it makes this batch conflict. A key whose wait has ended meanwhile
// may name a newer one. Either way the batch is repeated.
func readWaits(rows pgx.Rows, f *Facts) error {
	defer rows.Close()
	for rows.Next() {
		w := &relay.Wait{}
		var refs, keys []uuid.UUID
		var keyActive bool
		if err := rows.Scan(append(waitFields(w), &refs, &keys, &keyActive)...); err != nil {
			return err
		}
		if keyActive && w.Status != relay.Pending {
			return errOvertaken
		}
		f.Waits[w.ID] = w
		f.ByToken[w.Token] = w
		for _, ref := range refs {
			f.ByRef[ref] = append(f.ByRef[ref], RefHit{Wait: w})
		}
		for _, key := range keys {
			f.ByRef[key] = append(f.ByRef[key], RefHit{Wait: w, Key: true})
		}
	}
	return rows.Err()
}

// dedupeKeys lists the keys of a batch.
func dedupeKeys(callbacks []relay.Callback) []uuid.UUID {
	keys := make([]uuid.UUID, 0, len(callbacks))
	for i := range callbacks {
		if c := &callbacks[i]; c.DedupeKey != nil {
			keys = append(keys, uuid.UUID(*c.DedupeKey))
		}
	}
	return keys
}

// eventRows are the events of a batch, column by column.
type eventRows struct {
	projects, sources          []int64
	ids                        []uuid.UUID
	received                   []time.Time
	verdicts, matches, rules   []string
	formats                    []string
	reasons, outcomes, types   []*string
	providerIDs, tokens        []*string
	dedupeKeys                 []*uuid.UUID
	payments, forms            []*string
	correlations, duplicatesOf []*uuid.UUID
}

func newEventRows(callbacks []relay.Callback, decisions []Decision) *eventRows {
	n := len(callbacks)
	r := &eventRows{
		projects: make([]int64, n), sources: make([]int64, n),
		ids: make([]uuid.UUID, n), received: make([]time.Time, n),
		verdicts: make([]string, n), matches: make([]string, n), rules: make([]string, n), formats: make([]string, n),
		reasons: make([]*string, n), outcomes: make([]*string, n), types: make([]*string, n),
		providerIDs: make([]*string, n), tokens: make([]*string, n), dedupeKeys: make([]*uuid.UUID, n),
		payments: make([]*string, n), forms: make([]*string, n),
		correlations: make([]*uuid.UUID, n), duplicatesOf: make([]*uuid.UUID, n),
	}
	for i := range callbacks {
		c, d := &callbacks[i], &decisions[i]
		r.projects[i], r.sources[i], r.ids[i], r.received[i] = c.ProjectID, c.SourceID, c.ID, c.ReceivedAt
		r.verdicts[i], r.matches[i], r.rules[i] = string(c.Verdict), string(d.Match), d.Rule
		r.formats[i] = string(c.Reading.Format)
		r.reasons[i], r.outcomes[i], r.types[i] = optional(clean(c.Reason)), optional(string(d.Outcome)), optional(clean(c.Reading.Type))
		r.providerIDs[i], r.tokens[i] = optional(clean(c.Reading.EventID)), optional(clean(d.Token))
		if d.Wait != nil {
			r.correlations[i] = &d.Wait.ID
		} else {
			r.correlations[i] = d.original.wait
		}
		if d.DuplicateOf != uuid.Nil {
			r.duplicatesOf[i] = &d.DuplicateOf
		} else if c.DedupeKey != nil && d.takesKey() {
			r.dedupeKeys[i] = (*uuid.UUID)(c.DedupeKey)
		}
		switch {
		case oversized(c, d):
		case ofErased(d):
			r.payments[i] = paymentJSON(withoutPayer(c.Reading.Payment))
		default:
			r.payments[i], r.forms[i] = paymentJSON(c.Reading.Payment), formJSON(c.Reading.Form)
		}
	}
	return r
}

// queueEvents queues one insert for all the events of a batch.
func queueEvents(b *pgx.Batch, callbacks []relay.Callback, decisions []Decision) {
	n := len(callbacks)
	headers, requests := make([]*string, n), make([]*string, n)
	bodies, packings := make([][]byte, n), make([]int64, n)
	for i := range callbacks {
		c, d := &callbacks[i], &decisions[i]
		if !oversized(c, d) && !ofErased(d) {
			headers[i], requests[i] = optional(string(c.Headers)), requestJSON(c)
			bodies[i], packings[i] = pack(c.Body)
		}
	}
	r := newEventRows(callbacks, decisions)
	b.Queue(`
		INSERT INTO events (project_id, source_id, id, received_at, verdict, match, rule, format,
		                    reason, outcome, type, provider_event_id, token,
		                    payment, form, headers, correlation_id, duplicate_of, dedupe_key, body, packing, request)
		SELECT e.project_id, e.source_id, e.id, e.received_at, e.verdict, e.match, e.rule, e.format,
		       e.reason, e.outcome, e.type, e.provider_event_id, e.token,
		       e.payment::json, e.form::json, e.headers::json, e.correlation_id, e.duplicate_of, e.dedupe_key, e.body, e.packing, e.request::json
		FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[],
		            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
		            $14::text[], $15::text[], $16::text[], $17::uuid[], $18::uuid[], $19::uuid[], $20::bytea[], $21::bigint[], $22::text[])
		  AS e (project_id, source_id, id, received_at, verdict, match, rule, format,
		        reason, outcome, type, provider_event_id, token,
		        payment, form, headers, correlation_id, duplicate_of, dedupe_key, body, packing, request)
		ORDER BY e.dedupe_key`,
		r.projects, r.sources, r.ids, r.received, r.verdicts, r.matches, r.rules, r.formats,
		r.reasons, r.outcomes, r.types, r.providerIDs, r.tokens,
		r.payments, r.forms, headers, r.correlations, r.duplicatesOf, r.dedupeKeys, bodies, packings, requests)
}

// queueEffects queues what a batch does to its waits, and returns the
// deliveries it will have created, as queueChanges does.
func queueEffects(
	b *pgx.Batch, to *telling, callbacks []relay.Callback, decisions []Decision, lease uuid.UUID, leaseEnds time.Time,
) []relay.Delivery {
	var changes []waitChange
	var refs, refWaits []uuid.UUID
	var refProjects []int64
	var deliveries []relay.Delivery
	for i := range decisions {
		c, d := &callbacks[i], &decisions[i]
		if d.Wait == nil {
			continue
		}
		if d.Step.Closes != "" || d.Step.Late || d.Step.Extends {
			changes = append(changes, waitChange{
				wait: d.Wait, step: d.Step, by: "event", eventID: c.ID,
				paymentID: c.Reading.Payment.Identity(), extendBy: d.ExtendBy,
			})
		}
		for _, ref := range d.Teaches {
			refs, refWaits, refProjects = append(refs, ref), append(refWaits, d.Wait.ID), append(refProjects, d.Wait.ProjectID)
		}
		if d.Fires != nil {
			deliveries = append(deliveries, *d.Fires)
		}
	}
	queueChanges(b, to, changes, deliveries, lease, leaseEnds)
	if len(refs) > 0 {
		b.Queue(`
			INSERT INTO correlation_refs (ref, correlation_id, project_id)
			SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])`, refs, refWaits, refProjects)
	}
	queueAskable(b, callbacks, decisions)
	queueNews(b, append(newsOf(to, changes), newsOfCallbacks(to, callbacks, decisions)...))
	return deliveries
}

func paymentJSON(p *relay.Payment) *string {
	if p == nil {
		return nil
	}
	return mustJSON(p)
}

func formJSON(f map[string]any) *string {
	if f == nil {
		return nil
	}
	return mustJSON(f)
}

// mustJSON writes values that came out of a decoder and can be written again.
// The columns are json, not jsonb: no number is too big for them and no escape
// refused, so that what a stranger sends cannot fail the statement.
func mustJSON(v any) *string {
	raw, err := json.Marshal(v)
	if err != nil {
		raw = []byte("null")
	}
	return optional(string(raw))
}

// optional makes an empty string NULL.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// clean makes provider text storable: text holds neither NUL nor invalid
// UTF-8, and no honest type is longer than the bound of a reference.
func clean(s string) string {
	s = cleanText(s)
	if len(s) > relay.MaxReference {
		s = strings.ToValidUTF8(s[:relay.MaxReference], "")
	}
	return s
}

// cleanText makes text of any length storable.
func cleanText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}
