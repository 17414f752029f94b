package store_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

const aDay = 24 * time.Hour

// clearAll clears everything that can be cleared now, in pieces of limit rows,
// and returns how many rows of each kind it took.
func clearAll(t *testing.T, s *store.Store, url string, limit int) map[store.Clearing]int {
	t.Helper()
	rows := map[store.Clearing]int{}
	if _, ok, err := s.Clear(t.Context(), limit); err != nil || ok && len(rows) > 0 {
		t.Fatal(err)
	}
	storetest.Exec(t, url, `UPDATE retention_cursors SET due_at = now()`)
	storetest.Exec(t, url, `UPDATE retention_left SET due_at = now()`)
	for {
		done, ok, err := s.Clear(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return rows
		}
		rows[done.Kind] += done.Rows
	}
}

// keep sets the retention of a project: event bodies for some days, waits for 60.
func keep(t *testing.T, p *storetest.Project, event int) {
	t.Helper()
	d := func(n int) relay.Duration { return relay.Duration(time.Duration(n) * aDay) }
	err := p.Store.Configure(t.Context(), func(c *store.Change) error {
		return c.SetRetention(t.Context(), p.ID, relay.Retention{EventBody: d(event), Correlation: d(60)})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// told is a payment with everything that a person may have said in it.
func told(p *storetest.Project, id, token string) relay.Callback {
	c := deduped(p.Paid("evt_"+id, "pi_"+id, token))
	c.Reading.References = []relay.Candidate{{Place: "json:id", Value: "pi_" + id}}
	c.Reading.Payment.Email, c.Reading.Payment.Method, c.Reading.Payment.Account = `jo"\,`+id+`@example.com`, "card", "acct_1"
	c.Reading.Form = map[string]any{"name": "Jo " + id}
	c.Headers = []byte(`{"X-Jo": "Jo ` + id + `"}`)
	return c
}

// personalRows says of each event whether it holds anything of a person.
const personalRows = `
	SELECT coalesce(string_agg(provider_event_id || CASE
	           WHEN body IS NULL AND headers IS NULL AND form IS NULL AND request IS NULL AND payment::text NOT LIKE '%jo%' THEN '-' ELSE '+' END,
	           ' ' ORDER BY provider_event_id), '')
	FROM events`

func TestClearEventBodies(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	owed := commit(t, p, told(p, "1 owed", p.Wait(t, "u-1").Token))[0]
	done := commit(t, p, told(p, "2 delivered", p.Wait(t, "u-2").Token))[0]
	end(t, p, done, relay.OK)
	parked := told(p, "3 parked", "order-3")
	parked.Reading.Outcome = relay.Refunded
	park(t, p, parked)
	storetest.Age(t, url, 30*aDay+time.Hour)
	young := commit(t, p, told(p, "4 young", p.Wait(t, "u-4").Token))[0]
	end(t, p, young, relay.OK)
	storetest.Age(t, url, 30*aDay-2*time.Hour) // in all: the first are too old by 60 days, the last is not old enough
	if got := clearAll(t, p.Store, url, 2)[store.ClearEventBodies]; got != 1 {
		t.Errorf("blanked %d events, want one", got)
	}
	const want = "evt_1 owed+ evt_2 delivered- evt_3 parked+ evt_4 young+"
	if got := storetest.Query[string](t, url, personalRows); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := storetest.Query[string](t, url, `SELECT payment::text FROM events WHERE provider_event_id = 'evt_2 delivered'`); got !=
		`{"id":"pi_2 delivered","amount_minor":2050,"currency":"EUR","exponent":2,"method":"card","account":"acct_1"}` {
		t.Errorf("got the payment %s, want it without its payer", got)
	}
	// What was left goes once nothing needs it.
	endLeases(t, url)
	claimed := must(p.Store.ClaimDue(t.Context(), owed.Lease, 1))(t)
	if len(claimed) != 1 || claimed[0].Body == nil || claimed[0].Form == nil {
		t.Fatalf("got %+v, want the owed delivery with all that its event said", claimed)
	}
	end(t, p, claimed[0], relay.OK)
	if _, err := p.Store.Unpark(t.Context(), 0, 10, 10); err != nil {
		t.Fatal(err)
	}
	if got := clearAll(t, p.Store, url, 2)[store.ClearEventBodies]; got != 2 {
		t.Errorf("blanked %d events, want the two that were left", got)
	}
	if got, want := storetest.Query[string](t, url, personalRows), "evt_1 owed- evt_2 delivered- evt_3 parked- evt_4 young+"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM retention_left`); got != 0 {
		t.Errorf("%d events are noted as left, want none", got)
	}
	// The same event counts as the same still.
	if _, err := commitTo(p.Store, p, told(p, "2 delivered", p.Wait(t, "u-2").Token)); !store.Conflicted(err) {
		t.Errorf("sent again: got %v, want its dedupe key taken", err)
	}
}

// What cannot be said any more is not sent again.
func TestRetryOfBlankedIsRefused(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	d := commit(t, p, told(p, "1", p.Wait(t, "u-1").Token))[0]
	end(t, p, d, relay.Permanent)
	storetest.Age(t, url, 31*aDay)
	clearAll(t, p.Store, url, 100)
	err := p.Store.RetryDelivery(t.Context(), p.ID, storetest.Query[uuid.UUID](t, url, `SELECT id FROM deliveries`), true)
	if !relay.IsKind(err, relay.Conflict) || !strings.Contains(err.Error(), "event_blanked") {
		t.Errorf("got %v, want event_blanked", err)
	}
	if n := must(p.Store.RetryDeliveries(t.Context(), p.ID, store.DeliveryFilter{}, false))(t); n != 0 {
		t.Errorf("a bulk retry took %d, want none", n)
	}
}

func TestClearAttemptBodies(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	answered := func(d relay.Delivery, class relay.Class) {
		a := attemptAt(&d, class)
		a.Response, a.Notes = "dear Jo", []byte(`["Jo"]`)
		if r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{a}))(t); r[0].Stale {
			t.Fatal("the attempt is stale")
		}
	}
	again := func() relay.Delivery {
		t.Helper()
		storetest.Exec(t, url, `UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL`)
		return claimOne(t, p)
	}
	const said = `
		SELECT count(*) FROM (SELECT response, notes FROM deliveries UNION ALL SELECT response, notes FROM attempts) a
		WHERE response IS NOT NULL OR notes IS NOT NULL`
	d := owe(t, p)
	answered(d, relay.Retry)
	answered(again(), relay.Retry)
	storetest.Age(t, url, 15*aDay)
	if got := clearAll(t, p.Store, url, 10)[store.ClearAttemptBodies]; got != 0 {
		t.Errorf("blanked %d answers of a delivery that is owed, want none", got)
	}
	storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() + interval '1 day'`)
	answered(again(), relay.Permanent)
	if got := storetest.Query[int](t, url, said); got != 3 {
		t.Fatalf("%d answers are there, want 3", got)
	}
	if got := clearAll(t, p.Store, url, 10)[store.ClearAttemptBodies]; got != 3 {
		t.Errorf("blanked %d answers, want all three once nothing is owed", got)
	}
	// Retried by hand after the cursor has passed it: that answer goes as well.
	if err := p.Store.RetryDelivery(t.Context(), p.ID, storetest.Query[uuid.UUID](t, url, `SELECT id FROM deliveries`), false); err != nil {
		t.Fatal(err)
	}
	answered(again(), relay.OK)
	if got := clearAll(t, p.Store, url, 10)[store.ClearAttemptBodies]; got != 1 {
		t.Errorf("blanked %d answers, want the one of the retry", got)
	}
	if got := storetest.Query[int](t, url, said); got != 0 {
		t.Errorf("%d answers are left, want none", got)
	}
	if got := storetest.Query[string](t, url, `SELECT concat_ws(' ', status, attempts, class, http_status IS NULL) FROM deliveries`); got != "delivered 4 ok t" {
		t.Errorf("got %q, want what came of it kept", got)
	}
}

// rowsLeft counts the rows of everything that belongs to waits.
const rowsLeft = `
	SELECT concat_ws(' ', (SELECT count(*) FROM correlations), (SELECT count(*) FROM deadlines), (SELECT count(*) FROM correlation_refs),
	                 (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries), (SELECT count(*) FROM attempts),
	                 (SELECT count(*) FROM plans))`

// ended registers a wait with a key and a plan of its own, has it paid and
// told, at the second attempt.
func ended(t *testing.T, p *storetest.Project, url, user string) {
	t.Helper()
	plan := p.Plan()
	plan.When = `"` + user + `" != ""`
	r := p.Registration(t, user, plan)
	r.Wait.Key = "order-" + user
	w := p.Register(t, r)
	d := commit(t, p, told(p, user, w.Token))[0]
	end(t, p, d, relay.Retry)
	storetest.Exec(t, url, `UPDATE deliveries SET due_at = now() WHERE id = $1`, d.ID)
	end(t, p, claimOne(t, p), relay.OK)
}

func TestClearCorrelations(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	keep(t, p, 30)
	for i := range 5 {
		ended(t, p, url, "gone-"+strconv.Itoa(i))
	}
	if got := storetest.Query[string](t, url, rowsLeft); got != "5 0 10 5 5 5 5" {
		t.Fatalf("got %s rows", got)
	}
	storetest.Age(t, url, 60*aDay-time.Hour)
	if got := clearAll(t, p.Store, url, 2)[store.ClearCorrelations]; got != 0 {
		t.Errorf("deleted %d rows an hour too early", got)
	}
	storetest.Age(t, url, 2*time.Hour)
	if got := clearAll(t, p.Store, url, 2)[store.ClearCorrelations]; got != 20 {
		t.Errorf("deleted %d rows, want 5 waits with their events, deliveries and attempts", got)
	}
	rows, next, err := p.Store.ClearReferences(t.Context(), 0, 1000)
	if err != nil || rows != 10 || next != 0 {
		t.Errorf("deleted %d names, next %d, %v, want 10 and the end", rows, next, err)
	}
	if got := storetest.Query[string](t, url, rowsLeft); got != "0 0 0 0 0 0 0" {
		t.Errorf("got %s rows, want none", got)
	}
}

// What a wait is still needed for keeps it, whole.
func TestClearKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func(t *testing.T, p *storetest.Project, url string) // 60 days and an hour ago
		then func(t *testing.T, p *storetest.Project, url string) // now
	}{
		{"pending", func(t *testing.T, p *storetest.Project, _ string) { p.Wait(t, "u-1") }, nil},
		{"owed", func(t *testing.T, p *storetest.Project, _ string) { owe(t, p) }, nil},
		{"a person has to decide", func(t *testing.T, p *storetest.Project, url string) {
			storetest.Exec(t, url, `UPDATE deliveries SET status = 'unknown', due_at = NULL, lease = NULL WHERE id = $1`, owe(t, p).ID)
		}, nil},
		{
			"created long ago, ended lately", func(t *testing.T, p *storetest.Project, _ string) { p.Wait(t, "u-1") },
			func(t *testing.T, p *storetest.Project, url string) {
				token := storetest.Query[string](t, url, `SELECT token FROM correlations`)
				end(t, p, commit(t, p, told(p, "1", token))[0], relay.OK)
			},
		},
		{
			"refunded lately", func(t *testing.T, p *storetest.Project, url string) { ended(t, p, url, "u-1") },
			func(t *testing.T, p *storetest.Project, url string) {
				refund := deduped(p.Callback("evt_refund", relay.Refunded, storetest.Query[string](t, url, `SELECT token FROM correlations`)))
				end(t, p, commit(t, p, refund)[0], relay.OK)
			},
		},
		{
			"retried by hand", func(t *testing.T, p *storetest.Project, _ string) { end(t, p, owe(t, p), relay.Permanent) },
			func(t *testing.T, p *storetest.Project, url string) {
				id := storetest.Query[uuid.UUID](t, url, `SELECT id FROM deliveries`)
				if err := p.Store.RetryDelivery(t.Context(), p.ID, id, false); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			keep(t, p, 60)
			c.make(t, p, url)
			storetest.Age(t, url, 60*aDay+time.Hour)
			if c.then != nil {
				c.then(t, p, url)
			}
			before := storetest.Query[string](t, url, rowsLeft)
			clearAll(t, p.Store, url, 100)
			if _, _, err := p.Store.ClearReferences(t.Context(), 0, 1000); err != nil {
				t.Fatal(err)
			}
			if got := storetest.Query[string](t, url, rowsLeft); got != before {
				t.Errorf("got %s rows, want all of %s", got, before)
			}
		})
	}
}

