package handlers_test

import (
	"net/http"
	"testing"

	"relay.example/relay/internal/store/storetest"
)

// Nudges are those of the flow, or of the wait, and nobody else has a row.
func TestNudgesOfWaits(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/flows/checkout", `{"destination": "bot", "source": "stripe", "expires_in": "45m",
		"nudge": [{"after": "10m", "unless": "opened", "text": "Still there, {{ correlation.user_id }}?"}, {"after": "30m", "module_id": 5}],
		"on": {"default": {"module_id": 1}}}`).want(http.StatusOK)
	nudges := func(w map[string]any) string {
		t.Helper()
		return storetest.Query[string](t, n.database, `
			SELECT coalesce(string_agg(concat_ws(' ', n.number, n.due_at - c.created_at), ', ' ORDER BY n.number), '')
			FROM nudges n JOIN correlations c ON c.id = n.correlation_id WHERE c.id = $1`, w["id"])
	}
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	if got, want := nudges(w), "0 00:10:00, 1 00:30:00"; got != want {
		t.Errorf("the flow's: got %q, want %q", got, want)
	}
	w = n.wait(`{"user_id": "u-2", "flow": "checkout", "nudge": {"after": "20m", "text": "Hello?"}}`)
	if got, want := nudges(w), "0 00:20:00"; got != want {
		t.Errorf("the wait's own: got %q, want %q", got, want)
	}
	if got := nudges(n.wait(`{"user_id": "u-3", "flow": "checkout", "nudge": []}`)); got != "" {
		t.Errorf("none: got %q", got)
	}
	if got := n.get("/v1/flows/checkout").object()["nudge"]; got == nil {
		t.Error("the flow does not show its nudges")
	}
	for body, code := range map[string]string{
		`{"nudge": {"text": "a"}}`:                                         "invalid_duration",
		`{"nudge": {"after": "2h", "text": "a"}}`:                          "nudge_too_late",
		`{"nudge": {"after": "1ms", "text": "a"}}`:                         "invalid_duration",
		`{"nudge": {"after": "1m", "unless": "x", "text": "a"}}`:           "invalid_unless",
		`{"nudge": {"after": "1m"}}`:                                       "text_required",
		`{"nudge": {"after": "1m", "text": "{{ nobody }}"}}`:               "expression_invalid",
		`{"nudge": {"after": "1m", "text": "a", "destination": "nobody"}}`: "unknown_destination",
		`{"nudge": {"after": "1m", "text": "a", "destination_id": 1}}`:     "unknown_field",
		`{"nudge": [{}, {}, {}, {}, {}, {}]}`:                              "too_many_nudges",
	} {
		n.put("/v1/flows/checkout", `{"destination": "bot", "source": "stripe", "expires_in": "45m", "module_id": 1, `+body[1:]).
			refused(http.StatusUnprocessableEntity, code, "nudge")
	}
	n.put("/v1/flows/checkout", `{"destination": "bot", "source": "stripe", "module_id": 1, "nudge": [{"after": "1m", "text": "a"}, {"text": "b"}]}`).
		refused(http.StatusUnprocessableEntity, "invalid_duration", "nudge[1].after: say how long after the registration")
}
