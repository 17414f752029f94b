package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestHashesKeepTheirDomainsApart(t *testing.T) {
	t.Parallel()
	seen := map[uuid.UUID]string{}
	for name, h := range map[string]uuid.UUID{
		"ref 1 a": store.RefHash(1, "a"), "ref 2 a": store.RefHash(2, "a"), "ref 1 b": store.RefHash(1, "b"), "ref 1": store.RefHash(1, ""),
		"event 1 a": store.DedupeHash(1, "a"), "event 2 a": store.DedupeHash(2, "a"), "plan 1 a": store.PlanID(1, []byte("a")),
		"scope 1 a": store.ScopeHash(1, "a"), "conversation 1 a": store.ConversationHash(1, "a"), "idempotency 1 a": store.IdempotencyHash(1, "a"),
	} {
		if other, taken := seen[h]; taken {
			t.Errorf("%s and %s have the same hash", name, other)
		}
		seen[h] = name
	}
	// Stored rows depend on it: it never changes.
	if got, want := store.RefHash(7, "pi_1").String(), "f7345750-b68c-05bd-3d1d-66f12b3b029f"; got != want {
		t.Errorf("RefHash(7, pi_1): got %s, want %s", got, want)
	}
}

// One row among 256 that the database refuses is told apart from a database
// that is gone, leaves nothing behind, and takes no connection with it.
func TestPoisonedBatchLeavesNothing(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	storetest.Exec(t, url, `
		CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22P02'; END $$`)
	storetest.Exec(t, url, `
		CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.body = '\x706f69736f6e') EXECUTE FUNCTION poison()`)
	w := p.Wait(t, "u-1")
	batch := make([]relay.Callback, 256)
	for i := range batch {
		batch[i] = deduped(p.Callback("evt_"+strconv.Itoa(i), relay.Completed, ""))
	}
	batch[0] = deduped(p.Paid("evt_paid", "pi_1", w.Token))
	batch[200].Body = []byte("poison")
	_, err := commitTo(p.Store, p, batch...)
	if !store.Poisoned(err) || store.Conflicted(err) || relay.IsKind(err, relay.Busy) {
		t.Fatalf("got %v, want a poisoned batch", err)
	}
	for table, want := range map[string]int{"events": 0, "deliveries": 0} {
		if got := storetest.Query[int](t, url, `SELECT count(*) FROM `+table); got != want {
			t.Errorf("%s: got %d rows, want %d", table, got, want)
		}
	}
	if got := commit(t, p, slices.Delete(slices.Clone(batch), 200, 201)...); len(got) != 1 {
		t.Errorf("the others fired %d deliveries, want 1", len(got))
	}
}

