package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// checkStorable holds a reading to what the database takes.
func checkStorable(t *testing.T, r relay.Reading) {
	t.Helper()
	texts := []string{r.EventID, r.Type}
	for _, c := range append(r.Candidates, r.References...) {
		if c.Value == "" {
			t.Errorf("%s: got an empty candidate, want it dropped", c.Place)
		}
		texts = append(texts, c.Value)
	}
	if p := r.Payment; p != nil {
		texts = append(texts, p.ID, p.Currency, p.Method, p.Email, p.Account)
	}
	for _, text := range texts {
		if len(text) > relay.MaxReference || !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			t.Errorf("got %q, want at most 255 bytes of UTF-8 without NUL", text)
		}
	}
	form, err := json.Marshal(r.Form)
	if err != nil || bytes.Contains(form, []byte(`\u0000`)) {
		t.Errorf("form: got %s, %v, want JSON without NUL", form, err)
	}
}

// FuzzVerify sends what nobody signed to every preset: none may panic, and
// none that signs may accept it.
func FuzzVerify(f *testing.F) {
	f.Add("t=1773480413,v1=00", []byte(`{"id":"evt_1"}`))
	f.Add("sha256=", []byte("Hello, World!"))
	f.Add("v1,AAAA v1,", []byte(""))
	f.Add("Basic Og==", []byte("id=1&token=2"))
	f.Add("ts=1773480413;h1=00", []byte(`{"notificationItems":[{"NotificationRequestItem":{"additionalData":{"hmacSignature":"AAAA"},"amount":{"value":1}}}]}`))
	f.Add("sha1=00", []byte("bt_signature=a%7C00%26b%7C11&bt_payload=PGEvPg%3D%3D"))
	f.Add("1773480413000", []byte("sign=00&state_pol=4&value=150.00&hash=00&status=success&txnid=1&amount=1&key=k"))
	f.Add("SHA256withRSA", []byte("b=2&a=1&a=1"))
	endpoints := map[string]*provider.Endpoint{}
	for _, name := range provider.Names() {
		endpoints[name] = endpoint(f, name, provider.Settings{})
	}
	endpoints["paypal"] = ofWebhooks(f, webhookID)
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		for name, e := range endpoints {
			header := http.Header{}
			for _, h := range e.HeadersRead() {
				header.Set(h, text)
			}
			req := &provider.Request{
				Method: "POST", URL: "https://relay.example/in?" + text, PathToken: text, Header: header, Body: body,
				Query: url.Values{"token": {text}, "key": {text}, "bodySHA256": {text}, "razorpay_signature": {text}},
			}
			used, err := e.Verify(req, []string{"whsec_dGhlIHNlY3JldCBvZiBmdXp6aW5n"}, clock)
			if signed := e.Preset().Signed(); signed && err == nil || !signed && (err != nil || used != -1) {
				t.Fatalf("%s: got %d, %v, signed: %t", name, used, err, signed)
			}
		}
	})
}

// FuzzRead reads anything with every preset: it either fails as Unreadable or
// yields what can be stored, and agrees with encoding/json about what is JSON.
func FuzzRead(f *testing.F) {
	f.Add("", []byte(`{"id":"evt_1","type":"payment_intent.succeeded","data":{"object":{"object":"payment_intent","amount":1e3}}}`))
	f.Add("application/json", []byte(`{"id":"\ud800","token":"\u0000","a":[1,{"b":null}],"id":2}`))
	f.Add(urlencoded, []byte("token=tok_1&a=%00&a=%ff&%F0=1"))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n"))
	for _, s := range samples {
		if s.form != nil {
			f.Add(urlencoded, []byte(s.form.Encode()))
		} else {
			f.Add(s.header["Content-Type"], []byte(s.body))
		}
	}
	endpoints := map[string]*provider.Endpoint{}
	for _, name := range provider.Names() {
		endpoints[name] = endpoint(f, name, provider.Settings{KeyField: "json:a[0].b"})
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		for name, e := range endpoints {
			readings, err := e.Read(formRequest(contentType, string(body)))
			var unreadable *provider.Unreadable
			if err != nil && !errors.As(err, &unreadable) {
				t.Fatalf("%s: got %v, want an Unreadable", name, err)
			}
			for _, r := range readings {
				checkStorable(t, r)
				if r.Format == relay.FormatJSON && !json.Valid(body) {
					t.Fatalf("%s: read as JSON what encoding/json refuses", name)
				}
			}
		}
	})
}

// FuzzHeaderPairs puts anything before and behind a genuine signature: it may
// be accepted or not, but never with another time than the signed one, and
// the genuine one alone always is.
func FuzzHeaderPairs(f *testing.F) {
	f.Add("", "")
	f.Add("t=1,", "")
	f.Add("v1=00,", ",v1=zz,v0=1")
	f.Add("", ",t=1773480413")
	f.Add(" , ,=,v1", ",,,,")
	e := endpoint(f, "stripe", provider.Settings{})
	body := []byte(`{"id":"evt_1"}`)
	genuine := http.Header{}
	if err := e.Sign(&provider.Request{Header: genuine, Body: body}, "whsec_fuzz", clock); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, before, behind string) {
		text := before + genuine.Get("Stripe-Signature") + behind
		req := &provider.Request{Header: http.Header{"Stripe-Signature": {text}}, Body: body}
		_, err := e.Verify(req, []string{"whsec_fuzz"}, clock)
		if before == "" && behind == "" && err != nil {
			t.Fatalf("genuine: got %v, want accepted", err)
		}
		if strings.HasPrefix(before, "t=") && strings.Contains(before, ",") && err == nil {
			t.Fatalf("%q: got accepted, want the repeated time refused", text)
		}
		late := clock.Add(provider.DefaultTolerance + 1e9)
		if _, err := e.Verify(req, []string{"whsec_fuzz"}, late); err == nil {
			t.Fatalf("%q: got accepted too late, want a rejection", text)
		}
	})
}

