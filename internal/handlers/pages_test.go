package handlers_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// aBrowser is what a person's browser calls itself.
const aBrowser = "Mozilla/5.0 (Linux; Android 15; CUBOT NOTE 50) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36"

// visit opens a page as a browser does.
func (n *node) visit(path string, settings ...setting) *answer {
	n.t.Helper()
	all := []setting{header("Accept", "text/html"), header("User-Agent", aBrowser)}
	return n.send(http.MethodGet, strings.TrimPrefix(path, publicURL), nil, append(all, settings...)...)
}

// Whoever asks for its head is told of a page what it would be.
func TestHeadOfPages(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	page := n.visit("/return/" + w["token"].(string)).want(http.StatusOK)
	script := regexp.MustCompile(`src="\.\.(/assets/[^"]+)"`).FindSubmatch(page.Body)
	if script == nil {
		t.Fatalf("got %s, want a script", page.Body)
	}
	cookie := header("Cookie", "relay_wait="+w["token"].(string))
	for _, path := range []string{"/return/" + w["token"].(string), "/return/default/stripe", string(script[1])} {
		got := n.send(http.MethodHead, path, nil, cookie).want(http.StatusOK)
		want := n.send(http.MethodGet, path, nil, cookie).want(http.StatusOK)
		if len(got.Body) != 0 || got.Header.Get("Content-Type") != want.Header.Get("Content-Type") {
			t.Errorf("%s: got %q with %v, want the head of %v", path, got.Body, got.Header, want.Header)
		}
	}
	n.send(http.MethodHead, "/return/"+w["token"].(string), nil, header("Accept", "text/event-stream")).want(http.StatusOK)
}

func TestGoPlacesTheToken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, c := range []struct{ name, body, want string }{
		{
			"a Stripe payment link, whose own query is kept", `{"user_id": "u-1", "flow": "checkout"}`,
			"https://buy.stripe.com/test_abc?locale=de&client_reference_id=TOKEN",
		},
		{
			"one that is there already", `{"user_id": "u-2", "source": "stripe", "module_id": 1, "link": "https://buy.stripe.com/a?client_reference_id=old&b=%20c"}`,
			"https://buy.stripe.com/a?b=%20c&client_reference_id=TOKEN",
		},
		{
			"a page with a form", `{"user_id": "u-3", "source": "contact", "module_id": 1, "link": "https://shop.test/contact#top"}`,
			"https://shop.test/contact?conversation_token=TOKEN#top",
		},
		{
			"a link with an expression", `{"user_id": "u-4", "source": "stripe", "module_id": 1, "data": {"plan": "pro"}, "link": "https://buy.stripe.com/{{ correlation.data.plan }}"}`,
			"https://buy.stripe.com/pro?client_reference_id=TOKEN",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			w := n.wait(c.body)
			want := strings.ReplaceAll(c.want, "TOKEN", w["token"].(string))
			a := n.visit(w["url"].(string)).want(http.StatusFound)
			if got := a.Header.Get("Location"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
			n.send(http.MethodHead, strings.TrimPrefix(w["url"].(string), publicURL), nil).want(http.StatusFound)
		})
	}
	t.Run("a link for each of two sources", func(t *testing.T) {
		n := n.in(t)
		w := n.wait(`{"user_id": "u-5", "module_id": 1, "source": ["stripe", "contact"], "link": {"stripe": "https://buy.stripe.com/a", "contact": "https://shop.test/b"}}`)
		for query, want := range map[string]string{"?source=stripe": "https://buy.stripe.com/a?", "?source=contact": "https://shop.test/b?", "": "https://buy.stripe.com/a?"} {
			if got := n.visit(w["url"].(string) + query).want(http.StatusFound).Header.Get("Location"); !strings.HasPrefix(got, want) {
				t.Errorf("%s: got %s, want %s…", query, got, want)
			}
		}
	})
	t.Run("a link that a script hides in", func(t *testing.T) {
		n := n.in(t)
		w := n.wait(`{"user_id": "u-6", "source": "hook", "module_id": 1, "data": "javascript:alert(1)", "link": "{{ correlation.data }}"}`)
		if a := n.visit(w["url"].(string)).want(http.StatusOK); a.Header.Get("Location") != "" || strings.Contains(string(a.Body), "alert") {
			t.Errorf("got %v %s, want a page that leads nowhere", a.Header, a.Body)
		}
	})
}

