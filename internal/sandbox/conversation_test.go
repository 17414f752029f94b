package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"relay.example/relay/internal/sandbox"
)

func TestOldestMessagesAreDropped(t *testing.T) {
	s := sandbox.New(sandbox.Config{CertainlyToken: token})
	for i := range 205 {
		direct(s, responses, jwt(), fmt.Sprintf(`{"user_id":"u-1","module_id":%d,"is_async":true}`, i))
	}
	c, _ := s.Conversation(sandbox.Certainly, "u-1")
	if len(c.Messages) != 200 || *c.Messages[0].ModuleID != 5 || c.Resumed != 205 {
		t.Errorf("got %d messages from module %d, resumed %d, want 200 from 5, resumed 205",
			len(c.Messages), *c.Messages[0].ModuleID, c.Resumed)
	}
}

func TestMessagesAreBoundedInBytes(t *testing.T) {
	s := sandbox.New(sandbox.Config{CertainlyToken: token})
	text := strings.Repeat("x", 200<<10) // kept twice: as text and in the request
	for range 10 {
		direct(s, messages, basic(), `{"user_id":"u-1","text_message":"`+text+`"}`)
	}
	if c, _ := s.Conversation(sandbox.Certainly, "u-1"); len(c.Messages) != 2 {
		t.Errorf("got %d messages, want the 2 that fit into 1 MiB", len(c.Messages))
	}
}

func TestVariablesAreBoundedInBytes(t *testing.T) {
	s := sandbox.New(sandbox.Config{CertainlyToken: token})
	value := strings.Repeat("x", 150<<10)
	for _, name := range []string{"first", "second"} {
		direct(s, responses, jwt(), `{"user_id":"u-1","module_id":1,"is_async":true,"custom_vars":{"`+name+`":"`+value+`"}}`)
	}
	c, _ := s.Conversation(sandbox.Certainly, "u-1")
	if _, kept := c.CustomVars["second"]; !kept || len(c.CustomVars) != 1 {
		t.Errorf("got %d variables, want the latest call's only", len(c.CustomVars))
	}
}

func TestLongestSilentConversationsAreDropped(t *testing.T) {
	s := sandbox.New(sandbox.Config{})
	for i := range 10_000 {
		s.Pause(sandbox.Certainly, fmt.Sprintf("u-%d", i), "asked", "")
	}
	s.Pause(sandbox.Certainly, "u-0", "asked again", "") // no longer the most silent
	s.Pause(sandbox.Certainly, "new", "asked", "")
	for user, want := range map[string]bool{"u-0": true, "u-1": false, "u-2": true, "new": true} {
		if _, got := s.Conversation(sandbox.Certainly, user); got != want {
			t.Errorf("conversation of %s: got kept %t, want %t", user, got, want)
		}
	}
}

func TestAllConversationsAreBoundedInBytes(t *testing.T) {
	s := sandbox.New(sandbox.Config{})
	text := strings.Repeat("x", 1<<20)
	for i := range 130 {
		s.Pause(sandbox.Certainly, fmt.Sprintf("u-%d", i), text, "")
	}
	_, oldest := s.Conversation(sandbox.Certainly, "u-0")
	_, newest := s.Conversation(sandbox.Certainly, "u-129")
	if oldest || !newest {
		t.Errorf("got oldest kept %t, newest kept %t, want false, true", oldest, newest)
	}
}

