package provider_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

func TestPresetFacts(t *testing.T) {
	all := []relay.Outcome{
		relay.Completed, relay.Failed, relay.Cancelled, relay.Expired, relay.Processing,
		relay.AttemptFailed, relay.Refunded, relay.Disputed,
	}
	generic := all[:5]
	for _, test := range []struct {
		name                                   string
		signed, internal, callbackURL, browser bool
		outcomes                               []relay.Outcome
	}{
		{name: "form", internal: true, outcomes: all[:1]},
		{name: "generic-apikey", signed: true, outcomes: generic},
		{name: "generic-basic", signed: true, outcomes: generic},
		{name: "generic-hmac", signed: true, outcomes: generic},
		{name: "github", signed: true},
		{name: "html-form", callbackURL: true, browser: true, outcomes: all[:1]},
		{name: "standard-webhooks", signed: true, outcomes: generic},
		{name: "stripe", signed: true, outcomes: all},
		{name: "svix", signed: true, outcomes: generic},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, ok := provider.Lookup(test.name)
			if !ok {
				t.Fatalf("Lookup: %s not found", test.name)
			}
			if p.Signed() != test.signed || p.Internal != test.internal || p.CallbackByURL != test.callbackURL || p.BrowserRedirect != test.browser {
				t.Errorf("got signed %t, internal %t, callback by url %t, browser redirect %t",
					p.Signed(), p.Internal, p.CallbackByURL, p.BrowserRedirect)
			}
			if p.RejectStatus != 401 {
				t.Errorf("got %d for a rejection, want 401", p.RejectStatus)
			}
			if diff := cmp.Diff(test.outcomes, p.Outcomes()); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
		})
	}
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		if p.Title == "" || p.Title == name || p.Proof == "" || p.Proof == "its `auth`" || p.AcceptStatus != 200 || p.AcceptBody != "[accepted]" {
			t.Errorf("%s: got title %q, proof %q, answer %d %q", name, p.Title, p.Proof, p.AcceptStatus, p.AcceptBody)
		}
		if !p.Internal && len(p.Setup) == 0 {
			t.Errorf("%s: got no steps, want some", name)
		}
	}
	if _, ok := provider.Lookup("nobody"); ok {
		t.Error("Lookup of an unknown name: got found")
	}
}

