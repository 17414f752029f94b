package provider_test

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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// authority issues certificates as PayPal's does.
type authority struct {
	key   *rsa.PrivateKey // of all certificates: making keys takes time
	cert  *x509.Certificate
	roots *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, roots: x509.NewCertPool()}
	a.cert = a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	a.roots.AddCert(a.cert)
	return a
}

func (a *authority) issue(t testing.TB, template, by *x509.Certificate) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = clock.Add(-time.Hour), clock.Add(time.Hour)
	}
	if by == nil {
		by = template
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, by, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func inPEM(certs ...*x509.Certificate) []byte {
	var text []byte
	for _, cert := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return text
}

const (
	certAddress = "https://api.paypal.com/v1/notifications/certs/CERT-1"
	webhookID   = "1JE4291016473214C"
)

func ofWebhooks(t testing.TB, ids ...string) *provider.Endpoint {
	t.Helper()
	return endpoint(t, "paypal", provider.Settings{WebhookIDs: ids})
}

// TestWebhookIDs holds that any of a source's webhooks may have sent a
// callback, another never, and that a secret proves nothing here.
func TestWebhookIDs(t *testing.T) {
	a := newAuthority(t)
	certificates := provider.NewCertificates(serving(inPEM(a.issue(t, &x509.Certificate{DNSNames: []string{"a.paypal.com"}}, a.cert))), a.roots)
	for _, test := range []struct {
		name string
		ids  []string
		want provider.Reason
	}{
		{"the only one", []string{webhookID}, ""},
		{"the last of many", append(slices.Repeat([]string{"WH-1"}, provider.MaxWebhookIDs-1), webhookID), ""},
		{"another", []string{"WH-1"}, provider.SignatureMismatch},
		{"one that begins alike", []string{webhookID + "x"}, provider.SignatureMismatch},
		{"none", nil, provider.NoSecret},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := ofWebhooks(t, test.ids...)
			req := a.paypalRequest(t, certAddress, `{"id":"WH-1"}`)
			if err := certificates.Fill(t.Context(), e, req, clock); err != nil {
				t.Fatal(err)
			}
			used, err := e.Verify(req, []string{webhookID}, clock)
			if test.want != "" {
				wantRejection(t, err, test.want)
			} else if err != nil || used != -1 {
				t.Errorf("Verify: got %d, %v, want -1", used, err)
			}
			if got, want := e.AwaitsKey(1), len(test.ids) == 0; got != want {
				t.Errorf("AwaitsKey: got %t, want %t", got, want)
			}
		})
	}
	for _, test := range []struct {
		preset string
		ids    []string
	}{
		{"paypal", []string{""}},
		{"paypal", []string{"WH-1|0"}},
		{"paypal", []string{"WH 1"}},
		{"paypal", []string{strings.Repeat("W", 65)}},
		{"paypal", slices.Repeat([]string{"WH-1"}, provider.MaxWebhookIDs+1)},
		{"stripe", []string{"WH-1"}},
		{"html-form", []string{"WH-1"}},
	} {
		p, _ := provider.Lookup(test.preset)
		if _, err := p.Endpoint(provider.Settings{WebhookIDs: test.ids}); err == nil || !strings.HasPrefix(err.Error(), "invalid_webhook_ids: ") {
			t.Errorf("%s with %q: got %v, want them refused", test.preset, test.ids, err)
		}
	}
	p, _ := provider.Lookup("paypal")
	if err := p.CheckSecret(webhookID); err == nil || !strings.HasPrefix(err.Error(), "secret_unused: ") || !strings.Contains(err.Error(), "webhook_ids") {
		t.Errorf("CheckSecret: got %v, want it to name webhook_ids", err)
	}
}

// paypalMessage is what PayPal signs.
func paypalMessage(body string) []byte {
	return fmt.Appendf(nil, "id-1|2026-03-14T09:26:53Z|%s|%d", webhookID, crc32.ChecksumIEEE([]byte(body)))
}

// paypalRequest is signed as PayPal signs.
func (a *authority) paypalRequest(t testing.TB, address, body string) *provider.Request {
	t.Helper()
	message := sha256.Sum256(paypalMessage(body))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, message[:])
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{}
	header.Set("PAYPAL-AUTH-ALGO", "SHA256withRSA")
	header.Set("PAYPAL-CERT-URL", address)
	header.Set("PAYPAL-TRANSMISSION-ID", "id-1")
	header.Set("PAYPAL-TRANSMISSION-TIME", "2026-03-14T09:26:53Z")
	header.Set("PAYPAL-TRANSMISSION-SIG", base64.StdEncoding.EncodeToString(signature))
	return &provider.Request{Method: "POST", Header: header, Body: []byte(body)}
}

