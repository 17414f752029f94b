package sandbox

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Smartify is the name of the platform, Tiledesk's server, whose stand-in
// lives under /smartify. Its traps are here as they were seen on a running
// server: a conversation id that nobody knows opens a new conversation, a
// closed one takes messages with 200, a sign-in to a project that does not
// exist succeeds, and each sign-in makes a new user.
//
// The token of its switches is the server's secret: another one ends every
// session that was opened before.
const Smartify = "smartify"

// SmartifyAccount is the one project of the stand-in, and who may enter it by
// Basic. Zero fields have defaults.
type SmartifyAccount struct {
	ProjectID string
	Username  string
	Password  string

	HookPauses []time.Duration // before a hook is sent again; nil: as the server's
}

// The defaults of a SmartifyAccount, which is no secret to be kept.
const (
	SmartifyProject      = "65c5f3599faf2d04cd7da528"
	SmartifyUsername     = "agent@sandbox.example"
	SmartifyPassword     = "sandbox-token"
	smartifyServerSecret = "the secret of the sandbox's server"
	smartifyMaxBody      = 512_000
	smartifyReads        = 600 << 10 // it has words of its own for a larger one
)

func (a SmartifyAccount) withDefaults() SmartifyAccount {
	a.ProjectID = orElse(a.ProjectID, SmartifyProject)
	a.Username = orElse(a.Username, SmartifyUsername)
	a.Password = orElse(a.Password, SmartifyPassword)
	return a
}

// smartifyFaults are the rows of the contract that a working server without
// its options would not come to by itself, and those that it would.
var smartifyFaults = []fault{
	{"credentials", smartifyUnauthorized()},
	{"wrong_password", jsonAnswer(401, `{"success":false,"msg":"Authentication failed. Wrong password."}`)},
	{"user_not_found", jsonAnswer(401, `{"success":false,"msg":"Authentication failed. User not found."}`)},
	{"ip_filter", jsonAnswer(401, `{"err":"error project ip filter"}`)},
	{"ip_deny_filter", jsonAnswer(401, `{"err":"error project deny ip filter"}`)},
	{"banned", jsonAnswer(401, `{"err":"error projectBanUserFilter by id"}`)},
	{"other_project", jsonAnswer(403, `{"success":false,"msg":"you dont belong to the project."}`)},
	{"required_role", jsonAnswer(403, `{"success":false,"msg":"you dont have the required role."}`)},
	{"unknown_user", jsonAnswer(403, `{"success":false,"msg":"Unauthorized. Project_user not found with user id  : X"}`)},
	{"quota", jsonAnswer(403, `{"success":false,"message":"Requests quota exceeded"}`)},
	{"not_in_conversation", jsonAnswer(403, `{"success":false,"message":"Error creating message","err":"You don't belong the conversation"}`)},
	{"project_not_found", jsonAnswer(400, `{"error":"Project not found with id: X"}`)},
	{"invalid_project", jsonAnswer(400, `{"error":"Invalid project id: X"}`)},
	{"too_large", jsonAnswer(413, `{"err":"Request entity too large","limit":512000}`)},
	{"text_required", jsonAnswer(422, `{"errors":["text field is required"]}`)},
	{"invalid_field", jsonAnswer(422, `{"errors":[{"msg":"Invalid value","param":"id_project","location":"body"}]}`)},
	{"server_error", jsonAnswer(500, `{"err":"error"}`)},
	{"not_saved", jsonAnswer(500, `{"success":false,"msg":"Error saving object."}`)},
	{"request_not_created", jsonAnswer(500, `{"success":false,"msg":"Error creating request","err":{}}`)},
	{"object_not_found", jsonAnswer(404, `{"success":false,"msg":"Object not found."}`)},
	{"object_unreadable", jsonAnswer(500, `{"success":false,"msg":"Error getting object."}`)},
	{"rate_limited", jsonAnswer(429, `{"message":"Rate limit exceeded"}`)},
}

