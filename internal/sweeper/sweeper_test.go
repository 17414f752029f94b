package sweeper_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
	"relay.example/relay/internal/sweeper"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// nothing is a pass that finds nothing.
func nothing(context.Context) (int, error) { return 0, nil }

// node is a sweeper with what it handed over and what it logged.
type node struct {
	*sweeper.Sweeper
	mu         sync.Mutex
	handedOver []relay.Delivery
	log        bytes.Buffer
}

func newNode(t *testing.T, s *store.Store) *node {
	t.Helper()
	n := &node{}
	var err error
	n.Sweeper, err = sweeper.New(sweeper.Config{
		Store: s, Plans: plan.NewCache(s.Plan), MatchParked: nothing, Replay: nothing, Log: slog.New(slog.NewTextHandler(leaks.Watch(t, &n.log), nil)),
		HandOver: func(ds []relay.Delivery) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.handedOver = append(n.handedOver, ds...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func project(t *testing.T) (*storetest.Project, string) {
	t.Helper()
	url := storetest.URL(t, true)
	return storetest.NewProject(t, storetest.Open(t, url, storetest.Keys(t)), "shop", "http://127.0.0.1:1"), url
}

// waits registers n waits and returns their ids.
func waits(t *testing.T, p *storetest.Project, n int) (all []relay.Wait, ids []uuid.UUID) {
	t.Helper()
	regs := make([]store.Registration, n)
	for i := range regs {
		regs[i] = p.Registration(t, "u-"+strconv.Itoa(i), p.Plan())
		all, ids = append(all, regs[i].Wait), append(ids, regs[i].Wait.ID)
	}
	p.Register(t, regs...)
	return all, ids
}

func TestExpire(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	due, later := p.Wait(t, "due"), p.Wait(t, "later")
	storetest.Overdue(t, url, due.ID)
	for i, want := range []int{1, 0} {
		if got, err := n.ExpireOnce(t.Context()); err != nil || got != want {
			t.Errorf("pass %d: got %d, %v, want %d", i, got, err, want)
		}
	}
	for id, want := range map[uuid.UUID]string{due.ID: "expired deadline 0 expired>expired", later.ID: "pending 1"} {
		if got := storetest.Query[string](t, url, `
			SELECT concat_ws(' ', status, resolved_by, (SELECT count(*) FROM deadlines WHERE correlation_id = c.id),
			                 (SELECT string_agg(outcome || '>' || action, ' ') FROM deliveries WHERE correlation_id = c.id))
			FROM correlations c WHERE id = $1`, id); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if len(n.handedOver) != 1 || n.handedOver[0].Wait.ID != due.ID || n.handedOver[0].EventID != uuid.Nil {
		t.Errorf("handed over %+v, want the delivery of the wait that was due, without event", n.handedOver)
	}
}

func TestTwoSweepersFireOnce(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	nodes := []*node{newNode(t, p.Store), newNode(t, storetest.Open(t, url, storetest.Keys(t)))}
	_, ids := waits(t, p, 1200) // more than two batches
	storetest.Overdue(t, url, ids...)
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error {
			for {
				if got, err := n.ExpireOnce(context.Background()); err != nil || got == 0 {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`SELECT count(*) FROM correlations WHERE status = 'expired'`, `SELECT count(*) FROM deliveries`,
		`SELECT count(DISTINCT correlation_id) FROM deliveries`,
	} {
		if got := storetest.Query[int](t, url, sql); got != len(ids) {
			t.Errorf("%s: got %d, want %d", sql, got, len(ids))
		}
	}
	if got := len(nodes[0].handedOver) + len(nodes[1].handedOver); got != len(ids) {
		t.Errorf("%d deliveries were handed over, want %d", got, len(ids))
	}
}

// A payment and the deadline meet, over and over: each wait closes once and
// fires once, and a payment that came second is late, never lost.
func TestExpiryMeetsCompletion(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, storetest.Open(t, url, storetest.Keys(t)))
	in := newIntake(t, p.Store)
	const rounds, each = 20, 8
	for round := range rounds {
		all, ids := waits(t, p, each)
		storetest.Overdue(t, url, ids...)
		var g errgroup.Group
		for i, w := range all {
			g.Go(func() error {
				_, err := in.Accept(context.Background(), p.Paid(fmt.Sprintf("evt_%d_%d", round, i), fmt.Sprintf("pi_%d_%d", round, i), w.Token))
				return err
			})
		}
		g.Go(func() error {
			_, err := n.ExpireOnce(context.Background())
			return err
		})
		if err := g.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	bad := storetest.Query[string](t, url, `
		SELECT coalesce(string_agg(DISTINCT concat_ws(' ', c.status, c.late_outcome, d.fired), '; '), '')
		FROM correlations c LEFT JOIN LATERAL (
		    SELECT string_agg(outcome || '>' || action, ' ' ORDER BY outcome DESC) AS fired FROM deliveries WHERE correlation_id = c.id) d ON true
		WHERE concat_ws(' ', c.status, c.late_outcome, d.fired) NOT IN
		      ('completed completed>completed', 'expired completed expired>expired completed>completed_late')`)
	if bad != "" {
		t.Errorf("waits ended as: %s", bad)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deadlines`); got != 0 {
		t.Errorf("%d deadlines are left, want none", got)
	}
	t.Logf("%d of %d were expired first", storetest.Query[int](t, url, `SELECT count(*) FROM correlations WHERE status = 'expired'`), rounds*each)
}

// A wait whose plan cannot be used is left pending, said so, and holds up
// nobody: not even where there are as many of them as a pass takes.
func TestUnusablePlanHoldsUpNobody(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	broken := p.Plan()
	broken.When = "true"
	regs := make([]store.Registration, 500)
	ids := make([]uuid.UUID, len(regs))
	for i := range regs {
		regs[i] = p.Registration(t, "bad-"+strconv.Itoa(i), broken)
		ids[i] = regs[i].Wait.ID
	}
	p.Register(t, regs...)
	storetest.Overdue(t, url, ids...)
	storetest.Exec(t, url, `UPDATE deadlines SET expires_at = expires_at - interval '1 hour'`) // they come first
	storetest.Exec(t, url, `UPDATE plans SET doc = '{"when": "no such ("}' WHERE id = $1`, regs[0].Wait.PlanID)
	good := p.Wait(t, "good")
	storetest.Overdue(t, url, good.ID)
	for i, want := range []int{500, 1, 0} {
		if got, err := n.ExpireOnce(t.Context()); err != nil || got != want {
			t.Errorf("pass %d: got %d, %v, want %d", i, got, err, want)
		}
	}
	const status = `SELECT string_agg(DISTINCT status, ' ') FROM correlations WHERE id = ANY($1)`
	if got := storetest.Query[string](t, url, status, []uuid.UUID{good.ID}); got != "expired" {
		t.Errorf("the wait behind them is %s, want expired", got)
	}
	if got := storetest.Query[string](t, url, status, ids); got != "pending" {
		t.Errorf("the waits without a usable plan are %s, want pending", got)
	}
	if got := strings.Count(n.log.String(), "level=ERROR"); got != len(ids) {
		t.Errorf("%d errors were logged, want one for each of %d", got, len(ids))
	}
	// Once the plan can be used, they end.
	storetest.Exec(t, url, `UPDATE plans SET doc = (SELECT doc FROM plans WHERE id = $2) WHERE id = $1`, regs[0].Wait.PlanID, good.PlanID)
	storetest.Overdue(t, url, ids...)
	if got, err := n.ExpireOnce(t.Context()); err != nil || got != len(ids) {
		t.Errorf("with the plan repaired: got %d, %v, want %d", got, err, len(ids))
	}
	if got := storetest.Query[string](t, url, status, ids); got != "expired" {
		t.Errorf("with the plan repaired they are %s, want expired", got)
	}
}

// Without the database the plans cannot be read either: nothing ends, and
// nothing is blamed on the plan.
func TestUnreachablePlansEndNothing(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	storetest.Overdue(t, url, w.ID)
	var log bytes.Buffer
	s, err := sweeper.New(sweeper.Config{
		Store: p.Store, Log: slog.New(slog.NewTextHandler(leaks.Watch(t, &log), nil)), HandOver: func([]relay.Delivery) {},
		MatchParked: nothing, Replay: nothing,
		Plans: plan.NewCache(func(ctx context.Context, id uuid.UUID) (*relay.Plan, error) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return p.Store.Plan(ctx, id)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ExpireOnce(t.Context()); !relay.IsKind(err, relay.Busy) {
		t.Errorf("got %v, want busy", err)
	}
	if log.Len() != 0 {
		t.Errorf("logged: %s", log.String())
	}
	if got, err := newNode(t, p.Store).ExpireOnce(t.Context()); err != nil || got != 1 {
		t.Errorf("the next pass: got %d, %v, want the wait", got, err)
	}
}

// patience is how long a test waits for what should come soon: longer than any
// machine stands still, since waiting costs nothing when it does come.
const patience = 2 * time.Minute

// Run fires a deadline by itself, looks often enough for it to be fired within
// a second, and ends with its context.
func TestRun(t *testing.T) {
	t.Parallel()
	if sweeper.ExpireInterval > time.Second/2 {
		t.Errorf("deadlines are looked for every %s: want them fired within a second", sweeper.ExpireInterval)
	}
	p, url := project(t)
	n := newNode(t, p.Store)
	storetest.Exec(t, url, `INSERT INTO idempotency_keys (key, project_id, request, correlation_id, created_at) VALUES (gen_random_uuid(), 1, '', gen_random_uuid(), now() - interval '25 hours')`)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- n.Run(ctx) }()
	for _, user := range []string{"u-1", "u-2"} { // the second one becomes due when Run has looked already
		w := p.Wait(t, user)
		storetest.Overdue(t, url, w.ID)
		deadline := time.Now().Add(patience)
		for storetest.Query[string](t, url, `SELECT status || (SELECT count(*) FROM idempotency_keys) FROM correlations WHERE id = $1`, w.ID) != "expired0" {
			if time.Now().After(deadline) {
				t.Fatalf("waited %v in vain until the wait expired and the old key was cleared", patience)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Errorf("got %v, want it to end with its context", err)
	}
}

// What was parked for longer than 72 h is unmatched after a pass, what was
// parked for less is not.
func TestUnpark(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	for _, hours := range []int{71, 73} {
		storetest.Exec(t, url, `
			WITH e AS (
			    INSERT INTO events (project_id, id, source_id, received_at, verdict, match, rule, format, provider_event_id)
			    VALUES ($1, gen_random_uuid(), $2, now(), 'verified', 'parked', 'nobody_waits_yet', 'json', $3::integer::text)
			    RETURNING id)
			INSERT INTO parked_refs (event_id, ref, project_id, source_id, number, key_only, parked_at)
			SELECT id, gen_random_uuid(), $1, $2, 0, true, now() - $3::integer * interval '1 hour' FROM e`, p.ID, p.SourceID, hours)
	}
	for i, want := range []int{1, 0} {
		if got, err := n.UnparkOnce(t.Context()); err != nil || got != want {
			t.Errorf("pass %d: got %d, %v, want %d", i, got, err, want)
		}
	}
	got := storetest.Query[string](t, url, `SELECT string_agg(concat_ws(' ', provider_event_id, match, rule), ', ' ORDER BY provider_event_id) FROM events`)
	if want := "71 parked nobody_waits_yet, 73 unmatched nobody_came"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A conversation whose slot an older program has left goes on.
func TestPassOn(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	for round := range 2 { // the second pass begins with the first slot again
		conversation, ended, waiting := uuid.New(), relay.NewID(), relay.NewID()
		for id, status := range map[uuid.UUID]string{ended: "delivered", waiting: "scheduled"} {
			storetest.Exec(t, url, `
				INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, status, conversation, retry_for, give_up_at, finished_at)
				VALUES ($1, $2, $2, $3, 'refunded', 'refunded', $4::text, $5, 60, now(), CASE WHEN $4::text = 'delivered' THEN now() END)`,
				p.ID, id, p.DestinationID, status, conversation)
		}
		if seen, err := n.PassOnOnce(t.Context()); err != nil || seen != 1 {
			t.Fatalf("round %d: looked at %d, %v, want 1", round, seen, err)
		}
		if !storetest.Query[bool](t, url, `SELECT coalesce(due_at <= now(), false) FROM deliveries WHERE id = $1`, waiting) {
			t.Error("the one that waited is not due")
		}
	}
}

// What is kept no longer goes by itself, piece by piece, and its names after it.
func TestClearKept(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	reg := p.Registration(t, "u-1", p.Plan())
	reg.Wait.Key = "order-1"
	w := p.Register(t, reg)
	storetest.Overdue(t, url, w.ID)
	if _, err := n.ExpireOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, url, `UPDATE deliveries SET status = 'skipped', due_at = NULL, lease = NULL, finished_at = now()`)
	storetest.Age(t, url, 401*24*time.Hour)
	pieces := 0
	for range 20 { // the first pass makes the cursors
		got, err := n.ClearKeptOnce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pieces += got
	}
	if pieces == 0 || pieces == 20 {
		t.Errorf("worked off %d pieces in 20 passes, want some and an end", pieces)
	}
	if got, err := n.ClearNamesOnce(t.Context()); err != nil || got != 1 {
		t.Errorf("cleared %d names, %v, want one", got, err)
	}
	if got := storetest.Query[int](t, url, `SELECT (SELECT count(*) FROM correlations) + (SELECT count(*) FROM correlation_refs) + (SELECT count(*) FROM deliveries)`); got != 0 {
		t.Errorf("%d rows are left, want none", got)
	}
}

// An erasure that was answered is ended by another node when its own is gone.
func TestErasureSurvivesItsNode(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	for i := range 250 { // three pieces
		r := p.Registration(t, "jo", p.Plan())
		r.Wait.Scope = store.ScopeHash(p.ID, strconv.Itoa(i))
		p.Register(t, r)
	}
	if err := p.Store.StartErasure(t.Context(), p.ID, "jo"); err != nil {
		t.Fatal(err)
	}
	if got, err := n.EraseOnce(t.Context()); err != nil || got != 0 {
		t.Errorf("took %d, %v, want the erasure left to the node that has it", got, err)
	}
	storetest.Exec(t, url, `UPDATE erasures SET due_at = now()`)
	for i, want := range []int{1, 0} {
		if got, err := n.EraseOnce(t.Context()); err != nil || got != want {
			t.Errorf("pass %d: took %d, %v, want %d", i, got, err, want)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) + (SELECT count(*) FROM erasures) FROM correlations WHERE user_id <> '' OR status <> 'cancelled'`); got != 0 {
		t.Errorf("%d waits or erasures are left, want none", got)
	}
}
