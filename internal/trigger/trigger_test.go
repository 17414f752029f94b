package trigger_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
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
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/trigger"
)

// clock is when the callbacks of these tests are sent and received.
var clock = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// private is the key of a sender by Standard Webhooks.
var private = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// secrets holds a secret of each preset that does not take any text.
var secrets = map[string]string{
	"standard-webhooks":     "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	"svix":                  "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	"standard-webhooks-v1a": "whpk_" + base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey)),
	"generic-basic":         "user:pass:word",
	"adyen":                 strings.Repeat("0F", 32),
	"adyen-platform":        strings.Repeat("0F", 32),
	"braintree":             "public|private",
	"paypal":                "1JE4291016473214C", // the id of a webhook, and no secret
}

func secretOf(preset string) string {
	if secret, ok := secrets[preset]; ok {
		return secret
	}
	return "a secret of " + preset
}

func endpoint(t *testing.T, name string) *provider.Endpoint {
	t.Helper()
	p, ok := provider.Lookup(name)
	if !ok {
		t.Fatalf("preset %s: not found", name)
	}
	var settings provider.Settings
	if p.KeyField() == "webhook_ids" {
		settings.WebhookIDs = []string{secretOf(name)}
	}
	e, err := p.Endpoint(settings)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// presets lists those that a source can be made of.
func presets() []string {
	return slices.DeleteFunc(provider.Names(), func(name string) bool {
		p, _ := provider.Lookup(name)
		return p.Internal
	})
}

func factsFor(token string) *trigger.Facts {
	return &trigger.Facts{
		Token: token, Field: "conversation_token", Event: "e-" + relay.NewToken(), Payment: "p-1", Amount: "20.50", Currency: "EUR", At: clock,
	}
}

func requestOf(t *testing.T, c *trigger.Callback, preset string, f *trigger.Facts) *provider.Request {
	t.Helper()
	address, err := url.Parse("https://relay.example/in/default/source")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := provider.Lookup(preset)
	req, err := c.Request(p, address, f)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// sign makes a callback a genuine one, as its provider would.
func (i *issuer) sign(t *testing.T, e *provider.Endpoint, req *provider.Request) {
	t.Helper()
	var err error
	switch name := e.Preset().Name; name {
	case "paypal":
		if err = e.Sign(req, "", clock); !errors.Is(err, provider.ErrProviderSigns) {
			t.Fatalf("Sign: got %v, want it refused: the key is PayPal's alone", err)
		}
		err = i.signAs(t, e, req)
	case "standard-webhooks-v1a":
		err = e.Sign(req, "whsk_"+base64.StdEncoding.EncodeToString(private), clock)
	default:
		err = e.Sign(req, secretOf(name), clock)
	}
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
}

// issuer signs as PayPal does, with a certificate of its own.
type issuer struct {
	key   *rsa.PrivateKey
	text  []byte
	roots *x509.CertPool
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test"}, DNSNames: []string{"certs.paypal.com"},
		NotBefore: clock.Add(-time.Hour), NotAfter: clock.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key, text: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), roots: x509.NewCertPool()}
	i.roots.AppendCertsFromPEM(i.text)
	return i
}

func (i *issuer) signAs(t *testing.T, e *provider.Endpoint, req *provider.Request) error {
	t.Helper()
	const id, at = "id-1", "2026-03-14T09:26:53Z"
	message := sha256.Sum256(fmt.Appendf(nil, "%s|%s|%s|%d", id, at, secretOf("paypal"), crc32.ChecksumIEEE(req.Body)))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, message[:])
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"Paypal-Auth-Algo": "SHA256withRSA", "Paypal-Cert-Url": "https://api.paypal.com/certs/1", "Paypal-Transmission-Id": id,
		"Paypal-Transmission-Time": at, "Paypal-Transmission-Sig": base64.StdEncoding.EncodeToString(signature),
	} {
		req.Header.Set(name, text)
	}
	certificates := provider.NewCertificates(func(context.Context, string) ([]byte, error) { return i.text, nil }, i.roots)
	return certificates.Fill(t.Context(), e, req, clock)
}

var unfilled = regexp.MustCompile(`\{[a-z_]+\}|%7B[a-z_]+%7D`)

