package platform

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"relay.example/relay/internal/relay"
)

// smartify says something in a conversation of Smartify, which is Tiledesk,
// and its bot goes on with it. What is peculiar to it:
//
//   - a conversation id that does not exist is no error: the message opens a
//     new conversation with a bot that knows nothing. So the messages of the
//     conversation are read before each send, and none means that it is not
//     there;
//   - that look finds the id of the delivery in the attributes of its message
//     where an earlier attempt has arrived, and nothing is sent again;
//   - a closed conversation takes messages with 200; only the status of the
//     request in the answer tells;
//   - each anonymous sign-in makes a new user of the project, so its token is
//     kept. It has no end; a 401 says that it is good no more, and it is
//     renewed once in an attempt;
//   - a sign-in to a project that does not exist succeeds too: the look fails.
var smartify = Platform{
	Name:           "smartify",
	DefaultBaseURL: "https://panel.smartifyai.in/api",
	Settings: []Setting{
		{Name: "project_id", Required: true},
		{Name: "username"},
		{Name: "password", Secret: true},
	},
	Actions:      []string{relay.SendMessage},
	TextAction:   relay.SendMessage,
	Sessions:     true,
	Confirms:     true,
	check:        checkMessage,
	checkAccount: checkSmartifyAccount,
	begin:        beginSmartify,
	subscribe:    subscribeSmartify,
	checkEvent:   checkSmartifyEvent,
	foreseen: map[string]Response{
		signInStep: {Status: http.StatusOK, Body: []byte(`{"success":true,"token":"JWT ` + masked + `"}`)},
		lookStep:   {Status: http.StatusOK, Body: []byte(`[{}]`)},
	},
}

// What comes before a message is said, as reasons and previews name it.
const (
	signInStep = "sign_in"
	lookStep   = "look"
)

func checkSmartifyAccount(at endpoint) error {
	if (at.settings["username"] == "") != (at.settings["password"] == "") {
		return errors.New("username and password belong together: give both, or neither to sign in anonymously")
	}
	return nil
}

// smartifyDelivery is the attribute of a message that holds the id of its
// delivery.
const smartifyDelivery = "relay_delivery_id"

// smartifyClosed is the status of a conversation that has ended.
const smartifyClosed = 1000

// smartifyMessage is what is said. Its type is that of a text typed by a user.
type smartifyMessage struct {
	Text       string            `json:"text"`
	Type       string            `json:"type"`
	Attributes map[string]string `json:"attributes"`
}

// smartifyExchange is what the steps of one attempt have in common.
type smartifyExchange struct {
	at       endpoint
	said     string // what the message is known by
	doubtful bool
	messages string // their address
	text     []byte // the message, written
	renewed  bool   // by a call: a session of another exchange may be as old as the one before
}

func beginSmartify(at endpoint, call Call) (Step, error) {
	switch {
	case call.Conversation == "":
		return Step{}, errors.New("there is no conversation")
	case slices.ContainsFunc(strings.FieldsFunc(call.Conversation, isSeparator), isDots):
		return Step{}, errors.New("the conversation is no id of Smartify: it has . or .. in it, as a path has")
	case strings.TrimSpace(call.Text) == "":
		return Step{}, errNoText
	}
	said := saidAs(call)
	text, err := encode(smartifyMessage{Text: call.Text, Type: "text", Attributes: map[string]string{smartifyDelivery: said}})
	if err != nil {
		return Step{}, err
	}
	x := &smartifyExchange{
		at: at, said: said, doubtful: call.Doubtful, text: text,
		messages: at.base + "/" + url.PathEscape(at.settings["project_id"]) + "/requests/" + url.PathEscape(call.Conversation) + "/messages",
	}
	switch {
	case !x.anonymous():
		return x.look(basic(at.settings["username"], at.settings["password"])), nil
	case at.session != "":
		return x.look(at.session), nil
	default:
		return x.signIn("")
	}
}

func basic(username, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password))
}

// saidAs is what the message of a delivery is known by: its id, with a number
// behind it where a person has it said again.
func saidAs(call Call) string {
	if call.Said == 0 {
		return call.DeliveryID
	}
	return call.DeliveryID + "." + strconv.Itoa(call.Said)
}

// A server before the platform may take dots for a way out of the path, also
// where the slashes beside them are escaped.
func isSeparator(r rune) bool { return r == '/' || r == '\\' }
func isDots(s string) bool    { return s == "." || s == ".." }

func (x *smartifyExchange) anonymous() bool { return x.at.settings["username"] == "" }

// signIn opens a session in the place of one that is good no more.
func (x *smartifyExchange) signIn(refused string) (Step, error) {
	r, err := post(x.at.base+"/auth/signinAnonymously", "", map[string]string{"id_project": x.at.settings["project_id"]})
	if err != nil {
		return Step{}, err
	}
	delete(r.Header, "Authorization")
	return Step{
		Request: r, Name: signInStep, Opens: true, Refused: refused,
		with: x.look,
		next: func(r Response) Step {
			var answer struct {
				Token string `json:"token"`
			}
			switch {
			case r.Status != http.StatusOK:
				return ended(unprepared(r))
			case json.Unmarshal(r.Body, &answer) != nil || answer.Token == "" || strings.ContainsFunc(answer.Token, isControl):
				return ended(Answer{Class: relay.Retry, Reason: Unconfirmed})
			}
			if !strings.HasPrefix(answer.Token, "JWT ") {
				answer.Token = "JWT " + answer.Token
			}
			x.renewed = refused != ""
			step := x.look(answer.Token)
			step.Session = answer.Token
			return step
		},
	}, nil
}

