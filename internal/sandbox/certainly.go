package sandbox

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
)

// Certainly is the name of the platform whose stand-in lives under /certainly:
// a destination's base URL ends in that.
//
// What its contract leaves open, the stand-in decides against the caller: a
// module_id that is a string names no module, a user_id that is no string or
// a body that is not declared as JSON counts as invalid JSON, and a call that
// is not asynchronous changes nothing at all, its variables included.
const Certainly = "certainly"

// defaultWaitTime is what a call without wait_time asks for, in seconds.
const defaultWaitTime = 3.0

// The refusals of Certainly. All are status 400.
const (
	needValidJSON     = "Need a valid json containing user_id and module_id"
	userMandatory     = "user_id is mandatory"
	moduleMandatory   = "module_id is mandatory"
	textMandatory     = "text_message is mandatory" // not documented; modelled on its neighbours
	noSuchUser        = "Bot user with this id does not exist"
	noSuchModule      = "module_id not found for the given bot"
	badCredentials    = `{"message":null,"error":[{"location":"Backend","msg":"Invalid Authentication credentials"}]}` //nolint:gosec // a refusal, not a credential
	certainlyAccepted = `{"error":[],"message":"1"}`
)

// certainlyAnswer returns Certainly's own faults. What a full or a broken
// server says is not documented: a bare 429, and the page that its framework
// shows.
func certainlyAnswer(name string) (answer, bool) {
	switch name {
	case "credentials":
		return jsonAnswer(http.StatusBadRequest, badCredentials), true
	case "unknown_user":
		return certainlyRefusal(noSuchUser), true
	case "unknown_module":
		return certainlyRefusal(noSuchModule), true
	case "null_message":
		return jsonAnswer(http.StatusOK, `{"error":[],"message":null}`), true
	case "error_array":
		return jsonAnswer(http.StatusOK, `{"error":[{"location":"Backend","msg":"Something went wrong"}],"message":"1"}`), true
	case "rate_limited":
		return answer{status: http.StatusTooManyRequests}, true
	case "server_error":
		return answer{
			status: http.StatusInternalServerError,
			header: map[string]string{"Content-Type": "text/html; charset=utf-8"},
			body:   []byte("<h1>Server Error (500)</h1>"),
		}, true
	default:
		return answer{}, false
	}
}

func certainlyRefusal(text string) answer {
	return jsonAnswer(http.StatusBadRequest, `{"message":null,"error":`+quote(text)+`}`)
}

func refuse(text string) reply {
	return reply{message: Message{From: FromRelay, Kind: KindRefused, Text: text}, answer: certainlyRefusal(text)}
}

func refuseCredentials() reply {
	return reply{
		message: Message{From: FromRelay, Kind: KindRefused, Text: "Invalid Authentication credentials"},
		answer:  jsonAnswer(http.StatusBadRequest, badCredentials),
	}
}

// proves reports whether the Authorization header is exactly the one wanted.
// Where no token is set, nothing proves anything.
func (b *switchboard) proves(c *call, want string) bool {
	got := c.header.Get("Authorization")
	return b.token != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1
}

// triggerResponse moves a conversation to a module and sets variables.
func triggerResponse(b *switchboard, c *call) reply {
	if !b.proves(c, "JWT "+b.token) {
		return refuseCredentials()
	}
	if refusal := c.checkUser(); refusal != "" {
		return refuse(refusal)
	}
	m, refusal := c.readTrigger()
	switch {
	case refusal != "":
		return refuse(refusal)
	case !b.knowsUser(c.userID):
		return refuse(noSuchUser)
	case m.ModuleID != nil && !b.knowsModule(*m.ModuleID):
		return refuse(noSuchModule)
	case string(c.fields["is_async"]) != "true":
		m.Kind, m.Text = KindNotMoved, "is_async was not true"
	case m.ModuleID == nil:
		m.Kind = KindVariables
	default:
		m.Kind = KindResume
	}
	return reply{message: m, answer: jsonAnswer(http.StatusOK, certainlyAccepted)}
}

// triggerMessage makes the bot say something. It moves nothing.
func triggerMessage(b *switchboard, c *call) reply {
	const scheme = "user:bearer " // the user name is literally user; one space
	if !b.proves(c, "Basic "+base64.StdEncoding.EncodeToString([]byte(scheme+b.token))) {
		return refuseCredentials()
	}
	if refusal := c.checkUser(); refusal != "" {
		return refuse(refusal)
	}
	text, ok := c.text("text_message")
	switch {
	case c.has("text_message") && !ok:
		return refuse(needValidJSON)
	case text == "":
		return refuse(textMandatory)
	case !b.knowsUser(c.userID):
		return refuse(noSuchUser)
	}
	return reply{
		message: Message{From: FromBot, Kind: KindText, Text: text},
		answer:  jsonAnswer(http.StatusOK, certainlyAccepted),
	}
}

// checkUser returns why the call cannot be read or names no user, or "".
func (c *call) checkUser() string {
	mediaType, _, _ := mime.ParseMediaType(c.header.Get("Content-Type"))
	_, isText := c.text("user_id")
	switch {
	case c.fields == nil || mediaType != "application/json":
		return needValidJSON
	case c.has("user_id") && !isText:
		return needValidJSON
	case c.userID == "":
		return userMandatory
	default:
		return ""
	}
}

// readTrigger reads the other fields of trigger-response.
func (c *call) readTrigger() (m Message, refusal string) {
	m = Message{From: FromRelay}
	if _, given := c.fields["module_id"]; !given {
		return m, moduleMandatory
	}
	if c.has("module_id") {
		m.ModuleID = new(int64)
		if json.Unmarshal(c.fields["module_id"], m.ModuleID) != nil {
			return m, noSuchModule
		}
	}
	wait := defaultWaitTime
	if c.has("wait_time") && (json.Unmarshal(c.fields["wait_time"], &wait) != nil || wait < 0) {
		return m, needValidJSON
	}
	m.WaitTime = &wait
	if c.has("custom_vars") && json.Unmarshal(c.fields["custom_vars"], &m.CustomVars) != nil {
		return m, needValidJSON
	}
	return m, ""
}

func (b *switchboard) knowsUser(id string) bool { return len(id) <= maxUserID && !b.unknownUsers[id] }

func (b *switchboard) knowsModule(id int64) bool { return b.modules == nil || b.modules[id] }
