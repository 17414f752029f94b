package mapping

import "strings"

// template is a string with at least one expression in it.
type template struct {
	parts []part
	bare  bool // one expression and nothing around it: it keeps its type
}

// part is a piece of text or an expression.
type part struct {
	text string
	expr *expression
}

// holdsExpression reports whether s is a template. Any other string is sent as
// it is, whatever its length.
func holdsExpression(s string) bool { return strings.Contains(s, "{{") }

// compileTemplate compiles a string that holds an expression.
func compileTemplate(s, path string) (*template, error) {
	if len(s) > MaxTemplate {
		return nil, refuse(path, "a text with expressions may be %d bytes long, this one is %d", MaxTemplate, len(s))
	}
	t := &template{}
	at := 0
	for {
		open := strings.Index(s[at:], "{{")
		if open < 0 {
			break
		}
		open += at
		if open > at {
			t.parts = append(t.parts, part{text: s[at:open]})
		}
		end := expressionEnd(s, open+2)
		if end < 0 {
			return nil, refuse(path, "{{ at character %d is never closed: %q", runes(s[:open])+1, clip(s[open:]))
		}
		expr, err := compileExpression(s[open+2 : end])
		if err != nil {
			return nil, refuse(path, "%v", err)
		}
		t.parts = append(t.parts, part{expr: expr})
		at = end + 2
	}
	if at < len(s) {
		t.parts = append(t.parts, part{text: s[at:]})
	}
	t.bare = len(t.parts) == 1
	return t, nil
}

// expressionEnd finds the }} that closes an expression which starts at i. The
// braces of a map and whatever stands between quotes do not close it.
func expressionEnd(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '"', '\'', '`':
			i = quoteEnd(s, i)
		case '{':
			depth++
		case '}':
			if depth == 0 && strings.HasPrefix(s[i:], "}}") {
				return i
			}
			depth = max(depth-1, 0)
		}
	}
	return -1
}

// quoteEnd returns the index of the quote that ends the string begun at i, or
// the end of s. Only backquoted strings have no escapes.
func quoteEnd(s string, i int) int {
	quote := s[i]
	for i++; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote != '`':
			i++
		case s[i] == quote:
			return i
		}
	}
	return i
}

func runes(s string) int { return strings.Count(s, "") - 1 }