// naming is what a stranger can send: all that PayPal does, with a signature
// that is none.
func naming(address string) *provider.Request {
	return &provider.Request{Method: "POST", Header: http.Header{
		"Paypal-Auth-Algo": {"SHA256withRSA"}, "Paypal-Cert-Url": {address}, "Paypal-Transmission-Id": {"1"},
		"Paypal-Transmission-Time": {"2026-03-14T09:26:53Z"}, "Paypal-Transmission-Sig": {"AAAA"},
	}}
}

func serving(text []byte) provider.Fetch {
	return func(context.Context, string) ([]byte, error) { return text, nil }
}

func TestPayPalCertificates(t *testing.T) {
	a := newAuthority(t)
	e := ofWebhooks(t, webhookID)
	other := newAuthority(t)
	between := a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Between"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a.cert)
	leaf := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "Signer"}, DNSNames: []string{name}}
	}
	for _, test := range []struct {
		name  string
		certs []*x509.Certificate
		want  provider.Reason
	}{
		{"PayPal's", []*x509.Certificate{a.issue(t, leaf("messageverificationcerts.paypal.com"), a.cert)}, ""},
		{"with the one it was issued by", []*x509.Certificate{a.issue(t, leaf("a.paypal.com"), between), between}, ""},
		{"without it", []*x509.Certificate{a.issue(t, leaf("a.paypal.com"), between)}, provider.BadCertificate},
		{"named by its subject alone", []*x509.Certificate{a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "a.paypal.com"}}, a.cert)}, ""},
		{"of another name", []*x509.Certificate{a.issue(t, leaf("paypal.com.evil.example"), a.cert)}, provider.BadCertificate},
		{"of a name that ends alike", []*x509.Certificate{a.issue(t, leaf("notpaypal.com"), a.cert)}, provider.BadCertificate},
		{"of a name beside its subject's", []*x509.Certificate{a.issue(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: "a.paypal.com"}, DNSNames: []string{"evil.example"},
		}, a.cert)}, provider.BadCertificate},
		{"of another authority", []*x509.Certificate{other.issue(t, leaf("a.paypal.com"), other.cert)}, provider.BadCertificate},
		{"expired", []*x509.Certificate{a.issue(t, &x509.Certificate{
			DNSNames: []string{"a.paypal.com"}, NotBefore: clock.Add(-2 * time.Hour), NotAfter: clock.Add(-time.Hour),
		}, a.cert)}, provider.BadCertificate},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := a.paypalRequest(t, certAddress, `{"id":"WH-1"}`)
			if err := provider.NewCertificates(serving(inPEM(test.certs...)), a.roots).Fill(t.Context(), e, req, clock); err != nil {
				t.Fatalf("Fill: %v", err)
			}
			used, err := e.Verify(req, nil, clock)
			if test.want != "" {
				wantRejection(t, err, test.want)
			} else if err != nil || used != -1 {
				t.Errorf("Verify: got %d, %v, want -1", used, err)
			}
		})
	}
}

// TestCertificateInForce holds that what was found out about a certificate counts
// for the time in which all of its chain are in force, and for no other.
func TestCertificateInForce(t *testing.T) {
	a := newAuthority(t)
	e := ofWebhooks(t, webhookID)
	between := a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Between"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: clock.Add(-10 * time.Minute), NotAfter: clock.Add(30 * time.Minute),
	}, a.cert)
	leaf := a.issue(t, &x509.Certificate{DNSNames: []string{"a.paypal.com"}, NotBefore: clock.Add(-20 * time.Minute), NotAfter: clock.Add(40 * time.Minute)}, between)
	certificates := provider.NewCertificates(serving(inPEM(leaf, between)), a.roots)
	for _, test := range []struct {
		after time.Duration
		want  provider.Reason
	}{
		{-15 * time.Minute, provider.BadCertificate},
		{0, ""},
		{0, ""},
		{-10 * time.Minute, ""},
		{-15 * time.Minute, provider.BadCertificate},
		{30 * time.Minute, ""},
		{31 * time.Minute, provider.BadCertificate},
		{41 * time.Minute, provider.BadCertificate},
		{time.Minute, ""},
	} {
		req := a.paypalRequest(t, certAddress, `{}`)
		if err := certificates.Fill(t.Context(), e, req, clock); err != nil {
			t.Fatal(err)
		}
		_, err := e.Verify(req, nil, clock.Add(test.after))
		if test.want != "" {
			wantRejection(t, err, test.want)
		} else if err != nil {
			t.Errorf("after %s: got %v, want accepted", test.after, err)
		}
	}
}

