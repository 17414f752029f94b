package provider

import (
	"crypto/sha1"
	"hash"
	"maps"
	"reflect"
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

// Signed tells which digest signs a callback, whether with a key, and what: a
// text for each signature. No digest is one that signs nothing.
func (e *Endpoint) Signed(req *Request, secret string) (digest func() hash.Hash, keyed bool, texts [][]byte) {
	v := &e.auth
	if v.scheme != nil { // of forms: their fields, about as long as they are written
		return sha1.New, true, [][]byte{req.Body}
	}
	if v.digest == nil {
		return nil, false, nil
	}
	s := scope{req: req, secret: secret}
	if v.needsBody {
		s.parsed, _ = e.parse(req)
		req.parsed = nil
	}
	items := []event{{}}
	if v.perItem {
		items = s.parsed.events
	}
	for i := range items {
		s.item = items[i].values
		s.sig, _ = v.source.read(&s)
		for _, message := range v.messages {
			if text, ok := s.text(message); ok {
				texts = append(texts, []byte(text))
				break
			}
		}
	}
	return v.digest, v.keyed, texts
}

// OutcomeTypes lists the types of events that have an outcome.
func (p *Preset) OutcomeTypes() (types []string) {
	for _, rule := range p.spec.Outcome {
		if rule.Is != ignored {
			types = append(types, rule.Type...)
		}
	}
	return types
}

// SpecFields lists the paths of all fields that are read of a preset.
func SpecFields() []string {
	found := map[string]bool{}
	specFields(reflect.TypeFor[spec](), "", found)
	return slices.Sorted(maps.Keys(found))
}

func specFields(t reflect.Type, prefix string, found map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		path := prefix + t.Field(i).Tag.Get("yaml")
		found[path] = true
		specFields(t.Field(i).Type, path+".", found)
	}
}
