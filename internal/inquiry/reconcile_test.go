package inquiry_test

import (
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// overdue is a wait whose session is known, since a card was declined in it,
// and whose time is up. The session is what Stripe would tell of it then.
func (s *shop) overdue(t *testing.T, n *node, status string) (relay.Wait, sandbox.StripeOptions) {
	t.Helper()
	w := s.Wait(t, "u-"+relay.NewToken())
	visit := checkout(w)
	s.box.PutCheckout(visit)
	s.receive(t, n, declined(visit))
	ask(t, n, 1)
	visit.PaymentStatus = status
	s.box.PutCheckout(visit)
	storetest.Overdue(t, s.url, w.ID)
	return w, visit
}

// reconciling is such a wait, of which the sweeper has found that it is to be
// asked for.
func (s *shop) reconciling(t *testing.T, n *node, status string) (relay.Wait, sandbox.StripeOptions) {
	t.Helper()
	w, visit := s.overdue(t, n, status)
	sweep(t, n)
	s.wantWait(t, w, "pending false attempt_failed")
	left := storetest.Query[float64](t, s.url, `SELECT extract(epoch FROM expires_at - now())::float8 FROM deadlines WHERE correlation_id = $1`, w.ID)
	if left < 30 || left > 60 {
		t.Errorf("the sweeper looks again in %.0f s, want it to leave Stripe a minute", left)
	}
	return w, visit
}

// What Stripe says decides the end of a wait.
func TestReconciliation(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status string
		want   string
	}{
		"paid":             {"paid", "completed true attempt_failed completed"},
		"not paid":         {"", "expired true attempt_failed expired"},
		"the bank is slow": {"unpaid", "pending null attempt_failed processing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			w, visit := s.reconciling(t, n, tt.status)
			ask(t, n, 1)
			s.wantWait(t, w, tt.want)
			s.wantQuestion(t, w.ID, "found done")
			s.due(t)
			ask(t, n, 0)
			fetched := storetest.Query[int](t, s.url, `SELECT count(*) FROM events WHERE verdict = 'fetched' AND correlation_id = $1 AND match = 'matched'`, w.ID)
			if want := len(tt.status); (fetched == 1) != (want > 0) {
				t.Errorf("there are %d fetched events, want one where Stripe had news", fetched)
			}
			if tt.status != "paid" {
				return
			}
			got := storetest.Query[string](t, s.url, `SELECT payment::text FROM events WHERE verdict = 'fetched'`)
			amount := storetest.Query[int](t, s.url, `SELECT (payment->>'amount_minor')::int FROM events WHERE verdict = 'fetched' AND payment->>'id' = $1 AND payment->>'live' = 'false'`, visit.IntentID)
			if amount != 2050 {
				t.Errorf("the payment: got %s, want 20.50 of %s", got, visit.IntentID)
			}
			// The callback that was late says nothing new.
			late := s.receive(t, n, sandbox.StripeEvent("checkout.session.completed", visit))
			s.wantEvent(t, late.EventID, "duplicate already_closed")
			s.wantWait(t, w, tt.want)
		})
	}
}

