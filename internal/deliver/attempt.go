package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/groupcommit"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// maxResponse is how much of an answer is kept with its attempt.
const maxResponse = 2 << 10

// deliver makes one attempt and records it.
func (e *Engine) deliver(ctx context.Context, l *lane, d relay.Delivery, probe bool) {
	destination := e.cfg.Directory.Current().Destination(d.DestinationID)
	if e.withheld(ctx, d, destination) {
		e.notCalled(l, probe)
		return
	}
	a, made := e.call(ctx, l, d, destination, probe)
	if !made {
		return
	}
	if a.Class == relay.Credentials {
		e.hold(ctx, destination, a.Reason)
	}
	e.cfg.Metrics.Attempted(a.Class)
	// The next send need not wait for the record of this one, nor what was
	// sent for the memory it took.
	d.Wait, d.Payment, d.Form, d.Body = relay.Wait{ID: d.Wait.ID}, nil, nil, nil
	err := e.recorder.Post(a, func(r groupcommit.Result[store.Recorded]) { e.recorded(d, a, destination, r) })
	if err != nil {
		e.recorded(d, a, destination, groupcommit.Result[store.Recorded]{Err: err})
	}
}

// withheld does what is to be done with a delivery that is not to be sent, and
// reports whether that is so.
func (e *Engine) withheld(ctx context.Context, d relay.Delivery, to *directory.Destination) bool {
	switch {
	case to == nil:
		// Another node knows it already; this one will within a second.
		if _, err := e.cfg.Directory.Refresh(ctx); err != nil {
			e.cfg.Log.Warn("configuration not re-read", "error", err)
		}
		e.returnLeases(ctx, []relay.Delivery{d})
	case d.Sent: // it is judged
		return false
	case d.Pointless():
		e.skip(ctx, d)
	case to.Held != nil:
		e.addHeld(d)
	default:
		return false
	}
	return true
}

// call makes an attempt where the rate allows it, and tells the breaker what
// came of that.
func (e *Engine) call(ctx context.Context, l *lane, d relay.Delivery, to *directory.Destination, probe bool) (a relay.Attempt, made bool) {
	if d.Sent { // it is judged without another call
		return e.attempt(ctx, d, to)
	}
	if !e.spend(ctx, l, d, to) {
		e.notCalled(l, probe)
		return a, false
	}
	a, made = e.attempt(ctx, d, to)
	if !made || neverSent(&a) {
		e.notCalled(l, probe)
		return a, made
	}
	e.called(l, to, &a, probe)
	return a, true
}

// neverSent reports whether an attempt was given up before a call: it could not
// be rendered, or may not go to that URL. It says nothing about whether its
// destination answers.
func neverSent(a *relay.Attempt) bool { return a.Class == relay.Permanent && a.HTTPStatus == 0 }

// notCalled notes that a delivery was taken, and no call was made.
func (e *Engine) notCalled(l *lane, probe bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l.breaker.dropped(probe)
}

// called notes what a call came to. What waited for its destination to be back
// is sent at once.
func (e *Engine) called(l *lane, to *directory.Destination, a *relay.Attempt, probe bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !l.breaker.ended(a.Class != relay.Retry && a.Class != relay.NoAnswer, probe, time.Now()) {
		return
	}
	e.tellBreaker(to, l.breaker.open(), a.Reason)
	if !l.breaker.open() {
		e.start(l, len(l.queue), to.Concurrency())
		e.Wake()
	}
}

// tellBreaker tells that a breaker has opened or closed.
func (e *Engine) tellBreaker(to *directory.Destination, open bool, reason string) {
	e.cfg.Metrics.Breaker(open)
	if open {
		e.cfg.Log.Warn("a destination does not answer: this node calls it no more but for a probe, at most every 30 s",
			"project_id", to.ProjectID, "destination", to.Name, "reason", reason)
		return
	}
	e.cfg.Log.Info("a destination answers again", "project_id", to.ProjectID, "destination", to.Name)
}

// skip gives up what its wait, which has closed since, no longer asks for.
// Where that fails the lease ends, and whoever claims it next skips it.
func (e *Engine) skip(ctx context.Context, d relay.Delivery) {
	ctx, cancel := context.WithTimeout(ctx, recordTry)
	defer cancel()
	r, err := e.cfg.Store.SkipClosed(ctx, &d)
	if err != nil {
		e.cfg.Log.Warn("delivery not skipped, though its wait has closed; it is looked at again when its lease ends",
			"delivery_id", d.ID, "project_id", d.ProjectID, "error", err)
		return
	}
	if !r.Stale {
		e.cfg.Metrics.Ended(r.Status)
	}
	if r.PassedOn {
		e.Wake()
	}
}

