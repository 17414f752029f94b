package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

const hookTarget = "https://hooks.example/relay"

// claimHooks claims all that is owed to a subscription, in the order of its
// numbers.
func claimHooks(t *testing.T, s *store.Store, sub relay.Subscription) []relay.Hook {
	t.Helper()
	return must(s.ClaimHooks(context.Background(), uuid.New(), []uuid.UUID{sub.ID}, 1000, 1000))(t)
}

// toldOf lists what hooks tell of: the news, the status, and of which user.
func toldOf(t *testing.T, hooks []relay.Hook) (list []string) {
	t.Helper()
	for _, h := range hooks {
		var p struct {
			Status string  `json:"status"`
			UserID *string `json:"user_id"`
		}
		if err := json.Unmarshal(h.Payload, &p); err != nil {
			t.Fatalf("the payload %s: %v", h.Payload, err)
		}
		user := "nobody"
		if p.UserID != nil {
			user = *p.UserID
		}
		list = append(list, fmt.Sprintf("%s %s %s", h.Event, p.Status, user))
	}
	return list
}

func wantTold(t *testing.T, got []relay.Hook, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, toldOf(t, got)); diff != "" {
		t.Errorf("what was told (-want +got):\n%s", diff)
	}
}

// endAs ends a wait by hand, as the API does.
func endAs(t *testing.T, p *storetest.Project, w relay.Wait, o relay.Outcome) {
	t.Helper()
	_, err := p.Store.EndWait(t.Context(), uuid.New(), p.ID, w.ID, func(w *relay.Wait) (store.Ending, error) {
		return store.Ending{Wait: w, Step: w.Apply(o, ""), By: "api"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// expire ends the waits that are overdue.
func expire(t *testing.T, p *storetest.Project, url string, waits ...uuid.UUID) {
	t.Helper()
	storetest.Overdue(t, url, waits...)
	_, _, err := p.Store.ExpireDue(t.Context(), uuid.New(), 10, func(_ context.Context, overdue []*store.Overdue) (endings []store.Ending, err error) {
		for _, w := range overdue {
			endings = append(endings, store.Ending{Wait: w.Wait, Step: w.Apply(relay.Expired, ""), By: "deadline"})
		}
		return endings, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHooksOfWaits(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	all := p.Subscribe(t, relay.Everything, hookTarget)
	other := storetest.NewProject(t, p.Store, "other", "http://127.0.0.1:1")
	other.Wait(t, "of-another-project")

	paid := p.Wait(t, "u-paid")
	commit(t, p, deduped(p.Paid("evt_1", "pi_1", paid.Token)))
	commit(t, p, deduped(p.Paid("evt_2", "pi_1", paid.Token))) // the same payment: told before
	commit(t, p, deduped(p.Callback("evt_3", relay.Refunded, paid.Token)), deduped(p.Callback("evt_4", relay.Disputed, paid.Token)))
	wantTold(t, claimHooks(t, p.Store, all),
		"correlation.created pending u-paid",
		"correlation.completed completed u-paid", "checkout.completed completed u-paid",
		"correlation.refunded completed u-paid", "correlation.disputed completed u-paid")

	form := p.Wait(t, "u-form")
	filled := deduped(p.Callback("evt_5", relay.Completed, form.Token))
	filled.Reading.Form = map[string]any{"name": "Zoë", "hidden": form.Token, "number": int64(7)}
	commit(t, p, deduped(p.Callback("evt_6", relay.AttemptFailed, form.Token)), filled)
	hooks := claimHooks(t, p.Store, all)
	wantTold(t, hooks, "correlation.created pending u-form", "correlation.completed completed u-form", "form.submitted completed u-form")
	if payload := string(hooks[2].Payload); !strings.Contains(payload, `"form":{"name":"Zoë","number":7}`) {
		t.Errorf("the form: got %s, want its fields, but for the one that holds the token", payload)
	}
	for _, h := range hooks {
		if strings.Contains(string(h.Payload), form.Token) {
			t.Errorf("%s tells the token of its wait: %s", h.Event, h.Payload)
		}
	}

	overdue, failed, cancelled := p.Wait(t, "u-expired"), p.Wait(t, "u-failed"), p.Wait(t, "u-cancelled")
	claimHooks(t, p.Store, all)
	expire(t, p, url, overdue.ID)
	endAs(t, p, failed, relay.Failed)
	endAs(t, p, cancelled, relay.Cancelled)
	wantTold(t, claimHooks(t, p.Store, all),
		"correlation.expired expired u-expired", "correlation.failed failed u-failed", "correlation.cancelled cancelled u-cancelled")

	old := p.Wait(t, "u-again")
	p.Wait(t, "u-again")
	commit(t, p, deduped(p.Paid("evt_7", "pi_7", old.Token)))
	wantTold(t, claimHooks(t, p.Store, all),
		"correlation.created pending u-again",
		"correlation.superseded superseded u-again", "correlation.created pending u-again",
		"correlation.superseded superseded u-again", "correlation.late superseded u-again", "checkout.completed superseded u-again")
	if n := storetest.Query[int](t, url, `SELECT count(*) FROM hooks WHERE number IS NULL`); n != 0 {
		t.Errorf("%d hooks are left, want none", n)
	}
}

func TestHooksOfDeliveriesAndDestinations(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	all := p.Subscribe(t, relay.Everything, hookTarget)
	one := p.Subscribe(t, relay.DeliveryDead, hookTarget)
	waits := []relay.Wait{p.Wait(t, "u-1"), p.Wait(t, "u-2"), p.Wait(t, "u-3"), p.Wait(t, "u-4"), p.Wait(t, "u-5")}
	var deliveries []relay.Delivery
	for i, w := range waits {
		outcome := relay.Completed
		if i == 4 {
			outcome = relay.AttemptFailed
		}
		deliveries = append(deliveries, commit(t, p, deduped(p.Callback("evt_"+w.UserID, outcome, w.Token)))...)
	}
	claimHooks(t, p.Store, all)
	attempts := []relay.Attempt{
		attemptAt(&deliveries[0], relay.OK), attemptAt(&deliveries[1], relay.Permanent), attemptAt(&deliveries[2], relay.NoAnswer),
		attemptAt(&deliveries[3], relay.Retry), attemptAt(&deliveries[4], relay.OK),
	}
	attempts[2].Next = relay.Unknown // its destination's policy
	for range 2 {                    // the second finds its leases gone, and tells nothing
		must(p.Store.RecordAttempts(t.Context(), attempts))(t)
	}
	hooks := claimHooks(t, p.Store, all)
	got := toldOf(t, hooks)
	slices.Sort(got)
	if diff := cmp.Diff([]string{
		"conversation.resumed delivered u-1", "delivery.dead dead u-2", "delivery.delivered delivered u-1",
		"delivery.delivered delivered u-5", "delivery.unknown unknown u-3",
	}, got); diff != "" {
		t.Errorf("what was told of deliveries (-want +got):\n%s", diff)
	}
	wantTold(t, claimHooks(t, p.Store, one), "delivery.dead dead u-2")

	holdDestination(t, p)
	release(t, p)
	release(t, p) // it is not held: nothing is told
	hooks = claimHooks(t, p.Store, all)
	wantTold(t, hooks, "destination.held  nobody", "destination.resumed  nobody")
	if payload := string(hooks[0].Payload); !strings.Contains(payload, `"destination" : "bot"`) {
		t.Errorf("the hold: got %s, want it to name its destination", payload)
	}
}

// What is refused for good is told though a fallback takes its place, once, and
// the fallback is told as a delivery of its own.
func TestHooksOfFallbacks(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	all := p.Subscribe(t, relay.Everything, hookTarget)
	refused := commit(t, p, deduped(p.Callback("evt_1", relay.Completed, p.Wait(t, "u-1").Token)))[0]
	claimHooks(t, p.Store, all)
	<-p.Store.News()
	for range 2 { // the second finds its lease gone
		must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{withFallback(attemptAt(&refused, relay.Permanent), &refused)}))(t)
	}
	wantTold(t, claimHooks(t, p.Store, all), "delivery.dead dead u-1")
	select {
	case <-p.Store.News():
	default:
		t.Error("there was no hint that there is news")
	}
	fallback := must(p.Store.ClaimDue(t.Context(), uuid.New(), 5))(t)
	if len(fallback) != 1 || fallback[0].ID != relay.FallbackID(refused.ID) {
		t.Fatalf("claimed %+v, want the fallback alone", fallback)
	}
	must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&fallback[0], relay.OK)}))(t)
	wantTold(t, claimHooks(t, p.Store, all), "conversation.resumed delivered u-1", "delivery.delivered delivered u-1")
}

// Where nobody listens no statement knows of hooks, and all others are the
// same as with a subscription in another project.
func TestNobodyHearsForNothing(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	seen := &explained{plans: map[string][]explainedPlan{}}
	s, err := store.OpenNoticing(t.Context(), store.Config{
		URL: url + explaining, Keys: storetest.Keys(t), HotConnections: 1, Connections: 2,
	}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	// work does what the hot pool does, and returns its statements.
	work := func() map[string]int {
		seen.reset()
		user := relay.NewToken()
		old := p.Wait(t, user)
		p.Wait(t, user)
		fired := commit(t, p, deduped(p.Paid("e"+user, "pi_"+user, old.Token)))
		must(s.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&fired[0], relay.OK)}))(t)
		expire(t, p, url, p.Wait(t, user).ID)
		count := map[string]int{}
		for query, plans := range seen.plans {
			count[query] = len(plans)
		}
		return count
	}
	before := work()
	if len(before) < 10 {
		t.Fatalf("the server explained %d statements, want all that was done", len(before))
	}
	for query := range before {
		if strings.Contains(query, "hooks") || strings.Contains(query, "subscriptions") {
			t.Errorf("nobody subscribes, and there was a statement\n%s", query)
		}
	}
	other := storetest.NewProject(t, s, "other", "http://127.0.0.1:1")
	other.Subscribe(t, relay.Everything, hookTarget)
	if diff := cmp.Diff(before, work()); diff != "" {
		t.Errorf("statements beside another project's subscription (-without +with):\n%s", diff)
	}
	p.Subscribe(t, relay.WaitDisputed, hookTarget) // of what does not happen here
	if diff := cmp.Diff(before, work()); diff != "" {
		t.Errorf("statements beside a subscription to something else (-without +with):\n%s", diff)
	}
	p.Subscribe(t, relay.WaitCreated, hookTarget)
	if with := work(); len(with) <= len(before) {
		t.Errorf("got %d statements with a subscription, and %d without: this test sees nothing", len(with), len(before))
	}
}

