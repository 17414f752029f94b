package provider

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// scheme is a way to prove callbacks that no data describes. Each stands in a
// file of its own.
type scheme struct {
	// check returns the index of the secret that proves a callback, or a
	// *Rejection. The parsed body is there when needsBody is set.
	check     func(s *scope, keys []signingKey, now time.Time) (int, error)
	needsBody bool
	headers   []string // that check reads, in canonical form

	// readsForm says that the parsed body is there where it is a urlencoded
	// form: Read needs it too.
	readsForm bool

	// byWebhookID says that the keys are the ids of the source's webhooks, and
	// that there is no secret.
	byWebhookID bool

	// key refuses a secret that could never verify anything; nil takes any
	// text.
	key func(secret string) ([]byte, error)

	// sign makes a request a genuine one; nil where only the provider can.
	sign func(s *scope, key *signingKey) error

	// challenge answers a provider that asks for a proof of the secret; nil
	// where none does.
	challenge func(req *Request, key *signingKey) (answer string, ok bool)
}

var schemes = map[string]*scheme{
	"braintree": &braintree,
	"paypal":    &paypal,
	"twilio":    &twilio,
}

var errNoKey = errors.New("no key of this scheme")

// compileScheme sets a verifier up whose algorithm is code.
func (v *verifier) compileScheme(c *compiler, a *authSpec) error {
	v.scheme = schemes[a.Alg]
	if a.Sig != (sigSpec{}) || len(a.Message) > 0 || a.Time != (timeSpec{}) || a.Key != (keySpec{}) || a.Enc != "" || a.Separator != "" || a.SeparatorIn != "" {
		return wrong("auth.alg", "%s says itself where the signature stands and what it signs: it has no other field", a.Alg)
	}
	for _, header := range v.scheme.headers {
		c.headers[header] = true
	}
	v.needsBody = v.scheme.needsBody
	v.key = keyTreatment{decode: v.scheme.key}
	if v.key.decode == nil {
		v.key.decode = decoders["utf8"]
	}
	return nil
}

// algorithms lists what alg may be.
func algorithms() string {
	names := slices.Concat([]string{algNone, algToken, algEd25519}, slices.Sorted(maps.Keys(digests)), slices.Sorted(maps.Keys(schemes)))
	return strings.Join(names, ", ")
}

// single returns a header that stands once and holds something.
func single(req *Request, name string) (string, error) {
	switch values := req.Header[name]; {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return "", rejectAt(MissingHeader, "the header "+name)
	case len(values) > 1:
		return "", rejectAt(BadHeader, "the header "+name)
	default:
		return values[0], nil
	}
}
