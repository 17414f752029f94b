package mapping

import (
	"regexp"
	"strings"
)

// Outbound returns s as an action sees it that leaves us: a form's text that a
// spreadsheet would compute is marked as text, by the ' that spreadsheets use
// for it. Nobody here knows into which sheet or export a platform puts what it
// is given. What is kept, and what filters see, stays as it was typed.
func (s *Scope) Outbound() *Scope {
	out := *s
	out.Form, out.env, out.decoded = harmlessObject(s.Form), nil, false
	return &out
}

// harmlessObject returns m itself where nothing in it is to be marked, as is
// nearly always so.
func harmlessObject(m map[string]any) map[string]any {
	if !holdsFormula(m) {
		return m
	}
	out := make(map[string]any, len(m))
	for name, v := range m {
		out[name] = harmless(v)
	}
	return out
}

func harmless(v any) any {
	switch v := v.(type) {
	case string:
		if isFormula(v) {
			return "'" + v
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = harmless(v[i])
		}
		return out
	case map[string]any:
		return harmlessObject(v)
	}
	return v
}

func holdsFormula(v any) bool {
	switch v := v.(type) {
	case string:
		return isFormula(v)
	case []any:
		for _, item := range v {
			if holdsFormula(item) {
				return true
			}
		}
	case map[string]any:
		for _, item := range v {
			if holdsFormula(item) {
				return true
			}
		}
	}
	return false
}

// Texts that begin like a formula, and that no sheet can make anything of but
// what they are: numbers and phone numbers, a lone sign, and a name such as
// @zoe.
var notFormulas = regexp.MustCompile(`^(?:[+-](?:[0-9(][0-9 ()./,-]*)?|@[\p{L}\p{N}_.]+)$`)

// isFormula reports whether a spreadsheet may take a text for a formula: by
// its first character, the wide ones of East Asian keyboards too.
func isFormula(text string) bool {
	for _, begin := range []string{"=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"} {
		if strings.HasPrefix(text, begin) {
			return !notFormulas.MatchString(text)
		}
	}
	return false
}
