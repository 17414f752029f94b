package store_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// tell has a wait owe n calls in one batch, and returns those that may be sent
// now. A refund fires in whatever state the wait is.
func tell(t *testing.T, p *storetest.Project, w relay.Wait, n int) []relay.Delivery {
	t.Helper()
	batch := make([]relay.Callback, n)
	for i := range batch {
		batch[i] = deduped(p.Callback("evt_"+relay.NewToken(), relay.Refunded, w.Token))
	}
	return commit(t, p, batch...)
}

// claimDue claims all that is due.
func claimDue(t *testing.T, p *storetest.Project) []relay.Delivery {
	t.Helper()
	return must(p.Store.ClaimDue(t.Context(), uuid.New(), 100))(t)
}

// claimOne claims what is due and wants it to be one delivery.
func claimOne(t *testing.T, p *storetest.Project) relay.Delivery {
	t.Helper()
	got := claimDue(t, p)
	if len(got) != 1 {
		t.Fatalf("claimed %d deliveries, want 1", len(got))
	}
	return got[0]
}

// end records an attempt and returns what became of it.
func end(t *testing.T, p *storetest.Project, d relay.Delivery, class relay.Class) store.Recorded {
	t.Helper()
	r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&d, class)}))(t)[0]
	if r.Stale {
		t.Fatalf("recording %s: the lease is stale", d.ID)
	}
	return r
}

// noSlotsLeft holds that nothing keeps a slot, or waits for one.
func noSlotsLeft(t *testing.T, url string) {
	t.Helper()
	if got := storetest.Query[int](t, url, `
		SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status IN ('held', 'scheduled')`); got != 0 {
		t.Errorf("%d deliveries have a slot or wait for one, want none", got)
	}
}

// created lists the deliveries of a wait in order of creation.
func created(t *testing.T, url string, w relay.Wait) (ids []uuid.UUID) {
	t.Helper()
	for _, id := range storetest.Query[[]string](t, url, `SELECT array_agg(id::text ORDER BY id) FROM deliveries WHERE correlation_id = $1`, w.ID) {
		ids = append(ids, uuid.MustParse(id))
	}
	return ids
}

