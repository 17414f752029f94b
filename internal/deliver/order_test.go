package deliver_test

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// node takes callbacks and delivers what they fire.
type node struct {
	*engine
	in *intake.Intake
}

func newNode(t *testing.T, w *world) *node {
	t.Helper()
	s := storetest.Open(t, w.url, w.keys)
	n := &node{engine: newEngine(t, s, time.Second)}
	n.run(t)
	var err error
	n.in, err = intake.New(intake.Config{
		Store: s, Plans: plan.NewCache(s.Plan), HandOver: n.HandOver, Log: leaks.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- n.in.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("the intake ended with %v", err)
		}
	})
	return n
}

// numbered has each call tell the number of the refund that fired it.
func numbered(p relay.Plan, destinationID int64) relay.Plan {
	p.On["refunded"] = relay.Action{
		Action: relay.TriggerResponse, ModuleID: 1, DestinationID: destinationID,
		CustomVars: map[string]any{"number": "{{ payment.id }}"},
	}
	return p
}

// refund is the news number n of a wait. It fires in whatever state that is.
func (w *world) refund(n int, token string) relay.Callback {
	c := w.Callback("evt_"+relay.NewToken(), relay.Refunded, token)
	c.Reading.Payment = &relay.Payment{ID: strconv.Itoa(n)}
	return c
}

