package handlers_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
)

// previewOf asks for a preview of a flow, and returns its parts.
func (n *node) previewOf(flow, body string) (out struct {
	Outcome string
	Holds   bool
	Actions []struct {
		Name, Destination, Platform string
		Requests                    []struct {
			Method, URL string
			Headers     map[string]string
			Body        any
		}
		Notes []map[string]string
		Error *string
	}
},
) {
	n.t.Helper()
	a := n.post("/v1/flows/"+flow+"/preview", body, bearer(n.keys[relay.ScopeRead])).want(http.StatusOK)
	if err := json.Unmarshal(a.Body, &out); err != nil {
		n.t.Fatalf("got %s: %v", a.Body, err)
	}
	return out
}

// TestPreview previews what a made-up event would send, and what a stored one
// would; no secret is in any of it, which checkSecrets looks for.
func TestPreview(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const hushed = "whsec_aHVzaC1odXNoLWh1c2gtaHVzaC1odXNoLWh1c2g="
	n.secret(hushed)
	n.secret("hush-hush-header")
	n.put("/v1/destinations/desk", `{"platform": "webhook", "url": "https://desk.test/hook", "secret": "`+hushed+`", "headers": {"X-Key": "hush-hush-header"}}`).want(http.StatusOK)
	n.put("/v1/flows/fall", `{"destination": "bot", "source": "stripe", "expect": {"currency": "EUR"}, "when": "payment.method != 'voucher'", "on": {
		"completed": {"module_id": "{{ correlation.data.module }}", "custom_vars": {"amount": "{{ payment.amount }}", "who": "{{ form.name }}"},
			"fallback": {"destination": "desk", "headers": {"X-Outcome": "{{ outcome }}"}, "body": {"for": "{{ correlation.user_id }}"}}},
		"mismatch": {"text": "Not {{ payment.currency }}."}}}`).want(http.StatusOK)

	got := n.previewOf("fall", `{"outcome": "completed", "user_id": 829, "data": {"module": 77}, "payment": {"amount": 20.5, "currency": "EUR"}}`)
	if got.Outcome != "completed" || !got.Holds || len(got.Actions) != 2 {
		t.Fatalf("got %+v, want the action and its fallback", got)
	}
	call := got.Actions[0]
	want := map[string]any{
		"user_id": "829", "module_id": 77.0, "wait_time": 3.0, "is_async": true, "custom_vars": map[string]any{"amount": 20.5, "who": nil},
	}
	if diff := cmp.Diff(want, call.Requests[0].Body); diff != "" || call.Requests[0].URL != "https://bot.test/actionsvc/trigger-response/" {
		t.Errorf("%s (-want +got):\n%s", call.Requests[0].URL, diff)
	}
	if call.Requests[0].Headers["Authorization"] != "JWT ***" || len(call.Notes) != 1 || call.Notes[0]["expression"] != "form.name" {
		t.Errorf("got %+v, want the token masked and one note", call)
	}
	desk := got.Actions[1]
	if desk.Name != "completed.fallback" || desk.Platform != "webhook" || desk.Requests[0].URL != "https://desk.test/hook" {
		t.Errorf("got %+v, want the fallback", desk)
	}
	for name, want := range map[string]string{"X-Key": "***", "X-Outcome": "completed", "Webhook-Signature": "v1,***"} {
		if got := desk.Requests[0].Headers[name]; got != want {
			t.Errorf("header %s: got %q, want %q", name, got, want)
		}
	}

	if got := n.previewOf("fall", `{"outcome": "completed", "user_id": "u", "payment": {"amount": 1, "currency": "USD"}}`); got.Outcome != "mismatch" ||
		len(got.Actions) != 1 || !strings.Contains(toText(t, got.Actions[0].Requests[0].Body), "Not USD.") {
		t.Errorf("another currency: got %+v, want the mismatch", got)
	}
	if got := n.previewOf("fall", `{"outcome": "completed", "user_id": "u", "payment": {"method": "voucher"}}`); got.Holds || len(got.Actions) != 0 {
		t.Errorf("what the filter keeps out: got %+v, want nothing called", got)
	}
	if got := n.previewOf("fall", `{"outcome": "completed", "user_id": "u", "payment": {"currency": "EUR"}, "data": {"module": "x"}}`); got.Actions[0].Error == nil ||
		!strings.Contains(*got.Actions[0].Error, "module_id must be") || len(got.Actions[0].Requests) != 0 {
		t.Errorf("a module of letters: got %+v, want why it cannot be called", got.Actions[0])
	}
	if got := n.previewOf("fall", `{"outcome": "refunded", "user_id": "u"}`); len(got.Actions) != 0 {
		t.Errorf("an outcome without an action: got %+v, want nothing called", got)
	}

	w := n.wait(`{"user_id": "u-stored", "flow": "checkout"}`)
	n.stripe("evt_1", "checkout.session.completed", paidSession(token(w), "pi_1", 2050, "eur"))
	event := n.get("/v1/events").data()[0]["id"].(string)
	stored := n.previewOf("checkout", `{"event_id": "`+event+`"}`)
	if body := toText(t, stored.Actions[0].Requests[0].Body); stored.Outcome != "completed" || !strings.Contains(body, `"u-stored"`) || !strings.Contains(body, `"amount":20.5`) {
		t.Errorf("a stored event: got %s, want its wait and payment", body)
	}
	if got := len(n.deliveries()); got != 1 {
		t.Errorf("%d deliveries, want that of the event alone", got)
	}
}

func toText(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	must(t, err)
	return string(raw)
}

func TestPreviewRefuses(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, tt := range []struct {
		name, flow, body string
		status           int
		code             string
	}{
		{"no such flow", "nothing", `{"outcome": "completed", "user_id": "u"}`, 404, "not_found"},
		{"nobody", "checkout", `{"outcome": "completed"}`, 422, "user_id_required"},
		{"nothing happens", "checkout", `{"user_id": "u"}`, 422, "invalid_outcome"},
		{"no outcome of ours", "checkout", `{"user_id": "u", "outcome": "default"}`, 422, "invalid_outcome"},
		{"no such event", "checkout", `{"event_id": "0193f3a1-7b5c-7def-8123-456789abcdef"}`, 404, "not_found"},
		{"unknown field", "checkout", `{"outcom": "completed"}`, 422, "unknown_field"},
	} {
		n.in(t).post("/v1/flows/"+tt.flow+"/preview", tt.body).refused(tt.status, tt.code)
	}
	n.post("/v1/flows/checkout/preview", `{}`, bearer(n.keys[relay.ScopeCreate])).refused(http.StatusForbidden, "scope_too_small")
}
