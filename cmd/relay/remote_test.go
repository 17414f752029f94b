package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
)

// chatSource is what the API tells of a source that subscribes.
type chatSource struct {
	AwaitingSecret bool               `json:"awaiting_secret"`
	WebhookURL     string             `json:"webhook_url"`
	LastError      string             `json:"last_error"`
	Subscriptions  []chatSubscription `json:"subscriptions"`
	Secrets        []struct {
		ID string `json:"id"`
	} `json:"secrets"`
}

type chatSubscription struct {
	Status    string `json:"status"`
	CheckedAt string `json:"checked_at"`
	LastError string `json:"last_error"`
}

// awaitSource waits until a source is as it is wanted.
func (w *world) awaitSource(t *testing.T, name, what string, enough func(chatSource) bool) (src chatSource) {
	t.Helper()
	await(t, patience, what, func() bool {
		src = chatSource{}
		w.call(t, http.MethodGet, "/v1/sources/"+name, nil, &src, http.StatusOK)
		return enough(src)
	})
	return src
}

func active(src chatSource) bool {
	return len(src.Subscriptions) > 0 && !src.AwaitingSecret && !slices.ContainsFunc(src.Subscriptions, func(s chatSubscription) bool { return s.Status != "active" })
}

// TestChat has a message in a conversation of Smartify complete a wait: the
// source saved, the subscription made, the hook genuine, the conversation gone
// on. What the relay and the bot say themselves completes nothing.
func TestChat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.call(t, http.MethodPut, "/v1/destinations/agent", object{
		"platform": "smartify", "base_url": w.boxURL + "/smartify", "project_id": sandbox.SmartifyProject,
		"username": "agent@sandbox.example", "password": "sandbox-token",
	}, nil, http.StatusOK)
	w.call(t, http.MethodPut, "/v1/sources/chat", object{
		"provider": "smartify", "subscribe": object{"destination": "agent", "events": []string{"message.create", "request.close"}},
	}, nil, http.StatusOK)
	src := w.awaitSource(t, "chat", "the subscriptions", active)
	if len(src.Secrets) != 1 || src.LastError != "" || src.Subscriptions[0].CheckedAt == "" {
		t.Errorf("got the source %+v, want it with one secret and no error", src)
	}
	subs := w.box.SmartifySubscriptions()
	slices.SortFunc(subs, func(a, b sandbox.SmartifySubscription) int { return strings.Compare(a.Event, b.Event) })
	if len(subs) != 2 || !strings.HasPrefix(subs[0].Target, src.WebhookURL+"?") {
		t.Fatalf("at the platform: got %d subscriptions, want 2 with the source's address", len(subs))
	}
	target, err := url.Parse(subs[0].Target)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.secrets = append(w.secrets, subs[0].Secret, target.Query().Get("key"))
	w.mu.Unlock()

	const conversation = "support-group-1"
	told := func(match string, want int) []received {
		t.Helper()
		var got []received
		await(t, patience, "events that are "+match, func() bool {
			got = w.events(t, url.Values{"source": {"chat"}, "match": {match}})
			return len(got) == want
		})
		return got
	}
	ask := func(when string) wait {
		t.Helper()
		var out wait
		w.call(t, http.MethodPost, "/v1/correlations", object{
			"user_id": "u-chat", "conversation": conversation, "key": conversation, "destination": "agent", "source": "chat", "when": when,
			"on": object{"completed": object{"text": "Thank you for {{ form.text }}"}, "default": object{"action": "none"}},
		}, &out, http.StatusCreated)
		return out
	}
	w.box.Say(conversation, "I want to buy something") // before anybody asks
	told("unmatched", 1)
	asked := ask("event.payload.sender == event.payload.request.lead.lead_id")
	w.box.Pause(sandbox.Smartify, conversation, "Where do you live?", "")
	told("ignored", 1) // what the bot says
	w.box.Say(conversation, "Rue de la Loi 16")
	completed := func(of wait) {
		t.Helper()
		await(t, patience, "the wait to be completed", func() bool { return w.wait(t, of.ID).Status != "pending" })
		wantStatus(t, w.settled(t, of.ID), relay.StatusCompleted, "completed")
	}
	completed(asked)
	c, _ := w.box.Conversation(sandbox.Smartify, conversation)
	if last := c.Messages[len(c.Messages)-1]; c.Waiting || c.Resumed != 1 || last.Text != "Thank you for Rue de la Loi 16" {
		t.Errorf("the conversation: got %+v, want it resumed once and thanked", c)
	}
	told("ignored", 2) // what the relay has said

	// The same message again, as the server sends it to several.
	again := ask("")
	matched := told("matched", 1)[0]
	if !strings.HasPrefix(matched.ProviderID, "message.create:") {
		t.Errorf("the event has the id %q, want that of its message", matched.ProviderID)
	}
	body, err := json.Marshal(object{
		"hook":    object{"_id": "another", "event": "request.create", "target": "https://another.example"},
		"payload": object{"_id": strings.TrimPrefix(matched.ProviderID, "message.create:"), "recipient": conversation, "text": "Rue de la Loi 16"},
	})
	if err != nil {
		t.Fatal(err)
	}
	hook := http.Header{"Content-Type": {"application/json"}, "X-Hook-Secret": {subs[0].Secret}}
	if resp, text := exchange(t, http.MethodPost, subs[0].Target, hook, string(body)); resp.StatusCode != http.StatusOK || text != "[accepted]" {
		t.Errorf("the message again: got %d %s, want it accepted", resp.StatusCode, text)
	}
	told("duplicate", 1)
	// Whoever else has the server's secret does not know the address.
	if resp, _ := exchange(t, http.MethodPost, src.WebhookURL+"?event=message.create", hook, string(body)); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("at the address without its key: got %d, want 401", resp.StatusCode)
	}
	if got := w.wait(t, again.ID); got.Status != "pending" {
		t.Errorf("the next wait: got %s, want it to wait for the next message", got.Status)
	}
	w.box.Close(conversation)
	completed(again)

	w.call(t, http.MethodDelete, "/v1/sources/chat", nil, nil, http.StatusNoContent)
	await(t, patience, "the end of the subscriptions", func() bool { return len(w.box.SmartifySubscriptions()) == 0 })
}

// TestChatWithoutThePlatform saves a source while its platform is down: the
// source says why it is not subscribed, and is once that is mended.
func TestChatWithoutThePlatform(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.box.Switch(sandbox.Smartify, sandbox.Switches{Faults: []sandbox.Fault{{Answer: "server_error"}}}); err != nil {
		t.Fatal(err)
	}
	w.call(t, http.MethodPut, "/v1/destinations/agent", object{
		"platform": "smartify", "base_url": w.boxURL + "/smartify", "project_id": sandbox.SmartifyProject,
		"username": "agent@sandbox.example", "password": "sandbox-token",
	}, nil, http.StatusOK)
	w.call(t, http.MethodPut, "/v1/sources/chat", object{
		"provider": "smartify", "subscribe": object{"destination": "agent", "events": "message.create"},
	}, nil, http.StatusOK)
	src := w.awaitSource(t, "chat", "the failure to show", func(src chatSource) bool { return src.LastError != "" })
	if s := src.Subscriptions; len(s) != 1 || s[0].Status != "failing" || s[0].LastError != "list: platform_failed" || src.LastError != "subscription_failed" {
		t.Errorf("got %+v, want it to say what fails", src)
	}
	if err := w.box.Switch(sandbox.Smartify, sandbox.Switches{}); err != nil {
		t.Fatal(err)
	}
	w.awaitSource(t, "chat", "the subscription", active)
}
