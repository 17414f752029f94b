package sandbox_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"relay.example/relay/internal/sandbox"
)

// Haptik breaks off its bot at anything but a 200 in its own form, with
// something to show.
func TestHaptikNodeReplies(t *testing.T) {
	var status int
	var reply, signature, body string
	called := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		signature, body = r.Header.Get("X-Hub-Signature"), string(raw)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, reply)
	}))
	t.Cleanup(called.Close)
	s := open(t, sandbox.Config{HaptikNode: sandbox.HaptikNode{Secret: "node-secret", URL: func() string { return called.URL }}})
	const node = "/sandbox/chat/a%2Fb/node?platform=haptik"
	for _, tt := range []struct {
		name             string
		status           int
		reply            string
		kind, text, link string
	}{
		{"a link", 200, `{"status":true,"response":["https://relay.test/go/x"]}`, sandbox.KindPause, "Please go on here:", "https://relay.test/go/x"},
		{"words and a link", 200, `{"status":true,"response":["Pay","https://relay.test/go/x","now"]}`, sandbox.KindPause, "Pay\nnow", "https://relay.test/go/x"},
		{"no link", 200, `{"status":false,"response":["Later."],"code":"x"}`, sandbox.KindText, "Later.", ""},
		{"another status", 201, `{"status":true,"response":["x"]}`, sandbox.KindBreak, "the answer has the status 201", ""},
		{"nothing to show", 200, `{"status":true,"response":[]}`, sandbox.KindBreak, "the answer has nothing to show", ""},
		{"another form", 200, `{"url":"https://relay.test/go/x"}`, sandbox.KindBreak, "the answer has nothing to show", ""},
		{"no JSON", 200, `<html>`, sandbox.KindBreak, "the answer is not in Haptik's form", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, reply = tt.status, tt.reply
			if head, text := s.do(t, http.MethodPost, node, "", ""); head.StatusCode != http.StatusSeeOther || head.Header.Get("Location") != "/sandbox/chat/a%2Fb?platform=haptik" {
				t.Fatalf("got %d to %q, %s, want to be led to the chat", head.StatusCode, head.Header.Get("Location"), text)
			}
			c, _ := s.Conversation(sandbox.Haptik, "a/b")
			if m := c.Messages[len(c.Messages)-1]; m.Kind != tt.kind || m.Text != tt.text || m.Link != tt.link {
				t.Errorf("got %+v, want %s, %q, %q", m, tt.kind, tt.text, tt.link)
			}
		})
	}
	// openssl dgst -sha1 -hmac node-secret says the same of this call.
	if want := "sha1=c46a077319aefe7c813793ff15c35f60dfe23a87"; signature != want || !strings.Contains(body, `"auth_id":"a/b"`) {
		t.Errorf("got the signature %s of %s, want %s", signature, body, want)
	}
	called.Close()
	s.do(t, http.MethodPost, node, "", "")
	if c, _ := s.Conversation(sandbox.Haptik, "a/b"); c.Messages[len(c.Messages)-1].Kind != sandbox.KindBreak || strings.Contains(c.Messages[len(c.Messages)-1].Text, called.URL) {
		t.Errorf("nobody listens: got %+v, want a break that does not name the address", c.Messages[len(c.Messages)-1])
	}
}

// Where there is no node there is no button.
func TestHaptikNodeAbsent(t *testing.T) {
	s := open(t, sandbox.Config{})
	if head, _ := s.do(t, http.MethodPost, "/sandbox/chat/u-1/node?platform=haptik", "", ""); head.StatusCode != http.StatusNotFound {
		t.Errorf("got %d, want 404", head.StatusCode)
	}
	if _, page := s.do(t, http.MethodGet, "/sandbox/chat/u-1?platform=haptik", "", ""); strings.Contains(page, "<form") {
		t.Errorf("got %s, want no button", page)
	}
	s = open(t, sandbox.Config{HaptikNode: sandbox.HaptikNode{URL: func() string { return "http://127.0.0.1:1/" }}})
	if head, _ := s.do(t, http.MethodPost, "/sandbox/chat/u-1/node", "", ""); head.StatusCode != http.StatusNotFound {
		t.Errorf("Certainly's chat: got %d, want 404: its bot has no node here", head.StatusCode)
	}
	if _, page := s.do(t, http.MethodGet, "/sandbox/chat/u-1", "", ""); strings.Contains(page, "<form") {
		t.Errorf("Certainly's chat: got %s, want no button", page)
	}
}