func smartifyUnauthorized() answer {
	return answer{
		status: http.StatusUnauthorized, body: []byte("Unauthorized"),
		header: map[string]string{"Content-Type": "text/plain; charset=utf-8", "WWW-Authenticate": `Basic realm="Users"`},
	}
}

func smartifyConversation(c *call) string { return c.value("conversation") }

var objectID = regexp.MustCompile(`^[0-9a-f]{24}$`)

// smartifySignIn opens a session for a guest of a project, whether there is
// such a project or not.
func (s *Sandbox) smartifySignIn(b *switchboard, c *call) reply {
	project, isText := c.text("id_project")
	switch {
	case c.unreadable():
		return *refused("malformed JSON", jsonAnswer(500, `{"err":"error"}`))
	case !isText || project == "":
		return *refused("no id_project", jsonAnswer(422, `{"errors":[{"msg":"Invalid value","param":"id_project","location":"body"}]}`))
	case !objectID.MatchString(project):
		return *refused("id_project is no id", jsonAnswer(500, `{"success":false,"msg":"Error saving object."}`))
	}
	s.counters.signIns.Add(1)
	guest := newObjectID()
	body := written(map[string]any{
		"success": true, "token": guestToken(b.token, project, guest),
		"user": map[string]string{"_id": guest, "id": guest, "firstname": "Guest", "fullName": "Guest "},
	})
	return reply{answer: jsonAnswer(http.StatusOK, body)}
}

// smartifyPasswordSignIn knows one user.
func (s *Sandbox) smartifyPasswordSignIn(b *switchboard, c *call) reply {
	email, _ := c.text("email")
	password, _ := c.text("password")
	switch {
	case email != s.tiledesk.Username:
		return *refused("no such user", jsonAnswer(401, `{"success":false,"msg":"Authentication failed. User not found."}`))
	case password != s.tiledesk.Password:
		return *refused("another password", jsonAnswer(401, `{"success":false,"msg":"Authentication failed. Wrong password."}`))
	}
	user := newObjectID()
	return reply{answer: jsonAnswer(http.StatusOK, fmt.Sprintf(`{"success":true,"token":%q,"user":{"_id":%q}}`,
		guestToken(b.token, s.tiledesk.ProjectID, user), user))}
}

func newObjectID() string {
	raw := make([]byte, 12)
	_, _ = rand.Read(raw) // never an error
	return hex.EncodeToString(raw)
}

// guestToken is good for as long as the server's secret is.
func guestToken(secret, project, guest string) string {
	claims := project + "." + guest
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(claims))
	return "JWT " + claims + "." + hex.EncodeToString(mac.Sum(nil))
}

// smartifyAgent is who enters by Basic: an administrator of the project.
const smartifyAgent = "agent"

// smartifyEnters returns who calls, or the refusal.
func (s *Sandbox) smartifyEnters(b *switchboard, c *call) (guest string, no *reply) {
	project := c.value("project")
	if project != s.tiledesk.ProjectID {
		said := "Project not found with id: "
		if !objectID.MatchString(project) {
			said = "Invalid project id: "
		}
		return "", refused(said+project, jsonAnswer(400, `{"error":`+quote(said+project)+`}`))
	}
	scheme, credentials, _ := strings.Cut(c.header.Get("Authorization"), " ")
	switch strings.ToLower(scheme) {
	case "basic":
		want := base64.StdEncoding.EncodeToString([]byte(s.tiledesk.Username + ":" + s.tiledesk.Password))
		if subtle.ConstantTimeCompare([]byte(credentials), []byte(want)) == 1 {
			return smartifyAgent, nil
		}
	case "jwt":
		of, guest, ok := claimsOf(b.token, credentials)
		if ok && of == project {
			return guest, nil
		}
		if ok {
			return "", refused("of another project", jsonAnswer(403, `{"success":false,"msg":"you dont belong to the project."}`))
		}
	}
	return "", refused("Unauthorized", smartifyUnauthorized())
}

