package handlers_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

const (
	nodeSecret  = "node-secret-of-the-tests"
	otherSecret = "node-secret-of-the-other-account"
	nodePath    = "/bots/haptik/default/pay"
)

// configureHaptik gives a node of the relay two accounts at Haptik, and flows
// of theirs.
func (n *node) configureHaptik() {
	n.t.Helper()
	n.secret(nodeSecret)
	n.secret(otherSecret)
	account := `{"platform": "haptik", "base_url": "https://haptik.test", "token": "haptik-token", "client_id": "c", "business_id": 343, "node_secret": `
	objects := map[string]string{
		"/v1/destinations/haptik":   account + `"` + nodeSecret + `"}`,
		"/v1/destinations/other":    account + `"` + otherSecret + `"}`,
		"/v1/destinations/closed":   `{"platform": "haptik", "base_url": "https://haptik.test", "token": "t", "client_id": "c", "business_id": 1}`,
		"/v1/flows/pay":             `{"destination": "haptik", "source": "hook", "link": "https://pay.test/?t={{ correlation.token }}", "on": {"default": {"text": "It is {{ outcome }}."}}}`,
		"/v1/flows/of-the-other":    `{"destination": "other", "source": "hook", "link": "https://pay.test/", "on": {"default": {"text": "Done."}}}`,
		"/v1/flows/of-the-closed":   `{"destination": "closed", "source": "hook", "link": "https://pay.test/", "on": {"default": {"text": "Done."}}}`,
		"/v1/flows/without-a-link":  `{"destination": "haptik", "source": "hook", "on": {"default": {"text": "Done."}}}`,
		"/v1/flows/one-at-a-time":   `{"destination": "haptik", "source": "hook", "link": "https://pay.test/", "on_conflict": "reject", "on": {"default": {"text": "Done."}}}`,
		"/v1/flows/the-one-pending": `{"destination": "haptik", "source": "hook", "link": "https://pay.test/", "on_conflict": "keep", "on": {"default": {"text": "Done."}}}`,
	}
	for _, path := range slices.Sorted(maps.Keys(objects)) { // destinations before flows
		n.put(path, objects[path]).want(http.StatusOK)
	}
}

// nodeSign signs as Haptik does.
func nodeSign(secret, body string) setting {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(body))
	return header("X-Hub-Signature", "sha1="+hex.EncodeToString(mac.Sum(nil)))
}

// comes lets a bot's user come to a node: a call that Haptik signs.
func (n *node) comes(path, body string) *answer {
	n.t.Helper()
	return n.send(http.MethodPost, path, strings.NewReader(body), header("Content-Type", "application/json"), nodeSign(nodeSecret, body))
}

// link is what the user of a node is to open.
func (a *answer) link() string {
	a.t.Helper()
	var reply struct {
		Status   bool
		Response []string
	}
	if err := json.Unmarshal(a.want(http.StatusOK).Body, &reply); err != nil || !reply.Status || len(reply.Response) != 1 {
		a.t.Fatalf("%s: got %s, %v, want one text, and true", a.asked, a.Body, err)
	}
	return reply.Response[0]
}

// arrival is a call of Haptik's, with what its documentation says is in one.
func arrival(authID string, more string) string {
	return fmt.Sprintf(`{"node": "pay_now", "event": "API_INTEGRATION",
		"user": {"user_id": "8812", "user_name": "jo", "full_name": "", "device_platform": 5, "language_code": "de", "auth_id": %q, "auth_code": "auth-code-of-jo"},
		"conversation_no": 3, "conversation_details": {"cart": "c-17"}, "user_details": {"passport": "P-1234567"},
		"entities": {"product": [{"detection": "message", "original_text": "chairs", "entity_value": "chair"}]},
		"env_variables": {"CRM_KEY": "crm-key-of-the-bot"}%s}`, authID, more)
}

