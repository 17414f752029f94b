package handlers_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store/storetest"
)

// stripeStand is Stripe's API as the sandbox has it, with what was asked of it.
type stripeStand struct {
	*sandbox.Sandbox
	url string

	mu    sync.Mutex
	forms []url.Values
	keys  []string
	meet  func(http.ResponseWriter, *http.Request) bool // answers itself and says so, or lets the sandbox
}

func newStripe(t *testing.T) *stripeStand {
	t.Helper()
	s := &stripeStand{Sandbox: sandbox.New(sandbox.Config{Stripe: sandbox.Stripe{APIKey: stripeAPIKey}})}
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		meet := s.meet
		s.mu.Unlock()
		if meet != nil && meet(w, r) {
			return
		}
		s.ServeHTTP(w, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forms, s.keys = append(s.forms, r.PostForm), append(s.keys, r.Header.Get("Idempotency-Key"))
	}))
	t.Cleanup(ts.Close)
	s.url = ts.URL
	return s
}

func (s *stripeStand) meets(meet func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meet = meet
}

// last is what was asked for last.
func (s *stripeStand) last() url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forms[len(s.forms)-1]
}

// creating gives a node a source whose Stripe is s, and a flow that creates.
func (n *node) creating(s *stripeStand, create string) {
	n.t.Helper()
	n.put("/v1/sources/stripe", `{"provider": "stripe", "secret": "`+stripeSecret+`", "api_key": "`+stripeAPIKey+`", "base_url": "`+s.url+`/stripe"}`).want(http.StatusOK)
	n.put("/v1/flows/order", `{"destination": "bot", "source": "stripe", "expires_in": "2h", "create": `+create+`,
		"on": {"default": {"module_id": 1}}}`).want(http.StatusOK)
}

const aSession = `{"checkout_session": {"customer_email": "{{ correlation.data.email }}", "metadata": {"plan": "{{ correlation.data.plan }}"},
	"line_items": [{"quantity": 1, "price_data": {"currency": "eur", "unit_amount": "{{ correlation.data.cents }}", "product_data": {"name": "A chair"}}}]}}`

const anOrder = `{"user_id": "u-1", "flow": "order", "data": {"email": "jo@example.com", "cents": 4999}}`

