package provider_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

func TestStandardWebhooksAsymmetric(t *testing.T) {
	e := endpoint(t, "standard-webhooks-v1a", provider.Settings{})
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	public := "whpk_" + base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	const body = `{"type":"order.paid","data":{"reference":"tok_1"}}`
	request := func(message, version string) *provider.Request {
		signature := base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(message)))
		return &provider.Request{Method: "POST", Body: []byte(body), Header: http.Header{
			"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {"1773480413"}, "Webhook-Signature": {"v1a,AAAA v1,AAAA " + version + "," + signature},
		}}
	}
	genuine := request("msg_1.1773480413."+body, "v1a")
	if used, err := e.Verify(genuine, []string{"whpk_" + strings.Repeat("A", 43) + "=", public}, clock); err != nil || used != 1 {
		t.Errorf("Verify: got %d, %v, want 1", used, err)
	}
	if got := read(t, e, genuine); got.EventID != "msg_1" || got.Outcome != relay.Completed || got.Candidates[0].Value != "tok_1" {
		t.Errorf("got %+v, want msg_1, completed, tok_1", got)
	}
	_, err := e.Verify(request("msg_1.1773480413."+body, "v1"), []string{public}, clock)
	wantRejection(t, err, provider.SignatureMismatch)
	_, err = e.Verify(request("msg_2.1773480413."+body, "v1a"), []string{public}, clock)
	wantRejection(t, err, provider.SignatureMismatch)
	_, err = e.Verify(genuine, []string{public}, clock.Add(-provider.DefaultTolerance-1e9))
	wantRejection(t, err, provider.OutsideTolerance)
	if err := e.Sign(genuine, public, clock); err == nil {
		t.Error("Sign: got signed with a public key, want an error")
	}
	for _, secret := range []string{"whpk_AAAA", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whpk_"} {
		if err := e.Preset().CheckSecret(secret); err == nil {
			t.Errorf("CheckSecret(%q): got accepted, want it refused", secret)
		}
	}
	symmetric, _ := provider.Lookup("standard-webhooks")
	if err := symmetric.CheckSecret(public); err == nil || !strings.Contains(err.Error(), "standard-webhooks-v1a") {
		t.Errorf("CheckSecret of the other preset: got %v, want it to name this one", err)
	}
}
