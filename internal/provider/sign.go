package provider

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// Sign makes req what a genuine caller would send at now: it sets the
// signature and what is signed with it, and an id where the preset reads one
// from a header and none is set. A signature in the body is set there: of a
// urlencoded form as a field, of a batch of JSON in the place that each event
// has for it already. Where the key is the provider's alone it fails; that of
// an ed25519 signature is private: whsk_ and the base64 of a key or its seed.
func (e *Endpoint) Sign(req *Request, secret string, now time.Time) error {
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.parsed = nil
	e.setMissingIDs(req)
	if e.credentials != "" {
		setBasic(req.Header, e.credentials)
	}
	if e.auth.alg == algNone {
		return nil
	}
	if e.auth.alg == algEd25519 {
		return e.signEd25519(req, secret, now)
	}
	if e.auth.scheme != nil && e.auth.scheme.sign == nil {
		return ErrProviderSigns
	}
	key, ok := e.auth.key.derive(secret)
	if !ok {
		return errors.New("sign a callback: the secret is no key of this preset")
	}
	if e.auth.source.basic {
		setBasic(req.Header, secret)
		return nil
	}
	return e.sign(req, &key, now)
}

// privatePrefix is what Standard Webhooks puts before a private key.
const privatePrefix = "whsk_"

func (e *Endpoint) signEd25519(req *Request, secret string, now time.Time) error {
	raw, err := decodeBase64(strings.TrimPrefix(secret, privatePrefix))
	var private ed25519.PrivateKey
	switch {
	case err == nil && len(raw) == ed25519.SeedSize && strings.HasPrefix(secret, privatePrefix):
		private = ed25519.NewKeyFromSeed(raw)
	case err == nil && len(raw) == ed25519.PrivateKeySize:
		private = raw
	default:
		return errors.New("sign a callback: this takes the sender's private key, " + privatePrefix + " and base64; a public one signs nothing")
	}
	s := scope{req: req, sig: &signatures{}}
	if err := e.auth.setTime(&s, now); err != nil {
		return err
	}
	text, ok := s.text(e.auth.messages[0])
	if !ok {
		return errPartAbsent
	}
	return e.auth.source.write(&s, e.auth.encode(ed25519.Sign(private, []byte(text))))
}

var errPartAbsent = errors.New("sign a callback: a part of what is signed is absent")

// CallbackQuery is what the callback URL of a wait carries to prove itself,
// for a provider that signs nothing: a key of its own, since the token is
// public. It is "" where the preset asks for no such thing.
func (e *Endpoint) CallbackQuery(token string, secrets []string) string {
	if !e.auth.perWait || len(secrets) == 0 {
		return ""
	}
	key, ok := e.auth.key.derive(secrets[0])
	if !ok {
		return ""
	}
	return url.Values{e.auth.source.place.name: {e.auth.source.prefix + waitKey(key.key, token)}}.Encode()
}

func setBasic(header http.Header, credentials string) {
	header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(credentials)))
}

// setMissingIDs sets what the id is first looked for in: the other places are
// those of other callbacks.
func (e *Endpoint) setMissingIDs(req *Request) {
	if len(e.id) == 0 {
		return
	}
	for i := range e.id[0] {
		if p := &e.id[0][i]; p.kind == partHeader && req.Header.Get(p.name) == "" {
			req.Header.Set(p.name, relay.NewID().String())
		}
	}
}

func (e *Endpoint) sign(req *Request, key *signingKey, now time.Time) error {
	s := scope{req: req, sig: &signatures{}, secret: key.text}
	if e.auth.scheme == nil {
		if err := e.auth.setTime(&s, now); err != nil {
			return err
		}
	}
	if e.auth.needsBody {
		var err error
		if s.parsed, err = e.parse(req); err != nil {
			return err
		}
	}
	defer func() { req.parsed = nil }() // the body may be another now
	switch {
	case e.auth.scheme != nil:
		return e.auth.scheme.sign(&s, key)
	case e.auth.source.place.kind == partItem:
		return e.signItems(&s, key)
	}
	text, err := e.auth.signature(&s, key)
	if err != nil {
		return err
	}
	return e.auth.source.write(&s, text)
}

