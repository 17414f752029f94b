package store

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// News is told by hooks: rows that are born in the transaction of what they
// tell, and so are there if and only if it has happened. One statement at the
// end of a batch writes all of them, from the rows as the batch has left them,
// for each subscription that hears of it.
//
// Whether there is anything to write a node asks its memory: the audience, as
// it was when it last read the configuration. Where nobody listens no
// statement is another than it was. A subscription is heard of within the
// second in which any change of the configuration is; one that is gone is
// found gone by the statement, which joins the table.

// audience is who listens to what: of each project, the kinds of news that
// somebody is told.
type audience map[int64]map[relay.News]bool

// telling is what one transaction tells.
type telling struct {
	to   audience
	told bool // somebody hears of something in it
}

// hears reports whether anybody of a project is told of any of some news.
func (t *telling) hears(project int64, kinds ...relay.News) bool {
	heard := t.to[project] // mostly there is none, and the map is nil
	hears := heard != nil && slices.ContainsFunc(kinds, func(n relay.News) bool { return heard[n] })
	t.told = t.told || hears
	return hears
}

// nobody reports whether there is nobody at all who could hear of anything.
func (t *telling) nobody() bool { return len(t.to) == 0 }

func audienceOf(subscriptions []relay.Subscription) audience {
	a := audience{}
	for _, s := range subscriptions {
		if a[s.ProjectID] == nil {
			a[s.ProjectID] = map[relay.News]bool{}
		}
		kinds := []relay.News{s.Event}
		if s.Event == relay.Everything {
			kinds = relay.AllNews
		}
		for _, kind := range kinds {
			a[s.ProjectID][kind] = true
		}
	}
	return a
}

// listeners keeps the audience, and the hint that there is news. It is safe
// for concurrent use.
type listeners struct {
	mu      sync.Mutex // of writers
	version int64      // of the configuration that the audience is of
	now     atomic.Pointer[audience]
	news    chan struct{}
}

func newListeners() *listeners {
	l := &listeners{news: make(chan struct{}, 1)}
	l.now.Store(&audience{})
	return l
}

// learn takes the audience out of a configuration, unless a newer one was
// read meanwhile.
func (l *listeners) learn(c *Configuration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Version < l.version {
		return
	}
	l.version = c.Version
	a := audienceOf(c.Subscriptions)
	l.now.Store(&a)
}

func (s *Store) tell() *telling { return &telling{to: *s.listeners.now.Load()} }

// News hints that this node has committed news. A hint may be lost, and other
// nodes give none: polling is the promise.
func (s *Store) News() <-chan struct{} { return s.listeners.news }

// isOut gives the hint, after the commit, where there is news.
func (s *Store) isOut(t *telling) {
	if !t.told {
		return
	}
	select {
	case s.listeners.news <- struct{}{}:
	default:
	}
}

// news is one piece of news about a wait.
type news struct {
	kind    relay.News
	wait    uuid.UUID
	event   uuid.UUID // the callback that brought it; zero: the one that the wait names, if any
	details *string   // a JSON object of what a person wrote or paid, or nil
}

// newsOf lists what is told of changes.
func newsOf(to *telling, changes []waitChange) (list []news) {
	if to.nobody() {
		return nil
	}
	for _, c := range changes {
		kind := relay.WaitLate
		switch {
		case c.step.Closes != "":
			kind = relay.NewsOf(c.step.Closes)
		case !c.step.Late:
			continue
		}
		if to.hears(c.wait.ProjectID, kind) {
			list = append(list, news{kind: kind, wait: c.wait.ID})
		}
	}
	return list
}

