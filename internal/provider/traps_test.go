package provider_test

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// What others have got wrong about providers, as far as no other test shows it.
// docs/guarantees.md has the whole list, with the test of each.

func macOf(key, message string) []byte {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

// TestPrefixOfASecret holds that whsec_ is a part of the text that Stripe signs
// with, and stands before base64 at Standard Webhooks.
func TestPrefixOfASecret(t *testing.T) {
	const body, secret = `{"id":"1"}`, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		preset, key string
		genuine     bool
	}{
		{"stripe", secret, true},
		{"stripe", string(raw), false},
		{"stripe", strings.TrimPrefix(secret, "whsec_"), false},
		{"svix", string(raw), true},
		{"svix", secret, false},
		{"svix", strings.TrimPrefix(secret, "whsec_"), false},
	} {
		header := http.Header{}
		if test.preset == "stripe" {
			header.Set("Stripe-Signature", "t=1773480413,v1="+hex.EncodeToString(macOf(test.key, "1773480413."+body)))
		} else {
			header.Set("Svix-Id", "m")
			header.Set("Svix-Timestamp", "1773480413")
			header.Set("Svix-Signature", "v1,"+base64.StdEncoding.EncodeToString(macOf(test.key, "m.1773480413."+body)))
		}
		_, err := endpoint(t, test.preset, provider.Settings{}).Verify(&provider.Request{Header: header, Body: []byte(body)}, []string{secret}, clock)
		if (err == nil) != test.genuine {
			t.Errorf("%s signed with %q: got %v, want genuine %t", test.preset, test.key, err, test.genuine)
		}
	}
}

// TestEncodingBehindAPrefix holds that sha256= is followed by what its provider
// writes there, and by nothing else.
func TestEncodingBehindAPrefix(t *testing.T) {
	const body = `{"id":"1"}`
	for preset, want := range map[string]struct{ header, enc string }{
		"github": {"X-Hub-Signature-256", "hex"}, "google-forms": {"X-Hub-Signature-256", "hex"},
		"mollie-nextgen": {"X-Mollie-Signature", "hex"}, "typeform": {"Typeform-Signature", "base64"},
	} {
		for enc, text := range map[string]string{
			"hex": hex.EncodeToString(macOf("s", body)), "base64": base64.StdEncoding.EncodeToString(macOf("s", body)),
		} {
			req := &provider.Request{Header: http.Header{}, Body: []byte(body)}
			req.Header.Set(want.header, "sha256="+text)
			if _, err := endpoint(t, preset, provider.Settings{}).Verify(req, []string{"s"}, clock); (err == nil) != (enc == want.enc) {
				t.Errorf("%s in %s: got %v, want %s alone", preset, enc, err, want.enc)
			}
		}
	}
}

// TestUnitOfTime holds that a time is read in the unit of its provider, whatever
// its size would suggest.
func TestUnitOfTime(t *testing.T) {
	const body, seconds, millis = `[]`, "1773480413", "1773480413000"
	webflow := func(stamp string) *provider.Request {
		req := &provider.Request{Header: http.Header{}, Body: []byte(body)}
		req.Header.Set("X-Webflow-Timestamp", stamp)
		req.Header.Set("X-Webflow-Signature", hex.EncodeToString(macOf("s", stamp+":"+body)))
		return req
	}
	hubspot := func(stamp string) *provider.Request {
		req := &provider.Request{Method: "POST", URL: "https://x.example/", Header: http.Header{}, Body: []byte(body)}
		req.Header.Set("X-HubSpot-Request-Timestamp", stamp)
		req.Header.Set("X-HubSpot-Signature-v3", base64HMAC("s", "POSThttps://x.example/"+body+stamp))
		return req
	}
	stripe := func(stamp string) *provider.Request {
		req := &provider.Request{Header: http.Header{}, Body: []byte(body)}
		req.Header.Set("Stripe-Signature", "t="+stamp+",v1="+hex.EncodeToString(macOf("s", stamp+"."+body)))
		return req
	}
	for _, test := range []struct {
		preset       string
		req          func(string) *provider.Request
		right, wrong string
	}{
		{"webflow", webflow, millis, seconds}, {"hubspot-v3", hubspot, millis, seconds}, {"stripe", stripe, seconds, millis},
	} {
		e := endpoint(t, test.preset, provider.Settings{})
		if _, err := e.Verify(test.req(test.right), []string{"s"}, clock); err != nil {
			t.Errorf("%s with %s: got %v, want accepted", test.preset, test.right, err)
		}
		_, err := e.Verify(test.req(test.wrong), []string{"s"}, clock)
		wantRejection(t, err, provider.OutsideTolerance)
	}
}

