package form_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/form"
	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

// parse reads a form as people write it.
func parse(t *testing.T, text string) (*form.Form, error) {
	t.Helper()
	var def relay.Form
	if err := relay.Decode([]byte(text), &def); err != nil {
		return nil, err
	}
	return form.Compile(&def)
}

func mustParse(t *testing.T, text string) *form.Form {
	t.Helper()
	f, err := parse(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// one makes a form of one field.
func one(field string) string { return `{"fields": [` + field + `]}` }

func scope() *mapping.Scope {
	return &mapping.Scope{Correlation: mapping.Correlation{Key: "order-7", Data: map[string]any{"name": "Zoë", "topics": []any{"a", "b"}, "news": true, "n": int64(5)}}}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, form, code, says string }{
		{"no fields", `{}`, "invalid_form", "at least one field"},
		{"an unknown field", `{"fields": [{"name": "a", "lable": "x"}]}`, "unknown_field", "lable"},
		{"too many fields", `{"fields": [` + strings.Repeat(`{"name": "a"},`, 60) + `{"name": "a"}]}`, "invalid_form", "fields"},
		{"too large", `{"intro": "` + strings.Repeat("x", 70_000) + `", "fields": [{"name": "a", "label": "A"}]}`, "invalid_form", "64 KiB"},
		{"no name", one(`{"label": "A"}`), "invalid_form", "fields[0]: name"},
		{"a name that no expression has", one(`{"name": "e-mail", "label": "A"}`), "invalid_form", "fields[0]: name"},
		{"the token's name", one(`{"name": "token", "label": "A"}`), "invalid_form", "token"},
		{"a name twice", `{"fields": [{"name": "a", "label": "A"}, {"name": "a", "label": "B"}]}`, "invalid_form", "fields[1]: name"},
		{"no such type", one(`{"name": "a", "label": "A", "type": "file"}`), "invalid_form", "fields[0]: type"},
		{"a hidden field that is asked", one(`{"name": "a", "type": "hidden", "label": "A"}`), "invalid_form", "hidden"},
		{"nothing to choose from", one(`{"name": "a", "label": "A", "type": "radio"}`), "invalid_form", "options"},
		{"options of a text", one(`{"name": "a", "label": "A", "options": ["x"]}`), "invalid_form", "options"},
		{"an option twice", one(`{"name": "a", "label": "A", "type": "select", "options": ["x", "x"]}`), "invalid_form", "twice"},
		{"an empty option", one(`{"name": "a", "label": "A", "type": "select", "options": [""]}`), "invalid_form", "options"},
		{"a pattern of a date", one(`{"name": "a", "label": "A", "type": "date", "pattern": "x"}`), "invalid_form", "pattern"},
		{"a broken pattern", one(`{"name": "a", "label": "A", "pattern": "("}`), "invalid_form", "fields[0]: pattern"},
		{"a length of a number", one(`{"name": "a", "label": "A", "type": "number", "max_length": 3}`), "invalid_form", "max_length"},
		{"a length too large", one(`{"name": "a", "label": "A", "max_length": 30000}`), "invalid_form", "max_length"},
		{"lengths that exclude each other", one(`{"name": "a", "label": "A", "min_length": 5, "max_length": 3}`), "invalid_form", "length"},
		{"a min of a text", one(`{"name": "a", "label": "A", "min": 3}`), "invalid_form", "min"},
		{"a min of a single box", one(`{"name": "a", "label": "A", "type": "checkbox", "min": 1}`), "invalid_form", "min"},
		{"a min that is no number", one(`{"name": "a", "label": "A", "type": "number", "min": "x"}`), "invalid_form", "min"},
		{"a min that is no date", one(`{"name": "a", "label": "A", "type": "date", "min": "1.2.2026"}`), "invalid_form", "min"},
		{"min above max", one(`{"name": "a", "label": "A", "type": "number", "min": 3, "max": 2}`), "invalid_form", "min"},
		{"dates above each other", one(`{"name": "a", "label": "A", "type": "date", "min": "2026-02-01", "max": "2026-01-01"}`), "invalid_form", "min"},
		{"an expression that is none", `{"title": "{{ nobody }}", "fields": [{"name": "a", "label": "A"}]}`, "expression_invalid", "title"},
		{"a label with one", one(`{"name": "a", "label": "{{ 1 + }}"}`), "expression_invalid", "fields[0]: label"},
		{"a value with one", one(`{"name": "a", "label": "A", "value": "{{ x }}"}`), "expression_invalid", "fields[0]: value"},
		{"a condition over a field below", `{"fields": [{"name": "a", "label": "A", "show_if": "form.b == \"x\""}, {"name": "b", "label": "B"}]}`, "expression_invalid", "fields[0]: show_if"},
		{"a condition that would show what is hidden", `{"fields": [{"name": "a", "type": "hidden", "value": "x"}, {"name": "b", "label": "B"}, {"name": "c", "label": "C", "show_if": "form.b == form.a"}]}`, "invalid_form", "fields[2]: show_if"},
		{"no language", `{"language": "german!", "fields": [{"name": "a", "label": "A"}]}`, "invalid_form", "language"},
		{"a text in no language", `{"title": {"d": "x"}, "fields": [{"name": "a", "label": "A"}]}`, "invalid_language", "title"},
		{"a text without the form's language", `{"title": {"en": "x", "de": "y"}, "fields": [{"name": "a", "label": {"de": "A"}}]}`, "invalid_form", "no text in en"},
		{"a number for a text", `{"title": 5, "fields": [{"name": "a", "label": "A"}]}`, "wrong_type", "title"},
		{"too many options", one(`{"name": "a", "label": "A", "type": "select", "options": [` + numbers(301) + `]}`), "invalid_form", "options"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, c.form)
			var refusal *relay.Error
			if !asRefusal(err, &refusal) || refusal.Code != c.code || !strings.Contains(refusal.Detail, c.says) {
				t.Errorf("got %v, want %s that says %q", err, c.code, c.says)
			}
		})
	}
}

