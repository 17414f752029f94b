package sandbox

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"relay.example/relay/internal/relay"
)

// The bounds of what can be switched.
const (
	maxLatency  = 5 * time.Minute // of latency, and again of jitter
	maxFaults   = 100
	maxNamed    = 10_000 // unknown users, and known modules
	maxOverride = 20     // headers of one fault
)

// Switches say how a platform behaves. The zero value is one that works: it
// answers at once and knows every user and module.
type Switches struct {
	Latency      relay.Delay `json:"latency,omitzero"` // before a call takes effect, at most 5m
	Jitter       relay.Delay `json:"jitter,omitzero"`  // and up to this much more, by chance, at most 5m
	Faults       []Fault     `json:"faults,omitempty"` // the first that matches and is left applies
	UnknownUsers []string    `json:"unknown_users,omitzero"`
	Modules      []int64     `json:"modules,omitzero"`  // those that exist; absent: all
	Closed       []string    `json:"closed,omitzero"`   // conversations of Smartify that have ended
	NoHooks      bool        `json:"no_hooks,omitzero"` // Smartify takes subscriptions and tells nobody (RESTHOOK_ENABLED)
	Token        string      `json:"token,omitempty"`   // write-only; absent: unchanged
}

// Fault is one way to fail, for some calls. It has either the name of an
// answer or a status of its own.
type Fault struct {
	Match  Match  `json:"match,omitzero"`
	Times  int64  `json:"times"`            // how many calls meet it; 0: all, until it is switched off
	Answer string `json:"answer,omitempty"` // by name, see FaultNames

	Status  int               `json:"status,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`    // a string is sent as text, anything else as JSON
	Headers map[string]string `json:"headers,omitempty"` // in addition to a named answer's own, too

	// Acts says whether the call takes effect all the same. By default it
	// does for `reset` and `close_after_read` only.
	Acts *bool `json:"acts,omitempty"`
	Met  int64 `json:"met,omitempty"` // read-only: how many calls met it
}

// Match says which calls meet a fault: all that agree with every field given.
type Match struct {
	UserID string `json:"user_id,omitempty"`
	Path   string `json:"path,omitempty"` // a part of the path, such as trigger-response
	Method string `json:"method,omitempty"`
}

// FaultNames lists the answers that a fault of Certainly may name: its own
// first, then those in which the connection breaks. The others have their own.
func FaultNames() []string {
	return append([]string{
		"credentials", "unknown_user", "unknown_module", "null_message", "error_array",
		"rate_limited", "server_error",
	}, brokenConnections...)
}

// switchboard is Switches made ready for use. Only the counts of its faults
// change: new switches are a new board, so that a call reads one state of
// them throughout and takes no lock.
type switchboard struct {
	switches     Switches // as given, without the token
	token        string
	faults       []*armedFault
	unknownUsers map[string]bool
	modules      map[int64]bool // nil: all
	closed       map[string]bool
}

type armedFault struct {
	match  Match
	times  int64
	met    atomic.Int64
	acts   bool
	name   string
	answer answer
}

// arm checks switches and makes them ready. A token that is not given stays.
func (p *platform) arm(sw Switches) error {
	if err := sw.check(); err != nil {
		return err
	}
	board := &switchboard{token: sw.Token, unknownUsers: setOf(sw.UnknownUsers), modules: setOf(sw.Modules), closed: setOf(sw.Closed)}
	for _, f := range sw.Faults {
		armed, err := p.armFault(f)
		if err != nil {
			return err
		}
		board.faults = append(board.faults, armed)
	}
	sw.Token = ""
	board.switches = sw
	for {
		old := p.switches.Load()
		if board.token == "" {
			board.token = old.token
		}
		if p.switches.CompareAndSwap(old, board) {
			return nil
		}
	}
}

func (sw *Switches) check() error {
	for _, d := range []relay.Delay{sw.Latency, sw.Jitter} {
		if d < 0 || time.Duration(d) > maxLatency {
			return relay.Errorf(relay.Invalid, "latency_out_of_range", "latency and jitter lie between 0s and 5m")
		}
	}
	if len(sw.Faults) > maxFaults {
		return relay.Errorf(relay.Invalid, "too_many_faults", "give at most %d faults", maxFaults)
	}
	if len(sw.UnknownUsers) > maxNamed || len(sw.Closed) > maxNamed || len(sw.Modules) > maxNamed {
		return relay.Errorf(relay.Invalid, "too_many_names", "give at most %d unknown users and %d modules", maxNamed, maxNamed)
	}
	return nil
}

