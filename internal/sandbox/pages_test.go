package sandbox_test

import (
	"net/http"
	"strings"
	"testing"

	"relay.example/relay/internal/sandbox"
)

func TestChatShowsPauseAndResume(t *testing.T) {
	s := open(t, sandbox.Config{})
	chat := func() (int, string) {
		resp, page := s.do(t, http.MethodGet, "/sandbox/chat/u-1", "", "")
		return resp.StatusCode, page
	}
	has := func(page string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("got a page without %q:\n%s", want, page)
			}
		}
	}

	status, page := chat()
	if status != http.StatusNotFound {
		t.Errorf("before anything was said: got %d, want 404", status)
	}
	has(page, "Nothing has been said yet", `http-equiv="refresh"`)

	s.Pause(sandbox.Certainly, "u-1", "Please pay <here>", "https://relay.example/go/x")
	status, page = chat()
	if status != http.StatusOK {
		t.Errorf("got %d, want 200", status)
	}
	has(page, "Please pay &lt;here&gt;", `href="https://relay.example/go/x"`, "paused", `lang="en"`)

	s.do(t, http.MethodPost, responses, "", move)
	s.do(t, http.MethodPost, responses, jwt(), `{"user_id":"u-1","module_id":7,"custom_vars":{"amount":"49.00","n":2}}`)
	s.do(t, http.MethodPost, responses, jwt(), `{"user_id":"u-1","module_id":7,"custom_vars":{"amount":"49.00","n":2},"is_async":true}`)
	s.do(t, http.MethodPost, responses, jwt(), `{"user_id":"u-1","module_id":null,"custom_vars":{"late":true},"is_async":true}`)
	s.do(t, http.MethodPost, messages, basic(), `{"user_id":"u-1","text_message":"Welcome back"}`)
	_, page = chat()
	has(page, "Refused with 400:", "Nothing moved:", "Resumed in module 7</strong> after 3 s", "Variables set", "Welcome back",
		"<dt>amount</dt><dd>49.00</dd>", "<dt>n</dt><dd>2</dd>", "goes on in module 7")
}

func TestChatCanBeHeldStill(t *testing.T) {
	s := open(t, sandbox.Config{})
	s.Pause(sandbox.Certainly, "a/b", "asked", "")
	_, page := s.do(t, http.MethodGet, "/sandbox/chat/a%2Fb?refresh=off", "", "")
	if strings.Contains(page, "http-equiv") || !strings.Contains(page, `href="/sandbox/chat/a%2Fb?platform=certainly"`) {
		t.Errorf("got %s, want a page that does not reload, with a way back", page)
	}
}

func TestIndexLeadsToChats(t *testing.T) {
	s := open(t, sandbox.Config{})
	if _, page := s.do(t, http.MethodGet, "/", "", ""); !strings.Contains(page, "None yet") {
		t.Errorf("empty index: got %s, want it said", page)
	}
	s.Pause(sandbox.Certainly, "a/b", "asked", "")
	resp, page := s.do(t, http.MethodGet, "/", "", "")
	if !strings.Contains(page, `href="/sandbox/chat/a%2Fb?platform=certainly"`) {
		t.Errorf("got %s, want a link to the chat", page)
	}
	if got := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'") {
		t.Errorf("got policy %q, want one that allows nothing by default", got)
	}
	resp, _ = s.do(t, http.MethodGet, "/sandbox/style.css", "", "")
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || !strings.HasPrefix(got, "text/css") {
		t.Errorf("style sheet: got %d %q, want 200 text/css", resp.StatusCode, got)
	}
}

func TestUnknownAddressesAreNotFound(t *testing.T) {
	s := open(t, sandbox.Config{})
	for _, path := range []string{"/nothing", "/certainly/", "/certainly/actionsvc/other/", "/sandbox/nobody"} {
		if resp, _ := s.do(t, http.MethodGet, path, "", ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: got %d, want 404", path, resp.StatusCode)
		}
	}
}