func numbers(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%q", fmt.Sprint(i)))
	}
	return strings.Join(list, ",")
}

func asRefusal(err error, into **relay.Error) bool {
	known, ok := err.(*relay.Error) //nolint:errorlint // refusals of a form are never wrapped
	*into = known
	return ok
}

// answer is one field's value, or the name of the text that says what is
// wrong.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const options = `"options": ["a", {"value": "b", "label": "B"}, "c"]`
	for _, c := range []struct {
		name, field string
		typed       []string
		value       any
		wrong       string
	}{
		{"a text", `"type": "text"`, []string{"  Zoë \t O'Neill\r\n"}, "Zoë   O'Neill", ""},
		{"nothing", `"type": "text"`, nil, nil, ""},
		{"spaces alone", `"required": true`, []string{" \n\t "}, nil, "required"},
		{"control characters", ``, []string{"a\x00\x1b\x7fb"}, "ab", ""},
		{"invalid UTF-8", ``, []string{"a\xffb"}, "a\uFFFDb", ""},
		{"too long", `"max_length": 3`, []string{"äöüß"}, "äöüß", "max_length"},
		{"as long as may be", `"max_length": 4`, []string{"äöüß"}, "äöüß", ""},
		{"too short", `"min_length": 3`, []string{"ab"}, "ab", "min_length"},
		{"too long by default", ``, []string{strings.Repeat("x", 501)}, strings.Repeat("x", 501), "max_length"},
		{"a pattern", `"pattern": "[A-Z]{2}|x"`, []string{"AB"}, "AB", ""},
		{"a pattern of the whole", `"pattern": "[A-Z]{2}|x"`, []string{"ABx"}, "ABx", "pattern"},
		{"lines", `"type": "textarea"`, []string{"a\r\nb\tc"}, "a\nb c", ""},
		{"an address", `"type": "email"`, []string{"zoe+x@example.org"}, "zoe+x@example.org", ""},
		{"an address in another script", `"type": "email"`, []string{"zoë@bücher.example"}, "zoë@bücher.example", ""},
		{"no address", `"type": "email"`, []string{"zoe@example"}, "zoe@example", "email"},
		{"two addresses", `"type": "email"`, []string{"a@b.example,c@d.example"}, "a@b.example,c@d.example", "email"},
		{"an address with a name", `"type": "email"`, []string{"Zoe <a@b.example>"}, "Zoe <a@b.example>", "email"},
		{"a phone number", `"type": "tel"`, []string{"+49 (30) 123-456"}, "+49 (30) 123-456", ""},
		{"no phone number", `"type": "tel"`, []string{"call me"}, "call me", "tel"},
		{"a formula for a phone number", `"type": "tel"`, []string{"+1+cmd|' /C calc'!A0"}, "+1+cmd|' /C calc'!A0", "tel"},
		{"a number", `"type": "number"`, []string{" 42 "}, int64(42), ""},
		{"a fraction", `"type": "number"`, []string{"-2.50"}, -2.5, ""},
		{"a fraction with a comma", `"type": "number"`, []string{"12,5"}, 12.5, ""},
		{"a thousand, or one", `"type": "number"`, []string{"1,000"}, nil, "number"},
		{"a thousand, or one, with a point", `"type": "number"`, []string{"1.000"}, nil, "number"},
		{"three digits that can only be a fraction", `"type": "number"`, []string{"0.125"}, 0.125, ""},
		{"no number", `"type": "number"`, []string{"1e5"}, nil, "number"},
		{"not a number", `"type": "number"`, []string{"NaN"}, nil, "number"},
		{"a number too long", `"type": "number"`, []string{strings.Repeat("9", 400)}, nil, "number"},
		{"too little", `"type": "number", "min": 18`, []string{"17"}, int64(17), "min"},
		{"too much", `"type": "number", "max": 2.5`, []string{"3"}, int64(3), "max"},
		{"a date", `"type": "date"`, []string{"2026-02-28"}, "2026-02-28", ""},
		{"a day that never was", `"type": "date"`, []string{"2026-02-30"}, nil, "date"},
		{"too early", `"type": "date", "min": "2026-01-01"`, []string{"2025-12-31"}, "2025-12-31", "earliest"},
		{"too late", `"type": "date", "max": "2026-01-01"`, []string{"2026-01-02"}, "2026-01-02", "latest"},
		{"one of a list", `"type": "select", ` + options, []string{"b"}, "b", ""},
		{"none of a list", `"type": "radio", "required": true, ` + options, nil, nil, "choose_one"},
		{"not of the list", `"type": "select", ` + options, []string{"d"}, nil, "unknown_choice"},
		{"a label for a value", `"type": "select", ` + options, []string{"B"}, nil, "unknown_choice"},
		{"several", `"type": "checkbox", ` + options, []string{"c", "a", "c"}, []any{"c", "a"}, ""},
		{"none of several", `"type": "checkbox", ` + options, nil, []any{}, ""},
		{"none of several that are needed", `"type": "checkbox", "required": true, ` + options, nil, []any{}, "choose_some"},
		{"too few", `"type": "checkbox", "min": 2, ` + options, []string{"a"}, []any{"a"}, "min_choices"},
		{"too many", `"type": "checkbox", "max": 1, ` + options, []string{"a", "b"}, []any{"a", "b"}, "max_choices"},
		{"a box", `"type": "checkbox"`, []string{"yes"}, true, ""},
		{"a box left open", `"type": "checkbox"`, nil, false, ""},
		{"a box with something else in it", `"type": "checkbox"`, []string{"on"}, false, ""},
		{"consent", `"type": "consent", "required": true`, []string{"yes"}, true, ""},
		{"no consent", `"type": "consent", "required": true`, nil, false, "consent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := mustParse(t, one(`{"name": "a", "label": "A"`+strings.TrimSuffix(", "+c.field, ", ")+`}`))
			a := f.Read(form.Typed{"a": c.typed}, scope())
			if diff := cmp.Diff(c.value, a.Values["a"]); diff != "" {
				t.Errorf("the value (-want +got):\n%s", diff)
			}
			wrong := ""
			if len(a.Faults) > 0 {
				wrong = a.Faults[0].Text
			}
			if wrong != c.wrong || len(a.Faults) > 1 {
				t.Errorf("got %v wrong, want %q", a.Faults, c.wrong)
			}
		})
	}
}

