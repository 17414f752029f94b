package intake

import (
	"context"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// Looked is one field of an event that may name a wait, and what it leads to
// today.
type Looked struct {
	relay.Candidate
	As     string    // token, key or reference: what it was taken for
	Wait   uuid.UUID // of the event's own project; zero: none
	Result Result
}

// Result says in a few words what a field leads to.
type Result string

// The results. The first three are of fields that were never looked up.
const (
	forAnEarlierEvent Result = "not looked up: the event had come before"
	meaningless       Result = "not looked up: the event's type means nothing to a wait"
	unneeded          Result = "not needed: an earlier field named the wait"

	led          Result = "matched"
	sameWait     Result = "leads to the same wait"
	oneOfSeveral Result = "leads to this wait, and the event names others"
	severalWaits Result = "several waits have learned this reference"
	laterWait    Result = "leads to this wait, which was registered after the event came"
	leadsToday   Result = "leads to this wait today, and did not when the event came"

	noWait         Result = "no pending or closed wait has this token"
	noKey          Result = "no wait of this source has this key"
	noReference    Result = "no wait has learned this reference"
	foreign        Result = "belongs to another project"
	deaf           Result = "that wait does not listen to this source"
	notByToken     Result = "is no token, and what nobody signed goes by the token alone"
	notByReference Result = "what nobody signed goes by the token alone"
)

// Explain looks the fields of a kept event up again, in today's tables, by the
// rules that decided when it came; was says what was decided then. It locks
// nothing and changes nothing. Of a wait of another project it tells that it
// is there, and no more.
func Explain(ctx context.Context, s *store.Store, c *relay.Callback, was relay.Receipt) ([]Looked, error) {
	names := namesOf(c)
	if was.Rule == "same_event" {
		names = store.Names{} // decided before any field was looked at
	}
	facts, err := s.Named(ctx, names)
	if err != nil {
		return nil, err
	}
	x := explainer{c: c, was: was, facts: facts}
	for _, candidate := range c.Reading.Candidates {
		x.add(candidate, x.candidate(candidate.Value))
	}
	for _, reference := range c.Reading.References {
		x.add(reference, x.reference(reference.Value))
	}
	return x.looked, nil
}

// explainer goes through the fields of one event in the order in which find
// tries them.
type explainer struct {
	c      *relay.Callback
	was    relay.Receipt
	facts  *store.Facts
	looked []Looked
	found  bool // a field has led to the wait that was decided upon
}

// lead is what one field leads to.
type lead struct {
	as   string
	wait *relay.Wait
	why  Result // where wait is nil
}

func (x *explainer) add(field relay.Candidate, l lead) {
	out := Looked{Candidate: field, As: l.as, Result: x.result(l)}
	if l.wait != nil {
		out.Wait = l.wait.ID
	}
	x.found = x.found || out.Result == led
	x.looked = append(x.looked, out)
}

// result compares what a field leads to today with what was decided.
func (x *explainer) result(l lead) Result {
	switch {
	case x.was.Rule == "same_event" && x.c.Reading.EventID != "":
		return forAnEarlierEvent + Result(", by the id "+x.c.Reading.EventID)
	case x.was.Rule == "same_event":
		return forAnEarlierEvent
	case x.c.Reading.Outcome == "":
		return meaningless
	case x.found && l.wait != nil && l.wait.ID == x.was.CorrelationID:
		return sameWait
	case x.found:
		return unneeded
	case l.wait == nil:
		return l.why
	case l.wait.ID == x.was.CorrelationID:
		return led
	case x.was.Match == relay.Ambiguous:
		return oneOfSeveral
	case l.wait.CreatedAt.After(x.c.ReceivedAt):
		return laterWait
	default:
		return leadsToday
	}
}

// candidate looks one value up as a token, then as a caller's key.
func (x *explainer) candidate(value string) lead {
	if f := lookUp(x.c, value, x.facts); f.wait != nil {
		return lead{as: f.rule, wait: f.wait}
	}
	named := x.facts.ByToken[value]
	switch {
	case named != nil && named.ProjectID != x.c.ProjectID:
		return lead{as: "token", why: foreign}
	case named != nil:
		return lead{as: "token", why: deaf}
	case relay.IsToken(value):
		return lead{as: "token", why: noWait}
	case x.c.Verdict == relay.Unsigned:
		return lead{as: "token", why: notByToken}
	default:
		return lead{as: "key", why: noKey}
	}
}

// reference looks one of the provider's own ids up. A caller may have given it
// as the key of its wait.
func (x *explainer) reference(value string) lead {
	if x.c.Verdict == relay.Unsigned {
		return lead{as: "reference", why: notByReference}
	}
	hits := x.facts.ByRef[store.RefHash(x.c.SourceID, value)]
	if key := lastKey(hits); key != nil {
		return lead{as: "key", wait: key.Wait}
	}
	if len(hits) == 0 {
		return lead{as: "reference", why: noReference}
	}
	for _, hit := range hits[1:] {
		if hit.Wait != hits[0].Wait {
			return lead{as: "reference", why: severalWaits}
		}
	}
	return lead{as: "reference", wait: hits[0].Wait}
}
