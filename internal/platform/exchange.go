package platform

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// MaxCalls is how many calls one exchange may take: the longest way that a
// platform of ours has is 5.
const MaxCalls = 6

// Step is where an exchange stands: at a call to be made, or at its end. An
// exchange is one attempt of a delivery. Mostly it is one call; some platforms
// want a user registered or a session opened first, and say so by refusing.
// Begin gives its first step and Next the one that follows an answer, so that
// whoever makes the calls need not know what they are about.
type Step struct {
	Request Request
	// Name is what the call is for where it is not the action's own; it goes
	// before the reason of an attempt that ends with it.
	Name string
	// Acts: the call may do what the action says. Only of such a call does a
	// missing answer leave open whether it has.
	Acts   bool
	Keep   int    // bytes of the answer that are needed; 0: as many as usual
	Search string // what the answer is searched for as a whole; "": nothing

	// Opens: the call opens a session. Whoever has another one than Refused
	// needs no call: With goes on with it.
	Opens   bool
	Refused string // the session that is good no more; "": there was none

	// Session is what the answer before has opened: it is to be kept.
	Session string
	// Answer is what the exchange has come to; its class is empty before.
	Answer Answer
	// Subscribed is what an exchange about a subscription has come to besides.
	Subscribed Subscribed

	next func(Response) Step       // nil: the platform's classifier says it
	with func(session string) Step // of a call that opens a session
}

// ended is the step of an exchange that has come to an answer.
func ended(a Answer) Step { return Step{Answer: a} }

// Ended reports whether there is no more call to make.
func (s *Step) Ended() bool { return s.Answer.Class != "" }

// With is the step that follows where a session need not be opened, because
// another exchange has opened one.
func (s *Step) With(session string) Step { return s.with(session) }

// Begin returns the first call of one attempt. An error means that no attempt
// with the same input will do better; it holds no secret.
func (p *Platform) Begin(account Account, call Call) (Step, error) {
	if !slices.Contains(p.Actions, call.Action) {
		return Step{}, fmt.Errorf("%s has no action %q", p.Name, call.Action)
	}
	at, err := p.endpoint(account)
	if err != nil {
		return Step{}, err
	}
	step := Step{Acts: true}
	if p.begin == nil {
		step.Request, err = p.build(at, call)
	} else {
		step, err = p.begin(at, call)
	}
	if err != nil {
		return Step{}, fmt.Errorf("building %s for %s: %w", call.Action, p.Name, err)
	}
	return step, nil
}

// Next says what follows the answer to a step's call: another call, or what
// the answer means for the delivery. now is for a Retry-After that names a
// date.
func (p *Platform) Next(s *Step, r Response, now time.Time) Step {
	var next Step
	if s.next != nil {
		next = s.next(r)
	} else {
		next.Answer = p.classify(r)
	}
	if next.Answer.Class == relay.Retry && next.Answer.RetryAfter == 0 {
		next.Answer.RetryAfter = retryAfter(r.Header.Get("Retry-After"), now)
	}
	return next
}

// masked stands where a secret would.
const masked = "***"

// Preview lists the calls of one attempt on its usual way, as they would be
// made, with every secret masked: none is even looked at.
func (p *Platform) Preview(account Account, call Call) ([]Request, error) {
	step, err := p.Begin(p.maskedAccount(account), call)
	if err != nil {
		return nil, err
	}
	list := []Request{maskedRequest(step.Request)}
	for range p.foreseen { // each of them answers one step
		r, known := p.foreseen[step.Name]
		if !known {
			break
		}
		if step = p.Next(&step, r, call.At); step.Ended() {
			break
		}
		list = append(list, maskedRequest(step.Request))
	}
	return list, nil
}

// maskedAccount puts a mask in the place of every secret that is there.
func (p *Platform) maskedAccount(account Account) Account {
	settings := make(map[string]string, len(account.Settings))
	for _, s := range p.Settings {
		value := account.Settings[s.Name]
		switch {
		case value == "" || !s.Secret:
			settings[s.Name] = value
		case s.Kind == Headers:
			settings[s.Name] = maskedHeaders(value)
		default:
			settings[s.Name] = masked
		}
	}
	account.Settings, account.Session = settings, ""
	return account
}

// maskedRequest masks what Basic credentials are made of, which nobody would
// recognise as a mask.
func maskedRequest(r Request) Request {
	kind, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if _, err := base64.StdEncoding.DecodeString(credentials); kind == "Basic" && err == nil {
		r.Header = r.Header.Clone()
		r.Header.Set("Authorization", "Basic "+masked)
	}
	return r
}

// post writes a call with a JSON body.
func post(url, authorization string, body any) (Request, error) {
	raw, err := encode(body)
	if err != nil {
		return Request{}, err
	}
	return Request{
		Method: http.MethodPost,
		URL:    url,
		Header: http.Header{
			"Authorization": {authorization},
			"Content-Type":  {"application/json"},
			"Accept":        {"application/json"},
		},
		Body: raw,
	}, nil
}
