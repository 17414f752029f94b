package handlers_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// What a provider sends to test the address is answered 200 and kept nowhere.
func TestHandshakes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/shop", `{"provider": "woocommerce", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	n.put("/v1/sources/survey", `{"provider": "surveymonkey", "secret": "id&`+hookSecret+`"}`).want(http.StatusOK)
	form := header("Content-Type", "application/x-www-form-urlencoded")
	n.send(http.MethodPost, "/in/default/shop", strings.NewReader("webhook_id=27"), form).wantAccepted()
	n.send(http.MethodHead, "/in/default/survey", nil).want(http.StatusOK)
	if got := n.count("events"); got != 0 {
		t.Errorf("got %d events of handshakes, want none", got)
	}
	// What only looks like one is a callback without a signature.
	for _, body := range []string{"webhook_id=", "webhook_id=27&id=1", "webhook_id=x"} {
		n.send(http.MethodPost, "/in/default/shop", strings.NewReader(body), form).refused(http.StatusUnauthorized, "missing_header")
	}
}

// A browser that returns with a signed address ends the wait, and is led to
// the page that tells how it ended.
func TestCallbackByGet(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/return", `{"provider": "razorpay-link-return", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	w := n.wait(`{"user_id": "u-1", "source": "return", "module_id": 1}`)
	token, id := w["token"].(string), w["id"].(string)
	query := url.Values{
		"razorpay_payment_link_id": {"plink_1"}, "razorpay_payment_link_reference_id": {token},
		"razorpay_payment_link_status": {"paid"}, "razorpay_payment_id": {"pay_1"},
		"razorpay_signature": {sign("another", "plink_1|"+token+"|paid|pay_1")},
	}
	get := func() *answer {
		return n.send(http.MethodGet, "/in/default/return?"+query.Encode(), nil, header("Accept", "text/html"))
	}
	get().refused(http.StatusUnauthorized, "signature_mismatch")
	query.Set("razorpay_signature", sign(hookSecret, "plink_1|"+token+"|paid|pay_1"))
	if got := get().want(http.StatusSeeOther).Header.Get("Location"); !strings.HasSuffix(got, "/return/"+token) {
		t.Errorf("got led to %s, want the wait's page", got)
	}
	get().want(http.StatusSeeOther) // the page is loaded again
	if got := n.get("/v1/correlations/" + id).object()["status"]; got != "completed" {
		t.Errorf("got the wait %v, want completed", got)
	}
	n.send(http.MethodHead, "/in/default/return?"+query.Encode(), nil).want(http.StatusOK)
}

// A provider that signs nothing is proven by the address that the wait gave.
func TestCallbackURLCarriesItsProof(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/klarna", `{"provider": "klarna-hpp", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	w := n.wait(`{"user_id": "u-1", "source": "klarna", "module_id": 1}`)
	other := n.wait(`{"user_id": "u-2", "source": "klarna", "module_id": 1}`)
	address, proof, _ := strings.Cut(w["callback_url"].(string), "?")
	_, path, _ := strings.Cut(address, "/in/")
	_, otherProof, _ := strings.Cut(other["callback_url"].(string), "?")
	if proof == "" || proof == otherProof {
		t.Fatalf("got the proofs %q and %q, want two", proof, otherProof)
	}
	post := func(query string) *answer {
		body := `{"event_id": "e-1", "session": {"session_id": "s-1", "status": "COMPLETED", "order_id": "o-1"}}`
		return n.send(http.MethodPost, "/in/"+path+query, strings.NewReader(body), header("Content-Type", "application/json"))
	}
	post("").refused(http.StatusUnauthorized, "missing_header")
	post("?"+otherProof).refused(http.StatusUnauthorized, "credentials_mismatch")
	post("?" + proof).wantAccepted()
	got := n.get("/v1/correlations/" + w["id"].(string)).object()
	if got["status"] != string(relay.StatusCompleted) || got["payment"].(map[string]any)["id"] != "o-1" {
		t.Errorf("got the wait %v with payment %v, want it completed by o-1", got["status"], got["payment"])
	}
}

// GoCardless asks for 498, and sends many events at once.
func TestBatchAndItsRefusal(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/debit", `{"provider": "gocardless", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	w := n.wait(`{"user_id": "u-1", "source": "debit", "module_id": 1}`)
	body := `{"events": [{"id": "EV1", "resource_type": "mandates", "action": "created"},
		{"id": "EV2", "resource_type": "billing_requests", "action": "fulfilled", "resource_metadata": {"conversation_token": "` + w["token"].(string) + `"}}]}`
	send := func(secret string) *answer {
		return n.send(http.MethodPost, "/in/default/debit", strings.NewReader(body), header("Webhook-Signature", sign(secret, body)))
	}
	send("another").refused(498, "signature_mismatch")
	send(hookSecret).wantAccepted()
	if got := n.get("/v1/correlations/" + w["id"].(string)).object()["status"]; got != "completed" {
		t.Errorf("got the wait %v, want completed", got)
	}
}

// Where a certificate cannot be had nobody can tell whether a callback is
// genuine: it is to come again.
func TestCertificateThatCannotBeHad(t *testing.T) {
	t.Parallel()
	n := newNode(t, options{certificates: provider.NewCertificates(func(context.Context, string) ([]byte, error) {
		return nil, errors.New("connection refused")
	}, nil)})
	n.put("/v1/sources/paypal", `{"provider": "paypal", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	send := func(address string) *answer {
		return n.send(http.MethodPost, "/in/default/paypal", strings.NewReader(`{}`), header("Paypal-Cert-Url", address),
			header("Paypal-Auth-Algo", "SHA256withRSA"), header("Paypal-Transmission-Id", "1"),
			header("Paypal-Transmission-Time", "1"), header("Paypal-Transmission-Sig", "AAAA"))
	}
	if got := send("https://api.paypal.com/cert").refused(http.StatusServiceUnavailable, "certificate_unavailable").Header.Get("Retry-After"); got == "" {
		t.Error("got no Retry-After, want one")
	}
	send("https://evil.example/cert").refused(http.StatusUnauthorized, "bad_certificate")
	if got := n.count("events"); got != 1 {
		t.Errorf("got %d events, want the rejected one", got)
	}
}

// Every preset makes a source, by its name and copied inline, and both say how
// they are set up.
func TestEveryProviderMakesASource(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, name := range provider.Names() {
		preset, _ := provider.Lookup(name)
		if preset.Internal {
			continue
		}
		inline, err := yaml.YAMLToJSON([]byte(preset.Text))
		must(t, err)
		for _, given := range []string{`"` + name + `"`, string(inline)} {
			got := n.put("/v1/sources/one", `{"provider": `+given+`}`).want(http.StatusOK).object()
			if setup, ok := got["setup"].([]any); !ok || len(setup) != len(preset.Setup) {
				t.Errorf("%s: got the setup %v, want %d steps", name, got["setup"], len(preset.Setup))
			}
			if got["awaiting_secret"] != preset.Signed() {
				t.Errorf("%s: awaiting_secret: got %v, want %t", name, got["awaiting_secret"], preset.Signed())
			}
		}
	}
}
