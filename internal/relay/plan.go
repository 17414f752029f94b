package relay

import (
	"encoding/json"
	"strings"
)

// Action is the call that an outcome fires, as people write it.
type Action struct {
	Action      string            `json:"action,omitempty" yaml:"action,omitempty"`
	ModuleID    any               `json:"module_id,omitempty" yaml:"module_id,omitempty"` // number, or an expression
	WaitTime    any               `json:"wait_time,omitempty" yaml:"wait_time,omitempty"`
	CustomVars  map[string]any    `json:"custom_vars,omitempty" yaml:"custom_vars,omitempty"`
	Text        string            `json:"text,omitempty" yaml:"text,omitempty"`
	Body        any               `json:"body,omitempty" yaml:"body,omitempty"`
	Headers     map[string]string `json:"headers,omitempty" yaml:"headers,omitempty"`
	Destination string            `json:"destination,omitempty" yaml:"destination,omitempty"` // another than the flow's
	Fallback    *Action           `json:"fallback,omitempty" yaml:"fallback,omitempty"`

	// DestinationID is filled in when a plan is made: a name may be given
	// to another destination while the wait lasts.
	DestinationID int64 `json:"destination_id,omitempty" yaml:"-"`
}

// MaxFallbacks is how many actions may stand behind one another: each is the
// fallback of the one before.
const MaxFallbacks = 3

// FallbackName is the name of the action that stands behind the one of that
// name: completed.fallback, completed.fallback.fallback.
func FallbackName(action string) string { return action + fallbackSuffix }

// IsFallback reports whether an action's name is that of a fallback.
func IsFallback(action string) bool { return strings.HasSuffix(action, fallbackSuffix) }

const fallbackSuffix = ".fallback"

// The names that Action.Action may hold.
const (
	TriggerResponse = "trigger_response"
	TriggerMessage  = "trigger_message"
	SendMessage     = "message"
	CallWebhook     = "webhook"
	NoAction        = "none"
)

// Expect is what a payment must be; what differs is the outcome `mismatch`.
type Expect struct {
	Currency string `json:"currency,omitempty" yaml:"currency,omitempty"`
	Amount   any    `json:"amount,omitempty" yaml:"amount,omitempty"` // in units: 20.5, "20.50" or an expression
	Account  string `json:"account,omitempty" yaml:"account,omitempty"`
	Live     *bool  `json:"live,omitempty" yaml:"live,omitempty"`
}

// Plan is what a wait will do, frozen at its creation: a later change of the
// flow does not touch waits that exist. Equal plans are stored once.
type Plan struct {
	On            map[string]Action `json:"on,omitempty"`
	CustomVars    map[string]any    `json:"custom_vars,omitempty"`
	Expect        *Expect           `json:"expect,omitempty"`
	When          string            `json:"when,omitempty"`
	Link          map[string]string `json:"link,omitempty"` // by source name
	Form          *Form             `json:"form,omitempty"`
	Create        *Create           `json:"create,omitempty"`
	ReturnURL     string            `json:"return_url,omitempty"`
	Nudge         Nudges            `json:"nudge,omitempty"`
	ProcessingFor Duration          `json:"processing_for,omitempty"`
	RetryFor      Duration          `json:"retry_for,omitempty"`
}

// ActionFor returns the action that a step fires and the name it stands
// under. `completed_late` falls back to `completed`, terminal outcomes to
// `default`. ok is false where nothing is to be called.
func (p *Plan) ActionFor(step Step) (name string, a Action, ok bool) {
	names := []string{step.Action}
	if step.Action == CompletedLate {
		names = append(names, string(Completed))
	}
	if step.Fires.Terminal() {
		names = append(names, DefaultAction)
	}
	for _, name := range names {
		if a, found := p.On[name]; found {
			return name, a, a.Action != NoAction
		}
	}
	return "", Action{}, false
}

// Canonical returns the bytes by which equal plans are recognised: JSON with
// sorted keys, as encoding/json writes maps and structs.
func (p *Plan) Canonical() ([]byte, error) { return json.Marshal(p) }
