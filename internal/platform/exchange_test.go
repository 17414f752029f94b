package platform_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	official "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

// accounts are an account of each platform. No secret of theirs may be seen
// in a preview or an error.
var accounts = map[string]platform.Account{
	"certainly": {Settings: map[string]string{"token": "hush-hush"}},
	"haptik": {
		BaseURL:  "https://api.haptik.example",
		Settings: map[string]string{"token": "hush-hush", "client_id": "client-7", "business_id": "343"},
	},
	"smartify":   {Settings: map[string]string{"project_id": "65c5f3"}, Session: "JWT hush-hush"},
	"userengage": {BaseURL: "https://shop.user.example/", Settings: map[string]string{"token": "hush-hush", "user": "12"}},
	"webhook": {Settings: map[string]string{
		"url": "https://bots.example/hook?bot=7", "secret": "whsec_aHVzaC1odXNoLWh1c2gtaHVzaC1odXNoLWh1c2g=", "headers": `{"X-Api-Key":"hush-hush"}`,
	}},
}

// calls are a call to each platform.
var calls = map[string]platform.Call{
	"certainly":  {Action: relay.TriggerMessage, UserID: "u-1", Text: "Paid"},
	"haptik":     {Action: relay.SendMessage, UserID: "u-1", Conversation: "auth-1", Text: "Paid <20.50>"},
	"smartify":   {Action: relay.SendMessage, UserID: "u-1", Conversation: "support-group-65c5f3-ab/c", Text: "Paid"},
	"userengage": {Action: relay.SendMessage, UserID: "u-1", Conversation: "4711", Text: "<b>Paid</b>"},
	"webhook":    {Action: relay.CallWebhook, UserID: "u-1", Body: map[string]any{"paid": 20.5, "text": "<&>"}, Headers: map[string]string{"x-trace": "t-1"}},
}

func callTo(name string) platform.Call {
	call := calls[name]
	call.DeliveryID, call.At = "0193f3a1-7b5c-7def-8123-456789abcdef", time.Unix(1_700_000_000, 0)
	return call
}