// newsOfCallbacks lists what is told of callbacks besides what they change.
func newsOfCallbacks(to *telling, callbacks []relay.Callback, decisions []Decision) (list []news) {
	if to.nobody() {
		return nil
	}
	for i := range decisions {
		c, d := &callbacks[i], &decisions[i]
		if d.Wait == nil {
			continue
		}
		tell := func(kind relay.News, details func() *string) {
			if to.hears(d.Wait.ProjectID, kind) {
				list = append(list, news{kind: kind, wait: d.Wait.ID, event: c.ID, details: details()})
			}
		}
		payment := func() *string { return toldDetails(d, "payment", c.Reading.Payment.Shown()) }
		done := d.Step.Closes == relay.StatusCompleted || d.Step.Late
		switch {
		case d.Step.Fires == relay.Refunded:
			tell(relay.WaitRefunded, payment)
		case d.Step.Fires == relay.Disputed:
			tell(relay.WaitDisputed, payment)
		case (done || d.Step.Fires == relay.PaidAgain) && c.Reading.Payment != nil:
			tell(relay.CheckoutCompleted, payment)
		}
		if done && c.Reading.Form != nil {
			tell(relay.FormSubmitted, func() *string {
				return toldDetails(d, "form", withoutToken(c.Reading.Form, d.Wait.Token))
			})
		}
	}
	return list
}

// maxDetails is how many bytes of a form are told: a hook is to be taken by
// servers that take 100 kB.
const maxDetails = 64 << 10

// toldDetails is what a callback said, and how it was matched. What is too
// long is null, and fetched by whoever needs it.
func toldDetails(d *Decision, name string, said any) *string {
	details := mustJSON(map[string]any{"match": d.Match, name: said, "truncated": false})
	if len(*details) > maxDetails {
		return mustJSON(map[string]any{"match": d.Match, name: nil, "truncated": true})
	}
	return details
}

// withoutToken leaves the fields of a form out that hold its wait's token.
func withoutToken(form map[string]any, token string) map[string]any {
	out := make(map[string]any, len(form))
	for name, value := range form {
		if raw, err := json.Marshal(value); err == nil && !strings.Contains(string(raw), token) {
			out[name] = value
		}
	}
	return out
}

// The documents that tell of a wait c, brought by the event of g if by any.
// What tells of a person stands apart, so that an erasure can take it.
const (
	toldWait = `json_build_object(
		    'id', c.id, 'status', c.status, 'flow', c.flow, 'resolved_by', c.resolved_by, 'payment_id', c.payment_id,
		    'event_id', coalesce(g.event_id, c.event_id), 'late_outcome', c.late_outcome,
		    'created_at', to_char(c.created_at, ` + toldTime + `), 'expires_at', to_char(c.expires_at, ` + toldTime + `),
		    'resolved_at', to_char(c.resolved_at, ` + toldTime + `), 'late_at', to_char(c.late_at, ` + toldTime + `))`
	toldPerson = `json_build_object('user_id', c.user_id, 'conversation', coalesce(c.conversation, c.user_id), 'key', c.key)`
	toldTime   = `'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'` // sessions are in UTC
)

// queueNews queues the hooks of some news. What it tells of a wait is as the
// statements before it have left it.
func queueNews(b *pgx.Batch, list []news) {
	if len(list) == 0 {
		return
	}
	n := len(list)
	kinds, waits, events, details := make([]string, n), make([]uuid.UUID, n), make([]*uuid.UUID, n), make([]*string, n)
	for i, piece := range list {
		kinds[i], waits[i], events[i], details[i] = string(piece.kind), piece.wait, optionalID(piece.event), piece.details
	}
	b.Queue(`
		INSERT INTO hooks (project_id, subscription_id, event, correlation_id, payload, personal, give_up_at)
		SELECT c.project_id, s.id, g.kind, c.id,
		       `+toldWait+`,
		       CASE WHEN c.user_id <> '' AND g.details IS NULL THEN `+toldPerson+`
		            WHEN c.user_id <> '' THEN (left(`+toldPerson+`::text, -1) || ', ' || substr(g.details, 2))::json END,
		       clock_timestamp() + $5 * interval '1 second'
		FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[]) WITH ORDINALITY AS g (kind, id, event_id, details, nth)
		JOIN correlations c ON c.id = g.id
		JOIN subscriptions s ON s.project_id = c.project_id AND s.event IN (g.kind, '*')
		ORDER BY g.nth`, kinds, waits, events, details, relay.HookRetryFor.Seconds())
}

