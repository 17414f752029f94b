package handlers_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
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

// A PayPal source shows the ids of its webhooks, awaits them as others await
// their secret, and says so to whoever calls.
func TestWebhookIDs(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	source := n.put("/v1/sources/paypal", `{"provider": "paypal"}`).want(http.StatusOK).object()
	if got, ok := source["webhook_ids"].([]any); source["awaiting_secret"] != true || !ok || len(got) != 0 {
		t.Errorf("without ids: got %v, want it to await them", source)
	}
	n.send(http.MethodPost, "/in/default/paypal", strings.NewReader(`{}`)).refused(http.StatusUnauthorized, "awaiting_secret", "webhook_ids")
	n.post("/v1/sources/paypal/secrets", `{"secret": "WH-1"}`).refused(http.StatusUnprocessableEntity, "invalid_secret", "webhook_ids")
	source = n.put("/v1/sources/paypal", `{"provider": "paypal", "webhook_ids": ["WH-1", "WH-2"]}`).want(http.StatusOK).object()
	if got := fmt.Sprint(source["webhook_ids"]); got != "[WH-1 WH-2]" || source["awaiting_secret"] != false {
		t.Errorf("with ids: got %v, want them shown", source)
	}
	n.send(http.MethodPost, "/in/default/paypal", strings.NewReader(`{}`)).refused(http.StatusUnauthorized, "missing_header")
	// Nothing secret stands in for them, and one that needs no secret awaits none.
	basic := n.put("/v1/sources/basic", `{"provider": "generic-basic", "username": "u", "password": "`+hookSecret+`"}`).want(http.StatusOK).object()
	if basic["awaiting_secret"] != false {
		t.Errorf("with its credentials: got %v, want it to await nothing", basic)
	}
}

// Where a certificate cannot be had nobody can tell whether a callback is
// genuine: it is to come again.
func TestCertificateThatCannotBeHad(t *testing.T) {
	t.Parallel()
	n := newNode(t, options{certificates: provider.NewCertificates(func(context.Context, string) ([]byte, error) {
		return nil, errors.New("connection refused")
	}, nil)})
	n.put("/v1/sources/paypal", `{"provider": "paypal", "webhook_ids": ["WH-1"]}`).want(http.StatusOK)
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
	// What it was signed with is kept for a replay, and shown to nobody.
	event := n.get("/v1/events").data()[0]
	headers, _ := n.get("/v1/events/" + event["id"].(string)).object()["headers"].(map[string]any)
	if headers["Paypal-Transmission-Sig"] != "(not shown)" || headers["Paypal-Transmission-Id"] != "1" {
		t.Errorf("got the headers %v, want the signature left out", headers)
	}
}

// payPal signs callbacks as PayPal does, and is the authority of its own
// certificates.
type payPal struct {
	t     *testing.T
	key   *rsa.PrivateKey
	roots *x509.CertPool
	root  *x509.Certificate
}

func newPayPal(t *testing.T) *payPal {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p := &payPal{t: t, key: key, roots: x509.NewCertPool()}
	p.root = p.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(time.Hour)})
	p.roots.AddCert(p.root)
	return p
}

func (p *payPal) issue(template *x509.Certificate) *x509.Certificate {
	p.t.Helper()
	template.SerialNumber, template.Subject = big.NewInt(1), pkix.Name{CommonName: "Test"}
	by := p.root
	if by == nil {
		by = template
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, by, &p.key.PublicKey, p.key)
	must(p.t, err)
	cert, err := x509.ParseCertificate(raw)
	must(p.t, err)
	return cert
}

// certificate is one in PEM that is in force for an hour around a time.
func (p *payPal) certificate(at time.Time) []byte {
	p.t.Helper()
	cert := p.issue(&x509.Certificate{DNSNames: []string{"certs.paypal.com"}, NotBefore: at.Add(-30 * time.Minute), NotAfter: at.Add(30 * time.Minute)})
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// send posts a callback of a webhook to the source paypal.
func (p *payPal) send(n *node, webhook, address, body string) *answer {
	p.t.Helper()
	message := sha256.Sum256(fmt.Appendf(nil, "id-1|2026-03-14T09:26:53Z|%s|%d", webhook, crc32.ChecksumIEEE([]byte(body))))
	signature, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, message[:])
	must(p.t, err)
	return n.send(http.MethodPost, "/in/default/paypal", strings.NewReader(body), header("Paypal-Cert-Url", address),
		header("Paypal-Auth-Algo", "SHA256withRSA"), header("Paypal-Transmission-Id", "id-1"),
		header("Paypal-Transmission-Time", "2026-03-14T09:26:53Z"), header("Paypal-Transmission-Sig", base64.StdEncoding.EncodeToString(signature)))
}

