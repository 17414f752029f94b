package sandbox_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"relay.example/relay/internal/sandbox"
)

func TestChatBeginsWhatIsOffered(t *testing.T) {
	var failure error
	s := open(t, sandbox.Config{Offers: []sandbox.Offer{{
		Name: "form", Label: "Fill in a form", Begin: func(_ context.Context, user string) (string, string, error) {
			return "Please, " + user, "https://relay.example/go/x", failure
		},
	}}})
	resp, page := s.do(t, http.MethodGet, "/sandbox/chat/a%2Fb", "", "")
	if resp.StatusCode != http.StatusOK || !strings.Contains(page, `<button class="button" name="offer" value="form">Fill in a form</button>`) {
		t.Fatalf("a new chat: got %d %s, want 200 and what can be begun", resp.StatusCode, page)
	}
	if _, page := s.do(t, http.MethodGet, "/sandbox/chat/a?platform=haptik", "", ""); strings.Contains(page, "<button") {
		t.Errorf("at another platform: got %s, want no buttons", page)
	}
	if _, page := s.do(t, http.MethodGet, "/", "", ""); !strings.Contains(page, `href="/sandbox/chat/me"`) {
		t.Errorf("the index: got %s, want a way to a chat", page)
	}

	begin := url.Values{"offer": {"form"}}
	const path = "/sandbox/chat/a%2Fb?platform=certainly"
	resp, _ = s.press(t, path, begin, "")
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != path {
		t.Errorf("begun: got %d to %q, want 303 to %q", resp.StatusCode, got, path)
	}
	c := s.conversation(t, "a%2Fb")
	if m := last(t, c); !c.Waiting || m.Text != "Please, a/b" || m.Link != "https://relay.example/go/x" {
		t.Errorf("got %+v, want the conversation paused with the link", c)
	}

	failure = errors.New("the relay is away")
	resp, page = s.press(t, path, begin, "")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(page, "did not begin: the relay is away") {
		t.Errorf("not begun: got %d %s, want 502 and why", resp.StatusCode, page)
	}
	for name, refused := range map[string]struct {
		path string
		form url.Values
	}{
		"nothing that is offered": {path, url.Values{"offer": {"other"}}},
		"another platform":        {"/sandbox/chat/a?platform=haptik", begin},
		"a user too long":         {"/sandbox/chat/" + strings.Repeat("a", 513), begin},
	} {
		if resp, _ := s.press(t, refused.path, refused.form, ""); resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d, want 422", name, resp.StatusCode)
		}
	}
}

// TestChatBeginsNothingForOtherSites: whoever looks at another page while the
// demo runs is not to register waits.
func TestChatBeginsNothingForOtherSites(t *testing.T) {
	begun := false
	s := open(t, sandbox.Config{Offers: []sandbox.Offer{{
		Name: "form", Begin: func(context.Context, string) (string, string, error) { begun = true; return "", "", nil },
	}}})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/sandbox/chat/a", strings.NewReader("offer=form"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusUnprocessableEntity || begun {
		t.Errorf("got %d, begun: %v, want 422 and nothing begun", resp.StatusCode, begun)
	}
}