// What a condition hides is neither required nor kept, nor is what depends on
// it.
func TestConditionsHide(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `{"fields": [
		{"name": "topic", "label": "Topic", "type": "radio", "options": ["order", "other"]},
		{"name": "order", "label": "Order", "required": true, "show_if": "form.topic == \"order\""},
		{"name": "express", "label": "Express", "type": "checkbox", "show_if": "form.order != nil"},
		{"name": "when", "label": "When", "type": "date", "required": true, "show_if": "form.express"}]}`)
	all := form.Typed{"topic": {"other"}, "order": {"7"}, "express": {"yes"}, "when": {"nonsense"}}
	a := f.Read(all, scope())
	if diff := cmp.Diff(map[string]any{"topic": "other"}, a.Values); diff != "" || len(a.Faults) > 0 {
		t.Errorf("hidden: got %v wrong, and (-want +got):\n%s", a.Faults, diff)
	}
	all["topic"] = []string{"order"}
	a = f.Read(all, scope())
	if len(a.Faults) != 1 || a.Faults[0].Field != "when" || !a.Shown["when"] {
		t.Errorf("shown: got %v wrong, want the date", a.Faults)
	}
}

func TestLanguages(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `{"language": "de", "title": {"de": "Hallo {{ correlation.data.name }}", "en": "Hello {{ correlation.data.name }}", "pt-BR": "Olá"},
		"intro": "Überall gleich",
		"fields": [{"name": "a", "label": {"de": "Farbe", "en": "Colour"}, "type": "select", "options": ["x", {"value": "r", "label": {"de": "rot", "en": "red"}}]}]}`)
	if diff := cmp.Diff([]string{"de", "en", "pt-BR"}, f.Languages()); diff != "" {
		t.Errorf("languages (-want +got):\n%s", diff)
	}
	for language, want := range map[string]string{
		"de": "Hallo Zoë|Überall gleich|Farbe|x,rot", "en-GB": "Hello Zoë|Überall gleich|Colour|x,red", "pt-BR": "Olá|Überall gleich|Farbe|x,rot",
	} {
		field := f.Fields[0]
		var labels []string
		for _, o := range field.Options(language, scope()) {
			labels = append(labels, o.Label)
		}
		got := strings.Join([]string{f.Title(language, scope()), f.Intro(language, scope()), field.Label(language, scope()), strings.Join(labels, ",")}, "|")
		if got != want {
			t.Errorf("%s: got %s, want %s", language, got, want)
		}
	}
	if got := mustParse(t, one(`{"name": "a", "label": "A"}`)).Languages(); len(got) != 0 {
		t.Errorf("a form that says nothing of languages: got %v", got)
	}
	if got := mustParse(t, one(`{"name": "a", "label": {"fr": "A", "en": "B"}}`)).Languages(); got[0] != "en" {
		t.Errorf("got %v, want English first where nothing else is said", got)
	}
}

