package sandbox_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"syscall"
	"testing"
	"time"

	"relay.example/relay/internal/sandbox"
)

const move = `{"user_id":"u-1","module_id":7,"is_async":true}`

func TestNamedFaults(t *testing.T) {
	for _, tc := range []struct {
		fault  string
		status int
		want   string // contained
	}{
		{"credentials", 400, badCredentials},
		{"unknown_user", 400, `"error":"Bot user with this id does not exist"`},
		{"unknown_module", 400, `"error":"module_id not found for the given bot"`},
		{"null_message", 200, `{"error":[],"message":null}`},
		{"error_array", 200, `"error":[{`},
		{"rate_limited", 429, ""},
		{"server_error", 500, "<h1>Server Error (500)</h1>"},
	} {
		t.Run(tc.fault, func(t *testing.T) {
			t.Parallel()
			s := open(t, sandbox.Config{})
			s.put(t, `{"faults":[{"answer":"`+tc.fault+`","times":1,"headers":{"Retry-After":"9"}}]}`)
			resp, body := s.do(t, http.MethodPost, responses, jwt(), move)
			if resp.StatusCode != tc.status || !strings.Contains(body, tc.want) {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, body, tc.status, tc.want)
			}
			if got := resp.Header.Get("Retry-After"); got != "9" {
				t.Errorf("added header: got %q, want 9", got)
			}
			c := s.conversation(t, "u-1")
			if m := last(t, c); c.Resumed != 0 || m.Kind != "refused" || m.Status != tc.status {
				t.Errorf("got resumed %d, message %+v, want a call that did nothing", c.Resumed, m)
			}
			if _, body := s.do(t, http.MethodPost, responses, jwt(), move); body != accepted {
				t.Errorf("after the fault: got %s, want %s", body, accepted)
			}
		})
	}
}

func TestBrokenConnections(t *testing.T) {
	for _, tc := range []struct {
		name, fault string
		acts        bool
		want        error
	}{
		{"drop", `"answer":"drop"`, false, syscall.ECONNRESET},
		{"reset", `"answer":"reset"`, true, syscall.ECONNRESET},
		{"close", `"answer":"close_after_read"`, true, io.EOF},
		{"close before acting", `"answer":"close_after_read","acts":false`, false, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, sandbox.Config{})
			s.put(t, `{"faults":[{`+tc.fault+`,"times":1}]}`)
			resp, err := s.try(t, http.MethodPost, responses, jwt(), move)
			if err == nil {
				_ = resp.Body.Close()
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("got error %v, want %v", err, tc.want)
			}
			c := s.conversation(t, "u-1")
			if m := last(t, c); (c.Resumed == 1) != tc.acts || m.Status != 0 {
				t.Errorf("got resumed %d and status %d, want acted: %t, status 0", c.Resumed, m.Status, tc.acts)
			}
		})
	}
}

func TestHangEndsWithItsClient(t *testing.T) {
	s := open(t, sandbox.Config{})
	s.put(t, `{"faults":[{"answer":"hang","times":1}]}`)
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+responses, strings.NewReader(move))
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		gone <- err
	}()
	c, err := s.Await(t.Context(), sandbox.Certainly, "u-1", func(sandbox.Conversation) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the client's own cancellation", err)
	}
	if c.Resumed != 0 {
		t.Errorf("got resumed %d, want 0", c.Resumed)
	}
}

func TestExplicitFaults(t *testing.T) {
	for _, tc := range []struct {
		name, fault string
		status      int
		contentType string
		want        string
	}{
		{"text", `"status":502,"body":"bad gateway"`, 502, "text/plain; charset=utf-8", "bad gateway"},
		{"json", `"status":400,"body":{"error":"no"}`, 400, "application/json", `{"error":"no"}`},
		{"headers", `"status":302,"headers":{"Location":"/elsewhere","Content-Type":"text/x-own"}`, 302, "text/x-own", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, sandbox.Config{})
			s.put(t, `{"faults":[{`+tc.fault+`,"times":0}]}`)
			resp, body := s.do(t, http.MethodPost, responses, jwt(), move)
			if resp.StatusCode != tc.status || body != tc.want || resp.Header.Get("Content-Type") != tc.contentType {
				t.Errorf("got %d %q %s, want %d %q %s", resp.StatusCode, resp.Header.Get("Content-Type"), body, tc.status, tc.contentType, tc.want)
			}
		})
	}
}

func TestFaultsMatchAndRunOut(t *testing.T) {
	s := open(t, sandbox.Config{})
	s.put(t, `{"faults":[
		{"match":{"user_id":"u-1","path":"trigger-response"},"times":2,"answer":"rate_limited"},
		{"match":{"user_id":"u-1"},"times":1,"answer":"server_error"},
		{"match":{"path":"trigger-message"},"times":0,"answer":"credentials"}]}`)
	for i, call := range []struct {
		path, auth, body string
		want             int
	}{
		{responses, jwt(), move, 429},
		{responses, jwt(), strings.Replace(move, "u-1", "u-2", 1), 200},
		{responses, jwt(), move, 429},
		{responses, jwt(), move, 500},
		{responses, jwt(), move, 200},
		{messages, basic(), `{"user_id":"u-2","text_message":"x"}`, 400},
		{messages, basic(), `{"user_id":"u-2","text_message":"x"}`, 400},
	} {
		if resp, _ := s.do(t, http.MethodPost, call.path, call.auth, call.body); resp.StatusCode != call.want {
			t.Errorf("call %d: got %d, want %d", i, resp.StatusCode, call.want)
		}
	}
	if _, body := s.do(t, http.MethodGet, "/sandbox/certainly", "", ""); strings.Count(body, `"met": 2`) != 2 || strings.Count(body, `"met": 1`) != 1 {
		t.Errorf("got %s, want the faults met 2, 1 and 2 times", body)
	}
}

