package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
)

// listener is a subscriber that counts what it is told, by news and by what
// they are of: a wait, a delivery or a destination.
type listener struct {
	mu       sync.Mutex
	verifier *standardwebhooks.Webhook
	heard    map[string]int
	numbers  map[int64]bool
	failures []string
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var hook struct {
		Event    string
		Sequence int64
		Payload  struct {
			ID            string
			CorrelationID string `json:"correlation_id"`
			Destination   string
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.verifier.Verify(body, r.Header); err != nil {
		l.failures = append(l.failures, err.Error())
	}
	if err := json.Unmarshal(body, &hook); err != nil {
		l.failures = append(l.failures, err.Error())
	}
	of := hook.Payload.ID
	switch {
	case hook.Payload.CorrelationID != "":
		of = hook.Payload.CorrelationID
	case strings.HasPrefix(hook.Event, "destination."):
		of = hook.Payload.Destination
	}
	l.heard[hook.Event+" "+of]++
	if l.numbers[hook.Sequence] {
		l.failures = append(l.failures, fmt.Sprintf("the number %d came twice", hook.Sequence))
	}
	l.numbers[hook.Sequence] = true
}

func (l *listener) all() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.heard)
}

// TestNews has the whole program tell each kind of news, each change once.
func TestNews(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := &listener{heard: map[string]int{}, numbers: map[int64]bool{}}
	at := httptest.NewServer(l)
	t.Cleanup(at.Close)
	var sub struct {
		ID            string `json:"_id"`
		Secret        string `json:"secret"`
		SigningSecret string `json:"signing_secret"`
	}
	w.call(t, http.MethodPost, "/api/default/subscriptions", object{"event": "*", "target": at.URL}, &sub, http.StatusOK)
	var err error
	if l.verifier, err = standardwebhooks.NewWebhook(sub.SigningSecret); err != nil {
		t.Fatal(err)
	}
	w.secrets = append(w.secrets, sub.Secret, sub.SigningSecret)
	if err := w.box.SwitchCertainly(sandbox.Switches{Faults: []sandbox.Fault{
		{Match: sandbox.Match{UserID: "u-dead"}, Answer: "unknown_user"},
		{Match: sandbox.Match{UserID: "u-unknown"}, Answer: "drop"},
		{Match: sandbox.Match{UserID: "u-held"}, Answer: "credentials", Times: 1},
	}}); err != nil {
		t.Fatal(err)
	}
	w.call(t, http.MethodPut, "/v1/destinations/unsure", object{
		"platform": "certainly", "base_url": w.boxURL + "/certainly", "token": certainlyToken, "on_unknown": "hold",
	}, nil, http.StatusOK)

	want := map[string]int{}
	expect := func(of string, kinds ...relay.News) {
		for _, kind := range kinds {
			want[string(kind)+" "+of]++
		}
	}
	resumed := []relay.News{relay.DeliveryDelivered, relay.ConversationResumed}
	end := func(id, outcome string) {
		w.call(t, http.MethodPost, "/v1/correlations/"+id+"/resolve", object{"outcome": outcome}, nil, http.StatusOK)
	}

	bought := w.register(t, "checkout", nil)
	payment := paid(bought)
	w.stripe(t, "checkout.session.completed", payment)
	w.stripe(t, "checkout.session.completed", payment)
	w.stripe(t, "payment_intent.succeeded", payment) // of the same payment
	w.settled(t, bought.ID)
	w.stripe(t, "charge.refunded", sandbox.StripeOptions{IntentID: payment.IntentID, Amount: payment.Amount, EventID: "evt_" + relay.NewToken()})
	w.stripe(t, "charge.dispute.created", sandbox.StripeOptions{IntentID: payment.IntentID, Amount: payment.Amount, EventID: "evt_" + relay.NewToken()})
	expect(bought.ID, relay.WaitCreated, relay.WaitCompleted, relay.CheckoutCompleted, relay.WaitRefunded, relay.WaitDisputed)
	expect(bought.ID, resumed...)
	expect(bought.ID, relay.DeliveryDelivered) // of the refund: it resumes nothing

	form := w.register(t, "contact", nil)
	exchange(t, http.MethodPost, form.CallbackURL, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, url.Values{"email": {"zoe@example.org"}}.Encode())
	expect(form.ID, append(resumed, relay.WaitCreated, relay.WaitCompleted, relay.FormSubmitted)...)

	failed, cancelled := w.register(t, "checkout", nil), w.register(t, "checkout", nil)
	end(failed.ID, "failed")
	expect(failed.ID, append(resumed, relay.WaitCreated, relay.WaitFailed)...)
	w.call(t, http.MethodPost, "/v1/correlations/"+cancelled.ID+"/cancel", object{"silent": true}, nil, http.StatusOK)
	expect(cancelled.ID, relay.WaitCreated, relay.WaitCancelled)

	late := w.register(t, "contact", object{"expires_in": "1s"})
	expect(late.ID, append(resumed, relay.WaitCreated, relay.WaitExpired)...)

	old := w.register(t, "checkout", object{"user_id": "u-again"})
	newer := w.register(t, "checkout", object{"user_id": "u-again"})
	w.stripe(t, "checkout.session.completed", paid(old))
	expect(old.ID, append(resumed, relay.WaitCreated, relay.WaitSuperseded, relay.WaitLate, relay.CheckoutCompleted)...)
	expect(newer.ID, relay.WaitCreated, relay.WaitSuperseded)

	dead := w.register(t, "checkout", object{"user_id": "u-dead"})
	end(dead.ID, "completed")
	expect(dead.ID, relay.WaitCreated, relay.WaitCompleted, relay.DeliveryDead)
	unknown := w.register(t, "checkout", object{"user_id": "u-unknown", "destination": "unsure"})
	end(unknown.ID, "completed")
	expect(unknown.ID, relay.WaitCreated, relay.WaitCompleted, relay.DeliveryUnknown)

	held := w.register(t, "checkout", object{"user_id": "u-held", "destination": "locked"})
	end(held.ID, "completed")
	expect(held.ID, relay.WaitCreated, relay.WaitCompleted)
	expect("locked", relay.DestinationHeld)
	await(t, patience, "the destination is held", func() bool { return l.all()["destination.held locked"] == 1 })
	w.call(t, http.MethodPost, "/v1/destinations/locked/resume", nil, nil, http.StatusOK)
	expect("locked", relay.DestinationResumed)
	expect(held.ID, resumed...)

	await(t, patience, "all is told", func() bool { return total(l.all()) >= total(want) && w.owedHooks(t) == 0 })
	if diff := cmp.Diff(want, l.all()); diff != "" {
		t.Errorf("what was told, and how often (-want +got):\n%s", diff)
	}
	kinds := map[string]bool{}
	for news := range want {
		kind, _, _ := strings.Cut(news, " ")
		kinds[kind] = true
	}
	for _, kind := range relay.AllNews {
		if !kinds[string(kind)] {
			t.Errorf("this test expects no %s", kind)
		}
	}
	if len(l.failures) > 0 {
		t.Errorf("the subscriber refused: %v", slices.Compact(l.failures))
	}
}

// total is how often something was told, whatever it was.
func total(told map[string]int) (n int) {
	for _, times := range told {
		n += times
	}
	return n
}

// owedHooks is how many hooks are owed or dead.
func (n *testNode) owedHooks(t *testing.T) int {
	t.Helper()
	var out struct {
		Data []object `json:"data"`
	}
	n.call(t, http.MethodGet, "/v1/hooks", nil, &out, http.StatusOK)
	return len(out.Data)
}
