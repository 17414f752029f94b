package relay_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
)

// body is an object as the relay's own are: with fields inside fields.
type body struct {
	relay.Flow
	Name  string          `json:"name"`
	Count int             `json:"count"`
	Any   any             `json:"any"`
	Raw   json.RawMessage `json:"raw"`
	List  []relay.Action  `json:"list"`
	Wait  relay.Delay     `json:"wait"`
	Sum   json.Number     `json:"sum"`
}

func TestDecode(t *testing.T) {
	t.Parallel()
	var got body
	err := relay.Decode([]byte(` {"name":"a","count":2,"sum":20.50,"any":{"X":[1,null]},"raw":{"b":1},"source":"stripe","expires_in":"45m","processing_for":null,
		"link":{"stripe":"https://a.example"},"on":{"completed":{"module_id":5,"fallback":{"text":"t"}}},"expect":null} `), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := body{
		Flow: relay.Flow{
			Source: relay.Names{"stripe"}, ExpiresIn: 45 * 60e9, Link: relay.Links{BySource: map[string]string{"stripe": "https://a.example"}},
			On: map[string]relay.Action{"completed": {ModuleID: 5.0, Fallback: &relay.Action{Text: "t"}}},
		},
		Name: "a", Count: 2, Sum: "20.50", Any: map[string]any{"X": []any{1.0, nil}}, Raw: json.RawMessage(`{"b":1}`),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`[`, 65) + strings.Repeat(`]`, 65)
	for _, test := range []struct {
		name, in string
		kind     relay.Kind
		code     string
		detail   string // part of it
	}{
		{"nothing", ``, relay.Malformed, "malformed_json", "is empty"},
		{"blank", `  `, relay.Malformed, "malformed_json", "is empty"},
		{"cut off", `{"name":"a`, relay.Malformed, "malformed_json", ""},
		{"cut off after a value", `{"name":"a"`, relay.Malformed, "malformed_json", "ends before"},
		{"no JSON", `{name: a}`, relay.Malformed, "malformed_json", "not JSON"},
		{"a comma too many", `{"name":"a",}`, relay.Malformed, "malformed_json", ""},
		{"two values", `{} {}`, relay.Malformed, "trailing_data", "send one value"},
		{"a value and rubbish", `{} x`, relay.Malformed, "trailing_data", "send one value"},
		{"a key twice", `{"name":"a","name":"b"}`, relay.Malformed, "duplicate_key", "name: "},
		{"a key twice, deeper", `{"any":[{"b":1},{"b":1,"c":2,"b":3}]}`, relay.Malformed, "duplicate_key", "any[1].b: "},
		{"a key twice where the type reads itself", `{"link":{"a":"x","a":"y"}}`, relay.Malformed, "duplicate_key", "link.a: "},
		{"a key twice in raw JSON", `{"raw":{"b":1,"b":2}}`, relay.Malformed, "duplicate_key", "raw.b: "},
		{"too deep", `{"any":` + deep + `}`, relay.Malformed, "too_deep", "64"},
		{"too deep in raw JSON", `{"raw":` + deep + `}`, relay.Malformed, "too_deep", "64"},
		{"unknown field", `{"nme":"a"}`, relay.Invalid, "unknown_field", "nme: there is no such field here: remove it"},
		{"unknown field, deeper", `{"on":{"completed":{"modul_id":5}}}`, relay.Invalid, "unknown_field", "on.completed.modul_id: "},
		{"unknown field in a list", `{"list":[{},{"fallback":{"txt":"a"}}]}`, relay.Invalid, "unknown_field", "list[1].fallback.txt: "},
		{"another case", `{"Name":"a"}`, relay.Invalid, "unknown_field", "Name: "},
		{"another case besides the right one", `{"name":"a","NAME":"b"}`, relay.Invalid, "unknown_field", "NAME: "},
		{"a field that JSON does not show", `{"CreatedAt":"x"}`, relay.Invalid, "unknown_field", "CreatedAt: "},
		{"wrong type", `{"count":"2"}`, relay.Invalid, "wrong_type", "count: "},
		{"wrong type, deeper", `{"on":{"completed":{"text":5}}}`, relay.Invalid, "wrong_type", "on.completed.text: a JSON number does not go here: want a string"},
		{"wrong type, of an embedded field", `{"on_conflict":true}`, relay.Invalid, "wrong_type", "on_conflict: a JSON bool"},
		{"wrong type, in a list", `{"list":[{},[]]}`, relay.Invalid, "wrong_type", "list[1]: a JSON array does not go here: want an object"},
		{"a fraction", `{"count":2.5}`, relay.Invalid, "wrong_type", "count: a JSON number 2.5 does not go here: want a whole number"},
		{"an object for a number", `{"sum":{}}`, relay.Invalid, "wrong_type", "sum: a JSON object does not go here: want a number"},
		{"no number", `{"sum":true}`, relay.Invalid, "wrong_type", "sum: a JSON bool does not go here: want a number"},
		{"not an object", `[1]`, relay.Invalid, "wrong_type", "the body: a JSON array does not go here: want an object"},
		{"no duration", `{"processing_for":"soon"}`, relay.Invalid, "invalid_duration", `processing_for: "soon" is not a duration: write it like`},
		{"a duration as a number", `{"retry_for":5}`, relay.Invalid, "invalid_duration", "retry_for: write it like 90s, 45m, 36h or 3d"},
		{"a duration as true", `{"expires_in":true}`, relay.Invalid, "invalid_duration", "expires_in: write it like"},
		{"a delay as a number", `{"wait":5}`, relay.Invalid, "invalid_duration", "wait: write it like"},
		{"no names", `{"source":5}`, relay.Invalid, "wrong_type", "source: want a name or a list of names"},
		{"no name in a list", `{"source":[5]}`, relay.Invalid, "wrong_type", "source: want a name or a list of names"},
		{"no links", `{"link":["a"]}`, relay.Invalid, "wrong_type", "link: want a link"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var into body
			err := relay.Decode([]byte(test.in), &into)
			var got *relay.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a refusal %s", err, test.code)
			}
			if got.Kind != test.kind || got.Code != test.code || !strings.Contains(got.Detail, test.detail) || strings.Contains(got.Detail, ": the body") {
				t.Errorf("got kind %d, %s: %s; want kind %d, %s with %q", got.Kind, got.Code, got.Detail, test.kind, test.code, test.detail)
			}
		})
	}
	if err := relay.Decode([]byte(`{"any":`+deep[1:len(deep)-1]+`}`), &body{}); !errors.As(err, new(*relay.Error)) {
		t.Errorf("64 levels inside an object: got %v, want a refusal", err)
	}
	if err := relay.Decode([]byte(`{"any":`+deep[2:len(deep)-2]+`}`), &body{}); err != nil {
		t.Errorf("64 levels in all: got %v, want none", err)
	}
}

