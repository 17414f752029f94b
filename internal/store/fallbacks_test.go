package store_test

import (
	"testing"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// withFallback has an attempt owe the same call once more, to the same
// destination.
func withFallback(a relay.Attempt, d *relay.Delivery) relay.Attempt {
	a.Fallback = &relay.Delivery{
		ID: relay.FallbackID(d.ID), ProjectID: d.ProjectID, EventID: d.EventID, DestinationID: d.DestinationID,
		Outcome: d.Outcome, Action: relay.FallbackName(d.Action), RetryFor: d.RetryFor,
		Wait: relay.Wait{ID: d.Wait.ID, UserID: d.Wait.UserID, Conversation: d.Wait.Conversation},
	}
	return a
}

const fallbackSQL = `SELECT count(*) FROM deliveries WHERE action LIKE '%.fallback'`

// A refusal that is recorded under a lease that was lost owes nothing; nor
// does one that came to something else than the end.
func TestStaleRefusalOwesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		class relay.Class
		stale bool
		want  int
	}{
		{"refused", relay.Permanent, false, 1},
		{"the lease was lost", relay.Permanent, true, 0},
		{"tried again", relay.Retry, false, 0},
		{"delivered", relay.OK, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			d := tell(t, p, p.Wait(t, "u-1"), 1)[0]
			a := withFallback(attemptAt(&d, tt.class), &d)
			if tt.stale {
				a.Lease = uuid.New()
			}
			r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{a}))(t)
			if r[0].Stale != tt.stale {
				t.Errorf("got %+v, want stale %t", r[0], tt.stale)
			}
			if got := storetest.Query[int](t, url, fallbackSQL); got != tt.want {
				t.Errorf("%d fallbacks are owed, want %d", got, tt.want)
			}
		})
	}
}

// A fallback takes the slot of the refused delivery, and those that wait
// behind that one go on waiting. Recorded once more, after a retry by hand, it
// is not owed again.
func TestFallbackTakesTheSlot(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	first := tell(t, p, w, 2)[0] // the second waits
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{withFallback(attemptAt(&first, relay.Permanent), &first)}))(t)
	claimed := must(p.Store.ClaimDue(t.Context(), uuid.New(), 5))(t)
	if len(claimed) != 1 || claimed[0].ID != relay.FallbackID(first.ID) || claimed[0].Action != relay.FallbackName(first.Action) || claimed[0].Outcome != first.Outcome {
		t.Fatalf("claimed %+v, want the fallback alone", claimed)
	}
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&claimed[0], relay.OK)}))(t)
	second := must(p.Store.ClaimDue(t.Context(), uuid.New(), 5))(t)
	if len(second) != 1 || second[0].ID == first.ID {
		t.Fatalf("claimed %+v, want the one that has waited", second)
	}
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&second[0], relay.OK)}))(t)
	if err := p.Store.RetryDelivery(t.Context(), p.ID, first.ID, false); err != nil {
		t.Fatal(err)
	}
	again := must(p.Store.ClaimDue(t.Context(), uuid.New(), 5))(t)
	if len(again) != 1 || again[0].ID != first.ID {
		t.Fatalf("claimed %+v, want the one that is retried", again)
	}
	r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{withFallback(attemptAt(&again[0], relay.Permanent), &again[0])}))(t)
	if r[0].Stale || r[0].Status != relay.Dead {
		t.Errorf("got %+v, want it recorded", r[0])
	}
	if got := storetest.Query[int](t, url, fallbackSQL); got != 1 {
		t.Errorf("%d fallbacks are there, want 1", got)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL`); got != 0 {
		t.Errorf("%d slots are left, want none", got)
	}
}

// One that is born where retention has passed already is looked at again.
func TestFallbackIsNotPassedByRetention(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	d := tell(t, p, p.Wait(t, "u-1"), 1)[0]
	storetest.Exec(t, url, `
		INSERT INTO retention_cursors (project_id, kind, after) VALUES ($1, 'attempt_body', 'ffffffff-ffff-ffff-ffff-ffffffffffff')
		ON CONFLICT (project_id, kind) DO UPDATE SET after = excluded.after`, p.ID)
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{withFallback(attemptAt(&d, relay.Permanent), &d)}))(t)
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM retention_left WHERE id = $1`, relay.FallbackID(d.ID)); got != 1 {
		t.Errorf("the fallback is noted %d times, want once", got)
	}
}
