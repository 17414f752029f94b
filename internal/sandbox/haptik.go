package sandbox

import (
	"encoding/json"
	"mime"
	"net/http"
	"strings"
)

// Haptik is the name of the platform whose stand-in lives under /haptik. Its
// bot goes on with whatever a user says; a user that it has not met is
// refused until somebody registers it, as when its bot has spoken with it.
//
// What the contract leaves open, the stand-in decides against the caller: a
// field of the wrong type is a 400.
const Haptik = "haptik"

const (
	haptikRefusesCredentials = `{"error_message":"invalid authorization details"}`
	haptikKnowsNobody        = `{"error_message":"user is not registered"}`
)

// haptikFaults are what the contract names, and the statuses that it says are
// undocumented.
var haptikFaults = []fault{
	{"credentials", jsonAnswer(http.StatusUnauthorized, haptikRefusesCredentials)},
	{"unknown_user", jsonAnswer(http.StatusForbidden, haptikKnowsNobody)},
	{"bad_request", answer{status: http.StatusBadRequest}},
	{"not_found", answer{status: http.StatusNotFound}},
	{"rate_limited", answer{status: http.StatusTooManyRequests}},
	{"server_error", answer{status: http.StatusInternalServerError}},
}

func haptikUser(c *call) string {
	var user struct {
		AuthID string `json:"auth_id"`
	}
	if json.Unmarshal(c.fields["user"], &user) == nil && user.AuthID != "" {
		return user.AuthID
	}
	return field("auth_id")(c)
}

// haptikLetsIn returns the refusal of a call that proves nothing, or cannot be
// read, or nil.
func haptikLetsIn(b *switchboard, c *call) *reply {
	mediaType, _, _ := mime.ParseMediaType(c.header.Get("Content-Type"))
	switch {
	case !b.proves(c, "Bearer "+b.token) || c.header.Get("client-id") == "":
		return refused("invalid authorization details", jsonAnswer(http.StatusUnauthorized, haptikRefusesCredentials))
	case c.fields == nil || mediaType != "application/json" || c.userID == "":
		return refused("the body names no user", answer{status: http.StatusBadRequest})
	default:
		return nil
	}
}

func refused(why string, a answer) *reply {
	return &reply{message: Message{From: FromRelay, Kind: KindRefused, Text: why}, answer: a}
}

func (s *Sandbox) haptikRegister(b *switchboard, c *call) reply {
	if no := haptikLetsIn(b, c); no != nil {
		return *no
	}
	s.haptikUsers.add(c.userID)
	return reply{
		message: Message{From: FromRelay, Kind: KindKnown},
		answer:  jsonAnswer(http.StatusOK, `{"auth_id":`+quote(c.userID)+`}`),
	}
}

// haptikMessage says something in the user's name, and the bot goes on.
func (s *Sandbox) haptikMessage(b *switchboard, c *call) reply {
	if no := haptikLetsIn(b, c); no != nil {
		return *no
	}
	text, isText := c.text("message_body")
	var kind, business *int64
	wrong := json.Unmarshal(c.fields["message_type"], &kind) != nil || json.Unmarshal(c.fields["business_id"], &business) != nil
	switch {
	case !isText || strings.TrimSpace(text) == "" || wrong || kind == nil || business == nil:
		return *refused("the message is not complete", answer{status: http.StatusBadRequest})
	case !s.haptikUsers.has(c.userID) || b.unknownUsers[c.userID]:
		return *refused("user is not registered", jsonAnswer(http.StatusForbidden, haptikKnowsNobody))
	}
	body := written(map[string]any{
		"message_id": c.at.UnixMicro(), "message_body": text, "created_at": c.at, "message_type": *kind,
	})
	return reply{
		message: Message{From: FromRelay, Kind: KindResume, Text: text},
		answer:  jsonAnswer(http.StatusOK, body),
	}
}
