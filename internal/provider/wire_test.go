package provider_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// What the shared vectors do not hold of how providers sign.

func base64HMAC(secret, message string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(message))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// TestShopifyEvents holds that the newer deliveries of Shopify, which name their
// headers otherwise and may send both kinds, are proven by either, and by
// nothing else.
func TestShopifyEvents(t *testing.T) {
	e := endpoint(t, "shopify", provider.Settings{})
	const secret, body = "shpss_1", `{"topic":"Order","action":"update"}`
	good, bad := base64HMAC(secret, body), base64HMAC("another", body)
	for _, test := range []struct {
		name   string
		header map[string]string
		want   provider.Reason
	}{
		{"webhooks", map[string]string{"X-Shopify-Hmac-Sha256": good}, ""},
		{"events", map[string]string{"shopify-hmac-sha256": good}, ""},
		{"both", map[string]string{"X-Shopify-Hmac-Sha256": good, "Shopify-Hmac-Sha256": good}, ""},
		{"one of both", map[string]string{"X-Shopify-Hmac-Sha256": bad, "Shopify-Hmac-Sha256": good}, ""},
		{"neither of both", map[string]string{"X-Shopify-Hmac-Sha256": bad, "Shopify-Hmac-Sha256": bad}, provider.SignatureMismatch},
		{"events of another secret", map[string]string{"Shopify-Hmac-Sha256": bad}, provider.SignatureMismatch},
		{"empty", map[string]string{"X-Shopify-Hmac-Sha256": "", "Shopify-Hmac-Sha256": ""}, provider.MissingHeader},
		{"none", nil, provider.MissingHeader},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := &provider.Request{Method: "POST", Header: http.Header{}, Body: []byte(body)}
			for name, value := range test.header {
				req.Header.Set(name, value)
			}
			used, err := e.Verify(req, []string{"old", secret}, clock)
			if test.want != "" {
				wantRejection(t, err, test.want)
			} else if err != nil || used != 1 {
				t.Errorf("Verify: got %d, %v, want 1", used, err)
			}
		})
	}
	for _, sig := range []string{"{from: \"header:X-*\", or: \"header:Y\"}", "{from: \"query:a\", or: \"header:Y\"}", "{from: \"header:X\", or: \"query:a\"}"} {
		_, err := provider.Parse([]byte("name: x\nauth:\n  alg: hmac-sha256\n  sig: " + sig + "\n  message: \"{body}\"\n"))
		if err == nil || !strings.Contains(err.Error(), "auth.sig.or") {
			t.Errorf("sig %s: got %v, want auth.sig.or refused", sig, err)
		}
	}
}

// TestHubSpotAddress holds which escapes of the address HubSpot takes out
// before it signs: those of its table, once, and no others.
func TestHubSpotAddress(t *testing.T) {
	e := endpoint(t, "hubspot-v3", provider.Settings{})
	const secret, body, stamp = "client-secret", "[]", "1773480413000"
	for _, test := range []struct {
		name, configured, signed string
		want                     provider.Reason
	}{
		{"plain", "https://x.example/in/shop/form", "https://x.example/in/shop/form", ""},
		{
			"each of the table", "https://x.example/in?a=%3A%2F%3F%40%21%24%27%28%29%2A%2C%3B",
			"https://x.example/in?a=:/?@!$'()*,;", "",
		},
		{"in small letters", "https://x.example/in?a=%3a%2f%2c", "https://x.example/in?a=:/,", ""},
		{"signed as written", "https://x.example/in?a=%3A", "https://x.example/in?a=%3A", ""},
		{"others stay", "https://x.example/in?a=%20%26%3D%25%C3%A9", "https://x.example/in?a=%20%26%3D%25%C3%A9", ""},
		{"others are not taken out", "https://x.example/in?a=%20%26", "https://x.example/in?a= &", provider.SignatureMismatch},
		{"once", "https://x.example/in?a=%253A", "https://x.example/in?a=:", provider.SignatureMismatch},
		{"half of them", "https://x.example/in?a=%3A%2F", "https://x.example/in?a=:%2F", provider.SignatureMismatch},
		{"another address", "https://x.example/in?a=%3A", "https://x.example/in?b=:", provider.SignatureMismatch},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := &provider.Request{Method: "POST", URL: test.configured, Header: http.Header{}, Body: []byte(body)}
			req.Header.Set("X-HubSpot-Request-Timestamp", stamp)
			req.Header.Set("X-HubSpot-Signature-v3", base64HMAC(secret, "POST"+test.signed+body+stamp))
			_, err := e.Verify(req, []string{secret}, clock)
			if test.want != "" {
				wantRejection(t, err, test.want)
			} else if err != nil {
				t.Errorf("Verify: got %v, want accepted", err)
			}
		})
	}
}

// TestDocuSignXML holds that the older form of Connect's callbacks is proven
// like the other, by any of the keys in force, and read.
func TestDocuSignXML(t *testing.T) {
	e := endpoint(t, "docusign", provider.Settings{})
	body := docusignXML("Completed", "<CustomField><Name>token</Name><Value>tok</Value></CustomField>")
	req := &provider.Request{Method: "POST", Header: http.Header{}, Body: []byte(body)}
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	req.Header.Set("X-DocuSign-Signature-1", base64HMAC("the older key", body))
	req.Header.Set("X-DocuSign-Signature-2", base64HMAC("key", body))
	if used, err := e.Verify(req, []string{"key"}, clock); err != nil || used != 0 {
		t.Fatalf("Verify: got %d, %v, want 0", used, err)
	}
	got := read(t, e, req)
	if got.Outcome != relay.Completed || got.Type != "Completed" || len(got.Candidates) == 0 || got.Candidates[0].Value != "tok" || got.Format != relay.FormatText {
		t.Errorf("reading: got %+v, want tok completed, of text", got)
	}
	req.Body = []byte(strings.Replace(body, "tok", "tik", 1))
	_, err := e.Verify(req, []string{"key"}, clock)
	wantRejection(t, err, provider.SignatureMismatch)
	for name, text := range map[string]string{
		"cut off": body[:len(body)-5], "an entity": `<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>`,
		"another alphabet": `<?xml version="1.0" encoding="utf-16"?><a/>`, "two roots": "<a/><b/>",
	} {
		_, err := e.Read(&provider.Request{Body: []byte(text)})
		var unreadable *provider.Unreadable
		if !errors.As(err, &unreadable) || unreadable.Code != provider.BadXML {
			t.Errorf("%s: got %v, want %s", name, err, provider.BadXML)
		}
	}
	for _, text := range []string{"", "\uFEFF", "envelope"} {
		_, err := e.Read(&provider.Request{Body: []byte(text)})
		var unreadable *provider.Unreadable
		if !errors.As(err, &unreadable) || unreadable.Code != provider.NotJSON {
			t.Errorf("%q: got %v, want %s", text, err, provider.NotJSON)
		}
	}
}
