package mapping_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/relay"
)

func TestGuardHolds(t *testing.T) {
	for source, want := range map[string]bool{
		`payment.method != "voucher"`:                             true,
		`payment.amount >= 20.5 && payment.currency == "EUR"`:     true,
		`payment.amount_minor < 2050`:                             false,
		`payment == nil`:                                          false,
		`payment.email == nil`:                                    true,
		`event.a.b == "x"`:                                        false,
		`outcome in ["completed", "failed"]`:                      true,
		`correlation.data.order.no == 1042`:                       true,
		`any(event.items, .sku == "b") and not payment.live`:      false,
		`payment.live`:                                            true,
		`(form.agree ?? false) or event.type startsWith "pa"`:     true,
		`payment.amount == 20.5 and payment.amount_text=="20.50"`: true,
	} {
		g, err := mapping.CompileGuard(source)
		if err != nil {
			t.Errorf("CompileGuard(%s): %v", source, err)
			continue
		}
		got, err := g.Holds(paid())
		if err != nil || got != want {
			t.Errorf("%s: got %t and error %v, want %t", source, got, err, want)
		}
	}
}

func TestGuardThatCannotBeDecided(t *testing.T) {
	tests := []struct{ name, source, want string }{
		{"null", "form.agree", "gives null, neither true nor false"},
		{"a text", "event.type", "gives a text, neither true nor false"},
		{"compares null", "event.missing > 1", "cannot be decided"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := mapping.CompileGuard(tt.source)
			if err != nil {
				t.Fatal(err)
			}
			holds, err := g.Holds(paid())
			if holds || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %t and error %v, want false and %q", holds, err, tt.want)
			}
		})
	}
}

func TestCompileGuardRefuses(t *testing.T) {
	tests := []struct{ name, source, want string }{
		{"a number", "1 + 1", "gives int: it must be true or false"},
		{"a text", "outcome", "gives string: it must be true or false"},
		{"braces", "{{ payment.live }}", "without {{ and }}"},
		{"empty", " ", "an expression is empty"},
		{"a typing mistake", "payment.methd == 1", "payment has no field methd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := mapping.CompileGuard(tt.source)
			if !relay.IsKind(err, relay.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want Invalid and %q", err, tt.want)
			}
		})
	}
}

func TestGuardUsesEvent(t *testing.T) {
	for source, want := range map[string]bool{"event.ok": true, "payment.live": false} {
		g, err := mapping.CompileGuard(source)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.UsesEvent(); got != want {
			t.Errorf("UsesEvent of %s: got %t, want %t", source, got, want)
		}
	}
}

func TestGuardSees(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, tt := range []struct {
		source string
		want   []mapping.Seen
	}{
		{`payment.currency == "EUR"`, []mapping.Seen{{Name: "payment.currency", Value: "EUR"}}},
		{`payment.live and payment.amount > 1 and payment.live`, []mapping.Seen{{Name: "payment.live", Value: true}, {Name: "payment.amount", Value: 20.5}}},
		{`event.missing.deep > 1`, []mapping.Seen{{Name: "event.missing.deep", Value: nil}}},
		{`event.items[1].sku == "b"`, []mapping.Seen{{Name: "event.items[1].sku", Value: "b"}}},
		{`event["a-b"] == nil`, []mapping.Seen{{Name: `event["a-b"]`, Value: nil}}},
		{`payment != nil and payment.method == "card"`, []mapping.Seen{{Name: "payment", Value: "an object or a list"}, {Name: "payment.method", Value: "card"}}},
		{`lower(payment.method) in ["card"]`, []mapping.Seen{{Name: "payment.method", Value: "card"}}},
		{`any(event.items, .sku == payment.id)`, []mapping.Seen{{Name: "event.items", Value: "an object or a list"}, {Name: "payment.id", Value: "pi_1"}}},
		{`form[outcome] == "x"`, []mapping.Seen{{Name: "form", Value: "an object or a list"}, {Name: "outcome", Value: "completed"}}},
		{`form.long == ""`, []mapping.Seen{{Name: "form.long", Value: long[:197] + "…"}}},
	} {
		t.Run(tt.source, func(t *testing.T) {
			g, err := mapping.CompileGuard(tt.source)
			if err != nil {
				t.Fatal(err)
			}
			s := paid()
			s.Form = map[string]any{"long": long}
			if diff := cmp.Diff(tt.want, g.Sees(s)); diff != "" {
				t.Errorf("sees (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGuardSeesAtMost20(t *testing.T) {
	var terms []string
	for i := range 30 {
		terms = append(terms, fmt.Sprintf("form.f%d == nil", i))
	}
	g, err := mapping.CompileGuard(strings.Join(terms, " and "))
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Sees(paid()); len(got) != 20 || got[19].Name != "form.f19" {
		t.Errorf("got %v, want the first 20 names", got)
	}
}
