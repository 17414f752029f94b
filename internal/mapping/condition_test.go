package mapping_test

import (
	"encoding/json"
	"strings"
	"testing"

	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

var formFields = []string{"topic", "age", "topics", "news", "date"}

// conditions are cases that the page must decide alike: the browser tests
// play them through templates/form.js too.
var conditions = []struct {
	condition string
	form      map[string]any
	want      bool
}{
	{`form.topic == "other"`, map[string]any{"topic": "other"}, true},
	{`form.topic == "other"`, map[string]any{"topic": "a"}, false},
	{`form.topic == "other"`, nil, false},
	{`form.topic != "other"`, nil, true},
	{`form.topic == nil`, nil, true},
	{`form?.topic == nil`, nil, true},
	{`form.topic in ["a", "b"]`, map[string]any{"topic": "b"}, true},
	{`form.topic not in ["a", "b"]`, map[string]any{"topic": "c"}, true},
	{`"a" in form.topics`, map[string]any{"topics": []any{"a", "b"}}, true},
	{`"a" in form.topics`, map[string]any{"topics": []any{}}, false},
	{`"a" in form.topics`, map[string]any{"topics": "a"}, false},
	{`"a" in form.topics`, nil, false},
	{`form.topics == form.topics`, map[string]any{"topics": []any{"a"}}, false},
	{`form.age >= 18`, map[string]any{"age": int64(18)}, true},
	{`form.age > 18`, map[string]any{"age": int64(18)}, false},
	{`form.age > 17.5`, map[string]any{"age": 18.0}, true},
	{`form.age < 18`, nil, false},
	{`not (form.age < 18)`, nil, true},
	{`form.age < "18"`, map[string]any{"age": int64(1)}, false},
	{`form.age == -1`, map[string]any{"age": int64(-1)}, true},
	{`form.age <= +1`, map[string]any{"age": int64(1)}, true},
	{`form.news`, map[string]any{"news": true}, true},
	{`form.news`, map[string]any{"news": "true"}, false},
	{`!form.news`, nil, true},
	{`form.news and form.age >= 18`, map[string]any{"news": true, "age": int64(20)}, true},
	{`form.news && form.age >= 18`, map[string]any{"news": true}, false},
	{`form.news || form.topic == "a"`, map[string]any{"topic": "a"}, true},
	{`form["topic"] == 'a'`, map[string]any{"topic": "a"}, true},
	{`form.date >= "2026-01-01"`, map[string]any{"date": "2026-05-01"}, true},
	{`true`, nil, true},
	{`form.topic in []`, map[string]any{"topic": "a"}, false},
}

func TestCondition(t *testing.T) {
	t.Parallel()
	for _, c := range conditions {
		t.Run(c.condition, func(t *testing.T) {
			got, err := mapping.CompileCondition(c.condition, formFields)
			if err != nil {
				t.Fatal(err)
			}
			if got.Holds(c.form) != c.want {
				t.Errorf("of %v: got %v, want %v", c.form, !c.want, c.want)
			}
			if raw, err := json.Marshal(got); err != nil || !strings.HasPrefix(string(raw), "[") {
				t.Errorf("got %s, %v for the page, want a list", raw, err)
			}
		})
	}
	got, err := mapping.CompileCondition(` form.age > 3 and form.topic != "x" `, formFields)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(got)
	want := `["and",["\u003c",["is",3],["field","age"]],["not",["=",["field","topic"],["is","x"]]]]`
	if err != nil || string(raw) != want || got.String() != `form.age > 3 and form.topic != "x"` {
		t.Errorf("got %s (%s), %v, want %s", raw, got, err, want)
	}
}

func TestConditionRefused(t *testing.T) {
	t.Parallel()
	for condition, says := range map[string]string{
		``:                      "empty",
		`{{ form.age > 3 }}`:    "without {{",
		`form.`:                 "condition",
		`form.colour == "red"`:  "form.colour is no field above",
		`correlation.key == 1`:  "form.NAME",
		`form == nil`:           "can be compared",
		`len(form.topic) > 3`:   "can be compared",
		`form.topic + "a"`:      "no operator +",
		`-form.age > 3`:         "sign",
		`-[] == 1`:              "sign",
		`-"a" == 1`:             "sign",
		`"a"`:                   "true or false",
		`["a"]`:                 "true or false",
		`form.topic matches ""`: "no operator matches",
		`form.topics[0] == "a"`: "form.NAME",
		`form.news ? 1 : 2`:     "can be compared",
		strings.Repeat("form.news and ", 40) + "form.news":  "more than 64 parts",
		strings.Repeat(" ", 10) + strings.Repeat("a", 5000): "bytes long",
	} {
		_, err := mapping.CompileCondition(condition, formFields)
		if !relay.IsKind(err, relay.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: got %v, want a refusal that says %q", condition, err, says)
		}
	}
}

func FuzzCondition(f *testing.F) {
	for _, c := range conditions {
		f.Add(c.condition)
	}
	f.Add(`-[] < !form.age`)
	f.Fuzz(func(t *testing.T, source string) {
		c, err := mapping.CompileCondition(source, formFields)
		if err != nil {
			return
		}
		c.Holds(map[string]any{"topics": []any{"a", int64(1)}, "age": 1.5, "news": true})
		if _, err := json.Marshal(c); err != nil {
			t.Errorf("%q: %v", source, err)
		}
	})
}
