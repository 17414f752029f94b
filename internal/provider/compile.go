package provider

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"relay.example/relay/internal/relay"
)

// tokenFieldMark stands in a preset for the name of the token's field.
const tokenFieldMark = "<token_field>"

// ignored is how a rule says that a type means nothing to a wait.
const ignored = "ignored"

// defaultTokenFields are the names under which a token comes back where the
// provider lets the merchant choose.
var defaultTokenFields = []string{"conversation_token", "token"}

// webhookID is a webhook's id. What parts the fields of a signed message is no
// part of it.
var webhookID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

var tokenFieldName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (s *Settings) tokenFields() []string {
	if s.TokenField != "" {
		return []string{s.TokenField}
	}
	return defaultTokenFields
}

func (s *Settings) check() error {
	switch {
	case s.TokenField != "" && !tokenFieldName.MatchString(s.TokenField):
		return relay.Errorf(relay.Invalid, "invalid_token_field", "token_field is 1 to 64 of A-Z, a-z, 0-9, _ and -")
	case s.Tolerance < 0:
		return relay.Errorf(relay.Invalid, "invalid_tolerance", "tolerance cannot be negative")
	case (s.Username == "") != (s.Password == ""):
		return relay.Errorf(relay.Invalid, "invalid_credentials", "username and password are given together")
	case strings.Contains(s.Username, ":"):
		return relay.Errorf(relay.Invalid, "invalid_credentials", "a username for Basic holds no colon")
	case len(s.WebhookIDs) > MaxWebhookIDs:
		return relay.Errorf(relay.Invalid, "invalid_webhook_ids", "webhook_ids: at most %d", MaxWebhookIDs)
	case slices.ContainsFunc(s.WebhookIDs, func(id string) bool { return !webhookID.MatchString(id) }):
		return relay.Errorf(relay.Invalid, "invalid_webhook_ids",
			"webhook_ids: each is 1 to 64 of A-Z, a-z, 0-9, - and _: copy it from the provider's list of webhooks")
	}
	return nil
}

// webhookKeys makes keys of a source's webhook ids.
func (p *Preset) webhookKeys(ids []string) (keys []signingKey, err error) {
	if len(ids) > 0 && !p.byWebhookID() {
		return nil, relay.Errorf(relay.Invalid, "invalid_webhook_ids", "webhook_ids: %s signs with a secret: leave them out", p.Name)
	}
	for _, id := range ids {
		keys = append(keys, signingKey{index: -1, text: id, key: []byte(id)})
	}
	return keys, nil
}

// Endpoint compiles the preset for one source.
func (p *Preset) Endpoint(settings Settings) (*Endpoint, error) {
	if err := settings.check(); err != nil {
		return nil, err
	}
	c := &compiler{headers: map[string]bool{}, batch: p.spec.Each != "", byURL: p.CallbackByURL, tokenFields: settings.tokenFields()}
	webhooks, err := p.webhookKeys(settings.WebhookIDs)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{preset: p, webhooks: webhooks, body: bodyKind(p.spec.Body)}
	for _, compile := range []func(*compiler, *spec, *Settings) error{
		e.compileBody, e.compileNames, e.compileOutcomes,
		e.compileCandidates, e.compileReferences, e.compilePayment, e.compileForm, e.compileHandshakes, e.compileAsk,
	} {
		if err := compile(c, &p.spec, &settings); err != nil {
			return nil, err
		}
	}
	e.parsed = slices.Sorted(maps.Keys(c.headers))
	if settings.Username != "" {
		e.credentials = settings.Username + ":" + settings.Password
		c.headers["Authorization"] = true
	}
	if err := e.compileAuth(c, &p.spec, &settings); err != nil {
		return nil, err
	}
	e.doc, e.item, e.fields = c.doc, c.item, c.fields
	e.headers = slices.Sorted(maps.Keys(c.headers))
	return e, nil
}

func (e *Endpoint) compileBody(c *compiler, s *spec, _ *Settings) (err error) {
	switch e.body {
	case "":
		e.body = bodyJSON
	case bodyJSON, bodyXML:
	case bodyFields, bodyBraintree:
		c.headers["Content-Type"] = true
	default:
		return wrong("body", "%q is none of json, json_or_xml, fields and braintree", s.Body)
	}
	if s.Each != "" {
		if e.each, err = parseSplitter(s.Each); err != nil {
			return wrong("each", "%w", err)
		}
		if e.body != bodyJSON {
			return wrong("each", "a batch is JSON alone: it needs body: json")
		}
	}
	return nil
}

// listField names an element of what may be one string or a list.
func listField(field string, i, n int) string {
	if n == 1 {
		return field
	}
	return fmt.Sprintf("%s[%d]", field, i)
}

func (c *compiler) templates(field string, ts texts) ([]template, error) {
	var compiled []template
	for i, text := range ts {
		t, err := c.template(text, false)
		if err == nil {
			err = checkBraces(text, t)
		}
		if err != nil {
			return nil, wrong(listField(field, i, len(ts)), "%w", err)
		}
		compiled = append(compiled, t)
	}
	return compiled, nil
}

func (e *Endpoint) compileNames(c *compiler, s *spec, _ *Settings) (err error) {
	if e.id, err = c.templates("id", s.ID); err != nil {
		return err
	}
	if err = checkDistinct("id", s.ID, e.id); err != nil {
		return err
	}
	e.kind, err = c.templates("type", s.Type)
	return err
}

