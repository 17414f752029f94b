package provider

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

func (e *Endpoint) compileAuth(c *compiler, s *spec, settings *Settings) error {
	a, v := &s.Auth, &e.auth
	v.alg = a.Alg
	switch a.Alg {
	case "":
		return wrong("auth.alg", "is missing: write none for a provider that signs nothing")
	case algNone:
		if a.Sig != (sigSpec{}) || len(a.Message) > 0 {
			return wrong("auth.alg", "none has neither sig nor message")
		}
		return nil
	case algToken:
		if len(a.Message) > 0 {
			return wrong("auth.message", "a token signs no message")
		}
	case algEd25519:
		v.keyed = true
	default:
		if schemes[a.Alg] != nil {
			return v.compileScheme(c, a)
		}
		v.digest, v.keyed = digests[a.Alg], strings.HasPrefix(a.Alg, "hmac-")
		if v.digest == nil {
			return wrong("auth.alg", "%q is not known: there are %s", a.Alg, algorithms())
		}
	}
	for _, compile := range []func(*compiler, *authSpec) error{
		v.compileKey, v.compileSource, v.compileMessages, v.compileSeparator,
	} {
		if err := compile(c, a); err != nil {
			return err
		}
	}
	return v.compileTime(c, a, settings)
}

func (v *verifier) compileKey(_ *compiler, a *authSpec) error {
	enc := a.Key.Enc
	if enc == "" {
		enc = "utf8"
	}
	if enc == "html" {
		v.key = keyTreatment{strip: a.Key.Strip, decode: decodeHTML}
		return nil
	}
	if v.key = (keyTreatment{strip: a.Key.Strip, decode: decoders[enc]}); v.key.decode == nil {
		return wrong("auth.key.enc", "%q is none of utf8, hex, base64 and html", enc)
	}
	if v.alg == algEd25519 {
		v.key.decode = publicKey(decoders[enc])
	}
	return nil
}

// publicKey refuses what has not the length of an ed25519 key.
func publicKey(decode func(string) ([]byte, error)) func(string) ([]byte, error) {
	return func(text string) ([]byte, error) {
		key, err := decode(text)
		if err == nil && len(key) != ed25519.PublicKeySize {
			err = errNoKey
		}
		return key, err
	}
}

func (v *verifier) compileSource(c *compiler, a *authSpec) error {
	if err := v.compileEncoding(a); err != nil {
		return err
	}
	src := &v.source
	src.list, src.pair, src.key = a.Sig.List, a.Sig.Pair, a.Sig.Key
	src.prefix, src.bare = a.Sig.Prefix, a.Sig.PrefixOptional
	if src.key != "" && src.pair == "" {
		return wrong("auth.sig.key", "a key needs pair, what stands between key and signature")
	}
	if err := src.compileOr(c, &a.Sig); err != nil {
		return err
	}
	switch from := a.Sig.From; {
	case from == "":
		return wrong("auth.sig.from", "is missing: where does the signature stand?")
	case from == "basic":
		src.basic = true
		c.headers["Authorization"] = true
		if v.alg != algToken {
			return wrong("auth.sig.from", "basic needs alg: token")
		}
		return nil
	case strings.HasPrefix(from, "header:") && strings.HasSuffix(from, "*"):
		return src.compileWildcard(c, strings.TrimSuffix(strings.TrimPrefix(from, "header:"), "*"))
	}
	p, err := c.place(a.Sig.From)
	if err == nil && p.kind == partPath {
		err = errors.New("a signature cannot stand in the path")
	}
	if err != nil {
		return wrong("auth.sig.from", "%w", err)
	}
	src.place, c.perItem = p, c.perItem || p.kind == partItem
	return nil
}

// compileOr reads the second header in which a signature may stand.
func (src *signatureSource) compileOr(c *compiler, a *sigSpec) error {
	if a.Or == "" {
		return nil
	}
	p, err := c.place(a.Or)
	if err != nil || p.kind != partHeader || !strings.HasPrefix(a.From, "header:") || strings.HasSuffix(a.From, "*") {
		return wrong("auth.sig.or", "a second header stands beside a first: write header:NAME in from and in or")
	}
	src.or = p.name
	return nil
}

func (src *signatureSource) compileWildcard(c *compiler, prefix string) error {
	if len(prefix) < 3 || strings.ContainsAny(prefix, " \t:{}*") {
		return wrong("auth.sig.from", "at least three letters of a header's name stand before the *")
	}
	src.prefixed = http.CanonicalHeaderKey(prefix)
	c.headers[src.prefixed+"*"] = true
	return nil
}

