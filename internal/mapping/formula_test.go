package mapping_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/mapping"
)

func TestOutboundMarksFormulas(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"=1+1": "'=1+1", `=HYPERLINK("https://evil.example","x")`: `'=HYPERLINK("https://evil.example","x")`,
		"+1+cmd|' /C calc'!A0": "'+1+cmd|' /C calc'!A0", "-2+3": "'-2+3", "@SUM(1)": "'@SUM(1)", "\t=1": "'\t=1", "\r=1": "'\r=1", "＝1": "'＝1",
		"- none": "'- none", "-x": "'-x",
		"+49 30 1234567": "+49 30 1234567", "+1 (555) 010-9999": "+1 (555) 010-9999", "-5": "-5", "-2.50": "-2.50", "+": "+", "-": "-",
		"@zoe.b": "@zoe.b", "": "", "Zoë": "Zoë", "a=b": "a=b", "'=1": "'=1", "1-2": "1-2",
	} {
		s := &mapping.Scope{Form: map[string]any{"a": typed, "list": []any{typed, 1.5}, "object": map[string]any{"b": typed}, "n": int64(-5)}}
		v, err := mapping.CompileValue(map[string]any{"a": "{{ form.a }}", "text": "got {{ form.a }}", "list": "{{ form.list }}", "b": "{{ form.object.b }}", "n": "{{ form.n }}"})
		if err != nil {
			t.Fatal(err)
		}
		before, _ := v.Render(s)
		got, _ := v.Render(s.Outbound())
		wantAll := map[string]any{"a": want, "text": "got " + want, "list": []any{want, 1.5}, "b": want, "n": int64(-5)}
		if diff := cmp.Diff(wantAll, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", typed, diff)
		}
		after, _ := v.Render(s)
		if diff := cmp.Diff(before, after); diff != "" || s.Form["a"] != typed {
			t.Errorf("%q: what is kept has changed:\n%s", typed, diff)
		}
	}
}
