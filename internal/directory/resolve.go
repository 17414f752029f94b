package directory

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/checkout"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// Resolved is a flow whose names have been looked up: ready to make waits of.
type Resolved struct {
	Flow    relay.Flow
	Sources []*Source
	// Destination is the flow's own; an action may name another.
	Destination *Destination
	SourceIDs   []int64
	PlanID      uuid.UUID
	Plan        []byte // the document behind PlanID
	Compiled    *plan.Plan
	Creator     *Source // at whose provider the flow creates what is paid by; nil: at none
	CanFire     []relay.Outcome
	Warnings    []string
	Scope       string // with the user: what a newer wait supersedes
}

// Resolve looks up the names of a flow, or of a wait that overrides one, and
// checks all that can be checked before somebody waits.
func (s *Snapshot) Resolve(p *Project, f relay.Flow) (*Resolved, error) {
	r := &Resolved{Flow: f}
	if err := CheckTimes(f); err != nil {
		return nil, err
	}
	destination, err := p.pickDestination(f.Destination)
	if err != nil {
		return nil, err
	}
	r.Destination = destination
	if r.Sources, err = p.pickSources(f); err != nil {
		return nil, err
	}
	for _, src := range r.Sources {
		r.SourceIDs = append(r.SourceIDs, src.ID)
	}
	if err := checkForm(f, r.Sources); err != nil {
		return nil, err
	}
	doc := relay.Plan{
		CustomVars: f.CustomVars, Expect: f.Expect, When: f.When, ReturnURL: f.ReturnURL, Form: f.Form,
		ProcessingFor: f.ProcessingFor, RetryFor: f.RetryFor, On: map[string]relay.Action{},
	}
	if doc.Link, err = links(f, r.Sources); err != nil {
		return nil, err
	}
	if err := checkReturnURL(f.ReturnURL); err != nil {
		return nil, err
	}
	if r.Creator, err = creator(f, r.Sources); err != nil {
		return nil, err
	}
	doc.Create = f.Create
	if doc.Nudge, err = p.nudges(f, destination); err != nil {
		return nil, err
	}
	for name, a := range f.On {
		if doc.On[name], err = p.withDestination(a, destination); err != nil {
			return nil, relay.At("on."+name, err)
		}
	}
	if r.Compiled, err = plan.Check(&doc, s.PlatformOf); err != nil {
		return nil, err
	}
	if err := expectable(f.Expect, r.Sources); err != nil {
		return nil, err
	}
	r.CanFire = canFire(f.Expect, r.Sources)
	if err := reachable(doc.On, r.CanFire); err != nil {
		return nil, err
	}
	if r.Plan, err = doc.Canonical(); err != nil {
		return nil, err
	}
	r.PlanID = store.PlanID(p.ID, r.Plan)
	r.Warnings = append(Warnings(&doc, r.Sources, ""), Strays(r.Compiled, r.Sources)...)
	if r.Scope = "flow/" + f.Name; f.Name == "" {
		r.Scope = scopeWithoutFlow(&doc, destination)
	}
	return r, nil
}

// scopeWithoutFlow names what a wait without a flow is about: its destination
// and the module that it leads to.
func scopeWithoutFlow(doc *relay.Plan, destination *Destination) string {
	return fmt.Sprintf("destination/%d/module/%v", destination.ID, doc.On[string(relay.Completed)].ModuleID)
}

// CheckTimes checks the bounds of a flow's times and its word for conflicts.
func CheckTimes(f relay.Flow) error {
	if f.OnConflict != "" && f.OnConflict != relay.Supersede && f.OnConflict != relay.Keep && f.OnConflict != relay.Reject {
		return relay.Errorf(relay.Invalid, "invalid_on_conflict", "on_conflict: %q is none of supersede, keep, reject", f.OnConflict)
	}
	for _, t := range []struct {
		name     string
		value    relay.Duration
		min, max time.Duration
	}{
		{"expires_in", f.ExpiresIn, relay.MinExpiresIn, relay.MaxExpiresIn},
		{"processing_for", f.ProcessingFor, relay.MinExpiresIn, relay.MaxExpiresIn},
		{"retry_for", f.RetryFor, time.Second, relay.MaxRetryFor},
	} {
		if t.value != 0 && (time.Duration(t.value) < t.min || time.Duration(t.value) > t.max) {
			return relay.Errorf(relay.Invalid, "invalid_duration", "%s: %s is not between %s and %s",
				t.name, t.value, relay.Duration(t.min), relay.Duration(t.max))
		}
	}
	return nil
}