func TestCreateSession(t *testing.T) {
	t.Parallel()
	n, s := newNode(t), newStripe(t)
	n.creating(s, aSession)
	w := n.wait(anOrder)
	token := w["token"].(string)
	if w["url"] != publicURL+"/go/"+token {
		t.Errorf("got url %v, want the link that notes its opening", w["url"])
	}
	form := s.last()
	for name, want := range map[string]string{
		"mode": "payment", "client_reference_id": token, "metadata[conversation_token]": token,
		"payment_intent_data[metadata][conversation_token]": token,
		"success_url": publicURL + "/return/" + token, "cancel_url": publicURL + "/return/" + token + "?back",
		"customer_email": "jo@example.com", "line_items[0][quantity]": "1", "line_items[0][price_data][unit_amount]": "4999",
	} {
		if got := form.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if _, given := form["metadata[plan]"]; given {
		t.Error("a parameter without a value was sent, want it left out")
	}
	ends, err := strconv.ParseInt(form.Get("expires_at"), 10, 64)
	if until := time.Until(time.Unix(ends, 0)); err != nil || until < 119*time.Minute || until > 2*time.Hour {
		t.Errorf("the session ends in %s, want the wait's 2 h", until)
	}
	session := n.visit(w["url"].(string)).want(http.StatusFound).Header.Get("Location")
	_, id, _ := strings.Cut(session, "?session=")
	if !strings.HasPrefix(session, s.url+"/pay/checkout?session=cs_test_") {
		t.Fatalf("the link leads to %s, want the session", session)
	}
	// It is known by its session at once, to who comes back and to Stripe's question.
	n.visit("/return/default/stripe?ref=" + id).want(http.StatusOK)
	if got := storetest.Query[string](t, n.database, `SELECT asks FROM correlations`); got != id {
		t.Errorf("before it expires Stripe is asked for %s, want %s", got, id)
	}
	declined := `{"id": "evt_1", "type": "checkout.session.expired", "livemode": false, "data": {"object": {"object": "checkout.session", "id": "` + id + `", "payment_link": null}}}`
	n.send(http.MethodPost, "/in/default/stripe", strings.NewReader(declined), header("Stripe-Signature", stripeSignature(declined))).wantAccepted()
	if got := n.get("/v1/correlations/" + w["id"].(string)).object()["status"]; got != "expired" {
		t.Errorf("by its session alone: got %v, want it expired", got)
	}
}

func TestCreateLink(t *testing.T) {
	t.Parallel()
	n, s := newNode(t), newStripe(t)
	n.creating(s, `{"payment_link": {"line_items": [{"price": "price_1", "quantity": 2}]}}`)
	w := n.wait(`{"user_id": "u-1", "flow": "order"}`)
	token := w["token"].(string)
	form := s.last()
	for name, want := range map[string]string{
		"metadata[conversation_token]": token, "payment_intent_data[metadata][conversation_token]": token,
		"after_completion[type]": "redirect", "after_completion[redirect][url]": publicURL + "/return/" + token,
		"restrictions[completed_sessions][limit]": "1", "line_items[0][price]": "price_1", "line_items[0][quantity]": "2",
	} {
		if got := form.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	link := n.visit(w["url"].(string)).want(http.StatusFound).Header.Get("Location")
	if !strings.HasPrefix(link, s.url+"/pay/") || !strings.HasSuffix(link, "?client_reference_id="+token) {
		t.Errorf("the link leads to %s, want the payment link with the token", link)
	}
}

// Sessions are open for 30 minutes to 24 hours, whatever the wait's time.
func TestCreatedSessionsEnd(t *testing.T) {
	t.Parallel()
	n, s := newNode(t), newStripe(t)
	n.creating(s, aSession)
	for i, c := range []struct {
		expiresIn string
		want      time.Duration
	}{{"5m", 31 * time.Minute}, {"45m", 45 * time.Minute}, {"24h", 24*time.Hour - time.Minute}, {"3d", 24*time.Hour - time.Minute}} {
		n.wait(fmt.Sprintf(`{"user_id": "u-%d", "flow": "order", "expires_in": "%s", "data": {"cents": 1}}`, i, c.expiresIn))
		ends, _ := strconv.ParseInt(s.last().Get("expires_at"), 10, 64)
		if got := time.Until(time.Unix(ends, 0)); got > c.want || got < c.want-time.Minute {
			t.Errorf("a wait of %s: the session ends in %s, want %s", c.expiresIn, got, c.want)
		}
	}
}

// Where nothing is made to pay by there is no wait, and it can be tried again.
func TestCreateFails(t *testing.T) {
	t.Parallel()
	n, s := newNode(t), newStripe(t)
	n.creating(s, aSession)
	hanging := make(chan struct{})
	for i, c := range []struct {
		name  string
		meet  func(http.ResponseWriter, *http.Request) bool
		words string
	}{
		{"refused", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error": {"type": "invalid_request_error", "param": "line_items[0][price]", "message": "No such price: 'price_9'"}}`)
			return true
		}, "line_items[0][price]: No such price: 'price_9'"},
		{"another key", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error": {"type": "invalid_request_error", "message": "Invalid API Key provided: `+stripeAPIKey+`"}}`)
			return true
		}, "refuses the source's api_key"},
		{"broken", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}, "Stripe answers 500"},
		{"no Stripe", func(w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprint(w, `<html>`)
			return true
		}, "cannot be used"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
			return true
		}, "Stripe"},
		{"no answer", func(w http.ResponseWriter, r *http.Request) bool {
			select {
			case <-hanging:
			case <-r.Context().Done():
			}
			return true
		}, "not answered in time"},
	} {
		s.meets(c.meet)
		key := header("Idempotency-Key", c.name)
		n.post("/v1/correlations", anOrder, key).refused(http.StatusBadGateway, "create_failed", c.words)
		if got := n.count("correlations"); got != i {
			t.Errorf("%s: there are %d waits, want none of it", c.name, got-i)
		}
		s.meets(nil)
		n.post("/v1/correlations", anOrder, key).want(http.StatusCreated)
	}
	close(hanging)
	eventually(t, "the refused key is told of", func() bool { return n.get("/v1/sources/stripe").object()["last_error"] != nil })
}