// A field that nobody has written a label for is asked for by its name.
func TestLabels(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `{"fields": [{"name": "email"}, {"name": "phone", "label": "Call me at"}, {"name": "order", "type": "hidden", "value": 1}]}`)
	for i, want := range []string{"email", "Call me at", ""} {
		if got := f.Fields[i].Label("en", scope()); got != want {
			t.Errorf("%s: got the label %q, want %q", f.Fields[i].Name, got, want)
		}
	}
}

// What stands in the fields at first, and what the relay adds itself.
func TestFirstAndHidden(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `{"fields": [
		{"name": "name", "label": "Name", "value": "{{ correlation.data.name }}"},
		{"name": "topics", "label": "Topics", "type": "checkbox", "options": ["a", "b", "c"], "value": "{{ correlation.data.topics }}"},
		{"name": "news", "label": "News", "type": "consent", "value": "{{ correlation.data.news }}"},
		{"name": "none", "label": "None", "value": "{{ correlation.data.nothing }}"},
		{"name": "off", "label": "Off", "type": "checkbox", "value": false},
		{"name": "order", "type": "hidden", "value": "{{ correlation.key }}"},
		{"name": "n", "type": "hidden", "value": "{{ correlation.data.n }}"}]}`)
	want := form.Typed{"name": {"Zoë"}, "topics": {"a", "b"}, "news": {"yes"}}
	if diff := cmp.Diff(want, f.First(scope())); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}
	a := f.Read(form.Typed{"name": {"Ada"}, "order": {"forged"}, "unknown": {"x"}}, scope())
	body, err := f.Body(a, scope())
	if err != nil {
		t.Fatal(err)
	}
	wantBody := `{"fields":[{"name":"name","label":"Name","value":"Ada"},{"name":"topics","label":"Topics","value":[]},` +
		`{"name":"news","label":"News","value":false},{"name":"off","label":"Off","value":false},{"name":"order","value":"order-7"},{"name":"n","value":5}]}`
	if string(body) != wantBody {
		t.Errorf("got %s, want %s", body, wantBody)
	}
}