func (p *platform) armFault(f Fault) (*armedFault, error) {
	if f.Met != 0 {
		return nil, relay.Errorf(relay.Invalid, "fault_met_is_read_only", "leave out met: it is counted here")
	}
	if f.Times < 0 || len(f.Headers) > maxOverride {
		return nil, relay.Errorf(relay.Invalid, "fault_out_of_range", "times is 0 or more, headers are at most %d", maxOverride)
	}
	if (f.Answer == "") == (f.Status == 0) {
		return nil, relay.Errorf(relay.Invalid, "fault_unclear", "give a fault either answer or status")
	}
	a, acts, err := p.answerOf(f)
	if err != nil {
		return nil, err
	}
	if f.Acts != nil {
		acts = *f.Acts
	}
	name := f.Answer
	if name == "" {
		name = "status"
	}
	return &armedFault{match: f.Match, times: f.Times, acts: acts, name: name, answer: a.withHeader(f.Headers)}, nil
}

func (p *platform) answerOf(f Fault) (a answer, acts bool, err error) {
	if f.Status != 0 {
		a, err = explicitAnswer(f)
		return a, false, err
	}
	if f.Body != nil {
		return answer{}, false, relay.Errorf(relay.Invalid, "fault_unclear", "a named answer has its own body: give status to send another")
	}
	if a, ok := p.answers(f.Answer); ok {
		return a, false, nil
	}
	if a, acts, ok := brokenConnection(f.Answer); ok {
		return a, acts, nil
	}
	return answer{}, false, relay.Errorf(relay.Invalid, "fault_unknown",
		"no answer is called %q: choose one of %s", f.Answer, strings.Join(p.faults, ", "))
}

func explicitAnswer(f Fault) (answer, error) {
	if f.Status < 200 || f.Status > 599 {
		return answer{}, relay.Errorf(relay.Invalid, "fault_out_of_range", "a status lies between 200 and 599")
	}
	var text string
	if json.Unmarshal(f.Body, &text) == nil {
		a := jsonAnswer(f.Status, text)
		a.header["Content-Type"] = "text/plain; charset=utf-8"
		return a, nil
	}
	return jsonAnswer(f.Status, string(f.Body)), nil
}

// view returns the switches as they are shown: with the counts, without the
// token.
func (b *switchboard) view() Switches {
	sw := b.switches
	sw.Faults = slices.Clone(sw.Faults)
	for i, f := range b.faults {
		sw.Faults[i].Met = f.count()
	}
	return sw
}

// delay is how long this call takes.
func (b *switchboard) delay() time.Duration {
	d := time.Duration(b.switches.Latency)
	if jitter := int64(b.switches.Jitter); jitter > 0 {
		d += time.Duration(rand.Int64N(jitter + 1)) //nolint:gosec // chance, not a secret
	}
	return d
}

// faultFor takes one turn of the first fault that the call meets.
func (b *switchboard) faultFor(c *call) *armedFault {
	for _, f := range b.faults {
		if f.match.covers(c) && f.take() {
			return f
		}
	}
	return nil
}

// carryOut lets the call act unless its fault forbids, and answers for the
// fault where there is one.
func (b *switchboard) carryOut(f *armedFault, c *call, act func(*switchboard, *call) reply) reply {
	switch {
	case f == nil:
		return act(b, c)
	case f.acts:
		return reply{message: act(b, c).message, answer: f.answer}
	default:
		return reply{message: Message{From: FromRelay, Kind: KindRefused, Text: "fault: " + f.name}, answer: f.answer}
	}
}

func (m Match) covers(c *call) bool {
	return (m.UserID == "" || m.UserID == c.userID) && strings.Contains(c.path, m.Path) && (m.Method == "" || m.Method == c.method)
}

// take reports whether a turn was left. The count may pass times, by calls
// that came too late.
func (f *armedFault) take() bool {
	n := f.met.Add(1)
	return f.times == 0 || n <= f.times
}

func (f *armedFault) count() int64 {
	n := f.met.Load()
	if f.times > 0 {
		return min(n, f.times)
	}
	return n
}

// setOf returns nil for nil: absent is not empty.
func setOf[T comparable](list []T) map[T]bool {
	if list == nil {
		return nil
	}
	set := make(map[T]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}
