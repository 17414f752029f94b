package handlers_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

const subscriptionsPath = "/api/default/subscriptions"

// subscriptions lists the subscriptions of a project.
func (n *node) subscriptions(path string, settings ...setting) (list []map[string]any) {
	n.t.Helper()
	a := n.get(path, settings...).want(http.StatusOK)
	if err := json.Unmarshal(a.Body, &list); err != nil {
		n.t.Fatalf("%s: got %s, want a bare list: %v", path, a.Body, err)
	}
	return list
}

// The shapes are Tiledesk's.
func TestSubscriptions(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := n.post(subscriptionsPath, `{"event": "correlation.completed", "target": "https://hooks.example/in?key=1"}`).want(http.StatusOK)
	made := a.object()
	secret, signing := made["secret"].(string), made["signing_secret"].(string)
	if a.Header.Get("X-Hook-Secret") != secret || len(secret) < 26 || !strings.HasPrefix(signing, "whsec_") || len(signing) != 50 {
		t.Errorf("got the header %q and the body %s, want the secret in both, and a signing secret", a.Header.Get("X-Hook-Secret"), a.Body)
	}
	n.mu.Lock() // they are in the answer that makes it, and in none after
	n.answered = nil
	n.mu.Unlock()
	n.secret(secret)
	n.secret(signing)
	shown := map[string]any{
		"_id": made["_id"], "event": "correlation.completed", "target": "https://hooks.example/in?key=1", "id_project": "default",
		"createdAt": made["createdAt"], "updatedAt": made["createdAt"],
	}
	one := subscriptionsPath + "/" + made["_id"].(string)
	again := n.post(subscriptionsPath, `{"event": "correlation.completed", "target": "https://hooks.example/in?key=1"}`).want(http.StatusOK)
	for what, got := range map[string]map[string]any{
		"made again": again.object(), "alone": n.get(one).want(http.StatusOK).object(), "in the list": n.subscriptions(subscriptionsPath)[0],
	} {
		if diff := cmp.Diff(shown, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if again.Header.Get("X-Hook-Secret") != "" {
		t.Error("made again: got the header with its secret")
	}
	other := n.post(subscriptionsPath, `{"event": "*", "target": "https://hooks.example/in?key=1"}`).want(http.StatusOK).object()
	n.secret(other["signing_secret"].(string))
	n.mu.Lock()
	n.answered = nil
	n.mu.Unlock()
	if got := n.subscriptions(subscriptionsPath); len(got) != 2 || got[0]["_id"] != made["_id"] || got[1]["event"] != "*" {
		t.Errorf("got the list %v, want both, the oldest first", got)
	}
	if diff := cmp.Diff(shown, n.remove(one).want(http.StatusOK).object()); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	for _, gone := range []string{one, subscriptionsPath + "/no-id"} {
		if got := strings.TrimSpace(string(n.remove(gone).want(http.StatusOK).Body)); got != "null" {
			t.Errorf("%s, which is gone: got %s, want null", gone, got)
		}
		n.get(gone).refused(http.StatusNotFound, "not_found")
	}
	for _, place := range []string{"subscriptions.secret", "subscriptions.signing_secret"} {
		table, column, _ := strings.Cut(place, ".")
		if got := n.count(table + " WHERE position('whsec_'::bytea IN " + column + ") > 0"); got != 0 {
			t.Errorf("%s: got it open, want it sealed", place)
		}
	}
}

func TestSubscriptionsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for name, tt := range map[string]struct{ body, code, word string }{
		"an unknown event":    {`{"event": "message.create", "target": "https://a.example"}`, "unknown_event", "correlation.completed"},
		"no event":            {`{"target": "https://a.example"}`, "unknown_event", "form.submitted"},
		"no target":           {`{"event": "*"}`, "address_refused", "target"},
		"link-local":          {`{"event": "*", "target": "http://169.254.169.254/latest"}`, "address_refused", "target"},
		"another scheme":      {`{"event": "*", "target": "ftp://a.example"}`, "address_refused", "https"},
		"a user in the URL":   {`{"event": "*", "target": "https://u:p@a.example"}`, "address_refused", "target"},
		"a long one":          {`{"event": "*", "target": "https://a.example/` + strings.Repeat("a", 2000) + `"}`, "target_too_long", "2000"},
		"an unknown field":    {`{"event": "*", "target": "https://a.example", "secret": "mine"}`, "unknown_field", "secret"},
		"an address in octal": {`{"event": "*", "target": "https://0251.0376.0251.0376/"}`, "address_refused", "target"},
	} {
		t.Run(name, func(t *testing.T) {
			n.in(t).post(subscriptionsPath, tt.body).refused(http.StatusUnprocessableEntity, tt.code, tt.word)
		})
	}
	if got := n.subscriptions(subscriptionsPath); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// The path names the project, and a key reaches no other by it.
func TestSubscriptionsOfAProject(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/projects/shop-b", `{}`).want(http.StatusOK)
	made := n.post("/api/shop-b/subscriptions", `{"event": "*", "target": "https://b.example"}`).want(http.StatusOK).object()
	id := made["_id"].(string)
	if made["id_project"] != "shop-b" || len(n.subscriptions(subscriptionsPath)) != 0 {
		t.Errorf("got %v, want it in shop-b alone", made)
	}
	n.get(subscriptionsPath+"/"+id).refused(http.StatusNotFound, "not_found")
	if got := string(n.remove(subscriptionsPath + "/" + id).want(http.StatusOK).Body); strings.TrimSpace(got) != "null" {
		t.Errorf("deleting it in another project: got %s, want null", got)
	}
	admin := bearer(n.keys[relay.ScopeAdmin])
	n.get("/api/shop-b/subscriptions", admin).refused(http.StatusForbidden, "other_project", "the path")
	n.get("/api/shop-b/subscriptions/"+id, admin).refused(http.StatusForbidden, "other_project")
	n.get("/api/shop-b/subscriptions", inProject("default")).refused(http.StatusUnprocessableEntity, "name_differs", "shop-b")
	n.get("/api/nobody/subscriptions").refused(http.StatusNotFound, "unknown_project", "nobody")
	if got := n.subscriptions("/api/shop-b/subscriptions", bearer(n.addKey("shop-b", relay.ScopeRead))); len(got) != 1 || got[0]["_id"] != id {
		t.Errorf("got %v, want the one of shop-b, still there", got)
	}
	basic := func(r *http.Request) { r.SetBasicAuth("any", n.keys[relay.ScopeAdmin]) }
	if got := n.subscriptions(subscriptionsPath, basic); len(got) != 0 {
		t.Errorf("by Basic: got %v, want none", got)
	}
	n.remove("/v1/projects/shop-b").want(http.StatusNoContent)
	if got := n.count("subscriptions"); got != 0 {
		t.Errorf("got %d subscriptions of a deleted project, want none", got)
	}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	sub := n.post(subscriptionsPath, `{"event": "correlation.created", "target": "https://hooks.example"}`).want(http.StatusOK).object()
	n.post(subscriptionsPath, `{"event": "correlation.cancelled", "target": "https://hooks.example"}`).want(http.StatusOK)
	n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	w := n.wait(`{"user_id": "u-2", "flow": "checkout"}`)
	n.post("/v1/correlations/"+w["id"].(string)+"/cancel", `{}`).want(http.StatusOK)
	all := n.get("/v1/hooks").want(http.StatusOK).data()
	if len(all) != 3 || all[0]["event"] != "correlation.cancelled" || all[0]["correlation_id"] != w["id"] || all[0]["status"] != "scheduled" || all[0]["sequence"] != nil {
		t.Fatalf("got the list %v, want three that are owed, the newest first", all)
	}
	storetest.Exec(t, n.database, `
		UPDATE hooks SET died_at = now(), attempts = 3, class = 'retry', http_status = 500, reason = 'platform_failed' WHERE correlation_id = $1`, w["id"])
	dead := n.get("/v1/hooks?status=dead&subscription_id=" + sub["_id"].(string)).want(http.StatusOK).data()
	if len(dead) != 1 || dead[0]["status"] != "dead" || dead[0]["attempts"] != 3.0 || dead[0]["last_http_status"] != 500.0 ||
		dead[0]["last_reason"] != "platform_failed" || dead[0]["died_at"] == nil {
		t.Errorf("got the dead %v, want the one of the subscription", dead)
	}
	page := n.get("/v1/hooks?limit=2").object()
	if rest := n.get("/v1/hooks?limit=2&cursor=" + page["next_cursor"].(string)).data(); len(rest) != 1 || rest[0]["id"] != all[2]["id"] {
		t.Errorf("got the second page %v, want the oldest", rest)
	}
	retry := func(body string) float64 {
		return n.post("/v1/hooks/retry", body).want(http.StatusAccepted).object()["matched"].(float64)
	}
	if dry, one, rest, none := retry(`{"dry_run": true}`), retry(`{"subscription_id": "`+sub["_id"].(string)+`"}`), retry(`{}`), retry(`{}`); dry != 2 || one != 1 || rest != 1 || none != 0 {
		t.Errorf("retried: got %v counted, then %v, %v and %v, want 2, 1, 1 and none", dry, one, rest, none)
	}
	for path, code := range map[string]string{
		"/v1/hooks?status=held": "invalid_status", "/v1/hooks?subscription_id=x": "invalid_subscription_id", "/v1/hooks?event=x": "unknown_parameter",
	} {
		n.get(path).refused(http.StatusUnprocessableEntity, code)
	}
	n.post("/v1/hooks/retry", `{"subscription_id": "x"}`).refused(http.StatusUnprocessableEntity, "invalid_subscription_id")
	n.remove(subscriptionsPath + "/" + sub["_id"].(string)).want(http.StatusOK)
	if left := n.get("/v1/hooks").data(); len(left) != 1 || left[0]["event"] != "correlation.cancelled" {
		t.Errorf("after its subscription was deleted: got %v, want its hooks gone", left)
	}
}
