package intake

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// decide says what becomes of each callback of a batch. The waits in facts
// are locked, and move as the callbacks are applied to them: strongest outcome
// first, so that of several ends that arrive together the success wins.
func (in *Intake) decide(ctx context.Context, batch []relay.Callback, facts *store.Facts) ([]store.Decision, error) {
	decisions := make([]store.Decision, len(batch))
	var apply []int
	for i := range batch {
		if d, done := in.early(&batch[i], facts); done {
			decisions[i] = d
			continue
		}
		apply = append(apply, i)
	}
	slices.SortStableFunc(apply, func(a, b int) int {
		return relay.CompareOutcomes(batch[a].Reading.Outcome, batch[b].Reading.Outcome)
	})
	var unmatched []int
	for _, i := range apply {
		d, err := in.applyOne(ctx, &batch[i], facts)
		if err != nil {
			return nil, err
		}
		if decisions[i] = d; d.Match == relay.Unmatched || d.Match == relay.Parked {
			unmatched = append(unmatched, i)
		}
	}
	// Another callback of the same batch may have taught the reference that
	// was missing.
	for _, i := range unmatched {
		d, err := in.applyOne(ctx, &batch[i], facts)
		if err != nil {
			return nil, err
		}
		decisions[i] = d
	}
	return decisions, nil
}

// early decides what needs no wait.
func (in *Intake) early(c *relay.Callback, facts *store.Facts) (store.Decision, bool) {
	if c.Verdict == relay.Rejected {
		return store.Decision{Match: relay.Unmatched, Rule: "rejected"}, true
	}
	switch original, taken := facts.Originals[*c.DedupeKey]; {
	case !taken: // by what was refused
		facts.Originals[*c.DedupeKey] = c.ID
	case original != c.ID:
		return in.repeat(c, original, facts), true
	}
	if c.Reading.Fetch != "" && c.Reason == "" && c.Verdict != relay.Fetched && in.cfg.Directory != nil {
		return in.fetch(c, facts), true
	}
	if c.Reading.Outcome == "" {
		rule := "type_ignored"
		if c.Reason != "" {
			rule = "unreadable"
		}
		return store.Decision{Match: relay.Ignored, Rule: rule, Token: firstToken(c)}, true
	}
	return store.Decision{}, false
}

// firstToken is what an event without a wait can be looked up by later.
func firstToken(c *relay.Callback) string {
	for _, candidate := range c.Reading.Candidates {
		return candidate.Value
	}
	return ""
}

// applyOne finds the wait of one callback and applies the callback to it.
func (in *Intake) applyOne(ctx context.Context, c *relay.Callback, facts *store.Facts) (store.Decision, error) {
	f := find(c, facts)
	if f.wait == nil {
		d := store.Decision{Match: f.match, Rule: f.rule, Outcome: c.Reading.Outcome, Token: firstToken(c)}
		if d.Match == relay.Parked {
			d.Parks, d.Asks = parksUnder(c), in.inquiry(c)
		}
		return d, nil
	}
	w := f.wait
	p, err := in.cfg.Plans.Get(ctx, w.PlanID)
	if relay.IsKind(err, relay.Busy) {
		return store.Decision{}, err
	}
	if err != nil {
		// Kept and acknowledged: a provider that is refused for ever
		// switches the endpoint off.
		in.cfg.Log.Error("callback kept without effect: the plan of its wait cannot be used",
			"correlation_id", w.ID, "project_id", w.ProjectID, "plan_id", w.PlanID, "event_id", c.ID, "error", err)
		return store.Decision{Match: relay.GuardFailed, Rule: "plan_unusable", Outcome: c.Reading.Outcome, Wait: w}, nil
	}
	r := &c.Reading
	scope := plan.ScopeOf(w, r.Outcome, r.Payment, r.Form, r.Format, c.Body)
	outcome, holds := p.Judge(r.Outcome, scope)
	if !holds {
		return store.Decision{Match: relay.GuardFailed, Rule: "when", Outcome: outcome, Wait: w}, nil
	}
	d := store.Decision{Outcome: outcome, Wait: w, Teaches: teaches(c, w, facts)}
	d.Step = w.Apply(outcome, r.Payment.Identity())
	if d.Step.Fires == relay.Mismatch || d.Step.Fires == relay.PaidAgain || c.Verdict == relay.Fetched && aftermath(d.Step.Fires) {
		if told(c, w, facts) {
			d.Step = relay.Step{Match: relay.Duplicate, Rule: "same_payment"}
		} else if ref := toldRef(c); ref != uuid.Nil {
			facts.ByRef[ref] = append(facts.ByRef[ref], store.RefHit{Wait: w})
			d.Teaches = append(d.Teaches, ref)
		}
	}
	d.Match, d.Rule, d.ExtendBy = d.Step.Match, d.Step.Rule, p.ProcessingFor()
	d.Askable = in.askable(c, &d)
	if d.Fires = p.Delivery(w, d.Step); d.Fires != nil {
		d.Fires.EventID = c.ID
		d.Fires.Payment, d.Fires.Form, d.Fires.Format = r.Payment, r.Form, r.Format
		if p.UsesEvent() {
			d.Fires.Body = c.Body
		}
	}
	return d, nil
}
