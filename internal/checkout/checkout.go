// Package checkout makes what a person pays by when their wait is registered: a
// Checkout Session or a Payment Link at Stripe. Where the wait ends in another
// way than by its payment, it has the session ended too.
//
// What it promises: one call within Timeout, by the guarded client; the same
// Order with the same Key makes one object, however often it is asked for; an
// error says what to do, and holds neither key nor token.
//
// Ending is a row, committed with the end of the wait; a node claims it under
// a lease and tries a few times. No wait depends on it: a payment that comes
// all the same is a late one, as through every link.
//
// What Stripe calls its parameters, and of which shape they are, is taken from
// Stripe's own library, so that a misspelt one is told when a flow is saved.
package checkout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v84"

	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/relay"
)

// Timeout bounds the making of one object: who registers a wait has 5 s.
const Timeout = 4 * time.Second

// For how long Stripe lets a session be open, a minute less on each side, for
// the clocks.
const (
	minOpen = 31 * time.Minute
	maxOpen = 24*time.Hour - time.Minute
)

// maxDetail bounds what is repeated of Stripe's own words, in bytes.
const maxDetail = 300

// Order is what is to be made.
type Order struct {
	Kind       relay.CreateKind
	Parameters map[string]any // rendered; what is null is left out
	Token      string
	TokenField string    // under which the token comes back in metadata; "" is conversation_token
	Key        string    // Stripe's Idempotency-Key
	ReturnURL  string    // our page
	Made       time.Time // from when on the wait lasts
	ExpiresIn  time.Duration

	API    string // without a slash at its end
	APIKey string
}

// Made is what was made.
type Made struct {
	ID  string
	URL string // where it is paid
}

// Error says why nothing was made.
type Error struct {
	Reason Reason // for a log
	Detail string // for whoever registers the wait: Stripe may quote a parameter in it
	// Answered: Stripe has decided. Otherwise the object may be there, and the
	// same Order finds it.
	Answered bool

	status int // of Stripe's answer, where it was read
}

func (e *Error) Error() string { return e.Detail }

// Reason is why nothing was made, in one word.
type Reason string

// The reasons.
const (
	KeyRefused Reason = "key_refused" // it is not accepted, or may not do this
	Refused    Reason = "refused"     // something in the order
	Unable     Reason = "unable"      // Stripe has failed, or has too much to do
	NoAnswer   Reason = "no_answer"   // none that can be used, or not in time
	NotKnown   Reason = "not_known"   // the account of the key has no such session
)

// Maker makes payments. It is safe for concurrent use.
type Maker struct {
	calls http.RoundTripper
}

// New returns a Maker that calls by a guarded client.
func New(client *egress.Client) *Maker {
	return &Maker{calls: client.RoundTripper()}
}

// object is what is read of an answer: Stripe's own types are hundreds.
type object struct {
	stripe.APIResource
	ID  string `json:"id"`
	URL string `json:"url"`
}

// paths are where the kinds are made.
var paths = map[relay.CreateKind]string{
	relay.CreateSession: "/v1/checkout/sessions",
	relay.CreateLink:    "/v1/payment_links",
}

// Make makes what o says. Its error is an *Error.
func (m *Maker) Make(ctx context.Context, o Order) (Made, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	params := &stripe.Params{Context: ctx, IdempotencyKey: &o.Key}
	for name, value := range o.values() {
		params.AddExtra(name, value)
	}
	made, refused := m.post(o.API, paths[o.Kind], o.APIKey, params, o.Token)
	if refused != nil {
		return Made{}, refused
	}
	u, err := url.Parse(made.URL)
	if err != nil || u.Host == "" || made.ID == "" {
		return Made{}, &Error{Reason: Refused, Detail: "Stripe has made it without an address to pay at", Answered: true}
	}
	return Made{ID: made.ID, URL: made.URL}, nil
}

// End ends a session, so that nobody pays by it any more. Its error is an
// *Error; Refused says that there was nothing to end: it had been paid, or had
// expired. NotKnown says nothing of it: Stripe has made it, so that the key is
// another account's now, or of its other mode.
func (m *Maker) End(ctx context.Context, api, apiKey, session string) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	path := paths[relay.CreateSession] + "/" + url.PathEscape(session) + "/expire"
	_, refused := m.post(api, path, apiKey, &stripe.Params{Context: ctx}, session)
	switch {
	case refused == nil:
		return nil
	case refused.status == http.StatusNotFound && refused.Reason == Refused:
		refused.Reason = NotKnown
	}
	return refused
}

// post makes one call. secret is what its error does not repeat.
func (m *Maker) post(api, path, apiKey string, params *stripe.Params, secret string) (answer object, refused *Error) {
	u, err := url.Parse(api)
	if err != nil {
		return answer, &Error{Reason: Refused, Detail: "the source's base_url cannot be read", Answered: true}
	}
	by := &way{calls: m.calls, prefix: u.Path}
	u.Path = ""
	if err := by.backend(u.String()).Call(http.MethodPost, path, apiKey, params, &answer); err != nil {
		return answer, explain(err, by.status, secret)
	}
	return answer, nil
}