func TestPlaceToken(t *testing.T) {
	for _, test := range []struct {
		name, preset, link, field, want string
	}{
		{"stripe", "stripe", "https://buy.stripe.com/test_abc", "", "https://buy.stripe.com/test_abc?client_reference_id=tok"},
		{"what is there stays as it is", "stripe", "https://buy.stripe.com/a?b=%20x&a=1+2#top", "", "https://buy.stripe.com/a?b=%20x&a=1+2&client_reference_id=tok#top"},
		{"an older token is replaced", "stripe", "https://x.example/?client_reference_id=old&a=1", "", "https://x.example/?a=1&client_reference_id=tok"},
		{"token_field means nothing to stripe", "stripe", "https://x.example/", "ref", "https://x.example/?client_reference_id=tok"},
		{"html-form", "html-form", "https://x.example/contact", "", "https://x.example/contact?conversation_token=tok"},
		{"html-form with its own field", "html-form", "https://x.example/contact", "ref", "https://x.example/contact?ref=tok"},
		{"a preset without links", "generic-hmac", "whatever this is", "", "whatever this is"},
		{"typeform", "typeform", "https://form.typeform.com/to/ID", "", "https://form.typeform.com/to/ID#token=tok"},
		{"typeform with its own field", "typeform", "https://form.typeform.com/to/ID?x=%20#a=1+2&b", "ref", "https://form.typeform.com/to/ID?x=%20#a=1+2&b&ref=tok"},
		{"an older token in the fragment", "typeform", "https://form.typeform.com/to/ID#token=old&a=%2f", "", "https://form.typeform.com/to/ID#a=%2f&token=tok"},
		{"tally", "tally", "https://tally.so/r/ID?transparent=1", "", "https://tally.so/r/ID?transparent=1&token=tok"},
		{"jotform", "jotform", "https://form.jotform.com/1", "", "https://form.jotform.com/1?token=tok"},
		{"fillout", "fillout", "https://x.fillout.com/t/1", "", "https://x.fillout.com/t/1?token=tok"},
		{"gravity forms", "gravity-forms", "https://x.example/form/", "", "https://x.example/form/?token=tok"},
		{"surveymonkey", "surveymonkey", "https://www.surveymonkey.com/r/1", "", "https://www.surveymonkey.com/r/1?token=tok"},
		{"hubspot", "hubspot-v3", "https://share.hsforms.com/1", "", "https://share.hsforms.com/1?conversation_token=tok"},
		{"formspree", "formspree", "https://x.example/form", "", "https://x.example/form?conversation_token=tok"},
		{"webflow", "webflow", "https://x.webflow.io/form", "", "https://x.webflow.io/form?conversation_token=tok"},
		{"calendly", "calendly", "https://calendly.com/a/30min?utm_source=bot", "ref", "https://calendly.com/a/30min?utm_source=bot&utm_content=tok"},
		{"cal.com", "calcom", "https://cal.com/a/30min", "", "https://cal.com/a/30min?metadata%5Btoken%5D=tok"},
		{"cal.com, written otherwise", "calcom", "https://cal.com/a?metadata[token]=old&metadata[b]=1", "", "https://cal.com/a?metadata[b]=1&metadata%5Btoken%5D=tok"},
		{"lemon squeezy", "lemonsqueezy", "https://s.lemonsqueezy.com/checkout/buy/1?checkout[email]=a@b", "", "https://s.lemonsqueezy.com/checkout/buy/1?checkout[email]=a@b&checkout%5Bcustom%5D%5Btoken%5D=tok"},
		{"shopify", "shopify", "https://shop.example/cart/1:1?discount=X", "order_token", "https://shop.example/cart/1:1?discount=X&attributes%5Border_token%5D=tok"},
		{"woocommerce", "woocommerce", "https://shop.example/checkout/?add-to-cart=9", "", "https://shop.example/checkout/?add-to-cart=9&conversation_token=tok"},
		{"no URL", "stripe", "buy.stripe.com/abc", "", ""},
		{"another scheme", "stripe", "javascript://x.example/%0aalert(1)", "", ""},
		{"a field that is none", "html-form", "https://x.example/", "a&b", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, _ := provider.Lookup(test.preset)
			got, err := p.PlaceToken(test.link, "tok", test.field)
			if got != test.want || (err != nil) != (test.want == "") {
				t.Errorf("PlaceToken(%q): got %q, %v, want %q", test.link, got, err, test.want)
			}
		})
	}
}

func TestGenericOutcomes(t *testing.T) {
	e := endpoint(t, "generic-hmac", provider.Settings{})
	for kind, want := range map[string]relay.Outcome{
		"payment.completed": relay.Completed, "CHECKOUT_SUCCEEDED": relay.Completed, "order:paid": relay.Completed,
		"form-submission": relay.Completed, "submission": relay.Completed, "it has failed": relay.Failed,
		"order.cancelled": relay.Cancelled, "order.canceled": relay.Cancelled, "link.expired": relay.Expired,
		"payment.pending": relay.Processing, "": relay.Completed,
		"payment.refunded": "", "unpaid": "", "paid.later": "", "completed.": "",
	} {
		if got := readBody(t, e, `{"type":"`+kind+`"}`).Outcome; got != want {
			t.Errorf("outcome of %q: got %q, want %q", kind, got, want)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, test := range []struct {
		name     string
		settings provider.Settings
		want     string
	}{
		{"token field", provider.Settings{TokenField: "a.b"}, "invalid_token_field"},
		{"key field", provider.Settings{KeyField: "json:a..b"}, "invalid_key_field"},
		{"key field of an item without a batch", provider.Settings{KeyField: "item:a"}, "invalid_key_field"},
		{"tolerance", provider.Settings{Tolerance: -1}, "invalid_tolerance"},
		{"password alone", provider.Settings{Password: "p"}, "invalid_credentials"},
		{"username with a colon", provider.Settings{Username: "a:b", Password: "p"}, "invalid_credentials"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, _ := provider.Lookup("stripe")
			_, err := p.Endpoint(test.settings)
			if !relay.IsKind(err, relay.Invalid) || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("Endpoint: got %v, want %s", err, test.want)
			}
		})
	}
}

