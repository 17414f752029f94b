package relay

import (
	"strings"
	"unicode"
)

// Slug writes a label so that an expression can name it: "E-mail address?"
// becomes e_mail_address.
func Slug(label string) string {
	if isSlug(label) {
		return label
	}
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(label) {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			gap = b.Len() > 0
			continue
		}
		if gap {
			b.WriteByte('_')
			gap = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// isSlug reports whether a text is its own slug, as most names of fields are.
func isSlug(text string) bool {
	before := byte('_')
	for i := range len(text) {
		c := text[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '_' || before == '_') {
			return false
		}
		before = c
	}
	return before != '_'
}
