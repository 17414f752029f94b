package handlers_test

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// The answer is what bot platforms map into their variables: its fields and
// their types are a contract.
func TestRegistrationAnswer(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, c := range []struct {
		name, body string
		want       map[string]any // besides id, token and times
		expires    time.Duration
	}{
		{
			"a flow", `{"user_id": "u-829", "flow": "checkout", "key": "order-1042", "custom_vars": {"plan": "pro"}}`,
			map[string]any{
				"status": "pending", "url": publicURL + "/go/TOKEN", "callback_url": nil, "flow": "checkout", "user_id": "u-829",
				"key": "order-1042", "module_id": 1068935.0, "warnings": []any{},
			},
			45 * time.Minute,
		},
		{
			"fields of its own", `{"user_id": "u-829", "module_id": 1068935, "source": "stripe", "link": "https://buy.stripe.com/abc", "expires_in": "90s"}`,
			map[string]any{
				"status": "pending", "url": publicURL + "/go/TOKEN", "callback_url": nil, "flow": nil, "user_id": "u-829",
				"key": nil, "module_id": 1068935.0, "warnings": []any{"expired, cancelled, failed: no action"},
			},
			90 * time.Second,
		},
		{
			"a source that is known by its URL, a user that is a number", `{"user_id": 829, "key": 1042, "source": "contact", "on": {"expired": {"module_id": 7}}}`,
			map[string]any{
				"status": "pending", "url": nil, "callback_url": publicURL + "/in/default/contact/TOKEN", "flow": nil, "user_id": "829",
				"key": "1042", "module_id": nil, "warnings": []any{"completed, cancelled, failed: no action"},
			},
			24 * time.Hour,
		},
		{
			"a flow with one outcome changed and a default", `{"user_id": "u-1", "flow": "checkout", "on": {"completed": {"module_id": "{{ correlation.data.module }}"}}, "data": {"module": 12}, "expires_in": "3d"}`,
			map[string]any{
				"status": "pending", "url": publicURL + "/go/TOKEN", "callback_url": nil, "flow": "checkout", "user_id": "u-1",
				"key": nil, "module_id": "{{ correlation.data.module }}", "warnings": []any{},
			},
			72 * time.Hour,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			got := n.wait(c.body)
			token := got["token"].(string)
			if !regexp.MustCompile(`^[A-Za-z0-9]{22}$`).MatchString(token) {
				t.Errorf("got the token %q, want 22 letters and digits", token)
			}
			created, err := time.Parse(time.RFC3339, got["created_at"].(string))
			must(t, err)
			expires, err := time.Parse(time.RFC3339, got["expires_at"].(string))
			must(t, err)
			if expires.Sub(created) != c.expires || !strings.HasSuffix(got["expires_at"].(string), "Z") {
				t.Errorf("got expires_at %v, created_at %v, want %s between them, in UTC", got["expires_at"], got["created_at"], c.expires)
			}
			shown := n.get("/v1/correlations/" + got["id"].(string)).want(http.StatusOK).object()
			for name, value := range got {
				if diff := cmp.Diff(value, shown[name]); diff != "" {
					t.Errorf("%s: GET and POST differ (-POST +GET):\n%s", name, diff)
				}
			}
			for _, field := range []string{"id", "token", "created_at", "expires_at"} {
				delete(got, field)
			}
			for name, value := range c.want {
				if s, ok := value.(string); ok {
					c.want[name] = strings.ReplaceAll(s, "TOKEN", token)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("the answer differs (-want +got):\n%s", diff)
			}
		})
	}
}