func (v *verifier) compileEncoding(a *authSpec) error {
	enc := a.Enc
	switch {
	case v.alg == algToken && enc == "":
		enc = "utf8"
	case enc == "":
		enc = "hex"
	case enc == "utf8" && v.alg != algToken:
		return wrong("auth.enc", "a signature is hex or base64")
	}
	if v.source.decode = decoders[enc]; v.source.decode == nil {
		return wrong("auth.enc", "%q is neither hex nor base64", enc)
	}
	switch enc {
	case "hex":
		v.encode = hex.EncodeToString
	case "base64":
		v.encode = base64.StdEncoding.EncodeToString
	default:
		v.encode = func(raw []byte) string { return string(raw) }
	}
	return nil
}

func (v *verifier) compileMessages(c *compiler, a *authSpec) error {
	if v.alg == algToken {
		v.perItem, v.needsBody = c.perItem, inBody(v.source.place.kind)
		v.perWait = c.byURL && v.source.place.kind == partQuery
		return nil
	}
	if len(a.Message) == 0 {
		return wrong("auth.message", "is missing: what is signed? {body} for the body as it is")
	}
	for i, text := range a.Message {
		field := listField("auth.message", i, len(a.Message))
		t, err := v.signed(c, text)
		if err != nil {
			return wrong(field, "%w", err)
		}
		if !v.keyed && !t.uses(partSecret) {
			return wrong(field, "%s signs nothing unless {secret} is part of its message", v.alg)
		}
		v.messages = append(v.messages, t)
	}
	v.perItem = c.perItem
	v.needsBody = inBody(v.source.place.kind) || slices.ContainsFunc(v.messages, readsBody)
	return nil
}

// signed compiles a template of the signature.
func (v *verifier) signed(c *compiler, text string) (template, error) {
	t, err := c.template(text, true)
	if err == nil && t.uses(partSig) && v.source.pair == "" {
		err = errors.New("{sig.…} needs auth.sig.pair")
	}
	return t, err
}

func inBody(k partKind) bool { return k == partForm || k == partJSON || k == partItem }

func readsBody(t template) bool {
	return slices.ContainsFunc(t, func(p part) bool { return inBody(p.kind) })
}

// compileSeparator reads what no signed value may hold.
func (v *verifier) compileSeparator(c *compiler, a *authSpec) error {
	v.separator = a.Separator
	if a.Separator == "" && a.SeparatorIn != "" {
		return wrong("auth.separator_in", "needs separator, which it may hold")
	}
	if a.Separator == "" {
		return nil
	}
	parts := func(p part) bool { return p.kind == partLiteral && strings.Contains(p.name, a.Separator) }
	if len(v.messages) == 0 || slices.ContainsFunc(v.messages, func(t template) bool { return !slices.ContainsFunc(t, parts) }) {
		return wrong("auth.separator", "%q parts nothing: it stands between the places of auth.message", a.Separator)
	}
	if a.SeparatorIn == "" {
		return nil
	}
	p, err := c.place(a.SeparatorIn)
	if err != nil {
		return wrong("auth.separator_in", "%w", err)
	}
	if slices.ContainsFunc(v.messages, func(t template) bool { return !t.covers(template{p}) }) {
		return wrong("auth.separator_in", "%s is no part of auth.message", a.SeparatorIn)
	}
	v.separatorIn = &p
	return nil
}

func (v *verifier) compileTime(c *compiler, a *authSpec, settings *Settings) error {
	if a.Time == (timeSpec{}) {
		return nil
	}
	if v.alg == algToken {
		return wrong("auth.time", "a token signs no time")
	}
	var err error
	if v.stamp, err = v.signed(c, a.Time.Value); err != nil {
		return wrong("auth.time.value", "%w", err)
	}
	// A time that the signature does not cover could be set by anyone.
	for i, message := range v.messages {
		if !message.covers(v.stamp) {
			return wrong(listField("auth.message", i, len(v.messages)), "the time of auth.time is no part of it")
		}
	}
	switch a.Time.Unit {
	case "", "s":
		v.unit = time.Second
	case "ms":
		v.unit = time.Millisecond
	default:
		return wrong("auth.time.unit", "%q is neither s nor ms", a.Time.Unit)
	}
	v.needsBody = v.needsBody || readsBody(v.stamp)
	v.tolerance = settings.Tolerance
	if v.tolerance == 0 {
		v.tolerance = DefaultTolerance
	}
	return nil
}

// covers reports whether all places of another template are places of t.
func (t template) covers(other template) bool {
	for _, p := range other {
		signed := slices.ContainsFunc(t, func(q part) bool {
			return q.isAt(&p)
		})
		if p.kind != partLiteral && !signed {
			return false
		}
	}
	return true
}