// One of a conversation is sent at a time, in order of creation, whether they
// were born together or one after the other. Other conversations go on.
func TestOneOfAConversationAtATime(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w, other := p.Wait(t, "u-1"), p.Wait(t, "u-2")
	first := tell(t, p, w, 2)
	if len(first) != 1 || len(tell(t, p, w, 1)) != 0 || len(tell(t, p, other, 1)) != 1 {
		t.Fatalf("want one delivery of each conversation to be sent now")
	}
	order := created(t, url, w)
	current := first[0]
	for i, id := range order {
		if current.ID != id {
			t.Fatalf("number %d sent is %s, want %s", i, current.ID, id)
		}
		if due := claimDue(t, p); len(due) != 0 {
			t.Fatalf("%d more are due while number %d is sent", len(due), i)
		}
		last := i == len(order)-1
		if r := end(t, p, current, relay.OK); r.PassedOn == last {
			t.Errorf("number %d: passed on: %t, want %t", i, r.PassedOn, !last)
		}
		if !last {
			current = claimOne(t, p)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'`); got != 1 {
		t.Errorf("%d slots are taken, want that of the other conversation", got)
	}
}

// What ends for now or for ever lets the next one go; a retry does not.
func TestEndsPassTheSlotOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		next   relay.DeliveryStatus
		giveUp string
		want   bool
	}{
		{"delivered", relay.Delivered, "1 hour", true},
		{"dead", relay.Dead, "1 hour", true},
		{"unknown", relay.Unknown, "1 hour", true},
		{"held", relay.Held, "1 hour", false},
		{"retried", relay.Scheduled, "1 hour", false},
		{"retried too late", relay.Scheduled, "1 second", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			d := tell(t, p, p.Wait(t, "u-1"), 2)[0]
			storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() + $2::text::interval WHERE id = $1`, d.ID, tt.giveUp)
			a := attemptAt(&d, relay.Retry)
			a.Next, a.Delay = tt.next, time.Minute
			r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{a}))(t)[0]
			due := claimDue(t, p)
			if r.PassedOn != tt.want || (len(due) == 1) != tt.want {
				t.Fatalf("passed on: %t, and %d are due; want %t", r.PassedOn, len(due), tt.want)
			}
			for _, d := range due {
				end(t, p, d, relay.OK)
				noSlotsLeft(t, url)
			}
		})
	}
}

// A stale attempt frees nobody's slot.
func TestStaleAttemptKeepsTheSlot(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	old := tell(t, p, p.Wait(t, "u-1"), 2)[0]
	endLeases(t, url)
	again := claimOne(t, p)
	if r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&old, relay.OK)}))(t)[0]; !r.Stale || r.PassedOn {
		t.Errorf("got %+v, want it stale", r)
	}
	if due := claimDue(t, p); len(due) != 0 {
		t.Errorf("%d are due, want none", len(due))
	}
	end(t, p, again, relay.OK)
	end(t, p, claimOne(t, p), relay.OK)
	noSlotsLeft(t, url)
}

// hold runs statements in a transaction of its own and leaves it open; the
// function it returns commits it.
func hold(t *testing.T, url string, statements func(exec func(sql string, args ...any))) (pid uint32, commit func()) {
	t.Helper()
	conn := connect(t, url)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(`BEGIN`)
	statements(exec)
	return conn.PgConn().PID(), func() { exec(`COMMIT`) }
}

// waitsFor waits until a session waits for the one that a test holds.
func waitsFor(t *testing.T, url string, pid uint32) {
	t.Helper()
	until(t, "somebody waits for the lock", func() bool {
		return storetest.Query[int](t, url, `SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))`, pid) == 1
	})
}

// A delivery that is born behind another, which ends before it is committed,
// is seen by that end.
func TestEndSeesWhoIsBeingBorn(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	d := tell(t, p, w, 1)[0]
	pid, commit := hold(t, url, func(exec func(string, ...any)) {
		exec(`SELECT FROM deliveries WHERE id = $1 FOR UPDATE`, d.ID)
		exec(`INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, conversation, retry_for, give_up_at)
		      VALUES ($1, $2, $3, $4, 'refunded', 'refunded', $5, 60, now() + interval '1 hour')`,
			p.ID, relay.NewID(), w.ID, p.DestinationID, d.Conversation)
	})
	recorded := make(chan error, 1)
	var got []store.Recorded
	go func() {
		var err error
		got, err = p.Store.RecordAttempts(context.Background(), []relay.Attempt{attemptAt(&d, relay.OK)})
		recorded <- err
	}()
	waitsFor(t, url, pid)
	commit()
	if err := <-recorded; err != nil || !got[0].PassedOn {
		t.Fatalf("got %+v, %v, want the slot passed on", got, err)
	}
	end(t, p, claimOne(t, p), relay.OK)
	noSlotsLeft(t, url)
}

// A delivery that is born while the one before it ends takes the slot itself,
// or waits for the one that has got it.
func TestBirthSeesWhoIsEnding(t *testing.T) {
	t.Parallel()
	for _, waiting := range []int{0, 1} {
		t.Run(strconv.Itoa(waiting)+" waiting", func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			w := p.Wait(t, "u-1")
			d := tell(t, p, w, 1+waiting)[0]
			pid, commitEnd := hold(t, url, func(exec func(string, ...any)) {
				exec(`UPDATE deliveries SET status = 'delivered', due_at = NULL, lease = NULL, finished_at = now() WHERE id = $1`, d.ID)
				exec(`UPDATE deliveries SET due_at = clock_timestamp() WHERE status = 'scheduled'`)
			})
			born := make(chan []relay.Delivery, 1)
			go func() {
				got, err := commitTo(p.Store, p, deduped(p.Callback("evt_born", relay.Refunded, w.Token)))
				if err != nil {
					t.Error(err)
				}
				born <- got
			}()
			waitsFor(t, url, pid)
			commitEnd()
			got := <-born
			if len(got) != 1-waiting {
				t.Fatalf("%d were born to be sent now, want %d", len(got), 1-waiting)
			}
			for range waiting + 1 {
				if len(got) == 0 {
					got = append(got, claimOne(t, p))
				}
				end(t, p, got[0], relay.OK)
				got = nil
			}
			noSlotsLeft(t, url)
		})
	}
}

// Two nodes give birth to, claim, end and retry deliveries of a few
// conversations in batches that overlap. Nothing deadlocks, no two of a
// conversation are held at a time, each is sent in order, and none is left.
func TestSlotsOnTwoNodes(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	nodes := []*store.Store{p.Store, storetest.Open(t, url, storetest.Keys(t))}
	const users, rounds, births = 8, 15, 12
	waits := make([]relay.Wait, users)
	for i := range waits {
		waits[i] = p.Wait(t, "u-"+strconv.Itoa(i))
	}
	var (
		mu    sync.Mutex
		sent  = map[uuid.UUID]uuid.UUID{} // the last that was sent of each conversation
		busy  = map[uuid.UUID]uuid.UUID{} // the one that is held
		ended int
	)
	take := func(ds []relay.Delivery) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range ds {
			if other, taken := busy[d.Conversation]; taken {
				t.Errorf("%s is held while %s is", d.ID, other)
			}
			busy[d.Conversation] = d.ID
		}
	}
	send := func(s *store.Store, ds []relay.Delivery) error {
		var attempts []relay.Attempt
		mu.Lock()
		for i := range ds {
			d := &ds[i]
			class := []relay.Class{relay.OK, relay.OK, relay.Permanent, relay.Retry}[rand.IntN(4)]
			a := attemptAt(d, class)
			a.Delay = 0
			if attempts = append(attempts, a); class != relay.Retry {
				ended++
			}
			// Retries are claimed again, so 'not before' and not 'after'.
			if before := sent[d.Conversation]; bytes.Compare(d.ID[:], before[:]) < 0 {
				t.Errorf("%s is sent after %s", d.ID, before)
			}
			sent[d.Conversation] = d.ID
			delete(busy, d.Conversation)
		}
		mu.Unlock()
		got, err := s.RecordAttempts(context.Background(), attempts)
		for i, r := range got {
			if err == nil && r.Stale {
				t.Errorf("%s was recorded under a lease that is stale", ds[i].ID)
			}
		}
		return err
	}
	var born sync.WaitGroup
	var g errgroup.Group
	for n, s := range nodes {
		born.Add(1)
		g.Go(func() error {
			defer born.Done()
			for round := range rounds {
				var batch []relay.Callback
				for i := range births {
					w := waits[rand.IntN(users)]
					batch = append(batch, deduped(p.Callback(fmt.Sprintf("evt_%d_%d_%d", n, round, i), relay.Refunded, w.Token)))
				}
				ds, err := commitTo(s, p, batch...)
				if err != nil {
					return fmt.Errorf("a batch of births: %w", err)
				}
				take(ds)
				if err := send(s, ds); err != nil {
					return fmt.Errorf("recording those just born: %w", err)
				}
			}
			return nil
		})
		g.Go(func() error {
			finished := make(chan struct{})
			go func() { born.Wait(); close(finished) }()
			for over := false; ; {
				ds, err := s.ClaimDue(context.Background(), uuid.New(), 5)
				if err != nil {
					return err
				}
				take(ds)
				if err := send(s, ds); err != nil {
					return fmt.Errorf("recording those claimed: %w", err)
				}
				if over && len(ds) == 0 && storetest.Query[int](t, url, `SELECT count(*) FROM deliveries WHERE status = 'scheduled'`) == 0 {
					return nil
				}
				select {
				case <-finished:
					over = true
				case <-t.Context().Done():
					return nil
				default:
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := len(nodes) * rounds * births; ended != want {
		t.Errorf("%d deliveries have ended, want %d", ended, want)
	}
	noSlotsLeft(t, url)
}

// A retry by hand waits for the one that is being sent, and comes before those
// that were created after it. It is never swallowed.
func TestRetryByHandWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	for _, bulk := range []bool{false, true} {
		t.Run("in bulk "+strconv.FormatBool(bulk), func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			w := p.Wait(t, "u-1")
			end(t, p, tell(t, p, w, 3)[0], relay.Permanent)
			second := claimOne(t, p)
			first, third := created(t, url, w)[0], created(t, url, w)[2]
			if bulk {
				if n := must(p.Store.RetryDeliveries(t.Context(), p.ID, store.DeliveryFilter{}, false))(t); n != 1 {
					t.Fatalf("retried %d, want 1", n)
				}
			} else {
				for range 2 { // once more while it waits changes nothing
					if err := p.Store.RetryDelivery(t.Context(), p.ID, first, false); err != nil {
						t.Fatal(err)
					}
				}
			}
			if due := claimDue(t, p); len(due) != 0 {
				t.Fatalf("%d are due while one is being sent", len(due))
			}
			end(t, p, second, relay.OK)
			for _, want := range []uuid.UUID{first, third} {
				d := claimOne(t, p)
				if d.ID != want || d.ByHand != (want == first) {
					t.Errorf("claimed %s, by hand %t, want %s", d.ID, d.ByHand, want)
				}
				end(t, p, d, relay.OK)
			}
			noSlotsLeft(t, url)
		})
	}
}

// Several dead ones of one conversation are retried one after the other.
func TestBulkRetryKeepsTheOrder(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	d := tell(t, p, w, 3)[0]
	for range 2 {
		end(t, p, d, relay.Permanent)
		d = claimOne(t, p)
	}
	end(t, p, d, relay.Permanent)
	noSlotsLeft(t, url)
	// As they were before there was an order.
	storetest.Exec(t, url, `UPDATE deliveries SET conversation = NULL`)
	must(p.Store.RetryDeliveries(t.Context(), p.ID, store.DeliveryFilter{}, false))(t)
	for i, want := range created(t, url, w) {
		d := claimOne(t, p)
		if d.ID != want {
			t.Errorf("number %d is %s, want %s", i, d.ID, want)
		}
		end(t, p, d, relay.OK)
	}
	noSlotsLeft(t, url)
}

// A bulk retry works in pieces, and a conversation may lie in several: one of
// each is due, in order of creation, and the others wait for it.
func TestBulkRetryInPieces(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	const each = 230 // two conversations are more than two pieces
	firsts := map[uuid.UUID]bool{}
	for _, user := range []string{"u-1", "u-2"} {
		w := p.Wait(t, user)
		tell(t, p, w, each)
		firsts[created(t, url, w)[0]] = true
	}
	storetest.Exec(t, url, `
		UPDATE deliveries SET status = 'dead', due_at = NULL, lease = NULL, finished_at = now(), attempts = 1, started_at = now(), class = 'permanent'`)
	if n := must(p.Store.RetryDeliveries(t.Context(), p.ID, store.DeliveryFilter{}, true))(t); n != 2*each {
		t.Errorf("a dry run counts %d, want %d", n, 2*each)
	}
	if n := must(p.Store.RetryDeliveries(t.Context(), p.ID, store.DeliveryFilter{}, false))(t); n != 2*each {
		t.Errorf("retried %d, want %d", n, 2*each)
	}
	due := claimDue(t, p)
	if len(due) != len(firsts) {
		t.Errorf("%d are due, want one of each conversation", len(due))
	}
	for _, d := range due {
		if !firsts[d.ID] {
			t.Errorf("%s is due, want the first of its conversation", d.ID)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deliveries WHERE status = 'scheduled' AND due_at IS NULL`); got != 2*each-len(firsts) {
		t.Errorf("%d wait for their turn, want all others", got)
	}
}

