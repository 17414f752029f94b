package relay

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Project is a tenant. Every row belongs to one; nothing crosses.
type Project struct {
	ID        int64
	Name      string
	Retention Retention // as written; InForce says what holds
	Look      Look      // of its pages
	CreatedAt time.Time
}

// DefaultProject exists from the start.
const DefaultProject = "default"

// FormSource is the name of the built-in source of hosted forms, which every
// project has.
const FormSource = "form"

// Destination is a bot platform account that the relay calls.
type Destination struct {
	ID             int64             `json:"-"`
	ProjectID      int64             `json:"-"`
	Name           string            `json:"-"`
	Platform       string            `json:"-"`
	BaseURL        string            `json:"base_url,omitempty"` // "" means the platform's own
	MaxConcurrency int               `json:"max_concurrency,omitempty"`
	Rate           string            `json:"rate,omitempty"` // "50/s"
	Timeout        Duration          `json:"timeout,omitempty"`
	OnUnknown      string            `json:"on_unknown,omitempty"`
	Settings       map[string]string `json:"settings,omitempty"` // the platform's own public fields
	Secrets        map[string]string `json:"-"`                  // the platform's own secret fields, sealed at rest
	CreatedAt      time.Time         `json:"-"`
	UpdatedAt      time.Time         `json:"-"`
	Deleted        bool              `json:"-"`
	Held           *Hold             `json:"-"` // nil: it is called
	// Releases counts what has ended its holds: a resume, or other
	// credentials. A refusal holds it only while the count is what it was when
	// the call was made.
	Releases  int64 `json:"-"`
	Releasing bool  `json:"-"` // its hold has ended, and deliveries may still be held
}

// Hold says why a destination is not called: until its credentials change, or
// somebody resumes it.
type Hold struct {
	Since  time.Time
	Reason string
}

// Values of Destination.OnUnknown: what follows an attempt of which nobody
// knows whether the platform acted on it.
const (
	RetryUnknown   = "retry"   // send it again; the default
	HoldUnknown    = "hold"    // leave it to a person
	ConfirmUnknown = "confirm" // ask the platform, and send again only what it has not
)

// RetriesUnknown reports whether a policy sends again what may have been
// received. Under the others a delivery is marked before it is sent.
func RetriesUnknown(onUnknown string) bool { return onUnknown == "" || onUnknown == RetryUnknown }

// ParseRate reads calls per time as people write them ("50/s", "90/m",
// "500/h") and returns the time from one call to the next: 10 µs to a day.
func ParseRate(s string) (interval time.Duration, err error) {
	calls, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(calls, 64)
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	every := float64(per) / n
	if err != nil || per == 0 || !(every >= float64(MinInterval) && every <= float64(MaxInterval)) { // not a number is neither
		return 0, Errorf(Invalid, "invalid_rate", "rate: %q is not calls per time such as \"50/s\", \"90/m\" or \"500/h\", from one a day to 100000/s", s)
	}
	return time.Duration(every), nil
}

// Bounds and defaults of a destination.
const (
	DefaultConcurrency = 64
	MaxConcurrency     = 1024
	DefaultTimeout     = 10 * time.Second
	MaxTimeout         = 20 * time.Second // a send begins only while its lease outlasts it
	MinInterval        = 10 * time.Microsecond
	MaxInterval        = 24 * time.Hour
)

// Source is an inbound endpoint: a provider preset with its own secrets.
type Source struct {
	ID          int64             `json:"-"`
	ProjectID   int64             `json:"-"`
	Name        string            `json:"-"`
	Provider    string            `json:"-"` // a preset's name, or "inline"
	Preset      json.RawMessage   `json:"preset,omitempty"`
	Tolerance   Duration          `json:"tolerance,omitempty"`
	TokenField  string            `json:"token_field,omitempty"`
	KeyField    string            `json:"key_field,omitempty"`
	PublicURL   string            `json:"public_url,omitempty"`
	WebhookIDs  []string          `json:"webhook_ids,omitempty"` // in place of secrets, where the provider's key is its own
	Subscribe   *Subscribe        `json:"subscribe,omitempty"`
	Settings    map[string]string `json:"settings,omitempty"` // public fields that a preset needs besides
	Credentials map[string]string `json:"-"`                  // to ask the provider with, sealed at rest
	Secrets     []SourceSecret    `json:"-"`
	CreatedAt   time.Time         `json:"-"`
	UpdatedAt   time.Time         `json:"-"`
}

// InlineProvider is the Provider of a source whose preset the user wrote.
const InlineProvider = "inline"

// SourceSecret is one secret that callbacks of a source may be signed with.
type SourceSecret struct {
	ID        uuid.UUID
	Secret    string
	CreatedAt time.Time
	ExpiresAt *time.Time
	// Subscribed: the platform gave it with a subscription, and perhaps to
	// others too. It proves a callback at the source's own address alone.
	Subscribed bool
}

// LiveAt reports whether callbacks may be signed with it at a time.
func (s *SourceSecret) LiveAt(now time.Time) bool {
	return s.ExpiresAt == nil || now.Before(*s.ExpiresAt)
}

// APIKey is what a caller of the API holds. The key itself is stored nowhere.
type APIKey struct {
	ID        uuid.UUID
	ProjectID int64 // 0: an instance key
	Name      string
	Scope     Scope
	Hash      [32]byte
	Hint      string // its first characters, to tell keys apart in a list
	CreatedAt time.Time
}

// hintLength is how much of a key is shown, to tell keys apart: 30 bits of
// the 130 that it has.
const hintLength = 9

