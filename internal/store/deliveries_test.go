package store_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// owe closes a fresh wait by a payment and returns the delivery that it owes,
// leased to us.
func owe(t *testing.T, p *storetest.Project) relay.Delivery {
	t.Helper()
	id := relay.NewToken()
	deliveries := commit(t, p, deduped(p.Paid("evt_"+id, "pi_"+id, p.Wait(t, "u-"+id).Token)))
	if len(deliveries) != 1 {
		t.Fatalf("a payment fired %d deliveries, want 1", len(deliveries))
	}
	return deliveries[0]
}

// endLeases makes every leased delivery due again, as the end of its lease does.
func endLeases(t *testing.T, url string) {
	t.Helper()
	storetest.Exec(t, url, `UPDATE deliveries SET due_at = now() WHERE lease IS NOT NULL`)
}

func TestLeasedDeliveriesAreNotClaimed(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	d := owe(t, p)
	if got := must(p.Store.ClaimDue(t.Context(), uuid.New(), 10))(t); len(got) != 0 {
		t.Errorf("claimed %d deliveries while the lease lasts, want 0", len(got))
	}
	endLeases(t, url)
	lease := uuid.New()
	got := must(p.Store.ClaimDue(t.Context(), lease, 10))(t)
	if len(got) != 1 || got[0].ID != d.ID || got[0].Lease != lease {
		t.Fatalf("claimed %+v, want the delivery under the new lease", got)
	}
	if left := time.Until(got[0].LeaseEnds); left <= 0 || left > relay.Lease {
		t.Errorf("the lease lasts %v, want at most %v", left, relay.Lease)
	}
}

// A delivery that is claimed back holds what the one handed over in memory
// held, numbers included: a retry renders the same bytes.
func TestClaimedDeliveryEqualsTheHandedOver(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	c := deduped(p.Paid("evt_1", "pi_1", p.Wait(t, "u-1").Token))
	c.Reading.Form = map[string]any{
		"big": int64(9007199254740993), "float": 2.5, "text": "ä\u0000", "list": []any{int64(1), map[string]any{"deep": int64(-9007199254740993)}},
		"none": nil, "yes": true,
	}
	d := commit(t, p, c)[0]
	d.Payment, d.Form, d.Format, d.Body = c.Reading.Payment, c.Reading.Form, c.Reading.Format, c.Body
	endLeases(t, url)
	got := must(p.Store.ClaimDue(t.Context(), d.Lease, 1))(t)
	if len(got) != 1 {
		t.Fatalf("claimed %d deliveries, want 1", len(got))
	}
	got[0].LeaseEnds, d.LeaseEnds, d.RetryFor = time.Time{}, time.Time{}, 0
	d.Wait.PaymentID, got[0].Wait.PaymentID = "", ""
	if diff := cmp.Diff(d, got[0]); diff != "" {
		t.Errorf("the claimed delivery differs (-handed over +claimed):\n%s", diff)
	}
}

// A body that cannot be read is the fault of its own delivery: the others that
// are claimed with it are made.
func TestDamagedBodyHoldsUpNobody(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	for i := range 3 {
		c := deduped(p.Paid("evt_"+strconv.Itoa(i), "pi_"+strconv.Itoa(i), p.Wait(t, "u-"+strconv.Itoa(i)).Token))
		c.Body = []byte(`{"id": "` + strings.Repeat("x", 500) + `"}`)
		commit(t, p, c)
	}
	storetest.Exec(t, url, `UPDATE events SET body = '\xffff' WHERE provider_event_id = 'evt_0'`)
	storetest.Exec(t, url, `UPDATE events SET packing = 99 WHERE provider_event_id = 'evt_1'`)
	endLeases(t, url)
	got := must(p.Store.ClaimDue(t.Context(), uuid.New(), 10))(t)
	if len(got) != 3 {
		t.Fatalf("claimed %d deliveries, want 3", len(got))
	}
	for i, d := range got {
		if broken := i < 2; (d.BodyErr != nil) != broken {
			t.Errorf("delivery %d: got the error %v, want one: %t", i, d.BodyErr, broken)
		}
	}
}

