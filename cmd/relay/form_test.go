package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
)

// TestForm plays a form that somebody else's page posts.
func TestForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	browser := http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"},
		"Accept":       {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"},
	}
	program := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	fields := url.Values{"name": {"Zoë"}, "email": {"zoe@example.org"}}.Encode()

	// submit posts as a browser does and returns the page that it is led to.
	submit := func(t *testing.T, address string) (answer, string) {
		t.Helper()
		resp, _ := exchange(t, http.MethodPost, address, browser, fields)
		if resp.StatusCode != http.StatusSeeOther {
			t.Fatalf("a browser: got %d, want 303", resp.StatusCode)
		}
		location := resp.Header.Get("Location")
		if !strings.HasPrefix(location, w.url+"/return/") {
			t.Fatalf("a browser: got sent to %q, want a page of the relay", location)
		}
		return exchange(t, http.MethodGet, location, nil, "")
	}
	wantPage := func(t *testing.T, resp answer, page string, status int, title string) {
		t.Helper()
		if resp.StatusCode != status || !strings.Contains(page, "<h1>"+title+"</h1>") {
			t.Errorf("the page: got %d\n%s\nwant %d and the title %q", resp.StatusCode, page, status, title)
		}
	}

	t.Run("by a browser", func(t *testing.T) {
		t.Parallel()
		reg := w.register(t, "contact", nil)
		resp, page := submit(t, reg.CallbackURL)
		wantPage(t, resp, page, http.StatusOK, "Done")
		wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
		c := w.wantModule(t, reg, formModule, 1)
		if got := string(c.CustomVars["email"]); got != `"zoe@example.org"` {
			t.Errorf("email: got %s, want what was submitted", got)
		}

		// Sent once more, with other words: the page is the same, the
		// conversation is not moved again.
		fields := url.Values{"email": {"other@example.org"}}.Encode()
		resp, _ = exchange(t, http.MethodPost, reg.CallbackURL, browser, fields)
		if resp.StatusCode != http.StatusSeeOther {
			t.Errorf("a second submission: got %d, want 303", resp.StatusCode)
		}
		wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
		w.wantModule(t, reg, formModule, 1)
	})
	t.Run("by a program", func(t *testing.T) {
		t.Parallel()
		reg := w.register(t, "contact", nil)
		resp, answer := exchange(t, http.MethodPost, reg.CallbackURL, program, fields)
		if resp.StatusCode != http.StatusOK || answer != "[accepted]" {
			t.Errorf("got %d %q, want 200 [accepted]", resp.StatusCode, answer)
		}
		wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
		w.wantModule(t, reg, formModule, 1)
	})
	t.Run("with the token in a field", func(t *testing.T) {
		t.Parallel()
		reg := w.register(t, "contact", nil)
		body := fields + "&conversation_token=" + reg.Token
		resp, _ := exchange(t, http.MethodPost, w.url+"/in/default/contact", browser, body)
		if got, want := resp.Header.Get("Location"), w.url+"/return/"+reg.Token; got != want {
			t.Errorf("sent to %q, want %q", got, want)
		}
		wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	})
	t.Run("too late", func(t *testing.T) {
		t.Parallel()
		reg := w.register(t, "contact", nil)
		w.call(t, http.MethodPost, "/v1/correlations/"+reg.ID+"/cancel", object{"silent": true}, nil, http.StatusOK)
		resp, page := exchange(t, http.MethodGet, w.url+"/return/"+reg.Token, nil, "")
		wantPage(t, resp, page, http.StatusGone, "Cancelled")
	})
	t.Run("of nobody", func(t *testing.T) {
		t.Parallel()
		resp, page := submit(t, w.url+"/in/default/contact/"+relay.NewToken())
		wantPage(t, resp, page, http.StatusNotFound, "Unknown link")
		resp, page = submit(t, w.url+"/in/default/contact")
		wantPage(t, resp, page, http.StatusNotFound, "Unknown link")
	})
	t.Run("unknown source", func(t *testing.T) {
		t.Parallel()
		resp, answer := exchange(t, http.MethodPost, w.url+"/in/default/nowhere", browser, fields)
		if resp.StatusCode != http.StatusNotFound || !strings.Contains(answer, `"unknown_source"`) {
			t.Errorf("got %d %s, want 404 unknown_source", resp.StatusCode, answer)
		}
	})
}
