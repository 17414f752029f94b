package platform

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"relay.example/relay/internal/relay"
)

// haptik says something to the bot in the user's name (log_message_from_user),
// which is what drives it. What is peculiar to it:
//
//   - a user that it has not met is a 403: it is registered, and the message
//     sent once more. Registering one that exists updates it, so that a
//     registration without an answer does no harm;
//   - the user is the auth_id, which Haptik's own integration may leave empty:
//     nobody can be reached by that;
//   - business_id is a number of the account's, and of no request.
var haptik = Platform{
	Name: "haptik",
	Settings: []Setting{
		{Name: "token", Required: true, Secret: true},
		{Name: "client_id", Required: true},
		{Name: "business_id", Required: true, Kind: Number},
		{Name: "message_type", Kind: Number},
		{Name: "node_secret", Secret: true}, // of the way in: what the bot's integration nodes sign with
	},
	Actions:    []string{relay.SendMessage},
	TextAction: relay.SendMessage,
	check:      checkMessage,
	begin:      beginHaptik,
}

// haptikUser is how Haptik is told of a user.
type haptikUser struct {
	AuthID string `json:"auth_id"`
}

type haptikMessage struct {
	User        haptikUser  `json:"user"`
	Body        string      `json:"message_body"`
	MessageType json.Number `json:"message_type"`
	BusinessID  json.Number `json:"business_id"`
}

// haptikNotRegistered is what Haptik answers to a message of somebody it does
// not know. It is searched for in the raw bytes, which hold nothing that JSON
// escapes.
const haptikNotRegistered = "user is not registered"

func beginHaptik(at endpoint, call Call) (Step, error) {
	switch {
	case call.Conversation == "":
		return Step{}, errors.New("there is no user_id: Haptik gave an empty auth_id, and nobody can be reached by that")
	case strings.TrimSpace(call.Text) == "":
		return Step{}, errNoText
	}
	kind := at.settings["message_type"]
	if kind == "" {
		kind = "0" // a text
	}
	user := haptikUser{AuthID: call.Conversation}
	message, err := haptikPost(at, "/v1.0/log_message_from_user/", haptikMessage{
		User: user, Body: call.Text, MessageType: json.Number(kind), BusinessID: json.Number(at.settings["business_id"]),
	})
	if err != nil {
		return Step{}, err
	}
	registration, err := haptikPost(at, "/v1.0/user/", user)
	if err != nil {
		return Step{}, err
	}
	again := Step{Request: message, Acts: true, next: func(r Response) Step { return ended(classifyHaptik(r)) }}
	register := Step{Request: registration, Name: "register", next: func(r Response) Step {
		if a := classifyHaptik(r); a.Class != relay.OK {
			return ended(a)
		}
		return again
	}}
	return Step{Request: message, Acts: true, next: func(r Response) Step {
		if notRegistered(r) {
			return register
		}
		return ended(classifyHaptik(r))
	}}, nil
}

func haptikPost(at endpoint, path string, body any) (Request, error) {
	r, err := post(at.base+path, "Bearer "+at.settings["token"], body)
	if err == nil {
		r.Header["Client-Id"] = []string{at.settings["client_id"]}
	}
	return r, err
}

func notRegistered(r Response) bool {
	return r.Status == http.StatusForbidden && strings.Contains(string(r.Body), haptikNotRegistered)
}

// classifyHaptik reads the answer to a message or a registration. Its
// credentials fail with 401; what 403 is documented for is one user, so that
// an unknown 403 does not hold the whole destination.
func classifyHaptik(r Response) Answer {
	switch {
	case notRegistered(r):
		return Answer{Class: relay.Permanent, Reason: UnknownUser}
	case r.Status == http.StatusForbidden:
		return Answer{Class: relay.Permanent, Reason: Refused}
	default:
		return byStatus(r.Status, Answer{Class: relay.OK, Reason: Accepted})
	}
}
