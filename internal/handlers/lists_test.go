package handlers_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// walk reads a list to its end, page by page, and calls between after each.
func (n *node) walk(path string, between func()) (ids []string) {
	n.t.Helper()
	cursor := ""
	for page := 0; ; page++ {
		if page > 100 {
			n.t.Fatalf("%s: got more than 100 pages, want an end", path)
		}
		a := n.get(path + "&cursor=" + cursor).want(http.StatusOK)
		for _, row := range a.data() {
			ids = append(ids, row["id"].(string))
		}
		next := a.object()["next_cursor"]
		if next == nil {
			return ids
		}
		cursor = next.(string)
		between()
	}
}

// A list that is read while it grows holds every row that was there at the
// start, each once, the newest first.
func TestPagesOfAGrowingList(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const rows = 120
	grow := func(i int) {
		w := n.wait(fmt.Sprintf(`{"user_id": "u-%d", "flow": "checkout"}`, i))
		n.hook("/in/default/hook", fmt.Sprintf(`{"id": "e-%d", "type": "paid"}`, i)).wantAccepted()
		n.post("/v1/correlations/"+w["id"].(string)+"/cancel", "").want(http.StatusOK) // makes a delivery
	}
	for i := range rows {
		grow(i)
	}
	for _, list := range []string{"correlations", "events", "deliveries"} {
		t.Run(list, func(t *testing.T) {
			n := n.in(t)
			before := n.walk("/v1/"+list+"?limit=500", func() {})
			added := 0
			ids := n.walk("/v1/"+list+"?limit=7", func() {
				added++
				grow(1000*len(list) + added)
			})
			seen := map[string]bool{}
			for i, id := range ids {
				if seen[id] {
					t.Errorf("got %s twice", id)
				}
				if seen[id] = true; i > 0 && id >= ids[i-1] {
					t.Errorf("got %s after %s, want the newest first", id, ids[i-1])
				}
			}
			for _, id := range before {
				if !seen[id] {
					t.Errorf("%s was there and is on no page", id)
				}
			}
			if len(before) < rows || added < rows/7 {
				t.Errorf("got %d rows at the start and %d added, want at least %d and %d", len(before), added, rows, rows/7)
			}
		})
	}
	t.Run("exactly one page", func(t *testing.T) {
		total := len(n.in(t).walk("/v1/correlations?limit=500", func() {}))
		a := n.in(t).get(fmt.Sprintf("/v1/correlations?limit=%d", total)).object()
		if a["next_cursor"] != nil || len(a["data"].([]any)) != total {
			t.Errorf("got %d rows and the cursor %v, want all %d and no cursor", len(a["data"].([]any)), a["next_cursor"], total)
		}
	})
}

