package relay

import (
	"time"

	"github.com/google/uuid"
)

// MaxReference is the longest reference, in bytes, that can name a wait. A
// longer one, or one with NUL or invalid UTF-8, never matches.
const MaxReference = 255

// Reading is what a provider's preset reads out of one callback: the normal
// form that the rest of the relay works with.
type Reading struct {
	EventID    string         // the provider's own id, or "" when it has none
	Type       string         // the provider's name for what happened
	Outcome    Outcome        // "" when the type means nothing to a wait
	Candidates []Candidate    // where a token or a key may stand, in the order to try them
	References []Candidate    // the provider's own ids: sessions, intents, charges
	Payment    *Payment       // nil when the callback is about no payment
	Form       map[string]any // submitted fields, nil when it is no form
	Format     Format         // how the body is to be read as the raw `event`

	// Live: it is nothing to a wait that is not there yet.
	Live bool

	// Fetch is the provider's id of what the callback is about, where it says
	// no more: what there is to tell is told by whoever is asked for it.
	Fetch string
}

// Candidate is one place of a callback that may name a wait.
type Candidate struct {
	Place string `json:"place"` // where it stood: path, json:data.object.client_reference_id
	Value string `json:"value"`
}

// Format says how the bytes of a body become the raw `event` of expressions.
type Format string

// The formats.
const (
	FormatJSON Format = "json"
	FormatForm Format = "form" // urlencoded or multipart: a flat object of strings
	FormatText Format = "text"
)

// Callback is one received callback on its way into the log: what arrived,
// what the preset read, and how much it is trusted.
type Callback struct {
	ID         uuid.UUID
	ProjectID  int64
	SourceID   int64
	Verdict    Verdict
	Reason     string // why it was rejected or could not be read, "" else
	Reading    Reading
	Item       int       // which one of a body that holds several, from 0
	DedupeKey  *[16]byte // nil: never deduplicated (rejected)
	Body       []byte
	Headers    []byte // JSON object of the headers the preset reads, or nil
	PathToken  string // the last part of the path, where there is one
	Query      string // of the URL, without what proves the callback
	ReceivedAt time.Time
	Answer     []byte    // what the provider said when it was asked whose the event is, or nil
	Named      bool      // the answer holds a name
	For        uuid.UUID // of one that was fetched: the callback that it was fetched for, or zero
}

// Receipt tells what became of a callback, after it was committed.
type Receipt struct {
	EventID       uuid.UUID
	Match         Match
	Rule          string
	CorrelationID uuid.UUID // zero when no wait was named
	Token         string    // of that wait
	Status        Status    // of that wait, after this callback
}