// look reads the messages of the conversation before one is added.
func (x *smartifyExchange) look(authorization string) Step {
	return Step{
		Request: Request{
			Method: http.MethodGet, URL: x.messages,
			Header: http.Header{"Authorization": {authorization}, "Accept": {"application/json"}},
		},
		Name: lookStep, Search: `"` + x.said + `"`,
		next: func(r Response) Step {
			body := bytes.TrimSpace(r.Body)
			switch {
			case x.mayRenew(r):
				return x.renew(authorization)
			case r.Status != http.StatusOK:
				return ended(unprepared(r))
			case !bytes.HasPrefix(body, []byte("[")):
				return ended(Answer{Class: relay.Retry, Reason: Unconfirmed})
			case r.Found:
				return ended(Answer{Class: relay.OK, Reason: Confirmed})
			case bytes.HasPrefix(bytes.TrimSpace(body[1:]), []byte("]")):
				return ended(Answer{Class: relay.Permanent, Reason: UnknownUser})
			case r.Unsearched && x.doubtful:
				return ended(Answer{Class: relay.NoAnswer, Reason: CannotTell})
			default:
				return x.send(authorization)
			}
		},
	}
}

// smartifyKeep is how much of the answer to a message is read: it holds the
// whole conversation's request, with all who take part.
const smartifyKeep = 128 << 10

func (x *smartifyExchange) send(authorization string) Step {
	return Step{
		Request: Request{
			Method: http.MethodPost, URL: x.messages, Body: x.text,
			Header: http.Header{
				"Authorization": {authorization},
				"Content-Type":  {"application/json"}, // without it the body is lost, and the answer 200
				"Accept":        {"application/json"},
			},
		},
		Acts: true, Keep: smartifyKeep,
		next: func(r Response) Step {
			if x.mayRenew(r) {
				return x.renew(authorization)
			}
			return ended(classifySmartifyMessage(r))
		},
	}
}

// mayRenew reports whether a session is good no more, and was not renewed
// before.
func (x *smartifyExchange) mayRenew(r Response) bool {
	return x.anonymous() && !x.renewed && r.Status == http.StatusUnauthorized && classifySmartify(r).Class == relay.Credentials
}

func (x *smartifyExchange) renew(refused string) Step {
	step, err := x.signIn(refused)
	if err != nil { // the same body was written before
		return ended(Answer{Class: relay.Permanent, Reason: BadRequest})
	}
	return step
}

// unprepared reads the answer to a sign-in or a look that is not what it has to
// be. Another 2xx, of a proxy perhaps, is none either: nothing has been said.
func unprepared(r Response) Answer {
	a := classifySmartify(r)
	if a.Class == relay.OK {
		return Answer{Class: relay.Retry, Reason: Unconfirmed}
	}
	return a
}

// classifySmartifyMessage reads the answer to a message. One that cannot be
// read is asked about by the look of the next attempt.
func classifySmartifyMessage(r Response) Answer {
	a := classifySmartify(r)
	if a.Class != relay.OK {
		return a
	}
	var answer struct {
		Request struct {
			Status int `json:"status"`
		} `json:"request"`
	}
	switch {
	case json.Unmarshal(r.Body, &answer) != nil:
		return Answer{Class: relay.Retry, Reason: Unconfirmed}
	case answer.Request.Status == smartifyClosed:
		return Answer{Class: relay.Permanent, Reason: ClosedThere}
	default:
		return a
	}
}

// classifySmartify reads any answer of Tiledesk's. The same status stands for
// the account and for one conversation: only the words tell them apart. They
// are searched for in the raw bytes, where they stand as they are.
func classifySmartify(r Response) Answer {
	for _, known := range []struct {
		status int
		words  string
		answer Answer
	}{
		// A filter of addresses, or a ban: other credentials would not help.
		{http.StatusUnauthorized, "error project", Answer{Class: relay.Permanent, Reason: Refused}},
		{http.StatusForbidden, "Project_user not found", Answer{Class: relay.Permanent, Reason: UnknownUser}},
		{http.StatusForbidden, "Requests quota exceeded", Answer{Class: relay.Retry, Reason: OverQuota, RetryAfter: MaxRetryAfter}},
		{http.StatusForbidden, "Error creating message", Answer{Class: relay.Permanent, Reason: Refused}},
		{http.StatusBadRequest, "", Answer{Class: relay.Permanent, Reason: BadRequest}},
		{http.StatusRequestEntityTooLarge, "", Answer{Class: relay.Permanent, Reason: BadRequest}},
		{http.StatusUnprocessableEntity, "", Answer{Class: relay.Permanent, Reason: BadRequest}},
		// It looks as if it would pass, and means a project that cannot be.
		{http.StatusInternalServerError, "Error saving object.", Answer{Class: relay.Permanent, Reason: BadRequest}},
		{http.StatusInternalServerError, "Error getting object.", Answer{Class: relay.Permanent, Reason: BadRequest}},
	} {
		if r.Status == known.status && bytes.Contains(r.Body, []byte(known.words)) {
			return known.answer
		}
	}
	return byStatus(r.Status, Answer{Class: relay.OK, Reason: Accepted})
}
