package handlers_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

const mendedSecret = "the-mended-secret-of-the-tests"

// replayAll works off all that is to be replayed.
func (n *node) replayAll() {
	n.t.Helper()
	for {
		done, err := n.intake.ReplayOnce(n.t.Context())
		must(n.t, err)
		if done == 0 {
			return
		}
	}
}

// eventBy returns the id of the only event that a filter names.
func (n *node) eventBy(query string) map[string]any {
	n.t.Helper()
	events := n.get("/v1/events?" + query).want(http.StatusOK).data()
	if len(events) != 1 {
		n.t.Fatalf("events with %s: got %v, want one", query, events)
	}
	return events[0]
}

// wantReplay checks the answer to a replay, and returns what there is of it.
func (a *answer) wantReplay(matched, skipped int, dry bool) (path string) {
	a.t.Helper()
	got := a.want(http.StatusAccepted).object()
	if got["matched"] != float64(matched) || got["skipped"] != float64(skipped) || got["dry_run"] != dry || (got["id"] == nil) != dry || got["limit"] != float64(10_000) {
		a.t.Errorf("%s: got %s, want %d matched and %d skipped", a.asked, a.Body, matched, skipped)
	}
	id, _ := got["id"].(string)
	return "/v1/events/replay/" + id
}

// A callback was refused because of a wrong secret. Once it is mended, a
// replay verifies it anew and it completes its wait: once.
func TestReplayOfRejectedAfterTheSecretWasMended(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.secret(mendedSecret)
	w := n.wait(`{"user_id": "u-1", "destination": "bot", "source": "hook", "module_id": 7}`)
	body := `{"id": "evt_1", "type": "payment.completed", "data": {"reference": "` + w["token"].(string) + `"}}`
	n.hook("/in/default/hook", body, header("X-Signature", sign(mendedSecret, body))).want(http.StatusUnauthorized)
	e := n.eventBy("verdict=rejected")
	path := "/v1/events/" + e["id"].(string) + "/replay"

	n.post(path, "").wantReplay(1, 0, false)
	n.replayAll()
	if e := n.eventBy("verdict=rejected"); e["match"] != "unmatched" || e["rule"] != "rejected" {
		t.Errorf("with the wrong secret still: got %v, want it as it was", e)
	}
	n.put("/v1/sources/hook", `{"provider": "generic-hmac", "secret": "`+mendedSecret+`"}`).want(http.StatusOK)
	n.post("/v1/events/replay", `{"verdict": "rejected", "dry_run": true}`).wantReplay(1, 0, true)
	n.replayAll()
	if got := n.count("replays"); got != 1 || len(n.deliveries()) != 0 {
		t.Errorf("after a dry run: %d replays and %d deliveries, want one and none", got, len(n.deliveries()))
	}
	n.post(path, "").wantReplay(1, 0, false)
	n.post("/v1/events/replay", `{"source": "hook"}`).wantReplay(1, 0, false)
	n.replayAll()
	if e := n.eventBy("source=hook"); e["verdict"] != "verified" || e["match"] != "matched" || e["rule"] != "closed" || e["reason"] != nil || e["correlation_id"] != w["id"] {
		t.Errorf("with the secret mended: got %v, want it verified and matched", e)
	}
	n.post(path, "").wantReplay(0, 0, false)
	n.replayAll()
	if got := n.count("deliveries"); got != 1 || len(n.deliveries()) != 1 {
		t.Errorf("%d deliveries are stored and %d were handed over, want one", got, len(n.deliveries()))
	}
	// It has taken its dedupe key: the provider's own repetition is known.
	n.hook("/in/default/hook", body, header("X-Signature", sign(mendedSecret, body))).wantAccepted()
	if e := n.eventBy("match=duplicate"); e["rule"] != "same_event" {
		t.Errorf("sent again: got %v, want a duplicate", e)
	}
	if got := n.count("replays WHERE done_at IS NULL"); got != 0 {
		t.Errorf("%d replays are not done, want none", got)
	}
}

