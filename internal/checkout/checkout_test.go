package checkout_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/checkout"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/relay"
)

const apiKey = "rk_test_key_of_the_tests"

// maker calls a stand-in of Stripe.
func maker(t *testing.T, serve http.HandlerFunc) (*checkout.Maker, checkout.Order) {
	t.Helper()
	ts := httptest.NewServer(serve)
	t.Cleanup(ts.Close)
	policy, err := egress.ParsePolicy("true")
	if err != nil {
		t.Fatal(err)
	}
	client := egress.New(egress.Config{Policy: policy})
	t.Cleanup(client.Close)
	return checkout.New(client), checkout.Order{
		Kind: relay.CreateSession, Parameters: map[string]any{"line_items": []any{map[string]any{"price": "price_1", "quantity": 2.0}}},
		Token: relay.NewToken(), Key: "key-1", ReturnURL: "https://relay.test/return/x", Made: time.Now(), ExpiresIn: time.Hour,
		API: ts.URL, APIKey: apiKey,
	}
}

func TestMake(t *testing.T) {
	t.Parallel()
	var got *http.Request
	m, o := maker(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = r
		_, _ = w.Write([]byte(`{"id": "cs_test_1", "object": "checkout.session", "url": "https://checkout.stripe.com/c/pay/cs_test_1#fid"}`))
	})
	o.TokenField = "order_token"
	o.Parameters["mode"] = "subscription"
	o.Parameters["customer"] = nil
	o.Parameters["metadata"] = map[string]any{"plan": "pro", "order_token": "another"}
	made, err := m.Make(t.Context(), o)
	if want := (checkout.Made{ID: "cs_test_1", URL: "https://checkout.stripe.com/c/pay/cs_test_1#fid"}); err != nil || made != want {
		t.Fatalf("got %+v, %v, want %+v", made, err, want)
	}
	if got.Method != http.MethodPost || got.URL.Path != "/v1/checkout/sessions" || got.Header.Get("Authorization") != "Bearer "+apiKey ||
		got.Header.Get("Idempotency-Key") != "key-1" || got.Header.Get("Stripe-Version") == "" || got.Header.Get("X-Stripe-Client-Telemetry") != "" {
		t.Errorf("got %s %s with %v", got.Method, got.URL, got.Header)
	}
	for name, want := range map[string]string{
		"metadata[plan]": "pro", "metadata[order_token]": o.Token, "subscription_data[metadata][order_token]": o.Token,
		"line_items[0][quantity]": "2", "mode": "subscription",
	} {
		if v := got.PostForm.Get(name); v != want {
			t.Errorf("%s: got %q, want %q", name, v, want)
		}
	}
	for name := range got.PostForm {
		if name == "customer" || strings.HasPrefix(name, "payment_intent_data") {
			t.Errorf("got the parameter %s, want it left out", name)
		}
	}
}

// Who registers a wait has 5 s: a call that Stripe does not answer ends before.
func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	m, o := maker(t, nil)
	m.Meet(func(r *http.Request) (*http.Response, error) {
		end, bounded := r.Context().Deadline()
		if left := time.Until(end); !bounded || left > 4*time.Second {
			t.Errorf("%s may take %s (bounded: %t), want 4 s at the most", r.URL.Path, left, bounded)
		}
		return nil, context.DeadlineExceeded
	})
	if _, err := m.Make(t.Context(), o); err == nil {
		t.Error("making: got no error without an answer")
	}
	if err := m.End(t.Context(), o.API, o.APIKey, "cs_test_1"); err == nil {
		t.Error("ending: got no error without an answer")
	}
}

