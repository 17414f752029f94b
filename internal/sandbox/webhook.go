package sandbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Webhook is the name of the stand-in for a bot of one's own, under /webhook:
// it takes JSON, verifies the signature of Standard Webhooks where it has a
// secret, drops what it has had before, and goes on.
const Webhook = "webhook"

var webhookFaults = []fault{
	{"credentials", answer{status: http.StatusUnauthorized}},
	{"forbidden", answer{status: http.StatusForbidden}},
	{"bad_request", answer{status: http.StatusBadRequest}},
	{"not_found", answer{status: http.StatusNotFound}},
	{"gone", answer{status: http.StatusGone}},
	{"request_timeout", answer{status: http.StatusRequestTimeout}},
	{"too_early", answer{status: http.StatusTooEarly}},
	{"rate_limited", answer{status: http.StatusTooManyRequests}},
	{"server_error", answer{status: http.StatusInternalServerError}},
}

// signedFor is how old a signature may be, and how far ahead.
const signedFor = 5 * time.Minute

// webhookUser finds whose conversation a body is about: at user_id, or where
// the relay's default body has it, else the one of the bot.
func webhookUser(c *call) string {
	if user := field("user_id")(c); user != "" {
		return user
	}
	var correlation struct {
		Conversation string `json:"conversation"`
		UserID       string `json:"user_id"`
	}
	_ = json.Unmarshal(c.fields["correlation"], &correlation) // what cannot be read names nobody
	return orElse(correlation.UserID, c.value("bot"))
}

func (s *Sandbox) webhookCall(b *switchboard, c *call) reply {
	switch {
	case b.token != "" && !signedBy(b.token, c):
		return *refused("the signature is wrong", answer{status: http.StatusUnauthorized})
	case c.fields == nil:
		return *refused("the body is no JSON object", answer{status: http.StatusBadRequest})
	case s.had(Webhook, c):
		return reply{message: Message{From: FromRelay, Kind: KindNotMoved, Text: "it had come before"}, answer: answer{status: http.StatusNoContent}}
	default:
		return reply{message: Message{From: FromRelay, Kind: KindResume, CustomVars: c.fields}, answer: answer{status: http.StatusNoContent}}
	}
}

// had reports whether a message with the id of a call has been taken.
func (s *Sandbox) had(platform string, c *call) bool {
	id := c.header.Get("webhook-id")
	before, _ := s.book.get(key{platform, c.userID})
	for _, m := range before.Messages {
		if id != "" && m.Kind == KindResume && m.Request != nil && m.Request.Headers["Webhook-Id"] == id {
			return true
		}
	}
	return false
}

func signedBy(secret string, c *call) bool {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	at, atErr := strconv.ParseInt(c.header.Get("webhook-timestamp"), 10, 64)
	if err != nil || atErr != nil || c.at.Sub(time.Unix(at, 0)).Abs() > signedFor {
		return false
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(c.header.Get("webhook-id") + "." + c.header.Get("webhook-timestamp") + "."))
	mac.Write(c.body)
	for _, given := range strings.Fields(c.header.Get("webhook-signature")) {
		raw, isV1 := strings.CutPrefix(given, "v1,")
		sum, err := base64.StdEncoding.DecodeString(raw)
		if isV1 && err == nil && hmac.Equal(sum, mac.Sum(nil)) {
			return true
		}
	}
	return false
}
