package handlers_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// tried records an attempt that began now.
func (n *node) tried(d relay.Delivery, a relay.Attempt) {
	n.t.Helper()
	a.ProjectID, a.DeliveryID, a.Lease, a.StartedAt, a.Duration = d.ProjectID, d.ID, d.Lease, time.Now(), 12*time.Millisecond
	a.Conversation = d.Conversation
	recorded, err := n.store.RecordAttempts(n.t.Context(), []relay.Attempt{a})
	must(n.t, err)
	if recorded[0].Stale || recorded[0].Status != a.Next {
		n.t.Fatalf("got %+v, want the attempt recorded as %s", recorded[0], a.Next)
	}
}

// timelineOf is the timeline of a wait, which has to be in order of time.
func (n *node) timelineOf(wait string) (out []map[string]any) {
	n.t.Helper()
	var last time.Time
	for _, m := range n.get("/v1/correlations/" + wait).want(http.StatusOK).object()["timeline"].([]any) {
		m := m.(map[string]any)
		at, err := time.Parse(time.RFC3339Nano, m["at"].(string))
		if err != nil || at.Before(last) {
			n.t.Errorf("got %v after %s, %v, want them in order of time", m, last, err)
		}
		last = at
		out = append(out, m)
	}
	return out
}

// told writes a timeline as steps with their details.
func told(timeline []map[string]any) (out []string) {
	for _, m := range timeline {
		detail, _ := m["detail"].(string)
		out = append(out, strings.TrimSuffix(m["step"].(string)+": "+detail, ": "))
	}
	return out
}

