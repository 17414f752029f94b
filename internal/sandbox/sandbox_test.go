package sandbox_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/sandbox"
)

const (
	token     = "certainly-public-token"
	accepted  = `{"error":[],"message":"1"}`
	responses = "/certainly/actionsvc/trigger-response/"
	messages  = "/certainly/actionsvc/trigger-message/"
)

var noon = time.Date(2026, time.November, 20, 12, 0, 0, 0, time.UTC)

// stand is a sandbox that listens.
type stand struct {
	*sandbox.Sandbox
	url string
}

func open(t *testing.T, c sandbox.Config) stand {
	t.Helper()
	if c.CertainlyToken == "" {
		c.CertainlyToken = token
	}
	if c.Now == nil {
		c.Now = func() time.Time { return noon }
	}
	s := sandbox.New(c)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return stand{s, srv.URL}
}

func jwt() string { return "JWT " + token }

func basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("user:bearer "+token))
}

// head is an answer without its body.
type head struct {
	StatusCode int
	Header     http.Header
}

// do sends a request whose body is JSON, and reads the answer.
func (s stand) do(t *testing.T, method, path, auth, body string) (head, string) {
	t.Helper()
	resp, err := s.try(t, method, path, auth, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the answer of %s %s: %v", method, path, err)
	}
	return head{resp.StatusCode, resp.Header}, strings.TrimSpace(string(text))
}

// try is do where the connection may break.
func (s stand) try(t *testing.T, method, path, auth, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return client.Do(req)
}

// put switches Certainly.
func (s stand) put(t *testing.T, body string) {
	t.Helper()
	if resp, text := s.do(t, http.MethodPut, "/sandbox/certainly", "", body); resp.StatusCode != http.StatusOK {
		t.Fatalf("switching to %s: got %d %s, want 200", body, resp.StatusCode, text)
	}
}

// conversation fetches what Certainly knows of a user, over HTTP.
func (s stand) conversation(t *testing.T, user string) sandbox.Conversation {
	t.Helper()
	resp, text := s.do(t, http.MethodGet, "/sandbox/conversations/"+user, "", "")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("conversation of %q: got %d %s, want 200", user, resp.StatusCode, text)
	}
	var c sandbox.Conversation
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("conversation of %q: %v in %s", user, err, text)
	}
	return c
}

func last(t *testing.T, c sandbox.Conversation) sandbox.Message {
	t.Helper()
	if len(c.Messages) == 0 {
		t.Fatalf("conversation of %q: got no messages, want one at least", c.UserID)
	}
	return c.Messages[len(c.Messages)-1]
}

// direct sends a call without a connection, for tests that send thousands.
func direct(h http.Handler, path, auth, body string) int {
	req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader([]byte(body)))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", auth)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec.Code
}
