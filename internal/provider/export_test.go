package provider

import (
	"maps"
	"slices"
)

// ChecksTime reports whether a signed time is held against the clock.
func (e *Endpoint) ChecksTime() bool { return e.auth.stamp != nil }

// SignsBody reports whether every byte of the body is signed.
func (e *Endpoint) SignsBody() bool {
	if e.auth.scheme != nil {
		return e.auth.scheme == &paypal
	}
	return len(e.auth.messages) > 0 && e.auth.messages[0].uses(partBody)
}

// ProofHeaders lists the headers without which a callback proves nothing.
func (e *Endpoint) ProofHeaders() []string {
	found := map[string]bool{}
	if e.auth.scheme != nil {
		return e.auth.scheme.headers
	}
	if src := e.auth.source; src.prefixed != "" {
		found[src.prefixed+"*"] = true
	} else if src.basic {
		found["Authorization"] = true
	} else if src.place.kind == partHeader {
		found[src.place.name] = true
	}
	for _, message := range e.auth.messages {
		for i := range message {
			if p := &message[i]; p.kind == partHeader && !p.optional {
				found[p.name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// ProvesContent reports whether what is said is signed, and not only by whom.
func (p *Preset) ProvesContent() bool { return p.Signed() && p.spec.Auth.Alg != algToken }
