package handlers_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
)

// route is one row of the contract: who may use it.
type route struct {
	method, pattern string
	scopes          []relay.Scope
	body            string
}

var (
	mayCreate = []relay.Scope{relay.ScopeCreate, relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance}
	maySee    = []relay.Scope{relay.ScopeRead, relay.ScopeCreate, relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance}
	mayRead   = []relay.Scope{relay.ScopeRead, relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance}
	mayWrite  = []relay.Scope{relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance}
	mayAdmin  = []relay.Scope{relay.ScopeAdmin, relay.ScopeInstance}
	mayAll    = []relay.Scope{relay.ScopeInstance}
)

var routes = []route{
	{"POST", "/v1/correlations", mayCreate, `{"user_id": "u", "flow": "marker-flow"}`},
	{"GET", "/v1/correlations", maySee, ""},
	{"GET", "/v1/correlations/:id", maySee, ""},
	{"POST", "/v1/correlations/:id/cancel", mayWrite, `{}`},
	{"POST", "/v1/correlations/:id/resolve", mayWrite, `{"outcome": "failed"}`},
	{"GET", "/v1/events", mayRead, ""},
	{"GET", "/v1/events/:id", mayRead, ""},
	{"POST", "/v1/events/:id/replay", mayWrite, ""},
	{"POST", "/v1/events/replay", mayWrite, `{"source": "marker-source"}`},
	{"GET", "/v1/events/replay/:id", mayRead, ""},
	{"GET", "/v1/deliveries", mayRead, ""},
	{"GET", "/v1/deliveries/:id", mayRead, ""},
	{"POST", "/v1/deliveries/:id/retry", mayWrite, `{"force": true}`},
	{"POST", "/v1/deliveries/:id/skip", mayWrite, ""},
	{"POST", "/v1/deliveries/retry", mayWrite, `{}`},
	{"GET", "/v1/hooks", mayRead, ""},
	{"POST", "/v1/hooks/retry", mayWrite, `{}`},
	{"POST", "/api/:project/subscriptions", mayAdmin, `{"event": "*", "target": "https://marker.example/2"}`},
	{"GET", "/api/:project/subscriptions", mayRead, ""},
	{"GET", "/api/:project/subscriptions/:id", mayRead, ""},
	{"DELETE", "/api/:project/subscriptions/:id", mayAdmin, ""},
	{"DELETE", "/v1/users/:user_id", mayAdmin, ""},
	{"GET", "/v1/sources", mayRead, ""},
	{"GET", "/v1/sources/:name", mayRead, ""},
	{"PUT", "/v1/sources/:name", mayAdmin, `{"provider": "html-form"}`},
	{"POST", "/v1/sources/:name/secrets", mayAdmin, `{"secret": "another-secret-of-the-tests"}`},
	{"DELETE", "/v1/sources/:name/secrets/:id", mayAdmin, ""},
	{"GET", "/v1/destinations", mayRead, ""},
	{"GET", "/v1/destinations/:name", mayRead, ""},
	{"PUT", "/v1/destinations/:name", mayAdmin, `{"platform": "certainly", "token": "` + botToken + `"}`},
	{"POST", "/v1/destinations/:name/resume", mayWrite, ""},
	{"GET", "/v1/flows", mayRead, ""},
	{"GET", "/v1/flows/:name", mayRead, ""},
	{"PUT", "/v1/flows/:name", mayWrite, `{"destination": "bot", "source": "hook", "module_id": 1}`},
	{"POST", "/v1/flows/:name/preview", mayRead, `{"outcome": "completed", "user_id": "u"}`},
	{"DELETE", "/v1/flows/:name", mayWrite, ""},
	{"DELETE", "/v1/sources/:name", mayAdmin, ""},
	{"DELETE", "/v1/destinations/:name", mayAdmin, ""},
	{"GET", "/v1/api-keys", mayAdmin, ""},
	{"POST", "/v1/api-keys", mayAdmin, `{"name": "k", "scope": "read"}`},
	{"DELETE", "/v1/api-keys/:id", mayAdmin, ""},
	{"GET", "/v1/projects", mayAll, ""},
	{"GET", "/v1/projects/:name", mayAll, ""},
	{"PUT", "/v1/projects/:name", mayAll, `{}`},
	{"DELETE", "/v1/projects/:name", mayAll, ""},
}