// An error tells what to do, whether anything can have been made, and no
// secret.
func TestErrors(t *testing.T) {
	t.Parallel()
	var status int
	var body string
	m, o := maker(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
	for _, c := range []struct {
		name, body string
		status     int
		reason     checkout.Reason
		answered   bool
		words      string
	}{
		{"a parameter", `{"error": {"param": "mode", "message": "Invalid mode"}}`, 400, checkout.Refused, true, "mode: Invalid mode"},
		{"a long one", `{"error": {"message": "` + strings.Repeat("é", 500) + `"}}`, 400, checkout.Refused, true, "é…"},
		{"our token", `{"error": {"code": "odd", "param": "client_reference_id", "message": "Invalid: ` + o.Token + `"}}`, 400, checkout.Refused, true, "odd client_reference_id"},
		{"the key", `{"error": {"message": "Invalid API Key provided: ` + apiKey + `"}}`, 401, checkout.KeyRefused, true, "api_key"},
		{"a right", `{"error": {"message": "` + apiKey + ` may not"}}`, 403, checkout.KeyRefused, true, "may write"},
		{"a twin", `{"error": {"message": "in use"}}`, 409, checkout.NoAnswer, false, "try again"},
		{"too much", `{"error": {"message": "slow down"}}`, 429, checkout.Unable, true, "429"},
		{"a failure", ``, 503, checkout.Unable, true, "503"},
		{"no JSON", `<html>`, 200, checkout.NoAnswer, false, "cannot be used"},
		{"no address", `{"id": "cs_1", "url": null}`, 200, checkout.Refused, true, "without an address"},
		{"too long", `{"id": "` + strings.Repeat("x", egress.MaxKeep) + `"}`, 200, checkout.NoAnswer, false, "cannot be used"},
	} {
		status, body = c.status, c.body
		_, err := m.Make(t.Context(), o)
		why, ok := err.(*checkout.Error) //nolint:errorlint // Make promises this very type
		if !ok || why.Reason != c.reason || why.Answered != c.answered || !strings.Contains(why.Detail, c.words) {
			t.Errorf("%s: got %+v, want %s, answered %v, with %q", c.name, err, c.reason, c.answered, c.words)
		}
		if strings.Contains(err.Error(), apiKey) || strings.Contains(err.Error(), o.Token) || len(err.Error()) > 400 {
			t.Errorf("%s: got %q, want neither key nor token in it, nor all that was said", c.name, err)
		}
	}
	o.API = "http://169.254.169.254"
	_, err := m.Make(t.Context(), o)
	if why, ok := err.(*checkout.Error); !ok || !why.Answered || why.Reason != checkout.NoAnswer { //nolint:errorlint // as above
		t.Errorf("an address that may not be called: got %+v, want nothing made", err)
	}
}

// What Stripe would not take is found by its own library.
func TestCheckKnowsStripesParameters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, json, refused string }{
		{"a session of many parts", `{"checkout_session": {"mode": "subscription", "allow_promotion_codes": true, "line_items": [
			{"adjustable_quantity": {"enabled": true, "maximum": 9}, "price_data": {"currency": "eur", "recurring": {"interval": "month"}, "unit_amount_decimal": "9.5"}}],
			"metadata": {"anything": 1}, "phone_number_collection": {"enabled": "{{ correlation.data.phone }}"}, "custom_fields": "{{ correlation.data.fields }}"}}`, ""},
		{"a link", `{"payment_link": {"line_items": [{"price": "{{ correlation.data.price }}"}], "restrictions": {"completed_sessions": {"limit": 3}}}}`, ""},
		{"what saves a card", `{"checkout_session": {"mode": "setup", "currency": "eur"}}`, ""},
		{"a part that is none", `{"checkout_session": {"line_items": [{"price_data": {"curency": "eur"}}]}}`, "create.checkout_session.line_items[0].price_data.curency"},
		{"what is paid for, misspelt", `{"checkout_session": {"line_item": []}}`, "create.checkout_session.line_item:"},
		{"nothing to pay for", `{"checkout_session": {}}`, "create.checkout_session.line_items: say what is paid for"},
		{"an object in metadata", `{"payment_link": {"line_items": [], "metadata": {"a": {}}}}`, "create.payment_link.metadata.a: want one value"},
		{"a field of sessions in a link", `{"payment_link": {"line_items": [], "customer_email": "a"}}`, "create.payment_link.customer_email"},
	} {
		var create relay.Create
		if err := json.Unmarshal([]byte(c.json), &create); err != nil {
			t.Fatal(err)
		}
		err := checkout.Check(&create)
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(relay.DetailOf(err), c.refused)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.refused)
		}
	}
}
