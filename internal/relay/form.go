package relay

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
)

// Form is a hosted form, as people write it. What is wrong with one is said
// when it is compiled, by the package form.
type Form struct {
	// Language is the one of texts that are not given per language, and the
	// one of people whose own is not there.
	Language string      `json:"language,omitempty"`
	Title    Words       `json:"title,omitempty"`
	Intro    Words       `json:"intro,omitempty"`
	Submit   Words       `json:"submit,omitempty"` // on the button
	Fields   []FormField `json:"fields"`
}

// FormField is one field of a form.
type FormField struct {
	Name      string       `json:"name"`
	Type      string       `json:"type,omitempty"`  // "": text
	Label     Words        `json:"label,omitempty"` // the name, if none
	Help      Words        `json:"help,omitempty"`
	Required  bool         `json:"required,omitempty"`
	Value     any          `json:"value,omitempty"` // what stands there at first
	Options   []FormOption `json:"options,omitempty"`
	Min       any          `json:"min,omitempty"` // of a number, a date, or the choices of a checkbox
	Max       any          `json:"max,omitempty"`
	MinLength int          `json:"min_length,omitempty"` // in characters
	MaxLength int          `json:"max_length,omitempty"`
	Pattern   string       `json:"pattern,omitempty"` // of the whole text, as RE2
	ShowIf    string       `json:"show_if,omitempty"` // a condition over the fields above
}

// The types of a field.
const (
	FieldText     = "text"
	FieldEmail    = "email"
	FieldTel      = "tel"
	FieldNumber   = "number"
	FieldDate     = "date"
	FieldSelect   = "select"
	FieldRadio    = "radio"
	FieldCheckbox = "checkbox"
	FieldTextarea = "textarea"
	FieldConsent  = "consent"
	FieldHidden   = "hidden"
)

// FieldTypes lists the types of a field.
var FieldTypes = []string{
	FieldText, FieldEmail, FieldTel, FieldNumber, FieldDate, FieldSelect, FieldRadio, FieldCheckbox, FieldTextarea, FieldConsent, FieldHidden,
}

// The bounds of a form.
const (
	MaxFormFields  = 60
	MaxFormOptions = 300      // of all fields together
	MaxFormBytes   = 64 << 10 // of its JSON
	DefaultText    = 500      // characters of a text, where max_length says nothing
	DefaultProse   = 5000     // the same of a textarea
	MaxText        = 20_000   // the most that max_length may say
)

// FormOption is one of the values that a field offers.
type FormOption struct {
	Value string `json:"value"`
	Label Words  `json:"label,omitempty"` // the value, if none
}

// UnmarshalJSON reads "red" as well as {"value": "red", "label": …}.
func (o *FormOption) UnmarshalJSON(b []byte) error {
	*o = FormOption{}
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte(`"`)) {
		return json.Unmarshal(b, &o.Value)
	}
	type plain FormOption
	return Decode(b, (*plain)(o))
}

// MarshalJSON writes an option that is its own label as a string.
func (o FormOption) MarshalJSON() ([]byte, error) {
	if o.Label == nil {
		return json.Marshal(o.Value)
	}
	type plain FormOption
	return json.Marshal(plain(o))
}

// Words is a text for people: one for all, which stands under "", or one per
// language.
type Words map[string]string

// UnmarshalJSON reads "Name" as well as {"en": "Name", "de": "Name"}.
func (w *Words) UnmarshalJSON(b []byte) error {
	*w = nil
	b = bytes.TrimSpace(b)
	if bytes.HasPrefix(b, []byte(`"`)) {
		var one string
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*w = Words{"": one}
		return nil
	}
	var many map[string]string
	if err := json.Unmarshal(b, &many); err != nil {
		return Errorf(Invalid, "wrong_type", "want a text, or an object of language and text")
	}
	for language := range many {
		if !IsLanguage(language) {
			return Errorf(Invalid, "invalid_language", "%.40q is no language: write tags such as en, de or pt-BR", language)
		}
	}
	*w = many
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (w Words) MarshalJSON() ([]byte, error) {
	if one, ok := w[""]; ok && len(w) == 1 {
		return json.Marshal(one)
	}
	return json.Marshal(map[string]string(w))
}

// Languages lists the languages that w is given in.
func (w Words) Languages() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w)), func(language string) bool { return language == "" })
}

// IsLanguage reports whether a text has the form of a language tag: letters
// and digits in parts of at most 8, 35 in all.
func IsLanguage(tag string) bool {
	if len(tag) < 2 || len(tag) > 35 {
		return false
	}
	part := 0
	for i := range len(tag) {
		c := tag[i]
		switch {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9' && i > 0:
			if part++; part > 8 {
				return false
			}
		case c == '-' && part > 0:
			part = 0
		default:
			return false
		}
	}
	return part > 0
}
