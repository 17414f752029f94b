package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// What is postponed has lost no attempt and keeps its slot. One whose time to
// try is over is dead and passes the slot on; one that is about to be is looked
// at once more before; one that is patient waits for as long as it is told to.
func TestPostpone(t *testing.T) {
	t.Parallel()
	const wait = time.Hour
	for _, tt := range []struct {
		name    string
		giveUp  time.Duration // from now
		patient bool
		stale   bool
		want    string
		due     time.Duration // from now
		dead    bool
	}{
		{name: "time enough", giveUp: 6 * time.Hour, want: "scheduled 0", due: wait},
		{name: "its time ends before", giveUp: time.Minute, want: "scheduled 0", due: time.Minute},
		{name: "its time is over", giveUp: -time.Second, want: "dead 0 not sent: its destination does not answer", dead: true},
		{name: "patient", giveUp: -time.Second, patient: true, want: "scheduled 0", due: wait},
		{name: "another node's by now", giveUp: -time.Second, stale: true, want: "scheduled 0 leased", due: relay.Lease},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			d := tell(t, p, p.Wait(t, "u-1"), 2)[0]
			storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() + $2 * interval '1 second' WHERE id = $1`, d.ID, tt.giveUp.Seconds())
			if tt.stale {
				d.Lease = uuid.New()
			}
			dead := must(p.Store.Postpone(t.Context(), []store.Later{{Delivery: d, Wait: wait, Patient: tt.patient}}))(t)
			if got := len(dead) == 1 && dead[0].ID == d.ID && dead[0].ProjectID == p.ID; got != tt.dead {
				t.Errorf("dead: got %+v, want it among them: %t", dead, tt.dead)
			}
			got := storetest.Query[string](t, url, `
				SELECT concat_ws(' ', status, attempts, reason, CASE WHEN lease IS NOT NULL THEN 'leased' END) FROM deliveries WHERE id = $1`, d.ID)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			due := storetest.Query[float64](t, url, `SELECT coalesce(extract(epoch FROM due_at - now()), 0)::float8 FROM deliveries WHERE id = $1`, d.ID)
			if due > tt.due.Seconds() || due < tt.due.Seconds()-30 {
				t.Errorf("due in %.0f s, want %.0f s", due, tt.due.Seconds())
			}
			if next := len(claimDue(t, p)); (next == 1) != tt.dead {
				t.Errorf("%d of its conversation are due, want the next one: %t", next, tt.dead)
			}
		})
	}
}
