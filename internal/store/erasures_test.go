package store_test

import (
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// A call that is under way leaves nothing of its answer, and whoever waited
// behind it in the same conversation goes on.
func TestEraseWhileSending(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	speak := func(user string) relay.Wait {
		r := p.Registration(t, user, p.Plan())
		r.Wait.Conversation = "chat"
		return p.Register(t, r)
	}
	jo, other := speak("jo"), speak("other")
	sending := commit(t, p, told(p, "1", jo.Token))
	if waiting := commit(t, p, told(p, "2", other.Token)); len(sending) != 1 || len(waiting) != 0 {
		t.Fatalf("%d and %d deliveries got the slot, want the first alone", len(sending), len(waiting))
	}
	got, done, err := p.Store.EraseNext(t.Context(), p.ID, "jo", 10)
	if want := (store.Erased{Correlations: 1, Events: 1, Deliveries: 1, Skipped: 1}); err != nil || !done || got != want {
		t.Errorf("erased %+v, %t, %v, want %+v and the end", got, done, err, want)
	}
	answer := attemptAt(&sending[0], relay.OK)
	answer.Response = "dear jo"
	if r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{answer}))(t); !r[0].Stale {
		t.Errorf("got %+v, want the attempt stale", r[0])
	}
	next := claimOne(t, p)
	if next.Wait.ID != other.ID {
		t.Errorf("claimed a delivery of %q, want the one that waited", next.Wait.UserID)
	}
	end(t, p, next, relay.OK)
	noSlotsLeft(t, url)
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM plans WHERE id = $1`, other.PlanID); got != 1 {
		t.Error("the plan that the other one has is gone")
	}
}

// A delivery that is being changed, and has no slot, is not waited for: the
// erasure is repeated.
func TestEraseGivesWay(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	d := owe(t, p)
	end(t, p, d, relay.Permanent)
	storetest.Hold(t, url, `SELECT FROM deliveries WHERE id = $1 FOR UPDATE`, d.ID)
	if _, _, err := p.Store.EraseNext(t.Context(), p.ID, d.Wait.UserID, 10); !store.Conflicted(err) {
		t.Errorf("got %v, want a conflict", err)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM correlations WHERE user_id <> ''`); got != 1 {
		t.Error("the wait was erased without its delivery")
	}
}
