package platform_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

func lookup(t *testing.T, name string) *platform.Platform {
	t.Helper()
	p, ok := platform.Lookup(name)
	if !ok {
		t.Fatalf("Lookup(%q): got none", name)
	}
	return p
}

// build returns the request of a platform that needs one call.
func build(t *testing.T, name string, account platform.Account, call platform.Call) (platform.Request, error) {
	t.Helper()
	step, err := lookup(t, name).Begin(account, call)
	if err == nil && (!step.Acts || step.Ended() || step.Opens || step.Name != "") {
		t.Errorf("Begin: got %+v, want the one call that acts", step)
	}
	return step.Request, err
}

// meaning returns what an answer to the one call of a platform means.
func meaning(t *testing.T, name string, r platform.Response, now time.Time) platform.Answer {
	t.Helper()
	step := lookup(t, name).Next(&platform.Step{Acts: true}, r, now)
	if !step.Ended() {
		t.Errorf("Next: got %+v, want the end", step)
	}
	return step.Answer
}

func TestRegistry(t *testing.T) {
	if _, ok := platform.Lookup("nobody"); ok {
		t.Error("Lookup of an unknown name: got a platform, want none")
	}
	for _, name := range platform.Names() {
		t.Run(name, func(t *testing.T) {
			p := lookup(t, name)
			if p.Name != name {
				t.Errorf("got name %q, want %q", p.Name, name)
			}
			own := relay.Action{Action: p.TextAction, Text: "hello"}
			if p.TextAction == relay.CallWebhook {
				own = relay.Action{Action: p.TextAction, Body: "hello"}
			}
			if err := p.CheckAction(own); err != nil {
				t.Errorf("its own text action: %v", err)
			}
			if err := p.CheckAction(relay.Action{Action: relay.NoAction}); err != nil {
				t.Errorf("none: %v", err)
			}
		})
	}
}

func TestDefaultAction(t *testing.T) {
	p := lookup(t, "certainly")
	tests := []struct {
		name   string
		action relay.Action
		want   string
	}{
		{"named", relay.Action{Action: relay.NoAction, ModuleID: 1}, relay.NoAction},
		{"module", relay.Action{ModuleID: 1, Text: "x"}, relay.TriggerResponse},
		{"text", relay.Action{Text: "x"}, relay.TriggerMessage},
		{"nothing", relay.Action{}, relay.TriggerMessage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := p.DefaultAction(tt.action); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name, header string
		want         time.Duration
	}{
		{"none", "", 0},
		{"seconds", "120", 2 * time.Minute},
		{"many seconds", "86400", platform.MaxRetryAfter},
		{"seconds beyond an int", strings.Repeat("9", 40), platform.MaxRetryAfter},
		{"negative", "-5", 0},
		{"date", "Thu, 05 Nov 2026 12:01:30 GMT", 90 * time.Second},
		{"date in the past", "Thu, 05 Nov 2026 11:00:00 GMT", 0},
		{"date far away", "Fri, 06 Nov 2026 12:00:00 GMT", platform.MaxRetryAfter},
		{"seconds in spaces", " 7 ", 7 * time.Second},
		{"a fraction", "1.5", 0},
		{"an old form of date", "Thursday, 05-Nov-26 12:01:30 GMT", 90 * time.Second},
		{"a date without a zone", "2026-11-05T12:01:30", 0},
		{"nonsense", "soon", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := platform.Response{Status: 429, Header: http.Header{"Retry-After": {tt.header}}}
			got := meaning(t, "certainly", r, now)
			want := platform.Answer{Class: relay.Retry, Reason: platform.TooMany, RetryAfter: tt.want}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Classify (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRetryAfterCountsOnlyForRetries(t *testing.T) {
	r := platform.Response{Status: 404, Header: http.Header{"Retry-After": {"60"}}}
	if got := meaning(t, "certainly", r, time.Now()).RetryAfter; got != 0 {
		t.Errorf("got %s, want none for an answer that is final", got)
	}
}

func wantRefusal(t *testing.T, err error, code string) {
	t.Helper()
	var refusal *relay.Error
	if !errors.As(err, &refusal) {
		t.Fatalf("got error %v, want a *relay.Error", err)
	}
	if refusal.Kind != relay.Invalid || refusal.Code != code {
		t.Errorf("got kind %d, code %q (%s), want Invalid and %q", refusal.Kind, refusal.Code, refusal.Detail, code)
	}
}