// A bot's user comes to a node, opens the link and pays; the bot goes on.
func TestHaptikNode(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configureHaptik()
	for _, private := range []string{"auth-code-of-jo", "P-1234567", "crm-key-of-the-bot"} {
		n.secret(private)
	}
	a := n.comes(nodePath, arrival("u-829", ""))
	w := n.get("/v1/correlations").want(http.StatusOK).data()[0]
	token := w["token"].(string)
	if want := `{"status":true,"response":["` + publicURL + "/go/" + token + `"]}`; strings.TrimSpace(string(a.want(http.StatusOK).Body)) != want {
		t.Errorf("got %s, want %s: Haptik's shape and nothing else", a.Body, want)
	}
	want := map[string]any{
		"user_id": "u-829", "conversation": "u-829", "flow": "pay", "status": "pending", "locale": "de",
		"data": map[string]any{
			"node": "pay_now", "conversation_no": 3.0, "conversation_details": map[string]any{"cart": "c-17"},
			"entities": map[string]any{"product": []any{map[string]any{"detection": "message", "original_text": "chairs", "entity_value": "chair"}}},
		},
	}
	got := map[string]any{}
	for name := range want {
		got[name] = w[name]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the wait (-want +got):\n%s", diff)
	}
	if to := n.visit(a.link()).want(http.StatusFound).Header.Get("Location"); to != "https://pay.test/?t="+token {
		t.Errorf("the link leads to %s, want the flow's", to)
	}
	n.hook("/in/default/hook", `{"id": "e-1", "type": "payment.completed", "token": "`+token+`"}`).want(http.StatusOK)
	resumed := n.deliveries()
	if len(resumed) != 1 {
		t.Fatalf("got %d deliveries, want one", len(resumed))
	}
	to := n.directory.Current().Destination(resumed[0].DestinationID)
	if to.Name != "haptik" {
		t.Errorf("the outcome goes to %s, want the account whose node has called", to.Name)
	}
	if kept := storetest.Query[string](t, n.database, "SELECT correlations::text FROM correlations"); strings.Contains(kept, "P-1234567") {
		t.Errorf("got the row %s, want nothing in it that no expression may see", kept)
	}
}

// Who has not signed learns nothing, and makes nothing.
func TestHaptikStrangers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configureHaptik()
	n.put("/v1/projects/empty", `{}`).want(http.StatusOK)
	body := arrival("u-829", "")
	forged := nodeSign("a secret of a stranger", body)
	refusal := string(n.send(http.MethodPost, nodePath, strings.NewReader(body), forged).refused(http.StatusUnauthorized, "bad_signature", "node_secret").Body)
	for _, c := range []struct {
		name, path string
		sign       setting
	}{
		{"no such flow", "/bots/haptik/default/nothing", forged},
		{"no such project", "/bots/haptik/nobody/pay", forged},
		{"a project without a bot", "/bots/haptik/empty/pay", forged},
		{"a flow of another platform", "/bots/haptik/default/checkout", forged},
		{"a bot without a secret", "/bots/haptik/default/of-the-closed", nodeSign("", body)},
		{"another body's signature", nodePath, nodeSign(nodeSecret, body+" ")},
		{"another algorithm's name", nodePath, header("X-Hub-Signature", "sha256="+sign(nodeSecret, body))},
		{"no signature that could be one", nodePath, header("X-Hub-Signature", "sha1=x")},
		{"an empty digest", nodePath, header("X-Hub-Signature", "sha1=")},
		{"another project's bot", "/bots/haptik/empty/pay", nodeSign(nodeSecret, body)},
	} {
		a := n.send(http.MethodPost, c.path, strings.NewReader(body), c.sign)
		if string(a.want(http.StatusUnauthorized).Body) != refusal {
			t.Errorf("%s: got %s, want the answer that all strangers get: %s", c.name, a.Body, refusal)
		}
		if asked := a.Header.Get("WWW-Authenticate"); asked != "" {
			t.Errorf("%s: got WWW-Authenticate: %s, want none: no API key helps here", c.name, asked)
		}
	}
	large := strings.Repeat(" ", 256<<10) + body
	n.send(http.MethodPost, nodePath, strings.NewReader(large)).refused(http.StatusUnauthorized, "signature_required", "node_secret") // and is not read
	n.send(http.MethodPost, "/bots/haptik/nobody/pay", strings.NewReader(body), bearer(n.keys[relay.ScopeInstance])).refused(http.StatusUnauthorized, "signature_required")
	n.send(http.MethodPost, nodePath, strings.NewReader(large), nodeSign(nodeSecret, large)).refused(http.StatusRequestEntityTooLarge, "body_too_large", "262144")
	n.send(http.MethodGet, nodePath, nil).refused(http.StatusMethodNotAllowed, "method_not_allowed")
	if waits, events := n.count("correlations"), n.count("events"); waits+events != 0 {
		t.Errorf("got %d waits and %d events of strangers, want none", waits, events)
	}
}

