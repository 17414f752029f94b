package handlers_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
)

func TestSources(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	got := n.get("/v1/sources/stripe").want(http.StatusOK).object()
	events, _ := got["events"].([]any)
	setup, _ := got["setup"].([]any)
	secrets, _ := got["secrets"].([]any)
	if got["webhook_url"] != publicURL+"/in/default/stripe" || got["provider"] != "stripe" || got["awaiting_secret"] != false ||
		len(events) < 5 || len(setup) == 0 || len(secrets) != 1 || got["last_event_at"] != nil || got["last_error"] != nil {
		t.Errorf("got %v, want what to paste, what to tick and one secret", got)
	}
	for _, field := range []string{"id", "created_at", "expires_at", "last_used_at"} {
		if _, ok := secrets[0].(map[string]any)[field]; !ok {
			t.Errorf("got the secret %v, want its %s", secrets[0], field)
		}
	}
	// What proves that it is the provider is shown but for what is secret.
	n.secret("basic-password-of-the-tests")
	n.put("/v1/sources/basic", `{"provider": "generic-basic", "username": "shop", "password": "basic-password-of-the-tests"}`).want(http.StatusOK)
	if basic := n.put("/v1/sources/basic", `{"provider": "generic-basic"}`).want(http.StatusOK).object(); basic["username"] != "shop" || basic["awaiting_secret"] != false {
		t.Errorf("got the username %v, awaiting %v, want its credentials kept and the name shown", basic["username"], basic["awaiting_secret"])
	}
	if tolerance, there := got["tolerance"]; !there || tolerance != nil {
		t.Errorf("got the tolerance %v (there: %t), want null: the usual one", tolerance, there)
	}
	if own := n.put("/v1/sources/strict", `{"provider": "stripe", "secret": "`+hookSecret+`", "tolerance": "2m"}`).want(http.StatusOK).object(); own["tolerance"] != "2m" {
		t.Errorf("got the tolerance %v, want 2m", own["tolerance"])
	}
	if got := n.get("/v1/sources/stripe").object()["warnings"].([]any); len(got) != 0 {
		t.Errorf("got the warnings %v of a secret like Stripe's, want none", got)
	}
	n.secret("my-own-secret-of-the-tests")
	own := n.put("/v1/sources/own", `{"provider": "stripe", "secret": "my-own-secret-of-the-tests"}`).want(http.StatusOK).object()
	if got := own["warnings"].([]any); len(got) != 1 || !strings.Contains(got[0].(string), "whsec_") {
		t.Errorf("got the warnings %v, want one that says what to paste", got)
	}
	if form := n.get("/v1/sources/form").want(http.StatusOK).object(); form["webhook_url"] != nil {
		t.Errorf("got the webhook_url %v of the built-in source, want none", form["webhook_url"])
	}
	// What it hears is told, within a second or two.
	n.hook("/in/default/hook", `{"id": "1", "type": "paid"}`).wantAccepted()
	n.send(http.MethodPost, "/in/default/hook", strings.NewReader("{}")).want(http.StatusUnauthorized)
	eventually(t, "last_event_at, last_error and last_used_at are shown", func() bool {
		hook := n.get("/v1/sources/hook").object()
		secret := hook["secrets"].([]any)[0].(map[string]any)
		return hook["last_event_at"] != nil && hook["last_error"] != nil && hook["last_error_at"] != nil && secret["last_used_at"] != nil
	})
	for _, c := range []struct {
		name, path, body string
		status           int
		code, word       string
	}{
		{"a name that is none", "/v1/sources/A%20B", `{"provider": "stripe"}`, 422, "invalid_name", "name"},
		{"NUL in the name", "/v1/sources/%00", `{"provider": "stripe"}`, 422, "invalid_name", "name"},
		{"another name than the path's", "/v1/sources/x", `{"name": "y", "provider": "stripe"}`, 422, "name_differs", "x"},
		{"no provider", "/v1/sources/x", `{}`, 422, "provider_required", "provider"},
		{"an unknown provider", "/v1/sources/x", `{"provider": "strip"}`, 422, "unknown_provider", `did you mean "stripe"?`},
		{"an unknown field", "/v1/sources/x", `{"provider": "stripe", "secrt": "x"}`, 422, "unknown_field", `secrt: a source has no such field: remove it, or correct its name: did you mean "secret"?`},
		{"a key twice", "/v1/sources/x", `{"provider": "stripe", "provider": "github"}`, 400, "duplicate_key", "provider"},
		{"a secret of a wrong type", "/v1/sources/x", `{"provider": "stripe", "secret": 5}`, 422, "wrong_type", "secret"},
		{"a tolerance that is none", "/v1/sources/x", `{"provider": "stripe", "tolerance": "25h"}`, 422, "invalid_duration", "tolerance"},
		{"a public_url that is none", "/v1/sources/x", `{"provider": "stripe", "public_url": "x"}`, 422, "invalid_link", "public_url"},
		{"a secret where nothing signs", "/v1/sources/x", `{"provider": "html-form", "secret": "x"}`, 422, "secret_unused", "secret"},
		{"a secret where the provider's key is its own", "/v1/sources/x", `{"provider": "paypal", "secret": "WH-1"}`, 422, "secret_unused", "webhook_ids"},
		{"webhook_ids where a secret signs", "/v1/sources/x", `{"provider": "stripe", "webhook_ids": ["WH-1"]}`, 422, "invalid_webhook_ids", "webhook_ids"},
		{"webhook_ids that are none", "/v1/sources/x", `{"provider": "paypal", "webhook_ids": ["WH-1", ""]}`, 422, "invalid_webhook_ids", "webhook_ids"},
		{"webhook_ids of a wrong type", "/v1/sources/x", `{"provider": "paypal", "webhook_ids": "WH-1"}`, 422, "wrong_type", "webhook_ids"},
		{"the built-in source", "/v1/sources/form", `{"provider": "html-form"}`, 409, "built_in", "form"},
		{"a list", "/v1/sources/x", `[]`, 422, "wrong_type", "object"},
		{"null", "/v1/sources/x", `null`, 422, "wrong_type", "object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.in(t).put(c.path, c.body).refused(c.status, c.code, c.word)
		})
	}
	n.remove("/v1/sources/form").refused(http.StatusConflict, "built_in")
	n.get("/v1/sources/x").refused(http.StatusNotFound, "not_found")
	if lines := n.log.Lines(`"level":"ERROR"`); len(lines) != 0 {
		t.Errorf("got logged: %v, want no errors", lines)
	}
}

