package relay

import "time"

// Retention is for how long a project keeps what. Zero: by default.
type Retention struct {
	EventBody   Duration `json:"event_body,omitempty"`   // bytes and personal details of callbacks, from their receipt
	AttemptBody Duration `json:"attempt_body,omitempty"` // what platforms answered, from the birth of the delivery
	Correlation Duration `json:"correlation,omitempty"`  // waits and all that belongs to them, from their end
}

// DefaultRetention is what a project keeps that says nothing else.
var DefaultRetention = Retention{EventBody: Duration(30 * day), AttemptBody: Duration(14 * day), Correlation: Duration(400 * day)}

const day = 24 * time.Hour

// DedupeKept is for how long an event keeps its later copies out, at least:
// no provider sends one for so long.
const DedupeKept = 30 * day

// The bounds of a Retention. Bytes are needed for as long as an event may be
// parked, or rejected for a secret that somebody mends; correlations for as
// long as dedupe keys are promised. Neither bytes nor answers outlive the rows
// that they stand in.
const (
	MinEventBody   = 3 * day
	MinAttemptBody = day
	MinCorrelation = DedupeKept
	MaxCorrelation = 3650 * day
)

// InForce is r with its defaults. Where a default would outlive the rows, it
// ends with them.
func (r Retention) InForce() Retention {
	if r.Correlation == 0 {
		r.Correlation = DefaultRetention.Correlation
	}
	if r.EventBody == 0 {
		r.EventBody = min(DefaultRetention.EventBody, r.Correlation)
	}
	if r.AttemptBody == 0 {
		r.AttemptBody = min(DefaultRetention.AttemptBody, r.Correlation)
	}
	return r
}

// Check refuses what would break a promise.
func (r Retention) Check() error {
	r = r.InForce()
	for _, f := range []struct {
		name       string
		value      Duration
		atLeast    time.Duration
		atMost     time.Duration
		atMostWhat string
	}{
		{"correlation", r.Correlation, MinCorrelation, MaxCorrelation, ""},
		{"event_body", r.EventBody, MinEventBody, time.Duration(r.Correlation), " (correlation)"},
		{"attempt_body", r.AttemptBody, MinAttemptBody, time.Duration(r.Correlation), " (correlation)"},
	} {
		if time.Duration(f.value) < f.atLeast || time.Duration(f.value) > f.atMost {
			return Errorf(Invalid, "invalid_duration", "%s: %s is not between %s and %s%s",
				f.name, f.value, Duration(f.atLeast), Duration(f.atMost), f.atMostWhat)
		}
	}
	return nil
}