// A person skips the one that is to be retried, and one that waits.
func TestSkipByHandPassesTheSlotOn(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	d := tell(t, p, w, 4)[0]
	order := created(t, url, w)
	end(t, p, d, relay.Retry)
	for _, id := range []uuid.UUID{order[1], order[0]} {
		if err := p.Store.SkipDelivery(t.Context(), p.ID, id); err != nil {
			t.Fatal(err)
		}
	}
	third := claimOne(t, p)
	if third.ID != order[2] {
		t.Errorf("claimed %s, want the third, %s", third.ID, order[2])
	}
	if err := p.Store.SkipDelivery(t.Context(), p.ID, third.ID); !relay.IsKind(err, relay.Conflict) {
		t.Errorf("skipping what is being sent: got %v, want a conflict", err)
	}
	pid, commit := hold(t, url, func(exec func(string, ...any)) { exec(`SELECT FROM deliveries WHERE id = $1 FOR UPDATE`, order[3]) })
	if err := p.Store.SkipDelivery(t.Context(), p.ID, order[3]); !relay.IsKind(err, relay.Conflict) {
		t.Errorf("skipping what session %d changes at this moment: got %v, want a conflict", pid, err)
	}
	commit()
	end(t, p, third, relay.OK)
	end(t, p, claimOne(t, p), relay.OK)
	noSlotsLeft(t, url)
}