// tellSuperseded is a part of a statement whose CTE closed returns waits that
// it has superseded, all of their columns: the hooks that tell of them. $2 is
// for how long they are tried.
const tellSuperseded = `, told AS (
		    INSERT INTO hooks (project_id, subscription_id, event, correlation_id, payload, personal, give_up_at)
		    SELECT c.project_id, s.id, 'correlation.superseded', c.id, ` + toldWait + `, CASE WHEN c.user_id <> '' THEN ` + toldPerson + ` END,
		           clock_timestamp() + $2 * interval '1 second'
		    FROM closed c
		    CROSS JOIN (SELECT NULL::uuid AS event_id) g
		    JOIN subscriptions s ON s.project_id = c.project_id AND s.event IN ('correlation.superseded', '*')
		)`

// deliveryNews are the kinds of news that the end of a delivery can be.
var deliveryNews = []relay.News{relay.DeliveryDelivered, relay.DeliveryDead, relay.DeliveryUnknown, relay.ConversationResumed}

// queueAttemptNews queues the hooks of deliveries that recorded attempts have
// brought to an end.
func queueAttemptNews(b *pgx.Batch, to *telling, attempts []relay.Attempt, order []int) {
	if to.nobody() {
		return
	}
	projects, ids := make([]int64, len(order)), make([]uuid.UUID, len(order))
	for i, from := range order {
		projects[i], ids[i] = attempts[from].ProjectID, attempts[from].DeliveryID
	}
	queueDeliveryNews(b, to, projects, ids)
}

// queueDeliveryNews queues the hooks of deliveries that this very transaction
// has brought to an end, of those that are given: what another one did is told
// by that.
func queueDeliveryNews(b *pgx.Batch, to *telling, projects []int64, ids []uuid.UUID) {
	if to.nobody() || !slices.ContainsFunc(projects, func(id int64) bool { return to.hears(id, deliveryNews...) }) {
		return
	}
	b.Queue(`
		INSERT INTO hooks (project_id, subscription_id, event, correlation_id, payload, personal, give_up_at)
		SELECT d.project_id, s.id, k.kind, d.correlation_id,
		       json_build_object(
		           'id', d.id, 'correlation_id', d.correlation_id, 'event_id', d.event_id, 'flow', c.flow,
		           'destination', t.name, 'platform', t.platform, 'outcome', d.outcome, 'action', d.action, 'status', d.status,
		           'attempts', d.attempts, 'class', d.class, 'http_status', d.http_status,
		           'created_at', to_char(d.created_at, `+toldTime+`), 'finished_at', to_char(d.finished_at, `+toldTime+`)),
		       CASE WHEN c.user_id <> '' THEN
		           (left(`+toldPerson+`::text, -1) || ', "reason" : ' || coalesce(to_json(d.reason)::text, 'null') || '}')::json END,
		       clock_timestamp() + $3 * interval '1 second'
		FROM unnest($1::bigint[], $2::uuid[]) WITH ORDINALITY AS g (project_id, id, nth)
		JOIN deliveries d ON d.project_id = g.project_id AND d.id = g.id
		JOIN correlations c ON c.id = d.correlation_id
		LEFT JOIN destinations t ON t.id = d.destination_id
		CROSS JOIN LATERAL (
		    SELECT 'delivery.' || d.status AS kind
		    UNION ALL
		    SELECT 'conversation.resumed' WHERE d.status = 'delivered' AND d.outcome IN ('completed', 'failed', 'cancelled', 'expired')
		) k
		JOIN subscriptions s ON s.project_id = d.project_id AND s.event IN (k.kind, '*')
		WHERE d.status IN ('delivered', 'dead', 'unknown') AND d.xmin = pg_current_xact_id()::xid
		ORDER BY g.nth, k.kind`, projects, ids, relay.HookRetryFor.Seconds())
}

// tellDestination tells that a destination is held, or not any more.
func tellDestination(ctx context.Context, tx pgx.Tx, id int64, kind relay.News, reason string) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO hooks (project_id, subscription_id, event, payload, give_up_at)
		SELECT t.project_id, s.id, $2, json_build_object('destination', t.name, 'platform', t.platform, 'reason', $3::text),
		       clock_timestamp() + $4 * interval '1 second'
		FROM destinations t
		JOIN subscriptions s ON s.project_id = t.project_id AND s.event IN ($2, '*')
		WHERE t.id = $1`, id, string(kind), optional(clean(reason)), relay.HookRetryFor.Seconds())
	return err
}