// The provider sent it again meanwhile, and that one counted: the replayed one
// is its duplicate.
func TestReplayFindsItsKeyTaken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.secret(mendedSecret)
	w := n.wait(`{"user_id": "u-1", "destination": "bot", "source": "hook", "module_id": 7}`)
	body := `{"id": "evt_1", "type": "payment.completed", "data": {"reference": "` + w["token"].(string) + `"}}`
	signed := header("X-Signature", sign(mendedSecret, body))
	n.hook("/in/default/hook", body, signed).want(http.StatusUnauthorized)
	n.put("/v1/sources/hook", `{"provider": "generic-hmac", "secret": "`+mendedSecret+`"}`).want(http.StatusOK)
	n.hook("/in/default/hook", body, signed).wantAccepted()
	n.post("/v1/events/replay", `{"verdict": "rejected"}`).wantReplay(1, 0, false)
	n.replayAll()
	if e := n.eventBy("match=duplicate"); e["rule"] != "same_event" || e["verdict"] != "verified" {
		t.Errorf("got %v, want the replayed one to be a duplicate", e)
	}
	if got := n.count("deliveries"); got != 1 {
		t.Errorf("%d deliveries, want one", got)
	}
}

// A signature is as old as its callback: it is verified at the time of its
// receipt.
func TestReplayVerifiesAtTheTimeOfReceipt(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const other = "whsec_b3RoZXItc2VjcmV0LW9mLXRoZS10ZXN0cw"
	n.secret(other)
	body := `{"id": "evt_1", "type": "payment_intent.payment_failed", "data": {"object": {"object": "payment_intent", "id": "pi_1"}}}`
	came := time.Now().Add(-50 * time.Hour)
	at := strconv.FormatInt(came.Unix(), 10)
	n.send(http.MethodPost, "/in/default/stripe", strings.NewReader(body), header("Content-Type", "application/json"),
		header("Stripe-Signature", "t="+at+",v1="+sign(other, at+"."+body))).want(http.StatusUnauthorized)
	n.put("/v1/sources/stripe", `{"provider": "stripe", "secret": "`+other+`"}`).want(http.StatusOK)
	n.post("/v1/events/replay", `{"verdict": "rejected"}`).wantReplay(1, 0, false)
	n.replayAll()
	if e := n.eventBy("source=stripe"); e["verdict"] != "rejected" {
		t.Errorf("signed two days before it came: got %v, want it rejected still", e)
	}
	storetest.Exec(t, n.database, `UPDATE events SET received_at = $1`, came)
	n.post("/v1/events/replay", `{"verdict": "rejected"}`).wantReplay(1, 0, false)
	n.replayAll()
	if e := n.eventBy("source=stripe"); e["verdict"] != "verified" || e["match"] != "parked" {
		t.Errorf("signed when it came: got %v, want it verified, and parked since nobody waits yet", e)
	}
	if got := n.count("parked_refs"); got != 1 {
		t.Errorf("%d names are looked for, want the intent's", got)
	}
}

// The token of the path is kept with what did nothing, and read again.
func TestReplayReadsThePath(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token := relay.NewToken()
	n.send(http.MethodPost, "/in/default/contact/"+token+"?a=b", strings.NewReader("email=zoe%40example.org"),
		header("Content-Type", "application/x-www-form-urlencoded")).wantAccepted()
	w := n.wait(`{"user_id": "u-1", "destination": "bot", "source": "contact", "module_id": 7}`)
	storetest.Exec(t, n.database, `UPDATE correlations SET token = $1 WHERE id = $2::text::uuid`, token, w["id"])
	n.post("/v1/events/replay", `{"source": "contact"}`).wantReplay(1, 0, false)
	n.replayAll()
	if e := n.eventBy("source=contact"); e["match"] != "matched" || e["verdict"] != "unsigned" {
		t.Errorf("got %v, want the form matched by the token of its path", e)
	}
	if got := storetest.Query[string](t, n.database, `SELECT request->>'path' || ' ' || (request->>'query') FROM events`); got != token+" a=b" {
		t.Errorf("kept of the request: %q, want path and query", got)
	}
}

func TestReplayIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.send(http.MethodPost, "/in/default/hook", strings.NewReader("{}")).want(http.StatusUnauthorized)
	e := n.eventBy("verdict=rejected")
	path := "/v1/events/" + e["id"].(string) + "/replay"
	n.post("/v1/events/replay", `{}`).refused(http.StatusUnprocessableEntity, "filter_required")
	n.post("/v1/events/replay", `{"dry_run": true}`).refused(http.StatusUnprocessableEntity, "filter_required")
	n.post("/v1/events/replay", `{"match": "lost"}`).refused(http.StatusUnprocessableEntity, "invalid_match", "none of matched, parked, ")
	n.post("/v1/events/replay", `{"verdict": "guilty"}`).refused(http.StatusUnprocessableEntity, "invalid_verdict", "none of verified, ")
	n.post("/v1/events/replay", `{"source": "hok"}`).refused(http.StatusUnprocessableEntity, "unknown_source", "hok")
	n.post("/v1/events/replay", `{"source": "hok", "dry_run": true}`).refused(http.StatusUnprocessableEntity, "unknown_source", "hok")
	n.post("/v1/events/replay", `{"from": "today"}`).refused(http.StatusUnprocessableEntity, "invalid_time")
	n.post(path, `{"force": true}`).refused(http.StatusUnprocessableEntity, "unknown_field")
	n.post(path, "", bearer(n.keys[relay.ScopeRead])).refused(http.StatusForbidden, "scope_too_small")
	n.post("/v1/events/"+relay.NewID().String()+"/replay", "").refused(http.StatusNotFound, "not_found")
	n.put("/v1/projects/elsewhere", `{}`).want(http.StatusOK)
	n.post(path, "", inProject("elsewhere")).refused(http.StatusNotFound, "not_found")
	n.post("/v1/events/replay", `{"verdict": "rejected"}`, inProject("elsewhere")).wantReplay(0, 0, false)
	storetest.Exec(t, n.database, `UPDATE events SET body = NULL`)
	n.post(path, "").refused(http.StatusConflict, "event_blanked")
	n.post("/v1/events/replay", `{"verdict": "rejected"}`).wantReplay(0, 1, false)
	if got := n.count("replays WHERE done_at IS NULL"); got != 0 {
		t.Errorf("%d replays are to be worked off, want none", got)
	}
}

// A node dies in the middle of a replay: another goes on, and what the first
// one notes of a piece that was taken over counts for nothing.
func TestReplaySurvivesANode(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const events = 230 // more than two pieces
	for i := range events {
		body := `{"id": "evt_` + strconv.Itoa(i) + `", "type": "payment.failed", "data": {"reference": "order-1"}}`
		n.hook("/in/default/hook", body).wantAccepted()
	}
	storetest.Exec(t, n.database, `UPDATE events SET match = 'unmatched', rule = 'nobody_came', dedupe_key = NULL`)
	storetest.Exec(t, n.database, `DELETE FROM parked_refs`) // else the wait's registration finds them
	n.wait(`{"user_id": "u-1", "destination": "bot", "source": "hook", "key": "order-1", "on": {"default": {"module_id": 7}}}`)
	replay := n.post("/v1/events/replay", `{"source": "hook", "match": "unmatched"}`).wantReplay(events, 0, false)
	if got := n.get(replay).object(); got["remaining"] != float64(events) || got["done_at"] != nil {
		t.Errorf("before it began: got %v, want all of it remaining", got)
	}
	dead, ok, err := n.store.NextReplay(t.Context(), 100)
	if err != nil || !ok {
		t.Fatalf("taking a piece: got %v, %v", ok, err)
	}
	if _, again, err := n.store.NextReplay(t.Context(), 100); err != nil || again {
		t.Errorf("a piece that is worked on was given out again: %v, %v", again, err)
	}
	storetest.Exec(t, n.database, `UPDATE replays SET due_at = now()`) // its lease has ended
	n.replayAll()
	if _, err := n.store.EndReplayPiece(t.Context(), dead, 100); err != nil {
		t.Fatal(err)
	}
	if got := n.get(replay).object(); got["remaining"] != 0.0 || got["done_at"] == nil || got["changed"] != float64(events) {
		t.Errorf("at its end: got %v, want all of it changed", got)
	}
	if got := n.count("events WHERE match = 'unmatched'"); got != 0 {
		t.Errorf("%d events are unmatched still, want none", got)
	}
	if got := n.count("deliveries"); got != 1 {
		t.Errorf("%d deliveries, want one", got)
	}
}

// A parameter of the URL that is the secret itself is kept in no row, right or
// wrong; the others are.
func TestCredentialInTheQueryIsNotKept(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/keyed", `{"secret": "`+hookSecret+`", "provider": {"name": "keyed",
		"auth": {"alg": "token", "sig": {"from": "query:key"}}, "id": "{json:id}", "type": "{json:type}",
		"outcome": [{"type": "paid", "is": "completed"}], "correlation": ["query:ref"]}}`).want(http.StatusOK)
	for key, status := range map[string]int{hookSecret: http.StatusOK, "another-secret": http.StatusUnauthorized} {
		n.send(http.MethodPost, "/in/default/keyed?ref=order-1&key="+key, strings.NewReader(`{"id": "1", "type": "paid"}`),
			header("Content-Type", "application/json")).want(status)
	}
	if got := n.count("events WHERE request->>'query' = 'ref=order-1'"); got != 2 {
		t.Errorf("%d events have the query without its key, want 2", got)
	}
}