// Events that belong to nobody go by their own age; a parked one does not.
func TestClearEvents(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	keep(t, p, 30)
	for i := range 3 {
		stray := deduped(p.Callback("evt_stray"+strconv.Itoa(i), relay.Completed, relay.NewToken()))
		stray.Verdict = relay.Unsigned
		commit(t, p, stray)
	}
	parked := told(p, "parked", "order-3")
	parked.Reading.Outcome = relay.Refunded
	park(t, p, parked)
	storetest.Age(t, url, 60*aDay-time.Hour)
	if got := clearAll(t, p.Store, url, 2)[store.ClearEvents]; got != 0 {
		t.Errorf("deleted %d events an hour too early", got)
	}
	storetest.Age(t, url, 2*time.Hour)
	if got := clearAll(t, p.Store, url, 2)[store.ClearEvents]; got != 3 {
		t.Errorf("deleted %d events, want 3", got)
	}
	if got := storetest.Query[string](t, url, `SELECT string_agg(provider_event_id, ' ') FROM events`); got != "evt_parked" {
		t.Errorf("got the events %q, want the parked one alone", got)
	}
}

// A piece waits for nobody: what is locked is left to the next round.
func TestClearWaitsForNobody(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	keep(t, p, 30)
	ended(t, p, url, "u-1")
	ended(t, p, url, "u-2")
	storetest.Age(t, url, 60*aDay+time.Hour)
	storetest.Hold(t, url, `SELECT FROM correlations WHERE user_id = 'u-1' FOR UPDATE`)
	storetest.Hold(t, url, `SELECT FROM events WHERE provider_event_id = 'evt_u-1' FOR UPDATE`)
	clearAll(t, p.Store, url, 100)
	if got := storetest.Query[string](t, url, `SELECT string_agg(user_id || ' ' || (SELECT count(*) FROM events WHERE correlation_id = c.id), ' ') FROM correlations c`); got != "u-1 1" {
		t.Errorf("got the waits %q, want the locked one alone, whole", got)
	}
}

