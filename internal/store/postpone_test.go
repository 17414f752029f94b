package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// What is postponed has lost no attempt and keeps its slot, for as long as it
// is told to wait.
func TestPostpone(t *testing.T) {
	t.Parallel()
	const wait = time.Hour
	p, url := project(t)
	list := tell(t, p, p.Wait(t, "u-1"), 2)
	taken := tell(t, p, p.Wait(t, "u-2"), 1)[0]
	storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() - interval '1 second'`)
	taken.Lease = uuid.New() // it is another node's by now
	if err := p.Store.Postpone(t.Context(), []store.Later{{Delivery: list[0], Wait: wait}, {Delivery: taken, Wait: wait}}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uuid.UUID]time.Duration{list[0].ID: wait, taken.ID: relay.Lease} {
		got := storetest.Query[string](t, url, `SELECT concat_ws(' ', status, attempts, reason) FROM deliveries WHERE id = $1`, id)
		if got != "scheduled 0" {
			t.Errorf("got %q, want it scheduled", got)
		}
		due := storetest.Query[float64](t, url, `SELECT extract(epoch FROM due_at - now())::float8 FROM deliveries WHERE id = $1`, id)
		if due > want.Seconds() || due < want.Seconds()-30 {
			t.Errorf("due in %.0f s, want %.0f s", due, want.Seconds())
		}
	}
	if next := len(claimDue(t, p)); next != 0 {
		t.Errorf("%d are due, want the next one of the conversation to wait", next)
	}
}

// What is given up is dead and passes its slot on. What has time left, or is
// another node's, stays as it is.
func TestGiveUp(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		left  time.Duration
		stale bool
		want  string
		dead  bool
	}{
		{name: "its time is over", left: -time.Second, want: "dead 0 not sent: its destination does not answer", dead: true},
		{name: "it has time", left: time.Minute, want: "scheduled 0 leased"},
		{name: "another node's by now", left: -time.Second, stale: true, want: "scheduled 0 leased"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			d := tell(t, p, p.Wait(t, "u-1"), 2)[0]
			storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() + $2 * interval '1 second' WHERE id = $1`, d.ID, tt.left.Seconds())
			if tt.stale {
				d.Lease = uuid.New()
			}
			dead := must(p.Store.GiveUp(t.Context(), []relay.Delivery{d}))(t)
			if got := len(dead) == 1 && dead[0].ID == d.ID && dead[0].ProjectID == p.ID; got != tt.dead {
				t.Errorf("dead: got %+v, want it among them: %t", dead, tt.dead)
			}
			got := storetest.Query[string](t, url, `
				SELECT concat_ws(' ', status, attempts, reason, CASE WHEN lease IS NOT NULL THEN 'leased' END) FROM deliveries WHERE id = $1`, d.ID)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if next := len(claimDue(t, p)); (next == 1) != tt.dead {
				t.Errorf("%d of its conversation are due, want the next one: %t", next, tt.dead)
			}
		})
	}
}
