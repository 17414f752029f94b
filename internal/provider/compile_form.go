package provider

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// compileForm compiles the section form.
func (e *Endpoint) compileForm(c *compiler, s *spec, settings *Settings) error {
	if s.Form == nil {
		return nil
	}
	r := &formRule{prefix: s.Form.Prefix, hidden: e.hidden}
	for i, text := range s.Form.From {
		src, err := c.formSource(text)
		if err != nil {
			return wrong(listField("form.from", i, len(s.Form.From)), "%w", err)
		}
		if !src.isBody() {
			r.hidden = append(r.hidden, settings.tokenFields()...)
		}
		r.from = append(r.from, src)
	}
	if len(r.from) == 0 {
		return wrong("form.from", "is missing: write body, or where the fields stand")
	}
	if strings.Count(r.prefix, "#") > 1 {
		return wrong("form.prefix", "%q has more than one #", r.prefix)
	}
	for _, f := range []struct {
		name string
		from texts
		to   *[][]step
		path func(string) ([]step, error)
	}{
		{"name", s.Form.Name, &r.name, elementPath},
		{"label", s.Form.Label, &r.label, elementPath},
		{"value", s.Form.Value, &r.value, valuesPath},
	} {
		for i, text := range f.from {
			steps, err := f.path(text)
			if err != nil {
				return wrong(listField("form."+f.name, i, len(f.from)), "%w", err)
			}
			*f.to = append(*f.to, steps)
		}
	}
	var err error
	if s.Form.Labels != nil {
		if r.labels, err = s.Form.Labels.compile(); err != nil {
			return err
		}
	}
	if s.Form.Texts != nil {
		r.texts, err = s.Form.Texts.compile("form.texts")
	}
	e.form = r
	return err
}

func (c *compiler) formSource(text string) (formSource, error) {
	if text == "body" {
		return formSource{}, nil
	}
	if path, ok := strings.CutPrefix(text, "json:"); ok {
		steps, err := valuesPath(path)
		return formSource{path: steps}, err
	}
	p, err := c.place(text)
	switch {
	case err != nil:
		return formSource{}, err
	case p.kind == partForm && p.within == 0:
		return formSource{field: &p}, nil
	default:
		return formSource{}, fmt.Errorf("%q holds no fields: write body, json:PATH or form:NAME", text)
	}
}

// elementPath reads a path that is followed to one value.
func elementPath(text string) ([]step, error) {
	steps, err := parsePath(text)
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		if s.kind == stepEvery || s.kind == stepOnly {
			return nil, errors.New("a path of a form has neither [*] nor [only]")
		}
	}
	return steps, nil
}

// valuesPath reads a path that is followed to one value, or with [*] to all
// that it names.
func valuesPath(text string) ([]step, error) {
	steps, err := parsePath(text)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(steps, func(s step) bool { return s.kind == stepOnly }) {
		return nil, errors.New("a path of a form has no [only]")
	}
	return steps, nil
}

func (t *tableSpec) compile(field string) (*lookupTable, error) {
	if t.ID == "" || t.Text == "" {
		return nil, wrong(field, "needs id and text, the members of the list's elements")
	}
	in, err := elementPath(t.In)
	if err != nil {
		return nil, wrong(field+".in", "%w", err)
	}
	return &lookupTable{in: in, id: t.ID, text: t.Text}, nil
}

func (t *labelSpec) compile() (*lookupTable, error) {
	table, err := (&tableSpec{In: t.In, ID: t.ID, Text: t.Text}).compile("form.labels")
	if err != nil {
		return nil, err
	}
	if table.by, err = elementPath(t.By); err != nil {
		return nil, wrong("form.labels.by", "%w", err)
	}
	return table, nil
}
