package platform

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"relay.example/relay/internal/relay"
)

// userengage says something to a user of User.com (UserEngage before), as an
// agent. It tells the user; it drives no bot. What is peculiar to it:
//
//   - each account has a host of its own, such as https://shop.user.com;
//   - the text is HTML: the author's tags are meant, and what expressions give
//     is escaped when it is rendered (HTMLText);
//   - without the slash at the end of the path it redirects, and loses the
//     body;
//   - success is 201, without a body to depend on.
var userengage = Platform{
	Name: "userengage",
	Settings: []Setting{
		{Name: "token", Required: true, Secret: true},
		{Name: "user", Required: true, Kind: Number},
		{Name: "source", Kind: Number},
	},
	Actions:    []string{relay.SendMessage},
	TextAction: relay.SendMessage,
	HTMLText:   true,
	check:      checkMessage,
	build:      buildUserengage,
	classify:   func(r Response) Answer { return byStatus(r.Status, Answer{Class: relay.OK, Reason: Accepted}) },
}

// userengageMessage leaves source_context out: its type is told in three ways.
type userengageMessage struct {
	Conversation any         `json:"conversation"`
	Content      string      `json:"content"`
	User         json.Number `json:"user"`
	Source       json.Number `json:"source"`
}

func buildUserengage(at endpoint, call Call) (Request, error) {
	switch {
	case call.Conversation == "":
		return Request{}, errors.New("there is no conversation")
	case strings.TrimSpace(call.Text) == "":
		return Request{}, errNoText
	}
	body := userengageMessage{
		Conversation: call.Conversation, Content: call.Text,
		User: json.Number(at.settings["user"]), Source: json.Number(at.settings["source"]),
	}
	if body.Source == "" {
		body.Source = "3" // the API
	}
	// A number today, a text on the host of before: 007 is no 7.
	if n, err := strconv.ParseUint(call.Conversation, 10, 53); err == nil && call.Conversation == strconv.FormatUint(n, 10) {
		body.Conversation = n
	}
	r, err := post(at.base+"/api/public/message/", "Token "+at.settings["token"], body)
	if err == nil {
		r.Header["Accept"] = []string{"*/*; version=2"}
	}
	return r, err
}
