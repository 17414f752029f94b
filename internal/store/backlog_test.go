package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// placed is a delivery as a test puts it into the table.
type placed struct {
	outcome relay.Outcome
	status  relay.DeliveryStatus
	class   relay.Class // of its last attempt, "" for none
	age     int         // seconds since it was made
	due     int         // seconds until it is due, of one that is owed
	wait    uuid.UUID
	waits   bool // for the slot of its conversation, and is not due
}

func (d placed) put(t *testing.T, p *storetest.Project, url string) {
	t.Helper()
	if d.wait == uuid.Nil {
		d.wait = relay.NewID()
	}
	storetest.Exec(t, url, `
		INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, status, retry_for, give_up_at,
		                        created_at, due_at, finished_at, attempts, started_at, class, conversation)
		SELECT $1, $2, $3, $4, $5::text, $5::text, $6::text, 60, now() + interval '1 hour', now() - $7 * interval '1 second',
		       CASE WHEN $6::text IN ('scheduled', 'sending') AND NOT $10 THEN now() + $8 * interval '1 second' END,
		       CASE WHEN $6::text IN ('delivered', 'dead', 'skipped') THEN now() END,
		       CASE WHEN $9::text = '' THEN 0 ELSE 1 END, CASE WHEN $9::text <> '' THEN now() END, nullif($9::text, ''),
		       gen_random_uuid()`,
		p.ID, relay.NewID(), d.wait, p.DestinationID, string(d.outcome), string(d.status), d.age, d.due, string(d.class), d.waits)
}