func TestConversationsAreListedNewestFirst(t *testing.T) {
	s := open(t, sandbox.Config{})
	for _, user := range []string{"a", "b", "c"} {
		s.Pause(sandbox.Certainly, user, "asked", "")
	}
	var got []string
	path := "/sandbox/conversations?limit=2"
	for path != "" {
		resp, body := s.do(t, http.MethodGet, path, "", "")
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("got %d %s, want 200", resp.StatusCode, body)
		}
		var page struct {
			Data []sandbox.Summary `json:"data"`
			Next *string           `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Data {
			got = append(got, c.UserID)
		}
		path = ""
		if page.Next != nil {
			path = "/sandbox/conversations?limit=2&cursor=" + *page.Next
		}
	}
	if want := "c b a"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, " "), want)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "cursor=-1"} {
		if resp, _ := s.do(t, http.MethodGet, "/sandbox/conversations?"+query, "", ""); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got %d, want 400", query, resp.StatusCode)
		}
	}
}

func TestResetForgetsConversations(t *testing.T) {
	s := open(t, sandbox.Config{})
	s.do(t, http.MethodPost, responses, jwt(), move)
	if resp, _ := s.do(t, http.MethodDelete, "/sandbox/conversations", "", ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("reset: got %d, want 204", resp.StatusCode)
	}
	resp, body := s.do(t, http.MethodGet, "/sandbox/conversations/u-1", "", "")
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(body, "conversation_not_found") {
		t.Errorf("after the reset: got %d %s, want 404 conversation_not_found", resp.StatusCode, body)
	}
	if _, body := s.do(t, http.MethodGet, "/sandbox/counts", "", ""); !strings.Contains(body, `"calls": 0`) {
		t.Errorf("after the reset: got counts %s, want zeros", body)
	}
}

func TestPauseWaitsUntilResumed(t *testing.T) {
	s := open(t, sandbox.Config{})
	resp, body := s.do(t, http.MethodPost, "/sandbox/conversations/u-1/pause", "", `{"text":"Please pay","link":"https://relay.example/go/x"}`)
	if resp.StatusCode != http.StatusOK || !s.conversation(t, "u-1").Waiting {
		t.Fatalf("pause: got %d %s, want a conversation that waits", resp.StatusCode, body)
	}
	s.do(t, http.MethodPost, messages, basic(), `{"user_id":"u-1","text_message":"still there?"}`)
	if !s.conversation(t, "u-1").Waiting {
		t.Error("after a text: got resumed, want still waiting")
	}
	s.do(t, http.MethodPost, responses, jwt(), move)
	if s.conversation(t, "u-1").Waiting {
		t.Error("after a move: got still waiting, want resumed")
	}
	for name, bad := range map[string]string{"no text": `{}`, "no web address": `{"text":"x","link":"javascript:alert(1)"}`} {
		if resp, _ := s.do(t, http.MethodPost, "/sandbox/conversations/u-1/pause", "", bad); resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d, want 422", name, resp.StatusCode)
		}
	}
	if resp, _ := s.do(t, http.MethodPost, "/sandbox/conversations/u-1/pause?platform=other", "", `{"text":"x"}`); resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown platform: got %d, want 404", resp.StatusCode)
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	s := sandbox.New(sandbox.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("long enough")
	cancel(reason)
	_, err := s.Await(ctx, sandbox.Certainly, "u-1", func(sandbox.Conversation) bool { return true })
	if !errors.Is(err, reason) {
		t.Errorf("got %v, want the cause %v", err, reason)
	}
}

// TestManyAtOnce drives calls, readers, switches and waiters side by side, for
// the race detector, and checks that no call is lost.
func TestManyAtOnce(t *testing.T) {
	const users, calls = 8, 50
	s := sandbox.New(sandbox.Config{CertainlyToken: token})
	var all sync.WaitGroup
	for u := range users {
		user := fmt.Sprintf("u-%d", u)
		for i := range calls {
			all.Go(func() {
				direct(s, responses, jwt(), fmt.Sprintf(`{"user_id":%q,"module_id":%d,"is_async":true,"custom_vars":{"n%d":1}}`, user, i, i))
			})
		}
		all.Go(func() {
			_, err := s.Await(t.Context(), sandbox.Certainly, user, func(c sandbox.Conversation) bool { return c.Resumed == calls })
			if err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := s.SwitchCertainly(sandbox.Switches{Faults: []sandbox.Fault{{Match: sandbox.Match{UserID: "nobody"}, Answer: "hang"}}}); err != nil {
				t.Error(err)
			}
			if c, ok := s.Conversation(sandbox.Certainly, user); ok && len(c.Messages) > calls {
				t.Errorf("got %d messages, want at most %d", len(c.Messages), calls)
			}
		})
	}
	all.Wait()
	for u := range users {
		c, _ := s.Conversation(sandbox.Certainly, fmt.Sprintf("u-%d", u))
		if len(c.CustomVars) != calls || len(c.Messages) != calls {
			t.Errorf("user %d: got %d variables, %d messages, want %d of each", u, len(c.CustomVars), len(c.Messages), calls)
		}
	}
	if got := s.Counts().Resumed; got != users*calls {
		t.Errorf("got %d resumed, want %d", got, users*calls)
	}
}

// A fault that is left for three calls is met by three, however many come at
// once.
func TestFaultIsMetExactlyAsOftenAsTold(t *testing.T) {
	s := sandbox.New(sandbox.Config{CertainlyToken: token})
	if err := s.SwitchCertainly(sandbox.Switches{Faults: []sandbox.Fault{{Times: 3, Answer: "server_error"}}}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { direct(s, responses, jwt(), move) })
	}
	all.Wait()
	if got := s.Counts(); got.Refused != 3 || got.Resumed != 47 {
		t.Errorf("got %+v, want 3 refused and 47 resumed", got)
	}
}

func BenchmarkTriggerResponse(b *testing.B) {
	s := sandbox.New(sandbox.Config{CertainlyToken: token})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		direct(s, responses, jwt(), fmt.Sprintf(`{"user_id":"u-%d","module_id":7,"wait_time":0,"custom_vars":{"amount":"20.50"},"is_async":true}`, i%20_000))
	}
}