// TestPayPalAddresses holds that nothing is fetched from where a stranger says,
// unless it is PayPal's.
func TestPayPalAddresses(t *testing.T) {
	a := newAuthority(t)
	e := ofWebhooks(t, webhookID)
	fetched := ""
	certificates := provider.NewCertificates(func(_ context.Context, address string) ([]byte, error) {
		fetched = address
		return inPEM(a.issue(t, &x509.Certificate{DNSNames: []string{"a.paypal.com"}}, a.cert)), nil
	}, a.roots)
	for _, address := range []string{
		"http://api.paypal.com/cert", "https://api.paypal.com.evil.example/cert", "https://evil.example/.paypal.com/cert",
		"https://api.paypal.com@evil.example/cert", "https://evil.example#.paypal.com/cert", "https://api.paypal.com:8443/cert",
		"https://user@api.paypal.com/cert", "https://api.paypal.com/cert?x=1", "https://api.paypal.com/cert#x", "https://notpaypal.com/cert",
		"https://api.paypal.com/%63ert", "https://api.paypal.com/./cert", "https://api.paypal.com//cert", "https://api.paypal.com/a/../cert",
		"https://api.paypal.com/cert/", "https://api.paypal.com/cert;x=1", "https://api.paypal.com/", "https://api.paypal.com",
		"https://.paypal.com/cert", "https://API.PAYPAL.COM/cert", "//api.paypal.com/cert", "ftp://api.paypal.com/cert", "https:api.paypal.com/cert",
		"https://api.paypal.com\\@evil.example/cert", "https://evil.example%2f.paypal.com/cert", "https://api.paypal.com/" + strings.Repeat("x", 255), "",
	} {
		req := a.paypalRequest(t, address, `{}`)
		if err := certificates.Fill(t.Context(), e, req, clock); err != nil || fetched != "" {
			t.Fatalf("Fill with %q: got %v, fetched from %q, want nothing fetched", address, err, fetched)
		}
		if _, err := e.Verify(req, nil, clock); err == nil {
			t.Errorf("Verify with %q: got accepted, want a rejection", address)
		}
	}
	// A certificate of one address proves nothing of another.
	req := a.paypalRequest(t, certAddress, `{}`)
	if err := certificates.Fill(t.Context(), e, req, clock); err != nil || fetched != certAddress {
		t.Fatalf("Fill: got %v, fetched from %q", err, fetched)
	}
	req.Header.Set("PAYPAL-CERT-URL", certAddress+"2")
	_, err := e.Verify(req, nil, clock)
	wantRejection(t, err, provider.NoCertificate)
	req.Header.Add("PAYPAL-CERT-URL", certAddress)
	_, err = e.Verify(req, nil, clock)
	wantRejection(t, err, provider.BadHeader)
}

func TestCertificatesAreRemembered(t *testing.T) {
	a := newAuthority(t)
	e := ofWebhooks(t, webhookID)
	text := inPEM(a.issue(t, &x509.Certificate{DNSNames: []string{"a.paypal.com"}}, a.cert))
	fetches := 0
	certificates := provider.NewCertificates(func(context.Context, string) ([]byte, error) {
		fetches++
		return text, nil
	}, a.roots)
	fill := func(address string, at time.Time) error {
		return certificates.Fill(t.Context(), e, a.paypalRequest(t, address, `{}`), at)
	}
	for range 3 {
		if err := fill(certAddress, clock); err != nil {
			t.Fatal(err)
		}
	}
	if fetches != 1 {
		t.Errorf("one address: got %d fetches, want 1", fetches)
	}
	if err := fill(certAddress, clock.Add(25*time.Hour)); err != nil || fetches != 2 {
		t.Errorf("a day later: got %d fetches, %v, want 2", fetches, err)
	}
	// Others push out the one that was used longest ago, and no more than that
	// many are kept.
	now := clock.Add(25 * time.Hour)
	for i := range 64 {
		now = now.Add(time.Minute)
		if err := fill(fmt.Sprintf("%s-%d", certAddress, i), now); err != nil {
			t.Fatal(err)
		}
	}
	if err := fill(certAddress+"-63", now); err != nil || fetches != 66 {
		t.Errorf("the newest: got %d fetches, %v, want 66", fetches, err)
	}
	if err := fill(certAddress, now); err != nil || fetches != 67 {
		t.Errorf("the oldest: got %d fetches, %v, want 67", fetches, err)
	}
}