// A registration that is repeated makes one session, also where nobody knows
// whether the first one did.
func TestCreateOnce(t *testing.T) {
	t.Parallel()
	n, s := newNode(t), newStripe(t)
	n.creating(s, aSession)
	key := header("Idempotency-Key", "order-1042")
	first := n.post("/v1/correlations", anOrder, key).want(http.StatusCreated).object()
	again := n.post("/v1/correlations", anOrder, key).want(http.StatusOK).object()
	if again["token"] != first["token"] || s.Created() != 1 || len(s.keys) != 1 {
		t.Errorf("got another wait (%v) or %d sessions by %d calls, want one of each", again["token"] != first["token"], s.Created(), len(s.keys))
	}
	n.post("/v1/correlations", strings.Replace(anOrder, "4999", "5000", 1), key).refused(http.StatusConflict, "idempotency_key_reused")

	// Stripe makes it, and its answer is lost.
	s.meets(func(w http.ResponseWriter, r *http.Request) bool {
		s.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	lost := header("Idempotency-Key", "order-1043")
	n.post("/v1/correlations", anOrder, lost).refused(http.StatusBadGateway, "create_failed")
	s.meets(nil)
	n.post("/v1/correlations", anOrder, lost).want(http.StatusCreated)
	if s.Created() != 2 {
		t.Errorf("after an answer that was lost: %d sessions, want one more than before", s.Created())
	}

	// Many at once.
	var g errgroup.Group
	tokens := make([]string, 8)
	for i := range tokens {
		g.Go(func() error {
			a, err := n.try(http.MethodPost, "/v1/correlations", strings.NewReader(anOrder), bearer(n.keys[relay.ScopeAdmin]),
				header("Content-Type", "application/json"), header("Idempotency-Key", "order-1044"))
			if err != nil {
				return err
			}
			tokens[i], _ = a.object()["token"].(string)
			if a.Status != http.StatusOK && a.Status != http.StatusCreated {
				return fmt.Errorf("got %d %s", a.Status, a.Body)
			}
			return nil
		})
	}
	must(t, g.Wait())
	for _, token := range tokens {
		if token != tokens[0] {
			t.Errorf("at once: got the tokens %v, want one", tokens)
		}
	}
	if s.Created() != 3 || n.count("correlations") != 3 {
		t.Errorf("at once: %d sessions and %d waits, want one more than before of each", s.Created(), n.count("correlations"))
	}
}

// What cannot be created is told when the flow is saved.
func TestCreateIsChecked(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/keyless", `{"provider": "stripe", "secret": "`+stripeSecret+`"}`).want(http.StatusOK)
	const items = `"line_items": [{"price": "price_1", "quantity": 1}]`
	for _, c := range []struct{ name, source, create, code, words string }{
		{"neither", "stripe", `{}`, "invalid_create", "checkout_session or payment_link"},
		{"both", "stripe", `{"checkout_session": {` + items + `}, "payment_link": {` + items + `}}`, "invalid_create", "one of them"},
		{"nothing to pay for", "stripe", `{"checkout_session": {}}`, "invalid_create", "line_items"},
		{"one of ours", "stripe", `{"checkout_session": {` + items + `, "success_url": "https://a.test"}}`, "invalid_create", "success_url"},
		{"a misspelt one", "stripe", `{"checkout_session": {` + items + `, "custom_fieldz": []}}`, "unknown_field", "checkout_session.custom_fieldz"},
		{"one inside", "stripe", `{"checkout_session": {"line_items": [{"prize": "price_1"}]}}`, "unknown_field", "line_items[0].prize"},
		{"no list", "stripe", `{"checkout_session": {"line_items": {"price": "price_1"}}}`, "wrong_type", "want a list"},
		{"no object", "stripe", `{"payment_link": {"line_items": ["price_1"]}}`, "wrong_type", "line_items[0]: want an object"},
		{"no value", "stripe", `{"payment_link": {` + items + `, "currency": ["eur"]}}`, "wrong_type", "currency: want one value"},
		{"an expression that is none", "stripe", `{"payment_link": {"line_items": [{"price": "{{ nobody.x }}"}]}}`, "expression_invalid", "payment_link"},
		{"no Stripe", "hook", `{"payment_link": {` + items + `}}`, "invalid_create", "0 sources of the provider stripe"},
		{"no key", "keyless", `{"payment_link": {` + items + `}}`, "invalid_create", "no api_key"},
	} {
		n.put("/v1/flows/order", `{"source": "`+c.source+`", "destination": "bot", "create": `+c.create+`, "module_id": 1}`).
			refused(http.StatusUnprocessableEntity, c.code, c.words)
	}
	n.put("/v1/flows/order", `{"source": "stripe", "destination": "bot", "link": "https://buy.stripe.com/a", "create": {"payment_link": {`+items+`}}, "module_id": 1}`).
		refused(http.StatusUnprocessableEntity, "invalid_create", "a link already")
	n.put("/v1/flows/order", `{"source": "stripe", "destination": "bot", "create": {"payment_link": {`+items+`}}, "module_id": 1}`).want(http.StatusOK)
	n.remove("/v1/sources/stripe").refused(http.StatusConflict, "in_use")
}