// While a secret is changed at the provider both are accepted; afterwards the
// old one is not.
func TestSecretRotation(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const newer, newest = "newer-secret-of-the-tests", "newest-secret-of-the-tests"
	n.secret(newer)
	n.secret(newest)
	events := 0
	signed := func(secret string, status int) {
		t.Helper()
		events++
		body := `{"id": "` + strings.Repeat("e", events) + `", "type": "paid"}`
		n.hook("/in/default/hook", body, header("X-Signature", sign(secret, body))).want(status)
	}
	secrets := func() (ids []string) {
		for _, s := range n.get("/v1/sources/hook").object()["secrets"].([]any) {
			ids = append(ids, s.(map[string]any)["id"].(string))
		}
		return ids
	}
	for _, c := range []struct{ body, code, word string }{
		{`{"secret": ""}`, "invalid_secret", "secret: that is no secret of"},
		{`{}`, "invalid_secret", "secret"},
		{`{"secret": "x", "expire_others_in": "-1s"}`, "invalid_duration", "expire_others_in"},
		{`{"secret": "x", "expire_others_in": "soon"}`, "", "expire_others_in"},
		{`{"secret": "x", "expires_in": "1h"}`, "unknown_field", "expires_in"},
	} {
		a := n.post("/v1/sources/hook/secrets", c.body)
		code := c.code
		if code == "" {
			code = a.object()["code"].(string)
		}
		a.refused(http.StatusUnprocessableEntity, code, c.word)
	}
	n.post("/v1/sources/nothing/secrets", `{"secret": "x"}`).refused(http.StatusNotFound, "not_found")

	made := n.post("/v1/sources/hook/secrets", `{"secret": "`+newer+`", "expire_others_in": "24h"}`).want(http.StatusCreated).object()
	if made["id"] == nil || made["secret"] != nil || made["expires_at"] != nil {
		t.Errorf("got %v, want its id and no end", made)
	}
	signed(hookSecret, http.StatusOK)
	signed(newer, http.StatusOK)
	listed := n.get("/v1/sources/hook").object()["secrets"].([]any)
	if first, second := listed[0].(map[string]any), listed[1].(map[string]any); first["id"] != made["id"] || second["expires_at"] == nil {
		t.Errorf("got %v, want the new one first and an end for the old one", listed)
	}

	n.post("/v1/sources/hook/secrets", `{"secret": "`+newest+`", "expire_others_in": "0s"}`).want(http.StatusCreated)
	signed(newest, http.StatusOK)
	signed(newer, http.StatusUnauthorized)
	signed(hookSecret, http.StatusUnauthorized)

	// PUT without a secret keeps it, with one replaces it.
	n.put("/v1/sources/hook", `{"provider": "generic-hmac", "tolerance": "10m"}`).want(http.StatusOK)
	signed(newest, http.StatusOK)
	n.put("/v1/sources/hook", `{"provider": "generic-hmac", "secrets": ["`+newer+`", "`+newest+`"]}`).want(http.StatusOK)
	signed(newer, http.StatusOK)
	signed(newest, http.StatusOK)

	n.remove("/v1/sources/hook/secrets/"+made["id"].(string)).refused(http.StatusNotFound, "not_found") // it has ended
	for _, id := range secrets() {
		n.remove("/v1/sources/stripe/secrets/"+id).refused(http.StatusNotFound, "not_found") // of another source
		n.remove("/v1/sources/hook/secrets/" + id).want(http.StatusNoContent)
	}
	body := `{"id": "last", "type": "paid"}`
	n.hook("/in/default/hook", body, header("X-Signature", sign(newest, body))).refused(http.StatusUnauthorized, "awaiting_secret")
	n.hook("/in/default/hook", body, header("X-Signature", sign("", body))).refused(http.StatusUnauthorized, "awaiting_secret")
}