// A payment that its provider tells of before the end, and that the wait does
// not accept, is not passed over at its end.
func TestTimelineTellsOfRefusedPayment(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ wait, want string }{
		"another currency": {
			`{"user_id": "u", "source": "stripe", "module_id": 1, "expect": {"currency": "EUR"}}`,
			"resolved: expired: its time was up, though its provider says that it was paid: not as was expected (mismatch)",
		},
		"kept out by the filter": {
			`{"user_id": "u", "source": "stripe", "module_id": 1, "when": "payment.live == true"}`,
			"resolved: expired: its time was up, though its provider says that it was paid: guard_failed (when)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			w := n.wait(tt.wait)
			n.stripe("evt_1", "checkout.session.completed", paidSession(token(w), "pi_1", 2050, "usd"))
			storetest.Exec(t, n.database, `UPDATE events SET verdict = 'fetched'`)
			project := storetest.Query[int64](t, n.database, `SELECT project_id FROM correlations WHERE id = $1`, id(w))
			_, err := n.store.EndWait(t.Context(), uuid.New(), project, uuid.MustParse(id(w)), func(w *relay.Wait) (store.Ending, error) {
				return store.Ending{Wait: w, Step: w.Apply(relay.Expired, ""), By: "deadline"}, nil
			})
			must(t, err)
			timeline := n.timelineOf(id(w))
			last := timeline[len(timeline)-1]
			if got := told(timeline); got[len(got)-1] != tt.want || last["event_id"] == nil {
				t.Errorf("got %q of the event %v, want %q with its event", got[len(got)-1], last["event_id"], tt.want)
			}
		})
	}
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	older := n.wait(`{"user_id": "u", "flow": "checkout"}`)
	w := n.wait(`{"user_id": "u", "flow": "checkout", "key": "order-1"}`)
	n.stripe("evt_1", "payment_intent.payment_failed", declined("pi_1", token(w)))
	n.stripe("evt_2", "payment_intent.processing", declined("pi_1", ""))
	n.stripe("evt_3", "checkout.session.completed", paidSession(token(w), "pi_1", 2050, "eur"))
	n.stripe("evt_3", "checkout.session.completed", paidSession(token(w), "pi_1", 2050, "eur"))
	handed := n.deliveries()
	if len(handed) != 1 {
		t.Fatalf("got %d deliveries, want that of the declined card: the success waits for its turn", len(handed))
	}
	n.tried(handed[0], relay.Attempt{Class: relay.Permanent, HTTPStatus: 400, Reason: "no such module", Next: relay.Dead})
	due, err := n.store.ClaimDue(t.Context(), uuid.New(), 2)
	if err != nil || len(due) != 1 {
		t.Fatalf("claimed %d deliveries, %v, want that of the success", len(due), err)
	}
	n.tried(due[0], relay.Attempt{
		Class: relay.Retry, HTTPStatus: 500, Reason: "server error", Next: relay.Scheduled, Delay: time.Hour,
		Notes: []byte(`[{"expression": "payment.email", "reason": "null"}]`),
	})
	path := "/v1/correlations/" + id(w)
	deadline := n.get(path).object()["expires_at"].(string)
	timeline := n.timelineOf(id(w))
	want := []string{
		"registered: flow checkout, key order-1, superseded an older wait",
		"received: payment_intent.payment_failed from stripe", "verified", "matched: attempt_failed: " + relay.Why("on_the_way"),
		"delivery_created: attempt_failed to bot",
		"received: payment_intent.processing from stripe", "verified", "matched: processing: " + relay.Why("deadline_extended"),
		"deadline_extended: to " + deadline + ", because it is being processed",
		"received: checkout.session.completed from stripe", "verified", "matched: completed: " + relay.Why("closed"),
		"delivery_created: completed to bot", "resolved: completed: by an event",
		"received: checkout.session.completed from stripe", "verified", "duplicate: completed: " + relay.Why("same_event"),
		"rendered: every expression had a value", "attempt: no such module", "dead: no such module",
		"rendered: expressions without a value became null", "attempt: server error",
	}
	if diff := cmp.Diff(want, told(timeline)); diff != "" {
		t.Fatalf("timeline (-want +got):\n%s", diff)
	}
	if got := timeline[0]["correlation_id"]; got != older["id"] {
		t.Errorf("registered: got %v superseded, want %v", got, older["id"])
	}
	last := timeline[len(timeline)-1]
	made := last["attempt"].(map[string]any)
	next, err := time.Parse(time.RFC3339Nano, made["next_attempt_at"].(string))
	if until := time.Until(next); err != nil || until < 50*time.Minute || until > time.Hour {
		t.Errorf("next attempt: got %v, %v, want it in an hour", next, err)
	}
	delete(made, "next_attempt_at")
	if diff := cmp.Diff(map[string]any{"number": 1.0, "class": "retry", "http_status": 500.0, "duration_ms": 12.0}, made); diff != "" {
		t.Errorf("attempt (-want +got):\n%s", diff)
	}
	if got := timeline[len(timeline)-2]["notes"]; got == nil {
		t.Errorf("got no notes of what had no value, want them")
	}

	got := n.timelineOf(id(older))
	if diff := cmp.Diff([]string{"registered: flow checkout", "resolved: superseded: by a newer wait"}, told(got)); diff != "" {
		t.Errorf("timeline of the older wait (-want +got):\n%s", diff)
	}
	if got := got[1]["correlation_id"]; got != w["id"] {
		t.Errorf("superseded: got by %v, want by %v", got, w["id"])
	}
}

