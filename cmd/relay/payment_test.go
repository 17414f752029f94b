package main

import (
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store/storetest"
)

// TestPayment plays what can happen to a checkout, from the registration to
// the conversation.
func TestPayment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, play := range map[string]func(*testing.T, *world){
		"paid":                                paidOnce,
		"the link carries the token":          linkWithToken,
		"the same event twice":                sameEventTwice,
		"two event types of one payment":      twoEventTypes,
		"the intent before the session":       intentFirst,
		"two payments":                        twoPayments,
		"bad signature":                       badSignature,
		"unknown token":                       unknownToken,
		"unpaid, then the bank is done":       unpaidThenPaid,
		"unpaid, then the bank refuses":       unpaidThenRefused,
		"declined, then paid":                 declinedThenPaid,
		"declined through a payment link":     declinedThroughLink,
		"paid at Mollie, who says only which": paidAtMollie,
		"paid, and the callback never came":   paidUntold,
		"expired":                             expired,
		"paid after it expired":               paidLate,
		"wrong amount":                        func(t *testing.T, w *world) { mismatch(t, w, 2049, "eur", "20.49 EUR") },
		"wrong currency":                      func(t *testing.T, w *world) { mismatch(t, w, 2050, "usd", "20.50 USD") },
		"the guard does not hold":             guarded,
		"refunded months later, by reference": refundedByReference,
		"cancelled by hand":                   cancelled,
		"cancelled in silence":                cancelledInSilence,
		"resolved by hand":                    resolved,
		"nobody cares for this type":          ignoredType,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, w)
		})
	}
}

func paidOnce(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	if reg.Status != "pending" {
		t.Errorf("status at first: got %q, want pending", reg.Status)
	}
	o := paid(reg)
	w.stripe(t, "checkout.session.completed", o)
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.StatusCompleted, "completed")
	if p := got.Payment; p == nil || p.ID != o.IntentID || p.Amount != 20.5 || p.AmountText != "20.50" || p.Currency != "EUR" {
		t.Errorf("payment: got %+v, want %s of 20.50 EUR", p, o.IntentID)
	}
	if d := got.Deliveries[0]; d.Status != "delivered" || d.Attempts != 1 || d.LastClass != "ok" {
		t.Errorf("delivery: got %+v, want it delivered at once", d)
	}
	c := w.wantModule(t, reg, paidModule, 1)
	vars := map[string]string{}
	for name, raw := range c.CustomVars {
		vars[name] = string(raw)
	}
	if diff := cmp.Diff(map[string]string{"amount": "20.5", "receipt": `"Paid 20.50 EUR"`}, vars); diff != "" {
		t.Errorf("custom_vars (-want +got):\n%s", diff)
	}
}

// paidAtMollie plays callbacks that say only which payment they are about. By
// themselves they do nothing; what Mollie says of the payment does.
func paidAtMollie(t *testing.T, w *world) {
	reg := w.register(t, "mollie", nil)
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	post := func(id string) {
		t.Helper()
		resp, answer := exchange(t, http.MethodPost, reg.CallbackURL, form, "id="+id)
		if resp.StatusCode != http.StatusOK || answer != "[accepted]" {
			t.Errorf("posting %s: got %d %q, want 200 [accepted]", id, resp.StatusCode, answer)
		}
	}
	paid := "tr_paid_" + reg.Token
	post("tr_" + relay.NewToken()) // which Mollie does not know
	post(paid)
	post(paid)
	await(t, patience, "the conversation to be resumed", func() bool { return w.conversation(reg).Resumed > 0 })
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	c := w.wantModule(t, reg, paidModule, 1)
	if amount, status := string(c.CustomVars["amount"]), string(c.CustomVars["status"]); amount != "20.5" || status != `"paid"` {
		t.Errorf("the variables: got %s and %s, want what Mollie says of the payment", amount, status)
	}
	byVerdict := map[string][]string{}
	for _, e := range w.events(t, url.Values{"token": {reg.Token}}) {
		byVerdict[e.Verdict] = append(byVerdict[e.Verdict], e.Match)
	}
	slices.Sort(byVerdict["unsigned"])
	if diff := cmp.Diff(map[string][]string{"unsigned": {"duplicate", "ignored", "ignored"}, "fetched": {"matched"}}, byVerdict); diff != "" {
		t.Errorf("the events by their verdicts (-want +got):\n%s", diff)
	}
}

