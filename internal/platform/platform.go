// Package platform knows the bot platforms: how a call to each is written and
// what each means by its answer. It promises to be pure. It opens no
// connection, reads no clock and keeps no state; what goes in decides what
// comes out, so that a retry is the same request byte for byte (but for the
// time that a webhook is signed at), and a preview is exactly what would be
// sent.
//
// Every platform is one file that declares a Platform: its settings, its
// actions, a check for when a flow is saved, and either a builder and a
// classifier, where one call is all that it takes, or the steps of an
// exchange (exchange.go). What the classifiers share stands in answer.go.
package platform

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// MaxBody is the longest body, in bytes, that is built.
const MaxBody = 512 << 10

// Platform is one kind of bot platform. It is read-only.
type Platform struct {
	Name           string
	DefaultBaseURL string    // where a destination without a base_url calls; "": each has its own
	AddressSetting string    // the setting that holds the whole address, where there is no base_url
	Settings       []Setting // what a destination of this platform takes
	Actions        []string  // what it can be asked to do
	TextAction     string    // the one of Actions that is meant where none is named
	HTMLText       bool      // a text is shown as HTML: what expressions give is escaped in it
	Sessions       bool      // it may have to be signed in to; what that gives serves later exchanges too
	Confirms       bool      // it is asked, before each send, whether an earlier one has arrived

	check        func(relay.Action) error
	checkAccount func(endpoint) error // what its settings must be besides; nil: nothing
	build        func(endpoint, Call) (Request, error)
	classify     func(Response) Answer
	begin        func(endpoint, Call) (Step, error) // in place of the two above
	foreseen     map[string]Response                // what leads an exchange to its action, by the step that it answers, for Preview

	subscribe  func(endpoint, Subscription) (Step, error) // nil: it takes no subscriptions
	checkEvent func(string) error
}

// Setting is one field of a destination.
type Setting struct {
	Name     string
	Required bool
	Secret   bool // sealed at rest, never shown
	Kind     Kind
}

// Kind is how a setting is written. All are kept as texts.
type Kind int

// The kinds.
const (
	Text    Kind = iota
	Number       // a whole number, not negative
	Headers      // an object of texts, kept as JSON
)

// Account is where a destination is and how it is let in.
type Account struct {
	BaseURL  string // "" for the platform's own; may have a path
	Settings map[string]string
	Session  string // what an earlier exchange has learned, or ""
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
	At           time.Time // of the attempt
	// Doubtful: an earlier attempt may have arrived, and another send is only
	// right where the platform can say that it has not.
	Doubtful bool
	// Said is how often it has been said for certain, by Stands, before a
	// person had it said again: what stands there is not what is to be said.
	Said int
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
	session  string
}

// platforms lists every platform, in the order of their names.
func platforms() []*Platform {
	return []*Platform{&certainly, &haptik, &smartify, &userengage, &webhook}
}

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

// CheckAccount says whether an account can be called at all, before a
// conversation waits for it. Its error names settings and never their values.
func (p *Platform) CheckAccount(account Account) error {
	at, err := p.endpoint(account)
	if err != nil {
		return err
	}
	for _, s := range p.Settings {
		value := at.settings[s.Name]
		if _, err := strconv.ParseUint(value, 10, 53); s.Kind == Number && value != "" && err != nil {
			return fmt.Errorf("%s must be a whole number, such as 12345", s.Name)
		}
	}
	if p.checkAccount == nil {
		return nil
	}
	return p.checkAccount(at)
}

// Address returns what an account's calls go to, or "" where that is missing.
func (p *Platform) Address(account Account) string {
	if p.AddressSetting != "" {
		return account.Settings[p.AddressSetting]
	}
	return cmp.Or(account.BaseURL, p.DefaultBaseURL)
}

// endpoint checks an account. Errors name settings and never their values.
func (p *Platform) endpoint(account Account) (endpoint, error) {
	base := p.Address(account)
	u, err := url.Parse(base)
	switch {
	case p.AddressSetting != "" && account.BaseURL != "":
		return endpoint{}, fmt.Errorf("%s has no base_url: its whole address is its %s", p.Name, p.AddressSetting)
	case p.AddressSetting != "" && (err != nil || u.Host == "" || u.User != nil || u.Fragment != ""):
		return endpoint{}, fmt.Errorf("%s must be an address such as https://bots.example/hook, without a user name and without a #", p.AddressSetting)
	case p.AddressSetting == "" && (err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != ""):
		return endpoint{}, fmt.Errorf("base_url must be scheme, host and at most a path, such as %s", cmp.Or(p.DefaultBaseURL, "https://bots.example"))
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
	if p.AddressSetting == "" {
		base = strings.TrimRight(base, "/")
	}
	return endpoint{base: base, settings: account.Settings, session: account.Session}, nil
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