func (c *compiler) conditions(field string, by map[string][]any) (conditions, error) {
	var all conditions
	for _, place := range slices.Sorted(maps.Keys(by)) {
		p, err := c.place(place)
		if err != nil {
			return nil, wrong(field, "%w", err)
		}
		if len(by[place]) == 0 {
			return nil, wrong(field, "%s: no value is listed", place)
		}
		one := condition{place: p}
		for _, v := range by[place] {
			switch text := v.(type) {
			case nil:
				one.orNull = true
			case string:
				if start, many := strings.CutSuffix(text, "*"); many {
					one.begins = append(one.begins, expand(start, c.tokenFields)...)
				} else {
					one.values = append(one.values, expand(text, c.tokenFields)...)
				}
			case bool, int, int64, uint64:
				one.values = append(one.values, expand(fmt.Sprint(v), c.tokenFields)...)
			default:
				return nil, wrong(field, "%s: values are strings, whole numbers, true, false and null", place)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

func (e *Endpoint) compileOutcomes(c *compiler, s *spec, _ *Settings) error {
	for i, rule := range s.Outcome {
		field := fmt.Sprintf("outcome[%d]", i)
		o := relay.Outcome(rule.Is)
		if rule.Is == ignored {
			o = ""
		} else if !providerOutcome(o) {
			return wrong(field+".is", "%q is no outcome of a callback: %s", rule.Is, strings.Join(outcomeNames(), ", "))
		}
		when, err := c.conditions(field+".if", rule.If)
		if err != nil {
			return err
		}
		e.outcomes = append(e.outcomes, outcomeRule{types: rule.Type, lastWords: rule.LastWord, when: when, is: o})
	}
	return nil
}

// providerOutcomes are those that a callback can say. The others are found
// out by the relay.
var providerOutcomes = []relay.Outcome{
	relay.Completed, relay.Failed, relay.Cancelled, relay.Expired,
	relay.AttemptFailed, relay.Processing, relay.Refunded, relay.Disputed,
}

func providerOutcome(o relay.Outcome) bool { return slices.Contains(providerOutcomes, o) }

func outcomeNames() []string {
	names := []string{ignored}
	for _, o := range providerOutcomes {
		names = append(names, string(o))
	}
	return names
}

func (e *Endpoint) compileCandidates(c *compiler, s *spec, settings *Settings) error {
	for i, text := range s.Correlation {
		for _, name := range expand(text, settings.tokenFields()) {
			p, err := c.place(name)
			if err != nil {
				return wrong(fmt.Sprintf("correlation[%d]", i), "%w", err)
			}
			e.candidates = append(e.candidates, p)
			if p.kind == partForm && p.within == 0 {
				e.hidden = append(e.hidden, p.name)
			}
		}
	}
	if settings.KeyField == "" {
		return nil
	}
	p, err := c.keyField(settings.KeyField, e.body)
	if err != nil {
		return relay.Errorf(relay.Invalid, "invalid_key_field", "key_field: %s", err)
	}
	if !slices.ContainsFunc(e.candidates, func(have part) bool { return have.label == p.label }) {
		e.candidates = append(e.candidates, p)
	}
	return nil
}

// expand writes a text once for each name of the token's field.
func expand(text string, names []string) []string {
	if !strings.Contains(text, tokenFieldMark) {
		return []string{text}
	}
	var all []string
	for _, name := range names {
		all = append(all, strings.ReplaceAll(text, tokenFieldMark, name))
	}
	return all
}

// keyField reads a place, or a bare path: of the item in a batch, of the body
// else. Where the body is a form, a bare name is a field of it.
func (c *compiler) keyField(text string, body bodyKind) (part, error) {
	kind, _, named := strings.Cut(text, ":")
	if _, known := placeKinds[kind]; named && known || text == "path" {
		return c.place(text)
	}
	switch {
	case c.batch:
		return c.place("item:" + text)
	case body == bodyFields && !strings.ContainsAny(text, ".["):
		return c.place("form:" + text)
	default:
		return c.place("json:" + text)
	}
}

func (e *Endpoint) compileReferences(c *compiler, s *spec, _ *Settings) error {
	for i, r := range s.References {
		field := fmt.Sprintf("references[%d]", i)
		if r.Kind == "" {
			return wrong(field+".kind", "is missing: what is it the id of?")
		}
		from, err := c.template(r.From, false)
		if err != nil {
			return wrong(field+".from", "%w", err)
		}
		if err := checkDistinct(field+".from", texts{r.From}, []template{from}); err != nil {
			return err
		}
		e.references = append(e.references, referenceRule{kind: r.Kind, from: from, prefixes: r.Prefix})
	}
	return nil
}

func (e *Endpoint) compilePayment(c *compiler, s *spec, _ *Settings) (err error) {
	if s.Payment == nil {
		return nil
	}
	r := &paymentRule{exponents: s.Payment.Exponents}
	if r.when, err = c.conditions("payment.if", s.Payment.If); err != nil {
		return err
	}
	for code, exp := range r.exponents {
		if len(code) != 3 || code != strings.ToUpper(code) || exp < 0 || exp > 4 {
			return wrong("payment.exponents", "%s: %d: write a currency in capitals and 0 to 4", code, exp)
		}
	}
	for _, f := range []struct {
		name string
		from texts
		to   *[]template
	}{
		{"id", s.Payment.ID, &r.id},
		{"amount_minor", s.Payment.AmountMinor, &r.amountMinor},
		{"amount", s.Payment.Amount, &r.amount},
		{"currency", s.Payment.Currency, &r.currency},
		{"method", s.Payment.Method, &r.method},
		{"email", s.Payment.Email, &r.email},
		{"live", s.Payment.Live, &r.live},
		{"test", s.Payment.Test, &r.test},
		{"account", s.Payment.Account, &r.account},
	} {
		if *f.to, err = c.templates("payment."+f.name, f.from); err != nil {
			return err
		}
	}
	e.payment = r
	if err := checkDistinct("payment.id", s.Payment.ID, r.id); err != nil {
		return err
	}
	return checkCurrencies(r.currency)
}