// A node that has not heard of a webhook yet reads the configuration again, and
// only then has a reason to fetch the certificate.
func TestCertificateOfAWebhookJustGiven(t *testing.T) {
	t.Parallel()
	paypal := newPayPal(t)
	certificates := func() *provider.Certificates {
		return provider.NewCertificates(func(context.Context, string) ([]byte, error) { return paypal.certificate(time.Now()), nil }, paypal.roots)
	}
	n := newNode(t, options{certificates: certificates()})
	n.put("/v1/sources/paypal", `{"provider": "paypal"}`).want(http.StatusOK)
	other := newNode(t, options{database: n.database, sealed: n.sealed, bare: true, certificates: certificates()})
	n.put("/v1/sources/paypal", `{"provider": "paypal", "webhook_ids": ["WH-1"]}`).want(http.StatusOK)
	paypal.send(other, "WH-1", "https://api.paypal.com/certs/1", `{"id": "E1", "event_type": "CHECKOUT.ORDER.SAVED"}`).want(http.StatusOK)
}

// A replay of a rejected callback of PayPal fetches the certificate that the
// callback names, once for all that name it; one that cannot be had, or that
// was not in force when the callback came, leaves it rejected.
func TestReplayFetchesTheCertificate(t *testing.T) {
	t.Parallel()
	paypal := newPayPal(t)
	var mu sync.Mutex
	var served []byte // nil: nothing is to be had
	fetched := 0
	serve := func(text []byte) {
		mu.Lock()
		defer mu.Unlock()
		served, fetched = text, 0
	}
	fetches := func() int {
		mu.Lock()
		defer mu.Unlock()
		return fetched
	}
	// Each node has a memory of its own, as after a restart.
	memory := func() *provider.Certificates {
		return provider.NewCertificates(func(context.Context, string) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			if fetched++; served == nil {
				return nil, errors.New("connection refused")
			}
			return served, nil
		}, paypal.roots)
	}
	n := newNode(t, options{certificates: memory()})
	const address = "https://api.paypal.com/v1/notifications/certs/CERT-1"
	n.put("/v1/sources/paypal", `{"provider": "paypal", "webhook_ids": ["WH-1"]}`).want(http.StatusOK)
	w := n.wait(`{"user_id": "u-1", "source": "paypal", "module_id": 1}`)
	paid := `{"id": "E1", "event_type": "PAYMENT.CAPTURE.COMPLETED", "resource": {"id": "C1", "custom_id": "` + w["token"].(string) + `"}}`
	came := time.Now().Add(-50 * time.Hour)
	serve(paypal.certificate(came)) // long out of force
	paypal.send(n, "WH-2", address, paid).refused(http.StatusUnauthorized, "bad_certificate")
	paypal.send(n, "WH-2", address, `{"id": "E2", "event_type": "CHECKOUT.ORDER.SAVED"}`).refused(http.StatusUnauthorized, "bad_certificate")

	// A node that has never seen the certificate, and now has the right webhook.
	other := newNode(t, options{database: n.database, sealed: n.sealed, bare: true, certificates: memory()})
	replay := func() {
		t.Helper()
		other.post("/v1/events/replay", `{"verdict": "rejected"}`).wantReplay(2, 0, false)
		other.replayAll()
	}
	wantRejected := func(when string) {
		t.Helper()
		if got := n.count("events WHERE verdict = 'rejected'"); got != 2 {
			t.Errorf("%s: %d events are rejected, want both", when, got)
		}
	}
	n.put("/v1/sources/paypal", `{"provider": "paypal", "webhook_ids": ["WH-1", "WH-2"]}`).want(http.StatusOK)
	serve(nil)
	replay()
	wantRejected("without a certificate")
	if got := fetches(); got != 1 {
		t.Errorf("asked for one address %d times in one piece, want once", got)
	}
	serve(paypal.certificate(came))
	replay()
	wantRejected("by a certificate that was not in force when they came")
	storetest.Exec(t, n.database, `UPDATE events SET received_at = $1`, came)
	replay()
	if got := fetches(); got != 1 {
		t.Errorf("the certificate was fetched %d times, want once for both replays", got)
	}
	if got := n.get("/v1/correlations/" + w["id"].(string)).object()["status"]; got != "completed" {
		t.Errorf("got the wait %v, want completed", got)
	}
	if got := n.count("events WHERE verdict = 'verified'"); got != 2 {
		t.Errorf("%d events are verified, want both", got)
	}
	if got := len(other.deliveries()); got != 1 {
		t.Errorf("%d deliveries, want one", got)
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
