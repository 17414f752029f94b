package form

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

// Typed is what stands in the fields of a form, by name, as text.
type Typed url.Values

// Fault is what is wrong with the answer to a field.
type Fault struct {
	Field string
	Text  string // which of the pages' texts says it
	Args  []any  // that stand in it
}

// Answers are what a person has answered: what is shown, and what it means.
type Answers struct {
	Shown  map[string]bool // the fields whose conditions hold
	Values map[string]any  // of the fields that were answered: text, number, bool or list
	Faults []Fault         // in the order of the fields; none: it can be sent
}

// First is what stands in the form before anybody has typed.
func (f *Form) First(s *mapping.Scope) Typed {
	typed := Typed{}
	for _, field := range f.Fields {
		if first := field.first(s); first != nil && field.Type != relay.FieldHidden {
			typed[field.Name] = first
		}
	}
	return typed
}

// Read holds what was typed against the form. A field is judged after those
// above it, which its condition may look at.
func (f *Form) Read(typed Typed, s *mapping.Scope) *Answers {
	a := &Answers{Shown: map[string]bool{}, Values: map[string]any{}}
	for _, field := range f.Fields {
		if field.Type == relay.FieldHidden {
			if v, _ := field.value.Render(s); v != nil {
				a.Values[field.Name] = v
			}
			continue
		}
		if field.Condition != nil && !field.Condition.Holds(a.Values) {
			continue
		}
		a.Shown[field.Name] = true
		value, fault := field.read(typed[field.Name])
		if value != nil {
			a.Values[field.Name] = value
		}
		if fault != nil {
			fault.Field = field.Name
			a.Faults = append(a.Faults, *fault)
		}
	}
	return a
}

func fault(text string, args ...any) *Fault { return &Fault{Text: text, Args: args} }

// read reads one field: nil where it is not answered.
func (f *Field) read(typed []string) (value any, wrong *Fault) {
	switch {
	case f.Tick():
		return f.readTick(typed)
	case f.Several():
		return f.readSeveral(typed)
	}
	text := ""
	if len(typed) > 0 {
		text = clean(typed[0], f.Type == relay.FieldTextarea)
	}
	switch {
	case text != "":
	case !f.Required:
		return nil, nil
	case f.options != nil:
		return nil, fault("choose_one")
	default:
		return nil, fault("required")
	}
	switch f.Type {
	case relay.FieldSelect, relay.FieldRadio:
		if !f.offers(text) {
			return nil, fault("unknown_choice")
		}
		return text, nil
	case relay.FieldNumber:
		return f.readNumber(text)
	case relay.FieldDate:
		return f.readDate(text)
	default:
		return text, f.checkText(text)
	}
}

// readTick: an answer in any case.
func (f *Field) readTick(typed []string) (any, *Fault) {
	ticked := slices.Contains(typed, Ticked)
	if f.Required && !ticked {
		return false, fault("consent")
	}
	return ticked, nil
}

func (f *Field) readSeveral(typed []string) (any, *Fault) {
	chosen := []any{}
	for _, text := range typed {
		switch {
		case !f.offers(text):
			return chosen, fault("unknown_choice")
		case !slices.Contains(chosen, any(text)):
			chosen = append(chosen, text)
		}
	}
	n := float64(len(chosen))
	switch {
	case n == 0 && f.Required:
		return chosen, fault("choose_some")
	case n > 0 && f.min != nil && n < *f.min:
		return chosen, fault("min_choices", mapping.Text(*f.min))
	case f.max != nil && n > *f.max:
		return chosen, fault("max_choices", mapping.Text(*f.max))
	}
	return chosen, nil
}

func (f *Field) offers(text string) bool {
	return slices.ContainsFunc(f.options, func(o option) bool { return o.value == text })
}

var (
	plainNumber = regexp.MustCompile(`^[+-]?[0-9]{1,18}(\.[0-9]{1,15})?$`)
	// grouped is read in two ways: to some 1,234 is more than a thousand.
	grouped = regexp.MustCompile(`^[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}$`)
)

