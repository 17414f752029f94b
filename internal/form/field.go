package form

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

// Field is one field of a form.
type Field struct {
	Name      string
	Type      string
	Required  bool
	Condition *mapping.Condition // nil: always shown
	def       relay.FormField
	label     words
	help      words
	value     *mapping.Value
	options   []option
	pattern   *regexp.Regexp
	min, max  *float64 // of a number, or of the choices of a checkbox
	from, to  string   // of a date
}

type option struct {
	value string
	label words
}

// Option is one of the values that a field offers, with its label.
type Option struct {
	Value, Label string
	Foreign      string // the label's language where it is not the page's, or ""
}

func (f *Form) compileField(def *relay.FormField, above []string) (*Field, error) {
	out := &Field{Name: def.Name, Type: cmp.Or(def.Type, relay.FieldText), Required: def.Required, def: *def}
	if err := checkField(out, def, above); err != nil {
		return nil, err
	}
	var err error
	if out.label, err = f.compileWords(def.Label); err != nil {
		return nil, relay.At("label", err)
	}
	if out.help, err = f.compileWords(def.Help); err != nil {
		return nil, relay.At("help", err)
	}
	if out.value, err = mapping.CompileValue(def.Value); err != nil {
		return nil, relay.At("value", err)
	}
	if out.options, err = f.compileOptions(def.Options); err != nil {
		return nil, relay.At("options", err)
	}
	if err := out.compileBounds(); err != nil {
		return nil, err
	}
	if def.Pattern != "" {
		if out.pattern, err = regexp.Compile(`^(?:` + def.Pattern + `)$`); err != nil {
			return nil, wrong("pattern", "%v: write an RE2 expression for the whole text", err)
		}
	}
	if def.ShowIf != "" {
		if out.Condition, err = mapping.CompileCondition(def.ShowIf, above); err != nil {
			return nil, relay.At("show_if", err)
		}
		if out.Condition.Mixes(f.hidden()) {
			return nil, wrong("show_if", "compare a hidden field with a text, a number, true, false or nil: beside a field that is shown, its value would have to be sent to the browser")
		}
	}
	return out, nil
}

// checkField checks what needs no compiling: that the parts of a field belong
// to its type.
func checkField(f *Field, def *relay.FormField, above []string) error {
	switch {
	case !namePattern.MatchString(f.Name):
		return wrong("name", "%.70q does not do: a letter, then up to 63 letters, digits and _, so that form.NAME can be written", f.Name)
	case slices.Contains(takenNames, f.Name):
		return wrong("name", "%q would be taken for the wait's token: choose another", f.Name)
	case slices.Contains(above, f.Name):
		return wrong("name", "another field is called %q", f.Name)
	case !slices.Contains(relay.FieldTypes, f.Type):
		return wrong("type", "%.40q is none of %s", f.Type, strings.Join(relay.FieldTypes, ", "))
	case f.Type == relay.FieldHidden && (f.Required || def.ShowIf != "" || def.Label != nil || def.Help != nil):
		return wrong("", "a hidden field has only a name and a value: nobody sees it")
	}
	for _, part := range []struct {
		name  string
		given bool
		types []string
	}{
		{"options", len(def.Options) > 0, []string{relay.FieldSelect, relay.FieldRadio, relay.FieldCheckbox}},
		{"pattern", def.Pattern != "", textTypes},
		{"min_length", def.MinLength != 0, textTypes},
		{"max_length", def.MaxLength != 0, textTypes},
		{"min", def.Min != nil, []string{relay.FieldNumber, relay.FieldDate, relay.FieldCheckbox}},
		{"max", def.Max != nil, []string{relay.FieldNumber, relay.FieldDate, relay.FieldCheckbox}},
	} {
		if part.given && !slices.Contains(part.types, f.Type) {
			return wrong(part.name, "a %s has none: it is for %s", f.Type, strings.Join(part.types, ", "))
		}
	}
	if (f.Type == relay.FieldSelect || f.Type == relay.FieldRadio) && len(def.Options) == 0 {
		return wrong("options", "are missing: say what there is to choose from")
	}
	if f.Type == relay.FieldCheckbox && len(def.Options) == 0 && (def.Min != nil || def.Max != nil) {
		return wrong("min", "a single checkbox is ticked or not: give options, or leave min and max out")
	}
	if def.MinLength < 0 || def.MaxLength < 0 || def.MaxLength > relay.MaxText || def.MinLength > f.longest() {
		return wrong("max_length", "lengths are 0 to %d characters, the least not above the most", relay.MaxText)
	}
	return nil
}

// textTypes are the types that a person types a text into.
var textTypes = []string{relay.FieldText, relay.FieldEmail, relay.FieldTel, relay.FieldTextarea}