// What keeps the callbacks of a wait from being of use is told when it is
// registered, and by the sources as they are by then.
func TestRegistrationWarnsOfItsSource(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/mollie", `{"provider": "mollie-classic"}`).want(http.StatusOK)
	warnings := func(w map[string]any) string {
		var all []string
		for _, warning := range w["warnings"].([]any) {
			all = append(all, warning.(string))
		}
		return strings.Join(all, "; ")
	}
	const on = `"on": {"default": {"module_id": 1}}`
	awaiting := n.wait(`{"user_id": "u-1", "source": "awaiting", ` + on + `}`)
	for _, c := range []struct{ name, got, want string }{
		{"no secret", warnings(awaiting), "awaiting: it has no secret yet"},
		{"no api_key", warnings(n.wait(`{"user_id": "u-2", "source": "mollie", ` + on + `}`)), "mollie: its callbacks decide nothing without an api_key"},
		{"no token", warnings(n.wait(`{"user_id": "u-3", "source": "hook", "link": "https://shop.test", ` + on + `}`)), "hook: its link carries no token"},
		{"a key instead", warnings(n.wait(`{"user_id": "u-4", "source": "hook", "link": "https://shop.test", "key": "order-1", ` + on + `}`)), ""},
	} {
		if !strings.HasPrefix(c.got, c.want) || c.want == "" && c.got != "" {
			t.Errorf("%s: got the warnings %q, want %q", c.name, c.got, c.want)
		}
	}
	n.put("/v1/sources/awaiting", `{"provider": "generic-hmac", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	if got := warnings(n.get("/v1/correlations/" + id(awaiting)).object()); got != "" {
		t.Errorf("once the source has its secret: got the warnings %q, want none", got)
	}
}

func TestRegistrationIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const bad, cannot = http.StatusBadRequest, http.StatusUnprocessableEntity
	for _, c := range []struct {
		name, body string
		status     int
		code       string
		words      string
	}{
		{"no JSON", `{"user_id`, bad, "malformed_json", ""},
		{"nothing", ``, bad, "malformed_json", ""},
		{"something after it", `{"user_id": "u"} {}`, bad, "trailing_data", ""},
		{"a key twice", `{"user_id": "u", "user_id": "v"}`, bad, "duplicate_key", "user_id"},
		{"a key twice, deep inside", `{"user_id": "u", "data": {"a": [{"b": 1, "b": 2}]}}`, bad, "duplicate_key", "data.a[0].b"},
		{"a key twice, in another case", `{"user_id": "u", "USER_ID": "v"}`, cannot, "unknown_field", "USER_ID"},
		{"nested too deep", `{"user_id": "u", "data": ` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, bad, "too_deep", "64"},
		{"invalid UTF-8 in data", "{\"user_id\": \"u\", \"source\": \"hook\", \"module_id\": 1, \"data\": \"\xff\"}", bad, "malformed_json", "UTF-8"},
		{"invalid UTF-8 in an id", "{\"user_id\": \"\xff\", \"source\": \"hook\", \"module_id\": 1}", bad, "malformed_json", "UTF-8"},
		{"a list", `[]`, cannot, "wrong_type", "object"},
		{"null", `null`, cannot, "", ""},
		{"an unknown field", `{"user_id": "u", "modul_id": 1}`, cannot, "unknown_field", `did you mean "module_id"?`},
		{"an unknown field of an action", `{"user_id": "u", "on": {"completed": {"modul_id": 1}}}`, cannot, "unknown_field", "modul_id"},
		{"a field of ours", `{"user_id": "u", "source": "hook", "on": {"completed": {"module_id": 1, "destination_id": 1}}}`, cannot, "unknown_field", "destination_id"},
		{"user_id of a wrong type", `{"user_id": true}`, cannot, "wrong_type", "user_id"},
		{"user_id of an object", `{"user_id": {}}`, cannot, "wrong_type", "user_id"},
		{"key of a wrong type", `{"user_id": "u", "key": [1]}`, cannot, "wrong_type", "key"},
		{"when of a wrong type", `{"user_id": "u", "when": 5}`, cannot, "wrong_type", "when"},
		{"source of a wrong type", `{"user_id": "u", "source": 5}`, cannot, "", "source"},
		{"link of a wrong type", `{"user_id": "u", "link": 5}`, cannot, "", "link"},
		{"on of a wrong type", `{"user_id": "u", "on": "completed"}`, cannot, "wrong_type", "on"},
		{"custom_vars of a wrong type", `{"user_id": "u", "custom_vars": [1]}`, cannot, "wrong_type", "custom_vars"},
		{"expires_in that is no duration", `{"user_id": "u", "expires_in": "soon"}`, cannot, "", "expires_in"},
		{"expires_in that is a number", `{"user_id": "u", "expires_in": 60}`, cannot, "", "expires_in"},
		{"no user", `{"flow": "checkout"}`, cannot, "user_id_required", "user_id"},
		{"null for a user", `{"user_id": null, "flow": "checkout"}`, cannot, "user_id_required", "user_id"},
		{"an empty user", `{"user_id": "", "flow": "checkout"}`, cannot, "user_id_required", "user_id"},
		{"a user with NUL", `{"user_id": "a\u0000", "flow": "checkout"}`, cannot, "invalid_value", "user_id"},
		{"a user of 256 bytes", `{"user_id": "` + strings.Repeat("u", 256) + `", "flow": "checkout"}`, cannot, "invalid_value", "user_id"},
		{"a key of 256 bytes", `{"user_id": "u", "flow": "checkout", "key": "` + strings.Repeat("k", 256) + `"}`, cannot, "invalid_value", "key"},
		{"an empty key", `{"user_id": "u", "flow": "checkout", "key": ""}`, cannot, "invalid_value", "key"},
		{"a conversation with NUL", `{"user_id": "u", "flow": "checkout", "conversation": "\u0000"}`, cannot, "invalid_value", "conversation"},
		{"data of 65 KiB", `{"user_id": "u", "flow": "checkout", "data": "` + strings.Repeat("d", 65<<10) + `"}`, cannot, "data_too_large", "data"},
		{"an unknown flow", `{"user_id": "u", "flow": "nothing"}`, cannot, "unknown_flow", "nothing"},
		{"a misspelt flow", `{"user_id": "u", "flow": "chekout"}`, cannot, "unknown_flow", `did you mean "checkout"?`},
		{"a misspelt source", `{"user_id": "u", "source": "hoook", "module_id": 1}`, cannot, "unknown_source", `did you mean "hook"?`},
		{"a misspelt destination", `{"user_id": "u", "source": "hook", "destination": "bots", "module_id": 1}`, cannot, "unknown_destination", `did you mean "bot"?`},
		{"a misspelt outcome", `{"user_id": "u", "source": "hook", "on": {"complete": {"module_id": 1}}}`, cannot, "unknown_outcome", `did you mean "completed"?`},
		{"an unknown source", `{"user_id": "u", "source": "nothing", "module_id": 1}`, cannot, "unknown_source", "nothing"},
		{"an unknown destination", `{"user_id": "u", "source": "hook", "destination": "nothing", "module_id": 1}`, cannot, "unknown_destination", "nothing"},
		{"no source where there are several", `{"user_id": "u", "module_id": 1}`, cannot, "source_required", "source"},
		{"module_id twice", `{"user_id": "u", "source": "hook", "module_id": 1, "on": {"completed": {"module_id": 2}}}`, cannot, "module_id_twice", "module_id"},
		{"module_id twice, one without a module", `{"user_id": "u", "source": "hook", "module_id": 1, "on": {"completed": {"text": "x"}}}`, cannot, "module_id_twice", "module_id"},
		{"a module_id that is none", `{"user_id": "u", "source": "hook", "module_id": -1}`, cannot, "module_id_invalid", "on.completed"},
		{"expires_in too short", `{"user_id": "u", "flow": "checkout", "expires_in": "999ms"}`, cannot, "invalid_duration", "expires_in"},
		{"expires_in negative", `{"user_id": "u", "flow": "checkout", "expires_in": "-1s"}`, cannot, "invalid_duration", "expires_in"},
		{"expires_in too long", `{"user_id": "u", "flow": "checkout", "expires_in": "721h"}`, cannot, "invalid_duration", "30d"},
		{"an unknown on_conflict", `{"user_id": "u", "flow": "checkout", "on_conflict": "replace"}`, cannot, "invalid_on_conflict", "on_conflict"},
		{"a name that Certainly refuses", `{"user_id": "u", "flow": "checkout", "custom_vars": {"a-b": 1}}`, cannot, "custom_vars_invalid", "a-b"},
		{"an expression that is none", `{"user_id": "u", "flow": "checkout", "custom_vars": {"a": "{{ payment. }}"}}`, cannot, "expression_invalid", "custom_vars: a"},
		{"an expression that names nothing", `{"user_id": "u", "source": "hook", "on": {"completed": {"module_id": 1, "custom_vars": {"a": "{{ paymnt.id }}"}}}}`, cannot, "expression_invalid", "on.completed: custom_vars: a"},
		{"an unknown outcome", `{"user_id": "u", "source": "hook", "on": {"paid": {"module_id": 1}}}`, cannot, "unknown_outcome", "on.paid"},
		{"an outcome that cannot come", `{"user_id": "u", "source": "contact", "on": {"refunded": {"module_id": 1}}}`, cannot, "outcome_unreachable", "on.refunded"},
		{"an expectation that nothing meets", `{"user_id": "u", "source": "contact", "module_id": 1, "expect": {"currency": "EUR"}}`, cannot, "expect_unreachable", "expect"},
		{"a mismatch with nothing expected", `{"user_id": "u", "source": "stripe", "on": {"mismatch": {"module_id": 1}}}`, cannot, "outcome_unreachable", "expect"},
		{"a link that is none", `{"user_id": "u", "source": "stripe", "module_id": 1, "link": "javascript:alert(1)"}`, cannot, "invalid_link", "link"},
		{"a return_url that is none", `{"user_id": "u", "source": "stripe", "module_id": 1, "return_url": "/chat"}`, cannot, "invalid_link", "return_url"},
		{"a return_url with a broken expression", `{"user_id": "u", "source": "stripe", "module_id": 1, "return_url": "https://x.test/{{ nothing. }}"}`, cannot, "expression_invalid", "return_url"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			a := n.post("/v1/correlations", c.body)
			code := c.code
			if code == "" { // any, as long as the place is named
				code, _ = a.object()["code"].(string)
			}
			a.refused(c.status, code, c.words)
			if strings.Contains(string(a.Body), "relay.") || strings.Contains(string(a.Body), "handlers.") {
				t.Errorf("got %s, want words of the contract and no Go types", a.Body)
			}
		})
	}
	n.post("/v1/correlations", `{"user_id": "u", "flow": "checkout"}`, header("Content-Type", "text/plain")).
		refused(http.StatusUnsupportedMediaType, "unsupported_media_type", "application/json")
	n.post("/v1/correlations", `{"user_id": "u", "flow": "checkout"}`, header("Idempotency-Key", strings.Repeat("i", 256))).
		refused(cannot, "invalid_value", "Idempotency-Key")
	if got := n.count("correlations"); got != 0 {
		t.Errorf("got %d waits, want none: all were refused", got)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const body = `{"user_id": "u-1", "flow": "checkout"}`
	with := header("Idempotency-Key", "k-1")
	first := n.wait(body, with)
	again := n.post("/v1/correlations", body, with).want(http.StatusOK).object()
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the same key and body give another answer (-first +again):\n%s", diff)
	}
	n.post("/v1/correlations", `{"user_id": "u-2", "flow": "checkout"}`, with).refused(http.StatusConflict, "idempotency_key_reused", "new key")
	n.put("/v1/projects/shop-b", `{}`).want(http.StatusOK)
	n.configure("shop-b")
	if other := n.wait(body, with, inProject("shop-b")); other["id"] == first["id"] {
		t.Errorf("got the wait of another project by its idempotency key")
	}
	// What the flow has become meanwhile is not what the wait will do.
	n.put("/v1/flows/checkout", `{"destination": "bot", "source": "stripe", "module_id": 5}`).want(http.StatusOK)
	again = n.post("/v1/correlations", body, with).want(http.StatusOK).object()
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("after a change of the flow (-first +again):\n%s", diff)
	}
	// A key that was refused is free.
	with = header("Idempotency-Key", "k-2")
	n.post("/v1/correlations", `{"user_id": "u-1", "flow": "checkout", "on_conflict": "reject"}`, with).refused(http.StatusConflict, "wait_pending")
	n.wait(`{"user_id": "u-3", "flow": "checkout", "on_conflict": "reject"}`, with)
}

