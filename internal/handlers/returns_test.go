package handlers_test

import (
	"net/http"
	"strings"
	"testing"

	"relay.example/relay/internal/store/storetest"
)

// openedAt is when the link of a wait was first opened; "" where it was not.
func (n *node) openedAt(w map[string]any) string {
	n.t.Helper()
	at, _ := n.get("/v1/correlations/" + w["id"].(string)).want(http.StatusOK).object()["opened_at"].(string)
	return at
}

// A link that a person opens is noted once, and only then.
func TestOpened(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	link := func(w map[string]any) string { return strings.TrimPrefix(w["url"].(string), publicURL) }
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	for _, c := range []struct {
		name, method string
		settings     []setting
		cookie       bool // that leads back goes to whoever goes to the link
	}{
		{"HEAD", http.MethodHead, []setting{header("User-Agent", aBrowser)}, false},
		{"a browser that fetches ahead", http.MethodGet, []setting{header("User-Agent", aBrowser), header("Sec-Purpose", "prefetch;anonymous-client-ip")}, false},
		{"an older one", http.MethodGet, []setting{header("User-Agent", aBrowser), header("Purpose", "prefetch")}, false},
		{"Firefox", http.MethodGet, []setting{header("User-Agent", aBrowser), header("X-Moz", "prefetch")}, false},
		{"nobody", http.MethodGet, []setting{header("User-Agent", "")}, true},
		{"WhatsApp's preview", http.MethodGet, []setting{header("User-Agent", "WhatsApp/2.23.20.0 A")}, true},
		{"Telegram's", http.MethodGet, []setting{header("User-Agent", "TelegramBot (like TwitterBot)")}, true},
		{"Facebook's", http.MethodGet, []setting{header("User-Agent", "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)")}, true},
		{"Slack's", http.MethodGet, []setting{header("User-Agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)")}, true},
		{"Skype's and Teams'", http.MethodGet, []setting{header("User-Agent", "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5")}, true},
		{"a search engine", http.MethodGet, []setting{header("User-Agent", "Mozilla/5.0 (compatible; SomeEngine/1.0; +http://engine.example/bot.html)")}, true},
		{"a program", http.MethodGet, []setting{header("User-Agent", "curl/8.14.1")}, true},
	} {
		cookie := n.send(c.method, link(w), nil, c.settings...).want(http.StatusFound).Header.Get("Set-Cookie")
		if got := strings.HasPrefix(cookie, "relay_wait="+w["token"].(string)); got != c.cookie {
			t.Errorf("%s: got the cookie %q, want one: %t", c.name, cookie, c.cookie)
		}
	}
	person := n.wait(`{"user_id": "u-2", "flow": "checkout"}`)
	n.visit(link(person)).want(http.StatusFound)
	eventually(t, "the opening is noted", func() bool { return n.openedAt(person) != "" })
	first := n.openedAt(person)
	// What came before it is written by then, or will never be.
	if got := n.openedAt(w); got != "" {
		t.Errorf("programs: got the link opened at %s, want it never", got)
	}
	// Once more, and noted with another one, which shows when.
	other := n.wait(`{"user_id": "u-3", "flow": "checkout"}`)
	n.visit(link(person)).want(http.StatusFound)
	n.visit(link(other)).want(http.StatusFound)
	eventually(t, "the other opening is noted", func() bool { return n.openedAt(other) != "" })
	if got := n.openedAt(person); got != first {
		t.Errorf("opened again: got %s, want it to stay %s", got, first)
	}
	var steps []string
	for _, m := range n.get("/v1/correlations/" + person["id"].(string)).object()["timeline"].([]any) {
		moment := m.(map[string]any)
		steps = append(steps, moment["step"].(string))
		if moment["step"] == "opened" && moment["at"] != first {
			t.Errorf("timeline: got opened at %v, want %s", moment["at"], first)
		}
	}
	if len(steps) != 2 || steps[1] != "opened" {
		t.Errorf("timeline: got %v, want the wait registered and opened", steps)
	}
}

// What the database does not take at first is written later.
func TestOpenedWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	storetest.Exec(t, n.database, `ALTER TABLE openings RENAME TO elsewhere`)
	n.visit(w["url"].(string)).want(http.StatusFound)
	eventually(t, "a try has failed", func() bool { return len(n.log.Lines("openings of links not written yet")) > 0 })
	storetest.Exec(t, n.database, `ALTER TABLE elsewhere RENAME TO openings`)
	eventually(t, "the opening is noted", func() bool { return n.openedAt(w) != "" })
}