// TestNothingIsFetchedInVain holds that a callback which no certificate could
// prove makes us ask for none.
func TestNothingIsFetchedInVain(t *testing.T) {
	certificates := provider.NewCertificates(func(_ context.Context, address string) ([]byte, error) {
		t.Errorf("%q is asked for, want nothing", address)
		return nil, errors.New("not found")
	}, nil)
	for _, name := range []string{"Paypal-Auth-Algo", "Paypal-Transmission-Id", "Paypal-Transmission-Time", "Paypal-Transmission-Sig"} {
		req := naming(certAddress)
		req.Header.Del(name)
		if err := certificates.Fill(t.Context(), ofWebhooks(t, webhookID), req, clock); err != nil {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"Paypal-Auth-Algo": "MD5", "Paypal-Transmission-Sig": "no base64"} {
		req := naming(certAddress)
		req.Header.Set(name, text)
		if err := certificates.Fill(t.Context(), ofWebhooks(t, webhookID), req, clock); err != nil {
			t.Errorf("with %s: %s: %v", name, text, err)
		}
	}
	if err := certificates.Fill(t.Context(), ofWebhooks(t), naming(certAddress), clock); err != nil {
		t.Errorf("of a source that awaits its webhook_ids: %v", err)
	}
}

// TestStrangersStopNoCallback holds that one whose certificate is known is
// judged, whatever strangers name and whether or not PayPal can be asked.
func TestStrangersStopNoCallback(t *testing.T) {
	a := newAuthority(t)
	e := ofWebhooks(t, webhookID)
	year := &x509.Certificate{DNSNames: []string{"a.paypal.com"}, NotBefore: clock.Add(-time.Hour), NotAfter: clock.Add(365 * 24 * time.Hour)}
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Root of years"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: clock.Add(-time.Hour), NotAfter: clock.Add(3650 * 24 * time.Hour),
	}
	root = a.issue(t, root, nil)
	a.roots.AddCert(root)
	text := inPEM(a.issue(t, year, root))
	var fetches atomic.Int32
	gone := false
	synctest.Test(t, func(t *testing.T) {
		certificates := provider.NewCertificates(func(_ context.Context, address string) ([]byte, error) {
			if address == certAddress {
				fetches.Add(1)
			}
			if gone || strings.Contains(address, "junk") {
				return nil, errors.New("not found")
			}
			return text, nil
		}, a.roots)
		genuine := func(when string, at time.Time) {
			t.Helper()
			req := a.paypalRequest(t, certAddress, `{}`)
			if err := certificates.Fill(t.Context(), e, req, at); err != nil {
				t.Errorf("%s: %v", when, err)
			} else if _, err := e.Verify(req, nil, at); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			synctest.Wait()
		}
		strangers := func(what string, at time.Time) {
			for i := range 200 {
				_ = certificates.Fill(t.Context(), e, naming(fmt.Sprintf("https://api.paypal.com/%s/%d", what, i)), at.Add(time.Duration(i)*time.Second))
			}
		}
		wantFetches := func(when string, want int32) {
			t.Helper()
			if got := fetches.Load(); got != want {
				t.Errorf("%s: it was fetched %d times, want %d", when, got, want)
			}
		}
		genuine("the first", clock)
		strangers("junk", clock)
		genuine("after strangers", clock)
		// Others of PayPal's that have proven nothing do not push it out.
		strangers("others", clock.Add(time.Hour))
		genuine("after strangers who name what is there", clock.Add(2*time.Hour))
		wantFetches("within a day", 1)

		day := clock.Add(25 * time.Hour)
		strangers("junk", day.Add(-200*time.Second))
		genuine("a day later", day)
		genuine("and at once again", day)
		wantFetches("a day later", 2)
		gone = true
		day = day.Add(25 * time.Hour)
		for i := range 10 {
			genuine("while PayPal cannot be asked", day.Add(time.Duration(i)*10*time.Second))
		}
		wantFetches("while PayPal cannot be asked for 90 s", 4)
		late := clock.Add(366 * 24 * time.Hour)
		for range 3 {
			if err := certificates.Fill(t.Context(), e, naming(certAddress), late); !relay.IsKind(err, relay.Busy) {
				t.Errorf("once it is out of force: got %v, want kind Busy", err)
			}
		}
		wantFetches("out of force", 5)
	})
}

