package provider_test

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"relay.example/relay/internal/provider"
)

// testSecrets holds a secret that each signing preset takes.
var testSecrets = map[string]string{
	"standard-webhooks": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	"svix":              "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	"generic-basic":     "user:pass:word",
	"adyen-platform":    strings.Repeat("0F", 32),
}

// notSigned lists the presets of which Sign cannot make any request a genuine
// one: their signature stands in a body that has to have a place for it, or the
// key to it is not the secret.
var notSigned = []string{"adyen", "braintree", "payu-india", "payu-latam", "paypal", "standard-webhooks-v1a"}

// signable lists the presets whose callbacks Sign can make.
func signable() []string {
	return slices.DeleteFunc(provider.Names(), func(name string) bool { return slices.Contains(notSigned, name) })
}

func secretFor(name string) string {
	if s, ok := testSecrets[name]; ok {
		return s
	}
	return "a secret of " + name
}

func wantRejection(t *testing.T, err error, want provider.Reason) {
	t.Helper()
	var rejection *provider.Rejection
	if !errors.As(err, &rejection) || rejection.Reason != want {
		t.Errorf("Verify: got %v, want reason %s", err, want)
	}
}

func signed(t testing.TB, e *provider.Endpoint, secret, body string) *provider.Request {
	t.Helper()
	req := &provider.Request{
		Method: "POST", URL: "https://relay.example/in/default/x", PathToken: "k3JxV0b7Qm2nT9sLw4YzAe", Header: http.Header{}, Body: []byte(body),
		Query: url.Values{
			"razorpay_payment_link_id": {"plink_1"}, "razorpay_payment_link_status": {"paid"}, "razorpay_payment_id": {"pay_1"},
		},
	}
	if err := e.Sign(req, secret, clock); err != nil {
		t.Fatalf("Sign: %v", err)
	}
	return req
}

func TestWhatIsSignedVerifies(t *testing.T) {
	for _, name := range signable() {
		t.Run(name, func(t *testing.T) {
			e, secret := endpoint(t, name, provider.Settings{}), secretFor(name)
			req := signed(t, e, secret, `{"id":"1"}`)
			used, err := e.Verify(req, []string{"", "b3RoZXI=", secret}, clock)
			if want := map[bool]int{true: 2, false: -1}[e.Preset().Signed()]; err != nil || used != want {
				t.Errorf("Verify: got %d, %v, want %d", used, err, want)
			}
		})
	}
}

func TestFailsClosed(t *testing.T) {
	for _, name := range signable() {
		e, secret := endpoint(t, name, provider.Settings{}), secretFor(name)
		if !e.Preset().Signed() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			req := signed(t, e, secret, `{"id":"1"}`)
			for _, secrets := range [][]string{nil, {}, {""}, {"", ""}} {
				_, err := e.Verify(req, secrets, clock)
				wantRejection(t, err, provider.NoSecret)
			}
			_, err := e.Verify(&provider.Request{Body: []byte(`{}`)}, []string{secret}, clock)
			wantRejection(t, err, provider.MissingHeader)
			for _, header := range e.ProofHeaders() {
				emptied := *req
				emptied.Header = req.Header.Clone()
				for name := range emptied.Header {
					if prefix, many := strings.CutSuffix(header, "*"); name == header || many && strings.HasPrefix(name, prefix) {
						emptied.Header.Set(name, "")
					}
				}
				if _, err := e.Verify(&emptied, []string{secret}, clock); err == nil {
					t.Errorf("empty %s: got accepted, want a rejection", header)
				}
			}
		})
	}
}

func TestSecretsThatDecodeToNothing(t *testing.T) {
	e := endpoint(t, "standard-webhooks", provider.Settings{})
	for _, secret := range []string{"whsec_", "whsec_====", "whsec_!!!", "=", "whsec_ICAg"} {
		t.Run(secret, func(t *testing.T) {
			_, err := e.Verify(signed(t, e, secretFor("svix"), `{}`), []string{secret}, clock)
			wantRejection(t, err, provider.UnusableSecret)
			if err := e.Preset().CheckSecret(secret); err == nil {
				t.Errorf("CheckSecret(%q): got accepted, want an error", secret)
			}
			if err := e.Sign(&provider.Request{}, secret, clock); err == nil {
				t.Errorf("Sign with %q: got signed, want an error", secret)
			}
		})
	}
	if err := e.Preset().CheckSecret(secretFor("svix")); err != nil {
		t.Errorf("CheckSecret: got %v, want accepted", err)
	}
}