// FuzzDecode holds that Decode never panics, refuses with an Error alone, and
// takes nothing that it could not have read back.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `{"name":"a"}`, `{"on":{"completed":{"module_id":1}}}`, `{"source":["a","b"]}`, `{"link":{"a":"b"}}`,
		`{"expires_in":"3d"}`, `{"a":1,"a":2}`, `[[[[`, "{\"name\":\"\xff\"}", `{"any":{"\u0000":1}}`, `{"raw": [1,2]}`, `{}{}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var into body
		err := relay.Decode(raw, &into)
		if err != nil {
			if !errors.As(err, new(*relay.Error)) {
				t.Fatalf("%q: got %v, want an Error", raw, err)
			}
			return
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&body{}); err != nil {
			t.Fatalf("%q was taken, and encoding/json refuses it: %v", raw, err)
		}
	})
}

// TestAt holds that a place is told once: what the decoder called the body
// stands at the place that its caller knows.
func TestAt(t *testing.T) {
	t.Parallel()
	err := relay.At("destinations[0]", relay.Decode([]byte(`5`), &body{}))
	if got, want := relay.DetailOf(err), "destinations[0]: a JSON number does not go here: want an object"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := relay.DetailOf(errors.New("plain")), "plain"; got != want {
		t.Errorf("an error without a code: got %q, want %q", got, want)
	}
}
