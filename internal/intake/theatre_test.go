package intake_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/interleave"
	"relay.example/relay/internal/store/storetest"
	"relay.example/relay/internal/sweeper"
)

// part is what one actor plays with: a node of its own, by its real entries.
type part struct {
	*node
	store   *store.Store
	sweeper *sweeper.Sweeper
	server  http.Handler
}

// theatre is a shop with a part for each actor, and what a run has made. All
// runs share its schema; each has names of its own, and leaves nothing owed.
type theatre struct {
	*shop
	stage *interleave.Stage
	parts []*part
	aside *part // of no actor: for what has happened before
	seat  *pgx.Conn
	run   int

	waits []relay.Wait // of this run, in the order in which they are named

	mu       sync.Mutex
	receipts map[uuid.UUID]relay.Receipt // of this run, by event
}

const adminKey = "an-admin-key-of-the-tests"

func newTheatre(t *testing.T, actors int) *theatre {
	t.Helper()
	th := &theatre{shop: newShop(t)}
	err := th.Store.Configure(t.Context(), func(c *store.Change) error {
		return c.PutKey(t.Context(), relay.NewAPIKey(adminKey, th.ID, "admin", relay.ScopeAdmin))
	})
	if err != nil {
		t.Fatal(err)
	}
	th.aside = newPart(t, th.url, func() {})
	th.stage = interleave.NewStage(t, th.url, actors)
	for i := range actors {
		th.parts = append(th.parts, newPart(t, th.stage.URL(i), func() { th.stage.Leave(i) }))
	}
	known := th.Wait(t, "somebody else")
	for _, n := range th.nodes() {
		// Else the first run alone would ask for the plan.
		if _, err := n.plans.Get(t.Context(), known.PlanID); err != nil {
			t.Fatal(err)
		}
	}
	if th.seat, err = pgx.Connect(t.Context(), th.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = th.seat.Close(context.Background()) })
	return th
}

// nodes lists all nodes that may have been handed something.
func (th *theatre) nodes() []*node {
	nodes := []*node{th.aside.node}
	for _, p := range th.parts {
		nodes = append(nodes, p.node)
	}
	return nodes
}

// taken returns what a node was handed, and has it forget.
func (n *node) taken() []relay.Delivery {
	n.mu.Lock()
	defer n.mu.Unlock()
	ds := n.handedOver
	n.handedOver = nil
	return ds
}

