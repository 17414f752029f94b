// Package plan makes a wait's plan runnable: every expression compiled, every
// action checked against its platform. A plan compiles when a flow is saved
// or a wait registered, so that a typing mistake is told to the person who
// made it and not to the user who waits.
//
// Compiled plans never change and may be used by many goroutines.
package plan

import (
	"encoding/json"
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay.example/relay/internal/form"
	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

// Plan is a relay.Plan with its expressions compiled.
type Plan struct {
	relay.Plan
	when    *mapping.Guard // nil: everything holds
	expect  expect
	actions map[string]*action
	links   map[string]*mapping.Value // by source name
	back    *mapping.Value            // return_url
	form    *form.Form                // nil: the wait has no hosted form
	create  *mapping.Value            // the parameters; nil: nothing is created
	event   bool                      // an expression looks at the raw event
	fields  []string                  // of the form, that expressions look at
	size    int                       // of its JSON, in bytes
}

// expect holds the parts of relay.Expect that may be expressions; nil: any.
type expect struct{ currency, amount, account *mapping.Value }

type action struct {
	relay.Action
	vars    *mapping.Value // the flow's custom_vars below the action's own
	module  *mapping.Value
	wait    *mapping.Value
	text    *mapping.Value
	body    *mapping.Value
	headers *mapping.Value

	fallback string // the name of the action behind it, or ""
}

// Platforms says on which platform a destination is: it is asked for each
// action. A destination that is gone answers nil.
type Platforms func(destinationID int64) *platform.Platform

// Compile compiles a plan whose actions have been checked before, as those
// that are read back from the database have.
func Compile(p *relay.Plan) (*Plan, error) {
	out := &Plan{Plan: *p, actions: make(map[string]*action, len(p.On)), links: make(map[string]*mapping.Value, len(p.Link))}
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("writing a plan: %w", err)
	}
	out.size = len(raw)
	for source, link := range p.Link {
		if out.links[source], err = mapping.CompileValue(link); err != nil {
			return nil, relay.At("link", err)
		}
	}
	if out.back, err = mapping.CompileValue(p.ReturnURL); err != nil {
		return nil, relay.At("return_url", err)
	}
	out.fields = out.back.FormFields()
	if p.Form != nil {
		if out.form, err = form.Compile(p.Form); err != nil {
			return nil, relay.At("form", err)
		}
	}
	if p.Create != nil {
		kind, parameters, _ := p.Create.What()
		if out.create, err = mapping.CompileValue(parameters); err != nil {
			return nil, relay.At("create."+string(kind), err)
		}
	}
	if p.When != "" {
		if out.when, err = mapping.CompileGuard(p.When); err != nil {
			return nil, relay.At("when", err)
		}
		out.event, out.fields = out.when.UsesEvent(), append(out.fields, out.when.FormFields()...)
	}
	if err := out.compileExpect(); err != nil {
		return nil, err
	}
	for i, n := range p.Nudge {
		if err := out.compileAction(relay.NudgeAction(i), n.Action); err != nil {
			return nil, relay.At(fmt.Sprintf("nudge[%d]", i), err)
		}
	}
	for name, a := range p.On {
		if err := out.compileAction(name, a); err != nil {
			return nil, relay.At("on."+name, err)
		}
	}
	return out, nil
}

// compileAction compiles an action under its name, and those behind it.
func (p *Plan) compileAction(name string, a relay.Action) error {
	compiled, err := compileAction(a, p.CustomVars)
	if err != nil {
		return err
	}
	p.actions[name] = compiled
	for _, v := range []*mapping.Value{compiled.vars, compiled.module, compiled.wait, compiled.text, compiled.body, compiled.headers} {
		p.event, p.fields = p.event || v.UsesEvent(), append(p.fields, v.FormFields()...)
	}
	if a.Fallback == nil || a.Fallback.Action == relay.NoAction {
		return nil
	}
	compiled.fallback = relay.FallbackName(name)
	if err := p.compileAction(compiled.fallback, *a.Fallback); err != nil {
		return relay.At("fallback", err)
	}
	return nil
}