// TestEveryPresetAndOutcome holds that there is a callback for every outcome of
// every preset, and that its preset verifies it and reads it as such.
func TestEveryPresetAndOutcome(t *testing.T) {
	t.Parallel()
	paypal := newIssuer(t)
	for _, name := range presets() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := endpoint(t, name)
			var outcomes []relay.Outcome
			for _, c := range trigger.Callbacks(name) {
				outcomes = append(outcomes, c.Outcome)
				for _, token := range []string{"k3JxV0b7Qm2nT9sLw4YzAe", `order "7" & <é> 100% +`} {
					checkCallback(t, paypal, e, &c, factsFor(token))
				}
			}
			for _, want := range e.Preset().Outcomes() {
				if e.NeedsKey() {
					break // they tell of none by themselves
				}
				if !slices.Contains(outcomes, want) {
					t.Errorf("callbacks: got outcomes %v, want %s too", outcomes, want)
				}
			}
			if len(outcomes) == 0 {
				t.Error("callbacks: got none, want one at least")
			}
		})
	}
}

func checkCallback(t *testing.T, paypal *issuer, e *provider.Endpoint, c *trigger.Callback, f *trigger.Facts) {
	t.Helper()
	name := c.Type + " as " + string(c.Outcome)
	req := requestOf(t, c, e.Preset().Name, f)
	if left := unfilled.FindString(string(req.Body) + fmt.Sprint(req.Header, req.URL)); left != "" {
		t.Errorf("%s: got %s left in it, want it filled in", name, left)
	}
	paypal.sign(t, e, req)
	secret := secretOf(e.Preset().Name)
	used, err := e.Verify(req, []string{secret}, clock)
	bySecret := e.Preset().Signed() && e.Preset().KeyField() == "secret"
	if want := map[bool]int{true: 0, false: -1}[bySecret]; err != nil || used != want {
		t.Fatalf("%s: Verify: got %d, %v, want %d", name, used, err, want)
	}
	if _, err := e.Verify(req, []string{"00" + secret[2:] + "00"}, clock); err == nil && bySecret {
		t.Errorf("%s: got accepted with another secret, want it rejected", name)
	}
	readings, err := e.Read(req)
	if err != nil || len(readings) != 1 {
		t.Fatalf("%s: Read: got %d readings, %v, want one", name, len(readings), err)
	}
	r := readings[0]
	if r.Outcome != c.Outcome || r.Type != "" && r.Type != c.Type {
		t.Errorf("%s: got %s as %q", name, r.Type, r.Outcome)
	}
	checkToken(t, name, c, &r, f)
	if p := r.Payment; p != nil && p.AmountMinor != nil && (*p.AmountMinor != 2050 || p.Currency != "EUR" && e.Preset().Name != "payu-india") {
		t.Errorf("%s: got the amount %d %s, want 2050 EUR", name, *p.AmountMinor, p.Currency)
	}
	if hasID := strings.Contains(fmt.Sprint(c.Header, c.Body), `"{event}"`); hasID && r.EventID == "" {
		t.Errorf("%s: got no id of the event, want one", name)
	}
}

// checkToken holds that the callback finds its wait: by the token, or by what
// the payment's success has named.
func checkToken(t *testing.T, name string, c *trigger.Callback, r *relay.Reading, f *trigger.Facts) {
	t.Helper()
	if c.Outcome == "" {
		return
	}
	if !c.ByReference {
		if len(r.Candidates) == 0 || r.Candidates[0].Value != f.Token {
			t.Errorf("%s: got the tokens %v, want %q first", name, r.Candidates, f.Token)
		}
		return
	}
	if len(r.References) == 0 || !strings.Contains(fmt.Sprint(r.References), f.Payment) && !strings.Contains(fmt.Sprint(r.References), "gid://shopify/Order/") {
		t.Errorf("%s: got the references %v, want the payment %s", name, r.References, f.Payment)
	}
}

// TestReferencesOfOnePayment holds that what comes without a token finds the
// wait that the success of the same payment has taught.
func TestReferencesOfOnePayment(t *testing.T) {
	t.Parallel()
	for _, name := range presets() {
		for _, c := range trigger.Callbacks(name) {
			if !c.ByReference {
				continue
			}
			e := endpoint(t, name)
			success, ok := trigger.Find(name, string(relay.Completed))
			if !ok {
				t.Fatalf("%s: got no success", name)
			}
			taught, later := referencesOf(t, e, success), referencesOf(t, e, &c)
			if !slices.ContainsFunc(later, func(r relay.Candidate) bool { return slices.Contains(taught, r) }) {
				t.Errorf("%s %s: got the references %v, want one of %v", name, c.Type, later, taught)
			}
		}
	}
}