const inline = `name: shop
title: Our shop
auth:
  alg: hmac-sha256
  sig: {from: "header:X-Shop-Signature", list: ",", pair: "=", key: s}
  message: "{sig.t}.{body}"
  time: {value: "{sig.t}", unit: ms}
id: "{json:event.id}"
type: "{json:event.name}"
outcome:
  - {type: [paid, settled], if: {"json:order.test": [false, null]}, is: completed}
  - {type: test, is: ignored}
correlation:
  - json:order.notes[?name=<token_field>].value
payment:
  amount: "{json:order.total}"
  currency: "{json:order.currency}"
respond: {status: 204, body: "", reject: 498}
`

func TestInlinePreset(t *testing.T) {
	p, err := provider.Parse([]byte(inline))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	if p.AcceptStatus != 204 || p.AcceptBody != "" || p.RejectStatus != 498 {
		t.Errorf("answers: got %d %q, reject %d, want 204, nothing, 498", p.AcceptStatus, p.AcceptBody, p.RejectStatus)
	}
	e, err := p.Endpoint(provider.Settings{})
	if err != nil {
		t.Fatalf("Endpoint: %v", err)
	}
	req := signed(t, e, "s", `{"event":{"id":7,"name":"paid"},"order":{"total":"12.5","currency":"kwd",
		"notes":[{"name":"x","value":"no"},{"name":"token","value":"tok_1"},{"name":"token","value":"late"}]}}`)
	if _, err := e.Verify(req, []string{"s"}, clock); err != nil {
		t.Fatalf("Verify: %v", err)
	}
	want := relay.Reading{
		EventID: "7", Type: "paid", Outcome: relay.Completed, Format: relay.FormatJSON,
		Candidates: []relay.Candidate{{Place: "json:order.notes[?name=token].value", Value: "tok_1"}},
		Payment:    &relay.Payment{AmountMinor: ptr(int64(12500)), Currency: "KWD", Exponent: 3},
	}
	if diff := cmp.Diff(want, read(t, e, req)); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
}

// inlineMeaning is what inline says of a callback's meaning.
var inlineMeaning = inline[strings.Index(inline, "outcome:"):strings.Index(inline, "respond:")]

// TestNoLineOfJSON holds that no line is named where the text was made JSON on
// the way, and that the field is.
func TestNoLineOfJSON(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`{"name": "x",` + "\n" + `"auth": {"alg": "hmac-md4"}}`, `invalid_preset: auth.alg: "hmac-md4"`},
		{`{"name": "x", "auth": {"alg": "none", "partial": true}}`, `invalid_preset: auth.partial: stands only beside a message`},
		{`{"name": "x", "auth": {"alg": "none", "sig": "x"}}`, `invalid_preset: auth.sig: a text where`},
		{`{"name": "x", "auth": {"alg": "none"}, "outcome": [{"iss": "completed"}]}`, `invalid_preset: outcome[0].iss: unknown field`},
	} {
		_, err := provider.Parse([]byte(test.text))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("Parse(%s): got %v, want %s …", test.text, err, test.want)
		}
	}
}

// TestPartlySigned takes what providers sign by a rule of their own: all that
// is read, or less where the preset says so.
func TestPartlySigned(t *testing.T) {
	const head = "name: x\nbody: fields\nid: \"{form:id}\"\ntype: \"{form:status}\"\nauth:\n  alg: hmac-sha256\n  sig: {from: \"form:sig\"}\n"
	for _, test := range []struct {
		name, more string
		ok         bool
	}{
		{"all that is read", `  message: "{form:id}.{form:status}"`, true},
		{"less", `  message: "{form:id}"`, false},
		{"less, and it says so", "  message: \"{form:id}\"\n  partial: true", true},
		{"a place of the query that is the merchant's", "  message: \"{body}\"\ncorrelation: [\"query:token\"]", true},
		{"the query of a GET", "  message: \"{form:id}.{form:status}\"\nby_get: true\ncorrelation: [\"query:token\"]", false},
		{"the query of a GET, by its address", "  message: \"{url}.{form:id}.{form:status}\"\nby_get: true\ncorrelation: [\"query:token\"]", true},
	} {
		if _, err := provider.Parse([]byte(head + test.more + "\n")); (err == nil) != test.ok {
			t.Errorf("%s: got %v, want it taken: %t", test.name, err, test.ok)
		}
	}
}

