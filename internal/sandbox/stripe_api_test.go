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

// create posts a form to the API.
func (s stand) create(t *testing.T, path, key string, form url.Values) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/stripe"+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+stripeKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var object map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&object); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, object
}

// Sessions and links that are created can be paid.
func TestStripeCreates(t *testing.T) {
	t.Parallel()
	s := open(t, sandbox.Config{Stripe: sandbox.Stripe{APIKey: stripeKey}})
	form := url.Values{
		"client_reference_id": {"tok"}, "success_url": {"https://relay.test/return/tok"}, "cancel_url": {"https://relay.test/return/tok?back"},
		"line_items[0][price_data][currency]": {"usd"}, "line_items[0][price_data][unit_amount]": {"700"}, "line_items[0][quantity]": {"3"},
		"line_items[0][price_data][product_data][name]": {"Chair"},
	}
	status, session := s.create(t, "/v1/checkout/sessions", "key-1", form)
	id, _ := session["id"].(string)
	if status != http.StatusOK || !strings.HasPrefix(id, "cs_test_") || session["status"] != "open" || session["amount_total"] != 2100.0 || session["client_reference_id"] != "tok" {
		t.Fatalf("got %d %v, want an open session", status, session)
	}
	if status, again := s.create(t, "/v1/checkout/sessions", "key-1", form); status != http.StatusOK || again["id"] != id {
		t.Errorf("with the same key: got %d %v, want the same session", status, again["id"])
	}
	other := url.Values{}
	for name, values := range form {
		other[name] = values
	}
	other.Set("line_items[0][quantity]", "4")
	if status, _ := s.create(t, "/v1/checkout/sessions", "key-1", other); status != http.StatusBadRequest {
		t.Errorf("with the same key and other parameters: got %d, want 400", status)
	}
	for name, change := range map[string][2]string{
		"no success_url":  {"success_url", ""},
		"ends too soon":   {"expires_at", "1"},
		"nothing to sell": {"line_items[0][price_data][currency]", ""},
		"an odd price":    {"line_items[0][price]", "chair"},
		"no amount":       {"line_items[0][price_data][unit_amount]", ""},
		"no product":      {"line_items[0][price_data][product_data][name]", ""},
		"an odd amount":   {"line_items[0][price_data][unit_amount]", "-1"},
	} {
		bad := url.Values{}
		for name, values := range form {
			bad[name] = values
		}
		bad.Set(change[0], change[1])
		if status, refusal := s.create(t, "/v1/checkout/sessions", "", bad); status != http.StatusBadRequest || refusal["error"] == nil {
			t.Errorf("%s: got %d %v, want 400", name, status, refusal)
		}
	}
	page, _ := session["url"].(string)
	_, body := s.do(t, http.MethodGet, strings.TrimPrefix(page, s.url), "", "")
	for _, want := range []string{"21.00 USD", `value="` + id + `"`, `value="tok"`, "https://relay.test/return/tok?back"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page: got %s, want %s in it", body, want)
		}
	}
	status, link := s.create(t, "/v1/payment_links", "key-2", url.Values{
		"line_items[0][price]": {"price_1"}, "after_completion[redirect][url]": {"https://relay.test/return/tok"},
	})
	address, _ := link["url"].(string)
	if status != http.StatusOK || !strings.HasPrefix(address, s.url+"/pay/") || s.Created() != 2 {
		t.Fatalf("got %d %v and %d created, want a link", status, link, s.Created())
	}
	if _, body := s.do(t, http.MethodGet, strings.TrimPrefix(address, s.url)+"?client_reference_id=tok", "", ""); !strings.Contains(body, "20.50 EUR") || !strings.Contains(body, `value="tok"`) {
		t.Errorf("the link's page: got %s", body)
	}
}

// TestStripeAPIExpires ends a session, whose page takes no payment after that.
func TestStripeAPIExpires(t *testing.T) {
	t.Parallel()
	h := listen(t)
	c := payConfig(h)
	c.Stripe.APIKey = stripeKey
	s := open(t, c)
	s.PutCheckout(sandbox.StripeOptions{SessionID: "cs_test_1", Token: "tok"})
	s.PutCheckout(sandbox.StripeOptions{SessionID: "cs_test_paid", PaymentStatus: "paid"})
	form := url.Values{"session": {"cs_test_1"}, "intent": {"pi_1"}, "reference": {"tok"}}
	for _, asked := range []struct {
		session string
		status  int
		want    string
	}{
		{"cs_test_1", http.StatusOK, `"status": "expired"`},
		{"cs_test_1", http.StatusBadRequest, "status of expired"},
		{"cs_test_paid", http.StatusBadRequest, "status of complete"},
		{"cs_test_2", http.StatusNotFound, "resource_missing"},
	} {
		resp, body := s.do(t, http.MethodPost, "/stripe/v1/checkout/sessions/"+asked.session+"/expire", "Bearer "+stripeKey, "")
		if resp.StatusCode != asked.status || !strings.Contains(body, asked.want) {
			t.Errorf("%s: got %d %s, want %d with %s", asked.session, resp.StatusCode, body, asked.status, asked.want)
		}
	}
	if len(h.got) != 1 || !strings.Contains(string(h.got[0].body), "checkout.session.expired") {
		t.Errorf("got %d callbacks, want that it has expired", len(h.got))
	}
	if resp, page := s.press(t, "/pay/checkout", form, "pay"); resp.StatusCode != http.StatusGone || !strings.Contains(page, "has expired") {
		t.Errorf("paying: got %d %s, want 410 and why", resp.StatusCode, page)
	}
	if len(h.got) != 1 {
		t.Errorf("got %d callbacks, want none of a payment", len(h.got))
	}
}
