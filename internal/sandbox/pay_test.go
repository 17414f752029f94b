package sandbox_test

import (
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/sandbox"
)

const webhookSecret = "whsec_sandbox_test"

// hook receives callbacks and answers as it is told.
type hook struct {
	url    string
	status int
	got    []received
}

type received struct {
	signature, contentType string
	body                   []byte
}

func listen(t *testing.T) *hook {
	t.Helper()
	h := &hook{status: http.StatusOK}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.got = append(h.got, received{r.Header.Get("Stripe-Signature"), r.Header.Get("Content-Type"), body})
		w.WriteHeader(h.status)
	}))
	t.Cleanup(srv.Close)
	h.url = srv.URL + "/in/default/stripe/secret-part"
	return h
}

func payConfig(h *hook) sandbox.Config {
	return sandbox.Config{Stripe: sandbox.Stripe{
		WebhookURL: func() string { return h.url }, Secret: webhookSecret, Amount: 4900, Currency: "dkk",
	}}
}

// fields reads the hidden fields of a pay page.
func fields(page string) url.Values {
	form := url.Values{}
	for _, m := range regexp.MustCompile(`name="(\w+)" value="([^"]*)">\n`).FindAllStringSubmatch(page, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	return form
}

// press sends the form of a pay page with one of its buttons.
func (s stand) press(t *testing.T, path string, form url.Values, choice string) (head, string) {
	t.Helper()
	form.Set("choice", choice)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.PostForm(s.url+path, form)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return head{resp.StatusCode, resp.Header}, string(page)
}

func TestPayPageDeclinesAndThenPays(t *testing.T) {
	h := listen(t)
	s := open(t, payConfig(h))
	const path = "/pay/test_abc?client_reference_id=k3Jabcdefghijklmnopqrs"
	resp, page := s.do(t, http.MethodGet, path, "", "")
	if resp.StatusCode != http.StatusOK || !strings.Contains(page, "49.00 DKK") {
		t.Fatalf("got %d %s, want 200 and the amount", resp.StatusCode, page)
	}
	if _, page = s.press(t, path, fields(page), "decline"); !strings.Contains(page, "card was declined") {
		t.Fatalf("declined: got %s, want it said", page)
	}
	if _, page = s.press(t, path, fields(page), "pay"); !strings.Contains(page, "Paid. Thank you!") {
		t.Fatalf("paid: got %s, want it said", page)
	}
	if len(h.got) != 2 {
		t.Fatalf("got %d callbacks, want 2", len(h.got))
	}
	for i, r := range h.got {
		if want := sandbox.SignStripe(webhookSecret, r.body, noon); r.signature != want || r.contentType != "application/json; charset=utf-8" {
			t.Errorf("callback %d: got signature %q, content type %q, want %q, JSON", i, r.signature, r.contentType, want)
		}
	}
	failed, paid := readEvent(t, h.got[0].body), readEvent(t, h.got[1].body)
	if failed.Type != "payment_intent.payment_failed" || len(failed.Data.Object["metadata"].(map[string]any)) != 0 {
		t.Errorf("first: got %s with metadata %v, want a failed intent without a token", failed.Type, failed.Data.Object["metadata"])
	}
	if paid.Type != "checkout.session.completed" || paid.Data.Object["client_reference_id"] != "k3Jabcdefghijklmnopqrs" ||
		paid.Data.Object["payment_link"] != "plink_test_abc" || paid.Data.Object["amount_total"] != 4900.0 {
		t.Errorf("second: got %s %v, want the paid session of the token", paid.Type, paid.Data.Object)
	}
	if paid.Data.Object["payment_intent"] != failed.Data.Object["id"] {
		t.Errorf("got intents %v and %v, want the same", failed.Data.Object["id"], paid.Data.Object["payment_intent"])
	}
}

func TestPayPageLeadsBack(t *testing.T) {
	h := listen(t)
	c := payConfig(h)
	c.Stripe.ReturnURL = func() string { return "https://relay.example/return/default/stripe?ref={CHECKOUT_SESSION_ID}" }
	s := open(t, c)
	_, page := s.do(t, http.MethodGet, "/pay/abc?client_reference_id=x", "", "")
	form := fields(page)
	resp, _ := s.press(t, "/pay/abc", form, "pay")
	want := "https://relay.example/return/default/stripe?ref=" + form.Get("session")
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != want {
		t.Errorf("got %d to %q, want 303 to %q", resp.StatusCode, got, want)
	}
}

func TestPayPageDropsBadReferences(t *testing.T) {
	s := open(t, payConfig(listen(t)))
	for _, bad := range []string{"with space", "umlaut-ü", `"><script>`, strings.Repeat("x", 201)} {
		_, page := s.do(t, http.MethodGet, "/pay/abc?client_reference_id="+url.QueryEscape(bad), "", "")
		if got := fields(page).Get("reference"); got != "" || !strings.Contains(page, "without a usable") {
			t.Errorf("%q: got reference %q, want none, and a word about it", bad, got)
		}
	}
}

func TestPayPageSaysWhenTheCallbackFails(t *testing.T) {
	h := listen(t)
	h.status = http.StatusUnauthorized
	s := open(t, payConfig(h))
	_, page := s.do(t, http.MethodGet, "/pay/abc?client_reference_id=x", "", "")
	resp, answer := s.press(t, "/pay/abc", fields(page), "pay")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(answer, "status 401") {
		t.Errorf("refused: got %d %s, want 502 and the status", resp.StatusCode, answer)
	}
	h.url = "http://127.0.0.1:1/secret-part"
	resp, answer = s.press(t, "/pay/abc", fields(page), "pay")
	if resp.StatusCode != http.StatusBadGateway || strings.Contains(answer, "secret-part") {
		t.Errorf("unreachable: got %d %s, want 502 without the address", resp.StatusCode, answer)
	}
}

func TestPayPageNeedsAWebhook(t *testing.T) {
	h := listen(t)
	noSecret := payConfig(h)
	noSecret.Stripe.Secret = ""
	for name, c := range map[string]sandbox.Config{"no webhook": {}, "no secret": noSecret} {
		s := open(t, c)
		_, page := s.do(t, http.MethodGet, "/pay/abc", "", "")
		if resp, _ := s.press(t, "/pay/abc", fields(page), "pay"); resp.StatusCode != http.StatusBadGateway || len(h.got) != 0 {
			t.Errorf("%s: got %d and %d callbacks, want 502 and none", name, resp.StatusCode, len(h.got))
		}
	}
}

func TestPayPageRefusesOtherForms(t *testing.T) {
	h := listen(t)
	s := open(t, payConfig(h))
	_, page := s.do(t, http.MethodGet, "/pay/abc?client_reference_id=x", "", "")
	for name, change := range map[string][2]string{
		"session": {"session", "cs_live_x"}, "intent": {"intent", "x"}, "reference": {"reference", "a b"},
	} {
		form := fields(page)
		form.Set(change[0], change[1])
		if resp, _ := s.press(t, "/pay/abc", form, "pay"); resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("another %s: got %d, want 422", name, resp.StatusCode)
		}
	}
	if resp, _ := s.press(t, "/pay/abc", fields(page), "steal"); resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("another choice: got %d, want 422", resp.StatusCode)
	}
	large := fields(page)
	large.Set("reference", strings.Repeat("x", 16<<10))
	if resp, _ := s.press(t, "/pay/abc", large, "pay"); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a large form: got %d, want 413", resp.StatusCode)
	}
	if resp, _ := s.do(t, http.MethodGet, "/pay/a.b", "", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("no link: got %d, want 404", resp.StatusCode)
	}
	if len(h.got) != 0 {
		t.Errorf("got %d callbacks, want none", len(h.got))
	}
}

// TestPayPageLeadsBackFirst holds the callback up until the payer is back: it
// would be held up for ever if it were sent before.
func TestPayPageLeadsBackFirst(t *testing.T) {
	back, told := make(chan struct{}), make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		<-back
		told <- string(body)
	}))
	t.Cleanup(srv.Close)
	c := payConfig(&hook{url: srv.URL})
	c.Stripe.ReturnURL = func() string { return "https://relay.example/return/x" }
	c.Stripe.Lag = time.Nanosecond
	s := open(t, c)
	_, page := s.do(t, http.MethodGet, "/pay/abc?client_reference_id=x", "", "")
	resp, _ := s.press(t, "/pay/abc", fields(page), "pay")
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != "https://relay.example/return/x" {
		t.Errorf("got %d to %q, want 303 to the return page", resp.StatusCode, got)
	}
	close(back)
	if got := <-told; !strings.Contains(got, "checkout.session.completed") {
		t.Errorf("got the callback %s, want the paid session", got)
	}
}