// FuzzParse reads anything as an inline preset: it is refused, or compiles.
func FuzzParse(f *testing.F) {
	f.Add([]byte(inline))
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		f.Add([]byte(p.Text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := provider.Parse(text)
		if err != nil {
			if !relay.IsKind(err, relay.Invalid) {
				t.Fatalf("Parse: got %v, want kind Invalid", err)
			}
			return
		}
		if _, err := p.Endpoint(provider.Settings{}); err != nil {
			t.Fatalf("Endpoint of what Parse took: %v", err)
		}
	})
}

// FuzzPath takes anything as the place of a key: it is refused, or finds what
// can be stored.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"a.b", `["a.b"][0]`, "a[?b=c].d", "a[only]", "q#_a", "form:a|q#_b[0]", "form:a|", "item:x[*]", "#", "##", "a[?=]"} {
		f.Add(path, []byte(`{"a":[{"b":"c","d":1}],"q12_a":"x","a.b":[2]}`))
	}
	shop, ok := provider.Lookup("html-form")
	if !ok {
		f.Fatal("html-form: not found")
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		e, err := shop.Endpoint(provider.Settings{KeyField: path})
		if err != nil {
			if !relay.IsKind(err, relay.Invalid) {
				t.Fatalf("Endpoint: got %v, want kind Invalid", err)
			}
			return
		}
		readings, err := e.Read(formRequest("application/json", string(body)))
		if err == nil {
			checkStorable(t, readings[0])
		}
	})
}

// FuzzPlaceToken puts a token into any link: it is refused, or holds the token
// once where it belongs, and leads to the same host.
func FuzzPlaceToken(f *testing.F) {
	for _, link := range []string{"https://x.example/a?b=%20&token=1#c", "http://x#token", "https://x/?checkout[custom][token]=a;b", "https://[::1]/%zz", "javascript:alert(1)"} {
		f.Add(link)
	}
	f.Fuzz(func(t *testing.T, link string) {
		for name, parameter := range map[string]string{"tally": "token", "lemonsqueezy": "checkout[custom][token]", "typeform": "token"} {
			p, _ := provider.Lookup(name)
			placed, err := p.PlaceToken(link, "tok", "")
			if err != nil {
				continue
			}
			before, beforeErr := url.Parse(link)
			after, afterErr := url.Parse(placed)
			if beforeErr != nil || afterErr != nil || before.Host != after.Host || before.Path != after.Path {
				t.Fatalf("%s in %q: got %q, %v", name, link, placed, afterErr)
			}
			where := after.RawQuery
			if name == "typeform" {
				where = after.EscapedFragment()
			}
			if !strings.HasSuffix("&"+where, "&"+url.QueryEscape(parameter)+"=tok") {
				t.Fatalf("%s in %q: got %q, want the token in it", name, link, placed)
			}
		}
	})
}

// FuzzBraintreeXML reads anything as the payload of a callback.
func FuzzBraintreeXML(f *testing.F) {
	f.Add("<notification><kind>transaction_settled</kind><subject><transaction><id>1</id></transaction></subject></notification>")
	f.Add(`<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>`)
	f.Add("<a b='c'>\xff<b/>t<c>&#0;</c></a><!-- -->")
	e := endpoint(f, "braintree", provider.Settings{})
	f.Fuzz(func(t *testing.T, text string) {
		readings, err := e.Read(braintreeRequest(text))
		var unreadable *provider.Unreadable
		if err != nil && !errors.As(err, &unreadable) {
			t.Fatalf("Read: got %v, want an Unreadable", err)
		}
		for _, r := range readings {
			checkStorable(t, r)
		}
	})
}

// FuzzCertificateAddress names anything as the address of a certificate: only
// PayPal's are asked.
func FuzzCertificateAddress(f *testing.F) {
	for _, address := range []string{certAddress, "https://api.paypal.com.evil.example/", "https://a.paypal.com\\@b/", "https://%61.paypal.com/", "https://a.paypal.com/%61", "https://a.paypal.com/./a", "https://a.paypal.com:443/"} {
		f.Add(address)
	}
	e := ofWebhooks(f, webhookID)
	f.Fuzz(func(t *testing.T, address string) {
		certificates := provider.NewCertificates(func(_ context.Context, asked string) ([]byte, error) {
			u, err := url.Parse(asked)
			if err != nil || u.Scheme != "https" || u.Path != path.Clean(u.Path) || u.EscapedPath() != u.Path || !strings.HasSuffix(u.Hostname(), ".paypal.com") || u.Port() != "" || u.User != nil || asked != address {
				t.Fatalf("%q: got %q asked", address, asked)
			}
			return nil, errors.New("not found")
		}, nil)
		_ = certificates.Fill(t.Context(), e, naming(address), clock)
	})
}
