package templates

import (
	"html/template"
	"strings"
)

// FormPage is a hosted form; it renders a Form.
const FormPage = "form.html"

// Form is what FormPage shows.
type Form struct {
	Page
	Heading string
	Intro   []string // paragraphs
	Submit  string   // on the button
	Notice  string   // what is wrong with the whole, or ""
	Fields  []Field

	// The languages of the first three where they are not the page's, or "".
	HeadingIn, IntroIn, SubmitIn string
}

// Trap is the field that no person sees: who fills it in is a program. No
// field of a form has a name like it.
const Trap = "_website"

// Trap is the name of the field that no person sees.
func (f Form) Trap() string { return Trap }

// Title is what the window is called: that something is wrong comes first.
func (f Form) Title() (string, error) {
	if f.Notice == "" && len(f.Faults()) == 0 {
		return f.Heading, nil
	}
	mark, err := f.Text("error")
	return mark + ": " + f.Heading, err
}

// Faults lists the fields whose answers have to be corrected.
func (f Form) Faults() (faults []Field) {
	for _, field := range f.Fields {
		if field.Wrong != "" {
			faults = append(faults, field)
		}
	}
	return faults
}

// Shown is the HTML of the fields.
func (f Form) Shown() (shown []template.HTML, err error) {
	words := asides{}
	for _, text := range []struct {
		key string
		to  *string
	}{{"optional", &words.Optional}, {"only_if", &words.OnlyIf}, {"choose", &words.Choose}} {
		if *text.to, err = f.Text(text.key); err != nil {
			return nil, err
		}
	}
	for _, field := range f.Fields {
		html, err := f.pages.fields.render(shownField{field, words})
		if err != nil {
			return nil, err
		}
		shown = append(shown, html)
	}
	return shown, nil
}

// Field is one field of a form, as it is shown.
type Field struct {
	Name      string
	Type      string // as the form's author calls it
	Label     string
	Help      string
	LabelIn   string // the language of the label where it is not the page's, or ""
	HelpIn    string // the same of the help
	Wrong     string // what is wrong with the answer, or ""
	Required  bool
	Value     string   // that stands in it; of a box to tick not empty where it is ticked
	Options   []Option // that there are to choose from
	Condition string   // when it is shown, as form.js reads it, or ""
	Off       bool     // hidden by its condition where form.js runs
	Personal  bool     // its texts were made for this person
}

// Option is one of the values to choose from.
type Option struct {
	Value, Label string
	In           string // the language of the label where it is not the page's, or ""
	Chosen       bool
}

// ID is that of the field's first input.
func (f Field) ID() string { return "f-" + f.Name }

// IsGroup reports whether the field is several inputs under one question.
func (f Field) IsGroup() bool {
	return f.Type == "radio" || f.Type == "checkbox" && len(f.Options) > 0
}

// IsTick reports whether the field is one box to tick.
func (f Field) IsTick() bool {
	return f.Type == "consent" || f.Type == "checkbox" && len(f.Options) == 0
}

// Reads says how form.js reads the field.
func (f Field) Reads() string {
	switch {
	case f.IsTick():
		return "tick"
	case f.Type == "checkbox":
		return "ticks"
	case f.Type == "radio", f.Type == "number":
		return f.Type
	default:
		return "text"
	}
}

// Input is the type of a plain input. A number is a text: what browsers make
// of type=number cannot be corrected, and is not read out.
func (f Field) Input() string {
	switch f.Type {
	case "email", "tel", "date":
		return f.Type
	default:
		return "text"
	}
}

// InputMode chooses the keyboard of a telephone, where the type does not.
func (f Field) InputMode() string {
	if f.Type == "number" {
		return "decimal"
	}
	return ""
}

// Short reports whether little is to be written.
func (f Field) Short() bool { return f.Type == "number" || f.Type == "date" || f.Type == "tel" }

// Direction of what is typed: addresses and numbers are written from left to
// right by everybody.
func (f Field) Direction() string {
	switch f.Type {
	case "email", "tel", "number", "date":
		return "ltr"
	default:
		return "auto"
	}
}

// purposes are what browsers know of people, by the names that forms have for
// it (WCAG 2.2, 1.3.5).
var purposes = map[string]string{
	"name": "name", "full_name": "name", "first_name": "given-name", "given_name": "given-name", "last_name": "family-name",
	"family_name": "family-name", "surname": "family-name", "email": "email", "phone": "tel", "tel": "tel", "company": "organization",
	"organization": "organization", "organisation": "organization", "street": "address-line1", "address": "street-address",
	"postal_code": "postal-code", "postcode": "postal-code", "zip": "postal-code", "city": "address-level2", "country": "country-name",
	"birthday": "bday", "date_of_birth": "bday", "website": "url",
}

// Autocomplete says what the browser may fill in.
func (f Field) Autocomplete() string {
	if purpose := purposes[strings.ToLower(f.Name)]; purpose != "" {
		return purpose
	}
	if f.Type == "email" || f.Type == "tel" {
		return f.Type
	}
	return ""
}

// DescribedBy names what is read out with the field.
func (f Field) DescribedBy() string {
	var ids []string
	if f.Wrong != "" {
		ids = append(ids, f.ID()+"-wrong")
	}
	if f.Help != "" {
		ids = append(ids, f.ID()+"-help")
	}
	return strings.Join(ids, " ")
}
