package provider_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// knock is what Mollie posts.
func knock(body, contentType string) *provider.Request {
	return &provider.Request{
		Method: http.MethodPost, PathToken: "AAAAAAAAAAAAAAAAAAAAAA", Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body),
	}
}

const (
	formType = "application/x-www-form-urlencoded"
	paidAtA  = `{"id": "tr_1", "status": "paid", "amount": {"value": "20.50", "currency": "EUR"}, "webhookUrl": "https://r.example/in/p/s/AAAAAAAAAAAAAAAAAAAAAA"}`
)

// Of a callback that says only what it is about nothing else is read, whatever
// else it says.
func TestReduced(t *testing.T) {
	t.Parallel()
	e := endpoint(t, "mollie-classic", provider.Settings{})
	for name, tt := range map[string]struct {
		req   *provider.Request
		about string
	}{
		"as Mollie sends it":    {knock("id=tr_1", formType), "tr_1"},
		"with all that it is":   {knock(paidAtA, "application/json"), "tr_1"},
		"of something else":     {knock("id=ord_1", formType), ""},
		"of nothing":            {knock("", formType), ""},
		"of a step of a path":   {knock("id=..", formType), ""},
		"of what leads outside": {knock("id=tr_1%2F..%2F..", formType), "tr_1/../.."},
	} {
		readings, err := e.Read(tt.req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := readings[0]
		if r.Fetch != tt.about || r.Outcome != "" || r.Payment != nil || r.Form != nil {
			t.Errorf("%s: got %+v, want nothing but that it is about %q", name, r, tt.about)
		}
	}
	if !e.NeedsKey() || endpoint(t, "stripe", provider.Settings{}).NeedsKey() {
		t.Error("NeedsKey: want it of Mollie, and not of Stripe, which says most by itself")
	}
}

func TestFetchPath(t *testing.T) {
	t.Parallel()
	survey := func(id string) *provider.Request {
		return &provider.Request{Body: []byte(`{"resources": {"survey_id": "` + id + `"}}`)}
	}
	object := func(url string) *provider.Request {
		return &provider.Request{Body: []byte(`{"related_object": {"url": "` + url + `"}}`)}
	}
	for _, tt := range []struct {
		preset, about string
		req           *provider.Request
		want          string // "" where it cannot be asked
	}{
		{"mollie-classic", "tr_1", knock("id=tr_1", formType), "/v2/payments/tr_1"},
		{"mollie-classic", "tr_1/../x?y", knock("", formType), "/v2/payments/tr_1%2F..%2Fx%3Fy"},
		{"mollie-classic", "", knock("", formType), ""},
		{"mollie-classic", "..", knock("", formType), ""},
		{"mollie-classic", ".", knock("", formType), ""},
		{"surveymonkey", "5", survey("7"), "/v3/surveys/7/responses/5/details?simple=true"},
		{"surveymonkey", "5", survey("7/8"), "/v3/surveys/7%2F8/responses/5/details?simple=true"},
		{"surveymonkey", "5", survey(".."), ""},
		{"surveymonkey", "5", survey(""), ""},
		{"stripe", "cs_1", object("/v1/checkout/sessions/cs_1"), "/v1/checkout/sessions/cs_1"},
		{"stripe", "cs_1", object("//evil.example/cs_1"), ""},
		{"stripe", "cs_1", object("https://evil.example/cs_1"), ""},
		{"stripe", "cs_1", object("/v1/../cs_1"), ""},
		{"stripe", "cs_1", object("/v1/cs_1?expand=all"), ""},
		{"stripe", "cs_1", object("@evil.example/"), ""},
		{"square", "o-1", survey("7"), ""},
	} {
		got, ok := endpoint(t, tt.preset, provider.Settings{}).FetchPath(tt.req, tt.about)
		if !ok {
			got = ""
		}
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s about %s: got %q, %t, want %q", tt.preset, tt.about, got, ok, tt.want)
		}
	}
}