func TestStripeRejections(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	const secret = "whsec_1"
	genuine := signed(t, e, secret, `{"id":"evt_1"}`).Header.Get("Stripe-Signature")
	stamp, mac, _ := strings.Cut(genuine, ",")
	for _, test := range []struct {
		name    string
		headers []string
		want    provider.Reason
	}{
		{"no time", []string{mac}, provider.MissingHeader},
		{"empty time", []string{"t=," + mac}, provider.MissingHeader},
		{"time twice", []string{stamp + "," + genuine}, provider.BadHeader},
		{"time twice in two headers", []string{genuine, stamp}, provider.BadHeader},
		{"time with a sign", []string{"t=+1773480413," + mac}, provider.BadTimestamp},
		{"time in words", []string{"t=now," + mac}, provider.BadTimestamp},
		{"time without end", []string{"t=" + strings.Repeat("9", 16) + "," + mac}, provider.BadTimestamp},
		{"another time", []string{"t=1773480414," + mac}, provider.SignatureMismatch},
		{"another scheme", []string{strings.Replace(genuine, "v1=", "v0=", 1)}, provider.BadHeader},
		{"too many signatures", []string{genuine + strings.Repeat(",v1=00", provider.MaxSignatures)}, provider.BadHeader},
		{"half a signature", []string{genuine[:len(genuine)-32]}, provider.SignatureMismatch},
		{"nothing but separators", []string{",,,"}, provider.MissingHeader},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := &provider.Request{Header: http.Header{"Stripe-Signature": test.headers}, Body: []byte(`{"id":"evt_1"}`)}
			_, err := e.Verify(req, []string{secret}, clock)
			wantRejection(t, err, test.want)
		})
	}
}

// TestRejectionsSayWhatToDo holds that a rejection names the place that it is
// about, as the preset does, and that every reason has words of its own.
func TestRejectionsSayWhatToDo(t *testing.T) {
	const sent = "sent-by-a-stranger"
	for _, test := range []struct {
		preset string
		header http.Header
		want   string
	}{
		{"stripe", nil, "the header Stripe-Signature is missing"},
		{"stripe", http.Header{"Stripe-Signature": {"v1=00"}}, "t in the header Stripe-Signature is missing"},
		{"stripe", http.Header{"Stripe-Signature": {sent}}, "the header Stripe-Signature cannot be read"},
		{"stripe", http.Header{"Stripe-Signature": {"t=" + sent + ",v1=00"}}, "the signed time is not a time"},
		{"stripe", http.Header{"Stripe-Signature": {"t=1,v1=00"}}, "the signature is not made with this source's secret"},
		{"svix", http.Header{"Svix-Id": {sent}, "Svix-Signature": {"v1,AAAA"}}, "the header Svix-Timestamp is missing"},
		{"svix", http.Header{"Svix-Timestamp": {"1"}, "Svix-Signature": {"v1,AAAA"}}, "the header Svix-Id is missing"},
		{"generic-apikey", nil, "the header X-Api-Key is missing"},
		{"generic-apikey", http.Header{"X-Api-Key": {sent}}, "the credentials are not this source's"},
		{"generic-basic", http.Header{"Authorization": {"Bearer " + sent}}, "the header Authorization, with Basic credentials, is missing"},
	} {
		_, err := endpoint(t, test.preset, provider.Settings{}).Verify(&provider.Request{Header: test.header}, []string{secretFor(test.preset)}, clock)
		var rejection *provider.Rejection
		if !errors.As(err, &rejection) || !strings.HasPrefix(rejection.Detail(), test.want) || strings.Contains(rejection.Detail(), sent) {
			t.Errorf("%s with %v: got %+v, want %q", test.preset, test.header, rejection, test.want)
		}
	}
	seen := map[string]provider.Reason{}
	for _, reason := range append(provider.Reasons, "another") {
		detail := (&provider.Rejection{Reason: reason}).Detail()
		if before, ok := seen[detail]; ok {
			t.Errorf("%s and %s say the same: %s", before, reason, detail)
		}
		seen[detail] = reason
	}
	for reason, word := range map[provider.Reason]string{provider.OutsideTolerance: "`tolerance`", provider.SignatureMismatch: "compare the secret"} {
		if got := (&provider.Rejection{Reason: reason}).Detail(); !strings.Contains(got, word) {
			t.Errorf("%s: got %q, want it to say %q", reason, got, word)
		}
	}
}

