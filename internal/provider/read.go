package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"relay.example/relay/internal/relay"
)

// read brings one event into the relay's normal form.
func (e *Endpoint) read(s *scope) relay.Reading {
	kind := s.firstText(e.kind)
	r := relay.Reading{
		EventID:    storableID(s.firstText(e.id)),
		Type:       storableText(kind),
		Outcome:    e.classify(s, kind),
		Candidates: readCandidates(s, e.candidates),
		References: readReferences(s, e.references),
		Format:     s.parsed.format,
		Live:       e.preset.Live,
	}
	if e.payment != nil && e.payment.when.hold(s) {
		r.Payment = e.payment.read(s)
	}
	if e.form != nil {
		r.Form = s.parsed.form(e.form)
	}
	if fetch := e.ask.fetch; fetch != nil && s.req.Fetched {
		fetch.confirm(s, &r)
	} else if fetch.of(kind) {
		fetch.reduce(&r)
	}
	return r
}

// readAll reads what a body that is no batch tells: one event, and behind it
// the one that goes before it. A provider that is asked for a payment says what
// it is by now: one that was paid and refunded between two questions tells of
// its refund alone, and whoever waits for it would never learn that it was
// paid. The event that is told stands first, wherever there is another or not:
// stored ones are read again by their place.
func (e *Endpoint) readAll(s *scope) []relay.Reading {
	told := e.read(s)
	if !s.req.Fetched || e.ask.before == nil || told.Outcome != relay.Refunded && told.Outcome != relay.Disputed {
		return []relay.Reading{told}
	}
	paid := told
	paid.Outcome, paid.EventID = relay.Completed, storableID(s.firstText(e.ask.before))
	return []relay.Reading{told, paid}
}

// storable reports whether a text can stand in a column and an index. All
// that is longer than a reference may be is not.
func storable(text string) bool {
	return len(text) <= relay.MaxReference && utf8.ValidString(text) && strings.IndexByte(text, 0) < 0
}

// storableID keeps an id as it is, or stands in for it by its hash: two
// callbacks of one hostile id are still one event.
func storableID(id string) string {
	if storable(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// storableText makes a text that is only shown safe to store.
func storableText(text string) string {
	if storable(text) {
		return text
	}
	text = displayable(text)
	if len(text) > relay.MaxReference {
		text = strings.ToValidUTF8(text[:relay.MaxReference], "")
	}
	return text
}

// displayable replaces what Postgres does not take in text.
func displayable(text string) string {
	if utf8.ValidString(text) && strings.IndexByte(text, 0) < 0 {
		return text // as nearly all are: looking is several times faster than replacing
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// condition holds when the value at a place is one of those listed.
type condition struct {
	place  part
	values []string
	begins []string // what it may begin with besides; "" is any value
	orNull bool     // also when it is null or absent
}

type conditions []condition

func (cs conditions) hold(s *scope) bool {
	for i := range cs {
		if !cs[i].holds(s) {
			return false
		}
	}
	return true
}

func (c *condition) holds(s *scope) bool {
	v := s.value(&c.place)
	if v.kind == null || v.kind == unseen {
		return c.orNull
	}
	return v.kind == scalar && (slices.Contains(c.values, v.text) ||
		slices.ContainsFunc(c.begins, func(start string) bool { return strings.HasPrefix(v.text, start) }))
}

// outcomeRule classifies events by type; the first that holds decides.
type outcomeRule struct {
	types     []string // empty: any type
	lastWords []string // empty: any
	when      conditions
	is        relay.Outcome
}

func (e *Endpoint) classify(s *scope, kind string) relay.Outcome {
	for i := range e.outcomes {
		r := &e.outcomes[i]
		if len(r.types) > 0 && !slices.Contains(r.types, kind) {
			continue
		}
		if len(r.lastWords) > 0 && !slices.Contains(r.lastWords, lastWord(kind)) {
			continue
		}
		if r.when.hold(s) {
			return r.is
		}
	}
	return ""
}

// lastWord returns what follows the last separator, in lower case:
// completed, of checkout.session.completed and of CHECKOUT_COMPLETED.
func lastWord(kind string) string {
	return strings.ToLower(kind[strings.LastIndexAny(kind, "._ -:/")+1:])
}

func readCandidates(s *scope, places []part) []relay.Candidate {
	found := make([]relay.Candidate, 0, len(places))
	for i := range places {
		p := &places[i]
		if v := s.value(p); v.kind == scalar && v.text != "" && storable(v.text) {
			found = append(found, relay.Candidate{Place: p.label, Value: v.text})
		}
	}
	return found
}

// referenceRule finds one id of the provider's own.
type referenceRule struct {
	kind     string // session, intent, charge: where it came from
	from     template
	prefixes []string // what such an id begins with; empty: anything
}

func readReferences(s *scope, rules []referenceRule) []relay.Candidate {
	var found []relay.Candidate
	for i := range rules {
		r := &rules[i]
		text, ok := s.text(r.from)
		if !ok || !storable(text) || !beginsWithAny(text, r.prefixes) {
			continue
		}
		c := relay.Candidate{Place: r.kind, Value: text}
		if !slices.Contains(found, c) {
			found = append(found, c)
		}
	}
	return found
}

// paymentRule finds the fields of a payment, each by the first template that
// has a value.
type paymentRule struct {
	when                    conditions
	id, amountMinor, amount []template
	currency, method, email []template
	live, test, account     []template
	exponents               map[string]int // where they differ from ISO 4217
}

func (r *paymentRule) read(s *scope) *relay.Payment {
	p := &relay.Payment{
		ID:       storableID(s.firstText(r.id)),
		Currency: strings.ToUpper(storableText(s.firstText(r.currency))),
		Method:   storableText(s.firstText(r.method)),
		Email:    storableText(s.firstText(r.email)),
		Account:  storableText(s.firstText(r.account)),
	}
	p.Exponent = r.exponent(p.Currency)
	p.AmountMinor = r.minor(s, p.Exponent)
	p.Live = r.isLive(s)
	if p.ID == "" && p.AmountMinor == nil {
		return nil // nothing here tells of one
	}
	return p
}

// isLive reads whether real money moved; nil where the callback does not say.
func (r *paymentRule) isLive(s *scope) *bool {
	var live bool
	switch s.firstText(r.live) {
	case "true", "live":
		live = true
	case "false", "test":
	default:
		switch s.firstText(r.test) {
		case "false", "0":
			live = true
		case "true", "1":
		default:
			return nil
		}
	}
	return &live
}

func (r *paymentRule) exponent(currency string) int {
	if exp, ok := r.exponents[currency]; ok {
		return exp
	}
	return relay.CurrencyExponent(currency)
}

// minor reads the amount, in minor units or in units as the provider has it.
func (r *paymentRule) minor(s *scope, exponent int) *int64 {
	if n, err := strconv.ParseInt(s.firstText(r.amountMinor), 10, 64); err == nil {
		return &n
	}
	if n, ok := relay.ParseMinor(s.firstText(r.amount), exponent); ok {
		return &n
	}
	return nil
}