func linkWithToken(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	resp, _ := exchange(t, http.MethodGet, reg.URL, nil, "")
	want := "https://buy.stripe.example/test_abc?client_reference_id=" + reg.Token
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusFound || got != want {
		t.Errorf("the link: got %d to %q, want 302 to %q", resp.StatusCode, got, want)
	}
}

func sameEventTwice(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	body := sandbox.StripeEvent("checkout.session.completed", paid(reg))
	for range 3 {
		w.stripeBody(t, body)
	}
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	w.wantModule(t, reg, paidModule, 1)
	events := w.events(t, url.Values{"token": {reg.Token}})
	if len(events) != 3 {
		t.Fatalf("events: got %d, want all 3 kept", len(events))
	}
	first := events[2]
	if first.Match != "matched" {
		t.Errorf("the first event: got %q, want matched", first.Match)
	}
	for _, e := range events[:2] {
		if e.Match != "duplicate" || e.Rule != "same_event" || e.DuplicateOf == nil || *e.DuplicateOf != first.ID {
			t.Errorf("a later event: got %+v, want a duplicate of %s by the rule same_event", e, first.ID)
		}
	}
}

func twoEventTypes(t *testing.T, w *world) {
	describedTwice(t, w, "checkout.session.completed", "payment_intent.succeeded")
}

func intentFirst(t *testing.T, w *world) {
	describedTwice(t, w, "payment_intent.succeeded", "checkout.session.completed")
}

// describedTwice tells one payment by two event types. The second one is
// neither a second outcome nor a second payment.
func describedTwice(t *testing.T, w *world, kinds ...string) {
	reg := w.register(t, "checkout", nil)
	o := paid(reg)
	for i, kind := range kinds {
		o.EventID = "evt_" + relay.NewToken()
		w.stripe(t, kind, o)
		want := []string{"matched", "duplicate"}[i]
		if e := w.event(t, reg.Token, o.EventID); e.Match != want {
			t.Errorf("%s: got match %q by %q, want %q", kind, e.Match, e.Rule, want)
		}
	}
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	w.wantModule(t, reg, paidModule, 1)
}

func twoPayments(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	w.stripe(t, "checkout.session.completed", paid(reg))
	second := paid(reg)
	w.stripe(t, "checkout.session.completed", second)
	if e := w.event(t, reg.Token, second.EventID); e.Match != "paid_again" {
		t.Errorf("the second payment: got match %q, want paid_again", e.Match)
	}
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed") // nothing stands under on.paid_again
	w.wantModule(t, reg, paidModule, 1)
}

func badSignature(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	body := sandbox.StripeEvent("checkout.session.completed", paid(reg))
	for name, header := range map[string]http.Header{
		"another secret": {"Stripe-Signature": {sandbox.SignStripe("whsec_other", body, time.Now())}},
		"too old":        {"Stripe-Signature": {sandbox.SignStripe(stripeSecret, body, time.Now().Add(-6*time.Minute))}},
		"no signature":   nil,
	} {
		before := len(w.events(t, url.Values{"verdict": {"rejected"}}))
		resp, answer := exchange(t, http.MethodPost, w.url+"/in/default/stripe", header, string(body))
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(resp.Header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("%s: got %d, want a 401 problem: %s", name, resp.StatusCode, answer)
		}
		rejected := w.events(t, url.Values{"verdict": {"rejected"}})
		if len(rejected) != before+1 || rejected[0].Correlation != nil || rejected[0].Reason == "" {
			t.Errorf("%s: got %d rejected events, want one more than %d, with its reason and without a wait", name, len(rejected), before)
		}
	}
	wantStatus(t, w.wait(t, reg.ID), relay.Pending)

	// The forgeries have taken nothing from the real event.
	w.stripeBody(t, body)
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	w.wantModule(t, reg, paidModule, 1)
}

