package intake_test

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"relay.example/relay/internal/deliver"
	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
	"relay.example/relay/internal/sweeper"
)

// The credentials of the histories.
const (
	historyKey = "api-key-of-the-histories"
	tillSecret = "secret-of-the-till-of-the-histories"
)

// till is a preset whose every type is an outcome.
const till = `{"name": "till", "title": "The till",
	"auth": {"alg": "hmac-sha256", "sig": {"from": "header:X-Signature"}, "enc": "hex", "message": "{body}"},
	"id": "{json:id}", "type": "{json:type}",
	"outcome": [{"type": "completed", "is": "completed"}, {"type": "failed", "is": "failed"}, {"type": "cancelled", "is": "cancelled"},
		{"type": "expired", "is": "expired"}, {"type": "attempt_failed", "is": "attempt_failed"}, {"type": "processing", "is": "processing"},
		{"type": "refunded", "is": "refunded"}, {"type": "disputed", "is": "disputed"}],
	"correlation": ["json:token", "json:key"], "references": [{"kind": "order", "from": "{json:ref}"}],
	"payment": {"id": "{json:payment}", "currency": "{json:currency}", "amount_minor": "{json:amount}"}}`

// world is two whole nodes over one database, and the platform that they call.
// One serves all histories of a test, each on empty tables.
type world struct {
	url   string
	conn  *pgx.Conn // looks on
	door  *door
	nodes []*wholeNode
	dead  []uuid.UUID // leases of nodes that crashed
}

// wholeNode is a node whose loops do not run: each pass is called. What it
// holds in memory is lost when it crashes.
type wholeNode struct {
	name      string
	store     *store.Store
	directory *directory.Directory
	plans     *plan.Cache
	client    *egress.Client
	sweeper   *sweeper.Sweeper
	handler   http.Handler
	passing   sync.Mutex // a node makes one pass at a time

	mu     sync.Mutex
	in     *intake.Intake
	held   []relay.Delivery // handed over, and not yet sent
	gather *gathering       // of callbacks that are to be one batch
}

// gathering commits callbacks together once all have come.
type gathering struct {
	mu       sync.Mutex
	left     int
	batch    []relay.Callback
	receipts []relay.Receipt
	errs     []error
	done     chan struct{}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{url: storetest.URL(t, true), door: newDoor(t)}
	var err error
	if w.conn, err = pgx.Connect(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close(context.Background()) })
	for _, name := range []string{"A", "B"} {
		w.nodes = append(w.nodes, newWholeNode(t, w.url, name))
	}
	w.configure(t)
	return w
}

