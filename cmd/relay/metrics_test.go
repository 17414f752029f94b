package main

import (
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store/storetest"
)

// metricsPage is what a node's operations listener tells.
type metricsPage struct {
	text   string
	values map[string]float64 // by name and labels, as they stand there
}

func (n *testNode) metrics(t *testing.T) metricsPage {
	t.Helper()
	resp, text := exchange(t, http.MethodGet, n.ops+"/metrics", nil, "")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: got %d, want 200: %s", resp.StatusCode, text)
	}
	page := metricsPage{text: text, values: map[string]float64{}}
	for line := range strings.Lines(text) {
		if at := strings.LastIndex(line, " "); at > 0 && !strings.HasPrefix(line, "#") {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
			if err != nil {
				t.Fatalf("/metrics: %v in %q", err, line)
			}
			page.values[line[:at]] = v
		}
	}
	return page
}

// TestMetrics plays payments, a form, a forgery and a platform that refuses,
// and holds every metric of the relay by its value.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broken := sandbox.Fault{Answer: "unknown_user", Match: sandbox.Match{UserID: "u-broken"}}
	locked := sandbox.Fault{Answer: "credentials", Match: sandbox.Match{UserID: "u-locked"}}
	if err := w.box.SwitchCertainly(sandbox.Switches{Faults: []sandbox.Fault{broken, locked}}); err != nil {
		t.Fatal(err)
	}
	// Two payments that resume, each told twice.
	for range 2 {
		reg := w.register(t, "checkout", nil)
		event := paid(reg)
		w.stripe(t, "checkout.session.completed", event)
		wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
		w.stripe(t, "checkout.session.completed", event)
	}
	// A form; two payments whose conversation the platform does not know, one
	// of them given up by hand; and a call for which the token is wrong.
	form := w.register(t, "contact", nil)
	exchange(t, http.MethodPost, form.CallbackURL, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, "email=zoe%40example.org")
	w.settled(t, form.ID)
	lost, skipped := w.register(t, "checkout", object{"user_id": "u-broken"}), w.register(t, "guarded", object{"user_id": "u-broken"})
	for _, reg := range []wait{lost, skipped} {
		w.stripe(t, "checkout.session.completed", paid(reg))
		if status := w.settled(t, reg.ID).Deliveries[0].Status; status != "dead" {
			t.Fatalf("the delivery to an unknown user: got %s, want dead", status)
		}
	}
	w.call(t, http.MethodPost, "/v1/deliveries/"+w.wait(t, skipped.ID).Deliveries[0].ID+"/skip", nil, nil, http.StatusOK)
	refused := w.register(t, "checkout", object{"user_id": "u-locked"})
	w.call(t, http.MethodPost, "/v1/correlations/"+refused.ID+"/cancel", nil, nil, http.StatusOK)
	await(t, patience, "the delivery held after bad credentials", func() bool { return w.wait(t, refused.ID).Deliveries[0].Status == "held" })
	// Strangers: a forgery, and a source that does not exist.
	body := sandbox.StripeEvent("checkout.session.completed", paid(lost))
	exchange(t, http.MethodPost, w.url+"/in/default/stripe", nil, string(body))
	exchange(t, http.MethodPost, w.url+"/in/default/invented-by-a-stranger", nil, "{}")
	exchange(t, http.MethodGet, w.url+"/invented-by-a-stranger", nil, "")
	// Work that nobody does: a deadline whose wait is gone, which the sweeper
	// passes over, and a call that was marked before it was sent, and whose
	// lock keeps the claims away.
	storetest.Exec(t, w.dbURL, `
		INSERT INTO deadlines (correlation_id, project_id, expires_at, scope)
		VALUES (gen_random_uuid(), 1, now() - interval '10 seconds', gen_random_uuid())`)
	storetest.Exec(t, w.dbURL, `
		INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, status, due_at, retry_for, give_up_at)
		SELECT project_id, gen_random_uuid(), gen_random_uuid(), destination_id, 'expired', 'default', 'sending',
		       now() + interval '1 hour', 60, now() + interval '1 hour'
		FROM deliveries LIMIT 1`)
	storetest.Hold(t, w.dbURL, `SELECT FROM deliveries WHERE status = 'sending' FOR KEY SHARE`)
	storetest.Exec(t, w.dbURL, `UPDATE deliveries SET due_at = now() - interval '1 hour' WHERE status = 'sending'`)
	await(t, patience, "the sources' last events", func() bool {
		return storetest.Query[int](t, w.dbURL, `SELECT count(*) FROM source_activity WHERE last_event_at IS NOT NULL`) == 2
	})

	// An attempt is recorded first and counted then. What the database owes is
	// missing where it could not be read, and is read anew 5 s later.
	var page metricsPage
	await(t, patience, "the deliveries counted", func() bool {
		page = w.metrics(t)
		_, read := page.values[`relay_paid_not_resumed`]
		return read && page.values[`relay_resume_seconds_count`] == 3 && page.values[`relay_deliveries_ended_total{status="dead"}`] == 2
	})
	for series, want := range map[string]float64{
		`relay_events_total{match="matched",project="default",source="stripe",verdict="verified"}`:   4,
		`relay_events_total{match="duplicate",project="default",source="stripe",verdict="verified"}`: 2,
		`relay_events_total{match="unmatched",project="default",source="stripe",verdict="rejected"}`: 1,
		`relay_events_total{match="matched",project="default",source="contact",verdict="unsigned"}`:  1,
		`relay_ack_seconds_count`:                                            7,
		`relay_resume_seconds_count`:                                         3,
		`relay_delivery_attempts_total{class="ok"}`:                          3,
		`relay_delivery_attempts_total{class="permanent"}`:                   2,
		`relay_delivery_attempts_total{class="credentials"}`:                 1,
		`relay_deliveries_ended_total{status="delivered"}`:                   3,
		`relay_deliveries_ended_total{status="dead"}`:                        2,
		`relay_deliveries_ended_total{status="skipped"}`:                     1,
		`relay_deliveries{status="scheduled"}`:                               0,
		`relay_deliveries{status="sending"}`:                                 1,
		`relay_deliveries{status="unknown"}`:                                 0,
		`relay_deliveries{status="held"}`:                                    1,
		`relay_deliveries{status="dead"}`:                                    1,
		`relay_paid_not_resumed`:                                             1,
		`relay_destination_held{destination="bot",project="default"}`:        1,
		`relay_waits_overdue`:                                                1,
		`relay_batch_size_sum{of="callbacks"}`:                               8,
		`relay_batch_size_sum{of="registrations"}`:                           6,
		`relay_batch_size_sum{of="attempts"}`:                                6,
		`relay_intake_shed_total{of="callbacks"}`:                            0,
		`relay_http_requests_total{code="2xx",route="/in/:project/:source"}`: 6,
		`relay_http_requests_total{code="2xx",route="/v1/correlations"}`:     6,
		`relay_pool_connections{pool="hot",state="max"}`:                     hotConnections,
		`relay_pool_connections{pool="everyday",state="max"}`:                connections,
	} {
		if got, told := page.values[series]; got != want || !told {
			t.Errorf("%s: got %v (told: %t), want %v", series, got, told, want)
		}
	}
	if got := page.values["relay_delivery_oldest_due_seconds"]; got < 3600 || got > 3600+2*patience.Seconds() {
		t.Errorf("relay_delivery_oldest_due_seconds: got %v, want about an hour", got)
	}
	last := page.values[`relay_source_last_event_timestamp_seconds{project="default",source="stripe"}`]
	if ago := time.Since(time.Unix(int64(last), 0)); ago < 0 || ago > patience {
		t.Errorf("the last event of stripe: got %v (%s ago), want it just now", last, ago)
	}
	for _, name := range []string{"relay_scrape_errors_total", "relay_pool_waits_total", "relay_pool_wait_seconds_total", "relay_build_info", "go_goroutines", "process_cpu_seconds_total"} {
		if !strings.Contains(page.text, "\n"+name) {
			t.Errorf("/metrics does not tell %s", name)
		}
	}
	for _, secret := range append(w.secrets, apiKey, certainlyToken, stripeSecret, "stranger", "u-broken") {
		if strings.Contains(page.text, secret) {
			t.Errorf("/metrics tells %q", secret)
		}
	}
	documented, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (relay_\S+)`).FindAllStringSubmatch(page.text, -1) {
		if !strings.Contains(string(documented), "| `"+m[1]+"` |") {
			t.Errorf("docs/operating.md does not tell of %s", m[1])
		}
	}
	if resp, _ := exchange(t, http.MethodGet, w.url+"/metrics", nil, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("/metrics on the public listener: got %d, want 404", resp.StatusCode)
	}
}
