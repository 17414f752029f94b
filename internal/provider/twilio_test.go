package provider_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"

	"relay.example/relay/internal/provider"
)

func twilioMAC(text string) string {
	mac := hmac.New(sha1.New, []byte("12345"))
	mac.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestTwilioSignatures(t *testing.T) {
	e := endpoint(t, "twilio", provider.Settings{})
	const (
		address = "https://relay.example/in/default/t?token=tok"
		hash    = "&bodySHA256=44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // of {}
	)
	for _, test := range []struct {
		name, address, body, signed string
		want                        provider.Reason
	}{
		{"sorted", address, "b=2&a=1&A=0", address + "A0a1b2", ""},
		{"no fields", address, "", address, ""},
		{"a value that is repeated", address, "a=2&a=1&a=2", address + "a1a2", ""},
		{"escaped", address, "a%20b=%2B1", address + "a b+1", ""},
		{"with the port of its scheme", address, "a=1", "https://relay.example:443/in/default/t?token=tok" + "a1", ""},
		{"without its port", "https://relay.example:8443/in?x=:8443", "a=1", "https://relay.example/in?x=:8443a1", ""},
		{"another port", address, "a=1", "https://relay.example:8443/in/default/t?token=tok" + "a1", provider.SignatureMismatch},
		{"not sorted", address, "b=2&a=1", address + "b2a1", provider.SignatureMismatch},
		{"another token in the address", address + "2", "a=1", address + "a1", provider.SignatureMismatch},
		{"JSON", address + hash, "{}", address + hash, ""},
		{"another JSON", address + hash, "{ }", address + hash, provider.SignatureMismatch},
		{"two hashes", address + hash + "&bodySHA256=00", "{}", address + hash + "&bodySHA256=00", provider.SignatureMismatch},
		{"a form that cannot be read", address, "a=%zz", address, provider.UnreadableBody},
	} {
		t.Run(test.name, func(t *testing.T) {
			u, err := url.Parse(test.address)
			if err != nil {
				t.Fatal(err)
			}
			req := &provider.Request{
				Method: "POST", URL: test.address, Query: u.Query(), Body: []byte(test.body),
				Header: http.Header{"X-Twilio-Signature": {twilioMAC(test.signed)}},
			}
			_, err = e.Verify(req, []string{"12345"}, clock)
			if test.want != "" {
				wantRejection(t, err, test.want)
			} else if err != nil {
				t.Errorf("Verify: got %v, want accepted", err)
			}
		})
	}
}