func (p *Plan) compileExpect() (err error) {
	if p.Expect == nil {
		return nil
	}
	for _, part := range []struct {
		name string
		from any
		to   **mapping.Value
	}{
		{"currency", p.Expect.Currency, &p.expect.currency},
		{"amount", p.Expect.Amount, &p.expect.amount},
		{"account", p.Expect.Account, &p.expect.account},
	} {
		if part.from == nil || part.from == "" {
			continue
		}
		if *part.to, err = mapping.CompileValue(part.from); err != nil {
			return relay.At("expect."+part.name, err)
		}
		p.event = p.event || (*part.to).UsesEvent()
	}
	return nil
}

func compileAction(a relay.Action, flowVars map[string]any) (*action, error) {
	out := &action{Action: a}
	headers := make(map[string]any, len(a.Headers))
	for k, v := range a.Headers {
		headers[k] = v
	}
	for _, part := range []struct {
		name string
		from any
		to   **mapping.Value
	}{
		{"custom_vars", mergeVars(flowVars, a.CustomVars), &out.vars},
		{"module_id", a.ModuleID, &out.module},
		{"wait_time", a.WaitTime, &out.wait},
		{"text", a.Text, &out.text},
		{"body", a.Body, &out.body},
		{"headers", headers, &out.headers},
	} {
		v, err := mapping.CompileValue(part.from)
		if err != nil {
			return nil, relay.At(part.name, err)
		}
		*part.to = v
	}
	return out, nil
}

// mergeVars puts over on top of base, touching neither.
func mergeVars(base, over map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(over))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range over {
		out[k] = v
	}
	return out
}

// LinkOf renders the link of a source, without a token.
func (p *Plan) LinkOf(source string, s *mapping.Scope) (string, bool) {
	v, ok := p.links[source]
	if !ok {
		return "", false
	}
	link, _ := v.Render(s)
	return mapping.Text(link), true
}

// Creation renders what is to be made at the provider when a wait is
// registered. It is for plans that have a Create.
func (p *Plan) Creation(s *mapping.Scope) (relay.CreateKind, map[string]any) {
	kind, _, _ := p.Create.What()
	rendered, _ := p.create.Render(s)
	parameters, _ := rendered.(map[string]any)
	return kind, parameters
}

// WayBack renders the link that leads from our pages to the chat, or "".
func (p *Plan) WayBack(s *mapping.Scope) string {
	back, _ := p.back.Render(s)
	return mapping.Text(back)
}

// HostedForm is the form that the wait's user is to fill in, or nil.
func (p *Plan) HostedForm() *form.Form { return p.form }

