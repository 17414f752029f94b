package mapping_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

// paid is the scope of a card payment of 20.50 EUR whose raw event has one of
// everything.
func paid() *mapping.Scope {
	minor, live := int64(2050), true
	return &mapping.Scope{
		Outcome: relay.Completed,
		Payment: &relay.Payment{
			ID: "pi_1", AmountMinor: &minor, Currency: "EUR", Exponent: 2,
			Method: "card", Live: &live,
		},
		Correlation: mapping.Correlation{
			ID: "c-1", Token: "tok", UserID: "u-829", Status: relay.StatusCompleted,
			Data:       map[string]any{"order": map[string]any{"no": int64(1042)}},
			CustomVars: map[string]any{"plan": "pro"},
		},
		Format: relay.FormatJSON,
		Body: []byte(`{"type": "paid", "big": 12345678901234567890, "n": 7, "huge": 1000000.0, "tiny": -0.0,
			"text": "a\"b <c>", "no": null,
			"items": [{"sku": "a", "price": 2}, {"sku": "b", "price": 3.5}], "tags": ["x", "y"]}`),
	}
}

func render(t *testing.T, template any, s *mapping.Scope) (any, []mapping.Note) {
	t.Helper()
	v, err := mapping.CompileValue(template)
	if err != nil {
		t.Fatalf("CompileValue(%v): %v", template, err)
	}
	return v.Render(s)
}

