package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
)

// refusal is Certainly's 400 with an error in words.
func refusal(words string) sandbox.Fault {
	return sandbox.Fault{Status: http.StatusBadRequest, Body: json.RawMessage(`{"message":null,"error":"` + words + `"}`)}
}

// TestCertainlyAnswers holds what the relay makes of each of Certainly's
// answers (contracts/outbound-platforms.md, A), and what it does then.
func TestCertainlyAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const once, always = 1, 0
	tests := []struct {
		name        string
		fault       sandbox.Fault
		times       int64
		destination string

		class, reason string
		httpStatus    int
		status        string // of the delivery, once it is at rest or waits
		resumed       int
	}{
		{name: "token", fault: sandbox.Fault{Answer: "credentials"}, times: always, destination: "locked", class: "credentials", reason: "bad_credentials", httpStatus: 400, status: "held"},
		{name: "unknown user", fault: sandbox.Fault{Answer: "unknown_user"}, times: always, class: "permanent", reason: "unknown_user", httpStatus: 400, status: "dead"},
		{name: "unknown module", fault: sandbox.Fault{Answer: "unknown_module"}, times: always, class: "permanent", reason: "unknown_module", httpStatus: 400, status: "dead"},
		{name: "invalid JSON", fault: refusal("Need a valid json containing user_id and module_id"), times: always, class: "permanent", reason: "bad_request", httpStatus: 400, status: "dead"},
		{name: "no user", fault: refusal("user_id is mandatory"), times: always, class: "permanent", reason: "bad_request", httpStatus: 400, status: "dead"},
		{name: "no module", fault: refusal("module_id is mandatory"), times: always, class: "permanent", reason: "bad_request", httpStatus: 400, status: "dead"},
		{name: "200 with a null message", fault: sandbox.Fault{Answer: "null_message"}, times: once, class: "retry", reason: "not_confirmed", httpStatus: 200, status: "delivered", resumed: 1},
		{name: "200 with an error", fault: sandbox.Fault{Answer: "error_array"}, times: once, class: "retry", reason: "not_confirmed", httpStatus: 200, status: "delivered", resumed: 1},
		{name: "429", fault: sandbox.Fault{Answer: "rate_limited", Headers: map[string]string{"Retry-After": "1"}}, times: once, class: "retry", reason: "rate_limited", httpStatus: 429, status: "delivered", resumed: 1},
		{name: "500", fault: sandbox.Fault{Answer: "server_error"}, times: once, class: "retry", reason: "platform_failed", httpStatus: 500, status: "delivered", resumed: 1},
		{name: "no answer in time", fault: sandbox.Fault{Answer: "hang"}, times: once, destination: "impatient", class: "unknown", reason: "timeout: no whole answer within 5s (timeout of destination impatient)", status: "delivered", resumed: 1},
		{name: "dropped connection", fault: sandbox.Fault{Answer: "drop"}, times: once, class: "unknown", reason: "reset", status: "delivered", resumed: 1},
		// The platform acted, and nobody could know: at least once means twice.
		{name: "reset after it acted", fault: sandbox.Fault{Answer: "reset"}, times: once, class: "unknown", reason: "reset", status: "delivered", resumed: 2},
		{name: "closed after it acted", fault: sandbox.Fault{Answer: "close_after_read"}, times: once, class: "unknown", reason: "reset", status: "delivered", resumed: 2},
	}
	users := map[string]string{}
	var switches sandbox.Switches
	for _, tt := range tests {
		users[tt.name] = "u-" + strings.ReplaceAll(tt.name, " ", "-")
		tt.fault.Match.UserID, tt.fault.Times = users[tt.name], tt.times
		switches.Faults = append(switches.Faults, tt.fault)
	}
	if err := w.box.SwitchCertainly(switches); err != nil {
		t.Fatal(err)
	}
	t.Run("classes", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				more := object{"user_id": users[tt.name]}
				if tt.destination != "" {
					more["destination"] = tt.destination
				}
				reg := w.register(t, "checkout", more)
				w.stripe(t, "checkout.session.completed", paid(reg))
				var d owed
				await(t, patience, "the delivery", func() bool {
					d = w.delivery(t, w.wait(t, reg.ID).Deliveries[0].ID)
					return d.Attempts > 0 && d.Status == tt.status
				})
				first := d.AttemptLog[0]
				if first.Class != tt.class || first.Reason != tt.reason && !strings.HasPrefix(first.Reason, tt.reason+": ") || first.HTTPStatus != tt.httpStatus {
					t.Errorf("first attempt: got %+v, want %s, %s, HTTP %d", first, tt.class, tt.reason, tt.httpStatus)
				}
				wantAttempts := 1
				if tt.status == "delivered" {
					wantAttempts = 2
				}
				if d.Attempts != wantAttempts || len(d.AttemptLog) != wantAttempts {
					t.Errorf("attempts: got %d with a log of %d, want %d", d.Attempts, len(d.AttemptLog), wantAttempts)
				}
				if c := w.conversation(reg); c.Resumed != tt.resumed {
					t.Errorf("resumed: got %d, want %d", c.Resumed, tt.resumed)
				}
				// Whatever the platform says, the payment is taken.
				wantStatus(t, w.wait(t, reg.ID), relay.StatusCompleted, "completed")
				if tt.status == "held" && d.NextAttemptAt != nil {
					t.Errorf("next attempt: got %v, want none while its destination is held", d.NextAttemptAt)
				}
			})
		}
	})

	// The reason mended, what came to rest is sent by hand.
	if err := w.box.SwitchCertainly(sandbox.Switches{}); err != nil {
		t.Fatal(err)
	}
	var dead struct {
		Data []owed `json:"data"`
	}
	w.call(t, http.MethodGet, "/v1/deliveries?status=dead", nil, &dead, http.StatusOK)
	if len(dead.Data) != 5 {
		t.Fatalf("dead deliveries: got %d, want 5", len(dead.Data))
	}
	w.call(t, http.MethodPost, "/v1/deliveries/"+dead.Data[0].ID+"/retry", nil, nil, http.StatusOK)
	var bulk struct {
		Matched int `json:"matched"`
	}
	for _, dryRun := range []bool{true, false} {
		w.call(t, http.MethodPost, "/v1/deliveries/retry", object{"status": "dead", "dry_run": dryRun}, &bulk, http.StatusAccepted)
		if bulk.Matched != 4 {
			t.Errorf("retried in bulk (dry run %t): got %d, want the 4 that are left", dryRun, bulk.Matched)
		}
	}
	for _, d := range dead.Data {
		await(t, patience, "the delivery sent by hand", func() bool { return w.delivery(t, d.ID).Status == "delivered" })
	}
	// What its destination held is sent once that is resumed.
	var held struct {
		Data []owed `json:"data"`
	}
	w.call(t, http.MethodGet, "/v1/deliveries?status=held", nil, &held, http.StatusOK)
	if len(held.Data) != 1 {
		t.Fatalf("held deliveries: got %d, want the one with bad credentials", len(held.Data))
	}
	var resumed struct {
		Released int `json:"released"`
	}
	w.call(t, http.MethodPost, "/v1/destinations/locked/resume", nil, &resumed, http.StatusOK)
	if resumed.Released != 1 {
		t.Errorf("resumed: got %d released, want 1", resumed.Released)
	}
	await(t, patience, "the delivery that was held", func() bool { return w.delivery(t, held.Data[0].ID).Status == "delivered" })
}

