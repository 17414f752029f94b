package provider_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
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
	endpoints := map[string]*provider.Endpoint{}
	for _, name := range provider.Names() {
		endpoints[name] = endpoint(f, name, provider.Settings{})
	}
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		for name, e := range endpoints {
			header := http.Header{}
			for _, h := range e.HeadersRead() {
				header.Set(h, text)
			}
			req := &provider.Request{Method: "POST", Header: header, Body: body, Query: url.Values{"token": {text}}}
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