// Numbers have no gap and no number comes twice, whoever claims; and each wait's
// news are in the order in which they happened.
func TestHookNumbers(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	sub := p.Subscribe(t, relay.Everything, hookTarget)
	nodes := []*store.Store{p.Store, storetest.Open(t, url, storetest.Keys(t))}
	const users = 40
	var mu sync.Mutex
	seen := map[int64]relay.Hook{}
	stop := make(chan struct{})
	var claiming, telling sync.WaitGroup
	claim := func(s *store.Store) {
		claimed, err := s.ClaimHooks(context.Background(), uuid.New(), []uuid.UUID{sub.ID}, 7, 7)
		if err != nil && !store.Conflicted(err) {
			t.Errorf("claiming: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, h := range claimed {
			if _, twice := seen[h.Number]; twice {
				t.Errorf("the number %d came twice", h.Number)
			}
			seen[h.Number] = h
		}
	}
	for _, s := range nodes {
		claiming.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					claim(s)
				}
			}
		})
	}
	for i := range 4 {
		telling.Go(func() {
			for j := range users / 4 {
				w := p.Wait(t, fmt.Sprintf("u-%d-%d", i, j))
				commit(t, p, deduped(p.Callback("evt_"+w.UserID, relay.Completed, w.Token)))
			}
		})
	}
	telling.Wait()
	close(stop)
	claiming.Wait()
	for range users {
		claim(p.Store)
	}
	last := map[string]relay.News{}
	for n := int64(1); n <= 2*users; n++ {
		h, ok := seen[n]
		if !ok {
			t.Fatalf("the number %d is missing, of %d", n, len(seen))
		}
		user := strings.Fields(toldOf(t, []relay.Hook{h})[0])[2]
		if h.Event == relay.WaitCompleted && last[user] != relay.WaitCreated {
			t.Errorf("%s: completed has the number %d, before created", user, n)
		}
		last[user] = h.Event
	}
}

