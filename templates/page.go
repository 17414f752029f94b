package templates

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"
)

// Page is what every page has: whose it is, in which language, and what it
// may load.
type Page struct {
	Language string // BCP 47
	Look     Look
	Root     string // leads from the page's address to the relay's: "../"
	Script   string // an asset's path, or ""
	Refresh  int    // looks again after so many seconds; with a script only where that does not run
	Live     bool   // its script asks the relay for news

	pages    *Pages
	own      map[string]string // the texts of its language
	fallback map[string]string // those that are always there
}

// Look is how a project's pages look.
type Look struct {
	Name  string
	Logo  string // an asset's path below Root, or ""
	Color string // of buttons and links, as #rrggbb; "" means ours
	// DarkColor is the same on a dark screen.
	DarkColor string
	Texts     map[string]Texts // in place of ours, by key
	Embed     []string         // the origins that may show the pages in a frame
}

// Texts is one text in several languages; under "" stands the one for all
// others.
type Texts map[string]string

// In returns the text for a language: its own, that of the language without
// its region, or the one for all.
func (t Texts) In(language string) string {
	base, _, _ := strings.Cut(language, "-")
	return cmp.Or(t[language], t[base], t[""])
}

// Colors of links and buttons where a look has none.
const (
	defaultColor     = "#1f4fb8"
	defaultDarkColor = "#9dbcff"
)

// Page begins a page. wanted are the person's languages, the dearest first;
// offered are those that the content is there in, nil where all that is shown
// are the pages' own texts.
func (p *Pages) Page(wanted, offered []string, look Look) Page {
	if len(offered) == 0 {
		offered = p.Languages()
	}
	language := Choose(wanted, offered)
	own := p.texts[Choose([]string{language}, p.Languages())]
	return Page{Language: language, Look: look, Root: "../", pages: p, own: own, fallback: p.texts[fallback]}
}

// Text returns one of the page's texts, with {1}, {2} … replaced.
func (p Page) Text(key string, args ...any) (string, error) {
	text := cmp.Or(p.Look.Texts[key].In(p.Language), p.own[key], p.fallback[key])
	if text == "" {
		return "", fmt.Errorf("there is no text %s", key)
	}
	for i, arg := range args {
		text = strings.ReplaceAll(text, fmt.Sprintf("{%d}", i+1), fmt.Sprint(arg))
	}
	return text, nil
}

// Direction is that of the page's script.
func (p Page) Direction() string { return directionOf(p.Language) }

// Style is the page's whole style sheet.
func (p Page) Style() template.CSS {
	return template.CSS(fmt.Sprintf(":root { --light: %s; --dark: %s; }\n%s", //nolint:gosec // our own, and two colours that were checked
		cmp.Or(p.Look.Color, defaultColor), cmp.Or(p.Look.DarkColor, defaultDarkColor), p.pages.style))
}

// Policy is the Content-Security-Policy of the page: it loads what it needs,
// and nothing else.
func (p Page) Policy() string {
	sum := sha256.Sum256([]byte(p.Style()))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	if p.Script != "" {
		policy += "; script-src 'self'"
	}
	if p.Live {
		policy += "; connect-src 'self'"
	}
	if p.Look.Logo != "" {
		policy += "; img-src 'self'"
	}
	ancestors := "'none'"
	if len(p.Look.Embed) > 0 {
		ancestors = strings.Join(p.Look.Embed, " ")
	}
	return policy + "; base-uri 'none'; form-action 'self'; frame-ancestors " + ancestors
}