func referencesOf(t *testing.T, e *provider.Endpoint, c *trigger.Callback) []relay.Candidate {
	t.Helper()
	readings, err := e.Read(requestOf(t, c, e.Preset().Name, factsFor("k3JxV0b7Qm2nT9sLw4YzAe")))
	if err != nil {
		t.Fatal(err)
	}
	return readings[0].References
}

// TestEveryFileHasAPreset holds that no callback stands where nothing reads it.
func TestEveryFileHasAPreset(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("callbacks", "*.yaml"))
	if err != nil || len(files) < 30 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		_, ok := provider.Lookup(name)
		if text, err := os.ReadFile(file); !ok && name != "generic" && name != "hubspot" || err != nil || len(text) == 0 {
			t.Errorf("%s: got %v, want it to be of a preset", file, err)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, name, typ string
		outcome           relay.Outcome
	}{
		{"stripe", "checkout.session.completed", "checkout.session.completed", relay.Completed},
		{"stripe", "attempt_failed", "payment_intent.payment_failed", relay.AttemptFailed},
		{"square", "payment.updated", "payment.updated", relay.Completed},
		{"square", "cancelled", "payment.updated", relay.Cancelled},
		{"payu-latam", "4", "4", relay.Completed},
		{"stripe", "", "", ""},
		{"mollie-classic", "completed", "paid", ""},
		{"nobody", "completed", "", ""},
	} {
		c, ok := trigger.Find(test.preset, test.name)
		if ok != (test.typ != "") || ok && (c.Type != test.typ || c.Outcome != test.outcome) {
			t.Errorf("Find(%s, %q): got %+v, %t, want %s as %s", test.preset, test.name, c, ok, test.typ, test.outcome)
		}
	}
}

func TestNeighbour(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, name string
		want         relay.Outcome
		before       bool
	}{
		{"stripe", "completed", relay.Processing, true},
		{"klarna-hpp", "expired", relay.Processing, true},
		{"stripe", "refunded", relay.Completed, true},
		{"stripe", "attempt_failed", relay.Completed, false},
		{"html-form", "completed", "", false},
		{"github", "ping", "", false},
	} {
		c, ok := trigger.Find(test.preset, test.name)
		if !ok {
			t.Fatalf("%s %s: got none", test.preset, test.name)
		}
		other, before, ok := trigger.Neighbour(test.preset, c)
		if ok != (test.want != "") || before != test.before || ok && other.Outcome != test.want {
			t.Errorf("%s %s: got %+v, before %t, %t, want %s, before %t", test.preset, test.name, other, before, ok, test.want, test.before)
		}
	}
}

func TestRequestRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(f *trigger.Facts){
		"an amount in words":          func(f *trigger.Facts) { f.Amount = "much" },
		"more digits than there are":  func(f *trigger.Facts) { f.Currency = "JPY" },
		"nobody whom it could be for": func(f *trigger.Facts) { f.Token = "" },
	} {
		f := factsFor("tok")
		change(f)
		c, _ := trigger.Find("stripe", "completed")
		p, _ := provider.Lookup("stripe")
		if _, err := c.Request(p, &url.URL{}, f); err == nil {
			t.Errorf("%s: got a request, want it refused", name)
		}
	}
}

// TestAddresses holds where the token goes in the address of those that are
// known by it.
func TestAddresses(t *testing.T) {
	t.Parallel()
	c, _ := trigger.Find("klarna-hpp", "completed")
	p, _ := provider.Lookup("klarna-hpp")
	for address, want := range map[string][2]string{
		"https://r.example/in/default/k":             {"https://r.example/in/default/k/tok", "tok"},
		"https://r.example/in/default/k/":            {"https://r.example/in/default/k/tok", "tok"},
		"https://r.example/x/in/default/k/own?key=1": {"https://r.example/x/in/default/k/own?key=1", "own"},
		"https://r.example/hook":                     {"https://r.example/hook", ""},
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		req, err := c.Request(p, u, factsFor("tok"))
		if err != nil || req.URL != want[0] || req.PathToken != want[1] {
			t.Errorf("%s: got %s with %q, %v, want %v", address, req.URL, req.PathToken, err, want)
		}
	}
}