// TestSecretOfAnotherKind holds that a secret that is obviously something else
// is refused, and with words that say what to look for.
func TestSecretOfAnotherKind(t *testing.T) {
	preset, _ := provider.Lookup("stripe")
	for secret, want := range map[string]string{
		"whsec_1": "", "sk": "",
		"sk_test_1": "unusable_secret: this is an API key; the signing secret begins with whsec_",
		"pk_live_1": "unusable_secret: this is an API key; the signing secret begins with whsec_",
		"rk_live_1": "unusable_secret: this is an API key; the signing secret begins with whsec_",
	} {
		got := ""
		if err := preset.CheckSecret(secret); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("CheckSecret(%q): got %q, want %q", secret, got, want)
		}
	}
	if preset, _ := provider.Lookup("generic-hmac"); preset.CheckSecret("sk_test_1") != nil {
		t.Error("generic-hmac refuses a secret that may well be one")
	}
	_, err := provider.Parse([]byte("name: x\nauth: {alg: none}\nsecret: {not_prefix: sk_}\n"))
	if err == nil || !strings.Contains(err.Error(), "line 3: secret.because: is missing") {
		t.Errorf("a rule without words: got %v, want secret.because", err)
	}
}

func TestTolerance(t *testing.T) {
	for _, test := range []struct {
		name      string
		tolerance time.Duration
		drift     time.Duration
		genuine   bool
	}{
		{"default, at its edge", 0, 300 * time.Second, true},
		{"default, beyond", 0, 301 * time.Second, false},
		{"default, in the future", 0, -301 * time.Second, false},
		{"an hour, within", time.Hour, 59 * time.Minute, true},
		{"a second, beyond", time.Second, 2 * time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := endpoint(t, "svix", provider.Settings{Tolerance: test.tolerance})
			_, err := e.Verify(signed(t, e, secretFor("svix"), `{}`), []string{secretFor("svix")}, clock.Add(test.drift))
			if test.genuine && err != nil {
				t.Errorf("Verify: got %v, want accepted", err)
			}
			if !test.genuine {
				wantRejection(t, err, provider.OutsideTolerance)
			}
		})
	}
}

func TestGenericHMACPrefixIsOptional(t *testing.T) {
	e := endpoint(t, "generic-hmac", provider.Settings{})
	req := signed(t, e, "s", `{}`)
	signature := strings.TrimPrefix(req.Header.Get("X-Signature"), "sha256=")
	for _, text := range []string{signature, "sha256=" + signature, strings.ToUpper(signature)} {
		req.Header.Set("X-Signature", text)
		if _, err := e.Verify(req, []string{"s"}, clock); err != nil {
			t.Errorf("%s: got %v, want accepted", text, err)
		}
	}
}

func TestCredentialsOfTheSettings(t *testing.T) {
	t.Run("besides a signature", func(t *testing.T) {
		e := endpoint(t, "generic-hmac", provider.Settings{Username: "hook", Password: "pa:ss"})
		req := signed(t, e, "s", `{}`)
		if _, err := e.Verify(req, []string{"s"}, clock); err != nil {
			t.Errorf("Verify: got %v, want accepted", err)
		}
		req.Header.Set("Authorization", "Basic aG9vazpwYQ==")
		_, err := e.Verify(req, []string{"s"}, clock)
		wantRejection(t, err, provider.CredentialsMismatch)
		req.Header.Del("Authorization")
		_, err = e.Verify(req, []string{"s"}, clock)
		wantRejection(t, err, provider.MissingHeader)
	})
	t.Run("instead of a secret", func(t *testing.T) {
		e := endpoint(t, "generic-basic", provider.Settings{Username: "hook", Password: "pa:ss"})
		used, err := e.Verify(signed(t, e, "hook:pa:ss", `{}`), nil, clock)
		if err != nil || used != -1 {
			t.Errorf("Verify: got %d, %v, want -1", used, err)
		}
	})
}

