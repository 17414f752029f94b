package egress_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"relay.example/relay/internal/egress"
)

// A library's calls are held to the rules of all calls.
func TestRoundTripper(t *testing.T) {
	t.Parallel()
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/echo", http.StatusFound)
		case "/long":
			_, _ = w.Write(make([]byte, egress.MaxKeep+1))
		default:
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Said", r.Header.Get("X-Says"))
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write(append([]byte(r.Method+" "), body...))
		}
	}))
	t.Cleanup(ts.Close)
	client := func(allowed string) *http.Client {
		policy, err := egress.ParsePolicy(allowed)
		if err != nil {
			t.Fatal(err)
		}
		c := egress.New(egress.Config{Policy: policy})
		t.Cleanup(c.Close)
		return &http.Client{
			Transport:     c.RoundTripper(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	post := func(c *http.Client, path string, sent []byte) (status int, said, body string, err error) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ts.URL+path, bytes.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Says", "hello")
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", "", err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		return resp.StatusCode, resp.Header.Get("X-Said"), string(answer), err
	}
	allowed := client("true")
	if status, said, body, err := post(allowed, "/echo", []byte("a=1")); err != nil || status != http.StatusTeapot || body != "POST a=1" || said != "hello" {
		t.Errorf("got %d %q %q, %v, want what was said", status, said, body, err)
	}
	if status, _, _, err := post(allowed, "/redirect", nil); err != nil || status != http.StatusFound {
		t.Errorf("a redirect: got %d, %v, want it as the answer", status, err)
	}
	if _, _, _, err := post(allowed, "/long", nil); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("an answer that is too long: got %v, want it refused", err)
	}
	if _, _, _, err := post(allowed, "/echo", make([]byte, egress.MaxRequest+1)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a request that is too long: got %v, want it refused", err)
	}
	_, _, _, err := post(client(""), "/echo", nil)
	var refused *egress.Error
	if !errors.As(err, &refused) || refused.Sent {
		t.Errorf("a loopback address: got %v, want it refused and not sent", err)
	}
}