// Two nodes commit events of the same waits in opposite orders.
func TestOppositeOrdersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	nodes := []*store.Store{p.Store, storetest.Open(t, url, storetest.Keys(t))}
	const rounds, waits = 40, 12
	for round := range rounds {
		var tokens []string
		for i := range waits {
			tokens = append(tokens, p.Wait(t, "u-"+strconv.Itoa(i)).Token)
		}
		var g errgroup.Group
		for i, s := range nodes {
			var batch []relay.Callback
			for j, token := range tokens {
				// Processing moves deadlines too: every table of a wait is written.
				c := deduped(p.Callback(fmt.Sprintf("evt_%d_%d_%d", round, i, j), []relay.Outcome{relay.Processing, relay.Completed}[(i+j)%2], token))
				batch = append(batch, c)
			}
			if i == 1 {
				slices.Reverse(batch)
			}
			g.Go(func() error {
				_, err := commitTo(s, p, batch...)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// A late success closes a successor that it had not locked. Whatever else
// closes that one in the same moment: it closes once, and what deadlocks is
// told so that it is repeated.
func TestLateSuccessMeetsItsClosingSuccessor(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	nodes := []*store.Store{p.Store, storetest.Open(t, url, storetest.Keys(t))}
	for round := range 8 {
		user := "u-" + strconv.Itoa(round)
		// Two conversations, so that the two batches hold one lock each that
		// the other one wants.
		oldA, oldB := p.Wait(t, user+"a"), p.Wait(t, user+"b")
		newA, newB := p.Wait(t, user+"a"), p.Wait(t, user+"b")
		batches := [][]relay.Callback{
			{p.Paid("1"+user, "pi_1", oldA.Token), p.Callback("2"+user, relay.Failed, newB.Token)},
			{p.Paid("3"+user, "pi_3", oldB.Token), p.Callback("4"+user, relay.Failed, newA.Token)},
		}
		var g errgroup.Group
		for i, s := range nodes {
			g.Go(func() (err error) {
				for range 5 {
					if _, err = commitTo(s, p, batches[i]...); !store.Conflicted(err) {
						return err
					}
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		got := storetest.Query[string](t, url, `
			SELECT string_agg(status || coalesce('/' || late_outcome, ''), ' ' ORDER BY id) FROM correlations WHERE id = ANY($1)`,
			[]uuid.UUID{oldA.ID, oldB.ID})
		if want := "superseded/completed superseded/completed"; got != want {
			t.Errorf("round %d: the older waits are %q, want %q", round, got, want)
		}
		if left := storetest.Query[int](t, url, `SELECT count(*) FROM deadlines`); left != 0 {
			t.Errorf("round %d: %d successors are pending, want none", round, left)
		}
	}
}

// A node that holds the successor while a late success wants it, and then
// wants what the late success holds: one of the two is told to repeat. It is
// the late success where the circle is closed before Postgres has looked for
// one, a second after that began to wait: else they meet again.
func TestDeadlockIsToldAsAConflict(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	conn := connect(t, url)
	exec := func(sql string, args ...any) error {
		_, err := conn.Exec(context.Background(), sql, args...)
		return err
	}
	if err := exec(`SET deadlock_timeout = '5s'`); err != nil {
		t.Fatal(err)
	}
	for meeting := range 10 {
		user, event := fmt.Sprint("u-", meeting), fmt.Sprint("evt_", meeting)
		old := p.Wait(t, user)
		successor := p.Wait(t, user)
		const lock = `SELECT FROM correlations WHERE id = $1 FOR UPDATE`
		for _, err := range []error{exec(`BEGIN`), exec(lock, successor.ID)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		committed := make(chan error, 1)
		go func() {
			_, err := commitTo(p.Store, p, p.Paid(event, "pi_1", old.Token))
			committed <- err
		}()
		until(t, "the late success waits for its successor", func() bool {
			return storetest.Query[int](t, url, `
				SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND $1 = ANY(pg_blocking_pids(pid))`, conn.PgConn().PID()) == 1
		})
		slow := exec(lock, old.ID) != nil
		if err := exec(`ROLLBACK`); err != nil {
			t.Fatal(err)
		}
		err := <-committed
		if slow && err == nil {
			continue
		}
		if !store.Conflicted(err) || store.Poisoned(err) {
			t.Errorf("got %v, want a conflict", err)
		}
		commit(t, p, p.Paid(event, "pi_1", old.Token))
		if c := must(p.Store.Correlation(t.Context(), p.ID, successor.ID))(t); c.Status != relay.StatusSuperseded || c.ResolvedBy != "late_success" {
			t.Errorf("the successor is %s by %s, want superseded by late_success", c.Status, c.ResolvedBy)
		}
		return
	}
	t.Error("the late success was never told of the deadlock")
}

// A successor that something else closes while the late success waits for it
// keeps the end that it had.
func TestLateSuccessLeavesAClosedSuccessor(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	old := p.Wait(t, "u-1")
	successor := p.Wait(t, "u-1")
	conn := connect(t, url)
	for _, sql := range []string{
		`BEGIN`,
		`UPDATE correlations SET status = 'failed', resolved_at = now(), resolved_by = 'event' WHERE status = 'pending'`,
		`DELETE FROM deadlines`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	committed := make(chan error, 1)
	go func() {
		_, err := commitTo(p.Store, p, p.Paid("evt_1", "pi_1", old.Token))
		committed <- err
	}()
	until(t, "the late success waits for its successor", func() bool {
		return storetest.Query[int](t, url, `SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))`, conn.PgConn().PID()) == 1
	})
	if _, err := conn.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if c := must(p.Store.Correlation(t.Context(), p.ID, successor.ID))(t); c.Status != relay.StatusFailed || c.ResolvedBy != "event" {
		t.Errorf("the successor is %s by %s, want failed by event", c.Status, c.ResolvedBy)
	}
}

// An extension that commits after the sweeper has looked, and before it has
// locked, is seen. The view holds the look up at a lock that the test has.
func TestExtensionIsNotOvertaken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		outcome relay.Outcome
		want    relay.Status
	}{{"extended", relay.Processing, relay.Pending}, {"completed", relay.Completed, relay.StatusCompleted}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			w := p.Wait(t, "u-1")
			storetest.Overdue(t, url, w.ID)
			gate := int64(uuid.New().ID())
			conn := connect(t, url)
			if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, gate); err != nil {
				t.Fatal(err)
			}
			n := strconv.FormatInt(gate, 10)
			for _, sql := range []string{
				`ALTER TABLE deadlines RENAME TO all_deadlines`,
				`CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
				 BEGIN
				     IF current_setting('application_name') = 'sweeping' THEN
				         PERFORM pg_advisory_lock(` + n + `), pg_advisory_unlock(` + n + `);
				     END IF;
				     RETURN true;
				 END $$`,
				`CREATE VIEW deadlines AS SELECT * FROM all_deadlines WHERE gate()`,
			} {
				storetest.Exec(t, url, sql)
			}
			sweeping := storetest.Open(t, url, storetest.Keys(t))
			if err := sweeping.NameHot(t.Context(), "sweeping"); err != nil {
				t.Fatal(err)
			}
			swept := make(chan error, 1)
			go func() {
				_, _, err := sweeping.ExpireDue(context.Background(), uuid.New(), 10, func(_ context.Context, waits []*store.Overdue) ([]store.Ending, error) {
					var endings []store.Ending
					for _, w := range waits {
						endings = append(endings, store.Ending{Wait: w.Wait, Step: w.Apply(relay.Expired, ""), By: "deadline"})
					}
					return endings, nil
				})
				swept <- err
			}()
			until(t, "the sweeper has looked", func() bool {
				return storetest.Query[int](t, url, `SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))`, conn.PgConn().PID()) == 1
			})
			commit(t, p, p.Callback("evt_1", tt.outcome, w.Token))
			if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_unlock($1)`, gate); err != nil {
				t.Fatal(err)
			}
			if err := <-swept; err != nil {
				t.Fatal(err)
			}
			if c := must(p.Store.Correlation(t.Context(), p.ID, w.ID))(t); c.Status != tt.want {
				t.Errorf("the wait is %s by %s, want %s", c.Status, c.ResolvedBy, tt.want)
			}
		})
	}
}

// A wait that nobody can end moves out of the way of those behind it.
func TestExpireDuePostponesWhatStaysPending(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	storetest.Overdue(t, url, w.ID)
	leave := func(context.Context, []*store.Overdue) ([]store.Ending, error) { return nil, nil }
	for i, want := range []int{1, 0} {
		if got, _, err := p.Store.ExpireDue(t.Context(), uuid.New(), 1, leave); err != nil || got != want {
			t.Errorf("look %d: took %d, %v, want %d", i, got, err, want)
		}
	}
	if c := must(p.Store.Correlation(t.Context(), p.ID, w.ID))(t); c.Status != relay.Pending || c.ExpiresAt.After(time.Now()) {
		t.Errorf("the wait is %s until %v, want pending and overdue", c.Status, c.ExpiresAt)
	}
}

func TestClearOldIsBounded(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	for i := range 7 {
		for _, hours := range []string{"23", "25", "71", "73"} {
			storetest.Exec(t, url, `INSERT INTO idempotency_keys (key, project_id, request, correlation_id, created_at)
				VALUES ($1, 1, '\x00', $1, now() - $2::text::interval)`, uuid.New(), hours+" hours")
			for _, verdict := range []string{"rejected", "verified"} {
				storetest.Exec(t, url, `INSERT INTO events (project_id, id, source_id, received_at, verdict, match, rule, format, headers, body)
					VALUES (1, $1, 1, now() - $2::text::interval, $3, 'unmatched', 'x', 'json', '{}', $4)`, uuid.New(), hours+" hours", verdict, []byte{byte(i)})
			}
		}
	}
	left := func() [3]int {
		return [3]int{
			storetest.Query[int](t, url, `SELECT count(*) FROM idempotency_keys`),
			storetest.Query[int](t, url, `SELECT count(*) FROM events WHERE body IS NOT NULL AND headers IS NOT NULL`),
			storetest.Query[int](t, url, `SELECT count(*) FROM events`),
		}
	}
	for i, want := range []struct {
		most int
		left [3]int
	}{
		{5, [3]int{23, 51, 56}},
		{5, [3]int{18, 49, 56}},
		{5, [3]int{13, 49, 56}},
		{5, [3]int{8, 49, 56}},
		{1, [3]int{7, 49, 56}},
		{0, [3]int{7, 49, 56}},
	} {
		most, err := p.Store.ClearOld(t.Context(), 5)
		if err != nil || most != want.most || left() != want.left {
			t.Errorf("pass %d: got %d, %v, left %v; want %d, left %v", i, most, err, left(), want.most, want.left)
		}
	}
}

func TestErrorsAreToldApart(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Store.Plan(cancelled, uuid.New()); !relay.IsKind(err, relay.Busy) || !errors.Is(err, context.Canceled) {
		t.Errorf("a query that is cancelled: got %v, want busy, with its cause", err)
	}
	if _, err := p.Store.Plan(t.Context(), uuid.New()); !relay.IsKind(err, relay.NotFound) {
		t.Errorf("an unknown plan: got %v, want not found", err)
	}
	if _, err := p.Store.Correlation(t.Context(), p.ID+1, p.Wait(t, "u").ID); !relay.IsKind(err, relay.NotFound) {
		t.Errorf("a wait of another project: got %v, want not found", err)
	}
	p.Store.Close()
	if _, err := p.Store.ClaimDue(t.Context(), uuid.New(), 1); err == nil {
		t.Error("a closed store claimed")
	}
}

// patience is how long a test waits for what should come soon: longer than any
// machine stands still, since waiting costs nothing when it does come.
const patience = 2 * time.Minute

// until polls a condition that another goroutine will make true.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A key moves on to a newer wait while a callback that goes by it waits for
// the older one: it is told to look again, and finds the newer.
func TestKeyThatMovesOnIsLookedUpAgain(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	reg := p.Registration(t, "u-1", p.Plan())
	reg.Wait.Key = "order-1"
	old := p.Register(t, reg)
	conn := connect(t, url)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	// What a registration does that supersedes the wait, up to its commit.
	exec(`BEGIN`)
	exec(`SELECT FROM correlations WHERE id = $1 FOR UPDATE`, old.ID)
	exec(`UPDATE correlations SET status = 'superseded', resolved_at = now(), resolved_by = 'newer_wait' WHERE id = $1`, old.ID)
	exec(`UPDATE correlation_refs SET key_active = false WHERE correlation_id = $1`, old.ID)
	exec(`DELETE FROM deadlines WHERE correlation_id = $1`, old.ID)
	committed := make(chan error, 1)
	go func() {
		_, err := commitTo(p.Store, p, p.Callback("evt_1", relay.Failed, "order-1"))
		committed <- err
	}()
	until(t, "the callback waits for the older wait", func() bool {
		return storetest.Query[int](t, url, `
			SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND $1 = ANY(pg_blocking_pids(pid))`, conn.PgConn().PID()) == 1
	})
	exec(`COMMIT`)
	if err := <-committed; !store.Conflicted(err) {
		t.Errorf("got %v, want to be told to look again", err)
	}
	if _, err := commitTo(p.Store, p, p.Callback("evt_2", relay.Failed, "order-1")); err != nil {
		t.Errorf("a callback for a key that has gone: got %v, want it kept", err)
	}
}

// Of what a stranger sends, too much is kept in no form: neither as bytes nor
// as the fields that were read out of them.
func TestOversizedStrangersAreNotKept(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	for name, size := range map[string]int{"small": 1 << 10, "large": 65 << 10} {
		c := deduped(p.Callback(name, relay.Completed, relay.NewToken()))
		c.Verdict, c.Body = relay.Unsigned, make([]byte, size)
		c.Reading.Form = map[string]any{"message": strings.Repeat("x", size)}
		commit(t, p, c)
	}
	got := storetest.Query[string](t, url, `
		SELECT string_agg(provider_event_id || ' ' || (body IS NOT NULL) || ' ' || (form IS NOT NULL), ', ' ORDER BY provider_event_id) FROM events`)
	if want := "large false false, small true true"; got != want {
		t.Errorf("kept (body, form): got %q, want %q", got, want)
	}
}