func TestClaimsShareRows(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	const n = 60
	for range n {
		owe(t, p)
	}
	endLeases(t, url)
	other := storetest.Open(t, url, storetest.Keys(t))
	var mu sync.Mutex
	seen := map[uuid.UUID]int{}
	var g errgroup.Group
	for _, s := range []*store.Store{p.Store, other, p.Store, other} {
		g.Go(func() error {
			for {
				got, err := s.ClaimDue(context.Background(), uuid.New(), 5)
				if err != nil || len(got) == 0 {
					return err
				}
				mu.Lock()
				for _, d := range got {
					seen[d.ID]++
				}
				mu.Unlock()
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(seen) != n {
		t.Errorf("claimed %d deliveries, want all %d", len(seen), n)
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("delivery %s was claimed %d times, want once", id, times)
		}
	}
}

// A row that another transaction holds is left to it, not waited for.
func TestClaimSkipsLockedRows(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	held, free := owe(t, p), owe(t, p)
	endLeases(t, url)
	conn := connect(t, url)
	for _, sql := range []string{`BEGIN`, `SELECT FROM deliveries WHERE id = '` + held.ID.String() + `' FOR UPDATE`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	got := must(p.Store.ClaimDue(t.Context(), uuid.New(), 10))(t)
	if len(got) != 1 || got[0].ID != free.ID {
		t.Errorf("claimed %d deliveries, want only the one that nobody holds", len(got))
	}
}

const deliverySQL = `
	SELECT concat_ws(' ', status, 'attempts=' || attempts, 'rows=' || (SELECT count(*) FROM attempts WHERE delivery_id = d.id) + (started_at IS NOT NULL)::int,
	                 'class=' || class, CASE WHEN due_at IS NOT NULL THEN 'due' END, CASE WHEN lease IS NOT NULL THEN 'leased' END,
	                 CASE WHEN finished_at IS NOT NULL THEN 'finished' END)
	FROM deliveries d WHERE id = $1`

func TestRecordAttempts(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	for _, tt := range []struct {
		name  string
		class relay.Class
		next  relay.DeliveryStatus
		setup string // before the attempt is recorded
		stale bool
		want  string
	}{
		{"delivered", relay.OK, relay.Delivered, ``, false, "delivered attempts=1 rows=1 class=ok finished"},
		{"retry", relay.Retry, relay.Scheduled, ``, false, "scheduled attempts=1 rows=1 class=retry due"},
		{"no answer", relay.NoAnswer, relay.Scheduled, ``, false, "scheduled attempts=1 rows=1 class=unknown due"},
		{"permanent", relay.Permanent, relay.Dead, ``, false, "dead attempts=1 rows=1 class=permanent finished"},
		{
			"retry after its time is up", relay.Retry, relay.Scheduled, `UPDATE deliveries SET give_up_at = now() + interval '1 second' WHERE id = $1`,
			false, "dead attempts=1 rows=1 class=retry finished",
		},
		{
			"retry just before its time is up", relay.Retry, relay.Scheduled, `UPDATE deliveries SET give_up_at = now() + interval '1 hour' WHERE id = $1`,
			false, "scheduled attempts=1 rows=1 class=retry due",
		},
		{
			"lease lost to another node", relay.OK, relay.Delivered, `UPDATE deliveries SET lease = gen_random_uuid() WHERE id = $1`,
			true, "scheduled attempts=0 rows=0 due leased",
		},
		{
			"lease returned", relay.OK, relay.Delivered, `UPDATE deliveries SET lease = NULL WHERE id = $1`,
			true, "scheduled attempts=0 rows=0 due",
		},
		{
			"skipped by hand meanwhile", relay.OK, relay.Delivered,
			`UPDATE deliveries SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = now() WHERE id = $1`,
			true, "skipped attempts=0 rows=0 finished",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := owe(t, p)
			if tt.setup != "" {
				storetest.Exec(t, url, tt.setup, d.ID)
			}
			a := attemptAt(&d, tt.class)
			a.Next, a.Delay = tt.next, time.Minute
			a.Response, a.Reason, a.HTTPStatus = "\xff\x00", strings.Repeat("ä", 300), 200
			got := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{a}))(t)
			if got[0].Stale != tt.stale {
				t.Errorf("stale: got %v, want %v", got[0].Stale, tt.stale)
			}
			row := storetest.Query[string](t, url, deliverySQL, d.ID)
			if row != tt.want {
				t.Errorf("the row: got %q, want %q", row, tt.want)
			}
			if status, _, _ := strings.Cut(row, " "); !tt.stale && string(got[0].Status) != status {
				t.Errorf("the answer says %s, the row %s", got[0].Status, status)
			}
		})
	}
}

// An attempt under a lease that was lost may be recorded together with one
// under the lease that came after it.
func TestRecordTellsLeasesApart(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	old := owe(t, p)
	endLeases(t, url)
	again := must(p.Store.ClaimDue(t.Context(), uuid.New(), 1))(t)[0]
	for _, order := range [][]relay.Attempt{
		{attemptAt(&old, relay.Permanent), attemptAt(&again, relay.OK)},
	} {
		for _, reversed := range []bool{false, true} {
			storetest.Exec(t, url, `DELETE FROM attempts`)
			storetest.Exec(t, url, `UPDATE deliveries SET status = 'scheduled', attempts = 0, started_at = NULL, class = NULL, finished_at = NULL, due_at = now(), lease = $1`, again.Lease)
			if reversed {
				slices.Reverse(order)
			}
			got := must(p.Store.RecordAttempts(t.Context(), order))(t)
			for i, r := range got {
				if stale := order[i].Lease == old.Lease; r.Stale != stale {
					t.Errorf("reversed %v: attempt %d: stale %v, want %v", reversed, i, r.Stale, stale)
				}
			}
			if row, want := storetest.Query[string](t, url, deliverySQL, old.ID), "delivered attempts=1 rows=1 class=ok finished"; row != want {
				t.Errorf("reversed %v: the row: got %q, want %q", reversed, row, want)
			}
		}
	}
}

func TestReturnLeases(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	ours, lost, done := owe(t, p), owe(t, p), owe(t, p)
	storetest.Exec(t, url, `UPDATE deliveries SET lease = gen_random_uuid() WHERE id = $1`, lost.ID)
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&done, relay.OK)}))(t)
	if err := p.Store.ReturnLeases(t.Context(), []relay.Delivery{ours, lost, done}); err != nil {
		t.Fatal(err)
	}
	got := must(p.Store.ClaimDue(t.Context(), uuid.New(), 10))(t)
	if len(got) != 1 || got[0].ID != ours.ID {
		t.Errorf("claimed %d deliveries after the return, want only ours", len(got))
	}
}

