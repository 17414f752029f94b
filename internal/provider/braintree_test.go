package provider_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"testing"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

const braintreeSecret = "public|private"

func braintreeMAC(text string) string {
	key := sha1.Sum([]byte("private"))
	mac := hmac.New(sha1.New, key[:])
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// braintreeRequest is signed as Braintree signs.
func braintreeRequest(xml string) *provider.Request {
	payload := base64.StdEncoding.EncodeToString([]byte(xml)) + "\n"
	return formRequest(urlencoded, url.Values{"bt_signature": {"other|00&public|" + braintreeMAC(payload)}, "bt_payload": {payload}}.Encode())
}

func TestBraintreeTransaction(t *testing.T) {
	e := endpoint(t, "braintree", provider.Settings{})
	req := braintreeRequest(`<?xml version="1.0"?><notification><kind>transaction_settled</kind><timestamp>2026-03-14T09:26:53Z</timestamp>
		<subject><transaction><id>t1</id><order-id>tok &amp; 1</order-id><amount>20.50</amount><currency-iso-code>EUR</currency-iso-code>
		<customer><email>a@b.example</email></customer></transaction></subject></notification>`)
	if used, err := e.Verify(req, []string{braintreeSecret}, clock); err != nil || used != 0 {
		t.Fatalf("Verify: got %d, %v", used, err)
	}
	got := read(t, e, req)
	if got.EventID != "transaction_settled:t1:2026-03-14T09:26:53Z" || got.Outcome != relay.Completed ||
		got.Candidates[0].Value != "tok & 1" || *got.Payment.AmountMinor != 2050 || got.Payment.Email != "a@b.example" {
		t.Errorf("got %+v with payment %+v", got, got.Payment)
	}
}

func TestBraintreeXML(t *testing.T) {
	e := endpoint(t, "braintree", provider.Settings{})
	for name, xml := range map[string]string{
		"no XML":               "hello",
		"empty":                "",
		"cut off":              "<notification><kind>transaction_settled</kind>",
		"two roots":            "<a/><b/>",
		"an entity of its own": `<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>`,
		"nested too deep":      strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100),
		"too many elements":    "<a>" + strings.Repeat("<b/>", 10_001) + "</a>",
	} {
		_, err := e.Read(braintreeRequest(xml))
		var unreadable *provider.Unreadable
		if !errors.As(err, &unreadable) || unreadable.Code != provider.BadXML {
			t.Errorf("%s: got %v, want %s", name, err, provider.BadXML)
		}
	}
	_, err := e.Read(formRequest(urlencoded, "bt_payload=%25%25"))
	var unreadable *provider.Unreadable
	if !errors.As(err, &unreadable) || unreadable.Code != provider.BadXML {
		t.Errorf("no base64: got %v, want %s", err, provider.BadXML)
	}
	// Of elements of one name the first counts.
	if got := read(t, e, braintreeRequest("<notification><kind>one</kind><kind>two</kind><x><y/>text<z/></x></notification>")); got.Type != "one" {
		t.Errorf("type: got %q, want one", got.Type)
	}
}

func TestBraintreeRejections(t *testing.T) {
	e := endpoint(t, "braintree", provider.Settings{})
	payload := "YQ==\n"
	for name, test := range map[string]struct {
		body   url.Values
		secret string
		want   provider.Reason
	}{
		"no signature":              {url.Values{"bt_payload": {payload}}, braintreeSecret, provider.MissingHeader},
		"no payload":                {url.Values{"bt_signature": {"public|" + braintreeMAC(payload)}}, braintreeSecret, provider.MissingHeader},
		"another public key":        {url.Values{"bt_signature": {"other|" + braintreeMAC(payload)}, "bt_payload": {payload}}, braintreeSecret, provider.SignatureMismatch},
		"no public key":             {url.Values{"bt_signature": {braintreeMAC(payload)}, "bt_payload": {payload}}, braintreeSecret, provider.SignatureMismatch},
		"too many signatures":       {url.Values{"bt_signature": {strings.Repeat("a|b&", 40)}, "bt_payload": {payload}}, braintreeSecret, provider.BadHeader},
		"a secret without its half": {url.Values{"bt_signature": {"|" + braintreeMAC(payload)}, "bt_payload": {payload}}, "|private", provider.UnusableSecret},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.Verify(formRequest(urlencoded, test.body.Encode()), []string{test.secret}, clock)
			wantRejection(t, err, test.want)
		})
	}
}

// TestBraintreeChallenge holds that nothing is signed for whoever asks that
// could be the payload of a callback.
func TestBraintreeChallenge(t *testing.T) {
	e := endpoint(t, "braintree", provider.Settings{})
	ask := func(method, question string, secrets ...string) string {
		answer, _ := e.Handshake(&provider.Request{Method: method, Query: url.Values{"bt_challenge": {question}}}, secrets)
		return answer
	}
	const question = "20f9f8ed05f77439fe955c977e4c8a53"
	if got, want := ask("GET", question, braintreeSecret), "public|"+braintreeMAC(question); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, refused := range []string{"", "PG5vdGlmaWNhdGlvbj4=", question + question, question[:19], question + "\n", strings.ToUpper(question)} {
		if got := ask("GET", refused, braintreeSecret); got != "" {
			t.Errorf("challenge %q: got %q, want no answer", refused, got)
		}
	}
	if got := ask("POST", question, braintreeSecret) + ask("GET", question) + ask("GET", question, "no key"); got != "" {
		t.Errorf("by POST, or without a secret: got %q, want no answer", got)
	}
}
