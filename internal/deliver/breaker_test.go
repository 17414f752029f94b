package deliver_test

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/deliver"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// oweMany puts n deliveries to a destination into the table, each of a
// conversation of its own, all due before anything else.
func (w *world) oweMany(t *testing.T, destinationID int64, n int) {
	t.Helper()
	p := relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: destinationID}}}
	seed := w.owe(t, p, "u-seed")[0]
	storetest.Exec(t, w.url, `
		INSERT INTO deliveries (project_id, id, correlation_id, event_id, destination_id, outcome, action, conversation, due_at, retry_for, give_up_at)
		SELECT d.project_id, gen_random_uuid(), d.correlation_id, d.event_id, d.destination_id, d.outcome, d.action, gen_random_uuid(),
		       now() - interval '1 hour', d.retry_for, d.give_up_at
		FROM deliveries d, generate_series(1, $2) WHERE d.id = $1`, seed.ID, n)
	storetest.Exec(t, w.url, `UPDATE deliveries SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = now() WHERE id = $1`, seed.ID)
}

func (w *world) count(t *testing.T, where string) int {
	t.Helper()
	return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE `+where)
}

// A destination that does not answer is let be: after the calls that opened
// the breaker no more than one at a time goes out, what waits burns no
// attempts, and when it answers again everything arrives: what is in memory,
// and what the table has.
func TestBreakerSparesADeadDestination(t *testing.T) {
	t.Parallel()
	const owed, concurrency = 2_000, 4
	var alive atomic.Bool
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if !alive.Load() {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		ok(rw, r)
	})
	id := w.AddDestination(t, relay.Destination{Name: "flaky", BaseURL: w.at.URL, MaxConcurrency: concurrency})
	w.oweMany(t, id, owed)
	e := newEngine(t, w.Store, time.Second)
	began := time.Now()
	e.run(t)
	until(t, "two probes have failed", func() bool { return w.at.calls() >= deliver.BreakerFailures+concurrency+2 })
	until(t, "memory has let go of them", func() bool { return e.Queued() < owed/2 })
	// Those that opened it, those that were under way, and a probe a second at
	// the most.
	most := deliver.BreakerFailures + concurrency + int(time.Since(began)/time.Second)
	if got := w.at.calls(); got < deliver.BreakerFailures || got > most {
		t.Errorf("%d calls were made to a dead destination, want %d to %d", got, deliver.BreakerFailures, most)
	}
	if calls, attempts := w.at.calls(), storetest.Query[int](t, w.url, `SELECT sum(attempts) FROM deliveries`); attempts > calls {
		t.Errorf("%d attempts were recorded for %d calls", attempts, calls)
	}
	if got := e.log.with("a destination does not answer"); got != 1 {
		t.Errorf("it was told %d times, want once", got)
	}
	alive.Store(true)
	until(t, "all is delivered", func() bool { return w.count(t, `status = 'delivered'`) == owed })
	until(t, "it is told that it answers again", func() bool { return e.log.with("a destination answers again") > 0 })
	if got := e.log.with("a destination answers again"); got != 1 {
		t.Errorf("it was told %d times that it answers again, want once", got)
	}
}

// What waits in memory when its destination is back is sent at once, and not
// when its lease has ended.
func TestBreakerClosesForWhatWaits(t *testing.T) {
	t.Parallel()
	const owed = 200
	var alive atomic.Bool
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if !alive.Load() {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		ok(rw, r)
	})
	w.at.forget(t)
	id := w.AddDestination(t, relay.Destination{Name: "flaky", BaseURL: w.at.URL, MaxConcurrency: 4})
	w.oweMany(t, id, owed)
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	until(t, "the breaker opens", func() bool { return e.log.with("a destination does not answer") == 1 })
	alive.Store(true)
	until(t, "all is delivered", func() bool { return w.count(t, `status = 'delivered'`) == owed })
	// What is in memory is sent for the first time under the lease that it was
	// claimed with: nothing waited for that to end.
	waited := w.count(t, `attempts = 1`)
	if late := w.count(t, `attempts = 1 AND started_at > (SELECT min(started_at) FROM deliveries WHERE status = 'delivered' AND attempts = 1) + interval '20 seconds'`); late > 0 || waited == 0 {
		t.Errorf("%d of %d were sent more than 20 s after the probe, want none to wait for the end of its lease", late, waited)
	}
}

// What a dead destination does not take in its time is dead without a call of
// its own.
func TestBreakerLetsDeliveriesDie(t *testing.T) {
	t.Parallel()
	const owed = 200
	w := newWorld(t, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) })
	w.oweMany(t, w.DestinationID, owed)
	storetest.Exec(t, w.url, `UPDATE deliveries SET give_up_at = now()`)
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	until(t, "all are dead", func() bool { return w.count(t, `status = 'dead'`) == owed })
	if got, most := w.at.calls(), deliver.BreakerFailures+relay.DefaultConcurrency+60; got > most {
		t.Errorf("%d calls were made, want at most %d", got, most)
	}
	if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'`); got != 0 {
		t.Errorf("%d slots are left, want none", got)
	}
}