// TestPaddleSignatures holds that of a header that repeats itself the time
// counts only if it stands once, and every signature that can be read.
func TestPaddleSignatures(t *testing.T) {
	e := endpoint(t, "paddle", provider.Settings{})
	const body, stamp = `{"event_id":"evt_1"}`, "1773480413"
	good := hex.EncodeToString(macOf("pdl_1", stamp+":"+body))
	bad := strings.Repeat("00", 32)
	for _, test := range []struct {
		header string
		want   provider.Reason
	}{
		{"ts=" + stamp + ";h1=" + good, ""},
		{"ts=" + stamp + ";h1=" + bad + ";h1=" + good, ""},
		{"ts=" + stamp + ";h1=no hex;h1=;h1=" + good, ""},
		{"h1=" + good + ";h9=x;ts=" + stamp, ""},
		{"ts=" + stamp + ";ts=" + stamp + ";h1=" + good, provider.BadHeader},
		{"ts=1;ts=" + stamp + ";h1=" + good, provider.BadHeader},
		{"ts=;ts=" + stamp + ";h1=" + good, provider.BadHeader},
		{"ts=" + stamp + ";h1=" + bad + ";h1=" + bad, provider.SignatureMismatch},
	} {
		req := &provider.Request{Header: http.Header{"Paddle-Signature": {test.header}}, Body: []byte(body)}
		_, err := e.Verify(req, []string{"pdl_1"}, clock)
		if test.want != "" {
			wantRejection(t, err, test.want)
		} else if err != nil {
			t.Errorf("%s: got %v, want accepted", test.header, err)
		}
	}
}

// TestNoPresetTakesAnEmptySecret holds that a secret that would prove nothing
// is refused where it is written, of every preset, and what senders write
// instead of a signature proves nothing.
func TestNoPresetTakesAnEmptySecret(t *testing.T) {
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		for _, secret := range []string{"", " ", "\t\n"} {
			if err := p.CheckSecret(secret); err == nil {
				t.Errorf("%s takes the secret %q", name, secret)
			}
		}
	}
	e := endpoint(t, "calcom", provider.Settings{})
	req := &provider.Request{Header: http.Header{}, Body: []byte(`{}`)}
	req.Header.Set("X-Cal-Signature-256", "no-secret-provided")
	for _, secrets := range [][]string{{"s"}, {"no-secret-provided"}, {""}, nil} {
		if _, err := e.Verify(req, secrets, clock); err == nil {
			t.Errorf("Cal.com without a secret, with %q: got accepted", secrets)
		}
	}
	if err := e.Preset().CheckSecret("no-secret-provided"); err == nil {
		t.Error("calcom takes what Cal.com sends where there is no secret")
	}
}

// TestAdyenSignsEightFields holds that what anybody can change of a callback
// changes nothing that ends a wait, and that each event has to be genuine.
func TestAdyenSignsEightFields(t *testing.T) {
	e, secret := endpoint(t, "adyen", provider.Settings{}), strings.Repeat("0F", 32)
	const item = `{"NotificationRequestItem":{"additionalData":{"hmacSignature":"","metadata.conversation_token":"OTHER"},"eventCode":"AUTHORISATION","success":"true",` +
		`"pspReference":"P1","merchantReference":"tok","merchantAccountCode":"Shop","amount":{"value":1130,"currency":"EUR"},"reason":"R1","paymentMethod":"visa","eventDate":"D1"}}`
	req := signed(t, e, secret, `{"notificationItems":[`+item+`,`+strings.Replace(item, "P1", "P2", 1)+`]}`)
	genuine, err := e.Read(req)
	if err != nil || len(genuine) != 2 || len(genuine[0].Candidates) != 1 || genuine[0].Candidates[0].Value != "tok" {
		t.Fatalf("Read: got %+v, %v, want tok of each", genuine, err)
	}
	change := func(old, text string) *provider.Request {
		body := strings.Replace(string(req.Body), old, text, 1)
		if body == string(req.Body) {
			t.Fatalf("there is no %s in the body", old)
		}
		return &provider.Request{Header: http.Header{}, Body: []byte(body)}
	}
	for old, text := range map[string]string{"OTHER": "tok2", `"R1"`: `"R2"`, `"visa"`: `"mc"`, `"D1"`: `"D2"`} {
		changed := change(old, text)
		if _, err := e.Verify(changed, []string{secret}, clock); err != nil {
			t.Errorf("%s: Verify: got %v, want accepted: it is not signed", old, err)
		}
		readings, err := e.Read(changed)
		if err != nil || len(readings) != 2 {
			t.Fatalf("%s: Read: got %v, %v", old, readings, err)
		}
		if diff := cmp.Diff(believed(&genuine[0]), believed(&readings[0])); diff != "" {
			t.Errorf("%s changed (-want +got):\n%s", old, diff)
		}
	}
	for old, text := range map[string]string{`"P1"`: `"P3"`, `"P2"`: `"P3"`, `"tok"`: `"tik"`, ":1130,": ":1,", `"true"`: `"false"`, "AUTHORISATION": "REFUND", `"EUR"`: `"USD"`} {
		_, err := e.Verify(change(old, text), []string{secret}, clock)
		wantRejection(t, err, provider.SignatureMismatch)
	}
}