// TestOrderOnTwoNodes sends twenty calls of each of a hundred conversations
// over two nodes, one in ten of which fails. At the platform those of one
// conversation come one at a time and in order; when all is done no slot is
// left.
func TestOrderOnTwoNodes(t *testing.T) {
	t.Parallel()
	const conversations, calls = 100, 20
	var mu sync.Mutex
	inFlight, next := map[string]bool{}, map[string]int{}
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		var call struct {
			UserID     string `json:"user_id"`
			CustomVars struct {
				Number string `json:"number"`
			} `json:"custom_vars"`
		}
		if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
			t.Errorf("a call cannot be read: %v", err)
		}
		fails := rand.IntN(10) == 0
		mu.Lock()
		if inFlight[call.UserID] {
			t.Errorf("%s is called twice at a time", call.UserID)
		}
		inFlight[call.UserID] = true
		if want := strconv.Itoa(next[call.UserID]); call.CustomVars.Number != want {
			t.Errorf("%s is told of %s, want %s", call.UserID, call.CustomVars.Number, want)
		}
		mu.Unlock()
		// Whoever comes meanwhile is seen.
		_ = http.NewResponseController(rw).Flush()
		mu.Lock()
		defer mu.Unlock()
		inFlight[call.UserID] = false
		if fails {
			_, _ = io.WriteString(rw, `{"message": null, "error": ["busy"]}`)
			return
		}
		next[call.UserID]++
		_, _ = io.WriteString(rw, accepted)
	})
	nodes := []*node{newNode(t, w), newNode(t, w)}
	var g errgroup.Group
	for i := range conversations {
		wait := w.Register(t, w.Registration(t, "u-"+strconv.Itoa(i), numbered(w.Plan(), w.DestinationID)))
		g.Go(func() error {
			for n := range calls {
				if _, err := nodes[rand.IntN(len(nodes))].in.Accept(context.Background(), w.refund(n, wait.Token)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	until(t, "all is delivered", func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE status = 'delivered'`) == conversations*calls
	})
	if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'`); got != 0 {
		t.Errorf("%d slots are left, want none", got)
	}
}

// A conversation whose node died goes on where it was, in order.
func TestCrashKeepsTheOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	wait := w.Register(t, w.Registration(t, "u-1", w.Plan()))
	var held []relay.Delivery
	in, err := intake.New(intake.Config{
		Store: w.Store, Plans: plan.NewCache(w.Store.Plan), Log: leaks.Logger(t),
		HandOver: func(ds []relay.Delivery) { held = append(held, ds...) }, // and it dies with them
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- in.Run(ctx) }()
	for n := range 3 {
		if _, err := in.Accept(t.Context(), w.refund(n, wait.Token)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-stopped; err != nil || len(held) != 1 {
		t.Fatalf("%d are held, %v, want 1: the others wait for it", len(held), err)
	}
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	if n, err := e.ClaimOnce(t.Context()); n != 0 || err != nil {
		t.Fatalf("claimed %d, %v while the lease lasts, want 0", n, err)
	}
	w.endLeases(t)
	until(t, "all are delivered", func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE status = 'delivered'`) == 3
	})
	if got := storetest.Query[bool](t, w.url, `SELECT array_agg(id ORDER BY started_at) = array_agg(id ORDER BY id) FROM deliveries`); !got {
		t.Error("they were sent in another order than that of their creation")
	}
}

// A destination that is to hold what has no answer: it is marked before it is
// sent, held without an answer, and holds nobody up.
func TestHoldUnknown(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	var once sync.Once
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		cut := false
		once.Do(func() {
			<-gate
			cut = true
			if conn, _, err := http.NewResponseController(rw).Hijack(); err == nil {
				_ = conn.Close()
			}
		})
		if !cut {
			ok(rw, r)
		}
	})
	id := w.AddDestination(t, relay.Destination{Name: "careful", BaseURL: w.at.URL, OnUnknown: relay.HoldUnknown})
	wait := w.Register(t, w.Registration(t, "u-1", numbered(w.Plan(), id)))
	n := newNode(t, w)
	for i := range 2 {
		if _, err := n.in.Accept(t.Context(), w.refund(i, wait.Token)); err != nil {
			t.Fatal(err)
		}
	}
	row := func(at int) string {
		return storetest.Query[string](t, w.url, `
			SELECT concat_ws(' ', status, attempts, class, CASE WHEN lease IS NOT NULL THEN 'leased' END)
			FROM deliveries ORDER BY id OFFSET $1 LIMIT 1`, at)
	}
	receive(t, w.at.came, "the first is being sent")
	if got, want := row(0), "sending 0 leased"; got != want {
		t.Errorf("while it is sent: got %q, want %q", got, want)
	}
	close(gate)
	until(t, "the second is delivered", func() bool { return row(1) == "delivered 1 ok" })
	if got, want := row(0), "unknown 1 unknown"; got != want {
		t.Errorf("without an answer: got %q, want %q", got, want)
	}
	if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'`); got != 0 {
		t.Errorf("%d slots are left, want none", got)
	}
}

// A node that died after the mark may have sent; one that died before it has
// not. Under the policy retry nobody asks.
func TestCrashAroundTheMark(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, policy, status, want string
		calls                      int
	}{
		{"after the mark", relay.HoldUnknown, "sending", "unknown 1 unknown", 0},
		{"before the mark", relay.HoldUnknown, "scheduled", "delivered 1 ok", 1},
		{"the policy was to hold, and is to retry", relay.RetryUnknown, "sending", "delivered 2 ok", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			id := w.AddDestination(t, relay.Destination{Name: "careful", BaseURL: w.at.URL, OnUnknown: tt.policy})
			p := relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}}
			d := w.owe(t, p, "u-1")[0] // and its node dies
			storetest.Exec(t, w.url, `UPDATE deliveries SET status = $2 WHERE id = $1`, d.ID, tt.status)
			w.endLeases(t)
			newEngine(t, w.Store, time.Second).run(t)
			w.becomes(t, d, tt.want)
			if got := w.at.calls(); got != tt.calls {
				t.Errorf("%d calls were made, want %d", got, tt.calls)
			}
		})
	}
}

// Without the mark nothing is sent.
func TestNothingIsSentUnmarked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	id := w.AddDestination(t, relay.Destination{Name: "careful", BaseURL: w.at.URL, OnUnknown: relay.HoldUnknown})
	p := relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}}
	ds := w.owe(t, p, "lost", "ours")
	storetest.Exec(t, w.url, `UPDATE deliveries SET lease = gen_random_uuid() WHERE id = $1`, ds[0].ID)
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver(ds)
	w.becomes(t, ds[1], "delivered 1 ok")
	e.stop()
	if got := w.row(t, ds[0]); got != "scheduled 0 leased" || w.at.calls() != 1 {
		t.Errorf("got %q and %d calls, want the other holder's untouched and one call", got, w.at.calls())
	}
}

// What was on its way when its wait closed is not sent; the end is.
func TestClosedWaitSkips(t *testing.T) {
	t.Parallel()
	refuse := make(chan struct{})
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		select {
		case <-refuse:
			ok(rw, r)
		default:
			rw.Header().Set("Retry-After", "600")
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	wait := w.Register(t, w.Registration(t, "u-1", w.Plan()))
	n := newNode(t, w)
	if _, err := n.in.Accept(t.Context(), w.Callback("evt_1", relay.AttemptFailed, wait.Token)); err != nil {
		t.Fatal(err)
	}
	row := func() string {
		return storetest.Query[string](t, w.url, `SELECT string_agg(outcome || ' ' || status || ' ' || attempts, ', ' ORDER BY id) FROM deliveries WHERE lease IS NULL`)
	}
	until(t, "the decline is to be retried", func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE lease IS NULL AND attempts = 1`) == 1
	})
	close(refuse)
	if _, err := n.in.Accept(t.Context(), w.Paid("evt_2", "pi_1", wait.Token)); err != nil {
		t.Fatal(err)
	}
	const want = "attempt_failed skipped 1, completed delivered 1"
	until(t, want, func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE status = 'delivered'`) == 1
	})
	if got := row(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