func TestDestinations(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	want := map[string]any{
		"name": "bot", "platform": "certainly", "base_url": "https://bot.test", "max_concurrency": 64.0, "rate": nil,
		"timeout": "10s", "on_unknown": "retry", "secrets_set": []any{"token"}, "held": nil,
	}
	got := n.get("/v1/destinations/bot").want(http.StatusOK).object()
	delete(got, "created_at")
	delete(got, "updated_at")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the answer differs (-want +got):\n%s", diff)
	}
	// Without its token a PUT keeps it; without one that was never there it fails.
	want["rate"], want["timeout"], want["max_concurrency"] = "50/s", "5s", 3.0
	got = n.put("/v1/destinations/bot", `{"platform": "certainly", "base_url": "https://bot.test", "rate": "50/s", "timeout": "5s", "max_concurrency": 3}`).want(http.StatusOK).object()
	delete(got, "created_at")
	delete(got, "updated_at")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after a PUT without the token (-want +got):\n%s", diff)
	}
	if token := n.directory.Current().Project("default").Destination("bot").Account().Settings["token"]; token != botToken {
		t.Errorf("got another token than before after a PUT without it")
	}
	for _, c := range []struct{ name, body, code, word string }{
		{"an unknown platform", `{"platform": "certain"}`, "unknown_platform", "certainly"},
		{"no token", `{"platform": "certainly"}`, "setting_required", "token"},
		{"a token of a wrong type", `{"platform": "certainly", "token": 5}`, "wrong_type", "token"},
		{"a field of another platform", `{"platform": "certainly", "token": "x", "client_id": "y"}`, "unknown_field", "client_id"},
		{"a metadata address", `{"platform": "certainly", "token": "x", "base_url": "http://169.254.169.254"}`, "address_refused", "base_url"},
		{"a file", `{"platform": "certainly", "token": "x", "base_url": "file:///etc"}`, "address_refused", "base_url"},
		{"a rate that is none", `{"platform": "certainly", "token": "x", "rate": "fast"}`, "invalid_rate", "50/s"},
		{"too long a timeout", `{"platform": "certainly", "token": "x", "timeout": "1h"}`, "invalid_timeout", "timeout"},
		{"too much at once", `{"platform": "certainly", "token": "x", "max_concurrency": 5000}`, "invalid_max_concurrency", "1024"},
		{"an unknown policy", `{"platform": "certainly", "token": "x", "on_unknown": "drop"}`, "invalid_on_unknown", "hold"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.in(t).put("/v1/destinations/x", c.body).refused(http.StatusUnprocessableEntity, c.code, c.word)
		})
	}
}

