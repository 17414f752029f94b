package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sessionLink is where the pay page shows sessions that were created by the
// API, in place of the name of a payment link.
const sessionLink = "checkout"

// The bounds of what is created: of sessions Stripe's own.
const (
	maxCreated    = 10_000 // are remembered; beyond, the oldest are forgotten
	maxCreateForm = 64 << 10
	minOpen       = 30 * time.Minute
	maxOpen       = 24 * time.Hour
)

// creation is a session or a payment link that was created.
type creation struct {
	id       string // cs_… or plink_…
	token    string // a session's client_reference_id
	intent   string
	after    string // where the payer goes who has paid
	back     string // and who gives up
	amount   int64
	currency string
	key      string // Idempotency-Key, and what came with it
	request  string
}

// visit makes of a visit to the pay page one of what was created.
func (c creation) visit(v checkout) checkout {
	v.after, v.Back, v.Amount, v.Currency = c.after, c.back, c.amount, c.currency
	if c.intent != "" {
		v.Session, v.Intent, v.Reference = c.id, c.intent, c.token
	}
	return v
}

// created remembers creations by id and by key.
type created struct {
	mu    sync.Mutex
	known map[string]creation
	byKey map[string]string
	order []string // of ids, oldest first
}

func newCreated() *created {
	return &created{known: map[string]creation{}, byKey: map[string]string{}}
}

// put keeps a creation, unless its key has made one: then it returns that one.
func (c *created) put(made creation) creation {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, there := c.byKey[made.key]; there && made.key != "" {
		return c.known[id]
	}
	if len(c.order) >= maxCreated {
		oldest := c.known[c.order[0]]
		delete(c.known, oldest.id)
		delete(c.byKey, oldest.key)
		c.order = slices.Delete(c.order, 0, 1)
	}
	c.known[made.id], c.byKey[made.key] = made, made.id
	c.order = append(c.order, made.id)
	return made
}

// get finds what a visit to the pay page is about.
func (c *created) get(session, link string) (creation, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := "plink_" + link
	if link == sessionLink {
		id = session
	}
	made, ok := c.known[id]
	return made, ok
}

// Created counts the sessions and links that were created.
func (s *Sandbox) Created() int {
	s.created.mu.Lock()
	defer s.created.mu.Unlock()
	return len(s.created.order)
}

// postSession answers POST /v1/checkout/sessions.
func (s *Sandbox) postSession(r *http.Request) answer {
	form, refused := createForm(r)
	if refused != nil {
		return *refused
	}
	if form.Get("success_url") == "" {
		return missing("success_url")
	}
	made, refused := s.creation(r, form)
	if refused != nil {
		return *refused
	}
	until := s.now().Add(maxOpen)
	if text := form.Get("expires_at"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		until = time.Unix(seconds, 0)
		if open := until.Sub(s.now()); err != nil || open < minOpen || open > maxOpen {
			return invalid("expires_at", "The `expires_at` timestamp must be at least 30 minutes and less than 24 hours from Checkout Session creation.")
		}
	}
	made.id, made.intent = newStripeID("cs_test_a1"), newStripeID("pi_3")
	made.token, made.after, made.back = form.Get("client_reference_id"), form.Get("success_url"), form.Get("cancel_url")
	kept := s.created.put(made)
	if kept.request != made.request {
		return reusedKey()
	}
	if kept.id == made.id {
		s.PutCheckout(StripeOptions{
			SessionID: made.id, Token: made.token, Amount: made.amount, Currency: made.currency, At: s.now(),
		})
	}
	o, _ := s.checkouts.get(kept.id)
	var object map[string]any
	_ = json.Unmarshal(checkoutObject(o), &object) // it is JSON as it stands
	object["url"], object["success_url"] = "http://"+r.Host+"/pay/"+sessionLink+"?session="+kept.id, kept.after
	object["expires_at"] = until.Unix()
	text, _ := json.Marshal(object) //nolint:errchkjson // it was JSON
	return jsonAnswer(http.StatusOK, string(text))
}