func TestRender(t *testing.T) {
	tests := []struct {
		name     string
		template any
		want     any
	}{
		{"no expression", "hello } {", "hello } {"},
		{"null stays null", nil, nil},
		{"literals become int64 and float64", []any{1, uint8(2), 2.5, true, json.Number("3"), json.Number("1.0")}, []any{int64(1), int64(2), 2.5, true, int64(3), 1.0}},
		{"one expression keeps a float", "{{ payment.amount }}", 20.5},
		{"one expression keeps an integer", "{{ payment.amount_minor }}", int64(2050)},
		{"one expression keeps a boolean", "{{ payment.live }}", true},
		{"one expression keeps an object", "{{ correlation.data }}", map[string]any{"order": map[string]any{"no": int64(1042)}}},
		{"one expression keeps a list", "{{ event.tags }}", []any{"x", "y"}},
		{"a space makes it text", " {{ payment.amount_minor }}", " 2050"},
		{"exact amount", "{{ payment.amount_text }} {{ payment.currency }}", "20.50 EUR"},
		{"two next to each other", "{{ outcome }}{{ payment.live }}", "completedtrue"},
		{"null in text is nothing", "<{{ payment.email }}>", "<>"},
		{"object in text is JSON", "v={{ event.items[0] }}", `v={"price":2,"sku":"a"}`},
		{"no HTML escapes", "v={{ [event.text] }}", `v=["a\"b <c>"]`},
		{"no exponent", "{{ event.huge }}/{{ event.big }}", "1000000/12345678901234567000"},
		{"no exponent from string()", `{{ string(event.huge) + "!" }}`, "1000000!"},
		{"no minus before zero", "is {{ event.tiny }}", "is 0"},
		{"int of the library becomes int64", "{{ len(event.items) + 1 }}", int64(3)},
		{"braces in quotes", `{{ "}}" + '{{' }}`, "}}{{"},
		{"escaped quote", `{{ "\"}}" }}`, `"}}`},
		{"a map inside", `{{ {"a": {"b": 1}} }}`, map[string]any{"a": map[string]any{"b": int64(1)}}},
		{"number literals as a list", `{{ [1, 2] }}`, []any{int64(1), int64(2)}},
		{"default for null", `{{ payment.email ?? "none" }}`, "none"},
		{"default for a null form", `{{ form.email ?? "none" }}`, "none"},
		{"condition", `{{ payment.amount > 20 ? "big" : "small" }}`, "big"},
		{"money in one compare", `{{ payment.amount == 20.5 and payment.amount_minor == 2050 }}`, true},
		{"arithmetic", `{{ payment.amount * 2 }}`, 41.0},
		{"find in a list", `{{ find(event.items, .sku == "b").price }}`, 3.5},
		{"sum of a list", `{{ sum(event.items, .price) }}`, 5.5},
		{"filter a list", `{{ len(filter(event.items, .price > 3)) }}`, int64(1)},
		{"join", `{{ join(event.tags, ", ") }}`, "x, y"},
		{"split and join", `{{ join(split("a-b", "-"), "+") }}`, "a+b"},
		{"replace", `{{ replace(event.type, "a", "o") }}`, "poid"},
		{"pipe", `{{ event.type | upper() | trimPrefix("P") }}`, "AID"},
		{"literal pattern", `{{ event.type matches "^p" }}`, true},
		{"nested value", map[string]any{"a": []any{"{{ outcome }}", 1}, "b": map[string]any{}}, map[string]any{"a": []any{"completed", int64(1)}, "b": map[string]any{}}},
		{"custom vars", "{{ correlation.custom_vars.plan }}", "pro"},
		{"no method can be reached", `{{ outcome == "completed" }}`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _ := render(t, tt.template, paid())
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Render (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderNotesWhatIsMissing(t *testing.T) {
	tests := []struct {
		name     string
		template any
		want     any
		notes    []mapping.Note
	}{
		{"null field", "{{ payment.email }}", nil, []mapping.Note{{Expression: "payment.email", Reason: "has no value"}}},
		{"unknown path", "{{ event.a.b[3].c }}", nil, []mapping.Note{{Expression: "event.a.b[3].c", Reason: "has no value"}}},
		{"in a text", "hi {{form.name}}!", "hi !", []mapping.Note{{Expression: "form.name", Reason: "has no value"}}},
		{"not finite", "{{ 1 / 0 }}", nil, []mapping.Note{{Expression: "1 / 0", Reason: "is not a finite number"}}},
		{"beyond a list", "{{ event.tags[9] }}", nil, []mapping.Note{{
			Expression: "event.tags[9]",
			Reason:     "cannot be computed: index out of range: 9 (array length is 2)",
		}}},
		{
			"by the names of fields",
			map[string]any{"b": "{{ form.b }}", "a": "{{ form.a }}"},
			map[string]any{"a": nil, "b": nil},
			[]mapping.Note{{Expression: "form.a", Reason: "has no value"}, {Expression: "form.b", Reason: "has no value"}},
		},
		{"present values are not noted", "{{ outcome }}", "completed", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, notes := render(t, tt.template, paid())
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Render (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.notes, notes); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderWithoutPayment(t *testing.T) {
	s := &mapping.Scope{Form: map[string]any{"email": "a@b.example"}, Format: relay.FormatForm}
	template := map[string]any{
		"payment": "{{ payment }}",
		"amount":  "{{ payment.amount }}",
		"is_null": "{{ payment == nil }}",
		"email":   "{{ form.email }}",
		"event":   "{{ event.email }}",
		"outcome": "[{{ outcome }}]",
	}
	got, _ := render(t, template, s)
	want := map[string]any{
		"payment": nil, "amount": nil, "is_null": true,
		"email": "a@b.example", "event": "a@b.example", "outcome": "[]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Render (-want +got):\n%s", diff)
	}
}

// A whole name and its fields one by one must be the same thing.
func TestWholeNamesHaveAllTheirFields(t *testing.T) {
	got, _ := render(t, map[string]any{"p": "{{ payment }}", "c": "{{ correlation }}"}, paid())
	want := map[string]any{
		"p": map[string]any{
			"id": "pi_1", "amount": 20.5, "amount_text": "20.50", "amount_minor": int64(2050), "currency": "EUR",
			"method": "card", "email": nil, "live": true, "account": nil,
		},
		"c": map[string]any{
			"id": "c-1", "token": "tok", "user_id": "u-829", "conversation": nil, "flow": nil, "key": nil,
			"locale": nil, "status": "completed", "custom_vars": map[string]any{"plan": "pro"},
			"data": map[string]any{"order": map[string]any{"no": int64(1042)}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Render (-want +got):\n%s", diff)
	}
}

func TestCompileValueRefuses(t *testing.T) {
	deep := any("x")
	for range mapping.MaxNesting + 1 {
		deep = []any{deep}
	}
	many := make([]any, mapping.MaxExpressions+1)
	for i := range many {
		many[i] = "{{ outcome }}"
	}
	tests := []struct {
		name     string
		template any
		want     string // a part of the error
	}{
		{"unknown name", "{{ paymnt.amount }}", "unknown name paymnt: there are outcome, payment, form, correlation, event"},
		{"unknown payment field", "{{ payment.amout }}", "payment has no field amout: there are id, amount, amount_text"},
		{"unknown field in brackets", `{{ payment["amout"] }}`, "payment has no field amout"},
		{"unknown correlation field", "{{ correlation.user }}", "correlation has no field user: there are id, token"},
		{"which place", map[string]any{"a": []any{"x", "{{ nope }}"}}, `a.1: expression "nope", character 1`},
		{"which character", "{{ 1 + nope }}", `expression "1 + nope", character 5`},
		{"unknown function", "{{ nope(1) }}", "unknown function nope: there are abs, all"},
		{"a clock", "{{ now() }}", "unknown function now"},
		{"random order", "{{ keys(form) }}", "unknown function keys"},
		{"endless growth", `{{ repeat("a", 1000000) }}`, "unknown function repeat"},
		{"syntax", "{{ payment. }}", "unexpected end of expression"},
		{"types", `{{ outcome - 1 }}`, "mismatched types"},
		{"unclosed", "pay {{ payment.amount }", "{{ at character 5 is never closed"},
		{"unclosed quote", `{{ "a }}`, "never closed"},
		{"empty", "{{ }}", "an expression is empty"},
		{"variables", "{{ let a = 1; a + a }}", "variables and sequences are not available"},
		{"ranges", "{{ 1..9 }}", "ranges are not available"},
		{"loop in a loop", "{{ any(event.a, any(event.b, # == 1)) }}", "inside the walk of another"},
		{"too many loops", "{{ [" + strings.Repeat("any(event.a, true), ", mapping.MaxListPasses+1) + "1] }}", "may walk 4 lists"},
		{"pattern from outside", "{{ outcome matches form.pattern }}", "must be a string in quotes"},
		{"the whole environment", `{{ $env["event"] }}`, "unknown name $env"},
		{"method call", `{{ event.x() }}`, "only functions can be called"},
		{"too many nodes", "{{ 0" + strings.Repeat("+outcome", mapping.MaxNodes) + " }}", "nodes"},
		{"long expression", "{{ " + strings.Repeat(" ", 10) + `"` + strings.Repeat("a", mapping.MaxExpression) + `" }}`, "may be 4096 bytes long"},
		{"long template", "{{ outcome }}" + strings.Repeat("a", mapping.MaxTemplate), "may be 16384 bytes long"},
		{"too deep", deep, "nested 32 deep"},
		{"too many expressions", many, "more than 256 expressions"},
		{"no such type", struct{}{}, "a value of type struct {} cannot be sent"},
		{"no such number", json.Number("1e999"), "1e999 is not a number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := mapping.CompileValue(tt.template)
			var refusal *relay.Error
			if !errors.As(err, &refusal) {
				t.Fatalf("CompileValue: got error %v, want a *relay.Error", err)
			}
			if refusal.Kind != relay.Invalid || refusal.Code != "expression_invalid" {
				t.Errorf("got kind %d and code %q, want Invalid and expression_invalid", refusal.Kind, refusal.Code)
			}
			if !strings.Contains(refusal.Detail, tt.want) {
				t.Errorf("got %q, want it to hold %q", refusal.Detail, tt.want)
			}
			if strings.Contains(refusal.Detail, "\n") {
				t.Errorf("got several lines, want one: %q", refusal.Detail)
			}
		})
	}
}

func TestOutputIsBounded(t *testing.T) {
	half := strings.Repeat("x", mapping.MaxOutput/2)
	s := &mapping.Scope{Form: map[string]any{"half": half, "bytes": "\xff"}}
	nested := any("x")
	for range mapping.MaxNesting + 2 {
		nested = []any{nested}
	}
	s.Correlation.Data = nested

	tests := []struct {
		name     string
		template any
		reason   string
	}{
		{"many values", []any{"{{ form.half }}", "{{ form.half }}", "{{ form.half }}"}, "gives more than 1048576 bytes"},
		{"one text", "{{ form.half + form.half + form.half }}", "gives more than 1048576 bytes"},
		{"replace", `{{ replace(form.half, "x", "yyy") }}`, "cannot be computed: gives more than 1048576 bytes"},
		{"join", `{{ join(split(form.half, ""), "yyy") }}`, "cannot be computed: gives more than 1048576 bytes"},
		{"nesting", "{{ correlation.data }}", "is nested more than 32 deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, notes := render(t, tt.template, s)
			if len(notes) == 0 || notes[len(notes)-1].Reason != tt.reason {
				t.Errorf("got notes %v, want the last to say %q", notes, tt.reason)
			}
		})
	}

	t.Run("invalid UTF-8", func(t *testing.T) {
		if got, _ := render(t, "{{ form.bytes }}", s); got != "\uFFFD" {
			t.Errorf("got %q, want the replacement character", got)
		}
	})
}

func TestUsesEvent(t *testing.T) {
	for template, want := range map[string]bool{
		"{{ payment.amount }}":      false,
		"{{ event.type }}":          true,
		"x {{ upper(event.type) }}": true,
		`{{ "event" }}`:             false,
		"{{ form.event }}":          false,
	} {
		v, err := mapping.CompileValue([]any{template})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.UsesEvent(); got != want {
			t.Errorf("UsesEvent of %s: got %t, want %t", template, got, want)
		}
	}
}

// What nobody looks at is not decoded: the body here would be null.
func TestEventIsDecodedOnlyWhenLookedAt(t *testing.T) {
	s := &mapping.Scope{Format: relay.FormatText, Body: []byte("first")}
	render(t, "{{ outcome }}", s)
	s.Body = []byte("second")
	if got, _ := render(t, "{{ event }}", s); got != "second" {
		t.Errorf("got %v, want the body as it was when an expression first looked at it", got)
	}
}

func TestRenderIsTheSameEveryTime(t *testing.T) {
	v, err := mapping.CompileValue(map[string]any{
		"a": "{{ event }}", "b": "{{ correlation }} {{ event.items }}", "c": "{{ nil }}",
	})
	if err != nil {
		t.Fatal(err)
	}
	once := func() string {
		out, notes := v.Render(paid())
		b, err := json.Marshal([]any{out, notes})
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	want := once()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if got := once(); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		})
	}
	wg.Wait()
}

// What a render returns is the caller's: changing it changes nothing else.
func TestRenderedValuesAreCopies(t *testing.T) {
	s := paid()
	v, err := mapping.CompileValue(map[string]any{"vars": "{{ correlation.custom_vars }}", "fixed": map[string]any{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := v.Render(s)
	for _, m := range first.(map[string]any) {
		clear(m.(map[string]any))
	}
	got, _ := v.Render(s)
	want := map[string]any{"vars": map[string]any{"plan": "pro"}, "fixed": map[string]any{"k": "v"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("second Render (-want +got):\n%s", diff)
	}
}

func TestText(t *testing.T) {
	tests := []struct {
		value any
		want  string
	}{
		{nil, ""},
		{"a", "a"},
		{true, "true"},
		{int64(-5), "-5"},
		{20.5, "20.5"},
		{1e21, "1000000000000000000000"},
		{map[string]any{"b": "<", "a": nil}, `{"a":null,"b":"<"}`},
	}
	for _, tt := range tests {
		if got := mapping.Text(tt.value); got != tt.want {
			t.Errorf("Text(%v): got %q, want %q", tt.value, got, tt.want)
		}
	}
}

func FuzzRender(f *testing.F) {
	for _, seed := range []string{
		"{{ payment.amount }}", "{{ event.items[0].sku }} x", `{{ find(event.items, .sku == "b") }}`,
		"{{", `{{ "}}" }}`, "{{ {a: 1} }}", "{{ event.tags[0:1] }}", "{{ form?.x ?? correlation }}", "{{ -(1/0) }}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, template string) {
		v, err := mapping.CompileValue(template)
		if err != nil {
			return
		}
		got, _ := v.Render(paid())
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("rendering %q: %v", template, err)
		}
	})
}

func BenchmarkRenderThreeVars(b *testing.B) {
	v, err := mapping.CompileValue(map[string]any{
		"amount":   "{{ payment.amount }}",
		"currency": "{{ payment.currency }}",
		"text":     "Paid {{ payment.amount_text }} for {{ correlation.custom_vars.plan }}",
	})
	if err != nil {
		b.Fatal(err)
	}
	s := paid()
	b.ReportAllocs()
	for b.Loop() {
		fresh := mapping.Scope{Outcome: s.Outcome, Payment: s.Payment, Correlation: s.Correlation}
		if _, notes := v.Render(&fresh); len(notes) > 0 {
			b.Fatal(notes)
		}
	}
}

func BenchmarkRenderFromEvent(b *testing.B) {
	v, err := mapping.CompileValue(`{{ event.items[1].sku }}`)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if got, notes := v.Render(paid()); got != "b" {
			b.Fatal(got, notes)
		}
	}
}

func ExampleValue_Render() {
	v, err := mapping.CompileValue(map[string]any{"paid": "{{ payment.amount }}", "by": "card of {{ form.name }}"})
	if err != nil {
		fmt.Println(err)
		return
	}
	minor := int64(2050)
	out, notes := v.Render(&mapping.Scope{
		Payment: &relay.Payment{AmountMinor: &minor, Currency: "EUR", Exponent: 2},
	})
	fmt.Println(out, notes)
	// Output: map[by:card of  paid:20.5] [{form.name has no value}]
}
