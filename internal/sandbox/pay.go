package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// The bounds of the pay page.
const (
	maxPayForm      = 16 << 10
	callbackTimeout = 10 * time.Second
	maxCallbackRead = 64 << 10 // of the answer, read so that the connection can be used again
)

// Stripe says where the pay page sends its callbacks and what it sells. The
// page takes no payments without a WebhookURL and a Secret. Each callback is
// sent once; one that is not accepted shows on the page, and pressing the
// button again sends another.
type Stripe struct {
	WebhookURL func() string // asked at each callback: a relay may not know its port before it listens
	ReturnURL  func() string // where a payer goes afterwards, with {CHECKOUT_SESSION_ID} filled in; nil: nowhere
	Lag        time.Duration // how long after the payer was sent back the callback of a payment comes; 0: before
	Secret     string        // whsec_…, used as it is written
	APIKey     string        // sk_…, that the API takes; "": it refuses all
	HTTPClient *http.Client  // nil: one that follows no redirects; every callback has 10 s
	Amount     int64         // what every link costs, in minor units; 0: 2050
	Currency   string        // ISO 4217; "": EUR
}

func (c Stripe) withDefaults() Stripe {
	if c.Amount == 0 {
		c.Amount = 2050
	}
	c.Currency = strings.ToUpper(orElse(c.Currency, "EUR"))
	if c.HTTPClient == nil {
		c.HTTPClient = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	return c
}

var (
	linkOK      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	referenceOK = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)
	sessionOK   = regexp.MustCompile(`^cs_test_[A-Za-z0-9]{1,100}$`)
	intentOK    = regexp.MustCompile(`^pi_[A-Za-z0-9]{1,100}$`)
)

// checkout is one visit to a payment link. It lives in the page's hidden
// fields, so that a declined card and the payment after it belong to the same
// session and intent, as they do at the provider.
type checkout struct {
	Link      string
	Reference string // the token, "" when none came along
	Session   string
	Intent    string
	Amount    int64  // 0: what every link costs
	Currency  string // "": that of every link
	Back      string // where the session leads who gives up; "": nowhere
	after     string // and who has paid
}

// payPage is what the page shows.
type payPage struct {
	checkout
	Amount   string
	Title    string
	Declined bool   // the last card was
	Paid     bool   // nothing is left to pay
	Expired  bool   // nothing can be paid any more
	Problem  string // why the callback did not get through
}

func (s *Sandbox) showPay(w http.ResponseWriter, r *http.Request) error {
	visit := checkout{
		Link:    r.PathValue("link"),
		Session: newStripeID("cs_test_a1") + relay.NewToken(),
		Intent:  newStripeID("pi_3"),
	}
	if !linkOK.MatchString(visit.Link) {
		return relay.Errorf(relay.NotFound, "link_not_found", "a payment link is up to 64 letters, digits, - and _")
	}
	if made, ok := s.created.get(r.URL.Query().Get("session"), visit.Link); ok {
		visit = made.visit(visit)
	}
	// The provider drops a reference that it does not like without a word.
	if reference := r.URL.Query().Get("client_reference_id"); referenceOK.MatchString(reference) {
		visit.Reference = reference
	}
	if o, _ := s.checkouts.get(visit.Session); o.Expired {
		return s.showExpired(w, visit)
	}
	return s.showCheckout(w, http.StatusOK, payPage{checkout: visit, Title: "Pay"})
}

func (s *Sandbox) showExpired(w http.ResponseWriter, visit checkout) error {
	return s.showCheckout(w, http.StatusGone, payPage{checkout: visit, Title: "Expired", Expired: true})
}

func (s *Sandbox) showCheckout(w http.ResponseWriter, status int, page payPage) error {
	page.Amount = amountText(s.priceOf(page.checkout))
	return showPage(w, status, "pay.html", page)
}

// pay does what a button says: it sends the callback and shows what came of
// it.
func (s *Sandbox) pay(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxPayForm)
	visit, choice, err := s.readCheckout(r)
	if err != nil {
		return err
	}
	declined := choice == "decline"
	if !s.checkouts.put(s.checkoutOptions(visit, declined)) {
		return s.showExpired(w, visit)
	}
	if back := s.returnURL(visit); !declined && back != "" && s.stripe.Lag > 0 {
		return s.payLater(w, r, visit, back)
	}
	err = s.sendCallback(r.Context(), s.checkoutEvent(visit, declined))
	switch {
	case err != nil:
		s.log.WarnContext(r.Context(), "stripe callback not accepted", "err", err)
		return s.showCheckout(w, http.StatusBadGateway, payPage{checkout: visit, Title: "Not sent", Problem: err.Error()})
	case declined:
		return s.showCheckout(w, http.StatusOK, payPage{checkout: visit, Title: "Card declined", Declined: true})
	}
	if back := s.returnURL(visit); back != "" {
		http.Redirect(w, r, back, http.StatusSeeOther) //nolint:gosec // configured, or given by who holds the API key
		return nil
	}
	return s.showCheckout(w, http.StatusOK, payPage{checkout: visit, Title: "Paid", Paid: true})
}

