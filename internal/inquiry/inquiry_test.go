package inquiry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// A declined card carries no token. Stripe knows whose it was; what its answer
// taught finds the next one without asking.
func TestDeclinedCardIsAskedFor(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	s.box.PutCheckout(visit)
	first := s.receive(t, n, declined(visit))
	s.wantEvent(t, first.EventID, "parked nobody_waits_yet")
	ask(t, n, 1)
	s.wantEvent(t, first.EventID, "matched on_the_way")
	s.wantWait(t, w, "pending null attempt_failed")
	s.wantQuestion(t, first.EventID, "found done")
	if got := storetest.Query[string](t, s.url, `SELECT asks FROM correlations WHERE id = $1`, w.ID); got != visit.SessionID {
		t.Errorf("what the wait can be asked for: got %q, want the session %s", got, visit.SessionID)
	}

	second := s.receive(t, n, declined(visit))
	s.wantEvent(t, second.EventID, "matched on_the_way")
	ask(t, n, 0)
	s.wantWait(t, w, "pending null attempt_failed attempt_failed")
	s.wantAsked(t, 1)
}

// Events that come beside one of their session are asked about only where
// that has not told of them meanwhile; those that tell it themselves never.
func TestOthersAreAskedLater(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	intent := s.receive(t, n, tokenless("payment_intent.succeeded", visit))
	ask(t, n, 0)
	s.receive(t, n, sandbox.StripeEvent("checkout.session.completed", visit))
	await(t, "the intent to be matched by what the session taught", func() bool {
		return storetest.Query[string](t, s.url, `SELECT match FROM events WHERE id = $1`, intent.EventID) == "duplicate"
	})
	s.wantQuestion(t, intent.EventID, "moot done")
	s.due(t)
	ask(t, n, 0)
	s.wantAsked(t, 0)
	s.wantWait(t, w, "completed null completed")

	other := checkout(w)
	other.Token = "nobody-goes-by-this"
	s.receive(t, n, sandbox.StripeEvent("checkout.session.completed", other))
	if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM questions`); got != 1 {
		t.Errorf("there are %d questions, want none about the session", got)
	}
}

// An event that is given up takes its question with it.
func TestGivenUpIsNotAskedAbout(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	e := s.receive(t, n, declined(checkout(s.Wait(t, "u-1"))))
	s.giveUp(t)
	s.wantEvent(t, e.EventID, "unmatched nobody_came")
	s.wantQuestion(t, e.EventID, "moot done")
	s.due(t)
	ask(t, n, 0)
}

// giveUp ends what is parked, as if its 72 h were over.
func (s *shop) giveUp(t *testing.T) {
	t.Helper()
	storetest.Exec(t, s.url, `UPDATE parked_refs SET parked_at = now() - interval '73 hours'`)
	_, err := s.Store.Unpark(t.Context(), 72*time.Hour, 10_000, 100)
	check(t, err)
}

// A node asks on as answers come in, whenever it looks again by itself; and
// what nobody needs to know any more stands in nobody's way.
func TestAnswersMakeRoom(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	const visits = 20
	var waits []relay.Wait
	for i := range visits {
		paid := checkout(s.Wait(t, fmt.Sprintf("paid-%d", i)))
		intent := s.receive(t, n, tokenless("payment_intent.succeeded", paid))
		storetest.Exec(t, s.url, `UPDATE questions SET due_at = now(), lease = $2 WHERE event_id = $1`, intent.EventID, uuid.New()) // and its node dies
		s.receive(t, n, sandbox.StripeEvent("checkout.session.completed", paid))
	}
	await(t, "the intents to be matched", func() bool {
		return storetest.Query[int](t, s.url, `SELECT count(*) FROM events WHERE match = 'parked'`) == 0
	})
	s.due(t)
	for i := range visits {
		w := s.Wait(t, fmt.Sprintf("declined-%d", i))
		visit := checkout(w)
		s.box.PutCheckout(visit)
		s.receive(t, n, declined(visit))
		waits = append(waits, w)
	}
	n.SetPoll(time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	await(t, "all of them to be asked about", func() bool {
		return storetest.Query[int](t, s.url, `SELECT count(*) FROM questions WHERE due_at IS NULL`) == 2*visits
	})
	stop()
	check(t, <-ended)
	for _, w := range waits {
		s.wantWait(t, w, "pending null attempt_failed")
	}
	s.wantAsked(t, visits)
	if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM questions WHERE result = 'moot' AND tries = 0`); got != visits {
		t.Errorf("%d questions are moot, want those of the %d intents", got, visits)
	}
}

