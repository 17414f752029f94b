package provider_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

func stripeEndpoint(t testing.TB, settings provider.Settings) *provider.Endpoint {
	t.Helper()
	p, _ := provider.Lookup("stripe")
	e, err := p.Endpoint(settings)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// reading is the reading of an event of a type with some references.
func reading(kind string, references ...string) *relay.Reading {
	r := &relay.Reading{Type: kind}
	for _, reference := range references {
		place, value, _ := strings.Cut(reference, " ")
		r.References = append(r.References, relay.Candidate{Place: place, Value: value})
	}
	return r
}

func TestInquiryOf(t *testing.T) {
	t.Parallel()
	e := stripeEndpoint(t, provider.Settings{})
	for name, tt := range map[string]struct {
		r    *relay.Reading
		want provider.Inquiry
	}{
		"a declined card, at once":     {reading("payment_intent.payment_failed", "intent pi_1"), provider.Inquiry{About: "pi_1"}},
		"a success, whose session may": {reading("payment_intent.succeeded", "intent pi_1", "charge ch_1"), provider.Inquiry{About: "pi_1", After: 30 * time.Second}},
		"a refund":                     {reading("charge.refunded", "charge ch_1", "intent pi_1"), provider.Inquiry{About: "pi_1", After: 30 * time.Second}},
		"a session, which says itself": {reading("checkout.session.completed", "session cs_1", "intent pi_1"), provider.Inquiry{}},
		"nothing to ask by":            {reading("charge.refunded", "charge ch_1"), provider.Inquiry{}},
	} {
		got, ok := e.InquiryOf(tt.r)
		if got != tt.want || ok != (tt.want.About != "") {
			t.Errorf("%s: got %+v, %t, want %+v", name, got, ok, tt.want)
		}
	}
	if got := e.Askable(reading("checkout.session.completed", "intent pi_1", "session cs_1")); got != "cs_1" {
		t.Errorf("what the wait can be asked for: got %q, want cs_1", got)
	}
	connected := reading("payment_intent.payment_failed", "intent pi_1", "session cs_1")
	connected.Payment = &relay.Payment{Account: "acct_1"}
	if got := e.Askable(connected); got != "" {
		t.Errorf("of a connected account: %q can be asked for, want nothing", got)
	}
	connected.References = connected.References[:1]
	if got, ok := e.InquiryOf(connected); ok {
		t.Errorf("of a connected account: got %+v, want nothing to be asked", got)
	}
	if e.AskableKey("order-1042") || !e.AskableKey("cs_test_1") {
		t.Error("a key: want that of a session askable, and no other")
	}
	other, _ := provider.Lookup("generic-hmac")
	silent, err := other.Endpoint(provider.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := silent.InquiryOf(reading("x", "intent pi_1")); ok || silent.API() != "" || silent.AskableKey("cs_1") || silent.EventPath("x")+silent.WaitPath("x") != "" {
		t.Error("a preset without ask: want nothing to be asked")
	}
}

// An id that a provider never gave leaves the path what it is.
func TestAskPaths(t *testing.T) {
	t.Parallel()
	e := stripeEndpoint(t, provider.Settings{})
	for id, want := range map[string]string{
		"pi_1":        "/v1/checkout/sessions?payment_intent=pi_1&limit=1",
		"pi_1&x=y #?": "/v1/checkout/sessions?payment_intent=pi_1%26x%3Dy+%23%3F&limit=1",
	} {
		if got := e.EventPath(id); got != want {
			t.Errorf("about an event: got %s, want %s", got, want)
		}
	}
	if got, want := e.WaitPath("cs_1/../x?y"), "/v1/checkout/sessions/cs_1%2F..%2Fx%3Fy"; got != want {
		t.Errorf("about a wait: got %s, want %s", got, want)
	}
}

func TestAddAnswer(t *testing.T) {
	t.Parallel()
	const session = `{"object": "list", "data": [{"id": "cs_1", "client_reference_id": "tok", "metadata": {"conversation_token": "met", "mine": "own"}}]}`
	for name, tt := range map[string]struct {
		settings provider.Settings
		answer   string
		want     []string // candidates, then references
		named    bool
	}{
		"a session":              {provider.Settings{}, session, []string{"own event", "answer:data[0].client_reference_id tok", "answer:data[0].metadata.conversation_token met", "intent pi_1", "session cs_1"}, true},
		"with a field of my own": {provider.Settings{TokenField: "mine"}, session, []string{"own event", "answer:data[0].client_reference_id tok", "answer:data[0].metadata.mine own", "intent pi_1", "session cs_1"}, true},
		"an empty list":          {provider.Settings{}, `{"data": []}`, []string{"own event", "intent pi_1"}, false},
		"an empty object":        {provider.Settings{}, `{}`, []string{"own event", "intent pi_1"}, false},
		"no session's id":        {provider.Settings{}, `{"data": [{"id": "xx_1", "client_reference_id": null}]}`, []string{"own event", "intent pi_1"}, false},
	} {
		r := reading("x", "intent pi_1")
		r.Candidates = []relay.Candidate{{Place: "own", Value: "event"}}
		named, err := stripeEndpoint(t, tt.settings).AddAnswer(r, []byte(tt.answer))
		var got []string
		for _, c := range append(r.Candidates, r.References...) {
			got = append(got, c.Place+" "+c.Value)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || named != tt.named || err != nil {
			t.Errorf("%s: named %t, %v, want %t; names (-want +got):\n%s", name, named, err, tt.named, diff)
		}
	}
	for _, bad := range []string{"", "<html>", "\xff", strings.Repeat("[", 100)} {
		if _, err := stripeEndpoint(t, provider.Settings{}).AddAnswer(reading("x"), []byte(bad)); err == nil {
			t.Errorf("the answer %.10q was read", bad)
		}
	}
}

// A session that is fetched reads like the callback that told of it.
func TestAnswerAsCallback(t *testing.T) {
	t.Parallel()
	e := stripeEndpoint(t, provider.Settings{})
	for name, tt := range map[string]struct {
		status, paid string
		want         relay.Outcome
	}{
		"paid":                         {"complete", "paid", relay.Completed},
		"nothing to pay":               {"complete", "no_payment_required", relay.Completed},
		"a slow bank":                  {"complete", "unpaid", relay.Processing},
		"open":                         {"open", "unpaid", ""},
		"open, and nothing to pay yet": {"open", "no_payment_required", ""},
		"over":                         {"expired", "unpaid", ""},
	} {
		body, err := e.AnswerAsCallback([]byte(`{"id": "cs_1", "object": "checkout.session", "client_reference_id": "tok", "payment_intent": "pi_1",
			"livemode": true, "amount_total": 2050, "currency": "eur", "status": "` + tt.status + `", "payment_status": "` + tt.paid + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		if tt.want == "" {
			if body != nil {
				t.Errorf("%s: got the callback %s, want no news", name, body)
			}
			continue
		}
		readings, err := e.Read(&provider.Request{Body: body})
		if err != nil {
			t.Fatal(err)
		}
		var event struct {
			Object, Type string
			Livemode     *bool
		}
		if err := json.Unmarshal(body, &event); err != nil || event.Object != "event" || event.Type != "checkout.session.completed" || !*event.Livemode {
			t.Errorf("%s: got %s, want it like the event that Stripe sends", name, body)
		}
		r := readings[0]
		if r.Outcome != tt.want || r.Candidates[0].Value != "tok" || r.Payment.ID != "pi_1" || *r.Payment.AmountMinor != 2050 || !*r.Payment.Live {
			t.Errorf("%s: got %+v with the payment %+v, want %q", name, r, r.Payment, tt.want)
		}
	}
	for _, bad := range []string{"", "[]", "null", `"x"`, `{}, "type": {`, "{"} {
		if body, err := e.AnswerAsCallback([]byte(bad)); err == nil {
			t.Errorf("the answer %q became the callback %s", bad, body)
		}
	}
}

func TestWrongAsk(t *testing.T) {
	t.Parallel()
	const head = "name: x\nauth: {alg: none}\n"
	for name, tt := range map[string]struct{ text, want string }{
		"no address":         {"ask: {api: nobody}", "ask.api"},
		"plain":              {"ask: {api: 'http://api.example'}", "ask.api"},
		"a path without id":  {"ask: {api: 'https://a.example', wait: {about: x, path: /y, as: '{answer}'}}", "ask.wait.path"},
		"another host":       {"ask: {api: 'https://a.example', wait: {about: x, path: '//b.example/{id}', as: '{answer}'}}", "ask.wait.path"},
		"about nothing":      {"ask: {api: 'https://a.example', event: {path: '/y/{id}'}}", "ask.event.about"},
		"no callback":        {"ask: {api: 'https://a.example', wait: {about: x, path: '/y/{id}', as: '{answer'}}", "ask.wait.as"},
		"a time":             {"ask: {api: 'https://a.example', event: {about: x, path: '/y/{id}', after: 2d}}", "ask.event.after"},
		"a header's answer":  {"ask: {api: 'https://a.example', event: {about: x, path: '/y/{id}', correlation: ['header:X']}}", "ask.event.correlation"},
		"a mistaken answer":  {"ask: {api: 'https://a.example', event: {about: x, path: '/y/{id}', correlation: ['data']}}", "ask.event.correlation"},
		"a header as news":   {"ask: {api: 'https://a.example', wait: {about: x, path: '/y/{id}', as: '{answer}', if: {'header:X': [y]}}}", "ask.wait.if"},
		"no answer in it":    {"ask: {api: 'https://a.example', wait: {about: x, path: '/y/{id}', as: '{answer.x}'}}", "ask.wait.as"},
		"a header reference": {"ask: {api: 'https://a.example', event: {about: x, path: '/y/{id}', references: [{kind: y, from: '{header:X}'}]}}", "ask.event.references"},
	} {
		if _, err := provider.Parse([]byte(head + tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it refused at %s", name, err, tt.want)
		}
	}
}

// FuzzAnswers holds that nothing a provider says makes reading it panic, and
// that what is read can be stored.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"data": [{"id": "cs_1", "client_reference_id": "tok"}]}`))
	f.Add([]byte(`{"id": "cs_1", "status": "complete", "payment_status": "paid"}`))
	f.Add([]byte(`[`))
	p, _ := provider.Lookup("stripe")
	e, err := p.Endpoint(provider.Settings{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var r relay.Reading
		if _, err := e.AddAnswer(&r, answer); err == nil {
			checkStorable(t, r)
		}
		body, err := e.AnswerAsCallback(answer)
		if err != nil || body == nil {
			return
		}
		readings, err := e.Read(&provider.Request{Body: body})
		if err == nil && (len(readings) != 1 || readings[0].Type != "checkout.session.completed") {
			t.Errorf("the answer %q reads as %+v, want one event of a session", answer, readings)
		}
	})
}