// payLater sends the payer back first and the callback afterwards, as happens
// at Stripe. Whether it is accepted is only logged: the payer is gone.
func (s *Sandbox) payLater(w http.ResponseWriter, r *http.Request, visit checkout, back string) error {
	w.Header().Set("Connection", "close") // no other request is to wait behind this one
	w.Header().Set("Content-Length", "0")
	w.Header().Set("Location", back)
	w.WriteHeader(http.StatusSeeOther)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return fmt.Errorf("sending the payer back: %w", err)
	}
	ctx := context.WithoutCancel(r.Context()) // a browser that has its answer may hang up
	pause(ctx, s.stripe.Lag)
	if err := s.sendCallback(ctx, s.checkoutEvent(visit, false)); err != nil {
		s.log.WarnContext(ctx, "stripe callback not accepted", "err", err)
	}
	return nil
}

// readCheckout reads the page's form, which anybody could have written.
func (s *Sandbox) readCheckout(r *http.Request) (visit checkout, choice string, err error) {
	if err := r.ParseForm(); err != nil {
		if isTooLarge(err) {
			return checkout{}, "", relay.Errorf(relay.TooLarge, "body_too_large", "send at most %d bytes", maxPayForm)
		}
		return checkout{}, "", relay.Errorf(relay.Malformed, "body_unreadable", "send the form of the pay page")
	}
	visit = checkout{
		Link:      r.PathValue("link"),
		Reference: r.PostForm.Get("reference"),
		Session:   r.PostForm.Get("session"),
		Intent:    r.PostForm.Get("intent"),
	}
	choice = r.PostForm.Get("choice")
	known := choice == "pay" || choice == "decline"
	if !known || !linkOK.MatchString(visit.Link) || !sessionOK.MatchString(visit.Session) ||
		!intentOK.MatchString(visit.Intent) || (visit.Reference != "" && !referenceOK.MatchString(visit.Reference)) {
		return checkout{}, "", relay.Errorf(relay.Invalid, "form_invalid", "open the payment link again and press one of its buttons")
	}
	if made, ok := s.created.get(visit.Session, visit.Link); ok {
		visit = made.visit(visit)
	}
	return visit, choice, nil
}

// checkoutEvent is the callback of a visit. A declined card of a link carries no
// token: a payment link passes none on to the payment intent.
func (s *Sandbox) checkoutEvent(visit checkout, declined bool) []byte {
	opts := s.checkoutOptions(visit, declined)
	if declined {
		if visit.Link != sessionLink { // a created one has it in its intent's metadata
			opts.Token = ""
		}
		return StripeEvent("payment_intent.payment_failed", opts)
	}
	return StripeEvent("checkout.session.completed", opts)
}

// checkoutOptions is the session of a visit, as the API knows it.
func (s *Sandbox) checkoutOptions(visit checkout, declined bool) StripeOptions {
	o := StripeOptions{
		Token:     visit.Reference,
		SessionID: visit.Session, IntentID: visit.Intent,
		PaymentLink: "plink_" + visit.Link, At: s.now(),
	}
	if visit.Link == sessionLink {
		o.PaymentLink = ""
	}
	o.Amount, o.Currency = s.priceOf(visit)
	if !declined {
		o.PaymentStatus = "paid"
	}
	return o
}

// sendCallback sends one signed callback. Its errors do not name the address,
// which may hold a token.
func (s *Sandbox) sendCallback(ctx context.Context, body []byte) error {
	if s.stripe.WebhookURL == nil || s.stripe.Secret == "" {
		return errors.New("no webhook is configured")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, callbackTimeout, errors.New("no answer within 10 s"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.stripe.WebhookURL(), bytes.NewReader(body))
	if err != nil {
		return errors.New("the webhook's address is not valid")
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	req.Header.Set("Stripe-Signature", SignStripe(s.stripe.Secret, body, s.now()))
	resp, err := s.stripe.HTTPClient.Do(req) //nolint:gosec // the address is configured, not a visitor's
	if err != nil {
		return fmt.Errorf("sending the callback: %w", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, maxCallbackRead)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the callback was answered with status %d", resp.StatusCode)
	}
	return nil
}

func withoutURL(err error) error {
	var located *url.Error
	if errors.As(err, &located) {
		return located.Err
	}
	return err
}

// priceOf is what a visit costs.
func (s *Sandbox) priceOf(visit checkout) (amount int64, currency string) {
	if visit.Amount != 0 {
		return visit.Amount, visit.Currency
	}
	return s.stripe.Amount, s.stripe.Currency
}

func (s *Sandbox) returnURL(visit checkout) string {
	back := visit.after
	if back == "" && s.stripe.ReturnURL != nil {
		back = s.stripe.ReturnURL()
	}
	return strings.ReplaceAll(back, "{CHECKOUT_SESSION_ID}", visit.Session)
}
