package store_test

import (
	"testing"
	"time"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// besides counts what belongs to waits besides themselves.
const besides = `SELECT concat_ws(' ', (SELECT count(*) FROM openings), (SELECT count(*) FROM nudges))`

// What belongs to a wait goes with it.
func TestOpeningsAndNudgesGo(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	keep(t, p, 3)
	reg := p.Registration(t, "jo", p.Plan())
	reg.Nudges = []time.Duration{time.Hour, 2 * time.Hour}
	w := p.Register(t, reg)
	opened := time.Now().Add(-time.Minute)
	for _, at := range []time.Time{opened, time.Now()} {
		if err := p.Store.NoteOpenings(t.Context(), []store.Opening{
			{ProjectID: p.ID, CorrelationID: w.ID, At: at}, {ProjectID: p.ID, CorrelationID: relay.NewID(), At: at}, // one is gone
		}); err != nil {
			t.Fatal(err)
		}
	}
	if got := must(p.Store.OpenedAt(t.Context(), w.ID))(t); got == nil || got.Sub(opened).Abs() > time.Millisecond {
		t.Errorf("opened at %v, want %s, the first time", got, opened)
	}
	if got := storetest.Query[string](t, url, besides); got != "1 2" {
		t.Errorf("got openings and nudges %s, want 1 2", got)
	}
	if err := p.Store.StartErasure(t.Context(), p.ID, "jo"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Store.EraseNext(t.Context(), p.ID, "jo", 10); err != nil {
		t.Fatal(err)
	}
	if got := storetest.Query[string](t, url, besides); got != "1 0" {
		t.Errorf("erased: got openings and nudges %s, want 1 0: who asked to be forgotten is not nudged", got)
	}
	reg = p.Registration(t, "bo", p.Plan())
	reg.Nudges = []time.Duration{time.Hour}
	other := p.Register(t, reg)
	commit(t, p, deduped(p.Paid("evt_1", "pi_1", other.Token)))
	storetest.Exec(t, url, `UPDATE deliveries SET status = 'delivered', due_at = NULL, lease = NULL, finished_at = now()`)
	storetest.Age(t, url, 61*aDay)
	clearAll(t, p.Store, url, 10)
	if got := storetest.Query[string](t, url, besides); got != "0 0" {
		t.Errorf("cleared: got openings and nudges %s, want none", got)
	}
}
