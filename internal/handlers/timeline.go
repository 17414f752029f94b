package handlers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// maxHistory bounds the events and deliveries that one wait is shown with. Its
// attempts are bounded by the store.
const maxHistory = 200

// step names one kind of moment. The names are stable. An event has two more
// moments, which are named by its verdict and by its match.
type step string

const (
	stepRegistered      step = "registered"
	stepOpened          step = "opened"
	stepReceived        step = "received"
	stepExtended        step = "deadline_extended"
	stepReconciling     step = "reconciling"
	stepAsked           step = "asked"
	stepResolved        step = "resolved"
	stepSessionEnded    step = "session_ended"
	stepCompletedLate   step = "completed_late"
	stepDeliveryCreated step = "delivery_created"
	stepRendered        step = "rendered"
	stepAttempt         step = "attempt"
	stepHeld            step = "held"
	stepReleased        step = "released"
	stepRetried         step = "retried"
	stepReplayed        step = "replayed"
	stepErased          step = "erased"
	stepResumed         step = "resumed"
	stepDead            step = "dead"
	stepUnknown         step = "unknown"
	stepSkipped         step = "skipped"
)

// moment is one step in the life of a wait.
type moment struct {
	at            time.Time
	At            string          `json:"at"`
	Step          step            `json:"step"`
	EventID       *uuid.UUID      `json:"event_id,omitempty"`
	DeliveryID    *uuid.UUID      `json:"delivery_id,omitempty"`
	CorrelationID *uuid.UUID      `json:"correlation_id,omitempty"` // of another wait that it has to do with
	Rule          string          `json:"rule,omitempty"`
	Detail        string          `json:"detail,omitempty"`
	Attempt       *tried          `json:"attempt,omitempty"`
	Notes         json.RawMessage `json:"notes,omitempty"`
}

// tried is one attempt on a timeline.
type tried struct {
	Number        int     `json:"number"`
	Class         string  `json:"class"`
	HTTPStatus    *int    `json:"http_status"`
	DurationMS    int     `json:"duration_ms"`
	NextAttemptAt *string `json:"next_attempt_at"` // of the last one, where another is owed
}

// history is all that is known of one wait.
type history struct {
	wait       *store.Correlation
	next       store.Neighbours
	openedAt   *time.Time              // nil: nobody has opened its link
	events     []*store.EventRecord    // newest first
	deliveries []*store.DeliveryRecord // oldest first
	attempts   map[uuid.UUID][]store.AttemptRecord
	questions  []store.QuestionRecord // to the provider, before the wait expired
	checkout   store.Checkout         // what it was to be paid by; zero: nothing was made, or it is erased
	holds      []store.Hold           // of the destinations of its deliveries
	erasedAt   *time.Time             // nil: its user is not erased
}

// historyOf reads what happened to a wait: the events that belong to it and
// those that named its token and came to something else.
func (h *Handlers) historyOf(ctx context.Context, w *store.Correlation) (*history, error) {
	out := &history{wait: w, attempts: map[uuid.UUID][]store.AttemptRecord{}}
	var err error
	if out.next, err = h.cfg.Store.NeighboursOf(ctx, w); err != nil {
		return nil, err
	}
	if out.openedAt, err = h.cfg.Store.OpenedAt(ctx, w.ID); err != nil {
		return nil, err
	}
	if out.events, err = h.cfg.Store.EventsOf(ctx, &w.Wait, maxHistory); err != nil {
		return nil, err
	}
	if out.deliveries, err = h.cfg.Store.Deliveries(ctx, w.ProjectID, store.DeliveryFilter{CorrelationID: w.ID}, store.Page{Limit: maxHistory}); err != nil {
		return nil, err
	}
	slices.Reverse(out.deliveries)
	if w.Reconciled != nil {
		if out.questions, err = h.cfg.Store.QuestionsAbout(ctx, w.ProjectID, w.ID); err != nil {
			return nil, err
		}
	}
	if w.Plan.Create != nil && w.ResolvedAt != nil {
		if out.checkout, err = h.cfg.Store.CheckoutOf(ctx, w.ID); err != nil && !relay.IsKind(err, relay.NotFound) {
			return nil, err
		}
	}
	if out.erasedAt, err = h.cfg.Store.ErasedAt(ctx, w.ID); err != nil {
		return nil, err
	}
	if out.holds, err = h.cfg.Store.HoldsOf(ctx, w.ProjectID, w.ID); err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(out.deliveries))
	for i, d := range out.deliveries {
		ids[i] = d.ID
	}
	attempts, err := h.cfg.Store.Attempts(ctx, w.ProjectID, ids...)
	for _, a := range attempts {
		out.attempts[a.DeliveryID] = append(out.attempts[a.DeliveryID], a)
	}
	return out, err
}

