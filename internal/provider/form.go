package provider

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"
)

// form returns the submitted fields, by their own names and by their names
// as slugs. A field's own name wins over another's slug. What was submitted
// more than once becomes an array.
func (p *parsed) form(hidden []string) map[string]any {
	names, values := p.submitted()
	form := make(map[string]any, 2*len(names))
	for _, name := range names {
		if !slices.Contains(hidden, name) {
			form[displayable(name)] = values[name]
		}
	}
	for _, name := range names {
		if slices.Contains(hidden, name) {
			continue
		}
		if s := slug(name); s != "" {
			if _, taken := form[s]; !taken {
				form[s] = values[name]
			}
		}
	}
	return form
}

// submitted returns the names of the fields in order of arrival, and their
// values.
func (p *parsed) submitted() ([]string, map[string]any) {
	if p.fields == nil {
		return p.membersAsFields()
	}
	var names []string
	values := map[string]any{}
	for i := range p.fields {
		f := &p.fields[i]
		switch before := values[f.name].(type) {
		case nil:
			names = append(names, f.name)
			values[f.name] = f.value()
		case []any:
			values[f.name] = append(before, f.value())
		default:
			values[f.name] = []any{before, f.value()}
		}
	}
	return names, values
}

// value is the text of a field. Of a file only name and size are noted: its
// bytes are kept nowhere but in the raw body.
func (f *field) value() any {
	if f.isFile {
		return map[string]any{"filename": displayable(f.text), "size": f.size}
	}
	return displayable(f.text)
}

func (p *parsed) membersAsFields() ([]string, map[string]any) {
	var names []string
	values := map[string]any{}
	if !p.json.IsObject() {
		return nil, nil
	}
	p.json.ForEach(func(key, v gjson.Result) bool {
		if _, seen := values[key.Str]; !seen {
			names = append(names, key.Str)
			values[key.Str] = plain(v)
		}
		return true
	})
	return names, values
}

// plain turns JSON into Go values. Numbers become int64 or, where they do not
// fit, float64. Depth was bounded before.
func plain(v gjson.Result) any {
	switch {
	case v.IsObject():
		object := map[string]any{}
		v.ForEach(func(key, m gjson.Result) bool {
			name := displayable(key.Str)
			if _, seen := object[name]; !seen {
				object[name] = plain(m)
			}
			return true
		})
		return object
	case v.IsArray():
		array := []any{}
		v.ForEach(func(_, el gjson.Result) bool {
			array = append(array, plain(el))
			return true
		})
		return array
	case v.Type == gjson.Number:
		return number(v)
	case v.Type == gjson.String:
		return displayable(v.Str)
	default:
		return v.Value()
	}
}

func number(v gjson.Result) any {
	if n, err := strconv.ParseInt(v.Raw, 10, 64); err == nil {
		return n
	}
	if math.IsInf(v.Num, 0) {
		return v.Raw // beyond a float64, and no JSON could hold it again
	}
	return v.Num
}

// slug writes a label so that an expression can name it: "E-mail address?"
// becomes e_mail_address.
func slug(label string) string {
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(label) {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			gap = b.Len() > 0
			continue
		}
		if gap {
			b.WriteByte('_')
			gap = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
