// Package platform knows the bot platforms: how a call to each is written and
// what each means by its answer. It promises to be pure. It opens no
// connection, reads no clock and keeps no state; what goes in decides what
// comes out, so that a retry is the same request byte for byte, and a preview
// is exactly what would be sent.
//
// Every platform is one file that declares a Platform: its settings, its
// actions, a check for when a flow is saved, a builder and a classifier. What
// the classifiers share stands in answer.go.
package platform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// MaxBody is the longest body, in bytes, that is built.
const MaxBody = 512 << 10

// Platform is one kind of bot platform. It is read-only.
type Platform struct {
	Name           string
	DefaultBaseURL string    // where a destination without a base_url calls
	Settings       []Setting // what a destination of this platform takes
	Actions        []string  // what it can be asked to do
	TextAction     string    // the one of Actions that says a text to the user

	check    func(relay.Action) error
	build    func(endpoint, Call) (Request, error)
	classify func(Response) Answer
}

// Setting is one field of a destination.
type Setting struct {
	Name     string
	Required bool
	Secret   bool // sealed at rest, never shown
}

// Account is where a destination is and how it is let in.
type Account struct {
	BaseURL  string // "" for the platform's own; may have a path
	Settings map[string]string
}

// Call is one rendered action.
type Call struct {
	Action       string // one of the platform's Actions
	UserID       string
	Conversation string
	ModuleID     any // a number, a text that is a number, or nil
	WaitTime     any // the same
	CustomVars   map[string]any
	Text         string
	Body         any
	Headers      map[string]string
	DeliveryID   string
}

// Request is what goes over the wire.
type Request struct {
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// endpoint is an Account that has been checked.
type endpoint struct {
	base     string // without a slash at its end
	settings map[string]string
}

// platforms lists every platform, in the order of their names.
func platforms() []*Platform { return []*Platform{&certainly} }

// Lookup returns the platform of that name.
func Lookup(name string) (*Platform, bool) {
	for _, p := range platforms() {
		if p.Name == name {
			return p, true
		}
	}
	return nil, false
}

// Names lists the platforms.
func Names() []string {
	var names []string
	for _, p := range platforms() {
		names = append(names, p.Name)
	}
	return names
}

// DefaultAction returns the action that a carries out: the one it names, else
// trigger_response where there is a module_id and the platform has modules,
// else the platform's text.
func (p *Platform) DefaultAction(a relay.Action) string {
	switch {
	case a.Action != "":
		return a.Action
	case a.ModuleID != nil && slices.Contains(p.Actions, relay.TriggerResponse):
		return relay.TriggerResponse
	default:
		return p.TextAction
	}
}

// CheckAction says whether the platform can carry out an action as it stands
// in a flow, before any expression in it is rendered. Its error is a
// *relay.Error that says what to do. A fallback is an action of its own, and
// perhaps of another platform: it is not looked at.
func (p *Platform) CheckAction(a relay.Action) error {
	a.Action = p.DefaultAction(a)
	if a.Action == relay.NoAction {
		return refuseFields(a, nil)
	}
	if !slices.Contains(p.Actions, a.Action) {
		return relay.Errorf(relay.Invalid, "action_unknown", "%s has no action %q: use %s or %s",
			p.Name, a.Action, strings.Join(p.Actions, ", "), relay.NoAction)
	}
	return p.check(a)
}

// Build writes the request of one call. An error means that no attempt with
// the same input will do better; it holds no secret.
func (p *Platform) Build(account Account, call Call) (Request, error) {
	if !slices.Contains(p.Actions, call.Action) {
		return Request{}, fmt.Errorf("%s has no action %q", p.Name, call.Action)
	}
	at, err := p.endpoint(account)
	if err != nil {
		return Request{}, err
	}
	r, err := p.build(at, call)
	if err != nil {
		return Request{}, fmt.Errorf("building %s for %s: %w", call.Action, p.Name, err)
	}
	return r, nil
}

// Classify says what an answer means for the delivery. now is for a
// Retry-After that names a date.
func (p *Platform) Classify(r Response, now time.Time) Answer {
	a := p.classify(r)
	if a.Class == relay.Retry {
		a.RetryAfter = retryAfter(r.Header.Get("Retry-After"), now)
	}
	return a
}

// CheckAccount says whether an account can be called at all, before a
// conversation waits for it. Its error names settings and never their values.
func (p *Platform) CheckAccount(account Account) error {
	_, err := p.endpoint(account)
	return err
}

// endpoint checks an account. Errors name settings and never their values.
func (p *Platform) endpoint(account Account) (endpoint, error) {
	base := account.BaseURL
	if base == "" {
		base = p.DefaultBaseURL
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return endpoint{}, fmt.Errorf("base_url must be scheme, host and at most a path, such as %s", p.DefaultBaseURL)
	}
	for _, s := range p.Settings {
		value := account.Settings[s.Name]
		if value == "" && s.Required {
			return endpoint{}, fmt.Errorf("the destination has no %s", s.Name)
		}
		if strings.ContainsFunc(value, isControl) {
			return endpoint{}, fmt.Errorf("the destination's %s has a line break or another control character in it", s.Name)
		}
	}
	return endpoint{base: strings.TrimRight(base, "/"), settings: account.Settings}, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// encode writes a body as JSON without HTML escapes: < and & are for the user
// to read, not for a page.
func encode(body any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		return nil, fmt.Errorf("writing the body: %w", err)
	}
	if out.Len() > MaxBody {
		return nil, fmt.Errorf("the body has %d bytes, which is more than %d", out.Len(), MaxBody)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
