package deliver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"relay.example/relay/internal/deliver"
	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// accepted is Certainly's answer to a call that it takes.
const accepted = `{"message": "ok", "error": []}`

// platform is a destination whose answers a test gives.
type platform struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	came   chan string // the user_id of each call as it arrives
}

// newPlatform starts a platform that answers by answer, after the call has
// been told on came.
func newPlatform(t *testing.T, answer http.HandlerFunc) *platform {
	t.Helper()
	p := &platform{came: make(chan string, 4096)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		var call struct {
			UserID string `json:"user_id"`
		}
		if err := json.Unmarshal(raw, &call); err != nil {
			t.Errorf("a call is no JSON: %v", err)
		}
		p.mu.Lock()
		p.bodies = append(p.bodies, string(raw))
		p.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(raw))
		p.came <- call.UserID
		w.Header().Set("Content-Type", "application/json")
		answer(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *platform) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.bodies)
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, accepted) }

// engine is one node's engine over a store.
type engine struct {
	*deliver.Engine
	client    *egress.Client
	directory *directory.Directory
	log       *logLines
	stop      func()
}

// logLines is what an engine has logged.
type logLines struct{ leaks.Log }

// with counts the lines that hold a text.
func (l *logLines) with(text string) int { return len(l.Lines(text)) }

func newEngine(t *testing.T, s *store.Store, grace time.Duration) *engine {
	t.Helper()
	return newEngineOn(t, s, s, grace)
}

