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
