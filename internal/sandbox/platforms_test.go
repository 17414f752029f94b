package sandbox_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	official "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"relay.example/relay/internal/sandbox"
)

const (
	botToken   = "a-token-of-the-bot"
	hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// five is a sandbox whose platforms all take botToken.
func five(t *testing.T) (*sandbox.Sandbox, string) {
	t.Helper()
	box := sandbox.New(sandbox.Config{CertainlyToken: botToken, HaptikToken: botToken, UserengageToken: botToken, WebhookSecret: hookSecret})
	server := httptest.NewServer(box)
	t.Cleanup(server.Close)
	return box, server.URL
}

// send makes a call and returns its answer. Headers are "Name: value".
func send(t *testing.T, method, url, body string, headers ...string) (status int, answer string, header http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw), resp.Header
}

// TestContractFaults holds what the platforms can be told to answer against
// the tables of the contract, which the classifiers are held against too
// (internal/deliver, TestConformance): the two cannot drift apart unnoticed.
func TestContractFaults(t *testing.T) {
	for _, tt := range []struct {
		platform, fault string
		status          int
		body            string
	}{
		{"certainly", "credentials", 400, `{"message":null,"error":[{"location":"Backend","msg":"Invalid Authentication credentials"}]}`},
		{"certainly", "unknown_user", 400, `{"message":null,"error":"Bot user with this id does not exist"}`},
		{"certainly", "unknown_module", 400, `{"message":null,"error":"module_id not found for the given bot"}`},
		{"certainly", "null_message", 200, `{"error":[],"message":null}`},
		{"certainly", "rate_limited", 429, ``},
		{"haptik", "credentials", 401, `{"error_message":"invalid authorization details"}`},
		{"haptik", "unknown_user", 403, `{"error_message":"user is not registered"}`},
		{"haptik", "bad_request", 400, ``},
		{"haptik", "not_found", 404, ``},
		{"haptik", "rate_limited", 429, ``},
		{"haptik", "server_error", 500, ``},
		{"smartify", "credentials", 401, `Unauthorized`},
		{"smartify", "wrong_password", 401, `{"success":false,"msg":"Authentication failed. Wrong password."}`},
		{"smartify", "user_not_found", 401, `{"success":false,"msg":"Authentication failed. User not found."}`},
		{"smartify", "ip_filter", 401, `{"err":"error project ip filter"}`},
		{"smartify", "ip_deny_filter", 401, `{"err":"error project deny ip filter"}`},
		{"smartify", "banned", 401, `{"err":"error projectBanUserFilter by id"}`},
		{"smartify", "other_project", 403, `{"success":false,"msg":"you dont belong to the project."}`},
		{"smartify", "required_role", 403, `{"success":false,"msg":"you dont have the required role."}`},
		{"smartify", "unknown_user", 403, `{"success":false,"msg":"Unauthorized. Project_user not found with user id  : X"}`},
		{"smartify", "quota", 403, `{"success":false,"message":"Requests quota exceeded"}`},
		{"smartify", "not_in_conversation", 403, `{"success":false,"message":"Error creating message","err":"You don't belong the conversation"}`},
		{"smartify", "project_not_found", 400, `{"error":"Project not found with id: X"}`},
		{"smartify", "invalid_project", 400, `{"error":"Invalid project id: X"}`},
		{"smartify", "too_large", 413, `{"err":"Request entity too large","limit":512000}`},
		{"smartify", "text_required", 422, `{"errors":["text field is required"]}`},
		{"smartify", "invalid_field", 422, `{"errors":[{"msg":"Invalid value","param":"id_project","location":"body"}]}`},
		{"smartify", "server_error", 500, `{"err":"error"}`},
		{"smartify", "not_saved", 500, `{"success":false,"msg":"Error saving object."}`},
		{"smartify", "request_not_created", 500, `{"success":false,"msg":"Error creating request","err":{}}`},
		{"smartify", "object_not_found", 404, `{"success":false,"msg":"Object not found."}`},
		{"smartify", "object_unreadable", 500, `{"success":false,"msg":"Error getting object."}`},
		{"smartify", "rate_limited", 429, `{"message":"Rate limit exceeded"}`},
		{"userengage", "credentials", 401, ``},
		{"userengage", "forbidden", 403, ``},
		{"userengage", "bad_request", 400, `{"errors":{}}`},
		{"userengage", "not_found", 404, ``},
		{"userengage", "unprocessable", 422, ``},
		{"userengage", "rate_limited", 429, ``},
		{"userengage", "server_error", 500, ``},
		{"webhook", "gone", 410, ``},
		{"webhook", "request_timeout", 408, ``},
		{"webhook", "too_early", 425, ``},
	} {
		t.Run(tt.platform+" "+tt.fault, func(t *testing.T) {
			box, url := five(t)
			if err := box.Switch(tt.platform, sandbox.Switches{Faults: []sandbox.Fault{{Answer: tt.fault}}}); err != nil {
				t.Fatal(err)
			}
			path := map[string]string{
				"certainly": "/certainly/actionsvc/trigger-message/", "haptik": "/haptik/v1.0/log_message_from_user/",
				"smartify": "/smartify/p1/requests/c1/messages", "userengage": "/userengage/api/public/message/", "webhook": "/webhook/bot",
			}[tt.platform]
			status, body, _ := send(t, "POST", url+path, `{}`)
			if status != tt.status || body != tt.body {
				t.Errorf("got %d %s, want %d %s", status, body, tt.status, tt.body)
			}
		})
	}
}