// TestRawBytes holds of every preset that signs the body that the same JSON in
// other bytes is refused.
func TestRawBytes(t *testing.T) {
	const body = `{ "id": "1", "a": "<b> \\/ \\u00dc \u00dc", "n": 1.0 }`
	var value any
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range signable() {
		e := endpoint(t, name, provider.Settings{})
		if !e.SignsBody() {
			continue
		}
		req := signed(t, e, secretFor(name), body)
		if _, err := e.Verify(req, []string{secretFor(name)}, clock); err != nil {
			t.Errorf("%s: got %v, want accepted", name, err)
		}
		req.Body = again
		if _, err := e.Verify(req, []string{secretFor(name)}, clock); err == nil {
			t.Errorf("%s: got accepted what was written anew, want a rejection", name)
		}
	}
}

// TestGenuineAndUnreadable holds of every preset that what is proven can be
// unreadable, and that the two are told apart.
func TestGenuineAndUnreadable(t *testing.T) {
	for _, name := range signable() {
		e := endpoint(t, name, provider.Settings{})
		if !e.SignsBody() {
			continue
		}
		req := signed(t, e, secretFor(name), `{"id":`)
		if _, err := e.Verify(req, []string{secretFor(name)}, clock); err != nil {
			t.Errorf("%s: Verify: got %v, want accepted", name, err)
		}
		if _, err := e.Read(req); err == nil {
			t.Errorf("%s: Read: got no error of half a body", name)
		}
	}
}

// TestShapesOfBodies holds what has one shape with something in it, and another
// without.
func TestShapesOfBodies(t *testing.T) {
	razorpay := endpoint(t, "razorpay", provider.Settings{})
	for notes, token := range map[string]string{`[]`: "", `{}`: "", `{"conversation_token":"tok"}`: "tok", `null`: "", `["tok"]`: ""} {
		got := readBody(t, razorpay, `{"event":"payment.captured","payload":{"payment":{"entity":{"id":"pay_1","notes":`+notes+`}}}}`)
		if has := len(got.Candidates) > 0; has != (token != "") || has && got.Candidates[0].Value != token || got.Outcome != relay.Completed {
			t.Errorf("notes %s: got %+v, want the token %q", notes, got, token)
		}
	}
	adyen := endpoint(t, "adyen", provider.Settings{})
	for _, value := range []string{`1130`, `"1130"`} {
		got := readBody(t, adyen, `{"notificationItems":[{"NotificationRequestItem":{"eventCode":"AUTHORISATION","success":"true","pspReference":"P1","amount":{"value":`+value+`,"currency":"EUR"}}}]}`)
		if got.Payment == nil || got.Payment.AmountMinor == nil || *got.Payment.AmountMinor != 1130 {
			t.Errorf("amount.value %s: got %+v, want 1130", value, got.Payment)
		}
	}
	for preset, body := range map[string]string{
		"hubspot-v3": `[{"eventId":1},{"eventId":2}]`, "gocardless": `{"events":[{"id":"1:"},{"id":"2:"}]}`,
	} {
		readings, err := endpoint(t, preset, provider.Settings{}).Read(&provider.Request{Body: []byte(body)})
		if err != nil || len(readings) != 2 || !strings.HasPrefix(readings[0].EventID, "1:") || !strings.HasPrefix(readings[1].EventID, "2:") {
			t.Errorf("%s: got %+v, %v, want the events 1 and 2", preset, readings, err)
		}
	}
}