func TestSwitchesNameUsersModulesAndToken(t *testing.T) {
	s := open(t, sandbox.Config{})
	s.put(t, `{"unknown_users":["u-2"],"modules":[7],"token":"new"}`)
	s.put(t, `{"unknown_users":["u-2"],"modules":[7]}`) // keeps the token
	for _, tc := range []struct {
		name, auth, body, want string
	}{
		{"old token", jwt(), move, badCredentials},
		{"new token", "JWT new", move, accepted},
		{"unknown user", "JWT new", strings.Replace(move, "u-1", "u-2", 1), `{"message":null,"error":"Bot user with this id does not exist"}`},
		{"unknown module", "JWT new", strings.Replace(move, "7", "8", 1), `{"message":null,"error":"module_id not found for the given bot"}`},
		{"no module", "JWT new", strings.Replace(move, "7", "null", 1), accepted},
	} {
		if _, got := s.do(t, http.MethodPost, responses, tc.auth, tc.body); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
	if _, body := s.do(t, http.MethodGet, "/sandbox/certainly", "", ""); strings.Contains(body, "new") || !strings.Contains(body, `"u-2"`) {
		t.Errorf("shown switches: got %s, want the user but not the token", body)
	}
	if resp, _ := s.do(t, http.MethodDelete, "/sandbox/certainly", "", ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("reset: got %d, want 204", resp.StatusCode)
	}
	if _, got := s.do(t, http.MethodPost, responses, jwt(), strings.Replace(move, "u-1", "u-2", 1)); got != accepted {
		t.Errorf("after the reset: got %s, want %s", got, accepted)
	}
}

func TestEmptyModuleListKnowsNone(t *testing.T) {
	s := open(t, sandbox.Config{})
	s.put(t, `{"modules":[]}`)
	if resp, _ := s.do(t, http.MethodPost, responses, jwt(), move); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d, want 400", resp.StatusCode)
	}
}

func TestLatencyIsWaitedForAndActsWithoutItsClient(t *testing.T) {
	s := open(t, sandbox.Config{})
	s.put(t, `{"latency":"30ms","jitter":"1ms"}`)
	start := time.Now()
	s.do(t, http.MethodPost, responses, jwt(), move)
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("got an answer after %s, want 30ms at least", took)
	}

	s.put(t, `{"latency":"5m"}`)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { leave() },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+responses, strings.NewReader(move))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", jwt())
	req.Header.Set("Content-Type", "application/json")
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Fatalf("got status %d, want a client that gave up", resp.StatusCode)
	}
	_, err = s.Await(t.Context(), sandbox.Certainly, "u-1", func(c sandbox.Conversation) bool { return c.Resumed == 2 })
	if err != nil {
		t.Errorf("the call of a client that left: %v, want it to act", err)
	}
}

func TestSwitchesAreChecked(t *testing.T) {
	s := open(t, sandbox.Config{})
	for _, tc := range []struct {
		name, body string
		status     int
		code       string
	}{
		{"unknown field", `{"latencies":"1s"}`, 400, "body_unreadable"},
		{"unknown field of a fault", `{"faults":[{"awnser":"hang"}]}`, 400, "body_unreadable"},
		{"no duration", `{"latency":"soon"}`, 400, "body_unreadable"},
		{"something after", `{} {}`, 400, "body_unreadable"},
		{"too slow", `{"latency":"6m"}`, 422, "latency_out_of_range"},
		{"negative jitter", `{"jitter":"-1s"}`, 422, "latency_out_of_range"},
		{"unknown answer", `{"faults":[{"answer":"nope"}]}`, 422, "fault_unknown"},
		{"neither answer nor status", `{"faults":[{}]}`, 422, "fault_unclear"},
		{"both answer and status", `{"faults":[{"answer":"hang","status":500}]}`, 422, "fault_unclear"},
		{"named answer with body", `{"faults":[{"answer":"hang","body":"x"}]}`, 422, "fault_unclear"},
		{"status out of range", `{"faults":[{"status":99}]}`, 422, "fault_out_of_range"},
		{"negative times", `{"faults":[{"answer":"hang","times":-1}]}`, 422, "fault_out_of_range"},
		{"count given", `{"faults":[{"answer":"hang","met":1}]}`, 422, "fault_met_is_read_only"},
		{"too many faults", `{"faults":[` + strings.Repeat(`{"answer":"hang"},`, 100) + `{"answer":"hang"}]}`, 422, "too_many_faults"},
		{"too many modules", `{"modules":[` + strings.Repeat(`1,`, 10_000) + `1]}`, 422, "too_many_names"},
		{"too large", `{"token":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "body_too_large"},
	} {
		resp, body := s.do(t, http.MethodPut, "/sandbox/certainly", "", tc.body)
		if resp.StatusCode != tc.status || !strings.Contains(body, `"`+tc.code+`"`) {
			t.Errorf("%s: got %d %s, want %d %s", tc.name, resp.StatusCode, body, tc.status, tc.code)
		}
		if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s: got content type %q, want application/problem+json", tc.name, got)
		}
	}
}

func TestEveryNamedFaultIsTaken(t *testing.T) {
	s := sandbox.New(sandbox.Config{})
	for _, name := range sandbox.FaultNames() {
		if err := s.SwitchCertainly(sandbox.Switches{Faults: []sandbox.Fault{{Answer: name}}}); err != nil {
			t.Errorf("fault %s: got %v, want it taken", name, err)
		}
	}
}
