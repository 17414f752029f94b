package provider_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"relay.example/relay/internal/provider"
)

func presetSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(provider.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("preset.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("preset.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// asJSON reads YAML as a JSON Schema sees it.
func asJSON(t *testing.T, text []byte) any {
	t.Helper()
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestPresetsFollowTheSchema(t *testing.T) {
	schema := presetSchema(t)
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		if err := schema.Validate(asJSON(t, []byte(p.Text))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := schema.Validate(asJSON(t, []byte(inline))); err != nil {
		t.Errorf("the inline preset: %v", err)
	}
}

// TestSchemaKnowsEveryField holds the schema against what is read of a preset.
func TestSchemaKnowsEveryField(t *testing.T) {
	rows, err := provider.SchemaRows()
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for row := range strings.Lines(rows) {
		if path, _, ok := strings.Cut(strings.TrimPrefix(row, "| `"), "` | "); ok {
			documented = append(documented, path)
		}
	}
	slices.Sort(documented)
	if diff := cmp.Diff(provider.SpecFields(), documented); diff != "" {
		t.Errorf("fields (-read +in the schema):\n%s", diff)
	}
}

// everyField is a preset in which each section stands once.
const everyField = `name: every
title: Every
proof: a signature
setup: [one]
limits: [two]
events: [three]
callback_by_url: true
live: true
link: query:token
respond: {status: 204, body: "", reject: 498}
handshake: [{method: POST, body: "ping=#"}]
auth:
  alg: hmac-sha256
  sig: {from: "header:X-Sig", list: ",", pair: "=", key: v1, prefix: "x", prefix_optional: true}
  enc: base64
  key: {enc: base64, strip: whsec_}
  message: ["{sig.t}.{body}"]
  partial: true
  time: {value: "{sig.t}", unit: ms}
secret: {not_prefix: sk_, because: a reason, is: text, begins: whsec_}
body: fields
id: "{form:id}"
type: ["{form:type}"]
outcome: [{type: a, last_word: [a], if: {"form:b": [1, true, null]}, is: completed}]
correlation: ["form:token"]
references: [{kind: payment, from: "{form:p}", prefix: [p_]}]
payment: {if: {"form:p": [x]}, id: "{form:p}", amount: "{form:a}", exponents: {ISK: 2}}
form:
  from: form:raw
  prefix: q#_
  name: a
  label: b
  value: [c]
  labels: {in: d, id: e, text: f, by: g}
  texts: {in: d, id: e, text: f}
ask:
  api: https://api.example.com
  own_account: true
  headers: {X-Version: "1"}
  event: {about: payment, unless: x, at_once: [a], after: 30s, path: "/p/{id}", correlation: ["json:a"], references: [{kind: payment, from: "{json:p}"}]}
  wait: {about: payment, prefix: p_, path: "/p/{id}", if: {"json:s": [done]}, as: '{"data": {answer}}'}
  fetch: {types: [b], about: payment, path: "/p/{form:s}/{id}", if: {"json:s": [done]}, as: '{"id": {event.id}, "data": {answer}}', url: "json:data.hook"}
  completed_before: ["{json:id}"]
`

// TestApplyRefusesWhatTheSchemaRefuses changes a preset in every place: what
// the schema does not let pass, Parse does not take either, so that a preset
// that an editor marks is refused when it is applied.
func TestApplyRefusesWhatTheSchemaRefuses(t *testing.T) {
	schema := presetSchema(t)
	if err := schema.Validate(asJSON(t, []byte(everyField))); err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Parse([]byte(everyField)); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for path := range places(asJSON(t, []byte(everyField)), nil) {
		for _, with := range []any{[]any{map[string]any{"a": "b"}}, map[string]any{"unknown": true}, "?", json.Number("7"), []any{}} {
			changed := replaced(asJSON(t, []byte(everyField)), path, with)
			if schema.Validate(changed) == nil {
				continue
			}
			refused++
			raw, err := json.Marshal(changed)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := provider.Parse(raw); err == nil {
				t.Errorf("%v with %v in its place: the schema refuses it, and Parse takes it", path, with)
			}
		}
	}
	if refused < 200 {
		t.Errorf("got %d changes that the schema refuses, want many", refused)
	}
}

// places yields the path to each value in a document.
func places(doc any, path []any) func(yield func([]any) bool) {
	return func(yield func([]any) bool) {
		var walk func(doc any, path []any) bool
		walk = func(doc any, path []any) bool {
			if len(path) > 0 && !yield(slices.Clone(path)) {
				return false
			}
			switch doc := doc.(type) {
			case map[string]any:
				for key, member := range doc {
					if !walk(member, append(path, key)) {
						return false
					}
				}
			case []any:
				for i, element := range doc {
					if !walk(element, append(path, i)) {
						return false
					}
				}
			}
			return true
		}
		walk(doc, path)
	}
}

// replaced returns a document with another value at a path.
func replaced(doc any, path []any, with any) any {
	if len(path) == 0 {
		return with
	}
	switch key := path[0].(type) {
	case string:
		if m, ok := doc.(map[string]any); ok {
			m[key] = replaced(m[key], path[1:], with)
		}
	case int:
		if a, ok := doc.([]any); ok {
			a[key] = replaced(a[key], path[1:], with)
		}
	default:
		panic(fmt.Sprintf("a path holds %T", key))
	}
	return doc
}