// What a wait fired on its way is pointless once it has closed: it is brought
// forward to be skipped, and the end of the wait goes out at once.
func TestClosedWaitSkipsWhatWasOnItsWay(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	declined := commit(t, p, deduped(p.Callback("evt_1", relay.AttemptFailed, w.Token)), deduped(p.Callback("evt_2", relay.AttemptFailed, w.Token)))[0]
	a := attemptAt(&declined, relay.Retry)
	a.Delay, a.Reason = time.Hour, "refused"
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{a}))(t)
	if got := commit(t, p, deduped(p.Paid("evt_3", "pi_1", w.Token))); len(got) != 0 {
		t.Fatalf("%d are sent now, want the end to wait", len(got))
	}
	for _, want := range []string{"skipped, refused", "skipped, its wait has closed"} { // tried, and not tried
		d := claimOne(t, p)
		if !d.Pointless() {
			t.Fatalf("claimed %s of a wait that is %s, want it pointless", d.Outcome, d.Wait.Status)
		}
		if r, err := p.Store.SkipClosed(t.Context(), &d); err != nil || r.Status != relay.Skipped || !r.PassedOn {
			t.Errorf("skipping: got %+v, %v, want it skipped and its slot passed on", r, err)
		}
		if r, err := p.Store.SkipClosed(t.Context(), &d); err != nil || !r.Stale {
			t.Errorf("skipping again: got %+v, %v, want it stale", r, err)
		}
		if got := storetest.Query[string](t, url, `SELECT status || ', ' || reason FROM deliveries WHERE id = $1`, d.ID); got != want {
			t.Errorf("the row says %q, want %q", got, want)
		}
	}
	paid := claimOne(t, p)
	if paid.Outcome != relay.Completed || paid.Pointless() {
		t.Errorf("claimed %s, want completed", paid.Outcome)
	}
	end(t, p, paid, relay.OK)
	noSlotsLeft(t, url)
	// A person may want it told all the same.
	if err := p.Store.RetryDelivery(t.Context(), p.ID, declined.ID, false); err != nil {
		t.Fatal(err)
	}
	if d := claimOne(t, p); d.ID != declined.ID || d.Pointless() {
		t.Errorf("claimed %s, pointless %t, want what was retried by hand", d.ID, d.Pointless())
	}
}