// TestPlatformsBuild holds each platform's call, byte by byte.
func TestPlatformsBuild(t *testing.T) {
	jsonOnly := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}
	with := func(more http.Header) http.Header {
		h := jsonOnly.Clone()
		for name, values := range more {
			h[name] = values
		}
		return h
	}
	tests := []struct {
		name string
		want platform.Request
	}{
		{"haptik", platform.Request{
			Method: "POST", URL: "https://api.haptik.example/v1.0/log_message_from_user/",
			Header: with(http.Header{"Authorization": {"Bearer hush-hush"}, "Client-Id": {"client-7"}}),
			Body:   []byte(`{"user":{"auth_id":"auth-1"},"message_body":"Paid <20.50>","message_type":0,"business_id":343}`),
		}},
		{"smartify", platform.Request{
			Method: "GET", URL: "https://panel.smartifyai.in/api/65c5f3/requests/support-group-65c5f3-ab%2Fc/messages",
			Header: http.Header{"Authorization": {"JWT hush-hush"}, "Accept": {"application/json"}},
		}},
		{"userengage", platform.Request{
			Method: "POST", URL: "https://shop.user.example/api/public/message/",
			Header: with(http.Header{"Authorization": {"Token hush-hush"}, "Accept": {"*/*; version=2"}}),
			Body:   []byte(`{"conversation":4711,"content":"<b>Paid</b>","user":12,"source":3}`),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			step, err := lookup(t, tt.name).Begin(accounts[tt.name], callTo(tt.name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, step.Request); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The official library is at the other end of a webhook.
func TestWebhookIsVerified(t *testing.T) {
	call := callTo("webhook")
	call.At = time.Now()
	first, err := build(t, "webhook", accounts["webhook"], call)
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := official.NewWebhook(accounts["webhook"].Settings["secret"])
	if err != nil {
		t.Fatal(err)
	}
	if err := receiver.Verify(first.Body, first.Header); err != nil {
		t.Errorf("the official library refuses it: %v", err)
	}
	if got, want := string(first.Body), `{"paid":20.5,"text":"<&>"}`; got != want {
		t.Errorf("got the body %s, want %s", got, want)
	}
	if got := first.Header.Get("webhook-id"); got != call.DeliveryID {
		t.Errorf("got the id %q, want the delivery's", got)
	}
	for name, want := range map[string]string{"X-Api-Key": "hush-hush", "X-Trace": "t-1", "Content-Type": "application/json"} {
		if got := first.Header.Get(name); got != want {
			t.Errorf("header %s: got %q, want %q", name, got, want)
		}
	}
	call.At = call.At.Add(time.Minute)
	again, err := build(t, "webhook", accounts["webhook"], call)
	if err != nil {
		t.Fatal(err)
	}
	if again.Header.Get("webhook-id") != first.Header.Get("webhook-id") || string(again.Body) != string(first.Body) {
		t.Error("a retry has another id or body")
	}
	if again.Header.Get("webhook-timestamp") == first.Header.Get("webhook-timestamp") || receiver.Verify(again.Body, again.Header) != nil {
		t.Error("a retry is not signed anew at its own time")
	}
}

// Without a secret nothing is signed, and the id is there all the same.
func TestWebhookUnsigned(t *testing.T) {
	account := platform.Account{Settings: map[string]string{"url": "https://bots.example/hook", "method": "PUT"}}
	got, err := build(t, "webhook", account, callTo("webhook"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Method != "PUT" || got.URL != "https://bots.example/hook" {
		t.Errorf("got %s %s, want PUT to the url", got.Method, got.URL)
	}
	if got.Header.Get("webhook-signature") != "" || got.Header.Get("webhook-id") == "" {
		t.Errorf("got the headers %v, want an id and no signature", got.Header)
	}
}

func TestAccountsRefused(t *testing.T) {
	tests := []struct {
		name, platform string
		change         map[string]string
		base           string
		want           string
	}{
		{"as it is", "webhook", nil, "", ""},
		{"a base_url", "webhook", nil, "https://bots.example", "has no base_url"},
		{"no url", "webhook", map[string]string{"url": ""}, "", "url must be"},
		{"a user in the url", "webhook", map[string]string{"url": "https://a:b@bots.example"}, "", "url must be"},
		{"GET", "webhook", map[string]string{"method": "GET"}, "", "method must be one of POST, PUT, PATCH"},
		{"secret in clear", "webhook", map[string]string{"secret": "hush-hush"}, "", "secret: a signing secret is whsec_"},
		{"Host", "webhook", map[string]string{"headers": `{"host":"hush-hush"}`}, "", "host is set by the relay"},
		{"Content-Length", "webhook", map[string]string{"headers": `{"Content-Length":"1"}`}, "", "Content-Length is set by the relay"},
		{"webhook-id", "webhook", map[string]string{"headers": `{"webhook-id":"1"}`}, "", "webhook-id is set by the relay"},
		{"proxy", "webhook", map[string]string{"headers": `{"Proxy-Authorization":"hush-hush"}`}, "", "Proxy-Authorization is set by the relay"},
		{"a line break", "webhook", map[string]string{"headers": `{"X-A":"hush-hush\r\nHost: x"}`}, "", "the value of X-A has a line break"},
		{"a space in a name", "webhook", map[string]string{"headers": `{"X A":"1"}`}, "", "is no name of a header"},
		{"no name", "webhook", map[string]string{"headers": `{"":"1"}`}, "", "is no name of a header"},
		{"two spellings", "webhook", map[string]string{"headers": `{"x-a":"1","X-A":"hush-hush"}`}, "", "X-A is there twice"},
		{"long headers", "webhook", map[string]string{"headers": `{"a":"` + strings.Repeat("x", 8<<10) + `"}`}, "", "more than 8192"},
		{"as it is", "haptik", nil, "https://api.haptik.example", ""},
		{"no base_url", "haptik", nil, "", "base_url must be"},
		{"business_id of letters", "haptik", map[string]string{"business_id": "hush"}, "https://api.haptik.example", "business_id must be a whole number"},
		{"a negative message_type", "haptik", map[string]string{"message_type": "-1"}, "https://api.haptik.example", "message_type must be a whole number"},
		{"no client_id", "haptik", map[string]string{"client_id": ""}, "https://api.haptik.example", "has no client_id"},
		{"as it is", "userengage", nil, "https://shop.user.example", ""},
		{"no user", "userengage", map[string]string{"user": ""}, "https://shop.user.example", "has no user"},
		{"as it is", "smartify", nil, "", ""},
		{"both credentials", "smartify", map[string]string{"username": "a@b.example", "password": "hush-hush"}, "", ""},
		{"a username alone", "smartify", map[string]string{"username": "a@b.example"}, "", "belong together"},
		{"a password alone", "smartify", map[string]string{"password": "hush-hush"}, "", "belong together"},
	}
	for _, tt := range tests {
		t.Run(tt.platform+": "+tt.name, func(t *testing.T) {
			account := platform.Account{BaseURL: tt.base, Settings: map[string]string{}}
			for name, value := range accounts[tt.platform].Settings {
				account.Settings[name] = value
			}
			for name, value := range tt.change {
				account.Settings[name] = value
			}
			err := lookup(t, tt.platform).CheckAccount(account)
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v, want it taken", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush-hush") {
				t.Errorf("got %v, want %q and no secret", err, tt.want)
			}
		})
	}
}

func TestPlatformsCheckAction(t *testing.T) {
	tests := []struct {
		platform, name string
		action         relay.Action
		code           string // "" when it is good
	}{
		{"haptik", "a text", relay.Action{Text: "x"}, ""},
		{"haptik", "a module", relay.Action{ModuleID: 1}, "field_unusable"},
		{"haptik", "no text", relay.Action{}, "text_required"},
		{"smartify", "variables", relay.Action{Text: "x", CustomVars: map[string]any{"a": 1}}, "field_unusable"},
		{"userengage", "another action", relay.Action{Action: relay.TriggerMessage, Text: "x"}, "action_unknown"},
		{"webhook", "a body", relay.Action{Body: map[string]any{"a": 1}}, ""},
		{"webhook", "headers", relay.Action{Headers: map[string]string{"X-A": "{{ outcome }}"}}, ""},
		{"webhook", "a text", relay.Action{Text: "x"}, "field_unusable"},
		{"webhook", "Host", relay.Action{Headers: map[string]string{"Host": "x"}}, "header_invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.platform+": "+tt.name, func(t *testing.T) {
			err := lookup(t, tt.platform).CheckAction(tt.action)
			if tt.code == "" && err != nil {
				t.Errorf("got %v, want it taken", err)
			}
			if tt.code != "" {
				wantRefusal(t, err, tt.code)
			}
		})
	}
}

func TestPlatformsBuildRefuses(t *testing.T) {
	tests := []struct {
		platform, name string
		change         func(*platform.Call)
		want           string
	}{
		{"haptik", "an empty auth_id", func(c *platform.Call) { c.Conversation = "" }, "empty auth_id"},
		{"haptik", "an empty text", func(c *platform.Call) { c.Text = " " }, "text came out empty"},
		{"smartify", "an empty text, which Tiledesk would take", func(c *platform.Call) { c.Text = "" }, "text came out empty"},
		{"smartify", "no conversation", func(c *platform.Call) { c.Conversation = "" }, "no conversation"},
		{"smartify", "a conversation that leads out of its path", func(c *platform.Call) { c.Conversation = "a/../../p2/requests/b" }, "no id of Smartify"},
		{"smartify", "a conversation of dots", func(c *platform.Call) { c.Conversation = ".." }, "no id of Smartify"},
		{"userengage", "no conversation", func(c *platform.Call) { c.Conversation = "" }, "no conversation"},
		{"userengage", "an empty text", func(c *platform.Call) { c.Text = "" }, "text came out empty"},
		{"webhook", "a rendered line break", func(c *platform.Call) { c.Headers = map[string]string{"X-A": "a\nb"} }, "the value of X-A"},
		{"webhook", "too long", func(c *platform.Call) { c.Body = strings.Repeat("x", platform.MaxBody) }, "more than 524288"},
	}
	for _, tt := range tests {
		t.Run(tt.platform+": "+tt.name, func(t *testing.T) {
			call := callTo(tt.platform)
			tt.change(&call)
			_, err := lookup(t, tt.platform).Begin(accounts[tt.platform], call)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush-hush") {
				t.Errorf("got %v, want %q and no secret", err, tt.want)
			}
		})
	}
}

// A step of an exchange honours Retry-After as a single call does.
func TestWebhookHonoursRetryAfter(t *testing.T) {
	r := platform.Response{Status: 429, Header: http.Header{"Retry-After": {"7"}}}
	want := platform.Answer{Class: relay.Retry, Reason: platform.TooMany, RetryAfter: 7 * time.Second}
	if diff := cmp.Diff(want, meaning(t, "webhook", r, time.Now())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A conversation that is no number, as the host of before had them, goes as it
// is.
func TestUserengageTextConversation(t *testing.T) {
	for _, name := range []string{"c-4711", "004711", "+4711"} {
		call := callTo("userengage")
		call.Conversation = name
		got, err := build(t, "userengage", accounts["userengage"], call)
		if err != nil || !strings.Contains(string(got.Body), `"conversation":"`+name+`"`) {
			t.Errorf("%s: got %s, %v, want the text", name, got.Body, err)
		}
	}
}

// FuzzExchangesEnd plays any answers at all to each platform: an exchange ends
// within its bound, with a class and a reason of ours, and every call on the
// way is well formed.
func FuzzExchangesEnd(f *testing.F) {
	f.Add("smartify", 401, []byte("Unauthorized"), 200, []byte(`{"token":"t"}`), false)
	f.Add("smartify", 200, []byte(`[{}]`), 200, []byte(`{"request":{"status":1000}}`), true)
	f.Add("haptik", 403, []byte(`{"error_message":"user is not registered"}`), 200, []byte(`{}`), false)
	f.Add("webhook", 200, []byte(``), 410, []byte(`gone`), false)
	f.Fuzz(func(t *testing.T, name string, status1 int, body1 []byte, status2 int, body2 []byte, found bool) {
		p, ok := platform.Lookup(name)
		if !ok {
			return
		}
		step, err := p.Begin(accounts[name], callTo(name))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; !step.Ended(); n++ {
			if n == platform.MaxCalls {
				t.Fatalf("the exchange goes on after %d calls", n)
			}
			if step.Request.Method == "" || !strings.HasPrefix(step.Request.URL, "https://") {
				t.Errorf("got the call %+v", step.Request)
			}
			r := platform.Response{Status: status1, Body: body1, Found: found, Unsearched: !found}
			if n%2 == 1 {
				r.Status, r.Body = status2, body2
			}
			step = p.Next(&step, r, time.Now())
		}
		if strings.ContainsFunc(step.Answer.Reason, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }) {
			t.Errorf("got %+v, want a reason from the list", step.Answer)
		}
	})
}

// TestPreview holds that a preview shows the calls of the usual way, and no
// secret.
func TestPreview(t *testing.T) {
	want := map[string][]string{
		"certainly":  {"POST /actionsvc/trigger-message/ Basic ***"},
		"haptik":     {"POST /v1.0/log_message_from_user/ Bearer ***"},
		"smartify":   {"POST /api/auth/signinAnonymously ", "GET /api/65c5f3/requests/support-group-65c5f3-ab%2Fc/messages JWT ***", "POST /api/65c5f3/requests/support-group-65c5f3-ab%2Fc/messages JWT ***"},
		"userengage": {"POST /api/public/message/ Token ***"},
		"webhook":    {"POST /hook?bot=7 "},
	}
	for _, name := range platform.Names() {
		t.Run(name, func(t *testing.T) {
			list, err := lookup(t, name).Preview(accounts[name], callTo(name))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range list {
				_, path, _ := strings.Cut(strings.TrimPrefix(r.URL, "https://"), "/")
				got = append(got, r.Method+" /"+path+" "+r.Header.Get("Authorization"))
				shown, err := json.Marshal(r)
				if err != nil || strings.Contains(string(shown), "hush") || strings.Contains(string(shown), "aHVza") {
					t.Errorf("a secret is shown: %s, %v", shown, err)
				}
			}
			if diff := cmp.Diff(want[name], got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Run("smartify with credentials", func(t *testing.T) {
		agent := platform.Account{Settings: map[string]string{"project_id": "65c5f3", "username": "agent", "password": "hush-hush"}}
		list, err := lookup(t, "smartify").Preview(agent, callTo("smartify"))
		if err != nil || len(list) != 2 || list[0].Method != http.MethodGet || list[1].Method != http.MethodPost || !strings.Contains(string(list[1].Body), "Paid") {
			t.Fatalf("got %+v, %v, want the look and the message", list, err)
		}
		for _, r := range list {
			if got := r.Header.Get("Authorization"); got != "Basic ***" {
				t.Errorf("%s: got Authorization %q, want it masked", r.Method, got)
			}
		}
	})
	list, err := lookup(t, "webhook").Preview(accounts["webhook"], callTo("webhook"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Webhook-Signature": "v1,***", "X-Api-Key": "***", "X-Trace": "t-1"} {
		if got := list[0].Header.Get(name); got != want {
			t.Errorf("header %s: got %q, want %q", name, got, want)
		}
	}
}

func BenchmarkCertainlyExchange(b *testing.B) {
	p, _ := platform.Lookup("certainly")
	account := certainlyAccount()
	call := platform.Call{Action: relay.TriggerResponse, UserID: "u-829", ModuleID: int64(1068935), CustomVars: map[string]any{"amount": 20.5}}
	r := platform.Response{Status: 200, Body: []byte(`{"error":[],"message":"1"}`), Header: http.Header{}}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		step, err := p.Begin(account, call)
		if err != nil {
			b.Fatal(err)
		}
		if end := p.Next(&step, r, now); end.Answer.Class != relay.OK {
			b.Fatal(end.Answer)
		}
	}
}