// Twenty callers that repeat one request at the same time make one wait.
func TestIdempotencyKeyConcurrent(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const body = `{"user_id": "u-1", "flow": "checkout", "key": "order-1"}`
	ids, statuses := map[any]int{}, map[int]int{}
	var mu sync.Mutex
	var g sync.WaitGroup
	for range 20 {
		g.Go(func() {
			a, err := n.try(http.MethodPost, "/v1/correlations", strings.NewReader(body), bearer(n.keys[relay.ScopeCreate]),
				header("Content-Type", "application/json"), header("Idempotency-Key", "k"))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[a.object()["id"]]++
			statuses[a.Status]++
		})
	}
	g.Wait()
	if len(ids) != 1 || statuses[http.StatusCreated] != 1 || statuses[http.StatusOK] != 19 {
		t.Errorf("got ids %v and statuses %v, want one id, one 201 and nineteen 200", ids, statuses)
	}
	if got := n.count("correlations"); got != 1 {
		t.Errorf("got %d waits, want 1", got)
	}
}

func TestKeyInUse(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	register := func(user, source string) *answer {
		return n.post("/v1/correlations", fmt.Sprintf(`{"user_id": %q, "source": %s, "module_id": 1, "key": "order-1"}`, user, source))
	}
	first := register("u-1", `"hook"`).want(http.StatusCreated).object()
	register("u-2", `"hook"`).refused(http.StatusConflict, "key_in_use", "key")
	register("u-2", `["stripe", "hook"]`).refused(http.StatusConflict, "key_in_use", "key")
	register("u-2", `"stripe"`).want(http.StatusCreated) // each source has its own keys
	second := register("u-1", `"hook"`).want(http.StatusCreated).object()
	if got := n.get("/v1/correlations/" + first["id"].(string)).object()["status"]; got != "superseded" {
		t.Errorf("got the older wait %v, want superseded: its successor has its key", got)
	}
	register("u-2", `"hook"`).refused(http.StatusConflict, "key_in_use")
	n.post("/v1/correlations/"+second["id"].(string)+"/cancel", "").want(http.StatusOK)
	third := register("u-3", `"hook"`).want(http.StatusCreated).object()
	// And by a callback, which finds its wait by the key.
	n.hook("/in/default/hook", `{"id": "1", "type": "paid", "data": {"reference": "order-1"}}`).wantAccepted()
	if got := n.get("/v1/correlations/" + third["id"].(string)).object()["status"]; got != "completed" {
		t.Errorf("got %v, want completed by the key", got)
	}
	register("u-4", `"hook"`).want(http.StatusCreated)
}