// checkForm holds that a hosted form and its source go together: without the
// source what is sent could end nothing, without the form nothing is sent.
func checkForm(f relay.Flow, sources []*Source) error {
	listens := slices.ContainsFunc(sources, func(s *Source) bool { return s.Name == relay.FormSource })
	switch {
	case f.Form != nil && !listens:
		return relay.Errorf(relay.Invalid, "form_source_required",
			"form: what is sent in by it comes from the source %q: add that to source, or leave source out", relay.FormSource)
	case f.Form != nil && (f.Link.Any != "" && len(sources) == 1 || f.Link.BySource[relay.FormSource] != ""):
		return relay.Errorf(relay.Invalid, "invalid_link", "link: the form has a page of its own: leave link out, or the form")
	case f.Form == nil && listens && len(sources) == 1:
		return relay.Errorf(relay.Invalid, "form_required", "form: the source %q tells of hosted forms: give the form", relay.FormSource)
	}
	return nil
}

func checkReturnURL(raw string) error {
	if raw == "" || strings.Contains(raw, "{{") {
		return nil
	}
	return relay.CheckReturnURL(raw)
}

// checkLink refuses what a browser must not be sent to.
func checkLink(field, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return relay.Errorf(relay.Invalid, "invalid_link", "%s: give an absolute http or https URL", field)
	}
	return nil
}

// pickDestination returns the named destination, or the only one.
func (p *Project) pickDestination(name string) (*Destination, error) {
	if name != "" {
		if d := p.destinations[name]; d != nil {
			return d, nil
		}
		return nil, relay.Errorf(relay.Invalid, "unknown_destination",
			"destination: this project has no destination %q: create it first%s", name, relay.DidYouMean(name, p.Names(KindDestination)))
	}
	all := p.Destinations()
	if len(all) == 1 {
		return all[0], nil
	}
	return nil, relay.Errorf(relay.Invalid, "destination_required",
		"destination: this project has %d destinations: name one", len(all))
}