func unknownToken(t *testing.T, w *world) {
	stranger := wait{Token: relay.NewToken()}
	o := paid(stranger)
	w.stripe(t, "checkout.session.completed", o)
	if e := w.event(t, stranger.Token, o.EventID); e.Verdict != "verified" || e.Match != "parked" || e.Rule != "nobody_waits_yet" {
		t.Errorf("event: got %+v, want it verified and parked, since nobody waits yet", e)
	}
}

func unpaidThenPaid(t *testing.T, w *world) {
	unpaidThen(t, w, "checkout.session.async_payment_succeeded", relay.StatusCompleted, "completed", paidModule)
}

func unpaidThenRefused(t *testing.T, w *world) {
	unpaidThen(t, w, "checkout.session.async_payment_failed", relay.StatusFailed, "default", defaultModule)
}

// unpaidThen plays a slow bank: the wait stays open, longer than it would
// have, until the bank has said what became of it.
func unpaidThen(t *testing.T, w *world, kind string, status relay.Status, action string, module int64) {
	reg := w.register(t, "checkout", nil)
	o := paid(reg)
	unpaid := o
	unpaid.PaymentStatus = "unpaid"
	w.stripe(t, "checkout.session.completed", unpaid)
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.Pending, "processing")
	if left := time.Until(got.ExpiresAt); left < 71*time.Hour || left > 73*time.Hour {
		t.Errorf("the deadline is %s away, want the 72 h of processing_for", left)
	}
	w.wantModule(t, reg, 0, 0)
	if diff := cmp.Diff([]string{"Your bank takes a while."}, w.said(reg)); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}

	o.EventID = "evt_" + relay.NewToken()
	w.stripe(t, kind, o)
	wantStatus(t, w.settled(t, reg.ID), status, "processing", action)
	w.wantModule(t, reg, module, 1)
}

func declinedThenPaid(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	o := paid(reg)
	w.stripe(t, "payment_intent.payment_failed", o)
	wantStatus(t, w.settled(t, reg.ID), relay.Pending, "attempt_failed")
	w.wantModule(t, reg, 0, 0)

	o.EventID = "evt_" + relay.NewToken()
	w.stripe(t, "checkout.session.completed", o)
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "attempt_failed", "completed")
	w.wantModule(t, reg, paidModule, 1)
	if diff := cmp.Diff([]string{"That card was declined."}, w.said(reg)); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}

	// A decline that arrives after the end changes nothing and says nothing.
	o.EventID = "evt_" + relay.NewToken()
	w.stripe(t, "payment_intent.payment_failed", o)
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "attempt_failed", "completed")
}

func expire(t *testing.T, w *world) wait {
	t.Helper()
	reg := w.register(t, "checkout", object{"expires_in": "1s"})
	await(t, patience, "the end of the wait", func() bool { return w.wait(t, reg.ID).Status != "pending" })
	return reg
}

// declinedThroughLink declines a card on the page of a payment link: what
// Stripe sends then names nobody, and the chat hears of it all the same.
func declinedThroughLink(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	o := paid(reg)
	w.box.PutCheckout(o)
	o.Token = ""
	w.stripe(t, "payment_intent.payment_failed", o)
	await(t, patience, "the conversation to hear of the declined card", func() bool { return len(w.said(reg)) == 1 })
	wantStatus(t, w.settled(t, reg.ID), relay.Pending, "attempt_failed")
	if diff := cmp.Diff([]string{"That card was declined."}, w.said(reg)); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
	var told struct {
		Rule        string
		Explanation struct {
			LookedAt []struct{ Place, Value, Result string } `json:"looked_at"`
			Asked    *struct {
				About, Result string
				Tries         int
				AskedAt       *time.Time `json:"asked_at"`
			}
		}
	}
	event := w.events(t, url.Values{"token": {reg.Token}})[0]
	w.call(t, http.MethodGet, "/v1/events/"+event.ID, nil, &told, http.StatusOK)
	asked := told.Explanation.Asked
	if asked == nil || asked.About != o.IntentID || asked.Result != "found" || asked.Tries != 1 || asked.AskedAt == nil {
		t.Errorf("explained: got %+v, want that Stripe was asked about the intent, once", asked)
	}
	if first := told.Explanation.LookedAt[0]; first.Place != "answer:data[0].client_reference_id" || first.Value != reg.Token || first.Result != "matched" {
		t.Errorf("explained: got %+v first, want the token of the answer", first)
	}
}

