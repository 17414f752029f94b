package handlers_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
)

func TestCancelAndResolve(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, c := range []struct {
		name, verb, body string
		want             map[string]any
		fires            []string // action names
	}{
		{"cancel", "cancel", ``, map[string]any{"status": "cancelled", "outcome": "cancelled", "payment": nil, "form": nil}, []string{"default"}},
		{"cancel in silence", "cancel", `{"silent": true}`, map[string]any{"status": "cancelled"}, nil},
		{"resolve as failed", "resolve", `{"outcome": "failed"}`, map[string]any{"status": "failed", "outcome": "failed"}, []string{"default"}},
		{"resolve as expired, in silence", "resolve", `{"outcome": "expired", "silent": true}`, map[string]any{"status": "expired"}, nil},
		{
			"resolve with a payment and a form", "resolve",
			`{"outcome": "completed", "payment": {"id": "pi_1", "amount": 20.5, "currency": "EUR", "live": false}, "form": {"name": "Ada", "nul": "\u0000"}}`,
			map[string]any{
				"status": "completed", "outcome": "completed", "form": map[string]any{"name": "Ada", "nul": "\x00"},
				"payment": map[string]any{
					"id": "pi_1", "amount": 20.5, "amount_text": "20.50", "amount_minor": 2050.0, "currency": "EUR",
					"method": nil, "email": nil, "live": false, "account": nil,
				},
			},
			[]string{"completed"},
		},
		{
			"resolve with yen", "resolve", `{"outcome": "completed", "payment": {"amount_minor": 2050, "currency": "JPY"}}`,
			map[string]any{"payment": map[string]any{
				"id": nil, "amount": 2050.0, "amount_text": "2050", "amount_minor": 2050.0, "currency": "JPY",
				"method": nil, "email": nil, "live": nil, "account": nil,
			}},
			[]string{"completed"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			before := len(n.deliveries())
			w := n.wait(`{"user_id": "u of ` + c.name + `", "flow": "checkout"}`) // a conversation of its own
			path := "/v1/correlations/" + w["id"].(string)
			got := n.post(path+"/"+c.verb, c.body).want(http.StatusOK).object()
			for name, want := range c.want {
				if diff := cmp.Diff(want, got[name]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if got["resolved_by"] != "api" || got["resolved_at"] == nil {
				t.Errorf("got resolved by %v at %v, want by api", got["resolved_by"], got["resolved_at"])
			}
			if !slices.Contains(steps(got), "resolved") {
				t.Errorf("got the timeline %v, want resolved in it", got["timeline"])
			}
			var fires []string
			for _, d := range n.deliveries()[before:] {
				fires = append(fires, d.Action)
				if c.want["payment"] != nil && d.Payment == nil {
					t.Errorf("got the delivery without the payment that was given")
				}
			}
			if diff := cmp.Diff(c.fires, fires); diff != "" {
				t.Errorf("what fires (-want +got):\n%s", diff)
			}
			if shown, _ := got["deliveries"].([]any); len(shown) != len(c.fires) {
				t.Errorf("got %d deliveries shown, want %d", len(shown), len(c.fires))
			}
			n.post(path+"/cancel", "").refused(http.StatusConflict, "not_pending", got["status"].(string))
			n.post(path+"/resolve", `{"outcome": "completed"}`).refused(http.StatusConflict, "not_pending")
		})
	}
	path := "/v1/correlations/" + n.wait(`{"user_id": "v", "flow": "checkout"}`)["id"].(string)
	for _, c := range []struct{ name, verb, body, code, word string }{
		{"no outcome", "resolve", `{}`, "invalid_outcome", "completed"},
		{"an outcome on the way", "resolve", `{"outcome": "processing"}`, "invalid_outcome", "completed"},
		{"an amount twice", "resolve", `{"outcome": "completed", "payment": {"amount": 1, "amount_minor": 100}}`, "amount_twice", "payment"},
		{"an amount beyond all money", "resolve", `{"outcome": "completed", "payment": {"amount": 1e300}}`, "invalid_amount", "payment.amount"},
		{"NUL in the payment's id", "resolve", `{"outcome": "completed", "payment": {"id": "\u0000"}}`, "invalid_value", "payment.id"},
		{"an unknown field of the payment", "resolve", `{"outcome": "completed", "payment": {"sum": 1}}`, "unknown_field", "sum"},
		{"an unknown field", "cancel", `{"silently": true}`, "unknown_field", "silently"},
		{"a word for a truth", "cancel", `{"silent": "yes"}`, "wrong_type", "silent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.in(t).post(path+"/"+c.verb, c.body).refused(http.StatusUnprocessableEntity, c.code, c.word)
		})
	}
	if got := n.get(path).object()["status"]; got != "pending" {
		t.Errorf("got %v by what was refused, want pending", got)
	}
}

// A callback and a person that end one wait at the same time end it once.
func TestCancelAgainstCallback(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u", "source": "hook", "on": {"default": {"module_id": 1}, "completed_late": {"action": "none"}}}`)
	path := "/v1/correlations/" + w["id"].(string) + "/cancel"
	var g sync.WaitGroup
	ended := make(chan int, 10)
	for range 10 {
		g.Go(func() {
			a, err := n.try(http.MethodPost, path, nil, bearer(n.keys[relay.ScopeWrite]))
			if err != nil || a.Status != http.StatusOK && a.Status != http.StatusConflict {
				t.Errorf("got %+v, %v, want 200 or 409", a, err)
				return
			}
			ended <- a.Status
		})
	}
	body := `{"id": "1", "type": "paid", "token": "` + w["token"].(string) + `"}`
	g.Go(func() {
		a, err := n.try(http.MethodPost, "/in/default/hook", strings.NewReader(body), header("X-Signature", sign(hookSecret, body)))
		if err != nil || a.Status != http.StatusOK {
			t.Errorf("got %+v, %v, want 200", a, err)
		}
	})
	g.Wait()
	close(ended)
	cancelled := 0
	for status := range ended {
		if status == http.StatusOK {
			cancelled++
		}
	}
	if cancelled > 1 {
		t.Errorf("got %d cancellations, want at most one", cancelled)
	}
	if got := n.deliveries(); len(got) != 1 {
		t.Errorf("got %d deliveries, want one end", len(got))
	}
}