// A source that does not answer has eight questions under way, however they
// came in.
func TestSlowSourceIsBounded(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	check(t, s.box.SwitchStripe(sandbox.Switches{Faults: []sandbox.Fault{{Answer: "hang"}}}))
	for i := range 7 {
		s.receive(t, n, declined(checkout(s.Wait(t, fmt.Sprintf("u-%d", i)))))
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	await(t, "seven to be asked", func() bool { return s.box.Counts().Asked == 7 })
	for i := range 8 {
		s.receive(t, n, declined(checkout(s.Wait(t, fmt.Sprintf("v-%d", i)))))
	}
	await(t, "the eighth to be asked", func() bool { return s.box.Counts().Asked > 7 })
	if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM questions WHERE lease IS NOT NULL`); got != 8 {
		t.Errorf("%d questions are under way, want 8", got)
	}
	stop()
	check(t, <-ended)
}

// Without a key nothing is asked, and no row says so.
func TestNoKeyNoQuestion(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	check(t, s.Store.Configure(t.Context(), func(c *store.Change) error {
		_, err := c.PutSource(t.Context(), relay.Source{ProjectID: s.ID, Name: "stripe", Provider: "stripe"})
		return err
	}))
	n := s.node(t)
	e := s.receive(t, n, declined(checkout(s.Wait(t, "u-1"))))
	s.wantEvent(t, e.EventID, "parked nobody_waits_yet")
	if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM questions`); got != 0 {
		t.Errorf("there are %d questions, want none", got)
	}
}

// The question is committed with its event: a node that dies right after it
// leaves it to the others.
func TestAskedByAnotherNode(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	s.box.PutCheckout(visit)
	e := s.receive(t, s.node(t), declined(visit))
	ask(t, s.node(t), 1)
	s.wantEvent(t, e.EventID, "matched on_the_way")
	s.wantWait(t, w, "pending null attempt_failed")
}

// A node dies when the answer is kept and the event not decided by it: the
// next one decides it, by that answer.
func TestDecidedByAnotherNode(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	e := s.receive(t, s.node(t), declined(visit))
	claimed, err := s.Store.ClaimQuestions(t.Context(), uuid.New(), 1, []int64{})
	check(t, err)
	answer := fmt.Sprintf(`{"object": "list", "data": [{"id": %q, "client_reference_id": %q}]}`, visit.SessionID, w.Token)
	held, err := s.Store.KeepAnswer(t.Context(), &claimed[0], relay.AnswerFound, []byte(answer))
	check(t, err)
	if !held {
		t.Fatal("the answer was not kept")
	}
	s.wantEvent(t, e.EventID, "parked nobody_waits_yet")
	n := s.node(t)
	ask(t, n, 0) // under a lease
	s.due(t)
	ask(t, n, 1)
	s.wantEvent(t, e.EventID, "matched on_the_way")
	s.wantQuestion(t, e.EventID, "found done")
	s.wantWait(t, w, "pending null attempt_failed")
	s.wantAsked(t, 0)
}

// What comes of each way to fail, and that the next try makes it good.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fault sandbox.Fault
		want  string
	}{
		"a server error":      {sandbox.Fault{Answer: "server_error"}, "failed platform_failed again"},
		"too many":            {sandbox.Fault{Answer: "rate_limited", Headers: map[string]string{"Retry-After": "120"}}, "failed rate_limited again"},
		"the key is refused":  {sandbox.Fault{Answer: "credentials"}, "refused bad_credentials again"},
		"no answer in time":   {sandbox.Fault{Answer: "hang"}, "failed timeout again"},
		"the connection ends": {sandbox.Fault{Answer: "drop"}, "failed reset again"},
		"no JSON":             {sandbox.Fault{Status: 200, Body: []byte(`"<html>"`)}, "failed answer_unreadable again"},
		"too much":            {sandbox.Fault{Status: 200, Body: []byte(`"` + strings.Repeat("x", 70_000) + `"`)}, "failed answer_too_long again"},
		"a redirect":          {sandbox.Fault{Status: 302, Headers: map[string]string{"Location": "/"}, Body: []byte(`""`)}, "failed redirected again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			if tt.fault.Answer == "hang" { // whatever else comes, this machine may be slow to bring it
				n.SetTimeout(time.Second)
			}
			w := s.Wait(t, "u-1")
			visit := checkout(w)
			s.box.PutCheckout(visit)
			tt.fault.Times = 1
			check(t, s.box.SwitchStripe(sandbox.Switches{Faults: []sandbox.Fault{tt.fault}}))
			e := s.receive(t, n, declined(visit))
			ask(t, n, 1)
			s.wantEvent(t, e.EventID, "parked nobody_waits_yet")
			s.wantQuestion(t, e.EventID, tt.want)
			ask(t, n, 0) // not yet
			if tt.fault.Headers["Retry-After"] != "" {
				if left := storetest.Query[float64](t, s.url, `SELECT extract(epoch FROM due_at - now())::float8 FROM questions`); left < 60 {
					t.Errorf("asked again after %.0f s, want the 120 s that Stripe wants", left)
				}
			}
			check(t, s.box.SwitchStripe(sandbox.Switches{}))
			n.SetTimeout(10 * time.Second)
			s.due(t)
			ask(t, n, 1)
			s.wantEvent(t, e.EventID, "matched on_the_way")
			s.wantWait(t, w, "pending null attempt_failed")
		})
	}
}

