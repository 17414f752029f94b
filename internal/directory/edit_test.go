package directory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestApply(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	doc := document(list(bot), list(pay), list(checkout))
	version := func() int64 { return storetest.Query[int64](t, n.url, `SELECT version FROM configuration`) }

	before := version()
	want := list("create destination bot", "create source pay", "create flow checkout")
	if diff := cmp.Diff(want, n.apply(t, doc, directory.Options{DryRun: true})); diff != "" {
		t.Errorf("dry run (-want +got):\n%s", diff)
	}
	if p := n.project(t); p.Destination("bot") != nil || p.Source("pay") != nil || p.Flow("checkout") != nil || version() != before {
		t.Error("a dry run changed the configuration")
	}
	if diff := cmp.Diff(want, n.apply(t, doc, directory.Options{})); diff != "" {
		t.Errorf("create (-want +got):\n%s", diff)
	}
	if f := n.project(t).Flow("checkout"); f == nil || f.Err != nil {
		t.Fatalf("after the change its author sees %+v, want the flow", f)
	}
	if diff := cmp.Diff([]string{}, n.apply(t, doc, directory.Options{})); diff != "" {
		t.Errorf("the same again (-want +got):\n%s", diff)
	}

	doc = document(
		list(`{"name":"bot","platform":"certainly","token":"t-2","timeout":"5s"}`),
		list(`{"name":"pay","provider":"svix","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}`),
		list(`{"name":"checkout","destination":"bot","source":"pay","module_id":6,"expires_in":"45m"}`))
	want = list("update destination bot: timeout,token", "update source pay: provider,secrets", "update flow checkout: expires_in,on")
	if diff := cmp.Diff(want, n.apply(t, doc, directory.Options{})); diff != "" {
		t.Errorf("update (-want +got):\n%s", diff)
	}
	p := n.project(t)
	if got := p.Destination("bot"); got.Timeout() != 5*time.Second || got.Account().Settings["token"] != "t-2" {
		t.Errorf("the destination: got %s and token %q", got.Timeout(), got.Account().Settings["token"])
	}
	if got := p.Source("pay"); got.Endpoint.Preset().Name != "svix" || got.URL != publicURL+"/in/default/pay" || got.RequestURL("", "") != got.URL {
		t.Errorf("the source: got %s at %s, signed %s", got.Endpoint.Preset().Name, got.URL, got.RequestURL("", ""))
	}
	if got := p.Flow("checkout"); got.On["completed"].ModuleID != 6.0 || time.Duration(got.ExpiresIn) != 45*time.Minute {
		t.Errorf("the flow: got %+v", got.Flow)
	}
}