// TestEventIDs holds that the ids of two events differ where their provider
// gives both one id, and agree where it gives one event two.
func TestEventIDs(t *testing.T) {
	id := func(preset, body string, header map[string]string) string {
		req := &provider.Request{Header: http.Header{}, Query: url.Values{}, Body: []byte(body)}
		for name, value := range header {
			req.Header.Set(name, value)
		}
		return read(t, endpoint(t, preset, provider.Settings{}), req).EventID
	}
	second := map[string]string{"X-WC-Webhook-Delivery-ID": "d1", "X-WC-Webhook-Topic": "order.updated"}
	orders := []string{
		id("woocommerce", `{"id":1,"status":"processing"}`, second), id("woocommerce", `{"id":2,"status":"processing"}`, second),
		id("woocommerce", `{"id":1,"status":"completed"}`, second),
	}
	if slices.Sort(orders); len(slices.Compact(orders)) != 3 {
		t.Errorf("WooCommerce, orders of one second: got the ids %q, want three", orders)
	}
	of := func(webhook, event, topic string) string {
		return id("shopify", `{}`, map[string]string{"X-Shopify-Webhook-Id": webhook, "X-Shopify-Event-Id": event, "X-Shopify-Topic": topic})
	}
	if of("w1", "e1", "orders/paid") != of("w2", "e1", "orders/paid") {
		t.Error("Shopify, one event for two subscriptions: got two ids, want one")
	}
	if of("w1", "e1", "orders/paid") == of("w1", "e1", "orders/create") || of("w1", "e1", "orders/paid") == of("w1", "e2", "orders/paid") {
		t.Error("Shopify: got one id for two events, want two")
	}
}

// TestEventsToTick holds that what is to be ticked at a provider leads to an
// outcome, and that no outcome waits for what is not ticked. Words that are no
// events of their own are the statuses of DocuSign's XML, and Stripe's thin
// events, which another kind of payload brings. Typeform's partial responses
// are for those who want them: an abandoned form sends one, too.
func TestEventsToTick(t *testing.T) {
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		types := p.OutcomeTypes()
		if len(p.Events) == 0 || len(types) == 0 { // all, or by the type's last word
			continue
		}
		for _, event := range p.Events {
			if !slices.Contains(types, event) {
				t.Errorf("%s: %s is to be ticked, and leads to no outcome", name, event)
			}
		}
		for _, kind := range types {
			status := name == "docusign" && !strings.HasPrefix(kind, "envelope-")
			thin := name == "stripe" && slices.Contains(p.Events, strings.TrimPrefix(kind, "v1."))
			partial := kind == "form_response_partial"
			if !status && !thin && !partial && !slices.Contains(p.Events, kind) {
				t.Errorf("%s: %s has an outcome, and nobody is told to tick it", name, kind)
			}
		}
	}
}

// TestPlainDigestIsCarriedOn holds that one signature of HubSpot's version 2 is
// of no use for a longer body: whoever has it can sign what is put behind, but
// that is no JSON, and the content type, which is not signed, changes nothing.
func TestPlainDigestIsCarriedOn(t *testing.T) {
	const address, body, tail = "https://relay.example/in/default/hubspot", `{"properties":{"token":"mine"}}`, "&token=another"
	secret := strings.Repeat("s", 36)
	signed := secret + "POST" + address + body
	padding := []byte{0x80}
	for (len(signed)+len(padding))%64 != 56 {
		padding = append(padding, 0)
	}
	padding = binary.BigEndian.AppendUint64(padding, uint64(len(signed))*8)
	// The state of the hash after the padded message is the signature itself.
	sum := sha256.Sum256([]byte(signed))
	state := slices.Concat([]byte("sha\x03"), sum[:], make([]byte, 64))
	state = binary.BigEndian.AppendUint64(state, uint64(len(signed)+len(padding)))
	carried := sha256.New()
	if err := carried.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	carried.Write([]byte(tail))
	for _, kind := range []string{"application/x-www-form-urlencoded", "application/json", ""} {
		e := endpoint(t, "hubspot-v2", provider.Settings{TokenField: "token"})
		req := &provider.Request{
			Method: http.MethodPost, URL: address, Body: slices.Concat([]byte(body), padding, []byte(tail)),
			Header: http.Header{"X-Hubspot-Signature": {hex.EncodeToString(carried.Sum(nil))}, "Content-Type": {kind}},
		}
		if _, err := e.Verify(req, []string{secret}, clock); err != nil {
			t.Fatalf("Verify: got %v, want it to pass, or this test shows nothing", err)
		}
		var unreadable *provider.Unreadable
		if readings, err := e.Read(req); !errors.As(err, &unreadable) {
			t.Errorf("as %q: got %v, %v, want it unreadable", kind, readings, err)
		}
	}
}