func TestHeadersRead(t *testing.T) {
	for _, test := range []struct {
		name, preset      string
		settings          provider.Settings
		read, credentials []string
	}{
		{"stripe", "stripe", provider.Settings{KeyField: "header:x-order"}, []string{"Stripe-Signature", "X-Order"}, nil},
		{"github", "github", provider.Settings{}, []string{"X-Github-Delivery", "X-Github-Event", "X-Hub-Signature-256"}, nil},
		{"API key", "generic-apikey", provider.Settings{}, []string{"Content-Type", "X-Api-Key"}, []string{"X-Api-Key"}},
		{"Basic", "generic-basic", provider.Settings{}, []string{"Authorization", "Content-Type"}, []string{"Authorization"}},
		{"credentials", "svix", provider.Settings{Username: "u", Password: "p"}, []string{"Authorization", "Svix-Id", "Svix-Signature", "Svix-Timestamp"}, []string{"Authorization"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := endpoint(t, test.preset, test.settings)
			if diff := cmp.Diff(test.read, e.HeadersRead()); diff != "" {
				t.Errorf("headers read (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.credentials, e.CredentialHeaders()); diff != "" {
				t.Errorf("credential headers (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStandardWebhooksLibrary puts the reference implementation at the other
// end of the wire, once as the sender and once as the receiver.
func TestStandardWebhooksLibrary(t *testing.T) {
	secret := secretFor("standard-webhooks")
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	e, body := endpoint(t, "standard-webhooks", provider.Settings{}), `{"type":"order.paid","data":{"reference":"tok_1"}}`
	t.Run("sends", func(t *testing.T) {
		signature, err := wh.Sign("msg_1", clock, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		header := http.Header{}
		header.Set(standardwebhooks.HeaderWebhookID, "msg_1")
		header.Set(standardwebhooks.HeaderWebhookTimestamp, "1773480413")
		header.Set(standardwebhooks.HeaderWebhookSignature, signature)
		req := &provider.Request{Header: header, Body: []byte(body)}
		if _, err := e.Verify(req, []string{secret}, clock); err != nil {
			t.Fatalf("Verify: got %v, want accepted", err)
		}
		if got := read(t, e, req); got.EventID != "msg_1" || got.Outcome != "completed" || got.Candidates[0].Value != "tok_1" {
			t.Errorf("reading: got %+v, want msg_1, completed, tok_1", got)
		}
	})
	t.Run("receives", func(t *testing.T) {
		req := signed(t, e, secret, body)
		if err := wh.VerifyIgnoringTimestamp(req.Body, req.Header); err != nil {
			t.Errorf("the library says %v, want accepted", err)
		}
	})
}

func TestEndpointIsSafeForConcurrentUse(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	header := signed(t, e, "s", string(fixture(t, "stripe-session.json"))).Header
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			req := &provider.Request{Header: header, Query: url.Values{}, Body: fixture(t, "stripe-session.json")}
			if _, err := e.Verify(req, []string{"s"}, clock); err != nil {
				t.Errorf("Verify: %v", err)
			}
			if r, err := e.Read(req); err != nil || r[0].Outcome != "completed" {
				t.Errorf("Read: %v, %v", r, err)
			}
		})
	}
	group.Wait()
}

// TestKeysOfWaits holds that the address of one wait proves callbacks of that
// wait alone, also while the secret is rotated.
func TestKeysOfWaits(t *testing.T) {
	for _, name := range []string{"jotform", "klarna-hpp"} {
		e := endpoint(t, name, provider.Settings{})
		of := func(token, secret string) url.Values {
			query, err := url.ParseQuery(e.CallbackQuery(token, []string{secret, "another"}))
			if err != nil || query.Get("key") == "" || strings.Contains(query.Get("key"), secret) {
				t.Fatalf("%s: CallbackQuery: got %v, %v", name, query, err)
			}
			return query
		}
		for _, test := range []struct {
			name, path string
			query      url.Values
			want       int // -1: refused
		}{
			{"its own", "tok_1", of("tok_1", "s-1"), 1},
			{"of the secret before", "tok_1", of("tok_1", "s-0"), 0},
			{"of another wait", "tok_2", of("tok_1", "s-1"), -1},
			{"of another secret", "tok_1", of("tok_1", "s-2"), -1},
			{"without a path", "", of("tok_1", "s-1"), -1},
			{"of no wait", "", of("", "s-1"), -1},
			{"the secret itself", "", url.Values{"key": {"s-1"}}, 1},
		} {
			req := &provider.Request{Method: "POST", PathToken: test.path, Query: test.query, Header: http.Header{}, Body: []byte("{}")}
			used, err := e.Verify(req, []string{"s-0", "s-1"}, clock)
			if (err == nil) != (test.want >= 0) || err == nil && used != test.want {
				t.Errorf("%s, %s: got %d, %v, want %d", name, test.name, used, err, test.want)
			}
		}
		if got := e.CallbackQuery("tok_1", nil); got != "" {
			t.Errorf("%s without a secret: got %q, want nothing", name, got)
		}
		if got := e.CredentialQuery(); got != "key" {
			t.Errorf("%s: the credential in the query is %q, want key", name, got)
		}
	}
	for _, name := range []string{"html-form", "mollie-classic", "stripe", "generic-apikey"} {
		if got := endpoint(t, name, provider.Settings{}).CallbackQuery("tok_1", []string{"whsec_1"}); got != "" {
			t.Errorf("%s: got %q, want nothing", name, got)
		}
	}
}