func TestHaptik(t *testing.T) {
	box, url := five(t)
	say, register := url+"/haptik/v1.0/log_message_from_user/", url+"/haptik/v1.0/user/"
	bearer, client := "Authorization: Bearer "+botToken, "client-id: c1"
	const message = `{"user":{"auth_id":"u-1"},"message_body":"Paid","message_type":0,"business_id":343}`
	steps := []struct {
		name, url, body string
		headers         []string
		status          int
		answer          string
	}{
		{"no token", say, message, []string{client}, 401, `{"error_message":"invalid authorization details"}`},
		{"no client-id", say, message, []string{bearer}, 401, `{"error_message":"invalid authorization details"}`},
		{"not registered", say, message, []string{bearer, client}, 403, `{"error_message":"user is not registered"}`},
		{"registered without an auth_id", register, `{}`, []string{bearer, client}, 400, ``},
		{"registered", register, `{"auth_id":"u-1"}`, []string{bearer, client}, 200, `{"auth_id":"u-1"}`},
		{"registered again", register, `{"auth_id":"u-1"}`, []string{bearer, client}, 200, `{"auth_id":"u-1"}`},
		{"without a business_id", say, `{"user":{"auth_id":"u-1"},"message_body":"Paid","message_type":0}`, []string{bearer, client}, 400, ``},
		{"business_id as a text", say, `{"user":{"auth_id":"u-1"},"message_body":"Paid","message_type":0,"business_id":"343"}`, []string{bearer, client}, 400, ``},
		{"said", say, message, []string{bearer, client}, 200, `"message_body":"Paid"`},
	}
	for _, step := range steps {
		status, answer, _ := send(t, "POST", step.url, step.body, step.headers...)
		if status != step.status || !strings.Contains(answer, step.answer) {
			t.Errorf("%s: got %d %s, want %d %s", step.name, status, answer, step.status, step.answer)
		}
	}
	if c, _ := box.Conversation(sandbox.Haptik, "u-1"); c.Resumed != 1 {
		t.Errorf("the conversation was resumed %d times, want 1", c.Resumed)
	}
	box.Pause(sandbox.Haptik, "u-2", "Please pay", "")
	if status, answer, _ := send(t, "POST", say, strings.Replace(message, "u-1", "u-2", 1), bearer, client); status != 200 {
		t.Errorf("whom its bot has spoken with: got %d %s, want 200", status, answer)
	}
}