// TestPrune holds that pruning deletes what is not named, in the projects that
// are named, and that the flows see what is left: one destination is "the
// only one" although another was there before.
func TestPrune(t *testing.T) {
	t.Parallel()
	n := configured(t)
	other := document(list(bot), list(pay), list(checkout))
	other.Project = "shop-b"
	n.apply(t, other, directory.Options{})

	doc := document(list(`{"name":"newbot","platform":"certainly","token":"t"}`), list(`{"name":"newpay","provider":"html-form"}`),
		list(`{"name":"contact","module_id":7}`))
	if _, err := n.Apply(t.Context(), []directory.Document{doc}, directory.Options{}); !isCode(err, "destination_required") {
		t.Errorf("without pruning there are two destinations: got %v, want destination_required", err)
	}
	want := list("create destination newbot", "create source newpay", "delete destination bot", "delete source pay",
		"create flow contact", "delete flow checkout")
	if diff := cmp.Diff(want, n.apply(t, doc, directory.Options{Prune: true})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	p := n.project(t)
	if p.Destination("bot") != nil || p.Source("pay") != nil || p.Flow("checkout") != nil || p.Source(relay.FormSource) == nil {
		t.Error("what was not named is still there, or the built-in source is gone")
	}
	if got := n.Current().Project("shop-b"); got.Flow("checkout") == nil || got.Flow("checkout").Err != nil {
		t.Error("pruning reached into a project that was not named")
	}
}

// TestRefusedInTheMiddle holds that a change is one transaction.
func TestRefusedInTheMiddle(t *testing.T) {
	t.Parallel()
	n := configured(t)
	before := everything(t, n)
	good := document(list(`{"name":"bot","platform":"certainly","token":"other"}`, `{"name":"bot2","platform":"certainly","token":"t"}`),
		list(`{"name":"pay","provider":"generic-hmac","secret":"other"}`), nil)
	bad := document(nil, nil, list(checkout, `{"name":"second","destination":"nobody","source":"pay","module_id":1}`))
	bad.Project = "shop-b"
	edits, err := n.Apply(t.Context(), []directory.Document{good, bad}, directory.Options{Prune: true})
	if err == nil {
		t.Fatal("got no error")
	}
	if len(edits) != 0 {
		t.Errorf("got the edits %v of a change that was refused, want none", edits)
	}
	if diff := cmp.Diff(before, everything(t, n)); diff != "" {
		t.Errorf("a refused change left something behind (-before +after):\n%s", diff)
	}
}

// everything is the stored configuration as text.
func everything(t *testing.T, n *node) string {
	t.Helper()
	return storetest.Query[string](t, n.url, `
		SELECT string_agg(row, E'\n' ORDER BY row) FROM (
		    SELECT 'p ' || projects::text FROM projects UNION ALL SELECT 'd ' || destinations::text FROM destinations
		    UNION ALL SELECT 's ' || sources::text FROM sources UNION ALL SELECT 'x ' || source_secrets::text FROM source_secrets
		    UNION ALL SELECT 'f ' || flows::text FROM flows UNION ALL SELECT 'v ' || configuration::text FROM configuration
		) AS all_rows (row)`)
}

func isCode(err error, code string) bool {
	var e *relay.Error
	return errors.As(err, &e) && e.Code == code
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	n := configured(t)
	d := func(object string) directory.Document { return document(list(object), nil, nil) }
	s := func(object string) directory.Document { return document(nil, list(object), nil) }
	f := func(object string) directory.Document { return document(nil, nil, list(object)) }
	named := func(name string) directory.Document { return directory.Document{Project: name} }
	const on = `"source":"pay","destination":"bot","on":`
	for _, test := range []struct {
		name   string
		doc    directory.Document
		code   string
		detail string // how the refusal begins
	}{
		{"project's name", named("Shop B"), "invalid_name", "project: name: "},
		{"no JSON", d(`{`), "malformed_json", "destinations[0]: "},
		{"no object", s(`"pay"`), "wrong_type", "sources[0]: a JSON string does not go here: want an object"},
		{"a key twice", f(`{"name":"a","name":"b"}`), "duplicate_key", "flows.b: name: "},
		{"two destinations of a name", document(list(bot, bot), nil, nil), "duplicate_name", `the name "bot"`},
		{"two sources of a name", document(nil, list(pay, pay), nil), "duplicate_name", `the name "pay"`},
		{"two flows of a name", document(nil, nil, list(checkout, checkout)), "duplicate_name", `the name "checkout"`},

		{"no name", d(`{"platform":"certainly","token":"t"}`), "invalid_name", "destinations[0]: name: "},
		{"a name with blanks", d(`{"name":"my bot","platform":"certainly","token":"t"}`), "invalid_name", "destinations.my bot: name: "},
		{"a long name", d(`{"name":"` + strings.Repeat("a", 64) + `","platform":"certainly","token":"t"}`), "invalid_name", ""},
		{"unknown platform", d(`{"name":"b","platform":"certainty"}`), "unknown_platform", `destinations.b: platform: "certainty" is none of certainly`},
		{"a misspelt field", d(`{"name":"b","platform":"certainly","tokn":"x"}`), "unknown_field", `destinations.b: tokn: a destination of certainly has no such field: remove it, or correct its name: did you mean "token"?`},
		{"a misspelt field of all", d(`{"name":"b","platform":"certainly","token":"x","max_concurency":1}`), "unknown_field", `destinations.b: max_concurency: a destination of certainly has no such field: remove it, or correct its name: did you mean "max_concurrency"?`},
		{"no platform", d(`{"name":"b","token":"t"}`), "unknown_platform", "destinations.b: platform is missing: give one of certainly"},
		{"platform misspelt", d(`{"name":"b","plattform":"certainly","token":"t"}`), "unknown_platform", "destinations.b: platform is missing: give one of certainly, haptik, smartify, userengage, webhook; there is no field plattform"},
		{"token missing", d(`{"name":"b","platform":"certainly"}`), "setting_required", "destinations.b: token: "},
		{"token misspelt", d(`{"name":"b","platform":"certainly","tokn":"t"}`), "unknown_field", "destinations.b: tokn: "},
		{"token empty", d(`{"name":"b","platform":"certainly","token":""}`), "setting_required", "destinations.b: token: "},
		{"token a number", d(`{"name":"b","platform":"certainly","token":5}`), "wrong_type", "destinations.b: token: "},
		{"unknown field", d(`{"name":"b","platform":"certainly","token":"t","max_concurency":"5"}`), "unknown_field", "destinations.b: max_concurency: "},
		{"unknown field, a number", d(`{"name":"b","platform":"certainly","token":"t","max_concurency":5}`), "unknown_field", "destinations.b: max_concurency: "},
		{"base_url, a private address", d(`{"name":"b","platform":"certainly","token":"t","base_url":"https://10.0.0.1"}`), "address_refused", "destinations.b: base_url: 10.0.0.1 is not "},
		{"base_url, plain", d(`{"name":"b","platform":"certainly","token":"t","base_url":"http://bots.example"}`), "address_refused", "destinations.b: base_url: plain http is not allowed: use https, or allow it with RELAY_ALLOW_PRIVATE_TARGETS"},
		{"a source's base_url, a private address", s(`{"name":"p","provider":"stripe","base_url":"https://10.0.0.1"}`), "address_refused", "sources.p: base_url: 10.0.0.1 is not "},
		{"a source's base_url with a query", s(`{"name":"p","provider":"stripe","base_url":"https://api.example/?a=b"}`), "invalid_source", "sources.p: base_url: write an address"},
		{"base_url with a query", d(`{"name":"b","platform":"certainly","token":"t","base_url":"https://bots.example/?a=b"}`), "invalid_destination", "destinations.b: base_url "},
		{"a line break in a token", d(`{"name":"b","platform":"certainly","token":"t\nx"}`), "invalid_destination", "destinations.b: the destination's token "},
		{"max_concurrency", d(`{"name":"b","platform":"certainly","token":"t","max_concurrency":1025}`), "invalid_max_concurrency", ""},
		{"max_concurrency below", d(`{"name":"b","platform":"certainly","token":"t","max_concurrency":-1}`), "invalid_max_concurrency", ""},
		{"rate", d(`{"name":"b","platform":"certainly","token":"t","rate":"50"}`), "invalid_rate", ""},
		{"rate a number", d(`{"name":"b","platform":"certainly","token":"t","rate":50}`), "wrong_type", `destinations.b: rate: write it like "50/s"`},
		{"rate of zero", d(`{"name":"b","platform":"certainly","token":"t","rate":"0/s"}`), "invalid_rate", ""},
		{"rate that is no number", d(`{"name":"b","platform":"certainly","token":"t","rate":"NaN/s"}`), "invalid_rate", ""},
		{"rate without end", d(`{"name":"b","platform":"certainly","token":"t","rate":"Inf/s"}`), "invalid_rate", ""},
		{"timeout too long for a lease", d(`{"name":"b","platform":"certainly","token":"t","timeout":"21s"}`), "invalid_timeout", ""},
		{"timeout too short", d(`{"name":"b","platform":"certainly","token":"t","timeout":"99ms"}`), "invalid_timeout", ""},
		{"timeout a number", d(`{"name":"b","platform":"certainly","token":"t","timeout":30}`), "invalid_duration", "destinations.b: timeout: write it like 90s"},
		{"timeout no duration", d(`{"name":"b","platform":"certainly","token":"t","timeout":"fast"}`), "invalid_duration", "destinations.b: timeout: "},
		{"on_unknown", d(`{"name":"b","platform":"certainly","token":"t","on_unknown":"ask"}`), "invalid_on_unknown", ""},
		{"on_unknown of a platform that cannot be asked", d(`{"name":"b","platform":"certainly","token":"t","on_unknown":"confirm"}`), "invalid_on_unknown", "destinations.b: on_unknown: certainly cannot be asked "},
		{"haptik without an address", d(`{"name":"b","platform":"haptik","token":"t","client_id":"c","business_id":1}`), "base_url_required", "destinations.b: base_url: haptik has no address"},
		{"business_id of letters", d(`{"name":"b","platform":"haptik","base_url":"https://h.example","token":"t","client_id":"c","business_id":"x"}`), "wrong_type", "destinations.b: business_id: want a whole number"},
		{"business_id that is half", d(`{"name":"b","platform":"haptik","base_url":"https://h.example","token":"t","client_id":"c","business_id":1.5}`), "wrong_type", "destinations.b: business_id: "},
		{"a username alone", d(`{"name":"b","platform":"smartify","project_id":"p","username":"u"}`), "invalid_destination", "destinations.b: username and password belong together"},
		{"no url", d(`{"name":"b","platform":"webhook"}`), "setting_required", "destinations.b: url: "},
		{"a base_url of a webhook", d(`{"name":"b","platform":"webhook","url":"https://h.example","base_url":"https://h.example"}`), "invalid_destination", "destinations.b: webhook has no base_url"},
		{"a url with a password", d(`{"name":"b","platform":"webhook","url":"https://u:p@h.example"}`), "address_refused", "destinations.b: url: a URL may hold no user name"},
		{"url, loopback", d(`{"name":"b","platform":"webhook","url":"https://127.0.0.1/x"}`), "address_refused", "destinations.b: url: "},
		{"url, RFC 1918", d(`{"name":"b","platform":"webhook","url":"https://192.168.1.1/x"}`), "address_refused", "destinations.b: url: "},
		{"url, link-local", d(`{"name":"b","platform":"webhook","url":"https://169.254.1.1/x"}`), "address_refused", "destinations.b: url: "},
		{"url, metadata", d(`{"name":"b","platform":"webhook","url":"https://169.254.169.254/latest/meta-data"}`), "address_refused", "destinations.b: url: "},
		{"url, IPv4-mapped", d(`{"name":"b","platform":"webhook","url":"https://[::ffff:10.0.0.1]/x"}`), "address_refused", "destinations.b: url: "},
		{"url, 6to4", d(`{"name":"b","platform":"webhook","url":"https://[2002:7f00:1::1]/x"}`), "address_refused", "destinations.b: url: "},
		{"url, decimal", d(`{"name":"b","platform":"webhook","url":"https://2130706433/x"}`), "address_refused", "destinations.b: url: "},
		{"url, octal", d(`{"name":"b","platform":"webhook","url":"https://0177.0.0.1/x"}`), "address_refused", "destinations.b: url: "},
		{"url, localhost", d(`{"name":"b","platform":"webhook","url":"https://localhost/x"}`), "address_refused", "destinations.b: url: "},
		{"url, plain", d(`{"name":"b","platform":"webhook","url":"http://h.example"}`), "address_refused", "destinations.b: url: plain http"},
		{"a signing secret in clear", d(`{"name":"b","platform":"webhook","url":"https://h.example","secret":"hunter2"}`), "invalid_destination", "destinations.b: secret: a signing secret is whsec_"},
		{"GET", d(`{"name":"b","platform":"webhook","url":"https://h.example","method":"GET"}`), "invalid_destination", "destinations.b: method must be one of POST"},
		{"headers that are a text", d(`{"name":"b","platform":"webhook","url":"https://h.example","headers":"X: y"}`), "wrong_type", "destinations.b: headers: want an object of texts"},
		{"a forbidden header", d(`{"name":"b","platform":"webhook","url":"https://h.example","headers":{"webhook-id":"1"}}`), "invalid_destination", "destinations.b: headers: webhook-id is set by the relay itself"},

		{"the built-in source", s(`{"name":"form","provider":"html-form"}`), "built_in", "sources.form: "},
		{"no provider", s(`{"name":"s"}`), "provider_required", "sources.s: provider is missing: name a preset, or give one inline"},
		{"provider misspelt", s(`{"name":"s","provder":"stripe","username":"u"}`), "provider_required", "sources.s: provider is missing: name a preset, or give one inline; there is no field provder"},
		{"unknown provider", s(`{"name":"s","provider":"strype"}`), "unknown_provider", `sources.s: provider: "strype" is none of adyen, adyen-platform, `},
		{"an internal provider", s(`{"name":"s","provider":"form"}`), "unknown_provider", "sources.s: provider: "},
		{"unknown field", s(`{"name":"s","provider":"stripe","webhook_secret":"x"}`), "unknown_field", "sources.s: webhook_secret: "},
		{"unknown field, a flag", s(`{"name":"s","provider":"stripe","live":true}`), "unknown_field", "sources.s: live: "},
		{"a secret where none is used", s(`{"name":"s","provider":"html-form","secret":"x"}`), "secret_unused", "sources.s: secret: "},
		{"an empty secret in the list", s(`{"name":"s","provider":"stripe","secrets":["a",""]}`), "no_secret", "sources.s: secret: "},
		{"a secret that is no key", s(`{"name":"s","provider":"svix","secret":"whsec_!!"}`), "unusable_secret", "sources.s: secret: "},
		{"an inline preset", s(`{"name":"s","provider":{"name":"x"}}`), "invalid_preset", "sources.s: provider: "},
		{"an inline preset, by its field", s(`{"name":"s","provider":{"name":"x","auth":{"alg":"none"},"outcome":[{"iss":"completed"}]}}`), "invalid_preset", "sources.s: provider: outcome[0].iss: unknown field"},
		{"an inline preset that finds no wait", s(`{"name":"s","provider":{"name":"x","auth":{"alg":"none"},"outcome":[{"is":"completed"}]}}`), "invalid_preset", "sources.s: provider: correlation is missing"},
		{"a secret that is no hex", s(`{"name":"s","provider":"adyen","secret":"xyz"}`), "unusable_secret", "sources.s: secret: that is no secret of adyen, which is 64 hex digits"},
		{"token_field", s(`{"name":"s","provider":"stripe","token_field":"a b"}`), "invalid_token_field", "sources.s: token_field "},
		{"key_field", s(`{"name":"s","provider":"stripe","key_field":"a[["}`), "invalid_key_field", "sources.s: key_field: "},
		{"half of the credentials", s(`{"name":"s","provider":"stripe","password":"x"}`), "invalid_credentials", "sources.s: "},
		{"tolerance", s(`{"name":"s","provider":"stripe","tolerance":"25h"}`), "invalid_duration", "sources.s: tolerance: "},
		{"tolerance without a unit", s(`{"name":"s","provider":"stripe","tolerance":"5"}`), "invalid_duration", `sources.s: tolerance: "5" is not a duration: write it like 90s`},
		{"no tolerance at all", s(`{"name":"s","provider":"stripe","tolerance":"0s"}`), "invalid_duration", "sources.s: tolerance: "},
		{"tolerance a number", s(`{"name":"s","provider":"stripe","tolerance":5}`), "invalid_duration", "sources.s: tolerance: write it like 90s"},
		{"public_url", s(`{"name":"s","provider":"stripe","public_url":"relay.example"}`), "invalid_link", "sources.s: public_url: "},

		{"unknown field", f(`{"name":"x","module":5}`), "unknown_field", "flows.x: module: "},
		{"unknown field of an action", f(`{"name":"x",` + on + `{"completed":{"modul_id":5}}}`), "unknown_field", "flows.x: on.completed.modul_id: "},
		{"unknown destination", f(`{"name":"x","source":"pay","destination":"bta","module_id":5}`), "unknown_destination", "flows.x: destination: "},
		{"unknown destination of an action", f(`{"name":"x",` + on + `{"failed":{"module_id":5,"destination":"bta"}}}`), "unknown_destination", "flows.x: on.failed: "},
		{"unknown source", f(`{"name":"x","source":["pay","pai"],"module_id":5}`), "unknown_source", "flows.x: source: "},
		{"module_id negative", f(`{"name":"x","module_id":-1}`), "module_id_invalid", "flows.x: on.completed: module_id must be a positive whole number, such as 1068935"},
		{"module_id twice", f(`{"name":"x",` + on + `{"completed":{"module_id":5}},"module_id":6}`), "module_id_twice", "flows.x: "},
		{"expires_in too long", f(`{"name":"x","module_id":5,"expires_in":"31d"}`), "invalid_duration", "flows.x: expires_in: "},
		{"expires_in too short", f(`{"name":"x","module_id":5,"expires_in":"999ms"}`), "invalid_duration", "flows.x: expires_in: "},
		{"expires_in negative", f(`{"name":"x","module_id":5,"expires_in":"-5m"}`), "invalid_duration", "flows.x: expires_in: "},
		{"processing_for", f(`{"name":"x","module_id":5,"processing_for":"31d"}`), "invalid_duration", "flows.x: processing_for: "},
		{"retry_for", f(`{"name":"x","module_id":5,"retry_for":"8d"}`), "invalid_duration", "flows.x: retry_for: "},
		{"on_conflict", f(`{"name":"x","module_id":5,"on_conflict":"replace"}`), "invalid_on_conflict", "flows.x: on_conflict: "},
		{"return_url", f(`{"name":"x","module_id":5,"return_url":"/thanks"}`), "invalid_link", "flows.x: return_url: "},
		{"link", f(`{"name":"x","module_id":5,"link":"javascript:alert(1)"}`), "invalid_link", "flows.x: link: "},
		{"link of a source that is not the flow's", f(`{"name":"x","source":"pay","module_id":5,"link":{"form":"https://a.example"}}`), "unknown_source", "flows.x: link.form: "},
		{"one link for two sources", f(`{"name":"x","source":["pay","form"],"module_id":5,"link":"https://a.example"}`), "ambiguous_link", "flows.x: link: "},
		{"an outcome that never comes", f(`{"name":"x","form":{"fields":[{"name":"a","label":"A"}]},"module_id":5,"on":{"refunded":{"text":"x"}}}`), "outcome_unreachable", "flows.x: on.refunded: "},
		{"an expectation of a form", document(nil, list(`{"name":"contact","provider":"html-form"}`), list(`{"name":"x","source":"contact","module_id":5,"expect":{"currency":"EUR"}}`)), "expect_unreachable", "flows.x: expect: its sources never tell of a payment"},
		{"any expectation of a form", document(nil, list(`{"name":"contact","provider":"typeform"}`), list(`{"name":"x","source":"contact","module_id":5,"expect":{}}`)), "expect_unreachable", "flows.x: expect: "},
		{"an expectation where no payment is told", f(`{"name":"x","source":"pay","module_id":5,"expect":{"amount":20.5}}`), "expect_unreachable", "flows.x: expect: "},
		{"a field that is never told", document(nil, list(`{"name":"sq","provider":"square"}`), list(`{"name":"x","source":"sq","module_id":5,"expect":{"currency":"EUR","live":true}}`)), "expect_unreachable", "flows.x: expect.live: its sources never tell it"},
		{"an api_key of a provider that is asked nothing", s(`{"name":"s","provider":"generic-hmac","api_key":"k"}`), "api_key_unused", "sources.s: api_key: generic-hmac is asked nothing"},
		{"a mismatch of nothing", f(`{"name":"x",` + on + `{"mismatch":{"text":"x"}}}`), "outcome_unreachable", "flows.x: on.mismatch: "},
		{"expression", f(`{"name":"x",` + on + `{"completed":{"module_id":"{{ paymnt.id }}"}}}`), "expression_invalid", "flows.x: on.completed: module_id: "},
		{"name", f(`{"name":"X","module_id":5}`), "invalid_name", "flows.X: name: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := n.Apply(t.Context(), []directory.Document{test.doc}, directory.Options{})
			var got *relay.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a refusal %s", err, test.code)
			}
			if got.Code != test.code || !strings.HasPrefix(got.Detail, test.detail) {
				t.Errorf("got %s: %s, want %s: %s…", got.Code, got.Detail, test.code, test.detail)
			}
		})
	}
}