func TestListParameters(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, c := range []struct{ path, code, word string }{
		{"/v1/correlations?limit=0", "invalid_limit", "500"},
		{"/v1/correlations?limit=501", "invalid_limit", "500"},
		{"/v1/correlations?limit=ten", "invalid_limit", "500"},
		{"/v1/correlations?cursor=abc", "invalid_cursor", "next_cursor"},
		{"/v1/correlations?cursor=%00", "invalid_cursor", "next_cursor"},
		{"/v1/correlations?status=done", "invalid_status", "pending"},
		{"/v1/correlations?late=perhaps", "invalid_late", "true"},
		{"/v1/correlations?user_id=%00", "invalid_value", "user_id"},
		{"/v1/correlations?key=%ff", "invalid_value", "key"},
		{"/v1/correlations?flow=%c3%28", "invalid_value", "flow"},
		{"/v1/events?verdict=true", "invalid_verdict", "verified"},
		{"/v1/events?match=yes", "invalid_match", "matched"},
		{"/v1/events?source=%00", "invalid_value", "source"},
		{"/v1/events?token=%ff", "invalid_value", "token"},
		{"/v1/events?from=yesterday", "invalid_time", "from"},
		{"/v1/events?to=2026-13-01T00:00:00Z", "invalid_time", "to"},
		{"/v1/deliveries?status=sent", "invalid_status", "delivered"},
		{"/v1/deliveries?outcome=paid", "invalid_outcome", "completed"},
		{"/v1/deliveries?destination=%00", "invalid_value", "destination"},
		{"/v1/deliveries?correlation_id=1", "invalid_correlation_id", "UUID"},
		{"/v1/correlations?statuss=pending", "unknown_parameter", "statuss"},
		{"/v1/events?user_id=u-1", "unknown_parameter", "user_id"},
		{"/v1/flows?x", "unknown_parameter", "x"},
		{"/v1/events/replay/0193b2f4-0000-7000-8000-000000000000?verbose=1", "unknown_parameter", "verbose"},
	} {
		t.Run(c.path, func(t *testing.T) {
			n.in(t).get(c.path).refused(http.StatusUnprocessableEntity, c.code, c.word)
		})
	}
	for _, path := range []string{"/v1/correlations/1", "/v1/events/%00", "/v1/deliveries/x", "/v1/correlations/0193b2f4-0000-7000-8000-000000000000", "/v1/nothing"} {
		n.get(path).refused(http.StatusNotFound, "not_found")
	}
	// What would change something is not done.
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	n.remove("/v1/users/u-1?dry_run=true").refused(http.StatusUnprocessableEntity, "unknown_parameter", "body")
	n.post("/v1/correlations/"+w["id"].(string)+"/cancel?limit=1", `{}`).refused(http.StatusUnprocessableEntity, "unknown_parameter", "limit")
	if got := n.get("/v1/correlations/" + w["id"].(string)).want(http.StatusOK).object()["status"]; got != "pending" {
		t.Errorf("the wait is %v, want it pending", got)
	}
	n.call(http.MethodPatch, "/v1/flows/checkout", `{}`).refused(http.StatusMethodNotAllowed, "method_not_allowed")
}

func TestFilters(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := n.wait(`{"user_id": "u-1", "flow": "checkout", "key": "order-1"}`)
	b := n.wait(`{"user_id": "u-2", "source": "hook", "module_id": 1}`)
	c := n.wait(`{"user_id": "u-2", "source": "contact", "module_id": 2, "key": "order-2"}`)
	n.post("/v1/correlations/"+a["id"].(string)+"/cancel", "").want(http.StatusOK)
	n.hook("/in/default/hook", `{"id": "1", "type": "order.paid", "token": "`+b["token"].(string)+`"}`).wantAccepted()
	n.hook("/in/default/hook", `{"id": "2", "type": "order.paid", "token": "nobody"}`).wantAccepted()
	n.send(http.MethodPost, "/in/default/hook", strings.NewReader("{}")).want(http.StatusUnauthorized)
	n.post("/v1/correlations/"+c["id"].(string)+"/cancel", "").want(http.StatusOK)
	n.send(http.MethodPost, "/in/default/contact/"+c["token"].(string), strings.NewReader("a=b"), header("Content-Type", "application/x-www-form-urlencoded")).wantAccepted()
	middle := n.get("/v1/events").data()[1]["received_at"].(string) // of the second newest
	for _, f := range []struct {
		path string
		want int
	}{
		{"/v1/correlations", 3},
		{"/v1/correlations?status=cancelled", 2},
		{"/v1/correlations?status=pending", 0},
		{"/v1/correlations?flow=checkout", 1},
		{"/v1/correlations?user_id=u-2", 2},
		{"/v1/correlations?user_id=u-2&status=cancelled", 1},
		{"/v1/correlations?key=order-1", 1},
		{"/v1/correlations?late=true", 1},
		{"/v1/events", 4},
		{"/v1/events?source=hook", 3},
		{"/v1/events?verdict=rejected", 1},
		{"/v1/events?verdict=unsigned", 1},
		{"/v1/events?match=matched", 1},
		{"/v1/events?match=late", 1},
		{"/v1/events?match=unmatched", 1},
		{"/v1/events?match=parked", 1},
		{"/v1/events?token=" + b["token"].(string), 1},
		{"/v1/events?token=nobody", 1},
		{"/v1/events?from=" + url.QueryEscape(middle), 2},
		{"/v1/events?to=" + url.QueryEscape(middle), 2},
		{"/v1/deliveries", 3},
		{"/v1/deliveries?outcome=completed", 2},
		{"/v1/deliveries?outcome=cancelled", 1},
		{"/v1/deliveries?destination=bot", 3},
		{"/v1/deliveries?status=scheduled", 3},
		{"/v1/deliveries?status=dead", 0},
		{"/v1/deliveries?correlation_id=" + b["id"].(string), 1},
	} {
		t.Run(f.path, func(t *testing.T) {
			if got := n.in(t).get(f.path).want(http.StatusOK).data(); len(got) != f.want {
				t.Errorf("got %d rows, want %d: %v", len(got), f.want, got)
			}
		})
	}
}