// A form survives being stored.
func TestFormRoundTrip(t *testing.T) {
	t.Parallel()
	const text = `{"language":"de","title":{"de":"A","en":"B"},"intro":"C","fields":[{"name":"a","type":"select","label":"A",` +
		`"required":true,"options":["x",{"value":"y","label":{"de":"Y"}}],"show_if":"true"},{"name":"b","type":"number","label":"B","min":1,"max":2.5}]}`
	var def relay.Form
	if err := relay.Decode([]byte(text), &def); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(def)
	if err != nil || string(got) != text {
		t.Errorf("got %s, %v, want %s", got, err, text)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("zoe@example.org", "1,5", "2026-01-01", "a")
	f.Add("=1+1", "\x00", "\xff", "\r\n")
	f.Fuzz(func(t *testing.T, email, number, date, choice string) {
		def := relay.Form{Fields: []relay.FormField{
			{Name: "email", Type: "email", Label: relay.Words{"": "A"}},
			{Name: "number", Type: "number", Label: relay.Words{"": "A"}},
			{Name: "date", Type: "date", Label: relay.Words{"": "A"}},
			{Name: "choice", Type: "checkbox", Label: relay.Words{"": "A"}, Options: []relay.FormOption{{Value: "a"}}},
			{Name: "text", Label: relay.Words{"": "A"}, ShowIf: `form.number > 3`},
		}}
		compiled, err := form.Compile(&def)
		if err != nil {
			t.Fatal(err)
		}
		a := compiled.Read(form.Typed{"email": {email}, "number": {number}, "date": {date}, "choice": {choice, choice}, "text": {email}}, scope())
		body, err := compiled.Body(a, scope())
		if err != nil || !json.Valid(body) {
			t.Errorf("got %q, %v, want JSON", body, err)
		}
	})
}

// No answer goes by the name of another field, be that unanswered or hidden.
func TestLabelsLikeNames(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `{"fields": [{"name": "plan", "type": "hidden", "value": "{{ correlation.data.nothing }}"}, {"name": "email", "label": "Yours"},
		{"name": "other", "label": "E-Mail", "type": "text"}, {"name": "contact", "label": "Email!"}, {"name": "wish", "label": "Plan"}, {"name": "own", "label": "Own"}]}`)
	typed := form.Typed{"other": {"a"}, "contact": {"b"}, "wish": {"pro"}, "own": {"c"}}
	got, err := f.Body(f.Read(typed, scope()), scope())
	want := `{"fields":[{"name":"other","label":"E-Mail","value":"a"},{"name":"contact","value":"b"},{"name":"wish","value":"pro"},{"name":"own","label":"Own","value":"c"}]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

// What stands in a number at first is taken as it stands there.
func TestFirstNumbersAreTaken(t *testing.T) {
	t.Parallel()
	for _, number := range []string{"1.125", "-12.5", "0.125", "999.999", "1000", "5"} {
		f := mustParse(t, one(`{"name": "n", "label": "N", "type": "number", "value": `+number+`}`))
		var want float64
		if err := json.Unmarshal([]byte(number), &want); err != nil {
			t.Fatal(err)
		}
		a := f.Read(f.First(scope()), scope())
		if got := fmt.Sprint(a.Values["n"]); len(a.Faults) > 0 || got != fmt.Sprint(want) {
			t.Errorf("%s: got %s, %v wrong", number, got, a.Faults)
		}
	}
}
