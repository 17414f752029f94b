package provider_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"relay.example/relay/internal/provider"
)

// clock is when the callbacks of these tests are sent and received.
var clock = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// fixture reads a callback body of testdata.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatalf("read the fixture: %v", err)
	}
	return body
}

// BenchmarkStripe holds Verify and Read against the least that anyone does:
// one HMAC over the body, and encoding/json into a map.
func BenchmarkStripe(b *testing.B) {
	const secret = "whsec_bench"
	for _, name := range []string{"stripe-intent.json", "stripe-session.json"} {
		body := fixture(b, name)
		e := endpoint(b, "stripe", provider.Settings{})
		header := http.Header{}
		if err := e.Sign(&provider.Request{Header: header, Body: body}, secret, clock); err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/relay", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				req := provider.Request{Header: header, Body: body}
				if _, err := e.Verify(&req, []string{secret}, clock); err != nil {
					b.Fatal(err)
				}
				if _, err := e.Read(&req); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/hmac+json", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				bare(b, secret, header.Get("Stripe-Signature"), body)
			}
		})
	}
}

func bare(b *testing.B, secret, header string, body []byte) {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(header[2:12] + "."))
	mac.Write(body)
	sent, err := hex.DecodeString(header[16:])
	if err != nil || !hmac.Equal(sent, mac.Sum(nil)) {
		b.Fatal("the signature does not hold")
	}
	var event map[string]any
	if err := json.Unmarshal(body, &event); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSchemes verifies and reads a body of 2.6 KB with a preset of each way
// to sign. BenchmarkStripe has what it is to be held against.
func BenchmarkSchemes(b *testing.B) {
	body := fixture(b, "stripe-session.json")
	for _, name := range []string{
		"razorpay", "shopify", "paddle", "svix", "hubspot-v2", "square", "surveymonkey", "webflow", "generic-apikey",
	} {
		e, secret := endpoint(b, name, provider.Settings{}), secretFor(name)
		req := provider.Request{Method: "POST", URL: "https://relay.example/in", Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
		if err := e.Sign(&req, secret, clock); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) { benchmarkCallback(b, e, req, secret) })
	}
	const batch = `{"live":"false","notificationItems":[{"NotificationRequestItem":{"additionalData":{"hmacSignature":"Ny9gS2veKo5E4w8/OL6xz1/wvT/hYkAXy1xNc/QvO4I="},` +
		`"pspReference":"7914073381342284","merchantAccountCode":"TestMerchant","merchantReference":"TestPayment-1407325143704",` +
		`"amount":{"value":1130,"currency":"EUR"},"eventCode":"AUTHORISATION","success":"true"}}]}`
	b.Run("adyen", func(b *testing.B) {
		benchmarkCallback(b, endpoint(b, "adyen", provider.Settings{}), provider.Request{Body: []byte(batch)},
			"DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00")
	})
	b.Run("braintree", func(b *testing.B) {
		req := braintreeRequest("<notification><kind>transaction_settled</kind><subject><transaction><id>1</id><amount>1</amount></transaction></subject></notification>")
		benchmarkCallback(b, endpoint(b, "braintree", provider.Settings{}), *req, braintreeSecret)
	})
	b.Run("twilio", func(b *testing.B) {
		req := provider.Request{Method: "POST", URL: "https://relay.example/in", Header: http.Header{"Content-Type": {urlencoded}}, Body: []byte("CallSid=CA1&Result=success&token=tok")}
		e := endpoint(b, "twilio", provider.Settings{})
		if err := e.Sign(&req, "12345", clock); err != nil {
			b.Fatal(err)
		}
		benchmarkCallback(b, e, req, "12345")
	})
}

func benchmarkCallback(b *testing.B, e *provider.Endpoint, genuine provider.Request, secret string) {
	b.SetBytes(int64(len(genuine.Body)))
	b.ReportAllocs()
	for b.Loop() {
		req := provider.Request{Method: genuine.Method, URL: genuine.URL, Header: genuine.Header, Body: genuine.Body}
		if _, err := e.Verify(&req, []string{secret}, clock); err != nil {
			b.Fatal(err)
		}
		if _, err := e.Read(&req); err != nil {
			b.Fatal(err)
		}
	}
}
