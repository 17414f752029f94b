package sandbox_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"relay.example/relay/internal/sandbox"
)

const stripeKey = "sk_test_0123456789"

// stripeAPI asks the stand-in with a key and returns status and body.
func (s stand) stripeAPI(t *testing.T, key, path string) (int, string) {
	t.Helper()
	auth := ""
	if key != "" {
		auth = "Bearer " + key
	}
	resp, body := s.do(t, http.MethodGet, "/stripe"+path, auth, "")
	return resp.StatusCode, body
}

func TestStripeAPI(t *testing.T) {
	t.Parallel()
	s := open(t, sandbox.Config{Stripe: sandbox.Stripe{APIKey: stripeKey}})
	s.PutCheckout(sandbox.StripeOptions{SessionID: "cs_test_1", IntentID: "pi_1", Token: "tok", Amount: 2050})
	for name, tt := range map[string]struct {
		key, path string
		status    int
		want      string
	}{
		"no key":             {"", "/v1/checkout/sessions/cs_test_1", 401, `"You did not provide an API key."`},
		"another key":        {"sk_test_9876543210", "/v1/checkout/sessions/cs_test_1", 401, `"Invalid API Key provided: sk_test_****"`},
		"an unknown session": {stripeKey, "/v1/checkout/sessions/cs_test_2", 404, `"code":"resource_missing"`},
		"an unknown intent":  {stripeKey, "/v1/checkout/sessions?payment_intent=pi_2", 200, `{"object":"list","data":[],"has_more":false,"url":"/v1/checkout/sessions"}`},
		"no filter":          {stripeKey, "/v1/checkout/sessions", 400, `"param":"payment_intent"`},
		"a wrong limit":      {stripeKey, "/v1/checkout/sessions?payment_intent=pi_1&limit=0", 400, `"param":"limit"`},
	} {
		if status, body := s.stripeAPI(t, tt.key, tt.path); status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s: got %d %s, want %d with %s", name, status, body, tt.status, tt.want)
		}
	}
	type session struct {
		ID        string
		Object    string
		Reference string `json:"client_reference_id"`
		Intent    string `json:"payment_intent"`
		Paid      string `json:"payment_status"`
		Status    string
		Amount    int64 `json:"amount_total"`
	}
	want := session{"cs_test_1", "checkout.session", "tok", "pi_1", "unpaid", "open", 2050}
	var list struct{ Data []session }
	_, body := s.stripeAPI(t, stripeKey, "/v1/checkout/sessions?payment_intent=pi_1&limit=1")
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Data) != 1 || list.Data[0] != want {
		t.Errorf("the list: got %+v, %v, want %+v", list, err, want)
	}
	s.PutCheckout(sandbox.StripeOptions{SessionID: "cs_test_1", IntentID: "pi_1", Token: "tok", Amount: 2050, PaymentStatus: "paid"})
	want.Paid, want.Status = "paid", "complete"
	var one session
	_, body = s.stripeAPI(t, stripeKey, "/v1/checkout/sessions/cs_test_1")
	if err := json.Unmarshal([]byte(body), &one); err != nil || one != want {
		t.Errorf("the session: got %+v, %v, want %+v", one, err, want)
	}
	if got := s.Counts().Asked; got != 8 {
		t.Errorf("asked: got %d, want 8", got)
	}
}

// Basic with the key as the user name is what Stripe's own examples use.
func TestStripeAPIFaults(t *testing.T) {
	t.Parallel()
	s := open(t, sandbox.Config{Stripe: sandbox.Stripe{APIKey: stripeKey}})
	if resp, _ := s.do(t, http.MethodGet, "/stripe/v1/checkout/sessions?payment_intent=pi_1", "Basic c2tfdGVzdF8wMTIzNDU2Nzg5Og==", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("Basic: got %d, want 200", resp.StatusCode)
	}
	for fault, want := range map[string]int{"credentials": 401, "rate_limited": 429, "server_error": 500} {
		if resp, body := s.do(t, http.MethodPut, "/sandbox/stripe", "", `{"faults": [{"answer": "`+fault+`", "times": 1}]}`); resp.StatusCode != http.StatusOK {
			t.Fatalf("switching: got %d %s", resp.StatusCode, body)
		}
		for i, want := range []int{want, http.StatusOK} {
			if status, body := s.stripeAPI(t, stripeKey, "/v1/checkout/sessions?payment_intent=pi_1"); status != want || i == 0 && !strings.Contains(body, `{"error":{`) {
				t.Errorf("%s, call %d: got %d %s, want %d", fault, i+1, status, body, want)
			}
		}
	}
}

// The pay page's visits are sessions that the API knows.
func TestPayPageIsKnownToTheAPI(t *testing.T) {
	t.Parallel()
	s := open(t, sandbox.Config{Stripe: sandbox.Stripe{APIKey: stripeKey}})
	for _, tt := range []struct{ choice, want string }{{"decline", `"status": "open"`}, {"pay", `"status": "complete"`}} {
		s.press(t, "/pay/demo", url.Values{"reference": {"tok"}, "session": {"cs_test_1"}, "intent": {"pi_1"}}, tt.choice)
		if _, body := s.stripeAPI(t, stripeKey, "/v1/checkout/sessions/cs_test_1"); !strings.Contains(body, tt.want) || !strings.Contains(body, `"client_reference_id": "tok"`) {
			t.Errorf("after %s: got %s, want %s", tt.choice, body, tt.want)
		}
	}
}