// A refused key is told where people look for it, and nowhere told itself.
func TestRefusedKeyIsTold(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	check(t, s.box.SwitchStripe(sandbox.Switches{Token: "sk_test_another"}))
	s.receive(t, n, declined(checkout(s.Wait(t, "u-1"))))
	ask(t, n, 1)
	seen, err := s.Store.Activity(t.Context(), s.ID)
	check(t, err)
	if got := seen[s.SourceID].LastError; got != "api_key_refused" {
		t.Errorf("last_error: got %q, want api_key_refused", got)
	}
	if !strings.Contains(s.log.String(), "refuses the api_key") {
		t.Errorf("the log does not tell of it: %s", s.log)
	}
	for table, sql := range map[string]string{
		"questions":       `SELECT coalesce(string_agg(q::text, ' '), '') FROM questions q`,
		"events":          `SELECT coalesce(string_agg(e::text, ' '), '') FROM events e`,
		"source_activity": `SELECT coalesce(string_agg(a::text, ' '), '') FROM source_activity a`,
	} {
		if text := storetest.Query[string](t, s.url, sql); strings.Contains(text, apiKey) || text == "" {
			t.Errorf("%s: holds the api_key, or nothing at all: %s", table, text)
		}
	}
}

// Stripe knows of no session: the event stays parked, and its rule says so.
// What was kept is enough for a wait that comes later.
func TestAskedInVain(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string][]sandbox.Fault{
		"an empty list": nil,
		"a 404":         {{Status: 404, Body: []byte(`{"error": {"code": "resource_missing"}}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			check(t, s.box.SwitchStripe(sandbox.Switches{Faults: fault}))
			visit := checkout(s.Wait(t, "u-1"))
			e := s.receive(t, n, declined(visit))
			ask(t, n, 1)
			s.wantEvent(t, e.EventID, "parked nobody_waits_yet")
			s.wantQuestion(t, e.EventID, "none again") // the session may follow
			ask(t, n, 0)
			s.later(t)
			ask(t, n, 1)
			s.wantEvent(t, e.EventID, "parked asked_in_vain")
			s.wantQuestion(t, e.EventID, "none done")
			s.due(t)
			ask(t, n, 0)

			w := s.keyed(t, visit.IntentID)
			_, err := n.intake.MatchParkedOnce(t.Context()) // or the look after the answer, which may come as late
			check(t, err)
			s.wantWait(t, w, "pending null attempt_failed")
		})
	}
}

// Stripe's list is behind its event: asked once more, it knows.
func TestSessionFollows(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	e := s.receive(t, n, declined(visit))
	ask(t, n, 1)
	s.wantQuestion(t, e.EventID, "none again")
	s.box.PutCheckout(visit)
	s.later(t)
	ask(t, n, 1)
	s.wantEvent(t, e.EventID, "matched on_the_way")
	s.wantWait(t, w, "pending null attempt_failed")
	s.wantAsked(t, 2)
}

// Whatever has kept Stripe from saying whose an event is: once it is mended, a
// replay asks, and the sweep does not.
func TestReplayAsksAnew(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before func(*testing.T, *shop, *node) // with the event parked
		was    string                         // the question
	}{
		"parked without a key": {func(t *testing.T, s *shop, _ *node) {
			storetest.Exec(t, s.url, `DELETE FROM questions`)
		}, ""},
		"refused, and to be asked in hours": {func(t *testing.T, s *shop, n *node) {
			check(t, s.box.SwitchStripe(sandbox.Switches{Token: "sk_test_another"}))
			ask(t, n, 1)
			storetest.Exec(t, s.url, `UPDATE questions SET due_at = now() + interval '4 hours'`)
		}, "refused bad_credentials again"},
		"refused until it was given up": {func(t *testing.T, s *shop, n *node) {
			check(t, s.box.SwitchStripe(sandbox.Switches{Token: "sk_test_another"}))
			ask(t, n, 1)
			s.giveUp(t)
		}, "moot done"},
		"known by nobody": {func(t *testing.T, s *shop, n *node) {
			check(t, s.box.SwitchStripe(sandbox.Switches{Faults: []sandbox.Fault{{Status: 200, Body: []byte(`{"data": []}`)}}}))
			ask(t, n, 1)
			s.later(t)
			ask(t, n, 1)
		}, "none done"},
		"known by nobody until it was given up": {func(t *testing.T, s *shop, n *node) {
			check(t, s.box.SwitchStripe(sandbox.Switches{Faults: []sandbox.Fault{{Status: 200, Body: []byte(`{"data": []}`)}}}))
			ask(t, n, 1)
			s.later(t)
			ask(t, n, 1)
			s.giveUp(t)
		}, "none done"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			w := s.Wait(t, "u-1")
			visit := checkout(w)
			s.box.PutCheckout(visit)
			e := s.receive(t, n, declined(visit))
			tt.before(t, s, n)
			check(t, s.box.SwitchStripe(sandbox.Switches{Token: apiKey}))
			// What looks by itself does not ask.
			check(t, n.intake.DecideAgain(store.EventKey{ProjectID: s.ID, ID: e.EventID}))
			if tt.was != "" {
				s.wantQuestion(t, e.EventID, tt.was)
			}
			ask(t, n, 0)
			asked := s.box.Counts().Asked

			s.replay(t, n)
			s.wantEvent(t, e.EventID, "parked nobody_waits_yet")
			s.wantQuestion(t, e.EventID, "again")
			ask(t, n, 1)
			s.wantEvent(t, e.EventID, "matched on_the_way")
			s.wantQuestion(t, e.EventID, "found done")
			s.wantWait(t, w, "pending null attempt_failed")
			s.wantAsked(t, asked+1)
			s.replay(t, n)
			ask(t, n, 0)
		})
	}
}

// replay has all events of the shop that did nothing matched again, by hand.
func (s *shop) replay(t *testing.T, n *node) {
	t.Helper()
	_, err := s.Store.StartReplay(t.Context(), s.ID, store.EventFilter{Source: "stripe"}, false)
	check(t, err)
	for {
		took, err := n.intake.ReplayOnce(t.Context())
		check(t, err)
		if took == 0 {
			return
		}
	}
}

// A replay by hand leaves a question that is under way to its node.
func TestReplayLeavesWhatIsAsked(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	e := s.receive(t, n, declined(checkout(s.Wait(t, "u-1"))))
	claimed, err := s.Store.ClaimQuestions(t.Context(), uuid.New(), 1, []int64{})
	check(t, err)
	s.replay(t, n)
	held, err := s.Store.RecordTry(t.Context(), &claimed[0], store.Try{Result: relay.AnswerFailed, Reason: "timeout"})
	check(t, err)
	if !held {
		t.Error("the replay took the lease away")
	}
	s.wantQuestion(t, e.EventID, "failed timeout done")
}

// An event of a connected account is not asked about: the key would not find
// what it is about, which says nothing.
func TestConnectedAccountIsNotAskedAbout(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	e := s.receive(t, n, connected(t, declined(visit)))
	s.wantEvent(t, e.EventID, "parked nobody_waits_yet")
	visit.PaymentStatus = "unpaid"
	s.receive(t, n, connected(t, sandbox.StripeEvent("checkout.session.completed", visit)))
	storetest.Overdue(t, s.url, w.ID)
	sweep(t, n)
	ask(t, n, 0)
	if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM questions`); got != 0 {
		t.Errorf("there are %d questions, want none", got)
	}
}

// connected is an event as Stripe sends it of a connected account.
func connected(t *testing.T, body []byte) []byte {
	t.Helper()
	var event map[string]any
	check(t, json.Unmarshal(body, &event))
	event["account"] = "acct_1"
	body, err := json.Marshal(event)
	check(t, err)
	return body
}

// An answer that is kept is not forgotten with its question: where another
// node had the event locked, it is decided when the lease ends.
func TestUndecidedQuestionIsNotEnded(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	e := s.receive(t, n, declined(visit))
	claimed, err := s.Store.ClaimQuestions(t.Context(), uuid.New(), 1, []int64{})
	check(t, err)
	answer := fmt.Sprintf(`{"data": [{"id": %q, "client_reference_id": %q}]}`, visit.SessionID, w.Token)
	_, err = s.Store.KeepAnswer(t.Context(), &claimed[0], relay.AnswerFound, []byte(answer))
	check(t, err)
	check(t, s.Store.EndInquiry(t.Context(), &claimed[0])) // its rematch was skipped
	s.wantQuestion(t, e.EventID, "found again")
	s.due(t)
	ask(t, n, 1)
	s.wantEvent(t, e.EventID, "matched on_the_way")
	s.wantQuestion(t, e.EventID, "found done")
	s.wantWait(t, w, "pending null attempt_failed")
}

// The answer names nobody who waits yet: a wait that is registered with that
// name later has it.
func TestAnswerWaitsForItsWait(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	visit := checkout(relay.Wait{Token: "order-1042"})
	s.box.PutCheckout(visit)
	e := s.receive(t, n, declined(visit))
	ask(t, n, 1)
	s.wantEvent(t, e.EventID, "parked asked_nobody_waits_yet")
	w := s.keyed(t, "order-1042")
	_, err := n.intake.MatchParkedOnce(t.Context())
	check(t, err)
	s.wantEvent(t, e.EventID, "matched on_the_way")
	s.wantWait(t, w, "pending null attempt_failed")
	s.wantAsked(t, 1)
}

// keyed registers a wait with a key, without the look that a node makes after
// it.
func (s *shop) keyed(t *testing.T, key string) relay.Wait {
	t.Helper()
	r := s.Registration(t, "user of "+key, s.Plan())
	r.Wait.Key = key
	return s.Register(t, r)
}

// Two nodes ask side by side: each question is asked once, and fires once.
func TestNodesAskOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	const visits = 12
	a, b := s.node(t), s.node(t)
	var waits []relay.Wait
	for i := range visits {
		w := s.Wait(t, fmt.Sprintf("u-%d", i))
		visit := checkout(w)
		s.box.PutCheckout(visit)
		s.receive(t, a, declined(visit))
		waits = append(waits, w)
	}
	var g errgroup.Group
	for _, n := range []*node{a, b} {
		g.Go(func() error {
			for {
				if took, err := n.AskOnce(t.Context()); took == 0 || err != nil {
					return err
				}
			}
		})
	}
	check(t, g.Wait())
	for _, w := range waits {
		s.wantWait(t, w, "pending null attempt_failed")
	}
	s.wantAsked(t, visits)
}

// A lease that was lost writes nothing.
func TestStaleLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	e := s.receive(t, n, declined(checkout(s.Wait(t, "u-1"))))
	claimed, err := s.Store.ClaimQuestions(t.Context(), uuid.New(), 1, []int64{})
	check(t, err)
	stale := claimed[0]
	stale.Lease = uuid.New()
	if held, err := s.Store.RecordTry(t.Context(), &stale, store.Try{Result: relay.AnswerFailed}); held || err != nil {
		t.Errorf("recording under a stale lease: got %v, %v, want nothing written", held, err)
	}
	if held, err := s.Store.KeepAnswer(t.Context(), &stale, relay.AnswerNone, []byte(`{}`)); held || err != nil {
		t.Errorf("keeping an answer under a stale lease: got %v, %v, want nothing written", held, err)
	}
	check(t, s.Store.EndInquiry(t.Context(), &stale))
	check(t, s.Store.ReturnQuestion(t.Context(), &stale))
	s.wantQuestion(t, e.EventID, "again")
	ask(t, n, 0) // the lease stands
	check(t, s.Store.ReturnQuestion(t.Context(), &claimed[0]))
	ask(t, n, 1)
}

// A shutdown ends the request that is under way and gives its lease back: it
// counts as no try.
func TestShutdownGivesBack(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	check(t, s.box.SwitchStripe(sandbox.Switches{Faults: []sandbox.Fault{{Answer: "hang", Times: 1}}}))
	w := s.Wait(t, "u-1")
	visit := checkout(w)
	s.box.PutCheckout(visit)
	e := s.receive(t, n, declined(visit))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	await(t, "the question to be asked", func() bool { return s.box.Counts().Asked == 1 })
	stop()
	check(t, <-ended)
	s.wantQuestion(t, e.EventID, "again")
	ask(t, s.node(t), 1)
	s.wantWait(t, w, "pending null attempt_failed")
}

// await polls until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	const patience = 2 * time.Minute // longer than any machine stands still
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("waiting for %s: it took more than %v", what, patience)
		case <-tick.C:
		}
	}
}