// paidUntold pays after a declined card, and the callback is lost: Stripe is
// asked before the wait expires.
func paidUntold(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	o := paid(reg)
	w.box.PutCheckout(o)
	declined := o
	declined.Token = ""
	w.stripe(t, "payment_intent.payment_failed", declined)
	await(t, patience, "the conversation to hear of the declined card", func() bool { return len(w.said(reg)) == 1 })
	o.PaymentStatus = "paid"
	w.box.PutCheckout(o)
	storetest.Overdue(t, w.dbURL, uuid.MustParse(reg.ID))
	await(t, patience, "the wait to be reconciled", func() bool {
		reconciled := w.wait(t, reg.ID).Reconciled
		return reconciled != nil && *reconciled
	})
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.StatusCompleted, "attempt_failed", "completed")
	if got.Payment == nil || got.Payment.AmountText != "20.50" {
		t.Errorf("payment: got %+v, want what Stripe says", got.Payment)
	}
	w.wantModule(t, reg, paidModule, 1)
	var shown struct {
		Timeline []struct{ Step, Detail string } `json:"timeline"`
	}
	w.call(t, http.MethodGet, "/v1/correlations/"+reg.ID, nil, &shown, http.StatusOK)
	var steps []string
	for _, m := range shown.Timeline {
		if m.Step == "reconciling" || m.Step == "asked" || m.Step == "fetched" {
			steps = append(steps, m.Step)
		}
		if m.Step == "asked" && m.Detail != o.SessionID+", try 1: it knows it" {
			t.Errorf("asked: got %q, want what was asked for and what came of it", m.Detail)
		}
	}
	slices.Sort(steps)
	if !slices.Equal(steps, []string{"asked", "fetched", "reconciling"}) {
		t.Errorf("timeline: got %q of the reconciliation, want all of it", steps)
	}
}

func expired(t *testing.T, w *world) {
	reg := expire(t, w)
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.StatusExpired, "default")
	if got.ResolvedBy != "deadline" {
		t.Errorf("resolved by: got %q, want deadline", got.ResolvedBy)
	}
	c := w.wantModule(t, reg, defaultModule, 1)
	if got := string(c.CustomVars["why"]); got != `"expired"` {
		t.Errorf("why: got %s, want \"expired\"", got)
	}
	told := c.Messages[len(c.Messages)-1].At
	if told.Before(got.ExpiresAt) {
		t.Errorf("told %s before the deadline", got.ExpiresAt.Sub(told))
	}
	resp, page := exchange(t, http.MethodGet, reg.URL, nil, "")
	if resp.StatusCode != http.StatusGone || !strings.Contains(page, "This link has expired") {
		t.Errorf("the link afterwards: got %d, want 410 and a page that says so", resp.StatusCode)
	}
}

func paidLate(t *testing.T, w *world) {
	reg := expire(t, w)
	o := paid(reg)
	w.stripe(t, "checkout.session.completed", o)
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.StatusExpired, "default", "completed_late")
	if got.LateOutcome != "completed" {
		t.Errorf("late outcome: got %q, want completed", got.LateOutcome)
	}
	w.wantModule(t, reg, lateModule, 2)

	// The same payment told once more is no second late success.
	o.EventID = "evt_" + relay.NewToken()
	w.stripe(t, "payment_intent.succeeded", o)
	wantStatus(t, w.settled(t, reg.ID), relay.StatusExpired, "default", "completed_late")
	w.wantModule(t, reg, lateModule, 2)
}