// The same call is one wait for as long as that is pending, on whatever node
// of ours; a user who comes again later gets another.
func TestHaptikRepeated(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configureHaptik()
	other := newNode(t, options{database: n.database, sealed: n.sealed, bare: true})
	body := arrival("u-829", "")
	links := make([]string, 16)
	var g sync.WaitGroup
	for i := range links {
		on := []*node{n, other}[i%2]
		g.Go(func() { links[i] = on.comes(nodePath, body).link() })
	}
	g.Wait()
	for _, link := range links {
		if link != links[0] {
			t.Errorf("got the links %s and %s, want one", links[0], link)
		}
	}
	if waits := n.count("correlations"); waits != 1 {
		t.Fatalf("got %d waits, want one", waits)
	}
	seen := map[string]bool{links[0]: true}
	for visit := range 3 {
		for _, w := range n.get("/v1/correlations?status=pending").data() {
			n.hook("/in/default/hook", fmt.Sprintf(`{"id": "e-%d", "type": "payment.completed", "token": %q}`, visit, w["token"])).want(http.StatusOK)
		}
		again := n.comes(nodePath, body).link()
		if seen[again] {
			t.Errorf("visit %d: got a link that has ended, want a new one", visit+2)
		}
		seen[again] = true
		if twice := other.comes(nodePath, body).link(); twice != again {
			t.Errorf("visit %d, repeated: got %s, want %s", visit+2, twice, again)
		}
	}
	if waits, pending := n.count("correlations"), n.count("correlations WHERE status = 'pending'"); waits != 4 || pending != 1 {
		t.Errorf("got %d waits, %d of them pending, want 4 visits, the last pending", waits, pending)
	}
	// Another choice in the chat is another call: the older wait gives way.
	n.comes(nodePath, arrival("u-829", `, "x": 1`)).link()
	if pending := n.count("correlations WHERE status = 'pending'"); pending != 1 {
		t.Errorf("got %d pending waits of one user and flow, want 1", pending)
	}
	n.comes(nodePath, arrival("u-830", "")).link()
	// What a flow keeps is the answer to every call, and none of them is taken
	// for another's repetition when it has ended.
	const keeps = "/bots/haptik/default/the-one-pending"
	kept := n.comes(keeps, arrival("u-829", "")).link()
	if link := n.comes(keeps, arrival("u-829", `, "x": 2`)).link(); link != kept {
		t.Errorf("got %s, want the wait that is kept, %s", link, kept)
	}
	n.hook("/in/default/hook", `{"id": "e-9", "type": "payment.completed", "token": "`+kept[strings.LastIndex(kept, "/")+1:]+`"}`).want(http.StatusOK)
	first, second := n.comes(keeps, arrival("u-829", "")).link(), n.comes(keeps, arrival("u-829", `, "x": 2`)).link()
	if first == kept || second != first {
		t.Errorf("got %s and %s after %s has ended, want one new wait", first, second, kept)
	}
}

// A call repeated before and after its answer makes one Stripe session.
func TestHaptikCreates(t *testing.T) {
	t.Parallel()
	n, s := newNode(t), newStripe(t)
	n.configureHaptik()
	n.creating(s, aSession)
	n.put("/v1/flows/order", `{"destination": "haptik", "on": {"default": {"text": "Done."}}, "source": "stripe", "expires_in": "2h",
		"create": {"checkout_session": {"line_items": [{"quantity": 1, "price_data": {"currency": "eur", "unit_amount": 4999,
		"product_data": {"name": "{{ correlation.data.entities.product[0].entity_value }}"}}}]}}}`).want(http.StatusOK)
	first := n.comes("/bots/haptik/default/order", arrival("u-829", "")).link()
	if again := n.comes("/bots/haptik/default/order", arrival("u-829", "")).link(); again != first {
		t.Errorf("repeated: got %s, want %s", again, first)
	}
	s.mu.Lock()
	asked := len(s.forms)
	s.mu.Unlock()
	if name := s.last().Get("line_items[0][price_data][product_data][name]"); asked != 1 || name != "chair" {
		t.Errorf("got %d sessions, the last for a %q, want one, for what the user chose", asked, name)
	}
}