// newEngineOn returns an engine that knows the configuration and the plans
// from one store, and the deliveries from another.
func newEngineOn(t *testing.T, s, deliveries *store.Store, grace time.Duration) *engine {
	t.Helper()
	d, client, lines, log := surroundings(t, s)
	plans := plan.NewCache(s.Plan)
	e, err := deliver.New(deliver.Config{Store: deliveries, Directory: d, Plans: plans, Client: client, Log: log, Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	return &engine{Engine: e, client: client, directory: d, log: lines}
}

// surroundings are what both engines stand on: the configuration of a store, a
// client that may call this machine, and a log.
func surroundings(t *testing.T, s *store.Store) (*directory.Directory, *egress.Client, *logLines, *slog.Logger) {
	t.Helper()
	lines := &logLines{}
	log := slog.New(slog.NewTextHandler(leaks.Watch(t, lines), nil))
	policy, err := egress.ParsePolicy("true")
	if err != nil {
		t.Fatal(err)
	}
	d, err := directory.New(directory.Config{Store: s, PublicURL: "http://relay.example", Policy: policy, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := egress.New(egress.Config{Policy: policy})
	t.Cleanup(client.Close)
	return d, client, lines, log
}

// run runs an engine until the test ends or stop is called.
func (e *engine) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.Run(ctx); err != nil {
			t.Errorf("the engine ended with %v", err)
		}
	}()
	e.stop = func() { cancel(); <-done }
	t.Cleanup(e.stop)
	until(t, "the engine runs", e.Running)
}

// follow keeps an engine's configuration current until the test ends.
func (e *engine) follow(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.directory.Run(ctx); err != nil {
			t.Errorf("the directory ended with %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// world is a project with a platform behind its destination.
type world struct {
	*storetest.Project
	url  string
	keys *seal.Ring
	at   *platform
}

func newWorld(t *testing.T, answer http.HandlerFunc) *world {
	t.Helper()
	at := newPlatform(t, answer)
	url := storetest.URL(t, true)
	keys := storetest.Keys(t)
	s := storetest.Open(t, url, keys)
	return &world{Project: storetest.NewProject(t, s, "shop", at.URL), url: url, keys: keys, at: at}
}

// owe registers waits of users and pays them; what that fires is leased to
// the caller.
func (w *world) owe(t *testing.T, p relay.Plan, users ...string) []relay.Delivery {
	t.Helper()
	var handedOver []relay.Delivery
	in, err := intake.New(intake.Config{
		Store: w.Store, Plans: plan.NewCache(w.Store.Plan), Log: leaks.Logger(t),
		HandOver: func(ds []relay.Delivery) { handedOver = append(handedOver, ds...) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- in.Run(ctx) }()
	for _, user := range users {
		wait := w.Register(t, w.Registration(t, user, p))
		if _, err := in.Accept(t.Context(), w.Paid("evt_"+relay.NewToken(), "pi_"+user, wait.Token)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if len(handedOver) != len(users) {
		t.Fatalf("%d deliveries were handed over, want %d", len(handedOver), len(users))
	}
	return handedOver
}

const rowSQL = `
	SELECT concat_ws(' ', status, attempts, class, CASE WHEN lease IS NOT NULL THEN 'leased' END, CASE WHEN due_at <= now() THEN 'due' END)
	FROM deliveries WHERE id = $1`

func (w *world) row(t *testing.T, d relay.Delivery) string {
	t.Helper()
	return storetest.Query[string](t, w.url, rowSQL, d.ID)
}

// becomes waits until the row of a delivery is as wanted.
func (w *world) becomes(t *testing.T, d relay.Delivery, want string) {
	t.Helper()
	var got string
	until(t, "the row is "+want, func() bool { got = w.row(t, d); return got == want }, func() string { return got })
}

func (w *world) endLeases(t *testing.T) {
	t.Helper()
	storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL`)
}

func TestDelivers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	p := w.Plan()
	p.On["completed"] = relay.Action{
		Action: relay.TriggerResponse, ModuleID: 7, DestinationID: w.DestinationID,
		CustomVars: map[string]any{"amount": "{{ payment.amount }}", "missing": "{{ form.nothing }}"},
	}
	d := w.owe(t, p, "u-1")[0]
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	w.becomes(t, d, "delivered 1 ok")
	const want = `{"user_id":"u-1","module_id":7,"wait_time":3,"custom_vars":{"amount":20.5,"missing":null},"is_async":true}`
	if got := w.at.bodies; len(got) != 1 || got[0] != want {
		t.Errorf("the platform received %q, want %q", got, want)
	}
	_, attempts, err := w.Store.Delivery(t.Context(), w.ID, d.ID)
	if err != nil || len(attempts) != 1 {
		t.Fatalf("got %d attempts, %v, want 1", len(attempts), err)
	}
	if a := attempts[0]; a.Class != relay.OK || *a.HTTPStatus != 200 || a.Response != accepted || len(a.Notes) == 0 {
		t.Errorf("the attempt: got %+v, want its answer and a note of what was missing", a)
	}
}

func TestClassesOfAnswers(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = io.WriteString(w, body) }
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"unavailable", answer(503, `{}`), "scheduled 1 retry"},
		{"wrong user", answer(404, `{"error": "Not found"}`), "dead 1 permanent"},
		{"not HTTP", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		}, "scheduled 1 unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.answer)
			d := w.owe(t, w.Plan(), "u-1")[0]
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			e.HandOver([]relay.Delivery{d})
			// A retry may be due again at once: jitter begins at zero.
			until(t, tt.want, func() bool {
				return storetest.Query[int](t, w.url, `SELECT attempts FROM deliveries WHERE id = $1`, d.ID) >= 1
			})
			got := storetest.Query[string](t, w.url, `
				SELECT CASE WHEN d.status = 'dead' THEN 'dead' ELSE 'scheduled' END || ' 1 ' || coalesce(a.class, d.class)
				FROM deliveries d LEFT JOIN attempts a ON a.delivery_id = d.id AND a.number = 1 WHERE d.id = $1`, d.ID)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, ok)
		w.at.Close()
		d := w.owe(t, w.Plan(), "u-1")[0]
		e := newEngine(t, w.Store, time.Second)
		e.run(t)
		e.HandOver([]relay.Delivery{d})
		until(t, "an attempt is recorded", func() bool {
			return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE class = 'retry' AND http_status IS NULL AND reason LIKE 'connect%'`) >= 1
		})
	})
	t.Run("cannot be rendered", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, ok)
		d := w.owe(t, w.Plan(), "u-1")[0]
		d.Action = "no such action"
		e := newEngine(t, w.Store, time.Second)
		e.run(t)
		e.HandOver([]relay.Delivery{d})
		w.becomes(t, d, "dead 1 permanent")
		if w.at.calls() != 0 {
			t.Error("something was sent")
		}
	})
}

// Retries render the very bytes of the first attempt, also when they are
// claimed back from the table.
func TestRetriesUntilDelivered(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	failures := 2
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if failures > 0 {
			failures--
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		ok(rw, r)
	})
	p := w.Plan()
	p.On["completed"] = relay.Action{
		Action: relay.TriggerResponse, ModuleID: 7, DestinationID: w.DestinationID,
		CustomVars: map[string]any{"paid": "{{ payment.amount_text }}", "id": "{{ event.id }}", "status": "{{ correlation.status }}"},
	}
	d := w.owe(t, p, "u-1")[0]
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	for i := range 2 {
		until(t, "attempt "+strconv.Itoa(i+1)+" is recorded", func() bool {
			return storetest.Query[int](t, w.url, `SELECT max(attempts) FROM deliveries`) > i
		})
		storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now() WHERE lease IS NULL AND due_at IS NOT NULL`)
		e.Wake()
	}
	w.becomes(t, d, "delivered 3 ok")
	w.at.mu.Lock()
	defer w.at.mu.Unlock()
	for i, body := range w.at.bodies {
		if body != w.at.bodies[0] {
			t.Errorf("attempt %d sent %s, the first %s", i+1, body, w.at.bodies[0])
		}
	}
}

func TestSlowDestinationDelaysNobody(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { <-gate; ok(rw, r) })
	quick := newPlatform(t, ok)
	quickID := w.AddDestination(t, relay.Destination{Name: "quick", BaseURL: quick.URL})
	slowID := w.AddDestination(t, relay.Destination{Name: "slow", BaseURL: w.at.URL, MaxConcurrency: 2, Timeout: longest})
	to := func(id int64) relay.Plan {
		return relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}}
	}
	slow := w.owe(t, to(slowID), "s-1", "s-2", "s-3", "s-4")
	fast := w.owe(t, to(quickID), "q-1", "q-2")
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	defer close(gate)
	e.HandOver(slow)
	for range 2 {
		receive(t, w.at.came, "a call reaches the slow destination")
	}
	e.HandOver(fast)
	for _, d := range fast {
		w.becomes(t, d, "delivered 1 ok")
	}
	if got := w.at.calls(); got != 2 {
		t.Errorf("%d calls reached the slow destination at once, want its max_concurrency of 2", got)
	}
	for _, d := range slow {
		if got := w.row(t, d); got != "scheduled 0 leased" {
			t.Errorf("a delivery to the slow destination: got %q, want it leased still", got)
		}
	}
}

// What does not fit into memory stays in the table, where the poller finds it.
func TestHandOverIsBounded(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { <-gate; ok(rw, r) })
	id := w.AddDestination(t, relay.Destination{Name: "one", BaseURL: w.at.URL, MaxConcurrency: 1, Timeout: longest})
	p := relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}}
	ds := w.owe(t, p, "first", "filler", "big", "last")
	first, filler, big, last := ds[0], ds[1], ds[2], ds[3]
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{first})
	receive(t, w.at.came, "the first is being sent")
	filler.LeaseEnds, filler.Body = time.Now(), make([]byte, 1<<10) // dropped once it is taken up
	fill := make([]relay.Delivery, deliver.LaneFull)
	for i := range fill {
		fill[i] = filler
	}
	big.Body = make([]byte, 33<<20)
	for _, step := range []struct {
		name string
		add  []relay.Delivery
		want int
	}{
		{"a body beyond the bytes", []relay.Delivery{big}, 0},
		{"as many as there is room for", fill, deliver.LaneFull},
		{"one more", []relay.Delivery{last}, deliver.LaneFull},
	} {
		e.HandOver(step.add)
		if got := e.Queued(); got != step.want {
			t.Errorf("%s: %d are queued, want %d", step.name, got, step.want)
		}
	}
	close(gate)
	w.becomes(t, first, "delivered 1 ok")
	// The others' leases were given back; who ends them meets a send.
	storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now() WHERE id = $1`, filler.ID)
	for _, d := range []relay.Delivery{filler, big, last} {
		w.becomes(t, d, "delivered 1 ok")
	}
	if got := w.at.calls(); got != 4 {
		t.Errorf("%d calls were made, want 4: what did not fit was sent once, by the poller", got)
	}
}

// A delivery whose lease would not outlast its send is left to the next
// claim; no timeout that can be configured is longer than a lease allows.
func TestShortLeaseIsNotSent(t *testing.T) {
	t.Parallel()
	if relay.MaxTimeout+deliver.LeaseMargin >= relay.Lease {
		t.Errorf("a destination with the timeout %v would never be called: leases last %v", relay.MaxTimeout, relay.Lease)
	}
	w := newWorld(t, ok)
	ds := w.owe(t, w.Plan(), "short", "long")
	ds[0].LeaseEnds = time.Now().Add(relay.DefaultTimeout + deliver.LeaseMargin - time.Second)
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver(ds[:1])
	e.HandOver(ds[1:])
	w.becomes(t, ds[1], "delivered 1 ok")
	if got := w.row(t, ds[0]); got != "scheduled 0 leased" {
		t.Errorf("got %q, want it left to the next claim", got)
	}
}

// A call that needs a body which is damaged can never be made. One that this
// program cannot read yet is left to a node that can.
func TestBodiesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	p := w.Plan()
	p.On["completed"] = relay.Action{
		Action: relay.TriggerResponse, ModuleID: 1, CustomVars: map[string]any{"id": "{{ event.id }}"},
		DestinationID: w.DestinationID,
	}
	ds := w.owe(t, p, "damaged", "unknown", "well")
	storetest.Exec(t, w.url, `UPDATE events SET packing = 1, body = '\xffff' WHERE id = $1`, ds[0].EventID)
	storetest.Exec(t, w.url, `UPDATE events SET packing = 99 WHERE id = $1`, ds[1].EventID)
	w.endLeases(t)
	newEngine(t, w.Store, time.Second).run(t)
	w.becomes(t, ds[0], "dead 1 permanent")
	w.becomes(t, ds[1], "scheduled 0 leased")
	w.becomes(t, ds[2], "delivered 1 ok")
}