func TestOnConflict(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	register := func(more string) *answer {
		return n.post("/v1/correlations", `{"user_id": "u-1", "flow": "checkout"`+more+`}`)
	}
	status := func(w map[string]any) any { return n.get("/v1/correlations/" + w["id"].(string)).object()["status"] }
	first := register("").want(http.StatusCreated).object()
	register(`, "on_conflict": "reject"`).refused(http.StatusConflict, "wait_pending", "reject")
	kept := register(`, "on_conflict": "keep", "on": {"completed": {"module_id": 77}}, "custom_vars": {"a": 1}`).want(http.StatusOK).object()
	if diff := cmp.Diff(first, kept); diff != "" {
		t.Errorf("keep answers with something else than what is kept (-first +kept):\n%s", diff)
	}
	second := register(`, "on_conflict": "supersede", "custom_vars": {"a": 1}`).want(http.StatusCreated).object()
	if got := []any{status(first), status(second)}; !cmp.Equal(got, []any{"superseded", "pending"}) {
		t.Errorf("got %v, want the older superseded, the newer pending", got)
	}
	n.wait(`{"user_id": "u-2", "flow": "checkout", "on_conflict": "reject"}`) // another user
	// Without a flow it is destination, user and module that count.
	a := n.wait(`{"user_id": "u-1", "source": "hook", "module_id": 1}`)
	b := n.wait(`{"user_id": "u-1", "source": "hook", "module_id": 2, "on_conflict": "reject"}`)
	c := n.wait(`{"user_id": "u-1", "source": "contact", "module_id": 1}`)
	if got := []any{status(a), status(b), status(c)}; !cmp.Equal(got, []any{"superseded", "pending", "pending"}) {
		t.Errorf("got %v, want the one with the same module superseded", got)
	}
	if got := n.deliveries(); len(got) != 0 {
		t.Errorf("got %d deliveries, want none: being superseded fires nothing", len(got))
	}
	// The flow's own word counts where the wait has none.
	n.put("/v1/flows/once", `{"destination": "bot", "source": "hook", "module_id": 1, "on_conflict": "reject"}`).want(http.StatusOK)
	n.wait(`{"user_id": "u-1", "flow": "once"}`)
	n.post("/v1/correlations", `{"user_id": "u-1", "flow": "once"}`).refused(http.StatusConflict, "wait_pending")
}