// readNumber reads a number with a point or a comma before its fraction. One
// that might be meant as thousands is refused.
func (f *Field) readNumber(text string) (any, *Fault) {
	if strings.Count(text, ",") == 1 && !strings.Contains(text, ".") && !grouped.MatchString(text) {
		text = strings.Replace(text, ",", ".", 1)
	}
	if !plainNumber.MatchString(text) || grouped.MatchString(text) {
		return nil, fault("number")
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fault("number")
	}
	var value any = number
	if number == math.Trunc(number) && math.Abs(number) < 1<<53 {
		value = int64(number)
	}
	switch {
	case f.min != nil && number < *f.min:
		return value, fault("min", mapping.Text(*f.min))
	case f.max != nil && number > *f.max:
		return value, fault("max", mapping.Text(*f.max))
	}
	return value, nil
}

func (f *Field) readDate(text string) (any, *Fault) {
	if _, err := time.Parse(time.DateOnly, text); err != nil {
		return nil, fault("date")
	}
	switch {
	case f.from != "" && text < f.from:
		return text, fault("earliest", f.from)
	case f.to != "" && text > f.to:
		return text, fault("latest", f.to)
	}
	return text, nil
}

var (
	emailPattern = regexp.MustCompile(`^[^\s@<>(),;:"\[\]\\]+@[^\s@<>(),;:"\[\]\\]+\.[^\s@<>(),;:"\[\]\\.]+$`)
	telPattern   = regexp.MustCompile(`^\+?[0-9(][0-9 ()./-]{2,38}$`)
)

// maxEmail is the longest address that mail can be sent to, in bytes.
const maxEmail = 254

func (f *Field) checkText(text string) *Fault {
	n := utf8.RuneCountInString(text)
	switch {
	case n > f.longest():
		return fault("max_length", f.longest(), n)
	case n < f.def.MinLength:
		return fault("min_length", f.def.MinLength)
	case f.Type == relay.FieldEmail && (len(text) > maxEmail || !emailPattern.MatchString(text)):
		return fault("email")
	case f.Type == relay.FieldTel && !telPattern.MatchString(text):
		return fault("tel")
	case f.pattern != nil && !f.pattern.MatchString(text):
		return fault("pattern")
	}
	return nil
}

// clean makes a text of what came over the wire: valid, without control
// characters and spaces around it, its lines ended by \n.
func clean(text string, lines bool) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\r\n", "\n")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' && lines:
			return r
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f:
			return -1
		}
		return r
	}, text)
	return strings.TrimSpace(text)
}

// Body is what is kept of a submission: the fields with their labels in the
// form's own language, in their order. A label that reads like another field's
// name is left out: where that one is not answered, form.NAME would be the
// answer to this one. Equal answers have equal bodies.
func (f *Form) Body(a *Answers, s *mapping.Scope) ([]byte, error) {
	type field struct {
		Name  string `json:"name"`
		Label string `json:"label,omitempty"`
		Value any    `json:"value"`
	}
	out := struct {
		Fields []field `json:"fields"`
	}{Fields: []field{}}
	for _, d := range f.Fields {
		if value, ok := a.Values[d.Name]; ok {
			label := d.Label(f.defaultLanguage(), s)
			if slug := relay.Slug(label); slug != d.Name && f.isNamed(slug) {
				label = ""
			}
			out.Fields = append(out.Fields, field{d.Name, label, value})
		}
	}
	body, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("writing a submission: %w", err)
	}
	return body, nil
}

// isNamed reports whether a field has a name.
func (f *Form) isNamed(name string) bool {
	return slices.ContainsFunc(f.Fields, func(d *Field) bool { return d.Name == name })
}

// Answers reports whether form.NAME may be an answer: by the name of a field,
// or by its label, where it is known before there is a person to ask.
func (f *Form) Answers(name string) bool {
	return slices.ContainsFunc(f.Fields, func(d *Field) bool {
		return name == d.Name || name == relay.Slug(d.Name) || d.label.vary() || name == relay.Slug(d.Label(f.defaultLanguage(), &mapping.Scope{}))
	})
}
