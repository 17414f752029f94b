// Package templates holds the pages that an end user meets. They work without
// JavaScript, load nothing from anywhere but the relay itself, and adapt to
// the person's language, its direction, and a dark screen.
//
// layout.html is the frame of all of them. A page is a file that defines
// "content", and a struct that embeds Page and is shown by it; field.html is a
// field of a form. What a page says of its own stands in texts.json, once per
// language.
package templates

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
)

//go:embed *.html style.css texts.json *.js
var files embed.FS

// StatusPage tells what became of a wait; it renders a Status.
const StatusPage = "status.html"

// Pages are all pages and their texts. What they say does not change, and they
// are safe for concurrent use.
type Pages struct {
	pages  map[string]*template.Template
	fields *fields
	texts  map[string]map[string]string // by language and key
	style  string
	assets map[string]Asset
}

// Parse reads all pages.
func Parse() (*Pages, error) {
	p := &Pages{pages: map[string]*template.Template{}}
	layout, err := template.New("").Funcs(template.FuncMap{"direction": directionOf}).ParseFS(files, "layout.html", "field.html")
	if err != nil {
		return nil, fmt.Errorf("parsing the pages: %w", err)
	}
	for _, name := range []string{StatusPage, FormPage} {
		page, err := layout.Clone()
		if err == nil {
			page, err = page.ParseFS(files, name)
		}
		if err != nil {
			return nil, fmt.Errorf("parsing the page %s: %w", name, err)
		}
		p.pages[name] = page
	}
	p.fields = newFields(p.pages[FormPage])
	style, err := files.ReadFile("style.css")
	if err != nil {
		return nil, fmt.Errorf("reading the style: %w", err)
	}
	p.style = string(style)
	if p.texts, err = readTexts(); err != nil {
		return nil, err
	}
	p.assets, err = readAssets()
	return p, err
}

// Render writes a page, whole or not at all.
func (p *Pages) Render(name string, page any) ([]byte, error) {
	t, ok := p.pages[name]
	if !ok {
		return nil, fmt.Errorf("there is no page %s", name)
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, "layout.html", page); err != nil {
		return nil, fmt.Errorf("writing the page %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// Languages lists the languages that the pages' own texts are there in, first
// the one of those whose own is not.
func (p *Pages) Languages() []string {
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(p.texts)), func(language string) bool { return language == fallback })
	return append([]string{fallback}, others...)
}

// TextKeys lists the texts of the pages, which a look may replace.
func TextKeys() ([]string, error) {
	texts, err := readTexts()
	return slices.Sorted(maps.Keys(texts[fallback])), err
}

func readTexts() (texts map[string]map[string]string, err error) {
	raw, err := files.ReadFile("texts.json")
	if err != nil {
		return nil, fmt.Errorf("reading the texts: %w", err)
	}
	if err := json.Unmarshal(raw, &texts); err != nil {
		return nil, fmt.Errorf("reading the texts: %w", err)
	}
	return texts, nil
}

// Status is what StatusPage shows.
type Status struct {
	Page
	State     string       // a correlation's status, or confirming, processing, unpaid, unavailable, refused or unknown
	Now       string       // what its script is told while that is so; "": it has none
	News      string       // where its script asks; "": at the page's own address
	ReturnURL template.URL // the way back to the chat, checked, or ""
	Typed     []Typed      // what can no longer be sent, so that it is not lost
}

// Typed is one field that a person has filled in.
type Typed struct{ Label, Value string }

// Title is what the window is called.
func (s Status) Title() (string, error) { return s.Heading() }

// Heading says in short how it is.
func (s Status) Heading() (string, error) { return s.Text(s.State + "_title") }

// Says is the sentence below it.
func (s Status) Says() (string, error) { return s.Text(s.State) }
