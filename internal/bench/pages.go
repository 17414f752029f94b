package bench

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
)

// pageRate is how many people open a form in a second, in the phase of pages.
const pageRate = 200.0

// pageForms is how many waits those forms belong to.
const pageForms = 200

// pageForm is what they are asked: a form as shops have them.
func pageForm() map[string]any {
	field := func(name, kind string, more map[string]any) map[string]any {
		f := map[string]any{"name": name, "type": kind, "label": map[string]any{"en": "The " + name, "de": "Das Feld " + name}, "help": "A word on it."}
		for part, value := range more {
			f[part] = value
		}
		return f
	}
	options := map[string]any{"options": []string{"one", "two", "three", "four"}}
	return map[string]any{
		"title": map[string]any{"en": "Hello {{ correlation.user_id }}", "de": "Hallo {{ correlation.user_id }}"},
		"fields": []any{
			field("name", "text", map[string]any{"required": true, "value": "{{ correlation.user_id }}"}), field("email", "email", nil),
			field("phone", "tel", nil), field("guests", "number", map[string]any{"min": 1, "max": 9}), field("day", "date", nil),
			field("size", "select", options), field("colour", "radio", options), field("topics", "checkbox", options),
			field("note", "textarea", map[string]any{"show_if": `form.size == "two"`}), field("terms", "consent", nil),
		},
	}
}

// forms registers the waits whose forms are opened.
func (b *bench) forms(ctx context.Context) error {
	err := b.put(ctx, "flows/pages", map[string]any{
		"destination": "sink", "expires_in": "3d", "form": pageForm(), "on": map[string]any{"completed": map[string]any{"module_id": 1}},
	})
	if err != nil {
		return err
	}
	paths := make([]string, pageForms)
	for i := range paths {
		var made struct{ Token string }
		wait := map[string]any{"user_id": otherUsers + "page-" + strconv.Itoa(i), "flow": "pages"}
		if err := b.call(ctx, http.MethodPost, "correlations", wait, &made); err != nil {
			return err
		}
		paths[i] = "/f/" + made.Token
	}
	var next atomic.Int64
	b.openForm = func(k *conn) (user, status int, more bool, err error) {
		n := int(next.Add(1))
		status, _, err = k.get(paths[n%len(paths)])
		return n, status, true, err
	}
	return nil
}
