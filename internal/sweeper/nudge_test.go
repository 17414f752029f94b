package sweeper_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// nudging registers a wait with nudges, each after a minute.
func nudging(t *testing.T, p *storetest.Project, user string, nudges ...relay.Nudge) relay.Wait {
	t.Helper()
	doc := p.Plan()
	for _, n := range nudges {
		n.After = relay.Duration(time.Minute)
		n.Action = relay.Action{Action: relay.TriggerMessage, Text: "Still there?", DestinationID: p.DestinationID}
		doc.Nudge = append(doc.Nudge, n)
	}
	reg := p.Registration(t, user, doc)
	for _, n := range doc.Nudge {
		reg.Nudges = append(reg.Nudges, time.Duration(n.After))
	}
	return p.Register(t, reg)
}

// minuteLater makes the nudges due that there are.
func minuteLater(t *testing.T, url string) {
	t.Helper()
	storetest.Exec(t, url, `UPDATE nudges SET due_at = due_at - interval '1 minute'`)
}

// nudged lists what nudges a wait has fired and what is left of them.
func nudged(t *testing.T, url string, wait uuid.UUID) string {
	t.Helper()
	return storetest.Query[string](t, url, `
		SELECT concat_ws(' ', (SELECT string_agg(action || '=' || status, ' ' ORDER BY id) FROM deliveries WHERE correlation_id = $1),
		                 (SELECT count(*) || ' left' FROM nudges WHERE correlation_id = $1))`, wait)
}

