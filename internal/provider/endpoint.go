package provider

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// DefaultTolerance is how far the signed time may be from the clock, in both
// directions.
const DefaultTolerance = 300 * time.Second

// Settings are what one source says about its preset.
type Settings struct {
	// TokenField replaces conversation_token and token, the names under
	// which the merchant's token comes back.
	TokenField string

	// KeyField is one more place to look for a caller's key: a place, or a
	// path of the JSON body without json: before it.
	KeyField string

	// Tolerance is DefaultTolerance when it is zero.
	Tolerance time.Duration

	// Username and Password must come as Basic credentials besides what the
	// preset asks for. A preset whose secret is a Basic user:password takes
	// them as one more secret.
	Username, Password string

	// WebhookIDs tie callbacks to this source where the provider signs with a
	// key that is its own, and the ids are part of what it signs: any of them
	// may be. They are no secrets.
	WebhookIDs []string
}

// MaxWebhookIDs bounds the webhooks of one source.
const MaxWebhookIDs = 16

// Endpoint is a Preset compiled for the settings of one source. It does not
// change and is safe for concurrent use.
type Endpoint struct {
	preset      *Preset
	auth        verifier
	credentials string // user:password of the settings, or ""
	webhooks    []signingKey
	headers     []string // that Verify and Read look at
	parsed      []string // that Read looks at

	body      bodyKind
	doc, item tree
	fields    []fieldTree
	each      *splitter

	id         []template
	kind       []template
	outcomes   []outcomeRule
	candidates []part
	references []referenceRule
	payment    *paymentRule
	ask        asking
	form       *formRule
	hidden     []string // the fields that hold the token, left out of the form
	handshakes []handshake
}

// Preset returns the preset that e was compiled from.
func (e *Endpoint) Preset() *Preset { return e.preset }

// HeadersRead lists the canonical names of the headers that Verify and Read
// look at, so that they can be kept for a replay. A name with * at its end
// stands for all that begin like it.
func (e *Endpoint) HeadersRead() []string { return slices.Clone(e.headers) }

// HeadersParsed lists those of HeadersRead that Read looks at: all that is
// worth keeping of a callback that was verified already.
func (e *Endpoint) HeadersParsed() []string { return slices.Clone(e.parsed) }

// CredentialHeaders lists those of HeadersRead that carry the secret itself,
// and must not be kept in clear.
func (e *Endpoint) CredentialHeaders() []string {
	found := map[string]bool{}
	if e.credentials != "" || e.auth.source.basic {
		found["Authorization"] = true
	}
	if e.auth.alg == algToken && e.auth.source.place.kind == partHeader {
		found[e.auth.source.place.name] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// CredentialQuery is the parameter of the URL that carries the secret itself,
// and must not be kept either; "" where none does.
func (e *Endpoint) CredentialQuery() string {
	if e.auth.alg == algToken && e.auth.source.place.kind == partQuery {
		return e.auth.source.place.name
	}
	return ""
}

// Verify reports whether the callback is genuine: which of the secrets it was
// signed with, or a *Rejection. A preset that asks for no proof, and what the
// settings themselves hold (Username and Password, WebhookIDs), are used as -1.
//
// Every secret is tried with every message that the preset knows against
// every signature that was sent. In a batch whose events are signed one by
// one all of them must hold; used is then the secret of the first.
func (e *Endpoint) Verify(req *Request, secrets []string, now time.Time) (used int, err error) {
	if e.credentials != "" && !e.auth.source.basic {
		if err := e.checkCredentials(req); err != nil {
			return 0, err
		}
	}
	if e.auth.alg == algNone {
		return -1, nil
	}
	keys, err := e.keys(secrets)
	if err != nil {
		return 0, err
	}
	if e.auth.scheme != nil {
		return e.verifyScheme(req, keys, now)
	}
	s := scope{req: req}
	if e.auth.needsBody {
		if s.parsed, err = e.parse(req); err != nil {
			return 0, reject(UnreadableBody)
		}
	}
	if !e.auth.perItem {
		return e.auth.check(&s, keys, now)
	}
	return e.verifyItems(&s, keys, now)
}

// keys returns what a callback may be proven with.
func (e *Endpoint) keys(secrets []string) ([]signingKey, error) {
	switch {
	case !e.preset.byWebhookID():
		return e.auth.keys(secrets, e.credentials)
	case len(e.webhooks) == 0:
		return nil, reject(NoSecret)
	default:
		return e.webhooks, nil
	}
}

// AwaitsKey reports whether nothing can be verified, with that many secrets.
func (e *Endpoint) AwaitsKey(secrets int) bool {
	switch {
	case e.auth.alg == algNone, e.auth.source.basic && e.credentials != "":
		return false
	case e.preset.byWebhookID():
		return len(e.webhooks) == 0
	default:
		return secrets == 0
	}
}

// verifyScheme verifies by code. It stands apart since what goes through a
// function's pointer goes to the heap, which the others are spared.
func (e *Endpoint) verifyScheme(req *Request, keys []signingKey, now time.Time) (used int, err error) {
	s := scope{req: req}
	isForm := strings.HasPrefix(req.Header.Get("Content-Type"), urlencodedType)
	if e.auth.needsBody || e.auth.scheme.readsForm && isForm {
		if s.parsed, err = e.parse(req); err != nil {
			return 0, reject(UnreadableBody)
		}
	}
	return e.auth.scheme.check(&s, keys, now)
}

func (e *Endpoint) verifyItems(s *scope, keys []signingKey, now time.Time) (int, error) {
	if len(s.parsed.events) == 0 {
		return 0, reject(MissingHeader)
	}
	used := 0
	for i := range s.parsed.events {
		s.item = s.parsed.events[i].values
		index, err := e.auth.check(s, keys, now)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			used = index
		}
	}
	return used, nil
}

func (e *Endpoint) checkCredentials(req *Request) error {
	sent, ok := basicCredentials(req.Header)
	if !ok {
		return rejectAt(MissingHeader, basicHeader)
	}
	got, want := sha256.Sum256([]byte(sent)), sha256.Sum256([]byte(e.credentials))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return reject(CredentialsMismatch)
	}
	return nil
}

