package provider

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// handshake is a request that a provider sends to see whether the address
// answers. It proves nothing, and says nothing of any wait.
type handshake struct {
	method string
	body   string // the whole of it, with one # for digits; "" is an empty one
}

// Handshake reports whether a request is one of the provider's tests of the
// address, which is not verified, and must not be read: it is answered with
// body, like a callback that was accepted.
//
// A provider that asks for a proof of the secret gets it with the first one
// that is usable.
func (e *Endpoint) Handshake(req *Request, secrets []string) (body string, ok bool) {
	if e.auth.scheme != nil && e.auth.scheme.challenge != nil {
		if keys, err := e.auth.keys(secrets, ""); err == nil {
			return e.auth.scheme.challenge(req, &keys[0])
		}
	}
	if slices.ContainsFunc(e.handshakes, func(h handshake) bool { return h.fits(req) }) {
		return e.preset.AcceptBody, true
	}
	return "", false
}

func (h *handshake) fits(req *Request) bool {
	return req.Method == h.method && (&step{name: h.body, digit: strings.Contains(h.body, "#")}).names(string(req.Body))
}

func (e *Endpoint) compileHandshakes(_ *compiler, s *spec, _ *Settings) error {
	for i, h := range s.Handshake {
		field := fmt.Sprintf("handshake[%d]", i)
		switch h.Method {
		case http.MethodHead, http.MethodGet:
			if h.Body != "" {
				return wrong(field+".body", "a %s has none", h.Method)
			}
		case http.MethodPost:
			if h.Body == "" {
				return wrong(field+".body", "is missing: a POST that is no callback must be told by its whole body")
			}
		default:
			return wrong(field+".method", "%q is none of GET, HEAD and POST", h.Method)
		}
		e.handshakes = append(e.handshakes, handshake{method: h.Method, body: h.Body})
	}
	return nil
}