// Who comes back is known by the provider's id in the address, else by the
// cookie that the link has set, and to nobody else's wait.
func TestReturnFromSource(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/projects/shop-b", `{}`).want(http.StatusOK)
	n.configure("shop-b")
	shows := func(a *answer, status int, title string) {
		t.Helper()
		if a.want(status); !strings.Contains(string(a.Body), "<h1>"+title) {
			t.Errorf("%s: got %s, want the title %q", a.asked, a.Body, title)
		}
	}
	const unknown, pending, done = "Unknown link", "Confirming your payment", "Done"
	w := n.wait(`{"user_id": "u-1", "flow": "checkout", "key": "order-1"}`)
	cookie := n.visit(w["url"].(string)).want(http.StatusFound).Header.Get("Set-Cookie")
	for _, part := range []string{"relay_wait=" + w["token"].(string), "Path=/return/default/stripe;", "Max-Age=7200", "HttpOnly", "Secure", "SameSite=Lax"} {
		if !strings.Contains(cookie, part) {
			t.Errorf("got the cookie %q, want %s in it", cookie, part)
		}
	}
	value, _, _ := strings.Cut(cookie, ";")
	known := header("Cookie", value)

	shows(n.visit("/return/default/stripe"), http.StatusNotFound, unknown)
	shows(n.visit("/return/default/stripe", known), http.StatusOK, pending)
	shows(n.visit("/return/default/stripe?ref=cs_test_1", known), http.StatusOK, pending) // not learned yet
	shows(n.visit("/return/default/stripe?ref=cs_test_1"), http.StatusNotFound, unknown)
	// A key can be guessed, and a token is none of the provider's ids.
	shows(n.visit("/return/default/stripe?ref=order-1"), http.StatusNotFound, unknown)
	shows(n.visit("/return/default/stripe?ref="+w["token"].(string)), http.StatusNotFound, unknown)
	// The cookie counts for its source and project.
	shows(n.visit("/return/default/contact", known), http.StatusNotFound, unknown)
	shows(n.visit("/return/shop-b/stripe", known), http.StatusNotFound, unknown)
	shows(n.visit("/return/default/nothing", known), http.StatusNotFound, unknown)
	shows(n.visit("/return/nobody/stripe", known), http.StatusNotFound, unknown)
	shows(n.visit("/return/default/stripe", header("Cookie", "relay_wait=%00")), http.StatusNotFound, unknown)

	n.pay(w, "cs_test_1")
	shows(n.visit("/return/default/stripe?ref=cs_test_1"), http.StatusOK, done)
	shows(n.visit("/return/shop-b/stripe?ref=cs_test_1"), http.StatusNotFound, unknown)
	shows(n.visit("/return/default/hook?ref=cs_test_1"), http.StatusNotFound, unknown)
	// The address says more than the cookie.
	next := n.wait(`{"user_id": "u-2", "flow": "checkout"}`)
	shows(n.visit("/return/default/stripe?ref=cs_test_1", header("Cookie", "relay_wait="+next["token"].(string))), http.StatusOK, done)
	// A key that is the provider's id is known before its event.
	n.wait(`{"user_id": "u-3", "flow": "checkout", "key": "cs_test_3"}`)
	shows(n.visit("/return/default/stripe?ref=cs_test_3"), http.StatusOK, pending)
}

// pay sends the signed callback of a session that is paid.
func (n *node) pay(w map[string]any, session string) {
	n.t.Helper()
	body := `{"id": "evt_` + session + `", "type": "checkout.session.completed", "livemode": false, "data": {"object": {"object": "checkout.session", "id": "` + session + `",
		"payment_status": "paid", "payment_intent": "pi_` + session + `", "amount_total": 2050, "currency": "eur", "client_reference_id": "` + w["token"].(string) + `"}}}`
	n.send(http.MethodPost, "/in/default/stripe", strings.NewReader(body), header("Stripe-Signature", stripeSignature(body))).wantAccepted()
}

// The way back leads to a chat, by the web or into an app.
func TestReturnURL(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for i, c := range []struct {
		url  string
		good bool
	}{
		{"https://chat.test/a?b=1", true},
		{"whatsapp://send?phone=49123", true},
		{"tg://resolve?domain=shop", true},
		{"com.example.shop:/chat", true},
		{"javascript:alert(1)", false},
		{"JavaScript:alert(1)", false},
		{"data:text/html,x", false},
		{"intent://x#Intent;end", false},
		{"//chat.test/", false},
		{"/chat", false},
		{"https:///chat", false},
	} {
		user := "u-" + string(rune('a'+i))
		fixed := n.post("/v1/correlations", `{"user_id": "`+user+`", "flow": "checkout", "return_url": "`+c.url+`"}`)
		if !c.good {
			fixed.refused(http.StatusUnprocessableEntity, "invalid_link", "return_url")
		}
		w := n.wait(`{"user_id": "` + user + `", "flow": "checkout", "return_url": "{{ correlation.data }}", "data": "` + c.url + `"}`)
		page := string(n.visit("/return/" + w["token"].(string)).want(http.StatusOK).Body)
		if got := strings.Contains(page, "href="); got != c.good {
			t.Errorf("%s: got a way back: %v, want %v in %s", c.url, got, c.good, page)
		}
		if c.good && strings.Contains(page, "ZgotmplZ") {
			t.Errorf("%s: got %s, want the address as it is", c.url, page)
		}
	}
}

// A redirect takes no time for what is noted of it: it leaves that to who
// writes all openings, and comes also where nobody does.
func TestOpeningIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	n.stop()
	n.visit(w["url"].(string)).want(http.StatusFound)
	if got := n.openedAt(w); got != "" {
		t.Errorf("the redirect has written the opening itself, at %s: want it not to wait for that", got)
	}
}
