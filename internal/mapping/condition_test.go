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

// What hidden fields decide is decided before the page sees the condition, and
// nothing else of their values is in it.
func TestConditionGiven(t *testing.T) {
	t.Parallel()
	hidden := []string{"topic", "topics"}
	values := map[string]any{"topic": "secret", "topics": []any{"secret"}, "age": int64(20)}
	for condition, want := range map[string]string{
		`form.topic == "secret"`:                         `["is",true]`,
		`form.topic`:                                     `["is",false]`,
		`not (form.topic == nil) and true`:               `["is",true]`,
		`form.topic == "secret" and form.age == 3`:       `["and",["is",true],["=",["field","age"],["is",3]]]`,
		`form.news or not ("secret" in form.topics)`:     `["or",["field","news"],["is",false]]`,
		`not (form.news and form.topic in ["a", "b"])`:   `["not",["and",["field","news"],["is",false]]]`,
		`form.age == 3 and form.news`:                    `["and",["=",["field","age"],["is",3]],["field","news"]]`,
		`form.topic and form.age == 3 or form.topics`:    `["or",["and",["is",false],["=",["field","age"],["is",3]]],["is",false]]`,
		`form.topic == form.topic and form.news == true`: `["and",["is",true],["=",["field","news"],["is",true]]]`,
	} {
		c, err := mapping.CompileCondition(condition, formFields)
		if err != nil {
			t.Fatal(err)
		}
		if c.Mixes(hidden) {
			t.Errorf("%s: it mixes, want not", condition)
		}
		left := c.Given(hidden, values)
		if raw, err := json.Marshal(left); err != nil || string(raw) != want {
			t.Errorf("%s: got %s, %v, want %s", condition, raw, err, want)
		}
		if left.Holds(values) != c.Holds(values) {
			t.Errorf("%s: it holds before, and not after", condition)
		}
		always, never := left.Decided()
		if always != (want == `["is",true]`) || never != (want == `["is",false]`) {
			t.Errorf("%s: got always %v, never %v of %s", condition, always, never, want)
		}
	}
	for _, condition := range []string{`form.topic == form.date`, `form.news and form.age < form.topic`, `form.date in form.topics`, `form.date in ["a", form.topic]`, `(form.topic == "a") == form.news`} {
		if c, err := mapping.CompileCondition(condition, formFields); err != nil || !c.Mixes(hidden) {
			t.Errorf("%s: got no mixture, %v, want one", condition, err)
		}
	}
}

// Only a hidden field can hold an object. It equals nothing.
func TestConditionOverObjects(t *testing.T) {
	t.Parallel()
	object := map[string]any{"topic": map[string]any{"a": 1.0}, "topics": []any{map[string]any{"a": 1.0}}}
	for condition, want := range map[string]bool{
		`form.topic == form.topic`: false, `form.topic in form.topics`: false, `form.topic != nil`: true, `form.topic == "a"`: false,
	} {
		c, err := mapping.CompileCondition(condition, formFields)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Holds(object); got != want {
			t.Errorf("%s: got %v, want %v", condition, got, want)
		}
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
