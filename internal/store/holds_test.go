package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// destinationOf reads the project's destination as it is.
func destinationOf(t *testing.T, p *storetest.Project) relay.Destination {
	t.Helper()
	for _, d := range must(p.Store.Configuration(t.Context()))(t).Destinations {
		if d.ID == p.DestinationID {
			return d
		}
	}
	t.Fatal("the destination is not there")
	return relay.Destination{}
}

// holdDestination holds the project's destination.
func holdDestination(t *testing.T, p *storetest.Project) {
	t.Helper()
	if !must(p.Store.HoldDestination(t.Context(), p.DestinationID, destinationOf(t, p).Releases, "bad_credentials"))(t) {
		t.Fatal("the destination is not held by this call")
	}
}

// release ends the hold of the project's destination, and returns how many
// deliveries it held.
func release(t *testing.T, p *storetest.Project) (released int) {
	t.Helper()
	err := p.Store.Configure(t.Context(), func(c *store.Change) (err error) {
		released, err = c.ReleaseDestination(t.Context(), p.DestinationID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return released
}

func statusOf(t *testing.T, url string, d relay.Delivery) string {
	t.Helper()
	return storetest.Query[string](t, url, `
		SELECT concat_ws(' ', status, CASE WHEN lease IS NOT NULL THEN 'leased' END) FROM deliveries WHERE id = $1`, d.ID)
}

// One call holds a destination; a refusal of credentials that have changed
// since, or of before a release, holds nothing.
func TestHoldDestination(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	version := func() int64 { return must(p.Store.ConfigurationVersion(t.Context()))(t) }
	hold := func(releases int64) bool {
		return must(p.Store.HoldDestination(t.Context(), p.DestinationID, releases, "bad_credentials"))(t)
	}
	before := version()
	if !hold(0) || version() != before+1 {
		t.Fatal("the first refusal: want it held, and every node told")
	}
	since := destinationOf(t, p).Held
	if since == nil || since.Reason != "bad_credentials" || time.Since(since.Since) > time.Minute {
		t.Errorf("got the hold %+v, want since now, for bad_credentials", since)
	}
	if hold(0) || version() != before+1 {
		t.Error("the second refusal: want nothing changed")
	}
	if got := release(t, p); got != 0 {
		t.Errorf("released %d, want none: nothing was owed", got)
	}
	if d := destinationOf(t, p); d.Held != nil || d.Releases != 1 || !d.Releasing {
		t.Errorf("after the release: got %+v", d)
	}
	if hold(0) {
		t.Error("a refusal of a call of before the release holds the destination")
	}
	if !hold(1) {
		t.Error("a refusal of a call of after the release does not hold the destination")
	}
	if release(t, p); release(t, p) != 0 || destinationOf(t, p).Releases != 3 {
		t.Error("a release of what is not held: want it to be none, and to count")
	}
	err := p.Store.Configure(t.Context(), func(c *store.Change) error { return c.DeleteDestination(t.Context(), p.DestinationID) })
	if err != nil {
		t.Fatal(err)
	}
	if hold(destinationOf(t, p).Releases) {
		t.Error("a deleted destination is held: nobody could resume it")
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM destinations WHERE held_at IS NOT NULL`); got != 0 {
		t.Errorf("%d destinations are held, want none", got)
	}
}

// What is held keeps its place: after the release the deliveries of a
// conversation go on in the order of creation, those that were born meanwhile
// last, and all of them have their whole time to try again.
func TestHeldDeliveriesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w, other := p.Wait(t, "u-1"), p.Wait(t, "u-2")
	first, elsewhere := tell(t, p, w, 2)[0], tell(t, p, other, 1)[0]
	holdDestination(t, p)
	stale := elsewhere
	stale.Lease = uuid.New()
	if err := p.Store.HoldDeliveries(t.Context(), []relay.Delivery{first, stale}); err != nil {
		t.Fatal(err)
	}
	if got := statusOf(t, url, first) + ", " + statusOf(t, url, elsewhere); got != "held, scheduled leased" {
		t.Errorf("got %q, want that of a stale lease untouched", got)
	}
	if err := p.Store.HoldDeliveries(t.Context(), []relay.Delivery{elsewhere}); err != nil {
		t.Fatal(err)
	}
	if born := tell(t, p, w, 1); len(born) != 0 || len(claimDue(t, p)) != 0 {
		t.Error("a delivery passes one that is held")
	}
	if freed := must(p.Store.ClaimHeld(t.Context(), uuid.New(), p.DestinationID, 10))(t); len(freed) != 0 {
		t.Errorf("%d are claimed while the destination is held, want none", len(freed))
	}
	if _, _, err := p.Store.PassOnLeft(t.Context(), uuid.Nil, 100); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() - interval '1 hour'`)
	if got := release(t, p); got != 2 {
		t.Errorf("released %d, want 2: the others wait behind them", got)
	}
	if ended := must(p.Store.EndRelease(t.Context(), p.DestinationID, 1))(t); ended {
		t.Error("the release has ended while two are held")
	}
	lease := uuid.New()
	freed := must(p.Store.ClaimHeld(t.Context(), lease, p.DestinationID, 1))(t)
	if len(freed) != 1 || freed[0].ID != first.ID || freed[0].Lease != lease || freed[0].Wait.ID != w.ID {
		t.Fatalf("a piece of one: got %+v, want the oldest, leased", freed)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deliveries WHERE id = $1 AND give_up_at < now() + interval '1 hour'`, first.ID); got != 0 {
		t.Error("the first has used up its time to try, want it to begin anew")
	}
	order := created(t, url, w)
	for i, current := 0, freed[0]; ; i++ {
		if current.ID != order[i] {
			t.Fatalf("number %d sent is %s, want %s", i, current.ID, order[i])
		}
		if i == len(order)-1 {
			end(t, p, current, relay.OK)
			break
		}
		end(t, p, current, relay.OK)
		current = claimOne(t, p)
	}
	freed = must(p.Store.ClaimHeld(t.Context(), uuid.New(), p.DestinationID, 10))(t)
	if len(freed) != 1 || freed[0].ID != elsewhere.ID {
		t.Fatalf("the rest: got %+v, want the other conversation's", freed)
	}
	end(t, p, freed[0], relay.OK)
	for _, step := range []struct {
		releases int64
		ends     bool
	}{{0, false}, {1, true}, {1, false}} {
		if ended := must(p.Store.EndRelease(t.Context(), p.DestinationID, step.releases))(t); ended != step.ends {
			t.Errorf("ending the release number %d: got %t, want %t", step.releases, ended, step.ends)
		}
	}
	noSlotsLeft(t, url)
}

// A delivery that is skipped by hand lets the next one go; one that is retried
// by hand keeps its place.
func TestHeldDeliveriesByHand(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	first := tell(t, p, w, 2)[0]
	holdDestination(t, p)
	if err := p.Store.HoldDeliveries(t.Context(), []relay.Delivery{first}); err != nil {
		t.Fatal(err)
	}
	filter := store.DeliveryFilter{Status: relay.Held}
	if n := must(p.Store.RetryDeliveries(t.Context(), p.ID, filter, true))(t); n != 1 || statusOf(t, url, first) != "held" {
		t.Errorf("a dry run: got %d and %s, want 1 and it held", n, statusOf(t, url, first))
	}
	if err := p.Store.RetryDelivery(t.Context(), p.ID, first.ID, false); err != nil {
		t.Fatal(err)
	}
	again := claimOne(t, p)
	if again.ID != first.ID || !again.ByHand {
		t.Fatalf("retried by hand: got %+v, want it due", again)
	}
	if err := p.Store.HoldDeliveries(t.Context(), []relay.Delivery{again}); err != nil {
		t.Fatal(err)
	}
	if got := statusOf(t, url, first); got != "held" {
		t.Errorf("retried by hand while its destination is held: got %s, want it held again", got)
	}
	if err := p.Store.SkipDelivery(t.Context(), p.ID, first.ID); err != nil {
		t.Fatal(err)
	}
	if next := claimOne(t, p); next.ID != created(t, url, w)[1] {
		t.Errorf("after the skip %s is due, want the next of the conversation", next.ID)
	}
}

// A node that holds deliveries meets the release: whichever comes first, none
// is held afterwards that the release does not see.
func TestHoldMeetsRelease(t *testing.T) {
	t.Parallel()
	t.Run("the release comes first", func(t *testing.T) {
		t.Parallel()
		p, url := project(t)
		d := tell(t, p, p.Wait(t, "u-1"), 1)[0]
		holdDestination(t, p)
		pid, commit := hold(t, url, func(exec func(string, ...any)) {
			exec(`UPDATE destinations SET held_at = NULL, held_reason = NULL, releases = releases + 1, releasing = true`)
		})
		done := make(chan error, 1)
		go func() { done <- p.Store.HoldDeliveries(context.Background(), []relay.Delivery{d}) }()
		waitsFor(t, url, pid)
		commit()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := statusOf(t, url, d); got != "scheduled leased" {
			t.Errorf("got %q, want it left to its node", got)
		}
	})
	t.Run("the node comes first", func(t *testing.T) {
		t.Parallel()
		p, url := project(t)
		d := tell(t, p, p.Wait(t, "u-1"), 1)[0]
		holdDestination(t, p)
		pid, commit := hold(t, url, func(exec func(string, ...any)) {
			exec(`SELECT FROM destinations WHERE id = $1 FOR SHARE`, p.DestinationID)
			exec(`UPDATE deliveries SET status = 'held', due_at = NULL, lease = NULL WHERE id = $1`, d.ID)
		})
		done := make(chan int, 1)
		go func() { done <- release(t, p) }()
		waitsFor(t, url, pid)
		commit()
		if got := <-done; got != 1 {
			t.Errorf("released %d, want the one that was being held", got)
		}
	})
}

// Of more holds than are told the newest are, the one that lasts among them.
func TestHoldsOfMany(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	tell(t, p, w, 2)
	storetest.Exec(t, url, `
		INSERT INTO holds (destination_id, held_at, reason, released_at)
		SELECT $1, now() + n * interval '1 minute', 'bad_credentials', now() + (n + 0.5) * interval '1 minute'
		FROM generate_series(1, 99) n`, p.DestinationID)
	storetest.Exec(t, url, `
		INSERT INTO holds (destination_id, held_at, reason) VALUES ($1, now() + interval '1 day', 'bad_credentials')`, p.DestinationID)
	list := must(p.Store.HoldsOf(t.Context(), p.ID, w.ID))(t)
	if len(list) != 100 || list[0].Until != nil || list[1].Until != nil {
		t.Errorf("got %d holds, %v first, want 100 and of each delivery the one that lasts", len(list), list[:min(2, len(list))])
	}
}