// TestEveryPlatform pauses a conversation at each stand-in, pays, and looks
// whether it has gone on: the destination made by the API, the callback
// genuine, the calls real.
func TestEveryPlatform(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := object{"text": "Paid {{ payment.amount_text }}"}
	for _, tt := range []struct {
		platform    string
		destination object
		action      object
		calls       int64 // that the stand-in received
		resumed     int
		said        string // by the last message
	}{
		{sandbox.Certainly, object{"base_url": w.boxURL + "/certainly", "token": certainlyToken}, object{"module_id": 7}, 1, 1, ""},
		{sandbox.Haptik, object{"base_url": w.boxURL + "/haptik", "token": certainlyToken, "client_id": "c", "business_id": 343}, text, 3, 1, "Paid 20.50"},
		{sandbox.Smartify, object{"base_url": w.boxURL + "/smartify", "project_id": sandbox.SmartifyProject, "on_unknown": "confirm"}, text, 3, 1, "Paid 20.50"},
		{sandbox.Userengage, object{"base_url": w.boxURL + "/userengage", "token": certainlyToken, "user": 12}, text, 1, 0, "Paid 20.50"},
		{sandbox.Webhook, object{"url": w.boxURL + "/webhook/bot"}, object{}, 1, 1, ""},
	} {
		t.Run(tt.platform, func(t *testing.T) {
			tt.destination["platform"] = tt.platform
			w.call(t, http.MethodPut, "/v1/destinations/at-"+tt.platform, tt.destination, nil, http.StatusOK)
			user := "47110" + strconv.Itoa(len(tt.platform))
			if tt.platform != sandbox.Haptik { // whose users are to be registered on the way
				w.box.Pause(tt.platform, user, "Please pay", "")
			}
			before := w.box.Counts().Calls
			reg := w.register(t, "checkout", object{
				"user_id": user, "destination": "at-" + tt.platform,
				"on": object{
					"completed": tt.action, "completed_late": tt.action, "attempt_failed": object{"action": "none"}, "processing": object{"action": "none"},
					"mismatch": object{"action": "none"}, "refunded": object{"action": "none"}, "default": object{"action": "none"},
				},
			})
			w.stripe(t, "checkout.session.completed", paid(reg))
			out := w.settled(t, reg.ID)
			if d := out.Deliveries; len(d) != 1 || d[0].Status != "delivered" || d[0].Attempts != 1 {
				t.Fatalf("got %+v, want it delivered at once", d)
			}
			c, _ := w.box.Conversation(tt.platform, user)
			if c.Resumed != tt.resumed || c.Waiting != (tt.platform == sandbox.Userengage) || c.Messages[len(c.Messages)-1].Text != tt.said {
				t.Errorf("got the conversation %+v, want it resumed %d times and told %q", c, tt.resumed, tt.said)
			}
			if got := w.box.Counts().Calls - before; got != tt.calls {
				t.Errorf("%d calls were made, want %d", got, tt.calls)
			}
		})
	}
}