// attempted records what came of a delivery that was handed over.
func (n *node) attempted(d relay.Delivery, class relay.Class, next relay.DeliveryStatus) {
	n.t.Helper()
	recorded, err := n.store.RecordAttempts(n.t.Context(), []relay.Attempt{{
		ProjectID: d.ProjectID, DeliveryID: d.ID, Lease: d.Lease, StartedAt: d.Wait.CreatedAt, Class: class,
		HTTPStatus: http.StatusTeapot, Reason: "for the test", Response: "short and stout", Next: next,
	}})
	must(n.t, err)
	if recorded[0] != (store.Recorded{Status: next}) {
		n.t.Fatalf("got %+v, want the attempt recorded as %s", recorded[0], next)
	}
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	end := func(user string) relay.Delivery {
		w := n.wait(`{"user_id": "` + user + `", "flow": "checkout"}`)
		n.post("/v1/correlations/"+w["id"].(string)+"/cancel", "").want(http.StatusOK)
		handed := n.deliveries()
		return handed[len(handed)-1]
	}
	path := func(d relay.Delivery) string { return "/v1/deliveries/" + d.ID.String() }
	d := end("u-1")
	t.Run("while it is being sent", func(t *testing.T) {
		n := n.in(t)
		n.post(path(d)+"/retry", "").refused(http.StatusConflict, "delivery_not_changed")
		n.post(path(d)+"/skip", "").refused(http.StatusConflict, "delivery_not_changed")
		if got := n.get(path(d)).want(http.StatusOK).object(); got["status"] != "scheduled" || got["next_attempt_at"] != nil || got["destination"] != "bot" ||
			got["outcome"] != "cancelled" || got["action"] != "default" || got["attempts"] != 0.0 {
			t.Errorf("got %v, want it scheduled to bot, without a next attempt", got)
		}
	})
	t.Run("dead", func(t *testing.T) {
		n := n.in(t)
		n.attempted(d, relay.Permanent, relay.Dead)
		got := n.get(path(d)).object()
		log, _ := got["attempt_log"].([]any)
		if got["status"] != "dead" || got["last_class"] != "permanent" || got["last_reason"] != "for the test" || got["finished_at"] == nil || len(log) != 1 {
			t.Fatalf("got %v, want it dead with one attempt", got)
		}
		if a := log[0].(map[string]any); a["number"] != 1.0 || a["http_status"] != 418.0 || a["response"] != "short and stout" {
			t.Errorf("got the attempt %v, want the answer in it", a)
		}
		n.post(path(d)+"/retry", `{"forc": true}`).refused(http.StatusUnprocessableEntity, "unknown_field", "forc")
		woken := n.woken
		if got := n.post(path(d)+"/retry", "").want(http.StatusOK).object(); got["status"] != "scheduled" || got["next_attempt_at"] == nil || got["finished_at"] != nil {
			t.Errorf("got %v, want it scheduled again, due now", got)
		}
		if n.woken != woken+1 {
			t.Errorf("got the sender woken %d times, want once", n.woken-woken)
		}
		if got := n.post(path(d)+"/skip", "").want(http.StatusOK).object()["status"]; got != "skipped" {
			t.Errorf("got %v, want skipped", got)
		}
		n.post(path(d)+"/skip", "").refused(http.StatusConflict, "delivery_not_changed")
	})
	t.Run("delivered", func(t *testing.T) {
		n := n.in(t)
		d := end("u-2")
		n.attempted(d, relay.OK, relay.Delivered)
		n.post(path(d)+"/retry", "").refused(http.StatusConflict, "delivery_not_changed", "force")
		n.post(path(d)+"/skip", "").refused(http.StatusConflict, "delivery_not_changed")
		if got := n.post(path(d)+"/retry", `{"force": true}`).want(http.StatusOK).object()["status"]; got != "scheduled" {
			t.Errorf("got %v, want scheduled", got)
		}
	})
	t.Run("in bulk", func(t *testing.T) {
		n := n.in(t)
		for i := range 3 {
			n.attempted(end(fmt.Sprintf("bulk-%d", i)), relay.Permanent, relay.Dead)
		}
		for _, c := range []struct{ body, code, word string }{
			{`{"status": "delivered"}`, "invalid_status", "dead"},
			{`{"outcome": "paid"}`, "invalid_outcome", "completed"},
			{`{"destination": "\u0000"}`, "invalid_value", "destination"},
			{`{"from": "yesterday"}`, "invalid_time", "from"},
			{`{"dryrun": true}`, "unknown_field", "dryrun"},
			{`{"destination": "bto"}`, "unknown_destination", `did you mean "bot"?`},
			{`{"destination": "nothing", "dry_run": true}`, "unknown_destination", "nothing"},
		} {
			n.post("/v1/deliveries/retry", c.body).refused(http.StatusUnprocessableEntity, c.code, c.word)
		}
		for _, c := range []struct {
			body string
			want float64
		}{
			{`{"dry_run": true}`, 3},
			{`{"status": "held"}`, 0},
			{`{"outcome": "completed"}`, 0},
			{`{"to": "2020-01-01T00:00:00Z"}`, 0},
			{`{"status": "dead", "destination": "bot", "outcome": "cancelled", "from": "2020-01-01T00:00:00Z"}`, 3},
			{`{}`, 0}, // they are scheduled by now
		} {
			if got := n.post("/v1/deliveries/retry", c.body).want(http.StatusAccepted).object()["matched"]; got != c.want {
				t.Errorf("%s: got %v matched, want %v", c.body, got, c.want)
			}
		}
	})
}

