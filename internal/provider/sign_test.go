package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
)

// TestSignatureOfEachEvent holds that every event of a batch is signed by
// itself, and that nothing else of the body changes.
func TestSignatureOfEachEvent(t *testing.T) {
	e, secret := endpoint(t, "adyen", provider.Settings{}), strings.Repeat("0F", 32)
	const body = ` {"notificationItems": [{"NotificationRequestItem": {"additionalData": {"hmacSignature": 1}, "pspReference": "P1", "eventCode": "AUTHORISATION", "success": "true"}},
		{"NotificationRequestItem": {"pspReference": "P2", "eventCode": "REFUND", "additionalData": {"hmacSignature": "a much longer text than a signature, which is to go", "x": "<é>"}}}]}`
	req := &provider.Request{Method: "POST", Body: []byte(body)}
	if err := e.Sign(req, secret, clock); err != nil {
		t.Fatalf("Sign: %v", err)
	}
	if _, err := e.Verify(req, []string{secret}, clock); err != nil {
		t.Errorf("Verify: got %v, want accepted\n%s", err, req.Body)
	}
	readings, err := e.Read(req)
	if err != nil || len(readings) != 2 || readings[0].EventID != "P1:AUTHORISATION:true" {
		t.Errorf("Read: got %v, %v", readings, err)
	}
	before, _, _ := strings.Cut(body, "1}")
	if got := string(req.Body); !strings.HasPrefix(got, before+`"`) || !strings.HasSuffix(got, `", "x": "<é>"}}}]}`) {
		t.Errorf("the body: got %s, want it as it was but for the signatures", got)
	}
	again := string(req.Body)
	if err := e.Sign(req, secret, clock); err != nil || string(req.Body) != again {
		t.Errorf("Sign once more: got %v\n%s\nwant the same\n%s", err, req.Body, again)
	}
}

// TestSignatureInAForm holds that a signature is set among the fields, and the
// others stay as they are written.
func TestSignatureInAForm(t *testing.T) {
	for preset, secret := range map[string]string{"payu-india": "salt", "payu-latam": "key", "braintree": "public|private"} {
		e := endpoint(t, preset, provider.Settings{})
		const fields = "status=success&amount=10.00&txnid=t%31&key=K&merchant_id=1&reference_sale=tok&value=150.00&currency=COP&state_pol=4&bt_payload=PGEvPg%3D%3D%0A"
		body := "hash=forged&sign=forged&bt_signature=forged&" + fields
		req := formRequest(urlencoded, body)
		if err := e.Sign(req, secret, clock); err != nil {
			t.Fatalf("%s: Sign: %v", preset, err)
		}
		if _, err := e.Verify(req, []string{secret}, clock); err != nil {
			t.Errorf("%s: Verify: got %v, want accepted: %s", preset, err, req.Body)
		}
		if !strings.Contains(string(req.Body), fields) {
			t.Errorf("%s: got %s, want the fields as they were written", preset, req.Body)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	adyen, asJSON := strings.Repeat("0F", 32), http.Header{"Content-Type": {"application/json"}}
	for _, test := range []struct {
		name, preset, secret string
		req                  provider.Request
		want                 string
	}{
		{"no place", "adyen", adyen, provider.Request{Body: []byte(`{"notificationItems":[{"NotificationRequestItem":{"pspReference":"P1"}}]}`)}, "has no additionalData.hmacSignature"},
		{"no batch", "adyen", adyen, provider.Request{Body: []byte(`{}`)}, provider.BadBatch},
		{"no form", "payu-india", "s", provider.Request{Header: asJSON, Body: []byte(`{"status":"success","amount":"1","txnid":"t","key":"K"}`)}, urlencoded},
		{"a part absent", "payu-india", "s", provider.Request{Header: http.Header{"Content-Type": {urlencoded}}, Body: []byte("status=success")}, "is absent"},
		{"no payload", "braintree", "public|private", provider.Request{Header: http.Header{"Content-Type": {urlencoded}}}, "is absent"},
		{"a key of PayPal's", "paypal", "", provider.Request{}, "by its provider alone"},
	} {
		e := endpoint(t, test.preset, provider.Settings{})
		if err := e.Sign(&test.req, test.secret, clock); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want it to say %q", test.name, err, test.want)
		}
	}
}

// TestSignedAddressOfAWait holds that what is sent to the address of one wait
// carries the key of that wait, never the secret itself.
func TestSignedAddressOfAWait(t *testing.T) {
	e := endpoint(t, "klarna-hpp", provider.Settings{})
	req := signed(t, e, "s", `{}`)
	want, err := url.ParseQuery(e.CallbackQuery(req.PathToken, []string{"s"}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want["key"], req.Query["key"]); diff != "" {
		t.Errorf("key (-want +got):\n%s", diff)
	}
}

func TestIDHeaders(t *testing.T) {
	for name, want := range map[string][]string{
		"svix": {"Svix-Id"}, "stripe": nil, "woocommerce": {"X-WC-Webhook-Delivery-ID"},
		"shopify": {"X-Shopify-Event-Id", "X-Shopify-Topic"},
	} {
		p, _ := provider.Lookup(name)
		if diff := cmp.Diff(want, p.IDHeaders()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
