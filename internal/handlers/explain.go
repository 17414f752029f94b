package handlers

import (
	"context"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// explanation says why an event came to its match. It is made when somebody
// asks, from the bytes that were kept: what was decided is told as it was
// then, the fields as today's configuration reads them, and where they lead as
// it is now.
type explanation struct {
	Rule     string        `json:"rule"`
	Detail   *string       `json:"detail"`
	LookedAt []lookedAt    `json:"looked_at"`
	Unread   *string       `json:"unread"` // why there are no fields to show
	When     *filter       `json:"when"`   // where the filter decided
	Expected []expectation `json:"expect"` // where the payment is not what was expected
	Asked    *asked        `json:"asked"`  // what the provider was asked about it

	// FetchedFor is the callback that the event was fetched for.
	FetchedFor *uuid.UUID `json:"fetched_for"`
}

// asked is a question to the provider whose an event is, or what it is about.
type asked struct {
	About   string  `json:"about"`
	Tries   int     `json:"tries"`
	AskedAt *string `json:"asked_at"` // the last time
	Result  *string `json:"result"`
	Detail  string  `json:"detail"`
	Reason  *string `json:"reason"`
	NextAt  *string `json:"next_at"`

	// EventID is the event that the last answer became, where it does.
	EventID *uuid.UUID `json:"event_id"`
}

// lookedAt is one field that may name a wait.
type lookedAt struct {
	Place         string     `json:"place"`
	Value         string     `json:"value"`
	As            string     `json:"as"`
	CorrelationID *uuid.UUID `json:"correlation_id"`
	Result        string     `json:"result"`
}

// filter is a `when` with what it saw.
type filter struct {
	Expression string  `json:"expression"`
	Saw        []saw   `json:"saw"`
	Undecided  *string `json:"undecided"` // why it is neither true nor false
}

type saw struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

// expectation is one thing that was expected of the payment.
type expectation struct {
	Field    string `json:"field"`
	Expected any    `json:"expected"`
	Seen     any    `json:"seen"`
}

func (h *Handlers) explain(ctx context.Context, projectID int64, e *store.EventRecord) (*explanation, error) {
	out := &explanation{Rule: e.Rule, Detail: nullable(relay.Why(e.Rule)), LookedAt: []lookedAt{}}
	if of := e.FetchedFor(); of != uuid.Nil {
		out.FetchedFor = &of
	}
	questions, err := h.cfg.Store.QuestionsAbout(ctx, projectID, e.ID)
	if err != nil {
		return nil, err
	}
	for _, q := range questions {
		out.Asked = showAsked(q)
	}
	cb, unread := h.readAgain(projectID, e)
	if unread != "" {
		out.Unread = &unread
	} else {
		was := relay.Receipt{EventID: e.ID, Match: e.Match, Rule: e.Rule}
		if e.CorrelationID != nil {
			was.CorrelationID = *e.CorrelationID
		}
		looked, err := intake.Explain(ctx, h.cfg.Store, cb, was)
		if err != nil {
			return nil, err
		}
		for _, l := range looked {
			out.LookedAt = append(out.LookedAt, showLooked(l))
		}
	}
	if e.CorrelationID != nil && (e.Rule == "when" || e.Outcome == relay.Mismatch) {
		return out, h.compare(ctx, projectID, e, out)
	}
	return out, nil
}

func showAsked(q store.QuestionRecord) *asked {
	out := &asked{
		About: q.About, Tries: q.Tries, AskedAt: optionalStamp(q.AskedAt), Result: nullable(q.Result),
		Detail: "it is still to be asked", Reason: nullable(q.Reason), NextAt: optionalStamp(q.NextAt),
		EventID: q.Told,
	}
	if q.Result != "" {
		out.Detail = answerSays[q.Result]
	}
	return out
}

func showLooked(l intake.Looked) lookedAt {
	out := lookedAt{Place: l.Place, Value: l.Value, As: l.As, Result: string(l.Result)}
	if l.Wait != uuid.Nil {
		out.CorrelationID = &l.Wait
	}
	return out
}

// readAgain reads an event as its source reads it today, or says why that
// cannot be.
func (h *Handlers) readAgain(projectID int64, e *store.EventRecord) (_ *relay.Callback, unread string) {
	now := h.cfg.Directory.Current()
	src := now.SourceByID(e.SourceID)
	switch {
	case e.Verdict == relay.Rejected:
		return nil, "nothing is looked up by what is not genuine"
	case e.Body == nil:
		return nil, "its bytes are not kept any more, or were too many to keep"
	case src == nil || src.ProjectID != projectID:
		return nil, "its source is gone, and with it the way to read it"
	case src.Err != nil:
		return nil, "its source cannot be used at the moment: the source's last_error says why"
	}
	cb, err := now.ReadAgain(e.Callback(), time.Now())
	switch {
	case err != nil:
		return nil, "today's configuration cannot read it: " + err.Error()
	case cb.Reason != "":
		return nil, "its body cannot be read: " + cb.Reason
	}
	return &cb, ""
}

// compare holds the event against the filter and the expectations of its wait:
// the payment and form as they were read then, the wait as it is now.
func (h *Handlers) compare(ctx context.Context, projectID int64, e *store.EventRecord, out *explanation) error {
	w, err := h.cfg.Store.Correlation(ctx, projectID, *e.CorrelationID)
	if relay.IsKind(err, relay.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := h.cfg.Plans.Get(ctx, w.PlanID)
	if err != nil && !relay.IsKind(err, relay.Busy) {
		h.cfg.Log.Warn("an event is explained without its wait's plan, which cannot be used", "event_id", e.ID, "plan_id", w.PlanID, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	outcome := e.Outcome
	if outcome == relay.Mismatch { // what a success became that was not as expected
		outcome = relay.Completed
	}
	scope := plan.ScopeOf(&w.Wait, outcome, e.Payment, e.Form, e.Format, e.Body)
	if e.Rule == "when" {
		out.When = showFilter(p.Filter(scope))
		return nil
	}
	out.Expected = []expectation{}
	for _, x := range p.Expectations(scope) {
		if !x.Met {
			out.Expected = append(out.Expected, expectation{Field: x.Field, Expected: x.Expected, Seen: x.Seen})
		}
	}
	return nil
}

// showFilter shows a filter, or nil where the wait has none.
func showFilter(f *plan.Filter) *filter {
	if f == nil {
		return nil
	}
	out := &filter{Expression: f.Expression, Saw: []saw{}}
	for _, s := range f.Saw {
		out.Saw = append(out.Saw, saw{Name: s.Name, Value: s.Value})
	}
	if f.Undecided != nil {
		why := f.Undecided.Error()
		out.Undecided = &why
	}
	return out
}