// ErrProviderSigns says that nobody but the provider has the key.
var ErrProviderSigns = errors.New("sign a callback: this preset's callbacks can be signed by its provider alone")

// signature is what stands in the callback: the text of a sum, or the secret
// itself, or that of the wait whose address is called.
func (v *verifier) signature(s *scope, key *signingKey) (string, error) {
	switch {
	case v.alg != algToken:
		sum, ok := v.sum(s, key, v.messages[0])
		if !ok {
			return "", errPartAbsent
		}
		return v.encode(sum), nil
	case v.perWait && s.req.PathToken != "":
		return waitKey(key.key, s.req.PathToken), nil
	default:
		return v.encode(key.key), nil
	}
}

// signItems signs each event of a batch. The last comes first, so that what is
// written moves none that is still to be signed.
func (e *Endpoint) signItems(s *scope, key *signingKey) error {
	steps, err := parsePath(e.auth.source.place.name)
	if err != nil {
		return err
	}
	items, err := e.each.split(s.parsed.json)
	if err != nil {
		return err
	}
	for i, item := range slices.Backward(items) {
		s.item = s.parsed.events[i].values
		text, err := e.auth.signature(s, key)
		if err != nil {
			return err
		}
		place := follow(item, steps)
		if !place.Exists() {
			return errors.New("sign a callback: an event has no " + e.auth.source.place.name + " to put its signature in")
		}
		written := jsonText(e.auth.source.prefix + text)
		s.req.Body = slices.Concat(s.req.Body[:place.Index], []byte(written), s.req.Body[place.Index+len(place.Raw):])
	}
	return nil
}

// setTime writes now where the signed time stands: in a header, or in a pair
// beside the signature.
func (v *verifier) setTime(s *scope, now time.Time) error {
	if v.stamp == nil {
		return nil
	}
	stamp := strconv.FormatInt(now.Unix(), 10)
	if v.unit == time.Millisecond {
		stamp = strconv.FormatInt(now.UnixMilli(), 10)
	}
	switch p := &v.stamp[0]; {
	case len(v.stamp) == 1 && p.kind == partSig:
		s.sig.pairs = append(s.sig.pairs, pair{p.name, stamp})
	case len(v.stamp) == 1 && p.kind == partHeader:
		s.req.Header.Set(p.name, stamp)
	default:
		return errors.New("sign a callback: the time stands where it cannot be set")
	}
	return nil
}

// write puts a signature where read looks for it.
func (src *signatureSource) write(s *scope, text string) error {
	if text = src.prefix + text; src.pair != "" {
		if src.key == "" {
			return errors.New("sign a callback: the signature's key is not known")
		}
		elements := []string{}
		for _, p := range s.sig.pairs {
			elements = append(elements, p.key+src.pair+p.text)
		}
		text = strings.Join(append(elements, src.key+src.pair+text), src.list)
	}
	switch {
	case src.prefixed != "":
		s.req.Header.Set(src.prefixed+"1", text)
	case src.place.kind == partHeader:
		s.req.Header.Set(src.place.name, text)
	case src.place.kind == partQuery:
		if s.req.Query == nil {
			s.req.Query = url.Values{}
		}
		s.req.Query.Set(src.place.name, text)
	case src.place.kind == partForm:
		return setField(s, src.place.name, text)
	default:
		return errors.New("sign a callback: the signature stands where it cannot be set")
	}
	return nil
}

// setField puts a text into a urlencoded form, and leaves its other fields as
// they are written.
func setField(s *scope, name, text string) error {
	if s.parsed == nil || s.parsed.format != relay.FormatForm || !strings.HasPrefix(s.req.Header.Get("Content-Type"), urlencodedType) {
		return errors.New("sign a callback: the signature stands in a field of a form: send " + urlencodedType)
	}
	s.req.Body = []byte(setParameter(string(s.req.Body), name, text))
	return nil
}