func TestNudge(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	pass := func(want int) {
		t.Helper()
		if got, err := n.NudgeOnce(t.Context()); err != nil || got != want {
			t.Fatalf("a pass: got %d, %v, want %d nudges taken", got, err, want)
		}
	}
	opening := func(waits ...relay.Wait) {
		t.Helper()
		for _, w := range waits {
			if err := p.Store.NoteOpenings(t.Context(), []store.Opening{{ProjectID: w.ProjectID, CorrelationID: w.ID, At: time.Now()}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	waits := map[string]relay.Wait{}
	for _, name := range []string{"pending", "opened", "overdue", "paid by a slow bank"} {
		waits[name] = nudging(t, p, name, relay.Nudge{Unless: relay.UnlessOpened})
	}
	waits["opened, and not finished"] = nudging(t, p, "u-4", relay.Nudge{Unless: relay.UnlessFinished})
	waits["ended"] = nudging(t, p, "u-5", relay.Nudge{})
	waits["two at once"] = nudging(t, p, "u-6", relay.Nudge{}, relay.Nudge{})
	waits["superseded"] = nudging(t, p, "u-7", relay.Nudge{})
	p.Wait(t, "u-7")
	opening(waits["opened"], waits["opened, and not finished"])
	storetest.Overdue(t, url, waits["ended"].ID)
	if got, err := n.ExpireOnce(t.Context()); err != nil || got != 1 {
		t.Fatalf("expiring: got %d, %v", got, err)
	}
	storetest.Overdue(t, url, waits["overdue"].ID)
	storetest.Exec(t, url, `UPDATE correlations SET extended = true WHERE id = $1`, waits["paid by a slow bank"].ID)

	pass(0) // none is due
	if got := nudged(t, url, waits["pending"].ID); got != "1 left" {
		t.Errorf("not due: got %q, want it left", got)
	}
	minuteLater(t, url)
	pass(9)
	for name, want := range map[string]string{
		"pending": "nudge_1=scheduled 0 left", "opened": "0 left", "overdue": "0 left", "paid by a slow bank": "0 left", "ended": "expired=scheduled 0 left",
		"opened, and not finished": "nudge_1=scheduled 0 left", "superseded": "0 left",
		"two at once": "nudge_1=scheduled nudge_2=scheduled 0 left",
	} {
		if got := nudged(t, url, waits[name].ID); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	pass(0) // once each
	// Handed over are those that have the turn of their conversation.
	var handed int
	for _, d := range n.handedOver {
		if d.Outcome == relay.Nudged {
			handed++
			if d.EventID != uuid.Nil || d.Action != "nudge_1" || d.DestinationID != p.DestinationID || d.Lease == uuid.Nil {
				t.Errorf("handed over %+v, want the first nudge, leased", d)
			}
		}
	}
	if handed != 3 {
		t.Errorf("%d nudges were handed over, want 3", handed)
	}
}

// After a time without nodes a person is reminded once, of where they stand now.
func TestNudgesAfterAnOutage(t *testing.T) {
	t.Parallel()
	desk := func(p *storetest.Project) int64 {
		return p.AddDestination(t, relay.Destination{Name: "desk", BaseURL: "http://127.0.0.1:1"})
	}
	says := func(to int64) relay.Action {
		return relay.Action{Action: relay.TriggerMessage, Text: "Still there?", DestinationID: to}
	}
	for name, tt := range map[string]struct {
		unless []string
		opened bool
		apart  bool          // the first goes to another destination
		ago    time.Duration // since when the last is due; those before it an hour each before that
		want   string
	}{
		"three of an hour each": {[]string{"", "", ""}, false, false, time.Second, "nudge_1=skipped nudge_2=skipped nudge_3=scheduled"},
		"the later is needless": {[]string{"", relay.UnlessOpened}, true, false, time.Second, "nudge_1=scheduled"},
		"the earlier is":        {[]string{relay.UnlessOpened, ""}, true, false, time.Second, "nudge_2=scheduled"},
		"the later is to come":  {[]string{"", ""}, false, false, -time.Minute, "nudge_1=scheduled"},
		"the first for a desk":  {[]string{"", ""}, false, true, time.Second, "nudge_1=scheduled nudge_2=scheduled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			n := newNode(t, p.Store)
			doc := p.Plan()
			for i, unless := range tt.unless {
				to := p.DestinationID
				if i == 0 && tt.apart {
					to = desk(p)
				}
				doc.Nudge = append(doc.Nudge, relay.Nudge{After: relay.Duration(time.Duration(i+1) * time.Hour), Unless: unless, Action: says(to)})
			}
			reg := p.Registration(t, "u", doc)
			for _, one := range doc.Nudge {
				reg.Nudges = append(reg.Nudges, time.Duration(one.After))
			}
			w := p.Register(t, reg)
			if tt.opened {
				if err := p.Store.NoteOpenings(t.Context(), []store.Opening{{ProjectID: w.ProjectID, CorrelationID: w.ID, At: time.Now()}}); err != nil {
					t.Fatal(err)
				}
			}
			away := time.Duration(len(tt.unless))*time.Hour + tt.ago
			storetest.Exec(t, url, `UPDATE nudges SET due_at = due_at - $1 * interval '1 second'`, away.Seconds())
			if _, err := n.NudgeOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := storetest.Query[string](t, url, `
				SELECT string_agg(action || '=' || status, ' ' ORDER BY action) FROM deliveries WHERE correlation_id = $1`, w.ID)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if skipped := storetest.Query[int](t, url, `
				SELECT count(*) FROM deliveries WHERE status = 'skipped' AND finished_at IS NOT NULL AND reason LIKE 'passed over: %'`); skipped != strings.Count(tt.want, "skipped") {
				t.Errorf("%d say that they were passed over", skipped)
			}
		})
	}
}

func TestTwoSweepersNudgeOnce(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	nodes := []*node{newNode(t, p.Store), newNode(t, storetest.Open(t, url, storetest.Keys(t)))}
	const all = 450 // more than two batches
	for i := range all {
		nudging(t, p, "u-"+string(rune('0'+i%10))+uuid.NewString(), relay.Nudge{})
	}
	minuteLater(t, url)
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error {
			for {
				if got, err := n.NudgeOnce(context.Background()); err != nil || got == 0 {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := storetest.Query[string](t, url, `
		SELECT concat_ws(' ', count(*), count(DISTINCT correlation_id), (SELECT count(*) FROM nudges)) FROM deliveries`); got != "450 450 0" {
		t.Errorf("got deliveries, waits and nudges left %s, want 450 450 0", got)
	}
	if got := len(nodes[0].handedOver) + len(nodes[1].handedOver); got != all {
		t.Errorf("%d deliveries were handed over, want %d", got, all)
	}
}

// A nudge whose wait somebody works on is left, and looked at when that is done.
func TestNudgeWhileACallbackHoldsTheWait(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	w := nudging(t, p, "u-1", relay.Nudge{})
	minuteLater(t, url)
	t.Run("held", func(t *testing.T) {
		storetest.Hold(t, url, `SELECT FROM correlations WHERE id = $1 FOR UPDATE`, w.ID)
		if got, err := n.NudgeOnce(t.Context()); err != nil || got != 0 {
			t.Errorf("got %d, %v, want it left", got, err)
		}
	})
	in := newIntake(t, p.Store)
	if _, err := in.Accept(t.Context(), p.Paid("evt_1", "pi_1", w.Token)); err != nil {
		t.Fatal(err)
	}
	if got, err := n.NudgeOnce(t.Context()); err != nil || got != 1 {
		t.Errorf("got %d, %v, want it taken", got, err)
	}
	if got, want := nudged(t, url, w.ID), "completed=scheduled 0 left"; got != want {
		t.Errorf("got %q, want %q: no nudge after the outcome", got, want)
	}
}

// A payment that comes while a nudge is being decided waits for it: the nudge
// goes first, and the outcome behind it. One that could not be sent by then is
// skipped.
func TestNudgeMeetsOutcome(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := nudging(t, p, "u-1", relay.Nudge{})
	minuteLater(t, url)
	in := newIntake(t, storetest.Open(t, url, storetest.Keys(t)))
	doc := p.Plan()
	doc.Nudge = relay.Nudges{{Action: relay.Action{Action: relay.TriggerMessage, Text: "Still there?", DestinationID: p.DestinationID}}}
	compiled, err := plan.Compile(&doc)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	lease := uuid.New()
	_, deliveries, err := p.Store.NudgeDue(t.Context(), lease, 1, func(_ context.Context, due []*store.DueNudge) (owed, passed []relay.Delivery, err error) {
		go func() {
			for { // as a provider does, where it has waited for the lock too long
				_, err := in.Accept(context.Background(), p.Paid("evt_1", "pi_1", w.Token))
				if !relay.IsKind(err, relay.Busy) {
					accepted <- err
					return
				}
			}
		}()
		blocked(t, url)
		return []relay.Delivery{*compiled.NudgeOf(due[0].Wait, 0)}, nil, nil
	})
	if err != nil || len(deliveries) != 1 {
		t.Fatalf("nudging: got %d deliveries, %v", len(deliveries), err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if got, want := nudged(t, url, w.ID), "nudge_1=scheduled completed=scheduled 0 left"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	if got := storetest.Query[string](t, url, `SELECT string_agg(action, ' ') FROM deliveries WHERE due_at IS NOT NULL`); got != "nudge_1" {
		t.Errorf("due: got %s, want the nudge alone, and the outcome behind it", got)
	}
	// Its platform did not take it: it is not tried again.
	a := relay.Attempt{
		ProjectID: p.ID, DeliveryID: deliveries[0].ID, Lease: lease, Conversation: deliveries[0].Conversation,
		OnTheWay: deliveries[0].Outcome.OnTheWay(), StartedAt: time.Now(), Class: relay.Retry, Next: relay.Scheduled, Delay: time.Hour,
	}
	if _, err := p.Store.RecordAttempts(t.Context(), []relay.Attempt{a}); err != nil {
		t.Fatal(err)
	}
	claimed, err := p.Store.ClaimDue(t.Context(), uuid.New(), 10)
	if err != nil || len(claimed) != 1 || !claimed[0].Pointless() {
		t.Fatalf("claimed %+v, %v, want the nudge, at once and pointless", claimed, err)
	}
	if _, err := p.Store.SkipClosed(t.Context(), &claimed[0]); err != nil {
		t.Fatal(err)
	}
	if got, want := nudged(t, url, w.ID), "nudge_1=skipped completed=scheduled 0 left"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	claimed, err = p.Store.ClaimDue(t.Context(), uuid.New(), 10)
	if err != nil || len(claimed) != 1 || claimed[0].Outcome != relay.Completed {
		t.Errorf("claimed %+v, %v, want the outcome, whose turn it is", claimed, err)
	}
}

// A nudge that waits for its retry when the outcome comes gives way at once.
func TestOutcomeSkipsNudge(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	w := nudging(t, p, "u-1", relay.Nudge{})
	minuteLater(t, url)
	if _, err := n.NudgeOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, url, `UPDATE deliveries SET lease = NULL, due_at = now() + interval '1 hour'`)
	if _, err := newIntake(t, p.Store).Accept(t.Context(), p.Paid("evt_1", "pi_1", w.Token)); err != nil {
		t.Fatal(err)
	}
	claimed, err := p.Store.ClaimDue(t.Context(), uuid.New(), 10)
	if err != nil || len(claimed) != 1 || claimed[0].Outcome != relay.Nudged || !claimed[0].Pointless() {
		t.Errorf("claimed %+v, %v, want the nudge, due and pointless", claimed, err)
	}
}

// newIntake runs an intake until the test ends.
func newIntake(t *testing.T, s *store.Store) *intake.Intake {
	t.Helper()
	in, err := intake.New(intake.Config{
		Store: s, Plans: plan.NewCache(s.Plan), HandOver: func([]relay.Delivery) {}, Log: leaks.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- in.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("intake ended with %v", err)
		}
	})
	return in
}

// blocked returns once somebody waits for one who has locked something of the
// test's waits. Other tests have waits and locks of their own.
func blocked(t *testing.T, url string) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n := storetest.Query[int](t, url, `
			SELECT count(*) FROM pg_locks waiting JOIN pg_locks held ON held.pid = ANY (pg_blocking_pids(waiting.pid))
			WHERE NOT waiting.granted AND held.relation = 'correlations'::regclass
			  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		if n > 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("nobody waits for a lock after %v", patience)
		case <-tick.C:
		}
	}
}
