package relay

import (
	"time"

	"github.com/google/uuid"
)

// Wait is what the rules need to know of one correlation. A batch holds its
// row lock while it applies events to it one after the other.
type Wait struct {
	ID           uuid.UUID
	ProjectID    int64
	SourceIDs    []int64
	Token        string
	Flow         string
	PlanID       uuid.UUID
	UserID       string
	Conversation string // "": UserID names the conversation
	Key          string
	CustomVars   []byte // JSON object, or nil
	Data         []byte // JSON, or nil
	Locale       string
	Scope        uuid.UUID // what a newer wait supersedes
	Status       Status
	CreatedAt    time.Time
	ExpiresAt    time.Time
	PaymentID    string  // of the payment that completed it, in time or late
	LateOutcome  Outcome // completed, once a late success was taken
	Extended     bool    // processing has moved the deadline
}

// Erased reports whether the wait's user was erased: it is nobody's any more.
func (w *Wait) Erased() bool { return w.UserID == "" }

// Accepts reports whether callbacks of the source may close w.
func (w *Wait) Accepts(sourceID int64) bool {
	for _, id := range w.SourceIDs {
		if id == sourceID {
			return true
		}
	}
	return false
}

// Step is what one event does to its wait.
type Step struct {
	Match   Match
	Rule    string  // the rule that decided, a stable name
	Fires   Outcome // the outcome whose action fires, or ""
	Action  string  // the name under `on:` that is looked up first
	Closes  Status  // the state that w enters, or ""
	Late    bool    // a success after the end: sets late_outcome once
	Extends bool    // moves the deadline by processing_for, once
}

// Apply decides what an outcome does to w and moves w accordingly, so that
// the next event of the same batch meets the new state. paymentID may be
// empty when the provider names none.
//
// What is always true: a closed wait keeps its status; it closes once; at
// most one late success is taken after it; and no success passes in silence
// unless it is the same payment told twice.
func (w *Wait) Apply(o Outcome, paymentID string) Step {
	switch {
	case o == "":
		return Step{Match: Ignored, Rule: "type_ignored"}
	case o == Refunded || o == Disputed:
		return Step{Match: Matched, Rule: "aftermath", Fires: o, Action: string(o)}
	case w.Status == Pending:
		return w.applyPending(o, paymentID)
	case o == Completed || o == Mismatch:
		return w.applyPaidAfterEnd(o, paymentID)
	default:
		// A pending or a failure that arrives after the end says nothing new.
		return Step{Match: Duplicate, Rule: "already_closed"}
	}
}

func (w *Wait) applyPending(o Outcome, paymentID string) Step {
	switch {
	case o.Terminal():
		w.Status = o.Status()
		if o == Completed {
			w.PaymentID = paymentID
		}
		return Step{Match: Matched, Rule: "closed", Fires: o, Action: string(o), Closes: w.Status}
	case o == Processing && w.Extended:
		return Step{Match: Duplicate, Rule: "already_processing"}
	case o == Processing:
		w.Extended = true
		return Step{Match: Matched, Rule: "deadline_extended", Fires: o, Action: string(o), Extends: true}
	default:
		return Step{Match: Matched, Rule: "on_the_way", Fires: o, Action: string(o)}
	}
}

// applyPaidAfterEnd handles money that moved for a wait that is over.
func (w *Wait) applyPaidAfterEnd(o Outcome, paymentID string) Step {
	taken := w.Status == StatusCompleted || w.LateOutcome == Completed
	switch {
	case taken && samePayment(w.PaymentID, paymentID):
		return Step{Match: Duplicate, Rule: "already_closed"}
	case taken:
		return Step{Match: MatchedAgain, Rule: "other_payment", Fires: PaidAgain, Action: string(PaidAgain)}
	case o == Mismatch:
		return Step{Match: Late, Rule: "late_mismatch", Fires: Mismatch, Action: string(Mismatch)}
	default:
		w.LateOutcome, w.PaymentID = Completed, paymentID
		return Step{Match: Late, Rule: "completed_late", Fires: Completed, Action: CompletedLate, Late: true}
	}
}

// samePayment treats a missing id as the same payment: forms have none, and
// a second resume for one payment is worse than a second event kept quiet.
func samePayment(a, b string) bool { return a == b || a == "" || b == "" }