func TestRecordHooks(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	sub := p.Subscribe(t, relay.WaitCreated, hookTarget)
	for i := range 4 {
		p.Wait(t, fmt.Sprintf("u-%d", i))
	}
	hooks := claimHooks(t, p.Store, sub)
	storetest.Exec(t, url, `UPDATE hooks SET give_up_at = now() WHERE id = $1`, hooks[3].ID)
	attempts := []relay.HookAttempt{
		hookAttempt(&hooks[0], relay.OK), hookAttempt(&hooks[1], relay.Retry), hookAttempt(&hooks[2], relay.Permanent), hookAttempt(&hooks[3], relay.Retry),
	}
	statuses := func() (list []string) {
		for _, r := range must(p.Store.RecordHooks(t.Context(), attempts))(t) {
			list = append(list, fmt.Sprint(r.Status, r.Stale))
		}
		return list
	}
	if diff := cmp.Diff([]string{"deliveredfalse", "scheduledfalse", "deadfalse", "deadfalse"}, statuses()); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"true", "true", "true", "true"}, statuses()); diff != "" {
		t.Errorf("recorded under leases that are lost (-want +got):\n%s", diff)
	}
	const rows = `SELECT string_agg(concat_ws(' ', number, attempts, class, CASE WHEN died_at IS NULL THEN 'owed' ELSE 'dead' END), ', ' ORDER BY number) FROM hooks`
	if got, want := storetest.Query[string](t, url, rows), "2 1 retry owed, 3 1 permanent dead, 4 1 retry dead"; got != want {
		t.Errorf("the rows: got %q, want %q", got, want)
	}

	dry := must(p.Store.RetryHooks(t.Context(), p.ID, store.HookFilter{SubscriptionID: sub.ID}, true))(t)
	done := must(p.Store.RetryHooks(t.Context(), p.ID, store.HookFilter{}, false))(t)
	if dry != 2 || done != 2 {
		t.Errorf("retried: got %d counted and %d done, want 2 and 2", dry, done)
	}
	if again := claimHooks(t, p.Store, sub); len(again) != 2 || again[0].Number != 3 || again[0].Attempts != 1 {
		t.Errorf("claimed after the retry: got %+v, want the dead ones under the numbers that they had", again)
	}
}

