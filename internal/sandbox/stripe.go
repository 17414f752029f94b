package sandbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// StripeOptions fill in a callback. What is left empty becomes a new id, the
// present moment, EUR, or null where the provider may send null.
type StripeOptions struct {
	Token         string // client_reference_id of a session; metadata.conversation_token of anything else
	Amount        int64  // in minor units
	Currency      string // eur
	SessionID     string // cs_…
	IntentID      string // pi_…
	EventID       string // evt_…
	PaymentLink   string // plink_…
	PaymentStatus string // paid, unpaid or no_payment_required; by default what the kind says
	Live          bool
	At            time.Time
	Expired       bool // the session, which was not paid: told by the API
}

// eventFiles hold one object each, as the provider would send it, but for the
// quoted names that begin with @: a JSON value takes the place of each. The
// files are JSON as they stand.
//
//go:embed events/*.json
var eventFiles embed.FS

// shape is a whole event, cut at the places to be filled in: between text[i]
// and text[i+1] stands the value of places[i].
type shape struct{ text, places []string }

var (
	sessionShape  = eventShape("session", "")
	intentShape   = eventShape("intent", "null")
	declinedShape = eventShape("intent", eventFile("decline"))
	chargeShape   = eventShape("charge", "")
	disputeShape  = eventShape("dispute", "")
	otherShape    = eventShape("other", "")
)

// eventShape reads an event about an object. The failure takes the place of
// that name.
func eventShape(object, failure string) shape {
	place := regexp.MustCompile(`"@(\w+)"`)
	whole := strings.Replace(eventFile("event"), `"@object"`, eventFile(object), 1)
	whole = strings.Replace(whole, `"@failure"`, failure, 1)
	sh := shape{text: place.Split(whole, -1)}
	for _, found := range place.FindAllStringSubmatch(whole, -1) {
		sh.places = append(sh.places, found[1])
	}
	return sh
}

// eventFile panics on a name that is not there: the names are in this file.
func eventFile(name string) string {
	text, err := eventFiles.ReadFile("events/" + name + ".json")
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(text))
}

// fill puts the values in their places. One that is missing leaves a body that
// is no JSON, which the tests would see for every kind.
func (sh shape) fill(values map[string]string) []byte {
	filled := make([]byte, 0, 4<<10) // the largest is below that
	for i, place := range sh.places {
		filled = append(append(filled, sh.text[i]...), values[place]...)
	}
	return append(filled, sh.text[len(sh.places)]...)
}

// StripeEvent returns the body of a Stripe callback (API snapshot events).
// The kinds that mean something to a payment are complete: those of
// checkout.session, payment_intent, charge.refunded, charge.dispute.created.
// Any other kind is an event about an object with nothing but an id, as a
// hook that listens to everything would meet it.
func StripeEvent(kind string, opts StripeOptions) []byte {
	o := opts.withDefaults(kind)
	sh, values := stripeObject(kind, o)
	maps.Copy(values, map[string]string{
		"event":    quote(o.EventID),
		"type":     quote(kind),
		"created":  strconv.FormatInt(o.At.Unix(), 10),
		"live":     strconv.FormatBool(o.Live),
		"amount":   strconv.FormatInt(o.Amount, 10),
		"currency": quote(strings.ToLower(o.Currency)),
		"intent":   quoteOrNull(o.IntentID),
		"charge":   quote("ch_" + strings.TrimPrefix(o.IntentID, "pi_")),
		"metadata": stripeMetadata(o.Token),
	})
	return sh.fill(values)
}

// SignStripe returns the Stripe-Signature header of a body sent at t: the
// hex HMAC-SHA256 of "t.body", keyed by the secret as it is written.
func SignStripe(secret string, body []byte, t time.Time) string {
	stamp := strconv.FormatInt(t.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return "t=" + stamp + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

func (o StripeOptions) withDefaults(kind string) StripeOptions {
	mode := "test"
	if o.Live {
		mode = "live"
	}
	o.Currency = orElse(o.Currency, "eur")
	o.PaymentStatus = orElse(o.PaymentStatus, sessionPaymentStatus(kind))
	if o.EventID == "" {
		o.EventID = newStripeID("evt_1")
	}
	if o.SessionID == "" {
		o.SessionID = newStripeID("cs_"+mode+"_a1") + relay.NewToken()
	}
	if o.IntentID == "" && (o.PaymentStatus == "paid" || !isSession(kind)) {
		o.IntentID = newStripeID("pi_3")
	}
	if o.At.IsZero() {
		o.At = time.Now()
	}
	return o
}

// sessionPaymentStatus is the payment_status that a session has where nobody
// says otherwise.
func sessionPaymentStatus(kind string) string {
	switch kind {
	case "checkout.session.async_payment_failed", "checkout.session.expired":
		return "unpaid"
	default:
		return "paid"
	}
}

func isSession(kind string) bool { return strings.HasPrefix(kind, "checkout.session.") }

// stripeObject returns the shape of an event about what the kind names, and
// what goes into it besides what all share.
func stripeObject(kind string, o StripeOptions) (shape, map[string]string) {
	switch {
	case isSession(kind):
		return sessionShape, sessionValues(kind, o)
	case kind == "payment_intent.payment_failed":
		return declinedShape, intentValues(kind, o)
	case strings.HasPrefix(kind, "payment_intent."):
		return intentShape, intentValues(kind, o)
	case kind == "charge.refunded":
		return chargeShape, map[string]string{}
	case kind == "charge.dispute.created":
		return disputeShape, map[string]string{"id": quote("du_" + strings.TrimPrefix(o.IntentID, "pi_"))}
	default:
		name, _, _ := strings.Cut(kind, ".")
		return otherShape, map[string]string{"id": quote(newStripeID("obj_1")), "name": quote(name)}
	}
}

func sessionValues(kind string, o StripeOptions) map[string]string {
	status := "complete"
	if kind == "checkout.session.expired" {
		status = "expired"
	}
	return map[string]string{
		"id":             quote(o.SessionID),
		"reference":      quoteOrNull(o.Token),
		"link":           quoteOrNull(o.PaymentLink),
		"payment_status": quote(o.PaymentStatus),
		"status":         quote(status),
		"expires":        strconv.FormatInt(o.At.Add(24*time.Hour).Unix(), 10),
	}
}

func intentValues(kind string, o StripeOptions) map[string]string {
	values := map[string]string{
		"id": quote(o.IntentID), "status": `"processing"`, "received": "0", "canceled_at": "null", "reason": "null",
	}
	switch kind {
	case "payment_intent.succeeded":
		values["status"], values["received"] = `"succeeded"`, strconv.FormatInt(o.Amount, 10)
	case "payment_intent.payment_failed":
		values["status"] = `"requires_payment_method"`
	case "payment_intent.canceled":
		values["status"], values["reason"] = `"canceled"`, `"abandoned"`
		values["canceled_at"] = strconv.FormatInt(o.At.Unix(), 10)
	}
	return values
}

// stripeMetadata is what a merchant who passes metadata on to the payment
// has put there. A plain payment link passes none.
func stripeMetadata(token string) string {
	if token == "" {
		return "{}"
	}
	return `{"conversation_token": ` + quote(token) + `}`
}

func newStripeID(prefix string) string { return prefix + relay.NewToken() }

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func quote(s string) string {
	text, _ := json.Marshal(s) //nolint:errchkjson // a string cannot fail
	return string(text)
}

func quoteOrNull(s string) string {
	if s == "" {
		return "null"
	}
	return quote(s)
}