// TestDeadBesideHealthy has a destination hang with all of its concurrency and
// more than its lane waiting, all due before what is owed to a healthy one.
// That is all delivered while the dead one still hangs.
func TestDeadBesideHealthy(t *testing.T) {
	t.Parallel()
	const waiting, owed = deliver.LaneFull + 1_000, 1_000
	gate := make(chan struct{})
	w := newWorld(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	})
	defer close(gate)
	healthy := newPlatform(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, accepted) })
	deadID := w.AddDestination(t, relay.Destination{Name: "dead", BaseURL: w.at.URL, Timeout: longest})
	healthyID := w.AddDestination(t, relay.Destination{Name: "healthy", BaseURL: healthy.URL})
	w.oweMany(t, deadID, waiting)
	w.oweMany(t, healthyID, owed)
	storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now() WHERE destination_id = $1 AND due_at IS NOT NULL`, healthyID)
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	to := strconv.FormatInt(healthyID, 10)
	until(t, "the healthy destination has all", func() bool {
		return w.count(t, `status = 'delivered' AND destination_id = `+to) == owed
	})
	if got := w.at.calls(); got != relay.DefaultConcurrency {
		t.Errorf("%d calls hang, want the %d that may: the test took too long, or they ended", got, relay.DefaultConcurrency)
	}
	if got := w.count(t, `attempts > 0 AND destination_id <> `+to); got != 0 {
		t.Errorf("%d calls to the dead destination have ended, want all to hang still", got)
	}
}

// What ends without a call says nothing about its destination: it neither
// breaks a row of failures, nor closes a breaker as a probe. The next delivery
// probes instead.
func TestBreakerIsToldOfCallsOnly(t *testing.T) {
	t.Parallel()
	var alive atomic.Bool
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if !alive.Load() {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		ok(rw, r)
	})
	id := w.AddDestination(t, relay.Destination{Name: "flaky", BaseURL: w.at.URL, MaxConcurrency: 1})
	p := relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}}
	users := make([]string, deliver.BreakerFailures+1)
	for i := range users {
		users[i] = "u-" + strconv.Itoa(i)
	}
	owed := w.owe(t, p, users...)
	inRow, probing := w.owe(t, p, "u-row")[0], w.owe(t, p, "u-probing")[0]
	inRow.Action = "no such action"
	last := len(owed) - 1
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver(append(append(slices.Clone(owed[:last-1]), inRow), owed[last-1]))
	until(t, "the breaker opens", func() bool { return e.log.with("a destination does not answer") == 1 })
	if got := w.at.calls(); got >= 2*deliver.BreakerFailures-1 {
		t.Errorf("%d calls opened the breaker, want %d: what cannot be rendered is none", got, deliver.BreakerFailures)
	}
	w.becomes(t, inRow, "dead 1 permanent")

	// Only what cannot be rendered is due when the next probe is.
	storetest.Exec(t, w.url, `UPDATE deliveries SET action = 'no such action', lease = NULL, due_at = now() WHERE id = $1`, probing.ID)
	until(t, "the probe is dead", func() bool {
		storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now() + interval '1 day' WHERE id <> $1 AND due_at IS NOT NULL AND lease IS NULL`, probing.ID)
		return w.row(t, probing) == "dead 1 permanent"
	})
	if got := e.log.with("a destination answers again"); got != 0 {
		t.Error("a call that was never made has closed the breaker")
	}
	alive.Store(true)
	storetest.Exec(t, w.url, `UPDATE deliveries SET lease = NULL, due_at = now() WHERE id = $1`, owed[last].ID)
	until(t, "the next delivery has probed", func() bool {
		return e.log.with("a destination answers again") == 1 && w.row(t, owed[last]) == "delivered 1 ok"
	})
}