// TestOnlyPayPalsAreRemembered holds that what stands at an address and is
// not PayPal's, or leads to no root, takes no place: it is judged and forgotten.
func TestOnlyPayPalsAreRemembered(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	e := ofWebhooks(t, webhookID)
	for name, text := range map[string][]byte{
		"of another name":      inPEM(a.issue(t, &x509.Certificate{DNSNames: []string{"evil.example"}}, a.cert)),
		"of another authority": inPEM(other.issue(t, &x509.Certificate{DNSNames: []string{"a.paypal.com"}}, other.cert)),
	} {
		fetches := 0
		certificates := provider.NewCertificates(func(context.Context, string) ([]byte, error) {
			fetches++
			return text, nil
		}, a.roots)
		for range 2 {
			req := naming(certAddress)
			if err := certificates.Fill(t.Context(), e, req, clock); err != nil {
				t.Fatal(err)
			}
			_, err := e.Verify(req, nil, clock)
			wantRejection(t, err, provider.BadCertificate)
		}
		if fetches != 2 {
			t.Errorf("%s: got %d fetches, want it forgotten after each", name, fetches)
		}
	}
}

func TestCertificatesThatCannotBeHad(t *testing.T) {
	a := newAuthority(t)
	e := ofWebhooks(t, webhookID)
	for name, fetch := range map[string]provider.Fetch{
		"unreachable":    func(context.Context, string) ([]byte, error) { return nil, errors.New("connection refused") },
		"a page":         serving([]byte("<html>")),
		"broken":         serving([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
		"without an end": serving([]byte(strings.Repeat("x", provider.MaxCertificate+1))),
	} {
		req := a.paypalRequest(t, certAddress, `{}`)
		if err := provider.NewCertificates(fetch, a.roots).Fill(t.Context(), e, req, clock); !relay.IsKind(err, relay.Busy) {
			t.Errorf("%s: got %v, want kind Busy", name, err)
		}
		_, err := e.Verify(req, nil, clock)
		wantRejection(t, err, provider.NoCertificate)
	}
	// A stranger who names one address after the other does not make us ask
	// for all of them.
	var fetches atomic.Int32
	certificates := provider.NewCertificates(func(context.Context, string) ([]byte, error) {
		fetches.Add(1)
		return nil, errors.New("not found")
	}, a.roots)
	for i := range 100 {
		req := a.paypalRequest(t, fmt.Sprintf("%s-%d", certAddress, i), `{}`)
		if err := certificates.Fill(t.Context(), e, req, clock); !relay.IsKind(err, relay.Busy) {
			t.Fatalf("address %d: got %v, want kind Busy", i, err)
		}
	}
	if got := fetches.Load(); got != 10 {
		t.Errorf("a hundred addresses at once: got %d fetches, want 10", got)
	}
	var none *provider.Certificates
	if err := none.Fill(t.Context(), e, a.paypalRequest(t, certAddress, `{}`), clock); err != nil {
		t.Errorf("without a memory: got %v, want nothing filled", err)
	}
}

// TestOneFetchForAll holds that callbacks that come together ask once, and
// that the end of one of them is not the end of the others.
func TestOneFetchForAll(t *testing.T) {
	a := newAuthority(t)
	e := ofWebhooks(t, webhookID)
	text := inPEM(a.issue(t, &x509.Certificate{DNSNames: []string{"a.paypal.com"}}, a.cert))
	synctest.Test(t, func(t *testing.T) {
		var fetches atomic.Int32
		answer := make(chan struct{})
		certificates := provider.NewCertificates(func(ctx context.Context, _ string) ([]byte, error) {
			fetches.Add(1)
			<-answer
			return text, ctx.Err()
		}, a.roots)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 8 {
			req := a.paypalRequest(t, certAddress, `{}`)
			group.Go(func() {
				if err := certificates.Fill(ctx, e, req, clock); err != nil || req.Certificate == nil {
					t.Errorf("Fill: got %v, want a certificate", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		close(answer)
		group.Wait()
		if got := fetches.Load(); got != 1 {
			t.Errorf("got %d fetches, want 1", got)
		}
	})
}
