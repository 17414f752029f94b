package provider

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// A place names where a value of the callback stands:
//
//	path           the token in the URL's path
//	query:NAME     a parameter of the URL
//	header:NAME    a header
//	form:NAME      a submitted field, whether urlencoded, multipart or a
//	               member of a JSON object
//	form:NAME|PATH a value of the JSON that such a field holds
//	json:PATH      a value of the JSON body
//	item:PATH      a value of one event of a batch
//
// A template is text with places in braces: {json:kind}:{json:id}. A place
// with ? at its end may be absent; a template with any other place absent
// has no value. {json:amount!nonzero} is absent when it is zero, and
// {form:value!one_decimal} is 150.0 for 150.00 and stays 150.26; !path is
// absent when it is no plain path, such as /v1/charges/ch_1. Where a
// signature is made, {body}, {method}, {url}, {secret} and {sig.KEY}, a pair
// of the signature's header, stand beside them; {url!hubspot} is the address
// without the escapes that HubSpot takes out before it signs.

type partKind uint8

const (
	partLiteral partKind = iota
	partPath
	partQuery
	partHeader
	partForm
	partJSON
	partItem
	partBody
	partMethod
	partURL
	partSecret
	partSig
)

var placeKinds = map[string]partKind{
	"query": partQuery, "header": partHeader, "form": partForm, "json": partJSON, "item": partItem,
}

var signingKinds = map[string]partKind{
	"body": partBody, "method": partMethod, "url": partURL, "secret": partSecret,
}

// part is one place, or literal text, in compiled form.
type part struct {
	kind     partKind
	name     string // the literal, or the name after the colon
	label    string // the place as it was written
	node     int    // in the tree of the body, of the item or of the field
	within   int    // of a field that holds JSON: which one, from 1
	optional bool
	filter   filter
}

// filter changes the text of a place.
type filter func(text string) (string, bool)

var filters = map[string]filter{
	"path":    func(text string) (string, bool) { return text, safePath.MatchString(text) },
	"nonzero": func(text string) (string, bool) { return text, strings.Trim(text, "0.") != "" },
	"one_decimal": func(text string) (string, bool) {
		if at := len(text) - 3; at > 0 && text[at] == '.' {
			text = strings.TrimSuffix(text, "0")
		}
		return text, true
	},
	"hubspot": func(text string) (string, bool) { return hubspotEscapes.Replace(text), true },
}

// hubspotEscapes are the characters of an address that HubSpot signs as they
// are, however they are written in it; each is read once.
var hubspotEscapes = strings.NewReplacer(
	"%3A", ":", "%3a", ":", "%2F", "/", "%2f", "/", "%3F", "?", "%3f", "?", "%40", "@", "%21", "!", "%24", "$",
	"%27", "'", "%28", "(", "%29", ")", "%2A", "*", "%2a", "*", "%2C", ",", "%2c", ",", "%3B", ";", "%3b", ";",
)

// isAt reports whether both are the same place.
func (p *part) isAt(q *part) bool {
	return p.kind == q.kind && p.name == q.name && p.node == q.node && p.within == q.within
}

// words names a place to whoever has to look for it.
func (p *part) words() string {
	switch p.kind {
	case partHeader:
		return "the header " + p.name
	case partQuery:
		return "the parameter " + p.name
	case partForm, partJSON, partItem:
		return "the field " + p.name
	case partPath:
		return "the token in the path"
	default:
		return ""
	}
}

type template []part

// compiler gathers what the places of one preset need: the paths of the body
// and of its items, and the headers.
type compiler struct {
	doc, item tree
	fields    []fieldTree
	headers   map[string]bool
	batch     bool
	perItem   bool // the signature reads from the item
	byURL     bool // each wait has a callback URL of its own

	tokenFields []string // the names that <token_field> stands for
}

// fieldTree holds the paths into the JSON that one field of a form holds.
type fieldTree struct {
	field part
	tree  tree
}