// postPaymentLink answers POST /v1/payment_links.
func (s *Sandbox) postPaymentLink(r *http.Request) answer {
	form, refused := createForm(r)
	if refused != nil {
		return *refused
	}
	made, refused := s.creation(r, form)
	if refused != nil {
		return *refused
	}
	made.id, made.after = newStripeID("plink_"), form.Get("after_completion[redirect][url]")
	kept := s.created.put(made)
	if kept.request != made.request {
		return reusedKey()
	}
	return jsonAnswer(http.StatusOK, fmt.Sprintf(`{"id": %s, "object": "payment_link", "active": true, "livemode": false, "url": %s}`,
		quote(kept.id), quote("http://"+r.Host+"/pay/"+strings.TrimPrefix(kept.id, "plink_"))))
}

// createForm reads what is to be created.
func createForm(r *http.Request) (url.Values, *answer) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxCreateForm)
	if err := r.ParseForm(); err != nil {
		a := invalid("", "The body cannot be read as a form.")
		return nil, &a
	}
	form := r.PostForm
	if form.Get("line_items[0][price]") == "" && form.Get("line_items[0][price_data][currency]") == "" && form.Get("mode") != "setup" {
		a := missing("line_items")
		return nil, &a
	}
	return form, nil
}

// instead has, for what a price_data must say, what may say it too.
var instead = map[string]string{
	"line_items[0][price_data][unit_amount]":        "line_items[0][price_data][unit_amount_decimal]",
	"line_items[0][price_data][product_data][name]": "line_items[0][price_data][product]",
}

// creation reads what sessions and links have in common. A price by its id
// costs what every link does.
func (s *Sandbox) creation(r *http.Request, form url.Values) (creation, *answer) {
	made := creation{amount: s.stripe.Amount, currency: s.stripe.Currency, key: r.Header.Get("Idempotency-Key"), request: form.Encode()}
	if price := form.Get("line_items[0][price]"); price != "" && !strings.HasPrefix(price, "price_") {
		a := invalid("line_items[0][price]", "No such price: '"+price+"'")
		return made, &a
	}
	if form.Has("line_items[0][price_data][currency]") {
		for _, param := range []string{"line_items[0][price_data][unit_amount]", "line_items[0][price_data][product_data][name]"} {
			if form.Get(param) == "" && form.Get(instead[param]) == "" {
				a := missing(param)
				return made, &a
			}
		}
	}
	if text := form.Get("line_items[0][price_data][unit_amount]"); text != "" {
		amount, err := strconv.ParseInt(text, 10, 64)
		quantity, bad := strconv.ParseInt(orElse(form.Get("line_items[0][quantity]"), "1"), 10, 64)
		if err != nil || bad != nil || amount < 1 || quantity < 1 || amount > 99_999_999 || quantity > 999_999 {
			a := invalid("line_items[0][price_data][unit_amount]", "Invalid integer: "+text)
			return made, &a
		}
		made.amount, made.currency = amount*quantity, strings.ToUpper(form.Get("line_items[0][price_data][currency]"))
	}
	if token := form.Get("client_reference_id"); token != "" && !referenceOK.MatchString(token) {
		a := invalid("client_reference_id", "Invalid string.")
		return made, &a
	}
	return made, nil
}

func missing(param string) answer {
	return stripeRefusal(http.StatusBadRequest, stripeError{
		Code: "parameter_missing", Type: "invalid_request_error", Param: param, Message: "Missing required param: " + param + ".",
	})
}

func invalid(param, message string) answer {
	return stripeRefusal(http.StatusBadRequest, stripeError{Type: "invalid_request_error", Param: param, Message: message})
}

func reusedKey() answer {
	return stripeRefusal(http.StatusBadRequest, stripeError{
		Type:    "idempotency_error",
		Message: "Keys for idempotent requests can only be used with the same parameters they were first used with.",
	})
}
