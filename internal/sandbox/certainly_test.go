package sandbox_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/sandbox"
)

const (
	badCredentials = `{"message":null,"error":[{"location":"Backend","msg":"Invalid Authentication credentials"}]}`
	needJSON       = `{"message":null,"error":"Need a valid json containing user_id and module_id"}`
	userMandatory  = `{"message":null,"error":"user_id is mandatory"}`
)

// TestCertainlyAnswers walks through table A of the contract.
func TestCertainlyAnswers(t *testing.T) {
	const good = `{"user_id":"u-1","module_id":7,"is_async":true}`
	const said = `{"user_id":"u-1","text_message":"hello"}`
	encoded := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tc := range []struct {
		name, path, auth, body string
		status                 int
		want, kind             string // kind "": nothing recorded for u-1
	}{
		{"response accepted", responses, jwt(), good, 200, accepted, "resume"},
		{"response without module", responses, jwt(), `{"user_id":"u-1","module_id":null,"is_async":true,"custom_vars":{"a":1}}`, 200, accepted, "variables"},
		{"response not async", responses, jwt(), `{"user_id":"u-1","module_id":7,"is_async":false}`, 200, accepted, "not_moved"},
		{"response async missing", responses, jwt(), `{"user_id":"u-1","module_id":7}`, 200, accepted, "not_moved"},
		{"response async as text", responses, jwt(), `{"user_id":"u-1","module_id":7,"is_async":"true"}`, 200, accepted, "not_moved"},
		{"response without credentials", responses, "", good, 400, badCredentials, "refused"},
		{"response with another token", responses, "JWT other", good, 400, badCredentials, "refused"},
		{"response with bearer", responses, "Bearer " + token, good, 400, badCredentials, "refused"},
		{"response with lower-case scheme", responses, "jwt " + token, good, 400, badCredentials, "refused"},
		{"response with two spaces", responses, "JWT  " + token, good, 400, badCredentials, "refused"},
		{"response with the other endpoint's scheme", responses, basic(), good, 400, badCredentials, "refused"},
		{"response without user", responses, jwt(), `{"module_id":7,"is_async":true}`, 400, userMandatory, ""},
		{"response with empty user", responses, jwt(), `{"user_id":"","module_id":7,"is_async":true}`, 400, userMandatory, ""},
		{"response with a number as user", responses, jwt(), `{"user_id":1,"module_id":7,"is_async":true}`, 400, needJSON, ""},
		{"response without module key", responses, jwt(), `{"user_id":"u-1","is_async":true}`, 400, `{"message":null,"error":"module_id is mandatory"}`, "refused"},
		{"response with a module that is text", responses, jwt(), `{"user_id":"u-1","module_id":"7","is_async":true}`, 400, `{"message":null,"error":"module_id not found for the given bot"}`, "refused"},
		{"response with variables that are no object", responses, jwt(), `{"user_id":"u-1","module_id":7,"is_async":true,"custom_vars":[]}`, 400, needJSON, "refused"},
		{"response with a negative wait", responses, jwt(), `{"user_id":"u-1","module_id":7,"is_async":true,"wait_time":-1}`, 400, needJSON, "refused"},
		{"response that is no JSON", responses, jwt(), `{"user_id":`, 400, needJSON, ""},
		{"response that is a list", responses, jwt(), `[]`, 400, needJSON, ""},
		{"response with something after it", responses, jwt(), good + good, 400, needJSON, ""},
		{"response of a user that is too long", responses, jwt(), `{"user_id":"` + strings.Repeat("u", 513) + `","module_id":7,"is_async":true}`, 400, `{"message":null,"error":"Bot user with this id does not exist"}`, ""},

		{"message accepted", messages, basic(), said, 200, accepted, "text"},
		{"message without credentials", messages, "", said, 400, badCredentials, "refused"},
		{"message with the bare token", messages, encoded("user:" + token), said, 400, badCredentials, "refused"},
		{"message with upper-case bearer", messages, encoded("user:Bearer " + token), said, 400, badCredentials, "refused"},
		{"message with another user name", messages, encoded("me:bearer " + token), said, 400, badCredentials, "refused"},
		{"message with the other endpoint's scheme", messages, jwt(), said, 400, badCredentials, "refused"},
		{"message without user", messages, basic(), `{"text_message":"hello"}`, 400, userMandatory, ""},
		{"message without text", messages, basic(), `{"user_id":"u-1"}`, 400, `{"message":null,"error":"text_message is mandatory"}`, "refused"},
		{"message whose text is a number", messages, basic(), `{"user_id":"u-1","text_message":1}`, 400, needJSON, "refused"},
		{"message that is no JSON", messages, basic(), `hello`, 400, needJSON, ""},

		{"response without the slash", strings.TrimSuffix(responses, "/"), jwt(), good, 404, "404 page not found", ""},
		{"message without the slash", strings.TrimSuffix(messages, "/"), basic(), said, 404, "404 page not found", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, sandbox.Config{})
			resp, body := s.do(t, http.MethodPost, tc.path, tc.auth, tc.body)
			if resp.StatusCode != tc.status || body != tc.want {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, body, tc.status, tc.want)
			}
			c, found := s.Conversation(sandbox.Certainly, "u-1")
			switch {
			case tc.kind == "" && found:
				t.Errorf("got messages %+v, want none", c.Messages)
			case tc.kind != "" && last(t, c).Kind != tc.kind:
				t.Errorf("got a message of kind %q, want %q", last(t, c).Kind, tc.kind)
			}
			if moved := tc.kind == "resume"; (c.Resumed == 1) != moved {
				t.Errorf("got it resumed %d times, want moved: %t", c.Resumed, moved)
			}
		})
	}
}

