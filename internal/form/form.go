// Package form is the hosted form: what its author may write, how its texts
// come out for a person, and what that person's answers must be.
//
// What is always true: a form that compiles can be shown and answered. The
// page may check answers too, for comfort; here is where it counts. What a
// condition hides is neither required nor kept. Compiled forms never change
// and may be used by many goroutines.
package form

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

// Form is a relay.Form that was checked, with its expressions compiled.
type Form struct {
	Fields    []*Field
	languages []string // the default first; nil: all texts are one for all, in no language that is known
	title     words
	intro     words
	submit    words
}

// namePattern is a name that can stand behind form. in an expression.
var namePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

// takenNames would be read as the wait's token.
var takenNames = []string{"token", "conversation_token"}

// Compile checks a form. Its error is a *relay.Error that names the place.
func Compile(def *relay.Form) (*Form, error) {
	raw, err := json.Marshal(def)
	switch {
	case err != nil:
		return nil, fmt.Errorf("writing a form: %w", err)
	case len(raw) > relay.MaxFormBytes:
		return nil, wrong("", "more than %d KiB: leave something out", relay.MaxFormBytes>>10)
	case len(def.Fields) == 0:
		return nil, wrong("fields", "a form needs at least one field")
	case len(def.Fields) > relay.MaxFormFields:
		return nil, wrong("fields", "more than %d: ask for less", relay.MaxFormFields)
	case def.Language != "" && !relay.IsLanguage(def.Language):
		return nil, wrong("language", "%.40q is no language: write a tag such as en, de or pt-BR", def.Language)
	}
	f := &Form{languages: languagesOf(def)}
	for _, text := range []struct {
		name string
		from relay.Words
		to   *words
	}{{"title", def.Title, &f.title}, {"intro", def.Intro, &f.intro}, {"submit", def.Submit, &f.submit}} {
		if *text.to, err = f.compileWords(text.from); err != nil {
			return nil, relay.At(text.name, err)
		}
	}
	options := 0
	var above []string
	for i := range def.Fields {
		field, err := f.compileField(&def.Fields[i], above)
		if err != nil {
			return nil, relay.At(fmt.Sprintf("fields[%d]", i), err)
		}
		f.Fields, above = append(f.Fields, field), append(above, field.Name)
		if options += len(field.options); options > relay.MaxFormOptions {
			return nil, wrong("fields", "more than %d options in all", relay.MaxFormOptions)
		}
	}
	return f, nil
}

func wrong(place, format string, args ...any) error {
	detail := fmt.Sprintf(format, args...)
	if place != "" {
		detail = place + ": " + detail
	}
	return relay.Errorf(relay.Invalid, "invalid_form", "%s", detail)
}

// languagesOf lists the languages of a form's texts, the default first: the
// one that it names, else English, else the first by the alphabet.
func languagesOf(def *relay.Form) (languages []string) {
	seen := map[string]bool{}
	add := func(w relay.Words) {
		for _, language := range w.Languages() {
			if !seen[language] {
				seen[language], languages = true, append(languages, language)
			}
		}
	}
	add(def.Title)
	add(def.Intro)
	add(def.Submit)
	for i := range def.Fields {
		add(def.Fields[i].Label)
		add(def.Fields[i].Help)
		for _, o := range def.Fields[i].Options {
			add(o.Label)
		}
	}
	slices.Sort(languages)
	first := def.Language
	if first == "" && seen["en"] {
		first = "en"
	}
	if first != "" {
		languages = append([]string{first}, slices.DeleteFunc(languages, func(l string) bool { return l == first })...)
	}
	return languages
}

// Languages lists the languages that the form can be shown in, the one of
// those whose own is not there first. It is empty where the form says nothing
// of languages.
func (f *Form) Languages() []string { return f.languages }

// Title is the form's heading, or "".
func (f *Form) Title(language string, s *mapping.Scope) string { return f.title.in(language, s) }

// Intro stands below the heading, or "".
func (f *Form) Intro(language string, s *mapping.Scope) string { return f.intro.in(language, s) }

// Submit stands on the button, or "".
func (f *Form) Submit(language string, s *mapping.Scope) string { return f.submit.in(language, s) }

// Foreign names the languages of the heading, the intro and the button where
// they are not the page's.
func (f *Form) Foreign(language string) (title, intro, submit string) {
	return f.title.foreign(language), f.intro.foreign(language), f.submit.foreign(language)
}

// defaultLanguage is the one that every text is there in, or "".
func (f *Form) defaultLanguage() string {
	if len(f.languages) == 0 {
		return ""
	}
	return f.languages[0]
}

// words is a text in its languages, compiled; the default language's stands
// under "" too.
type words map[string]*mapping.Value

func (f *Form) compileWords(from relay.Words) (words, error) {
	out := words{}
	for language, text := range from {
		v, err := mapping.CompileValue(text)
		if err != nil {
			return nil, err
		}
		out[language] = v
	}
	if len(out) == 0 || out[""] != nil {
		return out, nil
	}
	if out[""] = out[f.defaultLanguage()]; out[""] == nil {
		return nil, wrong("", "there is no text in %s, the form's language", f.defaultLanguage())
	}
	return out, nil
}

// foreign is the language that the text has where a page in another one shows
// it, or "": it is in the page's, or one for all.
func (w words) foreign(language string) string {
	base, _, _ := strings.Cut(language, "-")
	if w[language] != nil || w[base] != nil {
		return ""
	}
	for own, v := range w {
		if own != "" && v == w[""] {
			return own
		}
	}
	return ""
}

// vary reports whether the text may differ from person to person.
func (w words) vary() bool {
	for _, v := range w {
		if v.Varies() {
			return true
		}
	}
	return false
}

// in returns the text for a language: in it, in it without its region, or in
// the form's own.
func (w words) in(language string, s *mapping.Scope) string {
	base, _, _ := strings.Cut(language, "-")
	for _, l := range []string{language, base, ""} {
		if v := w[l]; v != nil {
			text, _ := v.Render(s)
			return mapping.Text(text)
		}
	}
	return ""
}
