package relay

import (
	"bytes"
	"fmt"
	"time"
)

// Nudge reminds somebody who waits, once: a time after the wait was registered,
// unless there is no need any more.
type Nudge struct {
	After  Duration `json:"after"`
	Unless string   `json:"unless,omitempty"` // opened or finished; "": finished
	Action
}

// Values of Nudge.Unless. No nudge follows the end of its wait, or a payment
// that is on its way.
const (
	UnlessOpened   = "opened"   // nor the opening of its link
	UnlessFinished = "finished" // the end alone stops it
)

// MaxNudges is how many nudges a wait may have.
const MaxNudges = 5

// Nudges is one nudge or a list of them.
type Nudges []Nudge

// UnmarshalJSON reads {"after": …} as well as a list of such objects.
func (n *Nudges) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte(`{`)) {
		*n = make(Nudges, 1)
		return Decode(b, &(*n)[0])
	}
	return Decode(b, (*[]Nudge)(n))
}

// NudgeAction is the name of a plan's nudge where those of outcomes stand.
func NudgeAction(number int) string { return fmt.Sprintf("nudge_%d", number+1) }

// Check holds nudges of waits that last so long against their bounds.
func (n Nudges) Check(expiresIn time.Duration) error {
	if len(n) > MaxNudges {
		return Errorf(Invalid, "too_many_nudges", "nudge: there are %d: give at most %d", len(n), MaxNudges)
	}
	for i, one := range n {
		switch {
		case one.Unless != "" && one.Unless != UnlessOpened && one.Unless != UnlessFinished:
			return Errorf(Invalid, "invalid_unless", "nudge[%d].unless: %q is none of opened, finished", i, one.Unless)
		case one.After == 0:
			return Errorf(Invalid, "invalid_duration", `nudge[%d].after: say how long after the registration, such as "10m"`, i)
		case time.Duration(one.After) < MinExpiresIn || time.Duration(one.After) > MaxExpiresIn:
			return Errorf(Invalid, "invalid_duration", "nudge[%d].after: %s is not between %s and %s",
				i, one.After, Duration(MinExpiresIn), Duration(MaxExpiresIn))
		case time.Duration(one.After) >= expiresIn:
			return Errorf(Invalid, "nudge_too_late", "nudge[%d].after: the wait ends after %s: nudge before that", i, Duration(expiresIn))
		}
	}
	return nil
}
