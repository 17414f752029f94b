package sandbox_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/sandbox"
)

// smartifyHook is what a subscriber is sent.
type smartifyHook struct {
	secret, agent string
	Timestamp     int64                        `json:"timestamp"`
	Token         string                       `json:"token"`
	Hook          sandbox.SmartifySubscription `json:"hook"`
	Payload       struct {
		Sender, Recipient, Text string
		Attributes              map[string]string
	} `json:"payload"`
}

// subscriber is a server that is sent hooks, and answers with status.
func subscriber(t *testing.T, status int) (url string, hooks <-chan smartifyHook) {
	t.Helper()
	got := make(chan smartifyHook, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h := smartifyHook{secret: r.Header.Get("X-Hook-Secret"), agent: r.UserAgent()}
		if err := json.Unmarshal(body, &h); err != nil {
			t.Errorf("a hook that cannot be read: %v", err)
		}
		w.WriteHeader(status)
		got <- h
	}))
	t.Cleanup(server.Close)
	return server.URL, got
}

// TestSmartifySubscriptions holds the calls and traps of subscriptions.
func TestSmartifySubscriptions(t *testing.T) {
	box, url := five(t)
	at := url + "/smartify/" + sandbox.SmartifyProject + "/subscriptions"
	basic := "Authorization: Basic YWdlbnRAc2FuZGJveC5leGFtcGxlOnNhbmRib3gtdG9rZW4="
	guest := signIn(t, url, sandbox.SmartifyProject)
	theirs := box.Subscribe("message.create", "https://another.example/hook")
	const mine = `{"event":"message.create","target":"https://relay.example/hook"}`
	status, made, header := send(t, "POST", at, mine, basic)
	var sub struct {
		ID     string `json:"_id"`
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal([]byte(made), &sub); err != nil || status != 200 || sub.Secret == "" || header.Get("X-Hook-Secret") != sub.Secret {
		t.Fatalf("subscribing: got %d %s (%v), want a secret in both places", status, made, err)
	}
	if theirs.Secret != sub.Secret {
		t.Error("two subscriptions of one run have different secrets")
	}
	const unknown = "aaaaaaaaaaaaaaaaaaaaaaaa"
	for _, step := range []struct {
		name, method, url, body, auth string
		status                        int
		answer                        string
	}{
		{"a guest", "GET", at, "", guest, 403, `{"success":false,"msg":"you dont have the required role."}`},
		{"nobody", "GET", at, "", "X: y", 401, "Unauthorized"},
		{"list", "GET", at, "", basic, 200, `"target":"https://relay.example/hook"`},
		{"again: another's is answered", "POST", at, mine, basic, 200, theirs.ID},
		{"no target", "POST", at, `{"event":"message.create"}`, basic, 500, "Error saving object."},
		{"neither event nor target is checked", "POST", at, `{"event":"no such","target":"nowhere"}`, basic, 200, `"nowhere"`},
		{"one", "GET", at + "/" + sub.ID, "", basic, 200, sub.ID},
		{"unknown", "GET", at + "/" + unknown, "", basic, 404, "Object not found."},
		{"no id", "GET", at + "/x", "", basic, 500, "Error getting object."},
		{"changed", "PUT", at + "/" + sub.ID, `{"target":"https://relay.example/other"}`, basic, 200, "/other"},
		{"made by its id", "PUT", at + "/" + unknown, `{"event":"request.close","target":"https://relay.example/x"}`, basic, 200, unknown},
		{"history", "GET", at + "/history", "", basic, 200, "[]"},
		{"deleted", "DELETE", at + "/" + sub.ID, "", basic, 200, sub.ID},
		{"deleted already", "DELETE", at + "/" + sub.ID, "", basic, 200, "null"},
	} {
		status, answer, _ := send(t, step.method, step.url, step.body, step.auth)
		if status != step.status || !strings.Contains(answer, step.answer) {
			t.Errorf("%s: got %d %.200s, want %d %s", step.name, status, answer, step.status, step.answer)
		}
		if step.method != "POST" && strings.Contains(answer, sub.Secret) {
			t.Errorf("%s: the secret is told again: %s", step.name, answer)
		}
	}
	if _, answer, _ := send(t, "GET", at, "", basic); strings.Contains(answer, sub.ID) {
		t.Errorf("what was deleted is listed: %s", answer)
	}
	box.RestartSmartify()
	if next := box.Subscribe("lead.create", "https://relay.example/hook"); next.Secret == sub.Secret {
		t.Error("after a restart new subscriptions have the same secret")
	}
}

// TestSmartifyHooks holds what is sent, and that it is sent again with what
// the last subscription says.
func TestSmartifyHooks(t *testing.T) {
	box := sandbox.New(sandbox.Config{Smartify: sandbox.SmartifyAccount{HookPauses: []time.Duration{time.Millisecond, time.Millisecond}}})
	server := httptest.NewServer(box)
	t.Cleanup(server.Close)
	busy, again := subscriber(t, http.StatusServiceUnavailable)
	first := box.Subscribe("message.create", busy)
	away, refused := subscriber(t, http.StatusGone)
	last := box.Subscribe("message.create", away)
	box.Say("c-1", "hello")
	if h := <-refused; h.secret != last.Secret || h.agent != "tiledesk-webhooks" || h.Hook.ID != last.ID || h.Payload.Recipient != "c-1" ||
		h.Payload.Text != "hello" || h.Timestamp == 0 || strings.Count(h.Token, ".") != 2 {
		t.Errorf("got %+v", h)
	}
	for try, about := range []string{first.ID, last.ID, last.ID} {
		if h := <-again; h.Hook.ID != about || h.secret != first.Secret || h.Payload.Text != "hello" {
			t.Errorf("try %d: got the hook of %s, want %s", try+1, h.Hook.ID, about)
		}
	}
	box.Unsubscribe(first.ID)
	// What is said by whom; the relay's attributes come along.
	box.Pause(sandbox.Smartify, "c-1", "Please pay", "")
	if h := <-refused; !strings.HasPrefix(h.Payload.Sender, "bot_") {
		t.Errorf("the bot's message has the sender %q", h.Payload.Sender)
	}
	guest := signIn(t, server.URL, sandbox.SmartifyProject)
	send(t, "POST", server.URL+"/smartify/"+sandbox.SmartifyProject+"/requests/c-1/messages", `{"text":"Paid","attributes":{"relay_delivery_id":"d-1"}}`, guest)
	if h := <-refused; h.Payload.Attributes["relay_delivery_id"] != "d-1" || h.Payload.Text != "Paid" {
		t.Errorf("the relay's message: got %+v", h.Payload)
	}
	closed, ended := subscriber(t, http.StatusOK)
	box.Subscribe("request.close", closed)
	if status, body, _ := send(t, "POST", server.URL+"/sandbox/conversations/c-1/close?platform=smartify", ""); status != 204 {
		t.Errorf("closing: got %d %s", status, body)
	}
	if h := <-ended; h.Hook.Event != "request.close" {
		t.Errorf("got %+v, want the end of the conversation", h)
	}
	if status, body, _ := send(t, "POST", server.URL+"/sandbox/conversations/c-1/say?platform=smartify", `{"text":"more"}`); status != 200 || !strings.Contains(body, "more") {
		t.Errorf("saying: got %d %s", status, body)
	}
	if h := <-refused; h.Payload.Text != "more" {
		t.Errorf("got %+v", h.Payload)
	}
	for _, path := range []string{"say", "close"} {
		if status, _, _ := send(t, "POST", server.URL+"/sandbox/conversations/c-1/"+path, `{"text":"x"}`); status != 404 {
			t.Errorf("%s at another platform: got %d, want 404", path, status)
		}
	}
	if err := box.Switch(sandbox.Smartify, sandbox.Switches{NoHooks: true}); err != nil {
		t.Fatal(err)
	}
	before := box.Counts().Hooks
	box.Say("c-1", "into the void")
	if after := box.Counts().Hooks; after != before {
		t.Errorf("without RESTHOOK_ENABLED %d hooks were sent", after-before)
	}
}

// TestChatOfSmartifySpeaks types something on the chat page, as a person
// without JavaScript does, and holds that who is subscribed hears it.
func TestChatOfSmartifySpeaks(t *testing.T) {
	s := open(t, sandbox.Config{})
	told, heard := subscriber(t, http.StatusOK)
	s.Subscribe("message.create", told)
	const page, say = "/sandbox/chat/a%2Fb?platform=smartify", "/sandbox/chat/a%2Fb/say?platform=smartify"
	resp, text := s.do(t, http.MethodGet, page, "", "")
	if resp.StatusCode != http.StatusOK || !strings.Contains(text, `action="`+say+`"`) || !strings.Contains(text, `<label for="text">`) {
		t.Fatalf("a new chat: got %d %s, want 200 and a box to speak", resp.StatusCode, text)
	}
	if strings.Contains(text, `http-equiv="refresh"`) {
		t.Error("the page loads itself anew, and takes away what is being typed")
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		t.Errorf("got the policy %q", csp)
	}
	resp, _ = s.press(t, say, url.Values{"text": {"  <b>Main Street</b> 1 "}}, "")
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != page {
		t.Errorf("said: got %d to %q, want 303 to %q", resp.StatusCode, got, page)
	}
	if h := <-heard; h.Payload.Text != "<b>Main Street</b> 1" || h.Payload.Recipient != "a/b" {
		t.Errorf("got the hook %+v, want what was typed", h.Payload)
	}
	if _, text := s.do(t, http.MethodGet, page, "", ""); !strings.Contains(text, `class="bubble own text"><p>&lt;b&gt;Main Street&lt;/b&gt; 1</p>`) {
		t.Errorf("the page does not show what was said: %s", text)
	}
	for name, refused := range map[string]struct{ path, text string }{
		"nothing":            {say, " "},
		"too much":           {say, strings.Repeat("ä", 2001)},
		"too much of a form": {say, strings.Repeat("a", 40<<10)},
	} {
		if resp, body := s.press(t, refused.path, url.Values{"text": {refused.text}}, ""); resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(body, "Nothing was said") {
			t.Errorf("%s: got %d, want 422 and the page", name, resp.StatusCode)
		}
	}
	if resp, _ := s.press(t, "/sandbox/chat/a/say?platform=haptik", url.Values{"text": {"x"}}, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("at another platform: got %d, want 404", resp.StatusCode)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+say, strings.NewReader("text=x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	foreign, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _ = foreign.Body.Close(); foreign.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("from another site's page: got %d, want 422", foreign.StatusCode)
	}
}