// newPart opens a node on the database at url. leave is called where a request
// has done its work, and goes on to read what it answers.
func newPart(t *testing.T, url string, leave func()) *part {
	t.Helper()
	s := storetest.Open(t, url, keys(t))
	p := &part{node: newNode(t, s), store: s}
	log := leaks.Logger(t)
	var err error
	p.sweeper, err = sweeper.New(sweeper.Config{
		Store: s, Plans: p.plans, HandOver: p.take, MatchParked: p.MatchParkedOnce, Replay: p.ReplayOnce, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := handlers.New(handlers.Config{
		Store: s, Directory: p.directory, Intake: p.Intake, Plans: p.plans, PublicURL: "http://relay.example", Log: log,
		HandOver: func(ds []relay.Delivery) { p.take(ds); leave() }, Wake: leave,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.server = h.Server().Handler
	return p
}

// What the actors do. Each is one request, or one pass, of a node.

// receives takes callbacks as one batch, and then looks for the other side.
func (th *theatre) receives(p *part, callbacks ...relay.Callback) func() error {
	return func() error {
		receipts, errs := p.CommitTogether(callbacks)
		if err := errors.Join(errs...); err != nil {
			return err
		}
		th.mu.Lock()
		for _, r := range receipts {
			th.receipts[r.EventID] = r
		}
		th.mu.Unlock()
		_, err := p.LookNow()
		return err
	}
}

// registers creates a wait, and then looks for the other side.
func registers(p *part, r store.Registration) func() error {
	return func() error {
		if _, errs := p.RegisterTogether([]store.Registration{r}); errs[0] != nil {
			return errs[0]
		}
		_, err := p.LookNow()
		return err
	}
}

// expires is one sweep of what is overdue.
func expires(p *part) func() error {
	return func() error {
		_, err := p.sweeper.ExpireOnce(context.Background())
		return err
	}
}

// cancels ends a wait by the API. A wait that has ended is refused, and that
// is no failure.
func cancels(p *part, w relay.Wait) func() error {
	return func() error {
		return p.post("/v1/correlations/"+w.ID.String()+"/cancel", http.StatusOK, http.StatusConflict)
	}
}

// sweeps looks at all that is parked.
func sweeps(p *part) func() error {
	return func() error {
		_, err := p.MatchParkedOnce(context.Background())
		return err
	}
}

// givesUp ends all that is parked.
func givesUp(p *part) func() error {
	return func() error {
		_, err := p.store.Unpark(context.Background(), 0, 10_000, 100)
		return err
	}
}

// retries makes a delivery due by the API, that has come to rest.
func retries(p *part, d *relay.Delivery) func() error {
	return func() error { return p.post("/v1/deliveries/"+d.ID.String()+"/retry", http.StatusOK) }
}

// skips gives a delivery up by the API. One that is being changed at this
// moment, or has ended, is refused.
func skips(p *part, id uuid.UUID) func() error {
	return func() error {
		return p.post("/v1/deliveries/"+id.String()+"/skip", http.StatusOK, http.StatusConflict)
	}
}

// records writes down that a call has arrived.
func records(p *part, d relay.Delivery) func() error {
	return func() error {
		_, err := p.store.RecordAttempts(context.Background(), []relay.Attempt{attempt(&d, relay.OK)})
		return err
	}
}

// postpones writes down that a call is to be made again in a quarter of an
// hour.
func postpones(p *part, d relay.Delivery) func() error {
	return func() error {
		a := attempt(&d, relay.Retry)
		a.Delay = 15 * time.Minute
		_, err := p.store.RecordAttempts(context.Background(), []relay.Attempt{a})
		return err
	}
}

// claims takes what is due.
func claims(p *part) func() error {
	return func() error {
		ds, err := p.store.ClaimDue(context.Background(), uuid.New(), 100)
		p.take(ds)
		return err
	}
}

// post makes a request with an empty object, and wants one of some answers.
func (p *part) post(path string, want ...int) error {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, path, strings.NewReader(`{}`))
	r.Header.Set("Authorization", "Bearer "+adminKey)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	p.server.ServeHTTP(rec, r)
	if !slices.Contains(want, rec.Code) {
		return fmt.Errorf("%s answers %d %s", path, rec.Code, rec.Body)
	}
	return nil
}

// name makes a name of this run.
func (th *theatre) name(what string) string { return what + "_" + strconv.Itoa(th.run) }

// callback reads a Stripe event, as its bytes are read whenever they are.
func (th *theatre) callback(t testing.TB, body string) relay.Callback {
	t.Helper()
	c, err := th.aside.directory.Current().ReadAgain(relay.Callback{
		ID: relay.NewID(), ProjectID: th.ID, SourceID: th.SourceID, Verdict: relay.Verified, Body: []byte(body), ReceivedAt: time.Now(),
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// told is a callback that names its wait by token; paid one of a payment.
func (th *theatre) told(event string, outcome relay.Outcome, w relay.Wait) relay.Callback {
	return th.Callback(th.name(event), outcome, w.Token)
}

func (th *theatre) paid(event, payment string, w relay.Wait) relay.Callback {
	return th.Paid(th.name(event), th.name(payment), w.Token)
}

// commit takes callbacks before the actors come.
func (th *theatre) commit(t testing.TB, callbacks ...relay.Callback) {
	t.Helper()
	_, errs := th.aside.CommitTogether(callbacks)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// registration is one of a wait of this run, not yet made.
func (th *theatre) registration(t testing.TB, user, key string) store.Registration {
	t.Helper()
	r := th.Registration(t, th.name(user), th.Plan())
	r.Wait.Key = key
	th.waits = append(th.waits, r.Wait)
	return r
}

// pending makes a wait of this run.
func (th *theatre) pending(t testing.TB, key string) relay.Wait {
	t.Helper()
	return th.Register(t, th.registration(t, "user", key))
}

// overdue makes a wait of this run whose deadline has passed.
func (th *theatre) overdue(t testing.TB, user string) relay.Wait {
	t.Helper()
	r := th.registration(t, user, "")
	r.ExpiresIn = -time.Second
	return th.Register(t, r)
}

// hurry lets the deadlines of the run's waits pass.
func (th *theatre) hurry(t testing.TB) {
	t.Helper()
	for _, w := range th.waits {
		for _, sql := range []string{
			`UPDATE correlations SET expires_at = now() - interval '1 second' WHERE id = $1`,
			`UPDATE deadlines SET expires_at = now() - interval '1 second' WHERE correlation_id = $1`,
		} {
			if _, err := th.seat.Exec(context.Background(), sql, w.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// begin makes room for another run.
func (th *theatre) begin() {
	th.run++
	th.waits, th.receipts = nil, map[uuid.UUID]relay.Receipt{}
}

// rest holds what must be true when all have come to rest, and tells how it
// came out.
func (th *theatre) rest(t testing.TB, errs []error) string {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Errorf("%c failed: %v", 'A'+i, err)
		}
	}
	if th.stage.Refused("40P01") {
		t.Error("somebody was the victim of a deadlock")
	}
	said := th.said(t)
	th.deliver(t)
	return said
}

// scan runs one statement and reads the value that it yields.
func scan[T any](t testing.TB, th *theatre, sql string, args ...any) (v T) {
	t.Helper()
	if err := th.seat.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
	return v
}

// said tells the state of the run's waits with what each fired, in order of
// its creation, and what became of the run's events: at first, and in the end.
// A call that some node has in hand is marked with a star.
func (th *theatre) said(t testing.TB) string {
	t.Helper()
	inHand := map[uuid.UUID]bool{}
	for _, n := range th.nodes() {
		for i := range n.handedOver {
			inHand[n.handedOver[i].ID] = true
		}
	}
	var told []string
	for _, w := range th.waits {
		told = append(told, scan[string](t, th, `SELECT coalesce((`+statusSQL+`), 'none')`, w.ID)+":")
		th.each(t, `SELECT id, action, '' FROM deliveries WHERE correlation_id = $1 ORDER BY id`, w.ID, func(id uuid.UUID, action, _ string) {
			if inHand[id] {
				action += "*"
			}
			told[len(told)-1] += " " + action
		})
	}
	th.each(t, `
		SELECT id, split_part(split_part(provider_event_id, '_', 1), '.', 1), rule FROM events
		WHERE provider_event_id LIKE '%\_' || $1::text AND provider_event_id NOT LIKE 'before%'
		ORDER BY provider_event_id, rule, id`, strconv.Itoa(th.run), func(id uuid.UUID, name, rule string) {
		if first := th.receipts[id].Rule; first != "" && first != rule {
			rule = first + " then " + rule
		}
		told = append(told, name+" "+rule)
	})
	return strings.Join(told, ", ")
}

// each reads rows of an id and two texts.
func (th *theatre) each(t testing.TB, sql string, arg any, read func(id uuid.UUID, one, two string)) {
	t.Helper()
	rows, _ := th.seat.Query(context.Background(), sql, arg)
	var id uuid.UUID
	var one, two string
	if _, err := pgx.ForEachRow(rows, []any{&id, &one, &two}, func() error {
		read(id, one, two)
		return nil
	}); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

// deliver makes all calls that are owed, and holds on the way that one of each
// conversation is owed at a time, that nobody waits for a slot that is free,
// and that what a node was handed is what it may send.
func (th *theatre) deliver(t testing.TB) {
	t.Helper()
	var held []relay.Delivery
	for _, n := range th.nodes() {
		held = append(held, n.taken()...)
	}
	for range 20 { // more than any scene owes
		due, err := th.Store.ClaimDue(t.Context(), uuid.New(), 100)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, due...)
		if len(held) == 0 {
			break
		}
		th.record(t, relay.OK, held)
		held = nil
	}
	ids := make([]uuid.UUID, len(th.waits))
	for i, w := range th.waits {
		ids[i] = w.ID
	}
	if n := scan[int](t, th, `SELECT count(*) FROM deliveries WHERE correlation_id = ANY($1) AND status NOT IN ('delivered', 'skipped')`, ids); n != 0 {
		t.Errorf("%d calls were not made", n)
	}
	if left := scan[int](t, th, `
		SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status IN ('held', 'scheduled')`); left != 0 {
		t.Errorf("%d deliveries are left, want none", left)
	}
}

// record writes down how calls ended, which must be of different conversations.
func (th *theatre) record(t testing.TB, class relay.Class, held []relay.Delivery) {
	t.Helper()
	speaking := map[uuid.UUID]uuid.UUID{}
	attempts := make([]relay.Attempt, len(held))
	for i := range held {
		d := &held[i]
		if other, taken := speaking[d.Conversation]; taken {
			t.Errorf("%s may be sent while %s is, in one conversation", d.ID, other)
		}
		speaking[d.Conversation] = d.ID
		attempts[i] = attempt(d, class)
	}
	recorded, err := th.Store.RecordAttempts(t.Context(), attempts)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range recorded {
		if r.Stale {
			t.Errorf("%s was handed over under a lease that is stale", held[i].ID)
		}
	}
}

// attempt is one of a delivery, with what follows from its answer.
func attempt(d *relay.Delivery, class relay.Class) relay.Attempt {
	a := relay.Attempt{ProjectID: d.ProjectID, DeliveryID: d.ID, Lease: d.Lease, Conversation: d.Conversation, OnTheWay: d.Outcome.OnTheWay(), StartedAt: time.Now(), Class: class}
	a.Next, a.Delay = relay.NextTry(class, d.Attempts+1, 0, relay.RetryUnknown, 1)
	return a
}
