package platform

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"relay.example/relay/internal/relay"
)

// refuseFields refuses the fields of a that its action has no use for:
// whoever wrote one expects it to do something.
func refuseFields(a relay.Action, usable []string) error {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"module_id", a.ModuleID != nil},
		{"wait_time", a.WaitTime != nil},
		{"custom_vars", len(a.CustomVars) > 0},
		{"text", a.Text != ""},
		{"body", a.Body != nil},
		{"headers", len(a.Headers) > 0},
	} {
		if f.set && !slices.Contains(usable, f.name) {
			return relay.Errorf(relay.Invalid, "field_unusable", "%s has no use for %s: remove it, or choose another action",
				a.Action, f.name)
		}
	}
	return nil
}

// checkMessage checks an action that says a text, and does nothing else.
func checkMessage(a relay.Action) error {
	if err := refuseFields(a, []string{"text"}); err != nil {
		return err
	}
	if strings.TrimSpace(a.Text) == "" {
		return relay.Errorf(relay.Invalid, "text_required", "%s needs a text", a.Action)
	}
	return nil
}

// errNoText is what a text that came out empty is refused with: platforms
// take an empty one, and show nothing.
var errNoText = errors.New("the text came out empty")

// isExpression reports whether a field's value is only known once rendered.
func isExpression(v any) bool {
	s, ok := v.(string)
	return ok && strings.Contains(s, "{{")
}

// wholeNumber reads a whole number as JSON, YAML and expressions give it, and
// also from a text: what a form submits is always a text.
func wholeNumber(v any) (int64, bool) {
	switch v := v.(type) {
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		return n, err == nil
	case json.Number:
		return wholeNumber(v.String())
	}
	f, ok := decimal(v)
	// Beyond 2^53 a float64 is no longer the number that was written.
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// decimal reads a finite number, whole or not, or a text that is one.
func decimal(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64: // as YAML gives it
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	case json.Number:
		return decimal(v.String())
	case string:
		f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
	}
	return 0, false
}