// pickSources returns the named sources, those that links are given for, or
// the only one besides the built-in source.
func (p *Project) pickSources(f relay.Flow) ([]*Source, error) {
	names := slices.Clone([]string(f.Source))
	if len(names) == 0 {
		for name := range f.Link.BySource {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	if len(names) == 0 && f.Form != nil {
		names = []string{relay.FormSource}
	}
	if len(names) == 0 {
		for _, src := range p.Sources() {
			if src.Name != relay.FormSource {
				names = append(names, src.Name)
			}
		}
		if len(names) != 1 {
			return nil, relay.Errorf(relay.Invalid, "source_required",
				"source: this project has %d sources: name one", len(names))
		}
	}
	var out []*Source
	for _, name := range names {
		src := p.sources[name]
		if src == nil {
			return nil, relay.Errorf(relay.Invalid, "unknown_source",
				"source: this project has no source %q: create it first%s", name, relay.DidYouMean(name, p.Names(KindSource)))
		}
		if src.Err != nil {
			return nil, relay.Errorf(relay.Invalid, "unusable_source", "source %s: %v", name, src.Err)
		}
		if !slices.Contains(out, src) {
			out = append(out, src)
		}
	}
	return out, nil
}

// links gives each source of a flow its link.
func links(f relay.Flow, sources []*Source) (map[string]string, error) {
	out := map[string]string{}
	if f.Link.IsZero() {
		return out, nil
	}
	if f.Link.BySource == nil {
		if len(sources) != 1 {
			return nil, relay.Errorf(relay.Invalid, "ambiguous_link",
				"link: the flow has %d sources: give a link for each, as {source: link}", len(sources))
		}
		out[sources[0].Name] = f.Link.Any
	}
	for name, link := range f.Link.BySource {
		if !slices.ContainsFunc(sources, func(s *Source) bool { return s.Name == name }) {
			return nil, relay.Errorf(relay.Invalid, "unknown_source", "link.%s: the flow has no such source%s", name, relay.DidYouMean(name, sourceNames(sources)))
		}
		out[name] = link
	}
	for name, link := range out {
		if strings.Contains(link, "{{") {
			continue // known only when it is rendered
		}
		if err := checkLink("link", link); err != nil {
			return nil, err
		}
		preset := sourceNamed(sources, name).Endpoint.Preset()
		if _, err := preset.PlaceToken(link, relay.NewToken(), sourceNamed(sources, name).TokenField); err != nil {
			return nil, relay.Errorf(relay.Invalid, "invalid_link", "link: %v", err)
		}
	}
	return out, nil
}

func sourceNames(sources []*Source) (names []string) {
	for _, s := range sources {
		names = append(names, s.Name)
	}
	return names
}

func sourceNamed(sources []*Source, name string) *Source {
	for _, s := range sources {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// withDestination puts the id of the destination that an action calls into
// it, and into its fallbacks.
func (p *Project) withDestination(a relay.Action, flows *Destination) (relay.Action, error) {
	if a.DestinationID != 0 {
		return a, relay.Errorf(relay.Invalid, "unknown_field", "destination_id: there is no such field here: name a destination")
	}
	to := flows
	if a.Destination != "" {
		if to = p.destinations[a.Destination]; to == nil {
			return a, relay.Errorf(relay.Invalid, "unknown_destination",
				"this project has no destination %q: create it first%s", a.Destination, relay.DidYouMean(a.Destination, p.Names(KindDestination)))
		}
	}
	a.DestinationID = to.ID
	if a.Fallback != nil {
		next, err := p.withDestination(*a.Fallback, to)
		if err != nil {
			return a, err
		}
		a.Fallback = &next
	}
	return a, nil
}

// creator finds the source at whose provider a flow creates what is paid by.
func creator(f relay.Flow, sources []*Source) (*Source, error) {
	if f.Create == nil {
		return nil, nil //nolint:nilnil // most flows create nothing
	}
	if err := checkout.Check(f.Create); err != nil {
		return nil, err
	}
	if !f.Link.IsZero() {
		return nil, relay.Errorf(relay.Invalid, "invalid_create", "create: the flow has a link already: give one of the two")
	}
	able := slices.DeleteFunc(slices.Clone(sources), func(s *Source) bool { return s.Provider != "stripe" })
	switch {
	case len(able) != 1:
		return nil, relay.Errorf(relay.Invalid, "invalid_create", "create: the flow has %d sources of the provider stripe: give it one", len(able))
	case !able[0].CanAsk():
		return nil, relay.Errorf(relay.Invalid, "invalid_create",
			"create: the source %s has no api_key: give it one that may write Checkout Sessions and Payment Links", able[0].Name)
	}
	return able[0], nil
}

// nudges checks the nudges of a flow, and puts the ids of their destinations
// into them.
func (p *Project) nudges(f relay.Flow, destination *Destination) (out relay.Nudges, err error) {
	if err := f.Nudge.Check(f.ExpiresIn.Or(relay.DefaultExpiresIn)); err != nil {
		return nil, err
	}
	for i, n := range f.Nudge {
		if n.Action, err = p.withDestination(n.Action, destination); err != nil {
			return nil, relay.At(fmt.Sprintf("nudge[%d]", i), err)
		}
		out = append(out, n)
	}
	return out, nil
}

// PlatformOf returns the platform of a destination, or nil.
func (s *Snapshot) PlatformOf(destinationID int64) *platform.Platform {
	if d := s.destinations[destinationID]; d != nil {
		return d.Platform
	}
	return nil
}

// canFire lists the outcomes that waits at some sources can come to: those that
// the sources tell of, and those that the relay makes itself.
func canFire(expect *relay.Expect, sources []*Source) []relay.Outcome {
	can := map[relay.Outcome]bool{relay.Expired: true, relay.Cancelled: true}
	for _, src := range sources {
		for _, o := range src.Endpoint.Preset().Outcomes() {
			can[o] = true
		}
	}
	if can[relay.Completed] {
		can[relay.PaidAgain] = true
		can[relay.Mismatch] = expect != nil
	}
	var out []relay.Outcome
	for _, name := range relay.ActionNames {
		if can[relay.Outcome(name)] {
			out = append(out, relay.Outcome(name))
		}
	}
	return out
}

// reachable refuses actions that would wait for ever.
func reachable(on map[string]relay.Action, can []relay.Outcome) error {
	for name := range on {
		o := relay.Outcome(name)
		if name == relay.DefaultAction {
			continue
		}
		if name == relay.CompletedLate {
			o = relay.Completed
		}
		if slices.Contains(can, o) {
			continue
		}
		detail := "its sources never tell of it: remove the action, or name a source that does"
		if o == relay.Mismatch {
			detail = "nothing is expected of the payment: give `expect`, or remove the action"
		}
		return relay.Errorf(relay.Invalid, "outcome_unreachable", "on.%s: %s", name, detail)
	}
	return nil
}