// Pages tell what is true of the wait.
func TestReturnPages(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	wait := func(user string) map[string]any {
		return n.wait(`{"user_id": "` + user + `", "flow": "checkout", "data": {"chat": "https://chat.test/` + user + `?a=1&b=2"},
			"return_url": "{{ correlation.data.chat }}"}`)
	}
	end := func(w map[string]any, outcome string) map[string]any {
		n.post("/v1/correlations/"+w["id"].(string)+"/resolve", `{"outcome": "`+outcome+`"}`).want(http.StatusOK)
		return w
	}
	superseded := wait("u-5")
	wait("u-5")
	for _, c := range []struct {
		name   string
		wait   map[string]any
		status int
		title  string
	}{
		{"pending", wait("u-0"), http.StatusOK, "Confirming your payment"},
		{"completed", end(wait("u-1"), "completed"), http.StatusOK, "Done"},
		{"failed", end(wait("u-2"), "failed"), http.StatusOK, "Not completed"},
		{"cancelled", end(wait("u-3"), "cancelled"), http.StatusGone, "Cancelled"},
		{"expired", end(wait("u-4"), "expired"), http.StatusGone, "This link has expired"},
		{"superseded", superseded, http.StatusGone, "There is a newer link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			token := c.wait["token"].(string)
			pages := []string{"/return/" + token}
			if c.name != "pending" {
				pages = append(pages, "/go/"+token) // leads to the link while it is pending
			}
			for _, page := range pages {
				a := n.visit(page).want(c.status)
				if !strings.Contains(string(a.Body), "<h1>"+c.title) {
					t.Errorf("%s: got %s, want the title %q", page, a.Body, c.title)
				}
				back := "https://chat.test/" + c.wait["user_id"].(string) + "?a=1&amp;b=2"
				if !strings.Contains(string(a.Body), `href="`+back+`"`) {
					t.Errorf("%s: got %s, want the way back %s", page, a.Body, back)
				}
				if strings.Contains(string(a.Body), token) {
					t.Errorf("%s: got the token in the page, want it nowhere", page)
				}
				for name, want := range map[string]string{
					"Content-Type": "text/html; charset=UTF-8", "Referrer-Policy": "no-referrer",
					"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
				} {
					if got := a.Header.Get(name); got != want {
						t.Errorf("%s: got %s %q, want %q", page, name, got, want)
					}
				}
				if csp := a.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
					t.Errorf("%s: got the policy %q, want nothing to be loaded", page, csp)
				}
			}
		})
	}
	for _, token := range []string{"AAAAAAAAAAAAAAAAAAAAAA", "unknown", "%00", "%ff", "..%2f..", "<script>"} {
		for _, page := range []string{"/return/", "/go/"} {
			if a := n.visit(page + token).want(http.StatusNotFound); !strings.Contains(string(a.Body), "<h1>Unknown link") || strings.Contains(string(a.Body), "<script>") {
				t.Errorf("%s: got %s, want the page of an unknown link", token, a.Body)
			}
		}
	}
	// A payment after the end: the page tells of it.
	late := end(wait("u-6"), "expired")
	body := `{"id": "evt_1", "type": "checkout.session.completed", "livemode": false, "data": {"object": {"object": "checkout.session", "id": "cs_1",
		"payment_status": "paid", "payment_intent": "pi_1", "amount_total": 2050, "currency": "eur", "client_reference_id": "` + late["token"].(string) + `"}}}`
	n.send(http.MethodPost, "/in/default/stripe", strings.NewReader(body), header("Stripe-Signature", stripeSignature(body))).wantAccepted()
	if a := n.visit("/return/" + late["token"].(string)).want(http.StatusOK); !strings.Contains(string(a.Body), "<h1>Done") {
		t.Errorf("got %s, want it done", a.Body)
	}
	got := n.get("/v1/correlations/" + late["id"].(string)).object()
	if got["status"] != "expired" || got["late_outcome"] != "completed" || got["late_at"] == nil {
		t.Errorf("got status %v, late_outcome %v at %v, want it expired and completed late", got["status"], got["late_outcome"], got["late_at"])
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	n := newNode(t, options{bare: true})
	n.send(http.MethodGet, "/healthz", nil).want(http.StatusOK)
	n.send(http.MethodGet, "/readyz", nil).want(http.StatusOK)
	n.send(http.MethodGet, "/debug/pprof/", nil).want(http.StatusNotFound) // on the operations listener alone
	n.handlers.Drain()
	n.send(http.MethodGet, "/readyz", nil).want(http.StatusServiceUnavailable)
	n.send(http.MethodGet, "/healthz", nil).want(http.StatusOK)
	n.get("/v1/projects").want(http.StatusOK) // it serves on
}