// A destination that is held says so. It is released by hand, as often as one
// likes, or by other credentials; not by another field.
func TestHeldDestination(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	hold := func() {
		t.Helper()
		to := n.directory.Current().Project(relay.DefaultProject).Destination("bot")
		if held, err := n.directory.Hold(t.Context(), to, "bad_credentials"); !held || err != nil {
			t.Fatalf("holding: got %t, %v", held, err)
		}
	}
	held := func() map[string]any {
		t.Helper()
		hold, _ := n.get("/v1/destinations/bot").want(http.StatusOK).object()["held"].(map[string]any)
		return hold
	}
	put := func(fields string) {
		t.Helper()
		n.put("/v1/destinations/bot", `{"platform": "certainly", "base_url": "https://bot.test"`+fields+`}`).want(http.StatusOK)
	}
	hold()
	if got := held(); got["reason"] != "bad_credentials" || got["since"] == nil {
		t.Errorf("got held %v, want since when and why", got)
	}
	if put(`, "rate": "5/s"`); held() == nil {
		t.Error("another rate released the destination")
	}
	if put(`, "token": "` + botToken + `"`); held() == nil {
		t.Error("the same token released the destination")
	}
	if put(`, "token": "` + botToken + `-2"`); held() != nil {
		t.Error("another token did not release the destination")
	}
	n.send(http.MethodPost, "/v1/destinations/bot/resume", nil, header("Authorization", "Bearer "+n.keys[relay.ScopeCreate])).want(http.StatusForbidden)
	n.post("/v1/destinations/nothing/resume", "").refused(http.StatusNotFound, "not_found")
	hold()
	for range 2 {
		got := n.post("/v1/destinations/bot/resume", "").want(http.StatusOK).object()
		if diff := cmp.Diff(map[string]any{"name": "bot", "released": 0.0}, got); diff != "" || held() != nil {
			t.Errorf("resumed (-want +got):\n%s", diff)
		}
	}
}