// Nobody waits for the retry of what has become pointless, whenever the end
// came, and whichever end.
func TestNobodyWaitsForAPointlessRetry(t *testing.T) {
	t.Parallel()
	later := func(d relay.Delivery) []relay.Attempt {
		a := attemptAt(&d, relay.Retry)
		a.OnTheWay, a.Delay = true, 15*time.Minute
		return []relay.Attempt{a}
	}
	for name, play := range map[string]func(p *storetest.Project, w relay.Wait, declined relay.Delivery){
		"paid while it was sent": func(p *storetest.Project, w relay.Wait, declined relay.Delivery) {
			commit(t, p, deduped(p.Paid("evt_2", "pi_1", w.Token)))
			must(p.Store.RecordAttempts(t.Context(), later(declined)))(t)
		},
		"superseded": func(p *storetest.Project, _ relay.Wait, declined relay.Delivery) {
			must(p.Store.RecordAttempts(t.Context(), later(declined)))(t)
			p.Wait(t, "u-1")
		},
		"superseded while it was sent": func(p *storetest.Project, _ relay.Wait, declined relay.Delivery) {
			p.Wait(t, "u-1")
			must(p.Store.RecordAttempts(t.Context(), later(declined)))(t)
		},
		"superseded by a late success": func(p *storetest.Project, w relay.Wait, declined relay.Delivery) {
			newer := p.Wait(t, "u-1")
			end(t, p, declined, relay.OK)
			declined = commit(t, p, deduped(p.Callback("evt_2", relay.AttemptFailed, newer.Token)))[0]
			must(p.Store.RecordAttempts(t.Context(), later(declined)))(t)
			commit(t, p, deduped(p.Paid("evt_3", "pi_1", w.Token)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := project(t)
			w := p.Wait(t, "u-1")
			play(p, w, commit(t, p, deduped(p.Callback("evt_1", relay.AttemptFailed, w.Token)))[0])
			if d := claimOne(t, p); !d.Pointless() {
				t.Errorf("due is %s of a wait that is %s, want what is pointless", d.Outcome, d.Wait.Status)
			}
		})
	}
}

// The time to try begins with one's turn: a conversation does not die with
// what stood before it.
func TestTimeToTryBeginsWithTheTurn(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	first := tell(t, p, p.Wait(t, "u-1"), 2)[0]
	storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() - interval '1 second'`)
	end(t, p, first, relay.Permanent)
	second := claimOne(t, p)
	if r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&second, relay.Retry)}))(t); r[0].Status != relay.Scheduled {
		t.Errorf("after one attempt: got %s, want it tried again", r[0].Status)
	}
}

// What is being sent when its wait closes is left alone.
func TestClosedWaitLeavesWhatIsBeingSent(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	w := p.Wait(t, "u-1")
	declined := commit(t, p, deduped(p.Callback("evt_1", relay.AttemptFailed, w.Token)))[0]
	commit(t, p, deduped(p.Paid("evt_2", "pi_1", w.Token)))
	if due := claimDue(t, p); len(due) != 0 {
		t.Errorf("%d are due while one is being sent", len(due))
	}
	if r := end(t, p, declined, relay.OK); r.Status != relay.Delivered || !r.PassedOn {
		t.Errorf("got %+v, want it delivered and the slot passed on", r)
	}
}

// A delivery that was marked is told from one that was never sent.
func TestSendingMark(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	d := owe(t, p)
	for i, want := range []bool{true, false} { // one mark for one send
		if got := must(p.Store.MarkSending(t.Context(), &d))(t); got != want {
			t.Errorf("mark %d: got %t, want %t", i, got, want)
		}
	}
	if err := p.Store.ReturnLeases(t.Context(), []relay.Delivery{d}); err != nil {
		t.Fatal(err)
	}
	if due := claimDue(t, p); len(due) != 0 {
		t.Errorf("%d are due while the lease lasts, want none", len(due))
	}
	endLeases(t, url)
	again := claimOne(t, p)
	if !again.Sent {
		t.Error("claimed as if it had never been sent")
	}
	if got := must(p.Store.MarkSending(t.Context(), &d))(t); got {
		t.Error("a stale lease marked a delivery")
	}
	a := attemptAt(&again, relay.NoAnswer)
	a.Next = relay.Unknown
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{a}))(t)
	if got, want := storetest.Query[string](t, url, deliverySQL, d.ID), "unknown attempts=1 rows=1 class=unknown"; got != want {
		t.Errorf("the row: got %q, want %q", got, want)
	}
	noSlotsLeft(t, url)
}

// A program from before the slots ends deliveries without passing them on.
func TestSlotsThatWereLeftArePassedOn(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	var left []relay.Wait
	for i := range 5 {
		w := p.Wait(t, "u-"+strconv.Itoa(i))
		if tell(t, p, w, 2); i%2 == 0 {
			left = append(left, w)
		}
	}
	for _, w := range left {
		storetest.Exec(t, url, `
			UPDATE deliveries SET status = 'delivered', due_at = NULL, lease = NULL, finished_at = now()
			WHERE correlation_id = $1 AND due_at IS NOT NULL`, w.ID)
	}
	var after uuid.UUID
	for _, want := range []int{2, 2, 1, 0} {
		seen, last, err := p.Store.PassOnLeft(t.Context(), after, 2)
		if err != nil || seen != want {
			t.Fatalf("looked at %d, %v, want %d", seen, err, want)
		}
		after = last
	}
	var got, want []string
	for _, d := range claimDue(t, p) {
		got = append(got, d.Wait.UserID)
	}
	for _, w := range left {
		want = append(want, w.UserID)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("passed on to %v, want %v", got, want)
	}
}

// Who is to have the slot next may be taken away in the same moment: then the
// one after it has it.
func TestPassOnPastWhoIsTakenAway(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	d := tell(t, p, w, 3)[0]
	order := created(t, url, w)
	pid, commit := hold(t, url, func(exec func(string, ...any)) {
		exec(`UPDATE deliveries SET status = 'skipped', finished_at = now() WHERE id = $1`, order[1])
	})
	recorded := make(chan store.Recorded, 1)
	go func() {
		got, err := p.Store.RecordAttempts(context.Background(), []relay.Attempt{attemptAt(&d, relay.OK)})
		if err != nil {
			t.Error(err)
		}
		recorded <- got[0]
	}()
	waitsFor(t, url, pid)
	commit()
	if r := <-recorded; !r.PassedOn {
		t.Errorf("got %+v, want the slot passed on", r)
	}
	if next := claimOne(t, p); next.ID != order[2] {
		t.Errorf("claimed %s, want the third, %s", next.ID, order[2])
	}
}

// Who looks for slots that were left, and waits on the way, leaves alone what
// has got its slot meanwhile: that is being sent.
func TestPassOnLeftComesTooLate(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	waiting := [2]uuid.UUID{relay.NewID(), relay.NewID()}
	for i, id := range waiting {
		storetest.Exec(t, url, `
			INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, conversation, retry_for, give_up_at)
			VALUES ($1, $2, $2, $3, 'refunded', 'refunded', $4, 60, now())`, p.ID, id, p.DestinationID, uuid.UUID{15: byte(i + 1)})
	}
	pid, commit := hold(t, url, func(exec func(string, ...any)) { exec(`SELECT FROM deliveries WHERE id = $1 FOR UPDATE`, waiting[0]) })
	looked := make(chan error, 1)
	go func() {
		_, _, err := p.Store.PassOnLeft(context.Background(), uuid.Nil, 10)
		looked <- err
	}()
	waitsFor(t, url, pid)
	storetest.Exec(t, url, `UPDATE deliveries SET due_at = 'infinity', lease = id WHERE id = $1`, waiting[1])
	commit()
	if err := <-looked; err != nil {
		t.Error(err)
	}
	if !storetest.Query[bool](t, url, `SELECT due_at = 'infinity' FROM deliveries WHERE id = $1`, waiting[1]) {
		t.Error("what is being sent is due again")
	}
	if !storetest.Query[bool](t, url, `SELECT coalesce(due_at <= now(), false) FROM deliveries WHERE id = $1`, waiting[0]) {
		t.Error("the one that was locked is not due")
	}
}