// Strays lists what expressions take for answers to the hosted form and is
// none, in the order of the names.
func (p *Plan) Strays() (names []string) {
	if p.form == nil {
		return nil
	}
	for _, name := range p.fields {
		if !p.form.Answers(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// UsesEvent reports whether rendering or judging may look at the raw event.
func (p *Plan) UsesEvent() bool { return p.event }

// Check compiles p and holds each of its actions against its platform. It is
// for plans that people have just written; p's actions get the name of the
// call they stand for.
func Check(p *relay.Plan, platforms Platforms) (*Plan, error) {
	for name, a := range p.On {
		if !slices.Contains(relay.ActionNames, name) {
			return nil, relay.Errorf(relay.Invalid, "unknown_outcome",
				"on.%s: there is no such outcome: use one of %s%s", name, strings.Join(relay.ActionNames, ", "), relay.DidYouMean(name, relay.ActionNames))
		}
		checked, err := checkAction(p, a, platforms, relay.MaxFallbacks)
		if err != nil {
			return nil, relay.At("on."+name, err)
		}
		p.On[name] = checked
	}
	p.Nudge = slices.Clone(p.Nudge)
	for i, n := range p.Nudge {
		checked, err := checkAction(p, n.Action, platforms, relay.MaxFallbacks)
		if err != nil {
			return nil, relay.At(fmt.Sprintf("nudge[%d]", i), err)
		}
		p.Nudge[i].Action = checked
	}
	if err := checkExpect(p.Expect); err != nil {
		return nil, err
	}
	return Compile(p)
}

// checkAction returns an action with the name of the call that it stands for,
// and so those behind it, of which there may be as many as is left.
func checkAction(p *relay.Plan, a relay.Action, platforms Platforms, left int) (relay.Action, error) {
	on := platforms(a.DestinationID)
	if on == nil && a.Action == relay.NoAction {
		return a, nil
	}
	if on == nil {
		return a, relay.Errorf(relay.Invalid, "unknown_destination", "its destination is not there")
	}
	a.Action = on.DefaultAction(a)
	if a.Action == relay.CallWebhook && a.Body == nil {
		a.Body = webhookBody()
	}
	checked := a
	if a.Action == relay.TriggerResponse {
		checked.CustomVars = mergeVars(p.CustomVars, a.CustomVars)
	}
	if err := on.CheckAction(checked); err != nil || a.Fallback == nil {
		return a, err
	}
	if left == 0 || a.Action == relay.NoAction {
		return a, relay.Errorf(relay.Invalid, "invalid_fallback",
			"fallback: at most %d actions may stand behind one that calls somebody", relay.MaxFallbacks)
	}
	behind, err := checkAction(p, *a.Fallback, platforms, left-1)
	if err != nil {
		return a, relay.At("fallback", err)
	}
	a.Fallback = &behind
	return a, nil
}

// webhookBody is what a webhook is told where its action does not say it.
func webhookBody() map[string]any {
	return map[string]any{
		"outcome": "{{ outcome }}", "correlation": "{{ correlation }}", "payment": "{{ payment }}", "form": "{{ form }}",
	}
}

// CheckVars holds the variables that come with a wait against the platforms
// that its actions call.
func (p *Plan) CheckVars(vars map[string]any, platforms Platforms) error {
	if _, err := mapping.CompileValue(vars); err != nil {
		return relay.At("custom_vars", err)
	}
	for _, a := range p.actions {
		on := platforms(a.DestinationID)
		if a.Action.Action != relay.TriggerResponse || on == nil {
			continue
		}
		checked := a.Action
		checked.CustomVars = mergeVars(vars, a.CustomVars)
		if err := on.CheckAction(checked); err != nil {
			return err
		}
	}
	return nil
}

func checkExpect(e *relay.Expect) error {
	if e == nil {
		return nil
	}
	if e.Currency != "" && len(e.Currency) != 3 && !isExpression(e.Currency) {
		return relay.Errorf(relay.Invalid, "invalid_expect", "expect.currency: %q is no ISO 4217 code such as EUR", e.Currency)
	}
	if e.Amount == nil || isExpression(e.Amount) {
		return nil
	}
	if _, ok := minorUnits(e.Amount, 4); !ok {
		return relay.Errorf(relay.Invalid, "invalid_expect",
			"expect.amount: %v is no amount in units: write 20.5, \"20.50\" or an expression", e.Amount)
	}
	return nil
}

func isExpression(v any) bool {
	s, ok := v.(string)
	return ok && strings.Contains(s, "{{")
}

// Judge holds an outcome against the wait's filter and expectations: it
// returns the outcome to apply (a success that differs from what was expected
// is a mismatch) or false where the filter does not hold.
func (p *Plan) Judge(outcome relay.Outcome, s *mapping.Scope) (relay.Outcome, bool) {
	if p.when != nil {
		// A condition that cannot be decided does not hold: better an event
		// that an operator finds than a conversation resumed by mistake.
		if holds, err := p.when.Holds(s); err != nil || !holds {
			return outcome, false
		}
	}
	if outcome == relay.Completed && !p.asExpected(s) {
		return relay.Mismatch, true
	}
	return outcome, true
}

func (p *Plan) asExpected(s *mapping.Scope) bool { return p.compare(s, nil) }

// Expectation is one thing that a wait expects of its payment, and what the
// payment says.
type Expectation struct {
	Field    string // payment.currency
	Expected any    // nil: an expression without a value, which nothing meets
	Seen     any    // nil: the provider does not say
	Met      bool
}

// Expectations holds a payment against each thing that is expected of it.
func (p *Plan) Expectations(s *mapping.Scope) (list []Expectation) {
	p.compare(s, func(e Expectation) { list = append(list, e) })
	return list
}

// compare reports whether a payment is what was expected. It tells of each
// thing, or where nobody is told, as of every callback, ends with the first
// that is not met.
func (p *Plan) compare(s *mapping.Scope, tell func(Expectation)) bool {
	e, paid := p.Expect, s.Payment
	if e == nil {
		return true
	}
	if paid == nil { // it expects a payment, and this is none
		if tell != nil {
			tell(Expectation{Field: "payment", Expected: "a payment"})
		}
		return false
	}
	c := comparison{scope: s, tell: tell, met: true}
	c.text("payment.currency", p.expect.currency, paid.Currency, strings.EqualFold)
	c.text("payment.account", p.expect.account, paid.Account, func(a, b string) bool { return a == b })
	c.live(e.Live, paid.Live)
	c.amount(p.expect.amount, paid)
	return c.met
}

// comparison is one run of compare.
type comparison struct {
	scope *mapping.Scope
	tell  func(Expectation) // or nil
	met   bool
}

// over reports whether the rest need not be looked at.
func (c *comparison) over() bool { return c.tell == nil && !c.met }

// text compares a field that is text. An expectation without a value, which
// only an expression can have, is met by nothing.
func (c *comparison) text(field string, v *mapping.Value, got string, equal func(a, b string) bool) {
	if v == nil || c.over() {
		return
	}
	rendered, _ := v.Render(c.scope)
	want := mapping.Text(rendered)
	met := want != "" && equal(want, got)
	c.met = c.met && met
	if c.tell != nil {
		c.tell(Expectation{Field: field, Expected: orNull(want), Seen: orNull(got), Met: met})
	}
}

func (c *comparison) live(want, got *bool) {
	if want == nil || c.over() {
		return
	}
	met := got != nil && *got == *want
	c.met = c.met && met
	if c.tell == nil {
		return
	}
	e := Expectation{Field: "payment.live", Expected: *want, Met: met}
	if got != nil {
		e.Seen = *got
	}
	c.tell(e)
}

func (c *comparison) amount(v *mapping.Value, paid *relay.Payment) {
	if v == nil || c.over() {
		return
	}
	want, _ := v.Render(c.scope)
	minor, ok := minorUnits(want, paid.Exponent)
	met := ok && paid.AmountMinor != nil && minor == *paid.AmountMinor
	c.met = c.met && met
	if c.tell != nil {
		c.tell(Expectation{Field: "payment.amount", Expected: want, Seen: paid.Amount(), Met: met})
	}
}

// orNull makes a text that is not there null.
func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// Filter is a wait's `when`, held against a scope.
type Filter struct {
	Expression string
	Saw        []mapping.Seen
	Undecided  error // why it is neither true nor false, or nil
}

// Filter tells what the wait's `when` sees in a scope, or nil where it has
// none.
func (p *Plan) Filter(s *mapping.Scope) *Filter {
	if p.when == nil {
		return nil
	}
	_, err := p.when.Holds(s)
	return &Filter{Expression: p.When, Saw: p.when.Sees(s), Undecided: err}
}

// minorUnits reads an amount in units, number or text, as minor units.
func minorUnits(v any, exponent int) (int64, bool) {
	switch v := v.(type) {
	case string:
		return relay.ParseMinor(strings.TrimSpace(v), exponent)
	case int64:
		return relay.ParseMinor(strconv.FormatInt(v, 10), exponent)
	case int:
		return relay.ParseMinor(strconv.Itoa(v), exponent)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, false
		}
		return relay.ParseMinor(strconv.FormatFloat(v, 'f', -1, 64), exponent)
	case json.Number:
		return relay.ParseMinor(v.String(), exponent)
	default:
		return 0, false
	}
}

// ProcessingFor is by how much `processing` extends the deadline.
func (p *Plan) ProcessingFor() time.Duration {
	return p.Plan.ProcessingFor.Or(relay.DefaultProcessingFor)
}

// RetryFor is how long a delivery is tried before it is dead.
func (p *Plan) RetryFor() time.Duration { return p.Plan.RetryFor.Or(relay.DefaultRetryFor) }

// Render makes the call of one action over a scope, for the platform that it
// is on. What has no value is null, and noted; what a form holds and a
// spreadsheet would compute is marked as text. waitVars are the variables given
// with the wait: they stand above the flow's and below the action's own. In a
// text that is HTML what expressions give is escaped: strangers have typed it.
func (p *Plan) Render(name string, s *mapping.Scope, waitVars map[string]any, on *platform.Platform) (platform.Call, []mapping.Note, error) {
	a, ok := p.actions[name]
	if !ok {
		return platform.Call{}, nil, fmt.Errorf("the plan has no action %q", name)
	}
	s = s.Outbound()
	var notes []mapping.Note
	render := func(v *mapping.Value) any {
		out, more := v.Render(s)
		notes = append(notes, more...)
		return out
	}
	vars, _ := render(a.vars).(map[string]any)
	if len(waitVars) > 0 {
		own, err := mapping.CompileValue(waitVars)
		if err != nil {
			return platform.Call{}, nil, relay.At("custom_vars", err)
		}
		between, _ := render(own).(map[string]any)
		for k, v := range between {
			if _, given := a.CustomVars[k]; !given {
				vars[k] = v
			}
		}
	}
	var escape func(string) string
	if on.HTMLText {
		escape = html.EscapeString
	}
	text, more := a.text.RenderText(s, escape)
	notes = append(notes, more...)
	headers, _ := render(a.headers).(map[string]any)
	call := platform.Call{
		Action:     a.Action.Action,
		ModuleID:   render(a.module),
		WaitTime:   render(a.wait),
		CustomVars: vars,
		Text:       text,
		Body:       render(a.body),
		Headers:    make(map[string]string, len(headers)),
	}
	for k, v := range headers {
		call.Headers[k] = mapping.Text(v)
	}
	return call, notes, nil
}

// Fallback returns the action that is called where the one of that name has
// failed for good, with its name.
func (p *Plan) Fallback(name string) (behind string, a relay.Action, ok bool) {
	from := p.actions[name]
	if from == nil || from.fallback == "" {
		return "", a, false
	}
	return from.fallback, p.actions[from.fallback].Action, true
}

// Delivery returns the call that a step of a wait owes, or nil where its
// outcome has no action. The caller adds what it knows of the event.
func (p *Plan) Delivery(w *relay.Wait, step relay.Step) *relay.Delivery {
	if step.Fires == "" {
		return nil
	}
	name, a, ok := p.ActionFor(step)
	if !ok {
		return nil
	}
	return &relay.Delivery{
		ID:            relay.NewID(),
		ProjectID:     w.ProjectID,
		DestinationID: a.DestinationID,
		Outcome:       step.Fires,
		Action:        name,
		RetryFor:      p.RetryFor(),
		Wait:          *w,
	}
}

// NudgeOf returns the call that a nudge of a wait owes, or nil where there is
// nothing to be called.
func (p *Plan) NudgeOf(w *relay.Wait, number int) *relay.Delivery {
	if number >= len(p.Nudge) || p.Nudge[number].Action.Action == relay.NoAction {
		return nil
	}
	return &relay.Delivery{
		ID:            relay.NewID(),
		ProjectID:     w.ProjectID,
		DestinationID: p.Nudge[number].DestinationID,
		Outcome:       relay.Nudged,
		Action:        relay.NudgeAction(number),
		RetryFor:      p.RetryFor(),
		Wait:          *w,
	}
}

// ScopeOf returns what expressions see of a wait and of what happened to it.
func ScopeOf(w *relay.Wait, outcome relay.Outcome, payment *relay.Payment, fields map[string]any, format relay.Format, body []byte) *mapping.Scope {
	c := mapping.Correlation{
		ID: w.ID.String(), Token: w.Token, UserID: w.UserID, Conversation: w.Conversation,
		Flow: w.Flow, Key: w.Key, Locale: w.Locale, Status: w.Status,
	}
	if c.Conversation == "" {
		c.Conversation = w.UserID
	}
	if w.Data != nil {
		c.Data = mapping.DecodeEvent(relay.FormatJSON, w.Data, nil)
	}
	c.CustomVars = WaitVars(w)
	return &mapping.Scope{Outcome: outcome, Payment: payment, Form: fields, Correlation: c, Format: format, Body: body}
}

// WaitVars returns the variables that were given with the wait itself.
func WaitVars(w *relay.Wait) map[string]any {
	if w.CustomVars == nil {
		return nil
	}
	vars, _ := mapping.DecodeEvent(relay.FormatJSON, w.CustomVars, nil).(map[string]any)
	return vars
}
