package provider

import (
	"embed"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"sync"

	"relay.example/relay/internal/relay"
)

// Preset is what the relay knows of one provider. It is shared: read only.
type Preset struct {
	Name  string
	Title string

	// Setup says, as steps in markdown, what to do at the provider, and
	// Events which events to tick there.
	Setup  []string
	Events []string

	// Proof says in a few words what proves a callback, and Limits what to
	// know besides; both in markdown.
	Proof  string
	Limits []string

	// Internal presets are used by the relay itself and never reached from
	// outside.
	Internal bool

	// CallbackByURL says that a callback is known by its URL, so that each
	// wait needs a URL of its own.
	CallbackByURL bool

	// BrowserRedirect says that a person's browser sends the callback and
	// wants to be led to a page.
	BrowserRedirect bool

	// ByGet says that callbacks come as GET, with all they say in the query.
	ByGet bool

	// Live says that a callback means something to who waits when it comes, and
	// nothing to a wait that is registered later: what is said in a chat is no
	// answer to a question that was not asked yet.
	Live bool

	// AcceptStatus and AcceptBody acknowledge a callback, RejectStatus
	// answers one that is not genuine.
	AcceptStatus int
	AcceptBody   string
	RejectStatus int

	// Text is the YAML that the preset was read from.
	Text string

	spec spec
}

// Signed reports whether Verify proves who sent a callback. Where it does
// not, the token is all there is.
func (p *Preset) Signed() bool { return p.spec.Auth.Alg != algNone }

// KeyField names the field of a source that its callbacks are proven with.
func (p *Preset) KeyField() string {
	if p.byWebhookID() {
		return "webhook_ids"
	}
	return "secret"
}

// byWebhookID reports whether the source's WebhookIDs take the place of a
// secret. It goes by the algorithm, and no field of a preset says it: with any
// other one, ids that are no secrets would prove nothing.
func (p *Preset) byWebhookID() bool {
	s := schemes[p.spec.Auth.Alg]
	return s != nil && s.byWebhookID
}

// TellsPayment reports whether callbacks of this preset ever tell of a payment.
func (p *Preset) TellsPayment() bool { return p.spec.Payment != nil }

// TellsOfPayment reports whether they tell a field of it that a wait can
// expect: currency, amount, account or live.
func (p *Preset) TellsOfPayment(field string) bool {
	if p.spec.Payment == nil {
		return false
	}
	switch told := p.spec.Payment; field {
	case "currency":
		return len(told.Currency) > 0
	case "amount":
		return len(told.Amount)+len(told.AmountMinor) > 0
	case "account":
		return len(told.Account) > 0
	case "live":
		return len(told.Live)+len(told.Test) > 0
	default:
		return false
	}
}

// PlacesToken reports whether links carry the token by themselves.
func (p *Preset) PlacesToken() bool { return p.spec.Link != "" }

// Exponent is how many digits the minor unit of a currency has where this
// provider counts in them.
func (p *Preset) Exponent(currency string) int {
	if p.spec.Payment != nil {
		if exp, ok := p.spec.Payment.Exponents[currency]; ok {
			return exp
		}
	}
	return relay.CurrencyExponent(currency)
}

// idHeader is a place of an event's id that is a header.
var idHeader = regexp.MustCompile(`\{header:([^{}?!]+)\??\}`)

// IDHeaders lists the headers of which the id of an event is made, where it is
// looked for first.
func (p *Preset) IDHeaders() []string {
	var names []string
	for _, text := range p.spec.ID[:min(1, len(p.spec.ID))] {
		for _, m := range idHeader.FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
	}
	return names
}

// TellsPayments reports whether callbacks of this preset tell of payments.
func (p *Preset) TellsPayments() bool { return p.spec.Payment != nil }

// Outcomes lists the outcomes that callbacks of this preset can have.
func (p *Preset) Outcomes() []relay.Outcome {
	var all []relay.Outcome
	for _, rule := range p.spec.Outcome {
		if o := relay.Outcome(rule.Is); rule.Is != ignored && !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	slices.SortStableFunc(all, relay.CompareOutcomes)
	return all
}

//go:embed presets/*.yaml
var presetFiles embed.FS

// builtin reads the embedded presets at first use. One that cannot be read is
// a mistake in the program, which every test would meet.
var builtin = sync.OnceValue(func() map[string]*Preset {
	entries, err := presetFiles.ReadDir("presets")
	if err != nil {
		panic(fmt.Sprintf("provider: read the embedded presets: %v", err))
	}
	presets := make(map[string]*Preset, len(entries))
	for _, entry := range entries {
		p, err := parseEmbedded(entry.Name())
		if err != nil {
			panic(fmt.Sprintf("provider: embedded preset %s: %v", entry.Name(), err))
		}
		presets[p.Name] = p
	}
	return presets
})

func parseEmbedded(file string) (*Preset, error) {
	text, err := presetFiles.ReadFile(path.Join("presets", file))
	if err != nil {
		return nil, err
	}
	p, err := parse(text)
	if err != nil {
		return nil, err
	}
	if p.Name+".yaml" != file {
		return nil, fmt.Errorf("its name is %q", p.Name)
	}
	return p, nil
}

// Lookup returns the preset of that name.
func Lookup(name string) (*Preset, bool) {
	p, ok := builtin()[name]
	return p, ok
}

// Names lists the presets in alphabetical order.
func Names() []string { return slices.Sorted(maps.Keys(builtin())) }
