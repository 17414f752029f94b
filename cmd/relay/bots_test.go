package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"relay.example/relay/internal/sandbox"
)

// TestHaptikNode lets the user of a Haptik bot come to its integration node: the
// bot calls the relay and pauses with the link, the user pays, and the relay's
// message lets the bot go on.
func TestHaptikNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.call(t, http.MethodPut, "/v1/destinations/haptik", object{
		"platform": "haptik", "base_url": w.boxURL + "/haptik", "token": certainlyToken, "client_id": "c", "business_id": 343, "node_secret": certainlyToken,
	}, nil, http.StatusOK)
	come := func() {
		t.Helper()
		// As a browser does, by the page's own button.
		_, page := exchange(t, http.MethodGet, w.boxURL+"/sandbox/chat/jo?platform=haptik", nil, "")
		_, action, _ := strings.Cut(page, `<form method="post" action="`)
		action, _, _ = strings.Cut(action, `"`)
		if resp, text := exchange(t, http.MethodPost, w.boxURL+action, nil, ""); resp.StatusCode != http.StatusSeeOther {
			t.Fatalf("coming to the node by %q: got %d %s, want 303", action, resp.StatusCode, text)
		}
	}
	last := func() sandbox.Message {
		t.Helper()
		c, _ := w.box.Conversation(sandbox.Haptik, "jo")
		return c.Messages[len(c.Messages)-1]
	}

	come() // before there is a flow
	if m := last(); m.Kind != sandbox.KindText || !strings.HasPrefix(m.Text, "No link can be made") {
		t.Errorf("without a flow: got %+v, want the bot to say that there is no link", m)
	}
	w.call(t, http.MethodPut, "/v1/flows/node", object{
		"destination": "haptik", "source": "stripe", "link": "https://buy.stripe.example/test_abc",
		"on": object{"default": object{"text": "Your {{ correlation.data.entities.product[0].entity_value }} is {{ outcome }}."}},
	}, nil, http.StatusOK)
	come()
	paused := last()
	come() // again: the same call
	if m := last(); m.Kind != sandbox.KindPause || m.Link == "" || m.Link != paused.Link || !strings.Contains(m.Link, "/go/") {
		t.Fatalf("got %+v after %+v, want a pause with the same link twice", m, paused)
	}
	token := paused.Link[strings.LastIndex(paused.Link, "/")+1:]
	w.mu.Lock()
	w.secrets = append(w.secrets, token)
	w.mu.Unlock()
	w.stripe(t, "checkout.session.completed", paid(wait{Token: token}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := w.box.Await(ctx, sandbox.Haptik, "jo", func(c sandbox.Conversation) bool { return c.Resumed > 0 })
	if err != nil {
		t.Fatal(err)
	}
	if said := last().Text; c.Waiting || c.Resumed != 1 || said != "Your chair is completed." {
		t.Errorf("got %d resumes, waiting %t, last %q, want one, for the chair", c.Resumed, c.Waiting, said)
	}
	if _, page := exchange(t, http.MethodGet, w.boxURL+"/sandbox/chat/jo?platform=haptik", nil, ""); !strings.Contains(page, "Your chair is completed.") {
		t.Errorf("got %s, want the bot to have gone on", page)
	}
}