func (c *compiler) place(text string) (part, error) {
	if text == "path" {
		return part{kind: partPath, label: text}, nil
	}
	kind, name, _ := strings.Cut(text, ":")
	k, known := placeKinds[kind]
	if !known {
		if strings.HasPrefix(text, "{") {
			return part{}, fmt.Errorf("%q is a template, and one place belongs here: leave the braces out", text)
		}
		return part{}, fmt.Errorf("%q is no place: write path, query:, header:, form:, json: or item: and a name", text)
	}
	if name == "" {
		return part{}, fmt.Errorf("%q names nothing", text)
	}
	p, err := c.named(k, name)
	p.label = text
	return p, err
}

func (c *compiler) named(kind partKind, name string) (part, error) {
	p := part{kind: kind, name: name}
	switch kind {
	case partHeader:
		return c.header(name)
	case partForm:
		field, path, holdsJSON := strings.Cut(name, "|")
		p.name, p.node = field, c.doc.add([]step{{kind: stepMember, name: field}})
		if holdsJSON {
			return c.inField(p, path)
		}
		return p, nil
	case partJSON, partItem:
		return c.jsonPath(p)
	default:
		return p, nil
	}
}

func (c *compiler) jsonPath(p part) (part, error) {
	steps, err := parsePath(p.name)
	if err != nil {
		return part{}, err
	}
	for _, s := range steps {
		if s.kind == stepEvery {
			return part{}, fmt.Errorf("path %q: [*] stands only under each", p.name)
		}
	}
	switch {
	case p.kind == partJSON:
		p.node = c.doc.add(steps)
	case !c.batch:
		return part{}, errors.New("item: needs each; write json: for the body")
	default:
		p.node = c.item.add(steps)
	}
	return p, nil
}

// inField makes of a field the place of a value in the JSON that it holds.
func (c *compiler) inField(field part, path string) (part, error) {
	steps, err := parsePath(path)
	if err != nil {
		return part{}, err
	}
	if slices.ContainsFunc(steps, func(s step) bool { return s.kind == stepEvery }) {
		return part{}, fmt.Errorf("path %q: [*] stands only under each", path)
	}
	i := slices.IndexFunc(c.fields, func(t fieldTree) bool { return t.field.name == field.name })
	if i < 0 {
		i = len(c.fields)
		c.fields = append(c.fields, fieldTree{field: field})
	}
	p := field
	p.within, p.node = i+1, c.fields[i].tree.add(steps)
	return p, nil
}

func (c *compiler) header(name string) (part, error) {
	if strings.ContainsAny(name, " \t:{}") {
		return part{}, fmt.Errorf("%q is no header's name", name)
	}
	canonical := http.CanonicalHeaderKey(name)
	c.headers[canonical] = true
	return part{kind: partHeader, name: canonical}, nil
}

// template compiles text with places in braces. signing allows the places
// that only a signature has.
func (c *compiler) template(text string, signing bool) (template, error) {
	var t template
	for rest := text; rest != ""; {
		literal, after, open := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") {
			return nil, errors.New("a } has no {")
		}
		if literal != "" {
			t = append(t, part{kind: partLiteral, name: literal})
		}
		if !open {
			break
		}
		inner, tail, closed := strings.Cut(after, "}")
		if !closed {
			return nil, errors.New("a { is not closed")
		}
		p, err := c.placeholder(inner, signing)
		if err != nil {
			return nil, err
		}
		t, rest = append(t, p), tail
	}
	if len(t) == 0 {
		return nil, errors.New("the template is empty")
	}
	return t, nil
}

func (c *compiler) placeholder(inner string, signing bool) (part, error) {
	inner, optional := strings.CutSuffix(inner, "?")
	inner, name, filtered := strings.Cut(inner, "!")
	if filtered && filters[name] == nil {
		return part{}, fmt.Errorf("!%s is no filter: there are !%s", name, strings.Join(slices.Sorted(maps.Keys(filters)), ", !"))
	}
	p, err := c.bare(inner, signing)
	p.optional, p.filter = optional, filters[name]
	return p, err
}

