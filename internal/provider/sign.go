package provider

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// Sign makes req what a genuine caller would send at now: it sets the
// signature and what is signed with it, and an id where the preset reads one
// from a header and none is set. The body stays as it is, so presets whose
// signature stands in the body cannot be signed.
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

func (e *Endpoint) setMissingIDs(req *Request) {
	for _, t := range e.id {
		for i := range t {
			if p := &t[i]; p.kind == partHeader && req.Header.Get(p.name) == "" {
				req.Header.Set(p.name, relay.NewID().String())
			}
		}
	}
}

func (e *Endpoint) sign(req *Request, key *signingKey, now time.Time) error {
	s := scope{req: req, sig: &signatures{}, secret: key.text}
	switch {
	case e.auth.scheme != nil && e.auth.scheme.sign != nil:
		return e.auth.scheme.sign(&s, key)
	case e.auth.scheme != nil, e.auth.alg == algEd25519:
		return errors.New("sign a callback: this preset's callbacks can be signed by its provider alone")
	}
	if err := e.auth.setTime(&s, now); err != nil {
		return err
	}
	if e.auth.needsBody {
		var err error
		if s.parsed, err = e.parse(req); err != nil {
			return err
		}
	}
	raw := key.key
	if e.auth.alg != algToken {
		sum, ok := e.auth.sum(&s, key, e.auth.messages[0])
		if !ok {
			return errors.New("sign a callback: a part of what is signed is absent")
		}
		raw = sum
	}
	return e.auth.source.write(&s, e.auth.encode(raw))
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
	default:
		return errors.New("sign a callback: the signature stands in the body")
	}
	return nil
}