// way is the way of one order to Stripe. Stripe's library knows no address with
// a path, as that of a stand-in may be, and tells of no status where an answer
// is not Stripe's.
type way struct {
	calls  http.RoundTripper
	prefix string
	status int // of the last answer
}

// RoundTrip makes one call of the library.
func (w *way) RoundTrip(req *http.Request) (*http.Response, error) {
	there := req.Clone(req.Context())
	there.URL.Path = w.prefix + there.URL.Path
	resp, err := w.calls.RoundTrip(there)
	if err == nil {
		w.status = resp.StatusCode
	}
	return resp, err
}

// backend is Stripe's library at an address. It says nothing to anybody but
// us, and tries once more where Stripe asks for that.
func (w *way) backend(api string) stripe.Backend {
	return stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		HTTPClient: &http.Client{
			Transport: w,
			// A redirect is no answer of Stripe's.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		URL: stripe.String(api), MaxNetworkRetries: stripe.Int64(1),
		EnableTelemetry: stripe.Bool(false), LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	})
}

// values are all parameters as Stripe takes them. What is ours stands above
// what was given.
func (o *Order) values() map[string]string {
	out := map[string]string{}
	flatten("", o.Parameters, out)
	field := o.TokenField
	if field == "" {
		field = "conversation_token"
	}
	out["metadata["+field+"]"] = o.Token
	if o.Kind == relay.CreateLink {
		out["after_completion[type]"], out["after_completion[redirect][url]"] = "redirect", o.ReturnURL
		// One wait is paid once.
		if _, given := out["restrictions[completed_sessions][limit]"]; !given {
			out["restrictions[completed_sessions][limit]"] = "1"
		}
		of := "payment_intent_data"
		if _, subscribes := o.Parameters["subscription_data"]; subscribes {
			of = "subscription_data"
		}
		out[of+"[metadata]["+field+"]"] = o.Token
		return out
	}
	if out["mode"] == "" {
		out["mode"] = "payment"
	}
	// A declined card is told by the intent, which says whose it is by this.
	switch out["mode"] {
	case "payment":
		out["payment_intent_data[metadata]["+field+"]"] = o.Token
	case "subscription":
		out["subscription_data[metadata]["+field+"]"] = o.Token
	case "setup":
		out["setup_intent_data[metadata]["+field+"]"] = o.Token
	}
	out["client_reference_id"] = o.Token
	out["success_url"], out["cancel_url"] = o.ReturnURL, o.ReturnURL+"?back"
	open := min(max(o.ExpiresIn, minOpen), maxOpen)
	out["expires_at"] = strconv.FormatInt(o.Made.Add(open).Unix(), 10)
	return out
}

// flatten writes values as forms nest them: line_items[0][price].
func flatten(name string, value any, out map[string]string) {
	switch v := value.(type) {
	case nil:
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			inner := name + "[" + key + "]"
			if name == "" {
				inner = key
			}
			flatten(inner, v[key], out)
		}
	case []any:
		for i, el := range v {
			flatten(name+"["+strconv.Itoa(i)+"]", el, out)
		}
	case float64:
		out[name] = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		out[name] = fmt.Sprint(v)
	}
}

// explain says of a failure what to do about it.
func explain(err error, status int, token string) *Error {
	var refused *stripe.Error
	var call *egress.Error
	switch {
	case errors.As(err, &refused):
		status = refused.HTTPStatusCode
	case errors.As(err, &call):
		return &Error{Reason: NoAnswer, Detail: "Stripe was not reached, or has not answered in time (" + string(call.Reason) + "): try again", Answered: !call.Sent}
	case status < 500:
		return &Error{Reason: NoAnswer, Detail: "Stripe's answer cannot be used: try again"}
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return &Error{
			Reason: KeyRefused, Answered: true,
			Detail: "Stripe refuses the source's api_key: give it one that may write Checkout Sessions and Payment Links",
		}
	case status == http.StatusConflict: // another call with the same key is under way
		return &Error{Reason: NoAnswer, Detail: "Stripe is making it for another request with this Idempotency-Key: try again"}
	case status == http.StatusTooManyRequests || status >= 500:
		return &Error{Reason: Unable, Detail: fmt.Sprintf("Stripe answers %d: try again", status), Answered: true}
	default:
		return &Error{Reason: Refused, Detail: "Stripe refuses it: " + words(refused, token), Answered: true, status: status}
	}
}

// words repeats what Stripe says of a parameter, unless a token is in it.
func words(e *stripe.Error, token string) string {
	said := e.Msg
	if e.Param != "" {
		said = e.Param + ": " + said
	}
	if said == "" || strings.Contains(said, token) {
		return strings.TrimSpace(string(e.Code) + " " + e.Param)
	}
	if len(said) > maxDetail {
		said = strings.ToValidUTF8(said[:maxDetail], "") + "…"
	}
	return said
}