func TestWrongInlinePresets(t *testing.T) {
	for _, test := range []struct {
		name, old, with string
		want            string // a pattern
	}{
		{"unknown field", "title: Our shop", "titel: Our shop", `line 2: .*titel`},
		{"not YAML", "title: Our shop", "title: [Our shop", `line \d+: `},
		{"a list where a text belongs", "title: Our shop", "title: [a]", `line 2: .*`},
		{"no name", "name: shop", "name: Shop!", `line 1: name: "Shop!" is no name`},
		{"no algorithm", "  alg: hmac-sha256\n", "", `line \d: auth.alg: is missing`},
		{"unknown algorithm", "alg: hmac-sha256", "alg: hmac-md4", `line 4: auth.alg: "hmac-md4" is not known`},
		{"a digest of no secret", "alg: hmac-sha256", "alg: sha256", `line 6: auth.message: sha256 signs nothing unless \{secret\}`},
		{"nowhere to stand", `from: "header:X-Shop-Signature", `, "", `line 5: auth.sig.from: is missing`},
		{"unknown place", "header:X-Shop-Signature", "cookie:sid", `line 5: auth.sig.from: "cookie:sid" is no place`},
		{"a key without a pair", `pair: "=", `, "", `line 5: auth.sig.key: `},
		{"unknown encoding", "  message:", "  enc: base58\n  message:", `line 6: auth.enc: "base58"`},
		{"unknown key encoding", "  message:", "  key: {enc: rot13}\n  message:", `line 6: auth.key.enc: "rot13"`},
		{"nothing signed", `  message: "{sig.t}.{body}"` + "\n", "", `line \d: auth.message: is missing`},
		{"a brace left open", `"{sig.t}.{body}"`, `"{sig.t}.{body"`, `line 6: auth.message: a \{ is not closed`},
		{"a time that nothing signs", `"{sig.t}.{body}"`, `"{body}"`, `line 6: auth.message: the time`},
		{"a separator that parts nothing", "  message:", "  separator: \"|\"\n  message:", `line 6: auth.separator: "\|" parts nothing`},
		{"a place for no separator", "  message:", "  separator_in: json:a\n  message:", `line 6: auth.separator_in: needs separator`},
		{"a separator in what is not signed", "  message:", "  separator: .\n  separator_in: json:a\n  message:", `line 7: auth.separator_in: json:a is no part`},
		{"unknown unit", "unit: ms", "unit: h", `line 7: auth.time.unit: "h"`},
		{"a bad path", "json:event.id", "json:event..id", `line 8: id: path "event..id": a name is missing`},
		{"an item without a batch", "json:event.name", "item:name", `line 9: type: item: needs each`},
		{"an id without braces", `id: "{json:event.id}"`, `id: "json:event.id"`, `line 8: id: "json:event.id" is a text here, .* in braces, \{json:event.id\}`},
		{"a constant id", `id: "{json:event.id}"`, `id: evt`, `line 8: id: "evt" is the same for every callback`},
		{"a constant id behind another", `id: "{json:event.id}"`, `id: ["{json:event.id}", evt]`, `line 8: id\[1\]: "evt" is the same for every callback`},
		{"a type without braces", `type: "{json:event.name}"`, `type: "json:event.name"`, `line 9: type: "json:event.name" is a text here`},
		{"a reference that all share", "respond:", "references: [{kind: order, from: order}]\nrespond:", `line 18: references\[0\].from: "order" is the same`},
		{"a payment that all share", "payment:\n", "payment:\n  id: pay\n", `line 16: payment.id: "pay" is the same`},
		{"an amount without braces", `"{json:order.total}"`, `"json:order.total"`, `line 16: payment.amount: "json:order.total" is a text here`},
		{"braces around one place", "json:order.notes[?name=<token_field>].value", "'{json:order.token}'", `line 14: correlation\[0\]: .* leave the braces out`},
		{"no currency", `"{json:order.currency}"`, "euro", `line 17: payment.currency: "euro" is no ISO 4217 code`},
		{"a currency nobody has", `"{json:order.currency}"`, "EUX", `line 17: payment.currency: "EUX" is no ISO 4217 code`},
		{"a body that nothing signs", `"{sig.t}.{body}"`, `"{sig.t}"`, `line 6: auth.message: json:event.id is read and not signed: write \{body\}`},
		{"a second message that signs no body", `"{sig.t}.{body}"`, `["{sig.t}.{body}", "{sig.t}"]`, `line 6: auth.message\[1\]: json:event.id is read and not signed`},
		{"a form that nothing signs", "message: \"{sig.t}.{body}\"\n  time: {value: \"{sig.t}\", unit: ms}\nid: \"{json:event.id}\"\ntype: \"{json:event.name}\"\n" + inlineMeaning, "message: \"{sig.t}\"\nform: body\n", `auth.message: the form is read and not signed`},
		{"a text where fields belong", `sig: {from: "header:X-Shop-Signature", list: ",", pair: "=", key: s}`, "sig: header:X", `line 5: auth.sig: a text where an object, .* belongs`},
		{"fields where a list belongs", "  - json:order.notes[?name=<token_field>].value", "  a: b", `line 14: correlation: an object, .* where a list, .* belongs`},
		{"an unknown field of a rule", "is: ignored", "iss: ignored", `line 12: outcome\[1\].iss: unknown field "iss"`},
		{"unknown outcome", "is: completed", "is: success", `line 11: outcome\[0\].is: "success" is no outcome`},
		{"an outcome that only the relay finds", "is: ignored", "is: paid_again", `line 12: outcome\[1\].is: `},
		{"a bad condition", "json:order.test", "order.test", `line 11: outcome\[0\].if: "order.test" is no place`},
		{"a bad place of a token", "json:order.notes[?name=<token_field>].value", "json:order.notes[?name]", `line 14: correlation\[0\]: `},
		{"every element of a list", "json:order.notes[?name=<token_field>].value", "json:order.notes[*]", `line 14: correlation\[0\]: .*each`},
		{"unknown filter", "{json:order.total}", "{json:order.total!cents}", `line 16: payment.amount: !cents is no filter`},
		{"a body nobody reads", "respond:", "body: xml\nrespond:", `line 18: body: "xml"`},
		{"an answer that is no answer", "status: 204", "status: 302", `line 18: respond.status: 302`},
		{"a rejection that accepts", "reject: 498", "reject: 200", `line 18: respond.reject: 200`},
		{"a link nobody carries", "respond:", "link: path:x\nrespond:", `line 18: link: "path:x" is not written`},
		{"a form of no fields", "respond:", "form: query:a\nrespond:", `line 18: form.from: "query:a" holds no fields`},
		{"a form from nowhere", "respond:", "form: {name: a}\nrespond:", `line 18: form.from: is missing`},
		{"a form of every element", "respond:", "form: {from: body, name: \"a[*]\"}\nrespond:", `line 18: form.name: a path of a form`},
		{"labels without an id", "respond:", "form: {from: body, labels: {in: a, text: b, by: c}}\nrespond:", `line 18: form.labels: needs id and text`},
		{"labels by nothing", "respond:", "form: {from: body, labels: {in: a, id: a, text: b}}\nrespond:", `line 18: form.labels.by: the path is empty`},
		{"two numbers in a prefix", "respond:", "form: {from: body, prefix: q##_}\nrespond:", `line 18: form.prefix: "q##_" has more than one`},
		{"a handshake by PUT", "respond:", "handshake: [{method: PUT}]\nrespond:", `line 18: handshake\[0\].method: "PUT"`},
		{"a handshake that any callback could be", "respond:", "handshake: [{method: POST}]\nrespond:", `line 18: handshake\[0\].body: is missing`},
		{"a handshake of HEAD with a body", "respond:", "handshake: [{method: HEAD, body: x}]\nrespond:", `line 18: handshake\[0\].body: a HEAD has none`},
		{"code with data", "alg: hmac-sha256", "alg: twilio", `line 4: auth.alg: twilio says itself`},
		{"a field's JSON without a path", "json:event.id", "form:a|", `line 8: id: the path is empty`},
		{"one of the relay's own", "title: Our shop", "internal: true", `internal: `},
		{"two documents", "respond:", "---\nrespond:", `one YAML document`},
		{"aliases", "json:order.test\": [false, null]", "json:order.test\": &a [1], \"json:b\": [*a, *a]", `line 11: aliases are not read`},
		{"an object where a text belongs", `"{json:event.id}"`, "{a: b}", `line 8: `},
		{"nothing signed in time", "alg: hmac-sha256", "alg: token", `line 6: auth.message: a token signs no message`},
		{"too long", "respond:", "# " + strings.Repeat("x", provider.MaxPreset) + "\nrespond:", `at most 32768 bytes`},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(inline, test.old, test.with, 1)
			if text == inline {
				t.Fatalf("%q is not in the preset", test.old)
			}
			_, err := provider.Parse([]byte(text))
			if !relay.IsKind(err, relay.Invalid) || !regexp.MustCompile(test.want).MatchString(err.Error()) {
				t.Errorf("Parse: got %v, want %s", err, test.want)
			}
		})
	}
}