// Read parses a callback that Verify has accepted. A batch yields several
// readings. The error is an *Unreadable.
func (e *Endpoint) Read(req *Request) ([]relay.Reading, error) {
	p, err := e.parse(req)
	if err != nil {
		return nil, err
	}
	if e.body == bodyBraintree { // only what was verified is worth to be unpacked
		if err := p.readBraintree(); err != nil {
			return nil, err
		}
		p.doc = e.doc.collect(p.json)
	}
	s := scope{req: req, parsed: p}
	if e.each == nil {
		return e.readAll(&s), nil
	}
	readings := make([]relay.Reading, len(p.events))
	for i := range p.events {
		s.item = p.events[i].values
		readings[i] = e.read(&s)
	}
	return readings, nil
}

// CheckSecret refuses a secret that could never verify anything: an empty
// one, one that is no key of this preset, or one that is known for another.
func (p *Preset) CheckSecret(secret string) error {
	e, err := p.Endpoint(Settings{})
	if err != nil {
		return err
	}
	if e.auth.alg == algNone {
		return relay.Errorf(relay.Invalid, "secret_unused", "%s signs nothing: leave the secret out", p.Name)
	}
	if p.byWebhookID() {
		return relay.Errorf(relay.Invalid, "secret_unused", "%s has no secret: leave it out, and give the ids of its webhooks as webhook_ids", p.Title)
	}
	if rule := p.spec.Secret; slices.ContainsFunc(rule.NotPrefix, func(prefix string) bool { return strings.HasPrefix(secret, prefix) }) {
		return relay.Errorf(relay.Invalid, string(UnusableSecret), "%s", rule.Because)
	}
	_, err = e.auth.keys([]string{secret}, "")
	var rejection *Rejection
	if errors.As(err, &rejection) {
		return relay.Errorf(relay.Invalid, string(rejection.Reason), "that is no secret of %s%s: paste it as the provider shows it", p.Name, p.spec.Secret.words())
	}
	return err
}

// DoubtSecret says why a secret that is taken may be none of the provider's, or
// "". It is no reason to refuse: tests and stand-ins sign with what they like.
func (p *Preset) DoubtSecret(secret string) string {
	begins := p.spec.Secret.Begins
	if begins == "" || strings.HasPrefix(secret, begins) {
		return ""
	}
	return "its secret does not begin with " + begins + ", as those of " + p.Title + " do: if its callbacks are answered 401, paste the signing secret " + begins + "…"
}

// words go on after the name of a provider's secret.
func (s *secretSpec) words() string {
	if s.Is == "" {
		return ""
	}
	return ", which is " + s.Is
}