// TestManySlowBesideHealthy has more destinations hang than could share the
// memory, each with as much waiting as a lane holds. However many there are, a
// healthy one has room, for what is handed over and for what is due.
func TestManySlowBesideHealthy(t *testing.T) {
	t.Parallel()
	const slow = 8
	gate := make(chan struct{})
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
			ok(rw, r)
		case <-r.Context().Done():
		}
	})
	healthy := newPlatform(t, ok)
	healthyID := w.AddDestination(t, relay.Destination{Name: "healthy", BaseURL: healthy.URL})
	to := func(id int64) relay.Plan {
		return relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}}
	}
	var hanging []relay.Delivery
	for i := range slow {
		id := w.AddDestination(t, relay.Destination{
			Name: "slow-" + strconv.Itoa(i), BaseURL: w.at.URL, Timeout: longest, MaxConcurrency: 1,
		})
		hanging = append(hanging, w.owe(t, to(id), "u-"+strconv.Itoa(i))...)
	}
	owed := w.owe(t, to(healthyID), "u-fresh", "u-due")
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	for _, d := range hanging {
		e.HandOver([]relay.Delivery{d})
		receive(t, w.at.came, "a slow one is called")
		d.Lease = uuid.New() // nobody's: what does not fit changes nothing
		e.HandOver(slices.Repeat([]relay.Delivery{d}, deliver.LaneFull))
	}
	e.HandOver(owed[:1])
	w.becomes(t, owed[0], "delivered 1 ok")
	storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now(), lease = NULL WHERE id = $1`, owed[1].ID)
	w.becomes(t, owed[1], "delivered 1 ok")
	if got := w.at.calls(); got != slow {
		t.Errorf("%d calls were made to the slow ones, want the %d that hang", got, slow)
	}
	close(gate)
}

// forget takes up what a platform tells of its calls until the test ends: it
// may be more than it can keep.
func (p *platform) forget(t *testing.T) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-p.came:
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// What a full lane has left in the table is sent when there is room again, the
// oldest first, and before what comes later.
func TestFullLaneIsFilledFromTheTable(t *testing.T) {
	t.Parallel()
	const waiting = deliver.LaneFull + 1_000
	gate := make(chan struct{})
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
			ok(rw, r)
		case <-r.Context().Done():
		}
	})
	w.at.forget(t)
	id := w.AddDestination(t, relay.Destination{Name: "slow", BaseURL: w.at.URL, MaxConcurrency: 16})
	w.oweMany(t, id, waiting)
	p := relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: id}}}
	later := w.owe(t, p, "u-later")
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	until(t, "the lane is full, and the rest was looked through", e.Walked)
	e.HandOver(later)
	until(t, "what comes later goes to the table", func() bool { return w.row(t, later[0]) == "scheduled 0 due" })
	close(gate)
	until(t, "all is delivered", func() bool { return w.count(t, `status = 'delivered'`) == waiting+1 })
	if last := w.count(t, `status = 'delivered' AND started_at > (SELECT started_at FROM deliveries WHERE id = '`+later[0].ID.String()+`')`); last > deliver.LaneFull/2 {
		t.Errorf("%d were sent after one that came later, want at most those of half a lane", last)
	}
}
