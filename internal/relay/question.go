package relay

import (
	"time"

	"github.com/google/uuid"
)

// Question is something that a provider is to be asked: whose an event is,
// what a callback is about that says no more, or what has become of a payment
// whose wait is about to expire.
type Question struct {
	ID            uuid.UUID
	ProjectID     int64
	SourceID      int64
	EventID       uuid.UUID // whose is it, or what is it about? Else zero
	Fetches       bool      // what is it about: the answer becomes an event of its own
	Strange       bool      // a stranger could have caused it: nobody has signed its callback, and that names no wait
	Repeats       bool      // its callback came once more: it is asked anew, not sooner than AskAgainAfter
	CorrelationID uuid.UUID // is it paid? Else zero
	About         string    // the provider's id to ask by
	After         time.Duration

	// Of one that a node has claimed.
	PlanID   uuid.UUID // of the wait
	Tries    int
	Lease    uuid.UUID
	Moot     bool          // decided by somebody else meanwhile
	Answered bool          // an event's answer is kept; the event is still to be decided by it
	Left     time.Duration // until it is given up
}

// OfWait reports whether q asks what has become of a payment.
func (q *Question) OfWait() bool { return q.CorrelationID != uuid.Nil }

// TooEarly reports whether the provider may know more soon of the event that
// it was asked about.
func (q *Question) TooEarly() bool { return !q.OfWait() && InquireFor-q.Left < LinkLag }

// Answered is what a try to ask has come to.
type Answered string

// The results of a try.
const (
	AnswerFound   Answered = "found"   // the provider knows it
	AnswerNone    Answered = "none"    // it knows nothing of it
	AnswerRefused Answered = "refused" // it refuses the api_key
	AnswerFailed  Answered = "failed"  // no usable answer
	AnswerMoot    Answered = "moot"    // nobody needs to know any more
)

// Usable reports whether the provider has said what it knows.
func (a Answered) Usable() bool { return a == AnswerFound || a == AnswerNone }

// The bounds of asking. An event is asked about for as long as it is parked; a
// wait is not kept longer than its users can be made to wait.
const (
	ReconcileFor  = time.Minute
	MaxWaitTries  = 3
	InquireFor    = 72 * time.Hour
	MaxEventTries = 30
	// LinkLag is how long a provider may take to know what its own event
	// belongs to: that it knows nobody is final after that only.
	LinkLag = 30 * time.Second
	// An object that a callback is about is asked for once in AskAgainAfter,
	// however often the callback comes; one that the provider does not know
	// once in AskUnknownAfter. Anybody may post the id of what does not exist.
	AskAgainAfter   = 10 * time.Second
	AskUnknownAfter = 10 * time.Minute
	// MaxStrangeWaiting is how many questions of one source wait that strangers
	// could have caused. Their providers may be out of reach for days.
	MaxStrangeWaiting = 10_000
	firstEventDelay   = 2 * time.Second
	maxEventDelay     = 4 * time.Hour
)

// waitDelays are the pauses between the tries about a wait. Three tries of 10 s
// with them end within ReconcileFor.
var waitDelays = []time.Duration{3 * time.Second, 10 * time.Second}

// NextQuestion says whether a question without an answer is asked again after
// its try number n (from 1), and after which delay: longer each time, with
// jitter, or what the provider asked for where that is longer. random is
// uniform in [0,1).
func (q *Question) NextQuestion(n int, retryAfter time.Duration, random float64) (delay time.Duration, again bool) {
	if q.OfWait() {
		if n >= MaxWaitTries {
			return 0, false
		}
		delay = waitDelays[n-1]
	} else {
		if n >= MaxEventTries {
			return 0, false
		}
		delay = maxEventDelay
		if n <= 13 { // 2 s × 2¹³ is past the cap
			delay = min(maxEventDelay, firstEventDelay<<(n-1))
		}
	}
	// Half of it fixed, so that three tries are spread over their minute.
	delay = max(delay/2+time.Duration(random*float64(delay/2)), retryAfter)
	return delay, delay < q.Left
}