// timeline tells the history in the order of time. What has the same time
// keeps the order in which it is told here.
func (h *history) timeline() []moment {
	out := []moment{h.registered()}
	if h.openedAt != nil {
		out = append(out, moment{at: *h.openedAt, Step: stepOpened, Detail: "its link"})
	}
	for _, e := range slices.Backward(h.events) {
		out = append(out, h.eventMoments(e)...)
	}
	for _, q := range h.questions {
		out = append(out, questionMoments(q)...)
	}
	out = append(out, h.endMoments()...)
	if end := h.checkout.EndResult; end != nil {
		out = append(out, moment{
			at: *h.checkout.EndTriedAt, Step: stepSessionEnded,
			Detail: fmt.Sprintf("%s, try %d: %s", h.checkout.Object, h.checkout.EndTries, endSays[*end]),
		})
	}
	for _, d := range h.deliveries {
		out = append(out, deliveryMoments(d, h.attempts[d.ID])...)
	}
	out = append(out, h.holdMoments()...)
	if h.erasedAt != nil {
		out = append(out, moment{at: *h.erasedAt, Step: stepErased, Detail: "its user: what is left is of nobody"})
	}
	slices.SortStableFunc(out, func(a, b moment) int { return a.at.Compare(b.at) })
	for i := range out {
		out[i].At = stamp(out[i].at)
	}
	return out
}

func (h *history) registered() moment {
	w := h.wait
	m := moment{at: w.CreatedAt, Step: stepRegistered}
	var said []string
	if w.Flow != "" {
		said = append(said, "flow "+w.Flow)
	}
	if w.Key != "" {
		said = append(said, "key "+w.Key)
	}
	if h.next.Superseded != uuid.Nil {
		m.CorrelationID = &h.next.Superseded
		said = append(said, "superseded an older wait")
	}
	m.Detail = strings.Join(said, ", ")
	return m
}

// eventMoments tells of an event's receipt, of its check, and of what became
// of it: at first, and where that has changed, by a replay or by a wait that
// came later, what it is now. The check has the time of the event's id: it is
// made when the event has been read, right before the commit.
func (h *history) eventMoments(e *store.EventRecord) []moment {
	checked := later(relay.MadeAt(e.ID), e.ReceivedAt) // an id has room for less of the time
	out := []moment{{at: e.ReceivedAt, Step: stepReceived, EventID: &e.ID, Detail: cmp.Or(e.Type, "a callback") + " from " + e.Source}}
	verdict := moment{at: checked, Step: step(e.Verdict), EventID: &e.ID}
	decided := h.decidedAt(e, checked)
	switch {
	case e.DecidedAt == nil:
		out = append(out, verdict)
	case e.FirstRule == string(relay.Rejected): // a replay has proved it since
		out = append(out, moment{at: checked, Step: step(relay.Rejected), EventID: &e.ID}, matchMoment(e, checked, e.FirstMatch, e.FirstRule))
		out = append(out, replayMoments(e)...)
		verdict.at = decided
		out = append(out, verdict)
	default:
		out = append(out, verdict, matchMoment(e, checked, e.FirstMatch, e.FirstRule))
		out = append(out, replayMoments(e)...)
	}
	match := matchMoment(e, decided, e.Match, e.Rule)
	if e.Outcome != "" {
		match.Detail = string(e.Outcome) + ": " + match.Detail
	}
	out = append(out, match)
	if e.Rule == string(stepExtended) {
		out = append(out, moment{
			at: decided, Step: stepExtended, EventID: &e.ID, Detail: "to " + stamp(h.wait.ExpiresAt) + ", because it is being processed",
		})
	}
	return out
}