// A name that nothing goes by is no empty list; what is deleted has its history
// still, and what is new has none yet.
func TestFiltersByNames(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/flows/old", `{"destination": "bot", "source": "hook", "module_id": 1}`).want(http.StatusOK)
	w := n.wait(`{"user_id": "u", "flow": "old"}`)
	n.post("/v1/correlations/"+id(w)+"/cancel", "").want(http.StatusOK)
	n.remove("/v1/flows/old").want(http.StatusNoContent)
	for path, want := range map[string]int{
		"/v1/correlations?flow=old": 1, "/v1/correlations?flow=old&status=pending": 0, "/v1/correlations?flow=checkout": 0, "/v1/events?source=stripe": 0, "/v1/events?source=form": 0,
	} {
		if got := n.get(path).want(http.StatusOK).data(); len(got) != want {
			t.Errorf("%s: got %d rows, want %d", path, len(got), want)
		}
	}
	for path, c := range map[string][2]string{
		"/v1/correlations?flow=older":          {"unknown_flow", "older"},
		"/v1/correlations?flow=chekout":        {"unknown_flow", `did you mean "checkout"?`},
		"/v1/events?source=strip":              {"unknown_source", `did you mean "stripe"?`},
		"/v1/deliveries?destination=nothing":   {"unknown_destination", "nothing"},
		"/v1/deliveries?limit=1&destination=b": {"unknown_destination", "b"},
	} {
		n.get(path).refused(http.StatusUnprocessableEntity, c[0], c[1])
	}
}
