package platform

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"relay.example/relay/internal/relay"
)

// certainly moves a conversation to a module (trigger_response) or says a text
// in it (trigger_message). What is peculiar to it:
//
//   - without is_async it answers 200 and does nothing, so is_async is always
//     sent and always true;
//   - module_id is mandatory but may be null: then only the variables are set;
//   - a wrong token is a 400, which only its text tells from a wrong user;
//   - error has three shapes: an empty array, a text, an array of objects.
var certainly = Platform{
	Name:           "certainly",
	DefaultBaseURL: "https://app.certainly.io",
	Settings:       []Setting{{Name: "token", Required: true, Secret: true}},
	Actions:        []string{relay.TriggerResponse, relay.TriggerMessage},
	TextAction:     relay.TriggerMessage,
	check:          checkCertainly,
	build:          buildCertainly,
	classify:       classifyCertainly,
}

const (
	certainlyWait    = 3      // seconds, the platform's own default
	certainlyMaxWait = 86_400 // seconds
)

func checkCertainly(a relay.Action) error {
	if a.Action == relay.TriggerMessage {
		return checkCertainlyMessage(a)
	}
	if err := refuseFields(a, []string{"module_id", "wait_time", "custom_vars"}); err != nil {
		return err
	}
	if a.ModuleID == nil && len(a.CustomVars) == 0 {
		return relay.Errorf(relay.Invalid, "module_id_required", "%s does nothing without a module_id or custom_vars: add one of them", a.Action)
	}
	if a.ModuleID != nil && !isExpression(a.ModuleID) {
		if _, err := certainlyModule(a.ModuleID); err != nil {
			return relay.Errorf(relay.Invalid, "module_id_invalid", "%v", err)
		}
	}
	if a.WaitTime != nil && !isExpression(a.WaitTime) {
		if _, err := certainlyWaitTime(a.WaitTime); err != nil {
			return relay.Errorf(relay.Invalid, "wait_time_invalid", "%v", err)
		}
	}
	if err := checkCertainlyVars(a.CustomVars); err != nil {
		return relay.Errorf(relay.Invalid, "custom_vars_invalid", "%v", err)
	}
	return nil
}

func checkCertainlyMessage(a relay.Action) error {
	if err := refuseFields(a, []string{"text"}); err != nil {
		return err
	}
	if strings.TrimSpace(a.Text) == "" {
		return relay.Errorf(relay.Invalid, "text_required",
			"%s needs a text; to move the conversation or to set variables use %s", a.Action, relay.TriggerResponse)
	}
	return nil
}

