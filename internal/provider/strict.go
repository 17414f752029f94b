package provider

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"relay.example/relay/internal/relay"
)

// What is well formed and yet does what nobody means is refused here: an id
// that all callbacks share, a signature that leaves out what is believed, a
// currency that is none.

// varies reports whether a template has a place in it.
func (t template) varies() bool {
	return slices.ContainsFunc(t, func(p part) bool { return p.kind != partLiteral })
}

// checkBraces refuses a bare place where a template belongs: as a template it
// is a text that never changes.
func checkBraces(text string, t template) error {
	kind, _, named := strings.Cut(text, ":")
	if _, known := placeKinds[kind]; known && named && !t.varies() {
		return fmt.Errorf("%q is a text here, the same for every callback: write the place in braces, {%s}", text, text)
	}
	return nil
}

// checkDistinct refuses templates without any place where a value has to tell
// one thing from another.
func checkDistinct(field string, from texts, ts []template) error {
	for i, t := range ts {
		if !t.varies() {
			return wrong(listField(field, i, len(ts)),
				"%q is the same for every callback: write the place of its value in braces, such as {json:event.id}", from[i])
		}
	}
	return nil
}

// checkCurrencies refuses a literal that is no currency.
func checkCurrencies(ts []template) error {
	for i, t := range ts {
		if !t.varies() && !relay.IsCurrency(t[0].name) {
			return wrong(listField("payment.currency", i, len(ts)),
				"%q is no ISO 4217 code such as EUR; a place stands in braces, such as {json:order.currency}", t[0].name)
		}
	}
	return nil
}

// checkSigned refuses a signature that leaves out what is believed of a body:
// whoever has seen one genuine callback could write the rest anew. Headers and
// the query are the provider's and the merchant's to sign or not; of a
// callback by GET the query is all there is.
func (e *Endpoint) checkSigned(s *spec) error {
	if s.Auth.Partial {
		if len(e.auth.messages) == 0 {
			return wrong("auth.partial", "stands only beside a message: leave it out")
		}
		return nil
	}
	for i, message := range e.auth.messages {
		if err := e.signedBy(message, s); err != nil {
			return wrong(listField("auth.message", i, len(e.auth.messages)), "%w", err)
		}
	}
	return nil
}

func (e *Endpoint) signedBy(message template, s *spec) error {
	for _, p := range e.believed() {
		whole := message.uses(partBody)
		switch {
		case p.kind == partQuery:
			whole = message.uses(partURL) || !s.ByGet
		case !inBody(p.kind):
			whole = true
		}
		if !whole && !message.covers(template{p}) {
			return fmt.Errorf("%s is read and not signed: write {body} or its place into what is signed, "+
				"or partial: true under auth where the provider itself signs no more", p.label)
		}
	}
	if e.form != nil && !s.ByGet && !message.uses(partBody) {
		return errors.New("the form is read and not signed: write {body} into what is signed, " +
			"or partial: true under auth where the provider itself signs no more")
	}
	return nil
}

// believed lists the places that decide what a callback means.
func (e *Endpoint) believed() (all []part) {
	add := func(ts ...template) {
		for _, t := range ts {
			all = append(all, t...)
		}
	}
	on := func(when conditions) {
		for _, one := range when {
			all = append(all, one.place)
		}
	}
	add(e.id...)
	add(e.kind...)
	for _, rule := range e.outcomes {
		on(rule.when)
	}
	all = append(all, e.candidates...)
	for _, r := range e.references {
		add(r.from)
	}
	if p := e.payment; p != nil {
		on(p.when)
		add(slices.Concat(p.id, p.amountMinor, p.amount, p.currency, p.method, p.email, p.live, p.test, p.account)...)
	}
	return all
}

// NamesNoWait reports whether callbacks with an outcome could never find the
// wait that they are about.
func (e *Endpoint) NamesNoWait() bool {
	asks := e.preset.spec.Ask
	return len(e.outcomes) > 0 && len(e.candidates) == 0 && len(e.references) == 0 && !e.preset.CallbackByURL &&
		(asks == nil || asks.Event == nil && asks.Fetch == nil)
}