func newWholeNode(t *testing.T, url, name string) *wholeNode {
	t.Helper()
	n := &wholeNode{name: name, store: storetest.Open(t, url, keys(t))}
	n.plans = plan.NewCache(n.store.Plan)
	log := leaks.Logger(t)
	policy, err := egress.ParsePolicy("true")
	if err != nil {
		t.Fatal(err)
	}
	n.client = egress.New(egress.Config{Policy: policy})
	t.Cleanup(n.client.Close)
	if n.directory, err = directory.New(directory.Config{Store: n.store, PublicURL: "http://relay.example", Policy: policy, Log: log}); err != nil {
		t.Fatal(err)
	}
	if err := n.directory.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.sweeper, err = sweeper.New(sweeper.Config{
		Store: n.store, Plans: n.plans, HandOver: n.hold, Log: log,
		MatchParked: func(ctx context.Context) (int, error) { return n.in.MatchParkedOnce(ctx) },
		Replay:      func(ctx context.Context) (int, error) { return n.in.ReplayOnce(ctx) },
	}); err != nil {
		t.Fatal(err)
	}
	h, err := handlers.New(handlers.Config{
		Store: n.store, Directory: n.directory, Intake: n, Plans: n.plans, HandOver: n.hold, Wake: func() {},
		PublicURL: "http://relay.example", Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.handler = h.Server().Handler
	n.crash(t)
	return n
}

// crash forgets what the node holds in memory: deliveries that it was to send
// and names that it was to look for.
func (n *wholeNode) crash(t rapid.TB) {
	t.Helper()
	in, err := intake.New(intake.Config{
		Store: n.store, Plans: n.plans, Directory: n.directory, HandOver: n.hold, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.in, n.held, n.gather = in, nil, nil
}

func (n *wholeNode) hold(ds []relay.Delivery) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = append(n.held, ds...)
}

// take returns what the node is to send.
func (n *wholeNode) take() []relay.Delivery {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := n.held
	n.held = nil
	return held
}

// leases are those of what the node is to send.
func (n *wholeNode) leases() (leases []uuid.UUID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.held {
		leases = append(leases, d.Lease)
	}
	return leases
}

// receiptOf is where a request wants its callback's receipt.
type receiptOf struct{}

// Accept commits one callback as a batch, or with those that are gathered.
func (n *wholeNode) Accept(ctx context.Context, c relay.Callback) (relay.Receipt, error) {
	n.mu.Lock()
	g := n.gather
	n.mu.Unlock()
	if g == nil {
		g = &gathering{left: 1, done: make(chan struct{})}
	}
	receipt, err := g.commit(n.in, c)
	if to, ok := ctx.Value(receiptOf{}).(*relay.Receipt); ok {
		*to = receipt
	}
	return receipt, err
}

// Register registers one wait.
func (n *wholeNode) Register(_ context.Context, r store.Registration) (store.Registered, error) {
	registered, errs := n.in.RegisterTogether([]store.Registration{r})
	return registered[0], errs[0]
}

// commit commits c with the others, all in the order of their ids: that in
// which they have come is never the same twice.
func (g *gathering) commit(in *intake.Intake, c relay.Callback) (relay.Receipt, error) {
	g.mu.Lock()
	g.batch = append(g.batch, c)
	if g.left--; g.left == 0 {
		slices.SortFunc(g.batch, func(a, b relay.Callback) int { return cmp.Compare(a.Reading.EventID, b.Reading.EventID) })
		g.receipts, g.errs = in.CommitTogether(g.batch)
		close(g.done)
	}
	g.mu.Unlock()
	<-g.done
	at := slices.IndexFunc(g.batch, func(other relay.Callback) bool { return other.ID == c.ID })
	return g.receipts[at], g.errs[at]
}

// configure makes the objects of the histories by the API.
func (w *world) configure(t *testing.T) {
	t.Helper()
	a := w.nodes[0]
	project := a.directory.Current().Project(relay.DefaultProject).ID
	if err := a.directory.Change(t.Context(), func(c *store.Change) error {
		return c.PutKey(t.Context(), relay.NewAPIKey(historyKey, project, "all", relay.ScopeAdmin))
	}); err != nil {
		t.Fatal(err)
	}
	put := func(path, object string) {
		if status, body := a.call(t.Context(), http.MethodPut, path, object); status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, body)
		}
	}
	put("/v1/destinations/bot", `{"platform": "certainly", "token": "t", "base_url": "`+w.door.URL+`/bot"}`)
	put("/v1/destinations/careful", `{"platform": "certainly", "token": "t", "base_url": "`+w.door.URL+`/careful", "on_unknown": "hold"}`)
	put("/v1/sources/till", `{"secret": "`+tillSecret+`", "provider": `+till+`}`)
	for name, flow := range flows {
		on := map[string]any{}
		for _, action := range flow.on {
			on[action] = map[string]any{"module_id": 1, "custom_vars": map[string]any{
				"token": "{{ correlation.token }}", "outcome": "{{ outcome }}", "action": action, "number": "{{ event.number }}",
			}}
		}
		object, err := json.Marshal(map[string]any{
			"destination": flow.destination, "source": "till", "expires_in": "1h", "expect": map[string]any{"currency": "EUR"}, "on": on,
		})
		if err != nil {
			t.Fatal(err)
		}
		put("/v1/flows/"+name, string(object))
	}
	if err := w.nodes[1].directory.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// call makes a request of the node's API, without a network.
func (n *wholeNode) call(ctx context.Context, method, path, body string, headers ...string) (int, string) {
	req := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+historyKey)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	n.handler.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func signTill(body string) string {
	mac := hmac.New(sha256.New, []byte(tillSecret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// query reads one JSON document.
func (w *world) query(t rapid.TB, into any, sql string, args ...any) {
	t.Helper()
	var raw []byte
	if err := w.conn.QueryRow(context.Background(), sql, args...).Scan(&raw); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func (w *world) exec(t rapid.TB, sql string, args ...any) {
	t.Helper()
	if _, err := w.conn.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// clear empties the tables for the next history.
func (w *world) clear(t rapid.TB) {
	t.Helper()
	w.exec(t, `DELETE FROM correlations; DELETE FROM deadlines; DELETE FROM correlation_refs; DELETE FROM idempotency_keys;
		DELETE FROM events; DELETE FROM parked_refs; DELETE FROM replays;
		DELETE FROM deliveries; DELETE FROM attempts`)
	for _, n := range w.nodes {
		n.crash(t)
	}
	w.door.clear()
	w.dead = nil
}

// deliverPass has nodes send what they hold and what is due until nothing is
// left to do but calls that the platform holds. It returns how to end it.
type deliverPass struct {
	w       *world
	cancels []context.CancelFunc
	ended   []chan error
}

// begin starts the engines of nodes. Each serves one pass; what is known of
// deliveries between two passes is in rows, and in what the nodes hold.
func (w *world) begin(t rapid.TB, grace time.Duration, nodes ...*wholeNode) *deliverPass {
	t.Helper()
	p := &deliverPass{w: w}
	for _, n := range nodes {
		e, err := deliver.New(deliver.Config{
			Store: n.store, Directory: n.directory, Plans: n.plans, Client: n.client, Log: slog.New(slog.DiscardHandler), Grace: grace,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		e.HandOver(n.take())
		p.cancels, p.ended = append(p.cancels, cancel), append(p.ended, ended)
	}
	return p
}

// quiet waits until nothing is due, and no call is under way but those that
// the door holds. It reports whether that has come to be in time: a machine may
// stand still for some seconds, and a history that fails is played many times.
func (p *deliverPass) quiet(t rapid.TB) bool {
	t.Helper()
	aside := []uuid.UUID{}
	for _, n := range p.w.nodes {
		aside = append(aside, n.leases()...)
	}
	aside = append(aside, p.w.dead...)
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var left struct{ Due, Leased int }
		p.w.query(t, &left, `
			SELECT json_build_object('due', count(*) FILTER (WHERE due_at <= now()),
			                         'leased', count(*) FILTER (WHERE lease IS NOT NULL AND lease <> ALL ($1::uuid[])))
			FROM deliveries`, aside)
		if left.Due == 0 && left.Leased <= p.w.door.waiting() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
}

// stop stops the engines.
func (p *deliverPass) stop() (err error) {
	for i, cancel := range p.cancels {
		cancel()
		if ended := <-p.ended[i]; ended != nil {
			err = ended
		}
	}
	p.cancels = nil
	return err
}

// call is one call that came to the platform's door.
type call struct {
	Token        string `json:"token"`
	Outcome      string `json:"outcome"`
	Action       string `json:"action"`
	Number       int    `json:"number"`
	conversation string
	answer       string
	told         bool // it was held, and no longer is
}

// door is the platform. It answers the first calls of each conversation as a
// history says, and takes those that follow.
type door struct {
	*httptest.Server
	mu       sync.Mutex
	answers  []string
	calls    []*call
	asked    map[string]int // calls of a conversation since then
	underway map[string]bool
	twice    string        // the conversation that was called twice at a time
	gate     chan struct{} // closed when held calls may be answered
	held     int           // calls that wait for that
	leaving  sync.WaitGroup
}

// The answers of the door.
const (
	takes   = "ok"
	busy    = "busy"    // try again, in a while
	refuses = "refused" // never try again
	cuts    = "cut"     // takes it, and breaks the connection
	holds   = "held"    // takes it when the gate is opened
)

func newDoor(t *testing.T) *door {
	d := &door{}
	d.clear()
	d.Server = httptest.NewServer(http.HandlerFunc(d.serve))
	t.Cleanup(d.Close)
	return d
}

func (d *door) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers, d.calls, d.underway, d.twice = nil, nil, map[string]bool{}, ""
	d.asked = map[string]int{}
	d.gate, d.held = make(chan struct{}), 0
}

// next has the door answer the next calls so.
func (d *door) next(answers ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers, d.asked = answers, map[string]int{}
}

// waiting is how many calls wait before the gate.
func (d *door) waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held
}

// overlap is the conversation that was called twice at a time, if one was.
func (d *door) overlap() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.twice
}

// came lists the calls in the order in which they came.
func (d *door) came() []*call {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// open lets the calls that wait go on, and returns once they have left.
func (d *door) open() {
	d.mu.Lock()
	d.held, d.answers = 0, nil
	for _, c := range d.calls {
		c.told = true
	}
	close(d.gate)
	d.gate = make(chan struct{})
	d.mu.Unlock()
	d.leaving.Wait()
}

func (d *door) serve(rw http.ResponseWriter, r *http.Request) {
	var body struct {
		UserID string `json:"user_id"`
		Vars   call   `json:"custom_vars"`
	}
	raw, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(raw, &body); err != nil {
		rw.WriteHeader(http.StatusTeapot)
		return
	}
	to, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	c := &body.Vars
	c.conversation = to + " " + body.UserID
	gate := d.enter(c)
	if gate != nil {
		<-gate
	}
	d.mu.Lock()
	d.underway[c.conversation] = false
	d.mu.Unlock()
	if gate != nil {
		d.leaving.Done()
	}
	switch c.answer {
	case busy:
		rw.Header().Set("Retry-After", "600")
		rw.WriteHeader(http.StatusServiceUnavailable)
	case refuses:
		rw.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(rw, `{"error": "module_id not found for the given bot"}`)
	case cuts:
		if conn, _, err := http.NewResponseController(rw).Hijack(); err == nil {
			_ = conn.Close()
		}
	default:
		_, _ = io.WriteString(rw, `{"message": "ok", "error": []}`)
	}
}

// enter notes a call and says how it is answered; gate is what it waits for.
func (d *door) enter(c *call) (gate chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.underway[c.conversation] {
		d.twice = c.conversation
	}
	d.underway[c.conversation] = true
	c.answer = takes
	if n := d.asked[c.conversation]; n < len(d.answers) {
		c.answer = d.answers[n]
	}
	d.asked[c.conversation]++
	d.calls = append(d.calls, c)
	if c.answer != holds {
		return nil
	}
	d.held++
	d.leaving.Add(1)
	return d.gate
}

// seen is all that there is in the tables, with tokens for waits.
type seen struct {
	Waits []struct {
		Token, Status, By, Key string
		ID                     uuid.UUID
		Late, Extended         bool
		Deadline, KeyActive    bool
	}
	Events []struct {
		ID          uuid.UUID
		Match, Rule string
		Wait        string
		Parked      bool
	}
	Deliveries []*owed
	Slots      []struct{ Conversation, Delivery uuid.UUID }
}

// owed is one delivery as it stands.
type owed struct {
	ID, Conversation        uuid.UUID
	Token, Outcome, Action  string
	Attempts                int
	firing                  string
	Status, Class, At       string // At: the destination's name
	Event                   *uuid.UUID
	Due, Leased, ByHand, On bool // On: its wait is pending
	Lease                   uuid.UUID
}

func (o *owed) ended() bool { return o.Status != "scheduled" && o.Status != "sending" }

const seenSQL = `
	SELECT json_build_object(
	    'waits', (SELECT coalesce(json_agg(json_build_object('token', token, 'id', id, 'status', status, 'by', coalesce(resolved_by, ''), 'key', coalesce(key, ''),
	                  'late', late_at IS NOT NULL, 'extended', extended, 'deadline', EXISTS (SELECT FROM deadlines d WHERE d.correlation_id = c.id),
	                  'keyactive', EXISTS (SELECT FROM correlation_refs r WHERE r.correlation_id = c.id AND r.key_active)) ORDER BY id), '[]')
	              FROM correlations c),
	    'events', (SELECT coalesce(json_agg(json_build_object('id', e.id, 'match', match, 'rule', rule, 'wait', coalesce(c.token, ''),
	                  'parked', EXISTS (SELECT FROM parked_refs p WHERE p.event_id = e.id)) ORDER BY e.id), '[]')
	               FROM events e LEFT JOIN correlations c ON c.id = e.correlation_id),
	    'deliveries', (SELECT coalesce(json_agg(json_build_object('id', d.id, 'conversation', d.conversation, 'token', c.token, 'outcome', d.outcome,
	                  'action', d.action, 'event', d.event_id, 'attempts', attempts, 'status', d.status, 'class', coalesce(class, ''), 'at', t.name,
	                  'due', due_at IS NOT NULL, 'leased', lease IS NOT NULL, 'lease', coalesce(lease, '00000000-0000-0000-0000-000000000000'), 'byhand', by_hand, 'on', c.status = 'pending') ORDER BY d.id), '[]')
	               FROM deliveries d JOIN correlations c ON c.id = d.correlation_id JOIN destinations t ON t.id = d.destination_id),
	    'slots', (SELECT coalesce(json_agg(json_build_object('conversation', conversation, 'delivery', id)), '[]')
	              FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'))`