func (c *compiler) bare(inner string, signing bool) (part, error) {
	if !signing {
		return c.place(inner)
	}
	if kind, ok := signingKinds[inner]; ok {
		return part{kind: kind}, nil
	}
	if key, ok := strings.CutPrefix(inner, "sig."); ok && key != "" {
		return part{kind: partSig, name: key}, nil
	}
	p, err := c.place(inner)
	c.perItem = c.perItem || p.kind == partItem
	return p, err
}

// uses reports whether the template has a place of that kind.
func (t template) uses(kind partKind) bool {
	for i := range t {
		if t[i].kind == kind {
			return true
		}
	}
	return false
}

// scope is what the places of one event are looked up in.
type scope struct {
	req    *Request
	parsed *parsed
	item   []value // the values of this event of a batch, nil without one
	sig    *signatures
	secret string
}

func (s *scope) value(p *part) value {
	v := s.raw(p)
	if p.filter == nil || v.kind != scalar {
		return v
	}
	text, ok := p.filter(v.text)
	if !ok {
		return value{}
	}
	return textValue(text)
}

func (s *scope) raw(p *part) value {
	switch p.kind {
	case partLiteral:
		return textValue(p.name)
	case partPath:
		return present(s.req.PathToken)
	case partQuery:
		return first(s.req.Query[p.name])
	case partHeader:
		return first(s.req.Header[p.name])
	case partForm:
		return s.field(p)
	case partJSON:
		return at(s.doc(), p.node)
	case partItem:
		return at(s.item, p.node)
	case partBody:
		return textValue(string(s.req.Body))
	case partMethod:
		return textValue(s.req.Method)
	case partURL:
		return present(s.req.URL)
	case partSecret:
		return present(s.secret)
	case partSig:
		return s.sig.pair(p.name)
	}
	return value{}
}

func (s *scope) doc() []value {
	if s.parsed == nil {
		return nil
	}
	return s.parsed.doc
}

func (s *scope) field(p *part) value {
	if s.parsed == nil {
		return value{}
	}
	if p.within > 0 {
		if p.within > len(s.parsed.inFields) {
			return value{}
		}
		return at(s.parsed.inFields[p.within-1], p.node)
	}
	if s.parsed.fields == nil {
		return at(s.parsed.doc, p.node)
	}
	for i := range s.parsed.fields {
		if f := &s.parsed.fields[i]; f.name == p.name && !f.isFile {
			return textValue(f.text)
		}
	}
	return value{}
}

func at(values []value, node int) value {
	if node < len(values) {
		return values[node]
	}
	return value{}
}

func first(values []string) value {
	if len(values) == 0 {
		return value{}
	}
	return present(values[0])
}

func present(text string) value {
	if text == "" {
		return value{}
	}
	return textValue(text)
}

// text fills the template in. ok is false when a place is absent or empty.
func (s *scope) text(t template) (string, bool) {
	if len(t) == 1 {
		v := s.value(&t[0])
		return v.text, v.kind == scalar && v.text != ""
	}
	var b strings.Builder
	for i := range t {
		v := s.value(&t[i])
		if (v.kind != scalar || v.text == "") && !t[i].optional {
			return "", false
		}
		b.WriteString(v.text)
	}
	return b.String(), b.Len() > 0
}

// missing returns the first place of a template that has no value and needs
// one, or nil.
func (s *scope) missing(t template) *part {
	for i := range t {
		if v := s.value(&t[i]); (v.kind != scalar || v.text == "") && !t[i].optional {
			return &t[i]
		}
	}
	return nil
}

// firstText returns the text of the first template that has one.
func (s *scope) firstText(ts []template) string {
	for _, t := range ts {
		if text, ok := s.text(t); ok {
			return text
		}
	}
	return ""
}

// basicCredentials returns the user:password of a Basic Authorization.
func basicCredentials(header http.Header) (string, bool) {
	const scheme = "Basic "
	auth := header.Get("Authorization")
	if len(auth) < len(scheme) || !strings.EqualFold(auth[:len(scheme)], scheme) {
		return "", false
	}
	plain, err := base64.StdEncoding.DecodeString(textproto.TrimString(auth[len(scheme):]))
	return string(plain), err == nil && len(plain) > 0
}
