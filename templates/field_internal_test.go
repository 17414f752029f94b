package templates

import (
	"html/template"
	"reflect"
	"strings"
	"testing"
)

// rendering is how fields are rendered in a page.
func rendering(t *testing.T) *fields {
	t.Helper()
	p, err := Parse()
	if err != nil {
		t.Fatal(err)
	}
	return p.fields
}

func asked() shownField {
	return shownField{
		Field:  Field{Name: "size", Type: "select", Label: "Size", Help: "Of the shoe", Options: []Option{{Value: "s", Label: "Small"}}},
		asides: asides{"optional", "if asked", "choose"},
	}
}

// Whatever is added to a field or its asides makes another HTML, or keeps it
// from being kept: nobody is shown somebody else's.
func TestFieldIsKeptByAllOfIt(t *testing.T) {
	t.Parallel()
	base := asked()
	for _, part := range []func(*shownField) any{
		func(f *shownField) any { return &f.Field }, func(f *shownField) any { return &f.asides }, func(f *shownField) any { return &f.Options[0] },
	} {
		f := asked()
		kind := reflect.TypeOf(part(&f)).Elem()
		for i := range kind.NumField() {
			f := asked()
			switch v := reflect.ValueOf(part(&f)).Elem().Field(i); v.Kind() {
			case reflect.String:
				v.SetString(v.String() + "x")
			case reflect.Bool:
				v.SetBool(true)
			case reflect.Slice:
				v.Set(reflect.Append(v, reflect.ValueOf(Option{Value: "l", Label: "Large"})))
			default:
				t.Fatalf("%s.%s: this test changes no %s: teach it to", kind.Name(), kind.Field(i).Name, v.Kind())
			}
			if !f.isPersonal() && f.digest() == base.digest() {
				t.Errorf("two fields that differ in %s.%s are taken for one", kind.Name(), kind.Field(i).Name)
			}
		}
	}
	other := asked()
	other.Name, other.Type = "siz", "eselect"
	if other.digest() == base.digest() {
		t.Error("where one text ends and the next begins does not count")
	}
}

// What somebody typed, or was written for one person, is not kept.
func TestPersonalFieldsAreNotKept(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*shownField){
		"typed":    func(f *shownField) { f.Value = "4711" },
		"wrong":    func(f *shownField) { f.Wrong = "4711 is no size" },
		"chosen":   func(f *shownField) { f.Options[0].Chosen = true },
		"personal": func(f *shownField) { f.Personal = true },
	} {
		s, f := rendering(t), asked()
		change(&f)
		if _, err := s.render(f); err != nil {
			t.Fatal(err)
		}
		if len(s.kept) != 0 {
			t.Errorf("%s: got it kept", name)
		}
	}
}

// The second rendering is the first one's, and the room for them is bounded.
func TestFieldsAreKept(t *testing.T) {
	t.Parallel()
	s, f := rendering(t), asked()
	first, err := s.render(f)
	if err != nil {
		t.Fatal(err)
	}
	s.field = template.Must(template.New("field").Parse(`{{define "field"}}anew{{end}}`))
	if second, err := s.render(f); err != nil || second != first || !strings.Contains(string(first), "<select") {
		t.Errorf("got %q, %v, want the first rendering, %q", second, err, first)
	}
	s.field = rendering(t).field
	f.Help = strings.Repeat("much help ", maxKeptField/10)
	if _, err := s.render(f); err != nil || len(s.kept) != 1 {
		t.Errorf("got %d kept, %v, want a large one not to be", len(s.kept), err)
	}
	for i := range 3 * maxKept / (maxKeptField - 1000) {
		f.Help = strings.Repeat("h", maxKeptField-1000)
		f.Name = "n" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + strings.Repeat("y", i/50)
		if _, err := s.render(f); err != nil {
			t.Fatal(err)
		}
	}
	size := 0
	for _, html := range s.kept {
		size += len(html)
	}
	if size != s.size || size > maxKept || size < maxKept/2 {
		t.Errorf("got %d bytes kept, counted %d, want at most %d", size, s.size, maxKept)
	}
}

// BenchmarkForm is a form of ten fields, as a page of it is opened.
func BenchmarkForm(b *testing.B) {
	p, err := Parse()
	if err != nil {
		b.Fatal(err)
	}
	form := Form{Page: p.Page([]string{"de"}, nil, Look{}), Heading: "Ten", Submit: "Send"}
	for _, kind := range []string{"text", "email", "tel", "number", "date", "select", "radio", "checkbox", "textarea", "consent"} {
		f := asked().Field
		f.Name, f.Type = kind, kind
		form.Fields = append(form.Fields, f)
	}
	form.Fields[0].Value = "typed"
	for b.Loop() {
		if _, err := p.Render(FormPage, form); err != nil {
			b.Fatal(err)
		}
	}
}
