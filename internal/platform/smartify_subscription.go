package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"relay.example/relay/internal/relay"
)

// smartifySubscription brings one subscription of a project to what it should
// be. What is peculiar to it:
//
//   - the secret is told when the subscription is made, and never again: one
//     of ours whose secret was lost, by a crash between the two, is deleted and
//     made anew;
//   - another one for the same event is no reason not to make ours, and a
//     request to make one that is there is answered with one of that event,
//     perhaps another's: so the list is read first, and the target of the
//     answer compared;
//   - neither events nor addresses are checked: a name that is misspelt is
//     subscribed to, and nothing ever comes;
//   - one of another project can be deleted by its id: only what was seen in
//     this project's list, with our address, is.
type smartifySubscription struct {
	address       string // of the project's subscriptions
	authorization string
	want          Subscription
}

// smartifyList is how much of the list is read: some thousand subscriptions.
const smartifyList = 1 << 20

// maxRemoteText bounds an id and a secret that a platform gives.
const maxRemoteText = 512

// remote is a subscription as Tiledesk shows it.
type remote struct {
	ID     string `json:"_id"`
	Event  string `json:"event"`
	Target string `json:"target"`
	Secret string `json:"secret"`
}

func subscribeSmartify(at endpoint, s Subscription) (Step, error) {
	if at.settings["username"] == "" {
		return Step{}, errors.New("it signs in as a guest, and only an administrator of the project can subscribe: give it username and password")
	}
	x := &smartifySubscription{
		address:       at.base + "/" + url.PathEscape(at.settings["project_id"]) + "/subscriptions",
		authorization: basic(at.settings["username"], at.settings["password"]),
		want:          s,
	}
	return x.list(), nil
}

// list reads what is there before anything is changed.
func (x *smartifySubscription) list() Step {
	return Step{
		Request: x.request(http.MethodGet, "", nil),
		Name:    "list", Keep: smartifyList,
		next: func(r Response) Step {
			var there []remote
			switch {
			case r.Status != http.StatusOK:
				return ended(classifySmartify(r))
			case json.Unmarshal(r.Body, &there) != nil:
				return ended(Answer{Class: relay.Retry, Reason: Unconfirmed})
			default:
				return x.settle(slices.DeleteFunc(there, func(s remote) bool { return s.Event != x.want.Event || !x.want.owns(s.Target) }))
			}
		},
	}
}

// settle makes of ours what they should be: one, or none.
func (x *smartifySubscription) settle(ours []remote) Step {
	good := slices.IndexFunc(ours, func(s remote) bool {
		return x.want.Wanted && x.want.ID != "" && s.ID == x.want.ID && s.Target == x.want.Target
	})
	for i, s := range ours {
		if i != good {
			return x.remove(s, slices.Delete(slices.Clone(ours), i, i+1))
		}
	}
	switch {
	case good >= 0:
		return Step{Answer: Answer{Class: relay.OK, Reason: Confirmed}, Subscribed: Subscribed{ID: x.want.ID}}
	case !x.want.Wanted:
		return ended(Answer{Class: relay.OK, Reason: Accepted})
	default:
		return x.create()
	}
}

// remove deletes one of ours, and goes on with the others.
func (x *smartifySubscription) remove(s remote, others []remote) Step {
	return Step{
		Request: x.request(http.MethodDelete, "/"+url.PathEscape(s.ID), nil),
		Name:    "delete", Acts: true,
		next: func(r Response) Step {
			if r.Status != http.StatusOK && r.Status != http.StatusNotFound { // 200 with null: gone already
				return ended(classifySmartify(r))
			}
			return x.settle(others)
		},
	}
}

func (x *smartifySubscription) create() Step {
	body, err := encode(map[string]string{"event": x.want.Event, "target": x.want.Target})
	if err != nil {
		return ended(Answer{Class: relay.Permanent, Reason: BadRequest}) // two short texts
	}
	return Step{
		Request: x.request(http.MethodPost, "", body),
		Name:    "create", Acts: true, Keep: smartifyKeep,
		next: func(r Response) Step {
			if r.Status != http.StatusOK {
				return ended(classifySmartify(r))
			}
			return x.made(r)
		},
	}
}

// made reads the answer to a subscription. What it says nothing of use about
// is looked at in the list by the next exchange.
func (x *smartifySubscription) made(r Response) Step {
	var s remote
	if json.Unmarshal(r.Body, &s) != nil || s.ID == "" || len(s.ID) > maxRemoteText {
		return ended(Answer{Class: relay.Retry, Reason: Unconfirmed})
	}
	if s.Target != x.want.Target || s.Event != x.want.Event {
		return ended(Answer{Class: relay.Retry, Reason: NotOurs})
	}
	if s.Secret == "" {
		s.Secret = r.Header.Get("X-Hook-Secret")
	}
	if s.Secret == "" || len(s.Secret) > maxRemoteText || strings.ContainsFunc(s.Secret, isControl) {
		return ended(Answer{Class: relay.Retry, Reason: NoSecret})
	}
	return Step{Answer: Answer{Class: relay.OK, Reason: Accepted}, Subscribed: Subscribed{ID: s.ID, Secret: s.Secret}}
}

func (x *smartifySubscription) request(method, path string, body []byte) Request {
	r := Request{
		Method: method, URL: x.address + path, Body: body,
		Header: http.Header{"Authorization": {x.authorization}, "Accept": {"application/json"}},
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// smartifyEvents are those that can be subscribed to, and smartifyFamilies
// what others begin with.
var (
	smartifyEvents = strings.Fields(`message.create request.create request.update request.close lead.create
		faqbot.create faqbot.update faqbot.delete project.create project.update project.downgrade project.delete
		project_user.invite project_user.update project_user.update.agent project_user.delete user.signup event.emit`)
	smartifyFamilies = strings.Fields(`message.create. event.emit. faq. department. group.`)
)

// checkSmartifyEvent refuses what is no event there: the platform would take
// it, and say nothing.
func checkSmartifyEvent(event string) error {
	known := slices.Contains(smartifyEvents, event) || slices.ContainsFunc(smartifyFamilies, func(family string) bool {
		return len(event) > len(family) && len(event) <= maxEvent && strings.HasPrefix(event, family) && strings.Trim(event, eventCharacters) == ""
	})
	switch {
	case event == "operator.select":
		return errors.New("operator.select: its answer chooses who serves the user, which the relay's does not")
	case !known:
		return fmt.Errorf("%.40q is no event: there are %s, and what begins with %s",
			event, strings.Join(smartifyEvents, ", "), strings.Join(smartifyFamilies, ", "))
	default:
		return nil
	}
}

// What an event's name is made of, and how many of it.
const (
	maxEvent        = 100
	eventCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-*"
)
