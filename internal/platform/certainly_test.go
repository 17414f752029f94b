package platform_test

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

const certainlyToken = "s3cret-token"

func certainlyAccount() platform.Account {
	return platform.Account{Settings: map[string]string{"token": certainlyToken}}
}

func TestCertainlyBuild(t *testing.T) {
	const response, message = "https://app.certainly.io/actionsvc/trigger-response/", "https://app.certainly.io/actionsvc/trigger-message/"
	jwt := "JWT " + certainlyToken
	tests := []struct {
		name string
		base string
		call platform.Call
		url  string
		auth string
		body string
	}{
		{
			"a module", "",
			platform.Call{Action: relay.TriggerResponse, UserID: "u-829", ModuleID: int64(1068935)},
			response, jwt, `{"user_id":"u-829","module_id":1068935,"wait_time":3,"custom_vars":{},"is_async":true}`,
		},
		{
			"variables only", "",
			platform.Call{Action: relay.TriggerResponse, UserID: "u", CustomVars: map[string]any{"b": "<&>", "a": 20.5}},
			response, jwt, `{"user_id":"u","module_id":null,"wait_time":3,"custom_vars":{"a":20.5,"b":"<&>"},"is_async":true}`,
		},
		{
			"numbers in texts", "",
			platform.Call{Action: relay.TriggerResponse, UserID: "u", ModuleID: " 12 ", WaitTime: "1.5"},
			response, jwt, `{"user_id":"u","module_id":12,"wait_time":1.5,"custom_vars":{},"is_async":true}`,
		},
		{
			"numbers from JSON", "",
			platform.Call{Action: relay.TriggerResponse, UserID: "u", ModuleID: 1068935.0, WaitTime: 0.0},
			response, jwt, `{"user_id":"u","module_id":1068935,"wait_time":0,"custom_vars":{},"is_async":true}`,
		},
		{
			"a path before", "https://proxy.example/certainly/",
			platform.Call{Action: relay.TriggerResponse, UserID: "u", ModuleID: 1},
			"https://proxy.example/certainly/actionsvc/trigger-response/", jwt,
			`{"user_id":"u","module_id":1,"wait_time":3,"custom_vars":{},"is_async":true}`,
		},
		{
			"a text", "",
			platform.Call{Action: relay.TriggerMessage, UserID: "12", Text: "Paid <20.50> & done"},
			message, "Basic dXNlcjpiZWFyZXIgczNjcmV0LXRva2Vu", `{"text_message":"Paid <20.50> & done","user_id":"12"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			account := certainlyAccount()
			account.BaseURL = tt.base
			got, err := build(t, "certainly", account, tt.call)
			if err != nil {
				t.Fatalf("Build: %v", err)
			}
			want := platform.Request{
				Method: "POST", URL: tt.url, Body: []byte(tt.body),
				Header: http.Header{
					"Authorization": {tt.auth},
					"Content-Type":  {"application/json"},
					"Accept":        {"application/json"},
				},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Build (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCertainlyBuildRefuses(t *testing.T) {
	move := platform.Call{Action: relay.TriggerResponse, UserID: "u", ModuleID: 1}
	with := func(change func(*platform.Call)) platform.Call {
		call := move
		change(&call)
		return call
	}
	long := map[string]any{"v": strings.Repeat("x", platform.MaxBody)}
	tests := []struct {
		name string
		call platform.Call
		want string
	}{
		{"another action", platform.Call{Action: relay.CallWebhook}, "no action"},
		{"no user", with(func(c *platform.Call) { c.UserID = "" }), "no user_id"},
		{"module of letters", with(func(c *platform.Call) { c.ModuleID = "pay" }), "module_id must be"},
		{"half a module", with(func(c *platform.Call) { c.ModuleID = 1.5 }), "module_id must be"},
		{"module zero", with(func(c *platform.Call) { c.ModuleID = 0 }), "module_id must be"},
		{"module true", with(func(c *platform.Call) { c.ModuleID = true }), "module_id must be"},
		{"module beyond exact numbers", with(func(c *platform.Call) { c.ModuleID = 1e300 }), "module_id must be"},
		{"module null and no variables", with(func(c *platform.Call) { c.ModuleID = nil }), "would do nothing"},
		{"wait negative", with(func(c *platform.Call) { c.WaitTime = -1 }), "wait_time must be"},
		{"wait not a number", with(func(c *platform.Call) { c.WaitTime = "NaN" }), "wait_time must be"},
		{"wait for ever", with(func(c *platform.Call) { c.WaitTime = 1e9 }), "wait_time must be"},
		{"variable with a dash", with(func(c *platform.Call) { c.CustomVars = map[string]any{"a-b": 1} }), "may not be called"},
		{"variable that JSON lacks", with(func(c *platform.Call) { c.CustomVars = map[string]any{"a": math.Inf(1)} }), "writing the body"},
		{"too long", with(func(c *platform.Call) { c.CustomVars = long }), "more than 524288"},
		{"text null", platform.Call{Action: relay.TriggerMessage, UserID: "u"}, "text came out empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := build(t, "certainly", certainlyAccount(), tt.call)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), certainlyToken) {
				t.Errorf("the error tells the token: %v", err)
			}
		})
	}
}

func TestCertainlyAccountRefused(t *testing.T) {
	token := map[string]string{"token": certainlyToken}
	tests := []struct {
		name    string
		account platform.Account
		want    string
	}{
		{"no token", platform.Account{}, "has no token"},
		{"token with a line break", platform.Account{Settings: map[string]string{"token": certainlyToken + "\r\nX: y"}}, "line break"},
		{"query", platform.Account{BaseURL: "https://a.example/?x=1", Settings: token}, "base_url must be"},
		{"user", platform.Account{BaseURL: "https://u:p@a.example", Settings: token}, "base_url must be"},
		{"no host", platform.Account{BaseURL: "/actionsvc", Settings: token}, "base_url must be"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := platform.Call{Action: relay.TriggerResponse, UserID: "u", ModuleID: 1}
			_, err := build(t, "certainly", tt.account, call)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), certainlyToken) {
				t.Errorf("the error tells the token: %v", err)
			}
		})
	}
}

func TestCertainlyCheckAction(t *testing.T) {
	tests := []struct {
		name   string
		action relay.Action
		code   string // "" when it is good
	}{
		{"module", relay.Action{ModuleID: 1068935}, ""},
		{"module in a text", relay.Action{ModuleID: "1068935"}, ""},
		{"module of an expression", relay.Action{ModuleID: "{{ correlation.data.module }}"}, ""},
		{"everything", relay.Action{ModuleID: 1.0, WaitTime: 0, CustomVars: map[string]any{"a_1": "{{ outcome }}"}}, ""},
		{"wait of an expression", relay.Action{ModuleID: 1, WaitTime: "{{ form.wait }}"}, ""},
		{"variables only", relay.Action{Action: relay.TriggerResponse, CustomVars: map[string]any{"a": 1}}, ""},
		{"text", relay.Action{Text: "hello {{ form.name }}"}, ""},
		{"fallback is not looked at", relay.Action{Text: "x", Fallback: &relay.Action{Action: "?"}}, ""},
		{"unknown action", relay.Action{Action: relay.SendMessage, Text: "x"}, "action_unknown"},
		{"nothing to do", relay.Action{Action: relay.TriggerResponse}, "module_id_required"},
		{"module of letters", relay.Action{ModuleID: "pay"}, "module_id_invalid"},
		{"module negative", relay.Action{ModuleID: -1.0}, "module_id_invalid"},
		{"wait negative", relay.Action{ModuleID: 1, WaitTime: -1}, "wait_time_invalid"},
		{"variable begins with a digit", relay.Action{ModuleID: 1, CustomVars: map[string]any{"1a": 1}}, "custom_vars_invalid"},
		{"variable without a name", relay.Action{ModuleID: 1, CustomVars: map[string]any{"": 1}}, "custom_vars_invalid"},
		{"variable with a line break", relay.Action{ModuleID: 1, CustomVars: map[string]any{"a\n": 1}}, "custom_vars_invalid"},
		{"text with a module", relay.Action{ModuleID: 1, Text: "x"}, "field_unusable"},
		{"message with a module", relay.Action{Action: relay.TriggerMessage, Text: "x", ModuleID: 1}, "field_unusable"},
		{"message with a body", relay.Action{Text: "x", Body: 1}, "field_unusable"},
		{"message with headers", relay.Action{Text: "x", Headers: map[string]string{"a": "b"}}, "field_unusable"},
		{"none with a text", relay.Action{Action: relay.NoAction, Text: "x"}, "field_unusable"},
		{"no text", relay.Action{}, "text_required"},
		{"blank text", relay.Action{Text: " \n"}, "text_required"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := lookup(t, "certainly").CheckAction(tt.action)
			if tt.code == "" {
				if err != nil {
					t.Errorf("CheckAction: %v", err)
				}
				return
			}
			wantRefusal(t, err, tt.code)
		})
	}
}

// TestCertainlyClassify holds the classifier to the contract's table of
// answers, row by row, and to what the table leaves open.
func TestCertainlyClassify(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		class  relay.Class
		reason string
	}{
		{"done", 200, `{"error":[],"message":"1"}`, relay.OK, "accepted"},
		{"token", 400, `{"message":null,"error":[{"location":"Backend","msg":"Invalid Authentication credentials"}]}`, relay.Credentials, "bad_credentials"},
		{"user", 400, `{"message":null,"error":"Bot user with this id does not exist"}`, relay.Permanent, "unknown_user"},
		{"module", 400, `{"message":null,"error":"module_id not found for the given bot: 12"}`, relay.Permanent, "unknown_module"},
		{"body: not JSON", 400, `{"error":"Need a valid json containing user_id and module_id"}`, relay.Permanent, "bad_request"},
		{"body: no user", 400, `{"error":"user_id is mandatory"}`, relay.Permanent, "bad_request"},
		{"body: no module", 400, `{"error":"module_id is mandatory"}`, relay.Permanent, "bad_request"},
		{"200 with a null message", 200, `{"error":[],"message":null}`, relay.Retry, "not_confirmed"},
		{"200 with an error text", 200, `{"error":"busy","message":"1"}`, relay.Retry, "not_confirmed"},
		{"200 with error objects", 200, `{"error":[{"location":"Backend","msg":"busy"}],"message":"1"}`, relay.Retry, "not_confirmed"},
		{"rate", 429, ``, relay.Retry, "rate_limited"},
		{"server", 500, `{"error":"Bot user with this id does not exist"}`, relay.Retry, "platform_failed"},
		{"gateway", 503, `<html>`, relay.Retry, "platform_failed"},

		{"no error at all", 200, `{"message":"1"}`, relay.OK, "accepted"},
		{"null error", 200, `{"error":null,"message":"1"}`, relay.OK, "accepted"},
		{"empty error text", 200, `{"error":"","message":"1"}`, relay.OK, "accepted"},
		{"empty error object", 200, `{"error":{},"message":1}`, relay.OK, "accepted"},
		{"spaces in an empty error", 200, `{"error": [ ], "message": "1"}`, relay.OK, "accepted"},
		{"error object", 200, `{"error":{"msg":"busy"},"message":"1"}`, relay.Retry, "not_confirmed"},
		{"200 with known words", 200, `{"error":[{"msg":"Invalid Authentication credentials"}],"message":null}`, relay.Credentials, "bad_credentials"},
		{"200 with a known text", 200, `{"error":"Bot user with this id does not exist","message":null}`, relay.Permanent, "unknown_user"},
		{"200 with a page", 200, `<html>`, relay.Retry, "not_confirmed"},
		{"200 cut off", 200, `{"error":[],"message":"1`, relay.Retry, "not_confirmed"},
		{"200 empty", 200, ``, relay.Retry, "not_confirmed"},
		{"known words in the message", 200, `{"error":[],"message":"user_id is mandatory"}`, relay.OK, "accepted"},
		{"204", 204, ``, relay.Retry, "not_confirmed"},
		{"400 in unknown words", 400, `{"error":"no"}`, relay.Permanent, "refused"},
		{"400 cut off", 400, `{"message":null,"error":[{"msg":"Invalid Authentication credentials"`, relay.Credentials, "bad_credentials"},
		{"401", 401, ``, relay.Credentials, "bad_credentials"},
		{"403", 403, ``, relay.Credentials, "bad_credentials"},
		{"404", 404, ``, relay.Permanent, "not_found"},
		{"408", 408, ``, relay.Retry, "platform_timeout"},
		{"413", 413, ``, relay.Permanent, "refused"},
		{"425", 425, ``, relay.Retry, "platform_timeout"},
		{"301", 301, ``, relay.Permanent, "redirected"},
		{"307", 307, ``, relay.Permanent, "redirected"},
		{"no HTTP status", 999, ``, relay.Retry, "unexpected_status"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := platform.Response{Status: tt.status, Header: http.Header{}, Body: []byte(tt.body)}
			got := meaning(t, "certainly", r, time.Now())
			want := platform.Answer{Class: tt.class, Reason: tt.reason}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Classify (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever a platform writes, the reason is one of ours.
func FuzzCertainlyClassify(f *testing.F) {
	f.Add(200, []byte(`{"error":[],"message":"1"}`))
	f.Add(400, []byte(`{"error":[{"msg":"`+certainlyToken+`"}]}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		got := meaning(t, "certainly", platform.Response{Status: status, Body: body}, time.Now())
		if got.Class == "" || got.Reason == "" || strings.ContainsFunc(got.Reason, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }) {
			t.Errorf("got %+v, want a class and a reason from the list", got)
		}
	})
}

func BenchmarkCertainlyBuild(b *testing.B) {
	p, _ := platform.Lookup("certainly")
	account := certainlyAccount()
	call := platform.Call{
		Action: relay.TriggerResponse, UserID: "u-829", ModuleID: int64(1068935),
		CustomVars: map[string]any{"amount": 20.5, "currency": "EUR", "plan": "pro"},
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Begin(account, call); err != nil {
			b.Fatal(err)
		}
	}
}