// TestFieldsAreNotShifted holds that a signature over joined fields is worth
// nothing for fields that are cut elsewhere: the payer chooses some of them.
func TestFieldsAreNotShifted(t *testing.T) {
	const secret = "salt1234"
	joined := func(form url.Values, separator string, names ...string) string {
		texts := []string{secret}
		for _, name := range names {
			texts = append(texts, form.Get(name))
		}
		return strings.Join(texts, separator)
	}
	india := func(form url.Values) {
		sum := sha512.Sum512([]byte(joined(form, "|", "status", "", "", "", "", "", "udf5", "udf4", "udf3", "udf2", "udf1", "email", "firstname", "productinfo", "amount", "txnid", "key")))
		form.Set("hash", hex.EncodeToString(sum[:]))
	}
	latam := func(form url.Values) {
		sum := md5.Sum([]byte(joined(form, "~", "merchant_id", "reference_sale", "value", "currency", "state_pol")))
		form.Set("sign", hex.EncodeToString(sum[:]))
	}
	for _, test := range []struct {
		preset, name string
		sign         func(url.Values)
		form         url.Values
		want         provider.Reason
	}{
		{"payu-india", "plain", india, url.Values{"status": {"success"}, "firstname": {"Ann"}, "amount": {"1"}, "txnid": {"t"}, "key": {"K"}}, ""},
		{"payu-india", "as the payer wrote it", india, url.Values{"status": {"success"}, "firstname": {"Ann|Car|99|another"}, "productinfo": {"Pen"}, "amount": {"1"}, "txnid": {"t"}, "key": {"K"}}, provider.AmbiguousField},
		{"payu-india", "shifted", india, url.Values{"status": {"success"}, "firstname": {"Ann"}, "productinfo": {"Car"}, "amount": {"99"}, "txnid": {"another"}, "key": {"Pen|1|t|K"}}, provider.AmbiguousField},
		{"payu-latam", "plain", latam, url.Values{"merchant_id": {"5"}, "reference_sale": {"t"}, "value": {"1.0"}, "currency": {"COP"}, "state_pol": {"4"}}, ""},
		{"payu-latam", "shifted", latam, url.Values{"merchant_id": {"5"}, "reference_sale": {"t~1.0"}, "value": {"1.0"}, "currency": {"COP"}, "state_pol": {"4"}}, provider.AmbiguousField},
	} {
		t.Run(test.preset+" "+test.name, func(t *testing.T) {
			test.sign(test.form)
			req := &provider.Request{Method: http.MethodPost, Body: []byte(test.form.Encode()), Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}
			_, err := endpoint(t, test.preset, provider.Settings{}).Verify(req, []string{secret}, clock)
			if test.want != "" {
				wantRejection(t, err, test.want)
			} else if err != nil {
				t.Errorf("got %v, want it accepted", err)
			}
		})
	}
	// The merchant's key is signed as well: the salt pins it.
	form := url.Values{"status": {"success"}, "amount": {"1"}, "txnid": {"t"}, "key": {"K"}}
	india(form)
	form.Set("key", "another")
	req := &provider.Request{Method: http.MethodPost, Body: []byte(form.Encode()), Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}
	_, err := endpoint(t, "payu-india", provider.Settings{}).Verify(req, []string{secret}, clock)
	wantRejection(t, err, provider.SignatureMismatch)

	key := strings.Repeat("ab", 32)
	raw, _ := hex.DecodeString(key)
	for _, test := range []struct {
		name, psp, reference string
		want                 provider.Reason
	}{
		{"a reference of one's own", "8", "order:7", ""},
		{"shifted", "8::shop:order", "7", provider.AmbiguousField},
	} {
		message := test.psp + "::shop:" + test.reference + ":2050:EUR:AUTHORISATION:true"
		body, err := json.Marshal(map[string]any{"notificationItems": []any{map[string]any{"NotificationRequestItem": map[string]any{
			"pspReference": test.psp, "merchantAccountCode": "shop", "merchantReference": test.reference, "eventCode": "AUTHORISATION", "success": "true",
			"amount":         map[string]any{"value": 2050, "currency": "EUR"},
			"additionalData": map[string]any{"hmacSignature": base64.StdEncoding.EncodeToString(macOf(string(raw), message))},
		}}}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = endpoint(t, "adyen", provider.Settings{}).Verify(&provider.Request{Body: body}, []string{key}, clock)
		if test.want != "" {
			wantRejection(t, err, test.want)
		} else if err != nil {
			t.Errorf("adyen, %s: got %v, want it accepted", test.name, err)
		}
	}
}