// recorded counts what was recorded, and tells of what an operator has to know.
func (e *Engine) recorded(d relay.Delivery, a relay.Attempt, to *directory.Destination, r groupcommit.Result[store.Recorded]) {
	if r.Err == nil && !r.Value.Stale {
		e.count(d, a, r.Value.Status)
	}
	if r.Value.PassedOn {
		e.Wake() // the next one of the conversation is due
	}
	switch {
	case r.Err != nil:
		e.cfg.Log.Error("attempt not recorded: it will be made again when its lease ends",
			"delivery_id", d.ID, "project_id", d.ProjectID, "class", a.Class, "error", r.Err)
	case r.Value.Stale:
		e.cfg.Log.Warn("attempt not recorded: it was recorded before, or its lease was lost and another node makes it again",
			"delivery_id", d.ID, "project_id", d.ProjectID, "class", a.Class)
	case r.Value.Status == relay.Unknown:
		e.cfg.Log.Warn("delivery is unknown: it was sent and not answered; look whether it arrived, then retry or skip it",
			"delivery_id", d.ID, "project_id", d.ProjectID, "correlation_id", d.Wait.ID,
			"destination", to.Name, "outcome", d.Outcome, "reason", a.Reason)
	case r.Value.Status == relay.Dead:
		e.cfg.Log.Warn("delivery is dead: only its fallback, if it has one, can resume the conversation now",
			"delivery_id", d.ID, "project_id", d.ProjectID, "correlation_id", d.Wait.ID,
			"destination", to.Name, "outcome", d.Outcome, "class", a.Class, "reason", a.Reason)
	}
}

// count counts what an attempt that was recorded has come to.
func (e *Engine) count(d relay.Delivery, a relay.Attempt, status relay.DeliveryStatus) {
	e.cfg.Metrics.Ended(status)
	if status == relay.Delivered {
		e.cfg.Metrics.Resumed(d.EventID, d.ID, a.StartedAt.Add(a.Duration))
	}
}

// attempt renders and sends one delivery. made is false when nothing came of
// it that could be held against the receiver: a shutdown, or too little lease.
// A delivery that was marked as being sent is always judged.
func (e *Engine) attempt(ctx context.Context, d relay.Delivery, to *directory.Destination) (a relay.Attempt, made bool) {
	a = relay.Attempt{
		ProjectID: d.ProjectID, DeliveryID: d.ID, Lease: d.Lease, Conversation: d.Conversation,
		OnTheWay: d.Outcome.OnTheWay() && !d.ByHand, StartedAt: time.Now(),
	}
	if d.Sent {
		a.Class, a.Reason = relay.NoAnswer, "its node ended while it was being sent"
		return e.judged(a, d, to, "", 0), true
	}
	var step platform.Step
	p, err := e.cfg.Plans.Get(ctx, d.Wait.PlanID)
	if err == nil {
		step, a.Notes, err = e.render(ctx, p, &d, to, a.StartedAt)
	}
	if a, made = e.tried(ctx, &d, to, step, err, a); made && a.Class == relay.Permanent && p != nil {
		a.Fallback = fallbackOf(p, &d)
	}
	return a, made
}

// tried sends what was rendered, or says what kept it from being that.
func (e *Engine) tried(ctx context.Context, d *relay.Delivery, to *directory.Destination, step platform.Step, err error, a relay.Attempt) (relay.Attempt, bool) {
	if err != nil {
		if ctx.Err() != nil || relay.IsKind(err, relay.Busy) {
			return a, false // the plan, or the body, cannot be read just now
		}
		a.Class, a.Reason = relay.Permanent, "rendering: "+err.Error()
		return e.judged(a, *d, to, "", 0), true
	}
	if time.Until(d.LeaseEnds) < to.Timeout()+leaseMargin {
		return a, false // it waited too long here: whoever claims it next sends it
	}
	return e.exchange(ctx, d, to, step, a)
}