// TestSecretsAreKept holds that what was secret is not shown and so need not
// be sent again.
func TestSecretsAreKept(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(list(bot), list(`{"name":"pay","provider":"stripe","secret":"whsec_1","api_key":"sk_1"}`), nil), directory.Options{})
	ids := secretIDs(n.project(t).Source("pay"))
	got := n.apply(t, document(list(`{"name":"bot","platform":"certainly","timeout":"7s"}`),
		list(`{"name":"pay","provider":"stripe","tolerance":"60s"}`), nil), directory.Options{})
	if diff := cmp.Diff(list("update destination bot: timeout", "update source pay: tolerance"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	p := n.project(t)
	if got := p.Destination("bot").Account().Settings["token"]; got != "t-1" {
		t.Errorf("the destination's token: got %q, want t-1", got)
	}
	src := p.Source("pay")
	if got := plain(src); !slices.Equal(got, list("whsec_1")) || src.Credentials["api_key"] != "sk_1" {
		t.Errorf("the source: got %v and %v, want its secret and its key kept", got, src.Credentials)
	}
	// The same secret with another change beside it stays the same row.
	n.apply(t, document(nil, list(`{"name":"pay","provider":"stripe","tolerance":"90s","secret":"whsec_1"}`), nil), directory.Options{})
	if diff := cmp.Diff(ids, secretIDs(n.project(t).Source("pay"))); diff != "" {
		t.Errorf("an unchanged secret became another row (-want +got):\n%s", diff)
	}
	for _, sealed := range []string{"t-1", "whsec_1", "sk_1"} {
		if strings.Contains(everything(t, n), sealed) {
			t.Errorf("%s stands in the database in clear", sealed)
		}
	}
}

// TestCredentialsAreKept holds that what a source is called or asked with stays
// while it is left out or empty, with the name that goes with it, and that null
// takes it away.
func TestCredentialsAreKept(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, provider, before, fields string
		want                           string // username, password, api_key, client_id, client_secret
	}{
		{"left out", "stripe", `"api_key":"k"`, `"tolerance":"1m"`, ",,k,,"},
		{"empty", "stripe", `"api_key":"k"`, `"api_key":""`, ",,k,,"},
		{"null", "stripe", `"api_key":"k"`, `"api_key":null`, ",,,,"},
		{"Basic left out", "adyen", `"username":"u","password":"p"`, `"tolerance":"1m"`, "u,p,,,"},
		{"an empty password", "adyen", `"username":"u","password":"p"`, `"password":""`, "u,p,,,"},
		{"an empty password of the same user", "adyen", `"username":"u","password":"p"`, `"username":"u","password":""`, "u,p,,,"},
		{"another user", "adyen", `"username":"u","password":"p"`, `"username":"v"`, "v,p,,,"},
		{"another password", "adyen", `"username":"u","password":"p"`, `"password":"q"`, "u,q,,,"},
		{"both empty", "adyen", `"username":"u","password":"p"`, `"username":"","password":""`, "u,p,,,"},
		{"the password null", "adyen", `"username":"u","password":"p"`, `"password":null`, ",,,,"},
		{"the username null", "adyen", `"username":"u","password":"p"`, `"username":null`, ",,,,"},
		{"a client's secret empty", "stripe", `"client_id":"c","client_secret":"s"`, `"client_secret":""`, ",,,c,s"},
		{"a client's secret null", "stripe", `"client_id":"c","client_secret":"s"`, `"client_secret":null`, ",,,,"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			for _, fields := range list(test.before, test.fields) {
				n.apply(t, document(nil, list(`{"name":"s","provider":"`+test.provider+`",`+fields+`}`), nil), directory.Options{})
			}
			src := n.project(t).Source("s")
			got := strings.Join(list(src.Settings["username"], src.Credentials["password"], src.Credentials["api_key"],
				src.Settings["client_id"], src.Credentials["client_secret"]), ",")
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	// A user name without a password to go with it proves nothing.
	n := newNode(t)
	n.apply(t, document(nil, list(`{"name":"s","provider":"adyen","username":"u","password":"p"}`), nil), directory.Options{})
	doc := document(nil, list(`{"name":"s","provider":"adyen","username":"u","password":null}`), nil)
	if _, err := n.Apply(t.Context(), []directory.Document{doc}, directory.Options{}); !isCode(err, "invalid_credentials") {
		t.Errorf("a username whose password is taken away: got %v, want invalid_credentials", err)
	}
	// The same of a destination.
	for fields, want := range map[string]string{`"username":"u","password":""`: "p", `"password":null`: ""} {
		n.apply(t, document(list(`{"name":"d","platform":"smartify","project_id":"x","username":"u","password":"p"}`), nil, nil), directory.Options{})
		n.apply(t, document(list(`{"name":"d","platform":"smartify","project_id":"x",`+fields+`}`), nil, nil), directory.Options{})
		if got := n.project(t).Destination("d").Account().Settings["password"]; got != want {
			t.Errorf("a destination, %s: got the password %q, want %q", fields, got, want)
		}
	}
}

// TestAnotherProvider holds that what was given for one provider is not taken
// for the secret of another, nor sent to it.
func TestAnotherProvider(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	put := func(source string) error {
		_, err := n.Apply(t.Context(), []directory.Document{document(nil, list(source), nil)}, directory.Options{})
		return err
	}
	if err := put(`{"name":"s","provider":"stripe","secret":"whsec_!!","api_key":"sk_1"}`); err != nil {
		t.Fatal(err)
	}
	for _, provider := range list("svix", "adyen", "html-form", "paypal") {
		if err := put(`{"name":"s","provider":"` + provider + `"}`); !isCode(err, "unusable_secret") {
			t.Errorf("%s with the secret of stripe: got %v, want unusable_secret", provider, err)
		}
	}
	if src := n.project(t).Source("s"); src.Provider != "stripe" || src.Credentials["api_key"] != "sk_1" {
		t.Errorf("got the provider %s and %v after refusals, want it as it was", src.Provider, src.Credentials)
	}
	if err := put(`{"name":"s","provider":"square","secret":"of-square"}`); err != nil {
		t.Fatal(err)
	}
	if src := n.project(t).Source("s"); !slices.Equal(plain(src), list("of-square")) || src.CanAsk() {
		t.Errorf("got the secrets %v and the credentials %v, want its own secret and not stripe's api_key", plain(src), src.Credentials)
	}
}

func plain(s *directory.Source) []string {
	secrets, _ := s.LiveSecrets(time.Now())
	return secrets
}

func secretIDs(s *directory.Source) (ids []string) {
	for _, secret := range s.Secrets {
		ids = append(ids, secret.ID.String())
	}
	return ids
}

func TestRotationByList(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	with := func(fields string) []string {
		return n.apply(t, document(nil, list(`{"name":"pay","provider":"generic-hmac",`+fields+`}`), nil), directory.Options{})
	}
	with(`"secret":"a"`)
	for _, step := range []struct {
		name, fields string
		want         []string
		changes      bool
	}{
		{"the new one comes first", `"secrets":["b","a"]`, list("b", "a"), true},
		{"again", `"secrets":["b","a"]`, list("b", "a"), false},
		{"said twice", `"secret":"b","secrets":["b","a"]`, list("b", "a"), false},
		{"the other order", `"secrets":["a","b"]`, list("a", "b"), true},
		{"a third", `"secret":"c","secrets":["a","b"]`, list("c", "a", "b"), true},
		{"left out", `"tolerance":"10s"`, list("c", "a", "b"), true},
		{"one is left", `"secret":"c","tolerance":"10s"`, list("c"), true},
	} {
		edits := with(step.fields)
		if got := plain(n.project(t).Source("pay")); !slices.Equal(got, step.want) {
			t.Errorf("%s: got the secrets %v, want %v", step.name, got, step.want)
		}
		if (len(edits) > 0) != step.changes {
			t.Errorf("%s: got the edits %v, want some: %v", step.name, edits, step.changes)
		}
	}
}

// TestRotationOutlastsApply holds that a secret with its end in sight is
// accepted until then, although the file that is applied meanwhile names the
// new one only.
func TestRotationOutlastsApply(t *testing.T) {
	t.Parallel()
	n := configured(t)
	src := n.project(t).Source("pay")
	err := n.Change(t.Context(), func(c *store.Change) error {
		id, err := c.PutSecret(t.Context(), src.ProjectID, src.ID, "s-2")
		if err != nil {
			return err
		}
		return c.ExpireOtherSecrets(t.Context(), src.ID, id, time.Hour)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := plain(n.project(t).Source("pay")); !slices.Equal(got, list("s-2", "s-1")) {
		t.Fatalf("after the rotation: got %v, want s-2, s-1", got)
	}
	edits := n.apply(t, document(nil, list(`{"name":"pay","provider":"generic-hmac","secret":"s-2"}`), nil), directory.Options{})
	if len(edits) != 0 {
		t.Errorf("got the edits %v, want none", edits)
	}
	n.apply(t, document(nil, list(`{"name":"pay","provider":"generic-hmac","secret":"s-3"}`), nil), directory.Options{})
	if got := plain(n.project(t).Source("pay")); !slices.Equal(got, list("s-3", "s-1")) {
		t.Errorf("a new secret: got %v, want it, and the one that ends by itself", got)
	}
	// Named again, it stands.
	n.apply(t, document(nil, list(`{"name":"pay","provider":"generic-hmac","secrets":["s-3","s-1"]}`), nil), directory.Options{})
	for _, secret := range n.project(t).Source("pay").Secrets {
		if secret.ExpiresAt != nil {
			t.Errorf("a secret that the list names ends at %s, want never", secret.ExpiresAt)
		}
	}
}

func TestInUse(t *testing.T) {
	t.Parallel()
	n := configured(t)
	n.apply(t, document(list(`{"name":"second","platform":"certainly","token":"t"}`), list(`{"name":"two","provider":"stripe"}`),
		list(`{"name":"other","destination":"bot","source":"two","on":{"failed":{"text":"x","destination":"second"},"default":{"action":"none"}}}`)),
		directory.Options{})
	for _, test := range []struct {
		kind directory.Kind
		name string
		flow string
	}{
		{directory.KindDestination, "bot", "checkout"},
		{directory.KindDestination, "second", "other"},
		{directory.KindSource, "pay", "checkout"},
		{directory.KindSource, "two", "other"},
	} {
		err := n.Delete(t.Context(), relay.DefaultProject, test.kind, test.name)
		if !isCode(err, "in_use") || !relay.IsKind(err, relay.Conflict) || relay.DetailOf(err) != `the flow "`+test.flow+`" depends on it: change or delete the flow first` {
			t.Errorf("delete %s %s: got %v, want in_use by %s", test.kind, test.name, err, test.flow)
		}
	}
	// Not only deleting takes away what a flow needs.
	err := n.Put(t.Context(), relay.DefaultProject, directory.KindSource, json.RawMessage(`{"name":"two","provider":"html-form"}`))
	if !isCode(err, "in_use") || !strings.HasPrefix(relay.DetailOf(err), `the flow "other" would no longer work: on.failed: `) {
		t.Errorf("a source that no longer tells of failures: got %v, want in_use", err)
	}
	for _, step := range []struct {
		kind directory.Kind
		name string
	}{
		{directory.KindFlow, "other"},
		{directory.KindDestination, "second"},
		{directory.KindSource, "two"},
		{directory.KindFlow, "checkout"},
		{directory.KindDestination, "bot"},
		{directory.KindSource, "pay"},
	} {
		if err := n.Delete(t.Context(), relay.DefaultProject, step.kind, step.name); err != nil {
			t.Errorf("delete %s %s, which nothing needs: %v", step.kind, step.name, err)
		}
		if err := n.Delete(t.Context(), relay.DefaultProject, step.kind, step.name); !relay.IsKind(err, relay.NotFound) {
			t.Errorf("delete %s %s again: got %v, want not_found", step.kind, step.name, err)
		}
	}
	if err := n.Delete(t.Context(), relay.DefaultProject, directory.KindSource, relay.FormSource); !isCode(err, "built_in") {
		t.Errorf("delete the built-in source: got %v, want built_in", err)
	}
}

// TestDeletedDestination holds that what is owed to a destination is still
// called, and that its name is free.
func TestDeletedDestination(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(list(bot), nil, nil), directory.Options{})
	id := n.project(t).Destination("bot").ID
	if err := n.Delete(t.Context(), relay.DefaultProject, directory.KindDestination, "bot"); err != nil {
		t.Fatal(err)
	}
	n.apply(t, document(list(`{"name":"bot","platform":"certainly","token":"t-2"}`), nil, nil), directory.Options{})
	gone, fresh := n.Current().Destination(id), n.project(t).Destination("bot")
	if gone == nil || gone.Account().Settings["token"] != "t-1" || !gone.Deleted {
		t.Errorf("the deleted destination: got %+v, want it with its token", gone)
	}
	if fresh == nil || fresh.ID == id || fresh.Account().Settings["token"] != "t-2" {
		t.Errorf("the new one of its name: got %+v", fresh)
	}
}

// How long things are kept is changed by who says so, as a whole; who says
// nothing of it leaves it.
func TestRetention(t *testing.T) {
	t.Parallel()
	n := configured(t)
	days := func(event, attempt, correlation int) relay.Retention {
		d := func(n int) relay.Duration { return relay.Duration(time.Duration(n) * 24 * time.Hour) }
		return relay.Retention{EventBody: d(event), AttemptBody: d(attempt), Correlation: d(correlation)}
	}
	for _, c := range []struct {
		name  string
		given *relay.Retention
		want  relay.Retention // in force
		edits string
	}{
		{"nothing said", nil, relay.DefaultRetention, "[]"},
		{"one field", &relay.Retention{Correlation: days(0, 0, 60).Correlation}, days(30, 14, 60), "[{update project default default [retention] []}]"},
		{"the same again", &relay.Retention{Correlation: days(0, 0, 60).Correlation}, days(30, 14, 60), "[]"},
		{"nothing said again", nil, days(30, 14, 60), "[]"},
		{"another one: the rest is by default", &relay.Retention{AttemptBody: days(0, 2, 0).AttemptBody}, days(30, 2, 400), "[{update project default default [retention] []}]"},
		{"defaults end with the rows", &relay.Retention{Correlation: days(0, 0, 30).Correlation}, days(30, 14, 30), "[{update project default default [retention] []}]"},
	} {
		edits, err := n.Apply(t.Context(), []directory.Document{{ProjectFields: directory.ProjectFields{Retention: c.given}}}, directory.Options{})
		if got := n.project(t).Retention.InForce(); err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
		}
		if got := fmt.Sprint(edits); got != c.edits {
			t.Errorf("%s: got the edits %s, want %s", c.name, got, c.edits)
		}
	}
	short := days(0, 0, 29)
	if err := n.PutProject(t.Context(), "shop-b", directory.ProjectFields{Retention: &short}); !isCode(err, "invalid_duration") || n.Current().Project("shop-b") != nil {
		t.Errorf("too short: got %v, want invalid_duration and no project", err)
	}
	least := days(3, 1, 30)
	if err := n.PutProject(t.Context(), "shop-b", directory.ProjectFields{Retention: &least}); err != nil || n.Current().Project("shop-b").Retention != least {
		t.Errorf("a new project: got %v, want it with %+v", err, least)
	}
}

func TestProjects(t *testing.T) {
	t.Parallel()
	n := configured(t)
	if err := n.PutProject(t.Context(), "shop-b", directory.ProjectFields{}); err != nil {
		t.Fatal(err)
	}
	b := n.Current().Project("shop-b")
	if b == nil || b.Source(relay.FormSource) == nil || b.Source("pay") != nil || n.Current().ProjectByID(b.ID) != b {
		t.Fatalf("got %+v, want a project with its built-in source alone", b)
	}
	if err := n.PutProject(t.Context(), "shop-b", directory.ProjectFields{}); err != nil || n.Current().Project("shop-b").ID != b.ID {
		t.Errorf("put again: got %v, want the same project", err)
	}
	if err := n.PutProject(t.Context(), "Shop", directory.ProjectFields{}); !isCode(err, "invalid_name") {
		t.Errorf("a bad name: got %v, want invalid_name", err)
	}
	if err := n.DeleteProject(t.Context(), relay.DefaultProject); !isCode(err, "project_in_use") {
		t.Errorf("delete the default project: got %v, want project_in_use", err)
	}
	if err := n.DeleteProject(t.Context(), "shop-b"); err != nil {
		t.Error(err)
	}
	if err := n.DeleteProject(t.Context(), "shop-b"); !relay.IsKind(err, relay.NotFound) {
		t.Errorf("delete again: got %v, want not_found", err)
	}
	if n.Current().Project("shop-b") != nil || n.Current().ProjectByID(b.ID) != nil {
		t.Error("the project is still there")
	}
	if err := n.Delete(t.Context(), "shop-b", directory.KindFlow, "x"); !relay.IsKind(err, relay.NotFound) {
		t.Errorf("delete in a project that is not there: got %v, want not_found", err)
	}
	// Names are a project's own: the same ones again, in another project.
	again := document(list(bot), list(pay), list(checkout))
	again.Project = "shop-b"
	n.apply(t, again, directory.Options{})
	if got := n.Current().Project("shop-b"); got.ID == b.ID || got.Flow("checkout").Err != nil ||
		got.Source("pay").URL != publicURL+"/in/shop-b/pay" {
		t.Errorf("a project of a name that was free: got %+v", got)
	}
	if got := names(n.Current().Projects()); !slices.Equal(got, list("default", "shop-b")) {
		t.Errorf("got the projects %v, want them by name", got)
	}
}

func names(projects []*directory.Project) (out []string) {
	for _, p := range projects {
		out = append(out, p.Name)
	}
	return out
}

// TestChangesAtOnce holds that changes made side by side follow one another,
// and none is lost.
func TestChangesAtOnce(t *testing.T) {
	t.Parallel()
	a := newNode(t)
	b := join(t, a.url, a.keys)
	done := make(chan error)
	put := func(n *node, name string) {
		go func() {
			done <- n.Put(context.Background(), relay.DefaultProject, directory.KindDestination,
				json.RawMessage(`{"name":"`+name+`","platform":"certainly","token":"t"}`))
		}()
	}
	for _, name := range list("d1", "d2", "d3", "d4") {
		put(a, name)
		put(b, "b"+name)
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(a.project(t).Destinations()); got != 8 {
		t.Errorf("got %d destinations, want 8", got)
	}
}

// What is no public address is refused as the target of a subscription, in
// whatever form it is written; a name is judged when it is dialled.
func TestTargetsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	project := n.Current().Project("default")
	for name, target := range map[string]string{
		"loopback":               "https://127.0.0.1/hook",
		"loopback IPv6":          "https://[::1]/hook",
		"RFC 1918, 10":           "https://10.1.2.3/hook",
		"RFC 1918, 172.16":       "https://172.31.255.1/hook",
		"RFC 1918, 192.168":      "https://192.168.0.1/hook",
		"unique local":           "https://[fd12::1]/hook",
		"link-local":             "https://169.254.1.1/hook",
		"link-local IPv6":        "https://[fe80::1]/hook",
		"metadata":               "https://169.254.169.254/latest/meta-data",
		"metadata IPv6":          "https://[fd00:ec2::254]/latest/meta-data",
		"IPv4-mapped":            "https://[::ffff:127.0.0.1]/hook",
		"IPv4-mapped metadata":   "https://[::ffff:a9fe:a9fe]/hook",
		"6to4":                   "https://[2002:7f00:1::1]/hook",
		"NAT64":                  "https://[64:ff9b::10.0.0.1]/hook",
		"decimal":                "https://2130706433/hook",
		"octal":                  "https://0177.0.0.1/hook",
		"hexadecimal":            "https://0x7f000001/hook",
		"parts left out":         "https://127.1/hook",
		"a dot at the end":       "https://127.0.0.1./hook",
		"localhost":              "https://localhost/hook",
		"below localhost":        "https://a.localhost/hook",
		"digits beyond ASCII":    "https://\u2460\u2461\u2466.0.0.1/hook",
		"plain http":             "http://hooks.example/hook",
		"a user before the host": "https://hooks.example@127.0.0.1/hook",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := n.Subscribe(t.Context(), project, relay.Everything, target)
			var got *relay.Error
			if !errors.As(err, &got) || got.Code != "address_refused" || !strings.HasPrefix(got.Detail, "target: ") {
				t.Errorf("%s: got %v, want it refused", target, err)
			}
		})
	}
	if _, err := n.Subscribe(t.Context(), project, relay.Everything, "https://hooks.example/hook"); err != nil {
		t.Errorf("a public name: %v", err)
	}
}
