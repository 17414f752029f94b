package mapping_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

func TestDecodeEvent(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	form := map[string]any{"a": "1"}
	tests := []struct {
		name   string
		format relay.Format
		body   string
		want   any
	}{
		{"integers", relay.FormatJSON, `[1, -1, 9223372036854775807]`, []any{int64(1), int64(-1), int64(9223372036854775807)}},
		{"beyond int64", relay.FormatJSON, `9223372036854775808`, 9223372036854775808.0},
		{"fractions", relay.FormatJSON, `[1.0, 1e3, 20.5]`, []any{1.0, 1000.0, 20.5}},
		{"beyond float64", relay.FormatJSON, `[1e999]`, []any{nil}},
		{"the first of two keys", relay.FormatJSON, `{"a": 1, "b": {"c": 1, "c": 2}, "a": 2}`, map[string]any{"a": int64(1), "b": map[string]any{"c": int64(1)}}},
		{"a first null counts", relay.FormatJSON, `{"a": null, "a": 2}`, map[string]any{"a": nil}},
		{"scalars", relay.FormatJSON, `[true, null, "x", {}, []]`, []any{true, nil, "x", map[string]any{}, []any{}}},
		{"broken", relay.FormatJSON, `{"a": 1`, nil},
		{"trailing", relay.FormatJSON, `{} {}`, nil},
		{"empty", relay.FormatJSON, ``, nil},
		{"too deep", relay.FormatJSON, nested(mapping.MaxEventNesting + 1), nil},
		{"form", relay.FormatForm, `a=1`, form},
		{"text", relay.FormatText, `a=1`, "a=1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := mapping.DecodeEvent(tt.format, []byte(tt.body), form)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("DecodeEvent (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("as deep as allowed", func(t *testing.T) {
		if mapping.DecodeEvent(relay.FormatJSON, []byte(nested(mapping.MaxEventNesting)), nil) == nil {
			t.Error("got null, want the value")
		}
	})
	t.Run("no form", func(t *testing.T) {
		if got := mapping.DecodeEvent(relay.FormatForm, nil, nil); got != nil {
			t.Errorf("got %v, want null", got)
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(`{"a": [1, 2.5, "x", null], "a": {}}`))
	f.Add([]byte(`[[[[[1e400]]]]]`))
	f.Fuzz(func(_ *testing.T, body []byte) {
		mapping.DecodeEvent(relay.FormatJSON, body, nil)
	})
}
