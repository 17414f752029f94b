package sandbox

import (
	"encoding/json"
	"mime"
	"net/http"
	"regexp"
)

// Userengage is the name of the platform, User.com, whose stand-in lives under
// /userengage. A call says something as an agent, in HTML; it drives no bot,
// so that a conversation that waits goes on waiting.
//
// No error of this call is documented. The stand-in refuses as clients of its
// other calls were seen to be refused.
const Userengage = "userengage"

var userengageFaults = []fault{
	{"credentials", answer{status: http.StatusUnauthorized}},
	{"forbidden", answer{status: http.StatusForbidden}},
	{"bad_request", jsonAnswer(http.StatusBadRequest, `{"errors":{}}`)},
	{"not_found", answer{status: http.StatusNotFound}},
	{"unprocessable", answer{status: http.StatusUnprocessableEntity}},
	{"rate_limited", answer{status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": "1"}}},
	{"server_error", answer{status: http.StatusInternalServerError}},
}

// wholeNumber is what a conversation is known by: a number, or its digits as a
// text, as the host of before had it.
var wholeNumber = regexp.MustCompile(`^[0-9]{1,19}$`)

func userengageConversation(c *call) string {
	var number json.Number
	if json.Unmarshal(c.fields["conversation"], &number) == nil {
		return number.String()
	}
	return field("conversation")(c)
}

func (s *Sandbox) userengageMessage(b *switchboard, c *call) reply {
	mediaType, _, _ := mime.ParseMediaType(c.header.Get("Content-Type"))
	content, isText := c.text("content")
	var user, source *int64
	wrong := json.Unmarshal(c.fields["user"], &user) != nil || json.Unmarshal(c.fields["source"], &source) != nil
	switch {
	case !b.proves(c, "Token "+b.token):
		return *refused("no such key", answer{status: http.StatusUnauthorized})
	case c.fields == nil || mediaType != "application/json" || !wholeNumber.MatchString(c.userID) || !isText || content == "" || wrong || user == nil || source == nil:
		return *refused("the message is not complete", jsonAnswer(http.StatusBadRequest, `{"errors":{}}`))
	case b.unknownUsers[c.userID]:
		return *refused("no such conversation", answer{status: http.StatusNotFound})
	}
	return reply{message: Message{From: FromBot, Kind: KindText, Text: content}, answer: answer{status: http.StatusCreated}}
}
