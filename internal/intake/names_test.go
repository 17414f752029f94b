package intake_test

import (
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// A bot that made the checkout itself gives the provider's id as the key of
// its wait. The provider then names the wait by it, and teaches it again.
func TestKeyThatIsAProvidersID(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	reg := p.Registration(t, "u-1", p.Plan())
	reg.Wait.Key = "cs_test_1"
	w := p.Register(t, reg)
	paid := p.Paid("evt_1", "pi_1", "")
	paid.Reading.References = []relay.Candidate{{Place: "session", Value: "cs_test_1"}, {Place: "intent", Value: "pi_1"}}
	if got := together(t, n, paid)[0]; got.Rule != "closed" || got.CorrelationID != w.ID {
		t.Fatalf("got %+v, want the wait closed", got)
	}
	refund := p.Callback("evt_2", relay.Refunded, "")
	refund.Reading.References = []relay.Candidate{{Place: "intent", Value: "pi_1"}}
	if got := together(t, n, refund)[0]; got.Rule != "aftermath" || got.CorrelationID != w.ID {
		t.Errorf("a refund of what the payment taught: got %+v, want it matched", got)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM correlation_refs`); got != 2 {
		t.Errorf("got %d names of the wait, want 2: its key and the intent", got)
	}
}

// What nobody signed goes by the token alone: a key can be guessed.
func TestUnsignedGoesByTokenAlone(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	reg := p.Registration(t, "u-1", p.Plan())
	reg.Wait.Key = "order-1042"
	w := p.Register(t, reg)
	guess := p.Callback("", relay.Completed, "order-1042")
	guess.Verdict = relay.Unsigned
	guess.Reading.References = guess.Reading.Candidates
	if got := together(t, n, guess)[0]; got.Match != relay.Unmatched || got.Token != "" {
		t.Errorf("a guessed key: got %+v, want nothing", got)
	}
	if got := storetest.Query[string](t, url, `SELECT status FROM correlations WHERE id = $1`, w.ID); got != "pending" {
		t.Errorf("the wait is %s, want pending", got)
	}
	known := p.Callback("", relay.Completed, w.Token)
	known.Verdict = relay.Unsigned
	if got := together(t, n, known)[0]; got.Rule != "closed" {
		t.Errorf("its token: got %+v, want it closed", got)
	}
}

// One payment that two event types tell fires once, also when it does not
// close the wait.
func TestOnePaymentToldTwice(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	for how, verdict := range map[string]relay.Verdict{
		"apart": relay.Verified, "together": relay.Verified,
		"unsigned": relay.Unsigned, // goes by its token, and is told twice all the same
	} {
		t.Run(how, func(t *testing.T) {
			n := newNode(t, p.Store)
			plan := p.Plan()
			plan.Expect = &relay.Expect{Currency: "EUR"}
			plan.On["mismatch"], plan.On["paid_again"] = plan.On["completed"], plan.On["completed"]
			w := p.Register(t, p.Registration(t, "u-"+how, plan))
			paid := func(event, payment, currency string) relay.Callback {
				c := p.Paid(how+event, payment, w.Token)
				c.Reading.Payment.Currency, c.Verdict = currency, verdict
				return c
			}
			history := []relay.Callback{
				paid("1", "pi_1", "USD"), paid("2", "pi_1", "USD"), // a mismatch, told twice
				paid("3", "pi_2", "EUR"), paid("4", "pi_2", "EUR"), // closes
				paid("5", "pi_3", "EUR"), paid("6", "pi_3", "EUR"), // a second payment, told twice
			}
			if how == "together" {
				together(t, n, history...)
			} else {
				for _, c := range history {
					together(t, n, c)
				}
			}
			got := storetest.Query[string](t, url, `
				SELECT string_agg(outcome, ' ' ORDER BY outcome) FROM deliveries WHERE correlation_id = $1`, w.ID)
			if want := "completed mismatch paid_again"; got != want {
				t.Errorf("fired %q, want %q", got, want)
			}
			if n := storetest.Query[int](t, url, `SELECT count(*) FROM events WHERE correlation_id = $1 AND payment IS NULL`, w.ID); n > 0 {
				t.Errorf("%d events lost their payment: the database refused them as they were read", n)
			}
		})
	}
}

// An event that came to nothing keeps nobody out: sent again once somebody
// waits for it, it is matched.
func TestUnmatchedTakesNoKey(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	n := newNode(t, p.Store)
	token := relay.NewToken()
	early := p.Paid("evt_early", "pi_1", token)
	early.Verdict = relay.Unsigned // else it would be parked
	if got := together(t, n, early)[0]; got.Match != relay.Unmatched {
		t.Fatalf("got %+v, want unmatched", got)
	}
	reg := p.Registration(t, "u-1", p.Plan())
	reg.Wait.Token = token
	p.Register(t, reg)
	again := early
	again.ID = relay.NewID()
	if got := together(t, n, again)[0]; got.Rule != "closed" {
		t.Errorf("sent again: got %+v, want it closed", got)
	}
}

// The items of one body have no id between them and are still events each of
// their own; the body sent again is the same ones.
func TestItemsOfOneBody(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	n := newNode(t, p.Store)
	w := p.Wait(t, "u-1")
	items := func() (out []relay.Callback) {
		for i := range 2 {
			c := p.Callback("", relay.AttemptFailed, w.Token)
			c.Body, c.Item = []byte(`[{}, {}]`), i
			out = append(out, c)
		}
		return out
	}
	for round, want := range []relay.Match{relay.Matched, relay.Duplicate} {
		for i, got := range together(t, n, items()...) {
			if got.Match != want {
				t.Errorf("round %d, item %d: got %s, want %s", round, i, got.Match, want)
			}
		}
	}
}
