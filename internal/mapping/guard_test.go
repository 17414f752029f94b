package mapping_test

import (
	"strings"
	"testing"

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