func mismatch(t *testing.T, w *world, amount int64, currency, told string) {
	reg := w.register(t, "checkout", nil)
	o := paid(reg)
	o.Amount, o.Currency = amount, currency
	w.stripe(t, "checkout.session.completed", o)
	wantStatus(t, w.settled(t, reg.ID), relay.Pending, "mismatch")
	w.wantModule(t, reg, 0, 0)
	if diff := cmp.Diff([]string{told + " is not what was asked for."}, w.said(reg)); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
	w.stripe(t, "checkout.session.completed", paid(reg))
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "mismatch", "completed")
	w.wantModule(t, reg, paidModule, 1)
}

func guarded(t *testing.T, w *world) {
	reg := w.register(t, "guarded", nil)
	o := paid(reg)
	o.Amount = 1000
	w.stripe(t, "checkout.session.completed", o)
	wantStatus(t, w.wait(t, reg.ID), relay.Pending)
	if e := w.event(t, reg.Token, o.EventID); e.Match != "guard_failed" || e.Correlation == nil || *e.Correlation != reg.ID {
		t.Errorf("event: got %+v, want guard_failed at its wait", e)
	}
	o = paid(reg)
	o.Amount = 1001
	w.stripe(t, "checkout.session.completed", o)
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	w.wantModule(t, reg, paidModule, 1)
}

func refundedByReference(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	o := paid(reg)
	w.stripe(t, "checkout.session.completed", o)
	w.settled(t, reg.ID)
	if n := storetest.Query[int64](t, w.dbURL, `
		WITH aged AS (
		    UPDATE correlations
		    SET created_at = created_at - interval '100 days', expires_at = expires_at - interval '100 days',
		        resolved_at = resolved_at - interval '100 days'
		    WHERE id = $1 RETURNING 1)
		SELECT count(*) FROM aged`, reg.ID); n != 1 {
		t.Fatalf("aged %d waits, want 1", n)
	}
	// Stripe's refund names the intent, and never our token.
	refund := sandbox.StripeOptions{IntentID: o.IntentID, Amount: o.Amount, EventID: "evt_" + relay.NewToken()}
	body := sandbox.StripeEvent("charge.refunded", refund)
	if strings.Contains(string(body), reg.Token) {
		t.Fatal("the refund holds the token: this test proves nothing")
	}
	w.stripeBody(t, body)
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.StatusCompleted, "completed", "refunded")
	if diff := cmp.Diff([]string{"You have your money back."}, w.said(reg)); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
	w.wantModule(t, reg, paidModule, 1)
}

func cancelled(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	path := "/v1/correlations/" + reg.ID + "/cancel"
	w.call(t, http.MethodPost, path, nil, nil, http.StatusOK)
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.StatusCancelled, "default")
	c := w.wantModule(t, reg, defaultModule, 1)
	if got := string(c.CustomVars["why"]); got != `"cancelled"` {
		t.Errorf("why: got %s, want \"cancelled\"", got)
	}
	answer := w.call(t, http.MethodPost, path, nil, nil, http.StatusConflict)
	if !strings.Contains(answer, `"not_pending"`) {
		t.Errorf("the second time: got %s, want the code not_pending", answer)
	}
	// The money that moves all the same is not silent.
	w.stripe(t, "checkout.session.completed", paid(reg))
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCancelled, "default", "completed_late")
}

func cancelledInSilence(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	w.call(t, http.MethodPost, "/v1/correlations/"+reg.ID+"/cancel", object{"silent": true}, nil, http.StatusOK)
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCancelled)
	w.wantModule(t, reg, 0, 0)
}