// A node that dies between claim and send, or between send and record, loses
// its leases to the next one.
func TestCrash(t *testing.T) {
	t.Parallel()
	t.Run("between claim and send", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, ok)
		d := w.owe(t, w.Plan(), "u-1")[0] // and nobody takes it
		e := newEngine(t, w.Store, time.Second)
		e.run(t)
		if n, err := e.ClaimOnce(t.Context()); n != 0 || err != nil {
			t.Fatalf("claimed %d, %v while the lease lasts, want 0", n, err)
		}
		w.endLeases(t)
		w.becomes(t, d, "delivered 1 ok")
	})
	t.Run("between send and record", func(t *testing.T) {
		t.Parallel()
		gate := make(chan struct{})
		w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { <-gate; ok(rw, r) })
		d := w.owe(t, w.Plan(), "u-1")[0]
		dying := storetest.Open(t, w.url, storetest.Keys(t))
		dying.Close() // it can neither poll nor record
		first := newEngineOn(t, w.Store, dying, time.Minute)
		first.run(t)
		first.HandOver([]relay.Delivery{d})
		receive(t, w.at.came, "the first node sends")
		close(gate)
		first.stop()
		if got := w.row(t, d); got != "scheduled 0 leased" {
			t.Fatalf("after the crash: got %q, want it leased and unrecorded", got)
		}
		second := newEngine(t, w.Store, time.Second)
		second.run(t)
		w.endLeases(t)
		w.becomes(t, d, "delivered 1 ok")
		if got := w.at.calls(); got != 2 {
			t.Errorf("%d calls were made, want 2: at least once", got)
		}
	})
	t.Run("a node that comes back late writes nothing", func(t *testing.T) {
		t.Parallel()
		gate := make(chan struct{})
		w := newWorld(t, func(rw http.ResponseWriter, _ *http.Request) { <-gate; rw.WriteHeader(http.StatusNotFound) })
		d := w.owe(t, w.Plan(), "u-1")[0]
		e := newEngine(t, w.Store, time.Minute)
		e.run(t)
		e.HandOver([]relay.Delivery{d})
		receive(t, w.at.came, "it is being sent")
		storetest.Exec(t, w.url, `UPDATE deliveries SET lease = $2 WHERE id = $1`, d.ID, uuid.New())
		close(gate)
		e.stop()
		if got := w.row(t, d); got != "scheduled 0 leased" {
			t.Errorf("got %q, want the row of its new holder untouched", got)
		}
	})
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		grace   time.Duration
		answers bool // within the grace
		want    string
	}{
		{"a send that ends within the grace counts", time.Minute, true, "delivered 1 ok"},
		{"a send that does not is cut off and not counted", 0, false, "scheduled 0 leased"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gate := make(chan struct{})
			w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
				select {
				case <-gate:
					ok(rw, r)
				case <-r.Context().Done():
				}
			})
			id := w.AddDestination(t, relay.Destination{Name: "one", BaseURL: w.at.URL, MaxConcurrency: 1, Timeout: longest})
			ds := w.owe(t, relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}},
				"running", "queued-1", "queued-2")
			e := newEngine(t, w.Store, tt.grace)
			e.run(t)
			e.HandOver(ds)
			receive(t, w.at.came, "the first is being sent")
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				e.stop()
			}()
			for _, d := range ds[1:] { // at once, while the send goes on
				w.becomes(t, d, "scheduled 0 due")
			}
			e.HandOver(ds[1:]) // too late
			if tt.answers {
				select {
				case <-stopped:
					t.Error("it stopped before its send had ended")
				default:
				}
				close(gate)
			}
			receive(t, stopped, "it has stopped")
			if got := w.row(t, ds[0]); got != tt.want {
				t.Errorf("the running one: got %q, want %q", got, tt.want)
			}
			if got := w.at.calls(); got != 1 {
				t.Errorf("%d calls were made, want 1", got)
			}
		})
	}
}

// TestLeavesNothingBehind does not run in parallel: it counts goroutines.
func TestLeavesNothingBehind(t *testing.T) {
	w := newWorld(t, ok)
	d := w.owe(t, w.Plan(), "u-1")[0]
	before := goleak.IgnoreCurrent()
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	w.becomes(t, d, "delivered 1 ok")
	e.stop()
	e.client.Close()
	w.at.CloseClientConnections()
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"))
}

// patience is how long a test waits for what should come soon: longer than any
// machine stands still, since waiting costs nothing when it does come.
const patience = 2 * time.Minute

// longest is the timeout of a destination whose calls a test holds up: they
// hang still when a slow machine has come to look.
const longest = relay.Duration(relay.MaxTimeout)

// receive waits for a signal.
func receive[T any](t *testing.T, ch <-chan T, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("waited %v in vain until %s", patience, what)
	}
}

// until polls a condition that another goroutine will make true.
func until(t *testing.T, what string, condition func() bool, seen ...func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			for _, s := range seen {
				t.Logf("last seen: %s", s())
			}
			t.Fatalf("waited %v in vain until %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