// fallbackOf is what is owed where a delivery has failed for good, or nil.
func fallbackOf(p *plan.Plan, d *relay.Delivery) *relay.Delivery {
	name, a, ok := p.Fallback(d.Action)
	if !ok {
		return nil
	}
	return &relay.Delivery{
		ID: relay.FallbackID(d.ID), ProjectID: d.ProjectID, EventID: d.EventID, DestinationID: a.DestinationID,
		Outcome: d.Outcome, Action: name, RetryFor: p.RetryFor(),
		Wait: relay.Wait{ID: d.Wait.ID, UserID: d.Wait.UserID, Conversation: d.Wait.Conversation},
	}
}

// mark notes in the table that the delivery is about to be sent. Where that
// fails nothing is sent.
func (e *Engine) mark(ctx context.Context, d relay.Delivery) bool {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	marked, err := e.cfg.Store.MarkSending(ctx, &d)
	if err != nil {
		e.cfg.Log.Warn("delivery not marked as being sent, and not sent; it is looked at again when its lease ends",
			"delivery_id", d.ID, "project_id", d.ProjectID, "error", err)
	}
	return marked && err == nil
}

// unanswered classifies an attempt without an answer. What can never work is
// permanent; what may have reached the other side, and acts there, is unknown.
func unanswered(err error, to *directory.Destination, acts bool) (relay.Class, string) {
	var failure *egress.Error
	if errors.Is(err, errNoTurn) {
		return relay.Retry, string(egress.Timeout) + ": " + err.Error()
	}
	if !errors.As(err, &failure) {
		return relay.Retry, "could not be sent"
	}
	reason := failure.Told()
	if failure.Reason == egress.Timeout {
		reason += " (timeout of destination " + to.Name + ")"
	}
	switch {
	case failure.Sent && acts:
		return relay.NoAnswer, reason
	case failure.Permanent():
		return relay.Permanent, reason
	default:
		return relay.Retry, reason
	}
}

// judged adds what follows from an attempt that ended with a call of that
// name, "" for the one that acts.
func (e *Engine) judged(a relay.Attempt, d relay.Delivery, to *directory.Destination, call string, retryAfter time.Duration) relay.Attempt {
	policy := to.OnUnknown
	asks := policy == relay.ConfirmUnknown
	if asks && (a.Reason == platform.CannotTell || !to.Platform.Confirms) {
		policy = relay.HoldUnknown // the platform is asked in vain: a person has to look
	}
	a.Next, a.Delay = relay.NextTry(a.Class, d.Attempts+1, retryAfter, policy, relay.Jitter())
	if a.Class == relay.Credentials && to.Deleted {
		a.Next = relay.Dead // nobody can give it others
	}
	if call != "" && a.Class != relay.OK {
		a.Reason = call + ": " + a.Reason
	}
	return a
}

// render makes the first call of a delivery. The same delivery renders the
// same bytes each time.
func (e *Engine) render(ctx context.Context, p *plan.Plan, d *relay.Delivery, to *directory.Destination, now time.Time) (step platform.Step, notes []byte, err error) {
	if d.BodyErr != nil && p.UsesEvent() {
		return step, nil, d.BodyErr
	}
	scope := plan.ScopeOf(&d.Wait, d.Outcome, d.Payment, d.Form, d.Format, d.Body)
	call, missing, err := p.Render(d.Action, scope, plan.WaitVars(&d.Wait), to.Platform)
	if err != nil {
		return step, nil, err
	}
	call.UserID, call.Conversation, call.DeliveryID, call.At = d.Wait.UserID, scope.Correlation.Conversation, d.ID.String(), now
	call.Doubtful = to.OnUnknown == relay.ConfirmUnknown && d.Attempts > 0
	if d.ByHand && to.Platform.Confirms {
		if call.Said, err = e.said(ctx, d); err != nil {
			return step, nil, err
		}
	}
	if len(missing) > 0 {
		if notes, err = json.Marshal(missing); err != nil {
			return step, nil, err
		}
	}
	account := to.Account()
	if to.Platform.Sessions {
		account.Session = e.sessions.known(to)
	}
	step, err = to.Platform.Begin(account, call)
	return step, notes, err
}

// said counts how often a delivery that a person retries was said for certain.
func (e *Engine) said(ctx context.Context, d *relay.Delivery) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, saidTimeout)
	defer cancel()
	return e.cfg.Store.AttemptsFor(ctx, d.ProjectID, d.ID, platform.Stands())
}