func TestFlows(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, c := range []struct {
		name, body string
		canFire    []any
		warnings   []any
	}{
		{
			"stripe with something expected", `{"destination": "bot", "source": "stripe", "expect": {"currency": "EUR"}, "module_id": 1}`,
			[]any{"completed", "failed", "cancelled", "expired", "attempt_failed", "processing", "mismatch", "refunded", "disputed", "paid_again"},
			[]any{"expired, cancelled, failed: no action", "mismatch: no action"},
		},
		{
			"a form", `{"destination": "bot", "source": "contact", "on": {"completed": {"module_id": 1}, "expired": {"module_id": 2}}}`,
			[]any{"completed", "cancelled", "expired", "paid_again"},
			[]any{"cancelled, failed: no action"},
		},
		{
			"nothing at all", `{"destination": "bot", "source": "contact"}`,
			[]any{"completed", "cancelled", "expired", "paid_again"},
			[]any{"completed, expired, cancelled, failed: no action"},
		},
		{
			"silence on purpose", `{"destination": "bot", "source": "contact", "on": {"default": {"action": "none"}}}`,
			[]any{"completed", "cancelled", "expired", "paid_again"},
			[]any{},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := n.in(t).put("/v1/flows/x", c.body).want(http.StatusOK).object()
			if diff := cmp.Diff(c.canFire, got["can_fire"]); diff != "" {
				t.Errorf("can_fire (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.warnings, got["warnings"]); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
	for _, c := range []struct{ name, body, code, word string }{
		{"an unknown field", `{"destnation": "bot"}`, "unknown_field", "flows"},
		{"an outcome that cannot come", `{"destination": "bot", "source": "contact", "on": {"processing": {"module_id": 1}}}`, "outcome_unreachable", "on.processing"},
		{"a name that Certainly refuses", `{"destination": "bot", "source": "hook", "on": {"completed": {"module_id": 1, "custom_vars": {"1a": 2}}}}`, "custom_vars_invalid", "on.completed"},
		{"such a name of the flow itself", `{"destination": "bot", "source": "hook", "module_id": 1, "custom_vars": {"a b": 2}}`, "custom_vars_invalid", "a b"},
		{"a broken expression", `{"destination": "bot", "source": "hook", "on": {"expired": {"text": "{{ payment.amount"}}}`, "expression_invalid", "on.expired: text"},
		{"a broken filter", `{"destination": "bot", "source": "hook", "module_id": 1, "when": "payment.method =! 'x'"}`, "expression_invalid", "when"},
		{"a broken expectation", `{"destination": "bot", "source": "hook", "module_id": 1, "expect": {"amount": "a lot"}}`, "invalid_expect", "expect.amount"},
		{"module_id twice", `{"destination": "bot", "source": "hook", "module_id": 1, "on": {"completed": {"module_id": 1}}}`, "module_id_twice", "module_id"},
		{"a field that the action has no use for", `{"destination": "bot", "source": "hook", "on": {"completed": {"module_id": 1, "text": "x"}}}`, "field_unusable", "on.completed"},
		{"an unknown action", `{"destination": "bot", "source": "hook", "on": {"completed": {"action": "call"}}}`, "action_unknown", "trigger_response"},
		{"two sources and one link", `{"destination": "bot", "source": ["hook", "stripe"], "link": "https://x.test", "module_id": 1}`, "ambiguous_link", "link"},
		{"a link of a source that is not its", `{"destination": "bot", "source": "stripe", "link": {"hook": "https://x.test"}, "module_id": 1}`, "unknown_source", "link.hook"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.in(t).put("/v1/flows/y", c.body).refused(http.StatusUnprocessableEntity, c.code, c.word)
		})
	}
	// What a flow needs cannot be taken from it.
	n.remove("/v1/sources/stripe").refused(http.StatusConflict, "in_use", "checkout")
	n.remove("/v1/destinations/bot").refused(http.StatusConflict, "in_use", "checkout")
	for _, name := range []string{"checkout", "x"} {
		n.remove("/v1/flows/" + name).want(http.StatusNoContent)
		n.get("/v1/flows/"+name).refused(http.StatusNotFound, "not_found")
		n.remove("/v1/flows/"+name).refused(http.StatusNotFound, "not_found")
	}
	n.remove("/v1/sources/stripe").want(http.StatusNoContent)
	n.remove("/v1/destinations/bot").want(http.StatusNoContent)
	n.hook("/in/default/stripe", `{}`).refused(http.StatusNotFound, "unknown_source")
}

// A change of the flow does not touch waits that exist.
func TestFlowChangesLeaveWaitsAlone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	n.put("/v1/flows/checkout", `{"destination": "bot", "source": "hook", "module_id": 5}`).want(http.StatusOK)
	got := n.get("/v1/correlations/" + w["id"].(string)).object()
	if got["module_id"] != w["module_id"] || got["url"] != w["url"] {
		t.Errorf("got module %v and url %v, want %v and %v as before", got["module_id"], got["url"], w["module_id"], w["url"])
	}
	a := n.send(http.MethodGet, strings.TrimPrefix(w["url"].(string), publicURL), nil).want(http.StatusFound)
	if got := a.Header.Get("Location"); !strings.HasPrefix(got, "https://buy.stripe.com/test_abc?") {
		t.Errorf("got the link %s, want that of its creation", got)
	}
}