// Of registrations at the same time for one flow and user, on two nodes, one
// wait stays pending.
func TestSupersedeConcurrent(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	other := newNode(t, options{database: n.database, sealed: n.sealed, bare: true})
	var g sync.WaitGroup
	for i := range 20 {
		on := []*node{n, other}[i%2]
		g.Go(func() {
			a, err := on.try(http.MethodPost, "/v1/correlations", strings.NewReader(`{"user_id": "u-1", "flow": "checkout", "key": "order-1"}`),
				bearer(on.keys[relay.ScopeCreate]), header("Content-Type", "application/json"))
			if err != nil || a.Status != http.StatusCreated {
				t.Errorf("got %+v, %v, want 201", a, err)
			}
		})
	}
	g.Wait()
	got := map[string]int{}
	for _, w := range n.get("/v1/correlations").data() {
		got[w["status"].(string)]++
	}
	if want := map[string]int{"pending": 1, "superseded": 19}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if deadlines, keys := n.count("deadlines"), n.count("correlation_refs WHERE key_active"); deadlines != 1 || keys != 1 {
		t.Errorf("got %d deadlines and %d active keys, want one of each", deadlines, keys)
	}
}

// What comes with a wait is there for its actions and for those who look.
func TestRegistrationKeepsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "conversation": 77, "flow": "checkout", "locale": "de-AT", "data": {"big": 9007199254740993, "nul": "\u0000", "deep": [1, {"a": null}]},
		"custom_vars": {"amount": "over", "plan": "{{ correlation.data.big }}"}}`)
	shown := n.get("/v1/correlations/" + w["id"].(string))
	got := shown.object()
	if got["conversation"] != "77" || got["locale"] != "de-AT" {
		t.Errorf("got conversation %v and locale %v, want 77 and de-AT", got["conversation"], got["locale"])
	}
	for _, part := range []string{"9007199254740993", `\u0000`, `{{ correlation.data.big }}`} {
		if !strings.Contains(string(shown.Body), part) {
			t.Errorf("got %s, want %s in it as it was given", shown.Body, part)
		}
	}
	if diff := cmp.Diff([]string{"registered"}, steps(got)); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
	if sources := storetest.Query[string](t, n.database, "SELECT source_ids::text FROM correlations"); sources == "{}" {
		t.Errorf("got a wait without sources")
	}
}

func steps(correlation map[string]any) (out []string) {
	timeline, _ := correlation["timeline"].([]any)
	for _, m := range timeline {
		out = append(out, m.(map[string]any)["step"].(string))
	}
	return slices.Compact(out)
}
