package sandbox

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// StripeAPI is the name of the stand-in for Stripe's API, which lives under
// /stripe: a source's base_url ends in that. It serves what the relay asks,
// the Checkout Sessions of a payment intent, and one by its id; and what the
// relay creates, sessions and payment links.
const StripeAPI = "stripe"

// maxCheckouts is how many sessions are remembered; beyond, the oldest are
// forgotten.
const maxCheckouts = 10_000

// The bounds of a list, as Stripe has them.
const (
	defaultSessions = 10
	maxSessions     = 100
)

// checkouts are the Checkout Sessions that exist, by their ids.
type checkouts struct {
	mu    sync.Mutex
	known map[string]StripeOptions
	order []string // oldest first
}

func newCheckouts() *checkouts { return &checkouts{known: map[string]StripeOptions{}} }

// put keeps a session as it is now. One that has expired stays so: then it
// reports false.
func (c *checkouts) put(o StripeOptions) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, there := c.known[o.SessionID]
	if old.Expired {
		return false
	}
	if !there {
		if len(c.order) >= maxCheckouts {
			delete(c.known, c.order[0])
			c.order = slices.Delete(c.order, 0, 1)
		}
		c.order = append(c.order, o.SessionID)
	}
	c.known[o.SessionID] = o
	return true
}

// expire ends a session that is open; else it says which status it has.
func (c *checkouts) expire(id string) (o StripeOptions, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, there := c.known[id]
	switch {
	case !there:
		return o, "unknown"
	case o.Expired:
		return o, "expired"
	case o.PaymentStatus != "":
		return o, "complete"
	}
	o.Expired = true
	c.known[id] = o
	return o, ""
}

func (c *checkouts) get(id string) (StripeOptions, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.known[id]
	return o, ok
}

// of lists the sessions of an intent, the newest first.
func (c *checkouts) of(intent string) (found []StripeOptions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range slices.Backward(c.order) {
		if o := c.known[id]; o.IntentID == intent {
			found = append(found, o)
		}
	}
	return found
}

// PutCheckout makes a Checkout Session known to the API, or changes it. It is
// open and unpaid unless PaymentStatus says otherwise: then it is complete.
func (s *Sandbox) PutCheckout(o StripeOptions) { _ = s.checkouts.put(o) }

// SwitchStripe does what PUT /sandbox/stripe does: it replaces all switches,
// except that an empty token leaves the API key.
func (s *Sandbox) SwitchStripe(sw Switches) error { return s.stripeAPI.arm(sw) }

// sessionObject is the shape of a session as the API tells of it.
var sessionObject = objectShape("session")

// objectShape reads an object that stands by itself.
func objectShape(object string) shape {
	place := regexp.MustCompile(`"@(\w+)"`)
	whole := eventFile(object)
	sh := shape{text: place.Split(whole, -1)}
	for _, found := range place.FindAllStringSubmatch(whole, -1) {
		sh.places = append(sh.places, found[1])
	}
	return sh
}

// checkoutObject writes a session as the API does.
func checkoutObject(o StripeOptions) json.RawMessage {
	kind := "checkout.session.completed"
	open := o.PaymentStatus == ""
	if open {
		o.PaymentStatus = "unpaid"
	}
	intent := o.IntentID
	o = o.withDefaults(kind)
	values := sessionValues(kind, o)
	switch {
	case o.Expired:
		values["status"] = `"expired"`
	case open:
		values["status"] = `"open"`
	}
	maps.Copy(values, map[string]string{
		"created":  strconv.FormatInt(o.At.Unix(), 10),
		"live":     strconv.FormatBool(o.Live),
		"amount":   strconv.FormatInt(o.Amount, 10),
		"currency": quote(strings.ToLower(o.Currency)),
		"intent":   quoteOrNull(intent),
	})
	return sessionObject.fill(values)
}

// stripeAnswer returns Stripe's own faults.
func stripeAnswer(name string) (answer, bool) {
	switch name {
	case "credentials":
		return invalidKey("sk_test_****"), true
	case "rate_limited":
		return stripeRefusal(http.StatusTooManyRequests, stripeError{
			Code: "rate_limit", Type: "invalid_request_error", Message: "Request rate limit exceeded.",
		}), true
	case "server_error":
		return stripeRefusal(http.StatusInternalServerError, stripeError{
			Type: "api_error", Message: "An unknown error occurred",
		}), true
	default:
		return answer{}, false
	}
}

// stripeError is an error as the API tells it.
type stripeError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
	Type    string `json:"type"`
}