// deepYAML nests maps by indentation alone.
func deepYAML(levels int) string {
	var b strings.Builder
	for i := range levels {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func TestDegenerateInlinePresets(t *testing.T) {
	for _, text := range []string{"", "---", "# nothing", "[]", "x", "name: a", strings.Repeat("[", 30000), strings.Repeat("a: {", 8000), strings.Repeat("- ", 16000), strings.Repeat("[", 40000), deepYAML(200), "\x00", "a: !!binary x", "? :"} {
		if _, err := provider.Parse([]byte(text)); !relay.IsKind(err, relay.Invalid) {
			t.Errorf("Parse(%.20q): got %v, want it refused", text, err)
		}
	}
}

func TestBuiltInPresetsCanBeCopiedInline(t *testing.T) {
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		if _, err := provider.Parse([]byte(p.Text)); (err != nil) != p.Internal {
			t.Errorf("Parse of %s: got %v", name, err)
		}
	}
}

func TestBatches(t *testing.T) {
	const head = "name: batch\nauth: {alg: none}\nid: \"{item:id}\"\ntype: \"{json:kind?}{item:kind}\"\ncorrelation: [\"item:ref\"]\n"
	for _, test := range []struct {
		name, each, body string
		want             []string // ids
		code             string
	}{
		{"a list of its own", `"[*]"`, `[{"id":1},{"id":2}]`, []string{"1", "2"}, ""},
		{"wrapped", `"items[*].event"`, `{"items":[{"event":{"id":"a"}}]}`, []string{"a"}, ""},
		{"empty", `"items[*]"`, `{"items":[]}`, nil, ""},
		{"missing", `"items[*]"`, `{}`, nil, provider.BadBatch},
		{"no objects", `"items[*]"`, `{"items":[1]}`, nil, provider.BadBatch},
		{"too many", `"[*]"`, "[" + strings.Repeat("{},", provider.MaxItems) + "{}]", nil, provider.TooManyItems},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := provider.Parse([]byte(head + "each: " + test.each + "\n"))
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			e, err := p.Endpoint(provider.Settings{})
			if err != nil {
				t.Fatalf("Endpoint: %v", err)
			}
			readings, err := e.Read(&provider.Request{Body: []byte(test.body)})
			if test.code != "" && (err == nil || !strings.HasPrefix(err.Error(), test.code)) {
				t.Fatalf("Read: got %v, want %s", err, test.code)
			}
			var ids []string
			for _, r := range readings {
				ids = append(ids, r.EventID)
			}
			if diff := cmp.Diff(test.want, ids); diff != "" {
				t.Errorf("ids (-want +got):\n%s", diff)
			}
		})
	}
}