// How a wait may end besides, and what a delivery comes to.
// An event that came before its wait, or was replayed, was not matched when it
// came.
func TestTimelineOfWhatWasDecidedLater(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	completed := func(w map[string]any) func() bool {
		return func() bool { return n.get("/v1/correlations/" + id(w)).object()["status"] == "completed" }
	}
	wait := func(key, on string) map[string]any {
		return n.wait(`{"user_id": "` + key + `", "source": "hook", "key": "` + key + `", "on": {"default": ` + on + `}}`)
	}
	order := func(key string) {
		n.hook("/in/default/hook", `{"id": "`+key+`", "type": "order.paid", "data": {"reference": "`+key+`"}}`).wantAccepted()
	}
	before := []string{"received: order.paid from hook", "verified", "parked: " + relay.Why("nobody_waits_yet")}
	matched, resolved := "matched: completed: "+relay.Why("closed"), "resolved: completed: by an event"

	order("order-1")
	early := wait("order-1", `{"module_id": 1}`)
	eventually(t, "the parked event is matched", completed(early))
	want := append(slices.Clone(before), "registered: key order-1", matched, "delivery_created: completed to bot", resolved)
	if diff := cmp.Diff(want, told(n.timelineOf(id(early)))); diff != "" {
		t.Errorf("an early event (-want +got):\n%s", diff)
	}
	order("order-2")
	quiet := wait("order-2", `{"action": "none"}`)
	eventually(t, "the parked event is matched", completed(quiet))
	want = append(slices.Clone(before), "registered: key order-2", matched, resolved)
	if diff := cmp.Diff(want, told(n.timelineOf(id(quiet)))); diff != "" {
		t.Errorf("an early event that calls nobody (-want +got):\n%s", diff)
	}

	order("order-3")
	storetest.Exec(t, n.database, `UPDATE events SET match = 'unmatched', rule = 'nobody_came', dedupe_key = NULL WHERE match = 'parked'`)
	storetest.Exec(t, n.database, `DELETE FROM parked_refs`) // else the wait's registration finds it
	replayed := wait("order-3", `{"module_id": 1}`)
	at := time.Now()
	n.post("/v1/events/replay", `{"match": "unmatched"}`).want(http.StatusAccepted)
	n.replayAll()
	for _, m := range n.timelineOf(id(replayed)) {
		if when, err := time.Parse(time.RFC3339Nano, m["at"].(string)); m["step"] == "matched" && (err != nil || when.Before(at)) {
			t.Errorf("a replayed event: got it matched at %s, %v, want it after the replay began at %s", when, err, at)
		}
	}
	if !completed(replayed)() {
		t.Error("the replay did not complete its wait")
	}
	want = append(slices.Clone(before[:2]), "unmatched: "+relay.Why("nobody_came"), "registered: key order-3", "replayed: by hand", matched, "delivery_created: completed to bot", resolved)
	if diff := cmp.Diff(want, told(n.timelineOf(id(replayed)))); diff != "" {
		t.Errorf("a replayed event (-want +got):\n%s", diff)
	}
}

// What was not proven genuine at first is told as that, and when it was.
func TestTimelineOfWhatWasProvenLater(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1}`)
	n.order("1", token(w))
	storetest.Exec(t, n.database, `
		UPDATE events SET first_match = 'unmatched', first_rule = 'rejected', decided_at = received_at + interval '1 hour',
		    replayed_at = received_at + interval '1 hour'`)
	got := told(n.timelineOf(id(w)))
	want := []string{"replayed: by hand", "verified", "matched: completed: " + relay.Why("closed")}
	if len(got) < 3 || !slices.Equal(got[len(got)-3:], want) || !slices.Contains(got, "unmatched: "+relay.Why("rejected")) || !slices.Contains(got, "rejected") {
		t.Errorf("got %v, want it rejected first, and then %v", got, want)
	}
}

// What people did to a delivery by hand, and what its destination's hold did,
// stays on the timeline when it is over.
func TestTimelineOfWhatHeldUp(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1}`)
	n.order("1", token(w))
	d := n.deliveries()[0]
	n.tried(d, relay.Attempt{Class: relay.Credentials, HTTPStatus: 401, Reason: "bad credentials", Next: relay.Held})
	held, err := n.store.HoldDestination(t.Context(), d.DestinationID, 0, "bad credentials")
	if err != nil || !held {
		t.Fatalf("held: %v, %v", held, err)
	}
	n.post("/v1/destinations/bot/resume", "").want(http.StatusOK)
	claimed, err := n.store.ClaimHeld(t.Context(), uuid.New(), d.DestinationID, 1)
	if err != nil || len(claimed) != 1 {
		t.Fatalf("claimed %d, %v, want what was held", len(claimed), err)
	}
	n.tried(claimed[0], relay.Attempt{Class: relay.Permanent, HTTPStatus: 400, Reason: "no such module", Next: relay.Dead})
	n.post("/v1/deliveries/"+d.ID.String()+"/retry", "").want(http.StatusOK)
	n.erase("u")
	// A hold of another time is none of its.
	if held, err := n.store.HoldDestination(t.Context(), d.DestinationID, 1, "bad credentials"); err != nil || !held {
		t.Fatalf("held: %v, %v", held, err)
	}
	got := told(n.timelineOf(id(w)))
	want := []string{
		"attempt", "held: destination bot is held: bad credentials", "released: destination bot",
		"attempt: its user was erased", "dead", "retried: by hand: it was dead", "skipped: its user was erased", "erased: its user: what is left is of nobody",
	}
	if from := slices.Index(got, "attempt"); from < 0 || !slices.Equal(got[from:], want) {
		t.Errorf("got %q, want it to end with %q", got, want)
	}
}