// The names in the URL of a callback count where the provider confirms them.
func TestConfirmed(t *testing.T) {
	t.Parallel()
	const a, b = "AAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBB"
	e := endpoint(t, "mollie-classic", provider.Settings{})
	for name, tt := range map[string]struct {
		path, query, more string
		want              []string
	}{
		"its own":                 {path: a, more: `"webhookUrl": "https://r.example/in/p/s/` + a + `"`, want: []string{"path " + a}},
		"in the query":            {query: a, more: `"webhookUrl": "https://r.example/in/p/s?token=` + a + `"`, want: []string{"query:token " + a}},
		"another":                 {path: b, more: `"webhookUrl": "https://r.example/in/p/s/` + a + `"`},
		"of another address":      {path: a, more: `"webhookUrl": "https://shop.example"`},
		"Mollie names none":       {path: a, more: `"webhookUrl": null`},
		"a key, which is guessed": {path: "order-1", more: `"webhookUrl": null`},
		"its metadata":            {path: b, more: `"webhookUrl": "https://r.example", "metadata": {"token": "` + a + `"}`, want: []string{"json:metadata.token " + a}},
		"a text as metadata":      {more: `"metadata": "order-1"`, want: []string{"json:metadata order-1"}},
	} {
		req := &provider.Request{Fetched: true, PathToken: tt.path, Body: []byte(`{"id": "tr_1", "status": "paid", ` + tt.more + `}`)}
		if tt.query != "" {
			req.Query = map[string][]string{"token": {tt.query}}
		}
		readings, err := e.Read(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, c := range readings[0].Candidates {
			got = append(got, c.Place+" "+c.Value)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || readings[0].Outcome != relay.Completed || readings[0].EventID != "tr_1:paid" {
			t.Errorf("%s: got %+v; names (-want +got):\n%s", name, readings[0], diff)
		}
	}
}

// What a preset may say about fetching, and what it is told when it may not.
func TestFetchIsChecked(t *testing.T) {
	t.Parallel()
	const preset = `name: x
auth: {alg: none}
references: [{kind: payment, from: "{json:id}"}]
ask:
  api: https://api.example.com
  headers: {X-Version: "1"}
  fetch: {about: payment, path: "/p/{id}", as: '{answer}', url: "json:hook"}
`
	if _, err := provider.Parse([]byte(preset)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"ask.fetch.about":      {"about: payment", `about: ""`},
		"ask.fetch.path":       {"/p/{id}", "p/{id}"},
		"holds {id} or places": {"/p/{id}", "/p"},
		"no place":             {"/p/{id}", "/p/{there}"},
		"at the beginning":     {"/p/{id}", "/p/{json:url!path}"},
		"ask.fetch.as":         {"'{answer}'", "'{}'"},
		"at most 32 times":     {"'{answer}'", "'[" + strings.Repeat("{answer},", 32) + "{answer}]'"},
		"nobody signs":         {"/p/{id}", "{json:url!path}"},
		"ask.fetch.url":        {"json:hook", "header:Hook"},
		"ask.headers":          {"X-Version", "Authorization"},
		"printable":            {`"1"`, `""`},
	} {
		_, err := provider.Parse([]byte(strings.Replace(preset, change[0], change[1], 1)))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s for %s: got %v, want it refused with %q", change[1], change[0], err, name)
		}
	}
}

// What was fetched and is refunded was paid before: that stands behind it,
// under the id of the payment's completion. Of a callback that was received
// nothing follows.
func TestCompletedBefore(t *testing.T) {
	t.Parallel()
	e := endpoint(t, "mollie-classic", provider.Settings{})
	for name, tt := range map[string]struct {
		status, more string
		want         []string
	}{
		"paid":                {"paid", "", []string{"completed tr_1:paid"}},
		"refunded":            {"paid", `, "amountRefunded": {"value": "5.00"}`, []string{"refunded tr_1:paid:refunded:5.00", "completed tr_1:paid"}},
		"charged back":        {"paid", `, "amountChargedBack": {"value": "5.00"}`, []string{"disputed tr_1:paid:charged_back:5.00", "completed tr_1:paid"}},
		"open":                {"open", `, "amountRefunded": {"value": "5.00"}`, []string{"processing tr_1:open:refunded:5.00"}},
		"failed":              {"failed", `, "amountRefunded": {"value": "5.00"}`, []string{"failed tr_1:failed:refunded:5.00"}},
		"nothing is refunded": {"paid", `, "amountRefunded": {"value": "0.00"}`, []string{"completed tr_1:paid"}},
	} {
		body := `{"id": "tr_1", "status": "` + tt.status + `", "amount": {"value": "20.50", "currency": "EUR"}` + tt.more + `}`
		readings, err := e.Read(&provider.Request{Fetched: true, Body: []byte(body)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, r := range readings {
			got = append(got, string(r.Outcome)+" "+r.EventID)
			if r.Payment == nil || r.Payment.ID != "tr_1" || *r.Payment.AmountMinor != 2050 {
				t.Errorf("%s: %s tells of the payment %+v, want all of tr_1", name, r.Outcome, r.Payment)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	readings, err := e.Read(knock(`{"id": "tr_1", "status": "paid", "amountRefunded": {"value": "5.00"}}`, "application/json"))
	if err != nil || len(readings) != 1 || readings[0].Outcome != "" {
		t.Errorf("of what was received: got %+v, %v, want one reading without an outcome", readings, err)
	}
}

// A preset may say what was completed before where that can be known.
func TestCompletedBeforeIsChecked(t *testing.T) {
	t.Parallel()
	const preset = `name: x
auth: {alg: none}
references: [{kind: payment, from: "{json:id}"}]
payment: {id: "{json:id}"}
ask:
  api: https://api.example.com
  fetch: {about: payment, path: "/p/{id}", as: '{answer}'}
  completed_before: "{json:id}:paid"
`
	if _, err := provider.Parse([]byte(preset)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"ask.fetch or ask.wait": {`  fetch: {about: payment, path: "/p/{id}", as: '{answer}'}` + "\n", ""},
		"beside each":           {"name: x", "name: x\neach: \"items[*]\""},
		"needs a payment.id":    {`payment: {id: "{json:id}"}`, `payment: {amount: "{json:amount}"}`},
		"same for every":        {`"{json:id}:paid"`, "paid"},
		"in braces":             {`"{json:id}:paid"`, "json:id"},
	} {
		_, err := provider.Parse([]byte(strings.Replace(preset, change[0], change[1], 1)))
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "ask.completed_before") {
			t.Errorf("%s for %s: got %v, want ask.completed_before refused with %q", change[1], change[0], err, name)
		}
	}
}
