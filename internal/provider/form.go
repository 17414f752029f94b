package provider

import (
	"math"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"relay.example/relay/internal/relay"
)

// formRule says where the fields of a form stand: in the body itself, in an
// object whose members they are, or in a list.
type formRule struct {
	from   []formSource // the first that is there
	name   [][]step     // in an element; of an object's members the key, if none
	label  [][]step
	value  [][]step // the first that is not null; none: the member itself
	prefix string   // what begins the names, with # for digits, and is cut off; others are no fields
	labels *lookupTable
	texts  *lookupTable
	hidden []string // the fields that hold the token
}

// formSource is the body, a place of it, or the JSON in a field.
type formSource struct {
	path  []step // into the document; nil: all of it
	field *part  // whose JSON is the document; nil: the body's
}

// lookupTable finds the text that stands for an id, in a list beside it.
type lookupTable struct {
	in       []step // of the document for labels, of the element for values
	id, text string // members of the list's elements
	by       []step // for labels: where the id stands in an element of the form
}

// submission is a form as it was filled in: names in order of arrival.
type submission struct {
	names  []string
	values map[string]any
	labels map[string]string // where they are not the names
}

// form returns the submitted fields, by their own names and by their labels
// as slugs. A field's own name wins over another's slug. What was submitted
// more than once becomes an array.
func (p *parsed) form(r *formRule) map[string]any {
	sub := p.submitted(r)
	form := make(map[string]any, 2*len(sub.names))
	for _, name := range sub.names {
		if !slices.Contains(r.hidden, name) {
			form[displayable(name)] = sub.values[name]
		}
	}
	for _, name := range sub.names {
		if slices.Contains(r.hidden, name) {
			continue
		}
		for _, s := range []string{relay.Slug(sub.labels[name]), relay.Slug(name)} {
			if _, taken := form[s]; s != "" && !taken {
				form[s] = sub.values[name]
			}
		}
	}
	return form
}

// submitted gathers the fields.
func (p *parsed) submitted(r *formRule) *submission {
	sub := &submission{names: make([]string, 0, len(p.fields)), values: make(map[string]any, len(p.fields)), labels: map[string]string{}}
	for i := range r.from {
		doc, parts := p.formIn(&r.from[i])
		if len(parts) == 0 && r.from[i].isBody() {
			for j := range p.fields {
				sub.add(p.fields[j].name, p.fields[j].value())
			}
			return sub
		}
		there := false
		for _, in := range parts {
			if in.IsObject() || in.IsArray() {
				there = true
				r.gather(sub, doc, in)
			}
		}
		if there {
			return sub
		}
	}
	return sub
}

func (src *formSource) isBody() bool { return src.path == nil && src.field == nil }

// formIn returns the document that a source is in, and the objects or lists
// that hold its fields: none where a body of fields is no document.
func (p *parsed) formIn(src *formSource) (doc gjson.Result, parts []gjson.Result) {
	doc = p.json
	if src.field != nil {
		var err error
		if doc, err = p.fieldJSON(src.field); err != nil {
			return doc, nil
		}
	}
	return doc, followAll(doc, src.path)
}

func (s *submission) add(name string, value any) {
	switch before := s.values[name].(type) {
	case nil:
		if _, seen := s.values[name]; !seen {
			s.names = append(s.names, name)
		}
		s.values[name] = value
	case []any:
		s.values[name] = append(before, value)
	default:
		s.values[name] = []any{before, value}
	}
}

// gather reads the members of an object or the elements of a list, as many as
// a form may have.
func (r *formRule) gather(sub *submission, doc, in gjson.Result) {
	labels := r.labels.read(doc)
	count := len(sub.names)
	in.ForEach(func(key, el gjson.Result) bool {
		count++
		name := firstOf(el, r.name).String()
		if name == "" && in.IsObject() {
			name = key.Str
		}
		name, ok := r.plainName(name)
		if _, seen := sub.values[name]; !ok || seen && in.IsObject() {
			return count < MaxFields // of equal keys the first counts
		}
		sub.add(name, r.valueOf(el))
		label := firstOf(el, r.label).String()
		if r.labels != nil {
			label = labels[follow(el, r.labels.by).String()]
		}
		if label != "" {
			sub.labels[name] = label
		}
		return count < MaxFields
	})
}

// valueOf reads the value of an element: the first that is not null. A path
// with [*] may lead to several, and then all of them are the value.
func (r *formRule) valueOf(el gjson.Result) any {
	if len(r.value) == 0 {
		return r.texts.translate(el, el)
	}
	for _, path := range r.value {
		found := slices.DeleteFunc(followAll(el, path), func(v gjson.Result) bool { return v.Type == gjson.Null })
		switch len(found) {
		case 0:
			continue
		case 1:
			return r.texts.translate(el, found[0])
		}
		all := make([]any, len(found))
		for i, v := range found {
			all[i] = r.texts.translate(el, v)
		}
		return all
	}
	return nil
}

// plainName cuts off what every name begins with.
func (r *formRule) plainName(name string) (string, bool) {
	if r.prefix == "" {
		return name, name != ""
	}
	rest, ok := cutDigits(r.prefix, name)
	return rest, ok && rest != ""
}

// firstOf returns the first value of an element that is neither absent nor null.
func firstOf(el gjson.Result, paths [][]step) gjson.Result {
	for _, path := range paths {
		if v := follow(el, path); v.Exists() && v.Type != gjson.Null {
			return v
		}
	}
	return gjson.Result{}
}

// read returns the texts by id.
func (t *lookupTable) read(doc gjson.Result) map[string]string {
	found := map[string]string{}
	if t == nil {
		return found
	}
	follow(doc, t.in).ForEach(func(_, el gjson.Result) bool {
		found[lookup(el, t.id).text] = lookup(el, t.text).text
		return len(found) < MaxFields
	})
	return found
}

// translate puts the texts of an element's own table in the place of ids.
func (t *lookupTable) translate(el, v gjson.Result) any {
	value := plain(v)
	texts := t.read(el)
	if len(texts) == 0 {
		return value
	}
	readable := func(one any) any {
		if id, ok := one.(string); ok && texts[id] != "" {
			return displayable(texts[id])
		}
		return one
	}
	many, ok := value.([]any)
	if !ok {
		return readable(value)
	}
	for i := range many {
		many[i] = readable(many[i])
	}
	return many
}

// value is the text of a field. Of a file only name and size are noted: its
// bytes are kept nowhere but in the raw body.
func (f *field) value() any {
	if f.isFile {
		return map[string]any{"filename": displayable(f.text), "size": f.size}
	}
	return displayable(f.text)
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