// A person who is erased is told of to nobody any more, and that a wait has
// ended is.
func TestErasureBlanksHooks(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	sub := p.Subscribe(t, relay.Everything, hookTarget)
	w := p.Wait(t, "u-erased")
	p.Wait(t, "u-other")
	filled := deduped(p.Callback("evt_1", relay.Completed, w.Token))
	filled.Reading.Form = map[string]any{"name": "u-erased"}
	commit(t, p, filled)
	pending := p.Wait(t, "u-erased")
	for done := false; !done; {
		var err error
		if _, done, err = p.Store.EraseNext(t.Context(), p.ID, "u-erased", 10); err != nil && !store.Conflicted(err) {
			t.Fatal(err)
		}
	}
	late := deduped(p.Callback("evt_2", relay.Completed, pending.Token))
	late.Reading.Form = map[string]any{"name": "u-erased"}
	commit(t, p, late)
	hooks := claimHooks(t, p.Store, sub)
	wantTold(t, hooks,
		"correlation.created pending nobody", "correlation.created pending u-other",
		"correlation.completed completed nobody", "form.submitted completed nobody",
		"correlation.created pending nobody", "correlation.cancelled cancelled nobody",
		"correlation.late cancelled nobody", "form.submitted cancelled nobody")
	if n := storetest.Query[int](t, url, `SELECT count(*) FROM hooks WHERE concat(payload, personal) LIKE '%u-erased%'`); n != 0 {
		t.Errorf("%d hooks name the person, want none", n)
	}
}