// longest is how many characters a text may have.
func (f *Field) longest() int {
	switch {
	case f.def.MaxLength > 0:
		return f.def.MaxLength
	case f.Type == relay.FieldTextarea:
		return relay.DefaultProse
	default:
		return relay.DefaultText
	}
}

func (f *Form) compileOptions(from []relay.FormOption) (options []option, err error) {
	for _, o := range from {
		if o.Value == "" || o.Value != clean(o.Value, false) || len(o.Value) > relay.DefaultText {
			return nil, wrong("", "%.40q is no value: 1 to %d bytes, without spaces around it", o.Value, relay.DefaultText)
		}
		if slices.ContainsFunc(options, func(other option) bool { return other.value == o.Value }) {
			return nil, wrong("", "%.40q stands there twice", o.Value)
		}
		label, err := f.compileWords(o.Label)
		if err != nil {
			return nil, err
		}
		options = append(options, option{o.Value, label})
	}
	return options, nil
}

// compileBounds reads min and max, whose kind is that of the field.
func (f *Field) compileBounds() error {
	for _, b := range []struct {
		name   string
		from   any
		number **float64
		date   *string
	}{{"min", f.def.Min, &f.min, &f.from}, {"max", f.def.Max, &f.max, &f.to}} {
		if b.from == nil {
			continue
		}
		if f.Type == relay.FieldDate {
			date, _ := b.from.(string)
			if _, err := time.Parse(time.DateOnly, date); err != nil {
				return wrong(b.name, "%v is no date: write it like \"2026-01-31\"", b.from)
			}
			*b.date = date
			continue
		}
		number, ok := asNumber(b.from)
		if !ok {
			return wrong(b.name, "%v is no number", b.from)
		}
		*b.number = &number
	}
	if f.min != nil && f.max != nil && *f.min > *f.max || f.from != "" && f.to != "" && f.from > f.to {
		return wrong("min", "is above max: nothing could be answered")
	}
	return nil
}

func asNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	}
	return 0, false
}

// ShowIf is when the field is shown, as the page is told: what hidden fields
// decide of it is decided, since the page knows nothing of them. Without a
// condition it is shown always, or never.
func (f *Form) ShowIf(field *Field, a *Answers) (condition *mapping.Condition, never bool) {
	if field.Condition == nil {
		return nil, false
	}
	left := field.Condition.Given(f.hidden(), a.Values)
	if always, never := left.Decided(); always || never {
		return nil, never
	}
	return left, false
}

// hidden names the fields that nobody sees.
func (f *Form) hidden() (names []string) {
	for _, field := range f.Fields {
		if field.Type == relay.FieldHidden {
			names = append(names, field.Name)
		}
	}
	return names
}

// Label says what is asked for: the field's name, where nothing else is said.
// Nobody sees that of a hidden field.
func (f *Field) Label(language string, s *mapping.Scope) string {
	if len(f.label) == 0 && f.Type != relay.FieldHidden {
		return f.Name
	}
	return f.label.in(language, s)
}

// Help says more of it, or is "".
func (f *Field) Help(language string, s *mapping.Scope) string { return f.help.in(language, s) }

// Foreign names the languages of label and help where they are not the page's.
func (f *Field) Foreign(language string) (label, help string) {
	return f.label.foreign(language), f.help.foreign(language)
}

// Personal reports whether the texts of the field may differ from person to
// person.
func (f *Field) Personal() bool {
	return f.label.vary() || f.help.vary() || slices.ContainsFunc(f.options, func(o option) bool { return o.label.vary() })
}

// Options lists what there is to choose from.
func (f *Field) Options(language string, s *mapping.Scope) (options []Option) {
	for _, o := range f.options {
		label := o.label.in(language, s)
		if len(o.label) == 0 {
			label = o.value
		}
		options = append(options, Option{o.value, label, o.label.foreign(language)})
	}
	return options
}

// Several reports whether more than one value can be chosen.
func (f *Field) Several() bool { return f.Type == relay.FieldCheckbox && len(f.options) > 0 }

// Tick reports whether the field is one box to tick.
func (f *Field) Tick() bool {
	return f.Type == relay.FieldConsent || f.Type == relay.FieldCheckbox && len(f.options) == 0
}

// Ticked is what a box to tick sends.
const Ticked = "yes"

// first is what stands in the field before anybody has typed.
func (f *Field) first(s *mapping.Scope) []string {
	v, _ := f.value.Render(s)
	switch v := v.(type) {
	case nil:
		return nil
	case bool:
		if v {
			return []string{Ticked}
		}
		return nil
	case []any:
		var texts []string
		for _, item := range v {
			texts = append(texts, mapping.Text(item))
		}
		return texts
	default:
		text := mapping.Text(v)
		if _, number := asNumber(v); number && f.Type == relay.FieldNumber && grouped.MatchString(text) {
			text += "0" // or it would not be taken as it stands there
		}
		return []string{text}
	}
}