func stripeRefusal(status int, e stripeError) answer {
	text, _ := json.Marshal(map[string]stripeError{"error": e}) //nolint:errchkjson // texts cannot fail
	return jsonAnswer(status, string(text))
}

func invalidKey(hint string) answer {
	return stripeRefusal(http.StatusUnauthorized, stripeError{
		Type: "invalid_request_error", Message: "Invalid API Key provided: " + hint,
	})
}

// tells serves one endpoint of the API. Its switches make it slow or broken,
// as a platform's do; nothing is kept but the count.
func (s *Sandbox) tells(act func(*http.Request) answer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.counters.asked.Add(1)
		board := s.stripeAPI.switches.Load()
		f := board.faultFor(&call{path: r.URL.Path})
		pause(r.Context(), board.delay())
		refused, ok := board.admits(r)
		switch {
		case f != nil:
			f.answer.write(w, r)
		case !ok:
			refused.write(w, r)
		default:
			act(r).write(w, r)
		}
	}
}

// admits checks the API key: as a Bearer token, or as the user name of Basic.
func (b *switchboard) admits(r *http.Request) (refused answer, ok bool) {
	key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		key, _, _ = r.BasicAuth()
	}
	switch {
	case key == "":
		return stripeRefusal(http.StatusUnauthorized, stripeError{
			Type: "invalid_request_error", Message: "You did not provide an API key.",
		}), false
	case b.token == "" || subtle.ConstantTimeCompare([]byte(key), []byte(b.token)) != 1:
		return invalidKey(key[:min(len(key), 8)] + "****"), false
	default:
		return answer{}, true
	}
}

// listSessions answers GET /v1/checkout/sessions. Of its filters it knows the
// one that the relay uses.
func (s *Sandbox) listSessions(r *http.Request) answer {
	query := r.URL.Query()
	intent := query.Get("payment_intent")
	if intent == "" {
		return stripeRefusal(http.StatusBadRequest, stripeError{
			Code: "parameter_missing", Type: "invalid_request_error", Param: "payment_intent",
			Message: "The sandbox lists the sessions of a payment_intent.",
		})
	}
	limit, bad := sessionLimit(query)
	if bad {
		return stripeRefusal(http.StatusBadRequest, stripeError{
			Code: "parameter_invalid_integer", Type: "invalid_request_error", Param: "limit",
			Message: "Invalid integer: limit lies between 1 and 100.",
		})
	}
	found := s.checkouts.of(intent)
	list := struct {
		Object  string            `json:"object"`
		Data    []json.RawMessage `json:"data"`
		HasMore bool              `json:"has_more"`
		URL     string            `json:"url"`
	}{"list", []json.RawMessage{}, len(found) > limit, "/v1/checkout/sessions"}
	for _, o := range found[:min(len(found), limit)] {
		list.Data = append(list.Data, checkoutObject(o))
	}
	text, _ := json.Marshal(list) //nolint:errchkjson // the objects are JSON as they stand
	return jsonAnswer(http.StatusOK, string(text))
}

func sessionLimit(query url.Values) (limit int, bad bool) {
	text := query.Get("limit")
	if text == "" {
		return defaultSessions, false
	}
	limit, err := strconv.Atoi(text)
	return limit, err != nil || limit < 1 || limit > maxSessions
}

// getSession answers GET /v1/checkout/sessions/{id}.
func (s *Sandbox) getSession(r *http.Request) answer {
	id := r.PathValue("id")
	o, ok := s.checkouts.get(id)
	if !ok {
		return noSession(id)
	}
	return jsonAnswer(http.StatusOK, string(checkoutObject(o)))
}

// expireSession answers POST /v1/checkout/sessions/{id}/expire, and tells of
// it by a callback, as Stripe does.
func (s *Sandbox) expireSession(r *http.Request) answer {
	id := r.PathValue("id")
	o, status := s.checkouts.expire(id)
	switch status {
	case "":
	case "unknown":
		return noSession(id)
	default:
		return invalid("", fmt.Sprintf("Only Checkout Sessions with a status in [\"open\"] can be expired. This Session has a status of %s.", status))
	}
	told := o
	told.At = s.now()
	if err := s.sendCallback(r.Context(), StripeEvent("checkout.session.expired", told)); err != nil {
		s.log.InfoContext(r.Context(), "stripe callback not accepted", "err", err)
	}
	return jsonAnswer(http.StatusOK, string(checkoutObject(o)))
}

func noSession(id string) answer {
	return stripeRefusal(http.StatusNotFound, stripeError{
		Code: "resource_missing", Type: "invalid_request_error", Param: "session",
		Message: "No such checkout.session: " + id,
	})
}
