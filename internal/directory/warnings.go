package directory

import (
	"slices"
	"strings"

	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
)

// Warnings says what of a plan is taken although it may not do what was meant:
// outcomes that pass in silence, and what keeps callbacks of its sources from
// being of use. key is that of the wait, "" for a flow.
func Warnings(doc *relay.Plan, sources []*Source, key string) []string {
	warnings := silent(doc)
	if _, ok := doc.On[string(relay.Mismatch)]; !ok && doc.Expect != nil {
		warnings = append(warnings, "mismatch: no action")
	}
	for _, src := range sources {
		if src.Err != nil {
			continue // its flow says so, and its callbacks are answered 503
		}
		for _, warning := range src.warnings(doc, key) {
			warnings = append(warnings, src.Name+": "+warning)
		}
	}
	return warnings
}

// Strays says which fields of a hosted form a plan looks at that the form has
// not, where no other source could tell them.
func Strays(p *plan.Plan, sources []*Source) (warnings []string) {
	if slices.ContainsFunc(sources, func(s *Source) bool { return s.Name != relay.FormSource }) {
		return nil
	}
	for _, name := range p.Strays() {
		warnings = append(warnings, "form."+name+": the form has no such field, so that it is null")
	}
	return warnings
}

// silent names the terminal outcomes for which nothing is called: also those
// that its sources never tell of, because a person can end a wait with any of
// them.
func silent(doc *relay.Plan) []string {
	if _, ok := doc.On[relay.DefaultAction]; ok {
		return []string{}
	}
	var names []string
	for _, o := range []relay.Outcome{relay.Completed, relay.Expired, relay.Cancelled, relay.Failed} {
		if _, ok := doc.On[string(o)]; !ok {
			names = append(names, string(o))
		}
	}
	if len(names) == 0 {
		return []string{}
	}
	return []string{strings.Join(names, ", ") + ": no action"}
}

// Warnings says what may be wrong with the source itself, whoever uses it.
func (s *Source) Warnings() []string {
	if s.Err != nil || s.Endpoint == nil || len(s.Secrets) == 0 {
		return []string{}
	}
	if doubt := s.Endpoint.Preset().DoubtSecret(s.Secrets[0].Secret); doubt != "" {
		return []string{doubt}
	}
	return []string{}
}

// warnings says what keeps callbacks of the source from being of use to a
// plan.
func (s *Source) warnings(doc *relay.Plan, key string) (warnings []string) {
	preset := s.Endpoint.Preset()
	warnings = s.Warnings()
	if s.AwaitsSecret() && s.Subscribe != nil {
		warnings = append(warnings, "it is not subscribed at its platform yet, so that it hears nothing from there: its `subscriptions` say why")
	} else if s.AwaitsSecret() {
		warnings = append(warnings, "it has no "+preset.KeyField()+" yet, so that all its callbacks are answered 401: give it the provider's")
	}
	if s.Endpoint.NeedsKey() && !s.CanAsk() {
		warnings = append(warnings, "its callbacks decide nothing without an api_key to ask its provider with: give the source one")
	}
	attempt, told := doc.On[string(relay.AttemptFailed)]
	if told && attempt.Action != relay.NoAction && s.Endpoint.AsksWhose() && !s.CanAsk() {
		warnings = append(warnings, "a failed attempt may name nobody, and without an api_key its provider is not asked whose it was: "+
			"attempt_failed may never fire; give the source one")
	}
	if s.completesByFetching() && !expectsAmount(doc.Expect) {
		warnings = append(warnings, "nobody signs its callbacks, and any payment that names a wait completes it, a cheaper one too: "+
			"write what is to be paid as expect.amount")
	}
	if missing := untold(doc.Expect, s); missing != "" {
		warnings = append(warnings, "it never tells "+missing+", which is expected: each of its payments or forms is a mismatch")
	}
	if link, ok := doc.Link[s.Name]; ok && key == "" && s.losesToken(link) {
		warnings = append(warnings, "its link carries no token, so that nobody can tell whose a callback is: "+
			"write {{ correlation.token }} into it where the page expects it, or register waits with a `key` that comes back")
	}
	return warnings
}

// completesByFetching reports whether anybody may name the payment that
// completes a wait: a callback of the source proves nothing, and what its
// provider says of the payment is all that counts. Where the link leads by way
// of the payer to what makes the payment, they choose its amount.
func (s *Source) completesByFetching() bool {
	preset := s.Endpoint.Preset()
	return !preset.Signed() && s.Endpoint.NeedsKey() && preset.TellsOfPayment("amount") && slices.Contains(preset.Outcomes(), relay.Completed)
}

func expectsAmount(e *relay.Expect) bool {
	return e != nil && slices.Contains(expectedFields(e), "amount")
}

// losesToken reports whether a link leads to a page that learns nothing of the
// wait. Where callbacks are known by their URL the wait's callback_url has the
// token.
func (s *Source) losesToken(link string) bool {
	preset := s.Endpoint.Preset()
	return !preset.Internal && !preset.PlacesToken() && !preset.CallbackByURL &&
		!strings.Contains(link, "correlation.token") && !strings.Contains(link, "correlation.key")
}

// expectedFields lists what is expected of a payment.
func expectedFields(e *relay.Expect) (fields []string) {
	for _, field := range []struct {
		name  string
		given bool
	}{
		{"currency", e.Currency != ""}, {"amount", e.Amount != nil && e.Amount != ""}, {"account", e.Account != ""}, {"live", e.Live != nil},
	} {
		if field.given {
			fields = append(fields, field.name)
		}
	}
	return fields
}

// expectable refuses expectations that no source of a flow can meet: every
// success would be a mismatch.
func expectable(e *relay.Expect, sources []*Source) error {
	if e == nil {
		return nil
	}
	if !slices.ContainsFunc(sources, func(s *Source) bool { return s.Endpoint.Preset().TellsPayment() }) {
		return relay.Errorf(relay.Invalid, "expect_unreachable",
			"expect: its sources never tell of a payment, so that no wait would complete: remove it, or name a source that does")
	}
	for _, field := range expectedFields(e) {
		if !slices.ContainsFunc(sources, func(s *Source) bool { return s.Endpoint.Preset().TellsOfPayment(field) }) {
			return relay.Errorf(relay.Invalid, "expect_unreachable",
				"expect.%s: its sources never tell it, so that no wait would complete: remove it, or name a source that does", field)
		}
	}
	return nil
}

// untold names what is expected of a payment and never told by a source that
// completes waits; "" where there is nothing.
func untold(e *relay.Expect, s *Source) string {
	preset := s.Endpoint.Preset()
	if e == nil || !slices.Contains(preset.Outcomes(), relay.Completed) {
		return ""
	}
	if !preset.TellsPayment() {
		return "of a payment"
	}
	var fields []string
	for _, field := range expectedFields(e) {
		if !preset.TellsOfPayment(field) {
			fields = append(fields, "payment."+field)
		}
	}
	return strings.Join(fields, ", ")
}