func TestTimelineEnds(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	t.Run("resumed", func(t *testing.T) {
		n := n.in(t)
		w := n.wait(`{"user_id": "u-1", "source": "hook", "module_id": 1}`)
		n.order("1", token(w))
		d := n.deliveries()[len(n.deliveries())-1]
		n.tried(d, relay.Attempt{Class: relay.OK, HTTPStatus: 200, Reason: "accepted", Next: relay.Delivered})
		got := told(n.timelineOf(id(w)))
		if want := []string{"rendered: every expression had a value", "attempt: accepted", "resumed: accepted"}; !slices.Equal(got[len(got)-3:], want) {
			t.Errorf("got %v, want it to end with %v", got, want)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		n := n.in(t)
		w := n.wait(`{"user_id": "u-5", "source": "hook", "module_id": 1}`)
		n.order("5", token(w))
		d := n.deliveries()[len(n.deliveries())-1]
		n.tried(d, relay.Attempt{Class: relay.NoAnswer, Reason: "cut off", Next: relay.Unknown})
		got := told(n.timelineOf(id(w)))
		if want := []string{"attempt: cut off", "unknown: nobody knows whether it arrived: retry it or skip it"}; !slices.Equal(got[len(got)-2:], want) {
			t.Errorf("got %v, want it to end with %v", got, want)
		}
	})
	t.Run("skipped", func(t *testing.T) {
		n := n.in(t)
		w := n.wait(`{"user_id": "u-2", "flow": "checkout"}`)
		n.post("/v1/correlations/"+id(w)+"/cancel", "").want(http.StatusOK)
		d := n.deliveries()[len(n.deliveries())-1]
		n.tried(d, relay.Attempt{Class: relay.Retry, Reason: "refused", Next: relay.Scheduled, Delay: time.Hour})
		n.post("/v1/deliveries/"+d.ID.String()+"/skip", "").want(http.StatusOK)
		got := told(n.timelineOf(id(w)))
		if want := "resolved: cancelled: by hand"; !slices.Contains(got, want) {
			t.Errorf("got %v, want %q in it", got, want)
		}
		// What the last attempt came to is still told.
		if want := []string{"attempt: refused", "skipped: refused"}; !slices.Equal(got[len(got)-2:], want) {
			t.Errorf("got %v, want it to end with %v", got, want)
		}
	})
	t.Run("late, and the successor", func(t *testing.T) {
		n := n.in(t)
		w := n.wait(`{"user_id": "u-3", "source": "hook", "module_id": 1}`)
		n.post("/v1/correlations/"+id(w)+"/cancel", `{"silent": true}`).want(http.StatusOK)
		next := n.wait(`{"user_id": "u-3", "source": "hook", "module_id": 1}`)
		n.order("3", token(w))
		if got, want := told(n.timelineOf(id(w))), "completed_late: completed after the end"; !slices.Contains(got, want) {
			t.Errorf("got %v, want %q in it", got, want)
		}
		got := n.timelineOf(id(next))
		if diff := cmp.Diff([]string{"registered", "resolved: superseded: an older wait was paid late"}, told(got)); diff != "" {
			t.Fatalf("timeline of the successor (-want +got):\n%s", diff)
		}
		if got := got[1]["correlation_id"]; got != w["id"] {
			t.Errorf("got superseded through %v, want %v", got, w["id"])
		}
	})
	t.Run("named and ignored", func(t *testing.T) {
		n := n.in(t)
		w := n.wait(`{"user_id": "u-4", "source": "hook", "module_id": 1}`)
		n.hook("/in/default/hook", `{"id": "4", "type": "order.viewed", "data": {"reference": "`+token(w)+`"}}`).wantAccepted()
		want := []string{"registered", "received: order.viewed from hook", "verified", "ignored: " + relay.Why("type_ignored")}
		if diff := cmp.Diff(want, told(n.timelineOf(id(w)))); diff != "" {
			t.Errorf("timeline (-want +got):\n%s", diff)
		}
	})
}