func TestClearHooks(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	kept, gone := p.Subscribe(t, relay.WaitCreated, hookTarget), p.Subscribe(t, relay.WaitCreated, hookTarget+"/gone")
	for i := range 5 {
		p.Wait(t, fmt.Sprintf("u-%d", i))
	}
	hooks := claimHooks(t, p.Store, kept)
	if err := p.Store.ReturnHooks(t.Context(), hooks[:3]); err != nil {
		t.Fatal(err)
	}
	for i, change := range []string{
		`give_up_at = now() - interval '1 second'`,                           // nobody answers
		`died_at = now() - interval '15 days', due_at = NULL`,                // dead for long
		`died_at = now() - interval '13 days', due_at = NULL`,                // dead
		`give_up_at = now() - interval '1 second'`,                           // being sent
		`give_up_at = now() + interval '1 second', number = 5, lease = NULL`, // owed
	} {
		storetest.Exec(t, url, `UPDATE hooks SET `+change+` WHERE id = $1`, hooks[i].ID)
	}
	err := p.Store.Configure(t.Context(), func(c *store.Change) error { return c.DeleteSubscription(t.Context(), p.ID, gone.ID) })
	if err != nil {
		t.Fatal(err)
	}
	var cursor store.HookCursor
	var all, deleted, died int
	for {
		seen, g, d, next, err := p.Store.ClearHooks(t.Context(), cursor, 3)
		if err != nil {
			t.Fatal(err)
		}
		all, deleted, died, cursor = all+seen, deleted+g, died+d, next
		if cursor == (store.HookCursor{}) {
			break
		}
	}
	if all != 10 || deleted != 6 || died != 1 {
		t.Errorf("got %d looked at, %d deleted, %d dead, want 10, 6 and 1", all, deleted, died)
	}
	const rows = `SELECT string_agg(concat(number, CASE WHEN died_at IS NULL THEN ' owed' ELSE ' dead' END, ' ' || reason), ', ' ORDER BY number) FROM hooks`
	if got, want := storetest.Query[string](t, url, rows), "1 dead not sent: its target does not answer, 3 dead, 4 owed, 5 owed"; got != want {
		t.Errorf("the rows: got %q, want %q", got, want)
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	first := p.Subscribe(t, relay.WaitCreated, hookTarget)
	if again := p.Subscribe(t, relay.WaitCreated, hookTarget); again.ID != first.ID || again.Secret != "" || again.SigningSecret != "" {
		t.Errorf("subscribing twice: got %+v, want the first one, without its secrets", again)
	}
	// add subscribes until that is refused, and returns how often it was not.
	add := func(events ...relay.News) (added int) {
		t.Helper()
		err := p.Store.Configure(t.Context(), func(c *store.Change) error {
			for {
				_, err := c.PutSubscription(t.Context(), relay.Subscription{
					ID: relay.NewID(), ProjectID: p.ID, Event: events[added%len(events)], Target: fmt.Sprint(hookTarget, relay.NewID()),
				})
				if !relay.IsKind(err, relay.Conflict) && err != nil {
					return err
				} else if err != nil {
					return nil //nolint:nilerr // the refusal that is waited for
				}
				added++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return added
	}
	if got, want := add(relay.WaitCreated), relay.MaxListeners-1; got != want {
		t.Errorf("one kind of news: %d more were added to the first, want %d", got, want)
	}
	if got := add(relay.Everything); got != 0 {
		t.Errorf("%d subscriptions to everything were added where one kind has as many as may hear it", got)
	}
	storetest.Exec(t, url, `DELETE FROM subscriptions WHERE id IN (SELECT id FROM subscriptions ORDER BY id LIMIT 3)`)
	if got := add(relay.Everything); got != 3 {
		t.Errorf("%d subscriptions to everything were added, want 3", got)
	}
	if got := add(relay.WaitFailed); got != relay.MaxListeners-3 {
		t.Errorf("%d of another kind were added beside 3 to everything, want %d", got, relay.MaxListeners-3)
	}
	before := storetest.Query[int](t, url, `SELECT count(*) FROM subscriptions`)
	if got := add(relay.AllNews[3:]...); got != relay.MaxSubscriptions-before {
		t.Errorf("%d of many kinds were added to %d, want %d in all", got, before, relay.MaxSubscriptions)
	}
}

// Ids are UUIDv7 of the time of birth, as all others.
func TestHookIDs(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	sub := p.Subscribe(t, relay.WaitCreated, hookTarget)
	before := time.Now()
	p.Wait(t, "u-1")
	h := claimHooks(t, p.Store, sub)[0]
	if made := relay.MadeAt(h.ID); h.ID.Version() != 7 || h.ID.Variant() != uuid.RFC4122 || made.Before(before.Add(-time.Second)) || made.After(time.Now().Add(time.Second)) {
		t.Errorf("got the id %s of version %d, made at %s, want a UUIDv7 of now", h.ID, h.ID.Version(), made)
	}
}