// signIn opens a session of a guest.
func signIn(t *testing.T, url, project string) string {
	t.Helper()
	status, body, _ := send(t, "POST", url+"/smartify/auth/signinAnonymously", `{"id_project":"`+project+`"}`)
	var answer struct {
		Success bool   `json:"success"`
		Token   string `json:"token"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 || !answer.Success || !strings.HasPrefix(answer.Token, "JWT ") {
		t.Fatalf("signing in: got %d %s, want a token that begins with JWT", status, body)
	}
	return "Authorization: " + answer.Token
}

func TestSmartify(t *testing.T) {
	box, url := five(t)
	at := func(project, conversation string) string {
		return url + "/smartify/" + project + "/requests/" + conversation + "/messages"
	}
	const other = "aaaaaaaaaaaaaaaaaaaaaaaa"
	mine, others := signIn(t, url, sandbox.SmartifyProject), signIn(t, url, other) // trap 3
	there := at(sandbox.SmartifyProject, "c-1")
	box.Pause(sandbox.Smartify, "c-1", "Please pay", "")
	large := `{"text":"` + strings.Repeat("x", 512_000) + `"}`
	steps := []struct {
		name, method, url, body string
		headers                 []string
		status                  int
		answer                  string
	}{
		{"no token", "GET", there, "", nil, 401, "Unauthorized"},
		{"Bearer", "GET", there, "", []string{strings.Replace(mine, "JWT", "Bearer", 1)}, 401, "Unauthorized"},
		{"another scheme's case", "GET", there, "", []string{strings.Replace(mine, "JWT", "jwt", 1)}, 200, "Please pay"},
		{"wrong Basic", "GET", there, "", []string{"Authorization: Basic eDp5"}, 401, "Unauthorized"},
		{"token of another project", "GET", there, "", []string{others}, 403, `{"success":false,"msg":"you dont belong to the project."}`},
		{"a project that is not there", "POST", at(other, "c-1"), `{"text":"x"}`, []string{others}, 400, `{"error":"Project not found with id: ` + other + `"}`},
		{"a project that cannot be", "GET", at("p1", "c-1"), "", []string{mine}, 400, `{"error":"Invalid project id: p1"}`},
		{"id_project missing", "POST", url + "/smartify/auth/signinAnonymously", `{}`, nil, 422, `"param":"id_project"`},
		{"id_project that is none", "POST", url + "/smartify/auth/signinAnonymously", `{"id_project":"p1"}`, nil, 500, `Error saving object.`},
		{"wrong password", "POST", url + "/smartify/auth/signin", `{"email":"agent@sandbox.example","password":"x"}`, nil, 401, `Wrong password.`},
		{"unknown user", "POST", url + "/smartify/auth/signin", `{"email":"x","password":"x"}`, nil, 401, `User not found.`},
		{"unknown conversation", "GET", at(sandbox.SmartifyProject, "c-9"), "", []string{mine}, 200, `[]`},
		{"empty text, new conversation", "POST", at(sandbox.SmartifyProject, "c-9"), `{"text":""}`, []string{mine}, 422, `{"errors":["text field is required"]}`},
		{"trap 1", "POST", at(sandbox.SmartifyProject, "c-9"), `{"text":"hello"}`, []string{mine}, 200, `"status":100`},
		{"trap 4: an empty text is taken", "POST", there, `{"text":""}`, []string{mine}, 200, `"text":""`},
		{"trap 4: another content type loses the body", "POST", there, `{"text":"x"}`, []string{mine, "Content-Type: text/plain"}, 200, `"text":""`},
		{"malformed JSON", "POST", there, `{`, []string{mine}, 500, `{"err":"error"}`},
		{"too large", "POST", there, large, []string{mine}, 413, `{"err":"Request entity too large","limit":512000}`},
		{"said", "POST", there, `{"text":"Paid","attributes":{"id":"d-1"}}`, []string{mine}, 200, `"status":200`},
		{"trap 6: read back", "GET", there, "", []string{mine}, 200, `{"id":"d-1"}`},
	}
	for _, step := range steps {
		status, answer, _ := send(t, step.method, step.url, step.body, step.headers...)
		if status != step.status || !strings.Contains(answer, step.answer) {
			t.Errorf("%s: got %d %.200s, want %d %s", step.name, status, answer, step.status, step.answer)
		}
	}
	if c, _ := box.Conversation(sandbox.Smartify, "c-1"); c.Waiting || c.Resumed != 1 {
		t.Errorf("got waiting %t, resumed %d, want it resumed once", c.Waiting, c.Resumed)
	}
	if got := box.Counts().SignIns; got != 2 {
		t.Errorf("%d sign-ins, want 2", got)
	}
	if _, _, h := send(t, "GET", there, ""); h.Get("WWW-Authenticate") != `Basic realm="Users"` {
		t.Errorf("a 401 has the header %q", h.Get("WWW-Authenticate"))
	}
	// Trap 2, and the end of a session.
	if err := box.Switch(sandbox.Smartify, sandbox.Switches{Closed: []string{"c-1"}}); err != nil {
		t.Fatal(err)
	}
	if status, answer, _ := send(t, "POST", there, `{"text":"Paid"}`, mine); status != 200 || !strings.Contains(answer, `"status":1000`) {
		t.Errorf("a closed conversation: got %d %s, want 200 and the status 1000", status, answer)
	}
	if err := box.Switch(sandbox.Smartify, sandbox.Switches{Token: "another server secret"}); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := send(t, "GET", there, "", mine); status != 401 {
		t.Errorf("after the server's secret has changed: got %d, want 401", status)
	}
}

func TestUserengage(t *testing.T) {
	box, url := five(t)
	say, token := url+"/userengage/api/public/message/", "Authorization: Token "+botToken
	for _, step := range []struct {
		name, url, body, token string
		status                 int
	}{
		{"no key", say, `{}`, "Authorization: Token x", 401},
		{"without the slash", strings.TrimSuffix(say, "/"), `{}`, token, 404},
		{"source as a text", say, `{"conversation":7,"content":"x","user":1,"source":"3"}`, token, 400},
		{"no user", say, `{"conversation":7,"content":"x","source":3}`, token, 400},
		{"a conversation that is no number", say, `{"conversation":"u-7","content":"x","user":1,"source":3}`, token, 400},
		{"a broken one", say, `{"conversation":7.5,"content":"x","user":1,"source":3}`, token, 400},
		{"said", say, `{"conversation":7,"content":"<b>Paid</b>","user":1,"source":3}`, token, 201},
		{"said by a text", say, `{"conversation":"7","content":"again","user":1,"source":3}`, token, 201},
	} {
		if status, body, _ := send(t, "POST", step.url, step.body, step.token); status != step.status {
			t.Errorf("%s: got %d %s, want %d", step.name, status, body, step.status)
		}
	}
	if c, _ := box.Conversation(sandbox.Userengage, "7"); box.Counts().Texts != 2 || c.Resumed != 0 {
		t.Errorf("got %d texts, %d resumed: want 2 that drive no bot", box.Counts().Texts, c.Resumed)
	}
}

func TestWebhook(t *testing.T) {
	box, url := five(t)
	signer, err := official.NewWebhook(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"outcome":"completed","correlation":{"user_id":"u-1"}}`
	call := func(id string, at time.Time, body string) int {
		signature, err := signer.Sign(id, at, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		status, _, _ := send(t, "POST", url+"/webhook/bot", body,
			"webhook-id: "+id, "webhook-timestamp: "+strconv.FormatInt(at.Unix(), 10), "webhook-signature: "+signature)
		return status
	}
	for _, tt := range []struct {
		name, id, body string
		age            time.Duration
		want           int
	}{
		{"signed", "m-1", body, 0, 204},
		{"again", "m-1", body, 0, 204},
		{"too old", "m-2", body, 6 * time.Minute, 401},
		{"no object", "m-3", `[]`, 0, 400},
		{"nobody's", "m-4", `{"outcome":"completed"}`, 0, 204},
		{"by another name", "m-5", `{"user_id":"u-2"}`, 0, 204},
	} {
		if got := call(tt.id, time.Now().Add(-tt.age), tt.body); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
	if status, _, _ := send(t, "POST", url+"/webhook/bot", body); status != 401 {
		t.Errorf("unsigned: got %d, want 401", status)
	}
	for user, want := range map[string]int{"u-1": 1, "bot": 1, "u-2": 1} {
		if c, _ := box.Conversation(sandbox.Webhook, user); c.Resumed != want {
			t.Errorf("%s: resumed %d times, want %d", user, c.Resumed, want)
		}
	}
}

// TestChatPages pauses and resumes a conversation of each platform, and looks
// at its page.
func TestChatPages(t *testing.T) {
	_, url := five(t)
	guest := signIn(t, url, sandbox.SmartifyProject)
	calls := map[string]func() int{
		"certainly": func() int {
			s, _, _ := send(t, "POST", url+"/certainly/actionsvc/trigger-response/",
				`{"user_id":"u-1","module_id":7,"wait_time":0,"custom_vars":{},"is_async":true}`, "Authorization: JWT "+botToken)
			return s
		},
		"haptik": func() int {
			s, _, _ := send(t, "POST", url+"/haptik/v1.0/log_message_from_user/",
				`{"user":{"auth_id":"u-1"},"message_body":"Paid","message_type":0,"business_id":1}`, "Authorization: Bearer "+botToken, "client-id: c")
			return s
		},
		"smartify": func() int {
			s, _, _ := send(t, "POST", url+"/smartify/"+sandbox.SmartifyProject+"/requests/u-1/messages", `{"text":"Paid"}`, guest)
			return s
		},
	}
	for _, platform := range []string{"certainly", "haptik", "smartify"} {
		t.Run(platform, func(t *testing.T) {
			status, body, _ := send(t, "POST", url+"/sandbox/conversations/u-1/pause?platform="+platform, `{"text":"Please pay","link":"https://pay.example/x"}`)
			if status != 200 {
				t.Fatalf("pausing: got %d %s", status, body)
			}
			page := url + "/sandbox/chat/u-1?platform=" + platform
			if _, html, _ := send(t, "GET", page, ""); !strings.Contains(html, "The conversation is paused") || !strings.Contains(html, "https://pay.example/x") {
				t.Errorf("the page of a conversation that waits does not say so:\n%s", html)
			}
			if got := calls[platform](); got != 200 {
				t.Fatalf("resuming: got %d", got)
			}
			if _, html, _ := send(t, "GET", page, ""); !strings.Contains(html, "Resumed") || strings.Contains(html, "is paused") {
				t.Errorf("the page of a resumed conversation does not say so:\n%s", html)
			}
		})
	}
	if status, _, _ := send(t, "POST", url+"/sandbox/conversations/u-1/pause?platform=nobody", `{"text":"x"}`); status != 404 {
		t.Errorf("a platform that is not here: got %d, want 404", status)
	}
}
