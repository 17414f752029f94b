package provider

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
)

// signatureSource says where the signatures of a callback stand and how they
// are written.
//
// A header may hold a list (list: ","), its elements may be pairs (pair: "=")
// of which one key names signatures and others what is signed with them:
// t=1754000000,v1=5257…,v1=ab10…. An element that cannot be read, or of a key
// that nothing asks for, is passed over; a key that is signed stands once.
type signatureSource struct {
	place    part   // header, query, form, json or item
	or       string // another header that may hold the same
	prefixed string // header:X-*: what the names of the headers begin with
	basic    bool   // the credentials of a Basic Authorization
	list     string
	pair     string
	key      string // which pairs are signatures; "" all
	prefix   string
	bare     bool // the prefix may be left out
	decode   func(string) ([]byte, error)
}

// decoders holds how a signature or a key may be written.
var decoders = map[string]func(string) ([]byte, error){
	"utf8":   func(s string) ([]byte, error) { return []byte(s), nil },
	"hex":    hex.DecodeString,
	"base64": decodeBase64,
}

// decodeBase64 takes the standard alphabet, padded or not.
func decodeBase64(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// decodeHTML writes a secret as it was before somebody's page escaped it:
// the entities that WordPress makes, each once.
func decodeHTML(s string) ([]byte, error) {
	return []byte(htmlEntities.Replace(s)), nil
}

var htmlEntities = strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">", "&quot;", `"`, "&#039;", "'", "&#39;", "'")

// signatures is what one callback brings to prove itself.
type signatures struct {
	texts   []string // as they were sent, without list, pair and prefix
	decoded [][]byte // those of texts that could be decoded
	pairs   []pair
}

type pair struct{ key, text string }

// read gathers the signatures of a callback, or says why there are none.
func (src *signatureSource) read(s *scope) (*signatures, error) {
	found := &signatures{}
	count := 0
	for _, whole := range src.wholes(s) {
		for element := range src.elements(whole) {
			if count++; count > MaxSignatures {
				return nil, rejectAt(BadHeader, src.words())
			}
			src.take(element, found)
		}
	}
	if count == 0 {
		return nil, rejectAt(MissingHeader, src.words())
	}
	for _, text := range found.texts {
		if raw, err := src.decode(text); err == nil && len(raw) > 0 {
			found.decoded = append(found.decoded, raw)
		}
	}
	if len(found.decoded) == 0 {
		return nil, rejectAt(BadHeader, src.words())
	}
	return found, nil
}

// wholes returns what stands at the source, before it is cut.
func (src *signatureSource) wholes(s *scope) []string {
	switch {
	case src.basic:
		if credentials, ok := basicCredentials(s.req.Header); ok {
			return []string{credentials}
		}
		return nil
	case src.prefixed != "":
		return headersWith(s.req.Header, src.prefixed)
	case src.place.kind == partHeader:
		if more := s.req.Header[src.or]; len(more) > 0 {
			return slices.Concat(s.req.Header[src.place.name], more)
		}
		return s.req.Header[src.place.name]
	}
	if v := s.value(&src.place); v.kind == scalar {
		return []string{v.text}
	}
	return nil
}

// words names the source as a place does.
func (src *signatureSource) words() string {
	switch {
	case src.basic:
		return basicHeader
	case src.prefixed != "":
		return "the header " + src.prefixed + "*"
	default:
		return src.place.words()
	}
}

// basicHeader is where Basic credentials stand.
const basicHeader = "the header Authorization, with Basic credentials,"

func headersWith(header http.Header, prefix string) []string {
	var found []string
	for name, values := range header {
		if strings.HasPrefix(name, prefix) {
			found = append(found, values...)
		}
	}
	return found
}

// elements cuts a list; an empty text has none.
func (src *signatureSource) elements(whole string) func(yield func(string) bool) {
	if src.list != "" {
		return func(yield func(string) bool) {
			for element := range strings.SplitSeq(whole, src.list) {
				if element != "" && !yield(element) {
					return
				}
			}
		}
	}
	return func(yield func(string) bool) {
		if whole != "" {
			yield(whole)
		}
	}
}

// take sorts one element into signatures and other pairs.
func (src *signatureSource) take(element string, found *signatures) {
	text := element
	if src.pair != "" {
		key, after, ok := strings.Cut(element, src.pair)
		if !ok {
			return
		}
		if key = strings.TrimSpace(key); src.key != "" && key != src.key {
			found.pairs = append(found.pairs, pair{key, after})
			return
		}
		text = after
	}
	stripped, ok := strings.CutPrefix(text, src.prefix)
	if ok || src.bare {
		found.texts = append(found.texts, stripped)
	}
}

// pair returns the text of a key. One that stands more than once, be it empty,
// has none: it is compound.
func (f *signatures) pair(key string) value {
	var v value
	if f == nil {
		return v
	}
	seen := false
	for _, p := range f.pairs {
		if p.key != key {
			continue
		}
		if seen {
			return value{kind: compound}
		}
		v, seen = present(p.text), true
	}
	return v
}