// Once a call is proven, its user reads that there is no link and who builds
// the bot reads why; Haptik gets its 200.
func TestHaptikRefusals(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configureHaptik()
	n.comes("/bots/haptik/default/one-at-a-time", arrival("u-1", "")).link()
	before := n.count("correlations")
	const german, english = "Im Moment kann kein Link erstellt werden", "No link can be made"
	for _, c := range []struct {
		name, flow, body, says, code string
		words                        []string
	}{
		{"unknown flow", "nothing", arrival("u-1", ""), german, "unknown_flow", []string{"nothing"}},
		{"another platform", "checkout", arrival("u-1", ""), german, "other_destination", []string{"bot", "certainly", "haptik"}},
		{"another account", "of-the-other", arrival("u-1", ""), german, "other_destination", []string{"other", "node_secret"}},
		{"an account without a secret", "of-the-closed", arrival("u-1", ""), german, "other_destination", []string{"closed"}},
		{"no link", "without-a-link", arrival("u-1", ""), german, "link_required", []string{"link", "form"}},
		{"a wait is pending", "one-at-a-time", arrival("u-1", `, "x": 1`), german, "wait_pending", []string{"on_conflict"}},
		{"no auth_id", "pay", arrival("", ""), german, "auth_id_required", []string{"auth_id"}},
		{"a null auth_id", "pay", `{"user": {"auth_id": null}}`, english, "auth_id_required", nil},
		{"no user", "pay", `{}`, english, "auth_id_required", nil},
		{"nothing", "pay", `null`, english, "auth_id_required", nil},
		{"a user that is none", "pay", `{"user": [1]}`, english, "wrong_type", []string{"user"}},
		{"an auth_id that is none", "pay", `{"user": {"auth_id": {}, "language_code": "de-AT"}}`, german, "wrong_type", []string{"user.auth_id"}},
		{"a long auth_id", "pay", arrival(strings.Repeat("x", 256), ""), german, "invalid_value", []string{"255"}},
		{"much data", "pay", `{"entities": "` + strings.Repeat("x", 64<<10) + `", "user": {"auth_id": "u-1"}}`, english, "data_too_large", []string{"65536"}},
		{"no JSON", "pay", `{"user"`, english, "malformed_json", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := n.in(t).comes("/bots/haptik/default/"+c.flow, c.body).want(http.StatusOK).object()
			said, _ := got["response"].([]any)
			if got["status"] != false || len(said) != 1 || !strings.HasPrefix(said[0].(string), c.says) || got["code"] != c.code {
				t.Errorf("got %v, want false, %q and the code %s", got, c.says, c.code)
			}
			for _, word := range c.words {
				if detail, _ := got["detail"].(string); !strings.Contains(detail, word) {
					t.Errorf("got the detail %q, want %q in it", detail, word)
				}
			}
		})
	}
	if after := n.count("correlations"); after != before {
		t.Errorf("got %d waits, want the %d that there were", after, before)
	}
	if lines := n.log.Lines("gets no link"); len(lines) != 1 || !strings.Contains(lines[0], `"code":"unknown_flow"`) {
		t.Errorf("got the lines %q, want one of the first refusal", lines)
	}
	n.put("/v1/flows/pay", `{"destination": "haptik", "source": "hook", "link": "https://pay.test/", "on": {"default": {"text": "Done."}},
		"look": {"texts": {"no_link": "Ask our staff."}}}`).want(http.StatusOK)
	if got := n.comes(nodePath, arrival("", "")).object()["response"]; !cmp.Equal(got, []any{"Ask our staff."}) {
		t.Errorf("got %v, want what the flow's look says", got)
	}
}

// A secret that was just changed on another node of ours counts at once, and
// the old one no more.
func TestHaptikSecretChanges(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configureHaptik()
	other := newNode(t, options{database: n.database, sealed: n.sealed, bare: true})
	const later = "node-secret-after-the-change"
	n.secret(later)
	n.put("/v1/destinations/haptik", `{"platform": "haptik", "base_url": "https://haptik.test", "token": "haptik-token", "client_id": "c", "business_id": 343, "node_secret": "`+later+`"}`).want(http.StatusOK)
	body := arrival("u-829", "")
	other.send(http.MethodPost, nodePath, strings.NewReader(body), nodeSign(later, body)).link()
	for _, on := range []*node{n, other} {
		on.comes(nodePath, body).refused(http.StatusUnauthorized, "bad_signature")
	}
	if set := n.get("/v1/destinations/haptik").object()["secrets_set"]; !cmp.Equal(set, []any{"node_secret", "token"}) {
		t.Errorf("got the secrets %v, want node_secret and token", set)
	}
}