// checkCertainlyVars names the first wrong one in order, so that the same
// mistakes always give the same error.
func checkCertainlyVars(vars map[string]any) error {
	var wrong []string
	for name := range vars {
		if !isCertainlyVar(name) {
			wrong = append(wrong, name)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("custom_vars may not be called %.64q: a name is a letter, then letters, digits and _", slices.Min(wrong))
}

// isCertainlyVar reports whether name is a letter, then letters, digits and _:
// the part of what the platform takes for a variable's name that its own
// templates can also read back, where a dash is a minus.
func isCertainlyVar(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return name != ""
}

// certainlyModule reads a module_id.
func certainlyModule(v any) (int64, error) {
	n, ok := wholeNumber(v)
	if !ok || n < 1 {
		return 0, errors.New("module_id must be a positive whole number, such as 1068935")
	}
	return n, nil
}

// certainlyWaitTime reads a wait_time in seconds, nil meaning the default.
func certainlyWaitTime(v any) (float64, error) {
	if v == nil {
		return certainlyWait, nil
	}
	seconds, ok := decimal(v)
	if !ok || seconds < 0 || seconds > certainlyMaxWait {
		return 0, fmt.Errorf("wait_time must be a number of seconds from 0 to %d", certainlyMaxWait)
	}
	return seconds, nil
}

// certainlyResponse is the body of trigger-response. No field is ever left
// out: the platform takes a missing one for something else than null.
type certainlyResponse struct {
	UserID     string         `json:"user_id"`
	ModuleID   *int64         `json:"module_id"`
	WaitTime   float64        `json:"wait_time"`
	CustomVars map[string]any `json:"custom_vars"`
	IsAsync    bool           `json:"is_async"`
}

// certainlyMessage is the body of trigger-message.
type certainlyMessage struct {
	TextMessage string `json:"text_message"`
	UserID      string `json:"user_id"`
}

func buildCertainly(at endpoint, call Call) (Request, error) {
	if call.UserID == "" {
		return Request{}, errors.New("there is no user_id")
	}
	if call.Action == relay.TriggerMessage {
		return buildCertainlyMessage(at, call)
	}
	return buildCertainlyResponse(at, call)
}

func buildCertainlyResponse(at endpoint, call Call) (Request, error) {
	body := certainlyResponse{UserID: call.UserID, CustomVars: call.CustomVars, IsAsync: true}
	switch {
	case call.ModuleID != nil:
		module, err := certainlyModule(call.ModuleID)
		if err != nil {
			return Request{}, err
		}
		body.ModuleID = &module
	case len(call.CustomVars) == 0:
		return Request{}, errors.New("module_id came out as null and there are no custom_vars: the call would do nothing")
	}
	var err error
	body.WaitTime, err = certainlyWaitTime(call.WaitTime)
	if err != nil {
		return Request{}, err
	}
	if err := checkCertainlyVars(call.CustomVars); err != nil {
		return Request{}, err
	}
	if body.CustomVars == nil {
		body.CustomVars = map[string]any{}
	}
	return certainlyPost(at, "/actionsvc/trigger-response/", "JWT "+at.settings["token"], body)
}

func buildCertainlyMessage(at endpoint, call Call) (Request, error) {
	if strings.TrimSpace(call.Text) == "" {
		return Request{}, errNoText
	}
	// The platform wants the user name `user` and, as its password, the word
	// bearer, one space and the token.
	basic := base64.StdEncoding.EncodeToString([]byte("user:bearer " + at.settings["token"]))
	body := certainlyMessage{TextMessage: call.Text, UserID: call.UserID}
	return certainlyPost(at, "/actionsvc/trigger-message/", "Basic "+basic, body)
}

// certainlyPost keeps the slash at the end of the path: without it the
// platform redirects, and a redirected POST loses its body.
func certainlyPost(at endpoint, path, authorization string, body any) (Request, error) {
	return post(at.base+path, authorization, body)
}

func classifyCertainly(r Response) Answer {
	answer := byStatus(r.Status, Answer{Class: relay.OK, Reason: Accepted})
	switch {
	case r.Status == http.StatusBadRequest:
		if known, ok := certainlyFault(string(r.Body)); ok {
			return known
		}
	case answer.Class == relay.OK:
		return classifyCertainlySuccess(r.Body)
	}
	return answer
}

// classifyCertainlySuccess reads the body of a 2xx, which alone says whether
// the call was carried out. A failure in words that we know is what those
// words mean. Any other is undocumented, and is tried again: retrying ends
// with the flow's retry_for, whereas calling it permanent would lose a resume
// that a moment later had worked.
func classifyCertainlySuccess(body []byte) Answer {
	var answer struct {
		Error   json.RawMessage `json:"error"`
		Message json.RawMessage `json:"message"`
	}
	err := json.Unmarshal(body, &answer)
	if err == nil && isEmpty(answer.Error) && !isNull(answer.Message) {
		return Answer{Class: relay.OK, Reason: Accepted}
	}
	if known, ok := certainlyFault(string(answer.Error)); ok {
		return known
	}
	return Answer{Class: relay.Retry, Reason: Unconfirmed}
}

// certainlyFault finds the platform's known words in an error of any of its
// shapes. They are searched for in the raw bytes, where they stand as they
// are: they hold nothing that JSON escapes, and a body that was cut off can
// still be read. The token comes first, because it fails every call and not
// just this one.
func certainlyFault(raw string) (Answer, bool) {
	for _, known := range []struct {
		words  string
		answer Answer
	}{
		{"Invalid Authentication credentials", Answer{Class: relay.Credentials, Reason: BadCredentials}},
		{"Bot user with this id does not exist", Answer{Class: relay.Permanent, Reason: UnknownUser}},
		{"module_id not found for the given bot", Answer{Class: relay.Permanent, Reason: UnknownModule}},
		{"Need a valid json containing user_id and module_id", Answer{Class: relay.Permanent, Reason: BadRequest}},
		{"user_id is mandatory", Answer{Class: relay.Permanent, Reason: BadRequest}},
		{"module_id is mandatory", Answer{Class: relay.Permanent, Reason: BadRequest}},
	} {
		if strings.Contains(raw, known.words) {
			return known.answer, true
		}
	}
	return Answer{}, false
}

func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || bytes.Equal(raw, []byte("null"))
}

// isEmpty reports whether an error says that there is none.
func isEmpty(raw json.RawMessage) bool {
	if isNull(raw) {
		return true
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return false
	}
	switch v := v.(type) {
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	default:
		return v == ""
	}
}