func resolved(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	w.call(t, http.MethodPost, "/v1/correlations/"+reg.ID+"/resolve", object{
		"outcome": "completed", "payment": object{"id": "transfer-7", "amount": 20.5, "currency": "EUR"},
	}, nil, http.StatusOK)
	got := w.settled(t, reg.ID)
	wantStatus(t, got, relay.StatusCompleted, "completed")
	if got.ResolvedBy != "api" {
		t.Errorf("resolved by: got %q, want api", got.ResolvedBy)
	}
	c := w.wantModule(t, reg, paidModule, 1)
	if got := string(c.CustomVars["receipt"]); got != `"Paid 20.50 EUR"` {
		t.Errorf("receipt: got %s, want the payment that was given by hand", got)
	}
}

func ignoredType(t *testing.T, w *world) {
	id := "evt_" + relay.NewToken()
	w.stripe(t, "customer.created", sandbox.StripeOptions{EventID: id})
	ignored := w.events(t, url.Values{"match": {"ignored"}})
	if !slices.ContainsFunc(ignored, func(e received) bool { return e.ProviderID == id && e.Rule == "type_ignored" }) {
		t.Errorf("events: got %+v, want %s kept as ignored", ignored, id)
	}
}

// TestCreatedSessionsEnd ends waits that are paid by a session of their own,
// and wants it closed at Stripe: nobody pays for what nobody waits for.
func TestCreatedSessionsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	order := object{
		"destination": "bot", "source": "stripe", "expires_in": "45m", "module_id": paidModule, "user_id": "u-" + relay.NewToken(),
		"create": object{"checkout_session": object{"line_items": []object{{"price": "price_1", "quantity": 1}}}},
	}
	session := func(t *testing.T, of wait) (id string) {
		t.Helper()
		resp, _ := exchange(t, http.MethodGet, of.URL, nil, "")
		_, id, _ = strings.Cut(resp.Header.Get("Location"), "?session=")
		return id
	}
	status := func(t *testing.T, id string) string {
		t.Helper()
		_, text := exchange(t, http.MethodGet, w.boxURL+"/stripe/v1/checkout/sessions/"+id, http.Header{"Authorization": {"Bearer " + stripeKey}}, "")
		return regexp.MustCompile(`"status": *"(\w+)"`).FindStringSubmatch(text)[1]
	}
	by := func(path string, body object) func(*testing.T, wait) {
		return func(t *testing.T, of wait) {
			t.Helper()
			w.call(t, http.MethodPost, "/v1/correlations/"+of.ID+path, body, nil, http.StatusOK)
		}
	}
	for name, end := range map[string]func(*testing.T, wait){
		"cancelled":        by("/cancel", object{}),
		"resolved by hand": by("/resolve", object{"outcome": "completed"}),
		"superseded":       func(t *testing.T, of wait) { t.Helper(); w.register(t, "", with(order, object{"user_id": of.UserID})) },
		"expired": func(t *testing.T, of wait) {
			t.Helper()
			storetest.Overdue(t, w.dbURL, uuid.MustParse(of.ID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := w.register(t, "", with(order, object{"user_id": "u-" + relay.NewToken()}))
			id := session(t, reg)
			if got := status(t, id); got != "open" {
				t.Fatalf("at first: got %s, want it open", got)
			}
			end(t, reg)
			await(t, patience, "the end of the session", func() bool { return status(t, id) == "expired" })
			await(t, patience, "the timeline to tell of it", func() bool {
				return strings.Contains(w.call(t, http.MethodGet, "/v1/correlations/"+reg.ID, nil, nil, http.StatusOK), id+", try 1: it can be paid no more")
			})
			// What Stripe sends of it is late, and does nothing.
			before := w.settled(t, reg.ID)
			w.stripe(t, "checkout.session.expired", sandbox.StripeOptions{SessionID: id, Token: reg.Token})
			if diff := cmp.Diff(before.Deliveries, w.settled(t, reg.ID).Deliveries); diff != "" {
				t.Errorf("the deliveries after it had expired at Stripe (-want +got):\n%s", diff)
			}
		})
	}
}

// with is an object with some fields in place of its own.
func with(fields, others object) object {
	out := maps.Clone(fields)
	maps.Copy(out, others)
	return out
}
