package platform_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

// admin may subscribe.
var admin = platform.Account{Settings: map[string]string{"project_id": "65c5f3", "username": "a@b.example", "password": "hush-hush"}}

const (
	ourKey    = "7GJ3Q5YF2LZK4WXM6T8R9VNPBC"
	ourTarget = "https://relay.example/in/default/chat?event=message.create&key=" + ourKey
	oldTarget = "https://old.example/in/default/chat?event=message.create&key=" + ourKey
	listed    = "https://panel.smartifyai.in/api/65c5f3/subscriptions"
)

func entry(id, event, target string) string {
	return fmt.Sprintf(`{"_id":%q,"event":%q,"target":%q,"id_project":"65c5f3"}`, id, event, target)
}

// said is one answer of the platform.
type said struct {
	status int
	body   string
	secret string // in the header
}

// TestSubscribe plays the exchange about a subscription against every answer
// of the contract (contracts/outbound-platforms.md, B).
func TestSubscribe(t *testing.T) {
	t.Parallel()
	ours := entry("s1", "message.create", ourTarget)
	theirs := entry("x1", "message.create", "https://another.example/hook") + "," + entry("x2", "message.create", "https://relay.example/in/default/chat") + "," +
		entry("x3", "message.create", "https://relay.example/in/default/chat?event=message.create&key=another") + "," + entry("x4", "request.close", ourTarget)
	made := `{"_id":"s9","event":"message.create","target":"` + strings.ReplaceAll(ourTarget, "&", `\u0026`) + `","secret":"whispered"}`
	for _, tt := range []struct {
		name    string
		gone    bool
		id      string
		answers []said
		calls   []string // methods, and what is behind the address of the list
		want    string   // class, reason, id, secret
	}{
		{"made", false, "", []said{{200, `[]`, ""}, {200, made, ""}}, list("GET", "POST"), "ok accepted s9 whispered"},
		{"the secret in the header alone", false, "", []said{{200, `[` + theirs + `]`, ""}, {200, entry("s9", "message.create", ourTarget), "told"}}, list("GET", "POST"), "ok accepted s9 told"},
		{"there", false, "s1", []said{{200, `[` + theirs + `,` + ours + `]`, ""}}, list("GET"), "ok confirmed s1 "},
		{"there, and its secret is not known", false, "", []said{{200, `[` + ours + `]`, ""}, {200, ours, ""}, {200, made, ""}}, list("GET", "DELETE /s1", "POST"), "ok accepted s9 whispered"},
		{"a second one", false, "s1", []said{{200, `[` + entry("s2", "message.create", ourTarget) + `,` + ours + `]`, ""}, {200, `null`, ""}}, list("GET", "DELETE /s2"), "ok confirmed s1 "},
		{"at an older address", false, "s1", []said{{200, `[` + entry("s1", "message.create", oldTarget) + `]`, ""}, {200, `{}`, ""}, {200, made, ""}}, list("GET", "DELETE /s1", "POST"), "ok accepted s9 whispered"},
		{"deleted by somebody", false, "s1", []said{{200, `[` + theirs + `]`, ""}, {200, made, ""}}, list("GET", "POST"), "ok accepted s9 whispered"},
		{"answered with another's", false, "", []said{{200, `[]`, ""}, {200, entry("x1", "message.create", "https://another.example/hook"), "told"}}, list("GET", "POST"), "retry another_subscription  "},
		{"no secret", false, "", []said{{200, `[]`, ""}, {200, ours, ""}}, list("GET", "POST"), "retry no_secret  "},
		{"an answer that is none", false, "", []said{{200, `[]`, ""}, {200, `<html>`, ""}}, list("GET", "POST"), "retry not_confirmed  "},
		{"a list that is none", false, "s1", []said{{200, `[{"_id":`, ""}}, list("GET"), "retry not_confirmed  "},
		{"ended", true, "s1", []said{{200, `[` + theirs + `,` + ours + `]`, ""}, {200, ours, ""}}, list("GET", "DELETE /s1"), "ok accepted  "},
		{"ended, and gone meanwhile", true, "s1", []said{{200, `[` + ours + `]`, ""}, {404, `{"success":false,"msg":"Object not found."}`, ""}}, list("GET", "DELETE /s1"), "ok accepted  "},
		{"ended, and not there", true, "", []said{{200, `[` + theirs + `]`, ""}}, list("GET"), "ok accepted  "},
		{"not let in", false, "", []said{{401, `Unauthorized`, ""}}, list("GET"), "credentials bad_credentials  "},
		{"an IP filter", false, "", []said{{401, `{"err":"error project ip filter"}`, ""}}, list("GET"), "permanent refused  "},
		{"a guest, or an agent", false, "", []said{{403, `{"success":false,"msg":"you dont have the required role."}`, ""}}, list("GET"), "credentials bad_credentials  "},
		{"of another project", false, "", []said{{403, `{"success":false,"msg":"you dont belong to the project."}`, ""}}, list("GET"), "credentials bad_credentials  "},
		{"no such project", false, "", []said{{400, `{"error":"Project not found with id: X"}`, ""}}, list("GET"), "permanent bad_request  "},
		{"not saved", false, "", []said{{200, `[]`, ""}, {500, `{"success":false,"msg":"Error saving object."}`, ""}}, list("GET", "POST"), "permanent bad_request  "},
		{"its server fails", false, "", []said{{500, `{"err":"error"}`, ""}}, list("GET"), "retry platform_failed  "},
		{"not deleted", true, "", []said{{200, `[` + ours + `]`, ""}, {500, `{"err":"error"}`, ""}}, list("GET", "DELETE /s1"), "retry platform_failed  "},
		{"too many", false, "", []said{{429, `{"message":"Rate limit exceeded"}`, ""}}, list("GET"), "retry rate_limited  "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			on, _ := platform.Lookup("smartify")
			step, err := on.Subscribe(admin, platform.Subscription{Event: "message.create", Target: ourTarget, Wanted: !tt.gone, ID: tt.id})
			if err != nil {
				t.Fatal(err)
			}
			var calls []string
			for _, answer := range tt.answers {
				if step.Ended() {
					break
				}
				r := step.Request
				path, ours := strings.CutPrefix(r.URL, listed)
				if !ours || r.Header.Get("Authorization") != "Basic YUBiLmV4YW1wbGU6aHVzaC1odXNo" {
					t.Errorf("a call to %s with %q", r.URL, r.Header.Get("Authorization"))
				}
				calls = append(calls, strings.TrimSpace(r.Method+" "+path))
				if r.Method == http.MethodPost && string(r.Body) != `{"event":"message.create","target":"`+ourTarget+`"}` {
					t.Errorf("made with %s", r.Body)
				}
				step = on.Next(&step, platform.Response{Status: answer.status, Body: []byte(answer.body), Header: http.Header{"X-Hook-Secret": {answer.secret}}}, time.Now())
			}
			got := fmt.Sprintf("%s %s %s %s", step.Answer.Class, step.Answer.Reason, step.Subscribed.ID, step.Subscribed.Secret)
			if got != tt.want || !slices.Equal(calls, tt.calls) {
				t.Errorf("got %q after %q, want %q after %q", got, calls, tt.want, tt.calls)
			}
		})
	}
}

func list(items ...string) []string { return items }

// TestNothingIsOursWithoutAKey holds that nobody's subscription is touched
// where there is no key to know ours by.
func TestNothingIsOursWithoutAKey(t *testing.T) {
	t.Parallel()
	on, _ := platform.Lookup("smartify")
	step, err := on.Subscribe(admin, platform.Subscription{Event: "message.create", Target: "https://relay.example/in/default/chat"})
	if err != nil {
		t.Fatal(err)
	}
	body := `[` + entry("x1", "message.create", "https://relay.example/in/default/chat") + `]`
	step = on.Next(&step, platform.Response{Status: http.StatusOK, Body: []byte(body)}, time.Now())
	if step.Answer.Class != relay.OK {
		t.Errorf("got %+v, want an end without a call", step)
	}
}