// marked is a project full of objects whose names and values hold the word
// marker, so that it can be seen where it must not be.
type marked struct {
	*node
	ids map[string]string // of each collection
}

func newMarked(t *testing.T) *marked {
	m := &marked{newNode(t), map[string]string{}}
	m.put("/v1/destinations/marker-bot", `{"platform": "certainly", "token": "`+botToken+`"}`).want(http.StatusOK)
	m.put("/v1/sources/marker-source", `{"provider": "generic-hmac", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	m.put("/v1/flows/marker-flow", `{"destination": "marker-bot", "source": "marker-source", "module_id": 1}`).want(http.StatusOK)
	sub := m.post("/api/default/subscriptions", `{"event": "*", "target": "https://marker.example"}`).want(http.StatusOK).object()
	m.ids["subscriptions"] = sub["_id"].(string)
	w := m.wait(`{"user_id": "marker-user", "flow": "marker-flow", "key": "marker-key", "data": "marker"}`)
	m.hook("/in/default/marker-source", `{"id": "marker-event", "type": "paid", "token": "`+w["token"].(string)+`"}`).wantAccepted()
	m.attempted(m.deliveries()[0], relay.Permanent, relay.Dead) // so that it could be retried
	m.ids["correlations"] = w["id"].(string)
	m.ids["events"] = m.get("/v1/events").data()[0]["id"].(string)
	m.ids["deliveries"] = m.get("/v1/deliveries").data()[0]["id"].(string)
	key := m.post("/v1/api-keys", `{"name": "marker-key", "scope": "admin"}`).want(http.StatusCreated).object()
	m.ids["api-keys"] = key["id"].(string)
	secrets := m.get("/v1/sources/marker-source").object()["secrets"].([]any)
	m.ids["sources"] = secrets[0].(map[string]any)["id"].(string)
	return m
}

// path fills a pattern with the marked objects.
func (m *marked) path(pattern string) string {
	collection := strings.Split(pattern, "/")[2]
	name := "marker-" + strings.TrimSuffix(collection, "s")
	if collection == "destinations" {
		name = "marker-bot"
	}
	if collection == ":project" {
		collection = "subscriptions"
	}
	return strings.NewReplacer(":project", "default", ":id", m.ids[collection], ":name", name, ":user_id", "marker-user").Replace(pattern)
}

func TestEveryRouteIsInTheMatrix(t *testing.T) {
	t.Parallel()
	n := newNode(t, options{bare: true})
	var got, want []string
	for _, r := range n.handlers.Routes() {
		if strings.Contains(r, " /v1/") || strings.Contains(r, " /api/") {
			got = append(got, r)
		}
	}
	for _, r := range routes {
		want = append(want, r.method+" "+r.pattern)
	}
	for _, r := range got {
		if !slices.Contains(want, r) && !strings.HasPrefix(r, "echo_route_not_found") {
			t.Errorf("the route %s has no row in the matrix of scopes and projects", r)
		}
	}
	for _, r := range want {
		if !slices.Contains(got, r) {
			t.Errorf("the route %s of the contract is not served", r)
		}
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	m := newMarked(t)
	m.put("/v1/projects/marker-project", `{}`).want(http.StatusOK)
	for _, r := range routes {
		t.Run(r.method+" "+r.pattern, func(t *testing.T) {
			n := m.in(t)
			path := m.path(r.pattern)
			send := func(settings ...setting) *answer {
				return n.send(r.method, path, strings.NewReader(r.body), append(settings, header("Content-Type", "application/json"))...)
			}
			a := send().refused(http.StatusUnauthorized, "api_key_required", "Authorization")
			if got := a.Header.Get("WWW-Authenticate"); !strings.Contains(got, "Bearer") || !strings.Contains(got, "Basic") {
				t.Errorf("got WWW-Authenticate %q, want Bearer and Basic", got)
			}
			send(bearer("no-such-key-0123456789abcdef")).refused(http.StatusUnauthorized, "invalid_api_key")
			for _, scope := range maySee {
				a := send(bearer(n.keys[scope]))
				if slices.Contains(r.scopes, scope) {
					if a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden || a.Status >= 500 {
						t.Errorf("%s: got %d %s, want it allowed", scope, a.Status, a.Body)
					}
					continue
				}
				a.refused(http.StatusForbidden, "scope_too_small", string(scope))
			}
		})
	}
}

// A key of one project, and an instance key that acts for it, meet nothing of
// another: by no route, and not by guessing ids or names.
func TestProjectsAreIsolated(t *testing.T) {
	t.Parallel()
	m := newMarked(t)
	m.put("/v1/projects/shop-b", `{}`).want(http.StatusOK)
	before := m.count("correlations") + m.count("events") + m.count("deliveries")
	for who, settings := range map[string][]setting{
		"a key of the other project": {bearer(m.addKey("shop-b", relay.ScopeAdmin))},
		"an instance key":            {inProject("shop-b")},
	} {
		t.Run(who, func(t *testing.T) {
			for _, r := range routes {
				if slices.Contains([]string{"projects"}, strings.Split(r.pattern, "/")[2]) {
					continue // the projects themselves
				}
				if strings.HasPrefix(r.pattern, "/api/") {
					continue // the path names the project: TestSubscriptionsOfAProject
				}
				n := m.in(t)
				a := n.call(r.method, m.path(r.pattern), r.body, settings...)
				if a.Status < 300 && r.method != "PUT" && strings.Contains(string(a.Body), "marker") {
					t.Errorf("%s %s: got %s, want nothing of another project", r.method, r.pattern, a.Body)
				}
				switch {
				case r.method == "PUT": // makes one of its own, or lacks what it needs
					if a.Status != http.StatusOK && a.Status != http.StatusUnprocessableEntity {
						t.Errorf("%s %s: got %d %s, want its own or a refusal", r.method, r.pattern, a.Status, a.Body)
					}
					n.remove(m.path(r.pattern), settings...)
				case r.pattern == "/v1/users/:user_id":
					if got := a.want(http.StatusAccepted).object()["correlations"]; got != 0.0 {
						t.Errorf("got %v waits of another project erased", got)
					}
				case strings.Contains(r.pattern, ":"):
					a.refused(http.StatusNotFound, "not_found")
				case r.pattern == "/v1/correlations" && r.method == "POST":
					a.refused(http.StatusUnprocessableEntity, "unknown_flow")
				case r.method == "GET" && r.pattern != "/v1/sources" && r.pattern != "/v1/api-keys":
					if got := a.want(http.StatusOK).data(); len(got) != 0 {
						t.Errorf("%s: got %v, want an empty list", r.pattern, got)
					}
				case r.pattern == "/v1/events/replay":
					a.refused(http.StatusUnprocessableEntity, "unknown_source")
				case r.pattern == "/v1/deliveries/retry", r.pattern == "/v1/hooks/retry":
					if got := a.want(http.StatusAccepted).object()["matched"]; got != 0.0 {
						t.Errorf("%s: got %v of another project retried", r.pattern, got)
					}
				}
			}
		})
	}
	if got := m.count("correlations") + m.count("events") + m.count("deliveries"); got != before {
		t.Errorf("got %d rows, want %d as before", got, before)
	}
	for _, path := range []string{"/v1/sources/marker-source", "/v1/destinations/marker-bot", "/v1/flows/marker-flow"} {
		m.get(path).want(http.StatusOK)
	}
	// Filters by a value of the other project find nothing either.
	w := m.get("/v1/correlations/" + m.ids["correlations"]).object()
	for _, path := range []string{
		"/v1/events?token=" + w["token"].(string), "/v1/correlations?user_id=marker-user", "/v1/correlations?key=marker-key",
		"/v1/deliveries?correlation_id=" + m.ids["correlations"],
	} {
		if got := m.get(path, inProject("shop-b")).want(http.StatusOK).data(); len(got) != 0 {
			t.Errorf("%s: got %v, want an empty list", path, got)
		}
		if got := m.get(path).data(); len(got) != 1 {
			t.Errorf("%s: got %d in its own project, want 1", path, len(got))
		}
	}
	// A token that is sent to a source of another project does nothing.
	m.put("/v1/sources/hook", `{"provider": "generic-hmac", "secret": "`+hookSecret+`"}`, inProject("shop-b")).want(http.StatusOK)
	victim := m.wait(`{"user_id": "u-2", "flow": "marker-flow"}`)
	m.hook("/in/shop-b/hook", `{"id": "1", "type": "paid", "token": "`+victim["token"].(string)+`"}`).wantAccepted()
	if got := m.get("/v1/correlations/" + victim["id"].(string)).object()["status"]; got != "pending" {
		t.Errorf("got a wait %v by a source of another project, want pending", got)
	}
	events := m.get("/v1/events", inProject("shop-b")).data()
	if len(events) != 1 || events[0]["match"] != "other_project" || events[0]["correlation_id"] != nil {
		t.Errorf("got events %v, want one other_project without a correlation", events)
	}
}

// TestAnswersAreReadable holds that people read an answer as it was written,
// and that no browser takes it for a page.
func TestAnswersAreReadable(t *testing.T) {
	t.Parallel()
	a := newNode(t).send(http.MethodGet, "/v1/flows", nil).refused(http.StatusUnauthorized, "api_key_required")
	if want := "Bearer <api key>"; !strings.Contains(string(a.Body), want) {
		t.Errorf("got %s, want %s in it", a.Body, want)
	}
	if got := a.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("got X-Content-Type-Options %q, want nosniff", got)
	}
}

func TestWaysToAuthenticate(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	key := n.keys[relay.ScopeAdmin]
	basic := func(text string) setting {
		return header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(text)))
	}
	n.secret(base64.StdEncoding.EncodeToString([]byte("any:" + key)))
	for _, c := range []struct {
		name   string
		set    setting
		status int
	}{
		{"Bearer", bearer(key), 200},
		{"bearer in small letters", header("Authorization", "bearer "+key), 200},
		{"Basic with any user", basic("any:" + key), 200},
		{"Basic without a user", basic(":" + key), 200},
		{"Basic with the key as user", basic(key + ":"), 401},
		{"Basic that is no base64", header("Authorization", "Basic !"), 401},
		{"the key alone", header("Authorization", key), 401},
		{"another scheme", header("Authorization", "Digest "+key), 401},
		{"an empty key", bearer(""), 401},
		{"half a key", bearer(key[:len(key)/2]), 401},
		{"a key with a space", bearer(key + " x"), 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.in(t).send(http.MethodGet, "/v1/flows", nil, c.set).want(c.status)
		})
	}
}

func TestRelayProject(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/projects/shop-b", `{}`).want(http.StatusOK)
	n.configure("shop-b")
	n.wait(`{"user_id": "of-default", "flow": "checkout"}`)
	b := n.wait(`{"user_id": "of-b", "source": "contact", "module_id": 1}`, inProject("shop-b"))
	if got := b["callback_url"].(string); !strings.HasPrefix(got, publicURL+"/in/shop-b/contact/") {
		t.Errorf("got callback_url %s, want it in shop-b", got)
	}
	for project, want := range map[string]string{"": "of-default", "default": "of-default", "shop-b": "of-b"} {
		got := n.get("/v1/correlations", inProject(project)).data()
		if len(got) != 1 || got[0]["user_id"] != want {
			t.Errorf("Relay-Project %q: got %v, want the wait of %s", project, got, want)
		}
	}
	n.get("/v1/correlations", inProject("nobody")).refused(http.StatusNotFound, "unknown_project", "nobody")
	admin := bearer(n.keys[relay.ScopeAdmin])
	n.get("/v1/correlations", admin, inProject("shop-b")).refused(http.StatusForbidden, "other_project", "Relay-Project")
	n.get("/v1/correlations", admin, inProject("default")).want(http.StatusOK)
}

func TestProjects(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/projects/Shop B", `{}`).refused(http.StatusUnprocessableEntity, "invalid_name")
	n.put("/v1/projects/shop-b", `{"name": "shop-c"}`).refused(http.StatusUnprocessableEntity, "name_differs")
	n.put("/v1/projects/shop-b", `{"nam": "shop-b"}`).refused(http.StatusUnprocessableEntity, "unknown_field")
	n.put("/v1/projects/shop-b", ``).want(http.StatusOK)
	n.put("/v1/projects/shop-b", `{"retention": {"correlation": "29d"}}`).refused(http.StatusUnprocessableEntity, "invalid_duration", "retention", "30d")
	n.put("/v1/projects/shop-b", `{"retention": {"event_body": 30}}`).refused(http.StatusUnprocessableEntity, "invalid_duration", "retention.event_body")
	n.put("/v1/projects/shop-b", `{"retention": {"body": "30d"}}`).refused(http.StatusUnprocessableEntity, "unknown_field", "retention.body")
	n.put("/v1/projects/shop-b", `{"retention": {"event_body": "72h"}}`).want(http.StatusOK)
	kept := n.put("/v1/projects/shop-b", `{"name": "shop-b"}`).want(http.StatusOK).object()["retention"]
	if got := fmt.Sprint(kept); got != "map[attempt_body:14d correlation:400d event_body:3d]" {
		t.Errorf("got the retention %s, want what was given and the defaults", got)
	}
	if got := n.get("/v1/projects").data(); len(got) != 2 || got[0]["name"] != "default" || got[1]["name"] != "shop-b" {
		t.Errorf("got %v, want default and shop-b", got)
	}
	key := n.addKey("shop-b", relay.ScopeAdmin)
	n.configure("shop-b")
	w := n.wait(`{"user_id": "u", "flow": "checkout"}`, inProject("shop-b"))
	n.remove("/v1/projects/shop-b").refused(http.StatusConflict, "project_in_use")
	n.remove("/v1/projects/default").refused(http.StatusConflict, "project_in_use")
	n.remove("/v1/projects/nobody").refused(http.StatusNotFound, "not_found")
	n.post("/v1/correlations/"+w["id"].(string)+"/cancel", `{"silent": true}`, inProject("shop-b")).want(http.StatusOK)
	n.remove("/v1/projects/shop-b").want(http.StatusNoContent)
	n.get("/v1/projects/shop-b").refused(http.StatusNotFound, "not_found")
	n.get("/v1/flows", bearer(key)).refused(http.StatusUnauthorized, "invalid_api_key")
	n.hook("/in/shop-b/hook", `{}`).refused(http.StatusNotFound, "unknown_source")
	// Its name is free again, and nothing of it comes back.
	n.put("/v1/projects/shop-b", ``).want(http.StatusOK)
	if got := n.get("/v1/correlations", inProject("shop-b")).data(); len(got) != 0 {
		t.Errorf("got %v in the new project, want nothing of the old one", got)
	}
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, c := range []struct{ name, body, code, word string }{
		{"an unknown scope", `{"name": "k", "scope": "all"}`, "invalid_scope", "admin"},
		{"an instance key", `{"name": "k", "scope": "instance"}`, "invalid_scope", "admin"},
		{"no scope", `{"name": "k"}`, "invalid_scope", "scope"},
		{"NUL in its name", `{"name": "\u0000", "scope": "read"}`, "invalid_value", "name"},
		{"a key of the caller's", `{"name": "k", "scope": "read", "key": "mine"}`, "unknown_field", "key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.in(t).post("/v1/api-keys", c.body).refused(http.StatusUnprocessableEntity, c.code, c.word)
		})
	}
	for _, scope := range []string{"read", "create", "write", "admin"} {
		made := n.post("/v1/api-keys", `{"name": "pos", "scope": "`+scope+`"}`).want(http.StatusCreated).object()
		text := made["key"].(string)
		n.mu.Lock() // it is in the answer that makes it, and in none after
		n.answered = nil
		n.mu.Unlock()
		n.secret(text)
		n.get("/v1/correlations", bearer(text)).want(http.StatusOK) // at once
		listed := n.get("/v1/api-keys").data()
		i := slices.IndexFunc(listed, func(k map[string]any) bool { return k["id"] == made["id"] })
		if i < 0 || listed[i]["scope"] != scope || listed[i]["key"] != nil || !strings.HasPrefix(text, strings.TrimSuffix(listed[i]["hint"].(string), "…")) {
			t.Fatalf("got the list %v, want the key with its hint and without its text", listed)
		}
		if got := n.count("api_keys WHERE encode(hash, 'escape') LIKE '%" + text[:8] + "%' OR hint LIKE '%" + text + "%'"); got != 0 {
			t.Errorf("got the key in the database, want its hash alone")
		}
		n.remove("/v1/api-keys/" + made["id"].(string)).want(http.StatusNoContent)
		n.get("/v1/correlations", bearer(text)).refused(http.StatusUnauthorized, "invalid_api_key") // at once
		n.remove("/v1/api-keys/"+made["id"].(string)).refused(http.StatusNotFound, "not_found")
	}
}