// What is fetched is judged as its callback is.
func TestFetchedIsJudgedAsItsCallback(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*relay.Plan)
		want   string // match, rule and outcome of the event
	}{
		"a filter on livemode that holds":  {func(p *relay.Plan) { p.When = "event.livemode == false" }, "matched closed completed"},
		"a filter on livemode that fails":  {func(p *relay.Plan) { p.When = "event.livemode == true" }, "guard_failed when completed"},
		"a filter on the type":             {func(p *relay.Plan) { p.When = `event.type == "checkout.session.completed"` }, "matched closed completed"},
		"live is expected":                 {func(p *relay.Plan) { p.Expect = &relay.Expect{Live: ptr(true)} }, "matched on_the_way mismatch"},
		"a test is expected":               {func(p *relay.Plan) { p.Expect = &relay.Expect{Live: ptr(false)} }, "matched closed completed"},
		"an account of which none is told": {func(p *relay.Plan) { p.Expect = &relay.Expect{Account: "acct_1"} }, "matched on_the_way mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, way := range []relay.Verdict{relay.Verified, relay.Fetched} {
				s := newShop(t)
				n := s.node(t)
				p := s.Plan()
				tt.change(&p)
				w := s.Register(t, s.Registration(t, "u-1", p))
				visit := checkout(w)
				visit.PaymentStatus = "paid"
				s.box.PutCheckout(visit)
				if way == relay.Verified {
					s.receive(t, n, sandbox.StripeEvent("checkout.session.completed", visit))
				} else {
					storetest.Exec(t, s.url, `UPDATE correlations SET asks = $2, asks_source = $3 WHERE id = $1`, w.ID, visit.SessionID, s.SourceID)
					storetest.Overdue(t, s.url, w.ID)
					sweep(t, n)
					ask(t, n, 1)
				}
				if got := storetest.Query[string](t, s.url, `SELECT concat_ws(' ', match, rule, outcome) FROM events WHERE verdict = $1`, string(way)); got != tt.want {
					t.Errorf("%s: got %q, want %q", way, got, tt.want)
				}
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// A wait whose plan cannot be read is asked for once, and left to the sweeper.
func TestUnusablePlanEndsTheQuestion(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	w, _ := s.reconciling(t, s.node(t), "")
	storetest.Exec(t, s.url, `UPDATE plans SET doc = '{"on": 7}'`)
	n := s.node(t) // it has no plan in memory
	ask(t, n, 1)
	s.wantQuestion(t, w.ID, "found done")
	s.due(t)
	ask(t, n, 0)
	s.wantWait(t, w, "pending false attempt_failed")
}

// A slow bank moves the deadline; at the new one Stripe is asked again.
func TestReconciledAgainAfterProcessing(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w, visit := s.reconciling(t, n, "unpaid")
	ask(t, n, 1)
	s.wantWait(t, w, "pending null attempt_failed processing")
	visit.PaymentStatus = "paid"
	s.box.PutCheckout(visit)
	storetest.Overdue(t, s.url, w.ID)
	sweep(t, n)
	ask(t, n, 1)
	s.wantWait(t, w, "completed true attempt_failed processing completed")
}

// Stripe cannot be reached: three tries, and the wait expires.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w, _ := s.reconciling(t, n, "paid")
	check(t, s.box.SwitchStripe(sandbox.Switches{Faults: []sandbox.Fault{{Answer: "server_error"}}}))
	for range 2 {
		s.due(t)
		ask(t, n, 1)
		s.wantWait(t, w, "pending false attempt_failed")
		s.wantQuestion(t, w.ID, "failed platform_failed again")
	}
	if left := storetest.Query[float64](t, s.url, `SELECT extract(epoch FROM due_at - now())::float8 FROM questions WHERE correlation_id = $1`, w.ID); left > 10 {
		t.Errorf("the third try is %.0f s away, want all three within the minute", left)
	}
	s.due(t)
	ask(t, n, 1)
	s.wantWait(t, w, "expired false attempt_failed expired")
	s.wantQuestion(t, w.ID, "failed platform_failed done")
	s.wantAsked(t, 1+3)
}

// Every node that could ask is gone: the sweeper of any other one ends the
// wait when its minute is over.
func TestNobodyAsks(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w, _ := s.reconciling(t, n, "paid")
	if _, err := s.Store.ClaimQuestions(t.Context(), uuid.New(), 1, []int64{}); err != nil { // and dies
		t.Fatal(err)
	}
	ask(t, n, 0)
	sweep(t, n)
	s.wantWait(t, w, "pending false attempt_failed")
	storetest.Overdue(t, s.url, w.ID)
	sweep(t, n)
	s.wantWait(t, w, "expired false attempt_failed expired")
	s.due(t)
	ask(t, n, 1)
	s.wantQuestion(t, w.ID, "moot done")
	s.wantWait(t, w, "expired false attempt_failed expired")
}

// Whoever decides while Stripe is being asked has decided.
func TestDecidedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		decide func(*testing.T, *shop, *node, relay.Wait, sandbox.StripeOptions)
		moot   string // before it is asked
		asked  string // while it is asked
	}{
		"by the callback": {
			func(t *testing.T, s *shop, n *node, _ relay.Wait, visit sandbox.StripeOptions) {
				s.receive(t, n, sandbox.StripeEvent("checkout.session.completed", visit))
			},
			"completed false attempt_failed completed", "completed true attempt_failed completed",
		},
		"by hand": {
			func(t *testing.T, s *shop, _ *node, w relay.Wait, _ sandbox.StripeOptions) {
				_, err := s.Store.EndWait(t.Context(), uuid.New(), s.ID, w.ID, func(w *relay.Wait) (store.Ending, error) {
					return store.Ending{Wait: w, Step: w.Apply(relay.Cancelled, ""), By: "api"}, nil
				})
				check(t, err)
			},
			// Not in silence: Stripe says that it was paid.
			"cancelled false attempt_failed", "cancelled true attempt_failed completed",
		},
		"by a newer wait": {
			func(t *testing.T, s *shop, _ *node, w relay.Wait, _ sandbox.StripeOptions) {
				r := s.Registration(t, w.UserID, s.Plan())
				s.Register(t, r)
			},
			"superseded false attempt_failed", "superseded true attempt_failed completed",
		},
	} {
		t.Run(name+", before", func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			w, visit := s.reconciling(t, n, "paid")
			tt.decide(t, s, n, w, visit)
			ask(t, n, 1)
			s.wantQuestion(t, w.ID, "moot done")
			s.wantWait(t, w, tt.moot)
			s.wantAsked(t, 1)
		})
		t.Run(name+", while it is asked", func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			w, visit := s.reconciling(t, n, "paid")
			came, answer := s.holdNext()
			asked := make(chan error, 1)
			go func() {
				_, err := n.AskOnce(t.Context())
				asked <- err
			}()
			<-came
			tt.decide(t, s, n, w, visit)
			close(answer)
			check(t, <-asked)
			s.wantWait(t, w, tt.asked)
		})
	}
}