func matchMoment(e *store.EventRecord, at time.Time, match relay.Match, rule string) moment {
	return moment{at: at, Step: step(match), EventID: &e.ID, Rule: rule, Detail: relay.Why(rule)}
}

func replayMoments(e *store.EventRecord) []moment {
	if e.ReplayedAt == nil {
		return nil
	}
	return []moment{{at: *e.ReplayedAt, Step: stepReplayed, EventID: &e.ID, Detail: "by hand"}}
}

// decidedAt is when an event came to what it is. The transaction that matches
// what was parked may have begun before its wait was there.
func (h *history) decidedAt(e *store.EventRecord, checked time.Time) time.Time {
	switch {
	case e.DecidedAt == nil:
		return checked
	case e.CorrelationID != nil && *e.CorrelationID == h.wait.ID:
		return later(*e.DecidedAt, h.wait.CreatedAt)
	default:
		return *e.DecidedAt
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// The ends of which more is told: in the last two another wait had a part.
const (
	byDeadline    = "deadline"
	byNewerWait   = "newer_wait"
	byLateSuccess = "late_success"
)

// endedBy says what each of the things is that end a wait.
var endedBy = map[string]string{
	"event": "by an event", byDeadline: "its time was up", "api": "by hand",
	byNewerWait: "by a newer wait", byLateSuccess: "an older wait was paid late",
}

// endMoments tells how the wait ended, and of a success after that.
func (h *history) endMoments() (out []moment) {
	w := h.wait
	if w.ResolvedAt != nil {
		m := moment{at: *w.ResolvedAt, Step: stepResolved, Detail: string(w.Status) + ": " + endedBy[w.ResolvedBy]}
		switch {
		case w.ResolvedBy == byNewerWait:
			m.CorrelationID = optionalWait(h.next.Newer)
		case w.ResolvedBy == byLateSuccess:
			m.CorrelationID = optionalWait(h.next.PaidLate)
		case w.LateAt == nil: // else it is the event of the late success
			m.EventID = w.EventID
		}
		if refused := h.refusedPayment(); refused != nil && w.ResolvedBy == byDeadline {
			m.EventID = &refused.ID
			m.Detail += ", though its provider says that it was paid: " + whyRefused(refused)
		}
		out = append(out, m)
	}
	if w.LateAt != nil {
		out = append(out, moment{at: *w.LateAt, Step: stepCompletedLate, EventID: w.EventID, Detail: string(w.LateOutcome) + " after the end"})
	}
	return out
}

// refusedPayment is what the provider said of a payment, when it was asked
// before the end, and what was kept out by a filter or an expectation; or nil.
func (h *history) refusedPayment() *store.EventRecord {
	for _, e := range h.events {
		paid := e.Outcome == relay.Completed || e.Outcome == relay.Mismatch
		if e.Verdict == relay.Fetched && paid && (e.Match == relay.GuardFailed || e.Outcome == relay.Mismatch) {
			return e
		}
	}
	return nil
}

func whyRefused(e *store.EventRecord) string {
	if e.Outcome == relay.Mismatch {
		return "not as was expected (mismatch)"
	}
	return string(e.Match) + " (" + e.Rule + ")"
}

// questionMoments tells that the provider was asked before the wait expired,
// and what it said last.
func questionMoments(q store.QuestionRecord) []moment {
	out := []moment{{at: q.CreatedAt, Step: stepReconciling, Detail: "its provider is asked for " + q.About + " before it expires"}}
	if q.AskedAt != nil {
		said := answerSays[q.Result]
		if q.Reason != "" {
			said += " (" + q.Reason + ")"
		}
		out = append(out, moment{at: *q.AskedAt, Step: stepAsked, Detail: fmt.Sprintf("%s, try %d: %s", q.About, q.Tries, said)})
	}
	return out
}

// endSays says what the last try to end a session at its provider has come to.
var endSays = map[store.EndResult]string{
	store.SessionEnded: "it can be paid no more", store.SessionOver: "there was nothing to end",
	store.EndingRefused: "the source's api_key is refused: it can still be paid", store.EndingFailed: "no usable answer: it can still be paid",
	store.EndingNotKnown: "the account of the source's api_key has no such session: it can still be paid where another account has made it",
}

// answerSays says what the last try to ask a provider has come to.
var answerSays = map[relay.Answered]string{
	relay.AnswerFound: "it knows it", relay.AnswerNone: "it knows nothing of it",
	relay.AnswerRefused: "it refuses the source's api_key", relay.AnswerFailed: "no usable answer",
	relay.AnswerMoot: "not asked any more: it was decided otherwise",
}

func optionalWait(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

// endOf names the moments at which a delivery ends.
var endOf = map[relay.DeliveryStatus]step{
	relay.Delivered: stepResumed, relay.Dead: stepDead, relay.Skipped: stepSkipped,
}

func deliveryMoments(d *store.DeliveryRecord, attempts []store.AttemptRecord) []moment {
	out := []moment{{
		at: d.CreatedAt, Step: stepDeliveryCreated, DeliveryID: &d.ID, EventID: d.EventID,
		Detail: string(d.Outcome) + " to " + d.Destination,
	}}
	if relay.IsFallback(d.Action) {
		out[0].Detail += ", as the fallback of what was refused for good"
	}
	for i, a := range attempts {
		out = append(out, attemptMoments(d, a, i == 0)...)
	}
	if len(attempts) > 0 && d.DueAt != nil && !d.Leased { // under a lease due_at is the lease's end
		out[len(out)-1].Attempt.NextAttemptAt = optionalStamp(d.DueAt)
	}
	if n := len(attempts); n > 0 && d.Status == relay.Unknown { // not finished: a person decides
		last := attempts[n-1]
		out = append(out, moment{
			at:   last.StartedAt.Add(time.Duration(last.DurationMS) * time.Millisecond),
			Step: stepUnknown, DeliveryID: &d.ID, Detail: "nobody knows whether it arrived: retry it or skip it",
		})
	}
	for _, r := range d.Retries {
		if end, ended := endOf[r.Was]; ended && r.EndedAt != nil {
			out = append(out, moment{at: *r.EndedAt, Step: end, DeliveryID: &d.ID})
		}
		out = append(out, moment{at: r.At, Step: stepRetried, DeliveryID: &d.ID, Detail: "by hand: it was " + string(r.Was)})
	}
	if end, ended := endOf[d.Status]; ended && d.FinishedAt != nil {
		out = append(out, moment{at: *d.FinishedAt, Step: end, DeliveryID: &d.ID, Detail: d.Reason})
	}
	return out
}

// holdMoments tells when a destination was held while something was owed to it,
// and when that was over.
func (h *history) holdMoments() (out []moment) {
	destinations := map[uuid.UUID]string{}
	for _, d := range h.deliveries {
		destinations[d.ID] = d.Destination
	}
	for _, hold := range h.holds {
		name := destinations[hold.DeliveryID]
		out = append(out, moment{at: hold.From, Step: stepHeld, DeliveryID: &hold.DeliveryID, Detail: "destination " + name + " is held: " + hold.Reason})
		if hold.Until != nil {
			out = append(out, moment{at: *hold.Until, Step: stepReleased, DeliveryID: &hold.DeliveryID, Detail: "destination " + name})
		}
	}
	return out
}

// attemptMoments tells of an attempt, and of its rendering where that is news:
// each attempt of a delivery renders the same bytes.
func attemptMoments(d *store.DeliveryRecord, a store.AttemptRecord, first bool) (out []moment) {
	// What failed for good without an answer may have failed in its rendering.
	rendered := a.Class != relay.Permanent || a.HTTPStatus != nil
	if first && rendered {
		m := moment{at: a.StartedAt, Step: stepRendered, DeliveryID: &d.ID, Detail: "every expression had a value"}
		if a.Notes != nil {
			m.Detail, m.Notes = "expressions without a value became null", a.Notes
		}
		out = append(out, m)
	}
	return append(out, moment{
		at: a.StartedAt, Step: stepAttempt, DeliveryID: &d.ID, Detail: a.Reason,
		Attempt: &tried{Number: a.Number, Class: string(a.Class), HTTPStatus: a.HTTPStatus, DurationMS: a.DurationMS},
	})
}