func TestCertainlyWantsItsContentType(t *testing.T) {
	s := open(t, sandbox.Config{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+responses,
		strings.NewReader(`{"user_id":"u-1","module_id":7,"is_async":true}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", jwt())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a call without a content type: got %d, want 400", resp.StatusCode)
	}
}

func TestCertainlyRefusesOtherMethods(t *testing.T) {
	s := open(t, sandbox.Config{})
	for _, path := range []string{responses, messages} {
		if resp, _ := s.do(t, http.MethodGet, path, jwt(), ""); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: got %d, want 405", path, resp.StatusCode)
		}
	}
}

func TestCertainlyKnowsNobodyWithoutToken(t *testing.T) {
	s := sandbox.New(sandbox.Config{})
	if got := direct(s, responses, "JWT ", `{"user_id":"u-1","module_id":7,"is_async":true}`); got != http.StatusBadRequest {
		t.Errorf("an empty token: got %d, want 400", got)
	}
}

func TestCertainlyRefusesLargeCalls(t *testing.T) {
	s := open(t, sandbox.Config{})
	body := `{"user_id":"u-1","text_message":"` + strings.Repeat("x", 256<<10) + `"}`
	if resp, _ := s.do(t, http.MethodPost, messages, basic(), body); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d, want 413", resp.StatusCode)
	}
}

func TestConversationShowsWhatArrived(t *testing.T) {
	s := open(t, sandbox.Config{})
	for _, call := range []struct{ path, auth, body string }{
		{responses, jwt(), `{"user_id":"u/1","module_id":7,"custom_vars":{"plan":"free","n":1},"is_async":true}`},
		{messages, basic(), `{"user_id":"u/1","text_message":"one moment"}`},
		{responses, jwt(), `{"user_id":"u/1","module_id":8,"wait_time":0,"custom_vars":{"plan":"pro","big":12345678901234567890},"is_async":true}`},
		{responses, jwt(), `{"user_id":"u/1","module_id":null,"custom_vars":{"why":null},"is_async":true}`},
		{responses, jwt(), `{"user_id":"u/1","module_id":9,"custom_vars":{"lost":true}}`},
	} {
		if resp, body := s.do(t, http.MethodPost, call.path, call.auth, call.body); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: got %d %s, want 200", call.body, resp.StatusCode, body)
		}
	}
	got := s.conversation(t, "u%2F1")

	for i, m := range got.Messages {
		if m.Request == nil || m.Request.Headers["Content-Type"] != "application/json" || m.Request.Headers["Authorization"] != "" {
			t.Errorf("message %d: got request %+v, want its headers but no credentials", i, m.Request)
		}
		got.Messages[i].Request = nil
	}
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	at := func(n int64) *int64 { return &n }
	three, none := 3.0, 0.0
	want := sandbox.Conversation{
		UserID: "u/1", Platform: "certainly", ModuleID: at(8), Resumed: 2,
		CustomVars: map[string]json.RawMessage{
			"plan": raw(`"pro"`), "n": raw(`1`), "big": raw(`12345678901234567890`), "why": raw(`null`),
		},
		Messages: []sandbox.Message{
			{At: noon, From: "relay", Kind: "resume", ModuleID: at(7), WaitTime: &three, Status: 200, CustomVars: map[string]json.RawMessage{"plan": raw(`"free"`), "n": raw(`1`)}},
			{At: noon, From: "bot", Kind: "text", Text: "one moment", Status: 200},
			{At: noon, From: "relay", Kind: "resume", ModuleID: at(8), WaitTime: &none, Status: 200, CustomVars: map[string]json.RawMessage{"plan": raw(`"pro"`), "big": raw(`12345678901234567890`)}},
			{At: noon, From: "relay", Kind: "variables", WaitTime: &three, Status: 200, CustomVars: map[string]json.RawMessage{"why": raw(`null`)}},
			{At: noon, From: "relay", Kind: "not_moved", Text: "is_async was not true", ModuleID: at(9), WaitTime: &three, Status: 200, CustomVars: map[string]json.RawMessage{"lost": raw(`true`)}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conversation (-want +got):\n%s", diff)
	}
	if want := (sandbox.Counts{Calls: 5, Resumed: 2, Texts: 1}); s.Counts() != want {
		t.Errorf("counts: got %+v, want %+v", s.Counts(), want)
	}
}

func TestConversationKeepsTheRequest(t *testing.T) {
	s := open(t, sandbox.Config{})
	body := `{"user_id":"u-1", "text_message":"hello"}`
	s.do(t, http.MethodPost, messages, basic(), body)
	got := last(t, s.conversation(t, "u-1")).Request
	if got.Path != messages || got.Body != body {
		t.Errorf("got %s %s, want %s %s", got.Path, got.Body, messages, body)
	}
}