// TestBacklog holds what counts as owed, and above all what counts as a
// payment whose conversation was not told.
func TestBacklog(t *testing.T) {
	t.Parallel()
	one := relay.NewID()
	owed := func(n int) map[relay.DeliveryStatus]int {
		return map[relay.DeliveryStatus]int{relay.Scheduled: n, relay.Sending: 0}
	}
	stuck := func(status relay.DeliveryStatus, n int) map[relay.DeliveryStatus]int {
		return map[relay.DeliveryStatus]int{relay.Scheduled: 0, relay.Sending: 0, status: n}
	}
	for _, tt := range []struct {
		name string
		put  []placed
		want store.Backlog
	}{
		{"nothing", nil, store.Backlog{Deliveries: owed(0)}},
		{
			"paid and just owed",
			[]placed{{outcome: relay.Completed, status: relay.Scheduled, age: 10, due: 20}},
			store.Backlog{Deliveries: owed(1)},
		},
		{
			"paid and owed for long",
			[]placed{{outcome: relay.Completed, status: relay.Scheduled, age: 90, due: 20}},
			store.Backlog{Deliveries: owed(1), PaidNotResumed: 1},
		},
		{"paid and waiting for its turn", []placed{
			{outcome: relay.Completed, status: relay.Scheduled, age: 90, waits: true},
			{outcome: relay.Completed, status: relay.Scheduled, age: 10, waits: true},
			{outcome: relay.Expired, status: relay.Scheduled, age: 90, waits: true},
		}, store.Backlog{Deliveries: owed(3), PaidNotResumed: 1}},
		{"due and taken by nobody", []placed{
			{outcome: relay.Expired, status: relay.Scheduled, age: 90, due: -40}, {outcome: relay.Failed, status: relay.Scheduled, due: -2},
		}, store.Backlog{Deliveries: owed(2), OldestDue: 40 * time.Second}},
		{
			"paid and dead at once",
			[]placed{{outcome: relay.Completed, status: relay.Dead, class: relay.Permanent}},
			store.Backlog{Deliveries: stuck(relay.Dead, 1), PaidNotResumed: 1},
		},
		{
			"paid and unknown",
			[]placed{{outcome: relay.Mismatch, status: relay.Unknown, class: relay.NoAnswer}},
			store.Backlog{Deliveries: stuck(relay.Unknown, 1), PaidNotResumed: 1},
		},
		{
			"paid and held",
			[]placed{{outcome: relay.PaidAgain, status: relay.Held}},
			store.Backlog{Deliveries: stuck(relay.Held, 1), PaidNotResumed: 1},
		},
		{"two deliveries of one wait", []placed{
			{outcome: relay.Mismatch, status: relay.Dead, class: relay.Permanent, wait: one},
			{outcome: relay.Completed, status: relay.Scheduled, age: 90, due: 20, wait: one},
		}, store.Backlog{
			Deliveries: map[relay.DeliveryStatus]int{relay.Scheduled: 1, relay.Sending: 0, relay.Dead: 1}, PaidNotResumed: 1,
		}},
		{
			"expired and dead",
			[]placed{{outcome: relay.Expired, status: relay.Dead, class: relay.Permanent}},
			store.Backlog{Deliveries: stuck(relay.Dead, 1)},
		},
		{"paid and skipped, and delivered", []placed{
			{outcome: relay.Completed, status: relay.Skipped, age: 90}, {outcome: relay.Completed, status: relay.Delivered, class: relay.OK, age: 90},
		}, store.Backlog{Deliveries: owed(0)}},
		{
			"a destination is busy",
			[]placed{{outcome: relay.Failed, status: relay.Scheduled, class: relay.Retry, due: 60}},
			store.Backlog{Deliveries: owed(1)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, true)
			p := storetest.NewProject(t, storetest.Open(t, url, storetest.Keys(t)), "shop", "http://127.0.0.1:1")
			for _, d := range tt.put {
				d.put(t, p, url)
			}
			got, err := p.Store.Backlog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			late := cmpopts.EquateApprox(0, float64(15*time.Second)) // the rows grow older meanwhile
			seconds := cmp.Transformer("seconds", func(d time.Duration) float64 { return float64(d) })
			if diff := cmp.Diff(tt.want, got, seconds, late); diff != "" {
				t.Errorf("backlog (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBacklogOfWaitsAndSources holds the rest of it: waits that should have
// ended, and when a source was last heard of.
func TestBacklogOfWaitsAndSources(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	p := storetest.NewProject(t, storetest.Open(t, url, storetest.Keys(t)), "shop", "http://127.0.0.1:1")
	overdue, due := p.Wait(t, "overdue"), p.Wait(t, "due")
	storetest.Overdue(t, url, overdue.ID, due.ID) // by a second
	storetest.Exec(t, url, `UPDATE deadlines SET expires_at = now() - interval '6 seconds' WHERE correlation_id = $1`, overdue.ID)
	// Far enough in the future to stay within its 5 s however slow the test is.
	storetest.Exec(t, url, `UPDATE deadlines SET expires_at = now() + interval '1 minute' WHERE correlation_id = $1`, due.ID)
	heard := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	err := p.Store.NoteActivity(t.Context(), []store.SourceActivity{
		{ProjectID: p.ID, SourceID: p.SourceID, LastEventAt: heard},
		{ProjectID: p.ID, SourceID: p.OtherSourceID, LastError: "bad_signature", LastErrorAt: heard},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Store.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.WaitsOverdue != 1 {
		t.Errorf("waits overdue: got %d, want 1", got.WaitsOverdue)
	}
	if got.Held != nil {
		t.Errorf("held: got %v, want none", got.Held)
	}
	holdDestination(t, p)
	held, err := p.Store.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]store.HeldDestination{{Project: "shop", Name: "bot"}}, held.Held); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	want := []store.LastEvent{{SourceID: p.SourceID, At: heard}}
	if diff := cmp.Diff(want, got.LastEvents); diff != "" {
		t.Errorf("last events (-want +got):\n%s", diff)
	}
}

// backlogStatements are the statements of Backlog, each by a part of its text.
var backlogStatements = map[string]string{
	"count overdue waits":     "FROM deadlines WHERE expires_at <",
	"read what is owed":       "WITH owed AS MATERIALIZED",
	"count what rests":        "SELECT s.status, count(*)",
	"read who is held":        "WHERE d.held_at IS NOT NULL",
	"read when sources spoke": "SELECT s.id, a.last_event_at",
}

// maxBacklogBlocks is how many blocks one of them may touch where 1e5 rows are
// over and a few are not.
const maxBacklogBlocks = 100

// TestBacklogPlans has the server explain what Backlog runs, on 1e5 rows of
// which few are open, with statistics and without.
func TestBacklogPlans(t *testing.T) {
	t.Parallel()
	for name, analyzed := range map[string]string{"without statistics": `SELECT`, "with statistics": `ANALYZE`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, true)
			seen := &explained{plans: map[string][]explainedPlan{}}
			s, err := store.OpenNoticingEveryday(context.Background(), store.Config{
				URL: url + explaining, Keys: storetest.Keys(t), HotConnections: 1, Connections: 1,
			}, seen.add)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
			fillWithWhatIsOver(t, url)
			for range 20 {
				placed{outcome: relay.Completed, status: relay.Dead, class: relay.Permanent}.put(t, p, url)
				placed{outcome: relay.Completed, status: relay.Scheduled, age: 90}.put(t, p, url)
			}
			storetest.Exec(t, url, analyzed)
			seen.reset()
			b, err := s.Backlog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if b.PaidNotResumed != 40 || b.Deliveries[relay.Dead] != 20 || b.Deliveries[relay.Scheduled] != 20 {
				t.Errorf("backlog: got %+v, want 20 dead, 20 scheduled and all 40 not resumed", b)
			}
			for name, part := range backlogStatements {
				plans := seen.of(part)
				if len(plans) == 0 {
					t.Errorf("%s: the server explained no such statement", name)
				}
				for _, plan := range plans {
					if table := plan.Plan.scans(); table != "" {
						t.Errorf("%s: scans the table %s:\n%s", name, table, plan.text)
					}
					if got := plan.Plan.Hit + plan.Plan.Read; got > maxBacklogBlocks {
						t.Errorf("%s: touches %d blocks, want at most %d:\n%s", name, got, maxBacklogBlocks, plan.text)
					}
				}
			}
		})
	}
}

// fillWithWhatIsOver puts in 1e5 deliveries that were made, and 1e5 waits that
// have time.
func fillWithWhatIsOver(t *testing.T, url string) {
	t.Helper()
	storetest.Exec(t, url, `
		INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, status, retry_for, give_up_at,
		                        finished_at, attempts, started_at, class)
		SELECT 99, gen_random_uuid(), gen_random_uuid(), 99, 'completed', 'completed', 'delivered', 60, now(), now(), 1, now(), 'ok'
		FROM generate_series(1, 100000)`)
	storetest.Exec(t, url, `
		INSERT INTO deadlines (correlation_id, project_id, expires_at, scope)
		SELECT gen_random_uuid(), 99, now() + i * interval '1 second', gen_random_uuid() FROM generate_series(1, 100000) i`)
}