// Two nodes sweep and ask at the same time: the wait ends once.
func TestExpiryBesideReconciliation(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a, b := s.node(t), s.node(t)
	const rounds = 8
	var waits []relay.Wait
	for i := range rounds {
		w, _ := s.overdue(t, a, []string{"paid", ""}[i%2])
		waits = append(waits, w)
	}
	sweep(t, a)
	for _, w := range waits {
		storetest.Overdue(t, s.url, w.ID) // their minute is over, too
	}
	var g errgroup.Group
	for _, n := range []*node{a, b} {
		g.Go(func() error {
			_, err := n.AskOnce(t.Context())
			return err
		})
		g.Go(func() error {
			_, err := n.sweeper.ExpireOnce(t.Context())
			return err
		})
	}
	check(t, g.Wait())
	sweep(t, b)
	for i, w := range waits {
		ends := storetest.Query[string](t, s.url, `SELECT coalesce(string_agg(outcome, ' ' ORDER BY created_at, id), '') FROM deliveries WHERE correlation_id = $1 AND outcome <> 'attempt_failed'`, w.ID)
		status := storetest.Query[string](t, s.url, `SELECT status || coalesce('/' || late_outcome, '') FROM correlations WHERE id = $1`, w.ID)
		switch got := status + ": " + ends; {
		case got == "expired: expired", got == "completed: completed" && i%2 == 0, got == "expired/completed: expired completed" && i%2 == 0:
		default:
			t.Errorf("the wait, paid %v: got %q, want one end, and a payment told", i%2 == 0, got)
		}
	}
}

// A wait whose caller gave the session as its key is asked for as well, and
// one that nothing is known of is not: it expires at once.
func TestWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	visit := checkout(relay.Wait{})
	visit.PaymentStatus = "paid"
	s.box.PutCheckout(visit)
	made, plain := s.keyed(t, visit.SessionID), s.keyed(t, "order-1042")
	storetest.Overdue(t, s.url, made.ID, plain.ID)
	sweep(t, n)
	s.wantWait(t, plain, "expired null expired")
	s.wantWait(t, made, "pending false")
	ask(t, n, 1)
	s.wantWait(t, made, "completed true completed")
}

// A session that Stripe does not know is an answer.
func TestUnknownSessionExpires(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w := s.keyed(t, "cs_test_nobody")
	storetest.Overdue(t, s.url, w.ID)
	sweep(t, n)
	ask(t, n, 1)
	s.wantWait(t, w, "expired true expired")
	s.wantQuestion(t, w.ID, "none done")
}

// A lease that was lost ends no wait.
func TestStaleLeaseEndsNoWait(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	w, _ := s.reconciling(t, n, "")
	claimed, err := s.Store.ClaimQuestions(t.Context(), uuid.New(), 1, []int64{})
	check(t, err)
	stale := claimed[0]
	stale.Lease = uuid.New()
	_, held, err := s.Store.EndReconciliation(t.Context(), uuid.New(), &stale, store.Try{Result: relay.AnswerFound}, func(w *relay.Wait) (store.Ending, error) {
		return store.Ending{Wait: w, Step: w.Apply(relay.Expired, ""), By: "deadline"}, nil
	})
	check(t, err)
	if held {
		t.Error("a stale lease ended the question")
	}
	s.wantWait(t, w, "pending false attempt_failed")
}

// The few waits that are asked for hold up none of the others.
func TestOthersExpireMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	var asked, others []uuid.UUID
	for range 5 {
		asked = append(asked, s.keyed(t, "cs_test_"+relay.NewToken()).ID)
	}
	storetest.Overdue(t, s.url, asked...)
	for range 20 {
		others = append(others, s.Wait(t, "u-"+relay.NewToken()).ID)
	}
	storetest.Overdue(t, s.url, others...)
	for {
		took, err := n.sweeper.ExpireOnce(t.Context())
		check(t, err)
		if took == 0 {
			break
		}
	}
	for what, ids := range map[string][]uuid.UUID{"pending": asked, "expired": others} {
		if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM correlations WHERE id = ANY($1) AND status = $2`, ids, what); got != len(ids) {
			t.Errorf("%s: got %d, want %d", what, got, len(ids))
		}
	}
}
