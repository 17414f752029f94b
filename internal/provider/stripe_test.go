package provider_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

func read(t testing.TB, e *provider.Endpoint, req *provider.Request) relay.Reading {
	t.Helper()
	readings, err := e.Read(req)
	if err != nil || len(readings) != 1 {
		t.Fatalf("Read: got %d readings, %v, want 1", len(readings), err)
	}
	return readings[0]
}

func readBody(t testing.TB, e *provider.Endpoint, body string) relay.Reading {
	t.Helper()
	return read(t, e, &provider.Request{Body: []byte(body)})
}

func ptr[T any](v T) *T { return &v }

func TestStripeSession(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{KeyField: "data.object.metadata.order_id"})
	got := read(t, e, &provider.Request{Body: fixture(t, "stripe-session.json")})
	want := relay.Reading{
		EventID: "evt_1RelaySession0001",
		Type:    "checkout.session.completed",
		Outcome: relay.Completed,
		Candidates: []relay.Candidate{
			{Place: "json:data.object.client_reference_id", Value: "k3JxV0b7Qm2nT9sLw4YzAe"},
			{Place: "json:data.object.metadata.conversation_token", Value: "k3JxV0b7Qm2nT9sLw4YzAe"},
			{Place: "json:data.object.metadata.order_id", Value: "1042"},
		},
		References: []relay.Candidate{
			{Place: "session", Value: "cs_live_a1RelaySession0001"},
			{Place: "intent", Value: "pi_1RelayIntent0001"},
		},
		Payment: &relay.Payment{
			ID: "pi_1RelayIntent0001", AmountMinor: ptr(int64(2050)), Currency: "EUR", Exponent: 2,
			Method: "card", Email: "ada@customer.example", Live: ptr(true),
		},
		Format: relay.FormatJSON,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
}

func TestStripeIntentNamesTheSessionsPayment(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	session := read(t, e, &provider.Request{Body: fixture(t, "stripe-session.json")})
	intent := read(t, e, &provider.Request{Body: fixture(t, "stripe-intent.json")})
	if session.Payment.ID != intent.Payment.ID {
		t.Errorf("payment id: session says %q, intent says %q, want the same", session.Payment.ID, intent.Payment.ID)
	}
	if intent.Payment.Account != "acct_1RelayShop" {
		t.Errorf("account: got %q, want acct_1RelayShop", intent.Payment.Account)
	}
	want := []relay.Candidate{{Place: "intent", Value: "pi_1RelayIntent0001"}, {Place: "charge", Value: "ch_1RelayCharge0001"}}
	if diff := cmp.Diff(want, intent.References); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
}