// MintAPIKey returns the text of a new key, of 130 random bits.
func MintAPIKey() string { return "rk_" + rand.Text() }

// NewAPIKey makes the stored form of a key. projectID is 0 for an instance
// key.
func NewAPIKey(text string, projectID int64, name string, scope Scope) APIKey {
	return APIKey{
		ID: NewID(), ProjectID: projectID, Name: name, Scope: scope,
		Hash: sha256.Sum256([]byte(text)), Hint: text[:min(hintLength, len(text)/4)] + "…",
	}
}

// Scope is what an API key may do.
type Scope string

// The scopes, each including the ones before it but for ScopeCreate, which
// may only register waits and read its project's own.
const (
	ScopeRead     Scope = "read"
	ScopeCreate   Scope = "create"
	ScopeWrite    Scope = "write"
	ScopeAdmin    Scope = "admin"
	ScopeInstance Scope = "instance"
)

// Flow is a reusable wait, as people write it. The same fields may stand in
// the registration of a single wait, where they override the flow's.
type Flow struct {
	Name          string            `json:"-"`
	Destination   string            `json:"destination,omitempty"`
	Source        Names             `json:"source,omitempty"`
	Link          Links             `json:"link,omitzero"`
	Form          *Form             `json:"form,omitempty"`
	Create        *Create           `json:"create,omitempty"`
	ExpiresIn     Duration          `json:"expires_in,omitempty"`
	Expect        *Expect           `json:"expect,omitempty"`
	When          string            `json:"when,omitempty"`
	OnConflict    string            `json:"on_conflict,omitempty"`
	ProcessingFor Duration          `json:"processing_for,omitempty"`
	RetryFor      Duration          `json:"retry_for,omitempty"`
	ReturnURL     string            `json:"return_url,omitempty"`
	CustomVars    map[string]any    `json:"custom_vars,omitempty"`
	Nudge         Nudges            `json:"nudge,omitempty"`
	On            map[string]Action `json:"on,omitempty"`
	Look          *Look             `json:"look,omitempty"` // of its pages; no part of a wait
	CreatedAt     time.Time         `json:"-"`
	UpdatedAt     time.Time         `json:"-"`
}

// Values of Flow.OnConflict: what happens to an older pending wait.
const (
	Supersede = "supersede"
	Keep      = "keep"
	Reject    = "reject"
)

// Bounds and defaults of a flow.
const (
	DefaultExpiresIn     = 24 * time.Hour
	MinExpiresIn         = time.Second
	MaxExpiresIn         = 30 * 24 * time.Hour
	DefaultProcessingFor = 72 * time.Hour
	DefaultRetryFor      = 6 * time.Hour
	MaxRetryFor          = 7 * 24 * time.Hour
)

// Names is one name or a list of names.
type Names []string

// UnmarshalJSON reads "stripe" as well as ["stripe", "paypal"].
func (n *Names) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte(`"`)) {
		var one string
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*n = Names{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return Errorf(Invalid, "wrong_type", "want a name or a list of names")
	}
	*n = many
	return nil
}

// MarshalJSON writes a single name as a string.
func (n Names) MarshalJSON() ([]byte, error) {
	if len(n) == 1 {
		return json.Marshal(n[0])
	}
	return json.Marshal([]string(n))
}

// Links is the link to show, one for all sources or one per source.
type Links struct {
	Any      string
	BySource map[string]string
}

// IsZero reports whether there is no link.
func (l Links) IsZero() bool { return l.Any == "" && len(l.BySource) == 0 }

// UnmarshalJSON reads "https://…" as well as {"stripe": "https://…"}.
func (l *Links) UnmarshalJSON(b []byte) error {
	*l = Links{}
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte(`"`)) {
		return json.Unmarshal(b, &l.Any)
	}
	if err := json.Unmarshal(b, &l.BySource); err != nil {
		return Errorf(Invalid, "wrong_type", "want a link, or an object of source and link")
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (l Links) MarshalJSON() ([]byte, error) {
	if l.BySource != nil {
		return json.Marshal(l.BySource)
	}
	return json.Marshal(l.Any)
}

// Override returns f with every field that over sets taken from over: `on`
// outcome by outcome, custom_vars merged name by name, the rest as a whole.
func (f Flow) Override(over Flow) Flow {
	if over.Destination != "" {
		f.Destination = over.Destination
	}
	if over.Source != nil {
		f.Source = over.Source
	}
	if !over.Link.IsZero() {
		f.Link = over.Link
	}
	if over.Form != nil {
		f.Form = over.Form
	}
	if over.Create != nil {
		f.Create = over.Create
	}
	if over.ExpiresIn != 0 {
		f.ExpiresIn = over.ExpiresIn
	}
	if over.Expect != nil {
		f.Expect = over.Expect
	}
	if over.When != "" {
		f.When = over.When
	}
	if over.OnConflict != "" {
		f.OnConflict = over.OnConflict
	}
	if over.ProcessingFor != 0 {
		f.ProcessingFor = over.ProcessingFor
	}
	if over.RetryFor != 0 {
		f.RetryFor = over.RetryFor
	}
	if over.ReturnURL != "" {
		f.ReturnURL = over.ReturnURL
	}
	if over.Nudge != nil {
		f.Nudge = over.Nudge
	}
	f.On = merge(f.On, over.On)
	f.CustomVars = merge(f.CustomVars, over.CustomVars)
	return f
}

// merge returns base with over's entries put on top, touching neither.
func merge[V any](base, over map[string]V) map[string]V {
	if len(over) == 0 {
		return base
	}
	out := make(map[string]V, len(base)+len(over))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range over {
		out[k] = v
	}
	return out
}
