package provider

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"relay.example/relay/internal/relay"
)

// Some callbacks say of what they tell and nothing else: the provider has to be
// asked for it. What it answers, wrapped into the shape of a callback, is read
// as one: its outcome, payment, form and names count, and nothing of the
// callback's own does. Whoever does the I/O marks such a body as Fetched.

// fetching is the section ask.fetch of a preset.
type fetching struct {
	types []string // of the callbacks that say no more; empty: all
	about string   // the kind of reference
	path  []hole
	doc   tree
	news  conditions
	as    []string // as of waitAsk, and with fields of the callback
	url   *part    // of what was fetched: where the provider sends its callbacks
}

// hole is text of a path and what follows it: the id, or a place of the
// callback.
type hole struct {
	text  string
	id    bool
	place *part
	whole bool // the place holds a path, which is taken as it is
}

// of reports whether callbacks of a type say nothing but what they are about.
func (f *fetching) of(kind string) bool {
	return f != nil && (len(f.types) == 0 || slices.Contains(f.types, kind))
}

// NeedsKey reports whether the callbacks of the preset mean nothing without an
// api_key: all of them say only what to ask for.
func (e *Endpoint) NeedsKey() bool { return e.ask.fetch != nil && len(e.ask.fetch.types) == 0 }

// reduce takes from the reading of a callback what counts only once it was
// fetched: whoever sends it may write what they like.
func (f *fetching) reduce(r *relay.Reading) {
	r.Fetch = referenceOf(r, f.about, nil)
	r.Outcome, r.Payment, r.Form = "", nil, nil
}

// confirm drops the names in the URL of a callback that the provider does not
// confirm. The token in it is public, and so may be the id of another payment:
// together they prove nothing, until the provider says that it sends the
// callbacks of this one to that URL. A key, which may be guessed, counts never:
// a URL may hold it by chance.
func (f *fetching) confirm(s *scope, r *relay.Reading) {
	if f.url == nil {
		return
	}
	address := s.value(f.url)
	r.Candidates = slices.DeleteFunc(r.Candidates, func(c relay.Candidate) bool {
		inURL := c.Place == "path" || strings.HasPrefix(c.Place, "query:")
		return inURL && (!relay.IsToken(c.Value) || address.kind != scalar || !strings.Contains(address.text, c.Value))
	})
}

// FetchPath is what to get, behind the API's address, to learn what a callback
// is about; ok is false where the callback does not say it.
func (e *Endpoint) FetchPath(req *Request, about string) (path string, ok bool) {
	p, err := e.parse(req)
	if err != nil || e.ask.fetch == nil || about == "" || isStep(about) {
		return "", false
	}
	s := scope{req: req, parsed: p}
	var b strings.Builder
	escape := url.PathEscape
	for i := range e.ask.fetch.path {
		h := &e.ask.fetch.path[i]
		b.WriteString(h.text)
		if strings.Contains(h.text, "?") {
			escape = url.QueryEscape
		}
		switch {
		case h.id:
			b.WriteString(escape(about))
		case h.place == nil:
		default:
			v := s.value(h.place)
			if v.kind != scalar || v.text == "" || isStep(v.text) || !storable(v.text) {
				return "", false
			}
			if h.whole {
				b.WriteString(v.text)
			} else {
				b.WriteString(escape(v.text))
			}
		}
	}
	return b.String(), true
}

// isStep reports whether text that stands between two slashes leads elsewhere:
// escaping leaves it as it is.
func isStep(text string) bool { return text == "." || text == ".." }

// FetchedAsCallback wraps what the provider says of the object that a callback
// is about into the body of a callback that tells it all: nil where it is no
// news. The error is an *Unreadable.
func (e *Endpoint) FetchedAsCallback(req *Request, answer []byte) ([]byte, error) {
	f := e.ask.fetch
	p, err := readAnswer(answer)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, &Unreadable{NotAnObject, "nothing is fetched for such a callback"}
	}
	p.doc = f.doc.collect(p.json)
	if !f.news.hold(&scope{req: &Request{}, parsed: p}) {
		return nil, nil
	}
	var event gjson.Result
	if said, err := e.parse(req); err == nil {
		event = said.json
	}
	return fillAs(f.as, p.json, event)
}

// safePath is a path that a provider may name: of its API, and without steps
// that lead elsewhere.
var safePath = regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+$`)

// pathHole finds the places of a path.
var pathHole = regexp.MustCompile(`\{([^{}]*)\}`)

func (s *fetchSpec) compile(c *compiler, signed bool) (*fetching, error) {
	f := &fetching{types: s.Types, about: s.About}
	if s.About == "" {
		return nil, wrong("ask.fetch.about", "is missing: by which kind of reference is it asked?")
	}
	var err error
	if f.path, err = c.fetchPath(s.Path); err != nil {
		return nil, wrong("ask.fetch.path", "%w", err)
	}
	if !signed && f.path[0].whole {
		return nil, wrong("ask.fetch.path", "nobody signs these callbacks, and whoever sends one would choose what is read with the api_key: write the path, with {id} in it")
	}
	answer := &compiler{headers: map[string]bool{}}
	if f.news, err = answer.conditions("ask.fetch.if", s.If); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(f.news, func(one condition) bool { return one.place.kind != partJSON }) {
		return nil, wrong("ask.fetch.if", "an answer has places json: only")
	}
	f.doc = answer.doc
	if f.as, err = parseAs(s.As, true); err != nil {
		return nil, wrong("ask.fetch.as", "%w", err)
	}
	if s.URL == "" {
		return f, nil
	}
	p, err := c.place(s.URL)
	if err == nil && p.kind != partJSON {
		err = errors.New("what was fetched has places json: only")
	}
	if err != nil {
		return nil, wrong("ask.fetch.url", "%w", err)
	}
	f.url = &p
	return f, nil
}

// fetchPath cuts a path at its places.
func (c *compiler) fetchPath(text string) (path []hole, err error) {
	at, whole := 0, false
	for _, m := range pathHole.FindAllStringSubmatchIndex(text, -1) {
		h, inner := hole{text: text[at:m[0]]}, text[m[2]:m[3]]
		if h.id = inner == "id"; !h.id {
			p, err := c.placeholder(inner, false)
			if err != nil {
				return nil, err
			}
			h.place, h.whole = &p, strings.HasSuffix(inner, "!path")
		}
		if h.whole {
			if m[0] != 0 {
				return nil, errors.New("a place with !path stands at the beginning")
			}
			whole = true
		}
		path, at = append(path, h), m[1]
	}
	path = append(path, hole{text: text[at:]})
	if !whole && !strings.HasPrefix(text, "/") || strings.Contains(text, "//") || len(path) == 1 {
		return nil, errors.New("write a path that begins with / and holds {id} or places of the callback: /payments/{id}")
	}
	return path, nil
}
