package relay

import (
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
)

// Lease is how long a node may hold a delivery, by the database's clock. It
// outlasts the longest attempt with its recording; a node that dies loses the
// delivery to the others after this time.
const Lease = 30 * time.Second

// Delivery is one call owed to one destination, with all that is needed to
// render it. It is handed over in memory right after its commit, or read back
// by the poller; the row is the truth either way.
type Delivery struct {
	ID            uuid.UUID
	ProjectID     int64
	EventID       uuid.UUID // zero: fired by a deadline or by hand
	DestinationID int64
	Outcome       Outcome
	Action        string // the name under `on:` in the plan
	Attempts      int    // made so far
	RetryFor      time.Duration
	Lease         uuid.UUID // proves that the row is still ours
	LeaseEnds     time.Time // by this node's monotonic clock, never later than the row's
	Conversation  uuid.UUID // hash of destination and conversation: one is sent at a time; zero: of before there was an order
	ByHand        bool      // a person retried it: it is sent whatever its wait does
	Sent          bool      // its node died while it was being sent, or just before
	TimeUp        bool      // its time to try was over when it was claimed

	Wait    Wait // as the event left it
	Payment *Payment
	Form    map[string]any
	Format  Format
	Body    []byte // of the event; nil when there was none or retention blanked it
	BodyErr error  // the stored body cannot be read
}

// FallbackID is the id of the delivery that takes the place of another one: the
// next one in the order of creation, before all that came after it. It is the
// same each time that it is asked for, so that there can be one.
func FallbackID(id uuid.UUID) uuid.UUID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// Pointless reports whether the conversation has gone on: the wait that fired
// the delivery on its way has ended since, and nobody asked for the call; or
// there is nobody to be told.
func (d *Delivery) Pointless() bool {
	return d.Wait.Erased() || d.Outcome.OnTheWay() && d.Wait.Status != Pending && !d.ByHand
}

// Attempt is one try to make a delivery's call, and what follows from it.
type Attempt struct {
	ProjectID  int64
	DeliveryID uuid.UUID
	Lease      uuid.UUID
	// Conversation is the delivery's: what its end lets the next one follow in.
	Conversation uuid.UUID
	OnTheWay     bool // the end of its wait makes the delivery pointless
	StartedAt    time.Time
	Duration     time.Duration
	Class        Class
	HTTPStatus   int // 0: no answer
	Reason       string
	Response     string // its first 2 KiB
	Notes        []byte // JSON array of expressions without a value, or nil

	// Fallback is owed in the place of a delivery that this attempt has ended
	// for good; nil: nothing is.
	Fallback *Delivery

	Next  DeliveryStatus
	Delay time.Duration // until the next attempt, where Next is Scheduled
}

// Bounds of the retry schedule (promise 14).
const (
	firstDelay      = time.Second
	maxDelay        = 5 * time.Minute
	maxRetryAfter   = 15 * time.Minute
	credentialDelay = time.Second
	confirmDelay    = 5 * time.Second // until a platform is asked about what it may still be doing
)

// NextTry says what follows attempt number n (from 1) of the given class, and
// after which delay: exponential backoff with full jitter, or what the
// destination asked for when that is longer. onUnknown is the destination's
// policy for an attempt without an answer. random is uniform in [0,1).
func NextTry(class Class, n int, retryAfter time.Duration, onUnknown string, random float64) (DeliveryStatus, time.Duration) {
	switch class {
	case NoAnswer:
		if onUnknown == HoldUnknown {
			return Unknown, 0
		}
		delay := backoff(n, retryAfter, random)
		if onUnknown == ConfirmUnknown {
			delay = max(delay, confirmDelay) // the next attempt asks, before it sends
		}
		return Scheduled, delay
	case OK:
		return Delivered, 0
	case Permanent:
		return Dead, 0
	case Credentials:
		// Every call would fail until somebody changes the secret. The
		// destination is held by then, and whoever claims it next holds it too.
		return Scheduled, credentialDelay
	default:
		return Scheduled, backoff(n, retryAfter, random)
	}
}

func backoff(n int, retryAfter time.Duration, random float64) time.Duration {
	longest := maxDelay
	if n < 10 { // 1 s × 2⁹ is past the cap
		longest = min(maxDelay, firstDelay<<(n-1))
	}
	jittered := time.Duration(random * float64(longest))
	return max(jittered, min(retryAfter, maxRetryAfter))
}

// Jitter is the randomness of NextTry outside tests.
func Jitter() float64 { return rand.Float64() } //nolint:gosec // it spreads load, it guards nothing
