package relay

// Outcome is what happened to a payment or a form, the same for every
// provider. The zero value is a callback type that means nothing to a wait.
type Outcome string

// The outcomes. The first four are terminal, the next three arrive on the
// way, the last three afterwards.
const (
	Completed Outcome = "completed"
	Failed    Outcome = "failed"
	Cancelled Outcome = "cancelled"
	Expired   Outcome = "expired"

	AttemptFailed Outcome = "attempt_failed" // the payer may try again on the same link
	Processing    Outcome = "processing"     // the bank is slow
	Mismatch      Outcome = "mismatch"       // paid, but not what was expected

	Refunded  Outcome = "refunded"
	Disputed  Outcome = "disputed"
	PaidAgain Outcome = "paid_again" // a second payment for a completed wait
)

// Nudged is what a delivery says that no callback fires: it reminds somebody
// who waits. No provider tells of it.
const Nudged Outcome = "nudge"

// CompletedLate is no outcome of its own: it is the name under which a plan
// may give another action to `completed` on a wait that had already closed.
const CompletedLate = "completed_late"

// DefaultAction is the name of the action that serves terminal outcomes
// without an action of their own.
const DefaultAction = "default"

// TerminalOutcomes lists the outcomes that close a wait, strongest first: of
// several that arrive together the first one wins.
var TerminalOutcomes = []Outcome{Completed, Failed, Cancelled, Expired}

// ActionNames lists every name that may stand under `on:`.
var ActionNames = []string{
	string(Completed), string(Failed), string(Cancelled), string(Expired),
	string(AttemptFailed), string(Processing), string(Mismatch),
	string(Refunded), string(Disputed), string(PaidAgain),
	CompletedLate, DefaultAction,
}

// Terminal reports whether o closes a wait.
func (o Outcome) Terminal() bool { return o.rank() < 4 }

// OnTheWay reports whether o arrives while the wait is still open, so that
// its action is pointless once the wait has closed.
func (o Outcome) OnTheWay() bool { return o == AttemptFailed || o == Processing || o == Nudged }

// rank orders outcomes that are applied to one wait together.
func (o Outcome) rank() int {
	switch o {
	case Completed:
		return 0
	case Failed:
		return 1
	case Cancelled:
		return 2
	case Expired:
		return 3
	case Mismatch:
		return 4
	case Processing:
		return 5
	case AttemptFailed:
		return 6
	default:
		return 7
	}
}

// CompareOutcomes orders outcomes by the precedence in which a batch applies
// them to one wait.
func CompareOutcomes(a, b Outcome) int { return a.rank() - b.rank() }

// Status is the state of a correlation.
type Status string

// The states of a correlation. All but Pending are final.
const (
	Pending          Status = "pending"
	StatusCompleted  Status = "completed"
	StatusFailed     Status = "failed"
	StatusCancelled  Status = "cancelled"
	StatusExpired    Status = "expired"
	StatusSuperseded Status = "superseded"
)

// Statuses lists the states of a correlation.
var Statuses = []Status{Pending, StatusCompleted, StatusFailed, StatusCancelled, StatusExpired, StatusSuperseded}

// Status returns the state in which a terminal outcome leaves its wait, or ""
// for one that is not terminal.
func (o Outcome) Status() Status {
	if !o.Terminal() {
		return ""
	}
	return Status(o)
}

// Verdict says how much a received callback can be trusted.
type Verdict string

// The verdicts.
const (
	Verified Verdict = "verified" // its signature or credential holds
	Unsigned Verdict = "unsigned" // its provider signs nothing; the token is all it has
	Rejected Verdict = "rejected" // it failed the check; it matches nothing
	Fetched  Verdict = "fetched"  // unsigned, and confirmed by asking the provider
)

// Match says what became of an event.
type Match string

// The matches.
const (
	Matched      Match = "matched"
	Parked       Match = "parked"
	Late         Match = "late"
	MatchedAgain Match = "paid_again"
	Duplicate    Match = "duplicate"
	Ignored      Match = "ignored"
	GuardFailed  Match = "guard_failed"
	Ambiguous    Match = "ambiguous"
	OtherProject Match = "other_project"
	Unmatched    Match = "unmatched"
)

// Undone lists the matches of events that did nothing to any wait. Only such
// an event may be matched again, so that none fires twice.
var Undone = []Match{Parked, Ignored, GuardFailed, Ambiguous, OtherProject, Unmatched}

// DeliveryStatus is the state of one call owed to one destination.
type DeliveryStatus string

// The states of a delivery. Scheduled and Sending are owed, Held and Unknown
// wait for a person or a policy, the others are final.
const (
	Scheduled DeliveryStatus = "scheduled"
	Sending   DeliveryStatus = "sending"
	Delivered DeliveryStatus = "delivered"
	Unknown   DeliveryStatus = "unknown"
	Held      DeliveryStatus = "held"
	Dead      DeliveryStatus = "dead"
	Skipped   DeliveryStatus = "skipped"
)

// Class is what one attempt's answer means for the delivery.
type Class string

// The classes of an answer (contracts/outbound-platforms.md).
const (
	OK          Class = "ok"
	Permanent   Class = "permanent"   // the same call will never succeed
	Retry       Class = "retry"       // try again later
	Credentials Class = "credentials" // every call to this destination will fail
	NoAnswer    Class = "unknown"     // sent, and nobody knows whether it acted
)
