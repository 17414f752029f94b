package provider

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"relay.example/relay/internal/relay"
)

// Guide is the page on a preset, in markdown: what to do at the provider, and
// what the relay makes of its callbacks. The pages in docs/providers are made
// of it.
func (p *Preset) Guide() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n`provider: %s`. Proven by %s.\n", p.Title, p.Name, p.Proof)
	if p.Internal {
		b.WriteString("\nIt is the relay's own, and no source can be made of it.\n")
	}
	guideSteps(&b, p.Setup)
	if len(p.Events) > 0 {
		b.WriteString("\n## Events to tick\n\n")
		for _, event := range p.Events {
			fmt.Fprintf(&b, "- `%s`\n", event)
		}
	}
	p.guideOutcomes(&b)
	p.guideToken(&b)
	p.guideFields(&b)
	p.guideAnswers(&b)
	if len(p.Limits) > 0 {
		b.WriteString("\n## What to know besides\n\n")
		for _, limit := range p.Limits {
			fmt.Fprintf(&b, "- %s\n", limit)
		}
	}
	return b.String()
}

func guideSteps(b *strings.Builder, steps []string) {
	if len(steps) == 0 {
		return
	}
	b.WriteString("\n## Setting it up\n\n")
	for i, step := range steps {
		number := fmt.Sprintf("%d. ", i+1)
		indented := strings.ReplaceAll(step, "\n", "\n"+strings.Repeat(" ", len(number)))
		fmt.Fprintf(b, "%s%s\n", number, strings.ReplaceAll(indented, "\n"+strings.Repeat(" ", len(number))+"\n", "\n\n"))
	}
}

func (p *Preset) guideOutcomes(b *strings.Builder) {
	b.WriteString("\n## Outcomes\n\n")
	if len(p.Outcomes()) == 0 {
		b.WriteString("None: its callbacks are kept, and end no wait.\n")
		return
	}
	b.WriteString("The first line that fits counts. What fits none is acknowledged, kept and ignored.\n\n| callback | outcome |\n|---|---|\n")
	for _, rule := range p.spec.Outcome {
		fmt.Fprintf(b, "| %s | `%s` |\n", rule.words(), rule.Is)
	}
}

// words says when a rule holds.
func (r *outcomeSpec) words() string {
	var parts []string
	switch {
	case len(r.Type) == 1 && r.Type[0] == "":
		parts = append(parts, "no type")
	case len(r.Type) > 0:
		parts = append(parts, codeList(r.Type))
	case len(r.LastWord) > 0:
		parts = append(parts, "a type that ends in "+codeList(r.LastWord))
	default:
		parts = append(parts, "every one")
	}
	for _, place := range slices.Sorted(maps.Keys(r.If)) {
		var values []string
		for _, v := range r.If[place] {
			values = append(values, valueWords(v))
		}
		parts = append(parts, "`"+place+"` "+strings.Join(values, " or "))
	}
	return strings.ReplaceAll(strings.Join(parts, ", where "), "|", `\|`)
}

// valueWords says what a condition wants of a place.
func valueWords(v any) string {
	text := fmt.Sprint(v)
	start, many := strings.CutSuffix(text, "*")
	switch {
	case v == nil:
		return "is absent"
	case many && start == "":
		return "is there"
	case many:
		return "begins with `" + start + "`"
	default:
		return "is `" + text + "`"
	}
}

func codeList(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }

func (p *Preset) guideToken(b *strings.Builder) {
	if len(p.spec.Correlation) == 0 {
		return
	}
	b.WriteString("\n## The token\n\nIt, or a caller's `key`, is looked for in this order:\n\n")
	for _, place := range p.spec.Correlation {
		fmt.Fprintf(b, "- `%s`\n", place)
	}
	if slices.ContainsFunc(p.spec.Correlation, func(place string) bool { return strings.Contains(place, tokenFieldMark) }) {
		fmt.Fprintf(b, "\n`%s` is the source's `token_field`; by default `%s` is tried, then `%s`.\n", tokenFieldMark, defaultTokenFields[0], defaultTokenFields[1])
	}
	if p.spec.Link != "" {
		place, name, _ := parseLink(p.spec.Link)
		where := map[string]string{"query": "parameter", "fragment": "parameter in the fragment"}[place]
		fmt.Fprintf(b, "\nThe flow's `link` leads there with the token as the %s `%s`.\n", where, linkName(name, &Settings{}))
	}
	if p.CallbackByURL {
		b.WriteString("\nEach wait has a `callback_url` of its own, and its token stands in the path.\n")
	}
}

func (p *Preset) guideFields(b *strings.Builder) {
	var references []string
	for _, r := range p.spec.References {
		if !slices.Contains(references, r.Kind) {
			references = append(references, r.Kind)
		}
	}
	payment := p.spec.Payment.fields()
	if len(references) == 0 && len(payment) == 0 && p.spec.Form == nil {
		return
	}
	b.WriteString("\n## What expressions and later events see\n\n")
	if len(payment) > 0 {
		fmt.Fprintf(b, "- `payment` has %s.\n", codeList(payment))
	}
	if p.spec.Form != nil {
		b.WriteString("- `form` has the submitted fields.\n")
	}
	if len(references) > 0 {
		fmt.Fprintf(b, "- Later events find the wait by the provider's own ids: %s.\n", strings.ReplaceAll(strings.Join(references, ", "), "_", " "))
	}
}

// fields lists what a preset fills of a payment.
func (s *paymentSpec) fields() []string {
	if s == nil {
		return nil
	}
	var names []string
	for _, f := range []struct {
		name string
		from texts
	}{
		{"id", s.ID},
		{"amount", slices.Concat(s.Amount, s.AmountMinor)},
		{"currency", s.Currency},
		{"method", s.Method},
		{"email", s.Email},
		{"live", slices.Concat(s.Live, s.Test)},
		{"account", s.Account},
	} {
		if len(f.from) > 0 {
			names = append(names, f.name)
		}
	}
	return names
}

func (p *Preset) guideAnswers(b *strings.Builder) {
	if p.AcceptStatus == 200 && p.AcceptBody == "[accepted]" && p.RejectStatus == 401 {
		return
	}
	fmt.Fprintf(b, "\n## Answers\n\nA callback that is accepted is answered %d", p.AcceptStatus)
	if p.AcceptBody != "" {
		fmt.Fprintf(b, " `%s`", p.AcceptBody)
	}
	fmt.Fprintf(b, ", one that is not genuine %d.\n", p.RejectStatus)
}

// Index is the page that lists the presets.
func Index() string {
	var b strings.Builder
	b.WriteString("# Providers\n\n" +
		"A source's `provider` is one of these, or [a preset of your own](../presets.md) in the same form. " +
		"`relay providers` lists them, `relay providers show NAME` prints one.\n\n" +
		"| name | provider | proven by | outcomes |\n|---|---|---|---|\n")
	for _, name := range Names() {
		p, _ := Lookup(name)
		outcomes := "none"
		if all := p.Outcomes(); len(all) > 0 {
			outcomes = codeList(outcomeTexts(all))
		}
		fmt.Fprintf(&b, "| [`%s`](%s.md) | %s | %s | %s |\n", name, name, p.Title, p.Proof, outcomes)
	}
	return b.String()
}

func outcomeTexts(all []relay.Outcome) []string {
	var texts []string
	for _, o := range all {
		texts = append(texts, string(o))
	}
	return texts
}