// Which states a person can bring a delivery out of, and into which.
func TestDeliveriesByHand(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	const refused = "refused"
	for _, tt := range []struct {
		status, set                 string
		retry, force, skip, bulkTry string
	}{
		{"scheduled", `lease = NULL`, "scheduled", "scheduled", "skipped", "scheduled"},
		{"scheduled and leased", `status = 'scheduled'`, refused, refused, refused, "scheduled"},
		{"sending", `status = 'sending'`, refused, refused, refused, "sending"},
		{"delivered", `status = 'delivered', due_at = NULL, lease = NULL, finished_at = now()`, refused, "scheduled", refused, "delivered"},
		{"dead", `status = 'dead', due_at = NULL, lease = NULL, finished_at = now()`, "scheduled", "scheduled", "skipped", "scheduled"},
		{"skipped", `status = 'skipped', due_at = NULL, lease = NULL, finished_at = now()`, "scheduled", "scheduled", refused, "skipped"},
		{"held", `status = 'held', due_at = NULL, lease = NULL`, "scheduled", "scheduled", "skipped", "scheduled"},
		{"unknown", `status = 'unknown', due_at = NULL, lease = NULL`, "scheduled", "scheduled", "skipped", "scheduled"},
	} {
		for _, act := range []struct {
			name, want string
			do         func(relay.Delivery) error
		}{
			{"retry", tt.retry, func(d relay.Delivery) error { return p.Store.RetryDelivery(t.Context(), p.ID, d.ID, false) }},
			{"force", tt.force, func(d relay.Delivery) error { return p.Store.RetryDelivery(t.Context(), p.ID, d.ID, true) }},
			{"skip", tt.skip, func(d relay.Delivery) error { return p.Store.SkipDelivery(t.Context(), p.ID, d.ID) }},
			{"bulk", tt.bulkTry, func(d relay.Delivery) error {
				_, err := p.Store.RetryDeliveries(t.Context(), p.ID, store.DeliveryFilter{CorrelationID: d.Wait.ID}, false)
				return err
			}},
		} {
			t.Run(act.name+" "+tt.status, func(t *testing.T) {
				d := owe(t, p)
				storetest.Exec(t, url, `UPDATE deliveries SET `+tt.set+` WHERE id = $1`, d.ID)
				before := storetest.Query[string](t, url, `SELECT d::text FROM deliveries d WHERE id = $1`, d.ID)
				err := act.do(d)
				if act.want == refused {
					if !relay.IsKind(err, relay.Conflict) {
						t.Errorf("got %v, want a conflict", err)
					}
					if after := storetest.Query[string](t, url, `SELECT d::text FROM deliveries d WHERE id = $1`, d.ID); after != before {
						t.Errorf("a refusal changed the row: %s, was %s", after, before)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := storetest.Query[string](t, url, `SELECT status FROM deliveries WHERE id = $1`, d.ID); got != act.want {
					t.Errorf("got %s, want %s", got, act.want)
				}
			})
		}
	}
	t.Run("of another project", func(t *testing.T) {
		other := storetest.NewProject(t, p.Store, "elsewhere", "http://127.0.0.1:1")
		d := owe(t, p)
		for name, err := range map[string]error{
			"retry": p.Store.RetryDelivery(t.Context(), other.ID, d.ID, true), "skip": p.Store.SkipDelivery(t.Context(), other.ID, d.ID),
		} {
			if !relay.IsKind(err, relay.NotFound) {
				t.Errorf("%s: got %v, want not found", name, err)
			}
		}
	})
}

func TestRetryDeliveriesCountsInADryRun(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	for range 3 {
		owe(t, p)
	}
	storetest.Exec(t, url, `UPDATE deliveries SET status = 'dead', due_at = NULL, lease = NULL, finished_at = now()`)
	for _, step := range []struct {
		dryRun bool
		want   int
	}{{true, 3}, {true, 3}, {false, 3}, {false, 0}} {
		if got := must(p.Store.RetryDeliveries(t.Context(), p.ID, store.DeliveryFilter{Destination: "bot"}, step.dryRun))(t); got != step.want {
			t.Errorf("dry run %v: got %d, want %d", step.dryRun, got, step.want)
		}
	}
	if got := must(p.Store.ClaimDue(t.Context(), uuid.New(), 10))(t); len(got) != 3 {
		t.Errorf("claimed %d after the retry, want 3", len(got))
	}
}

// What a person resolved by hand reaches the delivery as if it had come.
func TestResolutionReachesItsDelivery(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	amount := int64(100)
	_, err := p.Store.EndWait(t.Context(), uuid.New(), p.ID, w.ID, func(w *relay.Wait) (store.Ending, error) {
		step := w.Apply(relay.Completed, "")
		return store.Ending{
			Wait: w, Step: step, By: "api",
			Resolution: &store.Resolution{Payment: &relay.Payment{ID: "pi_9", AmountMinor: &amount}, Form: map[string]any{"n": json.Number("7")}},
			Fires: &relay.Delivery{
				ID: relay.NewID(), ProjectID: p.ID, DestinationID: p.DestinationID, Outcome: relay.Completed, Action: "completed",
				RetryFor: time.Hour, Wait: *w,
			},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	endLeases(t, url)
	got := must(p.Store.ClaimDue(t.Context(), uuid.New(), 1))(t)
	if len(got) != 1 || got[0].Payment == nil || got[0].Payment.ID != "pi_9" || got[0].Form["n"] != int64(7) {
		t.Errorf("claimed %+v, want the payment and the form of the resolution", got)
	}
	if c := must(p.Store.Correlation(t.Context(), p.ID, w.ID))(t); c.Status != relay.StatusCompleted || c.PaymentID != "pi_9" || c.ResolvedBy != "api" {
		t.Errorf("the wait: got %s by %s with %q, want completed by api with pi_9", c.Status, c.ResolvedBy, c.PaymentID)
	}
}

// A node that records a second attempt under a lease that it has lost writes
// nothing at all: not the attempt before it either, which the next node moves.
func TestStaleRecordMovesNothing(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	first := owe(t, p)
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&first, relay.Retry)}))(t)
	storetest.Exec(t, url, `UPDATE deliveries SET due_at = now()`)
	old := must(p.Store.ClaimDue(t.Context(), uuid.New(), 1))(t)[0]
	endLeases(t, url)
	now := must(p.Store.ClaimDue(t.Context(), uuid.New(), 1))(t)[0]
	if got := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&old, relay.OK)}))(t); !got[0].Stale {
		t.Error("the old lease: got it recorded, want it stale")
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM attempts`); got != 0 {
		t.Errorf("a stale record moved %d attempts, want none", got)
	}
	if got := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&now, relay.OK)}))(t); got[0].Status != relay.Delivered {
		t.Errorf("the new lease: got %+v, want delivered", got[0])
	}
	if row, want := storetest.Query[string](t, url, deliverySQL, first.ID), "delivered attempts=2 rows=2 class=ok finished"; row != want {
		t.Errorf("the row: got %q, want %q", row, want)
	}
}
