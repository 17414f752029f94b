package trigger_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-github/v74/github"
	"github.com/stripe/stripe-go/v84/webhook"
	twilio "github.com/twilio/twilio-go/client"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/trigger"
)

// The official libraries stand at the other end of the wire: what we sign they
// accept, and where they can sign we accept it. That of Standard Webhooks has
// its test in internal/provider.

// eachSigned signs all callbacks of a preset.
func eachSigned(t *testing.T, preset string, check func(t *testing.T, e *provider.Endpoint, c *trigger.Callback, req *provider.Request)) {
	t.Helper()
	e := endpoint(t, preset)
	for _, c := range trigger.Callbacks(preset) {
		req := requestOf(t, &c, preset, factsFor("k3JxV0b7Qm2nT9sLw4YzAe"))
		if err := e.Sign(req, secretOf(preset), clock); err != nil {
			t.Fatal(err)
		}
		check(t, e, &c, req)
	}
}

func TestStripeLibrary(t *testing.T) {
	t.Parallel()
	options := webhook.ConstructEventOptions{IgnoreTolerance: true, IgnoreAPIVersionMismatch: true}
	eachSigned(t, "stripe", func(t *testing.T, e *provider.Endpoint, c *trigger.Callback, req *provider.Request) {
		t.Helper()
		header := req.Header.Get("Stripe-Signature")
		event, err := webhook.ConstructEventWithOptions(req.Body, header, secretOf("stripe"), options)
		if err != nil || string(event.Type) != c.Type || !json.Valid(event.Data.Raw) {
			t.Errorf("%s: the library reads %q, %v, want it accepted", c.Type, event.Type, err)
		}
		if _, err := webhook.ConstructEventWithOptions(req.Body, header, "another", options); err == nil {
			t.Errorf("%s: the library accepts another secret: this test proves nothing", c.Type)
		}
		theirs := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: req.Body, Secret: secretOf("stripe"), Timestamp: clock})
		signed := &provider.Request{Method: "POST", Header: http.Header{"Stripe-Signature": {theirs.Header}}, Body: theirs.Payload}
		if _, err := e.Verify(signed, []string{secretOf("stripe")}, clock); err != nil {
			t.Errorf("%s, signed by the library: got %v, want it accepted", c.Type, err)
		}
	})
}

func TestGitHubLibrary(t *testing.T) {
	t.Parallel()
	eachSigned(t, "github", func(t *testing.T, _ *provider.Endpoint, c *trigger.Callback, req *provider.Request) {
		t.Helper()
		signature := req.Header.Get(github.SHA256SignatureHeader)
		if err := github.ValidateSignature(signature, req.Body, []byte(secretOf("github"))); err != nil {
			t.Errorf("%s: the library says %v, want it accepted", c.Type, err)
		}
		if err := github.ValidateSignature(signature, req.Body, []byte("another")); err == nil {
			t.Errorf("%s: the library accepts another secret: this test proves nothing", c.Type)
		}
		if got := req.Header.Get(github.EventTypeHeader); got != c.Type {
			t.Errorf("type: got %q in the library's header, want %q", got, c.Type)
		}
	})
}

// TestTwilioLibrary holds forms as well as any other body, which stands in the
// address as its hash.
func TestTwilioLibrary(t *testing.T) {
	t.Parallel()
	ours, theirs := twilio.NewRequestValidator(secretOf("twilio")), twilio.NewRequestValidator("another")
	eachSigned(t, "twilio", func(t *testing.T, _ *provider.Endpoint, c *trigger.Callback, req *provider.Request) {
		t.Helper()
		signature := req.Header.Get("X-Twilio-Signature")
		if !ours.ValidateBody(req.URL, req.Body, signature) {
			t.Errorf("%s: the library rejects it, want it accepted", c.Type)
		}
		if theirs.ValidateBody(req.URL, req.Body, signature) {
			t.Errorf("%s: the library accepts another secret: this test proves nothing", c.Type)
		}
	})

	e, body := endpoint(t, "twilio"), []byte(`{"token": "tok"}`)
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	for _, host := range []string{"relay.example", "relay.example:443", "relay.example:8443"} {
		req := &provider.Request{
			Method: "POST", URL: "https://" + host + "/in/default/twilio?bodySHA256=" + hash, Query: url.Values{"bodySHA256": {hash}}, Body: body,
		}
		if err := e.Sign(req, secretOf("twilio"), clock); err != nil {
			t.Fatal(err)
		}
		if !ours.ValidateBody(req.URL, body, req.Header.Get("X-Twilio-Signature")) {
			t.Errorf("JSON to %s: the library rejects it, want it accepted", host)
		}
	}
}