func TestStripeOutcomes(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	for _, test := range []struct {
		name, kind, object string
		want               relay.Outcome
	}{
		{"paid", "checkout.session.completed", `{"payment_status":"paid"}`, relay.Completed},
		{"nothing to pay", "checkout.session.completed", `{"payment_status":"no_payment_required"}`, relay.Completed},
		{"not paid yet", "checkout.session.completed", `{"payment_status":"unpaid"}`, relay.Processing},
		{"a status nobody knows", "checkout.session.completed", `{"payment_status":"later"}`, ""},
		{"without a status", "checkout.session.completed", `{}`, ""},
		{"bank transfer arrived", "checkout.session.async_payment_succeeded", `{}`, relay.Completed},
		{"bank transfer failed", "checkout.session.async_payment_failed", `{}`, relay.Failed},
		{"session expired", "checkout.session.expired", `{"payment_link":null}`, relay.Expired},
		{"session without a link expired", "checkout.session.expired", `{}`, relay.Expired},
		{"session of a payment link expired", "checkout.session.expired", `{"payment_link":"plink_1"}`, ""},
		{"intent succeeded", "payment_intent.succeeded", `{}`, relay.Completed},
		{"intent cancelled", "payment_intent.canceled", `{}`, relay.Cancelled},
		{"intent processing", "payment_intent.processing", `{}`, relay.Processing},
		{"card declined", "payment_intent.payment_failed", `{}`, relay.AttemptFailed},
		{"refund", "charge.refunded", `{}`, relay.Refunded},
		{"dispute", "charge.dispute.created", `{}`, relay.Disputed},
		{"another type", "customer.created", `{}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := fmt.Sprintf(`{"id":"evt_1","type":%q,"data":{"object":%s}}`, test.kind, test.object)
			if got := readBody(t, e, body).Outcome; got != test.want {
				t.Errorf("outcome of %s: got %q, want %q", test.kind, got, test.want)
			}
		})
	}
}

func TestStripePayments(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	for _, test := range []struct {
		name, object string
		want         *relay.Payment
		references   []relay.Candidate
	}{
		{
			"charge", `{"object":"charge","id":"ch_1","payment_intent":"pi_1","amount":500,"currency":"jpy","payment_method_details":{"type":"konbini"},"billing_details":{"email":"a@b.example"}}`,
			&relay.Payment{ID: "pi_1", AmountMinor: ptr(int64(500)), Currency: "JPY", Method: "konbini", Email: "a@b.example"},
			[]relay.Candidate{{Place: "charge", Value: "ch_1"}, {Place: "intent", Value: "pi_1"}},
		},
		{
			"dispute", `{"object":"dispute","id":"dp_1","payment_intent":"pi_1","charge":"ch_1","amount":100,"currency":"isk"}`,
			&relay.Payment{ID: "pi_1", AmountMinor: ptr(int64(100)), Currency: "ISK", Exponent: 2},
			[]relay.Candidate{{Place: "intent", Value: "pi_1"}, {Place: "charge", Value: "ch_1"}},
		},
		{
			"session without an intent", `{"object":"checkout.session","id":"cs_1","payment_intent":null,"amount_total":0,"currency":"ugx"}`,
			&relay.Payment{ID: "cs_1", AmountMinor: ptr(int64(0)), Currency: "UGX", Exponent: 2},
			[]relay.Candidate{{Place: "session", Value: "cs_1"}},
		},
		{
			"intent that received nothing", `{"object":"payment_intent","id":"pi_1","amount":1099,"amount_received":0,"currency":"mga","payment_method_types":["card","link"]}`,
			&relay.Payment{ID: "pi_1", AmountMinor: ptr(int64(1099)), Currency: "MGA"},
			[]relay.Candidate{{Place: "intent", Value: "pi_1"}},
		},
		{"an object that is no payment", `{"object":"customer","id":"cus_1"}`, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := readBody(t, e, `{"id":"evt_1","type":"x","data":{"object":`+test.object+`}}`)
			if diff := cmp.Diff(test.want, got.Payment); diff != "" {
				t.Errorf("payment (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.references, got.References); diff != "" {
				t.Errorf("references (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDuplicateKeysTheFirstCounts(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	got := readBody(t, e, `{"id":"evt_first","id":"evt_second","type":"payment_intent.succeeded",
		"data":{"object":{"id":"pi_first","id":"pi_second","client_reference_id":"one","client_reference_id":"two"}},
		"data":{"object":{"client_reference_id":"three"}}}`)
	if got.EventID != "evt_first" {
		t.Errorf("event id: got %q, want the first", got.EventID)
	}
	if len(got.Candidates) != 1 || got.Candidates[0].Value != "one" {
		t.Errorf("candidates: got %v, want the first alone", got.Candidates)
	}
}

func TestKeysAreComparedUnescaped(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	got := readBody(t, e, `{"\u0069d":"evt_1","type":"payment\u005fintent.succeeded"}`)
	if got.EventID != "evt_1" || got.Outcome != relay.Completed {
		t.Errorf("got %q, %q, want evt_1, completed", got.EventID, got.Outcome)
	}
}

func TestNumbersKeepTheirText(t *testing.T) {
	e := endpoint(t, "generic-hmac", provider.Settings{KeyField: "json:order.number"})
	got := readBody(t, e, `{"id":12345678901234567890123,"order":{"number":10000000000000000001}}`)
	if got.EventID != "12345678901234567890123" {
		t.Errorf("event id: got %q, want all its digits", got.EventID)
	}
	if len(got.Candidates) != 1 || got.Candidates[0].Value != "10000000000000000001" {
		t.Errorf("candidates: got %v, want the order's number with all its digits", got.Candidates)
	}
}

func TestHostileValues(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	long := strings.Repeat("x", 256)
	for _, test := range []struct {
		name, value string // as JSON
		hashed      bool
	}{
		{"longest that is kept", `"` + long[:255] + `"`, false},
		{"one byte too long", `"` + long + `"`, true},
		{"with NUL", `"evt_\u0000"`, true},
		{"a lone surrogate becomes U+FFFD", `"evt_\ud800"`, false},
		{"an object", `{"id":1}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := readBody(t, e, `{"id":`+test.value+`,"type":`+test.value+`,"data":{"object":{"object":"payment_intent","client_reference_id":`+
				test.value+`,"payment_intent":`+test.value+`,"currency":`+test.value+`}}}`)
			if hashed := strings.HasPrefix(got.EventID, "sha256:") && len(got.EventID) == 71; hashed != test.hashed {
				t.Errorf("event id: got %q, want hashed: %t", got.EventID, test.hashed)
			}
			if test.hashed && len(got.Candidates)+len(got.References) != 0 {
				t.Errorf("got candidates %v and references %v, want none", got.Candidates, got.References)
			}
			checkStorable(t, got)
		})
	}
}