// Two nodes clear side by side, each row once.
func TestClearOnTwoNodes(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	keep(t, p, 30)
	const n = 40
	for i := range n {
		d := commit(t, p, told(p, strconv.Itoa(i), p.Wait(t, "u-"+strconv.Itoa(i)).Token))[0]
		end(t, p, d, relay.OK)
	}
	storetest.Age(t, url, 61*aDay)
	if _, _, err := p.Store.Clear(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	rows := make([]int, 2)
	for i, s := range []*store.Store{p.Store, storetest.Open(t, url, storetest.Keys(t))} {
		g.Go(func() error {
			for {
				done, ok, err := s.Clear(context.Background(), 3)
				if err != nil || !ok {
					return err
				}
				if done.Kind == store.ClearCorrelations {
					rows[i] += done.Rows
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	// A node that finds nothing due stops here; the other's last piece may have
	// been due again since.
	rows[0] += clearAll(t, p.Store, url, 3)[store.ClearCorrelations]
	if got := rows[0] + rows[1]; got != 3*n {
		t.Errorf("deleted %d rows, want each of %d once", got, 3*n)
	}
}

// A plan whose last wait goes while a registration takes it up is there
// afterwards, whoever comes first.
func TestPlanIsKeptForWhoTakesItUp(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	keep(t, p, 30)
	other := storetest.Open(t, url, storetest.Keys(t))
	for round := range 20 {
		user := "u-" + strconv.Itoa(round)
		plan := p.Plan()
		plan.When = `"` + user + `" != ""`
		old := p.Register(t, p.Registration(t, user, plan))
		end(t, p, commit(t, p, told(p, user, old.Token))[0], relay.OK)
		storetest.Age(t, url, 61*aDay)
		clearAll(t, p.Store, url, 0) // makes the cursors, and finds nothing
		storetest.Exec(t, url, `UPDATE retention_cursors SET due_at = now() + CASE kind WHEN 'correlation' THEN interval '0' ELSE interval '1 hour' END`)
		var g errgroup.Group
		g.Go(func() error {
			_, _, err := p.Store.Clear(context.Background(), 100)
			return err
		})
		next := p.Registration(t, user+"-new", plan)
		g.Go(func() error {
			_, err := other.Register(context.Background(), []store.Registration{next})
			return err
		})
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Store.Plan(t.Context(), next.Wait.PlanID); err != nil {
			t.Fatalf("round %d: the plan of the new wait: %v", round, err)
		}
		storetest.Exec(t, url, `UPDATE correlations SET created_at = now() WHERE id = $1`, next.Wait.ID)
	}
}

// No statement of a piece reads a big table from end to end, or more of it
// than it clears.
func TestPlansOfClearing(t *testing.T) {
	t.Parallel()
	// What the planner knows: nothing, what was true before the rows came, and
	// what is true.
	for _, analyze := range [][2]string{{`SELECT`, `SELECT`}, {`ANALYZE`, `SELECT`}, {`SELECT`, `ANALYZE`}} {
		url := storetest.URL(t, true)
		seen := &explained{plans: map[string][]explainedPlan{}}
		s, err := store.OpenNoticingEveryday(t.Context(), store.Config{
			URL: url + explaining, Keys: storetest.Keys(t), HotConnections: 1, Connections: 1,
		}, seen.add)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
		keep(t, p, 30)
		for i := range 3 {
			ended(t, p, url, strconv.Itoa(i))
		}
		stray := deduped(p.Callback("evt_stray", relay.Completed, relay.NewToken()))
		stray.Verdict = relay.Unsigned
		commit(t, p, stray)
		owe(t, p) // is left
		storetest.Age(t, url, 61*aDay)
		storetest.Exec(t, url, analyze[0])
		fill(t, url)
		storetest.Exec(t, url, analyze[1])
		clearAll(t, s, url, 10)
		if rows, _, err := s.ClearReferences(t.Context(), 0, 100_000); err != nil || rows == 0 {
			t.Errorf("deleted %d names, %v, want some", rows, err)
		}
		seen.mu.Lock()
		if len(seen.plans) < 20 {
			t.Errorf("the server explained %d statements, want all of them", len(seen.plans))
		}
		for query, plans := range seen.plans {
			for _, plan := range plans {
				if table := plan.Plan.scans(); table != "" && !strings.HasPrefix(query, "ANALYZE") {
					t.Errorf("scans the table %s:\n%s", table, plan.text)
				}
				walks := strings.Contains(query, "r.ctid >=") // of the table of names alone, as much as it is told
				if got := plan.Plan.Hit + plan.Plan.Read; got > 2*maxBlocks && !walks && strings.Contains(query, "WHERE") {
					t.Errorf("touches %d blocks, want at most %d:\n%s", got, 2*maxBlocks, plan.text)
				}
			}
		}
		seen.mu.Unlock()
	}
}
