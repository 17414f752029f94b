// Package sdks_test sets the official libraries of providers against the presets,
// as the other side of the wire: what we sign they accept, and where they can
// sign we accept it. They stand in a module of their own, for what else they
// bring along is no business of the relay's; those that bring nothing have
// their tests in internal/trigger and internal/provider.
package sdks_test

import (
	"bytes"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	paddle "github.com/PaddleHQ/paddle-go-sdk/v4"
	razorpay "github.com/razorpay/razorpay-go/utils"
	svix "github.com/svix/svix-webhooks/go"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/trigger"
)

// one is a callback of a preset, and what its library says of it.
type one struct {
	endpoint *provider.Endpoint
	callback *trigger.Callback
	request  *provider.Request
}

// each signs all callbacks of a preset. The library has to accept each of them
// by its secret, and by no other.
func each(t *testing.T, preset, secret, another string, accepts func(o one, secret string) bool) {
	t.Helper()
	p, ok := provider.Lookup(preset)
	if !ok {
		t.Fatalf("there is no preset %q", preset)
	}
	e, err := p.Endpoint(provider.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	callbacks := trigger.Callbacks(preset)
	if len(callbacks) == 0 {
		t.Fatalf("%s has no callbacks", preset)
	}
	for _, c := range callbacks {
		facts := &trigger.Facts{
			Token: "k3JxV0b7Qm2nT9sLw4YzAe", Field: "conversation_token", Event: "e-" + relay.NewToken(), Payment: "p-1",
			Amount: "20.50", Currency: "EUR", At: time.Now(),
		}
		req, err := c.Request(p, &url.URL{Scheme: "https", Host: "relay.example", Path: "/in/default/source"}, facts)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Sign(req, secret, facts.At); err != nil {
			t.Fatal(err)
		}
		o := one{e, &c, req}
		if !accepts(o, secret) {
			t.Errorf("%s %s: its library rejects what we signed", preset, c.Type)
		}
		if accepts(o, another) {
			t.Errorf("%s %s: its library accepts another secret: this test proves nothing", preset, c.Type)
		}
	}
}

func TestRazorpay(t *testing.T) {
	t.Parallel()
	each(t, "razorpay", "a secret", "another", func(o one, secret string) bool {
		return razorpay.VerifyWebhookSignature(string(o.request.Body), o.request.Header.Get("X-Razorpay-Signature"), secret)
	})
}

// TestRazorpayLink is of the return of somebody who has paid by a link, whose
// address is signed.
func TestRazorpayLink(t *testing.T) {
	t.Parallel()
	each(t, "razorpay-link-return", "a secret", "another", func(o one, secret string) bool {
		params := map[string]any{}
		for _, name := range []string{"payment_link_id", "payment_link_reference_id", "payment_link_status"} {
			params[name] = o.request.Query.Get("razorpay_" + name)
		}
		params["razorpay_payment_id"] = o.request.Query.Get("razorpay_payment_id")
		return razorpay.VerifyPaymentLinkSignature(params, o.request.Query.Get("razorpay_signature"), secret)
	})
}

func TestPaddle(t *testing.T) {
	t.Parallel()
	each(t, "paddle", "pdl_ntfset_secret", "another", func(o one, secret string) bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, o.request.URL, bytes.NewReader(o.request.Body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = o.request.Header
		ok, err := paddle.NewWebhookVerifier(secret).Verify(req)
		return err == nil && ok
	})
}

func TestSvix(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	each(t, "svix", secret, "whsec_AAAQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", func(o one, secret string) bool {
		hook, err := svix.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		return hook.Verify(o.request.Body, o.request.Header) == nil
	})

	hook, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	each(t, "svix", secret, "whsec_AAAQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", func(o one, with string) bool {
		id := o.request.Header.Get("svix-id")
		now := time.Now()
		theirs, err := hook.Sign(id, now, o.request.Body)
		if err != nil {
			t.Fatal(err)
		}
		signed := *o.request
		signed.Header = o.request.Header.Clone()
		signed.Header.Set("svix-timestamp", strconv.FormatInt(now.Unix(), 10))
		signed.Header.Set("svix-signature", theirs)
		_, err = o.endpoint.Verify(&signed, []string{with}, now)
		return err == nil
	})
}