// claimsOf reads a token that guestToken has made with the same secret.
func claimsOf(secret, token string) (project, guest string, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", "", false
	}
	want := guestToken(secret, parts[0], parts[1])
	return parts[0], parts[1], subtle.ConstantTimeCompare([]byte("JWT "+token), []byte(want)) == 1
}

// smartifyMessages lists the messages of a conversation: none where nobody
// knows it.
func (s *Sandbox) smartifyMessages(b *switchboard, c *call) reply {
	if _, no := s.smartifyEnters(b, c); no != nil {
		return *no
	}
	list := []map[string]any{}
	for i, m := range s.said(c.userID) {
		attributes := json.RawMessage(`{}`)
		if m.Request != nil {
			var sent struct {
				Attributes json.RawMessage `json:"attributes"`
			}
			if json.Unmarshal([]byte(m.Request.Body), &sent) == nil && sent.Attributes != nil {
				attributes = sent.Attributes
			}
		}
		list = append(list, map[string]any{
			"_id": fmt.Sprintf("%024x", i+1), "recipient": c.userID, "text": m.Text, "type": "text", "attributes": attributes, "createdAt": m.At,
		})
	}
	return reply{answer: jsonAnswer(http.StatusOK, written(list))}
}

// said lists what was said in a conversation of Smartify.
func (s *Sandbox) said(conversation string) (list []Message) {
	c, _ := s.book.get(key{Smartify, conversation})
	for _, m := range c.Messages {
		if m.Kind != KindRefused {
			list = append(list, m)
		}
	}
	return list
}

// smartifyMessage says something in a conversation, and its bot goes on.
func (s *Sandbox) smartifyMessage(b *switchboard, c *call) reply {
	guest, no := s.smartifyEnters(b, c)
	if no != nil {
		return *no
	}
	mediaType, _, _ := mime.ParseMediaType(c.header.Get("Content-Type"))
	text, _ := c.text("text")
	if mediaType != "application/json" {
		text = "" // the body is lost, and nobody is told
	}
	known := len(s.said(c.userID)) > 0
	message, status := Message{From: FromRelay, Kind: KindResume, Text: text}, 200
	switch {
	case len(c.body) > smartifyMaxBody:
		return *refused("too large", jsonAnswer(413, `{"err":"Request entity too large","limit":512000}`))
	case mediaType == "application/json" && c.unreadable():
		return *refused("malformed JSON", jsonAnswer(500, `{"err":"error"}`))
	case !known && text == "":
		return *refused("no text", jsonAnswer(422, `{"errors":["text field is required"]}`))
	case !known:
		message.Kind, status = KindOpened, 100
	case b.closed[c.userID]:
		message.Kind, message.Text, status = KindNotMoved, "the conversation is closed", smartifyEnded
	case text == "":
		message.Kind, message.Text = KindNotMoved, "an empty message"
	}
	s.tellMessage(c.userID, guest, text, c.fields["attributes"], status)
	return reply{message: message, answer: s.smartifyTaken(c, guest, text, status)}
}

// smartifyTaken is the answer to a message, whatever became of it.
func (s *Sandbox) smartifyTaken(c *call, guest, text string, status int) answer {
	attributes := c.fields["attributes"]
	if attributes == nil {
		attributes = json.RawMessage(`{}`)
	}
	body := written(map[string]any{
		"_id": newObjectID(), "sender": guest, "senderFullname": "Guest ", "recipient": c.userID, "text": text, "type": "text",
		"attributes": attributes, "id_project": s.tiledesk.ProjectID, "createdBy": guest, "createdAt": c.at,
		"request": map[string]any{"request_id": c.userID, "status": status, "hasBot": true, "id_project": s.tiledesk.ProjectID},
	})
	return jsonAnswer(http.StatusOK, body)
}

// unreadable reports whether a body is there and is no JSON object.
func (c *call) unreadable() bool { return len(c.body) > 0 && c.fields == nil }
